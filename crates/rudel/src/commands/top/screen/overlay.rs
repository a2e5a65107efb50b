//! What is over everything for a while: the help, and the question before an order.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Padding, Paragraph};
use rudel_api::snapshot::{NodeState, Snapshot};

use super::paint::{BOLD, Paint, clean};
use crate::commands::top::app::Order;
use crate::layout::wrap;

/// So wide are texts in a box, where there is room.
const TEXT_WIDTH: u16 = 52;
const KEYS: [(&str, &str); 4] = [
    ("↑ ↓ k j", "choose a node"),
    ("d", "drain it: new connections go to others, open ones stay until they end"),
    ("u", "give it its share back; both ask first"),
    ("q Esc ^C", "quit"),
];
const WORDS: [&str; 4] = [
    "A letter is a node, a cell one of 256 buckets. · is a bucket that nobody owns.",
    "SEEN: every packet for the cluster; PASSED: those of this node's own. FENCED: its own, but its lease had lapsed.",
    "Late: how late a timer of the heartbeats fired, the worst within seconds; a good part of the time-out makes a \
     node look dead.",
    "Routers: missed words of others are asked for again; for good: all was asked for anew; refused: this kernel took \
     no more connections of others.",
];

pub(super) fn help(frame: &mut Frame<'_>) {
    let room = room(frame);
    let key_width = KEYS.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0) + 2;
    let mut lines = Vec::new();
    for (key, what) in KEYS {
        for (i, part) in wrap(what, room.saturating_sub(key_width)).into_iter().enumerate() {
            let key = if i == 0 { key } else { "" };
            lines.push(Line::from(vec![Span::styled(format!("{key:key_width$}"), BOLD), Span::raw(part)]));
        }
    }
    lines.push(Line::default());
    lines.extend(WORDS.iter().flat_map(|words| wrap(words, room)).map(Line::raw));
    over(frame, " rudel top ", Text::from(lines));
}

/// How many characters of a text a line of a box has.
fn room(frame: &Frame<'_>) -> usize {
    usize::from(TEXT_WIDTH.min(frame.area().width.saturating_sub(4)))
}

pub(super) fn confirm(order: &Order, snapshot: &Snapshot, paint: &Paint, frame: &mut Frame<'_>) {
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
    let mut lines: Vec<Line<'_>> = wrap(&question, room(frame)).into_iter().map(Line::raw).collect();
    lines.push(Line::default());
    lines.push(Line::from(vec![
        Span::styled("y", paint.note().bold()),
        Span::raw(" yes    "),
        Span::styled("n", BOLD),
        Span::raw(" no"),
    ]));
    over(frame, title, Text::from(lines));
}

/// A box in the middle, over everything.
fn over(frame: &mut Frame<'_>, title: &'static str, text: Text<'_>) {
    let area = frame.area();
    let width = (TEXT_WIDTH + 4).min(area.width);
    let height = (text.height() as u16 + 2).min(area.height);
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(title).padding(Padding::horizontal(1));
    frame.render_widget(Paragraph::new(text).block(block), area);
}
