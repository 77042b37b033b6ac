//! What can go wrong with keys, certificates and tokens.

use crate::tokens::legacy::Used;
use std::{io, path::PathBuf};

/// An error of this crate. A [`Error::Token`] text is meant for TokenReview's `status.error`, never for the bearer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the key directory cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate is not what it should be.
    #[error("{0}")]
    Key(String),
    /// A certificate cannot be made.
    #[error("making a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// What is no JSON web token, or another issuer's: of such a thing its reader says nothing.
    #[error("{0}")]
    Foreign(String),
    /// A token that is not accepted.
    #[error("{0}")]
    Token(String),
    /// A token whose Secret says that it is not to be used any more; that it was used is noted all the same.
    #[error("{0}")]
    Invalidated(String, Box<Used>),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
