//! The pulse thread: the one place where the protocol, the heartbeat sockets and the packet filter meet.
//!
//! It owns all three and does nothing that can block: no disk, no names, no allocation in proportion to traffic. All
//! else lives on the runtime beside it and talks to it through bounded queues.
//!
//! ```text
//!   heartbeat sockets ─┐                               ┌─► heartbeat sockets
//!   timer ─────────────┼─► Node::handle_* ─► poll_output ─► packet filter (table, lease)
//!   requests (queue) ──┘                               ├─► latest state ─► keeper, health checks, store
//!                                                      └─► notices (queue) ─► history, log
//! ```
//!
//! Priorities of one turn: outputs first (the kernel before the pulse that claims it), then at most
//! [`DATAGRAMS_PER_TURN`] datagrams per link, then a timer that is due, then at most [`REQUESTS_PER_TURN`] requests.
//! Datagrams come before the timer, so that no pulse says less than what had already arrived when it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rudel_datapath::{Datapath, InterfaceCounters, LeaseUntil};
use rudel_proto::bucket::BucketSet;
use rudel_proto::id::NodeId;
use rudel_proto::machine::Outcome;
use rudel_proto::record::Record;
use rudel_proto::seal::{DATAGRAM_LEN_MAX, KeyId, Rejection};
use rudel_proto::status::Status;
use rudel_proto::wire::Task;
use rudel_proto::{Command, Event, Node, Output, Table, Time};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::{mpsc, oneshot};

use crate::advice::advised;
use crate::aside::Watch;
use crate::clock::monotonic_ns;
use crate::heartbeat::{Heartbeat, SendError};
use crate::host_setup::told;
use crate::latest::Teller;
use crate::legacy;
use crate::neighbor::{Election, ServingNodes};
use crate::parent::Tie;
use crate::statistics::{Histogram, Recent};
use crate::sync::thread::Door;

/// Datagrams of one link that are handled before timers are looked at again: two intervals of a full cluster.
const DATAGRAMS_PER_TURN: usize = 64;
/// Requests that are handled in one turn.
const REQUESTS_PER_TURN: usize = 16;
/// Requests that may wait; more are refused, since an administrator can ask again.
const REQUESTS_MAX: usize = 64;
/// What must not be refused is asked for again after so long.
const BUSY: Duration = Duration::from_millis(5);
/// Source addresses that are remembered of each node.
const ADDRESSES_PER_NODE: usize = 8;
/// The same rejection from the same address is told once in this time.
const REJECTION_TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long connections may hold up a move of their buckets; at most a quarter of an interval, so that a node that
/// waits is not late.
const SYNC_PATIENCE_MAX: Duration = Duration::from_millis(20);
/// Rejections that are remembered as told; a flood from ever new addresses is counted, not told.
const REJECTIONS_TOLD_MAX: usize = 64;

/// What the rest of the daemon asks of the pulse thread.
#[derive(Debug)]
pub enum Request {
    /// A command for the protocol.
    Command(Command),
    /// Several, of which all are given or none.
    Commands(Vec<Command>),
    /// An order for another node, and where to tell what became of it.
    Order(String, Task, oneshot::Sender<Outcome>),
    /// What the daemon itself wants its successor to know, as bytes.
    Remember(Vec<u8>),
    /// Leave everything to a successor, and end.
    HandOver,
    /// Use this socket in the place of the one on the interface of the same name, which was made again.
    Link(Heartbeat),
    /// Everything that is known.
    Report(oneshot::Sender<Report>),
}

/// What the pulse thread knows at one instant.
#[derive(Clone, Debug)]
pub struct Report {
    /// The protocol's part.
    pub status: Status,
    /// Counters of the packet filter; empty if they could not be read.
    pub interfaces: Vec<InterfaceCounters>,
    /// Where each node's datagrams came from.
    pub addresses: BTreeMap<NodeId, BTreeSet<IpAddr>>,
    /// The keys that each node accepts, the one that it seals with first; this node's are among them.
    pub keys: BTreeMap<NodeId, Vec<KeyId>>,
    /// Counts of this thread.
    pub counts: Counts,
}

/// What the pulse thread has counted since it began.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Datagrams handed to the network, one per link.
    pub sent: u64,
    /// Datagrams that a link could not take.
    pub send_errors: u64,
    /// Datagrams that were let in.
    pub received: u64,
    /// Datagrams that were not, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Views that came into force, by reason.
    pub views: BTreeMap<&'static str, u64>,
    /// How long it took to own all that a view gave this node.
    pub takeover: Histogram,
    /// How late timers fired.
    pub lateness: Histogram,
    /// The worst of that lately.
    pub lateness_recent: Recent,
    /// The worst of that ever, in nanoseconds.
    pub lateness_max_ns: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            sent: 0,
            send_errors: 0,
            received: 0,
            rejected: BTreeMap::new(),
            views: BTreeMap::new(),
            takeover: Histogram::takeover(),
            lateness: Histogram::lateness(),
            lateness_recent: Recent::default(),
            lateness_max_ns: 0,
        }
    }
}

impl Counts {
    fn count(&mut self, event: &Event) {
        match event {
            Event::View { reason, .. } => *self.views.entry(reason.as_str()).or_default() += 1,
            Event::Gained { took, .. } => self.takeover.observe(*took),
            _ => {}
        }
    }

    /// A timer that was due has fired.
    fn count_lateness(&mut self, now: Time, late: Duration) {
        let late_ns = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.lateness.observe(late);
        self.lateness_recent.observe(now, late_ns);
        self.lateness_max_ns = self.lateness_max_ns.max(late_ns);
    }
}

/// What the pulse thread tells of its own accord.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Something happened in the protocol.
    Event(Event),
    /// A datagram was not let in; told once a minute for each reason and source.
    Rejected {
        /// Why.
        rejection: Rejection,
        /// Where it came from.
        source: SocketAddr,
        /// On which interface.
        interface: String,
    },
    /// What went into the protocol, if it is recorded.
    Record(Record),
}

/// Why the pulse thread ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum PulseError {
    /// The kernel refused what the protocol decided. The filter was emptied if that was still possible.
    #[error("the packet filter refused a change, so this node stops serving: {}", told(.0))]
    Datapath(#[from] rudel_datapath::Error),
    /// The wait for datagrams failed.
    #[error("cannot wait for datagrams: {}", advised(.0))]
    Poll(io::Error),
}

/// Talks to the pulse thread.
#[derive(Clone, Debug)]
pub struct Requests {
    queue: SyncSender<Request>,
    wake: Arc<OwnedFd>,
}

/// The pulse thread has ended, or too much is waiting for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It has ended.
    #[error("the daemon is stopping")]
    Stopped,
    /// The queue is full; nothing was asked.
    #[error("the daemon is busy; try again")]
    Busy,
}

impl Requests {
    /// Asks for something; does not wait for it.
    pub fn send(&self, request: Request) -> Result<(), RequestError> {
        self.queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => RequestError::Busy,
            TrySendError::Disconnected(_) => RequestError::Stopped,
        })?;
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }

    /// Asks for what must not be lost; waits while too much else waits.
    pub async fn insist(&self, request: impl Fn() -> Request) -> Result<(), RequestError> {
        loop {
            match self.send(request()) {
                Err(RequestError::Busy) => tokio::time::sleep(BUSY).await,
                other => return other,
            }
        }
    }

    /// Everything that the pulse thread knows now.
    pub async fn report(&self) -> Result<Report, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::Report(sender))?;
        receiver.await.map_err(|_| RequestError::Stopped)
    }

    /// The same, for a thread that may block: it waits while too much else waits.
    pub fn report_blocking(&self) -> Result<Report, RequestError> {
        loop {
            let (sender, receiver) = oneshot::channel();
            match self.send(Request::Report(sender)) {
                Ok(()) => return receiver.blocking_recv().map_err(|_| RequestError::Stopped),
                Err(RequestError::Busy) => std::thread::sleep(BUSY),
                Err(RequestError::Stopped) => return Err(RequestError::Stopped),
            }
        }
    }

    /// Orders another node, and waits until it has said that it is done, or is given up.
    pub async fn order(&self, node: &str, task: Task) -> Result<Outcome, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::Order(node.into(), task, sender))?;
        receiver.await.map_err(|_| RequestError::Stopped)
    }
}

/// What the thread works with.
pub struct Parts<D> {
    /// The protocol.
    pub node: Node,
    /// One socket per heartbeat link.
    pub links: Vec<Heartbeat>,
    /// The packet filter.
    pub datapath: D,
    /// Who answers ARP and NDP.
    pub election: Election,
    /// Where notices go.
    pub notices: mpsc::Sender<Notice>,
    /// Where state is told.
    pub latest: Teller,
    /// The sync thread of a router that shares its connections.
    pub sync: Option<Door>,
    /// Who sets segments of unheard owners aside.
    pub aside: Watch,
    /// The tie to the parent process.
    pub tie: Tie,
    /// See [`Request::Remember`].
    pub household: Vec<u8>,
}

/// A running pulse thread.
pub struct Pulse<D> {
    /// Talks to it.
    pub requests: Requests,
    /// Gives the packet filter back when it has ended.
    pub thread: JoinHandle<(D, Result<(), PulseError>)>,
}

/// Starts the thread. It ends when the node has left, or with an error; `on_end` is called then.
pub fn start<D: Datapath + Send + 'static>(
    parts: Parts<D>,
    on_end: impl FnOnce() + Send + 'static,
) -> io::Result<Pulse<D>> {
    let (queue, incoming) = sync_channel(REQUESTS_MAX);
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    let requests = Requests { queue, wake: wake.clone() };
    let thread = std::thread::Builder::new().name("pulse".into()).spawn(move || {
        crate::realtime::prefer_this_thread();
        let mut turn = Turn {
            node: parts.node,
            links: parts.links,
            datapath: parts.datapath,
            election: parts.election,
            notices: parts.notices,
            latest: parts.latest,
            sync: parts.sync,
            owned: BucketSet::EMPTY,
            aside: parts.aside,
            tie: parts.tie,
            household: parts.household,
            memo: Vec::new(),
            incoming,
            wake,
            addresses: BTreeMap::new(),
            counts: Counts::default(),
            told: BTreeMap::new(),
            kept: BucketSet::EMPTY,
            orders: BTreeMap::new(),
            ticket: 0,
            stopped: false,
        };
        let result = turn.run();
        if result.is_err() {
            // Fail closed: whatever the cause, nothing may be passed on the authority of a thread that has ended.
            let _ = turn.datapath.clear();
        }
        on_end();
        (turn.datapath, result)
    })?;
    Ok(Pulse { requests, thread })
}

struct Turn<D> {
    node: Node,
    links: Vec<Heartbeat>,
    datapath: D,
    election: Election,
    notices: mpsc::Sender<Notice>,
    latest: Teller,
    sync: Option<Door>,
    /// What the packet filter passes.
    owned: BucketSet,
    aside: Watch,
    tie: Tie,
    household: Vec<u8>,
    /// The protocol's part of what was left for a successor last.
    memo: Vec<u8>,
    incoming: Receiver<Request>,
    wake: Arc<OwnedFd>,
    addresses: BTreeMap<NodeId, BTreeSet<IpAddr>>,
    counts: Counts,
    told: BTreeMap<(&'static str, IpAddr), Time>,
    kept: BucketSet,
    /// Who waits for the answer to which order.
    orders: BTreeMap<u64, oneshot::Sender<Outcome>>,
    ticket: u64,
    stopped: bool,
}

impl<D: Datapath> Turn<D> {
    fn run(&mut self) -> Result<(), PulseError> {
        let mut buffer = [0; DATAGRAM_LEN_MAX + 1];
        loop {
            let timeout = self.carry_out()?;
            if self.stopped {
                return Ok(());
            }
            self.tie.beat();
            self.wait(timeout)?;
            if timeout.is_some_and(|due| now() >= due) {
                self.tie.stop_with_parent();
            }
            for link in 0..self.links.len() {
                self.receive(link, &mut buffer)?;
            }
            let now = now();
            if let Some(due) = timeout.filter(|due| now >= *due) {
                self.counts.count_lateness(now, now.since(due));
                self.node.handle_timeout(now);
                self.carry_out()?;
                self.watch(now)?;
            }
            self.serve_requests()?;
            if self.stopped {
                return Ok(());
            }
        }
    }

    /// Carries out what the node wants, in its order; returns when it wants to be called again.
    fn carry_out(&mut self) -> Result<Option<Time>, PulseError> {
        loop {
            match self.node.poll_output() {
                Output::Send { datagram, pulse } => {
                    self.multicast(&datagram);
                    if pulse {
                        self.node.handle_pulse_sent(now());
                    }
                }
                Output::Table(table) => {
                    self.write_table(&table)?;
                    if table.kept != self.kept {
                        self.kept = table.kept;
                        self.latest.tell(|latest| latest.kept = table.kept);
                    }
                    self.elect();
                }
                Output::Lease(until) => {
                    if let Some(sync) = &self.sync {
                        sync.lease(until);
                    }
                    self.datapath.write_lease(LeaseUntil::from_nanos(until.as_nanos()))?
                }
                Output::Event(event) => {
                    self.counts.count(&event);
                    let is_view = matches!(event, Event::View { .. });
                    if matches!(event, Event::Gained { .. }) {
                        self.latest.tell(|latest| latest.has_served = true);
                    }
                    if let (Event::Resumed { .. }, Some(view)) = (&event, self.node.machine().view()) {
                        let owners = Box::new(view.owners);
                        self.latest.tell(|latest| latest.found = Some(owners));
                    }
                    self.tell(Notice::Event(event));
                    if is_view {
                        self.elect();
                        self.tell_owners();
                        self.watch(now())?;
                    }
                }
                Output::Ordered { ticket, outcome } => {
                    if let Some(answer) = self.orders.remove(&ticket) {
                        // Whoever asked may have gone.
                        let _ = answer.send(outcome);
                    }
                }
                Output::Examine(number) => self.latest.tell(|latest| latest.examination = number),
                Output::Incarnation(incarnation) => {
                    let farewells = self.node.farewells();
                    self.latest.tell(|latest| latest.incarnation = Some((incarnation, farewells)));
                }
                Output::Memo(memo) => {
                    self.memo = memo;
                    self.leave_memo()?;
                }
                Output::Terms(digest) => self.latest.tell(|latest| {
                    let told = latest.terms.map_or(0, |(_, told)| told);
                    latest.terms = Some((digest, told.wrapping_add(1)));
                }),
                Output::Record(record) => self.tell(Notice::Record(record)),
                Output::Stopped => self.stopped = true,
                Output::Timeout(timeout) => return Ok(timeout),
            }
        }
    }

    /// Writes the table between the two halves of a move of connections: those of gained buckets are in this kernel before
    /// the first packet passes; those of lost ones are told when no packet passes any more, and before the pulse that says so.
    fn write_table(&mut self, table: &Table) -> Result<(), PulseError> {
        let (before, after) = (self.owned, table.owned);
        self.share_connections(before | after, before);
        self.datapath.write_table(&self.aside.table(table))?;
        self.owned = after;
        self.aside.gained(after - before);
        self.share_connections(after, before | after);
        Ok(())
    }

    /// Tells the filter whose segments are to be set aside.
    fn watch(&mut self, now: Time) -> Result<(), PulseError> {
        if let Some(states) = self.aside.look(self.node.machine(), now) {
            self.datapath.write_table(&states)?;
        }
        Ok(())
    }

    /// The one thing that this thread waits for, and not for long: packets that come late are worse than a connection that
    /// is lost, and other nodes wait for the next pulse.
    fn share_connections(&self, owned: BucketSet, told: BucketSet) {
        let Some(sync) = self.sync.as_ref().filter(|_| owned != told) else {
            return;
        };
        let patience = SYNC_PATIENCE_MAX.min(self.node.machine().config().interval / 4);
        if !sync.own(owned, patience) {
            tracing::debug!("buckets moved before all of their connections were known to have done so");
        }
    }

    fn multicast(&mut self, datagram: &[u8]) {
        for link in &self.links {
            match link.send(datagram) {
                Ok(()) => self.counts.sent += 1,
                Err(error) => {
                    self.counts.send_errors += 1;
                    if !matches!(error, SendError::LinkDown(_)) {
                        tracing::debug!(interface = link.interface(), %error, "a datagram could not be sent");
                    }
                }
            }
        }
    }

    /// Tells the ARP and NDP answers which nodes serve.
    fn elect(&self) {
        let machine = self.node.machine();
        let me = machine.me().id;
        let owners = machine.view().map(|view| &view.owners);
        let mut serving: BTreeSet<NodeId> = owners.into_iter().flatten().flatten().copied().collect();
        if machine.owned().is_empty() {
            serving.remove(&me);
        } else {
            serving.insert(me);
        }
        let serving = serving.into_iter().map(NodeId::as_u64).collect();
        self.election.publish(ServingNodes { me: me.as_u64(), serving });
    }

    fn tell_owners(&self) {
        if let Some(view) = self.node.machine().view() {
            let (id, owners) = (view.id, Box::new(view.owners));
            self.latest.tell(|latest| latest.owners = Some((id, owners)));
        }
    }

    /// Notices are for people (state is told in [`Latest`](crate::latest::Latest)): if nobody takes them in time, they
    /// are dropped rather than waited for.
    fn tell(&self, notice: Notice) {
        if let Err(error) = self.notices.try_send(notice) {
            match error.into_inner() {
                Notice::Record(_) => {
                    tracing::error!(
                        "the recording has a hole here: the disk does not keep up; record onto a faster one, let it be memory"
                    )
                }
                _ => tracing::debug!("a notice was dropped: the runtime does not keep up"),
            }
        }
    }

    fn wait(&mut self, until: Option<Time>) -> Result<(), PulseError> {
        let timeout = until.map(|at| at.since(now()));
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds: Vec<PollFd<'_>> =
            self.links.iter().map(|link| PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN)).collect();
        fds.push(PollFd::new(&*self.wake, PollFlags::IN));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(PulseError::Poll(error.into())),
        }
    }

    fn receive(&mut self, link: usize, buffer: &mut [u8]) -> Result<(), PulseError> {
        for _ in 0..DATAGRAMS_PER_TURN {
            let (len, source) = match self.links[link].recv(buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::debug!(interface = self.links[link].interface(), %error, "cannot receive");
                    return Ok(());
                }
            };
            let now = now();
            match self.node.handle_datagram(now, &buffer[..len]) {
                Ok(sender) => {
                    self.counts.received += 1;
                    let known = self.addresses.entry(sender.id).or_default();
                    if known.len() < ADDRESSES_PER_NODE {
                        known.insert(source.ip());
                    }
                }
                Err(rejection) => self.reject(now, rejection, source, link),
            }
            self.carry_out()?;
        }
        Ok(())
    }

    fn reject(&mut self, now: Time, rejection: Rejection, source: SocketAddr, link: usize) {
        let reason = rejection.reason();
        *self.counts.rejected.entry(reason).or_default() += 1;
        // On redundant links every datagram comes twice; views and late datagrams of a former run are daily business.
        if matches!(
            rejection,
            Rejection::Repeated { .. } | Rejection::Unproven { .. } | Rejection::Outdated { .. }
        ) {
            return;
        }
        self.told.retain(|_, at| now.since(*at) < REJECTION_TOLD_EVERY);
        let key = (reason, source.ip());
        if self.told.len() < REJECTIONS_TOLD_MAX && !self.told.contains_key(&key) {
            self.told.insert(key, now);
            let interface = self.links[link].interface().to_owned();
            self.tell(Notice::Rejected { rejection, source, interface });
        }
    }

    fn serve_requests(&mut self) -> Result<(), PulseError> {
        // One read empties the counter, however many requests there are.
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        for served in 0..=REQUESTS_PER_TURN {
            if served == REQUESTS_PER_TURN {
                // There may be more: come back at once, after the timers.
                let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
                break;
            }
            match self.incoming.try_recv() {
                Ok(Request::Command(command)) => {
                    self.node.handle_command(now(), command);
                    self.carry_out()?;
                }
                Ok(Request::Commands(commands)) => {
                    for command in commands {
                        self.node.handle_command(now(), command);
                        self.carry_out()?;
                    }
                }
                Ok(Request::Order(node, task, answer)) => {
                    self.ticket += 1;
                    self.orders.insert(self.ticket, answer);
                    let ticket = self.ticket;
                    self.node.handle_command(now(), Command::Order { ticket, node, task });
                    self.carry_out()?;
                }
                Ok(Request::Remember(household)) => {
                    self.household = household;
                    self.leave_memo()?;
                }
                Ok(Request::HandOver) => {
                    self.memo = self.node.last_memo();
                    self.leave_memo()?;
                    self.stopped = true;
                    return Ok(());
                }
                Ok(Request::Link(link)) => {
                    let former = self.links.iter_mut().find(|former| former.interface() == link.interface());
                    if let Some(former) = former {
                        *former = link;
                    }
                }
                Ok(Request::Report(answer)) => {
                    let report = self.report();
                    // Whoever asked may have gone.
                    let _ = answer.send(report);
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// R10: in the kernel before the datagram that says it.
    fn leave_memo(&mut self) -> Result<(), PulseError> {
        Ok(self.datapath.write_memo(&legacy::encode(&self.household, &self.memo))?)
    }

    fn report(&self) -> Report {
        Report {
            status: self.node.status(now()),
            interfaces: self.datapath.counters().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read the packet counters: they are missing in the status; see the error");
                Vec::new()
            }),
            addresses: self.addresses.clone(),
            keys: {
                let mut keys = self.node.keys_of_others().clone();
                keys.insert(self.node.machine().me().id, self.node.keys());
                keys
            },
            counts: self.counts.clone(),
        }
    }
}

fn now() -> Time {
    Time::from_nanos(monotonic_ns())
}
