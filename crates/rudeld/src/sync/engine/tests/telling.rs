//! What is told, when, and to whom.

use super::world::*;
use super::*;

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
