//! The heartbeat's sockets between two real network namespaces.

mod netns;

use std::net::SocketAddr;

use netns::{Netns, eventually, join, skipped};
use rudeld::heartbeat::{Heartbeat, OpenError, SendError};
use rudeld::host::packet::PacketSocket;
use rudeld::host::{ClusterInterface, Host, MacAddr, Plan, links};

const GROUP4: &str = "239.255.74.40:7440";
const GROUP6: &str = "[ff02::4a:28]:7440";

/// ```text
/// ┌─ a ─────────┐          ┌─ b ─────────┐
/// │ 192.0.2.1   │          │ 192.0.2.2   │
/// │ eth0        ├──────────┤ eth0        │
/// └─────────────┘          └─────────────┘
/// ```
struct World {
    a: Netns,
    b: Netns,
}

impl World {
    fn new() -> Self {
        let world = Self { a: Netns::new("a"), b: Netns::new("b") };
        join(&world.a, "eth0", &world.b, "eth0");
        world.a.ip("addr add 192.0.2.1/24 dev eth0");
        world.b.ip("addr add 192.0.2.2/24 dev eth0");
        world
    }

    fn open(&self, group: &str) -> [Heartbeat; 2] {
        [open(&self.a, group).unwrap(), open(&self.b, group).unwrap()]
    }
}

fn open(netns: &Netns, group: &str) -> Result<Heartbeat, OpenError> {
    netns.enter(|| Heartbeat::open("eth0", group.parse().unwrap()))
}

/// Sends until it arrives; returns where it came from.
fn passes(from: &Heartbeat, to: &Heartbeat, text: &str) -> SocketAddr {
    let mut buffer = [0; 1500];
    eventually(&format!("{text} arrives"), || {
        if let Err(error) = from.send(text.as_bytes()) {
            assert!(error.is_transient(), "{error}");
            return Err(error.to_string());
        }
        while let Some((length, source)) = to.recv(&mut buffer).unwrap() {
            if &buffer[..length] == text.as_bytes() {
                return Ok(source);
            }
        }
        Err("nothing came".to_owned())
    })
}

fn hears_nothing(socket: &Heartbeat) {
    assert_eq!(socket.recv(&mut [0; 1500]).unwrap(), None);
}

#[test]
fn both_directions_and_nothing_comes_back() {
    if skipped() {
        return;
    }
    let world = World::new();
    for group in [GROUP4, GROUP6] {
        let [a, b] = world.open(group);
        let source = passes(&a, &b, "from a");
        let answered = passes(&b, &a, "from b");
        if group == GROUP4 {
            assert_eq!(source, "192.0.2.1:7440".parse().unwrap());
            assert_eq!(answered, "192.0.2.2:7440".parse().unwrap());
        } else {
            let SocketAddr::V6(source) = source else { panic!("{source}") };
            assert!(source.ip().is_unicast_link_local(), "{source}");
            assert_eq!(source.scope_id(), b.ifindex());
        }
        hears_nothing(&a);
        hears_nothing(&b);
        assert_eq!(a.interface(), "eth0");
    }
}

#[test]
fn a_link_that_went_down_and_up_carries_again() {
    if skipped() {
        return;
    }
    let world = World::new();
    for group in [GROUP4, GROUP6] {
        let [a, b] = world.open(group);
        passes(&a, &b, "before");
        world.a.ip("link set eth0 down");
        let error = a.send(b"while down").unwrap_err();
        assert!(matches!(error, SendError::LinkDown(_)), "{error:?}");
        hears_nothing(&a);
        world.a.ip("link set eth0 up");
        passes(&a, &b, "after, from a");
        passes(&b, &a, "after, from b");
        // The cable, and not the switch.
        world.b.ip("link set eth0 down");
        hears_nothing(&b);
        world.b.ip("link set eth0 up");
        passes(&a, &b, "once more, from a");
        passes(&b, &a, "once more, from b");
    }
}

#[test]
fn a_link_may_be_down_at_first() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.a.ip("link set eth0 down");
    for group in [GROUP4, GROUP6] {
        let [a, b] = world.open(group);
        assert!(matches!(a.send(b"too early"), Err(SendError::LinkDown(_))));
        world.a.ip("link set eth0 up");
        passes(&a, &b, "from a");
        passes(&b, &a, "from b");
        world.a.ip("link set eth0 down");
    }
}

#[test]
fn an_ipv4_group_needs_an_address_of_the_interface_itself() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.a.ip("addr flush dev eth0 scope global");
    // Another interface's address must not be borrowed.
    world.a.ip("link set lo up");
    world.a.ip("addr add 192.0.2.99/32 dev lo");
    let error = open(&world.a, GROUP4).unwrap_err();
    assert!(matches!(error, OpenError::NoIpv4Address { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("eth0 has no IPv4 address") && text.contains("IPv6 group"), "{text}");
    // As the text says.
    let [a, b] = world.open(GROUP6);
    passes(&a, &b, "from a");
    world.a.ip("addr add 192.0.2.1/24 dev eth0");
    let [a, b] = world.open(GROUP4);
    passes(&a, &b, "from a");
}

#[test]
fn a_cluster_address_is_never_the_source() {
    if skipped() {
        return;
    }
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let host = world.a.enter(|| {
        Host::prepare(
            &directory.path().join("host.json"),
            &Plan {
                interfaces: vec![ClusterInterface {
                    name: "eth0".to_owned(),
                    cluster_mac: MacAddr([0x03, 0xbf, 192, 0, 2, 10]),
                    addresses: vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
                }],
                ..Plan::default()
            },
        )
        .unwrap()
    });
    let [a, b] = world.open(GROUP4);
    assert_eq!(passes(&a, &b, "from a"), "192.0.2.1:7440".parse().unwrap());
    let [a, b] = world.open("[ff08::4a:28]:7440");
    let source = passes(&a, &b, "from a");
    assert_ne!(source.ip(), "2001:db8::10".parse::<std::net::IpAddr>().unwrap());
    world.a.enter(|| host.restore()).unwrap();
}

#[test]
fn an_ipv6_address_that_is_not_ready_yet_passes() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.a.write_sysctl("net/ipv6/conf/eth0/accept_dad", "1");
    world.a.ip("link set eth0 down");
    world.a.ip("link set eth0 up");
    let [a, b] = world.open(GROUP6);
    let tentative = || !world.a.ip("addr show dev eth0 tentative").is_empty();
    // Duplicate detection takes a second or more: there is time to look.
    assert!(tentative());
    let error = a.send(b"too early").unwrap_err();
    if tentative() {
        assert!(matches!(error, SendError::LinkDown(_)), "{error:?}");
    }
    passes(&a, &b, "from a");
}

#[test]
fn an_interface_that_is_deleted_is_gone() {
    if skipped() {
        return;
    }
    let world = World::new();
    let sockets = [world.open(GROUP4), world.open(GROUP6)];
    world.a.ip("link del eth0");
    for [a, _] in &sockets {
        let error = a.send(b"anybody there?").unwrap_err();
        assert!(matches!(error, SendError::Gone(_)), "{error:?}");
        hears_nothing(a);
    }
    assert!(matches!(open(&world.a, GROUP4), Err(OpenError::Link(_))));
}

#[test]
fn what_cannot_be_a_group_is_refused() {
    for group in ["192.0.2.1:7440", "[2001:db8::1]:7440", "239.255.74.40:0", "[ff02::1]:0"] {
        let error = Heartbeat::open("lo", group.parse().unwrap()).unwrap_err();
        assert!(matches!(error, OpenError::NotAGroup { .. }), "{error}");
    }
}

#[test]
fn datagrams_too_long_for_the_link_are_not_fragmented_into_trouble() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [a, _b] = world.open(GROUP4);
    assert!(matches!(a.send(&vec![0; 70_000]), Err(SendError::TooLong(_))));
}

#[test]
fn frames_are_marked_and_do_not_leave_the_segment() {
    if skipped() {
        return;
    }
    let world = World::new();
    let index = world.b.enter(|| links::find("eth0").unwrap().index);
    let listen = |protocol| world.b.enter(|| PacketSocket::listening(index, protocol, &[]).unwrap());
    let (wire4, wire6) = (listen(0x0800), listen(0x86dd));
    let capture = |socket: &PacketSocket, from: &Heartbeat| {
        let mut buffer = [0; 1500];
        eventually("the frame", || {
            let _ = from.send(b"seen on the wire");
            while let Some((length, _)) = socket.receive(&mut buffer).unwrap() {
                if buffer[..length].ends_with(b"seen on the wire") {
                    return Ok(buffer[..length].to_vec());
                }
            }
            Err("none")
        })
    };
    let [a, _b] = world.open(GROUP4);
    let frame = capture(&wire4, &a);
    assert_eq!(frame[..6], [0x01, 0, 0x5e, 0x7f, 74, 40]);
    assert_eq!((frame[15], frame[22]), (48 << 2, 1), "TOS and TTL");
    let [a, _b] = world.open(GROUP6);
    let frame = capture(&wire6, &a);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0x4a, 0, 0x28]);
    let class = u32::from_be_bytes([frame[14], frame[15], frame[16], frame[17]]) >> 20 & 0xff;
    assert_eq!((class, frame[21]), (48 << 2, 1), "traffic class and hop limit");
}
