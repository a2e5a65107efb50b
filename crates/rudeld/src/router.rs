//! What a router cluster is made of besides its filter: what the filter is to know of the addresses around it, which
//! kernel settings a router needs, and where a flow comes in.
//!
//! Nothing here depends on who owns which bucket: addresses, settings and rules are the same on every node and stay as
//! they are when buckets move. Connection state moves along with them (`sync`), and finds a connection's bucket by
//! [`Router::bucket_of`].

use std::net::IpAddr;

use rudel_api::config::{Cidr, Config, HashMode, Interface, Side};
use rudel_datapath::border::{Border, Forward, Network, Place};
use rudel_datapath::{Flow, flow};

use crate::host::sysctl::{NotASysctl, Requirement, Sysctl};
use crate::snapshot::hash_mode;

/// The filter's word for a side of the configuration.
pub fn side(side: Side) -> flow::Side {
    match side {
        Side::Service => flow::Side::Service,
        Side::Inside => flow::Side::Inside,
        Side::Outside => flow::Side::Outside,
    }
}

/// What the filters of a cluster know of the addresses around them; empty if it is no router.
pub fn border(config: &Config) -> Border {
    if !config.is_router() {
        return Border::default();
    }
    let network = |cidr: &Cidr| Network { address: cidr.network(), prefix_len: cidr.prefix_len() };
    let mut inside: Vec<Network> =
        config.interfaces.iter().flat_map(Interface::inside_networks).map(|cidr| network(&cidr)).collect();
    inside.sort_unstable();
    inside.dedup();
    let nat = config.nat.as_ref();
    Border {
        own: config
            .interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(Cidr::address))
            .collect(),
        translated: nat.map(|nat| nat.addresses.clone()).unwrap_or_default(),
        sources: nat.map(|nat| nat.inside.iter().map(network).collect()).unwrap_or_default(),
        inside,
        forwards: nat
            .into_iter()
            .flat_map(|nat| &nat.forward)
            .map(|forward| Forward {
                protocol: forward.transport.number(),
                outer: (forward.outer.ip(), forward.outer.port()),
                inner: (forward.inner.ip(), forward.inner.port()),
            })
            .collect(),
    }
}

/// The addresses of `[nat]` that are to be served on an interface though they are not among its own: those of its
/// networks, and on the first outside interface those of no outside network, which the upstream router sends there.
pub fn translated_addresses(config: &Config, interface: &Interface) -> Vec<IpAddr> {
    let outside = || config.interfaces.iter().filter(|interface| interface.side == Side::Outside);
    let has = |interface: &Interface, address| interface.addresses.iter().any(|cidr| cidr.contains(address));
    let is_own = |address| {
        config
            .interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .any(|cidr| cidr.address() == address)
    };
    let home = |address| outside().find(|interface| has(interface, address)).or_else(|| outside().next());
    let all = config.nat.iter().flat_map(|nat| nat.addresses.iter().copied());
    all.filter(|address| !is_own(*address))
        .filter(|address| home(*address).is_some_and(|home| home.name == interface.name))
        .collect()
}

/// What the kernel must do on every router: forward, and never tell a host of a way around the cluster's address.
///
/// IPv4 is switched on for the cluster's interfaces alone. IPv6 knows no such thing: the switch for all interfaces is
/// what the kernel looks at.
///
/// # Errors
/// [`NotASysctl`] if an interface cannot have that name.
pub fn requirements(config: &Config) -> Result<Vec<Requirement>, NotASysctl> {
    let set = |sysctl, value| Requirement { sysctl, value, also_fine: &[] };
    let mut all = Vec::new();
    let interfaces = || config.interfaces.iter().filter(|interface| interface.side.is_router());
    for interface in interfaces() {
        let name = interface.name.as_str();
        all.push(set(Sysctl::ipv4_conf(name, "forwarding")?, "1"));
        // Either of the two is enough for the kernel to send redirects.
        all.push(set(Sysctl::ipv4_conf(name, "send_redirects")?, "0"));
    }
    if !all.is_empty() {
        all.push(set(Sysctl::ipv4_conf("all", "send_redirects")?, "0"));
    }
    if config.sync.enabled {
        // Else connections that began while nobody listened would end without a word (nf_conntrack-sysctl).
        all.push(set(Sysctl::try_from("net/netfilter/nf_conntrack_events".to_owned())?, "1"));
    }
    if interfaces().flat_map(|interface| &interface.addresses).any(|cidr| cidr.address().is_ipv6()) {
        all.push(set(Sysctl::ipv6_conf("all", "forwarding")?, "1"));
    }
    Ok(all)
}

/// What an administrator should know of this host before it routes, one line each. Nothing of it stands in the way.
pub fn remarks(config: &Config) -> Vec<String> {
    use crate::host::sysctl::{ReversePathFilter, reverse_path_filter};
    let mut remarks = Vec::new();
    for interface in config.interfaces.iter().filter(|interface| interface.side.is_router()) {
        let name = interface.name.as_str();
        let alike = config.interfaces.iter().filter(|other| other.side == interface.side).count();
        if alike > 1 && matches!(reverse_path_filter(name), Ok(ReversePathFilter::Strict)) {
            remarks.push(format!(
                "net.ipv4.conf.{name}.rp_filter is 1 and there are {alike} {} interfaces: packets that come in by \
                 another one than their answers go out by are dropped; set it to 2 if there are such",
                interface.side
            ));
        }
        let learns = Sysctl::ipv6_conf(name, "accept_ra").map(|sysctl| sysctl.read().ok());
        if interface.addresses.iter().any(|cidr| cidr.address().is_ipv6())
            && interface.side == Side::Outside
            && matches!(learns, Ok(Some(value)) if value == "1")
        {
            remarks.push(format!(
                "net.ipv6.conf.{name}.accept_ra is 1: a router does not heed router advertisements; if this node \
                 learns its default route from one, set it to 2"
            ));
        }
    }
    remarks
}

/// A router cluster's view of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// The router interfaces, each with the networks behind it if it is an inside one.
    interfaces: Vec<(Interface, Vec<Cidr>)>,
    border: Border,
}

impl Router {
    /// None if the cluster is no router.
    pub fn new(config: &Config) -> Option<Self> {
        let routers = config.interfaces.iter().filter(|interface| interface.side.is_router());
        let interfaces = routers.map(|interface| (interface.clone(), interface.inside_networks())).collect();
        config.is_router().then(|| Router { interfaces, border: border(config) })
    }

    fn of(&self, side: Side) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().map(|(interface, _)| interface).filter(move |one| one.side == side)
    }

    /// The router interface that a packet of this direction comes in on; none if its addresses do not tell.
    pub fn entrance(&self, flow: &Flow) -> Option<&Interface> {
        let behind = |address: IpAddr| {
            let mut all = self.interfaces.iter();
            all.find(|(_, networks)| networks.iter().any(|network| network.contains(address)))
        };
        let is_ours = self.border.own.contains(&flow.dst) || self.border.translated.contains(&flow.dst);
        let is_translated =
            |address: IpAddr| self.border.sources.iter().any(|network| network.contains(address));
        let outside = || {
            let linked = |one: &&Interface| one.addresses.iter().any(|cidr| cidr.contains(flow.src));
            self.of(Side::Outside).find(linked).or_else(|| self.of(Side::Outside).next())
        };
        if let Some((interface, _)) = behind(flow.src) {
            return Some(interface);
        }
        if is_ours || behind(flow.dst).is_some() {
            return outside();
        }
        // [nat] may name more of the inside than the interfaces do.
        match (is_translated(flow.src), is_translated(flow.dst)) {
            (true, _) => self.of(Side::Inside).next(),
            (false, true) => outside(),
            (false, false) => None,
        }
    }

    /// Where a packet belongs that comes in on an interface: the flow whose source is hashed, or the block of a port.
    pub fn place(&self, flow: &Flow, interface: &Interface) -> Place {
        self.border.place(flow, side(interface.side))
    }

    /// The bucket of a packet that comes in on an interface.
    pub fn bucket(&self, flow: &Flow, interface: &Interface, seed: u32) -> u8 {
        self.border.bucket(flow, hash_mode(interface.hash), side(interface.side), seed)
    }

    /// The bucket of a connection, by the packets of its first direction as they came in; none if the addresses do not
    /// tell where that was.
    pub fn bucket_of(&self, flow: &Flow, seed: u32) -> Option<u8> {
        self.entrance(flow).map(|interface| self.bucket(flow, interface, seed))
    }

    /// The hash that both sides have.
    pub fn hash(&self) -> HashMode {
        self.interfaces.first().map_or(HashMode::SourceIp, |(interface, _)| interface.hash)
    }

    /// What its filters know.
    pub fn border(&self) -> &Border {
        &self.border
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: &str = "[cluster]\nname = \"r\"\nkey_file = \"/k\"\n\
        [[interface]]\nname = \"lan\"\nside = \"inside\"\naddresses = [\"10.0.0.1/24\", \"fe80::1/64\"]\n\
        [[interface]]\nname = \"dmz\"\nside = \"inside\"\naddresses = [\"10.1.0.1/24\"]\n\
        [[interface]]\nname = \"up\"\nside = \"outside\"\naddresses = [\"198.51.100.10/24\"]\n\
        [nat]\naddress = [\"198.51.100.10\", \"198.51.100.11\", \"203.0.113.5\"]\ninside = [\"10.0.0.0/8\"]\n\
        forward = [\"tcp 198.51.100.11:443 to 10.1.0.5:8443\"]\n";

    fn config() -> Config {
        Config::parse(ROUTER, "test.toml").unwrap_or_else(|error| panic!("{}", error.render(false)))
    }

    fn tcp(src: &str, dst: &str) -> Flow {
        let end = |text: &str| {
            let end: std::net::SocketAddr = text.parse().unwrap();
            (end.ip(), end.port())
        };
        Flow::with_ports(6, end(src), end(dst))
    }

    #[test]
    fn translated_addresses_are_served_where_their_network_is_or_on_the_first_outside_interface() {
        let config = config();
        let extra: Vec<String> =
            translated_addresses(&config, &config.interfaces[2]).iter().map(ToString::to_string).collect();
        assert_eq!(extra, ["198.51.100.11", "203.0.113.5"]);
        assert!(translated_addresses(&config, &config.interfaces[0]).is_empty());
    }

    #[test]
    fn a_flow_comes_in_where_its_source_is() {
        let config = config();
        let router = Router::new(&config).unwrap();
        let entrance = |src: &str, dst: &str| {
            router.entrance(&tcp(src, dst)).map(|interface| interface.name.to_string())
        };
        assert_eq!(entrance("10.1.0.9:1", "8.8.8.8:53").as_deref(), Some("dmz"));
        assert_eq!(entrance("10.77.0.9:1", "8.8.8.8:53").as_deref(), Some("lan"), "named by [nat] alone");
        assert_eq!(entrance("8.8.8.8:53", "198.51.100.10:4000").as_deref(), Some("up"));
        assert_eq!(entrance("8.8.8.8:53", "10.0.0.9:4000").as_deref(), Some("up"));
        assert_eq!(
            entrance("10.77.0.9:53", "10.0.0.9:4000").as_deref(),
            Some("up"),
            "not known to be inside"
        );
        assert_eq!(entrance("8.8.8.8:53", "9.9.9.9:4000"), None);
    }

    #[test]
    fn an_answer_comes_back_to_the_bucket_that_sent_the_question() {
        let config = config();
        let router = Router::new(&config).unwrap();
        let question = tcp("10.0.0.9:40000", "8.8.8.8:53");
        let bucket = router.bucket_of(&question, 7).unwrap();
        let (first, last) = rudel_datapath::border::block(bucket);
        for port in [first, last] {
            let answer = tcp("8.8.8.8:53", &format!("198.51.100.11:{port}"));
            assert_eq!(router.bucket_of(&answer, 7), Some(bucket));
        }
    }

    #[test]
    fn both_sides_forward_and_neither_redirects() {
        let paths: Vec<String> = requirements(&config())
            .unwrap()
            .iter()
            .map(|one| format!("{} = {}", one.sysctl, one.value))
            .collect();
        for line in [
            "net.ipv4.conf.lan.forwarding = 1",
            "net.ipv4.conf.up.send_redirects = 0",
            "net.ipv4.conf.all.send_redirects = 0",
            "net.ipv6.conf.all.forwarding = 1",
        ] {
            assert!(paths.iter().any(|path| path == line), "{line} is not in {paths:?}");
        }
        let service = "[cluster]\nname = \"r\"\nkey_file = \"/k\"\n[[interface]]\nname = \"e\"\naddresses = [\"10.0.0.1/24\"]\n";
        assert!(requirements(&Config::parse(service, "test.toml").unwrap()).unwrap().is_empty());
    }
}
