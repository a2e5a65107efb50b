//! R10 resume: a run that outlives its daemon. The successor retains, and for T does nothing else.

use proptest::prelude::*;

use super::fixture::*;
use super::wire::Wire;
use crate::bucket::BucketSet;
use crate::config::Config;
use crate::event::Event;
use crate::id::{ClusterName, Identity, Incarnation};
use crate::machine::{Action, Command, Inheritance, Machine, Memo, NUMBERS_RESERVED, ResumeError};
use crate::node::{Node, Output};
use crate::seal::{ClusterKey, Keys, Opener};
use crate::time::Time;
use crate::wire::{Message, NodeState, Task};

/// What a machine leaves when its daemon dies now.
pub(super) fn left_by(machine: &Machine) -> Inheritance {
    let memo = machine.memo().expect("something to go on with");
    Inheritance {
        memo: Memo { reserved: memo.reserved + NUMBERS_RESERVED, ..memo },
        owned: machine.owned(),
        contested: machine.contested(),
        kept: machine.kept(),
        lease: machine.lease(),
    }
}

impl Fixture {
    /// The daemon dies, and after so many milliseconds another goes on with the run.
    pub(super) fn succeed(&mut self, gap: u64) -> Vec<Action> {
        let inheritance = left_by(&self.machine);
        self.succeed_to(gap, inheritance).expect("it goes on")
    }

    fn succeed_to(&mut self, gap: u64, inheritance: Inheritance) -> Result<Vec<Action>, ResumeError> {
        let config = self.machine.config().clone();
        self.now = self.now + ms(gap);
        self.machine = Machine::resume(config, inheritance, self.now)?;
        self.log.clear();
        self.pump();
        Ok(self.effects())
    }
}

fn resumed(buckets: usize, kept: usize) -> Action {
    Action::Event(Event::Resumed { buckets, kept })
}

#[test]
fn r10_a_successor_goes_on_as_if_nothing_had_been() {
    let mut f = Fixture::member_of(&["a", ME, "b"]);
    let (before, lease, number) = (f.machine.owned(), f.machine.lease(), f.machine.last_sequence());
    let view = f.machine.view().cloned();
    assert_eq!(f.succeed(100), [Action::Own(before), resumed(before.len(), 0)]);
    assert_eq!((f.machine.owned(), f.machine.lease()), (before, lease));
    f.pass(0);
    let pulse = f.pulses().pop().expect("it speaks at once");
    assert_eq!((pulse.state, pulse.settled, pulse.gone), (NodeState::Active, true, false));
    assert_eq!((pulse.adopted, f.machine.me().incarnation), (f.claimed, RUN));
    assert!(f.machine.last_sequence() > number + NUMBERS_RESERVED);
    f.run(3 * TIMEOUT, &["a", "b"]);
    assert_eq!(f.machine.view().cloned(), view);
    assert_eq!(f.machine.owned(), before);
}

#[test]
fn r10_a_lease_that_is_over_is_not_taken_over() {
    let mut f = Fixture::member_of(&["a", ME]);
    let left = left_by(&f.machine);
    let left_ms = left.lease.since(f.now).as_millis() as u64;
    assert_eq!(f.succeed_to(left_ms, left), Err(ResumeError::Lapsed));
}

#[test]
fn r10_only_the_same_node_on_the_same_machine_as_configured_goes_on() {
    let f = Fixture::member_of(&["a", ME]);
    let left = left_by(&f.machine);
    let good = f.machine.config().clone();
    let resume = |config: Config| Machine::resume(config, left.clone(), f.now).map(drop);
    assert_eq!(resume(good.clone()), Ok(()));
    assert_eq!(resume(Config { name: node("x"), ..good.clone() }), Err(ResumeError::OtherNode));
    assert_eq!(resume(Config { host: 9, ..good.clone() }), Err(ResumeError::OtherNode));
    assert_eq!(resume(Config { digest: 9, ..good }), Err(ResumeError::OtherDigest));
}

#[test]
fn r10_what_the_view_does_not_give_is_given_up_and_kept() {
    // The daemon died between adopting a view and telling the kernel.
    let mut f = Fixture::handing_over(&["a", ME]);
    let given = f.given();
    let left = Inheritance { owned: BucketSet::ALL, ..left_by(&f.machine) };
    let effects = f.succeed_to(10, left).unwrap();
    assert_eq!(effects, [Action::Own(given), resumed(128, 128)]);
    assert_eq!(f.machine.kept(), BucketSet::ALL - given);
    // And between gaining and telling: nothing is gained by resuming.
    let mut f = Fixture::member_of(&["a", ME]);
    let left = Inheritance { owned: BucketSet::EMPTY, ..left_by(&f.machine) };
    assert_eq!(f.succeed_to(10, left).unwrap(), [Action::Own(BucketSet::EMPTY), resumed(0, 0)]);
}

#[test]
fn r10_a_successors_orders_are_not_taken_for_its_predecessors() {
    // Whom it orders remembers the number of the predecessor's last order: it is the same run.
    let order = |ticket, task| Command::Order { ticket, node: "a".into(), task };
    let numbers = |f: &Fixture| -> Vec<u64> {
        let number = |action: &Action| match action {
            Action::Send { message: Message::Order(order), .. } => Some(order.number),
            _ => None,
        };
        f.log.iter().filter_map(number).collect()
    };
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(order(1, Task::Drain(true)));
    let before = numbers(&f);
    f.succeed(50);
    f.run(2 * TIMEOUT, &["a"]);
    f.command(order(1, Task::Drain(false)));
    assert!(numbers(&f)[0] > before[0], "{:?} after {before:?}", numbers(&f));
}

#[test]
fn r10_for_t_a_successor_gains_nothing() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.succeed(10);
    f.run(INTERVAL * 2, &["a"]);
    let more = give(view(2, "a", &["a", ME]), ME, 0..=255);
    f.claimed = more.id;
    f.hear_view("a", &more);
    f.run(INTERVAL * 4, &["a"]);
    assert_eq!(f.owns(), [], "it has adopted the view, and waits");
    assert_eq!(f.machine.view(), Some(&more));
    f.run(TIMEOUT, &["a"]);
    assert_eq!(f.owns(), [BucketSet::ALL]);
}

#[test]
fn r10_a_stall_while_a_successor_listens_begins_t_anew() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.succeed(10);
    f.run(INTERVAL * 6, &["a"]);
    f.hang(INTERVAL * 2);
    let more = give(view(2, "a", &["a", ME]), ME, 0..=255);
    f.claimed = more.id;
    f.hear("a", |_| {});
    f.hear_view("a", &more);
    f.run(INTERVAL * 7, &["a"]);
    assert_eq!(f.owns(), []);
    f.run(INTERVAL * 2, &["a"]);
    assert_eq!(f.owns(), [BucketSet::ALL]);
}

#[test]
fn r10_for_t_a_successor_judges_nobody_and_makes_no_view() {
    // "b" is dead since before; "m" would be the coordinator after "b", and "z" comes.
    let mut f = Fixture::member_of(&[ME, "b", "z"]);
    f.succeed(10);
    f.run(TIMEOUT - INTERVAL, &["z"]);
    assert!(f.views().is_empty() && f.machine.view().unwrap().names(identity("b")));
    assert!(f.pulses().iter().all(|pulse| pulse.late), "its reports must not count either");
    f.run(INTERVAL * 4, &["z"]);
    assert!(!f.machine.view().unwrap().names(identity("b")), "then it does its duty");
    assert!(f.pulses().iter().any(|pulse| !pulse.late));
}

#[test]
fn r10_the_first_pulse_that_proves_life_moves_the_lease_by_an_interval_at_most() {
    // Others may count from the predecessor's last pulse, should this one be lost.
    let mut f = Fixture::member_of(&["a", ME]);
    let lease = f.machine.lease();
    f.succeed(290);
    f.pass(10);
    f.hear("a", deaf);
    assert_eq!(f.leases(), [lease + ms(INTERVAL)]);
    f.pass(INTERVAL - 10);
    assert_eq!(f.leases(), [], "what it has echoed may have been a recording");
    f.hear("a", |_| {});
    assert_eq!(f.leases(), [f.last_pulse_at() + ms(LEASE)], "it is known alive");
}

#[test]
fn r10_a_lease_on_credit_is_not_moved_again_before_somebody_has_acknowledged_the_run_alive() {
    let mut f = Fixture::member_of(&["a", ME]);
    let lease = f.machine.lease();
    f.succeed(290);
    assert!(!left_by(&f.machine).memo.borrowed, "it has moved nothing yet");
    f.pass(10);
    f.hear("a", deaf);
    assert_eq!(f.leases(), [lease + ms(INTERVAL)]);
    // The one after it, and the one after that.
    for _ in 0..2 {
        assert!(left_by(&f.machine).memo.borrowed);
        f.succeed(10);
        f.pass(1);
        f.hear("a", deaf);
        assert_eq!((f.leases(), f.pulses().len()), (vec![], 1), "it answers all the same");
    }
    f.hear("a", |_| {});
    assert_eq!(f.leases(), [f.last_pulse_at() + ms(LEASE)]);
    assert!(!left_by(&f.machine).memo.borrowed);
    // Who is alone owes nothing to anybody.
    let mut f = Fixture::member_of(&[ME]);
    f.succeed(100);
    f.pass(0);
    f.succeed(10);
    f.run(2 * INTERVAL, &[]);
    assert_eq!(f.leases().last(), Some(&(f.last_pulse_at() + ms(LEASE))));
}

#[test]
fn r10_a_pulse_that_echoes_nobody_moves_no_lease() {
    // Nobody can tell it from a recording: to the others the node has been silent since its predecessor's last.
    let mut f = Fixture::member_of(&["a", ME, "b"]);
    f.succeed(100);
    f.pass(INTERVAL * 3);
    assert_eq!((f.leases(), f.pulses().len()), (vec![], 4));
    f.hear("b", deaf);
    assert_eq!((f.leases().len(), f.pulses().len()), (1, 1), "at once, and the others have it from b");
    // Who is alone has nobody to prove it to.
    let mut f = Fixture::member_of(&[ME]);
    f.succeed(100);
    f.pass(0);
    assert_eq!(f.leases().len(), 1);
}

#[test]
fn r10_contested_buckets_stay_so_until_the_keepers_have_been_heard() {
    let mut f = Fixture::handing_over(&["a", ME]);
    let kept: BucketSet = f.given().iter().take(3).collect();
    f.hear("a", |pulse| pulse.keeping = kept);
    assert_eq!(f.machine.contested(), kept);
    f.succeed(10);
    assert_eq!(f.machine.contested(), kept);
    f.run(INTERVAL * 5, &[]);
    assert_eq!(f.machine.contested(), kept, "nobody has denied it");
    f.run(INTERVAL * 4, &["a"]);
    assert_eq!(f.machine.contested(), BucketSet::EMPTY, "the one that is heard keeps none");
}

#[test]
fn r10_a_drain_and_a_weight_and_ill_health_go_on() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(Command::Weight(7));
    f.command(Command::Drain(true));
    f.command(Command::Healthy(false));
    f.succeed(10);
    f.pass(0);
    let pulse = f.pulses().pop().unwrap();
    assert_eq!((pulse.state, pulse.weight, pulse.healthy), (NodeState::Draining, 7, false));
    // A weight that the administrator has written meanwhile is newer than one from before.
    let left = left_by(&f.machine);
    let config = Config { weight: 50, ..f.machine.config().clone() };
    let machine = Machine::resume(config, left, f.now).unwrap();
    assert_eq!(machine.memo().unwrap().weight, 50);
}

#[test]
fn r10_a_promise_is_not_forgotten() {
    let mut f = Fixture::member_of(&["a", ME]);
    f.hear("a", |pulse| pulse.promise = view_id(9, "a"));
    f.succeed(10);
    f.run(INTERVAL * 2, &["a"]);
    f.hear_view("a", &view(5, "a", &["a", ME]));
    assert_eq!(f.machine.view().unwrap().id.epoch, 1, "view 5 is below what it has promised");
}

#[test]
fn r10_debts_and_good_byes_are_not_forgotten() {
    let mut f = Fixture::member_of(&["a", ME, "b", "c"]);
    f.hear("c", |pulse| pulse.gone = true);
    let without = view(2, "a", &["a", ME]);
    f.claimed = without.id;
    f.hear_view("a", &without);
    assert!(!f.machine.is_settled(), "b may own something");
    f.succeed(10);
    f.run(INTERVAL * 2, &["a"]);
    assert!(!f.machine.is_settled() && f.pulses().iter().all(|pulse| !pulse.settled));
    assert!(f.pulses().iter().all(|p| p.heard.iter().any(|e| e.identity == identity("c") && e.gone)));
}

#[test]
fn r10_who_serves_nothing_or_leaves_leaves_nothing_to_go_on_with() {
    assert_eq!(Fixture::new(1).machine.memo(), None, "listening");
    let mut f = Fixture::member_of(&["a", ME]);
    f.command(Command::Leave);
    assert_eq!(f.machine.memo(), None, "leaving");
    let mut f = Fixture::member_of(&["a", ME]);
    f.hang(TIMEOUT);
    assert_eq!(f.machine.memo(), None, "stalled");
}

impl Wire {
    /// The daemon of a node dies, and another goes on with the run after so many milliseconds.
    fn succeed(&mut self, i: usize, gap: u64) {
        let left = left_by(&self.nodes[i]);
        self.dead[i] = true;
        self.run(gap);
        let config = self.nodes[i].config().clone();
        self.nodes[i] = Machine::resume(config, left, self.now).expect("it goes on");
        self.dead[i] = false;
    }
}

#[test]
fn r10_nobody_notices_a_succession() {
    for gap in [0, 1, 49, 150, 280] {
        let mut wire = Wire::settled(5);
        let view = wire.nodes[1].view().cloned();
        // The coordinator as well as another, and one after the other.
        for i in [0, 3, 0, 1] {
            wire.succeed(i, gap);
            wire.run(TIMEOUT);
            wire.assert_one_view(5);
        }
        assert_eq!(wire.nodes[1].view().cloned(), view, "gap {gap}");
        let told: Vec<&Event> = wire.events.iter().map(|(_, event)| event).collect();
        let is_own = |event: &&Event| matches!(event, Event::Resumed { kept: 0, .. });
        assert!(told.iter().all(is_own) && told.len() == 4, "gap {gap}: {told:?}");
    }
}

#[test]
fn r10_a_node_that_dies_as_another_resumes_is_given_up_all_the_same() {
    let mut wire = Wire::settled(4);
    wire.dead[2] = true;
    wire.succeed(0, 20);
    wire.run(3 * TIMEOUT);
    wire.assert_one_view(3);
}

#[test]
fn r10_of_a_cluster_that_resumes_as_a_whole_nothing_moves() {
    let mut wire = Wire::settled(3);
    let view = wire.nodes[0].view().cloned();
    let left: Vec<Inheritance> = wire.nodes.iter().map(left_by).collect();
    wire.dead.fill(true);
    wire.run(100);
    for (i, left) in left.into_iter().enumerate() {
        let config = wire.nodes[i].config().clone();
        wire.nodes[i] = Machine::resume(config, left, wire.now).unwrap();
    }
    wire.dead.fill(false);
    wire.run(3 * TIMEOUT);
    wire.assert_one_view(3);
    assert_eq!(wire.nodes[0].view().cloned(), view);
}

/// Steps a node alone, and says what came out.
fn alone(node: &mut Node, until: Time) -> Vec<Output> {
    let mut all = Vec::new();
    loop {
        match node.poll_output() {
            Output::Timeout(Some(due)) if due <= until => node.handle_timeout(due),
            Output::Timeout(_) => return all,
            output => {
                let is_pulse = matches!(output, Output::Send { pulse: true, .. });
                all.push(output);
                if is_pulse {
                    let now = node.machine().next_timeout().unwrap_or(until);
                    node.handle_pulse_sent(now.min(until));
                }
            }
        }
    }
}

fn keys() -> Keys {
    Keys::new(ClusterKey::new([5; 32]), [])
}

#[test]
fn r10_a_memo_comes_before_what_it_tells_of_and_reserves_every_number() {
    let begin = Time::from_nanos(1_000_000_000);
    let mut node = Node::new(config(ME, 1), keys(), RUN, begin).unwrap();
    node.leave_memos();
    let mut opener = Opener::new(&keys(), &ClusterName::new("web").unwrap());
    let mut left: Option<Memo> = None;
    let (mut memos, mut told) = (0, 0);
    let mut outputs = alone(&mut node, begin + ms(9 * TIMEOUT));
    node.handle_command(begin + ms(9 * TIMEOUT), Command::Weight(7));
    outputs.extend(alone(&mut node, begin + ms(10 * TIMEOUT)));
    for output in outputs {
        match output {
            Output::Memo(bytes) => {
                memos += 1;
                left = (!bytes.is_empty()).then(|| Memo::decode(&bytes).unwrap());
            }
            Output::Send { datagram, .. } => {
                let (sender, bytes) = opener.open(&datagram).unwrap();
                if let Ok(Message::Pulse(pulse)) = Message::decode(&bytes)
                    && pulse.adopted.epoch > 0
                {
                    told += 1;
                    let memo = left.as_ref().expect("a memo before the first word of a view");
                    let said = (pulse.adopted, pulse.promise, pulse.weight);
                    assert_eq!((memo.view.id, memo.promise, memo.weight), said);
                    assert!(memo.reserved >= sender.sequence);
                }
            }
            _ => {}
        }
    }
    assert!(told > 50 && memos <= 4, "{memos} memos for {told} pulses: only what changes is left again");
    node.handle_command(begin + ms(10 * TIMEOUT), Command::Leave);
    let outputs = alone(&mut node, begin + ms(20 * TIMEOUT));
    let memo = outputs.iter().position(|output| *output == Output::Memo(Vec::new()));
    let word = outputs.iter().position(|output| matches!(output, Output::Send { .. }));
    assert!(memo < word && memo.is_some(), "a leaver's run has no successor");
}

#[test]
fn r10_numbers_run_out_only_after_more_are_reserved() {
    let begin = Time::from_nanos(1_000_000_000);
    let mut node = Node::new(config(ME, 1), keys(), RUN, begin).unwrap();
    node.leave_memos();
    let mut opener = Opener::new(&keys(), &ClusterName::new("web").unwrap());
    let (mut reserved, mut memos) = (0, 0);
    let mut now = begin;
    while memos < 4 {
        now = now + ms(1000 * INTERVAL);
        for output in alone(&mut node, now) {
            match output {
                Output::Memo(bytes) => {
                    memos += 1;
                    reserved = Memo::decode(&bytes).map_or(reserved, |memo| memo.reserved);
                }
                Output::Send { datagram, .. } => {
                    let (sender, _) = opener.open(&datagram).unwrap();
                    assert!(sender.sequence <= reserved.max(NUMBERS_RESERVED));
                }
                _ => {}
            }
        }
    }
    assert!(reserved > 2 * NUMBERS_RESERVED);
}

#[test]
fn r9_a_parents_good_bye_ends_the_run_for_everybody_who_hears_it() {
    let mut wire = Wire::settled(3);
    let farewell = wire.nodes[1].farewell();
    wire.dead[1] = true;
    let died = wire.now;
    let sender =
        crate::seal::Sender { id: id("n01"), name: node("n01"), incarnation: RUN, sequence: (1 << 63) + 1 };
    for to in [0, 2] {
        let now = wire.now;
        wire.nodes[to].handle_message(now, &sender, farewell.clone()).unwrap();
    }
    wire.run(INTERVAL * 2);
    wire.assert_one_view(2);
    assert!(wire.now.since(died) < ms(TIMEOUT));
    let left = |(_, event): &(usize, Event)| matches!(event, Event::Left { .. });
    assert_eq!(wire.events.iter().filter(|e| left(e)).count(), 2);
}

#[test]
fn r9_good_byes_of_successive_daemons_of_a_run_share_no_number() {
    let f = Fixture::member_of(&["a", ME]);
    let first = Node::new(config(ME, 1), keys(), RUN, f.now).unwrap();
    let mut second = Node::resume(config(ME, 1), keys(), left_by(&f.machine), f.now).unwrap();
    let mut opener = Opener::new(&keys(), &ClusterName::new("web").unwrap());
    let mut numbers = Vec::new();
    for datagram in first.farewells().iter().chain(&second.farewells()) {
        let (sender, bytes) = opener.open(datagram).unwrap();
        assert!(matches!(Message::decode(&bytes), Ok(Message::Pulse(pulse)) if pulse.gone));
        assert_eq!(sender.incarnation, RUN);
        numbers.push(sender.sequence);
    }
    for output in alone(&mut second, f.now + ms(INTERVAL * 3)) {
        if let Output::Send { datagram, .. } = output {
            numbers.push(opener.open(&datagram).unwrap().0.sequence);
        }
    }
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((numbers.len(), count > 8), (count, true));
}

fn largest_memo() -> Memo {
    let f = Fixture::member_of(&["a", ME]);
    let who = |n: u64| Identity { id: id(&format!("n{n}")), incarnation: Incarnation(n) };
    let mut memo = f.machine.memo().unwrap();
    memo.debts = (0..64).map(who).collect();
    memo.gone = (0..64).map(|n| (who(n), Time::from_nanos(n))).collect();
    memo
}

#[test]
fn r10_a_memo_is_read_as_it_was_left_and_a_damaged_one_is_refused() {
    let memo = largest_memo();
    let bytes = memo.encode();
    assert!(bytes.len() <= 4096, "{}", bytes.len());
    assert_eq!(Memo::decode(&bytes), Ok(memo));
    for len in 0..bytes.len() {
        assert!(Memo::decode(&bytes[..len]).is_err(), "length {len}");
    }
    let mut other = bytes.clone();
    other[0] = 99;
    assert_eq!(Memo::decode(&other), Err("a memo of another version"));
}

proptest! {
    #[test]
    fn r10_no_bytes_make_the_reader_of_memos_panic(at in 0..4096_usize, byte: u8, cut in 0..4096_usize) {
        let mut bytes = largest_memo().encode();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().max(cut));
        if let Ok(memo) = Memo::decode(&bytes) {
            prop_assert_eq!(Memo::decode(&memo.encode()), Ok(memo));
        }
    }
}
