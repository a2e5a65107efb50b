//! Whether a DNS server answers a question for a name's IPv4 address, over UDP.
//!
//! It is good if it says NOERROR: that the name is unknown (NXDOMAIN) to a server that should know it is as bad as no
//! answer. Whether there is an address in the answer does not matter. A query is twenty octets and a name, and of the
//! answer three fields of the header are read (RFC 1035, 4.1): that is written here rather than taken from a library.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rudel_api::config::DnsTarget;
use tokio::net::UdpSocket;

use super::{chance, words};

/// Length of a message's header.
const HEADER_LEN: usize = 12;
/// The longest answer that matters: the header is all that is read.
const ANSWER_LEN_MAX: usize = 512;

pub(super) struct Dns {
    name: String,
    server: SocketAddr,
}

impl Dns {
    pub(super) fn new(target: &DnsTarget) -> Self {
        Dns { name: target.name.clone(), server: target.server }
    }

    pub(super) async fn ask(&self) -> Result<(), String> {
        let server = self.server;
        let failed = |error: std::io::Error| format!("cannot ask {server}: {}", words(&error));
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
        // Connected, so that nobody else's datagrams come in, and "port unreachable" does.
        socket.connect(server).await.map_err(failed)?;
        let id = u16::from_be_bytes([chance(), chance()]);
        socket.send(&query(id, &self.name)).await.map_err(failed)?;
        let mut buffer = [0; ANSWER_LEN_MAX];
        loop {
            let len = socket.recv(&mut buffer).await.map_err(failed)?;
            // What is no answer to this question does not end the wait for one.
            match rcode(id, &buffer[..len]) {
                Some(0) => return Ok(()),
                Some(code) => return Err(format!("DNS {} for {}", rcode_name(code), self.name)),
                None => {}
            }
        }
    }
}

/// A question for the A record of `name`, which the configuration has found to be well-formed.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER_LEN + name.len() + 6);
    packet.extend(id.to_be_bytes());
    // Recursion desired; one question; no records.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        packet.extend(label.as_bytes());
    }
    // The root; type A; class IN.
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// How the question with this id was answered; `None` if this is no answer to it.
fn rcode(id: u16, packet: &[u8]) -> Option<u8> {
    let header: &[u8; HEADER_LEN] = packet.first_chunk()?;
    let is_answer = header[2] & 0x80 != 0;
    (header[..2] == id.to_be_bytes() && is_answer).then_some(header[3] & 0x0f)
}

fn rcode_name(code: u8) -> String {
    match code {
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        code => format!("RCODE {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[test]
    fn a_query_is_as_the_standard_has_it() {
        let mut wanted = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        wanted.extend(b"\x03www\x07example\x03org\x00\x00\x01\x00\x01");
        assert_eq!(query(0x1234, "www.example.org"), wanted);
        assert_eq!(query(0x1234, "www.example.org."), wanted);
        assert_eq!(query(7, ".")[HEADER_LEN..], [0, 0, 1, 0, 1]);
    }

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let mut answer = query(0x1234, "x");
        assert_eq!(rcode(0x1234, &answer), None, "a question");
        answer[2] |= 0x80;
        assert_eq!(rcode(0x1234, &answer), Some(0));
        assert_eq!(rcode(0x1235, &answer), None, "another id");
        answer[3] = 0x85;
        assert_eq!(rcode(0x1234, &answer), Some(5), "recursion available, refused");
        assert!((0..HEADER_LEN).all(|len| rcode(0x1234, &answer[..len]).is_none()), "cut off");
    }

    /// A server that answers one query with each of these.
    async fn asked(answers: impl Fn(Vec<u8>) -> Vec<Vec<u8>>) -> Result<(), String> {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = format!("www.example.org@{}", server.local_addr().unwrap()).parse().unwrap();
        let serve = async {
            let mut buffer = [0; 512];
            let (len, client) = server.recv_from(&mut buffer).await.unwrap();
            for answer in answers(buffer[..len].to_vec()) {
                server.send_to(&answer, client).await.unwrap();
            }
        };
        let dns = Dns::new(&target);
        let both = async { tokio::join!(serve, dns.ask()).1 };
        timeout(Duration::from_millis(300), both).await.unwrap_or(Err("no answer".to_owned()))
    }

    fn answer(mut query: Vec<u8>, rcode: u8) -> Vec<u8> {
        query[2] |= 0x80;
        query[3] = 0x80 | rcode;
        query
    }

    #[tokio::test(flavor = "current_thread")]
    async fn noerror_is_good_and_everything_else_is_not() {
        assert_eq!(asked(|query| vec![answer(query, 0)]).await, Ok(()));
        let bad = |text: &str| Err(text.to_owned());
        assert_eq!(asked(|query| vec![answer(query, 2)]).await, bad("DNS SERVFAIL for www.example.org"));
        assert_eq!(asked(|query| vec![answer(query, 3)]).await, bad("DNS NXDOMAIN for www.example.org"));
        assert_eq!(asked(|query| vec![answer(query, 9)]).await, bad("DNS RCODE 9 for www.example.org"));
        assert_eq!(asked(|query| vec![query]).await, bad("no answer"), "a mirror");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn rubbish_before_the_answer_does_not_matter() {
        let outcome = asked(|query| {
            let mut other = answer(query.clone(), 2);
            other[1] ^= 1;
            vec![b"?".to_vec(), other, answer(query, 0)]
        });
        assert_eq!(outcome.await, Ok(()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_server_is_known_at_once() {
        let server = UdpSocket::bind("[::1]:0").await.unwrap().local_addr().unwrap();
        let dns = Dns::new(&format!(".@{server}").parse().unwrap());
        let error = timeout(Duration::from_secs(5), dns.ask()).await.expect("at once").unwrap_err();
        assert_eq!(error, format!("cannot ask {server}: connection refused"));
    }
}
