//! Whether a program exits with 0.
//!
//! It runs as the leader of a process group of its own, and is killed with all of it at the time-out or when the daemon
//! ends. It gets none of the daemon's privileges: no capability, and none to be had by executing something (`no new
//! privileges`, prctl(2)), and not its protection from the end of memory; it stays the daemon's user, root. Its environment holds `PATH`, `RUDEL_NODE` and
//! `RUDEL_CHECK`, its standard input and output are /dev/null. Of its standard error the last line is the reason of a failure.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rudel_api::config::CommandLine;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Blocking, words};

/// The `PATH` of what the daemon starts: what systemd gives to its services, too.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The end of the standard error that is kept, in bytes.
const STDERR_KEPT: usize = 1024;
/// What a program wrote before its end is read for at most this long after it: something that it left behind may hold
/// the pipe open for ever.
const STDERR_GRACE: Duration = Duration::from_millis(100);

pub(super) struct Exec {
    command: CommandLine,
    node: String,
    check: String,
    starting: Blocking<()>,
}

impl Exec {
    pub(super) fn new(command: &CommandLine, node: &str, check: &str) -> Self {
        Exec {
            command: command.clone(),
            node: node.to_owned(),
            check: check.to_owned(),
            starting: Blocking::new(),
        }
    }

    pub(super) async fn ask(&mut self) -> Result<(), String> {
        let started = self.start().await?;
        let mut running = started.map_err(|error| {
            let why = match error.kind() {
                // Or of the interpreter that its first line names.
                io::ErrorKind::NotFound => "no such program".to_owned(),
                _ => words(&error),
            };
            format!("cannot start {}: {why}", self.command.program.display())
        })?;
        let (status, stderr) =
            run_to_end(&mut running.0).await.map_err(|error| format!("cannot wait for it: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => status.to_string(),
        };
        Err(match last_line(&stderr) {
            Some(line) => format!("{line} ({how})"),
            None => how,
        })
    }

    /// Starts the program on another thread: to start one is to wait for a disk.
    async fn start(&mut self) -> Result<io::Result<Group>, String> {
        loop {
            let mut command = self.command();
            // If nobody waits for it any more, what was sent is dropped, and so killed, wherever it is.
            let (sender, mut receiver) = oneshot::channel();
            let start = move || drop(sender.send(command.spawn().map(Group)));
            self.starting.run(start).await?;
            if let Ok(started) = receiver.try_recv() {
                return Ok(started);
            }
            // That was the start of an earlier one, which had taken longer than its time-out.
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.command.program);
        command
            .args(&self.command.arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("RUDEL_NODE", &self.node)
            .env("RUDEL_CHECK", &self.check)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        // SAFETY: between fork and exec, drop_privileges makes a few system calls, none of which allocates or locks.
        unsafe {
            command.pre_exec(drop_privileges);
        }
        command
    }
}

/// What the kernel spares when memory runs out is the daemon, not what it starts.
const OOM_SCORE: &[u8] = b"0";

/// Without new privileges, what root executes gets no capability that it does not have (capabilities(7)).
fn drop_privileges() -> io::Result<()> {
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Without capabilities, it can be made worse and not better (proc_pid_oom_score_adj(5)): what fails was no better.
    let score = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if let Ok(score) = score {
        let _ = rustix::io::write(score, OOM_SCORE);
    }
    Ok(())
}

/// A program whose whole group is killed if it has not been waited for.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // No id: it was waited for, and the number may be another's by now.
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // Fails only if there is nobody left in it.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Waits for the end, and keeps the last of what it says: whatever it says, it is never held up, and never all kept.
async fn run_to_end(child: &mut Child) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut kept = Vec::new();
    let Some(mut stderr) = child.stderr.take() else {
        return Ok((child.wait().await?, kept));
    };
    let mut read = async |kept: &mut Vec<u8>| {
        let mut buffer = [0; STDERR_KEPT];
        while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
            kept.extend_from_slice(&buffer[..len]);
            kept.drain(..kept.len().saturating_sub(STDERR_KEPT));
        }
    };
    let early = tokio::select! {
        status = child.wait() => Some(status?),
        () = read(&mut kept) => None,
    };
    let status = match early {
        Some(status) => {
            let _ = timeout(STDERR_GRACE, read(&mut kept)).await;
            status
        }
        None => child.wait().await?,
    };
    Ok((status, kept))
}

/// The last line with anything in it.
pub(crate) fn last_line(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};
    use tokio::time::Instant;

    fn shell(script: &str) -> Exec {
        let command = CommandLine {
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
        };
        Exec::new(&command, "n1", "script")
    }

    async fn outcome(script: &str) -> Result<(), String> {
        timeout(Duration::from_secs(20), shell(script).ask()).await.expect("it ends by itself")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_exit_status_is_the_verdict_and_the_last_line_of_stderr_the_reason() {
        let bad = |text: &str| Err(text.to_owned());
        assert_eq!(outcome("echo out; echo err >&2; exit 0").await, Ok(()));
        assert_eq!(outcome("exit 3").await, bad("exit status 3"));
        assert_eq!(
            outcome("echo out; echo no >&2; echo 'disk full' >&2; echo >&2; exit 1").await,
            bad("disk full (exit status 1)")
        );
        assert_eq!(outcome("kill -9 $$").await, bad("killed by signal 9"));
        let missing = CommandLine { program: PathBuf::from("/nowhere/check"), arguments: vec![] };
        let error = Exec::new(&missing, "n1", "x").ask().await.unwrap_err();
        assert_eq!(error, "cannot start /nowhere/check: no such program");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_talkative_program_is_neither_held_up_nor_remembered_whole() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo 'many words many words many words' >&2; i=$((i+1)); done; \
                      echo last >&2; exit 1";
        assert_eq!(outcome(script).await, Err("last (exit status 1)".to_owned()));
        let begin = Instant::now();
        // What it leaves behind holds its standard error open.
        assert_eq!(outcome("sleep 30 & echo left >&2; exit 1").await, Err("left (exit status 1)".to_owned()));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_gets_its_names_and_nothing_of_the_daemons_environment() {
        let script = "test \"$RUDEL_NODE $RUDEL_CHECK $PWD\" = 'n1 script /' || exit 1; \
                      env | grep -q -e CARGO -e HOME= -e NOTIFY_SOCKET && exit 2; exit 0";
        assert_eq!(outcome(script).await, Ok(()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_gets_no_privileges() {
        let script =
            "grep -e '^Cap[IPEA][a-z]*:' -e ^NoNewPrivs: /proc/self/status | tr -d '\\n\\t' >&2; exit 1";
        let none = "0".repeat(16);
        let wanted =
            format!("CapInh:{none}CapPrm:{none}CapEff:{none}CapAmb:{none}NoNewPrivs:1 (exit status 1)");
        assert_eq!(outcome(script).await, Err(wanted));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_not_spared_when_memory_runs_out() {
        let mine = Path::new("/proc/self/oom_score_adj");
        let before = std::fs::read_to_string(mine).unwrap();
        // Without the right to be spared, root's included, nobody is; that the score is set can still be seen, since
        // whoever has made his own worse may take that back.
        std::fs::write(mine, "-500").or_else(|_| std::fs::write(mine, "500")).unwrap();
        let answer = outcome("read score < /proc/self/oom_score_adj; echo $score >&2; exit 1").await;
        std::fs::write(mine, before.trim()).unwrap();
        assert_eq!(answer, Err("0 (exit status 1)".to_owned()));
    }

    /// A script that hangs with a child, and writes both their numbers into a file before.
    fn hanging(pids: &Path) -> String {
        format!("sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", pids.display())
    }

    async fn written(pids: &Path) {
        let written = async {
            while !pids.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), written).await.expect("it runs");
    }

    async fn assert_killed(pids: &Path) {
        let text = std::fs::read_to_string(pids).unwrap();
        assert_eq!(text.split_whitespace().count(), 2, "{text}");
        for pid in text.split_whitespace() {
            let dead = async {
                while alive(pid) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(20), dead).await.unwrap_or_else(|_| panic!("{pid} lives on"));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn at_the_time_out_its_whole_group_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let mut exec = shell(&hanging(&pids));
        tokio::select! {
            outcome = exec.ask() => panic!("it has ended: {outcome:?}"),
            () = written(&pids) => {}
        }
        // The future is dropped, as at a time-out.
        assert_killed(&pids).await;
    }

    #[test]
    fn the_end_of_the_daemon_is_its_end_too() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let daemon = runtime();
        daemon.block_on(async {
            let hour = Duration::from_secs(3600);
            let check = rudel_api::config::Check::Exec(shell(&hanging(&pids)).command);
            let health = rudel_api::config::Health {
                name: "slow".to_owned(),
                check,
                interval: hour,
                timeout: hour,
                rise: 1,
                fall: 1,
            };
            let running = super::super::start(&[health], "n1");
            written(&pids).await;
            drop(running);
        });
        daemon.shutdown_background();
        runtime().block_on(assert_killed(&pids));
    }

    fn alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }
}
