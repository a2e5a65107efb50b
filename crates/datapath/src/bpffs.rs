//! The file system in which the kernel's state outlives the daemon.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount};

use crate::error::{Error, Result};

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where distributions mount it, and where nothing else can be made while they have not.
const USUAL_PLACE: &str = "/sys/fs/bpf";

/// What [`ensure_bpffs`] found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bpffs {
    /// The directory was on one.
    Present,
    /// One was mounted here, for good: it is not ours alone, and its pins go with it.
    Mounted(PathBuf),
}

/// Is this existing directory on a BPF file system?
pub fn is_bpffs(dir: &Path) -> Result<bool> {
    rustix::fs::statfs(dir)
        // The type's sign and width differ between architectures.
        .map(|found| found.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
        .map_err(|errno| Error::Pin { doing: "look at", path: dir.into(), source: errno.into() })
}

/// Sees to it that `dir` exists, readable by its owner only, and is on a BPF file system; mounts one if it must: on
/// `/sys/fs/bpf` if `dir` is in there, else on `dir` itself.
///
/// A container, or `ip netns exec`, has a `/sys` of its own without that mount: this function then makes one which is
/// seen in this mount namespace only, and is gone with it, pins included.
pub fn ensure_bpffs(dir: &Path) -> Result<Bpffs> {
    let existing = nearest_existing(dir);
    if is_bpffs(existing)? {
        create(dir)?;
        return Ok(Bpffs::Present);
    }

    let point = if dir.starts_with(USUAL_PLACE) { Path::new(USUAL_PLACE) } else { dir };
    create(point)?;
    mount("bpf", point, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"mode=0700")
        .map_err(|errno| Error::Mount { mount: point.into(), source: errno.into() })?;
    tracing::info!(mount = %point.display(), "mounted a BPF file system");
    create(dir)?;
    Ok(Bpffs::Mounted(point.into()))
}

/// Refuses a directory that does not exist or is not on a BPF file system.
pub(crate) fn require(dir: &Path) -> Result<()> {
    if is_bpffs(nearest_existing(dir))? {
        return Ok(());
    }
    let mount = if dir.starts_with(USUAL_PLACE) { Path::new(USUAL_PLACE) } else { dir };
    Err(Error::NotBpffs { dir: dir.into(), mount: mount.into() })
}

pub(crate) fn create(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::Pin {
        doing: "create",
        path: dir.into(),
        source,
    })
}

/// Removes a pin; one that is not there is as good.
pub(crate) fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { doing: "remove", path: path.into(), source: error })
        }
        _ => Ok(()),
    }
}

fn nearest_existing(dir: &Path) -> &Path {
    dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}
