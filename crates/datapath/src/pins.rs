//! What a node leaves pinned in the BPF file system: looked at, silenced and removed from outside, without loading anything.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};

use crate::{
    abi, bpffs,
    error::{Error, Result},
    lease_word::LeaseWord,
    refusal::map_error,
    sys::Link,
    table::{BucketTable, LeaseUntil},
};

pub(crate) const LINK_PREFIX: &str = "link_";

/// Every map, in the order in which they are removed: without `abi`, nobody adopts the rest.
pub(crate) const MAPS: [&str; 9] =
    ["abi", "lease", "buckets", "counters", "bucket_counters", "probes", "aside", "slots", "memo"];

/// What a node's daemon has left in the kernel, alive or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// See [`Datapath::write_memo`].
    pub memo: Vec<u8>,
    /// Until when the filter passes packets.
    pub lease: LeaseUntil,
}

/// Looks at what is pinned in `pin_dir`, and changes nothing. None if nothing is, or not to the end.
pub fn look(pin_dir: &Path) -> Result<Option<Left>> {
    if !is_ours(pin_dir)? {
        return Ok(None);
    }
    let memo: Array<_, abi::Memo> =
        Array::try_from(Map::Array(open_pinned(pin_dir, "memo")?)).map_err(map_error("memo", "open"))?;
    let memo = memo.get(&0, 0).map_err(map_error("memo", "read"))?;
    let lease = LeaseWord::map(&open_pinned(pin_dir, "lease")?)?.load();
    Ok(Some(Left { memo: memo.written().to_vec(), lease }))
}

/// Makes a node silent from outside: lapses the lease of the state that is pinned in `pin_dir`, then empties its table.
/// Filters and counters stay. What a daemon that lives on writes from now on is refused. Says whether there was anything.
///
/// For a process that outlives the daemon: it loads nothing, and needs CAP_BPF only.
pub fn fence(pin_dir: &Path) -> Result<bool> {
    if !is_ours(pin_dir)? {
        return Ok(false);
    }
    let lease = LeaseWord::map(&open_pinned(pin_dir, "lease")?)?;
    // A lease that has never been must change, too, for its writer to notice; the first nanosecond is long over.
    lease.store(if lease.load() == LeaseUntil::LAPSED {
        LeaseUntil::from_nanos(1)
    } else {
        LeaseUntil::LAPSED
    });
    let mut buckets: Array<_, abi::BucketTableBytes> =
        Array::try_from(Map::Array(open_pinned(pin_dir, "buckets")?))
            .map_err(map_error("buckets", "open"))?;
    buckets.set(0, BucketTable::IGNORED.to_bytes(), 0).map_err(map_error("buckets", "write"))?;
    Ok(true)
}

/// Removes everything that any version of this program has pinned in `pin_dir`: the filters come off their interfaces,
/// then the maps go, then the directory. Says whether there was a directory.
///
/// Foreign files in the directory are left alone, and then the directory is, too.
pub fn clean(pin_dir: &Path) -> Result<bool> {
    if !pin_dir.exists() {
        return Ok(false);
    }
    bpffs::require(pin_dir)?;
    remove_pins(pin_dir)?;
    match fs::remove_dir(pin_dir) {
        // The directory itself is the mount point, or is not ours alone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => Ok(true),
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { doing: "remove", path: pin_dir.into(), source })
        }
        _ => Ok(true),
    }
}

pub(crate) fn remove_pins(dir: &Path) -> Result<()> {
    for (_, path) in links(dir)? {
        detach_pin(&path)?;
    }
    MAPS.iter().try_for_each(|name| bpffs::unpin(&dir.join(name)))
}

/// The links that are pinned in a directory, with the interface that each was made for.
pub(crate) fn links(dir: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let failed = |source| Error::Pin { doing: "read", path: dir.into(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let ifindex =
            name.to_str().and_then(|name| name.strip_prefix(LINK_PREFIX)).and_then(|rest| rest.parse().ok());
        found.extend(ifindex.map(|ifindex| (ifindex, entry.path())));
    }
    Ok(found)
}

pub(crate) fn detach_pin(path: &Path) -> Result<()> {
    match Link::open(path) {
        Ok(link) => detach(&link, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Pin { doing: "open", path: path.into(), source }),
    }
}

pub(crate) fn detach(link: &Link, path: &Path) -> Result<()> {
    match link.detach() {
        // The interface is gone, and took the attachment with it.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
        Err(source) => return Err(Error::Detach { path: path.into(), source }),
        Ok(()) => {}
    }
    bpffs::unpin(path)
}

/// Whether a directory holds the whole of what this version pins.
fn is_ours(dir: &Path) -> Result<bool> {
    match pinned_abi(dir)? {
        None | Some(0) => Ok(false),
        Some(abi::ABI_VERSION) => Ok(true),
        Some(found) => Err(Error::OtherAbi { dir: dir.into(), found, expected: abi::ABI_VERSION }),
    }
}

/// The layout of what is pinned in a directory. None if nothing is, 0 if it was not made to the end.
pub(crate) fn pinned_abi(dir: &Path) -> Result<Option<u32>> {
    if !dir.join("abi").exists() {
        return Ok(None);
    }
    let data = open_pinned(dir, "abi")?;
    let version: Array<_, abi::Abi> = Array::try_from(Map::Array(data)).map_err(map_error("abi", "open"))?;
    version.get(&0, 0).map(|abi| Some(abi.version)).map_err(map_error("abi", "read"))
}

pub(crate) fn open_pinned(dir: &Path, map: &'static str) -> Result<MapData> {
    MapData::from_pin(dir.join(map)).map_err(map_error(map, "open"))
}
