//! Whether this host's own packet rules drop what the cluster lives on, as far as that can be told from the list of them.
//!
//! A packet is led through the rules of each chain that hooks it. A match is true, false, or not known (a set of another
//! place, an extension of iptables, a connection mark): where anything that is not known might have decided otherwise,
//! nothing is said. So what is said is true, and not all is said.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rudel_api::check::{Area, Finding, Name, Report, Severity};
use rudel_api::config::Config;
use serde_json::Value;

use super::links::Link;
use super::system::{NotRun, System};

/// Jumps from chain to chain; the kernel allows 16.
const DEPTH_MAX: usize = 16;

/// What a rule looks at.
#[derive(Clone, Debug)]
struct Packet {
    hook: &'static str,
    interface: String,
    protocol: &'static str,
    number: u8,
    source: IpAddr,
    destination: IpAddr,
    ports: Option<u16>,
    /// `igmp type`, `icmpv6 type`.
    kind: Option<&'static str>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
    Unknown,
}

/// What a chain says before its end.
enum Step {
    Verdict(Fate),
    Return,
}

struct Rules {
    /// Base chains by (family, table, name): hook and policy.
    bases: Vec<(String, String, String, String, bool)>,
    chains: BTreeMap<(String, String, String), Vec<Vec<Value>>>,
    sets: BTreeMap<(String, String, String), Value>,
}

pub(super) fn check(system: &dyn System, config: &Config, links: &[Link], report: &mut Report) {
    let text = match system.run("nft", &["-j", "list", "ruleset"]) {
        Ok(text) => text,
        Err(NotRun::Missing) => {
            report.unseen(
                "this host's packet rules",
                "`nft` is not installed: install nftables, or look at them yourself",
            );
            return;
        }
        Err(NotRun::Failed(_)) if !system.is_root() => {
            report.unseen("this host's packet rules", "only root may list them: run this as root");
            return;
        }
        Err(NotRun::Failed(words)) => {
            report.unseen("this host's packet rules", format!("`nft -j list ruleset` fails: {words}"));
            return;
        }
    };
    let legacy = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
    if legacy.iter().any(|file| system.read(file).is_ok_and(|names| names.contains("filter"))) {
        report.unseen("rules of the old iptables", "`nft` does not list them: `iptables-legacy -S` does");
    }
    let Some(rules) = Rules::parse(&text) else {
        report.unseen("this host's packet rules", "what `nft -j list ruleset` says cannot be understood");
        return;
    };
    let before = report.findings.len();
    let group = config.heartbeat.group;
    let mut told = false;
    for name in &config.heartbeat.interfaces {
        let own = links.iter().find(|link| link.ifname == name.as_str());
        let is_same = |address: &IpAddr| match group.ip() {
            IpAddr::V4(_) => address.is_ipv4(),
            IpAddr::V6(_) => matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()),
        };
        let own = own.and_then(|link| link.addresses().map(|(address, _)| address).find(is_same));
        let Some(own) = own else { continue };
        // Where connections are shared, they are told at the port above.
        let ports = [Some(group.port()), config.sync.enabled.then(|| group.port().wrapping_add(1))];
        for port in ports.into_iter().flatten() {
            for hook in ["prerouting", "input", "output", "postrouting"] {
                let packet = Packet {
                    hook,
                    interface: name.to_string(),
                    protocol: "udp",
                    number: 17,
                    source: own,
                    destination: group.ip(),
                    ports: Some(port),
                    kind: None,
                };
                if let Some(chain) = rules.who_drops(&packet).filter(|_| !told) {
                    told = true;
                    report.add(heartbeats_dropped(&packet, port, &chain));
                }
            }
        }
    }
    for name in &config.heartbeat.interfaces {
        let query = match group.ip() {
            IpAddr::V4(_) => Packet {
                hook: "input",
                interface: name.to_string(),
                protocol: "igmp",
                number: 2,
                source: IpAddr::from([192, 0, 2, 1]),
                destination: IpAddr::from([224, 0, 0, 1]),
                ports: None,
                kind: Some("membership-query"),
            },
            IpAddr::V6(_) => Packet {
                hook: "input",
                interface: name.to_string(),
                protocol: "ipv6-icmp",
                number: 58,
                source: IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
                destination: IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]),
                ports: None,
                kind: Some("mld-listener-query"),
            },
        };
        if let Some(chain) = rules.who_drops(&query) {
            report.add(queries_dropped(&query, &chain));
            break;
        }
    }
    if report.findings.len() == before {
        report.well(Area::Host, "no packet rule of this host is seen to drop heartbeats");
    }
}

fn family_of(packet: &Packet) -> &'static str {
    if packet.destination.is_ipv4() { "ip" } else { "ip6" }
}

fn insert(chain: &(String, String, String), rule: &str) -> String {
    let (family, table, name) = chain;
    format!("nft insert rule {family} {table} {name} {rule}")
}

fn heartbeats_dropped(packet: &Packet, port: u16, chain: &(String, String, String)) -> Finding {
    let (family, table, name) = chain;
    let way = if matches!(packet.hook, "input" | "prerouting") { "iifname" } else { "oifname" };
    let finding = Finding::new(
        Name::FirewallHeartbeats,
        Severity::Error,
        Area::Host,
        format!(
            "the chain {name} of the table {family} {table} drops UDP to {}:{port} on {}",
            packet.destination, packet.interface
        ),
        "So the nodes do not hear each other, or not what they tell of their connections: each takes all for itself.",
        "Accept it before that, here and in the file that the rules are loaded from.",
    );
    let rule = format!(
        "{way} {} {} daddr {} udp dport {port} accept",
        packet.interface,
        family_of(packet),
        packet.destination
    );
    finding.enter("this node", [insert(chain, &rule)])
}

fn queries_dropped(packet: &Packet, chain: &(String, String, String)) -> Finding {
    let (family, table, name) = chain;
    let (what, rule) = if packet.number == 2 {
        ("IGMP", format!("iifname {} ip protocol igmp accept", packet.interface))
    } else {
        ("MLD", format!("iifname {} icmpv6 type mld-listener-query accept", packet.interface))
    };
    let finding = Finding::new(
        Name::FirewallGroups,
        Severity::Warning,
        Area::Host,
        format!(
            "the chain {name} of the table {family} {table} drops {what} queries on {}",
            packet.interface
        ),
        "A switch that snoops asks by them who wants the heartbeats. Without an answer it stops to deliver them, \
         minutes later.",
        "Accept them before that, here and in the file that the rules are loaded from.",
    );
    finding.enter("this node", [insert(chain, &rule)])
}

impl Rules {
    fn parse(text: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(text).ok()?;
        let mut rules = Rules { bases: Vec::new(), chains: BTreeMap::new(), sets: BTreeMap::new() };
        for item in document["nftables"].as_array()? {
            let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
            if let Some(chain) = item.get("chain") {
                let key = (text(chain, "family"), text(chain, "table"), text(chain, "name"));
                if chain.get("hook").is_some() && chain["type"] != "nat" {
                    let drops = chain["policy"] == "drop";
                    rules.bases.push((
                        key.0.clone(),
                        key.1.clone(),
                        key.2.clone(),
                        text(chain, "hook"),
                        drops,
                    ));
                }
                rules.chains.entry(key).or_default();
            } else if let Some(rule) = item.get("rule") {
                let key = (text(rule, "family"), text(rule, "table"), text(rule, "chain"));
                let statements = rule["expr"].as_array().cloned().unwrap_or_default();
                rules.chains.entry(key).or_default().push(statements);
            } else if let Some(set) = item.get("set") {
                let key = (text(set, "family"), text(set, "table"), text(set, "name"));
                // What can change by itself may be another when it matters.
                let is_constant = set.get("flags").is_none_or(|flags| !flags.to_string().contains("dynamic"));
                if is_constant {
                    rules.sets.insert(key, set.get("elem").cloned().unwrap_or(Value::Array(Vec::new())));
                }
            }
        }
        Some(rules)
    }

    /// The base chain that drops a packet for certain.
    fn who_drops(&self, packet: &Packet) -> Option<(String, String, String)> {
        for (family, table, name, hook, drops) in &self.bases {
            if hook != packet.hook || !(family == "inet" || family == family_of(packet)) {
                continue;
            }
            let key = (family.clone(), table.clone(), name.clone());
            let mut doubtful = false;
            let fate = match self.walk(&key, packet, 0, &mut doubtful) {
                Step::Verdict(fate) => fate,
                Step::Return if *drops => Fate::Dropped,
                Step::Return => Fate::Accepted,
            };
            if fate == Fate::Dropped && !doubtful {
                return Some(key);
            }
        }
        None
    }

    /// What a chain says of a packet. `doubtful` is set where a rule that may match would have let it through.
    fn walk(
        &self,
        key: &(String, String, String),
        packet: &Packet,
        depth: usize,
        doubtful: &mut bool,
    ) -> Step {
        if depth > DEPTH_MAX {
            return Step::Verdict(Fate::Unknown);
        }
        for rule in self.chains.get(key).into_iter().flatten() {
            let mut certain = true;
            for statement in rule {
                let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next())
                else {
                    continue;
                };
                match kind.as_str() {
                    "match" => match self.matches(key, value, packet) {
                        Some(true) => {}
                        Some(false) => break,
                        None => certain = false,
                    },
                    "accept" if certain => return Step::Verdict(Fate::Accepted),
                    "vmap" if certain => {
                        if let Some(step) = self.verdict_of_map(key, value, packet, depth, doubtful) {
                            return step;
                        }
                    }
                    "accept" | "queue" | "vmap" | "xt" => {
                        *doubtful = true;
                        // What an extension or a map decides is not known, nor whether the rule goes on.
                        if kind != "accept" {
                            certain = false;
                        }
                    }
                    "drop" | "reject" if certain => return Step::Verdict(Fate::Dropped),
                    "return" if certain => return Step::Return,
                    "return" => *doubtful = true,
                    "jump" | "goto" => {
                        let target = value["target"].as_str().unwrap_or_default().to_owned();
                        let next = (key.0.clone(), key.1.clone(), target);
                        match self.walk(&next, packet, depth + 1, doubtful) {
                            Step::Verdict(fate) if certain => return Step::Verdict(fate),
                            Step::Verdict(Fate::Dropped) => {}
                            Step::Verdict(_) => *doubtful = true,
                            Step::Return if kind == "goto" && certain => return Step::Return,
                            Step::Return => {}
                        }
                    }
                    // Limits match or not.
                    "limit" | "quota" | "ct count" => certain = false,
                    // Counters, logs, marks, sets: nothing is decided.
                    _ => {}
                }
            }
        }
        Step::Return
    }

    /// What a verdict map says of a packet; nothing if none of its keys fits.
    fn verdict_of_map(
        &self,
        key: &(String, String, String),
        map: &Value,
        packet: &Packet,
        depth: usize,
        doubtful: &mut bool,
    ) -> Option<Step> {
        let Some(pairs) = map["data"]["set"].as_array() else {
            *doubtful = true;
            return None;
        };
        for pair in pairs {
            let matching = serde_json::json!({"op": "==", "left": map["key"], "right": pair[0]});
            let (verdict, target) = match pair[1].as_object().and_then(|object| object.iter().next()) {
                Some((verdict, value)) => (verdict.as_str(), value["target"].as_str().unwrap_or_default()),
                None => ("", ""),
            };
            match (self.matches(key, &matching, packet), verdict) {
                (Some(false), _) | (None, "drop") => {}
                (Some(true), "accept") => return Some(Step::Verdict(Fate::Accepted)),
                (Some(true), "drop") => return Some(Step::Verdict(Fate::Dropped)),
                (Some(true), "jump" | "goto") => {
                    let next = (key.0.clone(), key.1.clone(), target.to_owned());
                    match self.walk(&next, packet, depth + 1, doubtful) {
                        Step::Verdict(fate) => return Some(Step::Verdict(fate)),
                        Step::Return if verdict == "goto" => return Some(Step::Return),
                        Step::Return => return None,
                    }
                }
                (Some(true), "return") => return Some(Step::Return),
                _ => *doubtful = true,
            }
        }
        None
    }

    fn matches(&self, key: &(String, String, String), value: &Value, packet: &Packet) -> Option<bool> {
        let (left, right) = (&value["left"], &value["right"]);
        let op = value["op"].as_str().unwrap_or("==");
        let incoming = matches!(packet.hook, "input" | "prerouting");
        let equal = if let Some(meta) = left.get("meta") {
            match meta["key"].as_str()? {
                "iifname" | "iif" if incoming => self.is_text(key, right, &packet.interface)?,
                "oifname" | "oif" if !incoming => self.is_text(key, right, &packet.interface)?,
                // Where there is no such interface, the match fails.
                "iifname" | "iif" | "oifname" | "oif" => return Some(false),
                "l4proto" => self.is_protocol(key, right, packet)?,
                "nfproto" => {
                    let family = if packet.destination.is_ipv4() { "ipv4" } else { "ipv6" };
                    self.is_text(key, right, family)?
                }
                "pkttype" if incoming => self.is_text(key, right, "multicast")?,
                _ => return None,
            }
        } else if let Some(payload) = left.get("payload") {
            let (protocol, field) = (payload["protocol"].as_str()?, payload["field"].as_str()?);
            match (protocol, field) {
                ("ip", "protocol") if packet.destination.is_ipv4() => self.is_protocol(key, right, packet)?,
                ("ip6", "nexthdr") if packet.destination.is_ipv6() => self.is_protocol(key, right, packet)?,
                ("ip", _) if packet.destination.is_ipv6() => return Some(false),
                ("ip6", _) if packet.destination.is_ipv4() => return Some(false),
                ("ip" | "ip6", "saddr") => match self.is_address(key, right, packet.source)? {
                    // Another node's address is another one: only the whole network is known.
                    true if right.is_string() => return None,
                    is => is,
                },
                ("ip" | "ip6", "daddr") => self.is_address(key, right, packet.destination)?,
                ("udp", "dport" | "sport") if packet.protocol == "udp" => {
                    self.is_number(key, right, packet.ports?)?
                }
                ("th", "dport" | "sport") if packet.ports.is_some() => {
                    self.is_number(key, right, packet.ports?)?
                }
                ("udp" | "tcp" | "sctp" | "dccp" | "udplite", _) if protocol != packet.protocol => {
                    return Some(false);
                }
                ("igmp" | "icmp" | "icmpv6", "type") => {
                    let same = matches!((protocol, packet.number), ("igmp", 2) | ("icmpv6", 58));
                    match packet.kind.filter(|_| same) {
                        Some(kind) => self.is_text(key, right, kind)?,
                        None => return Some(false),
                    }
                }
                _ => return None,
            }
        } else if let Some(ct) = left.get("ct") {
            match ct["key"].as_str()? {
                // A multicast is new, for ever: it is not answered. Other nodes' are.
                "state" => {
                    let states = right.to_string();
                    states.contains("\"new\"") || states.contains("\"untracked\"")
                }
                _ => return None,
            }
        } else {
            return None;
        };
        match op {
            "==" | "in" => Some(equal),
            "!=" => Some(!equal),
            _ => None,
        }
    }

    /// The values that a right side stands for; none if it is a set that is not known.
    fn values(&self, key: &(String, String, String), right: &Value) -> Option<Vec<Value>> {
        match right {
            Value::Array(values) => Some(values.clone()),
            Value::Object(object) if object.contains_key("set") => object["set"].as_array().cloned(),
            Value::String(text) if text.starts_with('@') => {
                let set = (key.0.clone(), key.1.clone(), text[1..].to_owned());
                self.sets.get(&set)?.as_array().cloned()
            }
            other => Some(vec![other.clone()]),
        }
    }

    fn any(
        &self,
        key: &(String, String, String),
        right: &Value,
        is: impl Fn(&Value) -> Option<bool>,
    ) -> Option<bool> {
        let mut unknown = false;
        for value in self.values(key, right)? {
            let value = value.get("elem").and_then(|elem| elem.get("val")).cloned().unwrap_or(value);
            match is(&value) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => unknown = true,
            }
        }
        if unknown { None } else { Some(false) }
    }

    fn is_text(&self, key: &(String, String, String), right: &Value, text: &str) -> Option<bool> {
        self.any(key, right, |value| {
            let value = value.as_str()?;
            Some(value.strip_suffix('*').map_or(value == text, |start| text.starts_with(start)))
        })
    }

    fn is_protocol(&self, key: &(String, String, String), right: &Value, packet: &Packet) -> Option<bool> {
        self.any(key, right, |value| match value {
            Value::String(name) => Some(name == packet.protocol || (name == "icmpv6" && packet.number == 58)),
            Value::Number(number) => Some(number.as_u64() == Some(packet.number.into())),
            _ => None,
        })
    }

    fn is_number(&self, key: &(String, String, String), right: &Value, number: u16) -> Option<bool> {
        self.any(key, right, |value| {
            if let Some(range) = value.get("range").and_then(Value::as_array) {
                let bound = |i: usize| range.get(i).and_then(Value::as_u64);
                return Some((bound(0)?..=bound(1)?).contains(&number.into()));
            }
            Some(value.as_u64()? == u64::from(number))
        })
    }

    fn is_address(&self, key: &(String, String, String), right: &Value, address: IpAddr) -> Option<bool> {
        self.any(key, right, |value| {
            if let Some(prefix) = value.get("prefix") {
                let len = u32::try_from(prefix["len"].as_u64()?).ok()?;
                return Some(network(prefix["addr"].as_str()?.parse().ok()?, len) == network(address, len));
            }
            if let Some(range) = value.get("range").and_then(Value::as_array) {
                let bound = |i: usize| range.get(i)?.as_str()?.parse::<IpAddr>().ok();
                return Some((bound(0)?..=bound(1)?).contains(&address));
            }
            Some(value.as_str()?.parse::<IpAddr>().ok()? == address)
        })
    }
}

/// The first bits of an address, and its family.
fn network(address: IpAddr, len: u32) -> (bool, u128) {
    let (is_v6, bits, width) = match address {
        IpAddr::V4(v4) => (false, u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (true, v6.to_bits(), 128),
    };
    let cut = width - len.min(width);
    (is_v6, bits.checked_shr(cut).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(policy: &str, rules: &[&str]) -> Rules {
        let chain = |name: &str, base: &str| {
            format!(r#"{{"chain":{{"family":"inet","table":"f","name":"{name}"{base}}}}}"#)
        };
        let mut items = vec![
            chain("in", &format!(r#","type":"filter","hook":"input","prio":0,"policy":"{policy}""#)),
            chain("more", ""),
        ];
        for rule in rules {
            let (name, expr) = rule.split_once(' ').unwrap();
            items.push(format!(
                r#"{{"rule":{{"family":"inet","table":"f","chain":"{name}","expr":[{expr}]}}}}"#
            ));
        }
        Rules::parse(&format!(r#"{{"nftables":[{}]}}"#, items.join(","))).unwrap()
    }

    fn heartbeat() -> Packet {
        Packet {
            hook: "input",
            interface: "eth0".into(),
            protocol: "udp",
            number: 17,
            source: "192.0.2.12".parse().unwrap(),
            destination: "239.255.74.40".parse().unwrap(),
            ports: Some(7440),
            kind: None,
        }
    }

    const ACCEPT: &str = r#"{"accept":null}"#;
    const STATES: &str = r#"{"vmap":{"key":{"ct":{"key":"state"}},"data":{"set":[["established",{"accept":null}],["invalid",{"drop":null}]]}}}"#;

    fn port(port: &str) -> String {
        format!(
            r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"udp","field":"dport"}}}},"right":{port}}}}}"#
        )
    }

    #[test]
    fn what_is_dropped_for_certain_is_said() {
        let dropped = |policy: &str, list: &[&str]| rules(policy, list).who_drops(&heartbeat()).is_some();
        let accepted = |expr: &str| !dropped("drop", &[&format!("in {expr},{ACCEPT}")]);
        assert!(dropped("drop", &[]) && !dropped("accept", &[]));
        assert!(accepted(&port("7440")) && !accepted(&port("53")));
        assert!(accepted(&port(r#"{"range":[7000,8000]}"#)) && !accepted(&port(r#"{"range":[1,1024]}"#)));
        assert!(dropped("accept", &[&format!("in {},{}", port("7440"), r#"{"drop":null}"#)]));
        // Through a map and a chain of its own.
        assert!(dropped("drop", &[&format!("in {STATES}")]));
        let jump = r#"in {"jump":{"target":"more"}}"#;
        assert!(dropped("drop", &[jump]));
        assert!(!dropped("drop", &[jump, &format!("more {},{ACCEPT}", port("7440"))]));
        let from = |name: &str| {
            format!(r#"{{"match":{{"op":"==","left":{{"meta":{{"key":"iifname"}}}},"right":"{name}"}}}}"#)
        };
        assert!(accepted(&from("eth*")) && !accepted(&from("eth1")));
        let not = from("eth0").replace("==", "!=");
        assert!(!accepted(&not));
    }

    #[test]
    fn where_it_is_not_known_nothing_is_said() {
        let says_nothing =
            |expr: &str| rules("drop", &[&format!("in {expr},{ACCEPT}")]).who_drops(&heartbeat()).is_none();
        assert!(says_nothing(r#"{"xt":{"type":"match","name":"u32"}}"#));
        assert!(says_nothing(
            r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"@friends"}}"#
        ));
        assert!(says_nothing(r#"{"match":{"op":"==","left":{"meta":{"key":"mark"}},"right":7}}"#));
        // A single address of another node is not known here.
        let of_one = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"192.0.2.12"}}"#;
        assert!(says_nothing(of_one));
        // A set that cannot fit is known.
        assert!(!says_nothing(
            r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":"@ports"}}"#
        ));
    }

    #[test]
    fn rules_that_loop_come_to_an_end() {
        let looping =
            rules("drop", &[r#"in {"jump":{"target":"more"}}"#, r#"more {"jump":{"target":"more"}}"#]);
        assert!(looping.who_drops(&heartbeat()).is_none());
        assert!(Rules::parse("{}").is_none() && Rules::parse("rubbish").is_none());
    }
}
