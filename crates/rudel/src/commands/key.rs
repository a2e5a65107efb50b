//! `rudel key new [PATH]` and `rudel key fingerprint [PATH]`.

use std::io::ErrorKind;
use std::path::PathBuf;

use rudel_api::key::{ClusterKey, ClusterKeys, DEFAULT_PATH};

use crate::Outcome;
use crate::failure::Failure;
use crate::output;
use crate::target::Target;

/// Make a new cluster key
///
/// With PATH the key is written into a new file that only its owner can read; a file that is there is never
/// overwritten. Copy it to every node of the cluster. Without PATH the key goes to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  rudel key new /etc/rudel/key")]
pub(crate) struct NewArgs {
    /// The file to make
    path: Option<PathBuf>,
}

pub(crate) fn new(args: &NewArgs) -> Result<Outcome, Failure> {
    let key = ClusterKey::generate().map_err(|error| {
        Failure::undone(
            format!("the kernel gives no random numbers: {error}"),
            "try again later, or on another host",
        )
    })?;
    let Some(path) = &args.path else {
        output::print(&key.to_file_text())?;
        return Ok(Outcome::Done);
    };
    key.write_new(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AlreadyExists => {
                "it is left as it is; remove it if no node uses it, or name another file"
            }
            ErrorKind::NotFound => "make its directory first",
            ErrorKind::PermissionDenied => "run this as root, or name a file that you can write",
            _ => "name another file",
        };
        Failure::undone(format!("cannot make the key file {}: {error}", path.display()), remedy)
    })?;
    output::print(&format!("made the key file {}, fingerprint {}\n", path.display(), key.fingerprint()))?;
    Ok(Outcome::Done)
}

/// Show the fingerprint of a cluster key
///
/// A fingerprint tells whether nodes have the same key, and nothing else about it. A file with several keys shows one
/// line each: the first key seals what this node sends, the others are only accepted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  rudel key fingerprint /etc/rudel/key")]
pub(crate) struct FingerprintArgs {
    /// The key file [default: from the configuration, or /etc/rudel/key]
    path: Option<PathBuf>,
}

pub(crate) fn fingerprint(target: &Target, args: &FingerprintArgs) -> Result<Outcome, Failure> {
    let path = match &args.path {
        Some(path) => path.clone(),
        None => {
            target.config()?.map_or_else(|| PathBuf::from(DEFAULT_PATH), |config| config.cluster.key_file)
        }
    };
    let keys =
        ClusterKeys::load(&path).map_err(|error| Failure::undone(error.to_string(), error.remedy()))?;
    let uses = std::iter::once("seals").chain(std::iter::repeat("accepted"));
    let lines: String =
        keys.iter().zip(uses).map(|(key, used)| format!("{}  {used}\n", key.fingerprint())).collect();
    output::print(&lines)?;
    Ok(Outcome::Done)
}
