//! A deterministic world for the membership protocol: the production code on simulated machines and wires.
//!
//! One seed decides everything. True time is the world's; each machine has a clock of its own, a daemon that may
//! hang between any two of its steps, and a kernel that goes on passing packets, while its lease lasts, whatever
//! becomes of the daemon. What the kernels would *pass* is what the judge looks at after every step, not what the
//! daemons believe.
//!
//! | module | holds |
//! |---|---|
//! | [`world`] | true time, machines, and what can befall them |
//! | [`network`] | loss, delay, cuts; which nodes "can hear each other" |
//! | `world::proof` | the steps of the proof: promises kept, debts paid, words true when others act on them |
//! | `judge` | S1 to S3, exact quotas, least movement, gaps in service |
//! | [`class`], [`script`] | random worlds of many kinds; playing and shortening them |
//! | [`cluster`] | worlds that read like stories |

#![forbid(unsafe_code)]

mod adversary;
pub mod class;
pub mod clock;
pub mod cluster;
mod host;
mod judge;
pub mod network;
mod reload;
pub mod replay;
mod rng;
pub mod script;
mod server;
mod words;
pub mod world;

pub use class::{CLASSES, Class};
pub use cluster::Cluster;
pub use host::Point;
pub use judge::{Blackouts, Violation};
pub use rng::Rng;
pub use script::{Outcome, Script};
pub use server::{Asking, Server};
pub use world::{Deed, Settings, World};
