//! Reading the configuration again, on SIGHUP and `rudel reload`: all of it is followed, or nothing.
//!
//! ```text
//!  file ─► Reading ─► Difference ─┬─ what needs a start ─► refused, all named
//!                                 └─ the rest ───────────► weight, health checks, hooks, drain time-out
//! ```
//!
//! Everything that can be refused is refused before the first change.

use rudel_api::config::{Config, ConfigError, Difference, Live};
use rudel_api::reload::{Change, Reload, ReloadResult};
use rudel_api::timestamp::Timestamp;
use rudel_proto::Command;
use rudel_proto::id::NodeName;

use crate::daemon::DaemonError;
use crate::options::Options;
use crate::prepare::Reading;

/// Why a configuration that was read again is not followed. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`ReloadResult::Refused`] or [`ReloadResult::Failed`].
    pub result: ReloadResult,
    /// Why, as at a start: perhaps in several lines, with what is wrong underlined.
    pub reason: String,
    /// The same in one line, for the history.
    pub line: String,
}

impl Refusal {
    /// This host could not follow it.
    pub fn failed(reason: impl std::fmt::Display) -> Self {
        let reason = reason.to_string();
        Refusal { result: ReloadResult::Failed, line: reason.clone(), reason }
    }
}

impl From<DaemonError> for Refusal {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::Config(error) => {
                let result = match *error {
                    ConfigError::Unreadable { .. } => ReloadResult::Failed,
                    ConfigError::Refused(_) => ReloadResult::Refused,
                };
                Refusal { result, reason: error.render(false), line: problems(&error) }
            }
            DaemonError::Host(error) => {
                Refusal { line: problems(&error), ..Refusal::failed(error.render(false)) }
            }
            DaemonError::Failed(reason) => Refusal::failed(reason),
        }
    }
}

/// What is wrong with a configuration, without its lines.
fn problems(error: &ConfigError) -> String {
    match error {
        ConfigError::Unreadable { .. } => error.render(false),
        ConfigError::Refused(_) => {
            let problems = error.problems().iter();
            problems
                .map(|problem| format!("line {}: {}", problem.line(), problem.message()))
                .collect::<Vec<_>>()
                .join("; ")
        }
    }
}

/// What a configuration changes.
#[derive(Debug)]
pub struct Step {
    /// What is in force once the changes are made.
    pub config: Config,
    /// What the protocol is told.
    pub commands: Vec<Command>,
    /// The changes.
    pub changes: Vec<Change>,
}

/// Reads the file anew.
#[derive(Debug)]
pub struct Reloading {
    options: Options,
    /// The name that this node goes by, wherever that came from.
    node: NodeName,
    /// What tells the cluster's keys from others.
    fingerprints: Vec<String>,
    /// What came of the last one.
    pub last: Option<Reload>,
}

impl Reloading {
    /// Of a daemon that has read its configuration once.
    pub fn new(options: &Options, node: NodeName, fingerprints: Vec<String>) -> Self {
        Reloading { options: options.clone(), node, fingerprints, last: None }
    }

    /// Reads the file, and finds out what it changes. Nothing is changed yet.
    ///
    /// # Errors
    /// It is no configuration, or not one for this host, or asks for what only a start can do.
    pub fn read(&self, in_force: &Config) -> Result<Step, Refusal> {
        let mut read = Reading::new(&self.options)?;
        // What the command line says goes before the file.
        if self.options.socket.is_some() {
            read.config.node.socket = in_force.node.socket.clone();
        }
        read.config.node.name = Some(read.node);
        let mut named = in_force.clone();
        named.node.name = Some(self.node.clone());
        let step = step(&named, read.config)?;
        if read.fingerprints != self.fingerprints {
            let keys = |fingerprints: &[String]| format!("keys {}", fingerprints.join(" "));
            let change = Change {
                key: "cluster.key_file".into(),
                from: keys(&self.fingerprints),
                to: keys(&read.fingerprints),
            };
            return Err(refuse(&step.config, &[change], &[]));
        }
        Ok(step)
    }
}

/// What changes if `file` takes the place of what is in force.
fn step(in_force: &Config, file: Config) -> Result<Step, Refusal> {
    let difference = Difference::between(in_force, &file);
    let (here, everywhere) = (difference.of(Live::Restart), difference.of(Live::Everywhere));
    if !here.is_empty() || !everywhere.is_empty() {
        return Err(refuse(&file, &here, &everywhere));
    }
    let mut commands = Vec::new();
    // A weight that was given by command stays until the file gives another than before.
    if file.node.weight != in_force.node.weight {
        commands.push(Command::Configured { weight: file.node.weight });
    }
    let keeps = |config: &Config| !config.cluster.drain_timeout.is_zero();
    if keeps(&file) != keeps(in_force) {
        commands.push(Command::Handover(keeps(&file)));
    }
    Ok(Step { commands, changes: difference.of(Live::Now), config: file })
}

fn refuse(file: &Config, here: &[Change], everywhere: &[Change]) -> Refusal {
    let path = file.path().display();
    let mut reason =
        format!("{path} asks for what cannot change while the daemon runs, so nothing was changed.");
    let mut name = |changes: &[Change], what_to_do: &str| {
        if !changes.is_empty() {
            reason.push_str(&format!("\n{what_to_do}:"));
            changes.iter().for_each(|change| reason.push_str(&format!("\n  {change}")));
        }
    };
    name(here, "For these say `rudel restart` on this node, which interrupts nothing");
    name(
        everywhere,
        "These must be the same on every node: stop the daemon on all nodes, change the file on each, start it again",
    );
    let all: Vec<Change> = here.iter().chain(everywhere).cloned().collect();
    let line = format!("cannot change while the daemon runs: {}", in_a_line(&all));
    Refusal { result: ReloadResult::Refused, reason, line }
}

/// A reload that changed nothing.
pub fn refused(refusal: Refusal) -> Reload {
    Reload { at: Timestamp::now(), result: refusal.result, applied: Vec::new(), reason: Some(refusal.reason) }
}

/// In one line, for the history.
pub fn in_a_line(changes: &[Change]) -> String {
    match changes {
        [] => "nothing".to_owned(),
        changes => changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[cluster]
name = "web"
key_file = "/etc/rudel/key"
[[interface]]
name = "eth0"
addresses = ["192.0.2.10/24"]
"#;
    const CHECK: &str = "\n[[health]]\nname = \"web\"\ntcp = \"192.0.2.10:80\"\n";

    fn config(text: &str) -> Config {
        Config::parse(text, "rudel.toml").unwrap_or_else(|error| panic!("{error}"))
    }

    fn change(to: &str) -> Result<Step, Refusal> {
        step(&config(FILE), config(to))
    }

    #[test]
    fn what_one_node_decides_is_followed_and_named() {
        let text = FILE.replace("/key\"", "/key\"\ndrain_timeout = \"0s\"") + "[node]\nweight = 7\n" + CHECK;
        let step = change(&text).unwrap();
        let keys: Vec<&str> = step.changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["cluster.drain_timeout", "node.weight", "health.web"]);
        assert_eq!(step.commands, [Command::Configured { weight: 7 }, Command::Handover(false)]);
    }

    #[test]
    fn what_needs_a_start_is_named_with_what_to_do_and_nothing_else_is_followed() {
        let text = FILE
            .replace("\"web\"", "\"www\"")
            .replace("/24\"]", "/24\"]\nhash = \"none\"\nxdp = \"generic\"")
            + "[node]\nweight = 7\n[heartbeat]\ntimeout = \"1s\"\n";
        let refusal = change(&text).unwrap_err();
        assert_eq!(refusal.result, ReloadResult::Refused);
        let lines: Vec<&str> = refusal.reason.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "For these say `rudel restart` on this node, which interrupts nothing:",
                "  interface.eth0.xdp: auto -> generic",
                "These must be the same on every node: stop the daemon on all nodes, change the file on each, start it again:",
                "  cluster.name: web -> www",
                "  heartbeat.timeout: 400ms -> 1s",
                "  heartbeat.interval: 50ms -> 125ms",
                "  interface.eth0.hash: source-ip-port -> none",
            ]
        );
        assert!(refusal.line.contains("heartbeat.timeout") && !refusal.line.contains('\n'));
    }

    #[test]
    fn a_weight_that_was_given_by_command_stays_unless_the_file_gives_another() {
        assert_eq!(change(&(FILE.to_owned() + CHECK)).unwrap().commands, []);
    }
}
