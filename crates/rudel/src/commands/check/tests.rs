//! Each finding, from what real machines and daemons have said; and what a machine says of which all is well.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rudel_api::check::{
    Asker, AuditFinding, ClaimSeen, EarSight, Hearing, InterfaceSight, Name, PeerHeard, Querier, Report,
    Severity, Sight,
};
use rudel_api::config::{Config, MacAddress};
use rudel_api::control::ClientError;
use rudel_api::event::{Event, EventKind};
use rudel_api::key::ClusterKey;
use rudel_api::snapshot::{NodeState, Snapshot};
use rudel_api::timestamp::Timestamp;

use super::system::NotRun;
use super::system::canned::Canned;
use super::{Told, look, screen};

/// `ip -j -d addr show` of a node of the laboratory, with what is of no interest left out.
const ADDRESSES: &str = r#"[
{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"link_type":"loopback","addr_info":[
 {"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"},
 {"family":"inet","local":"192.0.2.10","prefixlen":32,"scope":"global"},
 {"family":"inet6","local":"2001:db8::10","prefixlen":128,"scope":"global"}]},
{"ifindex":3,"link":"veth1","ifname":"eth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"link_type":"ether",
 "linkinfo":{"info_kind":"veth"},
 "xdp":{"mode":2,"prog":{"id":31572,"name":"rudel_filter","tag":"44937040058db1a3","jited":1},
  "attached":[{"mode":2,"prog":{"id":31572,"name":"rudel_filter","tag":"44937040058db1a3","jited":1}}]},
 "addr_info":[
 {"family":"inet","local":"192.0.2.11","prefixlen":24,"scope":"global"},
 {"family":"inet6","local":"2001:db8::11","prefixlen":64,"scope":"global"},
 {"family":"inet6","local":"fe80::1c:faff:fef8:8d50","prefixlen":64,"scope":"link"}]}]"#;
const IP: &str = "ip -j -d addr show";
const NFT: &str = "nft -j list ruleset";
/// An administrator's rules: what is wanted, and nothing else.
const RULES: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.6"}},{"table":{"family":"inet","name":"f","handle":1}},
{"chain":{"family":"inet","table":"f","name":"in","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
{"rule":{"family":"inet","table":"f","chain":"in","handle":2,"expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}]}},
{"rule":{"family":"inet","table":"f","chain":"in","handle":3,"expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"accept":null}]}},
{"rule":{"family":"inet","table":"f","chain":"in","handle":5,"expr":[{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":{"set":[53,7440]}}},{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"239.0.0.0","len":8}}}},{"accept":null}]}},
{"rule":{"family":"inet","table":"f","chain":"in","handle":6,"expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"protocol"}},"right":"igmp"}},{"accept":null}]}}]}"#;
const SNAPSHOT: &str = include_str!("../../../tests/fixtures/three-nodes.json");

/// A machine, its configuration, and what its daemon says.
struct World {
    dir: tempfile::TempDir,
    system: Canned,
    config: String,
    told: Option<(Snapshot, Sight)>,
}

fn now() -> Timestamp {
    "2026-01-01T12:00:30Z".parse().expect("a time")
}

impl World {
    /// A service cluster of three, of which all is well.
    fn well() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        ClusterKey::generate().unwrap().write_new(&dir.path().join("key")).unwrap();
        let mut system = Canned::default();
        system
            .file("/proc/self/status", "Name:\trudel\nUid:\t0\t0\t0\t0\n")
            .sysctl_is("kernel/osrelease", "6.1.0-18-amd64")
            .sysctl_is("kernel/hostname", "n1")
            .sysctl_is("kernel/unprivileged_bpf_disabled", "2")
            .sysctl_is("net/core/bpf_jit_enable", "1")
            .sysctl_is("net/ipv4/conf/all/rp_filter", "0")
            .sysctl_is("net/ipv4/conf/eth0/rp_filter", "1")
            .sysctl_is("net/ipv4/conf/eth0/arp_ignore", "1")
            .sysctl_is("net/ipv4/conf/eth0/arp_announce", "2")
            .sysctl_is("net/ipv4/conf/all/drop_unicast_in_l2_multicast", "1")
            .sysctl_is("net/ipv6/conf/eth0/disable_ipv6", "0")
            .says(IP, ADDRESSES)
            .says(NFT, RULES)
            .says(
                "ip -j -4 route show default",
                r#"[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]}]"#,
            );
        system.links.insert("/proc/self/ns/net".into(), "net:[4026531840]".into());
        let mut snapshot: Snapshot = serde_json::from_str(SNAPSHOT).unwrap();
        quiet(&mut snapshot);
        for (address, sizes) in [("192.0.2.12", ["56", "1472"]), ("192.0.2.13", ["56", "1472"])] {
            for size in sizes {
                system.says(&format!("ping -n -q -c 1 -W 1 -M do -s {size} -I eth0 {address}"), "1 received");
            }
        }
        let peer = |node: &str| PeerHeard { node: node.into(), heard_ms: Some(400), hears: Some(true) };
        let ear = |family| EarSight { family, hearing: Hearing::Well, peers: vec![peer("n2"), peer("n3")] };
        let sight = Sight {
            interfaces: vec![InterfaceSight {
                name: "eth0".into(),
                own_mac: "02:1c:fa:f8:8d:50".into(),
                cluster_mac: "03:bf:c0:00:02:0a".into(),
                ears: vec![ear(4), ear(6)],
                ..InterfaceSight::default()
            }],
        };
        let config = "[cluster]\nname = \"web\"\nkey_file = \"KEY\"\n[[interface]]\nname = \"eth0\"\n\
                      addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n";
        World { dir, system, config: config.into(), told: Some((snapshot, sight)) }
    }

    /// A router with NAT and shared connections.
    fn router() -> Self {
        let mut world = World::well();
        world.config = "[cluster]\nname = \"web\"\nkey_file = \"KEY\"\n[[interface]]\nname = \"eth0\"\nside = \"outside\"\n\
            addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n[[interface]]\nname = \"eth1\"\nside = \"inside\"\n\
            addresses = [\"10.0.0.1/24\", \"fe80::1/64\"]\n[heartbeat]\ninterfaces = [\"eth0\"]\n\
            [nat]\naddress = \"192.0.2.10\"\ninside = [\"10.0.0.0/8\"]\n[sync]\nenabled = true\n"
            .into();
        let inside = r#"{"ifindex":4,"ifname":"eth1","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,
            "link_type":"ether","linkinfo":{"info_kind":"veth"},
            "addr_info":[{"local":"10.0.0.11","prefixlen":24},{"local":"fe80::9","prefixlen":64}]}]"#;
        let both = format!("{},{inside}", ADDRESSES.trim_end_matches(']').trim_end());
        let rules = RULES.replace("[53,7440]", "[53,7440,7441]");
        world.system.says(IP, &both).says(NFT, &rules);
        for (path, value) in [
            ("net/ipv4/conf/eth0/forwarding", "1"),
            ("net/ipv4/conf/eth1/forwarding", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/eth0/send_redirects", "0"),
            ("net/ipv4/conf/eth1/send_redirects", "0"),
            ("net/ipv4/conf/eth1/arp_ignore", "1"),
            ("net/ipv4/conf/eth1/arp_announce", "2"),
            ("net/ipv6/conf/eth1/disable_ipv6", "0"),
            ("net/ipv6/conf/eth0/accept_ra", "0"),
            ("net/netfilter/nf_conntrack_events", "1"),
            ("net/netfilter/nf_conntrack_count", "300"),
            ("net/netfilter/nf_conntrack_max", "65536"),
        ] {
            world.system.sysctl_is(path, value);
        }
        world
    }

    fn snapshot(&mut self) -> &mut Snapshot {
        &mut self.told.as_mut().expect("a daemon").0
    }

    fn seen(&mut self) -> &mut InterfaceSight {
        &mut self.told.as_mut().expect("a daemon").1.interfaces[0]
    }

    fn event(&mut self, kind: EventKind, reason: &str) {
        let event = Event {
            at: "2026-01-01T12:00:00Z".parse().unwrap(),
            kind,
            node: "n4".into(),
            reason: reason.into(),
            sequence: None,
            epoch: None,
        };
        self.snapshot().events.push(event);
    }

    /// Replaces a piece of what a program says.
    fn edit(&mut self, command: &str, old: &str, new: &str) {
        let said =
            self.system.said.get_mut(command).and_then(|said| said.as_mut().ok()).expect("it says something");
        assert!(said.contains(old), "{old} is not said");
        *said = said.replace(old, new);
    }

    fn config(&self) -> Config {
        let key = self.dir.path().join("key").display().to_string();
        Config::parse(&self.config.replace("KEY", &key), "/etc/rudel/rudel.toml").unwrap()
    }

    fn report(&self) -> Report {
        let told = match &self.told {
            Some((snapshot, sight)) => Ok(Told { snapshot: snapshot.clone(), sight: Some(sight.clone()) }),
            None => Err(ClientError::Timeout { path: "/run/rudel/rudel.sock".into() }),
        };
        look(&self.system, &self.config(), &told, now())
    }
}

/// A snapshot of a cluster at rest.
fn quiet(snapshot: &mut Snapshot) {
    snapshot.version = env!("CARGO_PKG_VERSION").to_owned();
    snapshot.events.clear();
    snapshot.health.clear();
    snapshot.hook = None;
    snapshot.alarms.clear();
    snapshot.view.settled = true;
    snapshot.pulses = None;
    snapshot.nodes.retain(|node| node.state != NodeState::Lost);
    let me = snapshot.node.clone();
    for owner in &mut snapshot.buckets.owners {
        owner.get_or_insert_with(|| me.clone());
    }
    snapshot.interfaces.iter_mut().for_each(|interface| interface.deaf = false);
    for (node, last) in snapshot.nodes.iter_mut().zip(11..) {
        node.addresses = vec![format!("192.0.2.{last}")];
    }
    for node in &mut snapshot.nodes {
        node.healthy = true;
        node.reason = None;
        node.state = NodeState::Active;
        node.heard_ms.get_or_insert(12);
    }
}

fn names(report: &Report) -> Vec<&'static str> {
    report.findings.iter().filter_map(|finding| finding.name).map(Name::as_str).collect()
}

type Change = fn(&mut World);

/// What is done to a machine of which all is well, and the one finding that comes of it.
const EACH: &[(Name, Severity, Change)] = &[
    (Name::ConfigAdvice, Severity::Warning, |w| {
        w.config =
            w.config.replace("[[interface]]", "quorum = 2\n[heartbeat]\ninterval = \"130ms\"\n[[interface]]");
    }),
    (Name::NodeName, Severity::Error, |w| {
        w.told = None;
        w.system.sysctl_is("kernel/hostname", "n 1");
    }),
    (Name::KeyFile, Severity::Error, |w| {
        std::fs::set_permissions(w.dir.path().join("key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    }),
    (Name::KeyFile, Severity::Error, |w| std::fs::remove_file(w.dir.path().join("key")).unwrap()),
    (Name::KeyFile, Severity::Error, |w| std::fs::write(w.dir.path().join("key"), "rubbish\n").unwrap()),
    (Name::KeyOwner, Severity::Warning, |w| {
        std::fs::set_permissions(w.dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    }),
    (Name::KernelOld, Severity::Error, |w| {
        w.system.sysctl_is("kernel/osrelease", "5.10.0-28-amd64");
    }),
    (Name::KernelOptions, Severity::Error, |w| {
        let options = "CONFIG_INET=y\nCONFIG_PACKET=y\n# CONFIG_BPF_SYSCALL is not set\n";
        w.system.file("/boot/config-6.1.0-18-amd64", options);
    }),
    (Name::KernelOptions, Severity::Error, |w| {
        w.system.files.remove("/proc/sys/kernel/unprivileged_bpf_disabled");
    }),
    (Name::BpfJit, Severity::Warning, |w| {
        w.system.sysctl_is("net/core/bpf_jit_enable", "0");
    }),
    (Name::DaemonCapabilities, Severity::Error, |w| {
        w.system.says(
            "systemctl show rudeld.service --property=LoadState,CapabilityBoundingSet,AmbientCapabilities,User",
            "LoadState=loaded\nUser=\nCapabilityBoundingSet=cap_net_admin cap_net_raw cap_bpf\nAmbientCapabilities=\n",
        );
    }),
    (Name::InterfaceMissing, Severity::Error, |w| {
        w.config = w
            .config
            .replace("\"eth0\"", "\"eth7\"")
            .replace("[[interface]]", "[heartbeat]\ninterfaces = [\"eth0\"]\n[[interface]]");
        w.told = None;
    }),
    (Name::InterfaceKind, Severity::Error, |w| {
        w.edit(IP, "\"link_type\":\"ether\"", "\"link_type\":\"none\"")
    }),
    (Name::InterfaceEnslaved, Severity::Error, |w| {
        w.edit(IP, "\"mtu\":1500,", "\"mtu\":1500,\"master\":\"bond0\",");
        w.edit(IP, "{\"info_kind\":\"veth\"}", "{\"info_slave_kind\":\"bond\"}");
    }),
    (Name::InterfaceDown, Severity::Error, |w| {
        w.edit(IP, "\"MULTICAST\",\"UP\",\"LOWER_UP\"", "\"MULTICAST\"")
    }),
    (Name::InterfaceCarrier, Severity::Error, |w| {
        w.edit(IP, "\"MULTICAST\",\"UP\",\"LOWER_UP\"", "\"NO-CARRIER\",\"MULTICAST\",\"UP\"");
    }),
    (Name::InterfaceMtu, Severity::Error, |w| {
        w.edit(IP, "\"mtu\":1500", "\"mtu\":1200");
        w.snapshot().nodes.iter_mut().for_each(|node| node.addresses.clear());
    }),
    (Name::Ipv6Disabled, Severity::Error, |w| {
        w.system.sysctl_is("net/ipv6/conf/eth0/disable_ipv6", "1");
    }),
    (Name::OwnAddress, Severity::Warning, |w| w.edit(IP, "2001:db8::11", "2001:db8:5::11")),
    (Name::XdpOccupied, Severity::Error, |w| w.edit(IP, "rudel_filter", "katran")),
    (Name::XdpMode, Severity::Error, |w| w.config.push_str("xdp = \"native\"\n")),
    (Name::XdpOffload, Severity::Warning, |w| {
        w.config.push_str("xdp = \"native\"\n");
        w.edit(IP, "\"linkinfo\":{\"info_kind\":\"veth\"},", "");
        w.system.says(
            "ethtool -k eth0",
            "Features for eth0:\nlarge-receive-offload: on\nrx-gro-hw: off [fixed]\n",
        );
    }),
    (Name::AddressOnInterface, Severity::Error, |w| {
        w.edit(IP, "192.0.2.11\"", "192.0.2.10\",\"prefixlen\":24},{\"local\":\"192.0.2.11\"")
    }),
    (Name::AddressPrefix, Severity::Error, |w| w.edit(IP, "\"prefixlen\":32", "\"prefixlen\":24")),
    (Name::SysctlChanged, Severity::Error, |w| {
        w.system.sysctl_is("net/ipv4/conf/eth0/arp_ignore", "0");
    }),
    (Name::SysctlChanged, Severity::Error, |w| {
        *w = World::router();
        w.system.sysctl_is("net/ipv6/conf/all/forwarding", "0");
    }),
    (Name::RpFilter, Severity::Warning, |w| w.edit("ip -j -4 route show default", "eth0", "eth9")),
    (Name::AcceptRa, Severity::Warning, |w| {
        *w = World::router();
        w.system.sysctl_is("net/ipv6/conf/eth0/accept_ra", "1");
    }),
    (Name::ConntrackFull, Severity::Warning, |w| {
        *w = World::router();
        w.system.sysctl_is("net/netfilter/nf_conntrack_count", "60000");
    }),
    (Name::AddressSoftware, Severity::Error, |w| {
        w.system.process(812, &["/usr/sbin/keepalived", "-n", "-f", "/srv/vrrp.conf"]);
        w.system.file(
            "/srv/vrrp.conf",
            "vrrp_instance a {\n virtual_ipaddress {\n  192.0.2.10/24 dev eth0\n }\n}\n",
        );
    }),
    (Name::AddressSoftware, Severity::Error, |w| {
        w.system.process(813, &["ucarp", "--interface=eth0", "--addr=192.0.2.10"]);
    }),
    (Name::AddressSoftware, Severity::Warning, |w| {
        w.system.file("/etc/keepalived/keepalived.conf", "virtual_ipaddress {\n 2001:db8:0::10/64\n}\n");
    }),
    (Name::AddressSoftware, Severity::Warning, |w| {
        let nvpair = "<nvpair id=\"ip\" name=\"ip\" value=\"192.0.2.10\"/>\n";
        w.system.file("/var/lib/pacemaker/cib/cib.xml", nvpair);
    }),
    (Name::Conntrackd, Severity::Warning, |w| {
        *w = World::router();
        w.system.process(77, &["/usr/sbin/conntrackd", "-d"]);
    }),
    (Name::ClusteripRules, Severity::Error, |w| {
        w.system.file("/proc/net/ipt_CLUSTERIP/192.0.2.10", "1,2\n");
    }),
    (Name::ClusteripRules, Severity::Warning, |w| {
        w.system.file("/etc/iptables/rules.v4", "*filter\n-A INPUT -d 192.0.2.10 -j CLUSTERIP --new\n");
    }),
    (Name::FirewallHeartbeats, Severity::Error, |w| w.edit(NFT, "[53,7440]", "[53,80]")),
    (Name::FirewallHeartbeats, Severity::Error, |w| {
        // What is told of connections goes to the port above.
        *w = World::router();
        w.system.says(NFT, RULES);
    }),
    (Name::FirewallGroups, Severity::Warning, |w| w.edit(NFT, "\"igmp\"", "\"ospf\"")),
    (Name::BridgeSnooping, Severity::Error, |w| {
        w.edit(
            IP,
            "{\"info_kind\":\"veth\"}",
            "{\"info_kind\":\"bridge\",\"info_data\":{\"mcast_snooping\":1,\"mcast_querier\":1}}",
        );
    }),
    (Name::Hypervisor, Severity::Note, |w| {
        w.told = None;
        w.system.file("/sys/class/dmi/id/sys_vendor", "VMware, Inc.\n");
    }),
    (Name::Hypervisor, Severity::Note, |w| {
        w.told = None;
        w.system.file("/sys/class/dmi/id/sys_vendor", "Microsoft Corporation\n");
        w.system.file("/sys/class/dmi/id/product_name", "Virtual Machine\n");
    }),
    (Name::Cloud, Severity::Warning, |w| {
        w.told = None;
        w.system.file("/sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
    }),
    (Name::Alone, Severity::Warning, |w| {
        let me = w.snapshot().node.clone();
        w.snapshot().nodes.retain(|node| node.name == me);
        w.seen().ears.iter_mut().for_each(|ear| ear.peers.clear());
    }),
    (Name::Deaf, Severity::Error, |w| {
        w.seen().ears[0].hearing = Hearing::Deaf;
        w.seen().ears[0].peers.iter_mut().for_each(|peer| peer.heard_ms = None);
    }),
    (Name::Deaf, Severity::Error, |w| {
        w.seen().ears[1].peers[0].hears = Some(false);
        let n2 = w.snapshot().nodes.iter_mut().find(|node| node.name == "n2").unwrap();
        n2.healthy = false;
        n2.reason = Some("deaf on eth0: it hears no probe in IPv6, while others do".into());
    }),
    (Name::Deaf, Severity::Warning, |w| w.seen().ears[0].peers[1].heard_ms = Some(60_000)),
    (Name::Unflooded, Severity::Error, |w| w.seen().ears[0].hearing = Hearing::Nobody),
    (Name::Hole, Severity::Error, |w| w.seen().audit = Some(AuditFinding::Hole)),
    (Name::TwoOwners, Severity::Error, |w| w.seen().audit = Some(AuditFinding::Double)),
    (Name::AddressClaimed, Severity::Error, |w| {
        let (address, mac) = ("192.0.2.10".parse().unwrap(), MacAddress([2, 0, 0, 0, 0, 0xee]));
        w.seen().claims.push(ClaimSeen { address, mac, age_ms: 900 });
    }),
    (Name::AnswerDisbelieved, Severity::Warning, |w| {
        let (asker, address) = ("192.0.2.1".parse().unwrap(), "192.0.2.10".parse().unwrap());
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        w.seen().insistent.push(Asker { asker, mac, address, questions: 4, within_ms: 3060 });
    }),
    (Name::ConfigDiffers, Severity::Error, |w| w.event(EventKind::Mismatch, "its configuration differs")),
    (Name::KeysDiffer, Severity::Note, |w| {
        w.snapshot().nodes[0].keys = vec!["aaaa".into(), "bbbb".into()];
        w.snapshot().nodes[1].keys = vec!["bbbb".into()];
    }),
    (Name::Rejected, Severity::Warning, |w| {
        w.event(EventKind::Rejected, "another key (from 192.0.2.14 on eth0)")
    }),
    (Name::MtuDiffers, Severity::Warning, |w| {
        let large = "ping -n -q -c 1 -W 1 -M do -s 1472 -I eth0 192.0.2.13";
        w.system.fails(large, NotRun::Failed("it failed".into()));
    }),
    (Name::ScheduledLate, Severity::Warning, |w| {
        let pulses = r#"{"sent":1,"received":1,"rejected":0,"lateness_us":90000,"lateness_max_us":90000}"#;
        w.snapshot().pulses = Some(serde_json::from_str(pulses).unwrap());
    }),
    (Name::Degraded, Severity::Error, |w| w.snapshot().buckets.owners[7] = None),
    (Name::Version, Severity::Note, |w| w.snapshot().version = "0.0.9".into()),
];

#[test]
fn what_is_well_is_told_of_nobody() {
    for (what, world) in [("a service", World::well()), ("a router", World::router())] {
        let report = world.report();
        assert_eq!(names(&report), [""; 0], "{what}: {}", screen::render(&report, 100));
        assert_eq!(report.unseen, [], "{what}");
        assert!(!report.is_degraded());
        assert!(report.findings.len() > 8, "much was looked at");
    }
    let mut before_the_start = World::well();
    before_the_start.told = None;
    before_the_start.edit(
        IP,
        "{\"family\":\"inet\",\"local\":\"192.0.2.10\",\"prefixlen\":32,\"scope\":\"global\"},",
        "",
    );
    let report = before_the_start.report();
    assert_eq!(names(&report), [""; 0]);
    assert_eq!(report.unseen.len(), 1, "the network, which needs the daemon");
}

#[test]
fn each_finding_comes_alone_with_reason_and_remedy() {
    let (mut covered, mut wrong) = (BTreeSet::new(), Vec::new());
    for (name, severity, change) in EACH {
        let mut world = World::well();
        change(&mut world);
        let report = world.report();
        let text = screen::render(&report, 80);
        let found: Vec<_> = report.findings.iter().filter(|finding| finding.name.is_some()).collect();
        if names(&report) != [name.as_str()] {
            wrong.push(format!("{name}: {:?}\n{text}", names(&report)));
            continue;
        }
        assert_eq!(found[0].severity, *severity, "{name}\n{text}");
        assert!(!found[0].why.is_empty() && found[0].why.ends_with('.'), "{name} has no reason\n{text}");
        assert!(!found[0].remedy.is_empty(), "{name} has no remedy\n{text}");
        assert!(!found[0].what.ends_with('.') && found[0].what.len() < 220, "{name}: {}", found[0].what);
        covered.insert(*name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let all: BTreeSet<Name> = Name::ALL.iter().copied().collect();
    assert_eq!(covered, all, "each has its case");
}

#[test]
fn each_finding_is_in_the_manual() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in Name::ALL {
        let page = std::fs::read_to_string(root.join(name.page())).expect("the page");
        assert!(page.contains(&format!("| `{name}` |")), "{} has no row for {name}", name.page());
    }
}

/// Lines that are to be copied may be longer.
#[test]
fn screens_fit_into_eighty_columns() {
    for (name, _, change) in EACH {
        let mut world = World::well();
        change(&mut world);
        let text = anstream::adapter::strip_str(&screen::render(&world.report(), 80)).to_string();
        for line in text.lines().filter(|line| !line.starts_with(&" ".repeat(12))) {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}

#[test]
fn who_is_not_root_is_told_what_is_not_seen() {
    let mut world = World::well();
    world.system.file("/proc/self/status", "Uid:\t1000\t1000\t1000\t1000\n");
    world.system.fails(NFT, NotRun::Failed("Operation not permitted (you must be root)".into()));
    world.edit(IP, "\"name\":\"rudel_filter\",", "");
    let report = world.report();
    assert_eq!(names(&report), [""; 0]);
    let unseen: Vec<&str> = report.unseen.iter().map(|one| one.what.as_str()).collect();
    assert_eq!(unseen, ["this host's packet rules"], "the daemon says that the program is its own");
    world.told = None;
    let unseen = world.report().unseen;
    assert!(unseen.iter().any(|one| one.what.contains("whose XDP program")), "{unseen:?}");
}

#[test]
fn other_software_that_leaves_the_address_alone_is_left_alone() {
    let mut world = World::well();
    world.system.process(812, &["/usr/sbin/keepalived"]).process(77, &["/usr/sbin/conntrackd"]);
    let config = "# 192.0.2.10 was here\nvirtual_ipaddress {\n 192.0.2.100\n}\n";
    world.system.file("/etc/keepalived/keepalived.conf", config);
    assert_eq!(names(&world.report()), [""; 0]);
    // Another namespace's keepalived is another machine's.
    world.system.file("/etc/keepalived/keepalived.conf", "192.0.2.10\n");
    world.system.links.insert("/proc/812/ns/net".into(), "net:[7]".into());
    let report = world.report();
    assert_eq!(names(&report), ["address-software"]);
    assert_eq!(report.severity, Severity::Warning, "it does not run here");
}

#[test]
fn a_querier_is_named_where_somebody_is_deaf() {
    let mut world = World::well();
    let querier = |address: &str| Querier { address: address.parse().unwrap(), age_ms: 40 };
    world.seen().queriers.push(querier("192.0.2.1"));
    let report = world.report();
    assert_eq!(names(&report), [""; 0], "it prunes nobody");
    assert!(screen::render(&report, 100).contains("192.0.2.1 asks for group members, and nobody is pruned"));
    world.seen().ears[0].hearing = Hearing::Deaf;
    let text = serde_json::to_string(&world.report()).unwrap();
    assert!(text.contains("Here 192.0.2.1 asks for members of groups"), "{text}");
    assert!(text.contains("mac address-table static 03bf.c000.020a vlan VLAN"), "{text}");
}

/// Holds what was looked at, or written down for scripts, in a file; `RUDEL_WRITE_SCREENS=1` writes it.
fn hold(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
    if std::env::var_os("RUDEL_WRITE_SCREENS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, kept, "look at it, and write {file} with RUDEL_WRITE_SCREENS=1");
}

#[test]
fn screens_and_json_are_as_they_were() {
    let mut troubled = World::well();
    troubled.system.sysctl_is("net/ipv4/conf/eth0/arp_ignore", "0");
    troubled.seen().queriers.push(Querier { address: "0.0.0.0".parse().unwrap(), age_ms: 40 });
    troubled.seen().ears[0].hearing = Hearing::Deaf;
    let mut unstarted = World::well();
    unstarted.told = None;
    let mut lonely = World::well();
    let snapshot = &mut lonely.told.as_mut().unwrap().0;
    let n3 = snapshot.nodes.iter_mut().find(|node| node.name == "n3").unwrap();
    (n3.state, n3.heard_ms, n3.buckets) = (NodeState::Lost, None, 0);
    n3.reason = Some("not heard for 400 ms, nor by n2".into());
    for (name, world) in [
        ("check-well", World::well()),
        ("check-troubled", troubled),
        ("check-unstarted", unstarted),
        ("check-lost", lonely),
    ] {
        let report = world.report();
        let plain = |text: &str| text.replace(&world.dir.path().display().to_string(), "/etc/rudel");
        let text = anstream::adapter::strip_str(&screen::render(&report, 80)).to_string();
        hold(&format!("{name}.txt"), &plain(&text));
        // The names in it are a promise to scripts.
        hold(&format!("{name}.json"), &plain(&(serde_json::to_string_pretty(&report).unwrap() + "\n")));
    }
}
