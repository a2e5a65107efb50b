//! What tests and benchmarks of the packet program share: a place for its state, and packets for it.
//!
//! Everything that is made in the kernel is taken away by a `Drop`, in a panic too.

// Each test is a program of its own, and uses only some of this.
#![allow(dead_code)]

pub(crate) mod border;
pub(crate) mod frames;
pub(crate) mod netns;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rudel_datapath::{
    AttachMode, Border, HashMode, InterfaceOptions, LeaseUntil, Options, Side, ensure_bpffs,
};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
    time::{ClockId, clock_gettime},
};

pub(crate) const CLUSTER_MAC: [u8; 6] = [0x03, 0xbf, 0xc0, 0x00, 0x02, 0x0a];
pub(crate) const OWN_MAC: [u8; 6] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
pub(crate) const CLUSTER_TAG: u32 = 0xc1a5_7e12;
/// Of the vectors in FACTS: hashes that other implementations have confirmed.
pub(crate) const SEED: u32 = 12_345;
pub(crate) const LOOPBACK: u32 = 1;

/// Says why a test that needs privileges does nothing, where a reader of the output sees it.
pub(crate) fn may_use_bpf(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test}: needs root, for BPF, mounts and network namespaces");
        return false;
    }
    true
}

/// Ends the test, loudly, where it cannot be run.
#[macro_export]
macro_rules! require_bpf {
    ($test:expr) => {
        if !$crate::common::may_use_bpf($test) {
            return;
        }
    };
}

/// A BPF file system of this test alone.
pub(crate) struct Bpffs {
    root: PathBuf,
}

impl Bpffs {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("rudel-datapath-{}-{number}", std::process::id()));
        let this = Self { root };
        ensure_bpffs(&this.root).expect("root may mount a BPF file system");
        this
    }

    /// The node's directory in it; made by whom it concerns.
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    pub(crate) fn options(&self) -> Options {
        Options { pin_dir: self.node(), cluster_tag: CLUSTER_TAG }
    }

    /// Names of what is pinned for the node, sorted; empty if its directory is gone.
    pub(crate) fn pins(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.node()) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Another test's child holds what was open here when it was forked, until it is another program.
        let deadline = Instant::now() + Duration::from_secs(10);
        let unmounted = loop {
            match unmount(&self.root, UnmountFlags::empty()) {
                Err(Errno::BUSY) if Instant::now() < deadline => std::thread::yield_now(),
                done => break done,
            }
        };
        let removed = fs::remove_dir(&self.root);
        if !std::thread::panicking() {
            unmounted.expect("unmount the test's BPF file system");
            removed.expect("remove the mount point");
        }
    }
}

/// A filter for packets of the test's own, on the loopback interface's slot.
pub(crate) fn interface(side: Side, hash: HashMode) -> InterfaceOptions {
    InterfaceOptions {
        ifindex: LOOPBACK,
        name: "lo".into(),
        cluster_mac: CLUSTER_MAC,
        own_mac: OWN_MAC,
        side,
        hash,
        seed: SEED,
        border: Border::default(),
        mode: AttachMode::Auto,
        driver: None,
    }
}

/// A lease of this length from now.
pub(crate) fn lease(duration: Duration) -> LeaseUntil {
    LeaseUntil::from_nanos(now_ns() + duration.as_nanos() as u64)
}

pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Waits until something can be observed, and says what it waited for when it never comes.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited ten seconds in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
