//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
    /// What a parent process passes on to its daemon: its number, and those of two descriptors.
    #[arg(long, hide = true, value_name = "TIE")]
    pub tied: Option<Tied>,
    /// A BPF file system, where the packet filter outlives the daemon.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

/// How a daemon is tied to the process that has started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tied {
    /// The parent's process id.
    pub parent: i32,
    /// The descriptor of the [channel](crate::parent::channel).
    pub channel: i32,
    /// The descriptor of the [board](crate::parent::board).
    pub board: i32,
    /// What it is started for.
    pub role: Role,
}

/// What a daemon is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The parent's first.
    First,
    /// Another one has ended.
    Again,
    /// To take the place of one that still works.
    InPlace,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::First => "first",
            Role::Again => "again",
            Role::InPlace => "in-place",
        })
    }
}

impl FromStr for Tied {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let what = "only a parent process can say this";
        let words: Vec<&str> = text.split(',').collect();
        let [parent, channel, board, role] = words[..] else { return Err(what) };
        let number = |word: &str| word.parse::<i32>().ok().filter(|n| *n > 2).ok_or(what);
        let role = [Role::First, Role::Again, Role::InPlace].into_iter().find(|r| r.to_string() == role);
        Ok(Tied {
            parent: parent.parse().map_err(|_| what)?,
            channel: number(channel)?,
            board: number(board)?,
            role: role.ok_or(what)?,
        })
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people and the journal.
    Text,
    /// One JSON object per line.
    Json,
}
