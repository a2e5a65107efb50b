//! The control tool of the rudel cluster daemon.
//!
//! It has no privilege of its own, only the daemon's socket. Exit codes: 0 done; 1 it could not be done; 2 wrong usage
//! or a configuration that is refused; 3 the cluster is degraded, or something is wrong with host or network.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod failure;
mod layout;
mod output;
mod target;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, KeyCommand};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            output::complain(&failure.render());
            failure.exit_code()
        }
    }
}

/// What a command that did its work found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Exit code 0.
    Done,
    /// The cluster is degraded: exit code 3.
    Degraded,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Degraded => ExitCode::from(3),
        }
    }
}

fn run(cli: &Cli) -> Result<Outcome, Failure> {
    match &cli.command {
        Command::Check(args) => commands::check::run(&cli.target, args),
        Command::Status(args) => commands::status::run(&cli.target, args),
        Command::Top(args) => commands::top::run(&cli.target, args),
        Command::Events(args) => commands::events::run(&cli.target, args),
        Command::Why(args) => commands::why::run(&cli.target, args),
        Command::Plan(args) => commands::plan::run(&cli.target, args),
        Command::Drain(args) => commands::drain::run(&cli.target, args),
        Command::Undrain(args) => commands::order::undrain(&cli.target, args),
        Command::Weight(args) => commands::order::set_weight(&cli.target, args),
        Command::Restart(args) => commands::restart::run(&cli.target, args),
        Command::Reload(args) => commands::reload::run(&cli.target, args),
        Command::Key(KeyCommand::New(args)) => commands::key::new(args),
        Command::Key(KeyCommand::Fingerprint(args)) => commands::key::fingerprint(&cli.target, args),
        Command::Key(KeyCommand::Rotate(args)) => commands::rotate::run(&cli.target, args),
        Command::Completions(args) => commands::completions::run(args),
        Command::Man(args) => commands::man::run(args),
    }
}
