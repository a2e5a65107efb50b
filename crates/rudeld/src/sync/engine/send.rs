//! What this node tells: gathered, numbered, limited in rate, kept for those who miss it.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::AHashSet;
use rudel_proto::bucket::BucketSet;
use rudel_proto::id::NodeId;
use rudel_proto::time::Time;

use super::{Engine, Output};
use crate::sync::conntrack::Tuple;
use crate::sync::wire::Item;

/// Datagrams that are made in one batch: at 5 ms 4,000 a second, 5 MB/s, some 150,000 connections.
const DATAGRAMS_PER_BATCH: usize = 20;
/// Of these, what a refresh that nobody waits for takes.
const REFRESH_PER_BATCH: usize = 1;
/// Datagrams that are repeated in one batch.
const REPEATS_PER_BATCH: usize = 40;
/// Datagrams that are kept for those who miss them: at most 5 MB, a second at the full rate.
const KEPT_MAX: usize = 4096;
/// A beat at least this often.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A beat so soon after the last word, so that a lost last word is missed.
const BEAT_AFTER: Duration = Duration::from_millis(20);

/// What waits to be told.
pub(super) struct Outbox {
    /// The first number of this run.
    token: u64,
    next: u64,
    /// Datagrams by number, the last of them `next - 1`.
    kept: VecDeque<Vec<u8>>,
    /// New and changed connections, by when they are to be told.
    due: VecDeque<(Time, u8, Tuple)>,
    ends: VecDeque<(u8, Tuple)>,
    repeats: VecDeque<u64>,
    /// Words that are no connections: requests.
    words: Vec<Item>,
    /// Entries whose making failed once and is tried again.
    remade: AHashSet<Tuple>,
    beat_at: Time,
    last_batch: Time,
    batch_wanted: bool,
}

impl Outbox {
    pub(super) fn new(now: Time) -> Self {
        Outbox {
            // Never 0, and higher than any number of an earlier run on this boot of the machine.
            token: now.as_nanos().max(1),
            next: now.as_nanos().max(1),
            kept: VecDeque::new(),
            due: VecDeque::new(),
            ends: VecDeque::new(),
            repeats: VecDeque::new(),
            words: Vec::new(),
            remade: AHashSet::new(),
            beat_at: now,
            last_batch: now,
            batch_wanted: true,
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn now(&self) -> Time {
        self.last_batch
    }

    pub(super) fn batch_at(&self, batch: Duration) -> Time {
        self.last_batch + batch
    }

    pub(super) fn next_due(&self) -> Time {
        self.due.front().map_or(self.beat_at, |(due, ..)| self.beat_at.min(*due))
    }

    /// When the first connection that waits should be told; those that are to be told at once have no time.
    pub(super) fn oldest_due(&self) -> Option<Time> {
        self.due.iter().map(|(due, ..)| *due).find(|due| *due > Time::ZERO)
    }

    /// Numbers of another run, of which the others know nothing yet.
    pub(super) fn begin_anew(&mut self, now: Time) {
        let first = now.as_nanos().max(self.next);
        (self.token, self.next) = (first, first);
        self.kept.clear();
        self.repeats.clear();
        self.beat_at = now;
    }

    pub(super) fn has_work(&self) -> bool {
        self.batch_wanted || !self.ends.is_empty() || !self.repeats.is_empty() || !self.words.is_empty()
    }

    pub(super) fn want_batch(&mut self) {
        self.batch_wanted = true;
    }

    pub(super) fn tell_later(&mut self, due: Time, bucket: u8, orig: Tuple) {
        self.due.push_back((due, bucket, orig));
    }

    pub(super) fn tell_now(&mut self, bucket: u8, orig: Tuple) {
        self.due.push_front((Time::ZERO, bucket, orig));
    }

    pub(super) fn tell_end(&mut self, bucket: u8, orig: Tuple) {
        self.ends.push_back((bucket, orig));
    }

    pub(super) fn say(&mut self, word: Item) {
        if !self.words.contains(&word) {
            self.words.push(word);
        }
    }

    /// A beat soon: somebody waits for this node's answer.
    pub(super) fn beat_soon(&mut self) {
        self.beat_at = self.beat_at.min(self.last_batch + BEAT_AFTER);
    }

    /// Whether the making of an entry that failed is to be tried again: once per batch.
    pub(super) fn remake(&mut self, orig: Tuple) -> bool {
        self.batch_wanted = true;
        self.remade.insert(orig)
    }

    /// Somebody misses these datagrams; returns how many of them there are to be repeated.
    pub(super) fn repeat(&mut self, first: u64, last: u64) -> u64 {
        let oldest = self.next - self.kept.len() as u64;
        let mut count = 0;
        for number in first.max(oldest)..last.saturating_add(1).min(self.next) {
            if self.repeats.len() < KEPT_MAX && !self.repeats.contains(&number) {
                self.repeats.push_back(number);
                count += 1;
            }
        }
        count
    }

    fn keep(&mut self, datagram: Vec<u8>) {
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(datagram);
        self.next += 1;
    }
}

/// All connections of the own buckets are being told, bucket by bucket.
pub(super) struct Transfer {
    number: u32,
    /// Somebody waits for it.
    urgent: bool,
    begun: bool,
    /// The next bucket.
    bucket: u16,
    /// What is left of the one before.
    rest: Vec<Tuple>,
}

/// Datagrams in the making.
struct Composer {
    message: Vec<u8>,
    len_max: usize,
    made: usize,
}

impl Engine {
    /// All that is told in one batch.
    pub(super) fn make_batch(&mut self, now: Time) {
        self.outbox.last_batch = now;
        self.outbox.batch_wanted = false;
        self.outbox.remade.clear();
        self.repeat_some();
        let mut composer = self.composer();
        for word in std::mem::take(&mut self.outbox.words) {
            self.put(&mut composer, &word);
        }
        if self.may_speak() {
            self.tell_ends(&mut composer);
            while composer.made < DATAGRAMS_PER_BATCH
                && self.outbox.due.front().is_some_and(|(due, ..)| *due <= now)
            {
                let (_, bucket, orig) = self.outbox.due.pop_front().expect("it was looked at");
                self.tell(&mut composer, bucket, &orig);
            }
            // What is left over is told in the next batch.
            self.outbox.batch_wanted = self.outbox.due.front().is_some_and(|(due, ..)| *due <= now);
            self.transfer_some(&mut composer);
        }
        if composer.is_used() {
            self.outbox.beat_at = self.outbox.beat_at.min(now + BEAT_AFTER);
        }
        if now >= self.outbox.beat_at {
            self.beat(now, &mut composer);
        }
        self.finish(composer);
    }

    /// Tells at once what is known of buckets that are given up.
    pub(super) fn flush(&mut self, now: Time, lost: BucketSet) {
        self.outbox.last_batch = now;
        let mut composer = self.composer();
        if self.may_speak() {
            self.tell_ends(&mut composer);
            let due = std::mem::take(&mut self.outbox.due);
            for (at, bucket, orig) in due {
                if lost.contains(bucket) {
                    self.tell(&mut composer, bucket, &orig);
                } else {
                    self.outbox.due.push_back((at, bucket, orig));
                }
            }
        }
        self.finish(composer);
    }

    /// Tells what is owned, at once.
    pub(super) fn claim(&mut self, now: Time) {
        self.outbox.last_batch = now;
        let mut composer = self.composer();
        self.beat(now, &mut composer);
        self.finish(composer);
        // Once more, soon: what has changed hands is worth it.
        self.outbox.beat_at = now + BEAT_AFTER;
    }

    /// Begins to tell all connections; for somebody who waits, `urgent`ly.
    pub(super) fn begin_transfer(&mut self, urgent: bool) {
        if let Some(transfer) = &mut self.transfer {
            // Who asks after the beginning may have missed it.
            self.wanted |= urgent;
            transfer.urgent |= urgent;
            return;
        }
        self.transfers = self.transfers.wrapping_add(1);
        let number = self.transfers;
        self.transfer = Some(Transfer { number, urgent, begun: false, bucket: 0, rest: Vec::new() });
    }

    /// Datagrams of this node that somebody misses.
    pub(super) fn handle_missing(&mut self, ranges: &[(u64, u64)]) {
        for (first, last) in ranges {
            self.counts.repeated += self.outbox.repeat(*first, *last);
        }
    }

    fn repeat_some(&mut self) {
        for _ in 0..REPEATS_PER_BATCH {
            let Some(number) = self.outbox.repeats.pop_front() else {
                return;
            };
            let oldest = self.outbox.next - self.outbox.kept.len() as u64;
            let index = number.checked_sub(oldest).and_then(|index| usize::try_from(index).ok());
            if let Some(datagram) = index.and_then(|index| self.outbox.kept.get(index)) {
                self.counts.messages_sent += 1;
                self.outputs.push_back(Output::Send(datagram.clone()));
            }
        }
    }

    fn tell_ends(&mut self, composer: &mut Composer) {
        while composer.made < DATAGRAMS_PER_BATCH {
            let Some((bucket, orig)) = self.outbox.ends.pop_front() else {
                return;
            };
            self.put(composer, &Item::Gone { bucket, orig });
        }
    }

    fn tell(&mut self, composer: &mut Composer, bucket: u8, orig: &Tuple) {
        let Some(flow) = self.flows[usize::from(bucket)].get_mut(orig) else {
            return;
        };
        flow.pending = false;
        if !self.owned.contains(bucket) || !flow.is_worth_telling() {
            return;
        }
        flow.announced = true;
        flow.ending = flow.is_ending();
        let entry = flow.entry(*orig);
        self.counts.records_sent += 1;
        self.put(composer, &Item::Record { bucket, entry });
    }

    fn transfer_some(&mut self, composer: &mut Composer) {
        if !self.has_read_all {
            // What is not named in a transfer, others believe to be gone.
            return;
        }
        let Some(mut transfer) = self.transfer.take() else {
            return;
        };
        let made_max = if transfer.urgent { DATAGRAMS_PER_BATCH } else { composer.made + REFRESH_PER_BATCH };
        if !transfer.begun {
            transfer.begun = true;
            self.put(composer, &Item::Begin { transfer: transfer.number });
        }
        while composer.made < made_max {
            if let Some(orig) = transfer.rest.pop() {
                let bucket = u8::try_from(transfer.bucket - 1).expect("a bucket that was begun");
                self.tell(composer, bucket, &orig);
            } else if let Ok(bucket) = u8::try_from(transfer.bucket) {
                transfer.bucket += 1;
                if self.owned.contains(bucket) {
                    transfer.rest = self.flows[usize::from(bucket)].keys().copied().collect();
                }
            } else {
                self.put(composer, &Item::End { transfer: transfer.number });
                self.counts.transfers_sent += 1;
                if std::mem::take(&mut self.wanted) {
                    self.begin_transfer(true);
                }
                return;
            }
        }
        self.transfer = Some(transfer);
    }

    fn beat(&mut self, now: Time, composer: &mut Composer) {
        let heard = self.heard_tokens(now);
        self.put(composer, &Item::Claim(self.claimed()));
        self.put(composer, &Item::Beat { token: self.outbox.token, heard });
        self.outbox.beat_at = now + BEAT_EVERY;
    }

    fn composer(&self) -> Composer {
        Composer { message: Vec::new(), len_max: self.sealer.message_len_max(), made: 0 }
    }

    fn put(&mut self, composer: &mut Composer, item: &Item) {
        let before = composer.message.len();
        item.encode(&mut composer.message);
        if composer.message.len() > composer.len_max {
            let item = composer.message.split_off(before);
            self.seal(composer);
            composer.message = item;
        }
    }

    fn finish(&mut self, mut composer: Composer) {
        self.seal(&mut composer);
    }

    fn seal(&mut self, composer: &mut Composer) {
        if composer.message.is_empty() {
            return;
        }
        let datagram = self.sealer.seal(self.outbox.next, &composer.message);
        composer.message.clear();
        composer.made += 1;
        self.outbox.keep(datagram.clone());
        self.counts.messages_sent += 1;
        self.outputs.push_back(Output::Send(datagram));
    }

    /// Asks a node for datagrams, or for everything.
    pub(super) fn ask(&mut self, word: Item) {
        self.outbox.say(word);
    }

    pub(super) fn token(&self) -> u64 {
        self.outbox.token()
    }

    pub(super) fn is_me(&self, node: NodeId) -> bool {
        node == self.me
    }
}

impl Composer {
    fn is_used(&self) -> bool {
        self.made > 0 || !self.message.is_empty()
    }
}

#[cfg(test)]
impl Outbox {
    /// As if more had been sent since than is kept.
    pub(super) fn forget_kept(&mut self) {
        self.kept.clear();
    }
}
