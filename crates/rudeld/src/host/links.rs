//! Network interfaces: what they are now, and a monitor that reports every change.
//!
//! All of it speaks netlink in the network namespace of the calling thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::mac::MacAddr;
use super::netlink::{Netlink, messages};
use crate::advice::advised;

/// The loopback interface has this index in every network namespace (the kernel's `LOOPBACK_IFINDEX`).
pub const LOOPBACK_IFINDEX: u32 = 1;

/// `RTNLGRP_LINK`: appearance, change and disappearance of links.
const GROUP_LINK: u32 = 1;
/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`: addresses that come and go.
const GROUPS_ADDRESS: [u32; 2] = [5, 9];

/// The monitor's receive buffer, in bytes. A burst that does not fit costs a re-reading, not an event.
const MONITOR_BUFFER_BYTES: usize = 1 << 20;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its namespace; a link that is deleted and made anew gets another.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` if it is not an Ethernet-like interface (loopback, tunnels, …).
    pub mac: Option<MacAddr>,
    /// The largest packet, in bytes, Ethernet header not included.
    pub mtu: u32,
    /// The kind of a virtual interface: `veth`, `bridge`, `macvlan`, …; `None` for hardware.
    pub kind: Option<String>,
    /// Has an administrator switched it on?
    pub up: bool,
    /// Is it on, with the cable (or its likeness) connected?
    pub carrier: bool,
}

/// Why a link could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is none of that name.
    #[error("there is no network interface {name:?}: see `ip link`, which lists those that there are")]
    NotFound {
        /// The name that was asked for.
        name: String,
    },
    /// It is there, but has no Ethernet address.
    #[error(
        "network interface {name:?} is not an Ethernet interface: a cluster needs one with a MAC address; name another in [[interface]]"
    )]
    NotEthernet {
        /// The name that was asked for.
        name: String,
    },
    /// The kernel could not be asked.
    #[error("cannot look up network interface {name:?}: {}", advised(source))]
    Netlink {
        /// The name that was asked for.
        name: String,
        /// What netlink said.
        source: io::Error,
    },
}

impl Link {
    /// The Ethernet address.
    ///
    /// # Errors
    /// [`LinkError::NotEthernet`] if it has none.
    pub fn ethernet_mac(&self) -> Result<MacAddr, LinkError> {
        self.mac.ok_or_else(|| LinkError::NotEthernet { name: self.name.clone() })
    }

    /// `None` for messages that do not describe the whole link (wireless events do not).
    fn from_message(message: LinkMessage) -> Option<Self> {
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        let (mut name, mut mac, mut mtu, mut kind) = (None, None, None, None);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = Some(value),
                LinkAttribute::Mtu(value) => mtu = Some(value),
                LinkAttribute::Address(value) if ethernet => mac = MacAddr::try_from(value.as_slice()).ok(),
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            name: name?,
            mac,
            mtu: mtu?,
            kind,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
        })
    }
}

/// The link called `name`.
///
/// # Errors
/// [`LinkError::NotFound`], or [`LinkError::Netlink`] if the kernel could not be asked.
pub fn find(name: &str) -> Result<Link, LinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match get(message) {
        Ok(Some(link)) => Ok(link),
        Ok(None) => Err(LinkError::NotFound { name: name.to_owned() }),
        Err(source) => match source.raw_os_error() {
            // ERANGE and EINVAL: no interface can have such a name (too long, empty).
            Some(libc::ENODEV | libc::ERANGE | libc::EINVAL) => {
                Err(LinkError::NotFound { name: name.to_owned() })
            }
            _ => Err(LinkError::Netlink { name: name.to_owned(), source }),
        },
    }
}

/// The link with an index, if there is one.
///
/// # Errors
/// What netlink says.
pub fn by_index(index: u32) -> io::Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    match get(message) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        other => other,
    }
}

fn get(message: LinkMessage) -> io::Result<Option<Link>> {
    match Netlink::open()?.get(RouteNetlinkMessage::GetLink(message))? {
        Some(RouteNetlinkMessage::NewLink(message)) => Ok(Link::from_message(message)),
        _ => Ok(None),
    }
}

/// All links, by index.
///
/// # Errors
/// What netlink says.
pub fn all() -> io::Result<Vec<Link>> {
    let messages = Netlink::open()?.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Link::from_message(message),
            _ => None,
        })
        .collect())
}

/// Switches a link on. No error if it is on already.
///
/// # Errors
/// What the kernel says.
pub fn bring_up(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Netlink::open()?.change(RouteNetlinkMessage::NewLink(message), 0)
}

/// What happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is there: reported once for each link when the monitor starts, and later for new ones.
    Appeared(Link),
    /// Something that [`Link`] tells is different now.
    Changed {
        /// As it was reported last.
        before: Link,
        /// As it is now.
        after: Link,
    },
    /// It was deleted, or moved to another namespace.
    Disappeared(Link),
    /// Addresses of links have come, changed or gone: [`addresses::all`](super::addresses::all) says what there is now.
    /// Reported once for whatever happens at a time.
    Addresses,
}

/// Reports changes of links and of their addresses from a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts watching the links of the calling thread's network namespace. `sink` is called on the monitor's thread,
    /// first with [`LinkEvent::Appeared`] for every link that there is. It may take its time: while it does, changes
    /// add up, and those that do not fit into the socket's buffer are found by reading the table again, so that the
    /// last state reported is always the true one. It must not block for ever: dropping the monitor waits for it.
    ///
    /// # Errors
    /// What netlink says.
    pub fn start(sink: impl FnMut(LinkEvent) + Send + 'static) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Beyond net.core.rmem_max where allowed, and what is allowed where not.
        let fd = socket.as_fd();
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(fd, MONITOR_BUFFER_BYTES).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(fd, MONITOR_BUFFER_BYTES)?;
        }
        for group in [GROUP_LINK].into_iter().chain(GROUPS_ADDRESS) {
            socket.add_membership(group)?;
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        // After subscribing, so that nothing falls between the first reading and the first message.
        let present = all()?;
        let mut watch = Watch { known: BTreeMap::new(), readdressed: false, sink };
        let thread = std::thread::Builder::new().name("links".into()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                watch.reconcile(present);
                watch.run(&socket, &stop);
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Writing 1 to an eventfd fails only when its counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the link monitor's thread had panicked: report it with what is above");
        }
    }
}

struct Watch<F> {
    known: BTreeMap<u32, Link>,
    /// Addresses have changed, and that is not reported yet.
    readdressed: bool,
    sink: F,
}

impl<F: FnMut(LinkEvent)> Watch<F> {
    fn run(&mut self, socket: &Socket, stop: &OwnedFd) {
        loop {
            let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the link monitor cannot wait for changes and has stopped: a lost carrier is not noticed any more; run `rudel restart`");
                    return;
                }
            }
            if !fds[0].revents().is_empty() {
                return;
            }
            match self.drain(socket) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.recover(socket),
                Err(error) => {
                    tracing::error!(%error, "the link monitor cannot read changes and has stopped: a lost carrier is not noticed any more; run `rudel restart`");
                    return;
                }
            }
            if std::mem::take(&mut self.readdressed) {
                (self.sink)(LinkEvent::Addresses);
            }
        }
    }

    /// Takes in whatever waits in the socket.
    fn drain(&mut self, socket: &Socket) -> io::Result<()> {
        loop {
            match socket.recv_from_full() {
                Ok((datagram, _)) => self.datagram(&datagram),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Messages were lost. The ones still in the buffer are older than the lost ones: throw them away before reading
    /// the table, or they would undo what it says.
    fn recover(&mut self, socket: &Socket) {
        loop {
            match socket.recv_from_full() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        self.readdressed = true;
        tracing::debug!("link changes came faster than they were read: reading all links again");
        match all() {
            Ok(present) => self.reconcile(present),
            Err(error) => {
                tracing::warn!(%error, "cannot read the links again after lost messages: if links have changed since, run `rudel restart`")
            }
        }
    }

    /// Reports whatever is different from what was reported before.
    fn reconcile(&mut self, present: Vec<Link>) {
        let present: BTreeMap<u32, Link> = present.into_iter().map(|link| (link.index, link)).collect();
        let gone: Vec<u32> =
            self.known.keys().filter(|index| !present.contains_key(index)).copied().collect();
        for index in gone {
            self.remove(index);
        }
        for link in present.into_values() {
            self.put(link);
        }
    }

    fn datagram(&mut self, datagram: &[u8]) {
        // One that is cut short is the last; the kernel cuts none.
        for part in messages(datagram).map_while(Result::ok) {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(part).map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)))
                    if message.header.interface_family == AddressFamily::Unspec =>
                {
                    if let Some(link) = Link::from_message(message) {
                        self.put(link);
                    }
                }
                // A bridge announces its ports with a family of its own: their leaving it is not their end.
                Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)))
                    if message.header.interface_family == AddressFamily::Unspec =>
                {
                    self.remove(message.header.index);
                }
                Ok(NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
                )) => self.readdressed = true,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "skipped a netlink message that does not decode"),
            }
        }
    }

    fn put(&mut self, after: Link) {
        let event = match self.known.insert(after.index, after.clone()) {
            Some(before) if before == after => return,
            Some(before) => LinkEvent::Changed { before, after },
            None => LinkEvent::Appeared(after),
        };
        (self.sink)(event);
    }

    fn remove(&mut self, index: u32) {
        if let Some(link) = self.known.remove(&index) {
            (self.sink)(LinkEvent::Disappeared(link));
        }
    }
}
