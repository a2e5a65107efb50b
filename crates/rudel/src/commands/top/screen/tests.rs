//! The screens as they were looked at, and what happens on them.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use rudel_api::snapshot::{Node, NodeState, Pulses, Sync, SyncPeer};

use super::*;
use crate::commands::top::app::{Order, Wish};

fn fixture() -> Snapshot {
    serde_json::from_str(include_str!("../../../../tests/fixtures/three-nodes.json")).unwrap()
}

fn healthy() -> Snapshot {
    let mut snapshot = fixture();
    snapshot.nodes.truncate(3);
    snapshot.nodes[1].healthy = true;
    snapshot.nodes[1].keeping = None;
    snapshot.nodes[2].state = NodeState::Active;
    snapshot.view.settled = true;
    (snapshot.buckets.adopting, snapshot.buckets.keeping, snapshot.buckets.owned) = (0, 0, 86);
    snapshot.interfaces.truncate(1);
    snapshot.health.clear();
    snapshot
}

/// Three routers that share their connections.
fn routers() -> Snapshot {
    let mut snapshot = healthy();
    snapshot.cluster = "edge".into();
    let mut outside = snapshot.interfaces[0].clone();
    snapshot.interfaces[0].side = rudel_api::config::Side::Inside;
    (outside.name, outside.side) = ("eth1".into(), rudel_api::config::Side::Outside);
    snapshot.interfaces.push(outside);
    let peer = |name: &str| SyncPeer { name: name.into(), proven: true, whole: true };
    snapshot.sync = Some(Sync {
        flows_own: 33_412,
        flows_foreign: 66_190,
        records_sent: 1_000_000,
        records_received: 2_000_000,
        asked: 12,
        lag_us: 800,
        synced: true,
        peers: vec![peer("n2"), peer("n3")],
        ..Sync::default()
    });
    snapshot
}

/// As many nodes as a cluster may have, with long names.
fn crowd() -> Snapshot {
    let mut crowd = healthy();
    let model = crowd.nodes[0].clone();
    let name = |n: usize| format!("firewall-{n}.datacenter-2.example.org");
    crowd.nodes = (0..32).map(|n| Node { name: name(n), buckets: 8, ..model.clone() }).collect();
    (crowd.node, crowd.buckets.owned) = (name(0), 8);
    crowd.buckets.owners = (0..256).map(|bucket| Some(name(bucket / 8))).collect();
    crowd
}

/// An app that has looked a hundred times, once a second, at a cluster whose traffic swings.
fn app(snapshot: &Snapshot, colours: bool) -> (App, Instant) {
    let mut app = App::new(Duration::from_secs(1), colours);
    let mut now = Instant::now();
    let mut snapshot = snapshot.clone();
    let mut pulses = Pulses { sent: 0, received: 0, rejected: 0, lateness_us: 870, lateness_max_us: 12_345 };
    for look in 0..100_u64 {
        let seen = 1000 + 900 * (look % 20);
        for interface in &mut snapshot.interfaces {
            interface.packets.seen += seen;
            interface.packets.passed += seen / 3;
        }
        (pulses.sent, pulses.received) = (pulses.sent + 20, pulses.received + 40);
        if let Some(sync) = &mut snapshot.sync {
            (sync.records_sent, sync.records_received) =
                (sync.records_sent + 1_234, sync.records_received + 2_468);
        }
        snapshot.pulses = Some(pulses.clone());
        app.handle_look(Ok(snapshot.clone()), now);
        now += Duration::from_secs(1);
    }
    (app, now)
}

fn draw(app: &App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = "2026-01-01T00:10:00Z".parse().unwrap();
    terminal.draw(|frame| render(app, now, frame)).unwrap();
    terminal
}

fn text(app: &App, width: u16, height: u16) -> String {
    let terminal = draw(app, width, height);
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(width));
    rows.map(|row| {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", line.trim_end())
    })
    .collect()
}

/// Holds a screen against its file; `RUDEL_WRITE_SCREENS=1` writes the files, to be looked at before they are kept.
#[track_caller]
fn hold(name: &str, screen: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if std::env::var_os("RUDEL_WRITE_SCREENS").is_some() {
        std::fs::write(&path, screen).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(screen, kept, "{}:\n{screen}", path.display());
}

fn press(app: &mut App, code: KeyCode, now: Instant) -> Option<Wish> {
    app.handle_key(KeyEvent::new(code, KeyModifiers::NONE), now)
}

#[test]
fn screens_are_as_they_were_looked_at() {
    let (mut calm, now) = app(&healthy(), true);
    hold("top-80x24.txt", &text(&calm, 80, 24));
    hold("top-160x50.txt", &text(&calm, 160, 50));
    hold("top-small-60x15.txt", &text(&calm, 60, 15));
    press(&mut calm, KeyCode::Char('d'), now);
    hold("top-confirm-80x24.txt", &text(&calm, 80, 24));
    let (mut troubled, _) = app(&fixture(), true);
    hold("top-troubled-80x24.txt", &text(&troubled, 80, 24));
    hold("top-troubled-160x50.txt", &text(&troubled, 160, 50));
    press(&mut troubled, KeyCode::Char('d'), now);
    assert!(text(&troubled, 80, 24).contains("Nobody is there to take its 86 buckets"));
    press(&mut troubled, KeyCode::Esc, now);
    press(&mut troubled, KeyCode::Char('?'), now);
    hold("top-help-80x24.txt", &text(&troubled, 80, 24));
}

#[test]
fn screens_of_routers_and_of_few_and_many_nodes_are_as_they_were_looked_at() {
    let (calm, _) = app(&routers(), true);
    hold("top-router-80x24.txt", &text(&calm, 80, 24));
    hold("top-router-160x50.txt", &text(&calm, 160, 50));
    hold("top-router-small-50x40.txt", &text(&calm, 50, 40));
    let mut joins = routers();
    let sync = joins.sync.as_mut().expect("it shares");
    (sync.synced, sync.peers[1].whole, sync.gaps_skipped, sync.write_errors) = (false, false, 2, 250);
    (sync.lag_us, joins.interfaces[1].deaf) = (350_000, true);
    let (joins, _) = app(&joins, true);
    hold("top-router-troubled-80x24.txt", &text(&joins, 80, 24));
    let mut pair = healthy();
    pair.nodes.truncate(2);
    pair.buckets.owned = 128;
    pair.buckets.owners = (0..256).map(|b| Some(pair.nodes[b / 128].name.clone())).collect();
    pair.nodes.iter_mut().for_each(|node| node.buckets = 128);
    hold("top-pair-80x24.txt", &text(&app(&pair, true).0, 80, 24));
    let (crowd, _) = app(&crowd(), true);
    hold("top-crowd-80x24.txt", &text(&crowd, 80, 24));
    hold("top-crowd-160x50.txt", &text(&crowd, 160, 50));
}

#[test]
fn every_size_can_be_drawn() {
    let mut crowd = fixture();
    let model = crowd.nodes[0].clone();
    crowd.nodes = (0..32)
        .map(|n| Node { name: format!("firewall-{n}.datacenter-2.example.org"), ..model.clone() })
        .collect();
    crowd.buckets.owners = (0..256).map(|b| (b != 7).then(|| crowd.nodes[b % 32].name.clone())).collect();
    let (mut app, now) = app(&crowd, true);
    for overlay in ['x', '?', 'd'] {
        press(&mut app, KeyCode::Char(overlay), now);
        for width in (1..100).step_by(3).chain([160, 300]) {
            for height in (1..40).step_by(2).chain([24, 50, 100]) {
                draw(&app, width, height);
            }
        }
    }
    let all = text(&app, 160, 60);
    assert!(all.contains(" · "), "a bucket without an owner is seen");
    press(&mut app, KeyCode::Esc, now);
    press(&mut app, KeyCode::End, now);
    assert!(text(&app, 80, 24).contains("of 32"));
    assert!(text(&app, 80, 24).contains("> f fire…ll-31 "), "{}", text(&app, 80, 24));
}

#[test]
fn letters_tell_nodes_apart_where_colours_do_not() {
    let (app, _) = app(&healthy(), false);
    let terminal = draw(&app, 80, 24);
    for cell in &terminal.backend().buffer().content {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "NO_COLOR leaves no colour");
    }
    let screen = text(&app, 80, 24);
    for letter in [" A ", " B ", " C "] {
        assert!(screen.contains(letter), "{screen}");
    }
}

#[test]
fn a_node_keeps_its_letter_when_others_come_and_go() {
    let (mut app, now) = app(&healthy(), true);
    let mut grown = healthy();
    grown.nodes.insert(0, Node { name: "a0".into(), ..grown.nodes[0].clone() });
    app.handle_look(Ok(grown), now);
    assert_eq!(["n1", "n2", "n3", "a0"].map(|name| app.number(name)), [0, 1, 2, 3]);
}

#[test]
fn a_daemon_that_goes_away_is_told_and_awaited() {
    let (mut app, now) = app(&healthy(), true);
    app.handle_look(Err("cannot reach the daemon at /run/rudel/rudel.sock".into()), now);
    app.handle_look(
        Err("cannot reach the daemon at /run/rudel/rudel.sock".into()),
        now + Duration::from_secs(8),
    );
    let screen = text(&app, 80, 24);
    assert!(screen.contains("LOST for 8000 ms") && screen.contains("trying again"), "{screen}");
    assert!(app.rates.is_empty());
    assert_eq!(press(&mut app, KeyCode::Char('d'), now), None);
    assert_eq!(app.overlay, Overlay::None, "nobody is there to be asked for a drain");
    app.handle_look(Ok(healthy()), now + Duration::from_secs(9));
    assert!(text(&app, 80, 24).contains("live"));
    assert!(app.rates.is_empty(), "no rate over the gap");
}

#[test]
fn a_drain_is_asked_for_twice() {
    let (mut app, now) = app(&healthy(), true);
    press(&mut app, KeyCode::Down, now);
    assert_eq!(press(&mut app, KeyCode::Char('d'), now), None);
    let order = Order { node: "n2".into(), drains: true };
    assert_eq!(app.overlay, Overlay::Confirm(order.clone()));
    assert_eq!(press(&mut app, KeyCode::Char('d'), now), None, "the same key again is no answer");
    assert_eq!(press(&mut app, KeyCode::Char('n'), now), None);
    assert_eq!(app.overlay, Overlay::None);
    press(&mut app, KeyCode::Char('d'), now);
    assert_eq!(press(&mut app, KeyCode::Char('y'), now), Some(Wish::Order(order)));
    app.handle_ordered("n2 drains".into(), true, now);
    assert!(text(&app, 80, 24).ends_with("n2 drains\n"));
    app.handle_time(now + Duration::from_secs(60));
    assert!(!text(&app, 80, 24).ends_with("n2 drains\n"));
    assert_eq!(press(&mut app, KeyCode::Char('u'), now), None);
    assert_eq!(app.overlay, Overlay::Confirm(Order { node: "n2".into(), drains: false }));
    press(&mut app, KeyCode::Esc, now);
    assert_eq!(press(&mut app, KeyCode::Char('q'), now), Some(Wish::End));
}

#[test]
fn counters_that_fall_give_no_rate() {
    let (mut app, now) = app(&healthy(), true);
    let mut reset = healthy();
    reset.interfaces[0].packets = rudel_api::snapshot::Packets::default();
    app.handle_look(Ok(reset), now);
    assert!(app.rates.is_empty());
}
