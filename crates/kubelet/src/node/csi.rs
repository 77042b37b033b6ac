//! What the cluster knows of this node's drivers: the CSINode object, the node's annotation, and the labels of its topology
//! (upstream's `nodeinfomanager`).
//!
//! A driver is told that it is registered when all of that is written. It is read again once a minute: who deletes the objects, or the node
//! and with it the objects, is answered. A driver whose object asks for it (`nodeAllocatableUpdatePeriodSeconds`) is asked anew how many
//! volumes there can be.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::volume::{Driver, Drivers, Info, Installs};
use async_trait::async_trait;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, SharedApi};

/// The node's annotation that says what drivers call it.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Tries and the first pause, which grows fivefold (upstream's `updateBackoff`).
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked at without news.
const LOOK: Duration = Duration::from_secs(60);
/// The shortest period in which a driver is asked anew.
const PERIOD_MIN: Duration = Duration::from_secs(10);
/// First and longest wait before what failed is tried again.
const RETRY_MIN: Duration = Duration::from_millis(500);

/// The keeper of these objects.
pub struct CsiNode {
    api: SharedApi,
    node: String,
    /// What drivers said of themselves, and when they were asked.
    known: Mutex<BTreeMap<String, (Info, Instant)>>,
    /// One change at a time.
    busy: tokio::sync::Mutex<()>,
}

impl CsiNode {
    /// For a node.
    #[must_use]
    pub fn new(api: SharedApi, node: &str) -> Self {
        Self { api, node: node.to_owned(), known: Mutex::default(), busy: tokio::sync::Mutex::default() }
    }

    async fn again<F: Future<Output = Result<(), String>>>(&self, what: &str, mut work: impl FnMut() -> F) -> Result<(), String> {
        let mut pause = PAUSE;
        let mut errors = Vec::new();
        for left in (0..TRIES).rev() {
            let alone = self.busy.lock().await;
            let tried = work().await;
            drop(alone);
            match tried {
                Ok(()) => return Ok(()),
                Err(e) => errors.push(e),
            }
            if left > 0 {
                tokio::time::sleep(pause).await;
                pause *= 5;
            }
        }
        errors.dedup();
        let causes = if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) };
        Err(format!("error updating {what}: timed out waiting for the condition; caused by: {causes}"))
    }

    async fn node(&self) -> Result<Node, String> {
        self.api.get_node(&self.node).await.map_err(|e| e.to_string())?.ok_or_else(|| format!("nodes {:?} not found", self.node))
    }

    async fn mark_node(&self, driver: &str, info: &Info) -> Result<(), String> {
        let node = self.node().await?;
        let mut ids = node_ids(&node)?;
        let mut meta = json!({});
        if ids.get(driver) != Some(&info.node_id) {
            ids.insert(driver.to_owned(), info.node_id.clone());
            meta["annotations"] = json!({NODE_IDS: json!(ids).to_string()});
        }
        let labels = node.metadata.labels.clone().unwrap_or_default();
        for (key, value) in &info.topology {
            match labels.get(key) {
                Some(has) if has != value => {
                    return Err(format!("detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{has:?}"));
                }
                Some(_) => {}
                None => meta["labels"][key] = json!(value),
            }
        }
        self.patch(meta).await
    }

    async fn unmark_node(&self, driver: &str) -> Result<(), String> {
        let mut ids = node_ids(&self.node().await?)?;
        if ids.remove(driver).is_none() {
            return Ok(());
        }
        let left = if ids.is_empty() { json!(null) } else { json!(json!(ids).to_string()) };
        self.patch(json!({"annotations": {NODE_IDS: left}})).await
    }

    async fn patch(&self, meta: serde_json::Value) -> Result<(), String> {
        if meta == json!({}) {
            return Ok(());
        }
        self.api.patch_node(&self.node, json!({"metadata": meta}), false).await.map(drop).map_err(|e| e.to_string())
    }

    /// The object, as this node's; one of a node that had the name before is deleted.
    async fn own(&self) -> Result<CSINode, String> {
        let node = self.node().await?;
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let Some(found) = self.api.get_csi_node(&self.node).await.map_err(|e| e.to_string())? else {
            let owner = OwnerReference { api_version: "v1".into(), kind: "Node".into(), name: self.node.clone(), uid, ..OwnerReference::default() };
            let metadata = ObjectMeta { name: Some(self.node.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
            let fresh = CSINode { metadata, spec: CSINodeSpec { drivers: Vec::new() }, ..CSINode::default() };
            return self.api.create_csi_node(&fresh).await.map_err(|e| e.to_string());
        };
        let owners: Vec<&OwnerReference> = found.metadata.owner_references.iter().flatten().filter(|o| o.kind == "Node").collect();
        if owners.iter().any(|o| o.name == self.node && o.uid == uid) {
            return Ok(found);
        }
        let name = &self.node;
        let former = owners.last().map(|o| o.uid.clone()).unwrap_or_default();
        match self.api.delete_csi_node(name).await {
            Ok(()) | Err(ApiError::NotFound(_)) => {}
            Err(e) => return Err(format!("error deleting existing CSINode {name:?}: {e}")),
        }
        Err(format!("CSINode {name:?} was owned by different node (oldNodeID={former:?}, newNodeID={uid:?}), deleted it"))
    }

    async fn list(&self, driver: &str, info: &Info) -> Result<(), String> {
        let mut own = self.own().await?;
        let wanted = row(driver, info);
        if own.spec.drivers.contains(&wanted) {
            return Ok(());
        }
        own.spec.drivers.retain(|d| d.name != driver);
        own.spec.drivers.push(wanted);
        self.api.replace_csi_node(&own).await.map(drop).map_err(|e| e.to_string())
    }

    async fn unlist(&self, driver: &str) -> Result<(), String> {
        let Some(mut found) = self.api.get_csi_node(&self.node).await.map_err(|e| e.to_string())? else { return Ok(()) };
        let before = found.spec.drivers.len();
        found.spec.drivers.retain(|d| d.name != driver);
        if found.spec.drivers.len() == before {
            return Ok(());
        }
        self.api.replace_csi_node(&found).await.map(drop).map_err(|e| e.to_string())
    }

    /// Whether a driver is due to be asked anew.
    async fn is_due(&self, driver: &str) -> bool {
        let Some(asked) = self.known.lock().get(driver).map(|(_, at)| *at) else { return true };
        let object = self.api.csi_driver(driver).await.ok().flatten();
        let period = object.and_then(|o| o.spec.node_allocatable_update_period_seconds).and_then(|s| u64::try_from(s).ok());
        period.is_some_and(|s| s > 0 && asked.elapsed() >= Duration::from_secs(s).max(PERIOD_MIN))
    }

    /// Sees to it that all drivers are known, and nobody else; `whole`: also that the cluster has not forgotten those that are.
    async fn look(&self, drivers: &Drivers, whole: bool) -> Result<(), String> {
        let all = drivers.all();
        let gone: Vec<String> = self.known.lock().keys().filter(|k| !all.iter().any(|(name, _)| name == *k)).cloned().collect();
        for driver in gone {
            self.uninstall(&driver).await;
        }
        if all.is_empty() && whole {
            // The object is there from the start, as upstream's.
            return self.again("CSINode", || async { self.own().await.map(drop) }).await;
        }
        let mut kept = Vec::new();
        for (name, driver) in &all {
            kept.push(self.keep(name, &**driver, whole));
        }
        let failed: Vec<String> = join_all(kept).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// The same of one driver: none holds up another.
    async fn keep(&self, name: &str, driver: &dyn Driver, whole: bool) -> Result<(), String> {
        let held = if self.is_due(name).await { None } else { self.known.lock().get(name).map(|(info, _)| info.clone()) };
        let (info, asked) = match held {
            Some(_) if !whole => return Ok(()),
            Some(info) => (info, false),
            None => (driver.info().await.map_err(|e| format!("failed to get NodeGetInfo from driver {name:?}: {e}"))?, true),
        };
        self.install(name, &info).await?;
        // Its period begins anew, whether or not it said anything else.
        if asked && let Some((_, at)) = self.known.lock().get_mut(name) {
            *at = Instant::now();
        }
        Ok(())
    }
}

#[async_trait]
impl Installs for CsiNode {
    async fn install(&self, driver: &str, info: &Info) -> Result<(), String> {
        if info.node_id.is_empty() {
            return Err("error adding CSI driver node info: driverNodeID must not be empty".into());
        }
        let marked = self.again("node", || self.mark_node(driver, info)).await;
        marked.map_err(|e| format!("error updating Node object with CSI driver node info: {e}"))?;
        let listed = self.again("CSINode", || self.list(driver, info)).await;
        listed.map_err(|e| format!("error updating CSINode object with CSI driver node info: {e}"))?;
        let mut known = self.known.lock();
        let asked = known.get(driver).filter(|(was, _)| was == info).map_or_else(Instant::now, |(_, at)| *at);
        known.insert(driver.to_owned(), (info.clone(), asked));
        Ok(())
    }

    async fn uninstall(&self, driver: &str) {
        self.known.lock().remove(driver);
        let unlisted = self.again("CSINode", || self.unlist(driver)).await;
        let unmarked = self.again("node", || self.unmark_node(driver)).await;
        if let Err(error) = unlisted.and(unmarked) {
            tracing::warn!(driver, error, "the cluster still knows a driver that has gone");
        }
    }
}

fn node_ids(node: &Node) -> Result<BTreeMap<String, String>, String> {
    let Some(text) = node.metadata.annotations.as_ref().and_then(|a| a.get(NODE_IDS)).filter(|t| !t.is_empty()) else { return Ok(BTreeMap::new()) };
    serde_json::from_str(text).map_err(|e| format!("failed to parse node's {NODE_IDS:?} annotation value ({text:?}) err={e}"))
}

fn row(driver: &str, info: &Info) -> CSINodeDriver {
    let count = (info.max_volumes > 0).then(|| i32::try_from(info.max_volumes).unwrap_or(i32::MAX));
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(info.topology.keys().cloned().collect()).filter(|k: &Vec<_>| !k.is_empty()),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

/// Keeps the objects, from the node's registration on.
pub async fn run(keeper: Arc<CsiNode>, drivers: Drivers, mut registered: tokio::sync::watch::Receiver<bool>, stop: CancellationToken) {
    tokio::select! {
        there = registered.wait_for(|yes| *yes) => if there.is_err() { return },
        () = stop.cancelled() => return,
    }
    let (mut changes, mut retry, mut whole_at) = (drivers.changes(), RETRY_MIN, Instant::now());
    loop {
        let whole = Instant::now() >= whole_at;
        let next = match keeper.look(&drivers, whole).await {
            Ok(()) => {
                retry = RETRY_MIN;
                if whole {
                    whole_at = Instant::now() + LOOK;
                }
                PERIOD_MIN
            }
            Err(error) => {
                tracing::warn!(error, "what the cluster knows of the node's drivers is not up to date; will be tried again");
                retry = (retry * 2).min(LOOK);
                retry
            }
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            Ok(()) = changes.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;

    fn info(id: &str, max: i64, topology: &[(&str, &str)]) -> Info {
        Info { node_id: id.into(), max_volumes: max, topology: topology.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect() }
    }

    #[tokio::test(start_paused = true)]
    async fn drivers_are_listed_with_what_they_say_and_leave_the_list() {
        let api = Arc::new(FakeApi::default());
        let keeper = CsiNode::new(api.clone(), "n1");
        let refused = keeper.install("d.example", &info("id", 0, &[])).await.unwrap_err();
        assert_eq!(
            refused,
            "error updating Node object with CSI driver node info: error updating node: timed out waiting for the condition; caused by: nodes \"n1\" not found"
        );
        api.peopled.store(true, std::sync::atomic::Ordering::Relaxed);
        let listed = || api.storage.lock().csi_node.clone().map(|n| n.spec.drivers).unwrap_or_default();
        keeper.install("d.example", &info("id", 5, &[("t/zone", "a")])).await.unwrap();
        keeper.install("e.example", &info("other", i64::MAX, &[])).await.unwrap();
        assert_eq!(listed(), [row("d.example", &info("id", 5, &[("t/zone", "a")])), row("e.example", &info("other", i64::MAX, &[]))]);
        assert_eq!(listed()[1].allocatable.as_ref().unwrap().count, Some(i32::MAX));
        let patches = api.storage.lock().node_patches.clone();
        assert_eq!(patches[0], json!({"metadata": {"annotations": {NODE_IDS: "{\"d.example\":\"id\"}"}, "labels": {"t/zone": "a"}}}));
        keeper.uninstall("d.example").await;
        assert_eq!(listed().iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["e.example"]);
        assert!(keeper.install("e.example", &info("", 0, &[])).await.unwrap_err().ends_with("driverNodeID must not be empty"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_object_of_a_node_that_had_the_name_before_is_replaced() {
        let api = Arc::new(FakeApi::default());
        api.peopled.store(true, std::sync::atomic::Ordering::Relaxed);
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "former"}]);
        let former = json!({"metadata": {"name": "n1", "ownerReferences": owner}, "spec": {"drivers": [{"name": "gone", "nodeID": "x"}]}});
        api.storage.lock().csi_node = Some(serde_json::from_value(former).unwrap());
        let keeper = CsiNode::new(api.clone(), "n1");
        keeper.install("d.example", &info("id", 0, &[])).await.unwrap();
        let own = api.storage.lock().csi_node.clone().unwrap();
        assert_eq!(own.metadata.owner_references.unwrap()[0].uid, "node-uid");
        assert_eq!(own.spec.drivers, [row("d.example", &info("id", 0, &[]))]);
    }
}
