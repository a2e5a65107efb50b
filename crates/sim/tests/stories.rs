//! What happened once, or must never happen, told in a few lines each. A violated property panics at any step.

#[path = "stories/health.rs"]
mod health;

use std::time::Duration;

use rudel_proto::Command;
use rudel_proto::wire::NodeState;
use rudel_sim::cluster::{Cluster, ms, us};
use rudel_sim::network::Weather;
use rudel_sim::{Point, Settings};

/// T, the default time-out.
const T: Duration = ms(400);

fn steady(nodes: usize) -> Settings {
    Settings { drift: false, ..Settings::new(nodes) }
}

#[test]
fn story_01_two_nodes_that_start_close_together_form_a_cluster() {
    for apart in [0, 1, 30, 164, 390, 410] {
        let mut t = Cluster::cold(steady(2));
        t.node(0).start();
        t.run(ms(apart));
        t.node(1).start();
        assert!(t.rest() < 4 * T, "{apart} ms apart");
        assert_eq!(t.shares(), [128, 128]);
    }
}

#[test]
fn story_02_a_listening_node_counts_as_owning_nothing_only_with_a_promise() {
    for second in (0..206).step_by(7) {
        for delay in [50, 400, 2000] {
            let mut t = Cluster::cold(steady(3));
            t.weather(Weather { delay_min: delay * 1000, delay_max: delay * 1100, ..Weather::CLEAR });
            t.node(0).start();
            t.run(ms(second));
            t.node(1).start();
            t.run(ms(206 - second));
            t.node(2).start();
            assert!(t.rest() < 5 * T);
        }
    }
}

#[test]
fn story_03_one_echo_does_not_make_two_leases() {
    let mut t = Cluster::cold(Settings { quorum: 2, ..steady(3) });
    t.cut(0, 1);
    for node in 0..3 {
        t.node(node).start();
    }
    t.run(10 * T);
    assert_eq!(t.covered().len(), 256, "n2 and one of the others serve");
    t.heal().run(20 * T);
    assert_eq!(t.shares().iter().sum::<usize>(), 256);
}

#[test]
fn story_04_an_echoer_that_restarts_owes_what_it_hears() {
    for after in (0..800).step_by(23) {
        let mut t = Cluster::with_quorum(3, 2);
        t.cut(0, 2).node(1).power_off();
        t.run(ms(after));
        t.node(1).start_forgetful();
        t.run(6 * T).heal().rest();
    }
}

#[test]
fn story_05_who_is_left_out_of_a_later_view_yields_and_joins_again() {
    let mut t = Cluster::new(3);
    t.one_way(2, 0).one_way(2, 1).run(3 * T);
    assert_eq!(t.shares()[..2], [128, 128]);
    t.heal();
    assert!(t.rest() < 4 * T);
    assert_eq!(t.views(), 1);
}

#[test]
fn story_06_a_lapsed_lease_is_not_revived_by_a_second_hang() {
    for point in Point::ALL {
        for (first, second) in [(277, 253), (340, 60), (300, 341), (120, 330)] {
            let mut t = Cluster::with_quorum(3, 2);
            t.node(0).hang_at(point, ms(second));
            t.node(0).hang(ms(first));
            t.run(4 * T).rest();
        }
    }
}

#[test]
fn story_07_a_node_that_slept_while_it_listened_has_heard_nothing_yet() {
    for asleep in [350, 450, 900] {
        let mut t = Cluster::cold(steady(2));
        t.node(0).start();
        t.rest();
        t.node(1).start();
        t.run(us(100));
        t.node(1).hang(ms(asleep));
        t.run(ms(asleep) + ms(10));
        assert_eq!(t.node(1).passes().len(), 0);
        t.rest();
    }
}

#[test]
fn story_08_a_lone_node_that_hung_finds_out_who_took_over() {
    for hang in [400, 600, 895, 1200] {
        let mut t = Cluster::cold(steady(2));
        t.node(0).start();
        t.rest();
        t.node(0).hang(ms(hang));
        t.node(1).start();
        t.run(ms(hang) + 4 * T).rest();
        assert_eq!(t.shares(), [128, 128]);
    }
}

#[test]
fn story_09_a_dead_daemons_kernel_falls_silent_before_others_take_over() {
    let mut t = Cluster::new(3);
    t.node(1).kill();
    assert!(t.node(1).passes().len() >= 85, "the kernel goes on until the lease ends");
    t.run(2 * T);
    assert_eq!(t.shares(), [128, 0, 128]);
    assert!(t.longest_gap() < ms(150), "{:?}", t.longest_gap());
}

#[test]
fn story_10_a_lost_good_bye_blocks_nobody() {
    let mut t = Cluster::new(3);
    t.node(2).leave();
    while t.node(2).runs() && t.node(2).machine().state() == NodeState::Leaving {
        t.run(us(100));
        if !t.node(2).passes().is_empty() {
            continue;
        }
        // From the first good-bye on, n0 hears none.
        t.one_way(2, 0);
    }
    t.run(2 * T);
    assert_eq!(t.shares(), [128, 128, 0]);
}

#[test]
fn story_11_the_dead_are_expelled_although_every_change_makes_all_pulse_at_once() {
    let mut t = Cluster::new(5);
    t.node(4).power_off();
    t.run(T + ms(60));
    assert_eq!(t.shares()[4], 0);
    assert!(t.covered().len() == 256, "the others have taken over");
    assert!(t.longest_gap() < T + ms(60), "{:?}", t.longest_gap());
}

#[test]
fn thirty_two_nodes_form_one_view() {
    let mut t = Cluster::cold(Settings::new(32));
    for node in 0..32 {
        t.node(node).start();
    }
    assert!(t.rest() < 4 * T);
    assert_eq!((t.views(), t.shares()), (1, vec![8; 32]));
}

#[test]
fn islands_merge_and_nobody_serves_twice_for_long() {
    let mut t = Cluster::new(4);
    t.split(&[0, 0, 1, 1]).run(3 * T);
    assert_eq!(t.shares(), [128, 128, 128, 128], "with a quorum of one each island serves all");
    t.heal();
    assert!(t.rest() < 2 * T);
    assert_eq!((t.views(), t.shares()), (1, vec![64; 4]));
}

#[test]
fn two_of_three_serve_and_the_third_falls_silent_first() {
    let mut t = Cluster::with_quorum(3, 2);
    t.split(&[0, 0, 1]).run(3 * T);
    assert_eq!(t.shares(), [128, 128, 0]);
    t.heal();
    assert!(t.rest() < 3 * T);
}

#[test]
fn a_witness_counts_and_owns_nothing() {
    let mut t = Cluster::of(Settings { quorum: 2, weights: vec![100, 100, 0], ..Settings::new(3) });
    assert_eq!(t.shares(), [128, 128, 0]);
    t.node(0).power_off();
    t.run(2 * T);
    assert_eq!(t.shares(), [0, 256, 0]);
    t.split(&[0, 0, 1]).run(2 * T);
    assert_eq!(t.covered().len(), 0, "without its witness nobody serves alone");
}

#[test]
fn a_hung_daemon_stops_serving_before_anybody_takes_over() {
    for hang in (50..1500).step_by(75) {
        let mut t = Cluster::new(3);
        t.node(1).hang(ms(hang));
        t.run(ms(hang) + T).rest();
    }
}

#[test]
fn a_leaver_and_a_drained_node_cause_no_gap_longer_than_an_exchange() {
    let mut t = Cluster::new(3);
    t.node(1).drain();
    t.run(T);
    assert_eq!(t.shares(), [128, 0, 128]);
    t.node(0).leave();
    t.run(T);
    assert!(!t.node(0).runs());
    assert_eq!(t.shares(), [0, 0, 256]);
    assert!(t.longest_gap() < ms(5), "{:?}", t.longest_gap());
}

#[test]
fn weights_are_shares_and_change_at_once() {
    let mut t = Cluster::new(2);
    t.node(0).weigh(300);
    t.run(ms(20));
    assert_eq!(t.shares(), [192, 64]);
}

#[test]
fn story_12_an_echoer_that_restarted_is_no_member_of_the_quorum_before_the_lease_that_it_gave_is_over() {
    for lead in (60..340).step_by(20) {
        let mut t = Cluster::of(Settings { quorum: 2, ..steady(3) });
        t.cut(0, 2).node(0).power_off();
        t.run(5 * T);
        assert_eq!(t.shares(), [0, 128, 128]);
        t.node(0).start();
        // n1 hears it, but the view that would name it is lost.
        t.lose_bodies(1, 0);
        t.run(ms(lead));
        t.node(1).power_off();
        t.cut(1, 2).node(1).start();
        t.run(4 * T).heal().rest();
    }
}

#[test]
fn a_parents_good_bye_saves_the_wait_for_the_lease() {
    let mut t = Cluster::new(3);
    t.node(2).bury();
    t.run(ms(20));
    assert_eq!(t.shares(), [128, 128, 0]);
    assert!(t.longest_gap() < ms(20), "{:?}", t.longest_gap());
}

#[test]
#[should_panic(expected = "R5 who is left out is silent")]
fn a_parent_that_says_good_bye_before_it_has_emptied_the_kernel_makes_two_owners() {
    let mut t = Cluster::new(3);
    t.node(2).bury_too_late();
    t.run(T);
}

#[test]
fn a_parents_good_bye_that_the_coordinator_missed_is_repeated_by_who_heard_it() {
    let mut t = Cluster::new(3);
    t.one_way(2, 0);
    t.node(2).bury();
    t.run(ms(120));
    assert_eq!(t.shares(), [128, 128, 0], "not after T, but after the next pulse of n1");
}

#[test]
fn of_two_groups_with_different_configurations_that_meet_one_yields() {
    let mut t = Cluster::cold(Settings { digests: vec![1, 1, 2, 2], ..steady(4) });
    t.split(&[0, 0, 1, 1]);
    for node in 0..4 {
        t.node(node).start();
    }
    t.run(6 * T);
    assert_eq!(t.shares(), [128; 4]);
    t.heal().run(6 * T);
    let mut shares = t.shares();
    shares.sort_unstable();
    assert_eq!(shares, [0, 0, 128, 128]);
}

#[test]
fn who_hung_is_no_witness_of_silence_when_it_wakes() {
    for hang in (380..700).step_by(9) {
        let mut t = Cluster::of(Settings { quorum: 2, ..steady(3) });
        t.cut(0, 2).run(4 * T);
        t.node(1).hang(ms(hang));
        for _ in 0..300 {
            t.run(ms(10));
            let members = t.node(0).machine().view().map(|view| view.members.len());
            assert_eq!(members, Some(3), "after {hang} ms");
        }
    }
}

#[test]
fn a_cut_between_two_of_four_that_lasts_moves_nothing() {
    let mut t = Cluster::new(4);
    let before = (t.shares(), t.node(1).machine().view().map(|view| view.id));
    t.cut(0, 3).run(20 * T);
    assert_eq!((t.shares(), t.node(1).machine().view().map(|view| view.id)), before);
}

#[test]
fn a_report_that_is_older_than_the_silence_which_it_tells_of_expires_nobody() {
    // n0 hears neither n3 nor n4, and n1 does not hear n4. n2 ceases to hear n4; then n1 hears it again, and n0 does not learn of
    // that. At no moment is n4 without two who echo it, and n0 has a report of silence from n1 and one from n2.
    let mut t = Cluster::of(Settings { quorum: 3, ..steady(5) });
    t.cut(0, 3).cut(0, 4).cut(1, 4).run(2 * T);
    t.cut(2, 4).run(ms(100));
    t.one_way(1, 0).mend(1, 4).run(T);
    assert!(t.node(0).machine().view().is_some_and(|view| view.members.len() == 5));
    t.run(2 * T).heal().rest();
}

#[test]
fn a_share_that_is_stuck_behind_a_cut_goes_to_who_hears_everybody() {
    // n0 hangs for more than T', so it has stalled, and less than T, so nobody has given it up. It cannot ask n2 for its word.
    for hung in 0..3 {
        let mut t = Cluster::new(3);
        t.cut(0, 2).run(4 * T);
        t.node(hung).hang(ms(365));
        t.run(4 * T);
        assert_eq!(t.covered().len(), 256);
        assert!(t.longest_gap() < 3 * T, "{:?}", t.longest_gap());
        t.run(10 * T);
        assert_eq!(t.covered().len(), 256);
        t.heal().rest();
    }
}

#[test]
fn the_share_of_who_waits_stays_where_nobody_else_could_take_it() {
    // n0 gets more, and cannot have the word of n1, who has given it up. n2 hears both and serves nothing.
    let mut t = Cluster::of(Settings { weights: vec![100, 100, 0], ..Settings::new(3) });
    t.one_way(1, 0).node(0).weigh(300);
    t.run(6 * T);
    assert_eq!(t.shares(), [128, 64, 0]);
    t.heal().rest();
    assert_eq!(t.shares(), [192, 64, 0]);
}

#[test]
fn two_who_coordinate_and_do_not_hear_each_other_agree_in_the_end() {
    // Each of n0 and n1 is the first of those whom it hears. What one of them makes, the other must get from n2 or n3.
    for drained in 0..4 {
        let mut t = Cluster::new(4);
        t.cut(0, 1).run(4 * T);
        t.node(drained).drain();
        t.run(3 * T);
        let view = t.node(0).machine().view().map(|view| view.id);
        t.run(10 * T);
        assert_eq!((t.covered().len(), t.views()), (256, 1));
        assert_eq!(t.node(0).machine().view().map(|view| view.id), view, "and no view after view");
        t.heal();
        t.node(drained).command(Command::Drain(false));
        t.rest();
    }
}

#[test]
fn the_share_of_who_hears_too_few_to_serve_goes_to_others() {
    // n0 hears only n4, who is enough to keep it a member, and not enough for a lease.
    let mut t = Cluster::with_quorum(5, 3);
    t.cut(0, 1).cut(0, 2).cut(0, 3).run(4 * T);
    assert_eq!((t.covered().len(), t.shares()[0]), (256, 0));
    t.heal().rest();
}

#[test]
fn a_lone_node_without_a_share_that_slept_looks_around_before_it_takes_one() {
    // n0 owns nothing, so no lease of its can lapse. While it sleeps n1 starts and takes everything. The first thing that n0
    // finds when it wakes is a command.
    let mut t = Cluster::cold(Settings { weights: vec![0, 100], ..steady(2) });
    t.node(0).start();
    t.rest();
    t.node(0).hang(4 * T);
    t.node(1).start();
    t.run(3 * T);
    assert_eq!(t.shares(), [0, 256]);
    t.node(0).weigh(100);
    t.run(2 * T).rest();
    assert_eq!(t.shares(), [128, 128]);
}

#[test]
fn a_late_pulse_that_is_lost_does_not_lengthen_the_lease() {
    for late in [60, 120, 180, 240] {
        let mut t = Cluster::of(steady(2));
        // The last pulse that n0 gets is up to an interval older than this.
        t.one_way(1, 0).node(1).hang(ms(late));
        t.run(ms(late) + us(10));
        t.mend(0, 1).node(1).hang(3 * T);
        t.run(2 * T);
        assert_eq!(t.shares(), [256, 0]);
        t.run(2 * T).rest();
    }
}

#[test]
fn the_echo_of_a_new_run_that_does_not_know_a_node_alive_moves_no_lease() {
    // n0 and n2 do not hear each other, so all that n0's lease is made of is what n1 echoes. n1 starts anew, and for T it is no
    // witness that n0 is alive; n0 does not learn at once that this is another run.
    let mut t = Cluster::of(Settings { quorum: 2, ..steady(3) });
    t.cut(0, 2).run(4 * T);
    t.node(1).power_off();
    t.one_way(1, 0).node(1).start();
    t.run(ms(230));
    t.mend(0, 1).one_way(0, 1).run(3 * T);
    assert_eq!(t.shares(), [0, 128, 128]);
    t.heal().rest();
}

#[test]
fn who_goes_on_with_a_run_looks_around_before_it_gains() {
    // n0 is alone and dies when it is about to take everything. Its successor sleeps before its first step, and n1 starts and
    // hears nobody.
    let mut t = Cluster::cold(Settings { weights: vec![0, 100], ..steady(2) });
    t.node(0).start();
    t.rest();
    t.node(0).hang_at(Point::BeforeOwn, ms(5));
    t.node(0).weigh(100);
    t.run(ms(1));
    t.node(0).kill();
    t.node(1).start();
    t.run(ms(280));
    t.node(0).resume_asleep(ms(330));
    t.run(ms(320));
    assert_eq!(t.shares(), [0, 256]);
    // It has said its first word, and n1 has not answered yet: a second would give it a lease.
    t.run(ms(10) + us(50)).node(0).weigh(50);
    t.run(2 * T).rest();
}

#[test]
fn a_successor_that_has_not_heard_anybody_leaves_it_to_others_to_move_its_share() {
    let mut t = Cluster::of(steady(3));
    t.node(0).kill();
    t.node(0).resume();
    t.node(0).drain();
    t.run(2 * T);
    assert_eq!(t.shares(), [0, 128, 128]);
    assert!(t.longest_gap() < ms(5), "{:?}", t.longest_gap());
}

#[test]
fn the_first_pulse_of_a_successor_is_lost_and_it_hangs() {
    for dead in (10..330).step_by(40) {
        let mut t = Cluster::of(steady(2));
        t.node(1).kill();
        t.one_way(1, 0).run(ms(dead));
        t.node(1).resume();
        t.mend(0, 1).node(1).hang(3 * T);
        t.run(2 * T);
        assert_eq!(t.shares(), [256, 0]);
        t.run(2 * T).rest();
    }
}

#[test]
fn a_successor_that_dies_before_anybody_can_know_it_alive_and_its_successor() {
    // Each of them says one word before it has heard anybody: to n0 that may be a recording. The last one hangs.
    let mut t = Cluster::of(steady(2));
    t.node(1).kill();
    for _ in 0..5 {
        t.run(ms(60));
        t.node(1).resume();
        t.run(us(10)).node(1).kill();
    }
    assert_eq!(t.shares(), [128, 128]);
    t.run(ms(20)).node(1).resume();
    t.node(1).hang(2 * T);
    t.run(2 * T);
    assert_eq!(t.shares(), [256, 0]);
    t.rest();
}

#[test]
fn a_successor_goes_on_by_the_latest_view_that_its_predecessor_had() {
    // What daemons leave in earnest: n1 has left a memo before, and has a larger share since.
    let mut t = Cluster::cold(Settings { sealed: true, ..steady(2) });
    t.world().leave_memos();
    t.node(0).start();
    t.node(1).start();
    t.rest();
    t.node(0).weigh(50);
    t.run(T);
    let gained = t.node(1).passes();
    t.node(1).kill();
    t.node(1).resume();
    assert!(gained.len() > 128 && t.node(1).passes() == gained, "nothing is given up");
    t.rest();
}

#[test]
fn who_slept_while_it_waited_for_an_answer_finds_it_before_it_makes_a_view() {
    // n0 does not hear n1 until it says its last word for long, and n1 does not read the answer before it wakes.
    let mut t = Cluster::cold(steady(2));
    t.node(0).start();
    t.rest();
    t.one_way(1, 0).node(1).start();
    t.run(T + ms(20));
    t.mend(0, 1).node(1).hang_at(Point::SendToLook, 4 * T);
    t.run(6 * T).rest();
    assert_eq!(t.shares(), [128, 128]);
}

#[test]
fn who_leaves_with_what_nobody_could_take_falls_silent_before_it_says_good_bye() {
    // n0 has no weight, so n1 goes after an interval with all that it owns; then n0 gets a weight after all.
    let mut t = Cluster::of(Settings { weights: vec![0, 100], ..steady(2) });
    t.node(1).hang_at(Point::BeforeOwn, ms(150));
    t.node(1).leave();
    t.run(ms(60)).node(0).weigh(100);
    t.run(T).rest();
    assert_eq!(t.shares(), [256, 0]);
}

#[test]
fn a_successor_keeps_the_promise_of_a_view_that_nobody_has_seen() {
    let mut t = Cluster::of(steady(2));
    t.lose_bodies(0, 1).node(0).weigh(50);
    t.run(ms(60));
    t.node(1).kill();
    t.node(1).resume();
    t.run(ms(10)).heal().rest();
}

#[test]
fn a_successor_knows_whom_its_predecessor_was_not_yet_settled_for() {
    // n1 and n2 serve when n0 starts; n1 starts anew, and gets a view of n0's that does not name n2, which serves on.
    let mut t = Cluster::of(Settings { quorum: 2, ..steady(3) });
    t.cut(0, 2).node(0).power_off();
    t.run(5 * T);
    t.lose_bodies(1, 0).node(0).start();
    t.run(ms(300));
    t.lose_bodies(2, 1).node(1).power_off();
    t.node(1).start();
    t.run(ms(200));
    assert_eq!(t.node(1).machine().view().map(|view| view.members.len()), Some(2));
    assert!(!t.node(1).machine().is_settled() && !t.node(2).passes().is_empty());
    t.node(1).kill();
    t.node(1).resume();
    t.run(4 * T).heal().rest();
}

#[test]
fn a_successor_owns_what_the_kernel_passes_and_not_what_the_view_gives() {
    // n2 has not followed the view that gives n0 more.
    let mut t = Cluster::of(steady(3));
    t.lose_bodies(0, 2).node(0).weigh(300);
    t.run(ms(20));
    let before = t.node(0).passes();
    t.node(0).kill();
    t.node(0).resume();
    t.run(ms(5));
    assert_eq!(t.node(0).passes(), before);
    t.heal().rest();
}

#[test]
fn a_successor_goes_on_with_numbers_that_nobody_has_heard() {
    let mut t = Cluster::of(steady(2));
    let view = t.node(0).machine().view().map(|view| view.id);
    t.node(1).kill();
    t.run(ms(100));
    t.node(1).resume();
    t.run(4 * T);
    assert_eq!((t.shares(), t.node(0).machine().view().map(|view| view.id)), (vec![128, 128], view));
}

#[test]
fn who_slept_does_not_serve_on_by_words_that_prove_nothing_to_another_who_slept() {
    // n0 sleeps, and n1 takes over and loses the processor before it tells its kernel. Meanwhile n0 has woken and looks around
    // for T. What n1 says then echoes what n0 said before it slept; and it sleeps again before it has read all its mail.
    for (late, mails) in (200..300).step_by(10).flat_map(|late| (0..4).map(move |mails| (late, mails))) {
        let mut t = Cluster::of(steady(2));
        t.node(1).hang_at(Point::BeforeOwn, ms(late));
        t.node(0).hang(ms(450));
        t.run(ms(500));
        for _ in 0..mails {
            t.node(1).hang_at(Point::ClockToInput, us(1));
        }
        t.node(1).hang_at(Point::ClockToInput, 3 * T);
        t.run(6 * T).rest();
    }
}

#[test]
fn a_newcomer_can_only_ask_who_missed_the_last_pulses_of_the_dead() {
    // n2 misses some of n0's pulses; then n0 dies; n1 starts when n0 is silent already, and believes what n2 tells of it.
    // How many were missed decides whether n0's lease may outlast what n2 knows of it.
    let overlaps = |missed: Duration| {
        let mut t = Cluster::new(3);
        t.node(1).power_off();
        t.rest();
        t.one_way(0, 2).run(missed);
        t.node(0).kill();
        t.run(ms(60));
        t.node(1).start_forgetful();
        t.run(3 * T).heal();
        t.node(0).start();
        t.rest();
        t.world().overlaps_excused()
    };
    let of = |span: std::ops::Range<u64>| -> u64 { span.step_by(3).map(|missed| overlaps(ms(missed))).sum() };
    assert_eq!(of(0..50), 0, "a lease allows for one");
    assert!(of(100..200) > 0, "and for no more");
}
