//! The daemon's end of the tie to its parent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

use super::board::Board;
use super::channel::{Channel, ToChild, ToParent};
use crate::leaving;
use crate::options::Tied;

/// Where the parent's state is, `R`, `S`, `T` …: behind the name in parentheses.
const STAT_LEN_MAX: usize = 256;

/// A daemon's tie to its parent. It dies with the parent, and stops with it.
#[derive(Clone, Debug)]
pub struct Tie {
    channel: Arc<Channel>,
    board: Arc<Board>,
    parent_stat: Arc<File>,
}

impl Tie {
    /// Takes up the tie that a parent's command line tells of.
    ///
    /// # Safety
    /// To be called once, with what the parent has passed on.
    pub unsafe fn take_up(tied: &Tied) -> io::Result<Self> {
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes a number and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if rustix::process::getppid().is_none_or(|parent| parent.as_raw_pid() != tied.parent) {
            // It died before that.
            return Err(io::Error::other("the parent process is gone"));
        }
        // SAFETY: as the caller promises.
        let (channel, board) =
            unsafe { (Channel::inherit(tied.channel as RawFd)?, Board::inherit(tied.board as RawFd)?) };
        let parent_stat = File::open(format!("/proc/{}/stat", tied.parent))?;
        Ok(Tie { channel: Arc::new(channel), board: Arc::new(board), parent_stat: Arc::new(parent_stat) })
    }

    /// Tells the parent something. If it is gone, this process will be in a moment.
    pub fn tell(&self, message: &ToParent) {
        self.tell_with(message, &[]);
    }

    /// Tells it with descriptors.
    pub fn tell_with(&self, message: &ToParent, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = self.channel.send_with(message, fds) {
            tracing::warn!(%error, "the parent process was not told: see with `systemctl status rudeld` whether it lives");
        }
    }

    /// Tells parent and service manager that what was put up is being taken down, which may take its time.
    pub fn tell_ending(&self) {
        self.tell(&ToParent::Ending);
        self.tell(&ToParent::Notify(leaving::taking_down()));
    }

    /// Tells that all is prepared, and waits until the node's place is free.
    pub fn wait_for_place(&self, adoptable: Result<(), String>) -> io::Result<()> {
        self.tell(&ToParent::Prepared { adoptable, version: env!("CARGO_PKG_VERSION").into() });
        loop {
            match self.channel.receive::<ToChild>(false)? {
                Some((ToChild::Begin, _)) => return Ok(()),
                Some(_) => {}
                None => return Err(io::Error::other("the parent process is gone")),
            }
        }
    }

    /// What the parent wants, for the runtime to wait for.
    pub fn listen(&self) -> io::Result<Orders> {
        // SAFETY: the descriptor belongs to the value that is registered, and is the same one as long as that lives.
        Ok(Orders(unsafe { AsyncFd::register(ChannelFd(self.channel.clone())) }?))
    }

    /// The pulse thread has made a turn.
    pub fn beat(&self) {
        self.board.beat();
    }

    /// Stops this process if its parent is stopped: whoever stops the main process of a service means all of it.
    pub fn stop_with_parent(&self) {
        let mut stat = [0; STAT_LEN_MAX];
        let Ok(len) = self.parent_stat.read_at(&mut stat, 0) else { return };
        if !is_stopped(&stat[..len]) {
            return;
        }
        self.board.set_stopped_with_parent(true);
        // To this very thread, so that it does not get as far as another pulse; all others stop with it. The parent
        // wakes us when it goes on, and its death is ours.
        // SAFETY: raise takes a number; SIGSTOP runs no handler.
        unsafe {
            libc::raise(libc::SIGSTOP);
        }
        self.board.set_stopped_with_parent(false);
    }
}

/// Whether a line of /proc/PID/stat is that of a process that SIGSTOP has stopped.
pub(super) fn is_stopped(stat: &[u8]) -> bool {
    state(stat) == Some(b'T')
}

/// The state letter in a line of /proc/PID/stat. The name before it may itself hold blanks and parentheses.
pub(super) fn state(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).copied()
}

#[derive(Debug)]
struct ChannelFd(Arc<Channel>);

impl AsRawFd for ChannelFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for ChannelFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the parent wants of a serving daemon.
#[derive(Debug)]
pub struct Orders(AsyncFd<ChannelFd>);

impl Orders {
    /// The next thing that it wants.
    pub async fn next(&mut self) -> ToChild {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            match self.0.get_ref().0.receive::<ToChild>(true) {
                Ok(Some((order, _))) => return order,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // It is gone, and this process with it.
                Ok(None) => return std::future::pending().await,
                Err(error) => {
                    tracing::warn!(%error, "the parent process is not understood: install the package again, and start the service again");
                    ready.clear_ready();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_comes_behind_the_last_parenthesis() {
        assert_eq!(state(b"12 (a) T (b)) S 1 12"), Some(b'S'));
        assert!(is_stopped(b"12 (rudeld) T 1 12"));
        assert!(!is_stopped(b"12 (rudeld) t 1 12"), "a debugger looks at it");
        assert_eq!(state(b"12 (rudeld"), None);
    }
}
