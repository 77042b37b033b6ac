//! Volumes on a node: what a driver does with them, and which drivers there are.
//!
//! A volume is staged once a node, published once a pod, grown and measured while it is in use, and wiped when its claim's
//! policy says so. Whoever does that is a [`Driver`], of the shape that CSI's node service has, whether it is built in or a
//! process behind a socket. The kubelet knows drivers by their names alone ([`Drivers`]), and keeps no volume for known that it
//! does not see on the host.

mod blank;
pub mod csi;
pub mod disk;
mod driver;
mod drivers;
pub mod ext4;
mod nfs;
mod options;
pub mod provision;

pub use blank::{is_blank, make_ext4};
pub use csi::{DeviceClaim, DevicePlugin, DevicePlugins, HealthReport, Installs, PreparedDevice, Registry, Root};
pub use driver::{Abilities, Access, Code, Driver, Expand, Failure, Info, Mode, Publish, Secrets, Stage, Stats, Usage, Volume};
pub use drivers::Drivers;
pub use nfs::Export;
pub use options::mount_options;
