//! The control tool of the rudel cluster daemon.

fn main() {}
