//! What this node sees of its network besides packets: who asks for members of groups, who claims the cluster's addresses,
//! who asks for them again and again. `rudel check` asks for it, and may have the network asked first.
//!
//! It decides nothing. What it remembers is bounded, and whoever floods it makes it forget others.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rudel_api::check::{self, Asker, ClaimSeen, InterfaceSight, Querier};
use rudel_api::config::MacAddress;
use rudel_datapath::checksum::{checksum, sum};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::monotonic_ns;
use crate::host::MacAddr;
use crate::host::packet::PacketSocket;
use crate::host_setup::ClusterLink;
use crate::neighbor::ethernet::{HEADER_LEN, Header};
use crate::neighbor::{Askers, Claim, arp, ndp};
use crate::reception::Reception;
use rudel_proto::status::Status;

const ETHERTYPE_IPV4: u16 = 0x0800;
/// All of a query that is looked at, with the longest header of IPv4.
const QUERY_BYTES_MAX: usize = 128;
/// Messages taken from one socket at a look.
const MESSAGES_PER_LOOK: usize = 32;
/// How many queriers and claims are remembered; the oldest make room.
const REMEMBERED_MAX: usize = 32;
/// Queriers ask every 125 s (RFC 3376, 8.2); whoever has not for twice as long has gone.
const QUERIER_GONE: Duration = Duration::from_secs(260);
/// The network is not asked more often.
const ASK_EVERY: Duration = Duration::from_secs(1);

const IGMP: i32 = 2;
const IGMP_QUERY: u8 = 0x11;
const MLD_QUERY: u8 = 130;

/// What is seen on the cluster's interfaces.
pub struct Sight {
    links: Vec<Watched>,
    claims: Vec<(Claim, u64)>,
    askers: Askers,
    asked_ns: u64,
}

struct Watched {
    link: ClusterLink,
    speaker: Option<PacketSocket>,
    ears: Vec<Ear>,
    queriers: BTreeMap<IpAddr, u64>,
}

/// A raw socket for IGMP, or for ICMPv6: unlike a packet socket, it costs the cluster's other packets nothing. It hears what
/// is sent to all hosts without being a member of anything.
struct Ear {
    is_v6: bool,
    socket: Socket,
}

impl Ear {
    fn open(interface: &str, is_v6: bool) -> io::Result<Self> {
        let (domain, protocol) =
            if is_v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::from(IGMP)) };
        let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        Ok(Ear { is_v6, socket })
    }

    /// Who asks, in the next message; nobody in it if it is none of a querier. `None` if there is no message.
    fn next(&self) -> Option<Option<IpAddr>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); QUERY_BYTES_MAX];
        let (length, source) = self.socket.recv_from(&mut buffer).ok()?;
        // SAFETY: the kernel has written so many bytes at the buffer's beginning.
        let message =
            unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length.min(QUERY_BYTES_MAX)) };
        let is_query = if self.is_v6 { message.first() == Some(&MLD_QUERY) } else { is_igmp_query(message) };
        Some(source.as_socket().map(|source| source.ip()).filter(|_| is_query))
    }
}

impl Sight {
    /// Opens what it takes. What cannot be opened is told in the log: a node serves without seeing, too.
    pub fn open(links: &[ClusterLink], askers: Askers) -> Self {
        let watch = |link: &ClusterLink| {
            let name = &link.link.name;
            let told = |error: &io::Error| {
                tracing::warn!(interface = %name, %error, "cannot listen for queries: `rudel check` will not name queriers; see the error");
            };
            let ears = [false, true].map(|is_v6| Ear::open(name, is_v6).inspect_err(told).ok());
            Watched {
                link: link.clone(),
                speaker: PacketSocket::silent(link.link.index).inspect_err(told).ok(),
                ears: ears.into_iter().flatten().collect(),
                queriers: BTreeMap::new(),
            }
        };
        Sight { links: links.iter().map(watch).collect(), claims: Vec::new(), askers, asked_ns: 0 }
    }

    /// The same interfaces have these addresses from now on.
    pub fn follow(&mut self, links: &[ClusterLink]) {
        for watched in &mut self.links {
            if let Some(now) = links.iter().find(|link| link.link.index == watched.link.link.index) {
                watched.link = now.clone();
            }
        }
    }

    /// Somebody claims an address of the cluster.
    pub fn claimed(&mut self, claim: Claim) {
        self.claims.retain(|(known, _)| *known != claim);
        if self.claims.len() == REMEMBERED_MAX {
            self.claims.remove(0);
        }
        self.claims.push((claim, monotonic_ns()));
    }

    /// Takes what has been heard since the last look.
    pub fn look(&mut self) {
        let now = monotonic_ns();
        for watched in &mut self.links {
            for ear in &watched.ears {
                for heard in std::iter::from_fn(|| ear.next()).take(MESSAGES_PER_LOOK) {
                    let Some(address) = heard else { continue };
                    if watched.queriers.len() == REMEMBERED_MAX {
                        let oldest = watched.queriers.iter().min_by_key(|(_, at)| **at).map(|(who, _)| *who);
                        oldest.map(|who| watched.queriers.remove(&who));
                    }
                    watched.queriers.insert(address, now);
                }
            }
            watched.queriers.retain(|_, at| now.saturating_sub(*at) < QUERIER_GONE.as_nanos() as u64);
        }
    }

    /// Asks who else has the cluster's addresses, and has the gateways look up one of them. Who serves is asked by this
    /// like by anybody; the answers are heard as those to others are.
    pub fn ask(&mut self) {
        let now = monotonic_ns();
        if self.asked_ns != 0 && now.saturating_sub(self.asked_ns) < ASK_EVERY.as_nanos() as u64 {
            return;
        }
        self.asked_ns = now;
        for watched in &self.links {
            let Some(speaker) = &watched.speaker else { continue };
            let own = watched.link.own_mac;
            let mut frames: Vec<Vec<u8>> =
                watched.link.addresses().into_iter().map(|address| question(own, address)).collect();
            let name = &watched.link.link.name;
            let first_v4 = watched.link.addresses().into_iter().find_map(|address| match address {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            });
            if let Some(cluster) = first_v4 {
                let gateways = gateways(name);
                frames.extend(gateways.into_iter().map(|(ip, mac)| echo(own, mac, cluster, ip)));
            }
            for frame in frames {
                if let Err(error) = speaker.send(&frame) {
                    tracing::debug!(interface = %name, %error, "the network could not be asked");
                }
            }
        }
    }

    /// All that is seen, as `rudel check` reads it.
    pub fn report(&self, reception: &Reception, status: &Status) -> check::Sight {
        let now = Duration::from_nanos(monotonic_ns());
        let interface = |watched: &Watched| {
            let name = &watched.link.link.name;
            InterfaceSight {
                name: name.clone(),
                own_mac: watched.link.own_mac.to_string(),
                cluster_mac: watched.link.interface.cluster_mac().to_string(),
                ears: reception.ears(name, now, status),
                queriers: self.queriers(name),
                claims: self.claims(name),
                insistent: self.insistent(name),
                pending: self.askers.is_pending(watched.link.link.index, monotonic_ns()),
                audit: reception.audit_finding(name),
            }
        };
        check::Sight { interfaces: self.links.iter().map(interface).collect() }
    }

    /// Who asks for members of groups on an interface.
    fn queriers(&self, interface: &str) -> Vec<Querier> {
        let now = monotonic_ns();
        let watched = self.links.iter().filter(|watched| watched.link.link.name == interface);
        let seen = watched
            .flat_map(|watched| &watched.queriers)
            .map(|(address, at)| Querier { address: *address, age_ms: millis(now.saturating_sub(*at)) });
        seen.collect()
    }

    /// Who claims addresses of the cluster on an interface.
    fn claims(&self, interface: &str) -> Vec<ClaimSeen> {
        let now = monotonic_ns();
        let index = self.index(interface);
        let here = self.claims.iter().filter(|(claim, _)| Some(claim.ifindex) == index);
        here.map(|(claim, at)| ClaimSeen {
            address: claim.address,
            mac: MacAddress(claim.mac.octets()),
            age_ms: millis(now.saturating_sub(*at)),
        })
        .collect()
    }

    /// Who asks for addresses of the cluster again and again on an interface.
    fn insistent(&self, interface: &str) -> Vec<Asker> {
        self.index(interface).map(|index| self.askers.insistent(index, monotonic_ns())).unwrap_or_default()
    }

    fn index(&self, interface: &str) -> Option<u32> {
        self.links
            .iter()
            .find(|watched| watched.link.link.name == interface)
            .map(|watched| watched.link.link.index)
    }
}

fn millis(ns: u64) -> u64 {
    ns / 1_000_000
}

/// Whether an IPv4 packet of IGMP asks for members, in whatever version.
fn is_igmp_query(packet: &[u8]) -> bool {
    let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    header >= 20 && packet.get(header) == Some(&IGMP_QUERY)
}

/// Who has this address? Asked from nowhere, so that nobody learns anything from it (RFC 5227, 2.1.1; RFC 4862, 5.4.2).
fn question(own_mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(target_ip) => arp::build(
            own_mac,
            MacAddr::BROADCAST,
            &arp::Packet {
                operation: arp::Operation::Request,
                sender_mac: own_mac,
                sender_ip: Ipv4Addr::UNSPECIFIED,
                target_mac: MacAddr::ZERO,
                target_ip,
            },
        ),
        IpAddr::V6(target) => ndp::solicitation(own_mac, Ipv6Addr::UNSPECIFIED, target),
    }
}

/// An echo request from the cluster's address: to answer it, the gateway must know whose MAC that is. The answer goes to
/// the owner of its bucket, whose kernel knows of no such request and drops it.
fn echo(own_mac: MacAddr, gateway_mac: MacAddr, cluster: Ipv4Addr, gateway: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + 28);
    Header { destination: gateway_mac, source: own_mac, ethertype: ETHERTYPE_IPV4 }.write(&mut frame);
    let mut header = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0, 0];
    header.extend(cluster.octets());
    header.extend(gateway.octets());
    let check = checksum(sum(&header));
    header[10..12].copy_from_slice(&check.to_be_bytes());
    let mut icmp = vec![8, 0, 0, 0, 0x72, 0x75, 0, 1];
    let check = checksum(sum(&icmp));
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    frame.extend(header);
    frame.extend(icmp);
    frame
}

/// The routers that IPv4 leaves by through an interface, of which the kernel knows the MAC.
fn gateways(interface: &str) -> Vec<(Ipv4Addr, MacAddr)> {
    // What is not readable is not asked.
    let routes = std::fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let neighbours = std::fs::read_to_string("/proc/self/net/arp").unwrap_or_default();
    gateways_of(&routes, &neighbours, interface)
}

fn gateways_of(routes: &str, neighbours: &str, interface: &str) -> Vec<(Ipv4Addr, MacAddr)> {
    // Iface Destination Gateway …: addresses in hexadecimal, in the order of this host's bytes.
    let mut found: Vec<Ipv4Addr> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (name, _, gateway) = (fields.next()?, fields.next()?, fields.next()?);
            let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
            (name == interface && !gateway.is_unspecified()).then_some(gateway)
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    // IP address, HW type, Flags, HW address, Mask, Device.
    let mac = |gateway: &Ipv4Addr| {
        neighbours.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [ip, _, _, mac, _, device] = fields[..] else { return None };
            (ip.parse() == Ok(*gateway) && device == interface).then(|| mac.parse::<MacAddr>().ok())?
        })
    };
    found
        .into_iter()
        .filter_map(|gateway| Some((gateway, mac(&gateway)?)))
        .filter(|(_, mac)| mac.is_station())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_told_from_answers() {
        // As a Linux bridge without an address asks, with the router alert option.
        #[rustfmt::skip]
        let query = [
            0x46, 0xc0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0x41, 0x70, 0, 0, 0, 0, 224, 0, 0, 1, 0x94, 4, 0, 0,
            0x11, 0x64, 0xee, 0x9b, 0, 0, 0, 0,
        ];
        assert!(is_igmp_query(&query));
        let mut report = query;
        report[24] = 0x16;
        assert!(!is_igmp_query(&report));
        assert!((0..25).all(|length| !is_igmp_query(&query[..length])));
        assert!(!is_igmp_query(&[0x11; 40]), "a header of four bytes");
    }

    #[test]
    fn a_question_from_nowhere_teaches_nobody() {
        let own = MacAddr([2, 0, 0, 0, 0, 7]);
        let frame = question(own, "192.0.2.10".parse().unwrap());
        let (ethernet, packet) = arp::parse(&frame).unwrap();
        assert_eq!((ethernet.source, packet.sender_ip), (own, Ipv4Addr::UNSPECIFIED));
        assert_eq!(packet.target_ip, Ipv4Addr::new(192, 0, 2, 10));
        let frame = question(own, "2001:db8::10".parse().unwrap());
        let Ok(ndp::Message::Solicitation(asked)) = ndp::parse(&frame) else { panic!("it is a question") };
        assert_eq!((asked.source, asked.source_mac), (Ipv6Addr::UNSPECIFIED, None));
        assert_eq!(asked.target, "2001:db8::10".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn an_echo_request_is_well_formed() {
        let (own, router) = (MacAddr([2, 0, 0, 0, 0, 7]), MacAddr([2, 0, 0, 0, 0, 1]));
        let frame = echo(own, router, Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(frame.len(), 14 + 20 + 8);
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 8, 0]);
        assert_eq!((checksum(sum(&frame[14..34])), checksum(sum(&frame[34..]))), (0, 0));
        assert_eq!(frame[26..34], [192, 0, 2, 10, 192, 0, 2, 1]);
    }

    #[test]
    fn gateways_are_asked_whose_mac_is_known() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t6500 4A0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000640A\t65004A0A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            eth0\t00004A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000B0A\t66004A0A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            eth1\t00000C0A\t67004A0A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
            .replace("6500 4A0A", "65004A0A");
        let neighbours = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.74.0.101      0x1         0x2         02:00:00:00:00:65     *        eth0\n\
            10.74.0.102      0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let found = gateways_of(&routes, neighbours, "eth0");
        assert_eq!(found, [(Ipv4Addr::new(10, 74, 0, 101), MacAddr([2, 0, 0, 0, 0, 0x65]))]);
        assert_eq!(gateways_of(&routes, neighbours, "eth1"), []);
    }
}
