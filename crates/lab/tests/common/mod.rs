//! What the end-to-end tests share.

// Each test binary uses some of it.
#![allow(dead_code, reason = "every test binary compiles this file and uses its own part of it")]

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rudel_lab::probe::{Audit, Lane, Plan, Prober, Question, Tally};
use rudel_lab::service::LASTING_PORT;
use rudel_lab::session::{Session, Sessions};
use rudel_lab::{Lab, Settings, VIP4, VIP6, client, store};

/// The right to run a lab: one at a time on a machine, as root. `None`, said aloud, if the test has to be skipped.
pub(crate) fn root() -> Option<impl Drop> {
    if !rudel_lab::is_root() {
        skip("a lab makes network namespaces, which needs root");
        return None;
    }
    let serial = store::one_at_a_time().expect("the lock of the labs");
    for name in store::collect_garbage().expect("removing what killed tests have left") {
        say(&format!("removed the lab {name}, whose owner is dead"));
    }
    Some(serial)
}

/// Says why a test does not run, where the test runner does not swallow it.
pub(crate) fn skip(reason: &str) {
    say(&format!("SKIPPED: {reason}"));
}

/// Prints a line of its own past the test runner's capture, which may have begun one.
pub(crate) fn say(line: &str) {
    let test = std::thread::current().name().unwrap_or("").to_owned();
    let _ = writeln!(std::io::stderr(), "\n{line} ({test})");
}

pub(crate) fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A running cluster of `nodes`, at rest and answering.
pub(crate) fn cluster(nodes: usize, settings: Settings) -> Lab {
    let mut lab = Lab::builder().nodes(nodes).settings(settings).build().expect("a lab");
    if let Err(error) = lab.start() {
        // The panic makes the lab print its logs.
        panic!("the cluster does not start: {error:#}");
    }
    lab
}

/// Which node answers a new HTTP connection.
pub(crate) fn http(lab: &Lab, source: SocketAddr, target: SocketAddr) -> String {
    https(lab, &[(source, target)]).pop().expect("one answer")
}

/// Which node answers each of several new HTTP connections, asked a few at a time.
pub(crate) fn https(lab: &Lab, flows: &[(SocketAddr, SocketAddr)]) -> Vec<String> {
    ask_all(lab, flows, |source, target| client::http_get(source, target, second(3)))
}

/// Which node answers each of several DNS queries.
pub(crate) fn dns(lab: &Lab, flows: &[(SocketAddr, SocketAddr)]) -> Vec<String> {
    ask_all(lab, flows, |source, target| client::dns_query(source, target, 1, second(3)))
}

fn ask_all(
    lab: &Lab,
    flows: &[(SocketAddr, SocketAddr)],
    ask: impl Fn(SocketAddr, SocketAddr) -> std::io::Result<client::Answer> + Sync,
) -> Vec<String> {
    let answers = lab
        .client()
        .run(|| client::in_parallel(flows, 8, |(source, target)| ask(*source, *target)))
        .expect("in the client");
    flows
        .iter()
        .zip(answers)
        .map(|((source, target), answer)| match answer {
            Ok(answer) => answer.node,
            Err(error) => panic!("{source} -> {target}: {error}"),
        })
        .collect()
}

pub(crate) fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Long-lived connections of both families to be opened, each from a port of its own from `port` on.
pub(crate) fn lasting(lab: &Lab, port: u16, count: u16) -> Vec<(SocketAddr, SocketAddr)> {
    (0..count)
        .map(|i| {
            let vip = if i.is_multiple_of(2) { VIP4 } else { VIP6 };
            let host = u8::try_from(i % 250).expect("below 250");
            (at(lab.client().source(vip, 5, host), port + i), at(vip, LASTING_PORT))
        })
        .collect()
}

/// Connections that are open and answered, and are asked on ten times a second.
pub(crate) fn sessions(lab: &Lab, flows: &[(SocketAddr, SocketAddr)]) -> Sessions {
    let sessions = Sessions::start(lab.client().namespace(), flows, ms(100));
    sessions.wait_rounds(3).expect("connections that are answered");
    sessions
}

/// Which of them were lost, and how.
pub(crate) fn lost(ended: &[Session]) -> Vec<String> {
    let lost = |s: &Session| {
        let (why, after) = s.lost.as_ref()?;
        Some(format!("{} -> {} at {}: {why} after {after:?}", s.source, s.target, s.node))
    };
    ended.iter().filter_map(lost).collect()
}

/// Ends them, after they have been answered for some rounds more; none may have been lost.
pub(crate) fn assert_none_lost(sessions: Sessions) -> Vec<Session> {
    sessions.wait_rounds(5).expect("answers afterwards");
    let ended = sessions.finish().expect("sessions");
    let slowest = ended.iter().map(|s| s.slowest).max().unwrap_or_default();
    let lost = lost(&ended);
    say(&format!("{} connections, {} lost, slowest answer {slowest:?}", ended.len(), lost.len()));
    assert!(lost.is_empty(), "{} lost:\n{}", lost.len(), lost.join("\n"));
    ended
}

/// New HTTP connections of both families from 64 addresses, one every two milliseconds.
pub(crate) fn prober(lab: &Lab) -> Prober {
    let lane = |index: u8| {
        let vip = if index.is_multiple_of(2) { VIP4 } else { VIP6 };
        let source = at(lab.client().source(vip, 3, index), 0);
        Lane { question: Question::Http, source, target: at(vip, 80) }
    };
    Prober::start(lab.client().namespace(), Plan::new((0..64).map(lane).collect()))
}

/// What 256 flows of DNS queries get for answers while `story` happens: a thousand queries a second.
pub(crate) fn audited<T>(lab: &mut Lab, story: impl FnOnce(&mut Lab) -> T) -> (T, Tally) {
    let audit = Audit {
        sources: (0..=255).map(|host| at(lab.client().source(VIP4, 2, host), 5000)).collect(),
        target: at(VIP4, 53),
        rounds: u16::MAX,
        round: ms(250),
        grace: ms(500),
    };
    let (namespace, stop) = (lab.client().namespace().clone(), AtomicBool::new(false));
    /// A story that panics must not leave the auditor counting.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let auditor = scope.spawn(|| audit.run(&namespace, &stop));
        let told = {
            let _stop = Stop(&stop);
            story(lab)
        };
        let tally = auditor.join().expect("the auditor does not panic").expect("a tally");
        (told, tally)
    })
}

/// Views by epoch, one of each node: equal before and after if nothing has happened in between.
pub(crate) fn epochs(lab: &Lab, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| lab.node(name).status().expect("a status").view().0).collect()
}
