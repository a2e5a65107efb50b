//! The values of a configuration: each text form is parsed once, into a type that can only hold valid ones.

mod address;
mod duration;
mod forward;
mod mac;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

pub(crate) use address::family;
pub use address::{Cidr, HeartbeatGroup};
pub(in crate::config) use address::{check_routable, check_unicast, parse_address};
pub use duration::{format_duration, parse_duration};
pub use forward::{PortForward, Transport};
pub use mac::{ClusterMacMode, MacAddress};

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

/// A command with its arguments, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// The longest name or address with a port: 253 octets of a name (RFC 1035 2.3.4), or brackets, and six.
const HOST_LEN_MAX: usize = 255;
/// The longest text that a body is searched for.
const BODY_TEXT_LEN_MAX: usize = 256;

/// What an HTTP check asks for: `http://host[:port]/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// The host to connect to, a name or an address without brackets.
    pub host: String,
    /// The port, 80 by default.
    pub port: u16,
    /// Path and query, at least `/`.
    pub path: String,
    /// The value of the `Host` header, if it is not the URL's host and port.
    pub host_header: Option<HostHeader>,
    /// What the body must contain.
    pub body: Option<BodyText>,
}

impl HttpTarget {
    /// The value of the `Host` header.
    pub fn host_header(&self) -> String {
        self.host_header.as_ref().map_or_else(|| self.authority(), |host| host.0.clone())
    }

    /// Host and port as a URL has them.
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
        Ok(HttpTarget { host: host.to_owned(), port, path, host_header: None, body: None })
    }
}

/// The value of a `Host` header: a host, perhaps with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostHeader(String);

impl FromStr for HostHeader {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let host = format!("http://{text}").parse::<HttpTarget>();
        if text.len() > HOST_LEN_MAX || text.contains(['/', '?']) || host.is_err() {
            return Err(ValueError::new(format!("\"{text}\" is no host"))
                .advise("write a name or an address, with a port if need be, such as \"www.example.org\""));
        }
        Ok(HostHeader(text.to_owned()))
    }
}

/// What a body must contain, byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyText(String);

impl BodyText {
    /// The text, 1 to 256 bytes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BodyText {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.len() {
            1..=BODY_TEXT_LEN_MAX => Ok(BodyText(text.to_owned())),
            0 => Err(ValueError::new("every body contains the empty text")
                .advise("write what a good answer contains, or leave http_body out")),
            len => Err(ValueError::new(format!("the text has {len} bytes"))
                .advise(format!("write at most {BODY_TEXT_LEN_MAX}"))),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!("http://h:81/".parse::<HttpTarget>().unwrap().host_header(), "h:81");
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
    fn a_host_header_is_a_host_and_no_more() {
        for good in ["www.example.org", "h:8080", "192.0.2.1", "[2001:db8::1]:81"] {
            assert_eq!(good.parse::<HostHeader>().map(|host| host.0), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "a b",
            "a\r\nX: y",
            "a/b",
            "a?b",
            "u@h",
            "2001:db8::1",
            "h:",
            "h:0",
            "http://h",
            &"h".repeat(256),
        ] {
            assert!(bad.parse::<HostHeader>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_body_text_has_a_length() {
        assert_eq!("all good".parse::<BodyText>().unwrap().as_str(), "all good");
        assert!("".parse::<BodyText>().is_err());
        assert!("x".repeat(256).parse::<BodyText>().is_ok());
        assert!("x".repeat(257).parse::<BodyText>().is_err());
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
