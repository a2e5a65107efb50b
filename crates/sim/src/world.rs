//! The world: true time, machines, the wire between them, what befalls them, and the judge who watches.

mod checks;
mod daemons;
mod proof;
mod succession;
mod watch;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rudel_proto::bucket::BucketSet;
use rudel_proto::id::{Identity, ViewId};
use rudel_proto::machine::Machine;
use rudel_proto::wire::{Message, NodeState};
use rudel_proto::{Command, Terms};

use crate::adversary::Adversary;
use crate::clock::{Clock, Moment, RATE_PPM_MAX};
use crate::host::{Host, Kernel, Packet, Point};
use crate::judge::{Blackouts, Judge, Violation, millis};
use crate::network::{Network, Weather};
use crate::rng::Rng;
use crate::server::{Answer, Asking, Server};

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// How many machines, 1 to 32.
    pub nodes: usize,
    /// Heartbeat links between them.
    pub links: usize,
    /// The protocol's `quorum`.
    pub quorum: usize,
    /// The protocol's `timeout`, T.
    pub timeout: Duration,
    /// The protocol's `interval`.
    pub interval: Duration,
    /// The weights, in turn.
    pub weights: Vec<u16>,
    /// What the configurations have in common with all others, in turn: who differs hashes flows differently.
    pub digests: Vec<u64>,
    /// How many times `timeout` the longest time-out is that may come into force.
    pub stretch: u32,
    /// Whether clocks differ in rate; origins always do.
    pub drift: bool,
    /// How health checks are asked; `None` for a world without.
    pub asking: Option<Asking>,
    /// Whether datagrams travel sealed.
    pub sealed: bool,
    /// Whether to print what happens.
    pub trace: bool,
}

impl Settings {
    /// The longest time-out that may come into force.
    pub fn slowest(&self) -> Duration {
        self.timeout * self.stretch
    }

    /// What a node lives by at first.
    pub fn terms_of(&self, node: usize) -> Terms {
        let digest = self.digests[node % self.digests.len()];
        Terms { digest, quorum: self.quorum, timeout: self.timeout, interval: self.interval }
    }

    /// So many nodes with the protocol's default timers, one link, equal weights.
    pub fn new(nodes: usize) -> Self {
        Settings {
            seed: 1,
            nodes,
            links: 1,
            quorum: 1,
            timeout: Duration::from_millis(400),
            interval: Duration::from_millis(50),
            weights: vec![100],
            digests: vec![0],
            stretch: 1,
            drift: true,
            asking: None,
            sealed: false,
            trace: false,
        }
    }
}

/// What can befall a world.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// The daemon starts; its machine is switched on if it was not.
    Start(usize),
    /// The daemon starts, and has lost the number of its last run.
    StartForgetful(usize),
    /// A daemon starts and goes on with the run of the one that died, if it can; else it begins a new one.
    Resume(usize),
    /// The same, but for so many nanoseconds it gets no processor for its first step.
    ResumeAsleep(usize, u64),
    /// The daemon dies, its kernel lives on.
    Kill(usize),
    /// The daemon dies, and its parent process notices: it empties the kernel's bucket table, then says good-bye.
    Bury(usize),
    /// The same by a parent that speaks before it acts, which no parent may.
    BuryTooLate(usize),
    /// The machine dies.
    PowerOff(usize),
    /// The daemon gets no processor for so many nanoseconds.
    Hang(usize, u64),
    /// It will hang so long when it next gets to this point.
    HangAt(usize, Point, u64),
    /// From now on it waits up to so many nanoseconds whenever it wants the processor.
    Slow(usize, u64),
    /// Somebody asks something of it.
    Command(usize, Command),
    /// From now on its server does this.
    Server(usize, Server),
    /// Its configuration file asks for these terms from now on; a daemon that runs reads it again.
    Reload(usize, Terms),
    /// One direction between two nodes is cut (or mended), on one link or on all.
    Cut {
        /// Which link; `None` for all.
        link: Option<usize>,
        /// Who is not heard any more.
        from: usize,
        /// By whom.
        to: usize,
        /// Cut, or mended.
        cut: bool,
    },
    /// Nodes with the same number hear each other, others do not.
    Split(Vec<usize>),
    /// The bodies of views are lost on the way from one node to another, apart from their identities, or no more.
    Bodies {
        /// Who sends them.
        from: usize,
        /// Who misses them.
        to: usize,
        /// Lost, or no more.
        lost: bool,
    },
    /// What one node sends reaches another only after so many nanoseconds, and then all at once.
    Clog(usize, usize, u64),
    /// Loss, delays and duplicates, from now on.
    Weather(Weather),
    /// An outsider without the key sends so many datagrams per interval, recorded or mutated.
    Adversary(u32),
}

enum Happening {
    Arrival(usize, Packet),
    /// The daemon's timer, or the end of a hang.
    Wake(usize, u64),
    /// Perhaps the end of a lease in the kernel.
    Lapse(usize),
    /// The daemon's health check is due.
    Ask(usize, u64),
    /// It has come to this.
    Answer(usize, u64, Answer),
    Deed(Deed),
    Attack,
}

struct Scheduled {
    at: Moment,
    order: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything there is.
pub struct World {
    settings: Settings,
    now: Moment,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    hosts: Vec<Host>,
    network: Network,
    rng: Rng,
    judge: Judge,
    violation: Option<Violation>,
    adversary: Option<Adversary>,
    /// Views that some node was in until lately: peers may still take it to be.
    former_views: Vec<(Moment, ViewId)>,
    /// Terms that were ever asked for, the first of the settings.
    terms: Vec<Terms>,
    steps: u64,
    /// How often a daemon went on with the run of a dead one.
    resumed: u64,
    /// Whether daemons leave memos: nobody reads them where none goes on.
    leaves_memos: bool,
    arrivals: Vec<Moment>,
}

impl World {
    /// A world in which no machine has been switched on yet.
    pub fn new(settings: Settings) -> Self {
        let mut rng = Rng::new(settings.seed);
        let hosts = (0..settings.nodes)
            .map(|node| {
                let ppm = rng.between(0, 2 * RATE_PPM_MAX as u64) as i64 - RATE_PPM_MAX;
                let origin = rng.below(1 << 50);
                Host {
                    clock: Clock::new(origin, if settings.drift { ppm } else { 0 }),
                    kernel: Kernel::EMPTY,
                    memo: None,
                    file: settings.terms_of(node),
                    agreed: settings.terms_of(node),
                    wishes: Vec::new(),
                    next_incarnation: 1 + rng.below(1 << 40),
                    process: None,
                    runs: 0,
                    lapse_scheduled: false,
                    server: Server::Up,
                    slow: 0,
                    trouble: None,
                    behind: None,
                    started_at: 0,
                    last: None,
                    farewell: None,
                }
            })
            .collect();
        let (timeout, interval) = (nanos(settings.timeout), nanos(settings.interval));
        World {
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            hosts,
            network: Network::new(settings.nodes, settings.links, timeout, interval),
            rng,
            judge: Judge::new(settings.nodes),
            violation: None,
            adversary: None,
            former_views: Vec::new(),
            terms: (0..settings.nodes).map(|node| settings.terms_of(node)).collect(),
            steps: 0,
            resumed: 0,
            leaves_memos: false,
            arrivals: Vec::new(),
            settings,
        }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// What it is made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many things have happened.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The first property that did not hold.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Which buckets have been passed by nobody, for how long each time.
    pub fn blackouts(&self) -> &Blackouts {
        &self.judge.blackouts
    }

    /// Forgets the gaps so far: those before a cluster has formed say nothing.
    pub fn forget_blackouts(&mut self) {
        self.judge.blackouts = Blackouts::default();
    }

    /// How often two nodes that could not hear each other began to pass the same bucket.
    pub fn overlaps_excused(&self) -> u64 {
        self.judge.overlaps_excused
    }

    /// What a node's kernel passes now.
    pub fn passes(&self, node: usize) -> BucketSet {
        self.judge.passing(node)
    }

    /// What some kernel passes now.
    pub fn covered(&self) -> BucketSet {
        self.judge.covered()
    }

    /// A node's protocol, if its daemon runs.
    pub fn machine(&self, node: usize) -> Option<&Machine> {
        self.hosts[node].process.as_ref().map(|process| process.brain.machine())
    }

    /// From now on daemons leave memos, so that others can go on with their runs.
    pub fn leave_memos(&mut self) {
        self.leaves_memos = true;
    }

    /// Lets something happen later.
    pub fn schedule(&mut self, at: Moment, deed: Deed) {
        self.leaves_memos |= matches!(deed, Deed::Resume(_) | Deed::ResumeAsleep(..));
        self.push(at, Happening::Deed(deed));
    }

    /// Lets time pass until `until`, or until a property does not hold.
    pub fn run_until(&mut self, until: Moment) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= until => {}
                _ => {
                    self.now = self.now.max(until);
                    return;
                }
            }
            let Some(Reverse(next)) = self.queue.pop() else {
                return;
            };
            self.now = next.at;
            self.steps += 1;
            match next.what {
                Happening::Arrival(node, packet) => self.arrive(node, packet),
                Happening::Wake(node, run) => self.wake(node, run),
                Happening::Lapse(node) => {
                    self.hosts[node].lapse_scheduled = false;
                    self.watch_lease(node);
                    self.look(node);
                }
                Happening::Ask(node, run) => self.ask(node, run),
                Happening::Answer(node, run, answer) => self.answer(node, run, answer),
                Happening::Deed(deed) => self.perform(deed),
                Happening::Attack => self.attack(),
            }
        }
    }

    /// Lets something happen now.
    pub fn perform(&mut self, deed: Deed) {
        self.note(|| format!("---- {deed:?}"));
        match deed {
            Deed::Start(node) => self.start(node, false),
            Deed::StartForgetful(node) => self.start(node, true),
            Deed::Resume(node) => self.resume(node, 0),
            Deed::ResumeAsleep(node, span) => self.resume(node, span),
            Deed::Kill(node) => {
                self.end(node);
            }
            Deed::Bury(node) => self.bury(node, false),
            Deed::BuryTooLate(node) => self.bury(node, true),
            Deed::PowerOff(node) => {
                self.end(node);
                self.hosts[node].kernel = Kernel::EMPTY;
                self.hosts[node].memo = None;
                self.look(node);
            }
            Deed::Hang(node, span) => self.hang(node, span),
            Deed::HangAt(node, point, span) => {
                if let Some(process) = &mut self.hosts[node].process {
                    process.armed.push((point, span));
                }
            }
            Deed::Slow(node, most) => self.hosts[node].slow = most,
            Deed::Command(node, command) => {
                if let Some(process) = &mut self.hosts[node].process {
                    process.commands.push_back(command);
                    self.run(node);
                }
            }
            Deed::Server(node, server) => self.hosts[node].server = server,
            Deed::Reload(node, terms) => {
                let host = &mut self.hosts[node];
                host.file = terms;
                // Stored before the daemon wants them.
                if host.process.is_some() {
                    host.wish(terms);
                }
                if !self.terms.contains(&terms) {
                    self.terms.push(terms);
                }
                if let Some(process) = &mut self.hosts[node].process {
                    process.commands.push_back(Command::Terms(terms));
                    self.run(node);
                }
            }
            Deed::Cut { link, from, to, cut } => {
                for each in 0..self.network.links() {
                    if link.is_none_or(|link| link == each) {
                        self.network.cut(each, from, to, cut);
                    }
                }
            }
            Deed::Split(groups) => {
                for from in 0..self.settings.nodes {
                    for to in 0..self.settings.nodes {
                        for link in 0..self.network.links() {
                            self.network.cut(link, from, to, groups[from] != groups[to]);
                        }
                    }
                }
            }
            Deed::Bodies { from, to, lost } => self.network.lose_bodies(from, to, lost),
            Deed::Clog(from, to, span) => self.network.clog(from, to, self.now + span),
            Deed::Weather(weather) => self.network.weather = weather,
            Deed::Adversary(rate) => {
                let idle = self.adversary.as_ref().is_none_or(|adversary| adversary.rate == 0);
                self.adversary.get_or_insert_default().rate = rate;
                if idle && rate > 0 {
                    self.push(self.now, Happening::Attack);
                }
            }
        }
    }

    /// Ends every fault: the wire is clear, who hangs wakes, nobody is slow, every server is up. Who is dead stays dead.
    pub fn heal(&mut self) {
        self.note(|| "---- healed".into());
        self.network.heal();
        self.wake_all();
    }

    /// Ends every fault but cuts.
    pub fn calm(&mut self) {
        self.note(|| "---- calm".into());
        self.network.weather = Weather::CLEAR;
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for node in 0..self.hosts.len() {
            self.hosts[node].slow = 0;
            self.hosts[node].server = Server::Up;
            let now = self.now;
            let hung = match &mut self.hosts[node].process {
                Some(process) => {
                    process.armed.clear();
                    let hung = process.hung_until > now;
                    process.hung_until = now;
                    hung
                }
                None => false,
            };
            if hung {
                self.hosts[node].trouble = Some(now);
                self.run(node);
            }
        }
    }

    /// Whether all is as it should be when nothing has gone wrong for a while: one view of exactly those that
    /// run, all settled in it, every bucket passed by exactly the node that it gives it to. Says what is missing.
    pub fn at_rest(&self) -> Result<ViewId, String> {
        let running: Vec<(usize, &Machine)> =
            (0..self.hosts.len()).filter_map(|node| Some((node, self.machine(node)?))).collect();
        let Some((_, first)) = running.first() else {
            return Ok(ViewId::NONE);
        };
        if running.len() < self.settings.quorum && self.covered().is_empty() {
            // Who was leaving has left, and those that remain are too few to serve.
            return Ok(ViewId::NONE);
        }
        let view = first.view().ok_or("the first node has no view")?;
        let mut identities: Vec<Identity> = running.iter().map(|(_, machine)| machine.me()).collect();
        identities.sort_unstable();
        let members: Vec<Identity> = view.members.iter().map(|m| m.identity).collect();
        if members != identities {
            return Err(format!("running are {identities:?}, members are {members:?}"));
        }
        for (node, machine) in &running {
            let terms = machine.status(self.hosts[*node].clock.read(self.now)).terms;
            if terms.obeyed != [self.hosts[*node].file.digest] || terms.wanted.is_some() {
                return Err(format!("n{node} lives by {terms:?}"));
            }
            if machine.view().map(|view| view.id) != Some(view.id) {
                return Err(format!("n{node} is in view {:?}", machine.view().map(|view| view.id)));
            }
            if !machine.is_settled() {
                return Err(format!("n{node} is not settled"));
            }
            let given = view.owned_by(machine.me().id);
            if self.passes(*node) != given {
                return Err(format!("n{node} passes {:?} of {given:?}", self.passes(*node)));
            }
        }
        let serving = view.members.iter().any(|m| m.weight > 0);
        if serving && view.owners.iter().any(|owner| owner.is_none()) {
            return Err("the view leaves buckets to nobody".into());
        }
        if serving && self.covered() != BucketSet::ALL {
            return Err("buckets are passed by nobody".into());
        }
        let total: usize = view.members.iter().map(|m| usize::from(m.weight)).sum();
        for member in view.members.iter().filter(|_| total > 0) {
            let share = 256 * usize::from(member.weight);
            let has = view.owned_by(member.identity.id).len();
            if has < share / total || has > share.div_ceil(total) {
                return Err(format!("{:?} has {has} buckets of {}/{total}", member.identity, member.weight));
            }
        }
        let wants = |node: usize, machine: &Machine| {
            let status = machine.status(self.hosts[node].clock.read(self.now));
            let weight = if machine.state() == NodeState::Active { status.weight } else { 0 };
            (weight, status.healthy)
        };
        // R6.5: where nobody is fit, nobody's health counts.
        let health_counts = running.iter().any(|(node, machine)| {
            let (weight, healthy) = wants(*node, machine);
            weight > 0 && healthy
        });
        for (node, machine) in &running {
            let weight = view.member(machine.me()).map_or(0, |m| m.weight);
            let (wanted, healthy) = wants(*node, machine);
            let wanted = if healthy || !health_counts { wanted } else { 0 };
            if weight != wanted {
                return Err(format!("n{node} has weight {wanted}, the view says {weight}"));
            }
        }
        Ok(view.id)
    }

    /// Whether a daemon runs on a machine.
    pub fn runs(&self, node: usize) -> bool {
        self.hosts[node].process.is_some()
    }

    fn violate(&mut self, property: &'static str, detail: String) {
        self.note(|| format!("**** {property}: {detail}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { at: self.now, property, detail });
        }
    }

    fn note(&self, text: impl FnOnce() -> String) {
        if self.settings.trace {
            println!("{:>14} {}", millis(self.now), text());
        }
    }

    fn push(&mut self, at: Moment, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: at.max(self.now), order: self.order, what }));
    }
}

/// A duration as the world counts it.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn describe(message: &Message) -> String {
    match message {
        Message::Pulse(pulse) => {
            let heard: Vec<String> = pulse
                .heard
                .iter()
                .map(|entry| {
                    format!(
                        "{:?}{}{} {}",
                        entry.identity.id,
                        if entry.proven { "" } else { "?" },
                        if entry.gone { " gone" } else { "" },
                        entry.age_us / 1000
                    )
                })
                .collect();
            format!(
                "pulse {:?}{}{} terms {}>{}{} adopted {}:{:?} promise {}:{:?} heard {}",
                pulse.state,
                if pulse.settled { " settled" } else { "" },
                if pulse.late { " late" } else { "" },
                pulse.digest,
                pulse.wanted,
                if pulse.bound { " bound" } else { "" },
                pulse.adopted.epoch,
                pulse.adopted.coordinator.id,
                pulse.promise.epoch,
                pulse.promise.coordinator.id,
                heard.join(", ")
            )
        }
        Message::View(view) => {
            format!("view {}:{:?} terms {}", view.id.epoch, view.id.coordinator.id, view.digest)
        }
        Message::Order(order) => format!("{order:?}"),
        Message::Done(done) => format!("{done:?}"),
        Message::Complaint(complaint) => format!("{complaint:?}"),
    }
}
