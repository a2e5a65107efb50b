//! Connection state shared by routers: when a node dies or gives buckets away, the connections through it go on through
//! another.
//!
//! ```text
//!              events (ctnetlink)                  sealed multicasts
//!   kernel A ──────────────────► sync thread A ═══════════════════► sync thread B ─────► kernel B
//!   the owner's entry            Engine: told when it is 100 ms old   Engine: believed     a replica
//! ```
//!
//! - [`conntrack`] is the door to the kernel's table of connections,
//! - [`wire`] what nodes tell each other,
//! - [`engine`] decides what is told, believed and written, as a value,
//! - [`classify`] knows the bucket of a connection,
//! - [`thread`] brings them together, beside the pulse thread.

pub mod classify;
pub mod conntrack;
pub mod engine;
pub mod thread;
pub mod wire;
