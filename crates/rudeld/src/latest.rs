//! What the rest of the daemon must know of the pulse thread, however busy it is.
//!
//! Notices are for people, and dropped if nobody takes them in time. State must not ride on them: it is here, and only
//! the latest counts. Whoever looks late has missed what was between, and nothing else.

use rudel_proto::bucket::BucketSet;
use rudel_proto::id::{Incarnation, ViewId};
use rudel_proto::share::Owners;
use tokio::sync::watch;

/// The state as the pulse thread last told it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    /// Buckets that are kept for their open connections.
    pub kept: BucketSet,
    /// The examination of all health checks that was called last; 0 for none.
    pub examination: u32,
    /// The number of this run, if it is another than the daemon was started with: to be stored for the next. With it,
    /// the new good-byes for the parent to say.
    pub incarnation: Option<(Incarnation, Vec<Vec<u8>>)>,
    /// Who owned what when this daemon took its predecessor's place; since when is not known here.
    pub found: Option<Box<Owners>>,
    /// Who owns what by the adopted view.
    pub owners: Option<(ViewId, Box<Owners>)>,
    /// The digest of the terms that all live by, and nobody by others (R11), and how often that was told.
    pub terms: Option<(u64, u32)>,
    /// Whether this node has ever taken over what a view gave it.
    pub has_served: bool,
}

/// The pulse thread's end.
#[derive(Debug)]
pub struct Teller(watch::Sender<Latest>);

/// The other end.
pub(crate) type Latests = watch::Receiver<Latest>;

/// Nothing is known yet.
pub(crate) fn channel() -> (Teller, Latests) {
    let (sender, receiver) = watch::channel(Latest::default());
    (Teller(sender), receiver)
}

impl Teller {
    /// Changes the state. The lock that this takes is held by the other end for no longer than a copy takes.
    pub fn tell(&self, change: impl FnOnce(&mut Latest)) {
        self.0.send_modify(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn whoever_looks_late_finds_the_latest_of_everything() {
        let (teller, mut latest) = channel();
        let bucket = |n: u8| std::iter::once(n).collect::<BucketSet>();
        // More than any queue would hold, while nobody looks.
        for n in 0..100_000_u32 {
            teller.tell(|latest| latest.kept = bucket(n as u8));
            teller.tell(|latest| latest.examination = n);
        }
        teller.tell(|latest| latest.kept = BucketSet::EMPTY);
        latest.changed().await.unwrap();
        let seen = latest.borrow_and_update().clone();
        assert_eq!((seen.kept, seen.examination), (BucketSet::EMPTY, 99_999));
        assert!(!latest.has_changed().unwrap(), "once is enough");
        teller.tell(|latest| latest.has_served = true);
        drop(teller);
        assert!(
            latest.has_changed().is_err() && latest.borrow().has_served,
            "what was told last can be read"
        );
    }
}
