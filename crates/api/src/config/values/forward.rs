//! What a router with NAT passes to services behind it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::ValueError;
use super::address::{check_routable, check_unicast};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
