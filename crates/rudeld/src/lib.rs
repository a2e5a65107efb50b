//! The cluster daemon: everything between the protocol, which is a value, and the kernel, which is a door.

pub mod clock;
pub mod heartbeat;
pub mod host;
pub mod neighbor;
