//! Long-lived connections under constant load: does one ever break, stall, or change hands?
//!
//! Each connection asks, reads the whole answer, pauses, and asks again. Only a node that has the connection's socket can
//! answer on it, so an answer by another node than before, a reset, an end or a time-out is a loss.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::invalid;
use crate::netns::Namespace;

/// An answer that takes longer is a loss.
const PATIENCE: Duration = Duration::from_secs(3);
/// Threads that share the connections.
const THREADS: usize = 8;
const REQUEST: &[u8] = b"GET /whoami HTTP/1.1\r\nHost: rudel.test\r\n\r\n";

/// What became of one connection.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its client's end.
    pub source: SocketAddr,
    /// Its server's end.
    pub target: SocketAddr,
    /// The node that has answered on it; empty if none ever did.
    pub node: String,
    /// How often it was answered.
    pub answers: usize,
    /// The longest wait for an answer.
    pub slowest: Duration,
    /// How it was lost, if it was, and how long that took from the last request.
    pub lost: Option<(String, Duration)>,
}

/// Connections that are asked in the background until they are told to stop.
#[derive(Debug)]
pub struct Sessions {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    count: usize,
    threads: Vec<JoinHandle<Result<Vec<Session>>>>,
}

impl Sessions {
    /// Opens one connection for each pair of source and target from inside a namespace, and asks on each every `every`.
    pub fn start(namespace: &Namespace, flows: &[(SocketAddr, SocketAddr)], every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicUsize::new(0));
        let share = flows.len().div_ceil(THREADS).max(1);
        let threads = flows
            .chunks(share)
            .map(|flows| {
                let (namespace, flows) = (namespace.clone(), flows.to_vec());
                let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
                std::thread::spawn(move || namespace.run(|| keep_asking(&flows, every, &stop, &answers)))
            })
            .collect();
        Self { stop, answers, count: flows.len(), threads }
    }

    /// Answers on all connections so far.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Waits until every connection has been answered `rounds` times more on average: real traffic in the present order.
    pub fn wait_rounds(&self, rounds: usize) -> Result<()> {
        let wanted = self.answers() + rounds * self.count;
        crate::wait_until(Duration::from_secs(30), "answers on long-lived connections", || {
            let answers = self.answers();
            if answers >= wanted { Ok(()) } else { Err(format!("{answers} of {wanted}")) }
        })
    }

    /// Stops asking, and tells what became of each.
    pub fn finish(mut self) -> Result<Vec<Session>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sessions = Vec::new();
        for thread in std::mem::take(&mut self.threads) {
            sessions.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(sessions)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

fn keep_asking(
    flows: &[(SocketAddr, SocketAddr)],
    every: Duration,
    stop: &AtomicBool,
    answers: &AtomicUsize,
) -> Vec<Session> {
    let mut open: Vec<(Session, Option<TcpStream>)> = flows
        .iter()
        .map(|(source, target)| {
            let (stream, lost) = match connect(*source, *target) {
                Ok(stream) => (Some(stream), None),
                Err(error) => (None, Some((format!("not opened: {error}"), Duration::ZERO))),
            };
            let (source, target) = (*source, *target);
            let session =
                Session { source, target, node: String::new(), answers: 0, slowest: Duration::ZERO, lost };
            (session, stream)
        })
        .collect();
    while !stop.load(Ordering::Relaxed) {
        let round = Instant::now();
        for (session, stream) in &mut open {
            let Some(connection) = stream else { continue };
            let asked = Instant::now();
            let outcome = ask(connection).and_then(|node| {
                if session.node.is_empty() || session.node == node {
                    Ok(node)
                } else {
                    Err(invalid(format!("{node} answered on a connection of {}", session.node)))
                }
            });
            match outcome {
                Ok(node) => {
                    session.node = node;
                    session.answers += 1;
                    session.slowest = session.slowest.max(asked.elapsed());
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    session.lost = Some((error.to_string(), asked.elapsed()));
                    *stream = None;
                }
            }
        }
        if let Some(left) = every.checked_sub(round.elapsed()) {
            std::thread::sleep(left);
        }
    }
    open.into_iter().map(|(session, _)| session).collect()
}

pub(crate) fn connect(source: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and the whole of its answer; the node that gave it.
pub(crate) fn ask(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(REQUEST)?;
    let mut response = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        response.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&response);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).and_then(|n| n.parse().ok());
        let length: usize = length.ok_or_else(|| invalid("an answer of no known length"))?;
        if body.len() >= length {
            let node = head.lines().find_map(|line| line.strip_prefix("X-Rudel-Node: "));
            return node.map(str::to_owned).ok_or_else(|| invalid("an answer of nobody"));
        }
    }
}
