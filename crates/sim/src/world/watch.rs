//! What is looked at after every step: what the kernels pass, the leases, the views.

use rudel_proto::Time;
use rudel_proto::event::Event;
use rudel_proto::id::ViewId;

use super::{Happening, World, nanos};
use crate::network::Grade;

impl World {
    /// What the kernel passes may have changed.
    pub(super) fn look(&mut self, node: usize) {
        let passes = self.hosts[node].passes(self.now);
        for (other, buckets) in self.judge.pass(self.now, node, passes) {
            let strict = self.is_strict();
            if !strict && self.cannot_hear(node, other) {
                self.judge.overlaps_excused += 1;
                continue;
            }
            let property = if strict { "S2 one owner under partition" } else { "S1 one owner" };
            self.violate(property, format!("n{node} begins to pass {buckets} buckets that n{other} passes"));
        }
    }

    /// Whether the network has kept two nodes from hearing each other lately.
    ///
    /// A lease allows for one lost pulse, no more, should its holder hang: so where one of the two was in
    /// trouble itself, two pulses in a row count. Else only losses as long as half a time-out do. And a node that
    /// has started since the other fell silent can only ask those who remain: if they could not hear it, none can
    /// tell.
    pub(super) fn cannot_hear(&self, a: usize, b: usize) -> bool {
        let since = self.now.saturating_sub(3 * nanos(self.settings.slowest()));
        let troubled = |node: usize| {
            let host = &self.hosts[node];
            host.process.is_none() || host.trouble.is_some_and(|at| at >= since)
        };
        let grade = |a: usize, b: usize| if troubled(a) || troubled(b) { Grade::Firm } else { Grade::Live };
        let strangers = |a: usize, b: usize| {
            // What the other says before an interval is over may not echo the newcomer yet, and proves nothing to it.
            let met = self.hosts[a].started_at + nanos(self.settings.interval);
            !self.network.has_heard(b, a, met)
                && (0..self.hosts.len())
                    .any(|other| other != b && !self.network.in_touch(other, b, since, grade(other, b)))
        };
        // Round trips are to stay below half a time-out: they do not through a daemon that is slower than its mail.
        let behind = |node: usize| self.hosts[node].behind.is_some_and(|at| at >= since);
        if strangers(a, b) || strangers(b, a) || behind(a) || behind(b) {
            return true;
        }
        !self.network.in_touch(a, b, since, grade(a, b))
    }

    pub(super) fn write_lease(&mut self, node: usize, until: Time) {
        let now = self.now;
        let host = &mut self.hosts[node];
        let local = host.clock.read(now);
        // What the daemon could know when it looked. It may lose the processor between its look and the write;
        // whether that does harm is what S1 and S2 say.
        let looked_at = host.process.as_ref().map_or(local, |process| process.looked_at);
        let lapsed = looked_at >= host.kernel.lease && !host.kernel.owned.is_empty();
        if lapsed && until > local {
            let (late, owned) = (looked_at.since(host.kernel.lease), host.kernel.owned);
            self.violate(
                "R4 a lapsed lease stays lapsed",
                format!("n{node} revives a lease {late:?} after it lapsed, owning {owned:?}"),
            );
            return;
        }
        host.kernel.lease = until;
        self.watch_lease(node);
        self.look(node);
    }

    /// Has the world look at a node when its lease in force ends.
    pub(super) fn watch_lease(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let end = host.clock.moment(host.kernel.lease);
        if end > self.now && !host.lapse_scheduled {
            host.lapse_scheduled = true;
            self.push(end, Happening::Lapse(node));
        }
    }

    pub(super) fn look_at_view(&mut self, node: usize) {
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        let machine = process.brain.machine();
        let view = machine.view();
        if view.map(|view| view.id) == process.view {
            return;
        }
        process.view = view.map(|view| view.id);
        let (Some(view), highest, me) = (view.cloned(), process.highest, machine.me()) else {
            self.note(|| format!("n{node} is in no view"));
            return;
        };
        process.highest = highest.max(view.id);
        let promised = process.words.promised;
        self.note(|| {
            let owners: Vec<usize> =
                view.members.iter().map(|m| view.owned_by(m.identity.id).len()).collect();
            format!("n{node} adopts {:?} {:?} {owners:?}", view.id, view.reason)
        });
        if view.id <= highest {
            self.violate(
                "views are monotone",
                format!("n{node} adopts {:?} after it was in {highest:?}", view.id),
            );
        } else if view.id < promised {
            self.violate(
                "R1 a promise is kept",
                format!("n{node} adopts {:?} after it had promised {promised:?}", view.id),
            );
        } else if !view.names(me) {
            self.violate("views name who adopts them", format!("n{node} adopts {:?}", view.id));
        }
        if let Err(what) = self.judge.view(&view) {
            self.violate("views are exact", format!("n{node}: {what}"));
        }
    }

    /// One call of the machine may adopt several views, so least movement is checked by what it tells.
    pub(super) fn hear_of_view(&mut self, node: usize, event: &Event) {
        let recently = self.now.saturating_sub(3 * nanos(self.settings.slowest()));
        self.former_views.retain(|(at, _)| *at >= recently);
        let others: Vec<ViewId> = self
            .hosts
            .iter()
            .filter_map(|host| host.process.as_ref().map(|process| process.told))
            .chain(self.former_views.iter().map(|(_, id)| *id))
            .collect();
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        match event {
            Event::View { id, .. } => {
                let (own, me) = (process.told, process.brain.machine().me());
                process.told = *id;
                self.former_views.push((self.now, own));
                let bases: Vec<ViewId> =
                    std::iter::once(own).chain(others).filter(|base| base < id).collect();
                if id.coordinator == me
                    && own != ViewId::NONE
                    && let Err(what) = self.judge.change(&bases, *id)
                {
                    self.violate("movement is least", format!("n{node}: {what}"));
                }
            }
            Event::LeftOut { .. } => {
                self.former_views.push((self.now, process.told));
                process.told = ViewId::NONE;
            }
            _ => {}
        }
    }
}
