//! Network namespaces for tests: made with names that carry the process id, removed whatever happens to the test.

// Each test binary uses another part of this.
#![allow(dead_code, unreachable_pub)]

use std::fmt::Display;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long anything may take to become so. Everything is polled, so only a failure takes that long.
pub const DEADLINE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Says why and returns true if the test cannot run here.
pub fn skipped() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return true;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        println!("SKIPPED: the ip tool is not installed");
        return true;
    }
    false
}

/// A network namespace, until it is dropped.
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new(label: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rudeld-{}-{number}-{label}", std::process::id());
        run("ip", &["netns", "add", &name]);
        Self { name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs something on a thread inside of the namespace. What it starts stays there.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.name);
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip` inside of the namespace; its output.
    pub fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        run("ip", &all)
    }

    pub fn ip_json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.ip(&format!("-d -j {arguments}"))).expect("JSON from ip")
    }

    pub fn read_sysctl(&self, path: &str) -> String {
        self.enter(|| fs::read_to_string(format!("/proc/sys/{path}")).expect(path).trim_end().to_owned())
    }

    pub fn write_sysctl(&self, path: &str, value: &str) {
        self.enter(|| fs::write(format!("/proc/sys/{path}"), value).expect(path));
    }

    /// A file of /proc/net of this namespace. (/proc/net itself shows the main thread's.)
    pub fn proc_net(&self, file: &str) -> String {
        self.enter(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect(file))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Moves the calling thread into a namespace.
pub fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).expect("the namespace's file");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
}

/// Joins two namespaces by a cable. Both ends are up, without IPv6 duplicate detection.
pub fn join(a: &Netns, a_name: &str, b: &Netns, b_name: &str) {
    run(
        "ip",
        &["-n", &a.name, "link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", &b.name],
    );
    for (netns, name) in [(a, a_name), (b, b_name)] {
        netns.write_sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0");
        netns.ip(&format!("link set {name} up"));
    }
}

/// Polls until it is so; says what was the matter last when it never is.
pub fn eventually<T, E: Display>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(difference) if start.elapsed() > DEADLINE => {
                panic!("not within {DEADLINE:?}: {what}; at last {difference}");
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
