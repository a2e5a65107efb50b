//! What no rule looks at: complaints, and the history of drains.

use super::fixture::*;
use crate::event::Event;
use crate::machine::{Action, Command};
use crate::seal::Rejection;
use crate::wire::{Complaint, Message, NodeState, Pulse};

fn complaints(f: &Fixture) -> Vec<String> {
    let text = |action: &Action| match action {
        Action::Send { message: Message::Complaint(complaint), .. } => Some(complaint.as_str().to_owned()),
        _ => None,
    };
    f.log.iter().filter_map(text).collect()
}

fn complain(text: &str) -> Command {
    Command::Complain(text.into())
}

#[test]
fn a_complaint_goes_out_with_the_next_pulse_and_with_every_eighth_until_there_is_none() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.run(8 * INTERVAL, &["x"]);
    assert_eq!(complaints(&f), [""; 0]);
    f.command(complain("web: HTTP\n500"));
    assert_eq!(complaints(&f), [""; 0], "it is not worth a datagram at once");
    f.run(INTERVAL, &["x"]);
    assert_eq!(complaints(&f), ["web: HTTP 500"]);
    f.run(7 * INTERVAL, &["x"]);
    assert_eq!(complaints(&f), [""; 0]);
    f.run(INTERVAL, &["x"]);
    assert_eq!(complaints(&f), ["web: HTTP 500"]);
    f.command(complain("web: HTTP 500"));
    f.run(INTERVAL, &["x"]);
    assert_eq!(complaints(&f), [""; 0], "it is not new");
    f.command(complain("web: HTTP 503"));
    f.run(INTERVAL, &["x"]);
    assert_eq!(complaints(&f), ["web: HTTP 503"]);
    f.command(complain(""));
    f.run(20 * INTERVAL, &["x"]);
    assert_eq!(complaints(&f), [""; 0]);
}

#[test]
fn what_a_peer_complains_of_is_shown_while_it_is_not_fit() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let bad = |pulse: &mut Pulse| pulse.checkup.good = false;
    let shown = |f: &Fixture| f.machine.status(f.now).peers[0].complaint.clone();
    let say = |f: &mut Fixture, text: &str| {
        let (sender, complaint) = (f.sender("x"), Complaint::new(text).unwrap());
        f.receive(&sender, Message::Complaint(complaint)).0
    };
    assert_eq!(say(&mut f, "web: HTTP 500"), Ok(()));
    assert_eq!(shown(&f), None, "its pulses say that it is well");
    f.hear("x", bad);
    assert_eq!(shown(&f).as_deref(), Some("web: HTTP 500"));
    let mut early = f.sender("x");
    assert_eq!(say(&mut f, "web: HTTP 503"), Ok(()));
    let late = Complaint::new("web: HTTP 502").unwrap();
    f.receive(&early, Message::Complaint(late.clone())).0.unwrap();
    assert_eq!(shown(&f).as_deref(), Some("web: HTTP 503"), "overtaken on the way");
    f.hear("x", |_| {});
    f.hear("x", bad);
    assert_eq!(shown(&f), None, "what was wrong before says nothing about now");

    let unproven = Err(Rejection::Unproven { name: "x".into() });
    early.incarnation.0 -= 1;
    assert_eq!(f.receive(&early, Message::Complaint(late)).0, unproven, "a former run");
    f.pass(TIMEOUT);
    assert_eq!(say(&mut f, "web: HTTP 500"), unproven, "who is not heard is not listened to");
    assert_eq!(shown(&f), None);
}

fn told(actions: &[Action]) -> Vec<Event> {
    let event = |action: &Action| match action {
        Action::Event(event @ (Event::Draining { .. } | Event::Drained { .. } | Event::Undrained { .. })) => {
            Some(event.clone())
        }
        _ => None,
    };
    actions.iter().filter_map(event).collect()
}

#[test]
fn the_drain_of_another_node_is_told_from_its_beginning_to_its_end() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let x = || Some(node("x"));
    let draining = |pulse: &mut Pulse| pulse.state = NodeState::Draining;
    assert_eq!(told(&f.hear("x", draining)), [Event::Draining { node: x() }]);
    let view = f.machine.view().unwrap().id;
    assert_eq!(told(&f.hear("x", draining)), [], "it is not settled in the view that takes its share");
    let keeping = |pulse: &mut Pulse| {
        draining(pulse);
        settled_in(view)(pulse);
        pulse.keeping = [3].into_iter().collect();
        pulse.connections = 1;
    };
    assert_eq!(told(&f.hear("x", keeping)), []);
    let drained = |pulse: &mut Pulse| {
        keeping(pulse);
        pulse.keeping = crate::bucket::BucketSet::EMPTY;
    };
    assert_eq!(told(&f.hear("x", drained)), [Event::Drained { node: x(), connections: 1 }]);
    assert_eq!(told(&f.hear("x", drained)), [], "once");
    assert_eq!(told(&f.hear("x", settled_in(view))), [Event::Undrained { node: x() }]);
    assert_eq!(told(&f.hear("x", settled_in(view))), []);
}

#[test]
fn whoever_is_met_draining_has_not_begun_just_then() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let draining = |pulse: &mut Pulse| pulse.state = NodeState::Draining;
    assert_eq!(told(&f.hear("z", draining)), []);
}

#[test]
fn a_node_tells_its_own_drain_too() {
    let mut f = Fixture::handing_over(&["a", ME]);
    assert_eq!(told(&f.command(Command::Drain(true))), [Event::Draining { node: None }]);
    let mut second = view(2, "a", &["a", ME]);
    second.owners = [Some(id("a")); 256];
    f.claimed = second.id;
    let kept = f.machine.owned();
    assert_eq!(told(&f.hear_view("a", &second)), []);
    f.command(Command::Connections(2));
    assert_eq!(told(&f.command(Command::Ended(kept))), [Event::Drained { node: None, connections: 2 }]);
    assert_eq!(told(&f.command(Command::Drain(false))), [Event::Undrained { node: None }]);
}
