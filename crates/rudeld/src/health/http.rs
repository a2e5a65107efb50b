//! Whether an HTTP server answers a GET with a status of 200 to 399.
//!
//! The status line and a complete head make the verdict; of the body nothing is waited for. A redirection is good and
//! is not followed: it is this server's answer that is asked for, and the next one may be another's.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use rudel_api::config::HttpTarget;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Blocking, tcp, words};

/// The longest head of an answer that is read, interim answers included.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// Addresses of a name that are tried, in the resolver's order.
const ADDRESSES_MAX: usize = 8;

pub(super) struct Http {
    host: Host,
    request: Vec<u8>,
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
             Connection: close\r\n\r\n",
            target.path,
            target.authority(),
            env!("CARGO_PKG_VERSION"),
        );
        Http { host, request: request.into_bytes() }
    }

    pub(super) async fn ask(&mut self) -> Result<(), String> {
        let mut stream = self.connect().await?;
        let broken = |error: io::Error| format!("the connection broke: {}", words(&error));
        stream.write_all(&self.request).await.map_err(broken)?;
        let mut received = Vec::with_capacity(1024);
        loop {
            match status(&received)? {
                Some(200..=399) => return Ok(()),
                Some(status) => return Err(format!("HTTP {status}")),
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

/// The status of the final answer, once its head is complete; `None` if more must be read.
fn status(mut received: &[u8]) -> Result<Option<u16>, String> {
    loop {
        let Some(line_end) = received.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = received[..line_end].trim_ascii_end();
        let status = status_of(line).ok_or_else(|| {
            format!("not an HTTP answer: {:?}", String::from_utf8_lossy(&line[..line.len().min(60)]))
        })?;
        let Some(head_end) = head_end(received) else {
            return Ok(None);
        };
        match status {
            // Interim answers, such as 103 Early Hints, come before the final one (RFC 9110, 15.2).
            100 | 102..=199 => received = &received[head_end..],
            _ => return Ok(Some(status)),
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
        for len in 0..end {
            assert_eq!(status(&whole.as_bytes()[..len]), Ok(None), "{len}");
        }
        assert_eq!(status(whole.as_bytes()), Ok(Some(204)));
        assert_eq!(status(b"HTTP/1.0 302 Found\nLocation: /\n\n"), Ok(Some(302)));
        assert_eq!(status(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), Ok(Some(101)));
        // Known before the head is complete.
        assert_eq!(status(b"220 mail ESMTP\r\n"), Err("not an HTTP answer: \"220 mail ESMTP\"".to_owned()));
    }

    /// A server that reads the request of one client, answers so and closes; the outcome, and the request.
    async fn asked(path: &str, answer: &[u8]) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("http://{}{path}", listener.local_addr().unwrap());
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
        let mut http = Http::new(&target.parse().unwrap());
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
