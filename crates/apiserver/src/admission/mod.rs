//! Admission: what a cluster adds to objects and forbids, beyond what a kind says of itself.
//!
//! An ordered list of plug-ins of one shape ([`Plugin`]), in upstream's order (`AllOrderedPlugins`); upstream's default
//! set is on. Mutating stages run first, on the object as sent and defaulted; validating stages see the object as it
//! would be stored. A plug-in reads the store's memory and writes nothing, so a dry run needs no care of its own; the
//! one exception is ResourceQuota, which charges its quotas as the very last step ([`charge`]) and gives back what a write
//! that was refused after all was charged ([`quota::Charges::refund`]).

mod certificates;
mod limits;
mod namespace;
mod node;
mod pod;
mod pod_certificates;
mod quota;
mod rbac;
mod security;
mod service_account;
mod storage_objects;

pub(crate) use quota::{charge, tidy};

use crate::read::{items, text};
use crate::{Operation, Write, world::World};
use kinds::usage as amounts;
use machinery::{Value, status::Status};
use std::sync::Arc;

/// One stage of admission. Each method decides by the write whether it concerns the plug-in at all.
trait Plugin: Sync {
    /// Upstream's name of the plug-in.
    fn name(&self) -> &'static str;

    /// Changes the object.
    fn mutate(&self, _world: &World, _write: &Write<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the object.
    fn validate(&self, _world: &World, _write: &Write<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }
}

/// The plug-ins, in upstream's order. `Rbac` and `PodCertificateRequests` stand for checks that upstream makes in the storage of
/// these kinds.
static PLUGINS: [&dyn Plugin; 18] = [
    &namespace::NamespaceLifecycle,
    &limits::LimitRanger,
    &service_account::ServiceAccount,
    &node::NodeRestriction,
    &node::TaintNodesByCondition,
    &security::PodSecurity,
    &pod::Priority,
    &pod::DefaultTolerationSeconds,
    &storage_objects::DefaultStorageClass,
    &storage_objects::StorageObjectInUseProtection,
    &storage_objects::PersistentVolumeClaimResize,
    &pod::RuntimeClass,
    &certificates::CertificateApproval,
    &certificates::CertificateSubjectRestriction,
    &namespace::DefaultIngressClass,
    &pod::PodTopologyLabels,
    &rbac::Escalation,
    &pod_certificates::PodCertificateRequests,
];

/// The mutating stages. Not for deletions.
pub(crate) async fn mutate(world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
    if is(write, "", "pods") && write.operation == Operation::Create && write.subresource.is_empty() {
        service_account::wait_for_default(world, write.namespace, object).await;
    }
    for plugin in PLUGINS {
        plugin.mutate(world, write, object).inspect_err(|error| tracing::debug!(plugin = plugin.name(), %error, "refused"))?;
    }
    Ok(())
}

/// The validating stages; `object` is null for a deletion. ResourceQuota is not among them: [`charge`] follows when nothing
/// else can refuse.
pub(crate) fn validate(world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    for plugin in PLUGINS {
        plugin.validate(world, write, object).inspect_err(|error| tracing::debug!(plugin = plugin.name(), %error, "refused"))?;
    }
    Ok(())
}

/// Whether a write concerns a resource, in whatever version.
fn is(write: &Write<'_>, group: &str, resource: &str) -> bool {
    write.row.resource.group == group && write.row.resource.resource == resource
}

/// Whether a write makes a new object of a resource.
fn creates(write: &Write<'_>, group: &str, resource: &str) -> bool {
    write.operation == Operation::Create && write.subresource.is_empty() && is(write, group, resource)
}

/// 403 in the words that every plug-in refuses with.
fn forbidden(write: &Write<'_>, object: &Value, why: impl std::fmt::Display) -> Status {
    let meta = &object["metadata"];
    let name = [write.name, text(meta, "name"), text(meta, "generateName")].into_iter().find(|n| !n.is_empty()).unwrap_or("Unknown");
    Status::forbidden(&write.row.resource.group, &write.row.resource.resource, name, why)
}

/// Several errors as upstream joins them.
fn joined(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        more => format!("[{}]", more.join(", ")),
    }
}

/// Adds to a list, which is made if it is not there.
fn push(object: &mut Value, key: &str, value: Value) {
    match object[key].as_array_mut() {
        Some(list) => list.push(value),
        None => object[key] = Value::Array(vec![value]),
    }
}

/// The objects that are marked as default by an annotation: the newest counts, then the first by name (upstream).
fn default_of(objects: Vec<Arc<Value>>, annotations: &[&str]) -> Option<Arc<Value>> {
    let marked = |o: &Arc<Value>| annotations.iter().any(|a| text(&o["metadata"]["annotations"], a) == "true");
    objects.into_iter().filter(marked).min_by(|a, b| {
        let created = |o: &Value| text(&o["metadata"], "creationTimestamp").to_owned();
        created(b).cmp(&created(a)).then_with(|| text(&a["metadata"], "name").cmp(text(&b["metadata"], "name")))
    })
}
