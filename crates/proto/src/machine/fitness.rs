//! R6: who can serve, and when health checks take a share away.
//!
//! Every node asks its own server only. So that a server that is down shows which of two things is the matter, one node
//! or the check itself, a verdict that changes calls an **examination**: all nodes ask their own servers at once, and
//! say how that came out. Examinations are numbered by the cluster as a whole: each is one above the highest heard of.
//! So whether an answer was asked for before or after a certain verdict is a comparison of two numbers, and no clock
//! comes into it.

use super::peer::Peer;
use super::{Action, Machine};
use crate::id::Identity;
use crate::time::Time;
use crate::view::Member;
use crate::wire::{Checkup, NodeState, Pulse};

/// What counts of a member when shares are dealt out.
#[derive(Clone, Copy, Debug)]
struct Condition {
    /// Its weight, if it wants a share at all.
    weight: u16,
    /// Nothing that it knows of without asking keeps it from serving.
    healthy: bool,
    checkup: Checkup,
}

impl Condition {
    fn of(word: &Pulse) -> Self {
        let wants = matches!(word.state, NodeState::Active | NodeState::Joining) && !word.cut;
        Condition {
            weight: if wants { word.weight } else { 0 },
            healthy: word.healthy,
            checkup: word.checkup,
        }
    }

    fn is_fit(&self) -> bool {
        self.weight > 0 && self.healthy && self.checkup.good
    }

    /// Whether `self` proves that it is not the check which fails, but the node that it fails on: both were asked after
    /// the other one's verdict had changed, and one answer was good, the other bad.
    fn refutes(&self, other: &Condition) -> bool {
        self.is_fit()
            && self.checkup.last_good
            && !other.checkup.last_good
            && self.checkup.answered >= other.checkup.called
            && other.checkup.answered >= self.checkup.called
    }
}

impl Machine {
    /// What the health checks have come to. Another verdict than before calls an examination.
    pub(super) fn heed_checks(&mut self, good: bool, last_good: bool, answered: u32) {
        let changed = good != self.checkup.good;
        self.checkup = Checkup { good, last_good, answered, ..self.checkup };
        if changed {
            self.checkup.called = self.examination.saturating_add(1);
            self.hear_of_examination(self.checkup.called);
        }
    }

    /// Every examination is answered, whoever called it.
    pub(super) fn hear_of_examination(&mut self, number: u32) {
        if number > self.examination {
            self.examination = number;
            self.actions.push_back(Action::Examine(number));
        }
    }

    /// Deals out weights: what each member's share is made of.
    ///
    /// R6.5: a failing check takes a share away only if a member that could take it over refutes that the check
    /// fails everywhere. Where no member is fit, nobody's health counts.
    pub(super) fn weigh(&self, now: Time, members: &mut [Member]) {
        let peers = self.peers_of(members.iter().map(|member| member.identity.id));
        let conditions: Vec<Option<Condition>> =
            members.iter().zip(peers).map(|(m, peer)| self.condition(now, m.identity, peer)).collect();
        let present =
            |identity| self.view.as_ref().and_then(|view| view.member(identity)).map_or(0, |m| m.weight);
        let refuted = |sick: &Condition| conditions.iter().flatten().any(|witness| witness.refutes(sick));
        let somebody_is_fit = members.iter().zip(&conditions).any(|(member, condition)| match condition {
            Some(condition) => condition.is_fit(),
            // Silent, but not yet expired: as it was.
            None => present(member.identity) > 0,
        });
        for (member, condition) in members.iter_mut().zip(&conditions) {
            let has = present(member.identity);
            member.weight = match condition {
                None => has,
                Some(condition) if !somebody_is_fit || condition.is_fit() => condition.weight,
                Some(condition) if condition.healthy && has > 0 && !refuted(condition) => condition.weight,
                Some(_) => 0,
            };
        }
    }

    /// `None` if its last word is too old.
    fn condition(&self, now: Time, identity: Identity, peer: Option<&Peer>) -> Option<Condition> {
        if identity == self.me {
            let wants = self.connected && !self.draining && !self.leaving;
            return Some(Condition {
                weight: if wants { self.weight } else { 0 },
                healthy: self.healthy && self.connected,
                checkup: self.checkup,
            });
        }
        let peer = peer?;
        let is_heard = peer.identity == identity && peer.is_heard(now, self.config.timeout);
        peer.word.as_ref().filter(|_| is_heard).map(Condition::of)
    }

    /// Whether some other node could take over what this one gives up.
    pub(super) fn has_heirs(&self, now: Time) -> bool {
        self.heard_peers(now).any(|(_, word)| Condition::of(word).weight > 0)
    }
}
