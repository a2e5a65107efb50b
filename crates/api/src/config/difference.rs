//! What two configurations differ in, and what of it a running daemon can follow.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use super::{Check, Config, Health, Interface, Key, Nat, format_duration};
use crate::reload::Change;

/// When a change of a key is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Live {
    /// As soon as the daemon has read it again.
    Now,
    /// When all nodes have read it again (R11): they live by it alike.
    Together,
    /// At the next start of the node's daemon: a file with such a change is refused while it runs.
    Restart,
    /// Not before the daemons of all nodes have been stopped, since it must be the same everywhere.
    Everywhere,
}

impl Live {
    /// In the words of the manual.
    pub const fn as_str(self) -> &'static str {
        match self {
            Live::Now => "`rudel reload`",
            Live::Together => "`rudel reload` on all nodes",
            Live::Restart => "`rudel restart`",
            Live::Everywhere => "a stop of all nodes",
        }
    }
}

impl Key {
    /// When a change of it is followed.
    ///
    /// # Panics
    /// For a key that nobody has classified; a test calls this for each of [`KEYS`](super::KEYS).
    pub fn live(&self) -> Live {
        match (self.table, self.key) {
            ("cluster", "drain_timeout") | ("node", "weight" | "restart_grace") | ("health" | "hooks", _) => {
                Live::Now
            }
            ("cluster", "key_file")
            | ("node", "name" | "socket" | "metrics")
            | ("interface", "xdp" | "name")
            | ("sync", _) => Live::Restart,
            ("cluster", "quorum") | ("heartbeat", "timeout" | "interval") | ("interface", "addresses") => {
                Live::Together
            }
            ("cluster", "name")
            | ("heartbeat", "group" | "interfaces")
            | ("interface", "side" | "mac" | "hash" | "networks")
            | ("nat", _) => Live::Everywhere,
            (table, key) => panic!("nobody has said when a change of {table}.{key} is followed"),
        }
    }
}

/// What is different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    changes: Vec<(Live, Change)>,
}

impl Difference {
    /// What must change for `old` to become `new`, in the order of the manual.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut found = Difference::default();
        let (a, b) = (&old.cluster, &new.cluster);
        found.note("cluster", "name", &a.name, &b.name);
        found.note("cluster", "key_file", a.key_file.display(), b.key_file.display());
        found.note("cluster", "quorum", a.quorum, b.quorum);
        found.note_duration("cluster", "drain_timeout", a.drain_timeout, b.drain_timeout);
        let (a, b) = (&old.node, &new.node);
        found.note("node", "name", maybe(&a.name), maybe(&b.name));
        found.note("node", "weight", a.weight, b.weight);
        found.note("node", "socket", a.socket.display(), b.socket.display());
        found.note("node", "metrics", maybe(&a.metrics), maybe(&b.metrics));
        let (a, b) = (&old.heartbeat, &new.heartbeat);
        found.note("heartbeat", "group", a.group, b.group);
        found.note("heartbeat", "interfaces", list(&a.interfaces), list(&b.interfaces));
        found.note_duration("heartbeat", "timeout", a.timeout, b.timeout);
        found.note_duration("heartbeat", "interval", a.interval, b.interval);
        found.note_interfaces(&old.interfaces, &new.interfaces);
        found.note_health(&old.health, &new.health);
        let nat = |config: &Config, of: fn(&Nat) -> String| {
            config.nat.as_ref().map_or_else(|| "none".to_owned(), of)
        };
        let mut note = |key, of| found.note("nat", key, nat(old, of), nat(new, of));
        note("address", |nat| list(&nat.addresses));
        note("inside", |nat| list(&nat.inside));
        note("forward", |nat| list(&nat.forward));
        found.note("sync", "enabled", old.sync.enabled, new.sync.enabled);
        let hook = |config: &Config| {
            config.hooks.on_change.as_ref().map_or_else(
                || "none".to_owned(),
                |hook| {
                    let program = std::iter::once(hook.program.display().to_string());
                    format!("{:?}", program.chain(hook.arguments.iter().cloned()).collect::<Vec<_>>())
                },
            )
        };
        found.note("hooks", "on_change", hook(old), hook(new));
        found.note_duration("hooks", "timeout", old.hooks.timeout, new.hooks.timeout);
        found
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that are followed at such a time.
    pub fn of(&self, live: Live) -> Vec<Change> {
        self.changes.iter().filter(|(when, _)| *when == live).map(|(_, change)| change.clone()).collect()
    }

    fn note(&mut self, table: &str, key: &str, old: impl Display, new: impl Display) {
        self.note_at(table, None, key, old, new);
    }

    fn note_duration(&mut self, table: &str, key: &str, old: std::time::Duration, new: std::time::Duration) {
        self.note(table, key, format_duration(old), format_duration(new));
    }

    fn note_at(&mut self, table: &str, name: Option<&str>, key: &str, old: impl Display, new: impl Display) {
        let (from, to) = (old.to_string(), new.to_string());
        if from != to {
            let live = Key::find(table, key).map_or(Live::Restart, Key::live);
            self.push(live, table, name, key, from, to);
        }
    }

    fn push(&mut self, live: Live, table: &str, name: Option<&str>, key: &str, from: String, to: String) {
        let key = match name {
            Some(name) => format!("{table}.{name}.{key}"),
            None => format!("{table}.{key}"),
        };
        self.changes.push((live, Change { key, from, to }));
    }

    /// Interfaces are told apart by their names; which there are, and in which order, cannot change while they are in use.
    fn note_interfaces(&mut self, old: &[Interface], new: &[Interface]) {
        let names = |interfaces: &[Interface]| list(interfaces.iter().map(|interface| &interface.name));
        self.note("interface", "name", names(old), names(new));
        for before in old {
            let name = before.name.as_str();
            let Some(after) = new.iter().find(|after| after.name == before.name) else {
                continue;
            };
            let name = Some(name);
            self.note_at("interface", name, "side", before.side, after.side);
            // What is made of the mode and the first address is what counts: an address that is put before the others
            // would be another MAC for all.
            self.note_at("interface", name, "mac", before.cluster_mac(), after.cluster_mac());
            self.note_at("interface", name, "xdp", before.xdp, after.xdp);
            self.note_at("interface", name, "hash", before.hash, after.hash);
            self.note_at("interface", name, "networks", list(&before.networks), list(&after.networks));
            let addresses = |interface: &Interface| -> Vec<IpAddr> {
                interface.addresses.iter().map(|cidr| cidr.address()).collect()
            };
            let (from, to) = (list(&before.addresses), list(&after.addresses));
            if addresses(before) != addresses(after) && before.side.is_router() {
                // The filters of a router know them: what is for the router itself is hashed otherwise.
                self.push(Live::Everywhere, "interface", name, "addresses", from, to);
            } else if addresses(before) != addresses(after) {
                self.note_at("interface", name, "addresses", from, to);
            } else if from != to {
                // A prefix length matters to nobody but the reader of the file.
                self.push(Live::Now, "interface", name, "addresses", from, to);
            }
        }
    }

    fn note_health(&mut self, old: &[Health], new: &[Health]) {
        let names: BTreeSet<&str> = old.iter().chain(new).map(|health| health.name.as_str()).collect();
        for name in names {
            let find = |all: &[Health]| all.iter().find(|health| health.name == name).map(describe);
            let (from, to) = (find(old), find(new));
            if from != to {
                let none = || "none".to_owned();
                let (key, from, to) =
                    (format!("health.{name}"), from.unwrap_or_else(none), to.unwrap_or_else(none));
                self.changes.push((Live::Now, Change { key, from, to }));
            }
        }
    }
}

/// A check in one line, each of its keys included.
fn describe(health: &Health) -> String {
    let Health { name: _, check, interval, timeout, rise, fall } = health;
    let check = match check {
        Check::Http(target) => {
            let body = target.body.as_ref().map(|body| format!(", body with {:?}", body.as_str()));
            format!("http {target}, host {}{}", target.host_header(), body.unwrap_or_default())
        }
        Check::Tcp(server) => format!("tcp {server}"),
        Check::Dns(target) => format!("dns {target}"),
        Check::Exec(command) => format!("exec {command:?}"),
        Check::Link(interface) => format!("link {interface}"),
    };
    let (interval, timeout) = (format_duration(*interval), format_duration(*timeout));
    format!("{check}, every {interval}, timeout {timeout}, rise {rise}, fall {fall}")
}

fn maybe(value: &Option<impl Display>) -> String {
    value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::KEYS;
    use super::*;

    const SERVICE: &str = r#"
[cluster]
name = "web"
key_file = "/etc/rudel/key"
quorum = 1
drain_timeout = "5m"
[node]
name = "n1"
weight = 100
socket = "/run/rudel/rudel.sock"
metrics = "127.0.0.1:9440"
restart_grace = "0s"
[heartbeat]
group = "239.255.74.40:7440"
interfaces = ["eth0"]
timeout = "400ms"
interval = "50ms"
[[interface]]
name = "eth0"
side = "service"
addresses = ["192.0.2.10/24"]
mac = "multicast"
xdp = "auto"
hash = "source-ip-port"
[[health]]
name = "web"
http = "http://192.0.2.10/"
interval = "1s"
timeout = "500ms"
rise = 2
fall = 2
[hooks]
on_change = ["/bin/true"]
timeout = "30s"
"#;
    const ROUTER: &str = r#"
[cluster]
name = "fw"
key_file = "/etc/rudel/key"
[heartbeat]
interfaces = ["lan"]
[[interface]]
name = "lan"
side = "inside"
addresses = ["10.0.0.1/24"]
[[interface]]
name = "wan"
side = "outside"
addresses = ["198.51.100.10/24"]
[nat]
address = "198.51.100.10"
inside = ["10.0.0.0/8"]
[sync]
enabled = true
"#;

    fn config(text: &str) -> Config {
        Config::parse(text, "rudel.toml").unwrap_or_else(|error| panic!("{error}"))
    }

    /// For each key what to write elsewhere in the file, and what the change is called.
    const CHANGES: &[(&str, &str, &str, &str, &str)] = &[
        ("cluster", "name", "name = \"web\"\nkey", "name = \"www\"\nkey", "cluster.name"),
        ("cluster", "key_file", "/etc/rudel/key", "/etc/rudel/key2", "cluster.key_file"),
        ("cluster", "quorum", "quorum = 1", "quorum = 2", "cluster.quorum"),
        ("cluster", "drain_timeout", "\"5m\"", "\"6m\"", "cluster.drain_timeout"),
        ("node", "name", "\"n1\"", "\"n2\"", "node.name"),
        ("node", "weight", "weight = 100", "weight = 50", "node.weight"),
        ("node", "socket", "rudel.sock", "other.sock", "node.socket"),
        ("node", "metrics", "9440", "9441", "node.metrics"),
        ("heartbeat", "group", ":7440", ":7441", "heartbeat.group"),
        ("heartbeat", "interfaces", "[\"eth0\"]", "[\"eth0\", \"eth1\"]", "heartbeat.interfaces"),
        ("heartbeat", "timeout", "\"400ms\"", "\"1s\"", "heartbeat.timeout"),
        ("heartbeat", "interval", "\"50ms\"", "\"60ms\"", "heartbeat.interval"),
        ("interface", "name", "name = \"eth0\"", "name = \"eth1\"", "interface.name"),
        ("interface", "addresses", "/24\"]", "/24\", \"192.0.2.11/24\"]", "interface.eth0.addresses"),
        ("interface", "mac", "\"multicast\"", "\"igmp\"", "interface.eth0.mac"),
        ("interface", "xdp", "\"auto\"", "\"generic\"", "interface.eth0.xdp"),
        ("interface", "hash", "\"source-ip-port\"", "\"source-ip\"", "interface.eth0.hash"),
        (
            "interface",
            "networks",
            "10.0.0.1/24\"]",
            "10.0.0.1/24\"]\nnetworks = [\"10.9.0.0/16\"]",
            "interface.lan.networks",
        ),
        (
            "health",
            "http_host",
            "http = \"http://192.0.2.10/\"",
            "http = \"http://192.0.2.10/\"\nhttp_host = \"a.example\"",
            "health.web",
        ),
        (
            "health",
            "http_body",
            "http = \"http://192.0.2.10/\"",
            "http = \"http://192.0.2.10/\"\nhttp_body = \"good\"",
            "health.web",
        ),
        (
            "nat",
            "forward",
            "[sync]",
            "forward = [\"tcp 198.51.100.10:80 to 10.0.0.9:80\"]\n[sync]",
            "nat.forward",
        ),
        ("health", "name", "name = \"web\"\nhttp", "name = \"www\"\nhttp", "health.web"),
        ("health", "http", "http://192.0.2.10/", "http://192.0.2.10/x", "health.web"),
        ("health", "tcp", "http = \"http://192.0.2.10/\"", "tcp = \"192.0.2.10:80\"", "health.web"),
        ("health", "dns", "http = \"http://192.0.2.10/\"", "dns = \"a@192.0.2.10\"", "health.web"),
        ("health", "exec", "http = \"http://192.0.2.10/\"", "exec = [\"/bin/true\"]", "health.web"),
        ("health", "link", "http = \"http://192.0.2.10/\"", "link = \"eth1\"", "health.web"),
        ("health", "interval", "\"1s\"", "\"2s\"", "health.web"),
        ("health", "timeout", "\"500ms\"", "\"600ms\"", "health.web"),
        ("health", "rise", "rise = 2", "rise = 3", "health.web"),
        ("health", "fall", "fall = 2", "fall = 3", "health.web"),
        ("hooks", "on_change", "/bin/true", "/bin/false", "hooks.on_change"),
        ("hooks", "timeout", "\"30s\"", "\"40s\"", "hooks.timeout"),
        ("interface", "side", "side = \"inside\"", "side = \"outside\"", "interface.lan.side"),
        ("nat", "address", "address = \"198.51.100.10\"", "address = \"198.51.100.11\"", "nat.address"),
        ("nat", "inside", "10.0.0.0/8", "10.0.0.0/16", "nat.inside"),
        ("sync", "enabled", "enabled = true", "enabled = false", "sync.enabled"),
    ];

    #[test]
    fn a_change_of_each_key_is_noticed_and_somebody_has_said_when_it_is_followed() {
        // `restart_grace` has one value.
        for key in KEYS.iter().filter(|key| key.key != "restart_grace") {
            let live = key.live();
            let (.., from, to, name) = CHANGES
                .iter()
                .find(|(table, of, ..)| (*table, *of) == (key.table, key.key))
                .unwrap_or_else(|| panic!("no change of {}.{} is tried here", key.table, key.key));
            let text = if SERVICE.contains(from) { SERVICE } else { ROUTER };
            let mut changed = text.replacen(from, to, 1);
            if key.key == "side" {
                // Both sides are there before and after.
                changed = changed.replacen(
                    "side = \"outside\"\naddresses = [\"198",
                    "side = \"inside\"\naddresses = [\"198",
                    1,
                );
            }
            let difference = Difference::between(&config(text), &config(&changed));
            let changes = difference.of(live);
            assert!(changes.iter().any(|change| change.key == *name), "{name}: {difference:?}");
            assert!(changes.iter().all(|change| change.from != change.to));
        }
    }

    #[test]
    fn the_manual_says_of_each_key_when_a_change_is_followed() {
        let manual = include_str!("../../../../docs/configuration.md");
        for live in [Live::Now, Live::Together, Live::Restart, Live::Everywhere] {
            let keys: Vec<String> = KEYS
                .iter()
                .filter(|key| key.live() == live)
                .map(|key| format!("`{}.{}`", key.table, key.key))
                .collect();
            let row = format!("| {} | {} |", live.as_str(), keys.join(", "));
            assert!(manual.lines().any(|line| line == row), "the manual should have the line\n{row}");
        }
    }

    #[test]
    fn the_same_file_differs_in_nothing() {
        for text in [SERVICE, ROUTER] {
            assert!(Difference::between(&config(text), &config(text)).is_empty());
            let spaced = text.replace(" = ", "  =  ") + "# a remark\n";
            assert!(Difference::between(&config(text), &config(&spaced)).is_empty());
        }
    }

    #[test]
    fn an_address_before_the_others_is_another_mac() {
        let changed = SERVICE.replace("[\"192.0.2.10/24\"]", "[\"192.0.2.9/24\", \"192.0.2.10/24\"]");
        let difference = Difference::between(&config(SERVICE), &config(&changed));
        let macs = difference.of(Live::Everywhere);
        assert_eq!(macs.len(), 1, "{difference:?}");
        assert_eq!((macs[0].from.as_str(), macs[0].to.as_str()), ("03:bf:c0:00:02:0a", "03:bf:c0:00:02:09"));
    }

    #[test]
    fn the_addresses_of_a_router_are_known_to_its_filters() {
        let changed = ROUTER.replace("10.0.0.1/24", "10.0.0.1/24\", \"10.0.0.2/24");
        let difference = Difference::between(&config(ROUTER), &config(&changed));
        assert_eq!((difference.of(Live::Everywhere).len(), difference.of(Live::Together).len()), (1, 0));
    }

    #[test]
    fn a_prefix_length_alone_is_nobody_elses_business() {
        let changed = SERVICE.replace("192.0.2.10/24", "192.0.2.10/25");
        let difference = Difference::between(&config(SERVICE), &config(&changed));
        assert_eq!((difference.of(Live::Now).len(), difference.of(Live::Everywhere).len()), (1, 0));
    }
}
