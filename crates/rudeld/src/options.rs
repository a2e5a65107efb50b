//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The cluster daemon: shares one IP address among the nodes of a cluster.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    after_help = "Example: rudeld --config /etc/rudel/rudel.toml\n\n\
    Exit codes: 0 left the cluster as asked; 1 it could not be done; 2 wrong usage or a configuration that is refused."
)]
pub struct Options {
    /// The configuration file, the same on every node.
    #[arg(long, value_name = "PATH", default_value = rudel_api::config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// This node's name, over `[node] name`; by default the host name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The control socket, over `[node] socket`.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How to log to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Where the lock and the journal of changes to this host are kept while the daemon runs.
    #[arg(long, value_name = "DIR", default_value = "/run/rudel")]
    pub runtime_dir: PathBuf,
    /// Where the number of the run and the history of events are kept for the next.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rudel")]
    pub state_dir: PathBuf,
    /// Write everything that the protocol is told into this file, one JSON object per line, so that a fault can be
    /// replayed (`rudel-sim replay FILE`). It holds no key. About 1 kB per pulse received; ends at 1 GiB.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// A BPF file system, where the packet filter outlives the daemon.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people and the journal.
    Text,
    /// One JSON object per line.
    Json,
}
