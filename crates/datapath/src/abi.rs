//! `bpf/abi.h` in Rust. Both sides assert the same literals, so neither can change alone.

#![cfg_attr(not(feature = "xdp"), allow(dead_code))]

use std::mem::{offset_of, size_of};

use crate::counters::ProbeCount;

/// Raised whenever a map that a predecessor may have pinned would mean something else than before.
pub(crate) const ABI_VERSION: u32 = 6;
/// Interfaces of one node that can carry the filter.
pub(crate) const SLOT_COUNT: usize = 16;
/// Verdicts of the filter, in the order of [`crate::Verdict`].
pub(crate) const VERDICT_COUNT: usize = 9;
/// Bytes that a daemon can leave for its successor.
pub(crate) const MEMO_BYTES_MAX: usize = 8188;

/// Bits of the filter's constant `border`.
pub(crate) const BORDER_TRANSLATES: u8 = 1;
pub(crate) const BORDER_SERVICES: u8 = 2;
pub(crate) const BORDER_MESHED: u8 = 4;
pub(crate) const BORDER_FRAGMENTS: u8 = 8;

/// Flags in the maps of a router's filter.
pub(crate) const HOST_OWN: u8 = 1;
pub(crate) const HOST_TRANSLATED: u8 = 2;
pub(crate) const SERVICE_OUTER: u8 = 1;
pub(crate) const SERVICE_INNER: u8 = 2;
pub(crate) const NETWORK_INSIDE: u8 = 1;
pub(crate) const NETWORK_TRANSLATED: u8 = 2;

/// An address, IPv4 in its mapped form.
pub(crate) type HostKey = [u8; 16];
const _: () = assert!(size_of::<HostKey>() == 16);

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceKey {
    pub(crate) address: [u8; 16],
    pub(crate) port: [u8; 2],
    pub(crate) protocol: u8,
    pub(crate) pad: u8,
}
const _: () = assert!(size_of::<ServiceKey>() == 20);

/// `struct network_key` without its first word, which is aya's.
pub(crate) type NetworkKeyData = [u8; 16];
const _: () = assert!(size_of::<NetworkKeyData>() == 16);

/// A MAC address in the last six bytes; `const volatile struct mac`.
pub(crate) fn mac(address: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = address;
    [0, 0, a, b, c, d, e, f]
}

/// The body of a probe; all numbers in network order.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct ProbeBody {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u8,
    pub(crate) pad: [u8; 3],
    pub(crate) sender: [u8; 8],
    pub(crate) incarnation: [u8; 8],
    pub(crate) number: [u8; 8],
    pub(crate) proof: [u8; 8],
    pub(crate) tag: [u8; 4],
}
const _: () = assert!(size_of::<ProbeBody>() == 44);
const _: () = assert!(offset_of!(ProbeBody, sender) == 8);
const _: () = assert!(offset_of!(ProbeBody, incarnation) == 16);
const _: () = assert!(offset_of!(ProbeBody, number) == 24);
const _: () = assert!(offset_of!(ProbeBody, proof) == 32);
const _: () = assert!(offset_of!(ProbeBody, tag) == 40);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeKey {
    pub(crate) sender: u64,
    pub(crate) slot: u32,
    pub(crate) family: u32,
}
const _: () = assert!(size_of::<ProbeKey>() == 16);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProbeValue {
    pub(crate) count: u64,
    pub(crate) last_ns: u64,
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
    pub(crate) proof: u64,
    pub(crate) mac: [u8; 6],
    pub(crate) pad: [u8; 2],
}
const _: () = assert!(size_of::<ProbeValue>() == 48);

impl ProbeValue {
    pub(crate) const fn of(self, key: ProbeKey, ifindex: u32) -> ProbeCount {
        let Self { count, last_ns, incarnation, number, proof, mac, pad: _ } = self;
        let ProbeKey { sender, family, .. } = key;
        ProbeCount { sender, ifindex, family, count, last_ns, incarnation, number, proof, mac }
    }
}

/// One byte per bucket, each a [`crate::BucketState`].
pub(crate) type BucketTableBytes = [u8; 256];
const _: () = assert!(size_of::<BucketTableBytes>() == 256);

/// `CLOCK_BOOTTIME`, ns.
pub(crate) type Lease = u64;
const _: () = assert!(size_of::<Lease>() == 8);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}
const _: () = assert!(size_of::<Count>() == 16);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InterfaceCounters {
    pub(crate) verdicts: [Count; VERDICT_COUNT],
}
const _: () = assert!(size_of::<InterfaceCounters>() == 144);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BucketCount {
    pub(crate) seen: u64,
    pub(crate) passed: u64,
}
const _: () = assert!(size_of::<BucketCount>() == 16);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct BucketCounters {
    pub(crate) buckets: [BucketCount; 256],
}
const _: () = assert!(size_of::<BucketCounters>() == 4096);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) ifindex: u32,
    pub(crate) name: [u8; 16],
}
const _: () = assert!(size_of::<Slot>() == 20);

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Memo {
    pub(crate) bytes: u32,
    pub(crate) data: [u8; MEMO_BYTES_MAX],
}
const _: () = assert!(size_of::<Memo>() == 8192);

impl Memo {
    /// The bytes that were written.
    pub(crate) fn written(&self) -> &[u8] {
        &self.data[..MEMO_BYTES_MAX.min(self.bytes as usize)]
    }
}

/// Longest frame that the filter sets aside.
pub(crate) const ASIDE_BYTES_MAX: usize = 3000;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AsideHead {
    pub(crate) at_ns: u64,
    pub(crate) ifindex: u32,
    pub(crate) bytes: u16,
    pub(crate) bucket: u8,
    pub(crate) pad: u8,
}
const _: () = assert!(size_of::<AsideHead>() == 16);

impl AsideHead {
    /// The head of what the filter has set aside, if this is one.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (at_ns, rest) = bytes.split_first_chunk()?;
        let [a, b, c, d, e, f, bucket, pad] = *rest.first_chunk()?;
        let (ifindex, bytes) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
        Some(Self { at_ns: u64::from_ne_bytes(*at_ns), ifindex, bytes, bucket, pad })
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abi {
    pub(crate) version: u32,
}
const _: () = assert!(size_of::<Abi>() == 4);

#[cfg(feature = "xdp")]
mod pod {
    use super::*;

    // SAFETY: all are `repr(C)`, made of integers and arrays of them, and the sizes asserted above leave no padding;
    // every bit pattern is a value.
    unsafe impl aya::Pod for ProbeKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ServiceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ProbeValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for InterfaceCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for BucketCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Slot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Memo {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Abi {}
}
