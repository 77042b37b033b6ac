//! `knarr volume`. What is told is read from the disk, for all nodes of this machine, so a cluster need not run.

use crate::{cli::Volume, cluster::Cluster, log::log, preflight, progress::megabytes};
use ::volume::disk::Disk;
use anyhow::Context as _;
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
pub fn run(volume: &Volume) -> anyhow::Result<()> {
    log();
    preflight::root()?;
    match volume {
        Volume::List { which } => {
            let cluster = Cluster::find(&which.name, which.data_dir.as_deref())?;
            let mut found = volume::disk::list(&directory(&cluster.data))?;
            for number in cluster.node_numbers() {
                found.extend(volume::disk::list(&directory(&cluster.node(number).data))?);
            }
            print!("{}", table(&found));
        }
    }
    Ok(())
}

fn table(volumes: &[volume::disk::Found]) -> String {
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
    use volume::disk::{Claim, Found, Kind, Meta};

    #[test]
    fn a_volume_is_a_line() {
        let claim = Claim { namespace: "shop".into(), name: "data-db-0".into(), uid: "u".into() };
        let meta = Meta { handle: "pvc-u".into(), claim, node: "n1".into(), bytes: 1 << 30, kind: Kind::Block };
        let text = table(&[Found { meta, path: "/data/volumes/pvc-u".into(), used: 12_345_678, kept: true }]);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words, [vec!["CLAIM", "SIZE", "USED", "NODE", "PATH"], vec!["shop/data-db-0", "1Gi", "12.3", "MB", "n1", "/data/volumes/pvc-u"]]);
    }
}
