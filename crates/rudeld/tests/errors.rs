//! What the daemon says when it does not start: what happened, to what, and what to do. Nothing is touched by any of it, and
//! no root is needed; what only a real host can bring about is in the laboratory's `refusals`.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rudel_api::config::{Config, KEYS, Table};

#[test]
fn a_value_of_the_wrong_kind_is_shown_with_what_is_allowed_for_every_key() {
    for key in KEYS {
        let table = Table::find(key.table).expect("its table");
        // No key takes a fraction.
        // Elsewhere it is out of place whatever its value.
        let inside = if key.key == "networks" { "side = \"inside\"\n" } else { "" };
        let text = format!("{}\n{} = 1.5\n{inside}", table.header(), key.key);
        let error = Config::parse(&text, "/etc/rudel/rudel.toml").expect_err(key.key).render(false);
        let problems: Vec<&str> = error.split("error: ").collect();
        // That other keys are missing is told as well, at the table.
        let (line, name) = ("/etc/rudel/rudel.toml:2:", format!("`{}`", key.key));
        let about = problems.iter().find(|problem| problem.contains(line) && problem.contains(&name));
        let about = about.unwrap_or_else(|| panic!("nothing about {name} in its line: {error}"));
        assert!(about.contains(key.kind.as_str()), "what it is: {about}");
        assert!(about.contains("help: "), "what is allowed: {about}");
    }
}

#[test]
fn a_daemon_that_does_not_start_says_what_happened_to_what_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let key = rudel_api::key::ClusterKey::generate().expect("a key");
    key.write_new(&dir.path().join("key")).expect("a key file");
    key.write_new(&dir.path().join("exposed")).expect("a key file");
    std::fs::set_permissions(dir.path().join("exposed"), std::fs::Permissions::from_mode(0o644))
        .expect("a mode");
    // With this interface, nothing can start whoever runs the test.
    let config = |key: &str| {
        format!(
            "[cluster]\nname = \"web\"\nkey_file = \"{}\"\n[[interface]]\nname = \"nowhere0\"\naddresses = [\"192.0.2.10/24\"]\n",
            at(key)
        )
    };
    let good = config("key");
    // What is wrong; the configuration, more arguments; the exit code, what it is about, what to do.
    type Case<'a> = (&'a str, String, &'a [&'a str], i32, &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        ("no such interface", good.clone(), &[], 1, "nowhere0", "this host has lo"),
        ("no key", config("missing"), &[], 2, "missing", "rudel key new"),
        ("an exposed key", config("exposed"), &[], 2, "exposed", "chmod 600"),
        ("an unknown key", good.replace("[[", "colour = 1\n[["), &[], 2, "colour", "help:"),
        ("no TOML", "[cluster".into(), &[], 2, ":1:", "["),
        ("a bad name", good.clone(), &["--name", "n 1"], 1, "n 1", "not allowed"),
        ("an unknown flag", good.clone(), &["--colour"], 2, "--colour", "--help"),
    ];
    for (wrong, text, arguments, code, about, advice) in cases {
        let path = dir.path().join("rudel.toml");
        std::fs::write(&path, text).expect("a configuration");
        let output = Command::new(env!("CARGO_BIN_EXE_rudeld"))
            .arg("--config")
            .arg(&path)
            .args(["--runtime-dir", &at("run"), "--state-dir", &at("state")])
            .args(*arguments)
            .env("NO_COLOR", "1")
            .output()
            .expect("rudeld runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let context = format!("{wrong}: {said}");
        assert_eq!(output.status.code(), Some(*code), "{context}");
        assert!(said.contains(about) && said.contains(advice) && !said.contains("panicked"), "{context}");
        assert_eq!(
            said.matches("error: ").count() + said.matches("rudeld: ").count(),
            1,
            "one cause, told once: {context}"
        );
    }
    assert!(!dir.path().join("run").exists() && !dir.path().join("state").exists(), "nothing was touched");
}
