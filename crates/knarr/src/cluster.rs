//! One cluster on this machine: its name, its directories, and who runs it.
//!
//! What knarr did not make is not knarr's. A data directory carries a mark with the cluster's name (`directory.rs`), made
//! before anything else in it; a directory without one that is not empty is refused, by `up` and by `down`, whatever
//! `--data-dir` says. Both directories are found by their real paths, once, so that mounts below them are found by
//! comparing. What stands on the host at the moment is known by the volatile directory, which a reboot empties together
//! with everything that it tells of.

mod agent;
mod directory;
mod entered;
mod files;
mod holder;
pub mod nodes;
mod plan;
#[cfg(test)]
mod tests;

pub use agent::Joined;
pub use directory::{begin_removal, remove_known};
pub use holder::{Lock, Work};
pub use plan::{DOMAIN, NodePrefixes, Plan, Ranges, list};

use crate::{
    kubeconfig::{self, Written},
    preflight::CGROUPS,
};
use anyhow::bail;
use files::RUN_ROOT;
use std::path::{Path, PathBuf};

/// A node's log, in its data directory.
pub const LOG: &str = "knarr.log";

/// Where clusters' data lies unless `--data-dir` says otherwise.
const DATA_ROOT: &str = "/var/lib/knarr";

/// The directories of a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name, which everything on the host carries.
    pub name: String,
    /// What outlives the processes.
    pub data: PathBuf,
    /// What does not outlive the machine's run.
    pub run: PathBuf,
}

impl Cluster {
    /// The cluster of this name. A running one knows where its data is; `data_dir` says it for one that is not.
    pub fn find(name: &str, data_dir: Option<&Path>) -> anyhow::Result<Cluster> {
        let run = directory::real(&Path::new(RUN_ROOT).join(name))?;
        let known = plan::read(&run.join(plan::FILE)).map(|p| directory::real(&p.data)).transpose()?;
        let given = data_dir.map(directory::real).transpose()?;
        if let (Some(known), Some(given)) = (&known, &given)
            && known != given
            && holder::holder(&run).is_some()
        {
            bail!("the cluster {name:?} runs with its data in {}, not in {}: choose another --name", known.display(), given.display());
        }
        let data = match given.or(known) {
            Some(data) => data,
            None => directory::real(&Path::new(DATA_ROOT).join(name))?,
        };
        Ok(Cluster { name: name.to_owned(), data, run })
    }

    /// Makes the data directory, for root alone, and marks it as this cluster's. One that is somebody else's is refused.
    pub fn claim(&self) -> anyhow::Result<()> {
        directory::claim(&self.data, &self.name, self.has_usual_place())
    }

    fn has_usual_place(&self) -> bool {
        self.data == Path::new(DATA_ROOT).join(&self.name)
    }

    /// Whether there is anything of the cluster; an error if its data directory is another's.
    pub fn exists(&self) -> anyhow::Result<bool> {
        Ok(self.has_data()? || self.run.exists())
    }

    /// Whether its data directory is there and its own; an error if it is another's.
    fn has_data(&self) -> anyhow::Result<bool> {
        directory::owned(&self.data, &self.name, self.has_usual_place())
    }

    /// The cluster's addresses: those of its first start, or free ones. The caller holds [`Plan::alone`]'s lock from before
    /// this until they are kept.
    pub fn plan(&self, ranges: &Ranges) -> anyhow::Result<Plan> {
        plan::choose(&self.name, &self.data, ranges, &plan::others(&self.name))
    }

    /// What is kept of it.
    pub fn kept(&self) -> Option<Plan> {
        plan::read(&self.data.join(plan::FILE)).or_else(|| plan::read(&self.run.join(plan::FILE)))
    }

    /// By what its entries in kubeconfigs are known: what was remembered, and what its keys say now.
    pub fn contexts(&self) -> Vec<Written> {
        let remembered = self.kept().map(|plan| plan.contexts).unwrap_or_default();
        kubeconfig::known(remembered, &self.data.join("pki"))
    }

    /// Writes the plan where this and other starts find it.
    pub fn keep(&self, plan: &Plan) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(plan)?;
        for directory in [&self.data, &self.run] {
            files::write(&directory.join(plan::FILE), &text)?;
        }
        Ok(())
    }

    /// Makes the volatile directory, for root alone, and this process the one that runs the cluster; the lock ends with it.
    pub async fn lock(&self, work: Work) -> anyhow::Result<Lock> {
        holder::lock(&self.name, &self.run, work).await
    }

    /// Removes the volatile directory, the lock in it last. Blocks on the disk.
    pub fn remove_run(&self, lock: Lock) -> anyhow::Result<()> {
        holder::remove(&self.run, lock)
    }

    /// The process that runs the cluster or takes it away, if one does.
    pub fn running(&self) -> Option<i32> {
        holder::holder(&self.run)
    }

    /// What that process is at; none: it has not said so yet.
    pub fn work(&self, holder: i32) -> Option<Work> {
        holder::work(&self.run, holder)
    }

    /// Settings of the runtime of a further node, whose images are the first one's.
    pub fn node_runtime(&self, node: &Cluster, registries: Option<&Path>) -> runtime::Config {
        runtime::Config { store: Some(self.data.join("runtime")), registries: self.runtime(registries).registries, ..node.runtime(None) }
    }

    /// Settings of the cluster's runtime.
    pub fn runtime(&self, registries: Option<&Path>) -> runtime::Config {
        let default = self.data.join("registries.yaml");
        runtime::Config {
            root: self.data.join("runtime"),
            store: None,
            run: self.run.join("runtime"),
            cgroup_root: CGROUPS.into(),
            mark: self.name.clone(),
            registries: registries.map(Path::to_owned).or_else(|| default.exists().then_some(default)),
            network: None,
            shim: "/proc/self/exe".into(),
        }
    }
}
