//! Every error of the program, collected, as it is read: what happened, to what, and what to do.
//!
//! `tests/fixtures/messages.txt` holds them as they were looked at, and `log.txt` the lines of the log that wake somebody;
//! `RUDEL_WRITE_SCREENS=1` writes them anew. That none is missing is found out in the sources, in which each error has an
//! `#[error(…)]` and each line a `warn!` or `error!`. Besides these there are failures whose
//! advice the compiler asks for (`Failure` of the control socket and of the tool, the `help:` lines of a refused
//! configuration); they are provoked in `tests/errors.rs` of daemon and tool.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rudel_api::config::parse_duration;
use rudel_api::config::reference::PageError;
use rudel_api::control::{ClientError, Failure};
use rudel_api::key::{ClusterKey, ClusterKeys};
use rudel_api::timestamp::Timestamp;
use rudel_datapath::Error as Datapath;
use rudel_proto::id::NodeName;
use rudel_proto::machine::ResumeError;
use rudel_proto::seal::Rejection;

use crate::control::ControlError;
use crate::heartbeat::{OpenError, SendError};
use crate::host::journal::JournalError;
use crate::host::links::LinkError;
use crate::host::membership::MembershipError;
use crate::host::sysctl::Sysctl;
use crate::host::{HostError, MacAddr};
use crate::host_setup::{SetupError, told};
use crate::neighbor::{arp, ndp};
use crate::privilege::MissingCapabilities;
use crate::pulse::{PulseError, RequestError};
use crate::store::StoreError;
use crate::web::WebError;

/// Who reads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reader {
    /// An administrator, as a line of its own.
    Administrator,
    /// An administrator, within another message, which has the advice.
    Within(&'static str),
    /// Who looks for a fault at level debug; it is counted under a name in the metrics.
    Counted,
}

/// What tells what to do. One of these must stand in each line that an administrator reads.
const ADVICE: &[&str] = &[
    "start ",
    "stop ",
    "mount ",
    "remove ",
    "make ",
    "give ",
    "free ",
    "raise ",
    "see ",
    "run ",
    "copy ",
    "name ",
    "set ",
    "install ",
    "report ",
    "drain ",
    "change ",
    "check ",
    "allowed is ",
    "let ",
    "look at ",
    "leave ",
    "put ",
    "load ",
    "upgrade ",
    "find out ",
    "is IPv6 switched off",
    "chmod ",
    "such as ",
    "try again",
    "read it ",
    "mend ",
    "use ",
    "wait ",
    "is not one of ",
    "nothing to do",
    "restart ",
    "trying again",
];

/// Lines of the log that consist of what was said elsewhere, and where that says what to do.
const CARRIED: &[(&str, &str)] = &[
    ("{event}", "an event of the protocol: docs/troubleshooting.md, by its kind"),
    ("{reason}", "an event of the history: docs/troubleshooting.md, by its kind"),
    ("{warning}", "a warning of the configuration, with its advice behind the semicolon"),
    ("datagrams rejected: {rejection}", "Rejection, above"),
    (
        "the configuration was read again, and nothing was changed:\\n{}",
        "a refusal of a reload, with its help",
    ),
];

struct Collection(BTreeMap<String, (Reader, Vec<String>)>);

impl Collection {
    fn add(&mut self, name: &str, reader: Reader, text: impl ToString) {
        let (known, texts) = self.0.entry(name.to_owned()).or_insert((reader, Vec::new()));
        assert!(*known == reader, "{name}");
        texts.push(text.to_string());
    }
}

fn os(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

#[expect(clippy::too_many_lines, reason = "it is a list")]
fn collect() -> Collection {
    use Reader::{Administrator, Counted, Within};
    let mut all = Collection(BTreeMap::new());
    let path = |text: &str| PathBuf::from(text);
    let name = || "eth0".to_owned();

    // The tool and the configuration.
    let socket = || path("/run/rudel/rudel.sock");
    for (variant, error) in [
        ("Connect", ClientError::Connect { path: socket(), source: os(libc::ENOENT) }),
        ("Connect", ClientError::Connect { path: socket(), source: os(libc::EACCES) }),
        ("Timeout", ClientError::Timeout { path: socket() }),
        ("Lost", ClientError::Lost { path: socket(), source: io::ErrorKind::UnexpectedEof.into() }),
        ("Malformed", ClientError::Malformed { path: socket(), why: "no JSON".into() }),
        ("Schema", ClientError::Schema { path: socket(), schema: 2 }),
        ("Refused", ClientError::Refused(Failure::new("there is no node n9", "name one of n1, n2"))),
    ] {
        all.add(&format!("ClientError::{variant}"), Administrator, format!("{error}: {}", error.remedy()));
    }
    all.add("Failure", Within("with its remedy"), Failure::new("there is no node n9", "name one of n1, n2"));
    for (file, text, mode, variant) in [
        ("missing", None, 0o600, "Missing"),
        ("directory", Some(""), 0, "NotAFile"),
        ("exposed", Some("x"), 0o644, "Exposed"),
        ("empty", Some("# nothing\n"), 0o600, "Empty"),
        ("rubbish", Some("secret\n"), 0o600, "Malformed"),
        ("many", Some("many"), 0o600, "TooMany"),
    ] {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join(file);
        match text {
            None => {}
            Some("") => std::fs::create_dir(&at).expect("a directory"),
            Some(text) => {
                let keys = |_| ClusterKey::generate().expect("a key").to_file_text().to_string();
                let text = if text == "many" { (0..5).map(keys).collect() } else { text.to_owned() };
                std::fs::write(&at, text).expect("a file");
                std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).expect("a mode");
            }
        }
        let error = ClusterKeys::load(&at).expect_err(file);
        let plain = |text: String| text.replace(&at.display().to_string(), "/etc/rudel/key");
        all.add("KeyError", Administrator, plain(format!("{error}: {}", error.remedy())));
        let kind = std::error::Error::source(&error).expect("a kind").to_string();
        all.add(&format!("KeyErrorKind::{variant}"), Within("KeyError"), kind);
    }
    let unreadable = rudel_api::key::KeyErrorKind::Unreadable(os(libc::EIO));
    all.add("KeyErrorKind::Unreadable", Within("KeyError"), unreadable);
    all.add(
        "ValueError",
        Within("a refused configuration, with its help line"),
        parse_duration("5").expect_err("no unit"),
    );
    let flow = "tcp 192.0.2.1 192.0.2.10:80".parse::<rudel_api::flow::FlowSpec>();
    all.add("FlowError", Within("`rudel why`, with its usage"), flow.expect_err("no port"));
    all.add("InvalidTimestamp", Administrator, "yesterday".parse::<Timestamp>().expect_err("no time"));
    let mark = "<!-- [node] -->".to_owned();
    all.add("PageError::Mark", Administrator, PageError::Mark { mark: mark.clone(), count: 0 });
    all.add("PageError::Endless", Administrator, PageError::Endless { mark });
    let allowed = Within("a refused configuration or --name, which say what is allowed");
    all.add("NameError::Length", allowed, NodeName::new("").expect_err("too short"));
    all.add("NameError::Character", allowed, NodeName::new("n 1").expect_err("a blank"));
    let word = "round-robin".parse::<rudel_datapath::HashMode>().expect_err("no mode");
    all.add("UnknownWord", Administrator, word);

    // The protocol.
    use rudel_proto::config::ConfigError;
    let second = std::time::Duration::from_secs(1);
    all.add("ConfigError::Timeout", Administrator, ConfigError::Timeout(second * 90));
    all.add("ConfigError::Interval", Administrator, ConfigError::Interval(second));
    all.add("ConfigError::Quorum", Administrator, ConfigError::Quorum(33));
    all.add("ConfigError::Weight", Administrator, ConfigError::Weight(1001));
    let anew = Within("the log: it joins anew instead");
    all.add("ResumeError::Lapsed", anew, ResumeError::Lapsed);
    all.add("ResumeError::OtherNode", anew, ResumeError::OtherNode);
    all.add("ResumeError::OtherDigest", anew, ResumeError::OtherDigest);
    let replay = rudel_proto::record::ReplayError { line: 3, what: "no JSON".into() };
    all.add("ReplayError", Within("rudel-sim replay"), replay);
    let n2 = || "n2".to_owned();
    for (variant, reader, rejection) in [
        ("Foreign", Counted, Rejection::Foreign),
        ("Version", Administrator, Rejection::Version(9)),
        ("Cluster", Administrator, Rejection::Cluster { cluster: "dns".into(), name: n2() }),
        ("Key", Administrator, Rejection::Key { name: n2() }),
        ("Forged", Administrator, Rejection::Forged { name: n2() }),
        ("Repeated", Counted, Rejection::Repeated { name: n2() }),
        ("Outdated", Counted, Rejection::Outdated { name: n2() }),
        ("DuplicateName", Administrator, Rejection::DuplicateName { name: n2() }),
        ("Malformed", Administrator, Rejection::Malformed { name: n2(), what: "it ends too early" }),
        ("Unproven", Counted, Rejection::Unproven { name: n2() }),
    ] {
        all.add(&format!("Rejection::{variant}"), reader, rejection);
    }

    // The packet filter.
    let pins = || path("/sys/fs/bpf/rudel/web-n1");
    let cause = || Box::new(os(libc::ENOMEM));
    for (variant, error) in [
        ("TakenOver", Datapath::TakenOver),
        ("NotBpffs", Datapath::NotBpffs { dir: path("/tmp/rudel"), mount: path("/tmp") }),
        ("Mount", Datapath::Mount { mount: path("/sys/fs/bpf"), source: os(libc::EPERM) }),
        ("Pin", Datapath::Pin { doing: "create", path: pins(), source: os(libc::EEXIST) }),
        ("Permission", Datapath::Permission { doing: "load the packet program", source: os(libc::EPERM) }),
        ("NoBpf", Datapath::NoBpf { source: os(libc::ENOSYS) }),
        (
            "KernelTooOld",
            Datapath::KernelTooOld { running: "5.4.0".into(), missing: "it has no BPF links for XDP" },
        ),
        ("Refused", Datapath::Refused { source: os(libc::EACCES) }),
        ("Object", Datapath::Object(cause())),
        ("Map", Datapath::Map { doing: "open", map: "buckets", source: cause() }),
        ("OtherAbi", Datapath::OtherAbi { dir: pins(), found: 3, expected: 4 }),
        ("InterfaceGone", Datapath::InterfaceGone { name: name(), ifindex: 4 }),
        ("Query", Datapath::Query { name: name(), source: os(libc::ENODEV) }),
        ("Occupied", Datapath::Occupied { name: name(), program_id: 17, mode: "native", off: "xdpdrv" }),
        ("Attach", Datapath::Attach { name: name(), mode: "native", hint: "", source: os(libc::EOPNOTSUPP) }),
        ("Replace", Datapath::Replace { name: name(), source: os(libc::EINVAL) }),
        ("Detach", Datapath::Detach { path: pins(), source: os(libc::EPERM) }),
        ("TooManyInterfaces", Datapath::TooManyInterfaces { name: name(), limit: 64 }),
        ("Ring", Datapath::Ring { source: os(libc::EPERM) }),
        ("PutThrough", Datapath::PutThrough { source: os(libc::EINVAL) }),
        ("MemoTooLong", Datapath::MemoTooLong { bytes: 9000, limit: 4096 }),
    ] {
        all.add(&format!("Error::{variant}"), Administrator, told(&error));
    }
    all.add("SetupError::Datapath", Administrator, SetupError::Datapath(Datapath::TakenOver));
    all.add("PulseError::Datapath", Administrator, PulseError::Datapath(Datapath::TakenOver));
    all.add("PulseError::Poll", Administrator, PulseError::Poll(os(libc::ENOMEM)));
    let answered = Within("the control socket, with its remedy");
    all.add("RequestError::Stopped", answered, RequestError::Stopped);
    all.add("RequestError::Busy", answered, RequestError::Busy);

    // The host.
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
    let v6: Ipv6Addr = "2001:db8::10".parse().expect("an address");
    let journal = || path("/run/rudel/web-n1.journal");
    let not_understood = || JournalError::NotUnderstood { path: journal(), reason: "no JSON".into() };
    let netlink = |name| LinkError::Netlink { name, source: os(libc::EPERM) };
    for (variant, error) in [
        ("Link", HostError::Link(netlink(name()))),
        ("AddressOnInterface", HostError::AddressOnInterface { address, prefix_len: 24, interface: name() }),
        ("Netlink", HostError::Netlink { action: "list the addresses", source: os(libc::ENOBUFS) }),
        ("AddAddress", HostError::AddAddress { address, source: os(libc::EPERM) }),
        ("AddAddress", HostError::AddAddress { address: v6.into(), source: os(libc::EACCES) }),
        (
            "Sysctl",
            HostError::Sysctl {
                sysctl: "net.ipv4.conf.eth0.arp_ignore".into(),
                action: "set".into(),
                source: os(libc::EROFS),
            },
        ),
        ("Table", HostError::Table { table: "inet rudel_web".into(), source: os(libc::EOPNOTSUPP) }),
        ("Journal", HostError::Journal(not_understood())),
        ("Restore", HostError::Restore(vec!["cannot remove 192.0.2.10 from lo".into()])),
    ] {
        all.add(&format!("HostError::{variant}"), Administrator, error);
    }
    all.add("SetupError::Host", Administrator, SetupError::Host(HostError::Link(netlink(name()))));
    let io = JournalError::Io { path: journal(), action: "write", source: os(libc::ENOSPC) };
    all.add("JournalError::Io", Administrator, io);
    all.add("JournalError::NotUnderstood", Administrator, not_understood());
    all.add("LinkError::NotFound", Administrator, LinkError::NotFound { name: name() });
    all.add("LinkError::NotEthernet", Administrator, LinkError::NotEthernet { name: "tun0".into() });
    all.add("LinkError::Netlink", Administrator, netlink(name()));
    all.add("ParseMacError", Administrator, "03:bf".parse::<MacAddr>().expect_err("too short"));
    let sysctl = Sysctl::ipv4_conf("eth0", "../shadow").expect_err("elsewhere");
    all.add("NotASysctl", Within("a journal that was changed by hand"), sysctl);
    let mac: MacAddr = "03:bf:c0:00:02:0a".parse().expect("an address");
    let groups = "ff02::1:ff00:10".parse().expect("a group");
    for (variant, error) in [
        ("ClusterMac", MembershipError::ClusterMac { mac, source: os(libc::ENODEV) }),
        (
            "IgmpGroup",
            MembershipError::IgmpGroup { group: Ipv4Addr::new(239, 255, 2, 10), source: os(libc::ENOBUFS) },
        ),
        (
            "SolicitedNode",
            MembershipError::SolicitedNode { address: v6, group: groups, source: os(libc::EACCES) },
        ),
    ] {
        all.add(&format!("MembershipError::{variant}"), Administrator, error);
    }
    let membership = MembershipError::ClusterMac { mac, source: os(libc::ENODEV) };
    let setup = SetupError::Membership { interface: name(), source: membership };
    all.add("SetupError::Membership", Administrator, setup);

    // Sockets and files of the daemon.
    let group: SocketAddr = "239.255.74.40:7440".parse().expect("an address");
    let group6: SocketAddr = "[ff02::4a:28]:7440".parse().expect("an address");
    for (variant, error) in [
        ("NotAGroup", OpenError::NotAGroup { group: "192.0.2.1:7440".parse().expect("an address") }),
        ("Link", OpenError::Link(LinkError::NotFound { name: "eth9".into() })),
        ("NoIpv4Address", OpenError::NoIpv4Address { interface: name(), group }),
        ("Join", OpenError::Join { interface: name(), group, source: os(libc::ENOBUFS) }),
        ("Join", OpenError::Join { interface: name(), group: group6, source: os(libc::EACCES) }),
        ("Socket", OpenError::Socket { interface: name(), group, source: os(libc::EADDRINUSE) }),
    ] {
        all.add(&format!("OpenError::{variant}"), Administrator, error);
    }
    for (variant, error) in [
        ("LinkDown", SendError::LinkDown(os(libc::ENETDOWN))),
        ("Gone", SendError::Gone(os(libc::ENODEV))),
        ("Busy", SendError::Busy(os(libc::ENOBUFS))),
        ("Forbidden", SendError::Forbidden(os(libc::EPERM))),
        ("TooLong", SendError::TooLong(os(libc::EMSGSIZE))),
        ("Other", SendError::Other(os(libc::EINVAL))),
    ] {
        all.add(&format!("SendError::{variant}"), Counted, error);
    }
    let lock = path("/run/rudel/web-n1.lock");
    all.add("StoreError::Running", Administrator, StoreError::Running { node: "n1".into(), lock });
    let store = StoreError::Io { action: "make", path: path("/var/lib/rudel"), source: os(libc::EROFS) };
    all.add("StoreError::Io", Administrator, store);
    all.add("ControlError::InUse", Administrator, ControlError::InUse(socket()));
    all.add("ControlError::NoSocket", Administrator, ControlError::NoSocket(socket()));
    let control = ControlError::Io { path: socket(), source: os(libc::ENOENT) };
    all.add("ControlError::Io", Administrator, control);
    let web =
        WebError { address: "192.0.2.99:9440".parse().expect("an address"), source: os(libc::EADDRNOTAVAIL) };
    all.add("WebError", Administrator, web);
    all.add("MissingCapabilities", Administrator, MissingCapabilities::of(vec!["CAP_NET_ADMIN", "CAP_BPF"]));

    // Packets of others, which are no business of an administrator's one by one.
    for (variant, error) in [
        ("NotArp", arp::Malformed::NotArp),
        ("TooShort", arp::Malformed::TooShort),
        ("NotEthernetIpv4", arp::Malformed::NotEthernetIpv4),
        ("UnknownOperation", arp::Malformed::UnknownOperation(9)),
        ("ImpossibleSender", arp::Malformed::ImpossibleSender(mac)),
    ] {
        all.add(&format!("Malformed::{variant}"), Counted, error);
    }
    for (variant, error) in [
        ("NotIpv6", ndp::Malformed::NotIpv6),
        ("NotIcmpv6", ndp::Malformed::NotIcmpv6),
        ("OtherType", ndp::Malformed::OtherType),
        ("TooShort", ndp::Malformed::TooShort),
        ("HopLimit", ndp::Malformed::HopLimit(64)),
        ("Checksum", ndp::Malformed::Checksum),
        ("MulticastTarget", ndp::Malformed::MulticastTarget),
        ("BrokenOption", ndp::Malformed::BrokenOption),
        ("ImpossibleSource", ndp::Malformed::ImpossibleSource),
        ("SolicitedByGroup", ndp::Malformed::SolicitedByGroup),
    ] {
        all.add(&format!("Malformed::{variant}"), Counted, error);
    }
    all
}

/// The errors of a source file, as `Type::Variant` or `Type`.
fn errors_of(source: &str) -> Vec<String> {
    let (mut errors, mut named) = (Vec::new(), String::new());
    // Within an attribute, then before what it is about.
    let (mut inside, mut pending) = (false, false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[error(") {
            (inside, pending) = (true, true);
        }
        if inside {
            inside = !(line.ends_with(")]"));
            continue;
        }
        if line.starts_with("//") || line.starts_with("#[") || line.is_empty() {
            continue;
        }
        let word =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let declared = ["enum ", "struct "].iter().find_map(|kind| {
            let (before, after) = line.split_once(kind)?;
            (before.is_empty() || before.starts_with("pub")).then(|| word(after))
        });
        match (declared, pending) {
            (Some(name), true) => errors.push(name),
            (Some(name), false) => named = name,
            (None, true) => errors.push(format!("{named}::{}", word(line))),
            (None, false) => {}
        }
        pending = false;
    }
    errors
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("sources").map(|entry| entry.expect("an entry").path()) {
        match entry.is_dir() {
            true => sources(&entry, found),
            false if entry.extension().is_some_and(|extension| extension == "rs") => found.push(entry),
            false => {}
        }
    }
}

/// The lines of a source file that are logged at the levels warn and error: the level, and the text as it is written.
fn log_lines(source: &str) -> Vec<(&'static str, String)> {
    // Tests log nothing.
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut lines = Vec::new();
    for level in ["warn", "error"] {
        for (at, start) in source.match_indices(&format!("{level}!(")) {
            if source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            lines.push((level, last_literal(&source[at + start.len()..])));
        }
    }
    lines
}

/// The last text among the arguments of a macro, whose opening parenthesis stands before.
fn last_literal(arguments: &str) -> String {
    let (mut depth, mut last, mut chars) = (1, String::new(), arguments.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '"' => {
                last.clear();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    match c {
                        // A line that goes on in the next one.
                        '\\' if chars.peek() == Some(&'\n') => {
                            while chars.next_if(|c| c.is_whitespace()).is_some() {}
                        }
                        '\\' => last.extend([c].into_iter().chain(chars.next())),
                        c => last.push(c),
                    }
                }
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

/// The sources of what administrators run. The other crates are for those who work on rudel.
fn programs() -> Vec<PathBuf> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    ["api", "datapath", "proto", "rudel", "rudeld"]
        .iter()
        .for_each(|name| sources(&crates.join(name).join("src"), &mut files));
    files
}

#[test]
fn every_line_of_the_log_that_wakes_somebody_says_what_to_do() {
    let mut all: BTreeMap<String, &str> = BTreeMap::new();
    for file in programs().iter().filter(|file| !file.ends_with("tests.rs")) {
        for (level, text) in log_lines(&std::fs::read_to_string(file).expect("a source")) {
            assert!(!text.is_empty(), "a line without words in {}", file.display());
            all.insert(text, level);
        }
    }
    assert!(all.len() > 50, "{all:?}");
    let (mut page, mut complaints) = (String::new(), Vec::new());
    for (text, level) in &all {
        let carried = CARRIED.iter().find(|(line, _)| line == text);
        let note = carried.map(|(_, what)| format!(" (within: {what})")).unwrap_or_default();
        page.push_str(&format!("{level}: {text}{note}\n"));
        if carried.is_none() && !ADVICE.iter().any(|words| text.contains(words)) {
            complaints.push(text);
        }
    }
    assert_eq!(complaints, Vec::<&String>::new(), "it does not say what to do");
    let gone: Vec<_> = CARRIED.iter().filter(|(line, _)| !all.contains_key(*line)).collect();
    assert!(gone.is_empty(), "there is no such line any more: {gone:?}");
    hold("log.txt", &page);
}

#[test]
fn every_error_is_collected() {
    let files = programs();
    let there: Vec<String> = files
        .iter()
        .filter(|file| !file.ends_with("rudeld/src/messages.rs"))
        .flat_map(|file| errors_of(&std::fs::read_to_string(file).expect("a source")))
        .collect();
    assert!(there.len() > 100, "{there:?}");
    let collected = collect().0;
    let missing: Vec<&String> = there.iter().filter(|name| !collected.contains_key(*name)).collect();
    assert_eq!(missing, Vec::<&String>::new(), "not collected: add each above, with values as they occur");
    let gone: Vec<&String> = collected.keys().filter(|name| !there.contains(name)).collect();
    assert_eq!(gone, Vec::<&String>::new(), "there is no such error any more");
}

#[test]
fn every_message_says_what_happened_to_what_and_what_to_do() {
    let (mut page, mut complaints) = (String::new(), Vec::new());
    for (name, (reader, texts)) in collect().0 {
        let note = match reader {
            Reader::Administrator => String::new(),
            Reader::Within(what) => format!(" (within: {what})"),
            Reader::Counted => " (counted)".to_owned(),
        };
        page.push_str(&format!("{name}{note}\n"));
        for text in texts {
            page.push_str(&format!("    {text}\n"));
            let is_line = !text.contains('\n') && !text.ends_with('.') && !text.contains("  ");
            if !is_line || text.contains(": :") {
                complaints.push(format!("one line, without a full stop: {name}: {text}"));
            }
            if reader == Reader::Administrator {
                if !ADVICE.iter().any(|words| text.contains(words)) {
                    complaints.push(format!("it does not say what to do: {name}: {text}"));
                }
                let is_name = |c: char| c.is_ascii_digit() || "/`\"[_".contains(c);
                if !text.contains(is_name) && !["eth0", "n2"].iter().any(|word| text.contains(word)) {
                    complaints.push(format!("it does not say to what: {name}: {text}"));
                }
            }
        }
    }
    assert_eq!(complaints, Vec::<String>::new());
    hold("messages.txt", &page);
}

/// Holds a page that was looked at against its file.
fn hold(file: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
    if std::env::var_os("RUDEL_WRITE_SCREENS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(&path, page).expect("a file");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    for (now, then) in page.lines().zip(kept.lines()) {
        assert_eq!(now, then, "look at it, and write {} with RUDEL_WRITE_SCREENS=1", path.display());
    }
    assert_eq!(page.lines().count(), kept.lines().count(), "{}", path.display());
}
