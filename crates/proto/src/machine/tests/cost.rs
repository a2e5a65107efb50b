//! C1: what it costs. One small multicast per node and interval, and a little more for each change.

use super::fixture::*;
use super::wire::Wire;
use crate::machine::Command;

#[test]
fn r6_in_peace_each_node_sends_one_pulse_per_interval() {
    for count in [2, 3, 8, 16, 32] {
        let mut wire = Wire::settled(count);
        wire.run(20 * INTERVAL);
        assert_eq!((wire.pulses(), wire.views()), (20 * count, 0), "{count} nodes");
    }
}

#[test]
fn r6_a_view_change_costs_a_bounded_number_of_messages_per_node() {
    for count in [2, 4, 8, 16, 32] {
        let mut wire = Wire::settled(count);
        let intervals = 8;
        wire.command(0, Command::Drain(true));
        wire.run(intervals * INTERVAL);
        let regular = intervals as usize * count;
        let extra = wire.sent.len() - regular;
        println!("{count} nodes: a drain costs {extra} messages, {} of them views", wire.views());
        assert!(extra <= count * 3 / 2 + 3, "{count} nodes: {extra}");
        assert_eq!(wire.views(), 1, "{count} nodes");
        assert!(wire.nodes.iter().all(|node| node.is_settled()));
    }
}

#[test]
fn r5_a_crash_costs_a_bounded_number_of_messages_per_node() {
    for count in [3, 8, 32] {
        let mut wire = Wire::settled(count);
        wire.dead[count - 1] = true;
        wire.run(16 * INTERVAL);
        wire.assert_one_view(count - 1);
        let regular = 16 * (count - 1);
        let extra = wire.sent.len() - regular;
        println!("{count} nodes: a crash costs {extra} messages, {} of them views", wire.views());
        assert!(extra <= (count - 1) * 3, "{count} nodes: {extra}");
    }
}

#[test]
fn r6_changes_cause_at_most_four_pulses_more_in_an_interval() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.run(INTERVAL, &["a"]);
    let mut pulses = 0;
    for weight in 0..=90 {
        f.command(Command::Weight(weight));
        pulses += f.pulses().len();
    }
    assert_eq!(pulses, 4);
    f.pass(INTERVAL);
    let said = f.pulses();
    assert!(said.len() <= 5, "the next interval has a budget of its own");
    assert_eq!(said.last().unwrap().weight, 90, "and what was not said is said then");
}

#[test]
fn r6_pulses_at_once_do_not_shift_the_phase_of_the_regular_ones() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.run(INTERVAL, &["a"]);
    let last = f.last_pulse_at();
    f.pass(20);
    f.command(Command::Weight(7));
    assert_eq!(f.last_pulse_at(), last + ms(20));
    f.pass(INTERVAL - 20);
    assert_eq!(f.last_pulse_at(), last + ms(INTERVAL));
}

#[test]
fn r6_what_is_heard_alone_causes_no_pulse() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.run(INTERVAL, &["a"]);
    f.hear("a", |_| {});
    assert_eq!(f.pulses(), []);
    f.hear("z", deaf);
    assert_eq!(f.pulses(), [], "two nodes would answer each other without end");
}

#[test]
fn r6_health_weight_and_state_are_said_at_once() {
    for command in [
        Command::Healthy(false),
        Command::Checked { good: true, last_good: false, answered: 0 },
        Command::Checked { good: false, last_good: false, answered: 0 },
        Command::Weight(1),
        Command::Drain(true),
        Command::Leave,
        Command::Connected(false),
    ] {
        let mut f = Fixture::member_of(&["a", ME]);
        f.run(INTERVAL, &["a"]);
        f.command(command.clone());
        assert_eq!(f.pulses().len(), 1, "{command:?}");
    }
}
