//! Whether an HTTP server answers a GET with a status of 200 to 399, and perhaps with a certain text.
//!
//! The status line and a complete head make the verdict; of the body nothing is waited for, unless a text is wanted in
//! it. A redirection is good and
//! is not followed: it is this server's answer that is asked for, and the next one may be another's.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::ops::Range;

use rudel_api::config::{BodyText, HttpTarget};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::body::{BODY_LEN_MAX, Body};
use super::{Blocking, tcp, words};

/// The longest head of an answer that is read, interim answers included.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// Addresses of a name that are tried, in the resolver's order.
const ADDRESSES_MAX: usize = 8;

pub(super) struct Http {
    host: Host,
    request: Vec<u8>,
    wanted: Option<BodyText>,
}

enum Host {
    Address(SocketAddr),
    Name { name: String, port: u16, lookup: Blocking<io::Result<Vec<SocketAddr>>> },
}

impl Http {
    pub(super) fn new(target: &HttpTarget) -> Self {
        let host = match target.host.parse::<IpAddr>() {
            Ok(address) => Host::Address(SocketAddr::new(address, target.port)),
            Err(_) => Host::Name { name: target.host.clone(), port: target.port, lookup: Blocking::new() },
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: rudeld/{} (health check)\r\nAccept: */*\r\n\
             Accept-Encoding: identity\r\nConnection: close\r\n\r\n",
            target.path,
            target.host_header(),
            env!("CARGO_PKG_VERSION"),
        );
        Http { host, request: request.into_bytes(), wanted: target.body.clone() }
    }

    pub(super) async fn ask(&mut self) -> Result<(), String> {
        let mut stream = self.connect().await?;
        let broken = |error: io::Error| format!("the connection broke: {}", words(&error));
        stream.write_all(&self.request).await.map_err(broken)?;
        let mut received = Vec::with_capacity(1024);
        let mut searched = 0;
        let answer = loop {
            // A head ends with a line: what comes byte by byte is not read anew for each of them.
            let has_line = received[searched..].contains(&b'\n');
            searched = received.len();
            match if has_line { read_head(&received)? } else { None } {
                Some(answer) => break answer,
                None if received.len() >= HEAD_LEN_MAX => {
                    return Err(format!("the head of the answer is longer than {HEAD_LEN_MAX} bytes"));
                }
                None => {}
            }
            let room = (HEAD_LEN_MAX - received.len()) as u64;
            if (&mut stream).take(room).read_buf(&mut received).await.map_err(broken)? == 0 {
                return Err(match received.is_empty() {
                    true => "the connection was closed without an answer".to_owned(),
                    false => "the connection was closed within the head of the answer".to_owned(),
                });
            }
        };
        if !(200..=399).contains(&answer.status) {
            return Err(format!("HTTP {}", answer.status));
        }
        let Some(wanted) = &self.wanted else {
            return Ok(());
        };
        let mut body = Body::new(answer.status, &received[answer.head.clone()])?;
        received.drain(..answer.head.end);
        loop {
            body.feed(&received)?;
            if body.contains(wanted.as_str()) {
                return Ok(());
            }
            if body.is_too_long() {
                return Err(format!(
                    "HTTP {}, but not {wanted:?} in the first {BODY_LEN_MAX} bytes",
                    answer.status,
                    wanted = wanted.as_str()
                ));
            }
            received.clear();
            let ended = body.is_complete() || stream.read_buf(&mut received).await.map_err(broken)? == 0;
            if ended && body.may_end() {
                return Err(format!("HTTP {}, but not {:?} in the body", answer.status, wanted.as_str()));
            }
            if ended {
                return Err("the connection was closed within the body of the answer".to_owned());
            }
        }
    }

    async fn connect(&mut self) -> Result<TcpStream, String> {
        let addresses = match &mut self.host {
            Host::Address(address) => return tcp::connect(*address).await,
            Host::Name { name, port, lookup } => {
                let (host, port) = (name.clone(), *port);
                // The resolver of the C library reads files and waits for servers: not on this thread.
                let look =
                    move || (host, port).to_socket_addrs().map(|all| all.take(ADDRESSES_MAX).collect());
                let found: io::Result<Vec<SocketAddr>> = lookup.run(look).await?;
                found.map_err(|error| format!("cannot resolve {name}: {}", words(&error)))?
            }
        };
        let mut last = "the name has no address".to_owned();
        for address in addresses {
            match tcp::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The final answer, as far as its head goes.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Where its head is in what was received.
    head: Range<usize>,
}

/// The final answer, once its head is complete; `None` if more must be read.
fn read_head(received: &[u8]) -> Result<Option<Answer>, String> {
    let mut begin = 0;
    loop {
        let rest = &received[begin..];
        let Some(line_end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = rest[..line_end].trim_ascii_end();
        let status = status_of(line).ok_or_else(|| {
            format!("not an HTTP answer: {:?}", String::from_utf8_lossy(&line[..line.len().min(60)]))
        })?;
        let Some(head_end) = head_end(rest) else {
            return Ok(None);
        };
        match status {
            // Interim answers, such as 103 Early Hints, come before the final one (RFC 9110, 15.2).
            100 | 102..=199 => begin += head_end,
            _ => return Ok(Some(Answer { status, head: begin..begin + head_end })),
        }
    }
}

/// Reads `HTTP/1.1 200 OK`.
fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [version, b' ', status @ ..] = rest else {
        return None;
    };
    let (digits, reason) = status.split_at_checked(3)?;
    if !version.is_ascii_digit()
        || !digits.iter().all(u8::is_ascii_digit)
        || !matches!(reason, [] | [b' ', ..])
    {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| *status >= 100)
}

/// Where the body begins. A line may end without a carriage return (RFC 9112, 2.2).
fn head_end(received: &[u8]) -> Option<usize> {
    let lf = |at: &usize| received[*at] == b'\n';
    (0..received.len()).filter(lf).find_map(|at| match received[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    #[test]
    fn a_status_line_is_read_strictly() {
        for (line, status) in [
            ("HTTP/1.1 200 OK", Some(200)),
            ("HTTP/1.0 404", Some(404)),
            ("HTTP/1.1 503 ", Some(503)),
            ("HTTP/1.1 200OK", None),
            ("HTTP/1.1 20 OK", None),
            ("HTTP/1.1 099 X", None),
            ("HTTP/2 200", None),
            ("HTTP/1.1  200", None),
            ("SSH-2.0-OpenSSH_9.9", None),
            ("", None),
        ] {
            assert_eq!(status_of(line.as_bytes()), status, "{line}");
        }
    }

    #[test]
    fn the_head_must_be_complete_and_interim_answers_are_passed_over() {
        let whole = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No \
                     Content\r\nA: b\r\n\r\nHTTP/1.1 500 not read\r\n\r\n";
        let end = whole.find("HTTP/1.1 500").unwrap();
        let status = |received: &[u8]| read_head(received).map(|answer| answer.map(|answer| answer.status));
        for len in 0..end {
            assert_eq!(status(&whole.as_bytes()[..len]), Ok(None), "{len}");
        }
        let head = read_head(whole.as_bytes()).unwrap().unwrap().head;
        assert_eq!(&whole[head], "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n");
        assert_eq!(status(whole.as_bytes()), Ok(Some(204)));
        assert_eq!(status(b"HTTP/1.0 302 Found\nLocation: /\n\n"), Ok(Some(302)));
        assert_eq!(status(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), Ok(Some(101)));
        // Known before the head is complete.
        assert_eq!(status(b"220 mail ESMTP\r\n"), Err("not an HTTP answer: \"220 mail ESMTP\"".to_owned()));
    }

    /// A server that reads the request of one client, answers so and closes; the outcome, and the request.
    async fn asked(path: &str, answer: &[u8]) -> (Result<(), String>, String) {
        asked_for(path, |_| {}, answer).await
    }

    /// The same with other wishes.
    async fn asked_for(
        path: &str,
        edit: impl FnOnce(&mut HttpTarget),
        answer: &[u8],
    ) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("http://{}{path}", listener.local_addr().unwrap());
        let mut target: HttpTarget = target.parse().unwrap();
        edit(&mut target);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request is incomplete");
            }
            // Whoever asked may know enough before all of it is sent.
            let _ = stream.write_all(answer).await;
            String::from_utf8(request).unwrap()
        };
        let mut http = Http::new(&target);
        let (request, outcome) =
            timeout(Duration::from_secs(10), async { tokio::join!(serve, http.ask()) }).await.unwrap();
        (outcome, request)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_request_is_what_a_server_wants_to_see() {
        let (outcome, request) =
            asked("/healthz?deep=1", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        let mut lines = request.lines();
        assert_eq!(lines.next(), Some("GET /healthz?deep=1 HTTP/1.1"));
        let host = lines.find_map(|line| line.strip_prefix("Host: ")).expect("a Host header");
        assert!(host.starts_with("127.0.0.1:"), "{host}");
        assert!(request.contains("Connection: close\r\n"), "{request}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn statuses_of_200_to_399_are_good() {
        for (status, good) in [
            (200, true),
            (204, true),
            (301, true),
            (399, true),
            (400, false),
            (404, false),
            (500, false),
            (599, false),
        ] {
            let (outcome, _) = asked("/", format!("HTTP/1.1 {status} Whatever\r\n\r\n").as_bytes()).await;
            assert_eq!(outcome, if good { Ok(()) } else { Err(format!("HTTP {status}")) });
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_answer_is_named() {
        let cases: [(&[u8], &str); 4] = [
            (b"", "the connection was closed without an answer"),
            (b"HTTP/1.1 200 OK\r\nServer: x\r\n", "the connection was closed within the head of the answer"),
            (b"SSH-2.0-OpenSSH_9.9\r\n", "not an HTTP answer: \"SSH-2.0-OpenSSH_9.9\""),
            (&[b'x'; 64 * 1024], "the head of the answer is longer than 16384 bytes"),
        ];
        for (answer, error) in cases {
            assert_eq!(asked("/", answer).await.0, Err(error.to_owned()));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_body_is_not_waited_for() {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
        answer.resize(8 * 1024 * 1024, b'x');
        assert_eq!(asked("/", &answer).await.0, Ok(()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_text_is_looked_for_in_the_body() {
        let wants = |target: &mut HttpTarget| target.body = Some("all is well".parse().unwrap());
        let bad = |text: &str| Err(text.to_owned());
        let long = |tail: &str| format!("HTTP/1.1 200 OK\r\n\r\n{}{tail}", "x".repeat(BODY_LEN_MAX - 5));
        let cases: [(&str, Result<(), String>); 8] = [
            ("HTTP/1.1 200 OK\r\n\r\nall is well", Ok(())),
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is well\n", Ok(())),
            ("HTTP/1.1 200 OK\r\n\r\nall is WELL", bad("HTTP 200, but not \"all is well\" in the body")),
            ("HTTP/1.1 204 No Content\r\n\r\n", bad("HTTP 204, but not \"all is well\" in the body")),
            ("HTTP/1.1 503 No\r\n\r\nall is well", bad("HTTP 503")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nall is",
                bad("the connection was closed within the body of the answer"),
            ),
            (&long("all is well"), bad("HTTP 200, but not \"all is well\" in the first 65536 bytes")),
            (&long("")[..60_000], bad("HTTP 200, but not \"all is well\" in the body")),
        ];
        for (answer, outcome) in cases {
            assert_eq!(asked_for("/", wants, answer.as_bytes()).await.0, outcome, "{answer:.60}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_host_header_may_be_another_than_the_host() {
        let edit =
            |target: &mut HttpTarget| target.host_header = Some("www.example.org:8080".parse().unwrap());
        let (outcome, request) = asked_for("/", edit, b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        let hosts: Vec<&str> = request.lines().filter(|line| line.starts_with("Host:")).collect();
        assert_eq!(hosts, ["Host: www.example.org:8080"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn names_are_resolved_and_ipv6_addresses_understood() {
        for (listen, host) in [("127.0.0.1:0", "localhost"), ("[::1]:0", "[::1]")] {
            let listener = TcpListener::bind(listen).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let len = stream.read(&mut request).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                String::from_utf8_lossy(&request[..len]).into_owned()
            };
            let mut http = Http::new(&format!("http://{host}:{port}/").parse().unwrap());
            let both = async { tokio::join!(serve, http.ask()) };
            let (request, outcome) = timeout(Duration::from_secs(10), both).await.unwrap();
            assert_eq!(outcome, Ok(()));
            assert!(request.contains(&format!("\r\nHost: {host}:{port}\r\n")), "{request}");
        }
        let error = Http::new(&"http://nowhere.invalid/".parse().unwrap()).ask().await.unwrap_err();
        assert!(error.starts_with("cannot resolve nowhere.invalid: "), "{error}");
    }
}
