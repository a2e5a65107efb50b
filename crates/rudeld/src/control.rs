//! The control socket: one line in, one line out, as `rudel_api::control` describes it; and lines without end for those
//! who follow the events.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::advice::advised;

use rudel_api::control::{FOLLOW_IDLE, Failure, REQUEST_LEN_MAX, Request, Response};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// A connection that says nothing for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections that are served at once; more wait.
pub const CONNECTIONS_MAX: usize = 32;
/// Of those, connections that follow the events: they last, and must leave room for a drain.
const FOLLOWERS_MAX: usize = 16;
/// A reader that takes nothing for so long is cut off.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody listens there.
    #[error("{} is in use by another program; stop that, or give this node another --socket", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is no socket; remove it, or give this node another --socket", .0.display())]
    NoSocket(PathBuf),
    /// The kernel refused.
    #[error("cannot open the control socket {}: {}", path.display(), advised(source))]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The socket; removed from the file system when dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Opens the socket, for root and its group; one that a crashed predecessor left is replaced.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let io_error = |source| ControlError::Io { path: path.into(), source };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(io_error)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(metadata) => {
                if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) {
                    return Err(ControlError::NoSocket(path.into()));
                }
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(ControlError::InUse(path.into()));
                }
                std::fs::remove_file(path).map_err(io_error)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(error)),
        }
        let listener = UnixListener::bind(path).map_err(io_error)?;
        let control = Control { listener, path: path.into() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io_error)?;
        Ok(control)
    }

    /// The next connection.
    pub async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    // Out of file descriptors, most likely: let others finish first.
                    tracing::warn!(%error, "cannot accept a control connection: `rudel` waits for an answer; raise LimitNOFILE of the unit if it goes on");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Nothing can be done about it, and the next start replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What those who follow the events wait for.
#[derive(Debug)]
pub struct Followers {
    newest: watch::Receiver<u64>,
    places: Semaphore,
}

impl Followers {
    /// Followers of a history whose newest event has this number.
    pub fn new(newest: watch::Receiver<u64>) -> Self {
        Followers { newest, places: Semaphore::new(FOLLOWERS_MAX) }
    }
}

/// Serves one connection until it closes, is idle, or breaks the rules.
pub async fn serve(
    stream: UnixStream,
    followers: &Followers,
    answer: impl AsyncFn(Request) -> Response,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = REQUEST_LEN_MAX as u64;
        let len = match tokio::time::timeout(IDLE_MAX, (&mut read).take(limit).read_until(b'\n', &mut line))
            .await
        {
            Ok(len) => len?,
            Err(_) => return Ok(()),
        };
        if len == 0 {
            return Ok(());
        }
        let response = match std::str::from_utf8(&line).map(Request::from_line) {
            Ok(Ok(Request::Events { after, follow: true })) => match followers.places.try_acquire() {
                Ok(_place) => return follow(read, write, followers.newest.clone(), after, answer).await,
                Err(_) => Response::Error(Failure::new(
                    format!("{FOLLOWERS_MAX} others follow the events already"),
                    "end one of them, or ask without --follow",
                )),
            },
            Ok(Ok(request)) => answer(request).await,
            Ok(Err(failure)) => Response::Error(failure),
            Err(_) => {
                Response::Error(Failure::new("the request is not text", "write one JSON object in one line"))
            }
        };
        send(&mut write, &response).await?;
        if line.last() != Some(&b'\n') {
            // Too long, or cut off: what follows would be read as another request.
            return Ok(());
        }
    }
}

/// Tells the events as they come, until the reader goes or speaks.
async fn follow(
    mut read: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
    mut newest: watch::Receiver<u64>,
    mut after: Option<u64>,
    answer: impl AsyncFn(Request) -> Response,
) -> io::Result<()> {
    loop {
        // Marked as seen before they are fetched: one that comes in between is fetched again next time, as none.
        let seen = *newest.borrow_and_update();
        let response = answer(Request::Events { after, follow: false }).await;
        let Response::Events(events) = &response else {
            return send(&mut write, &response).await;
        };
        after = events.last().and_then(|event| event.sequence).or(after).or(Some(seen));
        send(&mut write, &response).await?;
        let mut byte = [0];
        tokio::select! {
            changed = newest.changed() => if changed.is_err() {
                return Ok(());
            },
            () = tokio::time::sleep(FOLLOW_IDLE) => {}
            _ = read.read(&mut byte) => return Ok(()),
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    match tokio::time::timeout(WRITE_MAX, write.write_all(response.to_line().as_bytes())).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use rudel_api::control::Client;
    use rudel_api::event::EventKind;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Serves a history on a socket while `work` is done with it on another thread.
    fn with_history(work: impl FnOnce(&Path, &dyn Fn(&str)) + Send + 'static) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let control = Control::open(&path).unwrap();
            let history = Rc::new(RefCell::new(History::new("n1")));
            let followers = Rc::new(Followers::new(history.borrow().newest()));
            let (happens, mut happened) = tokio::sync::mpsc::channel::<(String, std::sync::mpsc::Sender<()>)>(1);
            let mut worker = tokio::task::spawn_blocking(move || {
                work(&path, &|reason| {
                    let (done, is_done) = std::sync::mpsc::channel();
                    happens.blocking_send((reason.to_owned(), done)).unwrap();
                    is_done.recv().unwrap();
                });
            });
            loop {
                tokio::select! {
                    Some((reason, done)) = happened.recv() => {
                        history.borrow_mut().push(EventKind::Joined, None, reason);
                        done.send(()).unwrap();
                    }
                    stream = control.accept() => {
                        let (history, followers) = (history.clone(), followers.clone());
                        tokio::task::spawn_local(async move {
                            let answer = async |request| match request {
                                Request::Events { after, .. } => {
                                    let history = history.borrow();
                                    Response::Events(history.events_after(after.unwrap_or(0)).cloned().collect())
                                }
                                _ => Response::Error(Failure::new("no", "none")),
                            };
                            let _ = serve(stream, &followers, answer).await;
                        });
                    }
                    result = &mut worker => break result.unwrap(),
                }
            }
        });
    }

    fn reasons(client: &Client, events: &[Box<serde_json::value::RawValue>]) -> Vec<String> {
        events.iter().map(|raw| client.event(raw).unwrap().reason).collect()
    }

    #[test]
    fn whoever_follows_is_told_of_everything_once_and_in_order() {
        with_history(|path, happen| {
            happen("one");
            let mut client = Client::connect(path, Client::TIMEOUT).unwrap();
            let past = client.follow_json(None).unwrap();
            assert_eq!(reasons(&client, &past), ["one"]);
            let expected: Vec<String> = (0..200).map(|n| format!("event {n}")).collect();
            expected.iter().for_each(|reason| happen(reason));
            let mut told = Vec::new();
            while told.len() < expected.len() {
                let more = client.next_events_json().unwrap();
                told.extend(reasons(&client, &more));
            }
            assert_eq!(told, expected);

            let mut late = Client::connect(path, Client::TIMEOUT).unwrap();
            let past = late.follow_json(Some(199)).unwrap();
            assert_eq!(reasons(&late, &past), ["event 198", "event 199"]);
            let mut once = Client::connect(path, Client::TIMEOUT).unwrap();
            assert_eq!(once.events_json(None).unwrap().len(), 201);
        });
    }

    #[test]
    fn followers_leave_room_for_orders_and_go_when_their_reader_goes() {
        with_history(|path, _| {
            let follow = || {
                let mut client = Client::connect(path, Client::TIMEOUT).unwrap();
                client.follow_json(None).map(|_| client)
            };
            let all: Vec<Client> = (0..FOLLOWERS_MAX).map(|_| follow().unwrap()).collect();
            let refused = follow().unwrap_err();
            assert_eq!(refused.to_string(), "16 others follow the events already");
            let mut other = Client::connect(path, Client::TIMEOUT).unwrap();
            assert_eq!(other.events_json(None).unwrap().len(), 0);
            drop(all);
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            while follow().is_err() {
                assert!(std::time::Instant::now() < deadline, "a follower that has gone keeps its place");
                std::thread::yield_now();
            }
        });
    }
}
