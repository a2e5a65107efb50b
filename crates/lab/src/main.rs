//! Clusters of network namespaces on one machine: demo, end-to-end tests, benchmarks.

fn main() {}
