//! What `rudel status --json` prints, read as an outside program reads it: by the names that are promised, ignoring the
//! rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rudel_api::control;
use serde_json::Value;

/// One node's picture of the cluster.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One member as some node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `listening`, `joining`, `active`, `draining`, `leaving`, `fenced`.
    pub state: String,
    /// Its weight.
    pub weight: u64,
    /// The number of buckets that the view gives it.
    pub buckets: u64,
}

/// The owner of each bucket, by name.
pub type Owners = Vec<Option<String>>;

impl Status {
    /// Asks the daemon behind a control socket. It gives the tool the same text.
    pub fn ask(socket: &Path) -> Result<Self> {
        let json = control::Client::connect(socket, PATIENCE)?.status_json()?;
        Ok(Self(serde_json::from_str(json.get())?))
    }

    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }

    /// The state of the node itself.
    pub fn state(&self) -> &str {
        self.text("/state")
    }

    /// Does it pass packets at all?
    pub fn serving(&self) -> bool {
        self.0.pointer("/serving").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Is the present view in force everywhere?
    pub fn settled(&self) -> bool {
        self.0.pointer("/view/settled").and_then(Value::as_bool).unwrap_or(false)
    }

    /// The epoch and coordinator of the present view.
    pub fn view(&self) -> (u64, &str) {
        let epoch = self.0.pointer("/view/epoch").and_then(Value::as_u64).unwrap_or(0);
        (epoch, self.text("/view/coordinator"))
    }

    /// The nodes, in the order given.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.0.pointer("/nodes").and_then(Value::as_array);
        nodes
            .into_iter()
            .flatten()
            .map(|node| Member {
                name: node["name"].as_str().unwrap_or("").to_owned(),
                state: node["state"].as_str().unwrap_or("").to_owned(),
                weight: node["weight"].as_u64().unwrap_or(0),
                buckets: node["buckets"].as_u64().unwrap_or(0),
            })
            .collect()
    }

    /// The owner of each bucket.
    pub fn owners(&self) -> Owners {
        let owners = self.0.pointer("/buckets/owners").and_then(Value::as_array);
        owners.into_iter().flatten().map(|owner| owner.as_str().map(str::to_owned)).collect()
    }

    /// The history, as `(kind, node, reason)`.
    pub fn events(&self) -> Vec<(String, String, String)> {
        let events = self.0.pointer("/events").and_then(Value::as_array);
        let word = |event: &Value, key: &str| event[key].as_str().unwrap_or("").to_owned();
        events
            .into_iter()
            .flatten()
            .map(|event| (word(event, "kind"), word(event, "node"), word(event, "reason")))
            .collect()
    }

    /// Why this node is not at rest in a view of exactly the `expected` nodes, all active, with every bucket owned and
    /// equal shares; `Ok` if it is.
    pub fn at_rest_among(&self, expected: &[&str]) -> Result<(), String> {
        if self.state() != "active" {
            return Err(format!("state is {:?}", self.state()));
        }
        if !self.settled() {
            return Err(format!("view {:?} is not settled", self.view()));
        }
        let mut active: Vec<String> =
            self.members().into_iter().filter(|m| m.state == "active").map(|m| m.name).collect();
        active.sort();
        let mut wanted: Vec<&str> = expected.to_vec();
        wanted.sort_unstable();
        if active != wanted {
            return Err(format!("active nodes are {active:?}, not {wanted:?}"));
        }
        let counts = counts(&self.owners());
        if counts.values().sum::<usize>() != 256 {
            return Err(format!("not every bucket has an owner: {counts:?}"));
        }
        if !self.serving() {
            return Err("not serving".to_owned());
        }
        let owned = self.0.pointer("/buckets/owned").and_then(Value::as_u64).unwrap_or(0);
        let given = counts.get(self.text("/node")).copied().unwrap_or(0);
        if usize::try_from(owned) != Ok(given) {
            return Err(format!("owns {owned} of the {given} buckets that the view gives it"));
        }
        balanced(&counts, expected)
    }
}

/// The number of buckets of each owner.
pub fn counts(owners: &Owners) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for owner in owners.iter().flatten() {
        *counts.entry(owner.clone()).or_default() += 1;
    }
    counts
}

/// Do exactly `expected` own buckets, with numbers that differ by at most one?
pub fn balanced(counts: &BTreeMap<String, usize>, expected: &[&str]) -> Result<(), String> {
    let stranger = counts.keys().find(|name| !expected.contains(&name.as_str()));
    if let Some(stranger) = stranger {
        return Err(format!("{stranger} owns buckets: {counts:?}"));
    }
    let shares = || expected.iter().map(|name| counts.get(*name).copied().unwrap_or(0));
    let (least, most) = (shares().min().unwrap_or(0), shares().max().unwrap_or(0));
    if most - least > 1 { Err(format!("uneven shares: {counts:?}")) } else { Ok(()) }
}

/// After the loss of `gone`: has nothing moved but its buckets, and are those shared out evenly? `names` survive.
pub fn only_moved_from(before: &Owners, after: &Owners, gone: &str, names: &[&str]) -> Result<(), String> {
    for (bucket, (old, new)) in before.iter().zip(after).enumerate() {
        if old.as_deref() != Some(gone) && old != new {
            return Err(format!("bucket {bucket} moved from {old:?} to {new:?} though only {gone} has gone"));
        }
    }
    balanced(&counts(after), names)
}

/// After `came` joined: has nothing moved but what it got, and is the result even? `names` are all, it included.
pub fn only_moved_to(before: &Owners, after: &Owners, came: &str, names: &[&str]) -> Result<(), String> {
    for (bucket, (old, new)) in before.iter().zip(after).enumerate() {
        if new.as_deref() != Some(came) && old != new {
            return Err(format!("bucket {bucket} moved from {old:?} to {new:?} though only {came} has come"));
        }
    }
    balanced(&counts(after), names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owners(pattern: &str) -> Owners {
        pattern.chars().map(|c| (c != '.').then(|| format!("n{c}"))).collect()
    }

    #[test]
    fn the_promised_names_are_read() {
        let all: Vec<Value> = (0..256).map(|b| json!(format!("n{}", b % 2 + 1))).collect();
        let status = Status(json!({
            "node": "n1", "state": "active", "serving": true,
            "view": {"epoch": 12, "coordinator": "n1", "settled": true},
            "nodes": [
                {"name": "n1", "state": "active", "weight": 100, "buckets": 128},
                {"name": "n2", "state": "active", "weight": 100, "buckets": 128},
                {"name": "n3", "state": "leaving", "weight": 100, "buckets": 0}],
            "buckets": {"owned": 128, "owners": all},
            "events": [{"kind": "joined", "node": "n2", "reason": "new node heard"}]}));
        assert_eq!(status.view(), (12, "n1"));
        assert_eq!(status.at_rest_among(&["n2", "n1"]), Ok(()));
        assert!(status.at_rest_among(&["n1"]).is_err());
        assert_eq!(status.events(), [("joined".into(), "n2".into(), "new node heard".into())]);
    }

    #[test]
    fn an_empty_answer_is_not_at_rest() {
        assert!(Status(json!({})).at_rest_among(&[]).is_err());
    }

    #[test]
    fn a_needless_move_is_found() {
        let before = owners("112233");
        assert_eq!(only_moved_from(&before, &owners("112212"), "n3", &["n1", "n2"]), Ok(()));
        assert!(only_moved_from(&before, &owners("212211"), "n3", &["n1", "n2"]).is_err());
        assert!(only_moved_from(&owners("122333"), &owners("122222"), "n3", &["n1", "n2"]).is_err());
        assert_eq!(only_moved_to(&owners("1122"), &owners("1323"), "n3", &["n1", "n2", "n3"]), Ok(()));
        assert!(only_moved_to(&before, &owners("142234"), "n4", &["n1", "n2", "n3", "n4"]).is_ok());
        assert!(only_moved_to(&before, &owners("142343"), "n4", &["n1", "n2", "n3", "n4"]).is_err());
    }
}
