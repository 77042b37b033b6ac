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
        {"op": "copy", "from": "/a/b/0", "path": "/f"}, {"op": "test", "path": "/f", "value": 1}, {"op": "remove", "path": "/a/b/0"}]);
    assert_eq!(patched(ops), Ok(json!({"a": {"b": [9, 2, 3]}, "e": "y", "f": 1})));
    assert_eq!(patched(json!({})).unwrap_err().0, 400);
    assert_eq!(patched(json!([{"op": "remove", "path": "/x"}])).unwrap_err().0, 422);
    for bad in [
        json!([{"op": "remove", "path": "/x"}]),
        json!([{"op": "replace", "path": "/x/y", "value": 1}]),
        json!([{"op": "replace", "path": "/a/b/2", "value": 1}]),
        json!([{"op": "replace", "path": "", "value": 1}]),
        json!([{"op": "add", "path": "", "value": {}}]),
        json!([{"op": "add", "path": "/a/b/-4", "value": 1}]),
        json!([{"op": "remove", "path": "/a/b/-3"}]),
        json!([{"op": "test", "path": "/a/b/5", "value": null}]),
        json!([null]),
        json!([{"op": "add", "path": "/x/y", "value": 1}]),
        json!([{"op": "add", "path": "/a/b/7", "value": 1}]),
        json!([{"op": "test", "path": "/a/b/0", "value": 2}]),
        json!([{"op": "dance", "path": "/a"}]),
    ] {
        assert_eq!(patched(bad.clone()).unwrap_err(), (422, "the server rejected our request due to an error in our request".into()), "{bad}");
    }
}

#[test]
fn where_the_library_is_laxer_than_the_rfc() {
    let doc = json!({"a": {"b": [1, 2]}, "c": 1});
    for (operation, result) in [
        (json!({"op": "replace", "path": "/a/x", "value": 1}), json!({"a": {"b": [1, 2], "x": 1}, "c": 1})),
        (json!({"op": "replace", "path": "", "value": {"z": 1}}), json!({"z": 1})),
        (json!({"op": "add", "path": "/a/b/-1", "value": 3}), json!({"a": {"b": [1, 2, 3]}, "c": 1})),
        (json!({"op": "add", "path": "/a/b/-3", "value": 0}), json!({"a": {"b": [0, 1, 2]}, "c": 1})),
        (json!({"op": "remove", "path": "/a/b/-1"}), json!({"a": {"b": [1]}, "c": 1})),
        (json!({"op": "replace", "path": "/a/b/-2", "value": 9}), json!({"a": {"b": [9, 2]}, "c": 1})),
        (json!({"op": "remove", "path": "x/c"}), json!({"a": {"b": [1, 2]}})),
        (json!({"op": "test", "path": "/none", "value": null}), doc.clone()),
    ] {
        assert_eq!(json_patch(&doc, &json!([operation])).map_err(|s| s.message), Ok(result), "{operation}");
    }
    assert_eq!(json_patch(&doc, &Value::Null), Ok(doc));
}

fn config_map() -> (crate::schema::TypeRef<'static>, Value) {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    (ty, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}))
}

#[test]
fn a_patch_that_is_refused_is_shown_no_deeper_than_its_object() {
    let (ty, map) = config_map();
    let far = "/".repeat(2_000_000);
    let operations = json!([{"op": "add", "path": "/data", "value": 7, "from": far}]).to_string();
    let refused = parse(Kind::Json, operations.as_bytes(), crate::json::Validation::Strict).unwrap().apply(ty, &map, &mut Vec::new()).unwrap_err();
    assert_eq!(refused.code, 422, "{}", refused.code);
}

#[test]
fn what_is_wrong_with_the_result_is_wrong_with_the_patch() {
    use crate::json::Validation;
    let (ty, old) = config_map();
    let patched = |kind, patch: &str, validation| {
        parse(kind, patch.as_bytes(), validation).and_then(|p| p.apply(ty, &old, &mut Vec::new())).map(|patched| (patched.value, patched.warnings))
    };
    for (kind, patch) in [
        (Kind::Json, r#"[{"op":"replace","path":"/data","value":"x"}]"#),
        (Kind::Json, r#"[{"op":"replace","path":"/data/a","value":1}]"#),
        (Kind::Json, r#"[{"op":"replace","path":"/kind","value":"Secret"}]"#),
        (Kind::Merge, r#"{"data":"x"}"#),
        (Kind::Strategic, r#"{"data":"x"}"#),
    ] {
        let error = patched(kind, patch, Validation::Ignore).unwrap_err();
        assert_eq!((error.code, error.reason.as_str()), (422, "Invalid"), "{patch}");
        assert!(error.message.starts_with(" \"\" is invalid: patch: Invalid value: \""), "{}", error.message);
    }
    for (kind, patch, told) in [
        (Kind::Merge, r#"{"data":{"a":"1","a":"2"}}"#, r#"duplicate field "data.a""#),
        (Kind::Strategic, r#"{"data":{"a":"1","a":"2"}}"#, r#"duplicate field "data.a""#),
        (Kind::Json, r#"[{"op":"test","path":"/data/a","value":"2","value":"1"}]"#, r#"json patch duplicate field "[0].value""#),
        (Kind::Json, r#"[{"op":"test","path":"/data/a","value":"1","foo":1}]"#, r#"json patch unknown field "[0].foo""#),
        (Kind::Merge, r#"{"foo":1}"#, r#"unknown field "foo""#),
    ] {
        let error = patched(kind, patch, Validation::Strict).unwrap_err();
        assert_eq!(error.code, 422, "{patch}");
        assert!(error.message.ends_with(&format!("strict decoding error: {told}")), "{}", error.message);
        assert_eq!(patched(kind, patch, Validation::Warn).unwrap().1, [told], "{patch}");
        assert_eq!(patched(kind, patch, Validation::Ignore).unwrap().1, [""; 0], "{patch}");
    }
    let spelled = patched(Kind::Merge, r#"{"foo":[1.0,10000000000.0,1.50]}"#, Validation::Strict).unwrap_err().message;
    assert!(spelled.contains(r#"\"foo\":[1.0,10000000000.0,1.50]"#), "numbers are as they were sent: {spelled}");
    assert_eq!(patched(Kind::Strategic, r#"{"kind":"Secret","apiVersion":"v9"}"#, Validation::Strict), Ok((old.clone(), vec![])));
    assert_eq!(patched(Kind::Json, "null", Validation::Strict), Ok((old.clone(), vec![])));
    assert_eq!(patched(Kind::Strategic, "null", Validation::Strict), Ok((old.clone(), vec![])));
}

#[test]
fn what_is_no_patch_is_refused() {
    use crate::json::Validation;
    let ty = crate::schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    for (kind, patch, told) in [
        (Kind::Json, "{", "invalid JSON patch"),
        (Kind::Merge, "x", "invalid JSON patch"),
        (Kind::Strategic, "", "invalid JSON patch"),
        (Kind::Json, "{}", "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
        (Kind::Json, "[1]", "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        (Kind::Json, r#"[{"op":1}]"#, "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
        (Kind::Json, r#"{"a":1e999}"#, "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
        (Kind::Json, "[1e999]", "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        (Kind::Json, r#"[{"op":1e999}]"#, "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
        (Kind::Json, r#"[{"op":3,"value":1e999}]"#, "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
        (
            Kind::Json,
            r#"[{"value":[1,1e999],"op":3}]"#,
            "error decoding patch: json: cannot unmarshal number 1e999 into Go struct field jsonPatchOp.value of type float64",
        ),
        (Kind::Json, r#"{"a":1e999"#, "invalid JSON patch"),
        (Kind::Merge, "[1e999]", "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (Kind::Strategic, "5e999", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
        (Kind::Merge, "[]", "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (Kind::Merge, "null", "Invalid JSON Patch"),
        (Kind::Strategic, "[]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
    ] {
        let error = parse(kind, patch.as_bytes(), Validation::Strict).and_then(|patch| patch.apply(ty, &json!({}), &mut Vec::new())).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, told), "{patch}");
    }
    let unread = r#"[{"op":"add","path":"/data","value":{"a":"b"},"foo":1e999}]"#;
    let patched = parse(Kind::Json, unread.as_bytes(), Validation::Warn).and_then(|patch| patch.apply(ty, &config_map().1, &mut Vec::new())).unwrap();
    assert_eq!((&patched.value["data"]["a"], patched.warnings), (&json!("b"), vec![r#"json patch unknown field "[0].foo""#.to_owned()]));
    let lax = json_patch(&json!({}), &json!({})).unwrap_err();
    assert_eq!((lax.code, lax.message.as_str()), (400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch"));
}

/// Answers of kube-apiserver 1.37.2.
#[test]
fn numbers_are_read_as_each_kind_of_patch_reads_them() {
    use crate::json::Validation;
    let ty = schema::builtin().named("io.k8s.api.apps.v1.Deployment").unwrap();
    let old = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1}});
    let replicas = |kind: Kind, number: &str| {
        let patch = match kind {
            Kind::Json => format!(r#"[{{"op":"replace","path":"/spec/replicas","value":{number}}}]"#),
            _ => format!(r#"{{"spec":{{"replicas":{number}}}}}"#),
        };
        let patched = parse(kind, patch.as_bytes(), Validation::Strict).and_then(|patch| patch.apply(ty, &old, &mut Vec::new()));
        patched.map(|patched| patched.value["spec"]["replicas"].clone()).map_err(|error| error.message)
    };
    for (number, whole) in [("1.0", 1), ("1e1", 10), ("10e-1", 1), ("2e3", 2000), ("2147483648", -2_147_483_648), ("99999999999999999999", 0)] {
        assert_eq!(replicas(Kind::Strategic, number), Ok(json!(whole)), "{number}");
        for kind in [Kind::Merge, Kind::Json] {
            let refused = replicas(kind, number).unwrap_err();
            let why = format!(": json: cannot unmarshal number {number} into Go struct field DeploymentSpec.spec.replicas of type int32");
            assert!(refused.ends_with(&why), "{refused}");
        }
    }
    for (value, why) in [("1.5", "cannot convert float64 to int32"), ("true", "unrecognized type: int32"), ("[]", "unrecognized type: int32")] {
        let refused = replicas(Kind::Strategic, value).unwrap_err();
        assert!(refused.ends_with(&format!(": {why}")), "{refused}");
    }
    for (kind, told) in [
        (Kind::Merge, "error decoding patch: json: cannot unmarshal number 1e400 into Go value of type float64"),
        (Kind::Strategic, "json: cannot unmarshal number 1e400 into Go value of type float64"),
        (Kind::Json, "error decoding patch: json: cannot unmarshal number 1e400 into Go struct field jsonPatchOp.value of type float64"),
    ] {
        assert_eq!(replicas(kind, "1e400"), Err(told.to_owned()));
    }
}

#[test]
fn a_test_compares_numbers_as_they_are_written() {
    let doc = json!({"n": 1.0, "k": 1.5, "l": [{"a": 2}]});
    for (path, value, passes) in
        [("/n", "1", true), ("/n", "1.0", false), ("/n", "1e0", false), ("/k", "1.5", true), ("/l", r#"[{"a":2}]"#, true), ("/l", r#"[{"a":2.0}]"#, false)]
    {
        let patch: Value = serde_json::from_str(&format!(r#"[{{"op":"test","path":"{path}","value":{value}}}]"#)).unwrap();
        assert_eq!(json_patch(&doc, &patch).is_ok(), passes, "{path} {value}");
    }
}

/// As kube-apiserver 1.37.2 answers: texts are compared, and `<` is written with an escape.
#[test]
fn a_test_compares_texts_as_they_are_spelled() {
    use crate::json::Validation;
    let (ty, mut old) = config_map();
    old["data"]["b"] = "ä<".into();
    let passes = |value: &str| {
        let operations = format!(r#"[{{"op":"test","path":"/data/b","value":{value}}}]"#);
        parse(Kind::Json, operations.as_bytes(), Validation::Strict).unwrap().apply(ty, &old, &mut Vec::new()).map(drop).map_err(|error| error.code)
    };
    assert_eq!([passes("\"ä\\u003c\""), passes("\"ä<\""), passes("\"\\u00e4\\u003c\"")], [Ok(()), Err(422), Err(422)]);
}

#[test]
fn of_elements_with_one_key_the_first_is_meant() {
    let doc = json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]});
    let patched = strategically("io.k8s.api.core.v1.ServiceSpec", doc, json!({"ports": [{"port": 53, "targetPort": 5353}]})).unwrap();
    assert_eq!(
        patched,
        json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]})
    );
}

#[test]
fn directives_that_make_no_sense() {
    let ty = schema::builtin().named(POD_SPEC).unwrap();
    for (patch, code, told) in [
        (json!({"securityContext": {"$patch": "foo"}}), 500, "unknown patch type: foo in map: map[$patch:foo]"),
        (json!({"containers": [{"image": "x"}]}), 500, "map: map[image:x] does not contain declared merge key: name"),
        (json!({"strategy": 1, "$retainKeys": 1}), 400, "invalid patch format of retainKeys"),
        (
            json!({"containers": [{"name": "b"}, {"name": "a"}], "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}]}),
            500,
            "The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] map[name:b]]\n",
        ),
    ] {
        let mut doc = json!({"securityContext": {"runAsUser": 1}, "containers": [{"name": "a"}, {"name": "b"}]});
        let error = strategic(ty, &mut doc, &patch).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, told), "{patch}");
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
    let doc = json!({"containers": [{"name": "a"}, {"name": "server"}]});
    let containers = json!([{"name": "a", "$patch": "delete"}, {"name": "n"}]);
    let swapped = json!({"$setElementOrder/containers": [{"name": "n"}], "containers": containers});
    assert_eq!(names(strategically(POD_SPEC, doc, swapped).unwrap()), ["server", "n"], "what is new takes the place that became free");
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

#[test]
fn a_json_patch_makes_nothing_that_is_nested_without_end() {
    std::thread::Builder::new().stack_size(crate::json::STACK_BYTES).spawn(many_rounds).expect("a thread").join().expect("it holds");
}

fn many_rounds() {
    // Each round puts the document's value into a new one that is a hundred levels deep itself.
    let mut nested = json!({});
    for _ in 0..100 {
        nested = json!({ "a": nested });
    }
    let inner = "/a".repeat(100);
    let round = [
        json!({"op": "add", "path": "/y", "value": nested}),
        json!({"op": "move", "from": "/x", "path": format!("/y{inner}/b")}),
        json!({"op": "move", "from": "/y", "path": "/x"}),
    ];
    let rounds = |n: usize| Value::from(round.iter().cycle().take(3 * n).cloned().collect::<Vec<_>>());
    let refused = |n: usize| json_patch(&json!({"x": {}}), &rounds(n)).map(drop).map_err(|s| s.code);
    assert_eq!((refused(3000), refused(1)), (Err(422), Ok(())));
    assert_eq!((refused(98), refused(99)), (Ok(()), Err(422)), "what could not be read again is not stored");
    let flat = json!([{"op": "move", "from": "/x", "path": "/y"}, {"op": "move", "from": "/y", "path": "/x"}]);
    let many = Value::from(flat.as_array().unwrap().iter().cycle().take(10_000).cloned().collect::<Vec<_>>());
    assert_eq!(json_patch(&json!({"x": {}}), &many).map_err(|s| s.code), Ok(json!({"x": {}})));
}

#[test]
fn many_elements_are_deleted_in_one_walk() {
    let names = |directive: bool| -> Vec<Value> {
        (0..20_000).map(|n| if directive { json!({"name": format!("c{n}"), "$patch": "delete"}) } else { json!({"name": format!("c{n}")}) }).collect()
    };
    let mut old = names(false);
    old.push(json!({"name": "stays"}));
    let begun = std::time::Instant::now();
    let left = strategically(POD_SPEC, json!({ "containers": old }), json!({ "containers": names(true) }));
    assert_eq!(left, Ok(json!({"containers": [{"name": "stays"}]})));
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

#[test]
fn a_json_patch_does_not_shift_long_lists_without_end() {
    let operation = json!({"op": "add", "path": "/a/0", "value": 0});
    let patch = |n: usize| Value::from(vec![operation.clone(); n]);
    let long = json!({ "a": vec![0; 300_000] });
    assert_eq!(json_patch(&long, &patch(10_000)).map_err(|s| s.code), Err(422));
    assert!(json_patch(&long, &patch(100)).is_ok());
    assert!(json_patch(&json!({"a": []}), &patch(10_000)).is_ok());
}

/// What upstream's patches look like once they have been applied.
#[test]
fn a_patch_is_left_without_what_it_has_done() {
    let ty = schema::builtin().named(POD_SPEC).unwrap();
    let old = json!({"securityContext": {"runAsUser": 1, "runAsGroup": 1}, "containers": [{"name": "a", "image": "i"}], "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "k"}]});
    for (patch, left) in [
        (
            json!({"securityContext": {"$retainKeys": ["runAsUser"], "runAsUser": 2, "fsGroup": null}}),
            json!({"securityContext": {"runAsUser": 2, "fsGroup": null}}),
        ),
        (json!({"affinity": {"$retainKeys": [], "nodeAffinity": null, "podAffinity": {"$patch": "merge"}}}), json!({"affinity": {"$retainKeys": []}})),
        (
            json!({"nodeSelector": {"$patch": "replace", "c": "d"}, "securityContext": {"$patch": "delete"}}),
            json!({"nodeSelector": {"c": "d"}, "securityContext": {"$patch": "delete"}}),
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "n", "resources": {"$patch": "x", "limits": null}}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "n", "resources": {"$patch": "x", "limits": null}}]}),
        ),
        (
            json!({"containers": [{"name": "n", "image": "1"}, {"name": "n", "tty": true}, {"name": "n", "stdin": true}]}),
            json!({"containers": [{"name": "n", "image": "1", "tty": true, "stdin": true}, {"name": "n", "tty": true}, {"name": "n", "stdin": true}]}),
        ),
        (json!({"tolerations": [{"$patch": "merge", "key": null}]}), json!({"tolerations": [{"$patch": "merge", "key": null}]})),
        (json!({"containers": [{"name": "b"}], "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}), json!({})),
    ] {
        let mut shown = patch.clone();
        strategic::strategic_leaving(ty, &mut old.clone(), &mut shown).unwrap_or_else(|error| panic!("{patch}: {error:?}"));
        assert_eq!(shown, left, "{patch}");
    }
}

#[test]
fn what_is_appended_to_a_list_is_appended_as_it_is() {
    let patch = json!({"containers": [{"name": "n", "image": null, "resources": {"$patch": "delete"}}]});
    let patched = strategically(POD_SPEC, json!({"containers": [{"name": "a"}]}), patch).unwrap();
    assert_eq!(patched["containers"][0], json!({"name": "n", "image": null, "resources": {"$patch": "delete"}}));
}

#[test]
fn lists_that_are_none_are_told_as_upstream_tells_them() {
    let doc = json!({"containers": [{"name": "a"}], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["h"]}]});
    for (patch, code, told) in [
        (json!({"$setElementOrder/containers": "x"}), 500, "expected a []interface {}, but received a string"),
        (json!({"$setElementOrder/containers": [{"name": "a"}], "containers": {}}), 500, "expected a []interface {}, but received a map[string]interface {}"),
        (json!({"$setElementOrder/containers": ["a"], "containers": [{"name": "a"}]}), 500, "expected a map[string]interface {}, but received a string"),
        (json!({"$setElementOrder/containers": ["a"]}), 500, "value for key 0 is not a map"),
        (json!({"$setElementOrder/containers": [{"image": "x"}]}), 500, "map: map[image:x] does not contain declared merge key: name"),
        (
            json!({"$setElementOrder/containers": [{"name": "a"}, {}], "containers": [{"name": "a"}]}),
            500,
            "map: map[] does not contain declared merge key: name",
        ),
        (json!({"$setElementOrder/ephemeralContainers": [], "ephemeralContainers": []}), 500, "no elements in any of the given slices"),
        (json!({"containers": [[]]}), 500, "list element types are not identical: [[map[name:a]] [[]]]"),
        (
            json!({"imagePullSecrets": [], "hostAliases": [{"ip": "x", "$patch": "replace"}, {"hostnames": []}]}),
            500,
            "map: map[hostnames:[]] does not contain declared merge key: ip",
        ),
        (json!({"$setElementOrder": ["a"]}), 400, "invalid patch format of setElementOrder list"),
        (json!({"$setElementOrders/containers": [{"name": "a"}]}), 400, "invalid patch format of setElementOrder list"),
        (json!({"$deleteFromPrimitiveList": ["a"]}), 400, "invalid patch format of primitive list"),
        (json!({"nodeSelector": {"$setElementOrder/x": []}}), 500, "merging an object in json but data type is not struct, instead is: map"),
    ] {
        let ty = schema::builtin().named(POD_SPEC).unwrap();
        let mut doc = doc.clone();
        doc["nodeSelector"] = json!({"a": "b"});
        let error = strategic(ty, &mut doc, &patch).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, told), "{patch}");
    }
    let deleted = strategically(META, json!({"finalizers": ["a"], "name": "n"}), json!({"$deleteFromPrimitiveList/finalizers": null}));
    assert_eq!(deleted, Ok(json!({"name": "n"})));
}

/// As kube-apiserver 1.37.2 answers: the first of several errors is the first of the text, and so are fields that there are not.
#[test]
fn a_patched_object_is_read_in_the_order_of_its_text() {
    use crate::json::Validation;
    let (ty, old) = config_map();
    let refused =
        |patch: &str, validation| parse(Kind::Json, patch.as_bytes(), validation).and_then(|p| p.apply(ty, &old, &mut Vec::new())).unwrap_err().message;
    let metadata = r#"[{"op":"add","path":"/metadata","value":{"name":"c","zz":1,"labels":7, "aa":2,"annotations":[]}}]"#;
    let told = refused(metadata, Validation::Strict);
    assert!(told.contains(r#"\"metadata\":{\"name\":\"c\",\"zz\":1,\"labels\":7,\"aa\":2,\"annotations\":[]}"#), "{told}");
    assert!(told.ends_with("json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type map[string]string"), "{told}");
    let unknown = r#"[{"op":"add","path":"/metadata","value":{"name":"c","zz":1,"aa":2,"aa":3}}]"#;
    let told = refused(unknown, Validation::Strict);
    let why = r#"json patch duplicate field "[0].value.aa", unknown field "metadata.zz", unknown field "metadata.aa""#;
    assert!(told.contains(&format!("strict decoding error: {why}")), "{told}");
}

/// As kube-apiserver 1.37.2 answers.
#[test]
fn a_strategic_patch_is_read_by_the_fields_of_go_s_types() {
    use crate::json::Validation;
    let refused = |name: &str, patch: Value, validation| {
        let ty = schema::builtin().named(name).unwrap();
        let patched = parse(Kind::Strategic, patch.to_string().as_bytes(), validation).and_then(|patch| patch.apply(ty, &json!({}), &mut Vec::new()));
        patched.unwrap_err().message
    };
    for (name, patch, why) in [
        (
            "io.k8s.api.core.v1.Pod",
            json!({"spec": {"containers": [{"name": "c", "env": 7, "command": [1], "ports": [{"containerPort": "x"}]}]}}),
            "cannot convert int64 to string",
        ),
        ("io.k8s.api.core.v1.Secret", json!({"data": {"k": "x"}}), "error decoding from json: illegal base64 data at input byte 0"),
        ("io.k8s.api.core.v1.Secret", json!({"data": {"k": 1}}), "cannot restore slice from int64"),
        (
            "io.k8s.api.policy.v1.PodDisruptionBudget",
            json!({"spec": {"minAvailable": i64::MAX}}),
            "json: cannot unmarshal number 9223372036854775807 into Go value of type int32",
        ),
    ] {
        let told = refused(name, patch, Validation::Ignore);
        assert!(told.ends_with(&format!(": {why}")), "{told}");
    }
    let told = refused("io.k8s.api.core.v1.Pod", json!({"spec": {"zz": 1}, "metadata": {"aa": 1}, "Name": 1}), Validation::Strict);
    assert!(told.ends_with(r#"strict decoding error: unknown field "Name", unknown field "metadata.aa", unknown field "spec.zz""#), "{told}");
}

/// As kube-apiserver 1.37.2 answers.
#[test]
fn a_kind_of_no_version_is_looked_for_among_those_of_the_group() {
    use crate::json::Validation;
    let (ty, old) = config_map();
    let patched = |operations: &str| parse(Kind::Json, operations.as_bytes(), Validation::Ignore).unwrap().apply(ty, &old, &mut Vec::new());
    let refused = patched(r#"[{"op":"move","from":"/apiVersion","path":"/kind"}]"#).unwrap_err().message;
    assert!(refused.ends_with(r#"no kind "v1" is registered for the internal version of group "" in scheme "pkg/runtime/scheme.go:111""#), "{refused}");
    let refused = patched(r#"[{"op":"replace","path":"","value":[]}]"#).unwrap_err().message;
    assert!(refused.contains(r#"cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind"#), "{refused}");
    let patched = patched(r#"[{"op":"add","path":"/apiVersion","value":"/v1"}]"#).unwrap();
    assert_eq!(patched.value, old, "a group without letters is none");
}

#[test]
fn a_group_without_a_version_has_no_kinds() {
    let (ty, old) = config_map();
    let operations = br#"[{"op":"replace","path":"/apiVersion","value":"a/"}]"#;
    let refused = parse(Kind::Json, operations, crate::json::Validation::Ignore).unwrap().apply(ty, &old, &mut Vec::new()).unwrap_err();
    assert!(refused.message.contains("Object 'apiVersion' is missing in '{"), "{}", refused.message);
}

#[test]
fn what_is_no_patch_of_its_kind_is_refused_where_it_is_applied() {
    let ty = crate::schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    let old = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    for (kind, body) in [(Kind::Json, "{}"), (Kind::Json, "[1]"), (Kind::Merge, "[]"), (Kind::Merge, "null"), (Kind::Strategic, "1"), (Kind::Merge, "1e999")] {
        // To an object that there is not nothing is applied, and 404 is answered.
        let patch = parse(kind, body.as_bytes(), crate::json::Validation::Strict).expect("JSON");
        assert_eq!(patch.apply(ty, &old, &mut Vec::new()).unwrap_err().code, 400, "{body}");
    }
    assert_eq!(parse(Kind::Json, b"{", crate::json::Validation::Strict).unwrap_err().message, "invalid JSON patch");
}

#[test]
fn a_custom_object_is_read_as_the_version_that_it_says() {
    use crate::json::{Texts, Validation};
    let kind = |version: &str| crate::gvk::Gvk::parse(&format!("g.io/{version}"), "K");
    let schema = |field: &str| json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {(field): {"type": "string"}}}}});
    let (first, second) = (schema("a"), schema("b"));
    let custom = crate::structural::schema(&[(kind("v1"), Some(&first)), (kind("v2"), Some(&second))]);
    let old = json!({"apiVersion": "g.io/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": "x"}});
    let read = |body: Value| {
        let versions = |version: &str| custom.kind(&kind(version));
        let patch = parse(Kind::Merge, body.to_string().as_bytes(), Validation::Warn).unwrap();
        patch.apply_spelled(custom.kind(&kind("v1")).unwrap(), &versions, &old, Texts::NONE, &mut Vec::new())
    };
    let told = |version: &str| read(json!({"apiVersion": format!("g.io/{version}")})).unwrap().warnings;
    assert_eq!(told("v2"), ["unknown field \"spec.a\""]);
    assert_eq!(told("v3"), ["unknown field \"spec\""]);
    assert_eq!(told("v1"), [""; 0]);
    // Of another kind, which it may not become, nothing is known.
    assert_eq!(read(json!({"kind": "L", "nope": 1})).unwrap().warnings, [""; 0]);
    assert!(read(json!({"apiVersion": "g.io/a/b"})).unwrap_err().message.ends_with("unexpected GroupVersion string: g.io/a/b"));
}

#[test]
fn an_object_that_says_another_version_of_its_kind_becomes_what_it_was() {
    use crate::json::Validation;
    let patched = |kind: crate::gvk::Gvk, spec: Value, patch: Value| {
        let old = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "n"}, "spec": spec});
        let ty = schema::builtin().kind(&kind).unwrap();
        parse(Kind::Merge, patch.to_string().as_bytes(), Validation::Warn).unwrap().apply(ty, &old, &mut Vec::new())
    };
    let gvk = crate::gvk::Gvk::parse;
    let patch = json!({"apiVersion": "apps/v1beta1", "spec": {"replicas": 2, "x": 1}});
    let read = patched(gvk("apps/v1", "Deployment"), json!({"replicas": 1}), patch.clone()).unwrap();
    assert_eq!((&read.value["apiVersion"], &read.value["spec"]["replicas"]), (&json!("apps/v1"), &json!(2)));
    assert_eq!(read.warnings, ["unknown field \"spec.x\""]);
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
    let read = patched(gvk("apps/v1", "Deployment"), json!({"template": template}), json!({"apiVersion": "apps/v1beta1"})).unwrap();
    assert_eq!(read.value["metadata"]["labels"], json!({"a": "b"}), "a default of the old version");
    let read = patched(gvk("flowcontrol.apiserver.k8s.io/v1", "FlowSchema"), json!({}), json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1beta2"})).unwrap();
    assert_eq!(read.value["apiVersion"], "flowcontrol.apiserver.k8s.io/v1");
    let scaler = json!({"maxReplicas": 3, "scaleTargetRef": {"kind": "D", "name": "d"}, "metrics": []});
    let read = patched(gvk("autoscaling/v2", "HorizontalPodAutoscaler"), scaler, json!({"apiVersion": "autoscaling/v1"})).unwrap();
    assert_eq!((&read.value["apiVersion"], &read.value["spec"]["maxReplicas"]), (&json!("autoscaling/v2"), &json!(3)));
    assert_eq!(read.warnings, ["unknown field \"spec.metrics\""]);
    let refused = patched(gvk("apps/v1", "ReplicaSet"), json!({}), patch).unwrap_err().message;
    assert!(refused.contains("no kind \"ReplicaSet\" is registered for version \"apps/v1beta1\""), "{refused}");
}

#[test]
fn an_amount_in_a_patch_is_as_it_is_spelled() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ResourceQuota").unwrap();
    let old = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"cpu": "1", "memory": "1e9"}}});
    for (kind, patch) in [(Kind::Merge, r#"{"spec":{"hard":{"cpu":1e3}}}"#), (Kind::Json, r#"[{"op":"replace","path":"/spec/hard/cpu","value":1e3}]"#)] {
        let patch = parse(kind, patch.as_bytes(), crate::json::Validation::Strict).unwrap();
        let patched = patch.apply(ty, &old, &mut Vec::new()).unwrap().value;
        assert_eq!(patched["spec"]["hard"], json!({"cpu": "1e3", "memory": "1e9"}));
    }
}
