//! Buckets that come and go, and the window checks of what comes with them.

use super::world::*;
use super::*;

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
fn who_leaves_takes_its_replicas_along_and_leaves_its_own() {
    let mut world = World::new(2);
    world.packet(0, Kind::New, udp(7));
    world.packet(1, Kind::New, udp(200));
    world.run_ms(150);
    world.machines[1].engine.forget_replicas();
    world.carry_out(1);
    assert!(!world.has(1, &udp(7).orig) && world.has(1, &udp(200).orig));
}
