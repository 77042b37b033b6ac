//! Why a container does not start.

use crate::cri::ContainerId;

/// Why a container could not be started: what its status says while it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// The container that runs all the same, and is to be stopped: its postStart hook failed.
    pub unhooked: Option<ContainerId>,
}

impl StartError {
    /// An error with a reason.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), unhooked: None }
    }
}
