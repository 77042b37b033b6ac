//! Every granular type, empty and filled, with two and three owners who apply, update and give up.

use super::*;

/// A place of a granular type in a Deployment: its name, itself empty if Go keeps an empty one apart from none, and filled in two
/// ways that do not overlap.
fn granular() -> Vec<(&'static str, Option<Value>, Value, Value)> {
    vec![
        ("/metadata/labels", None, json!({"a": "1"}), json!({"b": "2"})),
        ("/metadata/finalizers", None, json!(["x/a"]), json!(["x/b"])),
        ("/spec/strategy", None, json!({"type": "RollingUpdate"}), json!({"rollingUpdate": {"maxSurge": 3}})),
        ("/spec/template/spec/securityContext", Some(json!({})), json!({"runAsUser": 1}), json!({"runAsGroup": 2})),
        ("/spec/template/spec/affinity", Some(json!({})), json!({"podAffinity": {}}), json!({"podAntiAffinity": {}})),
        ("/spec/template/spec/volumes", None, json!([{"name": "a", "emptyDir": {}}]), json!([{"name": "b", "emptyDir": {}}])),
        ("/spec/template/spec/containers/0/resources", None, json!({"limits": {"cpu": "1"}}), json!({"requests": {"memory": "1Gi"}})),
        ("/spec/template/spec/containers/0/env", None, json!([{"name": "A", "value": "1"}]), json!([{"name": "B", "value": "2"}])),
    ]
}

/// A configuration with one value at a place.
fn config(path: &str, value: &Value) -> Value {
    let mut out = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
    let (parent, last) = path.rsplit_once('/').unwrap();
    if out.pointer(parent).is_none() {
        panic!("{parent}");
    }
    out.pointer_mut(parent).unwrap()[last] = value.clone();
    with_kind(out)
}

fn bare() -> Value {
    with_kind(json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}))
}

fn apply_by(name: &str, live: Option<&Value>, config: &Value) -> Value {
    apply_as(deployment(), live, config, &manager(name), false).unwrap_or_else(|e| panic!("{name}: {}", e.message))
}

fn owner_has(object: &Value, name: &str, path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap();
    owned(object, name).to_string().contains(&format!("\"f:{last}\""))
}

#[test]
fn what_another_owns_stays_when_one_gives_up() {
    for (path, empty, filled, _) in granular() {
        for value in [Some(&filled), empty.as_ref()].into_iter().flatten() {
            let mut live = apply_by("a", None, &config(path, value));
            for name in ["b", "c"] {
                live = apply_by(name, Some(&live), &config(path, value));
            }
            let before = live.pointer(path).cloned();
            for (gone, stays) in [("a", ["b", "c"]), ("b", ["c", "c"])] {
                live = apply_by(gone, Some(&live), &bare());
                assert_eq!(live.pointer(path), before.as_ref(), "{path} = {value} after {gone}");
                assert!(!owner_has(&live, gone, path), "{path} = {value}");
                for name in stays {
                    assert!(owner_has(&live, name, path), "{path} = {value}: {name} {live}");
                }
            }
            live = apply_by("c", Some(&live), &bare());
            assert!(live.pointer(path).is_none(), "{path} = {value}: nobody is left, {live}");
        }
    }
}

#[test]
fn what_an_update_made_stays_when_an_applier_gives_up() {
    for (path, empty, filled, _) in granular() {
        for value in [Some(&filled), empty.as_ref()].into_iter().flatten() {
            let mut live = config(path, value);
            track(deployment(), None, &mut live, &manager("updater"));
            let before = live.pointer(path).cloned();
            let both = apply_by("a", Some(&live), &config(path, value));
            let after = apply_by("a", Some(&both), &bare());
            assert_eq!(after.pointer(path), before.as_ref(), "{path} = {value}: {after}");
            assert!(owner_has(&after, "updater", path), "{path} = {value}: {after}");
        }
    }
}

#[test]
fn null_and_empty_take_nothing_from_others() {
    for (path, _, filled, _) in granular() {
        let live = apply_by("b", None, &config(path, &filled));
        let empty = if filled.is_array() { json!([]) } else { json!({}) };
        for nothing in [&Value::Null, &empty] {
            let after = apply_by("a", Some(&live), &config(path, nothing));
            assert_eq!(after.pointer(path), Some(&filled), "{path}: {nothing}");
            assert!(owner_has(&after, "b", path), "{path}: {nothing} {after}");
            // Naming a list without an element owns nothing.
            assert_eq!(owner_has(&after, "a", path), !nothing.is_array(), "{path}: {nothing} {after}");
        }
    }
}

#[test]
fn halves_of_two_owners_are_apart() {
    for (path, _, one, other) in granular() {
        let first = apply_by("a", None, &config(path, &one));
        let both = apply_by("b", Some(&first), &config(path, &other));
        let rest = apply_by("a", Some(&both), &bare());
        assert_eq!(rest.pointer(path), Some(&other), "{path}");
        assert!(owner_has(&rest, "b", path) && !owner_has(&rest, "a", path), "{path}: {rest}");
        let forced = apply_as(deployment(), Some(&both), &bare(), &manager("a"), true).unwrap();
        assert_eq!(forced.pointer(path), Some(&other), "{path}: force takes nothing that it does not name");
    }
}

#[test]
fn what_does_not_fit_the_schema_is_an_error() {
    let head = "failed to create typed patch object (/d; apps/v1, Kind=Deployment): ";
    for (path, value, told) in [
        ("/metadata/labels", json!({"a": 1}), ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}"),
        ("/metadata/labels", json!("x"), ".metadata.labels: expected map, got &{x}"),
        ("/spec/foo", json!(1), ".spec.foo: field not declared in schema"),
        ("/spec/replicas", json!("1"), ".spec.replicas: expected numeric (int or float), got string"),
        ("/spec/paused", json!("1"), ".spec.paused: expected boolean, got &{1}"),
        ("/metadata/finalizers", json!({"a": 1}), ".metadata.finalizers: expected list, got &{map[a:1]}"),
        ("/metadata/finalizers", json!(["a", "a"]), ".metadata.finalizers: duplicate entries for key [=\"a\"]"),
        (
            "/spec/template/spec/containers/0/env",
            json!([{"name": "A"}, {"name": "A"}]),
            ".spec.template.spec.containers[name=\"c\"].env: duplicate entries for key [name=\"A\"]",
        ),
        ("/spec/template/spec/volumes", json!([null]), ".spec.template.spec.volumes: element 0: associative list with keys may not have a null element"),
    ] {
        let error = apply_as(deployment(), None, &config(path, &value), &manager("a"), true).unwrap_err();
        assert_eq!((error.code, error.reason.as_str(), error.message), (500, "", format!("{head}{told}")));
    }
    let two = with_kind(json!({"metadata": {"foo": 1}, "spec": {"bar": 1}}));
    let error = apply_as(deployment(), None, &two, &manager("a"), true).unwrap_err();
    assert!(
        error.message.ends_with(": errors:\n  .metadata.foo: field not declared in schema\n  .spec.bar: field not declared in schema"),
        "{}",
        error.message
    );
    for (version, told) in [("v1", "/v1"), ("a/b/c", "/")] {
        let wrong = json!({"apiVersion": version, "kind": "Secret"});
        let error = apply_as(deployment(), None, &wrong, &manager("a"), true).unwrap_err();
        assert_eq!((error.code, error.message), (400, format!("invalid object type: {told}, Kind=Secret")));
    }
    // A key that is left out is what Go writes for it; validation judges that.
    let nameless = config("/metadata/ownerReferences", &json!([{"name": "x"}]));
    assert!(apply_as(deployment(), None, &nameless, &manager("a"), true).is_ok());
    for managers in [json!([]), json!([{}])] {
        let mut config = bare();
        config["metadata"]["managedFields"] = managers;
        assert_eq!(apply_as(deployment(), None, &config, &manager("a"), true).unwrap_err().message, "metadata.managedFields must be nil");
    }
    let mut null = bare();
    null["metadata"]["managedFields"] = Value::Null;
    let live = apply_by("a", None, &null);
    assert_eq!(live["metadata"]["managedFields"].as_array().map(Vec::len), Some(1));
}

fn hpa(version: &str) -> TypeRef<'static> {
    schema::builtin().kind(&Gvk::new("autoscaling", version, "HorizontalPodAutoscaler")).unwrap()
}

fn hpa_apply(version: &str, live: &Value, spec: &Value, name: &str) -> Value {
    let api_version = format!("autoscaling/{version}");
    let here = Gvk::new("autoscaling", version, "HorizontalPodAutoscaler");
    let stored = Gvk::new("autoscaling", "v2", "HorizontalPodAutoscaler");
    let live = live.is_object().then(|| crate::convert::convert(live.clone(), &stored, &here));
    let mut config = json!({"apiVersion": api_version, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": spec});
    config["spec"]["maxReplicas"] = 3.into();
    config["spec"]["scaleTargetRef"] = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
    let manager = Manager { api_version: &api_version, ..manager(name) };
    let new = apply_as(hpa(version), live.as_ref(), &config, &manager, true).unwrap_or_else(|e| panic!("{}", e.message));
    crate::convert::convert(new, &here, &stored)
}

#[test]
fn sets_of_another_version_are_met_in_that_version() {
    let metric = |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
    let memory = metric("memory", json!({"type": "AverageValue", "averageValue": "1Gi"}));
    let first = hpa_apply("v2", &Value::Null, &json!({"metrics": [memory]}), "a");
    let second = hpa_apply("v1", &first, &json!({"targetCPUUtilizationPercentage": 50}), "b");
    assert_eq!(second["spec"]["metrics"].as_array().map(Vec::len), Some(2), "{second}");
    assert!(!owned(&second, "a").to_string().contains("f:metrics"), "the list is atomic in v2, and b has changed it: {second}");
    let third = hpa_apply("v2", &second, &json!({}), "a");
    let cpu = metric("cpu", json!({"type": "Utilization", "averageUtilization": 50}));
    let metrics = third["spec"]["metrics"].as_array().cloned().unwrap_or_default();
    assert!(metrics.contains(&memory) && metrics.contains(&cpu), "{third}");
}

#[test]
fn owners_of_versions_that_are_gone_are_forgotten() {
    let mut live = bare();
    live["spec"]["replicas"] = 1.into();
    live["metadata"]["managedFields"] = json!([
        {"manager": "old", "operation": "Update", "apiVersion": "extensions/v1beta1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    ]);
    let mut config = bare();
    config["spec"]["replicas"] = 2.into();
    let after = apply_by("a", Some(&live), &config);
    assert_eq!(owned(&after, "old"), Value::Null);
    assert_eq!(after["spec"]["replicas"], 2);
}

#[test]
fn managers_that_cannot_be_read_are_nobody() {
    let live = apply_by("a", None, &bare());
    let good = &live["metadata"]["managedFields"][0];
    for (key, bad) in [
        ("fieldsType", json!("FieldsV2")),
        ("fieldsType", Value::Null),
        ("operation", json!("Delete")),
        ("apiVersion", json!("")),
        ("fieldsV1", json!({"f:data": 5})),
        ("fieldsV1", json!({"zz": {}})),
        ("fieldsV1", json!({"k:{": {}})),
        ("fieldsV1", json!([])),
    ] {
        let mut entry = good.clone();
        entry[key] = bad;
        let mut new = live.clone();
        new["metadata"]["managedFields"] = json!([good, entry]);
        new["spec"]["replicas"] = 4.into();
        track(deployment(), Some(&live), &mut new, &manager("u"));
        let names: Vec<&str> = new["metadata"]["managedFields"].as_array().unwrap().iter().filter_map(|e| e["manager"].as_str()).collect();
        assert_eq!(names, ["a", "u"], "{key}: the owners of before count: {new}");
    }
    let mut unknown = good.clone();
    unknown["fieldsV1"] = json!({"f:spec": {"x:new": {}, "f:paused": {}}});
    assert_eq!(Managers::of(Some(&json!({"metadata": {"managedFields": [unknown]}}))).0[0].set.clone().into_value(), json!({"f:spec": {"f:paused": {}}}));
    let mut whole = good.clone();
    whole["fieldsV1"] = json!({".": {}});
    assert!(Managers::of(Some(&json!({"metadata": {"managedFields": [whole]}}))).0[0].set.is_empty(), "an object is no member of itself");
    // What is no version is none that anything is converted to: the owners of before are kept as they are.
    let mut strange = live.clone();
    strange["metadata"]["managedFields"][0]["apiVersion"] = "a/b/c".into();
    track(deployment(), Some(&live), &mut strange, &manager("u"));
    assert_eq!(strange["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn managers_have_short_names_that_can_be_printed() {
    let path = crate::field::Path::root("fieldManager");
    let told = |name: &str| manager_errors(name, &path).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(told("").is_empty() && told("kubectl edit-é").is_empty() && told(&"m".repeat(128)).is_empty());
    assert_eq!(told(&"é".repeat(65)), ["fieldManager: Too long: may not be more than 128 bytes"]);
    assert_eq!(told("a\n").len() + told("a\n\u{200b}").len(), 3, "each character is told");
    assert!(told("a\u{200b}")[0].ends_with("invalid character U+200B (at position 1)"));
    assert_eq!(told(&"\u{200b}".repeat(1000)).len(), 17, "what is too long, and a few of its characters");
}

const RECORD: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[test]
fn kubectl_keeps_its_record() {
    let recorded = |object: &Value| -> Value { serde_json::from_str(object["metadata"]["annotations"][RECORD].as_str().unwrap()).unwrap() };
    let mut config = bare();
    config["spec"]["replicas"] = 1.into();
    config["metadata"]["annotations"] = json!({"a": "<&>"});
    let mut live = config.clone();
    live["metadata"]["annotations"][RECORD] = config.to_string().into();
    track(deployment(), None, &mut live, &manager("kubectl-client-side-apply"));
    let mut next = config.clone();
    next["spec"]["replicas"] = 2.into();
    // What kubectl applied by itself is no conflict for kubectl, but for others.
    let after = apply_by("kubectl", Some(&live), &next);
    assert_eq!((&recorded(&after), &after["spec"]["replicas"]), (&next, &2.into()));
    let text = after["metadata"]["annotations"][RECORD].as_str().unwrap();
    assert!(text.ends_with("}\n") && text.contains("\\u003c\\u0026\\u003e"), "{text}");
    assert_eq!(apply_as(deployment(), Some(&live), &next, &manager("other"), false).unwrap_err().code, 409);
    // What has changed since is.
    let mut changed = live.clone();
    changed["spec"]["replicas"] = 7.into();
    track(deployment(), Some(&live), &mut changed, &manager("scaler"));
    assert_eq!(apply_as(deployment(), Some(&changed), &next, &manager("kubectl"), false).unwrap_err().code, 409);
    // Others leave the record alone, and without one none is made.
    let other = apply_as(deployment(), Some(&live), &next, &manager("other"), true).unwrap();
    assert_eq!(recorded(&other), config);
    let plain = apply_by("kubectl", None, &config);
    assert!(plain["metadata"]["annotations"].get(RECORD).is_none());
}

#[test]
fn many_entries_of_managed_fields_are_read_in_reasonable_time() {
    let entry = |n: usize, field: &str| json!({"manager": format!("m{n}"), "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {format!("f:{field}"): {}}}});
    let object = |n: usize| {
        let entries: Vec<Value> = (0..n).map(|n| entry(n, "a")).chain([entry(0, "b")]).collect();
        json!({"metadata": {"managedFields": entries}})
    };
    let begun = std::time::Instant::now();
    // As few and as many are read alike.
    for n in [3, 100, 30_000] {
        let managers = super::super::Managers::of(Some(&object(n)));
        assert_eq!(managers.0.len(), n);
        let last = managers.0.iter().find(|e| e.name == "m0").unwrap();
        assert_eq!(last.set.clone().into_value(), json!({"f:data": {"f:b": {}}}), "the last entry of an owner counts");
    }
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

/// Answers of kube-apiserver 1.37.2.
#[test]
fn what_is_published_without_a_type_is_anything_to_apply() {
    let ty = schema::builtin().named("io.k8s.api.policy.v1.PodDisruptionBudget").unwrap();
    let config = |spec: Value| json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}, "spec": spec});
    let manager = Manager { api_version: "policy/v1", ..manager("me") };
    let refused = apply_as(ty, None, &config(json!({"maxUnavailable": [""]})), &manager, false).unwrap_err().message;
    let why = "unable to convert unstructured object to policy/v1, Kind=PodDisruptionBudget: json: cannot unmarshal array into Go value of type int32";
    assert_eq!(refused, format!("failed to convert new object (/x; policy/v1, Kind=PodDisruptionBudget) to proper version: {why}"));
    let ty = schema::builtin().named("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler").unwrap();
    let config = |spec: Value| json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": spec});
    let live = apply_as(ty, None, &config(json!({"maxReplicas": 1})), &Manager { api_version: "autoscaling/v1", ..manager }, false).unwrap();
    let other = Manager { name: "other", api_version: "autoscaling/v2", ..manager };
    let metrics = json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Value", "value": ""}}}]});
    let refused = apply_as(ty, Some(&live), &config(metrics), &other, true).unwrap_err().message;
    let told = "failed to convert new object: unable to convert unstructured object to autoscaling/v2, Kind=HorizontalPodAutoscaler: quantities must match";
    assert!(refused.starts_with(told), "{refused}");
    let ty = schema::builtin().named("io.k8s.api.apps.v1.ControllerRevision").unwrap();
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "x"}, "revision": 1, "data": [{}, "a"]});
    assert_eq!(apply_as(ty, None, &revision, &super::manager("me"), false).unwrap()["data"], json!([{}, "a"]));
}

/// As it: upstream cannot read such owners, and takes them for none, until it reads what has become of them.
#[test]
fn owners_that_cannot_be_read_are_none() {
    let config = |owners: Value| with_kind(json!({"metadata": {"name": "a", "managedFields": owners}, "spec": {"replicas": 1}}));
    let refused = |owners: Value| apply_as(deployment(), None, &config(owners), &manager("me"), false).unwrap_err().message;
    assert_eq!(refused(json!([])), "metadata.managedFields must be nil");
    assert_eq!(refused(json!([{"manager": "m"}])), "metadata.managedFields must be nil");
    assert!(refused(json!([{"subresource": 7}])).starts_with("failed to create typed patch object (/a; apps/v1, Kind=Deployment): "));
    assert!(refused(json!([{"time": 0}])).ends_with("json: cannot unmarshal number into Go value of type string"));
}

#[test]
fn what_an_object_had_before_is_owned_as_by_an_update_of_the_same_endpoint() {
    let exclude = FieldSet::from_paths(&[&["metadata"], &["spec"]]);
    let live = with_kind(json!({"metadata": {"name": "a", "uid": "u", "labels": {"l": "x"}}, "spec": {"replicas": 1}, "status": {"replicas": 1}}));
    let config = with_kind(json!({"metadata": {"name": "a"}, "status": {"readyReplicas": 1}}));
    let through = Manager { subresource: "status", exclude: &exclude, ..manager("me") };
    let object = apply_as(deployment(), Some(&live), &config, &through, false).unwrap();
    let before = owned(&object, "before-first-apply");
    assert!(before["f:status"]["f:replicas"].is_object() && before.get("f:spec").is_none() && before.get("f:metadata").is_none(), "{before}");
}

#[test]
fn floats_in_sets_are_written_as_go_writes_them() {
    let elements = [json!(1e-7), json!(1e20), json!(1.5), json!(1.0), json!(18_446_744_073_709_552_000.0_f64)];
    let names = elements.map(|item| super::super::shape::element(super::super::shape::Shape::Set, &item));
    assert_eq!(names, ["v:1e-07", "v:100000000000000000000", "v:1.5", "v:1", "v:18446744073709552000"]);
    let shown = ["v:1e-07", "v:100000000000000000000", "v:7", "v:\"1e5\"", "k:{\"a\":{\"b\":[\"c\",1.5]},\"p\":80}"].map(|name| {
        let mut path = String::new();
        super::super::set::push_element(&mut path, name);
        path
    });
    assert_eq!(shown, ["[=1e-07]", "[=1e+20]", "[=7]", "[=\"1e5\"]", "[a=b=[\"c\",1.5],p=80]"]);
}

/// Answers of kube-apiserver 1.37.2.
#[test]
fn an_element_that_becomes_several_is_of_who_made_it_so() {
    let with = |finalizers: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "finalizers": finalizers}});
    let mut live = with(json!(["f/a", "f/b"]));
    track(deployment(), None, &mut live, &manager("made"));
    let mut several = live.clone();
    several["metadata"]["finalizers"] = json!(["f/b", "f/a", "f/a"]);
    track(deployment(), Some(&live), &mut several, &manager("m"));
    assert_eq!(owned(&several, "m"), json!({"f:metadata": {"f:finalizers": {"v:\"f/a\"": {}}}}));
    assert_eq!(owned(&several, "made"), json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"f/b\"": {}}}}));
    let mut one = several.clone();
    one["metadata"]["finalizers"] = json!(["f/b", "f/a"]);
    track(deployment(), Some(&several), &mut one, &manager("n"));
    assert_eq!((owned(&one, "m"), owned(&one, "n")), (Value::Null, json!({"f:metadata": {"f:finalizers": {"v:\"f/a\"": {}}}})));
}

#[test]
fn an_object_that_a_version_of_its_owners_does_not_know_is_compared_with_nothing() {
    let kind = |version: &str| crate::gvk::Gvk { group: "g.example.com".into(), version: version.into(), kind: "Van".into() };
    let text = json!({"type": "string"});
    let of = |fields: Value| json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}});
    let (one, two) = (of(json!({"a": text})), of(json!({"a": text, "c": text})));
    let schema = crate::structural::schema(&[(kind("v1"), Some(&one)), (kind("v2"), Some(&two))]);
    let ty = schema.kind(&kind("v2")).unwrap();
    let manager = Manager { api_version: "g.example.com/v2", ..manager("u") };
    let owners =
        json!([{"manager": "one", "operation": "Update", "apiVersion": "g.example.com/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:a": {}}}}]);
    let live = json!({"apiVersion": "g.example.com/v2", "kind": "Van", "metadata": {"name": "a", "managedFields": owners}, "spec": {"a": "x"}});
    let mut new = live.clone();
    new["spec"] = json!({"a": "y", "c": "z"});
    track(ty, Some(&live), &mut new, &manager);
    assert_eq!(new["metadata"]["managedFields"], owners);
    let applied = json!({"apiVersion": "g.example.com/v2", "kind": "Van", "metadata": {"name": "a"}, "spec": {"c": "z"}});
    let refused = apply_as(ty, Some(&live), &applied, &manager, true).unwrap_err().message;
    assert_eq!(refused, "failed to convert new object: .spec.c: field not declared in schema");
    let mut already = live.clone();
    already["spec"]["c"] = "z".into();
    let refused = apply_as(ty, Some(&already), &applied, &manager, true).unwrap_err().message;
    assert_eq!(refused, ".spec.c: field not declared in schema");
    new["spec"] = json!({"a": "y"});
    track(ty, Some(&live), &mut new, &manager);
    assert_eq!(new["metadata"]["managedFields"][0]["manager"], "u", "what both know is compared");
    let mut gone = live.clone();
    gone["metadata"]["managedFields"][0]["apiVersion"] = "g.example.com/v0".into();
    let mut new = gone.clone();
    new["spec"]["a"] = "y".into();
    track(ty, Some(&gone), &mut new, &manager);
    assert_eq!(new["metadata"]["managedFields"], gone["metadata"]["managedFields"]);
    let refused = apply_as(ty, Some(&gone), &applied, &manager, true).unwrap_err().message;
    assert_eq!(refused, "request to convert CR to an invalid group/version: g.example.com/v0");
}

#[test]
fn owners_of_an_event_in_another_group_are_forgotten() {
    let ty = schema::builtin().named("io.k8s.api.events.v1.Event").unwrap();
    let entry = json!({"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:count": {}}});
    let old = json!({"metadata": {"name": "e", "managedFields": [entry]}, "note": "a"});
    let mut new = old.clone();
    new["note"] = "b".into();
    track(ty, Some(&old), &mut new, &Manager { api_version: "events.k8s.io/v1", ..manager("u") });
    let names: Vec<&str> = new["metadata"]["managedFields"].as_array().unwrap().iter().filter_map(|e| e["manager"].as_str()).collect();
    assert_eq!(names, ["u"]);
}

#[test]
fn who_owns_a_part_of_what_has_become_a_whole_owns_the_whole() {
    let kind = crate::gvk::Gvk { group: "g.example.com".into(), version: "v1".into(), kind: "Van".into() };
    let list = json!({"type": "array", "items": {"type": "string"}});
    let van = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"s": list}}}});
    let schema = crate::structural::schema(&[(kind.clone(), Some(&van))]);
    let ty = schema.kind(&kind).unwrap();
    let fields = json!({"f:spec": {"f:s": {"v:\"y\"": {}}}});
    let owner = json!({"manager": "m", "operation": "Apply", "apiVersion": "g.example.com/v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
    let of = |s: &str| json!({"apiVersion": "g.example.com/v1", "kind": "Van", "metadata": {"name": "a"}, "spec": {"s": [s]}});
    let mut live = of("y");
    live["metadata"]["managedFields"] = json!([owner]);
    let manager = Manager { api_version: "g.example.com/v1", ..manager("n") };
    let refused = apply_as(ty, Some(&live), &of("q"), &manager, false).unwrap_err().message;
    assert_eq!(refused, "Apply failed with 1 conflict: conflict with \"m\": .spec.s");
    let forced = apply_as(ty, Some(&live), &of("q"), &manager, true).unwrap();
    assert_eq!((owned(&forced, "m"), owned(&forced, "n")), (Value::Null, json!({"f:spec": {"f:s": {}}})));
}

#[test]
fn a_text_in_the_place_of_an_object_that_has_no_type_is_its_writers() {
    let kind = crate::gvk::Gvk { group: "g.example.com".into(), version: "v1".into(), kind: "Van".into() };
    let free = json!({"x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}});
    let van = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"free": free}}}});
    let schema = crate::structural::schema(&[(kind.clone(), Some(&van))]);
    let ty = schema.kind(&kind).unwrap();
    let of = |free: Value| json!({"apiVersion": "g.example.com/v1", "kind": "Van", "metadata": {"name": "a"}, "spec": {"free": free}});
    let by = |old: Option<&Value>, mut new: Value, name: &'static str| {
        if let Some(old) = old {
            new["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
        }
        track(ty, old, &mut new, &Manager { api_version: "g.example.com/v1", ..manager(name) });
        new
    };
    let object = by(None, of(json!({"a": "x"})), "m");
    let text = by(Some(&object), of("text".into()), "n");
    assert_eq!(owned(&text, "n"), json!({"f:spec": {"f:free": {}}}));
    let again = by(Some(&text), of(json!({"a": "y"})), "o");
    assert_eq!(owned(&again, "o"), json!({"f:spec": {"f:free": {".": {}, "f:a": {}}}}));
}
