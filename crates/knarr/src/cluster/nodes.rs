//! The further nodes of a cluster on this machine, as they are wished for: `DATA/nodes.json`.
//!
//! Commands change the file under a lock, and the process that runs the cluster hears of it from the kernel and does what is wished
//! (`supervisor.rs`); what was wished outlives both. A node that is to go is marked so and stays in the file until nothing of it is
//! left, so that a crash in between is gone on from.
//!
//! A node's directories are the cluster's in small, below `nodes/NUMBER`: its own lock says whether it runs, and who runs it.

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs::File, io::ErrorKind, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use super::{Cluster, files};
use crate::host::{NAME_MAX, cut};

/// The file of wishes.
pub(super) const FILE: &str = "nodes.json";
/// Where the nodes' directories are, below the cluster's.
pub(super) const DIRECTORY: &str = "nodes";
/// The lock over changes of the file, in the volatile directory.
const LOCK: &str = "nodes.lock";
/// The file on which a node's network namespace is mounted, in its volatile directory.
const SPACE: &str = "netns";
/// The first node, which is the host's own network namespace.
pub const FIRST: u32 = 1;
/// More nodes than this would only share one machine's memory among kubelets.
pub const NODES_MAX: u32 = 100;

/// A further node as it is wished for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Which of the nodes it is: the first is number 1, and never here.
    pub number: u32,
    /// Its name in the cluster.
    pub name: String,
    /// Labels besides those of every node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It is to go, with all that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

impl Cluster {
    /// The further nodes that are wished for.
    pub fn wishes(&self) -> anyhow::Result<Vec<Wish>> {
        let path = self.data.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is not what knarr wrote", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The further nodes that are wished for, and what keeps anybody from changing that as long as it is held.
    pub fn held_wishes(&self) -> anyhow::Result<(Vec<Wish>, Flock<File>)> {
        files::private(&self.run).with_context(|| format!("cannot make {}", self.run.display()))?;
        let path = self.run.join(LOCK);
        let file =
            File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(|| format!("cannot lock {}", path.display()))?;
        Ok((self.wishes()?, lock))
    }

    /// Changes what is wished for; nobody else does meanwhile. Blocks for milliseconds.
    pub fn change_wishes<T>(&self, change: impl FnOnce(&mut Vec<Wish>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let (mut wishes, _lock) = self.held_wishes()?;
        let before = wishes.clone();
        let told = change(&mut wishes)?;
        if wishes != before {
            wishes.sort_by_key(|wish| wish.number);
            files::write(&self.data.join(FILE), &serde_json::to_vec_pretty(&wishes)?)?;
        }
        Ok(told)
    }

    /// The directories of a further node. Its name is also the path of its cgroup, below the cluster's.
    pub fn node(&self, number: u32) -> Cluster {
        let below = |directory: &PathBuf| directory.join(DIRECTORY).join(number.to_string());
        Cluster { name: format!("{}/node-{number}", self.name), data: below(&self.data), run: below(&self.run) }
    }

    /// Makes a further node's directories.
    pub fn make(&self) -> anyhow::Result<()> {
        [&self.data, &self.run].into_iter().try_for_each(|path| files::private(path).with_context(|| format!("cannot make {}", path.display())))
    }

    /// The file on which this node's network namespace is mounted.
    pub fn space(&self) -> PathBuf {
        self.run.join(SPACE)
    }

    /// The numbers of all further nodes of which there is something: wished for or left by a crash.
    pub fn node_numbers(&self) -> Vec<u32> {
        let left = [&self.data, &self.run].into_iter().flat_map(|directory| std::fs::read_dir(directory.join(DIRECTORY)).into_iter().flatten().flatten());
        let left = left.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // One whose wishes cannot be read can be taken away all the same.
        let mut numbers: Vec<u32> = self.wishes().unwrap_or_default().into_iter().map(|wish| wish.number).chain(left).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// The name of a further node of a host.
pub fn name(host: &str, number: u32) -> String {
    let number = format!("-{number}");
    format!("{}{number}", cut(host, NAME_MAX - number.len()))
}

/// Adds wishes for so many nodes of a host, with the lowest numbers that `free` grants; those, with their names.
pub fn add(
    wishes: &mut Vec<Wish>,
    count: u32,
    host: &str,
    labels: &BTreeMap<String, String>,
    free: impl Fn(u32) -> bool,
) -> anyhow::Result<Vec<(u32, String)>> {
    let mut names = Vec::new();
    for _ in 0..count {
        let taken = |number: &u32| wishes.iter().any(|wish| wish.number == *number);
        let number = (FIRST + 1..=NODES_MAX).find(|number| !taken(number) && free(*number));
        let number = number.context("no further node has room: the pods' range has no free part, or the cluster has as many as it may have")?;
        let name = name(host, number);
        wishes.push(Wish { number, name: name.clone(), labels: labels.clone(), leaving: false });
        names.push((number, name));
    }
    Ok(names)
}

/// Wishes for so many nodes in all, with numbers as for [`add`]; more than that are not taken away by the way.
pub fn at_least(wishes: &mut Vec<Wish>, nodes: u32, host: &str, free: impl Fn(u32) -> bool) -> anyhow::Result<()> {
    let there = u32::try_from(wishes.iter().filter(|wish| !wish.leaving).count()).unwrap_or(NODES_MAX) + FIRST;
    if there > nodes {
        bail!("the cluster has {there} nodes: take some away by `knarr node rm`, or leave --nodes out");
    }
    add(wishes, nodes - there, host, &BTreeMap::new(), free).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Plan;

    #[test]
    fn numbers_are_used_again_and_nobody_is_taken_away_by_the_way() {
        let mut wishes = Vec::new();
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let named = |numbers: &[u32]| numbers.iter().map(|number| (*number, format!("h-{number}"))).collect::<Vec<_>>();
        assert_eq!(add(&mut wishes, 3, "h", &labels, |n| n != 3).unwrap(), named(&[2, 4, 5]));
        wishes.retain(|wish| wish.number != 4);
        assert_eq!(add(&mut wishes, 1, "h", &BTreeMap::new(), |n| n != 3).unwrap(), named(&[4]));
        let plan = Plan::nth("c", std::path::Path::new("/d"), 0);
        let range = |number| plan.parts(number).ok().map(|parts| parts[0].pod_cidr.to_string());
        assert_eq!([range(FIRST), range(2), range(0)], [Some("10.244.0.0/24".to_owned()), Some("10.244.1.0/24".to_owned()), None]);
        let inside = |number| plan.parts(number).is_ok();
        assert_eq!(name(&"a".repeat(NAME_MAX), 12), format!("{}-12", "a".repeat(NAME_MAX - 3)));
        assert!(at_least(&mut wishes, 3, "h", inside).unwrap_err().to_string().contains("has 4 nodes"));
        at_least(&mut wishes, 5, "h", inside).unwrap();
        assert_eq!(wishes.iter().map(|wish| wish.number).collect::<Vec<_>>(), [2, 5, 4, 3]);
        assert!(wishes[0].labels == labels && wishes[2].labels.is_empty());
        wishes[3].leaving = true;
        at_least(&mut wishes, 5, "h", inside).unwrap();
        assert_eq!(wishes.last().map(|wish| wish.number), Some(6), "one that goes is none, and its number is not free yet");
        let narrow = Plan { pods_prefix: 23, ..plan.clone() };
        let inside = |number| narrow.parts(number).is_ok();
        assert!(at_least(&mut Vec::new(), 3, "h", inside).is_err(), "a range of two parts has two nodes");
        at_least(&mut Vec::new(), 2, "h", inside).unwrap();
    }

    #[test]
    fn what_is_wished_for_is_kept_and_what_was_left_is_found() {
        let folder = std::env::temp_dir().join(format!("knarr-wishes-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        let cluster = Cluster { name: "w".into(), data: folder.join("data"), run: folder.join("run") };
        std::fs::create_dir_all(&cluster.data).unwrap();
        assert_eq!(cluster.wishes().unwrap(), []);
        cluster.change_wishes(|wishes| add(wishes, 1, "h", &BTreeMap::new(), |_| true)).unwrap();
        assert!(
            cluster
                .change_wishes::<()>(|wishes| {
                    wishes.clear();
                    bail!("no")
                })
                .is_err()
        );
        assert_eq!(cluster.wishes().unwrap().len(), 1, "a change that is refused changes nothing");
        std::fs::create_dir_all(cluster.node(7).run).unwrap();
        assert_eq!(cluster.node_numbers(), [2, 7]);
        let node = cluster.node(2);
        assert_eq!((node.name.as_str(), node.space()), ("w/node-2", folder.join("run/nodes/2/netns")));
        std::fs::write(cluster.data.join(FILE), "{").unwrap();
        assert!(cluster.wishes().is_err(), "what cannot be read is not taken for nothing");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
