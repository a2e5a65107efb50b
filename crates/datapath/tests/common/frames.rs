//! Packets, built by hand: every byte that a test depends on is visible in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::CLUSTER_MAC;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const IGMP: u8 = 2;
pub(crate) const ICMP: u8 = 1;
pub(crate) const GRE: u8 = 47;
pub(crate) const ESP: u8 = 50;
pub(crate) const AH: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const NO_NEXT: u8 = 59;
pub(crate) const DCCP: u8 = 33;
pub(crate) const SCTP: u8 = 132;
pub(crate) const UDP_LITE: u8 = 136;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION: u8 = 60;

pub(crate) const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 99, 16, 5);
pub(crate) const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub(crate) const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd99, 1, 0, 0, 0, 0, 0, 0xabcd);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
pub(crate) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);

pub(crate) const PEER_MAC: [u8; 6] = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];

/// A frame to the cluster MAC.
pub(crate) fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    frame_to(CLUSTER_MAC, ethertype, payload)
}

pub(crate) fn frame_to(destination: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &PEER_MAC, &ethertype.to_be_bytes(), payload].concat()
}

/// The same frame behind VLAN tags, outermost first.
pub(crate) fn tagged(tags: &[(u16, u16)], frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (ethertype, tci) in tags {
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(&frame[12..]);
    bytes
}

/// An IP packet in a frame, with the EtherType of its version.
pub(crate) fn ip_frame(packet: &[u8]) -> Vec<u8> {
    frame(if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, packet)
}

/// An IP packet of either family.
pub(crate) fn ip(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src.into(), dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, &[], 0, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, protocol, payload),
        _ => panic!("two families in one packet"),
    }
}

/// `fragment` is the word of flags and offset; `options` must fill words.
pub(crate) fn ipv4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header_bytes = 20 + options.len();
    let mut bytes = vec![0x40 | (header_bytes / 4) as u8, 0];
    bytes.extend(((header_bytes + payload.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(options);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(payload);
    bytes
}

/// An extension header of `units` times eight bytes beyond the first eight, before `payload`.
pub(crate) fn extension(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, units];
    bytes.resize(8 * (usize::from(units) + 1), 0);
    bytes.extend(payload);
    bytes
}

/// An authentication header with this many words of check value.
pub(crate) fn authentication(next: u8, words: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 1 + words];
    bytes.resize(12 + 4 * usize::from(words), 0);
    bytes.extend(payload);
    bytes
}

/// A fragment header; `offset` in units of eight bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend([0, 0, 0, 7]);
    bytes.extend(payload);
    bytes
}

pub(crate) fn udp(src_port: u16, dst_port: u16) -> Vec<u8> {
    [&src_port.to_be_bytes()[..], &dst_port.to_be_bytes(), &[0, 12, 0, 0], b"ping"].concat()
}

pub(crate) fn tcp_syn(src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut bytes = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

pub(crate) fn icmp_echo(kind: u8, id: u16) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1], b"payload!"].concat()
}

/// An ICMP or ICMPv6 error about a packet, of which the first `bytes` are quoted.
pub(crate) fn icmp_error(kind: u8, about: &[u8], bytes: usize) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 5, 0xdc][..], &about[..bytes.min(about.len())]].concat()
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
