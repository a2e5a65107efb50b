//! What happened, for people: history, hooks and metrics are made of it.

use std::fmt;
use std::time::Duration;

use crate::id::{NodeName, ViewId};
use crate::view::Reason;
use crate::wire::{NodeState, Task};

/// Something that an administrator may want to know. `Display` says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This node is in another state.
    State {
        /// The state that it is in.
        state: NodeState,
        /// Why.
        why: &'static str,
    },
    /// This node has adopted a view.
    View {
        /// Which.
        id: ViewId,
        /// Why it was made.
        reason: Reason,
        /// Whom the reason is about, if it is about somebody whose name is known.
        subject: Option<NodeName>,
        /// How many members it has.
        members: usize,
        /// How many buckets have another owner than in the view before.
        moved: usize,
    },
    /// A node has become a member.
    Joined {
        /// Which; `None` if its name has not been heard yet.
        node: Option<NodeName>,
    },
    /// A node has been given up because it was silent.
    Expired {
        /// Which.
        node: Option<NodeName>,
        /// For how long this node has not heard it.
        silent: Duration,
        /// Which other nodes have not heard it either.
        witnesses: Vec<NodeName>,
    },
    /// A node has started again before it was given up: its former run ended without a good-bye.
    Restarted {
        /// Which.
        node: Option<NodeName>,
    },
    /// A node has said good-bye.
    Left {
        /// Which.
        node: Option<NodeName>,
    },
    /// A member has another weight in the view than before: by command, health, draining or leaving.
    Weight {
        /// Which.
        node: Option<NodeName>,
        /// The weight in the view before.
        from: u16,
        /// The weight in the view.
        to: u16,
    },
    /// A node gives its share away and stays.
    Draining {
        /// Which other one; `None` for this one.
        node: Option<NodeName>,
    },
    /// A node that drains owns nothing and serves no connection any more.
    Drained {
        /// Which other one; `None` for this one.
        node: Option<NodeName>,
        /// Connections that were still open when their time was over.
        connections: u32,
    },
    /// A node that drained takes a share again.
    Undrained {
        /// Which other one; `None` for this one.
        node: Option<NodeName>,
    },
    /// Another node's administrator wanted something of this node, and it is done.
    Ordered {
        /// Whose.
        node: Option<NodeName>,
        /// What.
        task: Task,
    },
    /// This node has taken over all buckets that its view gives it.
    Gained {
        /// How many it has gained since it adopted the view.
        buckets: usize,
        /// How long after adopting the view that was.
        took: Duration,
    },
    /// This node was not scheduled, or not heard, until its lease lapsed: it serves nothing until it is proved
    /// again that it may.
    Stalled {
        /// How many buckets it has given up.
        buckets: usize,
        /// For how long the program did not run; small if it ran but nobody heard it.
        unscheduled: Duration,
    },
    /// This node goes on with the run of its predecessor: no packet and no other node has noticed.
    Resumed {
        /// How many buckets it owns.
        buckets: usize,
        /// How many it keeps.
        kept: usize,
    },
    /// Others have gone on without this node; it gives everything up and joins again.
    LeftOut {
        /// Which view does not name it.
        view: ViewId,
    },
    /// Another machine has the name of this node.
    Duplicate {
        /// Whether this node is the one that yields.
        fenced: bool,
    },
    /// A node wants to join, but its configuration differs in what must be the same everywhere.
    Mismatch {
        /// Which.
        node: Option<NodeName>,
    },
    /// A node wants to join, but a view cannot have more members.
    Full {
        /// Which.
        node: Option<NodeName>,
    },
}

impl Event {
    /// The kind of event in one word, as status, history and hooks name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::State { .. } => "state",
            Event::View { .. } => "view",
            Event::Joined { .. } => "joined",
            Event::Expired { .. } => "expired",
            Event::Restarted { .. } => "restarted",
            Event::Left { .. } => "left",
            Event::Weight { .. } => "weight",
            Event::Draining { .. } => "draining",
            Event::Drained { .. } => "drained",
            Event::Undrained { .. } => "undrained",
            Event::Ordered { .. } => "ordered",
            Event::Gained { .. } => "gained",
            Event::Stalled { .. } => "stalled",
            Event::Resumed { .. } => "resumed",
            Event::LeftOut { .. } => "left-out",
            Event::Duplicate { .. } => "duplicate",
            Event::Mismatch { .. } => "mismatch",
            Event::Full { .. } => "full",
        }
    }

    /// The node that it is about, if it is another one and its name is known.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Event::Joined { node }
            | Event::Expired { node, .. }
            | Event::Restarted { node }
            | Event::Left { node }
            | Event::Weight { node, .. }
            | Event::Draining { node }
            | Event::Drained { node, .. }
            | Event::Undrained { node }
            | Event::Ordered { node, .. }
            | Event::Mismatch { node }
            | Event::Full { node } => node.as_ref(),
            Event::State { .. }
            | Event::View { .. }
            | Event::Gained { .. }
            | Event::Stalled { .. }
            | Event::Resumed { .. }
            | Event::LeftOut { .. }
            | Event::Duplicate { .. } => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::State { state, why } => write!(f, "{}: {why}", state.as_str()),
            Event::View { id, reason, subject, members, moved } => {
                let plural = if *members == 1 { "" } else { "s" };
                write!(f, "view {}: {members} member{plural}, {moved} buckets move (", id.epoch)?;
                match subject {
                    Some(node) => write!(f, "{}: {node})", reason.as_str()),
                    None => write!(f, "{})", reason.as_str()),
                }
            }
            Event::Joined { .. } => write!(f, "a new node is a member"),
            Event::Expired { silent, witnesses, .. } => {
                write!(f, "not heard for {} ms", silent.as_millis())?;
                for (i, witness) in witnesses.iter().enumerate() {
                    write!(f, "{}{witness}", if i == 0 { ", nor by " } else { ", " })?;
                }
                Ok(())
            }
            Event::Restarted { .. } => {
                write!(f, "it has started again: its former run ended without a good-bye")
            }
            Event::Left { .. } => write!(f, "said good-bye"),
            Event::Weight { from, to, .. } => write!(f, "its weight in the shares went from {from} to {to}"),
            Event::Draining { .. } => {
                write!(f, "gives its share away, and serves its open connections to their end")
            }
            Event::Drained { connections: 0, .. } => write!(f, "drained: no connection is left"),
            Event::Drained { connections, .. } => {
                write!(f, "drained: the drain time-out has cut {connections} connections off")
            }
            Event::Undrained { .. } => write!(f, "takes a share again"),
            Event::Ordered { task: Task::Drain(true), .. } => write!(f, "ordered this node to drain"),
            Event::Ordered { task: Task::Drain(false), .. } => write!(f, "ordered this node to serve again"),
            Event::Ordered { task: Task::Weight(weight), .. } => {
                write!(f, "ordered this node to have the weight {weight}")
            }
            Event::Gained { buckets, took } => {
                write!(
                    f,
                    "took over {buckets} buckets within {}.{:03} ms",
                    took.as_millis(),
                    took.as_micros() % 1000
                )
            }
            Event::Stalled { buckets, unscheduled } => write!(
                f,
                "the lease lapsed (the program did not run for {} ms): gave up {buckets} buckets until proved again",
                unscheduled.as_millis()
            ),
            Event::Resumed { buckets, kept } => {
                write!(f, "took its predecessor's place: {buckets} buckets owned, {kept} kept, none moved")
            }
            Event::LeftOut { view } => {
                write!(f, "the others went on in view {} without this node: it joins again", view.epoch)
            }
            Event::Duplicate { fenced: true } => {
                write!(
                    f,
                    "another machine with this node's name is alive: this one serves nothing; give each node its own [node] name"
                )
            }
            Event::Duplicate { fenced: false } => {
                write!(
                    f,
                    "another machine with this node's name tries to join: give each node its own [node] name"
                )
            }
            Event::Mismatch { .. } => write!(
                f,
                "it cannot join: its configuration differs (addresses, mac, hash, side, quorum, timers or the first cluster key): copy the same files to every node"
            ),
            Event::Full { .. } => write!(f, "it cannot join: a cluster has at most 32 nodes"),
        }
    }
}
