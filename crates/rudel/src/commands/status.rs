//! `rudel status`.

use std::time::Duration;

use anstyle::Style;
use rudel_api::config::Side;
use rudel_api::event::Event;
use rudel_api::snapshot::{Hook, Interface, Node, NodeState, Snapshot};
use rudel_api::timestamp::Timestamp;

use crate::Outcome;
use crate::failure::Failure;
use crate::layout::{
    BAD, BOLD, Cell, Column, DIM, GOOD, NOTE, PLAIN, Row, ago, count, keeping, paint, percent, span, table,
    wrap,
};
use crate::output;
use crate::target::Target;

/// Show the cluster as this node sees it
///
/// Nodes and their shares, what is moving, and why the last change happened. Exits with 3 if the cluster is degraded:
/// this node does not serve though it should, a node is unhealthy, lost or not heard, a bucket has no owner, a change
/// is not settled after ten seconds, an interface is deaf or without its filter, or a health check fails. A node that
/// is drained by command, or has the weight 0, does not degrade a cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel status
  rudel status --json | jq '.nodes[] | {name, buckets}'
  rudel status > /dev/null || echo degraded")]
pub(crate) struct Args {
    /// Print everything as JSON; its names are a promise to scripts
    #[arg(long)]
    json: bool,
}

/// How many of the last events are shown.
const EVENTS_SHOWN: usize = 6;

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let mut client = target.connect()?;
    let raw = client.status_json()?;
    let snapshot: Snapshot = serde_json::from_str(raw.get()).map_err(|error| {
        Failure::undone(
            format!("cannot understand the daemon's status: {error}"),
            "install rudel and rudeld of the same version",
        )
    })?;
    let troubles = snapshot.troubles();
    if args.json {
        output::print(&format!("{}\n", raw.get()))?;
    } else {
        output::print(&render(&snapshot, &troubles, Timestamp::now(), output::width()))?;
    }
    Ok(if troubles.is_empty() { Outcome::Done } else { Outcome::Degraded })
}

fn render(snapshot: &Snapshot, troubles: &[String], now: Timestamp, width: usize) -> String {
    let mut sections = vec![headline(snapshot, troubles, now, width), nodes(snapshot, width)];
    if !snapshot.interfaces.is_empty() {
        sections.push(interfaces(&snapshot.interfaces, width));
    }
    if !snapshot.health.is_empty() {
        sections.push(health(snapshot, now, width));
    }
    if !snapshot.events.is_empty() {
        sections.push(events(&snapshot.events, now, width));
    }
    sections.join("\n")
}

fn headline(snapshot: &Snapshot, troubles: &[String], now: Timestamp, width: usize) -> String {
    let buckets = &snapshot.buckets;
    let serves = match snapshot.serving {
        true => format!("serves {} of {} buckets", buckets.owned, buckets.total),
        false => "serves nothing".to_owned(),
    };
    let lease = match snapshot.lease_ms {
        0 => "no lease".to_owned(),
        ms => format!("lease {}", span(Duration::from_millis(ms))),
    };
    let state = paint(state_style(snapshot.state), snapshot.state.as_str());
    let mut out = format!(
        "{}: {} is {state}, {serves}, {lease}\n",
        paint(BOLD, &snapshot.cluster),
        paint(BOLD, &snapshot.node)
    );

    let view = &snapshot.view;
    let mut line = match &view.coordinator {
        Some(coordinator) => format!("view {} by {coordinator}", view.epoch),
        None => "no view yet".to_owned(),
    };
    if let Some(age) = view.age_ms {
        line.push_str(&format!(", {} old", span(Duration::from_millis(age))));
    }
    line.push_str(if view.settled { ", settled" } else { ", not settled" });
    for (n, what) in
        [(buckets.adopting, "to take over"), (buckets.keeping, "given up with connections still open")]
    {
        if n > 0 {
            line.push_str(&format!(", {n} {what}"));
        }
    }
    wrap(&line, width).iter().for_each(|line| out.push_str(&format!("{line}\n")));
    if let Some(nat) = &snapshot.nat {
        let refused = match nat.refused {
            0 => String::new(),
            n => format!("; {n} connections found no free port"),
        };
        let line = format!("translates onto {}{refused}", nat.addresses.join(" "));
        wrap(&line, width).iter().for_each(|line| out.push_str(&format!("{line}\n")));
    }

    if let Some(sync) = &snapshot.sync {
        let mut line = format!(
            "shares connections: {} of its own, {} of others",
            count(sync.flows_own),
            count(sync.flows_foreign)
        );
        if !sync.synced {
            line.push_str(", not all known yet");
        }
        if sync.write_errors > 0 {
            line.push_str(&format!("; the kernel refused {}", count(sync.write_errors)));
        }
        wrap(&line, width).iter().for_each(|line| out.push_str(&format!("{line}\n")));
    }
    if let Some(hook) = &snapshot.hook {
        hook_lines(hook, now, width).iter().for_each(|line| out.push_str(&format!("{line}\n")));
    }

    if let Some(event) = &snapshot.why_last_change {
        let text = format!("last change {}: {}", ago(event.at.age_at(now)), sentence(event));
        wrap(&text, width).iter().for_each(|line| out.push_str(&format!("{line}\n")));
    }
    if let Some(reload) = &snapshot.reload {
        for note in reload.waiting().into_iter().chain(reload.refusal()) {
            let text = format!("reload {}: {note}", ago(reload.at.age_at(now)));
            wrap(&text, width).iter().for_each(|line| out.push_str(&format!("{}\n", paint(NOTE, line))));
        }
    }
    for trouble in troubles {
        for (i, line) in wrap(trouble, width.saturating_sub(2)).iter().enumerate() {
            out.push_str(&format!(
                "{} {}\n",
                if i == 0 { paint(BAD, "!") } else { " ".to_owned() },
                paint(BAD, line)
            ));
        }
    }
    out
}

/// What there is to say of the hook: nothing, as long as it takes what happens as it happens.
fn hook_lines(hook: &Hook, now: Timestamp, width: usize) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(kind) = hook.running.filter(|_| hook.waiting > 0) {
        parts.push(format!("hook is being told of {kind}, {} events wait", hook.waiting));
    }
    if hook.missed > 0 {
        parts.push(format!("{} events came too fast for the hook", hook.missed));
    }
    // A failure that lasts is among the troubles.
    if let Some((at, why)) = hook.last_error_at.zip(hook.last_error.as_ref()).filter(|_| hook.ok) {
        parts.push(format!("hook works again; it failed last {}: {why}", ago(at.age_at(now))));
    }
    parts.iter().flat_map(|part| wrap(part, width)).collect()
}

fn sentence(event: &Event) -> String {
    format!("{} {}: {}", event.node, event.kind, event.reason)
}

fn state_style(state: NodeState) -> Style {
    match state {
        NodeState::Active => GOOD,
        NodeState::Listening | NodeState::Joining | NodeState::Draining | NodeState::Leaving => NOTE,
        NodeState::Fenced | NodeState::Lost | NodeState::Unknown => BAD,
    }
}

fn nodes(snapshot: &Snapshot, width: usize) -> String {
    let columns = [
        Column::left("NODE", 16),
        Column::left("STATE", 10),
        Column::right("WEIGHT"),
        Column::right("BUCKETS"),
        Column::right("SHARE"),
        Column::right("HEARD"),
    ];
    let total = usize::from(snapshot.buckets.total);
    let row = |node: &Node| {
        let is_me = node.name == snapshot.node;
        let state = match node.healthy {
            // A node that is active and cannot serve is best told by that.
            false if node.state == NodeState::Active => Cell("unhealthy".to_owned(), BAD),
            _ => Cell(node.shown_state().to_owned(), state_style(node.state)),
        };
        let heard = match node.heard_ms {
            _ if is_me => Cell("self".to_owned(), DIM),
            Some(ms) => span(Duration::from_millis(ms)).into(),
            None => Cell("silent".to_owned(), BAD),
        };
        let below = match (node.keeping.filter(|n| *n > 0), node.connections.filter(|n| *n > 0)) {
            (Some(buckets), open) => Some(keeping(buckets, open)),
            (None, Some(1)) => Some("1 connection was cut off by the drain time-out".to_owned()),
            (None, Some(n)) => Some(format!("{n} connections were cut off by the drain time-out")),
            (None, None) => None,
        };
        Row {
            cells: vec![
                Cell(node.name.clone(), if is_me { BOLD } else { PLAIN }),
                state,
                match node.state {
                    // Whoever is no member has none that would be known here.
                    NodeState::Lost => Cell("-".to_owned(), DIM),
                    _ => node.weight.to_string().into(),
                },
                node.buckets.to_string().into(),
                percent(usize::from(node.buckets), total).into(),
                heard,
            ],
            tail: node.shown_addresses(),
            below: below.into_iter().collect(),
        }
    };
    let rows: Vec<Row> = snapshot.nodes.iter().map(row).collect();
    table(&columns, "ADDRESS", &rows, width)
}

fn interfaces(interfaces: &[Interface], width: usize) -> String {
    let columns = [
        Column::left("INTERFACE", 15),
        Column::left("SIDE", 7),
        Column::left("CLUSTER MAC", 17),
        Column::left("XDP", 7),
        Column::right("SEEN"),
        Column::right("PASSED"),
        Column::right("FENCED"),
    ];
    let row = |interface: &Interface| {
        let packets = &interface.packets;
        let mut below = wrap(&interface.addresses.join(" "), width.saturating_sub(4));
        if packets.malformed > 0 {
            below.push(format!("{} packets without a flow that could be read", count(packets.malformed)));
        }
        let fenced = if packets.fenced > 0 { NOTE } else { PLAIN };
        let mode = match (interface.deaf, interface.mode) {
            (true, _) => Cell("deaf".to_owned(), BAD),
            (false, Some(mode)) => mode.to_string().into(),
            (false, None) => Cell("none".to_owned(), BAD),
        };
        let side = match interface.side {
            Side::Service => PLAIN,
            Side::Inside | Side::Outside => BOLD,
        };
        Row {
            cells: vec![
                interface.name.clone().into(),
                Cell(interface.side.to_string(), side),
                interface.mac.to_string().into(),
                mode,
                count(packets.seen).into(),
                count(packets.passed).into(),
                Cell(count(packets.fenced), fenced),
            ],
            tail: String::new(),
            below,
        }
    };
    let rows: Vec<Row> = interfaces.iter().map(row).collect();
    table(&columns, "", &rows, width)
}

fn health(snapshot: &Snapshot, now: Timestamp, width: usize) -> String {
    let columns = [Column::left("HEALTH CHECK", 24), Column::left("STATE", 5), Column::right("FOR")];
    let rows: Vec<Row> = snapshot
        .health
        .iter()
        .map(|check| {
            let (state, style) = if check.ok { ("good", GOOD) } else { ("fails", BAD) };
            Row {
                cells: vec![
                    check.name.clone().into(),
                    Cell(state.to_owned(), style),
                    span(check.since.age_at(now)).into(),
                ],
                tail: check.last_error.clone().unwrap_or_default(),
                below: vec![],
            }
        })
        .collect();
    table(&columns, "LAST ERROR", &rows, width)
}

fn events(events: &[Event], now: Timestamp, width: usize) -> String {
    let columns = [Column::right("WHEN"), Column::left("EVENT", 15), Column::left("NODE", 16)];
    let rows: Vec<Row> = events[events.len().saturating_sub(EVENTS_SHOWN)..]
        .iter()
        .map(|event| Row {
            cells: vec![
                Cell(ago(event.at.age_at(now)), DIM),
                event.kind.to_string().into(),
                event.node.clone().into(),
            ],
            tail: event.reason.clone(),
            below: vec![],
        })
        .collect();
    table(&columns, "REASON", &rows, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &str = include_str!("../../tests/fixtures/three-nodes.json");

    fn fixture() -> Snapshot {
        serde_json::from_str(FIXTURE).unwrap()
    }

    fn plain(snapshot: &Snapshot, width: usize) -> String {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let text = render(snapshot, &snapshot.troubles(), now, width);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn a_cluster_in_trouble_is_shown_in_eighty_columns() {
        let text = plain(&fixture(), 80);
        assert_eq!(text, include_str!("../../tests/fixtures/three-nodes.txt"));
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn a_wide_terminal_is_used() {
        let text = plain(&fixture(), 160);
        assert_eq!(text, include_str!("../../tests/fixtures/three-nodes-160.txt"));
        assert!(text.lines().all(|line| line.chars().count() <= 160));
    }

    #[test]
    fn what_a_reload_waits_for_or_was_refused_for_is_told() {
        use rudel_api::reload::{Change, Reload, ReloadResult};
        let mut snapshot = fixture();
        let change = Change { key: "heartbeat.timeout".into(), from: "400ms".into(), to: "1s".into() };
        let mut reload = Reload {
            at: "2026-01-01T00:09:00Z".parse().unwrap(),
            result: ReloadResult::Pending,
            applied: vec![],
            pending: vec![change],
            waiting_for: vec!["n2".into(), "n3".into()],
            reason: None,
        };
        snapshot.reload = Some(reload.clone());
        let text = plain(&snapshot, 120);
        let told = "ago: waiting for n2, n3 to reload: heartbeat.timeout: 400ms -> 1s\n";
        assert!(text.contains(told), "{text}");
        reload.result = ReloadResult::Refused;
        reload.pending.clear();
        reload.reason = Some("error: unknown key `colour`\n --> rudel.toml".into());
        snapshot.reload = Some(reload);
        let text = plain(&snapshot, 120);
        assert!(text.contains("nothing was changed: error: unknown key `colour`\n"), "{text}");
        assert_eq!(snapshot.troubles(), fixture().troubles(), "the cluster serves as before");
    }

    #[test]
    fn the_connections_left_are_told() {
        let mut snapshot = fixture();
        snapshot.nodes[1].connections = Some(12);
        snapshot.nodes[2].connections = Some(3);
        let text = plain(&snapshot, 80);
        assert!(text.contains("\n    keeps 12 connections in 7 buckets\n"), "{text}");
        assert!(text.contains("\n    3 connections were cut off by the drain time-out\n"), "{text}");
        (snapshot.nodes[1].connections, snapshot.nodes[1].keeping) = (Some(1), Some(1));
        snapshot.nodes[2].connections = Some(1);
        let text = plain(&snapshot, 80);
        assert!(text.contains("\n    keeps 1 connection in 1 bucket\n"), "{text}");
        assert!(text.contains("\n    1 connection was cut off by the drain time-out\n"), "{text}");
    }

    #[test]
    fn shared_connections_are_told() {
        let mut snapshot = fixture();
        let mut sync = rudel_api::snapshot::Sync { flows_own: 12, flows_foreign: 34, ..Default::default() };
        snapshot.sync = Some(sync.clone());
        let text = plain(&snapshot, 80);
        assert!(
            text.contains("\nshares connections: 12 of its own, 34 of others, not all known yet\n"),
            "{text}"
        );
        (sync.synced, sync.write_errors) = (true, 3);
        snapshot.sync = Some(sync);
        let text = plain(&snapshot, 80);
        assert!(
            text.contains("\nshares connections: 12 of its own, 34 of others; the kernel refused 3\n"),
            "{text}"
        );
    }

    #[test]
    fn a_hook_is_spoken_of_while_it_lags_or_after_it_failed() {
        let mut snapshot = fixture();
        let quiet = plain(&snapshot, 80);
        let mut hook = Hook {
            program: "/usr/local/sbin/notify".to_owned(),
            ok: true,
            running: None,
            waiting: 0,
            missed: 0,
            runs: 7,
            failures: 0,
            run_ms: 0,
            last_error: None,
            last_error_at: None,
        };
        snapshot.hook = Some(hook.clone());
        assert_eq!(plain(&snapshot, 80), quiet);
        hook.running = Some(rudel_api::event::EventKind::Gained);
        hook.waiting = 3;
        hook.failures = 1;
        hook.last_error = Some("/usr/local/sbin/notify: exit status 1".to_owned());
        hook.last_error_at = Some("2026-01-01T00:08:00Z".parse().unwrap());
        snapshot.hook = Some(hook.clone());
        let text = plain(&snapshot, 80);
        assert!(text.contains("\nhook is being told of gained, 3 events wait\n"), "{text}");
        assert!(text.contains("\nhook works again; it failed last 2 min ago: /usr"), "{text}");
        hook.ok = false;
        snapshot.hook = Some(hook);
        let text = plain(&snapshot, 80);
        assert!(text.contains("\n! the hook failed: /usr/local/sbin/notify: exit status 1\n"), "{text}");
    }

    #[test]
    fn long_names_do_not_widen_it() {
        let mut snapshot = fixture();
        let long = "firewall-1.datacenter-2.example.org".to_owned();
        snapshot.node = long.clone();
        snapshot.nodes[0].name = long.clone();
        snapshot.nodes[0].addresses =
            vec!["2001:db8:1234:5678:9abc:def0:1234:5678".to_owned(), "192.0.2.1".to_owned()];
        snapshot.interfaces[0].name = "fifteen-letters".to_owned();
        snapshot.interfaces[0].packets.seen = u64::MAX;
        snapshot.events[0].node = long;
        for line in plain(&snapshot, 80).lines().skip(1) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_node_that_has_just_started_can_be_shown() {
        let mut snapshot = fixture();
        snapshot.view.coordinator = None;
        snapshot.view.epoch = 0;
        snapshot.view.age_ms = None;
        snapshot.why_last_change = None;
        snapshot.state = NodeState::Listening;
        snapshot.serving = false;
        snapshot.lease_ms = 0;
        snapshot.nodes.truncate(1);
        snapshot.interfaces.clear();
        snapshot.health.clear();
        snapshot.events.clear();
        let text = plain(&snapshot, 80);
        assert!(text.starts_with("web: n1 is listening, serves nothing, no lease\nno view yet, "), "{text}");
    }

    #[test]
    fn colours_are_there_until_they_are_stripped() {
        let snapshot = fixture();
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        assert!(render(&snapshot, &snapshot.troubles(), now, 80).contains('\x1b'));
    }
}
