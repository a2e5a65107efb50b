//! Handover in place: connections stay where they are while their bucket goes elsewhere.
//!
//! Every node receives every packet, so a node that gives a bucket up can go on serving the connections that it has
//! in it: it *keeps* the bucket, and says so in its pulses. The new owner leaves segments of connections that it does
//! not know to the keepers for as long as some live node's pulse names the bucket. After a crash nobody keeps, and the
//! new owner resets orphans at once.
//!
//! If one dies while another keeps, nobody can tell an orphan by itself: the owner takes what it does not know for the
//! keeper's, and the keeper takes it for the owner's. So the keeper says where that is, and its daemon hands such segments on
//! to the owner, which resets them.

use super::{Action, Machine};
use crate::bucket::BucketSet;
use crate::id::{Identity, NodeId};
use crate::time::Time;
use crate::view::View;

impl Machine {
    /// The buckets that this node has given up, and whose open connections it still serves.
    pub fn kept(&self) -> BucketSet {
        self.keeping
    }

    /// The owned buckets of which some live node keeps connections.
    pub fn contested(&self) -> BucketSet {
        self.contested
    }

    /// The buckets that this node keeps and nobody else, and of which somebody has died who had them or kept them, each with its
    /// owner. What is known neither here nor there is an orphan.
    pub fn bereaved(&self, now: Time) -> Vec<(u8, NodeId)> {
        let (Some(view), false) = (&self.view, (self.bereaved & self.keeping).is_empty()) else {
            return Vec::new();
        };
        // Everybody's word of this very view: who has given a bucket away in it says in the same word that it keeps it.
        let others =
            view.members.iter().map(|member| member.identity).filter(|identity| *identity != self.me);
        let is_there = |identity| {
            self.heard_peers(now).any(|(peer, word)| peer.identity == identity && word.adopted == view.id)
        };
        if !others.into_iter().all(is_there) {
            return Vec::new();
        }
        let kept_by_others =
            self.heard_peers(now).fold(BucketSet::EMPTY, |kept, (_, word)| kept | word.keeping);
        let alone = (self.bereaved & self.keeping) - kept_by_others;
        alone.iter().filter_map(|bucket| Some((bucket, view.owners[usize::from(bucket)]?))).collect()
    }

    /// A view takes the place of another: whoever it does not name any more is dead, and so are its connections, in the buckets
    /// that it had and in those that it kept. Where nobody else keeps any, their owner resets them.
    pub(super) fn bereave(&mut self, now: Time, former: Option<&View>, view: &View) {
        let members = former.iter().flat_map(|former| former.members.iter().map(|member| member.identity));
        let dead: Vec<Identity> = members.filter(|identity| !view.names(*identity)).collect();
        for identity in dead {
            let had = former.map_or(BucketSet::EMPTY, |former| former.owned_by(identity.id));
            self.bereaved = self.bereaved | had;
            self.bereave_of_kept(identity);
        }
        let kept = self.heard_peers(now).fold(self.keeping, |kept, (_, word)| kept | word.keeping);
        self.bereaved = self.bereaved & kept;
    }

    /// Whoever ends keeps nothing more: what it kept by its last word has lost connections. To be asked before its good-bye takes
    /// the place of that.
    pub(super) fn bereave_of_kept(&mut self, identity: Identity) {
        let peer = self.peers.get(&identity.id).filter(|peer| peer.identity == identity);
        if let Some(word) = peer.and_then(|peer| peer.word.as_ref()) {
            self.bereaved = self.bereaved | word.keeping;
        }
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
