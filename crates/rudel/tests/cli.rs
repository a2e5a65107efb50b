//! The tool as its users run it: what it prints where, and its exit codes.
//!
//! A socket that answers with a real snapshot stands in for the daemon; clusters of real daemons are tested in the
//! laboratory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rudel_api::config::HashMode;
use rudel_api::control::{BucketState, Failure, Ordered, Request, Response, WhyAnswer};
use rudel_api::snapshot::{NodeState, Snapshot};

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Host { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("rudel.sock")
    }

    /// Answers on the socket as this function does, for as long as the test runs. An empty answer closes the connection, as
    /// a daemon does that ends.
    fn answer(&self, answer: impl Fn(Result<Request, Failure>) -> String + Send + 'static) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap() > 0 {
                    let answer = answer(Request::from_line(&line));
                    if answer.is_empty() {
                        break;
                    }
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                    line.clear();
                }
            }
        });
    }

    /// A daemon that knows this snapshot, and the flows that [`why`] answers.
    fn serve(&self, snapshot: Snapshot) {
        self.answer(move |request| {
            let response = match request {
                Ok(Request::Status) => Response::Status(Box::new(snapshot.clone())),
                Ok(Request::Why { flow }) if flow.destination.to_string() == "192.0.2.10" => {
                    Response::Why(Box::new(why(flow)))
                }
                Ok(Request::Why { flow }) => Response::Error(Failure::new(
                    format!("{} is no address of this cluster", flow.destination),
                    "ask for a flow to 192.0.2.10",
                )),
                Ok(Request::Events { .. }) => Response::Events(snapshot.events.clone()),
                Ok(Request::Drain { node } | Request::Undrain { node } | Request::Weight { node, .. }) => {
                    ordered(&snapshot, node)
                }
                Ok(Request::Restart) => ordered(&snapshot, None),
                Ok(Request::Sight { .. }) => {
                    Response::Error(Failure::new("this daemon sees nothing", "ask another"))
                }
                Ok(Request::Reload) => Response::Reload(Box::new(snapshot.reload.clone().expect("a reload"))),
                Err(failure) => Response::Error(failure),
            };
            response.to_line()
        });
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_rudel"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE")
            .output()
            .unwrap()
    }

    /// Runs a command against this host's socket.
    fn ask(&self, arguments: &[&str]) -> Output {
        self.run(&[&["--socket", self.socket().to_str().unwrap()], arguments].concat())
    }
}

/// What a daemon that knows this snapshot says to an order.
fn ordered(snapshot: &Snapshot, node: Option<String>) -> Response {
    let node = node.unwrap_or_else(|| snapshot.node.clone());
    if snapshot.nodes.iter().any(|known| known.name == node) {
        Response::Ordered(Ordered { node, changed: true })
    } else {
        Response::Error(Failure::new(format!("there is no node {node}"), "the nodes are n1, n2, n3"))
    }
}

fn why(flow: rudel_api::flow::FlowSpec) -> WhyAnswer {
    WhyAnswer {
        flow,
        bucket: 173,
        owner: Some("n2".to_owned()),
        since: None,
        because: None,
        interface: "eth0".to_owned(),
        hash: HashMode::SourceIp,
        key: format!("source address {}", flow.source),
        here: BucketState::Ignored,
        node: "n1".to_owned(),
    }
}

fn troubled() -> Snapshot {
    serde_json::from_str(include_str!("fixtures/three-nodes.json")).unwrap()
}

fn healthy() -> Snapshot {
    let mut snapshot = troubled();
    snapshot.nodes.truncate(3);
    snapshot.nodes[1].healthy = true;
    snapshot.nodes[2].state = NodeState::Active;
    snapshot.view.settled = true;
    snapshot.interfaces[1].deaf = false;
    snapshot.health[1].ok = true;
    snapshot
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a failed command said: nothing on stdout, one line on stderr.
#[track_caller]
fn complaint(output: &Output, expected_code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(code(output), expected_code, "{stderr}");
    assert_eq!(stdout(output), "");
    assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
    stderr.trim_end().to_owned()
}

const CONFIG: &str = "[cluster]\nname = \"web\"\nkey_file = \"KEY\"\n[node]\nsocket = \"SOCKET\"\n\
                      [[interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.10/24\"]\n";

fn write_config(host: &Host) -> PathBuf {
    let text = CONFIG
        .replace("KEY", host.path("key").to_str().unwrap())
        .replace("SOCKET", host.socket().to_str().unwrap());
    let path = host.path("rudel.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn status_of_a_cluster_at_rest_exits_with_0_and_of_a_degraded_one_with_3() {
    let host = Host::new();
    host.serve(healthy());
    let output = host.ask(&["status"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).starts_with("web: n1 is active, serves 80 of 256 buckets, lease 312 ms\n"));

    let host = Host::new();
    host.serve(troubled());
    let output = host.ask(&["status"]);
    assert_eq!(code(&output), 3);
    assert!(stdout(&output).contains("! n4 is lost: "));
    assert_eq!(output.stderr, b"");
    assert_eq!(code(&host.ask(&["status", "--json"])), 3);
}

#[test]
fn status_in_json_is_what_the_daemon_said() {
    let host = Host::new();
    let said = serde_json::to_string(&healthy()).unwrap().replacen('{', "{\"from_the_future\":[1.50],", 1);
    let line = format!("{{\"schema\":1,\"status\":{said}}}\n");
    host.answer(move |_| line.clone());
    let output = host.ask(&["status", "--json"]);
    assert_eq!(code(&output), 0);
    assert_eq!(stdout(&output), said + "\n");
}

#[test]
fn there_are_no_colours_in_a_pipe_unless_forced() {
    let host = Host::new();
    host.serve(troubled());
    assert!(!stdout(&host.ask(&["status"])).contains('\x1b'));
    let forced = |no_color: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rudel"));
        command.args(["--socket", host.socket().to_str().unwrap(), "status"]).env("CLICOLOR_FORCE", "1");
        if no_color {
            command.env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE");
        } else {
            command.env_remove("NO_COLOR");
        }
        stdout(&command.output().unwrap())
    };
    assert!(forced(false).contains('\x1b'));
    assert!(!forced(true).contains('\x1b'));
}

#[test]
fn without_a_daemon_the_remedy_is_named_in_one_line() {
    let host = Host::new();
    for command in [&["status"][..], &["why", "esp", "203.0.113.7", "192.0.2.10"], &["plan"]] {
        assert_eq!(
            complaint(&host.ask(command), 1),
            format!(
                "rudel: cannot reach the daemon at {}: there is no socket: start it with `systemctl start rudeld`, or \
                 name its socket with --socket",
                host.socket().display()
            )
        );
    }
}

#[test]
fn the_socket_is_that_of_the_configuration() {
    let host = Host::new();
    host.serve(healthy());
    let config = write_config(&host);
    let output = host.run(&["status", "--config", config.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{output:?}");

    let missing = complaint(&host.run(&["--config", "/nonexistent/rudel.toml", "status"]), 1);
    assert!(missing.starts_with("rudel: cannot read /nonexistent/rudel.toml: "), "{missing}");
    assert!(missing.ends_with("write it, or name another one with --config"), "{missing}");
}

#[test]
fn a_refused_configuration_is_shown_and_exits_with_2() {
    let host = Host::new();
    let config = write_config(&host);
    let text = std::fs::read_to_string(&config).unwrap().replace("addresses", "adresses");
    std::fs::write(&config, text).unwrap();
    let output = host.run(&["--config", "rudel.toml", "status"]);
    assert_eq!(code(&output), 2);
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        r#"error: unknown key `adresses` in [[interface]]
 --> rudel.toml:8:1
  |
8 | adresses = ["192.0.2.10/24"]
  | ^^^^^^^^ not known here
  |
  = help: did you mean `addresses`?
  = help: allowed here: name, side, addresses, mac, xdp, hash, networks
"#
    );
}

#[test]
fn why_is_answered_by_the_daemon() {
    let host = Host::new();
    host.serve(healthy());
    let output = host.ask(&["why", "tcp", "203.0.113.7:40000", "192.0.2.10:443"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("\nbucket   173 of 256\n"), "{output:?}");
    let quoted = host.ask(&["why", "tcp 203.0.113.7:40000 192.0.2.10:443"]);
    assert_eq!(output.stdout, quoted.stdout);

    let json = host.ask(&["why", "--json", "icmp", "203.0.113.7", "192.0.2.10", "id", "77"]);
    let answer: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(answer["flow"], "icmp 203.0.113.7 192.0.2.10 id 77");
    assert_eq!(answer["owner"], "n2");

    assert_eq!(
        complaint(&host.ask(&["why", "esp", "203.0.113.7", "192.0.2.99"]), 1),
        "rudel: 192.0.2.99 is no address of this cluster: ask for a flow to 192.0.2.10"
    );
}

#[test]
fn a_flow_that_is_none_is_wrong_usage() {
    let host = Host::new();
    let said = complaint(&host.ask(&["why", "tcp", "203.0.113.7", "192.0.2.10:443"]), 2);
    assert!(said.starts_with("rudel: `203.0.113.7` lacks a port: write a flow such as `tcp 203.0"), "{said}");
}

#[test]
fn plans_are_made_with_and_without_a_daemon() {
    let host = Host::new();
    host.serve(healthy());
    let output = host.ask(&["plan", "--add", "n4"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).ends_with("\n64 of 256 buckets would move (25.0%)\n"), "{output:?}");

    let offline = Host::new().run(&["plan", "--nodes", "n1,n2", "--weight", "n1=300", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&offline.stdout).unwrap();
    assert_eq!((&plan["moved"], &plan["nodes"][0]["buckets_after"]), (&64.into(), &192.into()));

    let said = complaint(&host.ask(&["plan", "--remove", "n9"]), 2);
    assert_eq!(said, "rudel: there is no node n9: the members are n1, n2, n3");
}

#[test]
fn orders_are_told_to_the_daemon_and_their_answers_to_the_user() {
    let host = Host::new();
    host.serve(healthy());
    let said = |arguments: &[&str]| {
        let output = host.ask(arguments);
        assert_eq!(code(&output), 0, "{output:?}");
        stdout(&output)
    };
    let drains = "drains: new connections go to others, open ones stay until they end\n";
    assert_eq!(said(&["drain"]), format!("n1 {drains}"));
    assert_eq!(said(&["drain", "--node", "n2"]), format!("n2 {drains}"));
    assert_eq!(said(&["undrain", "--node", "n2"]), "n2 takes its share again\n");
    assert_eq!(said(&["weight", "50"]), "n1 has the weight 50\n");
    assert_eq!(
        said(&["weight", "0", "--node", "n3", "--json"]),
        "{\"schema\":1,\"order\":\"weight\",\"node\":\"n3\",\"changed\":true,\"weight\":0}\n"
    );
    for command in [&["drain"][..], &["undrain"], &["weight", "7"]] {
        assert_eq!(
            complaint(&host.ask(&[command, &["--node", "n9"]].concat()), 1),
            "rudel: there is no node n9: the nodes are n1, n2, n3"
        );
    }
    for wrong in [&["weight"][..], &["weight", "1001"], &["weight", "-1"], &["drain", "--node", "a/b"]] {
        assert_eq!(code(&host.ask(wrong)), 2, "{wrong:?}");
    }
}

#[test]
fn events_are_told_in_order_and_filtered() {
    let host = Host::new();
    host.serve(healthy());
    let output = host.ask(&["events"]);
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    assert_eq!(
        text.lines().next(),
        Some("2025-12-31 22:00:00.000  joined       n3    new node heard"),
        "{text}"
    );
    assert!(!text.contains('\x1b'));
    let lines = |arguments: &[&str]| {
        let output = host.ask(&[&["events", "--json"], arguments].concat());
        assert_eq!(code(&output), 0, "{output:?}");
        let lines: Vec<serde_json::Value> =
            stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&[]), ["joined", "healthy", "expired", "view", "draining"]);
    assert_eq!(lines(&["--last", "2"]), ["view", "draining"]);
    assert_eq!(lines(&["--node", "n3"]), ["joined", "draining"]);
    assert_eq!(lines(&["--node", "n3", "-n", "1"]), ["draining"]);
    assert_eq!(lines(&["--kind", "view,joined"]), ["joined", "view"]);
    assert_eq!(code(&host.ask(&["events", "--kind", "explode"])), 2);
}

#[test]
fn whoever_follows_the_events_outlives_the_daemon() {
    let host = Host::new();
    let listener = UnixListener::bind(host.socket()).unwrap();
    let daemon = std::thread::spawn(move || {
        let event = |sequence: u64| {
            let mut event = healthy().events[0].clone();
            (event.sequence, event.reason) = (Some(sequence), format!("event {sequence}"));
            event
        };
        let runs = [
            (None, vec![vec![], (1..=12).map(event).collect(), vec![event(13)]]),
            (Some(13), vec![vec![event(14)]]),
        ];
        for (expected, answers) in runs {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert_eq!(Request::from_line(&line), Ok(Request::Events { after: expected, follow: true }));
            for events in answers {
                stream.get_mut().write_all(Response::Events(events).to_line().as_bytes()).unwrap();
            }
        }
    });
    let mut tool = Command::new(env!("CARGO_BIN_EXE_rudel"))
        .args(["--socket", host.socket().to_str().unwrap(), "events", "--follow", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(tool.stdout.take().unwrap()).lines().take(14);
    let told: Vec<u64> = told
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap()["sequence"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(told, (1..=14).collect::<Vec<_>>());
    daemon.join().unwrap();
    tool.kill().unwrap();
    let output = tool.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("it closed the connection: waiting for it\n"), "{stderr}");
}

/// A daemon whose n2 says these one after the other: buckets, settled, buckets kept, connections left.
fn draining(host: &Host, told: &'static [(u16, bool, u16, u32)]) {
    let looks = std::sync::atomic::AtomicUsize::new(0);
    host.answer(move |request| {
        let mut snapshot = healthy();
        let response = match request {
            Ok(Request::Status) => {
                let look = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let (buckets, settled, keeping, connections) = told[look.min(told.len() - 1)];
                let n2 = &mut snapshot.nodes[1];
                (n2.state, n2.buckets, n2.settled) = (NodeState::Draining, buckets, Some(settled));
                (n2.keeping, n2.connections) = (Some(keeping), Some(connections));
                Response::Status(Box::new(snapshot))
            }
            Ok(Request::Drain { node }) => ordered(&snapshot, node),
            _ => Response::Error(Failure::new("no", "none")),
        };
        response.to_line()
    });
}

#[test]
fn a_drain_is_waited_for_line_by_line_in_a_pipe() {
    let host = Host::new();
    // The first is seen by the command's look whether the daemon answers at all.
    draining(
        &host,
        &[
            (85, true, 0, 0),
            (85, true, 0, 0),
            (0, false, 0, 0),
            (0, true, 3, 7),
            (0, true, 1, 2),
            (0, true, 0, 0),
        ],
    );
    let output = host.ask(&["drain", "--wait", "--node", "n2"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let text = stdout(&output);
    assert!(text.starts_with("n2: 85 buckets to hand over\n"), "{text}");
    assert!(
        text.contains("\nn2 has drained after ") && text.ends_with(" ms: no connection is left\n"),
        "{text}"
    );
    assert!(!text.contains('\x1b') && !text.contains('\r'), "{text:?}");
    assert_eq!(text.lines().count(), 2, "quiet: {text}");
}

#[test]
fn a_drain_is_waited_for_over_a_restart_of_the_daemon() {
    let host = Host::new();
    let looks = std::sync::atomic::AtomicUsize::new(0);
    host.answer(move |request| {
        let mut snapshot = healthy();
        let look = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let response = match request {
            Ok(Request::Drain { node }) => ordered(&snapshot, node),
            Ok(Request::Status) if look == 2 || look == 3 => return String::new(),
            Ok(Request::Status) => {
                let n1 = &mut snapshot.nodes[0];
                (n1.state, n1.buckets, n1.settled) = (NodeState::Draining, 0, Some(true));
                n1.keeping = Some(if look < 5 { 3 } else { 0 });
                Response::Status(Box::new(snapshot))
            }
            _ => Response::Error(Failure::new("no", "none")),
        };
        response.to_line()
    });
    let output = host.ask(&["drain", "--wait"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stdout(&output).contains("n1 has drained after "), "{output:?}");
}

#[test]
fn a_restart_that_had_to_join_anew_says_so() {
    let host = Host::new();
    let restarted = std::sync::atomic::AtomicBool::new(false);
    host.answer(move |request| {
        let mut snapshot = healthy();
        snapshot.restarts = 0;
        let response = match request {
            Ok(Request::Status) => {
                // Its history is on the disk: the next daemon tells of the same events.
                snapshot.pid = Some(if restarted.load(std::sync::atomic::Ordering::Relaxed) { 8 } else { 7 });
                Response::Status(Box::new(snapshot))
            }
            Ok(Request::Restart) => {
                restarted.store(true, std::sync::atomic::Ordering::Relaxed);
                ordered(&snapshot, None)
            }
            _ => Response::Error(Failure::new("no", "none")),
        };
        response.to_line()
    });
    let output = host.ask(&["restart"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stdout(&output).contains("could not go on where the former daemon ended"), "{output:?}");
}

#[test]
fn a_restart_is_over_when_the_successor_answers() {
    let host = Host::new();
    let restarts = std::sync::atomic::AtomicU32::new(3);
    host.answer(move |request| {
        let mut snapshot = healthy();
        let response = match request {
            Ok(Request::Status) => {
                // The former daemon may answer once more.
                let seen = restarts.load(std::sync::atomic::Ordering::Relaxed);
                snapshot.restarts = if seen == 5 { 4 } else { 3 };
                if seen == 4 {
                    restarts.store(5, std::sync::atomic::Ordering::Relaxed);
                }
                Response::Status(Box::new(snapshot))
            }
            Ok(Request::Restart) => {
                restarts.store(4, std::sync::atomic::Ordering::Relaxed);
                ordered(&snapshot, None)
            }
            _ => Response::Error(Failure::new("no", "none")),
        };
        response.to_line()
    });
    let output = host.ask(&["restart", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (code(&output), &told["order"], &told["restarts"], &told["resumed"]),
        (0, &"restart".into(), &4.into(), &true.into()),
        "{told}"
    );
}

#[test]
fn a_restart_is_over_when_the_successor_hears_whom_the_former_heard() {
    let host = Host::new();
    let looks = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = std::sync::Arc::clone(&looks);
    host.answer(move |request| {
        let mut snapshot = healthy();
        let response = match request {
            Ok(Request::Status) => {
                let look = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                snapshot.restarts = u32::from(look > 0);
                if (1..4).contains(&look) {
                    snapshot.nodes[1].heard_ms = None;
                }
                Response::Status(Box::new(snapshot))
            }
            Ok(Request::Restart) => ordered(&snapshot, None),
            _ => Response::Error(Failure::new("no", "none")),
        };
        response.to_line()
    });
    assert_eq!(code(&host.ask(&["restart"])), 0);
    assert!(counted.load(std::sync::atomic::Ordering::Relaxed) >= 5, "its status would still tell of a loss");
}

#[test]
fn a_restart_that_cannot_be_says_why() {
    let host = Host::new();
    host.answer(|request| {
        let response = match request {
            Ok(Request::Status) => Response::Status(Box::new(healthy())),
            _ => Response::Error(Failure::new("unknown key `colour`", "nothing has changed")),
        };
        response.to_line()
    });
    assert_eq!(complaint(&host.ask(&["restart"]), 1), "rudel: unknown key `colour`: nothing has changed");
}

#[test]
fn a_drain_whose_time_is_over_exits_with_1() {
    let host = Host::new();
    draining(&host, &[(0, true, 3, 7), (0, true, 3, 7), (0, true, 0, 1)]);
    let output = host.ask(&["drain", "--wait", "--json", "--node", "n2"]);
    assert_eq!(code(&output), 1);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["drained"], &told["connections"]), (&false.into(), &1.into()), "{told}");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "rudel: the drain time-out is over, and 1 connection of n2 had not ended: they are cut off: their clients must \
         connect again; raise drain_timeout in [cluster] to wait longer for such\n"
    );
}

#[test]
fn a_key_is_made_once_and_known_by_its_fingerprint() {
    let host = Host::new();
    let path = host.path("key");
    let made = host.run(&["key", "new", "key"]);
    assert_eq!(code(&made), 0);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let shown = stdout(&host.run(&["key", "fingerprint", "key"]));
    let fingerprint = shown.strip_suffix("  seals\n").unwrap();
    assert_eq!(stdout(&made), format!("made the key file key, fingerprint {fingerprint}\n"));
    let config = write_config(&host);
    assert_eq!(stdout(&host.run(&["key", "fingerprint", "--config", config.to_str().unwrap()])), shown);

    let before = std::fs::read(&path).unwrap();
    let said = complaint(&host.run(&["key", "new", "key"]), 1);
    assert!(said.starts_with("rudel: cannot make the key file key: "), "{said}");
    assert!(
        said.ends_with(": it is left as it is; remove it if no node uses it, or name another file"),
        "{said}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = complaint(&host.run(&["key", "fingerprint", "key"]), 1);
    assert!(said.starts_with("rudel: key file key is open to others (mode 0644): `chmod 600 key`"), "{said}");
}

#[test]
fn a_key_on_stdout_can_be_saved_and_read() {
    let host = Host::new();
    let output = host.run(&["key", "new"]);
    assert_eq!(code(&output), 0);
    let path = host.path("saved");
    std::fs::write(&path, &output.stdout).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(code(&host.run(&["key", "fingerprint", "saved"])), 0);
    assert_ne!(host.run(&["key", "new"]).stdout, output.stdout);
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&host.run(&["completions", shell]));
        assert!(script.contains("fingerprint"), "{shell}");
    }
    let page = stdout(&host.run(&["man"]));
    assert!(page.contains(".TH rudel 1"), "{page}");
    std::fs::create_dir(host.path("man1")).unwrap();
    assert_eq!(code(&host.run(&["man", "man1"])), 0);
    for page in [
        "rudel.1",
        "rudel-status.1",
        "rudel-key-new.1",
        "rudel-plan.1",
        "rudel-drain.1",
        "rudel-events.1",
        "rudel-weight.1",
    ] {
        assert!(Path::exists(&host.path("man1").join(page)), "{page}");
    }
    let said = complaint(&host.run(&["man", "no/such/directory"]), 1);
    assert!(said.ends_with("name a directory that exists and can be written"), "{said}");
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    let host = Host::new();
    for wrong in [&[][..], &["sttaus"], &["why"], &["plan", "--weight", "n1"], &["status", "--jsno"]] {
        assert_eq!(code(&host.run(wrong)), 2, "{wrong:?}");
    }
    for right in [&["--help"][..], &["--version"], &["status", "--help"], &["help", "key", "new"]] {
        assert_eq!(code(&host.run(right)), 0, "{right:?}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_failure() {
    let host = Host::new();
    let status = Command::new("sh")
        .args(["-c", "\"$0\" completions zsh | head -c 1; exit 0", env!("CARGO_BIN_EXE_rudel")])
        .current_dir(host.dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(status.stderr).unwrap(), "");
}

#[test]
fn a_reload_is_told_with_its_exit_code() {
    use rudel_api::reload::{Change, Reload, ReloadResult};
    let change = Change { key: "node.weight".into(), from: "100".into(), to: "50".into() };
    let mut reload = Reload {
        at: rudel_api::timestamp::Timestamp::now(),
        result: ReloadResult::Applied,
        applied: vec![change.clone()],
        pending: vec![],
        waiting_for: vec![],
        reason: None,
    };
    let told = |reload: &Reload, arguments: &[&str]| {
        let host = Host::new();
        host.serve(Snapshot { reload: Some(reload.clone()), ..healthy() });
        let socket = host.socket();
        host.run(&[arguments, &["--socket", socket.to_str().unwrap()]].concat())
    };
    let output = told(&reload, &["reload"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "changed node.weight: 100 -> 50\n");

    // One that waits for other nodes is followed, too.
    (reload.result, reload.applied, reload.pending) = (ReloadResult::Pending, vec![], vec![change]);
    reload.waiting_for = vec!["n2".into()];
    let output = told(&reload, &["reload"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "waiting for n2 to reload: node.weight: 100 -> 50\n");

    reload.pending.clear();
    reload.waiting_for.clear();
    reload.reason = Some("error: unknown key\n  | colour\n  | ^^^^^^".into());
    for (result, code) in [(ReloadResult::Refused, 2), (ReloadResult::Failed, 1)] {
        reload.result = result;
        let output = told(&reload, &["reload", "--json"]);
        assert_eq!(output.status.code(), Some(code));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), if code == 2 { 3 } else { 1 }, "{text}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["result"], result.as_str());
    }
}
