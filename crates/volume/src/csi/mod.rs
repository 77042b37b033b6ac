//! Drivers behind sockets, which speak CSI 1.12 (github.com/container-storage-interface/spec).
//!
//! `registry` finds them, by the kubelet's plugin registration; `remote` is such a driver as a [`crate::Driver`]; `channel` speaks gRPC, and
//! `wire` has the messages. `devices` are drivers of devices, which register in the same place. A driver is another's program: whatever it
//! answers is bounded, whatever it does not answer has an end.

mod channel;
mod devices;
mod registry;
mod remote;
// The names of fields are the specification's, and speak for themselves.
#[allow(missing_docs)]
pub mod wire;

#[cfg(test)]
mod tests;

pub use channel::Channel;
pub use devices::{
    Claims, DeviceClaim, DeviceHealth, DeviceName, DevicePlugin, DevicePlugins, HealthReport, PreparedAll, PreparedClaim, PreparedDevice, UnpreparedAll,
    UnpreparedClaim,
};
pub use registry::{Installs, Registry};
pub use remote::{Remote, Root, SHOWN};
