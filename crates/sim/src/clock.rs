//! Clocks that disagree about the origin and, a little, about the rate.

use rudel_proto::Time;

/// An instant of true time, in nanoseconds since the world began. No node can see it.
pub type Moment = u64;

/// Clocks may be this many millionths fast or slow: 1 %.
pub const RATE_PPM_MAX: i64 = 10_000;

/// One machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: u64,
    rate_millionths: u64,
}

impl Clock {
    /// A clock that shows `origin` when the world begins and gains `ppm` millionths.
    pub fn new(origin: u64, ppm: i64) -> Self {
        let ppm = ppm.clamp(-RATE_PPM_MAX, RATE_PPM_MAX);
        Clock { origin, rate_millionths: (1_000_000 + ppm) as u64 }
    }

    /// What it shows at a moment.
    pub fn read(&self, moment: Moment) -> Time {
        // Asked at every step; in the first hours 64 bits will do.
        let elapsed = match moment.checked_mul(self.rate_millionths) {
            Some(millionths) => millionths / 1_000_000,
            None => (u128::from(moment) * u128::from(self.rate_millionths) / 1_000_000) as u64,
        };
        Time::from_nanos(self.origin + elapsed)
    }

    /// The first moment at which it shows `time` or more.
    pub fn moment(&self, time: Time) -> Moment {
        let elapsed = u128::from(time.as_nanos().saturating_sub(self.origin));
        (elapsed * 1_000_000).div_ceil(u128::from(self.rate_millionths)).min(u128::from(u64::MAX)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_first_at_which_the_clock_shows_the_time() {
        for ppm in [-10_000, -1, 0, 3, 10_000] {
            let clock = Clock::new(77, ppm);
            for nanos in [77, 78, 1_000_000_007, 86_400_000_000_000] {
                let moment = clock.moment(Time::from_nanos(nanos));
                assert!(clock.read(moment) >= Time::from_nanos(nanos));
                assert!(moment == 0 || clock.read(moment - 1) < Time::from_nanos(nanos));
            }
        }
    }
}
