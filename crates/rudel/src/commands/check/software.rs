//! Other software on this machine that wants what the cluster has: its addresses, its connections, its packets.

use std::net::IpAddr;

use rudel_api::check::{Area, Finding, Name, Report, Severity};
use rudel_api::config::Config;

use super::system::System;

/// Software that gives a machine an address, and where it says which.
struct Rival {
    /// What its processes are called.
    process: &'static str,
    /// Its name for people.
    name: &'static str,
    /// Its unit.
    unit: &'static str,
    /// Where its configuration is, unless its command line names one.
    files: &'static [&'static str],
    /// A line of the configuration counts only with one of these words in it; none: any line.
    words: &'static [&'static str],
    /// Options of its command line that name another configuration, or the address itself.
    options: &'static [&'static str],
}

const RIVALS: [Rival; 6] = [
    Rival {
        process: "keepalived",
        name: "keepalived",
        unit: "keepalived",
        files: &["/etc/keepalived/keepalived.conf"],
        words: &[],
        options: &["-f", "--use-file"],
    },
    Rival {
        process: "ucarp",
        name: "ucarp",
        unit: "ucarp",
        files: &["/etc/ucarp/vip-common.conf"],
        words: &[],
        options: &["-a", "--addr"],
    },
    Rival {
        process: "vrrpd",
        name: "FRR's vrrpd",
        unit: "frr",
        files: &["/etc/frr/frr.conf", "/etc/frr/vrrpd.conf"],
        words: &["vrrp "],
        options: &["-f", "--config_file"],
    },
    Rival {
        process: "pacemakerd",
        name: "Pacemaker",
        unit: "pacemaker",
        files: &["/var/lib/pacemaker/cib/cib.xml"],
        words: &["name=\"ip\""],
        options: &[],
    },
    Rival {
        process: "wackamole",
        name: "wackamole",
        unit: "wackamole",
        files: &["/etc/wackamole.conf"],
        words: &[],
        options: &[],
    },
    Rival {
        process: "heartbeat",
        name: "Heartbeat",
        unit: "heartbeat",
        files: &["/etc/ha.d/haresources"],
        words: &[],
        options: &[],
    },
];

/// A running program.
struct Process {
    pid: String,
    comm: String,
    arguments: Vec<String>,
}

pub(super) fn check(system: &dyn System, config: &Config, report: &mut Report) {
    let before = report.findings.len();
    let processes = processes(system);
    for rival in &RIVALS {
        look_for(system, config, rival, &processes, report);
    }
    let conntrackd = processes.iter().find(|process| process.comm == "conntrackd");
    if let Some(process) = conntrackd.filter(|_| config.sync.enabled) {
        let finding = Finding::new(
            Name::Conntrackd,
            Severity::Warning,
            Area::Host,
            format!("conntrackd runs here (process {}), and [sync] is enabled", process.pid),
            "Both tell the other routers of the same connections, and each takes the other's entries for new ones.",
            "Stop conntrackd on all nodes, or leave [sync] out.",
        );
        report.add(finding.enter("this node", ["systemctl disable --now conntrackd"]));
    }
    clusterip(system, report);
    if report.findings.len() == before {
        report.well(Area::Host, "no other software here has an address of the cluster");
    }
}

/// The programs that run in this network namespace, as far as that can be seen.
fn processes(system: &dyn System) -> Vec<Process> {
    let here = system.link("/proc/self/ns/net");
    let mut found = Vec::new();
    for pid in system.list("/proc") {
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(comm) = system.read(&format!("/proc/{pid}/comm")) else { continue };
        let comm = comm.trim().to_owned();
        if comm != "conntrackd" && !RIVALS.iter().any(|rival| rival.process == comm) {
            continue;
        }
        // Another's namespace is told to root alone. Whoever is not root takes it for this one.
        let there = system.link(&format!("/proc/{pid}/ns/net"));
        if there.is_some() && there != here {
            continue;
        }
        let line = system.read(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<String> =
            line.split('\0').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        // One that has ended, and has only not been collected yet, has none.
        if arguments.is_empty() {
            continue;
        }
        found.push(Process { pid, comm, arguments });
    }
    found
}

fn look_for(system: &dyn System, config: &Config, rival: &Rival, processes: &[Process], report: &mut Report) {
    let running = processes.iter().find(|process| process.comm == rival.process);
    // The command line of one that runs says which file is in force.
    let named: Vec<String> = running.map(|process| option_values(process, rival.options)).unwrap_or_default();
    let mut texts: Vec<(String, String)> =
        named.iter().map(|value| ("its command line".to_owned(), value.clone())).collect();
    let named_files: Vec<String> = named.iter().filter(|value| value.starts_with('/')).cloned().collect();
    let files = if named_files.is_empty() {
        rival.files.iter().map(|file| (*file).to_owned()).collect()
    } else {
        named_files
    };
    for file in files {
        match system.read(&file) {
            Ok(text) => texts.push((file, text)),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                report.unseen(format!("{}'s {file}", rival.name), "only root may read it: run this as root");
            }
            Err(_) => {}
        }
    }
    let addresses = config.interfaces.iter().flat_map(|interface| &interface.addresses);
    for address in addresses.map(|cidr| cidr.address()) {
        let Some((place, _)) = texts.iter().find(|(_, text)| mentions(text, address, rival.words)) else {
            continue;
        };
        let finding = match running {
            Some(process) => Finding::new(
                Name::AddressSoftware,
                Severity::Error,
                Area::Host,
                format!("{} runs here (process {}) and has {address}, by {place}", rival.name, process.pid),
                "It puts the address on an interface and tells the network that it has this node's own MAC. All clients \
                 go to one node, and the daemon does not start beside that.",
                format!("Stop {} on all nodes, or take the address out of its configuration.", rival.name),
            ),
            None => Finding::new(
                Name::AddressSoftware,
                Severity::Warning,
                Area::Host,
                format!("{} does not run here, but has {address} in {place}", rival.name),
                "If it is started, at the next boot perhaps, it takes the address from the cluster.",
                format!("Take the address out of its configuration, or remove {}.", rival.name),
            ),
        };
        let lines = match running {
            Some(process) if !process.arguments.is_empty() => vec![
                format!("systemctl disable --now {}", rival.unit),
                format!("kill {}     # if it was not started by its unit", process.pid),
            ],
            _ => vec![format!("systemctl disable --now {}", rival.unit)],
        };
        report.add(finding.enter("this node", lines));
        return;
    }
}

/// The values of options, given as `-f X`, `-fX`, `--file X` or `--file=X`.
fn option_values(process: &Process, options: &[&str]) -> Vec<String> {
    let mut values = Vec::new();
    for (i, argument) in process.arguments.iter().enumerate().skip(1) {
        for option in options {
            let Some(rest) = argument.strip_prefix(option) else { continue };
            let value = match rest.strip_prefix('=') {
                Some(value) => Some(value.to_owned()),
                None if rest.is_empty() => process.arguments.get(i + 1).cloned(),
                None if !option.starts_with("--") => Some(rest.to_owned()),
                None => None,
            };
            values.extend(value);
        }
    }
    values
}

/// Whether a configuration names an address: as a word of its own, not in a comment.
fn mentions(text: &str, address: IpAddr, words: &[&str]) -> bool {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
    text.lines().any(|line| {
        let line = line.split(['#', '!']).next().unwrap_or_default();
        let counts = words.is_empty() || words.iter().any(|word| line.contains(word));
        // An IPv6 address is written in several ways.
        counts && line.split(|c| !is_part(c)).any(|word| word.parse() == Ok(address))
    })
}

fn clusterip(system: &dyn System, report: &mut Report) {
    let saved: Vec<&str> =
        ["/etc/iptables/rules.v4", "/etc/sysconfig/iptables", "/etc/iptables/iptables.rules"]
            .into_iter()
            .filter(|file| {
                let text = system.read(file).unwrap_or_default();
                text.lines().any(|line| {
                    !line.trim_start().starts_with('#')
                        && (line.contains("-j CLUSTERIP") || line.contains("-m cluster "))
                })
            })
            .collect();
    // One directory entry for each rule in force.
    let active = !system.list("/proc/net/ipt_CLUSTERIP").is_empty();
    let rules = system.run("nft", &["-j", "list", "ruleset"]).unwrap_or_default();
    let active = active
        || ["\"CLUSTERIP\"", "\"cluster\""]
            .iter()
            .any(|name| rules.contains(&format!("\"name\": {name}")) && rules.contains("\"xt\""));
    if !active && saved.is_empty() {
        return;
    }
    let what = match (active, &*saved) {
        (true, _) => "a rule of CLUSTERIP or xt_cluster is in force".to_owned(),
        (false, files) => format!("a rule of CLUSTERIP or xt_cluster is kept in {}", files.join(", ")),
    };
    let finding = Finding::new(
        Name::ClusteripRules,
        if active { Severity::Error } else { Severity::Warning },
        Area::Host,
        what,
        "It drops what another node of the former cluster would have taken: packets that the filter has passed.",
        "Remove it, and from where it is loaded at boot. CLUSTERIP itself is gone since Linux 6.3.",
    );
    let mut lines = vec!["iptables-save | grep -E 'CLUSTERIP|-m cluster'".to_owned()];
    lines.extend(saved.iter().map(|file| format!("sed -i -E '/CLUSTERIP|-m cluster/d' {file}")));
    report.add(finding.enter("this node", lines));
}
