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
    /// What holds without it where that is no value of its own, in a few words: `host name`, `off`. Empty if there is
    /// simply none of it, as with a check of another kind.
    pub otherwise: &'static str,
    /// Whether the table is refused without it.
    pub required: bool,
    /// What is allowed, with units.
    pub range: &'static str,
    /// What it does, and why its default is what it is, in the Markdown of the manual: see [`plain`](super::reference::plain).
    pub doc: &'static str,
}

/// One table of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name, such as `cluster`.
    pub name: &'static str,
    /// Whether it may come more than once, in double brackets.
    pub repeated: bool,
    /// What it is about, in the Markdown of the manual: see [`plain`](super::reference::plain).
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
        doc: "An interface that receives the cluster's packets, with the addresses that the cluster has there. At least \
         one.",
    },
    Table {
        name: "health",
        repeated: true,
        doc: "A check of what this node serves: up to 32, none by default. A node that fails one gives its \
         share away and stays a member. What is checked is one of `http`, `tcp`, `dns`, `exec` and `link`. [Health \
         checks](health.md) has advice.",
    },
    Table {
        name: "nat",
        repeated: false,
        doc: "Routers only: source NAT of inside networks onto shared outside addresses, and services behind the \
         firewall. See [routers](router.md#nat).",
    },
    Table {
        name: "sync",
        repeated: false,
        doc: "Routers only. They tell each other of the connections through them, so that those go on when a node dies: \
         [shared connections](sync.md).",
    },
    Table {
        name: "hooks",
        repeated: false,
        doc: "A program that is told what happens: see [hooks](hooks.md).",
    },
];

macro_rules! key {
    ($table:literal, $key:literal, $kind:ident, required, $range:literal, $doc:literal) => {
        Key {
            table: $table,
            key: $key,
            kind: Kind::$kind,
            default: None,
            otherwise: "",
            required: true,
            range: $range,
            doc: $doc,
        }
    };
    ($table:literal, $key:literal, $kind:ident, otherwise $otherwise:literal, $range:literal, $doc:literal) => {
        Key { otherwise: $otherwise, ..key!($table, $key, $kind, None, $range, $doc) }
    };
    ($table:literal, $key:literal, $kind:ident, $default:expr, $range:literal, $doc:literal) => {
        Key {
            table: $table,
            key: $key,
            kind: Kind::$kind,
            default: $default,
            otherwise: "",
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
        "Several clusters can share a segment and a heartbeat group; each ignores the others, and says so in its \
         log once a minute."
    ),
    key!(
        "cluster",
        "key_file",
        Text,
        required,
        "an absolute path",
        "The file with the secret that all nodes share, made by `rudel key new`; refused if others can read it: see \
         [the key file](#the-key-file)."
    ),
    key!(
        "cluster",
        "quorum",
        Number,
        Some("1"),
        "1 to 32 nodes",
        "A node serves only while at least this many nodes, itself included, hear each other. `1`: every island of \
         a broken network serves. More than half of all nodes: never two owners of a flow, but a minority is \
         silent. See [partitions](partitions.md)."
    ),
    key!(
        "cluster",
        "drain_timeout",
        Duration,
        Some("\"5m\""),
        "0s to 24h",
        "So long a node goes on serving open TCP connections of buckets that it has given up, when it leaves or \
         when a join takes them from it. `0s`: they are reset."
    ),
    key!(
        "node",
        "name",
        Text,
        otherwise "host name",
        "1 to 63 of a-z A-Z 0-9 . - _",
        "Its own in the cluster. `rudeld --name` goes before it. Two live machines with one name: the second is \
         refused by the others, and named in their logs with its address."
    ),
    key!(
        "node",
        "weight",
        Number,
        Some("100"),
        "0 to 1000",
        "Its share is its weight over the sum of all weights, to within one of the 256 buckets. `0`: a member that \
         counts for the quorum and serves nothing."
    ),
    key!(
        "node",
        "socket",
        Text,
        Some("\"/run/rudel/rudel.sock\""),
        "an absolute path of at most 107 bytes",
        "The control socket that `rudel` talks to, of mode 0660 and the group rudel. Who may open it may drain this \
         node."
    ),
    key!(
        "node",
        "metrics",
        Text,
        otherwise "off",
        "an address and a port, such as \"127.0.0.1:9440\"",
        "Serves `/metrics`, `/healthz` and the status page `/` there, read-only, over plain HTTP, to whoever \
         reaches it: see [monitoring](monitoring.md#the-web-server)."
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
        "a multicast group and a port; 239.0.0.0/8 is recommended, IPv6 is of ff02::/16, such as \
         \"[ff02::4a:28]:7440\"",
        "Where heartbeats are sent to, the same on every node. An IPv4 group needs an IPv4 address on each \
         heartbeat interface. Its MAC must differ from the cluster MAC."
    ),
    key!(
        "heartbeat",
        "interfaces",
        List,
        otherwise "every `[[interface]]`",
        "names of interfaces",
        "Where heartbeats are sent and heard. More than one: redundant links; a datagram that comes by any of them \
         counts. One that is not a cluster interface may go and come back, made anew too; while it cannot be used, \
         `rudel status` says so."
    ),
    key!(
        "heartbeat",
        "timeout",
        Duration,
        Some("\"400ms\""),
        "20ms to 60s",
        "After this much silence a node is given up. Shorter takes over sooner, and is fooled sooner by a busy host \
         or hypervisor; 400ms survives what virtual machines do to each other."
    ),
    key!(
        "heartbeat",
        "interval",
        Duration,
        otherwise "`timeout` / 8",
        "5ms to 10s, at most a third of timeout",
        "Time between heartbeats. With an eighth, two lost in a row harm nobody. With `quorum` above 1 the daemon \
         warns of more than a quarter: a lease is then made of others' answers, and two lost datagrams stop a node \
         for a moment ([partitions](partitions.md#limits))."
    ),
    key!(
        "interface",
        "name",
        Text,
        required,
        "1 to 15 characters without / and :",
        "As `ip link` shows it. An Ethernet interface: a NIC, a VLAN, a bond, a bridge."
    ),
    key!(
        "interface",
        "side",
        Text,
        Some("\"service\""),
        "\"service\", \"inside\" or \"outside\"",
        "`\"service\"`: traffic to the cluster's own addresses. `\"inside\"` and `\"outside\"`, always together: a \
         [router](router.md), where both directions of a flow meet at one node. Each side may have several \
         interfaces."
    ),
    key!(
        "interface",
        "addresses",
        List,
        required,
        "addresses with prefix, such as \"192.0.2.10/24\", IPv4 and IPv6",
        "The addresses that the cluster has here, with the prefix length of their network. Every node has them all, \
         on `lo`; they must *not* be configured on the interface itself."
    ),
    key!(
        "interface",
        "mac",
        Text,
        Some("\"multicast\""),
        "\"multicast\", \"igmp\", \"unicast\" or an address such as \"03:bf:c0:00:02:0a\"",
        "See [the cluster MAC](#the-cluster-mac). `multicast`: `03:bf:` and the four bytes of the first IPv4 \
         address. `igmp`: `01:00:5e:7f:` and its last two bytes, with the group joined so that snooping switches \
         can prune. `unicast`: `02:bf:` and the four bytes."
    ),
    key!(
        "interface",
        "xdp",
        Text,
        Some("\"auto\""),
        "\"auto\", \"native\" or \"generic\"",
        "How the packet filter is attached. `auto` is native where that is the better one, and generic elsewhere \
         (veth, bridge, bond, VLAN, macvlan …). `rudel status` says which."
    ),
    key!(
        "interface",
        "hash",
        Text,
        Some("\"source-ip-port\""),
        "\"source-ip\", \"source-ip-port\", \"source-ip-port-dest-port\", \"source-net\" or \"none\"",
        "What decides which node has a flow, see [the hash](#the-hash). On a router without `[nat]` the default is \
         `\"source-ip\"`, since the applications behind it may want all flows of a client on one path, and all its \
         interfaces have the same."
    ),
    key!(
        "interface",
        "networks",
        List,
        None,
        "networks, such as \"10.20.0.0/16\"",
        "Inside interfaces of a router: networks behind it besides those of its `addresses`, the same on every \
         node. Needed where flows are routed between several inside networks; see \
         [routers](router.md#several-inside-networks)."
    ),
    key!(
        "health",
        "name",
        Text,
        required,
        "1 to 63 of a-z A-Z 0-9 . - _",
        "Its own among the checks. It stands in the status, the log, the metrics and the events."
    ),
    key!(
        "health",
        "http",
        Text,
        None,
        "a URL such as \"http://192.0.2.10/healthz\"",
        "A GET is answered with a status of 200 to 399. No TLS, and redirections are not followed."
    ),
    key!(
        "health",
        "http_host",
        Text,
        otherwise "the URL's host and port",
        "a host, such as \"www.example.org\"",
        "With `http`: the `Host` header, for a server with several sites. What is connected to is the URL's host \
         all the same."
    ),
    key!(
        "health",
        "http_body",
        Text,
        None,
        "1 to 256 bytes of text",
        "With `http`: what the body must contain, byte by byte, in its first 64 KiB."
    ),
    key!(
        "health",
        "tcp",
        Text,
        None,
        "an address and a port, such as \"192.0.2.10:25\"",
        "A connection is accepted. Nothing is sent."
    ),
    key!(
        "health",
        "dns",
        Text,
        None,
        "a name and a server, such as \"www.example.org@192.0.2.10\"",
        "A question for the name's A record is answered with NOERROR, over UDP, whether there is one or not. Port \
         53, unless one follows the address."
    ),
    key!(
        "health",
        "exec",
        List,
        None,
        "a program by its absolute path, and its arguments, such as [\"/usr/local/lib/rudel/check-db\", \"--fast\"]",
        "It exits with 0. Run without a shell, as root without capabilities."
    ),
    key!(
        "health",
        "link",
        Text,
        None,
        "the name of an interface",
        "The interface has a carrier. Not for the cluster's interfaces, which are watched anyway."
    ),
    key!(
        "health",
        "interval",
        Duration,
        Some("\"1s\""),
        "100ms to 1h",
        "From the start of one check to the next, less a chance of up to a tenth."
    ),
    key!(
        "health",
        "timeout",
        Duration,
        Some("\"500ms\""),
        "10ms to 1h, at most interval",
        "No answer for this long is a failure. If `interval` is shorter than the default, it is the default."
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
        "addresses without prefix, such as \"198.51.100.10\" and \"2001:db8:51::10\"",
        "One outside address or a list. They may be addresses of an outside interface, or others; the daemon \
         answers ARP and neighbour solicitations for all of them. Each gives every bucket 252 ports for each \
         destination."
    ),
    key!(
        "nat",
        "inside",
        List,
        required,
        "networks, such as \"10.0.0.0/8\"",
        "Whose flows are translated when they go from an inside to an outside interface. Others are routed as they \
         are. At least one of each family of `address`."
    ),
    key!(
        "nat",
        "forward",
        List,
        None,
        "texts such as \"tcp 198.51.100.10:443 to 10.0.0.5:8443\", tcp or udp",
        "Services behind the firewall: connections to the first address and port, one of the cluster's outside \
         ones, go to the second."
    ),
    key!(
        "sync",
        "enabled",
        Boolean,
        Some("true"),
        "true or false",
        "Share connection state. Without a `[sync]` table it is off. It may be switched on node by node; \
         connections are safe when all have it."
    ),
    key!(
        "hooks",
        "on_change",
        List,
        otherwise "off",
        "a program by its absolute path, and its arguments, such as [\"/usr/local/sbin/notify\", \"argument\"]",
        "One run for each event, one after the other, with `RUDEL_EVENT`, `RUDEL_NODE`, … in the environment and \
         the event as JSON on standard input. No shell."
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
