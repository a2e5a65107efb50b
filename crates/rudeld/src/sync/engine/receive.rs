//! What other nodes tell: let in, put in order, believed, written.

use std::collections::BTreeMap;
use std::time::Duration;

use rudel_proto::bucket::BucketSet;
use rudel_proto::id::{Incarnation, NodeId, NodeName};
use rudel_proto::seal::{Rejection, Sender};
use rudel_proto::time::Time;

use super::{Engine, Flow, Form, Output, is_over, liberal};
use crate::sync::conntrack::{Entry, Tuple, Write};
use crate::sync::wire::{self, Item, RANGES_MAX};

/// A node that has not been heard for so long is not named in beats.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(4);
/// A gap is asked for again after this.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A gap that is open for so long is skipped.
const GIVE_UP_AFTER: Duration = Duration::from_millis(500);
/// A whole transfer that has not begun is asked for again after this.
const WANT_EVERY: Duration = Duration::from_millis(500);
/// Datagrams that wait behind a gap; more of them end the waiting.
const HELD_MAX: usize = 4096;

/// Another router, in one run.
pub(super) struct Peer {
    name: NodeName,
    incarnation: Incarnation,
    token: u64,
    /// It has echoed my token, so what comes later is no recording.
    proven: bool,
    /// The number that comes next.
    next: u64,
    /// What came too early.
    held: BTreeMap<u64, Vec<Item>>,
    /// Since when something is missing.
    gap_since: Option<Time>,
    asked_at: Time,
    heard_at: Time,
    /// What it claims.
    owned: BucketSet,
    /// The transfer that is under way: its number, its round, what the peer has claimed since its beginning.
    transfer: Option<(u32, u32, BucketSet)>,
    /// It has told all of its connections, and no word was lost since.
    whole: bool,
    wanted_at: Option<Time>,
    /// It has not been heard for long: nothing is asked of it.
    silent: bool,
}

impl Peer {
    fn new(sender: &Sender, now: Time) -> Self {
        Peer {
            name: sender.name.clone(),
            incarnation: sender.incarnation,
            token: 0,
            proven: false,
            next: 0,
            held: BTreeMap::new(),
            gap_since: None,
            asked_at: Time::ZERO,
            heard_at: now,
            owned: BucketSet::EMPTY,
            transfer: None,
            whole: false,
            wanted_at: None,
            silent: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    pub(super) fn is_heard(&self, now: Time) -> bool {
        now.since(self.heard_at) < FORGOTTEN_AFTER
    }

    pub(super) fn has_gap(&self) -> bool {
        !self.held.is_empty()
    }

    /// Nothing is missing of it, as far as can be known.
    pub(super) fn is_synced(&self) -> bool {
        self.whole || (self.proven && self.owned.is_empty() && self.held.is_empty())
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        let ask = (!self.held.is_empty()).then(|| self.asked_at + ASK_EVERY);
        let want = self.wants_all().then(|| self.wanted_at.map_or(Time::ZERO, |at| at + WANT_EVERY));
        ask.into_iter().chain(want).min()
    }

    fn wants_all(&self) -> bool {
        self.proven && !self.whole && self.transfer.is_none() && !self.owned.is_empty() && !self.silent
    }

    /// The ranges of numbers between what was handled and what is held.
    fn missing(&self) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        let mut expected = self.next;
        for number in self.held.keys() {
            if *number > expected {
                ranges.push((expected, number - 1));
                if ranges.len() == RANGES_MAX {
                    break;
                }
            }
            expected = number + 1;
        }
        ranges
    }
}

impl Engine {
    /// A datagram has come. What is not let in changes nothing.
    ///
    /// # Errors
    /// Why it was not let in. A repetition is none: with two links everything comes twice.
    pub fn handle_datagram(&mut self, now: Time, datagram: &[u8]) -> Result<(), Rejection> {
        let (sender, message) = self.opener.open(datagram)?;
        if self.is_me(sender.id) {
            return Err(Rejection::DuplicateName { name: sender.name.to_string() });
        }
        let items = wire::decode(&message)
            .map_err(|what| Rejection::Malformed { name: sender.name.to_string(), what })?;
        let peer = self.peers.entry(sender.id).or_insert_with(|| Peer::new(&sender, now));
        if sender.incarnation < peer.incarnation {
            return Err(Rejection::Outdated { name: sender.name.to_string() });
        }
        if sender.incarnation > peer.incarnation {
            *peer = Peer::new(&sender, now);
        }
        let number = sender.sequence;
        let beat = items.iter().find_map(|item| match item {
            Item::Beat { token, heard } => Some((*token, heard)),
            _ => None,
        });
        if let Some((token, heard)) = beat {
            if token < peer.token || token > number {
                return Err(Rejection::Outdated { name: sender.name.to_string() });
            }
            if token > peer.token {
                *peer = Peer { token, ..Peer::new(&sender, now) };
            }
            let (me, mine) = (self.me, self.outbox.token());
            if !peer.proven && heard.contains(&(me, mine)) {
                peer.proven = true;
                peer.next = number;
            }
        }
        if !peer.proven {
            peer.heard_at = now;
            if beat.is_some() {
                // It must hear my token's echo from me, and I mine from it.
                self.outbox.beat_soon();
            }
            return Ok(());
        }
        if number < peer.next || peer.held.contains_key(&number) {
            return Ok(());
        }
        (peer.heard_at, peer.silent) = (now, false);
        self.counts.messages_received += 1;
        for item in &items {
            match item {
                // Requests need no order.
                Item::Missing { of, ranges } if *of == self.me => self.handle_missing(ranges),
                Item::Want { of } if *of == self.me => self.begin_transfer(true),
                // It does not hear me in this run yet.
                Item::Beat { heard, .. } if !heard.contains(&(self.me, self.token())) => {
                    self.outbox.beat_soon();
                }
                _ => {}
            }
        }
        self.put_in_order(now, sender.id, number, items);
        Ok(())
    }

    /// Asks for what is missing; gives up what stays so.
    pub(super) fn look_at_peers(&mut self, now: Time) {
        for id in self.known_nodes() {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if peer.held.len() > HELD_MAX
                || peer.gap_since.is_some_and(|since| now.since(since) >= GIVE_UP_AFTER)
            {
                self.skip_gap(now, id);
            }
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            peer.silent = !peer.is_heard(now);
            let mut words = Vec::new();
            if !peer.held.is_empty() && now >= peer.asked_at + ASK_EVERY {
                peer.asked_at = now;
                let ranges = peer.missing();
                self.counts.asked += ranges.iter().map(|(first, last)| last - first + 1).sum::<u64>();
                words.push(Item::Missing { of: id, ranges });
            }
            if peer.wants_all() && peer.wanted_at.is_none_or(|at| now >= at + WANT_EVERY) {
                peer.wanted_at = Some(now);
                words.push(Item::Want { of: id });
            }
            words.into_iter().for_each(|word| self.ask(word));
        }
    }

    /// Handles all that has come, whether something before it is missing or not: whoever sent it may be dead.
    pub(super) fn hear_out(&mut self, now: Time) {
        for id in self.known_nodes() {
            while self.peers.get(&id).is_some_and(Peer::has_gap) {
                self.skip_gap(now, id);
            }
        }
    }

    fn put_in_order(&mut self, now: Time, from: NodeId, number: u64, items: Vec<Item>) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if number > peer.next {
            if peer.held.is_empty() {
                // A datagram that was merely overtaken comes within this time.
                peer.asked_at = now - ASK_EVERY + Duration::from_millis(5);
            }
            peer.gap_since.get_or_insert(now);
            peer.held.insert(number, items);
            return;
        }
        peer.next = number + 1;
        self.believe(from, items);
        self.go_on(now, from);
    }

    /// Handles what is held and has become the next.
    fn go_on(&mut self, now: Time, from: NodeId) {
        let mut moved = false;
        while let Some(peer) = self.peers.get_mut(&from) {
            let Some(items) = peer.held.remove(&peer.next) else {
                if peer.held.is_empty() {
                    peer.gap_since = None;
                } else if moved {
                    peer.gap_since = Some(now);
                }
                return;
            };
            peer.next += 1;
            moved = true;
            self.believe(from, items);
        }
    }

    fn skip_gap(&mut self, now: Time, from: NodeId) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let Some(first) = peer.held.keys().next().copied() else {
            return;
        };
        self.counts.gaps_skipped += 1;
        peer.next = first;
        // What was lost may have been anything: the whole is asked for, and no running transfer can be called whole.
        (peer.whole, peer.transfer, peer.wanted_at) = (false, None, None);
        self.go_on(now, from);
    }

    /// Believes what a node says, in the order in which it says it.
    fn believe(&mut self, from: NodeId, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Record { bucket, entry } => {
                    self.counts.records_received += 1;
                    // What is forwarded there may end here: then the kernel has an entry of its own for it.
                    if self.is_believed(from, bucket) && self.classify.bucket(&entry).is_some() {
                        self.state(bucket, &entry);
                    }
                }
                Item::Gone { bucket, orig } => {
                    if self.is_believed(from, bucket) {
                        self.forget(bucket, &orig);
                    }
                }
                Item::Claim(owned) => {
                    if let Some(peer) = self.peers.get_mut(&from) {
                        let gained = owned - peer.owned;
                        peer.owned = owned;
                        if let Some((.., claimed)) = &mut peer.transfer {
                            // A bucket that went is passed over, even if it comes back before the end.
                            *claimed = *claimed & owned;
                        }
                        if !gained.is_empty() && !peer.whole {
                            // What it gained from somebody whom this node did not hear out may be in no transfer of either.
                            peer.wanted_at = None;
                        }
                    }
                }
                Item::Begin { transfer } => {
                    self.round = self.round.wrapping_add(1).max(1);
                    let round = self.round;
                    if let Some(peer) = self.peers.get_mut(&from) {
                        peer.transfer = Some((transfer, round, peer.owned));
                    }
                }
                Item::End { transfer } => self.end_transfer(from, transfer),
                Item::Beat { .. } | Item::Missing { .. } | Item::Want { .. } => {}
            }
        }
    }

    fn is_believed(&mut self, from: NodeId, bucket: u8) -> bool {
        let claimed = self.peers.get(&from).is_some_and(|peer| peer.owned.contains(bucket));
        let believed = claimed && !self.owned.contains(bucket);
        self.counts.disbelieved += u64::from(!believed);
        believed
    }

    /// A connection is as its owner says.
    fn state(&mut self, bucket: u8, entry: &Entry) {
        let replica = Entry { timeout_s: self.settings.replica_timeout_s, tcp: liberal(entry.tcp), ..*entry };
        let update = |timeout_s| {
            Output::Write(Write::Update {
                orig: entry.orig,
                status: entry.status,
                timeout_s,
                mark: Some(entry.mark),
                tcp: replica.tcp,
            })
        };
        let flows = &mut self.flows[usize::from(bucket)];
        if entry.tcp.is_some_and(|tcp| is_over(tcp.state)) {
            // It ends by its own clock from here on.
            if flows.remove(&entry.orig).is_some_and(|flow| flow.form != Form::Absent) {
                self.outputs.push_back(update(entry.timeout_s));
            }
            return;
        }
        let mut said = Flow::new(entry, Form::Replica);
        (said.announced, said.stated, said.dumped) = (true, self.round, self.dumps);
        let known = flows.get(&entry.orig).copied().filter(|known| known.form != Form::Absent);
        let kept = known.filter(|known| known.reply == entry.reply);
        // Made by this node, and by packets of nobody yet.
        said.learns_windows = kept.is_none_or(|kept| kept.form == Form::Replica && kept.learns_windows);
        flows.insert(entry.orig, said);
        match known {
            None => self.outputs.push_back(Output::Write(Write::Create(replica))),
            Some(known) if known.reply != entry.reply => {
                // A translation cannot be changed.
                self.outputs.push_back(Output::Write(Write::Delete(entry.orig)));
                self.outputs.push_back(Output::Write(Write::Create(replica)));
            }
            Some(known) => {
                let changed = known.form == Form::Own
                    || (known.status, known.mark, known.tcp) != (entry.status, entry.mark, entry.tcp);
                if changed {
                    self.outputs.push_back(update(replica.timeout_s));
                }
            }
        }
    }

    fn forget(&mut self, bucket: u8, orig: &Tuple) {
        if let Some(flow) = self.flows[usize::from(bucket)].remove(orig)
            && flow.form != Form::Absent
        {
            self.outputs.push_back(Output::Write(Write::Delete(*orig)));
        }
    }

    fn end_transfer(&mut self, from: NodeId, number: u32) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let Some((_, round, told)) = peer.transfer.take_if(|(begun, ..)| *begun == number) else {
            return;
        };
        self.counts.transfers_received += 1;
        // What it gained meanwhile may have been passed over: then once more.
        peer.whole = (peer.owned - told).is_empty();
        let outputs = &mut self.outputs;
        for bucket in (told - self.owned).iter() {
            self.flows[usize::from(bucket)].retain(|orig, flow| {
                // Rounds count from one, and an early one is forgotten long before they wrap.
                let told = flow.stated >= round;
                if !told {
                    self.counts.swept += 1;
                    if flow.form != Form::Absent {
                        outputs.push_back(Output::Write(Write::Delete(*orig)));
                    }
                }
                told
            });
        }
    }
}
