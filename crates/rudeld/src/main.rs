//! The cluster daemon's program: command line, log, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use rudeld::daemon::{self, DaemonError, End};
use rudeld::options::{LogFormat, Options};
use rudeld::parent::channel::ToParent;
use rudeld::parent::{self, Tie};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    start_log(options.log_format);
    let Some(tied) = &options.tied else {
        return ExitCode::from(parent::run());
    };
    // SAFETY: once, and the command line is a parent's.
    let tie = match unsafe { Tie::take_up(tied) } {
        Ok(tie) => tie,
        Err(error) => {
            eprintln!("rudeld: this daemon's parent process cannot be reached: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (said, code) = match daemon::run(&options, tied.role, &tie) {
        Ok(End::Left) => (None, 0),
        Ok(End::HandedOver) => {
            tie.tell(&ToParent::HandedOver);
            return ExitCode::SUCCESS;
        }
        Err(DaemonError::Config(error)) => (Some((error.render(colour()), error.render(false))), 2),
        Err(DaemonError::Host(error)) => (Some((error.render(colour()), error.render(false))), 1),
        Err(DaemonError::Failed(error)) => (Some((format!("rudeld: {error}"), error)), 1),
    };
    if let Some((shown, told)) = said {
        eprintln!("{shown}");
        tie.tell(&ToParent::Refused(told));
    }
    tie.tell(&ToParent::Ended(code));
    ExitCode::from(code)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("RUDEL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour());
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Colour, unless a pipe or NO_COLOR (no-color.org) says otherwise.
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
