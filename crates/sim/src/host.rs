//! One machine: its clock, what its kernel passes, and the daemon that may run, hang or be dead.

use std::collections::VecDeque;
use std::rc::Rc;

use rudel_proto::bucket::BucketSet;
use rudel_proto::event::Event;
use rudel_proto::id::{Identity, Incarnation, ViewId};
use rudel_proto::machine::{Action, Machine, Memo};
use rudel_proto::seal::Sender;
use rudel_proto::wire::Message;
use rudel_proto::{Command, Node, Output, Terms, Time};

use crate::clock::{Clock, Moment};
use crate::server::{Checks, Server};
use crate::words::Words;

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// Opened already, for speed: most worlds have no adversary to keep out.
    Open(Rc<(Sender, Message)>),
    /// As it travels in earnest.
    Sealed(Rc<[u8]>),
}

/// A place in the daemon's loop where it may lose the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// It has read the clock, and has not yet acted on what woke it: so also between reading and sending.
    ClockToInput,
    /// It is about to hand a datagram to the network.
    BeforeSend,
    /// It has sent a pulse, and has not yet read the clock again to look at its lease.
    SendToLook,
    /// It has read the clock again, and has not yet looked.
    ClockToLook,
    /// It has looked, and has not yet written the lease.
    LookToWrite,
    /// It is about to write the bucket table.
    BeforeOwn,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 6] = [
        Point::ClockToInput,
        Point::BeforeSend,
        Point::SendToLook,
        Point::ClockToLook,
        Point::LookToWrite,
        Point::BeforeOwn,
    ];
}

/// What woke the daemon.
#[derive(Debug)]
pub(crate) enum Input {
    Packet(Packet),
    Timeout,
    Command(Command),
}

/// What the daemon has to carry out.
#[derive(Debug)]
pub(crate) enum Act {
    Send {
        packet: Packet,
        pulse: bool,
    },
    Own(BucketSet),
    Lease(Time),
    Event(Event),
    /// What a successor must know; empty for nothing.
    Memo(Vec<u8>),
    Examine(u32),
    Incarnation(Incarnation),
    Terms(u64),
    Stopped,
}

/// The production code, with or without its outer door.
pub(crate) enum Brain {
    Machine(Box<Machine>),
    Node(Box<Node>),
}

impl Brain {
    pub(crate) fn machine(&self) -> &Machine {
        match self {
            Brain::Machine(machine) => machine,
            Brain::Node(node) => node.machine(),
        }
    }

    /// Whether the input was let in.
    pub(crate) fn handle(&mut self, now: Time, input: Input) -> bool {
        match (self, input) {
            (Brain::Machine(machine), Input::Packet(Packet::Open(packet))) => {
                machine.handle_message(now, &packet.0, packet.1.clone()).is_ok()
            }
            (Brain::Node(node), Input::Packet(Packet::Sealed(datagram))) => {
                node.handle_datagram(now, &datagram).is_ok()
            }
            (_, Input::Packet(_)) => false,
            (Brain::Machine(machine), Input::Timeout) => {
                machine.handle_timeout(now);
                true
            }
            (Brain::Node(node), Input::Timeout) => {
                node.handle_timeout(now);
                true
            }
            (Brain::Machine(machine), Input::Command(command)) => {
                machine.handle_command(now, command);
                true
            }
            (Brain::Node(node), Input::Command(command)) => {
                node.handle_command(now, command);
                true
            }
        }
    }

    pub(crate) fn handle_pulse_sent(&mut self, now: Time) {
        match self {
            Brain::Machine(machine) => machine.handle_pulse_sent(now),
            Brain::Node(node) => node.handle_pulse_sent(now),
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Act> {
        match self {
            Brain::Machine(machine) => Some(match machine.poll_action()? {
                Action::Send { incarnation, sequence, message } => {
                    let config = machine.config();
                    let sender =
                        Sender { id: machine.me().id, name: config.name.clone(), incarnation, sequence };
                    let pulse = matches!(message, Message::Pulse(_));
                    Act::Send { packet: Packet::Open(Rc::new((sender, message))), pulse }
                }
                Action::Own(owned) => Act::Own(owned),
                Action::Keep => Act::Own(machine.owned()),
                Action::Lease(until) => Act::Lease(until),
                Action::Event(event) => Act::Event(event),
                Action::Examine(number) => Act::Examine(number),
                // No world has an administrator who waits for an answer.
                Action::Ordered { .. } => return self.poll(),
                Action::Terms(digest) => Act::Terms(digest),
                Action::Incarnation(incarnation) => Act::Incarnation(incarnation),
                Action::Stopped => Act::Stopped,
            }),
            Brain::Node(node) => Some(match node.poll_output() {
                Output::Send { datagram, pulse } => {
                    Act::Send { packet: Packet::Sealed(datagram.into()), pulse }
                }
                Output::Table(table) => Act::Own(table.owned),
                Output::Lease(until) => Act::Lease(until),
                Output::Event(event) => Act::Event(event),
                Output::Examine(number) => Act::Examine(number),
                Output::Terms(digest) => Act::Terms(digest),
                Output::Incarnation(incarnation) => Act::Incarnation(incarnation),
                Output::Stopped => Act::Stopped,
                Output::Memo(bytes) => Act::Memo(bytes),
                // No world asks a node to record, or has an administrator who waits for an answer.
                Output::Record(_) | Output::Ordered { .. } => return self.poll(),
                Output::Timeout(_) => return None,
            }),
        }
    }
}

/// Where the daemon's loop stands.
#[derive(Debug)]
pub(crate) enum Step {
    /// It waits, or is about to look what there is to do.
    Idle,
    /// It has read the clock and is about to act on an input.
    Input(Time, Input),
    /// It is about to ask what to carry out next.
    Poll,
    /// It is about to carry this out.
    Act(Act),
    /// It has sent a pulse.
    Sent,
    /// It has sent a pulse and read the clock.
    SentAt(Time),
}

/// A running daemon.
pub(crate) struct Process {
    pub(crate) brain: Brain,
    /// Distinguishes this process from those before it on the same machine.
    pub(crate) run: u64,
    pub(crate) step: Step,
    /// What the socket holds, and since when.
    pub(crate) inbox: VecDeque<(Moment, Packet)>,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) checks: Checks,
    pub(crate) told_checks: Option<Command>,
    /// It gets no processor before this.
    pub(crate) hung_until: Moment,
    /// Hangs that wait for the loop to reach a point.
    pub(crate) armed: Vec<(Point, u64)>,
    /// When the world will look at it next.
    pub(crate) wake_at: Option<Moment>,
    /// The view that it had when the world last looked, the last that it told of, and the highest that it ever had.
    pub(crate) view: Option<ViewId>,
    pub(crate) told: ViewId,
    /// The clock as it last told the protocol.
    pub(crate) looked_at: Time,
    pub(crate) highest: ViewId,
    /// What it has said and done that others build on.
    pub(crate) words: Words,
}

/// What the packet filter goes by. It outlives the daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) owned: BucketSet,
    pub(crate) lease: Time,
}

impl Kernel {
    pub(crate) const EMPTY: Kernel = Kernel { owned: BucketSet::EMPTY, lease: Time::ZERO };
}

/// One machine.
pub(crate) struct Host {
    pub(crate) clock: Clock,
    pub(crate) kernel: Kernel,
    /// What the daemon has left beside the kernel's maps for a successor.
    pub(crate) memo: Option<Memo>,
    /// The terms of the configuration file.
    pub(crate) file: Terms,
    /// What is stored for the next daemon: the terms that all nodes lived by when this one was told last, and those
    /// that it has wanted since, the last one last.
    pub(crate) agreed: Terms,
    pub(crate) wishes: Vec<Terms>,
    /// The number that the next run gets.
    pub(crate) next_incarnation: u64,
    pub(crate) process: Option<Process>,
    pub(crate) runs: u64,
    /// A look at the lease's end is scheduled.
    pub(crate) lapse_scheduled: bool,
    /// What its health check finds, in worlds that have one.
    pub(crate) server: Server,
    /// How long the daemon may wait for the processor each time it wants to go on, in nanoseconds.
    pub(crate) slow: u64,
    /// When it last was hung, dead or starting.
    pub(crate) trouble: Option<Moment>,
    /// When it last, being slow, had not even come to read what had come a quarter of a time-out before.
    pub(crate) behind: Option<Moment>,
    /// When its latest daemon started.
    pub(crate) started_at: Moment,
    /// Who its last daemon was that has ended, and what it had said.
    pub(crate) last: Option<(Identity, Words)>,
    /// What its parent says for that one.
    pub(crate) farewell: Option<Message>,
}

impl Host {
    /// What a daemon stores before it wants these terms.
    pub(crate) fn wish(&mut self, terms: Terms) {
        self.wishes.retain(|wish| *wish != terms);
        self.wishes.push(terms);
    }

    /// What a daemon stores when it is told that all live by the terms of this digest.
    pub(crate) fn come_true(&mut self, digest: u64) {
        if let Some(index) = self.wishes.iter().position(|terms| terms.digest == digest) {
            self.agreed = self.wishes[index];
            self.wishes.drain(..=index);
        }
    }

    /// What the kernel would pass now.
    pub(crate) fn passes(&self, now: Moment) -> BucketSet {
        if self.clock.read(now) < self.kernel.lease { self.kernel.owned } else { BucketSet::EMPTY }
    }
}
