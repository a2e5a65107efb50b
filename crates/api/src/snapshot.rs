//! The cluster as one node sees it: what `rudel status --json` prints.
//!
//! The names of its fields are a promise to monitoring; more may be added, none may change meaning. A reader must
//! ignore what it does not know, and so does this one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{HashMode, MacAddress, Side};
use crate::event::{Event, EventKind};
use crate::reload::Reload;
use crate::timestamp::{self, Timestamp};
use crate::words::words;

/// The version of the snapshot and of the control protocol. A reader refuses others.
pub const SCHEMA: u32 = 1;
/// A view that is not settled after this long counts as trouble, see [`Snapshot::troubles`].
pub const UNSETTLED_MAX: Duration = Duration::from_secs(10);

/// The trouble of a cluster in which health does not count, see [`Snapshot::troubles`].
pub const NOBODY_HEALTHY: &str =
    "no node is healthy: all serve as if they were, since an empty cluster serves nobody";

/// Everything that one node knows of its cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The name of the node that speaks.
    pub node: String,
    /// The version of its daemon.
    pub version: String,
    /// How many daemons were there before it in this run: each took its predecessor's place without a gap.
    #[serde(default)]
    pub restarts: u32,
    /// Its process. Another one after a restart, however that went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it is about.
    pub state: NodeState,
    /// Whether it passes packets: the lease holds and at least one bucket is owned.
    pub serving: bool,
    /// How long the lease still holds in milliseconds; 0 if it has lapsed.
    pub lease_ms: u64,
    /// The view that is in force here.
    pub view: View,
    /// Every node that it knows, itself included, by name.
    pub nodes: Vec<Node>,
    /// Who owns what.
    pub buckets: Buckets,
    /// The cluster's interfaces.
    pub interfaces: Vec<Interface>,
    /// The health checks of this node.
    pub health: Vec<HealthCheck>,
    /// The last events, oldest first.
    pub events: Vec<Event>,
    /// The heartbeats of the node that speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulses: Option<Pulses>,
    /// Address translation, on a router that does any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<Nat>,
    /// The connections that routers tell each other of, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<Sync>,
    /// What was sent to nodes that are not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<Aside>,
    /// The program that is told of events, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// Why the owners of buckets changed for the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_last_change: Option<Event>,
    /// What this node has found wrong with the network, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// What came of reading the configuration again, the last time; absent if it was read only at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Reload>,
}

/// The heartbeats of the node that speaks, since its daemon began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulses {
    /// Datagrams that were sent, each once per link.
    pub sent: u64,
    /// Datagrams that were received and let in.
    pub received: u64,
    /// Datagrams that were not let in; those that come twice over redundant links are among them.
    pub rejected: u64,
    /// How late the worst timer fired within the last ten to twenty seconds, in microseconds.
    pub lateness_us: u64,
    /// How late the worst timer fired ever, in microseconds.
    pub lateness_max_us: u64,
}

/// Address translation on the node that speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// The table in nftables, as `nft list table` wants it.
    pub table: String,
    /// The addresses that are translated onto.
    pub addresses: Vec<String>,
    /// Connections that the kernel refused since this daemon has started, nearly always because every port that they
    /// might have was taken towards their destination; each cost its first packet.
    pub refused: u64,
}

/// Shared connections, as the node that speaks sees them. Counts are since the start of its daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sync {
    /// Connections of own buckets.
    pub flows_own: u64,
    /// Connections of the other nodes' buckets, which have replicas in this node's kernel.
    pub flows_foreign: u64,
    /// Changes of the kernel's table that were heard of, without own ones.
    pub events: u64,
    /// Datagrams made, repeated ones included.
    pub messages_sent: u64,
    /// Datagrams of other nodes that were handled.
    pub messages_received: u64,
    /// Connections told, repetitions included.
    pub records_sent: u64,
    /// Connections heard of, repetitions included.
    pub records_received: u64,
    /// How often the kernel had more events than room; each time its whole table was read.
    pub overruns: u64,
    /// Whole tables read.
    pub dumps: u64,
    /// Datagrams of others that were asked for again.
    pub asked: u64,
    /// Datagrams repeated because others had asked.
    pub repeated: u64,
    /// Gaps that stayed open and were healed by a whole transfer.
    pub gaps_skipped: u64,
    /// Whole transfers made.
    pub transfers_sent: u64,
    /// Whole transfers heard.
    pub transfers_received: u64,
    /// Words about buckets that the sender did not own.
    pub disbelieved: u64,
    /// Connections that their owner had dropped without a word.
    pub swept: u64,
    /// Changes that the kernel refused.
    pub write_errors: u64,
    /// Datagrams that were not let in.
    pub rejected: u64,
    /// Datagrams that a link could not take.
    pub send_errors: u64,
    /// Moves of buckets that did not wait until all of their connections had moved.
    pub late_moves: u64,
    /// The longest time that such a move has waited, in microseconds.
    pub move_max_us: u64,
    /// How old the oldest word is that should have been sent by now, in microseconds.
    pub lag_us: u64,
    /// Processor time of the thread that does all this, in nanoseconds.
    pub cpu_ns: u64,
    /// Whether all connections of all others are known here.
    pub synced: bool,
    /// The other routers.
    pub peers: Vec<SyncPeer>,
}

/// Another router, as far as connections are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncPeer {
    /// Its name.
    pub name: String,
    /// Whether it is known to be alive and no recording.
    pub proven: bool,
    /// Whether all of its connections are known here.
    pub whole: bool,
}

/// TCP segments that came while nobody passed them, because their owner was not heard, or a bucket was on its way. Counts are since
/// the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Aside {
    /// Segments that this node's filter has set aside; of each direction of a connection only the last is kept.
    pub set_aside: u64,
    /// Segments that went through the filter when this node had their bucket.
    pub put_through: u64,
    /// Segments that the kernel refused to put through, as before Linux 5.18.
    pub refused: u64,
    /// Segments that another node may know, while this one keeps connections of a bucket whose new owner has died: sent on to the
    /// owner since.
    pub handed_on: u64,
    /// Segments for which there was no room.
    pub lost: u64,
}

/// The program that is told of events (`[hooks] on_change`) on the node that speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its path.
    pub program: String,
    /// Whether its last run was good.
    pub ok: bool,
    /// The event that it is being told of now; null if it does not run.
    pub running: Option<EventKind>,
    /// Events that wait for it.
    pub waiting: u64,
    /// Events that it was not told of, because too many were waiting.
    pub missed: u64,
    /// Runs that have ended since this daemon began.
    pub runs: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// How long all of them took together, in milliseconds.
    #[serde(default)]
    pub run_ms: u64,
    /// Why it failed last, good since or not; null if it never did.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<Timestamp>,
}

words! {
    /// What a node is about.
    pub enum NodeState {
        /// Just started, or started again after a stall: it only listens.
        Listening = "listening",
        /// It waits for a view that names it.
        Joining = "joining",
        /// A member with a share.
        Active = "active",
        /// A member that gives its share away and stays.
        Draining = "draining",
        /// A member that gives its share away and goes.
        Leaving = "leaving",
        /// It found another node with its name alive and takes no part.
        Fenced = "fenced",
        /// Only of other nodes: it was a member, fell silent without a good-bye, and has not come back.
        Lost = "lost",
        /// A state that this version does not know.
        #[serde(other)]
        Unknown = "unknown",
    }
}

/// A view: who is a member and who owns which bucket, as one coordinator has made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its number; 0 if there is none yet.
    pub epoch: u64,
    /// Who made it; null if there is none yet.
    pub coordinator: Option<String>,
    /// Whether this node has adopted it and knows of nobody who might still hold what it gives away.
    pub settled: bool,
    /// How long it has been in force here, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// How many nodes must hear each other; the configured quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
}

/// A node, as another (or itself) sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub state: NodeState,
    /// Whether it can serve.
    pub healthy: bool,
    /// Its weight, 0 to 1000.
    pub weight: u16,
    /// How many buckets the view gives it.
    pub buckets: u16,
    /// How long ago it was heard, in milliseconds: 0 for the node itself, null for one that is not heard.
    pub heard_ms: Option<u64>,
    /// Where its heartbeats come from.
    pub addresses: Vec<String>,
    /// How many buckets it keeps open connections of, though another node owns them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeping: Option<u16>,
    /// How many connections are still open there in buckets that it has given up. More than 0 while it keeps none: the
    /// time of a drain is over, and they are served no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Whether it has said that it is settled in the view in force here: it has given up what that does not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
    /// Why it is not healthy, or not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version of its daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The first halves of the fingerprints of the cluster keys that it accepts, the one that it seals with first; two while
    /// a key is being rotated. Empty if it has said nothing yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What tells the part of its configuration that all nodes must have alike from others: 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// The same of the configuration that it has read again and waits for the others to read, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<String>,
}

impl Node {
    /// What people are told of its state. Who drains stays in that state until it is undrained; `drained` says that
    /// nothing is left to wait for.
    pub fn shown_state(&self) -> &'static str {
        let has_drained = self.state == NodeState::Draining
            && self.buckets == 0
            && self.settled != Some(false)
            && self.keeping.is_none_or(|keeping| keeping == 0);
        if has_drained { "drained" } else { self.state.as_str() }
    }

    /// The addresses that people know it by: without those of a link alone, unless it has no other.
    pub fn shown_addresses(&self) -> String {
        let is_of_link = |text: &&String| {
            text.parse().is_ok_and(|address: std::net::Ipv6Addr| address.is_unicast_link_local())
        };
        let wider: Vec<&str> =
            self.addresses.iter().filter(|text| !is_of_link(text)).map(String::as_str).collect();
        if wider.is_empty() { self.addresses.join(" ") } else { wider.join(" ") }
    }
}

/// Who owns what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// How many there are: 256.
    pub total: u16,
    /// How many this node owns now.
    pub owned: u16,
    /// How many it has given up but keeps open connections of.
    pub keeping: u16,
    /// How many connections are still open in those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// How many the view gives it that it does not own yet.
    pub adopting: u16,
    /// The owner of each bucket by the view, by name; null if nobody.
    pub owners: Vec<Option<String>>,
}

words! {
    /// How the packet filter is attached.
    pub enum AttachMode {
        /// In the driver.
        Native = "native",
        /// In the stack.
        Generic = "generic",
    }
}

/// An interface of the cluster on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it is to the cluster.
    pub side: Side,
    /// The cluster MAC.
    pub mac: MacAddress,
    /// How the packet filter is attached; null while it is not.
    pub mode: Option<AttachMode>,
    /// The cluster's addresses, without prefix.
    pub addresses: Vec<String>,
    /// What the packet filter has counted since it was attached.
    pub packets: Packets,
    /// Whether it receives nothing for the cluster MAC. If no other node does either, an alarm says so, and nothing is
    /// moved for it.
    pub deaf: bool,
    /// What decides the bucket of a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashMode>,
    /// Packets that all nodes passed over packets seen: 1 is right, less a hole, more two owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<f64>,
    /// What has been wrong with that for long enough to be told; an alarm tells it in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Misfit>,
}

words! {
    /// How what all nodes passed does not add up to what was seen.
    pub enum Misfit {
        /// Packets that nobody passed.
        Hole = "hole",
        /// Packets that more than one node passed.
        Double = "double",
        /// Something that this version does not know.
        #[serde(other)]
        Unknown = "unknown",
    }
}

/// Counters of the packet filter, in packets for the cluster MAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Those of flows, each of which exactly one node has to pass: passed, ignored, fenced and left.
    pub seen: u64,
    /// Handed to this host's stack.
    pub passed: u64,
    /// Another node's.
    pub ignored: u64,
    /// This node's, but its lease had lapsed.
    pub fenced: u64,
    /// In buckets of this node: of connections that their former owner keeps until they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Without a flow that could be read.
    pub malformed: u64,
    /// On a router, fragments whose first one was not seen. None elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan: Option<u64>,
}

/// A health check of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Its name.
    pub name: String,
    /// Whether it is good, rise and fall considered.
    pub ok: bool,
    /// Since when it is so.
    #[serde(with = "timestamp::seconds")]
    pub since: Timestamp,
    /// What the last failure said; null once it is good again. While it is good: a failure that did not suffice.
    pub last_error: Option<String>,
}

impl Snapshot {
    /// The node that speaks, in its own list.
    pub fn me(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == self.node)
    }

    /// Everything that makes this cluster degraded, in sentences; empty if all is well.
    ///
    /// `rudel status` exits with 3 if there is any. It is trouble if
    /// - this node is listening, joining or fenced, or is in a state that is not known;
    /// - it is active and should serve (healthy, with a weight and a share) but does not;
    /// - a node is not healthy, lost, fenced, or not heard;
    /// - no node that has a weight is healthy, so that they serve none the less;
    /// - a bucket has no owner;
    /// - the view is not settled after [`UNSETTLED_MAX`];
    /// - an interface is deaf, or its filter is not attached;
    /// - a health check of this node fails;
    /// - connections are shared, and an active node tells nothing of its own;
    /// - the program that is told of events fails;
    /// - there is an alarm: something is wrong with the network.
    ///
    /// A node that drains or leaves by its administrator's will, or has the weight 0, is no trouble.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        let me = self.me();
        match self.state {
            NodeState::Active => {
                let should = me.is_some_and(|me| me.healthy && me.weight > 0 && me.buckets > 0);
                if should && !self.serving {
                    let why =
                        if self.lease_ms == 0 { "its lease has lapsed" } else { "it owns no bucket yet" };
                    troubles.push(format!("{} does not serve: {why}", self.node));
                }
            }
            NodeState::Draining | NodeState::Leaving => {}
            state => troubles.push(format!("{} does not serve: it is {state}", self.node)),
        }
        for node in &self.nodes {
            let why = node.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let is_me = node.name == self.node;
            if matches!(node.state, NodeState::Lost | NodeState::Fenced) && !is_me {
                troubles.push(format!("{} is {}{why}", node.name, node.state));
            } else if node.heard_ms.is_none() && !is_me {
                troubles.push(format!("{} is not heard{why}", node.name));
            } else if !node.healthy {
                troubles.push(format!("{} is not healthy{why}", node.name));
            }
        }
        let could_serve =
            |node: &&Node| node.state == NodeState::Active && node.weight > 0 && node.heard_ms.is_some();
        // Whoever has no link to the clients is not healthy either, but does not serve.
        if self.serving && !self.nodes.iter().filter(could_serve).any(|node| node.healthy) {
            troubles.push(NOBODY_HEALTHY.to_owned());
        }
        // What a node that is not a member yet knows of the owners is nothing.
        let orphans = self.buckets.owners.iter().filter(|owner| owner.is_none()).count();
        if orphans > 0 && self.view.epoch > 0 {
            troubles.push(format!("{orphans} of {} buckets have no owner", self.buckets.total));
        }
        let unsettled = self.view.age_ms.map(Duration::from_millis).filter(|_| !self.view.settled);
        if let Some(age) = unsettled.filter(|age| *age > UNSETTLED_MAX) {
            troubles.push(format!("view {} is not settled after {} s", self.view.epoch, age.as_secs()));
        }
        for interface in &self.interfaces {
            if interface.deaf {
                troubles
                    .push(format!("{} is deaf: it receives nothing for {}", interface.name, interface.mac));
            }
            if interface.mode.is_none() {
                troubles.push(format!("{} has no packet filter attached", interface.name));
            }
        }
        for check in self.health.iter().filter(|check| !check.ok) {
            let why = check.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            troubles.push(format!("health check {} fails{why}", check.name));
        }
        if let Some(sync) = self.sync.as_ref().filter(|_| self.state == NodeState::Active) {
            let is_silent = |node: &&Node| {
                let tells = sync.peers.iter().any(|peer| peer.name == node.name && peer.proven);
                node.name != self.node
                    && node.state == NodeState::Active
                    && node.healthy
                    && node.heard_ms.is_some()
                    && !tells
            };
            for node in self.nodes.iter().filter(is_silent) {
                troubles.push(format!(
                    "{} does not share its connections: is [sync] enabled there, and is UDP to the port above that of \
                     the heartbeats let through?",
                    node.name
                ));
            }
        }
        if let Some(hook) = self.hook.as_ref().filter(|hook| !hook.ok) {
            let why = hook.last_error.as_ref().unwrap_or(&hook.program);
            troubles.push(format!("the hook failed: {why}"));
        }
        troubles.extend(self.alarms.iter().cloned());
        troubles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The example that monitoring and playbooks were written against.
    const PROMISED: &str = r#"{"schema":1,"cluster":"web","node":"n1","version":"0.1.0","state":"active","serving":true,"lease_ms":312,
 "view":{"epoch":12,"coordinator":"n1","settled":true},
 "nodes":[{"name":"n1","state":"active","healthy":true,"weight":100,"buckets":86,"heard_ms":0,"addresses":["192.0.2.11"]}],
 "buckets":{"total":256,"owned":86,"keeping":0,"adopting":0,"owners":["n1","n3", "... one name or null per bucket"]},
 "interfaces":[{"name":"eth0","side":"service","mac":"03:bf:c0:00:02:0a","mode":"native","addresses":["192.0.2.10"],
   "packets":{"seen":3,"passed":1,"ignored":2,"fenced":0,"malformed":0},"deaf":false}],
 "health":[{"name":"web","ok":true,"since":"2026-01-01T00:00:00Z","last_error":null}],
 "events":[{"at":"2026-01-01T00:00:00.000Z","kind":"joined","node":"n3","reason":"new node heard"}]}"#;

    fn snapshot() -> Snapshot {
        serde_json::from_str(PROMISED).unwrap()
    }

    #[test]
    fn what_was_promised_goes_in_and_comes_out() {
        let mut promised: Value = serde_json::from_str(PROMISED).unwrap();
        // What has grown since, as it is read from a daemon that does not know it.
        promised["restarts"] = json!(0);
        assert_eq!(serde_json::to_value(snapshot()).unwrap(), promised);
    }

    #[test]
    fn what_is_not_known_is_ignored() {
        let mut value: Value = serde_json::from_str(PROMISED).unwrap();
        value["colour"] = json!("blue");
        value["nodes"][0]["hat"] = json!(true);
        value["nodes"][0]["state"] = json!("levitating");
        let snapshot: Snapshot = serde_json::from_value(value).unwrap();
        assert_eq!(snapshot.nodes[0].state, NodeState::Unknown);
    }

    #[test]
    fn a_node_that_is_not_heard_has_null_there() {
        let mut snapshot = snapshot();
        snapshot.nodes[0].heard_ms = None;
        snapshot.buckets.owners[0] = None;
        let value = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(value["nodes"][0].get("heard_ms"), Some(&Value::Null));
        assert_eq!(value["buckets"]["owners"][0], Value::Null);
    }

    #[test]
    fn a_cluster_at_rest_has_no_troubles() {
        assert_eq!(snapshot().troubles(), Vec::<String>::new());
    }

    #[test]
    fn every_trouble_is_named() {
        let trouble = |change: fn(&mut Snapshot)| {
            let mut snapshot = snapshot();
            change(&mut snapshot);
            snapshot.troubles().join("; ")
        };
        let lapsed = trouble(|s| {
            s.serving = false;
            s.lease_ms = 0;
        });
        assert_eq!(lapsed, "n1 does not serve: its lease has lapsed");
        assert_eq!(trouble(|s| s.serving = false), "n1 does not serve: it owns no bucket yet");
        assert_eq!(trouble(|s| s.state = NodeState::Joining), "n1 does not serve: it is joining");
        assert_eq!(trouble(|s| s.state = NodeState::Fenced), "n1 does not serve: it is fenced");
        assert_eq!(trouble(|s| s.buckets.owners[1] = None), "1 of 256 buckets have no owner");
        assert_eq!(trouble(|s| s.interfaces[0].mode = None), "eth0 has no packet filter attached");
        assert_eq!(
            trouble(|s| s.interfaces[0].deaf = true),
            "eth0 is deaf: it receives nothing for 03:bf:c0:00:02:0a"
        );
        let check = trouble(|s| {
            s.health[0].ok = false;
            s.health[0].last_error = Some("status 500".to_owned());
        });
        assert_eq!(check, "health check web fails: status 500");
        let hook = trouble(|s| {
            s.hook = Some(Hook {
                program: "/bin/notify".to_owned(),
                ok: false,
                running: None,
                waiting: 0,
                missed: 0,
                runs: 3,
                failures: 1,
                run_ms: 90,
                last_error: Some("/bin/notify: exit status 1".to_owned()),
                last_error_at: None,
            });
        });
        assert_eq!(hook, "the hook failed: /bin/notify: exit status 1");
        assert_eq!(trouble(|s| s.alarms = vec!["two owners".to_owned()]), "two owners");
        let unsettled = trouble(|s| {
            s.view.settled = false;
            s.view.age_ms = Some(10_001);
        });
        assert_eq!(unsettled, "view 12 is not settled after 10 s");
        let sick = trouble(|s| {
            s.nodes[0].healthy = false;
            s.nodes[0].reason = Some("deaf".to_owned());
        });
        assert_eq!(sick, format!("n1 is not healthy: deaf; {NOBODY_HEALTHY}"));
    }

    #[test]
    fn who_drains_has_drained_when_nothing_is_left_to_wait_for() {
        let mut node = Node { state: NodeState::Draining, buckets: 0, ..snapshot().nodes[0].clone() };
        assert_eq!(node.shown_state(), "drained");
        for (buckets, settled, keeping) in [(1, None, None), (0, Some(false), None), (0, Some(true), Some(2))]
        {
            (node.buckets, node.settled, node.keeping) = (buckets, settled, keeping);
            assert_eq!(node.shown_state(), "draining", "{node:?}");
        }
        (node.state, node.keeping) = (NodeState::Active, None);
        assert_eq!(node.shown_state(), "active");
    }

    #[test]
    fn addresses_of_a_link_alone_are_shown_if_there_is_no_other() {
        let mut node = snapshot().nodes[0].clone();
        let mut shown = |addresses: &[&str]| {
            node.addresses = addresses.iter().map(ToString::to_string).collect();
            node.shown_addresses()
        };
        assert_eq!(shown(&["192.0.2.11", "fe80::1", "2001:db8::11"]), "192.0.2.11 2001:db8::11");
        assert_eq!(shown(&["fe80::1"]), "fe80::1");
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn who_does_not_share_its_connections_is_named() {
        let mut snapshot = snapshot();
        let other = Node { name: "n2".to_owned(), ..snapshot.nodes[0].clone() };
        snapshot.nodes.push(other);
        assert!(snapshot.troubles().is_empty());
        snapshot.sync = Some(Sync::default());
        let [trouble] = &snapshot.troubles()[..] else { panic!("{:?}", snapshot.troubles()) };
        assert!(trouble.starts_with("n2 does not share its connections"), "{trouble}");
        let peer = SyncPeer { name: "n2".to_owned(), proven: true, whole: false };
        snapshot.sync = Some(Sync { peers: vec![peer], ..Sync::default() });
        assert!(snapshot.troubles().is_empty());
    }

    #[test]
    fn other_nodes_are_missed() {
        let mut snapshot = snapshot();
        let other = Node { name: "n2".to_owned(), heard_ms: None, ..snapshot.nodes[0].clone() };
        snapshot.nodes.push(other.clone());
        assert_eq!(snapshot.troubles(), ["n2 is not heard"]);
        snapshot.nodes[1] = Node { state: NodeState::Lost, reason: Some("silent".into()), ..other };
        assert_eq!(snapshot.troubles(), ["n2 is lost: silent"]);
    }

    #[test]
    fn that_nobody_is_healthy_is_a_trouble_of_its_own() {
        let mut snapshot = snapshot();
        snapshot.nodes[0].healthy = false;
        snapshot.nodes[0].reason = Some("web: HTTP 500".to_owned());
        let other = Node { name: "n2".to_owned(), reason: None, ..snapshot.nodes[0].clone() };
        snapshot.nodes.push(other);
        let both = ["n1 is not healthy: web: HTTP 500", "n2 is not healthy", NOBODY_HEALTHY];
        assert_eq!(snapshot.troubles(), both);
        snapshot.nodes[1].healthy = true;
        assert_eq!(snapshot.troubles(), both[..1]);
        snapshot.nodes[1].weight = 0;
        assert_eq!(snapshot.troubles(), [both[0], NOBODY_HEALTHY], "a witness serves nobody");
        snapshot.serving = false;
        assert!(!snapshot.troubles().contains(&NOBODY_HEALTHY.to_owned()), "nor does a node without links");
    }

    #[test]
    fn what_the_administrator_wanted_is_no_trouble() {
        let mut drained = snapshot();
        drained.state = NodeState::Draining;
        drained.serving = false;
        assert!(drained.troubles().is_empty());
        let mut witness = snapshot();
        witness.serving = false;
        witness.nodes[0].weight = 0;
        witness.nodes[0].buckets = 0;
        assert!(witness.troubles().is_empty());
        let mut young = snapshot();
        young.view.settled = false;
        young.view.age_ms = Some(300);
        assert!(young.troubles().is_empty());
    }
}
