//! What a router's filter knows of the addresses around it, and so which end of a packet is its flow's own: both
//! directions of a flow through the cluster must have one bucket, on whichever interfaces they come in, and no node has
//! anything but the packet to tell by. `bpf/router.h` says the same in C.
//!
//! The first line that fits decides:
//!
//! | packet | own end |
//! |---|---|
//! | to either end of a static destination NAT | the source: a client, as at a service of the cluster's own; the peer's port counts as 0 |
//! | from the inner end of one | the destination: the same client; the peer's port counts as 0 |
//! | to an address that source NAT translates onto, TCP, UDP or echo, port or identifier from 1024 on | none: the port's block is the bucket |
//! | to one of the cluster's addresses otherwise | the source |
//! | in from outside | the destination |
//! | in from inside, to an inside network, if there are several | the lower of the two addresses |
//! | in from inside, from a translated network, any protocol without translated ports | the destination, without ports |
//! | in from inside | the source |
//!
//! A packet inside an ICMP error is read backwards first.

use std::net::IpAddr;

use crate::flow::{Flow, HashMode, Side};

/// The first port that source NAT gives out: what lies below is left to services of the cluster itself.
pub const BLOCK_FIRST_PORT: u16 = 1024;
/// Ports of one block. Block b belongs to bucket b, and the 256 blocks are all ports from [`BLOCK_FIRST_PORT`] on.
pub const BLOCK_PORTS: u16 = 252;
const _: () = assert!(BLOCK_FIRST_PORT as u32 + 256 * BLOCK_PORTS as u32 == 65536);

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The bucket whose flows source NAT gives this port to; none below [`BLOCK_FIRST_PORT`].
pub const fn block_of(port: u16) -> Option<u8> {
    match port.checked_sub(BLOCK_FIRST_PORT) {
        Some(above) => Some((above / BLOCK_PORTS) as u8),
        None => None,
    }
}

/// The ports of a bucket's block, first and last.
pub const fn block(bucket: u8) -> (u16, u16) {
    let first = BLOCK_FIRST_PORT + bucket as u16 * BLOCK_PORTS;
    (first, first + (BLOCK_PORTS - 1))
}

/// An IP network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Its first address, or any other: the bits behind the prefix do not matter.
    pub address: IpAddr,
    /// How many bits all its addresses have in common; at most 32 or 128.
    pub prefix_len: u8,
}

impl Network {
    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && (mapped(self.address) ^ mapped(address)).checked_shr(128 - self.mapped_len()).unwrap_or(0) == 0
    }

    /// Whether all of another network lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix_len <= other.prefix_len && self.contains(other.address)
    }

    /// The length of the prefix as one of IPv6.
    pub(crate) fn mapped_len(&self) -> u32 {
        u32::from(self.prefix_len) + if self.address.is_ipv4() { 96 } else { 0 }
    }
}

/// An address as the filter keeps it: IPv4 in its mapped form.
pub(crate) fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
    .to_bits()
}

/// One static destination NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// IP protocol number, of one with ports.
    pub protocol: u8,
    /// Where clients send to.
    pub outer: (IpAddr, u16),
    /// Who serves them.
    pub inner: (IpAddr, u16),
}

/// What a router's filter knows of the addresses around it; the same on every node and for every interface. Interfaces
/// of [`Side::Service`] have no use for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Border {
    /// The cluster's addresses, of all interfaces.
    pub own: Vec<IpAddr>,
    /// The addresses that source NAT translates onto; of those that are the cluster's own besides, too.
    pub translated: Vec<IpAddr>,
    /// Whose flows source NAT translates.
    pub sources: Vec<Network>,
    /// The networks behind inside interfaces. With fewer than two of a family, nothing is routed between them.
    pub inside: Vec<Network>,
    /// Static destination NAT.
    pub forwards: Vec<Forward>,
}

/// Where a packet's flow belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the bucket of this flow, whose own end is the source.
    Own(Flow),
    /// To this bucket, because of its translated port.
    Block(u8),
}

impl Border {
    /// Whether there are several inside networks of a family, between which flows may be routed.
    pub fn is_meshed(&self) -> bool {
        let (v4, v6): (Vec<&Network>, _) = self.inside.iter().partition(|network| network.address.is_ipv4());
        v4.len() > 1 || v6.len() > 1
    }

    /// Where a packet belongs that comes in on an interface of this side. A packet inside an ICMP error has to be
    /// [reversed](Flow::reversed) before.
    pub fn place(&self, flow: &Flow, side: Side) -> Place {
        if side == Side::Service {
            return Place::Own(*flow);
        }
        let end = |address, port: Option<u16>| port.map(|port| (flow.protocol, (address, port)));
        let (from, to) = (end(flow.src, flow.src_port), end(flow.dst, flow.dst_port));
        let serves = |end, inner_only: bool| {
            self.forwards.iter().any(|forward| {
                let is = |of| end == Some((forward.protocol, of));
                is(forward.inner) || (!inner_only && is(forward.outer))
            })
        };
        // The service has one port outside and another inside, which no key may tell apart.
        let at_service = |flow: Flow| Flow { dst_port: Some(0), ..flow };
        if serves(to, false) {
            return Place::Own(at_service(*flow));
        }
        if serves(from, true) {
            return Place::Own(at_service(flow.reversed()));
        }

        let has_blocks = matches!(flow.protocol, TCP | UDP | ICMP | ICMPV6) && flow.dst_port.is_some();
        let bare = |flow: Flow| Flow { src_port: None, dst_port: None, ..flow };
        if self.translated.contains(&flow.dst) {
            return match flow.dst_port.filter(|_| has_blocks) {
                Some(port) => block_of(port).map_or(Place::Own(*flow), Place::Block),
                None => Place::Own(bare(*flow)),
            };
        }
        if self.own.contains(&flow.dst) {
            return Place::Own(*flow);
        }
        if side == Side::Outside {
            return Place::Own(flow.reversed());
        }
        let lies_in =
            |networks: &[Network], address| networks.iter().any(|network| network.contains(address));
        if self.is_meshed() && lies_in(&self.inside, flow.dst) {
            return Place::Own(if flow.dst < flow.src { flow.reversed() } else { *flow });
        }
        if !self.translated.is_empty() && !has_blocks && lies_in(&self.sources, flow.src) {
            return Place::Own(bare(flow.reversed()));
        }
        Place::Own(*flow)
    }

    /// The bucket of a packet that comes in on an interface of this side: what the filter computes there.
    pub fn bucket(&self, flow: &Flow, mode: HashMode, side: Side, seed: u32) -> u8 {
        match self.place(flow, side) {
            Place::Block(bucket) if mode != HashMode::None => bucket,
            Place::Block(_) => 0,
            Place::Own(flow) => flow.key(mode, Side::Service).bucket(seed),
        }
    }

    /// The ports that source NAT may give to the flows of a bucket: its block, or as much of it in one piece as static
    /// destination NAT leaves free on this address. None if it leaves nothing.
    pub fn free_ports(&self, bucket: u8, address: IpAddr) -> Option<(u16, u16)> {
        let (first, last) = block(bucket);
        let mut taken: Vec<u16> = self
            .forwards
            .iter()
            .filter(|forward| forward.outer.0 == address)
            .map(|forward| forward.outer.1)
            .filter(|port| (first..=last).contains(port))
            .collect();
        taken.sort_unstable();
        let mut best: Option<(u16, u16)> = None;
        let mut from = u32::from(first);
        for to in taken.into_iter().map(u32::from).chain([u32::from(last) + 1]) {
            if to > from && best.is_none_or(|(low, high)| to - from > u32::from(high - low) + 1) {
                best = Some((from as u16, (to - 1) as u16));
            }
            from = to + 1;
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> Network {
        let (address, prefix_len) = text.split_once('/').unwrap();
        Network { address: ip(address), prefix_len: prefix_len.parse().unwrap() }
    }

    fn tcp(src: &str, dst: &str) -> Flow {
        let end = |text: &str| {
            let end: std::net::SocketAddr = text.parse().unwrap();
            (end.ip(), end.port())
        };
        Flow::with_ports(TCP, end(src), end(dst))
    }

    fn border() -> Border {
        Border {
            own: vec![ip("10.0.0.1"), ip("10.1.0.1"), ip("198.51.100.10")],
            translated: vec![ip("198.51.100.10")],
            sources: vec![net("10.0.0.0/8")],
            inside: vec![net("10.0.0.0/16"), net("10.1.0.0/16")],
            forwards: vec![Forward {
                protocol: TCP,
                outer: (ip("198.51.100.10"), 443),
                inner: (ip("10.1.0.5"), 8443),
            }],
        }
    }

    const SEED: u32 = 12_345;

    #[test]
    fn the_blocks_are_all_ports_from_1024_on() {
        assert_eq!(block_of(1023), None);
        assert_eq!((block_of(1024), block_of(1275), block_of(1276)), (Some(0), Some(0), Some(1)));
        assert_eq!(block_of(65535), Some(255));
        for bucket in 0..=255 {
            let (first, last) = block(bucket);
            assert_eq!((block_of(first), block_of(last)), (Some(bucket), Some(bucket)));
            assert_eq!(last - first + 1, BLOCK_PORTS);
        }
    }

    #[test]
    fn networks_contain_what_they_should() {
        assert!(net("10.0.0.0/8").contains(ip("10.255.0.1")) && !net("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(net("0.0.0.0/0").contains(ip("1.2.3.4")) && !net("0.0.0.0/0").contains(ip("::1")));
        assert!(net("::/0").contains(ip("2001:db8::1")));
        assert!(net("fd00::/8").covers(&net("fd01::/64")) && !net("fd01::/64").covers(&net("fd00::/8")));
        assert_eq!(mapped(ip("10.0.0.1")), mapped(ip("::ffff:10.0.0.1")));
    }

    /// Both directions of every kind of flow, each as the interface that it comes in on sees it.
    #[test]
    fn both_directions_of_a_flow_have_one_bucket() {
        let border = border();
        let gre = |src: &str, dst: &str| Flow::without_ports(47, ip(src), ip(dst));
        let echo = |src: &str, dst: &str, id| Flow::echo(ICMP, ip(src), ip(dst), id);
        // What goes one way, the side it comes in on, what comes back, and its side.
        let plain = Border { translated: vec![], ..border.clone() };
        let cases = [
            (
                &plain,
                tcp("10.0.0.7:40000", "8.8.8.8:53"),
                Side::Inside,
                tcp("8.8.8.8:53", "10.0.0.7:40000"),
                Side::Outside,
            ),
            (&plain, gre("10.0.0.7", "8.8.8.8"), Side::Inside, gre("8.8.8.8", "10.0.0.7"), Side::Outside),
            (
                &plain,
                echo("10.0.0.7", "8.8.8.8", 7),
                Side::Inside,
                echo("8.8.8.8", "10.0.0.7", 7),
                Side::Outside,
            ),
            (
                &border,
                tcp("10.0.0.7:40000", "10.1.0.9:22"),
                Side::Inside,
                tcp("10.1.0.9:22", "10.0.0.7:40000"),
                Side::Inside,
            ),
            (
                &border,
                gre("10.0.0.7", "8.8.8.8"),
                Side::Inside,
                gre("8.8.8.8", "198.51.100.10"),
                Side::Outside,
            ),
            (
                &border,
                tcp("8.8.8.8:5000", "198.51.100.10:443"),
                Side::Outside,
                tcp("10.1.0.5:8443", "8.8.8.8:5000"),
                Side::Inside,
            ),
            (
                &border,
                tcp("10.0.0.7:5000", "198.51.100.10:443"),
                Side::Inside,
                tcp("10.1.0.5:8443", "10.0.0.7:5000"),
                Side::Inside,
            ),
            (
                &border,
                tcp("10.0.0.7:5000", "10.1.0.5:8443"),
                Side::Inside,
                tcp("10.1.0.5:8443", "10.0.0.7:5000"),
                Side::Inside,
            ),
        ];
        for (border, there, in_on, back, back_on) in cases {
            for mode in HashMode::ALL {
                let (one, other) =
                    (border.bucket(&there, mode, in_on, SEED), border.bucket(&back, mode, back_on, SEED));
                assert_eq!(one, other, "{there:?} and {back:?}, {mode}");
            }
        }
    }

    #[test]
    fn a_translated_port_is_its_bucket() {
        let border = border();
        for port in [1024, 1275, 8080, 65535] {
            let answer = tcp("8.8.8.8:53", &format!("198.51.100.10:{port}"));
            assert_eq!(border.place(&answer, Side::Outside), Place::Block(block_of(port).unwrap()));
            assert_eq!(border.bucket(&answer, HashMode::None, Side::Outside, SEED), 0);
        }
        let ssh = tcp("8.8.8.8:5000", "198.51.100.10:22");
        assert_eq!(border.place(&ssh, Side::Outside), Place::Own(ssh));
    }

    #[test]
    fn forwards_take_their_ports_out_of_the_blocks() {
        let address = ip("198.51.100.10");
        let at = |ports: &[u16]| Border {
            forwards: ports
                .iter()
                .map(|port| Forward { protocol: TCP, outer: (address, *port), inner: (ip("10.1.0.5"), 80) })
                .collect(),
            ..border()
        };
        assert_eq!(at(&[]).free_ports(0, address), Some((1024, 1275)));
        assert_eq!(at(&[1024]).free_ports(0, address), Some((1025, 1275)));
        assert_eq!(at(&[1275, 443]).free_ports(0, address), Some((1024, 1274)));
        assert_eq!(at(&[1100, 1200]).free_ports(0, address), Some((1101, 1199)));
        assert_eq!(at(&[1100]).free_ports(1, address), Some((1276, 1527)));
        assert_eq!(at(&[1100]).free_ports(0, ip("198.51.100.11")), Some((1024, 1275)));
        assert_eq!(at(&[65535]).free_ports(255, address), Some((65284, 65534)));
        let all: Vec<u16> = (1024..=1275).collect();
        assert_eq!(at(&all).free_ports(0, address), None);
    }
}
