//! The exploration: every choice at every stop, once for all worlds that are alike.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property as Checked};

use crate::judge::Property;
use crate::setup::Setup;
use crate::world::{Choice, World};

/// A configuration as something that can be explored.
struct Exploration {
    setup: Arc<Setup>,
    /// Where each state that is fair goes without another fault.
    course: Arc<Mutex<Course>>,
}

/// What follows when nothing goes wrong any more: one arrow from each state.
#[derive(Default)]
struct Course(HashMap<u64, Next>);

#[derive(Clone, Copy)]
struct Next {
    state: u64,
    micros: u32,
    covered: bool,
    at_rest: bool,
    /// The network is whole.
    fair: bool,
}

impl Model for Exploration {
    type State = World;
    type Action = Choice;

    fn init_states(&self) -> Vec<World> {
        self.setup.starts.iter().map(|starts| World::new(&self.setup, starts, false)).collect()
    }

    fn actions(&self, world: &World, choices: &mut Vec<Choice>) {
        world.choices(choices);
    }

    fn next_state(&self, world: &World, choice: Choice) -> Option<World> {
        let next = world.after(choice);
        if choice == Choice::Go {
            let arrow = Next {
                state: next.hash_value(),
                micros: (next.elapsed() - world.elapsed()).as_micros() as u32,
                covered: world.is_covered(),
                at_rest: world.is_at_rest(),
                fair: world.is_fair(),
            };
            self.course.lock().expect("no panic while locked").0.insert(world.hash_value(), arrow);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Checked<Self>> {
        macro_rules! always {
            ($($property:ident),*) => {
                vec![$(Checked::always(Property::$property.name(), |_, world: &World| {
                    world.violation().is_none_or(|violation| violation.property != Property::$property)
                })),*]
            };
        }
        always!(OneOwner, OneOwnerApart, Silent, Lapsed, Monotone, Gift, Rest)
    }
}

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

impl Course {
    /// The longest way from any fair state to one from which on `well` holds for ever, and where it begins.
    fn recovery(&self, well: impl Fn(&Next) -> bool) -> (Recovery, Option<u64>) {
        #[derive(Clone, Copy)]
        enum Mark {
            OnTheWay,
            Done(Option<u64>),
        }
        let mut marks: HashMap<u64, Mark> = HashMap::with_capacity(self.0.len());
        let mut worst = (Duration::ZERO, None);
        for (begin, next) in &self.0 {
            if !next.fair || marks.contains_key(begin) {
                continue;
            }
            let mut way = Vec::new();
            let mut at = *begin;
            let mut end = loop {
                match (marks.get(&at), self.0.get(&at)) {
                    (Some(Mark::Done(micros)), _) => break *micros,
                    (Some(Mark::OnTheWay), _) => {
                        // A cycle: all is well in it for ever, or never.
                        let cycle = way.iter().position(|state| *state == at).unwrap_or(0);
                        let all_well = way[cycle..].iter().all(|state| well(&self.0[state]));
                        break all_well.then_some(0);
                    }
                    // A violation ends the way.
                    (None, None) => break Some(0),
                    (None, Some(next)) => {
                        marks.insert(at, Mark::OnTheWay);
                        way.push(at);
                        at = next.state;
                    }
                }
            };
            for state in way.into_iter().rev() {
                let next = &self.0[&state];
                end = match end {
                    Some(0) if well(next) => Some(0),
                    Some(micros) => Some(micros + u64::from(next.micros)),
                    None => None,
                };
                marks.insert(state, Mark::Done(end));
                match end {
                    None => return (Recovery::Never, Some(state)),
                    Some(micros) if Duration::from_micros(micros) > worst.0 => {
                        worst = (Duration::from_micros(micros), Some(state));
                    }
                    Some(_) => {}
                }
            }
        }
        (Recovery::Within(worst.0), worst.1)
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
    pub property: &'static str,
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
            write!(f, "  VIOLATES {}", found.property)?;
        }
        Ok(())
    }
}

/// Explores a configuration, but not much more than so many transitions.
pub fn explore(setup: &Setup, transitions_max: usize) -> Report {
    let begin = Instant::now();
    let course = Arc::new(Mutex::new(Course::default()));
    let setup = Arc::new(setup.clone());
    let checker = Exploration { setup: setup.clone(), course: course.clone() }
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(transitions_max)
        .spawn_dfs()
        .join();
    let found = checker.discoveries().into_iter().next();
    let complete = found.is_none() && checker.state_count() < transitions_max;
    let course = std::mem::take(&mut *course.lock().expect("the checker has ended"));
    let (covered, uncovered_from) = course.recovery(|next| next.covered);
    let (at_rest, unrest_from) = course.recovery(|next| next.at_rest);
    let mut counterexample = found.map(|(property, path)| {
        let steps = path.into_vec();
        let start = setup.starts.iter().position(|s| World::new(&setup, s, false) == steps[0].0);
        let choices = steps.into_iter().filter_map(|(_, choice)| choice).collect();
        Counterexample { property, start: start.unwrap_or(0), choices }
    });
    let never = [(covered, uncovered_from, "L1 no orphan"), (at_rest, unrest_from, "L2 balance")];
    for (_, from, property) in never.into_iter().filter(|(recovery, ..)| *recovery == Recovery::Never) {
        counterexample = counterexample.or_else(|| way_to(&setup, from?, property));
    }
    Report {
        name: setup.name,
        states: checker.unique_state_count(),
        transitions: checker.state_count(),
        complete,
        took: begin.elapsed(),
        covered,
        at_rest,
        counterexample,
    }
}

/// Looks for a state again, and follows what happens from there without another fault.
fn way_to(setup: &Arc<Setup>, state: u64, property: &'static str) -> Option<Counterexample> {
    let mut seen = std::collections::HashSet::new();
    let mut stack: Vec<(World, usize, Vec<Choice>)> = Vec::new();
    for (start, starts) in setup.starts.iter().enumerate() {
        stack.push((World::new(setup, starts, false), start, Vec::new()));
    }
    while let Some((world, start, way)) = stack.pop() {
        if world.hash_value() == state {
            let mut choices = way;
            choices.extend([Choice::Go; 80]);
            return Some(Counterexample { property, start, choices });
        }
        if !seen.insert(world.hash_value()) {
            continue;
        }
        let mut choices = Vec::new();
        world.choices(&mut choices);
        for choice in choices {
            let mut way = way.clone();
            way.push(choice);
            stack.push((world.after(choice), start, way));
        }
    }
    None
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
