//! The probe: proof that packets to the cluster MAC still reach a node.
//!
//! It is an IP packet to an address of the cluster, as a client's is: switches and bridges that snoop on group
//! memberships treat IP by its header, and let other EtherTypes pass where clients' packets end.

use std::{
    mem::{offset_of, size_of},
    net::IpAddr,
};

use crate::{
    abi::ProbeBody,
    checksum::{checksum, sum},
};

/// The UDP port that probes go to and come from. Not that of heartbeats: what is done to those makes no node deaf.
pub const PORT: u16 = 7442;
/// Of the body's layout.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"RUDP";
const UDP: u8 = 17;
const UDP_BYTES: usize = 8;
const BODY_BYTES: usize = size_of::<ProbeBody>();
/// No router passes it on.
const HOPS: u8 = 1;

/// What a probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The node that sends it, by its id.
    pub sender: u64,
    /// The sender's run.
    pub incarnation: u64,
    /// Rises from probe to probe of a run.
    pub number: u64,
    /// That whoever made it has the cluster's key. The filter passes it on unread.
    pub proof: u64,
    /// Tells clusters on one wire apart.
    pub tag: u32,
}

/// From where to where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface's own MAC address.
    pub own_mac: [u8; 6],
    /// The cluster's.
    pub cluster_mac: [u8; 6],
    /// An address of the sender; one of another family than the cluster's counts as none.
    pub from: Option<IpAddr>,
    /// An address of the cluster on this interface: its family is the probe's.
    pub to: IpAddr,
}

impl Probe {
    /// The whole frame.
    pub fn frame(&self, way: &Way) -> Vec<u8> {
        let udp = self.datagram(way);
        let length = u16::try_from(udp.len()).expect("a probe has less than a hundred bytes");
        let mut frame = [way.cluster_mac, way.own_mac].concat();
        match way.to {
            IpAddr::V4(to) => {
                frame.extend([0x08, 0x00]);
                let mut header = vec![0x45, 0];
                header.extend((length + 20).to_be_bytes());
                header.extend([0, 0, 0x40, 0, HOPS, UDP, 0, 0]);
                header.extend(source(way));
                header.extend(to.octets());
                let sum = checksum(sum(&header));
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            IpAddr::V6(to) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([UDP, HOPS]);
                frame.extend(source(way));
                frame.extend(to.octets());
            }
        }
        frame.extend(udp);
        frame
    }

    fn body(&self) -> [u8; BODY_BYTES] {
        let mut body = [0; BODY_BYTES];
        let mut put = |at: usize, bytes: &[u8]| body[at..][..bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(offset_of!(ProbeBody, version), &[VERSION]);
        put(offset_of!(ProbeBody, sender), &self.sender.to_be_bytes());
        put(offset_of!(ProbeBody, incarnation), &self.incarnation.to_be_bytes());
        put(offset_of!(ProbeBody, number), &self.number.to_be_bytes());
        put(offset_of!(ProbeBody, proof), &self.proof.to_be_bytes());
        put(offset_of!(ProbeBody, tag), &self.tag.to_be_bytes());
        body
    }

    fn datagram(&self, way: &Way) -> Vec<u8> {
        let length = (UDP_BYTES + BODY_BYTES) as u16;
        let mut udp = [PORT, PORT, length, 0].map(u16::to_be_bytes).concat();
        udp.extend(self.body());
        // The pseudo header of RFC 768 and RFC 8200 8.1: addresses, protocol, length.
        let mut pseudo = source(way);
        match way.to {
            IpAddr::V4(to) => pseudo.extend(to.octets()),
            IpAddr::V6(to) => pseudo.extend(to.octets()),
        }
        let sum = match checksum(u32::from(UDP) + u32::from(length) + sum(&pseudo) + sum(&udp)) {
            0 => 0xffff,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        udp
    }
}

fn source(way: &Way) -> Vec<u8> {
    match (way.to, way.from) {
        (IpAddr::V4(_), Some(IpAddr::V4(from))) => from.octets().to_vec(),
        (IpAddr::V4(_), _) => vec![0; 4],
        (IpAddr::V6(_), Some(IpAddr::V6(from))) => from.octets().to_vec(),
        (IpAddr::V6(_), _) => vec![0; 16],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Probe = Probe {
        sender: 0x0102_0304_0506_0708,
        incarnation: 0x1112_1314_1516_1718,
        number: 0x2122_2324_2526_2728,
        proof: 0x3132_3334_3536_3738,
        tag: 0xa1b2_c3d4,
    };

    fn way(from: &str, to: &str) -> Way {
        Way {
            own_mac: [2; 6],
            cluster_mac: [3, 0xbf, 1, 2, 3, 4],
            from: Some(from.parse().unwrap()),
            to: to.parse().unwrap(),
        }
    }

    #[test]
    fn every_byte_stands_where_the_header_says() {
        let frame = PROBE.frame(&way("192.0.2.11", "192.0.2.10"));
        #[rustfmt::skip]
        let expected = [
            3, 0xbf, 1, 2, 3, 4, 2, 2, 2, 2, 2, 2, 8, 0,
            0x45, 0, 0, 72, 0, 0, 0x40, 0, 1, 17, 0xf5, 0x8f, 192, 0, 2, 11, 192, 0, 2, 10,
            0x1d, 0x12, 0x1d, 0x12, 0, 52,
        ];
        assert_eq!(frame[..40], expected);
        #[rustfmt::skip]
        let body = [
            b'R', b'U', b'D', b'P', 1, 0, 0, 0,
            1, 2, 3, 4, 5, 6, 7, 8,
            0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
            0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28,
            0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38,
            0xa1, 0xb2, 0xc3, 0xd4,
        ];
        assert_eq!(frame[42..], body);
        let six = PROBE.frame(&way("fe80::1", "2001:db8::10"));
        assert_eq!(
            six[..22],
            [3, 0xbf, 1, 2, 3, 4, 2, 2, 2, 2, 2, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 52, 17, 1]
        );
        assert_eq!(six[62..], body);
    }

    /// What was summed up with its own checksum gives zero: so do receivers check it.
    #[test]
    fn checksums_are_right() {
        for (from, to, ip, udp) in [
            ("192.0.2.11", "192.0.2.10", 14..34, 34),
            ("192.0.2.11", "2001:db8::10", 14..14, 54),
            ("fe80::1", "2001:db8::10", 14..14, 54),
        ] {
            let frame = PROBE.frame(&way(from, to));
            assert_eq!(checksum(sum(&frame[ip])) & if udp == 34 { 0xffff } else { 0 }, 0);
            let addresses = if udp == 34 { 26..34 } else { 22..54 };
            let pseudo = sum(&frame[addresses]) + 17 + 52;
            assert_eq!(checksum(pseudo + sum(&frame[udp..])), 0, "{from} to {to}");
        }
    }
}
