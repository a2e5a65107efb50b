//! What went into a node, as lines: a fault in the field becomes a file, and the file a test.
//!
//! One JSON object per line. The first says what the node is; each later one is an input, in the order in which the
//! node had them. Messages are recorded opened, so that a recording holds no key and needs none to be replayed.
//!
//! ```json
//! {"at":1000,"input":"start","cluster":"web","name":"n1","host":7,"digest":1,"quorum":1,"timeout_us":400000,"interval_us":50000,"handover":true,"weight":100,"incarnation":5}
//! {"at":2000,"input":"message","from":"n2","incarnation":9,"sequence":3,"message":"01…"}
//! {"at":3000,"input":"timeout"}
//! {"at":3100,"input":"pulse-sent"}
//! {"at":4000,"input":"command","command":{"drain":true}}
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bucket::BucketSet;
use crate::config::Config;
use crate::id::{ClusterName, Identity, Incarnation, NodeId, NodeName};
use crate::machine::{Command, Inheritance, Machine, Memo};
use crate::seal::{Rejection, Sender};
use crate::time::Time;
use crate::wire::Message;

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, in nanoseconds of the node's monotonic clock.
    pub at: u64,
    /// What went in.
    #[serde(flatten)]
    pub input: Input,
}

/// Something that went into a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "kebab-case")]
pub enum Input {
    /// The node began.
    Start {
        /// Its cluster.
        cluster: String,
        /// Its name.
        name: String,
        /// The number of its machine.
        host: u64,
        /// What it has in common with all others.
        digest: u64,
        /// The quorum.
        quorum: usize,
        /// T in microseconds.
        timeout_us: u64,
        /// Time between pulses in microseconds.
        interval_us: u64,
        /// Whether it keeps connections of buckets that it gives up.
        handover: bool,
        /// Its weight.
        weight: u16,
        /// The number of its run.
        incarnation: u64,
        /// What it took over, if it went on with its predecessor's run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inherited: Option<Inherited>,
    },
    /// An authentic message came.
    Message {
        /// The sender's name.
        from: String,
        /// The sender's run.
        incarnation: u64,
        /// The datagram's number.
        sequence: u64,
        /// What it said, in hexadecimal as it is on the wire.
        #[serde(with = "hex")]
        message: Vec<u8>,
    },
    /// A timer was due.
    Timeout,
    /// A pulse had been handed to the network.
    PulseSent,
    /// A command came.
    Command {
        /// Which.
        command: Command,
    },
}

/// What a recorded node took over (R10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// The memo, in hexadecimal as it was left.
    #[serde(with = "hex")]
    memo: Vec<u8>,
    owned: BucketSet,
    contested: BucketSet,
    kept: BucketSet,
    /// When the lease ends, in nanoseconds of the node's clock.
    lease: u64,
}

impl From<&Inheritance> for Inherited {
    fn from(from: &Inheritance) -> Self {
        Inherited {
            memo: from.memo.encode(),
            owned: from.owned,
            contested: from.contested,
            kept: from.kept,
            lease: from.lease.as_nanos(),
        }
    }
}

impl Inherited {
    fn inheritance(&self) -> Result<Inheritance, &'static str> {
        Ok(Inheritance {
            memo: Memo::decode(&self.memo)?,
            owned: self.owned,
            contested: self.contested,
            kept: self.kept,
            lease: Time::from_nanos(self.lease),
        })
    }
}

/// A line that is no part of a recording, or one in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ReplayError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl Record {
    /// The line, without its end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("keys are text, and numbers are whole")
    }

    /// The first record of a node.
    pub fn start(
        at: Time,
        config: &Config,
        incarnation: Incarnation,
        inherited: Option<&Inheritance>,
    ) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let input = Input::Start {
            cluster: config.cluster.to_string(),
            name: config.name.to_string(),
            host: config.host,
            digest: config.digest,
            quorum: config.quorum,
            timeout_us: micros(config.timeout),
            interval_us: micros(config.interval),
            handover: config.handover,
            weight: config.weight,
            incarnation: incarnation.0,
            inherited: inherited.map(Inherited::from),
        };
        Record { at: at.as_nanos(), input }
    }

    /// A message that was let in.
    pub fn message(at: Time, sender: &Sender, message: &[u8]) -> Self {
        let input = Input::Message {
            from: sender.name.to_string(),
            incarnation: sender.incarnation.0,
            sequence: sender.sequence,
            message: message.to_vec(),
        };
        Record { at: at.as_nanos(), input }
    }
}

/// A node that is stepped by a recording.
#[derive(Clone, Debug)]
pub struct Replay {
    machine: Machine,
    begun_at: u64,
    line: usize,
}

impl Replay {
    /// Makes the node that the first line tells of.
    pub fn start(first: &str) -> Result<Self, ReplayError> {
        let record = parse(first, 1)?;
        let error = |what: String| ReplayError { line: 1, what };
        let Input::Start {
            cluster,
            name,
            host,
            digest,
            quorum,
            timeout_us,
            interval_us,
            handover,
            weight,
            incarnation,
            inherited,
        } = record.input
        else {
            return Err(error("a recording begins with the input `start`".into()));
        };
        let config = Config {
            cluster: ClusterName::new(&cluster).map_err(|e| error(e.to_string()))?,
            name: NodeName::new(&name).map_err(|e| error(e.to_string()))?,
            host,
            digest,
            quorum,
            timeout: Duration::from_micros(timeout_us),
            interval: Duration::from_micros(interval_us),
            handover,
            weight,
        };
        config.validate().map_err(|e| error(e.to_string()))?;
        let now = Time::from_nanos(record.at);
        let machine = match inherited {
            None => Machine::new(config, Incarnation(incarnation), now),
            Some(inherited) => {
                let inheritance = inherited.inheritance().map_err(|what| error(what.into()))?;
                Machine::resume(config, inheritance, now).map_err(|e| error(e.to_string()))?
            }
        };
        Ok(Replay { machine, begun_at: record.at, line: 1 })
    }

    /// Steps the node by the next line; what it answers to a message is returned.
    pub fn step(&mut self, line: &str) -> Result<(Record, Result<(), Rejection>), ReplayError> {
        self.line += 1;
        let record = parse(line, self.line)?;
        let now = Time::from_nanos(record.at);
        let mut answer = Ok(());
        match &record.input {
            Input::Start { .. } => return Err(self.error("a second `start`".into())),
            Input::Message { from, incarnation, sequence, message } => {
                let name = NodeName::new(from).map_err(|error| self.error(error.to_string()))?;
                let sender = Sender {
                    id: NodeId::of(&self.machine.config().cluster, &name),
                    name,
                    incarnation: Incarnation(*incarnation),
                    sequence: *sequence,
                };
                let message = Message::decode(message).map_err(|what| self.error(what.into()))?;
                answer = self.machine.handle_message(now, &sender, message);
            }
            Input::Timeout => self.machine.handle_timeout(now),
            Input::PulseSent => self.machine.handle_pulse_sent(now),
            Input::Command { command } => self.machine.handle_command(now, command.clone()),
        }
        Ok((record, answer))
    }

    /// The node, to take its actions from.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// When the recording began, on the recorded node's clock.
    pub fn begun_at(&self) -> u64 {
        self.begun_at
    }

    /// Who it is.
    pub fn me(&self) -> Identity {
        self.machine.me()
    }

    fn error(&self, what: String) -> ReplayError {
        ReplayError { line: self.line, what }
    }
}

fn parse(line: &str, number: usize) -> Result<Record, ReplayError> {
    serde_json::from_str(line).map_err(|error| ReplayError { line: number, what: error.to_string() })
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return Err(D::Error::custom("an odd number of hexadecimal digits"));
        }
        let digit =
            |byte: u8| char::from(byte).to_digit(16).ok_or_else(|| D::Error::custom("not hexadecimal"));
        digits.chunks_exact(2).map(|pair| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Node, Output};
    use crate::seal::{ClusterKey, Keys};

    fn config(name: &str) -> Config {
        Config {
            cluster: ClusterName::new("web").unwrap(),
            name: NodeName::new(name).unwrap(),
            host: name.len() as u64,
            digest: 0,
            quorum: 1,
            timeout: Duration::from_millis(400),
            interval: Duration::from_millis(50),
            handover: false,
            weight: 100,
        }
    }

    /// Lets a node have its datagrams and do what it wants at `now`.
    fn drive(
        node: &mut Node,
        now: Time,
        inbox: Vec<Vec<u8>>,
        outbox: &mut Vec<Vec<u8>>,
        mut see: impl FnMut(Output),
    ) {
        for datagram in inbox {
            node.handle_datagram(now, &datagram).unwrap();
        }
        loop {
            match node.poll_output() {
                Output::Send { datagram, pulse } => {
                    outbox.push(datagram);
                    if pulse {
                        node.handle_pulse_sent(now);
                    }
                }
                Output::Timeout(Some(due)) if due <= now => node.handle_timeout(now),
                Output::Timeout(_) => return,
                other => see(other),
            }
        }
    }

    #[test]
    fn a_replayed_node_does_what_the_recorded_one_did() {
        let begin = Time::from_nanos(5_000_000_000);
        let keys = || Keys::new(ClusterKey::new([3; 32]), []);
        let mut recorded = Node::new(config("n1"), keys(), Incarnation(1), begin).unwrap();
        recorded.record(begin);
        let mut other = Node::new(config("other"), keys(), Incarnation(1), begin).unwrap();
        let (mut lines, mut did) = (Vec::new(), Vec::new());
        let mut to_recorded: Vec<Vec<u8>> = Vec::new();
        for step in 0..4_000_u64 {
            let now = begin + Duration::from_micros(250 * step);
            if step == 3_000 {
                recorded.handle_command(now, Command::Drain(true));
            }
            let mut to_other = Vec::new();
            drive(
                &mut recorded,
                now,
                std::mem::take(&mut to_recorded),
                &mut to_other,
                |output| match output {
                    Output::Record(record) => lines.push(record.to_line()),
                    Output::Table(table) => did.push((now.as_nanos(), format!("{:?}", table.owned))),
                    Output::Event(event) => did.push((now.as_nanos(), event.to_string())),
                    _ => {}
                },
            );
            drive(&mut other, now, to_other, &mut to_recorded, |_| {});
        }
        assert!(did.iter().any(|(_, what)| what.contains("draining")), "the story must tell something");

        let mut replayed = Vec::new();
        let mut replay = Replay::start(&lines[0]).unwrap();
        for line in &lines[1..] {
            let (record, answer) = replay.step(line).unwrap();
            assert_eq!(record.to_line(), *line);
            assert_eq!(answer, Ok(()));
            while let Some(action) = replay.machine().poll_action() {
                match action {
                    crate::machine::Action::Own(owned) => replayed.push((record.at, format!("{owned:?}"))),
                    crate::machine::Action::Keep => {
                        replayed.push((record.at, format!("{:?}", replay.machine().owned())));
                    }
                    crate::machine::Action::Event(event) => replayed.push((record.at, event.to_string())),
                    _ => {}
                }
            }
        }
        assert_eq!(replayed, did);
    }

    #[test]
    fn a_recording_of_a_successor_begins_with_what_it_took_over() {
        let begin = Time::from_nanos(5_000_000_000);
        let keys = || Keys::new(ClusterKey::new([3; 32]), []);
        let mut first = Node::new(config("n1"), keys(), Incarnation(1), begin).unwrap();
        let mut now = begin;
        while first.machine().owned().is_empty() {
            now = now + Duration::from_millis(1);
            drive(&mut first, now, Vec::new(), &mut Vec::new(), |_| {});
        }
        drive(&mut first, now + Duration::from_millis(100), Vec::new(), &mut Vec::new(), |_| {});
        let inheritance = Inheritance {
            memo: first.machine().memo().unwrap(),
            owned: first.machine().owned(),
            contested: BucketSet::EMPTY,
            kept: BucketSet::EMPTY,
            lease: first.machine().lease(),
        };
        let now = now + Duration::from_millis(200);
        let mut second = Node::resume(config("n1"), keys(), inheritance, now).unwrap();
        second.record(now);
        let mut lines = Vec::new();
        for step in 0..100 {
            drive(
                &mut second,
                now + Duration::from_millis(10 * step),
                Vec::new(),
                &mut Vec::new(),
                |output| {
                    if let Output::Record(record) = output {
                        lines.push(record.to_line());
                    }
                },
            );
        }
        assert!(lines[0].contains("\"inherited\":{\"memo\":\"03"), "{}", lines[0]);
        let mut replay = Replay::start(&lines[0]).unwrap();
        for line in &lines[1..] {
            let (_, answer) = replay.step(line).unwrap();
            assert_eq!(answer, Ok(()));
            while replay.machine().poll_action().is_some() {}
        }
        assert_eq!(replay.machine().owned(), BucketSet::ALL);
        assert_eq!(replay.machine().lease(), second.machine().lease());
        assert_eq!(replay.machine().last_sequence(), second.machine().last_sequence());
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let error = Replay::start("{}").unwrap_err();
        assert!(error.to_string().starts_with("line 1: missing field"), "{error}");
        let error = Replay::start(r#"{"at":1,"input":"timeout"}"#).unwrap_err();
        assert_eq!(error.to_string(), "line 1: a recording begins with the input `start`");
    }
}
