//! Colours and letters, and texts as they may be painted.

use ratatui::style::{Color, Modifier, Style};
use rudel_api::event::EventKind;
use rudel_api::snapshot::NodeState;

use crate::commands::events;
use crate::layout;

/// The letters of nodes. A cluster has at most 32.
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef";
/// Backgrounds of buckets by owner, and the foreground on them: the colours of Okabe and Ito, which people tell apart
/// whatever colours they see, as the nearest of the 256 of terminals.
const PALETTE: [(u8, u8); 8] =
    [(214, 16), (74, 16), (36, 16), (227, 16), (25, 231), (166, 16), (175, 16), (247, 16)];

/// Styles, which are none where colours are not wanted.
pub(super) struct Paint(pub(super) bool);

impl Paint {
    pub(super) fn fg(&self, style: Style, colour: Color) -> Style {
        if self.0 { style.fg(colour) } else { style }
    }

    pub(super) fn good(&self) -> Style {
        self.fg(Style::new(), Color::Green)
    }

    pub(super) fn note(&self) -> Style {
        self.fg(Style::new(), Color::Yellow)
    }

    pub(super) fn bad(&self) -> Style {
        self.fg(Style::new().bold(), Color::Red)
    }

    /// Of a node by its number. The second eight are underlined, the third slanted, the fourth both.
    pub(super) fn node(&self, number: usize) -> Style {
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

    pub(super) fn state(&self, state: NodeState) -> Style {
        match state {
            NodeState::Active => self.good(),
            NodeState::Listening | NodeState::Joining | NodeState::Draining | NodeState::Leaving => {
                self.note()
            }
            NodeState::Fenced | NodeState::Lost | NodeState::Unknown => self.bad(),
        }
    }

    pub(super) fn event(&self, kind: EventKind) -> Style {
        match events::style(kind) {
            style if style == layout::BAD => self.bad(),
            style if style == layout::NOTE => self.note(),
            style if style == layout::GOOD => self.good(),
            _ => Style::new(),
        }
    }
}

pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) fn letter(number: usize) -> char {
    LETTERS[number % LETTERS.len()].into()
}

/// A text of others without what would move the cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// At most `width` characters of a name, of which the end stays: that is where names differ.
pub(super) fn squeeze(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return clean(name);
    }
    let front = width.saturating_sub(1) / 2;
    let back = width.saturating_sub(front + 1);
    let (front, back) = (name.chars().take(front), name.chars().skip(length - back));
    clean(&front.chain(['…']).chain(back).collect::<String>())
}

/// At most `width` characters of it, the last an ellipsis if there are more.
pub(super) fn cut(text: &str, width: usize) -> String {
    layout::shorten(text, width)
}
