//! Reading the configuration again, on SIGHUP and `rudel reload`: all of it is followed, or nothing.
//!
//! ```text
//!  file ─► Reading ─► Difference ─┬─ what needs a start ─► refused, all named
//!                                 ├─ at once ─────────────► weight, health checks, hooks, drain time-out
//!                                 └─ together ──► host made ready, wish stored ─► Command::Terms ─► … ─► Latest::terms ─► served
//! ```
//!
//! Everything that can be refused is refused before the first change; and what the kernel may refuse (addresses on `lo`,
//! groups) is done before the other nodes are told of a wish, since nobody can take back what all have agreed on.
//!
//! What all nodes live by, and what this one has wanted since, is stored before it is said (R11): a daemon that is started
//! in the middle of a change, in the same run or in a new one, neither falls back nor runs ahead.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rudel_api::config::{Cidr, Config, ConfigError, Difference, Live};
use rudel_api::reload::{Change, Reload, ReloadResult};
use rudel_api::timestamp::Timestamp;
use rudel_proto::id::NodeName;
use rudel_proto::machine::Memo;
use rudel_proto::{Command, Terms};
use serde::{Deserialize, Serialize};

use crate::daemon::DaemonError;
use crate::host_setup::ClusterLink;
use crate::options::Options;
use crate::prepare::{Reading, config_digest};
use crate::store::{StoreError, replace};

/// Configurations that may come into force when all nodes want them; more than anybody tries before the others follow.
const WISHES_MAX: usize = 8;

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

/// The part of a configuration that all nodes live by alike and can change together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shared {
    quorum: usize,
    timeout_us: u64,
    interval_us: u64,
    /// By the names of interfaces.
    addresses: BTreeMap<String, Vec<String>>,
}

/// As it is stored for the next daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    agreed: Shared,
    wishes: Vec<Shared>,
    /// Whether this node has been in a view of what was agreed on. If not, nobody has agreed on anything with it.
    #[serde(default)]
    lived: bool,
}

impl Shared {
    fn of(config: &Config) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let texts = |cidrs: &[Cidr]| cidrs.iter().map(ToString::to_string).collect();
        let addresses = config.interfaces.iter();
        Shared {
            quorum: config.cluster.quorum,
            timeout_us: micros(config.heartbeat.timeout),
            interval_us: micros(config.heartbeat.interval),
            addresses: addresses.map(|one| (one.name.to_string(), texts(&one.addresses))).collect(),
        }
    }

    /// A configuration in all that one node decides, and in what only a start can change, with these terms.
    fn applied_to(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.cluster.quorum = self.quorum;
        config.heartbeat.timeout = Duration::from_micros(self.timeout_us);
        config.heartbeat.interval = Duration::from_micros(self.interval_us);
        for interface in &mut config.interfaces {
            let texts = self.addresses.get(interface.name.as_str()).into_iter().flatten();
            let cidrs: Vec<Cidr> = texts.filter_map(|text| text.parse().ok()).collect();
            // A prefix length is nobody else's business.
            if !cidrs.is_empty() && ips(&cidrs) != ips(&interface.addresses) {
                interface.addresses = cidrs;
            }
        }
        config
    }
}

fn ips(cidrs: &[Cidr]) -> Vec<IpAddr> {
    cidrs.iter().map(Cidr::address).collect()
}

/// In the protocol's words.
pub fn terms(config: &Config, seed: u32) -> Terms {
    Terms {
        digest: config_digest(config, seed),
        quorum: config.cluster.quorum,
        timeout: config.heartbeat.timeout,
        interval: config.heartbeat.interval,
    }
}

/// What is known of configurations that were read again.
#[derive(Debug)]
pub struct Reloading {
    options: Options,
    /// The name that this node goes by, wherever that came from.
    node: NodeName,
    /// What tells the cluster's keys from others.
    fingerprints: Vec<String>,
    seed: u32,
    /// Where it is stored.
    path: PathBuf,
    /// What all nodes live by, as far as this one knows.
    agreed: Option<Shared>,
    /// Wanted since, by their digests, the last one last: each may still come into force, though the file asks for another
    /// meanwhile.
    wishes: Vec<(u64, Shared)>,
    /// Whether this node, in this run or before, has been in a view of what was agreed on.
    lived: bool,
    /// What came of the last one.
    pub last: Option<Reload>,
}

/// What a configuration changes.
#[derive(Debug)]
pub struct Step {
    /// As the file says.
    pub file: Config,
    /// What is in force once the changes at once are made.
    pub in_force: Config,
    /// What the protocol is told.
    pub commands: Vec<Command>,
    /// Changes that are made at once.
    pub now: Vec<Change>,
    /// Changes that are made when all nodes want them.
    pub together: Vec<Change>,
}

/// How a daemon begins.
#[derive(Debug)]
pub struct Beginning {
    /// The configuration in force: the file's, but for what all nodes live by.
    pub in_force: Config,
    /// What the protocol is told before anything else.
    pub commands: Vec<Command>,
}

impl Reloading {
    /// Of a daemon that has read its configuration once, with what one before it has stored at `path`.
    pub fn new(options: &Options, reading: &Reading, path: &Path) -> Self {
        let Reading { node, fingerprints, seed, .. } = reading;
        Reloading::at(options, node.clone(), fingerprints.clone(), *seed, path)
    }

    fn at(options: &Options, node: NodeName, fingerprints: Vec<String>, seed: u32, path: &Path) -> Self {
        let mut reloading = Reloading {
            options: options.clone(),
            node,
            fingerprints,
            seed,
            path: path.into(),
            agreed: None,
            wishes: Vec::new(),
            lived: false,
            last: None,
        };
        reloading.recall();
        reloading
    }

    /// Reads what is stored. Nothing, or rubbish, is what a node has that was never here.
    pub fn recall(&mut self) {
        let read = |path: &Path| serde_json::from_slice::<Stored>(&std::fs::read(path).ok()?).ok();
        let stored = read(&self.path);
        self.wishes = stored.iter().flat_map(|stored| &stored.wishes).map(|wish| (0, wish.clone())).collect();
        self.lived = stored.as_ref().is_some_and(|stored| stored.lived);
        self.agreed = stored.map(|stored| stored.agreed);
    }

    fn store(&self) -> Result<(), StoreError> {
        let Some(agreed) = self.agreed.clone() else {
            return Ok(());
        };
        let wishes = self.wishes.iter().map(|(_, wish)| wish.clone()).collect();
        let stored = Stored { agreed, wishes, lived: self.lived };
        let text = serde_json::to_vec(&stored).expect("keys are text, and numbers are whole");
        if std::fs::read(&self.path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        replace(&self.path, &text)
    }

    /// Whatever is stored, as configurations of this daemon: what was agreed on, and the wishes. Those that differ from
    /// the file in what takes a stop of all nodes are another cluster's, or this one's before it was configured anew.
    fn known(&self, file: &Config) -> (Option<Config>, Vec<Config>) {
        let known = |shared: &Shared| {
            let config = shared.applied_to(file);
            Difference::between(&config, file).of(Live::Everywhere).is_empty().then_some(config)
        };
        let wishes = self.wishes.iter().filter_map(|(_, wish)| known(wish));
        (self.agreed.as_ref().and_then(known), wishes.collect())
    }

    fn digest(&self, config: &Config) -> u64 {
        config_digest(config, self.seed)
    }

    /// What the protocol is told if it goes on with a run that lives by the terms of this digest. If nothing is known of
    /// them, it is what the file says, which does not fit.
    pub fn protocol(
        &self,
        file: &Config,
        protocol: &rudel_proto::Config,
        digest: u64,
    ) -> rudel_proto::Config {
        let (agreed, wishes) = self.known(file);
        let mut all = agreed.iter().chain(&wishes);
        let config = all.find(|config| self.digest(config) == digest).unwrap_or(file);
        let Terms { digest, quorum, timeout, interval } = terms(config, self.seed);
        rudel_proto::Config { digest, quorum, timeout, interval, ..protocol.clone() }
    }

    /// At the start of a new run: what all nodes live by, as far as this one knows, is in force: they have not all read
    /// this file when it is started in the middle of a change. What is left waits, as after a reload. Stored before
    /// anything is said.
    pub fn begin(&mut self, file: &Config) -> Result<Beginning, StoreError> {
        let (agreed, wishes) = self.known(file);
        self.lived &= agreed.is_some();
        let (in_force, others) = match agreed {
            Some(agreed) if self.lived => (agreed, wishes),
            // A run that no view has named has agreed with nobody: nothing of it is in force, but it is obeyed like a wish.
            Some(agreed) => {
                let digest = self.digest(&agreed);
                let wishes = wishes.into_iter().filter(|wish| self.digest(wish) != digest);
                (file.clone(), std::iter::once(agreed.clone()).chain(wishes).collect())
            }
            None => (file.clone(), Vec::new()),
        };
        // Who relies on what a former run has said nobody knows any more.
        let present = self.digest(&in_force);
        let former = others.iter().map(|other| terms(other, self.seed));
        let former = former.filter(|terms| terms.digest != present).map(Command::ObeyToo).collect();
        self.start_with(file, in_force, others, former)
    }

    /// Where a run goes on (R10): it lives by what it has said, which the memo tells.
    pub fn go_on(&mut self, file: &Config, memo: &Memo) -> Beginning {
        let (agreed, mut others) = self.known(file);
        // The predecessor may have died before it stored what it had been told.
        let obeys = |config: &Config| memo.obeyed.iter().any(|terms| terms.digest == self.digest(config));
        let present = |config: &&Config| self.digest(config) == memo.view.digest;
        let in_force = agreed.filter(obeys).or_else(|| others.iter().find(present).cloned());
        let in_force = in_force.unwrap_or_else(|| file.clone());
        others.retain(obeys);
        let going_on = Beginning { in_force: in_force.clone(), commands: Vec::new() };
        self.lived = true;
        self.start_with(file, in_force, others, Vec::new()).unwrap_or_else(|error| {
            // What is not stored must not be wished for; to go on is worth more than to follow the file.
            tracing::error!(%error, "what the file asks for is not followed: mend that, and run `rudel reload`");
            going_on
        })
    }

    fn start_with(
        &mut self,
        file: &Config,
        in_force: Config,
        others: Vec<Config>,
        mut commands: Vec<Command>,
    ) -> Result<Beginning, StoreError> {
        self.agreed = Some(Shared::of(&in_force));
        self.wishes.clear();
        others.iter().for_each(|other| self.wish(other));
        self.wish(file);
        self.store()?;
        commands.push(Command::Terms(terms(file, self.seed)));
        let together = Difference::between(&in_force, file).of(Live::Together);
        if !together.is_empty() {
            self.last = Some(Reload {
                at: Timestamp::now(),
                result: ReloadResult::Pending,
                applied: Vec::new(),
                pending: together,
                waiting_for: Vec::new(),
                reason: None,
            });
        }
        Ok(Beginning { in_force, commands })
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
        let step = step(&named, read.config, self.seed)?;
        if read.fingerprints != self.fingerprints {
            let keys = |fingerprints: &[String]| format!("keys {}", fingerprints.join(" "));
            let change = Change {
                key: "cluster.key_file".into(),
                from: keys(&self.fingerprints),
                to: keys(&read.fingerprints),
            };
            return Err(refuse(&step.file, &[change], &[]));
        }
        let wanted = self.digest(&step.file);
        let is_known =
            wanted == self.digest(in_force) || self.wishes.iter().any(|(digest, _)| *digest == wanted);
        if self.wishes.len() >= WISHES_MAX && !is_known {
            return Err(Refusal::failed(format!(
                "{WISHES_MAX} changes wait for the other nodes to read the same: reload those first"
            )));
        }
        Ok(step)
    }

    /// Everything that this node may have to have at a moment: the addresses in force, and all that were wished for.
    pub fn links_for(&self, links: &[ClusterLink], step: Option<&Step>) -> Vec<ClusterLink> {
        let file = step.map(|step| Shared::of(&step.file));
        let wishes: Vec<&Shared> = self.wishes.iter().map(|(_, wish)| wish).chain(&file).collect();
        let with_wishes = |link: &ClusterLink| {
            let mut link = link.clone();
            for wish in &wishes {
                let texts = wish.addresses.get(link.interface.name.as_str()).into_iter().flatten();
                for cidr in texts.filter_map(|text| text.parse::<Cidr>().ok()) {
                    if !ips(&link.interface.addresses).contains(&cidr.address()) {
                        link.interface.addresses.push(cidr);
                    }
                }
            }
            link
        };
        links.iter().map(with_wishes).collect()
    }

    /// Remembers what a step wishes for, before the protocol is told.
    ///
    /// # Errors
    /// It cannot be stored; then it is not remembered.
    pub fn take(&mut self, step: &Step) -> Result<(), StoreError> {
        let before = self.wishes.clone();
        self.wish(&step.file);
        self.store().inspect_err(|_| self.wishes = before)
    }

    fn wish(&mut self, config: &Config) {
        let digest = self.digest(config);
        self.wishes.retain(|(wish, _)| *wish != digest);
        self.wishes.push((digest, Shared::of(config)));
    }

    /// A view has named this node: from now on it starts with what it lives by.
    pub fn has_lived(&mut self) {
        if std::mem::replace(&mut self.lived, true) {
            return;
        }
        if let Err(error) = self.store() {
            tracing::warn!(%error, "what all nodes live by is not stored, and a restart into another file would not know it: see the error");
        }
    }

    /// All nodes live by the terms of this digest: the configuration in force with these, and whether the file asks for
    /// others meanwhile. `None` if that is nothing new.
    pub fn come_true(&mut self, digest: u64, in_force: &Config) -> Option<(Config, bool)> {
        let index = self.wishes.iter().position(|(wish, _)| *wish == digest);
        let config = match index {
            Some(index) => self.wishes[index].1.applied_to(in_force),
            None if self.digest(in_force) == digest => in_force.clone(),
            None => return None,
        };
        // What was wanted before is obeyed no more; what was wanted since may be.
        self.wishes.drain(..index.map_or(0, |index| index + 1));
        let more = !self.wishes.is_empty();
        self.agreed = Some(Shared::of(&config));
        self.lived = true;
        if let Err(error) = self.store() {
            // Then the next daemon obeys what this one has obeyed, too, for a moment.
            tracing::warn!(%error, "what all nodes live by is not stored: see the error");
        }
        Some((config, more))
    }
}

/// What changes if `file` takes the place of what is in force.
fn step(in_force: &Config, file: Config, seed: u32) -> Result<Step, Refusal> {
    let difference = Difference::between(in_force, &file);
    let (here, everywhere) = (difference.of(Live::Restart), difference.of(Live::Everywhere));
    if !here.is_empty() || !everywhere.is_empty() {
        return Err(refuse(&file, &here, &everywhere));
    }
    // The one that is in force already takes an earlier wish back.
    let mut commands = vec![Command::Terms(terms(&file, seed))];
    // A weight that was given by command stays until the file gives another than before.
    if file.node.weight != in_force.node.weight {
        commands.push(Command::Configured { weight: file.node.weight });
    }
    let keeps = |config: &Config| !config.cluster.drain_timeout.is_zero();
    if keeps(&file) != keeps(in_force) {
        commands.push(Command::Handover(keeps(&file)));
    }
    Ok(Step {
        in_force: Shared::of(in_force).applied_to(&file),
        commands,
        now: difference.of(Live::Now),
        together: difference.of(Live::Together),
        file,
    })
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

/// A reload that changed nothing; what one before it has begun is pending as before.
pub fn refused(refusal: Refusal, pending: Vec<Change>) -> Reload {
    Reload {
        at: Timestamp::now(),
        result: refusal.result,
        applied: Vec::new(),
        pending,
        waiting_for: Vec::new(),
        reason: Some(refusal.reason),
    }
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
    use std::time::Duration;

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
        step(&config(FILE), config(to), 7)
    }

    fn keys(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn the_same_file_asks_for_the_terms_in_force_and_changes_nothing() {
        let step = change(FILE).unwrap();
        assert!(step.now.is_empty() && step.together.is_empty());
        let terms = Terms {
            digest: config_digest(&config(FILE), 7),
            quorum: 1,
            timeout: Duration::from_millis(400),
            interval: Duration::from_millis(50),
        };
        assert_eq!(step.commands, [Command::Terms(terms)], "which takes an earlier wish back");
    }

    #[test]
    fn what_one_node_decides_is_in_force_at_once_and_what_all_decide_is_not() {
        let text = FILE.replace("/key\"", "/key\"\nquorum = 2\ndrain_timeout = \"0s\"")
            + CHECK
            + "[node]\nweight = 7\n[heartbeat]\ntimeout = \"1s\"\n";
        let text = text.replace("10/24\"", "10/24\", \"192.0.2.11/24\"");
        let step = change(&text).unwrap();
        assert_eq!(keys(&step.now), ["cluster.drain_timeout", "node.weight", "health.web"]);
        assert_eq!(
            keys(&step.together),
            ["cluster.quorum", "heartbeat.timeout", "heartbeat.interval", "interface.eth0.addresses"]
        );
        assert_eq!(step.commands[1..], [Command::Configured { weight: 7 }, Command::Handover(false)]);
        let left = Difference::between(&config(FILE), &step.in_force);
        assert_eq!((left.of(Live::Now), left.of(Live::Together).len()), (step.now.clone(), 0));
        let rest = Difference::between(&step.in_force, &step.file);
        assert_eq!((rest.of(Live::Now).len(), rest.of(Live::Together)), (0, step.together.clone()));
        assert_ne!(config_digest(&step.file, 7), config_digest(&step.in_force, 7));
        assert_eq!(config_digest(&step.in_force, 7), config_digest(&config(FILE), 7));
    }

    #[test]
    fn what_needs_a_start_is_named_with_what_to_do_and_nothing_else_is_followed() {
        let text = FILE
            .replace("\"web\"", "\"www\"")
            .replace("/24\"]", "/24\"]\nhash = \"none\"\nxdp = \"generic\"")
            + "[node]\nweight = 7\n[heartbeat]\ntimeout = \"1s\"\ngroup = \"239.1.1.1:7\"\n";
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
                "  heartbeat.group: 239.255.74.40:7440 -> 239.1.1.1:7",
                "  interface.eth0.hash: source-ip-port -> none",
            ]
        );
        assert!(refusal.line.contains("heartbeat.group") && !refusal.line.contains('\n'));
    }

    #[test]
    fn a_weight_that_was_given_by_command_stays_unless_the_file_gives_another() {
        let step = change(&(FILE.to_owned() + CHECK)).unwrap();
        assert!(!step.commands.iter().any(|command| matches!(command, Command::Configured { .. })));
    }

    /// A daemon that has stored this, and what it finds when it is started with that file.
    fn reloading(dir: &Path) -> Reloading {
        let options = clap::Parser::parse_from(["rudeld"]);
        let node = NodeName::new("n1").unwrap();
        Reloading::at(&options, node, Vec::new(), 7, &dir.join("terms.json"))
    }

    const SLOWER: &str = "[heartbeat]\ntimeout = \"1s\"\n";

    #[test]
    fn a_start_in_the_middle_of_a_change_goes_on_with_what_all_nodes_live_by() {
        let slower = FILE.to_owned() + SLOWER;
        let dir = tempfile::tempdir().unwrap();
        let begin = |file: &str| {
            let mut reloading = reloading(dir.path());
            let Beginning { in_force, commands } = reloading.begin(&config(file)).unwrap();
            (in_force.heartbeat.timeout.as_millis(), commands, reloading.last.is_some())
        };
        let of = |text: &str| terms(&config(text), 7);
        assert_eq!(begin(FILE), (400, vec![Command::Terms(of(FILE))], false), "never here before");
        assert_eq!(begin(FILE), (400, vec![Command::Terms(of(FILE))], false));
        // Before any view has named this node nothing has been agreed on; what it has said is obeyed.
        let corrected = vec![Command::ObeyToo(of(FILE)), Command::Terms(of(&slower))];
        assert_eq!(begin(&slower), (1000, corrected, false), "never a member");
        std::fs::remove_file(dir.path().join("terms.json")).unwrap();
        let mut member = reloading(dir.path());
        member.begin(&config(FILE)).unwrap();
        member.has_lived();
        assert_eq!(begin(FILE), (400, vec![Command::Terms(of(FILE))], false));
        assert_eq!(begin(&slower), (400, vec![Command::Terms(of(&slower))], true));
        // Its wish may have come true for somebody by now: whoever starts obeys it, whatever the file says.
        let back = vec![Command::ObeyToo(of(&slower)), Command::Terms(of(FILE))];
        assert_eq!(begin(FILE), (400, back, false));
        let mut daemon = reloading(dir.path());
        let in_force = daemon.begin(&config(&slower)).unwrap().in_force;
        let (in_force, more) = daemon.come_true(of(&slower).digest, &in_force).unwrap();
        assert_eq!((in_force.heartbeat.timeout.as_millis(), more), (1000, false));
        assert_eq!(begin(FILE), (1000, vec![Command::Terms(of(FILE))], true), "back, if all want that");

        std::fs::write(dir.path().join("terms.json"), "rubbish").unwrap();
        assert_eq!(begin(&slower), (1000, vec![Command::Terms(of(&slower))], false));
        let elsewhere = FILE.replace("192.0.2.10", "192.0.2.9");
        assert_eq!(begin(&elsewhere), (400, vec![Command::Terms(of(&elsewhere))], false), "another MAC");
    }

    #[test]
    fn a_run_goes_on_with_what_it_has_said_and_not_with_what_its_file_says() {
        let (dir, slower) = (tempfile::tempdir().unwrap(), FILE.to_owned() + SLOWER);
        let of = |text: &str| terms(&config(text), 7);
        let protocol = crate::legacy::tests::config();
        let fresh = |digest| reloading(dir.path()).protocol(&config(FILE), &protocol, digest).digest;
        assert_eq!(fresh(of(FILE).digest), of(FILE).digest);
        assert_eq!(fresh(of(&slower).digest), of(FILE).digest, "of those nothing is known: it does not fit");

        let mut daemon = reloading(dir.path());
        daemon.begin(&config(FILE)).unwrap();
        daemon.take(&change(&slower).unwrap()).unwrap();
        let known = reloading(dir.path()).protocol(&config(FILE), &protocol, of(&slower).digest);
        assert_eq!((known.digest, known.timeout.as_millis()), (of(&slower).digest, 1000));

        let go_on = |obeyed: &[Terms], view: u64, file: &str| {
            let memo = crate::legacy::tests::memo_of_terms(obeyed, view);
            let Beginning { in_force, commands } = reloading(dir.path()).go_on(&config(file), &memo);
            (in_force.heartbeat.timeout.as_millis(), commands)
        };
        let (before, after) = (of(FILE), of(&slower));
        // Addresses are answered for only when nobody lives by the former terms.
        assert_eq!(go_on(&[before, after], after.digest, &slower), (400, vec![Command::Terms(after)]));
        assert_eq!(go_on(&[before], before.digest, &slower), (400, vec![Command::Terms(after)]));
        // It died before it had stored what it was told.
        assert_eq!(go_on(&[after], after.digest, FILE), (1000, vec![Command::Terms(before)]));
    }

    #[test]
    fn of_several_wishes_the_one_that_comes_true_counts_and_the_last_is_still_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut reloading = reloading(dir.path());
        let file = config(FILE);
        reloading.begin(&file).unwrap();
        let wish =
            |quorum: u8| change(&FILE.replace("/key\"", &format!("/key\"\nquorum = {quorum}"))).unwrap();
        let (first, second) = (wish(2), wish(3));
        let digest = |step: &Step| config_digest(&step.file, 7);
        reloading.take(&first).unwrap();
        reloading.take(&second).unwrap();
        let (config, more) = reloading.come_true(digest(&first), &file).unwrap();
        assert_eq!((config.cluster.quorum, more), (2, true));
        let (config, more) = reloading.come_true(digest(&second), &config).unwrap();
        assert_eq!((config.cluster.quorum, more), (3, false));
        assert_eq!(reloading.come_true(digest(&second), &config).map(|(_, more)| more), Some(false));
        assert!(reloading.come_true(digest(&first), &config).is_none());
    }
}
