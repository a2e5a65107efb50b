//! The body of an HTTP answer, as far as it is searched for a text (RFC 9112, 6 and 7.1).
//!
//! What comes in is fed piece by piece, so that no piece is looked at twice, however small a server makes them. At most
//! [`BODY_LEN_MAX`] bytes are kept.

/// So much of a body is searched.
pub(super) const BODY_LEN_MAX: usize = 64 * 1024;
/// The longest line that tells a chunk's length, its extensions included.
const CHUNK_LINE_LEN_MAX: usize = 256;

/// A body that is coming in.
pub(super) struct Body {
    framing: Framing,
    text: Vec<u8>,
    /// Where the search goes on.
    searched: usize,
}

/// Where the body ends, and what is expected next.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// With the connection.
    Close,
    /// After so many bytes.
    Length(u64),
    /// The line that tells how long the next chunk is.
    ChunkLine(Vec<u8>),
    /// So many bytes of a chunk, and the end of its line.
    Chunk(u64),
    /// The end of the line behind a chunk.
    ChunkEnd,
    /// Nothing more.
    Ended,
}

impl Body {
    /// The body behind this head, whose lines begin with the status line.
    ///
    /// # Errors
    /// Why it cannot be told where the body ends.
    pub(super) fn new(status: u16, head: &[u8]) -> Result<Self, String> {
        Ok(Body { framing: framing(status, head)?, text: Vec::new(), searched: 0 })
    }

    /// Takes in what has come.
    ///
    /// # Errors
    /// What is no body.
    pub(super) fn feed(&mut self, mut received: &[u8]) -> Result<(), String> {
        while !received.is_empty() {
            match &mut self.framing {
                Framing::Close => {
                    self.text.extend_from_slice(received);
                    return Ok(());
                }
                Framing::Length(left) | Framing::Chunk(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(received.len());
                    *left -= len as u64;
                    self.text.extend_from_slice(&received[..len]);
                    received = &received[len..];
                    if *left == 0 {
                        self.framing = match self.framing {
                            Framing::Length(_) => Framing::Ended,
                            _ => Framing::ChunkEnd,
                        };
                    }
                }
                Framing::ChunkLine(line) => {
                    let byte = received[0];
                    received = &received[1..];
                    if byte != b'\n' {
                        line.push(byte);
                        if line.len() > CHUNK_LINE_LEN_MAX {
                            return Err("the body's chunks are not told apart".to_owned());
                        }
                        continue;
                    }
                    let len = chunk_len(line).ok_or("the body's chunks are not told apart")?;
                    self.framing = if len == 0 { Framing::Ended } else { Framing::Chunk(len) };
                }
                Framing::ChunkEnd => {
                    match received[0] {
                        b'\r' => {}
                        b'\n' => self.framing = Framing::ChunkLine(Vec::new()),
                        _ => return Err("the body's chunks are not told apart".to_owned()),
                    }
                    received = &received[1..];
                }
                // Trailers, or the next answer.
                Framing::Ended => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether what has come so far contains `wanted`. To be asked for the same text each time.
    pub(super) fn contains(&mut self, wanted: &str) -> bool {
        let wanted = wanted.as_bytes();
        self.text.truncate(BODY_LEN_MAX);
        let begin = self.searched.saturating_sub(wanted.len() - 1);
        self.searched = self.text.len();
        self.text[begin..].windows(wanted.len()).any(|window| window == wanted)
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_complete(&self) -> bool {
        self.framing == Framing::Ended || self.is_too_long()
    }

    /// Whether more has come than is searched.
    pub(super) fn is_too_long(&self) -> bool {
        self.text.len() >= BODY_LEN_MAX
    }

    /// Whether the connection may end here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.framing, Framing::Close | Framing::Ended)
    }
}

fn framing(status: u16, head: &[u8]) -> Result<Framing, String> {
    if matches!(status, 101 | 204 | 304) {
        return Ok(Framing::Ended);
    }
    let mut length = None;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Whatever the length may say besides (RFC 9112, 6.3). Only chunks were allowed.
            return match value.eq_ignore_ascii_case(b"chunked") {
                true => Ok(Framing::ChunkLine(Vec::new())),
                false => Err(format!("the body is encoded as {:?}", String::from_utf8_lossy(value))),
            };
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
            let told: Option<u64> = digits.and_then(|digits| digits.parse().ok());
            if told.is_none() || length.is_some_and(|before| Some(before) != told) {
                return Err("the length of the body is not told".to_owned());
            }
            length = told;
        }
    }
    Ok(match length {
        Some(0) => Framing::Ended,
        Some(length) => Framing::Length(length),
        None => Framing::Close,
    })
}

/// Reads `1a;extension`.
fn chunk_len(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let digits = std::str::from_utf8(digits).ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 3\r\n\r\n";

    /// What a body comes to that is fed in pieces of this length: whether it contains "needle", and is complete.
    fn fed(head: &str, body: &[u8], piece: usize) -> Result<(bool, bool), String> {
        let mut whole = Body::new(200, head.as_bytes())?;
        let mut found = false;
        for piece in body.chunks(piece) {
            whole.feed(piece)?;
            found |= whole.contains("needle");
        }
        Ok((found, whole.is_complete()))
    }

    #[test]
    fn a_text_is_found_however_the_body_is_cut_into_pieces_and_chunks() {
        let plain = "HTTP/1.1 200 OK\r\n\r\n";
        let length = "HTTP/1.1 200 OK\r\nContent-Length:  13 \r\n\r\n";
        for piece in 1..20 {
            assert_eq!(fed(plain, b"hay needle hay", piece), Ok((true, false)), "{piece}");
            assert_eq!(fed(length, b"hay needle hay, and more", piece), Ok((true, true)), "{piece}");
            assert_eq!(fed(length, b"hay needl hayneedle", piece), Ok((false, true)), "beyond its length");
            let chunks = b"5\r\nhay n\r\n1;x=y\r\ne\r\n04\nedle\n0\r\n\r\n";
            assert_eq!(fed(CHUNKED, chunks, piece), Ok((true, true)), "{piece}");
        }
    }

    #[test]
    fn what_is_no_body_is_refused() {
        for chunks in ["x\r\n", "\r\n", "-1\r\n", "1\r\nab\r\n", "10000000000000000\r\n", &"1".repeat(300)] {
            assert!(fed(CHUNKED, chunks.as_bytes(), 7).is_err(), "{chunks}");
        }
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            assert!(fed(head, b"needle", 7).is_err(), "{head}");
        }
    }

    #[test]
    fn no_more_is_kept_than_is_searched() {
        let mut body = Body::new(200, b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        for _ in 0..1000 {
            body.feed(&[b'x'; 1000]).unwrap();
            assert!(!body.contains("needle"));
        }
        assert!(body.is_complete() && body.text.len() == BODY_LEN_MAX);
        assert!(Body::new(204, b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().is_complete());
    }
}
