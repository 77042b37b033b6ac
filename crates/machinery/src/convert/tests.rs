use super::*;
use serde_json::json;

fn gvk(group: &str, version: &str, kind: &str) -> Gvk {
    Gvk { group: group.into(), version: version.into(), kind: kind.into() }
}

#[test]
fn events_change_their_names_and_back() {
    let (core, events) = (gvk("", "v1", "Event"), gvk("events.k8s.io", "v1", "Event"));
    let event = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m", "count": 2,
        "reportingComponent": "c", "reportingInstance": "", "reason": "R"});
    let other = convert(event.clone(), &core, &events);
    assert_eq!(
        other,
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"name": "a"}, "note": "m", "deprecatedCount": 2,
            "reportingController": "c", "reason": "R"})
    );
    assert_eq!(convert(other, &events, &core), event);
}

#[test]
fn autoscalers_keep_what_v1_has_no_fields_for() {
    let (v1, v2) = (gvk("autoscaling", "v1", "HorizontalPodAutoscaler"), gvk("autoscaling", "v2", "HorizontalPodAutoscaler"));
    let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a", "annotations": {"mine": "kept"}},
        "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}},
        "status": {"currentMetrics": null, "conditions": [{"type": "AbleToScale", "status": "True"}]}});
    let old = convert(object.clone(), &v2, &v1);
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
    assert!(old["spec"].get("metrics").is_none());
    assert_eq!(
        old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"],
        r#"[{"type":"Pods","pods":{"metricName":"rps","targetAverageValue":"10"}}]"#
    );
    let behavior = r#"{"StabilizationWindowSeconds":null,"SelectPolicy":null,"Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":60}],"Tolerance":null}"#;
    assert_eq!(old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/behavior"], format!(r#"{{"ScaleUp":null,"ScaleDown":{behavior}}}"#));
    assert_eq!(
        old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/conditions"],
        r#"[{"type":"AbleToScale","status":"True","lastTransitionTime":null}]"#
    );
    let mut back = convert(old, &v1, &v2);
    assert_eq!(back["status"]["conditions"][0]["lastTransitionTime"].take(), Value::Null);
    back["status"]["conditions"] = object["status"]["conditions"].clone();
    assert_eq!(back, object);
}

/// The annotation of kube-apiserver 1.37.2.
#[test]
fn a_utilisation_of_v1_is_noted_with_the_value_that_it_has_not() {
    let (v1, v2) = (gvk("autoscaling", "v1", "HorizontalPodAutoscaler"), gvk("autoscaling", "v2", "HorizontalPodAutoscaler"));
    let object =
        json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "x"}, "spec": {"maxReplicas": 3}, "status": {"currentCPUUtilizationPercentage": 255}});
    let again = convert(convert(object, &v1, &v2), &v2, &v1);
    let noted = r#"[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":255,"currentAverageValue":"0"}}]"#;
    assert_eq!(again["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/current-metrics"], noted);
    assert_eq!(again["status"]["currentCPUUtilizationPercentage"], 255);
    assert_eq!(convert(again, &v1, &v2)["metadata"], json!({"name": "x"}), "no annotations are left");
}

#[test]
fn a_v1_autoscaler_without_metrics_means_80_percent() {
    let (v1, v2) = (gvk("autoscaling", "v1", "HorizontalPodAutoscaler"), gvk("autoscaling", "v2", "HorizontalPodAutoscaler"));
    let new = convert(json!({"spec": {"maxReplicas": 3}}), &v1, &v2);
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"], json!({"type": "Utilization", "averageUtilization": 80}));
}

#[test]
fn other_versions_change_their_name_alone() {
    let (old, new) = (gvk("certificates.k8s.io", "v1beta1", "ClusterTrustBundle"), gvk("certificates.k8s.io", "v1", "ClusterTrustBundle"));
    let value = convert(json!({"apiVersion": "certificates.k8s.io/v1beta1", "spec": {"trustBundle": "x"}}), &old, &new);
    assert_eq!(value, json!({"apiVersion": "certificates.k8s.io/v1", "spec": {"trustBundle": "x"}}));
}
