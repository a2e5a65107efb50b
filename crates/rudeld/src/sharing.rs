//! Shared connections in the daemon: what `[sync]` needs of this host, the [sync thread](crate::sync::thread) beside the
//! pulse thread, and what people are told of it.

use std::io;
use std::time::{Duration, Instant};

use rudel_api::config::{Config, InterfaceName};
use rudel_api::event::EventKind;
use rudel_api::snapshot::Sync as Report;
use rudel_proto::id::{Incarnation, NodeName};
use rudel_proto::seal::Keys;
use tokio::sync::watch;

use crate::daemon::{DaemonError, failed};
use crate::heartbeat::Heartbeat;
use crate::host::addresses;
use crate::router::Router;
use crate::sync::classify::Forwarded;
use crate::sync::conntrack::Dump;
use crate::sync::engine::Settings;
use crate::sync::thread::{Door, EVENT_BUFFER_BYTES, Parts, Thread, state_group};

/// A router takes its share after so long even if it does not know all connections of the others: somebody may have
/// fallen silent in the middle.
const PATIENCE: Duration = Duration::from_secs(30);
/// What goes wrong again and again is told once in this time.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The sockets by which routers tell each other of their connections; none if they do not.
///
/// # Errors
/// This host has no connection tracking that could be shared, or a socket cannot be opened.
pub fn open_links(config: &Config) -> Result<Vec<Heartbeat>, DaemonError> {
    if !config.sync.enabled {
        return Ok(Vec::new());
    }
    // A question that nobody waits for: with it the kernel loads what answers, and the settings of it are there.
    Dump::begin().map_err(|error| {
        failed(format!(
            "[sync] needs the kernel's table of connections ({error}): is the module nf_conntrack_netlink installed?"
        ))
    })?;
    let group = state_group(config.heartbeat.group.socket_addr());
    let open = |name: &InterfaceName| Heartbeat::open_bulk(name.as_str(), group).map_err(failed);
    config.heartbeat.interfaces.iter().map(open).collect()
}

/// Starts the sync thread, if connections are shared. A node that goes on with its share knows the connections that it
/// needs: its kernel has them.
///
/// # Errors
/// What the kernel says.
pub fn start(
    config: &Config,
    keys: &Keys,
    name: &NodeName,
    incarnation: Incarnation,
    seed: u32,
    links: Vec<Heartbeat>,
    goes_on: bool,
) -> Result<Option<(Thread, Sharing)>, DaemonError> {
    let cannot = |error: io::Error| failed(format!("cannot share connections: {error}"));
    let Some(classify) = classification(config, seed).map_err(cannot)?.filter(|_| config.sync.enabled) else {
        return Ok(None);
    };
    let thread = Thread::start(Parts {
        settings: Settings::default(),
        keys: keys.clone(),
        cluster: config.cluster.name.clone(),
        name: name.clone(),
        incarnation,
        classify: Box::new(classify.clone()),
        links,
        event_buffer_bytes: EVENT_BUFFER_BYTES,
    });
    let thread = thread.map_err(cannot)?;
    let sharing = Sharing::new(&thread, seed, classify, goes_on);
    Ok(Some((thread, sharing)))
}

/// What the connections through this host belong to, as its addresses are at this moment; none if it is no router.
fn classification(config: &Config, seed: u32) -> io::Result<Option<Forwarded>> {
    let Some(router) = Router::new(config) else { return Ok(None) };
    let local = addresses::all()?.into_iter().map(|address| address.ip);
    Ok(Some(Forwarded::new(router, seed, local)))
}

/// What the daemon knows of its sync thread.
pub struct Sharing {
    door: Door,
    reports: watch::Receiver<Report>,
    seed: u32,
    /// What the thread goes by.
    classify: Forwarded,
    begun: Instant,
    known: bool,
    overruns: Told,
    gaps: Told,
    refusals: Told,
}

/// A count of something that goes wrong, and what people know of it.
#[derive(Default)]
struct Told {
    count: u64,
    at: Option<Instant>,
}

impl Told {
    /// How many there are since people were told last, if it is time to tell them.
    fn news(&mut self, count: u64, now: Instant) -> Option<u64> {
        let is_time = self.at.is_none_or(|at| now.duration_since(at) >= TOLD_EVERY);
        if count <= self.count || !is_time {
            return None;
        }
        self.at = Some(now);
        Some(count - std::mem::replace(&mut self.count, count))
    }
}

impl Sharing {
    /// Of a thread that has begun.
    fn new(thread: &Thread, seed: u32, classify: Forwarded, goes_on: bool) -> Self {
        Sharing {
            door: thread.door().clone(),
            reports: thread.reports(),
            seed,
            classify,
            begun: Instant::now(),
            known: goes_on,
            overruns: Told::default(),
            gaps: Told::default(),
            refusals: Told::default(),
        }
    }

    /// Whether this node knows the connections that would come with a share.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// What was reported last.
    pub fn report(&self) -> Report {
        self.reports.borrow().clone()
    }

    /// Waits for the next report.
    ///
    /// # Panics
    /// If the thread has panicked: this daemon, too, is of no use then. A successor finds all connections in the kernel.
    pub async fn changed(&mut self) {
        next(&mut self.reports).await;
    }

    /// This run of the node has another number from now on.
    pub fn set_incarnation(&self, incarnation: Incarnation) {
        if !self.door.incarnation(incarnation) {
            tracing::warn!("the sync thread does not take the number of this run: run `rudel restart`");
        }
    }

    /// The addresses of this host or of the cluster may be others than before: which connections end here is found out
    /// anew.
    pub fn look_at_addresses(&mut self, config: &Config) {
        let classify = match classification(config, self.seed) {
            Ok(Some(classify)) => classify,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot list this host's addresses: what is shared goes by the former ones; if they have changed, run `rudel restart`");
                return;
            }
        };
        // Most changes are of lifetimes.
        if classify != self.classify && self.door.classify(Box::new(classify.clone())) {
            tracing::debug!("addresses have changed: connections are classified anew");
            self.classify = classify;
        }
    }

    /// Its words go by this socket from now on, in the place of the one on the interface of the same name; false if the
    /// thread does not take it.
    pub fn set_link(&self, link: Heartbeat) -> bool {
        self.door.link(link)
    }

    /// Looks at the last report; returns what people should know.
    pub fn look(&mut self) -> Vec<(EventKind, String)> {
        let (report, now) = (self.report(), Instant::now());
        let mut news = Vec::new();
        if !self.known {
            let waited = now.duration_since(self.begun);
            self.known = report.synced || waited >= PATIENCE;
            if self.known && !report.synced {
                let missing: Vec<&str> =
                    report.peers.iter().filter(|peer| !peer.whole).map(|peer| peer.name.as_str()).collect();
                let reason = format!(
                    "this node takes its share though {} has not told all connections within {} s",
                    missing.join(", "),
                    PATIENCE.as_secs()
                );
                news.push((EventKind::SyncGap, reason));
            }
        }
        if let Some(count) = self.overruns.news(report.overruns, now) {
            let reason = format!(
                "connections changed faster than they could be read ({count} times): the whole table was read anew"
            );
            news.push((EventKind::SyncOverrun, reason));
        }
        if let Some(count) = self.gaps.news(report.gaps_skipped, now) {
            let reason = format!(
                "words of other routers about their connections were lost ({count} times): all were asked for anew"
            );
            news.push((EventKind::SyncGap, reason));
        }
        if let Some(count) = self.refusals.news(report.write_errors, now) {
            let reason = format!(
                "the kernel refused {count} connections of other nodes: nf_conntrack_max must have room for those of all nodes"
            );
            news.push((EventKind::SyncRefused, reason));
        }
        news
    }
}

async fn next(reports: &mut watch::Receiver<Report>) {
    reports.changed().await.expect("the sync thread tells as long as it lives: it has panicked, see the log");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    #[should_panic(expected = "the sync thread")]
    async fn a_daemon_does_not_outlive_its_sync_thread() {
        let (told, mut reports) = watch::channel(Report::default());
        let thread = std::thread::spawn(move || {
            told.send_replace(Report::default());
        });
        thread.join().unwrap();
        next(&mut reports).await;
        let _ = tokio::time::timeout(Duration::from_secs(30), next(&mut reports)).await;
    }

    #[test]
    fn what_goes_on_is_told_once_a_minute() {
        let (mut told, begin) = (Told::default(), Instant::now());
        assert_eq!(told.news(0, begin), None);
        assert_eq!(told.news(3, begin), Some(3));
        assert_eq!(told.news(5, begin + Duration::from_secs(59)), None);
        assert_eq!(told.news(5, begin + TOLD_EVERY), Some(2));
        assert_eq!(told.news(5, begin + 2 * TOLD_EVERY), None);
    }
}
