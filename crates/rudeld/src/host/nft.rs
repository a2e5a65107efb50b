//! The cluster's own table in nftables. `nft` itself loads and removes it: one program that every administrator of a
//! router has, whose errors he knows, and which takes a whole table as one change.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Both families in one table.
const FAMILY: &str = "inet";
/// Where nft is if it is on no path.
const USUAL_PLACE: &str = "/usr/sbin/nft";

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
/// That there is no nft.
pub fn list(table: &str) -> io::Result<Option<String>> {
    match nft(&["-s", "list", "table", FAMILY, table], "") {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(None),
    }
}

/// The table's name as nft wants it on its command line.
#[must_use]
pub fn full_name(table: &str) -> String {
    format!("{FAMILY} {table}")
}

fn nft(arguments: &[&str], input: &str) -> io::Result<String> {
    let start = |program: &str| {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    };
    let mut child = match start("nft") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => start(USUAL_PLACE),
        other => other,
    }
    .map_err(|error| {
        io::Error::new(error.kind(), format!("nft does not start ({error}); install nftables"))
    })?;
    // nft reads everything before it says anything, and says little.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("it says nothing");
        return Err(io::Error::other(format!("nft: {first}")));
    }
    written?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
