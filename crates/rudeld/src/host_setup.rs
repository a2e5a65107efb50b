//! Everything that a serving node holds on its host, put up in the one safe order and taken down in the reverse.
//!
//! The filter comes before anything that could make the kernel answer for the cluster: a node with the addresses and
//! without the filter would answer everybody.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use rudel_api::config::{Config, Interface, XdpMode};
use rudel_api::snapshot;
use rudel_datapath::{AttachMode, Border, Datapath, Gate, InterfaceOptions, Mode, Xdp, ensure_bpffs};

use crate::host::membership::{Membership, MembershipError};
use crate::host::nft::Ruleset;
use crate::host::{ClusterInterface, Host, HostError, Link, MacAddr, Plan};
use crate::nat;
use crate::neighbor::ResponderInterface;
use crate::router;
use crate::snapshot::hash_mode;

/// Why the host could not be set up. What had been done is undone.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The packet filter.
    #[error("{}", told(.0))]
    Datapath(#[from] rudel_datapath::Error),
    /// Addresses and settings.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The NIC's address filter.
    #[error("{interface}: {source}")]
    Membership {
        /// The interface.
        interface: String,
        /// Why.
        source: MembershipError,
    },
}

/// An error of the packet filter with its causes, and what to do.
pub(crate) fn told(error: &rudel_datapath::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    if let Some(remedy) = error.remedy() {
        text.push_str(&format!("; {remedy}"));
    }
    text
}

/// A cluster interface of the configuration, with the link that it is on this host.
#[derive(Clone, Debug)]
pub struct ClusterLink {
    /// As configured.
    pub interface: Interface,
    /// As found.
    pub link: Link,
    /// Its own MAC.
    pub own_mac: MacAddr,
    /// Addresses of `[nat]` that are served here though the interface does not name them.
    pub translated: Vec<IpAddr>,
}

impl ClusterLink {
    /// The cluster's addresses that are served there.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let named = self.interface.addresses.iter().map(|cidr| cidr.address());
        named.chain(self.translated.iter().copied()).collect()
    }

    fn cluster_mac(&self) -> MacAddr {
        MacAddr(self.interface.cluster_mac().0)
    }

    /// How ARP and NDP are answered there.
    pub fn responder(&self) -> ResponderInterface {
        ResponderInterface {
            ifindex: self.link.index,
            own_mac: self.own_mac,
            cluster_mac: self.cluster_mac(),
            router: self.interface.side.is_router(),
            addresses: self.addresses(),
        }
    }
}

/// A host with the filter attached and the cluster's addresses in place.
pub struct HostSetup {
    /// How the filter runs, by interface.
    pub modes: BTreeMap<String, snapshot::AttachMode>,
    /// The cluster's table in nftables, if it has one.
    pub table: Option<Ruleset>,
    /// The filters, to put frames through them.
    pub gates: Vec<Gate>,
    memberships: Vec<Membership>,
    /// What is on `lo`, by interface.
    addresses: Vec<Vec<IpAddr>>,
    host: Option<Host>,
}

impl HostSetup {
    /// Opens what is pinned for this node, or makes it. Attaches nothing, and changes nothing that is there.
    pub fn open(config: &Config, pin_dir: &Path, bpffs: &Path) -> Result<Xdp, SetupError> {
        ensure_bpffs(bpffs)?;
        let tag = cluster_tag(config.cluster.name.as_str());
        let opened = Xdp::open(rudel_datapath::Options { pin_dir: pin_dir.into(), cluster_tag: tag });
        Ok(opened.inspect_err(|_| {
            // What a predecessor pinned stays, silent; an empty directory of our own making goes.
            let _ = std::fs::remove_dir(pin_dir);
        })?)
    }

    /// Has the kernel take this program's filters, and leaves the attached ones alone.
    pub fn rehearse(
        config: &Config,
        xdp: &mut Xdp,
        links: &[ClusterLink],
        seed: u32,
    ) -> Result<(), SetupError> {
        let border = router::border(config);
        for cluster_link in links {
            xdp.load_ahead(&filter_options(cluster_link, border.clone(), seed))?;
        }
        Ok(())
    }

    /// Attaches the filter, which passes what its table says, then lets the NIC accept the cluster's MAC, then puts the
    /// addresses on `lo`. What a predecessor has put up is taken over, or replaced in place.
    pub fn put_up(
        config: &Config,
        mut xdp: Xdp,
        links: &[ClusterLink],
        journal: &Path,
        seed: u32,
    ) -> Result<(Self, Xdp), SetupError> {
        let mut setup = HostSetup {
            modes: BTreeMap::new(),
            table: None,
            gates: Vec::new(),
            memberships: Vec::new(),
            addresses: Vec::new(),
            host: None,
        };
        match setup.put_up_on(config, &mut xdp, links, journal, seed) {
            Ok(()) => Ok((setup, xdp)),
            Err(error) => {
                for failure in setup.take_down(xdp) {
                    tracing::warn!(%failure, "left behind after a start that failed: the next start removes it; see the error if it does not");
                }
                // A predecessor's changes to the host go too, if its journal is there.
                if let Err(failure) = Host::recover(journal) {
                    tracing::warn!(%failure, "left behind after a start that failed: the next start removes it; see the error if it does not");
                }
                Err(error)
            }
        }
    }

    fn put_up_on(
        &mut self,
        config: &Config,
        xdp: &mut Xdp,
        links: &[ClusterLink],
        journal: &Path,
        seed: u32,
    ) -> Result<(), SetupError> {
        let border = router::border(config);
        for cluster_link in links {
            let interface = &cluster_link.interface;
            let mode = xdp.attach(&filter_options(cluster_link, border.clone(), seed))?;
            let mode = match mode {
                Mode::Native => snapshot::AttachMode::Native,
                Mode::Generic => snapshot::AttachMode::Generic,
            };
            tracing::info!(interface = %interface.name, mac = %interface.cluster_mac(), mode = mode.as_str(), "filter attached");
            self.modes.insert(interface.name.to_string(), mode);
        }
        self.gates = xdp.gates();
        xdp.detach_unclaimed()?;
        for cluster_link in links {
            self.memberships.push(join(cluster_link)?);
        }
        // The interfaces were found by these names, so they are those of settings, too.
        let requirements = router::requirements(config).unwrap_or_default();
        self.table = nat::ruleset(config, seed);
        self.addresses = links.iter().map(ClusterLink::addresses).collect();
        let plan = Plan { interfaces: interfaces(links), requirements, table: self.table.clone() };
        self.host = Some(Host::prepare(journal, &plan)?);
        for remark in router::remarks(config) {
            tracing::info!("{remark}");
        }
        Ok(())
    }

    /// Changes over to other addresses on the same interfaces; everything else stays as the configuration says.
    ///
    /// # Errors
    /// Whatever stands in the way; then all is as it was.
    pub fn change_over(&mut self, config: &Config, links: &[ClusterLink]) -> Result<(), SetupError> {
        let addresses: Vec<_> = links.iter().map(ClusterLink::addresses).collect();
        if self.addresses == addresses {
            return Ok(());
        }
        let memberships = links.iter().map(join).collect::<Result<_, _>>()?;
        if let Some(host) = &mut self.host {
            let requirements = router::requirements(config).unwrap_or_default();
            host.apply(&Plan { interfaces: interfaces(links), requirements, table: self.table.clone() })?;
        }
        self.memberships = memberships;
        self.addresses = addresses;
        Ok(())
    }

    /// Takes everything down: addresses first, the filter last. Returns what could not be done.
    pub fn take_down(self, mut xdp: Xdp) -> Vec<String> {
        let mut failures = Vec::new();
        let mut note = |result: Result<(), String>| failures.extend(result.err());
        note(xdp.clear().map_err(|error| told(&error)));
        if let Some(host) = self.host {
            note(host.restore().map_err(|error| error.to_string()));
        }
        note(xdp.release().map_err(|error| told(&error)));
        drop(self.memberships);
        failures
    }
}

/// Makes the NIC accept the cluster's frames.
fn join(cluster_link: &ClusterLink) -> Result<Membership, SetupError> {
    let v6: Vec<_> = cluster_link
        .addresses()
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
        .collect();
    Membership::join(cluster_link.link.index, cluster_link.cluster_mac(), &v6).map_err(|source| {
        SetupError::Membership { interface: cluster_link.interface.name.to_string(), source }
    })
}

fn interfaces(links: &[ClusterLink]) -> Vec<ClusterInterface> {
    links
        .iter()
        .map(|cluster_link| ClusterInterface {
            name: cluster_link.interface.name.to_string(),
            cluster_mac: cluster_link.cluster_mac(),
            addresses: cluster_link.addresses(),
        })
        .collect()
}

fn filter_options(cluster_link: &ClusterLink, border: Border, seed: u32) -> InterfaceOptions {
    let interface = &cluster_link.interface;
    InterfaceOptions {
        ifindex: cluster_link.link.index,
        name: interface.name.to_string(),
        cluster_mac: interface.cluster_mac().0,
        own_mac: cluster_link.own_mac.octets(),
        side: router::side(interface.side),
        hash: hash_mode(interface.hash),
        seed,
        border,
        mode: match interface.xdp {
            XdpMode::Auto => AttachMode::Auto,
            XdpMode::Native => AttachMode::Native,
            XdpMode::Generic => AttachMode::Generic,
        },
        driver: None,
    }
}

/// Tells the probes of clusters on one wire apart.
pub(crate) fn cluster_tag(cluster: &str) -> u32 {
    rudel_datapath::flow::jhash(cluster.as_bytes(), 0)
}
