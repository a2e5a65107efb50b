//! Classes of worlds: which faults befall them, and how often.

use rudel_proto::{Command, Terms};

use crate::clock::Moment;
use crate::host::Point;
use crate::network::Weather;
use crate::reload;
use crate::rng::Rng;
use crate::script::Script;
use crate::server::{Asking, Server};
use crate::world::{Deed, Settings};
use std::time::Duration;

/// A kind of fault. Each mends itself after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    PowerOff,
    Kill,
    Crash,
    Forget,
    Leave,
    Weight,
    Health,
    Drain,
    Hang,
    TwoHangs,
    Slow,
    Split,
    OneWay,
    Flap,
    Links,
    Clog,
    Loss,
    Late,
    Bodies,
    ColdStart,
    /// A daemon dies, and its parent says good-bye for it.
    Bury,
    /// Two nodes leave together.
    TwoLeave,
    /// Something happens to one or two nodes while the network between some others is partly broken, for moments.
    Burst,
    /// Two nodes cannot hear each other for long, and those who hear both start anew.
    Echoers,
    ServerFails,
    ServersFail,
    Reload,
}

/// A class of worlds.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    faults: &'static [Fault],
    /// Shortest and longest time between two faults, in tenths of the time-out.
    pause: (u64, u64),
    links: usize,
    sealed: bool,
    /// Only three to five nodes, so that what the seed draws concerns each other.
    few: bool,
    /// Two nodes do not hear each other from the beginning to the end.
    cut: bool,
    checks: bool,
}

use Fault::*;

/// All classes.
pub const CLASSES: &[Class] = &[
    Class::new("calm", "nothing goes wrong", &[], (80, 80)),
    Class::new("weight", "weights change", &[Weight], (60, 120)),
    Class::new("health", "health checks fail and pass", &[Health], (60, 120)),
    Class {
        checks: true,
        ..Class::new("servers", "servers fail and hang, one or all", &[ServerFails, ServersFail], (20, 160))
    },
    Class {
        checks: true,
        ..Class::new(
            "servers-and-more",
            "servers fail while nodes come, go and hang",
            &[ServerFails, ServersFail, ServersFail, PowerOff, Leave, Drain, Weight, Hang, Loss, Split],
            (5, 80),
        )
    },
    Class::new("drain", "nodes drain and come back", &[Drain], (60, 120)),
    Class::new("leave", "nodes leave and come back", &[Leave], (80, 160)),
    Class::new("power", "one machine at a time dies", &[PowerOff], (120, 200)),
    Class::new("kill", "one daemon at a time dies, its kernel lives on", &[Kill], (120, 200)),
    Class::new("hang", "one daemon at a time hangs", &[Hang], (80, 160)),
    Class::new("split", "the network falls apart", &[Split], (80, 160)),
    Class::new("one-way", "links work in one direction", &[OneWay], (60, 120)),
    Class { links: 2, ..Class::new("links", "one of two links fails, here or there", &[Links], (20, 80)) },
    Class::new("loss", "bouts of loss", &[Loss], (40, 120)),
    Class::new("hangs", "hangs come in pairs, in the worst places", &[TwoHangs], (10, 60)),
    Class::new("slow", "machines are slow, and more", &[Slow, Hang, PowerOff], (10, 60)),
    Class::new("flap", "links flap", &[Flap, OneWay, Split], (5, 40)),
    Class::new("clog", "links clog", &[Clog, Hang], (5, 40)),
    Class::new(
        "late",
        "a fifth of the datagrams is late by up to the time-out",
        &[Late, Hang, Split],
        (10, 60),
    ),
    Class::new(
        "bodies",
        "bodies of views are lost apart from their identities",
        &[Bodies, Bodies, Weight, Drain, Leave, PowerOff, Kill, OneWay],
        (2, 30),
    ),
    Class::new("cold", "all start at once, again and again", &[ColdStart], (30, 80)),
    Class::new(
        "restart",
        "daemons die and come back at once, remembering or not",
        &[Kill, PowerOff, Forget, Forget, OneWay, Split],
        (2, 30),
    ),
    Class::new(
        "resume",
        "daemons die, others go on with their runs within the lease, and more",
        &[
            Crash, Crash, Crash, Hang, TwoHangs, Weight, Drain, Health, Kill, PowerOff, OneWay, Split, Loss,
            Late, Bodies,
        ],
        (2, 30),
    ),
    Class::new(
        "storm",
        "everything",
        &[
            PowerOff, Kill, Forget, Leave, Weight, Health, Drain, Hang, TwoHangs, Slow, Split, OneWay, Flap,
            Clog, Loss, Late, Bodies, ColdStart,
        ],
        (1, 40),
    ),
    Class::new(
        "parents",
        "daemons die, and their parents say good-bye for them",
        &[Bury, Bury, OneWay, Loss, Hang],
        (10, 60),
    ),
    Class::new(
        "reload",
        "terms change, node by node or not at all, and everything else",
        &[
            Reload, Reload, Reload, Crash, Crash, PowerOff, Kill, Leave, Hang, TwoHangs, Split, OneWay, Loss,
            Bodies, ColdStart,
        ],
        (4, 40),
    ),
    Class {
        few: true,
        ..Class::new("leavers", "two leave at the same moment", &[TwoLeave, TwoLeave, Weight], (40, 90))
    },
    Class {
        few: true,
        ..Class::new("burst", "links break for moments, just when something happens", &[Burst], (60, 100))
    },
    Class {
        few: true,
        ..Class::new(
            "echoers",
            "two nodes cannot hear each other, those between them start anew",
            &[Echoers],
            (90, 130),
        )
    },
    Class {
        few: true,
        ..Class::new(
            "joiners",
            "nodes come and go while weights change, and a tenth is lost",
            &[PowerOff, Leave, Weight, Weight, Loss],
            (1, 15),
        )
    },
    Class {
        few: true,
        cut: true,
        ..Class::new("apart", "two nodes never hear each other, and more", &[Hang, TwoHangs, Loss], (10, 60))
    },
    Class {
        sealed: true,
        few: true,
        ..Class::new(
            "heirs",
            "daemons go on with the runs of dead ones, by what those have left in earnest",
            &[Crash, Crash, Crash, Weight, Drain, Bodies, OneWay, Hang],
            (2, 20),
        )
    },
    Class {
        sealed: true,
        ..Class::new(
            "adversary",
            "an outsider replays, delays and changes datagrams",
            &[PowerOff, Kill, Forget, Leave, Weight, Hang, Split, OneWay, Loss],
            (10, 60),
        )
    },
];

impl Class {
    const fn new(
        name: &'static str,
        about: &'static str,
        faults: &'static [Fault],
        pause: (u64, u64),
    ) -> Self {
        Class { name, about, faults, pause, links: 1, sealed: false, few: false, cut: false, checks: false }
    }

    /// The class of a name.
    pub fn named(name: &str) -> Option<&'static Class> {
        CLASSES.iter().find(|class| class.name == name)
    }

    /// The world of a seed, with faults for so many time-outs.
    pub fn script(&self, seed: u64, timeouts: u64) -> Script {
        let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let nodes = match rng.below(100) {
            0..20 => 2,
            20..50 => 3,
            50..68 => 4,
            68..86 => 5,
            86..98 => rng.between(6, 10) as usize,
            98 => rng.between(11, 24) as usize,
            _ => 32,
        };
        let nodes = if self.few { rng.pick(&[3, 3, 3, 4, 5]) } else { nodes };
        let (timeout_ms, interval_ms) = rng.pick(&[
            (400, 50),
            (400, 50),
            (400, 50),
            (400, 100),
            (400, 130),
            (1000, 125),
            (2000, 100),
            (20, 5),
            (40, 5),
        ]);
        let majority = nodes / 2 + 1;
        let quorum = rng.pick(&[1, 1, majority, majority, nodes.min(2)]);
        let weights = match rng.below(4) {
            // Somebody who hears all must be able to serve.
            _ if self.cut => vec![100],
            0 => (0..nodes)
                .map(|node| if node == 0 { 100 } else { rng.pick(&[0, 1, 50, 100, 1000]) })
                .collect(),
            _ => vec![100],
        };
        let settings = Settings {
            seed,
            nodes,
            links: self.links,
            quorum,
            timeout: Duration::from_millis(timeout_ms),
            interval: Duration::from_millis(interval_ms),
            weights,
            digests: vec![0],
            stretch: if self.faults.contains(&Reload) { reload::STRETCH } else { 1 },
            drift: rng.below(4) > 0,
            asking: self.checks.then(|| Asking {
                interval: Duration::from_millis(timeout_ms),
                timeout: Duration::from_millis(timeout_ms / 4),
                rise: 2,
                fall: 2,
            }),
            sealed: self.sealed,
            trace: false,
        };
        let mut author = Author {
            rng,
            nodes,
            terms: settings.terms_of(0),
            timeout: timeout_ms * 1_000_000,
            interval: interval_ms * 1_000_000,
            deeds: Vec::new(),
        };
        author.begin(self.sealed);
        if self.cut {
            let (from, to) = author.pair();
            for (from, to) in [(from, to), (to, from)] {
                author.at(author.timeout * 5, Deed::Cut { link: None, from, to, cut: true });
            }
        }
        let end = author.timeout * (timeouts + 6);
        let mut at = author.timeout * 6;
        while !self.faults.is_empty() {
            at += author.timeout * author.rng.between(self.pause.0, self.pause.1) / 10;
            if at >= end {
                break;
            }
            let fault = author.rng.pick(self.faults);
            author.fault(at, fault);
        }
        let mut deeds = author.deeds;
        deeds.retain(|(at, _)| *at < end);
        deeds.sort_by_key(|(at, _)| *at);
        Script { class: self.name, settings, calm_until: author.timeout * 6, deeds, end, stays_cut: self.cut }
    }
}

/// Writes a script.
struct Author {
    rng: Rng,
    nodes: usize,
    terms: Terms,
    timeout: u64,
    interval: u64,
    deeds: Vec<(Moment, Deed)>,
}

impl Author {
    fn begin(&mut self, adversary: bool) {
        self.deeds.push((0, Deed::Weather(self.ordinary())));
        let spread = self.rng.pick(&[0, self.interval, self.timeout, self.timeout * 2]);
        for node in 0..self.nodes {
            let at = self.rng.below(spread + 1);
            self.deeds.push((at, Deed::Start(node)));
        }
        if adversary {
            let rate = self.rng.pick(&[1, 4, 20]);
            self.deeds.push((0, Deed::Adversary(rate)));
        }
    }

    /// A network as it should be: delays far below the time-out.
    fn ordinary(&self) -> Weather {
        Weather { delay_max: (self.timeout / 100).max(100_000), ..Weather::CLEAR }
    }

    fn node(&mut self) -> usize {
        self.rng.index(self.nodes)
    }

    /// Two different nodes.
    fn pair(&mut self) -> (usize, usize) {
        let from = self.node();
        let to = (from + 1 + self.rng.index(self.nodes - 1)) % self.nodes;
        (from, to)
    }

    /// A span between so many tenths of the time-out.
    fn span(&mut self, low: u64, high: u64) -> u64 {
        self.rng.between(self.timeout * low / 10, self.timeout * high / 10)
    }

    fn hang_span(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => self.rng.between(self.interval / 2, self.interval * 2),
            1 => self.span(5, 12),
            2 => self.span(1, 10),
            _ => self.span(10, 40),
        }
    }

    fn at(&mut self, at: Moment, deed: Deed) {
        self.deeds.push((at, deed));
    }

    fn split(&mut self, at: Moment, until: Moment) {
        let nodes = self.nodes;
        let groups = match self.rng.below(3) {
            0 => {
                let lonely = self.node();
                (0..nodes).map(|node| usize::from(node == lonely)).collect()
            }
            _ => (0..nodes).map(|_| self.rng.index(2)).collect(),
        };
        self.at(at, Deed::Split(groups));
        self.at(until, Deed::Split(vec![0; nodes]));
    }

    /// A span of any order of magnitude, from the time of one exchange to some time-outs.
    fn moment(&mut self) -> u64 {
        let longest = self.rng.pick(&[self.timeout / 100, self.interval, self.timeout, self.timeout * 3]);
        self.rng.between(longest / 10, longest)
    }

    fn burst(&mut self, at: Moment) {
        for _ in 0..self.rng.between(1, 3) {
            let kind = self.rng.pick(&[Weight, Weight, PowerOff, Kill, Leave, Drain, Hang]);
            let when = at + self.rng.pick(&[0, 0, self.interval, self.timeout / 2]);
            self.fault(when, kind);
        }
        for _ in 0..self.rng.between(2, 7) {
            let (from, to) = self.pair();
            let when = at.saturating_sub(self.timeout / 4) + self.moment();
            let back = when + self.moment();
            match self.rng.below(6) {
                0 => {
                    let span = self.moment();
                    self.at(when, Deed::Clog(from, to, span));
                }
                1 | 2 => {
                    self.at(when, Deed::Bodies { from, to, lost: true });
                    self.at(back, Deed::Bodies { from, to, lost: false });
                }
                3 => {
                    self.at(when, Deed::Cut { link: None, from, to, cut: true });
                    self.at(back, Deed::Cut { link: None, from, to, cut: false });
                }
                _ => {
                    // For so long that only others can know.
                    let (when, back) = (at.saturating_sub(self.timeout * 2), at + self.span(5, 40));
                    for (from, to) in [(from, to), (to, from)] {
                        self.at(when, Deed::Cut { link: None, from, to, cut: true });
                        self.at(back, Deed::Cut { link: None, from, to, cut: false });
                    }
                }
            }
        }
    }

    fn echoers(&mut self, at: Moment) {
        let (one, other) = self.pair();
        let back = at + self.span(10, 40);
        let cut = |author: &mut Self, when: Moment, a: usize, b: usize| {
            for (from, to) in [(a, b), (b, a)] {
                author.at(when, Deed::Cut { link: None, from, to, cut: true });
                author.at(back, Deed::Cut { link: None, from, to, cut: false });
            }
        };
        cut(self, at - self.timeout * 4, one, other);
        if self.rng.chance(700_000) {
            self.at(at - self.timeout * 3, Deed::PowerOff(one));
        }
        let start = at.saturating_sub(self.rng.below(self.timeout * 3 / 2));
        self.at(start - 100_000, Deed::PowerOff(one));
        self.at(start, Deed::Start(one));
        for between in (0..self.nodes).filter(|node| *node != one && *node != other) {
            if self.rng.chance(500_000) {
                self.at(start, Deed::Bodies { from: between, to: one, lost: true });
                self.at(back, Deed::Bodies { from: between, to: one, lost: false });
            }
            if self.rng.chance(500_000) {
                self.at(at, Deed::Bodies { from: other, to: between, lost: true });
                self.at(back, Deed::Bodies { from: other, to: between, lost: false });
            }
            let (when, again) = (at + self.moment(), self.moment());
            self.at(when, Deed::PowerOff(between));
            self.at(when + again, Deed::Start(between));
            if self.rng.chance(500_000) {
                let when = when + self.moment();
                cut(self, when, between, other);
            }
        }
    }

    fn fault(&mut self, at: Moment, fault: Fault) {
        let node = self.node();
        match fault {
            PowerOff => {
                let back = at + self.span(1, 60);
                self.at(at, Deed::PowerOff(node));
                self.at(back, Deed::Start(node));
            }
            Kill => {
                let back = at + self.span(0, 40);
                self.at(at, Deed::Kill(node));
                self.at(back, Deed::Start(node));
            }
            Bury => {
                let back = at + self.span(0, 40);
                self.at(at, Deed::Bury(node));
                self.at(back, Deed::Start(node));
            }
            Crash => {
                // Somewhere in its loop, and so soon that its lease may still hold.
                let point = self.rng.pick(&Point::ALL);
                let dies = at + self.span(0, 2);
                let back = dies + self.span(0, 9);
                self.at(at, Deed::HangAt(node, point, dies - at + 1));
                self.at(dies, Deed::Kill(node));
                self.at(back, Deed::Resume(node));
            }
            Forget => {
                let back = at + self.span(0, 30);
                let deed = if self.rng.chance(500_000) { Deed::Kill(node) } else { Deed::PowerOff(node) };
                self.at(at, deed);
                self.at(back, Deed::StartForgetful(node));
            }
            Leave => {
                let back = at + self.span(5, 60);
                self.at(at, Deed::Command(node, Command::Leave));
                self.at(back, Deed::Start(node));
            }
            Weight => {
                let weight = self.rng.pick(&[0, 1, 10, 50, 100, 100, 200, 1000]);
                self.at(at, Deed::Command(node, Command::Weight(weight)));
            }
            Health => {
                let back = at + self.span(1, 60);
                self.at(at, Deed::Command(node, Command::Healthy(false)));
                self.at(back, Deed::Command(node, Command::Healthy(true)));
            }
            Drain => {
                let back = at + self.span(1, 60);
                self.at(at, Deed::Command(node, Command::Drain(true)));
                self.at(back, Deed::Command(node, Command::Drain(false)));
            }
            Hang => {
                let span = self.hang_span();
                self.at(at, Deed::Hang(node, span));
            }
            TwoHangs => {
                let first = self.hang_span();
                let points: Vec<Point> =
                    Point::ALL.into_iter().filter(|point| *point != Point::LookToWrite).collect();
                for _ in 0..self.rng.between(1, 2) {
                    let (point, span) = (self.rng.pick(&points), self.hang_span());
                    self.at(at, Deed::HangAt(node, point, span));
                }
                if self.rng.chance(700_000) {
                    self.at(at, Deed::Hang(node, first));
                }
            }
            Slow => {
                let most = self.rng.between(self.interval / 10, self.interval * 2);
                let back = at + self.span(5, 60);
                self.at(at, Deed::Slow(node, most));
                self.at(back, Deed::Slow(node, 0));
            }
            Split => {
                let until = at + self.span(2, 60);
                self.split(at, until);
            }
            OneWay => {
                let (from, to) = self.pair();
                let back = at + self.span(2, 60);
                self.at(at, Deed::Cut { link: None, from, to, cut: true });
                self.at(back, Deed::Cut { link: None, from, to, cut: false });
            }
            Flap => {
                let (from, to) = self.pair();
                let both = self.rng.chance(500_000);
                let mut when = at;
                for turn in 0..self.rng.between(2, 12) {
                    let cut = turn % 2 == 0;
                    self.at(when, Deed::Cut { link: None, from, to, cut });
                    if both {
                        self.at(when, Deed::Cut { link: None, from: to, to: from, cut });
                    }
                    when += self.span(0, 15);
                }
                self.at(when, Deed::Cut { link: None, from, to, cut: false });
                self.at(when, Deed::Cut { link: None, from: to, to: from, cut: false });
            }
            Links => {
                let (from, to) = self.pair();
                let back = at + self.span(2, 60);
                let link = Some(self.rng.index(2));
                let everywhere = self.rng.chance(500_000);
                for other in 0..self.nodes {
                    if other != from && (everywhere || other == to) {
                        for (from, to) in [(from, other), (other, from)] {
                            self.at(at, Deed::Cut { link, from, to, cut: true });
                            self.at(back, Deed::Cut { link, from, to, cut: false });
                        }
                    }
                }
            }
            Clog => {
                let (from, to) = self.pair();
                let span = self.span(1, 20);
                self.at(at, Deed::Clog(from, to, span));
            }
            Loss => {
                let loss = self.rng.pick(&[10_000, 50_000, 100_000, 200_000, 300_000]);
                let twice = self.rng.pick(&[0, 20_000]);
                let back = at + self.span(10, 60);
                let ordinary = self.ordinary();
                self.at(at, Deed::Weather(Weather { loss, twice, ..ordinary }));
                self.at(back, Deed::Weather(ordinary));
            }
            Late => {
                let back = at + self.span(10, 60);
                let ordinary = self.ordinary();
                let (late, late_max) = (200_000, self.timeout);
                self.at(at, Deed::Weather(Weather { late, late_max, twice: 20_000, ..ordinary }));
                self.at(back, Deed::Weather(ordinary));
            }
            Bodies => {
                let back = at + self.span(2, 40);
                let ordinary = self.ordinary();
                let body_loss = self.rng.pick(&[300_000, 600_000, 900_000]);
                let loss = self.rng.pick(&[0, 0, 50_000]);
                self.at(at, Deed::Weather(Weather { body_loss, loss, ..ordinary }));
                self.at(back, Deed::Weather(ordinary));
            }
            TwoLeave => {
                let (first, second) = self.pair();
                for node in [first, second] {
                    let (when, back) =
                        (at + self.rng.pick(&[0, 200_000, self.interval]), at + self.span(5, 40));
                    self.at(when, Deed::Command(node, Command::Leave));
                    self.at(back, Deed::Start(node));
                }
            }
            Burst => self.burst(at),
            Echoers => self.echoers(at),
            ServerFails => {
                let back = at + self.span(1, 100);
                let server = self.rng.pick(&[Server::Down, Server::Hangs]);
                self.at(at, Deed::Server(node, server));
                self.at(back, Deed::Server(node, Server::Up));
            }
            ServersFail => {
                let back = at + self.span(1, 100);
                let server = self.rng.pick(&[Server::Down, Server::Hangs]);
                for node in 0..self.nodes {
                    self.at(at, Deed::Server(node, server));
                    self.at(back, Deed::Server(node, Server::Up));
                }
            }
            Reload => {
                for (pause, node, terms) in reload::rolling(&mut self.rng, self.nodes, self.terms) {
                    self.at(at + pause, Deed::Reload(node, terms));
                }
            }
            ColdStart => {
                for node in 0..self.nodes {
                    self.at(at, Deed::PowerOff(node));
                }
                let spread = self.rng.pick(&[1_000_000, self.interval, self.timeout / 2, self.timeout * 2]);
                for node in 0..self.nodes {
                    let back = at + 1_000_000 + self.rng.below(spread);
                    self.at(back, Deed::Start(node));
                }
            }
        }
    }
}
