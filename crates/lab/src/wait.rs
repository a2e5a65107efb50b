//! Waiting for something that can be observed, never for a time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often an observation is repeated.
const POLL: Duration = Duration::from_millis(10);

/// Repeats `look` until it succeeds, for at most `deadline`. On time-out the error holds what the last look saw.
///
/// ```
/// # use std::time::Duration;
/// let mut looks = 0;
/// let seen = rudel_lab::wait_until(Duration::from_secs(1), "the third look", || {
///     looks += 1;
///     if looks == 3 { Ok("done") } else { Err(format!("look {looks}")) }
/// });
/// assert_eq!(seen.unwrap(), "done");
/// ```
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            // The look itself may take long: a last one after the deadline is not owed.
            Err(difference) if start.elapsed() >= deadline => {
                bail!("waited {:.1} s for {what}; at last: {difference}", start.elapsed().as_secs_f64())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_tells_the_last_difference() {
        let mut count = 0;
        let error = wait_until(Duration::from_millis(50), "pigs to fly", || -> Result<(), String> {
            count += 1;
            Err(format!("{count} on the ground"))
        })
        .expect_err("they do not");
        let text = error.to_string();
        assert!(text.contains("pigs to fly") && text.ends_with(&format!("{count} on the ground")), "{text}");
    }

    #[test]
    fn an_immediate_success_does_not_sleep() {
        let start = Instant::now();
        wait_until(Duration::from_secs(5), "nothing", || Ok(())).expect("true at once");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
