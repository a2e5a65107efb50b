//! `rudel check`.
//!
//! What it knows of this host it reads itself, as anybody could; what it knows of the network it asks the daemon, which has
//! the privilege to send and to listen. So it needs none, and says what it was not let to see.

mod firewall;
mod host;
mod links;
mod network;
mod screen;
mod software;
mod surroundings;
mod system;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use rudel_api::check::{Area, Finding, Name, Report, Severity, Sight};
use rudel_api::config::{Config, DEFAULT_PATH};
use rudel_api::control::{Client, ClientError};
use rudel_api::snapshot::Snapshot;
use rudel_api::timestamp::Timestamp;

use crate::Outcome;
use crate::failure::Failure;
use crate::output;
use crate::target::Target;

use system::{Here, System};

/// Look at this host and its network, and say what to do about what is wrong
///
/// Reads the configuration and looks at the kernel, the interfaces, the settings, the packet rules, and at other software
/// that wants the same addresses; and, while the daemon runs, at the network: who hears whose packets to the cluster's MAC,
/// who asks for group members, who does not believe the ARP answer, who else has an address. Each finding comes with its
/// reason and its remedy. Nothing is changed. Run it as root to see everything, and on each node: what one hears another
/// need not.
///
/// Exits with 0 if nothing is worse than a note, with 3 if there is a warning or an error (the severity in --json tells which),
/// with 2 if the configuration is refused, and with 1 if there is none to look at.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel check
  rudel check --json | jq -r '.findings[] | select(.severity == \"error\") | .name'
  rudel check --config ./rudel.toml      # before the first start")]
pub(crate) struct Args {
    /// Print everything as JSON; its names are a promise to scripts
    #[arg(long)]
    json: bool,
}

/// How long the daemon is given to hear what comes of its questions to the network: whoever has the address answers at once,
/// and whoever does not believe an answer asks a second time after a second.
const LISTEN: Duration = Duration::from_millis(1500);
/// If somebody has, how long it may take until there is a third time, in all.
const LISTEN_MAX: Duration = Duration::from_millis(4500);

/// What the daemon says.
struct Told {
    snapshot: Snapshot,
    /// None of a daemon that does not know the question.
    sight: Option<Sight>,
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let config = match target.config()? {
        Some(config) => config,
        // It may be there and not readable: the very same words as for one that was named.
        None => Config::load(DEFAULT_PATH)?,
    };
    let told = ask(&target.socket()?, || {
        if !args.json {
            output::hint("asking the network ...");
        }
    });
    let report = look(&Here, &config, &told, Timestamp::now());
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&screen::render(&report, output::width()))?;
    }
    Ok(if report.is_degraded() { Outcome::Degraded } else { Outcome::Done })
}

/// Has the daemon ask the network, and listens for what comes of it.
fn ask(socket: &std::path::Path, waiting: impl FnOnce()) -> Result<Told, ClientError> {
    let mut client = Client::connect(socket, Client::TIMEOUT)?;
    let sight = match client.sight(true) {
        Ok(_) => {
            waiting();
            let begin = Instant::now();
            let mut sight;
            loop {
                std::thread::sleep(LISTEN);
                sight = client.sight(false)?;
                let is_pending =
                    sight.interfaces.iter().any(|seen| seen.pending && seen.insistent.is_empty());
                if !is_pending || begin.elapsed() >= LISTEN_MAX {
                    break;
                }
            }
            Some(sight)
        }
        // An older daemon.
        Err(ClientError::Refused(_)) => None,
        Err(error) => return Err(error),
    };
    Ok(Told { snapshot: client.status()?, sight })
}

/// Everything that is found.
fn look(system: &dyn System, config: &Config, told: &Result<Told, ClientError>, now: Timestamp) -> Report {
    let told_well = told.as_ref().ok();
    let snapshot = told_well.map(|told| &told.snapshot);
    let host_name = system.sysctl("kernel/hostname").unwrap_or_default();
    let node = match snapshot {
        Some(snapshot) => Some(snapshot.node.clone()),
        None => config.node_name(&host_name).ok().map(|name| name.to_string()),
    };
    let mut report = Report::new(config.cluster.name.as_str(), node, config.path().display().to_string());
    report.daemon = told_well.is_some();
    // A daemon that runs has a name: that of the host, or one that it was given.
    configuration(config, Some(host_name.as_str()).filter(|_| snapshot.is_none()), &mut report);
    let links = host::check(system, config, snapshot, &mut report);
    software::check(system, config, &mut report);
    firewall::check(system, config, &links, &mut report);
    surroundings::check(system, config, &links, told_well.and_then(|told| told.sight.as_ref()), &mut report);
    match told {
        Ok(told) => network::check(system, config, told, now, &mut report),
        Err(error) => report.unseen("the network", format!("{error}: {}", error.remedy())),
    }
    report
}

fn configuration(config: &Config, host_name: Option<&str>, report: &mut Report) {
    let before = report.findings.len();
    if let Some(host_name) = host_name
        && let Err(error) = config.node_name(host_name)
    {
        report.add(Finding::new(
            Name::NodeName,
            Severity::Error,
            Area::Configuration,
            format!("the host name {host_name:?} cannot be the node's name ({error})"),
            "Without `[node] name` the host's name is the node's, and the daemon does not start.",
            "Set `[node] name`, or start the daemon with --name.",
        ));
    }
    for warning in config.warnings() {
        let (what, remedy) = warning.rsplit_once("; ").unwrap_or((&warning, "see docs/configuration.md"));
        report.add(Finding::new(
            Name::ConfigAdvice,
            Severity::Warning,
            Area::Configuration,
            what,
            "It works, and will disappoint.",
            format!("In {}: {remedy}.", config.path().display()),
        ));
    }
    if report.findings.len() == before {
        report.well(Area::Configuration, format!("{} can be followed", config.path().display()));
    }
}
