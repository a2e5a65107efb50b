//! The map: 16 x 16 buckets, each the letter and the colour of its owner.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Block;
use rudel_api::snapshot::Snapshot;

use super::paint::{Paint, letter};
use crate::commands::top::app::App;

/// The map with its frame: two characters for a bucket, one of space beside.
pub(super) const MAP_WIDTH: u16 = 2 * 16 + 3;
pub(super) const MAP_HEIGHT: u16 = 16 + 2;

pub(super) fn bucket_map(app: &App, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>, area: Rect) {
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
