//! The sync thread: the engine, the kernel's table and the sockets, beside the pulse thread.
//!
//! ```text
//!   ctnetlink events, dumps ─┐                              ┌─► multicast sockets
//!   multicast sockets ───────┼─► Engine::handle_* ─► poll_output ─► ctnetlink changes
//!   Door (queue, lease) ─────┘
//! ```
//!
//! A busy router has tens of thousands of events a second, and waking for each would cost more than handling it: after each
//! look at the sockets the thread leaves them alone for a batch's time. Who knocks at the [`Door`] is served at once, and
//! what has come until then is read first.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rudel_api::snapshot::{Sync as Report, SyncPeer};
use rudel_proto::bucket::BucketSet;
use rudel_proto::id::{ClusterName, Incarnation, NodeName};
use rudel_proto::seal::{DATAGRAM_LEN_MAX, Keys};
use rudel_proto::time::Time;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::watch;

use super::classify::Classify;
use super::conntrack::{DUMP_CHUNKS_PER_TURN, Dump, Heard, Listener, Write, Writer};
use super::engine::{self, Engine, Output, Settings};
use crate::clock::monotonic_ns;
use crate::heartbeat::Heartbeat;

/// Room for events: some thousand, while the thread is away for a moment.
pub const EVENT_BUFFER_BYTES: usize = 8 << 20;
/// Events that are handled between two looks at the clock.
const EVENTS_PER_LOOK: usize = 100;
/// Datagrams of one link that are handled in one turn.
const DATAGRAMS_PER_TURN: usize = 500;
/// Requests that may wait: two for each view, and the thread is never away for as long as so many take.
const REQUESTS_MAX: usize = 1024;
/// How often what is known is told to the rest of the daemon.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// The group in which connection state is told: that of the heartbeat, one port higher (below the highest port: lower), so
/// that the bulk waits in other buffers than the pulses.
pub fn state_group(heartbeat: SocketAddr) -> SocketAddr {
    let port = heartbeat.port().checked_add(1).unwrap_or(heartbeat.port() - 1);
    SocketAddr::new(heartbeat.ip(), port)
}

/// What the thread works with.
pub struct Parts {
    /// The times of the engine.
    pub settings: Settings,
    /// The keys of the cluster.
    pub keys: Keys,
    /// The cluster.
    pub cluster: ClusterName,
    /// This node.
    pub name: NodeName,
    /// This run of it.
    pub incarnation: Incarnation,
    /// From connections to buckets.
    pub classify: Box<dyn Classify>,
    /// One socket per heartbeat link, of the [`state_group`].
    pub links: Vec<Heartbeat>,
    /// Room for events of the kernel, usually [`EVENT_BUFFER_BYTES`].
    pub event_buffer_bytes: usize,
}

enum Request {
    Own(BucketSet, Duration, SyncSender<()>),
    Classify(Box<dyn Classify>),
    Incarnation(Incarnation),
    Report(SyncSender<Report>),
    Stop(Farewell),
    Link(Heartbeat),
}

/// What becomes of the other nodes' connections in this node's kernel when the thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// They are removed: this node is no router any more.
    Forget,
    /// They stay: a successor goes on with them.
    Leave,
}

/// How long moves of buckets have waited.
#[derive(Debug, Default)]
struct Moves {
    late: AtomicU64,
    max_ns: AtomicU64,
}

/// How the rest of the daemon reaches the thread.
#[derive(Clone)]
pub struct Door {
    queue: SyncSender<Request>,
    wake: Arc<OwnedFd>,
    lease: Arc<AtomicU64>,
    moves: Arc<Moves>,
}

impl Door {
    /// This node owns these buckets: call it before the packet filter passes what is gained, and after it has ceased to pass
    /// what is lost. Waits until what the others told is in the kernel, and what they have to know is on its way, but no
    /// longer than `patience`: a node that passes packets late is worse than a connection lost. Returns whether that was
    /// long enough.
    pub fn own(&self, owned: BucketSet, patience: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        let begin = now();
        // Half of it for what may be missing, half for the work.
        let in_time =
            self.send(Request::Own(owned, patience / 2, done)) && is_done.recv_timeout(patience).is_ok();
        let waited_ns = u64::try_from(now().since(begin).as_nanos()).unwrap_or(u64::MAX);
        self.moves.max_ns.fetch_max(waited_ns, Ordering::Relaxed);
        self.moves.late.fetch_add(u64::from(!in_time), Ordering::Relaxed);
        in_time
    }

    /// This run of the node has another number from now on.
    pub fn incarnation(&self, incarnation: Incarnation) -> bool {
        self.send(Request::Incarnation(incarnation))
    }

    /// Use this socket in the place of the one on the interface of the same name, which was made again.
    pub fn link(&self, link: Heartbeat) -> bool {
        self.send(Request::Link(link))
    }

    /// The node may pass packets, and so speak for what it owns, until then.
    pub fn lease(&self, until: Time) {
        self.lease.store(until.as_nanos(), Ordering::Relaxed);
    }

    /// Routes or addresses have changed.
    pub fn classify(&self, classify: Box<dyn Classify>) -> bool {
        self.send(Request::Classify(classify))
    }

    /// What the thread knows; None if it has ended or does not answer within `patience`.
    pub fn report(&self, patience: Duration) -> Option<Report> {
        let (answer, answered) = sync_channel(1);
        self.send(Request::Report(answer)).then(|| answered.recv_timeout(patience).ok()).flatten()
    }

    fn send(&self, request: Request) -> bool {
        match self.queue.try_send(request) {
            Ok(()) => {
                // Fails only when the counter is full, and then it is readable anyway.
                let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

/// A running sync thread; ends it when dropped, and removes the other nodes' connections from this node's kernel then,
/// unless the drop is part of a panic: then a successor goes on with them.
pub struct Thread {
    door: Door,
    reports: watch::Receiver<Report>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts the thread in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says: most often that its module `nf_conntrack_netlink` is missing.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let (queue, requests) = sync_channel(REQUESTS_MAX);
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let lease = Arc::new(AtomicU64::new(0));
        let moves = Arc::new(Moves::default());
        let door = Door { queue, wake: wake.clone(), lease: lease.clone(), moves: moves.clone() };
        let (told, reports) = watch::channel(Report::default());
        // Listening before the first dump, so that nothing happens unheard in between.
        let writer = Writer::open()?;
        let listener = Listener::open(parts.event_buffer_bytes, writer.port())?;
        let engine = engine::Parts {
            settings: parts.settings,
            keys: &parts.keys,
            cluster: &parts.cluster,
            name: &parts.name,
            incarnation: parts.incarnation,
            classify: parts.classify,
            port: writer.port(),
        };
        let turn = Turn {
            engine: Engine::new(engine, now()),
            batch: parts.settings.batch,
            listener,
            writer,
            dump: None,
            links: parts.links,
            requests,
            wake,
            lease,
            moves,
            told,
            tell_at: Time::ZERO,
            look_at: Time::ZERO,
            rejected: 0,
            send_errors: 0,
            stopped: None,
        };
        let handle = std::thread::Builder::new().name("sync".into()).spawn(move || turn.run())?;
        Ok(Thread { door, reports, handle: Some(handle) })
    }

    /// How to reach it.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// What it knows, anew some times a second.
    pub fn reports(&self) -> watch::Receiver<Report> {
        self.reports.clone()
    }

    /// Ends the thread, and leaves all connections in this node's kernel to a successor.
    pub fn leave_standing(mut self) {
        self.end(Farewell::Leave);
    }

    fn end(&mut self, farewell: Farewell) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        while !self.door.send(Request::Stop(farewell)) && !handle.is_finished() {
            std::thread::yield_now();
        }
        if handle.join().is_err() {
            tracing::error!("the sync thread has panicked: report it with what is above");
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let dies = std::thread::panicking();
        self.end(if dies { Farewell::Leave } else { Farewell::Forget });
    }
}

struct Turn {
    engine: Engine,
    batch: Duration,
    listener: Listener,
    writer: Writer,
    dump: Option<Dump>,
    links: Vec<Heartbeat>,
    requests: Receiver<Request>,
    wake: Arc<OwnedFd>,
    lease: Arc<AtomicU64>,
    moves: Arc<Moves>,
    told: watch::Sender<Report>,
    tell_at: Time,
    /// The sockets are left alone until then.
    look_at: Time,
    rejected: u64,
    send_errors: u64,
    stopped: Option<Farewell>,
}

impl Turn {
    fn run(mut self) {
        let mut timeout = self.carry_out();
        while self.stopped.is_none() {
            self.wait(timeout.min(self.tell_at));
            let now = now();
            if now >= self.look_at && self.look(now) {
                self.look_at = now + self.batch;
            }
            self.read_dump(now);
            self.serve();
            let now = self::now();
            self.engine.handle_lease(Time::from_nanos(self.lease.load(Ordering::Relaxed)));
            if now >= timeout {
                self.engine.handle_timeout(now);
            }
            timeout = self.carry_out();
            if now >= self.tell_at {
                self.tell_at = now + REPORT_EVERY;
                self.told.send_replace(self.report());
            }
        }
        if self.stopped == Some(Farewell::Forget) {
            self.engine.forget_replicas();
            self.carry_out();
        }
    }

    fn wait(&self, timeout: Time) {
        let now = now();
        let rests = now < self.look_at;
        let until = if self.dump.is_some() {
            now
        } else if rests {
            timeout.min(self.look_at)
        } else {
            timeout
        };
        let left = until.since(now);
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        if !rests {
            fds.push(PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN));
            fds.extend(self.links.iter().map(|link| PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN)));
        }
        if let Err(error) = poll(&mut fds, Some(&left))
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "the sync thread cannot wait: report it with this error");
            std::thread::sleep(self.batch);
        }
    }

    /// Reads what has come; returns whether there was anything.
    fn look(&mut self, now: Time) -> bool {
        // Whoever knocks meanwhile does not wait for longer than that.
        let heard = self.hear_kernel(now + self.batch);
        let received = self.hear_links(now);
        heard || received
    }

    /// Handles what happened to connections, until there is no more of it or until then; returns whether there was any.
    fn hear_kernel(&mut self, until: Time) -> bool {
        let (listener, engine, dump) = (&mut self.listener, &mut self.engine, &mut self.dump);
        repeat_until(until, |now| {
            match listener.hear() {
                Ok(Some(Heard::Event(message))) => engine.handle_event(now, &message),
                Ok(Some(Heard::Overrun)) => {
                    *dump = None;
                    engine.handle_overrun();
                    // There may be tens of them in a second; people are told of their count.
                    tracing::debug!(
                        "connections changed faster than they could be read; the table is read anew"
                    );
                }
                Ok(None) => return false,
                Err(error) => {
                    tracing::warn!(%error, "cannot hear of connections: trying again; see the error if it goes on");
                    return false;
                }
            }
            true
        })
    }

    fn hear_links(&mut self, now: Time) -> bool {
        let mut buffer = [0; DATAGRAM_LEN_MAX + 1];
        let mut any = false;
        for link in &self.links {
            for _ in 0..DATAGRAMS_PER_TURN {
                match link.recv(&mut buffer) {
                    Ok(Some((len, source))) => {
                        any = true;
                        if let Err(rejection) = self.engine.handle_datagram(now, &buffer[..len]) {
                            self.rejected += 1;
                            tracing::debug!(%source, %rejection, "a datagram about connections was rejected");
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(interface = link.interface(), %error, "cannot receive");
                        break;
                    }
                }
            }
        }
        any
    }

    fn read_dump(&mut self, now: Time) {
        let Some(dump) = &mut self.dump else {
            return;
        };
        for _ in 0..DUMP_CHUNKS_PER_TURN {
            let engine = &mut self.engine;
            match dump.read(|message| engine.handle_dumped(now, &message)) {
                Ok(true) => {}
                Ok(false) => {
                    self.dump = None;
                    return self.engine.handle_dump_end();
                }
                Err(error) => {
                    tracing::warn!(%error, "the table of connections could not be read; trying again soon; see the error if it goes on");
                    self.dump = None;
                    return self.engine.handle_dump_failed(now);
                }
            }
        }
    }

    fn serve(&mut self) {
        // The counter says only that there is something.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Own(owned, patience, done) => {
                    self.own(owned, patience);
                    // Whoever asked may have lost patience.
                    let _ = done.try_send(());
                }
                Request::Classify(classify) => {
                    self.dump = None;
                    self.engine.handle_classification(classify);
                }
                Request::Report(answer) => {
                    let _ = answer.try_send(self.report());
                }
                Request::Incarnation(incarnation) => self.engine.handle_incarnation(now(), incarnation),
                Request::Stop(farewell) => self.stopped = Some(farewell),
                Request::Link(link) => {
                    let former = self.links.iter_mut().find(|former| former.interface() == link.interface());
                    if let Some(former) = former {
                        *former = link;
                    }
                }
            }
        }
    }

    fn own(&mut self, owned: BucketSet, patience: Duration) {
        let end = now() + patience;
        self.engine.handle_lease(Time::from_nanos(self.lease.load(Ordering::Relaxed)));
        loop {
            // All of it: what passed before the filter was changed has its event already. But they may come faster than
            // they are read, and then there is no last one.
            self.hear_kernel(end);
            let now = now();
            self.hear_links(now);
            if !self.engine.has_gaps() || now >= end {
                break;
            }
            self.engine.handle_timeout(now);
            self.carry_out();
            let mut fds: Vec<_> =
                self.links.iter().map(|link| PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN)).collect();
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
        }
        self.engine.handle_owned(now(), owned);
        self.carry_out();
    }

    /// Carries out what the engine wants; returns when it wants to be called again.
    fn carry_out(&mut self) -> Time {
        let mut writes = Vec::new();
        loop {
            match self.engine.poll_output() {
                Output::Write(write) => writes.push(write),
                Output::Send(datagram) => self.multicast(&datagram),
                Output::Dump => match Dump::begin() {
                    Ok(dump) => self.dump = Some(dump),
                    Err(error) => {
                        tracing::warn!(%error, "the table of connections cannot be read; trying again soon; see the error if it goes on");
                        self.engine.handle_dump_failed(now());
                    }
                },
                Output::Timeout(timeout) => {
                    if writes.is_empty() {
                        return timeout;
                    }
                    self.write(&std::mem::take(&mut writes));
                }
            }
        }
    }

    fn write(&mut self, writes: &[Write]) {
        let engine = &mut self.engine;
        let written = self.writer.write(writes, |write, errno| {
            tracing::debug!(?write, %errno, "the kernel refused a change of its table of connections");
            engine.handle_write_failed(write, errno);
        });
        if let Err(error) = written {
            tracing::warn!(%error, "connections could not be written; the table is read again soon; see the error if it goes on");
            self.dump = None;
            self.engine.handle_dump_failed(now());
        }
    }

    fn multicast(&mut self, datagram: &[u8]) {
        for link in &self.links {
            if let Err(error) = link.send(datagram) {
                self.send_errors += 1;
                tracing::debug!(interface = link.interface(), %error, "a datagram about connections was not sent");
            }
        }
    }

    fn report(&self) -> Report {
        let (now, counts) = (now(), self.engine.counts());
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let peers = self.engine.peers(now);
        Report {
            flows_own: counts.flows_own,
            flows_foreign: counts.flows_foreign,
            events: counts.events,
            messages_sent: counts.messages_sent,
            messages_received: counts.messages_received,
            records_sent: counts.records_sent,
            records_received: counts.records_received,
            overruns: counts.overruns,
            dumps: counts.dumps,
            asked: counts.asked,
            repeated: counts.repeated,
            gaps_skipped: counts.gaps_skipped,
            transfers_sent: counts.transfers_sent,
            transfers_received: counts.transfers_received,
            disbelieved: counts.disbelieved,
            swept: counts.swept,
            write_errors: counts.write_errors,
            rejected: self.rejected,
            send_errors: self.send_errors,
            late_moves: self.moves.late.load(Ordering::Relaxed),
            move_max_us: self.moves.max_ns.load(Ordering::Relaxed) / 1_000,
            lag_us: micros(self.engine.lag(now)),
            cpu_ns: cpu.tv_sec.unsigned_abs() * 1_000_000_000 + cpu.tv_nsec.unsigned_abs(),
            synced: self.engine.is_synced(now),
            peers: peers.map(|(name, proven, whole)| SyncPeer { name: name.into(), proven, whole }).collect(),
        }
    }
}

/// Does something until it says that there was nothing to do, or until then; returns whether there was anything.
fn repeat_until(until: Time, mut step: impl FnMut(Time) -> bool) -> bool {
    let mut now = now();
    for count in 1.. {
        if !step(now) {
            return count > 1;
        }
        if count % EVENTS_PER_LOOK == 0 {
            now = self::now();
            if now >= until {
                break;
            }
        }
    }
    true
}

fn now() -> Time {
    Time::from_nanos(monotonic_ns())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_come_faster_than_they_are_read_are_read_until_then() {
        let begin = now();
        let until = begin + Duration::from_millis(20);
        let endless = |now: Time| {
            assert!(now.since(begin) < Duration::from_secs(30), "it goes on for ever");
            true
        };
        assert!(repeat_until(until, endless));
        assert!(now() >= until, "it has not waited for what may come yet");
        let mut left = 3;
        let few = |_| {
            left -= 1;
            left >= 0
        };
        assert!(repeat_until(now() + Duration::from_secs(60), few));
        assert!(!repeat_until(until, |_| false));
    }
}
