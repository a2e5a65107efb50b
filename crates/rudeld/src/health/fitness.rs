//! Everything that makes this node unhealthy, in one place.

use std::collections::BTreeMap;

use rudel_proto::Command;

use super::Checks;

/// What can make a node unhealthy, in the order in which it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// A cluster interface without a carrier, by its name.
    Carrier(String),
    /// A cluster interface that receives nothing for the cluster's MAC, by its name.
    Deaf(String),
    /// A health check, by its place in the configuration.
    Check(usize),
    /// The connections of the other routers are not known yet.
    Connections,
}

/// This node's fitness as the protocol is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Whether nothing is wrong but what its health checks say.
    able: bool,
    /// Whether any has: without one, nothing can be served whoever else can.
    connected: bool,
    /// The verdict on all health checks.
    good: bool,
    /// Whether the last answer of none was bad.
    last_good: bool,
    /// The last examination that all of them have answered.
    answered: u32,
}

impl Word {
    /// It, in the protocol's words.
    pub const fn commands(self) -> [Command; 3] {
        let Word { able, connected, good, last_good, answered } = self;
        [
            Command::Connected(connected),
            Command::Healthy(able),
            Command::Checked { good, last_good, answered },
        ]
    }
}

/// Whether this node can serve, and every reason why not.
#[derive(Clone, Debug)]
pub struct Fitness {
    /// How many interfaces the cluster has on this node.
    interfaces: usize,
    reasons: BTreeMap<Cause, String>,
}

impl Fitness {
    /// Nothing is wrong with a node of so many cluster interfaces.
    pub const fn new(interfaces: usize) -> Self {
        Fitness { interfaces, reasons: BTreeMap::new() }
    }

    /// The carrier of a cluster interface is there, or not.
    pub fn set_carrier(&mut self, interface: &str, carrier: bool) {
        let wrong = (!carrier).then(|| format!("{interface} has no carrier"));
        self.set(Cause::Carrier(interface.to_owned()), wrong);
    }

    /// A cluster interface hears nothing, for this reason, or does.
    pub fn set_deaf(&mut self, interface: &str, reason: Option<String>) {
        self.set(Cause::Deaf(interface.to_owned()), reason);
    }

    /// What the health checks have come to.
    pub fn set_checks(&mut self, checks: &Checks) {
        self.reasons.retain(|cause, _| !matches!(cause, Cause::Check(_)));
        for (index, wrong) in checks.wrong().enumerate() {
            self.set(Cause::Check(index), wrong);
        }
    }

    /// Whether this router knows the connections of the others, so that it can take over what they give.
    pub fn set_connections(&mut self, known: bool) {
        let wrong = (!known).then(|| "the connections of the other routers are not known yet".to_owned());
        self.set(Cause::Connections, wrong);
    }

    fn set(&mut self, cause: Cause, wrong: Option<String>) {
        match wrong {
            Some(reason) => self.reasons.insert(cause, reason),
            None => self.reasons.remove(&cause),
        };
    }

    /// What the protocol is to be told of it and of these checks.
    pub fn word(&self, checks: &Checks) -> Word {
        let without_carrier = self.reasons.keys().filter(|cause| matches!(cause, Cause::Carrier(_))).count();
        Word {
            able: self.reasons.keys().all(|cause| matches!(cause, Cause::Check(_))),
            connected: without_carrier < self.interfaces,
            good: checks.good(),
            last_good: checks.last_good(),
            answered: checks.answered(),
        }
    }

    /// All that is wrong, links first; `None` if nothing is.
    pub fn reason(&self) -> Option<String> {
        let all: Vec<&str> = self.reasons.values().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_api::timestamp::Timestamp;

    #[test]
    fn every_cause_counts_until_it_is_gone() {
        let none = Checks::new(&[], Timestamp::now());
        let mut fitness = Fitness::new(2);
        let seen = |f: &Fitness| {
            let Word { able, connected, .. } = f.word(&none);
            (able, connected, f.reason().unwrap_or_default())
        };
        assert_eq!(seen(&fitness), (true, true, String::new()));
        fitness.set(Cause::Check(0), Some("web: HTTP 500".into()));
        assert_eq!(seen(&fitness), (true, true, "web: HTTP 500".into()), "a server is no link");
        fitness.set_carrier("eth0", false);
        assert_eq!(seen(&fitness), (false, true, "eth0 has no carrier; web: HTTP 500".into()));
        fitness.set(Cause::Check(0), Some("web: HTTP 503".into()));
        fitness.set_carrier("eth1", false);
        assert!(!fitness.word(&none).connected);
        fitness.set_carrier("eth0", true);
        fitness.set_carrier("eth1", true);
        assert_eq!(seen(&fitness), (true, true, "web: HTTP 503".into()), "a link does not cure a server");
        fitness.set(Cause::Check(0), None);
        assert_eq!(seen(&fitness), (true, true, String::new()));
        fitness.set_connections(false);
        let unknown = "the connections of the other routers are not known yet";
        assert_eq!(seen(&fitness), (false, true, unknown.to_owned()), "no other node's answer refutes that");
        fitness.set_connections(true);
        // Packets still leave by it, and what it owns when nobody is better off is worth an attempt.
        fitness.set_deaf("eth0", Some("deaf on eth0".into()));
        fitness.set_deaf("eth1", Some("deaf on eth1".into()));
        assert_eq!(seen(&fitness), (false, true, "deaf on eth0; deaf on eth1".into()));
        fitness.set_deaf("eth0", None);
        fitness.set_deaf("eth1", None);
        assert_eq!(seen(&fitness), (true, true, String::new()));
    }
}
