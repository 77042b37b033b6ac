use super::*;

fn ty(name: &str) -> TypeRef<'static> {
    builtin().named(name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn each_server_knows_its_own_kinds() {
    let (pod, definition) = (Gvk::parse("v1", "Pod"), Gvk::parse("apiextensions.k8s.io/v1", "CustomResourceDefinition"));
    assert!(known_beside(&definition, &pod).is_none() && known_beside(&pod, &definition).is_none());
    assert!(known_beside(&pod, &Gvk::parse("apps/v1", "Deployment")).is_some());
    assert!(known_beside(&definition, &Gvk::parse("v1", "DeleteOptions")).is_some());
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

/// A sample of the kind, read and written again by its k8s-openapi type, after a trip over the wire.
fn typed<T: serde::de::DeserializeOwned + serde::Serialize>(name: &str) {
    let ty = ty(name);
    let value = sample::sample(ty, 1, 12);
    let (_, wire) = crate::proto::decode(&crate::proto::encode(ty, &value)).unwrap_or_else(|e| panic!("{name}: {}", e.message));
    let object: T = serde_json::from_value(wire.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let again = serde_json::to_value(&object).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(crate::json::normalize(again, ty, crate::json::Validation::Strict).unwrap().value, wire, "{name}");
}

#[test]
fn the_types_of_k8s_openapi_agree() {
    use k8s_openapi::api;
    typed::<api::core::v1::Pod>("io.k8s.api.core.v1.Pod");
    typed::<api::core::v1::Node>("io.k8s.api.core.v1.Node");
    typed::<api::core::v1::Service>("io.k8s.api.core.v1.Service");
    typed::<api::core::v1::Secret>("io.k8s.api.core.v1.Secret");
    typed::<api::core::v1::ConfigMap>("io.k8s.api.core.v1.ConfigMap");
    typed::<api::core::v1::Event>("io.k8s.api.core.v1.Event");
    typed::<api::core::v1::PersistentVolume>("io.k8s.api.core.v1.PersistentVolume");
    typed::<api::core::v1::PersistentVolumeClaim>("io.k8s.api.core.v1.PersistentVolumeClaim");
    typed::<api::core::v1::Namespace>("io.k8s.api.core.v1.Namespace");
    typed::<api::core::v1::ResourceQuota>("io.k8s.api.core.v1.ResourceQuota");
    typed::<api::apps::v1::Deployment>("io.k8s.api.apps.v1.Deployment");
    typed::<api::apps::v1::DaemonSet>("io.k8s.api.apps.v1.DaemonSet");
    typed::<api::batch::v1::CronJob>("io.k8s.api.batch.v1.CronJob");
    typed::<api::autoscaling::v2::HorizontalPodAutoscaler>("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler");
    typed::<api::coordination::v1::Lease>("io.k8s.api.coordination.v1.Lease");
    typed::<api::discovery::v1::EndpointSlice>("io.k8s.api.discovery.v1.EndpointSlice");
    typed::<api::networking::v1::Ingress>("io.k8s.api.networking.v1.Ingress");
    typed::<api::rbac::v1::ClusterRole>("io.k8s.api.rbac.v1.ClusterRole");
    typed::<api::admissionregistration::v1::ValidatingWebhookConfiguration>("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration");
    typed::<api::certificates::v1::CertificateSigningRequest>("io.k8s.api.certificates.v1.CertificateSigningRequest");
    typed::<api::authentication::v1::TokenReview>("io.k8s.api.authentication.v1.TokenReview");
    typed::<api::flowcontrol::v1::FlowSchema>("io.k8s.api.flowcontrol.v1.FlowSchema");
    typed::<api::resource::v1::ResourceClaim>("io.k8s.api.resource.v1.ResourceClaim");
}
