use super::*;
use crate::schema;
use serde_json::json;

fn strategically(name: &str, mut doc: Value, patch: Value) -> Result<Value, String> {
    let ty = schema::builtin().named(name).unwrap_or_else(|| panic!("no {name}"));
    strategic(ty, &mut doc, &patch).map(|()| doc).map_err(|s| s.message)
}

const POD_SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

#[test]
fn rfc_7386_appendix_a() {
    for (target, patch, result) in [
        (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
        (json!({"a":"b"}), json!({"a":null}), json!({})),
        (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
        (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
        (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
        (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
    ] {
        let mut doc = target;
        merge(&mut doc, &patch);
        assert_eq!(doc, result, "{patch}");
    }
}

#[test]
fn rfc_6902_operations() {
    let doc = json!({"a": {"b": [1, 2]}, "c/d": "x"});
    let patched = |patch: Value| json_patch(&doc, &patch).map_err(|s| (s.code, s.message));
    let ops = json!([{"op": "add", "path": "/a/b/1", "value": 9}, {"op": "add", "path": "/a/b/-", "value": 3},
        {"op": "replace", "path": "/c~1d", "value": "y"}, {"op": "move", "from": "/c~1d", "path": "/e"},
        {"op": "copy", "from": "/a/b/0", "path": "/f"}, {"op": "test", "path": "/f", "value": 1.0}, {"op": "remove", "path": "/a/b/0"}]);
    assert_eq!(patched(ops), Ok(json!({"a": {"b": [9, 2, 3]}, "e": "y", "f": 1})));
    assert_eq!(patched(json!({})).unwrap_err().0, 400);
    assert_eq!(patched(json!([{"op": "remove", "path": "/x"}])).unwrap_err().0, 422);
    for bad in [
        json!([{"op": "remove", "path": "/x"}]),
        json!([{"op": "replace", "path": "/x", "value": 1}]),
        json!([{"op": "add", "path": "/x/y", "value": 1}]),
        json!([{"op": "add", "path": "/a/b/7", "value": 1}]),
        json!([{"op": "test", "path": "/a/b/0", "value": 2}]),
        json!([{"op": "dance", "path": "/a"}]),
    ] {
        assert!(patched(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn lists_are_merged_by_key() {
    let doc = json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]});
    let patch = json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]});
    // What the patch names comes first unless the server had something in front of it.
    assert_eq!(
        strategically(POD_SPEC, doc, patch).unwrap(),
        json!({"containers": [
            {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "c"}, {"name": "b"}]})
    );
}

#[test]
fn elements_are_deleted_and_lists_replaced_by_directives() {
    let doc = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let deleted = strategically(POD_SPEC, doc(), json!({"containers": [{"name": "a", "$patch": "delete"}]}));
    assert_eq!(deleted.unwrap(), json!({"containers": [{"name": "b"}]}));
    let replaced = strategically(POD_SPEC, doc(), json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}));
    assert_eq!(replaced.unwrap(), json!({"containers": [{"name": "c"}]}));
    let map = strategically(POD_SPEC, json!({"securityContext": {"runAsUser": 1}}), json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}}));
    assert_eq!(map.unwrap(), json!({"securityContext": {"runAsGroup": 2}}));
    let odd = strategically(POD_SPEC, doc(), json!({"containers": [{"name": "a", "$patch": "dance"}]}));
    assert!(odd.unwrap_err().starts_with("unknown patch type: dance in map"));
    let keyless = strategically(POD_SPEC, doc(), json!({"containers": [{"image": "x"}]}));
    assert!(keyless.unwrap_err().contains("does not contain declared merge key: name"));
}

#[test]
fn order_directives_keep_what_only_the_server_has_in_its_place() {
    let doc = json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]});
    let patch = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}]});
    let names = |v: Value| -> Vec<String> { v["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect() };
    assert_eq!(names(strategically(POD_SPEC, doc.clone(), patch).unwrap()), ["server", "b", "a"]);
    let wrong = json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "z"}]});
    assert!(strategically(POD_SPEC, doc, wrong).unwrap_err().contains("doesn't match $setElementOrder list"));
}

#[test]
fn primitive_lists_are_sets() {
    let doc = json!({"finalizers": ["a", "b"]});
    let added = strategically(META, doc.clone(), json!({"finalizers": ["c", "a"]})).unwrap();
    assert_eq!(added, json!({"finalizers": ["c", "a", "b"]}));
    let removed = strategically(META, doc, json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]})).unwrap();
    assert_eq!(removed, json!({"finalizers": ["b"]}));
}

#[test]
fn retain_keys_drops_the_rest() {
    let doc = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
    let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
    let name = "io.k8s.api.apps.v1.DeploymentSpec";
    assert_eq!(strategically(name, doc.clone(), patch).unwrap(), json!({"strategy": {"type": "Recreate"}}));
    let bad = json!({"strategy": {"$retainKeys": ["type"], "other": 1}});
    assert_eq!(strategically(name, doc, bad).unwrap_err(), "invalid patch format of retainKeys");
}

#[test]
fn nulls_delete_and_leave_no_trace() {
    let doc = json!({"nodeSelector": {"a": "1"}, "hostname": "x"});
    let patch = json!({"nodeSelector": {"a": null, "b": null}, "hostname": null, "securityContext": {"runAsUser": null, "runAsGroup": 1}});
    assert_eq!(strategically(POD_SPEC, doc, patch).unwrap(), json!({"nodeSelector": {}, "securityContext": {"runAsGroup": 1}}));
}
