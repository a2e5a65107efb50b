//! The sample configurations, and what the manual says of the daemon, are what it really takes.
//!
//! The daemon is started with a copy of each sample whose key file does not exist. It reads the key only after it has
//! accepted everything else, and before it touches the host: so its complaint about the key, and about nothing else,
//! says that the sample is good. No root is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use rudel_api::config::{Config, KEYS};

/// Keys of which the daemon takes the default alone.
const REFUSED_KEYS: [&str; 1] = ["restart_grace"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn samples() -> Vec<(PathBuf, String)> {
    let dir = repository().join("dist/examples");
    let mut samples: Vec<(PathBuf, String)> = fs::read_dir(dir)
        .expect("the samples are in dist/examples")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a sample can be read");
            (path, text)
        })
        .collect();
    samples.sort();
    samples
}

/// What the daemon says to a configuration, with a key file that does not exist: nothing can start.
fn daemon_says(text: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing-key");
    let text = text.replace("\"/etc/rudel/key\"", &format!("{:?}", missing.display().to_string()));
    assert!(text.contains("missing-key"), "the sample's key file is not /etc/rudel/key");
    let config = dir.path().join("rudel.toml");
    fs::write(&config, text).expect("a copy");
    let output = Command::new(env!("CARGO_BIN_EXE_rudeld"))
        .args(["--name", "n1", "--config"])
        .arg(&config)
        .arg("--runtime-dir")
        .arg(dir.path())
        .arg("--state-dir")
        .arg(dir.path())
        .env("NO_COLOR", "1")
        .output()
        .expect("rudeld runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn samples_are_accepted() {
    let samples = samples();
    assert!(samples.len() >= 3, "only {} samples", samples.len());
    for (path, text) in samples {
        if let Err(error) = Config::parse(&text, &path) {
            panic!("{}", error.render(false));
        }
        let (code, said) = daemon_says(&text);
        assert!(
            said.contains("missing-key") && said.contains("does not exist"),
            "{}: {said}",
            path.display()
        );
        assert_eq!(said.matches("error").count(), 1, "{}: {said}", path.display());
        assert_eq!(code, Some(2), "{}", path.display());
    }
}

#[test]
fn a_share_is_not_kept_beyond_its_lease() {
    let (_, good) = samples().remove(0);
    let with = |grace: &str| good.replace("[node]\n", &format!("[node]\nrestart_grace = \"{grace}\"\n"));
    assert_ne!(with("5s"), good, "nothing was added");
    let (code, said) = daemon_says(&with("5s"));
    assert!(
        said.contains("cannot be kept beyond its lease") && said.contains("[heartbeat] timeout"),
        "{said}"
    );
    assert_eq!(code, Some(2));
    let (_, said) = daemon_says(&with("0s"));
    assert!(!said.contains("lease") && said.contains("missing-key"), "0s is what is done anyway: {said}");
}

/// The tables of the keys are made of the parser's own; the rest of the page is written by people.
#[test]
fn the_manual_tells_what_is_refused_and_the_command_line() {
    let manual = fs::read_to_string(repository().join("docs/configuration.md")).expect("the manual");
    let section = |heading: &str| {
        let start =
            manual.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
        let rest = &manual[start + 4..];
        rest.find("\n## ").map_or(rest, |end| &rest[..end])
    };
    for key in REFUSED_KEYS {
        assert!(section("Not done").contains(&format!("`{key}`")), "{key} is not told of");
        assert_eq!(KEYS.iter().filter(|known| known.key == key).count(), 1, "{key}");
    }
    let told = section("Command line of `rudeld`");
    let command = rudeld::options::Options::command();
    let flags = command.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(|flag| flag.get_long());
    for flag in flags.filter(|flag| !["help", "version"].contains(flag)) {
        assert!(told.contains(&format!("`--{flag} ")), "--{flag} is not told of");
    }
}
