//! A quorum: too few nodes that hear each other serve nothing, so that no two halves can.
//!
//! ```text
//!    n1        n2        n3       quorum 2: n2 and n3 lose their cables, and n1 is alone
//!    │         ✗         ✗
//!  ──┴─────────┴── br0 ──┴──
//!                   │
//!                   c1            opens a connection every 2 ms, and counts answers
//! ```

mod common;

use std::time::Instant;

use common::{audited, cluster, prober, root, second};
use rudel_lab::probe::Record;
use rudel_lab::{Settings, wait_until};

const ALL: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn the_last_one_stops_answering_and_comes_back() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings { quorum: 2, ..Settings::default() });
    let timeout = lab.settings().timeout;
    let prober = prober(&lab);
    let ((cut, mended, back), tally) = audited(&mut lab, |lab| {
        prober.wait_answers(150).expect("answers of three");
        // Two out of three are enough.
        lab.set_link("n3", false).expect("unplugged");
        lab.wait_at_rest(&["n1", "n2"]).expect("two go on");
        prober.wait_answers(150).expect("answers of two");
        lab.set_link("n2", false).expect("unplugged");
        let cut = Instant::now();
        wait_until(second(10), "n1 to stop serving", || {
            let status = lab.node("n1").status().map_err(|e| format!("{e:#}"))?;
            if status.serving() { Err(format!("it is {:?}", status.state())) } else { Ok(()) }
        })
        .expect("one is not enough");
        // Silence has to last: all this is asked in vain.
        prober.wait_questions(500).expect("questions");
        let mended = Instant::now();
        lab.set_link("n2", true).expect("plugged in");
        lab.wait_at_rest(&["n1", "n2"]).expect("two are enough again");
        prober.wait_answers(150).expect("answers of two");
        lab.set_link("n3", true).expect("plugged in");
        lab.wait_at_rest(&ALL).expect("three again");
        let back = Instant::now();
        prober.wait_answers(150).expect("answers of three");
        (cut, mended, back)
    });
    let report = prober.finish().expect("a report");
    let answered = |record: &&Record, by: &str| record.outcome.as_deref() == Ok(by);
    let count = |by: &str, from: Instant, until: Instant| {
        report
            .records
            .iter()
            .filter(|r| r.start >= from && r.start < until)
            .filter(|r| r.prompt() && answered(r, by))
            .count()
    };
    let begin = report.records.first().expect("something was asked").start;
    assert!(count("n1", begin, cut) > 0, "n1 served before");
    assert_eq!(count("n1", cut + timeout, mended), 0, "n1 answered alone, after its lease");
    for name in ALL {
        assert!(count(name, back, back + second(60)) > 0, "{name} serves again");
    }
    assert_eq!(tally.repeated, [], "answered twice, of {} queries", tally.sent);
}
