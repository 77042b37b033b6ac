//! Growing volumes on the node: when they are mounted, and while they are in use.
//!
//! The cluster makes a volume larger and says so in its capacity; the claim's status follows when the node has done its part. How far
//! that is stands in the claim (`allocatedResourceStatuses`), so whatever is killed in between, the next look goes on from there. The
//! rules are upstream's `NodeExpander`, and the older ones where the claim says nothing of a node's part.

use std::path::Path;
use std::sync::Arc;

use ::volume::{Code, Driver, Expand, Failure, Mode, Volume};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::call::{Trouble, access, ends, rpc};
use super::make::Job;
use super::slot::{Slot, Step};
use super::spec::{Csi, Kind, Spec};
use super::{Persistent, device};
use crate::api::{Severity, SharedApi};
use crate::cri::PodUid;
use crate::{resources, util};

const STORAGE: &str = "storage";
/// On a claim whose volume grows without the nodes.
const NOT_REQUIRED: &str = "volume.kubernetes.io/node-expansion-not-required";
/// The conditions that are about growing.
const CONDITIONS: [&str; 4] = ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];
const IN_PROGRESS: &str = "NodeResizeInProgress";

/// A volume whose part on this node is to be done.
struct Growth<'a> {
    pod: &'a Pod,
    spec: &'a Spec,
    slot: &'a Slot,
    by: By<'a>,
}

/// Who makes a volume larger.
enum By<'a> {
    /// Its driver.
    Driver { csi: &'a Csi, driver: &'a dyn Driver, at: &'a Path, staged: Option<&'a Path> },
    /// The node itself: a local volume, at this path of the host.
    Node(&'a Path),
}

/// Why it was not grown.
enum Refusal {
    /// The driver cannot grow volumes on nodes.
    Unsupported(String),
    /// Its driver is not told apart from others that fail: it may do better later.
    Transient(String),
    /// The driver refused.
    Failed(Failure),
    /// The node could not do it.
    Here(String),
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Self::Unsupported(why) | Self::Transient(why) | Self::Here(why) => why.clone(),
            Self::Failed(f) if matches!(f.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound) => {
                format!("Expander.NodeExpand failed to expand the volume {}", rpc(f))
            }
            Self::Failed(f) => format!("Expander.NodeExpand failed to expand the volume : {}", rpc(f)),
        }
    }

    /// It can never be done.
    fn is_infeasible(&self) -> bool {
        matches!(self, Self::Failed(f) if matches!(f.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound))
    }

    /// It cannot be done while it is in use.
    fn is_in_use(&self) -> bool {
        matches!(self, Self::Failed(f) if f.code == Code::FailedPrecondition)
    }
}

fn of(map: Option<&std::collections::BTreeMap<String, Quantity>>) -> Option<&Quantity> {
    map?.get(STORAGE)
}

fn bytes(q: Option<&Quantity>) -> i64 {
    q.map_or(0, resources::value)
}

/// What the claim says it holds.
fn told(claim: &PersistentVolumeClaim) -> i64 {
    bytes(claim.status.as_ref().and_then(|s| of(s.capacity.as_ref())))
}

fn asked(claim: &PersistentVolumeClaim) -> i64 {
    bytes(claim.spec.as_ref().and_then(|s| of(s.resources.as_ref()?.requests.as_ref())))
}

fn step(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.allocated_resource_statuses.as_ref()?.get(STORAGE)).map_or("", String::as_str)
}

/// What the volume holds, as who made it says.
fn capacity(spec: &Spec) -> Option<&Quantity> {
    of(spec.volume.as_ref()?.spec.as_ref()?.capacity.as_ref())
}

impl Persistent {
    /// Grows a volume that is being mounted, if it is smaller than it should be.
    pub(super) async fn grow_at_mount(&self, job: &Job, driver: &Arc<dyn Driver>, at: &Path, staged: Option<&Path>) -> Result<(), Trouble> {
        let (Some(claim), Some(wanted)) = (&job.spec.claim, capacity(&job.spec)) else { return Ok(()) };
        job.slot.state.lock().size.get_or_insert(told(claim));
        if told(claim) >= bytes(Some(wanted)) {
            return Ok(());
        }
        let by = By::Driver { csi: &job.csi, driver: &**driver, at, staged };
        let growth = Growth { pod: &job.pod, spec: &job.spec, slot: &job.slot, by };
        self.grow(&growth, claim, wanted).await.map_err(|e| {
            if job.spec.block {
                Trouble::map("MapVolume.MarkVolumeAsMounted failed while expanding volume", &job.spec.name, &e)
            } else {
                not_mounted(&job.spec, &e)
            }
        })
    }

    /// Grows a local volume that is being mounted, if it is smaller than it should be.
    pub(super) async fn grow_local_at_mount(&self, pod: &Pod, spec: &Spec, path: &Path) -> Result<(), Trouble> {
        self.grow_local(pod, spec, path).await.map_err(|e| not_mounted(spec, &e))
    }

    /// Does the node's part of a local volume that has become larger: the file system of its device grows to the device's end. What it was
    /// told of a failure is remembered until it has grown.
    async fn grow_local(&self, pod: &Pod, spec: &Spec, path: &Path) -> Result<(), String> {
        let (Some(claim), Some(wanted)) = (&spec.claim, capacity(spec)) else { return Ok(()) };
        if told(claim) >= bytes(Some(wanted)) {
            self.0.growing.lock().remove(&spec.name);
            return Ok(());
        }
        let slot = Arc::clone(self.0.growing.lock().entry(spec.name.clone()).or_default());
        let _busy = Arc::clone(&slot.busy).lock_owned().await;
        self.grow(&Growth { pod, spec, slot: &slot, by: By::Node(path) }, claim, wanted).await
    }

    /// Looks whether a volume that a pod uses has become larger, and does this node's part.
    pub(super) async fn grow_in_use(&self, pod: &Pod, spec: &Spec, slot: &Arc<Slot>) -> Result<(), Trouble> {
        let (Kind::Csi(csi), Some(claim), Some(wanted)) = (&spec.kind, &spec.claim, capacity(spec)) else { return Ok(()) };
        let failed = |e: String| not_grown_in_use(spec, &e);
        let uid = PodUid(util::uid(pod).to_owned());
        {
            let mut state = slot.state.lock();
            let has = *state.size.get_or_insert(told(claim));
            let ready = state.pods.get(&uid).is_some_and(|mine| mine.published == Step::Done);
            if spec.readonly || state.no_growth_in_use || !ready || has >= bytes(Some(wanted)) {
                return Ok(());
            }
        }
        let _busy = Arc::clone(&slot.busy).lock_owned().await;
        let driver = self.0.drivers.get(&csi.driver);
        let driver = driver.ok_or_else(|| failed(format!("driver name {} not found in the list of registered CSI drivers", csi.driver)))?;
        let (places, name) = (&self.0.places, &spec.name);
        let (at, staging) = if spec.block {
            (places.published_device(&uid.0, name), places.staged_device(name))
        } else {
            (places.published(&uid.0, name), places.staged(&csi.driver, &csi.handle))
        };
        let staged = driver.abilities().stage.then_some(staging.as_path());
        self.grow(&Growth { pod, spec, slot, by: By::Driver { csi, driver: &*driver, at: &at, staged } }, claim, wanted).await.map_err(failed)
    }

    /// The same of a local volume.
    pub(super) async fn grow_local_in_use(&self, pod: &Pod, spec: &Spec, path: &Path) -> Result<(), Trouble> {
        if spec.readonly {
            return Ok(());
        }
        self.grow_local(pod, spec, path).await.map_err(|e| not_grown_in_use(spec, &e))
    }

    async fn grow(&self, g: &Growth<'_>, claim: &PersistentVolumeClaim, wanted: &Quantity) -> Result<(), String> {
        if g.spec.readonly {
            let message = format!("MountVolume.NodeExpandVolume failed for volume {:?} requested read-only file system", g.spec.name);
            self.0.api.pod_event(g.pod, None, Severity::Warning, "FileSystemResizeFailed", &message);
            self.0.api.claim_event(claim, Severity::Warning, "FileSystemResizeFailed", &message);
            return Ok(());
        }
        let allocated = claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref());
        if step(claim).is_empty() && allocated.is_none() {
            self.grow_plainly(g, claim, wanted).await
        } else {
            self.grow_in_steps(g, claim, of(allocated).unwrap_or(wanted)).await
        }
    }

    /// Upstream's `legacyCallNodeExpandOnPlugin`: the claim tells nothing of the node's part.
    async fn grow_plainly(&self, g: &Growth<'_>, claim: &PersistentVolumeClaim, wanted: &Quantity) -> Result<(), String> {
        match self.expand(g, wanted).await {
            Ok(()) => {}
            Err(Refusal::Unsupported(_)) => return Ok(()),
            Err(refusal) if refusal.is_in_use() => {
                g.slot.state.lock().no_growth_in_use = true;
                return Ok(());
            }
            Err(refusal) => return Err(refusal.text()),
        }
        self.tell_grown(g, claim);
        g.slot.state.lock().size = Some(resources::value(wanted));
        if told(claim) >= resources::value(wanted) {
            return Ok(());
        }
        finished(&self.0.api, claim, wanted).await.map_err(|e| format!("mountVolume.NodeExpandVolume update PVC status failed : {e}"))
    }

    /// Upstream's `expandOnPlugin`.
    async fn grow_in_steps(&self, g: &Growth<'_>, claim: &PersistentVolumeClaim, wanted: &Quantity) -> Result<(), String> {
        let size = resources::value(wanted);
        let already = told(claim) >= size && step(claim).is_empty();
        let shared = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).any(|m| m == "ReadWriteMany");
        let without_nodes = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(NOT_REQUIRED));
        // A volume of several nodes is grown on each, whichever was first.
        let mine = (already && shared && !without_nodes) || matches!(step(claim), "NodeResizePending" | IN_PROGRESS);
        if !mine {
            if already {
                g.slot.state.lock().size = Some(size);
            }
            return Ok(());
        }
        // Who asked for another size meanwhile is to have it considered, after a failure for good.
        let give_up = asked(claim) != size && g.slot.state.lock().growth_failed;
        let mut claim = claim.clone();
        if !already {
            claim = mark(&self.0.api, &claim, json!({"allocatedResourceStatuses": {STORAGE: IN_PROGRESS}}), true).await?;
        }
        match self.expand(g, wanted).await {
            Ok(()) => {}
            Err(Refusal::Unsupported(_)) if already => {
                g.slot.state.lock().size = Some(size);
                return Ok(());
            }
            Err(refusal) => return self.not_grown(g, &claim, &refusal, give_up).await,
        }
        self.tell_grown(g, &claim);
        {
            let mut state = g.slot.state.lock();
            (state.size, state.growth_failed) = (Some(size), false);
        }
        if already {
            return Ok(());
        }
        finished(&self.0.api, &claim, wanted).await.map_err(|e| format!("mountVolume.NodeExpandVolume update pvc status failed: {e}"))
    }

    async fn not_grown(&self, g: &Growth<'_>, claim: &PersistentVolumeClaim, refusal: &Refusal, give_up: bool) -> Result<(), String> {
        let text = refusal.text();
        if !matches!(refusal, Refusal::Transient(_)) {
            g.slot.state.lock().growth_failed = true;
            let mut status = failed_condition(claim, &text);
            if refusal.is_infeasible() || give_up {
                status["allocatedResourceStatuses"] = json!({STORAGE: "NodeResizeInfeasible"});
            }
            if let Err(error) = mark(&self.0.api, claim, status, false).await {
                tracing::warn!(claim = claim.metadata.name, error, "that a volume was not grown is not told");
            }
        }
        if refusal.is_in_use() {
            g.slot.state.lock().no_growth_in_use = true;
            tracing::warn!(volume = g.spec.name, error = text, "a volume does not grow while it is in use");
            return Ok(());
        }
        Err(text)
    }

    async fn expand(&self, g: &Growth<'_>, wanted: &Quantity) -> Result<(), Refusal> {
        let (csi, driver, at, staged) = match g.by {
            By::Driver { csi, driver, at, staged } => (csi, driver, at, staged),
            // Directories have no size of their own, and a device is as large as it is.
            By::Node(_) if g.spec.block => return Ok(()),
            By::Node(path) => {
                let (path, staged) = (path.to_owned(), self.0.places.local_device(&g.spec.name));
                return self.0.looks.look(util::uid(g.pod), move || device::grow(&path, &staged)).await.map_err(Refusal::Here);
            }
        };
        let can = driver.abilities();
        if !can.expand {
            return Err(Refusal::Unsupported(format!("NodeExpand is not supported by the CSI driver {}", csi.driver)));
        }
        let secrets = self.secrets(csi.expand_secret.as_ref(), "NodeExpandSecretRef").await;
        let secrets = secrets.map_err(|e| Refusal::Transient(format!("expander.NodeExpand failed to get NodeExpandSecretRef: {e}")))?;
        let mode = if g.spec.block { Mode::Block } else { Mode::Filesystem { fs_type: csi.fs_type.clone(), options: g.spec.options.clone(), group: None } };
        let volume = Volume {
            handle: csi.handle.clone(),
            attributes: csi.attributes.clone(),
            attached: std::collections::BTreeMap::new(),
            mode,
            access: access(&g.spec.modes, can),
        };
        let bytes = u64::try_from(resources::value(wanted)).unwrap_or(0);
        let asked = Expand { volume: &volume, at, staged, bytes, secrets: &secrets };
        ends(driver.expand(asked)).await.map(drop).map_err(Refusal::Failed)
    }

    fn tell_grown(&self, g: &Growth<'_>, claim: &PersistentVolumeClaim) {
        let node = g.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume {:?} {node}", g.spec.name);
        self.0.api.pod_event(g.pod, None, Severity::Normal, "FileSystemResizeSuccessful", &message);
        self.0.api.claim_event(claim, Severity::Normal, "FileSystemResizeSuccessful", &message);
    }
}

fn not_mounted(spec: &Spec, why: &str) -> Trouble {
    Trouble { reason: "FailedMount", message: format!("MountVolume.Setup failed while expanding volume for volume {:?} : {why}", spec.name) }
}

fn not_grown_in_use(spec: &Spec, why: &str) -> Trouble {
    Trouble { reason: "VolumeResizeFailed", message: format!("NodeExpandVolume.NodeExpandVolume failed for volume {:?} : {why}", spec.name) }
}

/// The status with the condition that growing failed; one that stands stays as it is.
fn failed_condition(claim: &PersistentVolumeClaim, why: &str) -> Value {
    let stands = claim.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "NodeResizeError" && c.status == "True");
    if stands {
        return json!({});
    }
    let now = util::time(std::time::SystemTime::now());
    json!({"conditions": [{"type": "NodeResizeError", "status": "True", "lastTransitionTime": now, "message": format!("failed to expand pvc with {why}")}]})
}

/// The volume has grown: the claim has what it asked for, and nothing is left to tell of the way.
async fn finished(api: &SharedApi, claim: &PersistentVolumeClaim, size: &Quantity) -> Result<(), String> {
    let conditions = claim.status.iter().flat_map(|s| s.conditions.iter().flatten()).map(|c| c.type_.as_str());
    let gone: Vec<Value> = conditions.filter(|c| CONDITIONS.contains(c)).map(|c| json!({"$patch": "delete", "type": c})).collect();
    let mut status = json!({"capacity": {STORAGE: size}, "allocatedResourceStatuses": {STORAGE: null}});
    if !gone.is_empty() {
        status["conditions"] = json!(gone);
    }
    mark(api, claim, status, true).await.map(drop)
}

/// Changes the claim's status; `exactly` only if the claim is still what it was.
async fn mark(api: &SharedApi, claim: &PersistentVolumeClaim, status: Value, exactly: bool) -> Result<PersistentVolumeClaim, String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let mut patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": status});
    if exactly {
        patch["metadata"]["resourceVersion"] = json!(claim.metadata.resource_version);
    }
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    api.patch_claim_status(namespace, name, patch).await.map_err(|e| format!("patchPVCStatus failed to patch PVC {name:?}: {e}"))
}
