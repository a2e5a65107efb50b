//! Orders to another node: carried out once, by whom they are for, while they are fresh; and answered in any case.

use super::fixture::*;
use super::wire::Wire;
use crate::event::Event;
use crate::id::{Identity, Incarnation};
use crate::machine::{Action, Command, Outcome};
use crate::wire::{Done, Message, NodeState, Order, Task};

const DRAIN: Task = Task::Drain(true);

fn ordered(by: &str, task: Task) -> Action {
    Action::Event(Event::Ordered { node: Some(node(by)), task })
}

fn outcome(ticket: u64, outcome: Outcome) -> Action {
    Action::Ordered { ticket, outcome }
}

fn order(f: &Fixture, number: u64, task: Task) -> Order {
    Order { to: f.machine.me(), number, echo: f.last_pulse() as u32, task }
}

/// An order of a peer comes; `true` if it was let in.
fn hear_order(f: &mut Fixture, name: &str, order: Order) -> (bool, Vec<Action>) {
    let sender = f.sender(name);
    let (result, effects) = f.receive(&sender, Message::Order(order));
    (result.is_ok(), effects)
}

fn messages<T>(f: &Fixture, pick: impl Fn(&Message) -> Option<T>) -> Vec<T> {
    f.log
        .iter()
        .filter_map(|action| match action {
            Action::Send { message, .. } => pick(message),
            _ => None,
        })
        .collect()
}

fn dones(f: &Fixture) -> Vec<Done> {
    messages(f, |message| if let Message::Done(done) = message { Some(*done) } else { None })
}

fn orders(f: &Fixture) -> Vec<Order> {
    messages(f, |message| if let Message::Order(order) = message { Some(*order) } else { None })
}

fn tell(node: &str, ticket: u64, task: Task) -> Command {
    Command::Order { ticket, node: node.into(), task }
}

fn hear_done(f: &mut Fixture, name: &str, number: u64) -> Vec<Action> {
    let sender = f.sender(name);
    let done = Done { to: f.machine.me(), number };
    let (result, effects) = f.receive(&sender, Message::Done(done));
    assert_eq!(result, Ok(()));
    effects
}

// ----- the node that an order is for -----

#[test]
fn an_order_is_carried_out_said_at_once_and_answered() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.run(INTERVAL, &["a"]);
    let drain = order(&f, 1, DRAIN);
    let (_, effects) = hear_order(&mut f, "a", drain);
    let begun = Action::Event(Event::Draining { node: None });
    assert_eq!(effects, [ordered("a", DRAIN), state(NodeState::Draining, "asked to drain"), begun]);
    assert_eq!(dones(&f), [Done { to: identity("a"), number: 1 }]);
    assert_eq!(f.pulses().pop().unwrap().state, NodeState::Draining);
    let weight = order(&f, 2, Task::Weight(7));
    let (_, effects) = hear_order(&mut f, "a", weight);
    assert_eq!(effects, [ordered("a", Task::Weight(7))]);
    assert_eq!(f.machine.status(f.now).weight, 7);
}

#[test]
fn a_repeated_order_is_answered_again_and_not_carried_out_again() {
    let mut f = Fixture::member_of(&["a", ME]);
    let drain = order(&f, 5, DRAIN);
    hear_order(&mut f, "a", drain);
    // Its own administrator has taken it back meanwhile: a lost answer must not undo that.
    f.command(Command::Drain(false));
    let (_, effects) = hear_order(&mut f, "a", drain);
    assert_eq!(effects, []);
    assert_eq!(dones(&f), [Done { to: identity("a"), number: 5 }]);
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn an_overtaken_order_is_neither_carried_out_nor_answered() {
    let mut f = Fixture::member_of(&["a", ME]);
    let (early, late) = (order(&f, 1, DRAIN), order(&f, 2, Task::Drain(false)));
    hear_order(&mut f, "a", late);
    assert_eq!(hear_order(&mut f, "a", early), (true, vec![]));
    assert_eq!(dones(&f), []);
    // Each sender has numbers of its own.
    f.hear("b", |_| {});
    let of_b = order(&f, 1, DRAIN);
    hear_order(&mut f, "b", of_b);
    assert_eq!(f.machine.state(), NodeState::Draining);
}

#[test]
fn an_order_for_another_node_or_another_run_changes_nothing() {
    let mut f = Fixture::member_of(&["a", ME]);
    let mine = order(&f, 1, DRAIN);
    let former_run = Identity { incarnation: Incarnation(RUN.0 - 1), ..identity(ME) };
    for to in [identity("b"), former_run] {
        assert_eq!(hear_order(&mut f, "a", Order { to, ..mine }), (true, vec![]));
        assert_eq!(dones(&f), []);
    }
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn an_order_that_was_held_back_changes_nothing() {
    let mut f = Fixture::member_of(&["a", ME]);
    let held_back = order(&f, 1, DRAIN);
    f.run(TIMEOUT, &["a"]);
    // Never delivered before, from a node that is alive, for this very run: but it echoes a pulse of long ago.
    assert_eq!(hear_order(&mut f, "a", held_back), (false, vec![]));
    assert_eq!((f.machine.state(), dones(&f)), (NodeState::Active, vec![]));
    let fresh = order(&f, 1, DRAIN);
    assert!(hear_order(&mut f, "a", fresh).0, "it was not counted as obeyed");
    assert_eq!(f.machine.state(), NodeState::Draining);
}

#[test]
fn an_order_of_a_node_that_is_not_heard_changes_nothing() {
    let mut f = Fixture::member_of(&["a", ME]);
    // A stranger, somebody who has not heard this node, and the dead.
    let by_stranger = order(&f, 1, DRAIN);
    assert_eq!(hear_order(&mut f, "z", by_stranger), (false, vec![]));
    f.hear("y", deaf);
    assert!(!hear_order(&mut f, "y", by_stranger).0);
    f.hear("x", |_| {});
    f.run(TIMEOUT, &["a"]);
    let by_the_dead = order(&f, 1, DRAIN);
    assert!(!hear_order(&mut f, "x", by_the_dead).0);
    f.hear("w", |pulse| pulse.gone = true);
    let after_good_bye = order(&f, 1, DRAIN);
    assert!(!hear_order(&mut f, "w", after_good_bye).0);
    // A run that has not proved itself alive does not inherit the trust in the run before.
    f.restart("a");
    let by_later_run = order(&f, 1, DRAIN);
    assert!(!hear_order(&mut f, "a", by_later_run).0);
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn a_later_run_of_the_sender_begins_its_numbers_anew() {
    let mut f = Fixture::member_of(&["a", ME]);
    let drain = order(&f, 9, DRAIN);
    hear_order(&mut f, "a", drain);
    f.restart("a");
    f.hear("a", |_| {});
    let undrain = order(&f, 1, Task::Drain(false));
    hear_order(&mut f, "a", undrain);
    assert_eq!(f.machine.state(), NodeState::Active);
}

#[test]
fn who_says_good_bye_takes_no_orders() {
    let mut f = Fixture::new(1);
    f.hear("a", |_| {});
    f.command(Command::Leave);
    assert!(f.pulses().iter().any(|pulse| pulse.gone));
    let drain = order(&f, 1, DRAIN);
    hear_order(&mut f, "a", drain);
    assert_eq!(dones(&f), []);
}

// ----- the node that is asked -----

#[test]
fn an_order_is_repeated_each_interval_until_it_is_done() {
    let mut f = Fixture::member_of(&["a", ME]);
    assert_eq!(f.command(tell("a", 70, DRAIN)), []);
    let first = orders(&f).pop().expect("sent at once");
    assert_eq!((first.to, first.number, first.task), (identity("a"), f.machine.last_sequence(), DRAIN));
    f.run(3 * INTERVAL, &["a"]);
    let again = orders(&f);
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|order| (order.to, order.number) == (first.to, first.number)));
    assert!(again.iter().all(|order| order.task == DRAIN));
    assert_ne!(again[2].echo, first.echo, "the echo is of the latest pulse");
    assert_eq!(hear_done(&mut f, "a", first.number), [outcome(70, Outcome::Done)]);
    f.run(3 * INTERVAL, &["a"]);
    assert_eq!(orders(&f), []);
}

#[test]
fn an_order_that_is_not_answered_is_given_up_after_2_t_and_an_interval_for_each_member() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(tell("a", 1, DRAIN));
    let number = orders(&f)[0].number;
    let patience = 2 * TIMEOUT + 2 * INTERVAL;
    assert_eq!(f.run(patience - INTERVAL, &["a"]), []);
    assert_eq!(f.run(INTERVAL, &["a"]), [outcome(1, Outcome::NoAnswer)]);
    assert_eq!(hear_done(&mut f, "a", number), [], "too late: who asked has been answered");
}

#[test]
fn an_order_for_who_is_not_heard_is_answered_at_once_and_for_who_dies_in_time() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    assert_eq!(f.command(tell("z", 1, DRAIN)), [outcome(1, Outcome::NotHeard)]);
    f.command(tell("b", 2, DRAIN));
    let told = f.run(3 * TIMEOUT, &["a"]);
    assert!(told.contains(&outcome(2, Outcome::NotHeard)), "{told:?}");
    assert!(!orders(&f).is_empty());
    assert!(orders(&f).len() <= (TIMEOUT / INTERVAL) as usize, "nothing is said to who is not heard");
}

#[test]
fn an_order_ends_with_the_run_that_it_is_for() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(tell("a", 1, DRAIN));
    f.restart("a");
    let told = f.hear("a", |_| {});
    assert!(told.contains(&outcome(1, Outcome::NoAnswer)), "{told:?}");
}

#[test]
fn orders_for_one_node_go_out_one_after_the_other_and_for_two_side_by_side() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    f.command(tell("a", 1, DRAIN));
    let of_a = orders(&f)[0].number;
    f.command(tell("a", 2, Task::Weight(5)));
    assert_eq!(orders(&f), []);
    f.command(tell("b", 3, DRAIN));
    assert_eq!(orders(&f).len(), 1);
    let of_b = orders(&f)[0].number;
    assert!(of_b > of_a);
    assert_eq!(hear_done(&mut f, "b", of_b), [outcome(3, Outcome::Done)]);
    assert_eq!(hear_done(&mut f, "a", of_b), [], "not a's");
    assert_eq!(hear_done(&mut f, "b", of_a), [], "not b's");
    assert_eq!(hear_done(&mut f, "a", of_a), [outcome(1, Outcome::Done)]);
    assert_eq!(orders(&f).pop().expect("the next at once").task, Task::Weight(5));
}

#[test]
fn more_orders_than_anybody_needs_are_refused() {
    let mut f = Fixture::member_of(&["a", ME]);
    for ticket in 0..16 {
        assert_eq!(f.command(tell("a", ticket, DRAIN)), []);
    }
    assert_eq!(f.command(tell("a", 16, DRAIN)), [outcome(16, Outcome::TooMany)]);
}

// ----- between machines -----

#[test]
fn a_node_is_drained_and_undrained_by_another() {
    let mut wire = Wire::settled(3);
    wire.command(0, tell("n02", 1, DRAIN));
    wire.run(INTERVAL);
    assert_eq!(wire.nodes[2].state(), NodeState::Draining);
    assert!(wire.nodes[2].owned().is_empty());
    assert!(wire.nodes.iter().all(|node| node.is_settled()));
    let orders = wire.sent.iter().filter(|(.., message)| matches!(message, Message::Order(_))).count();
    assert_eq!(orders, 1, "answered before it had to be repeated");
    wire.command(1, tell("n02", 1, Task::Drain(false)));
    wire.run(2 * INTERVAL);
    wire.assert_one_view(3);
    assert_eq!(wire.nodes[2].state(), NodeState::Active);
}

#[test]
fn a_drain_ends_with_the_run() {
    let mut wire = Wire::settled(2);
    wire.command(0, tell("n01", 1, DRAIN));
    wire.run(INTERVAL);
    wire.dead[1] = true;
    wire.run(20);
    let again = wire.start("n01", Incarnation(11));
    wire.run(2 * TIMEOUT);
    assert_eq!(wire.nodes[again].state(), NodeState::Active);
}

#[test]
fn the_connections_left_are_said_while_a_node_gives_its_share_away() {
    let mut f = Fixture::handing_over(&["a", ME]);
    f.command(Command::Connections(3));
    f.run(INTERVAL, &["a"]);
    assert_eq!(f.pulses().pop().unwrap().connections, 0, "it keeps nothing");
    f.command(Command::Drain(true));
    f.command(Command::Connections(12));
    f.run(INTERVAL, &["a"]);
    assert_eq!(f.pulses().pop().unwrap().connections, 12);
    assert_eq!(f.machine.status(f.now).connections, 12);
    f.command(Command::Drain(false));
    f.command(Command::Drain(true));
    assert_eq!(f.pulses().pop().unwrap().connections, 0, "what was left of the drain before is forgotten");
}
