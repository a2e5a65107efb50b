//! Words shared by `rudeld` and `rudel`: configuration, control requests, snapshots.
//!
//! Everything here is data and its text forms. The only input and output are reading a configuration or a key file
//! and the blocking [`control::Client`] of the tool.
//!
//! | module | holds |
//! |---|---|
//! | [`check`] | what `rudel check` finds, by name |
//! | [`config`] | the configuration file: read strictly, refused with line, column and advice |
//! | [`key`] | the cluster key file |
//! | [`control`] | the protocol of the control socket, and its client |
//! | [`snapshot`] | the cluster as one node sees it: `rudel status --json` |
//! | [`reload`] | what came of reading the configuration again |
//! | [`event`] | what happened, when, to whom, and why |
//! | [`flow`] | a flow as an administrator writes it: `rudel why` |
#![forbid(unsafe_code)]

pub mod check;
pub mod config;
pub mod control;
pub mod event;
pub mod flow;
pub mod key;
pub mod reload;
pub mod snapshot;
pub mod timestamp;
mod words;

pub use rudel_proto::id::{ClusterName, NodeName};
