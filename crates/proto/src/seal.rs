//! Sealing: nothing that an outsider sends, changes or repeats gets past here.
//!
//! ```text
//!  0        4  5       9 10                 …                    …            +8          +8
//! ┌────────┬──┬────────┬──┬──────────────┬──┬────────────────┬───────────┬───────────┬ ─ ─ ─ ─ ┬─────┐
//! │ "RUDL" │v1│key hint│cl│ cluster name │nl│ node name      │incarnation│ sequence  │ sealed  │ tag │
//! └────────┴──┴────────┴──┴──────────────┴──┴────────────────┴───────────┴───────────┴ ─ ─ ─ ─ ┴─────┘
//!  └──────────────────────── associated data (in the clear) ────────────────────────┘           16 bytes
//! ```
//!
//! Each sender has, for each incarnation, a key of its own (HKDF-SHA-256, RFC 5869, over cluster, name and
//! incarnation), and the sequence number is the nonce of ChaCha20-Poly1305 (RFC 8439): a nonce repeats only if an
//! incarnation does. Names are in the clear so that a node with a wrong key can be named to the administrator.
//!
//! Sealed with each message goes a list of the keys that its sender accepts, so that everybody knows whether a key can be
//! given up: `n u8 · n × key id 4 bytes`, the one that it seals with first.
//!
//! Each [`Channel`] has a magic and sub-keys of its own: numbers of one channel say nothing about those of another, and
//! what was sealed for one does not open in another.

use std::collections::BTreeMap;
use std::fmt;

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::id::{
    CLUSTER_NAME_LEN_MAX, ClusterName, Identity, Incarnation, NODE_NAME_LEN_MAX, NodeId, NodeName,
};
use crate::wire::{Reader, Writer};

/// Largest datagram in bytes: what fits IPv6's minimum MTU of 1,280 (RFC 8200 section 5) behind its and UDP's header.
pub const DATAGRAM_LEN_MAX: usize = 1232;

const VERSION: u8 = 2;
const TAG_LEN: usize = 16;
/// Most keys of a node: two while one is being rotated, and as many again for a rotation gone wrong.
const KEYS_MAX: usize = 4;
/// Sub-keys kept per opener: every node in a few incarnations. Beyond it the cache starts afresh.
const CACHE_LEN_MAX: usize = 256;

/// What sealed datagrams are about. A number may be used once in each channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channel {
    /// Who is a member, and who owns what: `RUDL`.
    #[default]
    Membership,
    /// The connections that routers share: `RUDS`.
    State,
}

impl Channel {
    const fn magic(self) -> [u8; 4] {
        match self {
            Channel::Membership => *b"RUDL",
            Channel::State => *b"RUDS",
        }
    }

    const fn label(self) -> &'static [u8] {
        match self {
            Channel::Membership => b"rudel datagram v1\0",
            Channel::State => b"rudel state v1\0",
        }
    }
}

/// What tells a key from others without telling anything about it: the first half of the fingerprint that administrators
/// see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "{a:02x}{b:02x}:{c:02x}{d:02x}")
    }
}

/// The secret that all nodes of a cluster share.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A key from its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        ClusterKey(bytes)
    }

    /// The seed of the flow hash, so that an outsider cannot choose flows that all meet in one bucket.
    ///
    /// A function of the key alone: every node hashes alike.
    pub fn flow_hash_seed(&self) -> u32 {
        let mut seed = [0; 4];
        self.expand(&[b"rudel flow hash seed"], &mut seed);
        u32::from_be_bytes(seed)
    }

    /// What tells it from others.
    pub fn id(&self) -> KeyId {
        let digest =
            Sha256::new().chain_update(b"rudel key fingerprint v1\0").chain_update(self.0).finalize();
        KeyId([digest[0], digest[1], digest[2], digest[3]])
    }

    /// That whoever made a probe has the key: of this node in this run, for the ear of this number, and
    /// no other probe than this one of them.
    pub fn probe_proof(&self, cluster: &ClusterName, sender: Identity, ear: u8, number: u64) -> u64 {
        let mut proof = [0; 8];
        self.expand(
            &[
                b"rudel probe v1\0",
                cluster.as_str().as_bytes(),
                b"\0",
                &sender.id.as_u64().to_be_bytes(),
                &sender.incarnation.0.to_be_bytes(),
                &[ear],
                &number.to_be_bytes(),
            ],
            &mut proof,
        );
        u64::from_be_bytes(proof)
    }

    fn cipher(
        &self,
        channel: Channel,
        cluster: &str,
        name: &str,
        incarnation: Incarnation,
    ) -> ChaCha20Poly1305 {
        let mut key = [0; 32];
        self.expand(
            &[
                channel.label(),
                cluster.as_bytes(),
                b"\0",
                name.as_bytes(),
                b"\0",
                &incarnation.0.to_be_bytes(),
            ],
            &mut key,
        );
        let cipher = ChaCha20Poly1305::new(Key::from_slice(&key));
        key.zeroize();
        cipher
    }

    fn expand(&self, info: &[&[u8]], okm: &mut [u8]) {
        Hkdf::<Sha256>::new(Some(b"rudel"), &self.0)
            .expand_multi_info(info, okm)
            .expect("HKDF-SHA-256 gives up to 8,160 bytes (RFC 5869 2.3)");
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

/// The keys of a node: the first seals, all open. Two, while a key is being rotated.
#[derive(Clone, Debug)]
pub struct Keys {
    keys: Vec<ClusterKey>,
}

impl Keys {
    /// `sealing` seals and opens; `accepted` only open: the first three of them.
    pub fn new(sealing: ClusterKey, accepted: impl IntoIterator<Item = ClusterKey>) -> Self {
        Keys { keys: std::iter::once(sealing).chain(accepted).take(KEYS_MAX).collect() }
    }

    /// What tells them apart, the sealing one first.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(ClusterKey::id).collect()
    }

    /// The key that seals.
    pub fn sealing(&self) -> &ClusterKey {
        &self.keys[0]
    }

    /// Whether a probe's proof is that of one of these keys.
    pub fn prove_probe(
        &self,
        cluster: &ClusterName,
        sender: Identity,
        ear: u8,
        number: u64,
        proof: u64,
    ) -> bool {
        self.keys.iter().any(|key| key.probe_proof(cluster, sender, ear, number) == proof)
    }
}

/// Where an authentic datagram comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The node's identity in this cluster.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// The run of its daemon.
    pub incarnation: Incarnation,
    /// The datagram's number in that run.
    pub sequence: u64,
}

/// Why a datagram was not let in. None of these affects the node's state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Rejection {
    /// It is not of this protocol, or too short or too long.
    #[error("not a rudel datagram")]
    Foreign,
    /// A version of the protocol that this program does not speak.
    #[error("protocol version {0}, this node speaks {VERSION}: upgrade the older node")]
    Version(u8),
    /// It belongs to a cluster of another name on the same group.
    #[error(
        "node {name} belongs to cluster \"{cluster}\": check [cluster] name, or give each cluster its own [heartbeat] group"
    )]
    Cluster {
        /// The name of its cluster.
        cluster: String,
        /// The name of its sender.
        name: String,
    },
    /// It is sealed with a key that this node does not have.
    #[error(
        "node {name} has another cluster key: copy the same key file to every node (compare `rudel key fingerprint`)"
    )]
    Key {
        /// The name of its sender.
        name: String,
    },
    /// It names a key that this node has, but was not sealed with it: forged or damaged.
    #[error(
        "a datagram in the name of {name} was forged or damaged on its way: if there are more, find out who sends them (`tcpdump -e` on the heartbeats' port)"
    )]
    Forged {
        /// The name in it.
        name: String,
    },
    /// It, or a later one of the same sender, was received before.
    #[error("a datagram of {name} was repeated")]
    Repeated {
        /// The name of its sender.
        name: String,
    },
    /// Its sender has been seen in a later run.
    #[error("a datagram of an earlier run of {name}")]
    Outdated {
        /// The name of its sender.
        name: String,
    },
    /// Another machine uses the name of a node that is alive.
    #[error("two machines are named {name}: give each node its own [node] name")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// It is authentic, but its inside makes no sense: a fault of the sender's program.
    #[error("a datagram of {name} cannot be understood ({what}): run the same version of rudel on all nodes")]
    Malformed {
        /// The name of its sender.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A view or an order from a node that has not been proved alive; it will be repeated.
    #[error("a view or an order of {name}, which has not been proved alive")]
    Unproven {
        /// The name of its sender.
        name: String,
    },
}

impl Rejection {
    /// The node that it is, or claims to be, from.
    pub fn node(&self) -> Option<&str> {
        match self {
            Rejection::Foreign | Rejection::Version(_) => None,
            Rejection::Cluster { name, .. }
            | Rejection::Key { name }
            | Rejection::Forged { name }
            | Rejection::Repeated { name }
            | Rejection::Outdated { name }
            | Rejection::DuplicateName { name }
            | Rejection::Malformed { name, .. }
            | Rejection::Unproven { name } => Some(name),
        }
    }

    /// The reason in one word, as metrics label it.
    pub fn reason(&self) -> &'static str {
        match self {
            Rejection::Foreign => "foreign",
            Rejection::Version(_) => "version",
            Rejection::Cluster { .. } => "cluster",
            Rejection::Key { .. } => "key",
            Rejection::Forged { .. } => "forged",
            Rejection::Repeated { .. } => "repeated",
            Rejection::Outdated { .. } => "outdated",
            Rejection::DuplicateName { .. } => "duplicate_name",
            Rejection::Malformed { .. } => "malformed",
            Rejection::Unproven { .. } => "unproven",
        }
    }
}

/// Seals what one node sends in one incarnation.
#[derive(Clone)]
pub struct Sealer {
    channel: Channel,
    cluster: ClusterName,
    name: NodeName,
    incarnation: Incarnation,
    keys: Vec<KeyId>,
    cipher: ChaCha20Poly1305,
}

impl Sealer {
    /// A sealer for one run of one node, of the membership channel.
    pub fn new(keys: &Keys, cluster: &ClusterName, name: &NodeName, incarnation: Incarnation) -> Self {
        Self::for_channel(Channel::Membership, keys, cluster, name, incarnation)
    }

    /// A sealer for one run of one node.
    pub fn for_channel(
        channel: Channel,
        keys: &Keys,
        cluster: &ClusterName,
        name: &NodeName,
        incarnation: Incarnation,
    ) -> Self {
        let key = keys.sealing();
        Sealer {
            channel,
            cluster: cluster.clone(),
            name: name.clone(),
            incarnation,
            keys: keys.ids(),
            cipher: key.cipher(channel, cluster.as_str(), name.as_str(), incarnation),
        }
    }

    /// The longest message in bytes that makes a datagram of [`DATAGRAM_LEN_MAX`]. It depends on the names.
    pub fn message_len_max(&self) -> usize {
        let names = 1 + self.cluster.as_str().len() + 1 + self.name.as_str().len();
        DATAGRAM_LEN_MAX - (4 + 1 + 4 + names + 8 + 8) - (1 + 4 * self.keys.len()) - TAG_LEN
    }

    /// The run that it seals for.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Seals `message` as datagram number `sequence`. A number must not be used twice.
    pub fn seal(&self, sequence: u64, message: &[u8]) -> Vec<u8> {
        let mut header = Writer::default();
        header.bytes(&self.channel.magic());
        header.u8(VERSION);
        header.bytes(&self.keys[0].0);
        header.text(self.cluster.as_str());
        header.text(self.name.as_str());
        header.u64(self.incarnation.0);
        header.u64(sequence);
        let mut datagram = header.finish();
        let start = datagram.len();
        datagram.push(self.keys.len() as u8);
        self.keys.iter().for_each(|key| datagram.extend_from_slice(&key.0));
        datagram.extend_from_slice(message);
        let (header, body) = datagram.split_at_mut(start);
        let tag = self
            .cipher
            .encrypt_in_place_detached(&nonce(sequence), header, body)
            .expect("a datagram is far below the 256 GiB that ChaCha20-Poly1305 can seal");
        datagram.extend_from_slice(&tag);
        debug_assert!(datagram.len() <= DATAGRAM_LEN_MAX);
        datagram
    }
}

/// Opens what the nodes of the cluster send.
#[derive(Clone)]
pub struct Opener {
    channel: Channel,
    cluster: ClusterName,
    keys: Vec<(ClusterKey, KeyId)>,
    /// By key, name and incarnation; only what once opened a datagram is kept, so outsiders cannot fill it.
    ciphers: BTreeMap<(usize, NodeName, Incarnation), ChaCha20Poly1305>,
}

impl Opener {
    /// An opener for all nodes of `cluster`, of the membership channel.
    pub fn new(keys: &Keys, cluster: &ClusterName) -> Self {
        Self::for_channel(Channel::Membership, keys, cluster)
    }

    /// An opener for all nodes of `cluster`.
    pub fn for_channel(channel: Channel, keys: &Keys, cluster: &ClusterName) -> Self {
        Opener {
            channel,
            cluster: cluster.clone(),
            keys: keys.keys.iter().map(|key| (key.clone(), key.id())).collect(),
            ciphers: BTreeMap::new(),
        }
    }

    /// Opens a datagram: who sent it, and what it says. That it is no repetition is not yet checked.
    pub fn open(&mut self, datagram: &[u8]) -> Result<(Sender, Vec<u8>), Rejection> {
        self.open_with_keys(datagram).map(|(sender, _, message)| (sender, message))
    }

    /// The same, and which keys its sender has: the one that it was sealed with, and the others that it accepts.
    pub fn open_with_keys(&mut self, datagram: &[u8]) -> Result<(Sender, Vec<KeyId>, Vec<u8>), Rejection> {
        if datagram.len() > DATAGRAM_LEN_MAX {
            return Err(Rejection::Foreign);
        }
        let mut reader = Reader::new(datagram);
        let header = parse_header(self.channel, &mut reader)?;
        if header.cluster != self.cluster.as_str() {
            return Err(Rejection::Cluster {
                cluster: header.cluster.into(),
                name: header.name.as_str().into(),
            });
        }
        let rest = reader.rest();
        let (associated, sealed) = datagram.split_at(datagram.len() - rest.len());
        if sealed.len() < TAG_LEN {
            return Err(Rejection::Foreign);
        }
        let (body, tag) = sealed.split_at(sealed.len() - TAG_LEN);
        let mut known_hint = false;
        for (index, (key, _)) in self.keys.iter().enumerate().filter(|(_, (_, hint))| *hint == header.hint) {
            known_hint = true;
            let slot = (index, header.name.clone(), header.incarnation);
            let cached = self.ciphers.get(&slot).cloned();
            let fresh = cached.is_none();
            let cipher = cached.unwrap_or_else(|| {
                key.cipher(self.channel, self.cluster.as_str(), header.name.as_str(), header.incarnation)
            });
            let mut message = body.to_vec();
            let opened = cipher.decrypt_in_place_detached(
                &nonce(header.sequence),
                associated,
                &mut message,
                Tag::from_slice(tag),
            );
            if opened.is_err() {
                continue;
            }
            if fresh {
                if self.ciphers.len() >= CACHE_LEN_MAX {
                    self.ciphers.clear();
                }
                self.ciphers.insert(slot, cipher);
            }
            let sender = Sender {
                id: NodeId::of(&self.cluster, &header.name),
                name: header.name,
                incarnation: header.incarnation,
                sequence: header.sequence,
            };
            let Some((keys, message)) = split_keys(&message) else {
                let name = sender.name.to_string();
                return Err(Rejection::Malformed { name, what: "its list of keys" });
            };
            return Ok((sender, keys, message.to_vec()));
        }
        let name = header.name.as_str().into();
        Err(if known_hint { Rejection::Forged { name } } else { Rejection::Key { name } })
    }
}

fn split_keys(sealed: &[u8]) -> Option<(Vec<KeyId>, &[u8])> {
    let (count, rest) = sealed.split_first()?;
    let count = usize::from(*count);
    if !(1..=KEYS_MAX).contains(&count) {
        return None;
    }
    let (ids, message) = rest.split_at_checked(4 * count)?;
    Some((ids.as_chunks().0.iter().map(|id| KeyId(*id)).collect(), message))
}

struct Header<'a> {
    hint: KeyId,
    cluster: &'a str,
    name: NodeName,
    incarnation: Incarnation,
    sequence: u64,
}

fn parse_header<'a>(channel: Channel, reader: &mut Reader<'a>) -> Result<Header<'a>, Rejection> {
    let foreign = |_| Rejection::Foreign;
    if reader.array::<4>().map_err(foreign)? != channel.magic() {
        return Err(Rejection::Foreign);
    }
    let version = reader.u8().map_err(foreign)?;
    if version != VERSION {
        return Err(Rejection::Version(version));
    }
    let hint = KeyId(reader.array().map_err(foreign)?);
    let cluster = reader.text(CLUSTER_NAME_LEN_MAX).map_err(foreign)?;
    // Both names end up in messages for the administrator: nothing but their alphabet may get there.
    ClusterName::new(cluster).map_err(|_| Rejection::Foreign)?;
    let name = reader.text(NODE_NAME_LEN_MAX).map_err(foreign)?;
    let name = NodeName::new(name).map_err(|_| Rejection::Foreign)?;
    let incarnation = Incarnation(reader.u64().map_err(foreign)?);
    let sequence = reader.u64().map_err(foreign)?;
    Ok(Header { hint, cluster, name, incarnation, sequence })
}

fn nonce(sequence: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&sequence.to_be_bytes());
    nonce.into()
}

/// Rejects repetitions of one sender's datagrams (RFC 4303 3.4.3): each number passes once, and none that is
/// 128 or more behind the highest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit `i`: number `highest - i` has been seen.
    seen: u128,
}

impl ReplayWindow {
    /// Lets `sequence` pass if it is new, and remembers it.
    pub fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.seen = if ahead < 128 { self.seen << ahead } else { 0 } | 1;
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        if behind >= 128 || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> (Keys, ClusterName, NodeName) {
        let keys = Keys::new(ClusterKey::new([7; 32]), []);
        (keys, ClusterName::new("web").unwrap(), NodeName::new("n1").unwrap())
    }

    #[test]
    fn what_is_sealed_opens() {
        let (keys, cluster, name) = parts();
        let sealer = Sealer::new(&keys, &cluster, &name, Incarnation(5));
        let (sender, message) = Opener::new(&keys, &cluster).open(&sealer.seal(9, b"hello")).unwrap();
        assert_eq!(message, b"hello");
        assert_eq!((sender.name, sender.incarnation, sender.sequence), (name, Incarnation(5), 9));
    }

    #[test]
    fn no_bit_can_be_changed() {
        let (keys, cluster, name) = parts();
        let datagram = Sealer::new(&keys, &cluster, &name, Incarnation(5)).seal(9, b"hello");
        let mut opener = Opener::new(&keys, &cluster);
        for bit in 0..datagram.len() * 8 {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(&changed).is_err(), "bit {bit}");
        }
        for len in 0..datagram.len() {
            assert!(opener.open(&datagram[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_rejection_names_the_sender_and_the_reason() {
        let (keys, cluster, name) = parts();
        let datagram = Sealer::new(&keys, &cluster, &name, Incarnation(5)).seal(9, b"hello");
        let other_keys = Keys::new(ClusterKey::new([8; 32]), []);
        let other_cluster = ClusterName::new("dns").unwrap();
        assert_eq!(
            Opener::new(&other_keys, &cluster).open(&datagram),
            Err(Rejection::Key { name: "n1".into() })
        );
        assert_eq!(
            Opener::new(&keys, &other_cluster).open(&datagram),
            Err(Rejection::Cluster { cluster: "web".into(), name: "n1".into() })
        );
        let mut version = datagram.clone();
        version[4] = 1;
        assert_eq!(Opener::new(&keys, &cluster).open(&version), Err(Rejection::Version(1)));
        assert_eq!(Opener::new(&keys, &cluster).open(b"GET / HTTP/1.0"), Err(Rejection::Foreign));
        let mut damaged = datagram;
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(Opener::new(&keys, &cluster).open(&damaged), Err(Rejection::Forged { name: "n1".into() }));
    }

    #[test]
    fn while_a_key_is_rotated_both_open() {
        let (keys, cluster, name) = parts();
        let old = Sealer::new(&keys, &cluster, &name, Incarnation(5)).seal(1, b"old");
        let both = Keys::new(ClusterKey::new([8; 32]), [ClusterKey::new([7; 32])]);
        let new = Sealer::new(&both, &cluster, &name, Incarnation(5)).seal(2, b"new");
        let mut opener = Opener::new(&both, &cluster);
        assert_eq!(opener.open(&old).unwrap().1, b"old");
        assert_eq!(opener.open(&new).unwrap().1, b"new");
        assert!(Opener::new(&keys, &cluster).open(&new).is_err());
        let [seven, eight] = [7, 8].map(|n| ClusterKey::new([n; 32]).id());
        assert_eq!(opener.open_with_keys(&old).unwrap().1, [seven]);
        assert_eq!(opener.open_with_keys(&new).unwrap().1, [eight, seven]);
    }

    /// Made with `printf 'rudel key fingerprint v1\0' | cat - <(head -c 32 key) | sha256sum`.
    #[test]
    fn the_id_of_a_key_is_the_begin_of_its_fingerprint() {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
        assert_eq!(ClusterKey::new(bytes).id().to_string(), "2503:a9f0");
    }

    #[test]
    fn nodes_one_step_of_a_rotation_apart_open_each_other_and_nodes_two_apart_do_not() {
        let (_, cluster, name) = parts();
        let key = |n: u8| ClusterKey::new([n; 32]);
        let steps = [
            Keys::new(key(7), []),
            Keys::new(key(7), [key(8)]),
            Keys::new(key(8), [key(7)]),
            Keys::new(key(8), []),
        ];
        let opens = |from: &Keys, to: &Keys| {
            let datagram = Sealer::new(from, &cluster, &name, Incarnation(5)).seal(1, b"hello");
            Opener::new(to, &cluster).open(&datagram).is_ok()
        };
        for (a, one) in steps.iter().enumerate() {
            for (b, other) in steps.iter().enumerate() {
                assert_eq!(opens(one, other) && opens(other, one), a.abs_diff(b) <= 1, "steps {a} and {b}");
            }
        }
    }

    #[test]
    fn what_is_sealed_for_one_channel_opens_in_no_other() {
        let (keys, cluster, name) = parts();
        let state = Sealer::for_channel(Channel::State, &keys, &cluster, &name, Incarnation(5));
        let membership = Sealer::new(&keys, &cluster, &name, Incarnation(5));
        let mut datagram = state.seal(9, b"hello");
        assert!(Opener::for_channel(Channel::State, &keys, &cluster).open(&datagram).is_ok());
        assert_eq!(Opener::new(&keys, &cluster).open(&datagram), Err(Rejection::Foreign));
        // Were the sub-keys the same, the same number would be the same key stream twice.
        let body = datagram.len() - TAG_LEN - 5..datagram.len() - TAG_LEN;
        assert_ne!(datagram[body.clone()], membership.seal(9, b"hello")[body]);
        datagram[..4].copy_from_slice(b"RUDL");
        let refused = Opener::new(&keys, &cluster).open(&datagram);
        assert_eq!(refused, Err(Rejection::Forged { name: "n1".into() }));
    }

    #[test]
    fn the_longest_message_makes_the_longest_datagram() {
        let (keys, cluster, name) = parts();
        let sealer = Sealer::new(&keys, &cluster, &name, Incarnation(5));
        let message = vec![7; sealer.message_len_max()];
        assert_eq!(sealer.seal(9, &message).len(), DATAGRAM_LEN_MAX);
    }

    #[test]
    fn the_seed_depends_on_the_key_alone() {
        assert_eq!(ClusterKey::new([7; 32]).flow_hash_seed(), ClusterKey::new([7; 32]).flow_hash_seed());
        assert_ne!(ClusterKey::new([7; 32]).flow_hash_seed(), ClusterKey::new([8; 32]).flow_hash_seed());
    }

    #[test]
    fn each_number_passes_once() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(1));
        assert!(!window.accept(1));
        assert!(window.accept(200));
        assert!(window.accept(73));
        assert!(!window.accept(73));
        assert!(!window.accept(72), "128 behind");
        assert!(window.accept(201));
        assert!(!window.accept(200));
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(201));
    }
}
