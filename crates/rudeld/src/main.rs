//! The cluster daemon's program: command line, log, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use rudeld::daemon::{self, DaemonError};
use rudeld::options::{LogFormat, Options};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    start_log(options.log_format);
    match daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(DaemonError::Config(error)) => {
            eprintln!("{}", error.render(colour()));
            ExitCode::from(2)
        }
        Err(DaemonError::Host(error)) => {
            eprintln!("{}", error.render(colour()));
            ExitCode::FAILURE
        }
        Err(DaemonError::Failed(error)) => {
            eprintln!("rudeld: {error}");
            ExitCode::FAILURE
        }
    }
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
