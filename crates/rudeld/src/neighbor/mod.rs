//! ARP and neighbour discovery for the cluster's addresses.
//!
//! The kernel knows them (they are on `lo`) but does not answer for them. The daemon does, on one node elected per
//! asker, with an Ethernet source of the NIC's own and the cluster's MAC inside; and it notices anybody else who claims
//! one of them.

pub mod arp;
mod askers;
mod election;
pub mod ethernet;
pub mod ndp;
mod responder;

pub use askers::Askers;
pub use election::{ASKED_AGAIN_NS, Election, ServingNodes};
pub use responder::{Claim, Counts, ProtocolCounts, Responder, ResponderInterface, announce};
