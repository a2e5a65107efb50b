//! Drain, undrain and weight: what an administrator wants of this node, or through it of another.
//!
//! What makes no sense is refused here, with a remedy, by what this node knows; the protocol does the rest. An order is
//! answered when the node that it is for has accepted it, which for another node may take as long as the protocol has
//! patience: whoever answers must not keep the daemon from its other work.

use rudel_api::control::{Failure, Ordered, Request as ControlRequest, Response, WEIGHT_REMEDY};
use rudel_proto::Command;
use rudel_proto::id::NodeName;
use rudel_proto::machine::Outcome;
use rudel_proto::status::Status;
use rudel_proto::wire::{NodeState, Task};

use crate::pulse::{Request, RequestError, Requests};

const WEIGHT_MAX: u16 = 1000;

/// Whether a request is one that [`carry_out`] answers.
pub fn is_order(request: &ControlRequest) -> bool {
    task(request).is_some()
}

/// Does what is wanted of a node, or tells why not.
pub async fn carry_out(requests: &Requests, me: &NodeName, request: &ControlRequest) -> Response {
    match order(requests, me, request).await {
        Ok(ordered) => Response::Ordered(ordered),
        Err(failure) => Response::Error(failure),
    }
}

/// What is wanted, and of which node; none is this one.
fn task(request: &ControlRequest) -> Option<(Task, Option<&str>)> {
    match request {
        ControlRequest::Drain { node } => Some((Task::Drain(true), node.as_deref())),
        ControlRequest::Undrain { node } => Some((Task::Drain(false), node.as_deref())),
        ControlRequest::Weight { weight, node } => Some((Task::Weight(*weight), node.as_deref())),
        ControlRequest::Status
        | ControlRequest::Why { .. }
        | ControlRequest::Events { .. }
        | ControlRequest::Restart
        | ControlRequest::Sight { .. }
        | ControlRequest::Reload => None,
    }
}

async fn order(requests: &Requests, me: &NodeName, request: &ControlRequest) -> Result<Ordered, Failure> {
    let (task, node) =
        task(request).ok_or_else(|| Failure::new("this is no order", "ask for drain, undrain or weight"))?;
    let node = node.unwrap_or(me.as_str());
    let report = requests.report().await.map_err(unasked)?;
    let changed = consider(&report.status, me.as_str(), node, task)?;
    tracing::info!(node, ?task, "wanted by the administrator");
    if node == me.as_str() {
        let command = match task {
            Task::Drain(draining) => Command::Drain(draining),
            Task::Weight(weight) => Command::Weight(weight),
        };
        requests.send(Request::Command(command)).map_err(unasked)?;
        // Requests are handled in turn: when this one is answered, the command has been.
        requests.report().await.map_err(unasked)?;
    } else {
        outcome(node, requests.order(node, task).await.map_err(unasked)?)?;
    }
    Ok(Ordered { node: node.into(), changed })
}

fn unasked(error: RequestError) -> Failure {
    Failure::new(error.to_string(), "try again in a moment")
}

fn outcome(node: &str, outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::NotHeard => Err(not_heard(node)),
        Outcome::NoAnswer => Err(Failure::new(
            format!("{node} has not acknowledged the order"),
            format!(
                "see in `rudel status` whether it has followed; if not, run the command on {node} itself"
            ),
        )),
        Outcome::TooMany => {
            Err(Failure::new("too many orders wait for their answers", "try again in a moment"))
        }
    }
}

fn not_heard(node: &str) -> Failure {
    Failure::new(
        format!("{node} is not heard"),
        format!("run the command on {node} itself, or wait until `rudel status` shows it again"),
    )
}

/// A node as far as orders are concerned.
struct Known<'a> {
    name: &'a str,
    state: NodeState,
    weight: u16,
    healthy: bool,
}

impl Known<'_> {
    /// Whether it could take over what another node gives away, were it healthy.
    fn takes(&self) -> bool {
        self.weight > 0 && matches!(self.state, NodeState::Active | NodeState::Joining)
    }
}

/// Whether an order changes anything.
///
/// # Errors
/// Why it makes no sense.
fn consider(status: &Status, me: &str, node: &str, task: Task) -> Result<bool, Failure> {
    if let Task::Weight(weight) = task
        && weight > WEIGHT_MAX
    {
        return Err(Failure::new(format!("{weight} is too much for a weight"), WEIGHT_REMEDY));
    }
    let Status { state, weight, healthy, .. } = *status;
    let mut heard = vec![Known { name: me, state, weight, healthy }];
    heard.extend(status.peers.iter().filter(|peer| peer.alive).filter_map(|peer| {
        let word = peer.word.as_ref()?;
        let (state, weight, healthy) = (word.state, word.weight, word.is_fit());
        Some(Known { name: peer.name.as_str(), state, weight, healthy })
    }));
    heard.sort_unstable_by_key(|known| known.name);
    let Some(target) = heard.iter().find(|known| known.name == node) else {
        if status.peers.iter().any(|peer| peer.name.as_str() == node && !peer.gone) {
            return Err(not_heard(node));
        }
        let names: Vec<&str> = heard.iter().map(|known| known.name).collect();
        return Err(Failure::new(
            format!("there is no node {node}"),
            format!("the nodes are {}", names.join(", ")),
        ));
    };
    match target.state {
        NodeState::Leaving => {
            return Err(Failure::new(
                format!("{node} is leaving the cluster"),
                "wait for its end, and start its daemon again",
            ));
        }
        NodeState::Fenced => {
            return Err(Failure::new(
                format!("{node} is fenced: another machine has its name"),
                "give each node its own [node] name",
            ));
        }
        NodeState::Listening | NodeState::Joining | NodeState::Active | NodeState::Draining => {}
    }
    let changed = match task {
        Task::Drain(draining) => draining != (target.state == NodeState::Draining),
        Task::Weight(weight) => weight != target.weight,
    };
    let gives_all_away = matches!(task, Task::Drain(true) | Task::Weight(0));
    // Where nobody is healthy, nobody's health counts (R6.5).
    let health_counts = heard.iter().any(|known| known.takes() && known.healthy);
    let is_heir = |known: &Known<'_>| known.takes() && (known.healthy || !health_counts);
    let has_heir = heard.iter().any(|known| known.name != node && is_heir(known));
    if changed && gives_all_away && !has_heir {
        return Err(Failure::new(
            format!("nobody could take over what {node} serves, so nothing would move"),
            format!("undrain another node or give it a weight, or stop {node} with `systemctl stop rudeld`"),
        ));
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_proto::bucket::BucketSet;
    use rudel_proto::id::{Identity, Incarnation, NodeId, ViewId};
    use rudel_proto::status::PeerStatus;
    use rudel_proto::wire::{Checkup, Pulse};
    use std::time::Duration;

    fn identity(id: u64) -> Identity {
        Identity { id: NodeId::from_u64(id), incarnation: Incarnation(1) }
    }

    fn peer(name: &str, state: NodeState, weight: u16) -> PeerStatus {
        let word = Pulse {
            host: 1,
            digest: 1,
            uptime_ms: 1,
            state,
            healthy: true,
            cut: false,
            checkup: Checkup::GOOD,
            late: false,
            waiting: false,
            settled: true,
            gone: false,
            weight,
            adopted: ViewId::NONE,
            promise: ViewId::NONE,
            keeping: BucketSet::EMPTY,
            connections: 0,
            heard: vec![],
            audits: vec![],
            wanted: 1,
            bound: false,
            timeout_us: 400_000,
        };
        PeerStatus {
            name: NodeName::new(name).unwrap(),
            identity: identity(2),
            heard: Some(Duration::ZERO),
            sequence: 1,
            alive: true,
            gone: false,
            word: Some(word),
            complaint: None,
        }
    }

    /// n1, active, with the weight 100, and these.
    fn status(peers: Vec<PeerStatus>) -> Status {
        Status {
            terms: Default::default(),
            state: NodeState::Active,
            identity: identity(1),
            sequence: 1,
            lease: None,
            serving: true,
            settled: true,
            late: false,
            view: None,
            promise: ViewId::NONE,
            owned: BucketSet::ALL,
            kept: BucketSet::EMPTY,
            connections: 0,
            weight: 100,
            healthy: true,
            peers,
        }
    }

    fn refusal(status: &Status, node: &str, task: Task) -> String {
        let failure = consider(status, "n1", node, task).unwrap_err();
        format!("{}: {}", failure.message, failure.remedy)
    }

    const DRAIN: Task = Task::Drain(true);

    #[test]
    fn an_order_tells_whether_it_changes_anything() {
        let status = status(vec![peer("n2", NodeState::Draining, 100), peer("n3", NodeState::Active, 50)]);
        let changes = |node, task| consider(&status, "n1", node, task).unwrap();
        assert!(changes("n1", DRAIN));
        assert!(!changes("n2", DRAIN));
        assert!(changes("n2", Task::Drain(false)));
        assert!(!changes("n1", Task::Drain(false)));
        assert!(changes("n3", Task::Weight(51)));
        assert!(!changes("n3", Task::Weight(50)));
    }

    #[test]
    fn a_node_that_is_not_there_cannot_be_ordered() {
        let mut silent = peer("n2", NodeState::Active, 100);
        silent.alive = false;
        let mut gone = peer("n4", NodeState::Leaving, 100);
        (gone.alive, gone.gone) = (false, true);
        let status = status(vec![peer("n3", NodeState::Active, 100), silent, gone]);
        assert_eq!(refusal(&status, "n9", DRAIN), "there is no node n9: the nodes are n1, n3");
        assert_eq!(refusal(&status, "n4", DRAIN), "there is no node n4: the nodes are n1, n3");
        assert_eq!(
            refusal(&status, "n2", DRAIN),
            "n2 is not heard: run the command on n2 itself, or wait until `rudel status` shows it again"
        );
    }

    #[test]
    fn the_last_node_that_serves_cannot_give_its_share_away() {
        let nobody = |node| {
            format!(
                "nobody could take over what {node} serves, so nothing would move: undrain another node or give it a \
                 weight, or stop {node} with `systemctl stop rudeld`"
            )
        };
        let alone = status(vec![]);
        assert_eq!(refusal(&alone, "n1", DRAIN), nobody("n1"));
        assert_eq!(refusal(&alone, "n1", Task::Weight(0)), nobody("n1"));
        assert!(consider(&alone, "n1", "n1", Task::Weight(1)).unwrap());
        let mut sick = peer("n4", NodeState::Active, 100);
        if let Some(word) = &mut sick.word {
            word.healthy = false;
        }
        let last = status(vec![
            peer("n2", NodeState::Draining, 100),
            peer("n3", NodeState::Active, 0),
            sick,
            peer("n5", NodeState::Leaving, 100),
        ]);
        assert_eq!(refusal(&last, "n1", DRAIN), nobody("n1"));
        assert!(consider(&last, "n1", "n3", DRAIN).unwrap(), "n1 takes what n3 has");
    }

    #[test]
    fn where_nobody_is_healthy_the_others_can_take_over_all_the_same() {
        let mut sick = peer("n2", NodeState::Active, 100);
        if let Some(word) = &mut sick.word {
            word.checkup.good = false;
        }
        let mut all = status(vec![sick]);
        assert!(refusal(&all, "n1", DRAIN).starts_with("nobody could take over"));
        all.healthy = false;
        assert!(consider(&all, "n1", "n1", DRAIN).unwrap());
    }

    #[test]
    fn who_leaves_or_is_fenced_is_let_be() {
        let status = status(vec![peer("n2", NodeState::Leaving, 100), peer("n3", NodeState::Fenced, 100)]);
        for task in [DRAIN, Task::Drain(false), Task::Weight(1)] {
            assert!(refusal(&status, "n2", task).starts_with("n2 is leaving the cluster: "));
            assert!(refusal(&status, "n3", task).starts_with("n3 is fenced: "));
        }
    }

    #[test]
    fn a_weight_has_a_limit() {
        let refused = refusal(&status(vec![]), "n1", Task::Weight(1001));
        assert_eq!(refused, "1001 is too much for a weight: give a weight of 0 to 1000");
    }

    #[test]
    fn every_end_of_an_order_is_told() {
        assert_eq!(outcome("n2", Outcome::Done), Ok(()));
        for (end, says) in [
            (Outcome::NotHeard, "n2 is not heard"),
            (Outcome::NoAnswer, "n2 has not acknowledged the order"),
            (Outcome::TooMany, "too many orders wait for their answers"),
        ] {
            assert_eq!(outcome("n2", end).unwrap_err().message, says);
        }
    }
}
