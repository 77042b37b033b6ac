//! Fields of features that are off by default in v1.37: a new object loses them, and an update does unless the object had them
//! (upstream's `dropDisabledFields` of `pkg/api/pod` and of the strategies). Their owners are noted before, and stay.

use crate::tree;
use machinery::Value;

/// In a pod's spec. `*` stands for each element of a list or a map.
const OF_PODS: [&[&str]; 12] = [
    &["schedulingGroup"],
    &["evictionResponders"],
    &[CONTAINERS, "*", PROBES, "httpGet", "protocol"],
    &[CONTAINERS, "*", "lifecycle", HOOKS, "httpGet", "protocol"],
    &[CONTAINERS, "*", PROBES, "grpc", "mode"],
    &["volumes", "*", "emptyDir", "mode"],
    &["volumes", "*", FILES, "defaultUser"],
    &["volumes", "*", FILES, "items", "*", "user"],
    &["volumes", "*", "projected", "sources", "*", FILES, "items", "*", "user"],
    &["volumes", "*", "projected", "sources", "*", "serviceAccountToken|clusterTrustBundle|podCertificate", "user"],
    &[CONTAINERS, "*", LIFECYCLE, STOP_SIGNAL],
    &[CONTAINERS, "*", "volumeMounts", "*", "bindMountOptions"],
];
/// Steps that stand for several fields.
const CONTAINERS: &str = "containers|initContainers|ephemeralContainers";
const PROBES: &str = "livenessProbe|readinessProbe|startupProbe";
const LIFECYCLE: &str = "lifecycle";
/// With which its `lifecycle` goes if that says nothing else.
const STOP_SIGNAL: &str = "stopSignal";
const HOOKS: &str = "postStart|preStop";
const FILES: &str = "secret|configMap|downwardAPI|projected";

/// Where a kind has the spec of a pod, and what of itself it loses.
fn fields(group: &str, kind: &str) -> (Option<&'static [&'static str]>, &'static [&'static [&'static str]]) {
    match (group, kind) {
        ("", "Pod") => (
            Some(&["spec"]),
            &[
                &["status", "containerStatuses|initContainerStatuses|ephemeralContainerStatuses", "*", "volumeMounts", "*", "volumeStatus"],
                &["status", "nodeAllocatableResourceClaimStatuses"],
                &["status", "volumeHealth"],
            ],
        ),
        ("", "PodTemplate") => (Some(&["template", "spec"]), &[]),
        ("", "ReplicationController") | ("apps", "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet") => (Some(&["spec", "template", "spec"]), &[]),
        ("batch", "Job") => (Some(&["spec", "template", "spec"]), &[&["spec", "scheduling"]]),
        ("batch", "CronJob") => (Some(&["spec", "jobTemplate", "spec", "template", "spec"]), &[&["spec", "jobTemplate", "spec", "scheduling"]]),
        ("", "Node") => (None, &[&["spec", "podPreemptionPolicy"], &["spec", "configSource"], &["status", "config"]]),
        ("", "PersistentVolumeClaim") => (None, &[&["status", "healthStatus"]]),
        ("storage.k8s.io", "CSINode") => (None, &[&["status", "storageHealth"]]),
        ("resource.k8s.io", "ResourceClaimTemplate") => (
            None,
            &[
                &["spec", "spec", "devices", "requests", "*", "exactly", "derivedAttributes"],
                &["spec", "spec", "devices", "requests", "*", "firstAvailable", "*", "derivedAttributes"],
            ],
        ),
        ("resource.k8s.io", "ResourceClaim") => (
            None,
            &[
                &["spec", "devices", "requests", "*", "exactly", "derivedAttributes"],
                &["spec", "devices", "requests", "*", "firstAvailable", "*", "derivedAttributes"],
            ],
        ),
        _ => (None, &[]),
    }
}

/// Whether a kind is a pod, or holds a template of one.
pub fn holds_pod(group: &str, kind: &str) -> bool {
    fields(group, kind).0.is_some()
}

/// Takes them from an object that is created, or updated from `old`.
pub fn withhold(group: &str, kind: &str, obj: &mut Value, old: Option<&Value>) {
    let (pod, own) = fields(group, kind);
    let of_pod = pod.into_iter().flat_map(|spec| OF_PODS.iter().map(move |path| (spec, *path)));
    for (place, path) in of_pod.chain(own.iter().map(|path| (&[] as &[&str], *path))) {
        let path: Vec<&str> = place.iter().chain(path).copied().collect();
        take_unused(&[&path], obj, old);
    }
    let owner = pod.and_then(|spec| Some(spec.split_last()?.1));
    if let Some(owner) = owner.and_then(|owner| owner.iter().try_fold(obj, |value, step| value.get_mut(*step))) {
        tree::drop_annotations(owner, &OF_INIT_CONTAINERS);
    }
}

/// What said of init containers what now stands in their field: nobody has it any more, whether it was there or not.
const OF_INIT_CONTAINERS: [&str; 4] = [
    "pod.alpha.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-container-statuses",
    "pod.beta.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
];

/// Takes what stands at these paths from an object, if it was not there before.
pub(crate) fn take_unused(paths: &[&[&str]], obj: &mut Value, old: Option<&Value>) {
    for path in paths {
        if !old.is_some_and(|old| is_used(old, path)) {
            take(obj, path);
        }
    }
}

fn is_used(value: &Value, path: &[&str]) -> bool {
    match path.split_first() {
        None => !tree::empty(value),
        Some((&"*", rest)) => match value {
            Value::Array(items) => items.iter().any(|item| is_used(item, rest)),
            Value::Object(entries) => entries.values().any(|entry| is_used(entry, rest)),
            _ => false,
        },
        Some((step, rest)) => step.split('|').any(|field| is_used(&value[field], rest)),
    }
}

fn take(value: &mut Value, path: &[&str]) {
    match path {
        [] => {}
        ["*", rest @ ..] => match value {
            Value::Array(items) => items.iter_mut().for_each(|item| take(item, rest)),
            Value::Object(entries) => entries.values_mut().for_each(|entry| take(entry, rest)),
            _ => {}
        },
        [LIFECYCLE, STOP_SIGNAL] => {
            let only = |lifecycle: &Value| lifecycle.as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key(STOP_SIGNAL));
            if let Some(fields) = value.as_object_mut().filter(|fields| fields.get(LIFECYCLE).is_some_and(only)) {
                fields.remove(LIFECYCLE);
            } else if let Some(lifecycle) = value.get_mut(LIFECYCLE) {
                take(lifecycle, &[STOP_SIGNAL]);
            }
        }
        [last] => {
            if let Some(fields) = value.as_object_mut() {
                last.split('|').for_each(|field| drop(fields.remove(field)));
            }
        }
        [step, rest @ ..] => step.split('|').for_each(|field| {
            if let Some(inner) = value.get_mut(field) {
                take(inner, rest);
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_off_is_taken_unless_it_was_there() {
        let pod = json!({"spec": {"schedulingGroup": {"podGroupName": "a"}, "containers": [{"name": "c", "readinessProbe": {"httpGet": {"port": 1, "protocol": "H2C"}}}]}});
        let mut new = pod.clone();
        withhold("", "Pod", &mut new, None);
        assert_eq!(new, json!({"spec": {"containers": [{"name": "c", "readinessProbe": {"httpGet": {"port": 1}}}]}}));
        let items = json!([{"path": "a", "user": 1}]);
        let mut files = json!({"spec": {"volumes": [{"downwardAPI": {"items": items}}, {"projected": {"sources": [{"secret": {"items": items}}]}}]}});
        withhold("", "Pod", &mut files, None);
        assert_eq!(files["spec"]["volumes"][0]["downwardAPI"]["items"], json!([{"path": "a"}]));
        assert_eq!(files["spec"]["volumes"][1]["projected"]["sources"][0]["secret"]["items"], json!([{"path": "a"}]));
        let signalled = json!({"spec": {"template": {"spec": {"initContainers": [
            {"lifecycle": {"stopSignal": "SIGUSR1"}}, {"lifecycle": {"stopSignal": "SIGUSR1", "preStop": {}}}, {"lifecycle": {}}]}}}});
        let mut plain = signalled.clone();
        withhold("batch", "Job", &mut plain, None);
        assert_eq!(plain["spec"]["template"]["spec"]["initContainers"], json!([{}, {"lifecycle": {"preStop": {}}}, {"lifecycle": {}}]));
        let mut kept = pod.clone();
        withhold("", "Pod", &mut kept, Some(&pod));
        assert_eq!(kept, pod, "what was there stays");
        let noted = json!({"pod.beta.kubernetes.io/init-containers": "[]"});
        let mut workload = json!({"metadata": {"annotations": noted}, "spec": {"template": {"metadata": {"annotations": noted}, "spec": {}}}});
        withhold("apps", "ReplicaSet", &mut workload, None);
        assert_eq!(workload, json!({"metadata": {"annotations": noted}, "spec": {"template": {"metadata": {}, "spec": {}}}}));
        let mut other = pod.clone();
        withhold("example.com", "Pod", &mut other, None);
        assert_eq!(other, pod, "another group's kind is its own");
    }
}
