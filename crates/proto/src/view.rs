//! Views: who is a member, and who owns which bucket.

use std::collections::BTreeMap;
use std::fmt;

use crate::bucket::BucketSet;
use crate::id::{Identity, NodeId, ViewId};
use crate::share::Owners;

/// Most members of a view.
pub const MEMBERS_MAX: usize = 32;

/// A member of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Who.
    pub identity: Identity,
    /// The weight that its share was made of: zero while it drains or leaves, and while it is
    /// unhealthy and others are not (R6.5).
    pub weight: u16,
}

/// Why a view was made; the first that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The first view of a node that heard nobody.
    Start = 0,
    /// A member was not heard for the time-out.
    Expired = 1,
    /// A member said good-bye.
    Left = 2,
    /// A node joined.
    Joined = 3,
    /// A member's weight, health, or will to drain changed.
    Weight = 4,
    /// Two views met.
    Merged = 5,
    /// A member that could not take buckets before can now.
    Balance = 6,
    /// All members are to live by other terms (R11).
    Terms = 7,
}

impl Reason {
    /// The reason with the given number on the wire.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Reason::Start,
            1 => Reason::Expired,
            2 => Reason::Left,
            3 => Reason::Joined,
            4 => Reason::Weight,
            5 => Reason::Merged,
            6 => Reason::Balance,
            7 => Reason::Terms,
            _ => return None,
        })
    }

    /// The reason in one word, as metrics label it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Start => "start",
            Reason::Expired => "expired",
            Reason::Left => "left",
            Reason::Joined => "joined",
            Reason::Weight => "weight",
            Reason::Merged => "merged",
            Reason::Balance => "balance",
            Reason::Terms => "terms",
        }
    }
}

/// Who is a member, and who owns which bucket, according to one coordinator.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct View {
    /// Its place in the order of views.
    pub id: ViewId,
    /// The terms that its members live by (R11).
    pub digest: u64,
    /// Why it was made.
    pub reason: Reason,
    /// Whom the reason is about; zero for nobody.
    pub subject: NodeId,
    /// Its members, ascending by node identity, each once, at most [`MEMBERS_MAX`].
    pub members: Vec<Member>,
    /// The owner of each bucket, always a member.
    pub owners: Owners,
}

impl fmt::Debug for View {
    /// The owners as counts: 256 names tell a reader nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let View { id, digest, reason, subject, members, owners } = self;
        let mut counts: BTreeMap<Option<NodeId>, usize> = BTreeMap::new();
        for owner in owners {
            *counts.entry(*owner).or_default() += 1;
        }
        f.debug_struct("View")
            .field("id", id)
            .field("digest", digest)
            .field("reason", reason)
            .field("subject", subject)
            .field("members", members)
            .field("buckets", &counts)
            .finish()
    }
}

impl View {
    /// The member that is this node in this incarnation.
    pub fn member(&self, identity: Identity) -> Option<&Member> {
        let index = self.members.binary_search_by_key(&identity.id, |member| member.identity.id).ok()?;
        Some(&self.members[index]).filter(|member| member.identity == identity)
    }

    /// Whether it names this node in this incarnation.
    pub fn names(&self, identity: Identity) -> bool {
        self.member(identity).is_some()
    }

    /// The buckets that it gives to a node.
    pub fn owned_by(&self, id: NodeId) -> BucketSet {
        BucketSet::from_fn(|bucket| self.owners[bucket] == Some(id))
    }

    /// Whether it is what the type promises; checked before sending and after receiving.
    pub fn is_well_formed(&self) -> bool {
        self.id > ViewId::NONE
            && !self.members.is_empty()
            && self.members.len() <= MEMBERS_MAX
            && self.members.windows(2).all(|pair| pair[0].identity.id < pair[1].identity.id)
            && self.owners.iter().flatten().all(|owner| self.members.iter().any(|m| m.identity.id == *owner))
    }
}
