//! A router cluster in a lab: what stands behind it, what an administrator has set up on its machines, and traffic
//! through it.
//!
//! ```text
//!            c1 .101   and 10.100.0.0/16, fd75:1::/32 behind it; over a link of MTU 1300 f1: 10.101.0.0/16, fd75:f001::/32
//!    eth0│             10.74.0.0/24, fd74::/64                         outside, shared: .10, ::10
//!   ┌────┴──────────────┐
//!   │ n1 .11  n2 .12 …  │   strict rules on each: only flows that begin inside, nothing unknown
//!   └────┬────────┬─────┘
//!    eth1│    eth2│    10.77.0.0/24, fd77::/64                         DMZ, on request, shared: .1, ::1, fe80::1
//!        │        d1 .101
//!        │             10.76.0.0/24, fd76::/64                         inside, shared: .1, ::1, fe80::1
//!       h1 .101        and 10.176.0.0/16, fd78::/32 behind it: any of these addresses can be a source
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::{self, Namespace};

/// The router's part of a lab's settings.
#[derive(Debug, Clone)]
pub struct Router {
    /// `[nat]`, as the file has it; empty for none.
    pub nat: String,
    /// A third network, behind `eth2`.
    pub dmz: bool,
    /// That one is outside, too: another way out.
    pub second_uplink: bool,
    /// The side of `eth0`; anything but `outside` makes a router that cannot work.
    pub outer_side: String,
    /// What the administrator's rules let in from outside besides, in nft's words.
    pub open: String,
    /// `[sync]`: whether the routers share their connections.
    pub sync: bool,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            nat: String::new(),
            dmz: false,
            second_uplink: false,
            outer_side: "outside".to_owned(),
            open: String::new(),
            sync: false,
        }
    }
}

impl Router {
    pub(crate) fn to_toml(&self, hash: &str, mac: &str) -> String {
        let mut text = String::new();
        let mut inner = |name: &str, side: &str, addresses: &str, networks: &str| {
            write!(
                text,
                "\n[[interface]]\nname = {name:?}\nside = {side:?}\naddresses = [{addresses}]\nmac = {mac:?}\n\
                 hash = {hash:?}\n{networks}"
            )
            .expect("writing to a string cannot fail");
        };
        inner(
            "eth1",
            "inside",
            "\"10.76.0.1/24\", \"fd76::1/64\", \"fe80::1/64\"",
            "networks = [\"10.176.0.0/16\", \"fd78::/32\"]\n",
        );
        if self.dmz {
            // Without an outer side, there must be one all the same.
            let outside = self.second_uplink || self.outer_side != "outside";
            let side = if outside { "outside" } else { "inside" };
            inner("eth2", side, "\"10.77.0.1/24\", \"fd77::1/64\", \"fe80::1/64\"", "");
        }
        if !self.nat.is_empty() {
            text += "\n[nat]\n";
            text += &self.nat;
        }
        if self.sync {
            text += "\n[sync]\nenabled = true\n";
        }
        text
    }

    /// Addresses and routes of a node, beside those of its outer side.
    pub(crate) fn node_lines(&self, last: u8) -> String {
        let mut lines = format!(
            "addr add 10.76.0.{last}/24 dev eth1\naddr add fd76::{last}/64 dev eth1 nodad\nlink set eth1 up\n\
             route add 10.176.0.0/16 via 10.76.0.101\nroute add fd78::/32 via fd76::101\n\
             route add 10.101.0.0/16 via 10.74.0.101\nroute add fd75:f001::/32 via fd74::101\n"
        );
        if self.dmz {
            lines += &format!(
                "addr add 10.77.0.{last}/24 dev eth2\naddr add fd77::{last}/64 dev eth2 nodad\nlink set eth2 up\n"
            );
        }
        lines
    }

    /// What an administrator has on a firewall: strict connection tracking, and nothing that knows of the cluster.
    pub(crate) fn set_up_node(&self, namespace: &Namespace, dir: &Path) -> Result<()> {
        let file = dir.join("firewall.nft");
        fs::write(&file, self.firewall())?;
        netns::run(namespace.command("nft")?.arg("-f").arg(&file))
            .context("loading the administrator's rules")?;
        namespace.sysctl(&[
            ("net.netfilter.nf_conntrack_tcp_loose", "0"),
            // The stricter of this one and an interface's own counts.
            ("net.ipv4.conf.all.rp_filter", if self.second_uplink { "2" } else { "1" }),
        ])?;
        if self.outer_side != "outside" {
            namespace.sysctl(&[("net.ipv4.ip_forward", "1")])?;
        }
        Ok(())
    }

    /// The administrator's rules. The sets see every packet that comes to be forwarded, whatever becomes of it.
    pub fn firewall(&self) -> String {
        let Self { open, .. } = self;
        format!(
            "table inet firewall {{\n\
             set flows4 {{ typeof ip saddr . th sport . ip daddr . th dport . meta l4proto; flags dynamic; size 65535; }}\n\
             set flows6 {{ typeof ip6 saddr . th sport . ip6 daddr . th dport . meta l4proto; flags dynamic; size 65535; }}\n\
             counter invalid {{ }}\n\
             chain forward {{ type filter hook forward priority filter; policy drop;\n\
             meta nfproto ipv4 meta l4proto {{ tcp, udp }} add @flows4 {{ ip saddr . th sport . ip daddr . th dport . meta l4proto }}\n\
             meta nfproto ipv6 meta l4proto {{ tcp, udp }} add @flows6 {{ ip6 saddr . th sport . ip6 daddr . th dport . meta l4proto }}\n\
             ct state invalid counter name invalid drop\n\
             ct state established,related accept\n\
             iifname {{ eth1, eth2 }} meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn ct state new accept\n\
             iifname {{ eth1, eth2 }} meta l4proto != tcp ct state new accept\n\
             {open}\n\
             }}\n\
             chain input {{ type filter hook input priority filter; policy drop;\n\
             iif lo accept\n\
             ct state invalid drop\n\
             ct state established,related accept\n\
             udp dport {{ 7440, 7441 }} accept\n\
             meta l4proto igmp accept\n\
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-router-solicit, mld-listener-query, mld-listener-report }} accept\n\
             icmp type echo-request accept\n\
             icmpv6 type echo-request accept\n\
             tcp dport {{ 80-95, 8080 }} ct state new accept\n\
             udp dport 53 ct state new accept\n\
             }}\n\
             }}\n"
        )
    }
}

/// One of the networks behind a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// Behind `eth1`.
    Inside,
    /// Behind `eth2`.
    Dmz,
}

impl Net {
    pub(crate) const fn bridge(self) -> &'static str {
        match self {
            Net::Inside => "br1",
            Net::Dmz => "br2",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Net::Inside => 76,
            Net::Dmz => 77,
        }
    }
}

/// A machine behind the router. Its default router is the cluster: by its IPv4 address, and by its link-local one.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: Namespace,
    net: Net,
}

impl Host {
    pub(crate) fn set_up(name: &str, namespace: Namespace, net: Net) -> Result<Self> {
        let number = net.number();
        let mut lines = format!(
            "addr add 10.{number}.0.101/24 dev eth0\naddr add fd{number}::101/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 10.{number}.0.1\nroute add default via fe80::1 dev eth0\n"
        );
        if net == Net::Inside {
            lines += "route add local 10.176.0.0/16 dev lo\nroute add local fd78::/32 dev lo\n";
        }
        namespace.sysctl(&[("net.ipv4.conf.all.arp_announce", "2")])?;
        namespace.ip(&lines)?;
        Ok(Self { name: name.to_owned(), namespace, net })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address on the link, of the family of `like`.
    pub fn address(&self, like: IpAddr) -> IpAddr {
        let number = self.net.number();
        match like {
            IpAddr::V4(_) => Ipv4Addr::new(10, number, 0, 101).into(),
            IpAddr::V6(_) => format!("fd{number}::101").parse().expect("a well-formed address"),
        }
    }

    /// One of the many addresses behind an inside host, of the family of `like`.
    pub fn source(&self, like: IpAddr, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match like {
            IpAddr::V4(_) => Ipv4Addr::new(10, 176, high, low).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd78, 0, 0, high.into(), 0, 0, 0, low.into()).into(),
        }
    }
}

/// What a client outside needs: its way to the networks behind the router, and a host beyond a link that is narrow in this
/// direction. That host says of itself that it takes longer segments: who sends to it has to be told.
pub(crate) fn set_up_client(namespace: &Namespace, beyond: &Namespace) -> Result<()> {
    namespace.sysctl(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
    namespace.ip(&format!(
        "route add 10.76.0.0/16 via 10.74.0.10\nroute add 10.176.0.0/16 via 10.74.0.10\n\
         route add 10.77.0.0/16 via 10.74.0.10\n\
         route add fd76::/32 via fd74::10\nroute add fd77::/32 via fd74::10\nroute add fd78::/32 via fd74::10\n\
         link add narrow type veth peer name eth0 netns {}\nlink set narrow mtu 1300 up\n\
         addr add 10.102.0.1/24 dev narrow\naddr add fd75:f002::1/64 dev narrow nodad\n\
         route add 10.101.0.0/16 via 10.102.0.2\nroute add fd75:f001::/32 via fd75:f002::2\n",
        beyond.name()
    ))?;
    beyond.ip("link set eth0 up\naddr add 10.102.0.2/24 dev eth0\naddr add fd75:f002::2/64 dev eth0 nodad\n\
         route add default via 10.102.0.1 mtu 1300 advmss 1460\n\
         route add default via fd75:f002::1 mtu 1300 advmss 1440\n\
         route add local 10.101.0.0/16 dev lo\nroute add local fd75:f001::/32 dev lo\n")
}

/// A flow as one direction of its packets says it: source, destination, protocol.
pub type Direction = (SocketAddr, SocketAddr, u64);

/// Which directions of which flows each node has forwarded, by the administrator's own sets.
pub fn forwarded(nodes: &[crate::Node]) -> Result<BTreeMap<String, BTreeSet<Direction>>> {
    let mut all = BTreeMap::new();
    for node in nodes {
        let mut flows = BTreeSet::new();
        for set in ["flows4", "flows6"] {
            let mut command = node.namespace().command("nft")?;
            let text = netns::output(command.args(["-j", "list", "set", "inet", "firewall", set]))?;
            let json: Value = serde_json::from_str(&text)?;
            for element in
                json.pointer("/nftables/1/set/elem").and_then(Value::as_array).into_iter().flatten()
            {
                let element = element.pointer("/elem/val").unwrap_or(element);
                flows.insert(direction(element).with_context(|| format!("an element of {set}: {element}"))?);
            }
        }
        all.insert(node.name().to_owned(), flows);
    }
    Ok(all)
}

fn direction(element: &Value) -> Option<Direction> {
    let fields = element.pointer("/concat")?.as_array()?;
    let end = |at: usize| {
        let address = fields.get(at)?.as_str()?.parse().ok()?;
        Some(SocketAddr::new(address, u16::try_from(fields.get(at + 1)?.as_u64()?).ok()?))
    };
    let protocol = match fields.get(4)? {
        Value::String(name) => match name.as_str() {
            "tcp" => 6,
            "udp" => 17,
            _ => return None,
        },
        number => number.as_u64()?,
    };
    Some((end(0)?, end(2)?, protocol))
}

/// How many packets the administrator's rules dropped on a node as belonging to no known flow.
pub fn invalid(node: &crate::Node) -> Result<u64> {
    let mut command = node.namespace().command("nft")?;
    let text = netns::output(command.args(["-j", "list", "counter", "inet", "firewall", "invalid"]))?;
    let json: Value = serde_json::from_str(&text)?;
    json.pointer("/nftables/1/counter/packets").and_then(Value::as_u64).context("a counter")
}

/// Serves what a test's clients ask for, in a namespace, until it is dropped: over TCP the pattern in both directions,
/// over UDP each datagram back. It remembers who came.
#[derive(Debug)]
pub struct Servers {
    stop: Arc<AtomicBool>,
    peers: Arc<Mutex<BTreeSet<(u64, SocketAddr)>>>,
    threads: Vec<JoinHandle<()>>,
}

/// How long a server's socket may wait before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Room for what a server may have to leave waiting.
const RECEIVE_BUFFER_BYTES: i32 = 16 << 20;
/// Longer than any transfer of a test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

impl Servers {
    /// Listens on a port of these addresses: UDP answers from the one that was asked.
    pub fn start(namespace: &Namespace, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let peers = Arc::new(Mutex::new(BTreeSet::new()));
        let mut threads = Vec::new();
        for address in addresses {
            let (listener, socket) = namespace.run(|| -> io::Result<_> {
                let at = SocketAddr::new(*address, port);
                let listener = bound(at, Type::STREAM, Protocol::TCP)?;
                listener.listen(1024)?;
                Ok((TcpListener::from(listener), UdpSocket::from(bound(at, Type::DGRAM, Protocol::UDP)?)))
            })??;
            listener.set_nonblocking(true)?;
            socket.set_read_timeout(Some(LOOK))?;
            let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&peers));
            threads.push(std::thread::spawn(move || serve_tcp(&listener, &stopped, &seen)));
            let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&peers));
            threads.push(std::thread::spawn(move || serve_udp(&socket, &stopped, &seen)));
        }
        Ok(Self { stop, peers, threads })
    }

    /// Everybody who came, with the protocol.
    pub fn peers(&self) -> BTreeSet<(u64, SocketAddr)> {
        self.peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bound(at: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if kind == Type::DGRAM {
        // Large datagrams of all clients at once, which count with all the memory that their fragments came in.
        crate::sys::force_receive_buffer(&socket, RECEIVE_BUFFER_BYTES)?;
    }
    socket.bind(&at.into())?;
    Ok(socket)
}

fn note(peers: &Mutex<BTreeSet<(u64, SocketAddr)>>, protocol: u64, peer: SocketAddr) {
    peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert((protocol, peer));
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool, peers: &Mutex<BTreeSet<(u64, SocketAddr)>>) {
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, peer)) => {
                    note(peers, 6, peer);
                    // A client that breaks off has its own story to tell.
                    scope.spawn(move || drop(exchange(stream, true)));
                }
                Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
            }
        }
    });
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool, peers: &Mutex<BTreeSet<(u64, SocketAddr)>>) {
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            note(peers, 17, peer);
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
}

/// Bytes of a transfer, in each direction.
pub const TRANSFER_BYTES: usize = 128 * 1024;

fn pattern(from_server: bool) -> Vec<u8> {
    let salt = usize::from(from_server) * 101;
    (0..TRANSFER_BYTES).map(|at| ((at + salt) % 251) as u8).collect()
}

/// Sends the pattern one way and takes the other's, in pieces, at the same time.
fn exchange(stream: TcpStream, is_server: bool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut sender = stream.try_clone()?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || -> io::Result<()> {
            sender.write_all(&pattern(is_server))?;
            sender.shutdown(std::net::Shutdown::Write)
        });
        let mut received = Vec::with_capacity(TRANSFER_BYTES);
        (&stream).read_to_end(&mut received)?;
        sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        if received == pattern(!is_server) {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} bytes, not those sent", received.len()),
            ))
        }
    })
}

/// One transfer over TCP, both directions at once, each byte compared. Port 0 of the source means any.
pub fn transfer(source: SocketAddr, target: SocketAddr, patience: Duration) -> io::Result<SocketAddr> {
    let socket = bound(source, Type::STREAM, Protocol::TCP)?;
    socket.connect_timeout(&target.into(), patience)?;
    let stream = TcpStream::from(socket);
    let local = stream.local_addr()?;
    exchange(stream, false)?;
    Ok(local)
}

/// Datagrams of so many bytes there and back, one after the other, from one port.
pub fn echo(
    source: SocketAddr,
    target: SocketAddr,
    sizes: &[usize],
    patience: Duration,
) -> io::Result<SocketAddr> {
    let socket = UdpSocket::from(bound(source, Type::DGRAM, Protocol::UDP)?);
    socket.connect(target)?;
    socket.set_read_timeout(Some(patience))?;
    for size in sizes {
        let sent: Vec<u8> = (0..*size).map(|at| (at % 241) as u8).collect();
        socket.send(&sent)?;
        let mut buffer = vec![0; 65536];
        let length = socket.recv(&mut buffer)?;
        if buffer[..length] != sent {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{length} bytes came back of {size}"),
            ));
        }
    }
    socket.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_elements_of_a_set_are_read() {
        let element = serde_json::json!({"concat": ["10.176.0.1", 4000, "10.100.0.1", 9000, "tcp"]});
        let (from, to, protocol) = direction(&element).expect("a direction");
        assert_eq!(
            (from.to_string(), to.to_string(), protocol),
            ("10.176.0.1:4000".into(), "10.100.0.1:9000".into(), 6)
        );
        assert!(direction(&serde_json::json!({"concat": ["10.176.0.1"]})).is_none());
    }
}
