//! The one clock of the daemon: `CLOCK_BOOTTIME`, in nanoseconds.
//!
//! The packet filter compares the lease with the very same clock, so a lease written as "now + T'" from here means the
//! same instant there. It does not jump with the wall clock, and it goes on while the machine is suspended, as
//! `CLOCK_MONOTONIC` does not: a machine that wakes must find its lease over.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds per second.
const NANOS_PER_SEC: u64 = 1_000_000_000;

/// What `CLOCK_BOOTTIME` reads now, in nanoseconds since an arbitrary start (boot, on Linux).
///
/// Costs some tens of nanoseconds: no system call on usual machines.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // Linux never reports a negative one, and 2^64 ns are 584 years of uptime.
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
    fn goes_as_fast_as_the_clock_that_std_measures_with() {
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

    #[test]
    fn counts_the_time_in_which_the_machine_was_suspended() {
        /// Makes this test say the time, and no more: it runs itself in another namespace of time.
        const SAY: &str = "RUDEL_SAY_THE_TIME";
        if std::env::var_os(SAY).is_some() {
            println!("the time is {} ns", monotonic_ns());
            return;
        }
        // To a process in such a namespace, its machine has slept for an hour.
        let mut sleeper = std::process::Command::new("unshare");
        sleeper.args(["--time", "--boottime", "3600"]).arg(std::env::current_exe().unwrap());
        let this = "clock::tests::counts_the_time_in_which_the_machine_was_suspended";
        sleeper.args(["--exact", this, "--nocapture"]).env(SAY, "1");
        let said = sleeper.output().map_err(|error| error.to_string());
        let said = said.and_then(|said| match said.status.success() {
            true => Ok(String::from_utf8_lossy(&said.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
        });
        let said = match said {
            Ok(said) => said,
            Err(why) => {
                println!("SKIPPED: no namespace of time to be had: {}", why.trim());
                return;
            }
        };
        let (_, rest) = said.split_once("the time is ").expect("it says the time");
        let there: u64 = rest.split_once(' ').unwrap().0.parse().unwrap();
        let ahead = there.saturating_sub(monotonic_ns()) / NANOS_PER_SEC;
        assert!((3000..=3600).contains(&ahead), "{ahead} s ahead");
    }
}
