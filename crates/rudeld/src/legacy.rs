//! What a daemon leaves beside the kernel's maps for its successor: the protocol's memo, and its own few words.
//!
//! ```text
//!   length u16 │ household, JSON │ the protocol's memo        nothing at all: there is nothing to go on with
//! ```

use std::collections::BTreeMap;

use rudel_datapath::{BucketState, BucketTable, LeaseUntil, MEMO_BYTES_MAX};
use rudel_proto::bucket::BucketSet;
use rudel_proto::machine::{Inheritance, Memo};
use rudel_proto::{Config, Time};
use serde::{Deserialize, Serialize};

/// What the daemon itself wants remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Household {
    /// How many daemons of this run came before.
    pub restarts: u32,
    /// Where heartbeats go: who goes on elsewhere is another node to the others.
    pub group: String,
    /// The same of the links.
    pub links: Vec<String>,
    /// The last verdicts of the health checks.
    pub checks: BTreeMap<String, bool>,
}

/// All that was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// The daemon's part.
    pub household: Household,
    /// The protocol's part.
    pub memo: Memo,
}

/// As it is left. `memo` is as the protocol gives it; empty if there is nothing to go on with. So is what has no room in the
/// kernel: a node without a successor is better than none.
pub fn encode(household: &[u8], memo: &[u8]) -> Vec<u8> {
    let fits = 2 + household.len() + memo.len() <= MEMO_BYTES_MAX;
    let Some(len) = u16::try_from(household.len()).ok().filter(|_| fits && !memo.is_empty()) else {
        return Vec::new();
    };
    [&len.to_be_bytes(), household, memo].concat()
}

impl Household {
    /// As [`encode`] takes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("keys are text, and numbers are whole")
    }
}

impl Legacy {
    /// Reads what was left; an error is why nobody can go on with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("the last daemon was no member, or was leaving".into());
        }
        let unreadable = |what: String| format!("what the last daemon has left cannot be read: {what}");
        let (len, rest) = bytes.split_first_chunk::<2>().ok_or_else(|| unreadable("too short".into()))?;
        let (household, memo) = rest
            .split_at_checked(usize::from(u16::from_be_bytes(*len)))
            .ok_or_else(|| unreadable("too short".into()))?;
        let household = serde_json::from_slice(household).map_err(|error| unreadable(error.to_string()))?;
        let memo = Memo::decode(memo).map_err(|what| unreadable(what.into()))?;
        Ok(Legacy { household, memo })
    }

    /// Whether a daemon so configured can go on with it, while the lease holds.
    pub fn fits(&self, config: &Config, household: &Household) -> Result<(), String> {
        self.memo.fits(config).map_err(|error| error.to_string())?;
        if (&self.household.group, &self.household.links) != (&household.group, &household.links) {
            return Err("the heartbeat group or its interfaces have changed".into());
        }
        Ok(())
    }

    /// Everything that the protocol takes over, with what the kernel holds.
    pub fn inheritance(&self, table: &BucketTable, lease: LeaseUntil) -> Inheritance {
        let in_state = |states: &[BucketState]| -> BucketSet {
            table.iter().filter(|(_, state)| states.contains(state)).map(|(bucket, _)| bucket).collect()
        };
        Inheritance {
            memo: self.memo.clone(),
            owned: in_state(&[BucketState::Owned, BucketState::OwnedWhileKept]),
            contested: in_state(&[BucketState::OwnedWhileKept]),
            kept: in_state(&[BucketState::Kept, BucketState::KeptWatched]),
            lease: Time::from_nanos(lease.as_nanos()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rudel_proto::id::{ClusterName, Incarnation, NodeName};
    use rudel_proto::seal::{ClusterKey, Keys};
    use rudel_proto::{Node, Output, Terms};
    use std::time::Duration;

    pub(crate) fn config() -> Config {
        Config {
            cluster: ClusterName::new("web").unwrap(),
            name: NodeName::new("n1").unwrap(),
            host: 7,
            digest: 8,
            quorum: 1,
            timeout: Duration::from_millis(400),
            interval: Duration::from_millis(50),
            handover: true,
            weight: 100,
        }
    }

    /// What a lone node leaves once it serves.
    fn memo() -> Vec<u8> {
        let mut now = Time::from_nanos(1_000_000_000);
        let keys = Keys::new(ClusterKey::new([3; 32]), []);
        let mut node = Node::new(config(), keys, Incarnation(1), now).unwrap();
        node.leave_memos();
        loop {
            match node.poll_output() {
                Output::Send { pulse: true, .. } => node.handle_pulse_sent(now),
                Output::Memo(memo) if !memo.is_empty() => return memo,
                Output::Timeout(due) => {
                    now = due.unwrap();
                    node.handle_timeout(now);
                }
                _ => {}
            }
        }
    }

    /// The memo of a member that obeys these terms, in a view of some of them.
    pub(crate) fn memo_of_terms(obeyed: &[Terms], view: u64) -> Memo {
        let mut memo = Memo::decode(&memo()).unwrap();
        memo.obeyed = obeyed.to_vec();
        memo.view.digest = view;
        memo
    }

    fn household() -> Household {
        let checks = BTreeMap::from([("web".to_owned(), true)]);
        Household { restarts: 2, group: "239.255.74.40:7440".into(), links: vec!["eth0".into()], checks }
    }

    #[test]
    fn what_was_left_is_read_and_anything_else_is_refused_with_a_reason() {
        let bytes = encode(&household().to_bytes(), &memo());
        assert!(bytes.len() < MEMO_BYTES_MAX);
        let legacy = Legacy::decode(&bytes).unwrap();
        assert_eq!(legacy.household, household());
        assert_eq!(encode(&household().to_bytes(), &[]), b"", "nothing to go on with");
        assert!(Legacy::decode(b"").unwrap_err().contains("no member"));
        for len in 1..bytes.len() {
            assert!(Legacy::decode(&bytes[..len]).is_err(), "length {len}");
        }
        // A daemon of a version that remembered otherwise.
        let mut older = memo();
        older[0] = 1;
        let refusal = Legacy::decode(&encode(&household().to_bytes(), &older)).unwrap_err();
        assert!(refusal.ends_with("a memo of another version"), "{refusal}");
    }

    #[test]
    fn what_a_daemon_may_have_to_leave_has_room_and_more_is_not_left() {
        let checks = (0..32).map(|i| (format!("{i:0>63}"), true)).collect();
        let links = vec!["interface-of-15".to_owned(); 8];
        let group = "[ff02::ffff:ffff:ffff:ffff]:65535".to_owned();
        let largest = Household { restarts: u32::MAX, group, links, checks };
        // What the protocol leaves is a view, which has room in a datagram, and up to 64 runs twice over.
        let memo = vec![0; rudel_proto::seal::DATAGRAM_LEN_MAX + 64 * 16 + 64 * 24 + 100];
        let bytes = encode(&largest.to_bytes(), &memo);
        assert!(!bytes.is_empty() && bytes.len() <= MEMO_BYTES_MAX, "{} bytes", bytes.len());
        assert_eq!(encode(&largest.to_bytes(), &[0; MEMO_BYTES_MAX]), b"");
    }

    #[test]
    fn a_daemon_goes_on_only_where_the_others_look_for_it() {
        let legacy = Legacy::decode(&encode(&household().to_bytes(), &memo())).unwrap();
        legacy.fits(&config(), &household()).unwrap();
        let other = Household { group: "239.255.74.41:7440".into(), ..household() };
        assert!(legacy.fits(&config(), &other).unwrap_err().contains("heartbeat group"));
        let other = Config { digest: 9, ..config() };
        assert!(legacy.fits(&other, &household()).unwrap_err().contains("the same on every node"));
    }

    #[test]
    fn the_table_tells_what_is_owned_contested_and_kept() {
        let legacy = Legacy::decode(&encode(&household().to_bytes(), &memo())).unwrap();
        let mut table = BucketTable::owning([1, 2]);
        table.set(3, BucketState::OwnedWhileKept);
        table.set(4, BucketState::Kept);
        table.set(6, BucketState::KeptWatched);
        table.set(7, BucketState::Watched);
        let inheritance = legacy.inheritance(&table, LeaseUntil::from_nanos(5));
        let set = |buckets: &[u8]| buckets.iter().copied().collect::<BucketSet>();
        assert_eq!(inheritance.owned, set(&[1, 2, 3]));
        assert_eq!((inheritance.contested, inheritance.kept), (set(&[3]), set(&[4, 6])));
        assert_eq!(inheritance.lease, Time::from_nanos(5));
    }
}
