//! Who asks for the cluster's addresses, and whether the answers are believed: whoever gets one that it believes does not
//! ask again within seconds.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rudel_api::check::Asker;
use rudel_api::config::MacAddress;

use super::election::Question;

/// Questions older than this do not count, in nanoseconds.
const WINDOW_NS: u64 = 10_000_000_000;
/// So many questions are insistent …
const QUESTIONS: usize = 3;
/// … if they are spread over at least this time, in nanoseconds. Askers repeat after a second, and give up after three.
const SPREAD_NS: u64 = 1_900_000_000;
/// Within this time, in nanoseconds, the next question of somebody who does not believe the answers would come.
const PENDING_NS: u64 = 1_500_000_000;
/// Questions remembered of one asker.
const QUESTIONS_MAX: usize = 16;
/// Askers remembered. Beyond them, new ones are not noticed until others have been silent.
const ASKERS_MAX: usize = 256;

type Asked = BTreeMap<(u32, IpAddr, [u8; 6], IpAddr), VecDeque<u64>>;

/// The askers of the last seconds, shared between the thread that answers and whoever wants to know.
#[derive(Clone, Debug, Default)]
pub struct Askers(Arc<Mutex<Asked>>);

impl Askers {
    /// Notes a question that somebody answers. Those from nowhere are questions whether an address is free, and may well be
    /// asked three times (RFC 5227, 2.1.1).
    pub(super) fn note(&self, question: &Question, now_ns: u64) {
        if question.asker.is_unspecified() {
            return;
        }
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (question.ifindex, question.asker, question.asker_mac.octets(), question.address);
        if !asked.contains_key(&key) && asked.len() >= ASKERS_MAX {
            asked
                .retain(|_, times| times.back().is_some_and(|last| now_ns.saturating_sub(*last) < WINDOW_NS));
            if asked.len() >= ASKERS_MAX {
                return;
            }
        }
        let times = asked.entry(key).or_default();
        if times.len() == QUESTIONS_MAX {
            times.pop_front();
        }
        times.push_back(now_ns);
    }

    /// Whether somebody has just asked a second time on an interface: a third question would be insistent.
    pub fn is_pending(&self, ifindex: u32, now_ns: u64) -> bool {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().any(|((index, ..), times)| {
            let mut latest = times.iter().rev();
            let (Some(last), Some(before)) = (latest.next(), latest.next()) else { return false };
            *index == ifindex && now_ns.saturating_sub(*last) < PENDING_NS && last - before < PENDING_NS
        })
    }

    /// Who has asked again and again on an interface.
    pub fn insistent(&self, ifindex: u32, now_ns: u64) -> Vec<Asker> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for ((index, asker, mac, address), times) in &*asked {
            let fresh: Vec<u64> =
                times.iter().copied().filter(|at| now_ns.saturating_sub(*at) < WINDOW_NS).collect();
            let [first, .., last] = fresh[..] else { continue };
            if *index == ifindex && fresh.len() >= QUESTIONS && last - first >= SPREAD_NS {
                found.push(Asker {
                    asker: *asker,
                    mac: MacAddress(*mac),
                    address: *address,
                    questions: fresh.len() as u32,
                    within_ms: (last - first) / 1_000_000,
                });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::MacAddr;

    const S: u64 = 1_000_000_000;

    fn question(asker: &str) -> Question {
        let asker = asker.parse().unwrap();
        Question { ifindex: 2, asker, asker_mac: MacAddr([2; 6]), address: "192.0.2.10".parse().unwrap() }
    }

    #[test]
    fn who_believes_does_not_ask_again() {
        let askers = Askers::default();
        askers.note(&question("192.0.2.1"), S);
        askers.note(&question("192.0.2.1"), 2 * S);
        assert_eq!(askers.insistent(2, 3 * S), [], "one answer may get lost");
        assert!(askers.is_pending(2, 3 * S) && !askers.is_pending(2, 4 * S) && !askers.is_pending(3, 3 * S));
        askers.note(&question("192.0.2.1"), 3 * S);
        let found = askers.insistent(2, 3 * S);
        assert_eq!((found.len(), found[0].questions, found[0].within_ms), (1, 3, 2000));
        assert_eq!(askers.insistent(3, 3 * S), [], "on another interface");
        assert_eq!(askers.insistent(2, 12 * S), [], "it has ceased to ask");
    }

    #[test]
    fn three_at_once_are_a_burst() {
        let askers = Askers::default();
        (0..5).for_each(|i| askers.note(&question("192.0.2.1"), S + i));
        assert_eq!(askers.insistent(2, 2 * S), []);
    }

    #[test]
    fn nobody_is_blamed_for_asking_whether_an_address_is_free() {
        let askers = Askers::default();
        (1..9).for_each(|i| askers.note(&question("0.0.0.0"), i * S));
        assert_eq!(askers.insistent(2, 8 * S), []);
    }

    #[test]
    fn a_flood_of_askers_takes_no_more_room() {
        let askers = Askers::default();
        for i in 0..10_000_u32 {
            askers.note(&question(&std::net::Ipv4Addr::from(0x0a00_0001 + i).to_string()), S + u64::from(i));
        }
        assert_eq!(askers.0.lock().unwrap().len(), ASKERS_MAX);
    }
}
