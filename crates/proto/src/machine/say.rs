//! What goes out: pulses, ownership, and the history that people read.

use std::time::Duration;

use super::peer::Peer;
use super::{Action, Machine, Phase, Said};
use crate::bucket::BucketSet;
use crate::event::Event;
use crate::id::{Identity, Incarnation, NodeId, NodeName, ViewId};
use crate::share;
use crate::time::Time;
use crate::view::View;
use crate::wire::{Checkup, HEARD_MAX, Heard, Message, NodeState, Pulse};

impl Machine {
    pub(super) fn own(&mut self, owned: BucketSet) {
        self.owned = owned;
        self.actions.push_back(Action::Own(owned));
    }

    pub(super) fn give_up_all(&mut self) {
        self.keep_nothing();
        if !self.owned.is_empty() {
            self.own(BucketSet::EMPTY);
        }
        if let Some(view) = &self.view {
            let former = view.members.iter().map(|m| m.identity);
            self.debts.extend(former.filter(|identity| *identity != self.me));
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, why: &'static str) {
        let before = self.state();
        self.phase = phase;
        if self.state() != before {
            self.tell_state(why);
        }
    }

    pub(super) fn tell_state(&mut self, why: &'static str) {
        self.actions.push_back(Action::Event(Event::State { state: self.state(), why }));
    }

    /// The history of a change of views, the view itself first.
    pub(super) fn tell_changes(&mut self, now: Time, previous: Option<&View>, view: &View) {
        let moved = match previous {
            Some(old) => share::moved(&old.owners, &view.owners),
            // What was before it came, a joiner does not know; what it gets, it does.
            None => share::count(&view.owners, self.me.id),
        };
        let mut events = vec![Event::View {
            id: view.id,
            reason: view.reason,
            subject: self.name_of(view.subject),
            members: view.members.len(),
            moved,
        }];
        for old in previous.iter().flat_map(|old| &old.members).filter(|old| !view.names(old.identity)) {
            let node = self.name_of(old.identity.id);
            events.push(if self.is_gone(old.identity) {
                Event::Left { node }
            } else if self.is_succeeded(old.identity) {
                Event::Restarted { node }
            } else {
                let silent = self.silence(now, old.identity);
                Event::Expired { node, silent, witnesses: self.witnesses(now, old.identity) }
            });
        }
        for new in view.members.iter().filter(|new| new.identity != self.me) {
            match previous.and_then(|old| old.member(new.identity)) {
                // To a joiner the others are not new.
                None if previous.is_none() && view.subject != new.identity.id => {}
                None => events.push(Event::Joined { node: self.name_of(new.identity.id) }),
                Some(old) if old.weight != new.weight => {
                    let node = self.name_of(new.identity.id);
                    events.push(Event::Weight { node, from: old.weight, to: new.weight });
                }
                Some(_) => {}
            }
        }
        self.actions.extend(events.into_iter().map(Action::Event));
    }

    pub(super) fn name_of(&self, id: NodeId) -> Option<NodeName> {
        if id == self.me.id {
            return Some(self.config.name.clone());
        }
        self.peers.get(&id).map(|peer| peer.name.clone())
    }

    pub(super) fn saying(&self, now: Time) -> Said {
        let state = self.state();
        let members = || self.view.iter().flat_map(|view| &view.members).map(|member| member.identity);
        let is_silent = |(identity, peer): &(Identity, Option<&Peer>)| {
            *identity != self.me && self.silence_of(now, *identity, *peer) >= self.config.timeout
        };
        Said {
            state,
            healthy: self.healthy && self.connected,
            checkup: self.checkup,
            weight: self.weight,
            digest: self.present_digest(),
            wanted: self.wanted_digest(),
            adopted: self.view_id(),
            settled: self.is_settled(),
            gone: matches!(self.phase, Phase::Goodbye { .. } | Phase::Stopped),
            debts: self.debts.len(),
            keeping: self.keeping,
            silent: members().zip(self.peers_of(members().map(|who| who.id))).filter(is_silent).count(),
            promise: state.owns_nothing().then_some(self.promise),
        }
    }

    /// R4: multicasts a pulse; the lease is looked at when it has been sent.
    pub(super) fn pulse(&mut self, now: Time) {
        let said = self.saying(now);
        let uptime = now.since(self.started_at).as_millis();
        let heard = self.heard_table(now);
        self.note_proof(&heard);
        let message = Message::Pulse(Pulse {
            host: self.config.host,
            digest: said.digest,
            uptime_ms: u32::try_from(uptime).unwrap_or(u32::MAX),
            state: said.state,
            healthy: said.healthy,
            cut: !self.connected,
            checkup: said.checkup,
            late: self.is_late(now),
            waiting: self.is_waiting(now),
            settled: said.settled,
            gone: said.gone,
            weight: said.weight,
            adopted: said.adopted,
            promise: self.promise,
            keeping: said.keeping,
            connections: self.connections_left(),
            heard,
            audits: self.audits.clone(),
            wanted: said.wanted.0,
            bound: said.wanted.1,
            timeout_us: self.timeout_us(),
        });
        self.said = Some(said);
        self.send(message);
        let oldest = now - self.config.timeout;
        while self.sent.front().is_some_and(|(_, at)| *at < oldest) {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
    }

    /// R9: what its parent says for it when its daemon has died. It depends on nothing that changes within a run.
    pub fn farewell(&self) -> Message {
        Message::Pulse(Pulse {
            host: self.config.host,
            digest: self.config.digest,
            uptime_ms: 0,
            state: NodeState::Leaving,
            healthy: false,
            cut: false,
            checkup: Checkup::GOOD,
            late: false,
            waiting: false,
            settled: false,
            gone: true,
            weight: 0,
            adopted: ViewId::NONE,
            promise: ViewId::NONE,
            keeping: BucketSet::EMPTY,
            connections: 0,
            heard: Vec::new(),
            audits: Vec::new(),
            wanted: self.config.digest,
            bound: false,
            timeout_us: 0,
        })
    }

    /// Whether the next action is to send something.
    pub fn is_about_to_send(&self) -> bool {
        matches!(self.actions.front(), Some(Action::Send { .. }))
    }

    pub(super) fn heard_table(&self, now: Time) -> Vec<Heard> {
        let mut table: Vec<Heard> =
            self.gone.iter().map(|(id, (run, at))| gone_entry(*id, *run, now.since(*at))).collect();
        let entries = self
            .peers
            .values()
            .filter(|peer| !self.is_gone(peer.identity))
            .filter_map(|peer| peer.entry(now, self.config.timeout));
        for entry in entries {
            // A later run of a node that said good-bye: its life matters more than its predecessor's end.
            table.retain(|gone| gone.identity.id != entry.identity.id);
            table.push(entry);
        }
        if let Some(twin) = &self.twin {
            table.push(Heard {
                identity: twin.identity,
                sequence: twin.contact.sequence as u32,
                age_us: age_us(now.since(twin.contact.at)),
                proven: false,
                gone: false,
            });
        }
        // The living first, should there be more than fit.
        table.sort_by_key(|entry| (!entry.proven, entry.gone, entry.age_us));
        table.truncate(HEARD_MAX);
        table
    }

    pub(super) fn send(&mut self, message: Message) {
        self.sequence += 1;
        let (incarnation, sequence) = (self.me.incarnation, self.sequence);
        self.actions.push_back(Action::Send { incarnation, sequence, message });
    }
}

/// R9: says a good-bye again, and how long ago it was said first.
fn gone_entry(id: NodeId, incarnation: Incarnation, ago: Duration) -> Heard {
    let identity = Identity { id, incarnation };
    Heard { identity, sequence: 0, age_us: age_us(ago), proven: false, gone: true }
}

/// An age as heard tables tell it.
pub(super) fn age_us(age: Duration) -> u32 {
    u32::try_from(age.as_micros()).unwrap_or(u32::MAX)
}
