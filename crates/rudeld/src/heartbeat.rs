//! The heartbeat's sockets: one multicast UDP socket per link.
//!
//! A socket hears and speaks on its one interface only, whatever the routing table says, and goes on doing so when the
//! link goes down and comes up again. Datagrams do not leave the segment (TTL 1), are marked as network control (CS6),
//! and do not come back to the node that sent them: daemons that share a cluster on one machine live in different
//! network namespaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::netdevice::index_to_name;
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};

use crate::advice::advised;
use crate::host::addresses;
use crate::host::links::{self, Link, LinkError};

/// Class selector 6, "network control", in the place where it sits in the TOS byte and the traffic class.
const TRAFFIC_CLASS_CS6: u32 = 48 << 2;

/// `TC_PRIO_CONTROL`: the first band of the usual queueing disciplines. Needs `CAP_NET_ADMIN`.
const PRIORITY_CONTROL: u32 = 7;

/// Class selector 2, above the usual and far below network control.
const TRAFFIC_CLASS_CS2: u32 = 16 << 2;

/// Room for what 32 nodes send in some hundred intervals: a pulse thread that was away for a moment finds all of it.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Room for more than a second of connection state at the highest rate of one node.
const BULK_RECEIVE_BUFFER_BYTES: usize = 16 << 20;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Pulses: small, few, and first in every queue.
    Pulses,
    /// Connection state: it may be much, and must not be in the way of pulses.
    Bulk,
}

/// Why a heartbeat socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The group is not a multicast address, or has no port.
    #[error(
        "{group} cannot be a heartbeat group: it takes a multicast address and a port, such as 239.255.74.40:7440 or [ff02::4a:28]:7440"
    )]
    NotAGroup {
        /// The address that was given.
        group: SocketAddr,
    },
    /// The interface is not there.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An IPv4 group on an interface without an IPv4 address: the kernel would borrow another interface's address as
    /// the source, or send from 0.0.0.0, which receivers throw away.
    #[error(
        "{interface} has no IPv4 address of its own to send heartbeats to {group} from: give it one, or use an IPv6 \
         group such as [ff02::4a:28]:7440, which needs none"
    )]
    NoIpv4Address {
        /// The interface.
        interface: String,
        /// The group.
        group: SocketAddr,
    },
    /// The group cannot be joined.
    #[error("cannot join the heartbeat group {group} on {interface}: {}", joining(*group, source))]
    Join {
        /// The interface.
        interface: String,
        /// The group.
        group: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot open a heartbeat socket for {group} on {interface}: {}", advised(source))]
    Socket {
        /// The interface.
        interface: String,
        /// The group.
        group: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

fn joining(group: SocketAddr, source: &io::Error) -> String {
    match group {
        SocketAddr::V4(_) => advised(source),
        SocketAddr::V6(_) => format!("{source}; is IPv6 switched off there (net.ipv6.conf.*.disable_ipv6)?"),
    }
}

/// Why a datagram was not sent. The socket remains usable, except after [`SendError::Gone`].
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The link is down, or has no usable source address now: none left, or an IPv6 one whose duplicate detection still
    /// runs. It passes by itself.
    #[error("the link cannot send now: {0}")]
    LinkDown(#[source] io::Error),
    /// The interface was deleted. One of the same name is another interface: open a new socket.
    #[error("the interface is gone: {0}")]
    Gone(#[source] io::Error),
    /// The queue is full: this datagram is lost, the next one may go.
    #[error("the link's queue is full: {0}")]
    Busy(#[source] io::Error),
    /// A firewall rule of this host forbids it.
    #[error("a packet filter of this host forbids heartbeats on this link: {0}")]
    Forbidden(#[source] io::Error),
    /// The datagram is longer than the link's MTU allows, and is not to be fragmented.
    #[error("the datagram is too long for this link: {0}")]
    TooLong(#[source] io::Error),
    /// Anything else.
    #[error("cannot send: {0}")]
    Other(#[source] io::Error),
}

impl SendError {
    /// Is it of the kind that passes without anybody's doing something about this node's configuration?
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::LinkDown(_) | Self::Busy(_))
    }
}

impl From<Errno> for SendError {
    fn from(errno: Errno) -> Self {
        let source = io::Error::from(errno);
        match errno {
            Errno::NETDOWN | Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL => {
                Self::LinkDown(source)
            }
            Errno::NODEV | Errno::NXIO => Self::Gone(source),
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR => Self::Busy(source),
            Errno::PERM | Errno::ACCESS => Self::Forbidden(source),
            Errno::MSGSIZE => Self::TooLong(source),
            _ => Self::Other(source),
        }
    }
}

/// A multicast UDP socket on one interface, non-blocking.
#[derive(Debug)]
pub struct Heartbeat {
    socket: Socket,
    group: SocketAddr,
    ifindex: u32,
    interface: String,
}

impl Heartbeat {
    /// Opens a socket on `interface`, in the calling thread's network namespace, and joins `group` there.
    ///
    /// The interface may be down: the membership takes effect when it comes up. For an IPv4 group it needs an IPv4
    /// address of its own; for an IPv6 one its link-local address will do, which may still be coming into being.
    ///
    /// # Errors
    /// [`OpenError`]. All but `NotAGroup` can pass, so trying again later makes sense.
    pub fn open(interface: &str, group: SocketAddr) -> Result<Self, OpenError> {
        Self::open_for(Purpose::Pulses, interface, group)
    }

    /// Opens a socket for bulk data as [`Heartbeat::open`] does one for pulses: with more room, and without precedence.
    ///
    /// # Errors
    /// As [`Heartbeat::open`].
    pub fn open_bulk(interface: &str, group: SocketAddr) -> Result<Self, OpenError> {
        Self::open_for(Purpose::Bulk, interface, group)
    }

    fn open_for(purpose: Purpose, interface: &str, group: SocketAddr) -> Result<Self, OpenError> {
        if !group.ip().is_multicast() || group.port() == 0 {
            return Err(OpenError::NotAGroup { group });
        }
        let link = links::find(interface)?;
        let failed = |source| OpenError::Socket { interface: interface.to_owned(), group, source };
        if group.is_ipv4() && !has_ipv4_address(&link).map_err(failed)? {
            return Err(OpenError::NoIpv4Address { interface: interface.to_owned(), group });
        }
        let group = scoped(group, link.index);
        let socket = configure(purpose, &link, group).map_err(failed)?;
        join(&socket, link.index, group).map_err(|source| OpenError::Join {
            interface: interface.to_owned(),
            group,
            source,
        })?;
        Ok(Self { socket, group, ifindex: link.index, interface: link.name })
    }

    /// A socket that only speaks, connected to the group, for somebody who outlives this process.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn speaker(&self) -> io::Result<OwnedFd> {
        let socket = Socket::new(
            Domain::for_address(self.group),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        socket.bind_device(Some(self.interface.as_bytes()))?;
        speak(Purpose::Pulses, &socket, self.ifindex, self.group)?;
        socket.connect(&SockAddr::from(self.group))?;
        Ok(socket.into())
    }

    /// Multicasts one datagram.
    ///
    /// # Errors
    /// [`SendError`]; none of them ends the socket's life but `Gone`.
    pub fn send(&self, datagram: &[u8]) -> Result<(), SendError> {
        match sendto(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &self.group) {
            Ok(_) => Ok(()),
            // IPv6 says the same of an interface that has no address yet and of one that is no more.
            Err(errno @ Errno::ADDRNOTAVAIL) if index_to_name(&self.socket, self.ifindex).is_err() => {
                Err(SendError::Gone(errno.into()))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes one datagram: its length and who sent it. `None` if there is none now.
    ///
    /// A datagram longer than the buffer is cut, and its length is the buffer's: let the buffer be one byte longer than
    /// the longest datagram allowed.
    ///
    /// # Errors
    /// What the kernel says. A link that goes down is no error here.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        loop {
            match recvfrom(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _, Some(source))) => match SocketAddr::try_from(source) {
                    Ok(source) => return Ok(Some((length, source))),
                    Err(error) => return Err(error.into()),
                },
                Ok((_, _, None)) => return Err(io::ErrorKind::InvalidData.into()),
                Err(Errno::AGAIN) => return Ok(None),
                // The bad news of an earlier datagram, such as a link that went down: told once, then forgotten.
                Err(
                    Errno::INTR
                    | Errno::NETDOWN
                    | Errno::NETUNREACH
                    | Errno::HOSTUNREACH
                    | Errno::CONNREFUSED,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The group and port; for IPv6 with the interface's index as the scope.
    #[must_use]
    pub const fn group(&self) -> SocketAddr {
        self.group
    }

    /// The index of the interface.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The name that the interface was opened by.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }
}

impl AsFd for Heartbeat {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Heartbeat {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn has_ipv4_address(link: &Link) -> io::Result<bool> {
    Ok(addresses::all()?.iter().any(|address| address.ifindex == link.index && address.ip.is_ipv4()))
}

/// Groups of link scope mean nothing without the link.
const fn scoped(group: SocketAddr, ifindex: u32) -> SocketAddr {
    match group {
        SocketAddr::V4(group) => SocketAddr::V4(SocketAddrV4::new(*group.ip(), group.port())),
        SocketAddr::V6(group) => SocketAddr::V6(SocketAddrV6::new(*group.ip(), group.port(), 0, ifindex)),
    }
}

fn configure(purpose: Purpose, link: &Link, group: SocketAddr) -> io::Result<Socket> {
    let receive_buffer_bytes = match purpose {
        Purpose::Pulses => RECEIVE_BUFFER_BYTES,
        Purpose::Bulk => BULK_RECEIVE_BUFFER_BYTES,
    };
    let socket =
        Socket::new(Domain::for_address(group), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Other links' sockets are bound to the same group and port.
    socket.set_reuse_address(true)?;
    // What comes in elsewhere is not for this socket, and what it sends goes out here.
    socket.bind_device(Some(link.name.as_bytes()))?;
    match group {
        // Only the group that this very socket has joined, not the ones that others of this host have.
        SocketAddr::V4(_) => socket.set_multicast_all_v4(false)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_all_v6(false)?;
        }
    }
    speak(purpose, &socket, link.index, group)?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, receive_buffer_bytes).is_err() {
        socket.set_recv_buffer_size(receive_buffer_bytes)?;
    }
    // Bound to the group's address, so that datagrams to the node's own address never get here.
    socket.bind(&SockAddr::from(group))?;
    Ok(socket)
}

/// How datagrams leave.
fn speak(purpose: Purpose, socket: &Socket, ifindex: u32, group: SocketAddr) -> io::Result<()> {
    let traffic_class = match purpose {
        Purpose::Pulses => TRAFFIC_CLASS_CS6,
        Purpose::Bulk => TRAFFIC_CLASS_CS2,
    };
    match group {
        SocketAddr::V4(_) => {
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(1)?;
            socket.set_tos_v4(traffic_class)?;
        }
        SocketAddr::V6(_) => {
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(1)?;
            socket.set_multicast_if_v6(ifindex)?;
            socket.set_tclass_v6(traffic_class)?;
        }
    }
    // After the TOS, which sets a priority too. Both are niceties: without the capability the heart beats as well.
    if purpose == Purpose::Pulses
        && let Err(error) = socket.set_priority(PRIORITY_CONTROL)
    {
        tracing::debug!(%error, "heartbeats are sent without the priority of control traffic");
    }
    Ok(())
}

fn join(socket: &Socket, ifindex: u32, group: SocketAddr) -> io::Result<()> {
    match group.ip() {
        IpAddr::V4(group) => join_v4(socket, ifindex, group),
        IpAddr::V6(group) => socket.join_multicast_v6(&group, ifindex),
    }
}

fn join_v4(socket: &Socket, ifindex: u32, group: Ipv4Addr) -> io::Result<()> {
    socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))
}
