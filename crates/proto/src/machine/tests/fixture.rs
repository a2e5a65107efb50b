//! One machine among fictitious peers: every word that it hears is made up by the test.
//!
//! The machine is always called [`ME`]. Peers are called by other names; unless a test says otherwise a peer is
//! active, settled in [`Fixture::claimed`], hears everybody, and echoes the machine's last pulse at once. Every
//! input forgets what the one before caused, so that outputs can be asserted as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bucket::BucketSet;
use crate::config::Config;
use crate::event::Event;
use crate::id::{ClusterName, Identity, Incarnation, NodeId, NodeName, ViewId};
use crate::machine::{Action, Command, Machine};
use crate::seal::{Rejection, Sender};
use crate::time::Time;
use crate::view::{Member, Reason, View};
use crate::wire::{Checkup, Heard, Message, NodeState, Pulse};

/// The name of the machine under test.
pub(super) const ME: &str = "m";
/// T in milliseconds.
pub(super) const TIMEOUT: u64 = 400;
/// The interval in milliseconds.
pub(super) const INTERVAL: u64 = 50;
/// T' in milliseconds: T - interval - 2 % of T.
pub(super) const LEASE: u64 = 342;
/// The run that every node is in, unless a test says otherwise.
pub(super) const RUN: Incarnation = Incarnation(10);

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn config(name: &str, quorum: usize) -> Config {
    Config {
        cluster: cluster(),
        name: node(name),
        host: host(name),
        digest: 0,
        handover: false,
        quorum,
        timeout: ms(TIMEOUT),
        interval: ms(INTERVAL),
        weight: 100,
    }
}

pub(super) fn cluster() -> ClusterName {
    ClusterName::new("web").unwrap()
}

pub(super) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// The machine that a node of this name runs on.
pub(super) fn host(name: &str) -> u64 {
    id(name).as_u64() ^ 1
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId::of(&cluster(), &node(name))
}

pub(super) fn identity(name: &str) -> Identity {
    Identity { id: id(name), incarnation: RUN }
}

pub(super) fn view_id(epoch: u64, coordinator: &str) -> ViewId {
    ViewId { epoch, coordinator: identity(coordinator) }
}

/// A view of members with equal weights; bucket b belongs to the member that comes b-th, counted round and round.
pub(super) fn view(epoch: u64, coordinator: &str, members: &[&str]) -> View {
    let owners = std::array::from_fn(|bucket| Some(id(members[bucket % members.len()])));
    let mut members: Vec<Member> =
        members.iter().map(|name| Member { identity: identity(name), weight: 100 }).collect();
    members.sort_unstable_by_key(|member| member.identity.id);
    View {
        id: view_id(epoch, coordinator),
        digest: 0,
        reason: Reason::Joined,
        subject: id(coordinator),
        members,
        owners,
    }
}

/// `view`, but these buckets belong to `name`.
pub(super) fn give(mut view: View, name: &str, buckets: impl IntoIterator<Item = u8>) -> View {
    for bucket in buckets {
        view.owners[usize::from(bucket)] = Some(id(name));
    }
    view
}

/// Who is a member, by the names that are known to the test.
pub(super) fn names_in<'a>(view: &View, known: &[&'a str]) -> Vec<&'a str> {
    let names: Vec<&str> = known.iter().copied().filter(|name| view.names(identity(name))).collect();
    assert_eq!(names.len(), view.members.len(), "{view:?} has members that the test does not name");
    names
}

pub(super) fn gained(buckets: usize, took: u64) -> Action {
    Action::Event(Event::Gained { buckets, took: ms(took) })
}

pub(super) fn stalled(buckets: usize, unscheduled: u64) -> Action {
    Action::Event(Event::Stalled { buckets, unscheduled: ms(unscheduled) })
}

pub(super) fn state(state: NodeState, why: &'static str) -> Action {
    Action::Event(Event::State { state, why })
}

pub(super) fn adopted(view: &View, moved: usize) -> Action {
    let subject = ('a'..='z').map(String::from).find(|name| id(name) == view.subject).map(|name| node(&name));
    let (id, reason, members) = (view.id, view.reason, view.members.len());
    Action::Event(Event::View { id, reason, subject, members, moved })
}

/// An entry of a heard table.
pub(super) fn entry(name: &str, sequence: u64, age: u64) -> Heard {
    Heard {
        identity: identity(name),
        sequence: sequence as u32,
        age_us: (age * 1000) as u32,
        proven: true,
        gone: false,
    }
}

/// What is remembered of a fictitious peer.
#[derive(Clone, Debug)]
struct Fake {
    incarnation: Incarnation,
    sequence: u64,
    spoke_at: Time,
}

/// See the module's documentation.
pub(super) struct Fixture {
    pub(super) machine: Machine,
    pub(super) now: Time,
    /// The view that peers say that they are settled in.
    pub(super) claimed: ViewId,
    /// Everything that the last input caused, in order.
    pub(super) log: Vec<Action>,
    peers: BTreeMap<String, Fake>,
    /// Number and time of the machine's pulses.
    pulses: Vec<(u64, Time)>,
}

impl Fixture {
    /// A machine that begins to listen.
    pub(super) fn new(quorum: usize) -> Self {
        Self::configured(config(ME, quorum))
    }

    fn configured(config: Config) -> Self {
        let now = Time::from_nanos(1_000_000_000_000);
        let mut fixture = Fixture {
            machine: Machine::new(config, RUN, now),
            now,
            claimed: ViewId::NONE,
            log: Vec::new(),
            peers: BTreeMap::new(),
            pulses: Vec::new(),
        };
        fixture.pass(0);
        fixture
    }

    /// A machine that serves its share of `view(1, …, members)`, which it got from the first member but itself.
    pub(super) fn member_of(members: &[&str]) -> Self {
        Self::quorum_of(1, members)
    }

    /// The same with a quorum.
    pub(super) fn quorum_of(quorum: usize, members: &[&str]) -> Self {
        Self::configured(config(ME, quorum)).admitted_to(members)
    }

    /// The same with connections that stay when their bucket moves.
    pub(super) fn handing_over(members: &[&str]) -> Self {
        Self::configured(Config { handover: true, ..config(ME, 1) }).admitted_to(members)
    }

    fn admitted_to(self, members: &[&str]) -> Self {
        let mut f = self;
        let others: Vec<&str> = members.iter().copied().filter(|name| *name != ME).collect();
        if others.is_empty() {
            f.pass(TIMEOUT);
        } else {
            let view = view(1, others[0], members);
            f.claimed = view.id;
            for name in &others {
                f.hear(name, |_| {});
            }
            f.hear_view(others[0], &view);
            // R3: with a quorum it counts itself only after T.
            let intervals = if f.machine.config().quorum > 1 { TIMEOUT / INTERVAL + 1 } else { 4 };
            f.run(INTERVAL * intervals, &others);
            assert_eq!(f.machine.view(), Some(&view));
        }
        assert_eq!(f.machine.owned(), f.given(), "the fixture serves its share");
        assert!(!f.machine.owned().is_empty());
        f.log.clear();
        f
    }

    // ----- inputs; each returns what it caused, but for messages and leases -----

    /// A pulse of a peer, as `edit` makes it.
    pub(super) fn hear(&mut self, name: &str, edit: impl FnOnce(&mut Pulse)) -> Vec<Action> {
        let (result, effects) = self.try_hear(name, edit);
        assert_eq!(result, Ok(()), "a pulse of {name}");
        effects
    }

    /// A pulse of a peer that may be rejected.
    pub(super) fn try_hear(
        &mut self,
        name: &str,
        edit: impl FnOnce(&mut Pulse),
    ) -> (Result<(), Rejection>, Vec<Action>) {
        let mut pulse = self.pulse_of(name);
        edit(&mut pulse);
        let sender = self.sender(name);
        self.receive(&sender, Message::Pulse(pulse))
    }

    /// A view that a peer sends or repeats.
    pub(super) fn hear_view(&mut self, name: &str, view: &View) -> Vec<Action> {
        let sender = self.sender(name);
        let (result, effects) = self.receive(&sender, Message::View(Box::new(view.clone())));
        assert_eq!(result, Ok(()), "a view of {name}");
        effects
    }

    /// Any message.
    pub(super) fn receive(
        &mut self,
        sender: &Sender,
        message: Message,
    ) -> (Result<(), Rejection>, Vec<Action>) {
        self.log.clear();
        let result = self.machine.handle_message(self.now, sender, message);
        self.pump();
        (result, self.effects())
    }

    /// Something is wanted of the machine.
    pub(super) fn command(&mut self, command: Command) -> Vec<Action> {
        self.log.clear();
        self.machine.handle_command(self.now, command);
        self.pump();
        self.effects()
    }

    /// Time passes in silence; the machine is woken when it asks for it.
    pub(super) fn pass(&mut self, millis: u64) -> Vec<Action> {
        self.log.clear();
        self.sleep_until(self.now + ms(millis));
        self.effects()
    }

    /// Time passes while these peers send a pulse in the middle of each interval.
    pub(super) fn run(&mut self, millis: u64, peers: &[&str]) -> Vec<Action> {
        self.run_saying(millis, peers, |_, _| {})
    }

    /// The same, with every pulse as `edit` makes it.
    pub(super) fn run_saying(
        &mut self,
        millis: u64,
        peers: &[&str],
        edit: impl Fn(&str, &mut Pulse),
    ) -> Vec<Action> {
        assert_eq!(millis % INTERVAL, 0, "time runs by whole intervals");
        let mut log = Vec::new();
        for _ in 0..millis / INTERVAL {
            self.pass(INTERVAL / 2);
            log.append(&mut self.log);
            for name in peers {
                self.hear(name, |pulse| edit(name, pulse));
                log.append(&mut self.log);
            }
            self.pass(INTERVAL / 2);
            log.append(&mut self.log);
        }
        self.log = log;
        self.effects()
    }

    /// The program is not scheduled, then it runs and does what has become due.
    pub(super) fn hang(&mut self, millis: u64) -> Vec<Action> {
        self.log.clear();
        self.now = self.now + ms(millis);
        self.machine.handle_timeout(self.now);
        self.pump();
        self.effects()
    }

    /// A peer's later run; it has not spoken yet.
    pub(super) fn restart(&mut self, name: &str) -> Identity {
        let later = self.peers.get(name).expect("a peer that has spoken before").incarnation.0 + 1;
        self.restart_as(name, later)
    }

    /// The same in a run of this number.
    pub(super) fn restart_as(&mut self, name: &str, run: u64) -> Identity {
        let peer = self.peers.get_mut(name).expect("a peer that has spoken before");
        (peer.incarnation, peer.sequence) = (Incarnation(run), 0);
        Identity { id: id(name), incarnation: peer.incarnation }
    }

    // ----- what the last input caused -----

    /// All but messages and leases.
    pub(super) fn effects(&self) -> Vec<Action> {
        let quiet = |action: &&Action| !matches!(action, Action::Send { .. } | Action::Lease(_));
        self.log.iter().filter(quiet).cloned().collect()
    }

    /// What the kernel was told to pass.
    pub(super) fn owns(&self) -> Vec<BucketSet> {
        self.log
            .iter()
            .filter_map(|action| match action {
                Action::Own(owned) => Some(*owned),
                _ => None,
            })
            .collect()
    }

    /// The leases that were written.
    pub(super) fn leases(&self) -> Vec<Time> {
        self.log
            .iter()
            .filter_map(|action| match action {
                Action::Lease(until) => Some(*until),
                _ => None,
            })
            .collect()
    }

    /// The pulses that were sent.
    pub(super) fn pulses(&self) -> Vec<Pulse> {
        self.log
            .iter()
            .filter_map(|action| match action {
                Action::Send { message: Message::Pulse(pulse), .. } => Some(pulse.clone()),
                _ => None,
            })
            .collect()
    }

    /// The views that were sent.
    pub(super) fn views(&self) -> Vec<View> {
        self.log
            .iter()
            .filter_map(|action| match action {
                Action::Send { message: Message::View(view), .. } => Some((**view).clone()),
                _ => None,
            })
            .collect()
    }

    // ----- what is so -----

    /// What the adopted view gives the machine.
    pub(super) fn given(&self) -> BucketSet {
        self.machine.view().map_or(BucketSet::EMPTY, |view| view.owned_by(id(ME)))
    }

    /// How long ago a peer spoke.
    pub(super) fn silence(&self, name: &str) -> u64 {
        self.now.since(self.peers[name].spoke_at).as_millis() as u64
    }

    /// The number of the machine's last pulse.
    pub(super) fn last_pulse(&self) -> u64 {
        self.pulses.last().map_or(0, |(sequence, _)| *sequence)
    }

    /// When the machine's last pulse was sent.
    pub(super) fn last_pulse_at(&self) -> Time {
        self.pulses.last().expect("a first pulse").1
    }

    /// The number of the last pulse that the machine sent at least so long ago, and how long ago that was exactly.
    pub(super) fn pulse_before(&self, millis: u64) -> (u64, u64) {
        let (sequence, at) =
            self.pulses.iter().rev().find(|(_, at)| self.now.since(*at) >= ms(millis)).expect("such a pulse");
        (*sequence, self.now.since(*at).as_millis() as u64)
    }

    /// The next datagram of a peer.
    pub(super) fn sender(&mut self, name: &str) -> Sender {
        let fresh = Fake { incarnation: RUN, sequence: 0, spoke_at: self.now };
        let peer = self.peers.entry(name.into()).or_insert(fresh);
        peer.sequence += 1;
        peer.spoke_at = self.now;
        Sender { id: id(name), name: node(name), incarnation: peer.incarnation, sequence: peer.sequence }
    }

    /// What a healthy, settled peer in full contact says.
    pub(super) fn pulse_of(&self, name: &str) -> Pulse {
        let mut heard: Vec<Heard> = self
            .peers
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, peer)| Heard {
                identity: Identity { id: id(other), incarnation: peer.incarnation },
                ..entry(other, peer.sequence, self.now.since(peer.spoke_at).as_millis() as u64)
            })
            .collect();
        heard.push(Heard { identity: self.machine.me(), ..entry(ME, self.last_pulse(), 0) });
        Pulse {
            host: host(name),
            digest: 0,
            uptime_ms: 3_600_000,
            state: NodeState::Active,
            healthy: true,
            cut: false,
            checkup: Checkup::GOOD,
            late: false,
            waiting: false,
            settled: true,
            gone: false,
            weight: 100,
            adopted: self.claimed,
            promise: self.claimed,
            keeping: BucketSet::EMPTY,
            connections: 0,
            heard,
            audits: Vec::new(),
            wanted: 0,
            bound: false,
            timeout_us: TIMEOUT as u32 * 1000,
        }
    }

    /// Carries out what the machine asks for; pulses take no time to send.
    pub(super) fn pump(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            let is_pulse = matches!(&action, Action::Send { message: Message::Pulse(_), .. });
            if let (true, Action::Send { sequence, .. }) = (is_pulse, &action) {
                self.pulses.push((*sequence, self.now));
            }
            self.log.push(action);
            if is_pulse {
                self.machine.handle_pulse_sent(self.now);
            }
        }
    }

    fn sleep_until(&mut self, end: Time) {
        let mut wakings = 0;
        while let Some(next) = self.machine.next_timeout().filter(|next| *next <= end) {
            wakings += 1;
            assert!(wakings < 1000, "it asks to be woken at {next} again and again");
            self.now = self.now.max(next);
            self.machine.handle_timeout(self.now);
            self.pump();
        }
        self.now = end;
    }
}

/// A joining peer's word: it owns nothing and has promised `promise`.
pub(super) fn joining(promise: ViewId) -> impl Fn(&mut Pulse) {
    move |pulse| {
        pulse.state = NodeState::Joining;
        pulse.adopted = ViewId::NONE;
        pulse.settled = false;
        pulse.promise = promise;
    }
}

/// A peer's word of its view.
pub(super) fn settled_in(view: ViewId) -> impl Fn(&mut Pulse) {
    move |pulse| {
        pulse.adopted = view;
        pulse.promise = view;
        pulse.settled = true;
    }
}

/// An echo of a certain pulse of the machine, instead of its last.
pub(super) fn echoing(sequence: u64) -> impl Fn(&mut Pulse) {
    move |pulse| {
        for entry in pulse.heard.iter_mut().filter(|entry| entry.identity.id == id(ME)) {
            entry.sequence = sequence as u32;
        }
    }
}

/// A peer that has not heard the machine: its words prove nothing.
pub(super) fn deaf(pulse: &mut Pulse) {
    pulse.heard.retain(|entry| entry.identity.id != id(ME));
}

/// A report on a silent node: heard so many milliseconds ago.
pub(super) fn reporting(name: &str, age: u64) -> impl Fn(&mut Pulse) {
    let about = id(name);
    move |pulse| {
        for entry in pulse.heard.iter_mut().filter(|entry| entry.identity.id == about) {
            entry.age_us = (age * 1000) as u32;
        }
    }
}
