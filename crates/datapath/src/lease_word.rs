//! The lease's map, mapped into this process.

use std::{
    io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::{
    error::{Error, Result},
    table::LeaseUntil,
};

/// The lease, mapped into our memory: one aligned store moves it, so that the filter never reads half of one.
pub(crate) struct LeaseWord {
    word: NonNull<AtomicU64>,
}

impl LeaseWord {
    pub(crate) fn map(data: &MapData) -> Result<Self> {
        // SAFETY: a new mapping of which we say neither where nor over what.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                rustix::param::page_size(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                data.fd().as_fd(),
                0,
            )
        };
        let word = address
            .map_err(io::Error::from)
            .and_then(|address| NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData.into()))
            .map_err(|error| Error::Map { doing: "map into memory", map: "lease", source: error.into() })?;
        Ok(Self { word })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as `self`, is page-aligned and longer than eight bytes, and everybody who
        // shares it, the kernel included, reads and writes the whole word.
        unsafe { self.word.as_ref() }
    }

    pub(crate) fn store(&self, until: LeaseUntil) {
        self.word().store(until.as_nanos(), Ordering::Release);
    }

    /// Stores `until` if `known` is still there.
    pub(crate) fn replace(&self, known: LeaseUntil, until: LeaseUntil) -> bool {
        let (known, until) = (known.as_nanos(), until.as_nanos());
        self.word().compare_exchange(known, until, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn load(&self) -> LeaseUntil {
        LeaseUntil::from_nanos(self.word().load(Ordering::Acquire))
    }
}

impl Drop for LeaseWord {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, nobody borrows from it any more, and this is the size that it was made with.
        let result = unsafe { munmap(self.word.as_ptr().cast(), rustix::param::page_size()) };
        debug_assert!(result.is_ok());
    }
}

// SAFETY: the word is atomic, and a mapping belongs to the process, not to a thread.
unsafe impl Send for LeaseWord {}
// SAFETY: as above.
unsafe impl Sync for LeaseWord {}
