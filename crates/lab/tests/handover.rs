//! Buckets move, connections stay: planned changes under long-lived connections.
//!
//! ```text
//!    n1        n2        n3        n4     come, go, and come again, all on purpose
//!    │         │         │         ┊
//!  ──┴─────────┴── br0 ──┴┄┄┄┄┄┄┄┄┄┘
//!                   │
//!                   c1                    200 connections, asked on ten times a second
//! ```

mod common;

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{cluster, lasting, lost, ms, prober, root, say, second, sessions};
use rudel_lab::line::Line;
use rudel_lab::{Lab, Settings, VIP4, VIP6, rudeld, status, wait_until};

/// Where the nodes' program is installed.
fn program(lab: &Lab) -> PathBuf {
    lab.dir().join("rudeld-installed")
}

fn cluster_with_syncookies(syncookies: &str, settings: Settings) -> Lab {
    let mut lab = Lab::builder().settings(settings).build().expect("a lab");
    let program = program(&lab);
    fs::copy(rudeld().expect("the program"), &program).expect("a copy");
    for name in ["n1", "n2", "n3"] {
        let node = lab.node_mut(name);
        node.start_services().expect("servers");
        let command = node.daemon_command_of(&program).expect("a command");
        node.start_daemon_as(command).expect("a daemon");
    }
    lab.wait_at_rest(&["n1", "n2", "n3"]).expect("three nodes");
    lab.wait_answering().expect("answers");
    for name in ["n1", "n2", "n3"] {
        let setting = ("net.ipv4.tcp_syncookies", syncookies);
        lab.node(name).namespace().sysctl(&[setting]).expect("a setting of the namespace");
    }
    lab
}

/// Waits until the running nodes agree on who owns how many buckets, to within one, and own them.
fn wait_shares(lab: &Lab, running: &[&str], shares: &[(&str, usize)]) {
    wait_until(second(20), &format!("the shares {shares:?}"), || {
        for name in running {
            let status = lab.node(name).status().map_err(|error| format!("{name}: {error:#}"))?;
            let counts = status::counts(&status.owners());
            let owned = status.0["buckets"]["owned"].as_u64().unwrap_or(u64::MAX);
            if !status.settled() || owned != counts.get(*name).copied().unwrap_or(0) as u64 {
                return Err(format!("{name} owns {owned} of {counts:?}"));
            }
            let is_so =
                |(node, share): &(&str, usize)| counts.get(*node).copied().unwrap_or(0).abs_diff(*share) <= 1;
            if !shares.iter().all(is_so) {
                return Err(format!("{name}: {counts:?}"));
            }
        }
        Ok(())
    })
    .expect("the shares that were asked for");
}

/// Everything that an administrator does to a running cluster, one after the other, under load: two hundred
/// connections that are asked on and on, and a new one every two milliseconds.
fn rolling_change(syncookies: &str) {
    // A lease that a new process reaches however busy the machine is.
    let patient = Settings { timeout: second(5), interval: Some(ms(100)), ..Settings::default() };
    let mut lab = cluster_with_syncookies(syncookies, patient);
    let three = ["n1", "n2", "n3"];
    let before = sessions(&lab, &lasting(&lab, 30_000, 200));
    let newcomers = prober(&lab);
    newcomers.wait_answers(100).expect("answers");
    let rounds = |what: &str| before.wait_rounds(3).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let rudel = |lab: &Lab, node: &str, command: &[&str]| {
        lab.node(node).rudel(command).unwrap_or_else(|error| panic!("{command:?} on {node}: {error:#}"));
    };

    // A fourth node joins: a quarter of the buckets moves, with connections open in nearly all of them.
    let node = lab.add_node().expect("a fourth node");
    node.start_services().expect("servers");
    node.start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1", "n2", "n3", "n4"]).expect("it joins");
    rounds("after the join");
    let kept: u64 = three.iter().map(|n| keeping(&lab, n)).sum();
    assert!(kept > 0, "somebody must keep connections of the buckets that n4 got");

    // And leaves again while the others still keep what they gave it: the buckets come home.
    let late = lasting(&lab, 31_000, 40);
    stop_when_drained(&mut lab, "n4", &late);
    lab.wait_at_rest(&three).expect("three again");
    rounds("after the leave");

    // Each drains and comes back, asked on the spot or from elsewhere.
    for (index, name) in three.into_iter().enumerate() {
        let other = three[(index + 1) % 3];
        let (drain, undrain): (&[&str], &[&str]) = match index {
            0 => (&["drain"], &["undrain", "--node", name]),
            _ => (&["drain", "--node", name], &["undrain"]),
        };
        let shares = three.map(|each| (each, if each == name { 0 } else { 128 }));
        rudel(&lab, if index == 0 { name } else { other }, drain);
        wait_shares(&lab, &three, &shares);
        rounds(&format!("while {name} drains"));
        rudel(&lab, if index == 0 { other } else { name }, undrain);
        wait_shares(&lab, &three, &three.map(|each| (each, 85)));
        rounds(&format!("after {name} has drained"));
    }
    // Weights: less, more, nothing, as before.
    for (name, weight, shares) in [
        ("n1", "50", [51, 102, 102]),
        ("n3", "250", [32, 64, 160]),
        ("n2", "0", [42, 0, 213]),
        ("n2", "100", [32, 64, 160]),
        ("n3", "100", [51, 102, 102]),
        ("n1", "100", [85, 85, 85]),
    ] {
        rudel(&lab, "n2", &["weight", weight, "--node", name]);
        wait_shares(&lab, &three, &[("n1", shares[0]), ("n2", shares[1]), ("n3", shares[2])]);
        rounds(&format!("with {name} at {weight}"));
    }
    // Each goes on with a new daemon, first of the same program, then of one that was installed meanwhile.
    for upgrade in [false, true] {
        for name in three {
            if upgrade {
                let new = lab.dir().join("rudeld-new");
                fs::copy(rudeld().expect("the program"), &new).expect("a copy");
                fs::rename(&new, program(&lab)).expect("as package managers do");
            }
            rudel(&lab, name, &["restart"]);
            let working = lab.node_mut(name).working_daemon().expect("a daemon");
            let inode = |path: &Path| fs::metadata(path).expect("a file").ino();
            let runs = inode(Path::new(&format!("/proc/{working}/exe")));
            assert_eq!(runs, inode(&program(&lab)), "{name} runs what is installed");
            rounds(&format!("after the restart of {name}"));
        }
    }
    lab.wait_at_rest(&three).expect("as it was");

    let ended = before.finish().expect("sessions");
    let newcomers = newcomers.finish().expect("a report");
    let lost = lost(&ended);
    let slowest = ended.iter().map(|s| s.slowest).max().unwrap_or_default();
    let answers: usize = ended.iter().map(|s| s.answers).sum();
    say(&format!(
        "SYN cookies {syncookies}: {} connections, {answers} answers, {} lost, slowest {slowest:?}; {} of {} new ones failed",
        ended.len(),
        lost.len(),
        newcomers.failed().len(),
        newcomers.total(),
    ));
    assert!(lost.is_empty(), "{} lost:\n{}", lost.len(), lost.join("\n"));
    assert!(newcomers.failed().is_empty(), "{}", newcomers.failures());
}

/// A leaver serves its connections to their end: it must stay while there are any, and go when the last has ended.
fn stop_when_drained(lab: &mut Lab, name: &str, flows: &[(SocketAddr, SocketAddr)]) {
    let open = sessions(lab, flows);
    lab.node_mut(name).daemon().signal(libc::SIGTERM).expect("SIGTERM");
    wait_until(second(10), "the leaver to have given its buckets up", || {
        let status = lab.node(name).status().map_err(|error| error.to_string())?;
        let owned = status.0["buckets"]["owned"].as_u64().unwrap_or(u64::MAX);
        if owned == 0 { Ok(()) } else { Err(format!("it owns {owned}")) }
    })
    .expect("it gives up");
    open.wait_rounds(20).expect("answers while it leaves");
    assert_eq!(
        lab.node_mut(name).daemon().try_wait(),
        None,
        "{name} must not leave while it has connections"
    );
    let ended = open.finish().expect("sessions");
    assert!(ended.iter().any(|s| s.node == name), "{name} must have had some of them");
    let lost = lost(&ended);
    assert!(lost.is_empty(), "{} lost while {name} was leaving:\n{}", lost.len(), lost.join("\n"));
    let status =
        lab.node_mut(name).daemon().wait(second(20)).expect("it ends when the last connection has ended");
    assert!(status.success(), "{name} ended with {status}");
}

fn keeping(lab: &Lab, name: &str) -> u64 {
    let status = lab.node(name).status().expect("a status");
    status.0["buckets"]["keeping"].as_u64().expect("a count")
}

#[test]
fn a_rolling_change_loses_no_connection() {
    let Some(_serial) = root() else { return };
    rolling_change("1");
}

/// With SYN cookies for every connection, a handshake has no socket until its last segment.
#[test]
fn a_rolling_change_loses_no_connection_with_syn_cookies() {
    let Some(_serial) = root() else { return };
    rolling_change("2");
}

/// Connections that are silent until they are asked.
fn lines(lab: &Lab, flows: &[(SocketAddr, SocketAddr)]) -> Vec<Line> {
    let open = || flows.iter().map(|(source, target)| Line::open(*source, *target)).collect::<Vec<_>>();
    let lines = lab.client().run(open).expect("in the client");
    lines.into_iter().map(|line| line.expect("a connection that is answered")).collect()
}

/// Asks once on each: those of the dead are reset, all others answered by their node.
///
/// Nobody keeps the connections of the dead: once others have taken over, the first segment of a client is answered with
/// a reset, which is one round trip. A client that had to send it again would have waited for a time-out.
fn assert_reset(lines: &mut [Line], dead: &str) -> String {
    let (mut resets, mut again, mut slowest) = (0, 0, Duration::ZERO);
    for line in lines {
        let reply = line.ask().expect("a socket of ours");
        match (line.node.as_str(), &reply.outcome) {
            (node, Err(error)) if node == dead && error.kind() == ErrorKind::ConnectionReset => {
                resets += 1;
                again += u32::from(reply.sent_again > 0);
                slowest = slowest.max(reply.took);
            }
            (node, outcome) if node == dead => {
                panic!("a connection of the dead was not reset: {outcome:?} {line:?}")
            }
            (node, Ok(answered)) => assert_eq!(node, answered, "others are not touched"),
            (_, Err(error)) => panic!("lost without need: {error} {line:?}"),
        }
    }
    assert!(resets > 0, "{dead} had no connections");
    // A machine that is stopped for a fifth of a second by something else sends a segment again.
    assert!(again * 10 <= resets, "{again} of {resets} clients had to send their segment again");
    format!("{resets} resets, the slowest after {slowest:?}, {again} after a second segment")
}

fn kill_9(syncookies: &str) {
    let mut lab = cluster_with_syncookies(syncookies, Settings::default());
    let mut lines = lines(&lab, &lasting(&lab, 30_000, 120));
    let of_n2 = |lines: &[Line], vip: IpAddr| {
        lines.iter().filter(|l| l.node == "n2" && l.source.is_ipv4() == vip.is_ipv4()).count()
    };
    for vip in [VIP4, VIP6] {
        assert!(of_n2(&lines, vip) >= 5, "n2 has too few connections to {vip}");
    }
    // They are silent while n2 dies.
    lab.node_mut("n2").kill_daemon();
    lab.wait_at_rest(&["n1", "n3"]).expect("the others take over");
    say(&format!("SYN cookies {syncookies}: {}", assert_reset(&mut lines, "n2")));
}

#[test]
fn after_kill_9_connections_are_reset_on_the_first_segment_and_no_others() {
    let Some(_serial) = root() else { return };
    kill_9("1");
}

#[test]
fn after_kill_9_connections_made_by_syn_cookies_are_reset_on_the_first_segment_and_no_others() {
    let Some(_serial) = root() else { return };
    kill_9("2");
}

/// Nobody keeps the connections of the dead: their clients are told at once, on their next segment.
#[test]
fn connections_of_a_killed_node_are_reset_and_no_others() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let open = sessions(&lab, &lasting(&lab, 30_000, 100));
    lab.power_off("n2").expect("n2 dies");
    lab.wait_at_rest(&["n1", "n3"]).expect("the others go on");
    open.wait_rounds(3).expect("answers of the others");
    let ended = open.finish().expect("sessions");
    let of_n2 = ended.iter().filter(|s| s.node == "n2").count();
    assert!(of_n2 > 10, "n2 had {of_n2}");
    for session in &ended {
        match (&session.lost, session.node.as_str()) {
            (None, "n2") => panic!("a connection of n2 lives on: {session:?}"),
            (None, _) => {}
            (Some((why, _)), "n2") => {
                assert!(why.contains("reset"), "a client must be told, not left waiting: {session:?}");
            }
            (Some(_), _) => panic!("lost without need: {session:?}"),
        }
    }
}

/// Waits until a node owns nothing and keeps what it had.
fn wait_keeping(lab: &Lab, name: &str) {
    wait_until(second(20), "a node that keeps its connections and owns nothing", || {
        let status = lab.node(name).status().map_err(|error| error.to_string())?;
        let count = |key: &str| status.0["buckets"][key].as_u64().unwrap_or_default();
        match (count("owned"), count("keeping")) {
            (0, 1..) => Ok(()),
            (owned, keeping) => Err(format!("{name} owns {owned} and keeps {keeping}")),
        }
    })
    .expect("it keeps");
}

/// In the midst of a handover from n1: first one of those who gained dies, then a bucket comes back, and then the keeper
/// dies. Only the connections of the dead end.
#[test]
fn a_handover_outlives_a_new_owner_and_ends_with_its_keeper() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let kept = sessions(&lab, &lasting(&lab, 30_000, 100));
    let mut silent = lines(&lab, &lasting(&lab, 31_000, 100));
    lab.node("n1").rudel(&["drain"]).expect("rudel drain");
    wait_keeping(&lab, "n1");
    kept.wait_rounds(3).expect("answers of the keeper");
    let mut orphans = lines(&lab, &lasting(&lab, 32_000, 60));
    assert!(orphans.iter().all(|line| line.node != "n1"), "what is new goes to the new owners");

    // From n1 to n2 to n3, while n1 keeps.
    lab.node_mut("n2").kill_daemon();
    wait_until(second(20), "n3 to have everything", || {
        let counts = status::counts(&lab.node("n3").status().map_err(|e| e.to_string())?.owners());
        if counts.get("n3") == Some(&256) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .expect("the last who can serves");
    kept.wait_rounds(5).expect("answers of the keeper and of n3");
    let ended = kept.finish().expect("sessions");
    for session in &ended {
        assert_eq!(session.lost.is_some(), session.node == "n2", "{session:?}");
    }
    let told = [assert_reset(&mut silent, "n2"), assert_reset(&mut orphans, "n2")];
    silent.retain(|line| line.node != "n2");
    orphans.retain(|line| line.node != "n2");

    // Back to n1, which still keeps, and away again, with n2 among those who gain.
    let all = ["n1", "n2", "n3"];
    lab.node_mut("n2").start_daemon().expect("a daemon");
    lab.node("n1").rudel(&["undrain"]).expect("rudel undrain");
    lab.wait_at_rest(&all).expect("all serve");
    lab.node("n1").rudel(&["drain"]).expect("rudel drain");
    wait_keeping(&lab, "n1");
    for line in silent.iter_mut().chain(&mut orphans) {
        let reply = line.ask().expect("a socket of ours");
        assert_eq!(reply.outcome.as_deref().ok(), Some(line.node.as_str()), "{line:?}: {:?}", reply.outcome);
    }

    // The keeper dies: who has its buckets leaves nothing to it any more.
    lab.node_mut("n1").kill_daemon();
    lab.wait_at_rest(&["n2", "n3"]).expect("the others go on");
    for name in ["n2", "n3"] {
        wait_until(second(20), "the keeper to be given up", || {
            let events = lab.node(name).status().map_err(|error| error.to_string())?.events();
            if events.iter().any(|(kind, node, ..)| kind == "expired" && node == "n1") {
                Ok(())
            } else {
                Err(format!("{events:?}"))
            }
        })
        .expect("nothing is left to it any more");
    }
    say(&format!("{told:?}, and when the keeper died: {}", assert_reset(&mut silent, "n1")));
    assert!(orphans.iter_mut().all(|line| line.ask().is_ok_and(|reply| reply.outcome.is_ok())));
}
