//! The file of `--record`: what went into the protocol, line by line.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rudel_proto::record::Record;

/// A recording ends at this size, so that a forgotten one does not fill the disk.
const LEN_MAX: u64 = 1 << 30;

/// A recording that is being written.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    len: u64,
}

impl Recording {
    /// Begins a new file. One that exists is left alone.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path)?;
        Ok(Recording { path: path.into(), file: Some(BufWriter::new(file)), len: 0 })
    }

    /// Begins the recording of a daemon that comes after others: `path` with the first number that is free behind it.
    pub fn go_on(path: &Path) -> io::Result<Self> {
        for number in 2.. {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            match Self::begin(Path::new(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        unreachable!("numbers do not end")
    }

    /// Adds a record. When the disk or the limit refuses, the recording ends and the daemon goes on.
    pub fn write(&mut self, record: &Record) {
        let Some(file) = &mut self.file else {
            return;
        };
        let line = record.to_line();
        self.len += line.len() as u64 + 1;
        let result = if self.len > LEN_MAX {
            Err(io::Error::other(format!("it has reached {LEN_MAX} bytes")))
        } else {
            writeln!(file, "{line}")
        };
        if let Err(error) = result {
            tracing::error!(path = %self.path.display(), %error, "the recording ends here: free space there and start the daemon again to make another");
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_proto::record::Input;

    #[test]
    fn a_recording_is_lines_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.jsonl");
        let mut recording = Recording::begin(&path).unwrap();
        recording.write(&Record { at: 7, input: Input::Timeout });
        drop(recording);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"at\":7,\"input\":\"timeout\"}\n");
        assert_eq!(Recording::begin(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn each_daemon_that_follows_has_a_recording_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.jsonl");
        for name in ["record.jsonl.2", "record.jsonl.3"] {
            Recording::go_on(&path).unwrap().write(&Record { at: 7, input: Input::Timeout });
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }
}
