//! `rudel reload`.

use std::time::{Duration, Instant};

use rudel_api::control::Client;
use rudel_api::reload::{Reload, ReloadResult};
use rudel_api::snapshot::SCHEMA;
use serde::Serialize;

use crate::Outcome;
use crate::failure::Failure;
use crate::output;
use crate::target::Target;

/// Once all nodes have read the same, they change over within a few time-outs: for so long at most this waits for it.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Have this node read its configuration again
///
/// What one node decides (weight, health checks, hooks, drain_timeout) is in force at once. What all nodes live by alike
/// (timeout, interval, quorum, addresses of a service) comes into force on all of them when the last one has read the same;
/// until then this says for whom it waits, and `rudel status` does. If the file asks for anything that cannot change while
/// the daemon runs, that is named, with what to do, and nothing changes at all; nor does it if the file is refused. The same
/// as SIGHUP and `systemctl reload rudeld`, with an answer: exits with 0 if the file is followed, also while it waits for
/// other nodes, with 2 if it is refused, with 1 if this host could not follow it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel reload
  rudel reload --json | jq -r .result")]
pub(crate) struct Args {
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    schema: u32,
    #[serde(flatten)]
    reload: &'a Reload,
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let mut client = target.connect()?;
    let reload = follow(&mut client)?;
    if let Some(reason) = &reload.reason {
        let failure = match reload.result {
            ReloadResult::Refused => Failure::refused(reason.clone()),
            _ => Failure::undone(reason.clone(), "nothing was changed; mend that, and reload again"),
        };
        if args.json {
            output::print_json(&Told { schema: SCHEMA, reload: &reload })?;
        }
        return Err(failure);
    }
    if args.json {
        output::print_json(&Told { schema: SCHEMA, reload: &reload })?;
    } else {
        output::print(&render(&reload))?;
    }
    Ok(Outcome::Done)
}

/// Reloads, and waits for the other nodes to follow if all of them have read the same.
fn follow(client: &mut Client) -> Result<Reload, Failure> {
    let mut reload = client.reload()?;
    let deadline = Instant::now() + FOLLOW_TIMEOUT;
    while reload.result == ReloadResult::Pending && reload.waiting_for.is_empty() && Instant::now() < deadline
    {
        std::thread::sleep(LOOK_EVERY);
        match client.status()?.reload {
            Some(later) if later.at == reload.at => reload = later,
            // Somebody else has reloaded meanwhile: that is another story.
            _ => break,
        }
    }
    Ok(reload)
}

fn render(reload: &Reload) -> String {
    let mut text = String::new();
    for change in &reload.applied {
        text.push_str(&format!("changed {change}\n"));
    }
    if let Some(waiting) = reload.waiting() {
        text.push_str(&format!("{waiting}\n"));
    }
    if text.is_empty() {
        text.push_str("nothing has changed\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use rudel_api::reload::Change;
    use rudel_api::timestamp::Timestamp;

    use super::*;

    #[test]
    fn what_is_told_is_what_changed_and_what_waits() {
        let change = |key: &str| Change { key: key.into(), from: "1".into(), to: "2".into() };
        let mut reload = Reload {
            at: Timestamp::now(),
            result: ReloadResult::Pending,
            applied: vec![change("node.weight")],
            pending: vec![change("cluster.quorum")],
            waiting_for: vec!["n3".into()],
            reason: None,
        };
        assert_eq!(
            render(&reload),
            "changed node.weight: 1 -> 2\nwaiting for n3 to reload: cluster.quorum: 1 -> 2\n"
        );
        reload.result = ReloadResult::Applied;
        reload.applied.clear();
        reload.pending.clear();
        assert_eq!(render(&reload), "nothing has changed\n");
    }
}
