//! The XDP packet filter of rudel and its loader.
