//! Checks of `metadata` that are the same for every kind (`apimachinery/pkg/api/validation`).

use crate::{NameRule, internal::NO_TIME, rules, strategy::Strategy, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    gvk::Gvk,
    json, names,
    quote::Quoted,
    schema,
    status::ERRORS_MAX,
};
use std::collections::BTreeSet;

/// Most bytes in all annotations of an object together.
pub(crate) const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
/// Controllers beside the first that are told of: each of the errors shows all owners.
const CONTROLLERS_TOLD_MAX: usize = 8;
/// Finalizers that need no domain.
pub(crate) const STANDARD_FINALIZERS: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];

/// What is wrong with a new object's metadata. An absent name is left to the caller, who knows the request's.
pub fn validate_meta(obj: &Value, namespaced: bool, strategy: &dyn Strategy) -> ErrorList {
    let mut errors = ErrorList::new();
    let (metadata, path) = (&obj["metadata"], Path::root("metadata"));
    let name = tree::text(metadata, "name");
    if !UNPREFIXED.contains(&tree::text(obj, "kind")) {
        prefix(obj, strategy, &mut errors);
    }
    if !name.is_empty() {
        errors.extend(named(obj, strategy, name, false).into_iter().map(|m| Error::invalid(&path.child("name"), name, m)));
    }
    let namespace = tree::text(metadata, "namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(Error::required(&path.child("namespace"), ""));
        } else {
            errors.extend(names::dns1123_label(namespace).into_iter().map(|m| Error::invalid(&path.child("namespace"), namespace, m)));
        }
    } else if !namespace.is_empty() {
        errors.push(Error::forbidden(&path.child("namespace"), "not allowed on this type"));
    }
    common(metadata, &path, strategy.any_finalizer(), &mut errors);
    errors
}

/// What is wrong with a new object's metadata, for who knows no more than the object.
pub(crate) fn created(obj: &Value, namespaced: bool, strategy: &dyn Strategy) -> ErrorList {
    let mut errors = ErrorList::new();
    if tree::text(&obj["metadata"], "name").is_empty() {
        errors.push(Error::required(&Path::root("metadata").child("name"), "name or generateName is required"));
    }
    errors.extend(validate_meta(obj, namespaced, strategy));
    errors
}

/// What is wrong with the metadata of an object that is changed through a subresource. Where the kind's own strategy looks at it too,
/// nothing is said once.
pub fn validate_meta_update(part: &str, obj: &Value, old: &Value, strategy: &dyn Strategy) -> ErrorList {
    let path = Path::root("metadata");
    let mut errors = ErrorList::new();
    // Of every kind and part alike, before the kind says more of it (`validateCommonFields`).
    let base = tree::text(&obj["metadata"], "generateName");
    rules::name(base, &path.child("generateName"), names::path_segment_prefix(base), &mut errors);
    let any_finalizer = strategy.any_finalizer() || strategy.any_finalizer_later();
    if strategy.judges_metadata() {
        common(&obj["metadata"], &path, any_finalizer, &mut errors);
        errors.extend(changed(obj, old));
        return errors;
    }
    common(&obj["metadata"], &path, true, &mut errors);
    immutable(obj, old, &mut errors);
    let kind = tree::text(obj, "kind");
    let is_named = part != "status" || NAMED_BY_STATUS.contains(&kind);
    if is_named && NAMED_AGAIN.contains(&kind) {
        prefix(obj, strategy, &mut errors);
    }
    if !any_finalizer {
        unqualified(&obj["metadata"], &path, &mut errors);
    }
    if is_named && CHANGED_FIRST.contains(&kind) {
        prefix(obj, strategy, &mut errors);
    }
    errors
}

/// What upstream's aggregator says of the metadata of a change besides what is said of every kind: all of it again, as of a new object.
pub(crate) fn changed_and_created(obj: &Value, old: &Value, strategy: &dyn Strategy) -> ErrorList {
    let mut errors = ErrorList::new();
    marks(&obj["metadata"], &Path::root("metadata"), &mut errors);
    errors.extend(changed(obj, old));
    errors.extend(validate_meta(obj, false, strategy));
    errors
}

/// Kinds of which upstream looks at the name alone, whatever it is made from (`ValidateObjectMetaWithOpts`), by what is declared.
const UNPREFIXED: [&str; 2] = ["DeviceClass", "ReplicationController"];

/// Kinds whose updates are checked with their names in upstream: a `generateName` that nobody uses any more among them. Where the kind's
/// own rules of what may change come before that, its strategy does so.
const NAMED_AGAIN: [&str; 28] = [
    "CSINode",
    "CSIStorageCapacity",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "EndpointSlice",
    "FlowSchema",
    "IPAddress",
    "LimitRange",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityLevelConfiguration",
    "ResourceClaim",
    "ResourceClaimTemplate",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "StorageClass",
    "StorageVersionMigration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeAttachment",
];

/// The same where upstream looks at the change first, finalizers without a domain included.
const CHANGED_FIRST: [&str; 6] = ["ControllerRevision", "Endpoints", "Ingress", "PersistentVolumeClaim", "Pod", "ServiceAccount"];

/// Those of them that a change of the status is looked at for, too.
const NAMED_BY_STATUS: [&str; 3] = ["CertificateSigningRequest", "ValidatingAdmissionPolicy", "VolumeAttachment"];

/// What is wrong with what a name was to be made from.
pub(crate) fn prefix(obj: &Value, strategy: &dyn Strategy, errors: &mut ErrorList) {
    let prefix = tree::text(&obj["metadata"], "generateName");
    if !prefix.is_empty() {
        let path = Path::root("metadata").child("generateName");
        errors.extend(named(obj, strategy, prefix, true).into_iter().map(|m| Error::invalid(&path, prefix, m)));
    }
}

/// What is wrong with a name, or with the prefix of one.
fn named(obj: &Value, strategy: &dyn Strategy, name: &str, prefix: bool) -> Vec<String> {
    match strategy.name_rule() {
        NameRule::Own => strategy.own_name(obj, name, prefix),
        rule if UNPREFIXED.contains(&tree::text(obj, "kind")) => rules::in_bytes(rule.check(name, prefix)),
        rule => rule.check(name, prefix),
    }
}

/// What upstream's `ValidateObjectMetaUpdate` says.
pub(crate) fn changed(obj: &Value, old: &Value) -> ErrorList {
    let (metadata, path) = (&obj["metadata"], Path::root("metadata"));
    let mut errors = ErrorList::new();
    immutable(obj, old, &mut errors);
    marks(metadata, &path, &mut errors);
    errors
}

fn marks(metadata: &Value, path: &Path, errors: &mut ErrorList) {
    rules::labels(&metadata["labels"], &path.child("labels"), errors);
    annotations(&metadata["annotations"], &path.child("annotations"), errors);
    owners(metadata, path, errors);
}

fn immutable(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, old, path) = (&obj["metadata"], &old["metadata"], Path::root("metadata"));
    if !old["deletionTimestamp"].is_null() {
        let [wanted, had] = [new, old].map(|metadata| tree::list(metadata, "finalizers").iter().filter_map(Value::as_str).collect::<BTreeSet<_>>());
        let added: Vec<String> = wanted.difference(&had).map(|f| Quoted(f).to_string()).collect();
        if !added.is_empty() {
            let detail = format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", added.join(", "));
            errors.push(Error::forbidden(&path.child("finalizers"), detail));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new[field] != old[field] {
            let shown = if new[field] == NO_TIME { Value::Null } else { new[field].clone() };
            errors.push(Error::invalid(&path.child(field), shown, rules::IMMUTABLE));
        }
    }
}

fn common(metadata: &Value, path: &Path, any_finalizer: bool, errors: &mut ErrorList) {
    if let Some(generation) = metadata["generation"].as_i64().filter(|generation| *generation < 0) {
        errors.push(Error::invalid(&path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    marks(metadata, path, errors);
    let place = path.child("finalizers");
    let finalizers = tree::list(metadata, "finalizers");
    for text in finalizers.iter().map(|name| name.as_str().unwrap_or_default()) {
        errors.extend(names::qualified_name(text).into_iter().map(|m| Error::invalid(&place, text, m)));
    }
    if ["orphan", "foregroundDeletion"].iter().all(|both| finalizers.iter().any(|name| name == both)) {
        errors.push(Error::invalid(&place, finalizers.to_vec(), "finalizer orphan and foregroundDeletion cannot be both set"));
    }
    for (at, owner) in tree::list(metadata, "managedFields").iter().enumerate() {
        // Each character of each name may be wrong, of some ten thousand owners: nobody is told of more.
        if errors.len() >= ERRORS_MAX {
            break;
        }
        let place = path.child("managedFields").index(at);
        errors.extend(machinery::apply::manager_errors(tree::text(owner, "manager"), &place.child("manager")));
        if tree::text(owner, "subresource").len() > SUBRESOURCE_BYTES_MAX {
            errors.push(Error::too_long(&place.child("subresource"), SUBRESOURCE_BYTES_MAX));
        }
    }
    if !any_finalizer {
        unqualified(metadata, path, errors);
    }
}

/// Bytes of the name of an endpoint through which an owner wrote (`MaxSubresourceNameLength`).
const SUBRESOURCE_BYTES_MAX: usize = 256;

/// Finalizers without a domain, which only the original's core refuses: it does so when all else has been looked at.
pub(crate) fn unqualified(metadata: &Value, path: &Path, errors: &mut ErrorList) {
    let place = path.child("finalizers");
    for (at, text) in tree::list(metadata, "finalizers").iter().map(|name| name.as_str().unwrap_or_default()).enumerate() {
        if is_unqualified(text) {
            errors.push(Error::invalid(&place.index(at), text, UNQUALIFIED));
        }
    }
}

const UNQUALIFIED: &str = "name is neither a standard finalizer name nor is it fully qualified";

fn is_unqualified(finalizer: &str) -> bool {
    !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer)
}

/// Checks the name of a finalizer: qualified, or one of the three of old, which is told at a place of its own.
pub(crate) fn finalizer(name: &Value, path: &Path, place: &Path, errors: &mut ErrorList) {
    let text = name.as_str().unwrap_or_default();
    errors.extend(names::qualified_name(text).into_iter().map(|m| Error::invalid(path, text, m)));
    if is_unqualified(text) {
        errors.push(Error::invalid(place, text, UNQUALIFIED));
    }
}

/// Checks the metadata of a template (`ValidateTemplateObjectMeta`): what is made by it has labels and annotations of it, and nothing else.
pub(crate) fn template(metadata: &Value, path: &Path, errors: &mut ErrorList) {
    const NOT_ITS_OWN: [&str; 13] = [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uID",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    annotations(&metadata["annotations"], &path.child("annotations"), errors);
    rules::labels(&metadata["labels"], &path.child("labels"), errors);
    // A list that is there counts, though it be empty, and so does a number that need not be there.
    let is_set = |field: &str| match &metadata[if field == "uID" { "uid" } else { field }] {
        Value::Array(_) => true,
        value => !tree::empty(value) && (*value != 0 || field == "deletionGracePeriodSeconds"),
    };
    let set = NOT_ITS_OWN.iter().filter(|field| is_set(field));
    errors.extend(set.map(|field| Error::forbidden(&path.child(field), "cannot be set")));
}

/// Checks annotations.
pub fn annotations(annotations: &Value, path: &Path, errors: &mut ErrorList) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        // Case does not matter in the keys of annotations.
        let problems = names::qualified_name(&names::lower(key));
        errors.extend(problems.into_iter().map(|m| Error::invalid(path, key.as_str(), m)));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
}

fn owners(metadata: &Value, path: &Path, errors: &mut ErrorList) {
    let path = path.child("ownerReferences");
    let (mut controller, mut others): (Option<&Value>, usize) = (None, 0);
    for (at, owner) in tree::list(metadata, "ownerReferences").iter().enumerate() {
        let (place, version) = (path.index(at), tree::text(owner, "apiVersion"));
        if version.matches('/').count() > 1 || version.ends_with('/') {
            errors.push(Error::invalid(&place.child("apiVersion"), version, "must be <group>/<version> or <version>"));
        }
        for field in ["apiVersion", "kind", "name", "uid"] {
            if tree::empty(&owner[field]) {
                errors.push(Error::required(&place.child(field), "must not be empty"));
            }
        }
        // Events come and go by the thousand: what they owned would go with them.
        if version == "v1" && tree::text(owner, "kind") == "Event" {
            errors.push(Error::invalid(&place, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner["controller"] == true {
            let Some(first) = controller else {
                controller = Some(owner);
                continue;
            };
            others += 1;
            if others > CONTROLLERS_TOLD_MAX {
                continue;
            }
            let detail =
                format!("Only one reference can have Controller set to true. Found \"true\" in references for {} and {}", describe(first), describe(owner));
            errors.push(Error::invalid(&path, metadata["ownerReferences"].clone(), detail).shown_as(written(&metadata["ownerReferences"])));
        }
    }
}

/// Owners with their fields in the order of their type.
fn written(owners: &Value) -> String {
    let ty = schema::builtin().kind(&Gvk::new("", "v1", "Pod")).and_then(|pod| pod.child("metadata")?.child("ownerReferences"));
    String::from_utf8(json::encode_as(ty, owners)).unwrap_or_default()
}

fn describe(owner: &Value) -> String {
    format!("{}/{}", tree::text(owner, "kind"), tree::text(owner, "name"))
}
