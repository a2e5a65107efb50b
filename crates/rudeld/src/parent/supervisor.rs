//! The parent's loop: what happens to a daemon, and what is done about it.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::board::Board;
use super::channel::{self, Channel, ToChild, ToParent};
use super::farewell::Will;
use super::tie;
use crate::leaving::TAKE_DOWN_MAX;
use crate::options::Role;
use crate::realtime;

/// So many deaths within [`LOOP_WITHIN`] are no accidents.
const LOOP_DEATHS: usize = 3;
/// See [`LOOP_DEATHS`].
const LOOP_WITHIN: Duration = Duration::from_secs(60);
/// How long a daemon that dies again and again is left alone, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A daemon whose pulse thread makes no turn for four time-outs, but at least for so long, hangs.
const HUNG_MIN: Duration = Duration::from_secs(2);
/// A daemon that has not prepared itself within this time never will.
const PREPARE_MAX: Duration = Duration::from_secs(30);
/// One that was told to begin and does not serve after so long hangs. It may have to wait for modules, programs and disks.
const BEGIN_MAX: Duration = Duration::from_secs(60);
/// What the parent ends with when the daemon could not.
const FAILURE: u8 = 1;

/// Runs the daemon as a child of this process until it ends for good; returns the exit code.
pub fn run() -> u8 {
    match Parent::new() {
        Ok(mut parent) => parent.run(),
        Err(error) => {
            eprintln!("rudeld: cannot begin: {error}");
            FAILURE
        }
    }
}

/// A daemon.
#[derive(Debug)]
struct Child {
    process: Process,
    channel: Channel,
    board: Board,
    started: Instant,
    /// Since it was started, or told to begin.
    since: Instant,
    /// It waits for its turn: whether it can go on with what is there.
    prepared: Option<Result<(), String>>,
    begun: bool,
    serving: bool,
    /// It takes down what it had put up: no pulse thread makes turns any more.
    ending: bool,
    handed_over: bool,
    refused: Option<String>,
    ended: Option<u8>,
    /// How far its pulse thread had come, and when that was first seen.
    beats: (u64, Instant),
}

impl Child {
    fn tell(&self, message: &ToChild) {
        if let Err(error) = self.channel.send(message) {
            tracing::debug!(%error, "the daemon was not told");
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.process.id() as i32) {
            // It is our child and not collected yet, so the number is still its own.
            let _ = kill_process(pid, signal);
        }
    }

    fn begin(&mut self) {
        self.begun = true;
        self.since = Instant::now();
        self.tell(&ToChild::Begin);
    }

    /// When it hangs, if it does not serve before; none if it does.
    fn late_at(&self) -> Option<Instant> {
        let patience = match (&self.prepared, self.begun) {
            (_, true) => BEGIN_MAX,
            // It waits for its turn, however long that takes.
            (Some(_), false) => return None,
            (None, false) => PREPARE_MAX,
        };
        (!self.serving).then_some(self.since + patience)
    }

    /// Whether the administrator has stopped it, or a debugger has.
    fn is_stopped(&self) -> bool {
        let stat = std::fs::read(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        matches!(tie::state(&stat), Some(b'T' | b't'))
    }
}

#[derive(Debug)]
struct Parent {
    program: PathBuf,
    arguments: Vec<OsString>,
    signals: OwnedFd,
    /// The daemon that has the node's place, or will have it next.
    child: Option<Child>,
    /// A successor that prepares itself while the daemon works.
    next: Option<Child>,
    will: Option<Will>,
    deaths: VecDeque<Instant>,
    /// When a daemon is to be started again.
    start_at: Option<Instant>,
    /// When the lease of a dead daemon ends, if no successor has begun by then.
    lease_until: Option<Instant>,
    /// The administrator wants the node to leave.
    stopping: bool,
    /// The service manager is about to start another parent.
    restarting: bool,
    /// The daemon was told to leave the place to `next`.
    handing_over: bool,
    watched: Instant,
    /// How often the service manager wants to hear that this process lives, and when it is to be told next.
    watchdog: Option<(Duration, Instant)>,
    exit: Option<u8>,
}

impl Parent {
    fn new() -> io::Result<Self> {
        let signals = listen_to_signals()?;
        // The daemon says for both of them what could not be had.
        let _ = (realtime::try_prefer_this_thread(), realtime::try_lock_memory());
        let mut arguments = env::args_os();
        let called = arguments.next().map(PathBuf::from).unwrap_or_default();
        // A third of what it allows: one word may come late.
        let watchdog = sd_notify::watchdog_enabled().map(|period| (period / 3, Instant::now()));
        Ok(Parent { watchdog, ..Parent::of(program(&called)?, arguments.collect(), signals) })
    }

    /// Of daemons that are started so.
    fn of(program: PathBuf, arguments: Vec<OsString>, signals: OwnedFd) -> Self {
        Parent {
            program,
            arguments,
            signals,
            child: None,
            next: None,
            will: None,
            deaths: VecDeque::new(),
            start_at: None,
            lease_until: None,
            stopping: false,
            restarting: false,
            handing_over: false,
            watched: Instant::now(),
            watchdog: None,
            exit: None,
        }
    }

    fn run(&mut self) -> u8 {
        self.start(Role::First);
        loop {
            if let Some(code) = self.exit {
                self.drop_next();
                return code;
            }
            self.wait();
            self.take_signals();
            self.take_messages();
            self.collect();
            self.keep_time();
        }
    }

    /// Starts a daemon for the node's place.
    fn start(&mut self, role: Role) {
        self.start_at = None;
        match self.spawn(role) {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                tracing::error!(%error, program = %self.program.display(), "cannot start the daemon: install the package again if the program is not there");
                self.give_up(FAILURE);
            }
        }
    }

    fn spawn(&self, role: Role) -> io::Result<Child> {
        let (channel, theirs) = channel::pair()?;
        let board = Board::new()?;
        let tied = format!(
            "{},{},{},{role}",
            std::process::id(),
            theirs.as_fd().as_raw_fd(),
            board.as_fd().as_raw_fd()
        );
        let pass_on = [theirs.as_fd().as_raw_fd(), board.as_fd().as_raw_fd()];
        let spawn = |program: &Path| {
            let mut command = Command::new(program);
            command
                .args(&self.arguments)
                .arg("--tied")
                .arg(&tied)
                .env_remove("NOTIFY_SOCKET")
                .env_remove("WATCHDOG_USEC");
            // SAFETY: the closure calls fcntl and sigprocmask only, which are async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    for fd in pass_on {
                        if libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                            return Err(io::Error::last_os_error());
                        }
                    }
                    let mut none = std::mem::zeroed();
                    libc::sigemptyset(&raw mut none);
                    libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
                    Ok(())
                });
            }
            command.spawn()
        };
        let process = match spawn(&self.program) {
            // An upgrade has removed the old file and not put the new one in its place yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => spawn(Path::new("/proc/self/exe"))?,
            other => other?,
        };
        let now = Instant::now();
        let beats = (0, now);
        Ok(Child {
            process,
            channel,
            board,
            started: now,
            since: now,
            prepared: None,
            begun: false,
            serving: false,
            ending: false,
            handed_over: false,
            refused: None,
            ended: None,
            beats,
        })
    }

    fn children(&self) -> impl Iterator<Item = &Child> {
        self.child.iter().chain(&self.next)
    }

    /// Sleeps until something happens.
    fn wait(&self) {
        let mut moments: Vec<Instant> = self.start_at.into_iter().chain(self.lease_until).collect();
        moments.extend(self.children().filter_map(Child::late_at));
        if self.child.as_ref().is_some_and(|child| child.serving) {
            moments.push(self.watched + self.patience() / 4);
        }
        moments.extend(self.watchdog.map(|(_, due)| due));
        let timeout = moments.into_iter().min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        // One that has closed its end is about to end, which is told by a signal.
        let open = self.children().filter(|child| child.ended.is_none() && !child.handed_over);
        fds.extend(open.map(|child| PollFd::new(&child.channel, PollFlags::IN)));
        if let Err(error) = poll(&mut fds, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "the parent process cannot wait for its daemon: report it with this error");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn take_signals(&mut self) {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.signals, &mut info).is_ok_and(|read| read == info.len()) {
            // The number is the first field.
            let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            match number {
                libc::SIGTERM | libc::SIGINT => self.stop(number),
                libc::SIGHUP => match self.child.as_ref().filter(|child| child.serving) {
                    Some(child) => child.signal(Signal::HUP),
                    None => {
                        tracing::warn!(
                            "SIGHUP: there is no daemon now that could read its configuration: the next one reads it as it starts, nothing to do"
                        )
                    }
                },
                libc::SIGUSR1 => {
                    if let Err(why) = self.succeed() {
                        tracing::warn!("no restart: {why}; try again");
                    }
                }
                libc::SIGUSR2 => {
                    let serving = self.child.as_ref().filter(|child| child.serving);
                    if let Some(child) = serving {
                        tracing::info!("leaving all to the next start");
                        child.tell(&ToChild::HandOver);
                        self.restarting = true;
                    } else {
                        self.stop(libc::SIGTERM);
                    }
                }
                _ => {}
            }
        }
    }

    /// The node is to leave the cluster.
    fn stop(&mut self, signal: i32) {
        self.stopping = true;
        self.drop_next();
        match &self.child {
            Some(child) if signal == libc::SIGINT => child.signal(Signal::INT),
            Some(child) => child.signal(Signal::TERM),
            None => self.give_up(0),
        }
    }

    /// Starts a successor beside the daemon.
    fn succeed(&mut self) -> Result<(), String> {
        if self.stopping || self.restarting {
            return Err("the node is leaving".into());
        }
        if self.next.is_some() {
            return Err("a successor is being prepared already".into());
        }
        if !self.child.as_ref().is_some_and(|child| child.serving) {
            return Err("there is no daemon now that could hand over; it is being started".into());
        }
        let next = self
            .spawn(Role::InPlace)
            .map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        self.next = Some(next);
        Ok(())
    }

    /// There will be no successor; the daemon works on.
    fn no_successor(&mut self, why: String) {
        self.drop_next();
        tracing::warn!("no restart, nothing has changed: {why}; mend that and try again");
        if let Some(child) = &self.child {
            child.tell(&ToChild::NoSuccessor(why));
        }
    }

    fn drop_next(&mut self) {
        if let Some(mut next) = self.next.take() {
            next.signal(Signal::KILL);
            let _ = next.process.wait();
        }
    }

    fn take_messages(&mut self) {
        if let Some(mut child) = self.child.take() {
            let messages = receive(&mut child);
            self.child = Some(child);
            messages.into_iter().for_each(|(message, fds)| self.hear(message, fds));
        }
        if let Some(mut next) = self.next.take() {
            // It cannot serve yet: all that it says is kept with it.
            receive(&mut next);
            let prepared = next.prepared.clone();
            self.next = Some(next);
            match prepared {
                Some(Ok(())) => self.hand_over(),
                Some(Err(why)) => self.no_successor(why),
                None => {}
            }
        }
    }

    /// The successor is ready: the daemon is to leave the place to it.
    fn hand_over(&mut self) {
        let told = self.restarting || self.handing_over;
        if let Some(child) = self.child.as_mut().filter(|child| child.serving && !told) {
            tracing::info!("a successor is ready: handing over");
            child.tell(&ToChild::HandOver);
            self.handing_over = true;
        }
    }

    /// The daemon says something.
    fn hear(&mut self, message: ToParent, fds: Vec<OwnedFd>) {
        match message {
            ToParent::Prepared { adoptable, .. } => {
                if let Err(why) = adoptable
                    && let Some(will) = &mut self.will
                {
                    tracing::warn!(
                        "the daemon cannot go on where the last one ended, and joins anew, nothing to do: {why}"
                    );
                    will.say_good_bye();
                }
                self.lease_until = None;
                if let Some(child) = &mut self.child {
                    child.begin();
                }
            }
            ToParent::Serving(serving) => self.will = Some(Will { serving, sockets: fds, said: false }),
            // One that may go on with its predecessor's run has the good-byes of that.
            ToParent::Begun(_) if self.will.as_ref().is_some_and(|will| !will.said) => {}
            ToParent::Begun(serving) => self.will = Some(Will { serving, sockets: fds, said: false }),
            ToParent::Notify(text) => {
                if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Custom(&text)]) {
                    tracing::debug!(%error, "systemd was not notified");
                }
            }
            ToParent::Restart => {
                if let Err(why) = self.succeed() {
                    // A successor that is being prepared for somebody else goes on.
                    if let Some(child) = &self.child {
                        child.tell(&ToChild::NoSuccessor(why));
                    }
                }
            }
            ToParent::Refused(_) | ToParent::HandedOver | ToParent::Ended(_) | ToParent::Ending => {}
        }
    }

    /// Looks which daemons have ended, or were stopped.
    fn collect(&mut self) {
        for child in self.children() {
            wake_if_stopped_for_us(child);
        }
        if let Some(mut next) = self.next.take() {
            match next.process.try_wait() {
                Ok(Some(status)) => {
                    receive(&mut next);
                    let why = next.refused.take().unwrap_or_else(|| died(status));
                    if self.handing_over {
                        // The daemon has already been told: whoever comes after it is started anew.
                        tracing::error!(
                            "the successor that was ready has ended: {why}; another is started, see its lines above"
                        );
                    } else {
                        self.no_successor(why);
                    }
                }
                _ => self.next = Some(next),
            }
        }
        if let Some(mut child) = self.child.take() {
            match child.process.try_wait() {
                Ok(Some(status)) => {
                    for (message, fds) in receive(&mut child) {
                        if matches!(message, ToParent::Begun(_) | ToParent::Serving(_) | ToParent::Notify(_))
                        {
                            self.hear(message, fds);
                        }
                    }
                    self.bury(&child, status);
                }
                _ => self.child = Some(child),
            }
        }
    }

    /// The daemon has ended: what now?
    fn bury(&mut self, child: &Child, status: ExitStatus) {
        self.handing_over = false;
        if child.handed_over {
            match self.next.take() {
                // The next start finds everything as it is.
                _ if self.restarting => self.exit = Some(0),
                // It was told to leave, and had already begun to hand over.
                _ if self.stopping => self.give_up(0),
                Some(next) => self.promote(next),
                None => {
                    self.mind_the_lease();
                    self.start(Role::Again);
                }
            }
            return;
        }
        match child.ended {
            Some(0) => self.exit = Some(0),
            // It has taken down what it had put up, if it could; whether it has said good-bye is not certain.
            Some(code) => self.give_up(code),
            None => self.mourn(child, status),
        }
    }

    /// The successor takes the place.
    fn promote(&mut self, mut next: Child) {
        if next.prepared.is_some() {
            next.begin();
        }
        self.child = Some(next);
    }

    /// The daemon has died without a word.
    fn mourn(&mut self, child: &Child, status: ExitStatus) {
        let why = died(status);
        let Some(will) = self.will.as_mut().filter(|will| will.has_served()) else {
            // There is no run to go on with; what has been put up already is taken down.
            if !self.stopping {
                tracing::error!("the daemon ended before it served: {why}; see its last line above");
            }
            self.give_up(if self.stopping { 0 } else { FAILURE });
            return;
        };
        tracing::error!(
            served_s = child.started.elapsed().as_secs(),
            "the daemon died: {why}; it is started again, see its last lines above and report them"
        );
        if self.stopping {
            self.give_up(FAILURE);
            return;
        }
        if self.restarting {
            // The next start finds what a daemon that dies leaves, and that is to come at once.
            self.drop_next();
            self.exit = Some(0);
            return;
        }
        let now = Instant::now();
        self.deaths.push_back(now);
        self.deaths.retain(|at| now.duration_since(*at) < LOOP_WITHIN);
        if let Some(extra) = self.deaths.len().checked_sub(LOOP_DEATHS) {
            will.say_good_bye();
            self.drop_next();
            let pause = BACK_OFF.0.saturating_mul(1 << extra.min(8)).min(BACK_OFF.1);
            tracing::error!(
                deaths = self.deaths.len(),
                ?pause,
                "the daemon dies again and again: waiting before the next start; see above why"
            );
            self.start_at = Some(now + pause);
            return;
        }
        self.mind_the_lease();
        match self.next.take() {
            Some(next) => self.promote(next),
            None => self.start(Role::Again),
        }
    }

    /// A daemon that is about to be started goes on with the run, if it begins before the lease ends.
    fn mind_the_lease(&mut self) {
        if let Some(will) = &mut self.will {
            match will.lease_left() {
                Some(left) => self.lease_until = Some(Instant::now() + left),
                None => will.say_good_bye(),
            }
        }
    }

    /// Ends: what a daemon has left behind is taken down.
    fn give_up(&mut self, code: u8) {
        self.drop_next();
        if let Some(will) = &mut self.will {
            will.clean_up();
        }
        self.exit = Some(code);
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.start_at.is_some_and(|at| now >= at) {
            self.start(Role::Again);
        }
        if self.lease_until.is_some_and(|until| now >= until) {
            self.lease_until = None;
            if let Some(will) = &mut self.will {
                tracing::warn!(
                    "the lease has ended before there was another daemon: the other nodes take over, nothing to do"
                );
                will.say_good_bye();
            }
        }
        let is_late = |child: &Child| child.late_at().is_some_and(|at| now >= at);
        if self.next.as_ref().is_some_and(is_late) {
            self.no_successor(format!("the successor was not ready within {PREPARE_MAX:?}"));
        }
        if let Some(child) = self.child.as_mut().filter(|child| is_late(child)) {
            if !child.is_stopped() {
                tracing::error!(
                    begun = child.begun,
                    "the daemon hangs before it serves: killing it; report it if it comes again"
                );
                child.signal(Signal::KILL);
            }
            child.since = now;
        }
        self.watch(now);
        self.tell_watchdog(now);
    }

    /// systemd kills a service whose main process does not say for too long that it lives. Whether the daemon lives is
    /// this process's own business.
    fn tell_watchdog(&mut self, now: Instant) {
        let Some((period, due)) = self.watchdog.as_mut().filter(|(_, due)| now >= *due) else {
            return;
        };
        *due = now + *period;
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            tracing::debug!(%error, "systemd was not notified");
        }
    }

    /// How long a pulse thread may make no turn, and its daemon not end when that has ended.
    fn patience(&self) -> Duration {
        if self.child.as_ref().is_some_and(|child| child.ending) {
            return TAKE_DOWN_MAX;
        }
        let timeout = self.will.as_ref().map_or(0, |will| will.serving.timeout_ms);
        HUNG_MIN.max(Duration::from_millis(timeout) * 4)
    }

    /// Kills a daemon that hangs. Time in which this process did not run either does not count.
    fn watch(&mut self, now: Instant) {
        let patience = self.patience();
        let Some(child) = self.child.as_mut().filter(|child| child.serving) else {
            self.watched = now;
            return;
        };
        if now < self.watched + patience / 4 {
            return;
        }
        let overslept = now.duration_since(self.watched) > patience / 2;
        self.watched = now;
        let beats = child.board.beats();
        if overslept || beats != child.beats.0 || child.is_stopped() {
            child.beats = (beats, now);
        } else if now.duration_since(child.beats.1) >= patience {
            tracing::error!(
                ?patience,
                "the daemon hangs: killing it; see whether this machine is overloaded, and report it if not"
            );
            child.signal(Signal::KILL);
            child.beats.1 = now;
        }
    }
}

/// Takes what a daemon has said; what is about itself is noted, and the rest returned too.
fn receive(child: &mut Child) -> Vec<(ToParent, Vec<OwnedFd>)> {
    let mut all = Vec::new();
    loop {
        match child.channel.receive::<ToParent>(true) {
            Ok(Some((message, fds))) => {
                match &message {
                    ToParent::Prepared { adoptable, .. } => child.prepared = Some(adoptable.clone()),
                    ToParent::Serving(_) => {
                        child.serving = true;
                        child.beats = (child.board.beats(), Instant::now());
                    }
                    ToParent::Refused(why) => child.refused = Some(why.clone()),
                    ToParent::HandedOver => child.handed_over = true,
                    ToParent::Ended(code) => child.ended = Some(*code),
                    ToParent::Ending => {
                        child.ending = true;
                        child.beats.1 = Instant::now();
                    }
                    ToParent::Notify(_) | ToParent::Restart | ToParent::Begun(_) => {}
                }
                all.push((message, fds));
            }
            Ok(None) => return all,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return all,
            Err(error) => {
                tracing::warn!(%error, "the daemon is not understood: install the package again, and start the service again");
                return all;
            }
        }
    }
}

/// A daemon that stopped itself because this process was stopped goes on with it; one that somebody else has stopped
/// stays as it is.
fn wake_if_stopped_for_us(child: &Child) {
    let Some(pid) = Pid::from_raw(child.process.id() as i32) else { return };
    let stopped = waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
    if matches!(stopped, Ok(Some(_))) && child.board.is_stopped_with_parent() {
        child.signal(Signal::CONT);
    }
}

fn died(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("it ended with exit code {code} and without a word"),
        (None, None) => status.to_string(),
    }
}

/// Where the program is found again: an upgrade puts another file there.
fn program(called: &Path) -> io::Result<PathBuf> {
    if called.components().count() > 1 {
        return std::path::absolute(called);
    }
    env::current_exe()
}

/// Signals as a descriptor to be read.
fn listen_to_signals() -> io::Result<OwnedFd> {
    let wanted = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];
    // SAFETY: the set lives through the calls; signalfd gives a new descriptor that nobody else owns.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in wanted {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests;
