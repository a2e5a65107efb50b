//! From text to a [`Config`]: every key, its range, and how the keys must fit each other.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rudel_proto::config::{INTERVAL_MAX, INTERVAL_MIN, TIMEOUT_MAX, TIMEOUT_MIN};
use rudel_proto::id::{ClusterName, NodeName};
use rudel_proto::view::MEMBERS_MAX;
use toml::de::DeTable;

use super::error::{ConfigError, Problem, Refused};
use super::reader::{Item, Reader, Section};
use super::values::{check_routable, check_unicast, format_duration, parse_address};
use super::{
    BodyText, Check, Cidr, Cluster, ClusterMacMode, Config, DEFAULT_SOCKET, DnsTarget, HashMode, Health,
    Heartbeat, HeartbeatGroup, Hooks, HostHeader, HttpTarget, Interface, InterfaceName, MacAddress, Nat,
    Node, PortForward, Side, Source, Sync, ValueError, XdpMode, family,
};

const TIMEOUT_DEFAULT: Duration = Duration::from_millis(400);
const HOOK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const HOOK_TIMEOUT_MIN: Duration = Duration::from_millis(100);
const HOOK_TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);
const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5 * 60);
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
const RESTART_GRACE_MAX: Duration = Duration::from_secs(600);
const GRACE_REFUSED: &str =
    "a share cannot be kept beyond its lease: until the others take it over, nobody would serve it";
const GRACE_ADVICE: &str = "remove it, or write \"0s\": a restart within the lease moves nothing, and `rudel restart` \
                            starts before it stops; for a slower one raise [heartbeat] timeout";
const WEIGHT_DEFAULT: u16 = 100;
const WEIGHT_MAX: u16 = 1000;
/// `sun_path` has 108 bytes, the last of which is NUL (unix(7)).
const SOCKET_PATH_LEN_MAX: usize = 107;
const HEALTH_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const HEALTH_INTERVAL_MIN: Duration = Duration::from_millis(100);
const HEALTH_TIMEOUT_DEFAULT: Duration = Duration::from_millis(500);
const HEALTH_TIMEOUT_MIN: Duration = Duration::from_millis(10);
const HEALTH_CHECKS_MAX: usize = 32;
const HEALTH_INTERVAL_MAX: Duration = Duration::from_secs(3600);
const HEALTH_COUNT_DEFAULT: u16 = 2;
const HEALTH_COUNT_MAX: u16 = 100;

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let refused = |problems| ConfigError::Refused(Box::new(Refused::new(path, text, problems)));
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        refused(vec![Problem::new(text, span, format!("this is not TOML: {}", error.message()))])
    })?;
    let reader = Reader::new(text);
    let parts = Parts::read(&reader, document.get_ref());
    let (problems, places) = reader.finish();
    match parts {
        Some(parts) if problems.is_empty() => Ok(Config {
            cluster: parts.cluster,
            node: parts.node,
            heartbeat: parts.heartbeat,
            interfaces: parts.interfaces,
            health: parts.health,
            nat: parts.nat,
            sync: parts.sync,
            hooks: parts.hooks,
            source: Source { path: path.to_owned(), text: text.to_owned(), places },
        }),
        _ => Err(refused(problems)),
    }
}

struct Parts {
    cluster: Cluster,
    node: Node,
    heartbeat: Heartbeat,
    interfaces: Vec<Interface>,
    health: Vec<Health>,
    nat: Option<Nat>,
    sync: Sync,
    hooks: Hooks,
}

impl Parts {
    /// Reads every table, so that the mistakes of all are found; none if one of them cannot be made.
    fn read<'a>(reader: &Reader<'a>, document: &DeTable<'a>) -> Option<Self> {
        reader.check_tables(document);
        let cluster = read_cluster(&reader.table(document, "cluster"));
        let node = read_node(&reader.table(document, "node"));
        let router = read_sides(reader, document);
        let has_nat = document.contains_key("nat");
        let interfaces = read_interfaces(reader, document, has_nat);
        let heartbeat = read_heartbeat(reader, &reader.table(document, "heartbeat"), interfaces.as_deref());
        let health = read_health(reader, document);
        let nat = reader
            .optional_table(document, "nat")
            .map(|section| read_nat(reader, &section, router, interfaces.as_deref().unwrap_or_default()));
        let sync = reader.optional_table(document, "sync").map(|section| read_sync(reader, &section, router));
        let hooks = read_hooks(&reader.table(document, "hooks"));
        if !reader.is_clean() {
            return None;
        }
        Some(Parts {
            cluster: cluster?,
            node,
            heartbeat: heartbeat?,
            interfaces: interfaces?,
            health: health?,
            nat: match nat {
                Some(nat) => Some(nat?),
                None => None,
            },
            sync: sync.unwrap_or(Sync { enabled: false }),
            hooks,
        })
    }
}

fn read_cluster(section: &Section<'_, '_>) -> Option<Cluster> {
    let name = section.require("name").and_then(|item| {
        item.parse_with(|text| ClusterName::new(text).map_err(|error| ValueError::new(error.to_string())))
    });
    let key_file = section.require("key_file").and_then(|item| item.absolute_path());
    let quorum = section.get("quorum").map_or(Some(1), |item| item.integer(1..=MEMBERS_MAX as u16));
    let drain_timeout = section
        .get("drain_timeout")
        .map_or(Some(DRAIN_TIMEOUT_DEFAULT), |item| item.duration(Duration::ZERO..=DRAIN_TIMEOUT_MAX));
    Some(Cluster {
        name: name?,
        key_file: key_file?,
        quorum: usize::from(quorum?),
        drain_timeout: drain_timeout?,
    })
}

fn node_name(text: &str) -> Result<NodeName, ValueError> {
    NodeName::new(text).map_err(|error| ValueError::new(error.to_string()))
}

fn read_node(section: &Section<'_, '_>) -> Node {
    let socket = section.get("socket").and_then(|item| {
        let path = item.absolute_path()?;
        if path.as_os_str().len() > SOCKET_PATH_LEN_MAX {
            let len = path.as_os_str().len();
            return item.refuse(&ValueError::new(format!("a path of {len} bytes is too long for a socket")));
        }
        Some(path)
    });
    // To ignore what the daemon does not do would be a promise not kept.
    if let Some(item) = section.get("restart_grace")
        && item.duration(Duration::ZERO..=RESTART_GRACE_MAX).is_some_and(|grace| !grace.is_zero())
    {
        item.refuse::<()>(&ValueError::new(GRACE_REFUSED).advise(GRACE_ADVICE));
    }
    Node {
        name: section.get("name").and_then(|item| item.parse_with(node_name)),
        weight: section.get("weight").and_then(|item| item.integer(0..=WEIGHT_MAX)).unwrap_or(WEIGHT_DEFAULT),
        socket: socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)),
        metrics: section.get("metrics").and_then(|item| item.parse_with(address_with_port)),
    }
}

fn address_with_port(text: &str) -> Result<SocketAddr, ValueError> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err(ValueError::new("port 0 is no port").advise("choose one of 1 to 65535")),
        Err(_) => Err(ValueError::new(format!("\"{text}\" is not an address with a port"))
            .advise("write an address in numbers, such as \"127.0.0.1:9440\" or \"[::1]:9440\"")),
    }
}

/// Whether this is a router, with both its sides.
fn read_sides<'a>(reader: &Reader<'a>, document: &DeTable<'a>) -> bool {
    let tables = document.get("interface").and_then(|value| value.get_ref().as_array());
    let sides: Vec<Option<Side>> = tables
        .into_iter()
        .flatten()
        .map(|table| table.get_ref().as_table()?.get("side")?.get_ref().as_str()?.parse().ok())
        .collect();
    let has = |side| sides.contains(&Some(side));
    for (i, side) in sides.iter().enumerate() {
        let missing = match side {
            Some(Side::Inside) if !has(Side::Outside) => Side::Outside,
            Some(Side::Outside) if !has(Side::Inside) => Side::Inside,
            _ => continue,
        };
        let table = tables.and_then(|tables| tables.get(i));
        let value = table.and_then(|t| t.get_ref().as_table()).and_then(|t| t.get("side"));
        let span = value.map_or(0..0, |value| value.span());
        reader.report(
            reader
                .problem(span, format!("a router needs an interface with side = \"{missing}\", too"))
                .advise(format!("add [[interface]] with side = \"{missing}\", or make this one \"service\"")),
        );
        break;
    }
    has(Side::Inside) || has(Side::Outside)
}

fn read_interfaces<'a>(reader: &Reader<'a>, document: &DeTable<'a>, has_nat: bool) -> Option<Vec<Interface>> {
    if !document.contains_key("interface") {
        reader.report(reader.problem(0..0, "there is no [[interface]]").advise(
            "name the interface that receives the cluster's packets, and the cluster's addresses there",
        ));
        return None;
    }
    let sections = reader.repeated_table(document, "interface");
    let interfaces: Vec<Option<Interface>> =
        sections.iter().map(|section| read_interface(section, has_nat)).collect();

    let mut names: Vec<(&InterfaceName, String)> = Vec::new();
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut router_hash: Option<&Interface> = None;
    for (section, interface) in sections.iter().zip(&interfaces) {
        let Some(interface) = interface else { continue };
        if names.iter().any(|(name, _)| **name == interface.name) {
            reader.report_at(
                &format!("{}.name", section.path()),
                format!("interface {} is given twice", interface.name),
                "put all its addresses into one [[interface]]",
            );
        }
        names.push((&interface.name, section.path().to_owned()));
        for (i, cidr) in interface.addresses.iter().enumerate() {
            // Each link of a router may have the same link-local gateway address, but none has it twice.
            let elsewhere = !cidr.is_link_local_v6() && addresses.contains(&cidr.address());
            if elsewhere || interface.addresses[..i].iter().any(|other| other.address() == cidr.address()) {
                reader.report_at(
                    &format!("{}.addresses[{i}]", section.path()),
                    format!("address {} is given twice", cidr.address()),
                    "an address is on one interface, once",
                );
            }
            addresses.push(cidr.address());
        }
        if interface.side.is_router() {
            match router_hash {
                Some(first) if first.hash != interface.hash => {
                    let own = format!("{}.hash", section.path());
                    let place = if reader.has(&own) { own } else { section.path().to_owned() };
                    reader.report_at(
                        &place,
                        format!(
                            "{} hashes {} and {} hashes {}: the two directions of a flow would not meet",
                            first.name, first.hash, interface.name, interface.hash
                        ),
                        "give both sides of a router the same hash",
                    );
                }
                Some(_) => {}
                None => router_hash = Some(interface),
            }
        }
    }
    interfaces.into_iter().collect()
}

fn read_interface(section: &Section<'_, '_>, has_nat: bool) -> Option<Interface> {
    let name = section.require("name").and_then(|item| item.parse::<InterfaceName>());
    let side = section.get("side").map_or(Some(Side::Service), |item| item.parse());
    let addresses = section.require("addresses").and_then(|item| {
        item.parse_list(|text| {
            let cidr: Cidr = text.parse()?;
            cidr.check_host()?;
            Ok(cidr)
        })
    });
    let mac = section.get("mac").map_or(Some(ClusterMacMode::Multicast), |item| item.parse());
    let xdp = section.get("xdp").map_or(Some(XdpMode::Auto), |item| item.parse());
    let hash = section.get("hash").map(|item| item.parse::<HashMode>());
    let networks = section.get("networks").map_or(Some(Vec::new()), |item| {
        if side.is_some_and(|side| side != Side::Inside) {
            return item.refuse(
                &ValueError::new("only an inside interface of a router has networks behind it")
                    .advise("leave it out, or make this side = \"inside\""),
            );
        }
        item.parse_list(|text| {
            let cidr: Cidr = text.parse()?;
            cidr.check_network()?;
            Ok(cidr)
        })
    });
    let side = side?;
    let hash = match hash {
        Some(hash) => hash,
        None if side.is_router() && !has_nat => Some(HashMode::SourceIp),
        None => Some(HashMode::SourceIpPort),
    };
    Some(Interface {
        name: name?,
        side,
        addresses: addresses?,
        mac: mac?,
        xdp: xdp?,
        hash: hash?,
        networks: networks?,
    })
}

fn read_heartbeat(
    reader: &Reader<'_>,
    section: &Section<'_, '_>,
    interfaces: Option<&[Interface]>,
) -> Option<Heartbeat> {
    let group = section.get("group").map_or(Some(HeartbeatGroup::DEFAULT), |item| item.parse());
    let names = section.get("interfaces").map(|item| {
        let items = item.list_of_some()?;
        let names: Vec<Option<InterfaceName>> = items.iter().map(Item::parse).collect();
        for (i, name) in names.iter().enumerate() {
            if let Some(name) = name
                && names[..i].contains(&Some(name.clone()))
            {
                reader.report_at(
                    items[i].path(),
                    format!("interface {name} is given twice"),
                    "leave it out here",
                );
            }
        }
        names.into_iter().collect::<Option<Vec<_>>>()
    });
    let names = match names {
        Some(names) => names,
        None => interfaces.map(|all| all.iter().map(|interface| interface.name.clone()).collect()),
    };
    let timeout =
        section.get("timeout").map_or(Some(TIMEOUT_DEFAULT), |item| item.duration(TIMEOUT_MIN..=TIMEOUT_MAX));
    let given = section.get("interval").map(|item| (item.duration(INTERVAL_MIN..=INTERVAL_MAX), item));
    if let (Some(timeout), Some((Some(interval), item))) = (timeout, &given)
        && *interval * 3 > timeout
    {
        let shortest = format_duration(*interval * 3);
        reader.report_at(
            item.path(),
            format!(
                "interval {} is more than a third of timeout {}: one lost heartbeat would give a node up",
                format_duration(*interval),
                format_duration(timeout)
            ),
            format!("shorten interval, or make timeout at least {shortest}"),
        );
    }
    let interval = match given {
        Some((interval, _)) => interval,
        None => timeout.map(|timeout| (timeout / 8).clamp(INTERVAL_MIN, INTERVAL_MAX)),
    };
    let (group, names) = (group?, names?);
    check_macs(reader, section, group, &names, interfaces.unwrap_or_default());
    Some(Heartbeat { group, interfaces: names, timeout: timeout?, interval: interval? })
}

/// Heartbeats must not be mistaken for the cluster's packets: their MAC must be another one.
fn check_macs(
    reader: &Reader<'_>,
    heartbeat: &Section<'_, '_>,
    group: HeartbeatGroup,
    names: &[InterfaceName],
    interfaces: &[Interface],
) {
    let group_mac = MacAddress::of_group(group.ip());
    for (i, interface) in interfaces.iter().enumerate() {
        if !names.contains(&interface.name) || interface.cluster_mac() != group_mac {
            continue;
        }
        let own = format!("interface[{i}].mac");
        let group = format!("{}.group", heartbeat.path());
        let place = [own, group].into_iter().find(|place| reader.has(place));
        reader.report_at(
            &place.unwrap_or_else(|| format!("interface[{i}]")),
            format!("the cluster MAC of {} is that of the heartbeat group, {group_mac}", interface.name),
            "choose another heartbeat group, or another mac",
        );
    }
}

fn read_health<'a>(reader: &Reader<'a>, document: &DeTable<'a>) -> Option<Vec<Health>> {
    let sections = reader.repeated_table(document, "health");
    if let Some(section) = sections.get(HEALTH_CHECKS_MAX) {
        let message =
            format!("there are {} health checks, and at most {HEALTH_CHECKS_MAX} can be", sections.len());
        reader.report(
            reader.problem(section.span(), message).advise("put several into one program, with exec"),
        );
    }
    let checks: Vec<Option<Health>> =
        sections.iter().map(|section| read_health_check(reader, section)).collect();
    for (i, check) in checks.iter().enumerate() {
        let Some(check) = check else { continue };
        if checks[..i].iter().flatten().any(|other| other.name == check.name) {
            reader.report_at(
                &format!("{}.name", sections[i].path()),
                format!("health check {} is given twice", check.name),
                "give each check its own name",
            );
        }
    }
    checks.into_iter().collect()
}

fn read_health_check(reader: &Reader<'_>, section: &Section<'_, '_>) -> Option<Health> {
    let name = section.require("name").and_then(|item| item.parse_with(node_name));
    let kinds = [
        section.get("http").map(|item| item.parse::<HttpTarget>().map(Check::Http)),
        section.get("tcp").map(|item| item.parse_with(address_with_port).map(Check::Tcp)),
        section.get("dns").map(|item| item.parse::<DnsTarget>().map(Check::Dns)),
        section.get("exec").map(|item| item.command_line().map(Check::Exec)),
        section.get("link").map(|item| item.parse::<InterfaceName>().map(Check::Link)),
    ];
    let advice = "one of http, tcp, dns, exec, link; for several checks write several [[health]]";
    let given: Vec<&'static str> = ["http", "tcp", "dns", "exec", "link"]
        .into_iter()
        .zip(&kinds)
        .filter(|(_, k)| k.is_some())
        .map(|(n, _)| n)
        .collect();
    match given.as_slice() {
        [_] => {}
        [] => reader.report(
            reader.problem(section.span(), "the health check does not say what to check").advise(advice),
        ),
        [first, second, ..] => reader.report_at(
            &format!("{}.{second}", section.path()),
            format!("the health check has two kinds, {first} and {second}"),
            advice,
        ),
    }
    let interval = section.get("interval").map_or(Some(HEALTH_INTERVAL_DEFAULT), |item| {
        item.duration(HEALTH_INTERVAL_MIN..=HEALTH_INTERVAL_MAX)
    });
    let timeout = match section.get("timeout") {
        Some(item) => {
            let timeout = item.duration(HEALTH_TIMEOUT_MIN..=HEALTH_INTERVAL_MAX);
            if let (Some(timeout), Some(interval)) = (timeout, interval)
                && timeout > interval
            {
                reader.report_at(
                    item.path(),
                    format!(
                        "timeout {} is longer than interval {}: checks would pile up",
                        format_duration(timeout),
                        format_duration(interval)
                    ),
                    "shorten timeout, or lengthen interval",
                );
            }
            timeout
        }
        None => interval.map(|interval| HEALTH_TIMEOUT_DEFAULT.min(interval)),
    };
    let count = |key| {
        section
            .get(key)
            .map_or(Some(HEALTH_COUNT_DEFAULT), |item: Item<'_, '_>| item.integer(1..=HEALTH_COUNT_MAX))
    };
    let (rise, fall) = (count("rise"), count("fall"));
    let check = kinds.into_iter().flatten().next().flatten();
    let check = read_http_options(reader, section, check);
    Some(Health {
        name: name?.as_str().to_owned(),
        check: check?,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
    })
}

/// What belongs to `http` alone.
fn read_http_options(reader: &Reader<'_>, section: &Section<'_, '_>, check: Option<Check>) -> Option<Check> {
    let host = section.get("http_host").map(|item| item.parse::<HostHeader>());
    let body = section.get("http_body").map(|item| item.parse::<BodyText>());
    let is_http = section.get("http").is_some();
    for (key, given) in [("http_host", host.is_some()), ("http_body", body.is_some())] {
        if given && !is_http {
            reader.report_at(
                &format!("{}.{key}", section.path()),
                format!("{key} is for checks by http"),
                "remove it, or check by http",
            );
        }
    }
    match check? {
        Check::Http(target) => Some(Check::Http(HttpTarget {
            host_header: match host {
                Some(host) => Some(host?),
                None => None,
            },
            body: match body {
                Some(body) => Some(body?),
                None => None,
            },
            ..target
        })),
        other => Some(other),
    }
}

fn needs_router(reader: &Reader<'_>, section: &Section<'_, '_>, what: &str) {
    reader.report(
        reader
            .problem(section.span(), format!("{what} needs a router"))
            .label("there is no inside and outside")
            .advise("give the interfaces side = \"inside\" and side = \"outside\", or leave this table out"),
    );
}

fn read_nat(
    reader: &Reader<'_>,
    section: &Section<'_, '_>,
    router: bool,
    interfaces: &[Interface],
) -> Option<Nat> {
    if !router {
        needs_router(reader, section, "[nat]");
    }
    let addresses = section.require("address").and_then(|item| {
        let mut addresses: Vec<Option<IpAddr>> = Vec::new();
        for item in item.one_or_list()? {
            let address = item.parse_with(|text| {
                let without_prefix = text.split_once('/').map(|(address, _)| address);
                if let Some(address) = without_prefix.and_then(|address| address.parse::<IpAddr>().ok()) {
                    return Err(ValueError::new(format!("\"{text}\" has a prefix"))
                        .advise(format!("did you mean \"{address}\"?")));
                }
                let address = parse_address(text)?;
                check_unicast(address)?;
                check_routable(address)?;
                Ok(address)
            });
            if address.is_some() && addresses.contains(&address) {
                reader.report_at(item.path(), "the address is given twice", "leave it out here");
            }
            addresses.push(address);
        }
        addresses.into_iter().collect::<Option<Vec<_>>>()
    });
    let inside = section.require("inside").and_then(|item| {
        item.parse_list(|text| {
            let cidr: Cidr = text.parse()?;
            cidr.check_network()?;
            Ok(cidr)
        })
    });
    let forward = section.get("forward").map_or(Some(Vec::new()), |item| item.parse_list(str::parse));
    let (addresses, inside, forward) = (addresses?, inside?, forward?);
    check_forwards(reader, section, &forward, &addresses, interfaces);
    for (i, network) in inside.iter().enumerate() {
        let network_family = family(network.address());
        if !addresses.iter().any(|address| family(*address) == network_family) {
            reader.report_at(
                &format!("{}.inside[{i}]", section.path()),
                format!("{network} is {network_family}, and there is no {network_family} address to translate it to"),
                format!("add an {network_family} address to `address`, or leave the network out"),
            );
        }
    }
    for address in &addresses {
        let address_family = family(*address);
        if !inside.iter().any(|network| family(network.address()) == address_family) {
            reader.report_at(
                &format!("{}.address", section.path()),
                format!("{address} is {address_family}, and no inside network is"),
                format!("add an {address_family} network to `inside`, or leave the address out"),
            );
        }
    }
    Some(Nat { addresses, inside, forward })
}

/// The outer end of each must be here, the inner end elsewhere, and no outer end can lead to two services.
fn check_forwards(
    reader: &Reader<'_>,
    section: &Section<'_, '_>,
    forwards: &[PortForward],
    addresses: &[IpAddr],
    interfaces: &[Interface],
) {
    let all = |interface: &Interface| interface.addresses.iter().map(Cidr::address).collect::<Vec<_>>();
    let outside = interfaces.iter().filter(|interface| interface.side == Side::Outside).flat_map(all);
    let outer: Vec<IpAddr> = addresses.iter().copied().chain(outside).collect();
    let own: Vec<IpAddr> = interfaces.iter().flat_map(all).chain(addresses.iter().copied()).collect();
    for (i, forward) in forwards.iter().enumerate() {
        let place = format!("{}.forward[{i}]", section.path());
        if !outer.contains(&forward.outer.ip()) {
            reader.report_at(
                &place,
                format!("{} is no outside address of the cluster", forward.outer.ip()),
                format!(
                    "use one of {}",
                    outer.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            );
        }
        if own.contains(&forward.inner.ip()) {
            reader.report_at(
                &place,
                format!("{} is an address of the cluster itself", forward.inner.ip()),
                "name the server that is behind the firewall",
            );
        }
        let same = |other: &PortForward| (other.transport, other.outer) == (forward.transport, forward.outer);
        if forwards[..i].iter().any(same) {
            let end = format!("{} {}", forward.transport, forward.outer);
            reader.report_at(&place, format!("{end} is forwarded twice"), "leave one of them out");
        }
    }
}

fn read_sync(reader: &Reader<'_>, section: &Section<'_, '_>, router: bool) -> Sync {
    let enabled = section.get("enabled").and_then(|item| item.boolean()).unwrap_or(true);
    if enabled && !router {
        needs_router(reader, section, "[sync]");
    }
    Sync { enabled }
}

fn read_hooks(section: &Section<'_, '_>) -> Hooks {
    Hooks {
        on_change: section.get("on_change").and_then(|item| item.command_line()),
        timeout: section
            .get("timeout")
            .and_then(|item| item.duration(HOOK_TIMEOUT_MIN..=HOOK_TIMEOUT_MAX))
            .unwrap_or(HOOK_TIMEOUT_DEFAULT),
    }
}

#[cfg(test)]
mod tests;
