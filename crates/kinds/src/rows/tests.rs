//! Golden tables: what `kubectl get -o wide` prints of one object of each of the most seen kinds.

use crate::strategy;
use machinery::{Value, resources, time};
use serde_json::json;
use std::time::SystemTime;

fn now() -> SystemTime {
    time::parse("2026-11-24T12:00:00Z").unwrap()
}

/// The cells of an object, numbers and truths as kubectl writes them, between bars.
fn line(obj: &Value) -> String {
    let cells = super::cells(obj, now());
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(text).collect::<Vec<_>>().join(" | ")
}

fn object(api: &str, kind: &str, created: &str, mut rest: Value) -> Value {
    rest["apiVersion"] = api.into();
    rest["kind"] = kind.into();
    rest["metadata"]["name"] = "a".into();
    rest["metadata"]["creationTimestamp"] = created.into();
    rest
}

#[test]
fn every_row_has_as_many_cells_as_columns() {
    for resource in resources::builtin().iter().filter(|r| !r.columns.is_empty()) {
        let empty = json!({"apiVersion": resource.kind.api_version(), "kind": resource.kind.kind});
        let cells = strategy(&resource.group, &resource.resource).row(&empty, now());
        let more = usize::from(resource.resource == "ipaddresses");
        assert_eq!(cells.len(), resource.columns.len() + more, "{}/{}", resource.group, resource.resource);
        for (cell, column) in cells.iter().zip(&resource.columns) {
            assert!(cell.is_string() || column.column_type != "date", "{} {}", resource.resource, column.name);
            assert!(!cell.is_object() && !cell.is_array(), "{} {}", resource.resource, column.name);
        }
    }
}

#[test]
fn nothing_in_an_object_makes_a_row_fail() {
    for resource in resources::builtin() {
        for odd in [json!(1), json!([1, "x"]), json!("x"), json!({"type": 5})] {
            let obj = json!({"apiVersion": resource.kind.api_version(), "kind": resource.kind.kind, "metadata": odd, "spec": odd, "status": odd});
            strategy(&resource.group, &resource.resource).row(&obj, now());
        }
        strategy(&resource.group, &resource.resource).row(&Value::Null, now());
    }
}

#[test]
fn pods() {
    let pod = |rest| line(&object("v1", "Pod", "2026-11-24T11:55:00Z", rest));
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c"}, {"name": "d"}]});
    let running = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.7"}], "conditions": [{"type": "Initialized", "status": "True"}],
        "containerStatuses": [
            {"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-11-24T11:57:55Z"}}},
            {"name": "d", "ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(pod(json!({"spec": spec, "status": running})), "a | 1/2 | CrashLoopBackOff | 3 (2m5s ago) | 5m | 10.0.0.7 | n1 | <none> | <none>");
    let mut going = json!({"spec": spec, "status": running});
    going["metadata"] = json!({"deletionTimestamp": "2026-11-24T12:00:10Z"});
    assert!(pod(going).starts_with("a | 1/2 | Terminating | 3 (2m5s ago)"));
    let inits = json!({"spec": {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]},
        "status": {"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}, {"name": "s", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}]}});
    assert_eq!(pod(inits), "a | 0/2 | Init:1/2 | 0 | 5m | <none> | <none> | <none> | <none>");
    let failed = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]},
        "status": {"phase": "Failed", "initContainerStatuses": [{"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}});
    assert!(pod(failed).starts_with("a | 0/1 | Init:ExitCode:3 | 0"));
    let half = |codes: [i64; 2], ready: &str| {
        json!({"spec": spec, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [
            {"ready": false, "state": {"terminated": {"exitCode": codes[0], "reason": "Completed"}}}, {"ready": true, "state": {"running": {}}}]}})
    };
    assert!(pod(half([0, 0], "False")).starts_with("a | 1/2 | NotReady | 0"));
    assert!(pod(half([0, 0], "True")).starts_with("a | 1/2 | Running | 0"));
    let signal = json!({"spec": spec, "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}});
    assert!(pod(signal).starts_with("a | 0/2 | Signal:9 | 0"));
    let gated = json!({"spec": {"readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}], "containers": []}, "status": {"phase": "Pending",
        "nominatedNodeName": "n2", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated", "status": "False"}, {"type": "x", "status": "True"}]}});
    assert_eq!(pod(gated), "a | 0/0 | SchedulingGated | 0 | 5m | <none> | <none> | n2 | 1/2");
}

#[test]
fn workloads() {
    let template = json!({"metadata": {}, "spec": {"nodeSelector": {"d": "ssd"}, "containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j"}]}});
    let selector = json!({"matchLabels": {"b": "c"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["2", "1"]}]});
    let of = |api, kind, mut spec: Value, status| {
        spec["template"] = template.clone();
        spec["selector"] = selector.clone();
        line(&object(api, kind, "2026-11-21T07:00:00Z", json!({"spec": spec, "status": status})))
    };
    assert_eq!(
        of("apps/v1", "Deployment", json!({"replicas": 3}), json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1})),
        "a | 2/3 | 3 | 1 | 3d5h | x,y | i:1,j | a in (1,2),b=c"
    );
    assert_eq!(
        of("apps/v1", "ReplicaSet", json!({"replicas": 3}), json!({"replicas": 2, "readyReplicas": 1})),
        "a | 3 | 2 | 1 | 3d5h | x,y | i:1,j | a in (1,2),b=c"
    );
    assert_eq!(of("apps/v1", "StatefulSet", json!({"replicas": 3}), json!({})), "a | 0/3 | 3d5h | x,y | i:1,j");
    assert_eq!(
        of("apps/v1", "DaemonSet", json!({}), json!({"desiredNumberScheduled": 1, "numberReady": 1})),
        "a | 1 | 0 | 1 | 0 | 0 | d=ssd | 3d5h | x,y | i:1,j | a in (1,2),b=c"
    );
    assert_eq!(
        of(
            "batch/v1",
            "Job",
            json!({"parallelism": 2}),
            json!({"startTime": "2026-11-24T11:59:00Z", "completionTime": "2026-11-24T11:59:07Z",
            "succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]})
        ),
        "a | Complete | 1/1 of 2 | 7s | 3d5h | x,y | i:1,j | a in (1,2),b=c"
    );
    let cron = json!({"spec": {"schedule": "@hourly", "suspend": false, "jobTemplate": {"spec": {"template": template}}},
        "status": {"active": [{}], "lastScheduleTime": "2026-11-24T11:00:00Z"}});
    assert_eq!(line(&object("batch/v1", "CronJob", "2024-11-24T12:00:00Z", cron)), "a | @hourly | <none> | False | 1 | 60m | 2y | x,y | i:1,j | <none>");
}

#[test]
fn core() {
    let of = |kind, rest| line(&object("v1", kind, "2026-11-24T11:59:30Z", rest));
    let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]);
    let service = |spec: Value, ingress: Value| of("Service", json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}}));
    assert_eq!(
        service(json!({"type": "NodePort", "clusterIPs": ["10.96.0.9"], "ports": ports, "selector": {"a": "b"}}), json!([])),
        "a | NodePort | 10.96.0.9 | <none> | 80:30080/TCP,53/UDP | 30s | a=b"
    );
    assert_eq!(
        service(json!({"type": "LoadBalancer", "externalIPs": ["1.2.3.4"]}), json!([{"hostname": "h"}, {"ip": "5.6.7.8"}])),
        "a | LoadBalancer | <none> | 5.6.7.8,h,1.2.3.4 | <none> | 30s | <none>"
    );
    assert!(service(json!({"type": "LoadBalancer"}), json!([])).contains("<pending>"));
    let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
            "nodeInfo": {"kubeletVersion": "v1.37.2", "osImage": "Debian", "kernelVersion": "6.18", "architecture": "amd64", "containerRuntimeVersion": "knarr://1"}}});
    assert_eq!(of("Node", node), "a | NotReady,SchedulingDisabled | control-plane,x | 30s | v1.37.2 | 10.1.1.1 | <none> | Debian | 6.18 (amd64) | knarr://1");
    let subset = json!({"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::2"}], "ports": [{"port": 80}, {"port": 81}]});
    assert_eq!(of("Endpoints", json!({"subsets": [subset]})), "a | 10.0.0.1:80,[fd00::2]:80,10.0.0.1:81 + 1 more... | 30s");
    assert_eq!(of("Endpoints", json!({})), "a | <none> | 30s");
    assert_eq!(of("ConfigMap", json!({"data": {"a": ""}, "binaryData": {"b": ""}})), "a | 2 | 30s");
    assert_eq!(
        of(
            "PersistentVolumeClaim",
            json!({"spec": {"volumeName": "v", "storageClassName": "s"}, "status": {"phase": "Bound",
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}})
        ),
        "a | Bound | v | 1Gi | RWO,RWX | s | <unset> | 30s | <unset>"
    );
    assert_eq!(
        of("ResourceQuota", json!({"status": {"hard": {"pods": "5", "limits.cpu": "2"}, "used": {"pods": "1"}}})),
        "a | pods: 1/5 | limits.cpu: 0/2 | 30s"
    );
}

#[test]
fn events_of_both_groups() {
    let old = json!({"firstTimestamp": "2026-11-24T11:50:00Z", "lastTimestamp": "2026-11-24T11:59:00Z", "count": 3, "type": "Normal", "reason": "Pulled",
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"}, "source": {"component": "kubelet", "host": "n"}, "message": " m\n"});
    let expected = "60s | Normal | Pulled | pod/p | spec.containers{c} | kubelet, n | m | 10m | 3 | a";
    assert_eq!(line(&object("v1", "Event", "2026-11-24T11:50:00Z", old)), expected);
    let new = json!({"deprecatedFirstTimestamp": null, "eventTime": "2026-11-24T11:58:00.000000Z", "type": "Normal", "reason": "Scheduled",
        "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "s", "reportingInstance": "s-1", "note": "m"});
    assert_eq!(line(&object("events.k8s.io/v1", "Event", "2026-11-24T11:50:00Z", new)), "2m | Normal | Scheduled | pod/p |  | s, s-1 | m | 2m | 1 | a");
}

#[test]
fn other_groups() {
    let of = |api, kind, rest| line(&object(api, kind, "2026-11-24T04:30:00Z", rest));
    let rules: Vec<Value> = ["b.com", "c.com", "d.com", "e.com"].iter().map(|h| json!({"host": h})).collect();
    assert_eq!(
        of("networking.k8s.io/v1", "Ingress", json!({"spec": {"ingressClassName": "k", "rules": rules, "tls": [{}]}})),
        "a | k | b.com,c.com,d.com + 1 more... |  | 80, 443 | 7h30m"
    );
    assert_eq!(of("discovery.k8s.io/v1", "EndpointSlice", json!({"addressType": "IPv4", "ports": [{"name": ""}]})), "a | IPv4 | <unset> | <unset> | 7h30m");
    assert_eq!(
        of(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
            "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["1.1.1.2"]}, {"addresses": ["1.1.1.3"]}, {"addresses": ["1.1.1.4"]}]})
        ),
        "a | IPv4 | 80,x,* | 1.1.1.1,1.1.1.2,1.1.1.3 + 1 more... | 7h30m"
    );
    assert_eq!(
        of(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "User", "name": "v"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]})
        ),
        "a | Role/r | 7h30m | u, v |  | n/s"
    );
    assert_eq!(of("rbac.authorization.k8s.io/v1", "ClusterRole", json!({})), "a | 2026-11-24T04:30:00Z");
    assert_eq!(
        of(
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            json!({"spec": {"signerName": "x/y", "username": "u", "expirationSeconds": 86400},
            "status": {"certificate": "aa", "conditions": [{"type": "Approved", "status": "True"}]}})
        ),
        "a | 7h30m | x/y | u | 24h | Approved,Issued"
    );
    let metrics = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "Pods", "pods": {"target": {"averageValue": "100m"}}}, {"type": "External", "external": {}}]);
    let current = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 20}}}]);
    assert_eq!(
        of(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1,
            "maxReplicas": 5, "metrics": metrics}, "status": {"currentMetrics": current, "currentReplicas": 2}})
        ),
        "a | Deployment/d | cpu: 20%/50%, <unknown>/100m + 1 more... | 1 | 5 | 2 | 7h30m"
    );
    assert_eq!(
        of(
            "autoscaling/v1",
            "HorizontalPodAutoscaler",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"},
            "maxReplicas": 5, "targetCPUUtilizationPercentage": 80}, "status": {"currentReplicas": 2}})
        ),
        "a | Deployment/d | cpu: <unknown>/80% | <unset> | 5 | 2 | 7h30m"
    );
    assert_eq!(of("policy/v1", "PodDisruptionBudget", json!({"spec": {"minAvailable": "50%"}})), "a | 50% | N/A | 0 | 7h30m");
    assert_eq!(of("coordination.k8s.io/v1", "Lease", json!({"spec": {"holderIdentity": "h"}})), "a | h | 7h30m");
    assert_eq!(
        of("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 30}}})),
        "a | Limited | 30 | <none> | <none> | <none> | 7h30m"
    );
    assert_eq!(
        of("apiregistration.k8s.io/v1", "APIService", json!({"status": {"conditions": [{"type": "Available", "status": "False", "reason": "Gone"}]}})),
        "a | Local | False (Gone) | 7h30m"
    );
    // Only among others it is told which is the default one.
    let class = |value: &str| json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": value}}, "provisioner": "p"});
    assert_eq!(of("storage.k8s.io/v1", "StorageClass", class("true")), "a | p | Delete | Immediate | false | 7h30m");
    let may_be_default = strategy("storage.k8s.io", "storageclasses").may_be_default().unwrap();
    assert!(may_be_default(&class("true")) && !may_be_default(&class("yes")));
    assert_eq!(
        of(
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "paramRef": {
            "selector": {"matchLabels": {"a": "b"}}}}})
        ),
        "a | p | &LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},} | 7h30m"
    );
    assert_eq!(
        of(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({"spec": {"scope": "Cluster", "group": "g", "names": {"kind": "K", "shortNames": ["k", "l"]},
            "versions": [{"name": "v2", "served": true, "storage": true}, {"name": "v1", "served": true}, {"name": "v0", "served": false}]}})
        ),
        "a | Cluster | v1,v2(storage) | 2026-11-24T04:30:00Z | g | K | k,l | false"
    );
}
