//! R1 adopt, R2 retain, and the promise.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::event::Event;
use crate::id::{Incarnation, ViewId};
use crate::machine::Action;
use crate::wire::{Message, NodeState};

#[test]
fn r1_the_highest_view_heard_of_is_adopted() {
    let mut f = Fixture::member_of(&["a", ME]);
    let (second, third) = (view(2, "a", &["a", ME]), view(3, "a", &["a", ME]));
    assert_eq!(f.hear_view("a", &third), [adopted(&third, 0)]);
    assert_eq!(f.hear_view("a", &second), []);
    assert_eq!(f.machine.view(), Some(&third));
}

#[test]
fn r1_a_view_below_the_promise_is_not_adopted() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let (second, third) = (view(2, "a", &["a", "b", ME]), view(3, "b", &["a", "b", ME]));
    // The identity of the third view comes before any body.
    f.hear("b", |pulse| pulse.promise = third.id);
    assert_eq!(f.hear_view("a", &second), []);
    assert_eq!(f.machine.view().map(|view| view.id.epoch), Some(1));
    assert_eq!(f.hear_view("b", &third), [adopted(&third, 0)]);
}

#[test]
fn r1_the_promise_is_the_highest_view_heard_of() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let promise = |f: &Fixture| f.machine.status(f.now).promise.epoch;
    f.hear("a", |pulse| pulse.adopted = view_id(2, "a"));
    assert_eq!(promise(&f), 2, "adopted by a peer");
    f.hear("a", |pulse| pulse.promise = view_id(3, "a"));
    assert_eq!(promise(&f), 3, "promised by a peer");
    f.hear_view("a", &view(4, "a", &["a", "b"]));
    assert_eq!(promise(&f), 4, "a body, whether it names this node or not");
    f.hear("a", |pulse| pulse.promise = view_id(2, "a"));
    assert_eq!(promise(&f), 4, "never lowered");
}

#[test]
fn r1_a_view_that_names_another_run_is_not_adopted() {
    let mut f = Fixture::member_of(&["a", ME]);
    let mut other = view(2, "a", &["a", ME]);
    for member in other.members.iter_mut().filter(|member| member.identity.id == id(ME)) {
        member.identity.incarnation = Incarnation(9);
    }
    assert_eq!(f.hear_view("a", &other), []);
    assert_eq!(f.machine.view().map(|view| view.id.epoch), Some(1));
}

#[test]
fn r1_what_the_view_does_not_give_is_given_up_in_the_kernel_before_it_is_said() {
    let mut f = Fixture::member_of(&["a", ME]);
    let second = give(view(2, "a", &["a", ME]), "a", 0..=127);
    let kept = second.owned_by(id(ME));
    f.hear_view("a", &second);
    let order: Vec<&Action> = f.log.iter().filter(|action| !matches!(action, Action::Lease(_))).collect();
    let [own, event, Action::Send { message: Message::Pulse(pulse), .. }] = order[..] else {
        panic!("{order:?}");
    };
    assert_eq!(own, &Action::Own(kept));
    assert_eq!(event, &adopted(&second, 64));
    assert_eq!((pulse.adopted, pulse.settled), (second.id, true));
}

#[test]
fn r1_a_node_left_out_by_a_settled_peer_gives_everything_up_and_joins() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let without = view(2, "a", &["a", "b"]);
    assert_eq!(f.hear_view("a", &without), [], "the view alone says nothing about who follows it");
    assert_eq!(
        f.hear("a", settled_in(without.id)),
        [
            Action::Own(BucketSet::EMPTY),
            Action::Event(Event::LeftOut { view: without.id }),
            state(NodeState::Joining, "left out of a later view"),
        ]
    );
    assert_eq!(f.machine.view(), None);
    let said = f.pulses().pop().expect("it says so at once");
    assert_eq!((said.state, said.adopted), (NodeState::Joining, ViewId::NONE));
}

#[test]
fn r1_only_a_heard_and_settled_peer_in_a_higher_view_leaves_a_node_out() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let without = view(2, "a", &["a", "b"]);
    f.hear_view("a", &without);
    let unsettled = f.hear("a", |pulse| {
        settled_in(without.id)(pulse);
        pulse.settled = false;
    });
    assert_eq!(unsettled, []);
    let unproven = f.hear("a", |pulse| {
        settled_in(without.id)(pulse);
        deaf(pulse);
    });
    assert_eq!(unproven, []);
    // A view that is not higher than its own.
    let mut f = Fixture::member_of(&["a", "b", ME]);
    f.hear_view("b", &view(3, "b", &["a", "b", ME]));
    f.hear_view("a", &without);
    assert_eq!(f.hear("a", settled_in(without.id)), []);
}

#[test]
fn r1_a_left_out_node_is_in_debt_to_its_former_view() {
    // Its view names b, which it has never heard.
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear_view("a", &view(2, "a", &["a", "b", ME]));
    let without = view(3, "a", &["a", "b"]);
    f.hear_view("a", &without);
    f.hear("a", settled_in(without.id));
    // It comes back into a view that no longer names b.
    let again = view(4, "a", &["a", ME]);
    f.hear_view("a", &again);
    assert_eq!(f.hear("a", settled_in(again.id)), []);
    assert!(!f.machine.is_settled(), "b may still own what the second view gave it");
}

#[test]
fn r2_what_the_view_still_gives_is_owned_without_a_gap() {
    let mut f = Fixture::member_of(&["a", ME]);
    let same = view(2, "a", &["a", ME]);
    f.hear_view("a", &same);
    assert_eq!(f.owns(), [], "the kernel is not touched");

    let (before, mut fewer) = (f.machine.owned(), view(3, "a", &["a", ME]));
    fewer = give(fewer, "a", [1, 3]);
    f.hear_view("a", &fewer);
    let [owned] = f.owns()[..] else { panic!("{:?}", f.owns()) };
    assert_eq!(before - owned, BucketSet::from_iter([1, 3]), "at once the rest, never less");
}

#[test]
fn r2_what_it_owns_stays_while_it_waits_for_more() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let more = give(view(2, "a", &["a", "b", ME]), ME, 0..=99);
    let before = f.machine.owned();
    f.hear_view("a", &more);
    // b does not settle, for as long as it is the turn of a and b to do something about it.
    let old = view_id(1, "a");
    let effects = f.run_saying(2 * TIMEOUT - 100, &["a", "b"], |name, pulse| {
        settled_in(if name == "a" { more.id } else { old })(pulse);
    });
    assert_eq!(effects, []);
    assert_eq!(f.machine.owned(), before);
}
