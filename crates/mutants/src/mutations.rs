//! The list of what is broken, in the order of the rules.

/// One way to break the protocol.
pub(crate) struct Mutation {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What is left out or changed.
    pub(crate) about: &'static str,
    /// File below `crates/proto/src`, what to find there exactly once, and what to put in its place.
    pub(crate) edits: &'static [(&'static str, &'static str, &'static str)],
    /// The test that must fail.
    pub(crate) caught_by: &'static str,
    /// Where the simulation must notice.
    pub(crate) dies_in: Death,
}

/// How the simulation notices.
#[derive(Clone, Copy)]
pub(crate) enum Death {
    /// One of the first so many seeds of a class of worlds fails, with faults for so many time-outs.
    Class(&'static str, u64, u64),
    /// A story fails.
    Story(&'static str),
    /// No world can tell, and why.
    Unseen(&'static str),
}

const fn mutation(
    name: &'static str,
    about: &'static str,
    edits: &'static [(&'static str, &'static str, &'static str)],
    caught_by: &'static str,
    dies_in: Death,
) -> Mutation {
    Mutation { name, about, edits, caught_by, dies_in }
}

const HEAR: &str = "machine/hear.rs";
const MACHINE: &str = "machine/mod.rs";
const RULES: &str = "machine/rules.rs";
const SAY: &str = "machine/say.rs";
const LEASE: &str = "machine/lease.rs";
const JUDGE: &str = "machine/judge.rs";
const COORDINATE: &str = "machine/coordinate.rs";
const RESUME: &str = "machine/resume.rs";
const NODE: &str = "node.rs";
const ORDERS: &str = "machine/orders.rs";
const FITNESS: &str = "machine/fitness.rs";
const TERMS: &str = "machine/terms.rs";

/// All of them.
pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "promise-left-out",
        "R1: a view below the promise is adopted",
        &[(
            RULES,
            "|view| view.id >= self.promise && view.id > self.view_id()",
            "|view| view.id > self.view_id()",
        )],
        "r1_a_view_below_the_promise_is_not_adopted",
        Death::Class("bodies", 40, 30),
    ),
    mutation(
        "left-out-does-not-yield",
        "R1: who is left out of a higher view goes on",
        &[(
            RULES,
            "if let Some(view) = left_out_by {",
            "if let Some(view) = left_out_by.filter(|_| false) {",
        )],
        "r1_a_node_left_out_by_a_settled_peer_gives_everything_up_and_joins",
        Death::Story("of_two_groups_with_different_configurations_that_meet_one_yields"),
    ),
    mutation(
        "at-least-for-exactly",
        "R3: a word from a higher view counts as well",
        &[(RULES, "word.settled && word.adopted == view)", "word.settled && word.adopted >= view)")],
        "r3_a_higher_view_does_not_count",
        Death::Class("late", 40, 30),
    ),
    mutation(
        "debts-left-out",
        "R3: gains with debts",
        &[(RULES, "self.stalled_at.is_some() || !self.debts.is_empty()", "self.stalled_at.is_some()")],
        "r3_gain_needs_no_debts",
        Death::Unseen(
            "with a majority quorum the words of the others imply it, see docs/testing.md; with q = 1 it takes a node younger than T",
        ),
    ),
    mutation(
        "debts-of-heard-left-out",
        "a peer that the view does not name is no debt",
        &[(RULES, "self.debts.extend(unnamed);", "let _ = unnamed;")],
        "r3_a_node_outside_the_view_that_serves_blocks",
        Death::Class("echoers", 40, 30),
    ),
    mutation(
        "settled-with-debts",
        "says that it is settled while it has debts",
        &[(MACHINE, "self.view.is_some() && self.debts.is_empty()", "self.view.is_some()")],
        "r3_a_former_member_is_a_debt_until_it_owns_nothing",
        Death::Class("echoers", 40, 30),
    ),
    mutation(
        "stale-words",
        "R3: a word counts however old it is",
        &[(
            RULES,
            ".and_then(|peer| peer.fresh_word(now, self.lease_span()))",
            ".and_then(|peer| peer.word.as_ref())\n            .filter(|_| now >= self.started_at)",
        )],
        "r3_a_word_counts_only_while_it_acknowledges_a_pulse_sent_within_t_prime",
        Death::Class("hangs", 60, 60),
    ),
    mutation(
        "quorum-of-words-left-out",
        "R3: gains before a quorum has settled",
        &[(RULES, "quorum == 1 || words >= quorum", "quorum == 1 || words + quorum > 0")],
        "r3_with_a_quorum_so_many_members_must_be_settled_in_exactly_this_view",
        Death::Class("leavers", 40, 30),
    ),
    mutation(
        "replays-count",
        "a datagram counts each time that it comes",
        &[(
            MACHINE,
            "!self.windows.entry(identity).or_default().accept(sender.sequence)",
            "!self.windows.entry(identity).or_default().accept(sender.sequence) && false",
        )],
        "r3_each_datagram_counts_once",
        Death::Unseen(
            "what is repeated is older than what was said last, and every rule asks for later words",
        ),
    ),
    mutation(
        "lease-before-pulse",
        "R4: the lease is moved before the pulse was sent",
        &[(
            SAY,
            "self.sent.push_back((self.sequence, now));",
            "self.sent.push_back((self.sequence, now));\n        self.move_lease(now);",
        )],
        "r4_a_pulse_that_is_not_sent_moves_no_lease",
        Death::Class("hangs", 40, 30),
    ),
    mutation(
        "no-look-at-the-old-lease",
        "R4: a lapsed lease is moved forward",
        &[
            (
                LEASE,
                "        self.observe(now);\n        self.move_lease(now);\n        self.evaluate(now);",
                "        self.move_lease(now);\n        self.observe(now);\n        self.evaluate(now);",
            ),
            (LEASE, "        self.lapse(now);\n        self.lease = until;", "        self.lease = until;"),
        ],
        "r4_a_lapsed_lease_is_never_moved_forward_while_anything_is_owned",
        Death::Class("hangs", 40, 30),
    ),
    mutation(
        "late-pulse-counts-whole",
        "R4: after a late pulse the lease counts from that alone",
        &[(LEASE, "last.min(at + self.config.interval)", "last.max(at)")],
        "r4_after_a_late_pulse_the_lease_counts_from_an_interval_after_the_one_before",
        Death::Story("a_late_pulse_that_is_lost_does_not_lengthen_the_lease"),
    ),
    mutation(
        "who-slept-serves-on-by-its-own-words",
        "R4: after a node has run late its pulses count whether they prove anything or not",
        &[(
            LEASE,
            "self.steady.filter(|_| self.config.quorum == 1)",
            "self.steady.filter(|_| self.resuming && self.config.quorum == 1)",
        )],
        "r4_who_has_run_late_lengthens_its_lease_no_more_until_all_that_it_hears_of_know_it_awake",
        Death::Story("who_slept_does_not_serve_on_by_words_that_prove_nothing_to_another_who_slept"),
    ),
    mutation(
        "late-node-judges",
        "R5: a late node expires others",
        &[(
            JUDGE,
            "self.phase != Phase::Listening && !self.is_late(now)",
            "self.phase != Phase::Listening || now < self.started_at",
        )],
        "r5_a_late_node_judges_nobody",
        Death::Class("hangs", 40, 30),
    ),
    mutation(
        "late-reports-count",
        "R5: what a late node reports counts",
        &[(
            JUDGE,
            "if word.late || word.state == NodeState::Listening {",
            "if word.state == NodeState::Listening {",
        )],
        "r5_a_late_nodes_report_does_not_count_but_vetoes",
        Death::Story("who_hung_is_no_witness_of_silence_when_it_wakes"),
    ),
    mutation(
        "no-veto",
        "R5: a report of life does not veto",
        &[(
            JUDGE,
            "if is_entry && age < timeout {",
            "if is_entry && age < timeout && now < self.started_at {",
        )],
        "r5_one_report_below_t_vetoes",
        Death::Class("one-way", 40, 30),
    ),
    mutation(
        "old-reports-count-as-new",
        "R5: the age of a report is not allowed for",
        &[(JUDGE, "*age >= timeout + slack", "*age >= timeout + slack * 0")],
        "r5_a_report_is_as_old_as_the_pulse_that_it_echoes",
        Death::Story("a_report_that_is_older_than_the_silence_which_it_tells_of_expires_nobody"),
    ),
    mutation(
        "good-byes-not-repeated",
        "R5: a good-bye is not passed on",
        &[(
            SAY,
            "self.gone.iter().map(|(id, (run, at))| gone_entry(*id, *run, now.since(*at))).collect();",
            "self.gone.iter().take(0).map(|(id, (run, at))| gone_entry(*id, *run, now.since(*at))).collect();",
        )],
        "r5_good_byes_are_repeated_in_heard_tables",
        Death::Story("a_parents_good_bye_that_the_coordinator_missed_is_repeated_by_who_heard_it"),
    ),
    mutation(
        "digest-ignored",
        "R6: who hashes otherwise is let in",
        &[(
            COORDINATE,
            "if !Self::may_be_named(word, digest) {",
            "if !Self::may_be_named(word, digest) && now < self.started_at {",
        )],
        "r6_who_is_configured_otherwise_is_not_let_in",
        Death::Story("of_two_groups_with_different_configurations_that_meet_one_yields"),
    ),
    mutation(
        "no-stall",
        "R7: who was not scheduled goes on as before",
        &[(
            HEAR,
            "if idle > self.lease_span() && self.phase == Phase::Member {",
            "if idle > self.lease_span() * 1000 && self.phase == Phase::Member {",
        )],
        "r7_a_stall_is_one_even_if_the_lease_held",
        Death::Story("a_lone_node_without_a_share_that_slept_looks_around_before_it_takes_one"),
    ),
    mutation(
        "back-too-early",
        "R7: after a stall it gains at once",
        &[(LEASE, "        if recovered {", "        if recovered || now >= stalled_at {")],
        "r7_one_acknowledgement_of_many_is_not_enough",
        Death::Story("story_08_a_lone_node_that_hung_finds_out_who_took_over"),
    ),
    mutation(
        "keeps-after-a-stall",
        "R7: a stalled node goes on keeping",
        &[(LEASE, "        self.keep_nothing();\n        if buckets > 0 {", "        if buckets > 0 {")],
        "r7_a_stalled_node_keeps_nothing",
        Death::Unseen("no world has connections to keep"),
    ),
    mutation(
        "listening-while-hung",
        "R8: a stall while listening counts as listening",
        &[(
            HEAR,
            "            if matches!(self.phase, Phase::Listening | Phase::Joining) {",
            "            if self.phase == Phase::Stopped {",
        )],
        "r8_a_stall_while_listening_starts_it_again",
        Death::Story("story_07_a_node_that_slept_while_it_listened_has_heard_nothing_yet"),
    ),
    mutation(
        "young-runs-count",
        "R3: a run counts for the quorum although the one before it may have given a lease",
        &[(RULES, "settled(*who)) && is_seasoned(*who)", "settled(*who)) && (true || is_seasoned(*who))")],
        "r3_a_run_younger_than_t_is_none_of_the_quorum",
        Death::Story(
            "story_12_an_echoer_that_restarted_is_no_member_of_the_quorum_before_the_lease_that_it_gave_is_over",
        ),
    ),
    mutation(
        "who-has-not-answered-does-not-count",
        "R3: a young run gains without the word of somebody who has not answered it yet",
        &[(RULES, "|| is_young && peer.unproven.is_some()", "")],
        "r3_a_run_younger_than_t_waits_for_who_has_not_answered_it_yet",
        Death::Unseen("of all worlds played only `echoers` 80001883 has shown it; it is in seeds.txt"),
    ),
    mutation(
        "words-left-out",
        "R3: gains without the words of the others",
        &[(RULES, "if blocked || !self.is_quorate", "if (blocked && false) || !self.is_quorate")],
        "r3_gain_waits_for_every_other_node",
        Death::Class("weight", 40, 30),
    ),
    mutation(
        "words-without-promise",
        "R3: who owns nothing counts although it has promised nothing",
        &[(
            RULES,
            "word.state.owns_nothing() && word.promise >= view",
            "word.state.owns_nothing() && word.promise.max(view) >= view",
        )],
        "r3_a_node_outside_the_view_counts_if_it_owns_nothing_and_promised_this_view",
        Death::Class("restart", 100, 30),
    ),
    mutation(
        "lease-as-long-as-the-time-out",
        "R4: a lease lasts T, not T'",
        &[("config.rs", "self.timeout - self.interval - self.timeout / 50", "self.timeout")],
        "timers_must_fit_each_other",
        Death::Class("hang", 40, 30),
    ),
    mutation(
        "unproven-echoes-move-leases",
        "R4: an echo moves the lease though its sender does not take this node for alive",
        &[(HEAR, "if echo.is_some_and(|entry| entry.proven) {", "if echo.is_some() {")],
        "r4_an_echo_that_is_not_proven_moves_no_lease",
        Death::Story("the_echo_of_a_new_run_that_does_not_know_a_node_alive_moves_no_lease"),
    ),
    mutation(
        "lapse-left-out",
        "R7: whose lease has lapsed goes on as if it had not",
        &[(
            LEASE,
            "if serves && now >= self.lease {",
            "if serves && now >= self.lease && self.phase == Phase::Stopped {",
        )],
        "r4_nothing_is_owned_from_the_very_moment_that_the_lease_lapses",
        Death::Class("hangs", 40, 30),
    ),
    mutation(
        "higher-runs-live-on",
        "R5: a lower run that is proved alive does not end the higher ones of its machine",
        &[(JUDGE, "peer.follows.max(Some(peer.identity.incarnation))", "Some(peer.identity.incarnation)")],
        "r5_a_lower_run_that_is_proved_alive_ends_the_higher_one",
        Death::Unseen("of all worlds played only `restart` 70000245 has shown it; it is in seeds.txt"),
    ),
    mutation(
        "one-report-expires",
        "R5: one report is enough, whatever the quorum",
        &[(JUDGE, "counted >= terms.quorum", "counted >= 1")],
        "r5_quorum_nodes_must_report_the_silence",
        Death::Story("two_of_three_serve_and_the_third_falls_silent_first"),
    ),
    mutation(
        "waiting-while-hung",
        "R8: a stall while it waits for a view counts as waiting",
        &[(
            HEAR,
            "if matches!(self.phase, Phase::Listening | Phase::Joining) {",
            "if matches!(self.phase, Phase::Listening) {",
        )],
        "r8_a_stall_while_waiting_once_more_starts_listening_again_too",
        Death::Story("who_slept_while_it_waited_for_an_answer_finds_it_before_it_makes_a_view"),
    ),
    mutation(
        "good-bye-too-early",
        "R9: the good-bye comes before the kernel is emptied",
        &[(
            RULES,
            "            self.give_up_all();\n            self.phase = Phase::Goodbye { said: 1, next: now + self.config.interval / 4 };\n            self.pulse(now);",
            "            self.phase = Phase::Goodbye { said: 1, next: now + self.config.interval / 4 };\n            self.pulse(now);\n            self.give_up_all();",
        )],
        "r9_what_it_owns_is_given_up_before_the_good_bye",
        Death::Story("who_leaves_with_what_nobody_could_take_falls_silent_before_it_says_good_bye"),
    ),
    mutation(
        "successor-gains-at-once",
        "R10: a successor gains before it has listened for T",
        &[(RULES, " || !self.debts.is_empty() || self.resuming {", " || !self.debts.is_empty() {")],
        "r10_for_t_a_successor_gains_nothing",
        Death::Story("who_goes_on_with_a_run_looks_around_before_it_gains"),
    ),
    mutation(
        "successor-coordinates",
        "R10: a successor makes views, and judges, before it has listened for T",
        &[
            (COORDINATE, "NodeState::Joining) || self.resuming {", "NodeState::Joining) {"),
            (RESUME, "self.late_until = now + self.config.timeout;", "self.late_until = now;"),
        ],
        "r10_for_t_a_successor_judges_nobody_and_makes_no_view",
        Death::Story("a_successor_that_has_not_heard_anybody_leaves_it_to_others_to_move_its_share"),
    ),
    mutation(
        "successor-trusts-its-first-pulse",
        "R10: the first pulse moves the lease as any other",
        &[(LEASE, "own(steady.or(before))", "own(before)")],
        "r10_the_first_pulse_that_proves_life_moves_the_lease_by_an_interval_at_most",
        Death::Story("who_slept_does_not_serve_on_by_words_that_prove_nothing_to_another_who_slept"),
    ),
    mutation(
        "successor-needs-no-proof",
        "R10: a pulse that echoes nobody moves the lease",
        &[(LEASE, "bases.extend(Some(own).filter(|_| self.proves));", "bases.push(own);")],
        "r10_a_pulse_that_echoes_nobody_moves_no_lease",
        Death::Story("a_successor_that_dies_before_anybody_can_know_it_alive_and_its_successor"),
    ),
    mutation(
        "successor-borrows-again",
        "R10: each successor moves the lease by a pulse that echoes somebody",
        &[(RESUME, "!self.borrowed && echoes()", "echoes()")],
        "r10_a_lease_on_credit_is_not_moved_again_before_somebody_has_acknowledged_the_run_alive",
        Death::Unseen(
            "no world has shown it: a successor answers until it is acknowledged, and that was enough in `heirs` 80001790",
        ),
    ),
    mutation(
        "successor-forgets-its-promise",
        "R10: the predecessor's promise is not kept",
        &[(RESUME, "machine.promise = memo.promise;", "machine.promise = memo.view.id;")],
        "r10_a_promise_is_not_forgotten",
        Death::Story("a_successor_keeps_the_promise_of_a_view_that_nobody_has_seen"),
    ),
    mutation(
        "successor-forgets-its-debts",
        "R10: the predecessor's debts are not remembered",
        &[(RESUME, "machine.debts = memo.debts.into_iter().collect();", "")],
        "r10_debts_and_good_byes_are_not_forgotten",
        Death::Story("a_successor_knows_whom_its_predecessor_was_not_yet_settled_for"),
    ),
    mutation(
        "successor-takes-its-share",
        "R10: a successor owns what the view gives, whatever the kernel passes",
        &[(RESUME, "machine.owned = owned & given;", "machine.owned = given;")],
        "r10_what_the_view_does_not_give_is_given_up_and_kept",
        Death::Story("a_successor_owns_what_the_kernel_passes_and_not_what_the_view_gives"),
    ),
    mutation(
        "successor-of-a-lapsed-lease",
        "R10: a run goes on after its lease",
        &[(RESUME, "if now >= lease {", "if lease == Time::ZERO {")],
        "r10_a_lease_that_is_over_is_not_taken_over",
        Death::Unseen("it is as if the daemon had hung so long: R7 and R10.6 hold it, see docs/testing.md"),
    ),
    mutation(
        "successor-repeats-numbers",
        "R10: a successor begins with numbers that were used",
        &[(RESUME, "machine.sequence = memo.reserved;", "machine.sequence = 0;")],
        "r10_a_successor_goes_on_as_if_nothing_had_been",
        Death::Story("a_successor_goes_on_with_numbers_that_nobody_has_heard"),
    ),
    mutation(
        "memo-left-once",
        "R10: what is new is not left for a successor",
        &[(NODE, "number <= left.reserved && new.says_the_same(old)", "number <= left.reserved")],
        "r10_a_memo_comes_before_what_it_tells_of_and_reserves_every_number",
        Death::Story("a_successor_goes_on_by_the_latest_view_that_its_predecessor_had"),
    ),
    mutation(
        "a-verdict-suffices",
        "R6: a failing check takes a share away without anybody's good answer",
        &[(
            FITNESS,
            "condition.healthy && has > 0 && !refuted(condition)",
            "condition.healthy && has > 0 && false",
        )],
        "r6_a_check_that_fails_everywhere_moves_nothing_however_late_the_verdicts_come",
        Death::Story(
            "health::a_server_that_fails_on_all_nodes_moves_nothing_when_it_stops_nor_when_it_comes_back",
        ),
    ),
    mutation(
        "any-good-answer-refutes",
        "R6: an answer counts that was asked for before the other's verdict",
        &[(FITNESS, "&& self.checkup.answered >= other.checkup.called", "")],
        "r6_a_failing_check_takes_a_share_away_as_soon_as_another_node_refutes_that_it_fails_everywhere",
        Death::Story(
            "health::a_server_that_fails_on_all_nodes_moves_nothing_when_it_stops_nor_when_it_comes_back",
        ),
    ),
    mutation(
        "any-bad-answer-counts",
        "R6: a share is taken from who has not been asked since the other one recovered",
        &[(FITNESS, "&& other.checkup.answered >= self.checkup.called", "")],
        "r6_what_failed_everywhere_and_comes_back_in_one_place_goes_there",
        Death::Story(
            "health::a_server_that_fails_on_all_nodes_moves_nothing_when_it_stops_nor_when_it_comes_back",
        ),
    ),
    mutation(
        "recovering-counts-as-sick",
        "R6: a share is taken from a node whose last answer was good",
        &[(FITNESS, "&& !other.checkup.last_good", "")],
        "r6_what_failed_everywhere_moves_nothing_when_it_comes_back",
        Death::Story(
            "health::a_server_that_fails_on_all_nodes_moves_nothing_when_it_stops_nor_when_it_comes_back",
        ),
    ),
    mutation(
        "good-verdicts-call-nobody",
        "R6: only a bad verdict calls an examination",
        &[(FITNESS, "if changed {", "if changed && !good {")],
        "r6_a_verdict_that_changes_calls_an_examination_and_every_node_answers_it_once",
        Death::Story(
            "health::a_server_that_fails_on_all_nodes_moves_nothing_when_it_stops_nor_when_it_comes_back",
        ),
    ),
    mutation(
        "who-waits-keeps-its-share",
        "R6: a member that cannot take what its view gives it keeps it",
        &[(
            COORDINATE,
            "if !candidate.gains && self.waits(",
            "if !candidate.gains && candidate.weight > 1000 && self.waits(",
        )],
        "r6_who_waits_for_somebody_whom_it_does_not_hear_gets_no_share",
        Death::Story("a_share_that_is_stuck_behind_a_cut_goes_to_who_hears_everybody"),
    ),
    mutation(
        "nobody-says-that-it-waits",
        "R6: who cannot take what its view gives it does not say so",
        &[(SAY, "waiting: self.is_waiting(now),", "waiting: false,")],
        "r6_who_lacks_something_for_t_says_so",
        Death::Class("apart", 20, 40),
    ),
    mutation(
        "the-share-of-who-waits-goes-nowhere",
        "R6: it is taken although nobody could have it",
        &[(
            COORDINATE,
            "if candidates.iter().any(|candidate| candidate.gains && candidate.weight > 0) {",
            "if !candidates.is_empty() {",
        )],
        "r6_the_share_of_who_waits_stays_if_nobody_could_take_it",
        Death::Story("the_share_of_who_waits_stays_where_nobody_else_could_take_it"),
    ),
    mutation(
        "who-is-heard-first-does-not-repeat",
        "R6: who does not hear the coordinator gets its view from others in their turn only",
        &[(COORDINATE, "|| is_deaf && members", "|| is_deaf && self.me != self.me && members")],
        "r6_who_does_not_hear_the_coordinator_is_told_by_the_first_whom_it_hears",
        Death::Story("two_who_coordinate_and_do_not_hear_each_other_agree_in_the_end"),
    ),
    mutation(
        "orders-numbered-anew",
        "R10: the orders of a successor have the numbers of its predecessor's",
        &[(ORDERS, "get_or_insert(self.sequence + 1)", "get_or_insert(1)")],
        "r10_a_successors_orders_are_not_taken_for_its_predecessors",
        Death::Unseen("no world has an administrator who orders anything of another node"),
    ),
    mutation(
        "good-byes-end-former-runs",
        "R9: the good-bye of a later run ends the present one",
        &[(JUDGE, "*incarnation == identity.incarnation", "*incarnation >= identity.incarnation")],
        "r9_a_relayed_good_bye_of_a_later_run_ends_no_living_one",
        Death::Unseen(
            "in no world does a node lose the number of its run and meet a recording of a later one",
        ),
    ),
    mutation(
        "recordings-keep-fenced",
        "R5: a fenced node waits for as long as somebody repeats what the other machine said",
        &[(HEAR, "if is_proved { Some(now) } else { proved_before }", "Some(now).or(proved_before)")],
        "r5_recordings_of_the_other_machine_keep_nobody_fenced",
        Death::Unseen("in no world do two machines have one name"),
    ),
    mutation(
        "good-byes-are-always-new",
        "R5: a good-bye that a peer repeats is remembered as if it had been said just then",
        &[(HEAR, "(identity.incarnation, at)", "(identity.incarnation, now)")],
        "r9_a_good_bye_is_forgotten_by_all",
        Death::Unseen("it costs room in pulses, and changes nothing else"),
    ),
    mutation(
        "bound-with-a-long-lease",
        "R11: says that it obeys shorter terms while its lease is a longer one",
        &[(
            TERMS,
            "if !self.terms.bound && is_short() {",
            "if !self.terms.bound && (is_short() || self.weight > 0) {",
        )],
        "r11_it_is_bound_only_when_its_lease_in_force_is_no_longer_than_the_new_terms_allow",
        Death::Class("reload", 100, 60),
    ),
    mutation(
        "former-terms-forgotten",
        "R11: obeys the former terms no longer when it has adopted a view of others",
        &[(TERMS, "            || !self.is_everyone_here(now)\n", "")],
        "r11_the_former_terms_are_obeyed_until_everyone_is_settled_in_a_view_of_the_new_ones",
        Death::Class("reload", 100, 60),
    ),
    mutation(
        "expired-by-any-terms",
        "R11: expires whom one of the terms would expire",
        &[(JUDGE, "self.obeyed_terms().iter().all(", "self.obeyed_terms().iter().any(")],
        "r11_nobody_is_expired_who_is_not_by_all_terms",
        Death::Unseen(
            "nobody is given up within the longest time-out that is obeyed, whatever the terms: only their quorums tell, and 100 worlds of reload did not",
        ),
    ),
    mutation(
        "any-view-adopted",
        "R11: adopts views of terms that it does not obey",
        &[(RULES, "view.names(self.me) && self.obeys(view.digest)", "view.names(self.me)")],
        "r11_a_view_of_terms_that_are_not_obeyed_is_not_adopted",
        Death::Class("reload", 100, 60),
    ),
    mutation(
        "others-time-out-ignored",
        "R11: expires who says a longer time-out by its own",
        &[(JUDGE, "terms.timeout.max(self.timeout_said_by(identity))", "terms.timeout")],
        "r11_nobody_is_expired_before_its_own_time_out",
        Death::Class("reload", 100, 60),
    ),
    mutation(
        "former-wishes-forgotten",
        "R11: a new run does not obey what a former one may have obeyed",
        &[(MACHINE, "Command::ObeyToo(terms) => self.obey_too(now, terms),", "Command::ObeyToo(_) => {}")],
        "r11_what_a_former_run_may_have_obeyed_is_obeyed_until_all_are_settled",
        Death::Class("reload", 100, 60),
    ),
    mutation(
        "successor-forgets-its-terms",
        "R11: a successor obeys the terms of its view alone",
        &[(
            RESUME,
            "Agreement::resume(memo.obeyed, memo",
            "Agreement::resume(vec![machine.wanted_terms()], memo",
        )],
        "r11_a_successor_obeys_and_says_what_its_predecessor_has_said",
        Death::Class("reload", 100, 60),
    ),
    mutation(
        "successor-takes-the-shortest-lease",
        "R11: a successor takes the lease in force for one of the shortest terms",
        &[(RESUME, "machine.terms.longest_lease()", "machine.lease_span()")],
        "r11_a_successor_takes_the_lease_for_one_of_the_longest_terms",
        Death::Class("reload", 100, 60),
    ),
    mutation(
        "successor-releases-at-once",
        "R11: a successor releases terms before it has listened",
        &[(TERMS, "            || self.resuming\n", "")],
        "r11_a_successor_releases_nothing_before_it_has_listened",
        Death::Class("reload", 100, 60),
    ),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn read(file: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// To run the list takes long, so it is seldom done; that it fits the code is seen at once.
    #[test]
    fn each_mutation_finds_what_it_changes_and_the_tests_that_it_names() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/src/machine/tests");
        let mut rules =
            ["config.rs", "seal.rs", "share.rs"].map(|file| read(&format!("proto/src/{file}"))).concat();
        for entry in fs::read_dir(folder).expect("the tests of the rules are there") {
            rules += &fs::read_to_string(entry.expect("readable").path()).expect("text");
        }
        let stories = read("sim/tests/stories.rs") + &read("sim/tests/stories/health.rs");
        let classes = read("sim/src/class.rs");
        for mutation in MUTATIONS {
            let name = mutation.name;
            for (file, find, _) in mutation.edits {
                let found = read(&format!("proto/src/{file}")).matches(find).count();
                assert_eq!(found, 1, "{name}: {file} has this {found} times:\n{find}");
            }
            assert!(rules.contains(&format!("fn {}(", mutation.caught_by)), "{name}: no such test");
            assert!(
                match mutation.dies_in {
                    Death::Class(class, ..) => classes.contains(&format!("\"{class}\"")),
                    Death::Story(story) => {
                        let story = story.trim_start_matches("health::");
                        stories.contains(&format!("fn {story}("))
                    }
                    Death::Unseen(why) => !why.is_empty(),
                },
                "{name}: no such class or story"
            );
        }
    }
}
