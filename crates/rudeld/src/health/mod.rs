//! Health checks: whether this node's own server works, asked again and again.
//!
//! ```text
//!  one task per check                          the daemon
//!  ask ─ time-out ─► Outcome ──(queue)──► Checks: rise, fall ─► Fitness: all reasons ─► Word, to the protocol
//!   ▲                   │                                                                  │
//!   ├── interval, less a little chance                                                     │
//!   └── an examination ◄──────────────── called by the cluster (R6.5) ◄────────────────────┘
//! ```
//!
//! The tasks only ask. What their answers mean is decided in two values without a clock: [`Checks`] holds the
//! verdict on each check, [`Fitness`] everything that makes this node unhealthy. What the cluster does about it is the
//! protocol's business (R6): a node that is unhealthy stays a member without buckets, and health that fails everywhere
//! changes nothing. To tell the two apart, the protocol calls examinations: all checks are asked at once, out of turn.
//! Such an answer says how things are and makes no verdict: two answers within a moment are not `fall` in a row.
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
use rudel_proto::text::one_line;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

pub use fitness::{Fitness, Word};

/// Outcomes that may wait for the daemon; a check whose outcome does not fit waits with its next question.
const OUTCOMES_MAX: usize = 64;
/// The interval is shortened by up to one part in so many, so that checks do not march in step: those of several nodes
/// may ask one and the same server behind them. Shortened and not lengthened, so that `interval x fall` holds.
const JITTER_PART: u32 = 10;
/// A question out of turn begins at least this part of the interval after the one before, so that nodes whose verdicts
/// change again and again do not make a check a burden.
const OUT_OF_TURN_PART: u32 = 10;
/// What is said of a check before its first answer.
const NOT_CHECKED: &str = "not checked yet";
/// What a failure says, in bytes at most.
const ERROR_LEN_MAX: usize = 200;

/// What one asking came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The check, by the number that it has been given.
    pub check: usize,
    /// Good, or why not.
    pub result: Result<(), String>,
    /// Whether it was asked in its turn: only then does it count for a verdict.
    pub regular: bool,
    /// The last examination that had been called when it was asked; 0 for none.
    pub examination: u32,
}

/// Checks that run, until this is dropped. A program that runs for one of them is killed then.
#[derive(Debug)]
pub struct Running {
    node: String,
    outcomes: mpsc::Sender<Outcome>,
    /// One task in each, which ends with it.
    tasks: BTreeMap<usize, JoinSet<()>>,
    examination: watch::Sender<u32>,
}

/// Starts all checks on the runtime that this is called in.
pub fn start(checks: &Checks, node: &str) -> (Running, mpsc::Receiver<Outcome>) {
    let (sender, outcomes) = mpsc::channel(OUTCOMES_MAX);
    let (examination, _) = watch::channel(0);
    let mut running =
        Running { node: node.to_owned(), outcomes: sender, tasks: BTreeMap::new(), examination };
    running.follow(checks);
    (running, outcomes)
}

impl Running {
    /// Has all checks asked as soon as may be, if this examination is another than the last.
    pub fn examine(&self, number: u32) {
        self.examination.send_if_modified(|last| std::mem::replace(last, number) != number);
    }

    /// Starts the checks that are new, and ends those that are there no more.
    pub fn follow(&mut self, checks: &Checks) {
        self.tasks.retain(|number, _| checks.known.iter().any(|known| known.number == *number));
        for known in &checks.known {
            self.tasks.entry(known.number).or_insert_with(|| {
                let mut task = JoinSet::new();
                let (health, node) = (known.health.clone(), self.node.clone());
                let called = self.examination.subscribe();
                task.spawn(ask_for_ever(known.number, health, node, called, self.outcomes.clone()));
                task
            });
        }
    }
}

async fn ask_for_ever(
    index: usize,
    health: Health,
    node: String,
    mut called: watch::Receiver<u32>,
    outcomes: mpsc::Sender<Outcome>,
) {
    let mut probe = Probe::new(&health, &node);
    let mut due = Instant::now();
    let mut out_of_turn_at = due;
    loop {
        let begin = Instant::now();
        let regular = begin >= due;
        if regular {
            due = begin + jittered(health.interval, chance());
        } else {
            out_of_turn_at = begin + health.interval / OUT_OF_TURN_PART;
        }
        let examination = *called.borrow_and_update();
        let result = match timeout(health.timeout, probe.ask()).await {
            Ok(result) => result.map_err(|error| one_line(&error, ERROR_LEN_MAX)),
            Err(_) => Err(probe.too_late(health.timeout)),
        };
        // Nobody listens any more: the daemon ends.
        if outcomes.send(Outcome { check: index, result, regular, examination }).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep_until(due) => {}
            Ok(()) = called.changed() => {
                sleep_until(due.min(out_of_turn_at)).await;
            }
        }
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

    /// From now on it takes so many; what has been heard counts.
    pub const fn set(&mut self, rise: u16, fall: u16) {
        self.rise = rise;
        self.fall = fall;
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
    /// In the order of the configuration.
    known: Vec<Known>,
    /// The examination that was called last.
    examination: u32,
    /// Numbers are given once: what was asked of a check that is gone must not count for another.
    next_number: usize,
}

#[derive(Clone, Debug)]
struct Known {
    number: usize,
    health: Health,
    /// What it counts as before its first answer. One that is added while the node may be serving harms nobody yet, and
    /// cures nobody of what one of its name has found.
    assumed: bool,
    hysteresis: Hysteresis,
    since: Timestamp,
    last_error: Option<String>,
    last_good: bool,
    /// The last examination that it has answered.
    answered: u32,
}

impl Checks {
    /// Nothing is known of them yet.
    pub fn new(checks: &[Health], now: Timestamp) -> Self {
        let known = checks
            .iter()
            .enumerate()
            .map(|(number, health)| Known::new(number, health, now, false))
            .collect();
        Checks { known, next_number: checks.len(), examination: 0 }
    }

    /// The configuration has other checks now. One that asks the same as before goes on as it is, with what it has
    /// found; one that is new makes the node unhealthy only when it has been answered, and one that asks something else
    /// than before counts as that did until then.
    pub fn change(&mut self, checks: &[Health], now: Timestamp) {
        let mut before = std::mem::take(&mut self.known);
        let verdicts: BTreeMap<String, bool> =
            before.iter().map(|known| (known.health.name.clone(), known.is_good())).collect();
        for health in checks {
            let asks_the_same = |known: &Known| {
                let Health { name, check, interval, timeout, rise: _, fall: _ } = &known.health;
                (name, check, interval, timeout)
                    == (&health.name, &health.check, &health.interval, &health.timeout)
            };
            let known = match before.iter().position(asks_the_same) {
                Some(index) => {
                    let mut known = before.swap_remove(index);
                    known.hysteresis.set(health.rise, health.fall);
                    known.health = health.clone();
                    known
                }
                None => {
                    self.next_number += 1;
                    let assumed = verdicts.get(&health.name).is_none_or(|good| *good);
                    Known::new(self.next_number - 1, health, now, assumed)
                }
            };
            self.known.push(known);
        }
    }

    /// An examination has been called.
    pub fn examine(&mut self, number: u32) {
        self.examination = number;
    }

    /// The verdict on all of them; bad before the first answers.
    pub fn good(&self) -> bool {
        self.known.iter().all(Known::is_good)
    }

    /// Whether the last answer of none was bad.
    pub fn last_good(&self) -> bool {
        self.known.iter().all(|known| known.last_good)
    }

    /// The last examination that all of them have answered; of no check at all, the last that was called.
    pub fn answered(&self) -> u32 {
        self.known.iter().map(|known| known.answered).min().unwrap_or(self.examination)
    }

    /// The verdicts so far, by name; none of a check that was not answered yet.
    pub fn verdicts(&self) -> BTreeMap<String, bool> {
        let verdict = |known: &Known| Some((known.health.name.clone(), known.hysteresis.verdict()?));
        self.known.iter().filter_map(verdict).collect()
    }

    /// Goes on with a predecessor's verdicts: what was good stays good until the answers say otherwise.
    pub fn assume(&mut self, verdicts: &BTreeMap<String, bool>) {
        for known in &mut self.known {
            if let Some(good) = verdicts.get(&known.health.name) {
                known.hysteresis.verdict = Some(*good);
                known.last_error = (!good).then(|| "it failed before the daemon was restarted".to_owned());
            }
        }
    }

    /// Takes an outcome in; returns the verdict if it is another than before.
    pub fn hear(&mut self, outcome: Outcome, now: Timestamp) -> Option<Verdict> {
        let known = self.known.iter_mut().find(|known| known.number == outcome.check)?;
        let first = known.hysteresis.verdict().is_none();
        let good = outcome.result.is_ok();
        known.last_good = good;
        known.answered = known.answered.max(outcome.examination);
        let verdict = if outcome.regular { known.hysteresis.hear(good) } else { None };
        if let Err(error) = outcome.result {
            tracing::debug!(check = %known.health.name, %error, "a health check failed");
            known.last_error = Some(error);
        }
        let good = verdict?;
        known.since = now;
        if good {
            known.last_error = None;
        }
        Some(Verdict { name: known.health.name.clone(), first, error: known.last_error.clone() })
    }

    /// What is wrong with each check; `None` with one that is good.
    pub fn wrong(&self) -> impl Iterator<Item = Option<String>> {
        self.known.iter().map(|known| {
            let error = known.last_error.as_deref().unwrap_or(NOT_CHECKED);
            (!known.is_good()).then(|| format!("{}: {error}", known.health.name))
        })
    }

    /// As the snapshot tells them. `last_error` of a good check is from a failure that did not suffice to make it bad.
    pub fn snapshot(&self) -> Vec<HealthCheck> {
        let one = |known: &Known| HealthCheck {
            name: known.health.name.clone(),
            ok: known.is_good(),
            since: known.since,
            last_error: known.last_error.clone(),
        };
        self.known.iter().map(one).collect()
    }
}

impl Known {
    fn new(number: usize, health: &Health, now: Timestamp, assumed: bool) -> Self {
        Known {
            number,
            health: health.clone(),
            assumed,
            hysteresis: Hysteresis::new(health.rise, health.fall),
            since: now,
            last_error: Some(NOT_CHECKED.to_owned()),
            // No answer is no bad one: whoever has a share does not lose it before it has been asked.
            last_good: true,
            answered: 0,
        }
    }

    fn is_good(&self) -> bool {
        self.hysteresis.verdict().unwrap_or(self.assumed)
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

    /// A regular answer, bad if it says why.
    fn answer(check: usize, why: &str) -> Outcome {
        let result = if why.is_empty() { Ok(()) } else { Err(why.to_owned()) };
        Outcome { check, result, regular: true, examination: 0 }
    }

    #[test]
    fn an_answer_out_of_turn_says_how_things_are_and_makes_no_verdict() {
        let now = Timestamp::now();
        let tcp = || Check::Tcp("192.0.2.10:80".parse().unwrap());
        let mut checks = Checks::new(&[health("web", tcp()), health("mail", tcp())], now);
        let out_of_turn =
            |check, why, examination| Outcome { regular: false, examination, ..answer(check, why) };
        let seen = |checks: &Checks| (checks.good(), checks.last_good(), checks.answered());
        assert_eq!(seen(&checks), (false, true, 0), "not good, but no answer was bad");
        assert_eq!(checks.hear(out_of_turn(0, "", 1), now), None);
        checks.hear(answer(0, ""), now);
        checks.hear(answer(1, ""), now);
        assert_eq!(seen(&checks), (true, true, 0), "mail has not been examined");
        for _ in 0..10 {
            assert_eq!(checks.hear(out_of_turn(1, "no", 2), now), None);
        }
        assert_eq!(seen(&checks), (true, false, 1), "each has answered the first, only mail the second");
        checks.hear(out_of_turn(0, "", 2), now);
        assert_eq!(seen(&checks), (true, false, 2));
        checks.hear(answer(1, ""), now);
        assert_eq!(seen(&checks), (true, true, 2), "an answer that was asked for earlier takes nothing back");
        // A regular failure does count, whatever was answered in between.
        for n in 1..=3 {
            assert_eq!(checks.hear(answer(1, "no"), now).is_some(), n == 3);
            checks.hear(out_of_turn(1, "", 2), now);
        }
        assert_eq!(seen(&checks), (false, true, 2));

        let mut none = Checks::new(&[], now);
        none.examine(7);
        assert_eq!(seen(&none), (true, true, 7));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_examination_has_every_check_asked_at_once_and_does_not_shift_its_turn() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = || Check::Tcp(server.local_addr().unwrap());
        let rare = |name| Health { interval: Duration::from_secs(3), ..health(name, tcp()) };
        let (running, mut outcomes) = start(&Checks::new(&[rare("a"), rare("b")], Timestamp::now()), "n1");
        let mut both = async || {
            let mut both = Vec::new();
            for _ in 0..2 {
                let next = timeout(Duration::from_secs(60), outcomes.recv()).await.expect("in time").unwrap();
                assert_eq!(next.result, Ok(()));
                both.push((next.check, next.regular, next.examination));
            }
            both.sort_unstable();
            both
        };
        assert_eq!(both().await, [(0, true, 0), (1, true, 0)]);
        running.examine(1);
        running.examine(1);
        let first = Instant::now();
        assert_eq!(both().await, [(0, false, 1), (1, false, 1)], "at once, and once");
        running.examine(2);
        running.examine(3);
        assert_eq!(both().await, [(0, false, 3), (1, false, 3)], "one answer does for both");
        let spacing = Duration::from_millis(300);
        assert!(first.elapsed() + Duration::from_millis(20) >= spacing, "not more often than that");
        assert_eq!(both().await, [(0, true, 3), (1, true, 3)]);
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

        let good = |check| answer(check, "");
        let bad = answer;
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
    fn an_unchanged_check_keeps_what_it_has_found_and_an_added_one_harms_nobody_before_its_answer() {
        let at = |second| Timestamp::from(std::time::UNIX_EPOCH + Duration::from_secs(second));
        let tcp = |port: u16| Check::Tcp(([192, 0, 2, 10], port).into());
        let (web, mail) = (health("web", tcp(80)), health("mail", tcp(25)));
        let mut checks = Checks::new(&[web.clone(), mail], at(0));
        let good = |check| answer(check, "");
        let bad = |check| answer(check, "refused");
        checks.hear(bad(0), at(1));
        checks.hear(good(1), at(1));

        // `mail` goes, `dns` comes before `web`, which needs fewer good answers than before.
        let patient = Health { rise: 1, ..web.clone() };
        checks.change(&[health("dns", tcp(53)), patient.clone()], at(2));
        let seen = |checks: &Checks| -> Vec<_> {
            checks.snapshot().into_iter().map(|c| (c.name, c.ok, c.since)).collect()
        };
        assert_eq!(seen(&checks), [("dns".to_owned(), true, at(2)), ("web".to_owned(), false, at(1))]);
        let wrong = |checks: &Checks| checks.wrong().flatten().collect::<Vec<_>>();
        assert_eq!(wrong(&checks), ["web: refused"]);
        assert_eq!(checks.hear(bad(1), at(3)), None, "an answer to a question of `mail`");
        assert_eq!(checks.hear(good(0), at(3)).map(|verdict| verdict.name).as_deref(), Some("web"));
        assert_eq!(wrong(&checks), [""; 0]);
        let first = checks.hear(bad(2), at(4)).unwrap();
        assert_eq!((first.name.as_str(), first.first), ("dns", true), "the first answer decides");
        assert_eq!(wrong(&checks), ["dns: refused"]);

        // A check of the same name that asks something else is another one, which cures nobody before it was asked.
        assert!(!checks.good());
        checks.change(&[health("dns", tcp(54)), patient], at(5));
        assert_eq!(wrong(&checks), ["dns: not checked yet"]);
        assert!(!checks.good());
        assert_eq!(checks.hear(good(2), at(6)), None, "an answer to the question before");
        assert_eq!(checks.hear(good(3), at(6)).map(|verdict| verdict.first), Some(true));
        assert!(checks.good());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_check_that_goes_is_asked_no_more_and_one_that_stays_is_not_started_again() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let fast = |name| Health {
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(50),
            ..health(name, Check::Tcp(server.local_addr().unwrap()))
        };
        let mut checks = Checks::new(&[fast("goes"), fast("stays")], Timestamp::now());
        let (mut running, mut outcomes) = start(&checks, "n1");
        checks.change(&[fast("stays"), fast("comes")], Timestamp::now());
        running.follow(&checks);
        let numbers: Vec<usize> = running.tasks.keys().copied().collect();
        assert_eq!(numbers, [1, 2]);
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            let next = timeout(Duration::from_secs(20), outcomes.recv()).await.expect("outcomes go on");
            let number = next.unwrap().check;
            if number != 0 {
                seen.insert(number);
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_failure_says_is_one_short_line() {
        let script = "printf '\\033]0;title\\007\\033[2Jgone %0500d' 1 >&2; exit 1".to_owned();
        let check = Check::Exec(rudel_api::config::CommandLine {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script],
        });
        let slow = Health {
            timeout: Duration::from_secs(20),
            interval: Duration::from_secs(60),
            ..health("x", check)
        };
        let (_running, mut outcomes) = start(&Checks::new(&[slow], Timestamp::now()), "n1");
        let error = outcomes.recv().await.unwrap().result.unwrap_err();
        assert!(error.starts_with("]0;title  [2Jgone 000"), "{error:?}");
        assert!(error.len() <= ERROR_LEN_MAX && !error.contains(char::is_control), "{error:?}");
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
        let (running, mut outcomes) = start(&Checks::new(&checks, Timestamp::now()), "n1");
        let (mut good, mut late) = (0, 0);
        while good < 3 || late < 3 {
            let next = timeout(Duration::from_secs(20), outcomes.recv()).await.expect("outcomes go on");
            match next.unwrap() {
                Outcome { check: 1, result: Ok(()), .. } => good += 1,
                Outcome { check: 0, result: Err(error), .. } => {
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
