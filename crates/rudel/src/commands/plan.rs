//! `rudel plan`.

use std::collections::BTreeMap;
use std::str::FromStr;

use rudel_api::snapshot::{Node, NodeState, SCHEMA, Snapshot};
use rudel_api::{ClusterName, NodeName};
use rudel_proto::bucket::BUCKET_COUNT;
use rudel_proto::id::NodeId;
use rudel_proto::share::{Candidate, NOBODY, Owners, assign, count, moved};
use rudel_proto::view::MEMBERS_MAX;
use serde::Serialize;

use crate::Outcome;
use crate::failure::Failure;
use crate::layout::{BOLD, Cell, Column, DIM, NOTE, PLAIN, Row, paint, percent, table};
use crate::output;
use crate::target::Target;

/// Show what the shares would be with nodes added, removed or re-weighted
///
/// Nothing is changed. The shares are computed as the nodes do it, from who owns what in the running cluster, or with
/// --nodes from a cluster that has just been formed of these.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel plan --add n4
  rudel plan --remove n2 --weight n1=50
  rudel plan --nodes n1=100,n2=100,n3=200 --add n4=50")]
pub(crate) struct Args {
    /// Add a node
    #[arg(long, value_name = "NODE[=WEIGHT]", value_delimiter = ',')]
    add: Vec<Share>,
    /// Remove a node
    #[arg(long, value_name = "NODE", value_delimiter = ',', value_parser = node_name)]
    remove: Vec<NodeName>,
    /// Give a node another weight, 0 to 1000
    #[arg(long, value_name = "NODE=WEIGHT", value_delimiter = ',')]
    weight: Vec<ExplicitShare>,
    /// Ask no daemon: plan for a new cluster of these nodes
    #[arg(long, value_name = "NODE[=WEIGHT],...", value_delimiter = ',')]
    nodes: Vec<Share>,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

const WEIGHT_DEFAULT: u16 = 100;
const WEIGHT_MAX: u16 = 1000;

/// A node with its weight, `n1=50`; the weight is 100 unless given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    name: NodeName,
    weight: u16,
}

/// A node with its weight, which must be given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ExplicitShare(Share);

pub(crate) fn node_name(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}

pub(crate) fn weight(text: &str) -> Result<u16, String> {
    let weight = text.parse().ok().filter(|weight| *weight <= WEIGHT_MAX);
    weight.ok_or_else(|| format!("`{text}` is not a weight of 0 to {WEIGHT_MAX}"))
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, number)) => Ok(Share { name: node_name(name)?, weight: weight(number)? }),
            None => Ok(Share { name: node_name(text)?, weight: WEIGHT_DEFAULT }),
        }
    }
}

impl FromStr for ExplicitShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            return Err(format!("write the new weight behind it, such as {text}=50"));
        }
        text.parse().map(ExplicitShare)
    }
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let start = if args.nodes.is_empty() {
        Cluster::of_snapshot(&target.connect()?.status()?)?
    } else {
        let configured = target.config()?.map(|config| config.cluster.name);
        Cluster::formed_of(configured, &args.nodes)?
    };
    let plan = Plan::new(start, args)?;
    if args.json {
        output::print_json(&plan.to_json())?;
    } else {
        output::print(&plan.render(output::width()))?;
    }
    Ok(Outcome::Done)
}

/// Members with their weights, and who owns what.
struct Cluster {
    name: ClusterName,
    /// The weights that shares are made of: 0 for members that cannot or shall not serve.
    members: BTreeMap<NodeName, u16>,
    /// Members that have no share now, whatever their weight, and why.
    idle: BTreeMap<NodeName, &'static str>,
    /// Nodes that are known and no members, with what they are about.
    others: BTreeMap<String, NodeState>,
    owners: Owners,
}

impl Cluster {
    fn of_snapshot(snapshot: &Snapshot) -> Result<Self, Failure> {
        let odd = |what: String| Failure::undone(what, "install rudel and rudeld of the same version");
        let name = ClusterName::new(&snapshot.cluster)
            .map_err(|error| odd(format!("the daemon's cluster has an odd name: {error}")))?;
        let mut members = BTreeMap::new();
        let mut idle = BTreeMap::new();
        let mut others = BTreeMap::new();
        // Where nobody is healthy, nobody's health counts.
        let serves = |node: &Node| node.state == NodeState::Active && node.weight > 0;
        let health_counts = snapshot.nodes.iter().any(|node| serves(node) && node.healthy);
        for node in &snapshot.nodes {
            let node_name = NodeName::new(&node.name)
                .map_err(|error| odd(format!("the daemon knows a node with an odd name: {error}")))?;
            // As a coordinator does it: whoever cannot or shall not serve stays a member without a share.
            match node.state {
                NodeState::Active if node.healthy || !health_counts => members.insert(node_name, node.weight),
                // What it is about is not known yet, but the view gives it a share.
                NodeState::Unknown if node.buckets > 0 => members.insert(node_name, node.weight),
                NodeState::Active | NodeState::Draining | NodeState::Leaving => {
                    let why = match node.state {
                        NodeState::Active => "unhealthy",
                        state => state.as_str(),
                    };
                    idle.insert(node_name.clone(), why);
                    members.insert(node_name, 0)
                }
                state => {
                    others.insert(node.name.clone(), state);
                    None
                }
            };
        }
        if members.is_empty() {
            return Err(Failure::undone(
                format!("{} knows of no cluster yet", snapshot.node),
                "wait until it is active, or plan with --nodes",
            ));
        }
        let mut owners = NOBODY;
        if snapshot.buckets.owners.len() != BUCKET_COUNT {
            return Err(odd(format!(
                "the daemon tells the owners of {} buckets, there are {BUCKET_COUNT}",
                snapshot.buckets.owners.len()
            )));
        }
        for (owner, told) in owners.iter_mut().zip(&snapshot.buckets.owners) {
            *owner = match told {
                Some(told) => Some(NodeId::of(
                    &name,
                    &NodeName::new(told)
                        .map_err(|error| odd(format!("a bucket has an odd owner: {error}")))?,
                )),
                None => None,
            };
        }
        Ok(Cluster { name, members, idle, others, owners })
    }

    /// A cluster that has just been formed. Its name decides who gets the buckets that are left over by rounding.
    fn formed_of(name: Option<ClusterName>, nodes: &[Share]) -> Result<Self, Failure> {
        let name = name.unwrap_or_else(|| ClusterName::new("plan").expect("it is made of allowed letters"));
        let mut members = BTreeMap::new();
        for share in nodes {
            if members.insert(share.name.clone(), share.weight).is_some() {
                return Err(Failure::usage(
                    format!("--nodes names {} twice", share.name),
                    "name each node once",
                ));
            }
        }
        let mut cluster =
            Cluster { name, members, idle: BTreeMap::new(), others: BTreeMap::new(), owners: NOBODY };
        cluster.owners = cluster.dealt_out();
        Ok(cluster)
    }

    fn id(&self, node: &NodeName) -> NodeId {
        NodeId::of(&self.name, node)
    }

    /// Who would own what if the shares were made now.
    fn dealt_out(&self) -> Owners {
        let candidate =
            |(node, weight): (&NodeName, &u16)| Candidate { id: self.id(node), weight: *weight, gains: true };
        let mut candidates: Vec<Candidate> = self.members.iter().map(candidate).collect();
        candidates.sort_by_key(|candidate| candidate.id);
        assign(&self.owners, &candidates)
    }

    /// Why a node cannot be removed or re-weighted.
    fn unknown(&self, node: &NodeName) -> Failure {
        let members: Vec<&str> = self.members.keys().map(NodeName::as_str).collect();
        let what = match self.others.get(node.as_str()) {
            Some(state) => format!("{node} is {state}, not a member"),
            None => format!("there is no node {node}"),
        };
        Failure::usage(what, format!("the members are {}", members.join(", ")))
    }
}

struct Plan {
    before: Cluster,
    after: Cluster,
}

impl Plan {
    fn new(before: Cluster, args: &Args) -> Result<Self, Failure> {
        let mut members = before.members.clone();
        for node in &args.remove {
            if members.remove(node).is_none() {
                return Err(before.unknown(node));
            }
        }
        for ExplicitShare(share) in &args.weight {
            match members.get_mut(&share.name) {
                Some(weight) => *weight = share.weight,
                None if before.members.contains_key(&share.name) => {
                    return Err(Failure::usage(
                        format!("{} is removed and given a weight", share.name),
                        "choose one of --remove and --weight",
                    ));
                }
                None => return Err(before.unknown(&share.name)),
            }
        }
        for share in &args.add {
            if before.members.contains_key(&share.name) || members.contains_key(&share.name) {
                return Err(Failure::usage(
                    format!("{} is a member already", share.name),
                    format!("change its weight with --weight {}={}", share.name, share.weight),
                ));
            }
            members.insert(share.name.clone(), share.weight);
        }
        if members.len() > MEMBERS_MAX {
            return Err(Failure::usage(
                format!("{} nodes are too many", members.len()),
                format!("a cluster has at most {MEMBERS_MAX}"),
            ));
        }
        let mut after = Cluster {
            name: before.name.clone(),
            members,
            idle: before.idle.clone(),
            others: BTreeMap::new(),
            owners: before.owners,
        };
        after.owners = after.dealt_out();
        Ok(Plan { before, after })
    }

    /// Every node of before and after with its weights and its numbers of buckets; no weight: no member.
    fn rows(&self) -> Vec<PlannedNode> {
        let mut names: Vec<&NodeName> = self.before.members.keys().chain(self.after.members.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let row = |name: &NodeName| {
            let id = self.after.id(name);
            PlannedNode {
                name: name.as_str().to_owned(),
                weight_before: self.before.members.get(name).copied(),
                weight_after: self.after.members.get(name).copied(),
                buckets_before: count(&self.before.owners, id),
                buckets_after: count(&self.after.owners, id),
            }
        };
        names.into_iter().map(row).collect()
    }

    fn render(&self, width: usize) -> String {
        let columns = [
            Column::left("NODE", 24),
            Column::right("WEIGHT"),
            Column::right("BUCKETS NOW"),
            Column::right("THEN"),
            Column::right("CHANGE"),
            Column::right("SHARE"),
        ];
        let weight = |node: &PlannedNode| match (node.weight_before, node.weight_after) {
            (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
            (_, Some(after)) => after.to_string(),
            (_, None) => "-".to_owned(),
        };
        let row = |node: &PlannedNode| {
            let change = node.buckets_after as i64 - node.buckets_before as i64;
            let note = match (node.weight_before, node.weight_after) {
                (None, _) => "added",
                (_, None) => "removed",
                (Some(before), Some(after)) if before != after => "re-weighted",
                _ => NodeName::new(&node.name)
                    .ok()
                    .and_then(|name| self.before.idle.get(&name))
                    .copied()
                    .unwrap_or(""),
            };
            Row {
                cells: vec![
                    Cell(node.name.clone(), if note.is_empty() { PLAIN } else { BOLD }),
                    weight(node).into(),
                    node.buckets_before.to_string().into(),
                    node.buckets_after.to_string().into(),
                    if change == 0 { Cell("0".to_owned(), DIM) } else { format!("{change:+}").into() },
                    percent(node.buckets_after, BUCKET_COUNT).into(),
                ],
                tail: note.to_owned(),
                below: vec![],
            }
        };
        let rows: Vec<Row> = self.rows().iter().map(row).collect();
        let moved = self.moved();
        let mut out = table(&columns, "", &rows, width);
        out.push_str(&format!(
            "\n{moved} of {BUCKET_COUNT} buckets would move ({})\n",
            percent(moved, BUCKET_COUNT)
        ));
        let orphans = self.after.owners.iter().filter(|owner| owner.is_none()).count();
        if orphans > 0 {
            let text = format!("{orphans} buckets would have no owner: nobody has a weight above 0");
            out.push_str(&format!("{}\n", paint(NOTE, &text)));
        }
        out
    }

    fn moved(&self) -> usize {
        moved(&self.before.owners, &self.after.owners)
    }

    fn to_json(&self) -> PlanJson {
        let names: BTreeMap<NodeId, &NodeName> =
            self.after.members.keys().map(|name| (self.after.id(name), name)).collect();
        let owner = |id: &Option<NodeId>| Some(names.get(id.as_ref()?)?.as_str().to_owned());
        PlanJson {
            schema: SCHEMA,
            total: BUCKET_COUNT,
            moved: self.moved(),
            nodes: self.rows(),
            owners: self.after.owners.iter().map(owner).collect(),
        }
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct PlanJson {
    schema: u32,
    total: usize,
    moved: usize,
    nodes: Vec<PlannedNode>,
    owners: Vec<Option<String>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PlannedNode {
    name: String,
    weight_before: Option<u16>,
    weight_after: Option<u16>,
    buckets_before: usize,
    buckets_after: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::try_parse_from(std::iter::once("plan").chain(line.split_whitespace())).unwrap().args
    }

    fn plan(line: &str) -> Result<Plan, Failure> {
        let args = args(line);
        Plan::new(Cluster::formed_of(None, &args.nodes)?, &args)
    }

    fn buckets(plan: &Plan) -> Vec<(String, usize, usize)> {
        plan.rows().into_iter().map(|node| (node.name, node.buckets_before, node.buckets_after)).collect()
    }

    fn refusal(line: &str) -> String {
        plan(line).err().expect("it should be refused").render()
    }

    fn fixture() -> Snapshot {
        serde_json::from_str(include_str!("../../tests/fixtures/three-nodes.json")).unwrap()
    }

    #[test]
    fn a_fourth_of_four_equal_nodes_gets_a_quarter() {
        let plan = plan("--nodes n1,n2,n3 --add n4").unwrap();
        assert_eq!(plan.moved(), 64);
        assert!(buckets(&plan).iter().all(|(_, _, after)| *after == 64));
        let json = plan.to_json();
        assert_eq!(json.owners.iter().flatten().filter(|owner| *owner == "n4").count(), 64);
        assert_eq!((json.nodes[3].weight_before, json.nodes[3].weight_after), (None, Some(100)));
    }

    #[test]
    fn removing_moves_only_what_the_node_had() {
        let plan = plan("--nodes n1=100,n2=200,n3=100 --remove n2").unwrap();
        assert_eq!(plan.moved(), 128);
        assert_eq!(buckets(&plan), [("n1".into(), 64, 128), ("n2".into(), 128, 0), ("n3".into(), 64, 128)]);
    }

    #[test]
    fn weights_are_shares() {
        let plan = plan("--nodes n1,n2 --weight n1=300").unwrap();
        assert_eq!(buckets(&plan), [("n1".into(), 128, 192), ("n2".into(), 128, 64)]);
    }

    #[test]
    fn a_plan_is_a_table() {
        let plan = plan("--nodes n1=100,n2=200,n3=100 --remove n2 --weight n1=300 --add n4=400").unwrap();
        assert_eq!(
            anstream::adapter::strip_str(&plan.render(80)).to_string(),
            "\
NODE      WEIGHT  BUCKETS NOW  THEN  CHANGE  SHARE
n1    100 -> 300           64    96     +32  37.5%  re-weighted
n2             -          128     0    -128   0.0%  removed
n3           100           64    32     -32  12.5%
n4           400            0   128    +128  50.0%  added

160 of 256 buckets would move (62.5%)
"
        );
    }

    #[test]
    fn a_plan_says_why_a_member_has_no_share() {
        let plan = Plan::new(Cluster::of_snapshot(&fixture()).unwrap(), &args("--add n5")).unwrap();
        assert_eq!(
            anstream::adapter::strip_str(&plan.render(80)).to_string(),
            "\
NODE  WEIGHT  BUCKETS NOW  THEN  CHANGE  SHARE
n1       100           86   128     +42  50.0%
n2         0           85     0     -85   0.0%  unhealthy
n3         0           85     0     -85   0.0%  draining
n5       100            0   128    +128  50.0%  added

170 of 256 buckets would move (66.4%)
"
        );
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        assert_eq!(refusal("--nodes n1,n1"), "rudel: --nodes names n1 twice: name each node once");
        assert_eq!(
            refusal("--nodes n1,n2 --remove n3"),
            "rudel: there is no node n3: the members are n1, n2"
        );
        assert_eq!(refusal("--nodes n1 --weight n3=1"), "rudel: there is no node n3: the members are n1");
        assert_eq!(
            refusal("--nodes n1 --add n1=50"),
            "rudel: n1 is a member already: change its weight with --weight n1=50"
        );
        assert_eq!(
            refusal("--nodes n1,n2 --remove n1 --weight n1=1"),
            "rudel: n1 is removed and given a weight: choose one of --remove and --weight"
        );
        let many: Vec<String> = (0..33).map(|n| format!("n{n}")).collect();
        assert_eq!(
            refusal(&format!("--nodes {}", many.join(","))),
            "rudel: 33 nodes are too many: a cluster has at most 32"
        );
        for line in
            ["--weight n1", "--weight n1=1001", "--add n1=x", "--add =1", "--nodes a/b", "--remove a=1"]
        {
            assert!(Line::try_parse_from(["plan"].into_iter().chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn buckets_of_a_cluster_without_weights_are_orphans() {
        let plan = plan("--nodes n1,n2=0 --remove n1").unwrap();
        let text = anstream::adapter::strip_str(&plan.render(80)).to_string();
        assert!(text.contains("256 buckets would have no owner: nobody has a weight above 0"), "{text}");
    }

    #[test]
    fn a_running_cluster_is_planned_from_its_owners() {
        let snapshot = fixture();
        let cluster = Cluster::of_snapshot(&snapshot).unwrap();
        assert_eq!(cluster.members.len(), 3, "a lost node is no member");
        assert_eq!(
            cluster.members.values().sum::<u16>(),
            100,
            "neither unhealthy nor draining ones have a share"
        );
        let plan = Plan::new(cluster, &args("--weight n2=100")).unwrap();
        assert_eq!(buckets(&plan), [("n1".into(), 86, 128), ("n2".into(), 85, 128), ("n3".into(), 85, 0)]);
        for (before, after) in snapshot.buckets.owners.iter().zip(plan.to_json().owners) {
            assert!(*before == after || before.as_deref() == Some("n3"), "only what n3 had moves");
        }
        let lost = Plan::new(Cluster::of_snapshot(&snapshot).unwrap(), &args("--remove n4"));
        let lost = lost.err().unwrap().render();
        assert_eq!(lost, "rudel: n4 is lost, not a member: the members are n1, n2, n3");
    }

    #[test]
    fn an_odd_snapshot_is_refused() {
        let mut short = fixture();
        short.buckets.owners.pop();
        assert!(Cluster::of_snapshot(&short).is_err());
        let mut none = fixture();
        none.nodes.clear();
        assert!(Cluster::of_snapshot(&none).is_err());
    }
}
