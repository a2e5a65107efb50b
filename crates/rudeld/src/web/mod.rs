//! The web server: `/metrics`, `/healthz` and the status page `/`, for whoever reaches the address. It only tells.
//!
//! Whoever it is may be slow, many, or malicious, and shares a thread with the control socket and the health checks. So:
//! - at most [`CONNECTIONS_MAX`] connections, of which [`LIVE_MAX`] may be pages that listen; more wait to be accepted;
//! - one request for each, its header at most [`HEADER_LEN_MAX`] bytes and within [`HEADER_WAIT_MAX`], its answer taken
//!   within [`ANSWER_MAX`], a listening page's within [`STALL_MAX`] of each other;
//! - the pulse thread is asked at most once in [`LOOK_FRESH`], however many want to know.
//!
//! Nothing is read from a request but its method, its path and two headers. No cookie, no CORS, and no answer to who asks
//! for another name than this host's: a page from elsewhere cannot read what is told here, and what is told here loads
//! nothing from elsewhere.

pub mod metrics;
mod names;
mod page;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rudel_api::snapshot::Snapshot;
use rudel_datapath::InterfaceCounters;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::Sleep;

use crate::pulse::Counts;
use names::Names;

/// Connections that are served at once.
const CONNECTIONS_MAX: usize = 32;
/// Of those, pages that listen; the others are left for scrapes and probes.
const LIVE_MAX: usize = 16;
/// Bytes of a request's header.
const HEADER_LEN_MAX: usize = 16 * 1024;
/// How long a request's header may take.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a connection may last that does not listen.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A reader that takes nothing for so long is cut off.
const STALL_MAX: Duration = Duration::from_secs(20);
/// Bytes that the kernel may hold for one reader: one that has gone is found out before much is written for it.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// So old may be what is told.
const LOOK_FRESH: Duration = Duration::from_millis(250);
/// A daemon that does not know how it is after so long does not serve.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// From one word to a listening page to the next.
const LIVE_EVERY: Duration = Duration::from_secs(1);

/// What the daemon knows at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// What `rudel status` shows.
    pub snapshot: Snapshot,
    /// What the pulse thread has counted.
    pub counts: Counts,
    /// What the packet filter has counted, where it could be read.
    pub interfaces: Vec<InterfaceCounters>,
}

/// Asks the daemon for a look; it answers none if it cannot know.
pub type Asker = mpsc::Sender<oneshot::Sender<Option<Look>>>;

/// Why the web server could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics on {address}: {source}; is it in use, or no address of this host? change [node] metrics, or remove it"
)]
pub struct WebError {
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// The open socket.
#[derive(Debug)]
pub struct Web {
    listener: TcpListener,
    names: Names,
}

impl Web {
    /// Begins to listen, for the node of this name. Inside of the runtime.
    ///
    /// # Errors
    /// The address is in use, or is none of this host.
    pub fn open(address: SocketAddr, node: &str) -> Result<Self, WebError> {
        let open = || {
            let domain = socket2::Domain::for_address(address);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)?;
            // A daemon that starts again need not wait for the connections of the former to be forgotten.
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                // [::] is IPv6 alone, as elsewhere in the configuration a family is what it says.
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(128)?;
            TcpListener::from_std(socket.into())
        };
        let host = rustix::system::uname();
        let names = Names::of([node, &host.nodename().to_string_lossy()]);
        open().map(|listener| Web { listener, names }).map_err(|source| WebError { address, source })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever; on a `LocalSet`.
    pub async fn serve(self, asker: Asker) {
        let viewer = Rc::new(Viewer {
            names: self.names,
            asker,
            latest: Mutex::new(None),
            live: Arc::new(Semaphore::new(LIVE_MAX)),
        });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: let others finish first.
                    tracing::debug!(%error, "cannot accept a connection for the status page");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let viewer = viewer.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = serve_connection(stream, viewer).await {
                    tracing::debug!(%error, "a connection to the status page broke off");
                }
                drop(place);
            });
        }
    }
}

async fn serve_connection(stream: TcpStream, viewer: Rc<Viewer>) -> Result<(), Box<dyn std::error::Error>> {
    let socket = socket2::SockRef::from(&stream);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_user_timeout(Some(STALL_MAX))?;
    stream.set_nodelay(true)?;
    let listens = Rc::new(RefCell::new(false));
    let service = hyper::service::service_fn(|request| {
        let (viewer, listens) = (viewer.clone(), listens.clone());
        async move {
            let response = answer(&viewer, &request).await;
            *listens.borrow_mut() = matches!(response.body(), Told::Live { .. });
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT_MAX)
        .max_buf_size(HEADER_LEN_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    tokio::pin!(connection);
    tokio::select! {
        result = &mut connection => return Ok(result?),
        () = tokio::time::sleep(ANSWER_MAX) => {}
    }
    if *listens.borrow() {
        connection.await?;
    }
    Ok(())
}

/// Looks for all who want to see.
struct Viewer {
    names: Names,
    asker: Asker,
    latest: Mutex<Option<(Instant, Arc<Look>)>>,
    live: Arc<Semaphore>,
}

impl Viewer {
    /// What the daemon knows, or why that is not to be had.
    async fn look(&self) -> Result<Arc<Look>, &'static str> {
        // Held over the question: whoever comes meanwhile gets the same answer.
        let mut latest = self.latest.lock().await;
        if let Some((at, look)) = latest.as_ref().filter(|(at, _)| at.elapsed() < LOOK_FRESH) {
            let _ = at;
            return Ok(look.clone());
        }
        let ask = async {
            let (sender, receiver) = oneshot::channel();
            self.asker.send(sender).await.ok()?;
            receiver.await.ok()?
        };
        match tokio::time::timeout(LOOK_MAX, ask).await {
            Ok(Some(look)) => {
                let look = Arc::new(look);
                *latest = Some((Instant::now(), look.clone()));
                Ok(look)
            }
            Ok(None) => Err("the daemon is stopping"),
            Err(_) => Err("the daemon does not answer"),
        }
    }
}

async fn answer(viewer: &Rc<Viewer>, request: &Request<Incoming>) -> Response<Told> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response =
            tell(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this address can only be looked at: GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    // Only what is older than HTTP/1.1, and so no browser, asks for no name.
    let host = request.headers().get(HOST).map_or(Ok(""), HeaderValue::to_str);
    if !host.is_ok_and(|host| viewer.names.mean(host)) {
        let why = "this host is not known by that name: ask for its address, or for its own name\n";
        return tell(StatusCode::MISDIRECTED_REQUEST, TEXT, why);
    }
    match request.uri().path() {
        "/" => {
            let mut response = tell(StatusCode::OK, "text/html; charset=utf-8", page::HTML);
            response.headers_mut().insert(HeaderName::from_static("content-security-policy"), page::policy());
            response
        }
        "/metrics" => match viewer.look().await {
            Ok(look) => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                let text = metrics::render(look);
                match accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
                    true => tell(StatusCode::OK, metrics::OPENMETRICS, text),
                    false => tell(StatusCode::OK, metrics::PLAIN, metrics::plain(&text)),
                }
            }
            Err(why) => tell(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/healthz" => {
            let (status, text) = match viewer.look().await {
                Ok(look) => match why_not_serving(&look.snapshot) {
                    None => (StatusCode::OK, "serving".to_owned()),
                    Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
                },
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why.to_owned()),
            };
            tell(status, TEXT, format!("{text}\n"))
        }
        "/live" => match viewer.live.clone().try_acquire_owned() {
            Ok(place) => {
                let (sender, receiver) = mpsc::channel(1);
                tokio::task::spawn_local(page::feed(viewer.clone(), sender));
                let mut response = tell(StatusCode::OK, "text/event-stream", "");
                *response.body_mut() = Told::Live { receiver, _place: place };
                response
            }
            Err(_) => tell(
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                format!("{LIVE_MAX} pages listen already: close one\n"),
            ),
        },
        _ => tell(StatusCode::NOT_FOUND, TEXT, "there are /, /metrics and /healthz here\n"),
    }
}

/// Why a node passes no packets; none if it does.
fn why_not_serving(snapshot: &Snapshot) -> Option<String> {
    if snapshot.serving {
        return None;
    }
    let (name, state) = (&snapshot.node, snapshot.state);
    let mut why = format!("{name} does not serve: it is {state}");
    if snapshot.lease_ms == 0 {
        why.push_str(", without a lease");
    } else if snapshot.buckets.owned == 0 {
        why.push_str(", and owns no bucket");
    }
    if let Some(reason) = snapshot.me().and_then(|me| me.reason.as_ref()) {
        why.push_str(&format!(" ({reason})"));
    }
    Some(why)
}

fn tell(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Told> {
    let mut response = Response::new(Told::Whole(Some(text.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The body of an answer.
enum Told {
    Whole(Option<Bytes>),
    /// As it comes; it holds a place among those who listen.
    Live {
        receiver: mpsc::Receiver<Bytes>,
        _place: tokio::sync::OwnedSemaphorePermit,
    },
}

impl Body for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.get_mut() {
            Told::Whole(bytes) => bytes.take(),
            Told::Live { receiver, .. } => ready!(receiver.poll_recv(context)),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Told::Whole(bytes) if bytes.as_ref().is_none_or(Bytes::is_empty))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Told::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Told::Live { .. } => SizeHint::default(),
        }
    }
}

/// A stream whose writes fail when the other side takes nothing for [`STALL_MAX`].
struct Patient {
    stream: TcpStream,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Patient { stream, stall: None }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(context, buffer) {
            self.stall = None;
            return Poll::Ready(written);
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_MAX)));
        ready!(stall.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
