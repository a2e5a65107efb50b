//! `rudeld --record FILE`: what a daemon was told can be told again, elsewhere, and leads to the same end.
//!
//! ```text
//!    n1 ──► n1.jsonl ──► replay       n1 sees n2 come, die, come again, and leaves
//!    │         n2
//!  ──┴── br0 ──┴──
//! ```

mod common;

use std::fs;

use common::{root, second};
use rudel_lab::{Lab, wait_until};
use rudel_proto::record::Replay;

#[test]
fn a_recording_replays_to_the_same_end() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(2).build().expect("a lab");
    let file = lab.dir().join("n1.jsonl");
    let mut command = lab.node("n1").daemon_command().expect("a command");
    command.arg("--record").arg(&file);
    for name in ["n1", "n2"] {
        lab.node_mut(name).start_services().expect("servers");
    }
    lab.node_mut("n1").start_daemon_as(command).expect("a daemon");
    lab.node_mut("n2").start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1", "n2"]).expect("a cluster");
    lab.node_mut("n2").kill_daemon();
    lab.wait_at_rest(&["n1"]).expect("n1 goes on");
    lab.node_mut("n2").start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1", "n2"]).expect("a cluster again");

    lab.node_mut("n1").daemon().signal(libc::SIGTERM).expect("SIGTERM");
    let mut last_epoch = 0;
    let ended = wait_until(second(20), "n1 to leave", || {
        if let Ok(status) = lab.node("n1").status() {
            last_epoch = status.view().0;
        }
        lab.node_mut("n1").daemon().try_wait().ok_or_else(|| "it still runs".to_owned())
    });
    assert!(ended.expect("it ends").success());
    let log = lab.node("n1").daemon_log();
    assert!(!log.contains("recording"), "the recording has its faults:\n{log}");

    let recording = fs::read_to_string(&file).expect("the recording");
    let mut lines = recording.lines();
    let mut replay = Replay::start(lines.next().expect("a first line")).expect("a start");
    let mut epochs = Vec::new();
    for line in lines {
        let (_, answer) = replay.step(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        assert_eq!(answer, Ok(()), "{line}");
        let machine = replay.machine();
        while machine.poll_action().is_some() {}
        epochs.extend(machine.view().map(|view| view.id.epoch));
    }
    epochs.dedup();
    assert!(epochs.len() >= 4, "alone, n2, alone, n2, leaving: {epochs:?}");
    assert_eq!(epochs.last(), Some(&last_epoch), "{epochs:?}");
    let key = fs::read_to_string(lab.key()).expect("the key");
    let secret = key.lines().find(|line| !line.starts_with('#')).expect("a key").trim();
    assert!(!recording.contains(secret), "a recording holds no key");
}
