//! Whether each packet has one owner: what all nodes passed must add up to what each of them saw.
//!
//! Nodes look at their counters at moments of their own, and on some NICs the stack merges packets before they are
//! counted, by chance here and there. So nobody's count is compared with another's directly: each node's share is what it
//! passed over what *it* saw, and the shares must add up to one. Only a node that saw far less than the others counts
//! for less: what it did not see, it did not pass.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rudel_proto::id::NodeId;

/// What the ratio is made of.
pub const WINDOW: Duration = Duration::from_secs(5);
/// How long it must be off, in every window and to the same side, to be told.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Fewer packets in a window prove nothing.
pub const PACKETS_MIN: u64 = 2_500;
/// How far off it may be.
pub const TOLERANCE: f64 = 0.02;
/// The same where the stack merges packets before the filter counts them: hardware with the filter in generic mode.
pub const TOLERANCE_MERGED: f64 = 0.10;
/// Windows of two nodes differ by a tenth of their length at most: such a difference in what was seen is none.
const SEEN_LEAST: f64 = 0.9;

/// Packets that a node has seen and passed, by node.
pub type Counts = BTreeMap<NodeId, (u64, u64)>;

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Packets that nobody passed.
    Hole,
    /// Packets that more than one node passed.
    Double,
}

/// Watches one interface of all nodes.
#[derive(Clone, Debug)]
pub struct Auditor {
    tolerance: f64,
    samples: VecDeque<(Duration, Counts)>,
    coverage: Option<f64>,
    /// What has been the matter in every window, and since when.
    off: Option<(Finding, Duration)>,
    told: Option<Finding>,
}

impl Auditor {
    /// Knows nothing yet. See [`TOLERANCE`].
    pub fn new(tolerance: f64) -> Self {
        Auditor { tolerance, samples: VecDeque::new(), coverage: None, off: None, told: None }
    }

    /// Packets passed by all nodes over packets seen, 1 if all is well; `None` without enough packets.
    pub fn coverage(&self) -> Option<f64> {
        self.coverage
    }

    /// What is the matter, for long enough to be told.
    pub fn finding(&self) -> Option<Finding> {
        self.told
    }

    /// Looks again: the counts of all nodes, or `None` if one of them does not tell. Says whether the finding changed.
    pub fn look(&mut self, now: Duration, counts: Option<Counts>) -> bool {
        let before = self.told;
        self.add(now, counts);
        self.coverage = self.samples.front().zip(self.samples.back()).and_then(|((from, old), (to, new))| {
            // A window that is not full yet has the noise of its ends, and more of it.
            (*to - *from >= WINDOW).then(|| coverage(old, new)).flatten()
        });
        let finding = match self.coverage {
            Some(ratio) if ratio < 1.0 - self.tolerance => Some(Finding::Hole),
            Some(ratio) if ratio > 1.0 + self.tolerance => Some(Finding::Double),
            _ => None,
        };
        match (finding, self.off) {
            (None, _) => (self.off, self.told) = (None, None),
            (Some(found), Some((same, since))) if found == same => {
                if now - since >= PATIENCE {
                    self.told = Some(found);
                }
            }
            (Some(found), _) => (self.off, self.told) = (Some((found, now)), None),
        }
        before != self.told
    }

    fn add(&mut self, now: Duration, counts: Option<Counts>) {
        let Some(counts) = counts else {
            self.samples.clear();
            return;
        };
        if let Some((_, last)) = self.samples.back() {
            let grown = |(id, (seen, passed)): (&NodeId, &(u64, u64))| {
                last.get(id).is_some_and(|(then, passed_then)| seen >= then && passed >= passed_then)
            };
            // Who comes, goes or begins to count anew has no share in what was before.
            if counts.len() != last.len() || !counts.iter().all(grown) {
                self.samples.clear();
            }
        }
        self.samples.push_back((now, counts));
        // The oldest that is left is the last one before the window.
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.samples.pop_front();
        }
    }
}

fn coverage(old: &Counts, new: &Counts) -> Option<f64> {
    let grown: Vec<(u64, u64)> = new
        .iter()
        .filter_map(|(id, (seen, passed))| old.get(id).map(|(s, p)| (seen - s, passed - p)))
        .collect();
    let most = grown.iter().map(|(seen, _)| *seen).max().filter(|most| *most >= PACKETS_MIN)?;
    let share = |(seen, passed): &(u64, u64)| {
        let (seen, passed) = (*seen as f64, *passed as f64);
        let received = seen / most as f64;
        if seen == 0.0 { 0.0 } else { passed / seen * if received < SEEN_LEAST { received } else { 1.0 } }
    };
    Some(grown.iter().map(share).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes whose windows are out of step, and traffic.
    struct World {
        now_ms: u64,
        auditor: Auditor,
        exact: Vec<(u64, u64)>,
        told: Vec<Option<Finding>>,
    }

    impl World {
        fn new(nodes: usize) -> Self {
            World {
                now_ms: 0,
                auditor: Auditor::new(TOLERANCE),
                exact: vec![(0, 0); nodes],
                told: Vec::new(),
            }
        }

        /// For so long, each node sees and passes so many packets each quarter of a second.
        fn run(&mut self, ms: u64, rates: &[(u64, u64)]) {
            for _ in 0..ms / 250 {
                self.now_ms += 250;
                let mut counts = Counts::new();
                for (node, (seen, passed)) in rates.iter().enumerate() {
                    // The others' words are a quarter of a second older.
                    if node == 0 {
                        self.exact[0] = (self.exact[0].0 + seen, self.exact[0].1 + passed);
                    }
                    counts.insert(NodeId::from_u64(node as u64), self.exact[node]);
                    if node > 0 {
                        self.exact[node] = (self.exact[node].0 + seen, self.exact[node].1 + passed);
                    }
                }
                if self.auditor.look(Duration::from_millis(self.now_ms), Some(counts)) {
                    self.told.push(self.auditor.finding());
                }
            }
        }
    }

    const WELL: [(u64, u64); 3] = [(300, 100), (300, 120), (300, 80)];

    #[test]
    fn what_adds_up_is_one() {
        let mut world = World::new(3);
        world.run(60_000, &WELL);
        let coverage = world.auditor.coverage().unwrap();
        assert!((coverage - 1.0).abs() < 1e-9, "{coverage}");
        assert_eq!(world.told, []);
    }

    #[test]
    fn a_hole_and_two_owners_are_told_after_ten_seconds_and_taken_back() {
        for (rates, finding, expected) in [
            ([(300, 91), (300, 120), (300, 80)], Finding::Hole, 0.97),
            ([(300, 109), (300, 120), (300, 80)], Finding::Double, 1.03),
            // Half of the packets do not reach it.
            ([(300, 100), (150, 60), (300, 80)], Finding::Hole, 0.8),
        ] {
            let mut world = World::new(3);
            world.run(20_000, &WELL);
            world.run(9_500, &rates);
            assert_eq!(world.told, [], "{finding:?}");
            world.run(8_000, &rates);
            assert_eq!(world.told, [Some(finding)]);
            assert!((world.auditor.coverage().unwrap() - expected).abs() < 1e-9);
            world.run(6_000, &WELL);
            assert_eq!(world.told, [Some(finding), None]);
        }
    }

    #[test]
    fn a_takeover_is_no_hole_and_a_burst_is_none() {
        let mut world = World::new(3);
        world.run(20_000, &WELL);
        // Nobody passes what one has lost, for a second.
        world.run(1_000, &[(300, 100), (300, 120), (300, 0)]);
        world.run(10_000, &[(300, 140), (300, 160), (300, 0)]);
        world.run(250, &[(90_000, 30_000), (90_000, 60_000), (90_000, 0)]);
        world.run(20_000, &WELL);
        assert_eq!(world.told, []);
    }

    #[test]
    fn few_packets_prove_nothing() {
        let mut world = World::new(2);
        world.run(60_000, &[(100, 90), (100, 90)]);
        assert_eq!((world.auditor.coverage(), world.told.len()), (None, 0));
    }

    #[test]
    fn whoever_comes_or_counts_anew_begins_anew() {
        let mut world = World::new(3);
        world.run(20_000, &WELL);
        world.exact[1] = (0, 0);
        world.run(4_500, &WELL);
        assert_eq!(world.auditor.coverage(), None);
        world.run(1_000, &WELL);
        assert!(world.auditor.coverage().is_some());
        world.auditor.look(Duration::from_millis(world.now_ms + 250), None);
        assert_eq!(world.auditor.coverage(), None, "one node that does not tell is enough");
    }
}
