//! What a node knows, for people: the status that the control tool shows.

use std::time::Duration;

use crate::bucket::BucketSet;
use crate::id::{Identity, NodeName, ViewId};
use crate::view::View;
use crate::wire::{NodeState, Pulse};

/// A snapshot of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is about.
    pub state: NodeState,
    /// Who it is.
    pub identity: Identity,
    /// The number of its last datagram.
    pub sequence: u64,
    /// What is left of its lease; `None` if it has lapsed.
    pub lease: Option<Duration>,
    /// Whether the lease holds and a bucket is owned.
    pub serving: bool,
    /// Whether it has given up what its view does not give it, and has no debts.
    pub settled: bool,
    /// Whether it was scheduled late within the last time-out.
    pub late: bool,
    /// The adopted view.
    pub view: Option<View>,
    /// The highest view that it has heard of.
    pub promise: ViewId,
    /// What it owns.
    pub owned: BucketSet,
    /// What it has given up, and still serves open connections of.
    pub kept: BucketSet,
    /// Connections that are still open in buckets that it has given up.
    pub connections: u32,
    /// Its weight.
    pub weight: u16,
    /// Whether its health checks pass.
    pub healthy: bool,
    /// What it lives by alike with all members.
    pub terms: TermsStatus,
    /// The others.
    pub peers: Vec<PeerStatus>,
}

/// Which terms a node lives by, and which it would rather (R11); by their digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermsStatus {
    /// Those of its view.
    pub present: u64,
    /// Those that its configuration asks for, if they are others.
    pub wanted: Option<u64>,
    /// Whether it obeys the wanted ones already.
    pub bound: bool,
    /// All that it obeys.
    pub obeyed: Vec<u64>,
}

/// What a node knows of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: NodeName,
    /// Who it is.
    pub identity: Identity,
    /// How long ago it was last proved alive; `None` if never.
    pub heard: Option<Duration>,
    /// The number of the datagram that proved it; 0 if none has.
    pub sequence: u64,
    /// Whether that was within the time-out, and it has not said good-bye since.
    pub alive: bool,
    /// Whether it said good-bye.
    pub gone: bool,
    /// What it last said.
    pub word: Option<Pulse>,
    /// What is wrong with it, in its own words, while it says that it is not fit.
    pub complaint: Option<String>,
}
