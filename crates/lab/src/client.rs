//! Single requests from a chosen source, over sockets of the calling thread's namespace.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::service::WHOAMI;

/// An answer, and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The node.
    pub node: String,
    /// From the first packet to the last byte.
    pub latency: Duration,
}

pub(crate) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// One HTTP request over a connection of its own. Port 0 of the source means any. `patience` bounds the connection and each
/// read.
pub fn http_get(source: SocketAddr, target: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let start = Instant::now();
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    // A port that was used a moment ago is free again: the server closes first.
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&target.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(HTTP_REQUEST)?;
    let mut response = Vec::new();
    stream.take(HTTP_RESPONSE_MAX).read_to_end(&mut response)?;
    Ok(Answer { node: parse_http(&response)?, latency: start.elapsed() })
}

pub(crate) const HTTP_REQUEST: &[u8] = b"GET /whoami HTTP/1.0\r\nHost: rudel.test\r\n\r\n";
pub(crate) const HTTP_RESPONSE_MAX: u64 = 4096;

/// The node that gave this response.
pub(crate) fn parse_http(response: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(response).map_err(|_| invalid("a response that is no text"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| invalid("a truncated response"))?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or("");
    if status.split(' ').nth(1) != Some("200") {
        return Err(invalid(format!("HTTP answered {status:?}")));
    }
    let header = lines.find_map(|l| l.strip_prefix("X-Rudel-Node: ")).unwrap_or("");
    if header.is_empty() || body.trim_end() != header {
        return Err(invalid(format!("the header names node {header:?}, the body {body:?}")));
    }
    Ok(header.to_owned())
}

/// One DNS query by UDP, sent once. Port 0 of the source means any.
pub fn dns_query(source: SocketAddr, target: SocketAddr, id: u16, patience: Duration) -> io::Result<Answer> {
    let start = Instant::now();
    let socket = UdpSocket::bind(source)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(&dns_request(id))?;
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer)?;
        let (answered, node) = parse_dns(&buffer[..length])?;
        // A late answer to an earlier query from the same port is not this one's.
        if answered == id {
            return Ok(Answer { node, latency: start.elapsed() });
        }
    }
}

/// A query for the TXT record of [`WHOAMI`].
pub(crate) fn dns_request(id: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64);
    packet.extend(id.to_be_bytes());
    // Recursion desired; one question; no records.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in WHOAMI.split('.') {
        packet.push(u8::try_from(label.len()).expect("labels are short"));
        packet.extend(label.as_bytes());
    }
    // The root; type TXT; class IN.
    packet.extend([0, 0, 16, 0, 1]);
    packet
}

/// The id of the query that is answered, and the text of the first TXT record.
pub(crate) fn parse_dns(packet: &[u8]) -> io::Result<(u16, String)> {
    let parse = || -> Option<(u16, u8, &[u8])> {
        let question = dns_request(0).len();
        let id = u16::from_be_bytes(packet.get(..2)?.try_into().ok()?);
        let code = packet.get(3)? & 0x0f;
        // After the question, which the server repeats: a compressed name (2), type, class (4), life (4), length (2),
        // and the text with its own length before it.
        let text = packet.get(question + 12..);
        Some((id, code, text.unwrap_or(&[])))
    };
    let (id, code, text) = parse().ok_or_else(|| invalid("a truncated DNS answer"))?;
    if code != 0 {
        return Err(invalid(format!("DNS answered with code {code}")));
    }
    let node = text.split_first().and_then(|(length, rest)| rest.get(..usize::from(*length)));
    let node = node.and_then(|n| std::str::from_utf8(n).ok()).filter(|n| !n.is_empty());
    Ok((id, node.ok_or_else(|| invalid("a DNS answer without a TXT record"))?.to_owned()))
}

/// Works through `items` with a few threads and returns the results in the order of the items. The threads belong to the
/// namespace of the caller.
pub fn in_parallel<I: Sync, T: Send>(items: &[I], threads: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_names_its_node_twice() {
        let good = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nX-Rudel-Node: n2\r\n\r\nn2\n";
        assert_eq!(parse_http(good).expect("well-formed"), "n2");
        for bad in [
            &b"HTTP/1.1 502 Bad Gateway\r\nX-Rudel-Node: n2\r\n\r\nn2\n"[..],
            b"HTTP/1.1 200 OK\r\nX-Rudel-Node: n1\r\n\r\nn2\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-Rudel-Node: n1\r\n",
            b"",
        ] {
            assert!(parse_http(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_dns_answer_is_read() {
        let mut answer = dns_request(0x1234);
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[7] = 1;
        answer.extend([0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 0, 0, 3, 2, b'n', b'7']);
        assert_eq!(parse_dns(&answer).expect("well-formed"), (0x1234, "n7".to_owned()));
        for length in 0..answer.len() {
            assert!(parse_dns(&answer[..length]).is_err(), "cut to {length}");
        }
        answer[3] = 0x85;
        assert!(parse_dns(&answer).expect_err("refused").to_string().contains("code 5"));
    }

    #[test]
    fn parallel_results_keep_their_order() {
        let items: Vec<u32> = (0..100).collect();
        let doubled: Vec<u32> = items.iter().map(|i| i * 2).collect();
        assert_eq!(in_parallel(&items, 8, |i| i * 2), doubled);
    }
}
