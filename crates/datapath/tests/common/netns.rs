//! Network namespaces of this test alone.

use std::{
    fs::File,
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace, named after this process, removed with everything in it when dropped.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let this = Self { name: format!("rudel-datapath-{}-{number}", std::process::id()) };
        run(&["ip", "netns", "add", &this.name]);
        this.ip("link set lo up");
        this
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` with these words, in here.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut command = vec!["ip", "-n", &self.name];
        command.extend(words.split_whitespace());
        run(&command)
    }

    /// Runs a closure on a thread that sees this namespace's network, and everything else as before.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Index and MAC address of an interface in here.
    pub(crate) fn interface(&self, name: &str) -> (u32, [u8; 6]) {
        let line = self.ip(&format!("-o link show dev {name}"));
        let ifindex =
            line.split(':').next().and_then(|number| number.parse().ok()).expect("an interface index");
        let mac =
            line.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC address");
        let bytes: Vec<u8> =
            mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
        (ifindex, bytes.try_into().expect("six bytes"))
    }

    /// Does an XDP program hang on this interface, as `ip` sees it?
    pub(crate) fn has_xdp(&self, name: &str) -> bool {
        self.ip(&format!("-o link show dev {name}")).contains("xdp")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !std::thread::panicking() {
            assert!(removed.is_ok_and(|status| status.success()), "remove {}", self.name);
        }
    }
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().expect("the command exists");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", words.join(" "));
    String::from_utf8(output.stdout).expect("text")
}
