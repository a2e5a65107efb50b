//! Segments that came while nobody owned their bucket: while an owner is not heard, what is sent to it is set aside
//! (`rudel_datapath::Aside`), and put through this node's filter when the bucket is owned here.
//!
//! ```text
//!   pulse thread: Watch ─► which buckets are watched ─► packet filter ─► rings ─┐
//!                  └─────► what is watched, what is gained (queue) ─────────────┴─► this thread ─► the filter again
//! ```
//!
//! Why: a sender of TCP repeats what was lost after 0.2 s, then after 0.4 s more, then after 0.8 s. It finds out that somebody
//! has taken a dead router's place at its next try, long after that. With the last segment of each direction put through, the
//! answer that it waits for comes at once. And a client whose first segment was lost waits for a second otherwise.
//!
//! What it decides: which segments go on. What it does not: who owns a bucket (the protocol), and whether a segment may pass (the
//! filter). Of each direction of a connection the last segment is kept, [`SHELF_BYTES_MAX`] in all, for [`AGE_MAX`]: the last by the
//! clock of the kernel, since each CPU has a ring of its own and the rings are read one after the other. A segment that the
//! owner has passed after all (it was slow to say so) comes twice; TCP knows that from any network.
//!
//! In the same rings are the segments which this node, as a keeper, does not know in a bucket of which somebody has died who had
//! or kept it, too ([`Machine::bereaved`]). They are handed on: sent to the own MAC of the owner, as the wire would bring them, were the cluster
//! one machine. Its stack answers an orphan with a reset; of a connection that it has, the segment is one that came twice.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rudel_api::snapshot as api;
use rudel_datapath::{Aside, BucketState, BucketTable, Direction, Gate, Heard, Segment};
use rudel_proto::bucket::BucketSet;
use rudel_proto::id::NodeId;
use rudel_proto::machine::Machine;
use rudel_proto::{Table, Time};

use crate::clock::monotonic_ns;
use crate::host::MacAddr;
use crate::host::packet::PacketSocket;

/// What is kept at most.
const SHELF_BYTES_MAX: usize = 8 << 20;
/// After so long a sender has repeated its segment, or has given up.
const AGE_MAX: Duration = Duration::from_secs(5);
/// How often the rings are emptied while buckets are watched: at the full rate of a 100 Mbit/s link, a tenth of a ring.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Of each direction of a connection no more than one segment is handed on within this time: of those that their owner knows,
/// too many would come twice.
const HAND_EVERY_NS: u64 = 1_000_000_000;
/// Directions that are remembered for that.
const HANDED_MAX: usize = 65_536;
/// Words that may wait for the thread.
const WORDS_MAX: usize = 256;

/// What the pulse thread tells.
#[derive(Clone, Debug)]
struct Word {
    watched: BucketSet,
    gained: BucketSet,
    /// Buckets to be handed on, and to whom.
    bereaved: Vec<(u8, NodeId)>,
}

/// The pulse thread's end: which buckets are watched.
#[derive(Debug)]
pub struct Watch {
    words: SyncSender<Word>,
    /// Whether what comes in a planned move, after one node has ceased and before the next has begun, is set aside, too.
    moves: bool,
    table: Table,
    watched: BucketSet,
    bereaved: Vec<(u8, NodeId)>,
}

/// The other end.
#[derive(Debug)]
pub struct Words(Receiver<Word>);

/// Nothing is watched yet. `routes`: connections move with their buckets, and stay with nobody. Only then is anything set
/// aside in a planned move: elsewhere its owner until then keeps it, and a first segment that both take would begin twice.
pub fn channel(routes: bool) -> (Watch, Words) {
    let (words, receiver) = sync_channel(WORDS_MAX);
    let watch = Watch {
        words,
        moves: routes,
        table: Table::default(),
        watched: BucketSet::EMPTY,
        bereaved: Vec::new(),
    };
    (watch, Words(receiver))
}

impl Watch {
    /// Looks who is heard; returns what the filter has to be told, if that has changed. A bucket that was watched is so until it is
    /// owned, here or by somebody who is heard. On a router, what a view gives this node is watched until then, too.
    pub fn look(&mut self, machine: &Machine, now: Time) -> Option<BucketTable> {
        let me = machine.me().id;
        let mine = machine.view().map_or(BucketSet::EMPTY, |view| view.owned_by(me));
        let awaited = if self.moves { mine } else { self.watched & mine };
        let watched = machine.unheard(now) | awaited;
        let bereaved = machine.bereaved(now);
        let kept = bereaved.iter().map(|(bucket, _)| *bucket).collect::<BucketSet>();
        let watched = (watched | kept) - self.table.owned;
        if watched == self.watched && bereaved == self.bereaved {
            return None;
        }
        self.watched = watched;
        self.bereaved = bereaved;
        self.tell(BucketSet::EMPTY);
        Some(self.states())
    }

    /// The table has changed: what the filter has to be told.
    pub fn table(&mut self, table: &Table) -> BucketTable {
        self.table = *table;
        self.states()
    }

    /// The filter has been told: what waits for these buckets goes on.
    pub fn gained(&mut self, gained: BucketSet) {
        let awaited = gained & self.watched;
        if !awaited.is_empty() {
            self.watched = self.watched - gained;
            self.tell(awaited);
        }
    }

    fn states(&self) -> BucketTable {
        let Table { owned, contested, kept } = self.table;
        let mut states = BucketTable::owning((owned - contested).iter());
        let watched = self.watched - owned;
        for (buckets, state) in [
            (watched - kept, BucketState::Watched),
            (contested, BucketState::OwnedWhileKept),
            (kept - watched, BucketState::Kept),
            // What was given up a moment ago is still kept, and may have been given to one that is dead by now.
            (kept & watched, BucketState::KeptWatched),
        ] {
            buckets.iter().for_each(|bucket| states.set(bucket, state));
        }
        states
    }

    fn tell(&self, gained: BucketSet) {
        // Without a thread, or with one that does not keep up, what was sent is lost, as on any network.
        let bereaved = self.bereaved.clone();
        let _ = self.words.try_send(Word { watched: self.watched, gained, bereaved });
    }
}

/// What has become of segments since the daemon began.
#[derive(Debug, Default)]
pub struct Tally {
    set_aside: AtomicU64,
    put_through: AtomicU64,
    refused: AtomicU64,
    handed_on: AtomicU64,
    lost: AtomicU64,
}

impl Tally {
    /// As the status has it.
    pub fn report(&self) -> api::Aside {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        api::Aside {
            set_aside: read(&self.set_aside),
            put_through: read(&self.put_through),
            refused: read(&self.refused),
            handed_on: read(&self.handed_on),
            lost: read(&self.lost),
        }
    }
}

/// Starts the thread, which ends with the pulse thread. If it cannot work, the log says so: the node serves without it, and
/// nothing is counted.
pub fn start(words: Words, pin_dir: &Path, gates: Vec<Gate>, links: Vec<(u32, MacAddr)>) -> Arc<Tally> {
    let counts = Arc::new(Tally::default());
    let tally = Arc::clone(&counts);
    let tell = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "what is sent to a node that has just died is lost until its sender repeats it; see the error");
    };
    let pin_dir = pin_dir.to_owned();
    let thread =
        std::thread::Builder::new().name("aside".into()).spawn(move || match Aside::open(&pin_dir) {
            Ok(mut aside) => {
                // A predecessor's.
                aside.take(drop);
                run(&words.0, &mut aside, &gates, &mut Messenger::new(&pin_dir, links), &tally);
            }
            Err(error) => tell(&error),
        });
    if let Err(error) = thread {
        tell(&error);
    }
    counts
}

fn run(words: &Receiver<Word>, aside: &mut Aside, gates: &[Gate], messenger: &mut Messenger, tally: &Tally) {
    let mut shelf = Shelf::default();
    let mut watched = BucketSet::EMPTY;
    let mut owners = BTreeMap::new();
    loop {
        let word = if watched.is_empty() && owners.is_empty() {
            match words.recv() {
                Ok(word) => Some(word),
                Err(_) => return,
            }
        } else {
            match words.recv_timeout(LOOK_EVERY) {
                Ok(word) => Some(word),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        let (mut count, mut without_room) = (0, 0);
        let mut handed_on = 0;
        let lost = aside.take(|segment| match owners.get(&segment.bucket) {
            Some(owner) => handed_on += u64::from(messenger.hand_on(segment, *owner)),
            None => {
                count += 1;
                without_room += u64::from(!shelf.put(segment));
            }
        });
        tally.handed_on.fetch_add(handed_on, Ordering::Relaxed);
        tally.set_aside.fetch_add(count, Ordering::Relaxed);
        tally.lost.fetch_add(lost + without_room, Ordering::Relaxed);
        let Some(word) = word else { continue };
        watched = word.watched;
        owners = word.bereaved.into_iter().collect::<BTreeMap<u8, NodeId>>();
        put_through(shelf.take(word.gained, monotonic_ns()), gates, tally);
        shelf.keep(watched);
    }
}

fn put_through(segments: Vec<Segment>, gates: &[Gate], tally: &Tally) {
    let (mut count, mut refused, mut failed) = (0, 0, None);
    for mut segment in segments {
        segment.complete();
        let Some(gate) = gates.iter().find(|gate| gate.ifindex() == segment.ifindex) else { continue };
        match gate.put_through(&segment.frame) {
            Ok(()) => count += 1,
            Err(error) => {
                refused += 1;
                failed = Some(error);
            }
        }
    }
    tally.put_through.fetch_add(count, Ordering::Relaxed);
    tally.refused.fetch_add(refused, Ordering::Relaxed);
    if count > 0 {
        tracing::info!(segments = count, "segments that came while nobody had their buckets go on");
    }
    if let Some(error) = failed {
        tracing::warn!(%error, "segments that came while nobody had their buckets are lost: their senders repeat them, nothing to do");
    }
}

/// Takes segments to the nodes that may know them.
struct Messenger {
    /// The interfaces of the cluster, and their own MACs.
    links: Vec<(u32, MacAddr)>,
    /// Opened when the first segment is to be sent.
    sockets: HashMap<u32, Option<PacketSocket>>,
    /// Whose MAC is which: their probes' sources.
    heard: Option<Heard>,
    /// When one was handed on last.
    handed: HashMap<(u32, Direction), u64>,
}

impl Messenger {
    fn new(pin_dir: &Path, links: Vec<(u32, MacAddr)>) -> Self {
        let heard = Heard::open(pin_dir)
            .inspect_err(|error| {
                tracing::warn!(%error, "connections of a dead node are not reset while others of their bucket are kept here: see the error; `rudel restart` tries again");
            })
            .ok();
        Self { links, sockets: HashMap::new(), heard, handed: HashMap::new() }
    }

    /// Whether it was sent. What is not is as lost as on any network, and its sender will repeat it.
    fn hand_on(&mut self, mut segment: Segment, owner: NodeId) -> bool {
        // A first segment is the owner's, who knows all by it.
        if segment.is_first() {
            return false;
        }
        let Some(direction) = segment.direction().filter(|direction| self.is_due(&segment, *direction))
        else {
            return false;
        };
        let Some((ifindex, own_mac)) = self.links.iter().find(|(ifindex, _)| *ifindex == segment.ifindex)
        else {
            return false;
        };
        let family = if direction.0.is_ipv4() { 4 } else { 6 };
        let probe =
            self.heard.as_ref().and_then(|heard| heard.last(owner.as_u64(), *ifindex, family).ok()?);
        let Some(mac) = probe.map(|probe| MacAddr(probe.mac)).filter(|mac| !mac.is_multicast()) else {
            return false;
        };
        segment.complete();
        let socket = self.sockets.entry(*ifindex).or_insert_with(|| {
            PacketSocket::silent(*ifindex)
                .inspect_err(|error| tracing::warn!(%error, "connections of a dead node are not reset while others of their bucket are kept here: see the error, which is the kernel's answer to a packet socket"))
                .ok()
        });
        let frame = readdressed(segment.frame, mac, *own_mac);
        let sent = socket.as_ref().is_some_and(|socket| socket.send(&frame).is_ok());
        if sent {
            self.handed.insert((*ifindex, direction), segment.at_ns);
        }
        sent
    }

    fn is_due(&mut self, segment: &Segment, direction: Direction) -> bool {
        let is_recent = |at: &u64| segment.at_ns.saturating_sub(*at) < HAND_EVERY_NS;
        if self.handed.len() >= HANDED_MAX {
            self.handed.retain(|_, at| is_recent(at));
        }
        let is_recent = self.handed.get(&(segment.ifindex, direction)).is_some_and(is_recent);
        !is_recent && self.handed.len() < HANDED_MAX
    }
}

/// From this machine, so that no switch takes it for where the sender is.
fn readdressed(mut frame: Vec<u8>, to: MacAddr, from: MacAddr) -> Vec<u8> {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses[..6].copy_from_slice(&to.octets());
        addresses[6..].copy_from_slice(&from.octets());
    }
    frame
}

/// The last segment of each direction.
#[derive(Debug, Default)]
struct Shelf {
    segments: HashMap<(u32, Direction), Segment>,
    bytes: usize,
}

impl Shelf {
    /// Whether there was room for it, if it needs any: one that came before the one that is there does not, nor one whose ports
    /// cannot be seen.
    fn put(&mut self, segment: Segment) -> bool {
        let Some(direction) = segment.direction() else { return true };
        let key = (segment.ifindex, direction);
        let known = self.segments.get(&key);
        if known.is_some_and(|known| known.at_ns > segment.at_ns) {
            return true;
        }
        let bytes = self.bytes - known.map_or(0, |known| known.frame.len()) + segment.frame.len();
        let has_room = bytes <= SHELF_BYTES_MAX;
        if has_room {
            self.bytes = bytes;
            self.segments.insert(key, segment);
        }
        has_room
    }

    /// Those of these buckets that are not too old.
    fn take(&mut self, buckets: BucketSet, now_ns: u64) -> Vec<Segment> {
        let taken: Vec<Segment> = self
            .segments
            .extract_if(|_, segment| buckets.contains(segment.bucket))
            .map(|(_, segment)| segment)
            .collect();
        self.bytes -= taken.iter().map(|segment| segment.frame.len()).sum::<usize>();
        let age = |segment: &Segment| Duration::from_nanos(now_ns.saturating_sub(segment.at_ns));
        taken.into_iter().filter(|segment| age(segment) <= AGE_MAX).collect()
    }

    /// Forgets those of all other buckets.
    fn keep(&mut self, buckets: BucketSet) {
        self.segments.retain(|_, segment| buckets.contains(segment.bucket));
        self.bytes = self.segments.values().map(|segment| segment.frame.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a connection of this number, the so-and-so-many-th of all: `length` bytes behind the headers.
    fn segment(at_ns: u64, connection: u8, bucket: u8, length: usize) -> Segment {
        let [high, low] = (44 + length as u16).to_be_bytes();
        let head = [8, 0, 0x45, 0, high, low, 0, 0, 0, 0, 64, 6, 0, 0];
        let ip = [&[0; 12][..], &head, &[10, 0, 0, connection], &[10, 0, 0, 2]];
        let frame = [ip.concat(), vec![connection; 24], vec![0; length]].concat();
        Segment { at_ns, ifindex: 2, bucket, frame }
    }

    fn set(buckets: impl IntoIterator<Item = u8>) -> BucketSet {
        buckets.into_iter().collect()
    }

    #[test]
    fn the_last_segment_of_each_connection_waits_for_its_bucket() {
        let mut shelf = Shelf::default();
        for (at, connection, bucket, length) in
            [(1, 1, 7, 100), (2, 2, 7, 200), (4, 1, 7, 300), (5, 3, 8, 400), (6, 4, 9, 1)]
        {
            assert!(shelf.put(segment(at, connection, bucket, length)));
        }
        // By another CPU, whose ring was read later.
        assert!(shelf.put(segment(3, 1, 7, 500)));
        let mut taken = shelf.take(set([7]), 7);
        taken.sort_by_key(|segment| segment.at_ns);
        assert_eq!(taken, [segment(2, 2, 7, 200), segment(4, 1, 7, 300)]);
        assert_eq!(shelf.take(set([7]), 7), [], "once");
        shelf.keep(set([9]));
        assert_eq!(shelf.take(set([8]), 7), [], "nobody waits for that any more");
        let later = (AGE_MAX * 2).as_nanos() as u64;
        assert_eq!(shelf.take(set([9]), later), [], "it is too old");
        assert_eq!((shelf.bytes, shelf.segments.len()), (0, 0));
    }

    #[test]
    fn a_flood_is_not_kept() {
        let (mut shelf, mut without_room) = (Shelf::default(), 0);
        for number in 0..10_000_u16 {
            let mut one = segment(1, 1, 7, 2_900);
            one.frame[34..36].copy_from_slice(&number.to_be_bytes());
            without_room += usize::from(!shelf.put(one));
        }
        assert!(shelf.bytes <= SHELF_BYTES_MAX && shelf.bytes > SHELF_BYTES_MAX / 2, "{}", shelf.bytes);
        assert_eq!(without_room, 10_000 - shelf.segments.len());
        // One that is known already has its room.
        shelf.put(segment(2, 1, 7, 2_900));
        shelf.put(segment(3, 1, 7, 0));
        shelf.keep(BucketSet::EMPTY);
        assert_eq!(shelf.bytes, 0);
    }

    #[test]
    fn what_is_owned_is_not_watched_and_what_is_kept_is_both() {
        let (mut watch, words) = channel(false);
        watch.watched = set([1, 2, 3, 4]);
        let states = watch.table(&Table { owned: set([1, 5]), contested: set([5]), kept: set([2, 6]) });
        let expected = [
            (0, BucketState::Ignored),
            (1, BucketState::Owned),
            (2, BucketState::KeptWatched),
            (3, BucketState::Watched),
            (5, BucketState::OwnedWhileKept),
            (6, BucketState::Kept),
        ];
        expected.iter().for_each(|(bucket, state)| assert_eq!(states.get(*bucket), *state, "{bucket}"));
        watch.gained(set([1, 5]));
        let Word { watched, gained, .. } = words.0.try_recv().expect("it is told");
        assert_eq!((watched, gained), (set([2, 3, 4]), set([1])));
        watch.gained(set([5]));
        assert!(words.0.try_recv().is_err(), "nothing waits for that");
    }

    #[test]
    fn of_each_direction_one_segment_is_handed_on_in_a_while() {
        let link = (2, MacAddr([2, 0, 0, 0, 0, 1]));
        let mut messenger =
            Messenger { links: vec![link], sockets: HashMap::new(), heard: None, handed: HashMap::new() };
        let [one, other] = [1, 2].map(|connection| segment(5 * HAND_EVERY_NS, connection, 7, 0));
        let (direction, others) = (one.direction().expect("TCP"), other.direction().expect("TCP"));
        assert!(messenger.is_due(&one, direction));
        messenger.handed.insert((2, direction), 4 * HAND_EVERY_NS + 1);
        assert!(!messenger.is_due(&one, direction) && messenger.is_due(&other, others));
        messenger.handed.insert((2, direction), 4 * HAND_EVERY_NS);
        assert!(messenger.is_due(&one, direction));
        // More than can be remembered are not handed on for a while, and what is old makes room.
        messenger.handed = (0..=u16::MAX)
            .map(|port| ((2, (direction.0, direction.1, [0, 0, (port >> 8) as u8, port as u8])), one.at_ns))
            .collect();
        assert!(!messenger.is_due(&other, others));
        let later = Segment { at_ns: one.at_ns + HAND_EVERY_NS, ..other };
        assert!(messenger.is_due(&later, others));
    }

    #[test]
    fn what_is_handed_on_comes_from_here() {
        let frame = readdressed(vec![9; 60], MacAddr([2; 6]), MacAddr([4; 6]));
        assert_eq!((&frame[..6], &frame[6..12], &frame[12..]), (&[2; 6][..], &[4; 6][..], &[9; 48][..]));
        assert_eq!(readdressed(vec![1], MacAddr([2; 6]), MacAddr([4; 6])), [1]);
    }
}
