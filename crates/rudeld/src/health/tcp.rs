//! Whether a server accepts a connection. Nothing is sent over it.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::words;

pub(super) struct Tcp {
    server: SocketAddr,
}

impl Tcp {
    pub(super) const fn new(server: SocketAddr) -> Self {
        Tcp { server }
    }

    pub(super) async fn ask(&self) -> Result<(), String> {
        connect(self.server).await.map(drop)
    }
}

/// A connection, or why there is none.
pub(super) async fn connect(server: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(server).await.map_err(|error| format!("cannot connect to {server}: {}", words(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_listener_is_good_and_none_is_bad() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            let server = listener.local_addr().unwrap();
            assert_eq!(Tcp::new(server).ask().await, Ok(()));
            drop(listener);
            let error = Tcp::new(server).ask().await.unwrap_err();
            assert_eq!(error, format!("cannot connect to {server}: connection refused"));
        }
    }
}
