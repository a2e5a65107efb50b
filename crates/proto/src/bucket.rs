//! Buckets: the 256 hash classes of flows, and sets of them.

use std::fmt;
use std::ops::{BitAnd, BitOr, Sub};

use serde::{Deserialize, Serialize};

/// How many classes the packet filter hashes flows into.
pub const BUCKET_COUNT: usize = 256;

/// A set of buckets, one bit each; bucket `b` is bit `b % 64` of word `b / 64`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketSet([u64; 4]);

impl BucketSet {
    /// No bucket.
    pub const EMPTY: BucketSet = BucketSet([0; 4]);
    /// Every bucket.
    pub const ALL: BucketSet = BucketSet([u64::MAX; 4]);

    /// The buckets of which `is_in` says so.
    pub fn from_fn(mut is_in: impl FnMut(usize) -> bool) -> Self {
        BucketSet(std::array::from_fn(|word| {
            (0..64).fold(0, |bits, bit| bits | u64::from(is_in(word * 64 + bit)) << bit)
        }))
    }

    /// Whether `bucket` is in the set.
    pub fn contains(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket / 64)] >> (bucket % 64) & 1 == 1
    }

    /// Puts `bucket` into the set.
    pub fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket / 64)] |= 1 << (bucket % 64);
    }

    /// Takes `bucket` out of the set.
    pub fn remove(&mut self, bucket: u8) {
        self.0[usize::from(bucket / 64)] &= !(1 << (bucket % 64));
    }

    /// How many buckets are in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no bucket is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The buckets of the set in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + use<> {
        let set = *self;
        (0..=u8::MAX).filter(move |bucket| set.contains(*bucket))
    }

    /// The set as it travels: 32 bytes, bucket 0 in the lowest bit of the first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`BucketSet::to_bytes`].
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
        }
        BucketSet(words)
    }
}

impl FromIterator<u8> for BucketSet {
    fn from_iter<I: IntoIterator<Item = u8>>(buckets: I) -> Self {
        let mut set = BucketSet::EMPTY;
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

impl BitAnd for BucketSet {
    type Output = BucketSet;

    fn bitand(self, other: BucketSet) -> BucketSet {
        BucketSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }
}

impl BitOr for BucketSet {
    type Output = BucketSet;

    fn bitor(self, other: BucketSet) -> BucketSet {
        BucketSet(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }
}

impl Sub for BucketSet {
    type Output = BucketSet;

    fn sub(self, other: BucketSet) -> BucketSet {
        BucketSet(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }
}

impl fmt::Debug for BucketSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/256", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set: BucketSet = [0, 63, 64, 255].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        set.remove(64);
        assert_eq!(set.len(), 3);
        assert_eq!((BucketSet::ALL - set).len(), 253);
        assert_eq!(BucketSet::from_bytes(set.to_bytes()), set);
        assert!(set.contains(63) && !set.contains(64));
    }
}
