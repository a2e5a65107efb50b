//! A deterministic world for the membership protocol.
