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
    /// What came of it.
    pub result: ReloadResult,
    /// What it has changed.
    pub applied: Vec<Change>,
    /// Why it was refused, or failed: as at a start, in several lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Reload {
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
        let mut reload =
            Reload { at: Timestamp::now(), result: ReloadResult::Refused, applied: Vec::new(), reason };
        assert_eq!(
            reload.refusal().as_deref(),
            Some("the last reload was refused, and nothing was changed: error: unknown key `colour`")
        );
        let json = serde_json::to_string(&reload).unwrap();
        assert_eq!(serde_json::from_str::<Reload>(&json).unwrap(), reload);
        reload.result = ReloadResult::Applied;
        assert_eq!(reload.refusal(), None);
    }
}
