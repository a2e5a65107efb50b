//! The fourteen bytes before every packet.

use crate::host::MacAddr;

/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The length of the header, in bytes.
pub const HEADER_LEN: usize = 14;

/// An Ethernet header. (A VLAN tag was taken off by the kernel.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// To whom.
    pub destination: MacAddr,
    /// From whom.
    pub source: MacAddr,
    /// What follows.
    pub ethertype: u16,
}

impl Header {
    /// Takes a frame apart: the header and the rest. `None` if it is too short for a header.
    #[must_use]
    pub fn split(frame: &[u8]) -> Option<(Self, &[u8])> {
        let ([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1], payload) =
            frame.split_first_chunk::<HEADER_LEN>()?;
        let header = Self {
            destination: MacAddr([*d0, *d1, *d2, *d3, *d4, *d5]),
            source: MacAddr([*s0, *s1, *s2, *s3, *s4, *s5]),
            ethertype: u16::from_be_bytes([*t0, *t1]),
        };
        Some((header, payload))
    }

    /// Appends the header to a frame in the making.
    pub fn write(&self, frame: &mut Vec<u8>) {
        frame.extend(self.destination.octets());
        frame.extend(self.source.octets());
        frame.extend(self.ethertype.to_be_bytes());
    }
}
