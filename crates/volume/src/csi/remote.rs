//! A driver behind a socket.
//!
//! It sees the host's files from a container, where the kubelet's directory is at [`SHOWN`] as every chart has it: paths are told by that
//! name, whatever the directory is called here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use prost::Message;

use super::channel::Channel;
use super::wire::{self, AccessMode, AccessType, Empty, MountVolume, VolumeCapability};
use crate::driver::{Abilities, Access, Driver, Expand, Failure, Info, Mode, Publish, Secrets, Stage, Stats, Usage, Volume};

/// For one call (upstream's `csiTimeout`).
pub(super) const CALL_MAX: Duration = Duration::from_secs(120);
/// Where charts find the kubelet's directory.
pub const SHOWN: &str = "/var/lib/kubelet";
/// More keys than that a driver has no use for, and the node would be labelled with each.
const TOPOLOGY_MAX: usize = 64;

/// The kubelet's directory by its two names.
#[derive(Clone, Debug)]
pub struct Root(pub PathBuf);

impl Root {
    /// A path as drivers know it.
    #[must_use]
    pub fn shown(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.0).map_or_else(|_| path.to_owned(), |rest| below(Path::new(SHOWN), rest))
    }

    /// A path of the host, of one that drivers (or charts) named.
    #[must_use]
    pub fn real(&self, path: &Path) -> PathBuf {
        path.strip_prefix(SHOWN).map_or_else(|_| path.to_owned(), |rest| below(&self.0, rest))
    }
}

fn below(root: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { root.to_owned() } else { root.join(rest) }
}

/// A driver behind a socket.
#[derive(Clone, Debug)]
pub struct Remote {
    channel: Channel,
    root: Root,
    abilities: Abilities,
}

impl Remote {
    /// Asks a driver what it can do.
    pub async fn meet(socket: &Path, root: &Root) -> Result<Self, Failure> {
        let channel = Channel::new(socket);
        let told: wire::NodeGetCapabilitiesResponse = channel.call("csi.v1.Node/NodeGetCapabilities", &Empty {}, CALL_MAX).await?;
        let mut can = Abilities::default();
        for one in told.capabilities.iter().filter_map(|c| c.rpc.as_ref()) {
            match one.kind {
                1 => can.stage = true,
                2 => can.stats = true,
                3 => can.expand = true,
                5 => can.single_node_multi_writer = true,
                6 => can.mount_group = true,
                _ => {}
            }
        }
        Ok(Self { channel, root: root.clone(), abilities: can })
    }

    fn path(&self, path: &Path) -> String {
        self.root.shown(path).display().to_string()
    }

    fn optional(&self, path: Option<&Path>) -> String {
        path.map(|p| self.path(p)).unwrap_or_default()
    }

    async fn call<Q: Message, A: Message + Default>(&self, method: &str, request: &Q) -> Result<A, Failure> {
        self.channel.call(&format!("csi.v1.Node/{method}"), request, CALL_MAX).await
    }
}

fn capability(volume: &Volume) -> VolumeCapability {
    let kind = match &volume.mode {
        Mode::Block => AccessType::Block(Empty {}),
        Mode::Filesystem { fs_type, options, group } => AccessType::Mount(MountVolume {
            fs_type: fs_type.clone(),
            mount_flags: options.clone(),
            volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
        }),
    };
    let mode = match volume.access {
        Access::SingleNodeWriter => 1,
        Access::MultiNodeReaderOnly => 3,
        Access::MultiNodeMultiWriter => 5,
        Access::SingleNodeSingleWriter => 6,
        Access::SingleNodeMultiWriter => 7,
    };
    VolumeCapability { access_type: Some(kind), access_mode: Some(AccessMode { mode }) }
}

/// A number that a driver told; none below nothing.
fn amount(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

#[async_trait]
impl Driver for Remote {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    async fn info(&self) -> Result<Info, Failure> {
        let told: wire::NodeGetInfoResponse = self.call("NodeGetInfo", &Empty {}).await?;
        let topology = told.accessible_topology.map(|t| t.segments).unwrap_or_default();
        Ok(Info { node_id: told.node_id, max_volumes: told.max_volumes_per_node, topology: topology.into_iter().take(TOPOLOGY_MAX).collect() })
    }

    async fn stage(&self, s: Stage<'_>) -> Result<(), Failure> {
        let request = wire::NodeStageVolumeRequest {
            volume_id: s.volume.handle.clone(),
            publish_context: s.volume.attached.clone(),
            staging_target_path: self.path(s.at),
            volume_capability: Some(capability(s.volume)),
            secrets: s.secrets.0.clone(),
            volume_context: s.volume.attributes.clone(),
        };
        self.call::<_, Empty>("NodeStageVolume", &request).await.map(drop)
    }

    async fn unstage(&self, handle: &str, at: &Path) -> Result<(), Failure> {
        let request = wire::NodeUnstageVolumeRequest { volume_id: handle.to_owned(), staging_target_path: self.path(at) };
        self.call::<_, Empty>("NodeUnstageVolume", &request).await.map(drop)
    }

    async fn publish(&self, p: Publish<'_>) -> Result<(), Failure> {
        let request = wire::NodePublishVolumeRequest {
            volume_id: p.volume.handle.clone(),
            publish_context: p.volume.attached.clone(),
            staging_target_path: self.optional(p.staged),
            target_path: self.path(p.target),
            volume_capability: Some(capability(p.volume)),
            readonly: p.readonly,
            secrets: p.secrets.0.clone(),
            volume_context: p.volume.attributes.clone(),
        };
        self.call::<_, Empty>("NodePublishVolume", &request).await.map(drop)
    }

    async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Failure> {
        let request = wire::NodeUnpublishVolumeRequest { volume_id: handle.to_owned(), target_path: self.path(target) };
        self.call::<_, Empty>("NodeUnpublishVolume", &request).await.map(drop)
    }

    async fn expand(&self, e: Expand<'_>) -> Result<u64, Failure> {
        let Secrets(secrets) = e.secrets.clone();
        let request = wire::NodeExpandVolumeRequest {
            volume_id: e.volume.handle.clone(),
            volume_path: self.path(e.at),
            capacity_range: Some(wire::CapacityRange { required_bytes: i64::try_from(e.bytes).unwrap_or(i64::MAX), limit_bytes: 0 }),
            staging_target_path: self.optional(e.staged),
            volume_capability: Some(capability(e.volume)),
            secrets,
        };
        let told: wire::NodeExpandVolumeResponse = self.call("NodeExpandVolume", &request).await?;
        Ok(amount(told.capacity_bytes))
    }

    async fn stats(&self, handle: &str, at: &Path, staged: Option<&Path>) -> Result<Stats, Failure> {
        let request = wire::NodeGetVolumeStatsRequest { volume_id: handle.to_owned(), volume_path: self.path(at), staging_target_path: self.optional(staged) };
        let told: wire::NodeGetVolumeStatsResponse = self.call("NodeGetVolumeStats", &request).await?;
        let mut stats = Stats::default();
        for usage in told.usage {
            let one = Usage { total: amount(usage.total), used: amount(usage.used), available: amount(usage.available) };
            match usage.unit {
                1 => stats.bytes = Some(one),
                2 => stats.inodes = Some(one),
                _ => {}
            }
        }
        Ok(stats)
    }
}
