//! The door between the daemon and the packet filter.

use crate::{
    counters::{BucketCount, InterfaceCounters, ProbeCount},
    error::Result,
    table::{BucketTable, LeaseUntil},
};

/// What the daemon asks of a packet filter that is in place. [`crate::Xdp`] is the real one.
///
/// No method blocks on anything but the kernel's own bookkeeping: a write is one store or one system call.
pub trait Datapath {
    /// Replaces the states of all buckets.
    ///
    /// One call; each bucket changes at one instant, all of them within the same microsecond, in no particular order.
    /// On an error the table is as it was.
    fn write_table(&mut self, table: &BucketTable) -> Result<()>;

    /// Moves the lease, by one store. From that instant on the filter passes nothing.
    ///
    /// Whether a lapsed lease may be moved at all is the protocol's question (`docs/protocol.md`, R4).
    fn write_lease(&mut self, until: LeaseUntil) -> Result<()>;

    /// The states that the filter goes by.
    fn read_table(&self) -> Result<BucketTable>;

    /// The lease as it was last written, by whomever.
    fn read_lease(&self) -> Result<LeaseUntil>;

    /// Counters of every interface that carries the filter.
    fn counters(&self) -> Result<Vec<InterfaceCounters>>;

    /// Counters of every bucket, bucket 0 first; always [`crate::BUCKET_COUNT`] of them.
    fn bucket_counters(&self) -> Result<Vec<BucketCount>>;

    /// The probes heard, by sender and interface, in no particular order.
    fn probes(&self) -> Result<Vec<ProbeCount>>;

    /// Leaves bytes for the successor beside the maps, for instance who this node was in which view. They are as
    /// durable as the maps, and mean nothing to this crate. To readers in other processes it is one store or none:
    /// the kernel has it as a whole before it replaces what was there.
    fn write_memo(&mut self, memo: &[u8]) -> Result<()>;

    /// Makes this node silent at once, and leaves nothing to go on with: the lease first, then every bucket, then the
    /// memo. Who begins anew on these maps would give a successor its own lease beside the memo of somebody else.
    fn clear(&mut self) -> Result<()> {
        self.write_lease(LeaseUntil::LAPSED)?;
        self.write_table(&BucketTable::IGNORED)?;
        self.write_memo(&[])
    }
}
