//! Real servers on a node: nginx for HTTP and dnsmasq for DNS, both bound to the shared addresses and answering with the
//! name of the node.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;
use crate::process::Process;
use crate::wait_until;

/// The ports on which HTTP is answered: one as usual, and some more for what depends on the destination port.
pub const HTTP_PORTS: std::ops::RangeInclusive<u16> = 80..=95;
/// The port on which HTTP connections stay open.
pub const LASTING_PORT: u16 = 8080;
/// A second site on port 80, whose `/healthz` says that it is well and names it.
pub const SITE: &str = "site.rudel.test";
/// The name whose TXT record is the node's name.
pub const WHOAMI: &str = "whoami.rudel.test";

/// One of the servers of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// HTTP.
    Nginx,
    /// DNS.
    Dnsmasq,
}

/// Where servers run. The shared addresses need not exist yet: the namespace must have `ip_nonlocal_bind` set.
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) node: &'a str,
    pub(crate) own: &'a [IpAddr],
    pub(crate) vips: &'a [IpAddr],
    pub(crate) dir: &'a Path,
}

/// The servers of one node.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) nginx: Process,
    pub(crate) dnsmasq: Process,
}

impl Services {
    /// Starts both and waits until they listen.
    pub(crate) fn start(place: &Place<'_>) -> Result<Self> {
        let mut services = Self { nginx: start_nginx(place)?, dnsmasq: start_dnsmasq(place)? };
        services.wait_listening(place)?;
        Ok(services)
    }

    /// Kills one of them.
    pub(crate) fn kill(&mut self, server: Server) {
        self.process(server).kill();
    }

    /// One of them.
    pub(crate) fn process(&mut self, server: Server) -> &mut Process {
        match server {
            Server::Nginx => &mut self.nginx,
            Server::Dnsmasq => &mut self.dnsmasq,
        }
    }

    /// Starts one that was killed, and waits until both listen.
    pub(crate) fn start_again(&mut self, server: Server, place: &Place<'_>) -> Result<()> {
        match server {
            Server::Nginx => self.nginx = start_nginx(place)?,
            Server::Dnsmasq => self.dnsmasq = start_dnsmasq(place)?,
        }
        self.wait_listening(place)
    }

    fn wait_listening(&mut self, place: &Place<'_>) -> Result<()> {
        let what = format!("nginx and dnsmasq of {} to listen", place.node);
        wait_until(Duration::from_secs(10), &what, || {
            for process in self.processes() {
                if let Some(status) = process.try_wait() {
                    return Err(format!("ended with {status}: {}", process.log().trim()));
                }
            }
            listening(place.namespace, place.vips).map_err(|e| format!("{e:#}"))?
        })
    }

    pub(crate) fn processes(&mut self) -> [&mut Process; 2] {
        [&mut self.nginx, &mut self.dnsmasq]
    }
}

/// Do the servers listen on all addresses?
fn listening(namespace: &Namespace, vips: &[IpAddr]) -> Result<Result<(), String>> {
    namespace.run(|| {
        // Not /proc/net: that is the main thread's, which is in another namespace.
        let table =
            |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        let bound = |table: &str, port: u16| {
            let suffix = format!(":{port:04X}");
            table
                .lines()
                .filter(|l| l.split_whitespace().nth(1).is_some_and(|a| a.ends_with(&suffix)))
                .count()
        };
        let four = vips.iter().filter(|vip| vip.is_ipv4()).count();
        for (tcp, udp, wanted) in [("tcp", "udp", four), ("tcp6", "udp6", vips.len() - four)] {
            let (http, dns) = (bound(&table(tcp), *HTTP_PORTS.end()), bound(&table(udp), 53));
            if http < wanted || dns < wanted {
                return Err(format!("{http} {tcp} and {dns} {udp} sockets of {wanted} each"));
            }
        }
        Ok(())
    })
}

fn start_nginx(place: &Place<'_>) -> Result<Process> {
    let Place { namespace, node, vips, .. } = place;
    let dir = &place.dir.join("nginx");
    fs::create_dir_all(dir)?;
    let config = dir.join("nginx.conf");
    fs::write(&config, nginx_config(node, vips, dir))?;
    let mut command = namespace.command("nginx")?;
    command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir).arg("-c").arg(&config);
    Process::spawn(&format!("nginx of {node}"), command, &dir.join("output.log"))
        .context("nginx is needed (package nginx-light)")
}

fn nginx_config(node: &str, vips: &[IpAddr], dir: &Path) -> String {
    let dir = dir.display();
    let mut listen = String::new();
    for vip in vips {
        for port in HTTP_PORTS {
            let socket = std::net::SocketAddr::new(*vip, port);
            writeln!(listen, "    listen {socket};").expect("writing to a string cannot fail");
        }
    }
    let lasting: String = vips
        .iter()
        .map(|vip| format!("    listen {};\n", std::net::SocketAddr::new(*vip, LASTING_PORT)))
        .collect();
    let site: String =
        vips.iter().map(|vip| format!("    listen {};\n", std::net::SocketAddr::new(*vip, 80))).collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {dir}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         \x20 log_format flow '$msec $remote_addr $remote_port $server_addr $server_port $status $request_uri';\n\
         \x20 access_log {dir}/access.log flow;\n\
         {temporary}\
         \x20 keepalive_timeout 0;\n\
         \x20 server {{\n\
         {listen}\
         \x20   default_type text/plain;\n\
         \x20   add_header X-Rudel-Node {node} always;\n\
         \x20   location = /healthz {{ return 200 \"ok\\n\"; }}\n\
         \x20   location / {{ return 200 \"{node}\\n\"; }}\n\
         \x20 }}\n\
         \x20 server {{\n\
         {site}\
         \x20   server_name {SITE};\n\
         \x20   default_type text/plain;\n\
         \x20   location = /healthz {{ return 200 \"{SITE} is well\\n\"; }}\n\
         \x20   location / {{ return 404; }}\n\
         \x20 }}\n\
         \x20 server {{\n\
         {lasting}\
         \x20   keepalive_timeout 1h;\n\
         \x20   keepalive_requests 1000000;\n\
         \x20   access_log off;\n\
         \x20   default_type text/plain;\n\
         \x20   add_header X-Rudel-Node {node} always;\n\
         \x20   location / {{ return 200 \"{node}\\n\"; }}\n\
         \x20 }}\n\
         }}\n"
    )
}

fn start_dnsmasq(place: &Place<'_>) -> Result<Process> {
    let Place { namespace, node, own, vips, dir } = place;
    let mut command = namespace.command("dnsmasq")?;
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
        .args([
            "--group=root",
            "--pid-file=",
            "--bind-interfaces",
            "--log-facility=-",
            "--dns-forward-max=1000",
        ])
        .arg(format!("--txt-record={WHOAMI},{node}"));
    for address in *own {
        command.arg(format!("--host-record={WHOAMI},{address}"));
    }
    for vip in *vips {
        command.arg(format!("--listen-address={vip}"));
    }
    Process::spawn(&format!("dnsmasq of {node}"), command, &dir.join("dnsmasq.log"))
        .context("dnsmasq is needed (package dnsmasq-base)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_listens_on_every_address_and_port_and_writes_only_into_its_directory() {
        let vips = [crate::VIP4, crate::VIP6];
        let config = nginx_config("n1", &vips, Path::new("/run/x"));
        assert!(config.contains("listen 10.74.0.10:80;") && config.contains("listen [fd74::10]:95;"));
        assert!(config.contains("return 200 \"n1\\n\";"));
        let paths: Vec<&str> = config.split_whitespace().filter(|w| w.starts_with('/')).collect();
        assert!(paths.iter().filter(|p| p.len() > 1).all(|p| p.starts_with("/run/x/") || *p == "/healthz"));
    }
}
