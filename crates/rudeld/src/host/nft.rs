//! The cluster's own table in nftables. `nft` itself loads and removes it: one program that every administrator of a
//! router has, whose errors he knows, and which takes a whole table as one change.

use std::io;
use std::process::Command;
use std::time::Duration;

use crate::program;

/// Both families in one table.
const FAMILY: &str = "inet";
/// Where nft is if it is on no path.
const USUAL_PLACE: &str = "/usr/sbin/nft";

/// How long it may take: it waits while somebody else changes rules, who may have many.
const TIME_MAX: Duration = Duration::from_secs(30);

/// A table, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Its name.
    pub table: String,
    /// What stands between its braces.
    pub body: String,
}

/// Puts a table in place, whatever was in one of that name before. It changes as a whole or not at all.
///
/// # Errors
/// What nft says, or that there is none.
pub fn load(ruleset: &Ruleset) -> io::Result<()> {
    let Ruleset { table, body } = ruleset;
    // Declared first, so that there is something to delete.
    let text = format!(
        "table {FAMILY} {table}\ndelete table {FAMILY} {table}\ntable {FAMILY} {table} {{\n{body}}}\n"
    );
    nft(&["-f", "-"], &text).map(drop)
}

/// Removes a table. No error if it is not there.
///
/// # Errors
/// What nft says, or that there is none.
pub fn remove(table: &str) -> io::Result<()> {
    nft(&["-f", "-"], &format!("table {FAMILY} {table}\ndelete table {FAMILY} {table}\n")).map(drop)
}

/// A table as nft shows it, without what counts; none if it is not there.
///
/// # Errors
/// What nft says, or that there is none.
pub fn list(table: &str) -> io::Result<Option<String>> {
    match nft(&["-s", "list", "table", FAMILY, table], "") {
        Ok(text) => Ok(Some(text)),
        // nft has no exit status of its own for that.
        Err(error) if error.to_string().contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The table's name as nft wants it on its command line.
#[must_use]
pub fn full_name(table: &str) -> String {
    format!("{FAMILY} {table}")
}

fn nft(arguments: &[&str], input: &str) -> io::Result<String> {
    let run = |program: &str| {
        // Its words are read below.
        program::run(Command::new(program).args(arguments).env("LC_ALL", "C"), input, TIME_MAX)
    };
    let outcome = match run("nft") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => run(USUAL_PLACE),
        other => other,
    };
    let outcome = outcome.map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::TimedOut => format!("nft: {error}"),
            _ => format!("nft does not start ({}); install nftables", program::why_not(&error)),
        };
        io::Error::new(error.kind(), what)
    })?;
    if !outcome.status.success() {
        let first = outcome.stderr.lines().next().unwrap_or("it says nothing");
        return Err(io::Error::other(format!("nft: {first} ({})", program::how(outcome.status))));
    }
    Ok(outcome.stdout)
}
