//! Rules of the engine, in a world of simulated kernels and a network that loses, delays, reorders and repeats.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rudel_proto::seal::ClusterKey;

use super::*;
use crate::sync::conntrack::{TCP, UDP};

/// The bucket is the source port's low byte.
struct ByPort;

impl Classify for ByPort {
    fn bucket(&self, entry: &Entry) -> Option<u8> {
        (entry.zone == 0).then_some(entry.orig.src_port as u8)
    }
}

const OWN_PORT: u32 = 4711;

struct Machine {
    engine: Engine,
    kernel: BTreeMap<Tuple, Entry>,
    /// Events reach the daemon; else they are lost.
    hears: bool,
    up: bool,
    /// A dump that was asked for takes its time.
    reads_slowly: bool,
    /// Its table has no room for what is to be made.
    is_full: bool,
}

struct World {
    now: Time,
    machines: Vec<Machine>,
    on_the_wire: Vec<(Time, usize, Vec<u8>)>,
    /// All that was ever sent, by sender.
    recorded: Vec<Vec<Vec<u8>>>,
    loss_percent: u64,
    repeat_percent: u64,
    delay_max_us: u64,
    chance: u64,
}

fn keys() -> Keys {
    Keys::new(ClusterKey::new([7; 32]), [])
}

fn engine(index: usize, incarnation: u64, now: Time) -> Engine {
    Engine::new(
        Parts {
            settings: Settings::default(),
            keys: &keys(),
            cluster: &ClusterName::new("fw").unwrap(),
            name: &NodeName::new(&format!("n{index}")).unwrap(),
            incarnation: Incarnation(incarnation),
            classify: Box::new(ByPort),
            port: OWN_PORT,
        },
        now,
    )
}

fn buckets(range: std::ops::RangeInclusive<u8>) -> BucketSet {
    range.collect()
}

fn tuple(protocol: u8, port: u16) -> Tuple {
    Tuple {
        src: IpAddr::from([10, 0, 0, 2]),
        dst: IpAddr::from([192, 0, 2, 1]),
        protocol,
        src_port: port,
        dst_port: 443,
    }
}

fn udp(port: u16) -> Entry {
    let orig = tuple(UDP, port);
    let reply = orig.inverse().unwrap();
    Entry { orig, reply, status: 0x0e, timeout_s: 120, mark: 0, zone: 0, tcp: None }
}

fn tcp(port: u16, state: u8) -> Entry {
    let orig = tuple(TCP, port);
    let mut reply = orig.inverse().unwrap();
    (reply.dst, reply.dst_port) = (IpAddr::from([192, 0, 2, 100]), 1024 + port % 100);
    let timeout_s = if state == TcpState::Established as u8 { 432_000 } else { 120 };
    let tcp = Some(Tcp { state, scales: 0x77, flags: [3, 3] });
    Entry { orig, reply, status: 0x0e, timeout_s, mark: 5, zone: 0, tcp }
}

const ESTABLISHED: u8 = TcpState::Established as u8;

impl World {
    /// So many machines, which have heard each other; the first owns the lower half, the second the upper one.
    fn new(count: usize) -> Self {
        let mut world = World {
            now: Time::from_nanos(1_000_000_000),
            machines: Vec::new(),
            on_the_wire: Vec::new(),
            recorded: vec![Vec::new(); 8],
            loss_percent: 0,
            repeat_percent: 0,
            delay_max_us: 300,
            chance: 0x9e37_79b9_7f4a_7c15,
        };
        for _ in 0..count {
            world.add();
        }
        world.own(0, buckets(0..=127));
        world.own(1, buckets(128..=255));
        world.run_ms(1500);
        for machine in &world.machines {
            assert!(machine.engine.is_synced(world.now));
        }
        world
    }

    fn add(&mut self) -> usize {
        let index = self.machines.len();
        let mut engine = engine(index, 1, self.now);
        engine.handle_lease(self.now + Duration::from_secs(100_000));
        self.machines.push(Machine {
            engine,
            kernel: BTreeMap::new(),
            hears: true,
            up: true,
            reads_slowly: false,
            is_full: false,
        });
        self.carry_out(index);
        index
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random() % 100 < percent
    }

    fn random(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    fn own(&mut self, index: usize, owned: BucketSet) {
        self.machines[index].engine.handle_owned(self.now, owned);
        self.carry_out(index);
    }

    /// A packet makes, changes or ends an entry of a machine's kernel.
    fn packet(&mut self, index: usize, kind: Kind, entry: Entry) {
        let machine = &mut self.machines[index];
        if kind == Kind::Destroyed {
            machine.kernel.remove(&entry.orig);
        } else {
            machine.kernel.insert(entry.orig, entry);
        }
        if machine.hears {
            machine.engine.handle_event(self.now, &Message { kind, cause: 0, entry, has_mark: true });
            self.carry_out(index);
        }
    }

    fn carry_out(&mut self, index: usize) {
        loop {
            match self.machines[index].engine.poll_output() {
                Output::Timeout(_) => return,
                Output::Send(datagram) => self.multicast(index, datagram),
                Output::Write(write) => self.write(index, &write),
                Output::Dump if self.machines[index].reads_slowly => {}
                Output::Dump => self.read_table(index),
            }
        }
    }

    fn read_table(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        for entry in machine.kernel.values().copied().collect::<Vec<_>>() {
            let message = Message { kind: Kind::Updated, cause: 0, entry, has_mark: false };
            machine.engine.handle_dumped(self.now, &message);
        }
        machine.engine.handle_dump_end();
    }

    fn multicast(&mut self, from: usize, datagram: Vec<u8>) {
        assert!(datagram.len() <= rudel_proto::seal::DATAGRAM_LEN_MAX);
        self.recorded[from].push(datagram.clone());
        for to in 0..self.machines.len() {
            if to == from || !self.machines[from].up {
                continue;
            }
            let copies = 1 + u64::from(self.chance(self.repeat_percent));
            for _ in 0..copies {
                if !self.chance(self.loss_percent) {
                    let delay = Duration::from_micros(50 + self.random() % self.delay_max_us.max(1));
                    self.on_the_wire.push((self.now + delay, to, datagram.clone()));
                }
            }
        }
    }

    /// As the kernel does it; what it makes of its own gives an event whose cause is this process.
    fn write(&mut self, index: usize, write: &Write) {
        let machine = &mut self.machines[index];
        let refused = match write {
            Write::Create(entry) => match machine.kernel.entry(entry.orig) {
                std::collections::btree_map::Entry::Occupied(_) => Some(Errno::EXIST),
                std::collections::btree_map::Entry::Vacant(_) if machine.is_full => Some(Errno::NOMEM),
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(*entry);
                    let message = Message { kind: Kind::New, cause: OWN_PORT, entry: *entry, has_mark: true };
                    machine.engine.handle_event(self.now, &message);
                    None
                }
            },
            Write::Update { orig, status, timeout_s, mark, tcp } => match machine.kernel.get_mut(orig) {
                None => Some(Errno::NOENT),
                Some(entry) => {
                    entry.status |= status;
                    entry.timeout_s = *timeout_s;
                    entry.mark = mark.unwrap_or(entry.mark);
                    if let (Some(old), Some(new)) = (&mut entry.tcp, tcp) {
                        let state = if new.state == 0 { old.state } else { new.state };
                        *old = Tcp { state, flags: new.flags, ..*old };
                    }
                    None
                }
            },
            Write::Delete(orig) => machine.kernel.remove(orig).is_none().then_some(Errno::NOENT),
        };
        if let Some(errno) = refused {
            machine.engine.handle_write_failed(write, errno);
        }
    }

    fn run_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now = self.now + Duration::from_micros(500);
            let now = self.now;
            let (arrived, under_way) =
                std::mem::take(&mut self.on_the_wire).into_iter().partition(|(at, ..)| *at <= now);
            self.on_the_wire = under_way;
            for (_, to, datagram) in arrived {
                if self.machines[to].up {
                    let _ = self.machines[to].engine.handle_datagram(now, &datagram);
                    self.carry_out(to);
                }
            }
            for index in 0..self.machines.len() {
                if self.machines[index].up && self.machines[index].engine.next_timeout() <= now {
                    self.machines[index].engine.handle_timeout(now);
                    self.carry_out(index);
                }
            }
        }
    }

    fn has(&self, index: usize, orig: &Tuple) -> bool {
        self.machines[index].kernel.contains_key(orig)
    }

    fn counts(&self, index: usize) -> Counts {
        self.machines[index].engine.counts()
    }

    /// Every kernel has what the owners' kernels have, and nothing else.
    fn assert_alike(&self) {
        let owned_entries: BTreeMap<Tuple, Tuple> = self
            .machines
            .iter()
            .flat_map(|m| {
                m.kernel.values().filter(|entry| m.engine.owned.contains(entry.orig.src_port as u8))
            })
            .map(|entry| (entry.orig, entry.reply))
            .collect();
        for (index, machine) in self.machines.iter().enumerate() {
            let here: BTreeMap<Tuple, Tuple> =
                machine.kernel.values().map(|entry| (entry.orig, entry.reply)).collect();
            let missing = owned_entries.iter().filter(|(orig, _)| !here.contains_key(orig)).count();
            let surplus = here.keys().filter(|orig| !owned_entries.contains_key(orig)).count();
            assert_eq!(
                (missing, surplus),
                (0, 0),
                "n{index}: missing, surplus; {:?}",
                machine.engine.counts()
            );
            assert!(here == owned_entries, "n{index}: another translation");
        }
    }
}

#[test]
fn a_connection_is_told_when_it_is_old_enough_and_ends_with_its_owners() {
    let mut world = World::new(3);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(90);
    assert!(!world.has(1, &udp(7).orig), "too young");
    world.run_ms(30);
    assert!(world.has(1, &udp(7).orig) && world.has(2, &udp(7).orig));
    world.packet(0, Kind::Destroyed, udp(7));
    world.run_ms(30);
    assert!(!world.has(1, &udp(7).orig) && !world.has(2, &udp(7).orig));
    assert_eq!(world.counts(1).flows_foreign, 0);
}

#[test]
fn what_ends_young_is_never_told() {
    let mut world = World::new(2);
    for port in 0..100 {
        world.packet(0, Kind::New, udp(port));
        world.run_ms(1);
        world.packet(0, Kind::Destroyed, udp(port));
    }
    world.run_ms(300);
    assert_eq!((world.counts(0).records_sent, world.counts(1).records_received), (0, 0));
}

#[test]
fn a_syn_without_answer_is_not_told_and_an_established_connection_is() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, tcp(7, TcpState::SynSent as u8));
    world.run_ms(300);
    assert!(!world.has(1, &tuple(TCP, 7)));
    world.packet(0, Kind::Updated, tcp(7, ESTABLISHED));
    world.run_ms(150);
    assert!(world.has(1, &tuple(TCP, 7)));
}

#[test]
fn a_replica_is_long_lived_and_liberal_and_gets_its_real_timeout_from_its_new_owner() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, tcp(7, ESTABLISHED));
    world.packet(0, Kind::New, udp(8));
    world.run_ms(150);
    let replica = world.machines[1].kernel[&tuple(TCP, 7)];
    assert_eq!(replica.timeout_s, Settings::default().replica_timeout_s);
    assert_eq!(replica.tcp.unwrap().flags, [3 | TCP_LIBERAL; 2]);
    assert_eq!((replica.reply, replica.mark), (tcp(7, ESTABLISHED).reply, 5));
    // n0 dies.
    world.machines[0].up = false;
    world.own(1, BucketSet::ALL);
    world.run_ms(50);
    assert_eq!(world.machines[1].kernel[&tuple(TCP, 7)].timeout_s, 432_000);
    assert_eq!(world.machines[1].kernel[&tuple(UDP, 8)].timeout_s, 120);
}

#[test]
fn a_connection_that_is_over_ends_by_its_own_clock_everywhere() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, tcp(7, ESTABLISHED));
    world.run_ms(150);
    world.packet(0, Kind::Updated, tcp(7, TcpState::TimeWait as u8));
    world.run_ms(150);
    let replica = world.machines[1].kernel[&tuple(TCP, 7)];
    assert_eq!((replica.timeout_s, replica.tcp.unwrap().state), (120, TcpState::TimeWait as u8));
    assert_eq!(world.counts(1).flows_foreign, 0, "nothing to be remembered");
    let sent = world.counts(0).messages_sent;
    world.packet(0, Kind::Destroyed, tcp(7, TcpState::TimeWait as u8));
    world.run_ms(15);
    assert_eq!(world.counts(0).messages_sent, sent, "no word of its end");
    // Its ends are used again while the replica of the old one is still there.
    world.packet(0, Kind::New, tcp(7, ESTABLISHED));
    world.run_ms(150);
    assert_eq!(world.machines[1].kernel[&tuple(TCP, 7)].timeout_s, Settings::default().replica_timeout_s);
}

#[test]
fn another_translation_makes_another_entry() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, tcp(7, ESTABLISHED));
    world.run_ms(150);
    let mut moved = tcp(7, ESTABLISHED);
    moved.reply.dst_port = 9999;
    world.packet(0, Kind::New, moved);
    world.run_ms(150);
    assert_eq!(world.machines[1].kernel[&tuple(TCP, 7)].reply, moved.reply);
}

#[test]
fn what_is_given_up_is_told_to_the_youngest_before_the_claim_is() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, tcp(7, ESTABLISHED));
    world.packet(0, Kind::New, tcp(70, ESTABLISHED));
    world.own(0, buckets(64..=127));
    // One exchange on the wire later the new owner may pass packets.
    world.run_ms(1);
    assert!(world.has(1, &tuple(TCP, 7)), "it was given up and not told");
    assert!(!world.has(1, &tuple(TCP, 70)), "it was kept, and is young");
}

#[test]
fn the_entries_of_who_gives_up_are_liberal_before_it_owns_again() {
    for pause_ms in [0, 50] {
        let mut world = World::new(2);
        world.packet(0, Kind::New, tcp(7, ESTABLISHED));
        world.run_ms(150);
        world.own(0, buckets(64..=127));
        world.run_ms(pause_ms);
        if pause_ms > 0 {
            let given_up = world.machines[0].kernel[&tuple(TCP, 7)];
            assert_eq!(given_up.timeout_s, Settings::default().replica_timeout_s);
        }
        world.own(0, buckets(0..=127));
        let again = world.machines[0].kernel[&tuple(TCP, 7)];
        assert_eq!(again.tcp.unwrap().flags, [3 | TCP_LIBERAL; 2], "after {pause_ms} ms");
        world.run_ms(50);
        assert_eq!(world.machines[0].kernel[&tuple(TCP, 7)].timeout_s, 432_000);
    }
}

#[test]
fn window_checks_are_strict_again_when_packets_have_passed_for_long_enough() {
    let strict =
        |world: &World, port| world.machines[1].kernel[&tuple(TCP, port)].tcp.unwrap().flags == [3; 2];
    let mut world = World::new(2);
    for port in [7, 8] {
        world.packet(0, Kind::New, tcp(port, ESTABLISHED));
    }
    world.packet(1, Kind::New, tcp(200, ESTABLISHED));
    world.run_ms(150);
    // The second loses a connection of its own, and gets it back with those of the first.
    world.own(0, BucketSet::ALL);
    world.own(1, BucketSet::EMPTY);
    world.run_ms(50);
    world.machines[0].up = false;
    world.own(1, BucketSet::ALL);
    for _ in 0..6 {
        world.run_ms(60_000);
        // Packets pass one of them, and give no event.
        for (port, left) in [(7, 432_000), (8, 431_000), (200, 432_000)] {
            world.machines[1].kernel.get_mut(&tuple(TCP, port)).unwrap().timeout_s = left;
        }
        assert!(
            !strict(&world, 8) && !strict(&world, 200),
            "an idle one, and one whose windows are of long ago"
        );
    }
    assert!(strict(&world, 7));
    assert_eq!(world.machines[1].kernel[&tuple(TCP, 7)].timeout_s, 432_000);
}

#[test]
fn a_status_that_the_kernel_will_not_take_back_does_not_stop_the_rest() {
    let mut world = World::new(1 + 1);
    let write = Write::Update { orig: tuple(UDP, 7), status: 0x0a, timeout_s: 9, mark: Some(1), tcp: None };
    let engine = &mut world.machines[1].engine;
    engine.handle_write_failed(&write, Errno::BUSY);
    let again = Write::Update { orig: tuple(UDP, 7), status: 0, timeout_s: 9, mark: Some(1), tcp: None };
    assert_eq!(engine.poll_output(), Output::Write(again));
}

#[test]
fn who_owns_a_bucket_no_longer_ends_nothing_in_it() {
    let mut world = World::new(3);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    // n0 is expired and n1 takes over; n0 hangs, and its entry expires meanwhile.
    world.own(1, BucketSet::ALL);
    world.run_ms(30);
    world.packet(0, Kind::Destroyed, udp(7));
    world.run_ms(100);
    assert!(world.has(1, &udp(7).orig), "the owner's entry is the owner's");
    assert!(world.counts(1).disbelieved > 0);
    // A node whose lease has lapsed does not even say it.
    let mut world = World::new(3);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    world.machines[0].engine.handle_lease(world.now);
    world.own(1, BucketSet::ALL);
    world.packet(0, Kind::Destroyed, udp(7));
    world.run_ms(100);
    assert!(world.has(2, &udp(7).orig));
}

#[test]
fn a_newcomer_is_told_everything() {
    let mut world = World::new(2);
    for port in 0..3000 {
        world.packet(usize::from(port as u8 >= 128), Kind::New, tcp(port, ESTABLISHED));
    }
    world.run_ms(400);
    world.assert_alike();
    let joiner = world.add();
    assert!(world.machines[joiner].kernel.is_empty());
    world.run_ms(1500);
    assert!(world.machines[joiner].engine.is_synced(world.now));
    assert_eq!(world.counts(joiner).transfers_received, 2);
    world.assert_alike();
}

#[test]
fn nothing_is_missing_or_left_over_after_loss_reordering_and_repetition() {
    for seed in 1..=12_u64 {
        let mut world = World::new(3);
        world.chance = seed * 0x9e37_79b9;
        (world.loss_percent, world.repeat_percent, world.delay_max_us) = (20, 10, 4000);
        let mut alive: Vec<Entry> = Vec::new();
        for step in 0..1500_u16 {
            let owner = |entry: &Entry| usize::from(entry.orig.src_port as u8 >= 128);
            if world.chance(60) || alive.is_empty() {
                let entry = if world.chance(50) { udp(step) } else { tcp(step, ESTABLISHED) };
                alive.push(entry);
                world.packet(owner(&entry), Kind::New, entry);
            } else {
                let index = world.random() as usize % alive.len();
                let entry = alive.swap_remove(index);
                world.packet(owner(&entry), Kind::Destroyed, entry);
            }
            world.run_ms(1);
        }
        assert!(world.counts(0).repeated > 0, "nothing was lost, so nothing was tested");
        world.loss_percent = 0;
        world.run_ms(4000);
        world.assert_alike();
    }
}

#[test]
fn a_gap_that_stays_is_healed_by_a_whole_transfer() {
    let mut world = World::new(2);
    for port in 0..500 {
        world.packet(0, Kind::New, udp(port << 8));
    }
    world.run_ms(150);
    // Much happens while the network is cut, more than n0 keeps for those who miss it.
    world.loss_percent = 100;
    for port in 0..250 {
        world.packet(0, Kind::Destroyed, udp(port << 8));
    }
    world.run_ms(200);
    world.machines[0].engine.outbox.forget_kept();
    world.loss_percent = 0;
    world.run_ms(3000);
    assert!(world.counts(1).gaps_skipped > 0);
    assert!(world.counts(1).swept > 0);
    world.assert_alike();
}

#[test]
fn a_bucket_that_went_and_came_back_within_a_transfer_is_not_swept() {
    let mut world = World::new(3);
    for bucket in 0..128 {
        for k in 0..57 {
            world.packet(0, Kind::New, udp(bucket + 256 * k));
        }
    }
    world.run_ms(1000);
    // Slowly: about one bucket in 5 ms.
    world.machines[0].engine.begin_transfer(false);
    world.run_ms(20);
    let one: BucketSet = [64].into_iter().collect();
    world.own(0, buckets(0..=127) - one);
    world.own(1, buckets(128..=255) | one);
    // The transfer passes the bucket over.
    world.run_ms(400);
    world.own(1, buckets(128..=255));
    world.own(0, buckets(0..=127));
    world.run_ms(1000);
    assert!(world.counts(2).transfers_received > 2, "nothing was transferred, so nothing was tested");
    assert_eq!(world.counts(2).swept, 0);
    world.assert_alike();
}

#[test]
fn lost_events_are_counted_and_healed_by_reading_the_whole_table() {
    let mut world = World::new(2);
    for port in [1, 2, 3] {
        world.packet(0, Kind::New, udp(port));
    }
    world.run_ms(150);
    world.machines[0].hears = false;
    world.packet(0, Kind::New, udp(4));
    world.packet(0, Kind::Destroyed, udp(1));
    world.machines[0].hears = true;
    world.machines[0].engine.handle_overrun();
    world.carry_out(0);
    world.run_ms(150);
    assert_eq!(world.counts(0).overruns, 1);
    assert!(world.has(1, &udp(4).orig));
    assert!(!world.has(1, &udp(1).orig));
    world.assert_alike();
}

#[test]
fn what_ends_while_the_table_is_read_stays_ended() {
    let mut world = World::new(2);
    let engine = &mut world.machines[0].engine;
    engine.handle_overrun();
    let shown = Message { kind: Kind::Updated, cause: 0, entry: udp(7), has_mark: false };
    engine.handle_event(world.now, &Message { kind: Kind::Destroyed, ..shown });
    engine.handle_dumped(world.now, &shown);
    engine.handle_dump_end();
    assert_eq!(engine.counts().flows_own, 0);
}

#[test]
fn a_table_that_cannot_be_read_is_read_again_but_not_at_once() {
    let mut world = World::new(2);
    world.machines[0].reads_slowly = true;
    let successor = engine(0, 2, world.now);
    world.machines[0].engine = successor;
    world.machines[0].engine.handle_lease(world.now + Duration::from_secs(100_000));
    world.carry_out(0);
    for failures in 1..=3 {
        assert_eq!(world.counts(0).dumps, failures);
        world.machines[0].engine.handle_dump_failed(world.now);
        world.run_ms(900);
        assert_eq!(world.counts(0).dumps, failures, "without a pause");
        world.run_ms(200);
    }
    world.own(0, buckets(0..=127));
    assert!(!world.machines[0].engine.is_synced(world.now));
    world.read_table(0);
    world.run_ms(1000);
    assert!(world.machines[0].engine.is_synced(world.now) && world.machines[1].engine.is_synced(world.now));
}

#[test]
fn what_an_owner_dropped_without_a_word_ages_out() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    // A rest of an earlier run, in a bucket of another node.
    world.machines[1].kernel.insert(udp(9).orig, udp(9));
    world.machines[0].hears = false;
    world.packet(0, Kind::Destroyed, udp(7));
    world.run_ms(310_000);
    assert!(!world.has(1, &udp(7).orig), "the refresh finds it");
    world.run_ms(310_000);
    assert!(!world.has(1, &udp(9).orig), "so does the one after a dump");
    assert!(world.counts(1).swept > 0);
}

#[test]
fn a_replica_that_vanished_from_the_kernel_is_made_again() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    world.packet(1, Kind::Destroyed, udp(7));
    assert!(!world.has(1, &udp(7).orig));
    world.run_ms(310_000);
    assert!(world.has(1, &udp(7).orig), "its owner has told of it again");
    // Or at the latest when it is needed.
    world.packet(1, Kind::Destroyed, udp(7));
    world.machines[0].up = false;
    world.own(1, BucketSet::ALL);
    world.run_ms(30);
    assert!(world.has(1, &udp(7).orig));
}

#[test]
fn recordings_of_an_earlier_time_are_not_believed() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    world.packet(0, Kind::Destroyed, udp(7));
    world.run_ms(50);
    let recorded = world.recorded[0].clone();
    // To a node that was there.
    for datagram in &recorded {
        let _ = world.machines[1].engine.handle_datagram(world.now, datagram);
        world.carry_out(1);
    }
    assert!(!world.has(1, &udp(7).orig));
    // To one that has just come, before the real one is heard.
    world.machines[0].up = false;
    world.machines[1].up = false;
    let newcomer = world.add();
    for datagram in &recorded {
        let _ = world.machines[newcomer].engine.handle_datagram(world.now, datagram);
        world.carry_out(newcomer);
    }
    assert!(world.machines[newcomer].kernel.is_empty());
    assert!(world.machines[newcomer].engine.peers(world.now).all(|(_, proven, _)| !proven));
}

#[test]
fn a_node_that_starts_again_is_heard_again() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    for incarnation in [1, 2] {
        world.run_ms(100);
        let mut again = engine(0, incarnation, world.now);
        again.handle_lease(world.now + Duration::from_secs(100_000));
        world.machines[0].engine = again;
        world.carry_out(0);
        world.own(0, buckets(0..=127));
        // It finds its own table as it left it.
        world.run_ms(2500);
        let fresh = udp(20 + incarnation as u16);
        world.packet(0, Kind::New, fresh);
        world.run_ms(150);
        assert!(world.has(1, &fresh.orig), "incarnation {incarnation}");
        assert!(world.has(1, &udp(7).orig));
        assert!(
            world.machines[0].engine.is_synced(world.now) && world.machines[1].engine.is_synced(world.now)
        );
    }
    world.assert_alike();
}

#[test]
fn what_its_owners_kernel_has_no_room_for_is_not_told_for_ever() {
    let mut world = World::new(3);
    world.machines[1].is_full = true;
    world.packet(0, Kind::New, udp(5));
    world.run_ms(300);
    assert!(!world.has(1, &udp(5).orig) && world.has(2, &udp(5).orig));
    // Who has refused it gets its bucket, and has to make it.
    world.machines[0].up = false;
    world.own(1, BucketSet::ALL);
    world.run_ms(310_000);
    assert!(!world.has(1, &udp(5).orig) && !world.has(2, &udp(5).orig));
    assert_eq!((world.counts(1).flows_own, world.counts(2).flows_foreign), (0, 0));
    assert!(world.counts(1).write_errors > 0);
}

#[test]
fn an_entry_of_which_the_kernel_refuses_a_change_goes_on() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    let write = Write::Update { orig: udp(7).orig, status: 0, timeout_s: 9, mark: None, tcp: None };
    world.machines[0].engine.handle_write_failed(&write, Errno::PERM);
    world.carry_out(0);
    world.run_ms(50);
    assert!(world.has(1, &udp(7).orig));
    world.machines[0].hears = false;
    world.packet(0, Kind::Destroyed, udp(7));
    world.run_ms(310_000);
    assert!(!world.has(1, &udp(7).orig), "it is missed like any other");
}

#[test]
fn who_goes_on_with_a_share_calls_nothing_all_before_it_has_read_its_table() {
    let mut world = World::new(2);
    for port in 0..100 {
        world.packet(0, Kind::New, udp(port));
    }
    world.run_ms(200);
    let mut successor = engine(0, 1, world.now);
    successor.handle_lease(world.now + Duration::from_secs(100_000));
    world.machines[0].engine = successor;
    world.machines[0].reads_slowly = true;
    world.carry_out(0);
    world.own(0, buckets(0..=127));
    // Its peer asks for everything long before that.
    world.run_ms(3000);
    assert!(!world.machines[0].engine.is_synced(world.now));
    for port in 0..100 {
        assert!(world.has(1, &udp(port).orig), "{port} was believed to be gone");
    }
    assert_eq!(world.counts(1).swept, 0);
    world.packet(0, Kind::Destroyed, udp(5));
    world.read_table(0);
    world.run_ms(1000);
    assert!(!world.has(1, &udp(5).orig));
    assert!(world.machines[0].engine.is_synced(world.now) && world.machines[1].engine.is_synced(world.now));
    world.assert_alike();
}

#[test]
fn a_run_that_gets_a_higher_number_is_believed_again() {
    let mut world = World::new(2);
    // The second has forgotten how often it has run; the first remembers.
    let mut forgetful = engine(1, 0, world.now);
    forgetful.handle_lease(world.now + Duration::from_secs(100_000));
    world.machines[1].engine = forgetful;
    world.carry_out(1);
    world.own(1, buckets(128..=255));
    world.packet(1, Kind::New, udp(200));
    world.run_ms(2000);
    assert!(!world.has(0, &udp(200).orig), "a former run is not believed");
    world.machines[1].engine.handle_incarnation(world.now, Incarnation(2));
    world.run_ms(2000);
    assert!(world.has(0, &udp(200).orig));
    world.packet(1, Kind::New, udp(201));
    world.run_ms(200);
    world.assert_alike();
}

#[test]
fn no_batch_is_larger_than_the_limit_and_nothing_is_forgotten() {
    let mut world = World::new(2);
    for port in 0..20_000 {
        world.packet(0, Kind::New, udp(port & 0x7f | (port >> 7) << 8));
    }
    let mut sent = world.counts(0).messages_sent;
    for _ in 0..60 {
        world.run_ms(5);
        let made = world.counts(0).messages_sent - sent;
        // A batch more where two fall into one look, and a beat.
        assert!(made <= 42, "{made} datagrams in 5 ms");
        sent += made;
    }
    world.run_ms(1000);
    world.assert_alike();
}

#[test]
fn what_was_there_before_this_node_owned_anything_is_told_too() {
    let mut world = World::new(2);
    // A daemon that starts again finds its connections, and later owns their buckets again.
    world.machines[0].kernel.insert(udp(7).orig, udp(7));
    world.machines[0].engine = engine(0, 2, world.now);
    world.machines[0].engine.handle_lease(world.now + Duration::from_secs(100_000));
    world.carry_out(0);
    // The other one has been told of all that there is, which is nothing.
    world.run_ms(1500);
    world.own(0, buckets(0..=127));
    world.run_ms(50);
    assert!(world.has(1, &udp(7).orig));
}

#[test]
fn what_passes_before_a_move_is_known_is_told_with_it() {
    let mut world = World::new(3);
    // The filters did not wait: they pass what the engines do not know to have moved.
    let early = |world: &mut World, port: u16| {
        world.packet(0, Kind::New, udp(200 + port));
        world.packet(0, Kind::New, udp(210 + port));
    };
    early(&mut world, 0);
    world.packet(0, Kind::Destroyed, udp(210));
    world.own(1, buckets(128..=199));
    world.own(0, buckets(0..=127) | buckets(200..=255));
    world.run_ms(150);
    assert!(world.has(1, &udp(200).orig) && world.has(2, &udp(200).orig));
    assert!(!world.has(0, &udp(210).orig), "what has ended is not made again");

    // Longer than anything is young.
    world.own(0, buckets(0..=127));
    early(&mut world, 1);
    world.run_ms(200);
    assert!(!world.has(2, &udp(201).orig), "who does not own it does not speak of it");
    world.packet(0, Kind::Destroyed, udp(211));
    world.own(0, buckets(0..=127) | buckets(200..=255));
    world.run_ms(50);
    assert!(world.has(1, &udp(201).orig) && world.has(2, &udp(201).orig));
    assert!(!world.has(0, &udp(211).orig));
    assert!(!world.has(1, &udp(211).orig));
}

#[test]
fn what_is_made_while_the_table_is_read_has_not_ended() {
    let mut world = World::new(3);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    // Its replica has vanished, and is made when it is needed: behind the place that is being read.
    world.packet(1, Kind::Destroyed, udp(7));
    world.machines[1].reads_slowly = true;
    world.machines[1].engine.handle_overrun();
    world.carry_out(1);
    world.machines[0].up = false;
    world.own(1, BucketSet::ALL);
    world.run_ms(50);
    world.machines[1].engine.handle_dump_end();
    world.carry_out(1);
    world.run_ms(50);
    assert_eq!(world.counts(1).flows_own, 1);
    assert!(world.has(1, &udp(7).orig) && world.has(2, &udp(7).orig));
}

#[test]
fn own_changes_are_not_told_back() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    world.machines[0].up = false;
    world.own(1, BucketSet::ALL);
    world.run_ms(200);
    assert_eq!(world.counts(1).records_sent, 0);
    assert_eq!(world.counts(1).events, 0);
}

/// As [`ByPort`], on a node that has this address.
struct Except(IpAddr);

impl Classify for Except {
    fn bucket(&self, entry: &Entry) -> Option<u8> {
        ByPort.bucket(entry).filter(|_| entry.orig.dst != self.0)
    }
}

#[test]
fn what_ends_at_an_address_that_its_owner_gets_is_shared_no_more() {
    let mut world = World::new(3);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    world.machines[0].engine.handle_classification(Box::new(Except(udp(7).orig.dst)));
    world.carry_out(0);
    world.run_ms(50);
    assert!(world.has(0, &udp(7).orig) && !world.has(1, &udp(7).orig) && !world.has(2, &udp(7).orig));
    assert_eq!((world.counts(0).flows_own, world.counts(1).flows_foreign), (0, 0));
    // And is forwarded again.
    world.machines[0].engine.handle_classification(Box::new(ByPort));
    world.carry_out(0);
    world.run_ms(50);
    world.assert_alike();
}

#[test]
fn nobody_has_replicas_of_what_ends_at_its_own_addresses() {
    let mut world = World::new(3);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    world.machines[1].engine.handle_classification(Box::new(Except(udp(7).orig.dst)));
    world.carry_out(1);
    assert!(!world.has(1, &udp(7).orig) && world.has(2, &udp(7).orig));
    // Its own entry for it is left alone, however often its owner tells.
    world.packet(1, Kind::New, Entry { mark: 99, ..udp(7) });
    world.run_ms(620_000);
    assert_eq!(world.machines[1].kernel[&udp(7).orig].mark, 99);
    assert_eq!((world.counts(1).flows_foreign, world.counts(1).write_errors), (0, 0));
}

#[test]
fn zones_are_left_alone() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, Entry { zone: 3, ..udp(7) });
    world.run_ms(150);
    assert_eq!(world.counts(0).flows_own, 0);
    assert!(!world.has(1, &udp(7).orig));
}

#[test]
fn who_leaves_takes_its_replicas_along_and_leaves_its_own() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.packet(1, Kind::New, udp(200));
    world.run_ms(150);
    world.machines[1].engine.forget_replicas();
    world.carry_out(1);
    assert!(!world.has(1, &udp(7).orig) && world.has(1, &udp(200).orig));
}

#[test]
fn what_makes_no_sense_is_rejected_and_changes_nothing() {
    let mut world = World::new(2);
    let sealer = |name: &str, channel| {
        let (cluster, name) = (ClusterName::new("fw").unwrap(), NodeName::new(name).unwrap());
        Sealer::for_channel(channel, &keys(), &cluster, &name, Incarnation(9))
    };
    let engine = &mut world.machines[1].engine;
    let reason = |engine: &mut Engine, datagram: &[u8]| {
        engine.handle_datagram(world.now, datagram).unwrap_err().reason()
    };
    assert_eq!(reason(engine, &sealer("n0", Channel::State).seal(1, &[99])), "malformed");
    assert_eq!(reason(engine, &sealer("n0", Channel::Membership).seal(1, &[])), "foreign");
    assert_eq!(reason(engine, &sealer("n1", Channel::State).seal(1, &[])), "duplicate_name");
    assert_eq!(engine.peers(world.now).count(), 1);
    world.packet(0, Kind::New, udp(7));
    world.run_ms(150);
    assert!(world.has(1, &udp(7).orig));
}
