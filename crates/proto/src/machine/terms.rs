//! R11: how all members come to live by other terms (time-out, interval, quorum, addresses) while they run.
//!
//! A node obeys a *set* of terms, all of them at once: its lease is the shortest that any of them allows, nobody is
//! expired for it who is not by all of them, and its quorum is the largest. So two nodes are safe with each other
//! while their sets share an element, and everything here keeps it so.
//!
//! ```text
//!           set      says                    goes on when
//!  want     {A}      digest A, wanted B      everyone known wants B
//!  bind     {A, B}   digest A, wanted B      its lease in force is no longer than B allows
//!  offer    {A, B}   … and bound             everyone known is bound: the coordinator makes a view of terms B
//!  adopt    {A, B}   digest B                everyone known is settled in exactly this view, or is over
//!  release  {B}      digest B
//! ```

use std::time::Duration;

use super::{Action, Machine, Phase};
use crate::config::Terms;
use crate::id::Identity;
use crate::status::TermsStatus;
use crate::time::Time;
use crate::view::View;
use crate::wire::Pulse;

/// Terms that are obeyed at once, at most: far more than anybody changes before all have followed.
pub(super) const OBEYED_MAX: usize = 16;

/// What a node lives by, and what it would rather.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// All that are obeyed; each digest once, never empty.
    obeyed: Vec<Terms>,
    /// The digest of those that the adopted view is made for.
    present: u64,
    /// Those that its configuration asks for.
    wanted: Terms,
    /// Whether everyone wants the same: then the wanted ones are obeyed, and not released.
    ready: bool,
    /// Whether its pulses say that they are obeyed.
    bound: bool,
    /// When the set, or what was said of it, changed last: nothing is released before all others have acknowledged a
    /// later pulse.
    since: Time,
    /// The digest that the daemon was told last; `None` if nobody knows.
    told: Option<u64>,
}

impl Agreement {
    pub(super) fn new(terms: Terms, now: Time) -> Self {
        let digest = terms.digest;
        Agreement {
            obeyed: vec![terms],
            present: digest,
            wanted: terms,
            ready: false,
            bound: false,
            since: now,
            told: Some(digest),
        }
    }

    /// R10: of a run that goes on. Whom it has told, and who has acknowledged it, nobody knows any more.
    pub(super) fn resume(obeyed: Vec<Terms>, present: u64, wanted: Terms, bound: bool, now: Time) -> Self {
        Agreement { obeyed, present, wanted, ready: bound, bound, since: now, told: None }
    }

    /// The longest lease that was made by any of the terms.
    pub(super) fn longest_lease(&self) -> Duration {
        self.obeyed.iter().map(Terms::lease).max().unwrap_or_default()
    }

    /// The shortest lease that any of the terms allows.
    fn lease(&self) -> Duration {
        self.obeyed.iter().map(Terms::lease).min().unwrap_or_default()
    }

    fn obeys(&self, digest: u64) -> bool {
        self.obeyed.iter().any(|terms| terms.digest == digest)
    }

    fn is_content(&self) -> bool {
        self.wanted.digest == self.present
    }

    pub(super) fn parts(&self) -> (&[Terms], u64, Terms, [bool; 2], Time, Option<u64>) {
        (&self.obeyed, self.present, self.wanted, [self.ready, self.bound], self.since, self.told)
    }
}

/// Whether the sender of this word obeys these terms, as far as it says.
fn is_bound_to(word: &Pulse, digest: u64) -> bool {
    word.digest == digest || word.bound && word.wanted == digest
}

impl Machine {
    /// The configuration asks for these terms from now on.
    pub(super) fn want_terms(&mut self, now: Time, wanted: Terms) {
        // Whoever has read the configuration has checked it; terms that cannot work are no wish.
        if wanted.validate().is_err() || wanted == self.terms.wanted {
            return;
        }
        self.terms.wanted = wanted;
        self.terms.ready = false;
        self.terms.bound = false;
        self.terms.since = now;
        // Whether the one before is obeyed no more the daemon does not know.
        self.terms.told = None;
    }

    /// A former run of this node may have obeyed these, and others may count on it: so does this one, until everybody
    /// is settled in its view.
    pub(super) fn obey_too(&mut self, now: Time, terms: Terms) {
        let is_in_time = matches!(self.phase, Phase::Listening | Phase::Joining);
        if !is_in_time || terms.validate().is_err() || self.obeys(terms.digest) || self.is_full_of_terms() {
            return;
        }
        self.terms.obeyed.push(terms);
        self.terms.since = now;
        self.obey_all(now);
    }

    fn is_full_of_terms(&self) -> bool {
        self.terms.obeyed.len() >= OBEYED_MAX
    }

    /// The terms that its configuration asks for.
    pub(super) fn wanted_terms(&self) -> Terms {
        self.terms.wanted
    }

    /// The digest of the terms that it says it lives by.
    pub(super) fn present_digest(&self) -> u64 {
        self.terms.present
    }

    /// What its pulses say that it would rather live by, and whether it obeys that already.
    pub(super) fn wanted_digest(&self) -> (u64, bool) {
        (self.terms.wanted.digest, self.terms.bound)
    }

    /// T': the shortest lease that any of the terms allows.
    pub(super) fn lease_span(&self) -> Duration {
        self.terms.lease()
    }

    /// The longest time-out that it obeys, for the others.
    pub(super) fn timeout_us(&self) -> u32 {
        u32::try_from(self.config.timeout.as_micros()).unwrap_or(u32::MAX)
    }

    /// The longest time-out that this node obeyed by its last word; nothing if nobody has heard it.
    pub(super) fn timeout_said_by(&self, identity: Identity) -> Duration {
        let word = self.peers.get(&identity.id).filter(|peer| peer.identity == identity);
        let word = word.and_then(|peer| peer.word.as_ref());
        word.map_or(Duration::ZERO, |word| Duration::from_micros(word.timeout_us.into()))
    }

    /// All that it obeys.
    pub(super) fn obeyed_terms(&self) -> &[Terms] {
        &self.terms.obeyed
    }

    /// Whether it may adopt a view of these terms.
    pub(super) fn obeys(&self, digest: u64) -> bool {
        self.terms.obeys(digest)
    }

    /// Whether the sender of this word lives by, and wants, nothing that this node lives by or wants.
    pub(super) fn is_stranger(&self, word: &Pulse) -> bool {
        let ours = |digest| self.terms.obeys(digest) || self.terms.wanted.digest == digest;
        !ours(word.digest) && !ours(word.wanted)
    }

    /// R11.4: the terms of the next view: those that are wanted, once everyone is bound to them.
    pub(super) fn terms_of_next_view(&self, now: Time) -> u64 {
        let wanted = self.terms.wanted.digest;
        let agreed =
            self.terms.bound && self.everyone(now, |word| word.wanted == wanted && is_bound_to(word, wanted));
        if agreed { wanted } else { self.terms.present }
    }

    /// Whether a view of these terms may name the sender of this word.
    pub(super) fn may_be_named(word: &Pulse, digest: u64) -> bool {
        is_bound_to(word, digest)
    }

    /// The adopted view is made for these terms.
    pub(super) fn live_by(&mut self, now: Time, view: &View) {
        debug_assert!(self.terms.obeys(view.digest));
        if self.terms.present != view.digest {
            self.terms.present = view.digest;
            self.config.digest = view.digest;
            self.terms.since = now;
        }
        if self.terms.is_content() {
            self.terms.ready = false;
            self.terms.bound = false;
        }
    }

    /// R11: takes the next step towards the wanted terms, or back.
    pub(super) fn agree(&mut self, now: Time) {
        self.bind(now);
        self.release(now);
    }

    fn bind(&mut self, now: Time) {
        // R10: who has only just taken a run over has not heard yet what the others want; what it has said holds on.
        let is_silent = self.resuming || matches!(self.phase, Phase::Goodbye { .. } | Phase::Stopped);
        if self.terms.is_content() || is_silent {
            return;
        }
        let wanted = self.terms.wanted;
        // Who is in no view owns nothing, and keeps nobody waiting.
        let ready = (self.obeys(wanted.digest) || !self.is_full_of_terms())
            && (self.phase != Phase::Member || self.everyone(now, |word| word.wanted == wanted.digest));
        self.terms.ready = ready;
        if !ready {
            if self.terms.bound {
                self.terms.bound = false;
                self.terms.since = now;
            }
            return;
        }
        if !self.terms.obeys(wanted.digest) {
            self.terms.obeyed.push(wanted);
            self.terms.since = now;
            self.obey_all(now);
        }
        // R11.3: a lease in force that is longer than the new terms allow would be unknown to who lives by them alone.
        let is_short = || {
            now >= self.lease || self.lease_base().is_some_and(|base| base + self.lease_span() >= self.lease)
        };
        if !self.terms.bound && is_short() {
            self.terms.bound = true;
            self.terms.since = now;
        }
    }

    /// R11.5: what nobody can live by alone any more need not be obeyed.
    fn release(&mut self, now: Time) {
        let only = |terms: &Agreement| {
            let trying = terms.ready.then_some(terms.wanted.digest);
            terms.obeyed.iter().all(|one| one.digest == terms.present || Some(one.digest) == trying)
        };
        if only(&self.terms) && self.terms.told == Some(self.terms.present)
            || self.phase != Phase::Member
            || self.resuming
            || !self.is_everyone_here(now)
        {
            return;
        }
        let Agreement { present, ready, wanted, .. } = self.terms;
        self.terms.obeyed.retain(|terms| terms.digest == present || ready && terms.digest == wanted.digest);
        self.obey_all(now);
        self.terms.told = Some(present);
        self.actions.push_back(Action::Terms(present));
    }

    /// Makes one rule of all terms: each number the one that is safe by every one of them.
    pub(super) fn obey_all(&mut self, now: Time) {
        let obeyed = &self.terms.obeyed;
        let config = &mut self.config;
        config.digest = self.terms.present;
        config.timeout = obeyed.iter().map(|terms| terms.timeout).max().unwrap_or(config.timeout);
        config.interval = obeyed.iter().map(|terms| terms.interval).min().unwrap_or(config.interval);
        config.quorum = obeyed.iter().map(|terms| terms.quorum).max().unwrap_or(config.quorum);
        self.pulse_due = self.pulse_due.min(now + config.interval);
        // Who shows all members was looked up by the former time-out.
        self.peers.values_mut().for_each(|peer| peer.shows_members = None);
    }

    /// Whether the last word of everyone who may own something, or may soon, is such. Who has nothing in common with
    /// this node and is no member keeps nobody waiting: it could not be let in.
    fn everyone(&self, now: Time, is_such: impl Fn(&Pulse) -> bool) -> bool {
        let others = self.others(now).filter(|identity| {
            let word = self.peers.get(&identity.id).and_then(|peer| peer.word.as_ref());
            let is_named = self.view.as_ref().is_some_and(|view| view.names(*identity));
            is_named || !word.is_some_and(|word| self.is_stranger(word))
        });
        others.into_iter().all(|identity| {
            let peer = self.peers.get(&identity.id).filter(|peer| peer.identity == identity);
            peer.and_then(|peer| peer.word.as_ref()).is_some_and(&is_such) || self.is_over(now, identity)
        })
    }

    /// Whether everyone has said, since the last change of what is obeyed, that it is settled in exactly the adopted
    /// view, or owns nothing and never will by an older one, or is over.
    fn is_everyone_here(&self, now: Time) -> bool {
        let Some(view) = self.view.as_ref().filter(|_| self.debts.is_empty()) else {
            return false;
        };
        self.others(now).all(|identity| {
            let peer = self.peers.get(&identity.id).filter(|peer| peer.identity == identity);
            let has_followed =
                peer.and_then(|peer| peer.acknowledged).is_some_and(|sent| sent > self.terms.since);
            has_followed && self.is_settled_in(now, identity, view.id)
                || !view.names(identity) && self.owns_nothing(now, identity, view.id)
                || self.is_over(now, identity)
        })
    }

    /// Everyone whom the view names, and everyone proved alive within T or owed.
    fn others(&self, now: Time) -> impl Iterator<Item = Identity> {
        let named = self.view.iter().flat_map(|view| view.members.iter().map(|m| m.identity));
        let heard = self.heard_peers(now).map(|(peer, _)| peer.identity);
        named.chain(heard).chain(self.debts.iter().copied()).filter(|identity| *identity != self.me)
    }

    /// For people: what it lives by, and what it waits for.
    pub(super) fn terms_status(&self) -> TermsStatus {
        TermsStatus {
            present: self.terms.present,
            wanted: (!self.terms.is_content()).then_some(self.terms.wanted.digest),
            bound: self.terms.bound,
            obeyed: self.terms.obeyed.iter().map(|terms| terms.digest).collect(),
        }
    }
}
