//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going; some namespaces never go.
//! DefaultIngressClass.

use super::{Plugin, World, creates, default_of, forbidden, is, text, unaskable};
use crate::{Operation, Write, own};
use machinery::{
    Value,
    field::{Error, Path},
    names,
    status::Status,
};
use serde_json::json;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    // Before everything else that reads the namespace, as upstream's mutating stage does.
    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        let namespace = write.namespace;
        if namespace.is_empty()
            || write.operation == Operation::Connect
            || is(write, "", "namespaces")
            || is(write, "authorization.k8s.io", "localsubjectaccessreviews")
        {
            return Ok(());
        }
        let Some(found) = world.get(("", "v1", "namespaces"), "", namespace) else {
            return Err(unaskable(namespace).map_or_else(|| Status::not_found("", "namespaces", namespace), Status::internal));
        };
        let going = text(&found["status"], "phase") == "Terminating" || !found["metadata"]["deletionTimestamp"].is_null();
        if write.operation == Operation::Create && going {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let message = format!("namespace {namespace} is being terminated");
            return Err(forbidden(write, object, why).cause("NamespaceTerminating", message, "metadata.namespace"));
        }
        Ok(())
    }

    fn validate(&self, _world: &World, write: &Write<'_>, _object: &Value) -> Result<(), Status> {
        if write.operation == Operation::Delete && is(write, "", "namespaces") && IMMORTAL.contains(&write.name) {
            return Err(Status::forbidden("", "namespaces", write.name, "this namespace may not be deleted"));
        }
        Ok(())
    }
}

pub(super) struct NamespaceExists;

impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn validate(&self, world: &World, write: &Write<'_>, _object: &Value) -> Result<(), Status> {
        if write.namespace.is_empty() || is(write, "", "namespaces") || write.operation == Operation::Connect {
            return Ok(());
        }
        world.read(("", "v1", "namespaces"), "", write.namespace).map(drop)
    }
}

/// NamespaceAutoProvision: the namespace of what is made is made with it, as the server's own.
pub(super) async fn provide(world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    let missing = || world.get(("", "v1", "namespaces"), "", write.namespace).is_none();
    if write.operation != Operation::Create || write.dry_run || write.namespace.is_empty() || !missing() {
        return Ok(());
    }
    let row = world.expect_row(("", "v1", "namespaces"))?;
    let name = Path::root("metadata").child("name");
    let wrong: Vec<Error> = names::dns1123_label(write.namespace).into_iter().map(|why| Error::invalid(&name, write.namespace, why)).collect();
    if !wrong.is_empty() {
        let invalid = Status::invalid("", "Namespace", write.namespace, wrong);
        return Err(forbidden(write, object, invalid.message));
    }
    let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": write.namespace}});
    // One that somebody else has made meanwhile will do.
    own::create(world.store(), &row, write.cx.now, value).await.map(drop)
}

pub(super) struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        let named = !object["spec"]["ingressClassName"].is_null() || object["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_string();
        if !creates(write, "networking.k8s.io", "ingresses") || named {
            return Ok(());
        }
        let classes = world.list(("networking.k8s.io", "v1", "ingressclasses"), "");
        if let Some(class) = default_of(classes, &["ingressclass.kubernetes.io/is-default-class"]) {
            object["spec"]["ingressClassName"] = class["metadata"]["name"].clone();
        }
        Ok(())
    }
}
