//! The table of `docs/partitions.md`, row by row: who serves when the network breaks.
//!
//! Safety is checked by the world at every step; here stands what an administrator is promised beyond it.

use std::time::Duration;

use rudel_sim::Settings;
use rudel_sim::cluster::{Cluster, ms};

const T: Duration = ms(400);
const ALL: usize = 256;

fn cluster(quorum: usize, weights: &[u16]) -> Cluster {
    Cluster::of(Settings { quorum, weights: weights.to_vec(), ..Settings::new(weights.len()) })
}

/// What each node's kernel passes once the dust has settled.
fn shares(t: &mut Cluster) -> Vec<usize> {
    t.run(8 * T);
    t.shares()
}

/// Shares of equal nodes: `owners` of them serve everything between them, to within one bucket.
fn assert_shared(shares: &[usize], owners: &[usize]) {
    for (node, share) in shares.iter().enumerate() {
        let expected = if owners.contains(&node) { ALL / owners.len() } else { 0 };
        assert!((expected..=expected + 1).contains(share), "{shares:?}, expected of {owners:?}");
    }
    assert_eq!(shares.iter().sum::<usize>(), if owners.is_empty() { 0 } else { ALL });
}

#[test]
fn two_nodes_with_quorum_1() {
    let mut t = cluster(1, &[100, 100]);
    t.node(0).power_off();
    assert_shared(&shares(&mut t), &[1]);

    let mut t = cluster(1, &[100, 100]);
    t.cut(0, 1);
    assert_eq!(shares(&mut t), [ALL, ALL]);
    t.heal().rest();
    assert_eq!(t.shares(), [128, 128]);
}

#[test]
fn two_nodes_with_quorum_2() {
    let mut t = cluster(2, &[100, 100]);
    t.node(0).power_off();
    assert_shared(&shares(&mut t), &[]);

    let mut t = cluster(2, &[100, 100]);
    t.cut(0, 1);
    assert_shared(&shares(&mut t), &[]);
    t.heal().rest();
    assert_eq!(t.shares(), [128, 128]);
}

#[test]
fn two_nodes_and_a_witness() {
    let pair = || cluster(2, &[100, 100, 0]);
    let mut t = pair();
    t.node(0).power_off();
    assert_shared(&shares(&mut t), &[1]);

    let mut t = pair();
    let before = t.node(0).passes();
    t.node(2).power_off();
    assert_shared(&shares(&mut t), &[0, 1]);
    assert_eq!(t.node(0).passes(), before);

    let mut t = pair();
    t.split(&[0, 1, 1]);
    assert_shared(&shares(&mut t), &[1]);

    let mut t = pair();
    t.split(&[0, 1, 2]);
    assert_shared(&shares(&mut t), &[]);
    t.heal().rest();
    assert_eq!(t.shares(), [128, 128, 0]);
}

#[test]
fn three_nodes_with_quorum_1() {
    let mut t = cluster(1, &[100; 3]);
    t.split(&[0, 1, 1]);
    assert_eq!(shares(&mut t), [ALL, 128, 128]);
}

#[test]
fn three_nodes_with_quorum_2() {
    let mut t = cluster(2, &[100; 3]);
    t.node(1).power_off();
    assert_shared(&shares(&mut t), &[0, 2]);

    let mut t = cluster(2, &[100; 3]);
    t.split(&[0, 1, 0]);
    assert_shared(&shares(&mut t), &[0, 2]);

    let mut t = cluster(2, &[100; 3]);
    t.node(0).power_off();
    t.node(1).power_off();
    assert_shared(&shares(&mut t), &[]);
}

#[test]
fn five_nodes_with_quorum_3() {
    let five = || cluster(3, &[100; 5]);
    let mut t = five();
    t.node(0).power_off();
    t.node(4).power_off();
    assert_shared(&shares(&mut t), &[1, 2, 3]);

    let mut t = five();
    t.split(&[0, 1, 0, 1, 0]);
    assert_shared(&shares(&mut t), &[0, 2, 4]);

    let mut t = five();
    for node in 0..3 {
        t.node(node).power_off();
    }
    assert_shared(&shares(&mut t), &[]);
}

/// The majority's buckets stay where they are when a minority of one comes back, whoever coordinates.
#[test]
fn healing_disturbs_the_majority_no_more_than_a_join() {
    for lone in 0..3 {
        let mut t = cluster(1, &[100; 3]);
        let groups: Vec<usize> = (0..3).map(|node| usize::from(node == lone)).collect();
        t.split(&groups).run(8 * T);
        let others: Vec<usize> = (0..3).filter(|node| *node != lone).collect();
        let before: Vec<_> = others.iter().map(|node| t.node(*node).passes()).collect();
        t.heal().rest();
        for (node, before) in others.iter().zip(before) {
            let after = t.node(*node).passes();
            assert!((after - before).is_empty(), "{node} took over {:?} from another", after - before);
        }
    }
}

#[test]
fn with_three_nodes_a_one_way_link_makes_no_second_owner() {
    let mut t = cluster(1, &[100; 3]);
    t.one_way(0, 1);
    let shares = shares(&mut t);
    assert_eq!(shares.iter().sum::<usize>(), ALL, "{shares:?}");
}
