//! What two machines must have in common to behave alike from now on, as something to hash.
//!
//! A model checker explores a finite space only if it recognises a state that it has seen before, although the
//! clock, the sequence numbers and the epochs have gone on. So everything is measured from an [`Origin`]: instants
//! from now, numbers from what their sender said last, epochs from the highest promise. Left out is what no rule
//! ever asks for again: what only events tell, and bodies of views that nobody serves by. So are the replay
//! windows: the checker's world must deliver no datagram twice.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::{Action, Machine, Phase};
use crate::id::{Identity, ViewId};
use crate::time::Time;
use crate::view::View;
use crate::wire::{Heard, Message, Pulse};

/// Ages beyond this many time-outs are alike: no rule compares an age with more than five, but for how long the
/// dead are remembered (and forgetting them is therefore not explored).
const HORIZON_TIMEOUTS: u32 = 6;

/// Where measuring begins.
pub struct Origin<'a> {
    /// The present on the machine's clock.
    pub now: Time,
    /// The cluster's time-out.
    pub timeout: Duration,
    /// The highest epoch that any node has promised.
    pub epoch: u64,
    /// Every view that somebody has adopted, or says so in a message that is remembered or on its way.
    pub cited: &'a BTreeSet<ViewId>,
    /// The number of the last datagram that a node sent in a run.
    pub sequence: &'a dyn Fn(Identity) -> u64,
}

impl Origin<'_> {
    /// How far from now an instant is, in nanoseconds; the distant past is all alike.
    pub fn instant(&self, at: Time) -> i64 {
        let ahead = at.since(self.now).as_nanos();
        if ahead > 0 {
            return i64::try_from(ahead).unwrap_or(i64::MAX);
        }
        -i64::try_from(self.now.since(at).min(self.horizon()).as_nanos()).unwrap_or(i64::MAX)
    }

    /// Hashes a message that is on its way to a node, or, for `None`, to all.
    pub fn message<H: Hasher>(&self, message: &Message, to: Option<Identity>, state: &mut H) {
        match message {
            Message::Pulse(pulse) => {
                self.pulse(pulse, state);
                // A good-bye echoes nothing, and has no number.
                let told = |entry: &&Heard| !entry.gone && to.is_none_or(|to| entry.identity == to);
                for entry in pulse.heard.iter().filter(told) {
                    if Duration::from_micros(entry.age_us.into()) < self.horizon() {
                        self.number(entry.identity, entry.sequence, state);
                    }
                }
            }
            Message::View(view) => self.view(view, state),
            Message::Order(order) => {
                (order.to, order.number, order.task).hash(state);
                self.number(order.to, order.echo, state);
            }
            Message::Done(done) => (done.to, done.number).hash(state),
            Message::Complaint(complaint) => complaint.hash(state),
        }
    }

    /// Hashes a number of a node's datagram, of which perhaps only the low half is known.
    pub fn number<H: Hasher>(&self, sender: Identity, sequence: u32, state: &mut H) {
        ((self.sequence)(sender) as u32).wrapping_sub(sequence).hash(state);
    }

    /// Hashes a view's identity.
    pub fn view_id<H: Hasher>(&self, id: ViewId, state: &mut H) {
        (id != ViewId::NONE).then(|| self.epoch.wrapping_sub(id.epoch)).hash(state);
        id.coordinator.hash(state);
    }

    fn horizon(&self) -> Duration {
        self.timeout * HORIZON_TIMEOUTS
    }

    fn maybe<H: Hasher>(&self, at: Option<Time>, state: &mut H) {
        at.map(|at| self.instant(at)).hash(state);
    }

    fn view<H: Hasher>(&self, view: &View, state: &mut H) {
        self.view_id(view.id, state);
        view.digest.hash(state);
        (view.reason as u8, view.subject, &view.members).hash(state);
        for owner in &view.owners {
            state.write_u64(owner.map_or(0, |id| id.as_u64()));
        }
    }

    /// A word as it is remembered: which numbers it echoed is used up.
    fn pulse<H: Hasher>(&self, pulse: &Pulse, state: &mut H) {
        let horizon = self.horizon();
        let uptime = Duration::from_millis(pulse.uptime_ms.into()).min(horizon);
        (uptime, pulse.state, pulse.weight, pulse.keeping).hash(state);
        (pulse.digest, pulse.wanted, pulse.bound, pulse.timeout_us).hash(state);
        (pulse.healthy, pulse.late, pulse.waiting, pulse.settled, pulse.gone).hash(state);
        // Examinations are counted as they are: a world has as many as verdicts were changed in it.
        (pulse.cut, pulse.checkup).hash(state);
        self.view_id(pulse.adopted, state);
        self.view_id(pulse.promise, state);
        state.write_usize(pulse.heard.len());
        for entry in &pulse.heard {
            let age = Duration::from_micros(entry.age_us.into()).min(horizon);
            (entry.identity, age, entry.proven, entry.gone).hash(state);
        }
    }
}

impl Message {
    /// The view by which its sender serves, or that it brings.
    pub fn cited_view(&self) -> Option<ViewId> {
        match self {
            Message::Pulse(pulse) => Some(pulse.adopted),
            Message::View(view) => Some(view.id),
            Message::Order(_) | Message::Done(_) | Message::Complaint(_) => None,
        }
    }
}

impl Machine {
    /// The number of the last datagram that it has made.
    pub fn last_sequence(&self) -> u64 {
        self.sequence
    }

    /// The highest view that it has heard of.
    pub fn promise(&self) -> ViewId {
        self.promise
    }

    /// The views by which it and, as far as it knows, its peers serve, and those that it may still adopt or send.
    pub fn cited_views(&self) -> impl Iterator<Item = ViewId> {
        let mine = self.view_id();
        let words = self.peers.values().filter_map(|peer| peer.word.as_ref()).map(|word| word.adopted);
        let waiting = self.actions.iter().filter_map(|action| match action {
            Action::Send { message, .. } => message.cited_view(),
            _ => None,
        });
        let adoptable = self.bodies.keys().copied().filter(move |id| *id > mine);
        words.chain(waiting).chain(adoptable).chain([mine])
    }

    /// Hashes what two machines must have in common to behave alike from now on.
    pub fn fingerprint<H: Hasher>(&self, origin: &Origin<'_>, state: &mut H) {
        // A new field does not compile until somebody has thought about it here: one that rules look at and that is
        // not hashed makes a checker blind. The last ones never change here, or are told and never asked.
        #[rustfmt::skip]
        let Machine {
            me: _, phase: _, weight: _, healthy: _, connected: _, checkup: _, examination: _, draining: _, leaving: _,
            leaving_since: _, keeping: _, contested: _, orders: _, started_at: _, listen_since: _, observed_at: _,
            late_until: _, stalled_at: _, resuming: _, steady: _, woke_at: _, borrowed: _, proves: _, terms: _, view: _, promise: _, debts: _,
            owned: _,
            lacking_since: _, lease: _, bodies: _, peers: _, gone: _, twin: _,
            sent: _, pulse_due: _, extra_pulses: _, said: _, want: _, wanted_since: _, turn_at: _, repeat_at: _,
            timers: _, actions: _,
            // Not hashed:
            config: _, connections: _, bereaved: _, audits: _, complaint: _, complaint_in: _, drain: _, unscheduled: _, adopted_at: _, gained_since_adoption: _,
            turned_away: _, windows: _, sequence: _,
            // Follows from the view:
            given: _,
        } = self;
        self.fingerprint_of_self(origin, state);
        self.fingerprint_of_views(origin, state);
        self.fingerprint_of_peers(origin, state);
        self.fingerprint_of_intentions(origin, state);
    }

    fn fingerprint_of_self<H: Hasher>(&self, origin: &Origin<'_>, state: &mut H) {
        self.me.hash(state);
        std::mem::discriminant(&self.phase).hash(state);
        if let Phase::Goodbye { said, next } = self.phase {
            (said, origin.instant(next)).hash(state);
        }
        (self.weight, self.healthy, self.connected, self.draining, self.leaving).hash(state);
        (self.checkup, self.examination).hash(state);
        (self.keeping, self.contested).hash(state);
        if self.leaving {
            origin.instant(self.leaving_since).hash(state);
        }
        for at in [self.started_at, self.listen_since, self.observed_at] {
            origin.instant(at).hash(state);
        }
        origin.instant(self.late_until).max(0).hash(state);
        origin.maybe(self.stalled_at, state);
        (self.resuming, self.borrowed, self.proves).hash(state);
        origin.maybe(self.steady, state);
        origin.maybe(self.steady.map(|_| self.woke_at), state);
        let (obeyed, present, wanted, bound, since, told) = self.terms.parts();
        (obeyed, present, wanted, bound, told).hash(state);
        origin.instant(since).hash(state);
    }

    fn fingerprint_of_views<H: Hasher>(&self, origin: &Origin<'_>, state: &mut H) {
        let mine = self.view_id();
        origin.view_id(mine, state);
        origin.view_id(self.promise, state);
        (&self.debts, self.owned).hash(state);
        // Whoever has waited for T waits, however long.
        self.lacking_since.map(|since| origin.now.since(since).min(self.config.timeout)).hash(state);
        origin.instant(self.lease).hash(state);
        // A lower body that nobody serves by is never asked for again.
        for body in self.bodies.values().filter(|body| body.id >= mine || origin.cited.contains(&body.id)) {
            origin.view(body, state);
        }
    }

    fn fingerprint_of_peers<H: Hasher>(&self, origin: &Origin<'_>, state: &mut H) {
        state.write_usize(self.peers.len());
        for peer in self.peers.values() {
            (peer.identity, peer.follows).hash(state);
            for contact in [peer.heard, peer.unproven] {
                origin.maybe(contact.map(|contact| contact.at), state);
                // What is older than that echoes nothing, and nothing older is on its way.
                if let Some(contact) =
                    contact.filter(|contact| origin.now.since(contact.at) < origin.horizon())
                {
                    origin.number(peer.identity, contact.sequence as u32, state);
                }
            }
            peer.word.is_some().hash(state);
            if let Some(word) = &peer.word {
                origin.pulse(word, state);
            }
            origin.maybe(peer.echoed, state);
            origin.maybe(peer.acknowledged, state);
            peer.obeyed.hash(state);
        }
        state.write_usize(self.gone.len());
        for (id, (incarnation, at)) in &self.gone {
            (id, incarnation, origin.instant(*at)).hash(state);
        }
        self.twin.is_some().hash(state);
        if let Some(twin) = &self.twin {
            (twin.identity, origin.instant(twin.contact.at), twin.reported).hash(state);
            origin.maybe(twin.proved_at, state);
            origin.number(twin.identity, twin.contact.sequence as u32, state);
        }
    }

    fn fingerprint_of_intentions<H: Hasher>(&self, origin: &Origin<'_>, state: &mut H) {
        state.write_usize(self.sent.len());
        for (sequence, at) in &self.sent {
            origin.number(self.me, *sequence as u32, state);
            origin.instant(*at).hash(state);
        }
        (origin.instant(self.pulse_due), self.extra_pulses).hash(state);
        if let Some(said) = &self.said {
            (said.state, said.healthy, said.checkup, said.weight, said.settled, said.gone).hash(state);
            (said.debts, said.keeping, said.silent, said.digest, said.wanted).hash(state);
            origin.view_id(said.adopted, state);
            origin.view_id(said.promise.unwrap_or(ViewId::NONE), state);
        }
        if let Some(want) = &self.want {
            want.fingerprint(origin, state);
        }
        self.orders.fingerprint(origin, state);
        for at in [self.wanted_since, self.turn_at, self.repeat_at, self.timers.next()] {
            origin.maybe(at, state);
        }
        for action in &self.actions {
            std::mem::discriminant(action).hash(state);
            match action {
                Action::Send { message, .. } => origin.message(message, None, state),
                Action::Own(owned) => owned.hash(state),
                Action::Lease(until) => origin.instant(*until).hash(state),
                Action::Examine(number) => number.hash(state),
                _ => {}
            }
        }
    }
}
