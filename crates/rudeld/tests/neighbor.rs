//! What a Linux client believes about the cluster's addresses when the responder answers.

mod netns;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;

use netns::{Netns, eventually, join, skipped};
use rudeld::host::membership::Membership;
use rudeld::host::packet::PacketSocket;
use rudeld::host::{ClusterInterface, Host, MacAddr, Plan, links};
use rudeld::neighbor::{
    Counts, Election, Responder, ResponderInterface, ServingNodes, announce, arp, ethernet, ndp,
};

const MULTICAST_MAC: MacAddr = MacAddr([0x03, 0xbf, 192, 0, 2, 10]);
const UNICAST_MAC: MacAddr = MacAddr([0x02, 0xbf, 192, 0, 2, 10]);
const IGMP_MAC: MacAddr = MacAddr([0x01, 0x00, 0x5e, 0x7f, 2, 10]);
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));

/// A client whose table forgets fast.
///
/// ```text
/// ┌─ client ───────┐        ┌─ node ──────────┐
/// │ 192.0.2.100    │        │ 192.0.2.11      │
/// │ 2001:db8::100  │        │ 2001:db8::11    │
/// │ eth0           ├────────┤ eth0         lo │ the cluster's addresses
/// └────────────────┘        └─────────────────┘
/// ```
struct World {
    client: Netns,
    node: Node,
}

impl World {
    fn new(cluster_mac: MacAddr) -> Self {
        let (client, node) = (Netns::new("client"), Netns::new("node"));
        join(&client, "eth0", &node, "eth0");
        set_up_client(&client);
        Self { client, node: Node::new(node, 11, cluster_mac) }
    }
}

fn set_up_client(client: &Netns) {
    client.ip(&format!("addr add {CLIENT}/24 dev eth0"));
    client.ip("addr add 2001:db8::100/64 dev eth0 nodad");
    for family in ["ipv4", "ipv6"] {
        for (key, value) in
            [("base_reachable_time_ms", "400"), ("delay_first_probe_time", "1"), ("retrans_time_ms", "300")]
        {
            client.write_sysctl(&format!("net/{family}/neigh/eth0/{key}"), value);
        }
    }
}

/// A prepared node; the kernel's own answers would show as its NIC's MAC.
struct Node {
    netns: Netns,
    interface: ResponderInterface,
    _membership: Membership,
    host: Option<Host>,
    _directory: tempfile::TempDir,
}

impl Node {
    fn new(netns: Netns, number: u8, cluster_mac: MacAddr) -> Self {
        netns.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
        netns.ip(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
        let directory = tempfile::tempdir().unwrap();
        let addresses = vec![VIP, VIP6];
        let plan = Plan {
            interfaces: vec![ClusterInterface {
                name: "eth0".to_owned(),
                cluster_mac,
                addresses: addresses.clone(),
            }],
            ..Plan::default()
        };
        let (host, interface, membership) = netns.enter(|| {
            let host = Host::prepare(&directory.path().join("host.json"), &plan).unwrap();
            let link = links::find("eth0").unwrap();
            let own_mac = link.ethernet_mac().unwrap();
            let IpAddr::V6(vip6) = VIP6 else { unreachable!() };
            let membership = Membership::join(link.index, cluster_mac, &[vip6]).unwrap();
            let interface =
                ResponderInterface { ifindex: link.index, own_mac, cluster_mac, router: false, addresses };
            (host, interface, membership)
        });
        Self { netns, interface, _membership: membership, host: Some(host), _directory: directory }
    }

    fn respond(&self, election: &Election) -> Responder {
        self.respond_as(self.interface.clone(), election)
    }

    fn respond_as(&self, interface: ResponderInterface, election: &Election) -> Responder {
        let name = self.netns.name().to_owned();
        self.netns
            .enter(|| {
                Responder::start(vec![interface], election.clone(), move |claim| {
                    panic!("{name} heard a claim that nobody made: {claim:?}")
                })
            })
            .unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            self.netns.enter(|| host.restore()).unwrap();
        }
    }
}

fn alone() -> Election {
    let election = Election::new();
    election.publish(ServingNodes { me: 1, serving: vec![1] });
    election
}

/// Sends a datagram, so that the client's kernel has to know where to.
fn poke(client: &Netns, vip: IpAddr) {
    client.enter(|| {
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        // An unreachable neighbour shows as an error here; the table is what is looked at.
        let _ = socket.send_to(b"anybody?", SocketAddr::new(vip, 9));
    });
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mac: Option<String>,
    state: String,
    router: bool,
}

fn entry(client: &Netns, vip: IpAddr) -> Option<Entry> {
    let table = client.ip_json("neigh show dev eth0");
    let entry =
        table.as_array()?.iter().find(|entry| entry["dst"].as_str() == Some(vip.to_string().as_str()))?;
    Some(Entry {
        mac: entry["lladdr"].as_str().map(str::to_owned),
        state: entry["state"][0].as_str()?.to_owned(),
        router: entry.get("router").is_some(),
    })
}

/// Pokes until the client's entry is reachable, with nothing but the cluster's MAC meanwhile.
fn becomes_reachable(client: &Netns, vip: IpAddr, cluster_mac: MacAddr) -> Entry {
    eventually(&format!("{vip} is reachable"), || {
        poke(client, vip);
        let entry = entry(client, vip).ok_or("no entry")?;
        if let Some(mac) = &entry.mac {
            assert_eq!(*mac, cluster_mac.to_string(), "{entry:?}");
        }
        if entry.state == "REACHABLE" { Ok(entry) } else { Err("something else") }
    })
}

/// Pokes once, and waits until the client's kernel has given up asking.
fn fails(client: &Netns, vip: IpAddr) {
    poke(client, vip);
    eventually(&format!("{vip} is given up"), || match entry(client, vip) {
        Some(entry) if entry.state == "FAILED" => Ok(()),
        Some(entry) => Err(format!("{entry:?}")),
        None => {
            // Collected between two looks.
            poke(client, vip);
            Err("no entry".to_owned())
        }
    });
}

fn per_protocol(counts: Counts, vip: IpAddr) -> rudeld::neighbor::ProtocolCounts {
    if vip.is_ipv4() { counts.arp } else { counts.ndp }
}

/// The client's entry becomes reachable, grows stale, is probed by unicast to the cluster's MAC, and is reachable again.
fn stays_reachable(cluster_mac: MacAddr, vip: IpAddr) {
    let world = World::new(cluster_mac);
    // Without the filter, the pokes would fill the socket's buffer, and the probe that follows them would be lost.
    let (protocol, filter) = if vip.is_ipv4() {
        (ethernet::ETHERTYPE_ARP, &[][..])
    } else {
        (ethernet::ETHERTYPE_IPV6, &ndp::NEIGHBOUR_MESSAGES[..])
    };
    let wire = world
        .node
        .netns
        .enter(|| PacketSocket::listening(world.node.interface.ifindex, protocol, filter).unwrap());
    let responder = world.node.respond(&alone());
    let mut probes_by_unicast = 0;
    let mut buffer = [0; 2048];
    eventually("three probes by unicast, answered", || {
        becomes_reachable(&world.client, vip, cluster_mac);
        while let Some((length, _)) = wire.receive(&mut buffer).unwrap() {
            let frame = &buffer[..length];
            let is_question = match protocol {
                ethernet::ETHERTYPE_ARP => arp::parse(frame).is_ok_and(|(_, packet)| {
                    packet.operation == arp::Operation::Request && packet.target_ip == vip
                }),
                _ => {
                    matches!(ndp::parse(frame), Ok(ndp::Message::Solicitation(asked)) if asked.target == vip)
                }
            };
            if is_question && frame[..6] == cluster_mac.octets() {
                probes_by_unicast += 1;
            }
        }
        if probes_by_unicast >= 3 { Ok(()) } else { Err(format!("{probes_by_unicast} probes")) }
    });
    becomes_reachable(&world.client, vip, cluster_mac);
    let counts = per_protocol(responder.counts(), vip);
    assert!(counts.answered >= 4, "{counts:?}");
    assert_eq!((counts.malformed, counts.claims, counts.send_errors), (0, 0, 0), "{counts:?}");
    // What stood outside of the answers was the NIC's own MAC: the client knows the node by it.
    let own = world.node.interface.own_mac;
    assert_ne!(own, cluster_mac);
}

#[test]
fn arp_with_a_multicast_mac() {
    if !skipped() {
        stays_reachable(MULTICAST_MAC, VIP);
    }
}

#[test]
fn arp_with_a_unicast_mac() {
    if !skipped() {
        stays_reachable(UNICAST_MAC, VIP);
    }
}

#[test]
fn arp_with_an_igmp_mac() {
    if !skipped() {
        stays_reachable(IGMP_MAC, VIP);
    }
}

#[test]
fn ndp_with_a_multicast_mac() {
    if !skipped() {
        stays_reachable(MULTICAST_MAC, VIP6);
    }
}

#[test]
fn ndp_with_a_unicast_mac() {
    if !skipped() {
        stays_reachable(UNICAST_MAC, VIP6);
    }
}

#[test]
fn who_does_not_serve_does_not_answer() {
    if skipped() {
        return;
    }
    let world = World::new(MULTICAST_MAC);
    let election = Election::new();
    let responder = world.node.respond(&election);
    for vip in [VIP, VIP6] {
        fails(&world.client, vip);
    }
    let counts = responder.counts();
    assert!(counts.arp.not_serving > 0 && counts.ndp.not_serving > 0, "{counts:?}");
    assert_eq!(counts.arp.answered + counts.arp.answered_again, 0);
    election.publish(ServingNodes { me: 1, serving: vec![1] });
    for vip in [VIP, VIP6] {
        becomes_reachable(&world.client, vip, MULTICAST_MAC);
    }
    // Nor does the kernel of a node whose daemon is gone.
    drop(responder);
    for vip in [VIP, VIP6] {
        world.client.ip("neigh flush dev eth0");
        fails(&world.client, vip);
    }
}

/// ```text
/// client ─┐          ┌─ n1 (serves)
///         ├─ bridge ─┤
///         │          ├─ n2 (serves)
/// ```
#[test]
fn one_answers_and_others_stand_in_for_one_that_does_not() {
    if skipped() {
        return;
    }
    let (client, switch) = (Netns::new("client"), Netns::new("switch"));
    switch.ip("link add br0 type bridge mcast_snooping 0");
    switch.ip("link set br0 up");
    let nodes = [1_u8, 2].map(|number| (number, Netns::new(&format!("n{number}"))));
    join(&client, "eth0", &switch, "c");
    for (number, netns) in &nodes {
        join(netns, "eth0", &switch, &format!("n{number}"));
    }
    for port in ["c", "n1", "n2"] {
        switch.ip(&format!("link set {port} master br0"));
    }
    set_up_client(&client);
    let nodes = nodes.map(|(number, netns)| Node::new(netns, 10 + number, MULTICAST_MAC));
    let elections = [Election::new(), Election::new()];
    let publish = |serving: &[u64]| {
        for (election, me) in elections.iter().zip(1..) {
            election.publish(ServingNodes { me, serving: serving.to_vec() });
        }
    };
    publish(&[1, 2]);
    let responders = [0, 1].map(|n| nodes[n].respond(&elections[n]));
    let sum =
        |of: &dyn Fn(Counts) -> u64| responders.iter().map(|responder| of(responder.counts())).sum::<u64>();

    becomes_reachable(&client, VIP, MULTICAST_MAC);
    becomes_reachable(&client, VIP6, MULTICAST_MAC);
    for (index, responder) in responders.iter().enumerate() {
        let me = index as u64 + 1;
        let elected = elections[index].current().elected(CLIENT, VIP) == Some(me);
        eventually("both have heard the question", || {
            let counts = responder.counts().arp;
            if counts.questions > 0 { Ok(()) } else { Err("none") }
        });
        let counts = responder.counts().arp;
        assert_eq!(
            (counts.answered > 0, counts.left_to_others > 0),
            (elected, !elected),
            "node {me}: {counts:?}"
        );
        assert_eq!(counts.claims, 0);
    }

    // A third one that is believed to serve, and that this client falls to, does not answer.
    let dead = (3..).find(|dead| {
        let nodes = ServingNodes { me: 1, serving: vec![1, 2, *dead] };
        nodes.elected(CLIENT, VIP) == Some(*dead)
    });
    publish(&[1, 2, dead.unwrap()]);
    client.ip("neigh flush dev eth0");
    let again = sum(&|counts| counts.arp.answered_again);
    becomes_reachable(&client, VIP, MULTICAST_MAC);
    assert!(sum(&|counts| counts.arp.answered_again) > again);
}

#[test]
fn routers_say_that_they_are() {
    if skipped() {
        return;
    }
    let world = World::new(UNICAST_MAC);
    for router in [true, false] {
        let interface = ResponderInterface { router, ..world.node.interface.clone() };
        let _responder = world.node.respond_as(interface, &alone());
        world.client.ip("neigh flush dev eth0");
        assert_eq!(becomes_reachable(&world.client, VIP6, UNICAST_MAC).router, router);
    }
}

#[test]
fn whoever_probes_for_an_address_learns_that_it_is_taken() {
    if skipped() {
        return;
    }
    let world = World::new(MULTICAST_MAC);
    let _responder = world.node.respond(&alone());
    // Duplicate detection of IPv6, by the client's kernel.
    world.client.write_sysctl("net/ipv6/conf/eth0/accept_dad", "1");
    world.client.ip(&format!("addr add {VIP6}/64 dev eth0"));
    eventually("the client finds its address taken", || {
        let shown = world.client.ip("addr show dev eth0 dadfailed");
        if shown.contains("2001:db8::10") { Ok(()) } else { Err(world.client.ip("addr show dev eth0")) }
    });
    // A probe of RFC 5227.
    let (socket, own) = world.client.enter(|| {
        let link = links::find("eth0").unwrap();
        (PacketSocket::listening(link.index, ethernet::ETHERTYPE_ARP, &[]).unwrap(), link.mac.unwrap())
    });
    let IpAddr::V4(vip) = VIP else { unreachable!() };
    let probe = arp::Packet {
        operation: arp::Operation::Request,
        sender_mac: own,
        sender_ip: Ipv4Addr::UNSPECIFIED,
        target_mac: MacAddr::ZERO,
        target_ip: vip,
    };
    socket.send(&arp::build(own, MacAddr::BROADCAST, &probe)).unwrap();
    let mut buffer = [0; 2048];
    let (header, answer) =
        eventually("the probe is answered", || match socket.receive(&mut buffer).unwrap() {
            Some((length, _)) => arp::parse(&buffer[..length]),
            None => Err(arp::Malformed::TooShort),
        });
    assert_eq!((header.source, header.destination), (world.node.interface.own_mac, own));
    assert_eq!((answer.sender_mac, answer.sender_ip), (MULTICAST_MAC, vip));
}

#[test]
fn foreign_claims_are_reported_once() {
    if skipped() {
        return;
    }
    let world = World::new(MULTICAST_MAC);
    let (sender, claims) = mpsc::channel();
    let responder = world
        .node
        .netns
        .enter(|| {
            Responder::start(vec![world.node.interface.clone()], alone(), move |claim| {
                sender.send(claim).unwrap();
            })
        })
        .unwrap();
    let thief = world.client.enter(|| {
        let link = links::find("eth0").unwrap();
        ResponderInterface {
            ifindex: link.index,
            own_mac: link.mac.unwrap(),
            cluster_mac: link.mac.unwrap(),
            router: false,
            addresses: vec![],
        }
    });
    for vip in [VIP, VIP6] {
        for _ in 0..3 {
            world.client.enter(|| announce(&thief, vip)).unwrap();
        }
        let claim = claims.recv_timeout(netns::DEADLINE).unwrap();
        assert_eq!((claim.address, claim.mac), (vip, thief.own_mac));
        eventually("all three are counted", || {
            let counted = per_protocol(responder.counts(), vip).claims;
            if counted == 3 { Ok(()) } else { Err(counted) }
        });
        assert!(claims.try_recv().is_err());
    }
}

#[test]
fn an_announcement_corrects_what_clients_believe() {
    if skipped() {
        return;
    }
    let world = World::new(MULTICAST_MAC);
    for vip in [VIP, VIP6] {
        world.client.ip(&format!("neigh replace {vip} lladdr 02:00:00:00:00:99 dev eth0 nud stale"));
        world.node.netns.enter(|| announce(&world.node.interface, vip)).unwrap();
        eventually("the client believes the announcement", || match entry(&world.client, vip) {
            Some(entry) if entry.mac == Some(MULTICAST_MAC.to_string()) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn addresses_can_be_replaced_and_links_can_flap() {
    if skipped() {
        return;
    }
    let world = World::new(MULTICAST_MAC);
    let responder = world.node.respond(&alone());
    becomes_reachable(&world.client, VIP, MULTICAST_MAC);
    becomes_reachable(&world.client, VIP6, MULTICAST_MAC);

    world.node.netns.ip("link set eth0 down");
    world.node.netns.ip("link set eth0 up");
    for vip in [VIP, VIP6] {
        world.client.ip("neigh flush dev eth0");
        becomes_reachable(&world.client, vip, MULTICAST_MAC);
    }

    let other: IpAddr = "192.0.2.20".parse().unwrap();
    let interface = ResponderInterface { addresses: vec![other], ..world.node.interface.clone() };
    world.node.netns.enter(|| responder.replace(vec![interface])).unwrap();
    becomes_reachable(&world.client, other, MULTICAST_MAC);
    for vip in [VIP, VIP6] {
        world.client.ip("neigh flush dev eth0");
        fails(&world.client, vip);
    }
    // An interface that does not exist: the former ones remain.
    let missing = ResponderInterface { ifindex: 4000, ..world.node.interface.clone() };
    assert!(world.node.netns.enter(|| responder.replace(vec![missing])).is_err());
    world.client.ip("neigh flush dev eth0");
    becomes_reachable(&world.client, other, MULTICAST_MAC);
}
