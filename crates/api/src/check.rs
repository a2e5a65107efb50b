//! What `rudel check` looks at: its findings by name, and what a daemon has seen of the network for it.
//!
//! The names of findings and the fields of a [`Report`] are a promise to scripts, as those of the snapshot are; more may
//! be added, none may change meaning.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::MacAddress;
use crate::snapshot::SCHEMA;
use crate::words::words;

words! {
    /// How bad it is.
    pub enum Severity {
        /// It was looked at, and is well.
        Ok = "ok",
        /// Good to know; nothing is wrong.
        Note = "note",
        /// It will disappoint somebody, or may at any time.
        Warning = "warning",
        /// The cluster does not work so, or not on this node.
        Error = "error",
    }
}

words! {
    /// What a finding is about.
    pub enum Area {
        /// The file, and what it names.
        Configuration = "configuration",
        /// This machine.
        Host = "host",
        /// What is between the machines, as this one sees it.
        Network = "network",
    }
}

words! {
    /// What can be found. Programs must expect further ones.
    pub enum Name {
        /// Keys that fit each other badly.
        ConfigAdvice = "config-advice",
        /// The host's name cannot be this node's.
        NodeName = "node-name",
        /// The key file is missing, is open to others, or holds no key.
        KeyFile = "key-file",
        /// Somebody else than root could replace the key file.
        KeyOwner = "key-owner",
        /// The kernel is older than what the daemon needs.
        KernelOld = "kernel-old",
        /// The kernel was built without something that the daemon needs.
        KernelOptions = "kernel-options",
        /// BPF programs are interpreted.
        BpfJit = "bpf-jit",
        /// The service manager gives the daemon too little.
        DaemonCapabilities = "daemon-capabilities",
        /// The configuration names an interface that this host does not have.
        InterfaceMissing = "interface-missing",
        /// An interface is no Ethernet interface.
        InterfaceKind = "interface-kind",
        /// An interface is part of a bridge, a bond or a team.
        InterfaceEnslaved = "interface-enslaved",
        /// An interface is switched off.
        InterfaceDown = "interface-down",
        /// An interface has no carrier.
        InterfaceCarrier = "interface-carrier",
        /// Packets of less than what IPv6 needs.
        InterfaceMtu = "interface-mtu",
        /// IPv6 is switched off where the cluster has an IPv6 address.
        Ipv6Disabled = "ipv6-disabled",
        /// No address of its own in the network of the cluster's.
        OwnAddress = "own-address",
        /// Somebody else's XDP program is attached.
        XdpOccupied = "xdp-occupied",
        /// The filter cannot run as configured.
        XdpMode = "xdp-mode",
        /// The NIC merges packets before the filter sees them.
        XdpOffload = "xdp-offload",
        /// A cluster address is configured on an interface of this host.
        AddressOnInterface = "address-on-interface",
        /// A cluster address is on `lo` with the prefix of its whole network.
        AddressPrefix = "address-prefix",
        /// A kernel setting is not what the daemon has made it.
        SysctlChanged = "sysctl-changed",
        /// Reverse path filtering drops packets of clients that come in by another way.
        RpFilter = "rp-filter",
        /// A router learns its own default route in a way that routing switches off.
        AcceptRa = "accept-ra",
        /// The table of connections is nearly full.
        ConntrackFull = "conntrack-full",
        /// Other software has the cluster's address.
        AddressSoftware = "address-software",
        /// conntrackd tells of connections that rudel tells of.
        Conntrackd = "conntrackd",
        /// Rules of ipt_CLUSTERIP or xt_cluster are left.
        ClusteripRules = "clusterip-rules",
        /// This host's packet rules drop heartbeats.
        FirewallHeartbeats = "firewall-heartbeats",
        /// This host's packet rules drop what keeps groups alive on switches.
        FirewallGroups = "firewall-groups",
        /// A bridge of this host prunes.
        BridgeSnooping = "bridge-snooping",
        /// A virtual switch that filters by MAC is likely.
        Hypervisor = "hypervisor",
        /// A network that delivers unicast alone is likely.
        Cloud = "cloud",
        /// No other node is heard.
        Alone = "alone",
        /// A node receives nothing for the cluster's MAC.
        Deaf = "deaf",
        /// No node receives anything for the cluster's MAC.
        Unflooded = "unflooded",
        /// Some packets have no owner.
        Hole = "hole",
        /// Some packets have two owners.
        TwoOwners = "two-owners",
        /// Another machine has a cluster address.
        AddressClaimed = "address-claimed",
        /// Somebody asks for a cluster address again and again.
        AnswerDisbelieved = "answer-disbelieved",
        /// Nodes have different configurations.
        ConfigDiffers = "config-differs",
        /// Nodes have different keys.
        KeysDiffer = "keys-differ",
        /// Datagrams are rejected.
        Rejected = "rejected",
        /// Large packets do not reach a node.
        MtuDiffers = "mtu-differs",
        /// The daemon is scheduled late.
        ScheduledLate = "scheduled-late",
        /// The cluster is degraded for a reason of its own.
        Degraded = "degraded",
        /// The daemon is of another version than the tool.
        Version = "version",
    }
}

impl Name {
    /// The page that explains it, from the root of the documentation.
    pub const fn page(self) -> &'static str {
        "docs/network.md"
    }
}

/// Lines to enter somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// Where: `this node`, `the switch, a Linux bridge`, `Cisco IOS` …
    pub place: String,
    /// The lines. Words in capitals are to be replaced.
    pub lines: Vec<String>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name; null for what is well.
    pub name: Option<Name>,
    /// How bad it is.
    pub severity: Severity,
    /// What it concerns.
    pub area: Area,
    /// What is so, in a sentence.
    pub what: String,
    /// Why that matters; empty for what is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What to do, in words; empty for what is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// What to enter where, if that is known. One of them is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Lines>,
}

impl Finding {
    /// Something that is well.
    pub fn well(area: Area, what: impl Into<String>) -> Self {
        let (why, remedy) = (String::new(), String::new());
        Finding {
            name: None,
            severity: Severity::Ok,
            area,
            what: what.into(),
            why,
            remedy,
            lines: Vec::new(),
        }
    }

    /// Something that was found, and what to do about it.
    pub fn new(
        name: Name,
        severity: Severity,
        area: Area,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (what, why, remedy) = (what.into(), why.into(), remedy.into());
        Finding { name: Some(name), severity, area, what, why, remedy, lines: Vec::new() }
    }

    /// With lines to enter at a place.
    #[must_use]
    pub fn enter<L: Into<String>>(
        mut self,
        place: impl Into<String>,
        lines: impl IntoIterator<Item = L>,
    ) -> Self {
        let lines = lines.into_iter().map(Into::into).collect();
        self.lines.push(Lines { place: place.into(), lines });
        self
    }
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseen {
    /// What.
    pub what: String,
    /// Why, and how it could be.
    pub why: String,
}

/// What `rudel check --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The cluster's name.
    pub cluster: String,
    /// This node's name; null if it has none.
    pub node: Option<String>,
    /// The configuration that was read.
    pub config: String,
    /// Whether a daemon was asked: if not, nothing is known of the network.
    pub daemon: bool,
    /// The worst of all findings.
    pub severity: Severity,
    /// Everything that was found, what is well included.
    pub findings: Vec<Finding>,
    /// What was not looked at.
    pub unseen: Vec<Unseen>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(cluster: impl Into<String>, node: Option<String>, config: impl Into<String>) -> Self {
        Report {
            schema: SCHEMA,
            cluster: cluster.into(),
            node,
            config: config.into(),
            daemon: false,
            severity: Severity::Ok,
            findings: Vec::new(),
            unseen: Vec::new(),
        }
    }

    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        self.severity = self.severity.max(finding.severity);
        self.findings.push(finding);
    }

    /// Adds something that is well.
    pub fn well(&mut self, area: Area, what: impl Into<String>) {
        self.add(Finding::well(area, what));
    }

    /// Adds something that could not be looked at.
    pub fn unseen(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.unseen.push(Unseen { what: what.into(), why: why.into() });
    }

    /// Whether something was found that somebody should do something about.
    pub fn is_degraded(&self) -> bool {
        self.severity >= Severity::Warning
    }
}

/// What a daemon has seen of the network, one of its cluster interfaces after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sight {
    /// The interfaces.
    pub interfaces: Vec<InterfaceSight>,
}

/// What a daemon has seen on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceSight {
    /// Its name.
    pub name: String,
    /// Its own MAC address, in text.
    pub own_mac: String,
    /// The cluster's MAC there, in text.
    pub cluster_mac: String,
    /// Whose probes are heard, one for each family that the cluster has an address of.
    pub ears: Vec<EarSight>,
    /// Who asks for members of groups.
    pub queriers: Vec<Querier>,
    /// Who says that it has an address of the cluster.
    pub claims: Vec<ClaimSeen>,
    /// Who asks for an address of the cluster again and again, though it is answered.
    pub insistent: Vec<Asker>,
    /// Somebody has just asked a second time: a moment later more is known.
    pub pending: bool,
    /// What all nodes passed does not add up to what was seen.
    pub audit: Option<AuditFinding>,
}

/// What an interface hears in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EarSight {
    /// 4 or 6.
    pub family: u8,
    /// The judgement.
    pub hearing: Hearing,
    /// The other nodes that are alive.
    pub peers: Vec<PeerHeard>,
}

/// Whether an interface hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hearing {
    /// As far as is known.
    #[default]
    Well,
    /// It was unplugged, and has not heard a probe since.
    Waiting,
    /// No probe comes, while others hear some.
    Deaf,
    /// No probe comes to anybody.
    Nobody,
    /// A word that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Another node, and the way of probes between it and the one that speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerHeard {
    /// Its name.
    pub node: String,
    /// How long ago its last probe came, in milliseconds; null if none ever did.
    pub heard_ms: Option<u64>,
    /// Whether it says that it hears probes itself; null if it says nothing.
    pub hears: Option<bool>,
}

/// Who asks the hosts of a link for the groups that they are members of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Querier {
    /// Its address; 0.0.0.0 for a switch that has none.
    pub address: IpAddr,
    /// How long ago it asked last, in milliseconds.
    pub age_ms: u64,
}

/// Somebody who says that it has an address of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimSeen {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub mac: MacAddress,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
}

/// Somebody who asks for an address of the cluster again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Its address.
    pub asker: IpAddr,
    /// Its MAC address.
    pub mac: MacAddress,
    /// What it asks for.
    pub address: IpAddr,
    /// How often it has asked.
    pub questions: u32,
    /// In how many milliseconds.
    pub within_ms: u64,
}

words! {
    /// What is wrong with the sum of what all nodes pass.
    pub enum AuditFinding {
        /// Some packets have no owner.
        Hole = "hole",
        /// Some packets have two.
        Double = "double",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_reads_as_it_is_documented() {
        let mut report = Report::new("web", Some("n1".into()), "/etc/rudel/rudel.toml");
        assert!(!report.is_degraded());
        report.well(Area::Host, "Linux 6.18");
        report.unseen("packet rules", "only root may list them");
        let finding = Finding::new(
            Name::SysctlChanged,
            Severity::Error,
            Area::Host,
            "arp_ignore is 0",
            "the kernel answers",
            "set it",
        );
        report.add(finding.enter("this node", ["sysctl -w net.ipv4.conf.eth0.arp_ignore=1"]));
        assert!(report.is_degraded());
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(
            value,
            json!({"schema":1,"cluster":"web","node":"n1","config":"/etc/rudel/rudel.toml","daemon":false,"severity":"error",
             "findings":[
              {"name":null,"severity":"ok","area":"host","what":"Linux 6.18"},
              {"name":"sysctl-changed","severity":"error","area":"host","what":"arp_ignore is 0","why":"the kernel answers",
               "remedy":"set it","lines":[{"place":"this node","lines":["sysctl -w net.ipv4.conf.eth0.arp_ignore=1"]}]}],
             "unseen":[{"what":"packet rules","why":"only root may list them"}]})
        );
        assert_eq!(serde_json::from_value::<Report>(value).unwrap(), report);
    }

    #[test]
    fn notes_degrade_nothing() {
        let mut report = Report::new("web", None, "x");
        report.add(Finding::new(Name::Hypervisor, Severity::Note, Area::Host, "", "", "x"));
        assert!(!report.is_degraded());
        report.add(Finding::new(Name::RpFilter, Severity::Warning, Area::Host, "", "", "x"));
        assert!(report.is_degraded());
    }

    #[test]
    fn what_a_later_daemon_has_seen_is_read() {
        let sight: Sight = serde_json::from_value(
            json!({"interfaces":[{"name":"eth0","smells":"burnt","ears":[{"family":4,"hearing":"itching"}]}]}),
        )
        .unwrap();
        assert_eq!(sight.interfaces[0].ears[0].hearing, Hearing::Unknown);
    }
}
