//! Nodes that come and go on purpose, under traffic.
//!
//! ```text
//!    n1        n2        n3        n4     n4 is added at run time; others leave by SIGTERM
//!    │         │         │         ┊
//!  ──┴─────────┴── br0 ──┴┄┄┄┄┄┄┄┄┄┘
//!                   │
//!                   c1                    opens a connection every 2 ms
//! ```

mod common;

use common::{at, cluster, https, prober, root, say, second};
use rudel_lab::{Settings, VIP4, status};

#[test]
fn a_new_node_gets_its_share_and_nobody_notices() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let before = lab.wait_at_rest(&["n1", "n2", "n3"]).expect("at rest");
    let prober = prober(&lab);
    let node = lab.add_node().expect("a fourth node");
    node.start_services().expect("servers");
    node.start_daemon().expect("a daemon");
    let after = lab.wait_at_rest(&["n1", "n2", "n3", "n4"]).expect("it joins");
    // Some traffic in the new order.
    prober.wait_answers(250).expect("answers in the new order");
    let report = prober.finish().expect("a report");
    assert!(report.failed().is_empty(), "{}", report.failures());
    status::only_moved_to(&before, &after, "n4", &["n1", "n2", "n3", "n4"]).expect("least movement");
    assert_eq!(status::counts(&after).get("n4"), Some(&64));

    let flows: Vec<_> = (0..8)
        .flat_map(|port| (0..=255).map(move |host| (port, host)))
        .map(|(port, host)| (at(lab.client().source(VIP4, 4, host), 20_000 + port), at(VIP4, 80)))
        .collect();
    let nodes = https(&lab, &flows);
    let part = nodes.iter().filter(|n| *n == "n4").count() as f64 / nodes.len() as f64;
    assert!((part - 0.25).abs() <= 0.05, "n4 answered {part:.3} of the flows");
}

/// The coordinator leaves, then another: a leave is not a failure.
#[test]
fn leaving_costs_not_one_new_connection() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    let mut left: Vec<&str> = vec!["n1", "n2", "n3"];
    for leaver in ["n1", "n3"] {
        let before = lab.wait_at_rest(&left).expect("at rest");
        let prober = prober(&lab);
        // Some traffic in the old order.
        prober.wait_answers(150).expect("answers in the old order");
        let status = lab.node_mut(leaver).terminate_daemon(second(20)).expect("it ends");
        assert!(status.success(), "{leaver} ended with {status}");
        left.retain(|name| *name != leaver);
        let after = lab.wait_at_rest(&left).expect("the others go on");
        // Some traffic in the new order.
        prober.wait_answers(250).expect("answers in the new order");
        let report = prober.finish().expect("a report");
        say(&format!(
            "{leaver} left: {} connections, {} failed, {} delayed, slowest {:?}",
            report.total(),
            report.failed().len(),
            report.delayed().len(),
            report.slowest()
        ));
        assert!(report.failed().is_empty(), "{}", report.failures());
        status::only_moved_from(&before, &after, leaver, &left).expect("least movement");
    }
}

/// A leaver comes back, as after a maintenance, and the shares are as before.
#[test]
fn leave_and_return() {
    let Some(_serial) = root() else { return };
    let mut lab = cluster(3, Settings::default());
    for _ in 0..3 {
        let status = lab.node_mut("n2").terminate_daemon(second(20)).expect("it ends");
        assert!(status.success(), "n2 ended with {status}");
        lab.wait_at_rest(&["n1", "n3"]).expect("two are left");
        lab.node_mut("n2").start_daemon().expect("n2 starts again");
        lab.wait_at_rest(&["n1", "n2", "n3"]).expect("three again");
    }
}
