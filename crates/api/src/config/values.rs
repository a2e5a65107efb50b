//! The values of a configuration: each text form is parsed once, into a type that can only hold valid ones.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::words::words;

/// A text that is not the value it should be, and what to write there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    message: String,
    advice: Option<String>,
}

impl ValueError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        ValueError { message: message.into(), advice: None }
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What to write, if there is more to say than the range of the key.
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }
}

words! {
    /// Which fields of a packet decide its bucket.
    pub enum HashMode {
        /// The source address: all flows of a client meet at one node.
        SourceIp = "source-ip",
        /// Source address and port: the flows of a client spread.
        SourceIpPort = "source-ip-port",
        /// Source address, source port and destination port.
        SourceIpPortDestPort = "source-ip-port-dest-port",
        /// The source's network, /24 or /64: for clients behind a farm of proxies.
        SourceNet = "source-net",
        /// Nothing: all traffic meets at one node, an active/standby address.
        None = "none",
    }
}

impl HashMode {
    /// The hashed fields, in the words of `rudel why`.
    pub const fn fields(self) -> &'static [&'static str] {
        match self {
            HashMode::SourceIp => &["source address"],
            HashMode::SourceIpPort => &["source address", "source port"],
            HashMode::SourceIpPortDestPort => &["source address", "source port", "destination port"],
            HashMode::SourceNet => &["source network"],
            HashMode::None => &[],
        }
    }
}

words! {
    /// What an interface is to the cluster.
    pub enum Side {
        /// The cluster's own addresses are served here.
        Service = "service",
        /// The inner side of a router.
        Inside = "inside",
        /// The outer side of a router.
        Outside = "outside",
    }
}

impl Side {
    /// Whether packets that are addressed to nobody here are routed.
    pub const fn is_router(self) -> bool {
        matches!(self, Side::Inside | Side::Outside)
    }
}

words! {
    /// How the packet filter is to be attached.
    pub enum XdpMode {
        /// Native where that is the better one, generic elsewhere (veth, bridges, macvlan, drivers without XDP).
        Auto = "auto",
        /// In the driver; refused where the driver cannot.
        Native = "native",
        /// In the stack, for any interface; dearer per packet.
        Generic = "generic",
    }
}

/// A unicast or group Ethernet address, written `03:bf:c0:00:02:0a`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it addresses a group of stations (bit 0 of the first byte).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it was made up here instead of by the maker of the card (bit 1 of the first byte).
    pub const fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }

    /// The address that frames of an IP multicast group carry (RFC 1112 6.4, RFC 2464 7).
    pub const fn of_group(group: IpAddr) -> Self {
        match group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                MacAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V6(group) => {
                let o = group.octets();
                MacAddress([0x33, 0x33, o[12], o[13], o[14], o[15]])
            }
        }
    }
}

impl FromStr for MacAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError::new(format!("\"{text}\" is not an Ethernet address"))
                .advise("write six bytes in hexadecimal, such as \"03:bf:c0:00:02:0a\"")
        };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(malformed)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Ok(MacAddress(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the cluster MAC of an interface comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterMacMode {
    /// `03:bf:` and four bytes of the address, as Microsoft NLB: switches flood it.
    Multicast,
    /// `01:00:5e:7f:` and two bytes of the address, with the group joined, so that snooping switches can prune.
    Igmp,
    /// `02:bf:` and four bytes of the address: for routers that refuse a group address in an ARP answer.
    Unicast,
    /// Given by the administrator.
    Explicit(MacAddress),
}

impl ClusterMacMode {
    /// The cluster MAC of an interface whose addresses these are.
    ///
    /// It is made of the first IPv4 address, or, where there is none, of the last four (igmp: two) bytes of the
    /// first IPv6 address. None only if there is no address and none is explicit.
    pub fn cluster_mac(self, addresses: &[Cidr]) -> Option<MacAddress> {
        let tail = || {
            let v4 = addresses.iter().find_map(|cidr| match cidr.address() {
                IpAddr::V4(address) => Some(address.octets()),
                IpAddr::V6(_) => None,
            });
            let v6 = || {
                addresses.iter().find_map(|cidr| match cidr.address() {
                    IpAddr::V4(_) => None,
                    IpAddr::V6(address) => {
                        let o = address.octets();
                        Some([o[12], o[13], o[14], o[15]])
                    }
                })
            };
            v4.or_else(v6)
        };
        Some(match self {
            ClusterMacMode::Explicit(mac) => mac,
            ClusterMacMode::Multicast => {
                let [a, b, c, d] = tail()?;
                MacAddress([0x03, 0xbf, a, b, c, d])
            }
            ClusterMacMode::Igmp => {
                let [_, _, c, d] = tail()?;
                MacAddress([0x01, 0x00, 0x5e, 0x7f, c, d])
            }
            ClusterMacMode::Unicast => {
                let [a, b, c, d] = tail()?;
                MacAddress([0x02, 0xbf, a, b, c, d])
            }
        })
    }
}

impl FromStr for ClusterMacMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "multicast" => return Ok(ClusterMacMode::Multicast),
            "igmp" => return Ok(ClusterMacMode::Igmp),
            "unicast" => return Ok(ClusterMacMode::Unicast),
            _ => {}
        }
        if !text.contains([':', '-']) {
            let error =
                ValueError::new(format!("\"{text}\" is neither a way to make a cluster MAC nor an address"));
            return Err(match crate::words::nearest(text, ["multicast", "igmp", "unicast"]) {
                Some(near) => error.advise(format!("did you mean \"{near}\"?")),
                None => error,
            });
        }
        let mac: MacAddress = text.parse()?;
        if mac.0 == [0xff; 6] {
            return Err(ValueError::new(format!("{mac} is the broadcast address")).advise(
                "every host on the segment would receive the cluster's packets: choose another one",
            ));
        }
        if mac.0[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] {
            return Err(ValueError::new(format!("{mac} is reserved for protocols between switches"))
                .advise("switches never forward it: use \"multicast\", or an address that begins with 03:"));
        }
        if !mac.is_multicast() && !mac.is_local() {
            return Err(ValueError::new(format!("{mac} belongs to a maker of network cards")).advise(
                format!(
                    "use a locally administered address ({}) or a group address, so that no card has it",
                    MacAddress([mac.0[0] | 2, mac.0[1], mac.0[2], mac.0[3], mac.0[4], mac.0[5]])
                ),
            ));
        }
        Ok(ClusterMacMode::Explicit(mac))
    }
}

impl fmt::Display for ClusterMacMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterMacMode::Multicast => f.write_str("multicast"),
            ClusterMacMode::Igmp => f.write_str("igmp"),
            ClusterMacMode::Unicast => f.write_str("unicast"),
            ClusterMacMode::Explicit(mac) => fmt::Display::fmt(mac, f),
        }
    }
}

/// An address with the prefix length of its network: `192.0.2.10/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// An address in a network; none if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let max = if address.is_ipv4() { 32 } else { 128 };
        (prefix_len <= max).then_some(Cidr { address, prefix_len })
    }

    /// The address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the network's prefix in bits, 0 to 32 or 128.
    pub const fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The first address of the network.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        }
    }

    /// Whether the address is one of IPv6 that has a meaning on its own link only: a router may have the same one on
    /// several links.
    pub fn is_link_local_v6(&self) -> bool {
        self.address.is_ipv6() && is_link_local(self.address)
    }

    /// Whether an address lies in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        Cidr::new(address, self.prefix_len).is_some_and(|other| {
            address.is_ipv4() == self.address.is_ipv4() && other.network() == self.network()
        })
    }

    /// The broadcast address of an IPv4 network that has one.
    fn broadcast(&self) -> Option<IpAddr> {
        match self.network() {
            IpAddr::V4(network) if self.prefix_len < 31 => {
                let host_bits = u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
                Some(Ipv4Addr::from_bits(network.to_bits() | host_bits).into())
            }
            _ => None,
        }
    }

    /// Checks that it can be a host's address in its network.
    pub(super) fn check_host(&self) -> Result<(), ValueError> {
        check_unicast(self.address)?;
        if self.prefix_len == 0 {
            return Err(ValueError::new(format!("{self} says that every address is on this network"))
                .advise("write the prefix length of the network, such as /24 or /64"));
        }
        if Some(self.address) == self.broadcast() {
            return Err(ValueError::new(format!("{} is the broadcast address of its network", self.address))
                .advise("use an address of a host"));
        }
        if self.address.is_ipv4() && self.prefix_len < 31 && self.address == self.network() {
            return Err(ValueError::new(format!("{self} is the network itself"))
                .advise("use an address of a host in it"));
        }
        Ok(())
    }

    /// Checks that no bit is set behind the prefix.
    pub(super) fn check_network(&self) -> Result<(), ValueError> {
        if self.network() != self.address {
            return Err(ValueError::new(format!("{self} is an address in a network, not a network"))
                .advise(format!("did you mean \"{}/{}\"?", self.network(), self.prefix_len)));
        }
        Ok(())
    }
}

/// Checks that an address can belong to one host that others reach over a network.
pub(super) fn check_unicast(address: IpAddr) -> Result<(), ValueError> {
    let what = match address {
        _ if address.is_multicast() => "a multicast group",
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => "a reserved address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in the form of IPv6",
        _ => return Ok(()),
    };
    let error = ValueError::new(format!("{address} is {what}, not the address of a host"));
    Err(match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => error.advise(format!("did you mean {v4}?")),
            None => error.advise("use a unicast address that clients can reach"),
        },
        IpAddr::V4(_) => error.advise("use a unicast address that clients can reach"),
    })
}

/// Checks that packets to an address are routed: link-local ones never leave their link (RFC 4291 2.5.6, RFC 3927 7).
pub(super) fn check_routable(address: IpAddr) -> Result<(), ValueError> {
    if is_link_local(address) {
        return Err(ValueError::new(format!("{address} is a link-local address, which no router forwards"))
            .advise("use an address that is routed"));
    }
    Ok(())
}

/// Whether an address has a meaning on its own link only.
pub(crate) const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(prefix_len)),
            None => (text, None),
        };
        let address: IpAddr = parse_address(address)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let Some(prefix_len) = prefix_len else {
            let example = if address.is_ipv4() { 24 } else { 64 };
            return Err(ValueError::new(format!("\"{text}\" lacks the prefix length of its network"))
                .advise(format!("write it behind the address, such as \"{address}/{example}\"")));
        };
        prefix_len.parse().ok().and_then(|len| Cidr::new(address, len)).ok_or_else(|| {
            ValueError::new(format!("\"/{prefix_len}\" is not a prefix length"))
                .advise(format!("an {} prefix has 0 to {max} bits", family(address)))
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn parse_address(text: &str) -> Result<IpAddr, ValueError> {
    text.parse().map_err(|_| {
        ValueError::new(format!("\"{text}\" is not an IP address"))
            .advise("write it in numbers, such as 192.0.2.10 or 2001:db8::10")
    })
}

/// `IPv4` or `IPv6`.
pub(crate) const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The multicast group and port of the heartbeats.
///
/// IPv4: any group, one of 239.0.0.0/8 (RFC 2365) recommended. IPv6: one of link-local scope, as `ff02::4a:28`,
/// since heartbeats never leave the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeartbeatGroup(SocketAddr);

impl HeartbeatGroup {
    /// The default, `239.255.74.40:7440`.
    pub const DEFAULT: HeartbeatGroup =
        HeartbeatGroup(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 74, 40)), 7440));

    /// Group and port; the scope of an IPv6 group is that of the interface it is used on.
    pub const fn socket_addr(&self) -> SocketAddr {
        self.0
    }

    /// The group.
    pub const fn ip(&self) -> IpAddr {
        self.0.ip()
    }

    /// The UDP port.
    pub const fn port(&self) -> u16 {
        self.0.port()
    }
}

impl FromStr for HeartbeatGroup {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let group: SocketAddr = text.parse().map_err(|_| {
            let error = ValueError::new(format!("\"{text}\" is not a group with a port"));
            match text.trim_matches(['[', ']']).parse() {
                Ok(IpAddr::V4(v4)) => error.advise(format!("write the port behind it: \"{v4}:7440\"")),
                Ok(IpAddr::V6(v6)) => error.advise(format!("write the port behind it: \"[{v6}]:7440\"")),
                Err(_) => error.advise("write \"239.255.74.40:7440\" or \"[ff02::4a:28]:7440\""),
            }
        })?;
        if !group.ip().is_multicast() {
            return Err(ValueError::new(format!("{} is not a multicast group", group.ip()))
                .advise("choose a group of 239.0.0.0/8 or ff02::/16, the same on every node"));
        }
        if let IpAddr::V6(v6) = group.ip()
            && v6.segments()[0] & 0xf != 2
        {
            return Err(ValueError::new(format!("{v6} is not of link-local scope"))
                .advise("heartbeats never leave the segment: choose a group of ff02::/16"));
        }
        if group.port() == 0 {
            return Err(ValueError::new("port 0 cannot be sent to").advise("choose a port of 1 to 65535"));
        }
        Ok(HeartbeatGroup(match group {
            SocketAddr::V4(v4) => SocketAddr::V4(v4),
            SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0)),
        }))
    }
}

impl fmt::Display for HeartbeatGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The name of a network interface, 1 to 15 bytes without `/`, `:` and blanks, as the kernel wants it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(Box<str>);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = |why: &str| {
            Err(ValueError::new(format!("\"{text}\" cannot be the name of an interface: {why}"))
                .advise("`ip link` lists the interfaces of a host"))
        };
        if text.is_empty() || text.len() > 15 {
            return error("it has 1 to 15 characters");
        }
        if matches!(text, "." | "..") {
            return error("it is a directory");
        }
        if let Some(c) = text.chars().find(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
        {
            return error(&format!("{c:?} is not allowed"));
        }
        Ok(InterfaceName(text.into()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transport protocol of static destination NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its word in configuration and rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }

    /// Its IP protocol number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Static destination NAT: `tcp 198.51.100.10:443 to 10.0.0.5:8443`. Both ends are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortForward {
    /// The protocol.
    pub transport: Transport,
    /// Where clients send to.
    pub outer: SocketAddr,
    /// Who serves them.
    pub inner: SocketAddr,
}

impl FromStr for PortForward {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let example = "write \"tcp 198.51.100.10:443 to 10.0.0.5:8443\"";
        let words: Vec<&str> = text.split_whitespace().collect();
        let [transport, outer, "to", inner] = words[..] else {
            return Err(
                ValueError::new(format!("\"{text}\" does not say from where to where")).advise(example)
            );
        };
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            other => {
                return Err(ValueError::new(format!("\"{other}\" is neither tcp nor udp")).advise(example));
            }
        };
        let end = |text: &str| {
            let end: SocketAddr = text.parse().map_err(|_| {
                ValueError::new(format!("\"{text}\" is not an address with a port")).advise(example)
            })?;
            if end.port() == 0 {
                return Err(ValueError::new("port 0 is no port").advise("choose one of 1 to 65535"));
            }
            check_unicast(end.ip())?;
            check_routable(end.ip())?;
            Ok(end)
        };
        let (outer, inner) = (end(outer)?, end(inner)?);
        if outer.is_ipv4() != inner.is_ipv4() {
            return Err(ValueError::new(format!("{outer} and {inner} are of two families"))
                .advise("NAT translates within a family"));
        }
        Ok(PortForward { transport, outer, inner })
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {}", self.transport, self.outer, self.inner)
    }
}

/// A command with its arguments, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// What an HTTP check asks for: `http://host[:port]/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// The host to connect to, a name or an address without brackets.
    pub host: String,
    /// The port, 80 by default.
    pub port: u16,
    /// Path and query, at least `/`.
    pub path: String,
}

impl HttpTarget {
    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

impl FromStr for HttpTarget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error =
            |advice: &str| Err(ValueError::new(format!("\"{text}\" cannot be asked for")).advise(advice));
        let Some(rest) = text.strip_prefix("http://") else {
            return error(if text.starts_with("https://") {
                "a check speaks plain HTTP: use http://, or tcp = \"addr:443\", or exec with a program that speaks TLS"
            } else {
                "write it out, such as \"http://192.0.2.10/healthz\""
            });
        };
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
            return error("blanks and letters beyond ASCII must be percent-encoded");
        }
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let path = match path.split('#').next() {
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(query) => format!("/{query}"),
            None => "/".to_owned(),
        };
        if authority.contains('@') {
            return error("user names and passwords are not supported: let the server answer without them");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => match v6.split_once(']') {
                Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => (host, port),
                _ => return error("write an IPv6 address in brackets, such as \"http://[2001:db8::10]/\""),
            },
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return error("a port is a number of 1 to 65535"),
            },
            None if port.is_empty() => 80,
            None => return error("a port is a number of 1 to 65535 behind a colon"),
        };
        let name_ok = host.parse::<IpAddr>().is_ok()
            || (!host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')));
        if !name_ok {
            return error("a host is missing, or its name has characters that no host name has");
        }
        Ok(HttpTarget { host: host.to_owned(), port, path })
    }
}

/// What a DNS check asks, and whom: `name@addr`, port 53 unless given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsTarget {
    /// The name to ask for.
    pub name: String,
    /// The server.
    pub server: SocketAddr,
}

impl fmt::Display for DnsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server.port() {
            53 => write!(f, "{}@{}", self.name, self.server.ip()),
            _ => write!(f, "{}@{}", self.name, self.server),
        }
    }
}

impl FromStr for DnsTarget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error =
            |message: String| Err(ValueError::new(message).advise("write \"www.example.org@192.0.2.10\""));
        let Some((name, server)) = text.split_once('@') else {
            return error(format!("\"{text}\" does not say whom to ask"));
        };
        let server = match (server.parse(), server.parse()) {
            (Ok(address), _) => SocketAddr::new(address, 53),
            (_, Ok(server)) => server,
            _ => return error(format!("\"{server}\" is not the address of a server")),
        };
        // RFC 1035 2.3.4: labels of 1 to 63 octets, names of at most 253 in text form.
        let labels_ok = name.trim_end_matches('.').split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
        if name != "." && (name.len() > 253 || name.ends_with("..") || !labels_ok) {
            return error(format!("\"{name}\" is not a domain name"));
        }
        Ok(DnsTarget { name: name.to_owned(), server })
    }
}

/// Reads a duration: whole numbers with units, as `400ms`, `5m`, `1h30m`. Units are `ms`, `s`, `m`, `h`.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let error = || {
        ValueError::new(format!("\"{text}\" is not a duration"))
            .advise("write a whole number with its unit (ms, s, m, h), such as \"400ms\" or \"5m\"")
    };
    let mut total_ms: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(error)?;
        rest = tail.trim_start();
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration in the largest units that it is a whole number of: `400ms`, `5m`, `1h30m`.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    if !ms.is_multiple_of(1000) {
        return format!("{ms}ms");
    }
    let s = ms / 1000;
    match (s / 3600, s / 60 % 60, s % 60) {
        (h, 0, 0) if h > 0 => format!("{h}h"),
        (h, m, 0) if h > 0 => format!("{h}h{m}m"),
        (0, m, 0) => format!("{m}m"),
        _ => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn durations_are_numbers_with_units() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("400ms"), Ok(400));
        assert_eq!(ms("5m"), Ok(300_000));
        assert_eq!(ms("1h 30m"), Ok(5_400_000));
        assert_eq!(ms("0s"), Ok(0));
        for bad in
            ["", "400", "-1s", "1.5s", "5 parsecs", "s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(ms(bad).is_err(), "{bad}");
        }
        for text in ["400ms", "5m", "1h30m", "90s", "0s", "1500ms", "2h"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn a_cluster_mac_is_made_of_the_first_ipv4_address_or_else_of_ipv6() {
        let both = [cidr("2001:db8::a:b/64"), cidr("192.0.2.10/24")];
        let mac = |mode: ClusterMacMode, addresses| mode.cluster_mac(addresses).unwrap().to_string();
        assert_eq!(mac(ClusterMacMode::Multicast, &both), "03:bf:c0:00:02:0a");
        assert_eq!(mac(ClusterMacMode::Unicast, &both), "02:bf:c0:00:02:0a");
        assert_eq!(mac(ClusterMacMode::Igmp, &both), "01:00:5e:7f:02:0a");
        assert_eq!(mac(ClusterMacMode::Multicast, &both[..1]), "03:bf:00:0a:00:0b");
        assert_eq!(mac(ClusterMacMode::Igmp, &both[..1]), "01:00:5e:7f:00:0b");
        assert_eq!(ClusterMacMode::Multicast.cluster_mac(&[]), None);
    }

    #[test]
    fn only_made_up_and_group_addresses_can_be_cluster_macs() {
        for good in
            ["03:bf:c0:00:02:0a", "02-bf-c0-00-02-0A", "01:00:5e:7f:00:01", "multicast", "igmp", "unicast"]
        {
            assert!(good.parse::<ClusterMacMode>().is_ok(), "{good}");
        }
        for bad in [
            "00:1b:21:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "01:80:c2:00:00:0e",
            "03:bf:c0:00:02",
            "03:bf:c0:00:02:0a:0b",
            "03:bf:c0:00:02:+a",
            "multicats",
        ] {
            assert!(bad.parse::<ClusterMacMode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_know_what_they_contain() {
        assert_eq!(cidr("192.0.2.130/25").network().to_string(), "192.0.2.128");
        assert!(cidr("0.0.0.0/0").contains("8.8.8.8".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(cidr("2001:db8::/32").contains("2001:db8:ffff::1".parse().unwrap()));
        assert!(!cidr("10.0.0.0/8").contains("11.0.0.1".parse().unwrap()));
        assert!(cidr("10.0.0.0/8").check_network().is_ok());
        assert!(cidr("10.1.0.0/8").check_network().is_err());
    }

    #[test]
    fn addresses_of_interfaces_are_addresses_of_hosts() {
        for good in ["192.0.2.10/24", "192.0.2.0/31", "192.0.2.10/32", "2001:db8::10/64", "fe80::1/64"] {
            assert_eq!(cidr(good).check_host(), Ok(()), "{good}");
        }
        for bad in [
            "192.0.2.0/24",
            "192.0.2.255/24",
            "224.0.0.1/24",
            "127.0.0.1/8",
            "0.0.0.0/8",
            "255.255.255.255/32",
            "240.0.0.1/24",
            "192.0.2.1/0",
            "::1/128",
            "ff02::1/64",
            "::ffff:192.0.2.1/96",
        ] {
            assert!(cidr(bad).check_host().is_err(), "{bad}");
        }
        for bad in
            ["192.0.2.10", "192.0.2.10/33", "2001:db8::/129", "192.0.2.10/", "web/24", "192.0.2.10/24/24"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn forwards_say_from_where_to_where() {
        for good in ["tcp 198.51.100.10:443 to 10.0.0.5:8443", "udp [2001:db8::10]:53 to [fd00::5]:53"] {
            assert_eq!(good.parse::<PortForward>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "tcp 198.51.100.10:443",
            "tcp 198.51.100.10:443 10.0.0.5:8443",
            "sctp 198.51.100.10:443 to 10.0.0.5:8443",
            "tcp 198.51.100.10 to 10.0.0.5:8443",
            "tcp 198.51.100.10:0 to 10.0.0.5:8443",
            "tcp 198.51.100.10:443 to 224.0.0.5:8443",
            "tcp 198.51.100.10:443 to [fd00::5]:8443",
            "tcp [fe80::1]:443 to [fd00::5]:8443",
        ] {
            assert!(bad.parse::<PortForward>().is_err(), "{bad}");
        }
    }

    #[test]
    fn groups_are_multicast_with_a_port() {
        for good in ["239.255.74.40:7440", "[ff02::4a:28]:7440", "[ff12::1]:1"] {
            assert!(good.parse::<HeartbeatGroup>().is_ok(), "{good}");
        }
        for bad in ["239.255.74.40", "192.0.2.1:7440", "[ff05::1]:7440", "239.1.1.1:0", "ff02::1:7440", "x"] {
            assert!(bad.parse::<HeartbeatGroup>().is_err(), "{bad}");
        }
        assert_eq!(HeartbeatGroup::DEFAULT.to_string().parse(), Ok(HeartbeatGroup::DEFAULT));
        assert_eq!(MacAddress::of_group(HeartbeatGroup::DEFAULT.ip()).to_string(), "01:00:5e:7f:4a:28");
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        assert!("eth0.100".parse::<InterfaceName>().is_ok());
        for bad in ["", "eth 0", "a/b", "eth0:1", "..", "sixteen-letters-"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn http_targets_are_taken_apart() {
        let target = |text: &str| text.parse::<HttpTarget>().map(|t| (t.host, t.port, t.path));
        let is = |host: &str, port, path: &str| Ok((host.to_owned(), port, path.to_owned()));
        assert_eq!(target("http://192.0.2.10/healthz"), is("192.0.2.10", 80, "/healthz"));
        assert_eq!(target("http://[2001:db8::1]:8080"), is("2001:db8::1", 8080, "/"));
        assert_eq!(target("http://localhost:8080/a?b=c#d"), is("localhost", 8080, "/a?b=c"));
        assert_eq!(target("http://localhost?b"), is("localhost", 80, "/?b"));
        for bad in [
            "https://192.0.2.10/",
            "192.0.2.10",
            "http://",
            "http://:80/",
            "http://h:0/",
            "http://h:x/",
            "http://a b/",
            "http://u@h/",
            "http://2001:db8::1/",
            "http://h/a\r\nX: y",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
        let text = "http://[2001:db8::1]:8080/x";
        assert_eq!(text.parse::<HttpTarget>().unwrap().to_string(), text);
    }

    #[test]
    fn dns_targets_are_a_name_and_a_server() {
        let target = |text: &str| text.parse::<DnsTarget>().map(|t| (t.name, t.server.to_string()));
        assert_eq!(target("a.example@192.0.2.1"), Ok(("a.example".into(), "192.0.2.1:53".into())));
        assert_eq!(target("a.@[2001:db8::1]:5353"), Ok(("a.".into(), "[2001:db8::1]:5353".into())));
        assert_eq!(target(".@2001:db8::1"), Ok((".".into(), "[2001:db8::1]:53".into())));
        for bad in ["a.example", "@192.0.2.1", "a b@192.0.2.1", "a..b@192.0.2.1", "a@host"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
