//! What routers that share their connections cost and lose: many flows, a crash in the middle, and planned changes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use rudel_lab::failover::Fault;
use rudel_lab::probe::quantile;
use rudel_lab::router::Router;
use rudel_lab::traffic::{Echoes, Kind, Lane, Outcome, Traffic};
use rudel_lab::{Lab, Settings, wait_until};

use crate::screen::{Screen, human};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 9200;
/// Hosts outside, so that no bucket runs out of ports.
const DESTINATIONS: u32 = 64;
/// Flows that are known before anything happens.
pub(super) const KNOWN: u32 = 100_000;
/// New flows in a second, and for how long.
pub(super) const RATE: u32 = 5_000;
pub(super) const SPAN: Duration = Duration::from_secs(30);
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The first direction of a flow, as the host inside sends it.
type Ends = (SocketAddrV4, SocketAddrV4);

/// What can be measured of routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// How long the network and TCP wait at each failure, by time-out
    Failures,
    /// How long anything waits at planned changes
    Planned,
    /// What is not known of 100,000 flows and 5,000 new ones a second when the power is cut
    Crash,
    /// What telling another router of connections costs, beside conntrackd
    Conntrackd,
    /// What the pulse thread pays for telling the rest of the daemon what it knows
    Reports,
}

pub(super) fn run(screen: &Screen, only: Option<Part>) -> Result<()> {
    for part in [Part::Failures, Part::Planned, Part::Crash, Part::Conntrackd, Part::Reports] {
        if only.is_none_or(|only| only == part) {
            match part {
                Part::Failures => failures(screen)?,
                Part::Planned => planned(screen)?,
                Part::Crash => crash(screen)?,
                Part::Conntrackd => super::conntrackd::run(screen)?,
                Part::Reports => reports(screen)?,
            }
        }
    }
    Ok(())
}

fn lab() -> Result<Lab> {
    lab_of(true, Duration::from_millis(400))
}

fn lab_of(nat: bool, timeout: Duration) -> Result<Lab> {
    let nat = if nat { "address = \"10.74.0.10\"\ninside = [\"10.0.0.0/8\"]\n" } else { "" };
    let router = Router { nat: nat.to_owned(), sync: true, ..Router::default() };
    let settings =
        Settings { hash: "source-ip-port".to_owned(), router: Some(router), timeout, ..Settings::default() };
    let mut lab = Lab::builder().nodes(3).settings(settings).build()?;
    lab.start()?;
    // Who starts has its share when it knows the others' connections: the moves of the start are not what is measured.
    wait_until(PATIENCE, "all to know all connections", || {
        let knows = |node: &&str| sync(&lab, node).is_ok_and(|sync| sync["synced"] == true);
        if ALL.iter().all(knows) { Ok(()) } else { Err("not yet".to_owned()) }
    })?;
    lab.wait_at_rest(&ALL)?;
    Ok(lab)
}

/// What breaks a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Of(Fault),
    UnplugInside,
}

impl Blow {
    const fn name(self) -> &'static str {
        match self {
            Blow::Of(Fault::KillDaemon) => "kill -9, parent too",
            Blow::Of(Fault::StopDaemon) => "SIGSTOP",
            Blow::Of(Fault::Unplug) => "cable outside",
            Blow::UnplugInside => "cable inside",
            Blow::Of(Fault::PowerOff) => "power cut",
        }
    }
}

/// How long the network is away at each failure, as datagrams every millisecond see it, and how long streams wait: those
/// that waited for more than half as long as the network.
fn failures(screen: &Screen) -> Result<()> {
    const VICTIM: &str = "n2";
    screen.heading("Longest wait through three routers: 12 UDP flows, a datagram each millisecond; 48 streams, 1 kB each 20 ms");
    screen.note("timeout  NAT  failure               network   streams: struck   median     most   lost   beside it: UDP  stream");
    let blows = [
        Blow::Of(Fault::PowerOff),
        Blow::Of(Fault::StopDaemon),
        Blow::Of(Fault::KillDaemon),
        Blow::Of(Fault::Unplug),
        Blow::UnplugInside,
    ];
    for (timeout_ms, nat) in
        [(100, true), (150, true), (200, true), (300, true), (400, true), (500, true), (400, false)]
    {
        let mut lab = lab_of(nat, Duration::from_millis(timeout_ms))?;
        let (_echoes, traffic) = traffic(&lab, 12, 1, 48)?;
        for blow in blows {
            settle(&traffic);
            match blow {
                Blow::Of(fault) => fault.inflict(&mut lab, VICTIM)?,
                Blow::UnplugInside => lab.set_backbone_link(VICTIM, false)?,
            }
            // All that was struck has begun to wait, and ends within this time: the third try of TCP is after 1.4 s.
            std::thread::sleep(Duration::from_secs(3));
            let outcomes = traffic.take();
            match blow {
                Blow::Of(fault) => fault.mend(&mut lab, VICTIM)?,
                Blow::UnplugInside => lab.set_backbone_link(VICTIM, true)?,
            }
            lab.wait_at_rest(&ALL)?;
            let waits = |is_stream: bool, control: bool| -> Vec<Duration> {
                let of = outcomes.iter().filter(|outcome| {
                    (outcome.lane.kind != Kind::Datagrams) == is_stream
                        && is_control(&lab, outcome) == control
                });
                of.map(|outcome| outcome.longest).collect()
            };
            let network = quantile(waits(false, false), 1.0);
            let struck: Vec<Duration> =
                waits(true, false).into_iter().filter(|wait| *wait > network / 2).collect();
            let lost = outcomes.iter().filter(|outcome| outcome.lost.is_some()).count();
            screen.note(format!(
                "{timeout_ms:>4} ms  {:<3}  {:<20} {:>8}            {:>5} {:>8} {:>8}  {lost:>5}        {:>8} {:>8}",
                if nat { "yes" } else { "no" },
                blow.name(),
                human(network),
                struck.len(),
                human(quantile(struck.clone(), 0.5)),
                human(quantile(struck.clone(), 1.0)),
                human(quantile(waits(false, true), 1.0)),
                human(quantile(waits(true, true), 1.0)),
            ));
        }
        traffic.finish()?;
    }
    Ok(())
}

/// What is under way has nothing more to wait for.
fn settle(traffic: &Traffic) {
    std::thread::sleep(Duration::from_secs(1));
    traffic.take();
}

/// Datagrams every so many milliseconds and streams of a kilobyte every 20 ms through the cluster; and of each some that pass no
/// cluster, beside them, from a host to itself: what those wait for is the machine.
fn traffic(lab: &Lab, datagrams: u16, every_ms: u64, streams: u16) -> Result<([Echoes; 2], Traffic)> {
    let target = SocketAddr::from(([10, 100, 0, 1], PORT));
    let host = lab.host_behind("h1");
    let control = SocketAddr::new(host.address(target.ip()), PORT);
    let echoes =
        [Echoes::start(lab.client().namespace(), &[target])?, Echoes::start(host.namespace(), &[control])?];
    let lanes = |first: u16, count: u16, kind: Kind, every_ms: u64| {
        let lane = move |index: u16, target: SocketAddr| {
            let source = SocketAddr::new(host.source(target.ip(), first + index), 0);
            Lane { kind, source, target, every: Duration::from_millis(every_ms) }
        };
        let through = (0..count).map(move |index| lane(index, target));
        through.chain((0..count.div_ceil(4)).map(move |index| lane(500 + index, control)))
    };
    let lanes: Vec<Lane> = lanes(1000, streams, Kind::Stream(1024), 20)
        .chain(lanes(3000, datagrams, Kind::Datagrams, every_ms))
        .collect();
    let traffic = Traffic::start(host.namespace(), &lanes);
    traffic.wait_flowing()?;
    Ok((echoes, traffic))
}

/// Whether it passes no cluster.
fn is_control(lab: &Lab, outcome: &Outcome) -> bool {
    let target = outcome.lane.target.ip();
    target == lab.host_behind("h1").address(target)
}

/// How long streams and datagrams wait at planned changes, beside how long they wait when nothing happens, and beside what passes
/// no cluster at all.
fn planned(screen: &Screen) -> Result<()> {
    screen.heading("Longest wait of 50 streams and 50 UDP flows through three routers, translated, and of 26 beside them");
    screen.note(
        "what              streams   p50      p99     most   datagrams  p50      p99     most  missing   beside it p99     most   move",
    );
    let mut lab = lab()?;
    let (_echoes, traffic) = traffic(&lab, 50, 5, 50)?;
    // Of each kind of change all waits: of what went through the cluster, and of what went beside it.
    let mut by_kind: Vec<(String, [Vec<Duration>; 2])> = Vec::new();
    let mut told = |lab: &Lab, what: &str| -> Result<()> {
        // What has begun to wait ends within this time, and what waits for nothing has a time to compare with.
        std::thread::sleep(Duration::from_secs(3));
        let outcomes = traffic.take();
        let lost = outcomes.iter().filter(|outcome| outcome.lost.is_some()).count();
        ensure!(lost == 0, "{what}: {lost} lost");
        let of = |wanted: &dyn Fn(&Outcome) -> bool, shares: &[f64]| {
            let of = outcomes.iter().filter(|outcome| wanted(outcome));
            let waits: Vec<Duration> = of.map(|outcome| outcome.longest).collect();
            let words = shares.iter().map(|share| format!("{:>8}", human(quantile(waits.clone(), *share))));
            words.collect::<Vec<_>>().join(" ")
        };
        let is_stream = |outcome: &Outcome| outcome.lane.kind != Kind::Datagrams;
        let missing: u64 = outcomes.iter().map(|outcome| outcome.missing).sum();
        let kind = what.split_whitespace().next().unwrap_or_default();
        if by_kind.iter().all(|(name, _)| name != kind) {
            by_kind.push((kind.to_owned(), Default::default()));
        }
        if let Some((_, waits)) = by_kind.iter_mut().find(|(name, _)| name == kind) {
            outcomes
                .iter()
                .for_each(|outcome| waits[usize::from(is_control(lab, outcome))].push(outcome.longest));
        }
        let all = [0.5, 0.99, 1.0];
        // One that has just left tells nothing.
        let moves = ALL.iter().filter_map(|node| sync(lab, node).ok()?["move_max_us"].as_u64());
        screen.note(format!(
            "{what:<22} {}            {} {missing:>8}      {} {:>6} us",
            of(&|outcome| is_stream(outcome) && !is_control(lab, outcome), &all),
            of(&|outcome| !is_stream(outcome) && !is_control(lab, outcome), &all),
            of(&|outcome| is_control(lab, outcome), &all[1..]),
            moves.max().unwrap_or(0),
        ));
        Ok(())
    };
    let owns = |lab: &Lab, node: &str, asked: &str, some: bool| {
        wait_until(PATIENCE, "a share to move", || {
            let status = lab.node(asked).status().map_err(|error| error.to_string())?;
            let own = status.members().iter().find(|member| member.name == node).map(|member| member.buckets);
            let is = own.is_some_and(|count| (count > 0) == some) && status.settled();
            if is { Ok(()) } else { Err(format!("{own:?}")) }
        })
    };
    traffic.take();
    for _ in 0..3 {
        told(&lab, "nothing happens")?;
    }
    for node in ALL {
        let other = if node == "n1" { "n2" } else { "n1" };
        lab.node(node).rudel(&["drain"])?;
        owns(&lab, node, other, false)?;
        told(&lab, &format!("drain {node}"))?;
        lab.node(node).rudel(&["undrain"])?;
        lab.wait_at_rest(&ALL)?;
        told(&lab, &format!("undrain {node}"))?;
        lab.node(node).rudel(&["restart"])?;
        lab.wait_at_rest(&ALL)?;
        told(&lab, &format!("restart {node}"))?;
        let rest: Vec<&str> = ALL.into_iter().filter(|name| *name != node).collect();
        lab.node_mut(node).terminate_daemon(PATIENCE)?;
        lab.wait_at_rest(&rest)?;
        told(&lab, &format!("leave {node}"))?;
        lab.node_mut(node).start_daemon()?;
        lab.wait_at_rest(&ALL)?;
        told(&lab, &format!("join {node}"))?;
    }
    screen.note("all of a kind          through   p50      p99     most   beside it p50      p99     most");
    for (kind, waits) in by_kind {
        let of = |waits: &Vec<Duration>| {
            let share = |share| format!("{:>8}", human(quantile(waits.clone(), share)));
            [0.5, 0.99, 1.0].map(share).join(" ")
        };
        screen.note(format!("{kind:<22} {}            {}", of(&waits[0]), of(&waits[1])));
    }
    for node in ALL {
        let sync = &lab.node(node).status()?.0["sync"];
        screen.note(format!(
            "{node}: longest wait of a move {} us, {} moves late",
            sync["move_max_us"], sync["late_moves"]
        ));
    }
    traffic.finish()
}

/// The ends of a flow by its number: a thousand addresses inside, many ports of each.
fn ends(number: u32) -> Ends {
    let [high, low] = ((number % 1000) as u16 + 1).to_be_bytes();
    let source = SocketAddrV4::new(Ipv4Addr::new(10, 176, high, low), 10_000 + (number / 1000) as u16);
    let destination = Ipv4Addr::new(10, 100, 1, 1 + (number / 1000 % DESTINATIONS) as u8);
    (source, SocketAddrV4::new(destination, PORT))
}

/// Sends the first datagram of a flow, and tells when.
fn begin(number: u32) -> io::Result<Instant> {
    let (source, target) = ends(number);
    let socket = UdpSocket::bind(source)?;
    let now = Instant::now();
    socket.send_to(&number.to_be_bytes(), target)?;
    Ok(now)
}

/// Remembers the number of each flow whose datagram comes out.
pub(super) fn sink(
    lab: &Lab,
    stop: &Arc<AtomicBool>,
    came: &Arc<Vec<AtomicU8>>,
) -> Result<std::thread::JoinHandle<()>> {
    let socket = lab.client().namespace().run(|| UdpSocket::bind((IpAddr::from([0, 0, 0, 0]), PORT)))??;
    rudel_lab::force_receive_buffer(&socket, 64 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (stop, came) = (Arc::clone(stop), Arc::clone(came));
    Ok(std::thread::spawn(move || {
        let mut buffer = [0; 4];
        while !stop.load(Ordering::Relaxed) {
            if let Ok(4) = socket.recv(&mut buffer) {
                came[u32::from_be_bytes(buffer) as usize].store(1, Ordering::Relaxed);
            }
        }
    }))
}

/// The UDP flows in a node's table.
fn known(lab: &Lab, node: &str) -> Result<HashSet<Ends>> {
    let mut command = lab.node(node).namespace().command("conntrack")?;
    let output = command.args(["-L", "-p", "udp"]).output().context("conntrack (package conntrack)")?;
    let ends = |line: &str| -> Option<Ends> {
        let mut words = line.split_whitespace();
        let mut value = |key| words.find_map(|word| word.strip_prefix(key));
        let (source, destination) = (value("src=")?.parse().ok()?, value("dst=")?.parse().ok()?);
        let (sport, dport) = (value("sport=")?.parse().ok()?, value("dport=")?.parse().ok()?);
        Some((SocketAddrV4::new(source, sport), SocketAddrV4::new(destination, dport)))
    };
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(ends).collect())
}

pub(super) fn resident_kb(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

pub(super) fn sync(lab: &Lab, node: &str) -> Result<serde_json::Value> {
    Ok(lab.node(node).status()?.0["sync"].clone())
}

/// Many known flows and many new ones, and the power of a router is cut: what do the others not know?
fn crash(screen: &Screen) -> Result<()> {
    screen.heading(format!(
        "A router's power is cut: {KNOWN} known flows, {RATE} new ones a second for {} s",
        SPAN.as_secs()
    ));
    let mut lab = lab()?;
    for node in lab.nodes() {
        // So that the known ones are known to the end.
        node.namespace().sysctl(&[("net.netfilter.nf_conntrack_udp_timeout", "3600")])?;
    }
    let total = KNOWN + RATE * SPAN.as_secs() as u32;
    let stop = Arc::new(AtomicBool::new(false));
    let came: Arc<Vec<AtomicU8>> = Arc::new((0..total).map(|_| AtomicU8::new(0)).collect());
    let sink = sink(&lab, &stop, &came)?;
    let host = lab.host_behind("h1").namespace().clone();
    let pid = lab.node_mut("n2").working_daemon()?;
    let before_kb = resident_kb(pid)?;

    // At twice the rate, so that nothing overflows on the way.
    host.run(|| send(0..KNOWN, RATE * 2))??;
    wait_until(PATIENCE, "all known flows to be known", || {
        let report = sync(&lab, "n2").map_err(|error| error.to_string())?;
        let flows = report["flows_own"].as_u64().unwrap_or(0) + report["flows_foreign"].as_u64().unwrap_or(0);
        let arrived = came.iter().filter(|one| one.load(Ordering::Relaxed) != 0).count() as u64;
        // The last are young; a flow that found no port in its block did not come out.
        if flows >= arrived && arrived * 1000 >= u64::from(KNOWN) * 995 {
            Ok(())
        } else {
            Err(format!("{flows} flows of {arrived} that came out"))
        }
    })?;
    let report = sync(&lab, "n2")?;
    let foreign = report["flows_foreign"].as_u64().unwrap_or(0).max(1);
    let grown = resident_kb(pid)?.saturating_sub(before_kb) * 1024;
    let all = foreign + report["flows_own"].as_u64().unwrap_or(0);
    screen.note(format!(
        "memory of a daemon: {} bytes for each known flow, its own and foreign ones ({all}); its kernel 373 besides",
        grown / all.max(1)
    ));

    let cpu = |lab: &Lab| -> Result<u64> {
        ["n2", "n3"]
            .iter()
            .try_fold(0, |sum, node| Ok(sum + sync(lab, node)?["cpu_ns"].as_u64().unwrap_or(0)))
    };
    let cpu_before = cpu(&lab)?;
    let begun = Instant::now();
    let sending = std::thread::spawn({
        let host = host.clone();
        move || host.run(|| send(KNOWN..total, RATE))
    });
    // The power goes with the last of them under way.
    std::thread::sleep(SPAN.saturating_sub(begun.elapsed()).saturating_sub(Duration::from_secs(1)));
    let cpu_share = (cpu(&lab)? - cpu_before) as f64 / begun.elapsed().as_nanos() as f64 / 2.0;
    let overruns: u64 = ALL
        .iter()
        .map(|node| Ok(sync(&lab, node)?["overruns"].as_u64().unwrap_or(0)))
        .sum::<Result<u64>>()?;
    let cut = Instant::now();
    lab.power_off("n1")?;
    lab.wait_at_rest(&["n2", "n3"])?;
    let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender has panicked"))???;
    std::thread::sleep(Duration::from_secs(1));
    stop.store(true, Ordering::Relaxed);
    let _ = sink.join();

    let (second, third) = (known(&lab, "n2")?, known(&lab, "n3")?);
    let sent: HashMap<u32, Instant> = sent.into_iter().collect();
    let mut ages = Vec::new();
    let (mut arrived, mut unlike) = (0_u64, 0);
    for number in 0..total {
        if came[number as usize].load(Ordering::Relaxed) == 0 {
            continue;
        }
        arrived += 1;
        let ends = ends(number);
        unlike += usize::from(second.contains(&ends) != third.contains(&ends));
        if !second.contains(&ends) && !third.contains(&ends) {
            let age = sent.get(&number).map_or(Duration::MAX, |at| cut.saturating_duration_since(*at));
            ages.push(age);
        }
    }
    screen.note(format!(
        "{arrived} of {total} flows came out; {overruns} overruns; a sync thread took {:.1} % of a processor",
        cpu_share * 100.0
    ));
    screen.note(format!(
        "unknown to both others: {}; the oldest was {} old when the power went; {unlike} known to one of them alone",
        ages.len(),
        human(ages.iter().copied().max().unwrap_or_default()),
    ));
    Ok(())
}

/// Begins these flows at this rate in a second; tells when each was begun.
pub(super) fn send(numbers: std::ops::Range<u32>, rate: u32) -> io::Result<Vec<(u32, Instant)>> {
    let begun = Instant::now();
    let first = numbers.start;
    let mut sent = Vec::with_capacity(numbers.len());
    for number in numbers {
        let due = begun + Duration::from_secs(1) * (number - first) / rate;
        if let Some(early) =
            due.checked_duration_since(Instant::now()).filter(|early| *early > Duration::from_millis(1))
        {
            std::thread::sleep(early);
        }
        sent.push((number, begin(number)?));
    }
    Ok(sent)
}

/// For how long the pulse thread of a daemon has run, in nanoseconds.
fn pulse_thread_ns(pid: u32) -> Result<u64> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == "pulse" {
            let text = std::fs::read_to_string(task.join("schedstat"))?;
            return Ok(text.split_whitespace().next().context("a number")?.parse()?);
        }
    }
    anyhow::bail!("{pid} has no pulse thread")
}

/// The daemon asks its pulse thread for a report four times a second, and once for each status. The same routers, asked by nobody
/// else, and a hundred times more often.
fn reports(screen: &Screen) -> Result<()> {
    /// Longer than the daemon remembers its worst lateness.
    const STAGE: Duration = Duration::from_secs(21);
    screen.heading("What a report costs the pulse thread of one of three routers at rest");
    screen.note("asked besides, each second   processor time   worst lateness");
    let mut lab = lab()?;
    let pid = lab.node_mut("n1").working_daemon()?;
    let mut before_pause: Option<(u64, u32)> = None;
    for every_ms in [None, Some(10), Some(2)] {
        let (begun, ran) = (Instant::now(), pulse_thread_ns(pid)?);
        let mut asked = 0_u32;
        while begun.elapsed() < STAGE {
            match every_ms {
                Some(every_ms) => {
                    lab.node("n1").status()?;
                    asked += 1;
                    let due = begun + Duration::from_millis(every_ms) * asked;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                None => std::thread::sleep(STAGE.saturating_sub(begun.elapsed())),
            }
        }
        let ran = pulse_thread_ns(pid)? - ran;
        screen.note(format!(
            "{:>27}  {:>12.2} %   {:>11} us",
            asked / STAGE.as_secs() as u32,
            ran as f64 / begun.elapsed().as_nanos() as f64 * 100.0,
            lab.node("n1").status()?.0["pulses"]["lateness_us"],
        ));
        match before_pause {
            None => before_pause = Some((ran, asked)),
            Some((idle, _)) => screen.note(format!(
                "                             {:.1} us for each report",
                ran.saturating_sub(idle) as f64 / f64::from(asked.max(1)) / 1000.0
            )),
        }
    }
    Ok(())
}
