//! The cluster's own table in nftables: source NAT with a port block for each bucket, static destination NAT, and the
//! sender of router advertisements.
//!
//! ```text
//!  configuration ─► rules::Ruleset ─► host (noted in the journal, loaded as one, removed on leaving)
//!                        │
//!                        └─► Watch, once a second: has anybody changed it? ─► loaded again
//!                            kernel's counters of connection tracking      ─► connections that found no port
//! ```
//!
//! The table is the same on every node and does not change when buckets move: it maps flows to buckets by the same hash
//! as the filter, and only the filter's table says whose bucket that is.

mod conntrack;
mod guard;
mod rules;
mod watch;

pub use conntrack::insert_failed;
pub use guard::{Finding, Guard};
pub use rules::ruleset;
pub use watch::Watch;
