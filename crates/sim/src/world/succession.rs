//! R10: daemons that go on with the run of one that died, with what it has left in the kernel.

use rudel_proto::bucket::BucketSet;
use rudel_proto::id::ViewId;
use rudel_proto::machine::{Inheritance, Machine, Memo, NUMBERS_RESERVED};
use rudel_proto::seal::{ClusterKey, Keys};
use rudel_proto::{Command, Node};

use super::World;
use crate::host::{Brain, Kernel};

impl World {
    /// How often a daemon went on with the run of a dead one.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Before a datagram that says something new. A [`Node`] tells by itself what to leave.
    pub(super) fn leave_memo(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let process = host.process.as_ref().filter(|_| self.leaves_memos);
        let Some(Brain::Machine(machine)) = process.map(|process| &process.brain) else {
            return;
        };
        host.memo = machine.memo().map(|memo| Memo { reserved: memo.reserved + NUMBERS_RESERVED, ..memo });
    }

    /// A whole node, which leaves memos if anybody reads them.
    pub(super) fn behind_its_door(&self, mut node: Node) -> Brain {
        if self.leaves_memos {
            node.leave_memos();
        }
        Brain::Node(Box::new(node))
    }

    /// Goes on with the run of the daemon that died here last, or begins a new one if that cannot be. Before its first step
    /// it gets no processor for so long.
    pub(super) fn resume(&mut self, node: usize, asleep: u64) {
        let host = &self.hosts[node];
        if host.process.is_some() {
            return;
        }
        let now = host.clock.read(self.now);
        let Kernel { owned, lease } = host.kernel;
        let Some(memo) = host.memo.clone() else {
            return self.start(node, false);
        };
        let (me, none) = (memo.me, BucketSet::EMPTY);
        // R11: it lives by the terms of its predecessor's view, whatever the file says, and wants those of the file.
        let present = memo.view.digest;
        let terms = memo.obeyed.iter().copied().find(|terms| terms.digest == present);
        let config = self.config_of(node, terms.expect("the terms of its view are obeyed"));
        let host = &mut self.hosts[node];
        let file = host.file;
        host.wish(file);
        self.judge.forget_untold(memo.me, memo.promise);
        let inheritance = Inheritance { memo, owned, contested: none, kept: none, lease };
        let brain = if self.settings.sealed {
            let keys = Keys::new(ClusterKey::new([7; 32]), []);
            Node::resume(config, keys, inheritance, now).map(|node| self.behind_its_door(node))
        } else {
            Machine::resume(config, inheritance, now).map(|machine| Brain::Machine(Box::new(machine)))
        };
        let Ok(brain) = brain else {
            return self.start(node, false);
        };
        // To the others it is the same node: what the former daemon has said binds it.
        let said = self.hosts[node].last.take().filter(|(who, _)| *who == me).map(|(_, words)| words);
        let mut words = said.unwrap_or_default();
        let machine = brain.machine();
        words.owned = machine.owned();
        words.view = machine.view().map_or(ViewId::NONE, |view| view.id);
        let (promised, promise) = (words.promised, machine.status(now).promise);
        if promise < promised {
            self.violate("R10 promises are kept", format!("n{node} promised {promised:?}, now {promise:?}"));
        }
        self.resumed += 1;
        self.put(node, brain, words, [Command::Terms(file)].into(), asleep);
    }
}
