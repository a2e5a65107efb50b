//! ARP over Ethernet for IPv4 (RFC 826), with the probes and announcements of RFC 5227: pure functions over bytes.

use std::net::Ipv4Addr;

use super::ethernet::{ETHERTYPE_ARP, HEADER_LEN, Header};
use crate::host::MacAddr;

/// The length of an ARP packet for Ethernet and IPv4, in bytes.
pub const PACKET_LEN: usize = 28;

const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

impl Operation {
    const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
        }
    }
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Question or answer.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: MacAddr,
    /// The sender's address; 0.0.0.0 in a probe (RFC 5227): the sender means to use the target address.
    pub sender_ip: Ipv4Addr,
    /// The target's hardware address; in a request without meaning.
    pub target_mac: MacAddr,
    /// The target's address.
    pub target_ip: Ipv4Addr,
}

/// Why a frame is not an ARP packet that can be made use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another EtherType.
    #[error("not ARP")]
    NotArp,
    /// The frame ends too early.
    #[error("too short")]
    TooShort,
    /// Not Ethernet addresses of six bytes, or not IPv4 addresses of four.
    #[error("not for Ethernet and IPv4")]
    NotEthernetIpv4,
    /// Neither a request nor a reply.
    #[error("unknown operation {0}")]
    UnknownOperation(u16),
    /// The sender's hardware address is zero or broadcast: no station has it.
    #[error("impossible sender {0}")]
    ImpossibleSender(MacAddr),
}

/// Takes a whole frame apart. Padding after the packet is allowed.
///
/// A sender's hardware address may be a group: that is how clusters answer.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(frame: &[u8]) -> Result<(Header, Packet), Malformed> {
    let (header, payload) = Header::split(frame).ok_or(Malformed::TooShort)?;
    if header.ethertype != ETHERTYPE_ARP {
        return Err(Malformed::NotArp);
    }
    let bytes = payload.first_chunk::<PACKET_LEN>().ok_or(Malformed::TooShort)?;
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mac = |at: usize| {
        MacAddr([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3], bytes[at + 4], bytes[at + 5]])
    };
    let ip = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    if (word(0), word(2), bytes[4], bytes[5]) != (HARDWARE_ETHERNET, PROTOCOL_IPV4, 6, 4) {
        return Err(Malformed::NotEthernetIpv4);
    }
    let operation = match word(6) {
        1 => Operation::Request,
        2 => Operation::Reply,
        other => return Err(Malformed::UnknownOperation(other)),
    };
    let packet =
        Packet { operation, sender_mac: mac(8), sender_ip: ip(14), target_mac: mac(18), target_ip: ip(24) };
    if packet.sender_mac == MacAddr::ZERO || packet.sender_mac == MacAddr::BROADCAST {
        return Err(Malformed::ImpossibleSender(packet.sender_mac));
    }
    Ok((header, packet))
}

/// A whole frame.
#[must_use]
pub fn build(source: MacAddr, destination: MacAddr, packet: &Packet) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + PACKET_LEN);
    Header { destination, source, ethertype: ETHERTYPE_ARP }.write(&mut frame);
    frame.extend(HARDWARE_ETHERNET.to_be_bytes());
    frame.extend(PROTOCOL_IPV4.to_be_bytes());
    frame.extend([6, 4]);
    frame.extend(packet.operation.code().to_be_bytes());
    frame.extend(packet.sender_mac.octets());
    frame.extend(packet.sender_ip.octets());
    frame.extend(packet.target_mac.octets());
    frame.extend(packet.target_ip.octets());
    frame
}

/// The answer to a request: the frame comes from `own_mac`, the NIC's, and only inside of it stands `cluster_mac`. A
/// frame *from* the cluster's MAC would be dropped by a switch, or teach it the one port that has it.
#[must_use]
pub fn reply(own_mac: MacAddr, cluster_mac: MacAddr, request: &Packet) -> Vec<u8> {
    build(
        own_mac,
        request.sender_mac,
        &Packet {
            operation: Operation::Reply,
            sender_mac: cluster_mac,
            sender_ip: request.target_ip,
            target_mac: request.sender_mac,
            target_ip: request.sender_ip,
        },
    )
}

/// An announcement to all (RFC 5227: in the form of a request, sender and target alike), from the NIC's own MAC as the
/// answers are.
#[must_use]
pub fn announcement(own_mac: MacAddr, cluster_mac: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    build(
        own_mac,
        MacAddr::BROADCAST,
        &Packet {
            operation: Operation::Request,
            sender_mac: cluster_mac,
            sender_ip: ip,
            target_mac: MacAddr::ZERO,
            target_ip: ip,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0c]);
    const OWN: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
    const CLUSTER: MacAddr = MacAddr([0x03, 0xbf, 192, 0, 2, 10]);
    const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

    /// As tcpdump shows it on the wire, padded to the least length of a frame.
    const REQUEST: &[u8] = &[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x0c, 0x08, 0x06, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, request
        0x02, 0, 0, 0, 0, 0x0c, 192, 0, 2, 100, // sender
        0, 0, 0, 0, 0, 0, 192, 0, 2, 10, // target
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // padding
    ];

    #[test]
    fn takes_a_request_apart() {
        let (header, packet) = parse(REQUEST).unwrap();
        assert_eq!(header, Header { destination: MacAddr::BROADCAST, source: CLIENT, ethertype: 0x0806 });
        assert_eq!(
            packet,
            Packet {
                operation: Operation::Request,
                sender_mac: CLIENT,
                sender_ip: CLIENT_IP,
                target_mac: MacAddr::ZERO,
                target_ip: VIP,
            }
        );
        assert_eq!(build(CLIENT, MacAddr::BROADCAST, &packet), REQUEST[..42]);
    }

    #[test]
    fn the_reply_comes_from_the_nic_and_speaks_of_the_cluster() {
        let (_, request) = parse(REQUEST).unwrap();
        let frame = reply(OWN, CLUSTER, &request);
        let expected: &[u8] = &[
            0x02, 0, 0, 0, 0, 0x0c, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x06, // to the asker, from the NIC
            0, 1, 8, 0, 6, 4, 0, 2, // reply
            0x03, 0xbf, 192, 0, 2, 10, 192, 0, 2, 10, // sender: the cluster's MAC
            0x02, 0, 0, 0, 0, 0x0c, 192, 0, 2, 100, // target: the asker
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_probe_is_answered_with_no_target_address() {
        let mut probe = REQUEST.to_vec();
        probe[28..32].fill(0);
        let (_, probe) = parse(&probe).unwrap();
        assert_eq!(probe.sender_ip, Ipv4Addr::UNSPECIFIED);
        let (header, answer) = parse(&reply(OWN, CLUSTER, &probe)).unwrap();
        assert_eq!(header.destination, CLIENT);
        assert_eq!((answer.sender_ip, answer.target_ip), (VIP, Ipv4Addr::UNSPECIFIED));
    }

    #[test]
    fn an_announcement_names_the_address_twice() {
        let (header, packet) = parse(&announcement(OWN, CLUSTER, VIP)).unwrap();
        assert_eq!((header.destination, header.source), (MacAddr::BROADCAST, OWN));
        assert_eq!(packet.operation, Operation::Request);
        assert_eq!((packet.sender_mac, packet.sender_ip, packet.target_ip), (CLUSTER, VIP, VIP));
    }

    #[test]
    fn refuses_every_frame_that_is_too_short() {
        for length in 0..42 {
            assert_eq!(parse(&REQUEST[..length]).unwrap_err(), Malformed::TooShort, "{length} bytes");
        }
        assert!(parse(&REQUEST[..42]).is_ok());
    }

    #[test]
    fn refuses_every_other_header() {
        // Every bit of EtherType, hardware type, protocol type and lengths matters.
        for byte in 12..20 {
            for bit in 0..8 {
                let mut frame = REQUEST.to_vec();
                frame[byte] ^= 1 << bit;
                let expected = if byte < 14 { Malformed::NotArp } else { Malformed::NotEthernetIpv4 };
                assert_eq!(parse(&frame).unwrap_err(), expected, "byte {byte} bit {bit}");
            }
        }
        for operation in (0..=u16::MAX).filter(|operation| !matches!(operation, 1 | 2)) {
            let mut frame = REQUEST.to_vec();
            frame[20..22].copy_from_slice(&operation.to_be_bytes());
            assert_eq!(parse(&frame).unwrap_err(), Malformed::UnknownOperation(operation));
        }
    }

    #[test]
    fn refuses_senders_that_nobody_can_be() {
        for mac in [MacAddr::ZERO, MacAddr::BROADCAST] {
            let mut frame = REQUEST.to_vec();
            frame[22..28].copy_from_slice(&mac.octets());
            assert_eq!(parse(&frame).unwrap_err(), Malformed::ImpossibleSender(mac));
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(frame in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _ = parse(&frame);
        }

        #[test]
        fn what_is_built_is_parsed(
            sender in proptest::array::uniform6(1_u8..),
            ips in proptest::array::uniform2(proptest::num::u32::ANY),
            reply in proptest::bool::ANY,
        ) {
            proptest::prop_assume!(sender != [0xff; 6]);
            let packet = Packet {
                operation: if reply { Operation::Reply } else { Operation::Request },
                sender_mac: MacAddr(sender),
                sender_ip: ips[0].into(),
                target_mac: CLIENT,
                target_ip: ips[1].into(),
            };
            let frame = build(OWN, CLIENT, &packet);
            proptest::prop_assert_eq!(parse(&frame).unwrap().1, packet);
        }
    }
}
