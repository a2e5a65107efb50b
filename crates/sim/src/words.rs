//! What a daemon has said and done, as the judge takes it down: others build on it.

use std::collections::BTreeSet;

use rudel_proto::bucket::BucketSet;
use rudel_proto::id::{Identity, ViewId};

use crate::clock::Moment;

/// Words of this many views are kept: older ones nobody acts on any more.
const VIEWS_MAX: usize = 8;

/// What one daemon has said in its run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    /// The highest promise that it has sent.
    pub(crate) promised: ViewId,
    /// In which views it has said that it is settled, and when it last did; the latest at the end.
    settled: Vec<(ViewId, Moment)>,
    /// Whom its views have named, and whom a daemon of this run that is dead had heard.
    pub(crate) named: BTreeSet<Identity>,
    /// What the protocol owned when the judge last looked, its view then, and whether it was settled in that.
    pub(crate) owned: BucketSet,
    pub(crate) view: ViewId,
    pub(crate) was_settled: bool,
}

impl Words {
    /// It says that it is settled in a view.
    pub(crate) fn settles(&mut self, view: ViewId, now: Moment) {
        match self.settled.iter_mut().find(|(id, _)| *id == view) {
            Some((_, at)) => *at = now,
            None => {
                self.settled.push((view, now));
                if self.settled.len() > VIEWS_MAX {
                    self.settled.remove(0);
                }
            }
        }
    }

    /// When it last said so of this view.
    pub(crate) fn settled_at(&self, view: ViewId) -> Option<Moment> {
        self.settled.iter().find(|(id, _)| *id == view).map(|(_, at)| *at)
    }
}
