//! The hash against the kernel's own, as nftables asks it: real packets, marked by rules, of which each must carry the
//! bucket that this crate computes.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use common::{
    SEED,
    frames::{ICMP, ICMPV6, UDP},
    netns::{Netns, run},
    wait_for,
};
use rudel_datapath::{Flow, HashMode, Side, flow};

const PORT: u16 = 5300;
const FLOWS: u16 = 100;

/// One way to lay out the key, as a rule says it; `IP` stands for `ip` or `ip6`.
struct Layout {
    set: &'static str,
    mode: HashMode,
    side: Side,
    expression: &'static str,
}

const UDP_LAYOUTS: [Layout; 7] = [
    Layout { set: "ip", mode: HashMode::SourceIp, side: Side::Service, expression: "IP saddr" },
    Layout {
        set: "port",
        mode: HashMode::SourceIpPort,
        side: Side::Inside,
        expression: "IP saddr . th sport",
    },
    Layout {
        set: "ports",
        mode: HashMode::SourceIpPortDestPort,
        side: Side::Inside,
        expression: "IP saddr . th sport . th dport",
    },
    Layout { set: "net", mode: HashMode::SourceNet, side: Side::Service, expression: "IP saddr & MASK" },
    Layout { set: "back_ip", mode: HashMode::SourceIp, side: Side::Outside, expression: "IP daddr" },
    Layout {
        set: "back_port",
        mode: HashMode::SourceIpPort,
        side: Side::Outside,
        expression: "IP daddr . th dport",
    },
    Layout {
        set: "back_ports",
        mode: HashMode::SourceIpPortDestPort,
        side: Side::Outside,
        expression: "IP daddr . th dport . th sport",
    },
];

const ECHO_LAYOUTS: [Layout; 2] = [
    Layout {
        set: "echo",
        mode: HashMode::SourceIpPort,
        side: Side::Inside,
        expression: "IP saddr . ICMP id",
    },
    Layout {
        set: "echo_twice",
        mode: HashMode::SourceIpPortDestPort,
        side: Side::Inside,
        expression: "IP saddr . ICMP id . ICMP id",
    },
];

/// What differs between the families.
struct Family {
    ip: &'static str,
    icmp: &'static str,
    mask: &'static str,
    echo: u8,
    address: fn(u16) -> IpAddr,
}

const FAMILIES: [Family; 2] = [
    Family {
        ip: "ip",
        icmp: "icmp",
        mask: "255.255.255.0",
        echo: ICMP,
        address: |number| {
            let [high, low] = number.wrapping_mul(40_503).to_be_bytes();
            Ipv4Addr::new(127, high, low, 1 + low / 2).into()
        },
    },
    Family {
        ip: "ip6",
        icmp: "icmpv6",
        mask: "ffff:ffff:ffff:ffff::",
        echo: ICMPV6,
        address: |number| {
            let mixed = number.wrapping_mul(40_503);
            Ipv6Addr::new(0x2001, 0xdb8, mixed, !mixed, mixed.rotate_left(5), 7, mixed ^ 0x5555, mixed.max(1))
                .into()
        },
    },
];

/// Two rules and a set for a layout: the first rule marks, the second remembers what it marked.
fn rules(family: &Family, layout: &Layout, guard: &str, id: &str) -> (String, String) {
    let Family { ip, icmp, mask, .. } = family;
    let set = format!("{}_{ip}", layout.set);
    let expression =
        layout.expression.replace("IP ", &format!("{ip} ")).replace("ICMP", icmp).replace("MASK", mask);
    let declared = format!(
        "set {set} {{ typeof {ip} saddr . {ip} daddr . {id} . meta mark; flags dynamic; size 65535; }}\n"
    );
    let rules = format!(
        "{guard} meta mark set jhash {expression} mod 256 seed {SEED}\n\
         {guard} add @{set} {{ {ip} saddr . {ip} daddr . {id} . meta mark }}\n"
    );
    (declared, rules)
}

fn rule_set() -> String {
    let (mut sets, mut chain) = (String::new(), String::new());
    for family in &FAMILIES {
        let Family { ip, icmp, .. } = family;
        let nfproto = if *ip == "ip" { "ipv4" } else { "ipv6" };
        let udp = (format!("meta nfproto {nfproto} udp dport {PORT}"), "th sport".to_string());
        let echo = (format!("meta nfproto {nfproto} {icmp} type echo-request"), format!("{icmp} id"));
        let udp = UDP_LAYOUTS.iter().map(|layout| (layout, &udp));
        let echo = ECHO_LAYOUTS.iter().map(|layout| (layout, &echo));
        for (layout, (guard, id)) in udp.chain(echo) {
            let (declared, rules) = rules(family, layout, guard, id);
            sets += &declared;
            chain += &rules;
        }
    }
    format!("table inet t {{\n{sets}chain input {{ type filter hook input priority 0;\n{chain}}}\n}}\n")
}

/// Source, destination, port or identifier, and the mark that the kernel computed for them.
type Marked = (IpAddr, IpAddr, u16, u8);

fn marked(netns: &Netns, family: &Family, layout: &Layout) -> BTreeSet<Marked> {
    let set = format!("{}_{}", layout.set, family.ip);
    let text = run(&["ip", "netns", "exec", netns.name(), "nft", "-j", "list", "set", "inet", "t", &set]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let Some(elements) = json.pointer("/nftables/1/set/elem").and_then(|value| value.as_array()) else {
        return BTreeSet::new();
    };
    let address =
        |value: &serde_json::Value| value.as_str().and_then(|text| text.parse().ok()).expect("an address");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    elements
        .iter()
        .map(|element| {
            let element = element.pointer("/elem/val").unwrap_or(element);
            let fields = element.pointer("/concat").and_then(|value| value.as_array()).expect("four fields");
            let id = number(&fields[2]).try_into().expect("a port");
            (address(&fields[0]), address(&fields[1]), id, number(&fields[3]).try_into().expect("a bucket"))
        })
        .collect()
}

#[test]
fn nftables_computes_the_same_buckets() {
    require_bpf!("nftables_computes_the_same_buckets");
    let netns = Netns::new();
    netns.ip("-6 route add local 2001:db8::/32 dev lo");
    run(&["ip", "netns", "exec", netns.name(), "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1"]);
    let file = std::env::temp_dir().join(format!("rudel-datapath-{}.nft", std::process::id()));
    fs::write(&file, rule_set()).expect("write the rules");
    run(&["ip", "netns", "exec", netns.name(), "nft", "-f", file.to_str().expect("a path")]);
    fs::remove_file(&file).expect("remove the rules");

    for family in &FAMILIES {
        netns.enter(|| {
            for number in 0..FLOWS {
                let (src, dst) = ((family.address)(number), (family.address)(number + 10_000));
                let socket = UdpSocket::bind((src, 1_024 + number * 601)).expect("bind");
                socket.send_to(b"x", (dst, PORT)).expect("send");
            }
        });
        for layout in &UDP_LAYOUTS {
            let seen = wait_for("all marks", || {
                let seen = marked(&netns, family, layout);
                (seen.len() == usize::from(FLOWS)).then_some(seen)
            });
            for (src, dst, port, mark) in seen {
                let of = Flow::with_ports(UDP, (src, port), (dst, PORT));
                let bucket = flow::bucket(&of, layout.mode, layout.side, SEED);
                assert_eq!(mark, bucket, "{} of {of:?}", layout.expression);
            }
        }

        for number in 0..8 {
            let (src, dst) =
                ((family.address)(number).to_string(), (family.address)(number + 10_000).to_string());
            run(&["ip", "netns", "exec", netns.name(), "ping", "-q", "-c1", "-W5", "-I", &src, &dst]);
        }
        for layout in &ECHO_LAYOUTS {
            let seen = marked(&netns, family, layout);
            assert_eq!(seen.len(), 8);
            for (src, dst, id, mark) in seen {
                let of = Flow::echo(family.echo, src, dst, id);
                assert_eq!(
                    mark,
                    flow::bucket(&of, layout.mode, layout.side, SEED),
                    "{} {of:?}",
                    layout.expression
                );
            }
        }
    }
}
