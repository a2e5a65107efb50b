//! Whether a program exits with 0.
//!
//! It runs as the leader of a process group of its own, and is killed with all of it at the time-out or when the daemon
//! ends; when the daemon is killed or crashes, the kernel kills the program, and what that has started goes on. It gets
//! none of the daemon's privileges: no capability, and none to be had by executing something (`no new privileges`,
//! prctl(2)), and not its protection from the end of memory; it stays the daemon's user, root. Its environment holds
//! `PATH`, `RUDEL_NODE` and `RUDEL_CHECK`, its standard input and output are /dev/null. Of its standard error the last line
//! is the reason of a failure.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use rudel_api::config::CommandLine;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::program::{self, LastWords, SEARCH_PATH, STDERR_GRACE};

pub(super) struct Exec {
    command: CommandLine,
    node: String,
    check: String,
    starter: Option<Sender<Start>>,
}

/// A program to be started, and who waits for it.
struct Start {
    command: Command,
    started: oneshot::Sender<io::Result<Group>>,
}

impl Exec {
    pub(super) fn new(command: &CommandLine, node: &str, check: &str) -> Self {
        Exec { command: command.clone(), node: node.to_owned(), check: check.to_owned(), starter: None }
    }

    pub(super) async fn ask(&mut self) -> Result<(), String> {
        let mut running = self.start().await.map_err(|error| {
            format!("cannot start {}: {}", self.command.program.display(), program::why_not(&error))
        })?;
        let (status, said) =
            run_to_end(&mut running.0).await.map_err(|error| format!("cannot wait for it: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let how = program::how(status);
        Err(match said.line() {
            Some(line) => format!("{line} ({how})"),
            None => how,
        })
    }

    /// Starts the program on another thread: to start one is to wait for a disk. It is a thread of this check's own, which
    /// lives as long as the check, since the program dies with it.
    async fn start(&mut self) -> io::Result<Group> {
        let (sender, started) = oneshot::channel();
        let start = Start { command: self.command(), started: sender };
        let starter = match &self.starter {
            Some(starter) => starter,
            None => self.starter.insert(starter()?),
        };
        let ended = || io::Error::other("the thread that starts it has ended");
        starter.send(start).map_err(|_| ended())?;
        started.await.map_err(|_| ended())?
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
        let daemon = std::process::id();
        // SAFETY: between fork and exec, these make a few system calls, none of which allocates or locks.
        unsafe {
            command.pre_exec(drop_privileges).pre_exec(move || program::die_with_starter(daemon));
        }
        command
    }
}

/// A thread that starts programs for as long as anybody wants it to.
fn starter() -> io::Result<Sender<Start>> {
    let (sender, wanted): (_, Receiver<Start>) = channel();
    let runtime = Handle::current();
    let start = move || {
        let _runtime = runtime.enter();
        for Start { mut command, started } in wanted {
            // After a start that took long, nobody may wait for the next one any more either.
            if !started.is_closed() {
                // If nobody waits for it, what was sent is dropped, and so killed, wherever it is.
                drop(started.send(command.spawn().map(Group)));
            }
        }
    };
    std::thread::Builder::new().name("rudel-exec".into()).spawn(start)?;
    Ok(sender)
}

/// Without new privileges, what root executes gets no capability that it does not have (capabilities(7)).
fn drop_privileges() -> io::Result<()> {
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    program::be_spared_no_more();
    Ok(())
}

/// A program whose whole group is killed if it has not been waited for.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // No id: it was waited for, and the number may be another's by now.
        if let Some(id) = self.0.id() {
            program::kill_group(id);
        }
    }
}

/// Waits for the end, and keeps the last of what it says: whatever it says, it is never held up, and never all kept.
async fn run_to_end(child: &mut Child) -> io::Result<(ExitStatus, LastWords)> {
    let mut said = LastWords::default();
    let Some(mut stderr) = child.stderr.take() else {
        return Ok((child.wait().await?, said));
    };
    let mut read = async |said: &mut LastWords| {
        let mut buffer = LastWords::buffer();
        while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
            said.hear(&buffer[..len]);
        }
    };
    let early = tokio::select! {
        status = child.wait() => Some(status?),
        () = read(&mut said) => None,
    };
    let status = match early {
        Some(status) => {
            let _ = timeout(STDERR_GRACE, read(&mut said)).await;
            status
        }
        None => child.wait().await?,
    };
    Ok((status, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
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
            let checks = super::super::Checks::new(&[health], rudel_api::timestamp::Timestamp::now());
            let running = super::super::start(&checks, "n1");
            written(&pids).await;
            drop(running);
        });
        daemon.shutdown_background();
        runtime().block_on(assert_killed(&pids));
    }

    #[test]
    fn it_dies_with_a_daemon_that_is_killed() {
        const PIDS: &str = "RUDEL_TEST_PIDS";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Some(pids) = std::env::var_os(PIDS).map(PathBuf::from) {
            // As the daemon.
            let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pids.display());
            let outcome = runtime.block_on(shell(&script).ask());
            panic!("it has ended: {outcome:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let mut daemon = std::process::Command::new(std::env::current_exe().unwrap());
        daemon.args(["health::exec::tests::it_dies_with_a_daemon_that_is_killed", "--exact"]);
        let mut daemon = daemon.env(PIDS, &pids).spawn().unwrap();
        runtime.block_on(written(&pids));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let program = std::fs::read_to_string(&pids).unwrap();
        let dead = async {
            while alive(program.trim()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let dead = runtime.block_on(async { timeout(Duration::from_secs(20), dead).await });
        dead.expect("it dies with the daemon");
    }

    fn alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }
}
