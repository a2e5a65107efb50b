//! Routers that share their connections: what goes through the cluster goes on, whatever becomes of the node that has it.
//!
//! ```text
//!   c1 ── br0 ── n1 n2 n3 ── br1 ── h1        (crates/lab/src/router.rs)
//! ```

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{at, ms, root, second};
use rudel_lab::capture::{Capture, Senders};
use rudel_lab::failover::Fault;
use rudel_lab::probe::quantile;
use rudel_lab::router::{Router, invalid};
use rudel_lab::traffic::{Echoes, Kind, Lane, Outcome, Traffic};
use rudel_lab::{Lab, Settings, VIP4, VIP6, wait_until};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
/// The one whose administrator has `nf_conntrack_tcp_loose=1`; its power is never cut, so it stays so.
const LOOSE: &str = "n3";
const TCP_LOOSE: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
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
fn cluster(nat: &str, timeout: Duration) -> Lab {
    let router = Router { nat: nat.to_owned(), sync: true, ..Router::default() };
    let settings =
        Settings { hash: "source-ip-port".to_owned(), router: Some(router), timeout, ..Settings::default() };
    let lab = common::cluster(3, settings);
    // Not everybody is strict: what is known nowhere is picked up there, and would get another port.
    lab.node(LOOSE).namespace().sysctl(&[("net.netfilter.nf_conntrack_tcp_loose", "1")]).expect("a setting");
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
        Kind::Stream(block) => {
            if block > 1000 {
                5000
            } else {
                1000
            }
        }
        Kind::Datagrams => 2000,
        Kind::Pings => 3000,
        Kind::Fresh => 4000,
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

/// What ends at an address that a node gets is not shared any more: it reads its table with other eyes.
fn addresses_count_at_once(lab: &Lab, node: &str) {
    let dumps = || lab.node(node).status().expect("a status").0["sync"]["dumps"].as_u64().expect("a count");
    for change in ["addr add 10.99.99.9/32 dev lo", "addr del 10.99.99.9/32 dev lo"] {
        let before = dumps();
        lab.node(node).namespace().ip(change).expect("an address");
        wait_until(second(30), "the table to be read anew", || match dumps() {
            now if now > before => Ok(()),
            now => Err(format!("{now} times")),
        })
        .expect("the daemon heeds its addresses");
    }
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

/// Nothing is lost, and nothing waits for longer than this, which is far more than it should on a machine that is not busy;
/// says how long that was.
fn all_go_on(what: &str, traffic: &Traffic, bound: Duration) -> Vec<Outcome> {
    let outcomes = until_all_flow(traffic);
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
    for (name, is_kind) in [
        ("streams", (|kind| matches!(kind, Kind::Stream(_))) as fn(Kind) -> bool),
        ("datagrams", |kind| kind == Kind::Datagrams),
        ("pings", |kind| kind == Kind::Pings),
        ("fresh", |kind| kind == Kind::Fresh),
    ] {
        let of = || outcomes.iter().filter(|outcome| is_kind(outcome.lane.kind));
        let waits = || of().map(|outcome| outcome.longest).collect::<Vec<_>>();
        let (p50, p99, max) = (quantile(waits(), 0.5), quantile(waits(), 0.99), quantile(waits(), 1.0));
        let (answered, missing) =
            of().fold((0, 0), |sum, outcome| (sum.0 + outcome.answered, sum.1 + outcome.missing));
        println!(
            "{what}: {} {name}: longest wait p50 {p50:.0?} p99 {p99:.0?} max {max:.0?}; {answered} answered, {missing} missing",
            of().count()
        );
        assert!(max <= bound, "{what}: {name} waited for {max:?}");
    }
    outcomes
}

/// A sender of TCP repeats what was lost after 0.2 s and a round trip, then after twice that, then after four times that: at 0.2, 0.6 and
/// 1.4 s at the earliest. On a busy machine round trips are 30 ms and more, and the second try is after 0.7 s. Who has lost a router
/// for a second would not try again before 1.4 s. But what was sent meanwhile was set aside, and goes on when somebody has its share.
fn streams_wait_for_no_repetition(outcomes: &[Outcome], timeout: Duration) {
    assert!(timeout >= second(1), "else it would show nothing");
    let streams = outcomes.iter().filter(|outcome| matches!(outcome.lane.kind, Kind::Stream(_)));
    let struck: Vec<Duration> =
        streams.map(|outcome| outcome.longest).filter(|longest| *longest >= timeout / 2).collect();
    let median = quantile(struck.clone(), 0.5);
    println!(
        "{} streams went through the dead router: they waited for {median:?}, all: {struck:?}",
        struck.len()
    );
    // A third of all, had they the same share.
    assert!(struck.len() >= 20, "only {} streams waited at all: {struck:?}", struck.len());
    assert!(median < ms(1400), "half of them waited until they repeated what was lost: {struck:?}");
}

/// Outside ends of all translated connections that a node knows, and whose they are: protocol, destination and port there,
/// outside port; the inside end.
fn translated(lab: &Lab, node: &str) -> BTreeMap<(String, String, String, String), (String, String)> {
    let mut all = BTreeMap::new();
    for family in ["ipv4", "ipv6"] {
        let mut command = lab.node(node).namespace().command("conntrack").expect("a namespace");
        let output = command.args(["-L", "-f", family]).output().expect("conntrack (package conntrack)");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let values = |key: &str| -> Vec<String> {
                line.split_whitespace().filter_map(|word| word.strip_prefix(key)).map(str::to_owned).collect()
            };
            let (src, dst, id) = (values("src="), values("dst="), values("id="));
            let (sport, dport) =
                if id.is_empty() { (values("sport="), values("dport=")) } else { (id.clone(), id) };
            let (Some(outside), Some(inside)) = (dst.get(1), src.first()) else { continue };
            if [VIP4.to_string(), VIP6.to_string()].contains(outside) && inside != outside && dport.len() == 2
            {
                let protocol = line.split_whitespace().next().unwrap_or("").to_owned();
                let there = (protocol, dst[0].clone(), dport[0].clone(), dport[1].clone());
                all.insert(there, (inside.clone(), sport[0].clone()));
            }
        }
    }
    all
}

/// No outside port was used by two nodes at a time, nor for two flows.
fn no_port_is_used_twice(lab: &Lab, senders: &Senders, moves: usize) {
    let (mut flows, mut moved) = (0, 0);
    for ((protocol, from, to), nodes) in senders {
        if [VIP4, VIP6].contains(&from.ip()) && targets().iter().any(|target| target.ip() == to.ip()) {
            flows += 1;
            moved += usize::from(nodes.len() > 1);
            assert!(
                nodes.len() <= moves + 1,
                "protocol {protocol} {from} -> {to} came from {nodes:?} in turn"
            );
        }
    }
    assert!(flows > 100 && moved > 50, "{moved} of {flows} translated flows moved");
    let mut users = BTreeMap::new();
    for node in ALL {
        for (there, inside) in translated(lab, node) {
            let first = users.entry(there.clone()).or_insert_with(|| (node, inside.clone()));
            assert_eq!(first.1, inside, "{there:?} at {} and at {node}", first.0);
        }
    }
    assert!(users.len() > 100, "{} translated connections", users.len());
    println!(
        "{flows} translated flows in the capture, {moved} of them of several nodes; {} in the tables",
        users.len()
    );
}

/// A packet that is too long for a link outside is answered by that, in both families.
fn paths_are_measured(lab: &Lab, number: u8) {
    for (target, word) in
        [(format!("10.101.1.{number}"), "mtu = 1300"), (format!("fd75:f001::1:{number}"), "mtu=1300")]
    {
        let source = lab.host_behind("h1").source(ip(&target), u16::from(number)).to_string();
        let mut command = lab.host_behind("h1").namespace().command("ping").expect("a namespace");
        let output = command.args(["-n", "-W5", "-c1", "-Mdo", "-s1400", "-I", &source, &target]).output();
        let output = output.expect("ping (package iputils-ping)");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(word), "{source} -> {target}: {said}");
    }
}

/// What can befall a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Of(Fault),
    /// The cable to the inside.
    UnplugInside,
}

impl Blow {
    fn strike(self, lab: &mut Lab, victim: &str) {
        match self {
            Blow::Of(fault) => fault.inflict(lab, victim).expect("a fault"),
            Blow::UnplugInside => lab.set_backbone_link(victim, false).expect("the cable"),
        }
    }

    fn mend(self, lab: &mut Lab, victim: &str) {
        match self {
            Blow::Of(fault) => fault.mend(lab, victim).expect("mended"),
            Blow::UnplugInside => lab.set_backbone_link(victim, true).expect("the cable"),
        }
    }

    /// The daemon goes on, without a share.
    fn is_of_a_link(self) -> bool {
        matches!(self, Blow::Of(Fault::Unplug) | Blow::UnplugInside)
    }
}

/// How long anything may wait in a test: a machine that is busy with other things stops everything for moments.
const BOUND: Duration = Duration::from_secs(8);

fn wait_owns(lab: &Lab, node: &str, asked: &str, owns: bool) {
    wait_until(second(30), &format!("{node} to own {}", if owns { "its share" } else { "nothing" }), || {
        let status = lab.node(asked).status().map_err(|error| error.to_string())?;
        let own = status.members().iter().find(|member| member.name == node).map(|member| member.buckets);
        if own.is_some_and(|count| (count > 0) == owns) && status.settled() {
            Ok(())
        } else {
            Err(format!("{own:?}"))
        }
    })
    .expect("a share moves");
}

fn others(node: &str) -> Vec<&'static str> {
    ALL.into_iter().filter(|name| *name != node).collect()
}

/// Faults and planned changes, one after the other, under all kinds of traffic.
fn story(nat: &str, timeout: Duration, streams: u16, blows: &[(Blow, &str)]) {
    let mut lab = cluster(nat, timeout);
    // Who starts has its share when it knows the others' connections: the last moves of the start are not what is tested here.
    wait_shared(&lab, &ALL, 0);
    lab.wait_at_rest(&ALL).expect("all have their shares");
    let _echoes = Echoes::start(lab.client().namespace(), &targets()).expect("a server outside");
    let capture = Capture::start(lab.client().namespace()).expect("a capture");
    let all: Vec<Lane> = [
        (Kind::Stream(512), streams, ms(100)),
        (Kind::Stream(16_384), 20, ms(50)),
        (Kind::Datagrams, 40, ms(10)),
        (Kind::Pings, 10, ms(20)),
        (Kind::Fresh, 20, ms(50)),
    ]
    .into_iter()
    .flat_map(|(kind, count, every)| lanes(&lab, kind, count, every))
    .collect();
    let traffic = Traffic::start(lab.host_behind("h1").namespace(), &all);
    traffic.wait_flowing().expect("all lanes work");
    wait_shared(&lab, &ALL, all.len() as u64);
    addresses_count_at_once(&lab, "n1");
    traffic.take();
    all_go_on("nothing happens", &traffic, BOUND);

    for (blow, victim) in blows {
        let rest = others(victim);
        blow.strike(&mut lab, victim);
        if blow.is_of_a_link() {
            wait_owns(&lab, victim, rest[0], false);
        } else {
            lab.wait_at_rest(&rest).expect("the others take over");
        }
        let outcomes = all_go_on(&format!("{blow:?}"), &traffic, BOUND);
        for node in &rest {
            println!(
                "{blow:?}: {node}: set aside: {}",
                lab.node(node).status().expect("a status").0["aside"]
            );
        }
        if *blow == Blow::Of(Fault::PowerOff) && timeout >= second(1) {
            streams_wait_for_no_repetition(&outcomes, timeout);
        }
        blow.mend(&mut lab, victim);
        lab.wait_at_rest(&ALL).expect("it is back");
        all_go_on(&format!("back after {blow:?}"), &traffic, BOUND);
        wait_shared(&lab, &ALL, all.len() as u64 - 20);
    }
    paths_are_measured(&lab, 1);

    lab.node("n1").rudel(&["drain"]).expect("a drain");
    wait_owns(&lab, "n1", "n2", false);
    all_go_on("drain", &traffic, BOUND);
    lab.node("n1").rudel(&["undrain"]).expect("an undrain");
    lab.wait_at_rest(&ALL).expect("its share again");
    all_go_on("undrain", &traffic, BOUND);
    // A machine that does nothing for longer than the lease keeps a successor from its place: then it joins anew.
    let in_place = (0..5).any(|_| {
        let (before, streams) =
            (translated(&lab, "n2"), |(protocol, ..): &(String, _, _, _)| protocol == "tcp");
        lab.node("n2").rudel(&["restart"]).expect("a restart");
        let after = translated(&lab, "n2");
        lab.wait_at_rest(&ALL).expect("at rest");
        all_go_on("restart in place", &traffic, BOUND);
        let goes_on = lab.node("n2").status().expect("a status").0["restarts"] == 1;
        let gone: Vec<_> = before.keys().filter(|key| streams(key) && !after.contains_key(key)).collect();
        assert!(!goes_on || gone.is_empty(), "a successor has lost connections of its kernel: {gone:?}");
        goes_on
    });
    assert!(in_place, "none of five successors went on in the place of the former daemon");
    let table = cluster_table(&lab, "n1");
    // Its parent starts it again; within the lease or not.
    let daemon = lab.node_mut("n1").working_daemon().expect("a daemon");
    let killed = std::process::Command::new("kill").args(["-9", &daemon.to_string()]).status();
    assert!(killed.expect("kill").success());
    wait_until(second(30), "another daemon", || match lab.node_mut("n1").working_daemon() {
        Ok(other) if other != daemon => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("its parent starts another");
    assert_eq!(cluster_table(&lab, "n1"), table, "what translates is there all the time");
    lab.wait_at_rest(&ALL).expect("at rest");
    wait_shared(&lab, &ALL, all.len() as u64 - 20);
    all_go_on("crash of the daemon alone", &traffic, BOUND);
    lab.node_mut("n3").terminate_daemon(second(60)).expect("a good end");
    lab.wait_at_rest(&["n1", "n2"]).expect("n3 has left");
    all_go_on("leave", &traffic, BOUND);
    lab.node_mut("n3").start_daemon().expect("n3 starts");
    lab.wait_at_rest(&ALL).expect("n3 has its share");
    all_go_on("join", &traffic, BOUND);
    wait_shared(&lab, &ALL, all.len() as u64 - 20);
    paths_are_measured(&lab, 2);

    traffic.finish().expect("the traffic ends");
    let senders = capture.finish();
    if !nat.is_empty() {
        no_port_is_used_twice(&lab, &senders, 2 * blows.len() + 7);
    }
    let loose = lab.node(LOOSE).namespace().run(|| std::fs::read_to_string(TCP_LOOSE));
    assert_eq!(loose.expect("a namespace").expect("a setting").trim(), "1", "it is the administrator's");
    for node in ALL {
        let status = lab.node(node).status().expect("a status").0;
        println!("{node}: {} invalid; {}", invalid(lab.node(node)).expect("a counter"), status["sync"]);
    }
    if !nat.is_empty() {
        nothing_translates_after_a_crash_and_a_start_without_nat(lab);
    }
}

/// The cluster's own table in a node's nftables, without its counters; empty if there is none.
fn cluster_table(lab: &Lab, node: &str) -> String {
    let mut command = lab.node(node).namespace().command("nft").expect("a namespace");
    let output = command.args(["-s", "list", "table", "inet", "rudel_lab"]).output().expect("nft");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All daemons die with their parents, so nobody removes their tables; then the administrator takes `[nat]` out of the file.
fn nothing_translates_after_a_crash_and_a_start_without_nat(mut lab: Lab) {
    ALL.iter().for_each(|node| lab.node_mut(node).kill_daemon());
    let left = cluster_table(&lab, "n3");
    assert!(left.contains("snat"), "a crash leaves the table: {left}");
    let mut settings = lab.settings().clone();
    settings.router.as_mut().expect("a router").nat.clear();
    let file = lab.dir().join("without-nat.toml");
    std::fs::write(&file, settings.to_toml(&lab.key())).expect("a file");
    lab.node_mut("n3").set_config(file);
    lab.node_mut("n3").start_daemon().expect("n3 starts");
    lab.wait_at_rest(&["n3"]).expect("n3 serves alone");
    let table = cluster_table(&lab, "n3");
    // What rewrites router advertisements is of the link-local address, and stays.
    assert!(!table.contains("snat") && !table.contains("dnat") && table.contains("fe80::1"), "{table}");
    lab.node_mut("n3").terminate_daemon(second(60)).expect("a good end");
    assert_eq!(cluster_table(&lab, "n3"), "");
}

#[test]
fn translated_flows_go_on_whatever_becomes_of_their_router() {
    let Some(_root) = root() else { return };
    let blows = [
        (Blow::Of(Fault::KillDaemon), "n1"),
        (Blow::Of(Fault::StopDaemon), "n2"),
        (Blow::Of(Fault::Unplug), "n3"),
        (Blow::UnplugInside, "n1"),
        (Blow::Of(Fault::PowerOff), "n2"),
    ];
    story(NAT, ms(400), 300, &blows);
}

#[test]
fn routed_flows_go_on_whatever_becomes_of_their_router() {
    let Some(_root) = root() else { return };
    let blows = [
        (Blow::Of(Fault::StopDaemon), "n2"),
        (Blow::UnplugInside, "n3"),
        (Blow::Of(Fault::KillDaemon), "n2"),
        (Blow::Of(Fault::Unplug), "n1"),
        (Blow::Of(Fault::PowerOff), "n1"),
    ];
    story("", second(1), 100, &blows);
}
