//! The packet filter of a rudel node, and the door to it.
//!
//! Every node of a cluster receives every frame to the cluster's MAC address. The filter, an XDP program, sorts the
//! flows into 256 buckets by a hash that all nodes compute alike, and passes up the stack only packets of the buckets
//! that this node owns, and only while the node's lease holds. What it decides, and in which order, is told in
//! `docs/datapath.md`.
//!
//! ```text
//!              protocol's decisions                    what really happened
//!   daemon ──► write_table, write_lease ──┐       ┌──► counters, bucket_counters, probes ──► daemon
//!                                         ▼       │
//!   bpffs    buckets · lease · counters · bucket_counters · probes · slots · memo · abi     link_<ifindex>
//!                                         │       ▲                                              │
//!   wire ───────────────────────────► filter.bpf.c, one instance per interface ◄────────────────┘
//! ```
//!
//! What this crate decides: where a packet goes, given a table and a lease. What it does not: who owns a bucket, and
//! until when; it takes no part in the protocol and reads no configuration file.
//!
//! - [`flow`] is the same hash in Rust, [`border`] what a router has beside it: everything here that needs neither clang
//!   nor a kernel.
//! - [`Datapath`] is the door that the daemon knocks at, [`Xdp`] is what stands behind it.
//! - [`Aside`] is what came for a bucket whose owner is not heard, and [`Gate`] the way by which it goes through the filter
//!   again.
//! - The kernel's state outlives the daemon on purpose: dropping an [`Xdp`] leaves the filter attached and the maps
//!   pinned, and the lease makes it fall silent. [`Xdp::open`] takes over what a predecessor left; [`Xdp::release`]
//!   removes everything.

mod abi;
#[cfg(feature = "xdp")]
mod aside;
pub mod border;
#[cfg(feature = "xdp")]
mod bpffs;
pub mod checksum;
mod counters;
#[cfg(feature = "xdp")]
mod device;
mod door;
mod error;
#[cfg(feature = "xdp")]
mod filter;
pub mod flow;
#[cfg(feature = "xdp")]
mod heard;
#[cfg(feature = "xdp")]
mod lease_word;
#[cfg(feature = "xdp")]
mod pins;
pub mod probe;
#[cfg(feature = "xdp")]
mod refusal;
#[cfg(feature = "xdp")]
mod sys;
mod table;
#[cfg(feature = "xdp")]
mod xdp;

pub use border::Border;
pub use counters::{BucketCount, Count, InterfaceCounters, ProbeCount, Verdict};
pub use door::Datapath;
pub use error::{Error, Result};
pub use flow::{Flow, FlowKey, HashMode, Side};
pub use table::{BUCKET_COUNT, BucketState, BucketTable, LeaseUntil};

#[cfg(feature = "xdp")]
pub use aside::{Aside, Direction, Gate, Segment};
#[cfg(feature = "xdp")]
pub use bpffs::{Bpffs, ensure_bpffs, is_bpffs};
#[cfg(feature = "xdp")]
pub use filter::{Action, DryRun, Filter};
#[cfg(feature = "xdp")]
pub use heard::Heard;
#[cfg(feature = "xdp")]
pub use pins::{Left, clean, fence, look};
#[cfg(feature = "xdp")]
pub use xdp::{AttachMode, InterfaceOptions, MEMO_BYTES_MAX, Mode, Options, Xdp};
