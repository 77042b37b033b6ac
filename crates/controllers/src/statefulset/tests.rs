//! Order, as a table of who exists and what comes next.

use std::sync::Arc;

use client::{Informer, Meta, Recorder};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::Sets;
use super::plan::{Action, Version, ordinal, plan, status};
use crate::work::Controller;

fn set(replicas: i32, change: Value) -> StatefulSet {
    let mut spec = json!({"replicas": replicas, "serviceName": "svc", "selector": {"matchLabels": {"app": "a"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap_or_else(|e| panic!("{e}"))
}

/// `0` runs; `1?` is not ready; `2-` is being deleted; `3!` has failed; `4*` runs the new revision; `5~` is ready for a moment; `6#` lost
/// its label.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let pod = |word: &str| {
        let n = word.trim_end_matches(['?', '-', '!', '*', '~', '#']);
        let phase = if word.contains('!') { "Failed" } else { "Running" };
        let ready = if word.contains(['?', '!']) { "False" } else { "True" };
        let since = if word.contains('~') { client::now() } else { crate::meta::seconds(k8s_openapi::jiff::Timestamp::UNIX_EPOCH) };
        let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": format!("data-web-{n}")}});
        let hash = if word.contains('*') { "new" } else { "old" };
        let mut labels = json!({"controller-revision-hash": hash, "statefulset.kubernetes.io/pod-name": format!("web-{n}")});
        if word.contains('#') {
            labels = json!({"controller-revision-hash": hash});
        }
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("web-{n}"), "labels": labels},
            "spec": {"containers": [], "volumes": [volume]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]},
        }))
        .unwrap_or_default();
        pod.meta_mut().deletion_timestamp = word.contains('-').then(client::now);
        Arc::new(pod)
    };
    text.split_whitespace().map(pod).collect()
}

fn version(name: &str, set: &StatefulSet) -> Version {
    Version { name: name.to_owned(), template: set.spec.template.clone() }
}

fn next(set: &StatefulSet, state: &str, update: &str) -> String {
    let actions = plan(set, &pods(state), &version("old", set), &version(update, set), client::timestamp());
    let told = actions.iter().map(|a| match a {
        Action::Create(pod) => format!("+{}", pod.name()),
        Action::Update(pod) => format!("={}", pod.name()),
        Action::Delete(pod) => format!("-{}", pod.name()),
    });
    told.collect::<Vec<_>>().join(" ").replace("web-", "")
}

#[test]
fn one_after_the_other() {
    let ordered = set(3, json!({}));
    for (state, want) in [
        ("", "+0"),
        ("0?", ""),
        ("0", "+1"),
        ("0 1-", ""),
        ("0 1 2", ""),
        ("0 2", "+1"),
        ("0! 1", "-0"),
        ("0 1 2 3 4", "-4"),
        ("0 1 2 3 4-", ""),
        ("0 1? 2 3", ""),
    ] {
        assert_eq!(next(&ordered, state, "old"), want, "{state}");
    }
    let parallel = set(3, json!({"podManagementPolicy": "Parallel"}));
    for (state, want) in [("", "+0 +1 +2"), ("0?", "+1 +2"), ("0 1 2 3 4-", "-3")] {
        assert_eq!(next(&parallel, state, "old"), want, "{state}");
    }
    assert_eq!(next(&set(2, json!({"ordinals": {"start": 5}})), "0 5", "old"), "+6");
}

#[test]
fn numbers_may_be_as_large_as_they_can() {
    let all = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": i32::MAX}});
    let kept = set(2, json!({"ordinals": {"start": 5}, "updateStrategy": all}));
    assert_eq!(next(&kept, "5 6", "new"), "", "none is of the part that goes");
    let steps = |set: &StatefulSet, state: &str| plan(set, &pods(state), &version("old", set), &version("new", set), client::timestamp());
    match steps(&kept, "5").as_slice() {
        [Action::Create(pod)] => assert_eq!(pod.label("controller-revision-hash"), Some("old")),
        other => panic!("{other:?}"),
    }
    let endless = set(i32::MAX, json!({"ordinals": {"start": 5}, "podManagementPolicy": "Parallel"}));
    assert_eq!(steps(&endless, "5 6").len(), 500);
}

#[test]
fn a_new_template_goes_from_the_last_to_the_first() {
    let rolling = set(3, json!({}));
    for (state, want) in [("0 1 2", "-2"), ("0 1 2-", ""), ("0 1 2*?", ""), ("0 1 2*", "-1"), ("0* 1* 2*", "")] {
        assert_eq!(next(&rolling, state, "new"), want, "{state}");
    }
    let parted = set(3, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    assert_eq!(next(&parted, "0 1 2", "new"), "-2");
    assert_eq!(next(&parted, "0 1 2*", "new"), "");
    assert_eq!(next(&set(3, json!({"updateStrategy": {"type": "OnDelete"}})), "0 1 2", "new"), "");
    let two = set(4, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}}));
    assert_eq!(next(&two, "0 1 2 3", "new"), "-3 -2");
}

#[test]
fn in_a_parallel_set_what_does_not_serve_goes_first_and_all_of_it() {
    let parallel = |max: i32| {
        set(
            4,
            json!({"podManagementPolicy": "Parallel", "minReadySeconds": 30,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": max}}}),
        )
    };
    for (max, state, want) in [
        (1, "0 1 2 3", "-3"),
        (1, "0 1 2 3*~", ""),
        (1, "0 1? 2? 3", "-2 -1"),
        (2, "0 1? 2 3", "-1 -3"),
        (2, "0 1-  2 3", "-3"),
        (1, "0? 1 2 3*", "-0"),
        (3, "0* 1*? 2 3", "-3 -2"),
    ] {
        assert_eq!(next(&parallel(max), state, "new"), want, "{max} {state}");
    }
}

#[test]
fn one_that_is_too_many_waits_for_those_that_are_not_available() {
    let ordered = set(1, json!({"minReadySeconds": 30}));
    for (state, want) in [("0 1 2~", "-2"), ("0 1~ 2~", ""), ("0 1~ 2", "-2"), ("0~ 1 2", "")] {
        assert_eq!(next(&ordered, state, "old"), want, "{state}");
    }
}

#[test]
fn what_somebody_took_from_a_pod_is_given_back() {
    assert_eq!(next(&set(2, json!({})), "0# 1", "old"), "=0");
    assert_eq!(next(&set(2, json!({})), "0 1-#", "old"), "", "one that goes needs nothing");
    let actions = plan(&set(1, json!({})), &pods("0#"), &version("old", &set(1, json!({}))), &version("old", &set(1, json!({}))), client::timestamp());
    let [Action::Update(pod)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((pod.label("statefulset.kubernetes.io/pod-name"), pod.label("apps.kubernetes.io/pod-index")), (Some("web-0"), Some("0")));
    assert_eq!(pod.label("controller-revision-hash"), Some("old"), "what else it has stays");
}

#[test]
fn a_pod_has_its_name_its_host_and_its_claims() {
    let set = set(1, json!({}));
    let actions = plan(&set, &[], &version("old", &set), &version("new", &set), client::timestamp());
    let Some(Action::Create(pod)) = actions.first() else { panic!("{actions:?}") };
    let spec = pod.spec.clone().unwrap_or_default();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-0"), Some("svc")));
    let claim = spec.volumes.unwrap_or_default()[0].persistent_volume_claim.clone().map(|c| c.claim_name);
    assert_eq!(claim.as_deref(), Some("data-web-0"));
    assert_eq!(pod.label("apps.kubernetes.io/pod-index"), Some("0"));
    assert_eq!(pod.label("controller-revision-hash"), Some("new"));
    assert_eq!((ordinal("web", "web-12"), ordinal("web", "web-012"), ordinal("web", "web-x"), ordinal("web", "web2-1")), (Some(12), None, None, None));
}

#[test]
fn a_claim_that_goes_with_its_set_is_the_sets_from_the_beginning() {
    let owners = |policy: serde_json::Value| -> Vec<String> {
        let claim = super::claims::of_pod(&set(1, json!({"persistentVolumeClaimRetentionPolicy": policy})), "web-0").remove(0);
        claim.metadata.owner_references.unwrap_or_default().into_iter().map(|owner| owner.uid).collect()
    };
    assert_eq!(owners(json!({"whenDeleted": "Delete"})), ["u"]);
    assert!(owners(json!({"whenScaled": "Delete"})).is_empty() && owners(json!({})).is_empty());
}

#[test]
fn the_status_turns_when_all_are_new() {
    let set = set(2, json!({}));
    let half = status(&set, &pods("0 1*"), "old", "new", 0, client::timestamp());
    assert_eq!((half.replicas, half.current_replicas, half.updated_replicas, half.current_revision.as_deref()), (2, Some(1), Some(1), Some("old")));
    let all = status(&set, &pods("0* 1*"), "old", "new", 0, client::timestamp());
    assert_eq!((all.current_replicas, all.current_revision.as_deref()), (Some(2), Some("new")));
    let by_hand = self::set(2, json!({"updateStrategy": {"type": "OnDelete"}}));
    let all = status(&by_hand, &pods("0* 1*"), "old", "new", 0, client::timestamp());
    assert_eq!(all.current_revision.as_deref(), Some("new"), "by whatever strategy");
}

#[test]
fn a_claim_is_known_by_its_name() {
    let set = set(1, json!({}));
    for (name, own) in
        [("data-web-0", true), ("data-web-12", true), ("data-web-01", false), ("data-web", false), ("other-web-0", false), ("data-webs-0", false)]
    {
        assert_eq!(super::plan::has_claim(&set, name), own, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_given_its_owner_is_told() {
    let server = crate::fake::Fake::new(|method, _: &str| match method {
        "PUT" => crate::fake::refusal(403, "Forbidden"),
        _ => (201, json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}})),
    });
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data-web-0", "namespace": "n"}})).unwrap_or_default();
    let sets = Sets {
        recorder: Recorder::new(server.client(), "statefulset-controller", ""),
        client: server.client(),
        sets: Informer::fixed([]),
        pods: Informer::fixed([]),
        revisions: Informer::fixed([]),
        claims: Informer::fixed([claim]),
        selectors: crate::compiled::Compiled::default(),
    };
    let set = set(1, json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"}}));
    assert!(sets.own_claims(&set, &pods("0")).await.is_err());
    // Events are written in the background.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    let events: Vec<String> = server.written().into_iter().filter(|line| line.starts_with("POST ")).collect();
    let why = "Update Pod web-0 in StatefulSet web failed error: could not update claim data-web-0 for delete policy ownerRefs: ";
    assert!(events.len() == 1 && events[0].contains("FailedUpdate") && events[0].contains(why), "{events:?}");
}

#[tokio::test]
async fn a_set_whose_pods_are_refused_keeps_no_more_history_than_it_may() {
    let server = crate::fake::Fake::new(|method, path: &str| match method {
        "POST" if path.ends_with("/pods") => crate::fake::refusal(403, "Forbidden"),
        _ => (201, json!({"metadata": {"name": "web-new", "namespace": "n"}, "revision": 4, "data": {}})),
    });
    let revision = |number: i64| -> ControllerRevision {
        let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": true});
        let meta = json!({"name": format!("web-{number}"), "namespace": "n", "labels": {"app": "a"}, "ownerReferences": [owner]});
        let template = json!({"spec": {"template": {"metadata": {"labels": {"was": number.to_string()}}}}});
        serde_json::from_value(json!({"metadata": meta, "revision": number, "data": template})).unwrap_or_else(|e| panic!("{e}"))
    };
    for (limit, gone) in [(1, &["web-1", "web-2"][..]), (-1, &[][..])] {
        let set = set(1, json!({"volumeClaimTemplates": [], "revisionHistoryLimit": limit}));
        let before = server.written().len();
        let sets = Sets {
            recorder: Recorder::new(server.client(), "statefulset-controller", ""),
            client: server.client(),
            sets: Informer::fixed([set]),
            pods: Informer::fixed([]),
            revisions: Informer::fixed([1, 2, 3].map(revision)),
            claims: Informer::fixed([]),
            selectors: crate::compiled::Compiled::default(),
        };
        assert!(sets.reconcile(&client::ObjectKey::new("n", "web")).await.is_err(), "it is tried again");
        let written = server.written();
        let deleted = written.iter().skip(before).filter_map(|line| line.strip_prefix("DELETE ")?.split(' ').next()?.rsplit('/').next());
        assert_eq!(deleted.collect::<Vec<_>>(), gone, "{limit}: a negative limit is none");
    }
}
