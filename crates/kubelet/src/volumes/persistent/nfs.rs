//! `nfs` volumes: an export mounted for one pod by the kernel itself, as upstream's plugin mounts it by the host's program.
//!
//! A server may be dead: only its own pods wait for it, within the limits of a look. What is mounted is the truth, and goes with its pod, by
//! force, whether or not the server answers.

use std::path::Path;

use ::volume::Export;
use k8s_openapi::api::core::v1::{NFSVolumeSource, Pod};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::call::Trouble;
use super::spec::Spec;
use super::{Persistent, mounts, place};
use crate::util;
use crate::volumes::Ready;

impl Persistent {
    /// An `nfs` volume, of the pod itself or of its claim.
    pub(super) async fn nfs(&self, pod: &Pod, spec: &Spec, v: &NFSVolumeSource) -> Result<Ready, Trouble> {
        let failed = |e: String| Trouble::mount("MountVolume.SetUp", &spec.name, e);
        let found =
            dial::addresses(&v.server, dial::ANSWER_MAX).await.map_err(|e| failed(format!("mount failed: the NFS server {} is not found: {e}", v.server)))?;
        let address = *found.first().ok_or_else(|| failed(format!("mount failed: the NFS server {} has no address", v.server)))?;
        let readonly = spec.readonly || v.read_only == Some(true);
        let export = Export::new(&v.server, &v.path, address, &spec.options, readonly);
        let uid = util::uid(pod);
        let at = self.0.places.export(uid, &spec.name);
        let place = at.clone();
        self.0.looks.look(uid, move || mount_at(&export, &place)).await.map_err(failed)?;
        Ok(Ready { path: at, readonly, ..Ready::default() })
    }

    /// Takes away a pod's exports. Blocks, but not on their servers.
    pub(super) fn drop_exports(&self, uid: &str) -> std::io::Result<()> {
        for name in self.0.places.exports(uid) {
            let at = self.0.places.export(uid, &name);
            while mounts::is_mounted(&at)? {
                let force = if mounts::is_alone(&at)? { MntFlags::MNT_FORCE } else { MntFlags::empty() };
                umount2(&at, MntFlags::MNT_DETACH | force)?;
            }
            place::absent(std::fs::remove_dir(&at))?;
        }
        Ok(())
    }
}

fn mount_at(export: &Export, at: &Path) -> Result<(), String> {
    if mounts::is_mounted(at).map_err(|e| e.to_string())? {
        return Ok(());
    }
    place::make(at).map_err(|e| e.to_string())?;
    let attempt = |data: &String| mount(Some(export.source.as_str()), at, Some("nfs"), export.flags | MsFlags::MS_NODEV, Some(data.as_str()));
    let mut last = Ok(());
    for data in &export.data {
        last = attempt(data).map_err(|error| (error, data));
        match last {
            Err((error, _)) if Export::is_of_version(error) => {}
            _ => break,
        }
    }
    last.map_err(|(error, data)| {
        let _ = std::fs::remove_dir(at);
        let why = if error == nix::errno::Errno::ENODEV { "unknown filesystem type 'nfs': this kernel has no NFS".into() } else { error.to_string() };
        format!("mount failed: {why}\nMounting arguments: -t nfs -o {data} {} {}", export.source, at.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_it_says_so() {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if known.lines().any(|line| line.ends_with("\tnfs")) || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: this kernel has NFS, or we are not root");
            return;
        }
        let at = std::env::temp_dir().join(format!("knarr-nfs-{}", std::process::id()));
        let export = Export::new("127.0.0.1", "/x", std::net::IpAddr::from([127, 0, 0, 1]), &[], false);
        let why = mount_at(&export, &at).unwrap_err();
        assert!(why.starts_with("mount failed: unknown filesystem type 'nfs'") && why.contains("vers=4.2,addr=127.0.0.1 127.0.0.1:/x"), "{why}");
        assert!(!at.exists());
    }
}
