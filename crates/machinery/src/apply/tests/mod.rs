use super::*;
use crate::schema;
use serde_json::json;

mod owners;

fn deployment() -> TypeRef<'static> {
    schema::builtin().named("io.k8s.api.apps.v1.Deployment").unwrap()
}

fn pod() -> TypeRef<'static> {
    schema::builtin().named("io.k8s.api.core.v1.Pod").unwrap()
}

fn service() -> TypeRef<'static> {
    schema::builtin().named("io.k8s.api.core.v1.Service").unwrap()
}

fn manager(name: &str) -> Manager<'_> {
    static NOTHING: LazyLock<FieldSet> = LazyLock::new(FieldSet::new);
    Manager { name, api_version: "apps/v1", subresource: "", now: "2026-11-24T15:00:00Z", exclude: &NOTHING }
}

fn owned(object: &Value, name: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entry = entries.into_iter().find(|e| e["manager"] == name);
    entry.map(|e| e["fieldsV1"].clone()).unwrap_or_default()
}

fn with_kind(mut value: Value) -> Value {
    value["apiVersion"] = "apps/v1".into();
    value["kind"] = "Deployment".into();
    value
}

fn applied(live: Option<&Value>, config: Value, name: &str) -> Value {
    apply_as(deployment(), live, &with_kind(config), &manager(name), false).unwrap_or_else(|e| panic!("{}", e.message))
}

#[test]
fn an_apply_owns_what_it_names() {
    let object = applied(
        None,
        json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {"replicas": 2, "selector": {"matchLabels": {"x": "1"}},
        "template": {"spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["a"]}]}}}}),
        "me",
    );
    assert_eq!(
        owned(&object, "me"),
        json!({"f:metadata": {"f:labels": {"f:x": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
    );
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["fieldsType"], "FieldsV1");
}

#[test]
fn what_is_not_applied_any_more_goes_unless_somebody_owns_it() {
    let first = applied(None, json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"paused": true}}), "me");
    let both = applied(Some(&first), json!({"metadata": {"labels": {"b": "2"}}}), "other");
    let second = applied(Some(&both), json!({"metadata": {"labels": {}}}), "me");
    assert_eq!(second["metadata"]["labels"], json!({"b": "2"}));
    assert!(second.get("spec").is_none_or(|s| s.get("paused").is_none()), "{second}");
    assert_eq!(owned(&second, "other"), json!({"f:metadata": {"f:labels": {"f:b": {}}}}));
}

#[test]
fn conflicts_name_the_manager_and_the_field() {
    let mut live = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1, "minReadySeconds": 3}});
    track(deployment(), None, &mut live, &manager("kubectl-client-side-apply"));
    let config = with_kind(json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "minReadySeconds": 3}}));
    let error = apply_as(deployment(), Some(&live), &config, &manager("me"), false).unwrap_err();
    assert_eq!(error.code, 409);
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas");
    let forced = apply_as(deployment(), Some(&live), &config, &manager("me"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(owned(&forced, "kubectl-client-side-apply"), json!({"f:spec": {"f:minReadySeconds": {}}}), "equal values are owned together");
    let config = with_kind(json!({"spec": {"replicas": 2, "minReadySeconds": 4}}));
    let error = apply_as(deployment(), Some(&live), &config, &manager("me"), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.minReadySeconds\n- .spec.replicas"
    );
}

#[test]
fn an_update_takes_what_it_changes() {
    let live = applied(None, json!({"metadata": {"name": "a"}, "spec": {"replicas": 1, "paused": true}}), "me");
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    new["spec"].as_object_mut().unwrap().remove("paused");
    track(deployment(), Some(&live), &mut new, &manager("scaler"));
    assert_eq!(owned(&new, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&new, "me"), Value::Null, "nothing is left of it");
}

#[test]
fn an_update_without_a_change_leaves_no_mark() {
    let live = applied(None, json!({"spec": {"replicas": 1}}), "me");
    let mut new = live.clone();
    track(deployment(), Some(&live), &mut new, &manager("scaler"));
    assert_eq!(new, live);
    // A client that does not know managedFields sends none.
    new["metadata"].as_object_mut().unwrap().remove("managedFields");
    track(deployment(), Some(&live), &mut new, &manager("scaler"));
    assert_eq!(new["metadata"]["managedFields"], live["metadata"]["managedFields"]);
    for none in [json!([{}]), json!([])] {
        new["metadata"]["managedFields"] = none.clone();
        let sent = crate::json::decode(new.to_string().as_bytes(), Some(deployment()), crate::json::Validation::Strict).unwrap().value;
        assert_eq!(sent["metadata"]["managedFields"], none);
        let mut next = sent;
        track(deployment(), Some(&live), &mut next, &manager("scaler"));
        assert!(next["metadata"].get("managedFields").is_none(), "{none}");
    }
}

#[test]
fn a_float_is_no_other_than_the_whole_number_of_its_value() {
    let kind = crate::gvk::Gvk::parse("g.io/v1", "K");
    let custom = crate::structural::schema(&[(kind.clone(), None)]);
    let ty = custom.kind(&kind).unwrap();
    let same = |old: Value, new: Value| compare::compare(ty, &json!({"spec": old}), &json!({"spec": new})).changed.is_empty();
    assert!(same(json!({"a": 1.0}), json!({"a": 1})));
    assert!(same(json!({"a": [1, {"b": 2.0}]}), json!({"a": [1.0, {"b": 2}]})));
    assert!(!same(json!({"a": 1.5}), json!({"a": 1})));
    assert!(!same(json!({"a": 1.0}), json!({"a": "1"})));
}

#[test]
fn a_created_pod_is_owned_as_upstream_records_it() {
    let mut new = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "u", "labels": {"x": "1"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "restartPolicy": "Always"}, "status": {}});
    track(pod(), None, &mut new, &Manager { api_version: "v1", ..manager("kubectl") });
    assert_eq!(
        owned(&new, "kubectl"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:restartPolicy": {}, "f:containers": {
            "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:resources": {}}}}})
    );
}

#[test]
fn subresources_are_managers_of_their_own() {
    let mut live = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}});
    track(deployment(), None, &mut live, &manager("kubectl"));
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1});
    new["spec"]["replicas"] = 9.into();
    let exclude = FieldSet::from_paths(&[&["spec"]]);
    let status = Manager { subresource: "status", exclude: &exclude, now: "2026-11-24T16:00:00Z", ..manager("controller") };
    track(deployment(), Some(&live), &mut new, &status);
    assert_eq!(owned(&new, "controller"), json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(owned(&new, "kubectl"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(new["metadata"]["managedFields"][1]["subresource"], "status");
    let mut wiped = new.clone();
    wiped["metadata"]["managedFields"] = json!([]);
    track(deployment(), Some(&new), &mut wiped, &status);
    assert_eq!(wiped, new, "whoever writes the status takes no owners away");
}

#[test]
fn lists_are_merged_by_element_and_keep_their_order() {
    let config = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    };
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        list.iter().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let first = applied(None, config(&["a", "b"]), "one");
    let second = applied(Some(&first), config(&["c", "b"]), "two");
    assert_eq!(names(&second), ["a", "c", "b"]);
    let third = applied(Some(&second), config(&["b"]), "one");
    assert_eq!(names(&third), ["c", "b"], "a was one's alone");
    let duplicate = apply_as(deployment(), None, &with_kind(config(&["a", "a"])), &manager("one"), false).unwrap_err();
    assert_eq!(
        (duplicate.code, duplicate.message.as_str()),
        (500, "failed to create typed patch object (/; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"a\"]")
    );
}

#[test]
fn ports_of_one_number_differ_by_protocol() {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    let manager = Manager { api_version: "v1", ..manager("me") };
    let config = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]}});
    let live = apply_as(service(), None, &config, &manager, false).unwrap();
    assert_eq!(live["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let config = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [port("dns", "UDP")]}});
    let live = apply_as(service(), Some(&live), &config, &manager, false).unwrap();
    assert_eq!(live["spec"]["ports"], json!([port("dns", "UDP")]));
}

#[test]
fn zeros_are_applied() {
    let mut live = json!({"metadata": {"name": "a"}, "spec": {"paused": true}});
    track(deployment(), None, &mut live, &manager("kubectl"));
    let config = with_kind(json::parse_applied(b"{\"spec\": {\"paused\": false}}").unwrap().value);
    let object = apply_as(deployment(), Some(&live), &config, &manager("me"), true).unwrap();
    assert!(object["spec"].get("paused").is_none(), "false is what absence means");
    assert_eq!(owned(&object, "me"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(owned(&object, "kubectl"), Value::Null);
}

#[test]
fn an_object_from_before_is_owned_by_its_past() {
    let live = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"replicas": 1, "paused": true}});
    let config = with_kind(json!({"spec": {"replicas": 2}}));
    let error = apply_as(deployment(), Some(&live), &config, &manager("me"), false).unwrap_err();
    assert!(error.message.contains("conflict with \"before-first-apply\" using apps/v1: .spec.replicas"));
    let mut updated = live.clone();
    updated["spec"]["replicas"] = 3.into();
    track(deployment(), Some(&live), &mut updated, &manager("me"));
    assert!(updated["metadata"].get("managedFields").is_none(), "updates of such objects are not tracked");
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let config = json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {"replicas": 1}});
    let live = applied(None, config.clone(), "me");
    let later = Manager { now: "2027-01-01T00:00:00Z", ..manager("me") };
    let again = apply_as(deployment(), Some(&live), &with_kind(config), &later, false).unwrap();
    assert_eq!(again, live);
}

#[test]
fn many_update_managers_are_folded() {
    let mut live = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}});
    track(deployment(), None, &mut live, &manager("first"));
    for n in 0..15 {
        let mut new = live.clone();
        new["metadata"]["annotations"][format!("n{n}")] = "x".into();
        let (name, now) = (format!("m{n}"), format!("2026-11-24T16:00:{n:02}Z"));
        track(deployment(), Some(&live), &mut new, &Manager { now: &now, ..manager(&name) });
        live = new;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert!(owned(&live, "ancient-changes")["f:spec"]["f:replicas"].is_object());
}

#[test]
fn sets_are_trees() {
    let set = |v: Value| FieldSet::from_value(&v);
    let mut a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"f:d": {}}}));
    a.subtract(&set(json!({"f:a": {"f:b": {}}})));
    assert_eq!(a, set(json!({"f:a": {}, "f:c": {"f:d": {}}})));
    a.union(&set(json!({"f:a": {"f:x": {}}})));
    assert_eq!(a, set(json!({"f:a": {".": {}, "f:x": {}}, "f:c": {"f:d": {}}})));
    a.subtract(&set(json!({"f:a": {}, "f:c": {}})));
    assert_eq!(a, set(json!({"f:a": {"f:x": {}}, "f:c": {"f:d": {}}})));
    a.subtract_below(&set(json!({"f:a": {}, "f:c": {"f:z": {}}})));
    assert_eq!(a, set(json!({"f:c": {"f:d": {}}})));
    assert_eq!(FieldSet::from_paths(&[&["a"], &["a", "b"]]), set(json!({"f:a": {".": {}, "f:b": {}}})));
    let mut paths = Vec::new();
    set(json!({"f:a": {"k:{\"n\":\"x\",\"p\":1}": {"f:v": {}}, "v:\"s\"": {}}})).for_each(&mut |p| paths.push(p.to_owned()));
    assert_eq!(paths, [".a[=\"s\"]", ".a[n=\"x\",p=1].v"], "members before what lies below");
}

#[test]
fn who_creates_an_object_owns_no_zero_that_go_writes_anyway() {
    let ty = schema::builtin().named("io.k8s.api.apps.v1.StatefulSet").unwrap();
    let mut new =
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "a"}, "spec": {"serviceName": "", "replicas": 1, "selector": {}}});
    track(ty, None, &mut new, &manager("m"));
    assert_eq!(owned(&new, "m"), json!({"f:spec": {"f:replicas": {}, "f:selector": {}}}));
    let ty = schema::builtin().named("io.k8s.api.core.v1.Node").unwrap();
    let condition = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": null});
    let mut new = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "status": {"conditions": [condition]}});
    track(ty, None, &mut new, &manager("m"));
    let fields = json!({".": {}, "f:type": {}, "f:status": {}, "f:lastHeartbeatTime": {}});
    assert_eq!(owned(&new, "m"), json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": fields}}}), "what is new in a list is new whole");
}
