//! Routers that share their connections: what goes through the cluster goes on, whatever becomes of the node that has it.
//!
//! ```text
//!   c1 ── br0 ── n1 n2 n3 ── br1 ── h1        (crates/lab/src/router.rs)
//! ```

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{at, ms, root, second};
use rudel_lab::router::Router;
use rudel_lab::traffic::{Echoes, Kind, Lane, Outcome, Traffic, quantile};
use rudel_lab::{Lab, Settings, wait_until};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 9100;
const NAT: &str = "address = [\"10.74.0.10\", \"fd74::10\"]\ninside = [\"10.0.0.0/8\", \"fd00::/8\"]\n";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Where traffic goes to: a host outside, by both families.
fn targets() -> [SocketAddr; 2] {
    [at(ip("10.100.0.1"), PORT), at(ip("fd75:1::1"), PORT)]
}

/// Three routers that share their connections.
fn cluster(nat: &str) -> Lab {
    let router = Router { nat: nat.to_owned(), sync: true, ..Router::default() };
    let settings =
        Settings { hash: "source-ip-port".to_owned(), router: Some(router), ..Settings::default() };
    let lab = common::cluster(3, settings);
    // Everybody may ping, and not root alone by a raw socket.
    lab.host_behind("h1")
        .namespace()
        .sysctl(&[("net.ipv4.ping_group_range", "0 2147483647")])
        .expect("a setting");
    lab
}

/// Flows from inside, of both families.
fn lanes(lab: &Lab, kind: Kind, count: u16, every: Duration) -> Vec<Lane> {
    let host = lab.host_behind("h1");
    let number = match kind {
        Kind::Stream(block) => 1000 + (block / 256) as u16,
        Kind::Datagrams => 2000,
        Kind::Pings => 3000,
    };
    let lane = |index: u16| {
        let target = targets()[usize::from(index % 2)];
        Lane { kind, source: at(host.source(target.ip(), number + index), 0), target, every }
    };
    (0..count).map(lane).collect()
}

/// Waits until every one of these knows so many connections, of itself and of others.
fn wait_shared(lab: &Lab, nodes: &[&str], count: u64) {
    wait_until(second(60), "all connections to be known everywhere", || {
        for node in nodes {
            let status = lab.node(node).status().map_err(|error| error.to_string())?.0;
            let number = |field: &str| status["sync"][field].as_u64().unwrap_or(0);
            if status["sync"]["synced"] != true || number("flows_own") + number("flows_foreign") < count {
                return Err(format!("{node}: {}", status["sync"]));
            }
        }
        Ok(())
    })
    .expect("the connections are shared");
}

/// Nothing is lost; says how long things waited.
fn all_go_on(what: &str, outcomes: &[Outcome]) -> Duration {
    let lost: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| outcome.lost.as_ref().map(|why| format!("{:?}: {why}", outcome.lane)))
        .collect();
    assert!(
        lost.is_empty(),
        "{what}: {} of {} lost: {:#?}",
        lost.len(),
        outcomes.len(),
        &lost[..lost.len().min(6)]
    );
    let mut longest = Duration::ZERO;
    for (name, is_kind) in [
        ("streams", (|kind| matches!(kind, Kind::Stream(_))) as fn(Kind) -> bool),
        ("datagrams", |kind| kind == Kind::Datagrams),
        ("pings", |kind| kind == Kind::Pings),
    ] {
        let of = || outcomes.iter().filter(|outcome| is_kind(outcome.lane.kind));
        let waits = || of().map(|outcome| outcome.longest);
        let (p50, p99, max) = (quantile(waits(), 0.5), quantile(waits(), 0.99), quantile(waits(), 1.0));
        let missing: u64 = of().map(|outcome| outcome.missing).sum();
        println!(
            "{what}: {name}: {}, longest wait p50 {p50:?} p99 {p99:?} max {max:?}, {missing} missing",
            of().count()
        );
        longest = longest.max(max);
    }
    longest
}

/// What became of each lane from the last question until something has come back on each again.
fn until_all_flow(traffic: &Traffic) -> Vec<Outcome> {
    let before = traffic.take();
    traffic.wait_flowing().expect("all lanes work");
    let after = traffic.take();
    let join = |(before, after): (Outcome, Outcome)| Outcome {
        longest: before.longest.max(after.longest),
        answered: before.answered + after.answered,
        missing: before.missing + after.missing,
        ..after
    };
    before.into_iter().zip(after).map(join).collect()
}

#[test]
fn what_goes_through_a_killed_router_goes_on() {
    let Some(_root) = root() else { return };
    let mut lab = cluster(NAT);
    let _echoes = Echoes::start(lab.client().namespace(), &targets()).expect("a server outside");
    let all: Vec<Lane> =
        [(Kind::Stream(4096), 60, ms(50)), (Kind::Datagrams, 20, ms(10)), (Kind::Pings, 10, ms(20))]
            .into_iter()
            .flat_map(|(kind, count, every)| lanes(&lab, kind, count, every))
            .collect();
    let traffic = Traffic::start(lab.host_behind("h1").namespace(), &all);
    traffic.wait_flowing().expect("all lanes work");
    wait_shared(&lab, &ALL, all.len() as u64);
    all_go_on("at rest", &traffic.take());
    lab.node_mut("n1").kill_daemon();
    lab.wait_at_rest(&["n2", "n3"]).expect("the others take over");
    all_go_on("killed", &until_all_flow(&traffic));
}
