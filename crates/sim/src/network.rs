//! The wire: multicast that each receiver may miss, hear late, twice or out of order.
//!
//! It decides what becomes of each copy when it is sent, and remembers how good each pair's contact has been:
//! "nodes that can hear each other" (S1) is a statement about the network, and must not be asked of the nodes.

use crate::clock::Moment;
use crate::rng::Rng;

/// How the wire treats datagrams, wherever they come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Copies lost, in millionths.
    pub loss: u32,
    /// Bodies of views lost besides, in millionths.
    pub body_loss: u32,
    /// Copies that arrive twice, in millionths.
    pub twice: u32,
    /// Shortest delay in nanoseconds.
    pub delay_min: u64,
    /// Longest delay in nanoseconds.
    pub delay_max: u64,
    /// Copies that take much longer, in millionths.
    pub late: u32,
    /// At most this long, in nanoseconds.
    pub late_max: u64,
}

impl Weather {
    /// Nothing lost, delays of 0.05 to 0.2 ms.
    pub const CLEAR: Weather = Weather {
        loss: 0,
        body_loss: 0,
        twice: 0,
        delay_min: 50_000,
        delay_max: 200_000,
        late: 0,
        late_max: 0,
    };
}

/// What the network did to the pulses of one node on their way to another.
#[derive(Clone, Copy, Debug, Default)]
struct Contact {
    /// When the first of the pulses lost in a row was sent, and how many they are.
    lost_since: Moment,
    lost: u32,
    /// Two pulses in a row lost, or one too late, last at this moment.
    worse_until: Option<Moment>,
    /// So many lost in a row, or one so late, that a node that runs cannot be told from a dead one.
    broken_until: Option<Moment>,
    /// When the latest pulse that got through was sent.
    heard_sent_at: Option<Moment>,
}

/// How good a contact must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// Not silent long enough for a live node to seem dead.
    Live,
    /// Not even two pulses in a row lost: what a lease allows for.
    Firm,
}

/// The wire between all nodes, over one or two links.
#[derive(Clone, Debug)]
pub struct Network {
    nodes: usize,
    links: usize,
    timeout: u64,
    interval: u64,
    /// What the wire does at present.
    pub weather: Weather,
    /// By link, sender, receiver.
    cut: Vec<bool>,
    /// By sender, receiver: the bodies of views are lost.
    bodiless: Vec<bool>,
    /// By sender, receiver: what is sent arrives then at the earliest.
    clogged_until: Vec<Moment>,
    contacts: Vec<Contact>,
}

impl Network {
    /// A clear network of nodes with the given time-out and interval, over `links` links.
    pub fn new(nodes: usize, links: usize, timeout: u64, interval: u64) -> Self {
        Network {
            nodes,
            links,
            timeout,
            interval,
            weather: Weather::CLEAR,
            cut: vec![false; nodes * nodes * links],
            bodiless: vec![false; nodes * nodes],
            clogged_until: vec![0; nodes * nodes],
            contacts: vec![Contact::default(); nodes * nodes],
        }
    }

    /// How many links there are.
    pub fn links(&self) -> usize {
        self.links
    }

    /// Cuts, or mends, one direction on one link.
    pub fn cut(&mut self, link: usize, from: usize, to: usize, cut: bool) {
        let pair = self.pair(from, to);
        self.cut[link * self.nodes * self.nodes + pair] = cut;
    }

    /// Loses the bodies of views from one node to another, or no more.
    pub fn lose_bodies(&mut self, from: usize, to: usize, lost: bool) {
        let pair = self.pair(from, to);
        self.bodiless[pair] = lost;
    }

    /// Lets nothing from one node to another arrive before `until`.
    pub fn clog(&mut self, from: usize, to: usize, until: Moment) {
        let pair = self.pair(from, to);
        self.clogged_until[pair] = until;
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        self.weather = Weather::CLEAR;
        self.cut.fill(false);
        self.bodiless.fill(false);
        self.clogged_until.fill(0);
    }

    /// When the copies of a datagram that is sent now arrive.
    pub fn route(
        &mut self,
        rng: &mut Rng,
        now: Moment,
        from: usize,
        to: usize,
        pulse: bool,
        arrivals: &mut Vec<Moment>,
    ) {
        arrivals.clear();
        let pair = self.pair(from, to);
        let weather = self.weather;
        for link in 0..self.links {
            if self.cut[link * self.nodes * self.nodes + pair]
                || rng.chance(weather.loss)
                || (!pulse && (self.bodiless[pair] || rng.chance(weather.body_loss)))
            {
                continue;
            }
            let copies = 1 + usize::from(rng.chance(weather.twice));
            for _ in 0..copies {
                let delay = if rng.chance(weather.late) {
                    rng.between(weather.delay_max, weather.late_max)
                } else {
                    rng.between(weather.delay_min, weather.delay_max)
                };
                arrivals.push((now + delay).max(self.clogged_until[pair]));
            }
        }
        if pulse {
            self.grade(now, pair, arrivals.iter().min().copied());
        }
    }

    fn grade(&mut self, now: Moment, pair: usize, arrival: Option<Moment>) {
        let (timeout, interval) = (self.timeout, self.interval);
        let contact = &mut self.contacts[pair];
        match arrival {
            None => {
                if contact.lost == 0 {
                    contact.lost_since = now;
                }
                contact.lost += 1;
                if contact.lost >= 2 {
                    contact.worse_until = Some(now + interval);
                }
                if now - contact.lost_since + 2 * interval >= timeout / 2 {
                    contact.broken_until = Some(now + interval);
                }
            }
            Some(at) => {
                contact.lost = 0;
                contact.heard_sent_at = Some(now);
                if at - now >= timeout / 4 - interval / 2 {
                    contact.worse_until = contact.worse_until.max(Some(at));
                    contact.broken_until = contact.broken_until.max(Some(at));
                }
            }
        }
    }

    /// Whether the network between two nodes has been this good, in both directions, since `since`.
    pub fn in_touch(&self, a: usize, b: usize, since: Moment, grade: Grade) -> bool {
        [self.pair(a, b), self.pair(b, a)].into_iter().all(|pair| {
            let contact = &self.contacts[pair];
            let bad = match grade {
                Grade::Live => contact.broken_until,
                Grade::Firm => contact.worse_until.max(contact.broken_until),
            };
            bad.is_none_or(|until| until < since)
        })
    }

    /// Whether a pulse has got through from one node to another since then.
    pub fn has_heard(&self, from: usize, to: usize, since: Moment) -> bool {
        self.contacts[self.pair(from, to)].heard_sent_at.is_some_and(|at| at >= since)
    }

    fn pair(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }
}
