//! Tells when a node begins to drain, has drained, and serves again: of this node and of every other. No rule looks at
//! it.

use super::{Action, Machine};
use crate::bucket::BucketSet;
use crate::event::Event;
use crate::id::{NodeId, NodeName};
use crate::wire::NodeState;

/// How far a node is with a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// It does not drain.
    None,
    /// It gives its share away, and serves the connections that are left to their end.
    Begun,
    /// It owns and keeps nothing any more.
    Ended,
}

impl Machine {
    /// Compares what every node is about with what was told last.
    pub(super) fn tell_drains(&mut self) {
        let mut events = Vec::new();
        let mine = self.drain_of(self.me.id, self.state(), self.is_settled(), self.keeping);
        tell(self.drain, mine, None, self.connections, &mut events);
        self.drain = mine;
        let mut heard = Vec::new();
        for peer in self.peers.values() {
            let Some(word) = &peer.word else { continue };
            let settled = word.settled && word.adopted == self.view_id();
            let drain = self.drain_of(peer.identity.id, word.state, settled, word.keeping);
            // Whom this node has just met has not changed.
            if let Some(before) = peer.drain.filter(|before| *before != drain) {
                tell(before, drain, Some(&peer.name), word.connections, &mut events);
            }
            if peer.drain != Some(drain) {
                heard.push((peer.identity.id, drain));
            }
        }
        for (id, drain) in heard {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.drain = Some(drain);
            }
        }
        self.actions.extend(events.into_iter().map(Action::Event));
    }

    fn drain_of(&self, id: NodeId, state: NodeState, settled: bool, keeping: BucketSet) -> Drain {
        let owns_nothing = || self.view.as_ref().is_some_and(|view| view.owned_by(id).is_empty());
        match state {
            NodeState::Draining if settled && keeping.is_empty() && owns_nothing() => Drain::Ended,
            NodeState::Draining => Drain::Begun,
            _ => Drain::None,
        }
    }
}

fn tell(before: Drain, after: Drain, node: Option<&NodeName>, connections: u32, events: &mut Vec<Event>) {
    let node = node.cloned();
    match (before, after) {
        (Drain::None, Drain::Begun) => events.push(Event::Draining { node }),
        (Drain::None, Drain::Ended) => {
            events.push(Event::Draining { node: node.clone() });
            events.push(Event::Drained { node, connections });
        }
        (Drain::Begun, Drain::Ended) => events.push(Event::Drained { node, connections }),
        (Drain::Begun | Drain::Ended, Drain::None) => events.push(Event::Undrained { node }),
        // A view gave it something again for a moment, since nobody else was there.
        (Drain::Ended, Drain::Begun) | (Drain::None, Drain::None) => {}
        (Drain::Begun, Drain::Begun) | (Drain::Ended, Drain::Ended) => {}
    }
}
