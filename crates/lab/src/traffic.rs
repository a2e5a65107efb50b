//! Traffic that goes on while something happens to the machines on its way: streams whose every byte is compared,
//! datagrams and pings, each with the longest time for which nothing came through.
//!
//! All of a [`Traffic`] is sent by one thread, so that hundreds of lanes wait for a network and not for each other.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;

use crate::netns::Namespace;
use crate::wait_until;

/// A stream without a byte for so long is lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// A flow of one datagram has no answer after this.
const FRESH_PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether the end has come.
const LOOK: Duration = Duration::from_millis(50);
/// Blocks of a stream that may be under way.
const WINDOW: u64 = 4;
const PERIOD: usize = 251;

/// What a lane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection: blocks of so many bytes, which come back.
    Stream(usize),
    /// A UDP flow: small datagrams, which come back.
    Datagrams,
    /// ICMP echo requests of one identifier.
    Pings,
    /// A new UDP flow each time, of one datagram.
    Fresh,
}

/// One flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// What it sends.
    pub kind: Kind,
    /// From where; port 0 means any.
    pub source: SocketAddr,
    /// Where to.
    pub target: SocketAddr,
    /// How often.
    pub every: Duration,
}

/// What became of a lane, since the last time that was asked.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Which one.
    pub lane: Lane,
    /// Its own end; that of a ping has its identifier as the port.
    pub local: SocketAddr,
    /// Why it is lost, if it is.
    pub lost: Option<String>,
    /// Bytes or datagrams that came back.
    pub answered: u64,
    /// Datagrams that have not come back (yet).
    pub missing: u64,
    /// The longest time that it waited and nothing came.
    pub longest: Duration,
}

#[derive(Debug)]
struct State {
    outcome: Outcome,
    sent: u64,
    /// Since when nothing has come that is waited for.
    waiting_since: Option<Instant>,
}

impl State {
    fn send(&mut self, count: u64) {
        self.sent += count;
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    fn come(&mut self, count: u64, more_is_awaited: bool) {
        let now = Instant::now();
        self.note_wait(now);
        self.outcome.answered += count;
        self.waiting_since = more_is_awaited.then_some(now);
    }

    fn note_wait(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since {
            self.outcome.longest = self.outcome.longest.max(now.duration_since(since));
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lanes under way.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    states: Vec<Arc<Mutex<State>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Begins all lanes, from inside a namespace.
    pub fn start(namespace: &Namespace, lanes: &[Lane]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let state = |lane: &Lane| {
            let outcome = Outcome {
                lane: *lane,
                local: lane.source,
                lost: None,
                answered: 0,
                missing: 0,
                longest: Duration::ZERO,
            };
            Arc::new(Mutex::new(State { outcome, sent: 0, waiting_since: None }))
        };
        let states: Vec<_> = lanes.iter().map(state).collect();
        let (namespace, stopped, all) = (namespace.clone(), Arc::clone(&stop), states.clone());
        let thread = std::thread::spawn(move || {
            namespace.run(|| {
                run_until(&stopped, async {
                    for state in all {
                        tokio::task::spawn_local(keep_sending(state));
                    }
                })
            })?
        });
        Self { stop, states, thread: Some(thread) }
    }

    /// Waits until something has come back on every lane since the last time that it was asked, or it is lost.
    pub fn wait_flowing(&self) -> Result<()> {
        wait_until(PATIENCE, "something to come back on every lane", || {
            let silent = self.states.iter().find_map(|state| {
                let State { outcome, .. } = &*lock(state);
                (outcome.answered == 0 && outcome.lost.is_none()).then_some(outcome.lane)
            });
            silent.map_or(Ok(()), |lane| Err(format!("{lane:?}")))
        })
    }

    /// What became of each lane since the last time that this was asked.
    pub fn take(&self) -> Vec<Outcome> {
        let now = Instant::now();
        let take = |state: &Arc<Mutex<State>>| {
            let mut state = lock(state);
            state.note_wait(now);
            let mut outcome = state.outcome.clone();
            outcome.missing = match outcome.lane.kind {
                Kind::Stream(_) => 0,
                _ => state.sent.saturating_sub(outcome.answered),
            };
            // Of a stream, what was sent and what came count from its beginning.
            if !matches!(outcome.lane.kind, Kind::Stream(_)) {
                state.sent = 0;
            }
            (state.outcome.answered, state.outcome.longest) = (0, Duration::ZERO);
            outcome
        };
        self.states.iter().map(take).collect()
    }

    /// Ends all lanes.
    pub fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is taken once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs tasks of this thread until it is told to stop.
fn run_until(stop: &AtomicBool, begin: impl Future<Output = ()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        begin.await;
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
        }
    }));
    Ok(())
}

async fn keep_sending(state: Arc<Mutex<State>>) {
    let lane = lock(&state).outcome.lane;
    let end = match lane.kind {
        Kind::Stream(block) => stream(&state, lane, block).await,
        Kind::Datagrams | Kind::Pings => datagrams(&state, lane).await,
        Kind::Fresh => fresh(&state, lane).await,
    };
    if let Err(error) = end {
        lock(&state).outcome.lost = Some(error.to_string());
    }
}

fn bound(lane: Lane, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(lane.source), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind(&lane.source.into())?;
    Ok(socket)
}

/// `length` bytes of the pattern, from an offset on.
fn pattern(offset: u64, length: usize) -> impl Iterator<Item = u8> {
    let begin = usize::try_from(offset % PERIOD as u64).expect("less than the period");
    (begin..begin + length).map(|at| (at % PERIOD) as u8)
}

async fn stream(state: &Mutex<State>, lane: Lane, block: usize) -> io::Result<()> {
    let socket = bound(lane, Type::STREAM, Protocol::TCP)?;
    match socket.connect(&lane.target.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => other?,
    }
    let stream = TcpStream::from_std(socket.into())?;
    tokio::time::timeout(PATIENCE, stream.writable()).await??;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.set_nodelay(true)?;
    lock(state).outcome.local = stream.local_addr()?;
    let (mut reader, mut writer) = stream.into_split();
    let room = Notify::new();
    let (mut sent, came) = (0_u64, std::cell::Cell::new(0_u64));
    let sending = async {
        let mut every = tokio::time::interval(lane.every);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            while sent - came.get() >= WINDOW * block as u64 {
                room.notified().await;
            }
            let bytes: Vec<u8> = pattern(sent, block).collect();
            sent += block as u64;
            lock(state).send(block as u64);
            writer.write_all(&bytes).await?;
        }
    };
    let receiving = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = tokio::time::timeout(PATIENCE, reader.read(&mut buffer))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nothing came for too long"))??;
            if length == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed it"));
            }
            if !buffer[..length].iter().copied().eq(pattern(came.get(), length)) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not the bytes that were sent"));
            }
            came.set(came.get() + length as u64);
            let mut state = lock(state);
            let more_is_awaited = state.sent > came.get();
            state.come(length as u64, more_is_awaited);
            room.notify_one();
        }
    };
    tokio::select! {
        end = sending => end,
        end = receiving => end,
    }
}

async fn datagrams(state: &Mutex<State>, lane: Lane) -> io::Result<()> {
    let is_ping = lane.kind == Kind::Pings;
    let protocol = match (is_ping, lane.target.is_ipv4()) {
        (false, _) => Protocol::UDP,
        (true, true) => Protocol::ICMPV4,
        (true, false) => Protocol::ICMPV6,
    };
    let socket = bound(lane, Type::DGRAM, protocol)?;
    socket.connect(&SockAddr::from(lane.target))?;
    let socket = UdpSocket::from_std(socket.into())?;
    lock(state).outcome.local = socket.local_addr()?;
    // Of an echo request: type, code, checksum and identifier, which are the kernel's, then the number.
    let kind = if lane.target.is_ipv4() { 8_u8 } else { 128 };
    let head: Vec<u8> = if is_ping { vec![kind, 0, 0, 0, 0, 0, 0, 0] } else { Vec::new() };
    let tag = tag(lane);
    let last = std::cell::Cell::new(0_u64);
    let sending = async {
        let mut every = tokio::time::interval(lane.every);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            last.set(last.get() + 1);
            let datagram = [&head[..], &last.get().to_be_bytes(), &tag].concat();
            lock(state).send(1);
            // An error that came back by ICMP, or a full queue: this one is missing.
            let _ = socket.send(&datagram).await;
        }
    };
    let receiving = async {
        let mut buffer = [0; 256];
        loop {
            let Ok(length) = socket.recv(&mut buffer).await else { continue };
            let told = buffer[..length].get(head.len()..).and_then(|rest| rest.split_first_chunk());
            let Some((number, _)) = told.filter(|(_, rest)| *rest == tag) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not what was sent"));
            };
            lock(state).come(1, u64::from_be_bytes(*number) < last.get());
        }
    };
    tokio::select! {
        end = sending => end,
        end = receiving => end,
    }
}

/// What tells a lane's datagrams from another's.
fn tag(lane: Lane) -> [u8; 16] {
    match lane.source.ip() {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(address) => address.octets(),
    }
}

async fn fresh(state: &Mutex<State>, lane: Lane) -> io::Result<()> {
    let mut every = tokio::time::interval(lane.every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let socket = bound(lane, Type::DGRAM, Protocol::UDP)?;
        socket.connect(&lane.target.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        lock(state).send(1);
        let mut buffer = [0; 32];
        let answer = async {
            socket.send(&tag(lane)).await?;
            socket.recv(&mut buffer).await
        };
        match tokio::time::timeout(FRESH_PATIENCE, answer).await {
            Ok(Ok(length)) if buffer[..length] == tag(lane) => lock(state).come(1, false),
            Ok(Ok(_)) => return Err(io::Error::new(io::ErrorKind::InvalidData, "not what was sent")),
            _ => {}
        }
    }
}

/// Sends back whatever comes to a port of these addresses, over TCP and UDP, until it is dropped.
#[derive(Debug)]
pub struct Echoes {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Echoes {
    /// Begins to listen.
    pub fn start(namespace: &Namespace, targets: &[SocketAddr]) -> Result<Self> {
        let open = |target: &SocketAddr| -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
            let listener = Socket::new(Domain::for_address(*target), Type::STREAM, Some(Protocol::TCP))?;
            listener.set_reuse_address(true)?;
            listener.bind(&(*target).into())?;
            listener.listen(4096)?;
            listener.set_nonblocking(true)?;
            let datagrams = Socket::new(Domain::for_address(*target), Type::DGRAM, Some(Protocol::UDP))?;
            crate::sys::force_receive_buffer(&datagrams, 16 << 20)?;
            datagrams.bind(&(*target).into())?;
            datagrams.set_nonblocking(true)?;
            Ok((listener.into(), datagrams.into()))
        };
        let sockets = namespace.run(|| targets.iter().map(open).collect::<io::Result<Vec<_>>>())??;
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, stopped) = (namespace.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            namespace.run(|| {
                run_until(&stopped, async {
                    for (listener, datagrams) in sockets {
                        tokio::task::spawn_local(accept(listener));
                        tokio::task::spawn_local(send_back(datagrams));
                    }
                })
            })?
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echoes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            let (mut reader, mut writer) = stream.split();
            // Whoever sent it sees that it has ended.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

async fn send_back(socket: std::net::UdpSocket) -> io::Result<()> {
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = [0; 2048];
    loop {
        // Errors are those of clients that have gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let _ = socket.send_to(&buffer[..length], peer).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_goes_on_where_it_ended() {
        let whole: Vec<u8> = pattern(0, 1000).collect();
        let parts: Vec<u8> = pattern(0, 333).chain(pattern(333, 667)).collect();
        assert_eq!(whole, parts);
        assert_ne!(whole[..250], whole[1..251]);
    }
}
