//! The node service: a volume is bound to its place of staging, and from there to each pod; a device is its image's.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use bytes::Bytes;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use runtime::block;

use crate::controller::ATTACHED_BY;
use crate::grpc::{Answer, done, internal, message};
use crate::state::Found;
use crate::wire::{self, AccessType};
use crate::{Driver, decoded};

/// What the kubelet tells of a volume that lives with its pod.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

fn is_mounted(at: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().any(|l| l.split(' ').nth(4) == at.to_str())
}

fn bind(from: &Path, to: &Path, readonly: bool) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    if readonly {
        mount(None::<&str>, to, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, None::<&str>)?;
    }
    Ok(())
}

fn unmount(at: &Path) -> nix::Result<()> {
    while is_mounted(at) {
        umount2(at, MntFlags::empty())?;
    }
    Ok(())
}

/// What is not there need not go.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

impl Driver {
    pub(crate) fn node(&self, call: &str, body: Bytes) -> Answer {
        match call {
            "NodeGetCapabilities" => {
                let one = |kind| wire::NodeServiceCapability { rpc: Some(wire::Rpc { kind }) };
                message(&wire::NodeGetCapabilitiesResponse { capabilities: [1, 2, 3, 5].map(one).to_vec() })
            }
            "NodeGetInfo" => message(&wire::NodeGetInfoResponse {
                node_id: self.node.clone(),
                max_volumes_per_node: self.volumes_max,
                accessible_topology: Some(self.topology()),
            }),
            "NodeStageVolume" => self.stage(decoded(body)?),
            "NodeUnstageVolume" => {
                let asked: wire::NodeUnstageVolumeRequest = decoded(body)?;
                unmount(Path::new(&asked.staging_target_path)).map_err(internal)?;
                match self.state.find(&asked.volume_id) {
                    Ok(volume) => volume.detach().and_then(|()| done()),
                    Err((5, _)) => done(),
                    Err(error) => Err(error),
                }
            }
            "NodePublishVolume" => self.publish(decoded(body)?),
            "NodeUnpublishVolume" => self.unpublish(&decoded(body)?),
            "NodeExpandVolume" => {
                let asked: wire::NodeExpandVolumeRequest = decoded(body)?;
                let volume = self.state.find(&asked.volume_id)?;
                if let Some(device) = volume.device()? {
                    device.take_size().map_err(internal)?;
                }
                message(&wire::NodeExpandVolumeResponse { capacity_bytes: i64::try_from(volume.bytes()?).unwrap_or(i64::MAX) })
            }
            "NodeGetVolumeStats" => self.stats(&decoded(body)?),
            other => Err((12, format!("unknown method {other}"))),
        }
    }

    fn stage(&self, asked: wire::NodeStageVolumeRequest) -> Answer {
        let volume = self.state.find(&asked.volume_id)?;
        if self.attaches && asked.publish_context.get(ATTACHED_BY) != Some(&self.name) {
            return Err((9, format!("volume {} was not attached", asked.volume_id)));
        }
        let at = Path::new(&asked.staging_target_path);
        if volume.is_block() {
            volume.attach()?;
        } else if !is_mounted(at) {
            bind(&volume.data(), at, false).map_err(internal)?;
        }
        done()
    }

    fn publish(&self, asked: wire::NodePublishVolumeRequest) -> Answer {
        let at = Path::new(&asked.target_path);
        let ephemeral = asked.volume_context.get(EPHEMERAL).is_some_and(|v| v == "true");
        let volume = if ephemeral { self.state.make(&asked.volume_id, false, 0, None)? } else { self.state.find(&asked.volume_id)? };
        let wants_block = matches!(asked.volume_capability.and_then(|c| c.access_type), Some(AccessType::Block(_)));
        if wants_block != volume.is_block() {
            return Err((3, format!("volume {} is of the other mode", asked.volume_id)));
        }
        if is_mounted(at) {
            return done();
        }
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent).map_err(internal)?;
        }
        if volume.is_block() {
            let device = volume.device()?.ok_or((9, format!("volume {} is not staged", asked.volume_id)))?;
            OpenOptions::new().write(true).create(true).truncate(false).open(at).map_err(internal)?;
            return bind(&device.path(), at, false).map_err(internal).and_then(|()| done());
        }
        let staged = Path::new(&asked.staging_target_path);
        if !ephemeral && !is_mounted(staged) {
            return Err((9, format!("volume {} is not staged at {}", asked.volume_id, staged.display())));
        }
        fs::create_dir_all(at).map_err(internal)?;
        bind(if ephemeral { volume.data() } else { staged.to_owned() }.as_path(), at, asked.readonly).map_err(internal)?;
        done()
    }

    fn unpublish(&self, asked: &wire::NodeUnpublishVolumeRequest) -> Answer {
        let at = Path::new(&asked.target_path);
        unmount(at).map_err(internal)?;
        let gone = if at.is_dir() { fs::remove_dir(at) } else { fs::remove_file(at) };
        absent(gone).map_err(internal)?;
        // A volume that lives with its pod is named after it, and was never made by a claim.
        if asked.volume_id.starts_with("csi-") {
            self.state.remove(&asked.volume_id)?;
        }
        done()
    }

    fn stats(&self, asked: &wire::NodeGetVolumeStatsRequest) -> Answer {
        let volume: Found = self.state.find(&asked.volume_id)?;
        let at = Path::new(&asked.volume_path);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if volume.is_block() {
            let device = fs::File::open(at).and_then(|f| block::device_bytes(&f)).map_err(internal)?;
            let usage = vec![wire::VolumeUsage { total: number(device), unit: 1, ..wire::VolumeUsage::default() }];
            return message(&wire::NodeGetVolumeStatsResponse { usage });
        }
        let s = statvfs(at).map_err(internal)?;
        let bytes = |blocks: u64| number(blocks.saturating_mul(s.fragment_size()));
        let used = bytes(s.blocks() - s.blocks_free());
        let usage = vec![
            wire::VolumeUsage { total: bytes(s.blocks()), used, available: bytes(s.blocks_available()), unit: 1 },
            wire::VolumeUsage { total: number(s.files()), used: number(s.files() - s.files_free()), available: number(s.files_free()), unit: 2 },
        ];
        message(&wire::NodeGetVolumeStatsResponse { usage })
    }
}
