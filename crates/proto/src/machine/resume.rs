//! R10: a run that outlives its daemon. The successor takes over what the kernel still holds, within the lease.
//!
//! What the predecessor knew of others (ages, words, proofs) died with it, and nothing of that is guessed here: for T
//! the successor only retains. What it must not forget is in the [`Memo`], which was left before each datagram that
//! says something new.

use std::time::Duration;

use super::drains::Drain;
use super::terms::{Agreement, OBEYED_MAX};
use super::{Action, Machine, Phase};
use crate::bucket::BucketSet;
use crate::config::{Config, Terms};
use crate::event::Event;
use crate::id::{Identity, ViewId};
use crate::time::Time;
use crate::view::View;
use crate::wire::{Checkup, Heard, Message, Reader, Writer};

/// Numbers of datagrams that a memo reserves at once: nearly an hour of regular pulses.
pub const NUMBERS_RESERVED: u64 = 1 << 16;
/// The layout of a memo.
const VERSION: u8 = 3;
/// Good-byes and debts that a memo can tell of; more have never been alive within 64 T.
const TOLD_MAX: usize = 64;

/// What a successor must know of the run that it goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memo {
    /// The node, and its run.
    pub me: Identity,
    /// The machine that it runs on.
    pub host: u64,
    /// All terms that it obeyed, those of the view among them (R11).
    pub obeyed: Vec<Terms>,
    /// The terms that it wanted, and whether it said that it obeyed them.
    pub wanted: Terms,
    /// See `wanted`.
    pub bound: bool,
    /// No datagram of this run has a higher number.
    pub reserved: u64,
    /// The weight in force, and the one that was configured then.
    pub weight: u16,
    /// See `weight`.
    pub configured_weight: u16,
    /// Whether nothing was wrong that it knew of without asking.
    pub healthy: bool,
    /// What its health checks had come to.
    pub checkup: Checkup,
    /// The highest examination that it had heard of.
    pub examination: u32,
    /// Whether it was told to give its share away.
    pub draining: bool,
    /// Whether the lease may have been moved by a pulse that nobody had acknowledged.
    pub borrowed: bool,
    /// The adopted view, which names it.
    pub view: View,
    /// The highest view that it has heard of.
    pub promise: ViewId,
    /// Who may own something by a former view.
    pub debts: Vec<Identity>,
    /// Who has said good-bye, and when.
    pub gone: Vec<(Identity, Time)>,
}

/// Everything that a successor takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inheritance {
    /// What the predecessor has left.
    pub memo: Memo,
    /// The buckets that the packet filter passes now.
    pub owned: BucketSet,
    /// Those of them in which it leaves unknown connections to others.
    pub contested: BucketSet,
    /// The buckets that it keeps.
    pub kept: BucketSet,
    /// Until when it may pass packets.
    pub lease: Time,
}

/// Why a run cannot go on. The daemon then begins a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The lease is over: others may have taken the buckets.
    #[error("the lease of the former run is over")]
    Lapsed,
    /// The memo is another node's, or another machine's.
    #[error("the former run was another node's")]
    OtherNode,
    /// The configuration is not of the terms that the run lives by.
    #[error(
        "what must be the same on every node is not what the former run lived by (addresses, mac, hash, side, nat, quorum, \
         timers or the first cluster key)"
    )]
    OtherDigest,
}

fn encode_terms(w: &mut Writer, terms: &Terms) {
    w.u64(terms.digest);
    w.u8(terms.quorum as u8);
    w.u64(terms.timeout.as_nanos() as u64);
    w.u64(terms.interval.as_nanos() as u64);
}

fn decode_terms(r: &mut Reader<'_>) -> Result<Terms, &'static str> {
    let (digest, quorum) = (r.u64()?, r.u8()?.into());
    let (timeout, interval) = (Duration::from_nanos(r.u64()?), Duration::from_nanos(r.u64()?));
    let terms = Terms { digest, quorum, timeout, interval };
    terms.validate().map(|()| terms).map_err(|_| "terms that nobody can live by")
}

impl Memo {
    /// As bytes, at most 4 kB of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(VERSION);
        w.identity(self.me);
        w.u64(self.host);
        w.u64(self.reserved);
        w.u16(self.weight);
        w.u16(self.configured_weight);
        w.flags([self.healthy, self.draining, self.checkup.good, self.checkup.last_good, self.borrowed]);
        w.u32(self.checkup.called);
        w.u32(self.checkup.answered);
        w.u32(self.examination);
        w.u8(self.bound.into());
        encode_terms(&mut w, &self.wanted);
        w.u8(self.obeyed.len().min(OBEYED_MAX) as u8);
        self.obeyed.iter().take(OBEYED_MAX).for_each(|terms| encode_terms(&mut w, terms));
        w.view_id(self.promise);
        w.u8(self.debts.len().min(TOLD_MAX) as u8);
        self.debts.iter().take(TOLD_MAX).for_each(|debt| w.identity(*debt));
        w.u8(self.gone.len().min(TOLD_MAX) as u8);
        for (identity, at) in self.gone.iter().take(TOLD_MAX) {
            w.identity(*identity);
            w.u64(at.as_nanos());
        }
        w.bytes(&Message::View(Box::new(self.view.clone())).encode());
        w.finish()
    }

    /// From what [`Memo::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let r = &mut Reader::new(bytes);
        if r.u8()? != VERSION {
            return Err("a memo of another version");
        }
        let (me, host, reserved) = (r.identity()?, r.u64()?, r.u64()?);
        let (weight, configured_weight) = (r.u16()?, r.u16()?);
        let [healthy, draining, good, last_good, borrowed] = r.flags()?;
        let checkup = Checkup { good, last_good, called: r.u32()?, answered: r.u32()? };
        let examination = r.u32()?;
        let (bound, wanted) = (r.u8()? != 0, decode_terms(r)?);
        let mut obeyed = Vec::new();
        for _ in 0..r.u8()? {
            obeyed.push(decode_terms(r)?);
        }
        let promise = r.view_id()?;
        let mut debts = Vec::new();
        for _ in 0..r.u8()? {
            debts.push(r.identity()?);
        }
        let mut gone = Vec::new();
        for _ in 0..r.u8()? {
            gone.push((r.identity()?, Time::from_nanos(r.u64()?)));
        }
        let Message::View(view) = Message::decode(r.rest())? else {
            return Err("no view");
        };
        let view = *view;
        if !view.names(me) || promise < view.id || weight > 1000 || configured_weight > 1000 {
            return Err("a memo that contradicts itself");
        }
        let obeys = |digest| obeyed.iter().any(|terms| terms.digest == digest);
        if !obeys(view.digest) || bound && !obeys(wanted.digest) {
            return Err("a memo of terms that were not obeyed");
        }
        Ok(Memo {
            me,
            host,
            obeyed,
            wanted,
            bound,
            reserved,
            weight,
            configured_weight,
            healthy,
            checkup,
            examination,
            draining,
            borrowed,
            view,
            promise,
            debts,
            gone,
        })
    }

    /// Whether a node of this configuration can go on with the run, as far as the lease is not concerned.
    pub fn fits(&self, config: &Config) -> Result<(), ResumeError> {
        if (self.me.id, self.host) != (config.id(), config.host) {
            return Err(ResumeError::OtherNode);
        }
        if self.view.digest != config.digest {
            return Err(ResumeError::OtherDigest);
        }
        Ok(())
    }
}

impl Machine {
    /// R10: goes on with a run at `now`, if its lease still holds. The configuration must be of the terms of the memo's
    /// view; what else the run obeys, and wants, is in the memo.
    pub fn resume(config: Config, inheritance: Inheritance, now: Time) -> Result<Self, ResumeError> {
        let Inheritance { memo, owned, contested, kept, lease } = inheritance;
        memo.fits(&config)?;
        if now >= lease {
            return Err(ResumeError::Lapsed);
        }
        let mut machine = Machine::new(config, memo.me.incarnation, now);
        machine.phase = Phase::Member;
        // R11: neither back to older terms nor ahead to those of a file: what was said of them holds on.
        machine.terms = Agreement::resume(memo.obeyed, memo.view.digest, memo.wanted, memo.bound, now);
        machine.obey_all(now);
        // By whichever of them the lease in force was made.
        let longest = machine.terms.longest_lease();
        // A weight that was set at run time holds on; one that the administrator has written since is newer.
        if memo.configured_weight == machine.config.weight {
            machine.weight = memo.weight;
        }
        machine.healthy = memo.healthy;
        machine.checkup = memo.checkup;
        machine.examination = memo.examination;
        machine.draining = memo.draining;
        // That it drains has been told.
        machine.drain = if memo.draining { Drain::Begun } else { Drain::None };
        machine.sequence = memo.reserved;
        machine.promise = memo.promise;
        machine.debts = memo.debts.into_iter().collect();
        machine.gone =
            memo.gone.into_iter().map(|(who, at)| (who.id, (who.incarnation, at.min(now)))).collect();
        // R2: what the kernel passes and the view gives; what the view takes away is given up now at the latest.
        let given = memo.view.owned_by(machine.me.id);
        machine.owned = owned & given;
        let given_up = if machine.config.handover { owned - given } else { BucketSet::EMPTY };
        machine.keeping = (kept | given_up) - machine.owned;
        machine.contested = contested & machine.owned;
        machine.lease = lease.min(now + longest);
        // R4: the lease tells when the predecessor's last pulse but one was at the latest.
        machine.steady = Some(machine.lease - longest);
        machine.woke_at = now;
        machine.borrowed = memo.borrowed;
        machine.proves = false;
        machine.remember(memo.view.clone());
        machine.view = Some(memo.view);
        machine.given = given;
        machine.listen_on(now);
        machine.actions.push_back(Action::Own(machine.owned));
        let (buckets, kept) = (machine.owned.len(), machine.keeping.len());
        machine.actions.push_back(Action::Event(Event::Resumed { buckets, kept }));
        machine.arm(now);
        Ok(machine)
    }

    /// What a successor of this run must know at this moment; `None` if there is nothing that it could go on with.
    pub fn memo(&self) -> Option<Memo> {
        let takes_part = self.phase == Phase::Member && self.stalled_at.is_none() && !self.leaving;
        let view = self.view.clone().filter(|_| takes_part)?;
        Some(Memo {
            me: self.me,
            host: self.config.host,
            obeyed: self.obeyed_terms().to_vec(),
            wanted: self.wanted_terms(),
            bound: self.wanted_digest().1,
            reserved: self.sequence,
            weight: self.weight,
            configured_weight: self.config.weight,
            healthy: self.healthy,
            checkup: self.checkup,
            examination: self.examination,
            draining: self.draining,
            borrowed: self.steady.is_some() && (self.proves || self.borrowed),
            view,
            promise: self.promise,
            debts: self.debts.iter().copied().collect(),
            gone: self
                .gone
                .iter()
                .map(|(id, (incarnation, at))| (Identity { id: *id, incarnation: *incarnation }, *at))
                .collect(),
        })
    }

    /// R10: for T after it resumed, and after each stall within that, a node judges nobody, coordinates nothing and
    /// gains nothing.
    pub(super) fn listen_on(&mut self, now: Time) {
        self.resuming = true;
        self.late_until = now + self.config.timeout;
    }

    /// R10: ends the time of listening.
    pub(super) fn end_resuming(&mut self, now: Time) {
        self.resuming = self.resuming && self.is_late(now);
    }

    /// R10.5: whether somebody has been heard of to whom it could prove itself alive, and has not yet; or since its last
    /// pulse, while that has not been acknowledged.
    pub(super) fn owes_a_proof(&self) -> bool {
        let mut others = self.peers.values().filter(|peer| !self.is_gone(peer.identity));
        if self.proves || self.borrowed {
            let last = self.sent.back().map(|(_, at)| *at);
            return self.resuming && self.steady.is_some() && others.any(|peer| peer.last_heard_of() > last);
        }
        others.next().is_some()
    }

    /// R10.5: notes whether the pulse that is about to go out, with this heard table, proves that this node is alive.
    ///
    /// Who is not echoed cannot tell it from a recording.
    pub(super) fn note_proof(&mut self, table: &[Heard]) {
        let echoes = || table.iter().any(|entry| !entry.gone && entry.identity.id != self.me.id);
        self.proves |= !self.resuming || self.is_alone() || !self.borrowed && echoes();
    }

    /// Whether its view names nobody else who may be there.
    pub(super) fn is_alone(&self) -> bool {
        let mut members = self.view.iter().flat_map(|view| &view.members).map(|member| member.identity);
        !members.any(|who| who != self.me && !self.is_gone(who))
    }
}

impl Memo {
    /// Whether it says the same, but for numbers and times that change all the time.
    pub fn says_the_same(&self, other: &Memo) -> bool {
        let quiet = |memo: &Memo| {
            let gone: Vec<(Identity, Time)> = memo.gone.iter().map(|(who, _)| (*who, Time::ZERO)).collect();
            Memo { reserved: 0, gone, ..memo.clone() }
        };
        quiet(self) == quiet(other)
    }
}
