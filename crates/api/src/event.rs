//! What happened, when, to whom, and why.

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;
use crate::words::words;

/// One thing that happened, as history, hooks and metrics tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by this node's wall clock.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// To which node.
    pub node: String,
    /// Why, in words for people.
    pub reason: String,
    /// Its place in this daemon's history, from 1; a gap tells that something was missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The epoch of the view that came of it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

words! {
    /// What an event is about. Programs must expect further ones.
    pub enum EventKind {
        /// The daemon has started.
        Started = "started",
        /// The daemon stops.
        Stopped = "stopped",
        /// The answering node is in another state.
        State = "state",
        /// A new view is in force at the answering node.
        View = "view",
        /// A node has become a member.
        Joined = "joined",
        /// A node was given up because it was silent.
        Expired = "expired",
        /// A node has started again before it was given up: its former run ended without a good-bye.
        Restarted = "restarted",
        /// A node said good-bye.
        Left = "left",
        /// A member has another weight than before: by command, health, draining or leaving.
        Weight = "weight",
        /// A node's administrator wanted something of the answering node, which has done it.
        Ordered = "ordered",
        /// A node has taken over all that its view gives it.
        Gained = "gained",
        /// A node's lease lapsed: it was not scheduled or not heard, and passes nothing.
        Stalled = "stalled",
        /// The daemon has taken its predecessor's place without a gap.
        Resumed = "resumed",
        /// A successor of the daemon could not begin; nothing has changed.
        RestartFailed = "restart-failed",
        /// The others went on without the answering node.
        LeftOut = "left-out",
        /// Another machine has the name of this node.
        Duplicate = "duplicate",
        /// A node wants to join, but its configuration differs in what must be the same everywhere.
        Mismatch = "mismatch",
        /// A node wants to join, and the cluster is full.
        Full = "full",
        /// Too few nodes hear each other to serve.
        QuorumLost = "quorum-lost",
        /// Enough nodes hear each other again.
        QuorumRegained = "quorum-regained",
        /// A node gives its share away and stays.
        Draining = "draining",
        /// A drain has ended: no connection is left, or its time is over.
        Drained = "drained",
        /// A node takes a share again.
        Undrained = "undrained",
        /// A health check is good: for the first time, or again.
        Healthy = "healthy",
        /// A health check fails.
        Unhealthy = "unhealthy",
        /// A node receives no packets for the cluster MAC, though others do.
        Deaf = "deaf",
        /// A deaf node receives packets again.
        Hearing = "hearing",
        /// What all nodes passed does not add up to what one saw: a hole, or two owners.
        Audit = "audit",
        /// Datagrams are rejected: another key, another version, a forgery.
        Rejected = "rejected",
        /// An interface has lost its carrier, or has gone.
        LinkDown = "link-down",
        /// An interface is back.
        LinkUp = "link-up",
        /// The cluster's own table of packet rules had been changed or removed by somebody, and was put back.
        Restored = "restored",
        /// Connections through a router found no free port of their block.
        PortsExhausted = "ports-exhausted",
        /// The configuration was read again, and is followed; or what waited for the other nodes is in force.
        Reloaded = "reloaded",
        /// A hook failed.
        HookFailed = "hook-failed",
        /// Connections changed faster than they could be read; the whole table was read anew.
        SyncOverrun = "sync-overrun",
        /// Words of another router about its connections were lost, or did not come; all were asked for anew.
        SyncGap = "sync-gap",
        /// The kernel refused connections of other routers.
        SyncRefused = "sync-refused",
        /// No node receives packets for the cluster MAC: the network does not deliver them.
        Unflooded = "unflooded",
        /// The configuration was read again and refused, or could not be followed: nothing has changed.
        ReloadRefused = "reload-refused",
        /// The configuration was read again; some of it waits until all nodes have read the same.
        ReloadPending = "reload-pending",
        /// A kind that this version does not know.
        #[serde(other)]
        Unknown = "unknown",
    }
}

/// How an event is to be looked at: its colour on screens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something is well again, or more than before.
    Good,
    /// Somebody wanted it so, or it was healed at once; worth a look.
    Note,
    /// Something is wrong.
    Bad,
    /// The way of things.
    Plain,
}

impl EventKind {
    /// How it is to be looked at, the same on all screens.
    pub fn tone(self) -> Tone {
        match self {
            EventKind::Expired
            | EventKind::Stalled
            | EventKind::RestartFailed
            | EventKind::LeftOut
            | EventKind::Duplicate
            | EventKind::Mismatch
            | EventKind::Full
            | EventKind::QuorumLost
            | EventKind::Unhealthy
            | EventKind::Deaf
            | EventKind::Audit
            | EventKind::Rejected
            | EventKind::LinkDown
            | EventKind::PortsExhausted
            | EventKind::HookFailed
            | EventKind::SyncRefused
            | EventKind::ReloadRefused
            | EventKind::Unflooded => Tone::Bad,
            EventKind::Restarted
            | EventKind::Left
            | EventKind::Weight
            | EventKind::Draining
            | EventKind::Restored
            | EventKind::SyncOverrun
            | EventKind::SyncGap => Tone::Note,
            EventKind::Joined
            | EventKind::QuorumRegained
            | EventKind::Healthy
            | EventKind::Hearing
            | EventKind::LinkUp => Tone::Good,
            EventKind::Started
            | EventKind::Stopped
            | EventKind::State
            | EventKind::View
            | EventKind::Ordered
            | EventKind::Gained
            | EventKind::Resumed
            | EventKind::Drained
            | EventKind::Undrained
            | EventKind::Reloaded
            | EventKind::ReloadPending
            | EventKind::Unknown => Tone::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_later_versions_are_read() {
        let kind = |text| serde_json::from_str::<EventKind>(text).unwrap();
        assert_eq!(kind("\"joined\""), EventKind::Joined);
        assert_eq!(kind("\"quorum-lost\""), EventKind::QuorumLost);
        assert_eq!(kind("\"teleported\""), EventKind::Unknown);
    }

    #[test]
    fn kinds_are_kebab_case() {
        for kind in EventKind::ALL {
            let word = kind.as_str();
            assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{word}");
            assert_eq!(word.parse(), Ok(*kind));
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{word}\""));
        }
    }
}
