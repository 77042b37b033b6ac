//! What a pod names that its node may therefore read, and the memory of it.

use crate::Seen;
use machinery::Value;
use machinery::pod_names::{env, secrets, sources};
use machinery::tree::{items, text};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Pods whose names are remembered, in each of two generations: some megabytes at most.
const REMEMBERED_MAX: usize = 8192;

/// A few names.
#[derive(Debug, Default)]
pub(super) struct Names(Box<[Box<str>]>);

impl Names {
    fn new<S: AsRef<str>>(names: impl Iterator<Item = S>) -> Names {
        let mut all: Vec<Box<str>> = names.filter(|name| !name.as_ref().is_empty()).map(|name| name.as_ref().into()).collect();
        all.sort_unstable();
        all.dedup();
        Names(all.into())
    }

    /// Whether a name is among them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.binary_search_by(|own| (**own).cmp(name)).is_ok()
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

/// What a pod names.
#[derive(Debug, Default)]
pub(super) struct Refs {
    pub(super) secrets: Names,
    pub(super) config_maps: Names,
    pub(super) claims: Names,
    pub(super) resource_claims: Names,
    pub(super) account: Box<str>,
}

impl Refs {
    /// Of a pod. A mirror pod names nothing: a node must not give itself rights by the pods that it makes (NodeRestriction
    /// sees to it; this is upstream's second lock).
    pub(super) fn of(pod: &Value) -> Refs {
        if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
            return Refs::default();
        }
        Refs {
            secrets: Names::new(secrets(pod)),
            config_maps: Names::new(env(pod, "configMapRef", "configMapKeyRef").chain(sources(pod).map(|s| text(&s["configMap"], "name")))),
            claims: Names::new(claims(pod)),
            resource_claims: Names::new(resource_claims(pod)),
            account: text(&pod["spec"], "serviceAccountName").into(),
        }
    }
}

type Generation = HashMap<Arc<str>, (u64, Arc<Refs>)>;

/// What pods name, by their keys and revisions.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<(Generation, Generation)>);

impl Remembered {
    /// Of a pod that is passed by; it is looked into if it has changed.
    pub(super) fn of(&self, pod: &Seen<'_>) -> Arc<Refs> {
        {
            let mut both = self.0.lock();
            if let Some((_, refs)) = both.0.get(pod.key).filter(|(revision, _)| *revision == pod.revision) {
                return Arc::clone(refs);
            }
            if let Some((_, refs)) = both.1.remove(pod.key).filter(|(revision, _)| *revision == pod.revision) {
                both.0.insert(Arc::clone(pod.key), (pod.revision, Arc::clone(&refs)));
                return refs;
            }
        }
        let refs = Arc::new(Refs::of(&(pod.value)()));
        let mut both = self.0.lock();
        if both.0.len() >= REMEMBERED_MAX {
            both.1 = std::mem::take(&mut both.0);
        }
        both.0.insert(Arc::clone(pod.key), (pod.revision, Arc::clone(&refs)));
        refs
    }
}

fn claims(pod: &Value) -> impl Iterator<Item = String> {
    items(&pod["spec"]["volumes"]).iter().map(|v| {
        if v["ephemeral"].is_object() {
            return format!("{}-{}", text(&pod["metadata"], "name"), text(v, "name"));
        }
        text(&v["persistentVolumeClaim"], "claimName").to_owned()
    })
}

fn resource_claims(pod: &Value) -> impl Iterator<Item = &str> {
    let asked = items(&pod["spec"]["resourceClaims"]).iter().chain(items(&pod["status"]["resourceClaimStatuses"]));
    asked.map(|c| text(c, "resourceClaimName")).chain(std::iter::once(text(&pod["status"]["extendedResourceClaimStatus"], "resourceClaimName")))
}

/// Namespace (empty: the claim's) and name of the secrets that a volume needs.
pub(super) fn volume_secrets(volume: &Value) -> impl Iterator<Item = (&str, &str)> {
    let spec = &volume["spec"];
    let csi = ["controllerPublishSecretRef", "nodePublishSecretRef", "nodeStageSecretRef", "controllerExpandSecretRef", "nodeExpandSecretRef"];
    let kinds = ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];
    let refs = csi.into_iter().map(move |r| &spec["csi"][r]).chain(kinds.into_iter().map(move |k| &spec[k]["secretRef"]));
    let azure = (text(&spec["azureFile"], "secretNamespace"), text(&spec["azureFile"], "secretName"));
    refs.map(|r| (text(r, "namespace"), text(r, "name"))).chain(std::iter::once(azure)).filter(|(_, name)| !name.is_empty())
}
