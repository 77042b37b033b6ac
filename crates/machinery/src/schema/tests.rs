use super::*;

fn ty(name: &str) -> TypeRef<'static> {
    builtin().named(name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn every_name_is_defined() {
    assert!(builtin().names().count() > 860);
    for (name, ty) in builtin().names() {
        assert!(!matches!(ty.get(), Type::Any), "{name} is declared and not defined");
    }
}

#[test]
fn every_field_of_a_message_has_a_place_on_the_wire() {
    for (ty, object) in builtin().objects().filter(|(_, o)| !o.proto.is_empty()) {
        let embedded = |name: &str| embeds(ty, name);
        for field in object.fields.iter().filter(|f| f.tag == 0 && f.name != "apiVersion" && f.name != "kind") {
            assert!(embedded(&field.name), "{}.{} has no tag", object.name, field.name);
        }
    }
}

fn embeds(ty: TypeRef<'_>, name: &str) -> bool {
    ty.object().is_some_and(|o| {
        o.embedded.iter().any(|(_, id)| {
            let inner = ty.to(*id);
            inner.field(name).is_some_and(|f| f.tag > 0) || embeds(inner, name)
        })
    })
}

#[test]
fn facts_are_where_they_belong() {
    let port = ty("io.k8s.api.core.v1.ServicePort");
    assert_eq!(port.field("protocol").and_then(|f| f.default.clone()), Some(Value::from("TCP")));
    assert_eq!(port.field("port").and_then(|f| f.default.clone()), None, "Go zero values are no defaults");
    let container = ty("io.k8s.api.core.v1.Container");
    let ports = container.child("ports").and_then(TypeRef::list_type);
    assert_eq!(ports, Some(&ListType::Map(vec!["containerPort".into(), "protocol".into()])));
    assert_eq!(container.field("ports").map(|f| f.patch_merge_key.as_ref()), Some("containerPort"));
    assert!(ty("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").object().is_some_and(|o| o.atomic));
    assert!(ty("io.k8s.api.apps.v1.DeploymentSpec").field("replicas").is_some_and(|f| f.go.pointer));
}

#[test]
fn options_answer_in_every_group() {
    let gvk = Gvk { group: "policy".into(), version: "v1".into(), kind: "DeleteOptions".into() };
    assert!(builtin().kind(&gvk).is_some());
}
