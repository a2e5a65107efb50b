//! R5: who is expired. The judgement that everything else leans on, so it stands alone.

use std::time::Duration;

use super::peer::Peer;
use super::{Machine, Phase};
use crate::bucket::BucketSet;
use crate::config::Terms;
use crate::id::{Identity, NodeId, NodeName};
use crate::time::Time;
use crate::wire::NodeState;

impl Machine {
    /// Whether `identity` can own nothing any more: it said good-bye, was followed by a later run of itself, or
    /// is expired.
    pub(super) fn is_over(&self, now: Time, identity: Identity) -> bool {
        self.is_gone(identity) || self.is_succeeded(identity) || self.is_expired(now, identity)
    }

    /// The same of a node as which `peer` is known, if it is: most are heard, and then there is nothing to judge.
    pub(super) fn is_known_over(&self, now: Time, identity: Identity, peer: Option<&Peer>) -> bool {
        let is_heard = |peer: &Peer| peer.identity == identity && peer.is_heard(now, self.config.timeout);
        if peer.is_some_and(is_heard) { self.is_gone(identity) } else { self.is_over(now, identity) }
    }

    /// R9: it said good-bye in this very run, to us or to a peer that repeats it. That of a later run may be a recording.
    pub(super) fn is_gone(&self, identity: Identity) -> bool {
        self.gone.get(&identity.id).is_some_and(|(incarnation, _)| *incarnation == identity.incarnation)
    }

    /// R5: a higher incarnation, once it is proved alive, expires the lower one at once, since a starting daemon takes
    /// its predecessor's kernel state down, or over, before its first pulse.
    pub(super) fn is_succeeded(&self, identity: Identity) -> bool {
        if identity.id == self.me.id {
            return identity.incarnation < self.me.incarnation;
        }
        self.peers.get(&identity.id).is_some_and(|peer| {
            let latest = peer.follows.max(Some(peer.identity.incarnation));
            peer.identity != identity && latest >= Some(identity.incarnation) && peer.heard.is_some()
        })
    }

    /// R5: no peer that we hear has heard it within T, and `quorum` nodes, this one included, report so.
    ///
    /// A report is as old as the pulse of ours that it echoes; `slack` (d in the rule) is what the oldest of the
    /// counted reports is older than one interval.
    fn is_expired(&self, now: Time, identity: Identity) -> bool {
        if identity == self.me || !self.may_judge(now) {
            return false;
        }
        // R11: by all terms that are obeyed.
        self.obeyed_terms().iter().all(|terms| self.is_expired_by(now, identity, terms))
    }

    fn is_expired_by(&self, now: Time, identity: Identity, terms: &Terms) -> bool {
        // Somebody with other terms may have the longer lease.
        let timeout = terms.timeout.max(self.timeout_said_by(identity));
        let own_age = self.silence(now, identity);
        if own_age < timeout {
            return false;
        }
        // (age of the report, age of the subject according to it)
        let mut reports = vec![(Duration::ZERO, own_age)];
        for (peer, word) in
            self.peers_heard_within(now, timeout).filter(|(peer, _)| peer.identity.id != identity.id)
        {
            // No entry: not heard since the reporter started.
            let age = match peer.witness(identity.id) {
                Some(entry) if entry.identity.incarnation > identity.incarnation => timeout * 2,
                Some(entry) if entry.identity == identity && entry.proven => {
                    Duration::from_micros(entry.age_us.into())
                }
                _ => Duration::from_millis(word.uptime_ms.into()),
            };
            let is_entry = peer.witness(identity.id).is_some_and(|e| e.identity == identity && e.proven);
            if is_entry && age < timeout {
                return false;
            }
            if word.late || word.state == NodeState::Listening {
                continue;
            }
            if let Some(sent) = peer.echoed {
                reports.push((now.since(sent), age));
            }
        }
        reports.sort_unstable();
        reports.iter().any(|(oldest, _)| {
            let slack = oldest.saturating_sub(terms.interval);
            let counted =
                reports.iter().filter(|(report, age)| report <= oldest && *age >= timeout + slack).count();
            counted >= terms.quorum
        })
    }

    /// For how long this node has not heard `identity`; since its own start if never.
    pub(super) fn silence(&self, now: Time, identity: Identity) -> Duration {
        self.silence_of(now, identity, self.peers.get(&identity.id))
    }

    /// The same of a node as which `peer` is known, if it is.
    pub(super) fn silence_of(&self, now: Time, identity: Identity, peer: Option<&Peer>) -> Duration {
        let heard = peer.filter(|peer| peer.identity == identity).and_then(|peer| peer.heard);
        now.since(heard.map_or(self.started_at, |contact| contact.at))
    }

    /// The buckets of the adopted view whose owner has missed a pulse. No judgement, and no rule depends on it: pulses get lost.
    pub fn unheard(&self, now: Time) -> BucketSet {
        let (Some(view), false) = (&self.view, self.phase == Phase::Listening) else {
            return BucketSet::EMPTY;
        };
        let patience = self.config.interval + self.config.interval / 2;
        let silent: Vec<NodeId> = view
            .members
            .iter()
            .map(|member| member.identity)
            .filter(|identity| *identity != self.me && self.silence(now, *identity) > patience)
            .map(|identity| identity.id)
            .collect();
        BucketSet::from_fn(|bucket| view.owners[bucket].is_some_and(|owner| silent.contains(&owner)))
    }

    /// R5, R7: a listening or late node judges nobody.
    fn may_judge(&self, now: Time) -> bool {
        self.phase != Phase::Listening && !self.is_late(now)
    }

    /// Whom else the silence of `identity` has struck, for the history.
    pub(super) fn witnesses(&self, now: Time, identity: Identity) -> Vec<NodeName> {
        let silent = |entry: &crate::wire::Heard| {
            !entry.proven || Duration::from_micros(entry.age_us.into()) >= self.config.timeout
        };
        self.heard_peers(now)
            .filter(|(peer, _)| peer.identity.id != identity.id)
            .filter(|(peer, _)| peer.witness(identity.id).is_none_or(silent))
            .map(|(peer, _)| peer.name.clone())
            .collect()
    }
}
