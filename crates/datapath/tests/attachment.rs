//! A filter on a wire: put there, left alone, taken over, taken away.
//!
//! ```text
//!   network namespace of the peer          of the node
//!  ┌──────────────────────────────┐   ┌────────────────────────────────────┐
//!  │ a packet socket sends frames │   │ the filter, and a packet socket    │
//!  │ to the cluster MAC ──► peer0 ═════ node0 ──► that sees what it passes │
//!  └──────────────────────────────┘   └────────────────────────────────────┘
//! ```

mod common;

use std::time::Duration;

use common::{
    Bpffs, CLUSTER_MAC, SEED,
    frames::*,
    lease,
    netns::{Netns, run},
    wait_for,
};
use rudel_datapath::{
    Aside, AttachMode, Border, BucketState, BucketTable, Datapath, Error, HashMode, InterfaceOptions,
    LeaseUntil, Mode, Side, Verdict, Xdp, clean, ensure_bpffs, fence, is_bpffs, look,
    probe::{Probe, Way},
};

struct Wire {
    bpffs: Bpffs,
    node: Netns,
    peer: Netns,
}

impl Wire {
    fn new() -> Self {
        let (node, peer) = (Netns::new(), Netns::new());
        node.ip(&format!("link add node0 type veth peer name peer0 netns {}", peer.name()));
        node.ip("link set node0 up");
        peer.ip("link set peer0 up");
        Self { bpffs: Bpffs::new(), node, peer }
    }

    fn options(&self) -> InterfaceOptions {
        let (ifindex, own_mac) = self.node.interface("node0");
        InterfaceOptions {
            ifindex,
            name: "node0".into(),
            cluster_mac: CLUSTER_MAC,
            own_mac,
            side: Side::Service,
            hash: HashMode::SourceIpPort,
            seed: SEED,
            border: Border::default(),
            mode: AttachMode::Auto,
            driver: None,
        }
    }

    fn open(&self) -> Xdp {
        Xdp::open(self.bpffs.options()).expect("open")
    }

    /// A loader in the node's namespace.
    fn attach(&self, xdp: &mut Xdp, options: &InterfaceOptions) -> rudel_datapath::Result<Mode> {
        self.node.enter(|| xdp.attach(options))
    }

    /// Sends a packet of a flow from the peer.
    fn send(&self, frame: &[u8]) {
        let (ifindex, _) = self.peer.interface("peer0");
        self.peer.enter(|| packet_socket::send(ifindex, frame));
    }

    /// Sends packets until the filter has counted one more of this verdict.
    fn send_until(&self, xdp: &Xdp, verdict: Verdict) {
        let count = || xdp.counters().expect("counters")[0].get(verdict).packets;
        let before = count();
        wait_for(verdict.name(), || {
            self.send(&packet());
            (count() > before).then_some(())
        });
    }
}

fn packet() -> Vec<u8> {
    ip_frame(&ip(CLIENT4, VIP4, UDP, &udp(40_000, 53)))
}

fn serve(xdp: &mut Xdp) {
    xdp.write_table(&BucketTable::OWNED).expect("write_table");
    xdp.write_lease(lease(Duration::from_secs(3600))).expect("write_lease");
}

#[test]
fn a_passed_packet_arrives_as_one_for_this_host() {
    require_bpf!("a_passed_packet_arrives_as_one_for_this_host");
    let wire = Wire::new();
    let mut xdp = wire.open();
    let options = wire.options();
    assert_eq!(wire.attach(&mut xdp, &options).expect("attach"), Mode::Generic, "auto is generic on veth");
    serve(&mut xdp);

    let received = wire.node.enter(|| {
        let socket = packet_socket::Receiver::open(options.ifindex);
        wait_for("a packet that passed", || {
            wire.send(&packet());
            socket.receive(UDP)
        })
    });
    assert_eq!(received.destination, options.own_mac);
    assert_eq!(received.packet_type, packet_socket::PACKET_HOST);
    xdp.release().expect("release");
}

#[test]
fn what_came_while_the_owner_was_not_heard_goes_up_when_the_bucket_is_owned() {
    require_bpf!("what_came_while_the_owner_was_not_heard_goes_up_when_the_bucket_is_owned");
    let wire = Wire::new();
    let options = wire.options();
    let mut xdp = wire.open();
    wire.attach(&mut xdp, &options).expect("attach");
    xdp.write_lease(lease(Duration::from_secs(3600))).expect("write_lease");
    let segment = |client: u16, bytes: usize| {
        ip_frame(&ip(CLIENT4, VIP4, TCP, &[tcp_syn(client, 443), vec![7; bytes]].concat()))
    };
    let mut aside = Aside::open(&wire.bpffs.node()).expect("the rings");
    let mut wait = |xdp: &Xdp, frames: &[Vec<u8>]| {
        let ignored = || xdp.counters().expect("counters")[0].get(Verdict::Ignored).packets;
        let before = ignored();
        frames.iter().for_each(|frame| wire.send(frame));
        wait_for("the filter to drop all", || (ignored() >= before + frames.len() as u64).then_some(()));
        let mut taken = Vec::new();
        assert_eq!(aside.take(|segment| taken.push(segment)), 0, "nothing is lost");
        taken
    };
    // Buckets that are another's set nothing aside, nor those that are merely kept.
    assert_eq!(wait(&xdp, &[segment(1000, 10)]), []);
    xdp.write_table(&BucketTable::new([BucketState::Kept; 256])).expect("write_table");
    assert_eq!(wait(&xdp, &[segment(1000, 10)]), []);
    xdp.write_table(&BucketTable::new([BucketState::KeptWatched; 256])).expect("write_table");
    assert_eq!(wait(&xdp, &[segment(1000, 10)]).len(), 1, "its keeper does not know the connection");
    xdp.write_table(&BucketTable::new([BucketState::Watched; 256])).expect("write_table");
    // UDP is not, nor what could not be put back: the veth takes more than a page, as one packet of merged ones.
    wire.peer.ip("link set peer0 mtu 9000");
    wire.node.ip("link set node0 mtu 9000");
    let (first, second) = (segment(1001, 100), segment(1002, 1400));
    let mut taken = wait(&xdp, &[first.clone(), packet(), segment(1003, 4000), second.clone()]);
    // Each CPU has a ring of its own, and this thread may have sent from two of them. Their times tell the order.
    taken.sort_by_key(|segment| segment.at_ns);
    let frames: Vec<&[u8]> = taken.iter().map(|segment| &segment.frame[..]).collect();
    assert!(
        frames == [&first[..], &second],
        "of TCP, as they came: {:?}",
        frames.iter().map(|f| f.len()).collect::<Vec<_>>()
    );
    assert!(taken.iter().all(|segment| segment.ifindex == options.ifindex));
    assert_ne!(taken[0].bucket, taken[1].bucket, "each has its own");

    // Put through the filter, what is owned by now goes up, and nothing else.
    let gates = xdp.gates();
    let [gate] = &gates[..] else { panic!("{gates:?}") };
    assert_eq!(gate.ifindex(), options.ifindex);
    xdp.write_table(&BucketTable::owning([taken[1].bucket])).expect("write_table");
    let received = wire.node.enter(|| {
        let socket = packet_socket::Receiver::open(options.ifindex);
        for segment in &taken {
            gate.put_through(&segment.frame).expect("a frame goes through the filter");
        }
        let received = wait_for("a packet that passed", || socket.receive(TCP));
        assert!(socket.receive(TCP).is_none(), "one of them is not owned");
        received
    });
    assert_eq!((received.destination, received.packet_type), (options.own_mac, packet_socket::PACKET_HOST));
    assert_eq!(received.bytes, second.len());
    // Nor anything without a lease.
    xdp.write_lease(LeaseUntil::LAPSED).expect("write_lease");
    let fenced = || xdp.counters().expect("counters")[0].get(Verdict::Fenced).packets;
    let before = fenced();
    wire.node.enter(|| gate.put_through(&second)).expect("the filter drops it");
    assert_eq!(fenced(), before + 1);
    xdp.release().expect("release");
    assert!(wire.bpffs.pins().is_empty());
}

#[test]
fn the_filter_outlives_its_loader_and_the_lease_silences_it() {
    require_bpf!("the_filter_outlives_its_loader_and_the_lease_silences_it");
    let wire = Wire::new();
    let options = wire.options();
    let mut first = wire.open();
    wire.attach(&mut first, &options).expect("attach");
    serve(&mut first);
    first.write_memo(b"n1, incarnation 7").expect("write_memo");
    wire.send_until(&first, Verdict::Passed);
    let way = Way { own_mac: PEER_MAC, cluster_mac: CLUSTER_MAC, from: None, to: VIP4.into() };
    let said = Probe { sender: 9, incarnation: 1, number: 1, proof: 1, tag: common::CLUSTER_TAG };
    wire.send(&said.frame(&way));
    wait_for("the probe", || first.probes().expect("probes").first().map(|probe| probe.count));
    first.write_lease(lease(Duration::from_millis(300))).expect("write_lease");
    drop(first); // as a daemon that dies

    assert!(wire.node.has_xdp("node0"));
    let reader = wire.open();
    let passed = reader.counters().expect("counters")[0].get(Verdict::Passed).packets;
    assert!(passed > 0, "counters survive");
    assert_eq!(reader.read_table().expect("read_table"), BucketTable::OWNED);
    wire.send_until(&reader, Verdict::Fenced); // it served, and falls silent by itself
    let silent_since = reader.counters().expect("counters")[0].get(Verdict::Passed).packets;
    wire.send_until(&reader, Verdict::Fenced);
    assert_eq!(reader.counters().expect("counters")[0].get(Verdict::Passed).packets, silent_since);
    drop(reader);

    // The successor takes the filter over: same link, new program, counters and probes go on.
    let mut second = wire.open();
    assert_eq!(second.read_memo().expect("read_memo"), b"n1, incarnation 7");
    assert_eq!(second.attached().count(), 0);
    let outside = InterfaceOptions { side: Side::Outside, ..options };
    assert_eq!(wire.attach(&mut second, &outside).expect("attach"), Mode::Generic);
    assert_eq!(second.attached().collect::<Vec<_>>(), [(outside.ifindex, Mode::Generic)]);
    serve(&mut second);
    wire.send_until(&second, Verdict::Passed);
    let counters = second.counters().expect("counters");
    assert_eq!((counters.len(), counters[0].name.as_str()), (1, "node0"));
    assert!(counters[0].get(Verdict::Passed).packets > silent_since);
    assert_eq!(second.probes().expect("probes")[0].sender, 9);

    second.release().expect("release");
    assert!(wire.bpffs.pins().is_empty() && !wire.bpffs.node().exists());
    assert!(!wire.node.has_xdp("node0"), "no program is left on the interface");
}

/// A link that is updated has the same number before and after; one that is made anew has not.
#[test]
fn replacing_a_filter_leaves_no_moment_without_one() {
    require_bpf!("replacing_a_filter_leaves_no_moment_without_one");
    let wire = Wire::new();
    let options = wire.options();
    let pin = wire.bpffs.node().join(format!("link_{}", options.ifindex));
    let link = || {
        let text = run(&["bpftool", "link", "show", "pinned", pin.to_str().expect("a path")]);
        let mut words = text.split_whitespace();
        let number = words.next().expect("the link's number").to_string();
        (number, words.skip_while(|word| *word != "prog").nth(1).expect("the program's number").to_string())
    };
    let mut first = wire.open();
    wire.attach(&mut first, &options).expect("attach");
    let (first_link, first_program) = link();
    drop(first);

    let mut second = wire.open();
    wire.attach(&mut second, &options).expect("attach");
    let (second_link, second_program) = link();
    assert_eq!(first_link, second_link);
    assert_ne!(first_program, second_program);
    // The same process may change its mind, too.
    wire.attach(&mut second, &InterfaceOptions { hash: HashMode::None, ..options }).expect("attach");
    assert_eq!(link().0, first_link);
    second.release().expect("release");
}

#[test]
fn an_explicit_mode_replaces_the_filter_of_another() {
    require_bpf!("an_explicit_mode_replaces_the_filter_of_another");
    let wire = Wire::new();
    let mut xdp = wire.open();
    let native = InterfaceOptions { mode: AttachMode::Native, ..wire.options() };
    assert_eq!(wire.attach(&mut xdp, &native).expect("attach"), Mode::Native);
    serve(&mut xdp);
    wire.send_until(&xdp, Verdict::Passed);

    let generic = InterfaceOptions { mode: AttachMode::Generic, ..native };
    assert_eq!(wire.attach(&mut xdp, &generic).expect("attach"), Mode::Generic);
    assert!(xdp.counters().expect("counters")[0].get(Verdict::Passed).packets > 0, "counters go on");
    wire.send_until(&xdp, Verdict::Passed);
    xdp.release().expect("release");
}

#[test]
fn native_where_the_driver_cannot() {
    require_bpf!("native_where_the_driver_cannot");
    let wire = Wire::new();
    wire.node.ip("link add bridge0 type bridge");
    let (ifindex, own_mac) = wire.node.interface("bridge0");
    let bridge = InterfaceOptions { ifindex, own_mac, name: "bridge0".into(), ..wire.options() };
    let mut xdp = wire.open();

    let native = InterfaceOptions { mode: AttachMode::Native, ..bridge.clone() };
    let error = wire.attach(&mut xdp, &native).expect_err("a bridge has no such mode");
    assert!(matches!(error, Error::Attach { mode: "native", .. }), "{error:?}");
    assert!(!wire.node.has_xdp("bridge0"));
    // Auto falls back, even if it is told of a driver that should be able to.
    let auto = InterfaceOptions { driver: Some("some_nic".into()), ..bridge };
    assert_eq!(wire.attach(&mut xdp, &auto).expect("attach"), Mode::Generic);
    xdp.release().expect("release");
}

#[test]
fn a_foreign_program_is_left_alone_and_named() {
    require_bpf!("a_foreign_program_is_left_alone_and_named");
    let wire = Wire::new();
    let object = concat!(env!("OUT_DIR"), "/baseline.bpf.o");
    wire.node.ip(&format!("link set dev node0 xdpgeneric obj {object} sec xdp"));

    let mut xdp = wire.open();
    let error = wire.attach(&mut xdp, &wire.options()).expect_err("occupied");
    let text = error.to_string();
    assert!(matches!(error, Error::Occupied { program_id: 1.., mode: "generic", .. }), "{error:?}");
    assert!(text.contains("ip link set dev node0 xdpgeneric off"), "{text}");
    assert!(wire.node.has_xdp("node0"), "it is still there");

    // The remedy in the message works.
    wire.node.ip("link set dev node0 xdpgeneric off");
    wire.attach(&mut xdp, &wire.options()).expect("attach");
    xdp.release().expect("release");
}

#[test]
fn an_interface_that_is_not_there() {
    require_bpf!("an_interface_that_is_not_there");
    let wire = Wire::new();
    let mut xdp = wire.open();
    let gone = InterfaceOptions { ifindex: 4_000_000, name: "eth9".into(), ..wire.options() };
    let error = wire.attach(&mut xdp, &gone).expect_err("no such interface");
    assert!(matches!(error, Error::InterfaceGone { .. }), "{error:?}");
    xdp.release().expect("release");
}

#[test]
fn the_pin_of_an_interface_that_went_away_is_in_nobody_s_way() {
    require_bpf!("the_pin_of_an_interface_that_went_away_is_in_nobody_s_way");
    let wire = Wire::new();
    let options = wire.options();
    let mut first = wire.open();
    wire.attach(&mut first, &options).expect("attach");
    serve(&mut first);
    wire.send_until(&first, Verdict::Passed);
    drop(first);

    // The same name and number again, but another interface.
    wire.node.ip("link del node0");
    wire.node.ip(&format!(
        "link add node0 index {} type veth peer name peer0 netns {}",
        options.ifindex,
        wire.peer.name()
    ));
    wire.node.ip("link set node0 up");
    wire.peer.ip("link set peer0 up");

    // Even with a program on it, it is not the one that our pin leads to.
    let object = concat!(env!("OUT_DIR"), "/baseline.bpf.o");
    wire.node.ip(&format!("link set dev node0 xdpgeneric obj {object} sec xdp"));
    let mut second = wire.open();
    let error = wire.attach(&mut second, &wire.options()).expect_err("occupied");
    assert!(matches!(error, Error::Occupied { .. }), "{error:?}");
    wire.node.ip("link set dev node0 xdpgeneric off");

    wire.attach(&mut second, &wire.options()).expect("attach");
    serve(&mut second);
    wire.send_until(&second, Verdict::Passed);
    second.release().expect("release");
    assert!(wire.bpffs.pins().is_empty());
}

#[test]
fn what_is_no_longer_configured_is_taken_down() {
    require_bpf!("what_is_no_longer_configured_is_taken_down");
    let wire = Wire::new();
    wire.node.ip("link add node1 type veth peer name node2");
    let other = |name: &str| {
        let (ifindex, own_mac) = wire.node.interface(name);
        InterfaceOptions { ifindex, own_mac, name: name.into(), ..wire.options() }
    };
    let mut first = wire.open();
    for options in [wire.options(), other("node1"), other("node2")] {
        wire.attach(&mut first, &options).expect("attach");
    }
    assert_eq!(first.counters().expect("counters").len(), 3);
    first.detach(other("node2").ifindex).expect("detach");
    assert!(!wire.node.has_xdp("node2"));
    drop(first);

    let mut second = wire.open();
    wire.attach(&mut second, &wire.options()).expect("attach");
    assert!(wire.node.has_xdp("node1"));
    second.detach_unclaimed().expect("detach_unclaimed");
    assert!(wire.node.has_xdp("node0") && !wire.node.has_xdp("node1"));
    let names: Vec<String> = second.counters().expect("counters").into_iter().map(|each| each.name).collect();
    assert_eq!(names, ["node0"]);
    second.release().expect("release");
}

#[test]
fn a_crashed_node_can_be_fenced_and_cleaned_from_outside() {
    require_bpf!("a_crashed_node_can_be_fenced_and_cleaned_from_outside");
    let wire = Wire::new();
    let dir = wire.bpffs.node();
    assert!(!fence(&dir).expect("nothing to fence"));
    assert!(!clean(&dir).expect("nothing to clean"));

    let mut crashed = wire.open();
    wire.attach(&mut crashed, &wire.options()).expect("attach");
    serve(&mut crashed);
    drop(crashed);

    assert!(fence(&dir).expect("fence"));
    let reader = wire.open();
    assert_eq!(reader.read_lease().expect("read_lease"), LeaseUntil::LAPSED);
    assert_eq!(reader.read_table().expect("read_table"), BucketTable::IGNORED);
    wire.send_until(&reader, Verdict::Ignored);
    assert!(wire.node.has_xdp("node0"), "the filter stays");
    drop(reader);

    // Whoever else holds the link, it comes off.
    let pin = dir.join(format!("link_{}", wire.options().ifindex));
    let shown = run(&["bpftool", "link", "show", "pinned", pin.to_str().expect("a path")]);
    let (number, _) = shown.split_once(':').expect("the link's number");
    let other = wire.bpffs.root().join("other");
    run(&["bpftool", "link", "pin", "id", number, other.to_str().expect("a path")]);
    assert!(clean(&dir).expect("clean"));
    assert!(!dir.exists() && !wire.node.has_xdp("node0"));
    std::fs::remove_file(other).expect("remove the other pin");
}

#[test]
fn a_late_writer_is_shut_out() {
    require_bpf!("a_late_writer_is_shut_out");
    let wire = Wire::new();
    let dir = wire.bpffs.node();
    assert_eq!(look(&dir).expect("nothing there"), None);
    let mut first = wire.open();
    let until = lease(Duration::from_secs(3600));
    first.write_table(&BucketTable::OWNED).expect("write_table");
    first.write_lease(until).expect("write_lease");
    first.write_memo(b"n1").expect("write_memo");
    let left = look(&dir).expect("look").expect("something");
    assert_eq!((left.memo.as_slice(), left.lease), (b"n1".as_slice(), until));

    let mut second = wire.open();
    first.write_lease(until).expect("to open is not to seize");
    assert_eq!(second.seize(), LeaseUntil::from_nanos(until.as_nanos() - 1));
    let refused = |result: rudel_datapath::Result<()>| assert!(matches!(result, Err(Error::TakenOver)));
    refused(first.write_lease(until));
    refused(first.write_table(&BucketTable::IGNORED));
    refused(first.clear());
    assert_eq!(second.read_table().expect("read_table"), BucketTable::OWNED, "nothing has changed");
    second.write_lease(until).expect("write_lease");
    assert!(fence(&dir).expect("fence"));
    refused(second.write_lease(until));
    // Also who had not served yet.
    assert_eq!(second.seize(), LeaseUntil::from_nanos(1));
    second.clear().expect("clear");
    assert!(fence(&dir).expect("fence"));
    refused(second.write_lease(until));
    drop((first, second));
    assert!(clean(&dir).expect("clean"));
}

#[test]
fn state_of_another_layout_is_replaced() {
    require_bpf!("state_of_another_layout_is_replaced");
    let wire = Wire::new();
    let mut old = wire.open();
    wire.attach(&mut old, &wire.options()).expect("attach");
    serve(&mut old);
    drop(old);
    let abi = wire.bpffs.node().join("abi");
    let abi = abi.to_str().expect("a path");
    run(&[
        "bpftool", "map", "update", "pinned", abi, "key", "0", "0", "0", "0", "value", "99", "0", "0", "0",
    ]);

    let error = fence(&wire.bpffs.node()).expect_err("another layout");
    assert!(matches!(error, Error::OtherAbi { found: 99, .. }), "{error:?}");

    let mut new = wire.open();
    assert!(!wire.node.has_xdp("node0"), "its filter is gone, too");
    assert_eq!(new.read_lease().expect("read_lease"), LeaseUntil::LAPSED);
    wire.attach(&mut new, &wire.options()).expect("attach");
    new.release().expect("release");
}

#[test]
fn a_state_that_was_made_halfway_is_made_again() {
    require_bpf!("a_state_that_was_made_halfway_is_made_again");
    let bpffs = Bpffs::new();
    drop(Xdp::open(bpffs.options()).expect("open"));
    std::fs::remove_file(bpffs.node().join("abi")).expect("remove a pin");
    let mut again = Xdp::open(bpffs.options()).expect("open");
    serve(&mut again);
    again.release().expect("release");
    assert!(bpffs.pins().is_empty());
}

#[test]
fn slots_run_out_and_come_back() {
    require_bpf!("slots_run_out_and_come_back");
    let bpffs = Bpffs::new();
    let mut xdp = Xdp::open(bpffs.options()).expect("open");
    let options = |ifindex| InterfaceOptions {
        ifindex,
        name: format!("eth{ifindex}"),
        ..common::interface(Side::Service, HashMode::SourceIp)
    };
    for ifindex in 1..=16 {
        xdp.load_filter(&options(ifindex)).expect("load");
    }
    let error = xdp.load_filter(&options(17)).expect_err("no slot");
    assert!(matches!(error, Error::TooManyInterfaces { limit: 16, .. }), "{error:?}");
    xdp.detach(3).expect("detach");
    xdp.load_filter(&options(17)).expect("a slot is free again");
    xdp.release().expect("release");
}

#[test]
fn who_begins_anew_leaves_no_memo_of_somebody_else() {
    require_bpf!("who_begins_anew_leaves_no_memo_of_somebody_else");
    let bpffs = Bpffs::new();
    let mut xdp = Xdp::open(bpffs.options()).expect("open");
    xdp.write_memo(b"n1, incarnation 7").expect("write_memo");
    drop(xdp); // as a daemon that dies
    let mut next = Xdp::open(bpffs.options()).expect("open");
    next.clear().expect("clear");
    next.write_lease(lease(Duration::from_secs(10))).expect("write_lease");
    drop(next); // before it has anything to go on with
    assert_eq!(Xdp::open(bpffs.options()).expect("open").read_memo().expect("read_memo"), b"");
}

#[test]
fn a_memo_that_does_not_fit() {
    require_bpf!("a_memo_that_does_not_fit");
    let bpffs = Bpffs::new();
    let mut xdp = Xdp::open(bpffs.options()).expect("open");
    assert_eq!(xdp.read_memo().expect("read_memo"), b"");
    let longest = vec![7; rudel_datapath::MEMO_BYTES_MAX];
    xdp.write_memo(&longest).expect("write_memo");
    assert!(matches!(xdp.write_memo(&[longest.clone(), vec![0]].concat()), Err(Error::MemoTooLong { .. })));
    assert_eq!(xdp.read_memo().expect("read_memo"), longest);
    xdp.release().expect("release");
}

#[test]
fn a_directory_that_is_not_on_a_bpf_file_system() {
    require_bpf!("a_directory_that_is_not_on_a_bpf_file_system");
    let dir = std::env::temp_dir().join(format!("rudel-datapath-plain-{}", std::process::id()));
    let error =
        Xdp::open(rudel_datapath::Options { pin_dir: dir.clone(), cluster_tag: 0 }).expect_err("not a bpffs");
    let text = error.to_string();
    assert!(text.contains(&format!("mount -t bpf bpf {}", dir.display())), "{text}");
    assert!(!dir.exists(), "nothing was made");

    let bpffs = Bpffs::new();
    assert!(is_bpffs(bpffs.root()).expect("is_bpffs"));
    assert_eq!(ensure_bpffs(&bpffs.node()).expect("ensure_bpffs"), rudel_datapath::Bpffs::Present);
    std::fs::remove_dir(bpffs.node()).expect("it was made");
}

/// Packet sockets, as far as these tests need them.
mod packet_socket {
    use std::{
        io,
        mem::{size_of, zeroed},
        os::fd::{AsRawFd, FromRawFd, OwnedFd},
    };

    /// For this host, by its own address.
    pub(crate) const PACKET_HOST: u8 = 0;

    pub(crate) struct Received {
        pub(crate) destination: [u8; 6],
        pub(crate) packet_type: u8,
        pub(crate) bytes: usize,
    }

    fn open(protocol: i32) -> OwnedFd {
        // SAFETY: the arguments are plain numbers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just given us this descriptor.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn address(ifindex: u32, protocol: i32) -> libc::sockaddr_ll {
        // SAFETY: all-zero is a value of this structure of integers.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex as i32;
        address.sll_protocol = protocol as u16;
        address
    }

    pub(crate) fn send(ifindex: u32, frame: &[u8]) {
        let socket = open(0);
        let address = address(ifindex, 0);
        // SAFETY: frame and address are live, and as long as we say.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(sent, frame.len() as isize, "send: {}", io::Error::last_os_error());
    }

    pub(crate) struct Receiver(OwnedFd);

    impl Receiver {
        pub(crate) fn open(ifindex: u32) -> Self {
            let protocol = i32::from((libc::ETH_P_IP as u16).to_be());
            let socket = open(protocol);
            let address = address(ifindex, protocol);
            // SAFETY: the address is live, and as long as we say.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    std::ptr::from_ref(&address).cast(),
                    size_of::<libc::sockaddr_ll>() as u32,
                )
            };
            assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
            Self(socket)
        }

        /// The next packet of an IP protocol, if one is there.
        pub(crate) fn receive(&self, protocol: u8) -> Option<Received> {
            let mut frame = [0; 2048];
            let mut from = address(0, 0);
            let mut from_bytes = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: buffer and address are live, and as long as we say.
            let received = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    std::ptr::from_mut(&mut from).cast(),
                    &mut from_bytes,
                )
            };
            if received < 34 || frame[23] != protocol {
                return None;
            }
            let destination = frame[..6].try_into().expect("six bytes");
            Some(Received { destination, packet_type: from.sll_pkttype, bytes: received as usize })
        }
    }
}
