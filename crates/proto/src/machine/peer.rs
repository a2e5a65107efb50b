//! What is known of another node.

use std::time::Duration;

use crate::id::{Identity, Incarnation, NodeId, NodeName};
use crate::time::Time;
use crate::wire::{Complaint, Heard, Pulse};

use super::drains::Drain;
use super::say::age_us;

/// A datagram's number and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contact {
    pub(super) sequence: u64,
    pub(super) at: Time,
}

/// Another node, in the latest run that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) identity: Identity,
    pub(super) name: NodeName,
    pub(super) host: u64,
    /// R5.5: the highest of its runs that this one has followed although it is lower: the node has lost its count.
    pub(super) follows: Option<Incarnation>,
    /// Its last pulse that echoed one of ours: it was alive then, and hears us.
    pub(super) heard: Option<Contact>,
    /// Its last pulse that did not: perhaps a recording. It is answered, and counts for nothing else.
    pub(super) unproven: Option<Contact>,
    /// What its last proven pulse said; `heard` is sorted by node.
    pub(super) word: Option<Pulse>,
    /// Whether that shows all members that were wanted last, once that has been looked up.
    pub(super) shows_members: Option<bool>,
    /// When we sent the freshest pulse that it has echoed: what it reports is younger than that.
    pub(super) echoed: Option<Time>,
    /// When we sent the freshest pulse that it has echoed as proven: leases are made of this, and it
    /// does not give us up within T of it.
    pub(super) acknowledged: Option<Time>,
    /// The number of its last order that was carried out; 0 for none.
    pub(super) obeyed: u64,
    /// What it last said is wrong with it, and in which datagram.
    pub(super) complaint: Option<(u64, Complaint)>,
    /// What was told last of its drain; `None` before its first word.
    pub(super) drain: Option<Drain>,
}

impl Peer {
    pub(super) fn new(id: NodeId, incarnation: Incarnation, name: NodeName, host: u64) -> Self {
        Peer {
            identity: Identity { id, incarnation },
            name,
            host,
            follows: None,
            heard: None,
            unproven: None,
            word: None,
            shows_members: None,
            echoed: None,
            acknowledged: None,
            obeyed: 0,
            complaint: None,
            drain: None,
        }
    }

    /// Whether it has been proved alive within `timeout`.
    pub(super) fn is_heard(&self, now: Time, timeout: Duration) -> bool {
        self.heard.is_some_and(|contact| now < contact.at + timeout)
    }

    /// Its last word, if it acknowledges as proven a pulse that we sent within `within`.
    ///
    /// An echo that proves nothing to it will not do: it may give us up at any moment, however fresh the echo is, and
    /// what it said just before would still count here.
    pub(super) fn fresh_word(&self, now: Time, within: Duration) -> Option<&Pulse> {
        self.acknowledged.filter(|sent| now.since(*sent) < within).and(self.word.as_ref())
    }

    /// What it said of `id` in its last word.
    pub(super) fn witness(&self, id: NodeId) -> Option<&Heard> {
        let heard = &self.word.as_ref()?.heard;
        heard.binary_search_by_key(&id, |entry| entry.identity.id).ok().map(|i| &heard[i])
    }

    /// Its entry in our heard table: the last proven pulse while that is young enough to prove life, else the last
    /// one that wants an answer.
    pub(super) fn entry(&self, now: Time, timeout: Duration) -> Option<Heard> {
        let proven = self.heard.filter(|contact| now.since(contact.at) < timeout);
        let (contact, is_proven) = match (proven, self.unproven, self.heard) {
            (Some(contact), ..) => (contact, true),
            (None, Some(unproven), Some(heard)) if heard.at > unproven.at => (heard, true),
            (None, Some(unproven), _) => (unproven, false),
            (None, None, Some(heard)) => (heard, true),
            (None, None, None) => return None,
        };
        Some(Heard {
            identity: self.identity,
            sequence: contact.sequence as u32,
            age_us: age_us(now.since(contact.at)),
            proven: is_proven,
            gone: false,
        })
    }

    /// When it was last heard of, proven or not.
    pub(super) fn last_heard_of(&self) -> Option<Time> {
        self.heard.map(|contact| contact.at).max(self.unproven.map(|contact| contact.at))
    }
}
