//! What a machine's network looks like from outside the daemon: taken before and after, it shows what was left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::netns::{Namespace, output};

/// A set of lines, one for each thing that a daemon might have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Addresses, attached programs, multicast memberships, packet filter rules and per-interface settings of a namespace;
    /// of the machine's own one for `None`.
    pub fn of_namespace(namespace: Option<&Namespace>) -> Result<Self> {
        let mut footprint = Self::default();
        let command = |program: &str| match namespace {
            Some(namespace) => namespace.command(program),
            None => Ok(Command::new(program)),
        };
        for line in output(command("ip")?.args(["-o", "address"]))?.lines() {
            // "1: lo    inet 127.0.0.1/8 scope host lo\       valid_lft forever preferred_lft forever": the part
            // after the backslash counts down where addresses are leased.
            let words: Vec<&str> = line.split('\\').next().unwrap_or(line).split_whitespace().collect();
            footprint.add(format!("address {}", words.get(1..).unwrap_or(&[]).join(" ")));
        }
        let links: serde_json::Value = serde_json::from_str(&output(command("ip")?.args(["-j", "link"]))?)?;
        for link in links.as_array().into_iter().flatten() {
            footprint.add(format!("link {} {} xdp {}", link["ifname"], link["flags"], link["xdp"]));
        }
        for line in output(command("nft")?.args(["list", "ruleset"]))?.lines() {
            footprint.add(format!("nft {line}"));
        }
        match namespace {
            Some(namespace) => namespace.run(|| footprint.add_kernel_files())?,
            None => footprint.add_kernel_files(),
        }
        Ok(footprint)
    }

    /// The machine's own namespace, and the places where a daemon with default paths would leave something.
    pub fn of_machine() -> Result<Self> {
        let mut footprint = Self::of_namespace(None)?;
        for dir in ["/sys/fs/bpf", "/run/rudel", "/var/lib/rudel", "/etc/rudel"] {
            footprint.add_files(Path::new(dir));
        }
        Ok(footprint)
    }

    /// Adds one line.
    pub fn add(&mut self, line: String) {
        self.0.insert(line);
    }

    /// Adds the names of all files below a directory.
    pub fn add_files(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            self.add(format!("file {}", entry.path().display()));
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.add_files(&entry.path());
            }
        }
    }

    /// Must run on a thread inside the namespace: these files show the namespace of who reads them.
    fn add_kernel_files(&mut self) {
        for family in ["ipv4", "ipv6"] {
            let conf = format!("/proc/sys/net/{family}/conf");
            for interface in fs::read_dir(conf).into_iter().flatten().flatten() {
                for setting in fs::read_dir(interface.path()).into_iter().flatten().flatten() {
                    // Some cannot be read (an address secret that was never set); those are not ours either.
                    if let Ok(value) = fs::read_to_string(setting.path()) {
                        self.add(format!("{} = {}", setting.path().display(), value.trim()));
                    }
                }
            }
        }
        // Link-layer memberships, without their counts of users: "3    eth0            1     0     333300000001".
        let memberships = fs::read_to_string("/proc/thread-self/net/dev_mcast").unwrap_or_default();
        for line in memberships.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, interface, .., address] = words[..] {
                self.add(format!("membership {interface} {address}"));
            }
        }
    }

    /// What `later` has more or less than `self`, one line each; empty if nothing has changed.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let gone = self.0.difference(&later.0).map(|line| format!("- {line}"));
        let new = later.0.difference(&self.0).map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_name_both_sides() {
        let (mut before, mut after) = (Footprint::default(), Footprint::default());
        before.add("same".into());
        after.add("same".into());
        before.add("old".into());
        after.add("new".into());
        assert_eq!(before.changes(&after), ["- old", "+ new"]);
        assert!(before.changes(&before.clone()).is_empty());
    }
}
