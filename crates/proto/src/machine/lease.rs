//! R4 and R7: the lease, and what happens when it lapses.

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
        let own = match self.sent.len().checked_sub(2).and_then(|i| self.sent.get(i)) {
            Some((_, before)) if self.pulsed_before.is_none() => last.min(*before + self.config.interval),
            _ => self.pulsed_before.map_or(last, |before| last.min(before + self.config.interval)),
        };
        let mut bases: Vec<Time> = self.peers.values().filter_map(|peer| peer.acknowledged).collect();
        // R10: a successor's pulse that nobody can take for a proof of life is as good as lost.
        bases.extend(Some(own).filter(|_| self.proves));
        bases.sort_unstable_by(|a, b| b.cmp(a));
        bases.get(self.config.quorum - 1).copied()
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
