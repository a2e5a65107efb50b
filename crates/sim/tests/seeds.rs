//! Worlds of many seeds: those that once failed, a fixed number that always ran, and some that nobody has seen.

use std::time::{SystemTime, UNIX_EPOCH};

use rudel_sim::{CLASSES, Class};

/// For how many time-outs things go wrong.
const TIMEOUTS: u64 = 40;
const FIXED_SEEDS: u64 = 8;
const FRESH_SEEDS: u64 = 1;

fn play(class: &Class, seed: u64, timeouts: u64) {
    let outcome = class.script(seed, timeouts).play();
    if let Some(violation) = outcome.violation {
        panic!("seed={seed} class={} timeouts={timeouts} {violation}", class.name);
    }
}

#[test]
fn seeds_that_once_failed_pass() {
    for line in include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [class, seed, timeouts, ..] = words[..] else {
            panic!("class, seed, time-outs, why: {line}");
        };
        let class = Class::named(class).expect("a known class");
        play(class, seed.parse().expect("a seed"), timeouts.parse().expect("a number of time-outs"));
    }
}

#[test]
fn fixed_seeds_of_every_class_pass() {
    for class in CLASSES {
        for seed in 0..FIXED_SEEDS {
            play(class, seed, TIMEOUTS);
        }
    }
}

#[test]
fn fresh_seeds_of_every_class_pass() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    for (index, class) in CLASSES.iter().enumerate() {
        for seed in 0..FRESH_SEEDS {
            let seed = now.as_secs() * 1000 + index as u64 * FRESH_SEEDS + seed;
            println!("seed={seed} class={}", class.name);
            play(class, seed, TIMEOUTS);
        }
    }
}

#[test]
fn daemons_that_can_go_on_with_a_run_do() {
    let class = Class::named("resume").expect("a known class");
    let resumed: u64 = (0..4).map(|seed| class.script(seed, TIMEOUTS).play().resumed).sum();
    assert!(resumed >= 4, "{resumed} in four worlds");
}

#[test]
fn a_seed_means_the_same_world_each_time() {
    let class = Class::named("storm").expect("a known class");
    let [first, second] = [(); 2].map(|()| class.script(5, TIMEOUTS).play());
    assert_eq!((first.steps, first.rest_after), (second.steps, second.rest_after));
}
