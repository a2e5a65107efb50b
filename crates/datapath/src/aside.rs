//! What came while nobody owned its bucket: set aside by the filter, and put through it again once the bucket is owned here.
//!
//! An owner that is dead is given up only after the time-out, and what is sent to it until then is lost. But every node receives
//! every packet. While an owner is not heard, the filters of all others set the TCP segments of its buckets aside as they drop
//! them ([`crate::BucketState::Watched`]). Whoever takes a bucket over puts the last ones through its own filter: the
//! connection goes on at once, and not when its sender tries again.
//!
//! Nothing gets past the filter: a segment that is put through it meets the same table and the same lease as one from the wire.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    maps::{
        Map, MapData, PerfEventArray,
        perf::{PerfEvent, PerfEventArrayBuffer},
    },
    util::online_cpus,
};

use crate::{
    abi::{ASIDE_BYTES_MAX, AsideHead},
    checksum::{checksum, fold, sum},
    error::{Error, Result},
    pins::open_pinned,
    refusal::map_error,
    sys,
};

/// Pages of each CPU's ring: 128 full frames.
const RING_PAGES: usize = 64;

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6_HEADER_BYTES: usize = 40;
const PROTOCOL_TCP: u8 = 6;
/// In the header of TCP.
const FLAGS_AT: usize = 13;
const CHECKSUM_AT: usize = 16;
const FLAG_SYN: u8 = 0x02;
const FLAG_ACK: u8 = 0x10;

/// One direction of a connection: source, destination, their ports.
pub type Direction = (IpAddr, IpAddr, [u8; 4]);

/// A frame that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When it came: `CLOCK_BOOTTIME`, in nanoseconds. Of two that different CPUs have taken, this tells which was the last.
    pub at_ns: u64,
    /// Where it came in.
    pub ifindex: u32,
    /// Its bucket.
    pub bucket: u8,
    /// As it came, Ethernet header included.
    pub frame: Vec<u8>,
}

impl Segment {
    /// What it belongs to; none if its ports are behind a VLAN's tag or an extension header, where nobody looks.
    pub fn direction(&self) -> Option<Direction> {
        let Headers { from, to, transport_at, .. } = Headers::of(&self.frame)?;
        Some((from, to, *self.frame.get(transport_at..)?.first_chunk()?))
    }

    /// Whether a connection begins with it: a SYN without an ACK.
    pub fn is_first(&self) -> bool {
        let flags =
            Headers::of(&self.frame).and_then(|headers| self.frame.get(headers.transport_at + FLAGS_AT));
        flags.is_some_and(|flags| flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN)
    }

    /// Makes the checksum that its sender has left to the hardware, as machines do that are joined by memory and no wire: such a
    /// packet is marked, and the mark is lost here. Nothing else is changed: a checksum that is wrong stays wrong.
    pub fn complete(&mut self) {
        let Some(Headers { from, to, transport_at, end }) = Headers::of(&self.frame) else { return };
        let Some(segment) = self.frame.get_mut(transport_at..end) else { return };
        let Ok(length) = u32::try_from(segment.len()) else { return };
        let ends = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => return,
        };
        // RFC 9293, 3.1: the pseudo header.
        let head = sum(&ends) + u32::from(PROTOCOL_TCP) + sum(&length.to_be_bytes());
        let field = CHECKSUM_AT..CHECKSUM_AT + 2;
        if segment.get(field.clone()) == Some(&fold(head).to_be_bytes()) {
            let checksum = checksum(sum(segment));
            segment[field].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// Of a TCP segment: its ends, and where in the frame it begins and ends.
struct Headers {
    from: IpAddr,
    to: IpAddr,
    transport_at: usize,
    end: usize,
}

impl Headers {
    fn of(frame: &[u8]) -> Option<Self> {
        let (ethernet, ip) = frame.split_at_checked(ETHERNET_BYTES)?;
        let number = |at| Some(usize::from(u16::from_be_bytes(*ip.get(at..)?.first_chunk()?)));
        let (from, to, protocol, header_bytes, bytes): (IpAddr, IpAddr, u8, usize, usize) =
            match *ethernet.last_chunk()? {
                ETHERTYPE_IPV4 => {
                    let address = |at| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
                    let header_bytes = usize::from(ip.first()? & 0x0f) * 4;
                    (address(12)?.into(), address(16)?.into(), *ip.get(9)?, header_bytes, number(2)?)
                }
                ETHERTYPE_IPV6 => {
                    let address = |at| Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?));
                    let bytes = IPV6_HEADER_BYTES + number(4)?;
                    (address(8)?.into(), address(24)?.into(), *ip.get(6)?, IPV6_HEADER_BYTES, bytes)
                }
                _ => return None,
            };
        let (transport_at, end) = (ETHERNET_BYTES + header_bytes, ETHERNET_BYTES + bytes);
        (protocol == PROTOCOL_TCP && transport_at <= end).then_some(Self { from, to, transport_at, end })
    }
}

/// Reads what the filters of a node set aside. One reader at a time: a second one takes the rings over.
pub struct Aside {
    rings: Vec<PerfEventArrayBuffer<MapData>>,
}

impl Aside {
    /// Opens what [`crate::Xdp::open`] has pinned in `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let map = Map::PerfEventArray(open_pinned(pin_dir, "aside")?);
        let mut array = PerfEventArray::try_from(map).map_err(map_error("aside", "open"))?;
        let cpus = online_cpus().map_err(|(_, source)| Error::Ring { source })?;
        let open = |cpu| {
            let ring = array.open(cpu, Some(RING_PAGES));
            ring.map_err(|error| Error::Ring { source: std::io::Error::other(error) })
        };
        Ok(Self { rings: cpus.into_iter().map(open).collect::<Result<_>>()? })
    }

    /// Takes what has been set aside since the last time, one CPU after the other, of each in the order in which it came. Returns
    /// how many frames found no room.
    pub fn take(&mut self, mut each: impl FnMut(Segment)) -> u64 {
        let mut lost = 0;
        for ring in &mut self.rings {
            ring.for_each(|event| match event {
                PerfEvent::Sample { head, tail } => each_of(&[head, tail].concat(), &mut each),
                PerfEvent::Lost { count } => lost += count,
            });
        }
        lost
    }
}

fn each_of(sample: &[u8], each: &mut impl FnMut(Segment)) {
    let Some(head) = AsideHead::read(sample) else { return };
    let frame = sample.get(size_of::<AsideHead>()..).and_then(|rest| rest.get(..usize::from(head.bytes)));
    if let Some(frame) = frame {
        each(Segment {
            at_ns: head.at_ns,
            ifindex: head.ifindex,
            bucket: head.bucket,
            frame: frame.to_vec(),
        });
    }
}

/// The filter of an interface, to put frames through it.
#[derive(Debug)]
pub struct Gate {
    pub(crate) ifindex: u32,
    pub(crate) program: OwnedFd,
}

impl Gate {
    /// The index of its interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Puts a frame through the filter, as if it had just come in by the interface: what the filter passes goes up the stack. From
    /// the interface's network namespace.
    ///
    /// # Errors
    /// The kernel is older than 5.18, the interface is gone, or the frame is too long. It is lost then.
    pub fn put_through(&self, frame: &[u8]) -> Result<()> {
        if frame.len() > ASIDE_BYTES_MAX {
            return Err(Error::PutThrough { source: std::io::ErrorKind::InvalidInput.into() });
        }
        sys::run_live(self.program.as_fd(), self.ifindex, frame)
            .map_err(|source| Error::PutThrough { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [u8; 4] = [0x9c, 0x40, 1, 187];

    fn segment(parts: &[&[u8]]) -> Segment {
        Segment { at_ns: 3, ifindex: 1, bucket: 2, frame: parts.concat() }
    }

    /// With options in its IP header, and without.
    fn both(tcp: &[u8]) -> [Segment; 2] {
        let length = tcp.len() as u8;
        let four =
            [8, 0, 0x46, 0, 0, 24 + length, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0];
        let six = [0x86, 0xdd, 0x60, 0, 0, 0, 0, length, 6, 64];
        [segment(&[&[0; 12], &four, tcp]), segment(&[&[0; 12], &six, &[1; 16], &[2; 16], tcp])]
    }

    #[test]
    fn a_direction_is_that_of_the_ports_behind_the_header() {
        let [four, six] = both(&PORTS);
        let expected = (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into(), PORTS);
        assert_eq!(four.direction(), Some(expected));
        let expected = (Ipv6Addr::from([1; 16]).into(), Ipv6Addr::from([2; 16]).into(), PORTS);
        assert_eq!(six.direction(), Some(expected));
        for length in 0..six.frame.len() {
            assert_eq!(segment(&[&six.frame[..length]]).direction(), None, "{length} bytes");
        }
        assert_eq!(segment(&[&[0; 12], &[0x81, 0, 0, 1, 8, 0], &[0x45; 60]]).direction(), None, "tagged");
    }

    #[test]
    fn a_connection_begins_with_a_syn_alone() {
        let of = |flags: u8| both(&[&PORTS[..], &[0; 9], &[flags], &[0; 6]].concat());
        for (flags, expected) in [(0x02, true), (0xc2, true), (0x12, false), (0x10, false), (0x04, false)] {
            assert!(of(flags).iter().all(|segment| segment.is_first() == expected), "{flags:#x}");
        }
        assert!(!both(&PORTS).iter().any(Segment::is_first), "cut");
    }

    #[test]
    fn a_checksum_that_was_left_to_the_hardware_is_made_and_no_other() {
        // Whatever is summed up with a right checksum, pseudo header included, is all ones.
        let whole = |segment: &Segment, tcp_at: usize, ends_at: usize, ends: usize| {
            let tcp = &segment.frame[tcp_at..];
            fold(sum(&segment.frame[ends_at..ends_at + ends]) + 6 + tcp.len() as u32 + sum(tcp))
        };
        let tcp = |checksum: u16| [&PORTS[..], &[0; 12], &checksum.to_be_bytes(), &[0, 0], b"odd"].concat();
        // 10.0.0.1, 10.0.0.2 and 23 bytes of protocol 6; eight times 0x0101, eight times 0x0202.
        let (left4, left6) = (0x1400 + 3 + 6 + 23, 8 * 0x0303 + 6 + 23);
        let [mut four, _] = both(&tcp(left4));
        let [_, mut six] = both(&tcp(left6));
        four.complete();
        six.complete();
        assert_eq!(whole(&four, 38, 26, 8), 0xffff);
        assert_eq!(whole(&six, 54, 22, 32), 0xffff);
        for done in [four, six].into_iter().chain(both(&tcp(0x1234))) {
            let mut again = done.clone();
            again.complete();
            assert_eq!(again, done, "right or wrong, it is its sender's");
        }
        // Padding behind the packet, and a frame that ends too early.
        let [mut padded, _] = both(&tcp(left4));
        padded.frame.extend([0xee; 3]);
        padded.complete();
        assert_eq!(
            &padded.frame[38..61],
            &both(&tcp(u16::from_be_bytes([padded.frame[54], padded.frame[55]])))[0].frame[38..]
        );
        padded.frame.truncate(60);
        padded.complete();
    }
}
