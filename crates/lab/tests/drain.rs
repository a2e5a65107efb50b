//! Maintenance under way: shares are taken away, given back and re-weighted while a hundred connections are asked on.
//!
//! ```text
//!    n1          n2            n3         rudel drain, undrain, weight, on the node itself
//!    │           │ drain       │ weight   or with --node from another
//!  ──┴───────────┴──── br0 ────┴──
//!                   │
//!                   c1                    long-lived connections, asked on ten times a second
//! ```

mod common;

use std::io::Read as _;
use std::process::{Child, Stdio};

use common::{assert_none_lost, at, cluster, https, lasting, lost, root, say, second, sessions};
use rudel_lab::{Lab, Settings, status, wait_until};
use serde_json::Value;

const ALL: [&str; 3] = ["n1", "n2", "n3"];

/// Who would own each bucket, as `rudel plan` says on a node.
fn plan(lab: &Lab, node: &str, weight: &str) -> status::Owners {
    let text = lab.node(node).rudel(&["plan", "--weight", weight, "--json"]).expect("a plan");
    let plan: Value = serde_json::from_str(&text).expect("JSON");
    let owners = plan["owners"].as_array().expect("owners");
    owners.iter().map(|owner| owner.as_str().map(str::to_owned)).collect()
}

/// Waits until all nodes are settled in one view with these owners.
fn wait_for(lab: &Lab, owners: &status::Owners) {
    wait_until(second(10), "the shares that were planned", || {
        for name in ALL {
            let status = lab.node(name).status().map_err(|error| format!("{name}: {error:#}"))?;
            let given = status.owners().iter().filter(|owner| owner.as_deref() == Some(name)).count();
            let owned = number(&status.0, "/buckets/owned");
            if status.owners() != *owners {
                let (is, wanted) = (status::counts(&status.owners()), status::counts(owners));
                return Err(format!("{name}: shares are {is:?}, planned {wanted:?}"));
            }
            if !status.settled() || owned != given as u64 {
                return Err(format!("{name} owns {owned} of {given} buckets"));
            }
        }
        Ok(())
    })
    .expect("as planned");
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn state_of(lab: &Lab, asked: &str, node: &str) -> (String, u64) {
    let status = lab.node(asked).status().expect("a status");
    let member = status.members().into_iter().find(|member| member.name == node).expect("a member");
    (member.state, member.weight)
}

/// Waits until every node tells of an event.
fn wait_for_event(lab: &Lab, kind: &str, about: &str) {
    wait_until(second(10), &format!("{kind} of {about} in all histories"), || {
        for name in ALL {
            let events = lab.node(name).status().map_err(|error| format!("{error:#}"))?.events();
            if !events.iter().any(|(k, node, _)| k == kind && node == about) {
                return Err(format!("{name}: {events:?}"));
            }
        }
        Ok(())
    })
    .expect("an event");
}

/// Plans a change at one node, makes it, and waits until it is as planned.
fn change(lab: &Lab, node: &str, planned: &str, command: &[&str]) -> String {
    let owners = plan(lab, node, planned);
    let said = lab.node(node).rudel(command).expect("an order that is accepted");
    wait_for(lab, &owners);
    said
}

/// Which nodes answer new connections.
fn answering(lab: &Lab, port: u16) -> Vec<String> {
    let flows: Vec<_> =
        lasting(lab, port, 60).into_iter().map(|(source, target)| (source, at(target.ip(), 80))).collect();
    let mut names = https(lab, &flows);
    names.sort();
    names.dedup();
    names
}

#[test]
fn draining_undraining_and_weighing_loses_no_connection_and_gives_the_shares_that_were_planned() {
    let Some(_serial) = root() else { return };
    let lab = cluster(3, Settings::default());
    let open = sessions(&lab, &lasting(&lab, 30_000, 100));

    // By its own tool, and by another's.
    let said = change(&lab, "n2", "n2=0", &["drain"]);
    assert_eq!(said.trim(), "n2 drains: new connections go to others, open ones stay until they end");
    assert_eq!(state_of(&lab, "n1", "n2"), ("draining".to_owned(), 100));
    wait_for_event(&lab, "draining", "n2");
    open.wait_rounds(5).expect("answers while n2 drains");
    let kept = lab.node("n1").status().expect("a status");
    let kept =
        kept.0["nodes"].as_array().expect("nodes").iter().find(|n| n["name"] == "n2").expect("n2").clone();
    assert!(number(&kept, "/keeping") > 0 && number(&kept, "/connections") > 0, "{kept}");
    assert_eq!(answering(&lab, 40_000), ["n1", "n3"], "new connections go to the others");

    change(&lab, "n1", "n3=0", &["drain", "--node", "n3"]);
    open.wait_rounds(5).expect("answers while n2 and n3 drain");
    assert_eq!(answering(&lab, 41_000), ["n1"]);
    let history = lab.node("n3").status().expect("a status").events();
    let ordered = ("ordered".to_owned(), "n1".to_owned(), "ordered this node to drain".to_owned());
    assert!(history.contains(&ordered), "{history:?}");

    // There is nobody left to take over what n1 has.
    for command in [&["drain"][..], &["weight", "0"]] {
        let refused = lab.node("n1").rudel(command).expect_err("n1 is the last");
        assert!(format!("{refused:#}").contains("nobody could take over what n1 serves"), "{refused:#}");
    }
    let unknown = lab.node("n1").rudel(&["drain", "--node", "n9"]).expect_err("no such node");
    assert!(format!("{unknown:#}").contains("there is no node n9: the nodes are n1, n2, n3"), "{unknown:#}");

    // Back, the other way round.
    change(&lab, "n1", "n2=100", &["undrain", "--node", "n2"]);
    change(&lab, "n3", "n3=100", &["undrain"]);
    wait_for_event(&lab, "undrained", "n2");
    wait_for_event(&lab, "undrained", "n3");
    open.wait_rounds(5).expect("answers of three");

    change(&lab, "n1", "n1=50", &["weight", "50"]);
    open.wait_rounds(2).expect("answers after the first weight");
    change(&lab, "n1", "n3=250", &["weight", "250", "--node", "n3"]);
    open.wait_rounds(2).expect("answers after the second");
    assert_eq!(state_of(&lab, "n2", "n3").1, 250);
    // A member that votes and has no share, and back.
    change(&lab, "n3", "n2=0", &["weight", "0", "--node", "n2"]);
    open.wait_rounds(5).expect("answers after the third");
    change(&lab, "n2", "n2=100", &["weight", "100"]);
    assert_none_lost(open);
}

/// A `rudel drain --wait` that runs beside the test; killed when dropped.
struct Waiting(Child);

impl Waiting {
    fn start(lab: &Lab, node: &str, arguments: &[&str]) -> Self {
        let mut command = lab.node(node).rudel_command(arguments).expect("a command");
        Waiting(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("rudel"))
    }

    fn still_waits(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }

    /// Its exit code, and what it said on stdout and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        let status = wait_until(second(20), "rudel drain --wait to return", || {
            self.0.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it waits".to_owned())
        })
        .expect("an end");
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.0.stdout.take().expect("piped").read_to_string(&mut stdout).expect("text");
        self.0.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        (status.code(), stdout, stderr)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It has ended already, but in a test that fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a node counts open connections in the buckets that it has given up.
fn wait_for_connections(lab: &Lab, asked: &str, node: &str) -> u64 {
    wait_until(second(10), "connections that are left", || {
        let status = lab.node(asked).status().map_err(|error| format!("{error:#}"))?;
        let nodes = status.0["nodes"].as_array().cloned().unwrap_or_default();
        let of_node = nodes.iter().find(|n| n["name"] == node).ok_or("no such node")?;
        let (left, buckets) = (number(of_node, "/connections"), number(of_node, "/buckets"));
        if left > 0 && buckets == 0 { Ok(left) } else { Err(of_node.to_string()) }
    })
    .expect("a count")
}

#[test]
fn drain_wait_returns_when_the_last_connection_has_ended_and_the_drain_ends_with_the_daemon() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let early = sessions(&lab, &lasting(&lab, 30_000, 60));
    let late = sessions(&lab, &lasting(&lab, 31_000, 60));
    let mut here = Waiting::start(&lab, "n2", &["drain", "--wait"]);
    let left = wait_for_connections(&lab, "n1", "n2");
    let mut there = Waiting::start(&lab, "n1", &["drain", "--wait", "--json", "--node", "n2"]);

    late.wait_rounds(5).expect("answers while n2 drains");
    let early = early.finish().expect("sessions");
    wait_until(second(10), "the first half of the connections to be gone", || {
        let now = wait_for_connections(&lab, "n3", "n2");
        if now < left { Ok(()) } else { Err(format!("{now} of {left} are left")) }
    })
    .expect("fewer connections");
    late.wait_rounds(15).expect("answers of the other half");
    assert!(here.still_waits() && there.still_waits(), "connections are open still");

    let late = late.finish().expect("sessions");
    let (code, stdout, stderr) = here.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.lines().last().is_some_and(|line| line.starts_with("n2 has drained after ")), "{stdout}");
    assert!(
        stdout.contains("n2: ") && !stdout.contains('\r'),
        "it said what was left, line by line: {stdout}"
    );
    let (code, stdout, stderr) = there.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(
        (&told["node"], &told["drained"], &told["changed"]),
        (&"n2".into(), &true.into(), &false.into())
    );

    let of_n2 = early.iter().chain(&late).filter(|s| s.node == "n2").count();
    assert_eq!(of_n2 as u64, left, "every connection of n2 was counted, and no other");
    assert_eq!(lost(&early), Vec::<String>::new());
    assert_eq!(lost(&late), Vec::<String>::new());
    say(&format!("n2 had {of_n2} of 120 connections; waited {} ms", told["waited_ms"]));

    wait_for_event(&lab, "drained", "n2");
    // What is there to be done is done, and the node comes back with its share: a drain ends with the daemon.
    assert_eq!(state_of(&lab, "n1", "n2").0, "draining");
    assert!(lab.node_mut("n2").terminate_daemon(second(10)).expect("an end").success());
    lab.wait_at_rest(&["n1", "n3"]).expect("two nodes");
    lab.node_mut("n2").start_daemon().expect("a daemon");
    lab.wait_at_rest(&ALL).expect("n2 has its share again");
}

#[test]
fn a_drain_ends_with_its_time_out_and_says_what_it_cut_off() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(2).build().expect("a lab");
    let config = std::fs::read_to_string(lab.config()).expect("a configuration");
    let config = config.replace("[cluster]\n", "[cluster]\ndrain_timeout = \"2s\"\n");
    std::fs::write(lab.config(), config).expect("a configuration");
    if let Err(error) = lab.start() {
        panic!("the cluster does not start: {error:#}");
    }
    let open = sessions(&lab, &lasting(&lab, 30_000, 40));
    let waiting = Waiting::start(&lab, "n1", &["drain", "--wait", "--node", "n2"]);
    let (code, stdout, stderr) = waiting.end();
    let ended = open.finish().expect("sessions");
    let of_n2 = ended.iter().filter(|s| s.node == "n2").count();
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    let says = format!("rudel: the drain time-out is over, and {of_n2} connections of n2 had not ended: ");
    assert!(stderr.starts_with(&says), "{stderr}");
    for session in &ended {
        assert!(session.lost.is_none() || session.node == "n2", "lost without need: {session:?}");
    }
}
