//! This machine, as far as anybody may look at it: files below /proc and /etc, and what the programs that every
//! administrator has say. Nothing here changes anything.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why a program said nothing of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotRun {
    /// It is not installed.
    Missing,
    /// It failed, with these words.
    Failed(String),
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRun::Missing => f.write_str("it is not installed"),
            NotRun::Failed(words) => f.write_str(words),
        }
    }
}

/// What can be looked at. The tests have one of files and answers that were kept.
pub(crate) trait System {
    /// A text file, by its absolute path.
    fn read(&self, path: &str) -> io::Result<String>;
    /// The names in a directory; none if it cannot be read.
    fn list(&self, path: &str) -> Vec<String>;
    /// Where a symbolic link leads.
    fn link(&self, path: &str) -> Option<String>;
    /// What a program prints.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, NotRun>;

    /// A setting below /proc/sys, by its path there.
    fn sysctl(&self, path: &str) -> Option<String> {
        self.read(&format!("/proc/sys/{path}")).ok().map(|value| value.trim().to_owned())
    }

    /// Whether the one who asks is root: who is not, does not get to see everything.
    fn is_root(&self) -> bool {
        let status = self.read("/proc/self/status").unwrap_or_default();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
    }
}

/// The machine that this process runs on.
pub(crate) struct Here;

/// Where programs are that a user's PATH may not have.
const MORE_PATH: &str = "/usr/sbin:/sbin";

impl System for Here {
    fn read(&self, path: &str) -> io::Result<String> {
        // What others have written there need not be text.
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn link(&self, path: &str) -> Option<String> {
        std::fs::read_link(Path::new(path)).ok().map(|to| to.to_string_lossy().into_owned())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, NotRun> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", format!("{path}:{MORE_PATH}")).env("LC_ALL", "C");
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                let line = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed");
                Err(NotRun::Failed(line.trim().to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NotRun::Missing),
            Err(error) => Err(NotRun::Failed(error.to_string())),
        }
    }
}

#[cfg(test)]
pub(crate) mod canned {
    //! A machine made of what real ones have said.

    use std::collections::BTreeMap;

    use super::*;

    #[derive(Clone, Debug, Default)]
    pub(crate) struct Canned {
        pub(crate) files: BTreeMap<String, String>,
        pub(crate) links: BTreeMap<String, String>,
        pub(crate) said: BTreeMap<String, Result<String, NotRun>>,
    }

    impl Canned {
        pub(crate) fn file(&mut self, path: &str, text: &str) -> &mut Self {
            self.files.insert(path.to_owned(), text.to_owned());
            self
        }

        pub(crate) fn sysctl_is(&mut self, path: &str, value: &str) -> &mut Self {
            self.file(&format!("/proc/sys/{path}"), &format!("{value}\n"))
        }

        pub(crate) fn says(&mut self, command: &str, output: &str) -> &mut Self {
            self.said.insert(command.to_owned(), Ok(output.to_owned()));
            self
        }

        pub(crate) fn fails(&mut self, command: &str, why: NotRun) -> &mut Self {
            self.said.insert(command.to_owned(), Err(why));
            self
        }

        /// A running program in this machine's network.
        pub(crate) fn process(&mut self, pid: u32, command: &[&str]) -> &mut Self {
            let name = command[0].rsplit('/').next().unwrap_or_default();
            self.file(&format!("/proc/{pid}/comm"), &format!("{name}\n"));
            self.file(&format!("/proc/{pid}/cmdline"), &(command.join("\0") + "\0"));
            let net = self.links["/proc/self/ns/net"].clone();
            self.links.insert(format!("/proc/{pid}/ns/net"), net);
            self
        }
    }

    impl System for Canned {
        fn read(&self, path: &str) -> io::Result<String> {
            self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn list(&self, path: &str) -> Vec<String> {
            let below = |known: &String| {
                let rest = known.strip_prefix(path)?.strip_prefix('/')?;
                rest.split('/').next().map(str::to_owned)
            };
            let mut names: Vec<String> = self.files.keys().filter_map(below).collect();
            names.dedup();
            names
        }

        fn link(&self, path: &str) -> Option<String> {
            self.links.get(path).cloned()
        }

        fn run(&self, program: &str, arguments: &[&str]) -> Result<String, NotRun> {
            let command = [&[program], arguments].concat().join(" ");
            self.said.get(&command).cloned().unwrap_or(Err(NotRun::Missing))
        }
    }
}
