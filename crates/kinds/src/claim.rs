//! Claims on persistent volumes, and what volumes say in the same words (`pkg/apis/core/validation`,
//! `pkg/registry/core/persistentvolumeclaim`).

use crate::{
    Context, Strategy, amounts, internal, rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quantity::Quantity,
};
use serde_json::json;

pub(crate) const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub(crate) const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
pub(crate) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The strategy of claims.
#[derive(Debug, Clone, Copy)]
pub struct Claims;

impl Strategy for Claims {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            default_claim_spec(spec);
        }
        default_phase(obj);
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        if let Some(fields) = obj.as_object_mut() {
            fields.insert("status".into(), json!({"phase": "Pending"}));
        }
        if let Some(spec) = tree::at(obj, &["spec"]) {
            without_foreign_source(spec);
            data_sources(spec, true);
        }
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        let fresh = old["spec"]["dataSource"].is_null() && old["spec"]["dataSourceRef"].is_null();
        if let Some(spec) = tree::at(obj, &["spec"]) {
            if old["spec"]["dataSourceRef"].is_null() {
                without_foreign_source(spec);
            }
            data_sources(spec, fresh);
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_claim_spec(&obj["spec"], &Path::root("spec"), errors);
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        claim_change(obj, old, errors);
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if tree::empty(&obj["spec"]["accessModes"]) && !tree::empty(&old["spec"]["accessModes"]) {
            errors.push(Error::required(&Path::root("spec.accessModes"), ""));
        }
        let (status, path) = (&obj["status"], Path::root("status"));
        for (name, value) in tree::entries(status, "capacity") {
            basic(value, &path.child("capacity").key(name), &mut errors);
        }
        let place = path.child("allocatedResourceStatuses");
        for (name, value) in tree::entries(status, "allocatedResourceStatuses") {
            resource_key(name, &place, &mut errors);
            if !value.as_str().is_some_and(|v| RESIZE_STATUSES.contains(&v)) {
                errors.push(rules::not_supported(&place, name, &RESIZE_STATUSES));
            }
        }
        let place = path.child("allocatedResources");
        for (name, value) in tree::entries(status, "allocatedResources") {
            if resource_key(name, &place, &mut errors) && basic(value, &place.key(name), &mut errors) {
                amounts::amount("storage", value, &place.key(name), &mut errors);
            }
        }
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = class_warning(obj);
        spec_warnings(&obj["spec"], &Path::root("spec"), &mut out);
        out
    }
}

/// How far a resize has come; sorted.
const RESIZE_STATUSES: [&str; 5] =
    ["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"];

/// Whether an amount is one.
fn basic(value: &Value, path: &Path, errors: &mut ErrorList) -> bool {
    let negative = rules::quantity(value).map(Quantity::value).filter(|amount| *amount < 0);
    errors.extend(negative.map(|amount| Error::invalid(path, amount, "must be a valid resource quantity")));
    negative.is_none()
}

/// Whether a name is one of what a volume has: storage, or something of a vendor's.
fn resource_key(name: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    errors.extend(names::qualified_name(name).into_iter().map(|m| Error::invalid(path, name, m)));
    if errors.len() == before && name != "storage" && amounts::is_native(name) {
        errors.push(rules::not_supported(path, name, &["storage"]));
    }
    errors.len() == before
}

/// The defaults of a claim, also of one that a pod or a set makes.
pub(crate) fn default_claim_spec(spec: &mut Fields) {
    tree::fill(spec, "volumeMode", "Filesystem");
}

/// A source in another namespace is as if it were not said, as long as that is no feature (upstream's `DropDisabledFields`).
fn without_foreign_source(spec: &mut Fields) {
    if spec.get("dataSourceRef").is_some_and(|source| !tree::text(source, "namespace").is_empty()) {
        spec.remove("dataSourceRef");
    }
}

/// The two fields that name a source of data say the same; sources that were never served are dropped (KEP-1495).
fn data_sources(spec: &mut Fields, fresh: bool) {
    let get = |spec: &Fields, key: &str| spec.get(key).filter(|v| !v.is_null()).cloned();
    if fresh
        && get(spec, "dataSourceRef").is_none()
        && let Some(source) = get(spec, "dataSource")
    {
        let (kind, group) = (tree::text(&source, "kind"), tree::text(&source, "apiGroup"));
        if !matches!((group, kind), ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")) {
            spec.remove("dataSource");
        }
    }
    match (get(spec, "dataSource"), get(spec, "dataSourceRef")) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(source)) if tree::empty(&source["namespace"]) => {
            spec.insert("dataSource".into(), source);
        }
        _ => {}
    }
}

/// Checks the spec of a claim, also of one that a pod or a set makes.
pub(crate) fn check_claim_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    if tree::empty(&spec["accessModes"]) {
        errors.push(Error::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    rules::label_selector(&spec["selector"], &path.child("selector"), errors);
    access_modes(spec, path, errors);
    let place = path.child("resources").key("storage");
    match spec["resources"]["requests"].get("storage").and_then(rules::quantity) {
        None => errors.push(Error::required(&place, "")),
        Some(size) if size <= Quantity::ZERO => errors.push(Error::invalid(&place, size.to_string(), "must be greater than zero")),
        Some(_) => {}
    }
    class(spec, "storageClassName", path, errors);
    rules::supported(&spec["volumeMode"], &path.child("volumeMode"), &VOLUME_MODES, errors);
    for field in ["dataSource", "dataSourceRef"] {
        if spec[field].is_object() {
            data_source(&spec[field], &path.child(field), errors);
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    // Upstream shows its type of a path, which has no fields that anybody sees.
    let shown = || Value::Object(Default::default());
    if !tree::empty(&reference["namespace"]) {
        if source.is_object() {
            errors.push(Error::invalid(path, shown(), "may not be specified when dataSourceRef.namespace is specified"));
        }
    } else if source.is_object() && reference.is_object() && ["apiGroup", "kind", "name"].iter().any(|k| source[*k] != reference[*k]) {
        errors.push(Error::invalid(path, shown(), "must match dataSourceRef"));
    }
    class(spec, "volumeAttributesClassName", path, errors);
}

fn data_source(source: &Value, path: &Path, errors: &mut ErrorList) {
    rules::required(source, path, "name", errors);
    rules::required(source, path, "kind", errors);
    let (group, kind, namespace) = (tree::text(source, "apiGroup"), tree::text(source, "kind"), tree::text(source, "namespace"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.push(Error::invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"));
    }
    if !group.is_empty() {
        rules::name(group, &path.child("apiGroup"), names::dns1123_subdomain(group), errors);
    }
    if !namespace.is_empty() {
        rules::name(namespace, &path.child("namespace"), names::dns1123_label(namespace), errors);
    }
}

/// A claim stays what it was: it may be bound once, and when it is bound it may grow.
fn claim_change(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let (mut next, mut before) = (obj["spec"].clone(), old["spec"].clone());
    if tree::empty(&before["volumeName"])
        && let (Some(fields), Some(name)) = (before.as_object_mut(), next.get("volumeName"))
    {
        fields.insert("volumeName".into(), name.clone());
    }
    let annotation = |v: &'_ Value| tree::text(&v["metadata"]["annotations"], CLASS_ANNOTATION).to_owned();
    let upgrade = !annotation(old).is_empty()
        && before["storageClassName"].is_null()
        && next["storageClassName"] == annotation(old).as_str()
        && (annotation(obj).is_empty() || annotation(obj) == annotation(old));
    if upgrade {
        remove(&mut next, "storageClassName");
    } else {
        if annotation(obj) != annotation(old) {
            let place = Path::root("metadata.annotations").child(CLASS_ANNOTATION);
            errors.push(Error::invalid(&place, annotation(obj), rules::IMMUTABLE));
        }
        // The default class may be filled in later.
        let fits = annotation(old).is_empty() || next["storageClassName"] == annotation(old).as_str();
        if fits && before["storageClassName"].is_null() && !next["storageClassName"].is_null() {
            remove(&mut next, "storageClassName");
        }
    }
    let size = |spec: &Value| spec["resources"]["requests"].get("storage").cloned();
    if obj["status"]["phase"] == "Bound" {
        if let (Some(requests), Some(size)) = (tree::at(&mut next, &["resources", "requests"]), size(&before)) {
            requests.insert("storage".into(), size);
        }
        remove(&mut next, "volumeAttributesClassName");
        if let (Some(fields), Some(class)) = (next.as_object_mut(), before.get("volumeAttributesClassName")) {
            fields.insert("volumeAttributesClassName".into(), class.clone());
        }
    }
    const FORM: &str = "core.PersistentVolumeClaimSpec";
    if !internal::same(FORM, &next, &before) {
        let words = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(Error::forbidden(&Path::root("spec"), format!("{words}\n{}", internal::difference(FORM, &before, &next))));
    }
    let amount = |v: Option<Value>| v.as_ref().and_then(rules::quantity).unwrap_or_default();
    let (now, had) = (amount(size(&obj["spec"])), amount(size(&old["spec"])));
    if now < had && now <= amount(old["status"]["capacity"].get("storage").cloned()) {
        errors.push(Error::forbidden(&Path::root("spec.resources.requests.storage"), "field can not be less than status.capacity"));
    }
    rules::immutable(&obj["spec"]["volumeMode"], &old["spec"]["volumeMode"], &Path::root("volumeMode"), errors);
    let class = &obj["spec"]["volumeAttributesClassName"];
    let changed = *class != old["spec"]["volumeAttributesClassName"];
    if changed && !old["status"]["currentVolumeAttributesClassName"].is_null() && tree::empty(class) {
        let to = if class.is_null() { "nil" } else { "empty string" };
        let detail = format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.push(Error::forbidden(&Path::root("spec.volumeAttributesClassName"), detail));
    }
}

fn remove(spec: &mut Value, key: &str) {
    if let Some(fields) = spec.as_object_mut() {
        fields.remove(key);
    }
}

/// The warnings of a claim's spec, also of one that a pod or a set makes.
pub(crate) fn spec_warnings(spec: &Value, path: &Path, out: &mut Vec<String>) {
    for list in ["requests", "limits"] {
        if let Some(size) = spec["resources"][list].get("storage").filter(|size| amounts::is_fraction(size)).and_then(rules::quantity) {
            let place = path.child("resources").child(list).key("storage");
            out.push(format!("{place}: fractional byte value \"{size}\" is invalid, must be an integer"));
        }
    }
}

pub(crate) fn class_warning(obj: &Value) -> Vec<String> {
    if obj["metadata"]["annotations"][CLASS_ANNOTATION].is_null() {
        return Vec::new();
    }
    vec![format!("metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead")]
}

pub(crate) fn default_phase(obj: &mut Value) {
    if let Some(status) = tree::at(obj, &["status"]) {
        tree::fill_text(status, "phase", "Pending");
    }
}

pub(crate) fn access_modes(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let place = path.child("accessModes");
    let modes: Vec<&str> = tree::list(spec, "accessModes").iter().filter_map(Value::as_str).collect();
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(m)) {
        errors.push(rules::not_supported(&place, *mode, &ACCESS_MODES));
    }
    if modes.contains(&"ReadWriteOncePod") && modes.iter().any(|m| *m != "ReadWriteOncePod" && ACCESS_MODES.contains(m)) {
        errors.push(Error::forbidden(&place, "may not use ReadWriteOncePod with other access modes"));
    }
}

pub(crate) fn class(spec: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    if let Some(name) = spec[field].as_str().filter(|n| !n.is_empty()) {
        rules::name(name, &path.child(field), names::dns1123_subdomain(name), errors);
    }
}
