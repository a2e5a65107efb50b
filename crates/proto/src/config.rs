//! What the protocol must be told, checked once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{ClusterName, NodeId, NodeName};
use crate::view::MEMBERS_MAX;

/// Shortest time-out. Below it a general-purpose kernel's scheduling alone looks like a failure.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(20);
/// Longest time-out.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Shortest interval between pulses.
pub const INTERVAL_MIN: Duration = Duration::from_millis(5);
/// Longest interval between pulses.
pub const INTERVAL_MAX: Duration = Duration::from_secs(10);

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The time-out is out of its range.
    #[error("timeout is {0:?}, allowed is 20ms to 60s")]
    Timeout(Duration),
    /// The interval is out of its range, or above a third of the time-out.
    #[error("interval is {0:?}, allowed is 5ms to 10s and at most a third of the timeout")]
    Interval(Duration),
    /// The quorum is zero, or more than a cluster can have.
    #[error("quorum is {0}, allowed is 1 to 32")]
    Quorum(usize),
    /// The weight is out of its range.
    #[error("weight is {0}, allowed is 0 to 1000")]
    Weight(u16),
}

/// What all members of a view live by alike, and can change while they run (R11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// A number made of all that must be the same on every node, the other fields included.
    pub digest: u64,
    /// See [`Config::quorum`].
    pub quorum: usize,
    /// See [`Config::timeout`].
    pub timeout: Duration,
    /// See [`Config::interval`].
    pub interval: Duration,
}

impl Terms {
    /// Checks every range and relation.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&self.timeout) {
            return Err(ConfigError::Timeout(self.timeout));
        }
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&self.interval) || self.interval * 3 > self.timeout {
            return Err(ConfigError::Interval(self.interval));
        }
        if !(1..=MEMBERS_MAX).contains(&self.quorum) {
            return Err(ConfigError::Quorum(self.quorum));
        }
        Ok(())
    }

    /// T' = T - interval - 2 % of T: how long a lease lasts. Shorter than T by one pulse that may be lost, and by
    /// what clocks that differ by 1 % each can drift apart.
    pub fn lease(&self) -> Duration {
        self.timeout - self.interval - self.timeout / 50
    }
}

/// What a node must be told before it can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster's name; datagrams of others are rejected.
    pub cluster: ClusterName,
    /// This node's name, its own in the cluster.
    pub name: NodeName,
    /// A number that this machine has and no other: it tells a restarted node from a second one of its name.
    pub host: u64,
    /// A number made of all that must be the same on every node (hash modes and seed, addresses, MACs, quorum, timers):
    /// a node with another one would hash flows to other owners, and is not let in.
    pub digest: u64,
    /// Serve only while this many nodes, this one included, hear each other. More than half of all nodes: never
    /// two owners, even when the network falls apart. 1: every island serves. 1 to 32.
    pub quorum: usize,
    /// T: after this much silence a node is given up. 20 ms to 60 s.
    pub timeout: Duration,
    /// Time between pulses, 5 ms to 10 s, at most a third of `timeout` so that a lost pulse does not lapse a
    /// lease; an eighth is a good choice.
    pub interval: Duration,
    /// Whether connections stay where they are while their bucket moves: the packet filter tells them apart, and the
    /// daemon says when the last has ended. A router has none of its own: its buckets move with their state.
    pub handover: bool,
    /// The node's weight at the start, 0 to 1000.
    pub weight: u16,
}

impl Config {
    /// Checks every range and relation.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.terms().validate()?;
        if self.weight > 1000 {
            return Err(ConfigError::Weight(self.weight));
        }
        Ok(())
    }

    /// This node's identity.
    pub fn id(&self) -> NodeId {
        NodeId::of(&self.cluster, &self.name)
    }

    /// What it has in common with all members of its view.
    pub fn terms(&self) -> Terms {
        let Config { digest, quorum, timeout, interval, .. } = *self;
        Terms { digest, quorum, timeout, interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(timeout_ms: u64, interval_ms: u64) -> Config {
        Config {
            cluster: ClusterName::new("web").unwrap(),
            name: NodeName::new("n1").unwrap(),
            host: 1,
            digest: 0,
            quorum: 1,
            timeout: Duration::from_millis(timeout_ms),
            interval: Duration::from_millis(interval_ms),
            handover: false,
            weight: 100,
        }
    }

    #[test]
    fn timers_must_fit_each_other() {
        assert_eq!(config(400, 50).validate(), Ok(()));
        assert_eq!(config(400, 50).terms().lease(), Duration::from_millis(342));
        assert_eq!(config(20, 5).validate(), Ok(()));
        assert!(matches!(config(400, 134).validate(), Err(ConfigError::Interval(_))));
        assert!(matches!(config(19, 5).validate(), Err(ConfigError::Timeout(_))));
        assert!(matches!(config(60_001, 50).validate(), Err(ConfigError::Timeout(_))));
        assert_eq!(Config { quorum: 0, ..config(400, 50) }.validate(), Err(ConfigError::Quorum(0)));
        assert_eq!(Config { weight: 1001, ..config(400, 50) }.validate(), Err(ConfigError::Weight(1001)));
    }
}
