//! Persistent volumes (`pkg/apis/core/validation`, `pkg/registry/core/persistentvolume`).

use crate::{
    Context, Strategy, amounts,
    claim::{VOLUME_MODES, access_modes, class, class_warning, default_phase},
    internal, pod, rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quantity::Quantity,
    time,
};
use serde_json::json;

/// What of a volume's spec is not its source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// The secrets of a CSI volume that are looked at: not `nodeStageSecretRef`, which upstream leaves alone.
const SECRETS: [&str; 4] = ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];

/// The strategy of persistent volumes.
#[derive(Debug, Clone, Copy)]
pub struct Volumes;

impl Strategy for Volumes {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            tree::fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            tree::fill(spec, "volumeMode", "Filesystem");
            pod::default_volume_source(spec);
        }
        default_phase(obj);
    }

    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        if let Some(fields) = obj.as_object_mut() {
            let status = json!({"phase": "Pending", "lastPhaseTransitionTime": time::rfc3339(cx.now)});
            fields.insert("status".into(), status);
        }
    }

    fn prepare_status(&self, cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        let (new, had) = (&obj["status"], &old["status"]);
        let stamped = new["lastPhaseTransitionTime"] != had["lastPhaseTransitionTime"] && !new["lastPhaseTransitionTime"].is_null();
        let moved = new["phase"] != had["phase"];
        let kept = had["lastPhaseTransitionTime"].clone();
        let Some(status) = tree::at(obj, &["status"]) else { return };
        if moved && !stamped {
            status.insert("lastPhaseTransitionTime".into(), time::rfc3339(cx.now).into());
        } else if !moved && !kept.is_null() {
            tree::fill(status, "lastPhaseTransitionTime", kept);
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_volume(&obj["spec"], Some(tree::text(&obj["metadata"], "name")), &Path::root("spec"), errors);
        check_mount_options(obj, errors);
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let (new, had) = (&obj["spec"], &old["spec"]);
        let mut next = sources(new);
        if had["csi"].is_object()
            && had["csi"]["controllerExpandSecretRef"].is_null()
            && let Some(csi) = next.get_mut("csi").and_then(Value::as_object_mut)
        {
            csi.remove("controllerExpandSecretRef");
        }
        let before = sources(had);
        const FORM: &str = "core.PersistentVolumeSource";
        let (next, before) = (Value::Object(next), Value::Object(before));
        if !internal::same(FORM, &next, &before) {
            let detail = format!("spec.persistentvolumesource is immutable after creation\n{}", internal::difference(FORM, &before, &next));
            errors.push(Error::forbidden(&Path::root("spec.persistentvolumesource"), detail));
        }
        rules::immutable(&new["volumeMode"], &had["volumeMode"], &Path::root("volumeMode"), errors);
        const AFFINITY: &str = "*core.VolumeNodeAffinity";
        if had["nodeAffinity"].is_object() && !internal::same(AFFINITY, &new["nodeAffinity"], &relabelled(&had["nodeAffinity"], &new["nodeAffinity"])) {
            let detail = "field is immutable, except for updating from beta label to GA";
            let shown = internal::text(AFFINITY, &new["nodeAffinity"]);
            errors.push(Error::invalid(&Path::root("nodeAffinity"), new["nodeAffinity"].clone(), detail).shown_as(shown));
        }
        if !had["volumeAttributesClassName"].is_null() && new["volumeAttributesClassName"].is_null() {
            errors.push(Error::forbidden(&Path::root("spec.volumeAttributesClassName"), "update from non-nil value to nil is forbidden"));
        }
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let (mut out, spec) = (class_warning(obj), &obj["spec"]);
        if !obj["metadata"]["annotations"][MOUNT_OPTIONS].is_null() {
            out.push(format!("metadata.annotations[{MOUNT_OPTIONS}]: deprecated since v1.31; use \"mountOptions\" attribute instead"));
        }
        if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
            out.push(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."
                    .to_owned(),
            );
        }
        let place = Path::root("spec.nodeAffinity.required.nodeSelectorTerms");
        for (at, term) in tree::list(&spec["nodeAffinity"]["required"], "nodeSelectorTerms").iter().enumerate() {
            pod::node_term_warnings(term, &place.index(at), false, &mut out);
        }
        for (source, shown, since) in DEAD_SOURCES {
            if !spec[source].is_null() {
                out.push(format!("spec.{shown}: deprecated in {since}"));
            }
        }
        out
    }
}

/// Labels of nodes as they were called once, and as they are called now.
const RENAMED: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
];

/// An affinity of old with the keys of a new one where these are what the labels are called now. Where a label has no other name, its
/// key may also be gone: upstream looks that up, and finds the empty text. Such a key is refused for itself.
fn relabelled(old: &Value, new: &Value) -> Value {
    let mut relabelled = old.clone();
    let required = relabelled.as_object_mut().and_then(|affinity| tree::present(affinity, "required"));
    let terms = required.into_iter().flat_map(|required| tree::each(required, "nodeSelectorTerms"));
    for (term, next) in terms.zip(tree::list(&new["required"], "nodeSelectorTerms")) {
        for list in ["matchExpressions", "matchFields"] {
            for (requirement, next) in tree::each(term, list).zip(tree::list(next, list)) {
                let key = requirement.get("key").and_then(Value::as_str).unwrap_or_default();
                let named_now = RENAMED.iter().find(|(once, _)| *once == key).map_or("", |(_, now)| *now);
                if named_now == tree::text(next, "key") {
                    requirement.insert("key".into(), named_now.into());
                }
            }
        }
    }
    relabelled
}

const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// The sources whose mounts take the options of the annotation of old (`pkg/volume/validation`).
const WITH_MOUNT_OPTIONS: [&str; 13] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "gcePersistentDisk",
    "glusterfs",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "quobyte",
    "rbd",
    "vsphereVolume",
];

/// Options in the annotation of old are for few sources.
fn check_mount_options(obj: &Value, errors: &mut ErrorList) {
    let takes = WITH_MOUNT_OPTIONS.iter().any(|source| obj["spec"][*source].is_object());
    if !takes && !obj["metadata"]["annotations"][MOUNT_OPTIONS].is_null() {
        let path = Path::root("metadata").child("annotations").child(MOUNT_OPTIONS);
        errors.push(Error::forbidden(&path, "may not specify mount options for this volume type"));
    }
}

/// Sources that nobody mounts any more, as they are called, as they are told, and since when.
const DEAD_SOURCES: [(&str, &str, &str); 6] = [
    ("cephfs", "cephfs", "v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "v1.28, non-functional in v1.31+"),
];

fn sources(spec: &Value) -> Fields {
    let own = |key: &str, value: &Value| !value.is_null() && !NOT_SOURCES.contains(&key);
    spec.as_object().into_iter().flatten().filter(|(k, v)| own(k, v)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

const INLINE: &str = "may not be specified in the context of inline volumes";

/// Checks what a volume is. One without a name stands in an attachment, for a pod's own volume of a driver that has moved out of tree.
pub(crate) fn check_volume(spec: &Value, name: Option<&str>, path: &Path, errors: &mut ErrorList) {
    let inline = name.is_none();
    if inline {
        for field in ["claimRef", "capacity"].into_iter().filter(|field| !tree::empty(&spec[*field])) {
            errors.push(Error::forbidden(&path.child(field), INLINE));
        }
        if spec["csi"].is_null() {
            errors.push(Error::required(&path.child("csi"), "has to be specified in the context of inline volumes"));
        }
    }
    if tree::empty(&spec["accessModes"]) {
        errors.push(Error::required(&path.child("accessModes"), ""));
    }
    access_modes(spec, path, errors);
    let (policy, place) = (&spec["persistentVolumeReclaimPolicy"], path.child("persistentVolumeReclaimPolicy"));
    if inline {
        if !tree::empty(policy) && policy != "Retain" {
            errors.push(Error::forbidden(&place, "may only be Retain in the context of inline volumes"));
        }
        if spec["nodeAffinity"].is_object() {
            errors.push(Error::forbidden(&path.child("nodeAffinity"), INLINE));
        }
    } else {
        check_capacity(spec, &path.child("capacity"), errors);
        rules::supported(policy, &place, &["Delete", "Recycle", "Retain"], errors);
        if spec["nodeAffinity"].is_object() {
            let (required, place) = (&spec["nodeAffinity"]["required"], path.child("nodeAffinity").child("required"));
            if required.is_object() {
                pod::node_selector(required, &place, errors);
            } else {
                errors.push(Error::required(&place, "must specify required node constraints"));
            }
        }
    }
    check_source(spec, name.unwrap_or_default(), path, errors);
    if inline {
        if !tree::text(spec, "storageClassName").is_empty() {
            errors.push(Error::forbidden(&path.child("storageClassName"), INLINE));
        }
        if spec["volumeMode"].as_str().is_some_and(|mode| mode != "Filesystem") {
            errors.push(Error::forbidden(&path.child("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes"));
        }
        return;
    }
    class(spec, "storageClassName", path, errors);
    rules::supported(&spec["volumeMode"], &path.child("volumeMode"), &VOLUME_MODES, errors);
    if let Some(name) = spec["volumeAttributesClassName"].as_str() {
        if name.is_empty() {
            errors.push(Error::required(&path.child("volumeAttributesClassName"), "an empty string is disallowed"));
        } else {
            class(spec, "volumeAttributesClassName", path, errors);
        }
        if spec["csi"].is_null() {
            errors.push(Error::required(&path.child("csi"), "has to be specified when using volumeAttributesClassName"));
        }
    }
}

fn check_capacity(spec: &Value, place: &Path, errors: &mut ErrorList) {
    let capacity = &spec["capacity"];
    if tree::empty(capacity) {
        errors.push(Error::required(place, ""));
    }
    if capacity["storage"].is_null() || capacity.as_object().is_some_and(|c| c.len() > 1) {
        errors.push(Error::not_supported(place, capacity.clone(), &["storage"]));
    }
    for (name, value) in tree::entries(spec, "capacity") {
        positive(value, &place.key(name), errors);
    }
}

fn positive(value: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(quantity) = rules::quantity(value) else { return };
    let held = amounts::held(value).unwrap_or_else(|| quantity.value());
    if held < 0 {
        errors.push(Error::invalid(path, held, "must be a valid resource quantity"));
    }
    if quantity <= Quantity::ZERO {
        errors.push(Error::invalid(path, quantity.to_string(), "must be greater than zero"));
    }
}

/// The sources of volumes as upstream goes through them.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn secret(of: &Value, path: &Path, errors: &mut ErrorList) {
    if rules::required(of, path, "name", errors) {
        let name = tree::text(of, "name");
        rules::name(name, &path.child("name"), names::dns1123_subdomain(name), errors);
    }
    if rules::required(of, path, "namespace", errors) {
        let namespace = tree::text(of, "namespace");
        rules::name(namespace, &path.child("namespace"), names::dns1123_label(namespace), errors);
    }
}

fn check_source(spec: &Value, name: &str, path: &Path, errors: &mut ErrorList) {
    // In the order in which upstream looks: what comes after the first is one too many.
    let mut found: Vec<(String, Value)> = sources(spec).into_iter().collect();
    found.sort_by_key(|(key, _)| SOURCES.iter().position(|known| *known == key.as_str()));
    if found.is_empty() {
        errors.push(Error::required(path, "must specify a volume type"));
    }
    for (at, (key, source)) in found.iter().enumerate() {
        let place = path.child(key);
        // A flexVolume is never one too many there.
        if at > 0 && key != "flexVolume" {
            // Upstream's own spelling.
            let place = if key == "cephfs" { path.child("cephFS") } else { place };
            errors.push(Error::forbidden(&place, "may not specify more than 1 volume type"));
            continue;
        }
        match key.as_str() {
            "hostPath" => pod::host_path(source, &place, errors),
            "nfs" => pod::nfs(source, &place, errors),
            "local" => {
                if rules::required(source, &place, "path", errors) {
                    pod::no_backsteps(tree::text(source, "path"), &place.child("path"), errors);
                }
                if spec["nodeAffinity"].is_null() {
                    errors.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
                }
            }
            "csi" => {
                rules::driver_name(tree::text(source, "driver"), &place.child("driver"), errors);
                rules::required(source, &place, "volumeHandle", errors);
                for field in SECRETS.iter().filter(|field| !source[**field].is_null()) {
                    secret(&source[*field], &place.child(field), errors);
                }
            }
            other => {
                // Upstream's own spelling.
                let place = if other == "gcePersistentDisk" { path.child("persistentDisk") } else { place };
                pod::remote::check(other, source, pod::remote::Of::Cluster(name), &place, errors);
            }
        }
    }
    let root = tree::text(&spec["hostPath"], "path");
    let is_root = !root.is_empty() && root.split('/').all(|part| matches!(part, "" | "."));
    if is_root && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(&path.child("persistentVolumeReclaimPolicy"), detail));
    }
}
