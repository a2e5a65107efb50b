use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use rudel_datapath::Verdict;

/// No test waits longer for what must happen.
const DEADLINE: Duration = Duration::from_secs(60);

fn look() -> Look {
    let snapshot = serde_json::json!({
        "schema": 1, "cluster": "web", "node": "n1", "version": "0.1.0", "state": "active", "serving": true, "lease_ms": 312,
        "view": {"epoch": 12, "coordinator": "n1", "settled": true, "age_ms": 4200, "quorum": 2},
        "nodes": [
            {"name": "n1", "state": "active", "healthy": true, "weight": 100, "buckets": 255, "heard_ms": 0, "addresses": ["192.0.2.11"]},
            {"name": "n2", "state": "lost", "healthy": false, "weight": 0, "buckets": 0, "heard_ms": null, "addresses": [], "reason": "not heard for 400 ms"}],
        "buckets": {"total": 256, "owned": 250, "keeping": 2, "connections": 7, "adopting": 5,
            "owners": std::iter::repeat_n(Some("n1"), 255).chain([None]).collect::<Vec<_>>()},
        "interfaces": [{"name": "eth0", "side": "service", "mac": "03:bf:c0:00:02:0a", "mode": "native", "addresses": ["192.0.2.10"],
            "packets": {"seen": 3, "passed": 1, "ignored": 2, "fenced": 0, "malformed": 0}, "deaf": false, "coverage": 0.75, "audit": "hole"}],
        "health": [{"name": "web", "ok": false, "since": "2026-01-01T00:00:00Z", "last_error": "</script><b>HTTP 500"}],
        "events": [],
        "sync": {"flows_own": 7, "flows_foreign": 9, "messages_sent": 5, "lag_us": 1500, "gaps_skipped": 2, "synced": true,
            "peers": [{"name": "n2", "proven": true, "whole": true}]},
        "aside": {"set_aside": 12, "put_through": 6, "lost": 1},
        "nat": {"table": "inet rudel_web", "addresses": ["198.51.100.10"], "refused": 4},
        "hook": {"program": "/bin/notify", "ok": false, "running": null, "waiting": 1, "missed": 2, "runs": 9, "failures": 3,
            "run_ms": 4500, "last_error": "/bin/notify: exit status 1", "last_error_at": "2026-01-01T00:00:00.500Z"}
    });
    let mut counts = Counts { sent: 20, received: 40, ..Counts::default() };
    counts.rejected.insert("forged", 3);
    counts.views.insert("expired", 2);
    counts.takeover.observe(Duration::from_micros(1_500));
    counts.lateness.observe(Duration::from_micros(70));
    counts.lateness.observe(Duration::from_secs(3));
    let mut verdicts = [rudel_datapath::Count::default(); Verdict::ALL.len()];
    verdicts[Verdict::Passed as usize] = rudel_datapath::Count { packets: 5, bytes: 512 };
    let interfaces = vec![InterfaceCounters { ifindex: 2, name: "eth0".into(), verdicts }];
    Look { snapshot: serde_json::from_value(snapshot).unwrap(), counts, interfaces }
}

/// Serves what `look` gives, while `work` is done on another thread with the address and the count of looks.
fn with_web(
    look: impl Fn() -> Option<Look> + 'static,
    work: impl FnOnce(SocketAddr, &AtomicU32) + Send + 'static,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let web = Web::open("127.0.0.1:0".parse().unwrap(), "n1").unwrap();
        let address = web.address().unwrap();
        let (asker, mut looks) = mpsc::channel::<oneshot::Sender<Option<Look>>>(1);
        tokio::task::spawn_local(web.serve(asker));
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let worker = tokio::task::spawn_blocking(move || work(address, &count));
        tokio::pin!(worker);
        loop {
            tokio::select! {
                Some(answer) = looks.recv() => {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let _ = answer.send(look());
                }
                result = &mut worker => break result.unwrap(),
            }
        }
    });
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Asks, and reads to the end of the connection: header and body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (header, body) = answer.split_once("\r\n\r\n").expect("an answer has a header");
    (header.to_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: n1\r\n\r\n"))
}

#[test]
fn metrics_have_the_promised_names_with_their_types_and_help() {
    let text = metrics::render(Arc::new(look()));
    for line in [
        "rudel_build_info{version=\"0.1.0\",cluster=\"web\",node=\"n1\"} 1.0",
        "rudel_buckets{state=\"owned\"} 250.0",
        "rudel_buckets{state=\"keeping\"} 2.0",
        "rudel_buckets{state=\"adopting\"} 5.0",
        "rudel_buckets_orphaned 1.0",
        "rudel_nodes{state=\"active\"} 1.0",
        "rudel_nodes{state=\"lost\"} 1.0",
        "rudel_nodes{state=\"draining\"} 0.0",
        "rudel_node_buckets{node=\"n1\"} 255.0",
        "rudel_node_healthy{node=\"n2\"} 0.0",
        "rudel_view_epoch 12.0",
        "rudel_view_changes_total{reason=\"expired\"} 2",
        "# UNIT rudel_lease_seconds seconds",
        "rudel_lease_seconds 0.312",
        "rudel_packets_total{interface=\"eth0\",verdict=\"passed\"} 5",
        "rudel_packets_total{interface=\"eth0\",verdict=\"ignored\"} 0",
        "# TYPE rudel_packet_bytes counter",
        "rudel_packet_bytes_total{interface=\"eth0\",verdict=\"passed\"} 512",
        "rudel_pulses_total{direction=\"sent\"} 20",
        "rudel_pulses_total{direction=\"received\"} 40",
        "rudel_datagrams_rejected_total{reason=\"forged\"} 3",
        "# TYPE rudel_pulse_lateness_seconds histogram",
        "rudel_pulse_lateness_seconds_bucket{le=\"0.00005\"} 0",
        "rudel_pulse_lateness_seconds_bucket{le=\"0.0001\"} 1",
        "rudel_pulse_lateness_seconds_bucket{le=\"1.0\"} 1",
        "rudel_pulse_lateness_seconds_bucket{le=\"+Inf\"} 2",
        "rudel_pulse_lateness_seconds_count 2",
        "rudel_takeover_seconds_bucket{le=\"0.002\"} 1",
        "rudel_takeover_seconds_sum 0.0015",
        "rudel_deaf{interface=\"eth0\"} 0.0",
        "rudel_coverage_ratio{interface=\"eth0\"} 0.75",
        "rudel_health_up{check=\"web\"} 0.0",
        "rudel_audit_finding{interface=\"eth0\",finding=\"hole\"} 1.0",
        "rudel_audit_finding{interface=\"eth0\",finding=\"double\"} 0.0",
        "rudel_troubles 4.0",
        "rudel_nat_refused_total 4",
        "rudel_aside_segments_total{what=\"set_aside\"} 12",
        "rudel_aside_segments_total{what=\"put_through\"} 6",
        "rudel_aside_segments_total{what=\"refused\"} 0",
        "rudel_aside_segments_total{what=\"handed_on\"} 0",
        "rudel_aside_segments_total{what=\"lost\"} 1",
        "rudel_hook_up 0.0",
        "rudel_hook_runs_total{result=\"good\"} 6",
        "rudel_hook_runs_total{result=\"failed\"} 3",
        "rudel_hook_run_seconds_total 4.5",
        "rudel_hook_waiting 1.0",
        "rudel_hook_missed_total 2",
        "rudel_hook_last_failure_timestamp_seconds 1767225600.5",
        "rudel_sync_flows{owner=\"self\"} 7.0",
        "rudel_sync_flows{owner=\"others\"} 9.0",
        "rudel_sync_complete 1.0",
        "rudel_sync_lag_seconds 0.0015",
        "rudel_sync_messages_total{direction=\"sent\"} 5",
        "rudel_sync_messages_total{direction=\"received\"} 0",
        "rudel_sync_lost_total{what=\"given_up\"} 2",
        "rudel_sync_overruns_total 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // What has no source is not there, rather than 0.
    let mut alone = look();
    alone.snapshot.interfaces[0].coverage = None;
    (alone.snapshot.sync, alone.snapshot.nat, alone.snapshot.hook) = (None, None, None);
    let without = metrics::render(Arc::new(alone));
    for absent in ["rudel_coverage_ratio{", "rudel_sync", "rudel_nat", "rudel_hook"] {
        assert!(!without.contains(absent), "{absent}: {without}");
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(text.lines().filter(|line| line.starts_with("# HELP ") && line.ends_with('.')).count(), types);
}

/// The metrics that a text names, without what a histogram adds.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("rudel_"))
        .map(|word| {
            word.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count").to_owned()
        })
        .collect()
}

#[test]
fn alerts_dashboard_and_manual_name_metrics_that_exist() {
    let text = metrics::render(Arc::new(look()));
    let samples: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let known = named(&samples);
    let files = [
        ("rules", include_str!("../../../../dist/prometheus/rudel.rules.yml")),
        ("tests of the rules", include_str!("../../../../dist/prometheus/rudel.test.yml")),
        ("dashboard", include_str!("../../../../dist/grafana/rudel.json")),
        ("manual", include_str!("../../../../docs/monitoring.md")),
    ];
    for (file, text) in files {
        let unknown: Vec<_> = named(text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} are none of {known:?}");
    }
    let told = named(files[3].1);
    let untold: Vec<_> = known.difference(&told).collect();
    assert!(untold.is_empty(), "the manual does not tell {untold:?}");
}

#[test]
fn the_page_the_metrics_and_the_health_are_served() {
    with_web(
        || Some(look()),
        |address, _| {
            let (header, body) = get(address, "/");
            assert!(
                header.starts_with("http/1.1 200 ok\r\n") && body.starts_with("<!DOCTYPE html>"),
                "{header}"
            );
            for expected in [
                "content-type: text/html; charset=utf-8",
                "content-security-policy: default-src 'none'; script-src 'sha256-",
                "x-frame-options: deny",
                "x-content-type-options: nosniff",
                "cache-control: no-store",
            ] {
                assert!(header.contains(expected), "{expected}\n{header}");
            }
            assert!(!header.contains("access-control") && !header.contains("set-cookie"), "{header}");

            let (header, body) = get(address, "/metrics");
            assert!(header.contains("content-type: text/plain; version=0.0.4"), "{header}");
            assert!(
                body.contains("# HELP rudel_view_changes_total Views that") && !body.contains("# EOF"),
                "{body}"
            );
            assert!(
                body.contains("# TYPE rudel_view_changes_total counter\nrudel_view_changes_total{"),
                "{body}"
            );
            let (header, body) = ask(
                address,
                "GET /metrics HTTP/1.1\r\nHost: n1\r\nAccept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n",
            );
            assert!(header.contains("content-type: application/openmetrics-text; version=1.0.0"), "{header}");
            assert!(
                body.contains("# TYPE rudel_view_changes counter\n") && body.ends_with("# EOF\n"),
                "{body}"
            );

            let (header, body) = get(address, "/healthz");
            assert!(header.starts_with("http/1.1 200 ") && body == "serving\n", "{header}");
            let (header, body) = ask(address, "HEAD /healthz HTTP/1.1\r\nHost: n1\r\n\r\n");
            assert!(header.starts_with("http/1.1 200 ") && body.is_empty(), "{header}");
            assert!(get(address, "/etc/passwd").0.starts_with("http/1.1 404 "));
            let (header, _) = ask(address, "POST / HTTP/1.1\r\nHost: n1\r\nContent-Length: 0\r\n\r\n");
            assert!(header.starts_with("http/1.1 405 ") && header.contains("allow: get, head"), "{header}");

            // A page that has its own name point here is told nothing; what asks for no name is no browser.
            for path in ["/", "/metrics", "/live", "/healthz"] {
                let request = format!("GET {path} HTTP/1.1\r\nHost: rebound.example.com:9440\r\n\r\n");
                let (header, body) = ask(address, &request);
                assert!(header.starts_with("http/1.1 421 ") && !body.contains("serving"), "{path}: {header}");
            }
            let (header, _) = ask(address, "GET /healthz HTTP/1.0\r\n\r\n");
            assert!(header.starts_with("http/1.0 200 "), "{header}");
        },
    );
}

#[test]
fn a_node_that_does_not_serve_says_so_with_its_reason() {
    let not_serving = || {
        let mut look = look();
        (look.snapshot.serving, look.snapshot.lease_ms) = (false, 0);
        look.snapshot.nodes[0].reason = Some("web: HTTP 500".into());
        Some(look)
    };
    with_web(not_serving, |address, _| {
        let (header, body) = get(address, "/healthz");
        assert!(header.starts_with("http/1.1 503 "), "{header}");
        assert_eq!(body, "n1 does not serve: it is active, without a lease (web: HTTP 500)\n");
    });
    with_web(
        || None,
        |address, _| {
            for path in ["/healthz", "/metrics"] {
                let (header, body) = get(address, path);
                assert!(header.starts_with("http/1.1 503 "), "{header}");
                assert_eq!(body, "the daemon is stopping\n");
            }
        },
    );
}

/// Reads until `needle` has come.
fn read_until(stream: &mut TcpStream, needle: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(needle) {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "the connection ended before {needle:?}");
        text.extend_from_slice(&buffer[..len]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn pages_listen_and_leave_room_for_scrapes() {
    with_web(
        || Some(look()),
        |address, _| {
            let listen = || {
                let mut stream = connect(address);
                stream.write_all(b"GET /live HTTP/1.1\r\nHost: n1\r\n\r\n").unwrap();
                stream
            };
            let mut pages: Vec<TcpStream> = (0..LIVE_MAX).map(|_| listen()).collect();
            for page in &mut pages {
                let said = read_until(page, "\n\n");
                assert!(said.contains("content-type: text/event-stream"), "{said}");
            }
            // One word after the other, each one line.
            for _ in 0..2 {
                let said = read_until(&mut pages[0], "\n\n");
                assert!(said.contains("data: {\"status\":{\"schema\":1,"), "{said}");
                assert!(said.contains("\"troubles\":[\"n2 is lost: not heard for 400 ms\""), "{said}");
            }
            let (header, body) = get(address, "/live");
            assert!(header.starts_with("http/1.1 503 "), "{header}");
            assert_eq!(body, "16 pages listen already: close one\n");
            assert!(get(address, "/metrics").0.starts_with("http/1.1 200 "));

            drop(pages);
            let end = Instant::now() + DEADLINE;
            while !read_until(&mut listen(), "\r\n").starts_with("HTTP/1.1 200 ") {
                assert!(Instant::now() < end, "pages that have gone keep their places");
            }
        },
    );
}

#[test]
fn a_flood_of_scrapes_asks_the_daemon_a_few_times_a_second() {
    with_web(
        || Some(look()),
        |address, asked| {
            let begin = Instant::now();
            (0..200).for_each(|_| assert!(get(address, "/metrics").0.starts_with("http/1.1 200 ")));
            let most = 2 + begin.elapsed().as_millis() / LOOK_FRESH.as_millis();
            assert!(u128::from(asked.load(Ordering::Relaxed)) <= most, "{asked:?} of at most {most}");
        },
    );
}

#[test]
fn whoever_breaks_the_rules_is_sent_away_and_others_are_served() {
    with_web(
        || Some(look()),
        |address, _| {
            // More of those who say nothing than there are places; they are sent away in time.
            let silent: Vec<TcpStream> = (0..CONNECTIONS_MAX + 4).map(|_| connect(address)).collect();
            assert!(get(address, "/healthz").0.starts_with("http/1.1 200 "));
            for mut stream in silent {
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).unwrap();
            }
            // A header without end.
            let mut stream = connect(address);
            let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(4 * HEADER_LEN_MAX));
            // It may be cut off in the middle.
            let _ = stream.write_all(long.as_bytes());
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(
                answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
                "{}",
                String::from_utf8_lossy(&answer)
            );
            // No HTTP at all.
            let (header, _) = ask(address, "rudel, are you there?\r\n\r\n");
            assert!(header.starts_with("http/1.1 400 "), "{header}");
            assert!(get(address, "/healthz").0.starts_with("http/1.1 200 "));
        },
    );
}

#[test]
fn an_address_in_use_is_told_with_a_remedy() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    let first = Web::open("127.0.0.1:0".parse().unwrap(), "n1").unwrap();
    let error = Web::open(first.address().unwrap(), "n1").unwrap_err().to_string();
    assert!(error.contains("Address already in use") && error.contains("change [node] metrics"), "{error}");
}
