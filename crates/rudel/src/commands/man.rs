//! `rudel man [DIR]`.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::Outcome;
use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

/// Print the manual page, or write those of all commands
///
/// Without DIR the page rudel(1) goes to standard output. With DIR it is written there, beside a page for every command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  rudel man | man -l -\n  rudel man /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// The directory to write all pages into
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let command = Cli::command();
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(command, dir).map_err(|error| {
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
