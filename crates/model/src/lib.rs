//! Small clusters of the membership protocol, explored exhaustively: the production code, every fault at every
//! moment, within a budget of faults.
//!
//! Where the simulator plays many long lives by chance, this crate plays all short ones: it stops the world
//! wherever something can go wrong, tries everything that can, and goes on from each. Worlds that behave alike from
//! now on are one, so a fault-free cluster is a ring of states, and "at any moment" is finite.
//!
//! | module | holds |
//! |---|---|
//! | [`setup`] | a configuration: nodes, timers, and the budget of faults |
//! | [`configurations`] | those that are explored |
//! | [`world`] | machines, kernels, datagrams; the ordinary course and the choices |
//! | [`judge`] | what must never happen |
//! | [`explore`](mod@explore) | the exploration, recovery times, stories |

#![forbid(unsafe_code)]

pub mod configurations;
pub mod explore;
pub mod judge;
pub mod setup;
pub mod world;

pub use explore::{Counterexample, Recovery, Report, explore, story};
pub use setup::{Budget, Point, Setup};
