//! What the daemon has seen of the network, and what its status says of the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rudel_api::check::{
    Area, AuditFinding, EarSight, Finding, Hearing, InterfaceSight, Name, Report, Severity,
};
use rudel_api::config::{ClusterMacMode, Config, Interface};
use rudel_api::event::EventKind;
use rudel_api::snapshot::{Node, NodeState, Snapshot};
use rudel_api::timestamp::Timestamp;

use super::Told;
use super::system::{NotRun, System};

/// What a Linux bridge is to be told: everything is flooded, as on a switch without snooping.
pub(super) const BRIDGE: &str = "ip link set dev BRIDGE type bridge mcast_snooping 0";
/// A probe comes each second; after this long without one, something is lost.
const PROBE_LATE_MS: u64 = 5_000;
/// A claim that is older has been withdrawn, or its maker has gone: while the check listens, it is asked again.
const CLAIM_FRESH_MS: u64 = 12_000;
/// What was rejected or did not fit longer ago says nothing of now.
const EVENT_FRESH_S: u64 = 60;
/// Headers of an echo request: IPv4 and ICMP, IPv6 and ICMPv6.
const ECHO_HEADERS: [u32; 2] = [20 + 8, 40 + 8];

pub(super) fn check(system: &dyn System, config: &Config, told: &Told, now: Timestamp, report: &mut Report) {
    let snapshot = &told.snapshot;
    version(snapshot, report);
    members(config, snapshot, now, report);
    match &told.sight {
        Some(sight) => {
            for seen in &sight.interfaces {
                let Some(interface) = config.interfaces.iter().find(|i| i.name.as_str() == seen.name) else {
                    continue;
                };
                delivery(interface, seen, snapshot, report);
                strangers(interface, seen, report);
            }
        }
        None => {
            report.unseen("who hears whom", "this daemon is too old to tell: restart it with the new version")
        }
    }
    mtu(system, config, snapshot, report);
    others(snapshot, report);
}

fn version(snapshot: &Snapshot, report: &mut Report) {
    let tool = env!("CARGO_PKG_VERSION");
    if snapshot.version == tool {
        return;
    }
    let finding = Finding::new(
        Name::Version,
        Severity::Note,
        Area::Host,
        format!("the daemon is of version {}, this tool of {tool}", snapshot.version),
        "A new package is installed, and the old daemon goes on until it is restarted.",
        "Restart it; a restart moves nothing.",
    );
    report.add(finding.enter("this node", ["rudel restart"]));
}

fn members(config: &Config, snapshot: &Snapshot, now: Timestamp, report: &mut Report) {
    let before = report.findings.len();
    let heard: Vec<&str> = snapshot
        .nodes
        .iter()
        .filter(|node| node.name != snapshot.node && node.heard_ms.is_some())
        .map(|node| node.name.as_str())
        .collect();
    let fresh = |kind: EventKind| {
        let last = snapshot.events.iter().rev().find(|event| event.kind == kind);
        last.filter(|event| event.at.age_at(now).as_secs() < EVENT_FRESH_S)
    };
    if heard.is_empty() {
        let group = config.heartbeat.group;
        report.add(
            Finding::new(
                Name::Alone,
                Severity::Warning,
                Area::Network,
                format!("{} hears no other node", snapshot.node),
                "A cluster of one is none. If there are others, each of them serves everything, or nothing.",
                "If there are others: look whether their heartbeats arrive here, and run `rudel check` there.",
            )
            .enter("this node", [format!("tcpdump -ni {} udp port {}", config.heartbeat.interfaces[0], group.port())]),
        );
    }
    if let Some(event) = fresh(EventKind::Mismatch) {
        report.add(
            Finding::new(
                Name::ConfigDiffers,
                Severity::Error,
                Area::Network,
                format!("{} has another configuration: {}", event.node, event.reason),
                "Addresses, hashes, MACs, quorum and times must be the same on every node, or the nodes would disagree on \
                 who takes a packet. It is not let in.",
                "Copy the file from a node that serves, and restart the daemon there.",
            )
            .enter(format!("the node {}", event.node), [
                format!("scp -p {}:{} {}", snapshot.node, config.path().display(), config.path().display()),
                "systemctl restart rudeld".to_owned(),
            ]),
        );
    }
    // A claim of an address is told as an event of this kind, too: it has a finding of its own.
    if let Some(event) =
        fresh(EventKind::Rejected).filter(|event| !event.reason.contains("claims the cluster's address"))
    {
        let path = config.cluster.key_file.display();
        report.add(
            Finding::new(
                Name::Rejected,
                Severity::Warning,
                Area::Network,
                format!("datagrams are rejected: {}", event.reason),
                "Somebody sends to this cluster's group who is not of it, or has another key, version or clock of its own.",
                "Compare the keys and versions of that machine and this one; give another cluster another group.",
            )
            .enter("both machines", [format!("rudel key fingerprint {path}"), "rudeld --version".to_owned()]),
        );
    }
    let keys: BTreeSet<&[String]> =
        snapshot.nodes.iter().map(|node| &*node.keys).filter(|keys| !keys.is_empty()).collect();
    if keys.len() > 1 {
        report.add(
            Finding::new(
                Name::KeysDiffer,
                Severity::Note,
                Area::Network,
                "the nodes do not all have the same keys",
                "So it is while a key is being rotated. Whoever misses the one that others seal with is not heard.",
                "Go on with the rotation: it says what is next.",
            )
            .enter("this node", ["rudel key rotate"]),
        );
    }
    if let Some(pulses) = &snapshot.pulses {
        let interval = config.heartbeat.interval.as_micros();
        if u128::from(pulses.lateness_us) > interval {
            report.add(Finding::new(
                Name::ScheduledLate,
                Severity::Warning,
                Area::Host,
                format!(
                    "the daemon was scheduled {} ms late within the last 20 s; an interval is {} ms",
                    pulses.lateness_us / 1000,
                    interval / 1000
                ),
                "A node that is late too often is given up while it lives.",
                "Take load off this machine, or raise [heartbeat] timeout on all nodes; see the log for `no real-time \
                 priority`.",
            ));
        }
    }
    if report.findings.len() == before {
        report.well(Area::Network, format!("heartbeats come from {}", heard.join(", ")));
        report.well(Area::Network, "configurations and keys agree; clocks need not: no time is compared");
    }
}

/// Whether packets to the cluster's MAC come.
fn delivery(interface: &Interface, seen: &InterfaceSight, snapshot: &Snapshot, report: &mut Report) {
    let before = report.findings.len();
    for ear in &seen.ears {
        match ear.hearing {
            Hearing::Deaf => report.add(deaf(interface, seen, ear)),
            Hearing::Nobody => report.add(unflooded(interface, seen, ear)),
            Hearing::Well | Hearing::Waiting | Hearing::Unknown => {}
        }
        if ear.hearing != Hearing::Well {
            continue;
        }
        // What a node has heard nothing of for a moment, at its start for one, it judges itself: then it is unfit.
        let is_unfit = |name: &str| snapshot.nodes.iter().any(|node| node.name == name && !node.healthy);
        let deaf_others: Vec<&str> = ear
            .peers
            .iter()
            .filter(|peer| peer.hears == Some(false) && is_unfit(&peer.node))
            .map(|peer| peer.node.as_str())
            .collect();
        let unheard: Vec<&str> = ear
            .peers
            .iter()
            .filter(|peer| peer.heard_ms.is_none_or(|age| age > PROBE_LATE_MS))
            .map(|peer| peer.node.as_str())
            .collect();
        let somebody = ear.peers.iter().any(|peer| peer.heard_ms.is_some_and(|age| age <= PROBE_LATE_MS));
        if !deaf_others.is_empty() {
            report.add(others_deaf(interface, seen, ear, &deaf_others));
        } else if !unheard.is_empty() && somebody {
            report.add(not_heard_from(interface, seen, ear, &unheard));
        }
    }
    match seen.audit {
        Some(AuditFinding::Hole) => report.add(Finding::new(
            Name::Hole,
            Severity::Error,
            Area::Network,
            format!("{}: all nodes together pass less than each of them sees", seen.name),
            "Some packets have no owner, or do not reach theirs: a part of the requests is not answered.",
            "Run `rudel check` on each node: one does not get all packets. Compare SEEN in `rudel status` on all of them; the \
             lowest is the one, and its port, cable or receive queue (`ethtool -S`) loses packets.",
        )),
        Some(AuditFinding::Double) => report.add(Finding::new(
            Name::TwoOwners,
            Severity::Error,
            Area::Network,
            format!("{}: all nodes together pass more than each of them sees", seen.name),
            "Some packets have two owners, or come to some nodes twice.",
            "Look whether all nodes name the same owners, and whether the network has a loop. If neither explains it, it is a \
             fault of rudel: docs/troubleshooting.md says what to report.",
        )
        .enter("each node", ["rudel status --json | jq -c '.view, .buckets.owners' | sha256sum"])),
        None => {}
    }
    if report.findings.len() > before {
        return;
    }
    let families: Vec<String> = seen.ears.iter().map(|ear| format!("IPv{}", ear.family)).collect();
    let heard: Vec<String> = seen
        .ears
        .first()
        .map(|ear| {
            ear.peers.iter().filter(|peer| peer.heard_ms.is_some()).map(|peer| peer.node.clone()).collect()
        })
        .unwrap_or_default();
    if !heard.is_empty() {
        report.well(
            Area::Network,
            format!(
                "{}: packets to {} come from {}, in {}",
                seen.name,
                interface.cluster_mac(),
                heard.join(", "),
                families.join(" and ")
            ),
        );
        if let Some(querier) = seen.queriers.first() {
            report.well(
                Area::Network,
                format!(
                    "{}: {} asks for group members, and nobody is pruned",
                    seen.name,
                    querier_name(querier)
                ),
            );
        }
    }
}

fn querier_name(querier: &rudel_api::check::Querier) -> String {
    if querier.address.is_unspecified() {
        "a switch without an address".to_owned()
    } else {
        querier.address.to_string()
    }
}

/// Why a switch would not deliver, as far as it can be told.
fn cause(interface: &Interface, seen: &InterfaceSight, ear: &EarSight) -> String {
    let mac = interface.cluster_mac();
    let querier = seen.queriers.iter().find(|querier| querier.address.is_ipv4() == (ear.family == 4));
    match (querier, mac.0[0] & 1) {
        (Some(querier), 1) => format!(
            "Here {} asks for members of groups: a switch that snoops then delivers {mac} only where it believes that \
             somebody wants it.",
            querier_name(querier)
        ),
        (None, 1) => {
            format!("Nobody is heard to ask for members of groups; a switch may filter {mac} all the same.")
        }
        _ => {
            format!("A switch may have learned {mac} on one port, or does not flood what it has not learned.")
        }
    }
}

fn deaf(interface: &Interface, seen: &InterfaceSight, ear: &EarSight) -> Finding {
    let hear: Vec<&str> =
        ear.peers.iter().filter(|peer| peer.hears == Some(true)).map(|peer| peer.node.as_str()).collect();
    let finding = Finding::new(
        Name::Deaf,
        Severity::Error,
        Area::Network,
        format!(
            "{} is deaf in IPv{}: no packet to {} comes here, while {} receive them",
            seen.name,
            ear.family,
            interface.cluster_mac(),
            if hear.is_empty() { "others".to_owned() } else { hear.join(", ") }
        ),
        format!("This node has given its share away. {}", cause(interface, seen, ear)),
        format!(
            "Have the switch deliver {} to this node's port (its own MAC there is {}), or use mac = \"unicast\" on all nodes.",
            interface.cluster_mac(),
            seen.own_mac
        ),
    );
    switch_lines(finding, interface)
}

fn others_deaf(interface: &Interface, seen: &InterfaceSight, ear: &EarSight, nodes: &[&str]) -> Finding {
    let finding = Finding::new(
        Name::Deaf,
        Severity::Error,
        Area::Network,
        format!(
            "{} {} deaf on the network of {} in IPv{}: no packet to {} comes there",
            nodes.join(", "),
            if nodes.len() == 1 { "is" } else { "are" },
            seen.name,
            ear.family,
            interface.cluster_mac()
        ),
        format!("Who is deaf gives its share away. {}", cause(interface, seen, ear)),
        format!(
            "Have the switch deliver {} to the ports of {}, or use mac = \"unicast\" on all nodes. `rudel check` there says \
             more.",
            interface.cluster_mac(),
            nodes.join(", ")
        ),
    );
    switch_lines(finding, interface)
}

fn not_heard_from(interface: &Interface, seen: &InterfaceSight, ear: &EarSight, nodes: &[&str]) -> Finding {
    let finding = Finding::new(
        Name::Deaf,
        Severity::Warning,
        Area::Network,
        format!(
            "{}: no packet of {} to {} comes here in IPv{}; those of others do",
            seen.name,
            nodes.join(", "),
            interface.cluster_mac(),
            ear.family
        ),
        "The network delivers to this node from some ports and not from others. A client behind the same switch as those \
         nodes is not heard here either.",
        format!(
            "Look at what is between this node and {}: a switch that prunes, an isolated port.",
            nodes.join(", ")
        ),
    );
    switch_lines(finding, interface)
}

fn unflooded(interface: &Interface, seen: &InterfaceSight, ear: &EarSight) -> Finding {
    let finding = Finding::new(
        Name::Unflooded,
        Severity::Error,
        Area::Network,
        format!(
            "no node receives packets to {} on the network of {}, in IPv{}",
            interface.cluster_mac(),
            seen.name,
            ear.family
        ),
        format!("No client's packet arrives. {}", cause(interface, seen, ear)),
        "Have the switch flood it, or use mac = \"unicast\" on all nodes.",
    );
    switch_lines(finding, interface)
}

/// `03:bf:c0:00:02:0a` as Cisco and others write it.
fn dotted(mac: &str) -> String {
    let digits: String = mac.chars().filter(char::is_ascii_hexdigit).collect();
    digits
        .as_bytes()
        .chunks(4)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect::<Vec<_>>()
        .join(".")
}

pub(super) fn prune_lines(finding: Finding, place: &str, bridge: &str) -> Finding {
    finding.enter(place, [BRIDGE.replace("BRIDGE", bridge)])
}

/// A make of switches or routers whose lines are from its maker's documents: docs/network.md says which.
fn untried(make: &str) -> String {
    format!("{make}, from its documents, not tried")
}

/// What to enter on a switch so that it delivers the cluster's MAC; the sources are in docs/network.md.
fn switch_lines(finding: Finding, interface: &Interface) -> Finding {
    let mac = dotted(&interface.cluster_mac().to_string());
    if interface.cluster_mac().0[0] & 1 == 0 {
        return finding
            .enter(
                "the switch, if it is a Linux bridge",
                [
                    "bridge link set dev PORT flood on learning on     # PORT: each node's".to_owned(),
                    format!(
                        "bridge fdb del {} dev PORT master    # if it was learned there",
                        interface.cluster_mac()
                    ),
                ],
            )
            .enter(
                untried("Cisco NX-OS (Nexus 9000)"),
                [format!("mac address-table static {mac} vlan VLAN interface PORT")],
            );
    }
    let finding = finding
        .enter("the switch, if it is a Linux bridge", [BRIDGE])
        .enter(
            "the same, with snooping left on: for each node's port",
            ["bridge link set dev PORT mcast_router 2"],
        )
        .enter(
            "Proxmox VE, on each host; in /etc/network/interfaces to keep it",
            ["ip link set dev vmbr0 type bridge mcast_snooping 0".to_owned()],
        )
        .enter(
            untried("Cisco IOS (Catalyst)"),
            [format!("mac address-table static {mac} vlan VLAN interface PORT1 PORT2 PORT3")],
        );
    match interface.mac {
        ClusterMacMode::Igmp => finding.enter(
            untried("Cisco NX-OS (Nexus 7000)"),
            ["vlan configuration VLAN", "  layer-2 multicast lookup mac"],
        ),
        _ => finding.enter(
            untried("HPE Comware (FlexFabric)"),
            [format!("mac-address multicast {} interface PORT1 to PORT3 vlan VLAN", mac.replace('.', "-"))],
        ),
    }
}

/// Who else has the addresses, or does not believe that this cluster has.
fn strangers(interface: &Interface, seen: &InterfaceSight, report: &mut Report) {
    let before = report.findings.len();
    for claim in seen.claims.iter().filter(|claim| claim.age_ms < CLAIM_FRESH_MS) {
        report.add(
            Finding::new(
                Name::AddressClaimed,
                Severity::Error,
                Area::Network,
                format!("{} says on {} that it has {}", claim.mac, seen.name, claim.address),
                "Another machine has the cluster's address, or a node's kernel answers for it. Clients that believe it do not \
                 come to the cluster.",
                "Find it by its MAC, and take the address from it: a machine with the address by hand, keepalived, a DHCP \
                 lease, a node whose arp_ignore was changed.",
            )
            .enter("a switch, if it is a Linux bridge", [format!("bridge fdb show br BRIDGE | grep {}", claim.mac)])
            .enter(untried("Cisco"), [format!("show mac address-table address {}", dotted(&claim.mac.to_string()))]),
        );
    }
    for asker in &seen.insistent {
        let mac = interface.cluster_mac();
        let is_group = mac.0[0] & 1 == 1;
        let why = if is_group {
            "It does not believe the answer, or does not get it. RFC 1812 (3.3.2) forbids a router to believe that a unicast \
             address has a multicast MAC."
        } else {
            "It does not believe the answer, or does not get it."
        };
        let finding = Finding::new(
            Name::AnswerDisbelieved,
            Severity::Warning,
            Area::Network,
            format!(
                "{} ({}) has asked {} times in {} s for {}, on {}",
                asker.asker,
                asker.mac,
                asker.questions,
                asker.within_ms.div_ceil(1000),
                asker.address,
                seen.name
            ),
            why,
            if is_group {
                "Give it a static entry, or use mac = \"unicast\" on all nodes."
            } else {
                "Give it a static entry, or look at what filters ARP between it and the nodes (ARP inspection)."
            },
        );
        report.add(entry_lines(finding, interface, asker.address));
    }
    if report.findings.len() == before {
        report.well(
            Area::Network,
            format!("{}: nobody else has the addresses, and nobody doubts the answers", seen.name),
        );
    }
}

/// How routers are told by hand; the sources are in docs/network.md.
fn entry_lines(finding: Finding, interface: &Interface, address: IpAddr) -> Finding {
    let mac = interface.cluster_mac();
    let is_group = mac.0[0] & 1 == 1;
    let dots = dotted(&mac.to_string());
    let finding = finding.enter(
        "a Linux router",
        [format!("ip neigh replace {address} lladdr {mac} dev INTERFACE nud permanent")],
    );
    if address.is_ipv6() {
        return finding;
    }
    let finding = finding
        .enter(untried("Cisco IOS"), [format!("arp {address} {dots} arpa")])
        .enter(
            untried("Cisco NX-OS"),
            ["interface VlanVLAN".to_owned(), format!("  ip arp {address} {dots}")],
        )
        .enter(
            untried("Juniper Junos (not EX)"),
            [format!(
                "set interfaces IFACE unit 0 family inet address OWN/LEN arp {address} {} {mac}",
                if is_group { "multicast-mac" } else { "mac" }
            )],
        );
    match interface.mac {
        ClusterMacMode::Igmp => finding.enter(untried("ArubaOS-Switch"), ["ip arp-mcast-replies"]),
        _ if is_group => finding.enter(untried("HPE Comware (FlexFabric)"), ["undo arp check enable"]).enter(
            untried("Allied Telesis AlliedWare Plus"),
            ["interface vlanVLAN", "  arp-mac-disparity multicast"],
        ),
        _ => finding,
    }
}

/// Packets as large as this node's interface takes must reach the other nodes.
fn mtu(system: &dyn System, config: &Config, snapshot: &Snapshot, report: &mut Report) {
    let links = super::links::all(system).unwrap_or_default();
    let mut reached = Vec::new();
    for node in &snapshot.nodes {
        if node.name == snapshot.node || node.heard_ms.is_none() {
            continue;
        }
        for address in node.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            // The interface whose network has the address.
            let on = links.iter().find(|link| {
                let is_heartbeat =
                    config.heartbeat.interfaces.iter().any(|name| name.as_str() == link.ifname);
                let is_here = link.addresses().any(|(own, len)| {
                    len > 0
                        && rudel_api::config::Cidr::new(own, len)
                            .is_some_and(|network| network.contains(address))
                });
                is_heartbeat && is_here
            });
            let Some(link) = on else { continue };
            let headers = ECHO_HEADERS[usize::from(address.is_ipv6())];
            let (small, large) = ("56".to_owned(), link.mtu.saturating_sub(headers).to_string());
            let target = address.to_string();
            let ping = |size: &str| {
                system.run(
                    "ping",
                    &["-n", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", size, "-I", &link.ifname, &target],
                )
            };
            match ping(&small) {
                // Nobody answers echo requests, which is anybody's right.
                Err(NotRun::Failed(_)) => continue,
                Err(NotRun::Missing) => {
                    report.unseen("whether large packets reach the other nodes", "`ping` is not installed");
                    return;
                }
                Ok(_) => {}
            }
            // Once more: one packet may get lost.
            if ping(&large).or_else(|_| ping(&large)).is_ok() {
                reached.push(node.name.clone());
                continue;
            }
            report.add(
                Finding::new(
                    Name::MtuDiffers,
                    Severity::Warning,
                    Area::Network,
                    format!(
                        "packets of {} bytes do not reach {} ({address}) by {}, small ones do",
                        link.mtu, node.name, link.ifname
                    ),
                    "The MTU of an interface there, or of a switch between, is smaller. Large transfers hang on some nodes \
                     and not on others.",
                    "Give all of them the same MTU. What fits is found by:",
                )
                .enter("this node", [format!("ping -M do -s SIZE {address}      # {large} does not, 56 does")]),
            );
        }
    }
    if !reached.is_empty() {
        reached.dedup();
        report.well(Area::Network, format!("packets of full size reach {}", reached.join(", ")));
    }
}

/// What the status knows besides.
fn others(snapshot: &Snapshot, report: &mut Report) {
    let before = report.findings.len();
    // What has a finding of its own already.
    let has = |name: Name| report.findings.iter().any(|finding| finding.name == Some(name));
    let told = |trouble: &str| {
        (trouble.contains("deaf") && has(Name::Deaf))
            || (trouble.contains("hears a probe") && has(Name::Unflooded))
            || (trouble.contains(" is deaf: it receives nothing")
                && (has(Name::Deaf) || has(Name::Unflooded)))
            || (trouble.contains("no owner, or do not reach") && has(Name::Hole))
            || (trouble.contains("two owners") && has(Name::TwoOwners))
    };
    let left: Vec<String> = snapshot.troubles().into_iter().filter(|trouble| !told(trouble)).collect();
    let is_fenced = snapshot.state == NodeState::Fenced;
    let silent = |trouble: &str| {
        let says = |node: &Node, what| trouble.starts_with(&format!("{} is {what}", node.name));
        snapshot.nodes.iter().find(|node| says(node, "lost") || says(node, "not heard"))
    };
    for trouble in left {
        let finding = |why, remedy: &str| {
            Finding::new(Name::Degraded, Severity::Error, Area::Network, trouble.as_str(), why, remedy)
        };
        report.add(match silent(&trouble) {
            Some(node) => finding(
                "What it served is with the others, who have that much more to do.",
                "Look at it: whether the machine is up, whether its daemon runs, and whom that hears. If it is gone for good: \
                 `rudel restart` on the others forgets it, without a gap.",
            )
            .enter(node.name.as_str(), ["systemctl status rudeld", "journalctl -u rudeld -e", "rudel check"])
            .enter("this node", [format!("rudel events --node {}", node.name)]),
            None if is_fenced => finding(
                "The cluster itself says so; `rudel status` shows the whole of it.",
                "Another machine has this node's name: give each its own ([node] name).",
            )
            .enter("this node", ["rudel status", "rudel events"]),
            None => finding(
                "The cluster itself says so; `rudel status` shows the whole of it.",
                "See docs/troubleshooting.md, by what you see; the history says since when.",
            )
            .enter("this node", ["rudel status", "rudel events"]),
        });
    }
    if report.findings.len() == before && !report.is_degraded() {
        report.well(Area::Network, "the cluster is not degraded");
    }
}
