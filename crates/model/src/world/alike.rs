//! Which worlds have the same future: a fingerprint that leaves out what cannot matter any more.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::time::Duration;

use ahash::RandomState;
use rudel_proto::id::{Identity, ViewId};
use rudel_proto::machine::{Action, Origin};
use rudel_proto::{Command, Time};

use super::{EPOCH, Letter, Process, Step, World};

impl World {
    pub(super) fn fingerprint(&self) -> u64 {
        let mut state = RandomState::with_seeds(1, 2, 3, 4).build_hasher();
        if let Some(violation) = &self.violation {
            (violation.property as u8).hash(&mut state);
        }
        let machines = || self.living().map(|(_, process)| &process.machine);
        let mut cited: BTreeSet<ViewId> = machines().flat_map(|machine| machine.cited_views()).collect();
        let letters = self.flights.iter().map(|flight| &flight.letter);
        let inboxes = self.living().flat_map(|(_, process)| &process.inbox);
        let held = self.living().filter_map(|(_, process)| match &process.step {
            Step::Message(_, letter) => Some(letter),
            _ => None,
        });
        cited.extend(letters.chain(inboxes).chain(held).filter_map(|letter| letter.message.cited_view()));
        for (_, process) in self.living() {
            if let Step::Act(Action::Send { message, .. }) = &process.step {
                cited.extend(message.cited_view());
            }
        }
        let sequence = |sender: Identity| self.last_number(sender);
        let origin = Origin {
            now: Time::from_nanos(self.now),
            timeout: Duration::from_nanos(self.setup.timeout),
            epoch: machines().map(|machine| machine.promise().epoch).max().unwrap_or(0),
            cited: &cited,
            sequence: &sequence,
        };
        let ahead = |at: u64| at.saturating_sub(self.now);

        (self.stop, self.budget, ahead(self.next_mark)).hash(&mut state);
        ahead(EPOCH + self.setup.faults_from).hash(&mut state);
        for contact in &self.contacts {
            contact.fingerprint(self.now, self.setup.timeout, &mut state);
        }
        for host in &self.hosts {
            // An emptied table, or a lapsed lease that nobody can revive, are alike.
            (host.kernel.owned, origin.instant(host.kernel.lease)).hash(&mut state);
            (host.start_at.map(ahead), host.ask_at.map(ahead), host.next_incarnation, host.left)
                .hash(&mut state);
            host.process.is_some().hash(&mut state);
            if let Some(process) = &host.process {
                process.fingerprint(&origin, self.now, &mut state);
            }
        }
        for flight in &self.flights {
            (flight.at - self.now, flight.to, flight.from, flight.late).hash(&mut state);
            let to = self.hosts[flight.to].process.as_ref().map(|process| process.machine.me());
            flight.letter.fingerprint(&origin, to.or(Some(Identity::default())), &mut state);
            (self.now - flight.sent).hash(&mut state);
        }
        state.finish()
    }

    fn last_number(&self, sender: Identity) -> u64 {
        let runs = self.hosts.iter().filter(|host| host.id == sender.id).flat_map(|host| &host.numbers);
        runs.filter(|(run, _)| *run == sender.incarnation).map(|(_, last)| *last).max().unwrap_or(0)
    }
}

impl Process {
    pub(super) fn fingerprint<H: Hasher>(&self, origin: &Origin<'_>, now: u64, state: &mut H) {
        self.machine.fingerprint(origin, state);
        let me = Some(self.machine.me());
        std::mem::discriminant(&self.step).hash(state);
        match &self.step {
            Step::Idle | Step::Poll | Step::Sent => {}
            Step::Timer(at) | Step::SentAt(at) => origin.instant(*at).hash(state),
            Step::Message(at, letter) => {
                origin.instant(*at).hash(state);
                letter.fingerprint(origin, me, state);
            }
            Step::Command(at, command) => {
                origin.instant(*at).hash(state);
                matches!(command, Command::Leave).hash(state);
            }
            Step::Act(action) => {
                std::mem::discriminant(action).hash(state);
                match action {
                    Action::Send { message, .. } => origin.message(message, None, state),
                    Action::Own(owned) => owned.hash(state),
                    Action::Lease(until) => origin.instant(*until).hash(state),
                    _ => {}
                }
            }
        }
        for letter in &self.inbox {
            letter.fingerprint(origin, me, state);
        }
        self.command.as_ref().map(|command| matches!(command, Command::Leave)).hash(state);
        (self.hung_until.saturating_sub(now), self.inbox_first, self.drains).hash(state);
        origin.instant(self.looked_at).hash(state);
        origin.view_id(self.highest, state);
    }
}

impl Letter {
    pub(super) fn fingerprint<H: Hasher>(&self, origin: &Origin<'_>, to: Option<Identity>, state: &mut H) {
        let sender = Identity { id: self.sender.id, incarnation: self.sender.incarnation };
        sender.hash(state);
        origin.number(sender, self.sender.sequence as u32, state);
        origin.message(&self.message, to, state);
    }
}
