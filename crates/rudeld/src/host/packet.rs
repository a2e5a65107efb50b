//! Packet sockets: whole Ethernet frames of one interface, in and out, and memberships in the NIC's address filter.
//!
//! Whatever they change in the kernel ends with the socket, and so with the process, however that dies.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::mac::MacAddr;

/// A frame's place among the stations, as the kernel saw it when the frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    /// To the NIC's own address.
    Host,
    /// To all.
    Broadcast,
    /// To a group.
    Multicast,
    /// To another station's address, or of a VLAN that is not configured here.
    OtherHost,
    /// Sent by this machine.
    Outgoing,
    /// Something newer than this list.
    Unknown(u8),
}

impl From<u8> for PacketType {
    fn from(value: u8) -> Self {
        match value {
            libc::PACKET_HOST => Self::Host,
            libc::PACKET_BROADCAST => Self::Broadcast,
            libc::PACKET_MULTICAST => Self::Multicast,
            libc::PACKET_OTHERHOST => Self::OtherHost,
            libc::PACKET_OUTGOING => Self::Outgoing,
            other => Self::Unknown(other),
        }
    }
}

/// A raw packet socket (`AF_PACKET`, `SOCK_RAW`), non-blocking.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    /// A socket that receives nothing: to send frames with, or to hold memberships.
    ///
    /// # Errors
    /// What the kernel says; without `CAP_NET_RAW` permission is denied.
    pub fn silent(ifindex: u32) -> io::Result<Self> {
        let socket = Self::unbound()?;
        // Protocol 0: bound to the interface for sending, no receive hook.
        socket.bind(&link_layer_address(ifindex, 0)?)?;
        Ok(Self { socket })
    }

    /// A socket that receives the frames with the EtherType `protocol` on one interface, those that `filter` (classic
    /// BPF over the frame from its Ethernet header) lets through.
    ///
    /// # Errors
    /// What the kernel says; without `CAP_NET_RAW` permission is denied. An interface that is down is no error: frames
    /// arrive once it is up.
    pub fn listening(ifindex: u32, protocol: u16, filter: &[SockFilter]) -> io::Result<Self> {
        let socket = Self::unbound()?;
        // The filter comes before the binding: until then nothing is received, so nothing slips past it.
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&link_layer_address(ifindex, protocol)?)?;
        Ok(Self { socket })
    }

    fn unbound() -> io::Result<Socket> {
        Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(0)))
    }

    /// Makes the NIC accept frames to `mac`, until this socket is closed: one more group in its multicast filter, or one
    /// more unicast address (promiscuous mode where the NIC cannot do better).
    ///
    /// # Errors
    /// What the kernel says; `ENODEV` if the interface is gone.
    pub fn accept_mac(&self, ifindex: u32, mac: MacAddr) -> io::Result<()> {
        let kind = if mac.is_multicast() { libc::PACKET_MR_MULTICAST } else { libc::PACKET_MR_UNICAST };
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac.octets());
        let request = libc::packet_mreq {
            mr_ifindex: index_to_c(ifindex)?,
            mr_type: kind as libc::c_ushort,
            mr_alen: 6,
            mr_address: address,
        };
        // SAFETY: the pointer and the length describe `request`, a plain C structure that outlives the call, and this
        // option only reads it.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                size_of::<libc::packet_mreq>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one whole frame, Ethernet header included, on the interface of the binding.
    ///
    /// # Errors
    /// What the kernel says; `ENETDOWN` while the interface is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(frame)?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Takes one frame: its length (cut to the buffer's) and its type. `None` if there is none now.
    ///
    /// # Errors
    /// What the kernel says; `ENETDOWN` once after the interface went down, whereupon the socket remains usable.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, PacketType)>> {
        let (length, source) = match recvfrom(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((length, _, source)) => (length, source),
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let kind = match source {
            Some(source)
                if source.address_family() == rustix::net::AddressFamily::PACKET
                    && source.addr_len() as usize >= std::mem::offset_of!(libc::sockaddr_ll, sll_addr) =>
            {
                let address = source.as_ptr().cast::<libc::sockaddr_ll>();
                // SAFETY: the kernel filled the storage behind this pointer with a `sockaddr_ll` (the family says so)
                // at least up to the field after `sll_pkttype` (the length says so); the storage is large enough and
                // aligned for every socket address, and the field is a plain byte.
                PacketType::from(unsafe { (&raw const (*address).sll_pkttype).read() })
            }
            _ => PacketType::Unknown(u8::MAX),
        };
        Ok(Some((length, kind)))
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn index_to_c(ifindex: u32) -> io::Result<libc::c_int> {
    libc::c_int::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

fn link_layer_address(ifindex: u32, protocol: u16) -> io::Result<SockAddr> {
    let ifindex = index_to_c(ifindex)?;
    // SAFETY: the storage that the closure gets is zeroed, and large enough and aligned for any socket address; it is
    // made a complete `sockaddr_ll`, whose size is what `length` is set to.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as libc::c_ushort;
            (*address).sll_protocol = protocol.to_be();
            (*address).sll_ifindex = ifindex;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}
