//! Health checks: whether this node's own server works, asked again and again.
//!
//! ```text
//!  one task per check                          the daemon
//!  ask ─ time-out ─► Outcome ──(queue)──► Checks: rise, fall ─► Fitness: all reasons ─► Command::Healthy
//!   ▲                   │
//!   └── interval, less a little chance ┘
//! ```
//!
//! The tasks only ask. What their answers mean is decided in two values without a clock: [`Checks`] holds the
//! verdict on each check, [`Fitness`] everything that makes this node unhealthy. What the cluster does about it is the
//! protocol's business (R6): a node that is unhealthy stays a member without buckets, and health that fails everywhere
//! changes nothing.
//!
//! Before its first verdict, a check counts as failing: a node must not take buckets before it is known that it can
//! serve them. The first answer decides by itself, whichever it is, so that this takes no longer than `timeout`.

mod body;
mod dns;
mod exec;
mod fitness;
mod http;
mod link;
mod tcp;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rudel_api::config::{Check, Health, format_duration};
use rudel_api::snapshot::HealthCheck;
use rudel_api::timestamp::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

pub use fitness::Fitness;

/// Outcomes that may wait for the daemon; a check whose outcome does not fit waits with its next question.
const OUTCOMES_MAX: usize = 64;
/// The interval is shortened by up to one part in so many, so that checks do not march in step: those of several nodes
/// may ask one and the same server behind them. Shortened and not lengthened, so that `interval x fall` holds.
const JITTER_PART: u32 = 10;
/// What is said of a check before its first answer.
const NOT_CHECKED: &str = "not checked yet";
/// What a failure says, in bytes at most.
const ERROR_LEN_MAX: usize = 200;

/// What one asking came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The check, by its place in the configuration.
    pub check: usize,
    /// Good, or why not.
    pub result: Result<(), String>,
}

/// Checks that run, until this is dropped. A program that runs for one of them is killed then.
#[derive(Debug)]
pub struct Running {
    _tasks: JoinSet<()>,
}

/// Starts all checks on the runtime that this is called in.
pub fn start(checks: &[Health], node: &str) -> (Running, mpsc::Receiver<Outcome>) {
    let (sender, outcomes) = mpsc::channel(OUTCOMES_MAX);
    let mut tasks = JoinSet::new();
    for (index, check) in checks.iter().enumerate() {
        tasks.spawn(ask_for_ever(index, check.clone(), node.to_owned(), sender.clone()));
    }
    (Running { _tasks: tasks }, outcomes)
}

async fn ask_for_ever(index: usize, health: Health, node: String, outcomes: mpsc::Sender<Outcome>) {
    let mut probe = Probe::new(&health, &node);
    loop {
        let begin = Instant::now();
        let result = match timeout(health.timeout, probe.ask()).await {
            Ok(result) => result.map_err(|error| shorten(&error)),
            Err(_) => Err(probe.too_late(health.timeout)),
        };
        // Nobody listens any more: the daemon ends.
        if outcomes.send(Outcome { check: index, result }).await.is_err() {
            return;
        }
        sleep_until(begin + jittered(health.interval, chance())).await;
    }
}

/// The interval, shortened by its part of chance.
fn jittered(interval: Duration, chance: u8) -> Duration {
    interval - interval / JITTER_PART * u32::from(chance) / u32::from(u8::MAX)
}

fn chance() -> u8 {
    let mut byte = [0];
    // Without chance the checks are in step, which is no fault of theirs.
    let _ = getrandom(&mut byte, GetRandomFlags::NONBLOCK);
    byte[0]
}

/// One way of asking.
enum Probe {
    Http(http::Http),
    Tcp(tcp::Tcp),
    Dns(dns::Dns),
    Exec(exec::Exec),
    Link(link::Link),
}

impl Probe {
    fn new(health: &Health, node: &str) -> Self {
        match &health.check {
            Check::Http(target) => Probe::Http(http::Http::new(target)),
            Check::Tcp(server) => Probe::Tcp(tcp::Tcp::new(*server)),
            Check::Dns(target) => Probe::Dns(dns::Dns::new(target)),
            Check::Exec(command) => Probe::Exec(exec::Exec::new(command, node, &health.name)),
            Check::Link(interface) => Probe::Link(link::Link::new(interface.as_str())),
        }
    }

    /// Asks once. To drop the future is to give up; nothing that was begun for it goes on, but a single blocking call
    /// may, and is waited for before the next.
    async fn ask(&mut self) -> Result<(), String> {
        match self {
            Probe::Http(http) => http.ask().await,
            Probe::Tcp(tcp) => tcp.ask().await,
            Probe::Dns(dns) => dns.ask().await,
            Probe::Exec(exec) => exec.ask().await,
            Probe::Link(link) => link.ask().await,
        }
    }

    fn too_late(&self, timeout: Duration) -> String {
        let timeout = format_duration(timeout);
        match self {
            Probe::Exec(_) => format!("still running after {timeout}: killed"),
            _ => format!("no answer within {timeout}"),
        }
    }
}

/// One blocking call at a time, on the runtime's pool of threads. One that hangs beyond its asker's time-out is not
/// joined by another: the next asker waits for it, and takes its result.
struct Blocking<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Blocking<T> {
    const fn new() -> Self {
        Blocking(None)
    }

    async fn run(&mut self, call: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let running = self.0.get_or_insert_with(|| spawn_blocking(call));
        let result = running.await;
        self.0 = None;
        result.map_err(|error| error.to_string())
    }
}

/// An error in as few words as say it: the number of a well-known one says nothing more.
fn words(error: &io::Error) -> String {
    match error.kind() {
        kind @ (io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::PermissionDenied) => kind.to_string(),
        _ => error.to_string(),
    }
}

/// One line of bounded length that can be shown on any terminal.
fn shorten(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned();
    if line.len() > ERROR_LEN_MAX {
        let end = (0..=ERROR_LEN_MAX).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Turns a row of answers into a verdict that does not change with every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hysteresis {
    rise: u16,
    fall: u16,
    verdict: Option<bool>,
    /// Answers in a row that speak against the verdict.
    against: u16,
}

impl Hysteresis {
    /// `rise` good answers in a row make it good, `fall` bad ones make it bad; the first answer decides by itself.
    pub const fn new(rise: u16, fall: u16) -> Self {
        Hysteresis { rise, fall, verdict: None, against: 0 }
    }

    /// Takes an answer in; returns the verdict if it is another than before.
    pub fn hear(&mut self, good: bool) -> Option<bool> {
        let needed = match self.verdict {
            Some(verdict) if verdict == good => {
                self.against = 0;
                return None;
            }
            Some(true) => self.fall,
            Some(false) => self.rise,
            None => 1,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.verdict = Some(good);
        self.verdict
    }

    /// The verdict; `None` before the first answer.
    pub const fn verdict(&self) -> Option<bool> {
        self.verdict
    }
}

/// A verdict that has just been found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The check's name.
    pub name: String,
    /// Whether it is the first one on this check.
    pub first: bool,
    /// Why the check is bad; `None` if it is good.
    pub error: Option<String>,
}

/// What is known of all checks.
#[derive(Clone, Debug)]
pub struct Checks {
    known: Vec<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    name: String,
    hysteresis: Hysteresis,
    since: Timestamp,
    last_error: Option<String>,
}

impl Checks {
    /// Nothing is known of them yet.
    pub fn new(checks: &[Health], now: Timestamp) -> Self {
        let known = |health: &Health| Known {
            name: health.name.clone(),
            hysteresis: Hysteresis::new(health.rise, health.fall),
            since: now,
            last_error: Some(NOT_CHECKED.to_owned()),
        };
        Checks { known: checks.iter().map(known).collect() }
    }

    /// The verdicts so far, by name; none of a check that was not answered yet.
    pub fn verdicts(&self) -> BTreeMap<String, bool> {
        let verdict = |known: &Known| Some((known.name.clone(), known.hysteresis.verdict()?));
        self.known.iter().filter_map(verdict).collect()
    }

    /// Goes on with a predecessor's verdicts: what was good stays good until the answers say otherwise.
    pub fn assume(&mut self, verdicts: &BTreeMap<String, bool>) {
        for known in &mut self.known {
            if let Some(good) = verdicts.get(&known.name) {
                known.hysteresis.verdict = Some(*good);
                known.last_error = (!good).then(|| "it failed before the daemon was restarted".to_owned());
            }
        }
    }

    /// Takes an outcome in; returns the verdict if it is another than before.
    pub fn hear(&mut self, outcome: Outcome, now: Timestamp) -> Option<Verdict> {
        let known = self.known.get_mut(outcome.check)?;
        let first = known.hysteresis.verdict().is_none();
        let good = outcome.result.is_ok();
        let verdict = known.hysteresis.hear(good);
        if let Err(error) = outcome.result {
            tracing::debug!(check = %known.name, %error, "a health check failed");
            known.last_error = Some(error);
        }
        let good = verdict?;
        known.since = now;
        if good {
            known.last_error = None;
        }
        Some(Verdict { name: known.name.clone(), first, error: known.last_error.clone() })
    }

    /// What is wrong with each check; `None` with one that is good.
    pub fn wrong(&self) -> impl Iterator<Item = Option<String>> {
        self.known.iter().map(|known| match known.hysteresis.verdict() {
            Some(true) => None,
            _ => Some(format!("{}: {}", known.name, known.last_error.as_deref().unwrap_or(NOT_CHECKED))),
        })
    }

    /// As the snapshot tells them. `last_error` of a good check is from a failure that did not suffice to make it bad.
    pub fn snapshot(&self) -> Vec<HealthCheck> {
        let one = |known: &Known| HealthCheck {
            name: known.name.clone(),
            ok: known.hysteresis.verdict() == Some(true),
            since: known.since,
            last_error: known.last_error.clone(),
        };
        self.known.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(name: &str, check: Check) -> Health {
        Health {
            name: name.to_owned(),
            check,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
        }
    }

    /// The verdicts that a row of answers leads to, `+` good, `-` bad; `.` for none.
    fn verdicts(hysteresis: &mut Hysteresis, answers: &str) -> String {
        answers
            .chars()
            .map(|answer| match hysteresis.hear(answer == '+') {
                Some(true) => '+',
                Some(false) => '-',
                None => '.',
            })
            .collect()
    }

    #[test]
    fn the_first_answer_decides_and_then_rise_and_fall_do() {
        let mut good = Hysteresis::new(2, 3);
        assert_eq!(good.verdict(), None);
        assert_eq!(verdicts(&mut good, "+--+---"), "+.....-");
        assert_eq!(verdicts(&mut good, "-+-++"), "....+");
        let mut bad = Hysteresis::new(2, 3);
        assert_eq!(verdicts(&mut bad, "-+-+-++--+---"), "-.....+.....-");
        let mut nervous = Hysteresis::new(1, 1);
        assert_eq!(verdicts(&mut nervous, "+-+--"), "+-+-.");
    }

    #[test]
    fn a_verdict_takes_all_the_answers_that_it_was_told_to_take() {
        for (rise, fall) in [(1, 1), (1, 100), (100, 1), (7, 3)] {
            let mut hysteresis = Hysteresis::new(rise, fall);
            assert_eq!(hysteresis.hear(true), Some(true));
            for n in 1..fall {
                assert_eq!(hysteresis.hear(false), None, "{n} of {fall}");
            }
            assert_eq!(hysteresis.hear(false), Some(false));
            for n in 1..rise {
                assert_eq!(hysteresis.hear(true), None, "{n} of {rise}");
            }
            assert_eq!(hysteresis.hear(true), Some(true));
        }
    }

    #[test]
    fn the_interval_is_only_ever_shortened_and_by_a_tenth_at_most() {
        let interval = Duration::from_secs(1);
        assert_eq!(jittered(interval, 0), interval);
        assert_eq!(jittered(interval, u8::MAX), Duration::from_millis(900));
        assert!(
            (0..=u8::MAX)
                .all(|chance| (Duration::from_millis(900)..=interval).contains(&jittered(interval, chance)))
        );
        assert!(jittered(Duration::from_secs(3600), u8::MAX) > Duration::from_secs(3200));
    }

    #[test]
    fn a_check_is_bad_until_it_was_good_once_and_says_why() {
        let at = |second| Timestamp::from(std::time::UNIX_EPOCH + Duration::from_secs(second));
        let tcp = || Check::Tcp("192.0.2.10:80".parse().unwrap());
        let mut checks = Checks::new(&[health("web", tcp()), health("mail", tcp())], at(0));
        let seen = |checks: &Checks| {
            let all = checks.snapshot();
            all.into_iter().map(|c| (c.ok, c.since, c.last_error.unwrap_or_default())).collect::<Vec<_>>()
        };
        let wrong = |checks: &Checks| checks.wrong().map(Option::unwrap_or_default).collect::<Vec<_>>();
        assert_eq!(wrong(&checks), ["web: not checked yet", "mail: not checked yet"]);
        let unknown = (false, at(0), NOT_CHECKED.to_owned());
        assert_eq!(seen(&checks), [unknown.clone(), unknown]);

        let good = |check| Outcome { check, result: Ok(()) };
        let bad = |check, why: &str| Outcome { check, result: Err(why.to_owned()) };
        let verdict = checks.hear(good(0), at(1)).unwrap();
        assert_eq!((verdict.name.as_str(), verdict.first, verdict.error), ("web", true, None));
        let verdict = checks.hear(bad(1, "HTTP 503"), at(2)).unwrap();
        assert_eq!((verdict.name.as_str(), verdict.first), ("mail", true));
        assert_eq!(verdict.error.as_deref(), Some("HTTP 503"));

        assert_eq!(wrong(&checks), ["", "mail: HTTP 503"]);

        assert_eq!(checks.hear(bad(0, "HTTP 500"), at(3)), None);
        assert_eq!(seen(&checks)[0], (true, at(1), "HTTP 500".to_owned()), "one failure does not suffice");
        assert_eq!(checks.hear(bad(0, "HTTP 501"), at(4)), None);
        let verdict = checks.hear(bad(0, "HTTP 502"), at(5)).unwrap();
        assert_eq!((verdict.first, verdict.error.as_deref()), (false, Some("HTTP 502")));
        assert_eq!(checks.hear(bad(0, "HTTP 504"), at(6)), None);
        assert_eq!(seen(&checks)[0], (false, at(5), "HTTP 504".to_owned()), "the last error, the first time");
        assert_eq!(checks.hear(good(0), at(7)), None);
        assert_eq!(checks.hear(good(0), at(8)).unwrap().error, None);
        assert_eq!(seen(&checks)[0], (true, at(8), String::new()));
    }

    #[test]
    fn what_a_failure_says_is_one_short_line() {
        assert_eq!(shorten(" a\tb\n\u{1b}[31m "), "a b  [31m");
        let long = shorten(&"ä".repeat(1000));
        assert!(long.len() <= ERROR_LEN_MAX + '…'.len_utf8() && long.ends_with("ä…"), "{long}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn checks_are_asked_again_and_again_and_do_not_wait_for_each_other() {
        // One server never answers, the other one does.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("http://{}/", silent.local_addr().unwrap());
        let fast = |name, check| Health {
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(50),
            ..health(name, check)
        };
        let checks = [
            fast("silent", Check::Http(target.parse().unwrap())),
            fast("listening", Check::Tcp(silent.local_addr().unwrap())),
        ];
        let (running, mut outcomes) = start(&checks, "n1");
        let (mut good, mut late) = (0, 0);
        while good < 3 || late < 3 {
            let next = timeout(Duration::from_secs(20), outcomes.recv()).await.expect("outcomes go on");
            match next.unwrap() {
                Outcome { check: 1, result: Ok(()) } => good += 1,
                Outcome { check: 0, result: Err(error) } => {
                    assert_eq!(error, "no answer within 50ms");
                    late += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        drop(running);
        while outcomes.recv().await.is_some() {}
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_blocking_call_that_hangs_is_waited_for_and_not_joined_by_another() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let mut blocking = Blocking::new();
        let hang = blocking.run(move || {
            let _ = held.recv();
            1
        });
        assert!(timeout(Duration::from_millis(20), hang).await.is_err());
        assert!(timeout(Duration::from_millis(20), blocking.run(|| 2)).await.is_err(), "still the first");
        release.send(()).unwrap();
        assert_eq!(blocking.run(|| 3).await, Ok(1));
        assert_eq!(blocking.run(|| 4).await, Ok(4));
    }
}
