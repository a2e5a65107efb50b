//! The exploration: every choice at every stop, once for all worlds that are alike.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::judge::Property;
use crate::setup::Setup;
use crate::world::{Choice, World};

/// Worlds that wait to be explored; more would not fit into memory, so the exploration ends unfinished.
const WAITING_MAX: usize = 150_000;

/// What is remembered of each state.
struct Seen {
    /// From which state it was reached first, and how; or from which start.
    from: Result<(u64, Choice), usize>,
    /// What follows when nothing goes wrong any more.
    next: u64,
    micros: u32,
    covered: bool,
    at_rest: bool,
    /// The network is whole.
    fair: bool,
    /// A violation ends the way.
    ends: bool,
}

/// Every state, by its fingerprint.
struct States(HashMap<u64, Seen>);

/// How long it takes until all is well for ever, once nothing goes wrong any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// At most so long, from any state.
    Within(Duration),
    /// From some state it never is.
    Never,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recovery::Within(span) => write!(f, "{} ms", span.as_millis()),
            Recovery::Never => write!(f, "never"),
        }
    }
}

impl States {
    /// Remembers a state, and says whether it is new.
    fn insert(&mut self, world: &World, from: Result<(u64, Choice), usize>) -> bool {
        let Entry::Vacant(entry) = self.0.entry(world.hash_value()) else {
            return false;
        };
        entry.insert(Seen {
            from,
            next: 0,
            micros: 0,
            covered: world.is_covered(),
            at_rest: world.is_at_rest(),
            fair: world.is_fair(),
            ends: world.violation().is_some(),
        });
        true
    }

    /// The start and the choices by which a state was reached first.
    fn way_to(&self, state: u64) -> (usize, Vec<Choice>) {
        let (mut at, mut choices) = (state, Vec::new());
        loop {
            match self.0[&at].from {
                Ok((before, choice)) => {
                    choices.push(choice);
                    at = before;
                }
                Err(start) => {
                    choices.reverse();
                    return (start, choices);
                }
            }
        }
    }

    /// The longest way from any fair state to one from which on `well` holds for ever; or a state from which it never
    /// does. Without another fault each state has one successor, so all ways end in rings.
    fn recovery(&self, well: impl Fn(&Seen) -> bool) -> Result<Duration, u64> {
        /// Microseconds until all is well for ever; `None` for never. A state on the present way is not there yet.
        type Known = HashMap<u64, Option<u64>>;
        let mut known: Known = HashMap::with_capacity(self.0.len());
        let mut worst = 0;
        for begin in self.0.iter().filter(|(_, seen)| seen.fair).map(|(state, _)| *state) {
            let mut way = Vec::new();
            let mut places = HashMap::new();
            let mut at = begin;
            let mut rest = loop {
                if let Some(rest) = known.get(&at) {
                    break *rest;
                }
                if let Some(place) = places.get(&at) {
                    let ring: &[u64] = &way[*place..];
                    break ring.iter().all(|state| well(&self.0[state])).then_some(0);
                }
                // What was not explored, or ends with a violation, is not judged here.
                match self.0.get(&at) {
                    Some(seen) if !seen.ends && seen.next != 0 => {
                        places.insert(at, way.len());
                        way.push(at);
                        at = seen.next;
                    }
                    _ => break Some(0),
                }
            };
            for state in way.into_iter().rev() {
                let seen = &self.0[&state];
                rest = match rest {
                    Some(0) if well(seen) => Some(0),
                    Some(micros) => Some(micros + u64::from(seen.micros)),
                    None => return Err(state),
                };
                worst = worst.max(rest.unwrap_or(0));
                known.insert(state, rest);
            }
        }
        Ok(Duration::from_micros(worst))
    }
}

/// What an exploration has found.
#[derive(Debug)]
pub struct Report {
    /// Which configuration.
    pub name: &'static str,
    /// States that differ.
    pub states: usize,
    /// Ways from one state to another that were tried.
    pub transitions: usize,
    /// Whether every state was visited.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
    /// Until every bucket is passed by somebody, for ever.
    pub covered: Recovery,
    /// Until all living nodes serve their equal shares of one view, for ever.
    pub at_rest: Recovery,
    /// What went wrong, as the choices that lead there from one of the starts.
    pub counterexample: Option<Counterexample>,
}

/// A way to a violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// What it violates.
    pub property: Property,
    /// Which of the setup's starts it begins with.
    pub start: usize,
    /// What was chosen at each stop.
    pub choices: Vec<Choice>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<34} {:>9} states {:>9} transitions {:>7.1} s  covered in {:<8} at rest in {:<8}{}",
            self.name,
            self.states,
            self.transitions,
            self.took.as_secs_f64(),
            self.covered.to_string(),
            self.at_rest.to_string(),
            if self.complete { "" } else { "  NOT EXHAUSTED" }
        )?;
        if let Some(found) = &self.counterexample {
            write!(f, "  VIOLATES {}", found.property.name())?;
        }
        Ok(())
    }
}

/// Explores a configuration, breadth first, but not much more than so many transitions.
pub fn explore(setup: &Setup, transitions_max: usize) -> Report {
    let begin = Instant::now();
    let setup = Arc::new(setup.clone());
    let mut states = States(HashMap::new());
    let mut waiting = VecDeque::new();
    for (start, starts) in setup.starts.iter().enumerate() {
        let world = World::new(&setup, starts, false);
        if states.insert(&world, Err(start)) {
            waiting.push_back(world);
        }
    }
    let (mut transitions, mut violation) = (0, None);
    let mut choices = Vec::new();
    while violation.is_none()
        && transitions < transitions_max
        && waiting.len() < WAITING_MAX
        && let Some(world) = waiting.pop_front()
    {
        world.choices(&mut choices);
        for choice in choices.drain(..) {
            let next = world.after(choice);
            transitions += 1;
            if choice == Choice::Go
                && let Some(seen) = states.0.get_mut(&world.hash_value())
            {
                seen.next = next.hash_value();
                seen.micros = (next.elapsed() - world.elapsed()).as_micros() as u32;
            }
            if states.insert(&next, Ok((world.hash_value(), choice))) {
                if let Some(found) = next.violation() {
                    violation.get_or_insert((found.property, next.hash_value()));
                } else {
                    waiting.push_back(next);
                }
            }
        }
    }
    let complete = violation.is_none() && waiting.is_empty();
    let covered = states.recovery(|seen| seen.covered);
    let at_rest = states.recovery(|seen| seen.at_rest);
    let never = [(Property::NoOrphan, covered), (Property::Balance, at_rest)];
    let counterexample = violation
        .or_else(|| never.into_iter().find_map(|(property, recovery)| Some((property, recovery.err()?))))
        .map(|(property, state)| {
            let (start, mut choices) = states.way_to(state);
            if property.is_eventual() {
                choices.extend([Choice::Go; 80]);
            }
            Counterexample { property, start, choices }
        });
    Report {
        name: setup.name,
        states: states.0.len(),
        transitions,
        complete,
        took: begin.elapsed(),
        covered: covered.map_or(Recovery::Never, Recovery::Within),
        at_rest: at_rest.map_or(Recovery::Never, Recovery::Within),
        counterexample,
    }
}

/// What happens on the way to a violation, line by line.
pub fn story(setup: &Setup, found: &Counterexample) -> Vec<String> {
    let setup = Arc::new(setup.clone());
    let mut world = World::new(&setup, &setup.starts[found.start], true);
    for choice in &found.choices {
        world = world.after(*choice);
    }
    world.log().to_vec()
}
