//! What can go wrong, in words that a user can act on: the kubelet puts them into Events and container states.

use std::path::Path;

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The named image, sandbox, container or process is not known.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// What was looked for ("image", "container", …).
        kind: &'static str,
        /// The name or identifier asked for.
        name: String,
    },
    /// The call does not fit the state of its object (start of a running container, exec in an exited one, …).
    #[error("{0}")]
    State(String),
    /// The caller's configuration makes no sense; nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// A container's process could not be started; the text is what the original's runtimes say.
    #[error("{0}")]
    Start(String),
    /// An image could not be fetched or unpacked.
    #[error("{0}")]
    Image(String),
    /// A registry refused (401 or 403) or does not have the image (404).
    #[error("{message}")]
    Registry {
        /// The HTTP status.
        code: u16,
        /// What to tell the user.
        message: String,
    },
    /// The process did not end in time and was killed.
    #[error("command {command:?} timed out")]
    Timeout {
        /// The command line.
        command: String,
    },
    /// The shim of a sandbox cannot be reached or answered nonsense.
    #[error("shim of sandbox {sandbox}: {message}")]
    Shim {
        /// The sandbox.
        sandbox: String,
        /// What happened.
        message: String,
    },
    /// A system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The result of most calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the object simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. }) || matches!(self, Error::Registry { code: 404, .. })
    }

    pub(crate) fn io(context: impl Into<String>, source: std::io::Error) -> Error {
        Error::Io { context: context.into(), source }
    }

    pub(crate) fn container(id: &str) -> Error {
        Error::NotFound { kind: "container", name: id.to_owned() }
    }
}

/// Adds to a failed system call what it was for.
pub(crate) trait Context<T> {
    /// Says in words what was being done.
    fn context(self, what: &str) -> Result<T>;
    /// Says what was being done to which path.
    fn at(self, what: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|e| Error::io(what, e.into()))
    }
    fn at(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(format!("{what} {}", path.display()), e.into()))
    }
}
