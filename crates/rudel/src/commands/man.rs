//! `rudel man [DIR]`.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::roff::{Roff, bold, italic, roman};
use rudel_api::config::reference::plain;
use rudel_api::config::{Key, TABLES};

use crate::Outcome;
use crate::cli::{Cli, EXIT_CODES};
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
            let page = page(command).map_err(|error| {
                Failure::undone(format!("cannot make the manual page: {error}"), "free some memory")
            })?;
            output::print(&page)?;
        }
    }
    Ok(Outcome::Done)
}

fn write(command: clap::Command, dir: &Path) -> std::io::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    // Names the pages of commands: rudel-key-rotate.
    command.build();
    write_all(command, dir)?;
    std::fs::write(dir.join("rudel.toml.5"), configuration().to_roff())
}

/// The page of a command, and those of its commands.
fn write_all(command: clap::Command, dir: &Path) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_all(command.clone(), dir)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    std::fs::write(dir.join(format!("{name}.1")), page(command)?)
}

/// The page of a command, from what its `--help` is made of.
fn page(command: clap::Command) -> std::io::Result<String> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = clap_mangen::Man::new(command.clone()).source(concat!("rudel ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut more = Roff::new();
    more.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in exit_codes() {
        more.control("TP", []);
        more.text([bold(code)]);
        more.text([roman(meaning)]);
    }
    if let Some((_, examples)) = after.split_once("Example:\n") {
        more.control("SH", ["EXAMPLES"]);
        // Lines to be typed stay as they are.
        more.control("nf", []);
        examples.lines().for_each(|line| {
            more.text([roman(line)]);
        });
        more.control("fi", []);
    }
    more.control("SH", ["SEE ALSO"]);
    more.text([roman(
        "rudel(1), rudel.toml(5), rudeld(8); the manual in the directory doc/rudel of the installation",
    )]);
    Ok(String::from_utf8_lossy(&text).into_owned() + &more.to_roff())
}

fn exit_codes() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXIT_CODES.lines().filter_map(|line| line.strip_prefix("  ")?.split_once("  ")).take(4)
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
    fn every_page_has_exit_codes_and_its_examples_as_they_are_typed() {
        assert_eq!(exit_codes().map(|(code, _)| code).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        let dir = tempfile::tempdir().unwrap();
        write(Cli::command(), dir.path()).unwrap();
        let check = std::fs::read_to_string(dir.path().join("rudel-check.1")).unwrap();
        let plain = check.replace("\\-", "-");
        assert!(plain.contains("there is a warning or an error (check)"), "{plain}");
        assert!(plain.contains(".nf\n") && plain.contains("rudel check --json | jq -r"), "{plain}");
        for page in std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(&page).unwrap();
            let has = |section: &str| text.contains(&format!(".SH {section}"));
            let is_command = page.extension().is_some_and(|extension| extension == "1");
            assert!(!is_command || (has("\"EXIT STATUS\"") && has("EXAMPLES")), "{}: {text}", page.display());
        }
    }

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
