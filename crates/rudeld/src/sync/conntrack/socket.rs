//! The three conversations with ctnetlink. Nothing here waits: what is not there yet is asked again later.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};
use socket2::{SockFilter, SockRef};

use super::message::{NETLINK_HEADER_LEN, encode_dump};
use super::{Message, Write, decode, encode};
use crate::host::netlink::messages;

/// `NFNLGRP_CONNTRACK_NEW`, `_UPDATE` and `_DESTROY`.
const GROUPS: [u32; 3] = [1, 2, 3];
/// A message about one connection has some hundred bytes; a piece of a dump up to 32 KiB (`netlink_recvmsg`).
const BUFFER_BYTES: usize = 64 * 1024;
/// Changes that go to the kernel in one call: beyond some tens it gets no cheaper.
const BATCH: usize = 100;
/// Pieces of a dump that are read in one turn, some 50 entries each.
pub const DUMP_CHUNKS_PER_TURN: usize = 40;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

fn open() -> io::Result<(Socket, u32)> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    let port = socket.bind_auto()?.port_number();
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok((socket, port))
}

fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    loop {
        match recv(socket.as_fd(), &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => return Ok(Some(&buffer[..length])),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Number and error code (`-errno`) of an answer that says that something failed, or is done.
fn verdict(message: &[u8]) -> Option<(u32, i32)> {
    let kind = u16::from_ne_bytes(*message[4..].first_chunk()?);
    if kind != MESSAGE_ERROR && kind != MESSAGE_DONE {
        return None;
    }
    let number = u32::from_ne_bytes(*message[8..].first_chunk()?);
    let code = message.get(NETLINK_HEADER_LEN..).and_then(|rest| rest.first_chunk());
    Some((number, code.map_or(0, |code| i32::from_ne_bytes(*code))))
}

/// What a [`Listener`] heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something happened to an entry.
    Event(Message),
    /// The kernel had more to tell than the buffer could hold: an unknown number of events is lost. Dump the table.
    Overrun,
}

/// Hears every change of the table of the namespace that it was opened in, but those of one's own making.
pub struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Listener {
    /// A listener with room for `buffer_bytes` of events, each of which takes about a kilobyte there. `own` is the netlink port of the
    /// [`Writer`] whose changes it does not hear: the kernel drops them before they take room.
    ///
    /// # Errors
    /// What the kernel says: without `CAP_NET_ADMIN`, or without the module `nf_conntrack_netlink`, there is none.
    pub fn open(buffer_bytes: usize, own: u32) -> io::Result<Self> {
        let (socket, _) = open()?;
        SockRef::from(&socket.as_fd()).attach_filter(&all_but_those_of(own))?;
        if sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), buffer_bytes).is_err() {
            sockopt::set_socket_recv_buffer_size(socket.as_fd(), buffer_bytes)?;
        }
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Listener { socket, buffer: vec![0; BUFFER_BYTES] })
    }

    /// The next thing that happened; None if nothing has.
    ///
    /// # Errors
    /// What the kernel says, except that the buffer was full: that is [`Heard::Overrun`].
    pub fn hear(&mut self) -> io::Result<Option<Heard>> {
        loop {
            let datagram = match receive(&self.socket, &mut self.buffer) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Ok(None),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Some(Heard::Overrun)),
                Err(error) => return Err(error),
            };
            // The kernel multicasts each event as a datagram of its own.
            if let Some(message) = messages(datagram).map_while(Result::ok).find_map(decode) {
                return Ok(Some(Heard::Event(message)));
            }
        }
    }
}

/// In the header of every message is who has caused it (`nlmsg_pid`). The filter's loads take a word for one in network order.
fn all_but_those_of(port: u32) -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_WORD, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from_be_bytes(port.to_ne_bytes())),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The whole table, read piece by piece: the kernel makes each piece when it is asked for.
pub struct Dump {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Dump {
    /// Begins a dump.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin() -> io::Result<Self> {
        let (socket, _) = open()?;
        socket.send(&encode_dump(1), 0)?;
        Ok(Dump { socket, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Hands the next piece to `each`; returns whether there is more. Entries that come and go while the table is read may
    /// be in it or not.
    ///
    /// # Errors
    /// What the kernel says; the dump is over then, and incomplete.
    pub fn read(&mut self, mut each: impl FnMut(Message)) -> io::Result<bool> {
        let Some(datagram) = receive(&self.socket, &mut self.buffer)? else {
            return Ok(true);
        };
        for message in messages(datagram) {
            let message = message?;
            match verdict(message) {
                Some((_, 0)) => return Ok(false),
                Some((_, code)) => return Err(io::Error::from_raw_os_error(code.saturating_abs())),
                None => decode(message).into_iter().for_each(&mut each),
            }
        }
        Ok(true)
    }
}

/// Makes, changes and removes entries.
pub struct Writer {
    socket: Socket,
    port: u32,
    number: u32,
    batch: Vec<u8>,
    buffer: Vec<u8>,
}

impl Writer {
    /// A writer for the namespace that it is opened in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        let (socket, port) = open()?;
        // Every message of a batch may fail, and each failure is answered with the message that failed.
        if sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), 1 << 20).is_err() {
            sockopt::set_socket_recv_buffer_size(socket.as_fd(), 1 << 20)?;
        }
        Ok(Writer { socket, port, number: 0, batch: Vec::new(), buffer: vec![0; BUFFER_BYTES] })
    }

    /// Its netlink port: the cause of the events that its own changes give.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Carries all of `writes` out, in order, and tells `failed` of each that the kernel refused.
    ///
    /// # Errors
    /// The conversation itself failed; what has not been carried out is unknown.
    pub fn write(&mut self, writes: &[Write], mut failed: impl FnMut(&Write, Errno)) -> io::Result<()> {
        for batch in writes.chunks(BATCH) {
            self.batch.clear();
            let first = self.number;
            for write in batch {
                encode(&mut self.batch, self.number, write);
                self.number = self.number.wrapping_add(1);
            }
            // The kernel carries them out within the call.
            self.socket.send(&self.batch, 0)?;
            loop {
                match receive(&self.socket, &mut self.buffer) {
                    Ok(None) => break,
                    Ok(Some(datagram)) => {
                        for message in messages(datagram) {
                            let Some((number, code)) = verdict(message?) else { continue };
                            let write = batch.get(number.wrapping_sub(first) as usize);
                            if let Some(write) = write.filter(|_| code != 0) {
                                failed(write, Errno::from_raw_os_error(code.saturating_abs()));
                            }
                        }
                    }
                    // Some failures are not told; what they were about is mended by the next dump or transfer.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
