//! The history on disk: what happened outlives the daemon, and the machine's power.
//!
//! One JSON object per line, as `rudel events --json` prints it. Two files of at most [`FILE_LEN_MAX`] bytes: when the
//! one that is written is full, it takes the place of the former one.
//!
//! ```text
//!   history ─► queue ─► thread: append ─► web-n1.events.jsonl          (new)
//!                               full? ─► rename to web-n1.events.old.jsonl
//! ```
//!
//! A thread of its own writes, so that neither the pulse thread nor the runtime ever waits for a disk; what finds the
//! queue full is missing on disk, and says so in the log. Nothing here can keep a daemon from starting or from serving:
//! a file that cannot be read or written costs the history and nothing else.
//!
//! **Sync.** The last events before a power cut are those that somebody will want to read, so the file is synced, but
//! at most once in [`SYNC_EVERY`]: a storm of events shall not wear out a disk. A line that the power cut tore is passed
//! over when it is read, and the next one begins on a line of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rudel_api::event::Event;

/// Bytes of one of the two files: about a thousand events.
pub const FILE_LEN_MAX: u64 = 256 * 1024;
/// Events that may wait for the disk.
const QUEUE_MAX: usize = 256;
/// From one sync to the next.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// What happens within this time is synced together: a takeover is several events.
const TOGETHER: Duration = Duration::from_millis(20);
/// How long the end of the daemon waits for a disk that hangs.
const END_MAX: Duration = Duration::from_secs(2);

/// Writes the history to disk.
#[derive(Debug)]
pub struct EventLog {
    /// None once it is to end, or if there is no thread.
    lines: Option<SyncSender<String>>,
    ended: Receiver<()>,
    is_behind: bool,
}

impl EventLog {
    /// Reads what former runs have written to `path` and its predecessor, oldest first, and begins to write.
    ///
    /// What cannot be read is passed over, with a warning.
    pub fn open(path: &Path) -> (Self, Vec<Event>) {
        let mut past = Vec::new();
        for path in [&predecessor(path), path] {
            match read(path) {
                Ok((events, damaged)) => {
                    past.extend(events);
                    if damaged > 0 {
                        tracing::warn!(path = %path.display(), damaged, "passed over lines of the history that are no events: after a power cut nothing to do, else check the disk");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read the history: it begins anew; remove the file if it is damaged");
                }
            }
        }
        // Whoever follows the history counts on rising numbers.
        let mut last = 0;
        past.retain(|event| {
            let sequence = event.sequence.unwrap_or(0);
            let rises = sequence > last;
            last = last.max(sequence);
            rises
        });

        let (lines, queue) = sync_channel(QUEUE_MAX);
        let (end, ended) = sync_channel(1);
        let mut writer = Writer { path: path.into(), file: None, synced: None, failing: false };
        let thread = std::thread::Builder::new().name("rudel-events".into()).spawn(move || {
            writer.run(&queue);
            // Nobody waits for it if the daemon has lost its patience.
            let _ = end.send(());
        });
        if let Err(error) = &thread {
            tracing::warn!(%error, "the history is not written to disk: there is no thread to be had; raise TasksMax of the unit");
        }
        (EventLog { lines: thread.is_ok().then_some(lines), ended, is_behind: false }, past)
    }

    /// Has an event written. Never waits.
    pub fn write(&mut self, event: &Event) {
        let (Some(lines), Ok(mut line)) = (&self.lines, serde_json::to_string(event)) else {
            return;
        };
        line.push('\n');
        match lines.try_send(line) {
            Ok(()) => self.is_behind = false,
            Err(TrySendError::Full(_)) => {
                if !std::mem::replace(&mut self.is_behind, true) {
                    tracing::warn!(
                        "the disk does not keep up: the history on it has a hole here; check the disk"
                    );
                }
            }
            // The thread ends only with this value.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        if self.lines.take().is_some() && self.ended.recv_timeout(END_MAX).is_err() {
            tracing::warn!("the disk hangs: the last events of the history may not be on it; check the disk");
        }
    }
}

/// The place of the file that is full.
fn predecessor(path: &Path) -> PathBuf {
    path.with_extension("old.jsonl")
}

/// The events of a file, and how many lines are none.
fn read(path: &Path) -> io::Result<(Vec<Event>, usize)> {
    // Not waiting for somebody to write, should it be a pipe.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = Vec::new();
    let begin = metadata.len().saturating_sub(2 * FILE_LEN_MAX);
    file.seek(SeekFrom::Start(begin))?;
    file.take(2 * FILE_LEN_MAX).read_to_end(&mut text)?;
    let mut damaged = 0;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events = lines.filter_map(|line| {
        let event = serde_json::from_slice(line);
        damaged += usize::from(event.is_err());
        event.ok()
    });
    Ok((events.collect(), damaged))
}

struct Writer {
    path: PathBuf,
    /// Open, with its length; none until the first event, and after a failure.
    file: Option<(File, u64)>,
    /// When it was synced last.
    synced: Option<Instant>,
    failing: bool,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<String>) {
        // Since when something that was written waits for a sync.
        let mut waits: Option<Instant> = None;
        loop {
            let received = match waits {
                Some(since) => {
                    let due = self.synced.map_or(since, |at| at + SYNC_EVERY).max(since + TOGETHER);
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { queue.recv_timeout(left) }
                }
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(line) => {
                    let written = self.append(line.as_bytes());
                    if written.is_ok() {
                        waits = waits.or_else(|| Some(Instant::now()));
                    }
                    self.tell(written);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.sync();
                    waits = None;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    if waits.is_some() {
                        self.sync();
                    }
                    return;
                }
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let mut open_file = match self.file.take() {
            Some(open_file) => open_file,
            None => open(&self.path)?,
        };
        if open_file.1 > 0 && open_file.1 + line.len() as u64 > FILE_LEN_MAX {
            // What is renamed is not looked at again, but may be all that is left after a power cut.
            open_file.0.sync_data()?;
            fs::rename(&self.path, predecessor(&self.path))?;
            open_file = open(&self.path)?;
        }
        // If a part of it is written, the file stays closed: when it is opened again, the next line gets a line of its own.
        open_file.0.write_all(line)?;
        open_file.1 += line.len() as u64;
        self.file = Some(open_file);
        Ok(())
    }

    fn sync(&mut self) {
        self.synced = Some(Instant::now());
        if let Some((file, _)) = &self.file {
            self.tell(file.sync_data());
        }
    }

    /// Tells of the first failure, and that it is over: a full disk is one fault, not one for each event.
    fn tell(&mut self, result: io::Result<()>) {
        let path = self.path.display();
        match result {
            Err(error) if !self.failing => {
                tracing::warn!(%path, %error, "cannot write the history to disk: it goes on in memory alone; free space there, then run `rudel restart`");
                self.failing = true;
            }
            Ok(()) if self.failing => {
                tracing::info!(%path, "the history is written to disk again");
                self.failing = false;
            }
            _ => {}
        }
    }
}

/// Opens the file for appending, at the begin of a line; gives its length.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut len = file.seek(SeekFrom::End(0))?;
    if len > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != [b'\n'] {
            file.write_all(b"\n")?;
            len += 1;
        }
    }
    Ok((file, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_api::event::EventKind;

    fn event(sequence: u64, reason: &str) -> Event {
        Event {
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            kind: EventKind::Expired,
            node: "n2".into(),
            reason: reason.into(),
            sequence: Some(sequence),
            epoch: None,
        }
    }

    /// Writes these, and ends.
    fn write(path: &Path, events: impl IntoIterator<Item = Event>) {
        let (mut log, _) = EventLog::open(path);
        for event in events {
            // The queue is bounded; the test's disk keeps up as it can.
            while log.lines.is_some() && {
                log.write(&event);
                log.is_behind
            } {
                std::thread::yield_now();
            }
        }
    }

    fn past(path: &Path) -> Vec<Event> {
        EventLog::open(path).1
    }

    fn here() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-n1.events.jsonl");
        (dir, path)
    }

    #[test]
    fn what_happened_outlives_the_daemon() {
        let (_dir, path) = here();
        assert_eq!(past(&path), []);
        write(&path, [event(1, "not heard for 412 ms, nor by n3"), event(2, "again")]);
        write(&path, [event(3, "and again")]);
        let numbers: Vec<_> = past(&path).iter().map(|event| event.sequence.unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(past(&path)[0], event(1, "not heard for 412 ms, nor by n3"));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_torn_line_costs_itself_and_nothing_else() {
        let (_dir, path) = here();
        write(&path, [event(1, "one"), event(2, "two")]);
        let text = fs::read_to_string(&path).unwrap();
        for torn in 1..text.len() {
            fs::write(&path, &text.as_bytes()[..torn]).unwrap();
            write(&path, [event(9, "after the power cut")]);
            let found = past(&path);
            assert_eq!(found.last().unwrap().reason, "after the power cut", "torn at {torn}");
            let first = text.find('\n').unwrap();
            assert_eq!(
                found.len(),
                1 + usize::from(torn >= first) + usize::from(torn >= text.len() - 1),
                "torn at {torn}"
            );
        }
    }

    #[test]
    fn the_files_are_bounded_and_the_newest_events_stay() {
        let (dir, path) = here();
        let reason = "x".repeat(1000);
        let written = 4 * FILE_LEN_MAX / 1000;
        write(&path, (1..=written).map(|sequence| event(sequence, &reason)));
        let sizes: Vec<u64> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= FILE_LEN_MAX), "{sizes:?}");
        let found = past(&path);
        let begin = found[0].sequence.unwrap();
        assert!(found.len() as u64 > FILE_LEN_MAX / 1200 && found.len() as u64 + begin == written + 1);
        assert!(found.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    }

    #[test]
    fn what_is_damaged_never_keeps_a_daemon_from_starting() {
        let (_dir, path) = here();
        fs::write(&path, [&[0xff; 4000][..], b"\n{}\n[1]\n"].concat()).unwrap();
        write(&path, [event(7, "after")]);
        assert_eq!(past(&path), [event(7, "after")]);

        // Numbers that fall would send whoever follows in circles.
        fs::write(&path, "").unwrap();
        write(&path, [event(5, "a"), event(4, "b"), event(6, "c")]);
        assert_eq!(past(&path), [event(5, "a"), event(6, "c")]);

        // Something else in its place, or no place at all.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        write(&path, [event(1, "lost")]);
        assert_eq!(past(&path), []);
        let nowhere = path.join("no/such/directory");
        write(&nowhere, [event(1, "lost")]);
        assert_eq!(past(&nowhere), []);
    }

    #[test]
    fn a_full_disk_is_told_once_and_writing_goes_on_when_there_is_room() {
        let (_dir, path) = here();
        let mut writer = Writer { path: path.clone(), file: None, synced: None, failing: false };
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        writer.file = Some((full, 0));
        let result = writer.append(b"{}\n");
        assert_eq!(result.as_ref().unwrap_err().kind(), io::ErrorKind::StorageFull);
        writer.tell(result);
        assert!(writer.failing && writer.file.is_none());
        let result = writer.append(b"{}\n");
        writer.tell(result);
        assert!(!writer.failing);
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
    }
}
