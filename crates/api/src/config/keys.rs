//! Every key of the configuration: the source of "what is allowed" in error messages and of the reference.

/// What a key's value is, in the words of an error message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text in quotes.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A text such as `"400ms"`.
    Duration,
    /// A list of texts.
    List,
    /// A text or a list of texts.
    TextOrList,
}

impl Kind {
    /// The kind with its article, as in "is a number, not …".
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Text => "a text in quotes",
            Kind::Number => "a whole number",
            Kind::Boolean => "true or false",
            Kind::Duration => "a duration in quotes",
            Kind::List => "a list of texts",
            Kind::TextOrList => "a text or a list of texts",
        }
    }
}

/// One key of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The table it stands in, such as `cluster`.
    pub table: &'static str,
    /// Its name, such as `key_file`.
    pub key: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Its default as written in the file; none if it must be given or is off unless given, see [`Key::required`].
    pub default: Option<&'static str>,
    /// Whether the table is refused without it.
    pub required: bool,
    /// What is allowed, with units.
    pub range: &'static str,
    /// What it does, and why its default is what it is.
    pub doc: &'static str,
}

/// One table of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name, such as `cluster`.
    pub name: &'static str,
    /// Whether it may come more than once, in double brackets.
    pub repeated: bool,
    /// What it is about.
    pub doc: &'static str,
}

impl Table {
    /// Its header: `[cluster]`, `[[interface]]`.
    pub fn header(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }

    /// The table with this name.
    pub fn find(name: &str) -> Option<&'static Table> {
        TABLES.iter().find(|table| table.name == name)
    }

    /// Its keys, in the order of the manual.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        let name = self.name;
        KEYS.iter().filter(move |key| key.table == name)
    }
}

impl Key {
    /// The key with this name in this table.
    pub fn find(table: &str, key: &str) -> Option<&'static Key> {
        KEYS.iter().find(|k| k.table == table && k.key == key)
    }
}

/// Every table, in the order of the manual.
pub const TABLES: &[Table] = &[
    Table { name: "cluster", repeated: false, doc: "What all nodes have in common." },
    Table {
        name: "node",
        repeated: false,
        doc: "This node. Everything has a default, so one file serves all nodes.",
    },
    Table { name: "heartbeat", repeated: false, doc: "How the nodes hear each other." },
    Table {
        name: "interface",
        repeated: true,
        doc: "An interface that receives the cluster's packets, with the addresses that the cluster has there.",
    },
    Table {
        name: "health",
        repeated: true,
        doc: "A check of what this node serves; a node that fails one gives its share away and stays a member.",
    },
    Table {
        name: "nat",
        repeated: false,
        doc: "Router clusters: source NAT of the inside networks onto shared outside addresses.",
    },
    Table {
        name: "sync",
        repeated: false,
        doc: "Router clusters: share connection state, so that a node's death does not cut flows.",
    },
    Table { name: "hooks", repeated: false, doc: "Programs to run when something happens." },
];

macro_rules! key {
    ($table:literal, $key:literal, $kind:ident, required, $range:literal, $doc:literal) => {
        Key {
            table: $table,
            key: $key,
            kind: Kind::$kind,
            default: None,
            required: true,
            range: $range,
            doc: $doc,
        }
    };
    ($table:literal, $key:literal, $kind:ident, $default:expr, $range:literal, $doc:literal) => {
        Key {
            table: $table,
            key: $key,
            kind: Kind::$kind,
            default: $default,
            required: false,
            range: $range,
            doc: $doc,
        }
    };
}

/// Every key, in the order of the manual.
pub const KEYS: &[Key] = &[
    key!(
        "cluster",
        "name",
        Text,
        required,
        "1 to 32 of a-z 0-9 -",
        "The cluster's name. Several clusters can share a segment and a heartbeat group; each ignores the others."
    ),
    key!(
        "cluster",
        "key_file",
        Text,
        required,
        "an absolute path",
        "The file with the secret that all nodes share, made by `rudel key new`; refused if others can read it."
    ),
    key!(
        "cluster",
        "quorum",
        Number,
        Some("1"),
        "1 to 32 nodes",
        "Serve only while at least this many nodes, this one included, hear each other. 1: every island of a broken \
         network serves. More than half of all nodes: never two owners, but a minority stays silent."
    ),
    key!(
        "cluster",
        "drain_timeout",
        Duration,
        Some("\"5m\""),
        "0s to 24h",
        "How long a leaving node keeps open connections before it lets them go; 0s does not wait."
    ),
    key!(
        "node",
        "name",
        Text,
        None,
        "1 to 63 of a-z A-Z 0-9 . - _",
        "This node's name, its own in the cluster. Default: the host name, so that one file serves all nodes."
    ),
    key!(
        "node",
        "weight",
        Number,
        Some("100"),
        "0 to 1000",
        "Its share is its weight over the sum of all weights. 0: a member that votes and serves nothing."
    ),
    key!(
        "node",
        "socket",
        Text,
        Some("\"/run/rudel/rudel.sock\""),
        "an absolute path of at most 107 bytes",
        "The control socket that `rudel` talks to. Who may open it may drain this node."
    ),
    key!(
        "node",
        "metrics",
        Text,
        None,
        "an address and a port, such as \"127.0.0.1:9440\"",
        "Serve /metrics, /healthz and the status page here, over plain HTTP, to whoever asks. Off unless given."
    ),
    key!(
        "node",
        "restart_grace",
        Duration,
        Some("\"0s\""),
        "0s",
        "How long a node whose daemon is being restarted keeps its share beyond the lease. The daemon takes 0s alone: a \
         restart within the lease moves nothing, and beyond it nobody would serve that share."
    ),
    key!(
        "heartbeat",
        "group",
        Text,
        Some("\"239.255.74.40:7440\""),
        "a multicast group and a port; 239.0.0.0/8 is recommended, IPv6 is of ff02::/16",
        "Where heartbeats are sent to, the same on every node."
    ),
    key!(
        "heartbeat",
        "interfaces",
        List,
        None,
        "names of interfaces",
        "Where heartbeats are sent and heard. More than one: redundant links. Default: every [[interface]]."
    ),
    key!(
        "heartbeat",
        "timeout",
        Duration,
        Some("\"400ms\""),
        "20ms to 60s",
        "After this much silence a node is given up. Shorter takes over sooner and is fooled sooner by a busy host; \
         400ms survives what virtual machines do to each other."
    ),
    key!(
        "heartbeat",
        "interval",
        Duration,
        None,
        "5ms to 10s, at most a third of timeout",
        "Time between heartbeats. Default: an eighth of timeout, at least 5ms: two lost in a row harm nobody."
    ),
    key!(
        "interface",
        "name",
        Text,
        required,
        "1 to 15 characters without / and :",
        "The interface's name, as `ip link` shows it."
    ),
    key!(
        "interface",
        "side",
        Text,
        Some("\"service\""),
        "\"service\", \"inside\" or \"outside\"",
        "service: traffic to the cluster's own addresses. inside and outside, always together: a router, where both \
         directions of a flow meet at one node."
    ),
    key!(
        "interface",
        "addresses",
        List,
        required,
        "addresses with prefix, such as \"192.0.2.10/24\", IPv4 and IPv6",
        "The addresses that the cluster has here; every node has them all."
    ),
    key!(
        "interface",
        "mac",
        Text,
        Some("\"multicast\""),
        "\"multicast\", \"igmp\", \"unicast\" or an address such as \"03:bf:c0:00:02:0a\"",
        "The cluster MAC. multicast: 03:bf: and the four bytes of the first IPv4 address. igmp: 01:00:5e:7f: and its \
         last two bytes, with the group joined so that snooping switches can prune. unicast: 02:bf: and the four \
         bytes. Without an IPv4 address the last bytes of the first IPv6 address are taken."
    ),
    key!(
        "interface",
        "xdp",
        Text,
        Some("\"auto\""),
        "\"auto\", \"native\" or \"generic\"",
        "How the packet filter is attached. auto: native where that is the better one, generic elsewhere."
    ),
    key!(
        "interface",
        "hash",
        Text,
        Some("\"source-ip-port\""),
        "\"source-ip\", \"source-ip-port\", \"source-ip-port-dest-port\", \"source-net\" or \"none\"",
        "What decides which node has a flow. source-ip keeps a client on one node, source-net a /24 (IPv6: /64), none \
         everything. The default spreads best; on a router without [nat] it is source-ip, since the applications \
         behind it may want both flows of a client on one path."
    ),
    key!(
        "interface",
        "networks",
        List,
        None,
        "networks, such as \"10.20.0.0/16\"",
        "Inside interfaces of a router: networks behind it besides those of its addresses, the same on every node. \
         Needed only where there are several inside networks and flows between them: the two directions of such a \
         flow meet at one node by it."
    ),
    key!(
        "health",
        "name",
        Text,
        required,
        "1 to 63 of a-z A-Z 0-9 . - _",
        "The check's name in status, metrics and events."
    ),
    key!(
        "health",
        "http",
        Text,
        None,
        "a URL such as \"http://192.0.2.10/healthz\"",
        "Good if it answers with a status of 200 to 399. No TLS."
    ),
    key!(
        "health",
        "http_host",
        Text,
        None,
        "a host, such as \"www.example.org\"",
        "The Host header of the request, for a server with several sites. Default: host and port of the URL."
    ),
    key!(
        "health",
        "http_body",
        Text,
        None,
        "1 to 256 bytes of text",
        "Good only if the body contains this, byte by byte, in its first 64 KiB."
    ),
    key!(
        "health",
        "tcp",
        Text,
        None,
        "an address and a port, such as \"192.0.2.10:25\"",
        "Good if it accepts a connection."
    ),
    key!(
        "health",
        "dns",
        Text,
        None,
        "a name and a server, such as \"www.example.org@192.0.2.10\"",
        "Good if the server answers a question for the name's IPv4 address with NOERROR, over UDP, whether there is \
         one or not."
    ),
    key!(
        "health",
        "exec",
        List,
        None,
        "a program by its absolute path, and its arguments",
        "Good if it exits with 0. Run without a shell, as root without capabilities."
    ),
    key!("health", "link", Text, None, "the name of an interface", "Good while the interface has a carrier."),
    key!(
        "health",
        "interval",
        Duration,
        Some("\"1s\""),
        "100ms to 1h",
        "Time from the start of one check to the next."
    ),
    key!(
        "health",
        "timeout",
        Duration,
        Some("\"500ms\""),
        "10ms to 1h, at most interval",
        "No answer for this long is a failure. If interval is shorter than the default, interval is the default."
    ),
    key!(
        "health",
        "rise",
        Number,
        Some("2"),
        "1 to 100 checks",
        "This many good ones in a row make it good again."
    ),
    key!("health", "fall", Number, Some("2"), "1 to 100 checks", "This many bad ones in a row make it bad."),
    key!(
        "nat",
        "address",
        TextOrList,
        required,
        "addresses without prefix, such as \"198.51.100.10\"",
        "The shared outside addresses. Each gives every bucket 252 ports per destination address and port."
    ),
    key!(
        "nat",
        "inside",
        List,
        required,
        "networks, such as \"10.0.0.0/8\"",
        "Whose flows are translated; others are routed as they are."
    ),
    key!(
        "nat",
        "forward",
        List,
        None,
        "texts such as \"tcp 198.51.100.10:443 to 10.0.0.5:8443\"",
        "Services behind the firewall: connections to the first address, one of the cluster's, go to the second. tcp \
         or udp, the port on both sides."
    ),
    key!(
        "sync",
        "enabled",
        Boolean,
        Some("true"),
        "true or false",
        "Share connection state. Without a [sync] table it is off: every node then holds only its own connections."
    ),
    key!(
        "hooks",
        "on_change",
        List,
        None,
        "a program by its absolute path, and its arguments",
        "Runs once for each event, one after the other, with RUDEL_EVENT, RUDEL_NODE, ... in its environment and the \
         event as JSON on its standard input. Run without a shell."
    ),
    key!(
        "hooks",
        "timeout",
        Duration,
        Some("\"30s\""),
        "100ms to 10m",
        "A run that takes longer is killed with everything that it has started, and counts as failed."
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_in_a_table_once() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(Table::find(key.table).is_some(), "{}", key.table);
            assert!(!KEYS[..i].iter().any(|k| (k.table, k.key) == (key.table, key.key)), "{}", key.key);
            assert!(!(key.required && key.default.is_some()), "{}", key.key);
            assert!(key.doc.ends_with('.'), "{}", key.key);
        }
        assert!(TABLES.iter().all(|table| table.keys().next().is_some()));
    }
}
