//! Handover: what a view takes away is kept while connections are open, and whoever gains it knows.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::machine::{Action, Command};
use crate::view::View;
use crate::wire::Pulse;

/// Buckets 1 and 3 go from the machine to a.
fn two_move() -> View {
    give(view(2, "a", &["a", ME]), "a", [1, 3])
}

fn buckets(buckets: impl IntoIterator<Item = u8>) -> BucketSet {
    buckets.into_iter().collect()
}

#[test]
fn r1_what_a_view_takes_away_is_kept_until_no_connection_is_left() {
    let mut f = Fixture::handing_over(&["a", ME]);
    f.hear_view("a", &two_move());
    assert_eq!(f.machine.kept(), buckets([1, 3]));
    assert_eq!(f.pulses().pop().unwrap().keeping, buckets([1, 3]), "said at once");
    assert_eq!(f.command(Command::Ended(buckets([1, 200]))), [Action::Keep]);
    assert_eq!(f.machine.kept(), buckets([3]));
    assert_eq!(f.pulses().pop().unwrap().keeping, buckets([3]));
    assert_eq!(f.command(Command::Ended(BucketSet::ALL)), [Action::Keep]);
    assert_eq!(f.machine.kept(), BucketSet::EMPTY);
}

#[test]
fn r1_what_is_given_up_while_the_daemon_looks_is_kept() {
    let mut f = Fixture::handing_over(&["a", ME]);
    f.hear_view("a", &two_move());
    // The daemon looks for connections in 1 and 3 and finds one in 3; meanwhile 5 is given up, too.
    let third = give(view(3, "a", &["a", ME]), "a", [1, 3, 5]);
    f.hear_view("a", &third);
    f.command(Command::Ended(buckets([1])));
    assert_eq!(f.machine.kept(), buckets([3, 5]));
}

#[test]
fn r1_without_handover_nothing_is_kept() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear_view("a", &two_move());
    assert_eq!(f.machine.kept(), BucketSet::EMPTY);
}

#[test]
fn r7_a_stalled_node_keeps_nothing() {
    let mut f = Fixture::handing_over(&["a", ME]);
    f.hear_view("a", &two_move());
    f.hang(LEASE + 1);
    assert_eq!((f.machine.owned(), f.machine.kept()), (BucketSet::EMPTY, BucketSet::EMPTY));
}

#[test]
fn r3_a_gained_bucket_is_contested_while_a_live_node_keeps_it() {
    let mut f = Fixture::handing_over(&["a", ME]);
    let second = give(view(2, "a", &["a", ME]), ME, [0]);
    f.hear_view("a", &second);
    f.claimed = second.id;
    f.hear("a", |pulse| pulse.keeping = buckets([0]));
    assert!(f.machine.owned().contains(0));
    assert_eq!(f.machine.contested(), buckets([0]));
    assert_eq!(f.hear("a", |_| {}), [Action::Keep]);
    assert_eq!(f.machine.contested(), BucketSet::EMPTY);
    // The keeper dies: whoever is not heard keeps nothing.
    f.hear("a", |pulse| pulse.keeping = buckets([0]));
    f.pass(TIMEOUT);
    assert_eq!(f.machine.contested(), BucketSet::EMPTY);
}

#[test]
fn r3_what_is_gained_back_is_kept_no_longer() {
    let mut f = Fixture::handing_over(&["a", ME]);
    f.hear_view("a", &two_move());
    let third = view(3, "a", &["a", ME]);
    f.hear_view("a", &third);
    f.hear("a", settled_in(third.id));
    assert_eq!(f.machine.owned(), third.owned_by(id(ME)));
    assert_eq!(f.machine.kept(), BucketSet::EMPTY);
}

#[test]
fn r9_a_leaver_waits_for_its_connections() {
    let mut f = Fixture::handing_over(&["a", ME]);
    f.command(Command::Leave);
    let second = give(view(2, "a", &["a", ME]), "a", 0..=255);
    f.hear_view("a", &second);
    f.claimed = second.id;
    f.run(20 * TIMEOUT, &["a"]);
    assert!(f.pulses().iter().all(|pulse| !pulse.gone));
    f.command(Command::Ended(BucketSet::ALL));
    assert!(f.pulses().iter().any(|pulse| pulse.gone));
}

#[test]
fn what_the_dead_had_or_kept_is_bereaved_while_one_node_alone_keeps_it() {
    let mut f = Fixture::handing_over(&["a", "b", "c", ME]);
    // One bucket goes to a and two to b; a keeps the second of them, too.
    let [one, two, three] = *f.machine.owned().iter().take(3).collect::<Vec<_>>() else {
        panic!("it owns some")
    };
    let second = give(give(view(2, "b", &["a", "b", "c", ME]), "a", [one]), "b", [two, three]);
    f.hear_view("b", &second);
    f.hear("a", |pulse| pulse.keeping = buckets([two]));
    assert!([one, two, three].iter().all(|bucket| f.machine.kept().contains(*bucket)));
    let bereaved = |f: &Fixture, bucket| f.machine.bereaved(f.now).into_iter().find(|(of, _)| *of == bucket);
    assert_eq!(f.machine.bereaved(f.now), [], "nobody is dead");
    // a dies, its parent says good-bye for it, and c has its bucket.
    f.hear("a", |pulse| pulse.gone = true);
    let third = give(give(view(3, "b", &["b", "c", ME]), "c", [one]), "b", [two, three]);
    f.hear_view("b", &third);
    assert_eq!(
        f.machine.bereaved(f.now),
        [],
        "c may keep something by this view, and has not said that it does not"
    );
    f.hear("b", settled_in(third.id));
    f.hear("c", settled_in(third.id));
    assert_eq!(bereaved(&f, one), Some((one, id("c"))), "a had it");
    assert_eq!(bereaved(&f, two), Some((two, id("b"))), "a kept it");
    assert_eq!(bereaved(&f, three), None, "of that nothing is lost");
    // c gives it away and keeps it: what this node does not know may be a connection of c.
    let fourth = give(view(4, "b", &["b", "c", ME]), "b", [one, two, three]);
    f.hear_view("b", &fourth);
    let keeping = |kept: &[u8]| {
        let kept = buckets(kept.iter().copied());
        move |pulse: &mut Pulse| {
            settled_in(fourth.id)(pulse);
            pulse.keeping = kept;
        }
    };
    f.hear("b", keeping(&[]));
    f.hear("c", keeping(&[one]));
    assert_eq!((bereaved(&f, one), bereaved(&f, two)), (None, Some((two, id("b")))));
    f.hear("c", keeping(&[]));
    assert_eq!(bereaved(&f, one), Some((one, id("b"))));
    // When nobody keeps it any more, its owner resets by itself.
    f.command(Command::Ended(buckets([one])));
    assert_eq!(bereaved(&f, one), None);
    assert!(bereaved(&f, two).is_some());
}
