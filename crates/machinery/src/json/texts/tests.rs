use super::*;
use crate::{json, schema};
use serde_json::json;

const DATA: &str = r#"{"b":1.0, "a" : [1e3, -0, 0.10],"c":{"z":"<\u0041&>","y":null,"dup":1,"dup":2}}"#;
const WRITTEN: &str = r#"{"b":1.0,"a":[1e3,-0,0.10],"c":{"z":"\u003c\u0041\u0026\u003e","y":null,"dup":1,"dup":2}}"#;

fn ty(kind: &str) -> TypeRef<'static> {
    let name = match kind {
        "ControllerRevision" => "io.k8s.api.apps.v1.ControllerRevision".to_owned(),
        kind => format!("io.k8s.api.resource.v1.{kind}"),
    };
    schema::builtin().named(&name).expect("a type")
}

fn written(ty: TypeRef<'_>, value: &Value, texts: &Texts) -> String {
    String::from_utf8(json::encode_spelled(Some(ty), value, texts)).expect("UTF-8")
}

#[test]
fn a_free_form_value_is_written_as_it_came() {
    let body = format!(r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"x"}},"revision":1,"data":{DATA}}}"#);
    let value = json::decode(body.as_bytes(), Some(ty("ControllerRevision")), json::Validation::Strict).expect("a body").value;
    let texts = Texts::read(ty("ControllerRevision"), body.as_bytes());
    assert!(written(ty("ControllerRevision"), &value, &texts).contains(&format!(r#""data":{WRITTEN}"#)));
    // Without texts, and where the value is another, it is sorted.
    assert!(written(ty("ControllerRevision"), &value, Texts::NONE).contains(r#""data":{"a":[1000,"#));
    let mut other = value.clone();
    other["data"]["b"] = json!(2);
    assert!(written(ty("ControllerRevision"), &other, &texts).contains(r#""data":{"a":[1000,"#));
    // In the message, and where it is stored, with its spaces.
    let (stored, _) = json::encode_with_hole(Some(ty("ControllerRevision")), &value, &texts);
    assert!(!Texts::is_compact(&stored) && stored.windows(DATA.len()).any(|part| part == DATA.as_bytes()));
    assert_eq!(Texts::read(ty("ControllerRevision"), &stored).of(&value["data"]), Some(DATA.as_bytes()));
    let message = crate::proto::encode_raw_spelled(ty("ControllerRevision"), &value, &texts);
    assert!(message.windows(DATA.len()).any(|part| part == DATA.as_bytes()));
    let message = crate::proto::envelope("apps/v1", "ControllerRevision", &message);
    assert_eq!(crate::proto::decode(&message).expect("a message").1["data"], value["data"]);
    assert_eq!(crate::proto::texts(ty("ControllerRevision"), &message).of(&value["data"]), Some(DATA.as_bytes()));
}

#[test]
fn texts_are_found_in_lists_and_in_what_a_patch_brings() {
    let parameters = r#"{"z":1.0,"y":2}"#;
    let config = format!(r#"{{"opaque":{{"driver":"d.e.io","parameters":{parameters}}}}}"#);
    let value = json!({"z": 1.0, "y": 2});
    let object = format!(r#"{{"spec":{{"config":[{{}},{config}]}}}}"#);
    assert_eq!(Texts::read(ty("DeviceClass"), object.as_bytes()).of(&value), Some(parameters.as_bytes()));
    for (place, what) in [("/spec/config/-", config.as_str()), ("/spec/config/0/opaque/parameters", parameters)] {
        let patch = format!(r#"[null,{{"op":"add","path":"{place}","value":{what}}}]"#);
        assert_eq!(Texts::of_patch(ty("DeviceClass"), patch.as_bytes()).of(&value), Some(parameters.as_bytes()), "{place}");
    }
    let merged = Texts::of_merge(ty("ControllerRevision"), br#"{"data":{"z":1.50,"y":{"k":1.0,"j":null,"i":[null,{"c":1,"b":1e3}]}}}"#);
    let put_in = json!({"y": {"i": [null, {"b": 1000.0, "c": 1}], "k": 1.0}, "z": 1.5});
    assert_eq!(merged.of(&put_in), Some(&br#"{"y":{"i":[null,{"b":1e3,"c":1}],"k":1.0},"z":1.50}"#[..]));
    let spaced = Texts::of_patch(ty("ControllerRevision"), br#"[{"op":"add","path":"/data","value":{"z": 1.0}}]"#);
    assert_eq!(spaced.of(&json!({"z": 1.0})), Some(&br#"{"z":1.0}"#[..]));
    let elsewhere = format!(r#"[{{"op":"add","path":"/metadata/annotations","value":{parameters}}}]"#);
    let device_class = json!({"spec": {"config": [{"opaque": {"driver": "d.e.io", "parameters": value}}]}});
    let message = crate::proto::encode_raw_spelled(ty("DeviceClass"), &device_class, &Texts::read(ty("DeviceClass"), object.as_bytes()));
    let message = crate::proto::envelope("resource.k8s.io/v1", "DeviceClass", &message);
    assert_eq!(crate::proto::texts(ty("DeviceClass"), &message).of(&value), Some(parameters.as_bytes()));
    assert!(Texts::of_patch(ty("DeviceClass"), elsewhere.as_bytes()).is_empty());
    for nonsense in ["", "[", "[{", r#"[{"value":"#, "{]", "nul", "[1,,]"] {
        assert!(Texts::of_patch(ty("DeviceClass"), nonsense.as_bytes()).is_empty(), "{nonsense}");
    }
}

#[test]
fn what_came_first_counts_and_another_spelling_is_a_change() {
    let of = |data: &str| Texts::read(ty("ControllerRevision"), format!(r#"{{"data":{data}}}"#).as_bytes());
    let mut texts = of(r#"{"b":1,"a":2}"#);
    assert!(texts.respell(&of(r#"{"a":2,"b":1}"#)) && texts.respell(&of(r#"{"b": 1, "a": 2}"#)) && !texts.respell(&of(r#"{"b":3}"#)));
    texts.extend(of(r#"{"a":2,"b":1}"#));
    assert_eq!(texts.of(&json!({"a": 2, "b": 1})), Some(&br#"{"b":1,"a":2}"#[..]));
    assert!(!texts.respell(&of(r#"{"b":1,"a":2}"#)), "what counts less is no change");
}

#[test]
fn the_kinds_with_free_form_values_are_those_of_the_schema() {
    fn holds(ty: TypeRef<'_>, seen: &mut Vec<String>) -> bool {
        match ty.get() {
            Type::RawExtension => true,
            Type::Object(object) => {
                if seen.iter().any(|name| *name == object.name) {
                    return false;
                }
                seen.push(object.name.clone().into_owned());
                object.fields.iter().any(|field| holds(ty.to(field.ty), seen))
            }
            Type::List { elem, .. } | Type::Map { elem, .. } => holds(ty.to(*elem), seen),
            _ => false,
        }
    }
    for resource in crate::resources::builtin() {
        let Some(ty) = schema::builtin().kind(&resource.kind) else { continue };
        assert_eq!(holds(ty, &mut Vec::new()), Texts::are_kept(ty), "{}", resource.kind.kind);
    }
}
