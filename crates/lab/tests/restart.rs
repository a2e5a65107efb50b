//! Daemons that are restarted, upgraded, killed and hung, and a cluster that does not notice while that can work.
//!
//! ```text
//!    n1          n2          n3       each: parent ── daemon
//!    │           │           │
//!  ──┴─────────── br0 ───────┴──
//!                  │
//!                  c1                 100 connections, asked on ten times a second
//! ```

mod common;
#[path = "restart/systemd.rs"]
mod systemd;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use common::{assert_none_lost, audited, cluster, epochs, lasting, ms, root, say, second, sessions};
use rudel_lab::{Lab, Settings, hang_thread, rudeld, wait_until};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
const PATIENCE: Duration = Duration::from_secs(30);

/// A lease that a new process reaches however busy the machine is.
fn patient(timeout: u64) -> Settings {
    Settings { timeout: second(timeout), interval: Some(ms(100)), ..Settings::default() }
}

fn restarts(lab: &Lab, name: &str) -> Result<u64, String> {
    let status = lab.node(name).status().map_err(|error| error.to_string())?;
    status.0["restarts"].as_u64().ok_or_else(|| "no count".to_owned())
}

/// Waits until another daemon goes on with the run of the one before.
fn wait_resumed(lab: &Lab, name: &str, count: u64) {
    wait_until(PATIENCE, "a daemon that goes on with the run", || match restarts(lab, name)? {
        found if found == count => Ok(()),
        found => Err(format!("{found} restarts of {name}, not {count}")),
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", lab.node(name).daemon_log()));
}

/// Waits until another process than `former` does the work.
fn wait_other_daemon(lab: &mut Lab, name: &str, former: u32) -> u32 {
    wait_until(PATIENCE, "another daemon", || {
        let pid = lab.node_mut(name).working_daemon().map_err(|error| error.to_string())?;
        if pid == former { Err("still the former".to_owned()) } else { Ok(pid) }
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", lab.node(name).daemon_log()))
}

fn kill(pid: u32, signal: &str) {
    let killed = std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status();
    assert!(killed.expect("sh runs").success());
}

/// What must be as before when nobody is to have noticed anything.
fn unnoticed<T>(lab: &mut Lab, story: impl FnOnce(&mut Lab) -> T) -> T {
    let owners = lab.wait_at_rest(&ALL).expect("at rest");
    let views = epochs(lab, &ALL);
    let open = sessions(lab, &lasting(lab, 30_000, 100));
    let (told, tally) = audited(lab, story);
    assert_none_lost(open);
    assert_eq!(tally.repeated, [], "answered twice, of {} queries", tally.sent);
    assert_eq!(lab.wait_at_rest(&ALL).expect("at rest"), owners, "no bucket has moved");
    assert_eq!(epochs(lab, &ALL), views, "nobody has made a view");
    say(&format!("{} queries, {} unanswered", tally.sent, tally.unanswered));
    told
}

#[test]
fn every_node_in_turn_is_restarted_by_its_service_manager_and_nobody_notices() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, patient(5));
    unnoticed(&mut lab, |lab| {
        for name in ALL {
            // As systemd does with RestartKillSignal=SIGUSR2: the whole service ends, and another begins.
            lab.node_mut(name).daemon().signal(libc::SIGUSR2).expect("SIGUSR2");
            let status = lab.node_mut(name).daemon().wait(PATIENCE).expect("it ends");
            assert!(status.success(), "{name} ended with {status}");
            lab.node_mut(name).start_daemon().expect("it starts");
            wait_resumed(lab, name, 1);
        }
    });
}

#[test]
fn every_node_in_turn_is_restarted_in_place_and_nobody_notices() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, patient(5));
    unnoticed(&mut lab, |lab| {
        for name in ALL {
            let former = lab.node_mut(name).working_daemon().expect("a daemon");
            let said = lab.node(name).rudel(&["restart"]).expect("rudel restart");
            assert!(said.contains("without a gap"), "{said}");
            assert_ne!(lab.node_mut(name).working_daemon().expect("a daemon"), former);
            // And once more, as a signal asks for it.
            lab.node_mut(name).daemon().signal(libc::SIGUSR1).expect("SIGUSR1");
            wait_resumed(lab, name, 2);
        }
    });
}

#[test]
fn an_upgrade_takes_the_file_that_is_in_place_now() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, patient(5));
    let program = lab.dir().join("rudeld-installed");
    fs::copy(rudeld().expect("the program"), &program).expect("a copy");
    lab.node_mut("n2").terminate_daemon(PATIENCE).expect("n2 leaves");
    let command = lab.node("n2").daemon_command_of(&program).expect("a command");
    lab.node_mut("n2").start_daemon_as(command).expect("n2 starts");
    lab.wait_at_rest(&ALL).expect("n2 is back");
    lab.wait_answering().expect("answers");
    unnoticed(&mut lab, |lab| {
        let new = lab.dir().join("rudeld-new");
        fs::copy(rudeld().expect("the program"), &new).expect("a copy");
        fs::rename(&new, &program).expect("as package managers do");
        lab.node("n2").rudel(&["restart"]).expect("rudel restart");
        let working = lab.node_mut("n2").working_daemon().expect("a daemon");
        let inode = |path: &str| fs::metadata(path).expect("a file").ino();
        assert_eq!(inode(&format!("/proc/{working}/exe")), fs::metadata(&program).expect("a file").ino());
    });
}

#[test]
fn a_key_is_rotated_node_by_node_and_nobody_notices() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(3).settings(patient(5)).build().expect("a lab");
    // Makes the cluster's key as a side effect; here every node has a file of its own.
    drop(lab.node("n1").daemon_command().expect("a command"));
    let config = fs::read_to_string(lab.config()).expect("the configuration");
    let key = |lab: &Lab, name: &str| lab.dir().join(format!("{name}.key"));
    for name in ALL {
        fs::copy(lab.key(), key(&lab, name)).expect("a key file");
        let own = lab.dir().join(format!("{name}.toml"));
        let text = config.replace(&lab.key().display().to_string(), &key(&lab, name).display().to_string());
        fs::write(&own, text).expect("a configuration");
        lab.node_mut(name).set_config(own);
    }
    lab.start().expect("a cluster");
    let old = lab.node("n1").status().expect("a status").0["nodes"][0]["keys"].clone();
    assert_eq!(old.as_array().map(Vec::len), Some(1), "{old}");

    let rotate = |lab: &Lab, name: &str, step: &str| {
        let said = lab.node(name).rudel(&["key", "rotate", step]);
        said.unwrap_or_else(|error| panic!("{step} on {name}: {error:#}"))
    };
    let refused = |lab: &Lab, name: &str, step: &str, words: &[&str]| {
        let before = fs::read(key(lab, name)).expect("the key file");
        let output = lab.node(name).rudel_command(&["key", "rotate", step]).expect("a command").output();
        let output = output.expect("rudel runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{step} on {name}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{step} on {name}: {said}");
        assert_eq!(fs::read(key(lab, name)).expect("the key file"), before, "nothing has changed");
    };
    unnoticed(&mut lab, |lab| {
        let said = rotate(lab, "n1", "accept");
        assert!(said.contains("to n2, n3 (scp -p), and there: `rudel key rotate accept`"), "{said}");
        refused(lab, "n1", "switch", &["n2 does not accept the key", "cut off"]);
        refused(lab, "n2", "accept", &["n1 has a new key already", "copy its key file"]);
        for name in ["n2", "n3"] {
            fs::copy(key(lab, "n1"), key(lab, name)).expect("a copy");
            rotate(lab, name, "accept");
        }
        refused(lab, "n1", "retire", &["still seals with the old key", "`rudel key rotate switch`"]);
        rotate(lab, "n1", "switch");
        refused(lab, "n1", "retire", &["n2 still seals with", "on n2: `rudel key rotate switch`"]);
        rotate(lab, "n2", "switch");
        let said = rotate(lab, "n3", "switch");
        assert!(said.contains("`rudel key rotate retire` on n1, n2, n3"), "{said}");
        for name in ["n3", "n1", "n2"] {
            rotate(lab, name, "retire");
        }
    });
    for name in ALL {
        let status = lab.node(name).status().expect("a status").0;
        let nodes = status["nodes"].as_array().expect("nodes");
        assert_eq!(nodes.len(), 3);
        let new = &nodes[0]["keys"];
        assert!(nodes.iter().all(|node| node["keys"] == *new) && *new != old, "{nodes:?}");
    }
    // A node that begins anew has the same buckets in mind: the seed is in the file.
    let owners = lab.wait_at_rest(&ALL).expect("at rest");
    lab.node_mut("n3").terminate_daemon(PATIENCE).expect("n3 leaves");
    lab.wait_at_rest(&["n1", "n2"]).expect("the others go on");
    lab.node_mut("n3").start_daemon().expect("n3 starts");
    let after = lab.wait_at_rest(&ALL).expect("n3 is back");
    assert_eq!(owners.len(), after.len());
    assert_eq!(epochs(&lab, &ALL).windows(2).filter(|pair| pair[0] != pair[1]).count(), 0);
}

#[test]
fn a_successor_that_cannot_begin_changes_nothing() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, patient(5));
    let good = fs::read_to_string(lab.config()).expect("the configuration");
    let working = lab.node_mut("n1").working_daemon().expect("a daemon");
    unnoticed(&mut lab, |lab| {
        let refused = |lab: &Lab, words: &str| {
            let output = lab.node("n1").rudel_command(&["restart"]).expect("a command").output();
            let output = output.expect("rudel runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), said.contains(words)), (Some(1), true), "{said}");
        };
        let bad = lab.dir().join("restart.toml");
        let link = |text: &str| {
            fs::write(&bad, text).expect("a file");
            fs::rename(&bad, lab.config()).expect("in place");
        };
        link(&good.replace("quorum = 1", "quorum = \"one\""));
        // The tool reads the same file for the socket; it is given one.
        refused(lab, "quorum");
        link(&good.replace("hash = \"source-ip-port\"", "hash = \"none\""));
        refused(lab, "the same on every node");
        link(&good);
    });
    assert_eq!(lab.node_mut("n1").working_daemon().expect("a daemon"), working);
    let events = lab.node("n1").status().expect("a status").events();
    assert!(events.iter().filter(|(kind, ..)| kind == "restart-failed").count() == 2, "{events:?}");
}

#[test]
fn a_daemon_that_is_killed_is_replaced_within_its_lease_and_nobody_notices() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, patient(5));
    unnoticed(&mut lab, |lab| {
        for name in ["n1", "n3"] {
            let working = lab.node_mut(name).working_daemon().expect("a daemon");
            kill(working, "KILL");
            wait_resumed(lab, name, 1);
        }
    });
}

#[test]
fn a_weight_and_a_drain_outlive_the_daemon() {
    let Some(_serial) = root() else { return };
    let lab = cluster(3, patient(5));
    lab.node("n1").rudel(&["weight", "10"]).expect("a weight");
    lab.node("n2").rudel(&["drain"]).expect("a drain");
    wait_until(PATIENCE, "n2 to have given its share away", || {
        let status = lab.node("n3").status().map_err(|error| error.to_string())?;
        let members = status.members();
        let of =
            |name: &str| members.iter().find(|member| member.name == name).map(|m| (m.buckets, m.weight));
        match (of("n1"), of("n2")) {
            (Some((1.., 10)), Some((0, _))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .expect("weights in force");
    let views = epochs(&lab, &ALL);
    for name in ["n1", "n2"] {
        lab.node(name).rudel(&["restart"]).expect("rudel restart");
    }
    // The interval is a tenth of a second: what they say now, the others have heard twenty times.
    let open = sessions(&lab, &lasting(&lab, 30_000, 100));
    open.wait_rounds(20).expect("answers");
    drop(open);
    assert_eq!(epochs(&lab, &ALL), views);
    assert_eq!(lab.node("n2").status().expect("a status").state(), "draining");
}

#[test]
fn the_others_need_not_wait_for_a_daemon_that_dies_again_and_again() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, patient(10));
    let timeout = lab.settings().timeout;
    let mut working = lab.node_mut("n2").working_daemon().expect("a daemon");
    for count in 1..=2 {
        kill(working, "KILL");
        wait_resumed(&lab, "n2", count);
        working = lab.node_mut("n2").working_daemon().expect("a daemon");
    }
    let died = Instant::now();
    kill(working, "KILL");
    wait_until(PATIENCE, "the others to take over", || {
        let status = lab.node("n1").status().map_err(|error| error.to_string())?;
        let left = status.members().into_iter().filter(|member| member.buckets > 0).count();
        if left == 2 { Ok(()) } else { Err(format!("{left} nodes have buckets")) }
    })
    .expect("they take over");
    let took = died.elapsed();
    say(&format!("taken over after {took:?}; the time-out is {timeout:?}"));
    assert!(took < timeout / 2, "{took:?}: no better than the time-out");
    let told = lab.node("n1").status().expect("a status").events();
    assert!(told.iter().any(|(kind, node, _)| kind == "left" && node == "n2"), "{told:?}");
    // After a pause it comes back, as a new run.
    lab.wait_at_rest(&ALL).expect("n2 is back");
    assert_eq!(restarts(&lab, "n2"), Ok(0));
}

#[test]
fn a_daemon_that_cannot_be_replaced_is_said_good_bye_for_and_leaves_nothing_behind() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, patient(10));
    lab.node_mut("n2").terminate_daemon(PATIENCE).expect("n2 leaves");
    let clean = lab.node("n2").footprint().expect("the node without a daemon");
    let own = lab.dir().join("own.toml");
    fs::copy(lab.config(), &own).expect("a configuration of its own");
    lab.node_mut("n2").set_config(own.clone());
    lab.node_mut("n2").start_daemon().expect("n2 starts");
    lab.wait_at_rest(&ALL).expect("n2 is back");
    fs::write(&own, "nonsense").expect("a bad configuration");
    let working = lab.node_mut("n2").working_daemon().expect("a daemon");
    let died = Instant::now();
    kill(working, "KILL");
    let status = lab.node_mut("n2").daemon().wait(PATIENCE).expect("the parent gives up");
    assert_eq!(status.code(), Some(2), "only an administrator can help");
    lab.wait_at_rest(&["n1", "n3"]).expect("the others go on");
    assert!(died.elapsed() < lab.settings().timeout, "they need not wait for the time-out");
    assert_eq!(clean.changes(&lab.node("n2").footprint().expect("the node after")), Vec::<String>::new());
}

#[test]
fn a_daemon_that_hangs_is_killed_and_replaced() {
    let Some(_serial) = root() else { return };
    let settings = Settings { timeout: ms(500), ..Settings::default() };
    let mut lab = cluster(3, settings);
    let working = lab.node_mut("n2").working_daemon().expect("a daemon");
    let pulse = fs::read_dir(format!("/proc/{working}/task"))
        .expect("its threads")
        .flatten()
        .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "pulse"))
        .and_then(|task| task.file_name().to_str().and_then(|name| name.parse().ok()))
        .expect("a pulse thread");
    let hung = hang_thread(pulse).expect("it hangs");
    lab.wait_at_rest(&["n1", "n3"]).expect("the others take over");
    hung.bury().expect("it was killed");
    wait_other_daemon(&mut lab, "n2", working);
    lab.wait_at_rest(&ALL).expect("n2 is back");
    assert!(lab.node("n2").daemon_log().contains("the daemon hangs"));
}

#[test]
fn to_stop_the_main_process_is_to_stop_the_node_and_to_kill_it_is_to_kill_it() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let working = lab.node_mut("n2").working_daemon().expect("a daemon");
    lab.node_mut("n2").daemon().signal(libc::SIGSTOP).expect("SIGSTOP");
    lab.wait_at_rest(&["n1", "n3"]).expect("the others take over");
    lab.node_mut("n2").daemon().signal(libc::SIGCONT).expect("SIGCONT");
    lab.wait_at_rest(&ALL).expect("n2 goes on");
    assert_eq!(lab.node_mut("n2").working_daemon().expect("a daemon"), working, "the same daemon");

    lab.node_mut("n2").daemon().signal(libc::SIGKILL).expect("SIGKILL");
    wait_until(PATIENCE, "the daemon to die with its parent", || {
        match fs::metadata(format!("/proc/{working}")) {
            Err(_) => Ok(()),
            Ok(_) => Err("it lives".to_owned()),
        }
    })
    .expect("it is dead");
    lab.wait_at_rest(&["n1", "n3"]).expect("the others take over");
    let _ = lab.node_mut("n2").daemon().wait(PATIENCE).expect("it has ended");
    lab.node_mut("n2").start_daemon().expect("n2 starts");
    lab.wait_at_rest(&ALL).expect("n2 is back");
}
