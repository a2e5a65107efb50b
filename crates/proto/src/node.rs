//! The door of the protocol: sealed datagrams in, sealed datagrams and what the kernel must hold out.

use std::collections::{BTreeMap, VecDeque};

use crate::bucket::BucketSet;
use crate::config::{Config, ConfigError};
use crate::event::Event;
use crate::id::{Incarnation, NodeId};
use crate::machine::{Action, Command, Inheritance, Machine, Memo, NUMBERS_RESERVED, Outcome, ResumeError};
use crate::record::{Input, Record};
use crate::seal::{KeyId, Keys, Opener, Rejection, Sealer, Sender};
use crate::status::Status;
use crate::time::Time;
use crate::wire::Message;

/// What the packet filter does with each bucket; what is in none of the sets is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Passed.
    pub owned: BucketSet,
    /// Part of `owned`: some live node keeps connections of these, so TCP segments of connections that this node does
    /// not know are dropped.
    pub contested: BucketSet,
    /// Not owned: only TCP segments of connections that this node knows are passed.
    pub kept: BucketSet,
}

/// What a [`Node`] wants done. To be carried out in the order in which it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Multicast this on every heartbeat link.
    Send {
        /// The sealed datagram, at most [`DATAGRAM_LEN_MAX`](crate::seal::DATAGRAM_LEN_MAX) bytes.
        datagram: Vec<u8>,
        /// Whether it is a pulse: then call [`Node::handle_pulse_sent`] with the clock read anew, before anything else.
        pulse: bool,
    },
    /// From now on the packet filter must hold this. To be done before what follows.
    Table(Table),
    /// The packet filter may pass packets until then.
    Lease(Time),
    /// Ask all health checks at once, and say with [`Command::Checked`] and this number how that came out. A later one
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
    /// Leave this for a successor, before what follows, in the place of what was left before. Empty: there is nothing
    /// that it could go on with. Only if [`Node::leave_memos`] was called.
    Memo(Vec<u8>),
    /// This run has this number: store it, so that the next run gets a higher one.
    Incarnation(Incarnation),
    /// What went in, if [`Node::record`] was called.
    Record(Record),
    /// From now on nobody lives by other terms than those of this digest (R11).
    Terms(u64),
    /// The node has left; end.
    Stopped,
    /// Nothing more until then, or until something comes in. `None`: for ever, it has stopped.
    Timeout(Option<Time>),
}

/// One node of the cluster, as a value.
///
/// - Inputs are the `handle_*` functions. All take the present time; it must not go backwards.
/// - After each, call [`Node::poll_output`] until it says [`Output::Timeout`], and carry each output out.
/// - Sleep until that time or the next input; then `handle_timeout` or the input's function.
#[derive(Clone)]
pub struct Node {
    machine: Machine,
    keys: Keys,
    sealer: Sealer,
    opener: Opener,
    /// Which keys the others have, as they said last.
    keys_of: BTreeMap<NodeId, Vec<KeyId>>,
    records: Option<VecDeque<Record>>,
    inherited: Option<Box<Inheritance>>,
    first_number: u64,
    memos: Option<Left>,
}

/// What was left for a successor last.
#[derive(Clone, Debug, Default)]
struct Left {
    memo: Option<Memo>,
    /// No higher number is reserved.
    reserved: u64,
}

/// Numbers from here on are those of good-byes that somebody else says for a node whose daemon has died (R9).
const FAREWELL_NUMBERS: u64 = 1 << 63;
/// How many of them are made.
const FAREWELLS: u64 = 3;
/// Nodes whose keys are remembered: those of a full cluster, and as many that were renamed.
const KEYS_KNOWN_MAX: usize = 64;

impl Node {
    /// A node that begins to listen at `now`.
    ///
    /// `incarnation` must never have been used by a node of this name before: sub-keys depend on it.
    pub fn new(config: Config, keys: Keys, incarnation: Incarnation, now: Time) -> Result<Self, ConfigError> {
        config.validate()?;
        let sealer = Sealer::new(&keys, &config.cluster, &config.name, incarnation);
        let opener = Opener::new(&keys, &config.cluster);
        let machine = Machine::new(config, incarnation, now);
        Ok(Node {
            machine,
            keys,
            sealer,
            opener,
            keys_of: BTreeMap::new(),
            records: None,
            inherited: None,
            first_number: 0,
            memos: None,
        })
    }

    /// A node that goes on with its predecessor's run at `now` (R10). The packet filter must be as the inheritance says;
    /// its first outputs tell what it must hold from now on.
    pub fn resume(
        config: Config,
        keys: Keys,
        inheritance: Inheritance,
        now: Time,
    ) -> Result<Self, ResumeError> {
        let sealer = Sealer::new(&keys, &config.cluster, &config.name, inheritance.memo.me.incarnation);
        let opener = Opener::new(&keys, &config.cluster);
        Ok(Node {
            machine: Machine::resume(config, inheritance.clone(), now)?,
            keys,
            sealer,
            opener,
            keys_of: BTreeMap::new(),
            records: None,
            first_number: inheritance.memo.reserved,
            inherited: Some(Box::new(inheritance)),
            memos: None,
        })
    }

    /// From now on tells what a successor must know, as [`Output::Memo`]. To be called before anything else went in.
    pub fn leave_memos(&mut self) {
        self.memos = Some(Left::default());
    }

    /// What a successor must know, said or not; empty if there is nothing that it could go on with. Nothing may be sent
    /// after this.
    pub fn last_memo(&self) -> Vec<u8> {
        let reserved = self.memos.as_ref().map_or(0, |left| left.reserved).max(self.machine.last_sequence());
        self.machine.memo().map_or_else(Vec::new, |memo| Memo { reserved, ..memo }.encode())
    }

    /// Good-byes of the present run, for somebody who outlives this node (R9): to be sent only when the packet filter
    /// passes nothing and never will in this run. To be made anew after [`Output::Incarnation`].
    pub fn farewells(&self) -> Vec<Vec<u8>> {
        let message = self.machine.farewell().encode();
        let config = self.machine.config();
        let sealer = Sealer::new(&self.keys, &config.cluster, &config.name, self.machine.me().incarnation);
        // Numbers repeat in no successor: it begins beyond all that were reserved.
        let first = FAREWELL_NUMBERS | self.first_number;
        (0..FAREWELLS).map(|n| sealer.seal(first + n, &message)).collect()
    }

    /// From now on tells everything that goes in as [`Output::Record`]; `now` is the time of its making. To be called
    /// before anything else went in.
    pub fn record(&mut self, now: Time) {
        let inherited = self.inherited.as_deref();
        let start = Record::start(now, self.machine.config(), self.machine.me().incarnation, inherited);
        self.records = Some(VecDeque::from([start]));
    }

    /// A datagram has come. A rejection has not changed the state, except that a sender's number is remembered.
    pub fn handle_datagram(&mut self, now: Time, datagram: &[u8]) -> Result<Sender, Rejection> {
        let (sender, keys, bytes) = self.opener.open_with_keys(datagram)?;
        let message = Message::decode(&bytes)
            .map_err(|what| Rejection::Malformed { name: sender.name.to_string(), what })?;
        if let Some(records) = &mut self.records {
            records.push_back(Record::message(now, &sender, &bytes));
        }
        self.machine.handle_message(now, &sender, message)?;
        // Not before the machine has taken it: a recording tells of keys that are no longer.
        if self.keys_of.len() < KEYS_KNOWN_MAX || self.keys_of.contains_key(&sender.id) {
            self.keys_of.insert(sender.id, keys);
        }
        Ok(sender)
    }

    /// The time of the last [`Output::Timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        self.note(now, || Input::Timeout);
        self.machine.handle_timeout(now);
    }

    /// A pulse was handed to the network; `now` was read after that.
    pub fn handle_pulse_sent(&mut self, now: Time) {
        self.note(now, || Input::PulseSent);
        self.machine.handle_pulse_sent(now);
    }

    /// Somebody wants something of this node.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        self.note(now, || Input::Command { command: command.clone() });
        self.machine.handle_command(now, command);
    }

    /// The next thing to be done.
    pub fn poll_output(&mut self) -> Output {
        if let Some(record) = self.records.as_mut().and_then(VecDeque::pop_front) {
            return Output::Record(record);
        }
        if let Some(memo) = self.memo_to_leave() {
            return Output::Memo(memo);
        }
        let Some(action) = self.machine.poll_action() else {
            return Output::Timeout(self.machine.next_timeout());
        };
        match action {
            Action::Send { incarnation, sequence, message } => {
                let pulse = matches!(message, Message::Pulse(_));
                Output::Send { datagram: self.seal(incarnation, sequence, &message), pulse }
            }
            Action::Own(owned) => Output::Table(self.table(owned)),
            Action::Keep => Output::Table(self.table(self.machine.owned())),
            Action::Lease(until) => Output::Lease(until),
            Action::Examine(number) => Output::Examine(number),
            Action::Event(event) => Output::Event(event),
            Action::Ordered { ticket, outcome } => Output::Ordered { ticket, outcome },
            Action::Incarnation(incarnation) => Output::Incarnation(incarnation),
            Action::Terms(digest) => Output::Terms(digest),
            Action::Stopped => Output::Stopped,
        }
    }

    /// Everything about it that people may want to see.
    pub fn status(&self, now: Time) -> Status {
        self.machine.status(now)
    }

    /// The keys that this node accepts, the one that it seals with first.
    pub fn keys(&self) -> Vec<KeyId> {
        self.keys.ids()
    }

    /// The same of the others, as each said last.
    pub fn keys_of_others(&self) -> &BTreeMap<NodeId, Vec<KeyId>> {
        &self.keys_of
    }

    /// The machine inside.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    fn table(&self, owned: BucketSet) -> Table {
        Table { owned, contested: self.machine.contested() & owned, kept: self.machine.kept() - owned }
    }

    /// R10: what a successor must know, before a datagram says it, and before a number is used that is not reserved.
    fn memo_to_leave(&mut self) -> Option<Vec<u8>> {
        let left = self.memos.as_mut()?;
        if !self.machine.is_about_to_send() {
            return None;
        }
        let memo = self.machine.memo();
        let number = self.machine.last_sequence();
        let same = match (&memo, &left.memo) {
            (Some(new), Some(old)) => number <= left.reserved && new.says_the_same(old),
            (None, None) => true,
            _ => false,
        };
        if same {
            return None;
        }
        left.reserved = number + NUMBERS_RESERVED;
        left.memo = memo.map(|memo| Memo { reserved: left.reserved, ..memo });
        Some(left.memo.as_ref().map_or_else(Vec::new, Memo::encode))
    }

    fn note(&mut self, now: Time, input: impl FnOnce() -> Input) {
        if let Some(records) = &mut self.records {
            records.push_back(Record { at: now.as_nanos(), input: input() });
        }
    }

    fn seal(&mut self, incarnation: Incarnation, sequence: u64, message: &Message) -> Vec<u8> {
        if incarnation != self.sealer.incarnation() {
            let config = self.machine.config();
            self.sealer = Sealer::new(&self.keys, &config.cluster, &config.name, incarnation);
        }
        self.sealer.seal(sequence, &message.encode())
    }
}
