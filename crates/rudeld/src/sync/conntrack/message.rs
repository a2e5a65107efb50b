//! Messages of ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`), as far as connections are concerned.
//!
//! Headers and attributes are read with `netlink-packet-core`; what is in the attributes is read here, without an
//! allocation: a busy router tells of tens of thousands of connections a second.

use std::net::IpAddr;

use netlink_packet_core::NlasIterator;

use super::{CONFIRMED, Entry, STATUS_SHARED, TCP_FLAGS, Tcp, Tuple, Write};

/// `NFNL_SUBSYS_CTNETLINK << 8`.
const SUBSYSTEM: u16 = 1 << 8;
const MESSAGE_NEW: u16 = SUBSYSTEM;
pub(super) const MESSAGE_GET: u16 = SUBSYSTEM | 1;
const MESSAGE_DELETE: u16 = SUBSYSTEM | 2;

/// Lengths of `struct nlmsghdr` and of `struct nfgenmsg` behind it.
pub(super) const NETLINK_HEADER_LEN: usize = 16;
const HEADER_LEN: usize = NETLINK_HEADER_LEN + 4;
const ALIGNMENT: usize = 4;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_EXCL: u16 = 0x200;
const FLAG_CREATE: u16 = 0x400;
const NESTED: u16 = 0x8000;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const NAT_SRC: u16 = 6;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const NAT_DST: u16 = 13;
const ZONE: u16 = 18;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;

const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;

const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTO_ICMP_ID: u16 = 4;
const PROTO_ICMP_TYPE: u16 = 5;
const PROTO_ICMP_CODE: u16 = 6;
const PROTO_ICMPV6_ID: u16 = 7;
const PROTO_ICMPV6_TYPE: u16 = 8;
const PROTO_ICMPV6_CODE: u16 = 9;

const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_WSCALE_ORIG: u16 = 2;
const TCP_WSCALE_REPLY: u16 = 3;
const TCP_FLAGS_ORIG: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;

const NAT_V4_MIN: u16 = 1;
const NAT_V4_MAX: u16 = 2;
const NAT_PROTO: u16 = 3;
const NAT_V6_MIN: u16 = 4;
const NAT_V6_MAX: u16 = 5;
const NAT_PROTO_MIN: u16 = 1;
const NAT_PROTO_MAX: u16 = 2;

/// What a message tells of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has come into being.
    New,
    /// It has changed, or is part of a dump.
    Updated,
    /// It is gone.
    Destroyed,
}

/// A message of the kernel about one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What happened.
    pub kind: Kind,
    /// Netlink's port of the process that did it; 0 where a packet or a clock did.
    pub cause: u32,
    /// The entry. Events leave out what has not changed: TCP's state and the mark.
    pub entry: Entry,
    /// Whether the message told the mark.
    pub has_mark: bool,
}

/// Reads one netlink message. None if it is not about a connection, or of none that makes sense here.
pub fn decode(message: &[u8]) -> Option<Message> {
    if message.len() < HEADER_LEN {
        return None;
    }
    let word16 = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
    let kind = match word16(4) {
        MESSAGE_NEW if word16(6) & (FLAG_CREATE | FLAG_EXCL) != 0 => Kind::New,
        MESSAGE_NEW => Kind::Updated,
        MESSAGE_DELETE => Kind::Destroyed,
        _ => return None,
    };
    let cause = u32::from_ne_bytes(message[12..16].try_into().expect("four bytes"));
    let mut zone = 0;
    let (mut orig, mut reply) = (None, None);
    let (mut status, mut timeout_s, mut mark, mut tcp, mut has_mark) = (0, 0, 0, None, false);
    for attribute in NlasIterator::new(&message[HEADER_LEN..]) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            TUPLE_ORIG => orig = Some(tuple(value, &mut zone)?),
            TUPLE_REPLY => reply = Some(tuple(value, &mut zone)?),
            // The bits beyond the lowest eight are about NAT and this kernel's own affairs.
            STATUS => status = be32(value)?.to_be_bytes()[3],
            TIMEOUT => timeout_s = be32(value)?,
            MARK => (mark, has_mark) = (be32(value)?, true),
            ZONE => zone = be16(value)?,
            PROTOINFO => tcp = protoinfo(value)?,
            _ => {}
        }
    }
    let entry = Entry { orig: orig?, reply: reply?, status, timeout_s, mark, zone, tcp };
    Some(Message { kind, cause, entry, has_mark })
}

fn tuple(nest: &[u8], zone: &mut u16) -> Option<Tuple> {
    let (mut src, mut dst, mut protocol) = (None, None, None);
    let (mut ports, mut icmp, mut id) = ([0_u16; 2], [0_u8; 2], 0_u16);
    for attribute in NlasIterator::new(nest) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            TUPLE_IP => {
                for address in NlasIterator::new(value) {
                    let address = address.ok()?;
                    let bytes = address.value();
                    match address.kind() {
                        IP_V4_SRC => src = Some(v4(bytes)?),
                        IP_V4_DST => dst = Some(v4(bytes)?),
                        IP_V6_SRC => src = Some(v6(bytes)?),
                        IP_V6_DST => dst = Some(v6(bytes)?),
                        _ => {}
                    }
                }
            }
            TUPLE_PROTO => {
                for part in NlasIterator::new(value) {
                    let part = part.ok()?;
                    let bytes = part.value();
                    match part.kind() {
                        PROTO_NUM => protocol = Some(*bytes.first()?),
                        PROTO_SRC_PORT => ports[0] = be16(bytes)?,
                        PROTO_DST_PORT => ports[1] = be16(bytes)?,
                        PROTO_ICMP_ID | PROTO_ICMPV6_ID => id = be16(bytes)?,
                        PROTO_ICMP_TYPE | PROTO_ICMPV6_TYPE => icmp[0] = *bytes.first()?,
                        PROTO_ICMP_CODE | PROTO_ICMPV6_CODE => icmp[1] = *bytes.first()?,
                        _ => {}
                    }
                }
            }
            TUPLE_ZONE => *zone = be16(value)?,
            _ => {}
        }
    }
    let (src, dst) = (src?, dst?);
    if src.is_ipv4() != dst.is_ipv4() {
        return None;
    }
    let mut tuple = Tuple { src, dst, protocol: protocol?, src_port: ports[0], dst_port: ports[1] };
    if tuple.is_icmp() {
        (tuple.src_port, tuple.dst_port) = (u16::from_be_bytes(icmp), id);
    }
    Some(tuple)
}

#[expect(clippy::option_option, reason = "outside: whether it can be read; inside: whether it is TCP's")]
fn protoinfo(nest: &[u8]) -> Option<Option<Tcp>> {
    let mut found = None;
    for attribute in NlasIterator::new(nest) {
        let attribute = attribute.ok()?;
        if attribute.kind() != PROTOINFO_TCP {
            continue;
        }
        let mut tcp = Tcp::default();
        for part in NlasIterator::new(attribute.value()) {
            let part = part.ok()?;
            let first = *part.value().first()?;
            match part.kind() {
                TCP_STATE => tcp.state = first,
                TCP_WSCALE_ORIG => tcp.scales |= first & 0x0f,
                TCP_WSCALE_REPLY => tcp.scales |= first << 4,
                TCP_FLAGS_ORIG => tcp.flags[0] = first & TCP_FLAGS,
                TCP_FLAGS_REPLY => tcp.flags[1] = first & TCP_FLAGS,
                _ => {}
            }
        }
        found = Some(tcp);
    }
    Some(found)
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(*bytes.first_chunk::<4>()?))
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(*bytes.first_chunk::<16>()?))
}

fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Appends the message that asks for `write`, with `sequence` as its number; the kernel answers only if it fails.
pub fn encode(batch: &mut Vec<u8>, sequence: u32, write: &Write) {
    let start = batch.len();
    let (kind, flags) = match write {
        Write::Create(_) => (MESSAGE_NEW, FLAG_REQUEST | FLAG_CREATE | FLAG_EXCL),
        Write::Update { .. } => (MESSAGE_NEW, FLAG_REQUEST),
        Write::Delete(_) => (MESSAGE_DELETE, FLAG_REQUEST),
    };
    let family = if write.orig().src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    header(batch, kind, flags, sequence, family as u8);
    let mut builder = Builder(batch);
    builder.tuple(TUPLE_ORIG, write.orig());
    match write {
        Write::Create(entry) => create(&mut builder, entry),
        Write::Update { status, timeout_s, mark, tcp, .. } => {
            if *status != 0 {
                builder.put(STATUS, &u32::from(status & STATUS_SHARED | CONFIRMED).to_be_bytes());
            }
            builder.put(TIMEOUT, &timeout_s.to_be_bytes());
            if let Some(mark) = mark {
                builder.put(MARK, &mark.to_be_bytes());
            }
            if let Some(tcp) = tcp {
                builder.tcp(tcp);
            }
        }
        Write::Delete(_) => {}
    }
    finish(batch, start);
}

/// A request for the whole table.
pub(super) fn encode_dump(sequence: u32) -> Vec<u8> {
    const FLAG_DUMP: u16 = 0x300;
    let mut message = Vec::with_capacity(HEADER_LEN);
    header(&mut message, MESSAGE_GET, FLAG_REQUEST | FLAG_DUMP, sequence, libc::AF_UNSPEC as u8);
    finish(&mut message, 0);
    message
}

fn create(builder: &mut Builder<'_>, entry: &Entry) {
    // The kernel derives the translated reply from the translation; told both, it would not translate at all.
    let plain = entry.orig.inverse().unwrap_or(entry.reply);
    builder.tuple(TUPLE_REPLY, &plain);
    builder.put(STATUS, &u32::from(entry.status & STATUS_SHARED | CONFIRMED).to_be_bytes());
    builder.put(TIMEOUT, &entry.timeout_s.to_be_bytes());
    if entry.mark != 0 {
        builder.put(MARK, &entry.mark.to_be_bytes());
    }
    if let Some(tcp) = &entry.tcp {
        builder.tcp(tcp);
    }
    if let Some(source) = entry.source_nat() {
        builder.nat(NAT_SRC, source);
    }
    if let Some(destination) = entry.destination_nat() {
        builder.nat(NAT_DST, destination);
    }
}

fn header(batch: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8) {
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&kind.to_ne_bytes());
    batch.extend_from_slice(&flags.to_ne_bytes());
    batch.extend_from_slice(&sequence.to_ne_bytes());
    batch.extend_from_slice(&[0; 4]);
    // Version 0, resource 0.
    batch.extend_from_slice(&[family, 0, 0, 0]);
}

fn finish(batch: &mut [u8], start: usize) {
    let len = u32::try_from(batch.len() - start).expect("a message of some hundred bytes");
    batch[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

struct Builder<'a>(&'a mut Vec<u8>);

impl Builder<'_> {
    fn put(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).expect("values are 16 bytes at most");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Builder<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inside(self);
        let len = u16::try_from(self.0.len() - start).expect("nests are some hundred bytes at most");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn address(&mut self, kind_v4: u16, kind_v6: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.put(kind_v4, &address.octets()),
            IpAddr::V6(address) => self.put(kind_v6, &address.octets()),
        }
    }

    fn tuple(&mut self, kind: u16, tuple: &Tuple) {
        self.nest(kind, |nest| {
            nest.nest(TUPLE_IP, |ip| {
                ip.address(IP_V4_SRC, IP_V6_SRC, tuple.src);
                ip.address(IP_V4_DST, IP_V6_DST, tuple.dst);
            });
            nest.nest(TUPLE_PROTO, |proto| {
                proto.put(PROTO_NUM, &[tuple.protocol]);
                if tuple.is_icmp() {
                    let [icmp_type, code] = tuple.src_port.to_be_bytes();
                    let (id, kind, code_kind) = if tuple.src.is_ipv4() {
                        (PROTO_ICMP_ID, PROTO_ICMP_TYPE, PROTO_ICMP_CODE)
                    } else {
                        (PROTO_ICMPV6_ID, PROTO_ICMPV6_TYPE, PROTO_ICMPV6_CODE)
                    };
                    proto.put(id, &tuple.dst_port.to_be_bytes());
                    proto.put(kind, &[icmp_type]);
                    proto.put(code_kind, &[code]);
                } else if tuple.has_ports() {
                    proto.put(PROTO_SRC_PORT, &tuple.src_port.to_be_bytes());
                    proto.put(PROTO_DST_PORT, &tuple.dst_port.to_be_bytes());
                }
            });
        });
    }

    fn tcp(&mut self, tcp: &Tcp) {
        self.nest(PROTOINFO, |info| {
            info.nest(PROTOINFO_TCP, |nest| {
                if tcp.state != 0 {
                    nest.put(TCP_STATE, &[tcp.state]);
                    nest.put(TCP_WSCALE_ORIG, &[tcp.scales & 0x0f]);
                    nest.put(TCP_WSCALE_REPLY, &[tcp.scales >> 4]);
                }
                // Flags and the mask of those that are meant: all, so that what is not set is cleared.
                nest.put(TCP_FLAGS_ORIG, &[tcp.flags[0], TCP_FLAGS]);
                nest.put(TCP_FLAGS_REPLY, &[tcp.flags[1], TCP_FLAGS]);
            });
        });
    }

    fn nat(&mut self, kind: u16, (address, port): (IpAddr, u16)) {
        self.nest(kind, |nest| {
            nest.address(NAT_V4_MIN, NAT_V6_MIN, address);
            nest.address(NAT_V4_MAX, NAT_V6_MAX, address);
            nest.nest(NAT_PROTO, |proto| {
                proto.put(NAT_PROTO_MIN, &port.to_be_bytes());
                proto.put(NAT_PROTO_MAX, &port.to_be_bytes());
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{ICMP, SEEN_REPLY, TCP, UDP};
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn translated(protocol: u8) -> Entry {
        let orig = Tuple {
            src: address("10.100.0.2"),
            dst: address("10.88.0.10"),
            protocol,
            src_port: 40_000,
            dst_port: 443,
        };
        let reply = Tuple { dst: address("10.88.0.100"), dst_port: 1030, ..orig.inverse().unwrap() };
        let tcp = (protocol == TCP).then_some(Tcp { state: 3, scales: 0x7a, flags: [3, 3] });
        Entry { orig, reply, status: 0x0e, timeout_s: 600, mark: 7, zone: 0, tcp }
    }

    /// What the kernel would make of it: flags of an event, and the reply as it is kept.
    fn as_the_kernel_tells(entry: &Entry) -> Vec<u8> {
        let mut message = Vec::new();
        header(&mut message, MESSAGE_NEW, 0, 1, 2);
        let mut builder = Builder(&mut message);
        builder.tuple(TUPLE_ORIG, &entry.orig);
        builder.tuple(TUPLE_REPLY, &entry.reply);
        builder.put(STATUS, &u32::from(entry.status).to_be_bytes());
        builder.put(TIMEOUT, &entry.timeout_s.to_be_bytes());
        builder.put(MARK, &entry.mark.to_be_bytes());
        entry.tcp.iter().for_each(|tcp| builder.tcp(tcp));
        finish(&mut message, 0);
        message
    }

    #[test]
    fn what_the_kernel_tells_is_understood() {
        for protocol in [TCP, UDP] {
            let entry = translated(protocol);
            let message = decode(&as_the_kernel_tells(&entry)).unwrap();
            assert_eq!((message.kind, message.cause, message.entry), (Kind::Updated, 0, entry));
        }
    }

    #[test]
    fn an_entry_is_made_with_its_translation_undone_and_told() {
        let entry = translated(TCP);
        let mut batch = Vec::new();
        encode(&mut batch, 5, &Write::Create(entry));
        assert_eq!(batch.len() % 4, 0);
        let made = decode(&batch).unwrap();
        assert_eq!(made.kind, Kind::New);
        assert_eq!(
            Some(made.entry.reply),
            entry.orig.inverse(),
            "told translated, the kernel translates nothing"
        );
        let text: Vec<u16> =
            NlasIterator::new(&batch[HEADER_LEN..]).map(|attribute| attribute.unwrap().kind()).collect();
        assert_eq!(text, [TUPLE_ORIG, TUPLE_REPLY, STATUS, TIMEOUT, MARK, PROTOINFO, NAT_SRC]);
    }

    #[test]
    fn an_update_carries_no_translation() {
        let entry = translated(TCP);
        let write =
            Write::Update { orig: entry.orig, status: SEEN_REPLY, timeout_s: 9, mark: None, tcp: entry.tcp };
        let mut batch = Vec::new();
        encode(&mut batch, 5, &write);
        let kinds: Vec<u16> =
            NlasIterator::new(&batch[HEADER_LEN..]).map(|attribute| attribute.unwrap().kind()).collect();
        assert_eq!(kinds, [TUPLE_ORIG, STATUS, TIMEOUT, PROTOINFO]);
    }

    #[test]
    fn the_translation_is_found_in_the_two_tuples() {
        let mut entry = translated(UDP);
        assert_eq!(entry.source_nat(), Some((address("10.88.0.100"), 1030)));
        assert_eq!(entry.destination_nat(), None);
        entry.reply = entry.orig.inverse().unwrap();
        assert_eq!((entry.source_nat(), entry.destination_nat()), (None, None));
        entry.reply.src = address("10.100.0.80");
        entry.reply.src_port = 8443;
        assert_eq!(entry.destination_nat(), Some((address("10.100.0.80"), 8443)));

        let echo = Tuple { protocol: ICMP, src_port: 0x0800, dst_port: 77, ..entry.orig };
        let mut entry = Entry { orig: echo, reply: echo.inverse().unwrap(), ..entry };
        assert_eq!((entry.source_nat(), entry.destination_nat()), (None, None));
        entry.reply.dst_port = 1024;
        assert_eq!(entry.source_nat(), Some((echo.src, 1024)));
        assert_eq!(entry.destination_nat(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            if bytes.len() >= 6 {
                bytes[4..6].copy_from_slice(&MESSAGE_NEW.to_ne_bytes());
                let _ = decode(&bytes);
            }
        }

        #[test]
        fn a_damaged_message_does_not_make_the_reader_panic(at in 20usize..200, value: u8, len in 0usize..300) {
            let mut message = as_the_kernel_tells(&translated(TCP));
            let at = at % message.len();
            message[at] = value;
            message.truncate(len);
            let _ = decode(&message);
        }
    }
}
