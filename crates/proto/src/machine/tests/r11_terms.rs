//! R11 terms: what all members live by alike changes for all of them, or for none.

use super::fixture::*;
use super::r10_resume::left_by;
use super::wire::Wire;
use crate::bucket::BucketSet;
use crate::config::{Config, Terms};
use crate::id::Incarnation;
use crate::machine::{Action, Command, Machine, ResumeError};
use crate::view::{Reason, View};
use crate::wire::Pulse;

const NEW: u64 = 77;

fn terms(digest: u64, quorum: usize, timeout: u64, interval: u64) -> Terms {
    Terms { digest, quorum, timeout: ms(timeout), interval: ms(interval) }
}

fn shorter() -> Terms {
    terms(NEW, 1, TIMEOUT / 2, INTERVAL / 2)
}

fn longer() -> Terms {
    terms(NEW, 1, 5 * TIMEOUT, 2 * INTERVAL)
}

/// A peer that wants the new terms as well.
fn wanting(pulse: &mut Pulse) {
    pulse.wanted = NEW;
}

/// A peer that obeys both.
fn bound(pulse: &mut Pulse) {
    pulse.wanted = NEW;
    pulse.bound = true;
}

/// A peer that lives by the new terms.
fn living_by_them(pulse: &mut Pulse) {
    pulse.digest = NEW;
    pulse.wanted = NEW;
}

fn of_new_terms(view: View) -> View {
    View { digest: NEW, ..view }
}

/// What the machine's last pulse said: digest, wanted, bound.
fn said(f: &mut Fixture) -> (u64, u64, bool) {
    f.pass(INTERVAL);
    let pulses = f.pulses();
    let pulse = pulses.last().expect("a pulse each interval");
    (pulse.digest, pulse.wanted, pulse.bound)
}

fn obeyed(f: &Fixture) -> Vec<u64> {
    f.machine.status(f.now).terms.obeyed
}

#[test]
fn r11_terms_change_at_all_members_when_the_last_one_wants_them() {
    for new in [shorter(), longer(), terms(NEW, 2, TIMEOUT, INTERVAL)] {
        let mut wire = Wire::settled(3);
        for i in [2, 0] {
            wire.command(i, Command::Terms(new));
            wire.run(10 * TIMEOUT);
            assert!(wire.nodes.iter().all(|node| node.view().unwrap().digest == 0));
            assert!(wire.nodes.iter().all(|node| node.config().terms() == config("x", 1).terms()));
        }
        let owned: Vec<BucketSet> = wire.nodes.iter().map(|node| node.owned()).collect();
        wire.command(1, Command::Terms(new));
        wire.run(20 * TIMEOUT);
        wire.assert_one_view(3);
        let view = wire.nodes[0].view().unwrap();
        assert_eq!((view.digest, view.reason), (NEW, Reason::Terms));
        for (node, before) in wire.nodes.iter().zip(owned) {
            assert_eq!(node.config().terms(), new);
            assert_eq!(node.owned(), before, "nothing moves");
        }
        assert_eq!(wire.views(), 1, "one view is enough");
    }
}

#[test]
fn r11_nothing_is_obeyed_besides_before_everyone_wants_it() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.command(Command::Terms(shorter()));
    f.run_saying(4 * INTERVAL, &["x", "y"], |name, pulse| {
        if name == "x" {
            wanting(pulse);
        }
    });
    assert_eq!(obeyed(&f), [0]);
    assert_eq!(said(&mut f), (0, NEW, false), "but what it wants it says");
    f.hear("x", wanting);
    f.hear("y", wanting);
    assert_eq!(obeyed(&f), [0, NEW]);
}

#[test]
fn r11_it_is_bound_only_when_its_lease_in_force_is_no_longer_than_the_new_terms_allow() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", wanting);
    f.command(Command::Terms(shorter()));
    let lease = f.machine.lease();
    assert_eq!(obeyed(&f), [0, NEW]);
    for _ in 0..30 {
        f.run_saying(INTERVAL, &["x"], |_, pulse| wanting(pulse));
        if f.machine.status(f.now).terms.bound {
            break;
        }
        assert!(f.machine.lease() == lease, "it moves by the shorter of both");
    }
    assert!(f.machine.status(f.now).terms.bound);
    assert!(f.machine.lease() <= f.last_pulse_at() + shorter().lease());
    assert_eq!(f.machine.owned(), f.given(), "and never lapsed");
}

#[test]
fn r11_what_is_obeyed_for_the_wish_is_not_released_before_it_is_bound() {
    // Alone, everybody has acknowledged everything, long before the lease in force is as short as it has to be.
    let mut f = Fixture::member_of(&[ME]);
    f.command(Command::Terms(shorter()));
    assert_eq!(obeyed(&f), [0, NEW]);
    f.pass(2 * TIMEOUT);
    assert_eq!((f.machine.view().unwrap().digest, obeyed(&f)), (NEW, vec![NEW]));
    assert_eq!(f.machine.owned(), f.given(), "and its lease never lapsed");
}

#[test]
fn r11_a_view_of_the_new_terms_is_made_when_everyone_is_bound() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.command(Command::Terms(longer()));
    f.run_saying(4 * INTERVAL, &["x"], |_, pulse| wanting(pulse));
    assert_eq!((f.machine.view().unwrap().digest, said(&mut f)), (0, (0, NEW, true)));
    f.hear("x", bound);
    let view = f.machine.view().unwrap();
    assert_eq!((view.digest, view.reason, view.subject), (NEW, Reason::Terms, id(ME)));
}

#[test]
fn r11_the_former_terms_are_obeyed_until_everyone_is_settled_in_a_view_of_the_new_ones() {
    let mut f = Fixture::member_of(&["a", ME, "x"]);
    f.command(Command::Terms(longer()));
    f.run_saying(4 * INTERVAL, &["a", "x"], |_, pulse| bound(pulse));
    let new = of_new_terms(view(2, "a", &["a", ME, "x"]));
    f.hear_view("a", &new);
    assert_eq!(f.machine.view(), Some(&new));
    f.run_saying(4 * INTERVAL, &["a", "x"], |name, pulse| match name {
        "a" => {
            settled_in(new.id)(pulse);
            living_by_them(pulse);
        }
        _ => bound(pulse),
    });
    assert_eq!(obeyed(&f), [0, NEW], "x may live by the former terms alone");
    f.claimed = new.id;
    let effects = f.run_saying(2 * INTERVAL, &["a", "x"], |_, pulse| living_by_them(pulse));
    assert_eq!(obeyed(&f), [NEW]);
    assert!(effects.contains(&Action::Terms(NEW)), "{effects:?}");
}

#[test]
fn r11_nobody_is_expired_who_is_not_by_all_terms() {
    for new in [shorter(), longer()] {
        let mut f = Fixture::member_of(&[ME, "x"]);
        f.command(Command::Terms(new));
        f.hear("x", wanting);
        assert_eq!(obeyed(&f), [0, NEW]);
        let longest = new.timeout.as_millis() as u64;
        f.pass(longest.max(TIMEOUT) - 1);
        assert_eq!(f.machine.view().unwrap().members.len(), 2);
        f.pass(1);
        assert_eq!(f.machine.view().unwrap().members.len(), 1);
    }
    // By the former terms one report is enough; the new ones want another, and who is late reports nothing.
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.command(Command::Terms(terms(NEW, 2, TIMEOUT, INTERVAL)));
    f.hear("x", wanting);
    f.hear("y", wanting);
    assert_eq!(obeyed(&f), [0, NEW]);
    f.run_saying(4 * TIMEOUT, &["x"], |_, pulse| {
        wanting(pulse);
        pulse.late = true;
    });
    assert_eq!(f.machine.view().unwrap().members.len(), 3);
}

#[test]
fn r11_the_largest_quorum_counts() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.command(Command::Terms(terms(NEW, 3, TIMEOUT, INTERVAL)));
    f.hear("x", wanting);
    assert_eq!(f.machine.config().quorum, 3);
    f.run_saying(TIMEOUT, &["x"], |_, pulse| wanting(pulse));
    assert!(f.machine.owned().is_empty(), "no third node acknowledges");
}

#[test]
fn r11_a_wish_that_is_taken_back_is_obeyed_until_everyone_has_acknowledged_that() {
    let mut f = Fixture::member_of(&["a", ME, "x"]);
    f.command(Command::Terms(longer()));
    f.run_saying(2 * INTERVAL, &["a", "x"], |_, pulse| bound(pulse));
    assert_eq!(said(&mut f), (0, NEW, true));
    f.command(Command::Terms(config(ME, 1).terms()));
    let before = f.last_pulse();
    assert_eq!(obeyed(&f), [0, NEW]);
    f.run_saying(2 * INTERVAL, &["a", "x"], |name, pulse| {
        if name == "x" {
            echoing(before - 1)(pulse);
        }
    });
    assert_eq!(obeyed(&f), [0, NEW], "x may make a view of the new terms on its former word");
    f.run(2 * INTERVAL, &["a", "x"]);
    assert_eq!(obeyed(&f), [0]);
    assert_eq!(f.machine.config().timeout, ms(TIMEOUT));
}

#[test]
fn r11_a_wish_that_is_taken_back_too_late_is_a_wish_to_go_back() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(Command::Terms(longer()));
    f.run_saying(2 * INTERVAL, &["a"], |_, pulse| bound(pulse));
    f.command(Command::Terms(config(ME, 1).terms()));
    let new = of_new_terms(view(2, "a", &["a", ME]));
    f.hear_view("a", &new);
    assert_eq!(f.machine.view(), Some(&new));
    assert_eq!(said(&mut f), (NEW, 0, false));
}

#[test]
fn r11_who_wants_other_terms_in_the_middle_keeps_all_from_being_bound() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.command(Command::Terms(longer()));
    f.run_saying(2 * INTERVAL, &["x"], |_, pulse| wanting(pulse));
    assert_eq!(said(&mut f), (0, NEW, true));
    f.hear("x", |pulse| pulse.wanted = 5);
    assert_eq!(said(&mut f), (0, NEW, false));
    f.run_saying(2 * INTERVAL, &["x"], |_, pulse| pulse.wanted = 5);
    assert_eq!(obeyed(&f), [0]);
}

#[test]
fn r11_a_view_of_terms_that_are_not_obeyed_is_not_adopted() {
    let mut f = Fixture::member_of(&["a", ME]);
    let new = of_new_terms(view(2, "a", &["a", ME]));
    f.hear_view("a", &new);
    assert_ne!(f.machine.view(), Some(&new));
    f.hear("a", |pulse| {
        settled_in(new.id)(pulse);
        living_by_them(pulse);
    });
    assert!(f.machine.view().is_none() && f.machine.owned().is_empty(), "the others have gone on");
}

#[test]
fn r11_who_hears_of_a_later_view_of_terms_that_it_does_not_obey_yields_before_anybody_is_settled_in_it() {
    // It is a debt of all who know it, so nobody can be settled while it serves.
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear("a", |pulse| {
        settled_in(view_id(2, "a"))(pulse);
        pulse.digest = NEW;
        pulse.settled = false;
    });
    assert!(f.machine.view().is_none() && f.machine.owned().is_empty());
}

#[test]
fn r11_who_serves_by_other_terms_is_left_out_of_a_view_and_waited_for() {
    // "x" has been away, and made a view of terms that only "m" obeys besides; "y" and "m" lived by others meanwhile.
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.command(Command::Terms(longer()));
    f.run_saying(4 * INTERVAL, &["x", "y"], |_, pulse| wanting(pulse));
    assert_eq!(obeyed(&f), [0, NEW]);
    let without_y = of_new_terms(view(5, "x", &[ME, "x"]));
    f.hear_view("x", &without_y);
    assert_eq!(f.machine.view(), Some(&without_y));
    let mine = f.machine.owned();
    f.run_saying(TIMEOUT, &["x", "y"], |name, pulse| match name {
        "x" => {
            settled_in(without_y.id)(pulse);
            living_by_them(pulse);
        }
        _ => wanting(pulse),
    });
    assert_eq!(names_in(f.machine.view().unwrap(), &[ME, "x", "y"]), [ME, "x"], "y could not adopt it");
    assert!(f.pulses().iter().all(|pulse| !pulse.settled), "y serves");
    assert_eq!((f.machine.owned(), obeyed(&f)), (mine, vec![0, NEW]), "nothing is taken that y may own");
}

#[test]
fn r11_who_starts_with_the_new_terms_comes_in_when_all_want_them() {
    let mut wire = Wire::settled(2);
    wire.command(0, Command::Terms(longer()));
    let Terms { digest, timeout, interval, .. } = longer();
    let late = Config { digest, timeout, interval, ..config("n02", 1) };
    wire.start_as(late, Incarnation(3));
    wire.run(30 * TIMEOUT);
    assert_eq!(wire.nodes[0].view().unwrap().members.len(), 2);
    assert!(wire.nodes[2].owned().is_empty());
    wire.command(1, Command::Terms(longer()));
    wire.run(30 * TIMEOUT);
    wire.assert_one_view(3);
    assert_eq!(wire.nodes[0].view().unwrap().digest, NEW);
}

#[test]
fn r11_who_keeps_the_former_terms_is_kept_out_and_comes_in_when_it_wants_the_present_ones() {
    let mut wire = Wire::settled(2);
    for i in [0, 1] {
        wire.command(i, Command::Terms(longer()));
    }
    wire.run(10 * TIMEOUT);
    wire.start("n02", Incarnation(3));
    wire.run(30 * TIMEOUT);
    assert_eq!(wire.nodes[0].view().unwrap().members.len(), 2);
    wire.command(2, Command::Terms(longer()));
    wire.run(30 * TIMEOUT);
    wire.assert_one_view(3);
    assert_eq!(wire.nodes[2].config().terms(), longer());
}

#[test]
fn r11_terms_that_cannot_work_are_no_wish() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.command(Command::Terms(terms(NEW, 0, TIMEOUT, INTERVAL)));
    f.command(Command::Terms(terms(NEW, 1, TIMEOUT, TIMEOUT)));
    assert_eq!(said(&mut f), (0, 0, false));
}

#[test]
fn r11_a_successor_obeys_and_says_what_its_predecessor_has_said() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.command(Command::Terms(longer()));
    f.run_saying(4 * INTERVAL, &["x"], |_, pulse| wanting(pulse));
    assert_eq!(said(&mut f), (0, NEW, true));
    let (owned, lease) = (f.machine.owned(), f.machine.lease());
    f.succeed(10);
    assert_eq!((f.machine.owned(), f.machine.lease(), obeyed(&f)), (owned, lease, vec![0, NEW]));
    assert_eq!(f.machine.config().timeout, longer().timeout);
    f.command(Command::Terms(longer()));
    assert_eq!(said(&mut f), (0, NEW, true), "x may make a view of the new terms on this word");
    f.hear("x", bound);
    let new = of_new_terms(view(2, "x", &[ME, "x"]));
    f.hear_view("x", &new);
    assert_eq!(f.machine.view(), Some(&new));
}

#[test]
fn r11_a_successor_with_another_file_wants_what_that_says_and_does_not_live_by_it() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let inheritance = left_by(&f.machine);
    let Terms { digest, timeout, interval, .. } = longer();
    let ahead = Config { digest, timeout, interval, ..config(ME, 1) };
    let refused = Machine::resume(ahead, inheritance, f.now).map(|_| ());
    assert_eq!(refused, Err(ResumeError::OtherDigest));
    f.succeed(10);
    f.command(Command::Terms(longer()));
    assert_eq!((said(&mut f), obeyed(&f)), ((0, NEW, false), vec![0]));
    f.run_saying(2 * TIMEOUT, &["x"], |_, pulse| wanting(pulse));
    assert_eq!(said(&mut f), (0, NEW, true), "like one that has read it again");
}

#[test]
fn r11_a_successor_releases_nothing_before_it_has_listened() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(Command::Terms(shorter()));
    f.run_saying(TIMEOUT, &["a"], |_, pulse| bound(pulse));
    let new = of_new_terms(view(2, "a", &["a", ME]));
    f.hear_view("a", &new);
    f.claimed = new.id;
    f.succeed(10);
    f.run_saying(TIMEOUT / 2, &["a"], |_, pulse| living_by_them(pulse));
    assert_eq!(obeyed(&f), [0, NEW], "it does not know yet whom its predecessor has heard");
    let effects = f.run_saying(TIMEOUT, &["a"], |_, pulse| living_by_them(pulse));
    assert_eq!(obeyed(&f), [NEW]);
    assert!(effects.contains(&Action::Terms(NEW)), "{effects:?}");
}

#[test]
fn r11_a_successor_takes_the_lease_for_one_of_the_longest_terms() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", wanting);
    f.command(Command::Terms(shorter()));
    // Made by the former terms, which allow for twice as much.
    let lease = f.machine.lease();
    assert_eq!(obeyed(&f), [0, NEW]);
    let gap = f.now.since(f.last_pulse_at()).as_millis() as u64;
    f.succeed(TIMEOUT / 2 - gap);
    f.pass(0);
    assert_eq!(f.machine.lease(), lease, "by the shorter ones it would have begun in the future");
}

#[test]
fn r11_what_a_former_run_may_have_obeyed_is_obeyed_until_all_are_settled() {
    let mut wire = Wire::settled(2);
    let late = wire.start("n02", Incarnation(3));
    wire.command(late, Command::ObeyToo(longer()));
    assert_eq!(wire.nodes[late].config().timeout, longer().timeout);
    wire.run(30 * TIMEOUT);
    wire.assert_one_view(3);
    assert_eq!(wire.nodes[late].config().terms(), config("n02", 1).terms());
    wire.command(late, Command::ObeyToo(longer()));
    assert_eq!(
        wire.nodes[late].config().terms(),
        config("n02", 1).terms(),
        "a member has said what it obeys"
    );
}

#[test]
fn r11_nobody_is_expired_before_its_own_time_out() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.timeout_us = 2_000 * TIMEOUT as u32);
    f.pass(2 * TIMEOUT - 1);
    assert_eq!(f.machine.view().unwrap().members.len(), 2, "its lease may be as long as that");
    f.pass(1);
    assert_eq!(f.machine.view().unwrap().members.len(), 1);
}
