//! Machines on a wire that delivers everything to everybody at once: what shows only between them.

use std::collections::VecDeque;

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::config::Config;
use crate::event::Event;
use crate::id::{Incarnation, NodeName};
use crate::machine::{Action, Command, Machine};
use crate::seal::Sender;
use crate::time::Time;
use crate::wire::{Message, NodeState};

/// A message on its way, and who sent it.
type Flight = (usize, Sender, Message);

/// See the module's documentation.
pub(super) struct Wire {
    pub(super) nodes: Vec<Machine>,
    pub(super) now: Time,
    /// Who is switched off: it is not woken, and hears nothing.
    pub(super) dead: Vec<bool>,
    /// Every message sent since this was last cleared.
    pub(super) sent: Vec<Flight>,
    pub(super) events: Vec<(usize, Event)>,
    flying: VecDeque<Flight>,
}

impl Wire {
    pub(super) fn new(names: &[&str]) -> Self {
        let now = Time::from_nanos(1_000_000_000_000);
        let nodes: Vec<Machine> = names.iter().map(|name| Machine::new(config(name, 1), RUN, now)).collect();
        Wire {
            dead: vec![false; nodes.len()],
            nodes,
            now,
            sent: Vec::new(),
            events: Vec::new(),
            flying: VecDeque::new(),
        }
    }

    /// As many nodes as asked for, after they have formed one view.
    pub(super) fn settled(count: usize) -> Self {
        let names: Vec<String> = (0..count).map(|n| format!("n{n:02}")).collect();
        let mut wire = Wire::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
        wire.run(4 * TIMEOUT);
        wire.assert_one_view(count);
        wire.sent.clear();
        wire.events.clear();
        wire
    }

    /// One node more.
    pub(super) fn start(&mut self, name: &str, incarnation: Incarnation) -> usize {
        self.start_as(config(name, 1), incarnation)
    }

    /// One node more, which is configured otherwise.
    pub(super) fn start_as(&mut self, config: Config, incarnation: Incarnation) -> usize {
        self.nodes.push(Machine::new(config, incarnation, self.now));
        self.dead.push(false);
        self.nodes.len() - 1
    }

    /// Time passes; every node is woken when it asks for it, one node after the other.
    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now + ms(millis);
        let mut wakings = 0;
        loop {
            let next = |i: usize| self.nodes[i].next_timeout().filter(|_| !self.dead[i]);
            let first = (0..self.nodes.len()).filter_map(|i| next(i).map(|at| (at, i))).min();
            let Some((at, i)) = first.filter(|(at, _)| *at <= end) else {
                break;
            };
            wakings += 1;
            assert!(wakings < 100_000, "{i} asks to be woken at {at} again and again");
            self.now = self.now.max(at);
            self.nodes[i].handle_timeout(self.now);
            self.settle(i);
        }
        self.now = end;
    }

    pub(super) fn command(&mut self, i: usize, command: Command) {
        self.nodes[i].handle_command(self.now, command);
        self.settle(i);
    }

    pub(super) fn pulses(&self) -> usize {
        self.sent.iter().filter(|(_, _, message)| matches!(message, Message::Pulse(_))).count()
    }

    pub(super) fn views(&self) -> usize {
        self.sent.len() - self.pulses()
    }

    /// All that are alive have adopted the same view of so many members, and own all of it.
    pub(super) fn assert_one_view(&self, members: usize) {
        let alive: Vec<&Machine> =
            self.nodes.iter().zip(&self.dead).filter(|(_, dead)| !**dead).map(|(node, _)| node).collect();
        let view = alive[0].view().expect("a view");
        assert_eq!(view.members.len(), members);
        let mut owned = BucketSet::EMPTY;
        for node in alive.iter().filter(|node| node.state() == NodeState::Active) {
            assert_eq!(node.view(), Some(view));
            assert!(node.is_settled() && node.lease() > self.now);
            assert_eq!(node.owned(), view.owned_by(node.me().id));
            assert!((owned & node.owned()).is_empty());
            owned = owned | node.owned();
        }
        assert_eq!(owned, BucketSet::ALL);
    }

    /// Carries out what a node wants, and delivers until nothing flies.
    fn settle(&mut self, i: usize) {
        self.carry_out(i);
        let mut delivered = 0;
        while let Some((from, sender, message)) = self.flying.pop_front() {
            delivered += 1;
            assert!(
                delivered < 100 * self.nodes.len() * self.nodes.len(),
                "they answer each other without end"
            );
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                if !self.dead[to] {
                    let _ = self.nodes[to].handle_message(self.now, &sender, message.clone());
                    self.carry_out(to);
                }
            }
        }
    }

    fn carry_out(&mut self, i: usize) {
        while let Some(action) = self.nodes[i].poll_action() {
            match action {
                Action::Send { incarnation, sequence, message } => {
                    let config = self.nodes[i].config();
                    let name: NodeName = config.name.clone();
                    let sender = Sender { id: config.id(), name, incarnation, sequence };
                    self.sent.push((i, sender.clone(), message.clone()));
                    let is_pulse = matches!(message, Message::Pulse(_));
                    self.flying.push_back((i, sender, message));
                    if is_pulse {
                        self.nodes[i].handle_pulse_sent(self.now);
                    }
                }
                Action::Event(event) => self.events.push((i, event)),
                _ => {}
            }
        }
    }
}

#[test]
fn r6_thirty_two_nodes_form_one_view() {
    Wire::settled(32);
}

#[test]
fn r6_a_full_cluster_refuses_the_33rd_node() {
    let mut wire = Wire::settled(32);
    let late = wire.start("a-late-one", RUN);
    wire.run(3 * TIMEOUT);
    assert_eq!(wire.nodes[late].state(), NodeState::Joining);
    assert!(wire.nodes[late].owned().is_empty());
    wire.assert_one_view(32);
    let full = |(_, event): &&(usize, Event)| matches!(event, Event::Full { .. });
    assert_eq!(wire.events.iter().filter(full).count(), 32, "every member's history says so, once");
}

#[test]
fn r8_nodes_that_start_milliseconds_apart_agree() {
    // Both hear each other while they listen: nobody is active, so nobody could coordinate.
    let mut wire = Wire::new(&["n0"]);
    wire.run(164);
    wire.start("n1", RUN);
    wire.run(1000);
    wire.assert_one_view(2);
    for gap in [1, 60, 206, 399, 400, 401] {
        let mut wire = Wire::new(&["n2"]);
        wire.run(gap / 2);
        wire.start("n0", RUN);
        wire.run(gap - gap / 2);
        wire.start("n1", RUN);
        wire.run(1500);
        wire.assert_one_view(3);
    }
}

#[test]
fn r5_a_crash_costs_t_and_an_exchange() {
    let mut wire = Wire::settled(4);
    wire.dead[0] = true;
    let crashed = wire.now;
    while wire.nodes[1].view().is_some_and(|view| view.members.len() == 4) {
        wire.run(1);
        assert!(wire.now.since(crashed) <= ms(TIMEOUT + 1), "its buckets have no owner for longer");
    }
    wire.assert_one_view(3);
}

#[test]
fn r5_a_restarted_node_is_a_member_again_within_two_intervals() {
    let mut wire = Wire::settled(3);
    wire.dead[2] = true;
    wire.run(20);
    let again = wire.start("n02", Incarnation(11));
    wire.run(2 * INTERVAL);
    assert_eq!(wire.nodes[again].state(), NodeState::Active);
    wire.assert_one_view(3);
}

#[test]
fn r9_a_good_bye_is_forgotten_by_all() {
    // Who comes later learns of it later, and says how old it is.
    let mut wire = Wire::settled(3);
    wire.command(2, Command::Leave);
    wire.run(10 * TIMEOUT);
    wire.start("n03", RUN);
    wire.run(10 * TIMEOUT);
    let tells = |wire: &mut Wire| {
        wire.sent.clear();
        wire.run(INTERVAL);
        let gone = |message: &Message| match message {
            Message::Pulse(pulse) => pulse.heard.iter().filter(|entry| entry.gone).count(),
            _ => 0,
        };
        wire.sent.iter().map(|(.., message)| gone(message)).sum::<usize>()
    };
    assert_eq!(tells(&mut wire), 3, "all three repeat it");
    wire.run(45 * TIMEOUT);
    assert_eq!(tells(&mut wire), 0);
}

#[test]
fn r9_a_node_that_leaves_hands_over_without_a_gap() {
    let mut wire = Wire::settled(3);
    wire.command(1, Command::Leave);
    wire.run(INTERVAL);
    wire.dead[1] = true;
    wire.assert_one_view(2);
}

#[test]
fn r7_a_node_that_hangs_comes_back() {
    let mut wire = Wire::settled(3);
    for hang in [200, 343, 399, 895] {
        wire.dead[0] = true;
        wire.run(hang);
        wire.dead[0] = false;
        wire.run(3 * TIMEOUT);
        wire.assert_one_view(3);
    }
}
