use super::*;

const ROUTER: &str = r#"
[cluster]
name = "web"
key_file = "/etc/rudel/key"
quorum = 2
drain_timeout = "1m"

[node]
name = "n1"
weight = 50
socket = "/run/rudel/n1.sock"
metrics = "127.0.0.1:9440"
restart_grace = "0s"

[heartbeat]
group = "[ff02::4a:28]:7440"
interfaces = ["eth0", "eth2"]
timeout = "1s"
interval = "100ms"

[[interface]]
name = "eth0"
side = "inside"
addresses = ["10.0.0.1/8", "2001:db8::10/64"]
mac = "igmp"
xdp = "generic"

[[interface]]
name = "eth1"
side = "outside"
addresses = ["198.51.100.10/24"]
mac = "03:bf:c0:00:02:0a"

[[health]]
name = "web"
http = "http://192.0.2.10/healthz"
interval = "2s"
timeout = "500ms"
rise = 3
fall = 1

[[health]]
name = "up"
link = "eth1"
interval = "200ms"

[nat]
address = "198.51.100.10"
inside = ["10.0.0.0/8"]

[sync]
enabled = true

[hooks]
on_change = ["/usr/local/sbin/notify", "--fast"]
"#;

const SMALLEST: &str = r#"
[cluster]
name = "web"
key_file = "/etc/rudel/key"

[[interface]]
name = "eth0"
addresses = ["192.0.2.10/24"]
"#;

fn config(text: &str) -> Config {
    match parse(text, Path::new("rudel.toml")) {
        Ok(config) => config,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_small_file_is_filled_with_defaults() {
    let config = config(SMALLEST);
    assert_eq!(config.cluster.quorum, 1);
    assert_eq!(config.cluster.drain_timeout, Duration::from_secs(300));
    assert_eq!(config.node.socket, Path::new("/run/rudel/rudel.sock"));
    assert_eq!((config.node.weight, config.node.metrics), (100, None));
    assert_eq!(config.node_name("fw-1").unwrap().as_str(), "fw-1");
    assert!(config.node_name("a b").is_err());
    assert_eq!(config.heartbeat.group, HeartbeatGroup::DEFAULT);
    assert_eq!(config.heartbeat.timeout, Duration::from_millis(400));
    assert_eq!(config.heartbeat.interval, Duration::from_millis(50));
    let [interface] = config.interfaces.as_slice() else { panic!("one interface") };
    assert_eq!(config.heartbeat.interfaces, std::slice::from_ref(&interface.name));
    assert_eq!((interface.side, interface.xdp), (Side::Service, XdpMode::Auto));
    assert_eq!(interface.hash, HashMode::SourceIpPort);
    assert_eq!(interface.cluster_mac().to_string(), "03:bf:c0:00:02:0a");
    assert_eq!(interface.igmp_group(), None);
    assert_eq!((config.health.len(), &config.nat, config.sync.enabled), (0, &None, false));
    assert!(!config.is_router());
}

#[test]
fn every_key_is_read() {
    let config = config(ROUTER);
    assert!(config.is_router());
    assert_eq!(config.cluster.quorum, 2);
    assert_eq!(config.node_name("fw-1").unwrap().as_str(), "n1");
    assert_eq!(config.node.metrics, Some("127.0.0.1:9440".parse().unwrap()));
    assert_eq!(config.heartbeat.interfaces.len(), 2);
    assert_eq!(config.heartbeat.interval, Duration::from_millis(100));
    let [inside, outside] = config.interfaces.as_slice() else { panic!("two interfaces") };
    assert_eq!(inside.hash, HashMode::SourceIpPort, "with [nat] the ports are hashed");
    assert_eq!(inside.igmp_group(), Some("239.255.0.1".parse().unwrap()));
    assert_eq!(outside.cluster_mac().to_string(), "03:bf:c0:00:02:0a");
    let [web, up] = config.health.as_slice() else { panic!("two checks") };
    assert!(matches!(&web.check, Check::Http(target) if target.path == "/healthz"));
    assert_eq!((web.rise, web.fall), (3, 1));
    assert_eq!(up.timeout, Duration::from_millis(200), "a timeout is never longer than the interval");
    assert_eq!(config.nat.unwrap().inside, ["10.0.0.0/8".parse().unwrap()]);
    assert!(config.sync.enabled);
    assert_eq!(config.hooks.timeout, Duration::from_secs(30));
    let hook = config.hooks.on_change.unwrap();
    assert_eq!(
        (hook.program.to_str(), hook.arguments),
        (Some("/usr/local/sbin/notify"), vec!["--fast".to_owned()])
    );
}

/// The problems of a refused text, as `line:column message | advice | advice`.
fn problems(text: &str) -> Vec<String> {
    let error = parse(text, Path::new("rudel.toml")).expect_err("it should be refused");
    error
        .problems()
        .iter()
        .map(|p| {
            let parts: Vec<&str> =
                std::iter::once(p.message()).chain(p.advice().iter().map(String::as_str)).collect();
            format!("{}:{} {}", p.line(), p.column(), parts.join(" | "))
        })
        .collect()
}

/// The one problem of `base` with `old` replaced by `new`.
#[track_caller]
fn problem(base: &str, old: &str, new: &str) -> String {
    assert_eq!(base.matches(old).count(), 1, "`{old}` must be there once");
    let problems = problems(&base.replace(old, new));
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.into_iter().next().unwrap()
}

/// The one problem of the smallest file with a line added at its end, line 9, or with a table from line 9 on.
#[track_caller]
fn added(line: &str) -> String {
    problem(SMALLEST, "24\"]\n", &format!("24\"]\n{line}\n"))
}

#[test]
fn unknown_keys_and_tables_are_refused_with_what_was_meant() {
    assert_eq!(
        added("hsah = \"none\""),
        "9:1 unknown key `hsah` in [[interface]] | did you mean `hash`? | allowed here: name, side, addresses, mac, \
         xdp, hash, networks"
    );
    assert_eq!(
        added("weight = 7"),
        "9:1 unknown key `weight` in [[interface]] | it belongs under [node] | allowed here: name, side, addresses, \
         mac, xdp, hash, networks"
    );
    assert_eq!(
        added("[heartbeats]"),
        "9:2 unknown table `heartbeats` | did you mean `heartbeat`? | the tables are [cluster], [node], [heartbeat], \
         [[interface]], [[health]], [nat], [sync], [hooks]"
    );
    assert!(
        problem(SMALLEST, "\n[cluster]", "quorum = 2\n[cluster]").starts_with(
            "1:1 `quorum` stands outside of every table | put it under [cluster] | the tables are"
        )
    );
    assert_eq!(
        problem(SMALLEST, "addresses", "adresses"),
        "8:1 unknown key `adresses` in [[interface]] | did you mean `addresses`? | allowed here: name, side, \
         addresses, mac, xdp, hash, networks",
        "the missing key is not reported a second time"
    );
}

#[test]
fn wrong_types_are_refused_with_the_right_one() {
    assert_eq!(
        problem(SMALLEST, "\"web\"", "7"),
        "3:8 `name` is a text in quotes, not a number | allowed: 1 to 32 of a-z 0-9 -"
    );
    assert_eq!(
        added("[heartbeat]\ntimeout = 400"),
        "10:11 `timeout` is a duration in quotes, not a number | allowed: 20ms to 60s"
    );
    assert_eq!(
        added("[node]\nweight = 1.5"),
        "10:10 `weight` is a whole number, not a number with a fraction | allowed: 0 to 1000"
    );
    assert_eq!(
        problem(SMALLEST, "[\"192.0.2.10/24\"]", "\"192.0.2.10/24\""),
        "8:13 `addresses` is a list of texts, not a text | allowed: addresses with prefix, such as \"192.0.2.10/24\", \
         IPv4 and IPv6"
    );
    assert!(
        problem(SMALLEST, "\"192.0.2.10/24\"", "7")
            .starts_with("8:14 an element of `addresses` is a text in quotes, not a number")
    );
    assert_eq!(
        problem(SMALLEST, "[[interface]]", "[interface]"),
        "6:2 `interface` stands in single brackets | write [[interface]] in double brackets: there may be several"
    );
    assert_eq!(
        problem(SMALLEST, "[cluster]", "[[cluster]]").split(" | ").last(),
        Some("write [cluster] in single brackets, once")
    );
    assert_eq!(
        problem(ROUTER, "enabled = true", "enabled = \"yes\""),
        "52:11 `enabled` is true or false, not a text | allowed: true or false"
    );
}

#[test]
fn numbers_and_durations_have_ranges() {
    let cluster = |line: &str| problem(SMALLEST, "[cluster]", &format!("[cluster]\n{line}"));
    assert_eq!(cluster("quorum = 0"), "3:10 `quorum` cannot be 0 | allowed: 1 to 32 nodes");
    assert_eq!(cluster("quorum = 0x21"), "3:10 `quorum` cannot be 0x21 | allowed: 1 to 32 nodes");
    assert_eq!(cluster("quorum = -1"), "3:10 `quorum` cannot be -1 | allowed: 1 to 32 nodes");
    assert_eq!(cluster("drain_timeout = \"25h\""), "3:17 `drain_timeout` cannot be 25h | allowed: 0s to 24h");
    assert_eq!(
        cluster("drain_timeout = \"5 weeks\""),
        "3:17 \"5 weeks\" is not a duration | write a whole number with its unit (ms, s, m, h), such as \"400ms\" or \
         \"5m\" | allowed: 0s to 24h"
    );
    assert_eq!(added("[node]\nweight = 1001"), "10:10 `weight` cannot be 1001 | allowed: 0 to 1000");
    assert_eq!(
        added("[heartbeat]\ntimeout = \"19ms\""),
        "10:11 `timeout` cannot be 19ms | allowed: 20ms to 60s"
    );
    assert_eq!(
        added("[heartbeat]\ntimeout = \"100ms\"\ninterval = \"50ms\""),
        "11:12 interval 50ms is more than a third of timeout 100ms: one lost heartbeat would give a node up | shorten \
         interval, or make timeout at least 150ms"
    );
    assert!(added("[heartbeat]\ninterval = \"200ms\"").contains("more than a third of timeout 400ms"));
    assert_eq!(
        added("[heartbeat]\ninterval = \"4ms\""),
        "10:12 `interval` cannot be 4ms | allowed: 5ms to 10s, at most a third of timeout"
    );
    let shortest = config(&SMALLEST.replace("[[int", "[heartbeat]\ntimeout = \"20ms\"\n[[int"));
    assert_eq!(shortest.heartbeat.interval, Duration::from_millis(5));
    let longest = config(&SMALLEST.replace("[[int", "[heartbeat]\ntimeout = \"60s\"\n[[int"));
    assert_eq!(longest.heartbeat.interval, Duration::from_millis(7500));
}

#[test]
fn names_are_refused_with_the_letters_they_may_have() {
    assert_eq!(
        problem(SMALLEST, "\"web\"", "\"Web\""),
        "3:8 `W` is not allowed in a name | allowed: 1 to 32 of a-z 0-9 -"
    );
    assert_eq!(
        added("[node]\nname = \"n 1\""),
        "10:8 ` ` is not allowed in a name | allowed: 1 to 63 of a-z A-Z 0-9 . - _"
    );
    assert_eq!(
        problem(SMALLEST, "\"eth0\"", "\"eth0:1\""),
        "7:8 \"eth0:1\" cannot be the name of an interface: ':' is not allowed | `ip link` lists the interfaces of a \
         host | allowed: 1 to 15 characters without / and :"
    );
}

#[test]
fn paths_are_absolute_and_short_enough() {
    assert_eq!(
        problem(SMALLEST, "\"/etc/rudel/key\"", "\"key\""),
        "4:12 \"key\" is not an absolute path | the daemon has no directory of its own: begin with / | allowed: an \
         absolute path"
    );
    let long = format!("[node]\nsocket = \"/run/{}\"", "x".repeat(103));
    assert_eq!(
        added(&long),
        "10:10 a path of 108 bytes is too long for a socket | allowed: an absolute path of at most 107 bytes"
    );
}

#[test]
fn missing_keys_are_asked_for() {
    assert_eq!(
        problem(SMALLEST, "key_file = \"/etc/rudel/key\"\n", ""),
        "2:1 [cluster] lacks the key `key_file` | `key_file` is a text in quotes: an absolute path"
    );
    assert_eq!(
        problem(SMALLEST, "addresses = [\"192.0.2.10/24\"]", ""),
        "6:1 [[interface]] lacks the key `addresses` | `addresses` is a list of texts: addresses with prefix, such as \
         \"192.0.2.10/24\", IPv4 and IPv6"
    );
    assert!(
        problem(SMALLEST, "[\"192.0.2.10/24\"]", "[]")
            .starts_with("8:13 `addresses` is empty | give at least one")
    );
    let all: Vec<String> = problems("");
    assert_eq!(all.len(), 3);
    assert!(all[2].starts_with("1:1 there is no [[interface]]"), "{all:?}");
}

#[test]
fn addresses_are_those_of_hosts_with_their_network() {
    let address = |text: &str| problem(SMALLEST, "192.0.2.10/24", text);
    assert!(address("192.0.2.300/24").starts_with("8:14 \"192.0.2.300\" is not an IP address"));
    assert!(address("192.0.2.10").contains("such as \"192.0.2.10/24\""));
    assert!(
        address("192.0.2.10/33")
            .starts_with("8:14 \"/33\" is not a prefix length | an IPv4 prefix has 0 to 32")
    );
    assert!(
        address("239.0.0.1/24").starts_with("8:14 239.0.0.1 is a multicast group, not the address of a host")
    );
    assert!(
        address("192.0.2.255/24").starts_with("8:14 192.0.2.255 is the broadcast address of its network")
    );
    assert!(address("127.0.0.1/8").contains("is a loopback address"));
    assert!(address("::ffff:192.0.2.1/96").contains("did you mean 192.0.2.1?"));
}

#[test]
fn nothing_is_given_twice() {
    let second = |name: &str, address: &str| {
        added(&format!("[[interface]]\nname = \"{name}\"\naddresses = [\"192.0.2.11/24\", \"{address}/24\"]"))
    };
    assert_eq!(
        second("eth0", "192.0.2.12"),
        "10:8 interface eth0 is given twice | put all its addresses into one [[interface]]"
    );
    assert_eq!(
        second("eth1", "192.0.2.10"),
        "11:31 address 192.0.2.10 is given twice | an address is on one interface, once"
    );
    assert_eq!(
        added("[heartbeat]\ninterfaces = [\"eth0\", \"eth0\"]"),
        "10:23 interface eth0 is given twice | leave it out here"
    );
    assert_eq!(
        problem(ROUTER, "name = \"up\"", "name = \"web\""),
        "43:8 health check web is given twice | give each check its own name"
    );
    let many: String = (0..33).map(|i| format!("[[health]]\nname = \"c{i}\"\nlink = \"eth0\"\n")).collect();
    assert!(added(&many).ends_with(
        "there are 33 health checks, and at most 32 can be | put several into one program, with exec"
    ));
    assert!(
        problems("[cluster]\nname = \"a\"\nname = \"b\"\n")[0]
            .starts_with("3:1 this is not TOML: duplicate key")
    );
}

#[test]
fn cluster_macs_belong_to_no_card_and_to_no_other_group() {
    assert_eq!(
        added("mac = \"00:1b:21:00:00:01\""),
        "9:7 00:1b:21:00:00:01 belongs to a maker of network cards | use a locally administered address \
         (02:1b:21:00:00:01) or a group address, so that no card has it | allowed: \"multicast\", \"igmp\", \
         \"unicast\" or an address such as \"03:bf:c0:00:02:0a\""
    );
    assert!(added("mac = \"03:bf:c0\"").starts_with("9:7 \"03:bf:c0\" is not an Ethernet address"));
    assert!(added("mac = \"multicats\"").contains("did you mean \"multicast\"?"));
    let clash = SMALLEST.replace("192.0.2.10/24\"]", "192.0.74.40/24\"]\nmac = \"igmp\"");
    assert_eq!(
        problems(&clash),
        [
            "9:7 the cluster MAC of eth0 is that of the heartbeat group, 01:00:5e:7f:4a:28 | choose another heartbeat \
          group, or another mac"
        ]
    );
}

#[test]
fn heartbeats_go_to_a_group() {
    let group = |text: &str| added(&format!("[heartbeat]\ngroup = \"{text}\""));
    assert!(group("239.255.74.40").contains("write the port behind it: \"239.255.74.40:7440\""));
    assert!(
        group("192.0.2.1:7440").starts_with("10:9 192.0.2.1 is not a multicast group | choose a group of")
    );
    assert!(group("[ff05::1]:7440").starts_with("10:9 ff05::1 is not of link-local scope"));
}

#[test]
fn words_are_refused_with_the_nearest_one() {
    assert_eq!(
        added("side = \"insde\""),
        "9:8 \"insde\" is not one of \"service\", \"inside\", \"outside\" | did you mean \"inside\"? | allowed: \
         \"service\", \"inside\" or \"outside\""
    );
    assert!(added("hash = \"source_ip\"").contains("did you mean \"source-ip\"?"));
    assert!(
        added("xdp = \"fast\"").starts_with("9:7 \"fast\" is not one of \"auto\", \"native\", \"generic\"")
    );
}

#[test]
fn a_health_check_checks_one_thing() {
    assert_eq!(
        problem(ROUTER, "link = \"eth1\"", "link = \"eth1\"\ntcp = \"192.0.2.10:80\""),
        "44:8 the health check has two kinds, tcp and link | one of http, tcp, dns, exec, link; for several checks \
         write several [[health]]"
    );
    assert_eq!(
        problem(ROUTER, "link = \"eth1\"\n", ""),
        "42:1 the health check does not say what to check | one of http, tcp, dns, exec, link; for several checks \
         write several [[health]]"
    );
    assert_eq!(
        problem(ROUTER, "timeout = \"500ms\"", "timeout = \"3s\""),
        "38:11 timeout 3s is longer than interval 2s: checks would pile up | shorten timeout, or lengthen interval"
    );
    let check = |line: &str| problem(ROUTER, "link = \"eth1\"", line);
    assert!(check("http = \"https://a/\"").contains("a check speaks plain HTTP"));
    assert!(check("tcp = \"192.0.2.10\"").starts_with("44:7 \"192.0.2.10\" is not an address with a port"));
    assert!(check("dns = \"www.example.org\"").contains("does not say whom to ask"));
    assert!(check("exec = [\"check\"]").starts_with("44:9 \"check\" is not an absolute path"));
    assert!(check("exec = []").starts_with("44:8 `exec` is empty"));
    assert!(check("link = \"\"").contains("it has 1 to 15 characters"));
}

#[test]
fn an_http_check_may_want_a_host_and_a_text() {
    let check = |lines: &str| problem(ROUTER, "link = \"eth1\"", lines);
    let http = "http = \"http://192.0.2.10/\"\n";
    assert_eq!(
        check("link = \"eth1\"\nhttp_host = \"www.example.org\""),
        "45:13 http_host is for checks by http | remove it, or check by http"
    );
    assert_eq!(
        check("link = \"eth1\"\nhttp_body = \"ok\""),
        "45:13 http_body is for checks by http | remove it, or check by http"
    );
    assert_eq!(
        check(&format!("{http}http_host = \"www.example.org/a\"")),
        "45:13 \"www.example.org/a\" is no host | write a name or an address, with a port if need be, such as \
         \"www.example.org\" | allowed: a host, such as \"www.example.org\""
    );
    assert_eq!(
        check(&format!("{http}http_body = \"\"")),
        "45:13 every body contains the empty text | write what a good answer contains, or leave http_body out | allowed: 1 to \
         256 bytes of text"
    );
    assert!(check(&format!("{http}http_body = 5")).contains("http_body"));
    let good = ROUTER.replacen(
        "link = \"eth1\"",
        &format!("{http}http_host = \"www.example.org:81\"\nhttp_body = \"all is well\""),
        1,
    );
    let config = config(&good);
    let Check::Http(target) = &config.health[1].check else { panic!("{:?}", config.health) };
    assert_eq!(target.host_header(), "www.example.org:81");
    assert_eq!(target.body.as_ref().map(BodyText::as_str), Some("all is well"));
    assert_eq!(target.to_string(), "http://192.0.2.10/", "what is connected to is the URL");
}

#[test]
fn a_router_has_two_sides_that_agree() {
    assert_eq!(
        added("side = \"inside\""),
        "9:8 a router needs an interface with side = \"outside\", too | add [[interface]] with side = \"outside\", or \
         make this one \"service\""
    );
    assert_eq!(
        problem(ROUTER, "mac = \"igmp\"", "hash = \"source-net\""),
        "28:1 eth0 hashes source-net and eth1 hashes source-ip-port: the two directions of a flow would not meet | \
         give both sides of a router the same hash"
    );
    let nat = ROUTER.find("[nat]").unwrap();
    let without_nat = config(&ROUTER[..nat]);
    assert!(without_nat.interfaces.iter().all(|interface| interface.hash == HashMode::SourceIp));
}

#[test]
fn nat_and_sync_need_a_router() {
    assert_eq!(
        added("[nat]\naddress = \"198.51.100.10\"\ninside = [\"10.0.0.0/8\"]"),
        "9:1 [nat] needs a router | give the interfaces side = \"inside\" and side = \"outside\", or leave this table \
         out"
    );
    assert!(added("[sync]").starts_with("9:1 [sync] needs a router"));
    config(&format!("{SMALLEST}[sync]\nenabled = false\n"));
}

#[test]
fn nat_translates_networks_to_addresses_of_their_family() {
    let inside = |text: &str| {
        problem(ROUTER, "inside = [\"10.0.0.0/8\"]", &format!("inside = [\"10.0.0.0/8\", {text}]"))
    };
    assert_eq!(
        inside("\"10.1.0.0/8\""),
        "49:25 10.1.0.0/8 is an address in a network, not a network | did you mean \"10.0.0.0/8\"? | allowed: \
         networks, such as \"10.0.0.0/8\""
    );
    assert!(
        inside("\"2001:db8::/32\"").starts_with("49:25 2001:db8::/32 is IPv6, and there is no IPv6 address")
    );
    let address = |text: &str| problem(ROUTER, "address = \"198.51.100.10\"", &format!("address = {text}"));
    assert!(address("\"198.51.100.10/24\"").contains("did you mean \"198.51.100.10\"?"));
    assert!(
        address("[\"198.51.100.10\", \"198.51.100.10\"]").starts_with("48:29 the address is given twice")
    );
    assert!(
        address("[\"198.51.100.10\", \"2001:db8::1\"]")
            .starts_with("48:11 2001:db8::1 is IPv6, and no inside")
    );
    let two =
        ROUTER.replace("address = \"198.51.100.10\"", "address = [\"198.51.100.10\", \"198.51.100.11\"]");
    assert_eq!(config(&two).nat.unwrap().addresses.len(), 2);
}

#[test]
fn hooks_are_programs() {
    assert!(
        added("[hooks]\non_change = [\"notify\"]").starts_with("10:14 \"notify\" is not an absolute path")
    );
    assert!(
        added("[hooks]\non_change = \"/bin/notify now\"").starts_with("10:13 `on_change` is a list of texts")
    );
    let hooks = "[hooks]\non_change = [\"/bin/notify\"]\n";
    assert!(added(&format!("{hooks}timeout = \"11m\"")).starts_with("11:11 `timeout` cannot be 11m"));
}

#[test]
fn every_problem_is_shown_at_its_place_in_the_order_of_the_file() {
    let text = SMALLEST.replace("\"web\"", "\"Web\"").replace("name = \"eth0\"", "nmae = \"eth0\"");
    let error = parse(&text, Path::new("/etc/rudel/rudel.toml")).unwrap_err();
    assert_eq!(
        error.render(false),
        r#"error: `W` is not allowed in a name
 --> /etc/rudel/rudel.toml:3:8
  |
3 | name = "Web"
  |        ^^^^^
  |
  = help: allowed: 1 to 32 of a-z 0-9 -

error: unknown key `nmae` in [[interface]]
 --> /etc/rudel/rudel.toml:7:1
  |
7 | nmae = "eth0"
  | ^^^^ not known here
  |
  = help: did you mean `name`?
  = help: allowed here: name, side, addresses, mac, xdp, hash, networks"#
    );
    assert_eq!(error.to_string(), error.render(false));
    assert!(error.render(true).contains('\x1b'));
}

#[test]
fn columns_count_characters() {
    let error = problems("[cluster]\nname = \"ä\" # ö\n[[x]]\n");
    assert!(error[0].starts_with("2:1 ") || error.iter().any(|e| e.starts_with("2:8 ")), "{error:?}");
    let error = problems("[node]\n\"ü\" = 1\n");
    assert!(error.iter().any(|e| e.starts_with("2:1 unknown key `ü`")), "{error:?}");
}

#[test]
fn what_is_no_toml_is_shown_where_it_ends_to_be() {
    let error = problems("[cluster]\nname = \"web\n");
    assert_eq!(error.len(), 1);
    assert!(error[0].starts_with("2:12 this is not TOML: "), "{error:?}");
    for text in ["[", "=", "[cluster", "a", "\u{0}", "[[interface]]\n[interface]", "x = [1,", "\"\"\""] {
        assert!(!problems(text).is_empty(), "{text:?}");
        assert!(!parse(text, Path::new("x")).unwrap_err().render(true).is_empty());
    }
}

#[test]
fn a_file_that_is_not_there_is_another_matter_than_one_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rudel.toml");
    let missing = Config::load(&path).unwrap_err();
    assert!(matches!(&missing, ConfigError::Unreadable { .. }));
    assert!(missing.to_string().ends_with("write it, or name another one with --config"), "{missing}");
    std::fs::write(&path, b"[cluster]\nname = \"\xff\"").unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().ends_with("save it as UTF-8"));
    std::fs::write(&path, SMALLEST).unwrap();
    assert_eq!(Config::load(&path).unwrap().path(), path);
}

#[test]
fn a_key_file_is_refused_where_the_configuration_names_it() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let config = config(&SMALLEST.replace("/etc/rudel/key", key.to_str().unwrap()));
    let refused = |config: &Config| {
        let error = config.load_keys().unwrap_err();
        let problem = &error.problems()[0];
        assert_eq!((problem.line(), problem.column()), (4, 12));
        (problem.message().to_owned(), problem.advice().join(" | "))
    };
    let (message, advice) = refused(&config);
    assert_eq!(message, format!("key file {} does not exist", key.display()));
    assert!(advice.starts_with(&format!("make one with `rudel key new {}`", key.display())));

    crate::key::ClusterKey::generate().unwrap().write_new(&key).unwrap();
    assert!(config.load_keys().is_ok());

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (message, advice) = refused(&config);
    assert_eq!(message, format!("key file {} is open to others (mode 0644)", key.display()));
    assert!(advice.starts_with(&format!("`chmod 600 {}`", key.display())));
}

#[test]
fn what_only_the_host_knows_is_shown_in_the_file_too() {
    let place = |place: &str| {
        let error = config(SMALLEST).refuse(place, "no such interface", "`ip link` lists them");
        let problem = &error.problems()[0];
        (problem.line(), problem.column())
    };
    assert_eq!(place("interface[0].name"), (7, 8));
    assert_eq!(place("interface[0].addresses[0]"), (8, 14));
    assert_eq!(place("interface[0].mac"), (6, 1), "what is not in the file is shown at its table");
    assert_eq!(place("heartbeat.interfaces[1]"), (1, 1));
}

proptest::proptest! {
    /// Whatever a file is damaged by, it is read or refused with places that can be shown; nothing panics.
    #[test]
    fn a_damaged_file_is_refused_in_order(
        edits in proptest::collection::vec((0..ROUTER.len(), 0..12usize, "[\\[\\]=\"'#,.a-z0-9\n ü{}\\\\]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = ROUTER.chars().collect();
        for (at, len, new) in edits {
            let start = at.min(text.len());
            let end = (start + len).min(text.len());
            text.splice(start..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = parse(&text, Path::new("rudel.toml")) {
            let problems = error.problems();
            proptest::prop_assert!(!problems.is_empty());
            proptest::prop_assert!(problems.is_sorted_by_key(|p| (p.line(), p.column())));
            for problem in problems {
                let line = text.split('\n').nth(problem.line() - 1).unwrap_or_default();
                proptest::prop_assert!(problem.column() <= line.chars().count() + 1);
            }
            proptest::prop_assert!(error.render(true).contains("rudel.toml:"));
        }
    }
}

#[test]
fn an_interval_above_a_quarter_of_the_timeout_is_warned_of_where_leases_are_made_of_echoes() {
    let with = |quorum: u32, interval: &str| {
        let text = SMALLEST.replace("key_file", &format!("quorum = {quorum}\nkey_file"));
        config(&format!("{text}\n[heartbeat]\ntimeout = \"400ms\"\ninterval = \"{interval}\"\n")).warnings()
    };
    assert_eq!(with(2, "100ms"), Vec::<String>::new());
    assert_eq!(with(1, "130ms"), Vec::<String>::new(), "a node alone needs no echo");
    assert_eq!(
        with(2, "130ms"),
        [
            "heartbeat interval 130ms is more than a quarter of timeout 400ms: with quorum 2 two lost datagrams in a row \
          stop a node for a moment; set the interval to 50ms or less"
        ]
    );
}

#[test]
fn forwards_begin_at_the_cluster_and_end_elsewhere() {
    let with = |forward: &str| ROUTER.replace("[nat]\n", &format!("[nat]\nforward = [{forward}]\n"));
    let nat = config(ROUTER).nat.unwrap();
    let outside = nat.addresses[0];
    let good = format!("\"tcp {outside}:443 to 10.0.0.5:8443\", \"udp {outside}:443 to 10.0.0.5:8443\"");
    assert_eq!(config(&with(&good)).nat.unwrap().forward.len(), 2);
    let only = |forward: &str| problems(&with(forward)).remove(0);
    assert!(
        only("\"tcp 203.0.113.9:443 to 10.0.0.5:8443\"").contains("is no outside address of the cluster")
    );
    assert!(
        only(&format!("\"tcp {outside}:443 to {outside}:8443\""))
            .contains("is an address of the cluster itself")
    );
    let twice = format!("\"tcp {outside}:443 to 10.0.0.5:1\", \"tcp {outside}:443 to 10.0.0.6:1\"");
    assert!(only(&twice).contains("is forwarded twice"));
    assert!(only("\"tcp 443 to 10.0.0.5\"").contains("is not an address with a port"));
}

#[test]
fn the_same_link_local_gateway_may_be_on_every_link() {
    let two = "[cluster]\nname = \"r\"\nkey_file = \"/k\"\n\
        [[interface]]\nname = \"lan\"\nside = \"inside\"\naddresses = [\"10.0.0.1/24\", \"fe80::1/64\"]\n\
        networks = [\"10.9.0.0/16\"]\n\
        [[interface]]\nname = \"dmz\"\nside = \"inside\"\naddresses = [\"10.1.0.1/24\", \"fe80::1/64\"]\n\
        [[interface]]\nname = \"up\"\nside = \"outside\"\naddresses = [\"198.51.100.10/24\"]\n";
    let networks: Vec<String> =
        config(two).interfaces[0].inside_networks().iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/24", "10.9.0.0/16"]);
    let twice = two.replace("\"10.1.0.1/24\", ", "\"fe80::1/64\", ");
    assert!(problems(&twice)[0].contains("address fe80::1 is given twice"));
    let outside = two.replace("side = \"outside\"", "side = \"outside\"\nnetworks = [\"10.9.0.0/16\"]");
    assert!(problems(&outside)[0].contains("only an inside interface of a router has networks"));
}

#[test]
fn a_share_is_not_kept_beyond_its_lease() {
    let with = |grace: &str| SMALLEST.to_owned() + &format!("[node]\nrestart_grace = {grace}\n");
    assert!(parse(&with("\"0s\""), Path::new("rudel.toml")).is_ok(), "that is what is done anyway");
    for grace in ["\"5s\"", "\"10m\""] {
        let [problem] = &problems(&with(grace))[..] else { panic!("one problem") };
        assert!(problem.contains("cannot be kept beyond its lease"), "{problem}");
        assert!(problem.contains("raise [heartbeat] timeout | allowed: 0s"), "{problem}");
    }
    assert!(problems(&with("5"))[0].contains("is a duration"), "{:?}", problems(&with("5")));
}
