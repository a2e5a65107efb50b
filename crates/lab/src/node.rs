//! One machine of a cluster: its network, its servers, its daemon, and what all of them leave on disk.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::{self, Namespace};
use crate::process::Process;
use crate::service::{Place, Server, Services};
use crate::settings::{Settings, VIP4, VIP6};
use crate::{Footprint, Status, sys};

/// What every node of a lab needs to know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    /// Is there a second network, among the nodes alone?
    pub(crate) backbone: bool,
}

impl Shared {
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("rudel.toml")
    }

    pub(crate) fn key(&self) -> PathBuf {
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
    pub(crate) fn new(
        name: &str,
        namespace: Namespace,
        (address4, address6): (Ipv4Addr, Ipv6Addr),
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            namespace,
            address4,
            address6,
            dir: shared.dir.join(name),
            config: shared.config(),
            shared,
            daemon: None,
            services: None,
        }
    }

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

    /// Makes its directories, and gives its interfaces addresses and routes to the clients.
    pub(crate) fn configure(&self, clients: usize) -> Result<()> {
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
        if let Some(router) = &self.shared.settings.router {
            lines += &router.node_lines(self.address4.octets()[3]);
        } else if self.shared.backbone {
            let [.., last] = self.address4.octets();
            lines += &format!("addr add 10.75.0.{last}/24 dev eth1\nlink set eth1 up\n");
        }
        self.namespace.ip(&lines)?;
        match &self.shared.settings.router {
            Some(router) => router.set_up_node(&self.namespace, &self.dir),
            None => Ok(()),
        }
    }

    /// Starts nginx and dnsmasq and waits until they listen.
    pub fn start_services(&mut self) -> Result<()> {
        let own = self.addresses();
        self.services = Some(Services::start(&self.place(&own))?);
        Ok(())
    }

    /// Kills one of its servers with SIGKILL. Everything else goes on.
    ///
    /// # Panics
    /// If they were not started.
    pub fn kill_server(&mut self, server: Server) {
        let name = &self.name;
        self.services.as_mut().unwrap_or_else(|| panic!("no server was started on {name}")).kill(server);
    }

    /// Sends a signal to one of its servers with all its processes, such as SIGSTOP: it hangs, and its kernel goes on.
    ///
    /// # Panics
    /// If they were not started.
    pub fn signal_server(&mut self, server: Server, signal: i32) -> Result<()> {
        let name = &self.name;
        let services = self.services.as_mut().unwrap_or_else(|| panic!("no server was started on {name}"));
        Ok(services.process(server).signal_all(signal)?)
    }

    /// Starts a server that was killed, and waits until it listens.
    pub fn start_server(&mut self, server: Server) -> Result<()> {
        let mut services = self.services.take().context("no server was started")?;
        let own = self.addresses();
        let started = services.start_again(server, &self.place(&own));
        self.services = Some(services);
        started
    }

    fn addresses(&self) -> [IpAddr; 2] {
        [IpAddr::V4(self.address4), IpAddr::V6(self.address6)]
    }

    fn place<'a>(&'a self, own: &'a [IpAddr]) -> Place<'a> {
        Place { namespace: &self.namespace, node: &self.name, own, vips: &[VIP4, VIP6], dir: &self.dir }
    }

    /// The command line of its daemon, for tests that change it.
    pub fn daemon_command(&self) -> Result<Command> {
        self.daemon_command_by(self.namespace.command(rudeld()?)?, &self.name, "")
    }

    /// The command line of its daemon as another file of the program.
    pub fn daemon_command_of(&self, program: &std::path::Path) -> Result<Command> {
        self.daemon_command_by(self.namespace.command(program)?, &self.name, "")
    }

    /// The command line of a daemon that runs here under another node's name.
    pub fn daemon_command_posing_as(&self, name: &str) -> Result<Command> {
        // Machines have no pins in common, and these two would have theirs in one place.
        self.daemon_command_by(self.namespace.command(rudeld()?)?, name, &format!("on-{}", self.name))
    }

    /// The command line of its daemon, started by another program, such as one that drops privileges.
    pub fn daemon_command_under(&self, wrapper: &[&str]) -> Result<Command> {
        let (program, arguments) = wrapper.split_first().context("an empty wrapper")?;
        let mut command = self.namespace.command(program)?;
        command.args(arguments).arg(rudeld()?);
        self.daemon_command_by(command, &self.name, "")
    }

    /// The command line of its daemon on a kernel that does not know `bpf(2)`.
    pub fn daemon_command_without_bpf(&self) -> Result<Command> {
        let mut command = self.daemon_command()?;
        sys::before_exec(&mut command, sys::deny_bpf);
        Ok(command)
    }

    fn daemon_command_by(&self, mut command: Command, name: &str, pins: &str) -> Result<Command> {
        self.make_key()?;
        let bpffs = self.shared.dir.join("bpf").join(pins);
        fs::create_dir_all(&bpffs)?;
        command
            .arg("--config")
            .arg(&self.config)
            .args(["--name", name])
            .arg("--socket")
            .arg(self.socket())
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--bpffs")
            .arg(bpffs)
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

    /// The process that does the daemon's work, below the one that was started.
    pub fn working_daemon(&mut self) -> Result<u32> {
        self.daemon().children().first().copied().context("the daemon's parent has no child now")
    }

    pub(crate) fn still_running(&mut self) -> Result<(), String> {
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

    /// Lets its processes run on when the lab's handle is dropped.
    pub(crate) fn detach(&mut self) {
        self.daemon.iter_mut().for_each(Process::detach);
        for process in self.services.iter_mut().flat_map(Services::processes) {
            process.detach();
        }
    }

    /// Kills all its processes.
    pub(crate) fn kill_all(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
        self.services = None;
    }

    /// Removes what a machine loses with its power: processes, the kernel's state, run-time files.
    pub(crate) fn lose_memory(&mut self) -> Result<()> {
        self.kill_all();
        self.namespace.destroy()?;
        for path in self.pins().into_iter().chain([self.runtime_dir()]) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Gives it a new, empty namespace.
    pub(crate) fn plug_in(&mut self, namespace: Namespace, clients: usize) -> Result<()> {
        self.namespace = namespace;
        self.configure(clients)
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

    /// What its daemon says of the cluster.
    pub fn status(&self) -> Result<Status> {
        Status::ask(&self.socket())
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
