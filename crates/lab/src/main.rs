//! `rudel-lab`: a cluster of network namespaces on this machine, to watch, to play with, and to measure.

mod bench;
mod by_hand;
mod demo;
mod screen;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

/// A cluster of network namespaces on this machine. It touches nothing outside of them, and needs root to make them.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example:\n  rudel-lab demo")]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Show what a cluster does: share load, survive the loss of a node, grow, let a node go
    #[command(after_help = "Exit code 0 means that all was as promised.\n\nExample:\n  rudel-lab demo")]
    Demo,
    /// Build a cluster and leave it running
    #[command(
        after_help = "Example:\n  rudel-lab up --nodes 4\n  rudel-lab exec n1 rudel status\n  rudel-lab down"
    )]
    Up(by_hand::Up),
    /// Remove a cluster that `up` has built
    #[command(after_help = "Example:\n  rudel-lab down")]
    Down(by_hand::Named),
    /// Run a command on a node, a client or the switch
    #[command(
        after_help = "The command rudel is given the socket of the node.\n\nExample:\n  rudel-lab exec n1 rudel status\n  rudel-lab exec c1 curl http://10.74.0.10/\n  rudel-lab exec n2 tcpdump -ni eth0"
    )]
    Exec(by_hand::Exec),
    /// Show the nodes and their shares, as each of them sees it
    #[command(after_help = "Example:\n  rudel-lab status")]
    Status(by_hand::Named),
    /// Remove labs whose owner has died
    #[command(after_help = "Example:\n  rudel-lab gc")]
    Gc,
    /// Measure outages and rates
    #[command(after_help = "Example:\n  rudel-lab bench --kills 5")]
    Bench(bench::Options),
}

fn main() -> ExitCode {
    dispatch(Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("rudel-lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(command: Subcommands) -> Result<ExitCode> {
    if !rudel_lab::is_root() {
        let me = std::env::args().collect::<Vec<_>>().join(" ");
        bail!("this needs root, for network namespaces and the packet filter: sudo {me}");
    }
    match command {
        Subcommands::Demo => demo::run(),
        Subcommands::Up(options) => by_hand::up(&options),
        Subcommands::Down(options) => by_hand::down(&options),
        Subcommands::Exec(options) => by_hand::exec(&options),
        Subcommands::Status(options) => by_hand::status(&options),
        Subcommands::Gc => by_hand::gc(),
        Subcommands::Bench(options) => bench::run(&options),
    }
}
