//! What every kind of these groups has in common, and the rules that clients lean on most.

use super::strategy;
use crate::{Context, Strategy};
use machinery::{
    Value, defaulting,
    field::{ErrorList, Path},
    json, resources, schema, time,
};
use serde_json::json;
use std::sync::Arc;

/// The kinds that begin to count their changes when they are made, as upstream's strategies do.
const COUNTED: [&str; 19] = [
    "ingresses",
    "ingressclasses",
    "networkpolicies",
    "endpointslices",
    "poddisruptionbudgets",
    "horizontalpodautoscalers",
    "priorityclasses",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "mutatingadmissionpolicies",
    "validatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "validatingadmissionpolicybindings",
    "customresourcedefinitions",
    "flowschemas",
    "prioritylevelconfigurations",
    "deviceclasses",
    "devicetaintrules",
    "resourceslices",
];

fn cx() -> Context {
    let mut cx = Context::new(time::parse("2026-11-24T12:00:00Z").unwrap(), "jane");
    cx.identity.groups = vec!["devs".into()];
    cx
}

fn own() -> impl Iterator<Item = (&'static resources::Resource, &'static dyn Strategy)> {
    resources::builtin().iter().filter_map(|r| Some((r, strategy(&r.group, &r.resource)?)))
}

/// Errors as clients see them.
fn told(errors: ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// An object as it is before validation.
fn made(group: &str, resource: &str, version: &str, mut obj: Value) -> Value {
    let row = resources::find(group, version, resource).unwrap();
    obj["apiVersion"] = row.api_version().into();
    obj["kind"] = row.kind.kind.clone().into();
    if obj["metadata"]["name"].is_null() {
        obj["metadata"]["name"] = "x".into();
    }
    defaulting::apply(schema::builtin().kind(&row.kind).unwrap(), &mut obj);
    let strategy = strategy(group, resource).unwrap();
    strategy.default(&mut obj);
    strategy.prepare_create(&cx(), &mut obj);
    obj
}

#[test]
fn all_groups_but_the_core_are_covered() {
    let missing: Vec<String> = resources::builtin()
        .iter()
        .filter(|r| !matches!(r.group.as_str(), "" | "apps" | "batch" | "events.k8s.io") && strategy(&r.group, &r.resource).is_none())
        .map(|r| format!("{}/{}", r.group, r.resource))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn new_objects_begin_without_status_and_are_counted_where_upstream_counts() {
    for (row, strategy) in own().filter(|(row, _)| row.has_verb("get")) {
        let mut obj = json!({"apiVersion": row.api_version(), "kind": row.kind.kind, "metadata": {}, "spec": {"service": {}}, "status": {"lie": 1}});
        strategy.prepare_create(&cx(), &mut obj);
        let counted = COUNTED.contains(&row.resource.as_str());
        assert_eq!(obj["metadata"]["generation"].as_i64(), counted.then_some(1), "{}", row.resource);
        let has_status = row.subresources.iter().any(|s| s.name == "status");
        assert!(!has_status || obj["status"]["lie"].is_null(), "{}", row.resource);
    }
}

#[test]
fn an_update_keeps_the_status_and_counts_only_changes() {
    for (row, strategy) in own().filter(|(row, _)| row.has_verb("update") && row.subresources.iter().any(|s| s.name == "status")) {
        let old = json!({"apiVersion": row.api_version(), "kind": row.kind.kind, "metadata": {"generation": 4}, "spec": {"a": 1}, "status": {"s": 1}});
        let mut same = old.clone();
        same["status"] = json!({"s": 2});
        same["metadata"]["labels"] = json!({"a": "b"});
        strategy.prepare_update(&cx(), &mut same, &old);
        assert_eq!((&same["status"]["s"], &same["metadata"]["generation"]), (&json!(1), &json!(4)), "{}", row.resource);
        let mut status = old.clone();
        status["spec"] = json!({"a": 2});
        status["status"] = json!({"s": 3});
        strategy.prepare_status(&cx(), &mut status, &old);
        assert_eq!((&status["spec"]["a"], &status["status"]["s"]), (&json!(1), &json!(3)), "{}", row.resource);
        if COUNTED.contains(&row.resource.as_str()) {
            let mut changed = old.clone();
            changed["spec"]["a"] = json!(2);
            strategy.prepare_update(&cx(), &mut changed, &old);
            assert_eq!(changed["metadata"]["generation"], 5, "{}", row.resource);
        }
    }
}

#[test]
fn no_object_whatever_makes_a_strategy_fail() {
    for (row, strategy) in own() {
        for odd in [json!(1), json!("x"), json!([1, "x", null]), json!([{}]), json!({"type": 5, "a": [{}]}), Value::Null] {
            let keys = [
                "metadata",
                "spec",
                "status",
                "webhooks",
                "endpoints",
                "ports",
                "rules",
                "subjects",
                "roleRef",
                "parameters",
                "aggregationRule",
                "allowedTopologies",
                "overhead",
                "scheduling",
            ];
            let mut obj = json!({"apiVersion": row.api_version(), "kind": row.kind.kind});
            for key in keys {
                obj[key] = odd.clone();
            }
            let old = obj.clone();
            strategy.default(&mut obj);
            let once = obj.clone();
            strategy.default(&mut obj);
            assert_eq!(once, obj, "{}", row.resource);
            strategy.prepare_create(&cx(), &mut obj);
            strategy.prepare_update(&cx(), &mut obj, &old);
            strategy.prepare_status(&cx(), &mut obj, &old);
            strategy.validate(&obj);
            strategy.validate_update(&obj, &old);
            strategy.validate_status(&obj, &old);
            strategy.warnings(&obj, Some(&old));
            strategy.selectable_fields(&obj);
        }
        assert_eq!(strategy.selectable_fields(&Value::Null).len(), strategy.selectable_fields(&json!({})).len());
    }
}

#[test]
fn the_bootstrap_objects_are_valid() {
    for obj in resources::bootstrap_objects() {
        let api = obj["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = machinery::gvk::parse_api_version(api);
        let Some(row) = resources::builtin().iter().find(|r| r.group == group && r.version == version && obj["kind"] == r.kind.kind) else { continue };
        let Some(strategy) = strategy(group, &row.resource) else { continue };
        let mut new = obj.clone();
        strategy.default(&mut new);
        assert_eq!(new, obj, "defaults are complete: {api} {} {}", row.resource, obj["metadata"]["name"]);
        strategy.prepare_create(&cx(), &mut new);
        assert_eq!(told(strategy.validate(&new)), Vec::<String>::new(), "{api} {} {}", row.resource, obj["metadata"]["name"]);
    }
}

#[test]
fn labels_of_nodes_that_have_successors_are_warned_of() {
    let warned = |group: &str, resource: &str, obj: Value| strategy(group, resource).unwrap().warnings(&obj, None);
    assert_eq!(
        warned(
            "storage.k8s.io",
            "storageclasses",
            json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone"}]}]})
        ),
        ["allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"]
    );
    assert_eq!(
        warned("storage.k8s.io", "csistoragecapacities", json!({"nodeTopology": {"matchLabels": {"beta.kubernetes.io/os": "linux"}}})),
        ["nodeTopology.matchLabels.beta.kubernetes.io/os: deprecated since v1.14; use \"kubernetes.io/os\" instead"]
    );
    assert_eq!(
        warned("node.k8s.io", "runtimeclasses", json!({"scheduling": {"nodeSelector": {"node-role.kubernetes.io/master": ""}}})),
        ["scheduling.nodeSelector: use \"node-role.kubernetes.io/control-plane\" instead"]
    );
}

#[test]
fn a_load_balancer_s_address_is_warned_of_where_it_is_told() {
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "FD00::1"}]}}});
    let judged = strategy("networking.k8s.io", "ingresses").unwrap().judge_through("status", &ingress, &ingress, &std::sync::atomic::AtomicBool::new(false));
    assert_eq!(judged.warnings, ["status.loadBalancer.ingress[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"]);
}

#[test]
fn a_slice_of_endpoints_is_another_when_it_is_another_s() {
    let old = json!({"metadata": {"name": "s", "generation": 1, "labels": {"kubernetes.io/service-name": "a"}}, "addressType": "IPv4"});
    let generation = |metadata: Value| {
        let mut new = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []});
        strategy("discovery.k8s.io", "endpointslices").unwrap().prepare_update(&cx(), &mut new, &old);
        new["metadata"]["generation"].clone()
    };
    assert_eq!(generation(json!({"generation": 1, "labels": {"kubernetes.io/service-name": "b"}})), 2);
    assert_eq!(generation(json!({"generation": 1, "labels": {"kubernetes.io/service-name": "a"}, "annotations": {"c": "d"}})), 1);
}

#[test]
fn a_signer_is_told_of_its_domain_before_its_path() {
    let mut errors = Vec::new();
    super::checks::signer_name("example/B_d", &Path::root("s"), &mut errors);
    assert_eq!(errors.iter().map(|error| error.value.clone()).collect::<Vec<_>>(), [json!("example"), json!("B_d")]);
}

#[test]
fn the_level_of_the_exempt_is_exempt() {
    let told = |spec: Value| {
        let level = json!({"kind": "PriorityLevelConfiguration", "metadata": {"name": "exempt"}, "spec": spec});
        let errors = strategy("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations").unwrap().validate(&level);
        errors.iter().map(|error| error.path.to_string()).collect::<Vec<_>>()
    };
    assert!(told(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7, "lendablePercent": 0}})).is_empty());
    assert_eq!(told(json!({"type": "Limited", "exempt": {}})), ["spec.type", "spec", "spec.exempt", "spec.limited"]);
}

#[test]
fn what_is_told_of_an_attachment_has_its_limits() {
    let object = json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "p"}},
        "status": {"attached": true, "attachError": {"errorCode": -1, "message": "x".repeat(1025)}}});
    let told = strategy("storage.k8s.io", "volumeattachments").unwrap().validate_status(&object, &object);
    assert_eq!(told.iter().map(|error| error.path.to_string()).collect::<Vec<_>>(), ["status.attachError.message", "status.attachError.errorCode"]);
}

#[test]
fn the_class_annotation_of_an_ingress_is_of_old_where_it_is_the_only_class() {
    let warned = |spec: Value| {
        let ingress = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}, "spec": spec});
        strategy("networking.k8s.io", "ingresses").unwrap().warnings(&ingress, None).len()
    };
    assert_eq!((warned(json!({})), warned(json!({"ingressClassName": "a"}))), (1, 0));
}

#[test]
fn ingresses() {
    let of =
        |spec: Value| told(strategy("networking.k8s.io", "ingresses").unwrap().validate(&made("networking.k8s.io", "ingresses", "v1", json!({"spec": spec}))));
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    assert_eq!(of(json!({"defaultBackend": backend})), Vec::<String>::new());
    assert_eq!(of(json!({})), ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]);
    let path = |path: &str, kind: Value| json!({"rules": [{"host": "a.b", "http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}]});
    assert_eq!(of(path("/a", json!("Prefix"))), Vec::<String>::new());
    assert_eq!(
        of(path("a//b", json!("Exact"))),
        [
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'"
        ]
    );
    assert_eq!(of(path("/", Value::Null)), ["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]);
    for host in ["1.2.3.4", "01.2.3.4", "1.2.3.04", "00.00.00.00"] {
        assert_eq!(of(json!({"rules": [{"host": host}]})), [format!("spec.rules[0].host: Invalid value: \"{host}\": must be a DNS name, not an IP address")]);
    }
    for host in ["1.2.3", "256.2.3.4", "1.2.3.4.5"] {
        assert_eq!(of(json!({"rules": [{"host": host}]})), Vec::<String>::new(), "{host}");
    }
    assert_eq!(of(json!({"defaultBackend": {"service": {"name": "s", "port": {}}}})), ["spec.defaultBackend: Required value: port name or number is required"]);
}

#[test]
fn a_load_balancer_s_name_is_no_address() {
    let told = |group: &str, resource: &str, kind: &str| {
        let object = json!({"kind": kind, "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"hostname": "010.0.0.1"}]}}});
        told(crate::strategy(group, resource).validate_status(&object, &object))
    };
    let refused = ["status.loadBalancer.ingress[0].hostname: Invalid value: \"010.0.0.1\": must be a DNS name, not an IP address"];
    assert_eq!(told("networking.k8s.io", "ingresses", "Ingress"), refused);
    assert_eq!(told("", "services", "Service"), refused);
}

#[test]
fn network_policies() {
    let strategy = strategy("networking.k8s.io", "networkpolicies").unwrap();
    let policy = |spec: Value| made("networking.k8s.io", "networkpolicies", "v1", json!({"spec": spec}));
    let good =
        policy(json!({"podSelector": {}, "egress": [{"ports": [{"port": 53}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]}));
    assert_eq!(good["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(good["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(told(strategy.validate(&good)), Vec::<String>::new());
    let bad =
        policy(json!({"podSelector": {}, "ingress": [{"from": [{}, {"ipBlock": {"cidr": "10.0.0.1/8"}, "podSelector": {}}], "ports": [{"endPort": 5}]}]}));
    assert_eq!(
        told(strategy.validate(&bad)),
        [
            "spec.ingress[0].ports[0].endPort: Invalid value: 5: may not be specified when `port` is not specified",
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.cidr: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
        ]
    );
    assert_eq!(told(strategy.validate_update(&bad, &bad)).len(), 3, "a range that is there already may stay");
}

#[test]
fn endpoint_slices() {
    let strategy = strategy("discovery.k8s.io", "endpointslices").unwrap();
    let slice = |kind: &str, addresses: Value| {
        made(
            "discovery.k8s.io",
            "endpointslices",
            "v1",
            json!({"addressType": kind, "ports": [{"port": 80}],
        "endpoints": [{"addresses": addresses, "nodeName": "n", "hints": {"forZones": [{"name": "z"}]}}]}),
        )
    };
    let good = slice("IPv4", json!(["10.0.0.1"]));
    assert_eq!((&good["ports"][0], &good["metadata"]["generation"]), (&json!({"port": 80, "name": "", "protocol": "TCP"}), &json!(1)));
    assert_eq!(told(strategy.validate(&good)), Vec::<String>::new());
    assert_eq!(told(strategy.validate(&slice("IPv6", json!(["fd00::1"])))), Vec::<String>::new());
    assert_eq!(told(strategy.validate(&slice("FQDN", json!(["a.b"])))), Vec::<String>::new());
    assert_eq!(
        told(strategy.validate(&slice("IPv4", json!(["127.0.0.1"])))),
        ["endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"]
    );
    assert_eq!(told(strategy.validate(&slice("IPv4", json!(["fd00::1"])))), ["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"]);
    assert_eq!(told(strategy.validate(&slice("IPv4", json!([])))), ["endpoints[0].addresses: Required value"]);
    let mut other = good.clone();
    other["addressType"] = "IPv6".into();
    assert_eq!(told(strategy.validate_update(&other, &good)), ["addressType: Invalid value: null: field is immutable"]);
}

#[test]
fn autoscalers_of_both_versions() {
    let strategy = strategy("autoscaling", "horizontalpodautoscalers").unwrap();
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let new =
        made("autoscaling", "horizontalpodautoscalers", "v2", json!({"spec": {"scaleTargetRef": target, "maxReplicas": 3, "behavior": {"scaleDown": {}}}}));
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    assert_eq!(new["spec"]["behavior"]["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
    assert_eq!(told(strategy.validate(&new)), Vec::<String>::new());
    let noted = json!({"annotations": {"autoscaling.alpha.kubernetes.io/metrics": "x"}});
    let spec = json!({"scaleTargetRef": target, "maxReplicas": 3});
    let plain = made("autoscaling", "horizontalpodautoscalers", "v2", json!({"metadata": noted, "spec": spec}));
    assert!(plain["metadata"]["annotations"].is_null(), "what version 1 keeps there version 2 has fields for");
    let old = made("autoscaling", "horizontalpodautoscalers", "v1", json!({"spec": {"scaleTargetRef": target, "maxReplicas": 3}}));
    assert_eq!((&old["spec"]["minReplicas"], &old["spec"]["targetCPUUtilizationPercentage"]), (&json!(1), &json!(80)));
    assert_eq!(told(strategy.validate(&old)), Vec::<String>::new());
    let mut bad = new.clone();
    bad["spec"]["minReplicas"] = 5.into();
    bad["spec"]["scaleTargetRef"]["apiVersion"] = "v1".into();
    bad["spec"]["metrics"] = json!([{"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]);
    assert_eq!(
        told(strategy.validate(&bad)),
        [
            "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
            "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            "spec.metrics[0].pods: Required value: must populate information for the given metric source",
        ]
    );
}

#[test]
fn a_pod_s_request_for_a_certificate_is_asked_once_and_answered_once() {
    let strategy = strategy("certificates.k8s.io", "podcertificaterequests").unwrap();
    let spec = json!({"signerName": "example.com/s", "podName": "p", "podUID": "u", "serviceAccountName": "default", "serviceAccountUID": "u",
        "nodeName": "n", "nodeUID": "u", "maxExpirationSeconds": 86400, "stubPKCS10Request": "MBAwCQIBADAAMACgADAAAwEA"});
    let asked = |change: Value| {
        let mut spec = spec.clone();
        machinery::patch::merge(&mut spec, &change);
        made("certificates.k8s.io", "podcertificaterequests", "v1", json!({"spec": spec}))
    };
    let obj = asked(json!({}));
    assert_eq!(told(strategy.validate(&obj)), Vec::<String>::new());
    for (change, wrong) in [
        (json!({"maxExpirationSeconds": 60}), "spec.maxExpirationSeconds: Invalid value: 60: must be in the range [3600, 7862400]"),
        (json!({"podUID": ""}), "spec.podUID: Invalid value: \"\": must not be empty"),
        (json!({"pkixPublicKey": "MA=="}), "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"),
    ] {
        assert_eq!(told(strategy.validate(&asked(change))), [wrong]);
    }
    let answer = |kind: &str, more: Value| {
        let mut next = obj.clone();
        next["status"] = json!({"conditions": [{"type": kind, "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2026-11-24T12:00:00Z"}]});
        machinery::patch::merge(&mut next["status"], &more);
        next
    };
    let said = |next: &Value, old: &Value| told(strategy.validate_status(next, old)).join("; ");
    let denied = answer("Denied", json!({}));
    assert_eq!(said(&denied, &obj), "");
    assert!(
        said(&answer("Denied", json!({"notBefore": "2026-11-24T12:00:00Z"})), &obj)
            .ends_with("must be empty when denying or failing the PodCertificateRequest")
    );
    assert!(said(&answer("Failed", json!({})), &denied).ends_with("immutable after PodCertificateRequest is issued, denied, or failed"));
    assert!(said(&answer("Other", json!({})), &obj).starts_with("status.conditions[0].type: Unsupported value: \"Other\""));
    let mut bare = denied.clone();
    bare["status"]["conditions"][0] = json!({"type": "Denied", "status": "True"});
    let wanted = "status.conditions[0].lastTransitionTime: Required value; status.conditions[0].reason: Required value";
    assert_eq!(said(&bare, &obj), wanted);
    let issued = said(&answer("Issued", json!({"certificateChain": "x"})), &obj);
    assert_eq!(issued.matches("Required value").count(), 3, "{issued}");
    let mut moved = obj.clone();
    moved["status"]["notAfter"] = "2026-11-24T12:00:00Z".into();
    assert!(said(&moved, &obj).contains("status is immutable unless transitioning"));
    assert_eq!(told(strategy.validate_update(&asked(json!({"podName": "q"})), &obj)).len(), 1, "what was asked stays");
}

#[test]
fn signing_requests_record_who_asked_and_are_approved_once() {
    let strategy = strategy("certificates.k8s.io", "certificatesigningrequests").unwrap();
    // The text before the block is nobody's.
    let pem = "U29tZWJvZHkncyByZXF1ZXN0Ci0tLS0tQkVHSU4gQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCk1JRzZNR0lDQVFBd0FEQlpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VIQTBJQUJFbGNtL2FGTGxlbDVmS0cKYU9kblE2TWs5R2hyZVVwRGFkRVRZdG5kRnJmem9RR2NiTElzMHJSd3o2R29Zc1pIQlBPL3FSZDZoYzNaRk8rWgpWclhsUGdhZ0FEQUtCZ2dxaGtqT1BRUURBZ05JQURCRkFpQTMwRVgxaVVkMTcwSmpBRTFHQ29XU0d0OEJEUUl5CldGMVRjQWxWWFVwZFB3SWhBTWNEUG1hUUl4ZE1tOEtXazdmcGNGdlNzZHlmYWV5WXF5M0YwdjZ6WThkYQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";
    let obj = made(
        "certificates.k8s.io",
        "certificatesigningrequests",
        "v1",
        json!({"spec": {"request": pem, "usages": ["client auth"],
        "signerName": "a.io/b", "username": "root", "groups": ["system:masters"]}, "status": {"conditions": [{"type": "Approved", "status": "True"}]}}),
    );
    assert_eq!((&obj["spec"]["username"], &obj["spec"]["groups"]), (&json!("jane"), &json!(["devs"])));
    assert_eq!(obj["status"], json!({}));
    assert_eq!(told(strategy.validate(&obj)), Vec::<String>::new());
    let mut nothing = obj.clone();
    nothing["spec"]["request"] = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K".into();
    assert!(told(strategy.validate(&nothing))[0].ends_with("asn1: syntax error: truncated tag or length"));
    let mut approved = obj.clone();
    approved["spec"]["usages"] = json!(["server auth"]);
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "r"}]);
    let mut refused = approved.clone();
    strategy.prepare_through(&cx(), "approval", &mut approved, &obj);
    assert_eq!(approved["spec"], obj["spec"]);
    assert_eq!(approved["status"]["conditions"][0]["lastUpdateTime"], "2026-11-24T12:00:00Z");
    assert_eq!(told(strategy.validate_through("approval", &approved, &obj)), Vec::<String>::new());
    let mut both = approved.clone();
    both["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "Denied", "status": "True"}));
    let told_of_both = told(strategy.validate_through("approval", &both, &approved));
    assert!(told_of_both[0].ends_with("must specify at most one of: `conditions[{\"type\": \"Approved\"}]`, `conditions[{\"type\": \"Denied\"}]`"));
    strategy.prepare_status(&cx(), &mut refused, &obj);
    assert_eq!(told(strategy.validate_status(&refused, &obj)), ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]);
}

#[test]
fn definitions_of_custom_resources() {
    let strategy = strategy("apiextensions.k8s.io", "customresourcedefinitions").unwrap();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let make = |schema: Value| {
        made(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "v1",
            json!({"metadata": {"name": "foos.a.io"}, "spec": {
        "group": "a.io", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}}),
        )
    };
    let obj = make(schema);
    assert_eq!((&obj["spec"]["names"]["singular"], &obj["spec"]["names"]["listKind"]), (&json!("foo"), &json!("FooList")));
    assert_eq!((&obj["spec"]["conversion"], &obj["status"]["storedVersions"]), (&json!({"strategy": "None"}), &json!(["v1"])));
    assert_eq!(told(strategy.validate(&obj)), Vec::<String>::new());
    let bad = make(json!({"type": "object", "properties": {"spec": {"properties": {"l": {"type": "array"}}}}}));
    assert_eq!(
        told(strategy.validate(&bad)),
        [
            "spec.validation.openAPIV3Schema.properties[spec].properties[l].items: Required value: must be specified",
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
        ]
    );
    let mut next = obj.clone();
    next["spec"]["versions"] = json!([{"name": "v2", "served": true, "storage": true, "schema": obj["spec"]["versions"][0]["schema"]}]);
    strategy.prepare_update(&cx(), &mut next, &obj);
    assert_eq!((&next["status"]["storedVersions"], &next["metadata"]["generation"]), (&json!(["v1", "v2"]), &json!(2)));
    assert!(told(strategy.validate_update(&next, &obj))[0].starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"));
}

#[test]
fn webhooks_and_policies() {
    let webhooks = strategy("admissionregistration.k8s.io", "validatingwebhookconfigurations").unwrap();
    let of = |hook: Value| made("admissionregistration.k8s.io", "validatingwebhookconfigurations", "v1", json!({"webhooks": [hook]}));
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    let good = of(json!({"name": "a.b.c", "rules": [rule], "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/x"}},
        "sideEffects": "None", "admissionReviewVersions": ["v1"]}));
    assert_eq!(told(webhooks.validate(&good)), Vec::<String>::new());
    let hook = &good["webhooks"][0];
    assert_eq!((&hook["timeoutSeconds"], &hook["rules"][0]["scope"], &hook["namespaceSelector"]), (&json!(10), &json!("*"), &json!({})));
    assert_eq!(hook["clientConfig"]["service"]["port"], 443);
    let bad = of(json!({"name": "a.b", "clientConfig": {}, "admissionReviewVersions": ["v2"], "rules": [{"operations": ["*", "CREATE"],
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*", "pods"]}]}));
    assert_eq!(
        told(webhooks.validate(&bad)),
        [
            "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ]
    );
    let policies = strategy("admissionregistration.k8s.io", "validatingadmissionpolicies").unwrap();
    let policy = made(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        "v1",
        json!({"spec": {
        "matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}}),
    );
    assert_eq!(told(policies.validate(&policy)), Vec::<String>::new());
}

#[test]
fn what_cannot_be_mutated_is_told_before_what_stands_behind_it() {
    let policies = strategy("admissionregistration.k8s.io", "mutatingadmissionpolicies").unwrap();
    let rule = json!({"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "matchConditions": [{"name": "a"}], "reinvocationPolicy": "Never"});
    let policy = made("admissionregistration.k8s.io", "mutatingadmissionpolicies", "v1", json!({"spec": spec}));
    assert_eq!(
        told(policies.validate(&policy)),
        [
            "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            "spec.matchConditions[0].expression: Required value",
            "spec.mutations: Required value: mutations must contain at least one item",
        ]
    );
}

#[test]
fn the_last_resorts_of_flow_control_stay_as_they_are() {
    let strategy = strategy("flowcontrol.apiserver.k8s.io", "flowschemas").unwrap();
    let schemas = resources::bootstrap_objects().into_iter().filter(|o| o["kind"] == "FlowSchema");
    let mut changed: Vec<String> = Vec::new();
    for mut obj in schemas {
        obj["spec"]["rules"][0]["subjects"] = json!([{"kind": "User", "user": {"name": "jane"}}]);
        let refused = told(strategy.validate(&obj)).iter().any(|e| e.ends_with("must equal the fixed value"));
        changed.extend(refused.then(|| obj["metadata"]["name"].as_str().unwrap_or_default().to_owned()));
    }
    changed.sort();
    assert_eq!(changed, ["catch-all", "exempt"]);
}

#[test]
fn what_drivers_told_of_devices_goes_with_them() {
    let device = |name: &str| json!({"driver": "d.io", "pool": "p", "device": name});
    let claim = |given: &[&str], told: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| device(name)).collect::<Vec<_>>();
        let allocation = if given.is_empty() { Value::Null } else { json!({"devices": {"results": list(given)}}) };
        json!({"metadata": {"name": "c"}, "spec": {}, "status": {"allocation": allocation, "devices": list(told)}})
    };
    let written = |given: &[&str], told: &[&str]| {
        let mut new = claim(given, told);
        strategy("resource.k8s.io", "resourceclaims").unwrap().prepare_status(&cx(), &mut new, &claim(&["a", "b"], &["a", "b"]));
        new["status"]["devices"].clone()
    };
    assert_eq!(written(&["a", "b"], &["a", "b"]), json!([device("a"), device("b")]));
    assert_eq!(written(&["b"], &["a", "b"]), json!([device("b")]));
    assert_eq!(written(&[], &["a", "b"]), Value::Null);
    // What it never had is refused, not dropped.
    assert_eq!(written(&[], &["c"]), json!([device("c")]));
}

#[test]
fn what_is_declared_of_new_objects_comes_last() {
    let attachments = strategy("storage.k8s.io", "volumeattachments").unwrap();
    let wrong = made("storage.k8s.io", "volumeattachments", "v1", json!({"spec": {"attacher": "a".repeat(64), "nodeName": "n", "source": {}}}));
    let source = "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    assert_eq!(told(attachments.validate(&wrong)), [source, "spec.attacher: Too long: may not be more than 63 characters"]);
    assert_eq!(told(attachments.validate_update(&wrong, &wrong)), ["spec.attacher: Too long: may not be more than 63 bytes", source]);
    let classes = strategy("storage.k8s.io", "storageclasses").unwrap();
    let old = made("storage.k8s.io", "storageclasses", "v1", json!({"provisioner": "p"}));
    let new = made("storage.k8s.io", "storageclasses", "v1", json!({"parameters": {"": "a"}}));
    let fields = |errors: ErrorList| errors.iter().map(|error| error.path.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(fields(classes.validate(&new)), ["parameters", "provisioner"]);
    assert_eq!(fields(classes.validate_update(&new, &old)), ["parameters", "provisioner", "provisioner", "parameters"]);
    // Parameters that a body empties are none here, and the path would show what was sent.
    let with = made("storage.k8s.io", "storageclasses", "v1", json!({"provisioner": "p", "parameters": {"a": "b"}}));
    let emptied = classes.validate_update(&old, &with);
    assert_eq!(emptied.iter().map(|error| (error.path.as_str(), error.shown.as_deref())).collect::<Vec<_>>(), [("parameters", Some("null"))]);
    let slices = strategy("discovery.k8s.io", "endpointslices").unwrap();
    let slice = made("discovery.k8s.io", "endpointslices", "v1", json!({"addressType": "x", "ports": [{"protocol": ""}]}));
    assert_eq!(fields(slices.validate(&slice)), ["ports[0].protocol", "addressType"]);
    assert_eq!(fields(slices.validate_update(&slice, &slice)), ["addressType", "ports[0].protocol"]);
    let classes = strategy("resource.k8s.io", "deviceclasses").unwrap();
    let config = [json!({"opaque": {"driver": "", "parameters": 1}}), json!({"opaque": {"driver": "A".repeat(64), "parameters": {}}})];
    let class = made("resource.k8s.io", "deviceclasses", "v1", json!({"spec": {"config": config, "extendedResourceName": "a"}}));
    let early: Vec<_> = classes.validate(&class).into_iter().filter(|error| !crate::is_late("DeviceClass", error)).collect();
    assert_eq!(fields(early), ["spec.config[0].opaque.parameters"]);
    // As they are told: what is late goes behind the others, and is in order by itself.
    let late = |errors: ErrorList| fields(errors.into_iter().filter(|error| crate::is_late("EndpointSlice", error)).collect());
    let bare = made("discovery.k8s.io", "endpointslices", "v1", json!({"endpoints": [{}]}));
    assert_eq!(late(slices.validate(&bare)), ["addressType", "endpoints[0].addresses"]);
    assert_eq!(late(slices.validate_update(&bare, &slice)), ["addressType", "addressType", "endpoints[0].addresses"]);
}

#[test]
fn a_driver_of_a_node_is_shown_without_what_may_change() {
    let nodes = strategy("storage.k8s.io", "csinodes").unwrap();
    let node = |keys: Value, count: i64| {
        let drivers = ["b", "a"].map(|name| json!({"name": name, "nodeID": "n", "topologyKeys": keys, "allocatable": {"count": count}}));
        made("storage.k8s.io", "csinodes", "v1", json!({"spec": {"drivers": drivers}}))
    };
    let old = node(json!([]), 1);
    assert_eq!(told(nodes.validate_update(&node(Value::Null, 2), &old)), Vec::<String>::new());
    let mut new = node(json!(["k"]), 2);
    new["spec"]["drivers"].as_array_mut().unwrap().reverse();
    let wrong = |name: &str| {
        let shown = format!(r#"{{"Name":"{name}","NodeID":"n","TopologyKeys":["k"],"Allocatable":null}}"#);
        format!("spec.drivers: Invalid value: {shown}: field is immutable")
    };
    assert_eq!(told(nodes.validate_update(&new, &old)), [wrong("b"), wrong("a")]);
}

#[test]
fn anchors_of_trust_are_authorities() {
    let strategy = strategy("certificates.k8s.io", "clustertrustbundles").unwrap();
    let bundle = |text: &str| made("certificates.k8s.io", "clustertrustbundles", "v1", json!({"spec": {"trustBundle": text}}));
    let block = |kind: &str, headers: &str| format!("-----BEGIN {kind}-----\n{headers}YQ==\n-----END {kind}-----\n");
    for (text, why) in [
        (String::new(), "at least one trust anchor must be provided"),
        (block("CERTIFICATE", ""), "entry 0 does not parse as X.509"),
        (block("KEY", ""), "entry 0 has bad block type: KEY"),
        (block("CERTIFICATE", "a: b\n\n"), "entry 0 has PEM block headers"),
    ] {
        let wanted = format!("spec.trustBundle: Invalid value: \"<value omitted>\": {why}");
        assert_eq!(told(strategy.validate(&bundle(&text))), [wanted]);
        assert!(strategy.validate_update(&bundle(&text), &bundle(&text)).is_empty(), "what was there before may stay");
    }
}

#[test]
fn addresses_of_slices_should_be_written_in_one_way() {
    let strategy = strategy("discovery.k8s.io", "endpointslices").unwrap();
    let slice = |writer: &str| {
        let body = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": writer}}, "addressType": "IPv6",
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["FD00::1"]}]});
        strategy.warnings(&made("discovery.k8s.io", "endpointslices", "v1", body), None)
    };
    assert_eq!(slice("me"), ["endpoints[1].addresses[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"]);
    assert!(slice("endpointslice-controller.k8s.io").is_empty());
}

#[test]
fn what_is_empty_is_not_written_though_a_slice_is_told_of_it() {
    let slice = json!({"spec": {"devices": [], "sharedCounters": [{}], "nodeName": "n"}});
    let strategy = strategy("resource.k8s.io", "resourceslices").unwrap();
    assert_eq!(*crate::as_written(strategy, &slice), json!({"spec": {"sharedCounters": [{}], "nodeName": "n"}}));
}

#[test]
fn what_is_there_twice_is_shown_as_it_is_written() {
    let twice = [json!({"name": "w"}), json!({"name": "w", "exactly": {"deviceClassName": "d", "selectors": []}})];
    let mut errors = ErrorList::new();
    super::device_claims::twice("resource.k8s.io/v1", "DeviceRequest", &twice, |own| own["name"].to_string(), &Path::root("r"), &mut errors);
    assert_eq!(told(errors), [r#"r[1]: Duplicate value: {"name":"w","exactly":{"deviceClassName":"d"}}"#]);
}

#[test]
fn who_leaves_out_when_devices_were_tainted_says_now() {
    let strategy = strategy("resource.k8s.io", "devicetaintrules").unwrap();
    let rule = |effect: &str, time: &str| json!({"metadata": {"generation": 1}, "spec": {"taint": {"key": "a", "effect": effect, "timeAdded": time}}});
    let (old, now) = (rule("None", "1970-01-01T00:00:07Z"), std::time::SystemTime::UNIX_EPOCH);
    let mut new = json!({"metadata": {"generation": 1}, "spec": {"taint": {"key": "a", "effect": "None"}}});
    strategy.default_times(now, &mut new);
    let cx = Context::new(now, "admin");
    for (mut new, time, generation) in
        [(new, "1970-01-01T00:00:00Z", 2), (old.clone(), "1970-01-01T00:00:07Z", 1), (rule("NoExecute", "1970-01-01T00:00:07Z"), "1970-01-01T00:00:00Z", 2)]
    {
        strategy.prepare_update(&cx, &mut new, &old);
        assert_eq!((&new["spec"]["taint"]["timeAdded"], &new["metadata"]["generation"]), (&json!(time), &json!(generation)), "{new}");
    }
}

#[test]
fn an_empty_list_of_a_network_policy_is_a_change_unless_a_default_fills_it() {
    let policies = strategy("networking.k8s.io", "networkpolicies").unwrap();
    let old = made("networking.k8s.io", "networkpolicies", "v1", json!({"spec": {"podSelector": {}}}));
    let ty = schema::builtin().named("io.k8s.api.networking.v1.NetworkPolicy");
    for (blank, generation) in [("policyTypes", 1), ("ingress", 2)] {
        let mut sent = old.clone();
        sent["spec"][blank] = json!([]);
        let decoded = json::decode(&json::encode(&sent), ty, json::Validation::Strict).unwrap();
        let cx = Context { blanks: Arc::new(decoded.blanks), ..cx() };
        let mut new = decoded.value;
        policies.default(&mut new);
        policies.prepare_update(&cx, &mut new, &old);
        assert_eq!(new["metadata"]["generation"], generation, "{blank}");
    }
}

#[test]
fn metrics_in_the_annotations_of_an_old_autoscaler_are_of_its_spec() {
    let autoscalers = strategy("autoscaling", "horizontalpodautoscalers").unwrap();
    let memory = r#"[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}}]"#;
    let annotations = json!({"autoscaling.alpha.kubernetes.io/metrics": memory, "own": "1"});
    let spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 30});
    let old = made("autoscaling", "horizontalpodautoscalers", "v1", json!({"metadata": {"annotations": annotations}, "spec": spec}));
    for (gone, generation) in [("own", 1), ("autoscaling.alpha.kubernetes.io/metrics", 2)] {
        let mut new = old.clone();
        new["metadata"]["annotations"].as_object_mut().unwrap().remove(gone);
        autoscalers.default(&mut new);
        autoscalers.prepare_update(&cx(), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], generation, "{gone}");
    }
}

#[test]
fn who_writes_an_old_autoscaler_s_spec_or_status_leaves_the_annotations_of_the_other() {
    let autoscalers = strategy("autoscaling", "horizontalpodautoscalers").unwrap();
    let (of_spec, of_status) = ("autoscaling.alpha.kubernetes.io/behavior", "autoscaling.alpha.kubernetes.io/conditions");
    let spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3});
    let mut old = made("autoscaling", "horizontalpodautoscalers", "v1", json!({ "spec": spec }));
    old["metadata"]["annotations"] = json!({of_spec: "{}", of_status: "[]"});
    let mut sent = old.clone();
    sent["metadata"]["annotations"] = json!({of_spec: "{\"ScaleUp\":null}", of_status: "[{}]"});
    let (mut first, mut updated, mut told) = (sent.clone(), sent.clone(), sent);
    autoscalers.prepare_create(&cx(), &mut first);
    assert_eq!(first["metadata"]["annotations"], json!({of_spec: "{\"ScaleUp\":null}"}));
    autoscalers.prepare_update(&cx(), &mut updated, &old);
    assert_eq!(updated["metadata"]["annotations"], json!({of_spec: "{\"ScaleUp\":null}", of_status: "[]"}));
    autoscalers.prepare_status(&cx(), &mut told, &old);
    assert_eq!(told["metadata"]["annotations"], json!({of_spec: "{}", of_status: "[{}]"}));
}
