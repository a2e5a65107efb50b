//! `rudel undrain` and `rudel weight`, and what all commands that want something of a node have in common.

use rudel_api::NodeName;
use rudel_api::control::{Client, Ordered, Request};
use rudel_api::snapshot::SCHEMA;
use serde::Serialize;

use crate::Outcome;
use crate::commands::plan::{node_name, weight};
use crate::failure::Failure;
use crate::output;
use crate::target::Target;

/// Which node is meant, and how it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Subject {
    /// Another node, which is told by this one [default: the node of this machine]
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    node: Option<NodeName>,
    /// Print what was done as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Subject {
    pub(crate) fn name(&self) -> Option<String> {
        self.node.as_ref().map(ToString::to_string)
    }

    /// Asks for something, and waits until the node has accepted it.
    pub(crate) fn order(&self, client: &mut Client, order: &Request) -> Result<Ordered, Failure> {
        if self.node.is_none() {
            return Ok(client.order(order)?);
        }
        // A daemon that hangs is found out by a question that it can answer alone.
        client.status_json()?;
        client.set_timeout(Client::ORDER_TIMEOUT);
        let ordered = client.order(order)?;
        client.set_timeout(Client::TIMEOUT);
        Ok(ordered)
    }
}

/// Give a node its share back
///
/// Ends a drain: the node takes its share again at once, and connections that it kept meanwhile stay where they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel undrain
  rudel undrain --node n2")]
pub(crate) struct UndrainArgs {
    #[command(flatten)]
    subject: Subject,
}

pub(crate) fn undrain(target: &Target, args: &UndrainArgs) -> Result<Outcome, Failure> {
    let order = Request::Undrain { node: args.subject.name() };
    let ordered = args.subject.order(&mut target.connect()?, &order)?;
    let text = match ordered.changed {
        true => format!("{} takes its share again", ordered.node),
        false => format!("{} was not draining", ordered.node),
    };
    report(&args.subject, Told::new("undrain", &ordered), &text)
}

/// Change a node's weight
///
/// A node's share is its weight over the sum of all weights. With the weight 0 it is a member and votes, and has no
/// share. Connections stay where they are, whatever moves. The weight holds until the next change or until the daemon
/// starts again, which takes it from its configuration; `rudel plan --weight` shows beforehand what would move.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel weight 50
  rudel weight 0 --node n2")]
pub(crate) struct WeightArgs {
    /// The weight, 0 to 1000
    #[arg(value_name = "WEIGHT", value_parser = weight)]
    weight: u16,
    #[command(flatten)]
    subject: Subject,
}

pub(crate) fn set_weight(target: &Target, args: &WeightArgs) -> Result<Outcome, Failure> {
    let order = Request::Weight { weight: args.weight, node: args.subject.name() };
    let ordered = args.subject.order(&mut target.connect()?, &order)?;
    let text = match ordered.changed {
        true => format!("{} has the weight {}", ordered.node, args.weight),
        false => format!("{} had the weight {} already", ordered.node, args.weight),
    };
    let told = Told { weight: Some(args.weight), ..Told::new("weight", &ordered) };
    report(&args.subject, told, &text)
}

/// What was done, for scripts.
#[derive(Debug, Serialize)]
pub(crate) struct Told<'a> {
    pub(crate) schema: u32,
    pub(crate) order: &'static str,
    pub(crate) node: &'a str,
    pub(crate) changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u16>,
    /// With `--wait`: whether the last connection has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drained: Option<bool>,
    /// With `--wait`: connections that were left when the time was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<u32>,
    /// With `--wait`: how long that took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waited_ms: Option<u64>,
}

impl<'a> Told<'a> {
    pub(crate) fn new(order: &'static str, ordered: &'a Ordered) -> Self {
        Told {
            schema: SCHEMA,
            order,
            node: &ordered.node,
            changed: ordered.changed,
            weight: None,
            drained: None,
            connections: None,
            waited_ms: None,
        }
    }
}

/// Tells what was done: one sentence, or JSON.
pub(crate) fn report(subject: &Subject, told: Told<'_>, sentence: &str) -> Result<Outcome, Failure> {
    if subject.json {
        output::print_json(&told)?;
    } else {
        output::print(&format!("{sentence}\n"))?;
    }
    Ok(Outcome::Done)
}
