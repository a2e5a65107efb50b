//! The short configurations, exhaustively; and whether the explorer may be believed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rudel_model::explore::Counterexample;
use rudel_model::judge::Property;
use rudel_model::world::{Choice, World};
use rudel_model::{Budget, Recovery, Setup, configurations, explore, story};

/// Far more than any of them needs: who gets there has a space that does not end.
const TRANSITIONS_MAX: usize = 2_000_000;

#[test]
fn every_short_configuration_holds_in_every_state() {
    let mut failures = Vec::new();
    for setup in configurations::short() {
        let report = explore(&setup, TRANSITIONS_MAX);
        println!("{report}");
        if let Some(found) = &report.counterexample {
            failures.push(format!("{report}\n{}", story(&setup, found).join("\n")));
        } else if !report.complete {
            failures.push(format!("{report}"));
        }
        // L1: T, two exchanges, an interval for each lost word; a start has T to listen besides.
        let limit = Recovery::Within(
            Duration::from_nanos(3 * setup.timeout) + 4 * Duration::from_nanos(setup.interval),
        );
        assert!(within(report.covered, limit), "{report}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn within(recovery: Recovery, limit: Recovery) -> bool {
    match (recovery, limit) {
        (Recovery::Within(span), Recovery::Within(limit)) => span <= limit,
        _ => false,
    }
}

/// Worlds are taken for one if their fingerprints are equal. If that were wrong, parts of the space would be skipped;
/// so everything is done from both, and must lead to worlds that are taken for one again.
#[test]
fn worlds_that_look_alike_behave_alike() {
    let budget = Budget::default();
    let setups = [
        Setup::new("losses", 2, 1, Budget { losses: 2, late: 1, ..budget }),
        Setup::new("hang", 2, 2, Budget { hangs: 1, losses: 1, ..budget }),
        Setup::new("start", 3, 2, Budget { losses: 1, ..budget }).cold(),
        Setup::new("kill", 2, 1, Budget { kills: 1, restarts: 1, ..budget }),
        Setup::new("cut", 2, 1, Budget { cuts: 1, ..budget }),
        Setup::new("leave", 2, 1, Budget { leaves: 1, losses: 2, ..budget }),
        Setup::new("leaves", 3, 2, Budget { leaves: 2, losses: 1, ..budget }),
    ];
    for setup in setups {
        let setup = Arc::new(setup);
        let mut known: HashMap<u64, Vec<(Choice, u64)>> = HashMap::new();
        let mut stack: Vec<World> =
            setup.starts.iter().map(|starts| World::new(&setup, starts, false)).collect();
        let mut twins = 0;
        while let Some(world) = stack.pop() {
            let mut choices = Vec::new();
            world.choices(&mut choices);
            let nexts: Vec<World> = choices.iter().map(|choice| world.after(*choice)).collect();
            let leads: Vec<(Choice, u64)> =
                choices.into_iter().zip(&nexts).map(|(choice, next)| (choice, next.hash_value())).collect();
            if let Some(before) = known.get(&world.hash_value()) {
                twins += 1;
                assert_eq!(*before, leads, "{}: two worlds at {world:?} are not alike", setup.name);
                continue;
            }
            known.insert(world.hash_value(), leads);
            stack.extend(nexts);
        }
        println!("{:<8} {:>6} states, {twins} times met again", setup.name, known.len());
        assert!(twins > 0);
    }
}

/// A story is made by playing the choices again: it must end where the exploration did.
#[test]
fn a_story_tells_what_happened() {
    let setup = Setup::new("a loss", 2, 1, Budget { losses: 1, ..Budget::default() });
    let first = World::new(&Arc::new(setup.clone()), &setup.starts[0], false);
    let mut choices = Vec::new();
    let mut world = first;
    loop {
        let mut possible = Vec::new();
        world.choices(&mut possible);
        let choice = possible[0];
        choices.push(choice);
        world = world.after(choice);
        if choice == Choice::Lose {
            break;
        }
    }
    let lines = story(&setup, &Counterexample { property: Property::Rest, start: 0, choices });
    assert!(lines.iter().any(|line| line.contains("n1 starts in run 1")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("FAULT: ") && line.ends_with("is lost")), "{lines:#?}");
}
