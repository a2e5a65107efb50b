//! R6.5 in whole clusters: what servers that fail cost, here or everywhere.

use std::time::Duration;

use rudel_proto::Command;
use rudel_proto::id::ViewId;
use rudel_proto::share::Owners;
use rudel_sim::cluster::{Cluster, ms};
use rudel_sim::network::Weather;
use rudel_sim::{Asking, Server, Settings};

const ASKING: Asking = Asking { interval: ms(1000), timeout: ms(500), rise: 2, fall: 2 };

fn cluster(nodes: usize, seed: u64) -> Cluster {
    Cluster::of(Settings { asking: Some(ASKING), seed, ..Settings::new(nodes) })
}

fn all(t: &mut Cluster, server: Server) {
    for node in 0..t.len() {
        t.node(node).server(server);
    }
}

fn view(t: &mut Cluster) -> (ViewId, Owners) {
    let view = t.node(0).machine().view().expect("a view").clone();
    (view.id, view.owners)
}

fn verdicts(t: &mut Cluster) -> Vec<bool> {
    (0..t.len()).map(|node| t.node(node).machine().status(Default::default()).healthy).collect()
}

/// Lets time pass in small steps, and requires that nothing at all changes in it.
fn nothing_changes(t: &mut Cluster, span: Duration) {
    let before = (view(t), t.shares());
    for _ in 0..span.as_millis() / 50 {
        t.run(ms(50));
        let now = view(t);
        assert_eq!((now.0, t.shares()), (before.0.0, before.1.clone()), "at {}", t.world().now());
        assert!(now.1 == before.0.1);
    }
}

#[test]
fn a_server_that_fails_on_all_nodes_moves_nothing_when_it_stops_nor_when_it_comes_back() {
    for server in [Server::Down, Server::Hangs] {
        for nodes in [2, 3, 5, 8] {
            for seed in 0..20 {
                let mut t = cluster(nodes, seed);
                t.run(ms(37 * seed));
                all(&mut t, server);
                nothing_changes(&mut t, ms(6000));
                assert!(verdicts(&mut t).iter().all(|good| !good), "{server:?}: all of them know");
                all(&mut t, Server::Up);
                nothing_changes(&mut t, ms(6000));
                assert!(verdicts(&mut t).iter().all(|good| *good));
            }
        }
    }
}

#[test]
fn the_same_where_a_tenth_of_the_datagrams_is_lost() {
    for seed in 0..10 {
        let mut t = cluster(4, seed);
        t.weather(Weather { loss: 100_000, ..Weather::CLEAR });
        t.run(ms(2000));
        all(&mut t, Server::Hangs);
        let before = t.shares();
        t.run(ms(6000));
        assert_eq!(t.shares(), before, "seed {seed}");
        all(&mut t, Server::Up);
        t.run(ms(6000));
        assert_eq!(t.shares(), before, "seed {seed}");
    }
}

#[test]
fn a_server_that_fails_on_one_node_costs_it_its_share_within_interval_times_fall() {
    for (server, bound) in [(Server::Down, 2010), (Server::Hangs, 2510)] {
        for seed in 0..20 {
            let mut t = cluster(3, seed);
            t.run(ms(61 * seed));
            t.node(1).server(server);
            t.run(ms(bound));
            assert_eq!(t.shares(), [128, 0, 128], "seed {seed} {server:?}");
            t.node(1).server(Server::Up);
            t.run(ms(bound));
            let shares = t.shares();
            assert!(shares.iter().all(|share| [85, 86].contains(share)), "seed {seed}: {shares:?}");
        }
    }
}

#[test]
fn what_comes_back_on_one_node_goes_there() {
    let mut t = cluster(3, 1);
    all(&mut t, Server::Down);
    nothing_changes(&mut t, ms(5000));
    t.node(2).server(Server::Up);
    t.run(ms(2500));
    assert_eq!(t.shares(), [0, 0, 256]);
    all(&mut t, Server::Up);
    t.run(ms(2500));
    assert_eq!(t.shares().iter().sum::<usize>(), 256);
    assert!(t.shares().iter().all(|share| [85, 86].contains(share)), "{:?}", t.shares());
}

#[test]
fn nodes_that_start_while_no_server_is_up_share_evenly_and_keep_that_when_the_servers_come() {
    let mut t = Cluster::cold(Settings { asking: Some(ASKING), ..Settings::new(3) });
    all(&mut t, Server::Down);
    for node in 0..3 {
        t.node(node).start();
        t.run(ms(70));
    }
    t.run(ms(4000));
    assert_eq!(t.shares().iter().sum::<usize>(), 256);
    assert!(t.shares().iter().all(|share| [85, 86].contains(share)), "{:?}", t.shares());
    all(&mut t, Server::Up);
    nothing_changes(&mut t, ms(5000));
}

#[test]
fn the_only_node_that_wants_a_share_keeps_it_however_ill_it_is() {
    let mut t = Cluster::of(Settings { weights: vec![100, 0], ..Settings::new(2) });
    assert_eq!(t.shares(), [256, 0]);
    t.node(0).command(Command::Healthy(false));
    t.rest();
    assert_eq!(t.shares(), [256, 0]);
    t.node(0).command(Command::Healthy(true));
    t.rest();
    assert_eq!(t.shares(), [256, 0]);
}
