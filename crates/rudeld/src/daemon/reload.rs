//! What a serving daemon does with a configuration that was read again, and with terms that have come into force.

use std::net::IpAddr;

use rudel_api::config::{Config, Difference, Live};
use rudel_api::event::EventKind;
use rudel_api::reload::{Reload, ReloadResult};
use rudel_api::timestamp::Timestamp;
use rudel_proto::Command;
use rudel_proto::machine::Memo;

use super::Daemon;
use super::start::{Hold, leave_will};
use crate::health;
use crate::host_setup::ClusterLink;
use crate::neighbor::{Responder, announce};
use crate::pulse::Request;
use crate::reload::{self, Beginning, Refusal, Reloading};
use crate::snapshot::waiting_for;

/// How a daemon starts: with what all nodes live by, and not with what its file says if that is something else.
pub(super) struct Start {
    pub(super) in_force: Config,
    /// What the protocol is told before anything else.
    pub(super) commands: Vec<Command>,
    /// With the addresses that this host must have.
    pub(super) links: Vec<ClusterLink>,
}

/// Finds out what is in force, in a run that goes on if there is a memo, and has that answered for.
pub(super) fn start(
    reloading: &mut Reloading,
    file: &Config,
    memo: Option<&Memo>,
    cluster_links: &mut [ClusterLink],
    responder: &Responder,
) -> Result<Start, String> {
    let beginning = match memo {
        Some(memo) => reloading.go_on(file, memo),
        None => reloading.begin(file).map_err(|error| error.to_string())?,
    };
    let Beginning { in_force, commands } = beginning;
    if follow_addresses(cluster_links, &in_force) {
        let responders = cluster_links.iter().map(ClusterLink::responder).collect();
        responder.replace(responders).map_err(|error| format!("cannot answer ARP and NDP: {error}"))?;
    }
    let links = reloading.links_for(cluster_links, None);
    Ok(Start { in_force, commands, links })
}

/// What the parent process must know of the configuration in force.
pub(super) fn timeout_ms(config: &Config) -> u64 {
    u64::try_from(config.heartbeat.timeout.as_millis()).unwrap_or(u64::MAX)
}

/// Takes the interfaces of a configuration over; returns whether any has other addresses now.
fn follow_addresses(links: &mut [ClusterLink], config: &Config) -> bool {
    let mut changed = false;
    for link in links {
        let now = config.interfaces.iter().find(|interface| interface.name == link.interface.name);
        if let Some(now) = now {
            changed |= now.addresses != link.interface.addresses;
            link.interface = now.clone();
        }
    }
    changed
}

impl Daemon {
    /// Reads the configuration again, and follows it, or does not.
    pub(super) async fn reload(&mut self, hold: &mut Hold, checking: &mut health::Running) -> Reload {
        let mut reload = match self.try_reload(hold, checking) {
            Ok(reload) => {
                self.tell_reload(&reload);
                reload
            }
            Err(refusal) => {
                tracing::error!(
                    "the configuration was read again, and nothing was changed:\n{}",
                    refusal.reason
                );
                self.history.borrow_mut().push(EventKind::ReloadRefused, None, refusal.line.clone());
                reload::refused(refusal, Difference::between(&self.config, &self.file).of(Live::Together))
            }
        };
        self.reloading.last = Some(reload.clone());
        if !reload.pending.is_empty()
            && let Ok(report) = self.requests.report().await
        {
            reload.waiting_for = waiting_for(&report);
        }
        reload
    }

    fn tell_reload(&self, reload: &Reload) {
        let mut history = self.history.borrow_mut();
        if !reload.applied.is_empty() || reload.pending.is_empty() {
            let applied = reload::in_a_line(&reload.applied);
            tracing::info!("the configuration was read again; changed: {applied}");
            history.push(EventKind::Reloaded, None, format!("read again; changed: {applied}"));
        }
        if !reload.pending.is_empty() {
            let pending = reload::in_a_line(&reload.pending);
            let reason = format!("in force when all nodes have read the same: {pending}");
            tracing::info!("the configuration was read again; {reason}");
            history.push(EventKind::ReloadPending, None, reason);
        }
    }

    /// All that can be refused comes before the first change; what is done before that is undone.
    fn try_reload(&mut self, hold: &mut Hold, checking: &mut health::Running) -> Result<Reload, Refusal> {
        let step = self.reloading.read(&self.config)?;
        // Added addresses are there, for nobody yet, before the other nodes are told: from then on it is too late to
        // find out that the kernel does not want them.
        let links = self.reloading.links_for(&self.cluster_links, Some(&step));
        hold.host.change_over(&self.config, &links).map_err(Refusal::failed)?;
        let told = self.reloading.take(&step).map_err(Refusal::failed).and_then(|()| {
            self.requests.send(Request::Commands(step.commands.clone())).map_err(Refusal::failed)
        });
        if let Err(refusal) = told {
            // A wish that was stored and not told makes a next run more careful than it need be, and nothing else.
            self.take_away_unwanted(hold);
            return Err(refusal);
        }
        self.checks.change(&step.in_force.health, Timestamp::now());
        checking.follow(&self.checks);
        self.fitness.set_checks(&self.checks);
        self.tell_fitness();
        self.hooks.set(&step.in_force.hooks);
        self.household.checks = self.checks.verdicts();
        // One that the pulse thread is too busy for is remembered with the next.
        let _ = self.requests.send(Request::Remember(self.household.to_bytes()));
        self.config = step.in_force;
        self.file = step.file;
        let result = if step.together.is_empty() { ReloadResult::Applied } else { ReloadResult::Pending };
        Ok(Reload {
            at: Timestamp::now(),
            result,
            applied: step.now,
            pending: step.together,
            waiting_for: Vec::new(),
            reason: None,
        })
    }

    /// All nodes live by these terms: what was waited for is in force.
    pub(super) fn follow_terms(&mut self, hold: &mut Hold, told: Option<(u64, u32)>) {
        let Some((digest, _)) = told.filter(|_| told != self.terms_told) else {
            return;
        };
        self.terms_told = told;
        let Some((config, more)) = self.reloading.come_true(digest, &self.config) else {
            tracing::error!(
                digest = %format_args!("{digest:016x}"),
                "nothing is known here of what all nodes live by now: restart this daemon"
            );
            return;
        };
        let changes = Difference::between(&self.config, &config).of(Live::Together);
        self.config = config;
        self.serve_addresses(hold);
        self.will.timeout_ms = timeout_ms(&self.config);
        leave_will(&self.tie, &self.will, &self.speakers);
        if changes.is_empty() {
            // A wish that was taken back, or was none.
            return;
        }
        let reason = format!("all nodes have read the same; changed: {}", reload::in_a_line(&changes));
        tracing::info!("{reason}");
        self.history.borrow_mut().push(EventKind::Reloaded, None, reason);
        for warning in self.config.warnings() {
            tracing::warn!("{warning}");
        }
        if let Some(last) = &mut self.reloading.last {
            last.pending = Difference::between(&self.config, &self.file).of(Live::Together);
            if !more {
                last.applied.extend(changes);
                if last.result == ReloadResult::Pending {
                    last.result = ReloadResult::Applied;
                }
            }
        }
    }

    /// Answers for the addresses in force, announces new ones, and takes away those that nobody wants.
    fn serve_addresses(&mut self, hold: &mut Hold) {
        let before: Vec<Vec<IpAddr>> = self.cluster_links.iter().map(ClusterLink::addresses).collect();
        if follow_addresses(&mut self.cluster_links, &self.config) {
            let responders: Vec<_> = self.cluster_links.iter().map(ClusterLink::responder).collect();
            if let Err(error) = hold.responder.replace(responders.clone()) {
                tracing::error!(
                    %error,
                    "cannot answer ARP and NDP for the addresses that the cluster has now: restart this daemon"
                );
            }
            self.sight.borrow_mut().follow(&self.cluster_links);
            self.reception.follow(&self.cluster_links);
            for link in &self.cluster_links {
                let name = link.interface.name.as_str();
                self.fitness.set_deaf(name, self.reception.deafness(name));
            }
            self.tell_fitness();
            let announced = self.announced;
            for (responder, before) in responders.iter().zip(&before).filter(|_| announced) {
                for address in responder.addresses.iter().filter(|address| !before.contains(address)) {
                    if let Err(error) = announce(responder, *address) {
                        tracing::debug!(%error, %address, "not announced");
                    }
                }
            }
        }
        self.take_away_unwanted(hold);
    }

    /// Takes addresses off this host that are neither in force nor wished for.
    fn take_away_unwanted(&self, hold: &mut Hold) {
        let links = self.reloading.links_for(&self.cluster_links, None);
        if let Err(left) = hold.host.change_over(&self.config, &links) {
            tracing::warn!(%left, "an address that the cluster has no more is left on this host: remove it from lo by hand");
        }
    }
}
