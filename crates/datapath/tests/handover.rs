//! A bucket on its way from one node to another: who takes which segment, asked of real sockets.
//!
//! ```text
//!   network namespace                          packets (BPF_PROG_TEST_RUN, in that namespace)
//!  ┌──────────────────────────────────┐
//!  │ client ═══ connection ═══ server │ ◄──── a segment of it, of another one, a SYN, a datagram …
//!  └──────────────────────────────────┘
//! ```

mod common;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Bpffs, frames::*, interface, lease, netns::Netns};
use rudel_datapath::{BucketState, BucketTable, Datapath, Filter, HashMode, LeaseUntil, Side, Verdict, Xdp};
use socket2::{Domain, Socket, Type};

const OPEN: u16 = 40_000;
const UNKNOWN: u16 = 40_001;
const SERVER: u16 = 443;

/// A node with one open connection per family, and the packet program beside it.
struct Node {
    netns: Netns,
    xdp: Xdp,
    filter: Filter,
    _bpffs: Bpffs,
    _open: Vec<(TcpListener, TcpStream, TcpStream)>,
}

impl Node {
    fn new() -> Self {
        let netns = Netns::new();
        for address in [IpAddr::from(VIP4), CLIENT4.into()] {
            netns.ip(&format!("addr add {address}/32 dev lo"));
        }
        for address in [IpAddr::from(VIP6), CLIENT6.into()] {
            netns.ip(&format!("addr add {address}/128 dev lo nodad"));
        }
        let open = netns.enter(|| {
            [(IpAddr::from(VIP4), IpAddr::from(CLIENT4)), (VIP6.into(), CLIENT6.into())]
                .map(|(vip, client)| connect(vip, client))
                .into_iter()
                .collect()
        });
        let bpffs = Bpffs::new();
        let mut xdp = Xdp::open(bpffs.options()).expect("open");
        let filter = xdp.load_filter(&interface(Side::Service, HashMode::SourceIpPort)).expect("load");
        xdp.write_lease(lease(Duration::from_secs(3600))).expect("write_lease");
        Self { netns, xdp, filter, _bpffs: bpffs, _open: open }
    }

    fn set_all(&mut self, state: BucketState) {
        self.xdp.write_table(&BucketTable::new([state; 256])).expect("write_table");
    }

    fn run(&self, packet: &[u8]) -> Verdict {
        let count = || self.xdp.counters().expect("counters")[0].verdicts;
        let before = count();
        // The lookup is in the namespace of whoever runs the program.
        self.netns.enter(|| self.filter.run(packet, 1).expect("run"));
        let after = count();
        Verdict::ALL.into_iter().find(|v| after[*v as usize] != before[*v as usize]).expect("a verdict")
    }

    fn check(&mut self, state: BucketState, cases: &[(&str, Vec<u8>, Verdict)]) {
        self.set_all(state);
        for (what, packet, expected) in cases {
            assert_eq!(self.run(packet), *expected, "{state:?}: {what}");
        }
    }
}

fn connect(vip: IpAddr, client: IpAddr) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind((vip, SERVER)).expect("listen");
    let socket = Socket::new(Domain::for_address((client, 0).into()), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((client, OPEN)).into()).expect("bind");
    socket.connect(&SocketAddr::from((vip, SERVER)).into()).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    (listener, server, socket.into())
}

/// A TCP header from the client's port; the connection's numbers do not matter to a look-up.
fn segment(port: u16, flags: u8) -> Vec<u8> {
    let mut header = tcp_syn(port, SERVER);
    header[13] = flags;
    header
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;
const SYN_ACK: u8 = SYN | ACK;

fn v4(payload: &[u8]) -> Vec<u8> {
    ip_frame(&ip(CLIENT4, VIP4, TCP, payload))
}

fn v6(payload: &[u8]) -> Vec<u8> {
    ip_frame(&ip(CLIENT6, VIP6, TCP, payload))
}

/// An ICMP error about a segment of the server's to the client's port.
fn error4(port: u16) -> Vec<u8> {
    ip_frame(&ip(ROUTER4, VIP4, ICMP, &icmp_error(3, &ip(VIP4, CLIENT4, TCP, &tcp_syn(SERVER, port)), 28)))
}

fn error6(port: u16) -> Vec<u8> {
    ip_frame(&ip(ROUTER6, VIP6, ICMPV6, &icmp_error(2, &ip(VIP6, CLIENT6, TCP, &tcp_syn(SERVER, port)), 48)))
}

#[test]
fn the_old_owner_keeps_the_connections_that_it_knows_and_takes_nothing_else() {
    require_bpf!("the_old_owner_keeps_the_connections_that_it_knows_and_takes_nothing_else");
    // Whether its new owner is heard or not.
    for kept in [BucketState::Kept, BucketState::KeptWatched] {
        let mut node = Node::new();
        node.check(
            kept,
            &[
                ("a segment", v4(&segment(OPEN, ACK)), Verdict::Passed),
                ("a reset", v4(&segment(OPEN, RST)), Verdict::Passed),
                ("a segment, v6", v6(&segment(OPEN, ACK)), Verdict::Passed),
                ("too big for a router", error4(OPEN), Verdict::Passed),
                ("too big for a router, v6", error6(OPEN), Verdict::Passed),
                ("a segment of an unknown connection", v4(&segment(UNKNOWN, ACK)), Verdict::Ignored),
                ("a segment of an unknown connection, v6", v6(&segment(UNKNOWN, ACK)), Verdict::Ignored),
                ("an error about an unknown connection", error4(UNKNOWN), Verdict::Ignored),
                ("a new connection", v4(&segment(UNKNOWN, SYN)), Verdict::Ignored),
                ("a new connection from the port of an old one", v4(&segment(OPEN, SYN)), Verdict::Ignored),
                ("a datagram", ip_frame(&ip(CLIENT4, VIP4, UDP, &udp(OPEN, SERVER))), Verdict::Ignored),
                ("an echo", ip_frame(&ip(CLIENT4, VIP4, ICMP, &icmp_echo(8, 7))), Verdict::Ignored),
            ],
        );
        node.xdp.write_lease(LeaseUntil::LAPSED).expect("write_lease");
        node.check(kept, &[("a segment after the lease", v4(&segment(OPEN, ACK)), Verdict::Ignored)]);
    }
}

#[test]
fn the_new_owner_leaves_unknown_connections_to_their_keeper_and_takes_all_else() {
    require_bpf!("the_new_owner_leaves_unknown_connections_to_their_keeper_and_takes_all_else");
    let mut node = Node::new();
    let contested = BucketState::OwnedWhileKept;
    node.check(
        contested,
        &[
            ("a segment of its own", v4(&segment(OPEN, ACK)), Verdict::Passed),
            ("a segment of its own, v6", v6(&segment(OPEN, ACK)), Verdict::Passed),
            ("a segment of the keeper's", v4(&segment(UNKNOWN, ACK)), Verdict::Left),
            ("a segment of the keeper's, v6", v6(&segment(UNKNOWN, ACK)), Verdict::Left),
            ("a reset of the keeper's", v4(&segment(UNKNOWN, RST)), Verdict::Left),
            ("an answer to nobody's question", v4(&segment(UNKNOWN, SYN_ACK)), Verdict::Left),
            ("an error about the keeper's", error4(UNKNOWN), Verdict::Left),
            ("a new connection", v4(&segment(UNKNOWN, SYN)), Verdict::Passed),
            ("a new connection, v6", v6(&segment(UNKNOWN, SYN)), Verdict::Passed),
            ("a datagram", ip_frame(&ip(CLIENT4, VIP4, UDP, &udp(UNKNOWN, SERVER))), Verdict::Passed),
            ("an echo", ip_frame(&ip(CLIENT4, VIP4, ICMP, &icmp_echo(8, 7))), Verdict::Passed),
        ],
    );
    node.xdp.write_lease(LeaseUntil::LAPSED).expect("write_lease");
    node.check(contested, &[("after the lease", v4(&segment(OPEN, ACK)), Verdict::Fenced)]);
}

#[test]
fn without_a_handover_an_unknown_segment_goes_up_so_that_the_kernel_resets_it() {
    require_bpf!("without_a_handover_an_unknown_segment_goes_up_so_that_the_kernel_resets_it");
    let mut node = Node::new();
    node.check(
        BucketState::Owned,
        &[
            ("a segment of an unknown connection", v4(&segment(UNKNOWN, ACK)), Verdict::Passed),
            ("a segment of an unknown connection, v6", v6(&segment(UNKNOWN, ACK)), Verdict::Passed),
        ],
    );
}
