//! From a connection to its bucket: what the packet filters of both sides compute for its packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rudel_datapath::{Flow, HashMode, Side};

use super::conntrack::{DCCP, Entry, SCTP, TCP, UDP, UDP_LITE};

/// Tells the bucket of a connection.
pub trait Classify: Send {
    /// The bucket that decides which node forwards this connection; None if it is none that the cluster forwards, or
    /// none whose state can be shared.
    fn bucket(&self, entry: &Entry) -> Option<u8>;
}

/// A router's classification: by the connection's end inside.
///
/// Which end that is cannot be seen in the kernel's table, so the routes are asked: an address is inside if the most
/// specific route to it leaves by an inside interface.
#[derive(Clone, Debug, Default)]
pub struct Router {
    /// What is hashed.
    pub mode: HashMode,
    /// The cluster's seed.
    pub seed: u32,
    /// Whether an address in a network is inside; the most specific network decides.
    pub networks: Networks,
    /// This node's own addresses, whose connections end here.
    pub local: BTreeSet<IpAddr>,
}

/// Networks, by prefix length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(BTreeMap<u8, BTreeMap<u128, bool>>);

impl Networks {
    /// Says of a network whether it is inside.
    pub fn insert(&mut self, network: IpAddr, prefix_len: u8, inside: bool) {
        let (bits, len) = in_one_space(network, prefix_len);
        self.0.entry(len).or_default().insert(masked(bits, len), inside);
    }

    /// Whether an address is inside; false if no network has it.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        let (bits, _) = in_one_space(address, 0);
        let found = self.0.iter().rev().find_map(|(len, networks)| networks.get(&masked(bits, *len)));
        found.copied().unwrap_or(false)
    }
}

/// IPv4 addresses have their place in IPv6's (RFC 4291 2.5.5.2), so one table does for both.
fn in_one_space(address: IpAddr, prefix_len: u8) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), prefix_len.saturating_add(96).min(128)),
        IpAddr::V6(address) => (address.to_bits(), prefix_len.min(128)),
    }
}

fn masked(bits: u128, len: u8) -> u128 {
    bits & u128::MAX.checked_shl(u32::from(128 - len)).unwrap_or(0)
}

impl Classify for Router {
    fn bucket(&self, entry: &Entry) -> Option<u8> {
        let (orig, reply) = (&entry.orig, &entry.reply);
        // Zones are the administrator's; SCTP's and DCCP's own state cannot be told to another kernel.
        if entry.zone != 0 || matches!(orig.protocol, SCTP | DCCP) || is_bound_here(orig.src, reply.src) {
            return None;
        }
        // The true ends: who sent the first packet, and who answers it.
        if self.local.contains(&orig.src) || self.local.contains(&reply.src) {
            return None;
        }
        // As the host inside writes it, in its packets or in its answers. With NAT the peer's view of it differs; the
        // bucket is that of the untranslated end, since the translation picks a port of that bucket's block.
        let (own, peer) = if self.networks.is_inside(orig.src) {
            ((orig.src, orig.src_port), (orig.dst, orig.dst_port))
        } else if self.networks.is_inside(reply.src) {
            ((reply.src, reply.src_port), (orig.src, orig.src_port))
        } else {
            return None;
        };
        let flow = if orig.is_icmp() {
            // Only what is answered has a connection; ICMP's other messages belong to those of others.
            orig.inverse()?;
            let id = if own.0 == orig.src { orig.dst_port } else { reply.dst_port };
            Flow::echo(orig.protocol, own.0, peer.0, id)
        } else if matches!(orig.protocol, TCP | UDP | UDP_LITE) {
            Flow::with_ports(orig.protocol, own, peer)
        } else {
            Flow::without_ports(orig.protocol, own.0, peer.0)
        };
        Some(rudel_datapath::flow::bucket(&flow, self.mode, Side::Inside, self.seed))
    }
}

/// Connections that no other node can have.
fn is_bound_here(src: IpAddr, dst: IpAddr) -> bool {
    let link_local = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local() || address == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(address) => address.is_unicast_link_local() || address == Ipv6Addr::UNSPECIFIED,
    };
    [src, dst]
        .into_iter()
        .any(|address| address.is_loopback() || address.is_multicast() || link_local(address))
}

#[cfg(test)]
mod tests {
    use super::super::conntrack::{ICMP, Tuple};
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn router() -> Router {
        let mut networks = Networks::default();
        networks.insert(address("10.0.0.0"), 8, true);
        networks.insert(address("10.9.0.0"), 16, false);
        networks.insert(address("0.0.0.0"), 0, false);
        networks.insert(address("fd00::"), 8, true);
        let local = [address("10.0.0.1"), address("198.51.100.10")].into();
        Router { mode: HashMode::SourceIpPort, seed: 12345, networks, local }
    }

    fn entry(protocol: u8, src: (&str, u16), dst: (&str, u16)) -> Entry {
        let orig =
            Tuple { src: address(src.0), dst: address(dst.0), protocol, src_port: src.1, dst_port: dst.1 };
        let reply = orig.inverse().unwrap();
        Entry { orig, reply, status: 0, timeout_s: 0, mark: 0, zone: 0, tcp: None }
    }

    #[test]
    fn the_most_specific_network_decides() {
        let networks = router().networks;
        for (text, inside) in [
            ("10.1.2.3", true),
            ("10.9.2.3", false),
            ("192.0.2.1", false),
            ("fd12::1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(networks.is_inside(address(text)), inside, "{text}");
        }
    }

    #[test]
    fn the_bucket_is_that_of_the_end_inside_whoever_began_and_however_translated() {
        let router = router();
        // 10.99.16.5:40000 of the vectors, seed 12345: bucket 21.
        let mut out = entry(TCP, ("10.99.16.5", 40_000), ("192.0.2.1", 443));
        assert_eq!(router.bucket(&out), Some(21));
        (out.reply.dst, out.reply.dst_port) = (address("198.51.100.10"), 7000);
        assert_eq!(router.bucket(&out), Some(21), "source NAT");
        let mut inward = entry(TCP, ("192.0.2.1", 443), ("10.99.16.5", 40_000));
        assert_eq!(router.bucket(&inward), Some(21));
        (inward.orig.dst, inward.orig.dst_port) = (address("198.51.100.10"), 80);
        assert_eq!(router.bucket(&inward), Some(21), "destination NAT");
    }

    #[test]
    fn an_echo_is_hashed_by_its_identifier() {
        let router = router();
        let mut echo = entry(ICMP, ("10.99.16.5", 0x0800), ("192.0.2.1", 77));
        let plain = router.bucket(&echo);
        let flow = Flow::echo(ICMP, echo.orig.src, echo.orig.dst, 77);
        assert_eq!(plain, Some(rudel_datapath::flow::bucket(&flow, router.mode, Side::Inside, 12345)));
        (echo.reply.dst, echo.reply.dst_port) = (address("198.51.100.10"), 1024);
        assert_eq!(router.bucket(&echo), plain, "the identifier is translated like a port");
    }

    #[test]
    fn what_the_cluster_does_not_forward_has_no_bucket() {
        let router = router();
        let from_a_gateway = entry(TCP, ("10.0.0.1", 1), ("10.2.2.2", 2));
        let to_a_gateway = entry(TCP, ("10.2.2.2", 2), ("10.0.0.1", 22));
        let outside = entry(TCP, ("192.0.2.1", 2), ("192.0.2.2", 22));
        let loopback = entry(TCP, ("127.0.0.1", 2), ("127.0.0.1", 22));
        let mut zone = entry(TCP, ("10.99.16.5", 40_000), ("192.0.2.1", 443));
        zone.zone = 7;
        let sctp = entry(SCTP, ("10.99.16.5", 40_000), ("192.0.2.1", 443));
        for entry in [from_a_gateway, to_a_gateway, outside, loopback, zone, sctp] {
            assert_eq!(router.bucket(&entry), None, "{entry:?}");
        }
    }
}
