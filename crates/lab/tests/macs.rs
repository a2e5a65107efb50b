//! The cluster MAC in all its forms: every form is believed by a client, reaches every node, and is answered by one.
//!
//! ```text
//!    n1        n2        n3       all take frames to the cluster MAC, which no port of the switch ever owns:
//!    │         │         │        03:bf:0a:4a:00:0a  multicast     02:bf:0a:4a:00:0a  unicast
//!  ──┴─────────┴── br0 ──┴──      01:00:5e:7f:00:0a  igmp          03:00:c0:ff:ee:74  explicit
//!                   │
//!                   c1            10.74.0.10, fd74::10  lladdr (one of these)
//! ```

mod common;

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

use common::{at, cluster, https, ms, root};
use rudel_lab::probe::Audit;
use rudel_lab::{Lab, Settings, VIP4, VIP6};

fn serves_under(mac: &str, expected: &str) {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings { mac: mac.to_owned(), ..Settings::default() });
    assert_every_question_has_one_answer(&lab, expected);
    // The node that told the MAC dies, and the MAC is asked for again.
    lab.power_off("n1").expect("off");
    lab.wait_at_rest(&["n2", "n3"]).expect("the others go on");
    lab.client().forget_neighbours().expect("forgotten");
    assert_every_question_has_one_answer(&lab, expected);
}

fn assert_every_question_has_one_answer(lab: &Lab, expected: &str) {
    for vip in [VIP4, VIP6] {
        let sources: Vec<SocketAddr> =
            (0..=255).map(|host| at(lab.client().source(vip, 1, host), 21_000)).collect();
        let flows: Vec<_> = sources.iter().map(|source| (*source, at(vip, 80))).collect();
        let before = requests(lab);
        let http = https(lab, &flows);
        assert_eq!(requests(lab) - before, flows.len(), "each request to {vip} is served once");

        let audit = Audit { sources, target: at(vip, 53), rounds: 2, round: ms(300), grace: ms(500) };
        let tally = audit.run(lab.client().namespace(), &AtomicBool::new(false)).expect("a tally");
        assert_eq!(tally.repeated, [], "answered twice by {vip}");
        assert_eq!(tally.unanswered, 0, "of {} queries to {vip}", tally.sent);
        let dns: Vec<String> = tally.flows.concat();
        assert_eq!(dns, http, "HTTP and DNS of one source go to one node");

        let neighbour = lab.client().neighbour(vip).expect("the neighbours");
        assert_eq!(neighbour.as_deref(), Some(expected), "the MAC of {vip}");
    }
}

/// Requests that the HTTP servers of all nodes have served so far.
fn requests(lab: &Lab) -> usize {
    lab.nodes().iter().map(|node| node.access_log().lines().count()).sum()
}

#[test]
fn a_multicast_mac_made_of_the_address() {
    serves_under("multicast", "03:bf:0a:4a:00:0a");
}

#[test]
fn the_mac_of_a_multicast_group() {
    serves_under("igmp", "01:00:5e:7f:00:0a");
}

#[test]
fn a_unicast_mac_that_nobody_owns() {
    serves_under("unicast", "02:bf:0a:4a:00:0a");
}

#[test]
fn an_explicit_mac() {
    serves_under("03:00:c0:ff:ee:74", "03:00:c0:ff:ee:74");
}
