//! Does the packet path work at all? Pulses prove that the daemons hear each other; probes prove that packets to the cluster's
//! MAC reach the interfaces, and counts that each packet has one owner.
//!
//! ```text
//!  once a second   ─► a probe from each ear ─► wire ─► the filters of all others: the last one of each sender
//!  each LOOK_EVERY ─► probes heard, pulses' words ─► Judge   ─► deaf? ─► this node's health, events, status
//!                     counts, pulses' counts      ─► Auditor ─► a hole, or two owners?
//!                     what was heard and counted  ─► the next pulses
//! ```
//!
//! What it decides: which of this node's interfaces is deaf, and whether packets have one owner each. What it does not: what
//! becomes of the node's share; that is the protocol's (R6.5).
//!
//! A probe counts if its proof is good (a function of the cluster's key, of the sender, its run, the ear and the
//! probe's number), if its number is above the last one's, and if it is not older than what the sender's pulses said
//! [`FRESH`] ago. So nobody without the key can make a probe, and a recording serves for seconds.

pub mod audit;
pub mod judge;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rudel_api::check::{self, AuditFinding, EarSight, PeerHeard};
use rudel_api::event::EventKind;
use rudel_api::snapshot::AttachMode;
use rudel_datapath::ProbeCount;
use rudel_datapath::probe::{Probe, Way};
use rudel_proto::id::{ClusterName, Identity, NodeId};
use rudel_proto::seal::Keys;
use rudel_proto::status::{PeerStatus, Status};
use rudel_proto::wire::{AUDITS_MAX, Audit};

use crate::host::addresses::{self, Address};
use crate::host::packet::PacketSocket;
use crate::host_setup::{ClusterLink, cluster_tag};
use crate::pulse::Report;

use audit::{Auditor, Counts, Finding};
use judge::{Change, Heard, Hearing, Judge, Peer};

/// How often probes and counts are looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a probe is sent.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How old a probe may be.
const FRESH: Duration = Duration::from_secs(5);
/// A probe's number is that of the sender's last datagram, and this many bits to count the probes since.
const NUMBER_BITS: u32 = 16;

/// A cluster interface, to send probes on.
struct Port {
    link: ClusterLink,
    socket: Option<PacketSocket>,
    auditor: Auditor,
}

/// One family of a cluster interface.
struct Ear {
    /// The interface's place.
    port: usize,
    /// From an address of its own, if it has one, to one of the cluster's.
    way: Way,
    /// The last good probe of each node.
    last: BTreeMap<NodeId, Proven>,
}

impl Ear {
    fn family(&self) -> u32 {
        if self.way.to.is_ipv4() { 4 } else { 6 }
    }

    /// What `proof` is of: no probe proves anything at another ear.
    fn number(&self) -> u8 {
        u8::try_from(2 * self.port).unwrap_or(u8::MAX - 1) + u8::from(self.way.to.is_ipv6())
    }

    /// The last probe of a node is this one, whether it was known or not; its pulses' numbers have been above `least`.
    fn hear(&mut self, cluster: &ClusterName, keys: &Keys, from: Identity, least: u64, probe: &ProbeCount) {
        let is_new =
            self.last.get(&from.id).is_none_or(|known| known.identity != from || probe.number > known.number);
        let is_fresh = probe.number >> NUMBER_BITS >= least;
        if is_new
            && is_fresh
            && probe.incarnation == from.incarnation.0
            && keys.prove_probe(cluster, from, self.number(), probe.number, probe.proof)
        {
            let at = Duration::from_nanos(probe.last_ns);
            self.last.insert(from.id, Proven { identity: from, number: probe.number, at });
        }
    }
}

/// A probe that was proved.
#[derive(Clone, Copy, Debug)]
struct Proven {
    identity: Identity,
    number: u64,
    at: Duration,
}

/// What has changed since the last look.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// An ear hears, or not.
    Hearing(Change),
    /// What all nodes passed does not add up on an interface, by its place, or does again.
    Audit {
        /// Which.
        interface: usize,
        /// What is the matter.
        finding: Option<Finding>,
        /// See [`Auditor::coverage`].
        coverage: Option<f64>,
    },
}

/// The ears of a node.
pub struct Reception {
    cluster: ClusterName,
    keys: Keys,
    tag: u32,
    ports: Vec<Port>,
    ears: Vec<Ear>,
    judge: Judge,
    heard: Option<rudel_datapath::Heard>,
    /// What the numbers of each peer's datagrams were in the last [`FRESH`].
    numbers: BTreeMap<NodeId, VecDeque<(Duration, u64)>>,
    /// When probes were sent last, and with which number.
    sent: Option<(Duration, u64)>,
    told: Vec<Audit>,
}

impl Reception {
    /// Opens what it takes. What cannot be opened is told in the log: a node serves without ears, too.
    pub fn open(
        cluster: ClusterName,
        keys: Keys,
        links: &[ClusterLink],
        modes: &BTreeMap<String, AttachMode>,
        pin_dir: &Path,
    ) -> Self {
        let heard = rudel_datapath::Heard::open(pin_dir)
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot hear probes: this node will not notice it if it is deaf; see the error")
            })
            .ok();
        let port = |link: &ClusterLink| {
            let name = &link.link.name;
            let socket = PacketSocket::silent(link.link.index)
                .inspect_err(|error| {
                    tracing::warn!(interface = %name, %error, "cannot send probes: other nodes may take themselves for deaf; see the error")
                })
                .ok();
            let merges = link.link.kind.is_none() && modes.get(name.as_str()) == Some(&AttachMode::Generic);
            let tolerance = if merges { audit::TOLERANCE_MERGED } else { audit::TOLERANCE };
            Port { link: link.clone(), socket, auditor: Auditor::new(tolerance) }
        };
        let ears = ears(links);
        Reception {
            tag: cluster_tag(cluster.as_str()),
            judge: Judge::new(ears.len()),
            ears,
            ports: links.iter().map(port).collect(),
            cluster,
            keys,
            heard,
            numbers: BTreeMap::new(),
            sent: None,
            told: Vec::new(),
        }
    }

    /// The same interfaces have these addresses from now on. What is known of an ear stays with it; if a family is new, or
    /// has gone, all of them are judged anew: pulses tell ears apart by their places.
    pub fn follow(&mut self, links: &[ClusterLink]) {
        let mut former = std::mem::replace(&mut self.ears, ears(links));
        let is_same = |a: &Ear, b: &Ear| a.number() == b.number();
        let stays =
            former.len() == self.ears.len() && former.iter().zip(&self.ears).all(|(a, b)| is_same(a, b));
        for ear in &mut self.ears {
            if let Some(before) = former.iter_mut().find(|before| is_same(before, ear)) {
                ear.last = std::mem::take(&mut before.last);
            }
        }
        for (port, link) in self.ports.iter_mut().zip(links) {
            port.link = link.clone();
        }
        if !stays {
            self.judge = Judge::new(self.ears.len());
        }
    }

    /// Whether an interface hears in all of its families; the worst of them.
    pub fn hearing(&self, interface: &str) -> Hearing {
        let hearings: Vec<Hearing> = (0..self.ears.len())
            .filter(|ear| self.name(*ear) == interface)
            .map(|ear| self.judge.hearing(ear))
            .collect();
        [Hearing::Deaf, Hearing::Nobody]
            .into_iter()
            .find(|worse| hearings.contains(worse))
            .unwrap_or_default()
    }

    /// Packets passed by all nodes over packets seen, if there were enough.
    pub fn coverage(&self, interface: &str) -> Option<f64> {
        self.port(interface)?.auditor.coverage()
    }

    /// What has been the matter with that for long enough to be told.
    pub fn finding(&self, interface: &str) -> Option<Finding> {
        self.port(interface)?.auditor.finding()
    }

    /// What is wrong with the network, in sentences.
    pub fn alarms(&self) -> Vec<String> {
        let unflooded = (0..self.ears.len()).filter(|ear| self.judge.hearing(*ear) == Hearing::Nobody);
        let misfits = self.ports.iter().filter_map(|port| {
            let words = misfit(port.auditor.finding()?, port.auditor.coverage());
            Some(format!("{}: {words}", port.link.link.name))
        });
        unflooded.map(|ear| self.unflooded(ear)).chain(misfits).collect()
    }

    /// An interface has lost its carrier.
    pub fn unplugged(&mut self, interface: &str) {
        for ear in 0..self.ears.len() {
            if self.name(ear) == interface {
                self.judge.unplugged(ear);
            }
        }
    }

    /// Why an interface makes this node unhealthy.
    pub fn deafness(&self, interface: &str) -> Option<String> {
        let families = |hearing: Hearing| {
            let such = (0..self.ears.len())
                .filter(|ear| self.name(*ear) == interface && self.judge.hearing(*ear) == hearing);
            such.map(|ear| self.family_name(ear)).collect::<Vec<_>>().join(" and ")
        };
        let (deaf, waiting) = (families(Hearing::Deaf), families(Hearing::Waiting));
        if !deaf.is_empty() {
            Some(format!("deaf on {interface}: it hears no probe in {deaf}, while others do"))
        } else if !waiting.is_empty() {
            Some(format!("{interface} was without a carrier, and has heard no probe in {waiting} since"))
        } else {
            None
        }
    }

    fn deaf(&self, change: &Change) -> String {
        let Change { ear, silent, unheard, witnesses, .. } = change;
        format!(
            "{} is deaf: for {} s no {} packet of {} to {} has come, while {} heard some",
            self.name(*ear),
            silent.as_secs(),
            self.family_name(*ear),
            unheard.join(", "),
            self.ports[self.ears[*ear].port].link.interface.cluster_mac(),
            witnesses.join(", ")
        )
    }

    /// That no node hears anything with an ear.
    fn unflooded(&self, ear: usize) -> String {
        let link = &self.ports[self.ears[ear].port].link;
        format!(
            "no node hears a probe in {} on {}: the network delivers {} to nobody; nothing was moved (docs/network.md: what it must do)",
            self.family_name(ear),
            link.link.name,
            link.interface.cluster_mac()
        )
    }

    fn family_name(&self, ear: usize) -> &'static str {
        if self.ears[ear].way.to.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// The name of an ear's interface.
    pub fn name(&self, ear: usize) -> &str {
        &self.ports[self.ears[ear].port].link.link.name
    }

    fn port(&self, interface: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.link.interface.name.as_str() == interface)
    }

    /// Whose probes an interface hears, and what is judged of it, one for each family.
    pub fn ears(&self, interface: &str, now: Duration, status: &Status) -> Vec<EarSight> {
        let ears = self.ears.iter().enumerate().filter(|(ear, _)| self.name(*ear) == interface);
        let seen = ears.map(|(index, ear)| {
            let peer = |peer: &PeerStatus| {
                let last = ear.last.get(&peer.identity.id).filter(|proven| proven.identity == peer.identity);
                let word = peer.word.as_ref().and_then(|word| word.audits.get(ear.port));
                PeerHeard {
                    node: peer.name.to_string(),
                    heard_ms: last.map(|proven| {
                        u64::try_from(now.saturating_sub(proven.at).as_millis()).unwrap_or(u64::MAX)
                    }),
                    hears: word.map(|audit| if ear.family() == 4 { audit.hears4 } else { audit.hears6 }),
                }
            };
            EarSight {
                family: if ear.family() == 4 { 4 } else { 6 },
                hearing: match self.judge.hearing(index) {
                    Hearing::Well => check::Hearing::Well,
                    Hearing::Waiting => check::Hearing::Waiting,
                    Hearing::Deaf => check::Hearing::Deaf,
                    Hearing::Nobody => check::Hearing::Nobody,
                },
                peers: status.peers.iter().filter(|peer| peer.alive).map(peer).collect(),
            }
        });
        seen.collect()
    }

    /// What is wrong with the sum of what all nodes pass on an interface.
    pub fn audit_finding(&self, interface: &str) -> Option<AuditFinding> {
        Some(match self.port(interface)?.auditor.finding()? {
            Finding::Hole => AuditFinding::Hole,
            Finding::Double => AuditFinding::Double,
        })
    }

    /// News as events: what it is, and the words; none for what a lost carrier has told already.
    pub fn event(&self, news: &News) -> Option<(EventKind, String)> {
        Some(match news {
            News::Hearing(change) => {
                let (name, family) = (self.name(change.ear), self.family_name(change.ear));
                match change.hearing {
                    Hearing::Deaf => (EventKind::Deaf, self.deaf(change)),
                    Hearing::Nobody => (EventKind::Unflooded, self.unflooded(change.ear)),
                    Hearing::Well => (EventKind::Hearing, format!("{name} hears {family} again")),
                    Hearing::Waiting => return None,
                }
            }
            News::Audit { interface, finding, coverage } => {
                let name = &self.ports[*interface].link.link.name;
                let words = finding.map_or_else(
                    || "what all nodes pass adds up to what each sees again".to_owned(),
                    |finding| misfit(finding, *coverage),
                );
                (EventKind::Audit, format!("{name}: {words}"))
            }
        })
    }

    /// Sends what is due and looks at what has come. Returns the news, and what the pulses should say if that is
    /// another word than the last.
    pub fn look(
        &mut self,
        now: Duration,
        report: &Report,
        carrier: impl Fn(&str) -> bool,
    ) -> (Vec<News>, Option<Vec<Audit>>) {
        let status = &report.status;
        self.send(now, status);
        let alive: Vec<&PeerStatus> = status.peers.iter().filter(|peer| peer.alive).collect();
        self.note_numbers(now, &alive);
        let heard: Vec<Heard> = (0..self.ears.len())
            .map(|ear| Heard { carrier: carrier(self.name(ear)), last: self.last_probe(ear, &alive) })
            .collect();
        let peer = |peer: &&PeerStatus| {
            let audits = peer.word.as_ref().map_or(&[][..], |word| &word.audits);
            let hears = |ear: &Ear| {
                let audit = audits.get(ear.port);
                audit.is_some_and(|audit| if ear.way.to.is_ipv4() { audit.hears4 } else { audit.hears6 })
            };
            Peer {
                id: peer.identity.id,
                name: peer.name.to_string(),
                cut: peer.word.as_ref().is_some_and(|word| word.cut),
                hears: if audits.is_empty() { Vec::new() } else { self.ears.iter().map(hears).collect() },
            }
        };
        let peers: Vec<Peer> = alive.iter().map(peer).collect();
        let mut news = Vec::new();
        // Without the filter's map nothing is known, and nothing said.
        if self.heard.is_some() {
            news.extend(self.judge.look(now, &heard, &peers).into_iter().map(News::Hearing));
        }
        news.extend(self.audit(now, report));
        let word: Vec<Audit> = (0..self.ports.len().min(AUDITS_MAX))
            .map(|port| {
                let (seen, passed) = own_counts(report, &self.ports[port]);
                let hears = |is_family: fn(&IpAddr) -> bool| {
                    self.ears.iter().zip(&heard).any(|(ear, heard)| {
                        let lately = heard.last.is_some_and(|at| now.saturating_sub(at) < judge::LATELY);
                        ear.port == port && is_family(&ear.way.to) && lately
                    })
                };
                Audit { seen, passed, hears4: hears(IpAddr::is_ipv4), hears6: hears(IpAddr::is_ipv6) }
            })
            .collect();
        let changed = self.heard.is_some() && word != self.told;
        if changed {
            self.told.clone_from(&word);
        }
        (news, changed.then_some(word))
    }

    /// What the pulses were to say was not heard: it is told again.
    pub fn forget_told(&mut self) {
        self.told.clear();
    }

    fn send(&mut self, now: Duration, status: &Status) {
        if self.sent.is_some_and(|(at, _)| now.saturating_sub(at) < PROBE_EVERY) {
            return;
        }
        let number = (status.sequence << NUMBER_BITS).max(self.sent.map_or(0, |(_, number)| number + 1));
        self.sent = Some((now, number));
        for ear in &self.ears {
            let port = &self.ports[ear.port];
            let Some(socket) = &port.socket else { continue };
            let sealing = self.keys.sealing();
            let probe = Probe {
                sender: status.identity.id.as_u64(),
                incarnation: status.identity.incarnation.0,
                number,
                proof: sealing.probe_proof(&self.cluster, status.identity, ear.number(), number),
                tag: self.tag,
            };
            if let Err(error) = socket.send(&probe.frame(&ear.way)) {
                tracing::debug!(interface = %port.link.link.name, %error, "a probe could not be sent");
            }
        }
    }

    fn note_numbers(&mut self, now: Duration, alive: &[&PeerStatus]) {
        self.numbers.retain(|id, _| alive.iter().any(|peer| peer.identity.id == *id));
        for peer in alive {
            let numbers = self.numbers.entry(peer.identity.id).or_default();
            // Those of another run say nothing of this one's.
            if numbers.back().is_some_and(|(_, last)| *last > peer.sequence) {
                numbers.clear();
            }
            numbers.push_back((now, peer.sequence));
            while numbers.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= FRESH) {
                numbers.pop_front();
            }
        }
    }

    /// When an ear last heard a good probe of a node that is alive.
    fn last_probe(&mut self, ear: usize, alive: &[&PeerStatus]) -> Option<Duration> {
        let ear = &mut self.ears[ear];
        let (ifindex, family) = (self.ports[ear.port].link.link.index, ear.family());
        ear.last.retain(|_, proven| alive.iter().any(|peer| peer.identity == proven.identity));
        for peer in alive {
            let (id, identity) = (peer.identity.id, peer.identity);
            let found = self.heard.as_ref().map(|heard| heard.last(id.as_u64(), ifindex, family));
            let probe = match found {
                Some(Ok(Some(probe))) => probe,
                None | Some(Ok(None)) => continue,
                Some(Err(error)) => {
                    tracing::debug!(%error, "cannot read the probes that were heard");
                    continue;
                }
            };
            let least = self.numbers.get(&id).and_then(|numbers| numbers.front()).map_or(0, |first| first.1);
            ear.hear(&self.cluster, &self.keys, identity, least, &probe);
        }
        ear.last.values().map(|proven| proven.at).max()
    }

    /// The addresses of this host may be others than before: probes come from what there is.
    pub fn look_at_addresses(&mut self) {
        let own = match addresses::all() {
            Ok(own) => own,
            Err(error) => {
                tracing::warn!(%error, "cannot list this host's addresses: probes come from the former ones; if they have changed, run `rudel restart`");
                return;
            }
        };
        for ear in &mut self.ears {
            ear.way.from = source(&own, self.ports[ear.port].link.link.index, ear.way.to);
        }
    }

    fn audit(&mut self, now: Duration, report: &Report) -> Vec<News> {
        let mut news = Vec::new();
        for interface in 0..self.ports.len().min(AUDITS_MAX) {
            let counts = counts(report, interface, own_counts(report, &self.ports[interface]));
            let auditor = &mut self.ports[interface].auditor;
            if auditor.look(now, counts) {
                let (finding, coverage) = (auditor.finding(), auditor.coverage());
                news.push(News::Audit { interface, finding, coverage });
            }
        }
        news
    }
}

/// An ear for each family of each interface that pulses can tell of.
fn ears(links: &[ClusterLink]) -> Vec<Ear> {
    let own = addresses::all().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list this host's addresses: probes come from none; run `rudel restart`");
        Vec::new()
    });
    let mut ears = Vec::new();
    for (port, link) in links.iter().enumerate().take(AUDITS_MAX) {
        for is_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let Some(to) = link.addresses().into_iter().find(is_family) else { continue };
            let from = source(&own, link.link.index, to);
            let way =
                Way { own_mac: link.own_mac.octets(), cluster_mac: link.interface.cluster_mac().0, from, to };
            ears.push(Ear { port, way, last: BTreeMap::new() });
        }
    }
    ears
}

/// The address that probes to a cluster's address come from.
fn source(own: &[Address], ifindex: u32, to: IpAddr) -> Option<IpAddr> {
    let mut mine = own.iter().filter(|own| own.ifindex == ifindex && !own.tentative).map(|own| own.ip);
    mine.find(|ip| ip.is_ipv4() == to.is_ipv4())
}

/// What is the matter, in words.
fn misfit(finding: Finding, coverage: Option<f64>) -> String {
    let percent = coverage.map_or(String::new(), |ratio| format!(" {:.1} %", ratio * 100.0));
    match finding {
        Finding::Hole => {
            format!(
                "all nodes together pass{percent} of the packets seen: some packets have no owner, or do not reach theirs"
            )
        }
        Finding::Double => {
            format!("all nodes together pass{percent} of the packets seen: some packets have two owners")
        }
    }
}

fn own_counts(report: &Report, port: &Port) -> (u64, u64) {
    let counters = report.interfaces.iter().find(|counters| counters.ifindex == port.link.link.index);
    counters.map_or((0, 0), |counters| {
        (counters.seen().packets, counters.get(rudel_datapath::Verdict::Passed).packets)
    })
}

/// The counts of all members and of all who are alive; none if one of them does not tell.
fn counts(report: &Report, interface: usize, own: (u64, u64)) -> Option<Counts> {
    let status = &report.status;
    let mut counts = Counts::from([(status.identity.id, own)]);
    for peer in status.peers.iter().filter(|peer| peer.alive) {
        let audit = peer.word.as_ref()?.audits.get(interface)?;
        counts.insert(peer.identity.id, (audit.seen, audit.passed));
    }
    let mut members = status.view.iter().flat_map(|view| &view.members);
    members.all(|member| counts.contains_key(&member.identity.id)).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_proto::id::Incarnation;
    use rudel_proto::seal::ClusterKey;

    const PEER: Identity = Identity { id: NodeId::from_u64(7), incarnation: Incarnation(3) };

    fn keys(byte: u8) -> Keys {
        Keys::new(ClusterKey::new([byte; 32]), [ClusterKey::new([9; 32])])
    }

    fn web() -> ClusterName {
        ClusterName::new("web").unwrap()
    }

    fn ear(port: usize, to: &str) -> Ear {
        let way = Way { own_mac: [2; 6], cluster_mac: [3; 6], from: None, to: to.parse().unwrap() };
        Ear { port, way, last: BTreeMap::new() }
    }

    /// What the filter would keep of a probe that a node with this key sends to that ear.
    fn probe(key: u8, to: &Ear, sequence: u64, at_ms: u64) -> ProbeCount {
        let number = sequence << NUMBER_BITS;
        ProbeCount {
            sender: PEER.id.as_u64(),
            ifindex: 2,
            family: to.family(),
            mac: [2; 6],
            count: 1,
            last_ns: at_ms * 1_000_000,
            incarnation: PEER.incarnation.0,
            number,
            proof: ClusterKey::new([key; 32]).probe_proof(&web(), PEER, to.number(), number),
        }
    }

    fn heard_ms(ear: &Ear) -> Option<u128> {
        ear.last.get(&PEER.id).map(|proven| proven.at.as_millis())
    }

    #[test]
    fn nobody_without_the_key_makes_a_probe_that_counts() {
        let here = || ear(0, "192.0.2.10");
        let good = probe(1, &here(), 100, 50);
        for (what, probe) in [
            ("another key", probe(2, &here(), 100, 50)),
            ("another number", ProbeCount { number: good.number + 1, ..good.clone() }),
            ("another run", ProbeCount { incarnation: 4, ..good.clone() }),
            ("another family's", probe(1, &ear(0, "2001:db8::10"), 100, 50)),
            ("another interface's", probe(1, &ear(1, "192.0.2.10"), 100, 50)),
        ] {
            let mut ear = here();
            ear.hear(&web(), &keys(1), PEER, 0, &probe);
            assert_eq!(heard_ms(&ear), None, "{what}");
        }
        let mut ear = here();
        ear.hear(&web(), &keys(1), PEER, 0, &good);
        assert_eq!(heard_ms(&ear), Some(50));
        // While keys are changed, two are good.
        ear.hear(&web(), &keys(1), PEER, 0, &probe(9, &here(), 101, 60));
        assert_eq!(heard_ms(&ear), Some(60));
    }

    #[test]
    fn a_recorded_probe_does_not_count() {
        let mut ear = ear(0, "192.0.2.10");
        let old = probe(1, &ear, 100, 50);
        let new = probe(1, &ear, 101, 60);
        ear.hear(&web(), &keys(1), PEER, 0, &new);
        // The very same again, and one from before, later.
        ear.hear(&web(), &keys(1), PEER, 0, &ProbeCount { last_ns: 1_000_000_000, ..new });
        ear.hear(&web(), &keys(1), PEER, 0, &ProbeCount { last_ns: 1_000_000_000, ..old.clone() });
        assert_eq!(heard_ms(&ear), Some(60));
        // Nor does one that was never heard here, if the sender's pulses are further on.
        ear.last.clear();
        ear.hear(&web(), &keys(1), PEER, 101, &old);
        assert_eq!(heard_ms(&ear), None);
        ear.hear(&web(), &keys(1), PEER, 100, &old);
        assert_eq!(heard_ms(&ear), Some(50));
    }
}
