//! Which daemon a command is about.

use std::io::ErrorKind;
use std::path::PathBuf;

use rudel_api::config::{Config, ConfigError, DEFAULT_PATH, DEFAULT_SOCKET};
use rudel_api::control::Client;

use crate::failure::Failure;

/// The flags that every command has.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// The configuration file [default: /etc/rudel/rudel.toml]
    #[arg(long, global = true, value_name = "PATH", display_order = 100)]
    config: Option<PathBuf>,
    /// The daemon's control socket [default: from the configuration, or /run/rudel/rudel.sock]
    #[arg(long, global = true, value_name = "PATH", display_order = 101)]
    socket: Option<PathBuf>,
}

impl Target {
    /// Connects to the daemon.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.socket()?, Client::TIMEOUT)?)
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        Ok(self.config()?.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), |config| config.node.socket))
    }

    /// The configuration; none if it is in its usual place and cannot be read there, which many a user cannot.
    pub(crate) fn config(&self) -> Result<Option<Config>, Failure> {
        if let Some(path) = &self.config {
            return Ok(Some(Config::load(path)?));
        }
        match Config::load(DEFAULT_PATH) {
            Ok(config) => Ok(Some(config)),
            Err(ConfigError::Unreadable { source, .. })
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
