//! `rudel drain`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use rudel_api::control::{Client, Ordered, Request};
use rudel_api::snapshot::{Node, NodeState, Snapshot};

use super::order::{Subject, Told, report};
use crate::Outcome;
use crate::failure::Failure;
use crate::layout::span;
use crate::output;
use crate::target::Target;

/// Take a node's share away without breaking connections
///
/// The other nodes take over its buckets at once, and with them every new connection. Connections that are open stay
/// where they are until they end, at most as long as drain_timeout in the configuration. The node stays a member, until
/// `rudel undrain` or the next start of its daemon. UDP has no connections: it moves with the buckets.
///
/// With --wait the command returns when the last connection has ended. It exits with 1 if drain_timeout was over before,
/// if the node was undrained or lost meanwhile, or if nobody can take its buckets over.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel drain
  rudel drain --wait && systemctl stop rudeld
  rudel drain --wait --node n2")]
pub(crate) struct Args {
    /// Wait until the last connection has ended, and show how many are left
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    subject: Subject,
}

/// How often the daemon is asked while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Lines that go to no terminal have at least this distance.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// What looks wrong for so long is wrong: an order needs a moment to be seen in the status.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let mut client = target.connect()?;
    let ordered = args.subject.order(&mut client, &Request::Drain { node: args.subject.name() })?;
    let told = Told::new("drain", &ordered);
    if !args.wait {
        let text = match ordered.changed {
            true => format!(
                "{} drains: new connections go to others, open ones stay until they end",
                ordered.node
            ),
            false => format!("{} drains already", ordered.node),
        };
        return report(&args.subject, told, &text);
    }
    let begin = Instant::now();
    let left = wait(target, client, &ordered, args.subject.json)?;
    let waited = begin.elapsed();
    let told = Told {
        drained: Some(left == 0),
        connections: Some(left),
        waited_ms: u64::try_from(waited.as_millis()).ok(),
        ..told
    };
    let node = &ordered.node;
    if left == 0 {
        let text = format!("{node} has drained after {}: no connection is left", span(waited));
        return report(&args.subject, told, &text);
    }
    if args.subject.json {
        report(&args.subject, told, "")?;
    }
    Err(Failure::undone(
        format!(
            "the drain time-out is over, and {} of {node} had not ended: they are cut off",
            connections(left)
        ),
        "their clients must connect again; raise drain_timeout in [cluster] to wait longer for such",
    ))
}

/// Waits for the end of the drain; how many connections were cut off by it.
fn wait(target: &Target, client: Client, ordered: &Ordered, quiet: bool) -> Result<u32, Failure> {
    let node = ordered.node.as_str();
    let mut screen = Screen::new(quiet);
    let mut all_well = Instant::now();
    let mut client = Some(client);
    loop {
        // The daemon may be restarted meanwhile: the drain goes on, and its successor tells of it.
        let connection = match client.take() {
            Some(connection) => Ok(connection),
            None => target.connect(),
        };
        let answer = connection.and_then(|mut open| Ok((open.status()?, open)));
        let snapshot = match answer {
            Ok((snapshot, open)) => {
                client = Some(open);
                snapshot
            }
            Err(_) if all_well.elapsed() < PATIENCE => {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            Err(failure) => {
                screen.clear()?;
                return Err(failure);
            }
        };
        match look(&snapshot, node) {
            Sight::Done { cut_off } => {
                screen.clear()?;
                return Ok(cut_off);
            }
            Sight::Draining => all_well = Instant::now(),
            Sight::Trouble { what, remedy } => {
                if all_well.elapsed() >= PATIENCE {
                    screen.clear()?;
                    return Err(Failure::undone(what, remedy));
                }
            }
        }
        screen.show(&progress(&snapshot, node))?;
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What a look at the cluster tells of a node that drains.
#[derive(Debug, PartialEq)]
enum Sight {
    /// Its buckets are being taken over, or connections are left.
    Draining,
    /// It keeps nothing any more.
    Done { cut_off: u32 },
    /// If it stays like this, waiting is in vain.
    Trouble { what: String, remedy: String },
}

fn look(snapshot: &Snapshot, name: &str) -> Sight {
    let trouble = |what: String, remedy: &str| Sight::Trouble { what, remedy: remedy.to_owned() };
    let Some(node) = snapshot.nodes.iter().find(|node| node.name == name) else {
        return trouble(
            format!("{name} has left the cluster"),
            "see its journal; what it served is with the others",
        );
    };
    match node.state {
        NodeState::Draining | NodeState::Leaving => {}
        NodeState::Active => {
            return trouble(
                format!("{name} does not drain any more: somebody has undrained it"),
                "drain it again",
            );
        }
        state => {
            return trouble(
                format!("{name} is {state}, so its drain cannot be followed"),
                "see in `rudel status` and its journal what has become of it",
            );
        }
    }
    if node.buckets > 0 {
        if snapshot.nodes.iter().any(|other| other.name != name && is_heir(snapshot, other)) {
            return Sight::Draining;
        }
        return trouble(
            format!("nobody can take over the {} buckets of {name}, which serves on", node.buckets),
            "undrain another node, or give it a weight",
        );
    }
    // Until it has said that it has given its buckets up, it has not said either which it keeps.
    if node.settled == Some(false) || node.keeping.is_some_and(|keeping| keeping > 0) {
        return Sight::Draining;
    }
    Sight::Done { cut_off: node.connections.unwrap_or(0) }
}

/// Whether a node can take over what another gives away.
fn is_heir(snapshot: &Snapshot, node: &Node) -> bool {
    let is_heard = node.heard_ms.is_some() || node.name == snapshot.node;
    let serves =
        |node: &Node| matches!(node.state, NodeState::Active | NodeState::Joining) && node.weight > 0;
    // Where nobody is healthy, nobody's health counts.
    let health_counts = snapshot.nodes.iter().any(|node| serves(node) && node.healthy);
    is_heard && serves(node) && (node.healthy || !health_counts)
}

/// What is left on every node that gives its share away, the one that is waited for first.
fn progress(snapshot: &Snapshot, name: &str) -> String {
    let gives_away = |node: &&Node| matches!(node.state, NodeState::Draining | NodeState::Leaving);
    let (first, others): (Vec<_>, Vec<_>) =
        snapshot.nodes.iter().filter(gives_away).partition(|node| node.name == name);
    let line = |node: &Node| {
        let left = match (node.buckets, node.keeping.unwrap_or(0)) {
            (0, keeping) => {
                format!(
                    "{} left in {}",
                    connections(node.connections.unwrap_or(0)),
                    plural(keeping.into(), "bucket")
                )
            }
            (buckets, _) => format!("{} to hand over", plural(buckets.into(), "bucket")),
        };
        format!("{}: {left}", node.name)
    };
    let lines: Vec<String> = first.into_iter().chain(others).map(line).collect();
    lines.join("; ")
}

fn connections(count: u32) -> String {
    plural(count, "connection")
}

fn plural(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Where progress is shown: a line that is written over on a terminal, now and then a line elsewhere.
struct Screen {
    quiet: bool,
    terminal: bool,
    begin: Instant,
    shown: Option<(String, Instant)>,
}

impl Screen {
    fn new(quiet: bool) -> Self {
        Screen { quiet, terminal: std::io::stdout().is_terminal(), begin: Instant::now(), shown: None }
    }

    fn show(&mut self, text: &str) -> Result<(), Failure> {
        if self.quiet || text.is_empty() {
            return Ok(());
        }
        if self.terminal {
            // One that is broken over two lines could not be written over.
            let line = fit(&format!("{:>3} s  {text}", self.begin.elapsed().as_secs()), output::width());
            output::print(&format!("\r{ERASE_LINE}{line}"))?;
            self.shown = Some((line, Instant::now()));
            return Ok(());
        }
        let is_news = self.shown.as_ref().is_none_or(|(last, at)| last != text && at.elapsed() >= LINE_EVERY);
        if is_news {
            output::print(&format!("{text}\n"))?;
            self.shown = Some((text.to_owned(), Instant::now()));
        }
        Ok(())
    }

    /// Makes room for what comes of it.
    fn clear(&mut self) -> Result<(), Failure> {
        if self.terminal && self.shown.take().is_some() {
            output::print(&format!("\r{ERASE_LINE}"))?;
        }
        Ok(())
    }
}

/// What of a line a terminal of this width has room for, the last column left free.
fn fit(line: &str, width: usize) -> String {
    let room = width.saturating_sub(1);
    if line.chars().count() <= room {
        return line.to_owned();
    }
    line.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// ECMA-48's EL: what is left of a longer line goes.
const ERASE_LINE: &str = "\x1b[2K";

#[cfg(test)]
mod tests {
    use super::*;

    /// Three nodes of which n3 drains: n1 knows that it has given its buckets up, and keeps some.
    fn draining() -> Snapshot {
        let mut snapshot: Snapshot =
            serde_json::from_str(include_str!("../../tests/fixtures/three-nodes.json")).unwrap();
        snapshot.nodes.truncate(3);
        let n3 = &mut snapshot.nodes[2];
        n3.state = NodeState::Draining;
        (n3.buckets, n3.settled, n3.keeping, n3.connections) = (0, Some(true), Some(5), Some(12));
        snapshot
    }

    fn trouble(snapshot: &Snapshot) -> String {
        match look(snapshot, "n3") {
            Sight::Trouble { what, remedy } => format!("{what}: {remedy}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_drain_is_over_when_the_node_has_said_that_it_keeps_nothing() {
        let mut snapshot = draining();
        assert_eq!(look(&snapshot, "n3"), Sight::Draining);
        snapshot.nodes[2].keeping = None;
        snapshot.nodes[2].connections = None;
        assert_eq!(look(&snapshot, "n3"), Sight::Done { cut_off: 0 });
        snapshot.nodes[2].settled = Some(false);
        assert_eq!(look(&snapshot, "n3"), Sight::Draining, "it may be about to say what it keeps");
        snapshot.nodes[2].buckets = 85;
        assert_eq!(look(&snapshot, "n3"), Sight::Draining);
    }

    #[test]
    fn connections_that_are_left_when_nothing_is_kept_were_cut_off() {
        let mut snapshot = draining();
        snapshot.nodes[2].keeping = None;
        assert_eq!(look(&snapshot, "n3"), Sight::Done { cut_off: 12 });
    }

    #[test]
    fn waiting_in_vain_is_noticed() {
        let mut active = draining();
        active.nodes[2].state = NodeState::Active;
        assert!(trouble(&active).starts_with("n3 does not drain any more: somebody has undrained it: "));
        let mut lost = draining();
        lost.nodes[2].state = NodeState::Lost;
        assert!(trouble(&lost).starts_with("n3 is lost, so its drain cannot be followed: "));
        let mut gone = draining();
        gone.nodes.pop();
        assert!(trouble(&gone).starts_with("n3 has left the cluster: "));
        let mut last = draining();
        last.nodes[2].buckets = 256;
        last.nodes[0].weight = 0;
        last.nodes[1].healthy = false;
        assert_eq!(look(&last, "n3"), Sight::Draining, "nobody is healthy, so nobody's health counts");
        last.nodes[1].weight = 0;
        assert_eq!(
            trouble(&last),
            "nobody can take over the 256 buckets of n3, which serves on: undrain another node, or give it a weight"
        );
    }

    #[test]
    fn a_line_that_is_too_long_for_the_terminal_says_so() {
        assert_eq!(fit("  3 s  n2: 1 connection", 24), "  3 s  n2: 1 connection");
        assert_eq!(fit("  3 s  n2: 1 connection", 23), "  3 s  n2: 1 connecti…");
        assert_eq!(fit("abc", 1), "…");
    }

    #[test]
    fn progress_names_every_node_that_gives_its_share_away() {
        let mut snapshot = draining();
        assert_eq!(progress(&snapshot, "n3"), "n3: 12 connections left in 5 buckets");
        snapshot.nodes[0].state = NodeState::Leaving;
        snapshot.nodes[0].buckets = 1;
        snapshot.nodes[2].connections = Some(1);
        assert_eq!(
            progress(&snapshot, "n3"),
            "n3: 1 connection left in 5 buckets; n1: 1 bucket to hand over"
        );
    }
}
