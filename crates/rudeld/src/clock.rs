//! The one clock of the daemon: `CLOCK_MONOTONIC`, in nanoseconds.
//!
//! The packet filter compares the lease with the very same clock, so a lease written as "now + T'" from here means the
//! same instant there. It does not jump with the wall clock, and it stands still while the machine is suspended.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds per second.
const NANOS_PER_SEC: u64 = 1_000_000_000;

/// What `CLOCK_MONOTONIC` reads now, in nanoseconds since an arbitrary start (boot, on Linux).
///
/// Costs some tens of nanoseconds: no system call on usual machines.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Linux never reports a negative monotonic time, and 2^64 ns are 584 years of uptime.
    now.tv_sec.unsigned_abs() * NANOS_PER_SEC + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back_and_moves_on() {
        let start = monotonic_ns();
        let mut last = start;
        while last == start {
            let now = monotonic_ns();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn is_the_clock_that_std_measures_with() {
        let std_start = std::time::Instant::now();
        let ours_start = monotonic_ns();
        let std_elapsed = loop {
            let elapsed = std_start.elapsed();
            if elapsed.as_millis() >= 5 {
                break elapsed;
            }
        };
        let ours_elapsed = monotonic_ns() - ours_start;
        assert!(ours_elapsed.abs_diff(u64::try_from(std_elapsed.as_nanos()).unwrap()) < 2_000_000);
    }
}
