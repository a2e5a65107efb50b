//! IP addresses: of hosts, of networks, of the group that nodes talk to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use super::ValueError;

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
    pub(in crate::config) fn check_host(&self) -> Result<(), ValueError> {
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
    pub(in crate::config) fn check_network(&self) -> Result<(), ValueError> {
        if self.network() != self.address {
            return Err(ValueError::new(format!("{self} is an address in a network, not a network"))
                .advise(format!("did you mean \"{}/{}\"?", self.network(), self.prefix_len)));
        }
        Ok(())
    }
}

/// Checks that an address can belong to one host that others reach over a network.
pub(in crate::config) fn check_unicast(address: IpAddr) -> Result<(), ValueError> {
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
pub(in crate::config) fn check_routable(address: IpAddr) -> Result<(), ValueError> {
    if is_link_local(address) {
        return Err(ValueError::new(format!("{address} is a link-local address, which no router forwards"))
            .advise("use an address that is routed"));
    }
    Ok(())
}

/// Whether an address has a meaning on its own link only.
const fn is_link_local(address: IpAddr) -> bool {
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

pub(in crate::config) fn parse_address(text: &str) -> Result<IpAddr, ValueError> {
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

#[cfg(test)]
mod tests {
    use super::super::MacAddress;
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
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
}
