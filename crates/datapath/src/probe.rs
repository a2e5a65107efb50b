//! The probe frame: proof that frames to the cluster MAC still reach a node.

use std::mem::offset_of;

use crate::abi::ProbeBody;

/// IEEE 802's EtherType for local experiments.
pub const ETHERTYPE: u16 = 0x88b5;
/// Of the body's layout.
pub const VERSION: u8 = 1;
/// Length of a probe: an Ethernet frame's least, without the check sequence.
pub const FRAME_BYTES: usize = 60;

const MAGIC: [u8; 4] = *b"RUDP";
const HEADER_BYTES: usize = 14;

/// The frame that a node sends once a second from each cluster interface to the cluster MAC.
///
/// `source` is the interface's own address, `sender` the node's id, `tag` tells clusters on one wire apart.
pub fn frame(cluster_mac: [u8; 6], source: [u8; 6], sender: u64, tag: u32) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].copy_from_slice(&cluster_mac);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());

    let body = &mut frame[HEADER_BYTES..];
    body[..4].copy_from_slice(&MAGIC);
    body[offset_of!(ProbeBody, version)] = VERSION;
    body[offset_of!(ProbeBody, sender)..][..8].copy_from_slice(&sender.to_be_bytes());
    body[offset_of!(ProbeBody, tag)..][..4].copy_from_slice(&tag.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_stands_where_the_header_says() {
        let frame = frame([3, 0xbf, 1, 2, 3, 4], [2; 6], 0x0102_0304_0506_0708, 0xa1b2_c3d4);
        let expected = [
            3, 0xbf, 1, 2, 3, 4, 2, 2, 2, 2, 2, 2, 0x88, 0xb5, b'R', b'U', b'D', b'P', 1, 0, 0, 0, 1, 2, 3,
            4, 5, 6, 7, 8, 0xa1, 0xb2, 0xc3, 0xd4,
        ];
        assert_eq!(frame[..34], expected);
        assert!(frame[34..].iter().all(|byte| *byte == 0));
    }
}
