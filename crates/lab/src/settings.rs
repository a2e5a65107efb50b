//! The cluster configuration of a lab: what its tests vary, written as the file that administrators write.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

/// The shared addresses of every lab.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 74, 0, 10));
/// The shared IPv6 address of every lab.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd74, 0, 0, 0, 0, 0, 0, 0x10));

/// What a lab's `rudel.toml` says. The default is the product's default wherever a lab does not need something else.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[cluster] name`.
    pub cluster: String,
    /// `[cluster] quorum`.
    pub quorum: u32,
    /// `[heartbeat] timeout`.
    pub timeout: Duration,
    /// `[heartbeat] interval`; none leaves it to the daemon.
    pub interval: Option<Duration>,
    /// `[heartbeat] group`; none leaves it to the daemon.
    pub group: Option<String>,
    /// `[heartbeat] interfaces`; none leaves them to the daemon.
    pub heartbeats: Vec<String>,
    /// `[[interface]] hash`.
    pub hash: String,
    /// `[[interface]] mac`.
    pub mac: String,
    /// `[[interface]] addresses`.
    pub addresses: Vec<String>,
    /// A router instead of a service cluster, see [`crate::router`].
    pub router: Option<crate::router::Router>,
    /// Anything else, appended to the file.
    pub extra: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster: "lab".to_owned(),
            quorum: 1,
            timeout: Duration::from_millis(400),
            interval: None,
            group: None,
            heartbeats: Vec::new(),
            hash: "source-ip-port".to_owned(),
            mac: "multicast".to_owned(),
            addresses: vec![format!("{VIP4}/24"), format!("{VIP6}/64")],
            router: None,
            extra: String::new(),
        }
    }
}

impl Settings {
    /// The time after which two message exchanges that follow a silence of `timeout` should be over: what a client may
    /// notice of a crash.
    pub fn takeover(&self) -> Duration {
        self.timeout + 2 * self.interval()
    }

    /// The heartbeat interval in force.
    pub fn interval(&self) -> Duration {
        self.interval.unwrap_or(self.timeout / 8)
    }

    /// The configuration file.
    pub fn to_toml(&self, key_file: &Path) -> String {
        let mut text = String::new();
        let interval =
            self.interval.map(|i| format!("interval = \"{}ms\"\n", i.as_millis())).unwrap_or_default();
        let group = self.group.as_ref().map(|group| format!("group = {group:?}\n")).unwrap_or_default();
        let heartbeats = match &*self.heartbeats {
            [] => String::new(),
            names => format!("interfaces = [{}]\n", quoted(names)),
        };
        write!(
            text,
            "[cluster]\n\
             name = {cluster:?}\n\
             key_file = {key:?}\n\
             quorum = {quorum}\n\
             \n\
             [heartbeat]\n\
             timeout = \"{timeout}ms\"\n\
             {interval}\
             {group}\
             {heartbeats}\
             \n\
             [[interface]]\n\
             name = \"eth0\"\n\
             side = {side:?}\n\
             addresses = [{addresses}]\n\
             mac = {mac:?}\n\
             hash = {hash:?}\n\
             {router}\
             {extra}",
            side = self.router.as_ref().map_or("service", |router| &*router.outer_side),
            router =
                self.router.as_ref().map(|router| router.to_toml(&self.hash, &self.mac)).unwrap_or_default(),
            cluster = self.cluster,
            key = key_file.display().to_string(),
            quorum = self.quorum,
            timeout = self.timeout.as_millis(),
            addresses = quoted(&self.addresses),
            mac = self.mac,
            hash = self.hash,
            extra = self.extra,
        )
        .expect("writing to a string cannot fail");
        text
    }
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_as_an_administrator_would_write_it() {
        let settings = Settings {
            interval: Some(Duration::from_millis(10)),
            group: Some("[ff02::4a:28]:7440".to_owned()),
            heartbeats: vec!["eth0".to_owned(), "eth1".to_owned()],
            ..Settings::default()
        };
        let text = settings.to_toml(Path::new("/etc/rudel/key"));
        for line in [
            "name = \"lab\"",
            "key_file = \"/etc/rudel/key\"",
            "timeout = \"400ms\"",
            "interval = \"10ms\"",
            "group = \"[ff02::4a:28]:7440\"",
            "interfaces = [\"eth0\", \"eth1\"]",
            "addresses = [\"10.74.0.10/24\", \"fd74::10/64\"]",
            "hash = \"source-ip-port\"",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in:\n{text}");
        }
    }

    #[test]
    fn the_interval_defaults_to_an_eighth() {
        assert_eq!(Settings::default().interval(), Duration::from_millis(50));
        assert_eq!(Settings::default().takeover(), Duration::from_millis(500));
    }
}
