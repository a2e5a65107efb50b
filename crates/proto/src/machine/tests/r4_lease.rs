//! R4 serve: what a lease is made of, and that it never comes back to life.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::event::Event;
use crate::machine::Action;
use crate::time::Time;
use crate::wire::{Message, Pulse};

impl Fixture {
    /// Wakes the machine at its next pulse, and returns when that was made; nothing is said to be sent yet.
    fn pulse_without_sending(&mut self) -> Time {
        self.log.clear();
        loop {
            let next = self.machine.next_timeout().expect("it pulses for ever");
            self.now = self.now.max(next);
            self.machine.handle_timeout(self.now);
            while let Some(action) = self.machine.poll_action() {
                let is_pulse = matches!(&action, Action::Send { message: Message::Pulse(_), .. });
                self.log.push(action);
                if is_pulse {
                    return self.now;
                }
            }
        }
    }

    /// The clock is read again after sending.
    fn sent_after(&mut self, millis: u64) -> Vec<Action> {
        self.log.clear();
        self.now = self.now + ms(millis);
        self.machine.handle_pulse_sent(self.now);
        while let Some(action) = self.machine.poll_action() {
            self.log.push(action);
        }
        self.log.clone()
    }
}

fn unproven(pulse: &mut Pulse) {
    for entry in &mut pulse.heard {
        entry.proven = false;
    }
}

#[test]
fn r4_the_lease_lasts_t_prime_from_when_the_pulse_was_made() {
    assert_eq!(config(ME, 1).terms().lease(), ms(LEASE));
    let mut f = Fixture::member_of(&["a", ME]);
    let made = f.pulse_without_sending();
    assert_eq!(f.leases(), [], "not before it was sent");
    assert_eq!(f.sent_after(30), [Action::Lease(made + ms(LEASE))], "however long sending took");
}

#[test]
fn r4_a_pulse_that_is_not_sent_moves_no_lease() {
    let mut f = Fixture::member_of(&[ME]);
    let lease = f.machine.lease();
    f.pulse_without_sending();
    assert_eq!(f.machine.lease(), lease);
}

#[test]
fn r4_after_a_late_pulse_the_lease_counts_from_an_interval_after_the_one_before() {
    let mut f = Fixture::member_of(&["a", ME]);
    let before = f.last_pulse_at();
    // 20 ms late: if this pulse is lost, the others count their T from the one before.
    f.hang(INTERVAL + 20);
    assert_eq!(f.leases(), [before + ms(INTERVAL + LEASE)]);
    assert!(f.machine.lease() <= before + ms(TIMEOUT), "so that one lost pulse stays harmless");
}

#[test]
fn r4_with_a_quorum_the_lease_counts_from_the_qth_freshest_acknowledged_pulse() {
    for (quorum, base) in [(1, 0), (2, 100), (3, 200)] {
        let mut f = Fixture::quorum_of(quorum, &["a", "b", ME]);
        // a echoes what is 100 ms old, b what is 200 ms old, for longer than T.
        let late = |f: &Fixture, age| echoing(f.pulse_before(age).0);
        for _ in 0..10 {
            f.pass(INTERVAL);
            let (a, b) = (late(&f, 100), late(&f, 200));
            f.hear("a", a);
            f.hear("b", b);
        }
        let expected = f.now - ms(f.pulse_before(base).1) + ms(LEASE);
        assert_eq!(f.machine.lease(), expected, "quorum {quorum}");
    }
}

#[test]
fn r4_an_echo_that_is_not_proven_moves_no_lease() {
    let mut f = Fixture::quorum_of(2, &["a", ME]);
    let lease = f.machine.lease();
    f.run_saying(100, &["a"], |_, pulse| unproven(pulse));
    assert_eq!(f.machine.lease(), lease);
    f.hear("a", |_| {});
    assert_eq!(f.leases(), [f.last_pulse_at() + ms(LEASE)]);
}

#[test]
fn r4_with_a_quorum_a_pulse_of_its_own_moves_no_lease() {
    let mut f = Fixture::quorum_of(2, &["a", ME]);
    f.hear("a", |_| {});
    f.pass(200);
    assert_eq!(f.leases(), []);
}

#[test]
fn r4_an_old_echo_never_shortens_the_lease() {
    let mut f = Fixture::quorum_of(2, &["a", ME]);
    f.pass(60);
    f.hear("a", |_| {});
    let lease = f.machine.lease();
    let old = f.pulse_before(100).0;
    f.hear("a", echoing(old));
    assert_eq!((f.leases(), f.machine.lease()), (vec![], lease));
}

#[test]
fn r4_a_lease_only_moves_forward() {
    // b restarts, and what its former run acknowledged is forgotten: what is left was echoed by a long ago.
    let mut f = Fixture::quorum_of(2, &["a", "b", ME]);
    f.hear("a", |_| {});
    f.run(200, &["b"]);
    let lease = f.machine.lease();
    f.restart("b");
    f.hear("b", |pulse| {
        joining(view_id(1, "a"))(pulse);
        unproven(pulse);
    });
    f.hear("a", unproven);
    assert_eq!((f.leases(), f.machine.lease()), (vec![], lease));
}

#[test]
fn r4_a_lapsed_lease_is_never_moved_forward_while_anything_is_owned() {
    // The pulse is made in time, but sending it takes until after the lease in force has lapsed: meanwhile others
    // may have expired this node.
    let mut f = Fixture::member_of(&["a", ME]);
    let owned = f.machine.owned().len();
    let lease = f.machine.lease();
    let made = f.pulse_without_sending();
    let sending = lease.since(made).as_millis() as u64;
    let actions = f.sent_after(sending);
    assert_eq!(
        actions[..3],
        [Action::Own(BucketSet::EMPTY), stalled(owned, sending), Action::Lease(made + ms(LEASE)),]
    );
}

#[test]
fn r4_a_late_echo_does_not_revive_a_lapsed_lease() {
    let mut f = Fixture::quorum_of(2, &["a", ME]);
    f.hear("a", |_| {});
    let owned = f.machine.owned().len();
    // The program hangs from just before the lapse to just after it, and finds a fresh echo when it wakes.
    f.pass(LEASE - 10);
    f.now = f.now + ms(60);
    let effects = f.hear("a", |_| {});
    let [own, Action::Event(Event::Stalled { buckets, .. })] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((own, *buckets), (&Action::Own(BucketSet::EMPTY), owned));
}

#[test]
fn r4_nothing_is_owned_from_the_very_moment_that_the_lease_lapses() {
    let mut f = Fixture::quorum_of(2, &["a", ME]);
    let remaining = f.machine.lease().since(f.now);
    f.pass(remaining.as_millis() as u64 - 1);
    assert_eq!(f.owns(), []);
    f.pass(1);
    assert_eq!(f.owns(), [BucketSet::EMPTY], "it asks to be woken for that");
}

#[test]
fn r4_who_has_run_late_lengthens_its_lease_no_more_until_all_that_it_hears_of_know_it_awake() {
    // a has slept, too. What it said in its sleep is the first that this node finds, and to echo that proves nothing to a.
    let mut f = Fixture::member_of(&["a", "b", ME]);
    let before = f.last_pulse_at();
    f.hang(INTERVAL * 4);
    assert_eq!(f.leases(), [before + ms(INTERVAL + LEASE)]);
    f.hear("a", deaf);
    f.pass(INTERVAL);
    f.hear("b", |_| {});
    assert_eq!(f.leases(), [], "b knows, and a does not");
    f.hear("a", unproven);
    assert_eq!(f.leases(), [], "a has it for a recording");
    f.hear("a", |_| {});
    assert_eq!(f.leases(), [f.last_pulse_at() + ms(LEASE)]);
    f.pass(INTERVAL);
    assert_eq!(f.leases(), [f.last_pulse_at() + ms(LEASE)], "as ever");
}

#[test]
fn r4_who_has_run_late_twice_counts_from_before_the_first_time() {
    let mut f = Fixture::member_of(&["a", ME]);
    let before = f.last_pulse_at();
    f.hang(INTERVAL * 3);
    f.hang(INTERVAL * 3);
    assert!(!f.machine.owned().is_empty());
    assert_eq!(f.machine.lease(), before + ms(INTERVAL + LEASE));
}

#[test]
fn r4_who_has_run_late_and_hears_of_nobody_goes_on_as_soon_as_it_must_have_looked_at_its_mail() {
    for members in [&[ME][..], &["a", ME]] {
        let mut f = Fixture::member_of(members);
        let before = f.last_pulse_at();
        f.hang(INTERVAL * 4);
        assert_eq!(f.leases(), [before + ms(INTERVAL + LEASE)]);
        f.pass(INTERVAL);
        assert_eq!(f.leases(), [f.last_pulse_at() + ms(LEASE)], "{members:?}");
    }
}
