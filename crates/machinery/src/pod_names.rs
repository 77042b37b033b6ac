//! What a pod names: its node may read it, and nobody may take it away.

use crate::{
    Value,
    tree::{items, text},
};

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(&pod["spec"][list]))
}

/// Its volumes, and the sources of projected ones.
pub fn sources(pod: &Value) -> impl Iterator<Item = &Value> {
    items(&pod["spec"]["volumes"]).iter().flat_map(|v| std::iter::once(v).chain(items(&v["projected"]["sources"])))
}

/// The objects of a kind that its environment comes from: whole ones by `from`, single keys by `key`.
pub fn env<'a>(pod: &'a Value, from: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    containers(pod).flat_map(move |c| {
        let whole = items(&c["envFrom"]).iter().map(move |e| text(&e[from], "name"));
        whole.chain(items(&c["env"]).iter().map(move |e| text(&e["valueFrom"][key], "name")))
    })
}

/// The Secrets that it names: to pull its images, for its environment, in its volumes.
pub fn secrets(pod: &Value) -> impl Iterator<Item = &str> {
    let direct = ["azureFile", "cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];
    let pulls = items(&pod["spec"]["imagePullSecrets"]).iter().map(|s| text(s, "name"));
    let volumes = sources(pod).flat_map(move |s| {
        let own = [
            text(&s["secret"], "secretName"),
            text(&s["secret"], "name"),
            text(&s["azureFile"], "secretName"),
            text(&s["csi"]["nodePublishSecretRef"], "name"),
        ];
        own.into_iter().chain(direct.into_iter().map(move |kind| text(&s[kind]["secretRef"], "name")))
    });
    pulls.chain(env(pod, "secretRef", "secretKeyRef")).chain(volumes)
}
