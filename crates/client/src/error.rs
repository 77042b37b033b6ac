//! Why a request failed.

use machinery::status::Status;

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with a `Status`.
    #[error("{0}")]
    Api(Box<Status>),
    /// The request or the answer did not get through.
    #[error("transport: {0}")]
    Transport(String),
    /// The answer is not what was asked for.
    #[error("decode: {0}")]
    Decode(String),
    /// The configuration (kubeconfig, certificate, token file) cannot be used.
    #[error("configuration: {0}")]
    Config(String),
}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Api(Box::new(status))
    }
}

impl Error {
    /// The `Status` that the server answered with.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(status) => Some(status),
            _ => None,
        }
    }

    fn has(&self, code: u16, reason: &str) -> bool {
        self.status().is_some_and(|s| s.code == code && (reason.is_empty() || s.reason == reason))
    }

    /// 404.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.has(404, "")
    }

    /// 409 `Conflict`: the object changed since it was read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.has(409, "Conflict")
    }

    /// 409 `AlreadyExists`.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.has(409, "AlreadyExists")
    }

    /// 410: the revision asked for is no longer kept.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.has(410, "")
    }

    /// 422.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.has(422, "")
    }

    /// 403.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.has(403, "")
    }

    /// 403 because the namespace is being deleted (the cause that upstream's `NamespaceLifecycle` names).
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden()
            && self.status().is_some_and(|s| {
                s.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
                    || s.message.contains("because it is being terminated")
            })
    }
}
