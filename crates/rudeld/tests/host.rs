//! The host's preparation against a real kernel.

mod netns;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use netns::{Netns, enter, eventually, join, skipped};
use rudeld::host::links::{LinkEvent, Monitor};
use rudeld::host::membership::Membership;
use rudeld::host::nft::{self, Ruleset};
use rudeld::host::sysctl::{ReversePathFilter, reverse_path_filter};
use rudeld::host::{Change, ClusterInterface, Host, HostError, LinkError, MacAddr, Plan, addresses, links};

use rudeld::nat::Guard;

const MULTICAST_MAC: MacAddr = MacAddr([0x03, 0xbf, 192, 0, 2, 10]);
const UNICAST_MAC: MacAddr = MacAddr([0x02, 0xbf, 192, 0, 2, 10]);
const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";
const DROP_UNICAST: &str = "net/ipv4/conf/all/drop_unicast_in_l2_multicast";

/// A name with a dot: two parts of a path, not three.
const NIC: &str = "nic.5";

/// ```text
/// ┌──── node ────┐      ┌── peer ──┐
/// │ lo     nic.5 ├──────┤ wire     │
/// └──────────────┘      └──────────┘
/// ```
struct World {
    node: Netns,
    peer: Netns,
    journal: PathBuf,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (node, peer) = (Netns::new("node"), Netns::new("peer"));
        join(&node, NIC, &peer, "wire");
        node.ip(&format!("addr add 192.0.2.11/24 dev {NIC}"));
        node.ip(&format!("addr add 2001:db8::11/64 dev {NIC} nodad"));
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("run/host.json");
        Self { node, peer, journal, _directory: directory }
    }

    fn prepare(&self, plan: &Plan) -> Result<Host, HostError> {
        self.node.enter(|| Host::prepare(&self.journal, plan))
    }

    fn restore(&self, host: Host) {
        self.node.enter(|| host.restore()).unwrap();
    }

    fn conf(&self, key: &str) -> String {
        self.node.read_sysctl(&format!("net/ipv4/conf/{NIC}/{key}"))
    }

    fn settings(&self) -> [String; 3] {
        [self.conf("arp_ignore"), self.conf("arp_announce"), self.node.read_sysctl(DROP_UNICAST)]
    }

    fn on_lo(&self) -> Vec<String> {
        let mut all: Vec<_> =
            addresses_of(&self.node, "lo").into_iter().map(|(address, _)| address).collect();
        all.sort();
        all
    }
}

/// The addresses of an interface with everything that ip tells about each, 127.0.0.1 and ::1 left out.
fn addresses_of(netns: &Netns, interface: &str) -> Vec<(String, serde_json::Value)> {
    let json = netns.ip_json(&format!("addr show dev {interface}"));
    let all = json[0]["addr_info"].as_array().unwrap().clone();
    all.into_iter()
        .map(|info| (format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]), info))
        .filter(|(address, _)| !matches!(address.as_str(), "127.0.0.1/8" | "::1/128"))
        .collect()
}

fn plan(cluster_mac: MacAddr, addresses: &[&str]) -> Plan {
    Plan {
        interfaces: vec![ClusterInterface {
            name: NIC.to_owned(),
            cluster_mac,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }],
        ..Plan::default()
    }
}

const UNTOUCHED: [&str; 3] = ["0", "0", "0"];
const PREPARED: [&str; 3] = ["1", "2", "1"];

#[test]
fn addresses_come_and_go_and_are_nobodys_source() {
    if skipped() {
        return;
    }
    let world = World::new();
    assert!(!world.node.ip_json("link show dev lo")[0]["flags"].as_array().unwrap().contains(&"UP".into()));
    let host = world.prepare(&plan(MULTICAST_MAC, &[VIP, VIP6])).unwrap();
    assert_eq!(world.on_lo(), ["192.0.2.10/32", "2001:db8::10/128"]);
    let infos = addresses_of(&world.node, "lo");
    assert_eq!(infos[0].1["scope"], "host");
    assert_eq!(infos[1].1["preferred_life_time"], 0);
    assert_eq!(infos[1].1["valid_life_time"], u32::MAX);
    assert_ne!(infos[1].1["tentative"], true);
    assert!(world.node.ip_json("link show dev lo")[0]["flags"].as_array().unwrap().contains(&"UP".into()));

    // They are local: a program can bind to them and talk to itself.
    world.node.enter(|| {
        for vip in [VIP, VIP6] {
            let vip: IpAddr = vip.parse().unwrap();
            let server = UdpSocket::bind((vip, 0)).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            server.send_to(b"hello", server.local_addr().unwrap()).unwrap();
            assert_eq!(server.recv(&mut [0; 16]).unwrap(), 5);
        }
    });
    // But they are not chosen for calling others, even when the interface has nothing else.
    let source = |destination: &str| -> Option<IpAddr> {
        world.node.enter(|| {
            let destination: IpAddr = destination.parse().unwrap();
            let any: IpAddr =
                if destination.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect((destination, 9)).ok()?;
            Some(socket.local_addr().unwrap().ip())
        })
    };
    world.node.ip("route add 198.51.100.0/24 via 192.0.2.1");
    world.node.ip("route add 2001:db8:1::/64 via 2001:db8::1");
    assert_eq!(source("198.51.100.1"), Some("192.0.2.11".parse().unwrap()));
    assert_eq!(source("2001:db8:1::1"), Some("2001:db8::11".parse().unwrap()));
    world.node.ip(&format!("addr del 192.0.2.11/24 dev {NIC}"));
    world.node.ip(&format!("route add 198.51.100.0/24 dev {NIC}"));
    assert_ne!(source("198.51.100.1"), Some(VIP.parse().unwrap()));

    world.restore(host);
    assert_eq!(world.on_lo(), [""; 0]);
    assert!(!world.journal.exists());
}

#[test]
fn addresses_that_were_there_before_stay() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.node.ip("addr add 192.0.2.10/24 dev lo");
    world.node.ip("addr add 2001:db8::10/128 dev lo");
    world.node.ip("link add elsewhere type bridge");
    world.node.ip("addr add 192.0.2.20/32 dev elsewhere");
    let before = world.on_lo();
    let host = world.prepare(&plan(UNICAST_MAC, &[VIP, VIP6, "192.0.2.20", "192.0.2.30"])).unwrap();
    assert_eq!(world.on_lo(), ["192.0.2.10/24", "192.0.2.30/32", "2001:db8::10/128"]);
    world.restore(host);
    assert_eq!(world.on_lo(), before);
    assert_eq!(addresses_of(&world.node, "elsewhere")[0].0, "192.0.2.20/32");
}

#[test]
fn an_address_on_the_interface_itself_is_an_error() {
    if skipped() {
        return;
    }
    let world = World::new();
    for (vip, prefix_len) in [(VIP, 24), (VIP6, 64)] {
        world.node.ip(&format!("addr add {vip}/{prefix_len} dev {NIC}"));
        let error = world.prepare(&plan(MULTICAST_MAC, &["192.0.2.9", vip])).unwrap_err();
        assert!(matches!(error, HostError::AddressOnInterface { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("ip addr del {vip}/{prefix_len} dev {NIC}")), "{text}");
        world.node.ip(&format!("addr del {vip}/{prefix_len} dev {NIC}"));
        assert_eq!(world.on_lo(), [""; 0]);
        assert_eq!(world.settings(), UNTOUCHED);
        assert!(!world.journal.exists());
    }
}

#[test]
fn settings_are_set_and_restored() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_announce"), "1");
    let host = world.prepare(&plan(MULTICAST_MAC, &[VIP])).unwrap();
    assert_eq!(world.settings(), PREPARED);
    world.restore(host);
    assert_eq!(world.settings(), ["0", "1", "0"]);

    // A unicast MAC does not need the third.
    let host = world.prepare(&plan(UNICAST_MAC, &[VIP])).unwrap();
    assert_eq!(world.settings(), ["1", "2", "0"]);
    world.restore(host);
    assert_eq!(world.settings(), ["0", "1", "0"]);
}

#[test]
fn settings_of_others_are_left_alone() {
    if skipped() {
        return;
    }
    let world = World::new();
    // Right already, in one way or another: not ours to restore.
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_ignore"), "2");
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_announce"), "2");
    let host = world.prepare(&plan(MULTICAST_MAC, &[])).unwrap();
    assert_eq!(world.settings(), ["2", "2", "1"]);
    // Set back by an administrator while we were there.
    world.node.write_sysctl(DROP_UNICAST, "0");
    world.restore(host);
    assert_eq!(world.settings(), ["2", "2", "0"]);

    // Changed to something that is neither ours nor the original.
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_announce"), "0");
    let host = world.prepare(&plan(UNICAST_MAC, &[])).unwrap();
    assert_eq!(world.conf("arp_announce"), "2");
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_announce"), "1");
    world.restore(host);
    assert_eq!(world.conf("arp_announce"), "1");

    let host = world.prepare(&plan(UNICAST_MAC, &[VIP])).unwrap();
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_ignore"), "0");
    let host_again = world.prepare(&plan(UNICAST_MAC, &[VIP])).unwrap();
    drop(host);
    assert_eq!(world.conf("arp_ignore"), "1");
    world.restore(host_again);
    assert_eq!(world.conf("arp_ignore"), "0");
}

#[test]
fn reverse_path_filters_are_reported() {
    if skipped() {
        return;
    }
    let world = World::new();
    for (all, own, expected) in [
        ("0", "0", ReversePathFilter::Off),
        ("0", "1", ReversePathFilter::Strict),
        ("1", "0", ReversePathFilter::Strict),
        ("2", "1", ReversePathFilter::Loose),
    ] {
        world.node.write_sysctl("net/ipv4/conf/all/rp_filter", all);
        world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/rp_filter"), own);
        assert_eq!(world.node.enter(|| reverse_path_filter(NIC)).unwrap(), expected);
        assert_eq!(world.conf("rp_filter"), own);
    }
}

#[test]
fn a_crash_loses_no_original() {
    if skipped() {
        return;
    }
    let world = World::new();
    let wanted = plan(MULTICAST_MAC, &[VIP, VIP6]);
    // Three starts without an orderly end.
    for _ in 0..3 {
        let host = world.prepare(&wanted).unwrap();
        assert_eq!(host.changes().len(), 5, "{:?}", host.changes());
        drop(host);
        assert_eq!(world.settings(), PREPARED);
        assert_eq!(world.on_lo(), ["192.0.2.10/32", "2001:db8::10/128"]);
    }
    // One after which changes were noted and not made.
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_announce"), "0");
    world.node.ip("addr del 192.0.2.10/32 dev lo");
    let host = world.prepare(&wanted).unwrap();
    assert_eq!(world.settings(), PREPARED);
    assert_eq!(world.on_lo(), ["192.0.2.10/32", "2001:db8::10/128"]);
    world.restore(host);
    assert_eq!(world.settings(), UNTOUCHED);
    assert_eq!(world.on_lo(), [""; 0]);
    assert!(!world.journal.exists());
}

#[test]
fn recovery_needs_the_journal_only() {
    if skipped() {
        return;
    }
    let world = World::new();
    drop(world.prepare(&plan(MULTICAST_MAC, &[VIP])).unwrap());
    let recovered = world.node.enter(|| Host::recover(&world.journal)).unwrap();
    assert_eq!(recovered.changes.len(), 4);
    assert_eq!(world.settings(), UNTOUCHED);
    assert_eq!(world.on_lo(), [""; 0]);
    assert!(!world.journal.exists());
    assert_eq!(world.node.enter(|| Host::recover(&world.journal)).unwrap().changes, []);
}

#[test]
fn a_preparation_that_fails_half_way_leaves_nothing() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.node.ip("link set lo up");
    world.node.write_sysctl("net/ipv6/conf/lo/disable_ipv6", "1");
    let error = world.prepare(&plan(MULTICAST_MAC, &[VIP, VIP6])).unwrap_err();
    assert!(matches!(error, HostError::AddAddress { .. }), "{error}");
    assert!(error.to_string().contains("disable_ipv6"), "{error}");
    assert_eq!(world.settings(), UNTOUCHED);
    assert_eq!(world.on_lo(), [""; 0]);
    assert!(!world.journal.exists());

    // A change of plan that fails leaves the former plan in force.
    let mut host = world.prepare(&plan(MULTICAST_MAC, &[VIP])).unwrap();
    let changes = host.changes().to_vec();
    world.node.enter(|| host.apply(&plan(UNICAST_MAC, &["192.0.2.30", VIP6])).unwrap_err());
    assert_eq!(host.changes(), changes);
    assert_eq!(world.settings(), PREPARED);
    assert_eq!(world.on_lo(), ["192.0.2.10/32"]);
    world.restore(host);
}

#[test]
fn a_new_plan_takes_back_what_it_does_not_want() {
    if skipped() {
        return;
    }
    let world = World::new();
    let mut host = world.prepare(&plan(MULTICAST_MAC, &[VIP, VIP6])).unwrap();
    world.node.enter(|| host.apply(&plan(UNICAST_MAC, &[VIP6, "192.0.2.30"]))).unwrap();
    assert_eq!(world.settings(), ["1", "2", "0"]);
    assert_eq!(world.on_lo(), ["192.0.2.30/32", "2001:db8::10/128"]);
    // The same by way of a crash.
    drop(host);
    let host = world.prepare(&plan(MULTICAST_MAC, &[VIP])).unwrap();
    assert_eq!(world.settings(), PREPARED);
    assert_eq!(world.on_lo(), ["192.0.2.10/32"]);
    world.restore(host);
    assert_eq!(world.settings(), UNTOUCHED);
}

#[test]
fn an_interface_that_is_gone_needs_no_restoring() {
    if skipped() {
        return;
    }
    let world = World::new();
    let host = world.prepare(&plan(MULTICAST_MAC, &[VIP])).unwrap();
    world.node.ip(&format!("link del {NIC}"));
    world.restore(host);
    assert_eq!(world.on_lo(), [""; 0]);
    assert_eq!(world.node.read_sysctl(DROP_UNICAST), "0");
    assert!(!world.journal.exists());
}

const VICTIM: &str = "RUDELD_TEST_VICTIM";

/// Not a test: the process that `kill_nine_at_any_moment_loses_nothing` kills.
#[test]
fn victim() {
    let Ok(arguments) = std::env::var(VICTIM) else { return };
    let (netns, journal) = arguments.split_once(':').unwrap();
    enter(netns);
    let mut stdout = std::io::stdout();
    loop {
        let host = Host::prepare(Path::new(journal), &plan(MULTICAST_MAC, &[VIP, VIP6])).unwrap();
        stdout.write_all(b"round\n").unwrap();
        stdout.flush().unwrap();
        host.restore().unwrap();
    }
}

#[test]
fn kill_nine_at_any_moment_loses_nothing() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_announce"), "1");
    const ROUNDS: u32 = 60;
    for round in 0..ROUNDS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--exact", "--nocapture"])
            .env(VICTIM, format!("{}:{}", world.node.name(), world.journal.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut prepared = || {
            assert!(lines.any(|line| line.unwrap().contains("round")), "the victim has died by itself");
            Instant::now()
        };
        // See how long a round takes, and strike at another point of it each time.
        let (first, second) = (prepared(), prepared());
        std::thread::park_timeout((second - first) * round / ROUNDS);
        victim.kill().unwrap();
        victim.wait().unwrap();
        // Every other time a start comes in between.
        if round % 2 == 0 {
            drop(world.prepare(&plan(MULTICAST_MAC, &[VIP, VIP6])).unwrap());
            assert_eq!(world.settings(), PREPARED);
        }
        world.node.enter(|| Host::recover(&world.journal)).unwrap();
        assert_eq!(world.settings(), ["0", "1", "0"], "after round {round}");
        assert_eq!(world.on_lo(), [""; 0], "after round {round}");
        let left: Vec<_> = fs::read_dir(world.journal.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "host.json.new")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn links_are_found_by_name_and_index() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.node.ip(&format!("link set {NIC} mtu 1400"));
    world.node.enter(|| {
        let link = links::find(NIC).unwrap();
        assert_eq!((link.name.as_str(), link.mtu, link.kind.as_deref()), (NIC, 1400, Some("veth")));
        assert!(link.ethernet_mac().unwrap().is_station());
        assert_eq!(links::by_index(link.index).unwrap(), Some(link.clone()));
        assert_eq!(links::by_index(link.index + 100).unwrap(), None);
        assert!(links::all().unwrap().contains(&link));
        let lo = links::find("lo").unwrap();
        assert_eq!((lo.index, lo.kind.as_deref(), lo.mac), (links::LOOPBACK_IFINDEX, None, None));
        assert!(matches!(lo.ethernet_mac(), Err(LinkError::NotEthernet { .. })));
        for name in ["missing", "", "a-name-that-is-too-long-for-an-interface"] {
            assert!(matches!(links::find(name), Err(LinkError::NotFound { .. })), "{name:?}");
        }
    });
}

#[test]
fn the_monitor_reports_what_changes() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (sender, events) = mpsc::channel();
    let monitor = world.node.enter(|| Monitor::start(move |event| sender.send(event).unwrap())).unwrap();
    let next = || events.recv_timeout(netns::DEADLINE).unwrap();
    let mut appeared = Vec::new();
    while !appeared.contains(&NIC.to_owned()) || !appeared.contains(&"lo".to_owned()) {
        if let LinkEvent::Appeared(link) = next() {
            appeared.push(link.name);
        }
    }
    // Waits for a change of the NIC after which `so` holds.
    let changed = |what: &str, so: &dyn Fn(&links::Link) -> bool| {
        loop {
            match next() {
                LinkEvent::Changed { before, after } if after.name == NIC && so(&after) => return before,
                LinkEvent::Changed { .. } | LinkEvent::Addresses => {}
                other => panic!("{other:?} while waiting for {what}"),
            }
        }
    };
    eventually("carrier", || {
        let link = world.node.enter(|| links::find(NIC).unwrap());
        if link.carrier { Ok(()) } else { Err("none") }
    });
    world.peer.ip("link set wire down");
    changed("no carrier", &|link| link.up && !link.carrier);
    world.peer.ip("link set wire up");
    changed("carrier", &|link| link.up && link.carrier);
    // The interface's own address may take its time to be there for good.
    let readdressed = |command: &str, there: bool| {
        world.node.ip(command);
        let ip: IpAddr = "192.0.2.77".parse().unwrap();
        loop {
            if next() == LinkEvent::Addresses
                && world.node.enter(addresses::all).unwrap().iter().any(|address| address.ip == ip) == there
            {
                return;
            }
        }
    };
    readdressed(&format!("addr add 192.0.2.77/24 dev {NIC}"), true);
    readdressed(&format!("addr del 192.0.2.77/24 dev {NIC}"), false);
    let mac = MacAddr([0x02, 1, 2, 3, 4, 5]);
    world.node.ip(&format!("link set {NIC} address {mac}"));
    assert_ne!(changed("a new MAC", &|link| link.mac == Some(mac)).mac, Some(mac));
    world.node.ip(&format!("link set {NIC} mtu 1280"));
    changed("a new MTU", &|link| link.mtu == 1280);
    world.node.ip(&format!("link set {NIC} down"));
    changed("down", &|link| !link.up && !link.carrier);
    world.node.ip(&format!("link del {NIC}"));
    loop {
        if let LinkEvent::Disappeared(link) = next() {
            assert_eq!(link.name, NIC);
            break;
        }
    }
    world.node.ip("link add another type bridge");
    loop {
        match next() {
            LinkEvent::Addresses => {}
            LinkEvent::Appeared(link) if link.name == "another" && !link.up => break,
            other => panic!("{other:?}"),
        }
    }
    drop(monitor);
}

#[test]
fn the_monitor_survives_more_changes_than_it_can_read() {
    if skipped() {
        return;
    }
    const CHANGES: usize = 2000;
    let world = World::new();
    world.node.ip("link add doomed type bridge");
    let (sender, events) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let monitor = world.node.enter(|| {
        let gate = Arc::clone(&gate);
        Monitor::start(move |event| {
            drop(gate.lock().unwrap());
            sender.send(event).unwrap();
        })
        .unwrap()
    });
    let mut known = BTreeMap::new();
    let reported = Cell::new(0);
    let mut take = |event| {
        reported.set(reported.get() + 1);
        match event {
            LinkEvent::Appeared(link) | LinkEvent::Changed { after: link, .. } => {
                known.insert(link.name.clone(), link)
            }
            LinkEvent::Disappeared(link) => known.remove(&link.name),
            LinkEvent::Addresses => None,
        };
        known.clone()
    };
    while !take(events.recv_timeout(netns::DEADLINE).unwrap()).contains_key(NIC) {}

    let shut = gate.lock().unwrap();
    let mut batch: String =
        (0..CHANGES).map(|n| format!("link set {NIC} mtu {}\n", 1300 + n % 100)).collect();
    batch.push_str(&format!("link del doomed\nlink add newcomer type bridge\nlink set {NIC} mtu 1450\n"));
    let file = world.journal.with_file_name("batch");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, batch).unwrap();
    world.node.ip(&format!("-batch {}", file.display()));
    drop(shut);

    let truth: BTreeMap<_, _> =
        world.node.enter(links::all).unwrap().into_iter().map(|link| (link.name.clone(), link)).collect();
    assert!(truth.contains_key("newcomer") && !truth.contains_key("doomed"));
    while take(events.recv_timeout(netns::DEADLINE).expect("the last state")) != truth {}
    assert!(reported.get() < CHANGES, "nothing was lost: this test has to change more");
    // And it goes on.
    world.node.ip(&format!("link set {NIC} mtu 1460"));
    while take(events.recv_timeout(netns::DEADLINE).unwrap())[NIC].mtu != 1460 {}
    drop(monitor);
}

fn joined_macs(netns: &Netns) -> Vec<String> {
    netns
        .proc_net("dev_mcast")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1] == NIC)
        .map(|fields| fields[4].to_owned())
        .collect()
}

#[test]
fn memberships_last_as_long_as_their_owner() {
    if skipped() {
        return;
    }
    let world = World::new();
    let index = world.node.enter(|| links::find(NIC).unwrap().index);
    let vips: [Ipv6Addr; 3] =
        [VIP6.parse().unwrap(), "2001:db8:1::10".parse().unwrap(), "2001:db8::20".parse().unwrap()];
    let promiscuity =
        || world.node.ip_json(&format!("link show dev {NIC}"))[0]["promiscuity"].as_u64().unwrap();
    assert_eq!(promiscuity(), 0);
    let ours = ["03bfc000020a", "3333ff000010", "3333ff000020"];
    let joined = || {
        let all = joined_macs(&world.node);
        ours.into_iter().filter(|mac| all.iter().any(|joined| joined == mac)).collect::<Vec<_>>()
    };
    assert_eq!(joined(), [""; 0]);

    let membership = world.node.enter(|| Membership::join(index, MULTICAST_MAC, &vips)).unwrap();
    assert_eq!(joined(), ours);
    // They outlast the link's going down and up.
    world.node.ip(&format!("link set {NIC} down"));
    world.node.ip(&format!("link set {NIC} up"));
    eventually("the groups after the link came back", || {
        let joined = joined();
        if joined == ours { Ok(()) } else { Err(format!("{joined:?}")) }
    });
    drop(membership);
    // Not at once: another test that starts a process just now lends it a copy of the descriptor, until it executes.
    eventually("no groups any more", || {
        let joined = joined();
        if joined.is_empty() { Ok(()) } else { Err(format!("{joined:?}")) }
    });

    let igmp = MacAddr([0x01, 0x00, 0x5e, 0x7f, 2, 10]);
    let membership = world.node.enter(|| Membership::join(index, igmp, &[])).unwrap();
    assert!(joined_macs(&world.node).contains(&"01005e7f020a".to_owned()));
    // 239.255.2.10, as the file writes it.
    assert!(world.node.proc_net("igmp").contains("0A02FFEF"), "{}", world.node.proc_net("igmp"));
    drop(membership);
    eventually("no group any more", || {
        let (macs, groups) = (joined_macs(&world.node), world.node.proc_net("igmp"));
        if macs.contains(&"01005e7f020a".to_owned()) || groups.contains("0A02FFEF") {
            Err(groups)
        } else {
            Ok(())
        }
    });

    let membership = world.node.enter(|| Membership::join(index, UNICAST_MAC, &[])).unwrap();
    // veth has no unicast filter: it listens to everything.
    assert_eq!(promiscuity(), 1);
    drop(membership);
    eventually("no promiscuity", || if promiscuity() == 0 { Ok(()) } else { Err("some") });

    let error = world.node.enter(|| Membership::join(index + 100, MULTICAST_MAC, &[])).unwrap_err();
    assert!(error.to_string().contains("03:bf:c0:00:02:0a"), "{error}");
}

#[test]
fn the_journal_tells_what_was_there_before() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.node.write_sysctl(&format!("net/ipv4/conf/{NIC}/arp_announce"), "1");
    let host = world.prepare(&plan(UNICAST_MAC, &[VIP])).unwrap();
    let original = host.changes().iter().find_map(|change| match change {
        Change::Sysctl { path, original, ours } if path.to_string() == "net.ipv4.conf.nic/5.arp_announce" => {
            Some((original.as_str(), ours.as_str()))
        }
        _ => None,
    });
    assert_eq!(original, Some(("1", "2")));
    let text = fs::read_to_string(&world.journal).unwrap();
    assert!(text.contains("\"net/ipv4/conf/nic.5/arp_announce\""), "{text}");
    world.restore(host);
}

/// The tables of the node, as nft names them.
fn tables(world: &World) -> String {
    world.node.enter(|| {
        let output = std::process::Command::new("nft").args(["list", "tables"]).output().expect("nft");
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

fn table(body: &str) -> Option<Ruleset> {
    Some(Ruleset { table: "rudel_lab".to_owned(), body: body.to_owned() })
}

#[test]
fn a_table_comes_with_the_plan_and_goes_with_it() {
    if skipped() {
        return;
    }
    let world = World::new();
    let with = |body: &str| Plan { table: table(body), ..plan(MULTICAST_MAC, &[VIP]) };
    let host = world.prepare(&with("chain a {\n}\n")).unwrap();
    assert_eq!(tables(&world), "table inet rudel_lab\n");
    // A crash: nothing is undone, and the next start loads its own in the old one's place.
    drop(host);
    let mut host = world.prepare(&with("chain b {\n}\n")).unwrap();
    let listed = world.node.enter(|| nft::list("rudel_lab")).unwrap().unwrap();
    assert!(listed.contains("chain b") && !listed.contains("chain a"), "{listed}");
    // What nft does not take changes nothing.
    let error = world.node.enter(|| host.apply(&with("chain b { nonsense }\n"))).unwrap_err();
    assert!(matches!(error, HostError::Table { .. }), "{error}");
    assert_eq!(world.node.enter(|| nft::list("rudel_lab")).unwrap().as_ref(), Some(&listed));
    world.node.enter(|| host.apply(&plan(MULTICAST_MAC, &[VIP]))).unwrap();
    assert_eq!(tables(&world), "", "the new plan has none");
    world.node.enter(|| host.apply(&with("chain c {\n}\n"))).unwrap();
    world.node.enter(|| host.restore()).unwrap();
    assert_eq!(tables(&world), "");
}

#[test]
fn a_link_local_address_is_resolved_and_sits_nowhere() {
    if skipped() {
        return;
    }
    let world = World::new();
    let host = world.prepare(&plan(MULTICAST_MAC, &[VIP, "fe80::1"])).unwrap();
    assert_eq!(world.on_lo(), ["192.0.2.10/32"]);
    world.node.enter(|| host.restore()).unwrap();
}

#[test]
fn a_guard_puts_back_what_others_remove_and_leaves_others_alone() {
    if skipped() {
        return;
    }
    let world = World::new();
    let nft_in = |text: &str| {
        world.node.enter(|| {
            let text = text.to_owned();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let status = std::process::Command::new("nft").arg("-f").arg(file.path()).status().unwrap();
            assert!(status.success());
        });
    };
    let plan = Plan { table: table("chain a {\ncounter\n}\n"), ..plan(MULTICAST_MAC, &[VIP]) };
    let host = world.prepare(&plan).unwrap();
    let mut guard = world.node.enter(|| Guard::new(plan.table.clone().unwrap())).unwrap();
    let mut look = || world.node.enter(|| guard.look()).unwrap();
    assert!(!look().restored);
    nft_in("table ip theirs {\n}\n");
    assert!(!look().restored, "a table of others is none of ours");
    nft_in("flush ruleset\n");
    assert_eq!(tables(&world), "");
    assert!(look().restored);
    assert_eq!(tables(&world), "table inet rudel_lab\n");
    assert!(!look().restored);
    nft_in("flush chain inet rudel_lab a\n");
    assert!(look().restored, "a table without its rules is not ours");
    world.node.enter(|| host.restore()).unwrap();
}
