//! The TCP connections that are open on this node, by bucket: while there are any in a bucket that was given up, this
//! node keeps it.
//!
//! Asked of the kernel by sock_diag(7). Listeners belong to nobody's flow, and a connection in TIME-WAIT has ended:
//! neither counts.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use rudel_api::config::{Config, Interface};
use rudel_datapath::Flow;
use rudel_proto::bucket::BUCKET_COUNT;

use crate::host::netlink::messages;
use crate::router;
use crate::snapshot::hash_mode;

const TCP: u8 = 6;

/// One end here, one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// The address and port on this node.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
}

/// All open TCP connections in the calling thread's network namespace.
///
/// # Errors
/// What netlink says.
pub fn all() -> io::Result<Vec<Connection>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(&socket, family, &mut found)?;
    }
    Ok(found)
}

/// How many of `connections` are in each bucket of the cluster's addresses. On a router, connections to addresses of
/// [nat] that the interfaces do not name are not counted: their buckets move without them.
pub fn by_bucket(config: &Config, seed: u32, connections: &[Connection]) -> [u32; BUCKET_COUNT] {
    let mut counts = [0; BUCKET_COUNT];
    let border = router::border(config);
    for connection in connections {
        let interface = config.interfaces.iter().find(|interface| has(interface, connection.local.ip()));
        let Some(interface) = interface else {
            continue;
        };
        // This host talks to itself, as a health check does: such packets never come to the filter.
        if config.interfaces.iter().any(|interface| has(interface, connection.remote.ip())) {
            continue;
        }
        let flow = Flow::with_ports(
            TCP,
            (connection.remote.ip(), connection.remote.port()),
            (connection.local.ip(), connection.local.port()),
        );
        let bucket = border.bucket(&flow, hash_mode(interface.hash), router::side(interface.side), seed);
        counts[usize::from(bucket)] += 1;
    }
    counts
}

fn has(interface: &Interface, address: IpAddr) -> bool {
    interface.addresses.iter().any(|cidr| cidr.address() == address)
}

fn dump(socket: &Socket, family: u8, found: &mut Vec<Connection>) -> io::Result<()> {
    let states = StateFlags::all() & !(StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::TIME_WAIT);
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request =
        InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for part in messages(&datagram) {
            let part = NetlinkMessage::<SockDiagMessage>::deserialize(part?).map_err(io::Error::other)?;
            match part.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let id = &response.header.socket_id;
                    found.push(Connection {
                        local: SocketAddr::new(plain(id.source_address), id.source_port),
                        remote: SocketAddr::new(plain(id.destination_address), id.destination_port),
                    });
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

/// A server that listens on `::` has IPv4 clients as mapped addresses (RFC 4291 2.5.5.2); the packets are IPv4.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_open_connection_is_found_and_a_listener_is_not() {
        for local in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(local).unwrap();
            let port = listener.local_addr().unwrap().port();
            let here = |found: &[Connection]| found.iter().filter(|c| c.local.port() == port).count();
            assert_eq!(here(&all().unwrap()), 0, "{local}");
            let target =
                if local.starts_with('1') || local.starts_with("[::]") { "127.0.0.1" } else { "::1" };
            let client = TcpStream::connect((target, port)).unwrap();
            let (server, _) = listener.accept().unwrap();
            let found = all().unwrap();
            assert_eq!(here(&found), 1, "{local}");
            let connection = found.iter().find(|c| c.local.port() == port).unwrap();
            assert_eq!(connection.remote, client.local_addr().unwrap());
            drop((client, server));
        }
    }

    #[test]
    fn connections_are_counted_by_the_bucket_of_their_flow() {
        let text = "[cluster]\nname = \"web\"\nkey_file = \"/etc/rudel/key\"\n[[interface]]\nname = \"eth0\"\n\
                    addresses = [\"192.0.2.10/24\"]\nhash = \"source-ip\"\n";
        let config = Config::parse(text, "test.toml").unwrap();
        let connection = |remote: &str, local: &str| Connection {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        let counts = by_bucket(
            &config,
            12345,
            &[
                connection("203.0.113.7:1000", "192.0.2.10:80"),
                connection("203.0.113.7:1001", "192.0.2.10:80"),
                // Not an address of the cluster.
                connection("203.0.113.7:1002", "192.0.2.11:22"),
                // This host with itself.
                connection("192.0.2.10:1003", "192.0.2.10:80"),
            ],
        );
        assert_eq!(counts.iter().sum::<u32>(), 2);
        assert_eq!(counts.iter().max(), Some(&2), "one address, one bucket");
    }
}
