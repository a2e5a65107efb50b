//! When a bucket that was given up is kept no longer: when its last connection has ended, or its time is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rudel_proto::bucket::{BUCKET_COUNT, BucketSet};

/// A bucket is kept at least so long: a handshake that was answered here may not have come back yet.
const KEPT_MIN: Duration = Duration::from_secs(1);
/// How often the kernel is asked for connections while something is kept.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The kept buckets, and since when.
#[derive(Debug, Default)]
pub struct Keeper {
    since: BTreeMap<u8, Instant>,
    connections: u32,
    /// What was still open in buckets whose time was over.
    cut_off: BTreeMap<u8, u32>,
}

impl Keeper {
    /// The packet filter keeps these now.
    pub fn set_kept(&mut self, kept: BucketSet, now: Instant) {
        if self.since.is_empty() && !kept.is_empty() {
            self.cut_off.clear();
        }
        self.since.retain(|bucket, _| kept.contains(*bucket));
        kept.iter().for_each(|bucket| {
            self.since.entry(bucket).or_insert(now);
        });
        if self.since.is_empty() {
            self.connections = 0;
        }
    }

    /// Whether it must be looked for connections.
    pub fn is_watching(&self) -> bool {
        !self.since.is_empty()
    }

    /// How many buckets are kept.
    pub fn kept(&self) -> usize {
        self.since.len()
    }

    /// For how much longer any of them is kept at most.
    pub fn left(&self, drain_timeout: Duration, now: Instant) -> Duration {
        let newest = self.since.values().max();
        newest.map_or(Duration::ZERO, |since| (*since + drain_timeout).saturating_duration_since(now))
    }

    /// Connections that were open at the last look in the buckets that were given up: in those that are kept, and in
    /// those whose time was over before their connections had ended.
    pub fn connections(&self) -> u32 {
        self.connections + self.cut_off.values().sum::<u32>()
    }

    /// Which buckets are to be kept no longer, given how many connections each has; none longer than `drain_timeout`.
    pub fn ended(
        &mut self,
        connections: &[u32; BUCKET_COUNT],
        drain_timeout: Duration,
        now: Instant,
    ) -> BucketSet {
        self.connections = 0;
        let mut ended = BucketSet::EMPTY;
        for (bucket, since) in &self.since {
            let (open, age) = (connections[usize::from(*bucket)], now.duration_since(*since));
            if age >= drain_timeout {
                self.cut_off.insert(*bucket, open);
                ended.insert(*bucket);
                continue;
            }
            self.connections += open;
            if age >= KEPT_MIN && open == 0 {
                ended.insert(*bucket);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(300);
    const NONE: [u8; 0] = [];

    fn keeper(buckets: &[u8]) -> (Keeper, Instant) {
        let (mut keeper, begin) = (Keeper::default(), Instant::now());
        keeper.set_kept(buckets.iter().copied().collect(), begin);
        (keeper, begin)
    }

    fn open(buckets: &[u8]) -> [u32; BUCKET_COUNT] {
        let mut counts = [0; BUCKET_COUNT];
        buckets.iter().for_each(|bucket| counts[usize::from(*bucket)] += 1);
        counts
    }

    /// What is still to be kept.
    fn after(keeper: &mut Keeper, begin: Instant, seconds: u64, buckets: &[u8]) -> Vec<u8> {
        let ended = keeper.ended(&open(buckets), DRAIN, begin + Duration::from_secs(seconds));
        keeper.since.keys().copied().filter(|bucket| !ended.contains(*bucket)).collect()
    }

    #[test]
    fn a_bucket_is_kept_until_its_last_connection_has_ended() {
        let (mut keeper, begin) = keeper(&[1, 2]);
        assert_eq!(after(&mut keeper, begin, 0, &[]), [1, 2], "handshakes may be under way");
        assert_eq!(after(&mut keeper, begin, 2, &[2, 2, 9]), [2]);
        assert_eq!(keeper.connections(), 2, "bucket 9 is not kept");
        keeper.set_kept([2].into_iter().collect(), begin);
        assert_eq!(after(&mut keeper, begin, 3, &[]), NONE);
        keeper.set_kept(BucketSet::EMPTY, begin);
        assert!(!keeper.is_watching());
    }

    #[test]
    fn no_bucket_is_kept_longer_than_the_drain_timeout() {
        let (mut keeper, begin) = keeper(&[1]);
        assert_eq!(after(&mut keeper, begin, 299, &[1]), [1]);
        assert_eq!(after(&mut keeper, begin, 300, &[1]), NONE);
        assert_eq!(keeper.connections(), 1, "it had not ended");
        after(&mut keeper, begin, 300, &[1]);
        assert_eq!(keeper.connections(), 1, "counted once, should the filter be slow to let go");
        keeper.set_kept(BucketSet::EMPTY, begin);
        assert_eq!(keeper.connections(), 1, "until something is kept anew");
        keeper.set_kept([1].into_iter().collect(), begin);
        assert_eq!(keeper.connections(), 0);
        let all = keeper.ended(&open(&[1]), Duration::ZERO, begin);
        assert!(all.contains(1), "a time-out of zero keeps nothing");
    }

    #[test]
    fn a_bucket_that_comes_and_goes_again_is_kept_anew() {
        let (mut keeper, begin) = keeper(&[1]);
        keeper.set_kept(BucketSet::EMPTY, begin + Duration::from_secs(100));
        keeper.set_kept([1].into_iter().collect(), begin + Duration::from_secs(200));
        assert_eq!(after(&mut keeper, begin, 400, &[1]), [1]);
    }
}
