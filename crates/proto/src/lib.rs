//! lib
#![forbid(unsafe_code)]
pub mod bucket;
pub mod config;
pub mod id;
pub mod seal;
pub mod share;
pub mod time;
pub mod view;
pub mod wire;
