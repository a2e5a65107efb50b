//! What a daemon leaves behind on a machine: nothing, once it has left properly.
//!
//! ```text
//!    n1        n2         addresses on lo, settings of eth0, programs, pins, memberships, files
//!    │         │
//!  ──┴── br0 ──┴──
//! ```

mod common;

use common::{root, second};
use rudel_lab::{Footprint, Lab, Settings};

/// The settings that the daemon changes, at values that nobody would guess to restore.
fn unusual_settings(lab: &Lab) {
    lab.node("n1")
        .namespace()
        .sysctl(&[
            ("net.ipv4.conf.eth0.arp_ignore", "2"),
            ("net.ipv4.conf.eth0.arp_announce", "1"),
            ("net.ipv4.conf.all.arp_announce", "1"),
        ])
        .expect("settings");
}

fn prepared() -> (Lab, Footprint) {
    let lab = Lab::builder().nodes(2).settings(Settings::default()).build().expect("a lab");
    unusual_settings(&lab);
    let before = lab.node("n1").footprint().expect("before");
    (lab, before)
}

fn assert_nothing_left(lab: &Lab, before: &Footprint) {
    let after = lab.node("n1").footprint().expect("after");
    assert_eq!(left_behind(before, &after), Vec::<String>::new());
}

/// What a daemon may not leave. Allowed are its lock file, whose removal could not be made safe against a daemon that
/// starts at the same moment, and the directory that all daemons of a machine share.
fn left_behind(before: &Footprint, after: &Footprint) -> Vec<String> {
    let mut changes = before.changes(after);
    changes.retain(|line| {
        !(line.starts_with("+ file ") && (line.ends_with(".lock") || line.ends_with("/bpf/rudel")))
    });
    changes
}

fn leave(lab: &mut Lab) {
    let status = lab.node_mut("n1").terminate_daemon(second(20)).expect("it ends");
    assert!(status.success(), "it ended with {status}");
}

#[test]
fn a_proper_leave() {
    let Some(_serial) = root() else { return };
    let machine = Footprint::of_machine().expect("the machine before");
    let (mut lab, before) = prepared();
    lab.start().expect("a cluster");
    let during = lab.node("n1").footprint().expect("during");
    assert!(!before.changes(&during).is_empty(), "the footprint sees what a daemon does");
    leave(&mut lab);
    assert_nothing_left(&lab, &before);
    drop(lab);
    assert_eq!(machine.changes(&Footprint::of_machine().expect("the machine after")), Vec::<String>::new());
}

/// After a kill the kernel's state stays on purpose; the next daemon takes it over, and knows what was there before.
#[test]
fn a_kill_a_restart_and_a_leave() {
    let Some(_serial) = root() else { return };
    let (mut lab, before) = prepared();
    lab.start().expect("a cluster");
    for _ in 0..2 {
        lab.node_mut("n1").kill_daemon();
        lab.node_mut("n1").start_daemon().expect("it starts again");
        lab.wait_at_rest(&["n1", "n2"]).expect("and is back");
    }
    leave(&mut lab);
    assert_nothing_left(&lab, &before);
}

/// A restart after the others have given the dead node up.
#[test]
fn a_kill_a_late_restart_and_a_leave() {
    let Some(_serial) = root() else { return };
    let (mut lab, before) = prepared();
    lab.start().expect("a cluster");
    lab.node_mut("n1").kill_daemon();
    lab.wait_at_rest(&["n2"]).expect("n2 takes over");
    lab.node_mut("n1").start_daemon().expect("it starts again");
    lab.wait_at_rest(&["n1", "n2"]).expect("and is back");
    leave(&mut lab);
    assert_nothing_left(&lab, &before);
}

/// The last node has nobody to hand over to, and leaves all the same.
#[test]
fn the_last_one_leaves_too() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(1).build().expect("a lab");
    // Some kernels put files of their own into every BPF file system.
    let pins = |lab: &Lab| {
        let mut pins = Footprint::default();
        pins.add_files(&lab.bpffs());
        pins
    };
    let before = pins(&lab);
    lab.start().expect("a cluster of one");
    leave(&mut lab);
    assert!(!lab.node("n1").socket().exists());
    assert_eq!(left_behind(&before, &pins(&lab)), Vec::<String>::new());
}
