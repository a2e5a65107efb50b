//! R6 coordinate: whose turn it is, and what a view is made of.

use super::fixture::*;
use crate::bucket::BucketSet;
use crate::event::Event;
use crate::id::ViewId;
use crate::machine::{Action, Command};
use crate::share;
use crate::view::{Reason, View};
use crate::wire::{NodeState, Pulse};

/// The only view that the last input made the machine send.
fn made(f: &Fixture) -> View {
    let views = f.views();
    let [view] = &views[..] else { panic!("one view was to be made: {:?}", f.log) };
    assert_eq!(f.machine.view(), Some(view), "its maker adopts it at once");
    view.clone()
}

#[test]
fn r6_lowest_active_coordinates() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("z", joining(ViewId::NONE));
    f.pass(INTERVAL);
    let view = made(&f);
    assert_eq!(names_in(&view, &[ME, "x", "z"]), [ME, "x", "z"]);
    assert_eq!((view.reason, view.subject), (Reason::Joined, id("z")));

    let mut f = Fixture::member_of(&["a", ME]);
    f.hear("z", joining(ViewId::NONE));
    f.pass(2 * INTERVAL);
    assert_eq!(f.views(), [], "it is the turn of a");
}

#[test]
fn r6_who_comes_within_an_interval_comes_into_one_view() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    for name in ["u", "v", "w"] {
        f.hear(name, joining(ViewId::NONE));
        assert_eq!(f.views(), [], "who comes seldom comes alone");
        f.pass(10);
    }
    f.pass(INTERVAL - 31);
    assert_eq!(f.views(), []);
    f.pass(1);
    assert_eq!(made(&f).members.len(), 5);
}

#[test]
fn r6_what_leaves_a_bucket_without_an_owner_waits_for_nothing() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.gone = true);
    assert_eq!(made(&f).reason, Reason::Left);
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.healthy = false);
    assert_eq!(made(&f).reason, Reason::Weight);
}

#[test]
fn r6_who_is_configured_otherwise_is_not_let_in() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let other = |pulse: &mut Pulse| {
        joining(ViewId::NONE)(pulse);
        pulse.digest ^= 1;
        pulse.wanted = pulse.digest;
    };
    let told = Action::Event(Event::Mismatch { node: Some(node("z")) });
    assert_eq!(f.hear("z", other), [told]);
    let again = f.run_saying(500, &["x", "z"], |name, pulse| {
        if name == "z" {
            other(pulse)
        }
    });
    assert_eq!((again, f.views()), (vec![], vec![]), "people are told once");
}

#[test]
fn r6_a_lower_name_that_is_not_active_goes_not_before() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("a", joining(ViewId::NONE));
    f.pass(INTERVAL);
    assert_eq!(names_in(&made(&f), &["a", ME, "x"]), ["a", ME, "x"]);
}

#[test]
fn r6_if_none_is_active_the_lowest_joining_node_coordinates() {
    for (other, makes) in [("a", false), ("x", true)] {
        let mut f = Fixture::new(1);
        f.run_saying(TIMEOUT + INTERVAL, &[other], |_, pulse| joining(ViewId::NONE)(pulse));
        assert_eq!(f.machine.state() == NodeState::Active, makes, "beside {other}");
        assert_eq!(!f.views().is_empty(), makes);
    }
}

#[test]
fn r6_a_joining_node_coordinates_only_after_it_has_listened_for_t() {
    let mut f = Fixture::new(1);
    f.run_saying(TIMEOUT, &["x"], |_, pulse| joining(ViewId::NONE)(pulse));
    assert_eq!(f.machine.state(), NodeState::Joining);
    assert_eq!(f.views(), [], "and an interval more, since others may come too");
    f.run_saying(INTERVAL, &["x"], |_, pulse| joining(ViewId::NONE)(pulse));
    assert_eq!(names_in(&made(&f), &[ME, "x"]), [ME, "x"]);
}

#[test]
fn r6_a_joining_node_coordinates_nothing_beside_an_active_one() {
    let mut f = Fixture::new(1);
    f.run_saying(5 * TIMEOUT, &["x"], |_, pulse| settled_in(view_id(1, "x"))(pulse));
    assert_eq!((f.machine.state(), f.views()), (NodeState::Joining, vec![]));
}

#[test]
fn r6_the_epoch_is_one_above_the_highest_heard_of() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("z", joining(view_id(40, "q")));
    f.pass(INTERVAL);
    assert_eq!(made(&f).id, view_id(41, ME));
}

#[test]
fn r6_if_a_change_stays_unsettled_for_t_the_next_in_rank_coordinates() {
    for (members, wait) in [(&["a", ME, "x"][..], TIMEOUT), (&["a", "b", ME, "x"][..], 2 * TIMEOUT)] {
        let lower: Vec<&str> = members.iter().copied().filter(|name| *name < ME).collect();
        let mut f = Fixture::member_of(members);
        // z wants to join; nobody does anything about it.
        f.hear("z", joining(ViewId::NONE));
        let beside: Vec<&str> = members.iter().copied().filter(|name| *name != ME).collect();
        let join = |name: &str, pulse: &mut Pulse| {
            if name == "z" {
                joining(ViewId::NONE)(pulse);
            }
        };
        let everybody: Vec<&str> = beside.iter().copied().chain(["z"]).collect();
        f.run_saying(wait, &everybody, join);
        assert_eq!(f.views(), [], "{} of lower name come first", lower.len());
        f.run_saying(INTERVAL, &everybody, join);
        assert!(made(&f).names(identity("z")));
    }
}

#[test]
fn r6_a_change_that_was_settled_starts_the_wait_anew() {
    let mut f = Fixture::member_of(&["a", ME]);
    let join = |name: &str, pulse: &mut Pulse| {
        if name == "z" {
            joining(ViewId::NONE)(pulse);
        }
    };
    f.run_saying(300, &["a", "z"], join);
    // a makes the view; then y comes. The 300 ms of z are not counted for y.
    let second = view(2, "a", &["a", ME, "z"]);
    f.claimed = second.id;
    f.hear_view("a", &second);
    f.hear("a", |_| {});
    f.hear("z", |_| {});
    f.run_saying(350, &["a", "z", "y"], |name, pulse| {
        if name == "y" {
            joining(ViewId::NONE)(pulse);
        }
    });
    assert_eq!(f.views().iter().filter(|view| view.id.coordinator == identity(ME)).count(), 0);
}

#[test]
fn r6_a_view_leaves_out_only_who_is_expired_or_has_said_good_bye() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.hear("y", |_| {});
    f.run(300, &["x"]);
    // y has been silent, but not for T.
    f.hear("z", joining(ViewId::NONE));
    f.pass(INTERVAL);
    assert_eq!(names_in(&made(&f), &[ME, "x", "y", "z"]), [ME, "x", "y", "z"]);
}

#[test]
fn r6_a_view_keeps_whom_the_view_of_any_alive_peer_names() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    // z lives in another view, together with w, whom this node cannot hear.
    let elsewhere = view(1, "z", &["w", "z"]);
    f.hear("z", settled_in(elsewhere.id));
    f.hear_view("z", &elsewhere);
    f.run_saying(200, &["x", "z"], |name, pulse| {
        if name == "z" {
            settled_in(elsewhere.id)(pulse);
            let w = entry("w", 9, 10);
            pulse.heard.push(w);
        }
    });
    let known = [ME, "w", "x", "z"];
    assert_eq!(names_in(f.machine.view().unwrap(), &known), known);
}

#[test]
fn r6_views_that_meet_are_merged() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let elsewhere = view(7, "z", &["z"]);
    f.hear("z", settled_in(elsewhere.id));
    assert_eq!(f.views(), [], "for two intervals a view that names both may be on its way");
    f.run_saying(150, &["x", "z"], |name, pulse| {
        if name == "z" {
            settled_in(elsewhere.id)(pulse);
        }
    });
    let view = f.views().into_iter().next().expect("a view of both");
    assert_eq!((view.reason, view.id.epoch), (Reason::Merged, 8));
    assert_eq!(names_in(&view, &[ME, "x", "z"]), [ME, "x", "z"]);
}

#[test]
fn r6_an_unhealthy_or_draining_node_stays_in_with_no_buckets() {
    for spoil in [
        (|pulse| pulse.healthy = false) as fn(&mut Pulse),
        |pulse| pulse.state = NodeState::Draining,
        |pulse| pulse.state = NodeState::Leaving,
        |pulse| pulse.weight = 0,
    ] {
        let mut f = Fixture::member_of(&[ME, "x"]);
        f.hear("x", spoil);
        let view = made(&f);
        assert_eq!(names_in(&view, &[ME, "x"]), [ME, "x"]);
        assert_eq!(view.owned_by(id("x")).len(), 0);
        assert_eq!((view.reason, view.subject), (Reason::Weight, id("x")));
    }
}

#[test]
fn r6_health_that_fails_everywhere_changes_nothing() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.healthy = false);
    assert_eq!(made(&f).owned_by(id(ME)).len(), 256);
    f.command(Command::Healthy(false));
    let shared = made(&f);
    assert_eq!(["m", "x"].map(|name| shared.owned_by(id(name)).len()), [128, 128], "as if all were healthy");
}

#[test]
fn r6_a_node_without_links_gets_no_buckets() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let effects = f.command(Command::Connected(false));
    assert_eq!(effects[0], Action::Own(BucketSet::EMPTY), "at once");
    assert_eq!(f.machine.view().unwrap().owned_by(id("x")).len(), 256);
}

#[test]
fn r6_a_weight_that_changes_moves_only_what_it_must() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    f.hear("x", |pulse| pulse.weight = 300);
    let after = made(&f);
    assert_eq!(after.owned_by(id("x")).len(), 192);
    let before = view(1, "x", &[ME, "x"]);
    assert_eq!(share::moved(&before.owners, &after.owners), 64);
    assert_eq!(after.member(identity("x")).unwrap().weight, 300);
}

#[test]
fn r6_new_buckets_go_only_to_nodes_whose_heard_tables_show_all_members() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    // z hears this node, but not x: it could never collect the word of x.
    f.hear("z", |pulse| {
        joining(ViewId::NONE)(pulse);
        pulse.heard.retain(|entry| entry.identity.id != id("x"));
    });
    f.pass(INTERVAL);
    let view = made(&f);
    assert!(view.names(identity("z")));
    assert_eq!(view.owned_by(id("z")).len(), 0);
    // Once it hears everybody it gets its share.
    f.claimed = view.id;
    f.hear("x", |_| {});
    f.hear("z", |_| {});
    f.pass(INTERVAL);
    let balanced = f.views().pop().expect("a view that balances");
    assert_eq!(balanced.reason, Reason::Balance);
    assert!((85..=86).contains(&balanced.owned_by(id("z")).len()));
}

/// A peer that does not hear another, and lacks something because of that.
fn waits_for(pulse: &mut Pulse, other: &str) {
    pulse.waiting = true;
    pulse.heard.retain(|entry| entry.identity.id != id(other));
}

#[test]
fn r6_who_lacks_something_for_t_says_so() {
    let mut f = Fixture::member_of(&[ME, "x"]);
    let second = view(2, "x", &["x", ME]);
    // x does not follow its own view, so this node cannot take what that gives it.
    f.hear_view("x", &second);
    f.run(TIMEOUT - INTERVAL, &["x"]);
    assert!(f.pulses().iter().all(|pulse| !pulse.waiting));
    f.run(2 * INTERVAL, &["x"]);
    assert!(f.pulses().last().unwrap().waiting);
    f.claimed = second.id;
    f.run(INTERVAL, &["x"]);
    assert_eq!(f.machine.owned(), f.given());
    f.run(INTERVAL, &["x"]);
    assert!(!f.pulses().last().unwrap().waiting);
}

#[test]
fn r6_who_waits_for_somebody_whom_it_does_not_hear_gets_no_share() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.run_saying(2 * INTERVAL, &["x", "y"], |name, pulse| {
        if name == "x" {
            waits_for(pulse, "y");
        }
    });
    let moved = f.views().pop().expect("a view that moves its share");
    assert_eq!(moved.reason, Reason::Balance);
    assert_eq!([ME, "x", "y"].map(|name| moved.owned_by(id(name)).len()), [128, 0, 128]);
    // It waits no longer. Its share comes back when it hears everybody, and not before.
    f.claimed = moved.id;
    let deaf = |name: &str, pulse: &mut Pulse| {
        if name == "x" {
            waits_for(pulse, "y");
            pulse.waiting = false;
        }
    };
    f.run_saying(4 * INTERVAL, &["x", "y"], deaf);
    assert!(f.views().iter().all(|view| *view == moved), "at most repeated");
    f.run(2 * INTERVAL, &["x", "y"]);
    let back = f.views().pop().expect("a view that balances");
    assert!((85..=86).contains(&back.owned_by(id("x")).len()));
}

#[test]
fn r6_who_waits_although_it_hears_everybody_keeps_its_share() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.run_saying(4 * INTERVAL, &["x", "y"], |_, pulse| pulse.waiting = true);
    assert_eq!(f.views(), []);
}

#[test]
fn r6_the_share_of_who_waits_stays_if_nobody_could_take_it() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.command(Command::Weight(0));
    f.claimed = made(&f).id;
    f.run_saying(4 * INTERVAL, &["x", "y"], |name, pulse| match name {
        "x" => waits_for(pulse, "y"),
        _ => waits_for(pulse, "x"),
    });
    assert_eq!(f.views(), [], "this node hears all, but has no weight");
}

#[test]
fn r6_shares_start_from_the_view_that_most_of_the_living_serve_by() {
    // Both halves of a network meet again: two nodes in the view of y, this one alone in a higher view.
    let mut f = Fixture::member_of(&[ME]);
    for weight in [50, 100] {
        f.command(Command::Weight(weight));
    }
    let larger = give(give(view(2, "y", &["x", "y"]), "x", 0..=127), "y", 128..=255);
    assert!(f.machine.view().unwrap().id > larger.id);
    f.hear("y", settled_in(larger.id));
    f.hear_view("y", &larger);
    f.claimed = larger.id;
    f.run(200, &["x", "y"]);
    let merged = f.machine.view().unwrap();
    assert_eq!(names_in(merged, &[ME, "x", "y"]), [ME, "x", "y"]);
    let moved = share::moved(&larger.owners, &merged.owners);
    assert!((85..=86).contains(&moved), "only what this node gets moves: {moved}");
}

#[test]
fn r6_its_coordinator_repeats_a_view_after_an_interval_for_those_who_lack_it() {
    let mut f = Fixture::member_of(&[ME, "x", "y"]);
    f.hear("z", joining(ViewId::NONE));
    f.pass(INTERVAL);
    let second = made(&f);
    // x follows, y and z have missed it.
    let lagging = |name: &str, pulse: &mut Pulse| match name {
        "x" => settled_in(second.id)(pulse),
        "z" => joining(ViewId::NONE)(pulse),
        _ => {}
    };
    f.run_saying(500, &["x", "y", "z"], lagging);
    let repeated = f.views();
    assert!((8..=10).contains(&repeated.len()), "once an interval: {}", repeated.len());
    assert!(repeated.iter().all(|view| *view == second));
    f.claimed = second.id;
    f.run(200, &["x", "y", "z"]);
    f.run(200, &["x", "y", "z"]);
    assert_eq!(f.views(), [], "nobody lacks it any more");
}

#[test]
fn r6_who_does_not_hear_the_coordinator_is_told_by_the_first_whom_it_hears() {
    let mut f = Fixture::member_of(&["a", ME, "x"]);
    let second = view(2, "a", &["a", ME, "x"]);
    f.hear_view("a", &second);
    let first =
        second.members.iter().map(|m| m.identity).find(|who| *who != identity("x") && *who != identity("a"));
    assert_eq!(first, Some(identity(ME)));
    let x_is_deaf = |name: &str, pulse: &mut Pulse| match name {
        "a" => settled_in(second.id)(pulse),
        _ => pulse.heard.retain(|entry| entry.identity.id != id("a")),
    };
    f.run_saying(2 * INTERVAL, &["a", "x"], x_is_deaf);
    assert!(!f.views().is_empty(), "after an interval, before x has waited for two");
    assert_eq!(f.views(), vec![second; f.views().len()]);
}

#[test]
fn r6_any_member_repeats_a_view_if_its_coordinator_does_not() {
    let mut f = Fixture::member_of(&["a", ME, "x"]);
    let second = view(2, "a", &["a", ME, "x"]);
    f.hear_view("a", &second);
    let x_lags = |name: &str, pulse: &mut Pulse| {
        if name == "a" {
            settled_in(second.id)(pulse);
        }
    };
    f.run_saying(300, &["a", "x"], x_lags);
    assert_eq!(f.views(), vec![second.clone(); f.views().len()]);
    assert!((1..=3).contains(&f.views().len()), "in its turn: {}", f.views().len());
    // Whoever hears it repeated keeps quiet.
    let mut f = Fixture::member_of(&["a", ME, "x"]);
    f.hear_view("a", &second);
    for _ in 0..10 {
        f.run_saying(50, &["a", "x"], x_lags);
        assert_eq!(f.views(), []);
        f.hear_view("a", &second);
    }
}

#[test]
fn r6_a_view_has_at_most_32_members() {
    let names: Vec<String> = (0..31).map(|n| format!("n{n:02}")).collect();
    let members: Vec<&str> = [ME].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut f = Fixture::member_of(&members);
    f.run(50, &members[1..]);
    let full = Action::Event(Event::Full { node: Some(node("a")) });
    assert_eq!(f.hear("a", joining(ViewId::NONE)), [full]);
    assert_eq!(f.views(), []);
    assert_eq!(f.hear("a", joining(ViewId::NONE)), [], "people are told once");
    // A member goes: the one that waits gets in.
    f.hear("n00", |pulse| pulse.gone = true);
    assert!(made(&f).names(identity("a")));
}
