//! How a daemon begins, and ends: the node's place on this host is taken in an order in which whatever fails leaves nothing behind
//! that nobody takes down, and is left in the same order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rudel_api::config::Config;
use rudel_api::timestamp::Timestamp;
use rudel_datapath::{Datapath, LeaseUntil, Xdp, ensure_bpffs};
use rudel_proto::id::NodeName;
use rudel_proto::{Node, Terms, Time};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::{Daemon, DaemonError, QUEUE_MAX, World, failed, reload};
use crate::advice::advised;
use crate::clock::monotonic_ns;
use crate::control::Control;
use crate::crash::crash;
use crate::errand::Errand;
use crate::health::{Checks, Fitness};
use crate::heartbeat::Heartbeat;
use crate::history::History;
use crate::hooks::{self, Hooks};
use crate::host::Link;
use crate::host::links::Monitor;
use crate::host_setup::{ClusterLink, HostSetup};
use crate::keeper::Keeper;
use crate::latest::{self, Latests};
use crate::legacy::{Household, Legacy};
use crate::neighbor::{Election, Responder};
use crate::options::{Options, Role};
use crate::parent::channel::{Serving, ToParent};
use crate::parent::tie::{Orders, Tie};
use crate::prepare::{Prepared, Reading};
use crate::pulse::{self, Notice, Parts, Pulse, PulseError};
use crate::reception::Reception;
use crate::recording::Recording;
use crate::redundancy::{Concern, Redundancy};
use crate::reload::{Reloading, terms};
use crate::sharing::{self, Sharing};
use crate::sight::Sight;
use crate::store::Place;
use crate::sync::thread::Thread as SyncThread;
use crate::web::Web;
use crate::{aside, nat, realtime};

/// What asks a daemon to leave, or to read its configuration. Listened to before anything on this host is changed: until
/// then it just ends.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

/// A daemon that has begun.
pub(super) struct Running {
    pub(super) daemon: Daemon,
    pub(super) ears: Ears,
    pub(super) hold: Hold,
}

/// What a serving daemon listens to.
pub(super) struct Ears {
    pub(super) signals: Signals,
    pub(super) orders: Orders,
    pub(super) control: Control,
    pub(super) web: Option<Web>,
    pub(super) notices: mpsc::Receiver<Notice>,
    pub(super) latest: Latests,
    pub(super) world: mpsc::Receiver<World>,
    pub(super) ended: oneshot::Receiver<()>,
}

/// What a serving daemon holds, to be taken down in order.
pub(super) struct Hold {
    pub(super) responder: Responder,
    monitor: Monitor,
    pulse: Pulse<Xdp>,
    sync: Option<SyncThread>,
    pub(super) host: HostSetup,
}

impl Hold {
    fn end(self, stays: bool) -> (HostSetup, Xdp, Result<(), PulseError>) {
        drop(self.responder);
        drop(self.monitor);
        let Ok((xdp, result)) = self.pulse.thread.join() else { crash("the pulse thread") };
        // After the last move of buckets, and before the settings that it needs are put back.
        match self.sync {
            Some(sync) if stays && result.is_ok() => sync.leave_standing(),
            other => drop(other),
        }
        (self.host, xdp, result)
    }

    /// Takes everything down; returns what could not be done.
    pub(super) fn take_down(self) -> Vec<String> {
        let (host, xdp, result) = self.end(false);
        let mut failures = host.take_down(xdp);
        failures.extend(result.err().map(|error| error.to_string()));
        failures
    }

    /// Ends this process's part, and leaves kernel and host to a successor; takes them down if the pulse thread failed.
    pub(super) fn leave_standing(self, tie: &Tie) -> Vec<String> {
        let (host, xdp, result) = self.end(true);
        let Err(error) = result else { return Vec::new() };
        tie.tell_ending();
        let mut failures = host.take_down(xdp);
        failures.push(error.to_string());
        failures
    }
}

impl Running {
    /// Takes the node's place on this host, and begins to listen to the cluster, or goes on where a predecessor ended.
    pub(super) fn start(
        options: &Options,
        prepared: Prepared,
        role: Role,
        tie: &Tie,
    ) -> Result<Self, DaemonError> {
        let signals = Signals::listen().map_err(failed)?;
        let orders =
            tie.listen().map_err(|error| failed(format!("cannot listen to the parent process: {error}")))?;
        let protocol = prepared.protocol();
        protocol.validate().map_err(failed)?;
        let cluster = prepared.reading.config.cluster.name.as_str();
        let node_name = prepared.reading.node.as_str();
        // The kernel reserves dots in the names of a BPF file system.
        let pin_dir = options.bpffs.join("rudel").join(format!("{cluster}-{}", node_name.replace('.', "+")));
        let mut household = prepared.household();
        let file = named(&prepared.reading.config, &prepared.reading.node);
        let terms_path = Place::terms_path(&options.state_dir, cluster, node_name);
        let mut reloading = Reloading::new(options, &prepared.reading, &terms_path);
        let adoptable =
            adoptable(&pin_dir, &household, |digest| reloading.protocol(&file, &protocol, digest));
        let rehearsed = match role {
            Role::InPlace if adoptable.is_ok() => {
                Some(prepared.rehearse(&pin_dir, &options.bpffs).map_err(failed)?)
            }
            _ => None,
        };
        tie.wait_for_place(adoptable.map(drop)).map_err(failed)?;

        // Everything that can be refused without a trace comes before the first change to the host.
        ensure_bpffs(&options.bpffs).map_err(failed)?;
        let place = Place::take(&options.runtime_dir, &options.state_dir, &pin_dir, cluster, node_name)
            .map_err(failed)?;
        // The predecessor may have stored something more by now.
        reloading.recall();
        let own_addresses = prepared.own_addresses();
        let Prepared { reading, heartbeat_links, heartbeats, state_links } = prepared;
        let Reading { config, node: name, keys, seed, mut cluster_links, .. } = reading;
        let ear_keys = keys.clone();
        let speaker = |link: &Heartbeat| Some((link.interface().to_owned(), link.speaker().ok()?));
        let speakers: Speakers = heartbeats.iter().filter_map(speaker).collect();
        let is_clusters = |link: &Link| cluster_links.iter().any(|ours| ours.link.index == link.index);
        let redundancy = Redundancy::new(config.heartbeat.group.socket_addr(), &heartbeat_links, is_clusters);
        let recording = match &options.record {
            Some(path) => {
                let begun = if role == Role::First { Recording::begin(path) } else { Recording::go_on(path) };
                Some(begun.map_err(|error| {
                    failed(format!("cannot begin the recording {}: {}", path.display(), advised(&error)))
                })?)
            }
            None => None,
        };
        let socket = options.socket.as_ref().unwrap_or(&config.node.socket).clone();
        let control = Control::open(&socket).map_err(failed)?;
        let web = config
            .node
            .metrics
            .map(|address| Web::open(address, name.as_str()))
            .transpose()
            .map_err(failed)?;
        let (world_sender, world) = mpsc::channel(QUEUE_MAX);
        let election = Election::new();
        let claims = world_sender.clone();
        let hook_failures = world_sender.clone();
        let responder = Responder::start(
            cluster_links.iter().map(ClusterLink::responder).collect(),
            election.clone(),
            // A claim or a change of a link that finds the queue full is one of a thousand others.
            move |claim| std::mem::drop(claims.try_send(World::Claim(claim))),
        )
        .map_err(|error| failed(format!("cannot answer ARP and NDP: {error}")))?;
        let concern = Concern::with(cluster_links.iter().map(|ours| &ours.link).chain(&heartbeat_links));
        let monitor = Monitor::start(move |event| {
            if concern.covers(&event) {
                std::mem::drop(world_sender.try_send(World::Link(event)));
            }
        })
        .map_err(|error| failed(format!("cannot watch the links: {}", advised(&error))))?;

        let journal = place.host_journal();
        let mut will = Serving {
            pin_dir: pin_dir.clone(),
            journal: journal.clone(),
            socket,
            lock: place.lock_path().into(),
            timeout_ms: reload::timeout_ms(&file),
            farewells: Vec::new(),
        };
        // From here on somebody must take down what is put up, even if this process cannot.
        tie.tell(&ToParent::Begun(will.clone()));
        let (opened, mut ahead) = rehearsed.unzip();
        let open = || HostSetup::open(&config, &pin_dir, &options.bpffs).map_err(failed);
        let mut datapath = opened.map_or_else(open, Ok)?;
        // From here on nobody else writes: what is there now is what there is to go on with.
        let lease = datapath.seize();
        let begin = Time::from_nanos(monotonic_ns());
        let mut checks = Checks::new(&config.health, Timestamp::now());
        let legacy = adoptable_from(&datapath, lease, &household, |digest| {
            reloading.protocol(&file, &protocol, digest)
        });
        let resumed = legacy.ok().and_then(|(legacy, protocol)| {
            let inheritance = legacy.inheritance(&datapath.read_table().ok()?, lease);
            let node = Node::resume(protocol, keys.clone(), inheritance, begin).ok()?;
            Some((node, legacy))
        });
        let memo = resumed.as_ref().map(|(_, legacy)| &legacy.memo);
        let reload::Start { in_force, commands, links } =
            reload::start(&mut reloading, &file, memo, &mut cluster_links, &responder).map_err(failed)?;
        will.timeout_ms = reload::timeout_ms(&in_force);
        let (mut node, mut host, begin) = match resumed {
            Some((node, mut legacy)) => {
                household.restarts = legacy.household.restarts + 1;
                // What was not asked before the restart is as good as the rest.
                for check in &config.health {
                    legacy.household.checks.entry(check.name.clone()).or_insert(legacy.memo.checkup.good);
                }
                checks.assume(&legacy.household.checks);
                // The host is as the predecessor has left it; the lease cannot wait until all of that is looked at.
                (node, None, begin)
            }
            None => {
                let incarnation = place.next_incarnation().map_err(failed)?;
                datapath.clear().map_err(failed)?;
                let put_up = HostSetup::put_up(&in_force, datapath, &links, &journal, seed);
                let (host, silent) = put_up.map_err(failed)?;
                datapath = silent;
                let begin = Time::from_nanos(monotonic_ns());
                let Terms { digest, quorum, timeout, interval } = terms(&in_force, seed);
                let protocol = rudel_proto::Config { digest, quorum, timeout, interval, ..protocol.clone() };
                let node = Node::new(protocol, keys.clone(), incarnation, begin);
                (node.map_err(failed)?, Some(host), begin)
            }
        };
        realtime::lock_memory();
        household.checks = checks.verdicts();
        if recording.is_some() {
            node.record(begin);
        }
        node.leave_memos();
        let mut fitness = Fitness::new(cluster_links.len());
        fitness.set_checks(&checks);
        let incarnation = node.machine().me().incarnation;
        let goes_on = household.restarts > 0;
        let shared = sharing::start(&config, &keys, &name, incarnation, seed, state_links, goes_on)?;
        let (sync, sharing) = shared.unzip();
        fitness.set_connections(sharing.as_ref().is_none_or(Sharing::is_known));
        // Before the first pulse: nothing must be given to a node of which nobody knows whether it can serve.
        let fitness_told = fitness.word(&checks);
        let told = fitness_told.commands().into_iter().chain(commands);
        told.for_each(|command| node.handle_command(begin, command));
        let (notice_sender, notices) = mpsc::channel(QUEUE_MAX);
        let (teller, latest) = latest::channel();
        let (ended_sender, ended) = oneshot::channel();
        will.farewells = node.farewells();
        let own_macs = cluster_links.iter().map(|link| (link.link.index, link.own_mac)).collect();
        let (watch, words) = aside::channel(sync.is_some());
        let parts = Parts {
            node,
            links: heartbeats,
            datapath,
            election,
            notices: notice_sender,
            latest: teller,
            tie: tie.clone(),
            household: household.to_bytes(),
            sync: sync.as_ref().map(|thread| thread.door().clone()),
            aside: watch,
        };
        // If there is no thread to be had, the pins stay, silent, for the next start to take over.
        let pulse = pulse::start(parts, move || {
            // Nobody waits for it only if the runtime has ended already.
            let _ = ended_sender.send(());
        })
        .map_err(|error| failed(format!("cannot start the pulse thread: {}", advised(&error))))?;
        // Before anything more can fail: then the parent says good-bye.
        leave_will(tie, &will, &speakers);
        let mut host = match host.take() {
            Some(host) => host,
            None => {
                let datapath = ahead.take().map_or_else(open, Ok)?;
                let (host, _) =
                    HostSetup::put_up(&in_force, datapath, &links, &journal, seed).map_err(failed)?;
                host
            }
        };

        let aside = aside::start(words, &pin_dir, std::mem::take(&mut host.gates), own_macs);
        let guard = |ruleset| nat::Watch::new(ruleset, config.nat.is_some());
        let table = host.table.clone().map(guard).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "the cluster's table in nftables is not watched: if anybody removes it, it stays away, until you run `rudel restart`");
            None
        });

        // Its disk may be slow: the cluster does not wait for it.
        let mut history = History::open(name.as_str(), place.events());
        let hooked = hooks::Place {
            cluster: config.cluster.name.to_string(),
            node: name.to_string(),
            told: place.told().into(),
        };
        let asked = pulse.requests.clone();
        let hooks = Hooks::start(
            &config.hooks,
            hooked,
            move || hooks::Level::ask(&asked),
            // One that finds the queue full is still in the status.
            move |why| std::mem::drop(hook_failures.try_send(World::HookFailed(why))),
        )
        .map_err(|error| failed(format!("cannot start the thread for hooks: {}", advised(&error))))?;
        hooks.catch_up(history.events());
        history.tell_hooks(hooks.door());

        let reception =
            Reception::open(config.cluster.name.clone(), ear_keys, &cluster_links, &host.modes, &pin_dir);
        let sight = RefCell::new(Sight::open(&cluster_links, responder.askers()));
        let daemon = Daemon {
            reception,
            sight,
            history: RefCell::new(history),
            hooks,
            own_addresses,
            modes: host.modes.clone(),
            carrier: cluster_links.iter().map(|l| (l.interface.name.to_string(), true)).collect(),
            fitness_told: (fitness_told, None),
            fitness,
            checks,
            announced: household.restarts > 0,
            found: false,
            owners_of: None,
            incarnation_stored: None,
            keeper: Keeper::default(),
            sharing,
            aside,
            redundancy,
            table,
            counting: Errand::default(),
            leaving: None,
            recording,
            requests: pulse.requests.clone(),
            cluster_links,
            config: in_force,
            file,
            reloading,
            terms_told: None,
            node: name,
            seed,
            place,
            tie: tie.clone(),
            will,
            speakers,
            household,
            handing_over: false,
            want_restart: Vec::new(),
        };
        tracing::info!(cluster = %daemon.config.cluster.name, node = %daemon.node, version = env!("CARGO_PKG_VERSION"), restarts = daemon.household.restarts, "started");
        for warning in daemon.config.warnings() {
            tracing::warn!("{warning}");
        }
        let ears = Ears { signals, orders, control, web, notices, latest, world, ended };
        Ok(Running { daemon, ears, hold: Hold { responder, monitor, pulse, sync, host } })
    }
}

/// Sockets that the parent process says good-bye by, one for each interface of the heartbeat.
pub(super) type Speakers = BTreeMap<String, OwnedFd>;

/// Tells the parent process what it needs if this one dies.
pub(super) fn leave_will(tie: &Tie, will: &Serving, speakers: &Speakers) {
    let fds: Vec<_> = speakers.values().map(AsFd::as_fd).collect();
    tie.tell_with(&ToParent::Serving(will.clone()), &fds);
}

/// The configuration with the name that the node goes by, wherever that came from.
fn named(config: &Config, name: &NodeName) -> Config {
    let mut config = config.clone();
    config.node.name = Some(name.clone());
    config
}

/// Whether a daemon so configured could go on with what is pinned now, as far as can be seen from outside.
fn adoptable(
    pin_dir: &Path,
    household: &Household,
    protocol: impl Fn(u64) -> rudel_proto::Config,
) -> Result<(Legacy, rudel_proto::Config), String> {
    let left = rudel_datapath::look(pin_dir).map_err(|error| error.to_string())?;
    let left = left.ok_or("nothing is left of it")?;
    fitting(&left.memo, left.lease, household, protocol)
}

/// The same of what has been opened.
fn adoptable_from(
    datapath: &Xdp,
    lease: LeaseUntil,
    household: &Household,
    protocol: impl Fn(u64) -> rudel_proto::Config,
) -> Result<(Legacy, rudel_proto::Config), String> {
    let memo = datapath.read_memo().map_err(|error| error.to_string())?;
    fitting(&memo, lease, household, protocol)
}

/// With what the protocol is told by the terms that the run lives by, whatever the file says.
fn fitting(
    memo: &[u8],
    lease: LeaseUntil,
    household: &Household,
    protocol: impl Fn(u64) -> rudel_proto::Config,
) -> Result<(Legacy, rudel_proto::Config), String> {
    if monotonic_ns() >= lease.as_nanos() {
        return Err("its lease is over".into());
    }
    let legacy = Legacy::decode(memo)?;
    let protocol = protocol(legacy.memo.view.digest);
    legacy.fits(&protocol, household)?;
    Ok((legacy, protocol))
}
