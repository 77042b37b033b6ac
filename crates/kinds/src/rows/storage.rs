//! Volumes, claims, and the kinds of `storage.k8s.io`.

use super::{Cells, count, text, truth};
use crate::{print, tree};
use machinery::Value;
use std::time::SystemTime;

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "PersistentVolume" => volume,
        "PersistentVolumeClaim" => claim,
        "StorageClass" => storage_class,
        "VolumeAttributesClass" => attributes_class,
        "VolumeAttachment" => attachment,
        "CSIDriver" => driver,
        "CSINode" => node,
        _ => return None,
    })
}

/// Access modes in short, in upstream's order.
fn modes(owner: &Value) -> String {
    let given = tree::list(owner, "accessModes");
    let short = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let found: Vec<&str> = short.into_iter().filter(|(long, _)| given.iter().any(|m| m == long)).map(|(_, s)| s).collect();
    found.join(",")
}

/// The class by the old annotation, or else by the field.
fn class(obj: &Value) -> Value {
    let noted = &obj["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    if noted.is_string() { noted.clone() } else { text(&obj["spec"], "storageClassName") }
}

fn quantity(value: &Value) -> String {
    if value.is_null() { "0".to_owned() } else { print::int_or_string(value) }
}

fn phase(obj: &Value) -> Value {
    if obj["metadata"]["deletionTimestamp"].is_null() { text(&obj["status"], "phase") } else { "Terminating".into() }
}

fn unset(owner: &Value, key: &str) -> Value {
    owner[key].as_str().unwrap_or(print::UNSET).into()
}

fn volume(obj: &Value, now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    let claim = &spec["claimRef"];
    let claim = if claim.is_object() { format!("{}/{}", tree::text(claim, "namespace"), tree::text(claim, "name")) } else { String::new() };
    vec![
        print::name(obj),
        quantity(&spec["capacity"]["storage"]).into(),
        modes(spec).into(),
        text(spec, "persistentVolumeReclaimPolicy"),
        phase(obj),
        claim.into(),
        class(obj),
        unset(spec, "volumeAttributesClassName"),
        text(&obj["status"], "reason"),
        print::age(obj, now),
        unset(spec, "volumeMode"),
    ]
}

fn claim(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, status) = (&obj["spec"], &obj["status"]);
    let bound = !tree::empty(&spec["volumeName"]);
    vec![
        print::name(obj),
        phase(obj),
        text(spec, "volumeName"),
        if bound { quantity(&status["capacity"]["storage"]) } else { String::new() }.into(),
        if bound { modes(status) } else { String::new() }.into(),
        class(obj),
        unset(spec, "volumeAttributesClassName"),
        print::age(obj, now),
        unset(spec, "volumeMode"),
    ]
}

fn storage_class(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![
        print::name(obj),
        text(obj, "provisioner"),
        obj["reclaimPolicy"].as_str().unwrap_or("Delete").into(),
        obj["volumeBindingMode"].as_str().unwrap_or("Immediate").into(),
        truth(obj, "allowVolumeExpansion", false),
        print::age(obj, now),
    ]
}

fn attributes_class(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), text(obj, "driverName"), print::age(obj, now)]
}

fn attachment(obj: &Value, now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    vec![
        print::name(obj),
        text(spec, "attacher"),
        text(&spec["source"], "persistentVolumeName"),
        text(spec, "nodeName"),
        truth(&obj["status"], "attached", false),
        print::age(obj, now),
    ]
}

fn driver(obj: &Value, now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    let audiences = spec["tokenRequests"].as_array().map(|all| all.iter().map(|t| tree::text(t, "audience")).collect::<Vec<_>>().join(","));
    vec![
        print::name(obj),
        truth(spec, "attachRequired", true),
        truth(spec, "podInfoOnMount", false),
        truth(spec, "storageCapacity", false),
        audiences.unwrap_or_else(|| print::UNSET.to_owned()).into(),
        truth(spec, "requiresRepublish", false),
        print::joined(tree::list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str).map(str::to_owned)).into(),
        print::age(obj, now),
    ]
}

fn node(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), count(&obj["spec"], "drivers"), print::age(obj, now)]
}
