//! Configurations that are read again while the cluster serves.
//!
//! ```text
//!    n1              n2              n3
//!    n1.toml ✎       n2.toml ✎       n3.toml ✎
//!    │               │               │
//!  ──┴───────────────┴── br0 ────────┴──
//!                         │
//!                         c1                opens a connection every 2 ms, and holds 60
//! ```

mod common;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{assert_none_lost, at, lasting, ms, prober, root, say, second, sessions};
use rudel_lab::probe::Prober;
use rudel_lab::session::Sessions;
use rudel_lab::{Lab, Settings, VIP4, status, wait_until};
use serde_json::Value;

const ALL: [&str; 3] = ["n1", "n2", "n3"];
/// Nothing takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(30);
/// An address that the cluster gets while it serves.
const ADDED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 74, 0, 20));
/// The lease that the time-out of [`cluster`] allows is shorter, that of [`slower`] longer.
const BETWEEN_LEASES_MS: u64 = 1000;

/// A cluster in which every node has a configuration file of its own, which says the same at first. Its time-out is one that a
/// busy test machine does not break.
fn cluster() -> Lab {
    let settings = Settings { timeout: second(1), ..Settings::default() };
    let mut lab = Lab::builder().nodes(ALL.len()).settings(settings.clone()).build().expect("a lab");
    let text = settings.to_toml(&lab.key());
    for name in ALL {
        let file = file(&lab, name);
        fs::write(&file, &text).expect("a configuration");
        lab.node_mut(name).set_config(file);
    }
    if let Err(error) = lab.start() {
        panic!("the cluster does not start: {error:#}");
    }
    lab
}

fn file(lab: &Lab, name: &str) -> PathBuf {
    lab.dir().join(format!("{name}.toml"))
}

fn text(lab: &Lab, name: &str) -> String {
    fs::read_to_string(file(lab, name)).expect("a configuration")
}

/// Writes a node's file and has it read again.
fn rudel_reload(lab: &Lab, name: &str, text: &str) -> Output {
    fs::write(file(lab, name), text).expect("a configuration");
    let mut command = lab.node(name).rudel_command(&["reload", "--json"]).expect("a command");
    command.env("NO_COLOR", "1").output().expect("the control tool runs")
}

/// The same; returns the keys that have changed.
fn reload(lab: &Lab, name: &str, text: &str) -> Vec<String> {
    let output = rudel_reload(lab, name, text);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["result"], "applied", "{told}");
    keys(&told["applied"])
}

/// Has a reload refused or fail; returns what was said, in lines.
fn refused(lab: &Lab, name: &str, text: &str, code: i32) -> String {
    let output = rudel_reload(lab, name, text);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn keys(changes: &Value) -> Vec<String> {
    let keys = changes.as_array().into_iter().flatten().filter_map(|change| change["key"].as_str());
    keys.map(str::to_owned).collect()
}

fn seen(lab: &Lab, name: &str) -> Value {
    lab.node(name).status().expect("a status").0
}

/// Waits for something in the status of a node.
fn wait(lab: &Lab, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) {
    let look = || {
        let seen = lab.node(name).status().map_err(|error| error.to_string())?.0;
        if is_so(&seen) { Ok(()) } else { Err(seen.to_string()) }
    };
    wait_until(DEADLINE, what, look).unwrap_or_else(|error| panic!("{error:#}"));
}

/// Ends the traffic: no connection failed, none was lost, and the cluster was calm.
fn assert_unnoticed(lab: &Lab, traffic: Prober, open: Sessions) {
    let report = traffic.finish().expect("a report");
    assert!(report.failed().is_empty(), "{}", report.failures());
    let ended = assert_none_lost(open);
    say(&format!(
        "{} connections one after the other, slowest {:?}; 0 of {} that stayed lost",
        report.total(),
        report.slowest(),
        ended.len()
    ));
    assert_calm(lab);
}

/// That nobody was given up, stalled, or left out.
fn assert_calm(lab: &Lab) {
    for name in ALL {
        let events = lab.node(name).status().expect("a status").events();
        let torn = ["expired", "stalled", "left-out", "left", "restarted", "duplicate", "mismatch"];
        let bad: Vec<_> = events.iter().filter(|(kind, ..)| torn.contains(&kind.as_str())).collect();
        assert!(bad.is_empty(), "{name}: {bad:?}");
    }
}

#[test]
fn weights_hooks_checks_and_the_drain_time_out_change_while_the_cluster_serves() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster();
    let open = sessions(&lab, &lasting(&lab, 30_000, 60));
    let traffic = prober(&lab);
    traffic.wait_answers(200).expect("answers before");

    // n1: a weight, a hook and the drain time-out, by the tool. The hook is told of the reload itself.
    let told = lab.dir().join("told");
    let plain = text(&lab, "n1");
    let hook = format!("on_change = [\"/bin/sh\", \"-c\", \"echo $RUDEL_EVENT >> {}\"]", told.display());
    let changed = plain.replace("[heartbeat]", "drain_timeout = \"4m\"\n[heartbeat]")
        + &format!("\n[node]\nweight = 50\n[hooks]\n{hook}\n");
    assert_eq!(reload(&lab, "n1", &changed), ["cluster.drain_timeout", "node.weight", "hooks.on_change"]);
    wait_until(DEADLINE, "n1 to have half a share", || {
        let counts = status::counts(&lab.node("n3").status().map_err(|e| e.to_string())?.owners());
        if matches!(counts.get("n1"), Some(51 | 52)) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .expect("a smaller share");
    let heard = |event: &str| {
        let heard = fs::read_to_string(&told).unwrap_or_default();
        if heard.lines().any(|line| line == event) { Ok(()) } else { Err(heard) }
    };
    wait_until(DEADLINE, "the hook to be told", || heard("reloaded")).expect("it runs");
    // One that goes is told nothing more.
    assert_eq!(reload(&lab, "n1", &changed.replace(&hook, "")), ["hooks.on_change"]);
    wait(&lab, "n1", "the hook to be gone", |seen| seen["hook"].is_null());
    let even = changed.replace(&hook, "").replace("weight = 50", "weight = 100");
    assert_eq!(reload(&lab, "n1", &even), ["node.weight"]);

    // n2: a check, by SIGHUP to the main process, which is the parent. A good one harms nobody, not even while it has not been
    // answered; a bad one takes the share away; and one that goes gives it back.
    let server = lab.node("n2").namespace().run(|| TcpListener::bind("127.0.0.1:0"));
    let server = server.expect("in n2").expect("a server");
    let port = server.local_addr().expect("an address").port();
    let check = format!(
        "\n[[health]]\nname = \"own\"\ntcp = \"127.0.0.1:{port}\"\ninterval = \"200ms\"\ntimeout = \"100ms\"\n"
    );
    let before = lab.wait_at_rest(&ALL).expect("at rest");
    fs::write(file(&lab, "n2"), plain.clone() + &check).expect("a configuration");
    lab.node_mut("n2").daemon().signal(libc::SIGHUP).expect("a signal");
    wait(&lab, "n2", "the check to be answered", |seen| {
        seen["health"][0]["ok"] == true && seen["health"][0]["last_error"].is_null()
    });
    assert_eq!(keys(&seen(&lab, "n2")["reload"]["applied"]), ["health.own"]);
    assert_eq!(lab.wait_at_rest(&ALL).expect("at rest"), before, "nothing has moved");
    drop(server);
    wait(&lab, "n2", "n2 to serve nothing", |seen| seen["buckets"]["owned"] == 0);
    assert_eq!(reload(&lab, "n2", &plain), ["health.own"]);
    wait(&lab, "n2", "n2 to serve again", |seen| seen["buckets"]["owned"] != 0);
    assert_eq!(seen(&lab, "n2")["health"], Value::Array(vec![]));

    // What was changed is what the next daemon goes on with; and a weight by command outlives a reload that says nothing of it.
    lab.node("n1").rudel(&["weight", "80"]).expect("rudel weight");
    assert_eq!(reload(&lab, "n1", &text(&lab, "n1").replace("4m", "5m")), ["cluster.drain_timeout"]);
    lab.node("n1").rudel(&["restart"]).expect("rudel restart");
    wait(&lab, "n1", "the next daemon", |seen| seen["restarts"] == 1);
    wait(&lab, "n1", "its weight", |seen| seen["nodes"][0]["weight"] == 80);

    traffic.wait_answers(200).expect("answers at the end");
    assert_unnoticed(&lab, traffic, open);
}

/// The configuration with a longer time-out, another interval and one address more.
fn slower(text: &str) -> String {
    let slower = text
        .replace("timeout = \"1000ms\"", "timeout = \"3000ms\"\ninterval = \"200ms\"")
        .replace(&format!("\"{VIP4}/24\""), &format!("\"{VIP4}/24\", \"{ADDED}/24\""));
    assert!(slower.contains("interval") && slower.contains(&ADDED.to_string()), "{slower}");
    slower
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Waits until a node knows that its last reload waits for these: a daemon that has only just begun has heard nobody yet.
fn wait_waiting(lab: &Lab, name: &str, nodes: &[&str]) {
    wait(lab, name, "a node to know whom it waits for", |seen| {
        seen["reload"]["result"] == "pending" && words(&seen["reload"]["waiting_for"]) == nodes
    });
}

/// Waits until a node lives by what its file says: its kernel has a lease that only this time-out allows.
fn wait_lives_by(lab: &Lab, name: &str, is_slower: bool) {
    wait(lab, name, "what was wanted to be in force", |seen| {
        let lease = seen["lease_ms"].as_u64().unwrap_or_default();
        seen["reload"]["result"] == "applied" && lease > 0 && (lease > BETWEEN_LEASES_MS) == is_slower
    });
}

/// The last node reads what all others have read; returns the keys that have changed then, however long that takes.
fn reload_as_the_last(lab: &Lab, name: &str, text: &str) -> Vec<String> {
    let output = rudel_reload(lab, name, text);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    wait(lab, name, "all nodes to follow", |seen| seen["reload"]["result"] == "applied");
    keys(&seen(lab, name)["reload"]["applied"])
}

fn is_on_lo(lab: &Lab, name: &str) -> bool {
    let mut command = lab.node(name).namespace().command("ip").expect("a command");
    let output = command.args(["-o", "addr", "show", "dev", "lo"]).output().expect("ip runs");
    String::from_utf8_lossy(&output.stdout).contains(&format!(" {ADDED}/"))
}

/// Whether anybody answers at the added address: nothing listens there, so who has it refuses. What the client knows of its
/// neighbours stays: the load needs it.
fn answers(lab: &Lab) -> Result<(), String> {
    let tried =
        lab.client().run(|| TcpStream::connect_timeout(&at(ADDED, 9), ms(1500))).expect("in the client");
    match tried {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn what_all_nodes_live_by_changes_on_all_of_them_when_the_last_has_read_it() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster();
    let owners = lab.wait_at_rest(&ALL).expect("at rest");
    let open = sessions(&lab, &lasting(&lab, 30_000, 60));
    let traffic = prober(&lab);
    traffic.wait_answers(200).expect("answers before");
    let former = text(&lab, "n1");
    let present = slower(&former);
    let changes = ["heartbeat.timeout", "heartbeat.interval", "interface.eth0.addresses"];

    let output = rudel_reload(&lab, "n1", &present);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&told["result"], keys(&told["pending"])),
        (&Value::from("pending"), changes.map(str::to_owned).into())
    );
    assert_eq!((words(&told["waiting_for"]), keys(&told["applied"])), (vec!["n2", "n3"], vec![]));
    let screen = lab.node("n1").rudel(&["status"]).expect("a status");
    assert!(screen.contains("waiting for n2, n3 to reload"), "{screen}");
    assert!(is_on_lo(&lab, "n1"), "what the kernel may refuse it has taken");
    assert!(answers(&lab).is_err(), "nobody answers for it yet");

    // n2 by the signal; and its daemon dies in the middle of the change. The next one goes on with what has been said.
    fs::write(file(&lab, "n2"), &present).expect("a configuration");
    lab.node_mut("n2").daemon().signal(libc::SIGHUP).expect("a signal");
    wait_waiting(&lab, "n2", &["n3"]);
    let pid = lab.node_mut("n2").working_daemon().expect("a daemon").to_string();
    let killed = std::process::Command::new("kill").args(["-KILL", &pid]).status().expect("kill runs");
    assert!(killed.success());
    wait(&lab, "n2", "the next daemon", |seen| seen["restarts"] == 1);
    wait_waiting(&lab, "n2", &["n3"]);
    for name in ALL {
        let lease = seen(&lab, name)["lease_ms"].as_u64().expect("a lease");
        assert!(lease < BETWEEN_LEASES_MS, "{name} lives by what not all have read: {lease} ms");
    }
    traffic.wait_answers(200).expect("answers in the middle");
    assert_eq!(lab.wait_at_rest(&ALL).expect("at rest"), owners, "nothing has moved");

    assert_eq!(reload_as_the_last(&lab, "n3", &present), changes);
    for name in ALL {
        wait_lives_by(&lab, name, true);
        // What the others live by it knows by their next words.
        wait(&lab, name, "all to live by the same configuration", |seen| {
            let nodes = seen["nodes"].as_array().expect("nodes");
            nodes.iter().all(|node| node["configuration"] == nodes[0]["configuration"])
        });
    }
    wait_until(DEADLINE, "the added address to be answered for", || answers(&lab)).expect("an answer");
    let mac = lab.client().neighbour(ADDED).expect("neighbours");
    assert_eq!(mac.as_deref(), Some("03:bf:0a:4a:00:0a"), "the cluster's MAC");
    traffic.wait_answers(400).expect("answers after");
    assert_eq!(lab.wait_at_rest(&ALL).expect("at rest"), owners, "nothing has moved");
    assert_unnoticed(&lab, traffic, open);

    // The new time-out is what others wait for now: the former one would be over three times.
    let killed = Instant::now();
    lab.node_mut("n3").kill_daemon();
    wait(&lab, "n1", "n3 to be given up", |seen| {
        let mut events = seen["events"].as_array().into_iter().flatten();
        events.any(|event| event["kind"] == "expired" && event["node"] == "n3")
    });
    let waited = killed.elapsed();
    assert!(waited > ms(2500), "given up after {waited:?}");

    // Back again, while n3 is down: it keeps nobody waiting. A restart into a changed file is as good as a reload.
    fs::write(file(&lab, "n1"), &former).expect("a configuration");
    lab.node("n1").rudel(&["restart"]).expect("rudel restart");
    wait_waiting(&lab, "n1", &["n2"]);
    assert_eq!(reload_as_the_last(&lab, "n2", &former), changes);
    for name in ["n1", "n2"] {
        wait_lives_by(&lab, name, false);
        wait_until(DEADLINE, "the address to be gone", || {
            if is_on_lo(&lab, name) { Err(format!("{name} has it")) } else { Ok(()) }
        })
        .expect("it has gone");
    }
    assert!(answers(&lab).is_err(), "nobody has it");

    // n3 comes back with what it knows, is named and kept out, and comes in when it has read the present file.
    lab.node_mut("n3").start_daemon().expect("it starts");
    wait(&lab, "n1", "n3 to be named", |seen| {
        let mut events = seen["events"].as_array().into_iter().flatten();
        events.any(|event| event["kind"] == "mismatch" && event["node"] == "n3")
    });
    assert_eq!(seen(&lab, "n3")["buckets"]["owned"], 0);
    assert_eq!(reload_as_the_last(&lab, "n3", &former), changes);
    lab.wait_at_rest(&ALL).expect("it comes in");
    wait_lives_by(&lab, "n3", false);
}

#[test]
fn what_cannot_change_is_named_and_a_bad_file_changes_nothing() {
    let Some(_serial) = root() else { return };
    let lab = cluster();
    let footprint = lab.node("n1").footprint().expect("before");
    let epochs = common::epochs(&lab, &ALL);
    let good = text(&lab, "n1");

    let other = good.replace("timeout = \"1000ms\"", "timeout = \"2s\"").replace("source-ip-port", "none")
        + "\n[node]\nweight = 1\nmetrics = \"127.0.0.1:9440\"\n";
    let said = refused(&lab, "n1", &other, 2);
    for line in [
        "For these say `rudel restart` on this node, which interrupts nothing:",
        "  node.metrics: none -> 127.0.0.1:9440",
        "These must be the same on every node: stop the daemon on all nodes, change the file on each, start it again:",
        "  interface.eth0.hash: source-ip-port -> none",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} in:\n{said}");
    }
    assert!(!said.contains("weight") && !said.contains("timeout"), "only what stands in the way:\n{said}");

    let said = refused(&lab, "n1", &good.replace("quorum = 1", "quorum = 1\ncolour = \"red\""), 2);
    assert!(said.contains("colour") && said.contains("^^^"), "{said}");
    let log = lab.node("n1").daemon_log();
    assert!(said.lines().all(|line| log.contains(line.trim())), "the log says the same:\n{said}\n{log}");
    let told = seen(&lab, "n1");
    assert_eq!(told["reload"]["result"], "refused");
    assert!(told["reload"]["reason"].as_str().is_some_and(|reason| reason.contains("colour")), "{told}");
    fs::write(file(&lab, "n1"), &good).expect("a configuration");
    let text = lab.node("n1").rudel(&["status"]).expect("a status");
    assert!(text.contains("refused, and nothing was changed"), "{text}");
    let events = lab.node("n1").status().expect("a status").events();
    let refusals: Vec<_> = events.iter().filter(|(kind, ..)| kind == "reload-refused").collect();
    assert!(refusals.len() == 2 && refusals[1].2.contains("colour"), "{events:?}");

    // The kernel could not follow: an address that the interface itself has. Nothing is half done.
    let own = lab.node("n1").address4();
    let taken = slower(&good).replace(&format!("\"{ADDED}/24\""), &format!("\"{ADDED}/24\", \"{own}/24\""));
    let said = refused(&lab, "n1", &taken, 1);
    assert!(said.contains(&own.to_string()), "{said}");
    assert_eq!(seen(&lab, "n1")["reload"]["result"], "failed");

    assert_eq!(footprint.changes(&lab.node("n1").footprint().expect("after")), Vec::<String>::new());
    assert_eq!(common::epochs(&lab, &ALL), epochs);
    let weight = seen(&lab, "n1")["nodes"][0]["weight"].clone();
    assert_eq!(weight, 100, "nothing of a refused file is followed");

    // And with a good file all is well again.
    assert!(reload(&lab, "n1", &good).is_empty());
    assert_calm(&lab);
}
