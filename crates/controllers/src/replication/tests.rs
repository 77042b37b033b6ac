//! Which pods go, and what a set counts.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Replicated, Replication, plan};
use crate::fake::{Fake, refusal};
use crate::pods::PodControl;

const NOW: &str = "2026-01-01T12:00:00Z";

fn now() -> k8s_openapi::jiff::Timestamp {
    NOW.parse().unwrap_or_default()
}

fn pod(name: &str, change: &[(&str, Value)]) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T10:00:00Z", "labels": {"app": "a"}},
        "spec": {"containers": [], "nodeName": "n"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:00:00Z"}]},
    });
    for (pointer, new) in change {
        *value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = new.clone();
    }
    Arc::new(serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn the_least_useful_pod_goes_first() {
    let ready = "/status/conditions/0/status";
    let costly =
        pod("costly", &[("/metadata", json!({"name": "costly", "uid": "costly", "annotations": {"controller.kubernetes.io/pod-deletion-cost": "5"}}))]);
    let restarted = pod(
        "restarted",
        &[(
            "/status",
            json!({
                "phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 3, "ready": true, "image": "", "imageID": ""}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:00:00Z"}],
            }),
        )],
    );
    let order = [
        pod("unassigned", &[("/spec/nodeName", json!(""))]),
        pod("pending", &[("/status/phase", json!("Pending"))]),
        pod("unready", &[(ready, json!("False"))]),
        pod("doubled", &[("/spec/nodeName", json!("crowded"))]),
        pod("fresh", &[("/status/conditions/0/lastTransitionTime", json!("2026-01-01T11:59:50Z"))]),
        restarted,
        pod("young", &[("/metadata/creationTimestamp", json!("2026-01-01T11:00:00Z"))]),
        pod("old", &[]),
        costly,
    ];
    let mut related = order.to_vec();
    related.extend((0..20).map(|n| pod(&format!("other-{n}"), &[("/spec/nodeName", json!("crowded"))])));
    let mut shuffled = order.to_vec();
    shuffled.reverse();
    shuffled.swap(1, 5);
    for count in 1..order.len() {
        let gone: Vec<_> = plan::to_delete(&shuffled, &related, count, now()).iter().map(|p| p.name().to_owned()).collect();
        let want: Vec<_> = order[..count].iter().map(|p| p.name().to_owned()).collect();
        assert_eq!(gone, want);
    }
}

/// Somebody took a pod's labels: one that serves is let go, one that goes anyway is nobody's business.
#[test]
fn what_goes_is_counted_and_not_let_go() {
    let selector = machinery::labels::Selector::parse("app=a").unwrap_or_else(|e| panic!("{e}"));
    let of = |app: &str, deleted: Option<&str>, owner: &str| {
        let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": owner, "controller": true}]);
        pod("p", &[("/metadata", json!({"name": "p", "labels": {"app": app}, "deletionTimestamp": deleted, "ownerReferences": owners}))])
    };
    let claimable = |pod: &Pod| plan::is_claimable(pod, "u", &selector);
    assert!(claimable(&of("b", None, "u")) && claimable(&of("a", Some(NOW), "u")));
    assert!(!claimable(&of("b", Some(NOW), "u")) && !claimable(&of("a", Some(NOW), "another")));
}

#[test]
fn counts_are_of_pods_and_failures_stay_until_they_are_over() {
    let mut set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": "s", "generation": 4},
        "spec": {"replicas": 3, "minReadySeconds": 30, "selector": {"matchLabels": {"app": "a"}},
                 "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}}},
    }))
    .unwrap_or_default();
    let recent = pod("recent", &[("/status/conditions/0/lastTransitionTime", json!("2026-01-01T11:59:50Z"))]);
    let active = [pod("a", &[]), recent, pod("b", &[("/status/conditions/0/status", json!("False"))])];
    let error = client::Error::Transport("no".to_owned());
    let counts = plan::counts(&set, &active[..2], 1, Some(&error), now());
    assert_eq!((counts.replicas, counts.ready, counts.available, counts.fully_labeled, counts.terminating), (2, 2, 1, 2, Some(1)));
    assert_eq!(counts.conditions[0].reason.as_deref(), Some("FailedCreate"));
    assert_eq!(counts.observed_generation, 4);
    assert_eq!(plan::next_available(&set, &active, now()).map(|d| d.as_secs()), Some(20));
    set.set_counts(counts.clone());
    assert_eq!(set.counts(), counts);
    assert!(plan::counts(&set, &active, 0, None, now()).conditions.is_empty());
}

/// The counts of a set that is gone are not written into its namesake, whose pods are others.
#[tokio::test]
async fn a_namesake_does_not_get_the_counts_of_the_one_before() {
    for (live, writes) in [("u", 2), ("another", 1)] {
        let server = Fake::new(move |method, _| {
            let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "s", "namespace": "n", "uid": live, "resourceVersion": "9"},
                "spec": {"selector": {}}});
            if method == "GET" { (200, set) } else { refusal(409, "Conflict") }
        });
        let client = server.client();
        let replication = Replication::<ReplicaSet> {
            control: PodControl { recorder: client::Recorder::new(client.clone(), "c", ""), client: client.clone() },
            client,
            sets: client::Informer::fixed([]),
            pods: client::Informer::fixed([]),
            expectations: Default::default(),
            selectors: Default::default(),
            age_ratio: Arc::new(instruments::Histogram::new(&super::AGE_RATIO_ENDS)),
        };
        let set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n", "uid": "u", "resourceVersion": "5"}, "spec": {"selector": {}}}))
                .unwrap_or_default();
        let written = replication.write_status(&set, super::Counts { replicas: 3, ..Default::default() }).await;
        assert_eq!(written.is_ok(), writes == 1, "nothing is left to be written, or it is tried again");
        assert_eq!(server.written().len(), writes);
    }
}

#[test]
fn the_ages_of_what_goes_are_told_by_the_youngest() {
    let now = client::timestamp();
    let pod = |age_s: i64, ready: &str| {
        let created = k8s_openapi::jiff::Timestamp::from_second(now.as_second() - age_s).unwrap_or_default().to_string();
        let conditions = json!([{"type": "Ready", "status": ready}]);
        Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {"creationTimestamp": created}, "status": {"conditions": conditions}})).unwrap_or_default())
    };
    let active = [pod(5, "False"), pod(100, "True"), pod(350, "True"), pod(1000, "True")];
    let told = super::plan::age_ratios(&active, &active[..3], now);
    assert_eq!(told, [1.0, 3.0], "of those that are ready");
    assert!(super::plan::age_ratios(&[], &[], now).is_empty());
}
