//! A flow, as an administrator writes it: `tcp 203.0.113.7:40000 192.0.2.10:443`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The packets of one conversation in one direction.
///
/// Its text form is protocol, source, destination, with ports where the protocol has them, and the identifier of an
/// ICMP echo: `udp [2001:db8::7]:5353 [2001:db8::10]:53`, `icmp 203.0.113.7 192.0.2.10 id 77`,
/// `esp 203.0.113.7 192.0.2.10`, `47 203.0.113.7 192.0.2.10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowSpec {
    /// The IP protocol number.
    pub protocol: u8,
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes to; of the same family.
    pub destination: IpAddr,
    /// What else tells flows apart.
    pub detail: FlowDetail,
}

/// What tells flows between the same two addresses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowDetail {
    /// The ports of TCP, UDP, UDP-Lite, SCTP or DCCP.
    Ports {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// The identifier of an ICMP echo.
    Echo {
        /// The identifier.
        id: u16,
    },
    /// Nothing: a protocol without ports.
    None,
}

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Names of /etc/protocols that administrators use, with their numbers (IANA).
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", ICMP),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", TCP),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", ICMPV6),
    ("ospf", 89),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | 17 | 33 | 132 | 136)
}

/// A text that is no flow, and how to write one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FlowError(String);

impl FlowError {
    /// How a flow is written.
    pub const REMEDY: &str = "write a flow such as `tcp 203.0.113.7:40000 192.0.2.10:443`, \
                              `udp [2001:db8::7]:5353 [2001:db8::10]:53` or `icmp 203.0.113.7 192.0.2.10 id 77`";
}

impl FromStr for FlowSpec {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (protocol, source, destination, rest) = match words.as_slice() {
            [protocol, source, destination, rest @ ..] => (*protocol, *source, *destination, rest),
            _ => return Err(FlowError(format!("`{text}` is not a protocol with source and destination"))),
        };
        let protocol = parse_protocol(protocol)?;
        if has_ports(protocol) {
            if !rest.is_empty() {
                return Err(FlowError(format!("`{}` is too much", rest.join(" "))));
            }
            let (source, destination) = (parse_end(source)?, parse_end(destination)?);
            let detail = FlowDetail::Ports { source: source.port(), destination: destination.port() };
            return Self::new(protocol, source.ip(), destination.ip(), detail);
        }
        let (source, destination) = (parse_bare(source)?, parse_bare(destination)?);
        // `icmp` means the one of the addresses' family.
        let protocol = if protocol == ICMP && source.is_ipv6() { ICMPV6 } else { protocol };
        let detail = match rest {
            [] => FlowDetail::None,
            ["id", id] if matches!(protocol, ICMP | ICMPV6) => {
                let id = id
                    .parse()
                    .map_err(|_| FlowError(format!("`{id}` is not an identifier of 0 to 65535")))?;
                FlowDetail::Echo { id }
            }
            rest => return Err(FlowError(format!("`{}` is too much", rest.join(" ")))),
        };
        Self::new(protocol, source, destination, detail)
    }
}

impl FlowSpec {
    fn new(protocol: u8, source: IpAddr, destination: IpAddr, detail: FlowDetail) -> Result<Self, FlowError> {
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(FlowError(format!("{source} and {destination} are of two families")));
        }
        Ok(FlowSpec { protocol, source, destination, detail })
    }
}

fn parse_protocol(text: &str) -> Result<u8, FlowError> {
    let lower = text.to_ascii_lowercase();
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == lower) {
        return Ok(*number);
    }
    if matches!(lower.as_str(), "ipv6-icmp" | "icmp6") {
        return Ok(ICMPV6);
    }
    text.parse().map_err(|_| FlowError(format!("`{text}` is neither the name nor the number of a protocol")))
}

fn parse_end(text: &str) -> Result<SocketAddr, FlowError> {
    text.parse().map_err(|_| {
        FlowError(match text.parse::<IpAddr>() {
            Ok(address) => format!("`{address}` lacks a port"),
            Err(_) => format!("`{text}` is not an address with a port"),
        })
    })
}

fn parse_bare(text: &str) -> Result<IpAddr, FlowError> {
    text.parse().map_err(|_| {
        FlowError(match text.parse::<SocketAddr>() {
            Ok(_) => format!("`{text}` has a port, and the protocol has none"),
            Err(_) => format!("`{text}` is not an address"),
        })
    })
}

impl fmt::Display for FlowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.protocol) {
            Some((name, _)) => f.write_str(name)?,
            None => write!(f, "{}", self.protocol)?,
        }
        match self.detail {
            FlowDetail::Ports { source, destination } => {
                let end = SocketAddr::new;
                write!(f, " {} {}", end(self.source, source), end(self.destination, destination))
            }
            FlowDetail::Echo { id } => write!(f, " {} {} id {id}", self.source, self.destination),
            FlowDetail::None => write!(f, " {} {}", self.source, self.destination),
        }
    }
}

impl Serialize for FlowSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FlowSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_written_as_they_are_read() {
        for text in [
            "tcp 203.0.113.7:40000 192.0.2.10:443",
            "udp [2001:db8::7]:5353 [2001:db8::10]:53",
            "sctp 203.0.113.7:1 192.0.2.10:2",
            "icmp 203.0.113.7 192.0.2.10 id 77",
            "icmp 203.0.113.7 192.0.2.10",
            "icmpv6 2001:db8::7 2001:db8::10 id 65535",
            "esp 203.0.113.7 192.0.2.10",
            "200 203.0.113.7 192.0.2.10",
        ] {
            assert_eq!(text.parse::<FlowSpec>().unwrap().to_string(), text);
        }
        let same = |a: &str, b: &str| assert_eq!(a.parse::<FlowSpec>(), b.parse::<FlowSpec>());
        same("TCP  203.0.113.7:1 192.0.2.10:2", "6 203.0.113.7:1 192.0.2.10:2");
        same("icmp 2001:db8::7 2001:db8::10 id 1", "icmpv6 2001:db8::7 2001:db8::10 id 1");
        same("47 203.0.113.7 192.0.2.10", "gre 203.0.113.7 192.0.2.10");
    }

    #[test]
    fn what_is_wrong_with_a_flow_is_said() {
        let error = |text: &str| text.parse::<FlowSpec>().unwrap_err().to_string();
        assert_eq!(error("tcp 203.0.113.7 192.0.2.10:443"), "`203.0.113.7` lacks a port");
        assert_eq!(error("tcp 203.0.113.7:1 web:443"), "`web:443` is not an address with a port");
        assert_eq!(
            error("tcp 203.0.113.7:70000 192.0.2.10:443"),
            "`203.0.113.7:70000` is not an address with a port"
        );
        assert_eq!(
            error("tcp 203.0.113.7:1 [2001:db8::1]:2"),
            "203.0.113.7 and 2001:db8::1 are of two families"
        );
        assert_eq!(
            error("gre 203.0.113.7:1 192.0.2.10"),
            "`203.0.113.7:1` has a port, and the protocol has none"
        );
        assert_eq!(error("icmp 203.0.113.7 192.0.2.10 id x"), "`x` is not an identifier of 0 to 65535");
        assert_eq!(error("gre 203.0.113.7 192.0.2.10 id 7"), "`id 7` is too much");
        assert_eq!(
            error("tpc 203.0.113.7:1 192.0.2.10:2"),
            "`tpc` is neither the name nor the number of a protocol"
        );
        assert_eq!(
            error("256 203.0.113.7 192.0.2.10"),
            "`256` is neither the name nor the number of a protocol"
        );
        assert_eq!(error("tcp"), "`tcp` is not a protocol with source and destination");
    }

    #[test]
    fn a_flow_is_a_text_in_json() {
        let flow: FlowSpec = "udp [2001:db8::7]:5353 [2001:db8::10]:53".parse().unwrap();
        let json = serde_json::to_string(&flow).unwrap();
        assert_eq!(json, "\"udp [2001:db8::7]:5353 [2001:db8::10]:53\"");
        assert_eq!(serde_json::from_str::<FlowSpec>(&json).unwrap(), flow);
    }
}
