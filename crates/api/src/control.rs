//! The control socket: what `rudel` asks `rudeld`, and the blocking client of it.
//!
//! A unix stream socket. Each request is one JSON object on a line of its own, at most [`REQUEST_LEN_MAX`] bytes, and
//! is answered by one line, in order; a connection can carry any number of them:
//!
//! ```text
//! > {"schema":1,"request":"status"}
//! < {"schema":1,"status":{ … }}
//! > {"schema":1,"request":"why","flow":"tcp 203.0.113.7:40000 192.0.2.10:443"}
//! < {"schema":1,"why":{ … }}
//! > {"schema":1,"request":"drain","node":"n2"}
//! < {"schema":1,"ordered":{"node":"n2","changed":true}}
//! > {"schema":1,"request":"weight","weight":50}
//! < {"schema":1,"ordered":{"node":"n1","changed":true}}
//! > {"schema":1,"request":"events","after":41}
//! < {"schema":1,"events":[{ … }]}
//! > {"schema":1,"request":"sight","ask":true}
//! < {"schema":1,"sight":{ … }}
//! > {"schema":1,"request":"restart"}
//! < {"schema":1,"ordered":{"node":"n1","changed":true}}
//! > {"schema":1,"request":"reload"}
//! < {"schema":1,"reload":{"result":"pending", … }}
//! > {"schema":1,"request":"dance"}
//! < {"schema":1,"error":{"message":"this daemon does not know the request `dance`","remedy":"…"}}
//! ```
//!
//! With `"follow":true`, `events` is answered by one such line after the other, the first at once and each further one
//! when something has happened, or empty after [`FOLLOW_IDLE`]: whoever hears nothing for much longer has lost the
//! daemon. It goes on until the client closes the connection or says anything more on it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::check::Sight;
use crate::config::HashMode;
use crate::event::Event;
use crate::flow::FlowSpec;
use crate::reload::Reload;
use crate::snapshot::{SCHEMA, Snapshot};
use crate::timestamp::Timestamp;

/// Longest request in bytes, line break included. A daemon closes the connection on a longer one.
pub const REQUEST_LEN_MAX: usize = 16 * 1024;
/// Longest answer in bytes, line break included. A client gives up on a longer one.
pub const RESPONSE_LEN_MAX: usize = 4 * 1024 * 1024;

/// So often somebody who follows the events hears that there are none.
pub const FOLLOW_IDLE: Duration = Duration::from_secs(15);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// The cluster as the node sees it; answered by [`Response::Status`].
    Status,
    /// Where a flow belongs; answered by [`Response::Why`].
    Why {
        /// The flow.
        flow: FlowSpec,
    },
    /// What happened; answered by [`Response::Events`].
    Events {
        /// Only what came after the event of this number. All that is known: without it, and if it is higher than the
        /// newest, since then the history has begun anew.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// Whether to go on answering as things happen.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        follow: bool,
    },
    /// A new daemon, of the program and the configuration that are in place now, is to go on where the one that is asked
    /// ends, without a gap; answered by [`Response::Ordered`] when that is ready to begin.
    Restart,
    /// A node is to give its share away and stay; answered by [`Response::Ordered`] when it has accepted.
    Drain {
        /// Which node; none is the one that is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// A node is to take its share back; answered by [`Response::Ordered`] when it has accepted.
    Undrain {
        /// Which node; none is the one that is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// A node is to have another weight; answered by [`Response::Ordered`] when it has accepted.
    Weight {
        /// The weight, 0 to 1000.
        weight: u16,
        /// Which node; none is the one that is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// What the daemon has seen of the network; answered by [`Response::Sight`].
    Sight {
        /// Whether it is to ask the network first: who else has the cluster's addresses, and do the gateways believe its
        /// answers? What comes of it comes within seconds, and is in a later answer.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ask: bool,
    },
    /// The node that is asked is to read its configuration again; answered by [`Response::Reload`].
    Reload,
}

/// The names of all requests, for error messages.
const REQUESTS: &[&str] =
    &["status", "why", "events", "drain", "undrain", "weight", "restart", "sight", "reload"];

impl Request {
    /// The request as a line, line break included.
    pub fn to_line(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            schema: u32,
            #[serde(flatten)]
            request: &'a Request,
        }
        line(&Line { schema: SCHEMA, request: self })
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What to answer: the line is no JSON object, of another schema, an unknown request, or lacks something.
    pub fn from_line(line: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Head {
            schema: Option<u32>,
            request: Option<String>,
        }
        let head: Head = serde_json::from_str(line).map_err(|error| {
            Failure::new(
                format!("the request is not a JSON object that can be understood: {error}"),
                r#"write one object in one line, such as {"schema":1,"request":"status"}"#,
            )
        })?;
        match head.schema {
            Some(SCHEMA) => {}
            Some(schema) => {
                return Err(Failure::new(
                    format!("the request is of schema {schema}, this daemon speaks schema {SCHEMA}"),
                    "use the rudel of the same version as the daemon",
                ));
            }
            None => return Err(Failure::new("the request has no schema", r#"write "schema":1 into it"#)),
        }
        let Some(name) = head.request else {
            return Err(Failure::new("the request does not say what it wants", known_requests()));
        };
        if !REQUESTS.contains(&name.as_str()) {
            return Err(Failure::new(
                format!("this daemon does not know the request `{name}`"),
                known_requests(),
            ));
        }
        serde_json::from_str(line).map_err(|error| {
            let remedy = match name.as_str() {
                "why" => crate::flow::FlowError::REMEDY,
                "weight" => WEIGHT_REMEDY,
                _ => "leave out what is not known",
            };
            Failure::new(format!("the request `{name}` is not complete: {error}"), remedy)
        })
    }
}

/// What to do about a weight that is none.
pub const WEIGHT_REMEDY: &str = "give a weight of 0 to 1000";

fn known_requests() -> String {
    format!("known requests: {}", REQUESTS.join(", "))
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The cluster as the node sees it.
    Status(Box<Snapshot>),
    /// Where a flow belongs.
    Why(Box<WhyAnswer>),
    /// What happened, oldest first.
    Events(Vec<Event>),
    /// A node has accepted what was wanted of it.
    Ordered(Ordered),
    /// What the daemon has seen of the network.
    Sight(Box<Sight>),
    /// The configuration was read again, with this result.
    Reload(Box<Reload>),
    /// It could not be done.
    Error(Failure),
}

impl Response {
    /// The answer as a line, line break included.
    pub fn to_line(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            schema: u32,
            #[serde(flatten)]
            response: &'a Response,
        }
        line(&Line { schema: SCHEMA, response: self })
    }
}

fn line(value: &impl Serialize) -> String {
    let mut line =
        serde_json::to_string(value).expect("the types of this module have text keys and no fallible parts");
    line.push('\n');
    line
}

/// Why something could not be done, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What happened, to what; begins with a small letter, ends without a full stop.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Failure {
    /// A failure with its remedy.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Failure { message: message.into(), remedy: remedy.into() }
    }
}

/// A node has accepted what was wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Which node.
    pub node: String,
    /// Whether it was not so before already.
    pub changed: bool,
}

/// Where a flow belongs, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyAnswer {
    /// The flow that was asked for.
    pub flow: FlowSpec,
    /// Its bucket.
    pub bucket: u8,
    /// Who owns the bucket by the view in force at the answering node; null if nobody.
    pub owner: Option<String>,
    /// Since when; null if the answering node does not know (it came later).
    pub since: Option<Timestamp>,
    /// What made it so; null if the answering node does not know.
    pub because: Option<Event>,
    /// The interface that such packets come in on.
    pub interface: String,
    /// What decides the bucket there.
    pub hash: HashMode,
    /// The hashed fields with their values, such as `source address 203.0.113.7, source port 40000`.
    pub key: String,
    /// What the answering node does with the bucket: `owned`, `kept` (open connections only), `adopting`, `ignored`.
    pub here: BucketState,
    /// The answering node.
    pub node: String,
}

crate::words::words! {
    /// What a node does with a bucket.
    pub enum BucketState {
        /// It passes its packets.
        Owned = "owned",
        /// It has given it up and passes the packets of connections that are open here.
        Kept = "kept",
        /// The view gives it to this node, which waits for the former owner's word.
        Adopting = "adopting",
        /// Another node's.
        Ignored = "ignored",
    }
}

/// A blocking client of the control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    timeout: Duration,
}

impl Client {
    /// How long a daemon may take to answer before it counts as hung.
    pub const TIMEOUT: Duration = Duration::from_secs(5);
    /// How long it may take until another node has accepted an order: twice the longest `timeout`, and the longest
    /// `interval` for each of 32 nodes.
    pub const ORDER_TIMEOUT: Duration = Duration::from_secs(2 * 60 + 32 * 10);

    /// Connects to a daemon. Every answer must come within `timeout` (more than zero).
    ///
    /// # Errors
    /// There is no socket, nobody listens on it, or it may not be opened.
    pub fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Client { path, stream: BufReader::new(stream), timeout }),
            Err(source) => Err(ClientError::Connect { path, source }),
        }
    }

    /// Asks for the cluster as the node sees it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<Snapshot, ClientError> {
        let raw = self.status_json()?;
        serde_json::from_str(raw.get()).map_err(|error| self.malformed(&error))
    }

    /// The same as JSON, as the daemon wrote it: with fields that this version does not know.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status_json(&mut self) -> Result<Box<RawValue>, ClientError> {
        let answer = self.ask(&Request::Status)?;
        answer.status.ok_or_else(|| self.unexpected("status"))
    }

    /// Asks what the daemon has seen of the network. With `ask`, it asks the network first, and what comes of that is in a
    /// later answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn sight(&mut self, ask: bool) -> Result<Sight, ClientError> {
        let answer = self.ask(&Request::Sight { ask })?;
        answer.sight.map(|sight| *sight).ok_or_else(|| self.unexpected("sight"))
    }

    /// Asks where a flow belongs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn why(&mut self, flow: FlowSpec) -> Result<WhyAnswer, ClientError> {
        let raw = self.why_json(flow)?;
        serde_json::from_str(raw.get()).map_err(|error| self.malformed(&error))
    }

    /// The same as JSON, as the daemon wrote it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn why_json(&mut self, flow: FlowSpec) -> Result<Box<RawValue>, ClientError> {
        let answer = self.ask(&Request::Why { flow })?;
        answer.why.ok_or_else(|| self.unexpected("why"))
    }

    /// Asks what happened after the event of this number, or ever; each as the daemon wrote it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn events_json(&mut self, after: Option<u64>) -> Result<Vec<Box<RawValue>>, ClientError> {
        let answer = self.ask(&Request::Events { after, follow: false })?;
        answer.events.ok_or_else(|| self.unexpected("events"))
    }

    /// Asks the same, and to be told of what happens from now on: [`Client::next_events_json`] waits for it. This client
    /// can be used for nothing else any more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn follow_json(&mut self, after: Option<u64>) -> Result<Vec<Box<RawValue>>, ClientError> {
        let answer = self.ask(&Request::Events { after, follow: true })?;
        answer.events.ok_or_else(|| self.unexpected("events"))
    }

    /// Waits for what happens, after [`Client::follow_json`]: none or more events, within [`FOLLOW_IDLE`].
    ///
    /// # Errors
    /// See [`ClientError`]; above all, that the daemon has stopped, or says nothing for three times [`FOLLOW_IDLE`].
    pub fn next_events_json(&mut self) -> Result<Vec<Box<RawValue>>, ClientError> {
        let line = self.read_line(Instant::now() + 3 * FOLLOW_IDLE)?;
        self.understand(&line)?.events.ok_or_else(|| self.unexpected("events"))
    }

    /// An event as it was sent.
    ///
    /// # Errors
    /// [`ClientError::Malformed`].
    pub fn event(&self, raw: &RawValue) -> Result<Event, ClientError> {
        serde_json::from_str(raw.get()).map_err(|error| self.malformed(&error))
    }

    /// Wants something of a node: one of [`Request::Drain`], [`Request::Undrain`] and [`Request::Weight`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn order(&mut self, order: &Request) -> Result<Ordered, ClientError> {
        let answer = self.ask(order)?;
        answer.ordered.ok_or_else(|| self.unexpected("ordered"))
    }

    /// Has the node read its configuration again.
    ///
    /// # Errors
    /// See [`ClientError`]; that the file is refused is none, but [`Reload::result`].
    pub fn reload(&mut self) -> Result<Reload, ClientError> {
        let answer = self.ask(&Request::Reload)?;
        answer.reload.ok_or_else(|| self.unexpected("reload"))
    }

    /// From now on every answer must come within `timeout` (more than zero).
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let stream = self.stream.get_mut();
        let written = stream
            .set_write_timeout(Some(self.timeout))
            .and_then(|()| stream.write_all(request.to_line().as_bytes()));
        written.map_err(|error| self.lost(error))?;
        let line = self.read_line(deadline)?;
        self.understand(&line)
    }

    fn understand(&self, line: &str) -> Result<Answer, ClientError> {
        let answer: Answer = serde_json::from_str(line).map_err(|error| self.malformed(&error))?;
        if answer.schema != SCHEMA {
            return Err(ClientError::Schema { path: self.path.clone(), schema: answer.schema });
        }
        match answer.error {
            Some(failure) => Err(ClientError::Refused(failure)),
            None => Ok(answer),
        }
    }

    fn lost(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            // What a socket's time-out is reported as, by its history (socket(7)).
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout { path },
            _ => ClientError::Lost { path, source },
        }
    }

    /// Reads a line, the whole before the deadline.
    fn read_line(&mut self, deadline: Instant) -> Result<String, ClientError> {
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Timeout { path: self.path.clone() });
            }
            self.stream.get_ref().set_read_timeout(Some(left)).map_err(|error| self.lost(error))?;
            let buffer = match self.stream.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.lost(error)),
            };
            if buffer.is_empty() {
                return Err(self.lost(io::ErrorKind::UnexpectedEof.into()));
            }
            let (taken, whole) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (buffer.len(), false),
            };
            line.extend_from_slice(&buffer[..taken]);
            self.stream.consume(taken);
            if line.len() > RESPONSE_LEN_MAX {
                return Err(ClientError::Malformed {
                    path: self.path.clone(),
                    why: format!("an answer of more than {RESPONSE_LEN_MAX} bytes"),
                });
            }
            if whole {
                break;
            }
        }
        String::from_utf8(line)
            .map_err(|error| ClientError::Malformed { path: self.path.clone(), why: error.to_string() })
    }

    fn malformed(&self, error: &serde_json::Error) -> ClientError {
        ClientError::Malformed { path: self.path.clone(), why: error.to_string() }
    }

    fn unexpected(&self, wanted: &str) -> ClientError {
        ClientError::Malformed { path: self.path.clone(), why: format!("an answer without `{wanted}`") }
    }
}

/// An answer as it is read: the parts stay text until they are needed, so that nothing in them is lost.
#[derive(Debug, Deserialize)]
struct Answer {
    schema: u32,
    status: Option<Box<RawValue>>,
    why: Option<Box<RawValue>>,
    events: Option<Vec<Box<RawValue>>>,
    ordered: Option<Ordered>,
    sight: Option<Box<Sight>>,
    reload: Option<Reload>,
    error: Option<Failure>,
}

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It could not be reached.
    #[error("cannot reach the daemon at {}: {}", .path.display(), describe(.source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the daemon at {} does not answer", .path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// It closed the connection in the middle.
    #[error("lost the daemon at {}: {}", .path.display(), describe(.source))]
    Lost {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It answered something that cannot be understood.
    #[error("cannot understand the daemon at {}: {why}", .path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It speaks another version of the protocol.
    #[error("the daemon at {} speaks schema {schema}, this rudel schema {SCHEMA}", .path.display())]
    Schema {
        /// The socket.
        path: PathBuf,
        /// Its schema.
        schema: u32,
    },
    /// It answered that it could not be done.
    #[error(transparent)]
    Refused(Failure),
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens on its socket".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

impl ClientError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            ClientError::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "start it with `systemctl start rudeld`, or name its socket with --socket".to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    "run this as root, or as a member of the socket's group".to_owned()
                }
                _ => "name the daemon's socket with --socket".to_owned(),
            },
            ClientError::Timeout { .. } => {
                "it may be hung or starved of CPU: see `systemctl status rudeld` and its journal".to_owned()
            }
            ClientError::Lost { .. } => "it may have been stopped: see `systemctl status rudeld`".to_owned(),
            ClientError::Malformed { .. } => {
                "is it the socket of rudeld? name the right one with --socket".to_owned()
            }
            ClientError::Schema { .. } => "install rudel and rudeld of the same version".to_owned(),
            ClientError::Refused(failure) => failure.remedy.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    fn flow() -> FlowSpec {
        "tcp 203.0.113.7:40000 192.0.2.10:443".parse().unwrap()
    }

    fn why() -> WhyAnswer {
        WhyAnswer {
            flow: flow(),
            bucket: 173,
            owner: Some("n2".to_owned()),
            since: None,
            because: None,
            interface: "eth0".to_owned(),
            hash: HashMode::SourceIpPort,
            key: "source address 203.0.113.7, source port 40000".to_owned(),
            here: BucketState::Ignored,
            node: "n1".to_owned(),
        }
    }

    /// A daemon that reads a line and writes `answer`; gives the line back.
    fn answering(answer: &'static str) -> (tempfile::TempDir, PathBuf, JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut request = String::new();
            stream.read_line(&mut request).unwrap();
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                // Hold the connection open until the client has lost its patience.
                let _ = stream.read_line(&mut String::new());
            }
            request
        });
        (dir, path, thread)
    }

    fn client(path: &Path) -> Client {
        Client::connect(path, Duration::from_millis(300)).unwrap()
    }

    #[test]
    fn requests_are_written_as_they_are_read() {
        assert_eq!(Request::Status.to_line(), "{\"schema\":1,\"request\":\"status\"}\n");
        let line = Request::Why { flow: flow() }.to_line();
        assert_eq!(
            line,
            "{\"schema\":1,\"request\":\"why\",\"flow\":\"tcp 203.0.113.7:40000 192.0.2.10:443\"}\n"
        );
        let line = Request::Weight { weight: 50, node: None }.to_line();
        assert_eq!(line, "{\"schema\":1,\"request\":\"weight\",\"weight\":50}\n");
        let line = Request::Events { after: None, follow: false }.to_line();
        assert_eq!(line, "{\"schema\":1,\"request\":\"events\"}\n");
        let line = Request::Events { after: Some(7), follow: true }.to_line();
        assert_eq!(line, "{\"schema\":1,\"request\":\"events\",\"after\":7,\"follow\":true}\n");
        let line = Request::Drain { node: Some("n2".into()) }.to_line();
        assert_eq!(line, "{\"schema\":1,\"request\":\"drain\",\"node\":\"n2\"}\n");
        let n2 = || Some("n2".to_owned());
        for request in [
            Request::Status,
            Request::Why { flow: flow() },
            Request::Events { after: None, follow: false },
            Request::Events { after: Some(41), follow: true },
            Request::Drain { node: None },
            Request::Drain { node: n2() },
            Request::Undrain { node: n2() },
            Request::Weight { weight: 1000, node: n2() },
            Request::Restart,
            Request::Sight { ask: false },
            Request::Sight { ask: true },
        ] {
            assert_eq!(Request::from_line(&request.to_line()), Ok(request));
        }
    }

    #[test]
    fn what_cannot_be_asked_is_answered_with_a_remedy() {
        let error = |line: &str| {
            let failure = Request::from_line(line).unwrap_err();
            format!("{}: {}", failure.message, failure.remedy)
        };
        assert_eq!(
            error(r#"{"schema":1,"request":"dance"}"#),
            "this daemon does not know the request `dance`: known requests: status, why, events, drain, undrain, weight, restart, sight, reload"
        );
        assert_eq!(
            error(r#"{"schema":2,"request":"status"}"#),
            "the request is of schema 2, this daemon speaks schema 1: use the rudel of the same version as the daemon"
        );
        assert!(error("status").starts_with("the request is not a JSON object"));
        assert!(error("{}").starts_with("the request has no schema"));
        assert!(error(r#"{"schema":1}"#).starts_with("the request does not say what it wants"));
        for weight in ["", r#","weight":-1"#, r#","weight":70000"#, r#","weight":"heavy""#] {
            let said = error(&format!(r#"{{"schema":1,"request":"weight"{weight}}}"#));
            assert!(
                said.starts_with("the request `weight` is not complete") && said.ends_with(WEIGHT_REMEDY)
            );
        }
        assert!(error(r#"{"schema":1,"request":"why"}"#).contains("missing field `flow`"));
        assert!(
            error(r#"{"schema":1,"request":"why","flow":"tcp 1 2"}"#)
                .contains("`1` is not an address with a port")
        );
    }

    #[test]
    fn an_answer_is_one_line_named_by_its_kind() {
        let line = Response::Error(Failure::new("no", "yes")).to_line();
        assert_eq!(line, "{\"schema\":1,\"error\":{\"message\":\"no\",\"remedy\":\"yes\"}}\n");
        let line = Response::Why(Box::new(why())).to_line();
        assert!(line.starts_with(
            "{\"schema\":1,\"why\":{\"flow\":\"tcp 203.0.113.7:40000 192.0.2.10:443\",\"bucket\":173,"
        ));
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn a_client_asks_and_is_answered() {
        let (_dir, path, daemon) =
            answering(Box::leak(Response::Why(Box::new(why())).to_line().into_boxed_str()));
        assert_eq!(client(&path).why(flow()).unwrap(), why());
        assert_eq!(daemon.join().unwrap(), Request::Why { flow: flow() }.to_line());
    }

    #[test]
    fn an_order_is_answered_by_who_has_accepted_it() {
        let ordered = Ordered { node: "n2".to_owned(), changed: true };
        let line = Response::Ordered(ordered.clone()).to_line();
        assert_eq!(line, "{\"schema\":1,\"ordered\":{\"node\":\"n2\",\"changed\":true}}\n");
        let (_dir, path, _daemon) = answering(Box::leak(line.into_boxed_str()));
        assert_eq!(client(&path).order(&Request::Drain { node: Some("n2".into()) }).unwrap(), ordered);
    }

    #[test]
    fn events_are_followed_line_by_line() {
        let (_dir, path, daemon) = answering(concat!(
            "{\"schema\":1,\"events\":[{\"at\":\"2026-01-01T00:00:00Z\",\"kind\":\"joined\",\"node\":\"n2\",\"reason\":\"new\"}]}\n",
            "{\"schema\":1,\"events\":[]}\n",
            "{\"schema\":1,\"events\":[{\"hat\":1},{}]}\n",
            "{\"schema\":1,\"error\":{\"message\":\"no more\",\"remedy\":\"wait\"}}\n",
        ));
        let mut client = client(&path);
        let past = client.follow_json(Some(7)).unwrap();
        assert_eq!(client.event(&past[0]).unwrap().node, "n2");
        assert_eq!(client.next_events_json().unwrap().len(), 0);
        let more = client.next_events_json().unwrap();
        assert_eq!((more.len(), more[0].get()), (2, "{\"hat\":1}"));
        assert!(matches!(client.event(&more[0]), Err(ClientError::Malformed { .. })));
        assert!(matches!(client.next_events_json(), Err(ClientError::Refused(_))));
        assert!(matches!(client.next_events_json(), Err(ClientError::Lost { .. })));
        assert_eq!(daemon.join().unwrap(), Request::Events { after: Some(7), follow: true }.to_line());
    }

    #[test]
    fn what_a_later_daemon_says_comes_through_unchanged() {
        let (_dir, path, _daemon) = answering("{\"schema\":1,\"status\":{\"b\":1.0,\"a\":2},\"more\":3}\n");
        assert_eq!(client(&path).status_json().unwrap().get(), "{\"b\":1.0,\"a\":2}");
    }

    #[test]
    fn what_goes_wrong_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Client::connect(dir.path().join("x"), Client::TIMEOUT).unwrap_err();
        assert!(missing.to_string().ends_with("there is no socket"), "{missing}");
        assert!(missing.remedy().contains("systemctl start rudeld"));

        let path = dir.path().join("dead");
        drop(UnixListener::bind(&path).unwrap());
        let dead = Client::connect(&path, Client::TIMEOUT).unwrap_err();
        assert!(dead.to_string().ends_with("nobody listens on its socket"), "{dead}");

        let status = |answer| {
            let (_dir, path, _daemon) = answering(answer);
            client(&path).status().unwrap_err()
        };
        assert!(matches!(status(""), ClientError::Timeout { .. }));
        assert!(matches!(status("{\"schema\":1,"), ClientError::Lost { .. }));
        assert!(matches!(status("HTTP/1.1 400 Bad Request\n"), ClientError::Malformed { .. }));
        assert!(matches!(status("{\"schema\":1}\n"), ClientError::Malformed { .. }));
        assert!(matches!(status("{\"schema\":1,\"status\":{}}\n"), ClientError::Malformed { .. }));
        assert!(matches!(status("{\"schema\":9,\"status\":{}}\n"), ClientError::Schema { schema: 9, .. }));
        let refused = status("{\"schema\":1,\"error\":{\"message\":\"no\",\"remedy\":\"wait\"}}\n");
        assert_eq!((refused.to_string(), refused.remedy()), ("no".to_owned(), "wait".to_owned()));
    }
}
