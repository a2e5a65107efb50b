//! Why a command did not do its work, on stderr and as exit code.

use std::process::ExitCode;

use rudel_api::config::ConfigError;
use rudel_api::control::ClientError;

/// Something that kept a command from its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be done: exit code 1.
    Undone {
        /// What happened, to what.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// It was asked for in the wrong way: exit code 2.
    Usage {
        /// What is wrong.
        what: String,
        /// How to ask.
        remedy: String,
    },
    /// The configuration is refused: exit code 2.
    Config(ConfigError),
    /// The daemon refuses its configuration, as it says in several lines: exit code 2.
    Refused(String),
}

impl Failure {
    pub(crate) fn undone(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Failure::Undone { what: what.into(), remedy: remedy.into() }
    }

    pub(crate) fn refused(what: String) -> Self {
        Failure::Refused(what)
    }

    pub(crate) fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Failure::Usage { what: what.into(), remedy: remedy.into() }
    }

    /// One line, `rudel: <what happened, to what>: <what to do>`; only a refused configuration shows its lines, with
    /// terminal colours.
    pub(crate) fn render(&self) -> String {
        match self {
            Failure::Undone { what, remedy } | Failure::Usage { what, remedy } => {
                one_line(&format!("rudel: {what}: {remedy}"))
            }
            Failure::Config(error @ ConfigError::Unreadable { .. }) => {
                one_line(&format!("rudel: {}", error.render(false)))
            }
            Failure::Config(error @ ConfigError::Refused(_)) => error.render(true),
            Failure::Refused(what) => what.lines().map(one_line).collect::<Vec<_>>().join("\n"),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Undone { .. } | Failure::Config(ConfigError::Unreadable { .. }) => ExitCode::from(1),
            Failure::Usage { .. } | Failure::Config(ConfigError::Refused(_)) | Failure::Refused(_) => {
                ExitCode::from(2)
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::undone(error.to_string(), error.remedy())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Config(error)
    }
}

/// Whatever a daemon or a file name put into a message, it stays one line and moves no cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
