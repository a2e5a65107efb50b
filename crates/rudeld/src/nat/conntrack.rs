//! Two questions to netfilter over netlink: has anybody changed any rule, and how many connections were refused an entry?
//!
//! Each is one request whose answer has one number that matters; the formats are `struct nlmsghdr`, `struct nfgenmsg`
//! and attributes (netlink(7), linux/netfilter/nfnetlink.h).

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::host::netlink::{HEADER_LEN, messages};

/// `struct nfgenmsg`: family, version, resource.
const GENMSG_LEN: usize = 4;
const ATTRIBUTE_LEN: usize = 4;
const ALIGNMENT: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;

/// `NFNL_SUBSYS_NFTABLES` << 8 | `NFT_MSG_GETGEN`
const GET_GENERATION: u16 = 10 << 8 | 16;
const NFTA_GEN_ID: u16 = 1;
/// `NFNL_SUBSYS_CTNETLINK` << 8 | `IPCTNL_MSG_CT_GET_STATS_CPU`
const GET_STATISTICS: u16 = 1 << 8 | 4;
const CTA_STATS_INSERT_FAILED: u16 = 9;

/// A number that changes with every change of any table in this network namespace.
///
/// # Errors
/// What netlink says.
pub(super) fn generation() -> io::Result<u32> {
    ask(GET_GENERATION, 0, NFTA_GEN_ID)?.first().copied().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How many connections were refused an entry in the table of connections since the start of this network namespace:
/// almost always because the ports that they were allowed were all taken towards their destination. Their packet is
/// dropped, and nothing else tells of it.
///
/// # Errors
/// What netlink says; without connection tracking in the kernel, that there is no such thing.
pub fn insert_failed() -> io::Result<u64> {
    // One answer for each CPU.
    Ok(ask(GET_STATISTICS, NLM_F_DUMP, CTA_STATS_INSERT_FAILED)?.into_iter().map(u64::from).sum())
}

/// The attribute, a number of 32 bits, in all answers to a request.
fn ask(kind: u16, flags: u16, attribute: u16) -> io::Result<Vec<u32>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER_LEN + GENMSG_LEN);
    request.extend(((HEADER_LEN + GENMSG_LEN) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; GENMSG_LEN]);
    socket.send(&request, 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if !read(&datagram, attribute, &mut found)? || flags & NLM_F_DUMP == 0 {
            return Ok(found);
        }
    }
}

/// Reads one datagram; says whether more may come.
fn read(datagram: &[u8], attribute: u16, found: &mut Vec<u32>) -> io::Result<bool> {
    for message in messages(datagram) {
        let (header, body) = message?.split_at(HEADER_LEN);
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).unwrap_or(0);
                return if code == 0 { Ok(false) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            _ => found.extend(number(body.get(GENMSG_LEN..).unwrap_or(&[]), attribute)),
        }
    }
    Ok(true)
}

/// The first attribute of this type, in network order as netfilter has its numbers.
fn number(mut attributes: &[u8], wanted: u16) -> Option<u32> {
    while attributes.len() >= ATTRIBUTE_LEN {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        // The two highest bits are flags.
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]) & 0x3fff;
        let value = attributes.get(ATTRIBUTE_LEN..length)?;
        if kind == wanted {
            return value.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        }
        attributes = attributes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or(&[]);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn attribute(kind: u16, value: u32) -> Vec<u8> {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_be_bytes()].concat()
    }

    #[test]
    fn every_answer_s_number_is_read_and_the_end_is_seen() {
        let body = |value| [vec![0; GENMSG_LEN], attribute(8, 1), attribute(9, value)].concat();
        let datagram = [message(0x104, &body(7)), message(0x104, &body(5))].concat();
        let mut found = Vec::new();
        assert!(read(&datagram, 9, &mut found).unwrap());
        assert_eq!(found, [7, 5]);
        assert!(!read(&message(NLMSG_DONE, &[0; 4]), 9, &mut found).unwrap());
        let refused = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&refused, 9, &mut found).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn what_is_cut_short_is_no_number_and_no_panic() {
        let whole = message(0x104, &[vec![0; GENMSG_LEN], attribute(9, 7)].concat());
        for length in 1..whole.len() {
            let mut found = Vec::new();
            assert!(read(&whole[..length], 9, &mut found).is_err() && found.is_empty(), "cut to {length}");
        }
        assert_eq!(number(&[3, 0, 9, 0], 9), None, "shorter than its own header");
        assert_eq!(number(&[0, 0, 1, 0], 9), None, "without length");
    }
}
