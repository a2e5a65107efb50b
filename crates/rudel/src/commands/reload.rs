//! `rudel reload`.

use rudel_api::reload::{Reload, ReloadResult};
use rudel_api::snapshot::SCHEMA;
use serde::Serialize;

use crate::Outcome;
use crate::failure::Failure;
use crate::output;
use crate::target::Target;

/// Have this node read its configuration again
///
/// What one node decides (weight, health checks, hooks, drain_timeout) is in force at once. If the file asks for anything
/// that cannot change while the daemon runs, that is named, with what to do, and nothing changes at all; nor does it if the
/// file is refused. The same as SIGHUP and `systemctl reload rudeld`, with an answer: exits with 0 if the file is followed,
/// with 2 if it is refused, with 1 if this host could not follow it.
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
    let reload = client.reload()?;
    if let Some(reason) = &reload.reason {
        let failure = match reload.result {
            ReloadResult::Refused => Failure::refused(reason.clone()),
            _ => Failure::undone(reason.clone(), "nothing was changed; mend that, and reload again"),
        };
        if args.json {
            print_json(&reload)?;
        }
        return Err(failure);
    }
    if args.json {
        print_json(&reload)?;
    } else {
        output::print(&render(&reload))?;
    }
    Ok(Outcome::Done)
}

fn print_json(reload: &Reload) -> Result<(), Failure> {
    let told = Told { schema: SCHEMA, reload };
    let json = serde_json::to_string(&told).expect("it has text keys and no fallible parts");
    output::print(&format!("{json}\n"))
}

fn render(reload: &Reload) -> String {
    let mut text = String::new();
    for change in &reload.applied {
        text.push_str(&format!("changed {change}\n"));
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
    fn what_is_told_is_what_changed() {
        let change = Change { key: "node.weight".into(), from: "1".into(), to: "2".into() };
        let mut reload = Reload {
            at: Timestamp::now(),
            result: ReloadResult::Applied,
            applied: vec![change],
            reason: None,
        };
        assert_eq!(render(&reload), "changed node.weight: 1 -> 2\n");
        reload.applied.clear();
        assert_eq!(render(&reload), "nothing has changed\n");
    }
}
