//! What administrators look at: the history over restarts, metrics, health, and the status page in a real browser.
//!
//! ```text
//!    n1        n2        n3        each with metrics = "127.0.0.1:9440"; the browser is on n1
//!    │         │         │
//!  ──┴─────────┴── br0 ──┴──
//! ```

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{cluster, root, second};
use rudel_lab::{Browser, Lab, Node, Settings, wait_until};
use serde_json::Value;

const METRICS: &str = "\n[node]\nmetrics = \"127.0.0.1:9440\"\n";

fn watched(nodes: usize) -> Lab {
    cluster(nodes, Settings { extra: METRICS.to_owned(), ..Settings::default() })
}

/// The status and the body that a node's web server answers with.
fn get(node: &Node, path: &str) -> Result<(u16, String), String> {
    let mut curl = node.namespace().command("curl").expect("curl");
    let url = format!("http://127.0.0.1:9440{path}");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}", &url]);
    let output = curl.output().expect("curl");
    let text = String::from_utf8(output.stdout).expect("text");
    match text.rsplit_once('\n') {
        Some((body, code)) if output.status.success() => {
            Ok((code.parse().expect("a status"), body.to_owned()))
        }
        _ => Err(format!("{path}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// The value of a metric with its labels, as written.
fn metric(node: &Node, name: &str) -> Result<f64, String> {
    let (code, text) = get(node, "/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.ok_or_else(|| format!("{code}, without {name}:\n{text}"))
}

fn events(node: &Node) -> Vec<Value> {
    let text = node.rudel(&["events", "--json"]).expect("events");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["kind"].as_str()).collect()
}

#[test]
fn the_history_outlives_daemons_and_power_cuts() {
    let Some(_serial) = root() else { return };
    let mut lab = watched(2);
    lab.node_mut("n2").kill_daemon();
    lab.wait_at_rest(&["n1"]).expect("n1 goes on");
    let n1 = lab.node_mut("n1");
    let before = events(n1);
    assert!(kinds(&before).contains(&"expired"), "{before:?}");

    // Killed in the middle of a word, as a power cut may do it.
    n1.kill_daemon();
    let path = n1.state_dir().join("lab-n1.events.jsonl");
    let mut text = std::fs::read(&path).expect("the history");
    text.extend_from_slice(b"{\"at\":\"2026-01-01T00:0");
    std::fs::write(&path, &text).expect("the history");
    n1.start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1"]).expect("it serves again");
    let after = events(lab.node("n1"));
    assert!(after.len() > before.len() && after[..before.len()] == before, "{before:?}\n{after:?}");
    let sequences: Vec<_> = after.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");

    // And damaged altogether.
    let n1 = lab.node_mut("n1");
    n1.kill_daemon();
    std::fs::write(&path, [0xff; 100_000]).expect("rubbish");
    n1.start_daemon().expect("a daemon");
    lab.wait_at_rest(&["n1"]).expect("rubbish does not keep it from serving");
    assert_eq!(kinds(&events(lab.node("n1")))[0], "started");
}

#[test]
fn metrics_and_health_say_what_the_status_says() {
    let Some(_serial) = root() else { return };
    let mut lab = watched(2);
    for name in ["n1", "n2"] {
        let node = lab.node(name);
        assert_eq!(get(node, "/healthz"), Ok((200, "serving\n".to_owned())));
        assert_eq!(metric(node, "rudel_buckets{state=\"owned\"}"), Ok(128.0));
        assert_eq!(metric(node, "rudel_nodes{state=\"active\"}"), Ok(2.0));
        assert!(metric(node, "rudel_pulse_lateness_seconds_count").expect("a histogram") > 0.0);
        assert!(metric(node, "rudel_takeover_seconds_count").expect("a histogram") > 0.0);
        assert!(metric(node, "rudel_pulses_total{direction=\"received\"}").expect("pulses") > 0.0);
    }

    // As Prometheus's own tool reads it.
    let (_, text) = get(lab.node("n1"), "/metrics").expect("metrics");
    let checked = promtool(&["check", "metrics"], &text);
    assert!(checked.status.success(), "{checked:?}\n{text}");

    lab.node("n1").rudel(&["drain", "--node", "n2", "--wait"]).expect("a drain");
    wait_until(second(60), "n2 to say that it does not serve", || match get(lab.node("n2"), "/healthz")? {
        (503, why) if why.starts_with("n2 does not serve: it is draining") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("a load balancer is told");
    assert_eq!(get(lab.node("n1"), "/healthz").expect("n1").0, 200);

    lab.node_mut("n2").kill_daemon();
    wait_until(second(60), "n1 to miss n2", || {
        match metric(lab.node("n1"), "rudel_nodes{state=\"lost\"}")? {
            1.0 => Ok(()),
            other => Err(format!("{other} are lost")),
        }
    })
    .expect("a lost node is counted");
    assert_eq!(metric(lab.node("n1"), "rudel_view_changes_total{reason=\"expired\"}"), Ok(1.0));
    assert!(metric(lab.node("n1"), "rudel_troubles").expect("troubles") > 0.0);
}

#[test]
fn the_status_page_lives_in_a_browser() {
    let Some(_serial) = root() else { return };
    let mut lab = watched(3);
    let pictures = std::env::var_os("RUDEL_LAB_PICTURES").map(std::path::PathBuf::from);
    let home = tempfile::tempdir().expect("a directory");
    let mut browser = Browser::start(lab.node("n1").namespace(), home.path()).expect("a browser");
    let picture = |browser: &mut Browser, name: &str| {
        if let Some(dir) = &pictures {
            browser.picture(&dir.join(format!("{name}.png"))).expect("a picture");
        }
    };
    const LINK: &str = "document.getElementById('link').textContent";
    const TEXT: &str = "document.body.innerText";
    browser.open("http://127.0.0.1:9440/").expect("the page");
    browser.wait_for(second(120), &format!("{LINK} === 'live'"), TEXT).expect("it lives");

    // The map is what the status says, in letters, one for each node.
    let status: Value =
        serde_json::from_str(&lab.node("n1").rudel(&["status", "--json"]).expect("a status")).expect("JSON");
    let owners = status["buckets"]["owners"].as_array().expect("owners");
    let cells =
        browser.evaluate("[...document.querySelectorAll('#map .cell')].map((c) => c.textContent).join('')");
    let cells = cells.expect("the map");
    let expected: String = owners
        .iter()
        .map(|owner| match owner.as_str() {
            Some("n1") => 'A',
            Some("n2") => 'B',
            Some("n3") => 'C',
            _ => '·',
        })
        .collect();
    assert_eq!(cells, expected.as_str());

    for (width, height) in [(390, 844), (1440, 900), (320, 600)] {
        browser.resize(width, height).expect("a window");
        for dark in [false, true] {
            browser.prefer_dark(dark).expect("a preference");
            let kind = if dark { "dark" } else { "light" };
            picture(&mut browser, &format!("at-rest-{width}-{kind}"));
            let fits = browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth");
            assert_eq!(fits.expect("a width"), true, "it scrolls sideways at {width}");
        }
    }

    // By keyboard alone.
    browser.press("Tab").expect("a key");
    assert_eq!(browser.evaluate("document.activeElement.id").expect("an element"), "map");
    for (key, bucket) in
        [("ArrowRight", 0), ("ArrowRight", 1), ("ArrowDown", 17), ("ArrowUp", 1), ("ArrowLeft", 0)]
    {
        browser.press(key).expect("a key");
        let said = browser.evaluate("document.getElementById('bucket').textContent").expect("a text");
        assert_eq!(said, format!("Bucket {bucket}: {}", owners[bucket].as_str().expect("an owner")).as_str());
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());

    lab.node_mut("n3").kill_daemon();
    let lost = "document.getElementById('troubles').innerText.includes('n3 is lost') \
                && document.getElementById('nodes').innerText.includes('lost') \
                && document.getElementById('events').innerText.includes('not heard for') \
                && ![...document.querySelectorAll('#map .cell')].some((c) => c.textContent === 'C')";
    browser.wait_for(second(120), lost, TEXT).expect("it shows the loss");
    for (width, height) in [(390, 844), (1440, 900)] {
        browser.resize(width, height).expect("a window");
        picture(&mut browser, &format!("a-loss-{width}"));
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());

    lab.node_mut("n1").kill_daemon();
    browser
        .wait_for(second(120), &format!("{LINK}.startsWith('lost the daemon')"), TEXT)
        .expect("it says so");
    picture(&mut browser, "without-its-daemon-1440");
    lab.node_mut("n1").start_daemon().expect("a daemon");
    browser.wait_for(second(120), &format!("{LINK} === 'live'"), TEXT).expect("it lives again");
    let history = "document.getElementById('events').innerText.includes('not heard for')";
    browser.open("http://127.0.0.1:9440/").expect("the page");
    browser.wait_for(second(120), history, TEXT).expect("a new page shows what was before the restart");
}

/// Runs Prometheus's tool (Debian's package prometheus) beside the alert rules.
fn promtool(arguments: &[&str], input: &str) -> std::process::Output {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/prometheus");
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut tool = command.spawn().expect("promtool: make setup installs it");
    tool.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("promtool reads");
    tool.wait_with_output().expect("promtool ends")
}

#[test]
fn alert_rules_hold() {
    for arguments in [["check", "rules", "rudel.rules.yml"], ["test", "rules", "rudel.test.yml"]] {
        let checked = promtool(&arguments, "");
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[test]
fn the_dashboard_asks_what_prometheus_understands() {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../../dist/grafana/rudel.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let rules: Vec<Value> = targets
        .map(|target| target["expr"].as_str().expect("an expression"))
        // What Grafana puts in.
        .map(|expression| expression.replace("$__rate_interval", "1m").replace("$cluster", "web"))
        .enumerate()
        .map(|(i, expression)| serde_json::json!({"record": format!("expression_{i}"), "expr": expression}))
        .collect();
    assert!(rules.len() > panels.len(), "{} expressions", rules.len());
    // JSON is YAML.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    std::fs::write(file.path(), text).expect("a file of rules");
    let checked = promtool(&["check", "rules", file.path().to_str().expect("a path")], "");
    assert!(checked.status.success(), "{checked:?}");
}
