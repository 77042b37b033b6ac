//! What the node of a cluster whose control plane is elsewhere keeps of it: `DATA/agent.json`, for root alone. With it a start needs no
//! token, and a start without an API server runs the node as it was.

use super::{Cluster, Plan, files, plan};
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io::ErrorKind};

/// The file.
pub(super) const FILE: &str = "agent.json";
/// What the machine calls itself while it joins; see [`Cluster::machine`].
pub(super) const MACHINE: &str = "machine";

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The node's name.
    pub node: String,
    /// What this machine calls itself on the Node object, so that another that joins as the same node is seen.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// Where the API servers are.
    pub servers: Vec<String>,
    /// Their authorities, as PEM.
    pub ca: String,
    /// What nodes must know of the cluster, as it was told last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The node's ranges of pods, as they were given last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<String>,
}

impl Cluster {
    /// What is kept of the cluster that this machine has joined; none: it has not.
    pub fn joined(&self) -> anyhow::Result<Option<Joined>> {
        let path = self.data.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is not what knarr wrote", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// What this machine calls itself on the Node object of the cluster that it is about to join: kept from before anybody is told of it, so
    /// that one whose joining was cut off knows the Node for its own.
    pub fn machine(&self, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
        let path = self.data.join(MACHINE);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let name = make()?;
                files::write(&path, name.as_bytes())?;
                Ok(name)
            }
            name => name.with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps it.
    pub fn keep_joined(&self, joined: &Joined) -> anyhow::Result<()> {
        files::write(&self.data.join(FILE), &serde_json::to_vec_pretty(joined)?)
    }

    /// Refuses the ranges of a cluster that this machine is about to join, if something here has them: another cluster's would be reached
    /// in its place.
    pub fn has_room_for(&self, plan: &Plan) -> anyhow::Result<()> {
        match plan::in_the_way(plan) {
            Some(who) => {
                bail!("{who}, which a node of the cluster needs: this machine cannot be one while that is so (another cluster of knarr's goes by `knarr down`)")
            }
            None => Ok(()),
        }
    }

    /// Whether a control plane has its data here, or had: a node of another is not put into the same place.
    pub fn has_control_plane(&self) -> bool {
        self.data.join("store").exists()
    }

    /// Whether this is the place of a node of a cluster elsewhere.
    pub fn is_agent(&self) -> bool {
        self.data.join(FILE).exists()
    }
}
