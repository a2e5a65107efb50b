//! What the filter is told: the state of each bucket, and until when it may serve.

/// Hash classes of flows. A bucket is a `u8`.
pub const BUCKET_COUNT: usize = 256;

/// State of a bucket on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BucketState {
    /// Another node's, or nobody's: its packets are dropped.
    #[default]
    Ignored = 0,
    /// Ours: its packets are passed while the lease holds.
    Owned = 1,
    /// Ours, while another node keeps connections of it: as [`Self::Owned`], but TCP segments of connections that
    /// this node does not know are left to the keeper. New connections come here.
    OwnedWhileKept = 2,
    /// Given up, with connections still open here: while the lease holds, TCP segments of connections that this node
    /// knows are passed, and nothing else.
    Kept = 3,
    /// Another node's, of whom nothing has been heard for a while: as [`Self::Ignored`], but TCP segments are set aside, for
    /// whoever takes the bucket over (see [`crate::Aside`]).
    Watched = 4,
    /// Both: what is not passed of a kept bucket is set aside while its owner is not heard.
    KeptWatched = 5,
}

impl BucketState {
    /// The state that the filter reads from a byte of its table: an unknown byte passes nothing.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Owned,
            2 => Self::OwnedWhileKept,
            3 => Self::Kept,
            4 => Self::Watched,
            5 => Self::KeptWatched,
            _ => Self::Ignored,
        }
    }

    /// Does the filter pass new connections of such a bucket while the lease holds?
    pub const fn passes(self) -> bool {
        matches!(self, Self::Owned | Self::OwnedWhileKept)
    }
}

/// The state of every bucket on this node.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketTable([BucketState; BUCKET_COUNT]);

impl BucketTable {
    /// The table of a node that owns nothing.
    pub const IGNORED: Self = Self([BucketState::Ignored; BUCKET_COUNT]);
    /// The table of a node that is alone.
    pub const OWNED: Self = Self([BucketState::Owned; BUCKET_COUNT]);

    /// A table from its states, bucket 0 first.
    pub const fn new(states: [BucketState; BUCKET_COUNT]) -> Self {
        Self(states)
    }

    /// A table of which just these buckets are owned.
    pub fn owning(buckets: impl IntoIterator<Item = u8>) -> Self {
        let mut table = Self::IGNORED;
        for bucket in buckets {
            table.set(bucket, BucketState::Owned);
        }
        table
    }

    /// The state of a bucket.
    pub const fn get(&self, bucket: u8) -> BucketState {
        self.0[bucket as usize]
    }

    /// Changes the state of a bucket.
    pub const fn set(&mut self, bucket: u8, state: BucketState) {
        self.0[bucket as usize] = state;
    }

    /// Every bucket with its state, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, BucketState)> + '_ {
        (0..=u8::MAX).zip(self.0.iter().copied())
    }

    /// How many buckets are in this state.
    pub fn count(&self, state: BucketState) -> usize {
        self.0.iter().filter(|known| **known == state).count()
    }

    /// As the filter's map holds it.
    pub fn to_bytes(&self) -> [u8; BUCKET_COUNT] {
        self.0.map(|state| state as u8)
    }

    /// From the filter's map. See [`BucketState::from_byte`] for unknown bytes.
    pub fn from_bytes(bytes: &[u8; BUCKET_COUNT]) -> Self {
        Self(bytes.map(BucketState::from_byte))
    }
}

impl Default for BucketTable {
    fn default() -> Self {
        Self::IGNORED
    }
}

impl From<[BucketState; BUCKET_COUNT]> for BucketTable {
    fn from(states: [BucketState; BUCKET_COUNT]) -> Self {
        Self(states)
    }
}

impl std::fmt::Debug for BucketTable {
    /// One character per bucket: `.` ignored, `#` owned, `+` owned while kept, `-` kept, `?` watched.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let picture: String = self
            .0
            .iter()
            .map(|state| match state {
                BucketState::Ignored => '.',
                BucketState::Owned => '#',
                BucketState::OwnedWhileKept => '+',
                BucketState::Kept => '-',
                BucketState::Watched => '?',
                BucketState::KeptWatched => '!',
            })
            .collect();
        write!(f, "BucketTable({picture})")
    }
}

/// The instant from which the filter passes nothing more, in nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseUntil(u64);

impl LeaseUntil {
    /// A lease that does not hold at any time.
    pub const LAPSED: Self = Self(0);

    /// `ns` of `CLOCK_BOOTTIME`; 0 is [`Self::LAPSED`].
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_states_are_each_other_s_inverse() {
        let mut table = BucketTable::owning([0, 7, 255]);
        table.set(8, BucketState::OwnedWhileKept);
        table.set(9, BucketState::Kept);
        table.set(10, BucketState::Watched);
        assert_eq!(BucketTable::from_bytes(&table.to_bytes()), table);
        assert_eq!(table.count(BucketState::Owned), 3);
        assert_eq!(table.get(255), BucketState::Owned);
        assert_eq!(table.iter().filter(|(_, state)| state.passes()).count(), 4);
    }

    #[test]
    fn an_unknown_state_passes_nothing() {
        assert!((4..=u8::MAX).all(|byte| !BucketState::from_byte(byte).passes()));
    }
}
