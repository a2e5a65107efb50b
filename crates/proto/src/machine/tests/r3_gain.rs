//! R3 gain: what must be known before a bucket is taken over, and debts.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::id::{Identity, Incarnation, ViewId};
use crate::machine::Action;
use crate::view::View;
use crate::wire::NodeState;

/// Bucket 0 goes from a to the machine.
fn bucket_0_moves(members: &[&str]) -> View {
    give(view(2, "a", members), ME, [0])
}

#[test]
fn r3_gain_waits_for_every_other_node() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let second = bucket_0_moves(&["a", "b", ME]);
    let all = f.machine.owned() | BucketSet::from_iter([0]);
    assert_eq!(f.hear_view("a", &second), [adopted(&second, 1)]);
    assert_eq!(f.hear("a", settled_in(second.id)), [], "b has said nothing yet");
    f.pass(7);
    assert_eq!(f.hear("b", settled_in(second.id)), [Action::Own(all), gained(1, 7)]);
}

#[test]
fn r3_a_node_that_is_not_settled_blocks() {
    let mut f = Fixture::member_of(&["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.hear_view("a", &second);
    let adopted_only = f.hear("a", |pulse| {
        settled_in(second.id)(pulse);
        pulse.settled = false;
    });
    assert_eq!(adopted_only, []);
    assert_eq!(f.hear("a", settled_in(second.id)).len(), 2);
}

#[test]
fn r3_a_lower_view_does_not_count() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear_view("a", &bucket_0_moves(&["a", ME]));
    assert_eq!(f.run(TIMEOUT - 50, &["a"]), [], "a is still settled in the first view");
}

#[test]
fn r3_a_higher_view_does_not_count() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let second = bucket_0_moves(&["a", "b", ME]);
    f.hear_view("a", &second);
    f.hear("b", settled_in(second.id));
    // a skipped the second view: in the third it may have retained bucket 0, which the second takes from it.
    let third = view_id(3, "b");
    assert_eq!(f.hear("a", settled_in(third)), []);
    assert_eq!(f.hear("b", settled_in(second.id)), []);
}

#[test]
fn r3_a_node_outside_the_view_that_serves_blocks() {
    let mut f = Fixture::member_of(&["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    // z is in another view; nobody has told of it but z itself.
    let elsewhere = view_id(1, "z");
    f.hear("z", settled_in(elsewhere));
    f.hear_view("a", &second);
    assert_eq!(f.hear("a", settled_in(second.id)), []);
    assert!(!f.machine.is_settled(), "z is a debt");
    // Even in exactly this view: it is not named, so it cannot be settled in it.
    assert_eq!(f.hear("z", settled_in(elsewhere)), []);
}

#[test]
fn r3_a_node_outside_the_view_counts_if_it_owns_nothing_and_promised_this_view() {
    let mut f = Fixture::member_of(&["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.hear("z", joining(view_id(1, "a")));
    f.hear_view("a", &second);
    assert_eq!(f.hear("a", settled_in(second.id)), [], "z may still adopt a view below this one");
    for state in [NodeState::Listening, NodeState::Joining] {
        let mut g = Fixture::member_of(&["a", ME]);
        g.hear("z", joining(view_id(1, "a")));
        g.hear_view("a", &second);
        g.hear("a", settled_in(second.id));
        let effects = g.hear("z", |pulse| {
            joining(second.id)(pulse);
            pulse.state = state;
        });
        assert_eq!(effects.len(), 2, "{state:?}: {effects:?}");
    }
    // A member has an owner's word to give: that it owns nothing now does not count.
    f.hear("z", |pulse| {
        joining(second.id)(pulse);
        pulse.state = NodeState::Draining;
    });
    assert_eq!(f.owns(), []);
}

#[test]
fn r3_a_named_node_that_only_joins_blocks() {
    let mut f = Fixture::member_of(&["a", ME]);
    let second = bucket_0_moves(&["a", "b", ME]);
    f.hear("b", joining(view_id(1, "a")));
    f.hear_view("a", &second);
    f.hear("a", settled_in(second.id));
    assert_eq!(f.hear("b", joining(second.id)), [], "it may adopt the view and a later one at any time");
    assert_eq!(f.hear("b", settled_in(second.id)).len(), 2);
}

#[test]
fn r3_a_run_younger_than_t_waits_for_who_has_not_answered_it_yet() {
    // What z has said may be a recording, or z may serve by what this node's run before has echoed.
    let mut f = Fixture::member_of(&["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.claimed = second.id;
    f.hear("z", deaf);
    f.hear_view("a", &second);
    assert_eq!(f.hear("a", |_| {}), []);
    f.run(TIMEOUT, &["a"]);
    assert!(f.machine.owned().contains(0), "at most until it is T old");
    // Who says good-bye is not waited for.
    let mut f = Fixture::member_of(&["a", ME]);
    f.claimed = second.id;
    f.hear("z", deaf);
    f.hear_view("a", &second);
    f.hear("z", |pulse| {
        deaf(pulse);
        pulse.gone = true;
    });
    assert_eq!(f.hear("a", |_| {}).len(), 2);
    // To one that has lived for T without an answer, it is a recording.
    let mut f = Fixture::member_of(&["a", ME]);
    f.run(TIMEOUT, &["a"]);
    f.claimed = second.id;
    f.hear("z", deaf);
    f.hear_view("a", &second);
    assert_eq!(f.hear("a", |_| {}).len(), 2);
}

#[test]
fn r3_a_former_member_is_a_debt_until_it_owns_nothing() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.hear_view("a", &second);
    f.hear("a", settled_in(second.id));
    assert!(!f.machine.owned().contains(0));
    assert!(!f.machine.is_settled());
    assert_eq!(f.pulses().iter().filter(|pulse| pulse.settled).count(), 0, "it does not claim to be settled");
    let effects = f.hear("b", joining(second.id));
    assert_eq!(effects.len(), 2, "{effects:?}");
    assert!(f.machine.is_settled() && f.machine.owned().contains(0));
    assert!(f.pulses().iter().any(|pulse| pulse.settled && pulse.adopted == second.id), "it says so at once");
}

#[test]
fn r3_debts_survive_views_in_between() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    f.hear_view("a", &view(2, "a", &["a", ME]));
    let third = give(view(3, "a", &["a", ME]), ME, [0]);
    f.hear_view("a", &third);
    assert_eq!(f.hear("a", settled_in(third.id)), [], "the second view did not know b, but the first did");
    assert!(!f.machine.is_settled());
}

#[test]
fn r3_gain_needs_no_debts() {
    // c was named by the second view, and never heard: only the debt remembers it.
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear_view("a", &view(2, "a", &["a", "c", ME]));
    let third = give(view(3, "a", &["a", ME]), ME, [0]);
    f.hear_view("a", &third);
    f.claimed = third.id;
    assert_eq!(f.hear("a", |_| {}), []);
    assert!(!f.machine.is_settled());
    f.run(TIMEOUT, &["a"]);
    assert!(f.machine.is_settled() && f.machine.owned().contains(0), "c is expired");
}

#[test]
fn r3_a_debt_that_a_later_view_names_again_is_that_views_matter() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    f.hear_view("a", &view(2, "a", &["a", ME]));
    assert!(!f.machine.is_settled());
    f.hear_view("a", &view(3, "a", &["a", "b", ME]));
    assert!(f.machine.is_settled());
}

#[test]
fn r3_an_expired_node_does_not_block() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let second = bucket_0_moves(&["a", "b", ME]);
    f.hear("b", |_| {});
    f.hear_view("a", &second);
    f.claimed = second.id;
    f.run(400, &["a"]);
    assert!(!f.machine.owned().contains(0), "b was heard less than T ago");
    f.run(50, &["a"]);
    assert!(f.machine.owned().contains(0));
}

#[test]
fn r3_a_good_bye_does_not_block() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let second = bucket_0_moves(&["a", "b", ME]);
    f.hear_view("a", &second);
    f.hear("a", settled_in(second.id));
    let effects = f.hear("b", |pulse| {
        pulse.state = NodeState::Leaving;
        pulse.gone = true;
    });
    assert_eq!(effects.len(), 2, "{effects:?}");
}

#[test]
fn r3_a_word_counts_only_while_it_acknowledges_a_pulse_sent_within_t_prime() {
    let mut f = Fixture::member_of(&["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.hear_view("a", &second);
    // a is silent, and its next pulse echoes one that is older than T', though younger than T.
    f.pass(LEASE);
    let (old, age) = f.pulse_before(LEASE + 1);
    assert!(age < TIMEOUT, "{age}");
    let echo = echoing(old);
    let effects = f.hear("a", |pulse| {
        settled_in(second.id)(pulse);
        echo(pulse);
    });
    assert_eq!(effects, []);
    assert_eq!(f.hear("a", settled_in(second.id)).len(), 2, "the same word, fresh");
}

#[test]
fn r3_a_word_counts_only_if_it_acknowledges_as_proven() {
    // An echo alone: a hears this node, but nothing has proved to a that this node lives. It may expire it at once.
    let mut f = Fixture::member_of(&["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.hear_view("a", &second);
    f.pass(LEASE);
    let effects = f.hear("a", |pulse| {
        settled_in(second.id)(pulse);
        pulse.heard.iter_mut().for_each(|entry| entry.proven = false);
    });
    assert_eq!(effects, []);
    assert_eq!(f.hear("a", settled_in(second.id)).len(), 2);
}

#[test]
fn r3_gain_needs_a_valid_lease() {
    // With a quorum of 2 the lease is made of the echo of a, which never proves that a hears this node's answers.
    let mut f = Fixture::quorum_of(2, &["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.hear_view("a", &second);
    f.run_saying(400, &["a"], |_, pulse| {
        for entry in &mut pulse.heard {
            entry.proven = false;
        }
    });
    assert_eq!(f.machine.owned(), BucketSet::EMPTY, "the lease has lapsed");
    let unproven = f.run_saying(500, &["a"], |_, pulse| {
        settled_in(second.id)(pulse);
        for entry in &mut pulse.heard {
            entry.proven = false;
        }
    });
    assert_eq!(unproven, []);
    assert_eq!(f.hear("a", settled_in(second.id)).len(), 2);
    assert!(f.machine.lease() > f.now);
}

#[test]
fn r3_with_a_quorum_so_many_members_must_be_settled_in_exactly_this_view() {
    let mut f = Fixture::quorum_of(3, &["a", "b", ME]);
    let second = give(view(2, "a", &["a", "b", ME]), ME, [0]);
    f.hear_view("a", &second);
    f.hear("a", settled_in(second.id));
    // b says good-bye: it blocks no longer, and the lease holds for a while on its last echo. But two are not three.
    let effects = f.hear("b", |pulse| {
        pulse.state = NodeState::Leaving;
        pulse.gone = true;
    });
    assert!(f.machine.lease() > f.now);
    assert_eq!(effects, []);
    assert_eq!(f.hear("a", settled_in(second.id)), []);
}

#[test]
fn r3_a_run_younger_than_t_is_none_of_the_quorum() {
    let young = |view: ViewId, uptime_ms: u32| {
        move |pulse: &mut crate::wire::Pulse| {
            settled_in(view)(pulse);
            pulse.uptime_ms = uptime_ms;
        }
    };
    let mut f = Fixture::quorum_of(2, &["a", ME]);
    let second = bucket_0_moves(&["a", ME]);
    f.hear_view("a", &second);
    // a's run before this one may have echoed somebody whom this one has not heard of: that lease may still hold.
    assert_eq!(f.hear("a", young(second.id, TIMEOUT as u32 - 1)), []);
    assert_eq!(f.hear("a", young(second.id, TIMEOUT as u32)).len(), 2);
    // With a quorum of one no lease is made of echoes.
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear_view("a", &second);
    assert_eq!(f.hear("a", young(second.id, 1)).len(), 2);
}

#[test]
fn r3_a_node_itself_is_none_of_the_quorum_before_it_has_run_for_t() {
    let mut f = Fixture::new(2);
    let first = view(1, "a", &["a", ME]);
    f.claimed = first.id;
    f.hear("a", |_| {});
    f.hear_view("a", &first);
    assert_eq!(f.machine.view(), Some(&first));
    f.run(TIMEOUT - INTERVAL, &["a"]);
    assert_eq!(f.machine.owned(), BucketSet::EMPTY);
    f.run(2 * INTERVAL, &["a"]);
    assert_eq!(f.machine.owned(), f.given());
}

#[test]
fn r3_a_later_run_of_a_node_must_give_its_own_word() {
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let second = bucket_0_moves(&["a", "b", ME]);
    f.hear_view("a", &second);
    f.hear("a", settled_in(second.id));
    // b restarts: its former run, which the view names, is over; the new one is a debt until it has promised.
    let later = f.restart("b");
    assert_eq!(later, Identity { id: id("b"), incarnation: Incarnation(11) });
    assert_eq!(f.hear("b", joining(ViewId::NONE)), []);
    assert_eq!(f.hear("b", joining(second.id)).len(), 2);
}
