//! The world of a test: a switch, nodes and clients, each in a network namespace of its own.
//!
//! ```text
//!   n1 .11        n2 .12        n3 .13   ...        10.74.0.0/24, fd74::/64
//!   eth0│         eth0│         eth0│               shared: 10.74.0.10, fd74::10
//!   ┌───┴─────────────┴─────────────┴───┐
//!   │ br0 in the namespace "switch"     │           the root namespace gets no device at all
//!   └─────────────────┬─────────────────┘
//!                 eth0│ .101
//!                    c1                             a host, and 10.100.0.0/16, fd75:1::/32 behind it:
//!                                                   any of these addresses can be a source
//! ```
//!
//! On request there is a backbone, a second switch that connects the nodes alone:
//!
//! ```text
//!   n1 .11        n2 .12        n3 .13   ...        10.75.0.0/24, and link-local IPv6 addresses
//!   eth1│         eth1│         eth1│
//!   ┌───┴─────────────┴─────────────┴───┐
//!   │ br1 in the namespace "switch"     │
//!   └───────────────────────────────────┘
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::netns::Namespace;
use crate::node::{Node, Shared};
use crate::router::{self, Host, Net};
use crate::settings::{Settings, VIP4, VIP6};
use crate::{client, netns, store, sys, wait_until};

/// The port of the product's default heartbeat group.
const HEARTBEAT_PORT: u16 = 7440;

/// How long a cluster of a lab may take to come to rest; far more than it needs, since test machines are busy.
pub const REST_DEADLINE: Duration = Duration::from_secs(20);

/// A lab. Dropping it removes everything that it made; so do SIGINT, SIGTERM and a panic.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
    switch: Namespace,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    hosts: Vec<Host>,
    /// Beyond each client of a router.
    beyond: Vec<Namespace>,
}

/// What to build.
#[derive(Debug)]
pub struct Builder {
    name: Option<String>,
    nodes: usize,
    clients: usize,
    backbone: bool,
    settings: Settings,
}

impl Builder {
    /// The name of the lab and the prefix of its namespaces; by default made from the process id.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The number of nodes, named `n1`, `n2` …
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// The number of clients, named `c1`, `c2` …
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// A second network among the nodes: interface `eth1` of each.
    #[must_use]
    pub fn backbone(mut self) -> Self {
        self.backbone = true;
        self
    }

    /// The cluster's configuration.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Builds the namespaces, the network and the files. No process is started.
    pub fn build(self) -> Result<Lab> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        if !sys::is_root() {
            bail!("a lab makes network namespaces: this needs root (try: sudo rudel-lab ...)");
        }
        let name = self.name.unwrap_or_else(|| {
            let pid = std::process::id();
            match SERIAL.fetch_add(1, Ordering::Relaxed) {
                0 => format!("rudel-{pid}"),
                serial => format!("rudel-{pid}-{serial}"),
            }
        });
        let dir = store::create(&name)?;
        let switch = Namespace::named(&format!("{name}-switch"));
        // The inner side of a router is where the backbone would be.
        let backbone = self.backbone || self.settings.router.is_some();
        let shared = Arc::new(Shared { name, dir, settings: self.settings, backbone });
        // From here on a failure drops the half-built lab, which removes what there is.
        let (nodes, clients, hosts, beyond) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut lab = Lab { shared, switch, nodes, clients, hosts, beyond };
        lab.build_switch().context("building the switch")?;
        let bpffs = lab.bpffs();
        fs::create_dir(&bpffs)?;
        sys::mount_bpffs(&bpffs).context("mounting a BPF file system")?;
        lab.write_config()?;
        for _ in 0..self.clients {
            lab.add_client()?;
        }
        for _ in 0..self.nodes {
            lab.add_node()?;
        }
        lab.add_hosts()?;
        Ok(lab)
    }
}

impl Lab {
    /// Three nodes, one client, default settings.
    pub fn builder() -> Builder {
        Builder { name: None, nodes: 3, clients: 1, backbone: false, settings: Settings::default() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The directory with its files: `rudel.toml`, `key`, `bpf`, and one directory for each node.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The settings that it was built with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The BPF file system of the lab.
    pub fn bpffs(&self) -> PathBuf {
        self.shared.dir.join("bpf")
    }

    /// The configuration file of all nodes.
    pub fn config(&self) -> PathBuf {
        self.shared.config()
    }

    /// The key file of all nodes. It is made when the first daemon starts.
    pub fn key(&self) -> PathBuf {
        self.shared.key()
    }

    fn write_config(&self) -> Result<()> {
        Ok(fs::write(self.config(), self.settings().to_toml(&self.key()))?)
    }

    fn namespace(&self, name: &str) -> Result<Namespace> {
        let full = format!("{}-{name}", self.shared.name);
        store::note_namespace(&self.shared.dir, &full)?;
        Namespace::create(&full)
    }

    fn build_switch(&mut self) -> Result<()> {
        self.switch = self.namespace("switch")?;
        // A switch has no opinion on IPv6, and this one forwards every multicast, like one without snooping.
        self.switch.sysctl(&[
            ("net.ipv6.conf.all.disable_ipv6", "1"),
            ("net.ipv6.conf.default.disable_ipv6", "1"),
        ])?;
        let bridges = 1 + usize::from(self.shared.backbone) + usize::from(self.has_dmz());
        for bridge in ["br0", "br1", "br2"].into_iter().take(bridges) {
            self.switch.ip(&format!(
                "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {bridge} up\n"
            ))?;
        }
        Ok(())
    }

    /// A host on the switch: its namespace, with an interface `eth0`, no IPv6 duplicate detection and no router
    /// solicitations, so that addresses work at once.
    fn host(&self, name: &str) -> Result<Namespace> {
        self.host_on(name, "br0")
    }

    fn host_on(&self, name: &str, bridge: &str) -> Result<Namespace> {
        let namespace = self.namespace(name)?;
        namespace.sysctl(&[
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv6.conf.default.router_solicitations", "0"),
            // Servers and clients bind addresses that come later, or that are a whole range.
            ("net.ipv4.ip_nonlocal_bind", "1"),
            ("net.ipv6.ip_nonlocal_bind", "1"),
        ])?;
        self.connect(&namespace, "eth0", &port_of(name), bridge)?;
        Ok(namespace)
    }

    /// Hosts behind a router: one on each of its inner networks.
    fn add_hosts(&mut self) -> Result<()> {
        let networks =
            if self.shared.settings.router.is_none() { 0 } else { 1 + usize::from(self.has_dmz()) };
        for (name, network) in [("h1", Net::Inside), ("d1", Net::Dmz)].into_iter().take(networks) {
            let namespace =
                self.host_on(name, network.bridge()).with_context(|| format!("building host {name}"))?;
            self.hosts.push(Host::set_up(name, namespace, network)?);
        }
        if networks > 0 {
            for client in &self.clients {
                let beyond = self.namespace(&format!("f{}", client.number))?;
                beyond.sysctl(&[
                    ("net.ipv6.conf.default.accept_dad", "0"),
                    ("net.ipv6.ip_nonlocal_bind", "1"),
                ])?;
                router::set_up_client(&client.namespace, &beyond)?;
                self.beyond.push(beyond);
            }
            self.save()?;
        }
        Ok(())
    }

    fn has_dmz(&self) -> bool {
        self.shared.settings.router.as_ref().is_some_and(|router| router.dmz)
    }

    /// The host beyond a narrow link outside: 10.101.0.0/16 and fd75:f001::/32 are all its own.
    ///
    /// # Panics
    /// If this lab is none of a router.
    pub fn beyond(&self) -> &Namespace {
        self.beyond.first().expect("a router's lab has it")
    }

    /// A host behind the router by name: `h1` inside, `d1` in the DMZ.
    ///
    /// # Panics
    /// If there is none.
    pub fn host_behind(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .unwrap_or_else(|| panic!("no host {name} in the lab"))
    }

    /// The machine of a node: a host, on the backbone too if there is one.
    fn machine(&self, name: &str) -> Result<Namespace> {
        let namespace = self.host(name)?;
        if self.shared.backbone {
            self.connect(&namespace, "eth1", &backbone_port_of(name), "br1")?;
        }
        if self.has_dmz() {
            self.connect(&namespace, "eth2", &dmz_port_of(name), "br2")?;
        }
        Ok(namespace)
    }

    /// A cable from a host's interface to a port of a switch.
    fn connect(&self, namespace: &Namespace, interface: &str, port: &str, bridge: &str) -> Result<()> {
        self.switch.ip(&format!(
            "link add {port} type veth peer name {interface} netns {ns}\n\
             link set {port} master {bridge}\n\
             link set {port} up\n",
            ns = namespace.name(),
        ))
    }

    /// Adds a node to the switch, called `n` and the next number. It runs nothing yet.
    pub fn add_node(&mut self) -> Result<&mut Node> {
        let index = self.nodes.len() + 1;
        let node = self.make_node(index).with_context(|| format!("building node n{index}"))?;
        self.nodes.push(node);
        self.save()?;
        Ok(self.nodes.last_mut().expect("just added"))
    }

    fn make_node(&self, index: usize) -> Result<Node> {
        let last = u8::try_from(10 + index).ok().filter(|last| *last < 100).context("too many nodes")?;
        let name = format!("n{index}");
        let addresses = (
            Ipv4Addr::new(10, 74, 0, last),
            // As it reads: fd74::11 is 10.74.0.11.
            format!("fd74::{last}").parse().context("an address of a node")?,
        );
        let namespace = self.machine(&name)?;
        let node = Node::new(&name, namespace, addresses, Arc::clone(&self.shared));
        node.configure(self.clients.len())?;
        Ok(node)
    }

    fn add_client(&mut self) -> Result<()> {
        let index = self.clients.len() + 1;
        let number = u8::try_from(index).ok().filter(|n| *n <= 100).context("too many clients")?;
        let name = format!("c{index}");
        let namespace = self.host(&name).with_context(|| format!("building client {name}"))?;
        let client = Client { namespace, name, number };
        // ARP asks with an address of the link, as a router does.
        client.namespace.sysctl(&[("net.ipv4.conf.all.arp_announce", "2")])?;
        client.namespace.ip(&format!(
            "addr add {four}/24 dev eth0\n\
             addr add {six}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add local 10.{net4}.0.0/16 dev lo\n\
             route add local fd75:{number:x}::/32 dev lo\n",
            four = client.address4(),
            six = client.address6(),
            net4 = 99 + number,
        ))?;
        self.clients.push(client);
        Ok(())
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by name.
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name() == name).unwrap_or_else(|| panic!("no node {name} in the lab"))
    }

    /// A node by name, to change it.
    ///
    /// # Panics
    /// If there is none.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes
            .iter_mut()
            .find(|n| n.name() == name)
            .unwrap_or_else(|| panic!("no node {name} in the lab"))
    }

    /// The first client.
    ///
    /// # Panics
    /// If the lab was built without clients.
    pub fn client(&self) -> &Client {
        self.clients.first().expect("a lab with a client")
    }

    /// All clients.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Starts the servers and the daemons of all nodes, and waits until they are one cluster that answers the client.
    pub fn start(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start_services()?;
            node.start_daemon()?;
        }
        let names: Vec<String> = self.nodes.iter().map(|n| n.name().to_owned()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.wait_at_rest(&names)?;
        if self.clients.is_empty() { Ok(()) } else { self.wait_answering() }
    }

    /// Waits until exactly `names` are an even cluster and agree on it, and returns the owners of the buckets.
    pub fn wait_at_rest(&mut self, names: &[&str]) -> Result<crate::Owners> {
        wait_until(REST_DEADLINE, &format!("{names:?} to be one cluster at rest"), || {
            let mut owners: Option<(String, crate::Owners)> = None;
            for name in names {
                let node = self.node_mut(name);
                node.still_running()?;
                let status = node.status().map_err(|e| format!("{name}: {e:#}"))?;
                status.at_rest_among(names).map_err(|e| format!("{name}: {e}"))?;
                let mine = status.owners();
                match &owners {
                    None => owners = Some(((*name).to_owned(), mine)),
                    Some((_, others)) if *others == mine => {}
                    Some((other, _)) => return Err(format!("{name} and {other} differ on the owners")),
                }
            }
            Ok(owners.map(|(_, owners)| owners).unwrap_or_default())
        })
    }

    /// Waits until the first client gets an answer on each shared address.
    pub fn wait_answering(&self) -> Result<()> {
        let client = self.client();
        for vip in [VIP4, VIP6] {
            wait_until(Duration::from_secs(10), &format!("an answer of {vip}"), || {
                let source = std::net::SocketAddr::new(client.source(vip, 0, 1), 0);
                let target = std::net::SocketAddr::new(vip, 80);
                let answer = client.run(|| client::http_get(source, target, Duration::from_millis(500)));
                answer.map_err(|e| format!("{e:#}"))?.map(drop).map_err(|e| e.to_string())
            })?;
        }
        Ok(())
    }

    /// Pulls the plug of a node: its cable first, then everything in it is killed and its memory is lost (run-time files,
    /// BPF pins, the namespace itself). Only its disk stays.
    pub fn power_off(&mut self, name: &str) -> Result<()> {
        let mut ports = vec![port_of(name)];
        if self.shared.backbone {
            ports.push(backbone_port_of(name));
        }
        if self.has_dmz() {
            ports.push(dmz_port_of(name));
        }
        let on_all = |what: &str| ports.iter().map(|port| what.replace("PORT", port)).collect::<String>();
        self.switch.ip(&on_all("link set PORT down\n"))?;
        self.node_mut(name).kill_all();
        // With its namespace the interfaces would vanish too, but some time later, and a machine that boots again at once
        // would find its ports taken.
        self.switch.ip(&on_all("link del PORT\n"))?;
        self.node_mut(name).lose_memory()
    }

    /// Boots a node that was powered off: a new namespace on the switch. Nothing runs in it yet.
    pub fn boot(&mut self, name: &str) -> Result<()> {
        let namespace = self.machine(name)?;
        let clients = self.clients.len();
        self.node_mut(name).plug_in(namespace, clients)
    }

    /// Boots a node that was powered off and starts its servers and its daemon.
    pub fn power_on(&mut self, name: &str) -> Result<()> {
        self.boot(name)?;
        let node = self.node_mut(name);
        node.start_services()?;
        node.start_daemon()
    }

    /// Unplugs or plugs the cable between a node or client and the switch.
    pub fn set_link(&self, name: &str, up: bool) -> Result<()> {
        self.switch.ip(&format!("link set {} {}\n", port_of(name), if up { "up" } else { "down" }))
    }

    /// Unplugs or plugs the cable between a node and the backbone; of a router, its inner network.
    pub fn set_backbone_link(&self, name: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.switch.ip(&format!("link set {} {state}\n", backbone_port_of(name)))
    }

    /// Makes the switch lose all heartbeats from and to these nodes, on the network of the clients only and of no other
    /// traffic; an empty list mends it.
    pub fn lose_heartbeats(&self, names: &[&str]) -> Result<()> {
        // Declared first, so that there is something to delete.
        let mut rules = "table bridge rudel-lab\ndelete table bridge rudel-lab\n".to_owned();
        if !names.is_empty() {
            rules += "table bridge rudel-lab {\nchain forward {\ntype filter hook forward priority 0;\n";
            for port in names.iter().map(|name| port_of(name)) {
                for direction in ["iifname", "oifname"] {
                    rules += &format!("{direction} {port:?} udp dport {HEARTBEAT_PORT} drop\n");
                }
            }
            rules += "}\n}\n";
        }
        self.load_rules(&rules)
    }

    /// The namespace of the switch: its bridge `br0` has a port `p-NAME` for each host.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Makes the switch lose every second DNS query that is on its way to a node, and nothing else; no name mends it.
    pub fn lose_queries(&self, to: Option<&str>) -> Result<()> {
        let mut rules = "table bridge rudel-lab\ndelete table bridge rudel-lab\n".to_owned();
        if let Some(name) = to {
            rules += &format!(
                "table bridge rudel-lab {{\nchain forward {{\ntype filter hook forward priority 0;\n\
                 oifname {port:?} udp dport 53 numgen inc mod 2 == 0 drop\n}}\n}}\n",
                port = port_of(name)
            );
        }
        self.load_rules(&rules)
    }

    fn load_rules(&self, rules: &str) -> Result<()> {
        let file = self.shared.dir.join("switch.nft");
        fs::write(&file, rules)?;
        netns::run(self.switch.command("nft")?.arg("-f").arg(&file))
            .context("nft is needed (package nftables)")
    }

    /// Leaves the lab standing, with its processes, when this handle is dropped and this process ends.
    pub fn keep(mut self) -> Result<()> {
        store::keep(&self.shared.dir)?;
        self.nodes.iter_mut().for_each(Node::detach);
        // The destructor is what must not run; there is nothing else in here but names.
        std::mem::forget(self);
        Ok(())
    }

    /// Writes what another process needs to find its way (`rudel-lab status`, `exec`).
    fn save(&self) -> Result<()> {
        let plan = Plan {
            nodes: self.nodes.iter().map(|n| n.name().to_owned()).collect(),
            clients: self
                .clients
                .iter()
                .map(|client| client.name.clone())
                .chain(self.hosts.iter().map(|host| host.name().to_owned()))
                .collect(),
        };
        Ok(fs::write(self.shared.dir.join("lab.json"), serde_json::to_vec(&plan)?)?)
    }

    /// What to look at after a failure: the end of each daemon's log.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let log = node.daemon_log();
            if log.is_empty() {
                continue;
            }
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(60);
            text += &format!(
                "--- {} ({} lines, the last {}) ---\n",
                node.name(),
                lines.len(),
                lines.len() - tail
            );
            for line in &lines[tail..] {
                text += line;
                text.push('\n');
            }
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
            if std::env::var_os("RUDEL_LAB_KEEP").is_some() {
                eprintln!("kept as {}: rudel-lab down --name {0}", self.name());
                self.nodes.iter_mut().for_each(Node::detach);
                if let Err(error) = store::keep(&self.shared.dir) {
                    eprintln!("rudel-lab: {error:#}");
                }
                return;
            }
        }
        self.nodes.iter_mut().for_each(Node::kill_all);
        if let Err(error) = store::destroy(&self.shared.dir) {
            eprintln!("rudel-lab: {error:#}");
            assert!(std::thread::panicking(), "a lab was not torn down: {error:#}");
        }
    }
}

/// The port of the switch that a host is plugged into.
fn port_of(name: &str) -> String {
    format!("p-{name}")
}

/// The port of the second switch that a node is plugged into.
fn backbone_port_of(name: &str) -> String {
    format!("b-{name}")
}

/// The port of the third switch that a node is plugged into.
fn dmz_port_of(name: &str) -> String {
    format!("d-{name}")
}

/// What a lab that was left standing consists of.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The names of its nodes.
    pub nodes: Vec<String>,
    /// The names of its clients, and of the hosts behind routers.
    pub clients: Vec<String>,
}

impl Plan {
    /// Reads it back from the directory of a lab.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("lab.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// A machine outside the cluster that talks to it.
#[derive(Debug, Clone)]
pub struct Client {
    name: String,
    namespace: Namespace,
    number: u8,
}

impl Client {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address on the link.
    pub fn address4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 74, 0, 100 + self.number)
    }

    /// Its IPv6 address on the link.
    pub fn address6(&self) -> Ipv6Addr {
        format!("fd74::{}", 100 + u16::from(self.number)).parse().expect("a well-formed address")
    }

    /// One of the many addresses behind it, of the same family as `target`: host `host` of network `net`, where a network
    /// is a /24 or a /64.
    pub fn source(&self, target: IpAddr, net: u8, host: u8) -> IpAddr {
        match target {
            IpAddr::V4(_) => Ipv4Addr::new(10, 99 + self.number, net, host).into(),
            IpAddr::V6(_) => {
                Ipv6Addr::new(0xfd75, u16::from(self.number), 0, u16::from(net), 0, 0, 0, u16::from(host))
                    .into()
            }
        }
    }

    /// The MAC that it believes a neighbour to have, if it has asked and was answered.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<String>> {
        let mut command = self.namespace.command("ip")?;
        let text = netns::output(command.args(["neigh", "show", "dev", "eth0", &address.to_string()]))?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
        Ok(words.nth(1).map(str::to_owned))
    }

    /// Forgets all neighbours, so that they are asked for again.
    pub fn forget_neighbours(&self) -> Result<()> {
        self.namespace.ip("neigh flush dev eth0\n")
    }

    /// Runs `work` inside the client's namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }
}
