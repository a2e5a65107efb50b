//! The steps of the proof (`docs/protocol.md`, section 5), checked one by one against the truth.
//!
//! That no two kernels pass one bucket is what the rules are for; each rule has a part in it, and most lapses of one rule are
//! covered by another. So the parts are looked at themselves, at the moment when a daemon acts on them. A daemon that lost the
//! processor after it had read the clock acts in the past: what others know then they reject as stale, so nothing is asked of it.

use std::collections::BTreeSet;

use rudel_proto::id::{Identity, ViewId};
use rudel_proto::view::View;
use rudel_proto::wire::{Message, NodeState};

use super::{World, nanos};
use crate::network::Grade;

impl World {
    /// What a daemon says is taken down when it is said.
    pub(super) fn take_down(&mut self, node: usize, message: &Message) {
        let now = self.now;
        if let (Message::Pulse(pulse), Some(process)) = (message, &mut self.hosts[node].process) {
            process.words.promised = process.words.promised.max(pulse.promise);
            if pulse.settled {
                process.words.settles(pulse.adopted, now);
            }
        }
    }

    /// Looks at what a daemon has just concluded.
    pub(super) fn look_at_proof(&mut self, node: usize) {
        let local = self.hosts[node].clock.read(self.now);
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        let machine = process.brain.machine();
        let (view, settled, owned, me) =
            (machine.view().map(|view| view.id), machine.is_settled(), machine.owned(), machine.me());
        let id = view.unwrap_or(ViewId::NONE);
        let former = std::mem::replace(&mut process.words.view, id);
        let has_gained = !(owned - process.words.owned).is_empty();
        let has_settled = settled && (former != id || !process.words.was_settled);
        process.words.owned = owned;
        process.words.was_settled = settled;
        let is_new = former != id && view.is_some();
        let is_present = process.looked_at == local;
        if !(is_new || has_gained || has_settled) {
            return;
        }
        let Some(view) = machine.view().cloned() else {
            return;
        };
        if is_new {
            process.words.named.extend(view.members.iter().map(|m| m.identity));
            self.judge.adopts(id, node);
        }
        if !is_present {
            return;
        }
        if is_new && id.coordinator == me {
            self.check_left_out(node, former, &view);
        }
        if has_settled {
            self.check_settled(node, &view);
        }
        if has_gained {
            self.check_gain(node, &view);
        }
    }

    /// R5: who makes a view without a node knows that it does not serve.
    ///
    /// With a majority quorum that is knowledge of the moment when the reports were made: a word counts for T, and what
    /// it echoes may be T older. Who serves anew since does so by the echoes and the words of a quorum that follows no view
    /// without it.
    ///
    /// R11: or cannot name it, since it does not live by the terms of the view; that one is a debt of whoever knows it.
    fn check_left_out(&mut self, node: usize, former: ViewId, view: &View) {
        let Some(former) = self.judge.view_of(former).cloned() else {
            return;
        };
        for (other, who) in self.others_that_pass(node) {
            let is_anew =
                self.is_strict() && self.judge.began(other) + 2 * nanos(self.settings.slowest()) > self.now;
            let could_be_named = former.names(who) && self.lives_by(other, view.digest);
            if could_be_named && !view.names(who) && !is_anew && !self.cannot_tell(node, other) {
                let id = view.id;
                self.violate(
                    "R5 who is left out is silent",
                    format!("n{node} leaves n{other} out of {id:?}"),
                );
            }
        }
    }

    /// Whether a node says that it obeys these terms; a dead daemon's kernel is bound by what that had said, which nobody
    /// remembers here.
    fn lives_by(&self, node: usize, digest: u64) -> bool {
        let Some(machine) = self.machine(node) else {
            return true;
        };
        let terms = machine.status(self.hosts[node].clock.read(self.now)).terms;
        terms.present == digest || terms.bound && terms.wanted == Some(digest)
    }

    /// R3: who says that it is settled knows of nobody outside of its view who serves by its echo.
    ///
    /// Whom it has not heard for T it may have given up on the word of somebody who has heard it again since: what that
    /// one serves by then are the echoes of others, and those have it as a debt.
    fn check_settled(&mut self, node: usize, view: &View) {
        if !self.is_strict() {
            return;
        }
        let known = self.known_to(node);
        for (other, who) in self.others_that_pass(node) {
            if known.contains(&who) && !view.names(who) && !self.is_silent_to(node, who) {
                let id = view.id;
                self.violate(
                    "R3 who is settled has no debts",
                    format!("n{node} in {id:?}, but n{other} serves"),
                );
            }
        }
    }

    /// R3: who gains has the words of all that it knows, and of a quorum.
    fn check_gain(&mut self, node: usize, view: &View) {
        let adopters = self.judge.adopters(view.id);
        let terms = self.terms.iter().find(|terms| terms.digest == view.digest);
        if adopters < terms.map_or(self.settings.quorum, |terms| terms.quorum) {
            let id = view.id;
            self.violate(
                "R3 a quorum is settled",
                format!("n{node} gains in {id:?}, which {adopters} adopted"),
            );
        }
        let Some(process) = &self.hosts[node].process else {
            return;
        };
        let status = process.brain.machine().status(self.hosts[node].clock.read(self.now));
        let is_heard = |who: Identity| status.peers.iter().any(|peer| peer.identity == who && peer.alive);
        // Who owns nothing must have promised not to follow an older view.
        for other in (0..self.hosts.len()).filter(|other| *other != node) {
            let Some(machine) = self.machine(other) else {
                continue;
            };
            let me = machine.me();
            let promise = machine.status(self.hosts[other].clock.read(self.now)).promise;
            if !view.names(me) && is_heard(me) && machine.state().owns_nothing() && promise < view.id {
                let detail = format!("n{node} gains in {:?}, n{other} promises {promise:?}", view.id);
                self.violate("R3 who owns nothing has promised", detail);
                return;
            }
        }
        if self.settings.sealed {
            return;
        }
        // Who serves must have said lately that it serves by this view.
        let oldest = self.now.saturating_sub(nanos(self.settings.slowest()));
        let known = self.known_to(node);
        for (other, who) in self.others_that_pass(node) {
            let host = &self.hosts[other];
            let running = host.process.as_ref().map(|process| &process.words);
            let words = running.or(host.last.as_ref().map(|(_, words)| words));
            let said = words.and_then(|words| words.settled_at(view.id));
            let excused = !self.is_strict() && self.cannot_hear(node, other);
            if (view.names(who) || known.contains(&who)) && said.is_none_or(|at| at < oldest) && !excused {
                let detail =
                    format!("n{node} gains in {:?}, which n{other} has not followed: {said:?}", view.id);
                self.violate("R3 who serves has agreed", detail);
            }
        }
    }

    /// The largest quorum that was ever asked for.
    pub(crate) fn largest_quorum(&self) -> usize {
        self.terms.iter().map(|terms| terms.quorum).max().unwrap_or(1)
    }

    /// Whether a daemon has not heard another for T, nor has one whose run it goes on with: then what it has echoed of that
    /// one is part of no lease.
    fn is_silent_to(&self, node: usize, who: Identity) -> bool {
        let (host, timeout) = (&self.hosts[node], self.settings.slowest());
        let Some(process) = &host.process else {
            return false;
        };
        let status = process.brain.machine().status(host.clock.read(self.now));
        let heard = status.peers.iter().find(|peer| peer.identity == who).and_then(|peer| peer.heard);
        heard.map_or(self.now - host.started_at > nanos(timeout + timeout / 50), |age| age >= timeout)
    }

    pub(super) fn is_strict(&self) -> bool {
        self.terms.iter().all(|terms| terms.quorum * 2 > self.settings.nodes)
    }

    /// Whom a daemon has heard, or its views have named, or those of the daemons whose run it goes on with.
    pub(super) fn known_to(&self, node: usize) -> BTreeSet<Identity> {
        let host = &self.hosts[node];
        let Some(process) = &host.process else {
            return BTreeSet::new();
        };
        let peers = process.brain.machine().status(host.clock.read(self.now)).peers;
        let heard = peers.into_iter().filter(|peer| peer.heard.is_some()).map(|peer| peer.identity);
        process.words.named.iter().copied().chain(heard).collect()
    }

    /// The other machines whose kernels pass packets, and the daemon that told them to.
    fn others_that_pass(&self, node: usize) -> Vec<(usize, Identity)> {
        let passes = |other: usize| !self.hosts[other].passes(self.now).is_empty();
        (0..self.hosts.len())
            .filter(|other| *other != node && passes(*other))
            .filter_map(|other| {
                let host = &self.hosts[other];
                let running = host.process.as_ref().map(|process| process.brain.machine().me());
                Some((other, running.or(host.last.as_ref().map(|(who, _)| *who))?))
            })
            .collect()
    }

    /// Whether neither a node nor anybody whom it hears could know that another is alive. Never so with a majority quorum,
    /// which must not rely on hearing.
    fn cannot_tell(&self, node: usize, other: usize) -> bool {
        if self.is_strict() || !self.cannot_hear(node, other) {
            return false;
        }
        let since = self.now.saturating_sub(3 * nanos(self.settings.slowest()));
        let is_well = |node: usize| {
            let host = &self.hosts[node];
            // Who says good-bye is a witness no more.
            self.machine(node).is_some_and(|machine| machine.state() != NodeState::Leaving)
                && host.trouble.is_none_or(|at| at < since)
                && host.behind.is_none_or(|at| at < since)
        };
        let knows = |third: usize| {
            is_well(third)
                && self.network.in_touch(node, third, since, Grade::Firm)
                && self.network.in_touch(third, other, since, Grade::Firm)
        };
        let witness = |third: usize| third != node && third != other && knows(third);
        !(is_well(node) && is_well(other) && (0..self.hosts.len()).any(witness))
    }
}
