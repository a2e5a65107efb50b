//! Connection state between real kernels: what one router forwards, another one carries on.
//!
//! ```text
//!                 ra 10.100.0.11 ┌────┐ 10.88.0.11
//!           ┌────────────────────┤ ra ├────────────────────┐
//!   ┌────┐  │ br0                └────┘                br1 │  ┌────┐
//!   │ cl ├──┤ 10.100.0.0/24                  10.88.0.0/24  ├──┤ sv │
//!   └────┘  │ fd00:100::/64      ┌────┐      fd00:88::/64  │  └────┘
//!     .2    └────────────────────┤ rb ├────────────────────┘    .10
//!                 rb 10.100.0.12 └────┘ 10.88.0.12
//! ```
//!
//! Both routers are strict (`tcp_loose=0`, `ct state invalid drop`, policy drop); `rb` lets through nothing new at all, so what passes
//! it passes by what it was told. Client and server choose the router by their routes.

mod netns;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netns::{DEADLINE, Netns, eventually, join, skipped};
use rudel_api::config::Config;
use rudel_api::snapshot::Sync as Report;
use rudel_proto::bucket::BucketSet;
use rudel_proto::id::{ClusterName, Incarnation, NodeName};
use rudel_proto::seal::{ClusterKey, Keys};
use rudel_proto::time::Time;
use rudeld::clock::monotonic_ns;
use rudeld::heartbeat::Heartbeat;
use rudeld::router::Router;
use rudeld::sync::classify::Forwarded;
use rudeld::sync::conntrack::{Dump, Entry, Heard, Kind, Listener, TCP, Tcp, Tuple, UDP, Write, Writer};
use rudeld::sync::engine::Settings;
use rudeld::sync::thread::{EVENT_BUFFER_BYTES, Parts, Thread, state_group};

/// What both routers know of the addresses around them.
const CONFIG: &str = r#"
[cluster]
name = "fw"
key_file = "/k"
[[interface]]
name = "eth0"
side = "inside"
addresses = ["10.100.0.1/16", "fd00:100::1/64"]
[[interface]]
name = "eth1"
side = "outside"
addresses = ["10.88.0.1/24", "10.88.0.200/24", "fd00:88::1/64"]
[nat]
address = ["10.88.0.100", "fd00:88::100"]
inside = ["10.100.0.0/16", "fd00:100::/64"]
forward = ["tcp 10.88.0.200:8080 to 10.100.0.2:9000"]
"#;

const GROUP: &str = "239.255.74.40:7440";
/// Long enough for a busy machine; usually a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Nat {
    None,
    Source,
}

struct World {
    cl: Netns,
    sv: Netns,
    ra: Netns,
    rb: Netns,
    _sw: Netns,
}

impl World {
    fn new(nat: Nat) -> Self {
        let world = Self {
            cl: Netns::new("cl"),
            sv: Netns::new("sv"),
            ra: Netns::new("ra"),
            rb: Netns::new("rb"),
            _sw: Netns::new("sw"),
        };
        for bridge in ["br0", "br1"] {
            world._sw.ip(&format!("link add {bridge} type bridge mcast_snooping 0"));
            world._sw.ip(&format!("link set {bridge} up"));
        }
        let plug = |netns: &Netns, device: &str, bridge: &str, host: &str| {
            let port = format!("{}-{device}", host.replace(':', ""));
            join(netns, device, &world._sw, &port);
            world._sw.ip(&format!("link set {port} master {bridge}"));
            let net = if bridge == "br0" { "100" } else { "88" };
            netns.ip(&format!("addr add 10.{net}.0.{host}/24 dev {device}"));
            netns.ip(&format!("addr add fd00:{net}::{host}/64 dev {device} nodad"));
        };
        plug(&world.cl, "eth0", "br0", "2");
        plug(&world.sv, "eth0", "br1", "10");
        for (router, host) in [(&world.ra, "11"), (&world.rb, "12")] {
            plug(router, "eth0", "br0", host);
            plug(router, "eth1", "br1", host);
            router.write_sysctl("net/ipv4/ip_forward", "1");
            router.write_sysctl("net/ipv6/conf/all/forwarding", "1");
            router.write_sysctl("net/ipv4/conf/all/send_redirects", "0");
            router.write_sysctl("net/ipv4/conf/eth1/proxy_arp", "0");
            let new = if host == "11" {
                "tcp flags & (syn|ack|rst|fin) == syn ct state new accept\nmeta l4proto { udp, icmp, ipv6-icmp } ct state new accept"
            } else {
                "ip6 nexthdr icmpv6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
            };
            let snat = match nat {
                Nat::None => "",
                Nat::Source => {
                    "oifname eth1 ip saddr 10.100.0.0/24 snat ip to 10.88.0.100\noifname eth1 ip6 saddr fd00:100::/64 snat ip6 to fd00:88::100"
                }
            };
            world.nft(
                router,
                &format!(
                    "table inet strict {{
                       chain forward {{ type filter hook forward priority 0; policy drop;
                         ct state invalid drop
                         ct state established,related accept
                         {new}
                       }}
                     }}
                     table inet nat {{
                       chain post {{ type nat hook postrouting priority 100;
                         {snat}
                       }}
                       chain pre {{ type nat hook prerouting priority -100;
                         iifname eth1 ip daddr 10.88.0.200 tcp dport 8080 dnat ip to 10.100.0.2:9000
                       }}
                     }}"
                ),
            );
            router.write_sysctl("net/netfilter/nf_conntrack_tcp_loose", "0");
            router.write_sysctl("net/netfilter/nf_conntrack_events", "1");
        }
        world.route_by("11");
        world
    }

    fn nft(&self, netns: &Netns, rules: &str) {
        let mut nft = Command::new("ip")
            .args(["netns", "exec", netns.name(), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nft");
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft refuses\n{rules}");
    }

    /// From here on both ends send by this router.
    fn route_by(&self, host: &str) {
        self.cl.ip(&format!("route replace 10.88.0.0/24 via 10.100.0.{host}"));
        self.cl.ip(&format!("route replace fd00:88::/64 via fd00:100::{host}"));
        for destination in ["10.100.0.0/24", "10.88.0.100/32", "10.88.0.200/32"] {
            self.sv.ip(&format!("route replace {destination} via 10.88.0.{host}"));
        }
        for destination in ["fd00:100::/64", "fd00:88::100/128"] {
            self.sv.ip(&format!("route replace {destination} via fd00:88::{host}"));
        }
    }

    fn router(&self, netns: &Netns, name: &str) -> Node {
        self.router_with(netns, name, EVENT_BUFFER_BYTES)
    }

    fn router_with(&self, netns: &Netns, name: &str, event_buffer_bytes: usize) -> Node {
        let config =
            Config::parse(CONFIG, "test.toml").unwrap_or_else(|error| panic!("{}", error.render(false)));
        let host = if name == "ra" { "11" } else { "12" };
        let local = ["10.100.0.", "10.88.0.", "fd00:100::", "fd00:88::"]
            .map(|net| format!("{net}{host}").parse().unwrap());
        let classify = Box::new(Forwarded::new(Router::new(&config).unwrap(), 12345, local));
        let thread = netns.enter(|| {
            let links = vec![Heartbeat::open_bulk("eth0", state_group(GROUP.parse().unwrap())).unwrap()];
            Thread::start(Parts {
                settings: Settings::default(),
                keys: Keys::new(ClusterKey::new([7; 32]), []),
                cluster: ClusterName::new("fw").unwrap(),
                name: NodeName::new(name).unwrap(),
                incarnation: Incarnation(1),
                classify,
                links,
                event_buffer_bytes,
            })
            .expect("the sync thread starts")
        });
        thread.door().lease(Time::from_nanos(u64::MAX));
        Node { thread }
    }

    /// Both routers, of which `ra` owns everything, and which hear each other.
    fn pair(&self) -> (Node, Node) {
        let (a, b) = (self.router(&self.ra, "ra"), self.router(&self.rb, "rb"));
        assert!(a.own(BucketSet::ALL));
        b.wait("it is told everything", |report| report.synced && report.peers.iter().any(|peer| peer.whole));
        (a, b)
    }

    fn client(&self, v6: bool) -> IpAddr {
        if v6 { "fd00:100::2" } else { "10.100.0.2" }.parse().unwrap()
    }

    fn server(&self, v6: bool) -> IpAddr {
        if v6 { "fd00:88::10" } else { "10.88.0.10" }.parse().unwrap()
    }

    /// Moves everything from one router to the other, as planned.
    fn hand_over(&self, from: &Node, to: &Node, host: &str) {
        assert!(from.own(BucketSet::EMPTY));
        assert!(to.own(BucketSet::ALL));
        self.route_by(host);
    }
}

struct Node {
    thread: Thread,
}

impl Node {
    fn own(&self, owned: BucketSet) -> bool {
        self.thread.door().own(owned, PATIENCE)
    }

    fn report(&self) -> Report {
        self.thread.door().report(DEADLINE).expect("the sync thread answers")
    }

    fn wait(&self, what: &str, so: impl Fn(&Report) -> bool) -> Report {
        eventually(what, || {
            let report = self.report();
            if so(&report) { Ok(report) } else { Err(format!("{report:?}")) }
        })
    }
}

fn dump(netns: &Netns) -> Vec<Entry> {
    netns.enter(|| {
        let mut dump = Dump::begin().unwrap();
        let mut entries = Vec::new();
        while dump.read(|message| entries.push(message.entry)).unwrap() {}
        entries
    })
}

fn forwarded(netns: &Netns) -> BTreeSet<(Tuple, Tuple)> {
    let inside = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets()[..2] == [10, 100],
        IpAddr::V6(address) => address.segments()[1] == 0x100,
    };
    dump(netns)
        .into_iter()
        .filter(|entry| {
            // The routers' own multicasts are nobody's to share.
            !entry.orig.dst.is_multicast()
                && inside(entry.orig.src) != inside(entry.orig.dst)
                && matches!(entry.orig.protocol, TCP | UDP)
        })
        .map(|entry| (entry.orig, entry.reply))
        .collect()
}

/// A TCP connection whose server sends back what comes.
struct Echo {
    stream: TcpStream,
    seen_from: SocketAddr,
}

const BLOCK_BYTES: usize = 64 * 1024;

impl Echo {
    fn new(from: &Netns, to: &Netns, listen: SocketAddr, connect: SocketAddr) -> Self {
        let listener = to.enter(|| TcpListener::bind(listen).unwrap());
        let stream = from.enter(|| {
            eventually("a connection", || TcpStream::connect_timeout(&connect, Duration::from_secs(3)))
        });
        let (mut server, seen_from) = listener.accept().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; BLOCK_BYTES];
            while let Ok(length) = server.read(&mut buffer) {
                if length == 0 || server.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream, seen_from }
    }

    /// Blocks there and back; each must come back as it was sent.
    fn exchange(&mut self, rounds: u8) {
        let mut back = vec![0; BLOCK_BYTES];
        for round in 0..rounds {
            let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at as u8).wrapping_mul(31) ^ round).collect();
            let mut writer = self.stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&block).expect("it takes what is written"));
                self.stream.read_exact(&mut back).expect("it comes back");
            });
            assert!(back == block, "it came back changed");
        }
    }
}

/// UDP questions and answers; the answer says by which port the question was seen.
struct Questions {
    client: UdpSocket,
    server: UdpSocket,
}

impl Questions {
    fn new(world: &World, v6: bool, port: u16) -> Self {
        let server = world.sv.enter(|| UdpSocket::bind((world.server(v6), port)).unwrap());
        let client = world.cl.enter(|| UdpSocket::bind((world.client(v6), 0)).unwrap());
        client.connect((world.server(v6), port)).unwrap();
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        }
        Self { client, server }
    }

    /// Asks until there is an answer.
    fn ask(&self) -> SocketAddr {
        let mut buffer = [0; 16];
        eventually("a question arrives, and its answer", || {
            self.client.send(b"?").map_err(|error| error.to_string())?;
            let (_, seen_from) =
                self.server.recv_from(&mut buffer).map_err(|error| format!("question: {error}"))?;
            self.server.send_to(b"!", seen_from).unwrap();
            self.client.recv(&mut buffer).map_err(|error| format!("answer: {error}"))?;
            Ok::<_, String>(seen_from)
        })
    }
}

fn a_flow_goes_on_through_the_other_router(nat: Nat) {
    if skipped() {
        return;
    }
    let world = World::new(nat);
    let (a, b) = world.pair();
    for (v6, crash, port) in [(false, false, 9001), (true, false, 9002), (false, true, 9003)] {
        let to = SocketAddr::new(world.server(v6), port);
        let mut echo = Echo::new(&world.cl, &world.sv, to, to);
        assert_eq!(echo.seen_from.ip() == world.client(v6), nat == Nat::None);
        let questions = Questions::new(&world, v6, port);
        let seen_from = questions.ask();
        echo.exchange(20);
        if crash {
            // Everything older than the delay is there already; nothing is said any more.
            eventually("both connections are there", || {
                let there = forwarded(&world.rb);
                let ports = there.iter().filter(|(orig, _)| orig.dst_port == port).count();
                if ports == 2 { Ok(()) } else { Err(format!("{ports} of 2")) }
            });
            a.thread.door().lease(Time::ZERO);
            assert!(b.own(BucketSet::ALL));
            world.route_by("12");
        } else {
            world.hand_over(&a, &b, "12");
        }
        echo.exchange(40);
        assert_eq!(questions.ask(), seen_from, "UDP keeps its outside port");
        if crash {
            return;
        }
        // And back: the windows have moved on by megabytes.
        world.hand_over(&b, &a, "11");
        echo.exchange(40);
        assert_eq!(questions.ask(), seen_from);
        // And there once more.
        world.hand_over(&a, &b, "12");
        echo.exchange(10);
        world.hand_over(&b, &a, "11");
    }
}

#[test]
fn a_flow_goes_on_through_the_other_router_and_back() {
    a_flow_goes_on_through_the_other_router(Nat::None);
}

#[test]
fn a_translated_flow_goes_on_through_the_other_router_and_back() {
    a_flow_goes_on_through_the_other_router(Nat::Source);
}

#[test]
fn without_being_told_the_other_router_lets_nothing_through() {
    if skipped() {
        return;
    }
    let world = World::new(Nat::Source);
    let to = SocketAddr::new(world.server(false), 9000);
    let mut echo = Echo::new(&world.cl, &world.sv, to, to);
    echo.exchange(2);
    world.route_by("12");
    echo.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let _ = echo.stream.write_all(b"anybody there?");
    assert!(echo.stream.read(&mut [0; 16]).is_err(), "so the other tests prove nothing");
}

#[test]
fn a_service_behind_destination_nat_goes_on_too() {
    if skipped() {
        return;
    }
    let world = World::new(Nat::Source);
    let (a, b) = world.pair();
    let listen = SocketAddr::new(world.client(false), 9000);
    let mut echo = Echo::new(&world.sv, &world.cl, listen, "10.88.0.200:8080".parse().unwrap());
    echo.exchange(10);
    world.hand_over(&a, &b, "12");
    echo.exchange(30);
    world.hand_over(&b, &a, "11");
    echo.exchange(30);
}

#[test]
fn echo_requests_keep_their_identifier() {
    if skipped() {
        return;
    }
    for nat in [Nat::None, Nat::Source] {
        let world = World::new(nat);
        let (a, b) = world.pair();
        for address in ["10.88.0.10", "fd00:88::10"] {
            let mut ping = Command::new("ip")
                .args(["netns", "exec", world.cl.name(), "ping", "-n", "-i", "0.05", "-w", "60", address])
                .stdout(Stdio::piped())
                .spawn()
                .expect("ping");
            let mut output = ping.stdout.take().unwrap();
            let mut answers = |count: usize| {
                let (mut text, mut buffer) = (String::new(), [0; 4096]);
                let begin = Instant::now();
                while text.matches("bytes from").count() < count {
                    let length = output.read(&mut buffer).unwrap();
                    assert!(
                        length > 0 && begin.elapsed() < DEADLINE,
                        "{nat:?} {address}: no answers: {text}"
                    );
                    text.push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
            };
            answers(3);
            world.hand_over(&a, &b, "12");
            // rb passes nothing new: these are of the connection that ra began.
            answers(20);
            world.hand_over(&b, &a, "11");
            answers(20);
            ping.kill().unwrap();
            ping.wait().unwrap();
        }
    }
}

/// Sends from so many ports; nobody answers.
fn many_flows(world: &World, count: u16) {
    world.cl.enter(|| {
        for port in 0..count {
            let socket = UdpSocket::bind((world.client(false), 10_000 + port)).unwrap();
            // The server has no such port: what comes back is an ICMP error.
            let _ = socket.send_to(b"x", (world.server(false), 9));
        }
    });
}

#[test]
fn marks_go_along_and_what_is_of_another_zone_stays_at_home() {
    if skipped() {
        return;
    }
    let world = World::new(Nat::None);
    let (_a, _b) = world.pair();
    world.nft(
        &world.ra,
        "table ip admin {
           chain zones { type filter hook prerouting priority raw; iifname eth0 udp dport 53 ct zone set 7; }
           chain marks { type filter hook prerouting priority mangle; iifname eth0 udp dport 9 ct mark set 0x2a; }
         }",
    );
    // First, so that it would be told before the others.
    world.cl.enter(|| {
        let socket = UdpSocket::bind((world.client(false), 9999)).unwrap();
        socket.send_to(b"x", (world.server(false), 53)).unwrap();
    });
    many_flows(&world, 50);
    let to = |netns: &Netns, port: u16| -> Vec<(u32, u16)> {
        let entries = dump(netns).into_iter().filter(|entry| entry.orig.dst_port == port);
        entries.map(|entry| (entry.mark, entry.zone)).collect()
    };
    eventually("all are told", || match to(&world.rb, 9).len() {
        50 => Ok(()),
        count => Err(format!("{count} of 50")),
    });
    assert!(to(&world.rb, 9).iter().all(|told| *told == (0x2a, 0)), "{:?}", to(&world.rb, 9));
    assert_eq!(to(&world.ra, 53), [(0, 7)]);
    assert_eq!(to(&world.rb, 53), []);
}

#[test]
fn an_overrun_is_counted_and_nothing_is_missing_afterwards() {
    if skipped() {
        return;
    }
    let world = World::new(Nat::Source);
    // Room for two or three events.
    let a = world.router_with(&world.ra, "ra", 4096);
    let b = world.router(&world.rb, "rb");
    assert!(a.own(BucketSet::ALL));
    b.wait("ra is known", |report| report.synced && !report.peers.is_empty());
    many_flows(&world, 3000);
    a.wait("it notices", |report| report.overruns > 0);
    eventually("both tables are alike", || {
        let (there, here) = (forwarded(&world.ra), forwarded(&world.rb));
        if there.len() >= 3000 && there == here {
            Ok(())
        } else {
            Err(format!("{} there, {} here: {:?}", there.len(), here.len(), a.report()))
        }
    });
}

#[test]
fn who_comes_later_is_told_everything_and_who_leaves_takes_it_away() {
    if skipped() {
        return;
    }
    let world = World::new(Nat::Source);
    // None of them ends while this test looks.
    for router in [&world.ra, &world.rb] {
        router.write_sysctl("net/netfilter/nf_conntrack_udp_timeout", "600");
    }
    let a = world.router(&world.ra, "ra");
    assert!(a.own(BucketSet::ALL));
    many_flows(&world, 2000);
    a.wait("it knows its flows", |report| report.flows_own >= 2000);
    let b = world.router(&world.rb, "rb");
    b.wait("it is told", |report| report.synced && report.flows_foreign >= 2000);
    assert_eq!(forwarded(&world.ra), forwarded(&world.rb));
    // Who dies in a panic leaves them to its successor.
    let panicked = std::thread::spawn(move || {
        let _b = b;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(forwarded(&world.ra), forwarded(&world.rb));
    let b = world.router(&world.rb, "rb");
    b.wait("it is told again", |report| report.synced && report.flows_foreign >= 2000);
    drop(b);
    assert_eq!(forwarded(&world.rb).len(), 0);
}

/// A connection as if it had been forwarded, by its number.
fn connection(number: u32) -> Entry {
    let [_, high, middle, low] = number.to_be_bytes();
    let orig = Tuple {
        src: Ipv4Addr::new(10, 100, 128 | high, middle).into(),
        dst: Ipv4Addr::new(10, 88, 0, 10).into(),
        protocol: TCP,
        src_port: 20_000 + u16::from(low),
        dst_port: 443,
    };
    let mut reply = orig.inverse().unwrap();
    reply.dst = Ipv4Addr::new(10, 89, high, middle).into();
    let tcp = Some(Tcp { state: 3, scales: 0x77, flags: [3, 3] });
    Entry { orig, reply, status: 0x0e, timeout_s: 3600, mark: 0, zone: 0, tcp }
}

/// Puts `count` connections into a kernel.
fn put_connections(netns: &Netns, count: u32) {
    netns.enter(|| {
        let writes: Vec<Write> = (0..count).map(|number| Write::Create(connection(number))).collect();
        let mut refused = 0;
        Writer::open().unwrap().write(&writes, |_, _| refused += 1).unwrap();
        assert_eq!(refused, 0);
    });
}

#[test]
fn who_changes_the_table_does_not_hear_of_it() {
    if skipped() {
        return;
    }
    let host = Netns::new("own");
    host.write_sysctl("net/netfilter/nf_conntrack_events", "1");
    host.enter(|| {
        let (mut mine, mut other) = (Writer::open().unwrap(), Writer::open().unwrap());
        let mut listener = Listener::open(1 << 20, mine.port()).unwrap();
        let make = |writer: &mut Writer, write: Write| {
            writer.write(&[write], |write, error| panic!("{write:?}: {error}")).unwrap();
        };
        make(&mut mine, Write::Create(connection(1)));
        make(&mut mine, Write::Delete(connection(1).orig));
        make(&mut other, Write::Create(connection(2)));
        make(&mut mine, Write::Create(connection(3)));
        make(&mut other, Write::Delete(connection(3).orig));
        let mut hear = || {
            eventually("an event", || match listener.hear() {
                Ok(Some(Heard::Event(message))) => Ok((message.kind, message.entry.orig, message.cause)),
                other => Err(format!("{other:?}")),
            })
        };
        assert_eq!(hear(), (Kind::New, connection(2).orig, other.port()));
        assert_eq!(hear(), (Kind::Destroyed, connection(3).orig, other.port()));
    });
}

#[test]
fn a_hundred_thousand_connections_are_transferred_to_a_newcomer() {
    if skipped() {
        return;
    }
    const COUNT: u32 = 100_000;
    let world = World::new(Nat::Source);
    let room: u32 = world.ra.read_sysctl("net/netfilter/nf_conntrack_max").parse().unwrap();
    if room < 2 * COUNT {
        println!("SKIPPED: this kernel has room for {room} connections only");
        return;
    }
    put_connections(&world.ra, COUNT);
    let a = world.router(&world.ra, "ra");
    assert!(a.own(BucketSet::ALL));
    a.wait("it knows its connections", |report| report.flows_own >= u64::from(COUNT));
    let begin = Instant::now();
    let b = world.router(&world.rb, "rb");
    let report = b.wait("it is told", |report| report.synced && report.flows_foreign >= u64::from(COUNT));
    let took = begin.elapsed();
    let owner = a.report();
    println!(
        "{COUNT} connections in {took:?}; processor time {:?} there, {:?} here; {} datagrams",
        Duration::from_nanos(owner.cpu_ns),
        Duration::from_nanos(report.cpu_ns),
        owner.messages_sent
    );
    assert_eq!(report.write_errors, 0);
    assert!(forwarded(&world.ra) == forwarded(&world.rb), "the tables differ");
    // A takeover touches them all.
    let begin = monotonic_ns();
    a.thread.door().lease(Time::ZERO);
    assert!(b.own(BucketSet::ALL));
    println!("the door opens after {:?}", Duration::from_nanos(monotonic_ns() - begin));
}

/// Opens so many connections at this rate, each of one question and one answer, and closes each after `hold`. Returns how
/// many there were.
fn connections(world: &World, port: u16, count: usize, rate: u32, hold: Duration) -> usize {
    const LANES: usize = 4;
    let to = SocketAddr::new(world.server(false), port);
    let listener = world.sv.enter(|| TcpListener::bind(to).unwrap());
    let stop = listener.try_clone().unwrap();
    let server = std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut question = [0; 1];
            if stream.read(&mut question).is_ok_and(|length| length == 1) {
                let _ = stream.write_all(b"!");
                // It is closed by the client; who waits for that here is one thread more.
                std::thread::Builder::new()
                    .stack_size(32 * 1024)
                    .spawn(move || drop(stream.read(&mut [0; 1])))
                    .expect("a thread");
            } else {
                return;
            }
        }
    });
    let pace = Duration::from_secs(1) * LANES as u32 / rate;
    let opened = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                scope.spawn(|| {
                    world.cl.enter(|| {
                        let mut open = std::collections::VecDeque::new();
                        let (mut opened, mut next) = (0, Instant::now());
                        while opened < count / LANES {
                            while open
                                .front()
                                .is_some_and(|(since, _): &(Instant, TcpStream)| since.elapsed() >= hold)
                            {
                                open.pop_front();
                            }
                            let now = Instant::now();
                            if now < next {
                                std::thread::park_timeout(next - now);
                                continue;
                            }
                            next += pace;
                            let mut stream = TcpStream::connect(to).expect("a connection");
                            stream.set_read_timeout(Some(DEADLINE)).unwrap();
                            stream.write_all(b"?").unwrap();
                            stream.read_exact(&mut [0; 1]).unwrap();
                            open.push_back((Instant::now(), stream));
                            opened += 1;
                        }
                        opened
                    })
                })
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).sum()
    });
    // A connection without a question ends the server.
    drop(world.cl.enter(|| TcpStream::connect(to)));
    drop(stop);
    server.join().unwrap();
    opened
}

/// A running conntrackd, in the mode that its manual recommends.
struct Conntrackd(std::process::Child);

impl Conntrackd {
    fn start(netns: &Netns, host: &str, dir: &std::path::Path) -> Self {
        let path = dir.join(format!("conntrackd-{host}.conf"));
        let of = |name: &str| dir.join(format!("{name}-{host}")).display().to_string();
        let text = format!(
            "Sync {{ Mode FTFW {{ }}
               Multicast {{ IPv4_address 225.0.0.50
                 Group 3780
                 IPv4_interface 10.100.0.{host}
                 Interface eth0
                 SndSocketBuffer 1249280
                 RcvSocketBuffer 1249280
                 Checksum on }} }}
             General {{ HashSize 32768
               HashLimit 262144
               LogFile {}
               LockFile {}
               UNIX {{ Path {} }}
               NetlinkBufferSize 8388608
               NetlinkBufferSizeMaxGrowth 16777216
               Filter From Userspace {{ Protocol Accept {{ TCP UDP }} }} }}",
            of("log"),
            of("lock"),
            of("socket")
        );
        std::fs::write(&path, text).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", netns.name(), "conntrackd", "-C"])
            .arg(&path)
            .stdout(Stdio::null())
            .spawn()
            .expect("conntrackd");
        Self(child)
    }

    fn cpu(&mut self) -> Duration {
        assert!(self.0.try_wait().expect("its state").is_none(), "conntrackd has ended");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

impl Drop for Conntrackd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A measurement, which takes a minute and means something in a release build only:
/// `cargo test --release -p rudeld --test sync processor -- --show-output`
#[cfg_attr(not(debug_assertions), test)]
#[cfg_attr(debug_assertions, allow(dead_code))]
fn processor_time_per_connection_is_at_most_a_quarter_of_conntrackds() {
    const COUNT: usize = 12_000;
    const RATE: u32 = 1500;
    if skipped() {
        return;
    }
    if Command::new("conntrackd").arg("-v").output().is_err() {
        println!("SKIPPED: conntrackd is not installed");
        return;
    }
    let mut port = 9100;
    for hold in [Duration::ZERO, Duration::from_millis(400)] {
        let mut costs = Vec::new();
        for theirs in [false, true] {
            port += 1;
            let world = World::new(Nat::Source);
            world.cl.write_sysctl("net/ipv4/ip_local_port_range", "1024 65000");
            let (sender, receiver) = if theirs {
                // It leaves its lock behind when it is killed.
                let dir = tempfile::tempdir().unwrap();
                let mut a = Conntrackd::start(&world.ra, "11", dir.path());
                let mut b = Conntrackd::start(&world.rb, "12", dir.path());
                // A few through it, so that both have begun.
                connections(&world, port, 100, RATE, Duration::ZERO);
                let before = (a.cpu(), b.cpu());
                connections(&world, port + 100, COUNT, RATE, hold);
                (a.cpu() - before.0, b.cpu() - before.1)
            } else {
                let (a, b) = world.pair();
                connections(&world, port, 100, RATE, Duration::ZERO);
                let before = (a.report(), b.report());
                connections(&world, port + 100, COUNT, RATE, hold);
                let after = (a.report(), b.report());
                println!(
                    "  told {} of {COUNT}, in {} datagrams; overruns {}",
                    after.0.records_sent, after.0.messages_sent, after.0.overruns
                );
                (
                    Duration::from_nanos(after.0.cpu_ns - before.0.cpu_ns),
                    Duration::from_nanos(after.1.cpu_ns - before.1.cpu_ns),
                )
            };
            let per_flow = |time: Duration| time.as_secs_f64() * 1e6 / COUNT as f64;
            println!(
                "{}, connections of {hold:?}: {:.1} µs + {:.1} µs per connection",
                if theirs { "conntrackd" } else { "rudel" },
                per_flow(sender),
                per_flow(receiver)
            );
            costs.push(per_flow(sender) + per_flow(receiver));
        }
        println!("ratio {:.3}", costs[0] / costs[1]);
        assert!(costs[0] <= costs[1] / 4.0, "more than a quarter");
    }
}
