//! Carries out a placement: volumes first, if they waited for it, then the binding itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Error, EventType, Informer, Meta, Patch, PatchParams, Recorder};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::watch;

use crate::plugins::volume_binding::{self, SELECTED_NODE, Step};

/// How long volumes are waited for (upstream `VolumeBindingTimeoutSeconds`).
const VOLUMES_MAX: Duration = Duration::from_secs(600);
/// The same for volumes that are there and only have to be bound: a controller that does that needs no longer, and where none
/// runs the pod must not hold its room.
const BOUND_MAX: Duration = Duration::from_secs(60);

pub(super) struct Work {
    pub client: Client,
    pub recorder: Recorder,
    pub claims: Informer<PersistentVolumeClaim>,
    /// Told of every change of a claim.
    pub changes: watch::Receiver<()>,
    pub pod: Arc<Pod>,
    pub node: String,
    pub steps: Vec<Step>,
}

impl Work {
    pub(super) async fn run(mut self) -> Result<(), Error> {
        if !self.steps.is_empty() {
            self.volumes().await?;
        }
        let (namespace, name) = (self.pod.namespace(), self.pod.name());
        let binding = Binding {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: self.pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference { kind: Some("Node".into()), name: Some(self.node.clone()), ..ObjectReference::default() },
        };
        let api = self.client.namespaced::<Pod>(namespace);
        let _: IgnoredAny = api.create_subresource(name, "binding", &binding).await?;
        let text = format!("Successfully assigned {namespace}/{name} to {}", self.node);
        self.recorder.event(&client::object_reference(&*self.pod), EventType::Normal, "Scheduled", text);
        Ok(())
    }

    async fn volumes(&mut self) -> Result<(), Error> {
        let params = PatchParams::default();
        for step in &self.steps {
            match step {
                Step::Bind(claim, volume) => {
                    let target = client::object_reference(&**claim);
                    let patch = json!({"metadata": {"resourceVersion": volume.resource_version(),
                        "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}, "spec": {"claimRef": target}});
                    self.client.all::<PersistentVolume>().patch(volume.name(), &Patch::Merge(patch), &params).await?;
                }
                Step::Provision(claim) => {
                    let patch = json!({"metadata": {"annotations": {SELECTED_NODE: self.node}}});
                    let api = self.client.namespaced::<PersistentVolumeClaim>(claim.namespace());
                    api.patch(claim.name(), &Patch::Merge(patch), &params).await?;
                }
            }
        }
        let patience = if self.steps.iter().all(|s| matches!(s, Step::Bind(..))) { BOUND_MAX } else { VOLUMES_MAX };
        match tokio::time::timeout(patience, self.bound()).await {
            Ok(bound) => bound,
            Err(_) => Err(Error::Transport("binding volumes: context deadline exceeded".into())),
        }
    }

    /// Waits until all claims are bound, or until one cannot become so any more.
    async fn bound(&mut self) -> Result<(), Error> {
        let mut selected = HashSet::new();
        loop {
            let mut all = true;
            for step in &self.steps {
                all &= self.is_bound(step, &mut selected).map_err(|why| Error::Transport(format!("binding volumes: {why}")))?;
            }
            if all {
                return Ok(());
            }
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a step is done (upstream `checkBindings`); an error if it never will be. `selected`: claims whose word to their
    /// provisioner has been seen: before that it is only not in memory yet.
    fn is_bound(&self, step: &Step, selected: &mut HashSet<String>) -> Result<bool, String> {
        let (Step::Bind(claim, _) | Step::Provision(claim)) = step;
        let Some(now) = self.claims.get(claim.namespace(), claim.name()).filter(|c| c.uid() == claim.uid()) else {
            return Err(format!("persistentvolumeclaim {:?} was deleted", claim.key().to_string()));
        };
        if matches!(step, Step::Provision(_)) {
            if now.annotation(SELECTED_NODE).is_some() {
                selected.insert(claim.uid().to_owned());
            } else if selected.contains(claim.uid()) {
                // So a provisioner says that it cannot serve this node.
                return Err(format!("provisioning failed for PVC {:?}", claim.name()));
            }
        }
        Ok(volume_binding::is_bound(&now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use client::{Body, Transport};
    use futures_util::future::BoxFuture;
    use http_body_util::{BodyExt, Full};
    use serde_json::Value;

    /// A server that takes every write.
    struct Willing;

    impl Transport for Willing {
        fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'static, client::Result<http::Response<Body>>> {
            let object = Bytes::from(json!({"metadata": {"name": "x"}, "spec": {}}).to_string());
            let body = Full::new(object).map_err(|never| match never {}).boxed_unsync();
            Box::pin(async { Ok(http::Response::builder().header("content-type", "application/json").body(body).expect("an answer")) })
        }
    }

    fn claim(uid: &str, annotations: Value, volume: &str) -> PersistentVolumeClaim {
        let value = json!({"metadata": {"namespace": "n", "name": "c", "uid": uid, "annotations": annotations}, "spec": {"volumeName": volume}});
        serde_json::from_value(value).expect("a claim")
    }

    /// The work of a pod whose claim `c` is in memory like this.
    fn work(steps: Vec<Step>, now: Option<PersistentVolumeClaim>) -> (Work, watch::Sender<()>) {
        let client = Client::new(Arc::new(Willing));
        let (changed, changes) = watch::channel(());
        let claims = Informer::fixed(now);
        let recorder = Recorder::new(client.clone(), "default-scheduler", "");
        (Work { recorder, client, claims, changes, pod: Arc::default(), node: "node".into(), steps }, changed)
    }

    fn provision() -> Step {
        Step::Provision(Arc::new(claim("u", json!({}), "")))
    }

    fn bind() -> Step {
        Step::Bind(Arc::new(claim("u", json!({}), "")), Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_goes_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        for now in [None, Some(claim("another of its name", json!({}), ""))] {
            let (mut work, _changed) = work(vec![provision()], now);
            let why = work.volumes().await.expect_err("it will never be bound").to_string();
            assert!(why.contains(r#"persistentvolumeclaim "n/c" was deleted"#), "{why}");
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (mut work, _changed) = work(vec![bind()], Some(claim("u", json!({"pv.kubernetes.io/bind-completed": "yes"}), "v")));
        work.volumes().await.expect("it is bound");
    }

    #[tokio::test]
    async fn a_provisioner_that_gives_a_node_back_is_understood() {
        let mut selected = HashSet::new();
        let mut told = |annotations: Value| {
            let (work, _changed) = work(vec![], Some(claim("u", annotations, "")));
            work.is_bound(&provision(), &mut selected)
        };
        assert_eq!(told(json!({})), Ok(false), "the word to it is not in memory yet");
        assert_eq!(told(json!({SELECTED_NODE: "node"})), Ok(false));
        assert_eq!(told(json!({})), Err("provisioning failed for PVC \"c\"".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_that_nobody_binds_does_not_hold_the_pod_s_room_for_long() {
        for (step, patience) in [(bind(), BOUND_MAX), (provision(), VOLUMES_MAX)] {
            let begun = tokio::time::Instant::now();
            let (mut work, _changed) = work(vec![step], Some(claim("u", json!({}), "")));
            let why = work.volumes().await.expect_err("nobody binds it").to_string();
            assert!(why.contains("context deadline exceeded"), "{why}");
            assert!((patience..patience + Duration::from_secs(1)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        }
    }
}
