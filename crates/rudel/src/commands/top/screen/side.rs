//! What is beside the map: nodes, packets, shared connections, heartbeats, the curve.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Sparkline};
use rudel_api::snapshot::{Node, NodeState, Snapshot};

use super::paint::{BOLD, DIM, Paint, clean, cut, letter, squeeze};
use crate::commands::top::app::App;
use crate::layout::{self, count, percent, span};

/// What lies beside the map, with titles; the curve is not drawn lower.
pub(super) const SYNC_HEIGHT: u16 = 4;
pub(super) const HEARTBEATS_HEIGHT: u16 = 2;
pub(super) const CURVE_HEIGHT_MIN: u16 = 3;

/// Right of the map: nodes, packets, shared connections, heartbeats, the curve.
pub(super) fn side(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    let packets_height = packets_height(snapshot);
    let sync_height = if snapshot.sync.is_some() { SYNC_HEIGHT } else { 0 };
    // Nodes are worth more than the curve, and those that have no room can be scrolled to.
    let room = area.height.saturating_sub(packets_height + sync_height + HEARTBEATS_HEIGHT);
    let all = nodes_height(snapshot);
    let nodes_height = if room >= all + CURVE_HEIGHT_MIN { all } else { room.min(all).max(4) };
    let [nodes, packets, sync, pulses, curve] = Layout::vertical([
        Constraint::Length(nodes_height),
        Constraint::Length(packets_height),
        Constraint::Length(sync_height),
        Constraint::Length(HEARTBEATS_HEIGHT),
        Constraint::Min(0),
    ])
    .areas(area);
    node_list(app, snapshot, paint, frame, nodes);
    packet_list(app, snapshot, paint, frame, packets);
    shared_connections(app, snapshot, paint, frame, sync);
    heartbeats(app, snapshot, frame, pulses);
    curve_of_packets(app, paint, frame, curve);
}

/// What everything beside the map wants.
pub(super) fn side_height(snapshot: &Snapshot) -> u16 {
    let sync = if snapshot.sync.is_some() { SYNC_HEIGHT } else { 0 };
    nodes_height(snapshot) + packets_height(snapshot) + sync + HEARTBEATS_HEIGHT + CURVE_HEIGHT_MIN
}

/// With title and header.
pub(super) fn nodes_height(snapshot: &Snapshot) -> u16 {
    snapshot.nodes.len() as u16 + 2
}

/// With title and header; more than four interfaces are looked at with `rudel status`.
pub(super) fn packets_height(snapshot: &Snapshot) -> u16 {
    (snapshot.interfaces.len() as u16).clamp(1, 4) + 2
}

pub(super) fn titled<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::new().borders(Borders::TOP).title(title)
}

pub(super) fn node_list(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    let total = snapshot.nodes.len();
    let rows = usize::from(area.height).saturating_sub(2).max(1);
    let begin = app.chosen_place().saturating_sub(rows / 2).min(total.saturating_sub(rows));
    let end = (begin + rows).min(total);
    let title = match total > rows {
        true => format!(" Nodes {} to {end} of {total} ", begin + 1),
        false => " Nodes ".to_owned(),
    };
    let block = titled(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    // Marker, letter, name, state, buckets, share, heard: what is left goes to the name.
    let fixed = 2 + 2 + 1 + 9 + 1 + 4 + 1 + 6 + 1 + 7;
    let names = snapshot.nodes.iter().map(|node| app.short(&node.name).chars().count());
    let longest = names.max().unwrap_or(0).max(4);
    let name_width = longest.min(usize::from(inner.width).saturating_sub(fixed)).max(4);
    let note_width = usize::from(inner.width).saturating_sub(fixed + name_width + 3);
    let mut lines = vec![Line::styled(
        format!("    {:name_width$} {:9} {:>4} {:>6} {:>7}", "NAME", "STATE", "BKT", "SHARE", "HEARD"),
        DIM,
    )];
    for node in &snapshot.nodes[begin..end] {
        let number = app.number(&node.name);
        let is_chosen = Some(&node.name) == app.chosen.as_ref();
        let is_me = node.name == snapshot.node;
        let (state, state_style) = match node.healthy {
            false if node.state == NodeState::Active => ("unhealthy", paint.bad()),
            _ => (node.shown_state(), paint.state(node.state)),
        };
        let heard = match node.heard_ms {
            _ if is_me => Span::raw("self"),
            Some(ms) => Span::raw(span(Duration::from_millis(ms))),
            None => Span::styled("silent", paint.bad()),
        };
        let share = percent(usize::from(node.buckets), usize::from(snapshot.buckets.total));
        let mut spans = vec![
            Span::styled(if is_chosen { "> " } else { "  " }, BOLD),
            Span::styled(letter(number).to_string(), paint.node(number)),
            Span::raw(" "),
            Span::styled(
                format!("{:name_width$}", squeeze(app.short(&node.name), name_width)),
                if is_me { BOLD } else { Style::new() },
            ),
            Span::raw(" "),
            Span::styled(format!("{state:9}"), state_style),
            Span::raw(format!(" {:>4} {share:>6} ", node.buckets)),
            Span::raw(" ".repeat(7_usize.saturating_sub(heard.width()))),
            heard,
        ];
        if note_width >= 12
            && let Some(note) = note_of(node)
        {
            spans.push(Span::styled(format!("   {}", cut(&note, note_width)), DIM));
        }
        lines.push(Line::from(spans));
    }
    frame.render_widget(Text::from(lines), inner);
}

/// What else is to be said of a node, where there is room.
pub(super) fn note_of(node: &Node) -> Option<String> {
    if let Some(buckets) = node.keeping.filter(|n| *n > 0) {
        return Some(layout::keeping(buckets, node.connections));
    }
    node.reason.clone().or_else(|| Some(node.shown_addresses()).filter(|text| !text.is_empty()))
}

pub(super) fn packet_list(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    let block = titled(" Packets to the cluster, per second ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    // Marker, mode and three numbers: what is left goes to the name.
    let name_width = 15.min(usize::from(inner.width).saturating_sub(2 + 8 + 3 * 7));
    let mut lines = vec![Line::styled(
        format!("  {:name_width$} {:7} {:>6} {:>6} {:>6}", "INTERFACE", "XDP", "SEEN", "PASSED", "FENCED"),
        DIM,
    )];
    for interface in &snapshot.interfaces {
        let rates = app.rates.get(&interface.name);
        let rate = |value: Option<f64>| value.map_or("-".to_owned(), |value| count(value.round() as u64));
        let (mode, mode_style) = match (interface.deaf, interface.mode) {
            (true, _) => ("deaf", paint.bad()),
            (false, Some(mode)) => (mode.as_str(), Style::new()),
            (false, None) => ("none", paint.bad()),
        };
        let fenced = if interface.packets.fenced > 0 { paint.note() } else { Style::new() };
        lines.push(Line::from(vec![
            Span::raw(format!("  {:name_width$} ", cut(&interface.name, name_width))),
            Span::styled(format!("{mode:7}"), mode_style),
            Span::raw(format!(
                " {:>6} {:>6} ",
                rate(rates.map(|rates| rates.seen)),
                rate(rates.map(|rates| rates.passed))
            )),
            // A total: one is worth a look, however long ago.
            Span::styled(format!("{:>6}", count(interface.packets.fenced)), fenced),
        ]));
    }
    frame.render_widget(Text::from(lines), inner);
}

/// What routers tell each other.
pub(super) fn shared_connections(
    app: &App,
    snapshot: &Snapshot,
    paint: &Paint,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let Some(sync) = &snapshot.sync else {
        return;
    };
    let block = titled(" Shared connections ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let missing: Vec<&str> =
        sync.peers.iter().filter(|peer| !peer.whole).map(|peer| peer.name.as_str()).collect();
    let known = match (sync.synced, missing.is_empty()) {
        (true, _) => Span::styled("all known", paint.good()),
        (false, true) => Span::styled("not all known", paint.note()),
        (false, false) => Span::styled(format!("not all of {}", clean(&missing.join(", "))), paint.note()),
    };
    let rates = app.sync_rates.map_or("told -/s, heard -/s".to_owned(), |rates| {
        format!("told {}/s, heard {}/s", count(rates.told.round() as u64), count(rates.heard.round() as u64))
    });
    let part = |words: String, style: Option<Style>| Span::styled(words, style.unwrap_or_default());
    let lines = vec![
        Line::from(vec![
            Span::raw(format!("  {} own, {} of others, ", count(sync.flows_own), count(sync.flows_foreign))),
            known,
        ]),
        Line::raw(format!("  {rates}, behind {}", ms(sync.lag_us))),
        Line::from(vec![
            Span::raw(format!("  missed {}, ", count(sync.asked))),
            part(
                format!("for good {}", count(sync.gaps_skipped)),
                (sync.gaps_skipped > 0).then(|| paint.note()),
            ),
            Span::raw(", "),
            part(
                format!("refused {}", count(sync.write_errors)),
                (sync.write_errors > 0).then(|| paint.bad()),
            ),
        ]),
    ];
    frame.render_widget(Text::from(lines), inner);
}

/// Microseconds: `0.8 ms`, `12 ms`, `15 s`.
pub(super) fn ms(us: u64) -> String {
    match us {
        ..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => span(Duration::from_micros(us)),
    }
}

pub(super) fn heartbeats(app: &App, snapshot: &Snapshot, frame: &mut Frame<'_>, area: Rect) {
    let block = titled(" Heartbeats per second ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some(pulses) = &snapshot.pulses else {
        return;
    };
    let rates = app
        .pulse_rates
        .map_or("-/- ".to_owned(), |rates| format!("{:.0}/{:.0} ", rates.sent, rates.received));
    let text =
        format!("  {rates}out/in, late {}, ever {}", ms(pulses.lateness_us), ms(pulses.lateness_max_us));
    frame.render_widget(Line::raw(text), inner);
}

pub(super) fn curve_of_packets(app: &App, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    if area.height < 2 {
        return;
    }
    let width = usize::from(area.width);
    let shown: Vec<u64> = app.curve.iter().rev().take(width).rev().copied().collect();
    let top = shown.iter().max().copied().unwrap_or(0);
    let seconds = app.every * u32::try_from(width).unwrap_or(u32::MAX);
    let block = titled(format!(" Seen per s in {}, at most {} ", span(seconds), count(top)));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    // The newest at the right edge, from the first look on.
    let pad = width.saturating_sub(shown.len());
    let data: Vec<u64> = std::iter::repeat_n(0, pad).chain(shown).collect();
    let style = paint.fg(Style::new(), Color::Cyan);
    frame.render_widget(Sparkline::default().data(&data).style(style), inner);
}
