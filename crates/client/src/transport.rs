//! How a request reaches the server: over TLS, or straight into it when it lives in this process.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::Result;

/// What may go wrong while a body flows.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer; a watch's flows as long as the watch lives. The API server's own body type.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Carries requests to an API server under one identity.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request. Its URI is a path with a query; scheme and authority are the transport's.
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>>>;
}

/// A function carries requests: to a server in the same process, or to none.
impl<F> Transport for F
where
    F: Fn(http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>>> + Send + Sync + 'static,
{
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>>> {
        self(request)
    }
}
