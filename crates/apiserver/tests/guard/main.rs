//! What guards and fills a cluster: the objects that the server makes by itself, admission, reviews and tokens, the way to
//! kubelets; all driven through [`apiserver::ApiServer::handle`] as its callers do.

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
