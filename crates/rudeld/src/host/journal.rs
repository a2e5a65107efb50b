//! What the daemon has changed on this host, written down before each change.
//!
//! The file outlives the daemon on purpose: whatever ends it, the next start (or `recover`) reads what was there
//! before, and does not mistake the daemon's own values for the administrator's. It is replaced atomically, so it
//! is whole at any instant; without changes there is no file.
//!
//! It counts only in the boot and the network namespace that it was written in: elsewhere its changes are gone, or out
//! of reach.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sysctl::Sysctl;
use crate::advice::advised;

/// The version of the file's form.
const VERSION: u32 = 1;

/// One change to the host that is to be undone some day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// A kernel setting.
    Sysctl {
        /// Which one.
        path: Sysctl,
        /// Its value before us.
        original: String,
        /// The value we set. Any other that is found at the end is the administrator's, and stays.
        ours: String,
    },
    /// An address on `lo` that was not there before us.
    Address {
        /// Which one.
        address: IpAddr,
    },
    /// A table of nftables, of ours alone.
    Table {
        /// Its name.
        name: String,
    },
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("cannot {action} the host journal {}: {}", path.display(), advised(source))]
    Io {
        /// The journal.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// The file is not a journal, or one of a later version of the daemon.
    #[error(
        "the host journal {} cannot be understood ({reason}): it tells which settings of this host to restore; \
         look at it, restore them by hand and delete it",
        path.display()
    )]
    NotUnderstood {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    boot_id: String,
    /// Device and inode of the network namespace.
    network_namespace: String,
    changes: Vec<Change>,
}

/// Just enough to tell the version of a file of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    content: Content,
}

impl Journal {
    /// Reads the file if there is one. Nothing is written.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |action| move |source| JournalError::Io { path: path.to_owned(), action, source };
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(failed("find this boot's identity for"))?
            .trim_end()
            .to_owned();
        let namespace =
            fs::metadata("/proc/thread-self/ns/net").map_err(failed("find the network namespace for"))?;
        let network_namespace = format!("{}:{}", namespace.dev(), namespace.ino());

        let changes = match fs::read(path) {
            Ok(bytes) => {
                let not_understood =
                    |reason: String| JournalError::NotUnderstood { path: path.to_owned(), reason };
                let versioned: Versioned =
                    serde_json::from_slice(&bytes).map_err(|error| not_understood(error.to_string()))?;
                if versioned.version != VERSION {
                    return Err(not_understood(format!(
                        "it has version {}, this daemon writes version {VERSION}",
                        versioned.version
                    )));
                }
                let found: Content =
                    serde_json::from_slice(&bytes).map_err(|error| not_understood(error.to_string()))?;
                if found.boot_id != boot_id {
                    tracing::info!(journal = %path.display(), "the host journal is from before a reboot: nothing to restore");
                    Vec::new()
                } else if found.network_namespace != network_namespace {
                    tracing::warn!(
                        journal = %path.display(),
                        "the host journal belongs to another network namespace: what it lists cannot be restored from here; remove the file if that namespace is gone"
                    );
                    Vec::new()
                } else {
                    found.changes
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(failed("read")(source)),
        };
        Ok(Self {
            path: path.to_owned(),
            content: Content { version: VERSION, boot_id, network_namespace, changes },
        })
    }

    pub(super) fn changes(&self) -> &[Change] {
        &self.content.changes
    }

    pub(super) fn sysctl(&self, sysctl: &Sysctl) -> Option<&Change> {
        self.changes().iter().find(|change| matches!(change, Change::Sysctl { path, .. } if path == sysctl))
    }

    pub(super) fn address(&self, ip: IpAddr) -> Option<&Change> {
        self.changes().iter().find(|change| matches!(change, Change::Address { address } if *address == ip))
    }

    pub(super) fn table(&self, wanted: &str) -> Option<&Change> {
        self.changes().iter().find(|change| matches!(change, Change::Table { name } if name == wanted))
    }

    /// Writes a change down; it may be made when this has returned.
    pub(super) fn note(&mut self, change: Change) -> Result<(), JournalError> {
        self.content.changes.push(change);
        let saved = self.save();
        if saved.is_err() {
            self.content.changes.pop();
        }
        saved
    }

    /// Strikes a change out, once it is undone. On an error it may stand in the file still: undoing twice does no harm.
    pub(super) fn strike(&mut self, change: &Change) -> Result<(), JournalError> {
        self.content.changes.retain(|noted| noted != change);
        self.save()
    }

    fn save(&self) -> Result<(), JournalError> {
        let failed = |source| JournalError::Io { path: self.path.clone(), action: "write", source };
        if self.content.changes.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let mut bytes = serde_json::to_vec_pretty(&self.content).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        replace(&self.path, &bytes).map_err(failed)
    }
}

/// Puts a file in another's place, so that at any instant, power cuts included, the path shows the whole old content or
/// the whole new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn an_address() -> Change {
        Change::Address { address: "192.0.2.10".parse().unwrap() }
    }

    #[test]
    fn a_change_survives_and_an_empty_journal_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/host.json");
        let mut journal = Journal::open(&path).unwrap();
        assert!(!path.exists());
        journal.note(an_address()).unwrap();
        let change = Change::Sysctl {
            path: Sysctl::ipv4_conf("eth0.5", "arp_ignore").unwrap(),
            original: "0".to_owned(),
            ours: "1".to_owned(),
        };
        journal.note(change.clone()).unwrap();
        let mut again = Journal::open(&path).unwrap();
        assert_eq!(again.changes(), [an_address(), change.clone()]);
        again.strike(&change).unwrap();
        again.strike(&an_address()).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn another_boot_or_namespace_counts_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host.json");
        Journal::open(&path).unwrap().note(an_address()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for (key, value) in [("boot_id", "\"another\""), ("network_namespace", "\"1:2\"")] {
            let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
            json[key] = serde_json::from_str(value).unwrap();
            fs::write(&path, json.to_string()).unwrap();
            assert_eq!(Journal::open(&path).unwrap().changes(), [], "{key}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host.json");
        for text in ["", "{}", "{\"version\":2,\"anything\":[]}", "{\"version\":1}"] {
            fs::write(&path, text).unwrap();
            let error = Journal::open(&path).unwrap_err();
            assert!(matches!(error, JournalError::NotUnderstood { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_written_is_not_noted() {
        let directory = tempfile::tempdir().unwrap();
        // A directory stands where the file would be.
        let path = directory.path().join("host.json");
        let mut journal = Journal::open(&path).unwrap();
        fs::create_dir_all(path.join("in the way")).unwrap();
        assert!(journal.note(an_address()).is_err());
        assert_eq!(journal.changes(), []);
        assert!(!directory.path().join("host.json.new").exists());
    }
}
