//! The NIC made to accept the cluster's frames, by memberships that end with the process.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::mac::{MacAddr, solicited_node_group};
use super::packet::PacketSocket;
use crate::advice::advised;

/// Which membership could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The NIC's address filter.
    #[error("cannot make the interface accept frames to {mac}: {}", advised(source))]
    ClusterMac {
        /// The cluster's MAC address.
        mac: MacAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The IPv4 group that belongs to the cluster's MAC.
    #[error("cannot join the group {group} of the cluster's MAC on the interface: {}", advised(source))]
    IgmpGroup {
        /// The group.
        group: Ipv4Addr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The group to which neighbour solicitations for a cluster address go.
    #[error(
        "cannot join {group}, where neighbour solicitations for {address} arrive, on the interface: {source}; is IPv6 \
         switched off there (net.ipv6.conf.*.disable_ipv6)?"
    )]
    SolicitedNode {
        /// The cluster's address.
        address: Ipv6Addr,
        /// Its group.
        group: Ipv6Addr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The memberships of one interface, until it is dropped.
///
/// They outlast the link's going down and up, but not its deletion: for a link with a new index join again.
#[derive(Debug)]
pub struct Membership {
    // Never read: they hold what they have joined.
    _mac: PacketSocket,
    _igmp: Option<Socket>,
    _solicited: Option<Socket>,
}

impl Membership {
    /// Makes the interface accept
    /// - frames to the cluster's MAC, whichever form it has;
    /// - and for a MAC of the form `01:00:5e:7f:xx:yy` tells snooping switches so, by joining `239.255.xx.yy`;
    /// - neighbour solicitations for the IPv6 addresses among the cluster's: on `lo` they join no group of this link.
    ///
    /// # Errors
    /// The first membership that could not be had; then none is held.
    pub fn join(ifindex: u32, cluster_mac: MacAddr, addresses: &[Ipv6Addr]) -> Result<Self, MembershipError> {
        let accept = || {
            let socket = PacketSocket::silent(ifindex)?;
            socket.accept_mac(ifindex, cluster_mac)?;
            Ok(socket)
        };
        let mac = accept().map_err(|source| MembershipError::ClusterMac { mac: cluster_mac, source })?;

        let igmp = match cluster_mac.igmp_group() {
            Some(group) => Some(
                join_igmp(ifindex, group).map_err(|source| MembershipError::IgmpGroup { group, source })?,
            ),
            None => None,
        };

        let mut solicited = None;
        let mut joined = BTreeSet::new();
        for &address in addresses {
            let group = solicited_node_group(address);
            // Addresses with the same low 24 bits share a group, and a socket joins it once.
            if !joined.insert(group) {
                continue;
            }
            join_solicited(&mut solicited, ifindex, group)
                .map_err(|source| MembershipError::SolicitedNode { address, group, source })?;
        }
        Ok(Self { _mac: mac, _igmp: igmp, _solicited: solicited })
    }
}

fn join_igmp(ifindex: u32, group: Ipv4Addr) -> io::Result<Socket> {
    let socket = datagram_socket(Domain::IPV4)?;
    socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))?;
    Ok(socket)
}

fn join_solicited(socket: &mut Option<Socket>, ifindex: u32, group: Ipv6Addr) -> io::Result<()> {
    let socket = match socket {
        Some(socket) => socket,
        None => socket.insert(datagram_socket(Domain::IPV6)?),
    };
    socket.join_multicast_v6(&group, ifindex)
}

/// Unbound, so that nothing is ever received by it.
fn datagram_socket(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::DGRAM.cloexec(), Some(Protocol::UDP))
}
