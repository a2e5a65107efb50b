//! The laboratory itself, without a daemon: what it says about the cluster is worth what it says about a single machine
//! whose behaviour is known.
//!
//! ```text
//!    n1               n2               n3 (added later)
//!    │ 10.74.0.10     │ (nothing)
//!  ──┴───── br0 ──────┴────────
//!              │
//!              c1  10.74.0.101, and behind it 10.100.0.0/16, fd75:1::/32
//! ```

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::{root, second};
use rudel_lab::probe::{Audit, Lane, Plan, Prober, Question};
use rudel_lab::{Footprint, Lab, VIP4, VIP6, client, store, wait_until};

/// A lab in which one node simply has the shared addresses.
fn lab_with_a_plain_server() -> Lab {
    let mut lab = Lab::builder().nodes(2).build().expect("a lab");
    lab.node_mut("n1").start_services().expect("servers without an address yet");
    lab.node("n1")
        .namespace()
        .ip(&format!("addr add {VIP4}/24 dev eth0\naddr add {VIP6}/64 dev eth0 nodad\n"))
        .expect("addresses");
    lab.wait_answering().expect("answers");
    lab
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let Some(_serial) = root() else { return };
    let before = Footprint::of_machine().expect("before");
    let lab = Lab::builder().nodes(3).build().expect("a lab");
    assert!(
        before.changes(&Footprint::of_machine().expect("during")).is_empty(),
        "the machine itself was touched"
    );
    let (dir, namespace) = (lab.dir().to_owned(), lab.node("n1").namespace().clone());
    assert!(dir.exists() && namespace.exists());
    drop(lab);
    assert!(!dir.exists() && !namespace.exists());
    assert_eq!(before.changes(&Footprint::of_machine().expect("after")), Vec::<String>::new());
}

#[test]
fn a_panic_leaves_nothing_behind_either() {
    let Some(_serial) = root() else { return };
    let (send, receive) = std::sync::mpsc::channel();
    let result = std::thread::spawn(move || {
        let mut lab = Lab::builder().nodes(1).build().expect("a lab");
        lab.node_mut("n1").start_services().expect("servers");
        send.send((lab.dir().to_owned(), lab.node("n1").namespace().clone())).expect("the test waits");
        panic!("on purpose");
    })
    .join();
    assert!(result.is_err());
    let (dir, namespace) = receive.recv().expect("built");
    assert!(!dir.exists() && !namespace.exists());
}

#[test]
fn a_signal_or_the_death_of_the_owner_leaves_nothing_behind() {
    let Some(_serial) = root() else { return };
    let me = env!("CARGO_BIN_EXE_rudel-lab");
    for (signal, collected_by_itself) in [("-TERM", true), ("-INT", true), ("-KILL", false)] {
        let name = format!("victim-{}", std::process::id());
        let mut child = Command::new(me)
            .args(["up", "--name", &name, "--nodes", "2", "--network-only", "--wait"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("rudel-lab starts");
        let dir = store::base().join(&name);
        wait_until(Duration::from_secs(20), "the lab to stand", || {
            if dir.join("ready").exists() { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .expect("it stands");
        let pid = child.id();
        // The shell's own: the program of that name is not on every machine.
        let killed = Command::new("sh").args(["-c", &format!("kill {signal} {pid}")]).status();
        assert!(killed.expect("sh runs").success());
        assert!(!child.wait().expect("it ends").success());
        assert_eq!(!dir.exists(), collected_by_itself, "after {signal}");
        if !collected_by_itself {
            assert!(store::collect_garbage().expect("gc").contains(&name));
        }
        assert!(!dir.exists() && !Path::new("/run/netns").join(format!("{name}-n1")).exists());
    }
}

#[test]
fn every_source_reaches_the_server_over_every_protocol() {
    let Some(_serial) = root() else { return };
    let lab = lab_with_a_plain_server();
    let client = lab.client();
    for vip in [VIP4, VIP6] {
        let sources: Vec<SocketAddr> =
            (0..=255).map(|host| SocketAddr::new(client.source(vip, 7, host), 0)).collect();
        let answers = client
            .run(|| {
                client::in_parallel(&sources, 8, |source| {
                    let http = client::http_get(*source, SocketAddr::new(vip, 80), second(3))?;
                    let other = client::http_get(*source, SocketAddr::new(vip, 95), second(3))?;
                    let dns = client::dns_query(*source, SocketAddr::new(vip, 53), 99, second(3))?;
                    Ok::<_, std::io::Error>([http.node, other.node, dns.node])
                })
            })
            .expect("in the client");
        for (source, answer) in sources.iter().zip(answers) {
            assert_eq!(answer.unwrap_or_else(|e| panic!("{source}: {e}")), ["n1", "n1", "n1"]);
        }
    }
    let log = lab.node("n1").access_log();
    assert_eq!(log.lines().filter(|l| l.contains(" 10.100.7.255 ")).count(), 2, "the log names the source");
}

#[test]
fn a_port_can_be_used_again_at_once() {
    let Some(_serial) = root() else { return };
    let lab = lab_with_a_plain_server();
    let client = lab.client();
    let source = SocketAddr::new(client.source(VIP4, 1, 1), 40_000);
    client
        .run(|| {
            for round in 0..20 {
                let answer = client::http_get(source, SocketAddr::new(VIP4, 80), second(3));
                answer.unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        })
        .expect("in the client");
}

#[test]
fn the_prober_measures_an_outage_of_known_length() {
    let Some(_serial) = root() else { return };
    let lab = lab_with_a_plain_server();
    let lane = |question, port| Lane {
        question,
        source: SocketAddr::new(lab.client().source(VIP4, 1, 1), if port == 53 { 5300 } else { 0 }),
        target: SocketAddr::new(VIP4, port),
    };
    let lanes = vec![lane(Question::Http, 80), lane(Question::Dns, 53)];
    let prober = Prober::start(lab.client().namespace(), Plan::new(lanes));
    prober.wait_answers(100).expect("answers before");
    let down = Instant::now();
    lab.set_link("n1", false).expect("unplugged");
    prober.wait_questions(150).expect("questions in vain");
    lab.set_link("n1", true).expect("plugged in");
    let length = down.elapsed();
    prober.wait_answers(350).expect("answers after");
    let report = prober.finish().expect("a report");
    let tolerance = Duration::from_millis(150);
    for lane in [0, 1] {
        let outage = report.outage_of(lane);
        assert!(
            outage >= length - tolerance && outage <= length + tolerance,
            "lane {lane}: {outage:?} for {length:?}"
        );
    }
    assert!(report.hurt_since(down) <= length + tolerance);
    // A connection gets through by its second SYN; a datagram is lost.
    assert!(report.failed().iter().all(|r| r.lane == 1), "{}", report.failures());
    assert!(!report.failed().is_empty() && report.delayed().iter().any(|r| r.lane == 0));
    assert!(report.slowest() >= Duration::from_millis(900));
    assert_eq!(report.per_node().into_keys().collect::<Vec<_>>(), ["n1"]);
}

#[test]
fn the_audit_finds_second_answers_and_missing_ones() {
    let Some(_serial) = root() else { return };
    let mut lab = lab_with_a_plain_server();
    let audit = Audit {
        sources: (1..=50).map(|h| SocketAddr::new(lab.client().source(VIP4, 1, h), 6000)).collect(),
        target: SocketAddr::new(VIP4, 53),
        rounds: 4,
        round: Duration::from_millis(20),
        grace: Duration::from_millis(300),
    };
    let run = |lab: &Lab| audit.run(lab.client().namespace(), &AtomicBool::new(false)).expect("a tally");

    let tally = run(&lab);
    assert_eq!((tally.sent, tally.unanswered, tally.repeated.len()), (200, 0, 0));
    assert_eq!(tally.answered.get("n1"), Some(&200));
    assert!(tally.flows.iter().all(|nodes| nodes == &["n1"]));

    // Both nodes take a multicast MAC for theirs, as in a cluster without a filter: now each query has two answers.
    lab.node_mut("n2").start_services().expect("servers");
    lab.node("n2").namespace().ip(&format!("addr add {VIP4}/32 dev lo\n")).expect("an address");
    lab.client()
        .namespace()
        .ip(&format!("neigh replace {VIP4} lladdr 03:bf:0a:4a:00:0a dev eth0 nud permanent\n"))
        .expect("a neighbour");
    let tally = run(&lab);
    assert_eq!((tally.sent, tally.unanswered, tally.repeated.len()), (200, 0, 200));
    assert!(tally.flows.iter().all(|nodes| nodes == &["n1", "n2"]));

    lab.set_link("n1", false).expect("unplugged");
    lab.set_link("n2", false).expect("unplugged");
    assert_eq!(run(&lab).unanswered, 200);
}

#[test]
fn a_machine_without_power_loses_all_but_its_disk() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(2).build().expect("a lab");
    lab.node_mut("n2").start_services().expect("servers");
    let (run, state) = (lab.node("n2").runtime_dir(), lab.node("n2").state_dir());
    std::fs::write(run.join("x"), "").expect("a file");
    std::fs::write(state.join("x"), "").expect("a file");
    std::fs::create_dir_all(lab.bpffs().join("rudel/lab-n2")).expect("a pin directory");
    std::fs::create_dir_all(lab.bpffs().join("rudel/lab-n1")).expect("a pin directory");
    lab.power_off("n2").expect("off");
    assert!(!run.exists() && state.join("x").exists() && !lab.node("n2").namespace().exists());
    assert!(!lab.bpffs().join("rudel/lab-n2").exists() && lab.bpffs().join("rudel/lab-n1").exists());
    // Off and on at once: no trace of the former life is in the way of the next.
    for _ in 0..5 {
        lab.boot("n2").expect("on");
        lab.power_off("n2").expect("off");
    }
}

#[test]
fn a_node_can_be_added_while_others_run() {
    let Some(_serial) = root() else { return };
    let mut lab = lab_with_a_plain_server();
    let added = lab.add_node().expect("a third node").name().to_owned();
    assert_eq!(added, "n3");
    let from = lab.node("n3").namespace().clone();
    let source = SocketAddr::new(lab.node("n3").address4().into(), 0);
    let answer = from.run(|| client::http_get(source, SocketAddr::new(VIP4, 80), second(3)));
    assert_eq!(answer.expect("in n3").expect("an answer").node, "n1");
}

#[test]
fn two_clients_have_sources_of_their_own() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(1).clients(2).build().expect("a lab");
    lab.node_mut("n1").start_services().expect("servers");
    lab.node("n1").namespace().ip(&format!("addr add {VIP4}/24 dev eth0\n")).expect("an address");
    for client in lab.clients() {
        let source = SocketAddr::new(client.source(VIP4, 3, 4), 0);
        let answer = client.run(|| client::http_get(source, SocketAddr::new(VIP4, 80), second(3)));
        assert_eq!(answer.expect("in the client").expect("an answer").node, "n1");
    }
    let log = lab.node("n1").access_log();
    assert!(log.contains(" 10.100.3.4 ") && log.contains(" 10.101.3.4 "), "{log}");
}
