//! The control socket: one line in, one line out, as `rudel_api::control` describes it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rudel_api::control::{REQUEST_LEN_MAX, Request, Response};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// A connection that says nothing for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections that are served at once; more wait.
pub const CONNECTIONS_MAX: usize = 32;

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
    #[error("cannot open the control socket {}: {source}", path.display())]
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
                    tracing::warn!(%error, "cannot accept a control connection");
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

/// Serves one connection until it closes, is idle, or breaks the rules.
pub async fn serve(stream: UnixStream, answer: impl AsyncFn(Request) -> Response) -> io::Result<()> {
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
            Ok(Ok(request)) => answer(request).await,
            Ok(Err(failure)) => Response::Error(failure),
            Err(_) => Response::Error(rudel_api::control::Failure::new(
                "the request is not text",
                "write one JSON object in one line",
            )),
        };
        write.write_all(response.to_line().as_bytes()).await?;
        if line.last() != Some(&b'\n') {
            // Too long, or cut off: what follows would be read as another request.
            return Ok(());
        }
    }
}
