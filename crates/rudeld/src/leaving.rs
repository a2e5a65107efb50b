//! What is told of a leave that takes its time: in the log, and to systemd, which would otherwise take a node that serves
//! its connections to their end for one that hangs.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How often it is looked how far the leave is.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What has not changed is said again after so long.
const SAID_AGAIN: Duration = Duration::from_secs(30);
/// systemd is to wait for so much longer each time. A daemon that does not ask again is killed after that.
const EXTENSION: Duration = Duration::from_secs(15);

/// A daemon that takes down what it had put up, and is not done after so long, hangs: there may be hundreds of thousands
/// of connections to remove, drivers to wait for, and the administrator's program to be told.
pub(crate) const TAKE_DOWN_MAX: Duration = Duration::from_secs(60);

/// How far a leave is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Buckets that are kept for their connections.
    pub(crate) kept: usize,
    /// Connections that are open in them.
    pub(crate) connections: u32,
    /// When the last of them are cut off.
    pub(crate) left: Duration,
}

/// A daemon that was asked to leave.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    said: Option<(usize, u32, Instant)>,
}

impl Leaving {
    /// What to log, if there is news, and what to tell systemd.
    pub(crate) fn tell(&mut self, progress: Progress, now: Instant) -> (Option<String>, String) {
        let Progress { kept, connections, left } = progress;
        let text = if kept == 0 {
            "leaving: others take over".to_owned()
        } else {
            let left = left.as_secs();
            format!(
                "leaving: {} left in {}, cut off in {left} s",
                plural(connections, "connection"),
                plural(u32::try_from(kept).unwrap_or(u32::MAX), "bucket"),
            )
        };
        let is_news = self.said.is_none_or(|(last_kept, last_connections, at)| {
            (last_kept, last_connections) != (kept, connections) || now.duration_since(at) >= SAID_AGAIN
        });
        if is_news {
            self.said = Some((kept, connections, now));
        }
        (is_news.then(|| text.clone()), text)
    }
}

/// What systemd is told: how far it is, and to wait.
pub(crate) fn states(status: &str) -> [NotifyState<'_>; 2] {
    let extension = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    [NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(extension)]
}

/// What systemd is told when the node has left, and its host is put back as it was.
pub(crate) fn taking_down() -> String {
    let wait = u32::try_from(TAKE_DOWN_MAX.as_micros()).unwrap_or(u32::MAX);
    format!("{}\n{}\n", NotifyState::Status("taking everything down"), NotifyState::ExtendTimeoutUsec(wait))
}

fn plural(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_logged_and_all_of_it_told_to_systemd() {
        let mut leaving = Leaving::default();
        let begin = Instant::now();
        let mut at = |second, kept, connections| {
            let left = Duration::from_millis(300_000 - second * 1000 - 1);
            let now = begin + Duration::from_secs(second);
            leaving.tell(Progress { kept, connections, left }, now)
        };
        let news = |text: &str| (Some(text.to_owned()), text.to_owned());
        assert_eq!(at(0, 0, 0), news("leaving: others take over"));
        assert_eq!(at(1, 86, 3), news("leaving: 3 connections left in 86 buckets, cut off in 298 s"));
        let same = "leaving: 3 connections left in 86 buckets, cut off in 297 s";
        assert_eq!(at(2, 86, 3), (None, same.to_owned()));
        assert_eq!(at(3, 1, 1), news("leaving: 1 connection left in 1 bucket, cut off in 296 s"));
        assert!((4..33).all(|second| at(second, 1, 1).0.is_none()));
        assert!(at(33, 1, 1).0.is_some(), "a leave that lasts is mentioned now and then");
    }
}
