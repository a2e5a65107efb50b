//! The cluster daemon: everything between the protocol, which is a value, and the kernel, which is a door.

pub mod clock;
pub mod connections;
pub mod control;
pub mod daemon;
pub mod event_log;
pub mod health;
pub mod heartbeat;
pub mod history;
pub mod host;
pub mod host_setup;
pub mod keeper;
pub mod nat;
pub mod neighbor;
pub mod options;
pub mod orders;
pub mod prepare;
pub mod privilege;
pub mod pulse;
pub mod realtime;
pub mod recording;
pub mod router;
pub mod snapshot;
pub mod statistics;
pub mod store;
pub mod sync;
pub mod web;
