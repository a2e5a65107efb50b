//! Who is deaf: a value that is told what was heard, and when.
//!
//! A node has an **ear** for each family of each of its cluster interfaces: networks that prune one family often flood the other.
//! It alone cannot tell a deaf ear from a network that delivers the cluster's MAC to nobody. So each says in its pulses with
//! which ears it has heard a probe *lately*, in half the time that makes an ear silent: one is deaf if it is silent while
//! some other node has heard a probe since. Where nobody does, moving buckets would help nobody, and the verdict is
//! [`Hearing::Nobody`].
//!
//! A peer that has no carrier on one of its interfaces says so, but not on which. It is company for the ears by which it
//! has heard something itself, and for no others: if none is left, silence says nothing of the network.
//!
//! Invariant: nothing is judged before some peer has been there, and the interface has had a carrier, for [`SILENCE`].

use std::collections::BTreeMap;
use std::time::Duration;

use rudel_proto::id::NodeId;

/// An ear that has heard no probe for so long is silent.
pub const SILENCE: Duration = Duration::from_secs(3);
/// Whoever has heard a probe within this time tells the others that it hears. Between two probes is a second, so by the
/// time that one ear is silent, nobody else says it hears by a probe from before.
pub const LATELY: Duration = Duration::from_millis(1_500);
/// An ear that was silent hears again once it has done so for as long as this.
const STEADY: Duration = Duration::from_secs(2);

/// What has become of an ear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hearing {
    /// It hears probes, or there is nobody to send any.
    #[default]
    Well,
    /// It does not, though others do.
    Deaf,
    /// It does not, and nobody does.
    Nobody,
    /// Its interface was without a carrier, and it has heard nothing since. A switch takes its time to use a port again,
    /// with spanning tree half a minute.
    Waiting,
}

/// Another node, as its pulses show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it has heard a probe lately, by ear. Empty if it says nothing of that: then it sends none either.
    pub hears: Vec<bool>,
    /// Whether one of its interfaces is without a carrier.
    pub cut: bool,
}

impl Peer {
    /// Whether what it sends should be heard by an ear.
    fn is_company(&self, ear: usize) -> bool {
        !self.hears.is_empty() && (!self.cut || self.hears.get(ear) == Some(&true))
    }
}

/// What an ear has heard by one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Whether its interface has a carrier.
    pub carrier: bool,
    /// When it last heard a probe of a node that is alive.
    pub last: Option<Duration>,
}

/// What changed for an ear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which, by its place.
    pub ear: usize,
    /// What it is now.
    pub hearing: Hearing,
    /// For how long it has been silent.
    pub silent: Duration,
    /// Whose pulses arrive, while their probes do not.
    pub unheard: Vec<String>,
    /// Who does hear.
    pub witnesses: Vec<String>,
}

/// Judges all ears of a node.
#[derive(Clone, Debug)]
pub struct Judge {
    ears: Vec<Ear>,
    /// Since when each peer that sends probes has been there without a break, by ear.
    there_since: BTreeMap<(usize, NodeId), Duration>,
}

#[derive(Clone, Debug, Default)]
struct Ear {
    hearing: Hearing,
    /// Since when its interface has had a carrier.
    since: Option<Duration>,
    last: Option<Duration>,
    /// The first probe after a silence.
    again: Option<Duration>,
    /// Since when nobody has heard anything.
    nobody: Option<Duration>,
    /// Since when some other node has heard without a break.
    others: Option<Duration>,
}

impl Judge {
    /// Of so many ears, all of which hear.
    pub fn new(ears: usize) -> Self {
        Judge { ears: vec![Ear::default(); ears], there_since: BTreeMap::new() }
    }

    /// What an ear was found to be.
    pub fn hearing(&self, ear: usize) -> Hearing {
        self.ears.get(ear).map_or(Hearing::Well, |ear| ear.hearing)
    }

    /// An ear's interface has lost its carrier: also for a moment, between two looks.
    pub fn unplugged(&mut self, ear: usize) {
        let has_company = !self.there_since.is_empty();
        if let Some(ear) = self.ears.get_mut(ear) {
            *ear = Ear::unplugged(has_company);
        }
    }

    /// Looks again: `heard` has an entry for each ear, `peers` are those that are alive.
    pub fn look(&mut self, now: Duration, heard: &[Heard], peers: &[Peer]) -> Vec<Change> {
        let senders: Vec<&Peer> = peers.iter().filter(|peer| !peer.hears.is_empty()).collect();
        self.there_since
            .retain(|(ear, id), _| senders.iter().any(|peer| peer.id == *id && peer.is_company(*ear)));
        for (ear, peer) in (0..self.ears.len()).flat_map(|ear| senders.iter().map(move |peer| (ear, peer))) {
            if peer.is_company(ear) {
                self.there_since.entry((ear, peer.id)).or_insert(now);
            }
        }
        let mut changes = Vec::new();
        for (index, (ear, heard)) in self.ears.iter_mut().zip(heard).enumerate() {
            let mut witnesses: Vec<String> = senders
                .iter()
                .filter(|peer| peer.hears.get(index) == Some(&true))
                .map(|peer| peer.name.clone())
                .collect();
            witnesses.sort_unstable();
            let before = ear.hearing;
            let of_ear = self.there_since.iter().filter(|((ear, _), _)| *ear == index);
            let company = of_ear.map(|(_, since)| *since).min();
            let silent = ear.look(now, *heard, company, !witnesses.is_empty());
            if ear.hearing != before {
                let company = senders.iter().filter(|peer| peer.is_company(index));
                let mut unheard: Vec<String> = company.map(|peer| peer.name.clone()).collect();
                unheard.sort_unstable();
                changes.push(Change { ear: index, hearing: ear.hearing, silent, unheard, witnesses });
            }
        }
        changes
    }
}

impl Ear {
    fn unplugged(has_company: bool) -> Self {
        // A node that is alone has nobody to hear.
        let hearing = if has_company { Hearing::Waiting } else { Hearing::Well };
        Ear { hearing, ..Ear::default() }
    }

    /// Returns for how long it has been silent though there was something to hear.
    fn look(&mut self, now: Duration, heard: Heard, company: Option<Duration>, others: bool) -> Duration {
        if !heard.carrier {
            // Known to be out of order already, and told so.
            *self = Ear::unplugged(company.is_some());
            return Duration::ZERO;
        }
        let since = *self.since.get_or_insert(now);
        if heard.last > self.last {
            let gap = heard.last.unwrap_or_default().saturating_sub(self.last.unwrap_or_default());
            if self.again.is_none() || gap >= SILENCE {
                self.again = heard.last;
            }
            self.last = heard.last;
        }
        let Some(company) = company else {
            // Nobody sends any. A node that is alone serves.
            (self.hearing, self.nobody, self.others) = (Hearing::Well, None, None);
            return Duration::ZERO;
        };
        let age = |at: Duration| now.saturating_sub(at);
        let lately = self.last.is_some_and(|at| age(at) < LATELY);
        if others || lately {
            self.nobody = None;
        } else {
            self.nobody.get_or_insert(now);
        }
        if others {
            self.others.get_or_insert(now);
        } else {
            self.others = None;
        }
        let silent = age(self.last.unwrap_or_default().max(since).max(company));
        let steady = lately && self.again.is_some_and(|at| age(at) >= STEADY);
        let nobody = self.nobody.is_some_and(|at| age(at) >= SILENCE);
        self.hearing = match self.hearing {
            Hearing::Deaf | Hearing::Nobody if steady => Hearing::Well,
            Hearing::Waiting if self.last.is_some_and(|at| at > since) => Hearing::Well,
            Hearing::Well | Hearing::Waiting | Hearing::Deaf if silent >= SILENCE && nobody => {
                Hearing::Nobody
            }
            Hearing::Well | Hearing::Waiting if silent >= SILENCE && others => Hearing::Deaf,
            // When a network comes back, one hears before the other.
            Hearing::Nobody if silent >= SILENCE && self.others.is_some_and(|at| age(at) >= SILENCE) => {
                Hearing::Deaf
            }
            same => same,
        };
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_MS: u64 = 250;

    /// Nodes with a judge each, whose probes go where they are let.
    struct Wire {
        now_ms: u64,
        judges: Vec<Judge>,
        last: Vec<Option<Duration>>,
        /// Whether node `to` receives frames for the cluster's MAC.
        open: Vec<bool>,
        carrier: Vec<bool>,
        speaks: Vec<bool>,
        told: Vec<(u64, usize, Hearing)>,
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    impl Wire {
        fn new(nodes: usize) -> Self {
            Wire {
                now_ms: 10_000,
                judges: vec![Judge::new(1); nodes],
                last: vec![None; nodes],
                open: vec![true; nodes],
                carrier: vec![true; nodes],
                speaks: vec![true; nodes],
                told: Vec::new(),
            }
        }

        /// Runs, each node sending its probes at a phase of its own.
        fn run(&mut self, ms: u64) {
            for _ in 0..ms / STEP_MS {
                self.now_ms += STEP_MS;
                for from in 0..self.judges.len() {
                    if self.speaks[from] && (self.now_ms / STEP_MS + from as u64).is_multiple_of(4) {
                        for to in (0..self.judges.len()).filter(|to| *to != from) {
                            if self.open[to] && self.carrier[from] && self.carrier[to] {
                                self.last[to] = Some(at(self.now_ms));
                            }
                        }
                    }
                }
                let now = at(self.now_ms);
                let hears = |node: usize| self.last[node].is_some_and(|last| now - last < LATELY);
                for node in 0..self.judges.len() {
                    let peers: Vec<Peer> = (0..self.judges.len())
                        .filter(|other| *other != node)
                        .map(|other| Peer {
                            id: NodeId::from_u64(other as u64),
                            name: format!("n{other}"),
                            hears: if self.speaks[other] { vec![hears(other)] } else { Vec::new() },
                            cut: !self.carrier[other],
                        })
                        .collect();
                    let heard = Heard { carrier: self.carrier[node], last: self.last[node] };
                    for change in self.judges[node].look(now, &[heard], &peers) {
                        self.told.push((self.now_ms, node, change.hearing));
                    }
                }
            }
        }

        fn hearings(&self) -> Vec<Hearing> {
            self.judges.iter().map(|judge| judge.hearing(0)).collect()
        }
    }

    use Hearing::{Deaf, Nobody, Waiting, Well};

    #[test]
    fn one_that_is_cut_off_is_deaf_within_four_seconds_and_comes_back() {
        for nodes in [2, 3, 5] {
            let mut wire = Wire::new(nodes);
            wire.run(10_000);
            assert_eq!(wire.told, []);
            wire.open[0] = false;
            let cut = wire.now_ms;
            wire.run(20_000);
            let [(when, 0, Deaf)] = wire.told[..] else { panic!("{:?}", wire.told) };
            assert!((2_000..=4_000).contains(&(when - cut)), "{nodes} nodes: after {} ms", when - cut);
            wire.open[0] = true;
            wire.run(5_000);
            assert_eq!(wire.told[1..].iter().map(|told| told.2).collect::<Vec<_>>(), [Well]);
        }
    }

    #[test]
    fn where_nobody_hears_nobody_is_deaf() {
        for phase in 0..4 {
            let mut wire = Wire::new(3);
            wire.run(10_000 + phase * STEP_MS);
            wire.open = vec![false; 3];
            let cut = wire.now_ms;
            wire.run(20_000);
            assert_eq!(wire.hearings(), [Nobody; 3]);
            assert_eq!(wire.told.len(), 3, "never deaf in between: {:?}", wire.told);
            assert!(wire.told.iter().all(|told| told.0 - cut <= 5_000), "{:?}", wire.told);
            // One that hears at last is alone with the traffic.
            wire.open[2] = true;
            wire.run(10_000);
            assert_eq!(wire.hearings(), [Deaf, Deaf, Well]);
        }
    }

    #[test]
    fn when_everything_comes_back_nobody_is_deaf_for_being_the_last() {
        for phase in 0..4 {
            let mut wire = Wire::new(3);
            wire.open = vec![false; 3];
            wire.run(10_000 + phase * STEP_MS);
            assert_eq!(wire.hearings(), [Nobody; 3]);
            wire.open = vec![true; 3];
            wire.run(10_000);
            let hearings: Vec<Hearing> = wire.told.iter().map(|told| told.2).collect();
            assert_eq!(hearings, [Nobody, Nobody, Nobody, Well, Well, Well]);
        }
    }

    #[test]
    fn a_network_that_never_floods_is_found_at_the_start() {
        let mut wire = Wire::new(2);
        wire.open = vec![false; 2];
        wire.run(5_000);
        assert_eq!(wire.hearings(), [Nobody; 2]);
    }

    #[test]
    fn who_is_alone_is_not_deaf() {
        let mut wire = Wire::new(2);
        wire.run(10_000);
        wire.open[0] = false;
        wire.run(5_000);
        assert_eq!(wire.hearings(), [Deaf, Well]);
        wire.speaks[1] = false;
        wire.run(1_000);
        assert_eq!(wire.hearings(), [Well; 2]);
        // Nor is one whose peers do not send probes, because their version does not.
        let mut old = Wire::new(2);
        old.speaks[1] = false;
        old.run(10_000);
        assert_eq!(old.told, []);
    }

    #[test]
    fn a_peer_that_was_away_has_three_seconds() {
        let mut wire = Wire::new(2);
        wire.run(10_000);
        wire.speaks[1] = false;
        wire.run(60_000);
        wire.speaks[1] = true;
        wire.open[0] = false;
        wire.run(2_500);
        assert_eq!(wire.hearings(), [Well; 2]);
        wire.run(2_000);
        assert_eq!(wire.hearings(), [Deaf, Well]);
    }

    #[test]
    fn without_a_carrier_nothing_is_judged() {
        let mut wire = Wire::new(2);
        wire.run(10_000);
        (wire.open[0], wire.carrier[0]) = (false, false);
        wire.run(10_000);
        wire.carrier[0] = true;
        wire.run(2_500);
        assert_eq!(wire.hearings(), [Waiting, Well]);
        wire.run(1_500);
        assert_eq!(wire.hearings(), [Deaf, Well]);
    }

    #[test]
    fn a_peer_without_a_carrier_is_no_company() {
        for phase in 0..4 {
            let mut wire = Wire::new(2);
            wire.run(10_000 + phase * STEP_MS);
            // The pulses go by another interface.
            wire.carrier[1] = false;
            wire.run(20_000);
            let told: Vec<_> = wire.told.iter().filter(|(_, node, _)| *node == 0).collect();
            assert!(told.is_empty(), "the network is as good as before: {told:?}");
            // Plugged in again, it is judged by anew.
            (wire.carrier[1], wire.open[0]) = (true, false);
            wire.run(2_000);
            assert_eq!(wire.hearings()[0], Well);
            wire.run(3_000);
            assert_eq!(wire.hearings()[0], Deaf);
        }
        // With a third, there is company.
        let mut wire = Wire::new(3);
        wire.run(10_000);
        wire.carrier[1] = false;
        wire.open[0] = false;
        wire.run(6_000);
        assert_eq!(wire.hearings()[0], Deaf, "the third hears it");
    }

    #[test]
    fn a_cut_elsewhere_does_not_hide_a_deaf_ear() {
        let mut judge = Judge::new(2);
        let mut changes = Vec::new();
        for step in 0..40 {
            let now = at(10_000 + step * STEP_MS);
            // The peer hears with its second ear; this node with none.
            let peer =
                Peer { id: NodeId::from_u64(2), name: "n2".to_owned(), hears: vec![false, true], cut: true };
            let heard = [Heard { carrier: true, last: None }; 2];
            changes.extend(
                judge.look(now, &heard, &[peer]).into_iter().map(|change| (change.ear, change.hearing)),
            );
        }
        assert_eq!(changes, [(1, Deaf)], "of the first nothing is known");
    }

    #[test]
    fn who_is_plugged_in_again_waits_for_a_probe() {
        let mut wire = Wire::new(3);
        wire.run(10_000);
        wire.carrier[0] = false;
        wire.run(5_000);
        assert_eq!(wire.hearings(), [Waiting, Well, Well]);
        // The switch uses the port a second later.
        (wire.carrier[0], wire.open[0]) = (true, false);
        wire.run(1_000);
        assert_eq!(wire.hearings(), [Waiting, Well, Well]);
        wire.open[0] = true;
        wire.run(1_000);
        assert_eq!(wire.hearings(), [Well; 3]);
        // It was gone for so short a time that no look has seen it.
        wire.judges[0].unplugged(0);
        wire.open[0] = false;
        wire.run(1_000);
        assert_eq!(wire.hearings(), [Waiting, Well, Well]);
        wire.open[0] = true;
        wire.run(1_000);
        assert_eq!(wire.hearings(), [Well; 3]);
        // A switch that was off: nobody's word is needed then.
        wire.carrier = vec![false; 3];
        wire.run(5_000);
        wire.carrier = vec![true; 3];
        wire.run(1_500);
        assert_eq!(wire.hearings(), [Well; 3]);
    }

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let mut wire = Wire::new(2);
        wire.speaks[1] = false;
        wire.run(10_000);
        wire.carrier[0] = false;
        wire.run(1_000);
        wire.carrier[0] = true;
        wire.run(STEP_MS);
        assert_eq!(wire.hearings()[0], Well);
        // Nor for somebody who goes meanwhile.
        wire.speaks[1] = true;
        wire.run(5_000);
        wire.judges[0].unplugged(0);
        wire.open[0] = false;
        wire.speaks[1] = false;
        wire.run(STEP_MS);
        assert_eq!(wire.hearings()[0], Well);
    }

    #[test]
    fn a_probe_now_and_then_is_no_recovery() {
        let mut wire = Wire::new(3);
        wire.run(10_000);
        wire.open[0] = false;
        wire.run(5_000);
        for _ in 0..5 {
            wire.open[0] = true;
            wire.run(1_000);
            wire.open[0] = false;
            wire.run(5_000);
        }
        assert_eq!(wire.told.len(), 1, "{:?}", wire.told);
    }
}
