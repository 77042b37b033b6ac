//! What guards and fills a cluster: the objects that the server makes by itself, admission, reviews and tokens, the way to
//! kubelets; all driven through [`apiserver::ApiServer::handle`] as its callers do.

// A test's future has those of the whole path within it, one in another.
#![recursion_limit = "256"]

mod admission;
mod aggregation;
mod bootstrap;
mod connections;
mod consumption;
mod conversion;
mod dropped;
mod dropped_parts;
mod early;
mod extension;
mod families;
mod hook;
mod kubelet;
mod latency;
mod plugins;
mod policies;
mod reviews;
mod rights;
mod support;
mod webhooks;
