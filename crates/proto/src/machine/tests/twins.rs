//! Two machines with one node's name (R5): the newcomer yields, nobody else is disturbed.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::event::Event;
use crate::id::{Identity, Incarnation, ViewId};
use crate::machine::{Action, Command};
use crate::seal::{Rejection, Sender};
use crate::wire::{Heard, Message, NodeState, Pulse};

const OTHER_HOST: u64 = 77;

/// What a second machine of the name `name` says in run `incarnation`.
fn twin(f: &mut Fixture, name: &str, incarnation: u64, state: NodeState) -> (Sender, Pulse) {
    let mut sender = f.sender(name);
    sender.incarnation = Incarnation(incarnation);
    let mut pulse = f.pulse_of(name);
    pulse.heard.retain(|entry| entry.identity.id != id(ME));
    pulse.heard.push(Heard { identity: f.machine.me(), ..entry(ME, f.last_pulse(), 0) });
    pulse.host = OTHER_HOST;
    pulse.state = state;
    if state.owns_nothing() {
        pulse.adopted = ViewId::NONE;
        pulse.settled = false;
    }
    (sender, pulse)
}

fn hear_twin(
    f: &mut Fixture,
    name: &str,
    incarnation: u64,
    state: NodeState,
) -> (Result<(), Rejection>, Vec<Action>) {
    let (sender, pulse) = twin(f, name, incarnation, state);
    f.receive(&sender, Message::Pulse(pulse))
}

fn duplicate() -> Result<(), Rejection> {
    Err(Rejection::DuplicateName { name: ME.into() })
}

#[test]
fn r5_a_starting_node_that_hears_its_own_name_alive_elsewhere_is_fenced() {
    let mut f = Fixture::new(1);
    let (result, effects) = hear_twin(&mut f, ME, 5, NodeState::Active);
    assert_eq!(result, duplicate());
    assert_eq!(
        effects,
        [
            state(NodeState::Fenced, "another machine has this node's name"),
            Action::Event(Event::Duplicate { fenced: true }),
        ]
    );
    // It stays so, says so once, and takes no part, whoever else may be there.
    for _ in 0..20 {
        assert_eq!(hear_twin(&mut f, ME, 5, NodeState::Active), (duplicate(), vec![]));
        f.run(50, &["a"]);
        assert_eq!((f.views(), f.owns()), (vec![], vec![]));
    }
    assert_eq!(f.machine.state(), NodeState::Fenced);
}

#[test]
fn r5_a_running_node_is_not_affected_by_a_newcomer_of_its_name() {
    for incarnation in [5, 10, 15] {
        let mut f = Fixture::member_of(&["a", ME]);
        let owned = f.machine.owned();
        let (result, effects) = hear_twin(&mut f, ME, incarnation, NodeState::Listening);
        assert_eq!(result, duplicate());
        assert_eq!(effects, [Action::Event(Event::Duplicate { fenced: false })], "people are told");
        assert_eq!(hear_twin(&mut f, ME, incarnation, NodeState::Joining).1, [], "once");
        assert_eq!((f.machine.owned(), f.machine.me()), (owned, identity(ME)));
    }
}

#[test]
fn r5_a_running_node_answers_its_twin_so_that_the_twin_can_yield() {
    let mut f = Fixture::member_of(&["a", ME]);
    let _ = hear_twin(&mut f, ME, 15, NodeState::Listening);
    f.pass(INTERVAL);
    let table = f.pulses().pop().unwrap().heard;
    let twin = Identity { id: id(ME), incarnation: Incarnation(15) };
    assert!(table.iter().any(|entry| entry.identity == twin && !entry.proven));
}

#[test]
fn r5_of_two_that_serve_the_later_run_yields() {
    // A network that fell apart heals: both have been in views of their own.
    for (incarnation, fenced) in [(5, false), (15, true)] {
        let mut f = Fixture::member_of(&["a", ME]);
        let _ = hear_twin(&mut f, ME, incarnation, NodeState::Active);
        // The machine that yields is the one whose run began earlier in number: exactly one of the two.
        let yields = f.machine.state() == NodeState::Fenced;
        assert_eq!(yields, fenced, "against run {incarnation}");
        assert_eq!(f.machine.owned().is_empty(), yields);
        if yields {
            assert_eq!(f.owns(), [BucketSet::EMPTY]);
        }
    }
}

#[test]
fn r5_of_two_that_start_exactly_one_yields() {
    for (incarnation, fenced) in [(5, true), (15, false)] {
        let mut f = Fixture::new(1);
        let _ = hear_twin(&mut f, ME, incarnation, NodeState::Listening);
        assert_eq!(f.machine.state() == NodeState::Fenced, fenced, "against run {incarnation}");
    }
}

#[test]
fn r5_a_twin_that_does_not_echo_changes_nothing() {
    let mut f = Fixture::new(1);
    let (sender, mut pulse) = twin(&mut f, ME, 5, NodeState::Active);
    deaf(&mut pulse);
    assert_eq!(f.receive(&sender, Message::Pulse(pulse)), (Ok(()), vec![]), "perhaps a recording");
    assert_eq!(f.machine.state(), NodeState::Listening);
}

#[test]
fn r5_a_fenced_node_listens_again_when_its_twin_is_silent() {
    let mut f = Fixture::new(1);
    let _ = hear_twin(&mut f, ME, 5, NodeState::Active);
    f.pass(4 * TIMEOUT - 1);
    assert_eq!(f.machine.state(), NodeState::Fenced);
    f.pass(1);
    assert_eq!(f.machine.state(), NodeState::Listening);
    f.pass(TIMEOUT);
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn r5_recordings_of_the_other_machine_keep_nobody_fenced() {
    let mut f = Fixture::new(1);
    let _ = hear_twin(&mut f, ME, 5, NodeState::Active);
    let (sender, mut recorded) = twin(&mut f, ME, 5, NodeState::Active);
    deaf(&mut recorded);
    let run = |f: &mut Fixture, millis| {
        for _ in 0..millis / INTERVAL {
            assert_eq!(f.receive(&sender, Message::Pulse(recorded.clone())).0, Ok(()));
            f.pass(INTERVAL);
        }
    };
    run(&mut f, 4 * TIMEOUT - INTERVAL);
    assert_eq!(f.machine.state(), NodeState::Fenced);
    run(&mut f, INTERVAL);
    assert_eq!(f.machine.state(), NodeState::Listening);
    run(&mut f, TIMEOUT);
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn r5_third_nodes_reject_the_second_machine() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    for state in [NodeState::Listening, NodeState::Fenced, NodeState::Active] {
        let (result, effects) = hear_twin(&mut f, "x", 15, state);
        assert_eq!(result, Err(Rejection::DuplicateName { name: "x".into() }));
        assert_eq!((effects, f.views()), (vec![], vec![]), "{state:?}");
    }
    let (sender, mut pulse) = twin(&mut f, "x", 15, NodeState::Leaving);
    pulse.gone = true;
    assert!(f.receive(&sender, Message::Pulse(pulse)).0.is_err(), "its good-bye ends nobody's run");
    assert_eq!(f.views(), []);
    assert_eq!(f.machine.view().map(|view| view.members.len()), Some(2));
}

#[test]
fn r5_another_machine_may_take_over_the_name_of_a_dead_one() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.pass(TIMEOUT);
    assert_eq!(f.machine.view().map(|view| view.members.len()), Some(1));
    let (result, _) = hear_twin(&mut f, "x", 11, NodeState::Joining);
    assert_eq!(result, Ok(()));
    f.pass(INTERVAL);
    assert_eq!(f.machine.view().map(|view| view.members.len()), Some(2));
}

#[test]
fn r5_a_fenced_node_gives_the_name_free_to_the_machine_that_runs_under_it() {
    // This node started together with the second machine and has met that one first.
    let mut f = Fixture::new(1);
    assert_eq!(hear_twin(&mut f, "x", 15, NodeState::Listening).0, Ok(()));
    f.pass(10);
    assert!(f.try_hear("x", |_| {}).0.is_err(), "for the time being the other one is the intruder");
    assert_eq!(hear_twin(&mut f, "x", 15, NodeState::Fenced).0, Ok(()));
    f.pass(10);
    assert_eq!(f.try_hear("x", |_| {}).0, Ok(()));
    let status = f.machine.status(f.now);
    assert_eq!((status.peers[0].identity, status.peers[0].alive), (identity("x"), true));
    assert!(hear_twin(&mut f, "x", 15, NodeState::Fenced).0.is_err());
}

#[test]
fn r9_a_fenced_node_says_no_good_bye() {
    let mut f = Fixture::new(1);
    let _ = hear_twin(&mut f, ME, 5, NodeState::Active);
    assert_eq!(f.command(Command::Leave), [state(NodeState::Fenced, "asked to leave"), Action::Stopped]);
    assert_eq!(f.pulses(), [], "it would end the run of the other machine");
}
