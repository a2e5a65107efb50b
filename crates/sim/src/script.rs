//! A script: a world and everything that will befall it. It can be played, and shortened while it still fails.

use std::fmt;

use rudel_proto::bucket::BUCKET_COUNT;
use rudel_proto::id::ViewId;

use crate::clock::Moment;
use crate::judge::{Blackouts, Violation, millis};
use crate::world::{Deed, Settings, World, nanos};

/// A world and what befalls it.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its class.
    pub class: &'static str,
    /// What the world is made of.
    pub settings: Settings,
    /// Until then nothing goes wrong: gaps before it are those of the first start.
    pub calm_until: Moment,
    /// What happens, in order.
    pub deeds: Vec<(Moment, Deed)>,
    /// When everything is mended.
    pub end: Moment,
    /// Whether two nodes never hear each other, and yet everything must be served once all else is mended.
    pub stays_cut: bool,
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first property that did not hold.
    pub violation: Option<Violation>,
    /// How many things have happened.
    pub steps: u64,
    /// How long buckets were passed by nobody.
    pub blackouts: Blackouts,
    /// How long it took to come to rest after all was mended, in nanoseconds.
    pub rest_after: u64,
    /// How often two nodes that could not hear each other began to share a bucket.
    pub overlaps_excused: u64,
    /// How often a daemon went on with the run of a dead one.
    pub resumed: u64,
}

impl Script {
    /// How long a cluster may take to come to rest when nothing goes wrong any more.
    ///
    /// A stalled or late node waits T before it judges, the dead are expired after T and an interval, a starting
    /// node listens for 2 T, and a view or two have to be made, each perhaps by the second in rank (T later).
    pub fn rest_within(&self) -> u64 {
        let timeout = self.settings.slowest();
        // Terms are agreed on only after all that by the former ones, and followed by the same again.
        let rounds = if self.settings.stretch > 1 { 2 } else { 1 };
        rounds * (10 * nanos(timeout) + 10 * nanos(self.settings.interval))
    }

    /// Plays it to the end.
    pub fn play(&self) -> Outcome {
        let mut world = World::new(self.settings.clone());
        for (at, deed) in &self.deeds {
            world.schedule(*at, deed.clone());
        }
        world.run_until(self.calm_until);
        world.forget_blackouts();
        world.run_until(self.end);
        let blackouts = world.blackouts().clone();

        let (violation, rest_after) = match self.rest(&mut world) {
            Ok(rest_after) => (None, rest_after),
            Err(violation) => (Some(violation), 0),
        };
        Outcome {
            violation: world.violation().cloned().or(violation),
            steps: world.steps(),
            blackouts,
            rest_after,
            overlaps_excused: world.overlaps_excused(),
            resumed: world.resumed(),
        }
    }

    /// L1 to L3: mends everything, and requires that all is soon as it should be, and stays so.
    fn rest(&self, world: &mut World) -> Result<u64, Violation> {
        let broken = |world: &World, property, detail| Violation { at: world.now(), property, detail };
        if world.violation().is_some() {
            return Ok(0);
        }
        if self.stays_cut {
            self.cover(world)?;
        }
        world.heal();
        if self.settings.stretch > 1 {
            // In the end every file says the same: what the first one did.
            for node in 0..self.settings.nodes {
                world.perform(Deed::Reload(node, self.settings.terms_of(node)));
            }
        }
        // Half of the dead stay dead, if those that live are enough: by all terms, since a wish is obeyed until the dead are
        // expired by it, too.
        let mut running = (0..self.settings.nodes).filter(|node| world.runs(*node)).count();
        for node in 0..self.settings.nodes {
            if !world.runs(node)
                && (running < world.largest_quorum() || (self.settings.seed >> (node % 8)) & 1 == 1)
            {
                world.perform(Deed::Start(node));
                running += 1;
            }
        }
        let step = nanos(self.settings.interval) / 2;
        let lasting = 3 * nanos(self.settings.slowest());
        let healed = world.now();
        let deadline = healed + self.rest_within();
        let mut rest: Option<(Moment, ViewId)> = None;
        loop {
            world.run_until(world.now() + step);
            if world.violation().is_some() {
                return Ok(0);
            }
            rest = match (rest, world.at_rest()) {
                (Some((since, view)), Ok(same)) if view == same => {
                    if world.now() >= since + lasting {
                        return Ok(since - healed);
                    }
                    rest
                }
                // What went wrong just before all was mended may show its consequences only now.
                (_, Ok(view)) if world.now() < deadline => Some((world.now(), view)),
                (_, Err(_)) if world.now() < deadline => None,
                (_, Ok(view)) => return Err(broken(world, "rest lasts", format!("{view:?} is new"))),
                (Some(_), Err(what)) => return Err(broken(world, "rest lasts", what)),
                (None, Err(what)) => return Err(broken(world, "L1 rest within the bound", what)),
            };
        }
    }

    /// L1 behind a cut that lasts: mends all but that, and requires that everything is soon served, and stays so.
    fn cover(&self, world: &mut World) -> Result<(), Violation> {
        world.calm();
        let deadline = world.now() + self.rest_within();
        let lasting = 3 * nanos(self.settings.timeout);
        let mut covered_since = None;
        while world.violation().is_none() {
            world.run_until(world.now() + nanos(self.settings.interval) / 2);
            let now = world.now();
            let missing = BUCKET_COUNT - world.covered().len();
            if missing == 0 {
                if now >= *covered_since.get_or_insert(now) + lasting {
                    break;
                }
            } else if now >= deadline {
                let detail = format!("{missing} buckets are passed by nobody");
                return Err(Violation { at: now, property: "L1 behind a cut", detail });
            } else {
                covered_since = None;
            }
        }
        Ok(())
    }

    /// The same failure with as few deeds as can be found, and when it happens.
    pub fn shortened(&self) -> Script {
        let mut best = self.clone();
        let Some(failure) = best.play().violation else {
            return best;
        };
        let mut chunk = best.deeds.len();
        while chunk > 0 {
            let mut start = 0;
            while start < best.deeds.len() {
                let mut fewer = best.clone();
                fewer.deeds.drain(start..(start + chunk).min(best.deeds.len()));
                if fewer.play().violation.is_some_and(|found| found.property == failure.property) {
                    best = fewer;
                } else {
                    start += chunk;
                }
            }
            chunk /= 2;
        }
        best
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { nodes, links, quorum, timeout, interval, weights, drift, .. } = &self.settings;
        writeln!(
            f,
            "{nodes} nodes, {links} links, quorum {quorum}, T {timeout:?}, interval {interval:?}, weights {weights:?}, drift {drift}"
        )?;
        for (at, deed) in &self.deeds {
            writeln!(f, "{:>14} {deed:?}", millis(*at))?;
        }
        write!(f, "{:>14} all is mended", millis(self.end))
    }
}
