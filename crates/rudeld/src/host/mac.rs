//! A 48-bit Ethernet address, and the ones that IP multicast groups map to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A 48-bit Ethernet (MAC) address, in the order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, which nobody has.
    pub const ZERO: Self = Self([0; 6]);

    /// Is it a group address (broadcast included)? Then frames to it are never learnt by a switch port.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Can it be the address of one station: neither a group nor zero?
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// The six bytes, in the order of the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The Ethernet address of an IP multicast group: `01:00:5e` and the low 23 bits (RFC 1112), or `33:33` and the low
    /// 32 bits (RFC 2464). Several groups share one address.
    #[must_use]
    pub const fn of_group(group: IpAddr) -> Self {
        match group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V6(group) => {
                let octets = group.octets();
                Self([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
            }
        }
    }

    /// The IPv4 group that is joined so that a snooping switch lets frames to this address through: `01:00:5e:7f:xx:yy`
    /// belongs to `239.255.xx.yy` (and to 31 other groups; this is the one in the local scope of RFC 2365, and the one
    /// that other implementations of such clusters join). `None` if it is not an address of that form.
    #[must_use]
    pub const fn igmp_group(self) -> Option<Ipv4Addr> {
        match self.0 {
            [0x01, 0x00, 0x5e, 0x7f, x, y] => Some(Ipv4Addr::new(239, 255, x, y)),
            _ => None,
        }
    }
}

/// The group to which neighbour solicitations for `address` go: `ff02::1:ff00:0/104` and its low 24 bits (RFC 4291).
#[must_use]
pub const fn solicited_node_group(address: Ipv6Addr) -> Ipv6Addr {
    let octets = address.octets();
    let [.., b, c, d] = octets;
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | b as u16, u16::from_be_bytes([c, d]))
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl From<MacAddr> for [u8; 6] {
    fn from(mac: MacAddr) -> Self {
        mac.0
    }
}

impl TryFrom<&[u8]> for MacAddr {
    type Error = std::array::TryFromSliceError;

    fn try_from(octets: &[u8]) -> Result<Self, Self::Error> {
        octets.try_into().map(Self)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address such as 03:bf:c0:00:02:0a")]
pub struct ParseMacError(String);

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseMacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(refused)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refused());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_some() {
            return Err(refused());
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac: MacAddr = "03:BF:c0:00:02:0a".parse().unwrap();
        assert_eq!(mac, MacAddr([0x03, 0xbf, 0xc0, 0x00, 0x02, 0x0a]));
        assert_eq!(mac.to_string(), "03:bf:c0:00:02:0a");
        for wrong in [
            "",
            "03:bf:c0:00:02",
            "03:bf:c0:00:02:0a:0b",
            "3:bf:c0:00:02:0a",
            "03-bf-c0-00-02-0a",
            "+3:bf:c0:00:02:0a",
        ] {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn stations_and_groups() {
        assert!(MacAddr([0x02, 0xbf, 1, 2, 3, 4]).is_station());
        assert!(!MacAddr([0x03, 0xbf, 1, 2, 3, 4]).is_station());
        assert!(!MacAddr::BROADCAST.is_station());
        assert!(!MacAddr::ZERO.is_station());
    }

    #[test]
    fn the_igmp_group_has_the_mac_it_came_from() {
        let mac = MacAddr([0x01, 0x00, 0x5e, 0x7f, 0x02, 0x0a]);
        let group = mac.igmp_group().unwrap();
        assert_eq!(group, Ipv4Addr::new(239, 255, 2, 10));
        assert_eq!(MacAddr::of_group(group.into()), mac);
        // 23 of the 28 free bits survive: 239.127.2.10 is the same station group.
        assert_eq!(MacAddr::of_group(Ipv4Addr::new(239, 127, 2, 10).into()), mac);
        assert_eq!(MacAddr([0x01, 0x00, 0x5e, 0x7e, 0x02, 0x0a]).igmp_group(), None);
        assert_eq!(MacAddr([0x03, 0xbf, 0xc0, 0x00, 0x02, 0x0a]).igmp_group(), None);
    }

    #[test]
    fn solicited_node_groups() {
        let group = solicited_node_group("2001:db8::1234:5678:9abc".parse().unwrap());
        assert_eq!(group, "ff02::1:ff78:9abc".parse::<Ipv6Addr>().unwrap());
        assert_eq!(MacAddr::of_group(group.into()).to_string(), "33:33:ff:78:9a:bc");
    }
}
