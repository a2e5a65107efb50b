//! This machine as the cluster needs it: its interfaces, the cluster's addresses on `lo`, a few kernel settings, and
//! the NIC's address filter.
//!
//! Two kinds of changes are made. Those that the kernel undoes by itself when the process ends (memberships, packet
//! sockets) are held by values: [`membership::Membership`], [`packet::PacketSocket`]. Those that would stay (addresses,
//! settings) go through [`Host`], which writes each into a journal before making it, so that start, crash and restart
//! leave nothing behind and never lose what was there before.
//!
//! Everything here works in the network namespace of the calling thread.

pub mod addresses;
pub mod journal;
pub mod links;
mod mac;
pub mod membership;
pub(crate) mod netlink;
pub mod nft;
pub mod packet;
pub mod sysctl;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::advice::advised;

pub use journal::{Change, JournalError};
pub use links::{Link, LinkError};
pub use mac::{MacAddr, ParseMacError, solicited_node_group};

use addresses::{Added, Address, host_prefix_len};
use journal::Journal;
use links::LOOPBACK_IFINDEX;
use nft::Ruleset;
use sysctl::Requirement;

/// An interface that cluster traffic comes in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInterface {
    /// Its name.
    pub name: String,
    /// The cluster's MAC address there.
    pub cluster_mac: MacAddr,
    /// The cluster's addresses there.
    pub addresses: Vec<IpAddr>,
}

impl ClusterInterface {
    /// A link-local address of IPv6 belongs to one link, and on `lo` no packet from another would find it. On the link
    /// itself the kernel would answer for it. It is there to be resolved, as a gateway, and needs to be nowhere for that.
    fn addresses_for_loopback(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        self.addresses.iter().copied().filter(move |ip| !is_link_local(ip))
    }
}

/// What the host is to be made into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The interfaces of the cluster.
    pub interfaces: Vec<ClusterInterface>,
    /// Settings that it needs besides those that follow from the interfaces.
    pub requirements: Vec<Requirement>,
    /// The cluster's own table in nftables, if it needs one.
    pub table: Option<Ruleset>,
}

/// Why the host could not be prepared or restored. What [`Host::prepare`] had done up to there is undone.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// An interface of the plan is missing or cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A cluster address is configured on the interface itself.
    #[error(
        "the cluster address {address} is configured on {interface} itself: the kernel would answer ARP for it with \
         this node's own MAC, and draw all clients to this node; remove it (`ip addr del {address}/{prefix_len} dev \
         {interface}`) from there and from whatever sets it at boot: the daemon puts it on lo"
    )]
    AddressOnInterface {
        /// The address.
        address: IpAddr,
        /// Its prefix length there.
        prefix_len: u8,
        /// The interface.
        interface: String,
    },
    /// The addresses of this machine cannot be listed, or `lo` cannot be switched on.
    #[error("cannot {action}: {}", advised(source))]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// What netlink said.
        source: io::Error,
    },
    /// An address cannot be put on `lo`.
    #[error("cannot put {address} on lo: {}", on_lo(*address, source))]
    AddAddress {
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A kernel setting cannot be read or set.
    #[error("cannot {action} {sysctl}: {}", advised(source))]
    Sysctl {
        /// The setting's name.
        sysctl: String,
        /// What was tried.
        action: String,
        /// What came of it.
        source: io::Error,
    },
    /// The cluster's table cannot be loaded.
    #[error("cannot load the table {table} into nftables: {}", advised(source))]
    Table {
        /// Its name.
        table: String,
        /// What came of it.
        source: io::Error,
    },
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Not everything could be restored. What is left is still in the journal.
    #[error("not everything on this host could be restored: {}; put it right by hand, or start rudeld again, which tries", .0.join("; "))]
    Restore(Vec<String>),
}

fn on_lo(address: IpAddr, source: &io::Error) -> String {
    match (address, source.raw_os_error()) {
        (IpAddr::V6(_), Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPERM)) => {
            format!("{source}; is IPv6 switched off on lo (net.ipv6.conf.lo.disable_ipv6)?")
        }
        _ => advised(source),
    }
}

/// A host that has been prepared for the cluster.
///
/// Dropping the value changes nothing: the addresses and settings stay for the next start to take over (that is how a
/// restart without a gap works), and the journal remembers what they were. Leaving for good is [`Host::restore`].
#[derive(Debug)]
#[must_use = "what was changed stays until `restore` is called, now or by a later start"]
pub struct Host {
    journal: Journal,
}

/// What a recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The changes of a former run that were undone, or found undone, or left to whoever changed them since.
    pub changes: Vec<Change>,
}

impl Host {
    /// Makes the host ready: settings first, then the addresses on `lo`.
    ///
    /// A journal that a former run left is taken over: what it changed and the plan still wants stays as it is, with
    /// the original values remembered; what the plan does not want any more is undone.
    ///
    /// Two daemons that serve different clusters in one network namespace share the settings: the first to leave
    /// restores those that it was the one to change.
    ///
    /// # Errors
    /// Whatever stands in the way; then everything, a former run's changes included, is undone as far as possible.
    pub fn prepare(journal_path: &Path, plan: &Plan) -> Result<Self, HostError> {
        let mut host = Self { journal: Journal::open(journal_path)? };
        match host.apply(plan) {
            Ok(()) => Ok(host),
            Err(error) => {
                if let Err(left) = host.restore() {
                    tracing::error!(%left, "could not undo a preparation that failed: remove by hand what is listed, or start again");
                }
                Err(error)
            }
        }
    }

    /// Changes a prepared host over to another plan (a configuration read again).
    ///
    /// # Errors
    /// Whatever stands in the way; then what this call did is undone, and the former plan stays in force.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), HostError> {
        let present = look_for_conflicts(plan)?;
        let mut requirements = Vec::new();
        for interface in &plan.interfaces {
            let invalid = |_| LinkError::NotFound { name: interface.name.clone() };
            requirements.extend(sysctl::interface_requirements(&interface.name).map_err(invalid)?);
        }
        if plan.interfaces.iter().any(|interface| interface.cluster_mac.is_multicast()) {
            requirements.push(sysctl::multicast_requirement());
        }
        requirements.extend(plan.requirements.iter().cloned());
        let wanted: BTreeSet<IpAddr> =
            plan.interfaces.iter().flat_map(ClusterInterface::addresses_for_loopback).collect();

        let mut made = Vec::new();
        let result = self
            .make(&requirements, &wanted, &present, &mut made)
            .and_then(|()| self.put_table(plan.table.as_ref(), &mut made));
        if let Err(error) = result {
            let left = self.undo(made.into_iter().rev());
            if !left.is_empty() {
                tracing::error!(left = %left.join("; "), "could not undo a change of plan that failed: remove by hand what is listed, or restart the node");
            }
            return Err(error);
        }

        let unwanted: Vec<Change> = self
            .journal
            .changes()
            .iter()
            .rev()
            .filter(|change| match change {
                Change::Sysctl { path, .. } => {
                    !requirements.iter().any(|requirement| requirement.sysctl == *path)
                }
                Change::Address { address } => !wanted.contains(address),
                Change::Table { name } => plan.table.as_ref().is_none_or(|table| table.table != *name),
            })
            .cloned()
            .collect();
        let left = self.undo(unwanted.into_iter());
        if left.is_empty() { Ok(()) } else { Err(HostError::Restore(left)) }
    }

    fn make(
        &mut self,
        requirements: &[Requirement],
        wanted: &BTreeSet<IpAddr>,
        present: &[Address],
        made: &mut Vec<Change>,
    ) -> Result<(), HostError> {
        // The settings come first: an address that is on `lo` before arp_ignore is set gets answered for.
        for requirement in requirements {
            self.require(requirement, made)?;
        }
        if !wanted.is_empty() {
            addresses::bring_up_loopback()
                .map_err(|source| HostError::Netlink { action: "switch lo on", source })?;
        }
        for &address in wanted {
            self.put_address(address, present, made)?;
        }
        Ok(())
    }

    fn require(&mut self, requirement: &Requirement, made: &mut Vec<Change>) -> Result<(), HostError> {
        let sysctl = &requirement.sysctl;
        let failed =
            |action: String| |source| HostError::Sysctl { sysctl: sysctl.to_string(), action, source };
        let found = sysctl.read().map_err(failed("read".to_owned()))?;
        if let Some(noted) = self.journal.sysctl(sysctl).cloned() {
            let Change::Sysctl { ours, .. } = &noted else { unreachable!("asked for a setting") };
            if *ours == found && requirement.is_met_by(&found) {
                // A former run, or a former plan, set it; its original is known.
                return Ok(());
            }
            // A crash came between note and change, or somebody else has set it meanwhile, or it was set for another
            // purpose: what is found after undoing ours is the original now.
            let left = self.undo(std::iter::once(noted));
            if !left.is_empty() {
                return Err(HostError::Restore(left));
            }
        }
        let original = sysctl.read().map_err(failed("read".to_owned()))?;
        if requirement.is_met_by(&original) {
            return Ok(());
        }
        let change = Change::Sysctl { path: sysctl.clone(), original, ours: requirement.value.to_owned() };
        self.journal.note(change.clone())?;
        made.push(change);
        sysctl.write(requirement.value).map_err(failed(format!("set to {}", requirement.value)))
    }

    fn put_address(
        &mut self,
        address: IpAddr,
        present: &[Address],
        made: &mut Vec<Change>,
    ) -> Result<(), HostError> {
        // Wherever it is (the cluster's interfaces are out of the question by now), it is local already, and not ours
        // unless the journal says so.
        if present.iter().any(|found| found.ip == address) {
            return Ok(());
        }
        let change = Change::Address { address };
        if self.journal.address(address).is_none() {
            self.journal.note(change.clone())?;
            made.push(change.clone());
        }
        match addresses::add_to_loopback(address) {
            Ok(Added::Now) => Ok(()),
            Ok(Added::AlreadyThere) => {
                // Somebody else was faster since we looked: it is theirs.
                made.retain(|made| *made != change);
                Ok(self.journal.strike(&change)?)
            }
            Err(source) => Err(HostError::AddAddress { address, source }),
        }
    }

    /// Loads the table, in the place of one of the same name that a former run or plan has left.
    fn put_table(&mut self, table: Option<&Ruleset>, made: &mut Vec<Change>) -> Result<(), HostError> {
        let Some(ruleset) = table else { return Ok(()) };
        if self.journal.table(&ruleset.table).is_none() {
            let change = Change::Table { name: ruleset.table.clone() };
            self.journal.note(change.clone())?;
            made.push(change);
        }
        nft::load(ruleset)
            .map_err(|source| HostError::Table { table: nft::full_name(&ruleset.table), source })
    }

    /// Undoes everything that the journal tells of, and removes the journal. An address or a setting that somebody
    /// else has changed meanwhile is left as it is.
    ///
    /// # Errors
    /// [`HostError::Restore`] with whatever could not be undone; all the rest is, and the journal keeps what is left.
    pub fn restore(mut self) -> Result<(), HostError> {
        let changes: Vec<Change> = self.journal.changes().iter().rev().cloned().collect();
        let left = self.undo(changes.into_iter());
        if left.is_empty() { Ok(()) } else { Err(HostError::Restore(left)) }
    }

    /// Undoes what a former run left behind, without preparing anything: after a crash that no start follows.
    ///
    /// # Errors
    /// As [`Host::restore`], or the journal cannot be read.
    pub fn recover(journal_path: &Path) -> Result<Recovered, HostError> {
        let host = Self { journal: Journal::open(journal_path)? };
        let recovered = Recovered { changes: host.changes().to_vec() };
        host.restore()?;
        Ok(recovered)
    }

    /// What is changed on this host now, and noted in the journal.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        self.journal.changes()
    }

    /// Returns what could not be undone.
    fn undo(&mut self, changes: impl Iterator<Item = Change>) -> Vec<String> {
        let mut left = Vec::new();
        for change in changes {
            if let Err(reason) = undo_one(&change) {
                left.push(reason);
            } else if let Err(error) = self.journal.strike(&change) {
                left.push(error.to_string());
            }
        }
        left
    }
}

fn undo_one(change: &Change) -> Result<(), String> {
    match change {
        Change::Sysctl { path, original, ours } => {
            let current = match path.read() {
                Ok(current) => current,
                // The interface is gone, and its settings with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(format!("cannot read {path}: {error}")),
            };
            if current == *ours {
                path.write(original).map_err(|error| format!("cannot set {path} back to {original}: {error}"))
            } else {
                if current != *original {
                    tracing::info!(sysctl = %path, %current, %ours, "left a setting that was changed by others");
                }
                Ok(())
            }
        }
        Change::Address { address } => addresses::remove_from_loopback(*address)
            .map_err(|error| format!("cannot take {address} off lo: {error}")),
        Change::Table { name } => nft::remove(name)
            .map_err(|error| format!("cannot remove the table {}: {error}", nft::full_name(name))),
    }
}

/// Looks at all addresses; returns them if none of the plan's is on one of the plan's interfaces.
fn look_for_conflicts(plan: &Plan) -> Result<Vec<Address>, HostError> {
    let present = addresses::all()
        .map_err(|source| HostError::Netlink { action: "list the addresses of this host", source })?;
    for interface in &plan.interfaces {
        let link = links::find(&interface.name)?;
        link.ethernet_mac()?;
        for address in plan.interfaces.iter().flat_map(|interface| &interface.addresses) {
            if let Some(found) =
                present.iter().find(|found| found.ifindex == link.index && found.ip == *address)
            {
                return Err(HostError::AddressOnInterface {
                    address: *address,
                    prefix_len: found.prefix_len,
                    interface: interface.name.clone(),
                });
            }
        }
    }
    for found in &present {
        let wanted = plan.interfaces.iter().any(|interface| interface.addresses.contains(&found.ip));
        let ours = found.ifindex == LOOPBACK_IFINDEX && found.prefix_len == host_prefix_len(found.ip);
        if wanted && !ours {
            tracing::info!(
                address = %found.ip,
                prefix_len = found.prefix_len,
                ifindex = found.ifindex,
                "a cluster address is configured on another interface of this host: using it as it is"
            );
        }
    }
    Ok(present)
}
