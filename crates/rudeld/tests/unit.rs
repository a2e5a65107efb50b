//! The systemd unit: what it allows the daemon, and no more. That the daemon works within it is tried under a real systemd
//! by scripts/package-test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// systemd's measure of what a service could do, 0 to 10.
const EXPOSURE_MAX: f32 = 3.0;

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd/rudeld.service")
}

fn setting(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(unit()).expect("the unit");
    let prefix = format!("{name}=");
    let values: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    values[0].split_whitespace().map(str::to_owned).collect()
}

#[test]
fn it_has_four_capabilities_and_no_other() {
    let mut capabilities = setting("CapabilityBoundingSet");
    capabilities.sort();
    assert_eq!(capabilities, ["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON"]);
    // What stands for two more; the number is the priority of src/realtime.rs.
    assert_eq!(setting("LimitMEMLOCK"), ["infinity"]);
    assert_eq!(setting("LimitRTPRIO"), ["20"]);
    assert_eq!((setting("Type"), setting("NoNewPrivileges")), (vec!["notify".into()], vec!["yes".into()]));
}

#[test]
fn systemd_finds_little_exposure_and_no_mistake() {
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).output();
    let path = unit().display().to_string();
    let Ok(output) = analyze(&["security", "--no-pager", "--offline=true", &path]) else {
        println!("SKIPPED: there is no systemd-analyze here");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| {
        panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    });
    let level = line.split_whitespace().find_map(|word| word.parse::<f32>().ok()).expect("a number");
    println!("exposure {level}");
    assert!(level < EXPOSURE_MAX, "{text}");

    // Its program need not be installed for that.
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("rudeld.service");
    let text = std::fs::read_to_string(unit()).expect("the unit");
    assert!(text.contains("ExecStart=/usr/local/sbin/rudeld\n"), "scripts/install replaces /usr/local");
    std::fs::write(
        &copy,
        text.replace("/usr/local/sbin/rudeld", "/bin/true").replace("/usr/local/bin/rudel ", "/bin/true "),
    )
    .expect("a copy");
    let output = analyze(&["verify", "--man=no", &copy.display().to_string()]).expect("as before");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("rudeld.service"), "{said}");
}
