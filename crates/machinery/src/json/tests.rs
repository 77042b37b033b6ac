use super::*;
use crate::{gvk::Gvk, schema};
use serde_json::json;

fn kind(group: &str, version: &str, kind: &str) -> TypeRef<'static> {
    let gvk = Gvk { group: group.into(), version: version.into(), kind: kind.into() };
    schema::builtin().kind(&gvk).unwrap_or_else(|| panic!("no {kind}"))
}

fn strict(ty: TypeRef<'_>, text: &str) -> Result<Value, String> {
    decode(text.as_bytes(), Some(ty), Validation::Strict).map(|d| d.value).map_err(|s| s.message)
}

#[test]
fn unknown_and_duplicate_fields_are_named_with_their_paths() {
    let body = r#"{"spec":{"replicas":1,"replicas":2,"foo":1,"template":{"spec":{"containers":[{"name":"a","imag":"x"}]}}},
        "metadata":{"labels":{"a":"1","a":"2"}}}"#;
    let deployment = kind("apps", "v1", "Deployment");
    assert_eq!(
        strict(deployment, body).unwrap_err(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: duplicate field \"spec.replicas\", \
         unknown field \"spec.foo\", unknown field \"spec.template.spec.containers[0].imag\", duplicate field \"metadata.labels.a\""
    );
    let warned = decode(body.as_bytes(), Some(deployment), Validation::Warn).unwrap();
    assert_eq!(warned.warnings.len(), 4);
    assert_eq!(warned.value["spec"]["replicas"], 2);
    assert!(warned.value["spec"].get("foo").is_none());
}

#[test]
fn no_unknown_field_is_looked_for_in_what_has_a_decoder_of_its_own() {
    let body =
        r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"a":1,"items":{"b":1,"type":"string","type":"array"},"additionalProperties":{"c":1}}}}]}}"#;
    let crd = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let warned = decode(body.as_bytes(), Some(crd), Validation::Warn).unwrap();
    assert_eq!(warned.warnings, ["unknown field \"spec.versions[0].schema.openAPIV3Schema.a\""]);
}

#[test]
fn what_is_there_twice_is_read_into_one() {
    let read = |name: &str, body: &str| decode(body.as_bytes(), crate::schema::builtin().named(name), Validation::Ignore).unwrap().value;
    let map = read("io.k8s.api.core.v1.ConfigMap", r#"{"data":{"a":"1","k":"v"},"metadata":{"name":"x"},"data":{"a":"2"},"metadata":{"labels":{"l":"m"}}}"#);
    assert_eq!(map["data"], json!({"a": "2", "k": "v"}));
    assert_eq!((&map["metadata"]["name"], &map["metadata"]["labels"]), (&json!("x"), &json!({"l": "m"})));
    let twice = r#"{"containers":[{"name":"a","image":"i"},{"name":"b"}],"containers":[{"name":"c"}],"hostname":"x","hostname":"y"}"#;
    let spec = read("io.k8s.api.core.v1.PodSpec", twice);
    assert_eq!((&spec["containers"][0]["image"], &spec["containers"][0]["name"], &spec["hostname"]), (&json!("i"), &json!("c"), &json!("y")));
    assert!(spec["containers"].get(1).is_none());
}

#[test]
fn a_duplicate_in_what_is_applied_is_told_by_its_line() {
    for text in ["{\"spec\": {\n\"paused\": true,\n\"paused\": false}}", "spec:\n  paused: true\n  paused: false\n"] {
        let applied = parse_applied(text.as_bytes()).unwrap();
        assert_eq!((&applied.value["spec"]["paused"], &applied.repeats), (&false.into(), &vec!["line 3: key \"paused\" already set in map".into()]));
        assert_eq!(
            applied.refuse_repeats().unwrap_err().message,
            "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  line 3: key \"paused\" already set in map"
        );
    }
    assert!(parse_applied(b"a: 1").unwrap().refuse_repeats().is_ok());
    let broken = parse_applied(b"spec: {").unwrap_err().message;
    assert!(broken.starts_with("error encoding patch: yaml: "), "{broken}");
    let broken = parse_applied(b"{\"a\": [}").unwrap_err().message;
    assert!(broken.starts_with("error decoding patch: error converting YAML to JSON: yaml: "), "{broken}");
    let list = parse_applied(b"- a").unwrap_err().message;
    assert!(list.ends_with("json: cannot unmarshal array into Go value of type map[string]interface {}"), "{list}");
}

#[test]
fn wrong_types_name_the_go_field() {
    let deployment = kind("apps", "v1", "Deployment");
    let head = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal ";
    for (body, tail) in [
        (r#"{"spec":{"replicas":"3"}}"#, "string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"spec":{"replicas":3.5}}"#, "number 3.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"spec":{"replicas":3000000000}}"#, "number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"spec":{"paused":"x"}}"#, "string into Go struct field DeploymentSpec.spec.paused of type bool"),
        (r#"{"metadata":{"labels":[]}}"#, "array into Go struct field ObjectMeta.metadata.labels of type map[string]string"),
        (r#"{"metadata":{"labels":{"a":1}}}"#, "number into Go struct field ObjectMeta.metadata.labels of type string"),
        (r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#, "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"),
    ] {
        assert_eq!(strict(deployment, body).unwrap_err(), format!("{head}{tail}"));
    }
    // A package is called by its own name, and not as the file calls it that imports it.
    let refused = strict(kind("batch", "v1", "Job"), r#"{"spec":{"scheduling":{"disruptionMode":"x"}}}"#).unwrap_err();
    let place = "Go struct field JobSchedulingConfiguration.spec.scheduling.disruptionMode";
    assert!(refused.ends_with(&format!("string into {place} of type v1alpha3.WorkloadPodGroupDisruptionMode")), "{refused}");
}

#[test]
fn syntax_errors_speak_go() {
    let pod = kind("", "v1", "Pod");
    for (body, message) in [
        ("{\"a\":}", "invalid character '}' looking for beginning of value"),
        ("{\"metadata\":{\"finalizers\":[\"a\",]}}", "invalid character ']' looking for beginning of value"),
        ("{\"metadata\":{} \"b\":1}", "invalid character '\"' after object key:value pair"),
        ("{\"metadata\":", "unexpected end of JSON input"),
        ("nonsense", "invalid character"),
    ] {
        let error = strict(pod, body).unwrap_err();
        assert!(error.contains(message), "{error}");
        assert!(error.contains("(must be of type Pod): couldn't get version/kind; json parse error"), "{error}");
    }
    let wrong_too = strict(pod, "{\"metadata\":[],\"spec\":{]}").unwrap_err();
    assert!(wrong_too.contains("invalid character ']' looking for beginning of object key string"), "no JSON comes first: {wrong_too}");
    let broken = decode(b"{\"metadata\":{\"name\":\"\xff\"}}", Some(pod), Validation::Strict).unwrap().value;
    assert_eq!(broken["metadata"]["name"], "\u{fffd}");
    let array = decode(b" [1]", Some(pod), Validation::Strict).unwrap_err().message;
    assert!(array.contains("json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:"), "{array}");
    let nul = strict(pod, "{\"metadata\":\"\u{1}\"}").unwrap_err();
    assert!(nul.contains(r"invalid character '\x01' in string literal"), "{nul}");
}

#[test]
fn equal_objects_become_equal_values() {
    let pod = kind("", "v1", "Pod");
    let body = r#"{"metadata":{"name":"a","namespace":"","labels":null,"annotations":{},"creationTimestamp":null,
        "deletionGracePeriodSeconds":0},"spec":{"hostNetwork":false,"priority":0,"nodeSelector":{},"containers":[
        {"name":"c","env":[],"resources":{"limits":{"cpu":"0.5","memory":1048576}},"tty":false}]}}"#;
    let value = strict(pod, body).unwrap();
    assert_eq!(value["metadata"], json!({"name": "a", "deletionGracePeriodSeconds": 0}));
    assert_eq!(value["spec"]["priority"], 0, "a zero behind a pointer is a value");
    assert!(value["spec"].get("hostNetwork").is_none() && value["spec"].get("nodeSelector").is_none());
    let container = &value["spec"]["containers"][0];
    assert!(container.get("env").is_none() && container.get("tty").is_none());
    assert_eq!(value["kind"], "Pod");
    assert_eq!(value["apiVersion"], "v1");
}

#[test]
fn scalars_are_checked_and_made_canonical() {
    let secret = kind("", "v1", "Secret");
    assert!(strict(secret, r#"{"data":{"a":"!"}}"#).unwrap_err().contains("illegal base64 data at input byte 0"));
    let value = strict(secret, r#"{"data":{"a":null,"b":"eA=="},"metadata":{"creationTimestamp":"2024-01-01T01:00:00+01:00"}}"#).unwrap();
    assert_eq!(value["data"], json!({"a": "", "b": "eA=="}));
    for (text, at) in [("b\\nc", 1), ("YQ", 0), ("YQ=", 3), ("YQ=x", 2), ("YQ==x", 4), ("YWI=x", 4), ("=", 0), ("YQ==\\n\\nYQ==", 6), ("YWJjZ", 4), ("YW é", 2)]
    {
        let refused = strict(secret, &format!(r#"{{"data":{{"a":"{text}"}}}}"#)).unwrap_err();
        assert!(refused.ends_with(&format!("illegal base64 data at input byte {at}")), "{text}: {refused}");
    }
    let loose = strict(secret, r#"{"data":{"a":"YR==","b":"eHl=","c":"eHl6"}}"#).unwrap();
    assert_eq!(loose["data"], json!({"a": "YQ==", "b": "eHk=", "c": "eHl6"}), "bits that no byte needs");
    assert_eq!(value["metadata"]["creationTimestamp"], "2024-01-01T00:00:00Z");
    assert!(strict(secret, r#"{"metadata":{"creationTimestamp":"soon"}}"#).unwrap_err().contains("parsing time \"soon\""));
    let service = kind("", "v1", "Service");
    let value = strict(service, r#"{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":0}]}}"#).unwrap();
    assert_eq!(value["spec"]["ports"][0]["targetPort"], "http");
    assert_eq!(value["spec"]["ports"][1]["targetPort"], 0);
}

#[test]
fn json_schemas_keep_their_unions() {
    let crd = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
        "a": {"type": "array", "items": {"type": "string"}, "default": ["x"], "enum": [null, 1]},
        "b": {"additionalProperties": false, "x-kubernetes-list-map-keys": ["k"]}, "c": {"additionalProperties": {"type": "string"}}}});
    let body = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
    let value = strict(crd, &body.to_string()).unwrap();
    assert_eq!(value["spec"]["versions"][0]["schema"]["openAPIV3Schema"], schema);
}

#[test]
fn samples_of_every_kind_decode_to_themselves() {
    for (gvk, ty) in schema::builtin().kinds() {
        let sample = schema::sample::sample(ty, 1, 12);
        let decoded = decode(&encode(&sample), Some(ty), Validation::Strict).unwrap_or_else(|e| panic!("{gvk:?}: {}", e.message));
        assert_eq!(decoded.value, sample, "{gvk:?}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_told_as_they_are_spelled() {
    let pod = kind("", "v1", "Pod");
    for (number, place) in [
        ("99999999999999999999", "activeDeadlineSeconds of type int64"),
        ("1.0", "activeDeadlineSeconds of type int64"),
        ("1e2", "priority of type int32"),
        ("3000000000", "priority of type int32"),
    ] {
        let (field, _) = place.split_once(' ').unwrap();
        let body = format!("{{\"metadata\":{{\"name\":\"1.0 1e2\"}},\"spec\":{{\"{field}\":{number}}}}}");
        assert_eq!(
            decode(body.as_bytes(), Some(pod), Validation::Strict).unwrap_err().message,
            format!("Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number {number} into Go struct field PodSpec.spec.{place}")
        );
    }
}

#[test]
fn half_a_character_is_read_as_go_reads_it() {
    let map = kind("", "v1", "ConfigMap");
    let body = br#"{"data":{"a":"\ud800x","b":"\u0000\udc00","c":"\ud83d\ude00\ud83d\ud83d","d":"\\ud800"}}"#;
    let value = decode(body, Some(map), Validation::Strict).unwrap().value;
    assert_eq!(value["data"], serde_json::json!({"a": "\u{fffd}x", "b": "\0\u{fffd}", "c": "\u{1f600}\u{fffd}\u{fffd}", "d": "\\ud800"}));
    assert!(decode(br#"{"data":{"a":"\uzzzz"}}"#, Some(map), Validation::Strict).is_err());
}

#[test]
fn microseconds_have_six_digits() {
    let lease = kind("coordination.k8s.io", "v1", "Lease");
    let renewed = |time: &str| decode(format!("{{\"spec\":{{\"renewTime\":{time:?}}}}}").as_bytes(), Some(lease), Validation::Strict);
    assert_eq!(renewed("2020-01-01T00:00:00.123456+01:00").unwrap().value["spec"]["renewTime"], "2019-12-31T23:00:00.123456Z");
    for (time, why) in [
        ("2020-01-01T00:00:00Z", "cannot parse \"Z\" as \".000000\""),
        ("2020-01-01T00:00:00.12345Z", "cannot parse \".12345Z\" as \".000000\""),
        ("2020-01-01T00:00:00.1234567Z", "cannot parse \"7Z\" as \"Z07:00\""),
    ] {
        let error = renewed(time).unwrap_err().message;
        assert!(error.ends_with(&format!("parsing time {time:?} as \"2006-01-02T15:04:05.000000Z07:00\": {why}")), "{error}");
    }
}

/// As a running original said each.
#[test]
fn numbers_that_are_none_are_told_as_go_tells_them() {
    let pod = kind("", "v1", "Pod");
    let refused = |number: &str| {
        decode(format!("{{\"spec\":{{\"priority\":{number},\"x\":[{number}]}}}}").as_bytes(), Some(pod), Validation::Ignore).unwrap_err().message
    };
    for (number, why) in [
        ("01", "invalid character '1' after object key:value pair"),
        ("-01", "invalid character '1' after object key:value pair"),
        ("1.", "invalid character ',' after decimal point in numeric literal"),
        ("1e", "invalid character ',' in exponent of numeric literal"),
        ("1e+", "invalid character ',' in exponent of numeric literal"),
        ("-x", "invalid character 'x' in numeric literal"),
        (".5", "invalid character '.' looking for beginning of value"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
    ] {
        let message = refused(number);
        assert!(message.contains(&format!("couldn't get version/kind; json parse error: {why}")), "{number}: {message}");
    }
    let in_list = decode(b"{\"spec\":{\"x\":[\"[\",00]}}", Some(pod), Validation::Ignore).unwrap_err().message;
    assert!(in_list.contains("invalid character '0' after array element"), "{in_list}");
    let line = decode(b"{\"metadata\":{\"name\":\"a\nb\"}}", Some(pod), Validation::Ignore).unwrap_err().message;
    assert!(line.contains(r"invalid character '\n' in string literal"), "{line}");
    let huge = "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number 1e400 into Go value of type float64";
    assert_eq!(refused("1e400"), huge);
}

#[test]
fn a_zero_with_a_sign_is_a_whole_number_unless_it_has_a_fraction() {
    let pod = kind("", "v1", "Pod");
    let read = |number: &str| {
        decode(format!("{{\"metadata\":{{\"generation\":{number}}},\"spec\":{{\"priority\":{number}}}}}").as_bytes(), Some(pod), Validation::Strict)
    };
    let value = read("-0").unwrap().value;
    assert_eq!((value["spec"]["priority"].clone(), value["metadata"].get("generation")), (json!(0), None));
    let refused = read("-0.0").unwrap_err().message;
    assert!(refused.ends_with("json: cannot unmarshal number -0.0 into Go struct field ObjectMeta.metadata.generation of type int64"), "{refused}");
    let service = kind("", "v1", "Service");
    let refused = decode(br#"{"spec":{"ports":[{"targetPort":true}]}}"#, Some(service), Validation::Strict).unwrap_err().message;
    assert!(refused.ends_with("cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32"), "{refused}");
}

/// The shortest text that is read as the same float; `float_roundtrip` makes the parser exact.
#[test]
fn floats_keep_their_last_digit() {
    let crd = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    for (sent, answered) in [
        ("1.2345678901234567e-7", "1.2345678901234566e-7"),
        ("123456789012345680000", "123456789012345680000"),
        ("9007199254740993", "9007199254740992"),
        ("0.1234567890123456789", "0.12345678901234568"),
        ("65.613616999999977", "65.61361699999998"),
        ("2.2250738585072014e-308", "2.2250738585072014e-308"),
        ("5e-324", "5e-324"),
    ] {
        let body = format!("{{\"spec\":{{\"versions\":[{{\"schema\":{{\"openAPIV3Schema\":{{\"maximum\":{sent}}}}}}}]}}}}");
        let value = decode(body.as_bytes(), Some(crd), Validation::Strict).unwrap().value;
        let text = String::from_utf8(encode_as(Some(crd), &value)).unwrap();
        assert!(text.contains(&format!("\"maximum\":{answered}}}")), "{sent}: {text}");
    }
}

/// Answers of kube-apiserver 1.37.2.
#[test]
fn bytes_may_be_listed() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.Secret").unwrap();
    let read = |data: &str| decode(format!(r#"{{"data":{data}}}"#).as_bytes(), Some(ty), Validation::Strict);
    assert_eq!(read(r#"{"k":[1,null,255],"l":[]}"#).unwrap().value["data"], serde_json::json!({"k": "AQD/", "l": ""}));
    let refused = read(r#"{"k":[null],"a":"x"}"#).unwrap_err().message;
    assert!(refused.ends_with("illegal base64 data at input byte 0"), "{refused}");
    let refused = read(r#"{"k":[256]}"#).unwrap_err().message;
    assert!(refused.ends_with("json: cannot unmarshal number 256 into Go struct field Secret.data of type uint8"), "{refused}");
}

/// As kube-apiserver 1.37.2 reads them: `UnmarshalJSON` of `JSONSchemaPropsOrArray` looks for a bracket alone.
#[test]
fn what_is_no_schema_where_one_or_many_are_due_is_empty() {
    let crd = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    for items in ["\"x\"", "7", "true", "[]"] {
        let body = format!(r#"{{"spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{{"items":{items}}}}}}}]}}}}"#);
        let read = decode(body.as_bytes(), Some(crd), Validation::Strict).unwrap().value;
        assert_eq!(read["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["items"], json!([]), "{items}");
    }
}

#[test]
fn a_number_of_a_wrong_type_is_told_as_it_is_spelled() {
    let body = br#"{"spec":{"replicas":1.50}}"#;
    let refused = decode(body, Some(kind("apps", "v1", "Deployment")), Validation::Strict).unwrap_err().message;
    assert!(refused.contains("cannot unmarshal number 1.50 into "), "{refused}");
}

/// As kube-apiserver 1.37.2 told it of a strategic merge patch.
#[test]
fn of_what_was_made_from_maps_is_told_without_their_keys() {
    let crd = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let schema = json!({"properties": {"spec": {"properties": {"a": {"nope": 1}}}}});
    let value = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
    let told = from_maps(&value, crd).unwrap().warnings;
    assert_eq!(told, ["unknown field \"spec.versions[0].schema.openAPIV3Schema.properties.properties.nope\""]);
}
