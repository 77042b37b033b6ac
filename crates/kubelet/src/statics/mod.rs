//! Static pods: those that files on this node describe (`--pod-manifest-path`), which start without an API server.
//!
//! A static pod is a pod like any other to its worker. It differs in where it comes from ([`source`], [`read`]) and in that the API knows it
//! by a *mirror* ([`mirrors`]): a pod of the same name with a UID of its own, made by this kubelet, to which the status is written. Nobody
//! ends a static pod but its file; a mirror that somebody deletes is made again. The rules are upstream's (`pkg/kubelet/config`,
//! `pkg/kubelet/pod`).
//!
//! What makes a pod static is an annotation that this kubelet writes and that it overwrites in what the API tells ([`of_the_api`]): nobody
//! becomes what the node cannot be without by saying so.

pub mod mirrors;
pub mod read;
pub mod source;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::util;

/// Where a pod came from.
const SOURCE: &str = "kubernetes.io/config.source";
/// What a static pod is known by: its UID, unless its file says another.
const HASH: &str = "kubernetes.io/config.hash";
/// The same, on its mirror.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// When it was first seen.
const SEEN: &str = "kubernetes.io/config.seen";
/// It came from a file.
const FILE: &str = "file";
/// It came from the API.
const API: &str = "api";

fn annotation<'p>(pod: &'p Pod, key: &str) -> Option<&'p str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether a pod came from elsewhere than the API.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != API)
}

/// Whether a pod of the API only shows a static one.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// Namespace and name: what a static pod and its mirror have in common.
pub type FullName = (String, String);

/// Those of a pod.
#[must_use]
pub fn full_name(pod: &Pod) -> FullName {
    (util::namespace(pod).to_owned(), util::name(pod).to_owned())
}

/// Whether two static pods of one UID are the same, as far as their files go.
#[must_use]
pub fn same(a: &Pod, b: &Pod) -> bool {
    let told = |p: &Pod| {
        let mut annotations = p.metadata.annotations.clone().unwrap_or_default();
        annotations.remove(SEEN);
        annotations
    };
    a.spec == b.spec && a.metadata.labels == b.metadata.labels && told(a) == told(b)
}

/// A pod as the API tells of it: that it comes from there is not its user's to say.
#[must_use]
pub fn of_the_api(pod: Arc<Pod>) -> Arc<Pod> {
    if !is_static(&pod) {
        return pod;
    }
    let mut own = (*pod).clone();
    own.metadata.annotations.get_or_insert_default().insert(SOURCE.to_owned(), API.to_owned());
    Arc::new(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nobody_is_static_by_saying_so() {
        let pod = |annotations: serde_json::Value| Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {"annotations": annotations}})).unwrap());
        let says = pod(json!({SOURCE: "file", "a": "b"}));
        assert!(is_static(&says));
        let told = of_the_api(Arc::clone(&says));
        assert!(!is_static(&told) && annotation(&told, "a") == Some("b"));
        let plain = pod(json!({"a": "b"}));
        assert!(Arc::ptr_eq(&of_the_api(Arc::clone(&plain)), &plain));
        assert!(is_mirror(&pod(json!({MIRROR: ""}))) && !is_mirror(&plain));
    }
}
