//! A connection that is asked by hand: silent until a test wants to know what becomes of its next segment.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use crate::{session, sys};

/// One connection to [`LASTING_PORT`](crate::service::LASTING_PORT).
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    /// Its client's end.
    pub source: SocketAddr,
    /// The node that answered first.
    pub node: String,
}

/// What a question came to.
#[derive(Debug)]
pub struct Reply {
    /// Who answered, or why nobody did.
    pub outcome: io::Result<String>,
    /// How long that took.
    pub took: Duration,
    /// How many segments the client had to send again for it.
    pub sent_again: u32,
}

impl Line {
    /// Connects, and asks once. To be called inside of the client's namespace, as everything else here need not be.
    pub fn open(source: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let mut stream = session::connect(source, target)?;
        let node = session::ask(&mut stream)?;
        Ok(Self { stream, source, node })
    }

    /// Asks once more.
    pub fn ask(&mut self) -> io::Result<Reply> {
        let before = sys::retransmissions(self.stream.as_fd())?;
        let begin = Instant::now();
        let outcome = session::ask(&mut self.stream);
        let took = begin.elapsed();
        let sent_again = sys::retransmissions(self.stream.as_fd())? - before;
        Ok(Reply { outcome, took, sent_again })
    }
}
