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
            tracing::error!(path = %self.path.display(), %error, "the recording ends here");
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
}
