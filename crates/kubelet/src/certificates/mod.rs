//! The kubelet's certificates where nobody else gives them to it: asked for by a CertificateSigningRequest, kept in a file, and renewed
//! before they end, without a restart (upstream's `client-go/util/certificate` and `pkg/kubelet/certificate`).
//!
//! - [`pair`]: a certificate with its key, one file of both, so that a crash leaves the old or the new pair.
//! - [`request`]: a key, a request for its certificate, and the answer.
//! - [`rotation`]: when it is time, and again until it succeeds.
//! - [`Shown`]: what a server shows, which may be nothing yet.

mod pair;
mod request;
mod rotation;
mod shown;

pub use pair::Pair;
pub use request::{Purpose, Wanted, obtain};
pub use rotation::Rotation;
pub use shown::Shown;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of a pair, or what is in it, cannot be used.
    #[error("{0}")]
    Pair(String),
    /// The API refused, or was not reached.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// The request was denied, or signing it failed: the condition's words.
    #[error("the certificate request {name} was {what}: {why}")]
    Refused {
        /// The CertificateSigningRequest.
        name: String,
        /// `denied`, or `not signed`.
        what: &'static str,
        /// The condition's reason and message.
        why: String,
    },
    /// Nobody has answered.
    #[error("the certificate request {0} was neither approved nor denied in time (`kubectl certificate approve {0}` approves it)")]
    Unanswered(String),
    /// Somebody removed the request.
    #[error("the certificate request {0} was deleted before it was answered")]
    Gone(String),
}
