//! The last events.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};
use rudel_api::snapshot::Snapshot;
use rudel_api::timestamp::Timestamp;

use super::paint::{BOLD, DIM, Paint, cut};
use super::side::titled;
use crate::commands::top::app::App;
use crate::layout::ago;

pub(super) fn event_list(
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
