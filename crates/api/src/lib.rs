//! Words shared by rudeld and rudel: configuration, control requests, snapshots.
