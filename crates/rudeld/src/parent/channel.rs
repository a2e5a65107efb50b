//! What a parent and its daemon say to each other: whole messages over a pair of sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest message in bytes.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Most descriptors that come with one message: one socket for each heartbeat link.
const FDS_MAX: usize = 32;

/// What a daemon tells its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToParent {
    /// Everything that could be refused without a trace is done. It waits for [`ToChild::Begin`].
    Prepared {
        /// Whether it could go on with what a predecessor has left; if not, why.
        adoptable: Result<(), String>,
        /// Version of the program.
        version: String,
    },
    /// It has the node's place. Sockets that are connected to the heartbeat groups come with it.
    Serving(Serving),
    /// Another message for the service manager, as sd_notify(3) takes it.
    Notify(String),
    /// The administrator wants a successor.
    Restart,
    /// It could not begin, and says why before it ends.
    Refused(String),
    /// It has left its state to a successor, and ends.
    HandedOver,
    /// It has taken down what it had put up, and ends with this exit code.
    Ended(u8),
    /// It is about to change this host: what is to be taken down should it die. There are no good-byes yet.
    Begun(Serving),
    /// Its pulse thread has ended, and it takes down what it had put up.
    Ending,
}

/// What the parent needs when the daemon dies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Where the packet filter's state is pinned.
    pub pin_dir: PathBuf,
    /// The journal of changes to this host.
    pub journal: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The lock that there is one daemon of this name.
    pub lock: PathBuf,
    /// The cluster's time-out, in milliseconds.
    pub timeout_ms: u64,
    /// The sealed good-byes of this run; none if it does not serve yet.
    pub farewells: Vec<Vec<u8>>,
}

/// What a parent tells its daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToChild {
    /// Nobody else has the node's place any more: take it.
    Begin,
    /// Leave everything to a successor, and end.
    HandOver,
    /// The successor that was wanted did not come into being; why.
    NoSuccessor(String),
}

/// One end. Closes itself on exec unless it is passed on.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Both ends: the parent's, and the child's. Both block; whoever must not asks to receive [`now`](Channel::receive).
pub fn pair() -> io::Result<(Channel, Channel)> {
    let (parent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Channel(parent), Channel(child)))
}

impl Channel {
    /// The end that was passed on under this number.
    ///
    /// # Safety
    /// The number must be that of an open descriptor that nobody else in this process owns.
    pub unsafe fn inherit(fd: RawFd) -> io::Result<Self> {
        // SAFETY: as the caller promises.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Channel(fd))
    }

    /// Sends a message; waits for room, of which there is plenty.
    pub fn send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Sends a message with descriptors.
    pub fn send_with(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many descriptors"));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message, with its descriptors; `None` when the other end is closed. Waits unless `now`.
    pub fn receive<M: DeserializeOwned>(&self, now: bool) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_LEN_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = if now { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        let received = loop {
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags | RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                // The child died with a message of ours unread.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, fds)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_and_bring_their_descriptors() {
        let (parent, child) = pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        child.send(&ToParent::Restart).unwrap();
        child.send_with(&ToParent::Refused("x".repeat(10_000)), &[write.as_fd()]).unwrap();
        drop(write);
        assert_eq!(parent.receive::<ToParent>(true).unwrap().unwrap().0, ToParent::Restart);
        let (message, fds) = parent.receive::<ToParent>(true).unwrap().unwrap();
        assert!(matches!(message, ToParent::Refused(why) if why.len() == 10_000));
        rustix::io::write(&fds[0], b"!").unwrap();
        let mut byte = [0];
        assert_eq!((rustix::io::read(&read, &mut byte).unwrap(), byte), (1, *b"!"));
        let nothing = parent.receive::<ToParent>(true).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(child);
        // Not at once: a process that another test is about to start has it for a moment, too.
        assert!(parent.receive::<ToParent>(false).unwrap().is_none());
    }
}
