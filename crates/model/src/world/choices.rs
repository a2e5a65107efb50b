//! Where the world has stopped: which faults are possible there, and what each does.

use std::sync::Arc;

use rudel_proto::Command;
use rudel_proto::wire::Message;

use super::{Choice, EPOCH, Stop, World, describe, is_pulse, millis};
use crate::setup::Point;

impl World {
    pub(super) fn faults(&self, choices: &mut Vec<Choice>) {
        if self.now < EPOCH + self.setup.faults_from {
            return;
        }
        let budget = &self.budget;
        match self.stop {
            Stop::Arrival => {
                let Some(flight) = self.flights.first() else {
                    return;
                };
                let is_view = matches!(flight.letter.message, Message::View(_));
                if self.contacts[self.pair(flight.from, flight.to)].cut {
                    choices.push(Choice::Mend);
                    return;
                }
                if self.setup.only_views && !is_view {
                    return;
                }
                if budget.losses > 0 {
                    choices.push(Choice::Lose);
                }
                if budget.late > 0 && !flight.late {
                    choices.extend(self.setup.late_by.iter().map(|span| Choice::Late(*span)));
                }
                if budget.cuts > 0 {
                    choices.push(Choice::Cut);
                }
            }
            Stop::At(_, point) => {
                let hangs = self.living().any(|(_, process)| process.hung_until > self.now);
                if budget.hangs > 0 && !hangs && self.setup.hang_points.contains(&point) {
                    for span in &self.setup.hang_spans {
                        choices.push(Choice::Hang(*span, false));
                        if matches!(point, Point::BeforeClock) {
                            choices.push(Choice::Hang(*span, true));
                        }
                    }
                }
                if budget.kills > 0 && self.setup.kill_points.contains(&point) {
                    choices.push(Choice::Kill);
                }
            }
            Stop::Dead(_) => {
                if budget.restarts > 0 {
                    choices.push(Choice::Restart);
                }
            }
            Stop::Mark => {
                for (node, process) in self.living() {
                    if budget.leaves > 0 && process.command.is_none() {
                        choices.push(Choice::Leave(node));
                    }
                    if process.drains || budget.drains > 0 {
                        choices.push(Choice::Drain(node));
                    }
                }
            }
        }
    }

    pub(super) fn can_fail(&self) -> bool {
        let mut choices = Vec::new();
        self.faults(&mut choices);
        !choices.is_empty()
    }

    pub(super) fn apply(&mut self, choice: Choice) {
        match (self.stop, choice) {
            (Stop::Arrival, Choice::Late(span)) => {
                self.budget.late -= 1;
                let mut flight = self.flights.remove(0);
                flight.at += span;
                flight.late = true;
                self.delayed(flight.from, flight.to, flight.at - flight.sent);
                self.fly(flight);
            }
            (Stop::Arrival, choice) => {
                let flight = self.flights.remove(0);
                let pair = self.pair(flight.from, flight.to);
                match choice {
                    Choice::Lose => self.budget.losses -= 1,
                    Choice::Cut => {
                        self.budget.cuts -= 1;
                        self.contacts[pair].cut = true;
                    }
                    Choice::Mend => self.contacts[pair].cut = false,
                    _ => {}
                }
                if choice == Choice::Lose || self.contacts[pair].cut {
                    if is_pulse(&flight.letter.message) {
                        self.lost(flight.from, flight.to, flight.sent);
                    }
                } else {
                    self.arrive(flight);
                }
            }
            (Stop::At(node, _), Choice::Hang(span, inbox_first)) => {
                self.budget.hangs -= 1;
                let until = self.now + span;
                self.with(node, |process| {
                    process.hung_until = until;
                    process.inbox_first = inbox_first;
                });
            }
            (Stop::At(node, _), Choice::Kill) => {
                self.budget.kills -= 1;
                let ask_at = (self.budget.restarts > 0).then_some(self.now + self.setup.interval / 2);
                let host = Arc::make_mut(&mut self.hosts[node]);
                host.process = None;
                host.ask_at = ask_at;
            }
            (Stop::At(node, _), _) => self.perform(node),
            (Stop::Dead(node), Choice::Restart) => {
                self.budget.restarts -= 1;
                self.start(node);
            }
            (Stop::Dead(node), _) => {
                let ask_at = (self.budget.restarts > 0).then_some(self.now + self.setup.interval / 2);
                Arc::make_mut(&mut self.hosts[node]).ask_at = ask_at;
            }
            (Stop::Mark, choice) => {
                self.next_mark = self.now + self.setup.interval;
                match choice {
                    Choice::Leave(node) => {
                        self.budget.leaves -= 1;
                        self.with(node, |process| process.command = Some(Command::Leave));
                    }
                    Choice::Drain(node) => {
                        let mut drained = false;
                        self.with(node, |process| {
                            process.drains = !process.drains;
                            drained = process.drains;
                            process.command = Some(Command::Drain(process.drains));
                        });
                        self.budget.drains -= u8::from(drained);
                    }
                    _ => {}
                }
            }
        }
    }

    pub(super) fn note_choice(&mut self, choice: Choice) {
        let about = self.flights.first().map(|flight| {
            format!("n{}'s {} to n{}", flight.from, describe(&flight.letter.message), flight.to)
        });
        let about = about.unwrap_or_default();
        match (self.stop, choice) {
            (_, Choice::Go) => {}
            (_, Choice::Lose) => self.note(|| format!("FAULT: {about} is lost")),
            (_, Choice::Late(span)) => self.note(|| format!("FAULT: {about} will be {} late", millis(span))),
            (_, Choice::Cut) => {
                self.note(|| format!("FAULT: from {about} on, nothing passes in that direction"))
            }
            (_, Choice::Mend) => self.note(|| format!("mended: {about} passes, and what follows it")),
            (Stop::At(node, point), Choice::Hang(span, inbox_first)) => self.note(|| {
                let order = if inbox_first { ", and will look at its datagrams first" } else { "" };
                format!("FAULT: n{node} hangs {} for {}{order}", point.describe(), millis(span))
            }),
            (Stop::At(node, point), Choice::Kill) => {
                self.note(|| format!("FAULT: n{node}'s daemon dies {}", point.describe()));
            }
            (_, Choice::Leave(node)) => self.note(|| format!("n{node} is asked to leave")),
            (_, Choice::Drain(node)) => {
                self.note(|| format!("n{node} is asked to give its share away, or to take it back"))
            }
            (Stop::Dead(node), Choice::Restart) => self.note(|| format!("n{node}'s daemon is started again")),
            (_, other) => self.note(|| format!("{other:?}")),
        }
    }
}
