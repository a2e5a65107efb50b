//! The membership protocol of rudel as a value: who is a member, and who owns which bucket.
//!
//! It has no clock, socket, thread or randomness of its own. Time and datagrams go in; datagrams, what the kernel
//! must hold, and events come out. [`Node`] is the door; `docs/protocol.md` has the rules R1 to R11, their
//! reasons and what they guarantee, and the code cites them.
//!
//! | module | decides |
//! |---|---|
//! | [`node`] | nothing: it seals and opens what [`machine`] sends and hears |
//! | [`machine`] | everything: membership, expiry, leases, views |
//! | [`share`] | who gets how many buckets, and which |
//! | [`record`] | nothing: it writes down what went in, and replays it |
//! | [`seal`] | what is authentic |
//! | [`wire`], [`view`] | what messages look like |

#![forbid(unsafe_code)]

pub mod bucket;
pub mod config;
pub mod event;
pub mod id;
pub mod machine;
pub mod node;
pub mod record;
pub mod seal;
pub mod share;
pub mod status;
pub mod text;
pub mod time;
pub mod view;
pub mod wire;

pub use config::{Config, Terms};
pub use event::Event;
pub use machine::Command;
pub use node::{Node, Output, Table};
pub use time::Time;
