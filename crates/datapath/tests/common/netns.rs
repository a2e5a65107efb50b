//! Network namespaces of this test alone.
