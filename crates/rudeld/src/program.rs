//! Programs that the daemon starts: what hooks, health checks and `nft` have in common.
//!
//! None of them outlives the daemon, and none is waited for without a limit: what a program does, and what it leaves
//! behind, is nothing that the daemon may depend on.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rudel_api::config::format_duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, set_parent_process_death_signal,
};

/// The `PATH` of what the daemon starts for the administrator: what systemd gives to its services, too.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a program wrote before its end is read for at most this long after it: something that it left behind may hold
/// the pipe open for ever.
pub(crate) const STDERR_GRACE: Duration = Duration::from_millis(100);
/// The end of the standard error that is kept, in bytes.
const STDERR_KEPT: usize = 1024;
/// What the kernel spares when memory runs out is the daemon, not what it starts.
const OOM_SCORE: &[u8] = b"0";

/// The end of what a program says on standard error.
#[derive(Debug, Default)]
pub(crate) struct LastWords(Vec<u8>);

impl LastWords {
    /// A buffer to read into.
    pub(crate) const fn buffer() -> [u8; STDERR_KEPT] {
        [0; STDERR_KEPT]
    }

    /// It said so much more.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.drain(..self.0.len().saturating_sub(STDERR_KEPT));
    }

    /// The last line with anything in it.
    pub(crate) fn line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// How a program has ended.
pub(crate) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Why a program could not be started.
pub(crate) fn why_not(error: &io::Error) -> String {
    match error.kind() {
        // Or of the interpreter that its first line names.
        io::ErrorKind::NotFound => "no such program".to_owned(),
        kind @ io::ErrorKind::PermissionDenied => kind.to_string(),
        _ => error.to_string(),
    }
}

/// Between fork and exec: the child dies with the thread that has started it, which must live as long as the child may.
/// `daemon` is this process.
pub(crate) fn die_with_starter(daemon: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != i32::try_from(daemon).ok() {
        // It died before that.
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

/// Between fork and exec: the child is not spared when memory runs out.
pub(crate) fn be_spared_no_more() {
    let score = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if let Ok(score) = score {
        // To be spared less needs no right (proc_pid_oom_score_adj(5)); where it fails, it was not spared before.
        let _ = rustix::io::write(score, OOM_SCORE);
    }
}

/// Kills a program with its whole process group. It must not have been waited for: then the number is still its own.
pub(crate) fn kill_group(id: u32) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // Fails only if there is nobody left in it.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Readable once the program has ended. It must not have been waited for.
pub(crate) fn end_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits until one of the descriptors is readable or closed, and returns its place; none if the deadline comes first.
pub(crate) fn first_of(fds: &[&dyn AsFd], deadline: Instant) -> io::Result<Option<usize>> {
    let mut polled: Vec<_> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) => return Ok(polled.iter().position(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file without a name, read from its beginning: so neither a program nor who has started it waits for the other.
pub(crate) fn file(content: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("rudeld", MemfdFlags::CLOEXEC)?);
    file.write_all(content.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// What came of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program that says little to its end, and kills it if that does not come within `limit`.
///
/// # Errors
/// It does not start, or had to be killed ([`io::ErrorKind::TimedOut`]).
pub(crate) fn run(command: &mut Command, input: &str, limit: Duration) -> io::Result<Outcome> {
    let (stdout, stderr) = (file("")?, file("")?);
    command.stdin(file(input)?).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let daemon = std::process::id();
    // SAFETY: between fork and exec, die_with_starter makes two system calls, neither of which allocates or locks.
    unsafe {
        command.pre_exec(move || die_with_starter(daemon));
    }
    let deadline = Instant::now() + limit;
    let mut child = command.spawn()?;
    let ended = end_of(&child).and_then(|end| first_of(&[&end], deadline));
    if !matches!(ended, Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
        ended?;
        let late = format!("still running after {}: killed", format_duration(limit));
        return Err(io::Error::new(io::ErrorKind::TimedOut, late));
    }
    let status = child.wait()?;
    Ok(Outcome { status, stdout: text(stdout)?, stderr: text(stderr)? })
}

fn text(mut file: File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_program_reads_and_says_is_whole() {
        let long = "a line\n".repeat(100_000);
        let outcome = run(&mut shell("cat; echo no >&2; exit 3"), &long, Duration::from_secs(60)).unwrap();
        assert!(outcome.stdout == long, "{} bytes", outcome.stdout.len());
        assert_eq!((outcome.stderr.as_str(), how(outcome.status).as_str()), ("no\n", "exit status 3"));
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let begin = Instant::now();
        let error = run(&mut shell("exec sleep 1000"), "", Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "still running after 200ms: killed");
        assert!(begin.elapsed() < Duration::from_secs(500));
    }

    #[test]
    fn the_last_words_are_the_last_line_with_anything_in_it() {
        let mut words = LastWords::default();
        assert_eq!(words.line(), None);
        for _ in 0..1000 {
            words.hear(b"many words\n");
        }
        words.hear(b"disk full \n\n");
        assert_eq!(words.line().as_deref(), Some("disk full"));
        assert!(words.0.len() <= STDERR_KEPT);
    }
}
