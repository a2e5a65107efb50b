//! What exists on the machine because of labs, and how it goes away again.
//!
//! A lab is a directory `BASE/NAME` whose files alone tell what has to be undone: `owner` (the process that is responsible
//! for it), `namespaces` (each written down *before* it is made), and `bpf` (a mount). So the same few lines tear a lab down
//! in a destructor, in a signal handler's thread, in `rudel-lab down`, and in `rudel-lab gc` after the owner was killed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::netns::Namespace;
use crate::process::life_of;
use crate::sys;

/// The owner of a lab that is to stay until `rudel-lab down`.
const KEPT: &str = "kept";

/// The directory that holds all labs: `$RUDEL_LAB_DIR`, or a directory of the machine's run-time files.
pub fn base() -> PathBuf {
    std::env::var_os("RUDEL_LAB_DIR").map_or_else(|| PathBuf::from("/run/rudel-lab"), PathBuf::from)
}

/// Held while labs are made or collected, so that a lab without an owner is never seen.
fn base_lock() -> Result<File> {
    lock_file("lock")
}

fn lock_file(name: &str) -> Result<File> {
    let base = base();
    fs::create_dir_all(&base).with_context(|| format!("making {}", base.display()))?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(base.join(name))?;
    file.lock()?;
    Ok(file)
}

/// Waits until no other process or thread holds this, and holds it until dropped: labs are heavy, and two at a time on a
/// small machine would disturb each other's timing.
pub fn one_at_a_time() -> Result<impl Drop> {
    struct Held(File);
    impl Drop for Held {
        fn drop(&mut self) {
            // Closing the file would do too; this says so, and works when a child has inherited it.
            let _ = self.0.unlock();
        }
    }
    lock_file("serial").map(Held)
}

/// Makes the directory of a new lab, owned by this process.
pub(crate) fn create(name: &str) -> Result<PathBuf> {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(ok) {
        bail!("{name:?} is no name for a lab: letters, digits and '-' are");
    }
    let _lock = base_lock()?;
    let dir = base().join(name);
    fs::create_dir(&dir).with_context(|| {
        format!("making {} (a lab of that name may exist: rudel-lab down --name {name})", dir.display())
    })?;
    let me = life_of(std::process::id()).context("reading my own start time from /proc")?;
    fs::write(dir.join("owner"), me)?;
    watch_signals();
    active().insert(dir.clone());
    Ok(dir)
}

/// Notes a namespace that is about to be made.
pub(crate) fn note_namespace(dir: &Path, name: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("namespaces"))?;
    Ok(writeln!(file, "{name}")?)
}

/// Leaves the lab standing when this process ends.
pub(crate) fn keep(dir: &Path) -> Result<()> {
    fs::write(dir.join("owner"), KEPT)?;
    active().remove(dir);
    Ok(())
}

/// Undoes everything that a lab has made: processes, namespaces, mounts, files. Goes on after a failure and returns the
/// first one; a second call does what is left.
pub fn destroy(dir: &Path) -> Result<()> {
    let mut result = Ok(());
    let mut note = |outcome: Result<()>| {
        if result.is_ok() {
            result = outcome;
        }
    };
    let namespaces = fs::read_to_string(dir.join("namespaces")).unwrap_or_default();
    let namespaces: Vec<Namespace> = namespaces.lines().map(Namespace::named).collect();
    for namespace in &namespaces {
        note(namespace.destroy());
    }
    let bpf = dir.join("bpf");
    note(sys::unmount(&bpf).with_context(|| format!("unmounting {}", bpf.display())));
    // Until the mount and the namespaces are gone their names must not be lost.
    if result.is_ok() && dir.exists() {
        result = fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()));
    }
    active().remove(dir);
    result
}

/// Removes the labs whose owner is dead, and returns their names.
pub fn collect_garbage() -> Result<Vec<String>> {
    let _lock = base_lock()?;
    let mut collected = Vec::new();
    for dir in lab_dirs() {
        let owner = fs::read_to_string(dir.join("owner")).unwrap_or_default();
        let pid = owner.split(' ').next().and_then(|pid| pid.parse().ok());
        let alive = owner == KEPT || pid.is_some_and(|pid| life_of(pid).as_deref() == Some(&*owner));
        if !alive {
            destroy(&dir)?;
            collected.push(dir.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    Ok(collected)
}

/// The names of all labs on this machine, those of other processes included.
pub fn names() -> Vec<String> {
    lab_dirs()
        .iter()
        .filter_map(|dir| dir.file_name().map(|name| name.to_string_lossy().into_owned()))
        .collect()
}

fn lab_dirs() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base()) else { return Vec::new() };
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    dirs
}

/// The labs that this process has to tear down before it ends.
static ACTIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn active() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    // A panic elsewhere is no reason to leave rubbish.
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From the first lab on, SIGINT, SIGTERM and SIGHUP tear down all labs of this process before they end it.
fn watch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let dirs: Vec<PathBuf> = active().iter().cloned().collect();
                for dir in dirs {
                    // The main thread may still be building: what it adds meanwhile makes one of these fail.
                    if let Err(error) = destroy(&dir).or_else(|_| destroy(&dir)) {
                        eprintln!("rudel-lab: {error:#}");
                    }
                }
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
    });
}
