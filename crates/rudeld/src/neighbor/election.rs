//! Which node answers: one of the serving ones, chosen by the question itself, so that nobody has to be asked.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::host::MacAddr;

/// Within this time the same question counts as asked again, in nanoseconds.
///
/// Askers repeat an unanswered question after one second (`retrans_time`, RFC 4861's RETRANS_TIMER, and all ARP
/// implementations that we know of; Linux after 1.02 s, measured): a limit of exactly one second would hardly ever
/// be met. Three leave room for one lost question, and stay below the five after which a contented asker may probe again.
pub const ASKED_AGAIN_NS: u64 = 3_000_000_000;

/// The nodes among which the answering one is elected, as this node sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingNodes {
    /// This node's identity.
    pub me: u64,
    /// The identities of all nodes that serve, in any order; with [`me`](Self::me) only if this one does.
    pub serving: Vec<u64>,
}

impl ServingNodes {
    /// Does this node serve? If not, it answers nobody.
    #[must_use]
    pub fn includes_me(&self) -> bool {
        self.serving.contains(&self.me)
    }

    /// Who answers `asker`'s question for `address`: rendezvous hashing, so that when a node comes or goes only its own
    /// askers change hands. The same on every node that knows the same list.
    #[must_use]
    pub fn elected(&self, asker: IpAddr, address: IpAddr) -> Option<u64> {
        let question = mix(mix(fold(asker)) ^ fold(address));
        self.serving.iter().copied().max_by_key(|node| (mix(question ^ mix(*node)), *node))
    }
}

/// An address in 64 bits. An IPv4 address never equals an IPv6 one by construction of the constant.
fn fold(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(u32::from(address)) | 0x0004_0000_0000_0000,
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            mix((bits >> 64) as u64) ^ (bits as u64)
        }
    }
}

/// The finalizer of splitmix64: every bit of the input changes half of the output. All nodes must compute the same, in
/// every version of this program, so it is spelt out here.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The list of serving nodes, shared between the one that knows it and those that answer. Publishing never blocks.
#[derive(Clone, Debug, Default)]
pub struct Election(Arc<ArcSwap<ServingNodes>>);

impl Election {
    /// At first nobody serves, and so nobody answers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a new list known. It counts from the next question on.
    pub fn publish(&self, nodes: ServingNodes) {
        self.0.store(Arc::new(nodes));
    }

    /// The list as it is now.
    #[must_use]
    pub fn current(&self) -> Arc<ServingNodes> {
        self.0.load_full()
    }
}

/// A question: who asked for what. The MAC tells apart those who have no address yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) ifindex: u32,
    pub(super) asker: IpAddr,
    pub(super) asker_mac: MacAddr,
    pub(super) address: IpAddr,
}

/// The questions that were left to others a moment ago.
///
/// As many as fit into a table of fixed size: a newer one takes the place of an older one that falls on the same slot.
/// What is lost that way is an answer to a repeated question, by a node that was not elected, to one asker in the middle
/// of a flood.
#[derive(Debug)]
pub(super) struct RecentlyAsked {
    slots: Box<[Option<(Question, u64)>]>,
    hasher: RandomState,
}

impl RecentlyAsked {
    const SLOTS: usize = 1024;

    pub(super) fn new() -> Self {
        Self { slots: vec![None; Self::SLOTS].into_boxed_slice(), hasher: RandomState::new() }
    }

    /// Remembers a question asked at `now_ns`; was it asked a moment ago already?
    pub(super) fn again(&mut self, question: Question, now_ns: u64) -> bool {
        let index = (self.hasher.hash_one(question) % Self::SLOTS as u64) as usize;
        let before = self.slots[index].replace((question, now_ns));
        before
            .is_some_and(|(asked, at_ns)| asked == question && now_ns.saturating_sub(at_ns) <= ASKED_AGAIN_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn askers() -> impl Iterator<Item = IpAddr> {
        (0..3000_u32).flat_map(|n| {
            let v4 = Ipv4Addr::from(0x0a00_0000 + n);
            let v6 = Ipv6Addr::from(0xfe80 << 112 | u128::from(n));
            [v4.into(), v6.into()]
        })
    }

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

    #[test]
    fn all_nodes_elect_the_same_whatever_the_order() {
        for asker in askers() {
            let a = ServingNodes { me: 1, serving: vec![1, 2, 3] };
            let b = ServingNodes { me: 2, serving: vec![3, 1, 2] };
            assert_eq!(a.elected(asker, VIP), b.elected(asker, VIP));
        }
        assert_eq!(ServingNodes { me: 1, serving: vec![] }.elected(VIP, VIP), None);
    }

    #[test]
    fn shares_are_even_and_a_leave_moves_only_the_leavers_askers() {
        let three = ServingNodes { me: 1, serving: vec![1, 2, 3] };
        let two = ServingNodes { me: 1, serving: vec![1, 3] };
        let mut shares = BTreeMap::new();
        for asker in askers() {
            let elected = three.elected(asker, VIP).unwrap();
            *shares.entry(elected).or_insert(0) += 1;
            if elected != 2 {
                assert_eq!(two.elected(asker, VIP), Some(elected));
            }
        }
        assert!(shares.values().all(|share| (1800..2200).contains(share)), "{shares:?}");
    }

    #[test]
    fn the_choice_is_the_same_in_every_version() {
        let nodes = ServingNodes { me: 1, serving: (1..=8).collect() };
        let elected: Vec<_> = [1, 2, 3, 4]
            .map(|n| nodes.elected(Ipv4Addr::new(192, 0, 2, n).into(), VIP).unwrap())
            .into_iter()
            .chain([nodes.elected("fe80::1".parse().unwrap(), "2001:db8::10".parse().unwrap()).unwrap()])
            .collect();
        assert_eq!(elected, [1, 8, 2, 2, 5]);
    }

    fn question(n: u8) -> Question {
        Question {
            ifindex: 2,
            asker: Ipv4Addr::new(192, 0, 2, n).into(),
            asker_mac: MacAddr([2, 0, 0, 0, 0, n]),
            address: VIP,
        }
    }

    #[test]
    fn asked_again_is_the_same_question_within_the_time() {
        let mut recent = RecentlyAsked::new();
        assert!(!recent.again(question(1), 10));
        assert!(recent.again(question(1), 10 + ASKED_AGAIN_NS));
        assert!(!recent.again(question(1), 11 + 2 * ASKED_AGAIN_NS));
        for other in [
            Question { ifindex: 3, ..question(1) },
            Question { asker: Ipv4Addr::UNSPECIFIED.into(), ..question(1) },
            Question { asker_mac: MacAddr([2, 0, 0, 0, 0, 9]), ..question(1) },
            Question { address: Ipv4Addr::new(192, 0, 2, 11).into(), ..question(1) },
        ] {
            assert!(!recent.again(other, 11 + 2 * ASKED_AGAIN_NS), "{other:?}");
        }
    }

    #[test]
    fn a_flood_does_not_make_the_table_grow() {
        let mut recent = RecentlyAsked::new();
        for n in 0..100_000_u32 {
            recent.again(Question { asker: Ipv4Addr::from(n).into(), ..question(1) }, u64::from(n));
        }
        assert_eq!(recent.slots.len(), RecentlyAsked::SLOTS);
    }
}
