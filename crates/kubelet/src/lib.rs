//! Pods on a node: sync, probes, volumes, resources, status, and the kubelet's own API.
//!
//! The kubelet watches the pods that are bound to its node and moves each, one step at a time, towards what its spec asks
//! for. Everything is told by events (a watch, the runtime, a probe); what an event missed is found by a look at every pod, at
//! what belongs to nobody, at the node's object and at the disk, at the original's periods. A worker that panics is started
//! again, and no failure is tried again without a pause ([`pod::duties`]).
//! Decisions are pure functions ([`pod::plan`], [`pod::status`]) of what the runtime shows and what the worker remembers; what
//! must outlive a restart is in the runtime's labels and in the pod's directory, so a new process adopts the pods of the old one.
//!
//! Arrows: `statics` → `pod`, `server` → `pod` → (`volumes`, `env`, `probes`, `images`, …) → (`cri`, `api`). `real` joins the two traits to the
//! runtime, the network and the client.

pub mod admission;
pub mod api;
pub mod certificates;
pub mod cgroups;
pub mod counted;
pub mod counts;
pub mod cri;
pub mod devices;
pub mod dns;
pub mod env;
pub mod evict;
pub mod flags;
pub mod gc;
pub mod graceful;
mod grpc;
pub mod hooks;
pub mod images;
pub mod logs;
pub mod machine;
pub mod node;
pub mod pod;
pub mod pod_resources;
mod pods_api;
pub mod probes;
mod real;
pub mod reserve;
pub mod resources;
pub mod security;
pub mod server;
pub mod settings;
pub mod shortage;
pub mod shutdown;
pub mod start_error;
pub mod statics;
pub mod status_writer;
pub mod util;
pub mod volumes;
pub mod walks;

mod config;
mod run;
#[cfg(test)]
mod testing;

pub use api::PodChange;
pub use config::{Clock, Config, Error, PORT, Tls};
pub use run::{run, run_with};
pub use settings::{Options, Settings};
pub use volumes::purge;
