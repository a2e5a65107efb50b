//! What a start can find out, or refuse, without leaving a trace on this host.

use std::net::IpAddr;
use std::path::Path;

use rudel_api::config::{Config, ConfigError, Interface};
use rudel_datapath::Xdp;
use rudel_proto::id::NodeName;
use rudel_proto::seal::{ClusterKey, Keys};
use sha2::{Digest, Sha256};

use crate::daemon::{DaemonError, failed};
use crate::heartbeat::Heartbeat;
use crate::host::links;
use crate::host::sysctl::Sysctl;
use crate::host::{Link, LinkError, addresses};
use crate::host_setup::{ClusterLink, HostSetup, SetupError};
use crate::legacy::Household;
use crate::options::Options;
use crate::privilege;
use crate::{router, sharing};

/// A configuration that this host can follow as far as looking at it tells.
pub struct Reading {
    /// The configuration.
    pub config: Config,
    /// This node's name.
    pub node: NodeName,
    /// The cluster's keys.
    pub keys: Keys,
    /// What tells the keys from others, the sealing one first.
    pub fingerprints: Vec<String>,
    /// The seed of the flow hash.
    pub seed: u32,
    /// The interfaces that cluster traffic comes in by.
    pub cluster_links: Vec<ClusterLink>,
}

impl Reading {
    /// Reads the configuration and looks at the host.
    pub fn new(options: &Options) -> Result<Self, DaemonError> {
        let config = Config::load(&options.config)?;
        let node = node_name(options, &config)?;
        let keys = config.load_keys()?;
        let seed = keys.flow_hash_seed();
        let fingerprints =
            std::iter::once(&keys.sealing).chain(&keys.accepted).map(|key| key.fingerprint()).collect();
        let keys = Keys::new(
            ClusterKey::new(*keys.sealing.as_bytes()),
            keys.accepted.iter().map(|key| ClusterKey::new(*key.as_bytes())),
        );
        let cluster_links = find_cluster_links(&config)?;
        Ok(Reading { config, node, keys, fingerprints, seed, cluster_links })
    }
}

/// A configuration that this host can follow, and what was opened for it. Dropped, it has never been.
pub struct Prepared {
    /// The configuration, and what it means here.
    pub reading: Reading,
    /// The interfaces that heartbeats go by.
    pub heartbeat_links: Vec<Link>,
    /// A socket on each of them.
    pub heartbeats: Vec<Heartbeat>,
    /// The sockets by which routers tell each other of their connections; none if they do not.
    pub state_links: Vec<Heartbeat>,
}

impl Prepared {
    /// Reads the configuration and looks at the host.
    pub fn new(options: &Options) -> Result<Self, DaemonError> {
        let reading = Reading::new(options)?;
        let heartbeat_links = find_heartbeat_links(&reading.config)?;
        privilege::check().map_err(failed)?;
        let heartbeats = open_heartbeats(&reading.config)?;
        let state_links = sharing::open_links(&reading.config)?;
        Ok(Prepared { reading, heartbeat_links, heartbeats, state_links })
    }

    /// What the protocol is told of all this.
    pub fn protocol(&self) -> rudel_proto::Config {
        let Reading { config, node, seed, .. } = &self.reading;
        rudel_proto::Config {
            cluster: config.cluster.name.clone(),
            name: node.clone(),
            host: host_number(&self.heartbeat_links),
            digest: config_digest(config, *seed),
            quorum: config.cluster.quorum,
            timeout: config.heartbeat.timeout,
            interval: config.heartbeat.interval,
            handover: !config.cluster.drain_timeout.is_zero(),
            weight: config.node.weight,
        }
    }

    /// What a successor must find as it was.
    pub fn household(&self) -> Household {
        let heartbeat = &self.reading.config.heartbeat;
        Household {
            group: heartbeat.group.to_string(),
            links: heartbeat.interfaces.iter().map(ToString::to_string).collect(),
            ..Household::default()
        }
    }

    /// Does what can be done beside a daemon that works, so that its successor is quick and does not fail.
    /// What is pinned is opened twice: for the pulse thread, and with the filters loaded, to attach them.
    pub fn rehearse(&self, pin_dir: &Path, bpffs: &Path) -> Result<(Xdp, Xdp), SetupError> {
        let Reading { config, cluster_links, seed, .. } = &self.reading;
        let mut ahead = HostSetup::open(config, pin_dir, bpffs)?;
        HostSetup::rehearse(config, &mut ahead, cluster_links, *seed)?;
        Ok((HostSetup::open(config, pin_dir, bpffs)?, ahead))
    }

    /// The addresses of this host that its heartbeats may come from.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        own_addresses(&self.heartbeat_links)
    }
}

fn node_name(options: &Options, config: &Config) -> Result<NodeName, DaemonError> {
    if let Some(name) = &options.name {
        return NodeName::new(name).map_err(|error| {
            failed(format!("--name {name}: {error}; give it 1 to 63 of a-z A-Z 0-9 . - _"))
        });
    }
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    config.node_name(&host).map_err(|error| {
        failed(format!(
            "the host name {host:?} cannot be the node's name ({error}): set [node] name, or give --name"
        ))
    })
}

fn find(config: &Config, place: &str, name: &str) -> Result<Link, DaemonError> {
    links::find(name).map_err(|error| match error {
        LinkError::NotFound { .. } => {
            let names: Vec<String> =
                links::all().unwrap_or_default().into_iter().map(|link| link.name).collect();
            let advice = format!("this host has {}", names.join(", "));
            let error = config.refuse(place, format!("there is no interface {name} on this host"), advice);
            DaemonError::Host(Box::new(error))
        }
        other => failed(other),
    })
}

fn find_cluster_links(config: &Config) -> Result<Vec<ClusterLink>, DaemonError> {
    let mut found = Vec::new();
    for (index, interface) in config.interfaces.iter().enumerate() {
        let link = find(config, &format!("interface[{index}].name"), interface.name.as_str())?;
        let own_mac = link.ethernet_mac().map_err(failed)?;
        refuse_family_of_none(config, index, interface)?;
        let translated = router::translated_addresses(config, interface);
        found.push(ClusterLink { interface: interface.clone(), link, own_mac, translated });
    }
    Ok(found)
}

/// An IPv6 address on an interface where IPv6 is switched off would be served to nobody: no neighbour is answered.
fn refuse_family_of_none(config: &Config, index: usize, interface: &Interface) -> Result<(), ConfigError> {
    let name = interface.name.as_str();
    let disabled = Sysctl::ipv6_conf(name, "disable_ipv6").ok().and_then(|sysctl| sysctl.read().ok());
    let Some(first) = interface.addresses.iter().position(|cidr| cidr.address().is_ipv6()) else {
        return Ok(());
    };
    // Without the setting, the kernel has no IPv6 at all.
    if disabled.as_deref() == Some("0") {
        return Ok(());
    }
    Err(config.refuse(
        &format!("interface[{index}].addresses[{first}]"),
        format!("{name} has no IPv6 on this host"),
        format!("remove the address, or switch IPv6 on: `sysctl net.ipv6.conf.{name}.disable_ipv6=0`"),
    ))
}

fn find_heartbeat_links(config: &Config) -> Result<Vec<Link>, DaemonError> {
    let names = config.heartbeat.interfaces.iter().enumerate();
    names
        .map(|(index, name)| find(config, &format!("heartbeat.interfaces[{index}]"), name.as_str()))
        .collect()
}

fn open_heartbeats(config: &Config) -> Result<Vec<Heartbeat>, DaemonError> {
    let group = config.heartbeat.group.socket_addr();
    let open =
        |name: &rudel_api::config::InterfaceName| Heartbeat::open(name.as_str(), group).map_err(failed);
    config.heartbeat.interfaces.iter().map(open).collect()
}

/// A number that this machine has and no other: clones of a virtual machine often share the machine id, but not the MAC.
fn host_number(links: &[Link]) -> u64 {
    let machine_id = std::fs::read("/etc/machine-id").unwrap_or_default();
    let mac = links.iter().find_map(|link| link.mac).map(|mac| mac.octets()).unwrap_or_default();
    let digest =
        Sha256::new().chain_update(b"rudel host\0").chain_update(machine_id).chain_update(mac).finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}

/// A number made of all that must be the same on every node. Everything here is in the order of the file: nodes that
/// list the same interfaces in another order are told to copy the file.
pub(crate) fn config_digest(config: &Config, seed: u32) -> u64 {
    let mut digest = Sha256::new().chain_update(b"rudel configuration\0").chain_update(seed.to_be_bytes());
    let mut add = |text: String| {
        digest.update(text);
        digest.update(b"\0");
    };
    add(config.cluster.quorum.to_string());
    add(config.heartbeat.timeout.as_micros().to_string());
    add(config.heartbeat.interval.as_micros().to_string());
    for interface in &config.interfaces {
        // Names of interfaces may differ from node to node; what happens on them may not.
        add(format!("{} {} {}", interface.side, interface.hash, interface.cluster_mac()));
        interface.addresses.iter().for_each(|cidr| add(cidr.address().to_string()));
        interface.inside_networks().iter().for_each(|network| add(network.to_string()));
    }
    if let Some(nat) = &config.nat {
        nat.addresses.iter().for_each(|address| add(format!("translated {address}")));
        nat.inside.iter().for_each(|network| add(format!("from {network}")));
        nat.forward.iter().for_each(|forward| add(forward.to_string()));
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.finalize()[..8]);
    u64::from_be_bytes(bytes)
}

fn own_addresses(links: &[Link]) -> Vec<IpAddr> {
    let all = addresses::all().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list this host's addresses: others are not told them; see the error");
        Vec::new()
    });
    all.into_iter()
        .filter(|address| links.iter().any(|link| link.index == address.ifindex))
        .map(|address| address.ip)
        .collect()
}
