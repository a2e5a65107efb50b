//! This machine: its kernel, its interfaces, its settings, its key.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use rudel_api::check::{Area, Finding, Name, Report, Severity};
use rudel_api::config::{Config, Interface, Side, XdpMode};
use rudel_api::snapshot::{AttachMode, Snapshot};

use super::links::{self, Link};
use super::system::System;

/// XDP links are there from 5.9 on; before 5.11 a program's memory counts against RLIMIT_MEMLOCK.
const KERNEL_OLDEST: (u32, u32) = (5, 11);
/// What the daemon cannot do without, and for whom.
const OPTIONS: [(&str, Need); 7] = [
    ("CONFIG_BPF_SYSCALL", Need::All),
    ("CONFIG_INET", Need::All),
    ("CONFIG_PACKET", Need::All),
    ("CONFIG_NF_TABLES", Need::Nat),
    ("CONFIG_NFT_NAT", Need::Nat),
    ("CONFIG_NF_CONNTRACK", Need::Router),
    ("CONFIG_NF_CT_NETLINK", Need::Sync),
];
/// What the daemon must be allowed to do (capabilities(7)).
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// CAP_SYS_ADMIN stands for both BPF capabilities.
const SYS_ADMIN: u32 = 21;
/// Kinds of interfaces on which the daemon takes the stack's way in `auto`, as in the datapath.
const GENERIC_ONLY: [&str; 13] = [
    "veth", "bridge", "bond", "team", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "dummy", "ifb",
    "netkit", "vxlan",
];
/// The smallest packet that an IPv6 link must carry (RFC 8200, section 5).
const MTU_IPV6: u32 = 1280;
/// What RFC 791 asks of every IPv4 link, with room for a heartbeat of 32 nodes.
const MTU_LEAST: u32 = 576;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    All,
    Router,
    Nat,
    Sync,
}

impl Need {
    fn is_of(self, config: &Config) -> bool {
        match self {
            Need::All => true,
            Need::Router => config.is_router(),
            Need::Nat => config.nat.is_some(),
            Need::Sync => config.sync.enabled,
        }
    }
}

/// Looks at this machine. `snapshot` is what its daemon says, if there is one. Gives the interfaces back.
pub(super) fn check(
    system: &dyn System,
    config: &Config,
    snapshot: Option<&Snapshot>,
    report: &mut Report,
) -> Vec<Link> {
    key(config, report);
    kernel(system, config, report);
    capabilities(system, report);
    let links = match links::all(system) {
        Ok(links) => links,
        Err(why) => {
            report.unseen("interfaces and addresses", why);
            return Vec::new();
        }
    };
    for interface in &config.interfaces {
        let before = report.findings.len();
        let Some(link) = links.iter().find(|link| link.ifname == interface.name.as_str()) else {
            report.add(missing(interface.name.as_str(), "[[interface]] name", &links));
            continue;
        };
        cluster_interface(system, interface, link, snapshot, report);
        if report.findings.len() == before {
            report.well(Area::Host, well_interface(interface, link, snapshot));
        }
    }
    let is_cluster = |name: &str| config.interfaces.iter().any(|i| i.name.as_str() == name);
    for name in config.heartbeat.interfaces.iter().filter(|name| !is_cluster(name.as_str())) {
        let before = report.findings.len();
        match links.iter().find(|link| link.ifname == name.as_str()) {
            None => report.add(missing(name.as_str(), "[heartbeat] interfaces", &links)),
            Some(link) => {
                link_state(link, report);
                if report.findings.len() == before {
                    report.well(Area::Host, format!("{name} is up, for heartbeats"));
                }
            }
        }
    }
    addresses(config, snapshot, &links, report);
    settings(system, config, snapshot, report);
    reverse_path(system, config, report);
    connections(system, config, report);
    links
}

fn key(config: &Config, report: &mut Report) {
    let path = config.cluster.key_file.display().to_string();
    match rudel_api::key::ClusterKeys::load(&config.cluster.key_file) {
        Ok(keys) => {
            let uid_of = |path: &std::path::Path| std::fs::metadata(path).map(|data| data.uid()).unwrap_or(0);
            let owner = uid_of(&config.cluster.key_file);
            // Whoever asks may try a configuration of their own.
            let is_trusted = owner == 0 || owner == uid_of(std::path::Path::new("/proc/self"));
            let dir = config.cluster.key_file.parent().and_then(|dir| std::fs::metadata(dir).ok());
            // A sticky directory such as /tmp does not let others rename what is not theirs, but lets them make it first.
            let open_dir = dir.filter(|data| data.mode() & 0o022 != 0);
            if !is_trusted || open_dir.is_some() {
                let what = match open_dir {
                    Some(data) => format!(
                        "the directory of the key file {path} can be written by others (mode {:04o})",
                        data.mode() & 0o7777
                    ),
                    None => format!("the key file {path} belongs to user {owner}, not to root"),
                };
                let dir =
                    config.cluster.key_file.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
                let finding = Finding::new(
                    Name::KeyOwner,
                    Severity::Warning,
                    Area::Configuration,
                    what,
                    "Whoever can replace the key can make this node leave its cluster, or join it to another.",
                    "Give the file to root, and its directory to nobody else.",
                );
                report.add(
                    finding.enter("this node", [format!("chown root: {path}"), format!("chmod go-w {dir}")]),
                );
            } else {
                let many = if keys.accepted.is_empty() {
                    String::new()
                } else {
                    format!(", accepts {} more", keys.accepted.len())
                };
                let what = format!("the key file {path} is private and holds a key{many}");
                report.well(Area::Configuration, what);
            }
        }
        Err(error) => {
            use rudel_api::key::KeyErrorKind;
            if let KeyErrorKind::Unreadable(source) = error.kind()
                && source.kind() == std::io::ErrorKind::PermissionDenied
            {
                report.unseen(format!("the key file {path}"), "only root may read it: run this as root");
                return;
            }
            let finding = Finding::new(
                Name::KeyFile,
                Severity::Error,
                Area::Configuration,
                error.to_string(),
                "The daemon does not start without a key that it alone can read.",
                sentence(&error.remedy()),
            );
            let line = match error.kind() {
                KeyErrorKind::Missing => format!("rudel key new {path}"),
                KeyErrorKind::Exposed { .. } => format!("chmod 600 {path}"),
                _ => format!("scp -p OTHERNODE:{path} {path}"),
            };
            report.add(finding.enter("this node", [line]));
        }
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

fn kernel(system: &dyn System, config: &Config, report: &mut Report) {
    let before = report.findings.len();
    let release = system.sysctl("kernel/osrelease").unwrap_or_default();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_OLDEST && !release.is_empty() {
        report.add(Finding::new(
            Name::KernelOld,
            Severity::Error,
            Area::Host,
            format!("this is Linux {release}; 5.11 or newer is needed"),
            "The packet filter is attached by XDP links (5.9), and its memory is accounted properly since 5.11.",
            "Install a newer kernel and start it.",
        ));
    }
    match options(system, &release) {
        Some(options) => {
            let is_in = |option: &str| {
                options
                    .lines()
                    .any(|line| line.strip_prefix(option).is_some_and(|rest| rest == "=y" || rest == "=m"))
            };
            let lacking: Vec<&str> = OPTIONS
                .iter()
                .filter(|(option, need)| need.is_of(config) && !is_in(option))
                .map(|(option, _)| *option)
                .collect();
            if !lacking.is_empty() {
                report.add(lacks(&release, &lacking.join(", ")));
            }
        }
        // This setting is there if and only if bpf(2) is.
        None if system.sysctl("kernel/unprivileged_bpf_disabled").is_none() => {
            report.add(lacks(&release, "CONFIG_BPF_SYSCALL"));
        }
        None => {}
    }
    if system.sysctl("net/core/bpf_jit_enable").as_deref() == Some("0") {
        let finding = Finding::new(
            Name::BpfJit,
            Severity::Warning,
            Area::Host,
            "BPF programs are interpreted: net.core.bpf_jit_enable is 0",
            "The filter looks at every packet of the cluster, and costs several times as much so.",
            "Switch the compiler on, now and in /etc/sysctl.d.",
        );
        report.add(finding.enter("this node", ["sysctl -w net.core.bpf_jit_enable=1"]));
    }
    if report.findings.len() == before {
        report.well(Area::Host, format!("Linux {release} has what the packet filter needs"));
    }
}

fn lacks(release: &str, options: &str) -> Finding {
    Finding::new(
        Name::KernelOptions,
        Severity::Error,
        Area::Host,
        format!("the kernel {release} was built without {options}"),
        "The daemon does not start without them.",
        "Start a kernel that has them, such as the one of your distribution.",
    )
}

/// The configuration that the kernel was built with, if it tells.
fn options(system: &dyn System, release: &str) -> Option<String> {
    let boot = system.read(&format!("/boot/config-{release}"));
    boot.ok().or_else(|| system.run("zcat", &["/proc/config.gz"]).ok())
}

fn capabilities(system: &dyn System, report: &mut Report) {
    let missing = |held: &dyn Fn(&str, u32) -> bool| {
        let lacks = CAPABILITIES.iter().filter(|(name, bit)| {
            let is_bpf = *bit >= 38;
            let has_it = held(name, *bit) || (is_bpf && held("CAP_SYS_ADMIN", SYS_ADMIN));
            !has_it
        });
        lacks.map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let asked = system.run(
        "systemctl",
        &["show", "rudeld.service", "--property=LoadState,CapabilityBoundingSet,AmbientCapabilities,User"],
    );
    // A machine without systemd, or without the unit: whoever starts the daemon there is told by the daemon itself.
    let Ok(unit) = asked else { return };
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if value("LoadState") != Some("loaded") {
        return;
    }
    let is_root = matches!(value("User"), None | Some("" | "root" | "0"));
    let sets = if is_root { "CapabilityBoundingSet" } else { "AmbientCapabilities" };
    let granted = value(sets).unwrap_or_default().to_ascii_uppercase();
    let lacks = missing(&|name, _| granted.split_whitespace().any(|one| one == name));
    if lacks.is_empty() {
        report.well(Area::Host, "rudeld.service has the capabilities that the daemon needs");
        return;
    }
    let finding = Finding::new(
        Name::DaemonCapabilities,
        Severity::Error,
        Area::Host,
        format!("rudeld.service lacks {}", lacks.join(", ")),
        "Without them the kernel refuses the packet filter, the ARP answers, or the settings.",
        "Remove what takes them away: `systemctl cat rudeld` shows the unit with its drop-ins.",
    );
    report.add(finding.enter(
        "this node",
        ["systemctl revert rudeld", "systemctl daemon-reload", "systemctl restart rudeld"],
    ));
}

fn missing(name: &str, place: &str, links: &[Link]) -> Finding {
    let others: Vec<&str> =
        links.iter().filter(|link| link.link_type == "ether").map(|link| link.ifname.as_str()).collect();
    Finding::new(
        Name::InterfaceMissing,
        Severity::Error,
        Area::Configuration,
        format!("there is no interface {name} on this host"),
        format!("{place} wants it. The daemon waits for it in vain."),
        match &*others {
            [] => "This host has no Ethernet interface at all: make one.".to_owned(),
            others => format!("Name one that is there: {}.", others.join(", ")),
        },
    )
}

/// What is well about an interface, in a line.
fn well_interface(interface: &Interface, link: &Link, snapshot: Option<&Snapshot>) -> String {
    let told = snapshot.and_then(|s| s.interfaces.iter().find(|told| told.name == interface.name.as_str()));
    let mode = match told.and_then(|told| told.mode) {
        Some(AttachMode::Native) => "the filter runs in its driver".to_owned(),
        Some(AttachMode::Generic) => "the filter runs in the stack (generic)".to_owned(),
        None if runs_generic(interface, link) => "the filter will run in the stack (generic)".to_owned(),
        None => "the filter will run in its driver if that can, else in the stack".to_owned(),
    };
    format!("{} is up, {} bytes; {mode}", interface.name, link.mtu)
}

fn runs_generic(interface: &Interface, link: &Link) -> bool {
    match interface.xdp {
        XdpMode::Generic => true,
        XdpMode::Native => false,
        XdpMode::Auto => link.kind().is_some_and(|kind| GENERIC_ONLY.contains(&kind)),
    }
}

fn cluster_interface(
    system: &dyn System,
    interface: &Interface,
    link: &Link,
    snapshot: Option<&Snapshot>,
    report: &mut Report,
) {
    let name = &link.ifname;
    if link.link_type != "ether" || link.is("LOOPBACK") {
        report.add(Finding::new(
            Name::InterfaceKind,
            Severity::Error,
            Area::Host,
            format!("{name} is not an Ethernet interface ({})", link.link_type),
            "A cluster address maps to a MAC address; where there are none, there is no cluster.",
            "Name an Ethernet interface.",
        ));
        return;
    }
    if let Some(master) = &link.master
        && matches!(link.slave_kind(), Some("bridge" | "bond" | "team"))
    {
        let part = link.slave_kind().unwrap_or_default();
        report.add(Finding::new(
            Name::InterfaceEnslaved,
            Severity::Error,
            Area::Host,
            format!("{name} is a part of the {part} {master}"),
            format!("Its packets are {master}'s: the addresses are there, and so must the filter be."),
            format!("Name {master} in the configuration, in place of {name}."),
        ));
        return;
    }
    link_state(link, report);
    let has_v6 = interface.addresses.iter().any(|cidr| cidr.address().is_ipv6());
    let least = if has_v6 { MTU_IPV6 } else { MTU_LEAST };
    if link.mtu < least {
        let finding = Finding::new(
            Name::InterfaceMtu,
            Severity::Error,
            Area::Host,
            format!("the MTU of {name} is {} bytes", link.mtu),
            format!(
                "{} needs at least {least} on each link.",
                if has_v6 { "IPv6 (RFC 8200)" } else { "IPv4 (RFC 791)" }
            ),
            "Give it the MTU of its network, here and where it is set at boot.",
        );
        report.add(finding.enter("this node", [format!("ip link set {name} mtu 1500")]));
    }
    let v6_off = system.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6")).as_deref() != Some("0");
    if has_v6 && v6_off {
        let finding = Finding::new(
            Name::Ipv6Disabled,
            Severity::Error,
            Area::Host,
            format!("{name} has no IPv6 on this host"),
            "The cluster has an IPv6 address there, which the daemon refuses to promise so.",
            "Remove the address from the configuration, or switch IPv6 on, now and in /etc/sysctl.d.",
        );
        let setting = sysctl_name(&format!("net/ipv6/conf/{name}/disable_ipv6"));
        report.add(finding.enter("this node", [format!("sysctl -w {setting}=0")]));
    }
    filter(system, interface, link, snapshot, report);
    own_address(interface, link, report);
}

fn link_state(link: &Link, report: &mut Report) {
    let name = &link.ifname;
    if !link.is("UP") {
        let finding = Finding::new(
            Name::InterfaceDown,
            Severity::Error,
            Area::Host,
            format!("{name} is switched off"),
            "Nothing is received there. The daemon counts this node as unfit.",
            "Switch it on, here and where it is set up at boot.",
        );
        report.add(finding.enter("this node", [format!("ip link set {name} up")]));
    } else if !link.is("LOWER_UP") {
        report.add(Finding::new(
            Name::InterfaceCarrier,
            Severity::Error,
            Area::Host,
            format!("{name} has no carrier"),
            "Nothing is received there. The daemon counts this node as unfit.",
            "Look at the cable and at the switch's port; of a virtual interface, at its other end.",
        ));
    }
}

fn filter(
    system: &dyn System,
    interface: &Interface,
    link: &Link,
    snapshot: Option<&Snapshot>,
    report: &mut Report,
) {
    let name = &link.ifname;
    let ours_attached = snapshot
        .and_then(|snapshot| snapshot.interfaces.iter().find(|told| &told.name == name))
        .is_some_and(|told| told.mode.is_some());
    let stranger = link.programs().into_iter().find(|program| {
        // Without a name, as for all but root: the daemon's, if it says that it has one there.
        program.name.as_deref().map_or(!ours_attached, |name| name != "rudel_filter")
    });
    match stranger {
        Some(program) if program.name.is_some() || system.is_root() => {
            let called = program.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            let finding = Finding::new(
                Name::XdpOccupied,
                Severity::Error,
                Area::Host,
                format!("another XDP program{called} (id {}) is attached to {name}", program.id),
                "An interface takes one. The daemon does not start beside it.",
                "End the software that it belongs to. If it is nobody's any more, detach it:",
            );
            report.add(finding.enter(
                "this node",
                [
                    format!("bpftool prog show id {}", program.id),
                    format!("ip link set dev {name} xdp off"),
                    format!("ip link set dev {name} xdpgeneric off"),
                ],
            ));
        }
        Some(_) => {
            report.unseen(
                format!("whose XDP program is attached to {name}"),
                "only root is told: run this as root",
            );
        }
        None => {}
    }
    let virtual_kind = link.kind().filter(|kind| GENERIC_ONLY.contains(kind));
    if let (XdpMode::Native, Some(kind)) = (interface.xdp, virtual_kind) {
        report.add(Finding::new(
            Name::XdpMode,
            Severity::Error,
            Area::Configuration,
            format!("xdp = \"native\" on {name}, which is a {kind} interface"),
            "There the driver has no XDP of its own, or leaves packets so that TCP drops them without a word.",
            "Write xdp = \"auto\", or leave it out.",
        ));
    }
    if interface.xdp == XdpMode::Native && virtual_kind.is_none() {
        let merges = system.run("ethtool", &["-k", name]).unwrap_or_default();
        let on: Vec<&str> = ["large-receive-offload", "rx-gro-hw"]
            .into_iter()
            .filter(|feature| merges.contains(&format!("{feature}: on")))
            .collect();
        if !on.is_empty() {
            let short = |feature: &&str| if *feature == "rx-gro-hw" { "rx-gro-hw" } else { "lro" };
            let finding = Finding::new(
                Name::XdpOffload,
                Severity::Warning,
                Area::Host,
                format!("{name} merges packets before the filter sees them: {} is on", on.join(", ")),
                "Many drivers refuse a native XDP program then, and the daemon does not start.",
                "Switch that off, here and where it is set at boot; or write xdp = \"auto\".",
            );
            let lines = on.iter().map(|feature| format!("ethtool -K {name} {} off", short(feature)));
            report.add(finding.enter("this node", lines.collect::<Vec<_>>()));
        }
    }
}

/// Answers to clients, heartbeats and neighbours take an address of the node's own.
fn own_address(interface: &Interface, link: &Link, report: &mut Report) {
    for is_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        let cluster = interface.addresses.iter().find(|cidr| is_family(&cidr.address()));
        let Some(cluster) = cluster.filter(|cidr| !cidr.is_link_local_v6()) else { continue };
        let mut own = link.addresses().map(|(address, _)| address).filter(is_family);
        if own.any(|address| cluster.contains(address) && address != cluster.address()) {
            continue;
        }
        let example = match cluster.address() {
            IpAddr::V4(_) => format!("ip addr add ADDRESS/{} dev {}", cluster.prefix_len(), link.ifname),
            IpAddr::V6(_) => format!("ip -6 addr add ADDRESS/{} dev {}", cluster.prefix_len(), link.ifname),
        };
        let finding = Finding::new(
            Name::OwnAddress,
            Severity::Warning,
            Area::Host,
            format!(
                "{} has no address of its own in {}/{}",
                link.ifname,
                cluster.network(),
                cluster.prefix_len()
            ),
            format!(
                "The cluster's {} is in that network. Answers to its hosts leave by a route to it, which comes with an \
                 address of the node's own.",
                cluster.address()
            ),
            "Give each node one of its own there, now and where it is set at boot.",
        );
        report.add(finding.enter("this node", [example]));
    }
}

fn addresses(config: &Config, snapshot: Option<&Snapshot>, links: &[Link], report: &mut Report) {
    let before = report.findings.len();
    let mut left = Vec::new();
    for interface in &config.interfaces {
        for cidr in &interface.addresses {
            let address = cidr.address();
            for link in links {
                // A link-local gateway may be the same on each link, and elsewhere means another.
                if cidr.is_link_local_v6() && link.ifname != interface.name.as_str() {
                    continue;
                }
                for (_, prefix_len) in link.addresses().filter(|(local, _)| *local == address) {
                    let host = if address.is_ipv4() { 32 } else { 128 };
                    if link.is("LOOPBACK") && prefix_len == host {
                        left.push(address.to_string());
                    } else {
                        report.add(misplaced(address, prefix_len, link));
                    }
                }
            }
        }
    }
    if report.findings.len() > before {
        return;
    }
    match (snapshot, &*left) {
        (None, [_, ..]) => report.well(
            Area::Host,
            format!(
                "{} on lo, from a daemon that ended without leaving; the next takes over",
                left.join(", ")
            ),
        ),
        _ => report.well(Area::Host, "no cluster address is on an interface of this host but lo"),
    }
}

fn misplaced(address: IpAddr, prefix_len: u8, link: &Link) -> Finding {
    let name = &link.ifname;
    let delete = format!("ip addr del {address}/{prefix_len} dev {name}");
    if link.is("LOOPBACK") {
        let finding = Finding::new(
            Name::AddressPrefix,
            Severity::Error,
            Area::Host,
            format!("{address} is on lo with the prefix /{prefix_len}"),
            "So all of that network is this host, for the kernel: it answers none of its hosts.",
            "Remove it from there and from whatever sets it at boot: the daemon puts it on lo, alone.",
        );
        return finding.enter("this node", [delete]);
    }
    let finding = Finding::new(
        Name::AddressOnInterface,
        Severity::Error,
        Area::Host,
        format!("the cluster address {address} is configured on {name}"),
        "The kernel answers ARP for it with this node's own MAC, and draws all clients to this node.",
        "Remove it from there and from whatever sets it at boot: the daemon puts it on lo.",
    );
    finding.enter("this node", [delete])
}

/// A setting as sysctl(8) writes it: slashes for the dots in names of interfaces.
fn sysctl_name(path: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    path.chars().map(swap).collect()
}

/// The settings that the daemon has made, which somebody may have made otherwise since.
fn settings(system: &dyn System, config: &Config, snapshot: Option<&Snapshot>, report: &mut Report) {
    if snapshot.is_none() {
        return;
    }
    let mut wanted: Vec<(String, &str, &[&str], &str)> = Vec::new();
    for interface in &config.interfaces {
        let name = interface.name.as_str();
        wanted.push((
            format!("net/ipv4/conf/{name}/arp_ignore"),
            "1",
            &["2", "8"],
            "The kernel answers ARP for the cluster's addresses with this node's own MAC, and draws clients to this node.",
        ));
        wanted.push((
            format!("net/ipv4/conf/{name}/arp_announce"),
            "2",
            &[],
            "The kernel names a cluster address with this node's own MAC when it asks, and draws clients to this node.",
        ));
        if interface.side.is_router() {
            let v6 = interface.addresses.iter().any(|cidr| cidr.address().is_ipv6());
            wanted.push((
                format!("net/ipv4/conf/{name}/forwarding"),
                "1",
                &[],
                "A router that does not forward drops its share.",
            ));
            if v6 {
                wanted.push((
                    "net/ipv6/conf/all/forwarding".to_owned(),
                    "1",
                    &[],
                    "A router that does not forward drops its share of IPv6.",
                ));
            }
            for who in [name, "all"] {
                wanted.push((
                    format!("net/ipv4/conf/{who}/send_redirects"),
                    "0",
                    &[],
                    "This node tells hosts of a way around the cluster's address.",
                ));
            }
        }
    }
    if config.interfaces.iter().any(|interface| interface.cluster_mac().0[0] & 1 == 1) {
        wanted.push((
            "net/ipv4/conf/all/drop_unicast_in_l2_multicast".to_owned(),
            "1",
            &[],
            "If the filter is ever detached, every node answers every UDP packet.",
        ));
    }
    if config.sync.enabled {
        wanted.push((
            "net/netfilter/nf_conntrack_events".to_owned(),
            "1",
            &[],
            "The kernel does not tell of connections, so the other routers do not know them.",
        ));
    }
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    wanted.dedup_by(|a, b| a.0 == b.0);
    let before = report.findings.len();
    for (path, value, also_fine, why) in &wanted {
        let Some(is) = system.sysctl(path) else { continue };
        if is == *value || also_fine.contains(&is.as_str()) {
            continue;
        }
        let name = sysctl_name(path);
        let finding = Finding::new(
            Name::SysctlChanged,
            Severity::Error,
            Area::Host,
            format!("{name} is {is}; the daemon had set {value}"),
            *why,
            "Set it back, and find out who changes it: often a file in /etc/sysctl.d that is loaded again.",
        );
        report.add(finding.enter("this node", [format!("sysctl -w {name}={value}")]));
    }
    if report.findings.len() == before {
        report.well(Area::Host, "the kernel settings are as the daemon has made them");
    }
}

fn reverse_path(system: &dyn System, config: &Config, report: &mut Report) {
    let strict = |name: &str| {
        let read = |who: &str| {
            system
                .sysctl(&format!("net/ipv4/conf/{who}/rp_filter"))
                .and_then(|value| value.parse().ok())
                .unwrap_or(0_u8)
        };
        read("all").max(read(name)) == 1
    };
    let default = system.run("ip", &["-j", "-4", "route", "show", "default"]).unwrap_or_default();
    let ways_out: Vec<String> = serde_json::from_str::<Vec<serde_json::Value>>(&default)
        .unwrap_or_default()
        .iter()
        .filter_map(|route| route["dev"].as_str().map(str::to_owned))
        .collect();
    for interface in &config.interfaces {
        let name = interface.name.as_str();
        if !interface.addresses.iter().any(|cidr| cidr.address().is_ipv4()) || !strict(name) {
            continue;
        }
        let alike = config.interfaces.iter().filter(|other| other.side == interface.side).count();
        let what = match interface.side {
            Side::Service if !ways_out.is_empty() && !ways_out.iter().any(|dev| dev == name) => format!(
                "rp_filter of {name} is 1 (strict), and the default route leaves by {}",
                ways_out.join(", ")
            ),
            Side::Inside | Side::Outside if alike > 1 => format!(
                "rp_filter of {name} is 1 (strict), and there are {alike} {} interfaces",
                interface.side
            ),
            _ => continue,
        };
        let finding = Finding::new(
            Name::RpFilter,
            Severity::Warning,
            Area::Host,
            what,
            format!(
                "The kernel drops packets that come in by {name} if their answers would leave by another interface."
            ),
            "If there are such clients, make it loose, now and in /etc/sysctl.d. The daemon leaves this setting alone.",
        );
        let setting = sysctl_name(&format!("net/ipv4/conf/{name}/rp_filter"));
        report.add(finding.enter("this node", [format!("sysctl -w {setting}=2")]));
    }
    for interface in config.interfaces.iter().filter(|interface| interface.side == Side::Outside) {
        let name = interface.name.as_str();
        let learns = system.sysctl(&format!("net/ipv6/conf/{name}/accept_ra"));
        let has_v6 = interface.addresses.iter().any(|cidr| cidr.address().is_ipv6());
        let has_route = || {
            let routes =
                system.run("ip", &["-j", "-6", "route", "show", "default", "dev", name]).unwrap_or_default();
            serde_json::from_str::<Vec<serde_json::Value>>(&routes)
                .unwrap_or_default()
                .iter()
                .any(|route| route["protocol"] != "ra")
        };
        if learns.as_deref() == Some("1") && has_v6 && !has_route() {
            let finding = Finding::new(
                Name::AcceptRa,
                Severity::Warning,
                Area::Host,
                format!("accept_ra of {name} is 1, and no default route of IPv6 is set there"),
                "A router does not heed router advertisements with 1: it loses the default route that it has learned.",
                "If this node learns its default route from one, set 2; else set a route.",
            );
            let setting = sysctl_name(&format!("net/ipv6/conf/{name}/accept_ra"));
            report.add(finding.enter("this node", [format!("sysctl -w {setting}=2")]));
        }
    }
}

fn connections(system: &dyn System, config: &Config, report: &mut Report) {
    if !config.is_router() {
        return;
    }
    let read = |key: &str| {
        system.sysctl(&format!("net/netfilter/{key}")).and_then(|value| value.parse::<u64>().ok())
    };
    let (Some(count), Some(max)) = (read("nf_conntrack_count"), read("nf_conntrack_max")) else { return };
    if count * 10 < max * 8 {
        report.well(Area::Host, format!("{count} of {max} connections are tracked"));
        return;
    }
    let finding = Finding::new(
        Name::ConntrackFull,
        Severity::Warning,
        Area::Host,
        format!("{count} of at most {max} connections are tracked"),
        "When the table is full, the kernel drops the first packet of each further connection. With [sync], every node \
         holds the connections of all.",
        "Make room, now and in /etc/sysctl.d: about 400 bytes of memory for each.",
    );
    let more = (max * 2).max(262_144);
    report.add(finding.enter("this node", [format!("sysctl -w net.netfilter.nf_conntrack_max={more}")]));
}
