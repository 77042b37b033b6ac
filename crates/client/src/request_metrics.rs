//! What is counted of requests (`rest_client_*`, as client-go's metrics have it), whatever carries them.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use instruments::{Counter, Family, Histogram, Kind, Labelled, Registry};
use tokio::time::Instant;

use crate::error::Result;
use crate::transport::{Body, Transport};

const TOTAL: Family =
    Family::new("rest_client_requests_total", Kind::Counter, "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.");
const DURATION: Family =
    Family::new("rest_client_request_duration_seconds", Kind::Histogram, "[ALPHA] Request latency in seconds. Broken down by verb, and host.");
const SIZE: Family = Family::new("rest_client_request_size_bytes", Kind::Histogram, "[ALPHA] Request size in bytes. Broken down by verb and host.");

static DURATION_S: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
static SIZE_BYTES: [f64; 11] = [64.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// In place of a code where there was no answer.
const NO_ANSWER: &str = "<error>";

/// What is counted of a part's requests. Cheap to clone.
#[derive(Clone)]
pub struct RequestMetrics(Arc<Inner>);

struct Inner {
    host: String,
    total: Arc<Labelled<3, Counter>>,
    duration: Arc<Labelled<2, Histogram>>,
    size: Arc<Labelled<2, Histogram>>,
}

impl Debug for RequestMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestMetrics").field("host", &self.0.host).finish_non_exhaustive()
    }
}

impl RequestMetrics {
    /// Told in this registry as requests to this host: a name or an address, and a port.
    #[must_use]
    pub fn new(registry: &Registry, host: &str) -> Self {
        Self(Arc::new(Inner {
            host: host.to_owned(),
            total: registry.counters(&TOTAL, ["code", "host", "method"]),
            duration: registry.histograms(&DURATION, ["host", "verb"], &DURATION_S),
            size: registry.histograms(&SIZE, ["host", "verb"], &SIZE_BYTES),
        }))
    }

    /// The same transport, with its requests counted.
    #[must_use]
    pub fn over(&self, transport: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Counted { transport, metrics: self.0.clone() })
    }
}

struct Counted {
    transport: Arc<dyn Transport>,
    metrics: Arc<Inner>,
}

impl Transport for Counted {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
        let (metrics, method, begun) = (self.metrics.clone(), request.method().clone(), Instant::now());
        // A watch has no end that would say how long it took.
        let watch = request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true"));
        let size = request.body().len();
        let sent = self.transport.send(request);
        Box::pin(async move {
            let answer = sent.await;
            let verb = method.as_str();
            let code = answer.as_ref().map(Response::status).ok();
            metrics.total.with([code.as_ref().map_or(NO_ANSWER, StatusCode::as_str), &metrics.host, verb]).inc();
            if !watch {
                metrics.duration.with([&metrics.host, verb]).took(begun.elapsed());
                metrics.size.with([&metrics.host, verb]).observe(size as f64);
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use http_body_util::{BodyExt, Empty};

    #[tokio::test(start_paused = true)]
    async fn requests_are_counted_by_method_and_code() {
        let registry = Registry::default();
        let server = |request: Request<Bytes>| -> BoxFuture<'static, Result<Response<Body>>> {
            Box::pin(async move {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                let code = match request.uri().path() {
                    "/away" => return Err(Error::Transport("nobody is there".into())),
                    "/none" => 404,
                    _ => 200,
                };
                let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
                Ok(Response::builder().status(code).body(body).expect("an answer"))
            })
        };
        let counted = RequestMetrics::new(&registry, "h:1").over(Arc::new(server));
        for (method, uri, body) in [("GET", "/a", ""), ("GET", "/none", ""), ("POST", "/a", "12345"), ("GET", "/a?watch=true", ""), ("GET", "/away", "")] {
            let request = Request::builder().method(method).uri(uri).body(Bytes::from(body)).expect("a request");
            let _ = counted.send(request).await;
        }
        let text = registry.text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")).collect();
        assert_eq!(
            samples,
            [
                "rest_client_request_duration_seconds_sum{host=\"h:1\",verb=\"GET\"} 3",
                "rest_client_request_duration_seconds_count{host=\"h:1\",verb=\"GET\"} 3",
                "rest_client_request_duration_seconds_sum{host=\"h:1\",verb=\"POST\"} 1",
                "rest_client_request_duration_seconds_count{host=\"h:1\",verb=\"POST\"} 1",
                "rest_client_request_size_bytes_sum{host=\"h:1\",verb=\"GET\"} 0",
                "rest_client_request_size_bytes_count{host=\"h:1\",verb=\"GET\"} 3",
                "rest_client_request_size_bytes_sum{host=\"h:1\",verb=\"POST\"} 5",
                "rest_client_request_size_bytes_count{host=\"h:1\",verb=\"POST\"} 1",
                "rest_client_requests_total{code=\"200\",host=\"h:1\",method=\"GET\"} 2",
                "rest_client_requests_total{code=\"200\",host=\"h:1\",method=\"POST\"} 1",
                "rest_client_requests_total{code=\"404\",host=\"h:1\",method=\"GET\"} 1",
                "rest_client_requests_total{code=\"<error>\",host=\"h:1\",method=\"GET\"} 1",
            ]
        );
    }
}
