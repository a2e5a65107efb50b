//! `rudel man [DIR]`.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::roff::{Roff, bold, italic, roman};
use rudel_api::config::reference::plain;
use rudel_api::config::{Key, TABLES};

use crate::Outcome;
use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

/// Print the manual page, or write those of all commands
///
/// Without DIR the page rudel(1) goes to standard output. With DIR it is written there, beside a page for every command,
/// and rudel.toml(5), which tells every key of the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  rudel man | man -l -\n  rudel man /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// The directory to write all pages into
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let command = Cli::command();
    match &args.dir {
        Some(dir) => write(command, dir).map_err(|error| {
            Failure::undone(
                format!("cannot write manual pages into {}: {error}", dir.display()),
                "name a directory that exists and can be written",
            )
        })?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(|error| {
                Failure::undone(format!("cannot make the manual page: {error}"), "free some memory")
            })?;
            output::print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Outcome::Done)
}

fn write(command: clap::Command, dir: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(command, dir)?;
    std::fs::write(dir.join("rudel.toml.5"), configuration().to_roff())
}

/// rudel.toml(5), from what the parser knows of each key.
fn configuration() -> Roff {
    let mut page = Roff::new();
    page.control("TH", ["rudel.toml", "5", "", concat!("rudel ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]);
    page.text([roman("rudel.toml - the configuration of a rudel cluster, the same file on every node")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("A TOML file, "),
        italic(rudel_api::config::DEFAULT_PATH),
        roman(
            " unless --config names another. It is read strictly: an unknown key, a wrong type or a value out of its \
             range refuses the whole file. Durations are whole numbers with a unit, in quotes: \"400ms\", \"5m\".",
        ),
    ]);
    for table in TABLES {
        page.control("SH", [table.header().as_str()]);
        page.text([roman(plain(table.doc))]);
        for key in table.keys() {
            page.control("TP", []);
            page.text([bold(key.key), roman(format!(" = {}", key.kind.as_str()))]);
            page.text([roman(format!("{} {}", limits(key), plain(key.doc)))]);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("rudel(1), rudeld(8); samples in the directory examples of the documentation")]);
    page
}

/// "Required. Allowed: 1 to 32 of a-z.", "Default: 1. Allowed: 1 to 32 nodes."
fn limits(key: &Key) -> String {
    let range = key.range;
    match key.default {
        Some(default) => format!("Default: {default}. Allowed: {range}."),
        None if key.required => format!("Required. Allowed: {range}."),
        None if key.otherwise.is_empty() => format!("Allowed: {range}."),
        None => format!("Default: {}. Allowed: {range}.", plain(key.otherwise)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_api::config::KEYS;

    #[test]
    fn the_page_of_the_configuration_has_every_table_and_key() {
        let text = configuration().to_roff();
        // A hyphen is escaped in it, and so is a dot at the begin of a line.
        let plain = text.replace("\\-", "-").replace("\\&", "");
        for table in TABLES {
            assert!(plain.contains(&table.header()), "{}", table.header());
        }
        for key in KEYS {
            assert!(plain.contains(&format!("\\fB{}\\fR", key.key)), "{}", key.key);
            assert!(plain.contains(&limits(key)), "{}", key.key);
        }
    }
}
