//! R5 expire: whose silence counts, according to whom, and what ends a run at once.

use super::fixture::*;
use crate::id::{Identity, Incarnation, NodeId};
use crate::view::Reason;
use crate::wire::{NodeState, Pulse};

/// Whether the machine, the lowest of all, has made a view without `name`.
fn is_expelled(f: &Fixture, name: &str) -> bool {
    f.machine.view().is_some_and(|view| view.members.iter().all(|m| m.identity.id != id(name)))
}

/// Makes `edit` the word of y, which alone is heard beside the machine, until x has been silent for `millis`.
fn silence_of_x(quorum: usize, millis: u64, edit: impl Fn(&mut Pulse)) -> Fixture {
    let mut f = Fixture::quorum_of(quorum, &[ME, "x", "y"]);
    f.hear("x", |_| {});
    f.run_saying(millis / INTERVAL * INTERVAL, &["y"], |_, pulse| edit(pulse));
    f
}

#[test]
fn r5_a_node_is_expired_once_it_was_silent_for_t() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |_| {});
    f.pass(TIMEOUT - 1);
    assert_eq!(f.views(), []);
    f.pass(1);
    let [view] = &f.views()[..] else { panic!("{:?}", f.log) };
    assert_eq!(names_in(view, &[ME, "x"]), [ME]);
    assert_eq!((view.reason, view.subject), (Reason::Expired, id("x")));
    assert_eq!(view.owned_by(id(ME)).len(), 256);
    assert_eq!(f.machine.owned().len(), 256, "and what it owned is taken over with it");
}

#[test]
fn r5_only_a_pulse_that_echoes_counts_as_heard() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.run_saying(400, &["x"], |_, pulse| deaf(pulse));
    assert!(is_expelled(&f, "x"), "a one-way link becomes a cut");
}

#[test]
fn r5_an_echo_of_a_pulse_sent_t_ago_proves_nothing() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.run(TIMEOUT, &["x"]);
    f.pass(10);
    let heard = |f: &Fixture| f.machine.status(f.now).peers[0].heard;
    let before = heard(&f);
    let (old, age) = f.pulse_before(TIMEOUT);
    assert_eq!(age, TIMEOUT + 10);
    f.hear("x", echoing(old));
    assert_eq!(heard(&f), before);
    f.hear("x", echoing(old + 1));
    assert_eq!(heard(&f), Some(ms(0)), "the next pulse was sent within T");
}

#[test]
fn r5_one_report_below_t_vetoes() {
    let mut f = silence_of_x(1, 1000, reporting("x", TIMEOUT - 1));
    assert!(!is_expelled(&f, "x"));
    f.hear("y", reporting("x", TIMEOUT));
    assert!(is_expelled(&f, "x"));
}

#[test]
fn r5_a_report_that_is_not_proven_vetoes_nothing() {
    let f = silence_of_x(1, 500, |pulse| {
        reporting("x", 10)(pulse);
        pulse.heard.iter_mut().filter(|entry| entry.identity.id == id("x")).for_each(|x| x.proven = false);
        pulse.uptime_ms = 100;
    });
    assert!(is_expelled(&f, "x"), "a recording that y hears must not keep x alive");
}

#[test]
fn r5_quorum_nodes_must_report_the_silence() {
    let says_nothing = |pulse: &mut Pulse| pulse.state = NodeState::Listening;
    assert!(is_expelled(&silence_of_x(1, 500, says_nothing), "x"));
    assert!(!is_expelled(&silence_of_x(2, 500, says_nothing), "x"));
    assert!(is_expelled(&silence_of_x(2, 500, |_| {}), "x"));
    assert!(!is_expelled(&silence_of_x(3, 500, |_| {}), "x"), "two of three are not three");
}

#[test]
fn r5_a_late_nodes_report_does_not_count_but_vetoes() {
    let late = |pulse: &mut Pulse| pulse.late = true;
    assert!(is_expelled(&silence_of_x(2, 500, |_| {}), "x"));
    assert!(!is_expelled(&silence_of_x(2, 500, late), "x"), "it does not count");
    let late_veto = |pulse: &mut Pulse| {
        pulse.late = true;
        reporting("x", 100)(pulse);
    };
    assert!(!is_expelled(&silence_of_x(1, 500, late_veto), "x"), "it vetoes");
}

#[test]
fn r5_absent_entry_counts_as_uptime() {
    let absent = |uptime_ms: u32| {
        move |pulse: &mut Pulse| {
            pulse.heard.retain(|entry| entry.identity.id != id("x"));
            pulse.uptime_ms = uptime_ms;
        }
    };
    assert!(!is_expelled(&silence_of_x(2, 500, absent(399)), "x"), "it has not listened for long enough");
    assert!(is_expelled(&silence_of_x(2, 500, absent(400)), "x"));
    assert!(is_expelled(&silence_of_x(1, 500, absent(100)), "x"), "nor is it a veto");
}

#[test]
fn r5_a_report_is_as_old_as_the_pulse_that_it_echoes() {
    // y echoes with a delay of up to d = 150 ms beyond one interval: its report may be that old.
    let run = |millis: u64, delay: u64| {
        let mut f = Fixture::quorum_of(2, &[ME, "x", "y"]);
        f.hear("x", |_| {});
        f.run(200, &["y"]);
        for _ in 0..(millis - 200) / INTERVAL {
            f.pass(INTERVAL);
            let echo = echoing(f.pulse_before(delay).0);
            f.hear("y", echo);
        }
        is_expelled(&f, "x")
    };
    assert!(run(450, 0));
    assert!(!run(450, 200), "this silence of x may have ended before the oldest report was made");
    assert!(run(650, 200), "d longer");
}

#[test]
fn r5_a_listening_node_judges_nobody() {
    // It has heard x once, and then nobody for longer than T.
    let mut f = Fixture::new(1);
    f.hear("x", |pulse| {
        joining(view_id(0, "x"))(pulse);
        deaf(pulse);
    });
    f.pass(TIMEOUT - 1);
    assert_eq!(f.machine.state(), NodeState::Listening);
    assert_eq!(f.views(), []);
}

#[test]
fn r5_a_late_node_judges_nobody() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |_| {});
    f.pass(TIMEOUT - 60);
    // 30 ms after the pulse was due: its own clock may have stood still rather than x.
    f.hang(80);
    assert!(f.silence("x") > TIMEOUT && f.machine.status(f.now).late);
    assert_eq!(f.views(), []);
    f.pass(TIMEOUT + INTERVAL);
    assert!(is_expelled(&f, "x"), "T later it may");
}

#[test]
fn r5_a_higher_incarnation_expires_the_lower_one_at_once() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |_| {});
    let later = f.restart("x");
    f.hear("x", joining(view_id(1, "x")));
    let [view] = &f.views()[..] else { panic!("{:?}", f.log) };
    assert!(view.names(later) && !view.names(identity("x")));
    assert_eq!(f.silence("x"), 0);
}

#[test]
fn r5_a_lower_run_that_is_proved_alive_ends_the_higher_one() {
    // x has lost its count, and its clock was set back: its next run is lower than the one that died. With a quorum of
    // two, nobody else could report the silence of that one.
    let mut f = Fixture::quorum_of(2, &[ME, "x"]);
    f.hear("x", |_| {});
    let former = f.restart("x");
    f.hear("x", joining(view_id(1, "x")));
    assert!(f.machine.view().is_some_and(|view| view.names(former)));
    f.pass(TIMEOUT + INTERVAL);
    let lower = f.restart_as("x", former.incarnation.0 - 2);
    f.run_saying(4 * INTERVAL, &["x"], |_, pulse| joining(view_id(1, "x"))(pulse));
    let view = f.machine.view().expect("a view");
    assert!(view.names(lower) && !view.names(former));
    assert!(f.machine.is_settled(), "the higher run owes nothing");
}

#[test]
fn r5_an_earlier_run_is_rejected() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.restart("x");
    f.hear("x", joining(view_id(1, "x")));
    let mut sender = f.sender("x");
    (sender.incarnation, sender.sequence) = (RUN, 1000);
    let pulse = f.pulse_of("x");
    let (result, _) = f.receive(&sender, crate::wire::Message::Pulse(pulse));
    assert_eq!(result.unwrap_err().reason(), "outdated");
}

#[test]
fn r5_a_later_run_in_a_report_is_no_life_of_the_earlier_one() {
    // y has heard the later run, this node has not yet.
    let f = silence_of_x(2, 500, |pulse| {
        for entry in pulse.heard.iter_mut().filter(|entry| entry.identity.id == id("x")) {
            entry.identity.incarnation = Incarnation(11);
            entry.age_us = 0;
        }
    });
    assert!(is_expelled(&f, "x"));
}

#[test]
fn r5_good_byes_are_repeated_in_heard_tables() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.hear("x", |pulse| pulse.gone = true);
    f.run(100, &["y"]);
    for pulse in f.pulses() {
        let said = pulse.heard.iter().find(|entry| entry.identity == identity("x")).expect("an entry for x");
        assert!(said.gone && !said.proven);
    }
    assert!(!f.pulses().is_empty());
}

#[test]
fn r5_a_repeated_good_bye_is_as_good_as_heard() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.hear("x", |_| {});
    f.hear("y", |pulse| {
        for entry in pulse.heard.iter_mut().filter(|entry| entry.identity.id == id("x")) {
            entry.gone = true;
            entry.proven = false;
        }
    });
    let [view] = &f.views()[..] else { panic!("{:?}", f.log) };
    assert_eq!(names_in(view, &[ME, "x", "y"]), [ME, "y"]);
    assert_eq!(view.reason, Reason::Left);
}

#[test]
fn r5_an_unproven_peer_repeats_no_good_bye() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.hear("x", |_| {});
    f.hear("y", |pulse| {
        pulse.heard.iter_mut().for_each(|entry| entry.gone = true);
        deaf(pulse);
    });
    assert_eq!(f.views(), []);
}

#[test]
fn r5_who_becomes_aware_of_a_silence_says_so_at_once() {
    // The others count on this witness; waiting for the regular pulse would cost up to an interval.
    let mut f = Fixture::member_of(&["a", ME, "x"]);
    f.pass(10);
    f.hear("x", |_| {});
    f.run(350, &["a"]);
    f.pass(49);
    f.pass(1);
    assert_eq!(f.silence("x"), TIMEOUT);
    let [pulse] = &f.pulses()[..] else { panic!("{:?}", f.log) };
    let witness = pulse.heard.iter().find(|entry| entry.identity == identity("x")).expect("an entry for x");
    assert_eq!((witness.age_us, witness.proven), ((TIMEOUT * 1000) as u32, true));
    f.pass(1);
    assert_eq!(f.pulses(), [], "once per silence");
}

#[test]
fn r5_nobody_is_expired_by_names_that_nobody_has() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let stranger = Identity { id: NodeId::from_u64(7), incarnation: Incarnation(u64::MAX) };
    f.hear("x", |pulse| {
        let mut entry = entry("x", 1, 0);
        entry.identity = stranger;
        pulse.heard.push(entry);
    });
    assert_eq!(f.views(), []);
}
