//! What the server asks of others over HTTPS: admission webhooks, the conversion of custom objects, image policies.
//!
//! A [`Target`] is where one hook is, by URL or by Service, whom it is believed to be and who the server is there; it has its connections
//! from a pool, those of HTTP/2 with the others at the same server. A [`Target::post`] is one POST of a review: it ends at its deadline
//! whatever the other side does, is led to no other server, and takes no more than [`ANSWER_BYTES_MAX`]. What goes wrong is told in the words
//! of Go's client, since people and tests match on them ([`Failure`]). A hook that hangs, lies or floods costs the request that asked it,
//! and nobody else.
//!
//! Upstream's rules: `apiserver/pkg/util/webhook` (client, authentication, service resolver) and `client-go/rest`.

mod address;
mod answer;
pub(crate) mod connect;
mod credentials;
mod life;
mod line;
mod pool;
mod target;
pub(crate) mod trust;
pub(crate) mod words;

pub(crate) use address::Address;
pub(crate) use credentials::Credentials;
pub(crate) use life::{PING_AFTER, PING_MAX};
pub(crate) use pool::Pools;
pub(crate) use target::{ClientConfig, Target, joined_whole};

use crate::Body;
use http::{Request, Response};
use machinery::{Value, status::Status};
use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
};

/// Bytes of an answer at most. A patch is at most as large as a request's body, in base64, with some text around it; upstream
/// has no bound and reads whatever comes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a call needs to know of the cluster.
pub(crate) trait Services: Send + Sync {
    /// A Service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// What the server answers itself; none where there is nobody to ask. It has been named as a hook: by the Service `kubernetes`, behind
    /// which are the servers that are aggregated.
    fn itself(&self, _request: Request<Body>) -> Option<OwnAnswer> {
        None
    }
}

/// An answer of the server to itself, or why there is none.
pub(crate) type OwnAnswer = Pin<Box<dyn Future<Output = Result<Response<Body>, String>> + Send>>;

/// Who answers the server's requests to itself.
pub(crate) type AnswersItself = Box<dyn Fn(Request<Body>) -> Option<OwnAnswer> + Send + Sync>;

/// The server as a hook. The path above, which nobody here knows, says once how it is asked.
#[derive(Clone, Default)]
pub(crate) struct Itself(Arc<OnceLock<AnswersItself>>);

impl Itself {
    /// Says how the server is asked; what is said later counts for nothing.
    pub(crate) fn answer(&self, by: AnswersItself) {
        let _ = self.0.set(by);
    }

    /// Its answer, if there is somebody to ask.
    pub(crate) fn ask(&self, request: Request<Body>) -> Option<OwnAnswer> {
        self.0.get()?(request)
    }
}

impl fmt::Debug for Itself {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Itself").finish_non_exhaustive()
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The other side was not reached, did not answer in time or not as HTTP.
    Transport(String),
    /// It answered with an error.
    Answer(Box<Status>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Transport(why) => f.write_str(why),
            Failure::Answer(status) => f.write_str(&status.message),
        }
    }
}

/// An error of a file in the words of Go.
pub(crate) fn file_error(file: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    format!("open {}: {why}", file.display())
}
