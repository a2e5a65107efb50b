//! Servers that die while their machines live: who fails its health checks gives its share away, and gets it back.
//!
//! ```text
//!    n1        n2        n3
//!    nginx     nginx ✗   nginx       each daemon asks its own server, at the shared address on its own lo
//!    │         │         │
//!  ──┴─────────┴── br0 ──┴──
//!                   │
//!                   c1               opens a connection every 2 ms
//! ```

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use common::{at, cluster, dns, prober, root, say, second};
use rudel_lab::service::{LASTING_PORT, SITE, Server, WHOAMI};
use rudel_lab::{Lab, Owners, Settings, VIP4, status, wait_until};
use serde_json::Value;

const ALL: [&str; 3] = ["n1", "n2", "n3"];
const OTHERS: [&str; 2] = ["n1", "n3"];
/// Nothing takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);
/// What `rudel` ends with when the cluster is degraded.
const DEGRADED: Option<i32> = Some(3);

/// The defaults, written out: `interval x fall` is two seconds.
const WEB: &str = "[[health]]\nname = \"web\"\nhttp = \"http://10.74.0.10/healthz\"\ninterval = \"1s\"\n\
                   timeout = \"500ms\"\nrise = 2\nfall = 2\n";
const INTERVAL_X_FALL: Duration = Duration::from_secs(2);
const INTERVAL_X_RISE: Duration = Duration::from_secs(2);
/// A view change, and a test machine that is busy with something else.
const SLACK: Duration = Duration::from_secs(1);

fn web() -> Settings {
    Settings { extra: WEB.to_owned(), ..Settings::default() }
}

/// Waits until all nodes agree that `names` share the buckets evenly, and have them.
fn wait_served_by(lab: &Lab, names: &[&str]) -> Owners {
    wait_until(DEADLINE, &format!("{names:?} to serve"), || {
        let mut agreed: Option<Owners> = None;
        for node in lab.nodes() {
            let status = node.status().map_err(|e| format!("{}: {e:#}", node.name()))?;
            let owners = status.owners();
            if !status.settled() {
                return Err(format!("{}: not settled", node.name()));
            }
            if owners.iter().flatten().count() != 256 {
                return Err(format!("{}: not every bucket has an owner", node.name()));
            }
            status::balanced(&status::counts(&owners), names)?;
            let given = status::counts(&owners).get(node.name()).copied().unwrap_or(0);
            let owned = status.0["buckets"]["owned"].as_u64();
            if owned != u64::try_from(given).ok() {
                return Err(format!("{} owns {owned:?} of {given}", node.name()));
            }
            match &agreed {
                Some(others) if *others != owners => return Err(format!("{} differs", node.name())),
                _ => agreed = Some(owners),
            }
        }
        agreed.ok_or_else(|| "no nodes".to_owned())
    })
    .expect("they serve")
}

/// What a node says of itself: whether it is healthy, and why not.
fn fitness(lab: &Lab, name: &str) -> (bool, String) {
    reason_of(lab, name, name)
}

/// What a node says of one: whether it is healthy, and why not.
fn reason_of(lab: &Lab, asked: &str, name: &str) -> (bool, String) {
    let status = lab.node(asked).status().expect("a status");
    let nodes = status.0["nodes"].as_array().expect("nodes");
    let node = nodes.iter().find(|node| node["name"] == name).expect("a member");
    (node["healthy"] == true, node["reason"].as_str().unwrap_or("").to_owned())
}

fn wait_unfit(lab: &Lab, name: &str, why: &str) {
    wait_until(DEADLINE, &format!("{name} to be unhealthy: {why}"), || match fitness(lab, name) {
        (false, reason) if reason == why => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("unhealthy");
}

fn wait_fit(lab: &Lab, name: &str) {
    wait_until(DEADLINE, &format!("{name} to be healthy"), || match fitness(lab, name) {
        (true, reason) if reason.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("healthy");
}

/// The exit code of `rudel status` on a node, and what it prints.
fn rudel_status(lab: &Lab, name: &str) -> (Option<i32>, String) {
    let mut command = lab.node(name).rudel_command(&["status"]).expect("the tool");
    let output = command.env("NO_COLOR", "1").output().expect("it runs");
    // It wraps lines at the width of a terminal.
    let words = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    (output.status.code(), words)
}

fn has_event(lab: &Lab, name: &str, kind: &str, reason: &str) -> bool {
    let events = lab.node(name).status().expect("a status").events();
    events.iter().any(|(k, n, r)| k == kind && n == name && r == reason)
}

#[test]
fn a_server_that_dies_costs_its_node_its_share_until_it_is_back() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, web());
    let before = wait_served_by(&lab, &ALL);
    assert_eq!(rudel_status(&lab, "n2").0, Some(0));
    let prober = prober(&lab);
    prober.wait_answers(100).expect("answers");

    let killed = Instant::now();
    lab.node_mut("n2").kill_server(Server::Nginx);
    let without = wait_served_by(&lab, &OTHERS);
    let moved = Instant::now();
    status::only_moved_from(&before, &without, "n2", &OTHERS).expect("least movement");

    let refused = "cannot connect to 10.74.0.10:80: connection refused";
    let reason = format!("web: {refused}");
    assert_eq!(fitness(&lab, "n2"), (false, reason.clone()));
    assert!(has_event(&lab, "n2", "unhealthy", &reason));
    let log = lab.node("n2").daemon_log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(&reason)), "{log}");
    let check = lab.node("n2").status().expect("a status").0["health"][0].clone();
    assert_eq!((&check["name"], &check["ok"]), (&Value::from("web"), &Value::from(false)));
    assert_eq!(check["last_error"], refused);
    // The others are told why.
    wait_until(DEADLINE, "n1 and n3 to know why", || {
        for name in OTHERS {
            let told = reason_of(&lab, name, "n2");
            if told != (false, reason.clone()) {
                return Err(format!("{name}: {told:?}"));
            }
        }
        Ok(())
    })
    .expect("a reason");
    let why = format!("n2 is not healthy: {reason}");
    for (name, words) in [("n2", "health check web fails"), ("n1", why.as_str())] {
        let (code, text) = rudel_status(&lab, name);
        assert_eq!(code, DEGRADED, "{text}");
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(lab.node("n2").status().expect("a status").state(), "active", "it stays a member");
    prober.wait_answers(500).expect("answers of the others");

    let started = Instant::now();
    lab.node_mut("n2").start_server(Server::Nginx).expect("nginx");
    let after = wait_served_by(&lab, &ALL);
    let back = started.elapsed();
    status::only_moved_to(&without, &after, "n2", &ALL).expect("least movement");
    assert_eq!(fitness(&lab, "n2"), (true, String::new()));
    assert!(has_event(&lab, "n2", "healthy", "web: good again"));
    let check = lab.node("n2").status().expect("a status").0["health"][0].clone();
    assert_eq!((&check["ok"], &check["last_error"]), (&Value::from(true), &Value::Null));
    prober.wait_answers(500).expect("answers of all");
    let report = prober.finish().expect("a report");

    // Who was being answered when the server died is among the failed, too.
    let last =
        report.failed().iter().map(|record| record.start).max().expect("the death of a server is felt");
    let felt = last.saturating_duration_since(killed);
    say(&format!(
        "{} of {} connections failed, the last began {felt:?} after the death; moved after {:?}, back after {back:?}",
        report.failed().len(),
        report.total(),
        moved - killed,
    ));
    assert!(felt <= INTERVAL_X_FALL + SLACK, "{felt:?} until the last failure: {}", report.failures());
    assert!(last <= moved, "connections failed after the share had moved: {}", report.failures());
    assert!(report.failed().iter().all(|record| record.start + second(1) >= killed), "{}", report.failures());
    assert!(back <= INTERVAL_X_RISE + SLACK, "{back:?} until it was back");
    assert!(report.per_node().contains_key("n2"), "n2 has served");
}

fn signal_nginx(lab: &mut Lab, signal: i32) {
    for name in ALL {
        lab.node_mut(name).signal_server(Server::Nginx, signal).expect("a signal");
    }
}

/// An empty cluster serves nobody: what fails everywhere leaves everybody his share, and is told aloud. No bucket
/// moves, neither when it begins nor when it ends, although the nodes find out one after the other.
#[test]
fn what_fails_on_all_nodes_moves_nothing_when_it_begins_nor_when_it_ends_and_is_an_alarm() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().settings(web()).build().expect("a lab");
    let program = lab.dir().join("check");
    let script = format!("#!/bin/sh\ntest -e {}/slow && exec sleep 0.8\nexit 0\n", lab.dir().display());
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let checks = format!("[[health]]\nname = \"disk\"\nexec = [{:?}]\n", program.display().to_string());
    let config = fs::read_to_string(lab.config()).expect("a configuration");
    fs::write(lab.config(), config + &checks).expect("a configuration");
    lab.start().expect("it starts");
    for name in ALL {
        wait_fit(&lab, name);
    }
    let before = wait_served_by(&lab, &ALL);
    let epochs = |lab: &Lab| common::epochs(lab, &ALL);
    let settled = epochs(&lab);

    let slow = lab.dir().join("slow");
    let refused = "web: cannot connect to 10.74.0.10:80: connection refused";
    let (late, killed) = ("web: no answer within 500ms", "disk: still running after 500ms: killed");
    for (fault, why) in [("refused", refused), ("hangs", late), ("slow", killed)] {
        match fault {
            "refused" => ALL.into_iter().for_each(|name| lab.node_mut(name).kill_server(Server::Nginx)),
            "hangs" => signal_nginx(&mut lab, libc::SIGSTOP),
            _ => fs::write(&slow, "").expect("a fault"),
        }
        for name in ALL {
            wait_unfit(&lab, name, why);
        }
        for name in ALL {
            let (code, text) = rudel_status(&lab, name);
            assert_eq!(code, DEGRADED, "{text}");
            assert!(text.contains("! no node is healthy"), "{text}");
        }
        // The other service on the same addresses goes on, on all of them.
        let flows: Vec<_> =
            (0..=255).map(|host| (at(lab.client().source(VIP4, 6, host), 6000), at(VIP4, 53))).collect();
        let answered = dns(&lab, &flows);
        assert!(ALL.iter().all(|name| answered.iter().any(|node| node == name)), "{answered:?}");
        match fault {
            "refused" => {
                for name in ALL {
                    lab.node_mut(name).start_server(Server::Nginx).expect("nginx");
                }
            }
            "hangs" => signal_nginx(&mut lab, libc::SIGCONT),
            _ => fs::remove_file(&slow).expect("mended"),
        }
        for name in ALL {
            wait_fit(&lab, name);
        }
        // Owners change by views alone.
        assert_eq!(wait_served_by(&lab, &ALL), before, "{fault}");
        assert_eq!(
            epochs(&lab),
            settled,
            "{fault}: {:?}",
            lab.node("n1").status().expect("a status").events()
        );
        for name in ALL {
            let (code, text) = rudel_status(&lab, name);
            assert_eq!(code, Some(0), "{text}");
        }
    }
}

/// One of several sites on the same address may be asked for, and what it says looked at.
#[test]
fn an_http_check_asks_for_a_site_and_looks_for_a_text() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().settings(Settings::default()).build().expect("a lab");
    let well = format!("{SITE} is well");
    let check = |host: &str, text: &str| {
        format!(
            "[[health]]\nname = \"site\"\nhttp = \"http://10.74.0.10/healthz\"\nhttp_body = \"{text}\"\n{host}"
        )
    };
    let host = format!("http_host = \"{SITE}\"\n");
    for (name, check) in
        [("n1", check(&host, &well)), ("n2", check(&host, "all is ill")), ("n3", check("", &well))]
    {
        let config = lab.dir().join(format!("{name}.toml"));
        fs::write(&config, lab.settings().to_toml(&lab.key()) + &check).expect("a configuration");
        lab.node_mut(name).set_config(config);
        lab.node_mut(name).start_services().expect("servers");
        lab.node_mut(name).start_daemon().expect("a daemon");
    }
    wait_served_by(&lab, &["n1"]);
    wait_fit(&lab, "n1");
    wait_unfit(&lab, "n2", "site: HTTP 200, but not \"all is ill\" in the body");
    wait_unfit(&lab, "n3", &format!("site: HTTP 200, but not {well:?} in the body"));
}

/// A machine that boots its daemon before its web server must not take the share of those who have one.
#[test]
fn a_node_gets_nothing_before_its_first_good_answer() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(2).settings(web()).build().expect("a lab");
    lab.node_mut("n1").start_services().expect("servers");
    lab.node_mut("n1").start_daemon().expect("a daemon");
    wait_until(DEADLINE, "n1 to serve", || {
        let status = lab.node("n1").status().map_err(|e| format!("{e:#}"))?;
        status.at_rest_among(&["n1"])
    })
    .expect("n1 serves");
    let prober = prober(&lab);
    lab.node_mut("n2").start_daemon().expect("a daemon");
    wait_until(DEADLINE, "n2 to be a member", || {
        let status = lab.node("n2").status().map_err(|e| format!("{e:#}"))?;
        if status.state() == "active" && status.settled() { Ok(()) } else { Err(status.0.to_string()) }
    })
    .expect("a member");
    wait_served_by(&lab, &["n1"]);
    wait_unfit(&lab, "n2", "web: cannot connect to 10.74.0.10:80: connection refused");
    assert!(!lab.node("n2").status().expect("a status").events().iter().any(|(kind, ..)| kind == "gained"));
    lab.node_mut("n2").start_services().expect("servers");
    wait_served_by(&lab, &["n1", "n2"]);
    let report = prober.finish().expect("a report");
    assert!(report.failed().is_empty(), "{}", report.failures());
}

#[test]
fn dns_tcp_and_programs_are_checked_too() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().settings(Settings::default()).build().expect("a lab");
    // What it does depends on the node's name, which it learns from its environment.
    let program = lab.dir().join("check");
    let script = format!(
        "#!/bin/sh\ncd {0} || exit 9\nls -l /proc/$$/fd > $RUDEL_NODE.fds\n\
         read fault < $RUDEL_NODE.$RUDEL_CHECK || exit 0\ncase $fault in\n\
         hang) sleep 1000 ;;\n*) echo warming up >&2; echo \"$fault\" >&2; exit 1 ;;\nesac\n",
        lab.dir().display()
    );
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let fast = "interval = \"500ms\"\ntimeout = \"400ms\"\n";
    let checks = format!(
        "[[health]]\nname = \"names\"\ndns = \"{WHOAMI}@{VIP4}\"\n{fast}\
         [[health]]\nname = \"lasting\"\ntcp = \"[fd74::10]:{LASTING_PORT}\"\n{fast}\
         [[health]]\nname = \"disk\"\nexec = [{:?}]\n{fast}\
         [[health]]\nname = \"uplink\"\nlink = \"up0\"\n{fast}",
        program.display().to_string()
    );
    let config = lab.dir().join("checked.toml");
    fs::write(&config, lab.settings().to_toml(&lab.key()) + &checks).expect("a configuration");
    for name in ALL {
        let node = lab.node_mut(name);
        node.set_config(config.clone());
        let link = "link add up0 type veth peer name up1\nlink set up0 up\nlink set up1 up\n";
        node.namespace().ip(link).expect("an uplink");
    }
    lab.start().expect("it starts");
    // What a program has open: its three streams and itself, and what this test was started with. Nothing of the daemon:
    // neither its sockets, nor its maps and queues, nor its lock.
    let fds = fs::read_to_string(lab.dir().join("n2.fds")).expect("what it had open");
    assert!(fds.contains("/dev/null") && fds.contains("-> pipe:"), "{fds}");
    for of_the_daemon in ["-> socket:", "-> anon_inode:", "/run/lock", "rudel.sock", "/n2/"] {
        assert!(!fds.contains(of_the_daemon), "{of_the_daemon}: {fds}");
    }
    let hurt = |lab: &Lab, why: &str| {
        wait_unfit(lab, "n2", why);
        wait_served_by(lab, &OTHERS);
        assert!(has_event(lab, "n2", "unhealthy", why), "{why}");
    };
    let mended = |lab: &Lab| {
        wait_fit(lab, "n2");
        wait_served_by(lab, &ALL);
    };

    lab.node_mut("n2").kill_server(Server::Dnsmasq);
    hurt(&lab, "names: cannot ask 10.74.0.10:53: connection refused");
    lab.node_mut("n2").start_server(Server::Dnsmasq).expect("dnsmasq");
    mended(&lab);

    lab.node_mut("n2").kill_server(Server::Nginx);
    hurt(&lab, "lasting: cannot connect to [fd74::10]:8080: connection refused");
    lab.node_mut("n2").start_server(Server::Nginx).expect("nginx");
    mended(&lab);

    let fault = lab.dir().join("n2.disk");
    fs::write(&fault, "the disk is full\n").expect("a fault");
    hurt(&lab, "disk: the disk is full (exit status 1)");
    fs::write(&fault, "hang\n").expect("a fault");
    wait_unfit(&lab, "n2", "disk: still running after 400ms: killed");
    fs::remove_file(&fault).expect("mended");
    mended(&lab);
    let strays = || {
        let alive = lab.node("n2").namespace().processes();
        let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let asleep: Vec<u32> = alive.into_iter().filter(|pid| name(pid).trim() == "sleep").collect();
        if asleep.is_empty() { Ok(()) } else { Err(format!("{asleep:?}")) }
    };
    wait_until(DEADLINE, "programs that hang to be killed with their children", strays).expect("killed");

    lab.node("n2").namespace().ip("link set up1 down\n").expect("a cable is pulled");
    hurt(&lab, "uplink: up0 has no carrier");
    // Two things at once: both are told, and one that is mended does not make it healthy.
    fs::write(&fault, "again\n").expect("a fault");
    wait_unfit(&lab, "n2", "disk: again (exit status 1); uplink: up0 has no carrier");
    lab.node("n2").namespace().ip("link set up1 up\n").expect("a cable is plugged in");
    hurt(&lab, "disk: again (exit status 1)");
    fs::remove_file(&fault).expect("mended");
    mended(&lab);
}
