//! Worlds that read like stories.
//!
//! ```
//! use rudel_sim::cluster::{Cluster, ms};
//!
//! let mut t = Cluster::new(3);
//! t.node(1).hang(ms(800));
//! t.run(ms(500));
//! assert_eq!(t.shares(), [128, 0, 128]);
//! t.rest();
//! assert_eq!(t.shares().iter().sum::<usize>(), 256);
//! ```

use std::time::Duration;

use rudel_proto::Command;
use rudel_proto::bucket::BucketSet;
use rudel_proto::machine::Machine;

use crate::host::Point;
use crate::network::Weather;
use crate::server::Server;
use crate::world::{Deed, Settings, World, nanos};

/// So many milliseconds.
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So many microseconds.
pub const fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// A world with a handle for telling stories. Panics as soon as a property does not hold.
pub struct Cluster {
    world: World,
}

impl Cluster {
    /// `nodes` nodes that have started together and come to rest.
    pub fn new(nodes: usize) -> Self {
        Cluster::of(Settings::new(nodes))
    }

    /// As [`Cluster::new`], serving only where `quorum` nodes hear each other.
    pub fn with_quorum(nodes: usize, quorum: usize) -> Self {
        Cluster::of(Settings { quorum, ..Settings::new(nodes) })
    }

    /// A cluster of this make that has started and come to rest.
    pub fn of(settings: Settings) -> Self {
        let mut cluster = Cluster::cold(settings);
        for node in 0..cluster.len() {
            cluster.node(node).start();
        }
        cluster.rest();
        cluster.world.forget_blackouts();
        cluster
    }

    /// Machines that are still switched off.
    pub fn cold(settings: Settings) -> Self {
        let mut world = World::new(settings);
        world.leave_memos();
        Cluster { world }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.world.settings().nodes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The world itself.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// One of the nodes.
    pub fn node(&mut self, node: usize) -> Member<'_> {
        Member { world: &mut self.world, node }
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) -> &mut Self {
        self.world.run_until(self.world.now() + nanos(span));
        self.check();
        self
    }

    /// Lets time pass until all is as it should be; gives how long that took.
    pub fn rest(&mut self) -> Duration {
        let begun = self.world.now();
        let timeout = self.world.settings().timeout;
        for _ in 0..4000 {
            if self.world.at_rest().is_ok() {
                return Duration::from_nanos(self.world.now() - begun);
            }
            self.run(timeout / 200);
        }
        panic!("no rest after 20 time-outs: {:?}", self.world.at_rest());
    }

    /// Cuts the network between nodes of different numbers.
    pub fn split(&mut self, groups: &[usize]) -> &mut Self {
        self.world.perform(Deed::Split(groups.to_vec()));
        self
    }

    /// Cuts what `from` says off from `to`.
    pub fn one_way(&mut self, from: usize, to: usize) -> &mut Self {
        self.world.perform(Deed::Cut { link: None, from, to, cut: true });
        self
    }

    /// Cuts two nodes off from each other.
    pub fn cut(&mut self, a: usize, b: usize) -> &mut Self {
        self.one_way(a, b).one_way(b, a)
    }

    /// Lets two nodes hear each other again.
    pub fn mend(&mut self, a: usize, b: usize) -> &mut Self {
        for (from, to) in [(a, b), (b, a)] {
            self.world.perform(Deed::Cut { link: None, from, to, cut: false });
        }
        self
    }

    /// Loses the bodies of views that `from` sends on their way to `to`; their identities arrive in pulses.
    pub fn lose_bodies(&mut self, from: usize, to: usize) -> &mut Self {
        self.world.perform(Deed::Bodies { from, to, lost: true });
        self
    }

    /// Changes what the wire does to datagrams.
    pub fn weather(&mut self, weather: Weather) -> &mut Self {
        self.world.perform(Deed::Weather(weather));
        self
    }

    /// Mends the wire and wakes who hangs.
    pub fn heal(&mut self) -> &mut Self {
        self.world.heal();
        self.check();
        self
    }

    /// How many buckets each node's kernel passes now.
    pub fn shares(&self) -> Vec<usize> {
        (0..self.len()).map(|node| self.world.passes(node).len()).collect()
    }

    /// What some kernel passes now.
    pub fn covered(&self) -> BucketSet {
        self.world.covered()
    }

    /// How many different views the running nodes are in.
    pub fn views(&self) -> usize {
        let views: std::collections::BTreeSet<_> =
            (0..self.len()).filter_map(|node| self.world.machine(node)?.view().map(|view| view.id)).collect();
        views.len()
    }

    /// The longest that any bucket was passed by nobody since the cluster had formed.
    pub fn longest_gap(&mut self) -> Duration {
        self.world.blackouts().clone().quantile(1000)
    }

    fn check(&self) {
        if let Some(violation) = self.world.violation() {
            panic!("{violation}");
        }
    }
}

/// A node in a story.
pub struct Member<'a> {
    world: &'a mut World,
    node: usize,
}

impl Member<'_> {
    /// Its daemon starts.
    pub fn start(self) {
        self.does(Deed::Start);
    }

    /// Its daemon starts without knowing the number of its last run.
    pub fn start_forgetful(self) {
        self.does(Deed::StartForgetful);
    }

    /// Its daemon dies; the kernel lives on.
    pub fn kill(self) {
        self.does(Deed::Kill);
    }

    /// A daemon starts and goes on with the run of the one that died, if it can.
    pub fn resume(self) {
        self.does(Deed::Resume);
    }

    /// The same, but it gets no processor for so long before its first step.
    pub fn resume_asleep(self, span: Duration) {
        self.does(|node| Deed::ResumeAsleep(node, nanos(span)));
    }

    /// Its daemon dies, and its parent process empties the kernel, then says good-bye for it.
    pub fn bury(self) {
        self.does(Deed::Bury);
    }

    /// The same by a parent that speaks before it acts.
    pub fn bury_too_late(self) {
        self.does(Deed::BuryTooLate);
    }

    /// The machine dies.
    pub fn power_off(self) {
        self.does(Deed::PowerOff);
    }

    /// Its daemon gets no processor for so long.
    pub fn hang(self, span: Duration) {
        self.does(|node| Deed::Hang(node, nanos(span)));
    }

    /// Its daemon will get no processor for so long when it next comes to this point.
    pub fn hang_at(self, point: Point, span: Duration) {
        self.does(|node| Deed::HangAt(node, point, nanos(span)));
    }

    /// Somebody asks something of it.
    pub fn command(self, command: Command) {
        self.does(|node| Deed::Command(node, command));
    }

    /// From now on its server does this.
    pub fn server(self, server: Server) {
        self.does(|node| Deed::Server(node, server));
    }

    /// Its share is to be so much.
    pub fn weigh(self, weight: u16) {
        self.command(Command::Weight(weight));
    }

    /// It is to give its share away, and stay.
    pub fn drain(self) {
        self.command(Command::Drain(true));
    }

    /// It is to leave.
    pub fn leave(self) {
        self.command(Command::Leave);
    }

    /// Its protocol; panics if its daemon does not run.
    pub fn machine(&self) -> &Machine {
        self.world.machine(self.node).expect("the daemon runs")
    }

    /// Whether its daemon runs.
    pub fn runs(&self) -> bool {
        self.world.runs(self.node)
    }

    /// What its kernel passes.
    pub fn passes(&self) -> BucketSet {
        self.world.passes(self.node)
    }

    fn does(self, deed: impl FnOnce(usize) -> Deed) {
        let deed = deed(self.node);
        self.world.perform(deed);
    }
}
