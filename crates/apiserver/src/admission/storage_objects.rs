//! DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize.

use super::{Plugin, World, creates, default_of, forbidden, is, items, push, text};
use crate::{Operation, Write};
use machinery::{Value, quantity::Quantity, status::Status};
use serde_json::json;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULTS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        let named = object["spec"]["storageClassName"].is_string() || object["metadata"]["annotations"][CLASS_ANNOTATION].is_string();
        if !creates(write, "", "persistentvolumeclaims") || named {
            return Ok(());
        }
        if let Some(class) = default_of(world.list(("storage.k8s.io", "v1", "storageclasses"), ""), &DEFAULTS) {
            object["spec"]["storageClassName"] = class["metadata"]["name"].clone();
        }
        Ok(())
    }
}

pub(super) struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn mutate(&self, _world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if write.operation != Operation::Create || !write.subresource.is_empty() {
            return Ok(());
        }
        let resource = &write.row.resource;
        let finalizer = match (resource.group.as_str(), resource.resource.as_str()) {
            ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            ("", "persistentvolumes") => "kubernetes.io/pv-protection",
            ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        if !items(&object["metadata"]["finalizers"]).iter().any(|f| f == finalizer) {
            push(&mut object["metadata"], "finalizers", json!(finalizer));
        }
        Ok(())
    }
}

pub(super) struct PersistentVolumeClaimResize;

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let Some(old) = write.old else { return Ok(()) };
        if write.operation != Operation::Update || !write.subresource.is_empty() || !is(write, "", "persistentvolumeclaims") {
            return Ok(());
        }
        let size = |v: &Value| text(&v["spec"]["resources"]["requests"], "storage").parse::<Quantity>().ok();
        let grows = matches!((size(object), size(old)), (Some(new), Some(old)) if new > old);
        if !grows {
            return Ok(());
        }
        if text(&old["status"], "phase") != "Bound" {
            return Err(forbidden(write, object, "Only bound persistent volume claims can be expanded"));
        }
        let name = [text(&object["metadata"]["annotations"], CLASS_ANNOTATION), text(&object["spec"], "storageClassName")];
        let name = name.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
        let class = if name.is_empty() { None } else { world.get(("storage.k8s.io", "v1", "storageclasses"), "", name) };
        if class.is_some_and(|c| c["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(forbidden(write, object, why))
    }
}
