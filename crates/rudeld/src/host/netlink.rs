//! One blocking rtnetlink conversation: a request, and what the kernel answers to it. And what all conversations by netlink
//! have in common: the [messages] in a datagram.
//!
//! Netlink and not sysfs, because after a bare `setns` /sys still shows the namespace it was mounted in.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// How often an inconsistent dump (the table changed meanwhile) is asked again before what it gave is taken.
const DUMP_ATTEMPTS_MAX: u32 = 8;

/// The size of `struct nlmsghdr`, in bytes (netlink(7)).
pub(crate) const HEADER_LEN: usize = 16;
/// What messages begin at a multiple of, in bytes.
const ALIGNMENT: usize = 4;

pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for something to be done, and returns the kernel's verdict.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, flags | NLM_F_ACK, |_| ()).map(|_| ())
    }

    /// Asks for one object.
    pub(super) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut found = None;
        self.exchange(message, NLM_F_ACK, |answer| found = Some(answer))?;
        Ok(found)
    }

    /// Asks for a whole table.
    pub(super) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut attempt = 1;
        loop {
            let mut found = Vec::new();
            let interrupted = self.exchange(message.clone(), NLM_F_DUMP, |answer| found.push(answer))?;
            if !interrupted || attempt == DUMP_ATTEMPTS_MAX {
                return Ok(found);
            }
            attempt += 1;
        }
    }

    /// Returns whether the kernel flagged the dump as interrupted by a change.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut interrupted = false;
        let mut undecodable = None;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for part in messages(&datagram) {
                let part = part?;
                let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(part) {
                    Ok(message) => message,
                    Err(error) => {
                        // One object that the library does not understand must not hide the others.
                        tracing::debug!(%error, "skipped a netlink message that does not decode");
                        undecodable = Some(error);
                        continue;
                    }
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answer(inner),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(interrupted),
                    NetlinkPayload::Error(error) => {
                        return match (error.code, undecodable) {
                            (Some(code), _) => Err(io::Error::from_raw_os_error(code.get().saturating_abs())),
                            (None, None) => Ok(interrupted),
                            // The only answer to a question for one object.
                            (None, Some(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                        };
                    }
                    NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                    _ => {}
                }
            }
        }
    }
}

/// The messages in one datagram, each with its header and without its padding.
///
/// An error, `InvalidData`, is the last: what is cut short may have been the answer that somebody waits for.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = io::Result<&[u8]>> {
    std::iter::from_fn(move || {
        let rest = std::mem::take(&mut datagram);
        if rest.is_empty() {
            return None;
        }
        let length = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize);
        if length < HEADER_LEN || length > rest.len() {
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut short")));
        }
        datagram = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Ok(&rest[..length]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths of the messages; None for one that is cut short.
    fn lengths(datagram: &[u8]) -> Vec<Option<usize>> {
        messages(datagram).map(|message| message.ok().map(<[u8]>::len)).collect()
    }

    #[test]
    fn a_datagram_is_taken_apart_and_nonsense_is_its_end() {
        let mut datagram = Vec::new();
        datagram.extend(18_u32.to_ne_bytes());
        datagram.resize(20, 1);
        datagram.extend(16_u32.to_ne_bytes());
        datagram.resize(36, 2);
        assert_eq!(lengths(&datagram), [Some(18), Some(16)]);
        assert_eq!(lengths(&datagram[..18]), [Some(18)], "the last one needs no padding");
        for cut in 21..36 {
            assert_eq!(lengths(&datagram[..cut]), [Some(18), None], "cut to {cut}");
        }
        for wrong in [0_u32, 15, 17, u32::MAX] {
            let mut datagram = wrong.to_ne_bytes().to_vec();
            datagram.resize(16, 0);
            assert_eq!(lengths(&datagram), [None], "a length of {wrong} was believed");
        }
        assert_eq!(lengths(&[1, 2, 3]), [None]);
        assert_eq!(lengths(&[]), []);
    }
}
