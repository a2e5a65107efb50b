//! Configurations and machines on which the daemon must not start: one clear error each, and nothing was touched.
//!
//! ```text
//!    n1           a single machine with an interface eth0, and a daemon that ends at once
//!    │
//!  ──┴── br0 ──
//! ```

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use common::{root, second};
use rudel_lab::{Footprint, Lab, Settings};

/// One machine, with the key in place.
fn machine() -> Lab {
    let mut lab = Lab::builder().nodes(1).clients(0).build().expect("a lab");
    // Makes the key as a side effect.
    drop(lab.node_mut("n1").daemon_command().expect("a command"));
    lab
}

/// Runs a daemon that must refuse, and checks how it does.
fn assert_refused(lab: &mut Lab, command: Command, codes: &[i32], words: &[&str]) {
    let machine = Footprint::of_machine().expect("the machine before");
    let node = lab.node("n1").footprint().expect("the node before");
    let said_before = lab.node("n1").daemon_log().len();
    lab.node_mut("n1").start_daemon_as(command).expect("it starts");
    let status = lab.node_mut("n1").daemon().wait(second(10)).expect("it ends by itself");
    let log = lab.node("n1").daemon_log()[said_before..].to_owned();
    assert!(
        status.code().is_some_and(|code| codes.contains(&code)),
        "ended with {status}, not {codes:?}:\n{log}"
    );
    assert!(!log.contains("panicked"), "{log}");
    let lower = log.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "nothing about {word:?} in:\n{log}");
    }
    let errors = lower
        .lines()
        .filter(|line| line.trim_start().starts_with("error") || line.contains(" error "))
        .count();
    assert!(errors <= 1, "{errors} errors for one cause:\n{log}");
    assert_eq!(node.changes(&lab.node("n1").footprint().expect("the node after")), Vec::<String>::new());
    assert_eq!(machine.changes(&Footprint::of_machine().expect("the machine after")), Vec::<String>::new());
}

#[test]
fn a_bad_configuration_is_refused_with_the_offending_words() {
    let Some(_serial) = root() else { return };
    let mut lab = machine();
    let good = lab.settings().to_toml(&lab.key());
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("an unknown key", "quorum = 1", "quorum = 1\ncolour = \"red\"", &["colour"]),
        ("an unknown section", "[heartbeat]", "[heartbeet]", &["heartbeet"]),
        ("a wrong type", "quorum = 1", "quorum = \"one\"", &["quorum"]),
        ("a number out of range", "quorum = 1", "quorum = 0", &["quorum"]),
        ("no address", "10.74.0.10/24", "10.74.0.300/24", &["10.74.0.300"]),
        ("a prefix that is too long", "10.74.0.10/24", "10.74.0.10/33", &["10.74.0.10/33"]),
        ("the address of a group", "10.74.0.10/24", "239.1.2.3/24", &["239.1.2.3"]),
        ("an address twice", "fd74::10/64", "10.74.0.10/24", &["10.74.0.10"]),
        (
            "a timeout below three intervals",
            "timeout = \"400ms\"",
            "timeout = \"400ms\"\ninterval = \"200ms\"",
            &["interval"],
        ),
        ("a timeout out of range", "timeout = \"400ms\"", "timeout = \"1ms\"", &["timeout"]),
        ("a duration without a unit", "timeout = \"400ms\"", "timeout = 400", &["timeout"]),
        ("an unknown hash mode", "source-ip-port", "round-robin", &["round-robin"]),
        ("an impossible cluster name", "name = \"lab\"", "name = \"The Lab\"", &["The Lab"]),
        ("not TOML at all", "[cluster]", "[cluster", &["cluster"]),
    ];
    for (what, from, to, words) in cases {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{what}: nothing was replaced");
        let config = lab.dir().join("bad.toml");
        fs::write(&config, bad).expect("a configuration");
        lab.node_mut("n1").set_config(config);
        let command = lab.node("n1").daemon_command().expect("a command");
        common::say(&format!("refused: {what}"));
        assert_refused(&mut lab, command, &[2], words);
    }
}

#[test]
fn a_missing_configuration_is_an_error() {
    let Some(_serial) = root() else { return };
    let mut lab = machine();
    lab.node_mut("n1").set_config("/nowhere/rudel.toml".into());
    let command = lab.node("n1").daemon_command().expect("a command");
    assert_refused(&mut lab, command, &[1, 2], &["/nowhere/rudel.toml"]);
}

#[test]
fn a_missing_or_readable_key_is_an_error() {
    let Some(_serial) = root() else { return };
    let mut lab = machine();
    let key = lab.key();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    let command = lab.node("n1").daemon_command().expect("a command");
    assert_refused(&mut lab, command, &[1, 2], &[&key.display().to_string()]);

    let missing = lab.dir().join("no.key");
    let config = lab.dir().join("no-key.toml");
    fs::write(&config, lab.settings().to_toml(&missing)).expect("a configuration");
    lab.node_mut("n1").set_config(config.clone());
    let command = lab.node("n1").daemon_command().expect("a command");
    assert_refused(&mut lab, command, &[1, 2], &["no.key"]);

    let garbage = lab.dir().join("garbage.key");
    fs::write(&garbage, "secret\n").expect("a file");
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(&config, lab.settings().to_toml(&garbage)).expect("a configuration");
    let command = lab.node("n1").daemon_command().expect("a command");
    assert_refused(&mut lab, command, &[1, 2], &["garbage.key"]);
}

#[test]
fn a_missing_interface_is_an_error() {
    let Some(_serial) = root() else { return };
    let mut lab = machine();
    let config = lab.dir().join("eth9.toml");
    let text = lab.settings().to_toml(&lab.key()).replace("name = \"eth0\"", "name = \"eth9\"");
    fs::write(&config, text).expect("a configuration");
    lab.node_mut("n1").set_config(config);
    let command = lab.node("n1").daemon_command().expect("a command");
    assert_refused(&mut lab, command, &[1, 2], &["eth9"]);
}

#[test]
fn a_family_that_the_interface_does_not_speak_is_an_error() {
    let Some(_serial) = root() else { return };
    let mut lab = machine();
    lab.node("n1").namespace().sysctl(&[("net.ipv6.conf.eth0.disable_ipv6", "1")]).expect("no IPv6");
    let command = lab.node("n1").daemon_command().expect("a command");
    assert_refused(&mut lab, command, &[1, 2], &["ipv6", "eth0"]);
}

#[test]
fn missing_capabilities_are_an_error() {
    let Some(_serial) = root() else { return };
    let mut lab = machine();
    // Owner of all files, so that only the capabilities are missing.
    let wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let command = lab.node("n1").daemon_command_under(&wrapper).expect("a command");
    assert_refused(&mut lab, command, &[1], &["cap"]);
}

#[test]
fn a_kernel_without_bpf_is_an_error() {
    let Some(_serial) = root() else { return };
    let mut lab = machine();
    let command = lab.node("n1").daemon_command_without_bpf().expect("a command");
    assert_refused(&mut lab, command, &[1], &["bpf"]);
}

#[test]
fn a_second_daemon_of_the_same_node_is_an_error() {
    let Some(_serial) = root() else { return };
    let mut lab = common::cluster(1, Settings::default());
    let owners = lab.wait_at_rest(&["n1"]).expect("at rest");
    let mut command = lab.node("n1").daemon_command().expect("a command");
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !said.contains("panicked"), "{}: {said}", output.status);
    assert!(!said.is_empty(), "it says why");
    assert_eq!(lab.wait_at_rest(&["n1"]).expect("the first goes on"), owners);
}
