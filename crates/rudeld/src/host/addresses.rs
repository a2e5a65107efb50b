//! The cluster's addresses on the loopback interface.
//!
//! They sit on `lo`, as /32 and /128, because there the kernel answers for them to local programs and to nobody else:
//! on the NIC it would tell clients the NIC's own MAC. A cluster address is for being addressed, never for calling
//! others: a connection that this node opens from it would be answered to whichever node owns the flow. So
//!
//! - an IPv4 address gets scope `host`. Source selection never picks it for a packet that leaves the machine; programs
//!   that bind to it, and answers from it, work as ever (the local route does not depend on the scope);
//! - an IPv6 address gets no preferred lifetime (`deprecated`) and stays valid for ever. Source selection (RFC 6724)
//!   then picks it only where no other address of fitting scope is there; binding and answering are not concerned.
//!   Duplicate detection is off (`nodad`): the address is on every node, and on `lo` nobody would hear it.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::{LOOPBACK_IFINDEX, bring_up, by_index};
use super::netlink::Netlink;

/// A lifetime without end, as the kernel writes it.
const FOREVER: u32 = u32::MAX;

/// An address of an interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address itself.
    pub ip: IpAddr,
    /// The length of its subnet's prefix, in bits.
    pub prefix_len: u8,
    /// The interface that has it.
    pub ifindex: u32,
    /// Its scope: 0 global, 253 link, 254 host (`RT_SCOPE_*`).
    pub scope: u8,
    /// Not to be chosen as a source.
    pub deprecated: bool,
    /// Not usable yet: duplicate detection still runs, or has found another.
    pub tentative: bool,
}

impl Address {
    fn from_message(message: AddressMessage) -> Option<Self> {
        let (mut local, mut address, mut flags) = (None, None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(ip),
                AddressAttribute::Address(ip) => address = Some(ip),
                AddressAttribute::Flags(value) => flags = Some(value),
                _ => {}
            }
        }
        let flags = flags.unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()));
        Some(Self {
            // On a point-to-point interface IFA_ADDRESS is the other end.
            ip: local.or(address)?,
            prefix_len: message.header.prefix_len,
            ifindex: message.header.index,
            scope: message.header.scope.into(),
            deprecated: flags.contains(AddressFlags::Deprecated),
            tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        })
    }
}

/// All addresses of all interfaces in the calling thread's network namespace.
///
/// # Errors
/// What netlink says.
pub fn all() -> io::Result<Vec<Address>> {
    let messages = Netlink::open()?.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => Address::from_message(message),
            _ => None,
        })
        .collect())
}

/// Switches `lo` on if it is off, as it is in a fresh namespace. It is left on at the end.
///
/// # Errors
/// What netlink says.
pub fn bring_up_loopback() -> io::Result<()> {
    match by_index(LOOPBACK_IFINDEX)? {
        Some(lo) if !lo.up => bring_up(LOOPBACK_IFINDEX),
        _ => Ok(()),
    }
}

/// What [`add_to_loopback`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was not there, and is now.
    Now,
    /// It was there with the same prefix length.
    AlreadyThere,
}

/// Puts a cluster address on `lo`, alone in its subnet.
///
/// # Errors
/// What the kernel says; IPv6 switched off on `lo` is `EACCES` or `EOPNOTSUPP`.
pub fn add_to_loopback(ip: IpAddr) -> io::Result<Added> {
    let mut message = loopback_message(ip);
    match ip {
        IpAddr::V4(_) => message.header.scope = AddressScope::Host,
        IpAddr::V6(_) => {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = FOREVER;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
    }
    match Netlink::open()?.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(Added::Now),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Added::AlreadyThere),
        Err(error) => Err(error),
    }
}

/// Takes a cluster address off `lo` again. No error if it is not there.
///
/// # Errors
/// What the kernel says.
pub fn remove_from_loopback(ip: IpAddr) -> io::Result<()> {
    match Netlink::open()?.change(RouteNetlinkMessage::DelAddress(loopback_message(ip)), 0) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

/// The prefix length of an address that is alone in its subnet.
pub(super) const fn host_prefix_len(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn loopback_message(ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = host_prefix_len(ip);
    message.header.index = LOOPBACK_IFINDEX;
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    message
}
