//! The tables of `docs/configuration.md`, made of [`TABLES`] and their keys.
//!
//! The page is written by people, but for what stands between the marks of a table: that is made by `make docs`, and a test
//! says that it is what would be made. So the page cannot tell anything else of a key than the parser, the error messages
//! and rudel.toml(5) do.

use super::keys::{Key, TABLES, Table};

/// What ends a part that is made.
const END: &str = "<!-- end -->";

/// A page whose parts that are made are not where they should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// A table has no part in it, or more than one.
    #[error("the page has {count} parts `{mark}`: give each table one, ended by `{END}`")]
    Mark {
        /// What the part should begin with.
        mark: String,
        /// How many there are.
        count: usize,
    },
    /// A part has no end.
    #[error("the part `{mark}` has no end: put `{END}` behind it")]
    Endless {
        /// What it begins with.
        mark: String,
    },
}

/// The page with all of its parts made anew.
///
/// # Errors
/// A table of the configuration has no part in the page, or more than one, or one without an end.
pub fn fill(page: &str) -> Result<String, PageError> {
    let mut page = page.to_owned();
    for table in TABLES {
        let mark =
            format!("<!-- {}: made by `make docs` from crates/api/src/config/keys.rs -->", table.header());
        let count = page.matches(&mark).count();
        if count != 1 {
            return Err(PageError::Mark { mark, count });
        }
        let (before, rest) = page.split_once(&mark).expect("it was counted");
        let Some((_, after)) = rest.split_once(END) else {
            return Err(PageError::Endless { mark });
        };
        page = format!("{before}{mark}\n{}\n{END}{after}", part(table));
    }
    Ok(page)
}

/// What is told of a table: what it is about, and a row for each key.
fn part(table: &Table) -> String {
    let mut text = format!("{}\n\n| key | default | allowed | |\n|---|---|---|---|\n", table.doc);
    for key in table.keys() {
        let cells = [format!("`{}`", key.key), default(key), key.range.to_owned(), key.doc.to_owned()];
        // A bar would end the cell.
        text.push_str(&format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")));
    }
    text
}

fn default(key: &Key) -> String {
    match key.default {
        Some(default) => format!("`{default}`"),
        None if key.required => "required".to_owned(),
        None => key.otherwise.to_owned(),
    }
}

/// Markdown without its marks, for manual pages: `` `code` `` and links leave their words.
pub fn plain(markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once("](") {
        // A text such as `[nat]` is no link: nothing in round brackets follows it.
        let (outside, words) = before.rsplit_once('[').unwrap_or(("", before));
        text.push_str(outside);
        text.push_str(words);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text.replace('`', "").replace("*not*", "not")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    #[test]
    fn the_manual_is_what_is_made_of_the_parsers_keys() {
        let page = include_str!("../../../../docs/configuration.md");
        let made = fill(page).unwrap();
        // Not the whole page in the complaint.
        for (line, (now, then)) in page.lines().zip(made.lines()).enumerate() {
            assert_eq!(now, then, "docs/configuration.md:{}: run `make docs`", line + 1);
        }
        assert_eq!(page.len(), made.len(), "docs/configuration.md is too short: run `make docs`");
        for key in KEYS {
            let row = format!("\n| `{}` | {} | ", key.key, default(key));
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_page_without_a_part_is_refused() {
        let page = include_str!("../../../../docs/configuration.md");
        let without = page.replacen("<!-- [node]: ", "<!-- [knot]: ", 1);
        assert!(matches!(fill(&without), Err(PageError::Mark { count: 0, .. })));
        let endless = page.replace(END, "");
        assert!(matches!(fill(&endless), Err(PageError::Endless { .. })));
    }

    #[test]
    fn marks_are_left_off_for_manual_pages() {
        let markdown = "With `[nat]` see [routers](router.md#nat), and *not* [below](#x).";
        assert_eq!(plain(markdown), "With [nat] see routers, and not below.");
        for key in KEYS {
            let text = plain(key.doc);
            assert!(!text.contains("](") && !text.contains('`') && !text.contains('*'), "{text}");
        }
    }
}
