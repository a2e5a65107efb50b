//! A page that a daemon shares with its parent: the daemon's beats, which cost it one store each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What is on the page.
#[repr(C)]
struct Page {
    beats: AtomicU64,
    stopped_with_parent: AtomicU32,
}

/// One process's sight of the page.
#[derive(Debug)]
pub struct Board {
    fd: OwnedFd,
    page: NonNull<Page>,
}

impl Board {
    /// A new page, of zeros.
    pub fn new() -> io::Result<Self> {
        let fd = memfd_create("rudeld-beats", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, rustix::param::page_size() as u64)?;
        Self::map(fd)
    }

    /// The page that was passed on under this number.
    ///
    /// # Safety
    /// The number must be that of an open descriptor that nobody else in this process owns.
    pub unsafe fn inherit(fd: RawFd) -> io::Result<Self> {
        // SAFETY: as the caller promises.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        if rustix::fs::fstat(&fd)?.st_size < rustix::param::page_size() as i64 {
            return Err(io::Error::other("not a page to share"));
        }
        Self::map(fd)
    }

    fn map(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: a new mapping of which we say neither where nor over what; the file is a page long.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                rustix::param::page_size(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        }?;
        let page = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Board { fd, page })
    }

    fn page(&self) -> &Page {
        // SAFETY: the mapping lives as long as `self` and is page-aligned; everybody uses atomics only, for which any
        // bytes are a value.
        unsafe { self.page.as_ref() }
    }

    /// The pulse thread has made a turn.
    pub fn beat(&self) {
        self.page().beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How many turns it has made.
    pub fn beats(&self) -> u64 {
        self.page().beats.load(Ordering::Relaxed)
    }

    /// The daemon is about to stop itself because its parent is stopped, or goes on.
    pub fn set_stopped_with_parent(&self, stopped: bool) {
        self.page().stopped_with_parent.store(stopped.into(), Ordering::SeqCst);
    }

    /// See [`Board::set_stopped_with_parent`].
    pub fn is_stopped_with_parent(&self) -> bool {
        self.page().stopped_with_parent.load(Ordering::SeqCst) != 0
    }
}

impl AsFd for Board {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, nobody borrows from it any more, and this is the size that it was made with.
        let result = unsafe { munmap(self.page.as_ptr().cast(), rustix::param::page_size()) };
        debug_assert!(result.is_ok());
    }
}

// SAFETY: the page holds atomics only, and a mapping belongs to the process, not to a thread.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sights_of_one_page() {
        let ours = Board::new().unwrap();
        let theirs = Board::map(ours.fd.try_clone().unwrap()).unwrap();
        theirs.beat();
        theirs.set_stopped_with_parent(true);
        assert_eq!((ours.beats(), ours.is_stopped_with_parent()), (1, true));
    }
}
