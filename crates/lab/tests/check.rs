//! What `rudel check` finds: a network that is well is told so; each fault is found by its name, and gone once the printed
//! remedy is applied.
//!
//! ```text
//!    n1        n2        n3       faults on the hosts (settings, key, rules, other software), and on the bridge (a querier,
//!    │         │         │        and a port that is pruned); a stranger c2 that has the cluster's address, and a router c1
//!  ──┴─────────┴── br0 ──┴──      that does not believe the answers
//!                 │  │
//!                 c1 c2
//! ```

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{cluster, root, say};
use rudel_lab::{Lab, Namespace, Settings, wait_until};
use serde_json::Value;

const ALL: [&str; 3] = ["n1", "n2", "n3"];
/// Nothing takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);

/// Ends with the test, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A report, and the exit code.
fn check(lab: &Lab, node: &str) -> (Value, Option<i32>) {
    let output =
        lab.node(node).rudel_command(&["check", "--json"]).expect("the tool").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code())
}

/// What people see.
fn screen(lab: &Lab, node: &str) -> String {
    let mut command = lab.node(node).rudel_command(&["check"]).expect("the tool");
    let output = command.env("NO_COLOR", "1").output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn findings(report: &Value) -> Vec<&Value> {
    report["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|finding| !finding["name"].is_null())
        .collect()
}

fn names(report: &Value) -> Vec<String> {
    findings(report).iter().map(|finding| finding["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The finding of a name; waits for it.
fn found(lab: &Lab, node: &str, name: &str) -> Value {
    let mut last = Value::Null;
    wait_until(DEADLINE, &format!("{node} to find {name}"), || {
        let (report, code) = check(lab, node);
        let finding = findings(&report).into_iter().find(|finding| finding["name"] == name).cloned();
        match finding {
            Some(finding) if code == Some(3) => {
                last = finding;
                Ok(())
            }
            _ => Err(format!("{code:?} {:?} {}", names(&report), report["unseen"])),
        }
    })
    .expect("it is found");
    last
}

/// Waits until nothing is found on any of these.
fn all_well(lab: &Lab, nodes: &[&str]) {
    std::thread::scope(|scope| {
        for node in nodes {
            scope.spawn(|| well(lab, node));
        }
    });
}

/// Waits until nothing is found.
fn well(lab: &Lab, node: &str) {
    wait_until(DEADLINE, &format!("{node} to find nothing"), || {
        let (report, code) = check(lab, node);
        if code == Some(0) { Ok(()) } else { Err(format!("{code:?} {:?}", findings(&report))) }
    })
    .expect("all is well");
}

/// The printed lines for a place whose name begins so.
fn lines(finding: &Value, place: &str) -> Vec<String> {
    let entries = finding["lines"].as_array().expect("lines");
    let entry = entries.iter().find(|entry| entry["place"].as_str().is_some_and(|at| at.starts_with(place)));
    let entry = entry.unwrap_or_else(|| panic!("no lines for {place} in {finding}"));
    entry["lines"]
        .as_array()
        .expect("lines")
        .iter()
        .map(|line| line.as_str().expect("text").to_owned())
        .collect()
}

/// Enters a line as an administrator would.
fn enter(namespace: &Namespace, line: &str) {
    let output = namespace.command("sh").expect("a shell").args(["-c", line]).output().expect("it runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn stranger(lab: &Lab) -> &Namespace {
    lab.clients()[1].namespace()
}

#[test]
fn each_fault_is_found_by_its_name_and_gone_with_its_remedy() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(3).clients(2).settings(Settings::default()).build().expect("a lab");
    // Before the first start: the host alone.
    let (report, code) = check(&lab, "n1");
    assert_eq!((names(&report), code), (vec!["key-file".to_owned()], Some(3)), "{report}");
    enter(lab.node("n1").namespace(), &format!("{} key new {}", tool(), lab.key().display()));
    let (report, code) = check(&lab, "n1");
    assert_eq!((names(&report), code), (vec![], Some(0)), "{report}");
    assert_eq!(report["daemon"], false);
    assert!(report["unseen"].to_string().contains("the network"), "{report}");

    // A cluster that is well: quiet on each node.
    lab.start().expect("a cluster");
    all_well(&lab, &ALL);
    let text = screen(&lab, "n1");
    assert!(text.contains("all is well") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    say(&format!("a cluster that is well:\n{text}"));

    on_the_host(&lab);
    in_the_network(&mut lab);
    on_the_bridge(&lab);
}

fn tool() -> String {
    rudel_lab::rudel().expect("the tool").display().to_string()
}

/// Settings, key, packet rules, software.
fn on_the_host(lab: &Lab) {
    let n1 = lab.node("n1").namespace();
    n1.sysctl(&[("net.ipv4.conf.eth0.arp_ignore", "0")]).expect("a setting");
    std::fs::set_permissions(lab.key(), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    enter(
        n1,
        "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }; \
               add rule inet fw in ct state established,related accept; add rule inet fw in iifname lo accept; \
               add rule inet fw in meta l4proto { icmp, ipv6-icmp, tcp, igmp } accept'",
    );
    enter(n1, "ip addr add 10.74.0.10/24 dev eth0");
    let (report, code) = check(lab, "n1");
    let names = names(&report);
    for name in ["sysctl-changed", "key-file", "firewall-heartbeats", "address-on-interface"] {
        assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        let finding = findings(&report)
            .into_iter()
            .find(|finding| finding["name"] == name)
            .cloned()
            .expect("it is there");
        lines(&finding, "this node").iter().for_each(|line| enter(n1, line));
    }
    assert_eq!(code, Some(3));
    // n1 had a kernel that answered for the cluster, which the others have seen.
    all_well(lab, &ALL);
    enter(n1, "nft delete table inet fw");

    // keepalived, really running, with the same address.
    let config = lab.dir().join("keepalived.conf");
    let text = "global_defs {\n router_id n2\n}\nvrrp_instance a {\n state BACKUP\n interface eth0\n virtual_router_id 7\n \
                priority 1\n advert_int 255\n virtual_ipaddress {\n  10.74.0.10/24 dev eth0\n }\n}\n";
    std::fs::write(&config, text).expect("a configuration");
    let n2 = lab.node("n2").namespace();
    let pid = lab.dir().join("keepalived.pid");
    let keepalived = n2
        .command("keepalived")
        .expect("keepalived")
        .args(["--dont-fork", "--vrrp", "--log-console", "--use-file"])
        .arg(&config)
        .arg("--pid")
        .arg(&pid)
        .arg("--vrrp_pid")
        .arg(lab.dir().join("vrrp.pid"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    match keepalived {
        Ok(child) => {
            let running = Running(child);
            let finding = found(lab, "n2", "address-software");
            assert_eq!(finding["severity"], "error", "{finding}");
            let remedy = lines(&finding, "this node")
                .into_iter()
                .find(|line| line.starts_with("kill "))
                .expect("a line");
            assert!(!names_of(lab, "n3").contains(&"address-software".to_owned()), "it runs on n2 alone");
            enter(n2, &remedy);
            well(lab, "n2");
            drop(running);
        }
        Err(error) => common::skip(&format!("keepalived: {error}")),
    }
}

fn names_of(lab: &Lab, node: &str) -> Vec<String> {
    names(&check(lab, node).0)
}

/// Somebody who has the address, and somebody who does not believe that the cluster has it.
fn in_the_network(lab: &mut Lab) {
    enter(stranger(lab), "ip addr add 10.74.0.10/32 dev eth0");
    let finding = found(lab, "n1", "address-claimed");
    let mac = Command::new("ip")
        .args(["-n", stranger(lab).name(), "-br", "link", "show", "eth0"])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .expect("its MAC");
    let mac = mac.split_whitespace().nth(2).expect("a MAC").to_owned();
    assert!(finding["what"].as_str().is_some_and(|what| what.contains(&mac)), "{mac}: {finding}");
    // The line for a Linux bridge finds its port.
    let line = lines(&finding, "a switch, if it is a Linux bridge").remove(0).replace("BRIDGE", "br0");
    let output = lab.switch().command("sh").expect("a shell").args(["-c", &line]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("dev p-c2"), "{line}: {output:?}");
    enter(stranger(lab), "ip addr del 10.74.0.10/32 dev eth0");
    well(lab, "n1");

    // A router as RFC 1812 has it: the nodes' way to the clients' network leads by c1.
    let router = lab.client().namespace();
    enter(
        router,
        "nft 'add table arp rfc1812; add chain arp rfc1812 in { type filter hook input priority 0; }; \
                   add rule arp rfc1812 in arp operation reply arp saddr ether 03:bf:0a:4a:00:0a drop'",
    );
    enter(router, "ip neigh flush dev eth0");
    // The node knows the router's MAC by its own traffic.
    enter(lab.node("n1").namespace(), "ping -n -q -c 1 -W 5 10.74.0.101");
    let finding = found(lab, "n1", "answer-disbelieved");
    assert!(finding["why"].as_str().is_some_and(|why| why.contains("RFC 1812")), "{finding}");
    assert!(finding["what"].as_str().is_some_and(|what| what.starts_with("10.74.0.101 ")), "{finding}");
    let line = lines(&finding, "a Linux router").remove(0).replace("INTERFACE", "eth0");
    enter(router, &line);
    well(lab, "n1");
    enter(router, "nft delete table arp rfc1812");
}

/// A switch that prunes.
fn on_the_bridge(lab: &Lab) {
    let router_port = |name: &str, on: bool| {
        let mode = if on { 2 } else { 1 };
        enter(lab.switch(), &format!("bridge link set dev p-{name} mcast_router {mode}"));
    };
    ALL.iter().for_each(|name| router_port(name, true));
    enter(
        lab.switch(),
        "ip link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_startup_query_interval 50 \
         mcast_query_response_interval 50 mcast_query_interval 300",
    );
    wait_until(DEADLINE, "the querier to be heard", || {
        let (report, code) = check(lab, "n2");
        match report
            .to_string()
            .contains("a switch without an address asks for group members, and nobody is pruned")
        {
            true if code == Some(0) => Ok(()),
            _ => Err(format!("{code:?} {report}")),
        }
    })
    .expect("a querier that prunes nobody is no fault");
    router_port("n2", false);
    // What is promised is five seconds from the last packet that came; the daemon has an event for it, the check takes five.
    let began = Instant::now();
    let finding = found(lab, "n2", "deaf");
    say(&format!("a pruned node is named by `rudel check` {:?} after its port was pruned", began.elapsed()));
    assert!(
        finding["why"].as_str().is_some_and(|why| why.contains("asks for members of groups")),
        "{finding}"
    );
    say(&screen(lab, "n2"));
    let others = found(lab, "n1", "deaf");
    assert!(others["what"].as_str().is_some_and(|what| what.starts_with("n2 is deaf")), "{others}");
    // The remedy for the port, and then that for the whole bridge.
    let line = lines(&finding, "the same, with snooping left on").remove(0).replace("PORT", "p-n2");
    enter(lab.switch(), &line);
    all_well(lab, &ALL);
    router_port("n2", false);
    let finding = found(lab, "n2", "deaf");
    let line = lines(&finding, "the switch, if it is a Linux bridge").remove(0).replace("BRIDGE", "br0");
    enter(lab.switch(), &line);
    all_well(lab, &ALL);
}

#[test]
fn two_nodes_and_a_router_are_well() {
    let Some(_serial) = root() else { return };
    let lab = cluster(2, Settings::default());
    all_well(&lab, &["n1", "n2"]);
    drop(lab);
    let router = rudel_lab::router::Router {
        nat: "address = \"10.74.0.10\"\ninside = [\"10.76.0.0/16\"]\n".to_owned(),
        sync: true,
        ..rudel_lab::router::Router::default()
    };
    let lab = cluster(2, Settings { router: Some(router), ..Settings::default() });
    all_well(&lab, &["n1", "n2"]);
}
