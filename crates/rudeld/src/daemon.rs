//! The daemon: puts everything up, runs until it is told to leave, takes everything down.
//!
//! ```text
//!  main thread (tokio)                       pulse thread          responder      link monitor
//!  signals · control socket · history ◄───── notices               ARP, NDP       netlink
//!                      └──── requests ─────►                 ◄── who serves ──┘        │
//!                      ◄───────────────────── link events ────────────────────────────┘
//!                      ◄──── outcomes of health checks, tasks on the same runtime
//! ```

mod answers;
mod reload;
mod start;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rudel_api::config::{Config, ConfigError};
use rudel_api::control::{Failure, Ordered, Request as ControlRequest, Response};
use rudel_api::event::EventKind;
use rudel_api::timestamp::Timestamp;
use rudel_proto::Command;
use rudel_proto::id::{Incarnation, NodeName, ViewId};
use tokio::sync::{mpsc, oneshot};

use self::answers::ask_daemon;
use self::start::{Ears, Hold, Running, Speakers, leave_will};
use crate::aside;
use crate::clock::monotonic_ns;
use crate::connections::{self, Connection};
use crate::control::{self, CONNECTIONS_MAX, Followers};
use crate::crash::Fuse;
use crate::errand::Errand;
use crate::health::{self, Checks, Fitness, Verdict};
use crate::history::History;
use crate::hooks::Hooks;
use crate::host::Link;
use crate::host::links::LinkEvent;
use crate::host_setup::ClusterLink;
use crate::keeper::{self, Keeper};
use crate::latest::Latest;
use crate::leaving::{self, Leaving, Progress};
use crate::legacy::Household;
use crate::nat;
use crate::neighbor::{Claim, announce};
use crate::options::{Options, Role};
use crate::orders;
use crate::parent::channel::{Serving, ToChild, ToParent};
use crate::parent::tie::Tie;
use crate::prepare::Prepared;
use crate::pulse::{Notice, Request, Requests};
use crate::reception::{self, News, Reception};
use crate::recording::Recording;
use crate::redundancy::{Redundancy, Reopened};
use crate::reload::Reloading;
use crate::sharing::Sharing;
use crate::sight::Sight;
use crate::store::Place;

/// Notices, claims and link events that may wait for the runtime.
const QUEUE_MAX: usize = 1024;
/// Turns of the runtime that an answer takes from the daemon to the socket, and some more.
const ANSWER_TURNS: usize = 16;
/// When the pulse thread's queue was full: until this node's health is told again.
const TELL_AGAIN: Duration = Duration::from_millis(10);
/// How often it is tried to open sockets on an interface that was made again.
const REOPEN_EVERY: Duration = Duration::from_millis(100);

/// How often it is looked whether the cluster's table in nftables is still what it was.
const GUARD_EVERY: Duration = Duration::from_secs(1);

/// Why the daemon could not run, with the exit code that says so.
#[derive(Debug)]
pub enum DaemonError {
    /// The configuration is refused (exit code 2).
    Config(Box<ConfigError>),
    /// The configuration does not fit this host, at least not now (exit code 1): an interface may only be late.
    Host(Box<ConfigError>),
    /// Something could not be done (exit code 1).
    Failed(String),
}

impl From<ConfigError> for DaemonError {
    fn from(error: ConfigError) -> Self {
        DaemonError::Config(Box::new(error))
    }
}

pub(crate) fn failed(error: impl std::fmt::Display) -> DaemonError {
    DaemonError::Failed(error.to_string())
}

/// How a daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has left the cluster.
    Left,
    /// It has left everything as it is to a successor.
    HandedOver,
}

/// Runs the daemon until it has left the cluster, or its place to a successor.
pub fn run(options: &Options, role: Role, tie: &Tie) -> Result<End, DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let in_runtime = runtime.enter();
    let prepared = Prepared::new(options)?;
    let mut running = Running::start(options, prepared, role, tie)?;
    let fuse = Fuse;
    let outcome = runtime.block_on(running.daemon.serve(running.ears, &mut running.hold));
    let mut failures = if running.daemon.handing_over && outcome.is_ok() {
        running.hold.leave_standing(tie)
    } else {
        running.daemon.handing_over = false;
        tie.tell_ending();
        if let Some(table) = running.daemon.table.take() {
            runtime.block_on(table.rest());
        }
        running.hold.take_down()
    };
    failures.extend(outcome.err());
    // Not waiting for a resolver or a disk that a health check hangs in.
    drop(in_runtime);
    runtime.shutdown_background();
    let handed_over = running.daemon.handing_over;
    if !handed_over {
        running.daemon.tell_the_end(&failures);
    }
    drop(running.daemon);
    drop(fuse);
    if !failures.is_empty() {
        Err(DaemonError::Failed(failures.join("; ")))
    } else if handed_over {
        tracing::info!("left everything to a successor");
        Ok(End::HandedOver)
    } else {
        tracing::info!("left the cluster");
        Ok(End::Left)
    }
}

/// What comes from outside of the protocol.
enum World {
    Claim(Claim),
    Link(LinkEvent),
    HookFailed(String),
}

struct Daemon {
    /// The configuration in force.
    config: Config,
    /// As the file was when it was read last, and followed.
    file: Config,
    reloading: Reloading,
    /// The word of terms that was heeded last.
    terms_told: Option<(u64, u32)>,
    node: NodeName,
    cluster_links: Vec<ClusterLink>,
    own_addresses: Vec<IpAddr>,
    modes: BTreeMap<String, rudel_api::snapshot::AttachMode>,
    carrier: BTreeMap<String, bool>,
    checks: Checks,
    fitness: Fitness,
    /// What the protocol was told of it last.
    fitness_told: (health::Word, Option<String>),
    reception: Reception,
    /// What is seen of the network besides.
    sight: RefCell<Sight>,
    announced: bool,
    /// Whether the history knows what the predecessor's view was.
    found: bool,
    /// The view whose owners the history knows.
    owners_of: Option<ViewId>,
    incarnation_stored: Option<Incarnation>,
    keeper: Keeper,
    /// Of a router that shares its connections.
    sharing: Option<Sharing>,
    /// What has become of what was sent to nodes that are not heard.
    aside: Arc<aside::Tally>,
    redundancy: Redundancy,
    /// Of a router.
    table: Option<nat::Watch>,
    /// The open connections are being listed; since when.
    counting: Errand<(Instant, io::Result<Vec<Connection>>)>,
    /// Since it was asked to leave.
    leaving: Option<Leaving>,
    recording: Option<Recording>,
    seed: u32,
    history: RefCell<History>,
    hooks: Hooks,
    requests: Requests,
    place: Place,
    tie: Tie,
    /// What the parent needs if this process dies.
    will: Serving,
    speakers: Speakers,
    /// What a successor needs besides what the protocol leaves.
    household: Household,
    handing_over: bool,
    /// Who waits for a successor.
    want_restart: Vec<oneshot::Sender<Response>>,
}

impl Daemon {
    /// Serves until the pulse thread has ended.
    async fn serve(&mut self, ears: Ears, hold: &mut Hold) -> Result<(), String> {
        let Ears { mut signals, mut orders, control, web, mut notices, mut latest, mut world, mut ended } =
            ears;
        self.history.borrow_mut().push(EventKind::Started, None, "the daemon has started");
        self.notify(&[sd_notify::NotifyState::Ready]);

        let (mut checking, mut outcomes) = health::start(&self.checks, self.node.as_str());
        let mut connections = tokio::task::JoinSet::new();
        let local = tokio::task::LocalSet::new();
        let mut outcome = Ok(());
        let mut progress = tokio::time::interval(leaving::LOOK_EVERY);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(keeper::LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut listen = tokio::time::interval(reception::LOOK_EVERY);
        listen.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let followers = Rc::new(Followers::new(self.history.borrow().newest()));
        let (asker, mut looks) = mpsc::channel(1);
        if let Some(web) = web {
            local.spawn_local(web.serve(asker.clone()));
        }
        let mut reopen = tokio::time::interval(REOPEN_EVERY);
        reopen.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut guard = tokio::time::interval(GUARD_EVERY);
        guard.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Connections run on this thread too, and share the daemon by asking it through a queue of their own.
        let (ask, mut asked) = mpsc::channel::<(ControlRequest, oneshot::Sender<Response>)>(CONNECTIONS_MAX);
        local
            .run_until(async {
                loop {
                    tokio::select! {
                        biased;
                        _ = &mut ended => break,
                        _ = signals.terminate.recv() => self.leave("SIGTERM").await,
                        _ = signals.interrupt.recv() => self.leave("SIGINT").await,
                        _ = signals.hangup.recv() => drop(self.reload(hold, &mut checking).await),
                        order = orders.next() => self.obey(order).await,
                        Some(notice) = notices.recv() => self.hear(notice),
                        _ = guard.tick(), if self.table.is_some() => self.table.iter_mut().for_each(nat::Watch::look),
                        news = table_news(&mut self.table) => self.tell_all(news),
                        Ok(()) = latest.changed() => {
                            let latest = latest.borrow_and_update().clone();
                            checking.examine(latest.examination);
                            if latest.owners.is_some() {
                                self.reloading.has_lived();
                            }
                            self.follow_terms(hold, latest.terms);
                            self.follow(latest);
                        }
                        _ = progress.tick(), if self.leaving.is_some() => self.tell_progress(),
                        _ = look.tick(), if self.keeper.is_watching() && self.counting.is_idle() => {
                            // A table of a hundred thousand sockets takes its time.
                            self.counting.begin(|| (Instant::now(), connections::all()));
                        }
                        Some(counted) = self.counting.outcome() => self.count_connections(counted),
                        () = sharing_changed(&mut self.sharing) => self.look_at_sharing(),
                        _ = listen.tick() => self.listen().await,
                        Some(event) = world.recv() => {
                            if let Err(gone) = self.watch(event) {
                                outcome = Err(gone);
                                self.leave("an interface of the cluster is gone").await;
                            }
                        }
                        Some(outcome) = outcomes.recv() => self.judge(outcome),
                        _ = reopen.tick(), if self.redundancy.wants_sockets() => self.reopen_heartbeats(),
                        () = tokio::time::sleep(TELL_AGAIN), if self.fitness_is_untold() => self.tell_fitness(),
                        Some((request, answer)) = asked.recv() => {
                            if request == ControlRequest::Reload {
                                let reload = self.reload(hold, &mut checking).await;
                                let _ = answer.send(Response::Reload(Box::new(reload)));
                                continue;
                            }
                            if request == ControlRequest::Restart {
                                self.tie.tell(&ToParent::Restart);
                                self.want_restart.push(answer);
                                continue;
                            }
                            if orders::is_order(&request) {
                                // Another node may take its time to answer.
                                let (requests, me) = (self.requests.clone(), self.node.clone());
                                tokio::task::spawn_local(async move {
                                    let _ = answer.send(orders::carry_out(&requests, &me, &request).await);
                                });
                                continue;
                            }
                            let response = self.answer(request).await;
                            // Whoever asked may have gone.
                            let _ = answer.send(response);
                        }
                        Some(answer) = looks.recv() => {
                            // Whoever asked may have gone.
                            let _ = answer.send(self.look().await);
                        }
                        stream = control.accept(), if connections.len() < CONNECTIONS_MAX => {
                            let (ask, followers) = (ask.clone(), followers.clone());
                            connections.spawn_local(async move {
                                let ask = Rc::new(ask);
                                let served = control::serve(stream, &followers, async |request| ask_daemon(&ask, request).await).await;
                                if let Err(error) = served {
                                    tracing::debug!(%error, "a control connection broke off");
                                }
                            });
                        }
                        Some(_) = connections.join_next() => {}
                    }
                }
                connections.abort_all();
            })
            .await;
        drop(checking);
        // What the pulse thread said last.
        while let Ok(notice) = notices.try_recv() {
            self.hear(notice);
        }
        let last = latest.borrow_and_update().clone();
        self.follow(last);
        outcome
    }

    async fn leave(&mut self, why: &str) {
        tracing::info!(why, "leaving the cluster");
        self.history.borrow_mut().push(EventKind::Stopped, None, format!("leaves the cluster: {why}"));
        self.notify(&[sd_notify::NotifyState::Stopping]);
        self.leaving.get_or_insert_default();
        // If the pulse thread has ended already, so will we.
        let _ = self.requests.insist(|| Request::Command(Command::Leave)).await;
    }

    /// Everything is taken down: the last that the administrator's program is told.
    fn tell_the_end(&mut self, failures: &[String]) {
        let mut reason = "has left the cluster".to_owned();
        if !failures.is_empty() {
            reason = format!("{reason}, and something could not be done: {}", failures.join("; "));
        }
        self.history.borrow_mut().push(EventKind::Left, None, reason);
        self.hooks.finish();
    }

    /// The parent process wants something.
    async fn obey(&mut self, order: ToChild) {
        match order {
            ToChild::Begin => {}
            ToChild::HandOver => {
                tracing::info!("leaving everything to a successor");
                self.handing_over = true;
                for waiting in std::mem::take(&mut self.want_restart) {
                    let _ = waiting
                        .send(Response::Ordered(Ordered { node: self.node.to_string(), changed: true }));
                }
                // So that whoever asked is answered before the connection ends.
                for _ in 0..ANSWER_TURNS {
                    tokio::task::yield_now().await;
                }
                // If the pulse thread has ended already, so will we.
                let _ = self.requests.insist(|| Request::HandOver).await;
            }
            ToChild::NoSuccessor(why) => {
                self.history.borrow_mut().push(EventKind::RestartFailed, None, why.clone());
                for waiting in std::mem::take(&mut self.want_restart) {
                    let failure = Failure::new(why.clone(), "nothing has changed: mend that, and try again");
                    let _ = waiting.send(Response::Error(failure));
                }
            }
        }
    }

    /// systemd's readiness protocol; without it nobody listens.
    fn notify(&self, states: &[sd_notify::NotifyState<'_>]) {
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        self.tie.tell(&ToParent::Notify(text));
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Event(event) => {
                self.history.borrow_mut().push_protocol(&event);
                let node = event.node().map_or_else(|| self.node.to_string(), ToString::to_string);
                use rudel_proto::Event;
                match event {
                    Event::Expired { .. }
                    | Event::Restarted { .. }
                    | Event::Stalled { .. }
                    | Event::LeftOut { .. }
                    | Event::Duplicate { .. }
                    | Event::Mismatch { .. }
                    | Event::Full { .. } => tracing::warn!(kind = event.kind(), %node, "{event}"),
                    _ => tracing::info!(kind = event.kind(), %node, "{event}"),
                }
            }
            Notice::Rejected { rejection, source, interface } => {
                let reason = format!("{rejection} (from {source} on {interface})");
                tracing::warn!(reason = rejection.reason(), %source, %interface, "datagrams rejected: {rejection}");
                self.history.borrow_mut().push(EventKind::Rejected, rejection.node(), reason);
            }
            Notice::Record(record) => {
                if let Some(recording) = &mut self.recording {
                    recording.write(&record);
                }
            }
        }
    }

    /// The protocol's state is another than before.
    fn follow(&mut self, latest: Latest) {
        self.keeper.set_kept(latest.kept, Instant::now());
        self.checks.examine(latest.examination);
        self.tell_fitness();
        if let Some(owners) = latest.found.as_ref().filter(|_| !self.found) {
            self.found = true;
            self.history.borrow_mut().begin_with(owners);
        }
        if let Some((view, owners)) = &latest.owners
            && self.owners_of != Some(*view)
        {
            self.owners_of = Some(*view);
            self.history.borrow_mut().set_owners(view.epoch, owners);
        }
        if let Some((incarnation, farewells)) = latest.incarnation
            && self.incarnation_stored != Some(incarnation)
        {
            self.will.farewells = farewells;
            self.sharing.iter().for_each(|sharing| sharing.set_incarnation(incarnation));
            leave_will(&self.tie, &self.will, &self.speakers);
            match self.place.store_incarnation(incarnation) {
                Ok(()) => self.incarnation_stored = Some(incarnation),
                Err(error) => {
                    tracing::warn!(%error, "the number of this run is not stored, so that the next one may not be known to be later: see the error")
                }
            }
        }
        if latest.has_served {
            self.announce_once();
        }
    }

    /// How far a leave is.
    fn tell_progress(&mut self) {
        let Some(leaving) = &mut self.leaving else {
            return;
        };
        let (keeper, now) = (&self.keeper, Instant::now());
        let left = keeper.left(self.config.cluster.drain_timeout, now);
        let progress = Progress { kept: keeper.kept(), connections: keeper.connections(), left };
        let (news, status) = leaving.tell(progress, now);
        if let Some(news) = news {
            tracing::info!("{news}");
        }
        self.notify(&leaving::states(&status));
    }

    /// Lets go of the kept buckets in which no connection was open at that time.
    fn count_connections(&mut self, (at, found): (Instant, io::Result<Vec<Connection>>)) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot list the open connections: what is kept is kept until the drain time-out; load the kernel modules inet_diag and tcp_diag");
                return;
            }
        };
        let counts = connections::by_bucket(&self.config, self.seed, &found);
        let ended = self.keeper.ended(&counts, self.config.cluster.drain_timeout, at);
        for command in [Command::Connections(self.keeper.connections()), Command::Ended(ended)] {
            if let Err(error) = self.requests.send(Request::Command(command)) {
                tracing::debug!(%error, "the protocol was not told of ended connections");
            }
        }
    }

    fn tell_all(&mut self, news: impl IntoIterator<Item = (EventKind, String)>) {
        for (kind, reason) in news {
            tracing::warn!("{reason}");
            self.history.borrow_mut().push(kind, None, reason);
        }
    }

    /// What there is to know of shared connections.
    fn look_at_sharing(&mut self) {
        let Some(sharing) = &mut self.sharing else { return };
        let news = sharing.look();
        // A router takes no share before it knows the connections that come with it.
        self.fitness.set_connections(sharing.is_known());
        self.tell_all(news);
        self.tell_fitness();
    }

    /// Tells the neighbours of the cluster's MAC when this node first serves: something else may have had the address
    /// before. A failover needs no announcement.
    fn announce_once(&mut self) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        for link in &self.cluster_links {
            let responder = link.responder();
            for address in responder.addresses.clone() {
                if let Err(error) = announce(&responder, address) {
                    tracing::debug!(%error, %address, "not announced");
                }
            }
        }
    }

    /// Hands sockets on interfaces that were made again to those who use them.
    fn reopen_heartbeats(&mut self) {
        let Reopened { speakers, news } = self.redundancy.reopen(&self.requests, self.sharing.as_ref());
        if !speakers.is_empty() {
            self.speakers.extend(speakers);
            leave_will(&self.tie, &self.will, &self.speakers);
        }
        self.tell_all(news);
    }

    /// Something happened around us. An error: this daemon cannot go on.
    fn watch(&mut self, event: World) -> Result<(), String> {
        if let World::Link(event) = &event {
            let news = self.redundancy.hear(event);
            self.tell_all(news);
        }
        match event {
            World::Claim(claim) => {
                self.sight.borrow_mut().claimed(claim);
                let Claim { ifindex, address, mac } = claim;
                let link = self.cluster_links.iter().find(|link| link.link.index == ifindex);
                let interface = link.map_or_else(|| ifindex.to_string(), |link| link.link.name.clone());
                let reason = format!(
                    "{mac} claims the cluster's address {address} on {interface}: another machine has the address, or a node answers without rudeld"
                );
                tracing::warn!(%address, %mac, %interface, "{reason}");
                self.history.borrow_mut().push(EventKind::Rejected, None, reason);
                Ok(())
            }
            World::HookFailed(why) => {
                self.history.borrow_mut().push(EventKind::HookFailed, None, why);
                Ok(())
            }
            World::Link(LinkEvent::Appeared(link)) => {
                self.set_carrier(&link);
                Ok(())
            }
            World::Link(LinkEvent::Changed { after, .. }) => {
                self.set_carrier(&after);
                let ours = self.cluster_links.iter().find(|ours| ours.link.index == after.index);
                match ours {
                    Some(ours) if after.mac != Some(ours.own_mac) => Err(format!(
                        "the MAC address of {} was changed while the daemon runs: start it again",
                        after.name
                    )),
                    _ => Ok(()),
                }
            }
            World::Link(LinkEvent::Addresses) => {
                self.reception.look_at_addresses();
                self.sharing.iter_mut().for_each(|sharing| sharing.look_at_addresses(&self.config));
                Ok(())
            }
            World::Link(LinkEvent::Disappeared(link)) => {
                if self.cluster_links.iter().any(|ours| ours.link.index == link.index) {
                    return Err(format!(
                        "the interface {} has gone: start the daemon again when it is back",
                        link.name
                    ));
                }
                Ok(())
            }
        }
    }

    /// Carrier loss on a cluster interface takes this node's share away at once; without any it owns nothing.
    fn set_carrier(&mut self, link: &Link) {
        let Some(ours) = self.cluster_links.iter().find(|ours| ours.link.index == link.index) else {
            return;
        };
        let name = ours.interface.name.to_string();
        let carrier = link.up && link.carrier;
        if self.carrier.insert(name.clone(), carrier) == Some(carrier) {
            return;
        }
        let (kind, reason) = if carrier {
            (EventKind::LinkUp, format!("{name} has a carrier again"))
        } else {
            (EventKind::LinkDown, format!("{name} has lost its carrier"))
        };
        tracing::warn!(interface = %name, "{reason}");
        self.history.borrow_mut().push(kind, None, reason);
        self.fitness.set_carrier(&name, carrier);
        if !carrier {
            // With a carrier alone it is not in order again: a packet must have come.
            self.reception.unplugged(&name);
            self.fitness.set_deaf(&name, self.reception.deafness(&name));
        }
        self.tell_fitness();
    }

    /// A health check was answered, or not.
    fn judge(&mut self, outcome: health::Outcome) {
        let verdict = self.checks.hear(outcome, Timestamp::now());
        self.fitness.set_checks(&self.checks);
        self.tell_fitness();
        if verdict.is_some() {
            self.household.checks = self.checks.verdicts();
            // One that the pulse thread is too busy for is remembered with the next.
            let _ = self.requests.send(Request::Remember(self.household.to_bytes()));
        }
        let Some(Verdict { name, first, error }) = verdict else {
            return;
        };
        let mut history = self.history.borrow_mut();
        match error {
            Some(error) => {
                tracing::warn!(check = %name, "a health check fails: {name}: {error}; mend what it asks, docs/health.md says how it counts");
                history.push(EventKind::Unhealthy, None, format!("{name}: {error}"));
            }
            None => {
                let again = if first { "good" } else { "good again" };
                tracing::info!(check = %name, "a health check is {again}: {name}");
                history.push(EventKind::Healthy, None, format!("{name}: {again}"));
            }
        }
    }

    /// Sends probes, and looks what has come of the others' and of their packets.
    async fn listen(&mut self) {
        self.sight.borrow_mut().look();
        let Ok(report) = self.requests.report().await else { return };
        let now = Duration::from_nanos(monotonic_ns());
        let carrier = |name: &str| self.carrier.get(name).copied().unwrap_or(false);
        let (news, word) = self.reception.look(now, &report, carrier);
        for item in news {
            if let Some((kind, reason)) = self.reception.event(&item) {
                tracing::warn!(kind = kind.as_str(), "{reason}");
                self.history.borrow_mut().push(kind, None, reason);
            }
            if let News::Hearing(change) = item {
                let name = self.reception.name(change.ear);
                self.fitness.set_deaf(name, self.reception.deafness(name));
            }
        }
        self.tell_fitness();
        if let Some(word) = word
            && self.requests.send(Request::Command(Command::Audit(word))).is_err()
        {
            self.reception.forget_told();
        }
    }

    fn fitness_is_untold(&self) -> bool {
        self.fitness_told != (self.fitness.word(&self.checks), self.fitness.reason())
    }

    /// Tells the protocol whether this node can serve, if that is another word than the last.
    fn tell_fitness(&mut self) {
        if !self.fitness_is_untold() {
            return;
        }
        let (word, reason) = (self.fitness.word(&self.checks), self.fitness.reason());
        let complaint = Command::Complain(reason.clone().unwrap_or_default());
        for command in word.commands().into_iter().chain([complaint]) {
            if let Err(error) = self.requests.send(Request::Command(command)) {
                // It is told again soon; a protocol that has ended has nothing more to lose.
                tracing::debug!(%error, "the protocol was not told of this node's health");
                return;
            }
        }
        self.fitness_told = (word, reason);
    }
}

async fn table_news(table: &mut Option<nat::Watch>) -> Vec<(EventKind, String)> {
    match table {
        Some(table) => table.news().await,
        None => std::future::pending().await,
    }
}

async fn sharing_changed(sharing: &mut Option<Sharing>) {
    match sharing {
        Some(sharing) => sharing.changed().await,
        None => std::future::pending().await,
    }
}
