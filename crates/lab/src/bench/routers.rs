//! What routers that share their connections cost and lose: many flows, a crash in the middle, and planned changes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rudel_lab::probe::quantile;
use rudel_lab::router::Router;
use rudel_lab::traffic::{Echoes, Kind, Lane, Traffic};
use rudel_lab::{Lab, Settings, wait_until};

use crate::screen::{Screen, human};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 9200;
/// Hosts outside, so that no bucket runs out of ports.
const DESTINATIONS: u32 = 64;
/// Flows that are known before anything happens.
const KNOWN: u32 = 100_000;
/// New flows in a second, and for how long.
const RATE: u32 = 5_000;
const SPAN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);

/// The first direction of a flow, as the host inside sends it.
type Ends = (SocketAddrV4, SocketAddrV4);

pub(super) fn run(screen: &Screen) -> Result<()> {
    planned(screen)?;
    crash(screen)
}

fn lab() -> Result<Lab> {
    let router = Router {
        nat: "address = \"10.74.0.10\"\ninside = [\"10.0.0.0/8\"]\n".to_owned(),
        sync: true,
        ..Router::default()
    };
    let settings =
        Settings { hash: "source-ip-port".to_owned(), router: Some(router), ..Settings::default() };
    let mut lab = Lab::builder().nodes(3).settings(settings).build()?;
    lab.start()?;
    lab.wait_at_rest(&ALL)?;
    Ok(lab)
}

/// How long streams and datagrams wait at planned changes, beside how long they wait when nothing happens.
fn planned(screen: &Screen) -> Result<()> {
    screen.heading("Longest wait of 50 streams and 50 UDP flows through three routers, translated");
    screen.note(
        "what              streams   p50      p99     most   datagrams  p50      p99     most  missing",
    );
    let mut lab = lab()?;
    let target = SocketAddr::from(([10, 100, 0, 1], PORT));
    let _echoes = Echoes::start(lab.client().namespace(), &[target])?;
    let lanes: Vec<Lane> = (0..100)
        .map(|index| {
            let (kind, every) = match index % 2 {
                0 => (Kind::Stream(1024), 20),
                _ => (Kind::Datagrams, 5),
            };
            let source = SocketAddr::new(lab.host_behind("h1").source(target.ip(), 500 + index), 0);
            Lane { kind, source, target, every: Duration::from_millis(every) }
        })
        .collect();
    let traffic = Traffic::start(lab.host_behind("h1").namespace(), &lanes);
    traffic.wait_flowing()?;
    let told = |what: &str| -> Result<()> {
        // What has begun to wait ends within this time, and what waits for nothing has a time to compare with.
        std::thread::sleep(Duration::from_secs(3));
        let outcomes = traffic.take();
        let lost = outcomes.iter().filter(|outcome| outcome.lost.is_some()).count();
        ensure!(lost == 0, "{what}: {lost} lost");
        let of = |is_stream: bool| {
            let of = outcomes.iter().filter(|outcome| (outcome.lane.kind != Kind::Datagrams) == is_stream);
            let waits: Vec<Duration> = of.map(|outcome| outcome.longest).collect();
            [0.5, 0.99, 1.0].map(|share| format!("{:>8}", human(quantile(waits.clone(), share)))).join(" ")
        };
        let missing: u64 = outcomes.iter().map(|outcome| outcome.missing).sum();
        screen.note(format!("{what:<22} {}            {} {missing:>8}", of(true), of(false)));
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
        told("nothing happens")?;
    }
    for node in ALL {
        let other = if node == "n1" { "n2" } else { "n1" };
        lab.node(node).rudel(&["drain"])?;
        owns(&lab, node, other, false)?;
        told(&format!("drain {node}"))?;
        lab.node(node).rudel(&["undrain"])?;
        lab.wait_at_rest(&ALL)?;
        told(&format!("undrain {node}"))?;
        lab.node(node).rudel(&["restart"])?;
        lab.wait_at_rest(&ALL)?;
        told(&format!("restart {node}"))?;
        let rest: Vec<&str> = ALL.into_iter().filter(|name| *name != node).collect();
        lab.node_mut(node).terminate_daemon(PATIENCE)?;
        lab.wait_at_rest(&rest)?;
        told(&format!("leave {node}"))?;
        lab.node_mut(node).start_daemon()?;
        lab.wait_at_rest(&ALL)?;
        told(&format!("join {node}"))?;
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
fn sink(lab: &Lab, stop: &Arc<AtomicBool>, came: &Arc<Vec<AtomicU8>>) -> Result<std::thread::JoinHandle<()>> {
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

fn resident_kb(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn sync(lab: &Lab, node: &str) -> Result<serde_json::Value> {
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
fn send(numbers: std::ops::Range<u32>, rate: u32) -> io::Result<Vec<(u32, Instant)>> {
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
