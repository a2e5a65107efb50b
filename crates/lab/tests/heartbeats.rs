//! How the nodes hear each other: over IPv6, over two links, over a link of its own.
//!
//! ```text
//!  ──┬─────────┬── br1 ──┬──       the backbone: heartbeats alone
//!    │eth1     │eth1     │eth1
//!    n1        n2        n3
//!    │eth0     │eth0     │eth0
//!  ──┴─────────┴── br0 ──┴──       the clients' network, with or without heartbeats
//!                   │
//!                   c1
//! ```

mod common;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::{audited, cluster, epochs, ms, prober, root, say};
use rudel_lab::failover::{self, Fault};
use rudel_lab::probe::Report;
use rudel_lab::{Lab, Owners, Settings, status, wait_until};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
const SURVIVORS: [&str; 2] = ["n1", "n3"];
const GROUP4: &str = "239.255.74.40:7440";
const GROUP6: &str = "[ff02::4a:28]:7440";

fn with_backbone(settings: Settings) -> Lab {
    let mut lab = Lab::builder().backbone().settings(settings).build().expect("a lab");
    if let Err(error) = lab.start() {
        panic!("the cluster does not start: {error:#}");
    }
    lab
}

/// Does the client, who gets every multicast of its network, hear a heartbeat to this group within `patience`?
fn client_hears(lab: &Lab, group: &str, patience: Duration) -> bool {
    let group: SocketAddr = group.parse().expect("an address and a port");
    let own = lab.client().address4();
    let heard = lab.client().run(|| {
        let socket = match group.ip() {
            IpAddr::V4(address) => {
                let socket = UdpSocket::bind(group)?;
                socket.join_multicast_v4(&address, &own)?;
                socket
            }
            // There is only one interface that it could be.
            IpAddr::V6(address) => {
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, group.port()))?;
                socket.join_multicast_v6(&address, 0)?;
                socket
            }
        };
        socket.set_read_timeout(Some(patience))?;
        Ok::<_, std::io::Error>(socket.recv_from(&mut [0; 2048]).is_ok())
    });
    heard.expect("in the client").expect("a socket")
}

/// From some moment on `victim` answers nothing that is asked.
fn assert_silent_since(report: &Report, victim: &str, from: Instant, until: Instant) {
    let late = report
        .records
        .iter()
        .filter(|r| r.start >= from && r.start < until && r.outcome.as_deref() == Ok(victim))
        .count();
    assert_eq!(late, 0, "{victim} answered after its lease");
}

#[test]
fn over_ipv6() {
    let Some(_serial) = root() else { return };
    let settings =
        Settings { group: Some(GROUP6.to_owned()), hash: "source-ip".to_owned(), ..Settings::default() };
    let mut lab = cluster(3, settings);
    assert!(client_hears(&lab, GROUP6, ms(2000)), "heartbeats go to the group");
    assert!(!client_hears(&lab, GROUP4, ms(1000)), "and to no other");
    let failover =
        failover::measure(&mut lab, &ALL, "n2", Fault::PowerOff).expect("the others notice a loss");
    status::only_moved_from(&failover.before, &failover.after, "n2", &SURVIVORS).expect("least movement");
    lab.power_on("n2").expect("on");
    lab.wait_at_rest(&ALL).expect("n2 is back");
}

/// Either link will do; without both, a node of a cluster with a quorum falls silent before others take its share.
#[test]
fn over_two_links() {
    let Some(_serial) = root() else { return };
    let heartbeats = vec!["eth0".to_owned(), "eth1".to_owned()];
    let mut lab = with_backbone(Settings { quorum: 2, heartbeats, ..Settings::default() });
    let timeout = lab.settings().timeout;
    let owners = lab.wait_at_rest(&ALL).expect("at rest");
    let views = epochs(&lab, &ALL);

    let mut undisturbed = |what: &str, happens: &dyn Fn(&mut Lab) -> Result<(), anyhow::Error>| {
        undisturbed_by(&mut lab, &owners, &views, what, happens);
    };
    undisturbed("the backbone of n2 is cut", &|lab| lab.set_backbone_link("n2", false));
    undisturbed("the backbone of n2 is whole", &|lab| lab.set_backbone_link("n2", true));
    undisturbed("the switch loses the heartbeats of n2", &|lab| lab.lose_heartbeats(&["n2"]));

    let prober = prober(&lab);
    let ((cut, mended, after), tally) = audited(&mut lab, |lab| {
        prober.wait_answers(150).expect("answers");
        lab.set_backbone_link("n2", false).expect("cut");
        let cut = Instant::now();
        let after = lab.wait_at_rest(&SURVIVORS).expect("n2 is given up");
        // Clients still reach n2, and are not to notice that.
        prober.wait_questions(500).expect("questions");
        let mended = Instant::now();
        lab.lose_heartbeats(&[]).expect("mended");
        lab.wait_at_rest(&ALL).expect("n2 is back");
        prober.wait_answers(150).expect("answers");
        (cut, mended, after)
    });
    let report = prober.finish().expect("a report");
    status::only_moved_from(&owners, &after, "n2", &SURVIVORS).expect("least movement");
    assert!(report.per_node().contains_key("n2"), "n2 served before");
    assert_silent_since(&report, "n2", cut + timeout, mended);
    assert_eq!(tally.repeated, [], "answered twice, of {} queries", tally.sent);
    wait_alarm(&lab, "n2", "no heartbeats go by eth1: it has no carrier");
    lab.set_backbone_link("n2", true).expect("mended");
    wait_alarm(&lab, "n2", "");

    // An interface that is taken away and comes back is another one to the kernel.
    let owners = lab.wait_at_rest(&ALL).expect("at rest");
    let views = epochs(&lab, &ALL);
    let (switch, n2) = (lab.switch(), lab.node("n2").namespace());
    n2.ip(&format!("link set eth1 netns {}\n", switch.name())).expect("eth1 is taken away");
    wait_alarm(&lab, "n2", "no heartbeats go by eth1: the interface is gone");
    switch.ip(&format!("link set eth1 netns {}\n", n2.name())).expect("eth1 comes back");
    wait_alarm(&lab, "n2", "no heartbeats go by eth1: it has no carrier");
    n2.ip("link set eth1 up\n").expect("eth1 is up");
    wait_alarm(&lab, "n2", "no heartbeats go by eth1: eth1 has no IPv4 address");
    n2.ip("addr add 10.75.0.12/24 dev eth1\n").expect("an address");
    wait_alarm(&lab, "n2", "");
    undisturbed_by(&mut lab, &owners, &views, "n2 is heard by eth1 alone", |lab| {
        lab.lose_heartbeats(&["n2"])
    });
    lab.lose_heartbeats(&[]).expect("mended");
}

/// Waits until a node shows an alarm that begins so, or none at all.
fn wait_alarm(lab: &Lab, node: &str, alarm: &str) {
    wait_until(rudel_lab::REST_DEADLINE, alarm, || {
        let status = lab.node(node).status().map_err(|error| error.to_string())?;
        let shown: Vec<&str> =
            status.0["alarms"].as_array().into_iter().flatten().filter_map(|text| text.as_str()).collect();
        let is_so =
            if alarm.is_empty() { shown.is_empty() } else { shown.iter().any(|a| a.starts_with(alarm)) };
        if is_so { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .expect("an alarm, or none");
}

/// Something happens to heartbeats, and nothing else.
fn undisturbed_by(
    lab: &mut Lab,
    owners: &Owners,
    views: &[u64],
    what: &str,
    happens: impl FnOnce(&mut Lab) -> Result<(), anyhow::Error>,
) {
    let prober = prober(lab);
    happens(lab).expect(what);
    // A second: more than two time-outs.
    prober.wait_answers(500).expect("answers");
    assert_eq!(lab.wait_at_rest(&ALL).expect("at rest"), *owners, "{what}: nothing moves");
    assert_eq!(epochs(lab, &ALL), views, "{what}: nothing happens");
    let report = prober.finish().expect("a report");
    assert!(report.failed().is_empty() && report.delayed().is_empty(), "{what}: {}", report.failures());
}

/// Does `n2` know that it cannot serve, and do the others have all of its buckets?
fn wait_share_given_away(lab: &Lab) -> Owners {
    wait_until(rudel_lab::REST_DEADLINE, "n2 to have given its share away", || {
        let (n1, n2) = (lab.node("n1").status(), lab.node("n2").status());
        let (n1, n2) = n1.and_then(|n1| Ok((n1, n2?))).map_err(|e| format!("{e:#}"))?;
        let counts = status::counts(&n1.owners());
        status::balanced(&counts, &SURVIVORS)?;
        if counts.values().sum::<usize>() != 256 || !n1.settled() {
            return Err(format!("not at rest: {counts:?}"));
        }
        if n2.serving() { Err("n2 still serves".to_owned()) } else { Ok(n1.owners()) }
    })
    .expect("the others serve all")
}

#[test]
fn over_a_link_of_their_own() {
    let Some(_serial) = root() else { return };
    let heartbeats = vec!["eth1".to_owned()];
    let mut lab = with_backbone(Settings { quorum: 2, heartbeats, ..Settings::default() });
    let timeout = lab.settings().timeout;
    assert!(!client_hears(&lab, GROUP4, ms(1000)), "no heartbeat goes to the clients' network");

    // Without a cable to the clients n2 is of no use, and says so: nobody waits for a time-out.
    let owners = lab.wait_at_rest(&ALL).expect("at rest");
    let probing = prober(&lab);
    probing.wait_answers(150).expect("answers");
    let unplugged = Instant::now();
    lab.set_link("n2", false).expect("unplugged");
    let after = wait_share_given_away(&lab);
    probing.wait_answers(250).expect("answers");
    let report = probing.finish().expect("a report");
    status::only_moved_from(&owners, &after, "n2", &SURVIVORS).expect("least movement");
    let hurt = report.hurt_since(unplugged);
    say(&format!("a cable is pulled, heartbeats go on: outage {hurt:?}"));
    assert!(hurt < timeout, "{hurt:?} without service: {}", report.failures());
    for name in SURVIVORS {
        let events = lab.node(name).status().expect("a status").events();
        assert!(!events.iter().any(|(kind, ..)| kind == "expired"), "nobody was given up: {events:?}");
    }
    lab.set_link("n2", true).expect("plugged in");
    let owners = lab.wait_at_rest(&ALL).expect("n2 takes its share again");

    // Without heartbeats n2 is alone, though clients reach it: it must not serve.
    let probing = prober(&lab);
    let ((cut, mended, after), tally) = audited(&mut lab, |lab| {
        probing.wait_answers(150).expect("answers");
        lab.set_backbone_link("n2", false).expect("cut");
        let cut = Instant::now();
        let after = lab.wait_at_rest(&SURVIVORS).expect("n2 is given up");
        probing.wait_questions(500).expect("questions");
        let mended = Instant::now();
        lab.set_backbone_link("n2", true).expect("mended");
        lab.wait_at_rest(&ALL).expect("n2 is back");
        (cut, mended, after)
    });
    let report = probing.finish().expect("a report");
    status::only_moved_from(&owners, &after, "n2", &SURVIVORS).expect("least movement");
    assert_silent_since(&report, "n2", cut + timeout, mended);
    assert_eq!(tally.repeated, [], "answered twice, of {} queries", tally.sent);
}
