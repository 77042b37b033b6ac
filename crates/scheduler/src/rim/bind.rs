//! Carries out a placement: volumes and devices first, if they waited for it, then the binding itself.
//!
//! Where they are waited for, the pod's status names the node meanwhile (KEP-5278), so that others see where it is about to be; and
//! the placement can be called off until the binding is sent: by the pod's deletion or the node's, or by one of higher priority that
//! wants the room, which then costs no pod anything (KEP-5501).

use std::sync::Arc;
use std::time::Duration;

use client::storage::SELECTED_NODE;
use client::{Client, Error, EventType, Informer, Meta, Patch, PatchParams, SeriesRecorder};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Report, write};
use crate::extender::Extender;
use crate::metrics::{Metrics, ProfileMetrics, Stage, Status};
use crate::plugins::dynamic_resources::Grant;
use crate::plugins::volume_binding::{self, Step};

/// A placement that can be called off.
#[derive(Debug, Default)]
pub(super) struct Undertaking {
    state: Mutex<State>,
    called_off: Notify,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    #[default]
    Open,
    /// For this reason.
    CalledOff(String),
    /// The binding is sent.
    Sent,
}

impl Undertaking {
    /// Calls it off; whether it was not too late.
    pub(super) fn call_off(&self, why: &str) -> bool {
        let mut state = self.state.lock();
        match *state {
            State::Sent => false,
            State::CalledOff(_) => true,
            State::Open => {
                *state = State::CalledOff(why.to_owned());
                self.called_off.notify_one();
                true
            }
        }
    }

    /// The binding is sent from now on; unless it was called off: why.
    fn send(&self) -> Result<(), String> {
        let mut state = self.state.lock();
        match &*state {
            State::CalledOff(why) => Err(why.clone()),
            _ => {
                *state = State::Sent;
                Ok(())
            }
        }
    }

    async fn called_off(&self) -> String {
        loop {
            let called_off = self.called_off.notified();
            if let State::CalledOff(why) = &*self.state.lock() {
                return why.clone();
            }
            called_off.await;
        }
    }
}

/// Why a pod was not bound.
#[derive(Debug)]
pub(crate) struct NotBound {
    /// For users; none: nobody need be told.
    pub message: Option<String>,
    pub steps: Vec<Step>,
    pub grants: Vec<Grant>,
}

pub(super) struct Work {
    pub client: Client,
    pub recorder: SeriesRecorder,
    pub claims: Informer<PersistentVolumeClaim>,
    pub volumes: Informer<PersistentVolume>,
    pub device_claims: Informer<ResourceClaim>,
    /// Told of every change of a claim, of whatever kind, or a volume.
    pub changes: watch::Receiver<()>,
    pub reports: UnboundedSender<Report>,
    pub pod: Arc<Pod>,
    pub node: Arc<Node>,
    pub steps: Vec<Step>,
    pub grants: Vec<Grant>,
    /// How long volumes are waited for.
    pub patience: Duration,
    /// How long devices are waited for that drivers must bind.
    pub device_patience: Duration,
    pub undertaking: Arc<Undertaking>,
    /// Who binds in our place, in order: the first, or the next if it may be left out and did not.
    pub binders: Vec<Arc<Extender>>,
    pub metrics: Arc<Metrics>,
    /// The profile's name, and what is counted of it.
    pub profile: String,
    pub stages: Arc<ProfileMetrics>,
}

impl Work {
    pub(super) async fn run(mut self) -> Result<(), NotBound> {
        let result = self.carry_out().await;
        if result.is_err() {
            self.unreserve().await;
        }
        result.map_err(|message| NotBound { message, steps: self.steps, grants: self.grants })
    }

    async fn carry_out(&mut self) -> Result<(), Option<String>> {
        let begun = Instant::now();
        let prepared = self.prepare().await;
        self.stages.stage(Stage::PreBind, status(&prepared), begun);
        prepared.map_err(Some)?;
        self.undertaking.send().map_err(Some)?;
        let begun = Instant::now();
        let bound = self.bind().await;
        self.stages.stage(Stage::Bind, status(&bound), begun);
        bound?;
        let (namespace, name) = (self.pod.namespace(), self.pod.name());
        let text = format!("Successfully assigned {namespace}/{name} to {}", self.node.name());
        self.recorder.event(&client::object_reference(&*self.pod), EventType::Normal, write::SCHEDULED, text);
        Ok(())
    }

    /// What comes before the binding: the pod's volumes and devices.
    async fn prepare(&mut self) -> Result<(), String> {
        if !self.steps.is_empty() || !self.grants.is_empty() {
            self.announce().await;
        }
        if !self.steps.is_empty() {
            let undertaking = self.undertaking.clone();
            let done = tokio::select! {
                biased;
                why = undertaking.called_off() => Err(why),
                done = self.bind_volumes() => done,
            };
            done.map_err(|why| {
                self.metrics.volume_errors.with(["bind"]).inc();
                format!("running PreBind plugin \"VolumeBinding\": {why}")
            })?;
        }
        if !self.grants.is_empty() {
            // Not called off half-way: what is written must be known.
            let undertaking = self.undertaking.clone();
            let done = match self.grant().await {
                Err(why) => Err(why),
                Ok(()) => tokio::select! {
                    biased;
                    why = undertaking.called_off() => Err(why),
                    done = self.devices_bound() => done,
                },
            };
            done.map_err(|why| format!("running PreBind plugin \"DynamicResources\": {why}"))?;
        }
        Ok(())
    }

    async fn bind(&self) -> Result<(), Option<String>> {
        for extender in &self.binders {
            let bound: BoxFuture<'_, Result<(), String>> = Box::pin(extender.bind(&self.pod, self.node.name()));
            match bound.await {
                Err(error) if extender.ignorable => tracing::info!(error, ?extender, "an extender that may be left out did not bind"),
                done => return done.map_err(Some),
            }
        }
        self.write_binding().await.map_err(|error| (!error.is_not_found()).then(|| format!("running Bind plugin \"DefaultBinder\": {error}")))
    }

    async fn write_binding(&self) -> Result<(), Error> {
        let (namespace, name) = (self.pod.namespace(), self.pod.name());
        let binding = Binding {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: self.pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference { kind: Some("Node".into()), name: Some(self.node.name().to_owned()), ..ObjectReference::default() },
        };
        let api = self.client.namespaced::<Pod>(namespace);
        // Boxed with its type: else the compiler does not see that it may go from thread to thread.
        let taken: BoxFuture<'_, Result<IgnoredAny, Error>> = Box::pin(api.create_subresource(name, "binding", &binding));
        taken.await.map(drop)
    }

    /// Names the node in the pod's status. That it could not be is no reason not to go on.
    async fn announce(&self) {
        let status = json!({"nominatedNodeName": self.node.name()});
        if let Err(error) = super::write::patch_status(&self.client, &self.pod, status, None).await {
            tracing::warn!(%error, pod = %self.pod.key(), "the node that a pod is about to get could not be told");
        }
    }

    async fn bind_volumes(&mut self) -> Result<(), String> {
        let written = self.write().await.map_err(|error| error.to_string())?;
        let late = |_| "binding volumes: context deadline exceeded".to_owned();
        let bound = tokio::time::timeout(self.patience, self.bound(&written)).await.map_err(late)?;
        bound.map_err(|why| format!("binding volumes: {why}"))
    }

    /// Writes what was decided, each on the revision that it was decided about; the revisions of what was written.
    async fn write(&self) -> Result<Vec<u64>, Error> {
        let params = PatchParams::default();
        let mut written = Vec::new();
        for step in &self.steps {
            let revision = match step {
                Step::Bind(_, volume, then) => {
                    let reference = then.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
                    let patch = json!({"metadata": {"resourceVersion": volume.resource_version(), "annotations": then.metadata.annotations}, "spec": {"claimRef": reference}});
                    revision(&self.client.all::<PersistentVolume>().patch(volume.name(), &Patch::Merge(patch), &params).await?)
                }
                Step::Provision(claim, _) => {
                    let patch = json!({"metadata": {"resourceVersion": claim.resource_version(), "annotations": {SELECTED_NODE: self.node.name()}}});
                    let api = self.client.namespaced::<PersistentVolumeClaim>(claim.namespace());
                    revision(&api.patch(claim.name(), &Patch::Merge(patch), &params).await?)
                }
            };
            written.push(revision);
        }
        Ok(written)
    }

    /// Waits until all claims are bound, or until one cannot become so any more.
    async fn bound(&mut self, written: &[u64]) -> Result<(), String> {
        loop {
            let mut all = true;
            for (step, written) in self.steps.iter().zip(written) {
                all &= self.is_bound(step, *written)?;
            }
            if all {
                return Ok(());
            }
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a step is done (upstream `checkBindings`); an error if it never will be. What is in memory and is older than what was
    /// written says nothing.
    fn is_bound(&self, step: &Step, written: u64) -> Result<bool, String> {
        let (Step::Bind(claim, ..) | Step::Provision(claim, _)) = step;
        let now = self.claims.get(claim.namespace(), claim.name()).filter(|c| c.uid() == claim.uid());
        let missing = format!("persistentvolumeclaims {:?} not found", claim.key().to_string());
        match step {
            Step::Bind(_, volume, _) => {
                let name = volume.name();
                let volume = self.volumes.get("", name).ok_or_else(|| format!("failed to check binding: persistentvolumes {name:?} not found"))?;
                let now = now.ok_or_else(|| format!("failed to check binding: {missing}"))?;
                if revision(&*volume) < written {
                    return Ok(false);
                }
                self.reaches(&volume)?;
                let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
                if reference.and_then(|r| r.uid.as_deref()).unwrap_or_default().is_empty() {
                    return Err(format!("ClaimRef got reset for pv {name:?}"));
                }
                Ok(volume_binding::is_bound(&now))
            }
            Step::Provision(..) => {
                let now = now.ok_or_else(|| format!("failed to check provisioning pvc: {missing}"))?;
                if revision(&*now) < written {
                    return Ok(false);
                }
                if now.metadata.annotations.is_none() {
                    return Err(format!("selectedNode annotation reset for PVC {:?}", now.name()));
                }
                // So a provisioner says that it cannot serve this node.
                if now.annotation(SELECTED_NODE) != Some(self.node.name()) {
                    return Err(format!("provisioning failed for PVC {:?}", now.name()));
                }
                if let Some(name) = now.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|name| !name.is_empty()) {
                    // It may not be in memory yet.
                    let Some(volume) = self.volumes.get("", name) else { return Ok(false) };
                    self.reaches(&volume)?;
                }
                Ok(volume_binding::is_bound(&now))
            }
        }
    }

    fn reaches(&self, volume: &PersistentVolume) -> Result<(), String> {
        if volume_binding::reaches(volume, &self.node) {
            return Ok(());
        }
        Err(format!("pv {:?} node affinity doesn't match node {:?}: no matching NodeSelectorTerms", volume.name(), self.node.name()))
    }
}

/// How a stage is counted.
fn status<T, E>(done: &Result<T, E>) -> Status {
    if done.is_ok() { Status::Success } else { Status::Error }
}

/// An object's revision as a number; 0 if it has none.
pub(super) fn revision(object: &impl Meta) -> u64 {
    object.resource_version().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use client::{Body, Transport};
    use http_body_util::{BodyExt, Full};
    use serde_json::Value;

    /// A server that takes every write, at revision 5.
    struct Willing;

    impl Transport for Willing {
        fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'static, client::Result<http::Response<Body>>> {
            let object = Bytes::from(json!({"metadata": {"name": "x", "resourceVersion": "5"}, "spec": {}}).to_string());
            let body = Full::new(object).map_err(|never| match never {}).boxed_unsync();
            Box::pin(async { Ok(http::Response::builder().header("content-type", "application/json").body(body).expect("an answer")) })
        }
    }

    fn claim(uid: &str, revision: &str, annotations: Value, volume: &str) -> PersistentVolumeClaim {
        let meta = json!({"namespace": "n", "name": "c", "uid": uid, "resourceVersion": revision, "annotations": annotations});
        serde_json::from_value(json!({"metadata": meta, "spec": {"volumeName": volume}})).expect("a claim")
    }

    fn volume(revision: &str, claim: &str, zone: &str) -> PersistentVolume {
        let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
        let spec = json!({"claimRef": {"namespace": "n", "name": "c", "uid": claim}, "nodeAffinity": affinity});
        serde_json::from_value(json!({"metadata": {"name": "v", "resourceVersion": revision}, "spec": spec})).expect("a volume")
    }

    /// The work of a pod whose claim `c` and volume `v` are in memory like this.
    fn work(steps: Vec<Step>, claim: Option<PersistentVolumeClaim>, volume: Option<PersistentVolume>) -> (Work, watch::Sender<()>) {
        let client = Client::new(Arc::new(Willing));
        let (changed, changes) = watch::channel(());
        let config = crate::Config::default();
        let recorder = SeriesRecorder::new(client.clone(), "default-scheduler");
        let node = serde_json::from_value(json!({"metadata": {"name": "node", "labels": {"zone": "here"}}})).expect("a node");
        let work = Work {
            recorder,
            client,
            claims: Informer::fixed(claim),
            volumes: Informer::fixed(volume),
            device_claims: Informer::fixed([]),
            changes,
            reports: tokio::sync::mpsc::unbounded_channel().0,
            pod: Arc::default(),
            node: Arc::new(node),
            steps,
            grants: Vec::new(),
            patience: Duration::from_secs(600),
            device_patience: Duration::ZERO,
            undertaking: Arc::default(),
            binders: Vec::new(),
            profile: "default-scheduler".into(),
            stages: config.profiles.get("default-scheduler").expect("a profile").metrics.clone(),
            metrics: config.metrics,
        };
        (work, changed)
    }

    fn provision() -> Step {
        Step::Provision(Arc::new(claim("u", "1", json!({}), "")), Arc::default())
    }

    fn bind() -> Step {
        Step::Bind(Arc::new(claim("u", "1", json!({}), "")), Arc::new(volume("1", "", "here")), Arc::default())
    }

    fn done() -> Value {
        json!({"pv.kubernetes.io/bind-completed": "yes", SELECTED_NODE: "node"})
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_goes_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        for now in [None, Some(claim("another of its name", "9", json!({}), ""))] {
            let (mut work, _changed) = work(vec![provision()], now, None);
            let why = work.bind_volumes().await.expect_err("it will never be bound");
            assert_eq!(why, r#"binding volumes: failed to check provisioning pvc: persistentvolumeclaims "n/c" not found"#);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for step in [provision(), bind()] {
            let (mut work, _changed) = work(vec![step], Some(claim("u", "9", done(), "v")), Some(volume("9", "u", "here")));
            work.bind_volumes().await.expect("it is bound");
        }
    }

    #[tokio::test]
    async fn what_memory_tells_of_a_step() {
        let told = |step: Step, claim: PersistentVolumeClaim, volume: Option<PersistentVolume>| {
            let (work, _changed) = work(vec![], Some(claim), volume);
            work.is_bound(&step, 5)
        };
        let provisioned = |revision: &str, annotations: Value, volume: Option<PersistentVolume>| {
            let name = if volume.is_some() { "v" } else { "" };
            told(provision(), claim("u", revision, annotations, name), volume)
        };
        assert_eq!(provisioned("1", json!({}), None), Ok(false), "the word to the provisioner is not in memory yet");
        assert_eq!(provisioned("5", json!({SELECTED_NODE: "node"}), None), Ok(false));
        assert_eq!(provisioned("6", json!({}), None), Err("provisioning failed for PVC \"c\"".to_owned()));
        assert_eq!(provisioned("6", Value::Null, None), Err("selectedNode annotation reset for PVC \"c\"".to_owned()));
        let elsewhere = r#"pv "v" node affinity doesn't match node "node": no matching NodeSelectorTerms"#;
        assert_eq!(provisioned("6", done(), Some(volume("6", "u", "there"))), Err(elsewhere.to_owned()));
        assert_eq!(provisioned("6", done(), Some(volume("6", "u", "here"))), Ok(true));
        let given = |revision: &str, uid: &str| told(bind(), claim("u", "1", done(), "v"), Some(volume(revision, uid, "here")));
        assert_eq!(given("1", ""), Ok(false), "the write is not in memory yet");
        assert_eq!(given("6", ""), Err("ClaimRef got reset for pv \"v\"".to_owned()));
        assert_eq!(given("6", "u"), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn volumes_are_waited_for_as_long_as_it_is_said() {
        let begun = tokio::time::Instant::now();
        let (mut work, _changed) = work(vec![provision()], Some(claim("u", "5", json!({SELECTED_NODE: "node"}), "")), None);
        assert_eq!(work.bind_volumes().await, Err("binding volumes: context deadline exceeded".to_owned()));
        assert_eq!(begun.elapsed(), Duration::from_secs(600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_placement_is_called_off_until_the_binding_is_sent() {
        let (work, _changed) = work(vec![provision()], Some(claim("u", "5", json!({SELECTED_NODE: "node"}), "")), None);
        let undertaking = work.undertaking.clone();
        let run = tokio::spawn(work.run());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(undertaking.call_off("preempted by DefaultPreemption"));
        let not_bound = run.await.expect("it ends").expect_err("it was called off");
        assert_eq!(not_bound.message.as_deref(), Some(r#"running PreBind plugin "VolumeBinding": preempted by DefaultPreemption"#));
        assert_eq!(not_bound.steps.len(), 1, "what was assumed is taken back");
        let sent = Undertaking::default();
        assert_eq!(sent.send(), Ok(()));
        assert!(!sent.call_off("late"));
    }
}
