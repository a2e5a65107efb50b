//! What came of reading the configuration again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;
use crate::words::words;

/// A key that has, or is to have, another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key, such as `heartbeat.timeout`, `interface.eth0.addresses`, `health.web`.
    pub key: String,
    /// Its value before; `none` for what was not there.
    pub from: String,
    /// Its value after; `none` for what goes.
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.from, self.to)
    }
}

words! {
    /// What came of a reload.
    pub enum ReloadResult {
        /// Everything that the file says is in force.
        Applied = "applied",
        /// Some of it is in force when all nodes have read the same.
        Pending = "pending",
        /// The file cannot be followed by a running daemon, or by none; nothing has changed.
        Refused = "refused",
        /// This host could not follow it; nothing has changed.
        Failed = "failed",
        /// A result that this version does not know.
        #[serde(other)]
        Unknown = "unknown",
    }
}

/// The last reload of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// When the file was read.
    pub at: Timestamp,
    /// What has come of it until now.
    pub result: ReloadResult,
    /// What it has changed.
    pub applied: Vec<Change>,
    /// What it, or one before it, is to change when all nodes have read the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Change>,
    /// The nodes that keep it pending: they have not read the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// Why it was refused, or failed: as at a start, in several lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Reload {
    /// What it waits for, in a sentence without its beginning and end; none if it waits for nothing.
    pub fn waiting(&self) -> Option<String> {
        if self.pending.is_empty() {
            return None;
        }
        let pending: Vec<String> = self.pending.iter().map(ToString::to_string).collect();
        let who = match &self.waiting_for[..] {
            [] => "all nodes to follow".to_owned(),
            nodes => format!("{} to reload", nodes.join(", ")),
        };
        Some(format!("waiting for {who}: {}", pending.join("; ")))
    }

    /// Why nothing was changed, in one line; none unless it was refused, or failed.
    pub fn refusal(&self) -> Option<String> {
        if !matches!(self.result, ReloadResult::Refused | ReloadResult::Failed) {
            return None;
        }
        let first = self.reason.iter().flat_map(|reason| reason.lines()).next().unwrap_or("no reason given");
        Some(format!("the last reload was {}, and nothing was changed: {first}", self.result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_its_first_line_and_a_success_is_none() {
        let reason = Some("error: unknown key `colour`\n --> rudel.toml".to_owned());
        let mut reload = Reload {
            at: Timestamp::now(),
            result: ReloadResult::Refused,
            applied: Vec::new(),
            pending: Vec::new(),
            waiting_for: Vec::new(),
            reason,
        };
        assert_eq!(
            reload.refusal().as_deref(),
            Some("the last reload was refused, and nothing was changed: error: unknown key `colour`")
        );
        let json = serde_json::to_string(&reload).unwrap();
        assert_eq!(serde_json::from_str::<Reload>(&json).unwrap(), reload);
        reload.result = ReloadResult::Applied;
        assert_eq!(reload.refusal(), None);
    }
    #[test]
    fn a_pending_reload_says_what_it_waits_for() {
        let change = Change { key: "heartbeat.timeout".into(), from: "400ms".into(), to: "1s".into() };
        let mut reload = Reload {
            at: Timestamp::now(),
            result: ReloadResult::Pending,
            applied: Vec::new(),
            pending: vec![change],
            waiting_for: vec!["n2".into(), "n3".into()],
            reason: None,
        };
        assert_eq!(
            reload.waiting().as_deref(),
            Some("waiting for n2, n3 to reload: heartbeat.timeout: 400ms -> 1s")
        );
        reload.result = ReloadResult::Refused;
        assert!(reload.waiting().is_some(), "what a former reload has begun goes on");
        reload.pending.clear();
        assert_eq!(reload.waiting(), None);
    }
}
