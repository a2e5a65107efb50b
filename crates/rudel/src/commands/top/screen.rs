//! The screen, drawn from the [`App`] alone.
//!
//! ```text
//!   80 x 24                                              larger: more nodes, troubles and events
//!   headline                                    live
//!   ! trouble
//!   ┌ Buckets ─ 16 x 16 ─┐ Nodes
//!   │ A A B C …          │ Packets
//!   │                    │ Shared connections (routers)
//!   │                    │ Heartbeats
//!   └────────────────────┘ curve
//!   Events
//!   keys, or what became of an order
//! ```

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Sparkline};
use rudel_api::event::EventKind;
use rudel_api::snapshot::{Node, NodeState, Snapshot};
use rudel_api::timestamp::Timestamp;

use super::app::{App, Overlay};
use crate::commands::events;
use crate::layout::{self, ago, count, percent, span, wrap};

/// The least that everything fits in.
const WIDTH_MIN: u16 = 72;
const HEIGHT_MIN: u16 = 23;
/// The map with its frame: two characters for a bucket, one of space beside.
const MAP_WIDTH: u16 = 2 * 16 + 3;
const MAP_HEIGHT: u16 = 16 + 2;
/// What lies beside the map, with titles; the curve is not drawn lower.
const SYNC_HEIGHT: u16 = 4;
const HEARTBEATS_HEIGHT: u16 = 2;
const CURVE_HEIGHT_MIN: u16 = 3;
/// How much higher the curve becomes where there is room.
const CURVE_GROWS_MAX: u16 = 6;
/// So many lines of events, with the title, are worth more than a high curve or many nodes at a time.
const EVENTS_HEIGHT_LEAST: u16 = 12;
/// The letters of nodes. A cluster has at most 32.
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef";
/// Backgrounds of buckets by owner, and the foreground on them: the colours of Okabe and Ito, which people tell apart
/// whatever colours they see, as the nearest of the 256 of terminals.
const PALETTE: [(u8, u8); 8] =
    [(214, 16), (74, 16), (36, 16), (227, 16), (25, 231), (166, 16), (175, 16), (247, 16)];

/// Styles, which are none where colours are not wanted.
struct Paint(bool);

impl Paint {
    fn fg(&self, style: Style, colour: Color) -> Style {
        if self.0 { style.fg(colour) } else { style }
    }

    fn good(&self) -> Style {
        self.fg(Style::new(), Color::Green)
    }

    fn note(&self) -> Style {
        self.fg(Style::new(), Color::Yellow)
    }

    fn bad(&self) -> Style {
        self.fg(Style::new().bold(), Color::Red)
    }

    /// Of a node by its number. The second eight are underlined, the third slanted, the fourth both.
    fn node(&self, number: usize) -> Style {
        let (background, foreground) = PALETTE[number % PALETTE.len()];
        let style = match self.0 {
            true => Style::new().bg(Color::Indexed(background)).fg(Color::Indexed(foreground)),
            false => Style::new(),
        };
        match number / PALETTE.len() % 4 {
            0 => style,
            1 => style.underlined(),
            2 => style.italic(),
            _ => style.underlined().italic(),
        }
    }

    fn state(&self, state: NodeState) -> Style {
        match state {
            NodeState::Active => self.good(),
            NodeState::Listening | NodeState::Joining | NodeState::Draining | NodeState::Leaving => {
                self.note()
            }
            NodeState::Fenced | NodeState::Lost | NodeState::Unknown => self.bad(),
        }
    }

    fn event(&self, kind: EventKind) -> Style {
        match events::style(kind) {
            style if style == layout::BAD => self.bad(),
            style if style == layout::NOTE => self.note(),
            style if style == layout::GOOD => self.good(),
            _ => Style::new(),
        }
    }
}

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) fn render(app: &App, now: Timestamp, frame: &mut Frame<'_>) {
    let paint = Paint(app.colours);
    let area = frame.area();
    let Some(snapshot) = &app.snapshot else {
        return;
    };
    let troubles = snapshot.troubles();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        small(app, snapshot, &troubles, now, &paint, frame);
    } else {
        // What is more than 24 lines goes to the events first, then to the troubles.
        let spare = area.height - HEIGHT_MIN;
        let trouble_lines = (troubles.len() as u16).clamp(1, 1 + spare / 4);
        let rows = area.height - 2 - trouble_lines;
        let events = (snapshot.events.len() as u16 + 1).min(EVENTS_HEIGHT_LEAST);
        // What few events leave, within reason, goes to the nodes and to the curve.
        let wanted = side_height(snapshot).max(MAP_HEIGHT) + CURVE_GROWS_MAX;
        let middle = wanted.min(rows.saturating_sub(events)).max(MAP_HEIGHT);
        let [head, trouble, middle, events, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(trouble_lines),
            Constraint::Length(middle),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(area);
        headline(app, snapshot, &paint, frame, head);
        trouble_list(&troubles, &paint, frame, trouble);
        let [map, right] =
            Layout::horizontal([Constraint::Length(MAP_WIDTH), Constraint::Min(0)]).spacing(1).areas(middle);
        bucket_map(app, snapshot, &paint, frame, Rect { height: MAP_HEIGHT.min(map.height), ..map });
        side(app, snapshot, &paint, frame, right);
        event_list(app, snapshot, now, &paint, frame, events);
        footer(app, &paint, frame, foot);
    }
    match &app.overlay {
        Overlay::None => {}
        Overlay::Help => help(frame),
        Overlay::Confirm(order) => confirm(order, snapshot, &paint, frame),
    }
}

fn headline(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    let buckets = &snapshot.buckets;
    let view = match &snapshot.view.coordinator {
        Some(coordinator) => format!("view {} by {}", snapshot.view.epoch, app.short(coordinator)),
        None => "no view yet".to_owned(),
    };
    let mut spans = vec![
        Span::styled(clean(&snapshot.cluster), BOLD),
        Span::raw(": "),
        Span::styled(clean(app.short(&snapshot.node)), BOLD),
        Span::raw(" is "),
        Span::styled(snapshot.state.as_str(), paint.state(snapshot.state)),
        Span::raw(match snapshot.serving {
            true => format!(", serves {} of {}", buckets.owned, buckets.total),
            false => ", serves nothing".to_owned(),
        }),
        Span::raw(format!(", {}", clean(&view))),
    ];
    if !snapshot.view.settled {
        spans.push(Span::styled(", not settled", paint.note()));
    }
    let link = match &app.lost {
        None => Span::styled("live", paint.good()),
        Some((_, since)) => {
            Span::styled(format!("LOST for {}", span(app.now.saturating_duration_since(*since))), paint.bad())
        }
    };
    let link_width = link.width() as u16 + 1;
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(link_width)]).areas(area);
    frame.render_widget(Line::from(spans), left);
    frame.render_widget(Line::from(link).alignment(Alignment::Right), right);
}

fn trouble_list(troubles: &[String], paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    if troubles.is_empty() {
        frame.render_widget(Span::styled("all is well", paint.good()), area);
        return;
    }
    let shown = usize::from(area.height).min(troubles.len());
    let more = troubles.len() - shown;
    let lines: Vec<Line<'_>> = troubles[..shown]
        .iter()
        .enumerate()
        .map(|(i, trouble)| {
            let tail = if i + 1 == shown && more > 0 { format!(" (and {more} more)") } else { String::new() };
            let room = usize::from(area.width).saturating_sub(2 + tail.len());
            Line::styled(format!("! {}{tail}", cut(trouble, room)), paint.bad())
        })
        .collect();
    frame.render_widget(Text::from(lines), area);
}

fn bucket_map(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    let moving = match (snapshot.buckets.adopting, snapshot.buckets.keeping) {
        (0, 0) => String::new(),
        (n, 0) => format!("{n} to take over "),
        (0, n) => format!("{n} kept "),
        (n, m) => format!("{n} to take over, {m} kept "),
    };
    let block = Block::bordered().title(" Buckets by owner ").title_bottom(match moving.is_empty() {
        true => Line::default(),
        false => Line::styled(format!(" {moving}"), paint.note()),
    });
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let lines: Vec<Line<'_>> = snapshot
        .buckets
        .owners
        .chunks(16)
        .map(|row| {
            let style = |owner: &Option<String>| match owner {
                Some(name) => {
                    let mut style = paint.node(app.number(name));
                    if *name == snapshot.node {
                        style = style.bold();
                    }
                    if !paint.0 && Some(name) == app.chosen.as_ref() {
                        style = style.reversed();
                    }
                    style
                }
                None => paint.bad(),
            };
            let text = |owner: &Option<String>| match owner {
                Some(name) => format!(" {}", letter(app.number(name))),
                None => " ·".to_owned(),
            };
            let mut spans: Vec<Span<'_>> =
                row.iter().map(|owner| Span::styled(text(owner), style(owner))).collect();
            // As much on the right of the last letter as on the left of the first.
            spans.extend(row.last().map(|owner| Span::styled(" ", style(owner))));
            Line::from(spans)
        })
        .collect();
    frame.render_widget(Text::from(lines), inner);
}

/// Right of the map: nodes, packets, shared connections, heartbeats, the curve.
fn side(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
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
fn side_height(snapshot: &Snapshot) -> u16 {
    let sync = if snapshot.sync.is_some() { SYNC_HEIGHT } else { 0 };
    nodes_height(snapshot) + packets_height(snapshot) + sync + HEARTBEATS_HEIGHT + CURVE_HEIGHT_MIN
}

/// With title and header.
fn nodes_height(snapshot: &Snapshot) -> u16 {
    snapshot.nodes.len() as u16 + 2
}

/// With title and header; more than four interfaces are looked at with `rudel status`.
fn packets_height(snapshot: &Snapshot) -> u16 {
    (snapshot.interfaces.len() as u16).clamp(1, 4) + 2
}

fn titled<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::new().borders(Borders::TOP).title(title)
}

fn node_list(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
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
    let fixed = 2 + 2 + 10 + 4 + 7 + 8;
    let names = snapshot.nodes.iter().map(|node| app.short(&node.name).chars().count());
    let longest = names.max().unwrap_or(0).max(4);
    let name_width = longest.min(usize::from(inner.width).saturating_sub(fixed + 1)).max(4);
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
            _ => (node.state.as_str(), paint.state(node.state)),
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
                format!("{:name_width$}", cut(app.short(&node.name), name_width)),
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
fn note_of(node: &Node) -> Option<String> {
    if let Some(buckets) = node.keeping.filter(|n| *n > 0) {
        return Some(layout::keeping(buckets, node.connections));
    }
    node.reason.clone().or_else(|| Some(node.addresses.join(" ")).filter(|text| !text.is_empty()))
}

fn packet_list(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
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
fn shared_connections(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
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
fn ms(us: u64) -> String {
    match us {
        ..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => span(Duration::from_micros(us)),
    }
}

fn heartbeats(app: &App, snapshot: &Snapshot, frame: &mut Frame<'_>, area: Rect) {
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

fn curve_of_packets(app: &App, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
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

fn event_list(
    app: &App,
    snapshot: &Snapshot,
    now: Timestamp,
    paint: &Paint,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let block = titled(" Last events ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = usize::from(inner.height);
    let shown = &snapshot.events[snapshot.events.len().saturating_sub(rows)..];
    let node_width =
        shown.iter().map(|event| app.short(&event.node).chars().count()).max().unwrap_or(0).clamp(4, 16);
    let kind_width = shown.iter().map(|event| event.kind.as_str().len()).max().unwrap_or(0);
    let lines: Vec<Line<'_>> = shown
        .iter()
        .map(|event| {
            let room = usize::from(inner.width).saturating_sub(10 + 2 + kind_width + 1 + node_width + 1);
            Line::from(vec![
                Span::styled(format!("{:>10}  ", ago(event.at.age_at(now))), DIM),
                Span::styled(format!("{:kind_width$} ", event.kind.as_str()), paint.event(event.kind)),
                Span::styled(format!("{:node_width$} ", cut(app.short(&event.node), node_width)), BOLD),
                Span::raw(cut(&event.reason, room)),
            ])
        })
        .collect();
    frame.render_widget(Text::from(lines), inner);
}

fn footer(app: &App, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
    let line = match (&app.lost, &app.outcome) {
        (Some((error, _)), _) => {
            Line::styled(cut(&format!("{error}: trying again"), usize::from(area.width)), paint.bad())
        }
        (None, Some((sentence, done))) => {
            let style = if *done { paint.good() } else { paint.bad() };
            Line::styled(cut(sentence, usize::from(area.width)), style)
        }
        (None, None) => {
            let chosen = app.chosen.as_deref().map_or("node", |name| app.short(name));
            let key = |key| Span::styled(key, BOLD);
            Line::from(vec![
                key("↑↓"),
                Span::raw(" choose  "),
                key("d"),
                Span::raw(format!(" drain {}  ", cut(chosen, 16))),
                key("u"),
                Span::raw(" undrain  "),
                key("?"),
                Span::raw(" help  "),
                key("q"),
                Span::raw(" quit"),
            ])
        }
    };
    frame.render_widget(line, area);
}

/// Where not everything fits: what matters most, one below the other.
fn small(
    app: &App,
    snapshot: &Snapshot,
    troubles: &[String],
    now: Timestamp,
    paint: &Paint,
    frame: &mut Frame<'_>,
) {
    let area = frame.area();
    // What is left is for the nodes, then for the others in their order, each if it has room as a whole.
    let mut left = area.height.saturating_sub(3 + nodes_height(snapshot));
    let mut take = |height: u16| {
        let given = if height <= left { height } else { 0 };
        left -= given;
        given
    };
    let packets = take(packets_height(snapshot));
    let sync = take(if snapshot.sync.is_some() { SYNC_HEIGHT } else { 0 });
    let beats = take(HEARTBEATS_HEIGHT);
    let [head, trouble, nodes, packets, sync, beats, events, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(area.height.saturating_sub(3).min(nodes_height(snapshot))),
        Constraint::Length(packets),
        Constraint::Length(sync),
        Constraint::Length(beats),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    headline(app, snapshot, paint, frame, head);
    trouble_list(troubles, paint, frame, trouble);
    node_list(app, snapshot, paint, frame, nodes);
    if packets.height > 0 {
        packet_list(app, snapshot, paint, frame, packets);
    }
    if sync.height > 0 {
        shared_connections(app, snapshot, paint, frame, sync);
    }
    if beats.height > 0 {
        heartbeats(app, snapshot, frame, beats);
    }
    if events.height > 1 {
        event_list(app, snapshot, now, paint, frame, events);
    }
    match app.outcome.is_none() && app.lost.is_none() {
        true => {
            let text = format!("the map needs {WIDTH_MIN} x {HEIGHT_MIN}; ? help, q quit");
            frame.render_widget(Line::styled(text, DIM), foot);
        }
        false => footer(app, paint, frame, foot),
    }
}

fn help(frame: &mut Frame<'_>) {
    let text = "\
↑ ↓ k j    choose a node
d          drain it: new connections go to others,
           open ones stay until they end
u          give it its share back; both ask first
q Esc ^C   quit

A letter is a node, a cell one of 256 buckets.
· is a bucket that nobody owns. SEEN: every packet
for the cluster; PASSED: those of this node's own.
FENCED: its own, but its lease had lapsed.
Late: how late a timer of the heartbeats fired, the
worst within seconds; a good part of the time-out
makes a node look dead.
Routers: missed words of others are asked for again;
for good: all was asked for anew; refused: this
kernel took no more connections of others.";
    over(frame, " rudel top ", Text::raw(text), 54);
}

fn confirm(order: &super::app::Order, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>) {
    let node = clean(&order.node);
    let (title, question) = if order.drains {
        let others = snapshot.nodes.iter().filter(|other| {
            other.name != order.node && other.state == NodeState::Active && other.healthy && other.weight > 0
        });
        let buckets = snapshot.nodes.iter().find(|n| n.name == order.node).map_or(0, |n| n.buckets);
        let question = match others.count() {
            0 => format!("Drain {node}? Nobody is there to take its {buckets} buckets over."),
            1 => format!(
                "Drain {node}? Its {buckets} buckets go to the other node at once; open TCP connections stay until they end."
            ),
            n => format!(
                "Drain {node}? Its {buckets} buckets go to {n} other nodes at once; open TCP connections stay until they end."
            ),
        };
        (" Drain ", question)
    } else {
        (" Undrain ", format!("Give {node} its share back?"))
    };
    let mut lines: Vec<Line<'_>> = wrap(&question, 50).into_iter().map(Line::raw).collect();
    lines.push(Line::default());
    lines.push(Line::from(vec![
        Span::styled("y", paint.note().bold()),
        Span::raw(" yes    "),
        Span::styled("n", BOLD),
        Span::raw(" no"),
    ]));
    over(frame, title, Text::from(lines), 54);
}

/// A box in the middle, over everything.
fn over(frame: &mut Frame<'_>, title: &'static str, text: Text<'_>, width: u16) {
    let area = frame.area();
    let width = width.min(area.width);
    let height = (text.height() as u16 + 2).min(area.height);
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title)), area);
}

fn letter(number: usize) -> char {
    LETTERS[number % LETTERS.len()].into()
}

/// A text of others without what would move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// At most `width` characters of it, the last an ellipsis if there are more.
fn cut(text: &str, width: usize) -> String {
    layout::shorten(text, width)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use rudel_api::snapshot::{Pulses, Sync, SyncPeer};

    use super::super::app::{Order, Wish};
    use super::*;

    fn fixture() -> Snapshot {
        serde_json::from_str(include_str!("../../../tests/fixtures/three-nodes.json")).unwrap()
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
        let mut pulses =
            Pulses { sent: 0, received: 0, rejected: 0, lateness_us: 870, lateness_max_us: 12_345 };
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
        assert!(text(&app, 80, 24).contains("> f firewall-"), "{}", text(&app, 80, 24));
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
}
