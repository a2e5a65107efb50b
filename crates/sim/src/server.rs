//! The server beside a daemon, and the health checks that ask it.
//!
//! One check, asked each interval (shortened by up to a tenth) and once more whenever the cluster calls an examination,
//! as the daemon does it: only regular answers make verdicts.

use std::time::Duration;

use rudel_proto::Command;

use crate::clock::Moment;

/// How the check is asked, for worlds that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Time between two regular questions.
    pub interval: Duration,
    /// After so long without an answer, the answer is a bad one.
    pub timeout: Duration,
    /// So many good answers in a row make a bad verdict good.
    pub rise: u16,
    /// So many bad answers in a row make a good verdict bad.
    pub fall: u16,
}

/// What a server does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Server {
    /// It answers.
    #[default]
    Up,
    /// It refuses at once.
    Down,
    /// It says nothing.
    Hangs,
}

/// What a daemon knows of its server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    verdict: bool,
    asked_before: bool,
    against: u16,
    /// The last examination that was called, and the last that was answered.
    pub(crate) called: u32,
    answered: u32,
    /// A question is on its way.
    pub(crate) asking: bool,
    /// When the next regular question is due.
    pub(crate) due: Moment,
}

/// A question and its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) good: bool,
    pub(crate) regular: bool,
    /// The last examination that had been called when the question was asked.
    pub(crate) examination: u32,
}

impl Checks {
    /// What the daemon says before it has asked.
    pub(crate) const UNKNOWN: Command = Command::Checked { good: false, last_good: true, answered: 0 };

    /// What the daemon says then.
    pub(crate) fn hear(&mut self, asking: &Asking, answer: Answer) -> Command {
        self.asking = false;
        self.answered = self.answered.max(answer.examination);
        if answer.regular {
            self.against = if answer.good == self.verdict { 0 } else { self.against + 1 };
            let needed = match (self.asked_before, self.verdict) {
                (false, _) => 1,
                (true, true) => asking.fall,
                (true, false) => asking.rise,
            };
            if self.against >= needed {
                self.verdict = answer.good;
                self.against = 0;
            }
            self.asked_before = true;
        }
        Command::Checked { good: self.verdict, last_good: answer.good, answered: self.answered }
    }

    /// Whether an examination waits for a question.
    pub(crate) fn owes(&self) -> bool {
        self.called > self.answered
    }
}
