//! What a serving daemon does with a configuration that was read again.

use rudel_api::event::EventKind;
use rudel_api::reload::{Reload, ReloadResult};
use rudel_api::timestamp::Timestamp;

use super::Daemon;
use crate::health;
use crate::pulse::Request;
use crate::reload::{self, Refusal};

impl Daemon {
    /// Reads the configuration again, and follows it, or does not.
    pub(super) fn reload(&mut self, checking: &mut health::Running) -> Reload {
        let reload = match self.try_reload(checking) {
            Ok(reload) => {
                let applied = reload::in_a_line(&reload.applied);
                tracing::info!("the configuration was read again; changed: {applied}");
                self.history.borrow_mut().push(EventKind::Reloaded, None, format!("changed: {applied}"));
                reload
            }
            Err(refusal) => {
                tracing::error!(
                    "the configuration was read again, and nothing was changed:\n{}",
                    refusal.reason
                );
                self.history.borrow_mut().push(EventKind::ReloadRefused, None, refusal.line.clone());
                reload::refused(refusal)
            }
        };
        self.reloading.last = Some(reload.clone());
        reload
    }

    /// All that can be refused comes before the first change.
    fn try_reload(&mut self, checking: &mut health::Running) -> Result<Reload, Refusal> {
        let step = self.reloading.read(&self.config)?;
        self.requests.send(Request::Commands(step.commands)).map_err(Refusal::failed)?;
        self.checks.change(&step.config.health, Timestamp::now());
        checking.follow(&self.checks);
        self.fitness.set_checks(&self.checks);
        self.tell_fitness();
        self.hooks.set(&step.config.hooks);
        self.household.checks = self.checks.verdicts();
        // One that the pulse thread is too busy for is remembered with the next.
        let _ = self.requests.send(Request::Remember(self.household.to_bytes()));
        self.config = step.config;
        Ok(Reload {
            at: Timestamp::now(),
            result: ReloadResult::Applied,
            applied: step.changes,
            reason: None,
        })
    }
}
