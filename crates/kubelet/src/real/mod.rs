//! The joints: the kubelet's narrow traits over the client, the built-in runtime and the pod network.

mod api;
mod net;
mod runtime;

pub use api::{RealApi, pod_changes};
pub use net::RealNet;
pub use runtime::RealRuntime;
