//! Neighbour solicitations and advertisements over Ethernet (RFC 4861, RFC 4862): pure functions over bytes.

use std::net::Ipv6Addr;

use rudel_datapath::checksum::{self, sum};
use socket2::SockFilter;

use super::ethernet::{ETHERTYPE_IPV6, HEADER_LEN, Header};
use crate::host::{MacAddr, solicited_node_group};

/// All nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const IPV6_HEADER_LEN: usize = 40;
const NEXT_HEADER_ICMPV6: u8 = 58;
/// Only a sender on the link can have sent what still has it.
const HOP_LIMIT: u8 = 255;

const TYPE_SOLICITATION: u8 = 135;
const TYPE_ADVERTISEMENT: u8 = 136;
/// Type, code, checksum, flags, target.
const MESSAGE_LEN: usize = 24;

const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
/// An Ethernet address option: type, length, address. Lengths count units of eight bytes.
const OPTION_UNIT: usize = 8;

const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// Lets through IPv6 packets whose first header is ICMPv6 with the type of a neighbour solicitation or advertisement.
/// Everything else a busy server receives does not wake the thread.
pub const NEIGHBOUR_MESSAGES: [SockFilter; 7] = [
    // Next header, at 14 + 6.
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 20),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 4, NEXT_HEADER_ICMPV6 as u32),
    // ICMPv6 type, at 14 + 40.
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 54),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 1, 0, TYPE_SOLICITATION as u32),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, TYPE_ADVERTISEMENT as u32),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
];

/// Who has the target?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The Ethernet header it came with.
    pub ethernet: Header,
    /// Who asks; `::` when the asker means to use the target itself (duplicate detection).
    pub source: Ipv6Addr,
    /// To whom: the target's solicited-node group, or the target.
    pub destination: Ipv6Addr,
    /// The address that is asked for.
    pub target: Ipv6Addr,
    /// The asker's Ethernet address, if it says it.
    pub source_mac: Option<MacAddr>,
}

/// The target has this Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The Ethernet header it came with.
    pub ethernet: Header,
    /// Who says it.
    pub source: Ipv6Addr,
    /// To whom.
    pub destination: Ipv6Addr,
    /// The address that is spoken of.
    pub target: Ipv6Addr,
    /// Its Ethernet address, if it is said.
    pub target_mac: Option<MacAddr>,
    /// The target is a router.
    pub router: bool,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It replaces what was known.
    pub overrides: bool,
}

/// A message of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A question.
    Solicitation(Solicitation),
    /// An answer or an announcement.
    Advertisement(Advertisement),
}

/// Why a frame is not a neighbour message that may be heeded (RFC 4861, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another EtherType, or an IP version that is not 6.
    #[error("not IPv6")]
    NotIpv6,
    /// Another protocol, or an extension header before it.
    #[error("not ICMPv6")]
    NotIcmpv6,
    /// Another ICMPv6 type, or a code that is not 0.
    #[error("neither a neighbour solicitation nor an advertisement")]
    OtherType,
    /// The frame or the packet ends too early.
    #[error("too short")]
    TooShort,
    /// It has been forwarded.
    #[error("hop limit {0} instead of 255")]
    HopLimit(u8),
    /// The checksum is wrong.
    #[error("wrong checksum")]
    Checksum,
    /// The target is a group.
    #[error("the target is a group")]
    MulticastTarget,
    /// An option of length 0, or one that goes beyond the end.
    #[error("an option does not fit")]
    BrokenOption,
    /// A source that cannot be: a group; or `::` with a link-layer address, with a destination that is not the target's
    /// solicited-node group, or in an advertisement.
    #[error("an impossible source")]
    ImpossibleSource,
    /// An advertisement to a group that claims to be solicited.
    #[error("solicited and to a group")]
    SolicitedByGroup,
}

/// Takes a whole frame apart. Padding after the packet is allowed.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(frame: &[u8]) -> Result<Message, Malformed> {
    let (ethernet, packet) = Header::split(frame).ok_or(Malformed::TooShort)?;
    if ethernet.ethertype != ETHERTYPE_IPV6 {
        return Err(Malformed::NotIpv6);
    }
    let (ip, rest) = packet.split_first_chunk::<IPV6_HEADER_LEN>().ok_or(Malformed::TooShort)?;
    if ip[0] >> 4 != 6 {
        return Err(Malformed::NotIpv6);
    }
    if ip[6] != NEXT_HEADER_ICMPV6 {
        return Err(Malformed::NotIcmpv6);
    }
    let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let icmp = rest.get(..length).ok_or(Malformed::TooShort)?;
    let (message, options) = icmp.split_first_chunk::<MESSAGE_LEN>().ok_or(Malformed::TooShort)?;
    let kind = message[0];
    if !matches!(kind, TYPE_SOLICITATION | TYPE_ADVERTISEMENT) || message[1] != 0 {
        return Err(Malformed::OtherType);
    }
    if ip[7] != HOP_LIMIT {
        return Err(Malformed::HopLimit(ip[7]));
    }
    let source = address(ip, 8);
    let destination = address(ip, 24);
    if checksum(source, destination, icmp) != 0 {
        return Err(Malformed::Checksum);
    }
    let target = address(message, 8);
    if target.is_multicast() {
        return Err(Malformed::MulticastTarget);
    }
    if source.is_multicast() {
        return Err(Malformed::ImpossibleSource);
    }
    let (source_mac, target_mac) = link_layer_options(options)?;
    if kind == TYPE_SOLICITATION {
        if source.is_unspecified() && (source_mac.is_some() || destination != solicited_node_group(target)) {
            return Err(Malformed::ImpossibleSource);
        }
        return Ok(Message::Solicitation(Solicitation { ethernet, source, destination, target, source_mac }));
    }
    if source.is_unspecified() {
        return Err(Malformed::ImpossibleSource);
    }
    let solicited = message[4] & FLAG_SOLICITED != 0;
    if solicited && destination.is_multicast() {
        return Err(Malformed::SolicitedByGroup);
    }
    Ok(Message::Advertisement(Advertisement {
        ethernet,
        source,
        destination,
        target,
        target_mac,
        router: message[4] & FLAG_ROUTER != 0,
        solicited,
        overrides: message[4] & FLAG_OVERRIDE != 0,
    }))
}

fn address(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}

/// The source's and the target's Ethernet address among the options. Other options are passed over.
fn link_layer_options(mut options: &[u8]) -> Result<(Option<MacAddr>, Option<MacAddr>), Malformed> {
    let (mut source, mut target) = (None, None);
    while let Some(&kind) = options.first() {
        let length = usize::from(*options.get(1).ok_or(Malformed::BrokenOption)?) * OPTION_UNIT;
        if length == 0 || length > options.len() {
            return Err(Malformed::BrokenOption);
        }
        let (option, rest) = options.split_at(length);
        // Addresses of another length are of another kind of link.
        if let Ok(option) = <[u8; OPTION_UNIT]>::try_from(option) {
            let [_, _, a, b, c, d, e, f] = option;
            let mac = MacAddr([a, b, c, d, e, f]);
            match kind {
                OPTION_SOURCE_LINK_LAYER => source = Some(mac),
                OPTION_TARGET_LINK_LAYER => target = Some(mac),
                _ => {}
            }
        }
        options = rest;
    }
    Ok((source, target))
}

/// The Internet checksum over pseudo-header and message: what is to be written where it was zero, and 0 over a message
/// whose checksum is right.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, icmp: &[u8]) -> u16 {
    let head = sum(&source.octets()) + sum(&destination.octets()) + u32::from(NEXT_HEADER_ICMPV6);
    // A frame holds no more than 64 kB.
    checksum::checksum(head + icmp.len() as u32 + sum(icmp))
}

/// A whole frame with one neighbour message and at most one link-layer option.
fn build(
    ethernet: Header,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, MacAddr)>,
) -> Vec<u8> {
    let mut icmp = Vec::with_capacity(MESSAGE_LEN + OPTION_UNIT);
    icmp.extend([kind, 0, 0, 0, flags, 0, 0, 0]);
    icmp.extend(target.octets());
    if let Some((kind, mac)) = option {
        icmp.extend([kind, 1]);
        icmp.extend(mac.octets());
    }
    let sum = checksum(source, destination, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = Vec::with_capacity(HEADER_LEN + IPV6_HEADER_LEN + icmp.len());
    ethernet.write(&mut frame);
    frame.extend([0x60, 0, 0, 0]);
    // 32 bytes at most.
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([NEXT_HEADER_ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(icmp);
    frame
}

/// The answer to a solicitation: the frame comes from `own_mac`, the NIC's, and only inside of it stands `cluster_mac`.
///
/// It goes to the asker; if that has no address yet, because it is making sure that nobody has the one it wants, to all
/// nodes, and then it does not call itself solicited.
#[must_use]
pub fn advertisement(
    own_mac: MacAddr,
    cluster_mac: MacAddr,
    router: bool,
    solicitation: &Solicitation,
) -> Vec<u8> {
    let router = if router { FLAG_ROUTER } else { 0 };
    let (destination, destination_mac, flags) = if solicitation.source.is_unspecified() {
        (ALL_NODES, MacAddr::of_group(ALL_NODES.into()), router | FLAG_OVERRIDE)
    } else {
        // Without the option (a probe by unicast may leave it out) the frame itself says where it came from.
        let asker = solicitation.source_mac.unwrap_or(solicitation.ethernet.source);
        (solicitation.source, asker, router | FLAG_SOLICITED | FLAG_OVERRIDE)
    };
    build(
        Header { destination: destination_mac, source: own_mac, ethertype: ETHERTYPE_IPV6 },
        solicitation.target,
        destination,
        TYPE_ADVERTISEMENT,
        flags,
        solicitation.target,
        Some((OPTION_TARGET_LINK_LAYER, cluster_mac)),
    )
}

/// An announcement to all nodes that nobody asked for, from the NIC's own MAC as the answers are.
#[must_use]
pub fn announcement(own_mac: MacAddr, cluster_mac: MacAddr, router: bool, ip: Ipv6Addr) -> Vec<u8> {
    build(
        Header {
            destination: MacAddr::of_group(ALL_NODES.into()),
            source: own_mac,
            ethertype: ETHERTYPE_IPV6,
        },
        ip,
        ALL_NODES,
        TYPE_ADVERTISEMENT,
        FLAG_OVERRIDE | if router { FLAG_ROUTER } else { 0 },
        ip,
        Some((OPTION_TARGET_LINK_LAYER, cluster_mac)),
    )
}

/// A solicitation: `source_mac` asks who has `target`, and from `::` whether it may have it itself.
#[must_use]
pub fn solicitation(source_mac: MacAddr, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let destination = solicited_node_group(target);
    build(
        Header {
            destination: MacAddr::of_group(destination.into()),
            source: source_mac,
            ethertype: ETHERTYPE_IPV6,
        },
        source,
        destination,
        TYPE_SOLICITATION,
        0,
        target,
        (!source.is_unspecified()).then_some((OPTION_SOURCE_LINK_LAYER, source_mac)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0c]);
    const OWN: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
    const CLUSTER: MacAddr = MacAddr([0x03, 0xbf, 192, 0, 2, 10]);
    const CLIENT_IP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xc);
    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

    /// Offsets into a frame.
    const AT_VERSION: usize = 14;
    const AT_NEXT_HEADER: usize = 20;
    const AT_HOP_LIMIT: usize = 21;
    const AT_SOURCE: usize = 22;
    const AT_DESTINATION: usize = 38;
    const AT_TYPE: usize = 54;
    const AT_CODE: usize = 55;
    const AT_CHECKSUM: usize = 56;
    const AT_FLAGS: usize = 58;
    const AT_TARGET: usize = 62;
    const AT_OPTION: usize = 78;

    fn asked() -> Vec<u8> {
        solicitation(CLIENT, CLIENT_IP, VIP)
    }

    fn answered() -> Vec<u8> {
        let Message::Solicitation(question) = parse(&asked()).unwrap() else { panic!("a question") };
        advertisement(OWN, CLUSTER, false, &question)
    }

    /// Makes a frame's checksum right again after a change.
    fn seal(frame: &mut [u8]) {
        frame[AT_CHECKSUM..AT_CHECKSUM + 2].fill(0);
        let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
        let sum = checksum(
            address(frame, AT_SOURCE),
            address(frame, AT_DESTINATION),
            &frame[AT_TYPE..AT_TYPE + length],
        );
        frame[AT_CHECKSUM..AT_CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn changed(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut frame);
        frame
    }

    #[test]
    fn takes_a_solicitation_of_a_linux_kernel_apart() {
        // As Linux sends it, the checksum computed by other means: fe80::ff:fe00:c asks for 2001:db8::10.
        let frame: &[u8] = &[
            0x33, 0x33, 0xff, 0, 0, 0x10, 0x02, 0, 0, 0, 0, 0x0c, 0x86, 0xdd, // Ethernet
            0x60, 0, 0, 0, 0, 32, 58, 255, // IPv6
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0x0c, // source
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0x10, // destination
            135, 0, 0x4c, 0x2d, 0, 0, 0, 0, // ICMPv6
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, // target
            1, 1, 0x02, 0, 0, 0, 0, 0x0c, // source link-layer address
        ];
        let source = "fe80::ff:fe00:c".parse().unwrap();
        assert_eq!(
            parse(frame).unwrap(),
            Message::Solicitation(Solicitation {
                ethernet: Header {
                    destination: MacAddr([0x33, 0x33, 0xff, 0, 0, 0x10]),
                    source: CLIENT,
                    ethertype: 0x86dd
                },
                source,
                destination: "ff02::1:ff00:10".parse().unwrap(),
                target: VIP,
                source_mac: Some(CLIENT),
            })
        );
        assert_eq!(solicitation(CLIENT, source, VIP), frame);
    }

    #[test]
    fn the_answer_comes_from_the_nic_and_speaks_of_the_cluster() {
        for router in [false, true] {
            let Message::Solicitation(question) = parse(&asked()).unwrap() else { panic!("a question") };
            let Message::Advertisement(answer) =
                parse(&advertisement(OWN, CLUSTER, router, &question)).unwrap()
            else {
                panic!("an answer")
            };
            assert_eq!(
                answer,
                Advertisement {
                    ethernet: Header { destination: CLIENT, source: OWN, ethertype: 0x86dd },
                    source: VIP,
                    destination: CLIENT_IP,
                    target: VIP,
                    target_mac: Some(CLUSTER),
                    router,
                    solicited: true,
                    overrides: true,
                }
            );
        }
    }

    #[test]
    fn the_asker_is_who_it_says_or_where_the_frame_came_from() {
        let Message::Solicitation(mut question) = parse(&asked()).unwrap() else { panic!("a question") };
        question.ethernet.source = OWN;
        let destination = |question: &Solicitation| {
            MacAddr::try_from(&advertisement(OWN, CLUSTER, false, question)[..6]).unwrap()
        };
        assert_eq!(destination(&question), CLIENT);
        question.source_mac = None;
        assert_eq!(destination(&question), OWN);
    }

    #[test]
    fn duplicate_detection_is_answered_to_all_nodes() {
        let frame = solicitation(CLIENT, Ipv6Addr::UNSPECIFIED, VIP);
        let Message::Solicitation(question) = parse(&frame).unwrap() else { panic!("a question") };
        assert_eq!((question.source, question.source_mac), (Ipv6Addr::UNSPECIFIED, None));
        let Message::Advertisement(answer) = parse(&advertisement(OWN, CLUSTER, true, &question)).unwrap()
        else {
            panic!("an answer")
        };
        assert_eq!(answer.destination, ALL_NODES);
        assert_eq!(answer.ethernet.destination, MacAddr([0x33, 0x33, 0, 0, 0, 1]));
        assert!(!answer.solicited && answer.overrides && answer.router);
    }

    #[test]
    fn an_announcement_is_to_all_nodes_and_unsolicited() {
        let Message::Advertisement(answer) = parse(&announcement(OWN, CLUSTER, false, VIP)).unwrap() else {
            panic!("an announcement")
        };
        assert_eq!((answer.source, answer.destination, answer.target), (VIP, ALL_NODES, VIP));
        assert_eq!((answer.ethernet.source, answer.target_mac), (OWN, Some(CLUSTER)));
        assert!(!answer.solicited && answer.overrides && !answer.router);
    }

    #[test]
    fn refuses_every_frame_that_is_too_short_and_takes_padding() {
        for frame in [asked(), answered()] {
            for length in 0..frame.len() {
                assert_eq!(parse(&frame[..length]).unwrap_err(), Malformed::TooShort, "{length} bytes");
            }
            let mut padded = frame.clone();
            padded.extend([0xaa; 9]);
            assert_eq!(parse(&padded), parse(&frame));
        }
    }

    #[test]
    fn refuses_what_is_not_a_neighbour_message() {
        for frame in [asked(), answered()] {
            for bit in 0..16 {
                let mut other = frame.clone();
                other[12 + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse(&other).unwrap_err(), Malformed::NotIpv6);
            }
            for version in (0..16).filter(|version| *version != 6) {
                let mut other = frame.clone();
                other[AT_VERSION] = version << 4;
                assert_eq!(parse(&other).unwrap_err(), Malformed::NotIpv6);
            }
            for next in (0..=255).filter(|next| *next != 58) {
                let mut other = frame.clone();
                other[AT_NEXT_HEADER] = next;
                assert_eq!(parse(&other).unwrap_err(), Malformed::NotIcmpv6);
            }
            for kind in (0..=255).filter(|kind| !matches!(kind, 135 | 136)) {
                assert_eq!(parse(&changed(&frame, AT_TYPE, &[kind])).unwrap_err(), Malformed::OtherType);
            }
            for code in 1..=255 {
                assert_eq!(parse(&changed(&frame, AT_CODE, &[code])).unwrap_err(), Malformed::OtherType);
            }
        }
    }

    #[test]
    fn refuses_what_has_been_forwarded() {
        for frame in [asked(), answered()] {
            for hops in 0..255 {
                let mut other = frame.clone();
                other[AT_HOP_LIMIT] = hops;
                assert_eq!(parse(&other).unwrap_err(), Malformed::HopLimit(hops));
            }
        }
    }

    #[test]
    fn every_bit_under_the_checksum_counts() {
        for frame in [asked(), answered()] {
            for byte in AT_SOURCE..frame.len() {
                // The type and code are looked at first.
                if byte == AT_TYPE || byte == AT_CODE {
                    continue;
                }
                for bit in 0..8 {
                    let mut other = frame.clone();
                    other[byte] ^= 1 << bit;
                    assert_eq!(parse(&other).unwrap_err(), Malformed::Checksum, "byte {byte} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn refuses_groups_as_target_and_source() {
        let group = ALL_NODES.octets();
        for frame in [asked(), answered()] {
            assert_eq!(parse(&changed(&frame, AT_TARGET, &group)).unwrap_err(), Malformed::MulticastTarget);
            assert_eq!(parse(&changed(&frame, AT_SOURCE, &group)).unwrap_err(), Malformed::ImpossibleSource);
        }
    }

    #[test]
    fn refuses_impossible_duplicate_detection() {
        // With a link-layer address.
        let frame = changed(&asked(), AT_SOURCE, &[0; 16]);
        assert_eq!(parse(&frame).unwrap_err(), Malformed::ImpossibleSource);
        // Not to the target's group.
        let detection = solicitation(CLIENT, Ipv6Addr::UNSPECIFIED, VIP);
        for destination in [VIP, ALL_NODES, "ff02::1:ff00:11".parse().unwrap()] {
            let frame = changed(&detection, AT_DESTINATION, &destination.octets());
            assert_eq!(parse(&frame).unwrap_err(), Malformed::ImpossibleSource, "{destination}");
        }
        // Nobody answers without an address.
        let frame = changed(&answered(), AT_SOURCE, &[0; 16]);
        assert_eq!(parse(&frame).unwrap_err(), Malformed::ImpossibleSource);
    }

    #[test]
    fn refuses_an_advertisement_that_a_group_has_asked_for() {
        let frame = changed(&answered(), AT_DESTINATION, &ALL_NODES.octets());
        assert_eq!(parse(&frame).unwrap_err(), Malformed::SolicitedByGroup);
        let frame = changed(&frame, AT_FLAGS, &[FLAG_OVERRIDE]);
        assert!(parse(&frame).is_ok());
    }

    #[test]
    fn refuses_broken_options_and_passes_over_unknown_ones() {
        for length in [0, 2, 255] {
            let frame = changed(&asked(), AT_OPTION + 1, &[length]);
            assert_eq!(parse(&frame).unwrap_err(), Malformed::BrokenOption, "length {length}");
        }
        // A type without a length.
        let mut frame = asked();
        frame.push(1);
        frame[19] += 1;
        seal(&mut frame);
        assert_eq!(parse(&frame).unwrap_err(), Malformed::BrokenOption);
        // A nonce (RFC 7527) before the address, and one of two units that looks like an address.
        let mut frame = asked();
        let address = frame.split_off(AT_OPTION);
        frame.extend([14, 1, 1, 2, 3, 4, 5, 6]);
        frame.extend([1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        frame.extend(address);
        frame[19] += 24;
        seal(&mut frame);
        let Message::Solicitation(question) = parse(&frame).unwrap() else { panic!("a question") };
        assert_eq!(question.source_mac, Some(CLIENT));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(frame in proptest::collection::vec(proptest::num::u8::ANY, 0..120)) {
            let _ = parse(&frame);
        }

        #[test]
        fn never_panics_behind_the_checksum(
            flips in proptest::collection::vec((AT_SOURCE..86, proptest::num::u8::ANY), 0..6),
            is_question in proptest::bool::ANY,
        ) {
            let mut frame = if is_question { asked() } else { answered() };
            for (byte, value) in flips {
                frame[byte] = value;
            }
            seal(&mut frame);
            let _ = parse(&frame);
        }
    }
}
