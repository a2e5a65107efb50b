//! Handover in place: connections stay where they are while their bucket goes elsewhere.
//!
//! Every node receives every packet, so a node that gives a bucket up can go on serving the connections that it has
//! in it: it *keeps* the bucket, and says so in its pulses. The new owner leaves segments of connections that it does
//! not know to the keepers for as long as some live node's pulse names the bucket. After a crash nobody keeps, and the
//! new owner resets orphans at once.

use super::{Action, Machine};
use crate::bucket::BucketSet;
use crate::time::Time;

impl Machine {
    /// The buckets that this node has given up, and whose open connections it still serves.
    pub fn kept(&self) -> BucketSet {
        self.keeping
    }

    /// The owned buckets of which some live node keeps connections.
    pub fn contested(&self) -> BucketSet {
        self.contested
    }

    /// Connections that are still open in buckets that were given up. Beyond what is kept there are some only when the
    /// time of a drain is over: nobody serves those.
    pub(super) fn connections_left(&self) -> u32 {
        let gives_away = self.draining || self.leaving;
        if gives_away || !self.keeping.is_empty() { self.connections } else { 0 }
    }

    /// R1: what a view takes away is kept, until the daemon finds no connection in it any more.
    pub(super) fn keep(&mut self, given_up: BucketSet) {
        if self.config.handover && !given_up.is_empty() {
            self.keeping = self.keeping | given_up;
            self.actions.push_back(Action::Keep);
        }
    }

    /// Of what is kept, only this is kept on.
    pub(super) fn keep_only(&mut self, still_open: BucketSet) {
        let remaining = self.keeping & still_open;
        if remaining != self.keeping {
            self.keeping = remaining;
            self.actions.push_back(Action::Keep);
        }
    }

    /// Who owns nothing on anybody's word keeps nothing either: a lapsed lease, a good-bye, a view without this node.
    pub(super) fn keep_nothing(&mut self) {
        self.keep_only(BucketSet::EMPTY);
    }

    /// Looks which owned buckets live nodes keep, and takes what this node owns again out of what it keeps.
    pub(super) fn contest(&mut self, now: Time) {
        let regained = self.keeping & self.owned;
        let kept_by_others =
            self.heard_peers(now).fold(BucketSet::EMPTY, |kept, (_, word)| kept | word.keeping);
        // R10: whom a resumed node has not heard yet may still keep.
        let not_heard_yet = if self.resuming { self.contested } else { BucketSet::EMPTY };
        let contested = self.owned & (kept_by_others | not_heard_yet);
        if !regained.is_empty() || contested != self.contested {
            self.keeping = self.keeping - regained;
            self.contested = contested;
            self.actions.push_back(Action::Keep);
        }
    }
}
