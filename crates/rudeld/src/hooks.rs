//! The administrator's program that is told what happens: one run for each event, in order, one at a time.
//!
//! ```text
//!   history ─► queue ─► thread: ask for the present state, start the program, wait ─► told up to here (on disk)
//!                 ▲                                                          │
//!                 └──── failed, and nothing newer waits: again, later ───────┘
//! ```
//!
//! **Level-triggered.** Each run is told of an event *and* of what this node is about when the run begins. A program that
//! looks at the latter alone does the right thing however many events it has missed. So a run that fails is repeated only
//! while nothing newer waits; and when this node has left the cluster, a last run says so.
//!
//! **At least once.** The number of the last event that was taken is kept on disk. A daemon that takes another's place, or
//! starts after a crash, goes on behind it. A run that was cut off then is repeated.
//!
//! **Never in the way.** A thread of its own starts and waits; the pulse thread knows nothing of all this, and the runtime
//! only puts events into a bounded queue. Where that is full, the oldest are dropped and counted. The program has a time
//! limit, is killed with its process group, inherits no descriptor, and dies with the daemon.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rudel_api::config::{CommandLine, Hooks as HooksConfig, format_duration};
use rudel_api::event::{Event, EventKind};
use rudel_api::snapshot;
use rudel_api::timestamp::Timestamp;
use rudel_proto::text::one_line;
use rustix::event::{EventfdFlags, eventfd};

use crate::program::{self, LastWords, SEARCH_PATH, STDERR_GRACE};
use crate::pulse::Requests;

/// Events that may wait for the program.
const QUEUE_MAX: usize = 256;
/// How long after a failure the program is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the end of the daemon waits for the last runs, all together.
const END_MAX: Duration = Duration::from_secs(5);
/// What a failure says, in bytes at most.
const ERROR_LEN_MAX: usize = 200;

/// What this node is about when a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Its state in the words of `rudel status`; `left` once it has left the cluster.
    pub state: String,
    /// Whether it passes packets.
    pub serving: bool,
    /// How many buckets it owns.
    pub buckets: usize,
    /// The number of the view in force.
    pub epoch: u64,
}

impl Level {
    /// Of a node that has left.
    pub fn left() -> Self {
        Level { state: "left".into(), serving: false, buckets: 0, epoch: 0 }
    }

    /// As the pulse thread knows it now. To be called outside of the runtime only: it waits for the answer.
    pub fn ask(requests: &Requests) -> Self {
        let Ok(report) = requests.report_blocking() else {
            return Level::left();
        };
        let status = report.status;
        Level {
            state: crate::snapshot::state(status.state).to_string(),
            serving: status.serving,
            buckets: status.owned.len(),
            epoch: status.view.as_ref().map_or(0, |view| view.id.epoch),
        }
    }
}

/// Who runs the program, and for whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// Where the number of the last event that was taken is kept.
    pub told: PathBuf,
}

/// Where the history puts events for the program.
#[derive(Clone, Debug)]
pub struct Door(Arc<Shared>);

impl Door {
    /// Has the program told of an event. Never waits. That the program fails is not told to the program.
    pub fn push(&self, event: &Event) {
        let mut queue = self.0.lock();
        if event.kind == EventKind::HookFailed || queue.command.is_none() {
            return;
        }
        if queue.waiting.len() == QUEUE_MAX {
            queue.waiting.pop_front();
            queue.missed += 1;
            queue.missed_ever += 1;
        }
        queue.waiting.push_back(event.clone());
        drop(queue);
        self.0.changed.notify_one();
    }
}

/// The program's thread.
#[derive(Debug)]
pub struct Hooks {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Readable once a running program is to be killed.
    stop: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    command: Option<(CommandLine, Duration)>,
    waiting: VecDeque<Event>,
    /// Events that were dropped since the last run.
    missed: u64,
    missed_ever: u64,
    running: Option<Event>,
    /// The last event that the program has taken.
    told: u64,
    runs: u64,
    failures: u64,
    /// How long all runs took together.
    run_time: Duration,
    /// Why the last run failed; none if it did not.
    failed: Option<String>,
    /// The last failure ever.
    last_failure: Option<(Timestamp, String)>,
    /// No event comes any more: when the last run must be over.
    end: Option<Instant>,
}

impl Shared {
    /// What is behind it is consistent at each instruction, so a panic elsewhere changes nothing.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hooks {
    /// Starts the thread. `level` is asked before each run, `failed` is told when the program fails for the first time, or
    /// for another reason than before.
    pub fn start(
        config: &HooksConfig,
        place: Place,
        level: impl Fn() -> Level + Send + 'static,
        failed: impl Fn(String) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Queue {
            command: config.on_change.clone().map(|command| (command, config.timeout)),
            told: read_told(&place.told),
            ..Queue::default()
        };
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new(), stop });
        let runner = Runner { shared: shared.clone(), place, level, failed };
        let thread = std::thread::Builder::new().name("rudel-hooks".into()).spawn(move || runner.run())?;
        Ok(Hooks { shared, thread: Some(thread) })
    }

    /// Where events are to be put.
    pub fn door(&self) -> Door {
        Door(self.shared.clone())
    }

    /// What happened before the door was there, oldest first: what the program has not been told of yet comes first.
    /// If nothing was ever told, the past is past.
    pub fn catch_up<'a>(&self, past: impl Iterator<Item = &'a Event>) {
        let told = self.shared.lock().told;
        let newer: Vec<&Event> = past.filter(|event| event.sequence.is_some_and(|s| s > told)).collect();
        if told > 0 {
            let door = self.door();
            newer.into_iter().for_each(|event| door.push(event));
        }
    }

    /// From the next run on another program, or none. What waits is told to the new one.
    pub fn set(&self, config: &HooksConfig) {
        let mut queue = self.shared.lock();
        let command = config.on_change.clone().map(|command| (command, config.timeout));
        if queue.command == command {
            return;
        }
        if command.is_none() {
            queue.waiting.clear();
        }
        queue.failed = None;
        queue.command = command;
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// What administrators see; none if there is no program.
    pub fn snapshot(&self) -> Option<snapshot::Hook> {
        let queue = self.shared.lock();
        let (command, _) = queue.command.as_ref()?;
        Some(snapshot::Hook {
            program: command.program.display().to_string(),
            ok: queue.failed.is_none(),
            running: queue.running.as_ref().map(|event| event.kind),
            waiting: queue.waiting.len() as u64,
            missed: queue.missed_ever,
            runs: queue.runs,
            failures: queue.failures,
            run_ms: u64::try_from(queue.run_time.as_millis()).unwrap_or(u64::MAX),
            last_error: queue.last_failure.as_ref().map(|(_, error)| error.clone()),
            last_error_at: queue.last_failure.as_ref().map(|(at, _)| *at),
        })
    }

    /// Waits until everything that happened has been told, for a few seconds at most.
    pub fn finish(&mut self) {
        let deadline = Instant::now() + END_MAX;
        self.shared.lock().end = Some(deadline);
        self.shared.changed.notify_one();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.cut_off();
    }

    /// Kills the program if it runs, and ends. A successor tells what was not told.
    fn cut_off(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.lock().end = Some(Instant::now());
        self.shared.changed.notify_one();
        // Fails only when it is readable already.
        let _ = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes());
        // It has panicked at worst, which costs nothing but the hooks.
        let _ = thread.join();
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.cut_off();
    }
}

struct Runner<L, F> {
    shared: Arc<Shared>,
    place: Place,
    level: L,
    failed: F,
}

/// One thing to be told.
struct Task {
    event: Event,
    missed: u64,
    attempt: u32,
    command: CommandLine,
    timeout: Duration,
}

impl<L: Fn() -> Level, F: Fn(String)> Runner<L, F> {
    fn run(&self) {
        let mut again: Option<(Event, u32)> = None;
        while let Some(task) = self.next(again.take()) {
            let attempt = task.attempt;
            let begun = Instant::now();
            let result = self.tell(&task);
            let mut queue = self.shared.lock();
            queue.run_time += begun.elapsed();
            queue.running = None;
            queue.runs += 1;
            let told = task.event.sequence.unwrap_or(0);
            match result {
                Ok(()) => {
                    queue.failed = None;
                    queue.told = queue.told.max(told);
                    drop(queue);
                    if let Err(error) = write_told(&self.place.told, told) {
                        tracing::warn!(path = %self.place.told.display(), %error, "cannot store what the hook was told: after a restart it is told again; free space there");
                    }
                }
                Err(_) if queue.end.is_some_and(|end| Instant::now() >= end) => return,
                Err(error) => {
                    let program = task.command.program.display();
                    let reason =
                        format!("{program}: {error} (told of: {} {})", task.event.node, task.event.kind);
                    queue.failures += 1;
                    queue.last_failure = Some((Timestamp::now(), reason.clone()));
                    let news = queue.failed.replace(error.clone()) != Some(error);
                    drop(queue);
                    if news {
                        tracing::warn!(event = %task.event.kind, "the hook failed: {reason}; mend the program, docs/hooks.md says how it is called");
                        (self.failed)(reason);
                    }
                    again = Some((task.event, attempt + 1));
                }
            }
        }
    }

    /// Waits for something to tell. None: the end.
    fn next(&self, mut again: Option<(Event, u32)>) -> Option<Task> {
        let pause = |attempt: u32| RETRY.0.saturating_mul(1 << (attempt - 2).min(16)).min(RETRY.1);
        let retry_at = again.as_ref().map(|(_, attempt)| Instant::now() + pause(*attempt));
        let mut queue = self.shared.lock();
        loop {
            let now = Instant::now();
            if queue.end.is_some_and(|end| now >= end) {
                return None;
            }
            if let Some((command, timeout)) = queue.command.clone() {
                // The newer one tells the present state as well: the older is not repeated.
                let task = match queue.waiting.pop_front() {
                    Some(event) => Some((event, 1)),
                    None if queue.end.is_some() => return None,
                    None if retry_at.is_some_and(|at| now >= at) => again.take(),
                    None => None,
                };
                if let Some((event, attempt)) = task {
                    queue.running = Some(event.clone());
                    let missed = std::mem::take(&mut queue.missed);
                    let left = queue.end.map_or(timeout, |end| timeout.min(end.duration_since(now)));
                    return Some(Task { event, missed, attempt, command, timeout: left });
                }
            } else if queue.end.is_some() {
                return None;
            }
            let pending = retry_at.filter(|_| again.is_some() && queue.command.is_some());
            queue = match pending {
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    self.shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn tell(&self, task: &Task) -> Result<(), String> {
        let level = (self.level)();
        let event = &task.event;
        let json = serde_json::to_string(event).map_err(|error| error.to_string())?;
        let input = program::file(&format!("{json}\n"));
        let input = input.map_err(|error| format!("cannot write its input: {error}"))?;
        let mut command = Command::new(&task.command.program);
        command
            .args(&task.command.arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("RUDEL_EVENT", event.kind.as_str())
            .env("RUDEL_NODE", &event.node)
            // Nothing of ours has such a byte, but what others say might.
            .env("RUDEL_REASON", event.reason.replace('\0', " "))
            .env("RUDEL_AT", event.at.to_string())
            .env("RUDEL_SEQUENCE", event.sequence.unwrap_or(0).to_string())
            .env("RUDEL_CLUSTER", &self.place.cluster)
            .env("RUDEL_SELF", &self.place.node)
            .env("RUDEL_STATE", &level.state)
            .env("RUDEL_SERVING", if level.serving { "yes" } else { "no" })
            .env("RUDEL_BUCKETS", level.buckets.to_string())
            .env("RUDEL_EPOCH", level.epoch.to_string())
            .env("RUDEL_MISSED", task.missed.to_string())
            .env("RUDEL_ATTEMPT", task.attempt.to_string())
            .current_dir("/")
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let daemon = std::process::id();
        // SAFETY: between fork and exec, detach makes a few system calls, none of which allocates or locks.
        unsafe {
            command.pre_exec(move || detach(daemon));
        }
        let child =
            command.spawn().map_err(|error| format!("cannot start it: {}", program::why_not(&error)))?;
        Run::new(child)?.wait(task.timeout, &self.shared.stop)
    }
}

/// Makes a child that shares nothing with the daemon but its rights: it dies with it, holds no descriptor of it, and is
/// not spared when memory runs out.
fn detach(daemon: u32) -> io::Result<()> {
    // The thread that starts it lives as long as the daemon.
    program::die_with_starter(daemon)?;
    // Whatever was opened without this flag, by whatever library; the standard descriptors are already in place.
    // SAFETY: close_range with this flag closes nothing now and touches no memory.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    program::be_spared_no_more();
    Ok(())
}

/// A program that runs; killed with its group unless it has ended before.
struct Run {
    child: Child,
    /// Readable when it has ended.
    end: OwnedFd,
    stderr: File,
    said: LastWords,
    stderr_open: bool,
    ended: bool,
}

impl Run {
    fn new(mut child: Child) -> Result<Self, String> {
        let opened = (|| {
            let end = program::end_of(&child)?;
            let stderr = File::from(OwnedFd::from(child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?));
            rustix::io::ioctl_fionbio(&stderr, true)?;
            Ok::<_, io::Error>((end, stderr))
        })();
        match opened {
            Ok((end, stderr)) => {
                let said = LastWords::default();
                Ok(Run { child, end, stderr, said, stderr_open: true, ended: false })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("cannot watch it: {error}"))
            }
        }
    }

    fn wait(mut self, timeout: Duration, stop: &OwnedFd) -> Result<(), String> {
        let deadline = Instant::now() + timeout;
        while !self.ended {
            let woken = self.next(deadline, stop).map_err(|error| format!("cannot wait for it: {error}"))?;
            match woken {
                Woken::Ended => self.ended = true,
                Woken::Said => self.read(),
                Woken::Stop => return Err("killed: the daemon ends".into()),
                Woken::Late => {
                    self.read();
                    let what = format!("still running after {}: killed", format_duration(timeout));
                    return Err(self.with_last_line(what));
                }
            }
        }
        let status = self.child.wait().map_err(|error| format!("cannot wait for it: {error}"))?;
        let grace = Instant::now() + STDERR_GRACE;
        while self.stderr_open && matches!(self.next(grace, stop), Ok(Woken::Said)) {
            self.read();
        }
        if status.success() { Ok(()) } else { Err(self.with_last_line(program::how(status))) }
    }

    /// Waits for what comes first. What it says comes last: a program that never stops talking has its time, too.
    fn next(&self, deadline: Instant, stop: &OwnedFd) -> io::Result<Woken> {
        let mut fds: Vec<&dyn AsFd> = vec![stop];
        let mut meanings = vec![Woken::Stop];
        if !self.ended {
            fds.push(&self.end);
            meanings.push(Woken::Ended);
        }
        if self.stderr_open {
            fds.push(&self.stderr);
            meanings.push(Woken::Said);
        }
        let first = program::first_of(&fds, deadline)?;
        Ok(match first.map(|place| meanings[place]) {
            Some(Woken::Said) if Instant::now() >= deadline => Woken::Late,
            Some(woken) => woken,
            None => Woken::Late,
        })
    }

    /// Reads what is there; keeps the end of it.
    fn read(&mut self) {
        let mut buffer = LastWords::buffer();
        match self.stderr.read(&mut buffer) {
            Ok(0) => self.stderr_open = false,
            Ok(len) => self.said.hear(&buffer[..len]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.stderr_open = false,
        }
    }

    fn with_last_line(&self, how: String) -> String {
        match self.said.line() {
            Some(line) => format!("{} ({how})", one_line(&line, ERROR_LEN_MAX)),
            None => how,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            program::kill_group(self.child.id());
            let _ = self.child.wait();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Stop,
    Ended,
    Said,
    Late,
}

/// The number of the last event that was taken; 0 if none ever was.
fn read_told(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Not synced: after a power cut the program is told again.
fn write_told(path: &Path, told: u64) -> io::Result<()> {
    let temporary = path.with_extension("told.new");
    fs::write(&temporary, format!("{told}\n"))?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
