//! What comes in: who sent it, whether it proves life, and what is remembered of it. Nothing is decided here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::peer::{Contact, Peer};
use super::{Action, BODIES_MAX, MEMORY_TIMEOUTS, Machine, Phase, Twin};
use crate::event::Event;
use crate::id::{Identity, Incarnation, ViewId};
use crate::seal::{Rejection, Sender};
use crate::time::Time;
use crate::view::View;
use crate::wire::{Message, NodeState, Pulse};

impl Machine {
    /// R7, R8: notices that the program did not run when it should have.
    pub(super) fn observe(&mut self, now: Time) {
        let idle = now.since(self.observed_at);
        self.observed_at = now;
        if now > self.pulse_due + self.config.interval / 2 {
            self.late_until = now + self.config.timeout;
            self.run_late(now);
            // What it would have heard meanwhile it has not looked at yet: also one that waits for a view of others
            // makes none of its own before it has listened anew.
            if matches!(self.phase, Phase::Listening | Phase::Joining) {
                self.listen_since = now;
            }
        }
        self.unscheduled = idle;
        if idle > self.lease_span() && self.phase == Phase::Member {
            self.stall(now);
        }
        self.lapse(now);
    }

    pub(super) fn is_late(&self, now: Time) -> bool {
        now < self.late_until
    }

    pub(super) fn handle_pulse(
        &mut self,
        now: Time,
        sender: &Sender,
        mut pulse: Pulse,
    ) -> Result<(), Rejection> {
        let identity = Identity { id: sender.id, incarnation: sender.incarnation };
        if !self.meet(now, sender, &pulse)? {
            return Ok(());
        }
        if pulse.gone {
            // R9: final, whoever may repeat it: it was said in this very run.
            self.bereave_of_kept(identity);
            self.gone.insert(identity.id, (identity.incarnation, now));
        }
        self.learn_incarnation(pulse.heard.iter().map(|entry| entry.identity));

        // Heard is what echoes a pulse of ours sent within T; all else is answered and counts for nothing.
        let me = self.me;
        let echo = pulse.heard.iter().find(|entry| entry.identity == me && !entry.gone).copied();
        let sent = echo.and_then(|entry| self.sent_at(now, entry.sequence));
        let peer = self.peers.get_mut(&sender.id).expect("meet() has put it there");
        let contact = Contact { sequence: sender.sequence, at: now };
        let Some(sent) = sent else {
            if peer.unproven.is_none_or(|last| last.sequence < sender.sequence) {
                peer.unproven = Some(contact);
            }
            return Ok(());
        };
        if peer.heard.is_some_and(|last| last.sequence >= sender.sequence) {
            // Overtaken by a later one on the way.
            return Ok(());
        }
        peer.heard = Some(contact);
        peer.echoed = peer.echoed.max(Some(sent));
        if echo.is_some_and(|entry| entry.proven) {
            peer.acknowledged = peer.acknowledged.max(Some(sent));
        }
        let gone = pulse.heard.iter().filter(|entry| entry.gone && entry.identity != me);
        let gone: Vec<(Identity, Time)> =
            gone.map(|entry| (entry.identity, now - Duration::from_micros(entry.age_us.into()))).collect();
        self.promise = self.promise.max(pulse.promise).max(pulse.adopted);
        pulse.heard.sort_unstable_by_key(|entry| entry.identity.id);
        let examination = pulse.checkup.called.max(pulse.checkup.answered);
        if pulse.is_fit() {
            peer.complaint = None;
        }
        peer.word = Some(pulse);
        peer.shows_members = None;
        gone.into_iter().for_each(|(identity, at)| self.hear_of_good_bye(now, identity, at));
        self.hear_of_examination(examination);
        self.move_lease(now);
        Ok(())
    }

    /// R9: a peer repeats a good-bye that was said `at`. One is remembered of each node: that of the run that it is known
    /// in, else the latest.
    fn hear_of_good_bye(&mut self, now: Time, identity: Identity, at: Time) {
        // Nobody forgets at the same moment as the others: who learned anew what it has just forgotten would remind them.
        if now.since(at) >= self.config.timeout * (MEMORY_TIMEOUTS - 1) {
            return;
        }
        let known_in = self.peers.get(&identity.id).map(|peer| peer.identity.incarnation);
        let matters = |incarnation| (Some(incarnation) == known_in, incarnation);
        let is_news = |(known, _): &(Incarnation, Time)| matters(identity.incarnation) > matters(*known);
        if self.gone.get(&identity.id).is_none_or(is_news) {
            self.gone.insert(identity.id, (identity.incarnation, at));
        }
    }

    /// Makes sure that `sender` is the peer that it says it is, in its latest run. False: perhaps, but as long as that
    /// is not proved it says nothing about a peer that may be alive.
    pub(super) fn meet(&mut self, now: Time, sender: &Sender, pulse: &Pulse) -> Result<bool, Rejection> {
        let fresh = Peer::new(sender.id, sender.incarnation, sender.name.clone(), pulse.host);
        let Some(peer) = self.peers.get(&sender.id) else {
            self.peers.insert(sender.id, fresh);
            return Ok(true);
        };
        let known = peer.identity;
        let is_fenced = peer.word.as_ref().is_some_and(|word| word.state == NodeState::Fenced);
        let in_use = !is_fenced
            && !self.is_gone(known)
            && (peer.is_heard(now, self.config.timeout)
                || (self.view.as_ref().is_some_and(|view| view.names(known)) && !self.is_over(now, known)));
        let other_host = peer.host != pulse.host;
        if other_host && in_use {
            return Err(Rejection::DuplicateName { name: sender.name.to_string() });
        }
        let proves = pulse.heard.iter().any(|entry| {
            entry.identity == self.me && !entry.gone && self.sent_at(now, entry.sequence).is_some()
        });
        let replaces = match sender.incarnation.cmp(&known.incarnation) {
            // R5: the lower run ends when the higher one is proved alive. Until then the higher may be a recording of
            // a run from before the node lost its count, and must not end the living.
            std::cmp::Ordering::Greater if !in_use || proves => true,
            std::cmp::Ordering::Greater => return Ok(false),
            std::cmp::Ordering::Equal => other_host,
            // A machine runs one daemon at a time: a lower run that is alive has lost its count, and the higher is over.
            std::cmp::Ordering::Less
                if proves && (other_host || !peer.is_heard(now, self.config.timeout)) =>
            {
                true
            }
            std::cmp::Ordering::Less => {
                return Err(Rejection::Outdated { name: sender.name.to_string() });
            }
        };
        if replaces {
            let follows = if other_host { None } else { peer.follows.max(Some(known.incarnation)) };
            let follows = follows.filter(|run| *run > sender.incarnation);
            self.peers.insert(sender.id, Peer { follows, ..fresh });
        }
        Ok(true)
    }

    pub(super) fn handle_view(&mut self, now: Time, sender: &Sender, view: View) -> Result<(), Rejection> {
        let proven = self.peers.get(&sender.id).is_some_and(|peer| {
            peer.identity.incarnation == sender.incarnation && peer.is_heard(now, self.config.timeout)
        });
        if !proven {
            return Err(Rejection::Unproven { name: sender.name.to_string() });
        }
        self.learn_incarnation(view.members.iter().map(|m| m.identity));
        self.promise = self.promise.max(view.id);
        if self.view_id() == view.id {
            self.repeat_at = None;
        }
        self.remember(view);
        Ok(())
    }

    /// R5: a message in this node's own name: its own, a predecessor's, or that of a second node.
    pub(super) fn handle_own_name(
        &mut self,
        now: Time,
        identity: Identity,
        sender: &Sender,
        message: &Message,
    ) -> Result<(), Rejection> {
        let Message::Pulse(pulse) = message else {
            return Ok(());
        };
        let same_host = pulse.host == self.config.host;
        if identity == self.me && same_host {
            return Ok(());
        }
        if same_host && !self.is_in_view() {
            // A run before this one, perhaps one that a lost file forgot.
            self.learn_incarnation([identity].into_iter());
        }
        let echoed = pulse
            .heard
            .iter()
            .any(|entry| entry.identity == self.me && self.sent_at(now, entry.sequence).is_some());
        let contact = Contact { sequence: sender.sequence, at: now };
        let reported = self.twin.as_ref().is_some_and(|twin| twin.reported && twin.identity == identity);
        let proved_before = self.twin.as_ref().and_then(|twin| twin.proved_at);
        let is_proved = echoed && !pulse.gone;
        let proved_at = if is_proved { Some(now) } else { proved_before };
        self.twin = Some(Twin { identity, contact, proved_at, reported });
        if !is_proved {
            return Ok(());
        }
        // Proved alive. The newcomer yields; of two that are in a view, the earlier run.
        let listens = matches!(pulse.state, NodeState::Listening | NodeState::Joining);
        let yields = match (pulse.state, self.is_in_view()) {
            (NodeState::Fenced, _) => false,
            (_, false) if !listens => true,
            (_, true) if listens => false,
            (_, false) => (self.me.incarnation, self.config.host) > (identity.incarnation, pulse.host),
            (_, true) => self.me.incarnation < identity.incarnation,
        };
        if yields && self.phase != Phase::Fenced {
            self.give_up_all();
            self.view = None;
            self.enter(Phase::Fenced, "another machine has this node's name");
        }
        if !reported {
            self.actions.push_back(Action::Event(Event::Duplicate { fenced: yields }));
            if let Some(twin) = &mut self.twin {
                twin.reported = true;
            }
        }
        Err(Rejection::DuplicateName { name: sender.name.to_string() })
    }

    pub(super) fn is_in_view(&self) -> bool {
        matches!(self.phase, Phase::Member | Phase::Goodbye { .. })
    }

    /// A node that hears its own name with a higher incarnation takes a higher one than that, while it owns nothing.
    pub(super) fn learn_incarnation(&mut self, identities: impl Iterator<Item = Identity>) {
        if !matches!(self.phase, Phase::Listening | Phase::Joining) {
            return;
        }
        let me = self.me;
        let highest =
            identities.filter(|identity| identity.id == me.id).map(|identity| identity.incarnation).max();
        let highest = highest.filter(|highest| *highest > me.incarnation);
        if let Some(higher) = highest.and_then(|highest| me.incarnation.after(highest)) {
            self.me.incarnation = higher;
            self.sent.clear();
            self.actions.push_back(Action::Incarnation(self.me.incarnation));
        }
    }

    /// When the pulse with these low 32 bits of its number was sent, if within T.
    pub(super) fn sent_at(&self, now: Time, sequence: u32) -> Option<Time> {
        self.sent
            .iter()
            .rev()
            .take_while(|(_, at)| now.since(*at) < self.config.timeout)
            .find(|(number, _)| *number as u32 == sequence)
            .map(|(_, at)| *at)
    }

    /// Keeps the body of a view: those of the own and of peers' views first, then the highest.
    pub(super) fn remember(&mut self, view: View) {
        self.bodies.insert(view.id, Arc::new(view));
        while self.bodies.len() > BODIES_MAX {
            let adopted: BTreeSet<ViewId> = self
                .peers
                .values()
                .filter_map(|peer| peer.word.as_ref())
                .map(|word| word.adopted)
                .chain([self.view_id()])
                .collect();
            let Some(id) =
                self.bodies.keys().find(|id| !adopted.contains(*id)).or(self.bodies.keys().next()).copied()
            else {
                break;
            };
            self.bodies.remove(&id);
        }
    }
}
