//! The rules R1 to R3, R8 and R9, and the order in which all of them are applied.

use std::time::Duration;

use super::peer::Peer;
use super::{Action, GOODBYES, MEMORY_TIMEOUTS, Machine, Phase};
use crate::event::Event;
use crate::id::{Identity, ViewId};
use crate::time::Time;
use crate::view::View;
use crate::wire::Pulse;

impl Machine {
    /// Applies the rules until nothing follows from what is known at `now`.
    pub(super) fn evaluate(&mut self, now: Time) {
        self.evaluate_before_pulse(now);
        self.press_orders(now);
        let said = self.saying(now);
        let words_changed = self.said.as_ref() != Some(&said) || self.owes_a_proof();
        if words_changed && self.extra_pulses > 0 && self.said.is_some() && self.phase != Phase::Stopped {
            self.extra_pulses -= 1;
            self.pulse(now);
        }
        self.arm(now);
    }

    pub(super) fn evaluate_before_pulse(&mut self, now: Time) {
        self.turn_at = None;
        self.end_resuming(now);
        self.lapse(now);
        self.recover(now);
        self.start(now);
        self.yield_if_left_out();
        self.adopt_highest(now);
        self.pay_debts(now);
        self.agree(now);
        if matches!(self.phase, Phase::Member | Phase::Joining) {
            let adopted = self.view_id();
            self.coordinate(now);
            if self.view_id() != adopted {
                self.pay_debts(now);
            }
        }
        self.gain(now);
        self.notice_lack(now);
        self.contest(now);
        self.repeat(now);
        self.leave(now);
        self.forget(now);
        self.tell_drains();
    }

    /// R8: a starting node listens for T, joins at once if it heard somebody, and forms a view of its own only if
    /// it heard nobody.
    pub(super) fn start(&mut self, now: Time) {
        if self.phase == Phase::Fenced && self.fenced_until().is_none_or(|until| now >= until) {
            self.twin = None;
            self.listen_since = now;
            self.enter(Phase::Listening, "the other machine with this node's name is silent");
        }
        if self.phase != Phase::Listening {
            return;
        }
        if self.heard_peers(now).next().is_some() {
            self.enter(Phase::Joining, "heard other nodes");
        } else if now >= self.listen_since + self.config.timeout {
            if self.peers.is_empty() && self.twin.is_none() {
                self.enter(Phase::Joining, "heard nobody");
            } else {
                self.enter(Phase::Joining, "heard nodes that do not answer yet");
            }
        }
    }

    /// R5: a fenced node takes no part until the other machine has not been proved alive for 4 T.
    pub(super) fn fenced_until(&self) -> Option<Time> {
        let twin = self.twin.as_ref().filter(|_| self.phase == Phase::Fenced)?;
        Some(twin.proved_at? + self.config.timeout * 4)
    }

    /// R1: a peer in full contact is settled in a higher view that does not name this node: the others went on.
    pub(super) fn yield_if_left_out(&mut self) {
        if self.phase != Phase::Member {
            return;
        }
        let (now, mine) = (self.observed_at, self.view_id());
        // R11: what lives by terms that this node does not obey can neither name it nor be adopted by it, and cannot settle
        // as long as it serves. So of two groups with different configurations, which meet, the one with the lower view
        // yields: they hash flows differently, so there is no view that both could serve by.
        let yields_to = |word: &Pulse| {
            !self.obeys(word.digest)
                || word.settled && self.bodies.get(&word.adopted).is_some_and(|view| !view.names(self.me))
        };
        let left_out_by = self
            .heard_peers(now)
            .find(|(_, word)| word.adopted > mine && yields_to(word))
            .map(|(_, word)| word.adopted);
        if let Some(view) = left_out_by {
            self.give_up_all();
            self.view = None;
            self.actions.push_back(Action::Event(Event::LeftOut { view }));
            self.enter(Phase::Joining, "left out of a later view");
        }
    }

    /// R1: adopts the highest view heard of that names this node, and never one below its promise.
    pub(super) fn adopt_highest(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Joining | Phase::Member) {
            return;
        }
        let highest = self.bodies.last_key_value().map(|(_, view)| view);
        let adoptable = highest
            .filter(|view| view.id >= self.promise && view.id > self.view_id())
            .filter(|view| view.names(self.me) && self.obeys(view.digest));
        if let Some(view) = adoptable.cloned() {
            self.adopt(now, (*view).clone());
        }
    }

    /// R1: what the view does not give is given up at once, in the kernel first.
    pub(super) fn adopt(&mut self, now: Time, view: View) {
        let previous = self.view.take();
        // Whoever a former view named stays a debt until it can own nothing more.
        let former = previous.iter().flat_map(|old| old.members.iter().map(|m| m.identity));
        self.debts.extend(former.filter(|identity| *identity != self.me));
        self.debts.retain(|identity| !view.names(*identity));

        // R2: what the view still gives is not touched.
        self.given = view.owned_by(self.me.id);
        let retained = self.owned & self.given;
        if retained != self.owned {
            let given_up = self.owned - retained;
            self.own(retained);
            self.keep(given_up);
        }
        self.bereave(now, previous.as_ref(), &view);
        self.live_by(now, &view);
        self.adopted_at = now;
        self.gained_since_adoption = 0;
        self.tell_changes(now, previous.as_ref(), &view);
        let first = previous.is_none();
        self.view = Some(view);
        self.repeat_at = None;
        if first {
            self.enter(Phase::Member, "named by a view");
        }
    }

    /// A debt is paid when its node is over, or owns nothing with a promise of at least this view.
    pub(super) fn pay_debts(&mut self, now: Time) {
        let Some(view) = &self.view else {
            return;
        };
        let view_id = view.id;
        // Everyone proved alive that the view does not name.
        let unnamed: Vec<Identity> = self
            .peers
            .values()
            .filter(|peer| peer.heard.is_some() && !view.names(peer.identity))
            .map(|peer| peer.identity)
            .collect();
        self.debts.extend(unnamed);
        let paid: Vec<Identity> = self
            .debts
            .iter()
            .filter(|identity| self.is_over(now, **identity) || self.owns_nothing(now, **identity, view_id))
            .copied()
            .collect();
        for identity in paid {
            self.debts.remove(&identity);
        }
    }

    /// Whether its fresh word says that it owns nothing and will adopt no view below `view`.
    pub(super) fn owns_nothing(&self, now: Time, identity: Identity, view: ViewId) -> bool {
        self.fresh_word(now, identity).is_some_and(|word| word.state.owns_nothing() && word.promise >= view)
    }

    /// Whether its fresh word says that it is settled in exactly this view: who is settled in a higher one may have
    /// skipped this one, and retained a bucket that this one moves.
    pub(super) fn is_settled_in(&self, now: Time, identity: Identity, view: ViewId) -> bool {
        self.fresh_word(now, identity).is_some_and(|word| word.settled && word.adopted == view)
    }

    pub(super) fn fresh_word(&self, now: Time, identity: Identity) -> Option<&Pulse> {
        self.peers
            .get(&identity.id)
            .filter(|peer| peer.identity == identity)
            .and_then(|peer| peer.fresh_word(now, self.lease_span()))
    }

    /// R3: starts to own what the view gives, once nobody else can own it.
    pub(super) fn gain(&mut self, now: Time) {
        let Some(view) = self.view.as_ref().filter(|_| self.phase == Phase::Member) else {
            return;
        };
        if now >= self.lease || self.stalled_at.is_some() || !self.debts.is_empty() || self.resuming {
            return;
        }
        let given = self.given;
        debug_assert_eq!(given, view.owned_by(self.me.id));
        let wanted = given - self.owned;
        if wanted.is_empty() {
            return;
        }
        let settled = |identity: Identity| self.is_settled_in(now, identity, view.id);
        // Whom a young run has heard of, but not in an answer yet, may serve by what its run before had echoed.
        let is_young = now.since(self.started_at) < self.config.timeout;
        let is_known = |peer: &&Peer| peer.heard.is_some() || is_young && peer.unproven.is_some();
        let heard = self.peers.values().filter(is_known).map(|peer| peer.identity);
        let named = view.members.iter().map(|m| m.identity);
        let blocked = heard.chain(named).filter(|identity| *identity != self.me).any(|identity| {
            !(settled(identity)
                || (!view.names(identity) && self.owns_nothing(now, identity, view.id))
                || self.is_over(now, identity))
        });
        if blocked || !self.is_quorate(now, view, settled) {
            return;
        }
        self.own(given);
        self.gained_since_adoption += wanted.len();
        let (buckets, took) = (self.gained_since_adoption, now.since(self.adopted_at));
        self.actions.push_back(Action::Event(Event::Gained { buckets, took }));
    }

    /// R6: notices since when the view gives this node what it does not own.
    fn notice_lack(&mut self, now: Time) {
        let lacks = self.view.is_some() && !(self.given - self.owned).is_empty();
        self.lacking_since = lacks.then(|| self.lacking_since.unwrap_or(now));
    }

    /// R6: whether it has lacked something for T.
    pub(super) fn is_waiting(&self, now: Time) -> bool {
        self.lacking_since.is_some_and(|since| now.since(since) >= self.config.timeout)
    }

    /// R3: whether a quorum of members, this one included, is settled, none of them so young that its run before this
    /// one may have given somebody a lease that still holds. That run's echo binds nobody: nobody remembers it.
    fn is_quorate(&self, now: Time, view: &View, settled: impl Fn(Identity) -> bool) -> bool {
        let quorum = self.config.quorum;
        let is_seasoned = |identity: Identity| {
            if identity == self.me {
                return now.since(self.started_at) >= self.config.timeout;
            }
            self.fresh_word(now, identity)
                .is_some_and(|word| Duration::from_millis(word.uptime_ms.into()) >= self.config.timeout)
        };
        let members = view.members.iter().map(|m| m.identity);
        let words = members.filter(|who| (*who == self.me || settled(*who)) && is_seasoned(*who)).count();
        quorum == 1 || words >= quorum
    }

    /// R9: leaves when it owns nothing, or nobody could take what it owns, or it takes too long.
    pub(super) fn leave(&mut self, now: Time) {
        if let Phase::Goodbye { said, next } = self.phase {
            if now < next {
                return;
            }
            if said < GOODBYES {
                self.phase = Phase::Goodbye { said: said + 1, next: now + self.config.interval / 4 };
                self.pulse(now);
            } else {
                self.phase = Phase::Stopped;
                self.actions.push_back(Action::Stopped);
            }
            return;
        }
        if !self.leaving || self.phase == Phase::Stopped {
            return;
        }
        if self.phase == Phase::Fenced {
            // Its name is another's: a good-bye in that name would be believed of the other.
            self.phase = Phase::Stopped;
            self.actions.push_back(Action::Stopped);
            return;
        }
        let patience = if self.has_heirs(now) { self.config.timeout * 5 } else { self.config.interval };
        // What is kept is waited for, however long: the daemon's drain time-out ends it.
        let served = self.owned.is_empty() && self.keeping.is_empty();
        if served || !self.owned.is_empty() && now >= self.leaving_since + patience {
            self.give_up_all();
            self.phase = Phase::Goodbye { said: 1, next: now + self.config.interval / 4 };
            self.pulse(now);
        }
    }

    /// Drops what nobody needs any more.
    pub(super) fn forget(&mut self, now: Time) {
        let memory = self.config.timeout * MEMORY_TIMEOUTS;
        self.gone.retain(|_, (_, at)| now.since(*at) < memory);
        let view = self.view.as_ref();
        let debts = &self.debts;
        let is_needed = |peer: &Peer| {
            peer.last_heard_of().is_some_and(|at| now.since(at) < memory)
                || view.is_some_and(|view| view.names(peer.identity))
                || debts.contains(&peer.identity)
        };
        // To look is much cheaper than to retain, and it is done at each step.
        if !self.peers.values().all(is_needed) {
            self.peers.retain(|_, peer| is_needed(peer));
        }
        let peers = &self.peers;
        self.turned_away
            .retain(|identity| peers.get(&identity.id).is_some_and(|peer| peer.identity == *identity));
    }
}
