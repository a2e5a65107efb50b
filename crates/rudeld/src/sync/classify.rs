//! From a connection to its bucket: what the packet filters of both sides compute for its packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rudel_datapath::Flow;

use super::conntrack::{DCCP, Entry, ICMP, ICMPV6, SCTP, TCP, Tuple, UDP, UDP_LITE};
use crate::router::Router;

/// Tells the bucket of a connection.
pub trait Classify: Send {
    /// The bucket that decides which node forwards this connection; None if it is none that the cluster forwards, or
    /// none whose state can be shared.
    fn bucket(&self, entry: &Entry) -> Option<u8>;
}

/// The classification of a router cluster: what its filters compute for the packets of the first direction, as they came
/// in ([`Router::bucket_of`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    router: Router,
    seed: u32,
    /// Connections of these end here; so do those of the cluster's own addresses.
    local: BTreeSet<IpAddr>,
}

impl Forwarded {
    /// `seed` is the cluster's, `local` are the node's own addresses.
    pub fn new(router: Router, seed: u32, local: impl IntoIterator<Item = IpAddr>) -> Self {
        let local = router.border().own.iter().copied().chain(local).collect();
        Forwarded { router, seed, local }
    }
}

impl Classify for Forwarded {
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
        self.router.bucket_of(&flow(orig)?, self.seed)
    }
}

/// A direction as the filter reads it from its packets. None of ICMP messages that nobody answers: they have no connection.
fn flow(tuple: &Tuple) -> Option<Flow> {
    let Tuple { src, dst, protocol, .. } = *tuple;
    if tuple.is_icmp() {
        tuple.inverse()?;
        let [kind, _] = tuple.src_port.to_be_bytes();
        // Of the queries, the filter knows the identifiers of echoes only.
        let is_echo = matches!((protocol, kind), (ICMP, 0 | 8) | (ICMPV6, 128 | 129));
        return Some(match is_echo {
            true => Flow::echo(protocol, src, dst, tuple.dst_port),
            false => Flow::without_ports(protocol, src, dst),
        });
    }
    Some(match protocol {
        TCP | UDP | UDP_LITE => Flow::with_ports(protocol, (src, tuple.src_port), (dst, tuple.dst_port)),
        _ => Flow::without_ports(protocol, src, dst),
    })
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
    use rudel_api::config::Config;

    use super::*;

    const ROUTER: &str = "[cluster]\nname = \"r\"\nkey_file = \"/k\"\n\
        [[interface]]\nname = \"lan\"\nside = \"inside\"\naddresses = [\"10.0.0.1/24\", \"fd00::1/64\"]\n\
        networks = [\"10.99.0.0/16\", \"10.2.0.0/16\"]\n\
        [[interface]]\nname = \"up\"\nside = \"outside\"\naddresses = [\"198.51.100.10/24\", \"2001:db8::10/64\"]\n\
        [nat]\naddress = [\"198.51.100.10\"]\ninside = [\"10.0.0.0/8\"]\n\
        forward = [\"tcp 198.51.100.10:443 to 10.1.0.5:8443\"]\n";

    fn router() -> Forwarded {
        let config =
            Config::parse(ROUTER, "test.toml").unwrap_or_else(|error| panic!("{}", error.render(false)));
        Forwarded::new(Router::new(&config).unwrap(), 12345, ["10.0.0.11".parse().unwrap()])
    }

    fn entry(protocol: u8, src: (&str, u16), dst: (&str, u16)) -> Entry {
        let [from, to] = [src.0, dst.0].map(|text| text.parse().unwrap());
        let orig = Tuple { src: from, dst: to, protocol, src_port: src.1, dst_port: dst.1 };
        let reply = orig.inverse().unwrap();
        Entry { orig, reply, status: 0, timeout_s: 0, mark: 0, zone: 0, tcp: None }
    }

    #[test]
    fn the_bucket_is_that_of_the_packets() {
        let router = router();
        // 10.99.16.5:40000 of the vectors, seed 12345: bucket 21.
        let mut out = entry(TCP, ("10.99.16.5", 40_000), ("192.0.2.1", 443));
        assert_eq!(router.bucket(&out), Some(21));
        (out.reply.dst, out.reply.dst_port) = ("198.51.100.10".parse().unwrap(), 1024 + 21 * 252);
        assert_eq!(router.bucket(&out), Some(21), "source NAT");
        // Not translated, from outside.
        let inward = entry(TCP, ("192.0.2.1", 443), ("10.99.16.5", 40_000));
        assert_eq!(router.bucket(&inward), Some(21));
        // A client of a service inside has the bucket of the client, as at any service.
        let mut forward = entry(TCP, ("10.99.16.5", 40_000), ("198.51.100.10", 443));
        (forward.reply.src, forward.reply.src_port) = ("10.1.0.5".parse().unwrap(), 8443);
        assert_eq!(router.bucket(&forward), Some(21));
        let echo = entry(ICMP, ("10.99.16.5", 0x0800), ("192.0.2.1", 40_000));
        assert_eq!(router.bucket(&echo), Some(21), "an identifier is hashed as a port");
        // Without ports a translated flow goes by its peer, and a timestamp query has none that the filter knows.
        let plain = |protocol| entry(protocol, ("10.99.16.5", 0), ("192.0.2.1", 0));
        let gre = router.bucket(&plain(47));
        assert_eq!(gre, router.bucket(&entry(50, ("10.99.16.5", 0), ("192.0.2.1", 0))));
        assert_eq!(gre, router.bucket(&entry(ICMP, ("10.99.16.5", 13 << 8), ("192.0.2.1", 40_000))));
        assert_eq!(
            gre,
            Some(
                Flow::without_ports(47, "192.0.2.1".parse().unwrap(), "::".parse().unwrap())
                    .key(rudel_datapath::HashMode::SourceIpPort, rudel_datapath::Side::Service)
                    .bucket(12345)
            )
        );
    }

    #[test]
    fn what_the_cluster_does_not_forward_has_no_bucket() {
        let router = router();
        let from_the_gateway = entry(TCP, ("10.0.0.1", 1), ("10.2.2.2", 2));
        let to_the_gateway = entry(TCP, ("10.2.2.2", 2), ("10.0.0.1", 22));
        let to_the_node = entry(TCP, ("10.2.2.2", 2), ("10.0.0.11", 22));
        let outside = entry(TCP, ("192.0.2.1", 2), ("192.0.2.2", 22));
        let loopback = entry(TCP, ("127.0.0.1", 2), ("127.0.0.1", 22));
        let mut zone = entry(TCP, ("10.99.16.5", 40_000), ("192.0.2.1", 443));
        zone.zone = 7;
        let sctp = entry(SCTP, ("10.99.16.5", 40_000), ("192.0.2.1", 443));
        for entry in [from_the_gateway, to_the_gateway, to_the_node, outside, loopback, zone, sctp] {
            assert_eq!(router.bucket(&entry), None, "{entry:?}");
        }
    }
}
