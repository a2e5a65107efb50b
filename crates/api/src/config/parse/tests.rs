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
    assert_eq!(config.heartbeat.interfaces, [interface.name.clone()]);
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
    let hook = config.hooks.on_change.unwrap();
    assert_eq!((hook.program.to_str(), hook.arguments), (Some("/usr/local/sbin/notify"), vec!["--fast".to_owned()]));
}
