//! R6: who makes a new view, when, and what is in it.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::peer::Peer;
use super::{Action, Machine, Origin, Phase};
use crate::event::Event;
use crate::id::{Identity, NodeId, NodeName, ViewId};
use crate::share::{self, Candidate, NOBODY, Owners};
use crate::time::Time;
use crate::view::{MEMBERS_MAX, Member, Reason, View};
use crate::wire::{Message, NodeState, Pulse};

/// What a view would have to be made of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// The view and promise that it was compared with, and the terms that it would be made for.
    against: (ViewId, ViewId, u64),
    members: Vec<Member>,
    candidates: Vec<Candidate>,
    /// Why, and about whom; `None` if the present view will do.
    change: Option<(Reason, NodeId)>,
}

impl Want {
    /// It is remembered, so it is part of the state.
    pub(super) fn fingerprint<H: Hasher>(&self, origin: &Origin<'_>, state: &mut H) {
        origin.view_id(self.against.0, state);
        origin.view_id(self.against.1, state);
        self.against.2.hash(state);
        (&self.members, self.change.map(|(reason, about)| (reason as u8, about))).hash(state);
        for candidate in &self.candidates {
            (candidate.id, candidate.weight, candidate.gains).hash(state);
        }
    }
}

impl Machine {
    /// Makes a new view if one is wanted and it is this node's turn.
    pub(super) fn coordinate(&mut self, now: Time) {
        let Some(rank) = self.rank(now) else {
            self.wanted_since = None;
            return;
        };
        let Some((reason, subject)) = self.want(now) else {
            self.wanted_since = None;
            return;
        };
        let since = *self.wanted_since.get_or_insert(now);
        let patience = match reason {
            // A view of others, heard of but not seen: it is on its way in most cases.
            Reason::Merged if self.view.is_some() => self.config.interval * 2,
            // Who comes, or can take more than before, seldom comes alone, and nobody is served worse meanwhile:
            // else 32 nodes that start together make hundreds of views in a millisecond.
            Reason::Joined | Reason::Merged | Reason::Balance => self.config.interval,
            Reason::Start | Reason::Expired | Reason::Left | Reason::Weight | Reason::Terms => {
                Default::default()
            }
        };
        let turn = since + self.config.timeout * rank + patience;
        if now < turn {
            self.turn_at = Some(turn);
            return;
        }
        if let Some(Want { against, members, candidates, .. }) = self.want.take() {
            let (.., digest) = against;
            self.make_view(now, digest, members, &candidates, reason, subject);
        }
    }

    /// How many nodes go before this one, or `None` if it must not coordinate.
    ///
    /// The lowest-named active node does; if none is active, the lowest-named of those that drain or join, once
    /// they have listened long enough to know.
    fn rank(&self, now: Time) -> Option<u32> {
        let mine = self.state();
        if !matches!(mine, NodeState::Active | NodeState::Draining | NodeState::Joining) || self.resuming {
            return None;
        }
        let stands = |state: NodeState| match mine {
            NodeState::Active => state == NodeState::Active,
            _ => matches!(state, NodeState::Draining | NodeState::Joining),
        };
        let (mut heard, mut before, mut any_active) = (0, 0, false);
        for (peer, word) in self.heard_peers(now) {
            heard += 1;
            any_active |= word.state == NodeState::Active;
            before += u32::from(stands(word.state) && peer.name < self.config.name);
        }
        if mine != NodeState::Active && any_active {
            return None;
        }
        if mine == NodeState::Joining {
            // Heard, but not proved: perhaps a recording, perhaps somebody who cannot hear us. Wait once more.
            let unproven = self.peers.values().any(|peer| !peer.is_heard(now, self.config.timeout));
            let listens = if heard == 0 && unproven { 2 } else { 1 };
            if now < self.listen_since + self.config.timeout * listens {
                return None;
            }
        }
        Some(before)
    }

    /// Finds out who should be a member with which weight, and who could gain. Says whether that asks for a new view.
    fn want(&mut self, now: Time) -> Option<(Reason, NodeId)> {
        let digest = self.terms_of_next_view(now);
        let members = self.wanted_members(now, digest);
        self.look_who_shows(&members);
        let candidates = self.candidates(now, &members);
        let against = (self.view_id(), self.promise, digest);
        if let Some(cached) = &self.want
            && cached.against == against
            && cached.members == members
            && cached.candidates == candidates
        {
            return cached.change;
        }
        let change = self.change(now, digest, &members, &candidates);
        self.want = Some(Want { against, members, candidates, change });
        change
    }

    /// Looks which words show all members. Each is gone through once: neither words nor members change often.
    fn look_who_shows(&mut self, members: &[Member]) {
        let anew = self.want.as_ref().is_none_or(|cached| cached.members != members);
        let timeout_us = self.config.timeout.as_micros();
        for peer in self.peers.values_mut() {
            let Some(word) = peer.word.as_ref().filter(|_| anew || peer.shows_members.is_none()) else {
                continue;
            };
            // Members and words are sorted alike, so one pass over the word finds all.
            let mut entries = word.heard.iter();
            let mut others = members.iter().filter(|m| m.identity != peer.identity);
            peer.shows_members = Some(others.all(|m| {
                entries.by_ref().find(|entry| entry.identity.id >= m.identity.id).is_some_and(|entry| {
                    entry.identity == m.identity && entry.proven && u128::from(entry.age_us) < timeout_us
                })
            }));
        }
    }

    fn wanted_members(&mut self, now: Time, digest: u64) -> Vec<Member> {
        let named = |identity| self.view.as_ref().is_some_and(|view| view.names(identity));
        let mut views = vec![self.view_id()];
        let mut wanted: Vec<Identity> =
            self.view.iter().flat_map(|view| view.members.iter().map(|m| m.identity)).collect();
        if !named(self.me) {
            wanted.push(self.me);
        }
        let (mut strangers, mut left_out) = (Vec::new(), Vec::new());
        for (peer, word) in self.heard_peers(now) {
            if !Self::may_be_named(word, digest) {
                if self.is_stranger(word) {
                    strangers.push(peer.identity);
                }
                // R11: named by a view, it could not adopt it, and would keep all others waiting.
                if word.state.owns_nothing() {
                    left_out.push(peer.identity);
                }
                continue;
            }
            if !matches!(word.state, NodeState::Listening | NodeState::Fenced) && !named(peer.identity) {
                wanted.push(peer.identity);
            }
            // Whom the view of any live peer names stays until it is over.
            if !views.contains(&word.adopted) {
                views.push(word.adopted);
                let body = self.bodies.get(&word.adopted);
                wanted.extend(body.iter().flat_map(|view| view.members.iter().map(|m| m.identity)));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        for identity in strangers {
            self.turn_away(identity, |node| Event::Mismatch { node });
        }
        let known = self.peers_of(wanted.iter().map(|identity| identity.id));
        let mut members: Vec<Member> = wanted
            .iter()
            .zip(known)
            .map(|(identity, peer)| (*identity, peer))
            .filter(|(identity, peer)| *identity == self.me || !self.is_known_over(now, *identity, *peer))
            .filter(|(identity, _)| !left_out.contains(identity))
            .filter(|(identity, _)| identity.id != self.me.id || *identity == self.me)
            .map(|(identity, _)| Member { identity, weight: 0 })
            .collect();
        // Two runs of one node: the later stays.
        members.dedup_by(|later, earlier| {
            let same = later.identity.id == earlier.identity.id;
            if same {
                *earlier = *later;
            }
            same
        });
        if members.len() > MEMBERS_MAX {
            self.drop_newcomers(&mut members);
        }
        self.weigh(now, &mut members);
        members
    }

    /// More nodes than a view can have: those that are no members yet must wait.
    fn drop_newcomers(&mut self, members: &mut Vec<Member>) {
        let present: BTreeSet<Identity> = self
            .view
            .iter()
            .flat_map(|view| view.members.iter().map(|m| m.identity))
            .chain([self.me])
            .collect();
        while members.len() > MEMBERS_MAX {
            let last = members.iter().rposition(|m| !present.contains(&m.identity)).unwrap_or(MEMBERS_MAX);
            let dropped = members.remove(last);
            self.turn_away(dropped.identity, |node| Event::Full { node });
        }
    }

    /// Tells once of a node that cannot be a member.
    fn turn_away(&mut self, identity: Identity, event: impl FnOnce(Option<NodeName>) -> Event) {
        if self.turned_away.insert(identity) {
            let node = self.name_of(identity.id);
            self.actions.push_back(Action::Event(event(node)));
        }
    }

    /// The members as the shares are dealt out to them.
    fn candidates(&self, now: Time, members: &[Member]) -> Vec<Candidate> {
        let peers = self.peers_of(members.iter().map(|m| m.identity.id));
        let mut candidates: Vec<Candidate> = members
            .iter()
            .zip(peers)
            .map(|(m, peer)| Candidate {
                id: m.identity.id,
                weight: m.weight,
                gains: self.hears_all(now, m.identity, peer, members),
            })
            .collect();
        // Who waits for the word of somebody whom it does not hear would wait for as long as that lasts.
        if candidates.iter().any(|candidate| candidate.gains && candidate.weight > 0) {
            for (candidate, member) in candidates.iter_mut().zip(members) {
                if !candidate.gains && self.waits(now, member.identity) {
                    candidate.weight = 0;
                }
            }
        }
        candidates
    }

    /// R6: whether a member says that it cannot take what its view gives it.
    fn waits(&self, now: Time, identity: Identity) -> bool {
        if identity == self.me {
            return self.is_waiting(now);
        }
        self.heard_peers(now).any(|(peer, word)| peer.identity == identity && word.waiting)
    }

    /// R6: new buckets go only to nodes whose heard tables show all members, since no other could collect the
    /// words that it needs.
    fn hears_all(&self, now: Time, identity: Identity, peer: Option<&Peer>, members: &[Member]) -> bool {
        let is_heard = |identity: Identity, peer: Option<&Peer>| {
            peer.is_some_and(|peer| peer.identity == identity && peer.is_heard(now, self.config.timeout))
        };
        if identity == self.me {
            let peers = self.peers_of(members.iter().map(|m| m.identity.id));
            return members
                .iter()
                .zip(peers)
                .all(|(m, peer)| m.identity == self.me || is_heard(m.identity, peer));
        }
        is_heard(identity, peer)
            && !self.is_gone(identity)
            && peer.is_some_and(|peer| peer.shows_members == Some(true))
    }

    /// What is different from the present view, the gravest first.
    fn change(
        &self,
        now: Time,
        digest: u64,
        members: &[Member],
        candidates: &[Candidate],
    ) -> Option<(Reason, NodeId)> {
        let Some(view) = &self.view else {
            let joiner = members.iter().find(|m| m.identity != self.me);
            return Some(joiner.map_or((Reason::Start, self.me.id), |m| (Reason::Joined, m.identity.id)));
        };
        let removed = view.members.iter().filter(|m| !members.iter().any(|w| w.identity == m.identity));
        let mut left = None;
        for member in removed {
            if !self.is_gone(member.identity) {
                return Some((Reason::Expired, member.identity.id));
            }
            left.get_or_insert((Reason::Left, member.identity.id));
        }
        if left.is_some() {
            return left;
        }
        if let Some(added) = members.iter().find(|m| !view.names(m.identity)) {
            let from_elsewhere = self
                .heard_peers(now)
                .any(|(peer, word)| peer.identity == added.identity && word.adopted != ViewId::NONE);
            return Some((if from_elsewhere { Reason::Merged } else { Reason::Joined }, added.identity.id));
        }
        if view.digest != digest {
            return Some((Reason::Terms, self.me.id));
        }
        if let Some(changed) = members.iter().find(|m| view.member(m.identity) != Some(*m)) {
            return Some((Reason::Weight, changed.identity.id));
        }
        if self.promise > view.id {
            return Some((Reason::Merged, self.promise.coordinator.id));
        }
        let owners = share::assign(&view.owners, candidates);
        let gainer = owners.iter().zip(&view.owners).find(|(wanted, present)| wanted != present);
        gainer.map(|(wanted, _)| (Reason::Balance, wanted.unwrap_or_default()))
    }

    fn make_view(
        &mut self,
        now: Time,
        digest: u64,
        members: Vec<Member>,
        candidates: &[Candidate],
        reason: Reason,
        subject: NodeId,
    ) {
        let epoch = self.promise.epoch.max(self.view_id().epoch) + 1;
        let previous: Owners = self.previous_owners(now);
        let view = View {
            id: ViewId { epoch, coordinator: self.me },
            digest,
            reason,
            subject,
            members,
            owners: share::assign(&previous, candidates),
        };
        debug_assert!(view.is_well_formed());
        self.wanted_since = None;
        self.promise = view.id;
        self.remember(view.clone());
        self.adopt(now, view.clone());
        self.send(Message::View(Box::new(view)));
        self.repeat_at = Some(now + self.config.interval);
    }

    /// What the shares start from: of the present view and those that live peers have adopted, the one that most of
    /// the living serve by, since what it gives need not move; of equals the newest.
    fn previous_owners(&self, now: Time) -> Owners {
        let adopted: Vec<ViewId> =
            self.heard_peers(now).map(|(_, word)| word.adopted).chain([self.view_id()]).collect();
        let followers = |id: ViewId| adopted.iter().filter(|other| **other == id).count();
        self.bodies
            .values()
            .filter(|view| adopted.contains(&view.id))
            .max_by_key(|view| (followers(view.id), view.id))
            .map_or(NOBODY, |view| view.owners)
    }

    /// R6: a member that hears another identity repeats its view: the view's coordinator after an interval, the
    /// others one after the other if that did not help. Those in a lower view need it to come along, those in a
    /// higher one to know whom and what they must take over when views meet.
    pub(super) fn repeat(&mut self, now: Time) {
        let Some(view) = self.view.as_ref().filter(|_| self.phase == Phase::Member) else {
            self.repeat_at = None;
            return;
        };
        let lags = |peer: &Peer, word: &Pulse| {
            word.adopted != view.id
                && match word.state {
                    NodeState::Active | NodeState::Draining | NodeState::Leaving => true,
                    NodeState::Joining => view.names(peer.identity),
                    NodeState::Listening | NodeState::Fenced => false,
                }
        };
        let turn = self
            .heard_peers(now)
            .filter(|(peer, word)| lags(peer, word))
            .map(|(peer, word)| self.turn_to_repeat(view, peer.identity, word))
            .min();
        let Some(turn) = turn else {
            self.repeat_at = None;
            return;
        };
        let soon = now + self.config.interval * turn;
        let at = self.repeat_at.map_or(soon, |at| at.min(soon));
        self.repeat_at = Some(at);
        if now >= at {
            let message = Message::View(Box::new(view.clone()));
            self.send(message);
            self.repeat_at = Some(soon);
        }
    }

    /// After how many intervals this node repeats its view to who says this.
    ///
    /// Who does not hear the view's coordinator is told by the first member that it hears, before it loses its patience
    /// (R6) and makes a view of its own: else two who do not hear each other would overtake each other for ever.
    fn turn_to_repeat(&self, view: &View, whom: Identity, word: &Pulse) -> u32 {
        let (coordinator, timeout) = (view.id.coordinator, self.config.timeout);
        let mut members = view.members.iter().map(|m| m.identity);
        let is_deaf = whom != coordinator && !shows(word, coordinator, timeout);
        if coordinator == self.me
            || is_deaf && members.clone().find(|who| shows(word, *who, timeout)) == Some(self.me)
        {
            return 1;
        }
        2 + members.position(|who| who == self.me).unwrap_or(0) as u32
    }
}

/// Whether a word shows that its sender has heard a node within T.
fn shows(word: &Pulse, identity: Identity, timeout: Duration) -> bool {
    word.heard.iter().any(|entry| {
        entry.identity == identity && entry.proven && u128::from(entry.age_us) < timeout.as_micros()
    })
}
