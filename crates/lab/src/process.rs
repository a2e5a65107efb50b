//! A child process with a log, that never outlives its handle unless it is told to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{sys, wait_until};

/// A running process: leader of a process group of its own, so that it can be signalled with its children and does not get
/// the terminal's Ctrl-C.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    detached: bool,
}

impl Process {
    /// Starts `command` with both outputs appended to the file `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out: File = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}: {:?}", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), detached: false })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_until(deadline, &format!("{name} to end"), || {
            self.try_wait().ok_or_else(|| format!("process {} still runs", self.child.id()))
        })
    }

    /// Sends a signal to this one process, as `systemctl stop` does to the main process.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::kill(self.pid(), signal)
    }

    /// Its children.
    pub fn children(&self) -> Vec<u32> {
        descendants(self.pid())
            .into_iter()
            .filter(|pid| stat_field(*pid, 4).and_then(|parent| parent.parse().ok()) == Some(self.pid()))
            .collect()
    }

    /// Sends a signal to the process and all its descendants, in one instant as far as that is possible.
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        // Children of a group of their own are not reached by the group; look them up before their parent is gone.
        let strays = descendants(self.pid());
        let result = sys::kill_group(self.pid(), signal);
        for pid in strays {
            let _ = sys::kill(pid, signal);
        }
        result
    }

    /// Kills it and all its descendants with SIGKILL and collects it.
    pub fn kill(&mut self) {
        // Both fail only when it is dead already.
        let _ = self.signal_all(libc::SIGKILL);
        let _ = self.child.wait();
    }

    /// Lets it run on after the handle is dropped.
    pub fn detach(&mut self) {
        self.detached = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.detached && self.try_wait().is_none() {
            self.kill();
        }
    }
}

/// All processes below `root`, in no order.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parents: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, stat_field(pid, 4)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5); not the first two.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which may itself hold blanks and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number - 3).map(str::to_owned)
}

/// A name for one life of a process: ids are used again, start times are not.
pub(crate) fn life_of(pid: u32) -> Option<String> {
    // A zombie no longer owns anything.
    (stat_field(pid, 3)? != "Z").then_some(())?;
    Some(format!("{pid} {}", stat_field(pid, 22)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rudel-lab-{}-{name}.log", std::process::id()))
    }

    #[test]
    fn a_dropped_process_is_dead_with_its_children() {
        let log = scratch("dropped");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo ready; wait"]);
        let process = Process::spawn("sh", command, &log).expect("starts");
        wait_until(Duration::from_secs(5), "the shell", || {
            if process.log().contains("ready") { Ok(()) } else { Err(process.log()) }
        })
        .expect("ready");
        let (leader, children) = (process.pid(), descendants(process.pid()));
        assert_eq!(children.len(), 1);
        drop(process);
        assert_eq!(life_of(leader), None);
        wait_until(Duration::from_secs(5), "the child to die", || match life_of(children[0]) {
            None => Ok(()),
            Some(life) => Err(life),
        })
        .expect("dead");
        std::fs::remove_file(log).expect("the log is there");
    }

    #[test]
    fn an_exit_status_is_seen_once_it_is_there() {
        let log = scratch("status");
        let mut command = Command::new("sh");
        command.args(["-c", "echo sorry >&2; exit 3"]);
        let mut process = Process::spawn("sh", command, &log).expect("starts");
        assert_eq!(process.wait(Duration::from_secs(5)).expect("ends").code(), Some(3));
        assert_eq!(process.log(), "sorry\n");
        std::fs::remove_file(log).expect("the log is there");
    }

    #[test]
    fn my_own_life_has_a_name() {
        let me = life_of(std::process::id()).expect("I am alive");
        assert!(me.starts_with(&std::process::id().to_string()));
        assert_eq!(life_of(u32::MAX), None);
    }
}
