//! How late, and how long: distributions that the pulse thread can keep for a few comparisons each, without allocation.

use std::time::Duration;

use rudel_proto::Time;

/// How many bounds a histogram has.
pub const BOUNDS: usize = 14;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Upper bounds for the lateness of a timer, in nanoseconds: 50 µs, the slack of a normal thread's timers, to 1 s.
const LATENESS_BOUNDS_NS: [u64; BOUNDS] = [
    50 * US,
    100 * US,
    200 * US,
    500 * US,
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    1_000 * MS,
];

/// Upper bounds for the time that a takeover takes, in nanoseconds: ten times those, 500 µs to 10 s.
const TAKEOVER_BOUNDS_NS: [u64; BOUNDS] = {
    let mut bounds = LATENESS_BOUNDS_NS;
    let mut i = 0;
    while i < BOUNDS {
        bounds[i] *= 10;
        i += 1;
    }
    bounds
};

/// How often something took how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds_ns: &'static [u64; BOUNDS],
    /// By the first bound that is not exceeded; the last are those that exceed all.
    counts: [u64; BOUNDS + 1],
    sum_ns: u64,
}

impl Histogram {
    /// Of the lateness of timers.
    pub const fn lateness() -> Self {
        Histogram { bounds_ns: &LATENESS_BOUNDS_NS, counts: [0; BOUNDS + 1], sum_ns: 0 }
    }

    /// Of the length of takeovers.
    pub const fn takeover() -> Self {
        Histogram { bounds_ns: &TAKEOVER_BOUNDS_NS, counts: [0; BOUNDS + 1], sum_ns: 0 }
    }

    /// Counts one.
    pub fn observe(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let slot = self.bounds_ns.iter().position(|bound| ns <= *bound).unwrap_or(BOUNDS);
        self.counts[slot] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long all took together, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Each bound in seconds, the last infinite, with the count of those that exceed only the bounds before.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds_ns.iter().map(|ns| *ns as f64 / 1e9).chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }
}

/// The worst of late: of the last [`Recent::WINDOW`] at least, and of twice that at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    begin: Option<Time>,
    present_ns: u64,
    former_ns: u64,
}

impl Recent {
    /// The shortest time that is looked back on.
    pub const WINDOW: Duration = Duration::from_secs(10);

    /// Counts one.
    pub fn observe(&mut self, now: Time, ns: u64) {
        match self.begin.map(|begin| now.since(begin)) {
            Some(age) if age < Self::WINDOW => self.present_ns = self.present_ns.max(ns),
            age => {
                let follows = age.is_some_and(|age| age < 2 * Self::WINDOW);
                self.former_ns = if follows { self.present_ns } else { 0 };
                (self.begin, self.present_ns) = (Some(now), ns);
            }
        }
    }

    /// The worst, in nanoseconds.
    pub fn worst_ns(&self) -> u64 {
        self.present_ns.max(self.former_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_below_the_first_bound_that_it_does_not_exceed() {
        for histogram in [Histogram::lateness(), Histogram::takeover()] {
            assert!(histogram.bounds_ns.windows(2).all(|pair| pair[0] < pair[1]));
        }
        let mut histogram = Histogram::lateness();
        for us in [0, 50, 51, 1_000, 999_999, 1_000_000, 1_000_001, 7_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let counts: Vec<u64> = histogram.buckets().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2]);
        assert_eq!(histogram.buckets()[4].0, 0.001);
        assert_eq!(histogram.buckets()[BOUNDS].0, f64::INFINITY);
        assert_eq!(histogram.count(), 8);
        assert!((histogram.sum_seconds() - 10.001_101).abs() < 1e-9);
    }

    #[test]
    fn the_worst_is_forgotten_after_a_while() {
        let at = |s: u64| Time::from_nanos(s * 1_000_000_000);
        let mut recent = Recent::default();
        recent.observe(at(100), 7);
        recent.observe(at(101), 5);
        assert_eq!(recent.worst_ns(), 7);
        recent.observe(at(111), 1);
        assert_eq!(recent.worst_ns(), 7, "it may have been a moment ago");
        recent.observe(at(121), 2);
        assert_eq!(recent.worst_ns(), 2);
        recent.observe(at(900), 1);
        assert_eq!(recent.worst_ns(), 1);
    }
}
