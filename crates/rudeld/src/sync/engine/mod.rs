//! What is told, believed and written, as a value: no clock, socket, thread or kernel of its own.
//!
//! ```text
//!   events, dumps ──────┐            ┌─► datagrams to the other routers
//!   datagrams ──────────┼─► Engine ──┼─► changes of the kernel's table
//!   owned buckets, lease┘            └─► a dump, please
//! ```
//!
//! **Who speaks.** Only the owner of a connection's bucket tells of it, and only while its lease holds. Receivers believe
//! a node about the buckets that it claims, in the order in which it claims and tells, and never about their own.
//!
//! **What a replica is.** An entry in this node's kernel that its owner told of: with a long timeout, because packets that
//! refresh it pass elsewhere, and with liberal window checks, because windows move on elsewhere. It goes when its owner
//! says so, or leaves it out of a whole transfer. When this node becomes the owner, it gets its real timeout.
//!
//! **What is lost is asked for.** Datagrams are numbered and handled in order. A gap is asked for; one that stays is
//! skipped, and all that its sender owns is asked for. So is it by a newcomer. Besides, everything is told again
//! slowly, whatever happens.
//!
//! **Who is believed.** A seal proves that a datagram was made by a node with the key, not when. A node's first number of a
//! run is its *token*; once a node's beat echoes my token, its later numbers cannot be recordings.

mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use rudel_proto::bucket::{BUCKET_COUNT, BucketSet};
use rudel_proto::id::{ClusterName, Incarnation, NodeId, NodeName};
use rudel_proto::seal::{Channel, Keys, Opener, Sealer};
use rudel_proto::time::Time;
use rustix::io::Errno;

use super::classify::Classify;
use super::conntrack::{
    ASSURED, Entry, Kind, Message, SEEN_REPLY, TCP, TCP_LIBERAL, Tcp, TcpState, Tuple, Write,
};
use receive::Peer;
use send::{Outbox, Transfer};

/// The times of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A connection, or a change of one, is told when it is this old: what ends earlier is never told. What a crash can
    /// lose are connections younger than this.
    pub young: Duration,
    /// What is to be told is gathered for this long.
    pub batch: Duration,
    /// Everything is told again this often, and the kernel's table read.
    pub refresh: Duration,
    /// The timeout of replicas.
    pub replica_timeout_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            young: Duration::from_millis(100),
            batch: Duration::from_millis(5),
            refresh: Duration::from_secs(300),
            replica_timeout_s: 86_400,
        }
    }
}

/// The kernel's table is read again this long after that has failed.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Changes of replicas that are written in one batch while buckets change hands: some milliseconds of work.
const WRITES_PER_BATCH: usize = 1000;

/// A connection through which packets have passed for so long has windows that the kernel knows.
const STRICT_AFTER: Duration = Duration::from_secs(60);
/// Whoever is there has been heard by then: beats come every second.
const HEARD_AFTER: Duration = Duration::from_millis(1200);

/// What the engine wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Multicast this.
    Send(Vec<u8>),
    /// Change the kernel's table.
    Write(Write),
    /// Read the kernel's whole table; hand it to [`Engine::handle_dumped`], then call [`Engine::handle_dump_end`], or
    /// [`Engine::handle_dump_failed`].
    Dump,
    /// Nothing more until then, or until something comes in.
    Timeout(Time),
}

/// What was counted since the start, and what is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections of own buckets that are known.
    pub flows_own: u64,
    /// Connections of other nodes' buckets that are known.
    pub flows_foreign: u64,
    /// Datagrams made, repeated ones included.
    pub messages_sent: u64,
    /// Datagrams of other nodes that were handled.
    pub messages_received: u64,
    /// Connections told, repetitions included.
    pub records_sent: u64,
    /// Connections heard of, repetitions included.
    pub records_received: u64,
    /// Events of the kernel that were heard, without those of own changes.
    pub events: u64,
    /// Times at which the kernel had more events than room. Each was healed by reading the whole table.
    pub overruns: u64,
    /// Whole tables read.
    pub dumps: u64,
    /// Datagrams of others that were asked for again.
    pub asked: u64,
    /// Datagrams repeated because others had asked.
    pub repeated: u64,
    /// Gaps that stayed open and were healed by a whole transfer.
    pub gaps_skipped: u64,
    /// Whole transfers made.
    pub transfers_sent: u64,
    /// Whole transfers heard.
    pub transfers_received: u64,
    /// Records and ends of connections that were not believed: of buckets that the sender did not claim, or of own ones.
    pub disbelieved: u64,
    /// Connections that their owner had dropped without a word, found by a whole transfer.
    pub swept: u64,
    /// Changes that the kernel refused and that could not be mended at once.
    pub write_errors: u64,
}

/// How an entry stands in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Not at all: it expired, or was removed by somebody else.
    Absent,
    /// As the kernel itself keeps it: its own timeout, its own window checks.
    Own,
    /// As a replica.
    Replica,
}

/// A connection; its original tuple is its name.
#[derive(Clone, Copy, Debug)]
struct Flow {
    reply: Tuple,
    timeout_s: u32,
    mark: u32,
    /// The round in which its owner told of it last.
    stated: u32,
    /// The dump that showed it last.
    dumped: u32,
    tcp: Option<Tcp>,
    status: u8,
    form: Form,
    /// The others know of it.
    announced: bool,
    /// The others were told that it ends, and forget it by themselves.
    ending: bool,
    /// It waits to be told.
    pending: bool,
    /// This node made its entry, so the kernel learns its windows from the first packets that pass: when it has, the
    /// window checks can be strict again. Windows of an entry that had its own and missed packets are never right again.
    learns_windows: bool,
}

// What the manual says of the memory of a connection.
const _: () = assert!(size_of::<(Tuple, Flow)>() <= 112);

impl Flow {
    fn new(entry: &Entry, form: Form) -> Self {
        Flow {
            reply: entry.reply,
            timeout_s: entry.timeout_s,
            mark: entry.mark,
            stated: 0,
            dumped: 0,
            tcp: entry.tcp,
            status: entry.status,
            form,
            announced: false,
            ending: false,
            pending: false,
            learns_windows: false,
        }
    }

    fn entry(&self, orig: Tuple) -> Entry {
        Entry {
            orig,
            reply: self.reply,
            status: self.status,
            timeout_s: self.timeout_s,
            mark: self.mark,
            zone: 0,
            tcp: self.tcp,
        }
    }

    /// Takes over what an event or a dump tells; returns whether the others should hear of it.
    fn update(&mut self, message: &Message) -> bool {
        let entry = &message.entry;
        // A message that leaves TCP's state out says that it has not changed.
        let tcp = entry.tcp.or(self.tcp);
        let mark = if message.has_mark { entry.mark } else { self.mark };
        let shared = |status: u8| status & (SEEN_REPLY | ASSURED);
        let changed = tcp.map(|tcp| tcp.state) != self.tcp.map(|tcp| tcp.state)
            || mark != self.mark
            || entry.reply != self.reply
            || shared(entry.status) != shared(self.status);
        (self.reply, self.status, self.mark, self.tcp) = (entry.reply, entry.status, mark, tcp);
        if entry.timeout_s != 0 {
            self.timeout_s = entry.timeout_s;
        }
        self.form = Form::Own;
        changed
    }

    /// Whether the others should hear of it as it is. Not of a SYN that nobody has answered, since the client repeats it;
    /// nor of what has ended, unless they know it.
    fn is_worth_telling(&self) -> bool {
        match self.tcp.map(|tcp| tcp.state) {
            None => true,
            Some(state) if is_over(state) => self.announced && !self.ending,
            Some(state) => state >= TcpState::SynReceived as u8 && state != TcpState::SynSent2 as u8,
        }
    }

    fn is_ending(&self) -> bool {
        self.tcp.is_some_and(|tcp| is_over(tcp.state))
    }
}

fn is_over(tcp_state: u8) -> bool {
    tcp_state == TcpState::TimeWait as u8 || tcp_state == TcpState::Close as u8
}

fn liberal(tcp: Option<Tcp>) -> Option<Tcp> {
    tcp.map(|tcp| Tcp { flags: tcp.flags.map(|flags| flags | TCP_LIBERAL), ..tcp })
}

/// A dump that is being read.
#[derive(Default)]
struct Dumping {
    /// What ended meanwhile: the dump may have shown it before.
    gone: AHashSet<Tuple>,
}

/// The connections that this node forwards or may have to forward.
pub struct Engine {
    settings: Settings,
    begun: Time,
    me: NodeId,
    keys: Keys,
    cluster: ClusterName,
    name: NodeName,
    sealer: Sealer,
    opener: Opener,
    classify: Box<dyn Classify>,
    /// Netlink's port of our own changes.
    port: u32,
    flows: Vec<AHashMap<Tuple, Flow>>,
    owned: BucketSet,
    /// Since when, for those that are owned.
    gained_at: [Time; BUCKET_COUNT],
    lease: Time,
    /// Buckets some of whose entries do not have the form that their ownership asks for.
    unsettled: BucketSet,
    peers: BTreeMap<NodeId, Peer>,
    outbox: Outbox,
    transfer: Option<Transfer>,
    transfers: u32,
    /// Somebody has asked for a transfer since the last one began.
    wanted: bool,
    /// The rounds of statements: one more at the beginning of each transfer of anybody.
    round: u32,
    dump: Option<Dumping>,
    dumps: u32,
    /// The whole table was read once. Before that, nobody is told that something was all.
    has_read_all: bool,
    /// The next slow refresh: when the table is read again, and when everything is told again.
    read_at: Time,
    tell_at: Time,
    outputs: VecDeque<Output>,
    counts: Counts,
}

/// What an engine is made of.
pub struct Parts<'a> {
    /// Its times.
    pub settings: Settings,
    /// The keys of the cluster.
    pub keys: &'a Keys,
    /// The cluster.
    pub cluster: &'a ClusterName,
    /// This node.
    pub name: &'a NodeName,
    /// This run of this node. Numbers begin with the clock, so that a run that goes on with the incarnation of an earlier
    /// one, on the same boot of the machine, uses none of its numbers.
    pub incarnation: Incarnation,
    /// From connections to buckets.
    pub classify: Box<dyn Classify>,
    /// Netlink's port of the socket that carries the changes out.
    pub port: u32,
}

impl Engine {
    /// An engine that owns nothing and knows nothing, and asks for a dump.
    pub fn new(parts: Parts<'_>, now: Time) -> Self {
        let mut engine = Engine {
            settings: parts.settings,
            begun: now,
            me: NodeId::of(parts.cluster, parts.name),
            keys: parts.keys.clone(),
            cluster: parts.cluster.clone(),
            name: parts.name.clone(),
            sealer: Sealer::for_channel(
                Channel::State,
                parts.keys,
                parts.cluster,
                parts.name,
                parts.incarnation,
            ),
            opener: Opener::for_channel(Channel::State, parts.keys, parts.cluster),
            classify: parts.classify,
            port: parts.port,
            flows: (0..BUCKET_COUNT).map(|_| AHashMap::new()).collect(),
            owned: BucketSet::EMPTY,
            gained_at: [Time::ZERO; BUCKET_COUNT],
            lease: Time::ZERO,
            unsettled: BucketSet::EMPTY,
            peers: BTreeMap::new(),
            outbox: Outbox::new(now),
            transfer: None,
            transfers: 0,
            wanted: false,
            round: 1,
            dump: None,
            dumps: 0,
            has_read_all: false,
            read_at: now + parts.settings.refresh,
            tell_at: now + parts.settings.refresh,
            outputs: VecDeque::new(),
            counts: Counts::default(),
        };
        engine.ask_for_dump();
        engine
    }

    // ===== What comes from the kernel =====

    /// Something happened to an entry.
    pub fn handle_event(&mut self, now: Time, message: &Message) {
        if message.cause == self.port {
            return;
        }
        self.counts.events += 1;
        let Some(bucket) = self.classify.bucket(&message.entry) else {
            return;
        };
        let orig = message.entry.orig;
        if message.kind == Kind::Destroyed {
            if let Some(dump) = &mut self.dump {
                dump.gone.insert(orig);
            }
            self.ended(bucket, &orig);
        } else {
            // Of another node's bucket, too: the packet filter does not wait for ever, so packets may pass before this
            // engine knows whose they are. When it is to be told it is this node's, or is not told.
            self.seen(now, bucket, message, now + self.settings.young);
        }
    }

    /// Events were lost.
    pub fn handle_overrun(&mut self) {
        self.counts.overruns += 1;
        // A dump that is under way may have passed what changed since.
        self.dump = None;
        self.ask_for_dump();
    }

    /// The kernel's table has this entry.
    pub fn handle_dumped(&mut self, now: Time, message: &Message) {
        let entry = &message.entry;
        if self.dump.as_ref().is_none_or(|dump| dump.gone.contains(&entry.orig)) {
            return;
        }
        let Some(bucket) = self.classify.bucket(entry) else {
            return;
        };
        // In a dump no mark is the mark 0.
        let message = Message { has_mark: true, ..*message };
        if self.owned.contains(bucket) {
            self.make_strict(now, bucket, &message);
            self.seen(now, bucket, &message, now);
            return;
        }
        let dumps = self.dumps;
        let flow =
            self.flows[usize::from(bucket)].entry(entry.orig).or_insert_with(|| Flow::new(entry, Form::Own));
        if flow.form == Form::Absent {
            flow.form = Form::Own;
        }
        flow.dumped = dumps;
    }

    /// The dump is over; what it has not shown is not there.
    pub fn handle_dump_end(&mut self) {
        if self.dump.take().is_none() {
            return;
        }
        self.has_read_all = true;
        for bucket in 0..=u8::MAX {
            let owned = self.owned.contains(bucket);
            let (mut ended, mut absent) = (Vec::new(), Vec::new());
            for (orig, flow) in &mut self.flows[usize::from(bucket)] {
                if flow.dumped == self.dumps || flow.form == Form::Absent {
                    continue;
                }
                if owned {
                    ended.push(*orig);
                } else if flow.form == Form::Replica {
                    absent.push(*orig);
                } else {
                    flow.form = Form::Absent;
                }
            }
            for orig in ended {
                self.ended(bucket, &orig);
            }
            for orig in absent {
                // Its owner has it: whoever removed it here did not mean to end the connection there.
                self.create_replica(bucket, &orig);
            }
        }
        self.outbox.want_batch();
    }

    /// The kernel's table could not be read to its end, or it is unknown what of the changes was made: it is read again
    /// soon. Not at once: whatever fails for good would keep this node from everything else.
    pub fn handle_dump_failed(&mut self, now: Time) {
        self.dump = None;
        self.read_at = now + READ_AGAIN_AFTER;
    }

    /// The kernel refused a change.
    pub fn handle_write_failed(&mut self, write: &Write, errno: Errno) {
        let orig = *write.orig();
        match (write, errno) {
            // It was gone already.
            (Write::Delete(_), Errno::NOENT) => {}
            // An entry of an earlier connection with the same ends is in the way.
            (Write::Create(entry), Errno::EXIST) => {
                let again = Write::Create(*entry);
                if self.outbox.remake(orig) {
                    self.outputs.push_back(Output::Write(Write::Delete(orig)));
                    self.outputs.push_back(Output::Write(again));
                } else {
                    self.refused(&orig, true);
                }
            }
            // A status never loses a bit; this kernel has seen more than the one that told of it.
            (Write::Update { orig, status, timeout_s, mark, tcp }, Errno::BUSY) if *status != 0 => {
                let (orig, timeout_s, mark, tcp) = (*orig, *timeout_s, *mark, *tcp);
                let write = Write::Update { orig, status: 0, timeout_s, mark, tcp };
                self.outputs.push_back(Output::Write(write));
            }
            (Write::Update { .. }, Errno::NOENT) => {
                for bucket in 0..=u8::MAX {
                    if !self.flows[usize::from(bucket)].contains_key(&orig) {
                        continue;
                    }
                    if self.owned.contains(bucket) {
                        self.ended(bucket, &orig);
                    } else {
                        self.create_replica(bucket, &orig);
                    }
                }
            }
            _ => self.refused(&orig, matches!(write, Write::Create(_))),
        }
    }

    // ===== What comes from the rest of the daemon =====

    /// This node owns these buckets. What is lost is told to the last connection before the claim is given up, so call
    /// this when the packet filter passes nothing of it any more, and carry the outputs out before anybody else is let in;
    /// what is gained is in the kernel when the outputs have been carried out, so call this before the filter passes it.
    pub fn handle_owned(&mut self, now: Time, owned: BucketSet) {
        let (lost, gained) = (self.owned - owned, owned - self.owned);
        if lost.is_empty() && gained.is_empty() {
            return;
        }
        if !lost.is_empty() {
            self.flush(now, lost);
        }
        if !gained.is_empty() {
            self.hear_out(now);
            // Own entries that were not made liberal since the bucket was lost have windows of long ago.
            for bucket in (gained & self.unsettled).iter() {
                self.settle(bucket);
            }
        }
        for bucket in gained.iter() {
            self.gained_at[usize::from(bucket)] = now;
        }
        self.owned = owned;
        self.unsettled = self.unsettled | lost | gained;
        self.claim(now);
    }

    /// The node may pass packets, and so speak for what it owns, until then.
    pub fn handle_lease(&mut self, until: Time) {
        self.lease = until;
    }

    /// This run of the node has another number from now on: others knew a higher one.
    pub fn handle_incarnation(&mut self, now: Time, incarnation: Incarnation) {
        self.sealer = Sealer::for_channel(Channel::State, &self.keys, &self.cluster, &self.name, incarnation);
        self.outbox.begin_anew(now);
    }

    /// Connections are classified anew: routes or addresses have changed.
    pub fn handle_classification(&mut self, classify: Box<dyn Classify>) {
        self.classify = classify;
        for bucket in 0..=u8::MAX {
            let flows = &self.flows[usize::from(bucket)];
            let leaves =
                |(orig, flow): &(&Tuple, &Flow)| self.classify.bucket(&flow.entry(**orig)) != Some(bucket);
            let leaving: Vec<_> =
                flows.iter().filter(leaves).map(|(orig, flow)| (*orig, flow.form)).collect();
            for (orig, form) in leaving {
                if form == Form::Replica {
                    self.outputs.push_back(Output::Write(Write::Delete(orig)));
                }
                if self.owned.contains(bucket) {
                    self.ended(bucket, &orig);
                } else {
                    self.flows[usize::from(bucket)].remove(&orig);
                }
            }
        }
        // What has another bucket than before is found there.
        self.dump = None;
        self.ask_for_dump();
    }

    /// The time of the last [`Output::Timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        self.look_at_peers(now);
        if now >= self.read_at {
            self.read_at = now + self.settings.refresh;
            if self.dump.is_none() {
                self.ask_for_dump();
            }
        }
        if now >= self.tell_at {
            self.tell_at = now + self.settings.refresh;
            self.begin_transfer(false);
        }
        let batch_at = self.outbox.batch_at(self.settings.batch);
        if now >= batch_at && (self.has_work() || now >= self.outbox.next_due()) {
            self.make_batch(now);
            self.settle_some();
        }
    }

    /// The next thing to be done.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.next_timeout()))
    }

    // ===== Questions =====

    /// Counts of everything.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        for (bucket, flows) in (0..=u8::MAX).zip(&self.flows) {
            let count = flows.len() as u64;
            if self.owned.contains(bucket) {
                counts.flows_own += count
            } else {
                counts.flows_foreign += count
            }
        }
        counts
    }

    /// Whether every other router that owns anything and is heard has told all of its connections.
    /// Nobody can know that before everybody has had the time to be heard.
    pub fn is_synced(&self, now: Time) -> bool {
        self.has_read_all
            && now.since(self.begun) >= HEARD_AFTER
            && self.peers.values().all(|peer| peer.is_synced() || !peer.is_heard(now))
    }

    /// The routers that are heard: whether they are believed, and whether they have told everything.
    pub fn peers(&self, now: Time) -> impl Iterator<Item = (&str, bool, bool)> {
        let heard = self.peers.values().filter(move |peer| peer.is_heard(now));
        heard.map(|peer| (peer.name(), peer.is_proven(), peer.is_synced()))
    }

    /// How long the oldest connection that is to be told has been waiting beyond its time.
    pub fn lag(&self, now: Time) -> Duration {
        self.outbox.oldest_due().map_or(Duration::ZERO, |due| now.since(due))
    }

    /// Whether datagrams are missed or awaited that may be under way.
    pub fn has_gaps(&self) -> bool {
        self.peers.values().any(Peer::has_gap)
    }

    // ===== Private =====

    fn next_timeout(&self) -> Time {
        let batch_at = self.outbox.batch_at(self.settings.batch);
        if self.has_work() {
            return batch_at;
        }
        let peers = self.peers.values().filter_map(Peer::next_timeout);
        let earliest = peers.chain([self.read_at, self.tell_at, self.outbox.next_due()]).min();
        earliest.unwrap_or(batch_at).max(batch_at)
    }

    fn has_work(&self) -> bool {
        let may_tell_all = self.transfer.is_some() && self.has_read_all && self.may_speak();
        !self.unsettled.is_empty() || may_tell_all || self.outbox.has_work()
    }

    /// Whether this node's word about what it owns counts. The time of the last batch is old enough a clock: it is
    /// asked again before each datagram is made.
    fn may_speak(&self) -> bool {
        self.outbox.now() < self.lease
    }

    fn ask_for_dump(&mut self) {
        self.dump = Some(Dumping::default());
        self.dumps = self.dumps.wrapping_add(1);
        self.counts.dumps += 1;
        self.outputs.push_back(Output::Dump);
    }

    /// The kernel itself has an entry as the message says.
    fn seen(&mut self, now: Time, bucket: u8, message: &Message, due: Time) {
        let orig = message.entry.orig;
        let dumps = self.dumps;
        let flows = &mut self.flows[usize::from(bucket)];
        let mut fresh = false;
        let flow = flows.entry(orig).or_insert_with(|| {
            fresh = true;
            Flow::new(&message.entry, Form::Own)
        });
        flow.dumped = dumps;
        if message.kind == Kind::New && !fresh {
            // The kernel replaces an entry without a word if it was over.
            (flow.ending, flow.tcp) = (false, None);
        }
        if fresh && flow.tcp.is_none() && orig.protocol == TCP {
            // The event of its making was lost; an assured one is established.
            let established = message.entry.status & ASSURED != 0;
            let state = if established { TcpState::Established } else { TcpState::SynSent };
            flow.tcp = Some(Tcp { state: state as u8, ..Tcp::default() });
        }
        let changed = flow.update(message) || fresh;
        if changed && !flow.pending && flow.is_worth_telling() {
            flow.pending = true;
            if due <= now {
                self.outbox.tell_now(bucket, orig);
            } else {
                self.outbox.tell_later(due, bucket, orig);
            }
        }
    }

    /// The kernel has no such entry any more.
    fn ended(&mut self, bucket: u8, orig: &Tuple) {
        let flows = &mut self.flows[usize::from(bucket)];
        if !self.owned.contains(bucket) {
            match flows.get_mut(orig) {
                // Its owner may have it still.
                Some(flow) if flow.announced => flow.form = Form::Absent,
                _ => drop(flows.remove(orig)),
            }
            return;
        }
        if let Some(flow) = flows.remove(orig)
            && flow.announced
            && !flow.ending
        {
            self.outbox.tell_end(bucket, *orig);
        }
    }

    /// Takes liberal window checks back from a connection that packets have passed for long enough.
    fn make_strict(&mut self, now: Time, bucket: u8, message: &Message) {
        let owned_for = now.since(self.gained_at[usize::from(bucket)]);
        let Some(flow) = self.flows[usize::from(bucket)].get_mut(&message.entry.orig) else {
            return;
        };
        let Some(tcp) = flow.tcp.filter(|_| flow.learns_windows && owned_for >= STRICT_AFTER) else {
            return;
        };
        // Each packet sets the timeout anew; without one it has run since this node got the bucket.
        let left_if_idle = u64::from(flow.timeout_s).saturating_sub(owned_for.as_secs());
        if u64::from(message.entry.timeout_s) > left_if_idle + 5 {
            flow.learns_windows = false;
            self.outputs.push_back(Output::Write(Write::Update {
                orig: message.entry.orig,
                status: 0,
                timeout_s: message.entry.timeout_s,
                mark: None,
                tcp: Some(Tcp { state: 0, flags: tcp.flags.map(|flags| flags & !TCP_LIBERAL), ..tcp }),
            }));
        }
    }

    fn create_replica(&mut self, bucket: u8, orig: &Tuple) {
        let dumps = self.dumps;
        if let Some(flow) = self.flows[usize::from(bucket)].get_mut(orig) {
            flow.form = Form::Replica;
            flow.dumped = dumps;
            flow.learns_windows = true;
            let entry = flow.entry(*orig);
            self.outputs.push_back(Output::Write(Write::Create(Entry {
                timeout_s: self.settings.replica_timeout_s,
                tcp: liberal(entry.tcp),
                ..entry
            })));
        }
    }

    fn refused(&mut self, orig: &Tuple, was_to_be_made: bool) {
        self.counts.write_errors += 1;
        for bucket in 0..=u8::MAX {
            let Some(flow) = self.flows[usize::from(bucket)].get_mut(orig) else {
                continue;
            };
            if !self.owned.contains(bucket) {
                // It is made when its owner tells of it again, or when it is needed.
                flow.form = Form::Absent;
            } else if was_to_be_made {
                // Without an entry of its owner it has ended, and no event will ever say so.
                self.ended(bucket, orig);
            }
        }
    }

    /// Gives entries of buckets that have changed hands the form that they should have, some at a time.
    fn settle_some(&mut self) {
        let before = self.outputs.len();
        while self.outputs.len() - before < WRITES_PER_BATCH {
            let Some(bucket) = self.unsettled.iter().next() else {
                return;
            };
            self.settle(bucket);
        }
    }

    fn settle(&mut self, bucket: u8) {
        self.unsettled.remove(bucket);
        let owned = self.owned.contains(bucket);
        let replica_timeout_s = self.settings.replica_timeout_s;
        // A dump that is under way may have passed the place of what is made.
        let dumps = self.dumps;
        let (outputs, outbox) = (&mut self.outputs, &mut self.outbox);
        self.flows[usize::from(bucket)].retain(|orig, flow| {
            if owned && !flow.announced && !flow.pending && flow.is_worth_telling() {
                // It was here before this node began to own: nobody else has told of it.
                flow.pending = true;
                outbox.tell_now(bucket, *orig);
            }
            match (owned, flow.form) {
                (true, Form::Replica) => {
                    let write = Write::Update {
                        orig: *orig,
                        status: 0,
                        timeout_s: flow.timeout_s,
                        mark: None,
                        tcp: None,
                    };
                    outputs.push_back(Output::Write(write));
                    flow.form = Form::Own;
                }
                (true, Form::Absent) => {
                    let entry = flow.entry(*orig);
                    outputs
                        .push_back(Output::Write(Write::Create(Entry { tcp: liberal(entry.tcp), ..entry })));
                    flow.form = Form::Own;
                    flow.dumped = dumps;
                }
                // Seen since: this node's again, perhaps.
                (false, Form::Own) if !flow.announced && flow.pending => {}
                // What the others never heard of, or know to be over, ends here by its own clock.
                (false, Form::Own) if !flow.announced || flow.ending => return false,
                (false, Form::Own) => {
                    // Flags alone: the kernel may know a later state.
                    let tcp = liberal(flow.tcp).map(|tcp| Tcp { state: 0, ..tcp });
                    let write = Write::Update {
                        orig: *orig,
                        status: 0,
                        timeout_s: replica_timeout_s,
                        mark: None,
                        tcp,
                    };
                    outputs.push_back(Output::Write(write));
                    flow.form = Form::Replica;
                    flow.learns_windows = false;
                }
                _ => {}
            }
            true
        });
    }

    /// Removes replicas that the kernel of this node need not have any longer, because it leaves: what is left is
    /// what the kernel made itself.
    pub fn forget_replicas(&mut self) {
        for (bucket, flows) in (0..=u8::MAX).zip(&mut self.flows) {
            if self.owned.contains(bucket) {
                continue;
            }
            for (orig, flow) in flows.drain() {
                if flow.form == Form::Replica {
                    self.outputs.push_back(Output::Write(Write::Delete(orig)));
                }
            }
        }
    }

    /// What is owned as far as the others may be told.
    fn claimed(&self) -> BucketSet {
        self.owned
    }

    fn heard_tokens(&self, now: Time) -> Vec<(NodeId, u64)> {
        let heard = self.peers.iter().filter(|(_, peer)| peer.is_heard(now));
        heard.map(|(id, peer)| (*id, peer.token())).take(super::wire::NODES_MAX).collect()
    }

    fn known_nodes(&self) -> BTreeSet<NodeId> {
        self.peers.keys().copied().collect()
    }
}
