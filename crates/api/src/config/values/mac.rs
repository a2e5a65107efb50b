//! Ethernet addresses, and where a cluster takes its own from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Cidr, ValueError};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
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
}
