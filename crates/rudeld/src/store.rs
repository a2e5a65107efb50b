//! What a node keeps on this machine: the locks that there is one daemon of its name, and the number of its run.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::advice::advised;

use rudel_proto::id::Incarnation;
use rustix::fs::{FlockOperation, flock};

/// How long a lock may be held by a process that is dying.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks whether it is free.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(2);

/// Why a daemon's place on this machine could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is one already.
    #[error(
        "another rudeld runs for node {node} here (it holds {}); stop it first, or give this one its own --name, \
         --socket and --runtime-dir", lock.display()
    )]
    Running {
        /// The node.
        node: String,
        /// The lock.
        lock: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("cannot {action} {}: {}", path.display(), advised(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// This daemon's place: nobody else has it while the value lives, or while the kernel has not noticed its death.
#[derive(Debug)]
pub struct Place {
    _lock: File,
    _pins: File,
    lock_path: PathBuf,
    pin_dir: PathBuf,
    runtime_stem: PathBuf,
    incarnation_path: PathBuf,
    events_path: PathBuf,
    told_path: PathBuf,
}

impl Place {
    /// Takes the place of `node` of `cluster`, making the directories.
    ///
    /// Two locks: of the files in `runtime_dir`, and of the kernel's state in `pin_dir`. A daemon that was given another runtime
    /// directory would take what its rival has left there for a successor, the number of its run included, for a predecessor's.
    pub fn take(
        runtime_dir: &Path,
        state_dir: &Path,
        pin_dir: &Path,
        cluster: &str,
        node: &str,
    ) -> Result<Self, StoreError> {
        for dir in [runtime_dir, state_dir] {
            fs::create_dir_all(dir).map_err(|source| io_error("create", dir, source))?;
        }
        let stem = format!("{cluster}-{node}");
        let lock_path = runtime_dir.join(format!("{stem}.lock"));
        let file = lock(&lock_path, node, |path| {
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
        })?;
        let pins = lock(pin_dir, node, |path| {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            File::open(path)
        })?;
        Ok(Place {
            _lock: file,
            _pins: pins,
            lock_path,
            pin_dir: pin_dir.into(),
            runtime_stem: runtime_dir.join(&stem),
            incarnation_path: state_dir.join(format!("{stem}.incarnation")),
            events_path: state_dir.join(format!("{stem}.events.jsonl")),
            told_path: state_dir.join(format!("{stem}.told")),
        })
    }

    /// The lock.
    pub fn lock_path(&self) -> &Path {
        &self.lock_path
    }

    /// Where the journal of changes to the host is.
    pub fn host_journal(&self) -> PathBuf {
        self.runtime_stem.with_file_name(format!("{}.host.json", self.file_name()))
    }

    /// Where the history is kept.
    pub fn events(&self) -> &Path {
        &self.events_path
    }

    /// Where the number of the last event is kept that the administrator's program has been told of.
    pub fn told(&self) -> &Path {
        &self.told_path
    }

    /// A number for this run, higher than that of every run before, and stored before it is used.
    ///
    /// Seconds of the wall clock in the upper bits, chance in the lower: if both the file and the right time are lost,
    /// a number is still not used twice. Peers teach a node that came back with a lower one (R5). Where the clock is behind
    /// what is stored, chance is there none the less: an older file, as a power cut or a snapshot may bring it back, must
    /// not lead to the number that it has led to before.
    pub fn next_incarnation(&self) -> Result<Incarnation, StoreError> {
        let stored = match fs::read_to_string(&self.incarnation_path) {
            Ok(text) => text.trim().parse::<u64>().unwrap_or_else(|_| {
                tracing::warn!(path = %self.incarnation_path.display(), "not a number: beginning anew from the clock: if the clock is right, nothing to do");
                0
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io_error("read", &self.incarnation_path, error)),
        };
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut chance = [0; 4];
        rustix::rand::getrandom(&mut chance[1..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| io_error("read", Path::new("the random number generator"), error.into()))?;
        let fresh = Incarnation(seconds << Incarnation::CHANCE_BITS | u64::from(u32::from_be_bytes(chance)));
        let stored = Incarnation(stored);
        // Where there is no higher number, a lower one that was never used is let in when the last run is silent (R5).
        let incarnation = if fresh > stored { fresh } else { fresh.after(stored).unwrap_or(fresh) };
        self.store_incarnation(incarnation)?;
        Ok(incarnation)
    }

    /// Stores the number of the present run, so that the next gets a higher one.
    pub fn store_incarnation(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        replace(&self.incarnation_path, format!("{}\n", incarnation.0).as_bytes())
    }

    /// Where what all nodes live by is kept for the next daemon. It may be read before the place is taken.
    pub fn terms_path(state_dir: &Path, cluster: &str, node: &str) -> PathBuf {
        state_dir.join(format!("{cluster}-{node}.terms.json"))
    }

    fn file_name(&self) -> String {
        self.runtime_stem.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Takes the lock of what `open` opens. Whoever had it before may have removed that between our opening and our locking it: a lock
/// on what nobody else can open is none.
///
/// A daemon that was killed holds its lock until the kernel has taken the process apart: so it is waited for a moment.
fn lock(path: &Path, node: &str, open: impl Fn(&Path) -> io::Result<File>) -> Result<File, StoreError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let file = open(path).map_err(|source| io_error("open", path, source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_LOOK_EVERY);
                continue;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::Running { node: node.into(), lock: path.into() });
            }
            Err(error) => return Err(io_error("lock", path, error.into())),
        }
        let ours = file.metadata().map_err(|source| io_error("look at", path, source))?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("look at", path, error)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // While the locks are still held. If it fails, an empty file stays, which the next start takes. The directory goes if
        // nothing is pinned in it.
        let _ = fs::remove_file(&self.lock_path);
        let _ = fs::remove_dir(&self.pin_dir);
    }
}

/// Writes a file that is there whole or as it was, whatever happens meanwhile; and when this returns, it is there after a
/// power cut, too.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The new name is in the directory, which is written when the kernel likes.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| io_error("write", path, source))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(dir: &Path, node: &str) -> Result<Place, StoreError> {
        Place::take(dir, dir, &dir.join("pins").join(node), "web", node)
    }

    #[test]
    fn a_place_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = take(dir.path(), "n1").unwrap();
        assert!(matches!(take(dir.path(), "n1"), Err(StoreError::Running { .. })));
        take(dir.path(), "n2").unwrap();
        drop(place);
        assert!(!dir.path().join("web-n1.lock").exists(), "a daemon that has left leaves no lock");
        assert!(!dir.path().join("pins/n1").exists(), "nor a directory in which nothing is pinned");
        take(dir.path(), "n1").unwrap();
    }

    #[test]
    fn what_the_kernel_keeps_is_one_daemon_s_whatever_other_directories_it_has() {
        let [dir, other, pins] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let pin_dir = pins.path().join("web-n1");
        let place = Place::take(dir.path(), dir.path(), &pin_dir, "web", "n1").unwrap();
        let rival = || Place::take(other.path(), other.path(), &pin_dir, "web", "n1");
        let Err(StoreError::Running { lock, .. }) = rival() else {
            panic!("two daemons have one kernel's state")
        };
        assert_eq!(lock, pin_dir);
        fs::write(pin_dir.join("memo"), "").unwrap();
        drop(place);
        assert!(pin_dir.join("memo").exists(), "what is pinned is there for the next one");
        rival().unwrap();
    }

    #[test]
    fn a_lock_that_is_about_to_be_free_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let dying = take(dir.path(), "n1").unwrap();
        let (began, beginning) = std::sync::mpsc::channel();
        let last = std::thread::spawn(move || {
            beginning.recv().unwrap();
            drop(dying);
        });
        began.send(()).unwrap();
        take(dir.path(), "n1").unwrap();
        last.join().unwrap();
    }

    #[test]
    fn every_run_has_a_higher_number() {
        let dir = tempfile::tempdir().unwrap();
        let place = take(dir.path(), "n1").unwrap();
        let first = place.next_incarnation().unwrap();
        let second = place.next_incarnation().unwrap();
        assert!(second > first);
        // Learned from the peers, far ahead of the clock.
        let ahead = Incarnation(1 << 60);
        place.store_incarnation(ahead).unwrap();
        let third = place.next_incarnation().unwrap();
        assert!(third > ahead);
        // A power cut has brought the file back as it was before.
        place.store_incarnation(ahead).unwrap();
        let again = place.next_incarnation().unwrap();
        assert!(again > ahead && again != third, "{again:?} after {third:?}");
        // No number is higher.
        place.store_incarnation(Incarnation(u64::MAX)).unwrap();
        assert_ne!(place.next_incarnation().unwrap(), Incarnation(u64::MAX));
        fs::write(dir.path().join("web-n1.incarnation"), "rubbish").unwrap();
        assert!(place.next_incarnation().unwrap() > Incarnation(1 << 40));
    }
}
