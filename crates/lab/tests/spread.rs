//! Who answers: shares, hash modes, and whether the tool tells the truth about them.
//!
//! ```text
//!    n1        n2        n3   ...  n8      one cluster: 10.74.0.10 and fd74::10,
//!    │         │         │         │       HTTP on ports 80-95, DNS on 53
//!  ──┴─────────┴── br0 ──┴─────────┴──
//!                   │
//!                   c1                     asks from 10.100.0.0/16 and fd75:1::/32
//! ```

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;

use common::{at, cluster, dns, https, ms, prober, root};
use rudel_lab::probe::Audit;
use rudel_lab::{Lab, Settings, VIP4, VIP6, status};

/// How far the flows that a node answers may be from its share of the buckets.
const TOLERANCE: f64 = 0.05;

fn hashing(hash: &str) -> Lab {
    cluster(3, Settings { hash: hash.to_owned(), ..Settings::default() })
}

/// Ports and hosts: `hosts` addresses of network `net`, each with `ports` ports from 20000 on.
fn sources(lab: &Lab, vip: IpAddr, net: u8, hosts: u16, ports: u16) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for port in 20_000..20_000 + ports {
        for host in 0..hosts {
            found.push(at(lab.client().source(vip, net, u8::try_from(host).expect("a host number")), port));
        }
    }
    found
}

fn to(sources: &[SocketAddr], target: SocketAddr) -> Vec<(SocketAddr, SocketAddr)> {
    sources.iter().map(|source| (*source, target)).collect()
}

fn distinct(nodes: &[String]) -> BTreeSet<&str> {
    nodes.iter().map(String::as_str).collect()
}

fn assert_shares(what: &str, nodes: &[String], buckets: &BTreeMap<String, usize>) {
    for (node, count) in buckets {
        let share = *count as f64 / 256.0;
        let part = nodes.iter().filter(|n| *n == node).count() as f64 / nodes.len() as f64;
        assert!((part - share).abs() <= TOLERANCE, "{what}: {node} owns {share:.3} and answered {part:.3}");
    }
}

#[test]
fn three_nodes_share_http_and_dns_over_both_families() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let buckets = status::counts(&lab.wait_at_rest(&["n1", "n2", "n3"]).expect("at rest"));
    for vip in [VIP4, VIP6] {
        let sources = sources(&lab, vip, 1, 256, 8);
        let first = https(&lab, &to(&sources, at(vip, 80)));
        assert_shares(&format!("HTTP on {vip}"), &first, &buckets);
        // The same flows once more: each goes where it went.
        assert_eq!(first, https(&lab, &to(&sources, at(vip, 80))), "a flow was served by two nodes");

        let audit = Audit { sources, target: at(vip, 53), rounds: 3, round: ms(300), grace: ms(500) };
        let tally = audit.run(lab.client().namespace(), &AtomicBool::new(false)).expect("a tally");
        assert_eq!(tally.repeated, [], "answered twice");
        assert_eq!(tally.unanswered, 0, "of {} queries", tally.sent);
        assert!(tally.flows.iter().all(|nodes| nodes.len() == 1), "a flow was served by two nodes");
        assert_shares(&format!("DNS on {vip}"), &tally.flows.concat(), &buckets);
    }
}

#[test]
fn eight_nodes_form_one_view() {
    let Some(_serial) = root() else { return };
    let names = ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"];
    let mut lab = cluster(8, Settings::default());
    let owners = lab.wait_at_rest(&names).expect("at rest");
    assert!(status::counts(&owners).values().all(|count| *count == 32));
    let views: BTreeSet<String> =
        names.iter().map(|n| format!("{:?}", lab.node(n).status().expect("a status").view())).collect();
    assert_eq!(views.len(), 1, "{views:?}");
    let nodes = https(&lab, &to(&sources(&lab, VIP4, 1, 256, 2), at(VIP4, 80)));
    assert_eq!(distinct(&nodes).len(), 8);
}

#[test]
fn source_ip_keeps_a_host_together() {
    let Some(_serial) = root() else { return };
    let lab = hashing("source-ip");
    for vip in [VIP4, VIP6] {
        let nodes = https(&lab, &to(&sources(&lab, vip, 1, 32, 8), at(vip, 80)));
        for host in 0..32 {
            let of_host: Vec<String> = nodes.iter().skip(host).step_by(32).cloned().collect();
            assert_eq!(distinct(&of_host).len(), 1, "host {host} of {vip}: {of_host:?}");
        }
        assert_eq!(distinct(&nodes).len(), 3, "32 hosts spread over all nodes");
    }
}

#[test]
fn source_ip_port_spreads_a_host_and_ignores_the_destination_port() {
    let Some(_serial) = root() else { return };
    let lab = hashing("source-ip-port");
    for vip in [VIP4, VIP6] {
        let sources = sources(&lab, vip, 1, 1, 48);
        let nodes = https(&lab, &to(&sources, at(vip, 80)));
        assert_eq!(distinct(&nodes).len(), 3, "48 ports of one host spread over all nodes");
        for port in [81, 88, 95] {
            assert_eq!(nodes, https(&lab, &to(&sources, at(vip, port))), "port {port} differs from port 80");
        }
        // The protocol is no part of it either.
        assert_eq!(nodes, dns(&lab, &to(&sources, at(vip, 53))), "DNS differs from HTTP");
    }
}

#[test]
fn source_ip_port_dest_port_spreads_one_source_port() {
    let Some(_serial) = root() else { return };
    let lab = hashing("source-ip-port-dest-port");
    for vip in [VIP4, VIP6] {
        // A few sources, as 16 destination ports alone leave out a node now and then.
        for source in sources(&lab, vip, 1, 4, 1) {
            let flows: Vec<_> = (80..=95).map(|port| (source, at(vip, port))).collect();
            let nodes = https(&lab, &flows);
            assert!(distinct(&nodes).len() >= 2, "{source}: {nodes:?}");
            assert_eq!(nodes, https(&lab, &flows), "a flow was served by two nodes");
        }
    }
}

#[test]
fn source_net_keeps_a_network_together() {
    let Some(_serial) = root() else { return };
    let lab = hashing("source-net");
    for vip in [VIP4, VIP6] {
        let mut seen = Vec::new();
        for net in 0..32 {
            let nodes = https(&lab, &to(&sources(&lab, vip, net, 8, 1), at(vip, 80)));
            assert_eq!(distinct(&nodes).len(), 1, "network {net} of {vip}: {nodes:?}");
            seen.extend(nodes);
        }
        assert_eq!(distinct(&seen).len(), 3, "32 networks spread over all nodes");
    }
}

#[test]
fn none_is_an_active_and_standby_pair() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder()
        .nodes(3)
        .settings(Settings { hash: "none".to_owned(), ..Settings::default() })
        .build()
        .expect("a lab");
    lab.start().expect("a cluster");
    let mut all = Vec::new();
    for vip in [VIP4, VIP6] {
        all.extend(https(&lab, &to(&sources(&lab, vip, 1, 64, 2), at(vip, 80))));
        all.extend(dns(&lab, &to(&sources(&lab, vip, 2, 64, 1), at(vip, 53))));
    }
    assert_eq!(distinct(&all).len(), 1, "one node answers everything");

    let active = all[0].clone();
    let others: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|n| *n != active).collect();
    lab.power_off(&active).expect("off");
    lab.wait_at_rest(&others).expect("the others take over");
    let after = https(&lab, &to(&sources(&lab, VIP4, 1, 32, 1), at(VIP4, 80)));
    assert_eq!(distinct(&after).len(), 1, "again one node answers everything");
    assert!(others.contains(&after[0].as_str()));
}

/// The address of an active and standby pair moves when its node is lost, and at no other time: nobody who comes, or comes
/// back, takes it away.
#[test]
fn none_stays_where_it_is_when_nodes_join() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(2, Settings { hash: "none".to_owned(), ..Settings::default() });
    let flow = (at(lab.client().source(VIP4, 1, 1), 20_000), at(VIP4, 80));
    let active = https(&lab, &[flow]).remove(0);
    let probing = prober(&lab);
    for names in [&["n1", "n2", "n3"][..], &["n1", "n2", "n3", "n4"]] {
        let node = lab.add_node().expect("another node");
        node.start_services().expect("servers");
        node.start_daemon().expect("a daemon");
        lab.wait_at_rest(names).expect("it joins");
        probing.wait_answers(250).expect("answers");
    }
    let report = probing.finish().expect("a report");
    assert!(report.failed().is_empty(), "{}", report.failures());
    assert_eq!(report.per_node().into_keys().collect::<Vec<_>>(), vec![active.clone()]);

    lab.power_off(&active).expect("off");
    let left: Vec<&str> = ["n1", "n2", "n3", "n4"].into_iter().filter(|name| *name != active).collect();
    lab.wait_at_rest(&left).expect("the others go on");
    let heir = https(&lab, &[flow]).remove(0);
    let probing = prober(&lab);
    lab.power_on(&active).expect("on");
    lab.wait_at_rest(&["n1", "n2", "n3", "n4"]).expect("it is back");
    probing.wait_answers(250).expect("answers");
    let report = probing.finish().expect("a report");
    assert!(report.failed().is_empty(), "{}", report.failures());
    assert_eq!(report.per_node().into_keys().collect::<Vec<_>>(), [heir]);
}

#[test]
fn why_names_the_node_that_answers() {
    let Some(_serial) = root() else { return };
    let lab = cluster(3, Settings::default());
    let mut told = 0;
    for (protocol, port) in [("tcp", 80), ("udp", 53)] {
        for vip in [VIP4, VIP6] {
            // Fifty flows that have nothing in common.
            let sources: Vec<SocketAddr> = (0..50_u16)
                .map(|i| {
                    let (net, host) = ((i * 37 % 256) as u8, (i * 101 % 256) as u8);
                    at(lab.client().source(vip, net, host), 1024 + i * 1237)
                })
                .collect();
            let flows = to(&sources, at(vip, port));
            let answered = if protocol == "tcp" { https(&lab, &flows) } else { dns(&lab, &flows) };
            for ((source, target), node) in flows.iter().zip(answered) {
                let words = ["why", protocol, &source.to_string(), &target.to_string()];
                // Any node knows.
                let asked = ["n1", "n2", "n3"][told % 3];
                let text = lab.node(asked).rudel(&words).unwrap_or_else(|e| panic!("{words:?}: {e:#}"));
                assert_eq!(first_node_in(&text), Some(node), "{words:?} on {asked}: {text}");
                told += 1;
            }
        }
    }
    assert_eq!(told, 200);
}

/// The node that an explanation names first; the events that it tells may name others.
fn first_node_in(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .find(|w| ["n1", "n2", "n3"].contains(w))
        .map(str::to_owned)
}
