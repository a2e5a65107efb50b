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

mod events;
mod map;
mod overlay;
mod paint;
mod side;
#[cfg(test)]
mod tests;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use rudel_api::snapshot::Snapshot;
use rudel_api::timestamp::Timestamp;

use self::events::event_list;
use self::map::{MAP_HEIGHT, MAP_WIDTH, bucket_map};
use self::overlay::{confirm, help};
use self::paint::{BOLD, DIM, Paint, clean, cut};
use self::side::{
    HEARTBEATS_HEIGHT, SYNC_HEIGHT, heartbeats, node_list, nodes_height, packet_list, packets_height,
    shared_connections, side, side_height,
};
use super::app::{App, Overlay};
use crate::layout::span;

/// The least that everything fits in.
const WIDTH_MIN: u16 = 72;
const HEIGHT_MIN: u16 = 23;
/// How much higher the curve becomes where there is room.
const CURVE_GROWS_MAX: u16 = 6;
/// So many lines of events, with the title, are worth more than a high curve or many nodes at a time.
const EVENTS_HEIGHT_LEAST: u16 = 12;
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
