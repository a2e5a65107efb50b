//! Breaking one node of a running cluster, and what its clients notice of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::probe::{Lane, Plan, Prober, Question, Report};
use crate::{Lab, Owners, VIP4, client};

/// What befalls a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The daemon, and what watches over it, dies by SIGKILL. The kernel and the servers go on.
    KillDaemon,
    /// The daemon, and what watches over it, is stopped by SIGSTOP and runs no further instruction.
    StopDaemon,
    /// The cable is pulled. Nobody dies.
    Unplug,
    /// The power is cut: cable, processes and memory are gone at once.
    PowerOff,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::KillDaemon, Self::StopDaemon, Self::Unplug, Self::PowerOff];

    /// Inflicts it.
    pub fn inflict(self, lab: &mut Lab, victim: &str) -> Result<()> {
        match self {
            Self::KillDaemon => lab.node_mut(victim).kill_daemon(),
            Self::StopDaemon => lab.node_mut(victim).daemon().signal_all(libc::SIGSTOP)?,
            Self::Unplug => lab.set_link(victim, false)?,
            Self::PowerOff => lab.power_off(victim)?,
        }
        Ok(())
    }

    /// Mends it, as an administrator would.
    pub fn mend(self, lab: &mut Lab, victim: &str) -> Result<()> {
        match self {
            Self::KillDaemon => lab.node_mut(victim).start_daemon(),
            Self::StopDaemon => Ok(lab.node_mut(victim).daemon().signal_all(libc::SIGCONT)?),
            Self::Unplug => lab.set_link(victim, true),
            Self::PowerOff => lab.power_on(victim),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub struct Failover {
    /// Who owned what before.
    pub before: Owners,
    /// Who owns what among the survivors.
    pub after: Owners,
    /// When the fault began and when it was complete.
    pub inflicted: (Instant, Instant),
    /// From the fault until the survivors were at rest.
    pub at_rest: Duration,
    /// What clients of the victim's buckets saw from before the fault until after the rest.
    pub report: Report,
}

impl Failover {
    /// How long new connections to the victim's buckets were not accepted.
    pub fn outage(&self) -> Duration {
        self.report.outage()
    }
}

/// Sources on the first client whose connections `node` answers, whatever their port: for clusters that hash the source
/// address alone.
pub fn sources_of(lab: &Lab, node: &str, count: usize) -> Result<Vec<SocketAddr>> {
    let candidates: Vec<SocketAddr> =
        (0..=255).map(|host| SocketAddr::new(lab.client().source(VIP4, 9, host), 0)).collect();
    let target = SocketAddr::new(VIP4, 80);
    let mut found = Vec::new();
    for some in candidates.chunks(32) {
        let answers = lab.client().run(|| {
            client::in_parallel(some, 8, |source| client::http_get(*source, target, Duration::from_secs(3)))
        })?;
        for (source, answer) in some.iter().zip(answers) {
            if answer.with_context(|| format!("asking from {source}"))?.node == node {
                found.push(*source);
            }
        }
        if found.len() >= count {
            found.truncate(count);
            return Ok(found);
        }
    }
    bail!("only {} of 256 addresses are served by {node}", found.len())
}

/// Inflicts a fault on a node of a cluster at rest that hashes by `source-ip`, while clients of its buckets open a new
/// connection every two milliseconds, and waits until the survivors are at rest.
pub fn measure(lab: &mut Lab, all: &[&str], victim: &str, fault: Fault) -> Result<Failover> {
    let before = lab.wait_at_rest(all)?;
    let lanes = sources_of(lab, victim, 2)?
        .into_iter()
        .map(|source| Lane { question: Question::Http, source, target: SocketAddr::new(VIP4, 80) })
        .collect();
    let prober = Prober::start(lab.client().namespace(), Plan::new(lanes));
    // Some answers from before, to measure against.
    prober.wait_answers(100)?;
    let begin = Instant::now();
    fault.inflict(lab, victim)?;
    let end = Instant::now();
    let survivors: Vec<&str> = all.iter().copied().filter(|name| *name != victim).collect();
    let after = lab.wait_at_rest(&survivors)?;
    let at_rest = begin.elapsed();
    // Some answers from after.
    prober.wait_answers(100)?;
    let report = prober.finish()?;
    Ok(Failover { before, after, inflicted: (begin, end), at_rest, report })
}
