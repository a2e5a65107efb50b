//! By which names the web server may be called.
//!
//! A page from elsewhere runs in the browser of somebody who can reach this host, and may have its own name point here
//! from one moment to the next: to the browser this is then the same place, whose answers the page may read. It cannot
//! choose another name than its own, though. So what is asked for by a strange name is refused.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

/// The names of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// The first labels of these names.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Names(names.into_iter().map(|name| first_label(name).to_ascii_lowercase()).collect())
    }

    /// Whether what a `Host` header says means this host: an address, a name without a domain (nobody's page has one),
    /// or one of this host's names in whatever domain.
    pub(super) fn mean(&self, host: &str) -> bool {
        if let Some(v6) = host.strip_prefix('[') {
            return v6.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let label = first_label(&name);
        name.parse::<IpAddr>().is_ok() || label == name || self.0.contains(label)
    }
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_means_this_host_is_answered() {
        let names = Names::of(["n1", "Gate1.example.org"]);
        for ours in [
            "192.0.2.11",
            "192.0.2.11:9440",
            "[2001:db8::11]:9440",
            "[::1]",
            "localhost:9440",
            "monitor",
            "N1.lan:9440",
            "gate1.example.org",
            "gate1.example.org.:9440",
        ] {
            assert!(names.mean(ours), "{ours}");
        }
        for strange in
            ["evil.example.com", "evil.example.com:9440", "192.0.2.11.evil.example:80", "x.n1", "[n1.lan]"]
        {
            assert!(!names.mean(strange), "{strange}");
        }
    }
}
