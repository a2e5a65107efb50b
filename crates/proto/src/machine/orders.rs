//! Orders: what an administrator wants of one node, asked at another.
//!
//! The asked node multicasts the order each interval until the node that it is for has said that it is done, and for a
//! bounded time only. An order is carried out at most once, and never a later one before it: it has a number that
//! rises in the sender's run, and orders for one node go out one after the other. It counts only in the run that it is
//! made for, from a node that is heard, and only while it echoes a pulse sent within T, so that none can be kept for
//! later.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use super::{Action, Machine, Origin, Phase};
use crate::event::Event;
use crate::id::Identity;
use crate::seal::{Rejection, Sender};
use crate::time::Time;
use crate::wire::{Done, Message, Order, Task};

/// Orders that wait for their answers, or for those before them.
const ORDERS_MAX: usize = 16;

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node has carried it out.
    Done,
    /// The node is not heard: never was, or not any more.
    NotHeard,
    /// The node is heard, but has not said that it is done.
    NoAnswer,
    /// Too many orders wait already; this one was not sent.
    TooMany,
}

/// The orders of this node to others.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pending: Vec<Pending>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    ticket: u64,
    to: Identity,
    /// That of the datagram that it went out in first: no other order of this run has it, also none of a successor (R10).
    number: Option<u64>,
    task: Task,
    /// When it is to be sent again, and given up; none while an earlier order to the same node waits.
    sending: Option<Sending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sending {
    next: Time,
    until: Time,
}

impl Orders {
    /// When something is to be done about the first of them.
    pub(super) fn next(&self) -> Option<Time> {
        self.pending.iter().filter_map(|order| order.sending).map(|sending| sending.next).min()
    }

    pub(super) fn fingerprint<H: Hasher>(&self, origin: &Origin<'_>, state: &mut H) {
        for order in &self.pending {
            (order.to, order.number, order.task).hash(state);
            for at in order.sending.iter().flat_map(|sending| [sending.next, sending.until]) {
                origin.instant(at).hash(state);
            }
        }
    }
}

impl Machine {
    /// The administrator wants something of this node.
    pub(super) fn obey(&mut self, task: Task) {
        match task {
            Task::Weight(weight) => self.weight = weight.min(1000),
            Task::Drain(draining) => {
                if self.draining != draining {
                    self.draining = draining;
                    self.connections = 0;
                    self.tell_state(if draining { "asked to drain" } else { "asked to serve again" });
                }
            }
        }
    }

    /// The administrator wants something of another node.
    pub(super) fn order(&mut self, now: Time, ticket: u64, node: &str, task: Task) {
        let heard = self.heard_peers(now).find(|(peer, _)| peer.name.as_str() == node);
        let Some(to) = heard.map(|(peer, _)| peer.identity) else {
            self.actions.push_back(Action::Ordered { ticket, outcome: Outcome::NotHeard });
            return;
        };
        if self.orders.pending.len() >= ORDERS_MAX {
            self.actions.push_back(Action::Ordered { ticket, outcome: Outcome::TooMany });
            return;
        }
        self.orders.pending.push(Pending { ticket, to, number: None, task, sending: None });
    }

    /// Sends what is due, and gives up what has waited for 2 T and an interval for each member.
    pub(super) fn press_orders(&mut self, now: Time) {
        if self.orders.pending.is_empty() {
            return;
        }
        let members = self.view.as_ref().map_or(1, |view| view.members.len());
        let patience =
            self.config.timeout * 2 + self.config.interval * u32::try_from(members).unwrap_or(u32::MAX);
        let mut orders = std::mem::take(&mut self.orders.pending);
        let mut busy = BTreeSet::new();
        orders.retain_mut(|order| {
            if !busy.insert(order.to.id) {
                return true;
            }
            let sending = order.sending.get_or_insert(Sending { next: now, until: now + patience });
            let peer = self.peers.get(&order.to.id).filter(|peer| peer.identity == order.to);
            let echo = peer
                .filter(|peer| !self.is_gone(peer.identity) && peer.is_heard(now, self.config.timeout))
                .and_then(|peer| peer.heard)
                .map(|contact| contact.sequence as u32);
            if now >= sending.until || peer.is_none() {
                let outcome =
                    if echo.is_some() || peer.is_none() { Outcome::NoAnswer } else { Outcome::NotHeard };
                self.actions.push_back(Action::Ordered { ticket: order.ticket, outcome });
                // Whatever waits behind it is looked at in the same breath, since the next moment may be far.
                busy.remove(&order.to.id);
                return false;
            }
            if now >= sending.next {
                sending.next = (now + self.config.interval).min(sending.until);
                if let Some(echo) = echo {
                    let Pending { to, task, .. } = *order;
                    let number = *order.number.get_or_insert(self.sequence + 1);
                    self.send(Message::Order(Order { to, number, echo, task }));
                }
            }
            true
        });
        self.orders.pending = orders;
    }

    /// Carries an order out, unless that has been done, and says so.
    pub(super) fn handle_order(&mut self, now: Time, sender: &Sender, order: Order) -> Result<(), Rejection> {
        let takes_part = !matches!(self.phase, Phase::Goodbye { .. } | Phase::Stopped | Phase::Fenced);
        if order.to != self.me || !takes_part {
            return Ok(());
        }
        let from = Identity { id: sender.id, incarnation: sender.incarnation };
        let is_fresh = !self.is_gone(from) && self.sent_at(now, order.echo).is_some();
        let timeout = self.config.timeout;
        let peer = self
            .peers
            .get_mut(&from.id)
            .filter(|peer| is_fresh && peer.identity == from && peer.is_heard(now, timeout));
        let Some(peer) = peer else {
            return Err(Rejection::Unproven { name: sender.name.to_string() });
        };
        let obeyed = peer.obeyed;
        peer.obeyed = obeyed.max(order.number);
        if order.number < obeyed {
            // Overtaken by a later one on the way.
            return Ok(());
        }
        if order.number > obeyed {
            let node = Some(sender.name.clone());
            self.actions.push_back(Action::Event(Event::Ordered { node, task: order.task }));
            self.obey(order.task);
        }
        self.send(Message::Done(Done { to: from, number: order.number }));
        Ok(())
    }

    /// An order of this node has been carried out.
    pub(super) fn handle_done(&mut self, sender: &Sender, done: Done) {
        let from = Identity { id: sender.id, incarnation: sender.incarnation };
        let mine =
            |order: &Pending| done.to == self.me && order.to == from && order.number == Some(done.number);
        if let Some(index) = self.orders.pending.iter().position(mine) {
            let ticket = self.orders.pending.remove(index).ticket;
            self.actions.push_back(Action::Ordered { ticket, outcome: Outcome::Done });
        }
    }
}
