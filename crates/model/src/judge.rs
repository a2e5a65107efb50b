//! What must never happen, by true time and by what the kernels pass; and what the network did to whom.

use std::fmt;
use std::hash::{Hash, Hasher};

use rudel_proto::Time;

use crate::world::World;

/// What is checked in every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Property {
    /// S1: no two nodes that can hear each other pass the same bucket.
    OneOwner,
    /// S2: with a quorum of more than half, no two nodes at all do.
    OneOwnerApart,
    /// S3: the kernel of a hung or dead daemon is silent before another node owns.
    Silent,
    /// R4: a lease that lapsed while buckets were owned is not moved forward.
    Lapsed,
    /// R1: views are adopted in order, each is one, and names who adopts it.
    Monotone,
    /// R1: what is owned is part of what the view gives.
    Gift,
    /// A daemon has done at some time.
    Rest,
    /// L1: once nothing goes wrong any more, every bucket is passed by somebody, for ever.
    NoOrphan,
    /// L2: once nothing goes wrong any more, the living serve equal shares of one view, for ever.
    Balance,
}

impl Property {
    /// Whether it is about what happens at last, not about every state.
    pub fn is_eventual(self) -> bool {
        matches!(self, Property::NoOrphan | Property::Balance)
    }

    /// The property in words.
    pub fn name(self) -> &'static str {
        match self {
            Property::OneOwner => "S1 one owner",
            Property::OneOwnerApart => "S2 one owner under partition",
            Property::Silent => "S3 a hung or dead node's kernel is silent before another owns",
            Property::Lapsed => "R4 a lapsed lease stays lapsed",
            Property::Monotone => "R1 views are adopted in order",
            Property::Gift => "R1 owned is part of what the view gives",
            Property::Rest => "a daemon has done at some time",
            Property::NoOrphan => "L1 no orphan",
            Property::Balance => "L2 balance",
        }
    }
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub property: Property,
    /// Who, what and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property.name(), self.detail)
    }
}

/// What the network did to the pulses of one node on their way to another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contact {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// When the first of the pulses lost in a row was sent. One that took so long, there and back, that it proves
    /// nothing any more is as good as lost.
    lost_since: Option<u64>,
    /// When last a second pulse was lost in a row, or one took longer than half of what a round trip may: from then
    /// on, for two time-outs at least and until all is at rest again, the two count as cut off from each other.
    broken_at: Option<u64>,
}

impl Contact {
    pub(crate) fn fingerprint<H: Hasher>(&self, now: u64, timeout: u64, state: &mut H) {
        let age = |at: u64, most: u64| now.saturating_sub(at).min(most);
        (self.cut, self.lost_since.map(|at| age(at, timeout)), self.broken_at.map(|at| age(at, 2 * timeout)))
            .hash(state);
    }
}

impl World {
    /// A pulse did not arrive, or too late to prove anything.
    pub(crate) fn lost(&mut self, from: usize, to: usize, sent: u64) {
        let (now, interval) = (self.now, self.setup().interval);
        let pair = self.pair(from, to);
        let contact = &mut self.contacts[pair];
        // A lease allows for one lost pulse in a row, should its holder hang.
        let other = *contact.lost_since.get_or_insert(sent);
        contact.lost_since = Some(other.min(sent));
        if other.abs_diff(sent) >= interval / 2 {
            contact.broken_at = Some(now);
        }
    }

    /// A pulse arrived.
    pub(crate) fn heard(&mut self, from: usize, to: usize) {
        let pair = self.pair(from, to);
        self.contacts[pair].lost_since = None;
    }

    /// A datagram will take so long.
    pub(crate) fn delayed(&mut self, from: usize, to: usize, span: u64) {
        if span >= self.setup().timeout / 4 {
            let pair = self.pair(from, to);
            self.contacts[pair].broken_at = Some(self.now);
        }
    }

    /// Those that could not hear each other can again, once all is as it should be.
    pub(crate) fn forgive(&mut self) {
        let Some(last) = self.contacts.iter().filter_map(|contact| contact.broken_at).max() else {
            return;
        };
        if self.now - last >= 2 * self.setup().timeout && self.is_fair() && self.is_at_rest() {
            self.contacts.iter_mut().for_each(|contact| contact.broken_at = None);
        }
    }

    /// What a kernel passes may have changed. It is enough to look when something is written: time takes leases away,
    /// and gives none.
    pub(crate) fn judge_kernel(&mut self, node: usize) {
        let strict = self.setup().is_strict();
        for other in (0..self.nodes()).filter(|other| *other != node) {
            let shared = self.passes(node) & self.passes(other);
            if shared.is_empty() {
                continue;
            }
            let pairs = [self.pair(node, other), self.pair(other, node)];
            let broken = pairs.into_iter().any(|pair| self.contacts[pair].broken_at.is_some());
            if !strict && broken {
                continue;
            }
            let property = if self.is_dead_or_hung(other) {
                Property::Silent
            } else if broken {
                Property::OneOwnerApart
            } else {
                Property::OneOwner
            };
            let left = self.kernel(other).lease.since(Time::from_nanos(self.now));
            self.violate(property, || {
                format!(
                    "n{node} begins to pass {} buckets that n{other} passes for another {left:?}",
                    shared.len()
                )
            });
        }
    }

    /// R4, by what the daemon could know when it looked. Whether it did harm is what S1 to S3 say.
    pub(crate) fn judge_lease(&mut self, node: usize, until: Time) {
        let (kernel, looked_at) = (self.kernel(node), self.looked_at(node));
        if looked_at >= kernel.lease && !kernel.owned.is_empty() && until > Time::from_nanos(self.now) {
            let (owned, late) = (kernel.owned, looked_at.since(kernel.lease));
            self.violate(Property::Lapsed, || {
                format!("n{node} revives its lease {late:?} after it lapsed, owning {owned:?}")
            });
        }
    }

    pub(crate) fn violate(&mut self, property: Property, detail: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let violation = Violation { property, detail: detail() };
            self.note(|| format!("VIOLATION of {violation}"));
            self.violation = Some(Box::new(violation));
        }
    }
}
