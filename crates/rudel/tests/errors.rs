//! What the tool says when something is wrong: what happened, to what, and what to do.
//!
//! Each failure is provoked, and judged by the same measures: one line on standard error (a refused configuration shows
//! its lines), the name of what it is about, and after the last colon what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rudel_api::key::{ClusterKey, ClusterKeys};

struct Case {
    /// What is wrong.
    wrong: &'static str,
    arguments: Vec<String>,
    code: i32,
    /// What the message must name.
    about: String,
    /// What must stand in its advice.
    advice: &'static str,
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}

#[test]
fn every_failure_says_what_happened_to_what_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let key = ClusterKey::generate().unwrap();
    key.write_new(&dir.path().join("key")).unwrap();
    let text = key.to_file_text();
    write(&dir.path().join("exposed"), &text, 0o644);
    write(&dir.path().join("empty"), "# nothing\n", 0o600);
    write(&dir.path().join("rubbish"), "secret\n", 0o600);
    std::os::unix::net::UnixListener::bind(dir.path().join("silent")).unwrap();
    let config = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = format!(
        "[cluster]\nname = \"web\"\nkey_file = \"{}\"\n[node]\nsocket = \"{}\"\n[[interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.10/24\"]\n",
        at("key"),
        at("nobody")
    );
    let good_config = config("good.toml", &good);
    let bad_config = config("bad.toml", &good.replace("name = \"web\"", "name = \"The Web\""));

    let mut cases = Vec::new();
    let mut add = |wrong, arguments: String, code, about: String, advice| {
        cases.push(Case { wrong, arguments: words(&arguments), code, about, advice });
    };
    let nobody = at("nobody");
    for command in [
        "status",
        "events",
        "events --follow",
        "why tcp 192.0.2.1:1 192.0.2.10:80",
        "drain",
        "undrain",
        "weight 5",
        "restart",
    ] {
        add("no daemon", format!("{command} --socket {nobody}"), 1, nobody.clone(), "rudeld");
    }
    add("no terminal", "top".into(), 2, "terminal".into(), "rudel status");
    add(
        "no daemon, by its configuration",
        format!("status --config {good_config}"),
        1,
        nobody.clone(),
        "rudeld",
    );
    add(
        "a rotation without a daemon",
        format!("key rotate accept --config {good_config}"),
        1,
        nobody.clone(),
        "rudeld",
    );
    let missing = at("missing.toml");
    add("no configuration", format!("status --config {missing}"), 1, missing.clone(), "");
    add("no configuration to check", format!("check --config {missing}"), 1, missing.clone(), "--config");
    let grace = config("grace.toml", &good.replace("[node]", "[node]\nrestart_grace = \"5s\""));
    add("what the daemon refuses", format!("check --config {grace}"), 2, format!("{grace}:5"), "remove it");
    add(
        "a refused configuration",
        format!("status --config {bad_config}"),
        2,
        format!("{bad_config}:2"),
        "help:",
    );
    add("a key that is there", format!("key new {}", at("key")), 1, at("key"), "remove it");
    add("no directory for a key", format!("key new {}", at("no/key")), 1, at("no/key"), "make its directory");
    let fingerprint = |name: &str| format!("key fingerprint {}", at(name));
    add("no key", fingerprint("nothing"), 1, at("nothing"), "rudel key new");
    add("a key that others can read", fingerprint("exposed"), 1, at("exposed"), "chmod 600");
    add("an empty key file", fingerprint("empty"), 1, at("empty"), "copy it again");
    add("no key in a key file", fingerprint("rubbish"), 1, at("rubbish"), "copy it again");
    add("a flow that is none", "why tcp 192.0.2.1 192.0.2.10:80".into(), 2, "192.0.2.1".into(), "");
    add("no place for manuals", format!("man {}", at("nowhere")), 1, at("nowhere"), "directory that exists");
    add("an unknown command", "dance".into(), 2, "dance".into(), "--help");
    add("a weight out of range", "weight 5000".into(), 2, "5000".into(), "1000");

    for case in &cases {
        let output = Command::new(env!("CARGO_BIN_EXE_rudel"))
            .args(&case.arguments)
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let context = format!("{}: rudel {}\n{said}", case.wrong, case.arguments.join(" "));
        assert_eq!(output.status.code(), Some(case.code), "{context}");
        assert!(output.stdout.is_empty(), "failures go to standard error: {context}");
        assert!(!said.contains("panicked"), "{context}");
        assert!(said.contains(&case.about), "it does not say what it is about: {context}");
        assert!(said.contains(case.advice), "it does not say what to do: {context}");
        if case.code == 1 {
            assert_eq!(said.lines().count(), 1, "one line: {context}");
            let parts: Vec<&str> = said.trim_end().split(": ").collect();
            assert!(parts.len() >= 3 && parts[0] == "rudel", "who, what, what to do: {context}");
            assert!(parts.iter().all(|part| !part.trim().is_empty()), "{context}");
        }
    }
    assert_eq!(
        ClusterKeys::load(&dir.path().join("key")).unwrap().sealing,
        key,
        "no failure has written anything"
    );
}
