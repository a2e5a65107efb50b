//! The world as a value: machines, kernels and datagrams on their way, stopped where something can go wrong.
//!
//! Between two stops everything takes its ordinary course. Where a fault is possible (a datagram arrives, a daemon
//! is about to do something, a dead one could start) the world stops, and a [`Choice`] lets it go on.

mod alike;
mod choices;

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use rudel_proto::bucket::BucketSet;
use rudel_proto::id::{ClusterName, Incarnation, NodeId, NodeName, ViewId};
use rudel_proto::machine::{Action, Machine};
use rudel_proto::seal::Sender;
use rudel_proto::wire::{Message, Pulse};
use rudel_proto::{Command, Config, Time};

use crate::judge::{Contact, Property, Violation};
use crate::setup::{Budget, MS, Point, Setup};

/// The clocks of all nodes are true time, but do not begin at zero: that means "never".
const EPOCH: u64 = 1_000_000 * MS;
/// A daemon that does so much at one instant will never have done.
const STEPS_AT_ONCE_MAX: u32 = 5_000;

/// What happens where the world has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// No fault.
    Go,
    /// The datagram is lost.
    Lose,
    /// The datagram takes so much longer.
    Late(u64),
    /// From this datagram on the direction is cut.
    Cut,
    /// The direction is mended, and the datagram arrives.
    Mend,
    /// The daemon hangs here for so long. If the flag is set it finds its datagrams before its timer when it wakes.
    Hang(u64, bool),
    /// The daemon dies here.
    Kill,
    /// The dead daemon of this node starts.
    Restart,
    /// Somebody asks this node to leave.
    Leave(usize),
    /// Somebody asks this node to give its share away, or, if it does, to take it back.
    Drain(usize),
}

/// Where the world has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// The first of the datagrams on their way arrives.
    Arrival,
    /// A daemon is here.
    At(usize, Point),
    /// A dead daemon could start.
    Dead(usize),
    /// Another interval is over.
    Mark,
}

/// Where the daemon's loop stands.
#[derive(Clone, Debug)]
enum Step {
    /// It waits, or is about to look what there is to do.
    Idle,
    /// It has read the clock and is about to act on a timer, a datagram, a command.
    Timer(Time),
    Message(Time, Arc<Letter>),
    Command(Time, Command),
    /// It is about to ask what to carry out next.
    Poll,
    /// It is about to carry this out.
    Act(Action),
    /// It has sent a pulse.
    Sent,
    /// It has sent a pulse and read the clock.
    SentAt(Time),
}

#[derive(Debug)]
struct Letter {
    sender: Sender,
    message: Message,
}

/// A running daemon.
#[derive(Clone, Debug)]
struct Process {
    machine: Machine,
    step: Step,
    inbox: VecDeque<Arc<Letter>>,
    command: Option<Command>,
    hung_until: u64,
    inbox_first: bool,
    /// The clock as it last told the machine.
    looked_at: Time,
    /// The highest view that it ever had.
    highest: ViewId,
    drains: bool,
}

/// What the packet filter goes by. It outlives the daemon.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Kernel {
    pub(crate) owned: BucketSet,
    pub(crate) lease: Time,
}

/// One machine.
#[derive(Clone, Debug)]
struct Host {
    id: NodeId,
    kernel: Kernel,
    process: Option<Process>,
    /// When it will be started without anybody's choosing so.
    start_at: Option<u64>,
    /// When the world stops to ask whether the dead daemon starts.
    ask_at: Option<u64>,
    /// The number of the last datagram in each run.
    numbers: Vec<(Incarnation, u64)>,
    next_incarnation: u64,
    left: bool,
    /// Number and moment of the pulses made within the last T; the machine remembers the same.
    made: VecDeque<(u64, u64)>,
}

impl Host {
    fn passes(&self, now: u64) -> BucketSet {
        if Time::from_nanos(now) < self.kernel.lease { self.kernel.owned } else { BucketSet::EMPTY }
    }
}

/// A datagram on its way to one node.
#[derive(Clone, Debug)]
struct Flight {
    at: u64,
    to: usize,
    from: usize,
    sent: u64,
    late: bool,
    letter: Arc<Letter>,
}

/// Everything there is.
#[derive(Clone)]
pub struct World {
    setup: Arc<Setup>,
    pub(crate) now: u64,
    hosts: Vec<Arc<Host>>,
    flights: Vec<Flight>,
    next_mark: u64,
    budget: Budget,
    /// By sender, receiver.
    pub(crate) contacts: Vec<Contact>,
    stop: Stop,
    pub(crate) violation: Option<Box<Violation>>,
    steps_at_once: u32,
    hash: u64,
    /// What has happened, for people; only if asked for.
    log: Option<Vec<String>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.clock(), self.stop)
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl World {
    /// The world in which nodes start at these moments, at its first stop.
    pub fn new(setup: &Arc<Setup>, starts: &[u64], log: bool) -> Self {
        let hosts = starts.iter().enumerate().map(|(node, at)| {
            Arc::new(Host {
                id: config(setup, node).id(),
                kernel: Kernel::default(),
                process: None,
                start_at: Some(EPOCH + at),
                ask_at: None,
                numbers: Vec::new(),
                next_incarnation: 1,
                left: false,
                made: VecDeque::new(),
            })
        });
        let mut world = World {
            now: EPOCH,
            hosts: hosts.collect(),
            flights: Vec::new(),
            next_mark: EPOCH + setup.interval,
            budget: setup.budget,
            contacts: vec![Contact::default(); setup.nodes * setup.nodes],
            stop: Stop::Mark,
            violation: None,
            steps_at_once: 0,
            hash: 0,
            log: log.then(Vec::new),
            setup: setup.clone(),
        };
        world.advance();
        world.hash = world.fingerprint();
        world
    }

    /// What could happen here; the ordinary course is always the last.
    pub fn choices(&self, choices: &mut Vec<Choice>) {
        if self.violation.is_none() {
            self.faults(choices);
            choices.push(Choice::Go);
        }
    }

    /// The world at its next stop.
    pub fn after(&self, choice: Choice) -> World {
        let mut world = self.clone();
        world.note_choice(choice);
        world.apply(choice);
        if world.violation.is_none() {
            world.advance();
        }
        world.hash = world.fingerprint();
        world
    }

    /// A number that two worlds have in common if they behave alike from now on.
    pub fn hash_value(&self) -> u64 {
        self.hash
    }

    /// How much time has passed since the first node could start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now - EPOCH)
    }

    /// What went wrong.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_deref()
    }

    /// What has happened, for people.
    pub fn log(&self) -> &[String] {
        self.log.as_deref().unwrap_or_default()
    }

    /// Whether the network is whole, so that what is broken must be mended by the nodes.
    pub fn is_fair(&self) -> bool {
        self.contacts.iter().all(|contact| !contact.cut)
    }

    /// Whether some kernel passes each bucket, if enough nodes live for that.
    pub fn is_covered(&self) -> bool {
        let living = self.living().count();
        if living == 0 || living < self.setup.quorum || self.living().all(|(_, p)| p.drains) {
            return true;
        }
        let passed = self.hosts.iter().fold(BucketSet::EMPTY, |all, host| all | host.passes(self.now));
        passed == BucketSet::ALL
    }

    /// Whether all is as it should be when nothing has gone wrong for a while: one view of exactly those that live,
    /// all settled in it, every bucket passed by exactly the node that it gives it to, in equal shares.
    pub fn is_at_rest(&self) -> bool {
        let living: Vec<(usize, &Process)> = self.living().collect();
        let Some(view) = living.first().map(|(_, process)| process.machine.view()) else {
            return self.hosts.iter().all(|host| host.start_at.is_none());
        };
        if living.len() < self.setup.quorum {
            // Nobody can be given up by so few.
            return true;
        }
        let sharing = living.iter().filter(|(_, process)| !process.drains).count();
        let Some(view) = view else {
            return false;
        };
        self.hosts.iter().all(|host| host.start_at.is_none())
            && view.members.len() == living.len()
            && living.iter().all(|(node, process)| {
                let given = view.owned_by(process.machine.me().id);
                let share = if process.drains { 0 } else { 256 / sharing };
                process.machine.view() == Some(view)
                    && view.names(process.machine.me())
                    && process.machine.is_settled()
                    && process.hung_until <= self.now
                    && self.hosts[*node].passes(self.now) == given
                    && (sharing == 0 || given.len() == share || !process.drains && given.len() == share + 1)
            })
            && (sharing == 0 || view.owners.iter().all(Option::is_some))
    }

    pub(crate) fn nodes(&self) -> usize {
        self.hosts.len()
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    pub(crate) fn kernel(&self, node: usize) -> Kernel {
        self.hosts[node].kernel
    }

    pub(crate) fn passes(&self, node: usize) -> BucketSet {
        self.hosts[node].passes(self.now)
    }

    pub(crate) fn is_dead_or_hung(&self, node: usize) -> bool {
        self.hosts[node].process.as_ref().is_none_or(|process| process.hung_until > self.now)
    }

    pub(crate) fn looked_at(&self, node: usize) -> Time {
        let now = Time::from_nanos(self.now);
        self.hosts[node].process.as_ref().map_or(now, |process| process.looked_at)
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.log.is_some() {
            let line = format!("{}  {}", self.clock(), what());
            self.log.get_or_insert_default().push(line);
        }
    }

    pub(crate) fn clock(&self) -> String {
        let micros = (self.now - EPOCH) / 1000;
        format!("{:>6}.{:03} ms", micros / 1000, micros % 1000)
    }

    fn living(&self) -> impl Iterator<Item = (usize, &Process)> {
        let hosts = self.hosts.iter().enumerate();
        hosts.filter_map(|(node, host)| Some((node, host.process.as_ref()?)))
    }

    // ----- the ordinary course -----

    /// Lets things happen up to the next stop.
    fn advance(&mut self) {
        while self.violation.is_none() {
            if let Some((node, point)) = self.runnable() {
                if let Some(point) = point {
                    self.stop = Stop::At(node, point);
                    if self.can_fail() {
                        return;
                    }
                }
                self.perform(node);
                continue;
            }
            self.let_time_pass();
            if let Some(node) = self.due(|host| host.start_at) {
                Arc::make_mut(&mut self.hosts[node]).start_at = None;
                self.start(node);
            } else if self.flights.first().is_some_and(|flight| flight.at <= self.now) {
                self.stop = Stop::Arrival;
                let alive = self.hosts[self.flights[0].to].process.is_some();
                if alive && self.can_fail() {
                    return;
                }
                self.apply(Choice::Go);
            } else if let Some(node) = self.due(|host| host.ask_at) {
                self.stop = Stop::Dead(node);
                if self.can_fail() {
                    return;
                }
                self.apply(Choice::Go);
            } else if self.next_mark <= self.now {
                self.forgive();
                self.stop = Stop::Mark;
                return;
            }
        }
    }

    fn due(&self, when: impl Fn(&Host) -> Option<u64>) -> Option<usize> {
        self.hosts.iter().position(|host| when(host).is_some_and(|at| at <= self.now))
    }

    fn let_time_pass(&mut self) {
        let mut next = self.next_mark;
        for host in &self.hosts {
            next = next.min(host.start_at.unwrap_or(u64::MAX)).min(host.ask_at.unwrap_or(u64::MAX));
            if let Some(process) = &host.process {
                let timer = process.machine.next_timeout().map_or(u64::MAX, |at| at.as_nanos());
                let wakes = matches!(process.step, Step::Idle) && process.hung_until <= self.now;
                next = next.min(if wakes { timer } else { process.hung_until });
            }
        }
        next = next.min(self.flights.first().map_or(u64::MAX, |flight| flight.at));
        if next > self.now {
            self.now = next;
            self.steps_at_once = 0;
        }
    }

    /// The first daemon that has something to do, and where it is if that is a place to hang or die at.
    fn runnable(&self) -> Option<(usize, Option<Point>)> {
        let now = Time::from_nanos(self.now);
        self.living().filter(|(_, process)| process.hung_until <= self.now).find_map(|(node, process)| {
            let point = match &process.step {
                Step::Idle => {
                    let due = process.machine.next_timeout().is_some_and(|at| at <= now);
                    if !due && process.inbox.is_empty() && process.command.is_none() {
                        return None;
                    }
                    Some(Point::BeforeClock)
                }
                Step::Timer(_) | Step::Command(..) => Some(Point::ClockToTimer),
                Step::Message(..) => Some(Point::ClockToMessage),
                Step::Poll => None,
                Step::Act(Action::Send { .. }) => Some(Point::BeforeSend),
                Step::Act(Action::Lease(_)) => Some(Point::LookToWrite),
                Step::Act(Action::Own(_)) => Some(Point::BeforeOwn),
                Step::Act(_) => None,
                Step::Sent => Some(Point::SendToLook),
                Step::SentAt(_) => Some(Point::ClockToLook),
            };
            Some((node, point))
        })
    }

    /// One step of a daemon's loop, as the daemon takes it: what it has to carry out, a timer, datagrams.
    fn perform(&mut self, node: usize) {
        self.steps_at_once += 1;
        if self.steps_at_once > STEPS_AT_ONCE_MAX {
            self.violate(Property::Rest, || format!("n{node} never has done"));
            return;
        }
        let now = Time::from_nanos(self.now);
        let mut act = None;
        self.with(node, |process| {
            process.step = match std::mem::replace(&mut process.step, Step::Idle) {
                Step::Idle => {
                    let due = process.machine.next_timeout().is_some_and(|at| at <= now);
                    if let Some(command) = process.command.take() {
                        Step::Command(now, command)
                    } else if due && (!process.inbox_first || process.inbox.is_empty()) {
                        Step::Timer(now)
                    } else if let Some(letter) = process.inbox.pop_front() {
                        process.inbox_first &= !process.inbox.is_empty();
                        Step::Message(now, letter)
                    } else {
                        Step::Idle
                    }
                }
                Step::Timer(at) => {
                    process.looked_at = at;
                    process.machine.handle_timeout(at);
                    Step::Poll
                }
                Step::Message(at, letter) => {
                    process.looked_at = at;
                    // A refusal is part of the protocol.
                    let _ = process.machine.handle_message(at, &letter.sender, letter.message.clone());
                    Step::Poll
                }
                Step::Command(at, command) => {
                    process.looked_at = at;
                    process.machine.handle_command(at, command);
                    Step::Poll
                }
                Step::Poll => process.machine.poll_action().map_or(Step::Idle, Step::Act),
                Step::Act(action) => {
                    act = Some(action);
                    Step::Poll
                }
                Step::Sent => Step::SentAt(now),
                Step::SentAt(at) => {
                    process.looked_at = at;
                    process.machine.handle_pulse_sent(at);
                    Step::Poll
                }
            };
        });
        if let Some(action) = act {
            self.carry_out(node, action);
        }
        self.judge_machine(node);
    }

    fn carry_out(&mut self, node: usize, action: Action) {
        match action {
            Action::Send { incarnation, sequence, message } => {
                self.send(node, incarnation, sequence, message);
            }
            Action::Own(owned) => {
                self.note(|| format!("n{node}'s kernel passes {} buckets", owned.len()));
                Arc::make_mut(&mut self.hosts[node]).kernel.owned = owned;
                self.judge_kernel(node);
            }
            Action::Lease(until) => {
                self.judge_lease(node, until);
                Arc::make_mut(&mut self.hosts[node]).kernel.lease = until;
                self.judge_kernel(node);
            }
            Action::Event(event) => self.note(|| format!("n{node}: {event}")),
            Action::Incarnation(incarnation) => {
                Arc::make_mut(&mut self.hosts[node]).next_incarnation = incarnation.0 + 1;
            }
            Action::Stopped => {
                self.note(|| format!("n{node} has left"));
                let host = Arc::make_mut(&mut self.hosts[node]);
                host.process = None;
                host.kernel = Kernel::default();
                host.left = true;
            }
            _ => {}
        }
    }

    fn send(&mut self, node: usize, incarnation: Incarnation, sequence: u64, message: Message) {
        let host = Arc::make_mut(&mut self.hosts[node]);
        match host.numbers.iter_mut().find(|(run, _)| *run == incarnation) {
            Some((_, last)) => *last = sequence,
            None => host.numbers.push((incarnation, sequence)),
        }
        let Some(process) = &mut host.process else {
            return;
        };
        if is_pulse(&message) {
            process.step = Step::Sent;
            let (made, oldest) = (process.looked_at.as_nanos(), self.now - self.setup.timeout);
            host.made.push_back((sequence, made));
            host.made.retain(|(_, at)| *at > oldest);
        }
        let config = process.machine.config();
        let sender = Sender { id: config.id(), name: config.name.clone(), incarnation, sequence };
        self.note(|| match &message {
            Message::View(view) => {
                let shares: Vec<usize> =
                    view.members.iter().map(|m| view.owned_by(m.identity.id).len()).collect();
                format!("n{node} sends view {} with shares {shares:?}", view.id.epoch)
            }
            _ => format!("n{node} sends a {}", describe(&message)),
        });
        let letter = Arc::new(Letter { sender, message });
        for to in (0..self.nodes()).filter(|to| *to != node) {
            let at = self.now + self.setup.travel;
            self.fly(Flight { at, to, from: node, sent: self.now, late: false, letter: letter.clone() });
        }
    }

    /// Keeps the datagrams in the order of their arrival.
    fn fly(&mut self, flight: Flight) {
        let order = |f: &Flight| (f.at, f.to, f.from, f.letter.sender.incarnation, f.letter.sender.sequence);
        let place = self.flights.partition_point(|other| order(other) < order(&flight));
        self.flights.insert(place, flight);
    }

    fn arrive(&mut self, flight: Flight) {
        if let Message::Pulse(pulse) = &flight.letter.message {
            if self.echoes_too_old(pulse, flight.to) {
                self.lost(flight.from, flight.to, flight.sent);
            } else {
                self.heard(flight.from, flight.to);
            }
        }
        if self.hosts[flight.to].process.is_some() {
            self.with(flight.to, |process| process.inbox.push_back(flight.letter));
        }
    }

    /// Whether a pulse echoes one of the receiver's own, but one that was made so long ago that it proves nothing.
    fn echoes_too_old(&self, pulse: &Pulse, to: usize) -> bool {
        let host = &self.hosts[to];
        let Some(me) = host.process.as_ref().map(|process| process.machine.me()) else {
            return false;
        };
        let Some(echo) = pulse.heard.iter().find(|entry| entry.identity == me && !entry.gone) else {
            return false;
        };
        let made = host.made.iter().find(|(number, _)| *number as u32 == echo.sequence);
        made.is_none_or(|(_, at)| self.now - at >= self.setup.timeout)
    }

    fn start(&mut self, node: usize) {
        let config = config(&self.setup, node);
        config.validate().expect("a good configuration");
        let now = Time::from_nanos(self.now);
        let host = Arc::make_mut(&mut self.hosts[node]);
        let incarnation = Incarnation(host.next_incarnation);
        host.next_incarnation += 1;
        host.ask_at = None;
        host.made.clear();
        // A starting daemon takes its predecessor's kernel state down before its first pulse.
        host.kernel = Kernel::default();
        host.process = Some(Process {
            machine: Machine::new(config, incarnation, now),
            step: Step::Idle,
            inbox: VecDeque::new(),
            command: None,
            hung_until: 0,
            inbox_first: false,
            looked_at: now,
            highest: ViewId::NONE,
            drains: false,
        });
        self.note(|| format!("n{node} starts in run {}", incarnation.0));
    }

    fn with(&mut self, node: usize, change: impl FnOnce(&mut Process)) {
        if let Some(process) = &mut Arc::make_mut(&mut self.hosts[node]).process {
            change(process);
        }
    }

    pub(crate) fn pair(&self, from: usize, to: usize) -> usize {
        from * self.nodes() + to
    }

    // ----- what the judge asks -----

    fn judge_machine(&mut self, node: usize) {
        let Some(process) = &self.hosts[node].process else {
            return;
        };
        let machine = &process.machine;
        let (owned, me, highest) = (machine.owned(), machine.me(), process.highest);
        let Some(view) = machine.view() else {
            if !owned.is_empty() {
                self.violate(Property::Gift, || format!("n{node} owns {owned:?} in no view"));
            }
            return;
        };
        let (id, promise, given) = (view.id, machine.promise(), view.owned_by(me.id));
        if !(owned - given).is_empty() {
            self.violate(Property::Gift, || format!("n{node} owns {owned:?}, its view gives it {given:?}"));
        } else if id < highest || promise < id {
            self.violate(Property::Monotone, || {
                format!("n{node} is in {id:?} after {highest:?}, promised {promise:?}")
            });
        } else if id > highest {
            let twin = self.living().filter_map(|(_, other)| other.machine.view());
            let twins = twin.filter(|other| other.id == id).any(|other| Some(other) != machine.view());
            let names_me = view.names(me);
            self.note(|| format!("n{node} adopts view {} of n-{:?}", id.epoch, id.coordinator.id));
            if twins || !names_me {
                self.violate(Property::Monotone, || {
                    format!("n{node} adopts {id:?}, which is two or not for it")
                });
            }
            self.with(node, |process| process.highest = id);
        }
    }
}

fn config(setup: &Setup, node: usize) -> Config {
    Config {
        cluster: ClusterName::new("model").expect("a good name"),
        name: NodeName::new(&format!("n{node}")).expect("a good name"),
        host: 1 + node as u64,
        digest: 0,
        quorum: setup.quorum,
        timeout: Duration::from_nanos(setup.timeout),
        interval: Duration::from_nanos(setup.interval),
        handover: false,
        weight: 100,
    }
}

fn is_pulse(message: &Message) -> bool {
    matches!(message, Message::Pulse(_))
}

pub(crate) fn millis(nanos: u64) -> String {
    format!("{} ms", nanos as f64 / 1e6)
}

fn describe(message: &Message) -> String {
    match message {
        Message::View(view) => format!("view {}", view.id.epoch),
        Message::Order(order) => format!("{order:?}"),
        Message::Done(done) => format!("{done:?}"),
        Message::Complaint(complaint) => format!("{complaint:?}"),
        Message::Pulse(pulse) => {
            let heard: Vec<String> = pulse
                .heard
                .iter()
                .map(|entry| {
                    let mark = if entry.gone {
                        "gone"
                    } else if entry.proven {
                        ""
                    } else {
                        "unproven"
                    };
                    format!("{:?}:{}ms{mark}", entry.identity.id, entry.age_us / 1000)
                })
                .collect();
            let settled = if pulse.settled { "settled in" } else { "in" };
            let late = if pulse.late { ", late" } else { "" };
            let gone = if pulse.gone { ", good-bye" } else { "" };
            format!(
                "pulse ({}, {settled} view {}, promise {}, hears {}{late}{gone})",
                pulse.state.as_str(),
                pulse.adopted.epoch,
                pulse.promise.epoch,
                heard.join(" ")
            )
        }
    }
}
