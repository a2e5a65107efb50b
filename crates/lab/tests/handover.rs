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

use std::net::SocketAddr;

use common::{at, cluster, ms, root, say, second};
use rudel_lab::service::LASTING_PORT;
use rudel_lab::session::{Session, Sessions};
use rudel_lab::{Lab, Settings, VIP4, VIP6, wait_until};

fn flows(lab: &Lab, count: u16) -> Vec<(SocketAddr, SocketAddr)> {
    (0..count)
        .map(|i| {
            let vip = if i % 2 == 0 { VIP4 } else { VIP6 };
            let host = u8::try_from(i % 250).expect("below 250");
            (at(lab.client().source(vip, 5, host), 30_000 + i), at(vip, LASTING_PORT))
        })
        .collect()
}

fn sessions(lab: &Lab, count: u16) -> Sessions {
    let sessions = Sessions::start(lab.client().namespace(), &flows(lab, count), ms(100));
    sessions.wait_rounds(3).expect("connections that are answered");
    sessions
}

fn lost(sessions: &[Session]) -> Vec<String> {
    sessions
        .iter()
        .filter_map(|s| {
            s.lost.as_ref().map(|(why, _)| format!("{} -> {} at {}: {why}", s.source, s.target, s.node))
        })
        .collect()
}

fn rolling_change(syncookies: &str) {
    let mut lab = cluster(3, Settings::default());
    for name in ["n1", "n2", "n3"] {
        let setting = ("net.ipv4.tcp_syncookies", syncookies);
        lab.node(name).namespace().sysctl(&[setting]).expect("a setting of the namespace");
    }
    let before = sessions(&lab, 200);

    // A fourth node joins: a quarter of the buckets moves, with connections open in nearly all of them.
    let node = lab.add_node().expect("a fourth node");
    node.start_services().expect("servers");
    node.start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1", "n2", "n3", "n4"]).expect("it joins");
    before.wait_rounds(5).expect("answers after the join");
    let kept: u64 = ["n1", "n2", "n3"].iter().map(|n| keeping(&lab, n)).sum();
    assert!(kept > 0, "somebody must keep connections of the buckets that n4 got");

    // And leaves again while the others still keep what they gave it: the buckets come home.
    let late = sessions_from(&lab, 31_000, 40);
    stop_when_drained(&mut lab, "n4", &late);
    lab.wait_at_rest(&["n1", "n2", "n3"]).expect("three again");
    before.wait_rounds(5).expect("answers after the leave");

    let ended = before.finish().expect("sessions");
    let lost = lost(&ended);
    let slowest = ended.iter().map(|s| s.slowest).max().unwrap_or_default();
    let answers: usize = ended.iter().map(|s| s.answers).sum();
    say(&format!("{} connections, {answers} answers, {} lost, slowest {slowest:?}", ended.len(), lost.len()));
    assert!(lost.is_empty(), "{} lost:\n{}", lost.len(), lost.join("\n"));
}

/// Connections from other ports than [`sessions`] uses.
fn sessions_from(lab: &Lab, port: u16, count: u16) -> Vec<(SocketAddr, SocketAddr)> {
    flows(lab, count)
        .into_iter()
        .map(|(source, target)| (at(source.ip(), source.port() - 30_000 + port), target))
        .collect()
}

/// A leaver serves its connections to their end: it must stay while there are any, and go when the last has ended.
fn stop_when_drained(lab: &mut Lab, name: &str, flows: &[(SocketAddr, SocketAddr)]) {
    let open = Sessions::start(lab.client().namespace(), flows, ms(100));
    open.wait_rounds(3).expect("connections that are answered");
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

/// Nobody keeps the connections of the dead: their clients are told at once, on their next segment.
#[test]
fn connections_of_a_killed_node_are_reset_and_no_others() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let open = sessions(&lab, 100);
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
