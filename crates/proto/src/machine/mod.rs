//! The membership machine: pulses, views and commands in; messages, ownership and events out.
//!
//! It knows no keys and no bytes (that is [`Node`](crate::Node)'s part), so that it can be stepped, copied and
//! compared by simulations and model checkers. The rules that it follows are numbered in `docs/protocol.md`;
//! the code says which it follows where.
//!
//! ```text
//!   handle_message ─┐                ┌─ lease.rs       R4 R7  how long it may serve
//!   handle_timeout ─┼─► evaluate() ──┼─ judge.rs       R5     who is expired
//!   handle_command ─┘       │        └─ coordinate.rs  R6     who makes the next view
//!   handle_pulse_sent       ▼
//!                      poll_action()   Send · Own · Lease · Event · Ordered · Incarnation · Stopped
//! ```
//!
//! Invariants: what is owned is part of what the adopted view gives; no view below the promise is adopted; an
//! `Own` that takes away comes before the pulse that says so.

mod coordinate;
mod fingerprint;
mod handover;
mod judge;
mod lease;
mod orders;
mod peer;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bucket::BucketSet;
use crate::config::Config;
use crate::event::Event;
use crate::id::{Identity, Incarnation, NodeId, NodeName, ViewId};
use crate::seal::{Rejection, ReplayWindow, Sender};
use crate::share;
use crate::status::{PeerStatus, Status};
use crate::time::Time;
use crate::view::View;
use crate::wire::{Audit, HEARD_MAX, Heard, Message, NodeState, Pulse, Task};

pub use fingerprint::Origin;
pub use orders::Outcome;

use coordinate::Want;
use orders::Orders;
use peer::{Contact, Peer};
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
    /// Says whether the health checks pass.
    Healthy(bool),
    /// Gives the share away and stays, or takes it back.
    Drain(bool),
    /// Gives the share away, says good-bye and ends.
    Leave,
    /// Says whether any link to the clients is there. Without one the node owns nothing, and takes part again as after
    /// a stall (R7) when one returns.
    Connected(bool),
    /// Which of the buckets that were given up still have open connections here; the others are kept no longer.
    Keeping(BucketSet),
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
    /// Tell people.
    Event(Event),
    /// An order to another node has been carried out, or given up.
    Ordered {
        /// Which: the ticket of [`Command::Order`].
        ticket: u64,
        /// What became of it.
        outcome: Outcome,
    },
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
    contact: Contact,
    reported: bool,
}

/// One node's membership; see the module's documentation.
#[derive(Clone, Debug)]
pub struct Machine {
    config: Config,
    me: Identity,
    phase: Phase,

    weight: u16,
    healthy: bool,
    connected: bool,
    draining: bool,
    leaving: bool,
    leaving_since: Time,
    keeping: BucketSet,
    contested: BucketSet,
    connections: u32,
    orders: Orders,
    audits: Vec<Audit>,

    started_at: Time,
    /// R8: when listening began, anew after a stall.
    listen_since: Time,
    /// When the machine ran last, and for how long it had not run before it noticed a stall.
    observed_at: Time,
    unscheduled: Duration,
    late_until: Time,
    stalled_at: Option<Time>,

    view: Option<View>,
    adopted_at: Time,
    gained_since_adoption: usize,
    promise: ViewId,
    debts: BTreeSet<Identity>,
    owned: BucketSet,
    lease: Time,
    /// Bodies of views that were heard of, by identity.
    bodies: BTreeMap<ViewId, Arc<View>>,

    peers: BTreeMap<NodeId, Peer>,
    /// Who said good-bye, in which run, and when that was last heard of.
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
    weight: u16,
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
            phase: Phase::Listening,
            weight: config.weight,
            healthy: true,
            connected: true,
            draining: false,
            leaving: false,
            leaving_since: now,
            keeping: BucketSet::EMPTY,
            contested: BucketSet::EMPTY,
            connections: 0,
            orders: Orders::default(),
            audits: Vec::new(),
            started_at: now,
            listen_since: now,
            observed_at: now,
            unscheduled: Duration::ZERO,
            late_until: Time::ZERO,
            stalled_at: None,
            view: None,
            adopted_at: now,
            gained_since_adoption: 0,
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
        }
        self.evaluate(now);
    }

    /// Somebody wants something of this node.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        self.observe(now);
        match command {
            Command::Weight(weight) => self.obey(Task::Weight(weight)),
            Command::Healthy(healthy) => self.healthy = healthy,
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
            Command::Keeping(still_open) => self.keep_only(still_open),
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

    /// Its configuration.
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
                alive: peer.is_heard(now, self.config.timeout) && !self.is_gone(peer.identity),
                gone: self.is_gone(peer.identity),
                word: peer.word.clone(),
            })
            .collect();
        Status {
            state: self.state(),
            identity: self.me,
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
            healthy: self.healthy && self.connected,
            peers,
        }
    }

    // ----- what comes in -----

    /// R7, R8: notices that the program did not run when it should have.
    fn observe(&mut self, now: Time) {
        let idle = now.since(self.observed_at);
        self.observed_at = now;
        if now > self.pulse_due + self.config.interval / 2 {
            self.late_until = now + self.config.timeout;
            if self.phase == Phase::Listening {
                self.listen_since = now;
            }
        }
        self.unscheduled = idle;
        if idle > self.config.lease() && self.phase == Phase::Member {
            self.stall(now);
        }
        self.lapse(now);
    }

    fn is_late(&self, now: Time) -> bool {
        now < self.late_until
    }

    fn handle_pulse(&mut self, now: Time, sender: &Sender, mut pulse: Pulse) -> Result<(), Rejection> {
        let identity = Identity { id: sender.id, incarnation: sender.incarnation };
        if !self.meet(now, sender, &pulse)? {
            return Ok(());
        }
        if pulse.gone {
            // R9: final, whoever may repeat it: it was said in this very run.
            self.gone.insert(identity.id, (identity.incarnation, now));
        }
        self.learn_incarnation(pulse.heard.iter().map(|entry| entry.identity));

        // Heard is what echoes a pulse of ours sent within T; all else is answered and counts for nothing.
        let me = self.me;
        let echo = pulse.heard.iter().find(|entry| entry.identity == me && !entry.gone).copied();
        let sent = echo.and_then(|entry| self.sent_at(now, entry.sequence));
        let peer = self.peers.get_mut(&sender.id).expect("meet() has put it there");
        let contact = Contact { sequence: sender.sequence, at: now };
        let Some(sent) = sent else {
            if peer.unproven.is_none_or(|last| last.sequence < sender.sequence) {
                peer.unproven = Some(contact);
            }
            return Ok(());
        };
        if peer.heard.is_some_and(|last| last.sequence >= sender.sequence) {
            // Overtaken by a later one on the way.
            return Ok(());
        }
        peer.heard = Some(contact);
        peer.echoed = peer.echoed.max(Some(sent));
        if echo.is_some_and(|entry| entry.proven) {
            peer.acknowledged = peer.acknowledged.max(Some(sent));
        }
        for entry in pulse.heard.iter().filter(|entry| entry.gone) {
            let known =
                self.gone.get(&entry.identity.id).is_some_and(|(inc, _)| *inc >= entry.identity.incarnation);
            if !known && entry.identity != me {
                self.gone.insert(entry.identity.id, (entry.identity.incarnation, now));
            }
        }
        self.promise = self.promise.max(pulse.promise).max(pulse.adopted);
        pulse.heard.sort_unstable_by_key(|entry| entry.identity.id);
        peer.word = Some(pulse);
        self.move_lease(now);
        Ok(())
    }

    /// Makes sure that `sender` is the peer that it says it is, in its latest run. False: perhaps, but as long as that
    /// is not proved it says nothing about a peer that may be alive.
    fn meet(&mut self, now: Time, sender: &Sender, pulse: &Pulse) -> Result<bool, Rejection> {
        let fresh = Peer::new(sender.id, sender.incarnation, sender.name.clone(), pulse.host);
        let Some(peer) = self.peers.get(&sender.id) else {
            self.peers.insert(sender.id, fresh);
            return Ok(true);
        };
        let known = peer.identity;
        let is_fenced = peer.word.as_ref().is_some_and(|word| word.state == NodeState::Fenced);
        let in_use = !is_fenced
            && !self.is_gone(known)
            && (peer.is_heard(now, self.config.timeout)
                || (self.view.as_ref().is_some_and(|view| view.names(known)) && !self.is_over(now, known)));
        let other_host = peer.host != pulse.host;
        if other_host && in_use {
            return Err(Rejection::DuplicateName { name: sender.name.to_string() });
        }
        let proves = pulse.heard.iter().any(|entry| {
            entry.identity == self.me && !entry.gone && self.sent_at(now, entry.sequence).is_some()
        });
        let replaces = match sender.incarnation.cmp(&known.incarnation) {
            // R5: the lower run ends when the higher one is proved alive. Until then the higher may be a recording of
            // a run from before the node lost its count, and must not end the living.
            std::cmp::Ordering::Greater if !in_use || proves => true,
            std::cmp::Ordering::Greater => return Ok(false),
            std::cmp::Ordering::Equal => other_host,
            // A machine runs one daemon at a time: a lower run that is alive has lost its count, and the higher is over.
            std::cmp::Ordering::Less
                if proves && (other_host || !peer.is_heard(now, self.config.timeout)) =>
            {
                true
            }
            std::cmp::Ordering::Less => {
                return Err(Rejection::Outdated { name: sender.name.to_string() });
            }
        };
        if replaces {
            self.peers.insert(sender.id, fresh);
        }
        Ok(true)
    }

    fn handle_view(&mut self, now: Time, sender: &Sender, view: View) -> Result<(), Rejection> {
        let proven = self.peers.get(&sender.id).is_some_and(|peer| {
            peer.identity.incarnation == sender.incarnation && peer.is_heard(now, self.config.timeout)
        });
        if !proven {
            return Err(Rejection::Unproven { name: sender.name.to_string() });
        }
        self.learn_incarnation(view.members.iter().map(|m| m.identity));
        self.promise = self.promise.max(view.id);
        if self.view_id() == view.id {
            self.repeat_at = None;
        }
        self.remember(view);
        Ok(())
    }

    /// R5: a message in this node's own name: its own, a predecessor's, or that of a second node.
    fn handle_own_name(
        &mut self,
        now: Time,
        identity: Identity,
        sender: &Sender,
        message: &Message,
    ) -> Result<(), Rejection> {
        let Message::Pulse(pulse) = message else {
            return Ok(());
        };
        let same_host = pulse.host == self.config.host;
        if identity == self.me && same_host {
            return Ok(());
        }
        if same_host && !self.is_in_view() {
            // A run before this one, perhaps one that a lost file forgot.
            self.learn_incarnation([identity].into_iter());
        }
        let echoed = pulse
            .heard
            .iter()
            .any(|entry| entry.identity == self.me && self.sent_at(now, entry.sequence).is_some());
        let contact = Contact { sequence: sender.sequence, at: now };
        let reported = self.twin.as_ref().is_some_and(|twin| twin.reported && twin.identity == identity);
        self.twin = Some(Twin { identity, contact, reported });
        if !echoed || pulse.gone {
            return Ok(());
        }
        // Proved alive. The newcomer yields; of two that are in a view, the earlier run.
        let listens = matches!(pulse.state, NodeState::Listening | NodeState::Joining);
        let yields = match (pulse.state, self.is_in_view()) {
            (NodeState::Fenced, _) => false,
            (_, false) if !listens => true,
            (_, true) if listens => false,
            (_, false) => (self.me.incarnation, self.config.host) > (identity.incarnation, pulse.host),
            (_, true) => self.me.incarnation < identity.incarnation,
        };
        if yields && self.phase != Phase::Fenced {
            self.give_up_all();
            self.view = None;
            self.enter(Phase::Fenced, "another machine has this node's name");
        }
        if !reported {
            self.actions.push_back(Action::Event(Event::Duplicate { fenced: yields }));
            if let Some(twin) = &mut self.twin {
                twin.reported = true;
            }
        }
        Err(Rejection::DuplicateName { name: sender.name.to_string() })
    }

    fn is_in_view(&self) -> bool {
        matches!(self.phase, Phase::Member | Phase::Goodbye { .. })
    }

    /// A node that hears its own name with a higher incarnation takes that + 1, while it owns nothing.
    fn learn_incarnation(&mut self, identities: impl Iterator<Item = Identity>) {
        if !matches!(self.phase, Phase::Listening | Phase::Joining) {
            return;
        }
        let me = self.me;
        let highest =
            identities.filter(|identity| identity.id == me.id).map(|identity| identity.incarnation).max();
        if let Some(highest) = highest.filter(|highest| *highest > me.incarnation && highest.0 < u64::MAX) {
            self.me.incarnation = Incarnation(highest.0 + 1);
            self.sent.clear();
            self.actions.push_back(Action::Incarnation(self.me.incarnation));
        }
    }

    /// When the pulse with these low 32 bits of its number was sent, if within T.
    fn sent_at(&self, now: Time, sequence: u32) -> Option<Time> {
        self.sent
            .iter()
            .rev()
            .take_while(|(_, at)| now.since(*at) < self.config.timeout)
            .find(|(number, _)| *number as u32 == sequence)
            .map(|(_, at)| *at)
    }

    /// Keeps the body of a view: those of the own and of peers' views first, then the highest.
    fn remember(&mut self, view: View) {
        self.bodies.insert(view.id, Arc::new(view));
        while self.bodies.len() > BODIES_MAX {
            let adopted: BTreeSet<ViewId> = self
                .peers
                .values()
                .filter_map(|peer| peer.word.as_ref())
                .map(|word| word.adopted)
                .chain([self.view_id()])
                .collect();
            let Some(id) =
                self.bodies.keys().find(|id| !adopted.contains(*id)).or(self.bodies.keys().next()).copied()
            else {
                break;
            };
            self.bodies.remove(&id);
        }
    }

    // ----- the rules -----

    /// Applies the rules until nothing follows from what is known at `now`.
    fn evaluate(&mut self, now: Time) {
        self.evaluate_before_pulse(now);
        self.press_orders(now);
        let said = self.saying(now);
        let words_changed = self.said.as_ref() != Some(&said);
        if words_changed && self.extra_pulses > 0 && self.said.is_some() && self.phase != Phase::Stopped {
            self.extra_pulses -= 1;
            self.pulse(now);
        }
        self.arm(now);
    }

    fn evaluate_before_pulse(&mut self, now: Time) {
        self.turn_at = None;
        self.lapse(now);
        self.recover(now);
        self.start(now);
        self.yield_if_left_out();
        self.adopt_highest(now);
        self.pay_debts(now);
        if matches!(self.phase, Phase::Member | Phase::Joining) {
            self.coordinate(now);
            self.pay_debts(now);
        }
        self.gain(now);
        self.contest(now);
        self.repeat(now);
        self.leave(now);
        self.forget(now);
    }

    /// R8: a starting node listens for T, joins at once if it heard somebody, and forms a view of its own only if
    /// it heard nobody.
    fn start(&mut self, now: Time) {
        if self.phase == Phase::Fenced {
            let quiet =
                self.twin.as_ref().is_none_or(|twin| now >= twin.contact.at + self.config.timeout * 4);
            if quiet {
                self.twin = None;
                self.listen_since = now;
                self.enter(Phase::Listening, "the other machine with this node's name is silent");
            }
        }
        if self.phase != Phase::Listening {
            return;
        }
        if self.heard_peers(now).next().is_some() {
            self.enter(Phase::Joining, "heard other nodes");
        } else if now >= self.listen_since + self.config.timeout {
            if self.peers.is_empty() && self.twin.is_none() {
                self.enter(Phase::Joining, "heard nobody");
            } else {
                self.enter(Phase::Joining, "heard nodes that do not answer yet");
            }
        }
    }

    /// R1: a peer in full contact is settled in a higher view that does not name this node: the others went on.
    fn yield_if_left_out(&mut self) {
        if self.phase != Phase::Member {
            return;
        }
        let (now, mine) = (self.observed_at, self.view_id());
        // Of two groups with different configurations, which met, the one with the lower view yields to the other:
        // they hash flows differently, so there is no view that both could serve by.
        let yields_to = |word: &Pulse| match word.digest == self.config.digest {
            true => word.settled && self.bodies.get(&word.adopted).is_some_and(|view| !view.names(self.me)),
            false => true,
        };
        let left_out_by = self
            .heard_peers(now)
            .find(|(_, word)| word.adopted > mine && yields_to(word))
            .map(|(_, word)| word.adopted);
        if let Some(view) = left_out_by {
            self.give_up_all();
            self.view = None;
            self.actions.push_back(Action::Event(Event::LeftOut { view }));
            self.enter(Phase::Joining, "left out of a later view");
        }
    }

    /// R1: adopts the highest view heard of that names this node, and never one below its promise.
    fn adopt_highest(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Joining | Phase::Member) {
            return;
        }
        let highest = self.bodies.last_key_value().map(|(_, view)| view);
        let adoptable =
            highest.filter(|view| view.id >= self.promise && view.id > self.view_id() && view.names(self.me));
        if let Some(view) = adoptable.cloned() {
            self.adopt(now, (*view).clone());
        }
    }

    /// R1: what the view does not give is given up at once, in the kernel first.
    fn adopt(&mut self, now: Time, view: View) {
        let previous = self.view.take();
        // Whoever a former view named stays a debt until it can own nothing more.
        let former = previous.iter().flat_map(|old| old.members.iter().map(|m| m.identity));
        self.debts.extend(former.filter(|identity| *identity != self.me));
        self.debts.retain(|identity| !view.names(*identity));

        // R2: what the view still gives is not touched.
        let retained = self.owned & view.owned_by(self.me.id);
        if retained != self.owned {
            let given_up = self.owned - retained;
            self.own(retained);
            self.keep(given_up);
        }
        self.adopted_at = now;
        self.gained_since_adoption = 0;
        self.tell_changes(now, previous.as_ref(), &view);
        let first = previous.is_none();
        self.view = Some(view);
        self.repeat_at = None;
        if first {
            self.enter(Phase::Member, "named by a view");
        }
    }

    /// A debt is paid when its node is over, or owns nothing with a promise of at least this view.
    fn pay_debts(&mut self, now: Time) {
        let Some(view) = &self.view else {
            return;
        };
        let view_id = view.id;
        // Everyone proved alive that the view does not name.
        let unnamed: Vec<Identity> = self
            .peers
            .values()
            .filter(|peer| peer.heard.is_some() && !view.names(peer.identity))
            .map(|peer| peer.identity)
            .collect();
        self.debts.extend(unnamed);
        let paid: Vec<Identity> = self
            .debts
            .iter()
            .filter(|identity| self.is_over(now, **identity) || self.owns_nothing(now, **identity, view_id))
            .copied()
            .collect();
        for identity in paid {
            self.debts.remove(&identity);
        }
    }

    /// Whether its fresh word says that it owns nothing and will adopt no view below `view`.
    fn owns_nothing(&self, now: Time, identity: Identity, view: ViewId) -> bool {
        self.fresh_word(now, identity).is_some_and(|word| word.state.owns_nothing() && word.promise >= view)
    }

    fn fresh_word(&self, now: Time, identity: Identity) -> Option<&Pulse> {
        self.peers
            .get(&identity.id)
            .filter(|peer| peer.identity == identity)
            .and_then(|peer| peer.fresh_word(now, self.config.lease()))
    }

    /// R3: starts to own what the view gives, once nobody else can own it.
    fn gain(&mut self, now: Time) {
        let Some(view) = self.view.as_ref().filter(|_| self.phase == Phase::Member) else {
            return;
        };
        let given = view.owned_by(self.me.id);
        let wanted = given - self.owned;
        if wanted.is_empty() || now >= self.lease || self.stalled_at.is_some() || !self.debts.is_empty() {
            return;
        }
        let settled = |identity: Identity| {
            // Exactly this view: who is settled in a higher one may have skipped this one, and retained a bucket
            // that this one moves.
            self.fresh_word(now, identity).is_some_and(|word| word.settled && word.adopted == view.id)
        };
        let heard = self.peers.values().filter(|peer| peer.heard.is_some()).map(|peer| peer.identity);
        let named = view.members.iter().map(|m| m.identity);
        let blocked = heard.chain(named).filter(|identity| *identity != self.me).any(|identity| {
            !(settled(identity)
                || (!view.names(identity) && self.owns_nothing(now, identity, view.id))
                || self.is_over(now, identity))
        });
        let words = 1 + view.members.iter().filter(|m| m.identity != self.me && settled(m.identity)).count();
        if blocked || words < self.config.quorum {
            return;
        }
        self.own(given);
        self.gained_since_adoption += wanted.len();
        let (buckets, took) = (self.gained_since_adoption, now.since(self.adopted_at));
        self.actions.push_back(Action::Event(Event::Gained { buckets, took }));
    }

    /// R9: leaves when it owns nothing, or nobody could take what it owns, or it takes too long.
    fn leave(&mut self, now: Time) {
        if let Phase::Goodbye { said, next } = self.phase {
            if now < next {
                return;
            }
            if said < GOODBYES {
                self.phase = Phase::Goodbye { said: said + 1, next: now + self.config.interval / 4 };
                self.pulse(now);
            } else {
                self.phase = Phase::Stopped;
                self.actions.push_back(Action::Stopped);
            }
            return;
        }
        if !self.leaving || self.phase == Phase::Stopped {
            return;
        }
        if self.phase == Phase::Fenced {
            // Its name is another's: a good-bye in that name would be believed of the other.
            self.phase = Phase::Stopped;
            self.actions.push_back(Action::Stopped);
            return;
        }
        let heirs = self.heard_peers(now).any(|(_, word)| {
            word.weight > 0 && word.healthy && matches!(word.state, NodeState::Active | NodeState::Joining)
        });
        let patience = if heirs { self.config.timeout * 5 } else { self.config.interval };
        // What is kept is waited for, however long: the daemon's drain time-out ends it.
        let served = self.owned.is_empty() && self.keeping.is_empty();
        if served || !self.owned.is_empty() && now >= self.leaving_since + patience {
            self.give_up_all();
            self.phase = Phase::Goodbye { said: 1, next: now + self.config.interval / 4 };
            self.pulse(now);
        }
    }

    /// Drops what nobody needs any more.
    fn forget(&mut self, now: Time) {
        let memory = self.config.timeout * MEMORY_TIMEOUTS;
        self.gone.retain(|_, (_, at)| now.since(*at) < memory);
        let view = self.view.as_ref();
        let debts = &self.debts;
        self.peers.retain(|_, peer| {
            let last = peer.heard.max_by_time(peer.unproven);
            last.is_some_and(|contact| now.since(contact.at) < memory)
                || view.is_some_and(|view| view.names(peer.identity))
                || debts.contains(&peer.identity)
        });
        let peers = &self.peers;
        self.turned_away
            .retain(|identity| peers.get(&identity.id).is_some_and(|peer| peer.identity == *identity));
    }

    // ----- what goes out -----

    fn own(&mut self, owned: BucketSet) {
        self.owned = owned;
        self.actions.push_back(Action::Own(owned));
    }

    fn give_up_all(&mut self) {
        self.keep_nothing();
        if !self.owned.is_empty() {
            self.own(BucketSet::EMPTY);
        }
        if let Some(view) = &self.view {
            let former = view.members.iter().map(|m| m.identity);
            self.debts.extend(former.filter(|identity| *identity != self.me));
        }
    }

    fn enter(&mut self, phase: Phase, why: &'static str) {
        let before = self.state();
        self.phase = phase;
        if self.state() != before {
            self.tell_state(why);
        }
    }

    fn tell_state(&mut self, why: &'static str) {
        self.actions.push_back(Action::Event(Event::State { state: self.state(), why }));
    }

    /// The history of a change of views, the view itself first.
    fn tell_changes(&mut self, now: Time, previous: Option<&View>, view: &View) {
        let moved = match previous {
            Some(old) => share::moved(&old.owners, &view.owners),
            // What was before it came, a joiner does not know; what it gets, it does.
            None => share::count(&view.owners, self.me.id),
        };
        let mut events = vec![Event::View {
            id: view.id,
            reason: view.reason,
            subject: self.name_of(view.subject),
            members: view.members.len(),
            moved,
        }];
        for old in previous.iter().flat_map(|old| &old.members).filter(|old| !view.names(old.identity)) {
            let node = self.name_of(old.identity.id);
            events.push(if self.is_gone(old.identity) {
                Event::Left { node }
            } else if self.is_succeeded(old.identity) {
                Event::Restarted { node }
            } else {
                let silent = self.silence(now, old.identity);
                Event::Expired { node, silent, witnesses: self.witnesses(now, old.identity) }
            });
        }
        for new in view.members.iter().filter(|new| new.identity != self.me) {
            match previous.and_then(|old| old.member(new.identity)) {
                // To a joiner the others are not new.
                None if previous.is_none() && view.subject != new.identity.id => {}
                None => events.push(Event::Joined { node: self.name_of(new.identity.id) }),
                Some(old) if old.weight != new.weight => {
                    let node = self.name_of(new.identity.id);
                    events.push(Event::Weight { node, from: old.weight, to: new.weight });
                }
                Some(_) => {}
            }
        }
        self.actions.extend(events.into_iter().map(Action::Event));
    }

    fn name_of(&self, id: NodeId) -> Option<NodeName> {
        if id == self.me.id {
            return Some(self.config.name.clone());
        }
        self.peers.get(&id).map(|peer| peer.name.clone())
    }

    fn saying(&self, now: Time) -> Said {
        let state = self.state();
        let members = self.view.iter().flat_map(|view| &view.members);
        let is_silent = |identity| identity != self.me && self.silence(now, identity) >= self.config.timeout;
        Said {
            state,
            healthy: self.healthy && self.connected,
            weight: self.weight,
            adopted: self.view_id(),
            settled: self.is_settled(),
            gone: matches!(self.phase, Phase::Goodbye { .. } | Phase::Stopped),
            debts: self.debts.len(),
            keeping: self.keeping,
            silent: members.filter(|member| is_silent(member.identity)).count(),
            promise: state.owns_nothing().then_some(self.promise),
        }
    }

    /// R4: multicasts a pulse; the lease is looked at when it has been sent.
    fn pulse(&mut self, now: Time) {
        let said = self.saying(now);
        let uptime = now.since(self.started_at).as_millis();
        let message = Message::Pulse(Pulse {
            host: self.config.host,
            digest: self.config.digest,
            uptime_ms: u32::try_from(uptime).unwrap_or(u32::MAX),
            state: said.state,
            healthy: said.healthy,
            late: self.is_late(now),
            settled: said.settled,
            gone: said.gone,
            weight: said.weight,
            adopted: said.adopted,
            promise: self.promise,
            keeping: said.keeping,
            connections: self.connections_left(),
            heard: self.heard_table(now),
            audits: self.audits.clone(),
        });
        self.said = Some(said);
        self.send(message);
        let oldest = now - self.config.timeout;
        while self.sent.front().is_some_and(|(_, at)| *at < oldest) {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
    }

    fn heard_table(&self, now: Time) -> Vec<Heard> {
        let mut table: Vec<Heard> =
            self.gone.iter().map(|(id, (incarnation, _))| gone_entry(*id, *incarnation)).collect();
        let entries = self
            .peers
            .values()
            .filter(|peer| !self.is_gone(peer.identity))
            .filter_map(|peer| peer.entry(now, self.config.timeout));
        for entry in entries {
            // A later run of a node that said good-bye: its life matters more than its predecessor's end.
            table.retain(|gone| gone.identity.id != entry.identity.id);
            table.push(entry);
        }
        if let Some(twin) = &self.twin {
            table.push(Heard {
                identity: twin.identity,
                sequence: twin.contact.sequence as u32,
                age_us: u32::try_from(now.since(twin.contact.at).as_micros()).unwrap_or(u32::MAX),
                proven: false,
                gone: false,
            });
        }
        // The living first, should there be more than fit.
        table.sort_by_key(|entry| (!entry.proven, entry.gone, entry.age_us));
        table.truncate(HEARD_MAX);
        table
    }

    fn send(&mut self, message: Message) {
        self.sequence += 1;
        let (incarnation, sequence) = (self.me.incarnation, self.sequence);
        self.actions.push_back(Action::Send { incarnation, sequence, message });
    }

    fn view_id(&self) -> ViewId {
        self.view.as_ref().map_or(ViewId::NONE, |view| view.id)
    }

    /// The peers proved alive within T, with their last words.
    fn heard_peers(&self, now: Time) -> impl Iterator<Item = (&Peer, &Pulse)> {
        let timeout = self.config.timeout;
        self.peers
            .values()
            .filter(move |peer| peer.is_heard(now, timeout) && !self.is_gone(peer.identity))
            .filter_map(|peer| peer.word.as_ref().map(|word| (peer, word)))
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
        let silence =
            self.peers.values().filter_map(|peer| peer.heard).filter_map(|c| ahead(c.at + timeout)).min();
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
        let recover = match (self.stalled_at, &self.twin) {
            (Some(at), _) => ahead(at + timeout),
            (None, Some(twin)) if self.phase == Phase::Fenced => ahead(twin.contact.at + timeout * 4),
            _ => None,
        };
        self.timers.set(Timer::Recover, recover);
        self.timers.set(Timer::Order, self.orders.next());
    }
}

fn gone_entry(id: NodeId, incarnation: Incarnation) -> Heard {
    Heard { identity: Identity { id, incarnation }, sequence: 0, age_us: 0, proven: false, gone: true }
}

/// The later of two contacts.
trait MaxByTime {
    fn max_by_time(self, other: Self) -> Self;
}

impl MaxByTime for Option<Contact> {
    fn max_by_time(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(if a.at >= b.at { a } else { b }),
            (a, b) => a.or(b),
        }
    }
}
