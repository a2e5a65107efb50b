//! R10: daemons that go on with the run of one that died, with what it has left in the kernel.

use rudel_proto::Node;
use rudel_proto::bucket::BucketSet;
use rudel_proto::id::ViewId;
use rudel_proto::machine::{Inheritance, Machine, Memo, NUMBERS_RESERVED};
use rudel_proto::seal::{ClusterKey, Keys};

use super::World;
use crate::host::{Brain, Kernel};

impl World {
    /// How often a daemon went on with the run of a dead one.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Before a datagram that says something new.
    pub(super) fn leave_memo(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let process = host.process.as_ref().filter(|_| self.leaves_memos);
        host.memo = process.and_then(|process| {
            let memo = process.brain.machine().memo()?;
            Some(Memo { reserved: memo.reserved + NUMBERS_RESERVED, ..memo })
        });
    }

    /// Goes on with the run of the daemon that died here last, or begins a new one if that cannot be.
    pub(super) fn resume(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if host.process.is_some() {
            return;
        }
        let now = host.clock.read(self.now);
        let Kernel { owned, lease } = host.kernel;
        let Some(memo) = host.memo.clone().filter(|_| now < lease) else {
            return self.start(node, false);
        };
        // To the others it is the same node: what the former daemon has said binds it.
        let said = host.last.take().filter(|(who, _)| *who == memo.me).map(|(_, words)| words);
        let mut words = said.unwrap_or_default();
        let none = BucketSet::EMPTY;
        let inheritance = Inheritance { memo, owned, contested: none, kept: none, lease };
        let config = self.config_of(node);
        let brain = if self.settings.sealed {
            let keys = Keys::new(ClusterKey::new([7; 32]), []);
            let resumed = Node::resume(config, keys, inheritance, now);
            Brain::Node(Box::new(resumed.expect("its own run, within the lease")))
        } else {
            let resumed = Machine::resume(config, inheritance, now);
            Brain::Machine(Box::new(resumed.expect("its own run, within the lease")))
        };
        let machine = brain.machine();
        words.owned = machine.owned();
        words.view = machine.view().map_or(ViewId::NONE, |view| view.id);
        let (promised, promise) = (words.promised, machine.status(now).promise);
        if promise < promised {
            self.violate("R10 promises are kept", format!("n{node} promised {promised:?}, now {promise:?}"));
        }
        self.resumed += 1;
        self.put(node, brain, words);
    }
}
