//! The command line: what is written here is also the help, the manual pages and the completions.

use clap::{Parser, Subcommand};

use crate::commands::{
    check, completions, drain, events, key, man, order, plan, reload, restart, rotate, status, top, why,
};
use crate::target::Target;

/// What stands before each code, and between it and its meaning, is cut off for the manual pages.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it could not be done; why, and what to do, is on stderr
  2  wrong usage, or a configuration that is refused
  3  the cluster is degraded (status); there is a warning or an error (check)

Example:
  rudel status";

/// Look at a rudel cluster and steer it
///
/// rudel talks to the rudeld of this machine over its control socket, and tells what it knows of the whole cluster.
#[derive(Debug, Parser)]
#[command(name = "rudel", version, after_help = EXIT_CODES, arg_required_else_help = true, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Check(check::Args),
    Status(status::Args),
    Top(top::Args),
    Events(events::Args),
    Why(why::Args),
    Plan(plan::Args),
    Drain(drain::Args),
    Undrain(order::UndrainArgs),
    Weight(order::WeightArgs),
    Restart(restart::Args),
    Reload(reload::Args),
    #[command(subcommand)]
    Key(KeyCommand),
    Completions(completions::Args),
    Man(man::Args),
}

/// Make a cluster key, or tell keys apart
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  rudel key new /etc/rudel/key")]
pub(crate) enum KeyCommand {
    New(key::NewArgs),
    Fingerprint(key::FingerprintArgs),
    Rotate(rotate::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn all(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name());
        found.push((path.clone(), command.clone()));
        command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
            .for_each(|sub| all(sub, &path, found));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_has_an_example() {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        all(&command, "", &mut found);
        assert!(found.len() > 8);
        for (path, mut command) in found {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example:\n  rudel "), "{path}");
            assert!(command.get_about().is_some_and(|about| !about.to_string().is_empty()), "{path}");
        }
    }
}
