//! Who is who: names, identities and incarnations.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Longest node name in bytes: a host name's label (RFC 1035 2.3.4).
pub const NODE_NAME_LEN_MAX: usize = 63;
/// Longest cluster name in bytes.
pub const CLUSTER_NAME_LEN_MAX: usize = 32;

/// A name that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than the limit in bytes.
    #[error("a name has 1 to {max} characters, this one has {len}")]
    Length {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A character that is not allowed.
    #[error("`{0}` is not allowed in a name")]
    Character(char),
}

/// A node's name, 1 to 63 of `a-z A-Z 0-9 . - _`; by default the host name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name, NODE_NAME_LEN_MAX, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))?;
        Ok(NodeName(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cluster's name, 1 to 32 of `a-z 0-9 -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name, CLUSTER_NAME_LEN_MAX, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
        Ok(ClusterName(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(name: &str, max: usize, allowed: impl Fn(char) -> bool) -> Result<(), NameError> {
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character(c));
    }
    if name.is_empty() || name.len() > max {
        return Err(NameError::Length { len: name.len(), max });
    }
    Ok(())
}

/// A node's name as eight bytes, so that a view of 32 nodes fits one datagram whatever they are called.
///
/// The first eight bytes of SHA-256 over cluster and node name. Zero stands for "nobody" on the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The identity of `name` in `cluster`.
    pub fn of(cluster: &ClusterName, name: &NodeName) -> Self {
        let digest = Sha256::new()
            .chain_update(b"rudel node\0")
            .chain_update(cluster.as_str())
            .chain_update(b"\0")
            .chain_update(name.as_str())
            .finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        NodeId(u64::from_be_bytes(bytes).max(1))
    }

    /// An identity from its number, as read from the wire or from the packet filter's probe counters.
    pub const fn from_u64(id: u64) -> Self {
        NodeId(id)
    }

    /// The identity as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:04x}", self.0 >> 48)
    }
}

/// One run of a node's daemon; a later run has a higher number.
///
/// The lower [`Incarnation::CHANCE_BITS`] of a number that was not counted up from a stored one are chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// How many bits make two runs differ that know nothing of each other.
    pub const CHANCE_BITS: u32 = 24;

    /// This run's number when another of its name was heard of: higher than `heard`, with this run's own lower bits.
    ///
    /// Not just one more than `heard`, which may be a recording of a run long ago: one more than that is a run that has
    /// been, whose sequence numbers, and with them nonces, would come again. `None` where there is no higher number.
    #[must_use]
    pub const fn after(self, heard: Incarnation) -> Option<Incarnation> {
        let chance = self.0 & ((1 << Self::CHANCE_BITS) - 1);
        match ((heard.0 >> Self::CHANCE_BITS) + 1).checked_mul(1 << Self::CHANCE_BITS) {
            Some(next) => Some(Incarnation(next | chance)),
            None => None,
        }
    }
}

/// A node in one of its runs: what views, debts and words are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Which node.
    pub id: NodeId,
    /// Which run of it.
    pub incarnation: Incarnation,
}

/// Identifies a view; of two views the one with the greater identity is the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewId {
    /// One more than the highest epoch that its maker had heard of. Zero: no view at all.
    pub epoch: u64,
    /// Who made it.
    pub coordinator: Identity,
}

impl ViewId {
    /// Less than every view: the identity of "no view".
    pub const NONE: ViewId =
        ViewId { epoch: 0, coordinator: Identity { id: NodeId(0), incarnation: Incarnation(0) } };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(NodeName::new("fw-1.example_A").is_ok());
        assert_eq!(NodeName::new("a b"), Err(NameError::Character(' ')));
        assert_eq!(NodeName::new(""), Err(NameError::Length { len: 0, max: 63 }));
        assert_eq!(NodeName::new(&"x".repeat(64)), Err(NameError::Length { len: 64, max: 63 }));
        assert_eq!(ClusterName::new("Web"), Err(NameError::Character('W')));
    }

    #[test]
    fn the_same_name_in_another_cluster_is_another_node() {
        let name = NodeName::new("n1").unwrap();
        let a = NodeId::of(&ClusterName::new("a").unwrap(), &name);
        let b = NodeId::of(&ClusterName::new("b").unwrap(), &name);
        assert_ne!(a, b);
    }

    #[test]
    fn views_are_ordered_by_epoch_then_coordinator_then_incarnation() {
        let view = |epoch, id, incarnation| ViewId {
            epoch,
            coordinator: Identity { id: NodeId(id), incarnation: Incarnation(incarnation) },
        };
        assert!(ViewId::NONE < view(1, 0, 0));
        assert!(view(1, 9, 9) < view(2, 1, 1));
        assert!(view(2, 1, 9) < view(2, 2, 1));
        assert!(view(2, 2, 1) < view(2, 2, 2));
    }
}
