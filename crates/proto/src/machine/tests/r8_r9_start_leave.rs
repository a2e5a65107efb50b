//! R8 start and R9 leave.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::id::{Incarnation, ViewId};
use crate::machine::{Action, Command};
use crate::view::Reason;
use crate::wire::{NodeState, Pulse};

fn goodbyes(pulses: &[Pulse]) -> usize {
    pulses.iter().filter(|pulse| pulse.gone).count()
}

#[test]
fn r8_a_starting_node_listens_for_t_then_forms_a_view_of_its_own() {
    let mut f = Fixture::new(1);
    assert_eq!(f.pass(TIMEOUT - 1), []);
    assert_eq!(f.machine.state(), NodeState::Listening);
    let effects = f.pass(1);
    let own = f.machine.view().cloned().expect("a view of its own");
    assert_eq!((own.id, own.reason), (view_id(1, ME), Reason::Start));
    assert_eq!(
        effects,
        [
            state(NodeState::Joining, "heard nobody"),
            adopted(&own, 256),
            state(NodeState::Active, "named by a view"),
            Action::Own(BucketSet::ALL),
            gained(256, 0),
        ]
    );
}

#[test]
fn r8_it_joins_at_once_if_it_hears_somebody() {
    let mut f = Fixture::new(1);
    f.pass(10);
    f.hear("a", deaf);
    assert_eq!(
        f.machine.state(),
        NodeState::Listening,
        "unproven: it is answered and counts for nothing else"
    );
    assert_eq!(f.hear("a", |_| {}), [state(NodeState::Joining, "heard other nodes")]);
    assert_eq!(f.pulses().pop().unwrap().state, NodeState::Joining, "said at once");
}

#[test]
fn r8_a_stall_while_listening_starts_it_again() {
    let mut f = Fixture::new(1);
    f.pass(10);
    // Asleep for longer than T: it has not listened.
    f.hang(900);
    assert_eq!(f.machine.state(), NodeState::Listening);
    f.pass(TIMEOUT - 1);
    assert_eq!(f.machine.state(), NodeState::Listening);
    f.pass(1);
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn r8_a_stall_while_waiting_once_more_starts_listening_again_too() {
    let mut f = Fixture::new(1);
    f.pass(TIMEOUT - 1);
    // The first word of a node that has just started; it will listen, hear nobody, and take everything meanwhile.
    f.hear("a", deaf);
    f.pass(1);
    assert_eq!(f.machine.state(), NodeState::Joining);
    f.hang(520);
    assert_eq!(
        (f.views(), f.machine.view()),
        (vec![], None),
        "what it would have heard is still in its sockets"
    );
    f.pass(TIMEOUT - 1);
    assert_eq!(f.machine.view(), None);
}

#[test]
fn r8_who_heard_somebody_that_does_not_answer_waits_once_more() {
    let mut f = Fixture::new(1);
    f.hear("a", deaf);
    f.pass(2 * TIMEOUT - 1);
    assert_eq!(f.views(), [], "perhaps a recording, perhaps a node that is about to answer");
    f.pass(1);
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn r5_a_node_that_hears_its_own_name_with_a_higher_incarnation_takes_a_higher_one() {
    let mut f = Fixture::new(1);
    let effects = f.hear("a", |pulse| {
        let mut mine = entry(ME, 99, 3_000);
        mine.identity.incarnation = Incarnation(41);
        pulse.heard = vec![mine];
    });
    // With its own lower bits: 42 may have been a run too, of which this is a recording.
    let higher = Incarnation((1 << Incarnation::CHANCE_BITS) + RUN.0);
    assert_eq!(effects, [Action::Incarnation(higher)]);
    assert_eq!(f.machine.me().incarnation, higher);
    // In a view too.
    let mut other = view(3, "a", &["a", "b"]);
    for member in other.members.iter_mut().filter(|member| member.identity.id == id("b")) {
        *member = crate::view::Member {
            identity: crate::id::Identity { id: id(ME), incarnation: Incarnation(higher.0 + 1) },
            ..*member
        };
    }
    other.owners = [Some(id("a")); 256];
    other.members.sort_unstable_by_key(|member| member.identity.id);
    f.pass(INTERVAL);
    f.hear("a", |_| {});
    assert_eq!(
        f.hear_view("a", &other),
        [Action::Incarnation(Incarnation((2 << Incarnation::CHANCE_BITS) + RUN.0))]
    );
}

#[test]
fn r8_a_member_keeps_its_incarnation() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear("a", |pulse| {
        let mut mine = entry(ME, 99, 3_000);
        mine.identity.incarnation = Incarnation(41);
        pulse.heard.push(mine);
    });
    assert_eq!(f.machine.me().incarnation, RUN);
}

#[test]
fn r9_a_leaver_says_so_and_stays_until_its_buckets_are_taken() {
    let mut f = Fixture::member_of(&["a", ME]);
    assert_eq!(f.command(Command::Leave), [state(NodeState::Leaving, "asked to leave")]);
    assert_eq!(f.pulses().pop().unwrap().state, NodeState::Leaving);
    assert_eq!(f.run(500, &["a"]), [], "it serves on while a has not made a view");
    let second = give(view(2, "a", &["a", ME]), "a", 0..=255);
    let effects = f.hear_view("a", &second);
    assert_eq!(effects, [Action::Own(BucketSet::EMPTY), adopted(&second, 128)]);
    assert_eq!(goodbyes(&f.pulses()), 1, "once it owns nothing it says good-bye");
}

#[test]
fn r9_a_leaver_gets_no_buckets_in_the_next_view() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.state = NodeState::Leaving);
    let view = f.views().pop().expect("a view");
    assert_eq!((view.owned_by(id(ME)).len(), view.owned_by(id("x")).len()), (256, 0));
    assert!(view.names(identity("x")), "it stays a member until it has gone");
}

#[test]
fn r9_good_bye_is_said_three_times_and_then_the_node_ends() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear_view("a", &give(view(2, "a", &["a", ME]), "a", 0..=255));
    f.command(Command::Leave);
    let mut said = goodbyes(&f.pulses());
    let effects = f.pass(INTERVAL);
    said += goodbyes(&f.pulses());
    assert_eq!(effects, [Action::Stopped]);
    assert!(said >= 3, "{said}");
    assert_eq!(f.machine.next_timeout(), None);
    assert_eq!(f.hear("a", |_| {}), []);
    assert_eq!(f.log, [], "nothing follows");
}

#[test]
fn r9_what_it_owns_is_given_up_before_the_good_bye() {
    let mut f = Fixture::member_of(&[ME]);
    f.command(Command::Leave);
    f.pass(INTERVAL);
    let own = f.log.iter().position(|action| *action == Action::Own(BucketSet::EMPTY)).unwrap();
    let is_goodbye = |action: &Action| matches!(action, Action::Send { message: crate::wire::Message::Pulse(pulse), .. } if pulse.gone);
    assert!(own < f.log.iter().position(is_goodbye).unwrap());
}

#[test]
fn r9_a_node_that_owns_nothing_leaves_at_once() {
    let mut f = Fixture::new(1);
    f.command(Command::Leave);
    assert_eq!(goodbyes(&f.pulses()), 1);
}

#[test]
fn r9_where_nobody_could_take_its_buckets_it_leaves_after_one_interval() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.cut = true);
    let second = f.views().pop().unwrap();
    f.claimed = second.id;
    f.hear("x", |pulse| pulse.cut = true);
    assert_eq!(f.machine.owned(), BucketSet::ALL);
    f.command(Command::Leave);
    assert_eq!(goodbyes(&f.pulses()), 0);
    f.pass(INTERVAL - 1);
    assert_eq!(goodbyes(&f.pulses()), 0);
    f.pass(1);
    assert_eq!(f.owns(), [BucketSet::EMPTY]);
    assert!(goodbyes(&f.pulses()) > 0);
}

#[test]
fn r9_a_leaver_does_not_wait_for_ever() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(Command::Leave);
    f.run(5 * TIMEOUT, &["a"]);
    assert_eq!(f.owns(), [BucketSet::EMPTY], "a is heard, but never makes a view");
}

#[test]
fn r9_a_good_bye_ends_a_run_at_once_and_needs_no_echo() {
    // The parent of a dead daemon hears nobody; its good-bye comes with a reserved number far ahead.
    let mut f = Fixture::member_of(&[ME, "x"]);
    let mut sender = f.sender("x");
    sender.sequence += 1 << 40;
    let mut pulse = f.pulse_of("x");
    pulse.gone = true;
    deaf(&mut pulse);
    let (result, _) = f.receive(&sender, crate::wire::Message::Pulse(pulse));
    assert_eq!(result, Ok(()));
    let view = f.views().pop().expect("a view without x");
    assert_eq!(view.reason, Reason::Left);
    assert_eq!(f.machine.owned(), BucketSet::ALL);
}

#[test]
fn r9_who_has_gone_coordinates_no_more() {
    // The lowest node's daemon died, and its last word was that it is active.
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear("a", |_| {});
    f.hear("a", |pulse| {
        pulse.gone = true;
        deaf(pulse);
    });
    assert_eq!(f.views().len(), 1, "it is this node's turn at once");
}

#[test]
fn r9_after_a_good_bye_that_run_is_heard_no_more() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.gone = true);
    f.run(200, &["x"]);
    assert_eq!(f.machine.view().map(|view| view.members.len()), Some(1));
    // A later run is welcome.
    f.restart("x");
    f.hear("x", joining(ViewId::NONE));
    f.pass(INTERVAL);
    assert_eq!(f.machine.view().map(|view| view.members.len()), Some(2));
}
