//! R4 and R7: the lease, and what happens when it lapses.

use super::peer::Peer;
use super::{Action, Machine, Phase};
use crate::bucket::BucketSet;
use crate::event::Event;
use crate::time::Time;

impl Machine {
    /// To be called right after a pulse was handed to the network, with the clock read anew.
    ///
    /// R4's order: read the clock (the `now` that the pulse was made at), send, *then* look whether the lease in
    /// force has lapsed, and only if not move it.
    pub fn handle_pulse_sent(&mut self, now: Time) {
        self.observe(now);
        self.move_lease(now);
        self.evaluate(now);
    }

    /// R4: moves the lease forward to what has been proved, unless it has lapsed while something is owned.
    pub(super) fn move_lease(&mut self, now: Time) {
        if self.phase != Phase::Member {
            return;
        }
        self.look_whether_awake(now);
        let Some(base) = self.lease_base() else {
            return;
        };
        let until = base + self.lease_span();
        if until <= self.lease {
            return;
        }
        self.lapse(now);
        self.lease = until;
        self.actions.push_back(Action::Lease(until));
    }

    /// When the pulse was sent that the q-th freshest node has acknowledged, this node included.
    ///
    /// This node's own share of it is its last pulse, but not more than an interval after the one before: a lease
    /// then outlives by no more than T the last pulse but one, so that one lost pulse is harmless even after a
    /// pulse that came late.
    pub(super) fn lease_base(&self) -> Option<Time> {
        let last = self.sent.back()?.1;
        let before = self.sent.len().checked_sub(2).and_then(|i| self.sent.get(i)).map(|(_, at)| *at);
        let own = |before: Option<Time>| before.map_or(last, |at| last.min(at + self.config.interval));
        let steady = self.steady.filter(|_| self.config.quorum == 1);
        let own = own(steady.or(before));
        if steady.is_some() && !self.resuming {
            // R4.4: whoever does not know it awake may give it up, although another does.
            return Some(own);
        }
        let mut bases: Vec<Time> = self.peers.values().filter_map(|peer| peer.acknowledged).collect();
        // R10: a successor's pulse that nobody can take for a proof of life is as good as lost.
        bases.extend(Some(own).filter(|_| self.proves));
        bases.sort_unstable_by(|a, b| b.cmp(a));
        bases.get(self.config.quorum - 1).copied()
    }

    /// R4.4: notes that from now on it is not known whether its pulses prove anything.
    pub(super) fn run_late(&mut self, now: Time) {
        self.woke_at = now;
        if self.steady.is_none() && self.phase == Phase::Member {
            self.steady = self.sent.back().map(|(_, at)| *at);
        }
    }

    /// R4.4: after it has run late, it is known to be awake once everybody whom it has heard of since, and somebody, has
    /// acknowledged a pulse that it has sent since; or, for want of anybody, when it must have looked at its mail.
    fn look_whether_awake(&mut self, now: Time) {
        if self.steady.is_none() {
            return;
        }
        let woke = self.woke_at;
        let is_of_now = |peer: &&Peer| peer.last_heard_of().is_some_and(|at| at >= woke);
        let mut met =
            self.peers.values().filter(is_of_now).filter(|peer| !self.is_gone(peer.identity)).peekable();
        let is_awake = match met.peek() {
            Some(_) => met.all(|peer| peer.acknowledged.is_some_and(|sent| sent >= woke)),
            None => (!self.resuming || self.is_alone()) && now >= woke + self.config.interval / 2,
        };
        if is_awake || !self.is_late(now) {
            (self.steady, self.borrowed, self.proves) = (None, false, true);
        }
    }

    /// R7: gives everything up if the lease has lapsed, what is kept included.
    pub(super) fn lapse(&mut self, now: Time) {
        let serves = !self.owned.is_empty() || !self.keeping.is_empty();
        if serves && now >= self.lease {
            self.stall(now);
        }
    }

    /// R7: from this moment the node owns nothing; it stays a member, and gains again when it is proved that the
    /// others know it awake.
    pub(super) fn stall(&mut self, now: Time) {
        let buckets = self.owned.len();
        self.stalled_at = Some(now);
        // Nothing is owned that a lease could outlive.
        (self.steady, self.borrowed) = (None, false);
        self.keep_nothing();
        if buckets > 0 {
            self.own(BucketSet::EMPTY);
            let unscheduled = self.unscheduled;
            self.actions.push_back(Action::Event(Event::Stalled { buckets, unscheduled }));
        }
    }

    /// R7: whether a stalled node may gain again: everyone it hears, and somebody, has acknowledged a pulse that it
    /// sent after the lapse; with nobody there, after listening for T.
    pub(super) fn recover(&mut self, now: Time) {
        let Some(stalled_at) = self.stalled_at.filter(|_| self.connected) else {
            return;
        };
        let echoes: Vec<Option<Time>> = self.heard_peers(now).map(|(peer, _)| peer.acknowledged).collect();
        let recovered = if echoes.is_empty() {
            now >= stalled_at + self.config.timeout
        } else {
            echoes.iter().all(|echoed| echoed.is_some_and(|sent| sent > stalled_at))
        };
        if recovered {
            self.stalled_at = None;
        }
    }
}
