//! The cluster key file.
//!
//! A text file: one key per line, 32 bytes in base64 (44 characters, as `rudel key new` writes it) or in hexadecimal
//! (64 digits); blank lines and those that begin with `#` are comments. The first key seals what this node sends; the
//! others only open what is received, so that a key can be rotated node by node:
//!
//! 1. add the new key as the *second* line everywhere, 2. make it the *first* everywhere, 3. remove the old one.
//!
//! The seed of the flow hash is made of the first key, unless a line `seed` and eight hexadecimal digits says otherwise:
//! with it a key can be rotated and no flow moves. While one is, the word `old` before a key says which of two is to go.
//!
//! A file that group or others can read is refused: whoever has a key can join the cluster and take its traffic.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// Where the key file is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/rudel/key";
/// Most keys of a file: two while one is being rotated, and as many again for a rotation gone wrong.
pub const KEYS_MAX: usize = 4;
/// Larger files are no key files.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// A secret of 32 bytes that all nodes of a cluster share. Wiped from memory when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A key from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        ClusterKey(bytes)
    }

    /// A new key of the kernel's random numbers.
    ///
    /// # Errors
    /// The kernel has none to give.
    pub fn generate() -> io::Result<Self> {
        let mut key = ClusterKey([0; 32]);
        getrandom::fill(&mut key.0).map_err(io::Error::other)?;
        Ok(key)
    }

    /// The secret itself.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What tells this key from others without telling anything about it, such as `a1b2:c3d4:e5f6:0718`: the first
    /// eight bytes of SHA-256 over a prefix and the key.
    pub fn fingerprint(&self) -> String {
        let digest =
            Sha256::new().chain_update(b"rudel key fingerprint v1\0").chain_update(self.0).finalize();
        let groups: Vec<String> =
            digest[..8].chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect();
        groups.join(":")
    }

    /// The first half of its fingerprint: what the nodes of a cluster tell each other of their keys.
    pub fn id(&self) -> String {
        rudel_proto::seal::ClusterKey::new(self.0).id().to_string()
    }

    /// A key file with this key alone.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str(
            "# A cluster key of rudel. Whoever has it can join the cluster: the same file on\n\
             # every node, mode 0600, nowhere else.\n",
        );
        BASE64.encode_append(&self.0, &mut text);
        text.push('\n');
        text
    }

    /// Writes a new key file with mode 0600. A file that is there is left alone.
    ///
    /// # Errors
    /// The file exists or cannot be written; a file begun is removed again.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let written = file.write_all(self.to_file_text().as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            // A half-written key is worse than none; the error that matters is the first.
            let _ = std::fs::remove_file(path);
        }
        written
    }

    fn decode(line: &str) -> Result<Self, &'static str> {
        let bytes = match line.len() {
            44 => BASE64.decode(line.as_bytes()),
            64 => HEXLOWER_PERMISSIVE.decode(line.as_bytes()),
            _ => return Err("a key has 44 characters of base64 or 64 hexadecimal digits"),
        };
        let bytes = Zeroizing::new(bytes.map_err(|_| "it has characters that do not belong into a key")?);
        let bytes: Zeroizing<[u8; 32]> =
            Zeroizing::new(bytes.as_slice().try_into().map_err(|_| "it is not 32 bytes long")?);
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err("it is no secret: all its bytes are the same");
        }
        Ok(ClusterKey(*bytes))
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

/// The word that begins the line of the seed.
const SEED_WORD: &str = "seed ";
/// The word that begins the line of a key that is to go.
const OLD_WORD: &str = "old ";

/// The keys of a key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterKeys {
    /// Seals what is sent, and opens.
    pub sealing: ClusterKey,
    /// Only open, while a key is being rotated; at most [`KEYS_MAX`] less one.
    pub accepted: Vec<ClusterKey>,
    /// The seed of the flow hash, if it is not that of the sealing key.
    pub seed: Option<u32>,
    /// The one of them that a rotation is about to replace, if one is under way.
    pub old: Option<ClusterKey>,
}

impl ClusterKeys {
    /// Reads a key file.
    ///
    /// # Errors
    /// See [`KeyErrorKind`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Self::read(path).map_err(|kind| KeyError { path: path.to_owned(), kind })
    }

    fn read(path: &Path) -> Result<Self, KeyErrorKind> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyErrorKind::Missing,
            _ => KeyErrorKind::Unreadable(error),
        })?;
        // Asked of the open file, so that it is this one's mode.
        let metadata = file.metadata().map_err(KeyErrorKind::Unreadable)?;
        if !metadata.is_file() {
            return Err(KeyErrorKind::NotAFile);
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyErrorKind::Exposed { mode });
        }
        if metadata.len() > FILE_LEN_MAX {
            return Err(KeyErrorKind::NotAFile);
        }
        // Room for all of it: a growing buffer would leave pieces of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX as usize + 1));
        (&file).take(FILE_LEN_MAX).read_to_end(&mut bytes).map_err(KeyErrorKind::Unreadable)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| KeyErrorKind::Malformed { line: 1, why: "the file is not text" })?;
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, KeyErrorKind> {
        let mut keys = Vec::new();
        let (mut seed, mut old) = (None, None);
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(digits) = line.strip_prefix(SEED_WORD).map(str::trim) {
                let number = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8);
                let why = "a seed has 8 hexadecimal digits, and there is one";
                let number = number.filter(|_| seed.is_none());
                seed = Some(number.ok_or(KeyErrorKind::Malformed { line: i + 1, why })?);
                continue;
            }
            let (is_old, line) = line.strip_prefix(OLD_WORD).map_or((false, line), |key| (true, key.trim()));
            let key = ClusterKey::decode(line).map_err(|why| KeyErrorKind::Malformed { line: i + 1, why })?;
            if is_old && old.replace(key.clone()).is_some() {
                let why = "one key is old at most";
                return Err(KeyErrorKind::Malformed { line: i + 1, why });
            }
            keys.push(key);
        }
        if keys.len() > KEYS_MAX {
            return Err(KeyErrorKind::TooMany { count: keys.len() });
        }
        let mut keys = keys.into_iter();
        let sealing = keys.next().ok_or(KeyErrorKind::Empty)?;
        Ok(ClusterKeys { sealing, accepted: keys.collect(), seed, old })
    }

    /// The seed of the flow hash, the same on every node.
    pub fn flow_hash_seed(&self) -> u32 {
        let of_key = || rudel_proto::seal::ClusterKey::new(*self.sealing.as_bytes()).flow_hash_seed();
        self.seed.unwrap_or_else(of_key)
    }

    /// Puts a key file with these keys, and the seed in a line of its own, in the place of the one that is there. A reader
    /// sees the one or the other, after a power cut too.
    ///
    /// # Errors
    /// The directory or the file cannot be written; the former file is as it was.
    pub fn replace(&self, path: &Path) -> io::Result<()> {
        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str(
            "# Cluster keys of rudel. Whoever has one can join the cluster: mode 0600, nowhere else than on its nodes.\n\
             # The first one seals, the other is accepted while a key is rotated: `rudel key rotate`.\n",
        );
        text.push_str(&format!("{SEED_WORD}{:08x}\n", self.flow_hash_seed()));
        for key in self.iter() {
            if self.old.as_ref() == Some(key) {
                text.push_str(OLD_WORD);
            }
            BASE64.encode_append(&key.0, &mut text);
            text.push('\n');
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let temporary = path.with_file_name(format!("{name}.new"));
        // What a power cut has left of a former try.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)?;
            let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
        };
        let written = write();
        if written.is_err() {
            // The error that matters is the first.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// All of them, the sealing one first.
    pub fn iter(&self) -> impl Iterator<Item = &ClusterKey> {
        std::iter::once(&self.sealing).chain(&self.accepted)
    }
}

/// A key file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("key file {} {kind}", .path.display())]
pub struct KeyError {
    /// Which file.
    path: PathBuf,
    /// What is wrong with it.
    #[source]
    kind: KeyErrorKind,
}

impl KeyError {
    /// What is wrong with the file.
    pub fn kind(&self) -> &KeyErrorKind {
        &self.kind
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        let path = self.path.display();
        match &self.kind {
            KeyErrorKind::Missing => {
                format!("make one with `rudel key new {path}`, or copy it from another node of the cluster")
            }
            KeyErrorKind::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "read it as root".to_owned()
            }
            KeyErrorKind::Unreadable(_) => {
                "mend the file system, or copy the key from another node".to_owned()
            }
            KeyErrorKind::NotAFile => format!("name the file that `rudel key new {path}` would make"),
            KeyErrorKind::Exposed { .. } => format!(
                "`chmod 600 {path}`; if others may have read it, make a new key with `rudel key new` for all nodes"
            ),
            KeyErrorKind::Empty | KeyErrorKind::Malformed { .. } => format!(
                "copy it again from another node of the cluster, or remove it and make one with `rudel key new {path}`"
            ),
            KeyErrorKind::TooMany { .. } => "remove the keys that no node seals with any more".to_owned(),
        }
    }
}

/// What can be wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyErrorKind {
    /// It is not there.
    #[error("does not exist")]
    Missing,
    /// The system does not let us read it.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is a directory, a device, or much too large.
    #[error("is not a key file")]
    NotAFile,
    /// Group or others may read, write or execute it.
    #[error("is open to others (mode {mode:04o})")]
    Exposed {
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key, only comments at most.
    #[error("holds no key")]
    Empty,
    /// A line is neither a key nor a comment. The line itself is not shown: it may be most of a secret.
    #[error("is malformed in line {line}: {why}")]
    Malformed {
        /// Which, from 1.
        line: usize,
        /// Why.
        why: &'static str,
    },
    /// It holds more keys than a rotation needs.
    #[error("holds {count} keys, at most {KEYS_MAX} are allowed")]
    TooMany {
        /// How many.
        count: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn key(byte: u8) -> ClusterKey {
        let mut bytes = [0; 32];
        bytes[0] = byte;
        bytes[31] = 1;
        ClusterKey::from_bytes(bytes)
    }

    fn base64(key: &ClusterKey) -> String {
        BASE64.encode(key.as_bytes())
    }

    fn load(text: &str, mode: u32) -> Result<ClusterKeys, KeyError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        ClusterKeys::load(&path)
    }

    fn kind(text: &str, mode: u32) -> String {
        load(text, mode).unwrap_err().kind().to_string()
    }

    #[test]
    fn a_written_key_is_read_again_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = ClusterKey::generate().unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            ClusterKeys::load(&path).unwrap(),
            ClusterKeys { sealing: key.clone(), accepted: vec![], seed: None, old: None }
        );
        let before = std::fs::read(&path).unwrap();
        let error = ClusterKey::generate().unwrap().write_new(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn the_first_key_seals_and_the_others_are_accepted() {
        let hex = HEXLOWER_PERMISSIVE.encode(key(3).as_bytes()).to_uppercase();
        let text = format!("# comment\n\n {} \n{}\n{hex}\n", base64(&key(1)), base64(&key(2)));
        let keys = load(&text, 0o600).unwrap();
        assert_eq!(keys.sealing, key(1));
        assert_eq!(keys.accepted, [key(2), key(3)]);
        assert_eq!(keys.iter().count(), 3);
        assert!(load(&text, 0o400).is_ok());
    }

    #[test]
    fn a_replaced_file_has_the_seed_that_it_had_whatever_its_first_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        key(1).write_new(&path).unwrap();
        let before = ClusterKeys::load(&path).unwrap();
        let seed = before.flow_hash_seed();
        assert_ne!(ClusterKeys { sealing: key(2), ..before.clone() }.flow_hash_seed(), seed);
        let both = ClusterKeys { accepted: vec![key(2)], old: Some(key(1)), ..before };
        both.replace(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let read = ClusterKeys::load(&path).unwrap();
        assert_eq!(read, ClusterKeys { seed: Some(seed), ..both });
        let new = ClusterKeys { sealing: key(2), accepted: vec![], old: None, ..read };
        new.replace(&path).unwrap();
        assert_eq!(ClusterKeys::load(&path).unwrap(), new);
        assert_eq!(new.flow_hash_seed(), seed);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(new.replace(&dir.path().join("no/key")).is_err());
    }

    #[test]
    fn a_file_that_others_can_open_is_refused() {
        let text = base64(&key(1));
        for mode in [0o640, 0o604, 0o660, 0o610, 0o602, 0o777] {
            assert_eq!(kind(&text, mode), format!("is open to others (mode {mode:04o})"));
        }
        assert!(load(&text, 0o644).unwrap_err().remedy().starts_with("`chmod 600 "));
    }

    #[test]
    fn every_other_mistake_has_its_own_error() {
        assert_eq!(kind("", 0o600), "holds no key");
        assert_eq!(kind("# only a comment\n", 0o600), "holds no key");
        assert_eq!(
            kind("# x\nsecret\n", 0o600),
            "is malformed in line 2: a key has 44 characters of base64 or 64 hexadecimal digits"
        );
        assert_eq!(
            kind(&base64(&key(1)).replace('A', "!"), 0o600),
            "is malformed in line 1: it has characters that do not belong into a key"
        );
        assert_eq!(
            kind(&"0".repeat(64), 0o600),
            "is malformed in line 1: it is no secret: all its bytes are the same"
        );
        let seed = "is malformed in line 1: a seed has 8 hexadecimal digits, and there is one";
        assert_eq!(kind("seed 1234567\n", 0o600), seed);
        let twice = format!("{}\nseed 01234567\nseed 01234567\n", base64(&key(1)));
        assert_eq!(kind(&twice, 0o600), seed.replace("line 1", "line 3"));
        let text = format!("old {}\nold {}\n", base64(&key(1)), base64(&key(2)));
        assert_eq!(kind(&text, 0o600), "is malformed in line 2: one key is old at most");
        let five: String = (1..=5).map(|n| base64(&key(n)) + "\n").collect();
        assert_eq!(kind(&five, 0o600), "holds 5 keys, at most 4 are allowed");

        let dir = tempfile::tempdir().unwrap();
        let missing = ClusterKeys::load(&dir.path().join("key")).unwrap_err();
        assert!(matches!(missing.kind(), KeyErrorKind::Missing));
        assert!(missing.remedy().starts_with("make one with `rudel key new /"));
        assert!(matches!(ClusterKeys::load(dir.path()).unwrap_err().kind(), KeyErrorKind::NotAFile));
    }

    #[test]
    fn a_key_tells_nothing_but_its_fingerprint() {
        assert_eq!(format!("{:?}", key(7)), "ClusterKey(secret)");
        let fingerprint = key(7).fingerprint();
        assert_eq!(fingerprint.len(), 19);
        assert!(fingerprint.split(':').all(|group| group.len() == 4));
        assert_ne!(fingerprint, key(8).fingerprint());
        let error = load("0123456789", 0o600).unwrap_err();
        assert!(!format!("{error} {} {error:?}", error.remedy()).contains("0123456789"));
    }

    /// Made with `printf 'rudel key fingerprint v1\0' | cat - <(head -c 32 key) | sha256sum`.
    #[test]
    fn fingerprints_never_change() {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
        assert_eq!(ClusterKey::from_bytes(bytes).fingerprint(), "2503:a9f0:aded:5969");
        assert_eq!(ClusterKey::from_bytes(bytes).id(), "2503:a9f0");
    }
}
