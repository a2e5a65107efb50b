//! The membership machine: pulses, views and commands in; messages, ownership and events out.
//!
//! It knows no keys and no bytes (that is [`Node`](crate::Node)'s part), so that it can be stepped, copied and
//! compared by simulations and model checkers. The rules that it follows are numbered in `docs/protocol.md`;
//! the code says which it follows where.
//!
//! ```text
//!   handle_message ──► hear.rs ──┐                 ┌─ lease.rs       R4 R7     how long it may serve
//!   handle_timeout ──────────────┼─► evaluate() ───┼─ judge.rs       R5        who is expired
//!   handle_command ──────────────┘   rules.rs      └─ coordinate.rs  R6        who makes the next view
//!   handle_pulse_sent                R1-R3 R8 R9       resume.rs      R10       a run that outlives its daemon
//!                                        │             terms.rs       R11       what all members live by alike
//!                        say.rs ──► poll_action()    Send · Own · Keep · Lease · Examine · Event · Ordered ·
//!                                                       Incarnation · Terms · Stopped
//! ```
//!
//! Invariants: what is owned is part of what the adopted view gives; no view below the promise is adopted; an
//! `Own` that takes away comes before the pulse that says so.

mod complaint;
mod coordinate;
mod drains;
mod fingerprint;
mod fitness;
mod handover;
mod hear;
mod judge;
mod lease;
mod orders;
mod peer;
mod resume;
mod rules;
mod say;
mod terms;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bucket::BucketSet;
use crate::config::{Config, Terms};
use crate::event::Event;
use crate::id::{Identity, Incarnation, NodeId, ViewId};
use crate::seal::{Rejection, ReplayWindow, Sender};
use crate::status::{PeerStatus, Status};
use crate::time::Time;
use crate::view::View;
use crate::wire::{Audit, Checkup, Complaint, Message, NodeState, Pulse, Task};

pub use fingerprint::Origin;
pub use orders::Outcome;
pub use resume::{Inheritance, Memo, NUMBERS_RESERVED, ResumeError};

use coordinate::Want;
use drains::Drain;
use orders::Orders;
use peer::{Contact, Peer};
use terms::Agreement;
use timers::{Timer, Timers};

/// Pulses besides the regular one that a change may cause in each interval.
const EXTRA_PULSES: u32 = 4;
/// How often a good-bye is said.
const GOODBYES: u32 = 3;
/// A good-bye is repeated in heard tables, and a silent peer remembered, for this many time-outs.
const MEMORY_TIMEOUTS: u32 = 64;
/// Bodies of views that are kept: the own one, and those that live peers may have adopted.
const BODIES_MAX: usize = 16;
/// Replay windows that are kept; more runs of nodes than this are not alive at once.
const WINDOWS_MAX: usize = 256;

/// What the daemon, the administrator or the health checks ask of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Changes the weight, 0 to 1000.
    Weight(u16),
    /// Says whether nothing is wrong that is known without asking, such as a link without a carrier. What is wrong
    /// takes the share away at once (R6.5).
    Healthy(bool),
    /// Says what the health checks have come to (R6.5).
    Checked {
        /// The verdict: all of them are good.
        good: bool,
        /// Whether the last answer of none was bad; true before the first answers.
        last_good: bool,
        /// The last examination ([`Action::Examine`]) after which each has been asked and has answered; 0 for none.
        answered: u32,
    },
    /// Says in words what is wrong with this node; empty if nothing is. The others show it.
    Complain(String),
    /// Gives the share away and stays, or takes it back.
    Drain(bool),
    /// Gives the share away, says good-bye and ends.
    Leave,
    /// The configuration asks for these terms from now on: they come into force when all members want them (R11).
    Terms(Terms),
    /// A former run of this node, which nobody goes on with, may have obeyed these terms besides those that this one
    /// starts with (R11). Only before it is a member.
    ObeyToo(Terms),
    /// The configuration gives another weight than before, from now on.
    Configured {
        /// 0 to 1000.
        weight: u16,
    },
    /// Whether connections stay where they are while their bucket moves, from now on.
    Handover(bool),
    /// Says whether any link to the clients is there. Without one the node owns nothing, and takes part again as after
    /// a stall (R7) when one returns.
    Connected(bool),
    /// In these buckets no connection is left here: they are kept no longer. Named are those that have ended and not
    /// those that go on, since a bucket may have been given up while the daemon was looking.
    Ended(BucketSet),
    /// How many connections are still open in buckets that were given up; the next pulses say it.
    Connections(u32),
    /// Orders another node; answered by [`Action::Ordered`] with this ticket.
    Order {
        /// Which order is answered.
        ticket: u64,
        /// The other node's name.
        node: String,
        /// What it is to do.
        task: Task,
    },
    /// The packet counts that the next pulses carry, one per interface.
    Audit(Vec<Audit>),
}

/// What the machine wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Multicast a message under this number; after a pulse, call [`Machine::handle_pulse_sent`].
    Send {
        /// The sender's run.
        incarnation: Incarnation,
        /// The datagram's number.
        sequence: u64,
        /// What it says.
        message: Message,
    },
    /// From now on the kernel must pass these buckets and no others.
    Own(BucketSet),
    /// What is kept ([`Machine::kept`]) or contested ([`Machine::contested`]) has changed: tell the kernel.
    Keep,
    /// The kernel may pass packets until then.
    Lease(Time),
    /// Ask all health checks at once; [`Command::Checked`] says how that came out, with this number. A later one
    /// stands for those before it.
    Examine(u32),
    /// Tell people.
    Event(Event),
    /// An order to another node has been carried out, or given up.
    Ordered {
        /// Which: the ticket of [`Command::Order`].
        ticket: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// From now on nobody lives by other terms than those of this digest (R11).
    Terms(u64),
    /// This run has another number than it was started with: remember it for the next.
    Incarnation(Incarnation),
    /// The node has left; nothing will follow.
    Stopped,
}

/// Where a node is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// R8: it only listens.
    Listening,
    /// It waits for a view that names it.
    Joining,
    /// It has adopted a view that names it.
    Member,
    /// R9: it owns nothing and says good-bye.
    Goodbye { said: u32, next: Time },
    /// All is said.
    Stopped,
    /// R5: another machine with its name is alive.
    Fenced,
}

/// A second node of this node's name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Twin {
    identity: Identity,
    /// What was heard last in its name, and is answered: perhaps a recording.
    contact: Contact,
    /// When it was last proved alive.
    proved_at: Option<Time>,
    reported: bool,
}

/// One node's membership; see the module's documentation.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its terms are what follows from all that are obeyed.
    config: Config,
    terms: Agreement,
    me: Identity,
    phase: Phase,

    weight: u16,
    healthy: bool,
    connected: bool,
    checkup: Checkup,
    /// The highest examination heard of (R6.5).
    examination: u32,
    draining: bool,
    leaving: bool,
    leaving_since: Time,
    keeping: BucketSet,
    contested: BucketSet,
    /// Those that a dead node had or kept, and that somebody keeps (see [`Machine::bereaved`]).
    bereaved: BucketSet,
    connections: u32,
    orders: Orders,
    audits: Vec<Audit>,
    complaint: Option<Complaint>,
    /// After how many more regular pulses it is said.
    complaint_in: u32,
    /// What was told last of this node's drain.
    drain: Drain,

    started_at: Time,
    /// R8: when listening began, anew after a stall.
    listen_since: Time,
    /// When the machine ran last, and for how long it had not run before it noticed a stall.
    observed_at: Time,
    unscheduled: Duration,
    late_until: Time,
    stalled_at: Option<Time>,
    /// R10: it has taken over a run, and has not listened for T since.
    resuming: bool,
    /// R4.4: its last pulse before it ran late, or the one that its predecessor's lease was made of; none while it is known
    /// that the others count from its own pulses.
    steady: Option<Time>,
    /// R4.4: when it last found that it had run late.
    woke_at: Time,
    /// R10.5: its predecessor has moved the lease by a pulse that nobody had acknowledged.
    borrowed: bool,
    /// R10: whether its last pulse proved to somebody that it is alive, or there was nobody to prove it to.
    proves: bool,

    view: Option<View>,
    /// What the adopted view gives this node: asked for at each step, so it is looked up once.
    given: BucketSet,
    adopted_at: Time,
    gained_since_adoption: usize,
    /// R6: since when the view gives it what it does not own.
    lacking_since: Option<Time>,
    promise: ViewId,
    debts: BTreeSet<Identity>,
    owned: BucketSet,
    lease: Time,
    /// Bodies of views that were heard of, by identity.
    bodies: BTreeMap<ViewId, Arc<View>>,

    peers: BTreeMap<NodeId, Peer>,
    /// Who said good-bye, in which run, and when.
    gone: BTreeMap<NodeId, (Incarnation, Time)>,
    twin: Option<Twin>,
    windows: BTreeMap<Identity, ReplayWindow>,
    turned_away: BTreeSet<Identity>,

    sequence: u64,
    /// Number and time of the pulses sent within the last T, oldest first.
    sent: VecDeque<(u64, Time)>,
    pulse_due: Time,
    extra_pulses: u32,
    said: Option<Said>,

    want: Option<Want>,
    wanted_since: Option<Time>,
    turn_at: Option<Time>,
    repeat_at: Option<Time>,
    timers: Timers,
    actions: VecDeque<Action>,
}

/// What a pulse says that others wait for: a change of it is said at once.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    state: NodeState,
    healthy: bool,
    checkup: Checkup,
    weight: u16,
    digest: u64,
    wanted: (u64, bool),
    adopted: ViewId,
    settled: bool,
    gone: bool,
    debts: usize,
    keeping: BucketSet,
    /// How many members have been silent for T: others need this witness to expire them (R5). Flips once per
    /// silence, so it cannot set two nodes answering each other without end.
    silent: usize,
    /// Only while it owns nothing by its state: then the promise is its word (R3).
    promise: Option<ViewId>,
}

impl Machine {
    /// A node that begins to listen at `now` in a run that was never used before.
    pub fn new(config: Config, incarnation: Incarnation, now: Time) -> Self {
        let me = Identity { id: config.id(), incarnation };
        let mut machine = Machine {
            me,
            terms: Agreement::new(config.terms(), now),
            phase: Phase::Listening,
            weight: config.weight,
            healthy: true,
            connected: true,
            checkup: Checkup::GOOD,
            examination: 0,
            draining: false,
            leaving: false,
            leaving_since: now,
            keeping: BucketSet::EMPTY,
            contested: BucketSet::EMPTY,
            bereaved: BucketSet::EMPTY,
            connections: 0,
            orders: Orders::default(),
            audits: Vec::new(),
            complaint: None,
            complaint_in: 0,
            drain: Drain::None,
            started_at: now,
            listen_since: now,
            observed_at: now,
            unscheduled: Duration::ZERO,
            late_until: Time::ZERO,
            stalled_at: None,
            resuming: false,
            steady: None,
            woke_at: now,
            borrowed: false,
            proves: true,
            view: None,
            given: BucketSet::EMPTY,
            adopted_at: now,
            gained_since_adoption: 0,
            lacking_since: None,
            promise: ViewId::NONE,
            debts: BTreeSet::new(),
            owned: BucketSet::EMPTY,
            lease: Time::ZERO,
            bodies: BTreeMap::new(),
            peers: BTreeMap::new(),
            gone: BTreeMap::new(),
            twin: None,
            windows: BTreeMap::new(),
            turned_away: BTreeSet::new(),
            sequence: 0,
            sent: VecDeque::new(),
            pulse_due: now,
            extra_pulses: EXTRA_PULSES,
            said: None,
            want: None,
            wanted_since: None,
            turn_at: None,
            repeat_at: None,
            timers: Timers::default(),
            actions: VecDeque::new(),
            config,
        };
        machine.arm(now);
        machine
    }

    /// An authentic message has come. An error means that it changed nothing.
    pub fn handle_message(&mut self, now: Time, sender: &Sender, message: Message) -> Result<(), Rejection> {
        if self.phase == Phase::Stopped {
            return Ok(());
        }
        self.observe(now);
        let identity = Identity { id: sender.id, incarnation: sender.incarnation };
        let result = if sender.id == self.me.id {
            self.handle_own_name(now, identity, sender, &message)
        } else if !self.windows.entry(identity).or_default().accept(sender.sequence) {
            Err(Rejection::Repeated { name: sender.name.to_string() })
        } else {
            match message {
                Message::Pulse(pulse) => self.handle_pulse(now, sender, pulse),
                Message::View(view) => self.handle_view(now, sender, *view),
                Message::Order(order) => self.handle_order(now, sender, order),
                Message::Complaint(complaint) => self.handle_complaint(now, sender, complaint),
                Message::Done(done) => {
                    self.handle_done(sender, done);
                    Ok(())
                }
            }
        };
        if self.windows.len() > WINDOWS_MAX {
            let alive: BTreeSet<Identity> = self.peers.values().map(|peer| peer.identity).collect();
            self.windows.retain(|identity, _| alive.contains(identity));
        }
        self.evaluate(now);
        result
    }

    /// The time that [`Machine::next_timeout`] gave has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.observe(now);
        if now >= self.pulse_due {
            self.extra_pulses = EXTRA_PULSES;
            // The phase stays: pulses at once do not shift it, and missed ones are not made up for.
            let missed = now.since(self.pulse_due).as_nanos() / self.config.interval.as_nanos();
            self.pulse_due =
                self.pulse_due + self.config.interval * (u32::try_from(missed).unwrap_or(u32::MAX - 1) + 1);
            self.evaluate_before_pulse(now);
            self.pulse(now);
            self.complain();
        }
        self.evaluate(now);
    }

    /// Somebody wants something of this node.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        self.observe(now);
        match command {
            Command::Weight(weight) => self.obey(Task::Weight(weight)),
            Command::Configured { weight } => {
                // A successor must not take it for one that was written since (R10).
                self.config.weight = weight.min(1000);
                self.obey(Task::Weight(weight));
            }
            Command::Handover(handover) => {
                self.config.handover = handover;
                if !handover {
                    self.keep_nothing();
                }
            }
            Command::Healthy(healthy) => self.healthy = healthy,
            Command::Checked { good, last_good, answered } => self.heed_checks(good, last_good, answered),
            Command::Complain(text) => self.set_complaint(&text),
            Command::Drain(draining) => self.obey(Task::Drain(draining)),
            Command::Leave => {
                if !self.leaving {
                    self.leaving = true;
                    self.leaving_since = now;
                    self.tell_state("asked to leave");
                }
            }
            Command::Connected(connected) => {
                if self.connected != connected {
                    self.connected = connected;
                    self.stall(now);
                }
            }
            Command::Terms(terms) => self.want_terms(now, terms),
            Command::ObeyToo(terms) => self.obey_too(now, terms),
            Command::Ended(ended) => self.keep_only(self.keeping - ended),
            Command::Connections(connections) => self.connections = connections,
            Command::Order { ticket, node, task } => self.order(now, ticket, &node, task),
            Command::Audit(audits) => {
                self.audits = audits;
                self.audits.truncate(crate::wire::AUDITS_MAX);
            }
        }
        self.evaluate(now);
    }

    /// The next thing to be done, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Machine::handle_timeout`] next; `None` once it has stopped.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// This node in this run.
    pub fn me(&self) -> Identity {
        self.me
    }

    /// Its configuration; while several terms are obeyed (R11), what follows from all of them.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The adopted view.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// The buckets that it owns, and the kernel must pass.
    pub fn owned(&self) -> BucketSet {
        self.owned
    }

    /// Until when it may serve.
    pub fn lease(&self) -> Time {
        self.lease
    }

    /// Whether it has given up what its view does not give it, and has no debts.
    pub fn is_settled(&self) -> bool {
        self.view.is_some() && self.debts.is_empty()
    }

    /// What it is about, as its pulses say.
    pub fn state(&self) -> NodeState {
        match self.phase {
            Phase::Goodbye { .. } | Phase::Stopped => NodeState::Leaving,
            Phase::Fenced => NodeState::Fenced,
            Phase::Listening => NodeState::Listening,
            Phase::Joining => NodeState::Joining,
            Phase::Member if self.leaving => NodeState::Leaving,
            Phase::Member if self.draining => NodeState::Draining,
            Phase::Member => NodeState::Active,
        }
    }

    /// Everything about it that people may want to see.
    pub fn status(&self, now: Time) -> Status {
        let peers = self
            .peers
            .values()
            .map(|peer| PeerStatus {
                name: peer.name.clone(),
                identity: peer.identity,
                heard: peer.heard.map(|contact| now.since(contact.at)),
                sequence: peer.heard.map_or(0, |contact| contact.sequence),
                alive: peer.is_heard(now, self.config.timeout) && !self.is_gone(peer.identity),
                gone: self.is_gone(peer.identity),
                word: peer.word.clone(),
                complaint: peer
                    .complaint
                    .as_ref()
                    .filter(|_| peer.word.as_ref().is_some_and(|word| !word.is_fit()))
                    .map(|(_, complaint)| complaint.as_str().to_owned()),
            })
            .collect();
        Status {
            state: self.state(),
            identity: self.me,
            sequence: self.sequence,
            lease: (self.lease > now).then(|| self.lease.since(now)),
            serving: now < self.lease && !self.owned.is_empty(),
            settled: self.is_settled(),
            late: self.is_late(now),
            view: self.view.clone(),
            promise: self.promise,
            owned: self.owned,
            kept: self.keeping,
            connections: self.connections_left(),
            weight: self.weight,
            healthy: self.healthy && self.connected && self.checkup.good,
            terms: self.terms_status(),
            peers,
        }
    }

    fn view_id(&self) -> ViewId {
        self.view.as_ref().map_or(ViewId::NONE, |view| view.id)
    }

    /// The peers proved alive within T, with their last words.
    fn heard_peers(&self, now: Time) -> impl Iterator<Item = (&Peer, &Pulse)> {
        self.peers_heard_within(now, self.config.timeout)
    }

    fn peers_heard_within(&self, now: Time, timeout: Duration) -> impl Iterator<Item = (&Peer, &Pulse)> {
        self.peers
            .values()
            .filter(move |peer| peer.is_heard(now, timeout) && !self.is_gone(peer.identity))
            .filter_map(|peer| peer.word.as_ref().map(|word| (peer, word)))
    }

    /// The peers of these nodes, which ascend; looking each of them up would take several times as long.
    fn peers_of(&self, nodes: impl Iterator<Item = NodeId>) -> impl Iterator<Item = Option<&Peer>> {
        let mut peers = self.peers.values().peekable();
        nodes.map(move |node| {
            while peers.next_if(|peer| peer.identity.id < node).is_some() {}
            peers.peek().copied().filter(|peer| peer.identity.id == node)
        })
    }

    /// Sets every timer from the state; a moment that has passed is nothing to wait for.
    fn arm(&mut self, now: Time) {
        if self.phase == Phase::Stopped {
            self.timers = Timers::default();
            return;
        }
        let timeout = self.config.timeout;
        let ahead = |at: Time| (at > now).then_some(at);
        self.timers.set(Timer::Pulse, Some(self.pulse_due));
        let starts = matches!(self.phase, Phase::Listening | Phase::Joining);
        let start =
            [self.listen_since + timeout, self.listen_since + timeout * 2].into_iter().find_map(ahead);
        self.timers.set(Timer::Start, start.filter(|_| starts));
        let serves = !self.owned.is_empty() || !self.keeping.is_empty();
        self.timers.set(Timer::Lease, Some(self.lease).filter(|_| serves));
        let silence = self.peers.values().filter_map(|peer| {
            let heard = peer.heard?.at;
            ahead(heard + timeout).or_else(|| ahead(heard + self.timeout_said_by(peer.identity)))
        });
        let silence = silence.min();
        self.timers.set(Timer::Silence, silence);
        self.timers.set(Timer::Coordinate, self.turn_at.and_then(ahead));
        self.timers.set(Timer::Repeat, self.repeat_at.and_then(ahead));
        let leave = match self.phase {
            Phase::Goodbye { next, .. } => Some(next),
            _ if self.leaving => [self.config.interval, timeout * 5]
                .into_iter()
                .find_map(|patience| ahead(self.leaving_since + patience)),
            _ => None,
        };
        self.timers.set(Timer::Leave, leave);
        let recover = match self.stalled_at {
            Some(at) => ahead(at + timeout),
            None => self.fenced_until().and_then(ahead),
        };
        self.timers.set(Timer::Recover, recover);
        self.timers.set(Timer::Order, self.orders.next());
    }
}
