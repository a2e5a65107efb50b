//! Traffic while something happens: a prober that goes on trying, and an audit that counts every single answer.
//!
//! Both are bounded in rate, in number and in time, and both judge only by what a client sees.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::oneshot;

use crate::client::{HTTP_REQUEST, HTTP_RESPONSE_MAX, dns_request, parse_dns, parse_http};
use crate::netns::Namespace;
use crate::{sys, wait_until};

/// What is slower than this has lost a packet on its way: the first SYN is repeated after one second. Anything faster was
/// answered at the first try, be the machine ever so busy.
pub const PROMPT: Duration = Duration::from_millis(500);

/// The most that a prober keeps waiting for at a time.
const IN_FLIGHT_MAX: usize = 2000;

/// What a lane asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// One HTTP request over a new connection.
    Http,
    /// One DNS query by UDP, not repeated.
    Dns,
}

/// A client's habit: the same question from the same source again and again. A lane whose flows all fall into one bucket
/// (by a hash mode that ignores the port, or by a fixed port) sees exactly what that bucket's clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// What it asks.
    pub question: Question,
    /// From where; port 0 means a new one each time.
    pub source: SocketAddr,
    /// Whom.
    pub target: SocketAddr,
}

/// How a prober goes about it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Asked in turn.
    pub lanes: Vec<Lane>,
    /// From one question to the next, whatever becomes of them.
    pub every: Duration,
    /// After this long, a question has failed.
    pub patience: Duration,
    /// The prober stops by itself after this long.
    pub at_most: Duration,
}

impl Plan {
    /// A question every two milliseconds, with the patience of a user.
    pub fn new(lanes: Vec<Lane>) -> Self {
        Self {
            lanes,
            every: Duration::from_millis(2),
            patience: Duration::from_secs(3),
            at_most: Duration::from_secs(60),
        }
    }
}

/// One question and what became of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// The index of its lane.
    pub lane: usize,
    /// When it was asked.
    pub start: Instant,
    /// How long it took, to the answer or to giving up.
    pub latency: Duration,
    /// The node that answered, or what went wrong.
    pub outcome: Result<String, String>,
}

impl Record {
    /// Was it answered at the first try?
    pub fn prompt(&self) -> bool {
        self.outcome.is_ok() && self.latency < PROMPT
    }
}

/// How far a prober has come.
#[derive(Debug, Default)]
struct Progress {
    asked: AtomicUsize,
    answered: AtomicUsize,
}

/// Asks in the background until it is told to stop.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<Vec<Record>>>>,
}

impl Prober {
    /// Starts asking from inside a namespace.
    pub fn start(namespace: &Namespace, plan: Plan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Progress::default());
        let (namespace, stopped, counts) = (namespace.clone(), Arc::clone(&stop), Arc::clone(&progress));
        let thread = std::thread::spawn(move || namespace.run(|| probe(plan, &stopped, &counts))?);
        Self { stop, progress, thread: Some(thread) }
    }

    /// Waits for so many answers more: real traffic in the present order of things.
    pub fn wait_answers(&self, more: usize) -> Result<()> {
        wait_for_more(&self.progress.answered, more, "answers to the prober")
    }

    /// Waits until so many questions more were asked, whatever becomes of them: for silences that have to last.
    pub fn wait_questions(&self, more: usize) -> Result<()> {
        wait_for_more(&self.progress.asked, more, "questions of the prober")
    }

    /// Stops asking, waits for what is under way, and returns the records in order of their starts.
    pub fn finish(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        let mut records = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        records.sort_by_key(|r| r.start);
        Ok(Report { records })
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait_for_more(counter: &AtomicUsize, more: usize, what: &str) -> Result<()> {
    let wanted = counter.load(Ordering::Relaxed) + more;
    wait_until(Duration::from_secs(30), what, || {
        let seen = counter.load(Ordering::Relaxed);
        if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
    })
}

fn probe(plan: Plan, stop: &AtomicBool, progress: &Arc<Progress>) -> Result<Vec<Record>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let mut sockets = Vec::new();
        for lane in &plan.lanes {
            let fixed = lane.question == Question::Dns && lane.source.port() != 0;
            sockets.push(if fixed { Some(SharedSocket::open(*lane).await?) } else { None });
        }
        let mut tasks = tokio::task::JoinSet::new();
        let mut records = Vec::new();
        let mut ticks = tokio::time::interval(plan.every);
        // After a hiccup of the machine, go on at the same rate: a burst would measure the hiccup.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let begin = Instant::now();
        for turn in 0_usize.. {
            ticks.tick().await;
            if stop.load(Ordering::Relaxed) || begin.elapsed() >= plan.at_most {
                break;
            }
            while let Some(done) = tasks.try_join_next() {
                records.push(done.context("a probe ended early")?);
            }
            if tasks.len() >= IN_FLIGHT_MAX {
                continue;
            }
            let index = turn % plan.lanes.len();
            let (lane, patience) = (plan.lanes[index], plan.patience);
            // The low bits tell queries of one socket apart, which is all that an id is for.
            let id = (turn / plan.lanes.len()) as u16;
            let socket = sockets[index].clone();
            let progress = Arc::clone(progress);
            progress.asked.fetch_add(1, Ordering::Relaxed);
            tasks.spawn_local(async move {
                let start = Instant::now();
                let outcome = match tokio::time::timeout(patience, ask(lane, socket, id)).await {
                    Ok(Ok(node)) => Ok(node),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("no answer".to_owned()),
                };
                if outcome.is_ok() {
                    progress.answered.fetch_add(1, Ordering::Relaxed);
                }
                Record { lane: index, start, latency: start.elapsed(), outcome }
            });
        }
        while let Some(done) = tasks.join_next().await {
            records.push(done.context("a probe ended early")?);
        }
        Ok(records)
    })
}

async fn ask(lane: Lane, shared: Option<Rc<SharedSocket>>, id: u16) -> io::Result<String> {
    match lane.question {
        Question::Http => {
            let socket = if lane.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(lane.source)?;
            let mut stream = socket.connect(lane.target).await?;
            stream.write_all(HTTP_REQUEST).await?;
            let mut response = Vec::new();
            stream.take(HTTP_RESPONSE_MAX).read_to_end(&mut response).await?;
            parse_http(&response)
        }
        Question::Dns => match shared {
            Some(socket) => socket.ask(id).await,
            None => {
                let socket = udp_socket(lane.source)?;
                socket.connect(lane.target).await?;
                socket.send(&dns_request(id)).await?;
                let mut buffer = [0; 512];
                let length = socket.recv(&mut buffer).await?;
                parse_dns(&buffer[..length]).map(|(_, node)| node)
            }
        },
    }
}

/// The socket of a DNS lane with a fixed port, over which several queries may be under way.
struct SharedSocket {
    socket: UdpSocket,
    waiting: RefCell<HashMap<u16, oneshot::Sender<io::Result<String>>>>,
}

impl SharedSocket {
    /// Opens it, with a task that hands out the answers.
    async fn open(lane: Lane) -> Result<Rc<Self>> {
        let socket = udp_socket(lane.source).with_context(|| format!("binding {}", lane.source))?;
        socket.connect(lane.target).await?;
        let shared = Rc::new(Self { socket, waiting: RefCell::default() });
        let listener = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 512];
            loop {
                // What is refused by ICMP is asked in vain, and found so when its time is up.
                let Ok(length) = listener.socket.recv(&mut buffer).await else { continue };
                let Ok((id, node)) = parse_dns(&buffer[..length]) else { continue };
                if let Some(asker) = listener.waiting.borrow_mut().remove(&id) {
                    // The asker may have lost patience.
                    let _ = asker.send(Ok(node));
                }
            }
        });
        Ok(shared)
    }

    async fn ask(&self, id: u16) -> io::Result<String> {
        let (asker, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, asker);
        self.socket.send(&dns_request(id)).await?;
        answer.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn udp_socket(source: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(source),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    socket.bind(&source.into())?;
    UdpSocket::from_std(socket.into())
}

/// All that a prober has seen.
#[derive(Debug, Clone)]
pub struct Report {
    /// In order of their starts.
    pub records: Vec<Record>,
}

impl Report {
    /// How many were asked.
    pub fn total(&self) -> usize {
        self.records.len()
    }

    /// Those that got no answer.
    pub fn failed(&self) -> Vec<&Record> {
        self.records.iter().filter(|r| r.outcome.is_err()).collect()
    }

    /// Those that were answered, but not at the first try.
    pub fn delayed(&self) -> Vec<&Record> {
        self.records.iter().filter(|r| r.outcome.is_ok() && !r.prompt()).collect()
    }

    /// How many answers each node gave.
    pub fn per_node(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in self.records.iter().filter_map(|r| r.outcome.as_ref().ok()) {
            *counts.entry(node.clone()).or_default() += 1;
        }
        counts
    }

    /// The longest time that any lane was without service: from its last prompt success before a failure or delay to the
    /// next one. A pause of the prober itself, with nothing asked in vain, is no outage. A lane that ends in failure counts
    /// to its last question.
    pub fn outage(&self) -> Duration {
        let lanes = self.records.iter().map(|r| r.lane + 1).max().unwrap_or(0);
        (0..lanes).map(|lane| self.outage_of(lane)).max().unwrap_or_default()
    }

    /// The longest time that one lane was without service.
    pub fn outage_of(&self, lane: usize) -> Duration {
        let mut longest = Duration::ZERO;
        let mut since: Option<Instant> = None;
        let mut hurt = false;
        for record in self.records.iter().filter(|r| r.lane == lane) {
            let from = *since.get_or_insert(record.start);
            if record.prompt() {
                if hurt {
                    longest = longest.max(record.start - from);
                }
                (since, hurt) = (Some(record.start), false);
            } else {
                hurt = true;
            }
        }
        let last = self.records.iter().rev().find(|r| r.lane == lane).map(|r| r.start);
        match (hurt, last, since) {
            (true, Some(last), Some(since)) => longest.max(last - since),
            _ => longest,
        }
    }

    /// How long after `moment` a question was still asked in vain at first: the outage of something that happened then, seen
    /// over all lanes together. Zero if nobody noticed.
    pub fn hurt_since(&self, moment: Instant) -> Duration {
        let last = self.records.iter().rev().find(|r| !r.prompt());
        last.map(|r| r.start.saturating_duration_since(moment)).unwrap_or_default()
    }

    /// The longest that any successful question took.
    pub fn slowest(&self) -> Duration {
        self.records.iter().filter(|r| r.outcome.is_ok()).map(|r| r.latency).max().unwrap_or_default()
    }

    /// The latency that a share of the successful questions stayed below.
    pub fn quantile(&self, share: f64) -> Duration {
        let latencies = self.records.iter().filter(|r| r.outcome.is_ok()).map(|r| r.latency).collect();
        quantile(latencies, share)
    }

    /// A line about each failure, the first few only.
    pub fn failures(&self) -> String {
        let Some(first) = self.records.first() else { return "nothing was asked".to_owned() };
        let failed = self.failed();
        let shown = failed.iter().take(8).map(|r| {
            let error = r.outcome.as_ref().err().map_or("", String::as_str);
            format!("lane {} at {:.3} s: {error}", r.lane, (r.start - first.start).as_secs_f64())
        });
        format!("{} of {} failed: {}", failed.len(), self.total(), shown.collect::<Vec<_>>().join("; "))
    }
}

/// The value that a share of all values does not exceed.
pub fn quantile(mut values: Vec<Duration>, share: f64) -> Duration {
    values.sort_unstable();
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or_default()
}

/// Counts the answers to every single query.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Each query comes from one of these.
    pub sources: Vec<SocketAddr>,
    /// The DNS server.
    pub target: SocketAddr,
    /// How many queries each source sends.
    pub rounds: u16,
    /// The time that one round of all sources takes at least; its queries are spread over it.
    pub round: Duration,
    /// How long to listen for late or second answers after the last query.
    pub grace: Duration,
}

/// What an audit has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Queries sent.
    pub sent: usize,
    /// Queries that nobody answered.
    pub unanswered: usize,
    /// Queries with exactly one answer, by the node that gave it.
    pub answered: BTreeMap<String, usize>,
    /// Queries with more than one answer: source, round, and who answered.
    pub repeated: Vec<(SocketAddr, u16, Vec<String>)>,
    /// The nodes that answered each source, in the order of the sources, without repetitions.
    pub flows: Vec<Vec<String>>,
}

impl Audit {
    /// Sends the queries from inside a namespace and counts. Stops early once `stop` is set.
    pub fn run(&self, namespace: &Namespace, stop: &AtomicBool) -> Result<Tally> {
        sys::raise_file_limit()?;
        namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new().block_on(&runtime, self.count(stop))
        })?
    }

    async fn count(&self, stop: &AtomicBool) -> Result<Tally> {
        let mut sockets = Vec::new();
        for source in &self.sources {
            let socket = udp_socket(*source).with_context(|| format!("binding {source}"))?;
            socket.connect(self.target).await?;
            sockets.push(Rc::new(socket));
        }
        let listeners: Vec<_> = sockets
            .iter()
            .map(|socket| {
                let socket = Rc::clone(socket);
                let answers = Rc::new(RefCell::new(Vec::<(u16, String)>::new()));
                let heard = Rc::clone(&answers);
                let task = tokio::task::spawn_local(async move {
                    let mut buffer = [0; 512];
                    loop {
                        // A refusal is reported once and is no answer; the socket goes on.
                        let Ok(length) = socket.recv(&mut buffer).await else { continue };
                        match parse_dns(&buffer[..length]) {
                            Ok(answer) => heard.borrow_mut().push(answer),
                            Err(error) => heard.borrow_mut().push((u16::MAX, error.to_string())),
                        }
                    }
                });
                (task, answers)
            })
            .collect();

        let mut sent = vec![0_u16; sockets.len()];
        let mut turns = (0..self.rounds).flat_map(|id| (0..sockets.len()).map(move |index| (id, index)));
        // Evenly over the round: a burst would overflow the server's socket, and a lost query would look like a hole.
        let per_tick = sockets.len().div_ceil(self.round.as_millis().max(1) as usize);
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        'sending: while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            for _ in 0..per_tick {
                let Some((id, index)) = turns.next() else { break 'sending };
                sockets[index].send(&dns_request(id)).await?;
                sent[index] += 1;
            }
        }
        tokio::time::sleep(self.grace).await;

        let mut tally = Tally::default();
        for ((index, source), (task, answers)) in self.sources.iter().enumerate().zip(listeners) {
            task.abort();
            let mut by_id: BTreeMap<u16, Vec<String>> = BTreeMap::new();
            for (id, node) in answers.borrow().iter() {
                by_id.entry(*id).or_default().push(node.clone());
            }
            let mut nodes: Vec<String> = by_id.values().flatten().cloned().collect();
            nodes.sort();
            nodes.dedup();
            tally.flows.push(nodes);
            tally.sent += usize::from(sent[index]);
            for id in 0..sent[index] {
                match by_id.remove(&id).unwrap_or_default().as_slice() {
                    [] => tally.unanswered += 1,
                    [node] => *tally.answered.entry(node.clone()).or_default() += 1,
                    many => tally.repeated.push((*source, id, many.to_vec())),
                }
            }
            // What is left answers a query that was never sent, or could not be read.
            for (id, strange) in by_id {
                tally.repeated.push((*source, id, strange));
            }
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(marks: &[(usize, u64, u64, bool)]) -> (Instant, Report) {
        let begin = Instant::now();
        let records = marks
            .iter()
            .map(|(lane, at_ms, latency_ms, ok)| Record {
                lane: *lane,
                start: begin + Duration::from_millis(*at_ms),
                latency: Duration::from_millis(*latency_ms),
                outcome: if *ok { Ok("n1".to_owned()) } else { Err("no answer".to_owned()) },
            })
            .collect();
        (begin, Report { records })
    }

    #[test]
    fn an_outage_lasts_from_the_last_success_to_the_next() {
        let (begin, report) = report(&[
            (0, 0, 1, true),
            (0, 10, 1, true),
            (0, 20, 1005, true),
            (0, 30, 3000, false),
            (0, 40, 1, true),
            (0, 50, 1, true),
        ]);
        assert_eq!(report.outage(), Duration::from_millis(30));
        assert_eq!((report.failed().len(), report.delayed().len()), (1, 1));
        assert_eq!(report.hurt_since(begin + Duration::from_millis(15)), Duration::from_millis(15));
        assert_eq!(report.slowest(), Duration::from_millis(1005));
    }

    #[test]
    fn a_pause_of_the_prober_is_no_outage() {
        let (begin, report) = report(&[(0, 0, 1, true), (0, 900, 1, true), (0, 905, 1, true)]);
        assert_eq!(report.outage(), Duration::ZERO);
        assert_eq!(report.hurt_since(begin), Duration::ZERO);
    }

    #[test]
    fn lanes_are_judged_apart() {
        // Lane 1 suffers while lane 0 is well.
        let (_, report) = report(&[
            (0, 0, 1, true),
            (1, 1, 1, true),
            (0, 10, 1, true),
            (1, 11, 3000, false),
            (0, 20, 1, true),
            (1, 21, 1, true),
        ]);
        assert_eq!(report.outage_of(0), Duration::ZERO);
        assert_eq!(report.outage_of(1), Duration::from_millis(20));
        assert_eq!(report.outage(), Duration::from_millis(20));
    }

    #[test]
    fn a_lane_that_never_recovers_counts_to_its_end() {
        let (_, report) = report(&[(0, 0, 1, true), (0, 10, 3000, false), (0, 300, 3000, false)]);
        assert_eq!(report.outage(), Duration::from_millis(300));
        assert!(report.failures().starts_with("2 of 3 failed: lane 0 at 0.010 s: no answer"));
    }

    #[test]
    fn quantiles_are_ranks() {
        let values: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        assert_eq!(quantile(values.clone(), 0.5), Duration::from_millis(5));
        assert_eq!(quantile(values.clone(), 1.0), Duration::from_millis(10));
        assert_eq!(quantile(values, 0.0), Duration::from_millis(1));
        assert_eq!(quantile(Vec::new(), 0.5), Duration::ZERO);
    }
}
