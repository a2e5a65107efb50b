//! One file per command: its arguments with their help, and what it does.

pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod key;
pub(crate) mod man;
pub(crate) mod order;
pub(crate) mod plan;
pub(crate) mod reload;
pub(crate) mod restart;
pub(crate) mod rotate;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod why;
