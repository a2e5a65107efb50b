//! The packet program as a function: a packet goes in, and out come a verdict, a count, and the packet.

mod common;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use common::{Bpffs, CLUSTER_MAC, CLUSTER_TAG, LOOPBACK, OWN_MAC, frames::*, interface, lease, now_ns};
use rudel_datapath::{
    Action, Border, BucketState, BucketTable, Count, Datapath, Filter, Flow, HashMode, Heard,
    InterfaceOptions, LeaseUntil, ProbeCount, Side, Verdict, Xdp, flow,
    probe::{Probe, Way},
};

/// The packet program of one interface, with the state that it goes by.
struct Bench {
    xdp: Xdp,
    filter: Filter,
    bpffs: Bpffs,
}

impl Bench {
    /// A node that owns everything, with a lease that outlasts the test.
    fn new(side: Side, hash: HashMode) -> Self {
        Self::with_border(side, hash, Border::default())
    }

    fn with_border(side: Side, hash: HashMode, border: Border) -> Self {
        let bpffs = Bpffs::new();
        let mut xdp = Xdp::open(bpffs.options()).expect("open");
        let options = InterfaceOptions { border, ..interface(side, hash) };
        let filter = xdp.load_filter(&options).expect("load");
        xdp.write_table(&BucketTable::OWNED).expect("write_table");
        xdp.write_lease(lease(Duration::from_secs(3600))).expect("write_lease");
        Self { xdp, filter, bpffs }
    }

    fn counts(&self) -> [Count; 9] {
        self.xdp.counters().expect("counters")[0].verdicts
    }

    /// Runs one packet, and checks everything that must hold whatever the verdict is: exactly one counter moves, by
    /// one packet of this length; only a passed packet is changed, and only in its destination.
    fn run(&self, packet: &[u8]) -> Option<Verdict> {
        let before = self.counts();
        let result = self.filter.run(packet, 1).expect("run");
        let after = self.counts();

        let moved: Vec<Verdict> = Verdict::ALL
            .into_iter()
            .filter(|verdict| after[*verdict as usize] != before[*verdict as usize])
            .collect();
        let verdict = match moved[..] {
            [] => None,
            [verdict] => Some(verdict),
            _ => panic!("one packet moved {moved:?}"),
        };
        if let Some(verdict) = verdict {
            let one = Count { packets: 1, bytes: packet.len() as u64 };
            assert_eq!(after[verdict as usize], before[verdict as usize] + one, "{packet:02x?}");
        }

        let action = match verdict {
            None | Some(Verdict::Passed | Verdict::Control) => Action::Pass,
            Some(_) => Action::Drop,
        };
        assert_eq!(result.action, action, "{verdict:?}, {packet:02x?}");
        let mut expected = packet.to_vec();
        if verdict == Some(Verdict::Passed) {
            expected[..6].copy_from_slice(&OWN_MAC);
        }
        assert_eq!(result.packet, expected, "{verdict:?}");
        verdict
    }

    /// The buckets in which a packet counted.
    fn buckets_of(&self, packet: &[u8]) -> Vec<u8> {
        let before = self.xdp.bucket_counters().expect("bucket_counters");
        self.run(packet);
        let after = self.xdp.bucket_counters().expect("bucket_counters");
        (0..=u8::MAX).filter(|bucket| after[*bucket as usize].seen != before[*bucket as usize].seen).collect()
    }
}

fn check(bench: &Bench, cases: &[(&str, Vec<u8>, Option<Verdict>)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(description, packet, expected)| {
            let verdict = bench.run(packet);
            (verdict != *expected).then(|| format!("{description}: {verdict:?}, not {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

const PASSED: Option<Verdict> = Some(Verdict::Passed);
const MALFORMED: Option<Verdict> = Some(Verdict::Malformed);
const CONTROL: Option<Verdict> = Some(Verdict::Control);
const NOT_IP: Option<Verdict> = Some(Verdict::NotIp);

/// IP packets that have a bucket, one of every shape that the parser knows.
fn ip_packets() -> Vec<(&'static str, Vec<u8>)> {
    let to_vip4 = |protocol, payload: &[u8]| ip(CLIENT4, VIP4, protocol, payload);
    let to_vip6 = |protocol, payload: &[u8]| ip(CLIENT6, VIP6, protocol, payload);
    let syn = tcp_syn(40_000, 443);
    let answer4 = ip(VIP4, CLIENT4, TCP, &tcp_syn(443, 40_000));
    let answer6 = ip(VIP6, CLIENT6, TCP, &tcp_syn(443, 40_000));
    let answer6_long =
        ip(VIP6, CLIENT6, DESTINATION, &extension(AH, 1, &authentication(UDP, 3, &udp(53, 40_000))));
    let chain =
        extension(ROUTING, 0, &extension(DESTINATION, 2, &extension(AH, 0, &authentication(TCP, 3, &syn))));
    vec![
        ("TCP", to_vip4(TCP, &syn)),
        ("UDP", to_vip4(UDP, &udp(40_000, 53))),
        ("UDP-Lite", to_vip4(UDP_LITE, &udp(40_000, 53))),
        ("SCTP", to_vip4(SCTP, &udp(40_000, 53))),
        ("DCCP", to_vip4(DCCP, &udp(40_000, 53))),
        ("GRE", to_vip4(GRE, &[0; 24])),
        ("ESP", to_vip4(ESP, &[0; 24])),
        ("echo", to_vip4(ICMP, &icmp_echo(8, 77))),
        ("echo reply", to_vip4(ICMP, &icmp_echo(0, 77))),
        ("timestamp request", to_vip4(ICMP, &icmp_echo(13, 77))),
        ("options", ipv4(CLIENT4, VIP4, TCP, &[1; 40], 0, &syn)),
        ("do not fragment", ipv4(CLIENT4, VIP4, TCP, &[], 0x4000, &syn)),
        ("first fragment", ipv4(CLIENT4, VIP4, UDP, &[], 0x2000, &udp(40_000, 53))),
        ("middle fragment", ipv4(CLIENT4, VIP4, UDP, &[], 0x2064, &[0; 16])),
        ("last fragment", ipv4(CLIENT4, VIP4, UDP, &[], 0x0064, &[0; 3])),
        ("unreachable", ip(ROUTER4, VIP4, ICMP, &icmp_error(3, &answer4, 28))),
        ("time exceeded, all quoted", ip(ROUTER4, VIP4, ICMP, &icmp_error(11, &answer4, 99))),
        ("v6 TCP", to_vip6(TCP, &syn)),
        ("v6 UDP", to_vip6(UDP, &udp(40_000, 53))),
        ("v6 ESP", to_vip6(ESP, &[0; 24])),
        ("v6 no next header", to_vip6(NO_NEXT, &[])),
        ("v6 echo", to_vip6(ICMPV6, &icmp_echo(128, 77))),
        ("v6 echo reply", to_vip6(ICMPV6, &icmp_echo(129, 77))),
        ("v6 multicast listener query", to_vip6(ICMPV6, &icmp_echo(130, 0))),
        ("v6 chain", ip(CLIENT6, VIP6, HOP_BY_HOP, &chain)),
        ("v6 atomic fragment", ip(CLIENT6, VIP6, FRAGMENT, &fragment(UDP, 0, false, &udp(40_000, 53)))),
        ("v6 first fragment", ip(CLIENT6, VIP6, FRAGMENT, &fragment(UDP, 0, true, &udp(40_000, 53)))),
        ("v6 middle fragment", ip(CLIENT6, VIP6, FRAGMENT, &fragment(UDP, 90, true, &[0; 16]))),
        ("v6 last fragment", ip(CLIENT6, VIP6, FRAGMENT, &fragment(UDP, 180, false, &[0; 1]))),
        ("v6 too big", ip(ROUTER6, VIP6, ICMPV6, &icmp_error(2, &answer6, 48))),
        ("v6 unreachable, of a chain", ip(ROUTER6, VIP6, ICMPV6, &icmp_error(1, &answer6_long, 999))),
    ]
}

#[test]
fn packets_of_owned_buckets_go_up_under_our_own_address() {
    require_bpf!("packets_of_owned_buckets_go_up_under_our_own_address");
    let cases: Vec<_> = ip_packets()
        .into_iter()
        .map(|(description, packet)| (description, ip_frame(&packet), PASSED))
        .collect();
    for side in Side::ALL {
        for hash in HashMode::ALL {
            check(&Bench::new(side, hash), &cases);
        }
    }
}

#[test]
fn frames_to_any_other_address_are_none_of_our_business() {
    require_bpf!("frames_to_any_other_address_are_none_of_our_business");
    let bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    let payload = ip(CLIENT4, VIP4, TCP, &tcp_syn(40_000, 443));
    for byte in 0..6 {
        let mut near = CLUSTER_MAC;
        near[byte] ^= 1;
        assert_eq!(bench.run(&frame_to(near, 0x0800, &payload)), None);
    }
    check(
        &bench,
        &[
            ("our own", frame_to(OWN_MAC, 0x0800, &payload), None),
            ("broadcast", frame_to([0xff; 6], 0x0806, &[0; 46]), None),
            ("garbage", frame_to(OWN_MAC, 0x0800, &[0xff; 3]), None),
        ],
    );
}

#[test]
fn what_is_not_ip() {
    require_bpf!("what_is_not_ip");
    let bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    let ip_packet = ip(CLIENT4, VIP4, TCP, &tcp_syn(40_000, 443));
    check(
        &bench,
        &[
            ("ARP", frame(0x0806, &[0; 28]), CONTROL),
            ("ARP of no length", frame(0x0806, &[]), CONTROL),
            ("tagged ARP", tagged(&[(0x8100, 7)], &frame(0x0806, &[0; 28])), CONTROL),
            ("loopback test", frame(0x9000, &[0; 46]), NOT_IP),
            ("LLC", frame(46, &[0x42; 46]), NOT_IP),
            ("MPLS", frame(0x8847, &[0; 46]), NOT_IP),
            ("PPPoE", frame(0x8864, &[0; 46]), NOT_IP),
            (
                "three tags",
                tagged(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)], &frame(0x0800, &ip_packet)),
                NOT_IP,
            ),
        ],
    );
}

#[test]
fn control_goes_up_untouched_even_where_nothing_is_owned() {
    require_bpf!("control_goes_up_untouched_even_where_nothing_is_owned");
    let mut bench = Bench::new(Side::Outside, HashMode::SourceIpPort);
    bench.xdp.clear().expect("clear");
    let ndisc = |kind| ip_frame(&ip(CLIENT6, VIP6, ICMPV6, &[&[kind, 0, 0, 0], &[0; 20][..]].concat()));
    check(
        &bench,
        &[
            ("ARP", frame(0x0806, &[0; 28]), CONTROL),
            ("router solicitation", ndisc(133), CONTROL),
            ("router advertisement", ndisc(134), CONTROL),
            ("neighbour solicitation", ndisc(135), CONTROL),
            ("neighbour advertisement", ndisc(136), CONTROL),
            ("redirect", ndisc(137), CONTROL),
            ("next to neighbour discovery", ndisc(138), Some(Verdict::Ignored)),
            ("tagged solicitation", tagged(&[(0x8100, 7)], &ndisc(135)), CONTROL),
            ("IGMP query", ip_frame(&ipv4(ROUTER4, VIP4, IGMP, &[0x94, 4, 0, 0], 0, &[0x11; 8])), CONTROL),
            (
                "a neighbour solicitation's number in IPv4",
                ip_frame(&ip(CLIENT4, VIP4, ICMPV6, &[135; 24])),
                Some(Verdict::Ignored),
            ),
            (
                "a fragment that says ICMPv6",
                ip_frame(&ip(CLIENT6, VIP6, FRAGMENT, &fragment(ICMPV6, 0, true, &[135; 24]))),
                Some(Verdict::Ignored),
            ),
        ],
    );
}

#[test]
fn tags_are_looked_through() {
    require_bpf!("tags_are_looked_through");
    let bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    for (description, packet) in ip_packets() {
        let plain = ip_frame(&packet);
        let buckets = bench.buckets_of(&plain);
        assert_eq!(buckets.len(), 1, "{description}");
        for tags in
            [&[(0x8100, 5)][..], &[(0x88a8, 5)], &[(0x88a8, 5), (0x8100, 6)], &[(0x8100, 5), (0x8100, 6)]]
        {
            assert_eq!(bench.buckets_of(&tagged(tags, &plain)), buckets, "{description} behind {tags:x?}");
        }
    }
}

/// Whatever is missing at the end of a packet, it is malformed: never read beyond, never passed.
#[test]
fn a_packet_that_was_cut_anywhere_is_malformed() {
    require_bpf!("a_packet_that_was_cut_anywhere_is_malformed");
    let bench = Bench::new(Side::Service, HashMode::SourceIpPortDestPort);
    for (description, packet) in ip_packets() {
        let whole = ip_frame(&packet);
        for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 5), (0x8100, 6)]] {
            let whole = tagged(tags, &whole);
            for length in 14..whole.len() {
                assert_eq!(
                    bench.run(&whole[..length]),
                    MALFORMED,
                    "{description}, {length} of {}",
                    whole.len()
                );
            }
            assert_eq!(bench.run(&whole), PASSED, "{description}");
            let padded = [&whole[..], &[0; 46]].concat();
            assert_eq!(bench.run(&padded), PASSED, "{description}, padded");
        }
    }
}

#[test]
fn an_error_must_quote_as_much_as_the_key_needs() {
    require_bpf!("an_error_must_quote_as_much_as_the_key_needs");
    let bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    let udp4 = ipv4(VIP4, CLIENT4, UDP, &[1; 4], 0, &udp(53, 40_000));
    let echo4 = ip(VIP4, CLIENT4, ICMP, &icmp_echo(8, 9));
    let esp4 = ip(VIP4, CLIENT4, ESP, &[0; 20]);
    let part4 = ipv4(VIP4, CLIENT4, UDP, &[], 0x2000, &udp(53, 40_000));
    let udp6 = ip(VIP6, CLIENT6, DESTINATION, &extension(UDP, 0, &udp(53, 40_000)));
    let part6 = ip(VIP6, CLIENT6, FRAGMENT, &fragment(UDP, 0, true, &udp(53, 40_000)));
    let error4 = |about: &[u8], bytes| ip(ROUTER4, VIP4, ICMP, &icmp_error(3, about, bytes));
    let error6 = |about: &[u8], bytes| ip(ROUTER6, VIP6, ICMPV6, &icmp_error(2, about, bytes));
    type Error<'a> = &'a dyn Fn(&[u8], usize) -> Vec<u8>;
    let quotes: [(&str, &[u8], usize, Error); 6] = [
        ("UDP behind options", &udp4, 24 + 4, &error4),
        ("an echo", &echo4, 20 + 8, &error4),
        ("ESP", &esp4, 20, &error4),
        ("a fragment", &part4, 20, &error4),
        ("UDP behind an extension header", &udp6, 40 + 8 + 4, &error6),
        ("an IPv6 fragment", &part6, 40 + 8, &error6),
    ];
    for (description, about, needed, error) in quotes {
        for bytes in 0..=about.len() {
            let expected = if bytes < needed { MALFORMED } else { PASSED };
            let packet = ip_frame(&error(about, bytes));
            assert_eq!(bench.run(&packet), expected, "{bytes} bytes quoted of {description}");
        }
    }
}

#[test]
fn headers_that_contradict_themselves() {
    require_bpf!("headers_that_contradict_themselves");
    let bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    let v4 = ip(CLIENT4, VIP4, TCP, &tcp_syn(40_000, 443));
    let v6 = ip(CLIENT6, VIP6, TCP, &tcp_syn(40_000, 443));
    // The EtherType stays that of the whole packet.
    let with = |packet: &[u8], at: usize, byte| {
        let mut frame = ip_frame(packet);
        frame[14 + at] = byte;
        frame
    };
    let chain = |links: usize| {
        let mut payload = extension(TCP, 0, &tcp_syn(40_000, 443));
        for _ in 1..links {
            payload = extension(DESTINATION, 0, &payload);
        }
        ip_frame(&ip(CLIENT6, VIP6, DESTINATION, &payload))
    };
    let mut overlong = extension(TCP, 0, &tcp_syn(40_000, 443));
    overlong[1] = 200;
    let mut overlong_end = extension(NO_NEXT, 0, &[]);
    overlong_end[1] = 1;
    let mut no_length = v4.clone();
    no_length[2..4].fill(0);
    let mut jumbo = v6.clone();
    jumbo[4..6].fill(0);
    check(
        &bench,
        &[
            ("as it was", with(&v4, 8, 64), PASSED),
            ("version 5", with(&v4, 0, 0x55), MALFORMED),
            ("version 6 under IPv4's type", with(&v4, 0, 0x65), MALFORMED),
            ("header of 16 bytes", with(&v4, 0, 0x44), MALFORMED),
            ("header longer than the packet", with(&v4, 0, 0x4f), MALFORMED),
            ("length below the header's", with(&v4, 3, 19), MALFORMED),
            ("length beyond the frame", with(&v4, 3, 41), MALFORMED),
            ("length far beyond the frame", with(&v4, 2, 0xff), MALFORMED),
            ("no length: merged by the stack", frame(0x0800, &no_length), PASSED),
            ("v6 as it was", with(&v6, 7, 64), PASSED),
            ("v6 with version 4", with(&v6, 0, 0x40), MALFORMED),
            ("v6 payload beyond the frame", with(&v6, 5, 21), MALFORMED),
            ("v6 no length: merged by the stack", frame(0x86dd, &jumbo), PASSED),
            (
                "v6 extension header beyond the packet",
                ip_frame(&ip(CLIENT6, VIP6, ROUTING, &overlong)),
                MALFORMED,
            ),
            (
                "v6 last header beyond the packet",
                ip_frame(&ip(CLIENT6, VIP6, ROUTING, &overlong_end)),
                MALFORMED,
            ),
            ("v6 eight extension headers", chain(8), PASSED),
            ("v6 nine extension headers", chain(9), MALFORMED),
        ],
    );
}

/// A routed flow meets at one node: packets, fragments, echoes and errors, in both directions.
#[test]
fn both_directions_of_a_routed_flow_have_one_bucket() {
    require_bpf!("both_directions_of_a_routed_flow_have_one_bucket");
    for hash in HashMode::ALL {
        let inside = Bench::new(Side::Inside, hash);
        let outside = Bench::new(Side::Outside, hash);
        let there4 = ip(CLIENT4, VIP4, TCP, &tcp_syn(40_000, 443));
        let back4 = ip(VIP4, CLIENT4, TCP, &tcp_syn(443, 40_000));
        let there6 = ip(CLIENT6, VIP6, UDP, &udp(40_000, 443));
        let back6 = ip(VIP6, CLIENT6, UDP, &udp(443, 40_000));
        let flows: [(&str, [Vec<u8>; 4]); 4] = [
            (
                "TCP, with an error from either side",
                [
                    there4.clone(),
                    ip(ROUTER4, VIP4, ICMP, &icmp_error(3, &back4, 28)),
                    back4,
                    ip(ROUTER4, CLIENT4, ICMP, &icmp_error(11, &there4, 28)),
                ],
            ),
            (
                "UDP over IPv6, with an error from either side",
                [
                    there6.clone(),
                    ip(ROUTER6, VIP6, ICMPV6, &icmp_error(1, &back6, 99)),
                    back6,
                    ip(ROUTER6, CLIENT6, ICMPV6, &icmp_error(2, &there6, 99)),
                ],
            ),
            (
                "echo",
                [
                    ip(CLIENT4, VIP4, ICMP, &icmp_echo(8, 77)),
                    ip(CLIENT4, VIP4, ICMP, &icmp_echo(8, 77)),
                    ip(VIP4, CLIENT4, ICMP, &icmp_echo(0, 77)),
                    ip(
                        ROUTER4,
                        CLIENT4,
                        ICMP,
                        &icmp_error(3, &ip(CLIENT4, VIP4, ICMP, &icmp_echo(8, 77)), 28),
                    ),
                ],
            ),
            (
                "fragments",
                [
                    ipv4(CLIENT4, VIP4, UDP, &[], 0x2000, &udp(40_000, 53)),
                    ipv4(CLIENT4, VIP4, UDP, &[], 0x0010, &[9; 40]),
                    ipv4(VIP4, CLIENT4, UDP, &[], 0x2000, &udp(53, 40_000)),
                    ipv4(VIP4, CLIENT4, UDP, &[], 0x0010, &[7; 40]),
                ],
            ),
        ];
        for (description, [first, second, third, fourth]) in flows {
            let bucket = inside.buckets_of(&ip_frame(&first));
            assert_eq!(
                inside.buckets_of(&ip_frame(&second)),
                bucket,
                "{description}, {hash}: second from inside"
            );
            assert_eq!(
                outside.buckets_of(&ip_frame(&third)),
                bucket,
                "{description}, {hash}: first from outside"
            );
            assert_eq!(
                outside.buckets_of(&ip_frame(&fourth)),
                bucket,
                "{description}, {hash}: second from outside"
            );
        }
    }
}

#[test]
fn state_of_the_bucket_and_lease_decide() {
    require_bpf!("state_of_the_bucket_and_lease_decide");
    let mut bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    let packet = ip_frame(&ip(CLIENT4, VIP4, TCP, &tcp_syn(40_000, 443)));
    let of = Flow::with_ports(TCP, (CLIENT4.into(), 40_000), (VIP4.into(), 443));
    let bucket = flow::bucket(&of, HashMode::SourceIpPort, Side::Service, common::SEED);
    let holds = lease(Duration::from_secs(3600));

    let everything_but = |state| {
        let mut table = BucketTable::OWNED;
        table.set(bucket, state);
        table
    };
    let nothing_but = |state| {
        let mut table = BucketTable::IGNORED;
        table.set(bucket, state);
        table
    };
    let cases = [
        (nothing_but(BucketState::Owned), holds, Verdict::Passed),
        (nothing_but(BucketState::OwnedWhileKept), holds, Verdict::Passed),
        (everything_but(BucketState::Ignored), holds, Verdict::Ignored),
        (everything_but(BucketState::Kept), holds, Verdict::Ignored),
        (nothing_but(BucketState::Owned), LeaseUntil::LAPSED, Verdict::Fenced),
        (nothing_but(BucketState::Owned), LeaseUntil::from_nanos(now_ns() - 1), Verdict::Fenced),
        (everything_but(BucketState::Ignored), LeaseUntil::LAPSED, Verdict::Ignored),
    ];
    for (table, until, verdict) in cases {
        bench.xdp.write_table(&table).expect("write_table");
        bench.xdp.write_lease(until).expect("write_lease");
        assert_eq!(bench.xdp.read_table().expect("read_table"), table);
        assert_eq!(bench.run(&packet), Some(verdict), "{table:?}, {until:?}");
    }

    let counted = bench.xdp.bucket_counters().expect("bucket_counters");
    assert_eq!(counted.len(), 256);
    assert_eq!((counted[bucket as usize].seen, counted[bucket as usize].passed), (7, 2));
    assert_eq!(counted.iter().map(|count| count.seen).sum::<u64>(), 7);
    assert_eq!(bench.xdp.counters().expect("counters")[0].seen().packets, 7);
}

/// The filter reads the same clock as we do: one that lags would pass packets that came after the end.
#[test]
fn no_packet_passes_after_the_lease() {
    require_bpf!("no_packet_passes_after_the_lease");
    let mut bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    let packet = ip_frame(&ip(CLIENT4, VIP4, TCP, &tcp_syn(40_000, 443)));
    let mut passed = 0;
    for _ in 0..30 {
        let until = lease(Duration::from_millis(25));
        bench.xdp.write_lease(until).expect("write_lease");
        assert_eq!(bench.xdp.read_lease().expect("read_lease"), until);
        loop {
            let sent_ns = now_ns();
            if bench.filter.run(&packet, 1).expect("run").action == Action::Drop {
                break;
            }
            passed += 1;
            let late_ns = sent_ns.saturating_sub(until.as_nanos());
            assert_eq!(late_ns, 0, "passed a packet that came {late_ns} ns after the lease");
        }
    }
    assert!(passed > 30, "the lease never held");
}

#[test]
fn probes_are_counted_by_sender() {
    require_bpf!("probes_are_counted_by_sender");
    let bench = Bench::new(Side::Service, HashMode::SourceIpPort);
    let said =
        Probe { sender: 0x1122_3344_5566_7788, incarnation: 3, number: 4, proof: 5 << 60, tag: CLUSTER_TAG };
    let way4 = Way { own_mac: PEER_MAC, cluster_mac: CLUSTER_MAC, from: None, to: VIP4.into() };
    let way6 = Way { to: VIP6.into(), ..way4 };
    let good = said.frame(&way4);
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x7f];
    let later =
        Probe { incarnation: 6, number: 7, proof: 8, ..said }.frame(&Way { own_mac: OTHER_MAC, ..way4 });
    let other_sender = Probe { sender: 2, ..said };
    let changed = |at: usize| {
        let mut frame = good.clone();
        frame[at] ^= 1;
        frame
    };
    let began_ns = now_ns();
    check(
        &bench,
        &[
            ("a probe", good.clone(), Some(Verdict::Probe)),
            ("the same again", good.clone(), Some(Verdict::Probe)),
            ("tagged", tagged(&[(0x8100, 9)], &good), Some(Verdict::Probe)),
            ("the next", later, Some(Verdict::Probe)),
            ("another sender's", other_sender.frame(&way4), Some(Verdict::Probe)),
            ("v6", other_sender.frame(&way6), Some(Verdict::Probe)),
            // Whatever looks like one and is none is a packet of somebody.
            ("another magic", changed(42), PASSED),
            ("another version", changed(46), PASSED),
            ("another cluster's", changed(85), PASSED),
            ("another port", changed(37), PASSED),
            ("another protocol", changed(23), PASSED),
            ("cut", good[..85].to_vec(), MALFORMED),
        ],
    );
    let mut heard = bench.xdp.probes().expect("probes");
    heard.sort_by_key(|probe| (probe.sender, probe.family));
    let summary: Vec<_> = heard.iter().map(|probe| (probe.sender, probe.family, probe.count)).collect();
    assert_eq!(summary, [(2, 4, 1), (2, 6, 1), (0x1122_3344_5566_7788, 4, 4)]);
    let last = |probe: &ProbeCount| (probe.incarnation, probe.number, probe.proof, probe.mac);
    assert_eq!(
        heard.iter().map(last).collect::<Vec<_>>(),
        [(3, 4, 5 << 60, PEER_MAC), (3, 4, 5 << 60, PEER_MAC), (6, 7, 8, OTHER_MAC)],
        "the last one's words"
    );
    let beside = Heard::open(&bench.bpffs.node()).expect("open beside the daemon");
    assert_eq!(beside.last(2, LOOPBACK, 6).expect("last"), Some(heard[1].clone()));
    assert_eq!(beside.last(3, LOOPBACK, 4).expect("last"), None);
    assert_eq!(beside.last(2, LOOPBACK + 1, 4).expect("last"), None);
    for probe in heard {
        assert!((began_ns..=now_ns()).contains(&probe.last_ns), "{probe:?}");
    }
}

/// Packets that nobody thought of: each has one verdict, and none is read beyond its end.
#[test]
fn any_bytes_have_one_verdict() {
    require_bpf!("any_bytes_have_one_verdict");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let seeds: Vec<Vec<u8>> = ip_packets().iter().map(|(_, packet)| ip_frame(packet)).collect();
    for side in Side::ALL {
        let bench = Bench::with_border(side, HashMode::SourceIpPortDestPort, common::border::border());
        let mut verdicts = [0; 9];
        for _ in 0..20_000 {
            let mut packet = seeds[next() % seeds.len()].clone();
            for _ in 0..1 + next() % 4 {
                let at = 12 + next() % (packet.len() - 12);
                packet[at] = next() as u8;
            }
            if next() % 4 == 0 {
                packet.truncate(14 + next() % (packet.len() - 13));
            }
            let verdict = bench.run(&packet).expect("every frame to the cluster MAC is counted");
            verdicts[verdict as usize] += 1;
        }
        assert!(verdicts[Verdict::Passed as usize] > 2_000 && verdicts[Verdict::Malformed as usize] > 2_000);
    }
}

/// A router between a translated network, a second inside one, and the world: as in tests/vectors/make.py.
fn router(side: Side, hash: HashMode) -> Bench {
    Bench::with_border(side, hash, common::border::border())
}

const ORPHAN: Option<Verdict> = Some(Verdict::Orphan);
/// Of tests/common/mod.rs.
const NAT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const NAT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10);

#[test]
fn fragments_follow_the_first_one_and_orphans_go_nowhere() {
    require_bpf!("fragments_follow_the_first_one_and_orphans_go_nowhere");
    for (side, hash) in [
        (Side::Outside, HashMode::SourceIp),
        (Side::Inside, HashMode::SourceIpPort),
        (Side::Outside, HashMode::SourceIpPort),
    ] {
        let bench = router(side, hash);
        let four = |offset: u16, payload: &[u8]| ip_frame(&ipv4(CLIENT4, NAT4, UDP, &[], offset, payload));
        let six = |offset: u16, more: bool, payload: &[u8]| {
            ip_frame(&ip(CLIENT6, NAT6, FRAGMENT, &fragment(UDP, offset, more, payload)))
        };
        let gre = |offset: u16| ip_frame(&ipv4(CLIENT4, NAT4, GRE, &[], offset, &[0; 16]));
        check(
            &bench,
            &[
                ("a later one, alone", four(0x2064, &[0; 16]), ORPHAN),
                ("v6, a later one, alone", six(90, true, &[0; 16]), ORPHAN),
                ("the last one, alone", four(0x0064, &[0; 3]), ORPHAN),
                ("of a protocol without ports", gre(0x2064), PASSED),
                ("the first one", four(0x2000, &udp(53, 8080)), PASSED),
                ("a later one", four(0x2064, &[0; 16]), PASSED),
                ("the last one", four(0x0064, &[0; 3]), PASSED),
                ("v6, the first one", six(0, true, &udp(53, 8080)), PASSED),
                ("v6, a later one", six(90, true, &[0; 16]), PASSED),
                ("a first one without its ports", four(0x2000, &[0; 3]), MALFORMED),
            ],
        );
        let buckets: Vec<Vec<u8>> =
            [four(0x2000, &udp(53, 8080)), four(0x2064, &[0; 16]), four(0x0064, &[0; 3])]
                .iter()
                .map(|packet| bench.buckets_of(packet))
                .collect();
        assert!(buckets.iter().all(|bucket| *bucket == buckets[0]), "{buckets:?}");
        if side == Side::Outside {
            assert_eq!(buckets[0], [rudel_datapath::border::block_of(8080).expect("a block")]);
        }
    }
    // Where ports do not count, fragments need no first one.
    let bench = Bench::new(Side::Outside, HashMode::SourceIp);
    check(&bench, &[("a later one", ip_frame(&ipv4(CLIENT4, VIP4, UDP, &[], 0x2064, &[0; 16])), PASSED)]);
}

#[test]
fn in_a_handover_only_connections_of_the_node_itself_are_left_behind() {
    require_bpf!("in_a_handover_only_connections_of_the_node_itself_are_left_behind");
    let segment = |from, to| {
        let mut bytes = tcp_syn(40_000, 443);
        bytes[13] = 0x10;
        ip_frame(&ip(from, to, TCP, &bytes))
    };
    let (through, local) = (segment(CLIENT4, ROUTER4), segment(CLIENT4, Ipv4Addr::new(10, 0, 0, 1)));
    let mut bench = router(Side::Inside, HashMode::SourceIp);
    for (state, through_verdict, local_verdict) in [
        (BucketState::OwnedWhileKept, Verdict::Passed, Verdict::Left),
        (BucketState::Kept, Verdict::Ignored, Verdict::Ignored),
        (BucketState::KeptWatched, Verdict::Ignored, Verdict::Ignored),
    ] {
        bench.xdp.write_table(&BucketTable::new([state; 256])).expect("write_table");
        check(
            &bench,
            &[
                ("routed", through.clone(), Some(through_verdict)),
                ("to an address of the cluster", local.clone(), Some(local_verdict)),
            ],
        );
    }
}
