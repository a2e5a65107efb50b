//! What happens when a node fails in the ways that nodes fail.
//!
//! ```text
//!    n1        n2 ✗      n3       n2: daemon killed, daemon stopped, cable pulled, power cut
//!    │         │         │
//!  ──┴─────────┴── br0 ──┴──
//!                   │
//!                   c1            opens a connection every 2 ms
//! ```

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{at, cluster, ms, root, say};
use rudel_lab::failover::{self, Fault};
use rudel_lab::probe::{Audit, Lane, Plan, Prober, Question, quantile};
use rudel_lab::{Lab, Settings, VIP4, VIP6, status};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
const SURVIVORS: [&str; 2] = ["n1", "n3"];

fn by_source_ip() -> Settings {
    Settings { hash: "source-ip".to_owned(), ..Settings::default() }
}

/// The survivors take the dead node's buckets, evenly, and nothing else moves; the mended node gets its share back.
fn survive(fault: Fault) {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, by_source_ip());
    let failover = failover::measure(&mut lab, &ALL, "n2", fault).expect("the survivors go on");
    status::only_moved_from(&failover.before, &failover.after, "n2", &SURVIVORS).expect("least movement");

    // A busy machine adds to what the protocol needs, but not by seconds.
    let limit = 2 * lab.settings().timeout + ms(200);
    let outage = failover.outage();
    say(&format!("{fault:?}: outage {outage:?}, at rest after {:?}", failover.at_rest));
    assert!(outage <= limit, "{outage:?} without service: {}", failover.report.failures());
    let (lease_over, in_flight) = match fault {
        // The kernel serves on until the lease ends, and cuts off what is half done at that instant.
        Fault::KillDaemon | Fault::StopDaemon => (failover.inflicted.1 + lab.settings().timeout, 3),
        Fault::Unplug | Fault::PowerOff => (failover.inflicted.1, 0),
    };
    let failed: Vec<_> =
        failover.report.failed().into_iter().filter(|r| r.start > failover.inflicted.1).collect();
    assert!(
        failed.len() <= in_flight && failed.iter().all(|r| r.start <= lease_over),
        "connections failed after the fault: {}",
        failover.report.failures()
    );

    fault.mend(&mut lab, "n2").expect("mended");
    lab.wait_at_rest(&ALL).expect("n2 is back with its share");
    lab.wait_answering().expect("answers");
    let sources = failover::sources_of(&lab, "n2", 4).expect("n2 serves again");
    assert_eq!(sources.len(), 4);
}

#[test]
fn a_killed_daemon() {
    survive(Fault::KillDaemon);
}

#[test]
fn a_stopped_daemon() {
    survive(Fault::StopDaemon);
}

#[test]
fn a_pulled_cable() {
    survive(Fault::Unplug);
}

#[test]
fn a_lost_machine() {
    survive(Fault::PowerOff);
}

#[test]
fn the_coordinator_is_no_special_loss() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, by_source_ip());
    let coordinator = lab.node("n1").status().expect("a status").view().1.to_owned();
    let survivors: Vec<&str> = ALL.into_iter().filter(|n| *n != coordinator).collect();
    let failover =
        failover::measure(&mut lab, &ALL, &coordinator, Fault::PowerOff).expect("the others go on");
    status::only_moved_from(&failover.before, &failover.after, &coordinator, &survivors)
        .expect("least movement");
}

#[test]
fn two_losses_at_once() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(4, Settings::default());
    let before = lab.wait_at_rest(&["n1", "n2", "n3", "n4"]).expect("at rest");
    lab.set_link("n2", false).expect("unplugged");
    lab.set_link("n4", false).expect("unplugged");
    let after = lab.wait_at_rest(&SURVIVORS).expect("two are left");
    for (bucket, (old, new)) in before.iter().zip(&after).enumerate() {
        let lost = matches!(old.as_deref(), Some("n2" | "n4"));
        assert!(lost || old == new, "bucket {bucket} moved from {old:?} to {new:?} for no reason");
    }
}

#[test]
fn fast_timers_make_short_outages() {
    let Some(_serial) = root() else { return };
    let settings = Settings { timeout: ms(40), interval: Some(ms(10)), ..by_source_ip() };
    let mut lab = cluster(3, settings);
    let mut outages = Vec::new();
    for _ in 0..10 {
        let failover =
            failover::measure(&mut lab, &ALL, "n2", Fault::KillDaemon).expect("the survivors go on");
        outages.push(failover.outage());
        Fault::KillDaemon.mend(&mut lab, "n2").expect("mended");
    }
    let median = quantile(outages.clone(), 0.5);
    say(&format!("ten kills, outages {outages:?}, median {median:?}"));
    assert!(median < ms(100), "median {median:?} of {outages:?}");
}

/// The lease in the kernel: without an instruction of the daemon, its node falls silent before others take over.
#[test]
fn a_stopped_node_is_silent_after_its_lease_and_nobody_answers_twice() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let timeout = lab.settings().timeout;
    let lane = |index: u8| {
        let vip = if index.is_multiple_of(2) { VIP4 } else { VIP6 };
        let (question, port) = if index < 32 { (Question::Http, 80) } else { (Question::Dns, 53) };
        Lane { question, source: at(lab.client().source(vip, 1, index), 0), target: at(vip, port) }
    };
    let prober = Prober::start(lab.client().namespace(), Plan::new((0..64).map(lane).collect()));
    let audit = Audit {
        sources: (0..=255).map(|h| SocketAddr::new(lab.client().source(VIP4, 2, h), 5000)).collect(),
        target: at(VIP4, 53),
        rounds: u16::MAX,
        round: ms(250),
        grace: ms(500),
    };
    let (namespace, stop) = (lab.client().namespace().clone(), AtomicBool::new(false));
    let (stopped, continued, tally) = std::thread::scope(|scope| {
        let auditor = scope.spawn(|| audit.run(&namespace, &stop));
        let times = stop_and_continue(&mut lab, &prober);
        stop.store(true, Ordering::Relaxed);
        let tally = auditor.join().expect("the auditor does not panic").expect("a tally");
        let (stopped, continued) = times.expect("the survivors go on, and n2 comes back");
        (stopped, continued, tally)
    });
    let report = prober.finish().expect("a report");

    let of_n2 = |from: Instant, until: Instant| {
        let answered = report.records.iter().filter(|r| r.outcome.as_deref() == Ok("n2"));
        answered.filter(|r| r.start >= from && r.start < until).count()
    };
    let begin = report.records.first().expect("something was asked").start;
    assert!(of_n2(begin, stopped) > 0, "n2 served before");
    assert_eq!(of_n2(stopped + timeout, continued), 0, "n2 answered after its lease");
    assert!(of_n2(continued, continued + Duration::from_secs(60)) > 0, "n2 serves again");
    assert_eq!(tally.repeated, [], "answered twice, of {} queries", tally.sent);
    let n2 = tally.answered.get("n2").copied().unwrap_or(0);
    assert!(n2 > 0 && tally.unanswered < tally.sent / 2, "{} of {} unanswered", tally.unanswered, tally.sent);
}

fn stop_and_continue(lab: &mut Lab, prober: &Prober) -> anyhow::Result<(Instant, Instant)> {
    // Some traffic in the undisturbed cluster, to compare with.
    prober.wait_answers(150)?;
    lab.node_mut("n2").daemon().signal_all(libc::SIGSTOP)?;
    let stopped = Instant::now();
    lab.wait_at_rest(&SURVIVORS)?;
    // Silence has to last: all this is asked while n2 must not answer.
    prober.wait_questions(500)?;
    let continued = Instant::now();
    lab.node_mut("n2").daemon().signal_all(libc::SIGCONT)?;
    lab.wait_at_rest(&ALL)?;
    prober.wait_answers(150)?;
    Ok((stopped, continued))
}
