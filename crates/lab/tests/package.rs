//! The package, as an administrator meets it: machines with a real systemd and a real dpkg, in namespaces.
//!
//! The stories are told by scripts, which read as what is typed; here they are run.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{root, say};
use rudel_lab::rudeld;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Runs a script with the directory of the programs that were built, and shows what it said if it fails.
fn run(script: &str) {
    let built = rudeld().expect("rudeld is built");
    let built = built.parent().expect("a directory");
    assert!(built.join("examples/pages").is_file(), "cargo build -p rudeld --example pages");
    let output = Command::new(repository().join("scripts").join(script)).arg(built).output();
    let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{script} ended with {}:\n{said}", output.status);
    say(said.lines().last().unwrap_or_default());
}

#[test]
fn it_is_installed_started_upgraded_stopped_removed_and_purged() {
    let Some(_serial) = root() else { return };
    run("package-test");
}

#[test]
fn who_types_what_the_readme_says_has_a_cluster_in_ten_commands() {
    let Some(_serial) = root() else { return };
    run("quickstart-test");
}
