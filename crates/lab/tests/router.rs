//! The cluster as a router, between an administrator's strict rules: whatever goes through it stays whole, and both
//! directions of a flow are at one node.
//!
//! ```text
//!   c1 ── br0 ── n1 n2 n3 ── br1 ── h1        (crates/lab/src/router.rs)
//! ```

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{at, ms, root, second};
use rudel_lab::router::{Direction, Router, Servers, echo, forwarded, invalid, transfer};
use rudel_lab::{Footprint, Lab, Settings, VIP4, VIP6, client, wait_until};

const PORT: u16 = 9000;
const ALL: [&str; 3] = ["n1", "n2", "n3"];

fn settings(hash: &str, router: Router) -> Settings {
    Settings { hash: hash.to_owned(), router: Some(router), ..Settings::default() }
}

fn cluster(hash: &str, router: Router) -> Lab {
    common::cluster(3, settings(hash, router))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Addresses outside, of both families.
fn servers_outside(number: u8) -> [IpAddr; 2] {
    [IpAddr::from([10, 100, 0, number]), ip(&format!("fd75:1::{number:x}"))]
}

/// Flows from inside, from so many addresses of each family.
fn outward(lab: &Lab, count: u16) -> Vec<(SocketAddr, SocketAddr)> {
    let host = lab.host_behind("h1");
    (0..count)
        .flat_map(|number| {
            servers_outside(1).map(|target| (at(host.source(target, 257 + number), 0), at(target, PORT)))
        })
        .collect()
}

/// Runs each flow from the host, a few at a time; returns the ends that it had, or panics with every failure.
fn run_all(
    lab: &Lab,
    host: &str,
    flows: &[(SocketAddr, SocketAddr)],
    one: impl Fn(SocketAddr, SocketAddr) -> std::io::Result<SocketAddr> + Sync,
) -> Vec<(SocketAddr, SocketAddr)> {
    let (done, failed) = try_all(lab, host, flows, one);
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        flows.len(),
        &failed[..failed.len().min(6)]
    );
    done
}

fn try_all(
    lab: &Lab,
    host: &str,
    flows: &[(SocketAddr, SocketAddr)],
    one: impl Fn(SocketAddr, SocketAddr) -> std::io::Result<SocketAddr> + Sync,
) -> (Vec<(SocketAddr, SocketAddr)>, Vec<String>) {
    try_at_once(lab, host, flows, 32, one)
}

fn try_at_once(
    lab: &Lab,
    host: &str,
    flows: &[(SocketAddr, SocketAddr)],
    at_once: usize,
    one: impl Fn(SocketAddr, SocketAddr) -> std::io::Result<SocketAddr> + Sync,
) -> (Vec<(SocketAddr, SocketAddr)>, Vec<String>) {
    let outcomes = lab
        .host_behind(host)
        .namespace()
        .run(|| {
            client::in_parallel(flows, at_once, |(source, target)| (one(*source, *target), *source, *target))
        })
        .expect("in the host");
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (outcome, source, target) in outcomes {
        match outcome {
            Ok(local) => done.push((local, target)),
            Err(error) => failed.push(format!("{source} -> {target}: {error}")),
        }
    }
    (done, failed)
}

/// The node that forwarded both directions of each of these flows; panics if they were several, or none.
fn one_node_each(lab: &Lab, flows: &[(SocketAddr, SocketAddr)], protocol: u64) -> BTreeMap<String, usize> {
    let seen = forwarded(lab.nodes()).expect("the administrator's sets");
    let by = |direction: Direction| -> BTreeSet<&String> {
        seen.iter().filter(|(_, flows)| flows.contains(&direction)).map(|(node, _)| node).collect()
    };
    let mut counts = BTreeMap::new();
    for (source, target) in flows {
        let (there, back) = (by((*source, *target, protocol)), by((*target, *source, protocol)));
        assert_eq!(there.len(), 1, "{source} -> {target} went by {there:?}");
        assert_eq!(there, back, "{source} -> {target} and its answers");
        *counts.entry(there.first().expect("one").to_string()).or_default() += 1;
    }
    counts
}

fn no_packet_was_invalid(lab: &Lab) {
    for node in lab.nodes() {
        assert_eq!(invalid(node).expect("a counter"), 0, "{} dropped packets of unknown flows", node.name());
    }
}

/// What `ping` says, from one of the host's many addresses.
fn ping(lab: &Lab, host: &str, words: &[&str]) -> String {
    let mut command = lab.host_behind(host).namespace().command("ping").expect("a namespace");
    let output = command.args(["-n", "-W5"]).args(words).output().expect("ping (package iputils-ping)");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// As `traceroute -I`: the first hop is the node that has the flow, the second the router outside.
fn two_hops_are_traced(lab: &Lab, number: u16) {
    // Translated, all of it comes from one host, and a router tells a host of few errors in a second.
    let unlimited = [("net.ipv4.icmp_ratelimit", "0"), ("net.ipv6.icmp.ratelimit", "0")];
    lab.client().namespace().sysctl(&unlimited).expect("settings");
    for (target, second, word) in [
        (format!("10.101.0.{number}"), "From 10.74.0.101", "Time to live exceeded"),
        (format!("fd75:f001::{number}"), "From fd74::101", "Hop limit"),
    ] {
        let source = lab.host_behind("h1").source(ip(&target), number).to_string();
        for (hops, from) in [("-t1", "From "), ("-t2", second)] {
            let said = ping(lab, "h1", &["-c1", hops, "-I", &source, &target]);
            assert!(said.contains(from) && said.contains(word), "{source} -> {target}, {hops}: {said}");
        }
    }
}

/// Transfers over a link outside that is narrower than all others, each to another end, since a host remembers a path's MTU by
/// that: without what the router before that link says of it, none would get beyond its first full segments.
fn transfers_fit_a_narrow_path(lab: &Lab) -> Vec<(SocketAddr, SocketAddr)> {
    let ends: Vec<IpAddr> = (1..=12)
        .flat_map(|number| [IpAddr::from([10, 101, 2, number]), ip(&format!("fd75:f001::2:{number}"))])
        .collect();
    let _servers = Servers::start(lab.beyond(), &ends, PORT).expect("servers beyond");
    let host = lab.host_behind("h1");
    let flows: Vec<_> =
        (800..).zip(&ends).map(|(number, end)| (at(host.source(*end, number), 0), at(*end, PORT))).collect();
    let done = run_all(lab, "h1", &flows, |from, to| transfer(from, to, second(10)));
    let mut command = host.namespace().command("ip").expect("a namespace");
    let output = command.args(["-4", "route", "show", "cache"]).output().expect("ip");
    let known = String::from_utf8_lossy(&output.stdout).matches("mtu 1300").count();
    assert!(known >= 12, "only {known} of 12 paths are known to be narrow");
    done
}

#[test]
fn what_goes_through_stays_whole_and_both_directions_are_at_one_node() {
    let Some(_root) = root() else { return };
    for hash in ["source-ip", "source-ip-port"] {
        let lab = cluster(hash, Router::default());
        let _servers =
            Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");

        // All of them at once.
        let (transfers, failed) =
            try_at_once(&lab, "h1", &outward(&lab, 150), 300, |from, to| transfer(from, to, second(20)));
        assert!(failed.is_empty(), "{} of 300 failed: {:?}", failed.len(), &failed[..failed.len().min(6)]);
        let counts = one_node_each(&lab, &transfers, 6);
        assert_eq!(counts.len(), 3, "300 transfers by {counts:?}");

        let datagrams =
            run_all(&lab, "h1", &outward(&lab, 60), |from, to| echo(from, to, &[1, 700, 1400], second(10)));
        assert_eq!(one_node_each(&lab, &datagrams, 17).len(), 3);
        // Whole datagrams and fragmented ones, of the same flow.
        let fragments = run_all(&lab, "h1", &outward(&lab, 40), |from, to| {
            echo(from, to, &[100, 4000, 1200, 9000, 100], second(10))
        });
        one_node_each(&lab, &fragments, 17);
        no_packet_was_invalid(&lab);

        for number in 1..=12 {
            for target in servers_outside(1) {
                let source = lab.host_behind("h1").source(target, number).to_string();
                let target = target.to_string();
                let said = ping(&lab, "h1", &["-c2", "-i0.2", "-I", &source, &target]);
                assert!(said.contains(" 0% packet loss"), "{source}: {said}");
                // More than a link's MTU: fragments of an echo.
                let said = ping(&lab, "h1", &["-c1", "-s3000", "-I", &source, &target]);
                assert!(said.contains(" 0% packet loss"), "{source}: {said}");
            }
        }
        no_packet_was_invalid(&lab);
    }
}

#[test]
fn errors_about_a_flow_come_back_through_its_node() {
    let Some(_root) = root() else { return };
    let lab = cluster("source-ip-port", Router::default());
    let host = lab.host_behind("h1");
    for number in 1..=16 {
        // Nobody listens there: an answer by ICMP, from outside.
        for target in servers_outside(2) {
            let source = at(host.source(target, number), 0);
            let error = host
                .namespace()
                .run(|| -> std::io::Error {
                    let socket = UdpSocket::bind(source).expect("bind");
                    socket.connect(at(target, 9)).expect("connect");
                    socket.set_read_timeout(Some(second(5))).expect("a time-out");
                    socket.send(b"anybody?").expect("send");
                    socket.recv(&mut [0; 8]).expect_err("nobody answers")
                })
                .expect("in the host");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{source} -> {target}: {error}");
        }
        two_hops_are_traced(&lab, number);
        // Behind the client is a narrow link, which it says of itself.
        // A host remembers a path's MTU by its end, so each asks for another one.
        let ends =
            [(format!("10.101.0.{number}"), "mtu = 1300"), (format!("fd75:f001::{number}"), "mtu=1300")];
        for (target, word) in &ends {
            let source = host.source(ip(target), number).to_string();
            let said = ping(&lab, "h1", &["-c1", "-Mdo", "-s1400", "-I", &source, target]);
            assert!(said.contains(*word), "{source} -> {target}: {said}");
        }
    }
    one_node_each(&lab, &transfers_fit_a_narrow_path(&lab), 6);
    no_packet_was_invalid(&lab);
}

#[test]
fn sides_that_are_not_each_other_s_mirror_are_found_out() {
    let Some(_root) = root() else { return };
    // The outer interface hashes as a server's would: by whoever sends. The test above must not pass then.
    let router = Router { outer_side: "service".to_owned(), dmz: true, ..Router::default() };
    let lab = cluster("source-ip", router);
    let _servers =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
    let flows: Vec<_> = outward(&lab, 30).into_iter().filter(|(source, _)| source.is_ipv4()).collect();
    let (_, failed) = try_all(&lab, "h1", &flows, |from, to| transfer(from, to, ms(1500)));
    // All answers come from one address, and so go to one node, which knows a third of the flows.
    assert!(failed.len() >= flows.len() / 3, "only {} of {} failed", failed.len(), flows.len());
}

#[test]
fn the_gateway_s_own_services_answer_both_sides() {
    let Some(_root) = root() else { return };
    let lab = cluster("source-ip-port", Router::default());
    let host = lab.host_behind("h1");
    let mut nodes = BTreeSet::new();
    for number in 1..=40 {
        for vip in [VIP4, VIP6] {
            let source = at(host.source(vip, number), 0);
            let ask = || client::http_get(source, at(vip, 80), second(5));
            nodes.insert(host.namespace().run(ask).expect("in the host").expect("an answer").node);
            let ask = || client::dns_query(source, at(vip, 53), 7, second(5));
            host.namespace().run(ask).expect("in the host").expect("an answer by DNS");
            let source = at(lab.client().source(vip, 3, number as u8), 0);
            nodes.insert(common::http(&lab, source, at(vip, 80)));
        }
    }
    assert_eq!(nodes.len(), 3, "only {nodes:?} answered");
    for address in ["10.76.0.1", "fd76::1", "10.74.0.10", "fd74::10"] {
        let said = ping(&lab, "h1", &["-c1", address]);
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
}

#[test]
fn a_dmz_is_reached_from_both_sides() {
    let Some(_root) = root() else { return };
    let open = "iifname eth0 oifname eth2 tcp dport 9000 tcp flags & (fin | syn | rst | ack) == syn ct state new accept";
    let lab = cluster("source-ip", Router { dmz: true, open: open.to_owned(), ..Router::default() });
    let dmz = lab.host_behind("d1");
    let _inner = Servers::start(dmz.namespace(), &[VIP4, VIP6].map(|like| dmz.address(like)), PORT)
        .expect("servers in the DMZ");
    let _outer =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");

    let host = lab.host_behind("h1");
    let inward: Vec<_> = (0..40)
        .flat_map(|number| {
            servers_outside(1)
                .map(|like| (at(host.source(like, 300 + number), 0), at(dmz.address(like), PORT)))
        })
        .collect();
    let done = run_all(&lab, "h1", &inward, |from, to| transfer(from, to, second(10)));
    one_node_each(&lab, &done, 6);

    let outward: Vec<_> =
        servers_outside(1).map(|target| (at(dmz.address(target), 0), at(target, PORT))).into();
    let done = run_all(&lab, "d1", &outward, |from, to| transfer(from, to, second(10)));
    one_node_each(&lab, &done, 6);

    // From outside to the server in the DMZ: its one address is one bucket.
    for number in 1..=10 {
        for like in servers_outside(1) {
            let (source, target) = (at(lab.client().source(like, 5, number), 0), at(dmz.address(like), PORT));
            let outcome = lab.client().run(|| transfer(source, target, second(10))).expect("in the client");
            let local = outcome.unwrap_or_else(|error| panic!("{source} -> {target}: {error}"));
            one_node_each(&lab, &[(local, target)], 6);
        }
    }
    no_packet_was_invalid(&lab);
}

#[test]
fn a_node_that_loses_one_side_gives_up_both() {
    let Some(_root) = root() else { return };
    let mut lab = cluster("source-ip", Router::default());
    let _servers =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
    for inner in [true, false] {
        let cut =
            |lab: &Lab, up| if inner { lab.set_backbone_link("n1", up) } else { lab.set_link("n1", up) };
        cut(&lab, false).expect("the cable");
        wait_until(second(20), "n1 to own nothing", || {
            let status = lab.node("n2").status().map_err(|error| error.to_string())?;
            let own = status.members().iter().find(|member| member.name == "n1").map(|member| member.buckets);
            if own == Some(0) && status.settled() { Ok(()) } else { Err(format!("{own:?}")) }
        })
        .expect("n1 gives up");
        let before = forwarded(lab.nodes()).expect("sets").remove("n1").unwrap_or_default();
        run_all(&lab, "h1", &outward(&lab, 30), |from, to| transfer(from, to, second(10)));
        let after = forwarded(lab.nodes()).expect("sets").remove("n1").unwrap_or_default();
        assert_eq!(before, after, "n1 forwards still");
        cut(&lab, true).expect("the cable");
        lab.wait_at_rest(&ALL).expect("n1 has its share again");
    }
}

#[test]
fn a_router_leaves_its_host_as_it_was() {
    let Some(_root) = root() else { return };
    let router = Router { nat: NAT.to_owned(), ..Router::default() };
    let mut lab =
        Lab::builder().nodes(2).settings(settings("source-ip-port", router)).build().expect("a lab");
    let before = lab.node("n1").footprint().expect("a footprint");
    lab.start().expect("a cluster");
    assert!(!before.changes(&lab.node("n1").footprint().expect("a footprint")).is_empty());
    // Killed, started again and stopped: the second run knows what the first one changed.
    lab.node_mut("n1").kill_daemon();
    lab.node_mut("n1").start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1", "n2"]).expect("at rest");
    lab.node_mut("n1").terminate_daemon(second(60)).expect("a good end");
    let left = left_behind(&lab, "n1", &before);
    assert!(left.is_empty(), "{left:#?}");
}

/// An `nft` that does what the real one does once a file named after it is there: `may-load`, `may-list`, `may-remove`.
const SLOW_NFT: &str = r#"#!/bin/sh
case "$*" in *list*) what=list ;; *) input=$(cat); case $input in *{*) what=load ;; *) what=remove ;; esac ;; esac
echo $what >> DIR/asked
until test -e DIR/may-$what; do sleep 0.02; done
printf '%s\n' "$input" | /usr/sbin/nft "$@"
"#;

#[test]
fn a_host_whose_nft_takes_its_time_is_served_and_left_in_good_order() {
    let Some(_root) = root() else { return };
    let router = Router { nat: NAT.to_owned(), ..Router::default() };
    let mut lab =
        Lab::builder().nodes(2).settings(settings("source-ip-port", router)).build().expect("a lab");
    let dir = lab.dir().join("slow");
    fs::create_dir(&dir).expect("a directory");
    let nft = dir.join("nft");
    fs::write(&nft, SLOW_NFT.replace("DIR", &dir.display().to_string())).expect("a script");
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).expect("a program");
    let may = |what: &str, allowed: bool| {
        let path = dir.join(format!("may-{what}"));
        if allowed { fs::write(path, "") } else { fs::remove_file(path) }.expect("a file");
    };
    let wait_asked = |what: &str| {
        wait_until(second(60), &format!("nft to be asked to {what}"), || {
            let asked = fs::read_to_string(dir.join("asked")).unwrap_or_default();
            if asked.ends_with(&format!("{what}\n")) { Ok(()) } else { Err(asked) }
        })
        .expect("nft is asked");
    };
    let start = |lab: &mut Lab| {
        let mut command = lab.node("n2").daemon_command().expect("a command");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", dir.display()));
        lab.node_mut("n2").start_daemon_as(command).expect("a daemon");
    };
    let wait_end = |lab: &mut Lab| {
        let status = lab.node_mut("n2").daemon().wait(second(60)).expect("an end");
        assert!(status.success(), "{status}: {}", lab.node("n2").daemon_log());
    };
    let before = lab.node("n2").footprint().expect("a footprint");
    lab.node_mut("n1").start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1"]).expect("n1 serves");

    // Stopped in the midst of its start.
    start(&mut lab);
    wait_asked("load");
    lab.node_mut("n2").daemon().signal(libc::SIGTERM).expect("SIGTERM");
    ["load", "list", "remove"].into_iter().for_each(|what| may(what, true));
    wait_end(&mut lab);
    let left = left_behind(&lab, "n2", &before);
    assert!(left.is_empty(), "{left:#?}");

    // It looks after its table, and does all else meanwhile.
    start(&mut lab);
    lab.wait_at_rest(&["n1", "n2"]).expect("both serve");
    may("list", false);
    let mut command = lab.node("n2").namespace().command("nft").expect("a namespace");
    assert!(command.args(["add", "table", "inet", "other"]).status().expect("nft").success());
    wait_asked("list");
    lab.node("n2").status().expect("an answer");
    lab.node_mut("n2").daemon().signal(libc::SIGTERM).expect("SIGTERM");
    lab.wait_at_rest(&["n1"]).expect("n1 has the whole share");

    // And takes everything down, however long that takes.
    may("remove", false);
    may("list", true);
    wait_asked("remove");
    let begun = Instant::now();
    wait_until(second(60), "four times what a daemon that hangs is left", || {
        assert_eq!(
            lab.node_mut("n2").daemon().try_wait(),
            None,
            "it must not leave before its table has gone"
        );
        let waited = begun.elapsed();
        if waited > second(8) { Ok(()) } else { Err(format!("{waited:?} so far")) }
    })
    .expect("time passes");
    may("remove", true);
    wait_end(&mut lab);
    let mut command = lab.node("n2").namespace().command("nft").expect("a namespace");
    assert!(command.args(["delete", "table", "inet", "other"]).status().expect("nft").success());
    let left = left_behind(&lab, "n2", &before);
    assert!(left.is_empty(), "{left:#?}");
}

/// What is different from before on a node.
fn left_behind(lab: &Lab, node: &str, before: &Footprint) -> Vec<String> {
    before
        .changes(&lab.node(node).footprint().expect("a footprint"))
        .into_iter()
        // The administrator's own sets and counters have seen packets.
        .filter(|line| !line.contains("elements = ") && !line.contains("packets ") && !line.contains(" . "))
        .filter(|line| !line.contains("file "))
        .collect()
}

/// Both families, and a service behind the firewall.
const NAT: &str = "address = [\"10.74.0.10\", \"fd74::10\"]\ninside = [\"10.0.0.0/8\", \"fd00::/8\"]\n\
    forward = [\"tcp 10.74.0.10:9443 to 10.76.0.101:9000\", \"tcp [fd74::10]:943 to [fd76::101]:9000\"]\n";

/// The owner of each bucket, as all agree.
fn owners(lab: &mut Lab) -> Vec<String> {
    lab.wait_at_rest(&ALL).expect("at rest").into_iter().map(|owner| owner.expect("an owner")).collect()
}

fn block_of(port: u16) -> usize {
    usize::from(port.checked_sub(1024).expect("a translated port")) / 252
}

/// Outside ends of the connections that a node translates: protocol, outside port or identifier, destination.
fn translated(lab: &Lab, node: &str) -> BTreeSet<(String, u16, String)> {
    let mut command = lab.node(node).namespace().command("conntrack").expect("a namespace");
    let mut all = BTreeSet::new();
    for family in ["ipv4", "ipv6"] {
        let mut listing = Command::new(command.get_program());
        std::mem::swap(&mut listing, &mut command);
        let output = listing.args(["-L", "-f", family]).output().expect("conntrack (package conntrack)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        command = lab.node(node).namespace().command("conntrack").expect("a namespace");
        for line in text.lines() {
            let values = |key: &str| -> Vec<&str> {
                line.split_whitespace().filter_map(|word| word.strip_prefix(key)).collect()
            };
            let (to, port) =
                (values("dst="), if line.starts_with("icmp") { values("id=") } else { values("dport=") });
            let reply_to = to.get(1).copied().unwrap_or("");
            if [VIP4.to_string(), VIP6.to_string()].contains(&reply_to.to_owned())
                && to.first().is_some_and(|first| *first != reply_to)
            {
                let protocol = line.split_whitespace().next().unwrap_or("").to_owned();
                let port = port.get(1).and_then(|port| port.parse().ok()).expect("a reply's port");
                all.insert((protocol, port, to[0].to_owned()));
            }
        }
    }
    all
}

#[test]
fn translated_flows_go_out_by_the_ports_of_their_node() {
    let Some(_root) = root() else { return };
    let mut lab = cluster("source-ip-port", Router { nat: NAT.to_owned(), ..Router::default() });
    let servers =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
    run_all(&lab, "h1", &outward(&lab, 100), |from, to| transfer(from, to, second(10)));
    // A datagram that comes back in fragments, and goes out in fragments.
    run_all(&lab, "h1", &outward(&lab, 60), |from, to| echo(from, to, &[1, 1400, 6000, 1], second(10)));
    for number in 1..=12 {
        for target in servers_outside(1) {
            let source = lab.host_behind("h1").source(target, number).to_string();
            let said = ping(&lab, "h1", &["-c2", "-i0.2", "-I", &source, &target.to_string()]);
            assert!(said.contains(" 0% packet loss"), "{source}: {said}");
        }
        two_hops_are_traced(&lab, number);
        // About a translated flow, from a router outside.
        // A host remembers a path's MTU by its end, so each asks for another one.
        let ends =
            [(format!("10.101.0.{number}"), "mtu = 1300"), (format!("fd75:f001::{number}"), "mtu=1300")];
        for (target, word) in &ends {
            let source = lab.host_behind("h1").source(ip(target), number).to_string();
            let said = ping(&lab, "h1", &["-c1", "-Mdo", "-s1400", "-I", &source, target]);
            assert!(said.contains(*word), "{source} -> {target}: {said}");
        }
    }
    transfers_fit_a_narrow_path(&lab);
    no_packet_was_invalid(&lab);

    let peers = servers.peers();
    assert!(peers.len() >= 300, "{} peers", peers.len());
    assert!(peers.iter().all(|(_, peer)| [VIP4, VIP6].contains(&peer.ip())), "untranslated: {peers:?}");
    let owners = owners(&mut lab);
    let mut all = BTreeMap::new();
    for node in ALL {
        let ends = translated(&lab, node);
        assert!(ends.len() > 30, "{node} translated {} flows", ends.len());
        for (protocol, port, destination) in ends {
            assert_eq!(owners[block_of(port)], node, "{protocol} {port} is not a port of {node}'s blocks");
            let before = all.insert((protocol.clone(), port, destination.clone()), node);
            assert_eq!(before, None, "{protocol} {port} to {destination} was used by two nodes");
        }
    }
    let kinds: BTreeSet<&str> = all.keys().map(|(protocol, ..)| protocol.as_str()).collect();
    assert!(kinds.len() >= 3, "only {kinds:?} were translated");
}

#[test]
fn a_service_behind_the_firewall_has_both_directions_at_one_node() {
    let Some(_root) = root() else { return };
    let open = "iifname eth0 oifname eth1 tcp dport 9000 tcp flags & (fin | syn | rst | ack) == syn ct state new accept";
    let router = Router { nat: NAT.to_owned(), open: open.to_owned(), ..Router::default() };
    let lab = cluster("source-ip-port", router);
    let host = lab.host_behind("h1");
    let servers = Servers::start(host.namespace(), &[VIP4, VIP6].map(|like| host.address(like)), PORT)
        .expect("servers inside");
    let mut done = Vec::new();
    for number in 1..=30 {
        for target in [at(VIP4, 9443), at(VIP6, 943)] {
            let source = at(lab.client().source(target.ip(), 6, number), 0);
            let outcome = lab.client().run(|| transfer(source, target, second(10))).expect("in the client");
            let local = outcome.unwrap_or_else(|error| panic!("{source} -> {target}: {error}"));
            // As the nodes forward it: translated already.
            done.push((local, at(host.address(local.ip()), PORT)));
        }
    }
    let counts = one_node_each(&lab, &done, 6);
    assert_eq!(counts.len(), 3, "the clients of one service are at {counts:?}");
    assert!(
        servers.peers().iter().all(|(_, peer)| ![VIP4, VIP6].contains(&peer.ip())),
        "it sees its clients"
    );
    no_packet_was_invalid(&lab);
}

#[test]
fn connections_that_find_no_port_are_counted() {
    let Some(_root) = root() else { return };
    let lab = cluster("source-ip", Router { nat: NAT.to_owned(), ..Router::default() });
    let servers =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
    let host = lab.host_behind("h1");
    let refused = || -> u64 {
        let pointer = |node: &rudel_lab::Node| {
            node.status().expect("a status").0.pointer("/nat/refused").and_then(serde_json::Value::as_u64)
        };
        lab.nodes().iter().map(|node| pointer(node).expect("a count")).sum()
    };
    assert_eq!(refused(), 0);
    for (target, vip) in servers_outside(1).into_iter().zip([VIP4, VIP6]) {
        let before = refused();
        let source = host.source(target, 500);
        let sockets: Vec<UdpSocket> = host
            .namespace()
            .run(|| {
                let open = |_| {
                    let socket = UdpSocket::bind(at(source, 0)).expect("bind");
                    socket.connect(at(target, PORT)).expect("connect");
                    socket.set_nonblocking(true).expect("a setting");
                    socket.send(b"one more").expect("send");
                    socket
                };
                (0..400).map(open).collect()
            })
            .expect("in the host");
        let mut answered = BTreeSet::new();
        wait_until(second(20), "refusals and answers", || {
            let more = sockets.iter().enumerate().filter(|(_, socket)| socket.recv(&mut [0; 8]).is_ok());
            answered.extend(more.map(|(index, _)| index));
            let (answers, refusals) = (answered.len(), refused() - before);
            if answers >= 200 && refusals >= 140 {
                Ok(())
            } else {
                Err(format!("{answers} answers, {refusals} refusals"))
            }
        })
        .expect("who finds no port is counted");
        // One address, one bucket, one block of 252 ports. The kernel gives up a little early.
        assert!(answered.len() <= 252, "{} of 400 were answered", answered.len());
        let peers = servers.peers();
        let ports = peers.iter().filter(|(_, peer)| peer.ip() == vip).map(|(_, peer)| block_of(peer.port()));
        assert_eq!(ports.collect::<BTreeSet<_>>().len(), 1, "one bucket has one block");
    }
    let told = lab.nodes().iter().any(|node| {
        let events = node.status().expect("a status").events();
        events.iter().any(|(kind, _, reason)| kind == "ports-exhausted" && reason.contains("add addresses"))
    });
    assert!(told, "no node says that its ports are exhausted");
}

/// A packet of a protocol without ports there and back, and who the other end believes to have sent it.
fn bare_exchange(lab: &Lab, protocol: u8, source: IpAddr, target: IpAddr) -> std::io::Result<IpAddr> {
    // Whatever the protocol, addresses are those of a socket without a connection.
    let open = |namespace: &rudel_lab::Namespace, address: IpAddr| {
        let open = || -> std::io::Result<UdpSocket> {
            let end = at(address, 0);
            let protocol = Some(socket2::Protocol::from(i32::from(protocol)));
            let socket =
                socket2::Socket::new(socket2::Domain::for_address(end), socket2::Type::RAW, protocol)?;
            socket.bind(&end.into())?;
            socket.set_read_timeout(Some(second(5)))?;
            Ok(socket.into())
        };
        namespace.run(open).expect("in a namespace")
    };
    let (client, server) =
        (open(lab.host_behind("h1").namespace(), source)?, open(lab.client().namespace(), target)?);
    // As GRE: no options, and what is said to be inside.
    let said = |word: &[u8]| [&[0, 0, 8, 0], word].concat();
    let hear = |socket: &UdpSocket, word: &[u8]| -> std::io::Result<IpAddr> {
        loop {
            let mut buffer = [0; 256];
            let (length, from) = socket.recv_from(&mut buffer)?;
            // With IPv4, its header comes first.
            if buffer[..length].ends_with(word) {
                return Ok(from.ip());
            }
        }
    };
    client.send_to(&said(b"question"), at(target, 0))?;
    let peer = hear(&server, b"question")?;
    server.send_to(&said(b"answer"), at(peer, 0))?;
    hear(&client, b"answer")?;
    Ok(peer)
}

#[test]
fn every_hash_and_every_protocol_goes_through() {
    let Some(_root) = root() else { return };
    for (hash, nat, second_uplink) in [
        ("source-ip-port-dest-port", NAT, false),
        ("source-net", "", false),
        ("none", NAT, false),
        ("source-ip-port", NAT, true),
    ] {
        let router = Router { nat: nat.to_owned(), dmz: second_uplink, second_uplink, ..Router::default() };
        let lab = cluster(hash, router);
        let _servers =
            Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
        let done = run_all(&lab, "h1", &outward(&lab, 30), |from, to| transfer(from, to, second(10)));
        run_all(&lab, "h1", &outward(&lab, 30), |from, to| echo(from, to, &[1, 1400, 6000, 1], second(10)));
        let nodes = one_node_each(&lab, &done, 6).len();
        match hash {
            "none" => assert_eq!(nodes, 1, "one router is active"),
            // All sources are of one net in each family.
            "source-net" => assert!(nodes <= 2, "{nodes} nodes"),
            _ => assert_eq!(nodes, 3, "60 flows are at {nodes} nodes"),
        }
        for number in 1..=8 {
            for target in servers_outside(number) {
                let source = lab.host_behind("h1").source(target, u16::from(number));
                // GRE, ESP, and one that nobody knows.
                for protocol in [47, 50, 253] {
                    let peer = bare_exchange(&lab, protocol, source, target).unwrap_or_else(|error| {
                        panic!("{hash}: protocol {protocol}, {source} -> {target}: {error}")
                    });
                    assert_eq!([VIP4, VIP6].contains(&peer), !nat.is_empty(), "{hash}: {peer}");
                }
                let said = ping(&lab, "h1", &["-c1", "-I", &source.to_string(), &target.to_string()]);
                assert!(said.contains(" 0% packet loss"), "{hash}: {source}: {said}");
            }
        }
        if second_uplink {
            // By the other way out, and back by it.
            let other = lab.host_behind("d1");
            let ends = [VIP4, VIP6].map(|like| other.address(like));
            let servers = Servers::start(other.namespace(), &ends, PORT).expect("servers on the other side");
            let host = lab.host_behind("h1");
            let flows: Vec<_> = (0..40)
                .flat_map(|number| ends.map(|end| (at(host.source(end, 700 + number), 0), at(end, PORT))))
                .collect();
            run_all(&lab, "h1", &flows, |from, to| transfer(from, to, second(10)));
            run_all(&lab, "h1", &flows, |from, to| echo(from, to, &[1, 1400, 6000, 1], second(10)));
            assert!(servers.peers().iter().all(|(_, peer)| [VIP4, VIP6].contains(&peer.ip())));
        }
        no_packet_was_invalid(&lab);
    }
}

#[test]
fn several_addresses_share_the_load_and_a_host_keeps_its_own() {
    let Some(_root) = root() else { return };
    // The third is of no network here: the upstream router would send it.
    let nat = "address = [\"10.74.0.10\", \"10.74.0.20\", \"10.79.0.1\"]\ninside = [\"10.0.0.0/8\"]\n";
    let lab = cluster("source-ip-port", Router { nat: nat.to_owned(), ..Router::default() });
    lab.client().namespace().ip("route add 10.79.0.1/32 via 10.74.0.10\n").expect("the upstream's route");
    let servers =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
    let target = servers_outside(1)[0];
    let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for number in 600..630 {
        let before = servers.peers();
        let source = at(lab.host_behind("h1").source(target, number), 0);
        run_all(&lab, "h1", &[(source, at(target, PORT)); 4], |from, to| echo(from, to, &[10], second(10)));
        let new: BTreeSet<IpAddr> = servers.peers().difference(&before).map(|(_, peer)| peer.ip()).collect();
        assert_eq!(new.len(), 1, "{source} went out by {new:?}");
        *by_address.entry(*new.first().expect("one")).or_default() += 1;
    }
    assert_eq!(by_address.len(), 3, "30 hosts by {by_address:?}");
}

#[test]
fn rules_that_are_flushed_are_put_back() {
    let Some(_root) = root() else { return };
    let mut lab = cluster("source-ip-port", Router { nat: NAT.to_owned(), ..Router::default() });
    let _servers =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
    let table = |lab: &Lab| {
        let mut command = lab.node("n1").namespace().command("nft").expect("a namespace");
        let output = command.args(["list", "tables"]).output().expect("nft");
        String::from_utf8_lossy(&output.stdout).contains("rudel_lab")
    };
    assert!(table(&lab));
    let mut command = lab.node("n1").namespace().command("nft").expect("a namespace");
    assert!(command.args(["flush", "ruleset"]).status().expect("nft").success());
    wait_until(
        second(20),
        "the table to be back",
        || if table(&lab) { Ok(()) } else { Err("gone".to_owned()) },
    )
    .expect("the table is put back");
    wait_until(second(20), "the event", || {
        let events = lab.node("n1").status().map_err(|error| error.to_string())?.events();
        if events.iter().any(|(kind, ..)| kind == "restored") { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .expect("it is told");
    run_all(&lab, "h1", &outward(&lab, 20), |from, to| transfer(from, to, second(10)));
    lab.wait_at_rest(&ALL).expect("nothing moved");
}

#[test]
fn router_advertisements_name_the_cluster() {
    let Some(_root) = root() else { return };
    let lab = cluster("source-ip", Router::default());
    let host = lab.host_behind("h1").namespace();
    host.sysctl(&[("net.ipv6.conf.eth0.accept_ra", "1")]).expect("a setting");
    host.ip("route del default via fe80::1 dev eth0\n").expect("no default route");
    // As the manual has it, and in a hurry.
    let conf = lab.dir().join("radvd.conf");
    let text = "interface eth1 { AdvSendAdvert on; AdvSourceLLAddress off; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;\n\
                prefix fd76::/64 { }; RDNSS fd76::1 { }; };\n";
    std::fs::write(&conf, text).expect("a file");
    let started = lab.nodes().iter().map(|node| {
        let mut command = node.namespace().command("radvd").expect("a namespace");
        let pid_file = lab.dir().join(format!("{}.radvd.pid", node.name()));
        command.args(["-n", "-m", "stderr", "-C"]).arg(&conf).arg("-p").arg(pid_file);
        let log = lab.dir().join(format!("{}.radvd.log", node.name()));
        rudel_lab::Process::spawn("radvd", command, &log).expect("radvd (package radvd)")
    });
    let radvd: Vec<rudel_lab::Process> = started.collect();
    let shown = |words: &[&str]| -> String {
        let mut command = host.command("ip").expect("a namespace");
        String::from_utf8_lossy(&command.args(words).output().expect("ip").stdout).into_owned()
    };
    let learned = || shown(&["-6", "route", "show", "default"]);
    wait_until(second(40), "a default route and an address", || {
        let (routes, addresses) = (learned(), shown(&["-6", "addr", "show", "dev", "eth0", "dynamic"]));
        if routes.contains("default") && addresses.contains("inet6 fd76:") {
            Ok(())
        } else {
            Err(format!("{routes}{addresses}{}", radvd[0].log()))
        }
    })
    .expect("a route");
    let routes = learned();
    assert!(routes.contains("via fe80::1 dev eth0"), "{routes}");
    assert_eq!(routes.matches("proto ra").count(), 1, "every node says the same: {routes}");
    let _servers =
        Servers::start(lab.client().namespace(), &servers_outside(1), PORT).expect("servers outside");
    run_all(&lab, "h1", &outward(&lab, 10), |from, to| transfer(from, to, Duration::from_secs(10)));
}
