//! The configuration file, the same on every node.
//!
//! A file is read strictly: an unknown key, a wrong type, a value out of its range refuse it, all of them at once,
//! each with its place and what is allowed. What comes out can only be valid; what needs the host (does the
//! interface exist, can the key be read) is checked later, and refused at the same place with [`Config::refuse`].
//!
//! [`KEYS`] describes every key; the types below hold their values.

mod difference;
mod error;
mod keys;
mod parse;
mod reader;
pub mod reference;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rudel_proto::id::{ClusterName, NameError, NodeName};

pub use difference::{Difference, Live};
pub use error::{ConfigError, Problem, Refused};
pub use keys::{KEYS, Key, Kind, TABLES, Table};
pub(crate) use values::family;
pub use values::{
    BodyText, Cidr, ClusterMacMode, CommandLine, DnsTarget, HashMode, HeartbeatGroup, HostHeader, HttpTarget,
    InterfaceName, MacAddress, PortForward, Side, Transport, ValueError, XdpMode, format_duration,
    parse_duration,
};

use crate::key::{ClusterKeys, KeyError};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/rudel/rudel.toml";
/// Where the control socket is unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/rudel/rudel.sock";

/// A whole configuration, valid but for what only the host can tell.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[cluster]`.
    pub cluster: Cluster,
    /// `[node]`.
    pub node: Node,
    /// `[heartbeat]`.
    pub heartbeat: Heartbeat,
    /// `[[interface]]`, at least one, no name and no address twice.
    pub interfaces: Vec<Interface>,
    /// `[[health]]`, no name twice.
    pub health: Vec<Health>,
    /// `[nat]`, only on a router.
    pub nat: Option<Nat>,
    /// `[sync]`, enabled only on a router.
    pub sync: Sync,
    /// `[hooks]`.
    pub hooks: Hooks,
    source: Source,
}

/// `[cluster]`: what all nodes have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's name.
    pub name: ClusterName,
    /// The file with the cluster key, an absolute path.
    pub key_file: PathBuf,
    /// Serve only while this many nodes, this one included, hear each other; 1 to 32, default 1.
    pub quorum: usize,
    /// How long a leaving node keeps open connections; 0 s to 24 h, default 5 min.
    pub drain_timeout: Duration,
}

/// `[node]`: this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name given in the file; see [`Config::node_name`].
    pub name: Option<NodeName>,
    /// The weight at the start, 0 to 1000, default 100.
    pub weight: u16,
    /// The control socket, an absolute path of at most 107 bytes.
    pub socket: PathBuf,
    /// Where metrics are served; off unless given.
    pub metrics: Option<SocketAddr>,
}

/// `[heartbeat]`: how the nodes hear each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Where heartbeats are sent to.
    pub group: HeartbeatGroup,
    /// Where they are sent and heard; at least one, none twice; default every `[[interface]]`.
    pub interfaces: Vec<InterfaceName>,
    /// After this much silence a node is given up; 20 ms to 60 s, default 400 ms.
    pub timeout: Duration,
    /// Time between heartbeats; 5 ms to 10 s, at most a third of `timeout`, default an eighth of it.
    pub interval: Duration,
}

/// `[[interface]]`: where the cluster's packets come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: InterfaceName,
    /// What it is to the cluster.
    pub side: Side,
    /// The cluster's addresses there, at least one.
    pub addresses: Vec<Cidr>,
    /// Where the cluster MAC comes from.
    pub mac: ClusterMacMode,
    /// How the packet filter is to be attached.
    pub xdp: XdpMode,
    /// What decides the bucket of a flow. Inside and outside of a router agree.
    pub hash: HashMode,
    /// Networks that are reached through an inside interface of a router besides those of its addresses.
    pub networks: Vec<Cidr>,
}

impl Interface {
    /// The MAC that the cluster's addresses map to here, see [`ClusterMacMode::cluster_mac`].
    pub fn cluster_mac(&self) -> MacAddress {
        self.mac.cluster_mac(&self.addresses).expect("an interface has at least one address")
    }

    /// The networks behind an inside interface of a router: those of its addresses, and those that are named. A
    /// link-local address has none.
    pub fn inside_networks(&self) -> Vec<Cidr> {
        if self.side != Side::Inside {
            return Vec::new();
        }
        let own = self.addresses.iter().filter(|cidr| !cidr.is_link_local_v6());
        let own = own.filter_map(|cidr| Cidr::new(cidr.network(), cidr.prefix_len()));
        let mut all: Vec<Cidr> = own.chain(self.networks.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The multicast group to join so that a snooping switch forwards the cluster MAC; only with `mac = "igmp"`.
    pub fn igmp_group(&self) -> Option<std::net::Ipv4Addr> {
        let [.., c, d] = self.cluster_mac().0;
        (self.mac == ClusterMacMode::Igmp).then(|| std::net::Ipv4Addr::new(239, 255, c, d))
    }
}

/// `[[health]]`: a check of what this node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its name in status, metrics and events.
    pub name: String,
    /// What is checked.
    pub check: Check,
    /// From the start of one check to the next; 100 ms to 1 h, default 1 s.
    pub interval: Duration,
    /// No answer for this long is a failure; 10 ms to `interval`, default 500 ms.
    pub timeout: Duration,
    /// This many good ones in a row make it good again; 1 to 100, default 2.
    pub rise: u16,
    /// This many bad ones in a row make it bad; 1 to 100, default 2.
    pub fall: u16,
}

/// What a health check looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// An HTTP request is answered with a status of 200 to 399, and with what the body must contain.
    Http(HttpTarget),
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
    /// A DNS server answers.
    Dns(DnsTarget),
    /// A program exits with 0.
    Exec(CommandLine),
    /// An interface has a carrier.
    Link(InterfaceName),
}

/// `[nat]`: source NAT onto shared outside addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// The shared outside addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// The networks whose flows are translated, at least one of each family of `addresses` and none of another.
    pub inside: Vec<Cidr>,
    /// Services behind the firewall; each outer end is an address of the cluster, and none is there twice.
    pub forward: Vec<PortForward>,
}

/// `[sync]`: sharing connection state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Whether connection state is shared; false without a `[sync]` table.
    pub enabled: bool,
}

/// `[hooks]`: programs to run when something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Runs once for each event.
    pub on_change: Option<CommandLine>,
    /// A run that takes longer is killed; 100 ms to 10 min, default 30 s.
    pub timeout: Duration,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, or is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Reads a configuration from its text; `path` only names it in errors.
    ///
    /// # Errors
    /// The text is refused.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        parse::parse(text, path.as_ref())
    }

    /// The file it came from.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// This node's name: the one in the file, or else the host's.
    ///
    /// # Errors
    /// The file gives none and the host's cannot be a node's: too long, or with other characters.
    pub fn node_name(&self, host_name: &str) -> Result<NodeName, NameError> {
        match &self.node.name {
            Some(name) => Ok(name.clone()),
            None => NodeName::new(host_name),
        }
    }

    /// Whether this is a router cluster.
    pub fn is_router(&self) -> bool {
        self.interfaces.iter().any(|interface| interface.side.is_router())
    }

    /// What works but will disappoint, each in a sentence that says what to do.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.cluster.quorum > 1 && self.heartbeat.interval * 4 > self.heartbeat.timeout {
            // The lease is then made of others' echoes, and lasts less than three intervals.
            warnings.push(format!(
                "heartbeat interval {} is more than a quarter of timeout {}: with quorum {} two lost datagrams in a row \
                 stop a node for a moment; set the interval to {} or less",
                format_duration(self.heartbeat.interval),
                format_duration(self.heartbeat.timeout),
                self.cluster.quorum,
                format_duration(self.heartbeat.timeout / 8),
            ));
        }
        warnings
    }

    /// Reads the cluster keys from the key file.
    ///
    /// # Errors
    /// [`KeyError`], shown at `key_file` in this configuration.
    pub fn load_keys(&self) -> Result<ClusterKeys, ConfigError> {
        ClusterKeys::load(&self.cluster.key_file)
            .map_err(|error: KeyError| self.refuse("cluster.key_file", error.to_string(), error.remedy()))
    }

    /// Refuses a value for a reason that only the host knows, such as an interface that does not exist.
    ///
    /// `place` is the path of the value, such as `interface[0].name` or `heartbeat.interfaces[1]`; of what is not
    /// in the file, the nearest thing around it is shown.
    pub fn refuse(&self, place: &str, message: impl Into<String>, advice: impl Into<String>) -> ConfigError {
        let mut at = place;
        let span = loop {
            if let Some(span) = self.source.places.get(at) {
                break span.clone();
            }
            match at.rfind(['.', '[']) {
                Some(end) => at = &at[..end],
                None => break 0..0,
            }
        };
        let problem = Problem::new(&self.source.text, span, message).advise(advice);
        ConfigError::Refused(Box::new(Refused::new(&self.source.path, &self.source.text, vec![problem])))
    }
}

/// The text that a configuration came from, kept to show places in it.
#[derive(Clone, Debug)]
struct Source {
    path: PathBuf,
    text: String,
    places: reader::Places,
}
