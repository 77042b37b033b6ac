//! The kinds of the core group, `apps` and `batch` as users write them: what is added, what is refused, in which words.

use crate::{Context, keep_cluster_ips, strategy, validate_meta, validate_meta_update};
use machinery::{Value, defaulting, gvk::Gvk, resources, schema};
use serde_json::json;
use std::time::{Duration, SystemTime};

fn cx() -> Context {
    Context::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), "admin")
}

/// An object as the path completes it before anything else looks at it.
fn defaulted(group: &str, resource: &str, obj: &Value) -> Value {
    let mut obj = obj.clone();
    let gvk = Gvk::parse(obj["apiVersion"].as_str().unwrap(), obj["kind"].as_str().unwrap());
    defaulting::apply(schema::builtin().kind(&gvk).unwrap(), &mut obj);
    strategy(group, resource).default(&mut obj);
    obj
}

fn created(group: &str, resource: &str, obj: Value) -> Value {
    let mut obj = defaulted(group, resource, &obj);
    obj["metadata"]["uid"] = "u-1".into();
    strategy(group, resource).prepare_create(&cx(), &mut obj);
    obj
}

fn problems(group: &str, resource: &str, obj: &Value) -> Vec<String> {
    strategy(group, resource).validate(obj).iter().map(ToString::to_string).collect()
}

fn changes(group: &str, resource: &str, old: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut new = old.clone();
    change(&mut new);
    let mut new = defaulted(group, resource, &new);
    let kind = strategy(group, resource);
    kind.prepare_update(&cx(), &mut new, old);
    kind.validate_update(&new, old).iter().map(ToString::to_string).collect()
}

const NONE: [&str; 0] = [];

fn core(kind: &str, rest: Value) -> Value {
    let mut obj = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "namespace": "n"}});
    obj.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    obj
}

fn template(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

fn apps(kind: &str, spec: Value) -> Value {
    let mut all = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(json!({"a": "b"}))});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a", "namespace": "n"}, "spec": all})
}

/// As kube-apiserver 1.37.2 answers: what is no percentage counts as none, whatever number is in it.
#[test]
fn percentages_that_are_none_count_as_nothing() {
    let told = |resource: &str, kind: &str, field: &str, surge: Value, unavailable: Value| {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let errors = problems("apps", resource, &created("apps", resource, apps(kind, json!({ field: strategy }))));
        let short = |error: &String| error.rsplit_once("rollingUpdate.").map_or(error.as_str(), |(_, told)| told).split(" (").next().unwrap().to_owned();
        errors.iter().map(short).collect::<Vec<_>>()
    };
    let deployment = |surge: Value, unavailable: Value| told("deployments", "Deployment", "strategy", surge, unavailable);
    let daemons = |surge: Value, unavailable: Value| told("daemonsets", "DaemonSet", "updateStrategy", surge, unavailable);
    let no_percent =
        |field: &str, text: &str| format!("{field}: Invalid value: \"{text}\": a valid percent string must be a numeric string followed by an ending '%'");
    for text in ["-5%", "", "+5%"] {
        let zero = format!("maxUnavailable: Invalid value: \"{text}\": may not be 0 when `maxSurge` is 0");
        assert_eq!(deployment(json!(0), json!(text)), [no_percent("maxUnavailable", text), zero]);
        let required = "maxUnavailable: Required value: cannot be 0 when maxSurge is 0".to_owned();
        assert_eq!(daemons(json!(0), json!(text)), [no_percent("maxUnavailable", text), required]);
        assert_eq!(daemons(json!(text), json!(1)), [no_percent("maxSurge", text)]);
    }
    let too_much = |field: &str, text: &str| format!("{field}: Invalid value: \"{text}\": must not be greater than 100%");
    assert_eq!(daemons(json!("0"), json!("101%")), [no_percent("maxSurge", "0"), too_much("maxUnavailable", "101%")]);
    assert_eq!(deployment(json!(0), json!("99999999999%")), [too_much("maxUnavailable", "99999999999%")]);
    assert_eq!(deployment(json!(0), json!("99999999999999999999")), [no_percent("maxUnavailable", "99999999999999999999")]);
}

#[test]
fn a_deployment_rolls_by_a_quarter() {
    let obj = created("apps", "deployments", apps("Deployment", json!({})));
    assert_eq!(problems("apps", "deployments", &obj), NONE);
    assert_eq!(obj["spec"]["strategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}));
    assert_eq!((&obj["spec"]["replicas"], &obj["spec"]["progressDeadlineSeconds"]), (&json!(1), &json!(600)));
    let found = changes("apps", "deployments", &obj, |o| o["spec"]["selector"] = json!({"matchLabels": {"c": "d"}}));
    assert_eq!(
        found,
        [
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            "spec.selector: Invalid value: {\"matchLabels\":{\"c\":\"d\"}}: field is immutable",
        ]
    );
    let mut new = obj.clone();
    new["metadata"]["annotations"] = json!({"x": "y"});
    strategy("apps", "deployments").prepare_update(&cx(), &mut new, &obj);
    assert_eq!(new["metadata"]["generation"], 2, "annotations of a deployment count");
}

#[test]
fn sets_of_pods() {
    let stateful = created(
        "apps",
        "statefulsets",
        apps(
            "StatefulSet",
            json!({"serviceName": "s", "volumeClaimTemplates": [
        {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}),
        ),
    );
    assert_eq!(problems("apps", "statefulsets", &stateful), NONE);
    assert_eq!(stateful["spec"]["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}}));
    assert_eq!(stateful["spec"]["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    assert_eq!(stateful["spec"]["volumeClaimTemplates"][0]["kind"], "PersistentVolumeClaim");
    let found = changes("apps", "statefulsets", &stateful, |o| o["spec"]["serviceName"] = "other".into());
    assert_eq!(found, ["spec.serviceName: Invalid value: \"other\": field is immutable"]);
    let mut mounted = stateful.clone();
    mounted["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/d"}]);
    assert_eq!(problems("apps", "statefulsets", &mounted), NONE, "a claim of the set is a volume of its pods");

    let daemon = created("apps", "daemonsets", apps("DaemonSet", json!({})));
    assert_eq!(problems("apps", "daemonsets", &daemon), NONE);
    assert_eq!(daemon["metadata"]["annotations"]["deprecated.daemonset.template.generation"], "1");
    let mut new = daemon.clone();
    new["spec"]["template"]["spec"]["hostPID"] = true.into();
    strategy("apps", "daemonsets").prepare_update(&cx(), &mut new, &daemon);
    assert_eq!(new["metadata"]["annotations"]["deprecated.daemonset.template.generation"], "2");
    let mut bad = daemon.clone();
    bad["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
    assert_eq!(problems("apps", "daemonsets", &bad), ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]);
}

#[test]
fn a_service_is_completed() {
    let obj = created("", "services", core("Service", json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})));
    assert_eq!(
        obj["spec"],
        json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"a": "b"}, "sessionAffinity": "None",
            "type": "ClusterIP", "internalTrafficPolicy": "Cluster"})
    );
    assert_eq!(obj["status"], json!({"loadBalancer": {}}));
    assert_eq!(problems("", "services", &obj), NONE);
    let sticky = core("Service", json!({"spec": {"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "type": "NodePort"}}));
    let sticky = created("", "services", sticky);
    assert_eq!(sticky["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    assert_eq!(sticky["spec"]["externalTrafficPolicy"], "Cluster");
    let mut chosen = created("", "services", core("Service", json!({"spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.7"}})));
    assert!(chosen["spec"]["clusterIPs"].is_null(), "who is given no address says both himself");
    strategy("", "services").name_addresses(&mut chosen);
    assert_eq!(chosen["spec"]["clusterIPs"], json!(["10.96.0.7"]));
}

#[test]
fn wrong_services_are_told_so() {
    for (spec, expected) in [
        (json!({}), vec!["spec.ports: Required value"]),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), vec![]),
        (json!({"type": "ExternalName", "externalName": "a.b."}), vec![]),
        (json!({"type": "ExternalName"}), vec!["spec.externalName: Required value"]),
        (json!({"ports": [{"port": 80}, {"port": 81}]}), vec!["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]),
        (
            json!({"ports": [{"port": 0}]}),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (json!({"ports": [{"port": 80, "nodePort": 30001}]}), vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]),
        (
            json!({"ports": [{"port": 80}], "type": "Foo"}),
            vec!["spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""],
        ),
    ] {
        let obj = created("", "services", core("Service", json!({ "spec": spec })));
        assert_eq!(problems("", "services", &obj), expected, "{obj}");
    }
}

#[test]
fn a_node_says_what_it_can_do_in_order() {
    let node = core("Node", json!({"status": {"declaredFeatures": ["B/c", "A", "A", "x"], "capacity": {"pods": "12345678901234567890"}}}));
    let errors = strategy("", "nodes").validate_status(&node, &node);
    let found: Vec<_> = errors.iter().map(|error| (error.path.as_str(), error.detail.split(':').next().unwrap_or_default())).collect();
    assert_eq!(
        found,
        [
            ("status.capacity.pods", "must be an integer"),
            ("status.declaredFeatures[1]", "list must be sorted alphabetically"),
            ("status.declaredFeatures[2]", ""),
            ("status.declaredFeatures[3]", "invalid feature name \"x\""),
        ]
    );
}

#[test]
fn what_a_name_was_made_from_is_no_matter_of_a_status() {
    let old = core("Node", json!({}));
    let mut new = old.clone();
    new["metadata"]["generateName"] = "A".into();
    let told = |part: &str| validate_meta_update(part, &new, &old, strategy("", "nodes")).len();
    assert_eq!((told(""), told("status")), (1, 0));
}

#[test]
fn what_a_name_was_made_from_can_stand_in_a_path() {
    let told = |group: &str, resource: &str, part: &str, obj: &Value, base: &str| {
        let mut new = obj.clone();
        new["metadata"]["generateName"] = base.into();
        validate_meta_update(part, &new, obj, strategy(group, resource)).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let whole = "metadata.generateName: Invalid value: \"a/b\": may not contain '/'";
    let (node, role) = (core("Node", json!({})), json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}}));
    assert_eq!(told("", "services", "", &core("Service", json!({})), "a/b"), [whole], "whose own rules say nothing of it");
    assert_eq!(told("", "nodes", "status", &node, "a/b"), [whole]);
    let found = told("", "nodes", "", &node, "a/b");
    assert_eq!((found.len(), found[0].as_str()), (2, whole), "{found:?}");
    assert_eq!(told("rbac.authorization.k8s.io", "roles", "", &role, "1%").len(), 2, "twice where the kind's own rule is the same");
    assert_eq!(told("", "nodes", "status", &node, ".."), NONE, "what is added to it makes it a name");
}

#[test]
fn finalizers_without_a_domain_are_told_after_what_may_not_change() {
    let old = core("ConfigMap", json!({}));
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["a"]);
    new["metadata"]["deletionTimestamp"] = "0001-01-01T00:00:00Z".into();
    let errors = validate_meta_update("", &new, &old, strategy("", "configmaps"));
    let found: Vec<_> = errors.iter().map(|error| (error.path.as_str(), &error.value)).collect();
    assert_eq!(found, [("metadata.deletionTimestamp", &Value::Null), ("metadata.finalizers[0]", &json!("a"))]);
}

#[test]
fn what_a_name_was_made_from_is_told_where_the_whole_is_looked_at_again() {
    let told = |group: &str, resource: &str, old: &Value, change: fn(&mut Value)| {
        let (mut new, kind) = (old.clone(), strategy(group, resource));
        new["metadata"]["generateName"] = "A".into();
        new["metadata"]["finalizers"] = json!(["a"]);
        change(&mut new);
        let errors = validate_meta_update("", &new, old, kind).into_iter().chain(kind.validate_update(&new, old));
        errors.map(|error| error.path.as_str().to_owned()).collect::<Vec<_>>()
    };
    let (name, finalizer) = ("metadata.generateName", "metadata.finalizers[0]");
    let map = core("ConfigMap", json!({"immutable": true}));
    assert_eq!(told("", "configmaps", &map, |new| new["data"] = json!({"x y": ""})), [finalizer, "data", name, "data[x y]"]);
    assert_eq!(told("", "serviceaccounts", &core("ServiceAccount", json!({})), |_| {}), [finalizer, name]);
    assert_eq!(told("", "namespaces", &core("Namespace", json!({})), |_| {}), [name, finalizer]);
    let class =
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "a"}, "driverName": "d", "parameters": {"a": "b"}});
    assert_eq!(told("storage.k8s.io", "volumeattributesclasses", &class, |new| new["driverName"] = "e".into()), [finalizer, "driverName", name]);
}

#[test]
fn an_address_that_a_service_had_is_right() {
    let old = core("Service", json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}}));
    let told = changes("", "services", &old, |new| new["spec"]["clusterIPs"] = json!(["None", "None"]));
    let of_addresses: Vec<_> = told.iter().filter(|line| line.starts_with("spec.clusterIPs")).collect();
    assert_eq!(of_addresses, [r#"spec.clusterIPs: Invalid value: ["None","None"]: 'None' must be the first and only value"#]);
    let old = core("Service", json!({"spec": {"type": "ClusterIP", "externalIPs": ["010.0.0.1"]}}));
    let told = changes("", "services", &old, |new| new["spec"]["externalIPs"] = json!(["010.0.0.2", "010.0.0.1"]));
    let of_others: Vec<_> = told.iter().filter(|line| line.starts_with("spec.externalIPs")).collect();
    assert_eq!(of_others, [r#"spec.externalIPs[0]: Invalid value: "010.0.0.2": must not have leading 0s"#]);
}

#[test]
fn an_update_of_a_service_has_the_addresses_that_it_leaves_out() {
    let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"]}});
    for (new, single, all) in [
        (json!({}), "10.0.0.9", json!(["10.0.0.9"])),
        (json!({"clusterIP": "10.0.0.1"}), "10.0.0.1", json!(["10.0.0.1"])),
        (json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.9"]}), "10.0.0.1", json!(["10.0.0.1"])),
        (json!({"clusterIPs": ["10.0.0.1"]}), "10.0.0.9", json!(["10.0.0.1"])),
        (json!({"type": "of its own"}), "10.0.0.9", json!(["10.0.0.9"])),
        (json!({"type": "ExternalName", "clusterIPs": ["10.0.0.9"]}), "", Value::Null),
        (json!({"type": "ExternalName", "clusterIP": "10.0.0.9"}), "10.0.0.9", json!(["10.0.0.9"])),
    ] {
        let mut obj = json!({ "spec": new });
        for _ in 0..2 {
            keep_cluster_ips(&mut obj, &old);
            assert_eq!((obj["spec"]["clusterIP"].as_str().unwrap_or_default(), &obj["spec"]["clusterIPs"]), (single, &all), "{new}");
        }
    }
}

#[test]
fn what_an_external_name_says_of_traffic_inside_is_owned_and_not_shown() {
    let body = core("Service", json!({"spec": {"type": "ExternalName", "externalName": "a.b", "internalTrafficPolicy": "Cluster"}}));
    assert_eq!(defaulted("", "services", &body)["spec"]["internalTrafficPolicy"], "Cluster");
    let mut made = created("", "services", body);
    assert!(made["spec"]["internalTrafficPolicy"].is_null());
    assert_eq!(strategy("", "services").as_it_lies(&made), None, "nobody owns it");
    made["metadata"]["managedFields"] = json!([{"manager": "a", "fieldsV1": {"f:spec": {"f:internalTrafficPolicy": {}}}}]);
    let lies = strategy("", "services").as_it_lies(&made).expect("it is there for its owner");
    assert_eq!(lies["spec"]["internalTrafficPolicy"], "Cluster");
    let named = core("Service", json!({"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"]}}));
    let lies = strategy("", "services").as_it_lies(&named).expect("the list is shown alone");
    assert_eq!((&lies["spec"]["clusterIP"], &lies["spec"]["clusterIPs"]), (&json!("10.0.0.9"), &Value::Null));
}

#[test]
fn a_service_is_warned_of_in_the_original_s_order() {
    let service = core(
        "Service",
        json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "None", "externalIPs": ["010.2.2.2"],
        "loadBalancerIP": "010.1.1.1"}}),
    );
    assert_eq!(
        strategy("", "services").warnings(&service, None),
        [
            "spec.loadBalancerIP is ignored for headless services",
            "spec.externalIPs is ignored for headless services",
            "spec.externalIPs[0]: non-standard IP address \"010.2.2.2\" is invalid: use \"10.2.2.2\"",
            "spec.loadBalancerIP: non-standard IP address \"010.1.1.1\" is invalid: use \"10.1.1.1\"",
        ]
    );
}

#[test]
fn credentials_of_registries_are_an_object_and_keys_are_those_of_their_certificates() {
    let secret = |kind: &str, texts: Value| defaulted("", "secrets", &core("Secret", json!({"type": kind, "stringData": texts})));
    assert_eq!(
        problems("", "secrets", &secret("kubernetes.io/dockercfg", json!({".dockercfg": "[]"}))),
        ["data[.dockercfg]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value of type map[string]interface {}"]
    );
    let pair = secret("kubernetes.io/tls", json!({"tls.crt": "x", "tls.key": "y"}));
    assert_eq!(strategy("", "secrets").warnings(&pair, None), ["tls: failed to find any PEM data in certificate input"]);
}

#[test]
fn a_scope_that_counts_nothing_of_a_quota_is_shown_as_upstream_holds_it() {
    let quota = core(
        "ResourceQuota",
        json!({"spec": {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "VolumeAttributesClass", "operator": "Exists"}]}}}),
    );
    assert_eq!(
        problems("", "resourcequotas", &quota),
        [concat!(
            r#"spec.scopeSelector.matchExpressions: Invalid value: "#,
            r#"{"MatchExpressions":[{"ScopeName":"VolumeAttributesClass","Operator":"Exists","Values":null}]}: unsupported scope applied to resource"#
        )]
    );
}

#[test]
fn a_quota_that_lets_more_be_asked_for_than_be_allowed_is_warned_of() {
    let warned = |hard: Value| strategy("", "resourcequotas").warnings(&core("ResourceQuota", json!({"spec": {"hard": hard}})), None);
    assert_eq!(
        warned(json!({"cpu": "2", "limits.cpu": "1", "requests.memory": "1Gi", "memory": "5Gi", "limits.memory": "512Mi"})),
        ["ResourceQuota cpu (2) should be less than limits.cpu (1)", "ResourceQuota requests.memory (1Gi) should be less than limits.memory (512Mi)"]
    );
    assert_eq!(warned(json!({"storage": "2", "limits.storage": "1", "requests.cpu": "1", "cpu": "9", "limits.cpu": "1"})), NONE);
}

#[test]
fn a_node_s_addresses_are_shown_as_upstream_holds_them_and_its_annotations_of_old_are_read() {
    let node = core("Node", json!({"status": {"addresses": [{"type": "InternalIP", "address": "1.2.3.4"}, {"type": "InternalIP", "address": "1.2.3.4"}]}}));
    let told: Vec<String> = strategy("", "nodes").validate_status(&node, &node).iter().map(ToString::to_string).collect();
    assert_eq!(told, [r#"status.addresses[1]: Duplicate value: {"Type":"InternalIP","Address":"1.2.3.4"}"#]);
    let mut node = core("Node", json!({}));
    node["metadata"]["annotations"] = json!({"scheduler.alpha.kubernetes.io/preferAvoidPods": "x"});
    let why = "invalid character 'x' looking for beginning of value";
    assert_eq!(
        problems("", "nodes", &node),
        [format!("metadata.annotations.AvoidPods: Invalid value: \"scheduler.alpha.kubernetes.io/preferAvoidPods\": {why}")]
    );
}

#[test]
fn owners_by_hand_have_names() {
    let map = core("ConfigMap", json!({}));
    let mut new = map.clone();
    new["metadata"]["managedFields"] = json!([{"manager": "a".repeat(129), "subresource": "b".repeat(257)}]);
    let told = validate_meta_update("", &new, &map, strategy("", "configmaps"));
    let places = told.iter().map(|error| error.path.to_string()).collect::<Vec<_>>();
    assert_eq!(places, ["metadata.managedFields[0].manager", "metadata.managedFields[0].subresource"]);
    new["metadata"]["managedFields"] = vec![json!({"manager": "\u{7f}".repeat(128)}); 1000].into();
    let told = validate_meta_update("", &new, &map, strategy("", "configmaps")).len();
    assert!((1000..2000).contains(&told), "{told}");
}

#[test]
fn who_finalizes_a_namespace_is_told_which_finalizer_is_wrong() {
    let space = core("Namespace", json!({"spec": {"finalizers": ["kubernetes", "x y"]}}));
    let told = strategy("", "namespaces").validate_through("finalize", &space, &space);
    assert_eq!(told[0].path.to_string(), "spec.finalizers[1]");
}

#[test]
fn a_changed_service_is_told_of_its_class_first() {
    let old = created("", "services", core("Service", json!({"spec": {"ports": [{"port": 80}]}})));
    let found = changes("", "services", &old, |o| {
        o["spec"]["loadBalancerClass"] = "a".into();
        o["spec"]["sessionAffinity"] = "b".into();
        o["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": "auto"});
    });
    let class = "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'";
    assert_eq!(found[0], class);
    assert_eq!(
        found[1],
        "metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"Auto\": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified"
    );
    assert!(found[2].starts_with("spec.sessionAffinity: "), "{found:?}");
}

#[test]
fn a_services_address_stays() {
    let mut old = created("", "services", core("Service", json!({"spec": {"ports": [{"port": 80}]}})));
    old["spec"]["clusterIP"] = "10.96.0.7".into();
    old["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
    assert_eq!(changes("", "services", &old, |o| o["spec"]["ports"][0]["port"] = 81.into()), NONE);
    let found = changes("", "services", &old, |o| o["spec"]["clusterIP"] = "10.96.0.8".into());
    assert_eq!(found, ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"]);
}

#[test]
fn a_namespace_is_active_and_labelled() {
    let obj = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
    let obj = created("", "namespaces", obj);
    assert_eq!(obj["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "a"}));
    assert_eq!((&obj["spec"], &obj["status"]), (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"})));
    assert_eq!(problems("", "namespaces", &obj), NONE);
    assert_eq!(strategy("", "namespaces").selectable_fields(&obj)[0], ("status.phase".into(), "Active".to_owned()));
    let mut gone = obj.clone();
    gone["status"]["phase"] = "Terminating".into();
    let found = strategy("", "namespaces").validate_status(&gone, &obj);
    assert_eq!(found[0].to_string(), "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty");
    let mut held = obj.clone();
    held["spec"]["finalizers"] = json!(["no good"]);
    assert!(!strategy("", "namespaces").validate_through("finalize", &held, &obj).is_empty(), "or no later change of it would be taken");
    held["spec"]["finalizers"] = json!(["example.com/good"]);
    assert!(strategy("", "namespaces").validate_through("finalize", &held, &obj).is_empty());
    let named = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}});
    assert_eq!(validate_meta(&named, false, strategy("", "namespaces")).len(), 1, "a namespace is named like a DNS label");
}

#[test]
fn a_node_brings_its_status() {
    let obj = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {"capacity": {"cpu": "2"}}});
    let obj = created("", "nodes", obj);
    assert_eq!(problems("", "nodes", &obj), NONE);
    assert_eq!(obj["status"]["allocatable"], json!({"cpu": "2"}));
    assert_eq!(obj["spec"]["podCIDRs"], json!(["10.244.0.0/24"]));
    let found = changes("", "nodes", &obj, |o| o["spec"] = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}));
    assert_eq!(found, ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]);
    let gains = |second: &str| changes("", "nodes", &obj, |o| o["spec"]["podCIDRs"] = json!(["10.244.0.0/24", second]));
    assert_eq!(gains("fd00:244::/64"), Vec::<String>::new(), "unlike the original: the cluster has become one of both families");
    assert_eq!(
        gains("10.245.0.0/24"),
        [
            "spec.podCIDRs: Invalid value: [\"10.244.0.0/24\",\"10.245.0.0/24\"]: may specify no more than one CIDR for each IP family",
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        ]
    );
    const FIXED: &str = "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid";
    assert_eq!(gains("Exact").last().map(String::as_str), Some(FIXED), "what is no range is of no family");
    let mut both = obj.clone();
    both["spec"]["podCIDRs"] = json!(["10.244.0.0/24", "fd00:244::/64"]);
    let found = changes("", "nodes", &both, |o| o["spec"] = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:245::/64"]}));
    assert_eq!(found, [FIXED, FIXED]);
    let found = changes("", "nodes", &obj, |o| {
        o["spec"]["taints"] = json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]);
    });
    assert!(found[0].starts_with("metadata.taints[1]: Duplicate value:") && found[0].ends_with("taints must be unique by key and effect pair"));
}

#[test]
fn configuration_may_be_frozen() {
    let map = created("", "configmaps", core("ConfigMap", json!({"data": {"a": "b"}, "immutable": true})));
    assert_eq!(problems("", "configmaps", &map), NONE);
    let found = changes("", "configmaps", &map, |o| o["data"]["a"] = "c".into());
    assert_eq!(found, ["data: Forbidden: field is immutable when `immutable` is set"]);
    let found = changes("", "configmaps", &map, |o| o["immutable"] = false.into());
    assert_eq!(found, ["immutable: Forbidden: field is immutable when `immutable` is set"]);
    let bad = core("ConfigMap", json!({"data": {"a/b": ""}}));
    assert_eq!(
        problems("", "configmaps", &bad),
        [
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        ]
    );
    let large = core("ConfigMap", json!({"data": {"a": "x".repeat(1024 * 1024 + 1)}}));
    assert_eq!(problems("", "configmaps", &large), ["[]: Too long: may not be more than 1048576 bytes"]);
}

#[test]
fn owners_are_named_in_full_and_are_no_events() {
    let owner = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "name": "n", "uid": "u"});
    let owned = |owner: Value| core("ConfigMap", json!({"metadata": {"name": "m", "namespace": "n", "ownerReferences": [owner]}}));
    let found = |owner: Value| crate::validate_meta(&owned(owner), true, strategy("", "configmaps")).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(found(owner("apps/v1", "Deployment")), NONE);
    let wrong = "metadata.ownerReferences[0].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>";
    assert_eq!(found(owner("a/b/c", "X")), [wrong]);
    let event = found(owner("v1", "Event"));
    assert!(event[0].ends_with("\"uid\":\"u\"}: /v1, Kind=Event is disallowed from being an owner"), "{event:?}");
}

/// Each error shows all owners: of many controllers a few are told.
#[test]
fn few_of_many_controllers_are_told() {
    let told = |controllers: usize| {
        let owners: Vec<Value> =
            (0..controllers).map(|n| json!({"apiVersion": "v1", "kind": "A", "name": format!("n{n}"), "uid": "u", "controller": true})).collect();
        let owned = core("ConfigMap", json!({"metadata": {"name": "m", "namespace": "n", "ownerReferences": owners}}));
        crate::validate_meta(&owned, true, strategy("", "configmaps")).len()
    };
    assert_eq!([1, 2, 5, 100].map(told), [0, 1, 4, 8]);
}

#[test]
fn secrets_are_folded_and_typed() {
    let secret = created("", "secrets", core("Secret", json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"b": "z"}})));
    assert_eq!((&secret["data"], &secret["type"]), (&json!({"a": "eA==", "b": "eg=="}), &json!("Opaque")));
    assert!(secret.get("stringData").is_none());
    let tls = created("", "secrets", core("Secret", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})));
    assert_eq!(problems("", "secrets", &tls), ["data[tls.key]: Required value"]);
    let docker = created("", "secrets", core("Secret", json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": ""}})));
    assert_eq!(problems("", "secrets", &docker), ["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"]);
    let found = changes("", "secrets", &secret, |o| o["type"] = "other".into());
    assert_eq!(found, ["type: Invalid value: \"other\": field is immutable"]);
}

#[test]
fn limits_follow_from_each_other() {
    let limits = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}]}});
    let obj = created("", "limitranges", core("LimitRange", limits));
    let limit = &obj["spec"]["limits"][0];
    assert_eq!((&limit["default"], &limit["defaultRequest"]), (&json!({"cpu": "2"}), &json!({"cpu": "2", "memory": "1Mi"})));
    assert_eq!(problems("", "limitranges", &obj), NONE);
    let wrong = core("LimitRange", json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}}));
    assert_eq!(problems("", "limitranges", &wrong), ["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"]);
}

#[test]
fn quotas_count_what_can_be_counted() {
    let quota = core("ResourceQuota", json!({"spec": {"hard": {"pods": "5", "count/deployments.apps": "1", "requests.cpu": "1"}}}));
    assert_eq!(problems("", "resourcequotas", &quota), NONE);
    let wrong = core("ResourceQuota", json!({"spec": {"hard": {"pods": "1500m", "foo": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}}));
    assert_eq!(
        problems("", "resourcequotas", &wrong),
        [
            "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
            "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quota",
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ]
    );
}

#[test]
fn claims_are_bound_once_and_may_grow() {
    let claim = core("PersistentVolumeClaim", json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}));
    let mut claim = created("", "persistentvolumeclaims", claim);
    assert_eq!(problems("", "persistentvolumeclaims", &claim), NONE);
    assert_eq!((&claim["status"], &claim["spec"]["volumeMode"]), (&json!({"phase": "Pending"}), &json!("Filesystem")));
    assert_eq!(changes("", "persistentvolumeclaims", &claim, |o| o["spec"]["volumeName"] = "v".into()), NONE);
    let grow = |o: &mut Value| o["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    let found = changes("", "persistentvolumeclaims", &claim, grow);
    assert!(
        found[0].starts_with("spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n")
    );
    claim["status"]["phase"] = "Bound".into();
    assert_eq!(changes("", "persistentvolumeclaims", &claim, grow), NONE);
    let status = |status: Value| {
        let mut next = claim.clone();
        next["status"] = status;
        let errors = strategy("", "persistentvolumeclaims").validate_status(&next, &claim);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        status(json!({"allocatedResources": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending", "a.b/c": "NodeResizePending"}})),
        NONE
    );
    assert_eq!(
        status(json!({"capacity": {"storage": "-1"}, "allocatedResources": {"cpu": "1"}, "allocatedResourceStatuses": {"storage": "Soon"}})),
        [
            "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
            "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
        ]
    );
    let empty = created("", "persistentvolumeclaims", core("PersistentVolumeClaim", json!({"spec": {}})));
    assert_eq!(
        problems("", "persistentvolumeclaims", &empty),
        ["spec.accessModes: Required value: at least 1 access mode is required", "spec.resources[storage]: Required value"]
    );
}

#[test]
fn volumes_keep_their_source() {
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/d"}}});
    let volume = created("", "persistentvolumes", volume);
    assert_eq!(problems("", "persistentvolumes", &volume), NONE);
    assert_eq!(volume["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": "2023-11-14T22:13:20Z"}));
    assert_eq!(volume["spec"]["hostPath"], json!({"path": "/d", "type": ""}));
    let found = changes("", "persistentvolumes", &volume, |o| o["spec"]["hostPath"]["path"] = "/e".into());
    assert!(found[0].starts_with("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n"), "{found:?}");
}

/// What a label is called now may stand for what it was called once; a key that is gone is refused for itself, and not as a change.
#[test]
fn volumes_stay_where_they_are() {
    let required = |key: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": ["z"]}]}]}});
    let to = |old: &str, new: &str| {
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {"nodeAffinity": required(old),
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/d"}}});
        let told = changes("", "persistentvolumes", &created("", "persistentvolumes", volume), |o| o["spec"]["nodeAffinity"] = required(new));
        told.iter().any(|error| error.ends_with("field is immutable, except for updating from beta label to GA"))
    };
    let (once, now) = ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone");
    assert_eq!([to(once, now), to("b", ""), to(now, now)], [false; 3]);
    assert_eq!([to(now, once), to(once, ""), to(once, "b"), to("b", "c")], [true; 4]);
}

#[test]
fn the_secrets_of_a_volume_s_driver_have_names() {
    let told = |field: &str, secret: Value| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "h", field: secret}});
        let volume = created("", "persistentvolumes", core("PersistentVolume", json!({"metadata": {"name": "v"}, "spec": spec})));
        problems("", "persistentvolumes", &volume)
    };
    for field in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        assert_eq!(told(field, json!({"name": "a.b", "namespace": "n"})), NONE);
        let found = told(field, json!({"name": "A_b", "namespace": "B"}));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with(&format!("spec.csi.{field}.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must")), "{found:?}");
        assert!(found[1].starts_with(&format!("spec.csi.{field}.namespace: Invalid value: \"B\": a lowercase RFC 1123 label must")), "{found:?}");
        let missing = [format!("spec.csi.{field}.name: Required value"), format!("spec.csi.{field}.namespace: Required value")];
        assert_eq!(told(field, json!({})), missing);
    }
    assert_eq!(told("nodeStageSecretRef", json!({"name": "A_b"})), NONE, "as in the original");
}

#[test]
fn events_of_old_are_taken_as_they_are() {
    let event =
        core("Event", json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "n"}, "reason": "Started", "source": {"component": "kubelet"}}));
    assert_eq!(problems("", "events", &event), NONE);
    let fields = strategy("", "events").selectable_fields(&event);
    assert!(fields.contains(&("involvedObject.name".into(), "p".to_owned())) && fields.contains(&("source".into(), "kubelet".to_owned())));
    let foreign = core("Event", json!({"involvedObject": {"namespace": "other"}}));
    assert_eq!(problems("", "events", &foreign), ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]);
    let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"}, "regarding": {"namespace": "n"},
        "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "a.b/c", "reportingInstance": "i", "action": "Act", "reason": "R", "type": "Normal"});
    assert_eq!(problems("events.k8s.io", "events", &new), NONE);
    let mut odd = new.clone();
    (odd["action"], odd["metadata"]["finalizers"], odd["type"]) = (Value::Null, json!(["x"]), Value::Null);
    let places = |told: Vec<String>| told.iter().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!(places(problems("events.k8s.io", "events", &odd)), ["action", "metadata.finalizers[0]", "type"]);
    let changed = changes("events.k8s.io", "events", &new, |o| {
        (o["reportingController"], o["metadata"]["uid"], o["metadata"]["finalizers"], o["reason"]) = (json!("a b"), json!("u"), json!(["x"]), json!("S"));
    });
    assert_eq!(places(changed), ["reportingController", "metadata.uid", "metadata.finalizers[0]", "reason", "reason", "reportingController"]);
    let found = changes("events.k8s.io", "events", &new, |o| o["series"] = json!({"count": 1}));
    assert_eq!(found, ["series.count: Invalid value: \"\": should be at least 2", "series.lastObservedTime: Required value"]);
}

#[test]
fn replication_controllers_learn_from_their_template() {
    let obj = created("", "replicationcontrollers", core("ReplicationController", json!({"spec": {"template": template(json!({"a": "b"}))}})));
    assert_eq!(problems("", "replicationcontrollers", &obj), NONE);
    assert_eq!((&obj["spec"]["selector"], &obj["metadata"]["labels"]), (&json!({"a": "b"}), &json!({"a": "b"})));
    let mut bad = created("", "replicationcontrollers", core("ReplicationController", json!({"spec": {"template": template(json!({"a": "b"}))}})));
    bad["spec"]["replicas"] = (-1).into();
    bad["spec"]["minReadySeconds"] = (-2).into();
    let told =
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0", "spec.minReadySeconds: Invalid value: -2: must be greater than or equal to 0"];
    assert_eq!(problems("", "replicationcontrollers", &bad), told);
}

/// No tree, whatever its shape, makes a strategy panic, and defaults are added once.
#[test]
fn strategies_bear_any_shape() {
    let shapes = [
        json!(null),
        json!({}),
        json!([]),
        json!("x"),
        json!(-1),
        json!({"spec": [], "status": 7, "metadata": "m", "data": []}),
        json!({"spec": {"template": [], "ports": {}, "containers": [[], null, 3], "volumes": "v", "limits": [1], "selector": 4, "taints": [null]},
            "metadata": {"annotations": [], "labels": 1, "finalizers": {}, "ownerReferences": [0]}, "status": {"conditions": [1, {}], "podIPs": [[]]}}),
    ];
    for resource in resources::builtin() {
        let kind = strategy(&resource.group, &resource.resource);
        for shape in &shapes {
            let mut obj = shape.clone();
            if let Some(fields) = obj.as_object_mut() {
                fields.insert("apiVersion".into(), resource.api_version().into());
                fields.insert("kind".into(), resource.kind.kind.clone().into());
            }
            kind.default(&mut obj);
            let once = obj.clone();
            kind.default(&mut obj);
            assert_eq!(obj, once, "{} {}", resource.group, resource.resource);
            for old in &shapes {
                let mut new = obj.clone();
                kind.prepare_create(&cx(), &mut new);
                kind.prepare_update(&cx(), &mut new, old);
                kind.prepare_status(&cx(), &mut new, old);
                let _ = (kind.validate(&new), kind.validate_update(&new, old), kind.validate_status(&new, old));
                let _ = (kind.warnings(&new, Some(old)), kind.selectable_fields(&new), kind.grace_period(&new, None));
                let _ = kind.row(&new, SystemTime::UNIX_EPOCH);
                let _ = (validate_meta(&new, resource.namespaced, kind), crate::validate_meta_update("", &new, old, kind));
                for part in ["ephemeralcontainers", "resize", "binding", "eviction", "approval", "finalize"] {
                    let mut new = new.clone();
                    let _ = kind.validate_through(part, &new, old);
                    kind.prepare_through(&cx(), part, &mut new, old);
                }
            }
        }
    }
}

/// What the running original answers, character for character: NUL and its like in names and keys are refused and shown as Go
/// quotes them, in values they stay.
#[test]
fn control_characters_in_names_and_keys_are_refused_as_upstream_shows_them() {
    let found = |change: fn(&mut Value)| {
        let mut map = core("ConfigMap", json!({"data": {"k": "b\u{0}\u{1}\u{7f}"}}));
        map["metadata"]["annotations"] = json!({"a": "b\u{0}\u{1}\u{7f}"});
        change(&mut map);
        let kind = strategy("", "configmaps");
        let mut errors = validate_meta(&map, true, kind);
        errors.extend(kind.validate(&map));
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found(|_| {}), NONE);
    type Change = fn(&mut Value);
    let table: [(Change, &str); 8] = [
        (|o| o["metadata"]["name"] = "a\u{0}b".into(), r#"metadata.name: Invalid value: "a\x00b": a lowercase RFC 1123 subdomain"#),
        (|o| o["metadata"]["name"] = "a\tb".into(), r#"metadata.name: Invalid value: "a\tb": a lowercase RFC 1123 subdomain"#),
        (|o| o["metadata"]["name"] = "a\nb".into(), r#"metadata.name: Invalid value: "a\nb": a lowercase RFC 1123 subdomain"#),
        (|o| o["metadata"]["labels"] = json!({"a": "b\u{0}"}), r#"metadata.labels: Invalid value: "b\x00": a valid label must be"#),
        (|o| o["metadata"]["labels"] = json!({"a\u{0}": "b"}), r#"metadata.labels: Invalid value: "a\x00": name part must consist of"#),
        (|o| o["metadata"]["annotations"] = json!({"a\u{0}": "b"}), r#"metadata.annotations: Invalid value: "a\x00": name part must consist of"#),
        (|o| o["metadata"]["finalizers"] = json!(["a/\u{0}"]), r#"metadata.finalizers: Invalid value: "a/\x00": name part must consist of"#),
        (|o| o["data"] = json!({"a\u{0}": "b"}), "data[a\u{0}]: Invalid value: \"a\\x00\": a valid config key must consist of"),
    ];
    for (change, told) in table {
        let errors = found(change);
        assert!(errors.len() == 1 && errors[0].starts_with(told), "{told}: {errors:?}");
    }
}

/// What would be the square of a list is told of its beginning: each error shows the whole list.
#[test]
fn long_lists_are_not_told_as_often_as_they_are_long() {
    let hard: serde_json::Map<String, Value> = (0..100).map(|n| (format!("requests.hugepages-{n}Mi"), json!("1Mi"))).collect();
    let quota = core("ResourceQuota", json!({"spec": {"hard": hard, "scopes": vec!["BestEffort"; 100]}}));
    let told = problems("", "resourcequotas", &quota);
    assert!(told.iter().filter(|line| line.ends_with("unsupported scope applied to resource")).count() <= crate::rules::LISTS_TOLD_MAX);
    assert!(!told.is_empty());
    let claims: Vec<Value> = (0..100).map(|n| json!({"name": format!("unknown-{n}")})).collect();
    let known: Vec<Value> = (0..100).map(|n| json!({"name": format!("there-{n}"), "resourceClaimName": "r"})).collect();
    let pod = core("Pod", json!({"spec": {"resourceClaims": known, "containers": [{"name": "c", "image": "i", "resources": {"claims": claims}}]}}));
    let told = problems("", "pods", &defaulted("", "pods", &pod));
    let missing = |line: &&String| line.contains("must be one of the names in pod.spec.resourceClaims");
    assert_eq!(told.iter().filter(missing).count(), 100, "each is told");
    let with_names = told.iter().filter(missing).filter(|line| line.contains("there-99")).count();
    assert!((1..=crate::rules::LISTS_TOLD_MAX).contains(&with_names), "the names that there are, a few times: {with_names}");
}

/// Each that stands twice is told at its own place, however many they are.
#[test]
fn what_stands_twice_is_told_where_it_stands() {
    let mount = |n: usize| json!({"name": "v", "mountPath": format!("/{}", n % 50)});
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let container = json!({"name": "c", "image": "i", "volumeMounts": (0..100).map(mount).collect::<Vec<_>>()});
    let pod = core("Pod", json!({"spec": {"volumes": volumes, "containers": [container]}}));
    let told = problems("", "pods", &defaulted("", "pods", &pod));
    assert_eq!(told.iter().filter(|line| line.ends_with("must be unique")).count(), 50);
    assert_eq!(told[0], "spec.containers[0].volumeMounts[50].mountPath: Invalid value: \"/0\": must be unique");
}

#[test]
fn a_workload_that_has_changed_is_warned_of_its_template_again() {
    let pod = json!({"containers": [{"name": "c", "image": "i"}], "topologySpreadConstraints": [
        {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
    let told = |resource: &str, change: &dyn Fn(&mut Value)| {
        let kind = strategy("apps", resource);
        let old = json!({"metadata": {"name": "w", "generation": 1}, "spec": {"replicas": 1, "template": template}});
        let mut new = old.clone();
        change(&mut new);
        kind.prepare_update(&cx(), &mut new, &old);
        kind.warnings(&new, Some(&old))
    };
    let warning = vec!["spec.template.spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod".to_owned()];
    let scaled = |obj: &mut Value| obj["spec"]["replicas"] = 2.into();
    for resource in ["deployments", "replicasets", "statefulsets"] {
        assert_eq!((told(resource, &|_| {}), told(resource, &scaled)), (Vec::new(), warning.clone()), "{resource}");
    }
    assert_eq!(told("daemonsets", &|obj| obj["spec"]["minReadySeconds"] = 2.into()), Vec::<String>::new());
    assert_eq!(told("daemonsets", &|obj| obj["spec"]["template"]["metadata"]["labels"]["a"] = "c".into()), warning);
}

#[test]
fn what_old_annotations_say_is_read_and_right() {
    let node = |name: &str, text: &str| core("Node", json!({"metadata": {"name": "n", "annotations": {name: text}}}));
    let (avoided, tainted) = ("scheduler.alpha.kubernetes.io/preferAvoidPods", "scheduler.alpha.kubernetes.io/taints");
    let at = |name: &str| format!("metadata.annotations.{name}");
    let no_controller = format!("{}[0].PodSignature: Required value", at(avoided));
    assert_eq!(problems("", "nodes", &node(avoided, r#"{"preferAvoidPods": [{}]}"#)), [no_controller]);
    let no_object = format!("metadata.annotations.AvoidPods: Invalid value: \"{avoided}\": json: cannot unmarshal array into Go value of type v1.AvoidPods");
    assert_eq!(problems("", "nodes", &node(avoided, "[]")), [no_object]);
    assert_eq!(problems("", "nodes", &node(tainted, r#"[{"key": "k"}]"#)), [format!("{}[0].effect: Required value", at(tainted))]);

    let (options, source) = ("volume.beta.kubernetes.io/mount-options", json!({"path": "/d", "server": "s"}));
    let volume = |kind: &str| {
        let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], kind: source});
        created("", "persistentvolumes", core("PersistentVolume", json!({"metadata": {"name": "v", "annotations": {options: "ro"}}, "spec": spec})))
    };
    assert_eq!(problems("", "persistentvolumes", &volume("nfs")), NONE);
    assert_eq!(
        problems("", "persistentvolumes", &volume("hostPath")),
        [format!("{}: Forbidden: may not specify mount options for this volume type", at(options))]
    );

    let with = |kind: &str, name: &str, text: &str| {
        let mut obj = apps(kind, json!({}));
        obj["metadata"]["annotations"] = json!({name: text});
        obj
    };
    let (rollback, generation) = ("deprecated.deployment.rollback.to", "deprecated.daemonset.template.generation");
    let why = |resource: &str, obj: Value| strategy("apps", resource).inconvertible(&obj).unwrap_or_default();
    assert_eq!(why("daemonsets", with("DaemonSet", generation, "x")), "strconv.ParseInt: parsing \"x\": invalid syntax");
    assert_eq!(
        why("deployments", with("Deployment", rollback, "9999999999999999999")),
        format!("failed to parse annotation[{rollback}]=9999999999999999999 as int64: strconv.ParseInt: parsing \"9999999999999999999\": value out of range")
    );
    assert_eq!(why("deployments", with("Deployment", rollback, "")), "");
    let back = created("apps", "deployments", with("Deployment", rollback, "-01"));
    assert_eq!(back["metadata"]["annotations"][rollback], "-1");
    assert_eq!(problems("apps", "deployments", &back), ["spec.rollback.version: Invalid value: -1: must be greater than or equal to 0"]);
}

#[test]
fn words_of_types_are_shown_as_json() {
    let claim = |mode: &str| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": mode});
        problems("", "persistentvolumeclaims", &created("", "persistentvolumeclaims", core("PersistentVolumeClaim", json!({"spec": spec}))))
    };
    let told = |shown: &str| [format!("spec.volumeMode: Unsupported value: \"{shown}\": supported values: \"Block\", \"Filesystem\"")];
    assert_eq!(claim("a\u{200b}b"), told("a\u{200b}b"));
    assert_eq!(claim("\u{1}<"), told("\\u0001\\u003c"));
    let limit = json!({"spec": {"hard": {"\u{feff}": "1"}}});
    let quota = problems("", "resourcequotas", &created("", "resourcequotas", core("ResourceQuota", limit)));
    assert!(quota[0].starts_with("spec.hard[\u{feff}]: Invalid value: \"\u{feff}\": name part must consist of"), "{quota:?}");
}

#[test]
fn what_a_controller_of_another_version_could_not_say_stays() {
    let noted = json!({"non-convertible.kubernetes.io/selector": "x", "non-convertible.kubernetes.io/more": "y"});
    let spec = json!({"selector": {"a": "b"}, "template": template(json!({"a": "b", "c": "d"}))});
    let old = created("", "replicationcontrollers", core("ReplicationController", json!({"metadata": {"name": "a", "annotations": noted}, "spec": spec})));
    let mut found = changes("", "replicationcontrollers", &old, |o| o["spec"]["selector"]["c"] = "d".into());
    found.sort();
    let selector = "spec.selector: Invalid value: {\"a\":\"b\",\"c\":\"d\"}: cannot update non-convertible selector";
    assert_eq!(found, ["more: Not found: \"y\": unknown non-convertible field", selector]);
    let mut noted = old.clone();
    for at in 0..100 {
        noted["metadata"]["annotations"][format!("non-convertible.kubernetes.io.{at}/selector")] = "x".into();
    }
    let found = changes("", "replicationcontrollers", &noted, |o| o["spec"]["selector"]["c"] = "d".into());
    assert_eq!(found.iter().filter(|line| line.as_str() == selector).count(), crate::rules::LISTS_TOLD_MAX);
    let mut node = core("Node", json!({"status": {"nodeInfo": {"swap": {"capacity": 0}}}}));
    assert_eq!(problems("", "nodes", &node), ["metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero"]);
    node["status"]["nodeInfo"]["swap"]["capacity"] = 1.into();
    assert_eq!(problems("", "nodes", &node), NONE);
}
