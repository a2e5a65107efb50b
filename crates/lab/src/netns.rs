//! Network namespaces by name, as `ip netns` knows them, so that a lab can be looked at with the usual tools.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{sys, wait_until};

/// Where `ip netns` keeps its names.
const NETNS_DIR: &str = "/run/netns";

/// A handle on a named network namespace. Dropping it does nothing: the lab that made it removes it.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a new namespace with its loopback up.
    pub(crate) fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self { name: name.to_owned() };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A handle on a namespace that may or may not exist.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its name for `ip netns` and `ip -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Does it exist?
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    fn open(&self) -> io::Result<File> {
        File::open(self.path())
    }

    /// Runs `work` on a thread of its own inside the namespace and returns its result. Sockets that it opens and threads
    /// that it starts belong to the namespace; files are those of the machine.
    ///
    /// # Panics
    /// If `work` panics, with the same message.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open().with_context(|| format!("no network namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name(self.name.clone())
                .spawn_scoped(scope, || sys::enter_netns(file.as_fd()).map(|()| work()))?;
            match thread.join() {
                Ok(result) => result.with_context(|| format!("entering namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run inside the namespace, and in no new mount namespace: what it pins in a BPF file system or
    /// leaves in a directory outlives it, as on a real machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = self.open().with_context(|| format!("no network namespace {}", self.name))?;
        let mut command = Command::new(program);
        sys::before_exec(&mut command, move || sys::enter_netns(file.as_fd()));
        Ok(command)
    }

    /// Runs lines of `ip -batch` inside.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ip (package iproute2)")?;
        child.stdin.take().expect("piped").write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("ip in {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Writes kernel settings of the namespace, as `("net.ipv4.ip_nonlocal_bind", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys").join(key.replace('.', "/"));
                std::fs::write(&path, value).with_context(|| format!("setting {key} = {value}"))?;
            }
            Ok(())
        })?
    }

    /// All processes that live in it.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(inode) = std::fs::metadata(self.path()).map(|m| m.ino()) else { return Vec::new() };
        let link = format!("net:[{inode}]");
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != std::process::id())
            .filter(|pid| {
                std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|l| l.as_os_str() == &*link)
            })
            .collect()
    }

    /// Kills whatever lives in the namespace and removes it, with all its devices.
    pub(crate) fn destroy(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        self.kill_all()?;
        run(Command::new("ip").args(["netns", "delete", &self.name]))
    }

    /// Kills whatever lives in the namespace.
    pub(crate) fn kill_all(&self) -> Result<()> {
        wait_until(Duration::from_secs(5), "the processes of a namespace to die", || {
            let alive = self.processes();
            for pid in &alive {
                // A process that ended by itself meanwhile is as dead as one that was killed.
                let _ = sys::kill(*pid, libc::SIGKILL);
            }
            if alive.is_empty() { Ok(()) } else { Err(format!("{}: processes {alive:?}", self.name)) }
        })
    }
}

/// Runs a command to its end; an error holds its words.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end and returns what it printed; an error holds its words.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
