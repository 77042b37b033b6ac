//! The API as every other part sees it: typed client, shared informers, work queue, events, leader lease.
//!
//! A component gets a [`Client`] (who it is and how a request reaches the server) and an [`Informers`] (what it reads).
//! Whether the server is in the same process or behind TLS is the [`Transport`]'s business alone, so every component
//! also runs against any other API server. Nothing here polls: reads come from watches, timers exist only for back-off
//! and where the API itself defines time.

mod api;
mod codec;
mod delegated;
pub mod devices;
mod error;
mod failover;
mod http_transport;
mod informer;
mod kubeconfig;
pub mod lease;
mod lenient;
mod list;
mod object;
mod params;
mod partial;
mod queue;
mod queue_metrics;
mod recorder;
mod report;
mod request_metrics;
mod series;
mod similar;
pub mod storage;
mod tls;
mod transport;
mod watch;

pub use api::{Api, Client, escape};
pub use codec::{Coded, Frame, Told, typed};
pub use delegated::{Asker, Delegated};
pub use error::{Error, Result};
pub use failover::Failover;
pub use http_transport::HttpTransport;
pub use informer::{Delta, Informer, Informers};
pub use kubeconfig::{Credentials, Endpoint};
pub use list::List;
pub use object::{Meta, Object, ObjectKey, Plural, object_reference, own_claim, region_and_zone};
pub use params::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, Propagation};
pub use partial::PartialObject;
pub use queue::{Backoff, WorkQueue};
pub use queue_metrics::QueueMetrics;
pub use recorder::{EventType, Recorder};
pub use report::Reports;
pub use request_metrics::RequestMetrics;
pub use series::{Deed, SeriesRecorder};
pub use transport::{Body, BoxError, Transport};
pub use watch::Event;

use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;

/// The present moment in nanoseconds.
#[must_use]
pub fn timestamp() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).ok().and_then(|n| Timestamp::from_nanosecond(n).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The present moment, as the API writes it (whole seconds).
#[must_use]
pub fn now() -> Time {
    Time(Timestamp::from_second(timestamp().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The present moment in microseconds, as leases write it.
#[must_use]
pub fn now_micro() -> MicroTime {
    MicroTime(Timestamp::from_microsecond(timestamp().as_microsecond()).unwrap_or(Timestamp::UNIX_EPOCH))
}
