//! Daemons that do not belong: they change nothing, and somebody is told.
//!
//! ```text
//!    n1        n2        n3        n4     n4 has another key, another cluster's name,
//!    │         │         │         │      or another node's name
//!  ──┴─────────┴── br0 ──┴─────────┴──
//! ```

mod common;

use std::fs;
use std::process::Command;

use common::{cluster, ms, root, second};
use rudel_lab::{Lab, Owners, Settings, wait_until};

const MEMBERS: [&str; 3] = ["n1", "n2", "n3"];

/// A running cluster of three, and a fourth machine on the same network.
fn cluster_and_stranger() -> (Lab, Owners) {
    let mut lab = cluster(3, Settings::default());
    lab.add_node().expect("a fourth machine");
    let owners = lab.wait_at_rest(&MEMBERS).expect("at rest");
    (lab, owners)
}

/// Some member reports the stranger by the name that it claims and by its address, in one line or event.
fn wait_reported(lab: &Lab, name: &str) {
    let stranger = lab.node("n4");
    let addresses = [stranger.address4().to_string(), stranger.address6().to_string()];
    let named = |text: &str| {
        let word = text.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w == name);
        word && addresses.iter().any(|address| text.contains(address))
    };
    wait_until(second(10), &format!("a report of {name} at {}", addresses[0]), || {
        for member in MEMBERS {
            let member = lab.node(member);
            let events = member.status().map(|s| s.events()).unwrap_or_default();
            let told = events.iter().any(|(_, node, reason)| named(&format!("{node} {reason}")));
            if told || member.daemon_log().lines().any(named) {
                return Ok(());
            }
        }
        Err("none of the members has reported it".to_owned())
    })
    .expect("it is reported");
}

/// Over some time, the members go on as if nothing was there.
fn assert_unchanged(lab: &mut Lab, before: &Owners) {
    for _ in 0..20 {
        let owners = lab.wait_at_rest(&MEMBERS).expect("the members go on");
        assert_eq!(*before, owners, "the stranger has moved buckets");
        std::thread::sleep(ms(50));
    }
}

#[test]
fn a_wrong_key() {
    let Some(_serial) = root() else { return };
    let (mut lab, before) = cluster_and_stranger();
    let key = lab.dir().join("other.key");
    let made = Command::new(rudel_lab::rudel().expect("the tool")).args(["key", "new"]).arg(&key).output();
    assert!(made.expect("rudel runs").status.success());
    let config = lab.dir().join("other.toml");
    fs::write(&config, lab.settings().to_toml(&key)).expect("a configuration");
    lab.node_mut("n4").set_config(config);
    lab.node_mut("n4").start_daemon().expect("a stranger");
    wait_reported(&lab, "n4");
    assert_unchanged(&mut lab, &before);
}

#[test]
fn a_wrong_cluster_name() {
    let Some(_serial) = root() else { return };
    let (mut lab, before) = cluster_and_stranger();
    let config = lab.dir().join("other.toml");
    let settings = Settings { cluster: "other".to_owned(), ..lab.settings().clone() };
    fs::write(&config, settings.to_toml(&lab.key())).expect("a configuration");
    lab.node_mut("n4").set_config(config);
    lab.node_mut("n4").start_daemon().expect("a stranger");
    wait_reported(&lab, "n4");
    assert_unchanged(&mut lab, &before);
}

#[test]
fn a_duplicate_node_name() {
    let Some(_serial) = root() else { return };
    let (mut lab, before) = cluster_and_stranger();
    let command = lab.node("n4").daemon_command_posing_as("n2").expect("a command");
    lab.node_mut("n4").start_daemon_as(command).expect("a stranger");
    wait_reported(&lab, "n2");
    wait_until(second(10), "the duplicate to give up", || {
        if let Some(status) = lab.node_mut("n4").daemon().try_wait() {
            let log = lab.node("n4").daemon_log();
            let clear = log.lines().last().is_some_and(|l| l.contains("n2"));
            assert!(!status.success() && clear, "it ended with {status}: {log}");
            return Ok(());
        }
        match lab.node("n4").status() {
            Ok(status) if status.state() == "fenced" && !status.serving() => Ok(()),
            Ok(status) => Err(format!("state {:?}, serving {}", status.state(), status.serving())),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .expect("it gives up");
    assert_unchanged(&mut lab, &before);
}
