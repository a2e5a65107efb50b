//! A stop that takes its time says how far it is: in the log, and to systemd, which must neither kill it nor wonder.

mod common;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use common::{lasting, lost, root, say, second, sessions};
use rudel_lab::{Lab, wait_until};

/// What systemd has been told since the last look, one text for each datagram.
fn told(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let mut all = Vec::new();
    while let Ok(len) = socket.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
    }
    all
}

#[test]
fn a_leave_that_waits_for_connections_tells_how_many_are_left() {
    let Some(_serial) = root() else { return };
    let mut lab = Lab::builder().nodes(2).build().expect("a lab");
    let path = lab.dir().join("notify.sock");
    let systemd = UnixDatagram::bind(&path).expect("a socket");
    systemd.set_nonblocking(true).expect("a setting");
    for name in ["n1", "n2"] {
        let node = lab.node_mut(name);
        node.start_services().expect("servers");
        let mut command = node.daemon_command().expect("a command");
        if name == "n2" {
            command.env("NOTIFY_SOCKET", &path);
        }
        node.start_daemon_as(command).expect("a daemon");
    }
    lab.wait_at_rest(&["n1", "n2"]).expect("two nodes");
    lab.wait_answering().expect("answers");
    assert!(told(&systemd).iter().any(|text| text.contains("READY=1")));

    let flows = lasting(&lab, 30_000, 60);
    let (early, late) = (sessions(&lab, &flows[..30]), sessions(&lab, &flows[30..]));
    lab.node_mut("n2").daemon().signal(libc::SIGTERM).expect("SIGTERM");

    let mut heard = Vec::new();
    let mut wait_for = |what: &str, holds: &dyn Fn(&str) -> bool| {
        wait_until(second(20), what, || {
            heard.extend(told(&systemd));
            match heard.iter().find(|text| holds(text)) {
                Some(text) => Ok(text.clone()),
                None => Err(format!("{heard:?}")),
            }
        })
        .expect("systemd is told")
    };
    wait_for("the stop to be told", &|text| text.contains("STOPPING=1"));
    let left = |text: &str| {
        let (_, rest) = text.split_once("STATUS=leaving: ")?;
        let (count, rest) = rest.split_once(" connection")?;
        (rest.contains(", cut off in ") && text.contains("EXTEND_TIMEOUT_USEC=")).then_some(())?;
        count.parse::<u32>().ok()
    };
    let first = wait_for("how many connections are left", &|text| left(text).is_some_and(|count| count > 0));
    let all = left(&first).expect("a number");
    let gone = early.finish().expect("sessions");
    let fewer = |text: &str| left(text).is_some_and(|count| count > 0 && count < all);
    wait_for("fewer connections", &fewer);
    // It goes on asking for time for as long as it takes.
    let begin = Instant::now();
    let mut extensions = 0;
    wait_until(second(30), "more extensions", || {
        extensions += told(&systemd).iter().filter(|text| text.contains("EXTEND_TIMEOUT_USEC=")).count();
        if extensions >= 3 { Ok(()) } else { Err(format!("{extensions} after {:?}", begin.elapsed())) }
    })
    .expect("extensions");
    let rest = late.finish().expect("sessions");
    let status = lab.node_mut("n2").daemon().wait(second(20)).expect("it ends with the last connection");
    assert!(status.success(), "{status}");
    assert_eq!([lost(&gone), lost(&rest)], [const { Vec::<String>::new() }; 2]);

    let of_n2 = gone.iter().chain(&rest).filter(|session| session.node == "n2").count();
    assert_eq!(u32::try_from(of_n2).ok(), Some(all), "every connection of n2 was counted");
    let log = lab.node("n2").daemon_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("leaving: ")).collect();
    assert!(lines.iter().any(|line| line.contains(&format!("leaving: {all} connections left in "))), "{log}");
    assert!(lines.len() < 20 + usize::try_from(begin.elapsed().as_secs()).unwrap_or(0), "{log}");
    let shown: Vec<&str> =
        lines.iter().filter_map(|line| line.split_once("leaving: ")).map(|l| l.1).collect();
    say(&format!(
        "n2 had {all} connections; its log: {shown:?}; {:?}",
        Duration::from_secs(begin.elapsed().as_secs())
    ));
}
