//! The cluster as this node sees it, in the words that the control tool and monitoring read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rudel_api::config::{Config, HashMode, Interface};
use rudel_api::control::{BucketState, Failure, WhyAnswer};
use rudel_api::flow::{FlowDetail, FlowSpec};
use rudel_api::reload::Reload;
use rudel_api::snapshot::{self as api, Snapshot};
use rudel_api::timestamp::Timestamp;
use rudel_datapath::border::Place;
use rudel_datapath::{Flow, Side, Verdict};
use rudel_proto::bucket::{BUCKET_COUNT, BucketSet};
use rudel_proto::id::NodeId;
use rudel_proto::share;
use rudel_proto::wire::NodeState;

use crate::history::History;
use crate::pulse::Report;
use crate::reception::{Reception, audit::Finding, judge::Hearing};
use crate::router::Router;

/// What a snapshot is made of besides the pulse thread's report.
pub struct Context<'a> {
    /// How many daemons were there before this one in this run.
    pub restarts: u32,
    /// The configuration in force.
    pub config: &'a Config,
    /// This node's name.
    pub node: &'a str,
    /// This node's own addresses on the heartbeat links.
    pub own_addresses: &'a [IpAddr],
    /// How the filter runs, by interface.
    pub modes: &'a BTreeMap<String, api::AttachMode>,
    /// The seed of the flow hash.
    pub seed: u32,
    /// What is known of the health checks.
    pub health: Vec<api::HealthCheck>,
    /// Why this node is not healthy, if it is not.
    pub unfit: Option<String>,
    /// What was found of the way of packets.
    pub reception: &'a Reception,
    /// What is wrong with the interfaces that only heartbeats go by.
    pub redundancy: Vec<String>,
    /// Address translation, if there is any.
    pub nat: Option<api::Nat>,
    /// Shared connections, if they are shared.
    pub sync: Option<api::Sync>,
    /// What was sent to nodes that are not heard.
    pub aside: api::Aside,
    /// The program that is told of events, if there is one.
    pub hook: Option<api::Hook>,
    /// What happened.
    pub history: &'a History,
    /// What came of reading the configuration again, the last time.
    pub reload: Option<&'a Reload>,
}

/// Events that a snapshot carries.
const EVENTS_SHOWN: usize = 32;

/// Builds the answer to `status`.
pub fn snapshot(context: &Context<'_>, report: &Report) -> Snapshot {
    let status = &report.status;
    let names = names(context, report);
    let name = |id: NodeId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let view = status.view.as_ref();
    let owners = view.map_or(share::NOBODY, |view| view.owners);
    let given = view.map_or(BucketSet::EMPTY, |view| view.owned_by(status.identity.id));
    let now = Timestamp::now();
    Snapshot {
        schema: api::SCHEMA,
        cluster: context.config.cluster.name.to_string(),
        node: context.node.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        restarts: context.restarts,
        pid: Some(std::process::id()),
        state: state(status.state),
        serving: status.serving,
        lease_ms: status.lease.map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        view: api::View {
            epoch: view.map_or(0, |view| view.id.epoch),
            coordinator: view.map(|view| name(view.id.coordinator.id)),
            settled: status.settled,
            age_ms: context
                .history
                .view_since()
                .filter(|_| view.is_some())
                .map(|since| u64::try_from(since.age_at(now).as_millis()).unwrap_or(u64::MAX)),
            quorum: u32::try_from(context.config.cluster.quorum).ok(),
        },
        nodes: nodes(context, report, &name),
        buckets: api::Buckets {
            total: BUCKET_COUNT as u16,
            owned: status.owned.len() as u16,
            keeping: status.kept.len() as u16,
            connections: Some(status.connections),
            adopting: (given - status.owned).len() as u16,
            owners: owners.iter().map(|owner| owner.map(name)).collect(),
        },
        interfaces: context
            .config
            .interfaces
            .iter()
            .map(|interface| filter(context, report, interface))
            .collect(),
        health: context.health.clone(),
        events: {
            let events: Vec<_> = context.history.events().cloned().collect();
            events[events.len().saturating_sub(EVENTS_SHOWN)..].to_vec()
        },
        pulses: Some(api::Pulses {
            sent: report.counts.sent,
            received: report.counts.received,
            rejected: report.counts.rejected.values().sum(),
            lateness_us: report.counts.lateness_recent.worst_ns() / 1_000,
            lateness_max_us: report.counts.lateness_max_ns / 1_000,
        }),
        nat: context.nat.clone(),
        sync: context.sync.clone(),
        aside: Some(context.aside.clone()),
        hook: context.hook.clone(),
        why_last_change: context.history.last_change().cloned(),
        alarms: context.reception.alarms().into_iter().chain(context.redundancy.iter().cloned()).collect(),
        reload: context.reload.map(|reload| Reload { waiting_for: waiting_for(report), ..reload.clone() }),
    }
}

/// Who keeps a change from being made that this node wants: those that are members, or alive, and want something else.
pub fn waiting_for(report: &Report) -> Vec<String> {
    let status = &report.status;
    let Some(wanted) = status.terms.wanted else {
        return Vec::new();
    };
    let is_member = |id| status.view.as_ref().is_some_and(|view| view.names(id));
    let peers = status.peers.iter().filter(|peer| !peer.gone && (peer.alive || is_member(peer.identity)));
    let mut names: Vec<String> = peers
        .filter(|peer| peer.word.as_ref().is_none_or(|word| word.wanted != wanted))
        .map(|peer| peer.name.to_string())
        .collect();
    names.sort();
    names
}

fn hexadecimal(digest: u64) -> String {
    format!("{digest:016x}")
}

fn names(context: &Context<'_>, report: &Report) -> BTreeMap<NodeId, String> {
    let peers = report.status.peers.iter().map(|peer| (peer.identity.id, peer.name.to_string()));
    peers.chain([(report.status.identity.id, context.node.to_owned())]).collect()
}

fn nodes(context: &Context<'_>, report: &Report, name: &impl Fn(NodeId) -> String) -> Vec<api::Node> {
    let status = &report.status;
    let buckets = |id| status.view.as_ref().map_or(0, |view| share::count(&view.owners, id) as u16);
    let is_member = |id| {
        status.view.as_ref().is_some_and(|view| view.members.iter().any(|member| member.identity.id == id))
    };
    let keys = |id| report.keys.get(&id).into_iter().flatten().map(ToString::to_string).collect();
    let mut nodes = vec![api::Node {
        name: context.node.into(),
        state: state(status.state),
        healthy: status.healthy,
        weight: status.weight,
        buckets: buckets(status.identity.id),
        connections: Some(status.connections).filter(|count| *count > 0),
        settled: Some(status.settled),
        heard_ms: Some(0),
        addresses: context.own_addresses.iter().map(ToString::to_string).collect(),
        keeping: Some(status.kept.len() as u16).filter(|count| *count > 0),
        reason: context.unfit.clone(),
        version: None,
        keys: keys(status.identity.id),
        configuration: Some(hexadecimal(status.terms.present)),
        wants: status.terms.wanted.map(hexadecimal),
    }];
    for peer in &status.peers {
        let id = peer.identity.id;
        if peer.gone || !(peer.alive || is_member(id)) {
            continue;
        }
        let word = peer.word.as_ref();
        nodes.push(api::Node {
            name: name(id),
            state: word.map_or(api::NodeState::Unknown, |word| state(word.state)),
            healthy: word.is_none_or(|word| word.is_fit()),
            weight: word.map_or(0, |word| word.weight),
            buckets: buckets(id),
            heard_ms: peer
                .heard
                .filter(|_| peer.alive)
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            addresses: report.addresses.get(&id).into_iter().flatten().map(ToString::to_string).collect(),
            keeping: word.map(|word| word.keeping.len() as u16).filter(|count| *count > 0),
            connections: word.map(|word| word.connections).filter(|count| *count > 0),
            settled: word
                .map(|word| word.settled && status.view.as_ref().is_some_and(|view| view.id == word.adopted)),
            reason: peer
                .complaint
                .clone()
                .or_else(|| word.filter(|word| word.late).map(|_| "its program is scheduled late".into())),
            version: None,
            keys: keys(id),
            configuration: word.map(|word| hexadecimal(word.digest)),
            wants: word.filter(|word| word.wanted != word.digest).map(|word| hexadecimal(word.wanted)),
        });
    }
    for (lost, event) in context.history.lost() {
        if !nodes.iter().any(|node| node.name == *lost) {
            nodes.push(api::Node {
                name: lost.clone(),
                state: api::NodeState::Lost,
                healthy: false,
                weight: 0,
                buckets: 0,
                heard_ms: None,
                addresses: Vec::new(),
                keeping: None,
                connections: None,
                settled: None,
                reason: Some(event.reason.clone()),
                version: None,
                keys: Vec::new(),
                configuration: None,
                wants: None,
            });
        }
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn filter(context: &Context<'_>, report: &Report, interface: &Interface) -> api::Interface {
    let name = interface.name.as_str();
    let counters = report.interfaces.iter().find(|counters| counters.name == name);
    let count = |verdict| counters.map_or(0, |counters| counters.get(verdict).packets);
    api::Interface {
        name: name.into(),
        side: interface.side,
        mac: interface.cluster_mac(),
        mode: context.modes.get(name).copied(),
        addresses: interface.addresses.iter().map(|cidr| cidr.address().to_string()).collect(),
        packets: api::Packets {
            seen: counters.map_or(0, |counters| counters.seen().packets),
            passed: count(Verdict::Passed),
            ignored: count(Verdict::Ignored),
            fenced: count(Verdict::Fenced),
            left: Some(count(Verdict::Left)),
            malformed: count(Verdict::Malformed),
            orphan: interface.side.is_router().then(|| count(Verdict::Orphan)),
        },
        deaf: context.reception.hearing(name) != Hearing::Well,
        hash: Some(interface.hash),
        coverage: context.reception.coverage(name),
        audit: context.reception.finding(name).map(|finding| match finding {
            Finding::Hole => api::Misfit::Hole,
            Finding::Double => api::Misfit::Double,
        }),
    }
}

pub(crate) fn state(state: NodeState) -> api::NodeState {
    match state {
        NodeState::Listening => api::NodeState::Listening,
        NodeState::Joining => api::NodeState::Joining,
        NodeState::Active => api::NodeState::Active,
        NodeState::Draining => api::NodeState::Draining,
        NodeState::Leaving => api::NodeState::Leaving,
        NodeState::Fenced => api::NodeState::Fenced,
    }
}

/// Builds the answer to `why`.
///
/// # Errors
/// The flow goes to none of the cluster's addresses.
pub fn why(context: &Context<'_>, report: &Report, flow: FlowSpec) -> Result<WhyAnswer, Failure> {
    let (interface, flow_in) = entrance_of(context.config, flow)?;
    let (key, bucket) = place(context, interface, flow_in);
    let status = &report.status;
    let owner = status.view.as_ref().and_then(|view| view.owners[usize::from(bucket)]);
    let known = context.history.owner_of(bucket).filter(|_| owner.is_some());
    let given = owner == Some(status.identity.id);
    Ok(WhyAnswer {
        flow,
        bucket,
        owner: owner.map(|id| names(context, report).get(&id).cloned().unwrap_or_else(|| id.to_string())),
        since: known.map(|(since, _)| since),
        because: known.and_then(|(_, cause)| cause.cloned()),
        interface: interface.name.to_string(),
        hash: interface.hash,
        key,
        here: match (status.owned.contains(bucket), given) {
            (true, _) => BucketState::Owned,
            (false, true) => BucketState::Adopting,
            (false, false) if status.kept.contains(bucket) => BucketState::Kept,
            (false, false) => BucketState::Ignored,
        },
        node: context.node.into(),
    })
}

/// What of a flow is hashed, in words, and its bucket.
fn place(context: &Context<'_>, interface: &Interface, flow: FlowSpec) -> (String, u8) {
    let flow = key_flow(flow);
    let Some(router) = Router::new(context.config).filter(|_| interface.side.is_router()) else {
        let mode = hash_mode(interface.hash);
        let bucket = rudel_datapath::flow::bucket(&flow, mode, Side::Service, context.seed);
        return (describe_key(interface.hash, &flow), bucket);
    };
    let bucket = router.bucket(&flow, interface, context.seed);
    let key = match router.place(&flow, interface) {
        Place::Block(block) if interface.hash != HashMode::None => {
            let (first, last) = rudel_datapath::border::block(block);
            format!("nothing: port {} is of block {block}, {first} to {last}", flow.dst_port.unwrap_or(first))
        }
        Place::Block(_) => describe_key(HashMode::None, &flow),
        Place::Own(own) if own == flow => describe_key(interface.hash, &own),
        // Turned around: what is hashed is the packet's other end.
        Place::Own(own) => describe_key(interface.hash, &own)
            .replace("destination port", "peer's port")
            .replace("source", "destination")
            .replace("peer's", "source"),
    };
    (key, bucket)
}

/// The interface that a flow's packets come in on, and the flow as it comes in.
fn entrance_of(config: &Config, flow: FlowSpec) -> Result<(&Interface, FlowSpec), Failure> {
    if let Some(router) = Router::new(config) {
        let entrance = router.entrance(&key_flow(flow)).map(|found| &found.name);
        let mut all = config.interfaces.iter();
        let found = entrance.and_then(|name| all.find(|interface| interface.name == *name));
        return found.map(|interface| (interface, flow)).or_else(|| interface_of(config, flow)).ok_or_else(
            || {
                Failure::new(
                    format!("neither {} nor {} is known to be inside", flow.source, flow.destination),
                    "name the network that one of them lies in: `networks` of an inside interface",
                )
            },
        );
    }
    interface_of(config, flow).ok_or_else(|| {
        let addresses: Vec<String> = config
            .interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(|cidr| cidr.address().to_string()))
            .collect();
        Failure::new(
            format!("{} is not an address of this cluster", flow.destination),
            format!("ask for a flow to or from one of {}", addresses.join(", ")),
        )
    })
}

/// The interface that a flow's packets come in on, and the flow as it comes in: an administrator may have copied it
/// from the answering side.
fn interface_of(config: &Config, flow: FlowSpec) -> Option<(&Interface, FlowSpec)> {
    let has = |interface: &&Interface, address: IpAddr| {
        interface.addresses.iter().any(|cidr| cidr.address() == address)
    };
    if let Some(interface) = config.interfaces.iter().find(|interface| has(interface, flow.destination)) {
        return Some((interface, flow));
    }
    let interface = config.interfaces.iter().find(|interface| has(interface, flow.source))?;
    let detail = match flow.detail {
        FlowDetail::Ports { source, destination } => {
            FlowDetail::Ports { source: destination, destination: source }
        }
        other => other,
    };
    Some((interface, FlowSpec { source: flow.destination, destination: flow.source, detail, ..flow }))
}

fn key_flow(flow: FlowSpec) -> Flow {
    match flow.detail {
        FlowDetail::Ports { source, destination } => {
            Flow::with_ports(flow.protocol, (flow.source, source), (flow.destination, destination))
        }
        FlowDetail::Echo { id } => Flow::echo(flow.protocol, flow.source, flow.destination, id),
        FlowDetail::None => Flow::without_ports(flow.protocol, flow.source, flow.destination),
    }
}

/// The filter's word for a hash mode of the configuration.
pub fn hash_mode(mode: HashMode) -> rudel_datapath::HashMode {
    match mode {
        HashMode::SourceIp => rudel_datapath::HashMode::SourceIp,
        HashMode::SourceIpPort => rudel_datapath::HashMode::SourceIpPort,
        HashMode::SourceIpPortDestPort => rudel_datapath::HashMode::SourceIpPortDestPort,
        HashMode::SourceNet => rudel_datapath::HashMode::SourceNet,
        HashMode::None => rudel_datapath::HashMode::None,
    }
}

fn describe_key(mode: HashMode, flow: &Flow) -> String {
    let port = |name: &str, port: Option<u16>| match (port, flow.protocol) {
        (Some(id), 1 | 58) => Some(format!("echo identifier {id}")),
        (Some(port), _) => Some(format!("{name} port {port}")),
        (None, _) => None,
    };
    let network = || match flow.src {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("source network {a}.{b}.{c}.0/24")
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> 64 << 64;
            format!("source network {}/64", std::net::Ipv6Addr::from(bits))
        }
    };
    let address = format!("source address {}", flow.src);
    let parts = match mode {
        HashMode::None => return "nothing: all traffic meets in bucket 0".into(),
        HashMode::SourceNet => vec![Some(network())],
        HashMode::SourceIp => vec![Some(address)],
        HashMode::SourceIpPort => vec![Some(address), port("source", flow.src_port)],
        HashMode::SourceIpPortDestPort => {
            vec![Some(address), port("source", flow.src_port), port("destination", flow.dst_port)]
        }
    };
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
