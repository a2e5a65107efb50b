//! From the configuration to the text that nft reads, and that an administrator reads in `nft list ruleset`.
//!
//! ```text
//! translate (postrouting) ─► ip (which address? by the host inside) ─► ip_0 (which bucket? by the flow)
//!                                                                        ─► ip_0_0 … ip_0_255 (which ports)
//! ```
//!
//! A chain for each block, and not a map of address and port range: nft 1.0.6 takes such a map silently and gives every
//! flow the first port of its range, and computes wrong registers for IPv6. Chains work in both families.

use std::fmt::Write as _;
use std::net::IpAddr;

use rudel_api::config::{Config, HashMode, Side};
use rudel_datapath::border::{Border, Network};

use crate::host::nft::Ruleset;
use crate::router;

/// Before what administrators have at the usual priorities: whose rule comes first translates.
const BEFORE_OTHERS: u8 = 10;

/// One address family in nft's words.
struct Family {
    ip: &'static str,
    icmp: &'static str,
    net_mask: &'static str,
    set_type: &'static str,
    is: fn(&IpAddr) -> bool,
}

const FAMILIES: [Family; 2] = [
    Family { ip: "ip", icmp: "icmp", net_mask: "255.255.255.0", set_type: "ipv4_addr", is: IpAddr::is_ipv4 },
    Family {
        ip: "ip6",
        icmp: "icmpv6",
        net_mask: "ffff:ffff:ffff:ffff::",
        set_type: "ipv6_addr",
        is: IpAddr::is_ipv6,
    },
];

/// The table that a cluster needs; none if it needs none. `seed` is that of the flow hash.
pub fn ruleset(config: &Config, seed: u32) -> Option<Ruleset> {
    let border = router::border(config);
    let mut body = String::new();
    if !border.translated.is_empty() {
        body += &translation(config, &border, seed);
    }
    if !border.forwards.is_empty() {
        body += &forwards(config);
    }
    body += &advertisements(config);
    // The name of a cluster has no underscore, so no two come to one table.
    let table = format!("rudel_{}", config.cluster.name.as_str().replace('-', "_"));
    (!body.is_empty()).then_some(Ruleset { table, body })
}

fn names(config: &Config, sides: &[Side]) -> String {
    let all = config.interfaces.iter().filter(|interface| sides.contains(&interface.side));
    let quoted: Vec<String> = all.map(|interface| format!("\"{}\"", interface.name)).collect();
    format!("{{ {} }}", quoted.join(", "))
}

fn translation(config: &Config, border: &Border, seed: u32) -> String {
    let hash =
        config.interfaces.iter().find(|interface| interface.side == Side::Inside).map(|inside| inside.hash);
    let hash = hash.unwrap_or(HashMode::SourceIpPort);
    let (mut sets, mut chains, mut rules) = (String::new(), String::new(), String::new());
    for family in &FAMILIES {
        let addresses: Vec<IpAddr> = border.translated.iter().copied().filter(family.is).collect();
        if addresses.is_empty() {
            continue;
        }
        let ip = family.ip;
        let sources: Vec<String> = border
            .sources
            .iter()
            .filter(|network| (family.is)(&network.address))
            .map(|Network { address, prefix_len }| format!("{address}/{prefix_len}"))
            .collect();
        line(
            &mut sets,
            format_args!(
                "set {ip}_sources {{ type {}; flags interval; auto-merge; elements = {{ {} }}; }}",
                family.set_type,
                sources.join(", ")
            ),
        );
        for (index, address) in addresses.iter().enumerate() {
            chains += &address_chains(family, index, *address, hash, border, seed);
        }
        line(&mut chains, format_args!("chain {ip}_translate {{"));
        if let [_] = addresses[..] {
            line(&mut chains, format_args!("goto {ip}_0"));
        } else {
            // All flows of a host go out by one address (RFC 4787, REQ-2), so the choice is by the host alone, with
            // another seed than that of the buckets: the two must have nothing to do with each other.
            let choice: Vec<String> =
                (0..addresses.len()).map(|index| format!("{index} : goto {ip}_{index}")).collect();
            line(
                &mut chains,
                format_args!(
                    "jhash {ip} saddr mod {} seed {} vmap {{ {} }}",
                    addresses.len(),
                    seed ^ 0x5eed_5eed,
                    choice.join(", ")
                ),
            );
        }
        line(&mut chains, format_args!("}}"));
        line(
            &mut rules,
            format_args!(
                "iifname {} oifname {} {ip} saddr @{ip}_sources goto {ip}_translate",
                names(config, &[Side::Inside]),
                names(config, &[Side::Outside])
            ),
        );
    }
    format!(
        "{sets}{chains}chain translate {{\ntype nat hook postrouting priority srcnat - {BEFORE_OTHERS}; policy \
         accept;\n{rules}}}\n"
    )
}

/// What happens to the flows that go out by one address.
fn address_chains(
    family: &Family,
    index: usize,
    address: IpAddr,
    hash: HashMode,
    border: &Border,
    seed: u32,
) -> String {
    let Family { ip, icmp, net_mask, .. } = family;
    let literal = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let mut text = String::new();
    let ports = |(first, last): (u16, u16)| format!("snat {ip} to {literal}:{first}-{last}");
    let protocols = format!("meta l4proto {{ tcp, udp, {icmp} }}");
    // Other protocols, and other messages of ICMP, have no port to choose.
    let others = format!("snat {ip} to {address}");

    let (by_ports, by_id) = match hash {
        HashMode::SourceIp => (format!("{ip} saddr"), format!("{ip} saddr")),
        HashMode::SourceNet => (format!("{ip} saddr & {net_mask}"), format!("{ip} saddr & {net_mask}")),
        HashMode::SourceIpPort => (format!("{ip} saddr . th sport"), format!("{ip} saddr . {icmp} id")),
        HashMode::SourceIpPortDestPort => {
            (format!("{ip} saddr . th sport . th dport"), format!("{ip} saddr . {icmp} id . {icmp} id"))
        }
        HashMode::None => {
            // One bucket, one node: all ports are its own. Forwards of this address are found before them.
            line(&mut text, format_args!("chain {ip}_{index} {{"));
            line(&mut text, format_args!("{protocols} counter {}", ports((1024, 65535))));
            line(&mut text, format_args!("{others}\n}}"));
            return text;
        }
    };
    for bucket in 0..=u8::MAX {
        let target = match border.free_ports(bucket, address) {
            Some(free) => ports(free),
            None => "drop".to_owned(),
        };
        line(&mut text, format_args!("chain {ip}_{index}_{bucket} {{\n{protocols} counter {target}\n}}"));
    }
    let blocks: Vec<String> = (0..=u8::MAX).map(|b| format!("{b} : goto {ip}_{index}_{b}")).collect();
    let blocks = blocks.join(", ");
    line(&mut text, format_args!("chain {ip}_{index} {{"));
    let hashed = |key: &str| format!("jhash {key} mod 256 seed {seed} vmap {{ {blocks} }}");
    line(&mut text, format_args!("meta l4proto {{ tcp, udp }} {}", hashed(&by_ports)));
    line(&mut text, format_args!("{icmp} type echo-request {}", hashed(&by_id)));
    line(&mut text, format_args!("{others}\n}}"));
    text
}

fn forwards(config: &Config) -> String {
    let mut rules = String::new();
    let from = names(config, &[Side::Inside, Side::Outside]);
    for forward in config.nat.iter().flat_map(|nat| &nat.forward) {
        let ip = if forward.outer.is_ipv4() { "ip" } else { "ip6" };
        line(
            &mut rules,
            format_args!(
                "iifname {from} {ip} daddr {} {} dport {} counter dnat {ip} to {}",
                forward.outer.ip(),
                forward.transport,
                forward.outer.port(),
                forward.inner
            ),
        );
    }
    // `forward` is a word of nft's own.
    format!(
        "chain forwards {{\ntype nat hook prerouting priority dstnat - {BEFORE_OTHERS}; policy accept;\n{rules}}}\n"
    )
}

/// Where the cluster has a link-local address, router advertisements of this node go out from it: hosts must learn the
/// cluster as their router, not its nodes.
fn advertisements(config: &Config) -> String {
    let mut rules = String::new();
    for interface in config.interfaces.iter().filter(|interface| interface.side.is_router()) {
        if let Some(gateway) = interface.addresses.iter().find(|cidr| cidr.is_link_local_v6()) {
            line(
                &mut rules,
                format_args!(
                    "oifname \"{}\" icmpv6 type nd-router-advert ip6 saddr fe80::/10 ip6 saddr set {}",
                    interface.name,
                    gateway.address()
                ),
            );
        }
    }
    if rules.is_empty() {
        return rules;
    }
    format!("chain advertisements {{\ntype filter hook output priority filter; policy accept;\n{rules}}}\n")
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: &str = "[cluster]\nname = \"fire-wall\"\nkey_file = \"/k\"\n\
        [[interface]]\nname = \"lan\"\nside = \"inside\"\naddresses = [\"10.0.0.1/24\", \"fe80::1/64\"]\n\
        [[interface]]\nname = \"up\"\nside = \"outside\"\naddresses = [\"198.51.100.10/24\", \"2001:db8::10/64\"]\n";

    fn text(nat: &str) -> String {
        let config = Config::parse(&format!("{ROUTER}{nat}"), "test.toml").unwrap_or_else(|error| {
            panic!("{}", error.render(false));
        });
        ruleset(&config, 12_345).unwrap().body
    }

    #[test]
    fn every_bucket_has_its_block_on_every_address() {
        let text = text(
            "[nat]\naddress = [\"198.51.100.10\", \"198.51.100.11\", \"2001:db8::10\"]\n\
             inside = [\"10.0.0.0/8\", \"fd00::/8\"]\nforward = [\"tcp 198.51.100.11:1024 to 10.0.0.5:80\"]\n",
        );
        assert!(text.contains("counter snat ip to 198.51.100.10:1024-1275\n"));
        assert!(text.contains("counter snat ip to 198.51.100.11:1025-1275\n"), "1024 is forwarded");
        assert!(text.contains("counter snat ip6 to [2001:db8::10]:65284-65535\n"));
        assert_eq!(text.matches("counter snat").count(), 3 * 256);
        assert!(text.contains("jhash ip saddr . th sport mod 256 seed 12345 vmap { 0 : goto ip_0_0,"));
        assert!(text.contains("tcp dport 1024 counter dnat ip to 10.0.0.5:80\n"));
    }

    #[test]
    fn without_translation_there_are_only_advertisements() {
        let text = text("");
        assert!(
            text.starts_with("chain advertisements") && text.contains("ip6 saddr set fe80::1\n"),
            "{text}"
        );
    }

    #[test]
    fn a_service_cluster_needs_no_table() {
        let service = "[cluster]\nname = \"r\"\nkey_file = \"/k\"\n[[interface]]\nname = \"e\"\naddresses = [\"10.0.0.1/24\"]\n";
        assert!(ruleset(&Config::parse(service, "test.toml").unwrap(), 1).is_none());
    }
}
