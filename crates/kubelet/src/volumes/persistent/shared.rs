//! The kubelet's directory as charts know it.
//!
//! Every chart of a driver mounts `/var/lib/kubelet` (or its `pods`, `plugins`, `plugins_registry`) from the host, and the paths that the
//! kubelet names in its calls begin so. Here the directory is the cluster's own, since clusters stand side by side. So for the pods of a
//! cluster that path is their own kubelet's directory: a `hostPath` there is led to it, and drivers are told paths by that name. Another
//! kubelet's directory on the same machine is not to be had by these pods, which is as it should be.
//!
//! So it is with `/var/log/pods`, which who collects logs mounts from the host: it is the cluster's own pods' logs.
//!
//! What a driver mounts in its own container must be seen by the host: the directories are mounts that share what is mounted below them
//! (with systemd they are already, on bare kernels and in containers they are not).

use std::io;
use std::path::{Path, PathBuf};

use ::volume::Root;
use nix::mount::{MsFlags, mount};

use super::{Persistent, mounts};
use crate::config::LOGS_DIR;
use crate::util;

/// Below these drivers mount.
const SHARED: [&str; 2] = ["pods", "plugins"];
/// Where the original's kubelet has the logs of pods.
const LOGS: &str = "/var/log/pods";

impl Persistent {
    /// Where a path of a `hostPath` lies.
    #[must_use]
    pub fn host(&self, path: &Path) -> PathBuf {
        logs(&self.0.root, path).unwrap_or_else(|| Root(self.0.root.clone()).real(path))
    }
}

/// Where a path among the logs of pods lies, if it is one.
fn logs(root: &Path, path: &Path) -> Option<PathBuf> {
    let below = path.strip_prefix(LOGS).ok()?;
    Some(below.components().fold(root.join(LOGS_DIR), |at, part| at.join(part)))
}

/// Makes what is mounted below the kubelet's directories seen by those who have them. Blocks.
///
/// # Errors
/// The kernel refuses.
pub fn share(root: &Path) -> io::Result<()> {
    for name in SHARED {
        let dir = root.join(name);
        util::private_dir(&dir)?;
        let dir = dir.canonicalize()?;
        if mounts::is_shared(&dir)? {
            continue;
        }
        if !mounts::is_mounted(&dir)? {
            // What is mounted below would be hidden: a node that has it there already stays as it is until it is empty.
            if !mounts::below(&dir)?.is_empty() {
                tracing::warn!(dir = %dir.display(), "volumes that drivers mount in their containers are not seen until all that is mounted below is gone");
                continue;
            }
            mount(Some(&dir), &dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_logs_of_pods_are_the_clusters_own() {
        let of = |path: &str| logs(Path::new("/data/kubelet"), Path::new(path));
        assert_eq!(of("/var/log/pods/"), Some("/data/kubelet/logs".into()));
        assert_eq!(of("/var/log/pods/n_p_u/c/0.log"), Some("/data/kubelet/logs/n_p_u/c/0.log".into()));
        assert_eq!((of("/var/log"), of("/var/log/podsmith")), (None, None));
    }

    #[test]
    fn what_is_mounted_below_is_shared_and_can_be_made_so_again() {
        let dir = TempDir::new("shared");
        share(dir.path()).unwrap();
        share(dir.path()).unwrap();
        let real = dir.path().canonicalize().unwrap();
        for name in SHARED {
            assert!(mounts::is_shared(&real.join(name)).unwrap());
        }
        crate::volumes::purge(dir.path()).unwrap();
        assert!(mounts::below(&real).unwrap().is_empty());
    }
}
