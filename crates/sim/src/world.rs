//! The world: true time, machines, the wire between them, what befalls them, and the judge who watches.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rudel_proto::bucket::BucketSet;
use rudel_proto::event::Event;
use rudel_proto::id::{ClusterName, Identity, Incarnation, NodeName, ViewId};
use rudel_proto::machine::Machine;
use rudel_proto::seal::{ClusterKey, Keys};
use rudel_proto::wire::{Message, NodeState};
use rudel_proto::{Command, Config, Node, Time};

use crate::adversary::Adversary;
use crate::clock::{Clock, Moment, RATE_PPM_MAX};
use crate::host::{Act, Brain, Host, Input, Kernel, Packet, Point, Process, Step};
use crate::judge::{Blackouts, Judge, Violation, millis};
use crate::network::{Grade, Network, Weather};
use crate::rng::Rng;

/// Datagrams that a socket keeps for a daemon that hangs: what Linux's default receive buffer holds of them.
const INBOX_MAX: usize = 256;

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
    /// Whether clocks differ in rate; origins always do.
    pub drift: bool,
    /// Whether datagrams travel sealed.
    pub sealed: bool,
    /// Whether to print what happens.
    pub trace: bool,
}

impl Settings {
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
            drift: true,
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
    /// The daemon dies, its kernel lives on.
    Kill(usize),
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
    steps: u64,
    arrivals: Vec<Moment>,
}

impl World {
    /// A world in which no machine has been switched on yet.
    pub fn new(settings: Settings) -> Self {
        let mut rng = Rng::new(settings.seed);
        let hosts = (0..settings.nodes)
            .map(|_| {
                let ppm = rng.between(0, 2 * RATE_PPM_MAX as u64) as i64 - RATE_PPM_MAX;
                let origin = rng.below(1 << 50);
                Host {
                    clock: Clock::new(origin, if settings.drift { ppm } else { 0 }),
                    kernel: Kernel::EMPTY,
                    next_incarnation: 1 + rng.below(1 << 40),
                    process: None,
                    runs: 0,
                    lapse_scheduled: false,
                    slow: 0,
                    trouble: None,
                    behind: None,
                    started_at: 0,
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
            steps: 0,
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

    /// Lets something happen later.
    pub fn schedule(&mut self, at: Moment, deed: Deed) {
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
            Deed::Kill(node) => {
                self.end(node);
            }
            Deed::PowerOff(node) => {
                self.end(node);
                self.hosts[node].kernel = Kernel::EMPTY;
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

    /// Ends every fault: the wire is clear, who hangs wakes, nobody is slow. Who is dead stays dead.
    pub fn heal(&mut self) {
        self.note(|| "---- healed".into());
        self.network.heal();
        for node in 0..self.hosts.len() {
            self.hosts[node].slow = 0;
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
        let view = first.view().ok_or("the first node has no view")?;
        let mut identities: Vec<Identity> = running.iter().map(|(_, machine)| machine.me()).collect();
        identities.sort_unstable();
        let members: Vec<Identity> = view.members.iter().map(|m| m.identity).collect();
        if members != identities {
            return Err(format!("running are {identities:?}, members are {members:?}"));
        }
        for (node, machine) in &running {
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
        for (node, machine) in &running {
            let weight = view.member(machine.me()).map_or(0, |m| m.weight);
            let active = machine.state() == NodeState::Active;
            let status = machine.status(self.hosts[*node].clock.read(self.now));
            let wanted = if active && status.healthy { status.weight } else { 0 };
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

    // ----- machines -----

    fn start(&mut self, node: usize, forgetful: bool) {
        if self.hosts[node].process.is_some() {
            return;
        }
        let incarnation = if forgetful {
            // A number that no run had, but perhaps a lower one.
            1 + (self.rng.below(1 << 40) << 8 | u64::from(self.hosts[node].next_incarnation as u8 & 1))
        } else {
            self.hosts[node].next_incarnation
        };
        self.hosts[node].next_incarnation = incarnation + 1;
        // A starting daemon takes its predecessor's kernel state down before its first pulse.
        self.hosts[node].kernel = Kernel::EMPTY;
        self.look(node);

        let config = Config {
            cluster: ClusterName::new("sim").expect("a good name"),
            name: NodeName::new(&format!("n{node:02}")).expect("a good name"),
            host: 1 + node as u64,
            digest: 0,
            handover: false,
            quorum: self.settings.quorum,
            timeout: self.settings.timeout,
            interval: self.settings.interval,
            weight: self.settings.weights[node % self.settings.weights.len()],
        };
        let incarnation = Incarnation(incarnation);
        let now = self.hosts[node].clock.read(self.now);
        let brain = if self.settings.sealed {
            let keys = Keys::new(ClusterKey::new([7; 32]), []);
            Brain::Node(Box::new(Node::new(config, keys, incarnation, now).expect("a good configuration")))
        } else {
            config.validate().expect("a good configuration");
            Brain::Machine(Box::new(Machine::new(config, incarnation, now)))
        };
        let host = &mut self.hosts[node];
        host.runs += 1;
        host.trouble = Some(self.now);
        host.started_at = self.now;
        host.process = Some(Process {
            brain,
            run: host.runs,
            step: Step::Idle,
            inbox: VecDeque::new(),
            commands: VecDeque::new(),
            hung_until: 0,
            armed: Vec::new(),
            wake_at: None,
            view: None,
            told: ViewId::NONE,
            looked_at: Time::ZERO,
            highest: ViewId::NONE,
        });
        self.run(node);
    }

    fn end(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        host.trouble = Some(self.now);
        if let Some(process) = host.process.take() {
            self.former_views.push((self.now, process.told));
        }
    }

    fn hang(&mut self, node: usize, span: u64) {
        let until = self.now + span;
        let lag = nanos(self.settings.timeout) / 4;
        let host = &mut self.hosts[node];
        let Some(process) = &mut host.process else {
            return;
        };
        if until <= process.hung_until {
            return;
        }
        process.hung_until = until;
        if host.slow > 0 && process.inbox.front().is_some_and(|(at, _)| at + lag <= until) {
            host.behind = Some(until);
        }
        if span > nanos(self.settings.interval) / 2 {
            host.trouble = Some(until);
        }
        let run = process.run;
        self.push(until, Happening::Wake(node, run));
    }

    fn arrive(&mut self, node: usize, packet: Packet) {
        let now = self.now;
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        if process.inbox.len() < INBOX_MAX {
            process.inbox.push_back((now, packet));
        }
        if process.hung_until <= now && matches!(process.step, Step::Idle) && !self.dawdle(node) {
            self.run(node);
        }
    }

    fn wake(&mut self, node: usize, run: u64) {
        let now = self.now;
        let Some(process) = self.hosts[node].process.as_mut().filter(|process| process.run == run) else {
            return;
        };
        if process.wake_at == Some(now) {
            process.wake_at = None;
        }
        if process.hung_until > now {
            return;
        }
        if process.hung_until < now && matches!(process.step, Step::Idle) && self.dawdle(node) {
            return;
        }
        self.run(node);
    }

    /// A slow machine lets its daemon wait before it runs.
    fn dawdle(&mut self, node: usize) -> bool {
        let slow = self.hosts[node].slow;
        if slow == 0 || !self.rng.chance(250_000) {
            return false;
        }
        let span = self.rng.between(1, slow);
        self.hang(node, span);
        true
    }

    /// Runs a daemon until it has nothing to do or loses the processor.
    fn run(&mut self, node: usize) {
        loop {
            if self.violation.is_some() {
                return;
            }
            let now = self.now;
            let host = &mut self.hosts[node];
            let Some(process) = &mut host.process else {
                return;
            };
            if process.hung_until > now {
                return;
            }
            let local = host.clock.read(now);
            match std::mem::replace(&mut process.step, Step::Idle) {
                Step::Idle => {
                    let due = process.brain.machine().next_timeout();
                    let timer_first = process.inbox.is_empty() || self.rng.chance(500_000);
                    let input = if let Some(command) = process.commands.pop_front() {
                        Input::Command(command)
                    } else if due.is_some_and(|due| due <= local) && timer_first {
                        Input::Timeout
                    } else if let Some((_, packet)) = process.inbox.pop_front() {
                        Input::Packet(packet)
                    } else {
                        let wake_at = due.map(|due| host.clock.moment(due).max(now + 1));
                        if let Some(at) = wake_at
                            && process.wake_at.is_none_or(|earlier| earlier > at || earlier <= now)
                        {
                            process.wake_at = Some(at);
                            let run = process.run;
                            self.push(at, Happening::Wake(node, run));
                        }
                        return;
                    };
                    process.step = Step::Input(local, input);
                    self.pause(node, Point::ClockToInput);
                }
                Step::Input(at, input) => {
                    process.step = Step::Poll;
                    process.looked_at = at;
                    let trace = self.settings.trace.then(|| format!("{input:?}"));
                    let accepted = process.brain.handle(at, input);
                    if let Some(input) = trace.filter(|_| !accepted) {
                        self.note(|| format!("n{node} refuses {input}"));
                    }
                    self.look_at_view(node);
                }
                Step::Poll => {
                    let Some(act) = process.brain.poll() else {
                        continue;
                    };
                    let point = match act {
                        Act::Send { .. } => Some(Point::BeforeSend),
                        Act::Lease(_) => Some(Point::LookToWrite),
                        Act::Own(_) => Some(Point::BeforeOwn),
                        _ => None,
                    };
                    process.step = Step::Act(act);
                    if let Some(point) = point {
                        self.pause(node, point);
                    }
                }
                Step::Act(act) => {
                    process.step = Step::Poll;
                    self.carry_out(node, act);
                }
                Step::Sent => {
                    process.step = Step::SentAt(local);
                    self.pause(node, Point::ClockToLook);
                }
                Step::SentAt(at) => {
                    process.step = Step::Poll;
                    process.looked_at = at;
                    process.brain.handle_pulse_sent(at);
                    self.look_at_view(node);
                }
            }
        }
    }

    /// Takes the processor away from a daemon, if this is where it happens.
    fn pause(&mut self, node: usize, point: Point) {
        let host = &mut self.hosts[node];
        let Some(process) = &mut host.process else {
            return;
        };
        if let Some(index) = process.armed.iter().position(|(at, _)| *at == point) {
            let (_, span) = process.armed.remove(index);
            self.note(|| format!("n{node} hangs at {point:?} for {}", millis(span)));
            self.hang(node, span);
        } else if host.slow > 0 && self.rng.chance(100_000) {
            let span = self.rng.between(1, host.slow);
            self.hang(node, span);
        }
    }

    fn carry_out(&mut self, node: usize, act: Act) {
        match act {
            Act::Send { packet, pulse } => {
                if let Packet::Open(open) = &packet {
                    self.note(|| format!("n{node} sends {}", describe(&open.1)));
                }
                self.multicast(node, &packet, pulse);
                if pulse && let Some(process) = &mut self.hosts[node].process {
                    process.step = Step::Sent;
                    self.pause(node, Point::SendToLook);
                }
            }
            Act::Own(owned) => {
                self.note(|| format!("n{node} owns {owned:?}"));
                self.hosts[node].kernel.owned = owned;
                self.look(node);
            }
            Act::Lease(until) => self.write_lease(node, until),
            Act::Event(event) => {
                self.note(|| format!("n{node} tells {}: {event}", event.kind()));
                self.hear_of_view(node, &event);
            }
            Act::Incarnation(incarnation) => {
                self.note(|| format!("n{node} is now in run {}", incarnation.0));
                self.hosts[node].next_incarnation = incarnation.0 + 1;
            }
            Act::Stopped => {
                self.note(|| format!("n{node} has left"));
                self.end(node);
                self.hosts[node].kernel = Kernel::EMPTY;
                self.look(node);
            }
        }
    }

    fn multicast(&mut self, from: usize, packet: &Packet, pulse: bool) {
        if let (Some(adversary), Packet::Sealed(datagram)) = (&mut self.adversary, packet) {
            adversary.overhear(&mut self.rng, datagram);
        }
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for to in (0..self.settings.nodes).filter(|to| *to != from) {
            self.network.route(&mut self.rng, self.now, from, to, pulse, &mut arrivals);
            for at in &arrivals {
                self.push(*at, Happening::Arrival(to, packet.clone()));
            }
        }
        self.arrivals = arrivals;
    }

    fn attack(&mut self) {
        let Some(adversary) = self.adversary.as_mut().filter(|adversary| adversary.rate > 0) else {
            return;
        };
        if let Some(datagram) = adversary.strike(&mut self.rng) {
            let packet = Packet::Sealed(Rc::from(datagram));
            for to in 0..self.settings.nodes {
                if self.rng.chance(500_000) {
                    self.push(self.now, Happening::Arrival(to, packet.clone()));
                }
            }
        }
        let rate = self.adversary.as_ref().map_or(1, |adversary| adversary.rate.max(1));
        let pause = 2 * nanos(self.settings.interval) / u64::from(rate);
        let next = self.now + 1 + self.rng.below(pause);
        self.push(next, Happening::Attack);
    }

    // ----- the judge -----

    /// What the kernel passes may have changed.
    fn look(&mut self, node: usize) {
        let passes = self.hosts[node].passes(self.now);
        for (other, buckets) in self.judge.pass(self.now, node, passes) {
            let strict = self.settings.quorum * 2 > self.settings.nodes;
            if !strict && self.cannot_hear(node, other) {
                self.judge.overlaps_excused += 1;
                continue;
            }
            let property = if strict { "S2 one owner under partition" } else { "S1 one owner" };
            self.violate(property, format!("n{node} begins to pass {buckets} buckets that n{other} passes"));
        }
    }

    /// Whether the network has kept two nodes from hearing each other lately.
    ///
    /// A lease allows for one lost pulse, no more, should its holder hang: so where one of the two was in
    /// trouble itself, two pulses in a row count. Else only losses as long as half a time-out do. And a node that
    /// has started since the other fell silent can only ask those who remain: if they could not hear it, none can
    /// tell.
    fn cannot_hear(&self, a: usize, b: usize) -> bool {
        let since = self.now.saturating_sub(3 * nanos(self.settings.timeout));
        let troubled = |node: usize| {
            let host = &self.hosts[node];
            host.process.is_none() || host.trouble.is_some_and(|at| at >= since)
        };
        let strangers = |a: usize, b: usize| {
            let begun = self.hosts[a].started_at;
            !self.network.has_heard(b, a, begun)
                && (0..self.hosts.len())
                    .any(|other| other != b && !self.network.in_touch(other, b, since, Grade::Live))
        };
        // Round trips are to stay below half a time-out: they do not through a daemon that is slower than its mail.
        let behind = |node: usize| self.hosts[node].behind.is_some_and(|at| at >= since);
        if strangers(a, b) || strangers(b, a) || behind(a) || behind(b) {
            return true;
        }
        let grade = if troubled(a) || troubled(b) { Grade::Firm } else { Grade::Live };
        !self.network.in_touch(a, b, since, grade)
    }

    fn write_lease(&mut self, node: usize, until: Time) {
        let now = self.now;
        let host = &mut self.hosts[node];
        let local = host.clock.read(now);
        // What the daemon could know when it looked. It may lose the processor between its look and the write;
        // whether that does harm is what S1 and S2 say.
        let looked_at = host.process.as_ref().map_or(local, |process| process.looked_at);
        let lapsed = looked_at >= host.kernel.lease && !host.kernel.owned.is_empty();
        if lapsed && until > local {
            let (late, owned) = (looked_at.since(host.kernel.lease), host.kernel.owned);
            self.violate(
                "R4 a lapsed lease stays lapsed",
                format!("n{node} revives a lease {late:?} after it lapsed, owning {owned:?}"),
            );
            return;
        }
        host.kernel.lease = until;
        self.watch_lease(node);
        self.look(node);
    }

    /// Has the world look at a node when its lease in force ends.
    fn watch_lease(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let end = host.clock.moment(host.kernel.lease);
        if end > self.now && !host.lapse_scheduled {
            host.lapse_scheduled = true;
            self.push(end, Happening::Lapse(node));
        }
    }

    fn look_at_view(&mut self, node: usize) {
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        let machine = process.brain.machine();
        let view = machine.view();
        if view.map(|view| view.id) == process.view {
            return;
        }
        process.view = view.map(|view| view.id);
        let (Some(view), highest, me) = (view.cloned(), process.highest, machine.me()) else {
            self.note(|| format!("n{node} is in no view"));
            return;
        };
        process.highest = highest.max(view.id);
        self.note(|| {
            let owners: Vec<usize> =
                view.members.iter().map(|m| view.owned_by(m.identity.id).len()).collect();
            format!("n{node} adopts {:?} {:?} {owners:?}", view.id, view.reason)
        });
        if view.id <= highest {
            self.violate(
                "views are monotone",
                format!("n{node} adopts {:?} after it was in {highest:?}", view.id),
            );
        } else if !view.names(me) {
            self.violate("views name who adopts them", format!("n{node} adopts {:?}", view.id));
        }
        if let Err(what) = self.judge.view(&view) {
            self.violate("views are exact", format!("n{node}: {what}"));
        }
    }

    /// One call of the machine may adopt several views, so least movement is checked by what it tells.
    fn hear_of_view(&mut self, node: usize, event: &Event) {
        let recently = self.now.saturating_sub(3 * nanos(self.settings.timeout));
        self.former_views.retain(|(at, _)| *at >= recently);
        let others: Vec<ViewId> = self
            .hosts
            .iter()
            .filter_map(|host| host.process.as_ref().map(|process| process.told))
            .chain(self.former_views.iter().map(|(_, id)| *id))
            .collect();
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        match event {
            Event::View { id, .. } => {
                let (own, me) = (process.told, process.brain.machine().me());
                process.told = *id;
                self.former_views.push((self.now, own));
                let bases: Vec<ViewId> =
                    std::iter::once(own).chain(others).filter(|base| base < id).collect();
                if id.coordinator == me
                    && own != ViewId::NONE
                    && let Err(what) = self.judge.change(&bases, *id)
                {
                    self.violate("movement is least", format!("n{node}: {what}"));
                }
            }
            Event::LeftOut { .. } => {
                self.former_views.push((self.now, process.told));
                process.told = ViewId::NONE;
            }
            _ => {}
        }
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
                "pulse {:?}{}{} adopted {}:{:?} promise {}:{:?} heard {}",
                pulse.state,
                if pulse.settled { " settled" } else { "" },
                if pulse.late { " late" } else { "" },
                pulse.adopted.epoch,
                pulse.adopted.coordinator.id,
                pulse.promise.epoch,
                pulse.promise.coordinator.id,
                heard.join(", ")
            )
        }
        Message::View(view) => format!("view {}:{:?}", view.id.epoch, view.id.coordinator.id),
        Message::Order(order) => format!("{order:?}"),
        Message::Done(done) => format!("{done:?}"),
    }
}
