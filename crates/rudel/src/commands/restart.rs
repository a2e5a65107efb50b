//! `rudel restart`: another daemon in the place of the one that works.

use std::time::{Duration, Instant};

use rudel_api::control::{Client, Request};
use rudel_api::snapshot::{SCHEMA, Snapshot};
use serde::Serialize;

use crate::Outcome;
use crate::failure::Failure;
use crate::output;
use crate::target::Target;

/// How long a successor may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long the next daemon may take until it has heard whom the former one heard.
const HEARS_WITHIN: Duration = Duration::from_secs(2);

/// Restart the daemon of this machine without a gap
///
/// Starts the program and the configuration that are in place now beside the daemon that works. If that can begin, it
/// takes over: no bucket moves, no connection breaks, no other node notices. If it cannot, it says why, and nothing
/// has changed. This is also how a new version is put into service.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel restart")]
pub(crate) struct Args {
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What was done, for scripts.
#[derive(Serialize)]
struct Told<'a> {
    schema: u32,
    order: &'static str,
    node: &'a str,
    version: &'a str,
    restarts: u32,
    /// Whether the new daemon went on with the run of the old one: nobody has noticed.
    resumed: bool,
}

/// Has the daemon replaced; gives the last word of the former and the first of the next.
pub(super) fn restart(target: &Target) -> Result<(Snapshot, Snapshot), Failure> {
    let mut client = target.connect()?;
    let before = client.status()?;
    // A successor has half a minute to prepare itself.
    client.set_timeout(Client::ORDER_TIMEOUT);
    client.order(&Request::Restart)?;
    drop(client);
    let after = wait_for_successor(target, &before)?;
    Ok((before, after))
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let (before, after) = restart(target)?;
    let resumed = after.restarts > before.restarts;
    let told = Told {
        schema: SCHEMA,
        order: "restart",
        node: &after.node,
        version: &after.version,
        restarts: after.restarts,
        resumed,
    };
    let text = match resumed {
        true => format!("{}: restarted without a gap, version {}", after.node, after.version),
        false => format!(
            "{}: restarted, version {}; it could not go on where the former daemon ended, and joins the cluster anew",
            after.node, after.version
        ),
    };
    if args.json {
        output::print_json(&told)?;
    } else {
        output::print(&format!("{text}\n"))?;
    }
    Ok(Outcome::Done)
}

/// The first word of the next daemon. Until the former has gone, it may still answer.
fn wait_for_successor(target: &Target, before: &Snapshot) -> Result<Snapshot, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut begun = None;
    loop {
        let answer = target.connect().and_then(|mut client| Ok(client.status()?));
        match answer {
            Ok(status) if !same_daemon(before, &status) => {
                let since = *begun.get_or_insert_with(Instant::now);
                if hears_as(before, &status) || since.elapsed() > HEARS_WITHIN {
                    return Ok(status);
                }
                std::thread::sleep(LOOK_EVERY);
            }
            _ if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Ok(_) => {
                return Err(Failure::undone(
                    "the former daemon still answers",
                    "see its log, and `rudel status`",
                ));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether it hears whom the former one heard. Until their next heartbeats it does not, and its status would tell of
/// losses that are none.
fn hears_as(before: &Snapshot, now: &Snapshot) -> bool {
    let heard = |status: &Snapshot, name: &str| {
        status.nodes.iter().any(|node| node.name == name && node.heard_ms.is_some())
    };
    before.nodes.iter().all(|node| node.heard_ms.is_none() || heard(now, &node.name))
}

/// The count alone does not tell: it begins anew in a daemon that could not go on where the former one ended.
fn same_daemon(before: &Snapshot, now: &Snapshot) -> bool {
    (now.pid, now.restarts) == (before.pid, before.restarts)
}
