//! The README's first command: what a cluster promises, shown with real traffic and measured from the client.
//!
//! Every check is made from what the client saw or from what the nodes say; the numbers are printed as they come, and one
//! broken promise makes the exit code 1.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rudel_lab::probe::{Audit, Lane, Plan, Prober, Question, Report};
use rudel_lab::service::LASTING_PORT;
use rudel_lab::session::{Session, Sessions};
use rudel_lab::status::{self, Owners};
use rudel_lab::{Lab, VIP4, VIP6, client, store};

use crate::screen::{Screen, human, percent};

/// How far the flows that a node answers may be from its share of the buckets.
const TOLERANCE: f64 = 0.05;
/// How long an outage may be, in units of the timeout after which a node is given up. The protocol needs one and two
/// exchanges of messages; the rest is for a busy machine.
const OUTAGE_TIMEOUTS_MAX: u32 = 2;
/// Long-lived connections that are held while things change.
const OPEN_CONNECTIONS: u16 = 20;
/// Answers that make a moment of undisturbed traffic, to compare with: 700 ms of it.
const MOMENT: usize = 350;

pub(crate) fn run() -> Result<ExitCode> {
    let _serial = store::one_at_a_time()?;
    store::collect_garbage()?;
    let mut demo = Demo::build()?;
    match demo.play() {
        Ok(()) => {}
        Err(error) => {
            demo.screen.check(false, format!("the demonstration went to its end: {error:#}"));
            eprintln!("{}", demo.lab.last_words());
        }
    }
    let begin = Instant::now();
    let Demo { lab, screen, started, .. } = demo;
    drop(lab);
    let kept = screen.summary();
    screen.tell(format!(
        "{} in all; namespaces, processes and files are gone again ({})",
        human(started.elapsed()),
        human(begin.elapsed())
    ));
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Demo {
    lab: Lab,
    screen: Screen,
    started: Instant,
}

impl Demo {
    fn build() -> Result<Self> {
        let (screen, started) = (Screen::new(), Instant::now());
        // Better now than in the middle of the show.
        rudel_lab::rudeld().and(rudel_lab::rudel())?;
        screen.heading("rudel: one address, several machines, no load balancer");
        let lab = Lab::builder().nodes(3).build()?;
        screen.tell(format!(
            "a switch, a client and three nodes, each in a network namespace of its own ({})",
            human(started.elapsed())
        ));
        Ok(Self { lab, screen, started })
    }

    fn play(&mut self) -> Result<()> {
        let begin = Instant::now();
        self.lab.start()?;
        self.screen.tell(format!(
            "rudeld, nginx and dnsmasq run on n1, n2 and n3, and are one cluster ({})",
            human(begin.elapsed())
        ));
        let timeout = self.lab.settings().timeout;
        self.screen.tell(format!(
            "all serve {VIP4} and {VIP6}; a node is given up after {} of silence",
            human(timeout)
        ));
        self.share()?;
        self.lose("n2")?;
        let open = self.open_connections(1)?;
        self.screen.tell(format!(
            "{OPEN_CONNECTIONS} connections are opened to n1 and n3, stay open and are used ten times a second until step 5"
        ));
        self.bring_back("n2")?;
        self.add()?;
        self.let_go("n1", open)
    }

    /// The load is shared, every flow by one node.
    fn share(&mut self) -> Result<()> {
        self.screen.heading("1. The load is shared");
        let owners = self.lab.wait_at_rest(&["n1", "n2", "n3"])?;
        let buckets = status::counts(&owners);
        let mut columns = Vec::new();
        for vip in [VIP4, VIP6] {
            columns.push((format!("HTTP {}", family(vip)), http_flows(&self.lab, vip)?));
        }
        let mut repeated = 0;
        let mut unanswered = 0;
        let mut scattered = 0;
        for vip in [VIP4, VIP6] {
            let tally = dns_audit(&self.lab, vip)?;
            repeated += tally.repeated.len();
            unanswered += tally.unanswered;
            scattered += tally.flows.iter().filter(|nodes| nodes.len() > 1).count();
            let flows = tally.flows.iter().filter_map(|nodes| nodes.first().cloned()).collect();
            columns.push((format!("DNS {}", family(vip)), flows));
        }
        let flows: usize = columns.iter().map(|(_, nodes)| nodes.len()).sum();
        self.screen
            .tell(format!("{flows} flows from 256 addresses; which node answered, in percent of the flows:"));
        let mut worst = 0.0_f64;
        let headings: String = columns.iter().map(|(name, _)| format!("{name:>10}")).collect();
        self.screen.note(format!("node  buckets     share{headings}"));
        for (node, count) in &buckets {
            let share = *count as f64 / owners.len() as f64;
            let mut cells = String::new();
            for (_, nodes) in &columns {
                let part = nodes.iter().filter(|n| *n == node).count() as f64 / nodes.len().max(1) as f64;
                worst = worst.max((part - share).abs());
                cells += &format!("{:>10}", percent(part));
            }
            let bar = self.screen.bar(share, self.screen.room(69).min(24));
            self.screen.note(format!("{node:<5} {count:>7} {:>9}{cells}  {bar}", percent(share)));
        }
        self.screen.check(
            worst <= TOLERANCE,
            format!(
                "every node answers its share of flows (at most {} off; {} allowed)",
                points(worst),
                points(TOLERANCE)
            ),
        );
        self.screen.check(
            repeated + unanswered + scattered == 0,
            format!(
                "every query had exactly one answer, every flow one node ({repeated} answered twice, \
                 {unanswered} not at all, {scattered} flows at two nodes)"
            ),
        );
        Ok(())
    }

    /// A node dies as if its power was cut.
    fn lose(&mut self, victim: &str) -> Result<()> {
        self.screen.heading(format!(
            "2. {victim} dies: cable and power are cut at once, every process killed with -9"
        ));
        let before = self.lab.wait_at_rest(&["n1", "n2", "n3"])?;
        let open = self.open_connections(0)?;
        let prober = self.probe();
        prober.wait_answers(MOMENT)?;
        let cut = Instant::now();
        self.lab.power_off(victim)?;
        let dead = Instant::now();
        let after = self.lab.wait_at_rest(&["n1", "n3"])?;
        let at_rest = cut.elapsed();
        prober.wait_answers(MOMENT)?;
        let report = prober.finish()?;
        open.wait_rounds(3)?;
        let open = open.finish()?;
        let outage = report.hurt_since(cut);
        let limit = self.lab.settings().timeout * OUTAGE_TIMEOUTS_MAX;
        self.connections(&report);
        self.screen.tell(format!("the survivors had shared its buckets after {}", human(at_rest)));
        self.screen.check(
            outage <= limit,
            format!(
                "new connections to its buckets waited for {}; after that none did ({} allowed)",
                human(outage),
                human(limit)
            ),
        );
        // What was under way on the dying machine went down with it.
        let (lost, failed): (Vec<_>, Vec<_>) = report.failed().into_iter().partition(|r| r.start <= dead);
        self.screen.check(
            failed.is_empty(),
            format!(
                "none opened after its death failed ({} that were open on it died with it; {} failed)",
                lost.len(),
                failed.len()
            ),
        );
        self.cut_off(&open, victim);
        self.moves(&before, &after, status::only_moved_from(&before, &after, victim, &["n1", "n3"]));
        Ok(())
    }

    fn bring_back(&mut self, name: &str) -> Result<()> {
        self.screen.heading(format!("3. {name} boots again"));
        let before = self.lab.wait_at_rest(&["n1", "n3"])?;
        let prober = self.probe();
        let begin = Instant::now();
        self.lab.power_on(name)?;
        let after = self.lab.wait_at_rest(&["n1", "n2", "n3"])?;
        let at_rest = begin.elapsed();
        prober.wait_answers(MOMENT)?;
        let report = prober.finish()?;
        self.connections(&report);
        self.screen.check(
            report.failed().is_empty(),
            format!("it has its share again after {}, without a failed connection", human(at_rest)),
        );
        self.moves(&before, &after, status::only_moved_to(&before, &after, name, &["n1", "n2", "n3"]));
        Ok(())
    }

    fn add(&mut self) -> Result<()> {
        self.screen.heading("4. A fourth node joins");
        let before = self.lab.wait_at_rest(&["n1", "n2", "n3"])?;
        let prober = self.probe();
        let begin = Instant::now();
        let node = self.lab.add_node()?;
        node.start_services()?;
        node.start_daemon()?;
        let after = self.lab.wait_at_rest(&["n1", "n2", "n3", "n4"])?;
        let at_rest = begin.elapsed();
        prober.wait_answers(MOMENT)?;
        let report = prober.finish()?;
        self.connections(&report);
        let answered = report.per_node().get("n4").copied().unwrap_or(0);
        self.screen.check(
            report.failed().is_empty() && answered > 0,
            format!("it serves after {}, without a failed connection", human(at_rest)),
        );
        self.moves(&before, &after, status::only_moved_to(&before, &after, "n4", &["n1", "n2", "n3", "n4"]));
        Ok(())
    }

    fn let_go(&mut self, name: &str, open: Sessions) -> Result<()> {
        self.screen.heading(format!(
            "5. {name} leaves: its daemon is stopped, hands its buckets over, and serves its open connections to their end"
        ));
        let before = self.lab.wait_at_rest(&["n1", "n2", "n3", "n4"])?;
        let prober = self.probe();
        prober.wait_answers(MOMENT)?;
        let begin = Instant::now();
        self.lab.node_mut(name).daemon().signal(libc::SIGTERM)?;
        let after = self.lab.wait_at_rest(&["n2", "n3", "n4"])?;
        let handed_over = begin.elapsed();
        prober.wait_answers(MOMENT)?;
        let report = prober.finish()?;
        self.connections(&report);
        self.screen.check(
            report.failed().is_empty(),
            format!(
                "its buckets were handed over after {}, without a failed connection; the slowest took {}",
                human(handed_over),
                human(report.slowest())
            ),
        );

        // It stays as long as it is needed, and no longer.
        open.wait_rounds(10)?;
        let early = self.lab.node_mut(name).daemon().try_wait();
        let waited = begin.elapsed();
        let (answers, open) = (open.answers(), open.finish()?);
        let closed = Instant::now();
        let status = self.lab.node_mut(name).daemon().wait(Duration::from_secs(20))?;
        let of_leaver = open.iter().filter(|session| session.node == name).count();
        self.lost(&open, |_| true);
        self.screen.check(
            open.iter().all(|session| session.lost.is_none()),
            format!(
                "none of {} connections held open from step 3 on broke, in {answers} answers; {name} had {of_leaver} of them",
                open.len()
            ),
        );
        self.screen.check(
            early.is_none() && status.success(),
            format!(
                "{name} served its {of_leaver} for {} more, until they were closed, and was gone {} later ({status})",
                human(waited),
                human(closed.elapsed())
            ),
        );
        let kept = status::only_moved_from(&before, &after, name, &["n2", "n3", "n4"]);
        self.moves(&before, &after, kept);
        Ok(())
    }

    /// Connections over IPv4 and IPv6 that stay open and are used ten times a second. Each `batch` has ports of its own.
    fn open_connections(&self, batch: u16) -> Result<Sessions> {
        let flows: Vec<_> = (0..OPEN_CONNECTIONS)
            .map(|index| {
                let vip = if index.is_multiple_of(2) { VIP4 } else { VIP6 };
                let source = self.lab.client().source(vip, 3, 1);
                let port = 30_000 + batch * OPEN_CONNECTIONS + index;
                (SocketAddr::new(source, port), SocketAddr::new(vip, LASTING_PORT))
            })
            .collect();
        let open = Sessions::start(self.lab.client().namespace(), &flows, Duration::from_millis(100));
        open.wait_rounds(3)?;
        Ok(open)
    }

    /// What a sudden death does to open connections: those of the dead are reset, and no others.
    fn cut_off(&mut self, open: &[Session], victim: &str) {
        let reset = |session: &Session| session.lost.as_ref().is_some_and(|(why, _)| why.contains("reset"));
        let of_victim = open.iter().filter(|session| session.node == victim).count();
        let of_victim_reset = open.iter().filter(|session| session.node == victim && reset(session)).count();
        let others_lost =
            open.iter().filter(|session| session.node != victim && session.lost.is_some()).count();
        self.lost(open, |session| session.node != victim || !reset(session));
        self.screen.check(
            of_victim_reset == of_victim && others_lost == 0,
            format!(
                "of {} connections held open {victim} had {of_victim}: {of_victim_reset} were reset, so that their \
                 clients know; of the others {others_lost} broke",
                open.len()
            ),
        );
    }

    /// Names the first few lost connections of a kind.
    fn lost(&self, open: &[Session], kind: impl Fn(&Session) -> bool) {
        for session in open.iter().filter(|session| session.lost.is_some() && kind(session)).take(8) {
            let why = session.lost.as_ref().map_or("", |(why, _)| why);
            self.screen.tell(format!("{} -> {} at {}: {why}", session.source, session.target, session.node));
        }
    }

    /// New HTTP connections over IPv4 and IPv6 from many addresses, one every two milliseconds.
    fn probe(&self) -> Prober {
        let lane = |index: u8| {
            let vip = if index.is_multiple_of(2) { VIP4 } else { VIP6 };
            Lane {
                question: Question::Http,
                source: SocketAddr::new(self.lab.client().source(vip, 2, index), 0),
                target: SocketAddr::new(vip, 80),
            }
        };
        Prober::start(self.lab.client().namespace(), Plan::new((0..64).map(lane).collect()))
    }

    fn connections(&self, report: &Report) {
        let nodes: Vec<String> = report.per_node().iter().map(|(n, count)| format!("{n} {count}")).collect();
        self.screen.tell(format!(
            "{} new connections, one every 2 ms: {} failed, {} waited for a repeated SYN; median {}, slowest {}",
            report.total(),
            report.failed().len(),
            report.delayed().len(),
            human(report.quantile(0.5)),
            human(report.slowest()),
        ));
        self.screen.tell(format!("answered by {}", nodes.join(", ")));
        if !report.failed().is_empty() {
            self.screen.tell(report.failures());
        }
    }

    fn moves(&mut self, before: &Owners, after: &Owners, verdict: Result<(), String>) {
        let moved = before.iter().zip(after).filter(|(old, new)| old != new).count();
        let shares: Vec<String> =
            status::counts(after).iter().map(|(n, count)| format!("{n} {count}")).collect();
        let problem = verdict.as_ref().err().map(|e| format!(": {e}")).unwrap_or_default();
        self.screen.check(
            verdict.is_ok(),
            format!(
                "{moved} of 256 buckets moved, no other, and shares are even: {}{problem}",
                shares.join(", ")
            ),
        );
    }
}

fn family(vip: IpAddr) -> &'static str {
    if vip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn points(share: f64) -> String {
    format!("{:.1} points", share * 100.0)
}

/// Eight new connections from each of 256 addresses; the node that answered each.
fn http_flows(lab: &Lab, vip: IpAddr) -> Result<Vec<String>> {
    let mut sources = Vec::new();
    for _ in 0..8 {
        sources.extend((0..=255).map(|host| SocketAddr::new(lab.client().source(vip, 1, host), 0)));
    }
    let target = SocketAddr::new(vip, 80);
    let answers = lab.client().run(|| {
        client::in_parallel(&sources, 8, |source| client::http_get(*source, target, Duration::from_secs(5)))
    })?;
    let nodes = answers.into_iter().map(|answer| answer.map(|a| a.node));
    nodes.collect::<Result<_, _>>().with_context(|| format!("asking {target}"))
}

/// Eight flows from each of 256 addresses, each of three queries; counts every answer.
fn dns_audit(lab: &Lab, vip: IpAddr) -> Result<rudel_lab::probe::Tally> {
    let mut sources = Vec::new();
    for port in 5001..5009 {
        sources.extend((0..=255).map(|host| SocketAddr::new(lab.client().source(vip, 1, host), port)));
    }
    let audit = Audit {
        sources,
        target: SocketAddr::new(vip, 53),
        rounds: 3,
        round: Duration::from_millis(300),
        grace: Duration::from_millis(300),
    };
    audit.run(lab.client().namespace(), &AtomicBool::new(false))
}
