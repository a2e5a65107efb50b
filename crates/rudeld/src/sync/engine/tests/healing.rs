//! Loss, newcomers, restarts, and kernels that refuse: all have everything again.

use super::world::*;
use super::*;

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
