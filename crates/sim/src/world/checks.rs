//! Health checks: a daemon asks its server, in turn and when an examination is called.

use rudel_proto::Command;

use super::{Happening, World, nanos};
use crate::server::{Answer, Checks, Server};

impl World {
    pub(super) fn begin_to_ask(&mut self, node: usize) {
        if let (Some(_), Some(process)) = (self.settings.asking, &mut self.hosts[node].process) {
            process.commands.push_back(Checks::UNKNOWN);
            process.checks.due = self.now;
            let run = process.run;
            self.push(self.now, Happening::Ask(node, run));
        }
    }

    /// The cluster calls an examination.
    pub(super) fn examine(&mut self, node: usize, number: u32) {
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        let run = process.run;
        process.checks.called = number;
        if self.settings.asking.is_none() {
            // Who has no checks is always well, and says so.
            process.commands.push_back(Command::Checked { good: true, last_good: true, answered: number });
        } else if !process.checks.asking {
            self.push(self.now, Happening::Ask(node, run));
        }
    }

    pub(super) fn ask(&mut self, node: usize, run: u64) {
        let (Some(asking), now) = (self.settings.asking, self.now) else {
            return;
        };
        let host = &mut self.hosts[node];
        let Some(process) = host.process.as_mut().filter(|process| process.run == run) else {
            return;
        };
        let regular = now >= process.checks.due;
        if process.checks.asking || !(regular || process.checks.owes()) {
            return;
        }
        process.checks.asking = true;
        let examination = process.checks.called;
        let (good, takes) = match host.server {
            Server::Up => (true, self.rng.between(50_000, 2_000_000)),
            Server::Down => (false, self.rng.between(50_000, 500_000)),
            Server::Hangs => (false, nanos(asking.timeout)),
        };
        if regular {
            let interval = nanos(asking.interval);
            let due = now + self.rng.between(interval - interval / 10, interval);
            process.checks.due = due;
            self.push(due, Happening::Ask(node, run));
        }
        self.push(now + takes, Happening::Answer(node, run, Answer { good, regular, examination }));
    }

    pub(super) fn answer(&mut self, node: usize, run: u64, answer: Answer) {
        let Some(asking) = self.settings.asking else {
            return;
        };
        let Some(process) = self.hosts[node].process.as_mut().filter(|process| process.run == run) else {
            return;
        };
        let command = process.checks.hear(&asking, answer);
        // Only what is new is told.
        if process.told_checks.as_ref() != Some(&command) {
            process.told_checks = Some(command.clone());
            process.commands.push_back(command);
        }
        self.push(self.now, Happening::Ask(node, run));
        self.run(node);
    }
}
