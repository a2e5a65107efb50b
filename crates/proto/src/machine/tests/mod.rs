//! The rules of `docs/protocol.md`, one test or more for each sentence, named after it.
//!
//! Most tests step one machine among fictitious peers (`fixture.rs`) and assert what came out exactly; what only
//! shows between machines runs on a wire without delay (`wire.rs`). Whole clusters under faults are the
//! simulator's part.

mod cost;
mod fitness;
mod fixture;
mod handover;
mod orders;
mod people;
mod r10_resume;
mod r11_terms;
mod r1_r2_adopt;
mod r3_gain;
mod r4_lease;
mod r5_expire;
mod r6_coordinate;
mod r7_stall;
mod r8_r9_start_leave;
mod replay;
mod twins;
mod wire;

/// The sources that the rules live in, and the tests that hold them.
const MACHINE: [&str; 13] = [
    include_str!("../mod.rs"),
    include_str!("../hear.rs"),
    include_str!("../rules.rs"),
    include_str!("../say.rs"),
    include_str!("../judge.rs"),
    include_str!("../lease.rs"),
    include_str!("../coordinate.rs"),
    include_str!("../fitness.rs"),
    include_str!("../peer.rs"),
    include_str!("../handover.rs"),
    include_str!("../orders.rs"),
    include_str!("../resume.rs"),
    include_str!("../terms.rs"),
];
const TESTS: [&str; 17] = [
    include_str!("r1_r2_adopt.rs"),
    include_str!("r3_gain.rs"),
    include_str!("r4_lease.rs"),
    include_str!("r5_expire.rs"),
    include_str!("r6_coordinate.rs"),
    include_str!("r7_stall.rs"),
    include_str!("r8_r9_start_leave.rs"),
    include_str!("twins.rs"),
    include_str!("replay.rs"),
    include_str!("cost.rs"),
    include_str!("handover.rs"),
    include_str!("wire.rs"),
    include_str!("orders.rs"),
    include_str!("r10_resume.rs"),
    include_str!("fitness.rs"),
    include_str!("people.rs"),
    include_str!("r11_terms.rs"),
];
const DOCUMENT: &str = include_str!("../../../../../docs/protocol.md");

/// R1 is not cited by naming R10.
fn cites(line: &str, rule: u32) -> bool {
    let name = format!("R{rule}");
    line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name)
}

#[test]
fn every_rule_is_written_down_cited_by_the_code_and_tested_by_name() {
    for rule in 1..=11 {
        let written = format!("### R{rule} ");
        assert!(DOCUMENT.contains(&written), "docs/protocol.md has no heading \"{written}\"");
        let cited = |source: &&str| source.lines().any(|line| line.contains("//") && cites(line, rule));
        assert!(MACHINE.iter().any(cited), "no comment of the machine cites R{rule}");
        let named = format!("fn r{rule}_");
        let tests = TESTS.iter().flat_map(|source| source.lines());
        assert!(
            tests.filter(|line| line.starts_with(&named)).count() >= 2,
            "fewer than two tests begin with r{rule}_"
        );
    }
}

/// Reception is no rule of the machine: what the document says of it is tested where it is.
const ELSEWHERE: [&str; 5] = [
    include_str!("../../../../rudeld/src/reception/mod.rs"),
    include_str!("../../../../rudeld/src/reception/judge.rs"),
    include_str!("../../../../rudeld/src/reception/audit.rs"),
    include_str!("../../../../datapath/tests/filter.rs"),
    include_str!("../../../../lab/tests/reception.rs"),
];

#[test]
fn every_test_that_the_document_points_to_exists() {
    let mut pointed = 0;
    for word in DOCUMENT.split('`').skip(1).step_by(2) {
        let is_test = word.contains('_')
            && word.len() > 24
            && !word.contains(|c: char| !c.is_alphanumeric() && c != '_');
        if is_test {
            pointed += 1;
            assert!(
                TESTS.iter().chain(&ELSEWHERE).any(|source| source.contains(&format!("fn {word}()"))),
                "no test is called {word}"
            );
        }
    }
    assert!(pointed > 10, "docs/protocol.md points to {pointed} tests");
}
