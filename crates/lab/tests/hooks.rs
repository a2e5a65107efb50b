//! The administrator's program that is told what happens.
//!
//! ```text
//!    n1        n2        each with [hooks] on_change = a script that notes what it is told
//!    │         │
//!  ──┴── br0 ──┴──
//! ```

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::{cluster, root, second};
use rudel_lab::{Lab, Settings, wait_until};
use serde_json::Value;

/// Notes one line for each run; hangs while there is a file `hang-NODE` beside it.
const SCRIPT: &str = "#!/bin/sh -e
cd \"${0%/*}\"
read -r json
echo \"$RUDEL_SEQUENCE $RUDEL_EVENT $RUDEL_NODE $RUDEL_STATE $RUDEL_SERVING $json\" >> told-$RUDEL_SELF
test ! -e hang-$RUDEL_SELF || { echo $$ > hung-$RUDEL_SELF; sleep 1000; }
";

/// The words of each line but the JSON, which must say the same.
fn told(dir: &Path, node: &str) -> Vec<[String; 5]> {
    let text = fs::read_to_string(dir.join(format!("told-{node}"))).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.splitn(6, ' ').map(str::to_owned);
        let line: [String; 5] = std::array::from_fn(|_| words.next().expect("a word"));
        let json: Value = serde_json::from_str(&words.next().expect("JSON")).expect("JSON");
        assert_eq!((&json["kind"], &json["node"]), (&Value::from(&*line[1]), &Value::from(&*line[2])));
        line
    };
    text.lines().map(line).collect()
}

/// Waits until the hook was told of this event about this node; gives the node's state and whether it serves.
fn wait_told(dir: &Path, node: &str, event: &str, about: &str) -> [String; 2] {
    let mut found = None;
    wait_until(second(60), &format!("the hook of {node} to be told: {about} {event}"), || {
        let told = told(dir, node);
        let last = told.iter().rfind(|line| line[1] == event && line[2] == about);
        found = last.map(|[_, _, _, state, serving]| [state.clone(), serving.clone()]);
        if found.is_some() { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .expect("it is told");
    found.expect("it was found")
}

fn status(lab: &Lab, node: &str) -> (Option<i32>, Value) {
    let mut command = lab.node(node).rudel_command(&["status", "--json"]).expect("a command");
    let output = command.output().expect("rudel runs");
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn what_happens_is_told_in_order_whatever_the_program_and_the_daemon_go_through() {
    let Some(_serial) = root() else { return };
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path();
    let script = dir.join("notify");
    fs::write(&script, SCRIPT).expect("the script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("to be executed");
    let extra = format!("\n[hooks]\non_change = [{script:?}]\ntimeout = \"1s\"\n");
    // Long enough for a restart of a debug build within the lease.
    let mut lab = cluster(2, Settings { extra, timeout: second(5), ..Settings::default() });

    // A change, and what this node is about once it is in force.
    let active = ["active", "yes"].map(str::to_owned);
    assert_eq!(wait_told(dir, "n1", "joined", "n2"), active);
    lab.node("n1").rudel(&["drain", "--wait", "--node", "n2"]).expect("a drain");
    wait_told(dir, "n2", "state", "n2");
    wait_until(second(60), "the hook of n2 to be told that it serves nothing", || {
        match told(dir, "n2").last() {
            Some([_, _, _, state, serving]) if state == "draining" && serving == "no" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .expect("it is told");

    // A program that hangs is killed, shown, tried again, and costs the cluster nothing.
    let epoch = lab.node("n1").status().expect("a status").view().0;
    fs::write(dir.join("hang-n2"), "").expect("a file");
    lab.node("n1").rudel(&["undrain", "--node", "n2"]).expect("an order");
    wait_until(second(60), "n2 to show that its hook fails", || {
        let (code, status) = status(&lab, "n2");
        let hook = &status["hook"];
        let why = hook["last_error"].as_str().unwrap_or_default();
        let told = status["events"].as_array().expect("events").iter().any(|e| e["kind"] == "hook-failed");
        match (code, hook["ok"].as_bool(), why.contains("still running after 1s: killed"), told) {
            (Some(3), Some(false), true, true) => Ok(()),
            other => Err(format!("{other:?} {hook}")),
        }
    })
    .expect("it is shown");
    let hung = fs::read_to_string(dir.join("hung-n2")).expect("its number");
    lab.wait_at_rest(&["n1", "n2"]).expect("n2 serves again");
    assert!(lab.node("n1").status().expect("a status").view().0 <= epoch + 1, "one view for the undrain");
    fs::remove_file(dir.join("hang-n2")).expect("to be removed");
    wait_until(second(120), "the hook of n2 to work again", || match status(&lab, "n2") {
        (Some(0), status) if status["hook"]["ok"] == true && status["hook"]["waiting"] == 0 => Ok(()),
        (code, status) => Err(format!("{code:?} {}", status["hook"])),
    })
    .expect("it works again");
    assert!(!Path::new("/proc").join(hung.trim()).exists(), "what hung is dead");

    // Another daemon in its place goes on where it ended, also behind a program that was cut off.
    let before = told(dir, "n2").len();
    fs::write(dir.join("hang-n2"), "").expect("a file");
    fs::remove_file(dir.join("hung-n2")).expect("to be removed");
    lab.node("n2").rudel(&["weight", "50"]).expect("a weight");
    wait_until(second(60), "the hook of n2 to hang", || {
        if dir.join("hung-n2").exists() { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .expect("it hangs");
    lab.node("n2").rudel(&["restart"]).expect("a restart");
    fs::remove_file(dir.join("hang-n2")).expect("to be removed");
    wait_told(dir, "n2", "resumed", "n2");

    // The end is told when nothing is served any more.
    lab.node_mut("n2").terminate_daemon(second(60)).expect("n2 leaves");
    let lines = told(dir, "n2");
    let [_, event, node, state, serving] = lines.last().expect("a line");
    assert_eq!([event, node, state, serving], ["left", "n2", "left", "no"]);
    wait_told(dir, "n1", "left", "n2");

    let numbers: Vec<u64> = lines.iter().map(|line| line[0].parse().expect("a number")).collect();
    assert!(numbers.is_sorted(), "in order: {numbers:?}");
    let repeated = numbers[before..].windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(repeated > 0, "what was cut off is told again: {numbers:?}");
    let history = lab.dir().join("n2/state/lab-n2.events.jsonl");
    let history = fs::read_to_string(history).expect("the history");
    let events = history.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let first = numbers[0];
    for event in events.filter(|event| event["kind"] != "hook-failed") {
        let number = event["sequence"].as_u64().expect("a number");
        assert!(number < first || numbers.contains(&number), "never told: {event}");
    }
}
