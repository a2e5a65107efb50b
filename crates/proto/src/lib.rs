//! The membership protocol of rudel as a value: no clock, no socket, no thread.
