//! What must never happen, and how long nobody served.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rudel_proto::bucket::{BUCKET_COUNT, BucketSet};
use rudel_proto::id::{Identity, ViewId};
use rudel_proto::share;
use rudel_proto::view::View;

use crate::clock::Moment;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, in true time.
    pub at: Moment,
    /// Which property, in a word.
    pub property: &'static str,
    /// Who, what and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.property, millis(self.at), self.detail)
    }
}

/// A moment or a span in milliseconds, for people.
pub(crate) fn millis(nanos: u64) -> String {
    format!("{}.{:03} ms", nanos / 1_000_000, nanos / 1_000 % 1_000)
}

/// How long buckets were passed by nobody; one entry per bucket and gap.
#[derive(Clone, Debug, Default)]
pub struct Blackouts {
    spans: Vec<u64>,
}

impl Blackouts {
    /// Adds those of another world.
    pub fn extend(&mut self, other: &Blackouts) {
        self.spans.extend_from_slice(&other.spans);
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// The span that this share of them, in thousandths, does not exceed; zero if there were none.
    pub fn quantile(&mut self, thousandths: usize) -> Duration {
        self.spans.sort_unstable();
        let last = self.spans.len().saturating_sub(1);
        Duration::from_nanos(self.spans.get(last * thousandths / 1000).copied().unwrap_or(0))
    }
}

/// Watches what the kernels pass, and the views.
pub(crate) struct Judge {
    passing: Vec<BucketSet>,
    /// When each kernel last began to pass anything after it had passed nothing.
    began: Vec<Moment>,
    covered: BucketSet,
    uncovered_since: Box<[Moment; BUCKET_COUNT]>,
    pub(crate) blackouts: Blackouts,
    views: BTreeMap<ViewId, View>,
    /// Who has ever adopted a view.
    adopters: BTreeMap<ViewId, BTreeSet<usize>>,
    pub(crate) overlaps_excused: u64,
}

impl Judge {
    pub(crate) fn new(nodes: usize) -> Self {
        Judge {
            passing: vec![BucketSet::EMPTY; nodes],
            began: vec![0; nodes],
            covered: BucketSet::EMPTY,
            uncovered_since: Box::new([0; BUCKET_COUNT]),
            blackouts: Blackouts::default(),
            views: BTreeMap::new(),
            adopters: BTreeMap::new(),
            overlaps_excused: 0,
        }
    }

    /// What a kernel passes from now on. Gives the nodes, and how many buckets, that it has begun to share.
    pub(crate) fn pass(&mut self, now: Moment, node: usize, passes: BucketSet) -> Vec<(usize, usize)> {
        let before = self.passing[node];
        if before == passes {
            return Vec::new();
        }
        self.passing[node] = passes;
        if before.is_empty() {
            self.began[node] = now;
        }
        let gained = passes - before;
        let overlaps: Vec<(usize, usize)> = self
            .passing
            .iter()
            .enumerate()
            .filter(|(other, theirs)| *other != node && !(gained & **theirs).is_empty())
            .map(|(other, theirs)| (other, (gained & *theirs).len()))
            .collect();

        let covered = self.passing.iter().fold(BucketSet::EMPTY, |all, some| all | *some);
        for bucket in (self.covered - covered).iter() {
            self.uncovered_since[usize::from(bucket)] = now;
        }
        for bucket in (covered - self.covered).iter() {
            self.blackouts.spans.push(now - self.uncovered_since[usize::from(bucket)]);
        }
        self.covered = covered;
        overlaps
    }

    /// What is passed by somebody.
    pub(crate) fn covered(&self) -> BucketSet {
        self.covered
    }

    /// Since when a kernel has passed something without a pause.
    pub(crate) fn began(&self, node: usize) -> Moment {
        self.began[node]
    }

    /// What a kernel passes.
    pub(crate) fn passing(&self, node: usize) -> BucketSet {
        self.passing[node]
    }

    /// A daemon has died before it had told anybody of the views that it made last: it made none. Its memo, which comes
    /// before everything that it says, ends with `told`.
    pub(crate) fn forget_untold(&mut self, maker: Identity, told: ViewId) {
        self.views.retain(|id, _| id.coordinator != maker || *id <= told);
    }

    /// Checks a view that a node has adopted.
    pub(crate) fn view(&mut self, view: &View) -> Result<(), String> {
        if !view.is_well_formed() {
            return Err(format!("not well formed: {view:?}"));
        }
        if let Some(known) = self.views.get(&view.id) {
            return if known == view {
                Ok(())
            } else {
                Err(format!("two views have the identity {:?}: {known:?} and {view:?}", view.id))
            };
        }
        self.views.insert(view.id, view.clone());
        check_quotas(view)
    }

    /// A node has adopted a view.
    pub(crate) fn adopts(&mut self, view: ViewId, node: usize) {
        self.adopters.entry(view).or_default().insert(node);
    }

    /// How many have ever adopted it.
    pub(crate) fn adopters(&self, view: ViewId) -> usize {
        self.adopters.get(&view).map_or(0, BTreeSet::len)
    }

    /// The body of a view that somebody has adopted.
    pub(crate) fn view_of(&self, id: ViewId) -> Option<&View> {
        self.views.get(&id)
    }

    /// L3: nobody loses a bucket while it gains another, compared with one of the views that somebody serves by.
    pub(crate) fn change(&self, bases: &[ViewId], to: ViewId) -> Result<(), String> {
        let Some(view) = self.views.get(&to) else {
            return Ok(());
        };
        let mut first = Ok(());
        for base in bases.iter().filter_map(|base| self.views.get(base)) {
            let checked = check_movement(base, view);
            if checked.is_ok() {
                return checked;
            }
            first = first.and(checked);
        }
        first
    }
}

/// L2: nobody holds more than its weight's share rounded up, where those that hold less than their share's
/// floor (they could not take more) are taken out of the reckoning with what they hold.
///
/// Who waits for somebody whom it does not hear gets nothing, whatever its weight (R6), so it is out too.
fn check_quotas(view: &View) -> Result<(), String> {
    let all: Vec<(usize, usize)> = view
        .members
        .iter()
        .map(|m| (usize::from(m.weight), share::count(&view.owners, m.identity.id)))
        .collect();
    let serving = all.iter().copied().filter(|(_, held)| *held > 0).collect();
    are_quotas(view, all).or_else(|_| are_quotas(view, serving))
}

/// The weights of the members in question, and what they hold.
fn are_quotas(view: &View, mut open: Vec<(usize, usize)>) -> Result<(), String> {
    if open.iter().all(|(weight, _)| *weight == 0) {
        return Ok(());
    }
    let orphans = view.owners.iter().filter(|owner| owner.is_none()).count();
    let mut buckets = BUCKET_COUNT;
    loop {
        let weights: usize = open.iter().map(|(weight, _)| weight).sum();
        if weights == 0 {
            break;
        }
        let stuck: Vec<usize> =
            (0..open.len()).filter(|i| open[*i].1 < buckets * open[*i].0 / weights).collect();
        if stuck.is_empty() {
            break;
        }
        for i in stuck.into_iter().rev() {
            buckets -= open.remove(i).1;
        }
    }
    let weights: usize = open.iter().map(|(weight, _)| weight).sum();
    if weights == 0 {
        // Nobody could take what the others may not keep.
        return Ok(());
    }
    for (weight, held) in open {
        if held > (buckets * weight).div_ceil(weights) + orphans {
            return Err(format!("quota: {held} of {buckets} buckets for {weight} of {weights}: {view:?}"));
        }
    }
    Ok(())
}

/// Nobody loses a bucket while it gains another.
fn check_movement(previous: &View, view: &View) -> Result<(), String> {
    for member in &view.members {
        let id = member.identity.id;
        let (had, has) = (previous.owned_by(id), view.owned_by(id));
        if !(had - has).is_empty() && !(has - had).is_empty() {
            return Err(format!(
                "movement: {id} loses {} and gains {}: {previous:?} then {view:?}",
                (had - has).len(),
                (has - had).len()
            ));
        }
    }
    Ok(())
}
