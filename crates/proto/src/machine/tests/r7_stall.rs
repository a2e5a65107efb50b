//! R7 stall: a node that hung, or that nobody heard, and how it comes back.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::machine::{Action, Command};
use crate::wire::NodeState;

#[test]
fn r7_a_node_that_was_not_scheduled_for_t_prime_owns_nothing_from_then_on() {
    let mut f = Fixture::member_of(&["a", ME]);
    let owned = f.machine.owned().len();
    let effects = f.hang(LEASE + 1);
    assert_eq!(effects, [Action::Own(BucketSet::EMPTY), stalled(owned, LEASE + 1)]);
    assert_eq!(f.machine.state(), NodeState::Active, "it stays a member");
    let said = f.pulses().pop().unwrap();
    assert!(said.late && said.adopted == view_id(1, "a"));
}

#[test]
fn r7_a_stall_is_one_even_if_the_lease_held() {
    // A command comes in after the gap, before any timer: the gap alone counts. The lease is moved far ahead by hand,
    // since in one machine no gap of T' leaves it valid.
    let mut f = Fixture::member_of(&["a", ME]);
    f.machine.lease = f.now + ms(10 * TIMEOUT);
    f.now = f.now + ms(LEASE + 1);
    let effects = f.command(Command::Weight(100));
    assert_eq!(effects[0], Action::Own(BucketSet::EMPTY));
}

#[test]
fn r7_it_gains_again_in_the_same_view_once_everyone_acknowledges_a_later_pulse() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let (before, given) = (f.last_pulse(), f.given());
    f.hang(LEASE + 1);
    assert_ne!(f.last_pulse(), before, "it pulses when it wakes");
    // Nobody has been heard within T but a: its answer to a pulse from before the hang proves nothing.
    let old = echoing(before);
    assert_eq!(f.hear("a", &old), []);
    assert_eq!(f.hear("b", |_| {}), [], "a has acknowledged nothing yet that was sent after the lapse");
    f.pass(10);
    f.hear("a", |_| {});
    f.pass(INTERVAL);
    f.hear("a", |_| {});
    let effects = f.hear("b", |_| {});
    assert!(f.machine.owned() == given, "{effects:?}");
    assert_eq!(f.machine.view().map(|view| view.id.epoch), Some(1), "in the same view");
}

#[test]
fn r7_one_acknowledgement_of_many_is_not_enough() {
    // The word of b is fresh, but older than the stall.
    let mut f = Fixture::member_of(&["a", "b", ME]);
    f.hear("a", |_| {});
    f.hear("b", |_| {});
    f.command(Command::Connected(false));
    f.command(Command::Connected(true));
    f.pass(INTERVAL);
    assert_eq!(f.hear("a", |_| {}), []);
    assert_eq!(f.hear("b", |_| {})[0], Action::Own(f.given()));
}

#[test]
fn r7_an_echo_from_before_the_lapse_does_not_count() {
    let mut f = Fixture::member_of(&["a", ME]);
    let before = f.last_pulse();
    f.hang(LEASE + 1);
    let old = echoing(before);
    assert_eq!(f.hear("a", &old), [], "a proves only that it hung less than T ago");
    assert_eq!(f.machine.owned(), BucketSet::EMPTY);
}

#[test]
fn r7_with_nobody_there_it_gains_after_listening_for_t() {
    let mut f = Fixture::member_of(&[ME]);
    f.hang(895);
    assert_eq!(f.machine.owned(), BucketSet::EMPTY);
    f.pass(TIMEOUT - 1);
    assert_eq!(f.owns(), [], "whoever took over meanwhile must have a chance to be heard");
    f.pass(1);
    assert_eq!(f.owns(), [BucketSet::ALL]);
}

#[test]
fn r7_a_node_late_by_more_than_half_an_interval_marks_its_pulses_late_for_t() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.hang(INTERVAL + INTERVAL / 2);
    assert!(!f.pulses().pop().unwrap().late, "exactly half");
    f.run(200, &["a"]);
    let woken = f.last_pulse_at();
    f.now = woken;
    f.hang(INTERVAL + INTERVAL / 2 + 1);
    assert!(f.pulses().pop().unwrap().late);
    f.run(350, &["a"]);
    assert!(f.pulses().iter().all(|pulse| pulse.late));
    f.run(100, &["a"]);
    assert!(!f.pulses().pop().unwrap().late);
}

#[test]
fn r7_a_node_without_links_owns_nothing_until_one_returns() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(Command::Connected(false));
    assert_eq!(f.run(350, &["a"]), []);
    assert!(!f.pulses().pop().unwrap().healthy);
    assert_eq!(f.machine.owned(), BucketSet::EMPTY);
    f.command(Command::Connected(true));
    assert_eq!(f.machine.owned(), BucketSet::EMPTY, "as after a stall");
    f.run(100, &["a"]);
    assert_eq!(f.machine.owned(), f.given());
}
