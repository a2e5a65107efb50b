//! A1: recordings, and datagrams that were not meant for this cluster, change nothing.

use std::collections::VecDeque;

use super::fixture::*;
use super::wire::Wire;
use crate::id::{ClusterName, Identity, Incarnation, ViewId};
use crate::node::{Node, Output};
use crate::seal::{ClusterKey, Keys};
use crate::time::Time;
use crate::wire::{Heard, Message, NodeState};

#[test]
fn r5_recordings_of_a_dead_node_change_nothing() {
    // Everything that was ever said is recorded, n02 dies, and all of its words are heard again, by nodes that were
    // there, and by one that has started since and knows no numbers of the dead one.
    let mut wire = Wire::new(&["n00", "n01", "n02"]);
    wire.run(4 * TIMEOUT);
    wire.assert_one_view(3);
    let recorded: Vec<_> =
        std::mem::take(&mut wire.sent).into_iter().filter(|(from, ..)| *from == 2).collect();
    wire.dead[2] = true;
    wire.run(2 * TIMEOUT);
    wire.assert_one_view(2);
    wire.start("n03", RUN);
    wire.run(2 * TIMEOUT);
    wire.assert_one_view(3);

    let before: Vec<_> = wire.nodes.iter().map(|node| (node.view().cloned(), node.owned())).collect();
    for (_, sender, message) in recorded {
        for to in [0, 1, 3] {
            let now = wire.now;
            let result = wire.nodes[to].handle_message(now, &sender, message.clone());
            assert!(result.is_err() || to == 3, "its numbers have been used");
        }
        wire.run(3);
    }
    wire.run(TIMEOUT);
    wire.assert_one_view(3);
    let after: Vec<_> = wire.nodes.iter().map(|node| (node.view().cloned(), node.owned())).collect();
    assert_eq!(after, before);
}

#[test]
fn r1_a_recorded_view_is_not_adopted() {
    let mut f = Fixture::new(1);
    f.hear("a", deaf);
    let sender = f.sender("a");
    let old = view(99, "a", &["a", ME]);
    let (result, effects) = f.receive(&sender, Message::View(Box::new(old)));
    assert_eq!(result.unwrap_err().reason(), "unproven");
    assert_eq!(effects, []);
    assert_eq!(f.machine.status(f.now).promise, ViewId::NONE);
}

#[test]
fn r1_a_recorded_promise_is_not_believed() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("z", |pulse| {
        settled_in(view_id(99, "z"))(pulse);
        deaf(pulse);
    });
    assert_eq!(f.machine.status(f.now).promise.epoch, 1);
    assert_eq!(f.views(), []);
}

#[test]
fn r5_an_unproven_node_is_answered_and_counts_for_nothing_else() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    assert_eq!(
        f.run_saying(1000, &["x", "z"], |name, pulse| if name == "z" {
            deaf(pulse)
        }),
        []
    );
    assert_eq!(f.views(), []);
    let table = f.pulses().pop().unwrap().heard;
    let answer = table.iter().find(|entry| entry.identity == identity("z")).expect("an answer");
    assert!(!answer.proven && !answer.gone);
}

#[test]
fn r3_each_datagram_counts_once() {
    let mut f = Fixture::member_of(&["a", ME]);
    let sender = f.sender("a");
    let pulse = f.pulse_of("a");
    assert_eq!(f.receive(&sender, Message::Pulse(pulse.clone())).0, Ok(()));
    let (again, _) = f.receive(&sender, Message::Pulse(pulse));
    assert_eq!(again.unwrap_err().reason(), "repeated");
}

#[test]
fn r3_an_overtaken_pulse_does_not_replace_a_later_word() {
    let mut f = Fixture::member_of(&["a", ME]);
    let second = give(view(2, "a", &["a", ME]), ME, [0]);
    // Sent first, but on its way for longer: a says that it is settled, and then takes that back.
    let early = f.sender("a");
    let mut settled = f.pulse_of("a");
    settled_in(second.id)(&mut settled);
    f.hear_view("a", &second);
    f.hear("a", settled_in(view_id(3, "a")));
    assert_eq!(f.receive(&early, Message::Pulse(settled)), (Ok(()), vec![]));
    assert!(!f.machine.owned().contains(0));
}

// ----- sealed -----

struct Sealed {
    nodes: Vec<Node>,
    now: Time,
    reasons: Vec<&'static str>,
}

impl Sealed {
    fn new(parts: [(&str, &str, u8); 2]) -> Self {
        let now = Time::from_nanos(1_000_000_000_000);
        let nodes = parts.map(|(cluster, name, key)| {
            let config = crate::Config { cluster: ClusterName::new(cluster).unwrap(), ..config(name, 1) };
            Node::new(config, Keys::new(ClusterKey::new([key; 32]), []), RUN, now).unwrap()
        });
        Sealed { nodes: nodes.into(), now, reasons: Vec::new() }
    }

    fn run(&mut self, millis: u64) {
        let mut flying = VecDeque::new();
        for _ in 0..millis {
            self.now = self.now + ms(1);
            for i in 0..self.nodes.len() {
                self.nodes[i].handle_timeout(self.now);
                self.carry_out(i, &mut flying);
            }
            while let Some((from, datagram)) = flying.pop_front() {
                for to in (0..self.nodes.len()).filter(|to| *to != from) {
                    if let Err(rejection) = self.nodes[to].handle_datagram(self.now, &datagram) {
                        self.reasons.push(rejection.reason());
                    }
                    self.carry_out(to, &mut flying);
                }
            }
        }
    }

    fn carry_out(&mut self, i: usize, flying: &mut VecDeque<(usize, Vec<u8>)>) {
        loop {
            match self.nodes[i].poll_output() {
                Output::Send { datagram, pulse } => {
                    flying.push_back((i, datagram));
                    if pulse {
                        self.nodes[i].handle_pulse_sent(self.now);
                    }
                }
                Output::Timeout(_) => return,
                _ => {}
            }
        }
    }

    fn members(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.machine().view().map_or(0, |view| view.members.len())).collect()
    }
}

#[test]
fn r8_nodes_with_one_key_and_cluster_meet() {
    let mut sealed = Sealed::new([("web", "n1", 7), ("web", "n2", 7)]);
    sealed.run(1500);
    assert_eq!(sealed.members(), [2, 2]);
    assert_eq!(sealed.reasons, [] as [&str; 0]);
}

#[test]
fn r8_a_node_with_another_key_is_nobody() {
    let mut sealed = Sealed::new([("web", "n1", 7), ("web", "n2", 8)]);
    sealed.run(1500);
    assert_eq!(sealed.members(), [1, 1]);
    assert!(!sealed.reasons.is_empty() && sealed.reasons.iter().all(|reason| *reason == "key"));
    let status = sealed.nodes[0].status(sealed.now);
    assert_eq!((status.peers.len(), status.state), (0, NodeState::Active));
}

#[test]
fn r8_a_node_of_another_cluster_is_nobody() {
    let mut sealed = Sealed::new([("web", "n1", 7), ("dns", "n2", 7)]);
    sealed.run(1500);
    assert_eq!(sealed.members(), [1, 1]);
    assert!(!sealed.reasons.is_empty() && sealed.reasons.iter().all(|reason| *reason == "cluster"));
}

#[test]
fn r5_a_recorded_later_run_ends_no_living_one() {
    // x lost the file with its incarnation and runs with a lower number than once before; somebody recorded that
    // former run. As long as the recording proves nothing, x lives.
    let mut f = Fixture::member_of(&[ME, "x"]);
    let mut sender = f.sender("x");
    sender.incarnation = Incarnation(50);
    sender.sequence = 1000;
    let mut pulse = f.pulse_of("x");
    joining(ViewId::NONE)(&mut pulse);
    deaf(&mut pulse);
    let _ = f.receive(&sender, Message::Pulse(pulse));
    assert_eq!(f.views(), []);
    f.run(200, &["x"]);
    assert_eq!(f.machine.view().map(|view| view.id.epoch), Some(1));
}

#[test]
fn r5_a_recorded_good_bye_of_a_later_run_ends_no_living_one() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let mut sender = f.sender("x");
    sender.incarnation = Incarnation(50);
    let mut pulse = f.pulse_of("x");
    pulse.gone = true;
    deaf(&mut pulse);
    let _ = f.receive(&sender, Message::Pulse(pulse));
    assert_eq!(f.views(), []);
}

#[test]
fn r9_a_relayed_good_bye_of_a_later_run_ends_no_living_one() {
    // z has just started, and met a recording of x before x itself: what it repeats, it says itself, and now.
    let mut f = Fixture::member_of(&[ME, "x", "z"]);
    let recorded = Identity { id: id("x"), incarnation: Incarnation(50) };
    f.hear("z", |pulse| {
        pulse.heard.retain(|entry| entry.identity.id != id("x"));
        pulse.heard.push(Heard { identity: recorded, proven: false, gone: true, ..entry("x", 0, 0) });
    });
    assert_eq!(f.views(), []);
    f.run(2 * TIMEOUT, &["x", "z"]);
    assert_eq!(f.machine.view().map(|view| view.id.epoch), Some(1));
    // Its own is not hidden by the recorded one.
    f.hear("z", |pulse| {
        for entry in pulse.heard.iter_mut().filter(|entry| entry.identity.id == id("x")) {
            (entry.proven, entry.gone) = (false, true);
        }
    });
    assert_eq!(f.views().len(), 1);
}

#[test]
fn r5_a_living_run_replaces_a_recording_of_a_later_one() {
    // This node has just started and hears the recording first.
    let mut f = Fixture::new(1);
    let mut sender = f.sender("x");
    sender.incarnation = Incarnation(50);
    let mut pulse = f.pulse_of("x");
    deaf(&mut pulse);
    assert_eq!(f.receive(&sender, Message::Pulse(pulse)).0, Ok(()));
    f.hear("x", |_| {});
    let status = f.machine.status(f.now);
    assert_eq!((status.peers[0].identity, status.peers[0].alive), (identity("x"), true));
}
