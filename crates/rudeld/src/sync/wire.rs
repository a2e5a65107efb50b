//! What routers tell each other of their connections: items, one behind the other, in the sealed datagrams of
//! [`Channel::State`](rudel_proto::seal::Channel::State).
//!
//! ```text
//!  1 record   flags bucket protocol status  timeout_s(4)  src dst  ports(4)  [snat addr port] [dnat addr port] [tcp(4)] [mark(4)]
//!  2 gone     flags bucket protocol                       src dst  ports(4)
//!  3 begin    transfer(4)                       all that I own follows
//!  4 end      transfer(4)                       that was all
//!  5 claim    owned(32)                         what I own from here on
//!  6 beat     token(8) count  { node(8) token(8) } ...      whom I hear, and by which token
//!  7 missing  node(8) count  { first(8) last(8) } ...       that node's datagrams that I lack
//!  8 want     node(8)                           tell me all that you own
//! ```
//!
//! Numbers are in network order. An IPv4 record without NAT and mark has 21 bytes; of TCP, with source NAT, 31: some 36 in a
//! datagram.

use std::net::IpAddr;

use rudel_proto::bucket::BucketSet;
use rudel_proto::id::NodeId;

use super::conntrack::{self, Entry, TCP, Tcp, Tuple};

const RECORD: u8 = 1;
const GONE: u8 = 2;
const BEGIN: u8 = 3;
const END: u8 = 4;
const CLAIM: u8 = 5;
const BEAT: u8 = 6;
const MISSING: u8 = 7;
const WANT: u8 = 8;

const FLAG_V6: u8 = 1;
const FLAG_SNAT: u8 = 2;
const FLAG_DNAT: u8 = 4;
const FLAG_TCP: u8 = 8;
const FLAG_MARK: u8 = 16;

/// The longest item in bytes: a beat that names 32 nodes.
pub const ITEM_LEN_MAX: usize = 1 + 8 + 1 + NODES_MAX * 16;
/// Nodes that a beat names.
pub const NODES_MAX: usize = 32;
/// Ranges of numbers that one request names.
pub const RANGES_MAX: usize = 32;

/// One thing that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A connection of one of the sender's buckets. Its timeout is the one that the sender's kernel gave it last.
    Record {
        /// Its bucket.
        bucket: u8,
        /// The connection; its zone is 0.
        entry: Entry,
    },
    /// A connection of one of the sender's buckets has ended.
    Gone {
        /// Its bucket.
        bucket: u8,
        /// Which.
        orig: Tuple,
    },
    /// All connections of the buckets that the sender claims follow.
    Begin {
        /// The number of this transfer, counted by the sender.
        transfer: u32,
    },
    /// Whatever was not told since the beginning is not there.
    End {
        /// As in its beginning.
        transfer: u32,
    },
    /// What the sender owns from here on.
    Claim(BucketSet),
    /// Whom the sender hears.
    Beat {
        /// The first number of the sender's run.
        token: u64,
        /// Nodes, and the token of the run in which each is heard.
        heard: Vec<(NodeId, u64)>,
    },
    /// Datagrams of a node that the sender lacks.
    Missing {
        /// Whose.
        of: NodeId,
        /// Their numbers, first and last.
        ranges: Vec<(u64, u64)>,
    },
    /// The sender wants to be told of all connections of a node.
    Want {
        /// Whose.
        of: NodeId,
    },
}

impl Item {
    /// Appends the item.
    pub fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Item::Record { bucket, entry } => encode_record(to, *bucket, entry),
            Item::Gone { bucket, orig } => {
                to.extend_from_slice(&[GONE, family_flag(orig), *bucket, orig.protocol]);
                encode_ends(to, orig);
            }
            Item::Begin { transfer } => tagged(to, BEGIN, &transfer.to_be_bytes()),
            Item::End { transfer } => tagged(to, END, &transfer.to_be_bytes()),
            Item::Claim(owned) => tagged(to, CLAIM, &owned.to_bytes()),
            Item::Beat { token, heard } => {
                tagged(to, BEAT, &token.to_be_bytes());
                to.push(u8::try_from(heard.len()).expect("a beat names 32 nodes at most"));
                for (node, token) in heard {
                    to.extend_from_slice(&node.as_u64().to_be_bytes());
                    to.extend_from_slice(&token.to_be_bytes());
                }
            }
            Item::Missing { of, ranges } => {
                tagged(to, MISSING, &of.as_u64().to_be_bytes());
                to.push(u8::try_from(ranges.len()).expect("a request names 32 ranges at most"));
                for (first, last) in ranges {
                    to.extend_from_slice(&first.to_be_bytes());
                    to.extend_from_slice(&last.to_be_bytes());
                }
            }
            Item::Want { of } => tagged(to, WANT, &of.as_u64().to_be_bytes()),
        }
    }
}

/// Reads all items of a message.
///
/// # Errors
/// What makes no sense. Nothing of the message is to be believed then.
pub fn decode(message: &[u8]) -> Result<Vec<Item>, &'static str> {
    let mut reader = Reader(message);
    let mut items = Vec::new();
    while !reader.0.is_empty() {
        items.push(decode_item(&mut reader)?);
    }
    Ok(items)
}

fn decode_item(reader: &mut Reader<'_>) -> Result<Item, &'static str> {
    let [tag] = reader.array()?;
    Ok(match tag {
        RECORD => decode_record(reader)?,
        GONE => {
            let [flags, bucket, protocol] = reader.array()?;
            if flags & !FLAG_V6 != 0 {
                return Err("unknown flags of what is gone");
            }
            Item::Gone { bucket, orig: decode_ends(reader, flags, protocol)? }
        }
        BEGIN => Item::Begin { transfer: reader.u32()? },
        END => Item::End { transfer: reader.u32()? },
        CLAIM => Item::Claim(BucketSet::from_bytes(reader.array()?)),
        BEAT => {
            let token = reader.u64()?;
            let heard = reader.pairs(NODES_MAX)?;
            Item::Beat { token, heard: heard.map(|(node, token)| (NodeId::from_u64(node), token)).collect() }
        }
        MISSING => {
            let of = NodeId::from_u64(reader.u64()?);
            let ranges: Vec<_> = reader.pairs(RANGES_MAX)?.collect();
            if ranges.iter().any(|(first, last)| first > last) {
                return Err("a range that ends before it begins");
            }
            Item::Missing { of, ranges }
        }
        WANT => Item::Want { of: NodeId::from_u64(reader.u64()?) },
        _ => return Err("an unknown kind of item"),
    })
}

fn encode_record(to: &mut Vec<u8>, bucket: u8, entry: &Entry) {
    let (source_nat, destination_nat) = (entry.source_nat(), entry.destination_nat());
    let mut flags = family_flag(&entry.orig);
    for (present, flag) in [
        (source_nat.is_some(), FLAG_SNAT),
        (destination_nat.is_some(), FLAG_DNAT),
        (entry.tcp.is_some(), FLAG_TCP),
        (entry.mark != 0, FLAG_MARK),
    ] {
        flags |= if present { flag } else { 0 };
    }
    to.extend_from_slice(&[RECORD, flags, bucket, entry.orig.protocol, entry.status]);
    to.extend_from_slice(&entry.timeout_s.to_be_bytes());
    encode_ends(to, &entry.orig);
    for (address, port) in source_nat.into_iter().chain(destination_nat) {
        encode_address(to, address);
        to.extend_from_slice(&port.to_be_bytes());
    }
    if let Some(tcp) = entry.tcp {
        to.extend_from_slice(&[tcp.state, tcp.scales, tcp.flags[0], tcp.flags[1]]);
    }
    if entry.mark != 0 {
        to.extend_from_slice(&entry.mark.to_be_bytes());
    }
}

fn decode_record(reader: &mut Reader<'_>) -> Result<Item, &'static str> {
    let [flags, bucket, protocol, status] = reader.array()?;
    if flags & !(FLAG_V6 | FLAG_SNAT | FLAG_DNAT | FLAG_TCP | FLAG_MARK) != 0 {
        return Err("unknown flags of a record");
    }
    let timeout_s = reader.u32()?;
    let orig = decode_ends(reader, flags, protocol)?;
    let mut reply = orig.inverse().ok_or("an ICMP message that nobody answers")?;
    if flags & FLAG_SNAT != 0 {
        (reply.dst, reply.dst_port) = (reader.address(flags)?, reader.u16()?);
    }
    if flags & FLAG_DNAT != 0 {
        (reply.src, reply.src_port) = (reader.address(flags)?, reader.u16()?);
    }
    let tcp = if flags & FLAG_TCP != 0 {
        let [state, scales, orig, reply] = reader.array()?;
        Some(Tcp { state, scales, flags: [orig, reply].map(|flags| flags & conntrack::TCP_FLAGS) })
    } else {
        None
    };
    if tcp.is_some() != (protocol == TCP) {
        return Err("the state of TCP belongs to TCP");
    }
    let mark = if flags & FLAG_MARK != 0 { reader.u32()? } else { 0 };
    Ok(Item::Record { bucket, entry: Entry { orig, reply, status, timeout_s, mark, zone: 0, tcp } })
}

fn family_flag(tuple: &Tuple) -> u8 {
    if tuple.src.is_ipv6() { FLAG_V6 } else { 0 }
}

fn tagged(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    to.push(tag);
    to.extend_from_slice(bytes);
}

fn encode_address(to: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => to.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => to.extend_from_slice(&address.octets()),
    }
}

fn encode_ends(to: &mut Vec<u8>, tuple: &Tuple) {
    encode_address(to, tuple.src);
    encode_address(to, tuple.dst);
    to.extend_from_slice(&tuple.src_port.to_be_bytes());
    to.extend_from_slice(&tuple.dst_port.to_be_bytes());
}

fn decode_ends(reader: &mut Reader<'_>, flags: u8, protocol: u8) -> Result<Tuple, &'static str> {
    let (src, dst) = (reader.address(flags)?, reader.address(flags)?);
    Ok(Tuple { src, dst, protocol, src_port: reader.u16()?, dst_port: reader.u16()? })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (array, rest) = self.0.split_first_chunk().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(*array)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_be_bytes)
    }

    fn address(&mut self, flags: u8) -> Result<IpAddr, &'static str> {
        if flags & FLAG_V6 != 0 {
            self.array::<16>().map(IpAddr::from)
        } else {
            self.array::<4>().map(IpAddr::from)
        }
    }

    fn pairs(&mut self, count_max: usize) -> Result<impl Iterator<Item = (u64, u64)> + use<>, &'static str> {
        let [count] = self.array()?;
        if usize::from(count) > count_max {
            return Err("more of them than may be");
        }
        let pairs: Result<Vec<_>, _> = (0..count).map(|_| Ok((self.u64()?, self.u64()?))).collect();
        pairs.map(Vec::into_iter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::conntrack::{ICMP, ICMPV6, UDP};
    use super::*;

    fn tuples() -> impl Strategy<Value = Tuple> {
        let ends = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        ];
        let protocol = prop_oneof![Just(TCP), Just(UDP), Just(50), Just(0)];
        (ends, protocol, any::<[u16; 2]>()).prop_map(|((src, dst), protocol, [src_port, dst_port])| {
            let protocol = match (protocol, src) {
                (0, IpAddr::V4(_)) => ICMP,
                (0, IpAddr::V6(_)) => ICMPV6,
                _ => protocol,
            };
            let mut tuple = Tuple { src, dst, protocol, src_port, dst_port };
            if tuple.is_icmp() {
                tuple.src_port = if src.is_ipv4() { 0x0800 } else { 0x8000 };
            }
            tuple
        })
    }

    fn entries() -> impl Strategy<Value = Entry> {
        (tuples(), any::<(u8, u32, u32)>(), any::<(bool, bool, u16)>(), any::<(u8, u8, [u8; 2])>()).prop_map(
            |(orig, (status, timeout_s, mark), (snat, dnat, port), (state, scales, flags))| {
                let mut reply = orig.inverse().unwrap();
                if snat {
                    (reply.dst, reply.dst_port) = (orig.dst, port);
                }
                if dnat {
                    reply.src = orig.src;
                    if !orig.is_icmp() {
                        reply.src_port = port;
                    }
                }
                let flags = flags.map(|flags| flags & conntrack::TCP_FLAGS);
                let tcp = (orig.protocol == TCP).then_some(Tcp { state, scales, flags });
                Entry { orig, reply, status, timeout_s, mark, zone: 0, tcp }
            },
        )
    }

    fn items() -> impl Strategy<Value = Item> {
        let nodes = prop::collection::vec(any::<(u64, u64)>(), 0..=NODES_MAX);
        let ranges = prop::collection::vec(any::<(u64, u64)>(), 0..=RANGES_MAX);
        prop_oneof![
            (any::<u8>(), entries()).prop_map(|(bucket, entry)| Item::Record { bucket, entry }),
            (any::<u8>(), tuples()).prop_map(|(bucket, orig)| Item::Gone { bucket, orig }),
            any::<u32>().prop_map(|transfer| Item::Begin { transfer }),
            any::<u32>().prop_map(|transfer| Item::End { transfer }),
            any::<[u8; 32]>().prop_map(|bytes| Item::Claim(BucketSet::from_bytes(bytes))),
            (any::<u64>(), nodes).prop_map(|(token, heard)| Item::Beat {
                token,
                heard: heard.into_iter().map(|(node, token)| (NodeId::from_u64(node), token)).collect()
            }),
            (any::<u64>(), ranges).prop_map(|(of, ranges)| Item::Missing {
                of: NodeId::from_u64(of),
                ranges: ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect()
            }),
            any::<u64>().prop_map(|of| Item::Want { of: NodeId::from_u64(of) }),
        ]
    }

    fn encode(items: &[Item]) -> Vec<u8> {
        let mut message = Vec::new();
        items.iter().for_each(|item| item.encode(&mut message));
        message
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(items in prop::collection::vec(items(), 0..8)) {
            prop_assert_eq!(decode(&encode(&items)), Ok(items));
        }

        #[test]
        fn no_item_is_longer_than_the_longest(item in items()) {
            prop_assert!(encode(&[item]).len() <= ITEM_LEN_MAX);
        }

        #[test]
        fn a_shortened_message_is_refused(item in items(), cut in 1usize..600) {
            let message = encode(&[item]);
            let cut = cut % message.len();
            prop_assert!(cut == 0 || decode(&message[..cut]).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..1300), tag in 1u8..9) {
            let _ = decode(&bytes);
            let mut tagged = vec![tag];
            tagged.extend(bytes);
            let _ = decode(&tagged);
        }
    }
}
