//! Daemons that do not belong: they change nothing, and somebody is told.
//!
//! ```text
//!    n1        n2        n3        n4     n4 has another key, another cluster's name, another node's name,
//!    │         │         │         │      or a configuration that differs
//!  ──┴─────────┴── br0 ──┴─────────┴──
//!                   │
//!                   c1                    opens a connection every 2 ms
//! ```

mod common;

use std::fs;
use std::process::Command;

use common::{at, cluster, epochs, prober, root, second};
use rudel_lab::{Lab, Owners, Settings, VIP4, VIP6, client, wait_until};

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

/// Over some time, the members go on as if nothing was there. A stranger of another cluster with the same address answers
/// too, as any machine does that is given an address that is taken: this is not about what clients see of it.
fn assert_members_unchanged(lab: &mut Lab, before: &Owners) {
    let prober = prober(lab);
    for _ in 0..20 {
        let owners = lab.wait_at_rest(&MEMBERS).expect("the members go on");
        assert_eq!(*before, owners, "the stranger has moved buckets");
        prober.wait_questions(25).expect("questions");
    }
}

/// Over some time, the members go on as if nothing was there, and no client notices anything.
fn assert_unchanged(lab: &mut Lab, before: &Owners) {
    let prober = prober(lab);
    for _ in 0..20 {
        let owners = lab.wait_at_rest(&MEMBERS).expect("the members go on");
        assert_eq!(*before, owners, "the stranger has moved buckets");
        prober.wait_answers(25).expect("answers");
    }
    let report = prober.finish().expect("a report");
    assert!(report.failed().is_empty(), "{}", report.failures());
    assert!(report.per_node().keys().all(|name| MEMBERS.contains(&name.as_str())), "{:?}", report.per_node());
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
    assert_members_unchanged(&mut lab, &before);
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
    assert_members_unchanged(&mut lab, &before);
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

/// Starts n4 with a configuration that must not differ and does: it waits outside, and every member says why.
fn stay_outside(lab: &mut Lab, before: &Owners, settings: &Settings) {
    let views = epochs(lab, &MEMBERS);
    let config = lab.dir().join("other.toml");
    fs::write(&config, settings.to_toml(&lab.key())).expect("a configuration");
    let right = lab.config();
    lab.node_mut("n4").start_services().expect("servers");
    lab.node_mut("n4").set_config(config);
    lab.node_mut("n4").start_daemon().expect("a stranger");
    wait_until(second(10), "every member to report the difference", || {
        for name in MEMBERS {
            let events = lab.node(name).status().map_err(|e| format!("{e:#}"))?.events();
            if !events.iter().any(|(kind, node, _)| kind == "mismatch" && node == "n4") {
                return Err(format!("{name} has {events:?}"));
            }
        }
        Ok(())
    })
    .expect("it is reported");
    assert_unchanged(lab, before);
    assert_eq!(epochs(lab, &MEMBERS), views, "no view was made because of it");
    let status = lab.node("n4").status().expect("a status");
    assert!(!status.serving() && status.state() != "active", "it serves nothing: {}", status.0);

    // With the cluster's own file it is welcome.
    assert!(lab.node_mut("n4").terminate_daemon(second(20)).expect("it ends").success());
    assert_unchanged(lab, before);
    lab.node_mut("n4").set_config(right);
    lab.node_mut("n4").start_daemon().expect("a fourth node");
    lab.wait_at_rest(&["n1", "n2", "n3", "n4"]).expect("it joins");
}

#[test]
fn another_hash() {
    let Some(_serial) = root() else { return };
    let (mut lab, before) = cluster_and_stranger();
    let settings = Settings { hash: "source-ip".to_owned(), ..lab.settings().clone() };
    stay_outside(&mut lab, &before, &settings);
}

#[test]
fn another_address() {
    let Some(_serial) = root() else { return };
    let (mut lab, before) = cluster_and_stranger();
    let addresses = vec![format!("{VIP4}/24"), format!("{VIP6}/64"), "10.74.0.77/24".to_owned()];
    let settings = Settings { addresses, ..lab.settings().clone() };
    let (namespace, source) = (lab.client().namespace().clone(), at(lab.client().source(VIP4, 6, 1), 0));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let target = "10.74.0.77:80".parse().expect("an address");
            namespace.run(|| client::http_get(source, target, second(3))).expect("in the client")
        });
        stay_outside(&mut lab, &before, &settings);
        assert!(asking.join().expect("no panic").is_err(), "nobody serves the address that only n4 knows");
    });
    assert_eq!(lab.client().neighbour("10.74.0.77".parse().expect("an address")).expect("neighbours"), None);
}
