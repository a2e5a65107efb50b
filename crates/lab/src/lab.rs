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

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::netns::{self, Namespace};
use crate::process::Process;
use crate::service::Services;
use crate::settings::{Settings, VIP4, VIP6};
use crate::status::Status;
use crate::{Footprint, client, store, sys, wait_until};

/// How long a cluster of a lab may take to come to rest; far more than it needs, since test machines are busy.
pub const REST_DEADLINE: Duration = Duration::from_secs(20);

/// What every node of a lab needs to know.
#[derive(Debug)]
struct Shared {
    name: String,
    dir: PathBuf,
    settings: Settings,
}

/// A lab. Dropping it removes everything that it made; so do SIGINT, SIGTERM and a panic.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
    switch: Namespace,
    nodes: Vec<Node>,
    clients: Vec<Client>,
}

/// What to build.
#[derive(Debug)]
pub struct Builder {
    name: Option<String>,
    nodes: usize,
    clients: usize,
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
        let shared = Arc::new(Shared { name, dir, settings: self.settings });
        // From here on a failure drops the half-built lab, which removes what there is.
        let mut lab = Lab { shared, switch, nodes: Vec::new(), clients: Vec::new() };
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
        Ok(lab)
    }
}

impl Lab {
    /// Three nodes, one client, default settings.
    pub fn builder() -> Builder {
        Builder { name: None, nodes: 3, clients: 1, settings: Settings::default() }
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
        self.switch
            .ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up\n")
    }

    /// A host on the switch: its namespace, with an interface `eth0`, no IPv6 duplicate detection and no router
    /// solicitations, so that addresses work at once.
    fn host(&self, name: &str) -> Result<Namespace> {
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
        self.switch.ip(&format!(
            "link add {port} type veth peer name eth0 netns {ns}\n\
             link set {port} master br0\n\
             link set {port} up\n",
            port = port_of(name),
            ns = namespace.name(),
        ))?;
        Ok(namespace)
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
        let node = Node {
            namespace: self.host(&name)?,
            address4: Ipv4Addr::new(10, 74, 0, last),
            // As it reads: fd74::11 is 10.74.0.11.
            address6: format!("fd74::{last}").parse().context("an address of a node")?,
            dir: self.shared.dir.join(&name),
            name,
            config: self.config(),
            shared: Arc::clone(&self.shared),
            daemon: None,
            services: None,
        };
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
        self.nodes.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name} in the lab"))
    }

    /// A node by name, to change it.
    ///
    /// # Panics
    /// If there is none.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name} in the lab"))
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
        let names: Vec<String> = self.nodes.iter().map(|n| n.name.clone()).collect();
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
        self.set_link(name, false)?;
        let node = self.node_mut(name);
        if let Some(mut daemon) = node.daemon.take() {
            daemon.kill();
        }
        node.services = None;
        node.namespace.destroy()?;
        // The run-time directory of a machine and its pins do not survive a reboot.
        for path in node.pins().into_iter().chain([node.runtime_dir()]) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Boots a node that was powered off: a new namespace on the switch, servers, daemon.
    pub fn power_on(&mut self, name: &str) -> Result<()> {
        let namespace = self.host(name)?;
        let clients = self.clients.len();
        let node = self.node_mut(name);
        node.namespace = namespace;
        node.configure(clients)?;
        node.start_services()?;
        node.start_daemon()
    }

    /// Unplugs or plugs the cable between a node or client and the switch.
    pub fn set_link(&self, name: &str, up: bool) -> Result<()> {
        self.switch.ip(&format!("link set {} {}\n", port_of(name), if up { "up" } else { "down" }))
    }

    /// Leaves the lab standing, with its processes, when this handle is dropped and this process ends.
    pub fn keep(mut self) -> Result<()> {
        store::keep(&self.shared.dir)?;
        for node in &mut self.nodes {
            node.daemon.iter_mut().for_each(Process::detach);
            for process in node.services.iter_mut().flat_map(Services::processes) {
                process.detach();
            }
        }
        // The destructor is what must not run; there is nothing else in here but names.
        std::mem::forget(self);
        Ok(())
    }

    /// Writes what another process needs to find its way (`rudel-lab status`, `exec`).
    fn save(&self) -> Result<()> {
        let plan = Plan {
            nodes: self.nodes.iter().map(|n| n.name.clone()).collect(),
            clients: self.clients.iter().map(|c| c.name.clone()).collect(),
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
            text +=
                &format!("--- {} ({} lines, the last {}) ---\n", node.name, lines.len(), lines.len() - tail);
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
                for node in &mut self.nodes {
                    node.daemon.iter_mut().for_each(Process::detach);
                    for process in node.services.iter_mut().flat_map(Services::processes) {
                        process.detach();
                    }
                }
                if let Err(error) = store::keep(&self.shared.dir) {
                    eprintln!("rudel-lab: {error:#}");
                }
                return;
            }
        }
        for node in &mut self.nodes {
            if let Some(mut daemon) = node.daemon.take() {
                daemon.kill();
            }
            node.services = None;
        }
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

/// What a lab that was left standing consists of.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The names of its nodes.
    pub nodes: Vec<String>,
    /// The names of its clients.
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

impl Shared {
    fn config(&self) -> PathBuf {
        self.dir.join("rudel.toml")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key")
    }
}

/// One machine of the cluster.
#[derive(Debug)]
pub struct Node {
    name: String,
    namespace: Namespace,
    address4: Ipv4Addr,
    address6: Ipv6Addr,
    dir: PathBuf,
    config: PathBuf,
    shared: Arc<Shared>,
    daemon: Option<Process>,
    services: Option<Services>,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its own IPv4 address.
    pub fn address4(&self) -> Ipv4Addr {
        self.address4
    }

    /// Its own IPv6 address.
    pub fn address6(&self) -> Ipv6Addr {
        self.address6
    }

    /// The control socket of its daemon.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("rudel.sock")
    }

    /// The run-time directory of its daemon.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The state directory of its daemon.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The access log of its HTTP server.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.dir.join("nginx/access.log")).unwrap_or_default()
    }

    /// Everything its daemons have said, from the first start on.
    pub fn daemon_log(&self) -> String {
        let log = fs::read(self.dir.join("rudeld.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Gives it a configuration file other than the cluster's, from the next start on.
    pub fn set_config(&mut self, config: PathBuf) {
        self.config = config;
    }

    fn configure(&self, clients: usize) -> Result<()> {
        fs::create_dir_all(self.runtime_dir())?;
        fs::create_dir_all(self.state_dir())?;
        let mut lines = format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n",
            self.address4, self.address6
        );
        for number in 1..=clients {
            lines += &format!(
                "route add 10.{}.0.0/16 via 10.74.0.{}\nroute add fd75:{number:x}::/32 via fd74::{}\n",
                99 + number,
                100 + number,
                100 + number,
            );
        }
        self.namespace.ip(&lines)
    }

    /// Starts nginx and dnsmasq and waits until they listen.
    pub fn start_services(&mut self) -> Result<()> {
        let own = [IpAddr::V4(self.address4), IpAddr::V6(self.address6)];
        self.services = Some(Services::start(&self.namespace, &self.name, &own, &[VIP4, VIP6], &self.dir)?);
        Ok(())
    }

    /// The command line of its daemon, for tests that change it.
    pub fn daemon_command(&self) -> Result<Command> {
        self.daemon_command_by(self.namespace.command(rudeld()?)?)
    }

    /// The command line of its daemon, started by another program, such as one that drops privileges.
    pub fn daemon_command_under(&self, wrapper: &[&str]) -> Result<Command> {
        let (program, arguments) = wrapper.split_first().context("an empty wrapper")?;
        let mut command = self.namespace.command(program)?;
        command.args(arguments).arg(rudeld()?);
        self.daemon_command_by(command)
    }

    /// The command line of its daemon on a kernel that does not know `bpf(2)`.
    pub fn daemon_command_without_bpf(&self) -> Result<Command> {
        let mut command = self.daemon_command()?;
        sys::before_exec(&mut command, sys::deny_bpf);
        Ok(command)
    }

    fn daemon_command_by(&self, mut command: Command) -> Result<Command> {
        self.make_key()?;
        command
            .arg("--config")
            .arg(&self.config)
            .args(["--name", &self.name])
            .arg("--socket")
            .arg(self.socket())
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--bpffs")
            .arg(self.shared.dir.join("bpf"))
            .env("NO_COLOR", "1");
        Ok(command)
    }

    fn make_key(&self) -> Result<()> {
        let key = self.shared.key();
        if !key.exists() {
            netns::run(Command::new(rudel()?).args(["key", "new"]).arg(&key))
                .context("making the cluster key")?;
        }
        Ok(())
    }

    /// Starts its daemon.
    pub fn start_daemon(&mut self) -> Result<()> {
        let command = self.daemon_command()?;
        self.start_daemon_as(command)
    }

    /// Starts its daemon with a changed command line.
    pub fn start_daemon_as(&mut self, command: Command) -> Result<()> {
        self.daemon =
            Some(Process::spawn(&format!("rudeld of {}", self.name), command, &self.dir.join("rudeld.log"))?);
        Ok(())
    }

    /// Its daemon.
    ///
    /// # Panics
    /// If none was started, or it was collected.
    pub fn daemon(&mut self) -> &mut Process {
        self.daemon.as_mut().unwrap_or_else(|| panic!("no daemon was started on {}", self.name))
    }

    fn still_running(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        match self.daemon.as_mut().map(Process::try_wait) {
            Some(None) => Ok(()),
            Some(Some(status)) => {
                let log = self.daemon_log();
                Err(format!("the daemon of {name} ended with {status}: {}", log.lines().last().unwrap_or("")))
            }
            None => Err(format!("{name} has no daemon")),
        }
    }

    /// Kills its daemon, and what helps it, with SIGKILL. Its servers go on.
    pub fn kill_daemon(&mut self) {
        self.daemon().kill();
        self.daemon = None;
    }

    /// Stops its daemon as the service manager does, and waits for its end.
    pub fn terminate_daemon(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.daemon().signal(libc::SIGTERM)?;
        let status = self.daemon().wait(deadline)?;
        self.daemon = None;
        Ok(status)
    }

    /// Runs the control tool on it.
    pub fn rudel(&self, arguments: &[&str]) -> Result<String> {
        netns::output(self.rudel_command(arguments)?.env("NO_COLOR", "1"))
    }

    /// The control tool, with `arguments` and the socket of this node's daemon.
    pub fn rudel_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command(rudel()?)?;
        command.args(arguments).arg("--config").arg(&self.config).arg("--socket").arg(self.socket());
        Ok(command)
    }

    /// What its daemon says of the cluster. A degraded cluster has a status too.
    pub fn status(&self) -> Result<Status> {
        let output = self.rudel_command(&["status", "--json"])?.output().context("starting rudel")?;
        match serde_json::from_slice(&output.stdout) {
            Ok(value) => Ok(Status(value)),
            Err(_) => {
                bail!("rudel status: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
            }
        }
    }

    /// All that this machine's kernel and files hold because of a daemon, to compare before and after.
    pub fn footprint(&self) -> Result<Footprint> {
        let mut footprint = Footprint::of_namespace(Some(&self.namespace))?;
        for pin in self.pins() {
            footprint.add(format!("file {}", pin.display()));
            footprint.add_files(&pin);
        }
        footprint.add_files(&self.runtime_dir());
        if self.socket().exists() {
            footprint.add(format!("file {}", self.socket().display()));
        }
        Ok(footprint)
    }

    /// What of the shared BPF file system belongs to this node: whatever has its name at the end of its own.
    fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.shared.dir.join("bpf")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name == self.name || name.ends_with(&format!("-{}", self.name)) {
                    found.push(entry.path());
                } else if entry.path().is_dir() {
                    left.push(entry.path());
                }
            }
        }
        found
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

    /// Runs `work` inside the client's namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }
}

/// The daemon's executable: `$RUDELD`, or the one beside this program.
pub fn rudeld() -> Result<PathBuf> {
    binary("rudeld", "RUDELD")
}

/// The control tool's executable: `$RUDEL`, or the one beside this program.
pub fn rudel() -> Result<PathBuf> {
    binary("rudel", "RUDEL")
}

fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let me = std::env::current_exe().context("finding this program")?;
    // Tests lie in `deps/`, one directory below the product's programs.
    me.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file()).with_context(|| {
        format!("{name} is not beside {} (cargo build -p {name}; or set {variable})", me.display())
    })
}
