//! The thread that answers questions for the cluster's addresses.
//!
//! ```text
//!                     ┌────────────┐  malformed, for others, of another VLAN ─► ignored
//!  packet sockets ──► │  consider  │  somebody else has it ──────────────────► Claim
//!  (ARP, IPv6 + BPF)  │ (no I/O)   │  a question ─► do I serve? elected? asked again? ─► answer
//!                     └────────────┘
//! ```

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::askers::Askers;
use super::election::{Election, Question, RecentlyAsked, ServingNodes};
use super::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, Header};
use super::{arp, ndp};
use crate::clock::monotonic_ns;
use crate::host::MacAddr;
use crate::host::packet::{PacketSocket, PacketType};

/// How often a claim to the same address is reported at most, in nanoseconds: whoever is on the wire can claim it by any
/// number of MACs, and each report is an event, which a program of the administrator's is told of.
const CLAIM_REPORT_INTERVAL_NS: u64 = 10_000_000_000;

/// How many addresses are remembered for that. Claims to more are counted and not reported.
const CLAIMS_MAX: usize = 64;

/// Frames taken from one socket before the others are looked at again.
const FRAMES_PER_TURN: usize = 64;

/// Longer than any ARP packet or neighbour message that means something; the rest of a longer frame is not looked at.
const FRAME_BYTES_MAX: usize = 2048;

/// An interface on which questions are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponderInterface {
    /// Its index.
    pub ifindex: u32,
    /// The NIC's own MAC: the source of all frames.
    pub own_mac: MacAddr,
    /// The cluster's MAC: the answer.
    pub cluster_mac: MacAddr,
    /// Does the cluster route for the hosts on this link? Neighbour advertisements say so, and hosts that use a cluster
    /// address as their default router drop it when they do not.
    pub router: bool,
    /// The cluster's addresses on this link.
    pub addresses: Vec<IpAddr>,
}

/// Somebody else says that it has an address of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The link on which it was heard.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// The MAC that it is said to have. If it is another node's own, that node's kernel answers for the address.
    pub mac: MacAddr,
}

/// What came of the questions of one protocol. All but `malformed` concern the cluster's addresses only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtocolCounts {
    /// Frames that could not be heeded.
    pub malformed: u64,
    /// Questions.
    pub questions: u64,
    /// Answers sent because this node was elected.
    pub answered: u64,
    /// Answers sent because the question came again, so that the elected node seems not to have answered.
    pub answered_again: u64,
    /// Questions left to the elected node.
    pub left_to_others: u64,
    /// Questions that came while this node did not serve.
    pub not_serving: u64,
    /// Claims by somebody else, the ones not reported included.
    pub claims: u64,
    /// Answers that could not be sent.
    pub send_errors: u64,
}

/// What the responder has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// IPv4.
    pub arp: ProtocolCounts,
    /// IPv6.
    pub ndp: ProtocolCounts,
}

#[derive(Debug, Default)]
struct ProtocolCounters {
    malformed: AtomicU64,
    questions: AtomicU64,
    answered: AtomicU64,
    answered_again: AtomicU64,
    left_to_others: AtomicU64,
    not_serving: AtomicU64,
    claims: AtomicU64,
    send_errors: AtomicU64,
}

impl ProtocolCounters {
    fn read(&self) -> ProtocolCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProtocolCounts {
            malformed: of(&self.malformed),
            questions: of(&self.questions),
            answered: of(&self.answered),
            answered_again: of(&self.answered_again),
            left_to_others: of(&self.left_to_others),
            not_serving: of(&self.not_serving),
            claims: of(&self.claims),
            send_errors: of(&self.send_errors),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Arp,
    Ndp,
}

/// An interface with the sockets it is listened to by.
#[derive(Debug)]
struct Port {
    interface: ResponderInterface,
    arp: Option<PacketSocket>,
    ndp: Option<PacketSocket>,
}

impl Port {
    fn open(interface: ResponderInterface) -> io::Result<Self> {
        let arp = interface
            .addresses
            .iter()
            .any(IpAddr::is_ipv4)
            .then(|| PacketSocket::listening(interface.ifindex, ETHERTYPE_ARP, &[]))
            .transpose()?;
        let ndp = interface
            .addresses
            .iter()
            .any(IpAddr::is_ipv6)
            .then(|| PacketSocket::listening(interface.ifindex, ETHERTYPE_IPV6, &ndp::NEIGHBOUR_MESSAGES))
            .transpose()?;
        Ok(Self { interface, arp, ndp })
    }

    fn open_all(interfaces: Vec<ResponderInterface>) -> io::Result<Vec<Self>> {
        interfaces.into_iter().map(Self::open).collect()
    }

    fn sockets(&self) -> impl Iterator<Item = (Protocol, &PacketSocket)> {
        let arp = self.arp.as_ref().map(|socket| (Protocol::Arp, socket));
        let ndp = self.ndp.as_ref().map(|socket| (Protocol::Ndp, socket));
        arp.into_iter().chain(ndp)
    }
}

#[derive(Debug)]
struct Shared {
    wake: OwnedFd,
    stop: AtomicBool,
    /// Takes the place of the ports in use, when the thread gets to it.
    ports: Mutex<Option<Vec<Port>>>,
    arp: ProtocolCounters,
    ndp: ProtocolCounters,
    askers: Askers,
}

impl Shared {
    fn counters(&self, protocol: Protocol) -> &ProtocolCounters {
        match protocol {
            Protocol::Arp => &self.arp,
            Protocol::Ndp => &self.ndp,
        }
    }

    fn wake(&self) {
        // Writing 1 to an eventfd fails only when its counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// Answers ARP requests and neighbour solicitations on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts answering, in the calling thread's network namespace. `on_claim` is called on the responder's thread, for
    /// each address on each link at most every ten seconds; while it runs, nothing is answered.
    ///
    /// # Errors
    /// A packet socket could not be opened: without `CAP_NET_RAW`, or for an index that no interface has.
    pub fn start(
        interfaces: Vec<ResponderInterface>,
        election: Election,
        on_claim: impl FnMut(Claim) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            ports: Mutex::new(Some(Port::open_all(interfaces)?)),
            arp: ProtocolCounters::default(),
            ndp: ProtocolCounters::default(),
            askers: Askers::default(),
        });
        let mut worker = Worker {
            shared: Arc::clone(&shared),
            election,
            recent: RecentlyAsked::new(),
            claims: Claims::default(),
            on_claim,
        };
        let thread = std::thread::Builder::new().name("neighbor".into()).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Changes over to other interfaces or addresses (a configuration read again, a NIC with a new MAC or index) without
    /// a gap in the answering. The sockets are opened in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Responder::start`]; then the former interfaces remain.
    pub fn replace(&self, interfaces: Vec<ResponderInterface>) -> io::Result<()> {
        let ports = Port::open_all(interfaces)?;
        *self.shared.ports.lock().unwrap_or_else(PoisonError::into_inner) = Some(ports);
        self.shared.wake();
        Ok(())
    }

    /// Who has asked lately.
    #[must_use]
    pub fn askers(&self) -> Askers {
        self.shared.askers.clone()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { arp: self.shared.arp.read(), ndp: self.shared.ndp.read() }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the thread that answers ARP and neighbour solicitations had panicked: report it with what is above"
            );
        }
    }
}

/// Tells all hosts of the link, once, that an address has the cluster's MAC: for when the cluster comes up in the place
/// of something else. A failover needs none: nothing changes for the clients.
///
/// # Errors
/// What the packet socket says; `ENETDOWN` while the link is down.
pub fn announce(interface: &ResponderInterface, address: IpAddr) -> io::Result<()> {
    let ResponderInterface { ifindex, own_mac, cluster_mac, router, .. } = *interface;
    let frame = match address {
        IpAddr::V4(address) => arp::announcement(own_mac, cluster_mac, address),
        IpAddr::V6(address) => ndp::announcement(own_mac, cluster_mac, router, address),
    };
    PacketSocket::silent(ifindex)?.send(&frame)
}

struct Worker<F> {
    shared: Arc<Shared>,
    election: Election,
    recent: RecentlyAsked,
    claims: Claims,
    on_claim: F,
}

impl<F: FnMut(Claim)> Worker<F> {
    fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut ports = Vec::new();
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        while !shared.stop.load(Ordering::Acquire) {
            if let Some(replacement) = shared.ports.lock().unwrap_or_else(PoisonError::into_inner).take() {
                ports = replacement;
            }
            if let Err(error) = self.turn(&ports, &mut buffer) {
                tracing::error!(%error, "cannot wait for ARP and neighbour solicitations: nobody is answered any more: run `rudel restart`");
                return;
            }
        }
    }

    /// Waits until there is something to do, and does it.
    fn turn(&mut self, ports: &[Port], buffer: &mut [u8]) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let sources: Vec<_> = ports
            .iter()
            .flat_map(|port| port.sockets().map(|(protocol, socket)| (&port.interface, protocol, socket)))
            .collect();
        let mut fds = vec![PollFd::new(&shared.wake, PollFlags::IN)];
        fds.extend(sources.iter().map(|(.., socket)| PollFd::new(*socket, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            // Resets the counter; whoever wrote has stored what it wanted before.
            let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
        }
        let nodes = self.election.current();
        for (fd, (interface, protocol, socket)) in fds[1..].iter().zip(&sources) {
            if !fd.revents().is_empty() {
                self.serve(interface, *protocol, socket, &nodes, buffer);
            }
        }
        Ok(())
    }

    fn serve(
        &mut self,
        interface: &ResponderInterface,
        protocol: Protocol,
        socket: &PacketSocket,
        nodes: &ServingNodes,
        buffer: &mut [u8],
    ) {
        let shared = Arc::clone(&self.shared);
        let counters = shared.counters(protocol);
        for _ in 0..FRAMES_PER_TURN {
            let (length, kind) = match socket.receive(buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                // The link went down. The socket hears again once it is up.
                Err(error) => {
                    tracing::debug!(%error, ifindex = interface.ifindex, "a packet socket reported an error");
                    return;
                }
            };
            let frame = &buffer[..length];
            let heard = match protocol {
                Protocol::Arp => hear_arp(interface, frame, kind),
                Protocol::Ndp => hear_ndp(interface, frame, kind),
            };
            match heard {
                Heard::Nothing => {}
                Heard::Malformed => count(&counters.malformed),
                Heard::Claim(claim) => {
                    count(&counters.claims);
                    if self.claims.is_news(claim, monotonic_ns()) {
                        (self.on_claim)(claim);
                    }
                }
                Heard::Question { question, answer } => {
                    count(&counters.questions);
                    if !nodes.serving.is_empty() {
                        shared.askers.note(&question, monotonic_ns());
                    }
                    let decision = decide(nodes, &mut self.recent, question, monotonic_ns());
                    count(match decision {
                        Decision::NotServing => &counters.not_serving,
                        Decision::LeaveToOthers => &counters.left_to_others,
                        Decision::Answer => &counters.answered,
                        Decision::AnswerAgain => &counters.answered_again,
                    });
                    if matches!(decision, Decision::Answer | Decision::AnswerAgain)
                        && let Err(error) = socket.send(&answer)
                    {
                        count(&counters.send_errors);
                        tracing::debug!(%error, ifindex = interface.ifindex, "an answer could not be sent");
                    }
                }
            }
        }
    }
}

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing about the cluster's addresses.
    Nothing,
    /// Nothing that may be heeded.
    Malformed,
    /// Somebody else has one of them.
    Claim(Claim),
    /// Somebody asks for one of them; this would be the answer.
    Question { question: Question, answer: Vec<u8> },
}

/// Is the frame for this link and for us? The kernel marks frames of VLANs that are not configured as other hosts',
/// whatever their destination; and so it marks, rightly, frames to a unicast cluster MAC.
fn is_for_us(interface: &ResponderInterface, ethernet: Header, kind: PacketType) -> bool {
    match kind {
        PacketType::Host | PacketType::Broadcast | PacketType::Multicast => true,
        PacketType::OtherHost => ethernet.destination == interface.cluster_mac,
        PacketType::Outgoing | PacketType::Unknown(_) => false,
    }
}

fn hear_arp(interface: &ResponderInterface, frame: &[u8], kind: PacketType) -> Heard {
    let (ethernet, packet) = match arp::parse(frame) {
        Ok(parsed) => parsed,
        Err(_) => return Heard::Malformed,
    };
    if !is_for_us(interface, ethernet, kind) {
        return Heard::Nothing;
    }
    let ours = |ip| interface.addresses.contains(&IpAddr::V4(ip));
    if ours(packet.sender_ip) {
        return claim(interface, packet.sender_ip.into(), packet.sender_mac);
    }
    // A group that asks would have its answer multiplied.
    if packet.operation != arp::Operation::Request
        || !ours(packet.target_ip)
        || !packet.sender_mac.is_station()
    {
        return Heard::Nothing;
    }
    Heard::Question {
        question: Question {
            ifindex: interface.ifindex,
            asker: packet.sender_ip.into(),
            asker_mac: packet.sender_mac,
            address: packet.target_ip.into(),
        },
        answer: arp::reply(interface.own_mac, interface.cluster_mac, &packet),
    }
}

fn hear_ndp(interface: &ResponderInterface, frame: &[u8], kind: PacketType) -> Heard {
    let message = match ndp::parse(frame) {
        Ok(message) => message,
        Err(_) => return Heard::Malformed,
    };
    let (ndp::Message::Solicitation(ndp::Solicitation { ethernet, .. })
    | ndp::Message::Advertisement(ndp::Advertisement { ethernet, .. })) = message;
    if !is_for_us(interface, ethernet, kind) {
        return Heard::Nothing;
    }
    let ours = |ip| interface.addresses.contains(&IpAddr::V6(ip));
    match message {
        ndp::Message::Advertisement(told) if ours(told.target) => {
            claim(interface, told.target.into(), told.target_mac.unwrap_or(ethernet.source))
        }
        ndp::Message::Advertisement(_) => Heard::Nothing,
        ndp::Message::Solicitation(asked) if ours(asked.source) => {
            claim(interface, asked.source.into(), asked.source_mac.unwrap_or(ethernet.source))
        }
        ndp::Message::Solicitation(asked) => {
            let asker_mac = asked.source_mac.unwrap_or(ethernet.source);
            if !ours(asked.target) || !asker_mac.is_station() {
                return Heard::Nothing;
            }
            Heard::Question {
                question: Question {
                    ifindex: interface.ifindex,
                    asker: asked.source.into(),
                    asker_mac,
                    address: asked.target.into(),
                },
                answer: ndp::advertisement(
                    interface.own_mac,
                    interface.cluster_mac,
                    interface.router,
                    &asked,
                ),
            }
        }
    }
}

/// The cluster's own announcements and answers are no claim.
fn claim(interface: &ResponderInterface, address: IpAddr, mac: MacAddr) -> Heard {
    if mac == interface.cluster_mac {
        Heard::Nothing
    } else {
        Heard::Claim(Claim { ifindex: interface.ifindex, address, mac })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    NotServing,
    LeaveToOthers,
    Answer,
    AnswerAgain,
}

fn decide(nodes: &ServingNodes, recent: &mut RecentlyAsked, question: Question, now_ns: u64) -> Decision {
    if !nodes.includes_me() {
        return Decision::NotServing;
    }
    if nodes.elected(question.asker, question.address) == Some(nodes.me) {
        return Decision::Answer;
    }
    if recent.again(question, now_ns) { Decision::AnswerAgain } else { Decision::LeaveToOthers }
}

/// The claims reported a moment ago.
#[derive(Debug, Default)]
struct Claims {
    reported: Vec<(Claim, u64)>,
}

impl Claims {
    fn is_news(&mut self, claim: Claim, now_ns: u64) -> bool {
        self.reported.retain(|(_, at_ns)| now_ns.saturating_sub(*at_ns) < CLAIM_REPORT_INTERVAL_NS);
        let is_same = |other: Claim| (other.ifindex, other.address) == (claim.ifindex, claim.address);
        if self.reported.len() >= CLAIMS_MAX || self.reported.iter().any(|(reported, _)| is_same(*reported)) {
            return false;
        }
        self.reported.push((claim, now_ns));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbor::ASKED_AGAIN_NS;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const OWN: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
    const CLIENT: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0c]);
    const CLUSTER: MacAddr = MacAddr([0x02, 0xbf, 192, 0, 2, 10]);
    const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
    const CLIENT_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xc);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

    fn interface() -> ResponderInterface {
        ResponderInterface {
            ifindex: 2,
            own_mac: OWN,
            cluster_mac: CLUSTER,
            router: false,
            addresses: vec![VIP.into(), VIP6.into()],
        }
    }

    fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> arp::Packet {
        arp::Packet {
            operation: arp::Operation::Request,
            sender_mac,
            sender_ip,
            target_mac: MacAddr::ZERO,
            target_ip,
        }
    }

    fn broadcast(packet: &arp::Packet) -> Vec<u8> {
        arp::build(CLIENT, MacAddr::BROADCAST, packet)
    }

    #[test]
    fn questions_for_our_addresses_are_heard() {
        let asked = request(CLIENT, CLIENT_IP, VIP);
        let heard = hear_arp(&interface(), &broadcast(&asked), PacketType::Broadcast);
        let question =
            Question { ifindex: 2, asker: CLIENT_IP.into(), asker_mac: CLIENT, address: VIP.into() };
        assert_eq!(heard, Heard::Question { question, answer: arp::reply(OWN, CLUSTER, &asked) });

        let frame = ndp::solicitation(CLIENT, CLIENT_IP6, VIP6);
        let Heard::Question { question, answer } = hear_ndp(&interface(), &frame, PacketType::Multicast)
        else {
            panic!("a question");
        };
        assert_eq!(
            question,
            Question { ifindex: 2, asker: CLIENT_IP6.into(), asker_mac: CLIENT, address: VIP6.into() }
        );
        let ndp::Message::Advertisement(answer) = ndp::parse(&answer).unwrap() else { panic!("an answer") };
        assert_eq!(answer.target_mac, Some(CLUSTER));
    }

    #[test]
    fn probes_are_heard_and_their_askers_told_apart() {
        let frame = broadcast(&request(CLIENT, Ipv4Addr::UNSPECIFIED, VIP));
        let Heard::Question { question, .. } = hear_arp(&interface(), &frame, PacketType::Broadcast) else {
            panic!("a question");
        };
        assert_eq!((question.asker, question.asker_mac), (Ipv4Addr::UNSPECIFIED.into(), CLIENT));
        let frame = ndp::solicitation(CLIENT, Ipv6Addr::UNSPECIFIED, VIP6);
        let Heard::Question { question, .. } = hear_ndp(&interface(), &frame, PacketType::Multicast) else {
            panic!("a question");
        };
        assert_eq!((question.asker, question.asker_mac), (Ipv6Addr::UNSPECIFIED.into(), CLIENT));
    }

    #[test]
    fn what_does_not_concern_us_is_passed_over() {
        let other = Ipv4Addr::new(192, 0, 2, 11);
        let reply = arp::Packet { operation: arp::Operation::Reply, ..request(CLIENT, CLIENT_IP, VIP) };
        for packet in [
            request(CLIENT, CLIENT_IP, other),
            reply,
            // The cluster's own announcement, by another node.
            request(CLUSTER, VIP, VIP),
            // An answer to a group would be multiplied.
            request(MacAddr([0x03, 0xbf, 1, 2, 3, 4]), CLIENT_IP, VIP),
        ] {
            assert_eq!(
                hear_arp(&interface(), &broadcast(&packet), PacketType::Broadcast),
                Heard::Nothing,
                "{packet:?}"
            );
        }
        let other = "2001:db8::11".parse().unwrap();
        for frame in [
            ndp::solicitation(CLIENT, CLIENT_IP6, other),
            ndp::announcement(OWN, CLIENT, false, other),
            ndp::announcement(OWN, CLUSTER, false, VIP6),
        ] {
            assert_eq!(hear_ndp(&interface(), &frame, PacketType::Multicast), Heard::Nothing);
        }
        assert_eq!(hear_arp(&interface(), &[0; 60], PacketType::Broadcast), Heard::Malformed);
        assert_eq!(hear_ndp(&interface(), &[0; 60], PacketType::Multicast), Heard::Malformed);
    }

    #[test]
    fn frames_of_other_vlans_and_hosts_are_not_for_us() {
        let asked = request(CLIENT, CLIENT_IP, VIP);
        // A broadcast that the kernel marks as another host's: of a VLAN that is not configured.
        assert_eq!(hear_arp(&interface(), &broadcast(&asked), PacketType::OtherHost), Heard::Nothing);
        for destination in [OWN, CLIENT] {
            let frame = arp::build(CLIENT, destination, &asked);
            assert_eq!(hear_arp(&interface(), &frame, PacketType::OtherHost), Heard::Nothing);
        }
        assert_eq!(hear_arp(&interface(), &broadcast(&asked), PacketType::Outgoing), Heard::Nothing);
        // A probe by unicast of what the asker believes: the cluster's MAC.
        let frame = arp::build(CLIENT, CLUSTER, &asked);
        assert!(matches!(hear_arp(&interface(), &frame, PacketType::OtherHost), Heard::Question { .. }));
    }

    #[test]
    fn claims_by_others_are_heard() {
        let thief = MacAddr([0x02, 0, 0, 0, 0, 0xee]);
        let reply = arp::Packet {
            operation: arp::Operation::Reply,
            sender_mac: thief,
            sender_ip: VIP,
            target_mac: CLIENT,
            target_ip: CLIENT_IP,
        };
        for packet in [request(thief, VIP, VIP), request(thief, VIP, CLIENT_IP), reply] {
            assert_eq!(
                hear_arp(&interface(), &broadcast(&packet), PacketType::Broadcast),
                Heard::Claim(Claim { ifindex: 2, address: VIP.into(), mac: thief }),
                "{packet:?}"
            );
        }
        let claim = Heard::Claim(Claim { ifindex: 2, address: VIP6.into(), mac: thief });
        for frame in
            [ndp::announcement(thief, thief, false, VIP6), ndp::solicitation(thief, VIP6, CLIENT_IP6)]
        {
            assert_eq!(hear_ndp(&interface(), &frame, PacketType::Multicast), claim);
        }
    }

    #[test]
    fn one_node_answers_and_the_others_at_the_second_asking() {
        let question =
            Question { ifindex: 2, asker: CLIENT_IP.into(), asker_mac: CLIENT, address: VIP.into() };
        let elected =
            ServingNodes { me: 0, serving: vec![1, 2, 3] }.elected(CLIENT_IP.into(), VIP.into()).unwrap();
        for me in 1..=4 {
            let nodes = ServingNodes { me, serving: vec![1, 2, 3] };
            let mut recent = RecentlyAsked::new();
            let decisions = [0, ASKED_AGAIN_NS, 3 * ASKED_AGAIN_NS]
                .map(|now_ns| decide(&nodes, &mut recent, question, now_ns));
            let expected = match me {
                4 => [Decision::NotServing; 3],
                me if me == elected => [Decision::Answer; 3],
                _ => [Decision::LeaveToOthers, Decision::AnswerAgain, Decision::LeaveToOthers],
            };
            assert_eq!(decisions, expected, "node {me}, elected {elected}");
        }
    }

    #[test]
    fn a_claim_to_an_address_is_news_every_ten_seconds_by_whatever_mac() {
        let claim = |address: u8, mac: u8| Claim {
            ifindex: 2,
            address: Ipv4Addr::new(192, 0, 2, address).into(),
            mac: MacAddr([2, 0, 0, 0, 0, mac]),
        };
        let mut claims = Claims::default();
        assert!(claims.is_news(claim(10, 0), 0));
        let during = CLAIM_REPORT_INTERVAL_NS - 1;
        assert!(
            (0..=200).all(|mac| !claims.is_news(claim(10, mac), during)),
            "one report, however many MACs"
        );
        assert!(claims.is_news(claim(11, 0), during), "another address");
        assert!(claims.is_news(Claim { ifindex: 3, ..claim(10, 0) }, during), "another link");
        assert!(claims.is_news(claim(10, 7), CLAIM_REPORT_INTERVAL_NS));
        let mut claims = Claims::default();
        let news = (0..=200).filter(|address| claims.is_news(claim(*address, 0), 0)).count();
        assert_eq!(news, CLAIMS_MAX);
    }
}
