//! The kernel's table of connections, asked and changed by ctnetlink.
//!
//! Three conversations with the same subsystem, each with a socket of its own: [`Listener`] hears what happens,
//! [`Dump`] reads the whole table piece by piece, [`Writer`] makes, changes and removes entries.
//!
//! What an entry must say so that another kernel carries the connection on was found by trial: the reply tuple with the
//! translation undone and the translation beside it, the status bits, the state of TCP with window checks made liberal.

mod message;
mod socket;

use std::net::IpAddr;

pub use message::{Kind, Message, decode, encode};
pub use socket::{DUMP_CHUNKS_PER_TURN, Dump, Heard, Listener, Writer};

/// ICMP's number (RFC 792).
pub const ICMP: u8 = 1;
/// TCP's number (RFC 9293).
pub const TCP: u8 = 6;
/// UDP's number (RFC 768).
pub const UDP: u8 = 17;
/// SCTP's number (RFC 9260).
pub const SCTP: u8 = 132;
/// DCCP's number (RFC 4340).
pub const DCCP: u8 = 33;
/// GRE's number (RFC 2784); its key stands where others have ports.
pub const GRE: u8 = 47;
/// ICMPv6's number (RFC 4443).
pub const ICMPV6: u8 = 58;
/// UDP-Lite's number (RFC 3828).
pub const UDP_LITE: u8 = 136;

/// `IPS_SEEN_REPLY`: packets went both ways.
pub const SEEN_REPLY: u8 = 1 << 1;
/// `IPS_ASSURED`: the kernel does not drop it early when the table is full.
pub const ASSURED: u8 = 1 << 2;
/// `IPS_CONFIRMED`: it is in the table.
pub const CONFIRMED: u8 = 1 << 3;
/// The bits of the status that one kernel may take over from another.
pub const STATUS_SHARED: u8 = SEEN_REPLY | ASSURED | CONFIRMED;

/// `IP_CT_TCP_FLAG_BE_LIBERAL`: segments outside of the known window are let through.
pub const TCP_LIBERAL: u8 = 1 << 3;
/// The flags of a direction that may be set from outside (`IP_CT_TCP_FLAG_WINDOW_SCALE` to `_BE_LIBERAL`).
pub const TCP_FLAGS: u8 = 0x0f;

/// One direction of a connection, as the kernel tells connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, or GRE's key; for ICMP type and code; 0 for protocols without ports.
    pub src_port: u16,
    /// Destination port, or GRE's key; for ICMP the identifier; 0 for protocols without ports.
    pub dst_port: u16,
}

impl Tuple {
    /// Whether it is of ICMP or ICMPv6.
    pub const fn is_icmp(&self) -> bool {
        matches!((self.protocol, self.src), (ICMP, IpAddr::V4(_)) | (ICMPV6, IpAddr::V6(_)))
    }

    /// Whether ctnetlink tells ports of this protocol.
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | UDP_LITE | GRE | SCTP | DCCP)
    }

    /// The answer's tuple where nothing is translated. None for ICMP messages that nobody answers.
    pub fn inverse(&self) -> Option<Tuple> {
        let (src_port, dst_port) = if self.is_icmp() {
            let [kind, code] = self.src_port.to_be_bytes();
            let answer = match (self.protocol, kind) {
                (ICMP, 8) => 0,
                (ICMP, 0) => 8,
                (ICMP, 13) => 14,
                (ICMP, 14) => 13,
                (ICMPV6, 128) => 129,
                (ICMPV6, 129) => 128,
                _ => return None,
            };
            (u16::from_be_bytes([answer, code]), self.dst_port)
        } else {
            (self.dst_port, self.src_port)
        };
        Some(Tuple { src: self.dst, dst: self.src, protocol: self.protocol, src_port, dst_port })
    }
}

/// What the kernel knows of a TCP connection and tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// `enum tcp_conntrack`, see [`TcpState`]. In an [`Write::Update`], 0 leaves state and scales as they are.
    pub state: u8,
    /// Window scale of the original direction (low half) and of the reply (high half); at most 14 each (RFC 7323 2.3).
    pub scales: u8,
    /// Flags of the original direction and of the reply.
    pub flags: [u8; 2],
}

/// States of a TCP connection in the kernel's table (`enum tcp_conntrack`), as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpState {
    /// A SYN, not yet answered: the client will repeat it.
    SynSent = 1,
    /// Answered.
    SynReceived = 2,
    /// Both ends have spoken.
    Established = 3,
    /// Over, kept for late segments.
    TimeWait = 7,
    /// Over by a reset.
    Close = 8,
    /// Both ends sent a SYN.
    SynSent2 = 9,
}

/// A connection as the kernel's table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The direction of the first packet, as it came in.
    pub orig: Tuple,
    /// The other one, as its packets come in: it differs from the inverse where addresses are translated.
    pub reply: Tuple,
    /// `enum ip_conntrack_status`, the lowest eight bits.
    pub status: u8,
    /// Seconds until it is forgotten, if nothing comes.
    pub timeout_s: u32,
    /// The administrator's mark.
    pub mark: u32,
    /// The conntrack zone; 0 is the usual one.
    pub zone: u16,
    /// For TCP. Not in every event.
    pub tcp: Option<Tcp>,
}

impl Entry {
    /// The source address and port that the original direction is given, if it is translated. For ICMP the identifier.
    pub fn source_nat(&self) -> Option<(IpAddr, u16)> {
        let plain = self.orig.inverse()?;
        ((self.reply.dst, self.reply.dst_port) != (plain.dst, plain.dst_port))
            .then_some((self.reply.dst, self.reply.dst_port))
    }

    /// The destination address and port that the original direction is given, if it is translated.
    pub fn destination_nat(&self) -> Option<(IpAddr, u16)> {
        let plain = self.orig.inverse()?;
        // ICMP has type and code there, and its identifier is told once, as the source's.
        let port_differs = !self.orig.is_icmp() && self.reply.src_port != plain.src_port;
        (self.reply.src != plain.src || port_differs).then_some((self.reply.src, self.reply.src_port))
    }
}

/// A change of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Make this entry, with its translation.
    Create(Entry),
    /// Change the entry of `orig`: its translation cannot be changed.
    Update {
        /// Which entry.
        orig: Tuple,
        /// Status bits to be set; none is ever cleared.
        status: u8,
        /// Seconds until it is forgotten, if nothing comes.
        timeout_s: u32,
        /// The administrator's mark, if it is to be changed.
        mark: Option<u32>,
        /// State and flags of TCP, if they are to be changed.
        tcp: Option<Tcp>,
    },
    /// Remove the entry.
    Delete(Tuple),
}

impl Write {
    /// The entry that is meant.
    pub fn orig(&self) -> &Tuple {
        match self {
            Write::Create(entry) => &entry.orig,
            Write::Update { orig, .. } | Write::Delete(orig) => orig,
        }
    }
}
