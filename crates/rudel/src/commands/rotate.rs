//! `rudel key rotate`: another cluster key, node by node, while the cluster works.
//!
//! ```text
//!            key file of a node    it seals with   it opens
//!   before   a                     a               a
//!   accept   old a, b              a               a, b       on every node, before the first ...
//!   switch   b, old a              b               a, b       on every node, before the first ...
//!   retire   b                     b               b
//! ```
//!
//! Each step is done on each node: a key file, and the daemon restarted in place. One rule keeps a node from being cut off
//! ([`cut_off`]): before a node changes, every other one must accept what it will seal with, and seal with what it will
//! accept. The nodes say in each datagram which keys they have.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rudel_api::key::{ClusterKey, ClusterKeys, DEFAULT_PATH};
use rudel_api::snapshot::{Node, NodeState, Snapshot};

use crate::Outcome;
use crate::commands::restart;
use crate::failure::Failure;
use crate::layout::{BOLD, Cell, Column, DIM, PLAIN, Row, table, wrap};
use crate::output;
use crate::target::Target;

/// How long the other nodes may take to be heard by a daemon that has just begun.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Replace the cluster key while the cluster works
///
/// Without a step: show which keys every node has, and what to do next. With a step: do it on this node, and verify it.
/// All nodes take one step before the first takes the next. A step that would cut a node off is refused. The daemon is
/// restarted in place: no bucket moves, and no connection breaks. The seed of the flow hash stays what it was.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel key rotate           what every node has, and what is next
  rudel key rotate accept    on one node: makes the new key in the key file
                             copy the key file to the others, and there:
  rudel key rotate accept
  rudel key rotate switch    on every node: seal with the new key
  rudel key rotate retire    on every node: forget the old one")]
pub(crate) struct Args {
    /// The step to do on this node
    step: Option<Step>,
    /// A node that never comes back with its old key file: it need not be heard
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
}

/// A step of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// Accept the new key besides the old one
    Accept,
    /// Seal with the new key, accept the old one
    Switch,
    /// Forget the old key
    Retire,
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let path = target.config()?.map_or_else(|| PathBuf::from(DEFAULT_PATH), |config| config.cluster.key_file);
    let file =
        ClusterKeys::load(&path).map_err(|error| Failure::undone(error.to_string(), error.remedy()))?;
    let mut snapshot = target.connect()?.status()?;
    let mut said = String::new();
    let mut file = file;
    if let Some(step) = args.step {
        let next = next_file(step, &file, &snapshot, &path)?;
        cut_off(&next, &snapshot, &args.without)?;
        let written = next != file;
        if written {
            next.replace(&path).map_err(|error| {
                Failure::undone(
                    format!("cannot write the key file {}: {error}", path.display()),
                    "run this as root, and see that the disk has room; nothing has changed",
                )
            })?;
        }
        if ids(&next) != keys_of_me(&snapshot) {
            match restart::restart(target) {
                Ok((before, after)) => {
                    if after.restarts <= before.restarts {
                        said.push_str(
                            "the daemon could not go on where the former one ended, and joins anew\n",
                        );
                    }
                }
                Err(failure) => {
                    if written {
                        // The error that matters is the first; if this fails too, both keys are in the file.
                        let _ = file.replace(&path);
                    }
                    return Err(failure);
                }
            }
            snapshot = wait_for_all(target, &next, &snapshot)?;
        }
        said.push_str(&format!("{}: {}\n\n", snapshot.node, done(step, &next)));
        file = next;
    }
    said.push_str(&keys_of_all(&snapshot, output::width()));
    let advice = advice(&file, &snapshot, &args.without, &path);
    // A pipe gets one line.
    let lines = output::terminal_width().map_or_else(|| vec![advice.clone()], |width| wrap(&advice, width));
    said.push_str(&format!("\n{}\n", lines.join("\n")));
    output::print(&said)?;
    Ok(Outcome::Done)
}

fn ids(keys: &ClusterKeys) -> Vec<String> {
    keys.iter().map(ClusterKey::id).collect()
}

fn keys_of_me(snapshot: &Snapshot) -> Vec<String> {
    snapshot.me().map(|me| me.keys.clone()).unwrap_or_default()
}

fn others(snapshot: &Snapshot) -> impl Iterator<Item = &Node> {
    snapshot.nodes.iter().filter(|node| node.name != snapshot.node)
}

/// The key file of this node after a step; the same as before if the step was done already.
fn next_file(
    step: Step,
    file: &ClusterKeys,
    snapshot: &Snapshot,
    path: &Path,
) -> Result<ClusterKeys, Failure> {
    let seed = Some(file.flow_hash_seed());
    let path = path.display();
    let (old, new) = match (&file.old, file.accepted.as_slice()) {
        (Some(old), [other]) if *old == file.sealing => (old, other),
        (Some(old), [other]) if old == other => (old, &file.sealing),
        (None, []) if step == Step::Accept => {
            let known = ids(file);
            let begun = others(snapshot).find(|node| node.keys.iter().any(|key| !known.contains(key)));
            if let Some(node) = begun {
                return Err(Failure::undone(
                    format!("{} has a new key already, {}", node.name, node.keys.join(" and ")),
                    format!("copy its key file to {path} on this node, and do this again"),
                ));
            }
            let new = ClusterKey::generate().map_err(|error| {
                Failure::undone(
                    format!("the kernel gives no random numbers: {error}"),
                    "try again later, or begin on another host",
                )
            })?;
            let old = file.sealing.clone();
            return Ok(ClusterKeys { sealing: old.clone(), accepted: vec![new], seed, old: Some(old) });
        }
        (None, []) if step == Step::Retire => return Ok(file.clone()),
        (None, []) => {
            return Err(Failure::undone(
                format!("the key file {path} has one key, so there is none to switch to"),
                "begin with `rudel key rotate accept`",
            ));
        }
        _ => {
            return Err(Failure::undone(
                format!("the key file {path} does not say which of two keys is to go"),
                "leave two keys in it, with the word `old` before the one that all nodes seal with",
            ));
        }
    };
    let keys = |sealing: &ClusterKey, accepted: &[&ClusterKey], old: Option<&ClusterKey>| ClusterKeys {
        sealing: sealing.clone(),
        accepted: accepted.iter().map(|key| (*key).clone()).collect(),
        seed: file.seed.or(seed),
        old: old.cloned(),
    };
    match step {
        Step::Accept => Ok(file.clone()),
        Step::Switch => Ok(keys(new, &[old], Some(old))),
        Step::Retire if file.sealing == *old => Err(Failure::undone(
            format!("this node still seals with the old key {}", old.id()),
            "`rudel key rotate switch` comes first, on every node",
        )),
        Step::Retire => Ok(keys(new, &[], None)),
    }
}

/// Refuses a key file with which this node and another would not understand each other.
fn cut_off(next: &ClusterKeys, snapshot: &Snapshot, without: &[String]) -> Result<(), Failure> {
    let (sealing, all) = (next.sealing.id(), ids(next));
    for node in others(snapshot).filter(|node| !without.contains(&node.name)) {
        let name = &node.name;
        if node.state == NodeState::Lost || node.heard_ms.is_none() || node.keys.is_empty() {
            return Err(Failure::undone(
                format!("{name} is not heard, so nobody knows which keys it has; nothing was changed"),
                format!("start it; if it never comes back with its old key file, add `--without {name}`"),
            ));
        }
        if !node.keys.contains(&sealing) {
            return Err(Failure::undone(
                format!(
                    "{name} does not accept the key {sealing} yet, and would be cut off; nothing was changed"
                ),
                format!("copy the key file to {name}, and there: `rudel key rotate accept`"),
            ));
        }
        if !all.contains(&node.keys[0]) {
            return Err(Failure::undone(
                format!(
                    "{name} still seals with {}, and would be cut off; nothing was changed",
                    node.keys[0]
                ),
                format!("on {name}: `rudel key rotate switch`"),
            ));
        }
    }
    Ok(())
}

/// Waits until the daemon has these keys, and hears all that were heard before.
fn wait_for_all(target: &Target, keys: &ClusterKeys, before: &Snapshot) -> Result<Snapshot, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let heard = |snapshot: &Snapshot| -> Vec<String> {
        let nodes = others(snapshot).filter(|node| node.heard_ms.is_some() && !node.keys.is_empty());
        nodes.map(|node| node.name.clone()).collect()
    };
    loop {
        let snapshot = target.connect()?.status()?;
        let now = heard(&snapshot);
        let missing: Vec<String> = heard(before).into_iter().filter(|name| !now.contains(name)).collect();
        let has_keys = keys_of_me(&snapshot) == ids(keys);
        if has_keys && missing.is_empty() {
            return Ok(snapshot);
        }
        if Instant::now() >= deadline {
            return Err(match has_keys {
                true => Failure::undone(
                    format!("{} not heard since this node has its new keys", missing.join(" and ")),
                    "see `rudel status` here and there; with both keys in the file of either, they hear each other",
                ),
                false => Failure::undone(
                    "the daemon has other keys than the key file",
                    "see that its configuration names this key file, and `rudel restart`",
                ),
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn done(step: Step, keys: &ClusterKeys) -> String {
    let sealing = keys.sealing.id();
    let accepted: Vec<String> = keys.accepted.iter().map(ClusterKey::id).collect();
    match step {
        Step::Accept => format!("seals with {sealing}, accepts {}", accepted.join(" and ")),
        Step::Switch => format!("seals with the new key {sealing}, accepts {}", accepted.join(" and ")),
        Step::Retire => format!("has one key, {sealing}"),
    }
}

/// Which node has which keys.
fn keys_of_all(snapshot: &Snapshot, width: usize) -> String {
    let columns = [Column::left("NODE", 24), Column::left("SEALS WITH", 10), Column::left("ACCEPTS", 30)];
    let rows: Vec<Row> = snapshot
        .nodes
        .iter()
        .map(|node| {
            let (sealing, accepted) = match node.keys.split_first() {
                Some((sealing, accepted)) => (Cell(sealing.clone(), PLAIN), accepted.join(" ")),
                None => (Cell("unknown".to_owned(), DIM), String::new()),
            };
            let style = if node.name == snapshot.node { BOLD } else { PLAIN };
            Row {
                cells: vec![Cell(node.name.clone(), style), sealing, Cell(accepted, PLAIN)],
                tail: String::new(),
                below: vec![],
            }
        })
        .collect();
    table(&columns, "", &rows, width)
}

/// What is next, by what all nodes have.
fn advice(file: &ClusterKeys, snapshot: &Snapshot, without: &[String], path: &Path) -> String {
    let nodes: Vec<&Node> = snapshot.nodes.iter().filter(|node| !without.contains(&node.name)).collect();
    if let Some(node) = nodes.iter().find(|node| node.keys.is_empty()) {
        return format!("{} is not heard: start it before the next step.", node.name);
    }
    let names = |wanted: &dyn Fn(&Node) -> bool| -> Option<String> {
        let names: Vec<&str> =
            nodes.iter().filter(|node| wanted(node)).map(|node| node.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    // Without an old key in the file, this node has either retired it, or never begun.
    let old = file.old.as_ref().map(ClusterKey::id);
    let new = file.iter().map(ClusterKey::id).find(|id| Some(id) != old.as_ref()).unwrap_or_default();
    if file.old.is_none() && file.accepted.is_empty() {
        if let Some(late) = names(&|node| node.keys.len() > 1) {
            let here = format!("copy the key file of {late} to this node, and `rudel key rotate accept`");
            // Whether their other key is the older or the newer one, they do not say.
            return match nodes.iter().all(|node| node.keys[0] == new) {
                true => format!(
                    "Next: `rudel key rotate retire` on {late}; or, if this node has not begun, {here}."
                ),
                false => format!("Next: {here}."),
            };
        }
        return "Every node has this one key. To replace it: `rudel key rotate accept`.".to_owned();
    }
    if let Some(late) = names(&|node| !node.keys.contains(&new)) {
        return format!(
            "Next: copy {} to {late} (scp -p), and there: `rudel key rotate accept`.",
            path.display()
        );
    }
    if let Some(late) = names(&|node| node.keys[0] != new) {
        return format!("Next: `rudel key rotate switch` on {late}.");
    }
    match names(&|node| node.keys.len() > 1) {
        Some(late) => format!("Next: `rudel key rotate retire` on {late}."),
        None => "Every node has the new key alone: done.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ClusterKey {
        let mut bytes = [n; 32];
        bytes[0] = 0;
        ClusterKey::from_bytes(bytes)
    }

    /// A cluster of these nodes with these keys, as the first of them sees it.
    fn cluster(nodes: &[(&str, &[u8])]) -> Snapshot {
        let mut snapshot: Snapshot =
            serde_json::from_str(include_str!("../../tests/fixtures/three-nodes.json")).unwrap();
        let node = snapshot.nodes[0].clone();
        snapshot.node = nodes[0].0.to_owned();
        snapshot.nodes = nodes
            .iter()
            .map(|(name, keys)| Node {
                name: (*name).to_owned(),
                keys: keys.iter().map(|n| key(*n).id()).collect(),
                heard_ms: (!keys.is_empty()).then_some(3),
                ..node.clone()
            })
            .collect();
        snapshot
    }

    fn path() -> &'static Path {
        Path::new("/etc/rudel/key")
    }

    fn one(n: u8) -> ClusterKeys {
        ClusterKeys { sealing: key(n), accepted: vec![], seed: None, old: None }
    }

    fn accepting() -> ClusterKeys {
        ClusterKeys {
            sealing: key(1),
            accepted: vec![key(2)],
            seed: Some(one(1).flow_hash_seed()),
            old: Some(key(1)),
        }
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.unwrap_err().render()
    }

    #[test]
    fn a_key_file_goes_through_three_steps_and_the_seed_stays() {
        let snapshot = cluster(&[("n1", &[1]), ("n2", &[1])]);
        let seed = Some(one(1).flow_hash_seed());
        let next = |step, file: &ClusterKeys| next_file(step, file, &snapshot, path());
        let begun = next(Step::Accept, &one(1)).unwrap();
        assert_eq!((&begun.sealing, begun.seed, &begun.old), (&key(1), seed, &Some(key(1))));
        assert_eq!(begun.accepted.len(), 1);
        assert_eq!(next(Step::Accept, &accepting()).unwrap(), accepting(), "a file that was copied stays");
        let switched = next(Step::Switch, &accepting()).unwrap();
        assert_eq!(
            switched,
            ClusterKeys { sealing: key(2), accepted: vec![key(1)], seed, old: Some(key(1)) }
        );
        assert_eq!(next(Step::Switch, &switched).unwrap(), switched, "twice is once");
        let retired = next(Step::Retire, &switched).unwrap();
        assert_eq!(retired, ClusterKeys { seed, ..one(2) });
        assert_eq!(next(Step::Retire, &retired).unwrap(), retired);
        assert_eq!(retired.flow_hash_seed(), one(1).flow_hash_seed());
    }

    #[test]
    fn steps_in_another_order_are_refused() {
        let snapshot = cluster(&[("n1", &[1]), ("n2", &[1])]);
        let next = |step, file: &ClusterKeys| next_file(step, file, &snapshot, path());
        assert!(refusal(next(Step::Switch, &one(1))).contains("begin with `rudel key rotate accept`"));
        assert!(refusal(next(Step::Retire, &accepting())).contains("`rudel key rotate switch` comes first"));
        let unmarked = ClusterKeys { old: None, ..accepting() };
        assert!(refusal(next(Step::Switch, &unmarked)).contains("does not say which of two keys is to go"));
        let begun = cluster(&[("n2", &[1]), ("n1", &[1, 2])]);
        let said = refusal(next_file(Step::Accept, &one(1), &begun, path()));
        assert!(said.contains("n1 has a new key already") && said.contains("copy its key file"), "{said}");
    }

    #[test]
    fn what_would_cut_a_node_off_is_refused_and_says_what_comes_first() {
        let switched = next_file(Step::Switch, &accepting(), &cluster(&[("n1", &[1, 2])]), path()).unwrap();
        let retired = next_file(Step::Retire, &switched, &cluster(&[("n1", &[2, 1])]), path()).unwrap();
        let check = |next: &ClusterKeys, others: &[(&str, &[u8])], without: &[&str]| {
            let nodes: Vec<(&str, &[u8])> =
                std::iter::once(("n1", &[1_u8][..])).chain(others.iter().copied()).collect();
            let without: Vec<String> = without.iter().map(|name| (*name).to_owned()).collect();
            cut_off(next, &cluster(&nodes), &without)
        };
        check(&accepting(), &[("n2", &[1])], &[]).unwrap();
        check(&switched, &[("n2", &[1, 2]), ("n3", &[2, 1])], &[]).unwrap();
        check(&retired, &[("n2", &[2, 1]), ("n3", &[2])], &[]).unwrap();
        let early = refusal(check(&switched, &[("n2", &[1, 2]), ("n3", &[1])], &[]));
        assert!(early.contains("n3 does not accept the key") && early.contains("rotate accept"), "{early}");
        let early = refusal(check(&retired, &[("n2", &[1, 2])], &[]));
        assert!(early.contains("n2 still seals with") && early.contains("rotate switch"), "{early}");
        let unknown = refusal(check(&switched, &[("n2", &[])], &[]));
        assert!(unknown.contains("n2 is not heard") && unknown.contains("--without n2"), "{unknown}");
        check(&switched, &[("n2", &[])], &["n2"]).unwrap();
    }

    #[test]
    fn the_next_step_is_named_with_the_nodes_that_lack_it() {
        let say = |file: &ClusterKeys, nodes: &[(&str, &[u8])]| advice(file, &cluster(nodes), &[], path());
        let switched = next_file(Step::Switch, &accepting(), &cluster(&[("n1", &[1, 2])]), path()).unwrap();
        let retired = next_file(Step::Retire, &switched, &cluster(&[("n1", &[2, 1])]), path()).unwrap();
        let n1: &[u8] = &[1, 2];
        let said = say(&accepting(), &[("n1", n1), ("n2", &[1]), ("n3", &[1])]);
        assert_eq!(
            said,
            "Next: copy /etc/rudel/key to n2, n3 (scp -p), and there: `rudel key rotate accept`."
        );
        let said = say(&switched, &[("n1", &[2, 1]), ("n2", n1), ("n3", n1)]);
        assert_eq!(said, "Next: `rudel key rotate switch` on n2, n3.");
        let said = say(&switched, &[("n1", &[2, 1]), ("n2", &[2, 1])]);
        assert_eq!(said, "Next: `rudel key rotate retire` on n1, n2.");
        let said = say(&retired, &[("n1", &[2]), ("n2", &[2, 1])]);
        assert!(said.starts_with("Next: `rudel key rotate retire` on n2; or, if this node"), "{said}");
        let said = say(&one(1), &[("n1", &[1]), ("n2", &[2, 1])]);
        assert!(said.starts_with("Next: copy the key file of n2 to this node"), "{said}");
        assert!(say(&retired, &[("n1", &[2]), ("n2", &[2])]).contains("one key"));
        assert!(say(&one(1), &[("n1", &[1]), ("n2", n1)]).contains("copy the key file of n2"));
        assert!(say(&switched, &[("n1", &[2, 1]), ("n2", &[])]).contains("n2 is not heard"));
    }

    #[test]
    fn every_node_has_its_line() {
        let text = keys_of_all(&cluster(&[("n1", &[1, 2]), ("n2", &[1]), ("n3", &[])]), 80);
        let text = anstream::adapter::strip_str(&text).to_string();
        let [a, b] = [key(1).id(), key(2).id()];
        let expected = format!("NODE  SEALS WITH  ACCEPTS\nn1    {a}   {b}\nn2    {a}\nn3    unknown\n");
        assert_eq!(text, expected);
    }
}
