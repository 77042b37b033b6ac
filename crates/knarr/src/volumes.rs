//! `knarr volume`. What is told is read from the disk, for all nodes of this machine, so a cluster need not run.
//!
//! A volume outlives everything but the deletion of its PersistentVolume, and then, too, where that said `Retain`, or where the API's objects
//! were lost: nobody knows it any more but the disk. Such a one is removed by name.

use crate::{cli::Volume, cluster::Cluster, log::log, nodes, preflight, progress::megabytes};
use ::volume::{
    Code,
    disk::{self, Disk},
};
use anyhow::{Context as _, bail};
use client::{Client, ListParams, Meta as _};
use k8s_openapi::api::core::v1::PersistentVolume;
use machinery::quantity::{Format, Quantity};
use std::path::{Path, PathBuf};

/// Where a cluster's volumes are.
pub fn directory(data: &Path) -> PathBuf {
    data.join("volumes")
}

/// Opens a cluster's volumes. What a crash left of them is removed first, which takes its time.
pub async fn open(directory: PathBuf, node: String) -> anyhow::Result<Disk> {
    let place = directory.clone();
    let opened = tokio::task::spawn_blocking(move || Disk::open(&place, &node)).await?;
    opened.with_context(|| format!("the volumes in {}", directory.display()))
}

/// Runs the command.
pub async fn run(volume: Volume) -> anyhow::Result<()> {
    log();
    preflight::root()?;
    match volume {
        Volume::List { which } => {
            let cluster = Cluster::find(&which.name, which.data_dir.as_deref())?;
            let mut found = Vec::new();
            for directory in directories(&cluster) {
                found.extend(disk::list(&directory)?);
            }
            print!("{}", table(&found));
        }
        Volume::Rm { volumes, force, which } => {
            let cluster = Cluster::find(&which.name, which.data_dir.as_deref())?;
            let admin = if force { None } else { Some(nodes::admin(&cluster).context("whether PersistentVolumes stand for them (--force does not ask)")?) };
            for name in &volumes {
                if let Some(admin) = &admin {
                    is_nobodys(admin, name).await?;
                }
                let (name, all) = (name.clone(), directories(&cluster));
                println!("{}", tokio::task::spawn_blocking(move || remove(&all, &name)).await??);
            }
        }
    }
    Ok(())
}

/// Where the volumes of the cluster's nodes of this machine are.
fn directories(cluster: &Cluster) -> Vec<PathBuf> {
    let further = cluster.node_numbers().into_iter().map(|number| directory(&cluster.node(number).data));
    [directory(&cluster.data)].into_iter().chain(further).collect()
}

/// Refuses a volume that a PersistentVolume stands for, whatever it is called.
async fn is_nobodys(admin: &Client, handle: &str) -> anyhow::Result<()> {
    let all = admin.all::<PersistentVolume>().list(&ListParams::default()).await.context("which PersistentVolumes there are")?;
    match all.items().iter().find(|volume| stands_for(volume, handle)) {
        Some(volume) => bail!("the PersistentVolume {} stands for {handle}: `kubectl delete pv {0}` comes first", volume.name()),
        None => Ok(()),
    }
}

fn stands_for(volume: &PersistentVolume, handle: &str) -> bool {
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    csi.is_some_and(|csi| csi.driver == disk::NAME && csi.volume_handle == handle)
}

/// Removes a volume, wherever it is; says so.
fn remove(directories: &[PathBuf], handle: &str) -> anyhow::Result<String> {
    for directory in directories {
        match disk::remove(directory, handle) {
            Err(failure) if failure.code == Code::NotFound => {}
            removed => return removed.map(|()| format!("{handle} removed")).with_context(|| format!("{handle} stays")),
        }
    }
    bail!("there is no volume {handle:?} on this machine: `knarr volume list` tells those that are")
}

fn table(volumes: &[disk::Found]) -> String {
    let mut text = format!("{:<40} {:>10} {:>10} {:<20} {}\n", "CLAIM", "SIZE", "USED", "NODE", "PATH");
    for found in volumes {
        let (meta, claim) = (&found.meta, &found.meta.claim);
        let size = Quantity::from_value(i64::try_from(meta.bytes).unwrap_or(i64::MAX), Format::Binary).to_string();
        let claim = format!("{}/{}", claim.namespace, claim.name);
        text.push_str(&format!("{claim:<40} {size:>10} {:>10} {:<20} {}\n", megabytes(found.used), meta.node, found.path.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{Claim, Found, Kind, Meta};

    #[test]
    fn a_volume_is_a_line() {
        let claim = Claim { namespace: "shop".into(), name: "data-db-0".into(), uid: "u".into() };
        let meta = Meta { handle: "pvc-u".into(), claim, node: "n1".into(), bytes: 1 << 30, kind: Kind::Block };
        let text = table(&[Found { meta, path: "/data/volumes/pvc-u".into(), used: 12_345_678, kept: true }]);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words, [vec!["CLAIM", "SIZE", "USED", "NODE", "PATH"], vec!["shop/data-db-0", "1Gi", "12.3", "MB", "n1", "/data/volumes/pvc-u"]]);
    }

    #[test]
    fn a_volume_is_somebodys_by_its_handle() {
        let volume = |driver: &str| -> PersistentVolume {
            let csi = serde_json::json!({"driver": driver, "volumeHandle": "pvc-u"});
            serde_json::from_value(serde_json::json!({"metadata": {"name": "by-hand"}, "spec": {"csi": csi}})).unwrap()
        };
        assert!(stands_for(&volume(disk::NAME), "pvc-u"));
        assert!(
            !stands_for(&volume(disk::NAME), "pvc-v")
                && !stands_for(&volume("other.example.com"), "pvc-u")
                && !stands_for(&PersistentVolume::default(), "pvc-u")
        );
    }

    #[test]
    fn a_volume_that_is_nowhere_is_told() {
        let nowhere = std::env::temp_dir().join(format!("knarr-no-volumes-{}", std::process::id()));
        let error = remove(&[nowhere], "pvc-u").unwrap_err().to_string();
        assert!(error.contains("there is no volume \"pvc-u\""), "{error}");
    }
}
