//! Explores the small clusters, and tells the story of what it finds.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use rudel_model::{configurations, explore, story};

/// Explores small clusters of the membership protocol exhaustively.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    /// Explores also those that take minutes.
    #[arg(long)]
    all: bool,
    /// Explores only those whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Stops each after so many transitions.
    #[arg(long, default_value_t = 100_000_000)]
    transitions: usize,
    /// Stops at the first configuration that fails.
    #[arg(long)]
    first: bool,
    /// Tells all of a story, not only from the first fault on.
    #[arg(long)]
    whole: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut setups = configurations::short();
    if options.all {
        setups.extend(configurations::long());
    }
    let mut failed = false;
    for setup in setups.iter().filter(|setup| setup.name.contains(&options.only)) {
        let report = explore(setup, options.transitions);
        println!("{report}");
        if let Some(found) = &report.counterexample {
            failed = true;
            let lines = story(setup, found);
            let first = lines.iter().position(|line| line.contains("FAULT")).unwrap_or(0);
            let skipped = if options.whole { 0 } else { first.saturating_sub(6) };
            for line in &lines[skipped..] {
                println!("    {line}");
            }
            if options.first {
                break;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
