//! The daemons' loops: they start, hang, wake, and carry out what the protocol wants, one step after the other.

use std::collections::VecDeque;
use std::rc::Rc;

use rudel_proto::id::{ClusterName, Incarnation, NodeName, ViewId};
use rudel_proto::machine::{Machine, Memo};
use rudel_proto::seal::{ClusterKey, Keys, Sender};
use rudel_proto::{Command, Config, Node, Terms, Time};

use super::{Happening, World, describe, nanos};
use crate::host::{Act, Brain, Input, Kernel, Packet, Point, Process, Step};
use crate::judge::millis;
use crate::server::Checks;
use crate::words::Words;

/// Datagrams that a socket keeps for a daemon that hangs: what Linux's default receive buffer holds of them.
const INBOX_MAX: usize = 256;
/// How often a parent says good-bye for its daemon.
const FAREWELLS: u64 = 3;

impl World {
    pub(super) fn start(&mut self, node: usize, forgetful: bool) {
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
        self.hosts[node].memo = None;
        self.look(node);

        // It remembers what all have agreed on, obeys whatever a former run may have obeyed, and wants what its file says.
        let host = &mut self.hosts[node];
        let (agreed, file) = (host.agreed, host.file);
        host.wish(file);
        let mut commands: VecDeque<Command> = host.wishes.iter().copied().map(Command::ObeyToo).collect();
        commands.push_back(Command::Terms(file));
        let config = self.config_of(node, agreed);
        let incarnation = Incarnation(incarnation);
        let now = self.hosts[node].clock.read(self.now);
        let brain = if self.settings.sealed {
            let keys = Keys::new(ClusterKey::new([7; 32]), []);
            let node = Node::new(config, keys, incarnation, now).expect("a good configuration");
            self.behind_its_door(node)
        } else {
            config.validate().expect("a good configuration");
            Brain::Machine(Box::new(Machine::new(config, incarnation, now)))
        };
        self.put(node, brain, Words::default(), commands, 0);
    }

    /// What a daemon that lives by these terms is told at its start.
    pub(super) fn config_of(&self, node: usize, terms: Terms) -> Config {
        let Terms { digest, quorum, timeout, interval } = terms;
        Config {
            cluster: ClusterName::new("sim").expect("a good name"),
            name: NodeName::new(&format!("n{node:02}")).expect("a good name"),
            host: 1 + node as u64,
            digest,
            handover: false,
            quorum,
            timeout,
            interval,
            weight: self.settings.weights[node % self.settings.weights.len()],
        }
    }

    /// A daemon begins to run, if it gets the processor, with these commands.
    pub(super) fn put(
        &mut self,
        node: usize,
        brain: Brain,
        words: Words,
        commands: VecDeque<Command>,
        asleep: u64,
    ) {
        let view = brain.machine().view().map(|view| view.id);
        let host = &mut self.hosts[node];
        host.runs += 1;
        host.trouble = Some(self.now);
        host.started_at = self.now;
        host.process = Some(Process {
            brain,
            run: host.runs,
            step: Step::Idle,
            inbox: VecDeque::new(),
            commands,
            checks: Checks::default(),
            told_checks: None,
            hung_until: 0,
            armed: Vec::new(),
            wake_at: None,
            view,
            told: view.unwrap_or(ViewId::NONE),
            looked_at: Time::ZERO,
            highest: view.unwrap_or(ViewId::NONE),
            words,
        });
        if asleep > 0 {
            self.hang(node, asleep);
        }
        self.begin_to_ask(node);
        self.run(node);
    }

    pub(super) fn end(&mut self, node: usize) {
        let known = self.known_to(node);
        let host = &mut self.hosts[node];
        host.trouble = Some(self.now);
        if let Some(mut process) = host.process.take() {
            process.words.named.extend(known);
            let machine = process.brain.machine();
            host.farewell = Some(machine.farewell());
            host.last = Some((machine.me(), process.words));
            self.former_views.push((self.now, process.told));
        }
    }

    /// R9: what a small parent process does when its daemon has died.
    pub(super) fn bury(&mut self, node: usize, too_late: bool) {
        self.end(node);
        let host = &self.hosts[node];
        let (Some((me, _)), Some(farewell)) = (&host.last, &host.farewell) else {
            return;
        };
        let (me, farewell) = (*me, farewell.clone());
        if !too_late {
            self.hosts[node].kernel = Kernel::EMPTY;
            self.look(node);
        }
        let name = NodeName::new(&format!("n{node:02}")).expect("a good name");
        for number in 0..FAREWELLS {
            // Numbers that the daemon never uses.
            let sender = Sender {
                id: me.id,
                name: name.clone(),
                incarnation: me.incarnation,
                sequence: 1 << 63 | number,
            };
            let packet = Packet::Open(Rc::new((sender, farewell.clone())));
            self.multicast(node, &packet, true);
        }
    }

    pub(super) fn hang(&mut self, node: usize, span: u64) {
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

    pub(super) fn arrive(&mut self, node: usize, packet: Packet) {
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

    pub(super) fn wake(&mut self, node: usize, run: u64) {
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
    pub(super) fn dawdle(&mut self, node: usize) -> bool {
        let slow = self.hosts[node].slow;
        if slow == 0 || !self.rng.chance(250_000) {
            return false;
        }
        let span = self.rng.between(1, slow);
        self.hang(node, span);
        true
    }

    /// Runs a daemon until it has nothing to do or loses the processor.
    pub(super) fn run(&mut self, node: usize) {
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
                    self.look_at_proof(node);
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
                    self.look_at_proof(node);
                }
            }
        }
    }

    /// Takes the processor away from a daemon, if this is where it happens.
    pub(super) fn pause(&mut self, node: usize, point: Point) {
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

    pub(super) fn carry_out(&mut self, node: usize, act: Act) {
        match act {
            Act::Send { packet, pulse } => {
                self.leave_memo(node);
                if let Packet::Open(open) = &packet {
                    self.take_down(node, &open.1);
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
            Act::Memo(bytes) => {
                let left = |bytes: &[u8]| Memo::decode(bytes).expect("what a node has left can be read");
                self.hosts[node].memo = (!bytes.is_empty()).then(|| left(&bytes));
            }
            Act::Event(event) => {
                self.note(|| format!("n{node} tells {}: {event}", event.kind()));
                self.hear_of_view(node, &event);
            }
            Act::Examine(number) => self.examine(node, number),
            Act::Incarnation(incarnation) => {
                self.note(|| format!("n{node} is now in run {}", incarnation.0));
                self.hosts[node].next_incarnation = incarnation.0 + 1;
            }
            Act::Terms(digest) => {
                self.note(|| format!("n{node} lives by the terms {digest}"));
                self.hosts[node].come_true(digest);
            }
            Act::Stopped => {
                self.note(|| format!("n{node} has left"));
                self.end(node);
                self.hosts[node].kernel = Kernel::EMPTY;
                self.look(node);
            }
        }
    }

    pub(super) fn multicast(&mut self, from: usize, packet: &Packet, pulse: bool) {
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

    pub(super) fn attack(&mut self) {
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
}
