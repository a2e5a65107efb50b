//! What telling another router of connections costs, beside conntrackd on the same traffic at the same time.
//!
//! ```text
//!   h1 ── br1 ── n1 ── br0 ── c1      n1 has all buckets, and tells of each connection twice:
//!                 ├─► n2              by its own daemon to that of n2, which has no share,
//!                 └─► n3              and by conntrackd to the one of n3, which is no member
//! ```
//!
//! Both hear the very same events of the same kernel. conntrackd is as its package's example has it (FTFW), once with
//! `DisableExternalCache`, so that its connections are in the other kernel at once, as ours are, and once without, which is cheaper:
//! then a takeover has to write them all.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rudel_lab::router::Router;
use rudel_lab::traffic::Echoes;
use rudel_lab::{Lab, Process, Settings, wait_until};
use socket2::{Domain, Protocol, Socket, Type};

use super::routers::{KNOWN, PATIENCE, RATE, SPAN, resident_kb, send, sink, sync};
use crate::screen::Screen;

/// By TCP, a question and an answer: so many connections in a second, and for how long.
const TALKS: u32 = 1_000;
const TALKS_SPAN: Duration = Duration::from_secs(20);
const TALK_THREADS: u32 = 8;
const TALK_PORT: u16 = 9300;
/// What is left to be told after the last connection has begun.
const REST: Duration = Duration::from_secs(3);
const GROUP_PORT: u16 = 3780;

/// A running conntrackd.
struct Conntrackd {
    process: Process,
    conf: PathBuf,
}

impl Conntrackd {
    fn start(lab: &Lab, node: &str, last: u8, external_cache: bool) -> Result<Self> {
        let path = |what: &str| lab.dir().join(format!("{node}.conntrackd.{what}"));
        let conf = path("conf");
        let text = format!(
            "Sync {{\n  Mode FTFW {{\n    DisableExternalCache {}\n  }}\n\
             \x20 Multicast {{\n    IPv4_address 225.0.0.50\n    Group {GROUP_PORT}\n    IPv4_interface 10.76.0.{last}\n\
             \x20   Interface eth1\n    SndSocketBuffer 1249280\n    RcvSocketBuffer 1249280\n    Checksum on\n  }}\n}}\n\
             General {{\n  HashSize 65536\n  HashLimit 1048576\n  LogFile {}\n  LockFile {}\n  Systemd off\n\
             \x20 UNIX {{\n    Path {}\n  }}\n  NetlinkBufferSize 2097152\n  NetlinkBufferSizeMaxGrowth 8388608\n\
             \x20 Filter From Userspace {{\n    Protocol Accept {{\n      TCP\n      UDP\n    }}\n\
             \x20   Address Ignore {{\n      IPv4_address 127.0.0.1\n      IPv4_address 10.76.0.{last}\n    }}\n  }}\n}}\n",
            if external_cache { "off" } else { "on" },
            path("log").display(),
            path("lock").display(),
            path("ctl").display(),
        );
        std::fs::write(&conf, text)?;
        // The administrator lets it in, as `docs/router.md` has it for the daemon's own ports.
        let rule = format!("insert rule inet firewall input udp dport {GROUP_PORT} accept");
        let allowed = lab.node(node).namespace().command("nft")?.arg(rule).status()?;
        ensure!(allowed.success(), "nft does not let conntrackd in");
        let mut command = lab.node(node).namespace().command("conntrackd")?;
        command.arg("-C").arg(&conf);
        let process = Process::spawn("conntrackd", command, &path("out"))
            .context("conntrackd (package conntrackd; scripts/setup)")?;
        let started = Self { process, conf };
        wait_until(PATIENCE, "conntrackd to answer", || {
            started
                .ask(lab, node, "cache")
                .map(drop)
                .map_err(|error| format!("{error}: {}", started.process.log()))
        })?;
        Ok(started)
    }

    fn ask(&self, lab: &Lab, node: &str, what: &str) -> Result<String> {
        let mut command = lab.node(node).namespace().command("conntrackd")?;
        let output = command.arg("-C").arg(&self.conf).args(["-s", what]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn cpu_ns(&self) -> Result<u64> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.pid()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split_whitespace().next().context("a number")?.parse::<u64>()?;
        }
        Ok(sum)
    }
}

/// The four who tell and hear, and what they know.
struct Both {
    lab: Lab,
    told: Conntrackd,
    heard: Conntrackd,
    external_cache: bool,
}

/// Processor time of each, in nanoseconds.
#[derive(Clone, Copy)]
struct Cpu {
    ours: [u64; 2],
    theirs: [u64; 2],
}

impl Both {
    fn start(external_cache: bool) -> Result<Self> {
        let nat = "address = \"10.74.0.10\"\ninside = [\"10.0.0.0/8\"]\n".to_owned();
        let router = Router { nat, sync: true, ..Router::default() };
        let settings =
            Settings { hash: "source-ip-port".to_owned(), router: Some(router), ..Settings::default() };
        let mut lab = Lab::builder().nodes(3).settings(settings).build()?;
        for node in ["n1", "n2"] {
            lab.node_mut(node).start_daemon()?;
        }
        lab.wait_at_rest(&["n1", "n2"])?;
        lab.node("n2").rudel(&["weight", "0"])?;
        wait_until(PATIENCE, "n1 to have everything", || {
            let status = lab.node("n2").status().map_err(|error| error.to_string())?;
            let own = status.members().iter().find(|member| member.name == "n1").map(|member| member.buckets);
            if own == Some(256) && status.settled() { Ok(()) } else { Err(format!("{own:?}")) }
        })?;
        // What is known is known to the end, everywhere.
        for node in lab.nodes() {
            node.namespace().sysctl(&[("net.netfilter.nf_conntrack_udp_timeout", "3600")])?;
        }
        let heard = Conntrackd::start(&lab, "n3", 13, external_cache)?;
        let told = Conntrackd::start(&lab, "n1", 11, external_cache)?;
        Ok(Self { lab, told, heard, external_cache })
    }

    fn cpu(&self) -> Result<Cpu> {
        let ours = |node| -> Result<u64> { sync(&self.lab, node)?["cpu_ns"].as_u64().context("cpu_ns") };
        Ok(Cpu { ours: [ours("n1")?, ours("n2")?], theirs: [self.told.cpu_ns()?, self.heard.cpu_ns()?] })
    }

    /// Connections that have come to the other router: ours, and conntrackd's.
    fn known(&self) -> Result<[u64; 2]> {
        let ours = sync(&self.lab, "n2")?["flows_foreign"].as_u64().unwrap_or(0);
        let theirs = if self.external_cache {
            let text = self.heard.ask(&self.lab, "n3", "cache")?;
            let line = text.lines().find(|line| line.starts_with("cache:external"));
            let count = line.and_then(|line| line.split_whitespace().last());
            count.with_context(|| format!("no count of the external cache: {text}"))?.parse()?
        } else {
            let read = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
            self.lab.node("n3").namespace().run(read)??.trim().parse()?
        };
        Ok([ours, theirs])
    }

    /// Waits until neither learns of more.
    fn wait_told(&self) -> Result<[u64; 2]> {
        let mut before = self.known()?;
        let mut since = Instant::now();
        let deadline = since + PATIENCE;
        while since.elapsed() < REST && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.known()?;
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(before)
    }
}

pub(super) fn run(screen: &Screen) -> Result<()> {
    for external_cache in [false, true] {
        screen.heading(format!(
            "Telling another router, by rudel and by conntrackd (FTFW, {}) of the same connections at once",
            if external_cache {
                "a cache of its own at the other end"
            } else {
                "DisableExternalCache: into the other kernel"
            }
        ));
        let mut both = Both::start(external_cache)?;
        datagrams(screen, &mut both)?;
        talks(screen, &both)?;
    }
    Ok(())
}

/// As the crash has it: so many known flows, and so many new ones a second.
fn datagrams(screen: &Screen, both: &mut Both) -> Result<()> {
    let total = KNOWN + RATE * SPAN.as_secs() as u32;
    let stop = Arc::new(AtomicBool::new(false));
    let came: Arc<Vec<AtomicU8>> = Arc::new((0..total).map(|_| AtomicU8::new(0)).collect());
    let sink = sink(&both.lab, &stop, &came)?;
    let host = both.lab.host_behind("h1").namespace().clone();
    let (ours, theirs) = (both.lab.node_mut("n2").working_daemon()?, both.heard.process.pid());
    let before_kb = [resident_kb(ours)?, resident_kb(theirs)?];
    host.run(|| send(0..KNOWN, RATE * 2))??;
    let known = both.wait_told()?;
    let grown = [resident_kb(ours)? - before_kb[0], resident_kb(theirs)? - before_kb[1]];
    screen.note(format!(
        "memory of the daemon that hears, for each foreign connection: rudel {} bytes ({} known), conntrackd {} bytes ({} known)",
        grown[0] * 1024 / known[0].max(1),
        known[0],
        grown[1] * 1024 / known[1].max(1),
        known[1],
    ));
    let (begun, before) = (Instant::now(), both.cpu()?);
    host.run(|| send(KNOWN..total, RATE))??;
    let sending = begun.elapsed();
    let after_known = both.wait_told()?;
    let after = both.cpu()?;
    stop.store(true, Ordering::Relaxed);
    let _ = sink.join();
    let new = [0, 1].map(|who| after_known[who].saturating_sub(known[who]));
    tell(
        screen,
        &format!("UDP, {RATE} new flows/s, {} s", SPAN.as_secs()),
        before,
        after,
        sending,
        [new[0], new[1]],
    );
    let overruns = sync(&both.lab, "n1")?["overruns"].clone();
    let runtime = both.told.ask(&both.lab, "n1", "runtime").unwrap_or_default();
    let lost = runtime.lines().find(|line| line.contains("overrun")).unwrap_or("").trim().to_owned();
    screen.note(format!(
        "sent {}; told {} and {}; overruns {overruns}; conntrackd: {lost}",
        total - KNOWN,
        new[0],
        new[1]
    ));
    Ok(())
}

/// Short connections of TCP: a question, an answer, an end.
fn talks(screen: &Screen, both: &Both) -> Result<()> {
    let target = SocketAddr::from(([10, 100, 0, 1], TALK_PORT));
    let _echoes = Echoes::start(both.lab.client().namespace(), &[target])?;
    let host = both.lab.host_behind("h1");
    let total = TALKS * TALKS_SPAN.as_secs() as u32;
    let (next, done, failed) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let (begun, before) = (Instant::now(), both.cpu()?);
    host.namespace().run(|| {
        let talk = |number: u32| -> io::Result<()> {
            let source = SocketAddr::new(host.source(target.ip(), 2000 + (number % 4000) as u16), 0);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&source.into())?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.connect_timeout(&target.into(), Duration::from_secs(5))?;
            let mut stream = TcpStream::from(socket);
            stream.write_all(&[7; 200])?;
            stream.read_exact(&mut [0; 200])
        };
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return;
                }
                let due = begun + Duration::from_secs(1) * number / TALKS;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let counter = if talk(number).is_ok() { &done } else { &failed };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..TALK_THREADS {
                let _ = std::thread::Builder::new().name(format!("talk {thread}")).spawn_scoped(scope, work);
            }
        });
    })?;
    let sending = begun.elapsed();
    std::thread::sleep(REST);
    let after = both.cpu()?;
    let done = done.into_inner();
    ensure!(
        u64::from(done) * 100 >= u64::from(total) * 95,
        "{} of {total} talks failed",
        failed.into_inner()
    );
    tell(
        screen,
        &format!(
            "TCP, {:.0} short connections/s, {} s",
            f64::from(done) / sending.as_secs_f64(),
            TALKS_SPAN.as_secs()
        ),
        before,
        after,
        sending,
        [done.into(); 2],
    );
    Ok(())
}

fn tell(screen: &Screen, what: &str, before: Cpu, after: Cpu, over: Duration, flows: [u64; 2]) {
    let spent = |before: [u64; 2], after: [u64; 2]| [after[0] - before[0], after[1] - before[1]];
    let (ours, theirs) = (spent(before.ours, after.ours), spent(before.theirs, after.theirs));
    let each = |spent: [u64; 2], flows: u64| (spent[0] + spent[1]) as f64 / flows.max(1) as f64 / 1e3;
    let share = |spent: u64| spent as f64 / over.as_nanos() as f64 * 100.0;
    for (name, spent, flows) in [("rudel", ours, flows[0]), ("conntrackd", theirs, flows[1])] {
        screen.note(format!(
            "{what}: {name:<10} {:>5.1} % of a processor telling, {:>5.1} % hearing, {:>6.1} us for each connection",
            share(spent[0]),
            share(spent[1]),
            each(spent, flows),
        ));
    }
    screen.note(format!(
        "{what}: rudel takes {:.3} of what conntrackd takes for a connection",
        each(ours, flows[0]) / each(theirs, flows[1])
    ));
}
