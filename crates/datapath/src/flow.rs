//! From a flow to its bucket: the same hash as in the packet filter and in nftables, for everybody who has to know
//! which node a flow belongs to without asking a kernel.
//!
//! The key is laid out as nftables lays out a concatenation: each field as in the packet, zero-padded behind to a
//! multiple of four bytes.
//!
//! | mode | with ports | without |
//! |---|---|---|
//! | `source-ip` | address | address |
//! | `source-ip-port` | address, own port, 00 00 | address |
//! | `source-ip-port-dest-port` | address, own port, 00 00, peer's port, 00 00 | address |
//! | `source-net` | address with all but the first 24 bits (IPv6: 64) zero | the same |
//! | `none` | no key, bucket 0 | no key, bucket 0 |
//!
//! "Source" is the flow's own end: the packet's source where the side is [`Side::Service`] or [`Side::Inside`], its
//! destination where it is [`Side::Outside`], so that the packets of both directions through a router have one key.
//! "Without ports" are fragments, the first one included, and all protocols but TCP, UDP, UDP-Lite, SCTP, DCCP and
//! ICMP echo, whose identifier stands for both ports. An ICMP error belongs to the flow of the packet that it encloses,
//! which went the other way: reverse that packet ([`Flow::reversed`]).

use std::{fmt, net::IpAddr, str::FromStr};

/// What of a flow is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HashMode {
    /// The address: all of a client's flows meet at one node.
    SourceIp = 0,
    /// Address and port: the flows of one client are spread.
    #[default]
    SourceIpPort = 1,
    /// Address, port and the peer's port.
    SourceIpPortDestPort = 2,
    /// The /24 (IPv6: /64) of the address: for clients behind a farm of proxies.
    SourceNet = 3,
    /// Nothing: all traffic is bucket 0, an active/standby address.
    None = 4,
}

impl HashMode {
    /// All modes.
    pub const ALL: [Self; 5] =
        [Self::SourceIp, Self::SourceIpPort, Self::SourceIpPortDestPort, Self::SourceNet, Self::None];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceIp => "source-ip",
            Self::SourceIpPort => "source-ip-port",
            Self::SourceIpPortDestPort => "source-ip-port-dest-port",
            Self::SourceNet => "source-net",
            Self::None => "none",
        }
    }
}

/// Which end of a packet is the flow's own, that is, is hashed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The source: clients talk to the cluster's own addresses.
    #[default]
    Service = 0,
    /// The source: a host inside sends through the cluster.
    Inside = 1,
    /// The destination: the same host inside, seen from the other side.
    Outside = 2,
}

impl Side {
    /// All sides.
    pub const ALL: [Self; 3] = [Self::Service, Self::Inside, Self::Outside];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Inside => "inside",
            Self::Outside => "outside",
        }
    }
}

/// A word that names no [`HashMode`] or no [`Side`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not one of {allowed}")]
pub struct UnknownWord {
    word: String,
    allowed: String,
}

macro_rules! spelled_by_name {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                Self::ALL.into_iter().find(|known| known.name() == word).ok_or_else(|| UnknownWord {
                    word: word.into(),
                    allowed: Self::ALL.map(|known| format!("`{known}`")).join(", "),
                })
            }
        }
    };
}
spelled_by_name!(HashMode);
spelled_by_name!(Side);

/// One direction of a flow, as its packets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP protocol number. It is no part of any key; it stands here to tell flows apart.
    pub protocol: u8,
    /// Source address.
    pub src: IpAddr,
    /// Source port, or the identifier of an ICMP echo. None for fragments and for protocols without ports.
    pub src_port: Option<u16>,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port, or the identifier of an ICMP echo. Some exactly if `src_port` is.
    pub dst_port: Option<u16>,
}

impl Flow {
    /// A flow of a protocol with ports.
    pub const fn with_ports(protocol: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        Self { protocol, src: src.0, src_port: Some(src.1), dst: dst.0, dst_port: Some(dst.1) }
    }

    /// An ICMP or ICMPv6 echo; request and reply have the same identifier.
    pub const fn echo(protocol: u8, src: IpAddr, dst: IpAddr, id: u16) -> Self {
        Self { protocol, src, src_port: Some(id), dst, dst_port: Some(id) }
    }

    /// A flow of fragments, or of a protocol without ports.
    pub const fn without_ports(protocol: u8, src: IpAddr, dst: IpAddr) -> Self {
        Self { protocol, src, src_port: None, dst, dst_port: None }
    }

    /// The other direction.
    pub const fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            src_port: self.dst_port,
            dst: self.src,
            dst_port: self.src_port,
        }
    }

    /// What is hashed.
    pub fn key(&self, mode: HashMode, side: Side) -> FlowKey {
        let seen = match side {
            Side::Service | Side::Inside => *self,
            Side::Outside => self.reversed(),
        };
        let ports = seen.src_port.zip(seen.dst_port);

        let mut key = FlowKey::EMPTY;
        match (mode, seen.src) {
            (HashMode::None, _) => {}
            (HashMode::SourceNet, IpAddr::V4(address)) => {
                let [a, b, c, _] = address.octets();
                key.push(&[a, b, c, 0]);
            }
            (HashMode::SourceNet, IpAddr::V6(address)) => {
                key.push(&address.octets()[..8]);
                key.push(&[0; 8]);
            }
            (_, IpAddr::V4(address)) => key.push(&address.octets()),
            (_, IpAddr::V6(address)) => key.push(&address.octets()),
        }
        match (mode, ports) {
            (HashMode::SourceIpPort, Some((own, _))) => key.push_port(own),
            (HashMode::SourceIpPortDestPort, Some((own, peer))) => {
                key.push_port(own);
                key.push_port(peer);
            }
            _ => {}
        }
        key
    }
}

/// The bytes that are hashed. Empty in mode `none`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    data: [u8; Self::BYTES_MAX],
    bytes: u8,
}

impl FlowKey {
    /// Of an IPv6 address and two ports.
    pub const BYTES_MAX: usize = 24;

    const EMPTY: Self = Self { data: [0; Self::BYTES_MAX], bytes: 0 };

    fn push(&mut self, field: &[u8]) {
        self.data[self.bytes as usize..][..field.len()].copy_from_slice(field);
        self.bytes += field.len() as u8;
    }

    fn push_port(&mut self, port: u16) {
        let [high, low] = port.to_be_bytes();
        self.push(&[high, low, 0, 0]);
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data[..self.bytes as usize]
    }

    /// The bucket of this key: the top eight bits of its hash, 0 for the empty key.
    pub fn bucket(&self, seed: u32) -> u8 {
        if self.bytes == 0 {
            return 0;
        }
        (jhash(self.as_bytes(), seed) >> 24) as u8
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlowKey(")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// The bucket of a flow: what the packet filter computes for its packets on an interface of this side.
pub fn bucket(flow: &Flow, mode: HashMode, side: Side, seed: u32) -> u8 {
    flow.key(mode, side).bucket(seed)
}

/// The kernel's `jhash`: Bob Jenkins' lookup3 with the length in its initial value, words read little-endian.
pub fn jhash(key: &[u8], seed: u32) -> u32 {
    let word = |bytes: &[u8]| {
        let mut padded = [0; 4];
        padded[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(padded)
    };
    let initial = 0xdead_beef_u32.wrapping_add(key.len() as u32).wrapping_add(seed);
    let (mut a, mut b, mut c) = (initial, initial, initial);

    let mut rest = key;
    while rest.len() > 12 {
        let (block, behind) = rest.split_at(12);
        a = a.wrapping_add(word(&block[..4]));
        b = b.wrapping_add(word(&block[4..8]));
        c = c.wrapping_add(word(&block[8..]));

        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        rest = behind;
    }
    if rest.is_empty() {
        return c;
    }

    let mut words = rest.chunks(4).map(word);
    a = a.wrapping_add(words.next().unwrap_or(0));
    b = b.wrapping_add(words.next().unwrap_or(0));
    c = c.wrapping_add(words.next().unwrap_or(0));

    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_routed_flow_has_one_bucket_in_both_directions() {
        for (src, dst) in [("10.1.2.3", "192.0.2.80"), ("2001:db8::7", "2001:db8:ffff::53")] {
            let there = Flow::with_ports(6, (address(src), 40_000), (address(dst), 443));
            for mode in HashMode::ALL {
                let inside = there.key(mode, Side::Inside);
                assert_eq!(inside, there.reversed().key(mode, Side::Outside), "{mode}");
                assert_eq!(inside, there.key(mode, Side::Service), "{mode}");
            }
        }
    }

    #[test]
    fn words_of_the_configuration() {
        assert_eq!("source-ip-port".parse(), Ok(HashMode::SourceIpPort));
        assert_eq!("outside".parse(), Ok(Side::Outside));
        let refused = "source".parse::<Side>().expect_err("no such side");
        assert_eq!(refused.to_string(), "`source` is not one of `service`, `inside`, `outside`");
    }

    #[test]
    fn none_is_bucket_zero_whatever_the_seed() {
        let flow = Flow::without_ports(47, address("10.0.0.1"), address("10.0.0.2"));
        assert_eq!(bucket(&flow, HashMode::None, Side::Service, 0xffff_ffff), 0);
        assert!(flow.key(HashMode::None, Side::Service).as_bytes().is_empty());
    }
}
