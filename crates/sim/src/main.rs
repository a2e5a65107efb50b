//! `rudel-sim`: plays random worlds and says which properties did not hold.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use clap::{Parser, Subcommand};
use rudel_sim::{Blackouts, CLASSES, Class};

#[derive(Parser)]
#[command(about = "Plays the membership protocol in random worlds", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Play the worlds of many seeds
    Run(Run),
    /// List the classes of worlds
    Classes,
    /// Step through a recording of a real daemon (`rudeld --record FILE`), and tell what went in and what came of it
    Replay {
        /// The recording
        file: std::path::PathBuf,
    },
}

#[derive(clap::Args)]
struct Run {
    /// How many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed; from the clock if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only worlds of this class; all in turn if not given
    #[arg(long)]
    class: Option<String>,
    /// For how many time-outs things go wrong (150 are 60 s with the default time-out)
    #[arg(long, default_value_t = 150)]
    timeouts: u64,
    /// Begin no world after so many seconds, and report those that were played
    #[arg(long)]
    within: Option<u64>,
    /// Print what happens
    #[arg(long)]
    trace: bool,
    /// Shorten what fails, and print it
    #[arg(long)]
    shorten: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

/// What became of the worlds of one class.
#[derive(Default)]
struct Tally {
    worlds: u64,
    steps: u64,
    excused: u64,
    rest_after: u64,
    blackouts: Blackouts,
}

fn main() -> ExitCode {
    match Arguments::parse().action {
        Action::Run(run) => run.execute(),
        Action::Replay { file } => {
            let replayed = std::fs::File::open(&file).map_err(Into::into).and_then(|recording| {
                rudel_sim::replay::replay(std::io::BufReader::new(recording), &mut std::io::stdout().lock())
            });
            match replayed {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("rudel-sim: {}: {error}", file.display());
                    ExitCode::FAILURE
                }
            }
        }
        Action::Classes => {
            for class in CLASSES {
                println!("{:12} {}", class.name, class.about);
            }
            ExitCode::SUCCESS
        }
    }
}

impl Run {
    fn execute(&self) -> ExitCode {
        let class = match self.class.as_deref().map(Class::named) {
            Some(None) => {
                eprintln!("no such class; `rudel-sim classes` lists them");
                return ExitCode::from(2);
            }
            Some(Some(class)) => Some(class),
            None => None,
        };
        let first = self.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            now.as_secs() * 1_000_000
        });
        let begun = Instant::now();
        let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
        let mut failures = 0;
        for seed in first..first.saturating_add(self.seeds) {
            if self.within.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds)) {
                println!("stopped before seed={seed}");
                break;
            }
            let class = class.unwrap_or(&CLASSES[(seed % CLASSES.len() as u64) as usize]);
            let mut script = class.script(seed, self.timeouts);
            script.settings.trace = self.trace;
            let outcome = script.play();
            let tally = tallies.entry(class.name).or_default();
            tally.worlds += 1;
            tally.steps += outcome.steps;
            tally.excused += outcome.overlaps_excused;
            tally.rest_after =
                tally.rest_after.max(outcome.rest_after * 1000 / script.settings.timeout.as_nanos() as u64);
            // Where every node is needed for the quorum, each fault is an outage, and says nothing.
            if script.settings.timeout == Duration::from_millis(400)
                && script.settings.quorum < script.settings.nodes
            {
                tally.blackouts.extend(&outcome.blackouts);
            }
            if let Some(violation) = outcome.violation {
                failures += 1;
                println!("seed={seed} class={} commit={} {violation}", class.name, commit());
                if self.shorten {
                    println!("{}", script.shortened());
                }
                if !self.keep_going {
                    println!(
                        "again: rudel-sim run --seed {seed} --class {} --timeouts {} --trace",
                        class.name, self.timeouts
                    );
                    return ExitCode::FAILURE;
                }
            }
        }
        self.report(&mut tallies, begun.elapsed(), failures);
        if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn report(&self, tallies: &mut BTreeMap<&str, Tally>, took: Duration, failures: u64) {
        println!(
            "gaps: time for which nobody passed a bucket, in ms, worlds with T = 400 ms and a node to spare;\nrest: longest time from the end of all faults to rest, in T"
        );
        println!(
            "{:10} {:>7} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8}",
            "class", "worlds", "steps", "gaps", "median", "p90", "p99", "max", "rest", "excused"
        );
        let (mut worlds, mut steps) = (0, 0);
        for (class, tally) in tallies {
            worlds += tally.worlds;
            steps += tally.steps;
            let [median, p90, p99, max] =
                [500, 900, 990, 1000].map(|share| tally.blackouts.quantile(share).as_secs_f64() * 1000.0);
            println!(
                "{class:10} {:>7} {:>11} {:>9} {median:>9.1} {p90:>9.1} {p99:>9.1} {max:>9.1} {:>7.2} {:>8}",
                tally.worlds,
                tally.steps,
                tally.blackouts.count(),
                tally.rest_after as f64 / 1000.0,
                tally.excused
            );
        }
        let seconds = took.as_secs_f64().max(1e-9);
        println!(
            "{worlds} worlds, {steps} steps in {seconds:.1} s ({:.1} worlds/s, {:.2} million steps/s), {failures} failures",
            worlds as f64 / seconds,
            steps as f64 / seconds / 1e6
        );
    }
}

/// Which version of the code this is, as far as git knows.
fn commit() -> String {
    Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".into(), |text| text.trim().into())
}
