//! R6.5: when health takes a share away, and when it does not.
//!
//! The machine's name is the lowest, so that it is the one to make views.

use super::fixture::*;
use crate::machine::{Action, Command};
use crate::view::View;
use crate::wire::{Checkup, NodeState, Pulse};

const NONE: [u32; 0] = [];

/// A word on health checks: the verdict and the last answers as `+` or `-`, the examination called, the one answered.
fn checkup(verdict_and_last: &str, called: u32, answered: u32) -> Checkup {
    let mut signs = verdict_and_last.chars().map(|sign| sign == '+');
    let (good, last_good) = (signs.next().unwrap(), signs.next().unwrap());
    Checkup { good, last_good, called, answered }
}

fn saying(checkup: Checkup) -> impl Fn(&mut Pulse) {
    move |pulse| pulse.checkup = checkup
}

fn checked(verdict_and_last: &str, answered: u32) -> Command {
    let Checkup { good, last_good, .. } = checkup(verdict_and_last, 0, 0);
    Command::Checked { good, last_good, answered }
}

/// The machine, n and x, with equal shares.
fn three() -> Fixture {
    let f = Fixture::member_of(&[ME, "n", "x"]);
    assert_eq!(shares(&f), [86, 85, 85]);
    f
}

fn shares(f: &Fixture) -> [usize; 3] {
    [ME, "n", "x"].map(|name| f.machine.view().unwrap().owned_by(id(name)).len())
}

fn made(f: &Fixture) -> View {
    let views = f.views();
    let [view] = &views[..] else { panic!("one view was to be made: {:?}", f.log) };
    view.clone()
}

fn examinations(actions: &[Action]) -> Vec<u32> {
    let number = |action: &Action| match action {
        Action::Examine(number) => Some(*number),
        _ => None,
    };
    actions.iter().filter_map(number).collect()
}

#[test]
fn r6_a_verdict_that_changes_calls_an_examination_and_every_node_answers_it_once() {
    let mut f = three();
    assert_eq!(examinations(&f.hear("x", saying(checkup("--", 7, 3)))), [7], "of another's verdict");
    assert_eq!(examinations(&f.hear("x", saying(checkup("--", 7, 7)))), NONE, "once");
    assert_eq!(examinations(&f.hear("n", saying(checkup("++", 0, 7)))), NONE, "nor for those who answer it");
    assert_eq!(examinations(&f.command(checked("+-", 7))), NONE, "a bad answer alone is no verdict");
    assert_eq!(examinations(&f.command(checked("--", 7))), [8], "one above the highest heard of");
    assert_eq!(f.pulses()[0].checkup, checkup("--", 8, 7), "and it says so at once");
    assert_eq!(examinations(&f.command(checked("--", 8))), NONE);
    assert_eq!(examinations(&f.command(checked("++", 8))), [9], "a good verdict is one too");
    f.hear("n", saying(checkup("++", 0, 40)));
    assert_eq!(examinations(&f.log), [40], "who has not heard the caller hears of it from who answered");
}

#[test]
fn r6_a_failing_check_takes_a_share_away_as_soon_as_another_node_refutes_that_it_fails_everywhere() {
    // By the machine itself.
    let mut f = three();
    f.hear("x", saying(checkup("--", 1, 0)));
    assert_eq!(f.views(), [], "this node's last answer is older than that");
    f.command(checked("++", 1));
    let view = made(&f);
    assert_eq!([ME, "n", "x"].map(|name| view.owned_by(id(name)).len()), [128, 128, 0]);
    // By another.
    let mut f = three();
    f.hear("x", saying(checkup("--", 1, 0)));
    f.hear("n", saying(checkup("++", 0, 0)));
    assert_eq!(f.views(), [], "n may not have heard of it");
    f.hear("n", saying(checkup("++", 0, 1)));
    assert_eq!(made(&f).owned_by(id("x")).len(), 0);
    // The machine's own share.
    let mut f = three();
    f.command(checked("--", 0));
    f.hear("n", saying(checkup("++", 0, 1)));
    assert_eq!(made(&f).owned_by(id(ME)).len(), 0);
}

#[test]
fn r6_a_check_that_fails_everywhere_moves_nothing_however_late_the_verdicts_come() {
    let mut f = three();
    let before = f.machine.view().cloned();
    let moved =
        |f: &Fixture| (!f.views().is_empty() || f.machine.view() != before.as_ref()).then(|| f.log.clone());
    f.hear("x", saying(checkup("--", 1, 0)));
    assert_eq!(moved(&f), None);
    // The others are asked again, and find that they have no good answer either.
    f.command(checked("+-", 1));
    assert_eq!(moved(&f), None);
    f.hear("n", saying(checkup("+-", 0, 1)));
    assert_eq!(moved(&f), None);
    f.hear("n", saying(checkup("--", 2, 1)));
    assert_eq!(moved(&f), None);
    f.command(checked("--", 1));
    assert_eq!(moved(&f), None, "nobody is left who could");
    f.hear("x", saying(checkup("--", 1, 3)));
    f.hear("n", saying(checkup("--", 2, 3)));
    f.command(checked("--", 3));
    f.run_saying(5 * TIMEOUT, &["n", "x"], |name, pulse| {
        pulse.checkup = checkup("--", if name == "n" { 2 } else { 1 }, 3);
    });
    assert_eq!(moved(&f), None);
}

/// Three nodes whose checks have failed and whose shares have stayed.
fn all_bad() -> Fixture {
    let mut f = three();
    f.hear("x", saying(checkup("--", 1, 0)));
    f.hear("n", saying(checkup("--", 2, 1)));
    f.command(checked("--", 2));
    f.hear("x", saying(checkup("--", 1, 3)));
    f.hear("n", saying(checkup("--", 2, 3)));
    f.command(checked("--", 3));
    assert_eq!((shares(&f), f.machine.view().unwrap().id.epoch), ([86, 85, 85], 1));
    f
}

#[test]
fn r6_what_failed_everywhere_moves_nothing_when_it_comes_back() {
    let mut f = all_bad();
    f.hear("x", saying(checkup("++", 4, 3)));
    assert_eq!(f.views(), [], "the others may not have been asked since");
    f.command(checked("-+", 4));
    assert_eq!(f.views(), [], "this node's server is back, though its verdict is not");
    f.hear("n", saying(checkup("-+", 2, 4)));
    assert_eq!(f.views(), []);
    f.hear("n", saying(checkup("++", 5, 4)));
    f.command(checked("++", 4));
    assert_eq!((f.views(), shares(&f)), (vec![], [86, 85, 85]));
}

#[test]
fn r6_what_failed_everywhere_and_comes_back_in_one_place_goes_there() {
    let mut f = all_bad();
    f.hear("x", saying(checkup("++", 4, 4)));
    assert_eq!(f.views(), []);
    f.hear("n", saying(checkup("--", 2, 4)));
    let view = made(&f);
    assert_eq!([ME, "n", "x"].map(|name| view.owned_by(id(name)).len()), [128, 0, 128], "n was asked since");
    f.command(checked("--", 4));
    assert_eq!(made(&f).owned_by(id("x")).len(), 256);
}

#[test]
fn r6_who_could_not_take_over_refutes_nothing() {
    let good = checkup("++", 0, 1);
    for spoil in [
        (|pulse| pulse.state = NodeState::Draining) as fn(&mut Pulse),
        |pulse| pulse.weight = 0,
        |pulse| pulse.healthy = false,
        |pulse| pulse.cut = true,
        |pulse| pulse.checkup.last_good = false,
        |pulse| pulse.checkup.answered = 0,
    ] {
        let mut f = three();
        let spoiled = |pulse: &mut Pulse| {
            pulse.checkup = good;
            spoil(pulse);
        };
        f.hear("n", spoiled);
        f.hear("x", saying(checkup("--", 1, 0)));
        f.command(checked("+-", 1));
        f.hear("n", spoiled);
        let x = f.machine.view().unwrap().member(identity("x")).unwrap().weight;
        assert_eq!(x, 100, "{:?}", f.log);
        f.hear("n", saying(good));
        assert_eq!(made(&f).owned_by(id("x")).len(), 0, "and who could does");
    }
}

#[test]
fn r6_links_are_no_matter_of_examinations() {
    let mut f = three();
    f.hear("x", |pulse| pulse.healthy = false);
    assert_eq!(made(&f).owned_by(id("x")).len(), 0, "at once");
    let mut f = all_bad();
    f.hear("x", |pulse| {
        pulse.checkup = checkup("--", 1, 3);
        pulse.cut = true;
        pulse.healthy = false;
    });
    assert_eq!(made(&f).owned_by(id("x")).len(), 0, "nobody is healthy, but x has not even a link");
}

#[test]
fn r6_who_fails_and_has_no_share_gets_none_while_somebody_is_healthy() {
    let mut f = Fixture::member_of(&[ME, "n"]);
    let newcomer = |pulse: &mut Pulse| {
        joining(view_id(1, "n"))(pulse);
        pulse.checkup = checkup("--", 1, 0);
    };
    f.hear("x", newcomer);
    f.pass(INTERVAL);
    let view = made(&f);
    assert_eq!(names_in(&view, &[ME, "n", "x"]).len(), 3);
    assert_eq!(view.owned_by(id("x")).len(), 0, "without anybody's word");
    f.claimed = view.id;
    f.run_saying(2 * INTERVAL, &["n", "x"], |name, pulse| {
        if name == "x" {
            pulse.checkup = checkup("--", 1, 0);
        }
    });
    f.hear("x", saying(checkup("++", 2, 1)));
    assert_eq!(made(&f).owned_by(id("x")).len(), 85);
}

#[test]
fn r6_a_share_that_was_taken_away_comes_back_when_nobody_is_healthy_any_more() {
    let mut f = three();
    f.hear("x", saying(checkup("--", 1, 1)));
    f.command(checked("++", 1));
    f.claimed = made(&f).id;
    f.hear("n", saying(checkup("--", 2, 2)));
    f.command(checked("+-", 2));
    assert_eq!((f.views(), shares(&f)), (vec![], [128, 128, 0]), "nobody refutes n");
    f.command(checked("--", 2));
    assert_eq!(made(&f).owned_by(id("x")).len(), 85, "and nobody's health counts");
}

#[test]
fn r6_who_has_a_share_does_not_lose_it_before_it_has_been_asked() {
    let mut f = three();
    f.command(checked("++", 5));
    f.hear("x", saying(checkup("-+", 1, 5)));
    assert_eq!((f.views(), shares(&f)), (vec![], [86, 85, 85]), "no answer is no bad one");
    f.hear("x", saying(checkup("--", 1, 5)));
    assert_eq!(made(&f).owned_by(id("x")).len(), 0);
}
