//! `storage.k8s.io`: classes, drivers and what they tell of nodes, attachments and capacities.

use super::{checks, device_claims};
use crate::{Context, Strategy, meta, pod::old_node_label, rules, tree, volume};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::{HashMap, HashSet};

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
const NODE_ID_MAX_BYTES: usize = 256;
const TOKEN_MIN_S: i64 = 600;
const TOKEN_MAX_S: i64 = 1 << 32;
const ATTACHED_BYTES_MAX: usize = 256 * 1024;
const VOLUME_ERROR_BYTES_MAX: usize = 1024;

/// The annotations, of now and of old, of a class that claims without one get.
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The strategy of storage classes.
pub(super) struct StorageClasses;

impl Strategy for StorageClasses {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn may_be_default(&self) -> Option<fn(&Value) -> bool> {
        Some(|class| DEFAULT_CLASS.iter().any(|key| class["metadata"]["annotations"][*key] == "true"))
    }

    fn default(&self, obj: &mut Value) {
        let Some(fields) = obj.as_object_mut() else { return };
        tree::fill(fields, "reclaimPolicy", "Delete");
        tree::fill(fields, "volumeBindingMode", "Immediate");
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let named = !tree::empty(&obj["provisioner"]);
        if named {
            check_provisioner(obj, "provisioner", errors);
        }
        check_parameters(&obj["parameters"], true, errors);
        if let Some(policy) = obj["reclaimPolicy"].as_str().filter(|p| !matches!(*p, "" | "Delete" | "Retain")) {
            errors.push(rules::not_supported(&Path::root("reclaimPolicy"), policy, &["Delete", "Retain"]));
        }
        if let Some(mode) = obj["volumeBindingMode"].as_str().filter(|mode| !matches!(*mode, "Immediate" | "WaitForFirstConsumer")) {
            errors.push(rules::not_supported(&Path::root("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]));
        }
        check_topologies(tree::list(obj, "allowedTopologies"), errors);
        // What upstream declares it looks at last, and so it does at what never changes.
        if !named {
            check_provisioner(obj, "provisioner", errors);
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
            checks::fixed(&obj[field], &old[field], &Path::root(field), errors);
        }
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (at, topology) in tree::list(obj, "allowedTopologies").iter().enumerate() {
            let path = Path::root("allowedTopologies").index(at).child("matchLabelExpressions");
            for (nth, expression) in tree::list(topology, "matchLabelExpressions").iter().enumerate() {
                let message = old_node_label(tree::text(expression, "key"));
                out.extend(message.map(|message| format!("{}: {message}", path.index(nth).child("key"))));
            }
        }
        out
    }
}

fn check_provisioner(obj: &Value, field: &str, errors: &mut ErrorList) {
    // In lower case, also where it is shown.
    let name = names::lower(tree::text(obj, field));
    if name.is_empty() {
        errors.push(Error::required(&Path::root(field), ""));
    } else {
        rules::name(&name, &Path::root(field), names::qualified_name(&name), errors);
    }
}

fn check_parameters(parameters: &Value, may_be_empty: bool, errors: &mut ErrorList) {
    let path = Path::root("parameters");
    let entries: Vec<(&String, &Value)> = parameters.as_object().into_iter().flatten().collect();
    if entries.len() > PARAMETERS_MAX {
        errors.push(Error::too_long(&path, PARAMETERS_MAX));
        return;
    }
    if entries.iter().any(|(key, _)| key.is_empty()) {
        errors.push(Error::invalid(&path, "", "field can not be empty."));
    }
    if entries.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum::<usize>() > PARAMETERS_BYTES_MAX {
        errors.push(Error::too_long(&path, PARAMETERS_BYTES_MAX));
    }
    if entries.is_empty() && !may_be_empty {
        errors.push(Error::required(&path, "must contain at least one key/value pair"));
    }
}

fn check_topologies(terms: &[Value], errors: &mut ErrorList) {
    let path = Path::root("allowedTopologies");
    let mut known = HashSet::new();
    for (at, term) in terms.iter().enumerate() {
        let place = path.index(at).child("matchLabelExpressions");
        let expressions = tree::list(term, "matchLabelExpressions");
        let mut keys = HashSet::new();
        for (at, expression) in expressions.iter().enumerate() {
            let (place, key, values) = (place.index(at), tree::text(expression, "key"), tree::list(expression, "values"));
            if values.is_empty() {
                errors.push(Error::required(&place.child("values"), ""));
            }
            let mut seen = HashSet::new();
            for (at, value) in values.iter().enumerate().filter(|(_, value)| !seen.insert(value.as_str())) {
                errors.push(Error::duplicate(&place.child("values").index(at), value.clone()));
            }
            rules::name(key, &place.child("key"), names::qualified_name(key), errors);
            if !keys.insert(key) {
                errors.push(Error::duplicate(&place.child("key"), key));
            }
        }
        // Upstream holds a term without expressions against one that has none yet.
        if expressions.is_empty() || !known.insert(expressions) {
            errors.push(Error::duplicate(&place, ""));
        }
    }
}

/// The strategy of volume attributes classes.
pub(super) struct AttributesClasses;

impl Strategy for AttributesClasses {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_provisioner(obj, "driverName", errors);
        check_parameters(&obj["parameters"], false, errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["driverName", "parameters"] {
            if obj[field] != old[field] {
                errors.push(Error::forbidden(&Path::root(field), format!("updates to {field} are forbidden.")));
            }
        }
        meta::prefix(obj, self, &mut errors);
        self.check(obj, &mut errors);
        errors
    }
}

/// The strategy of CSI drivers.
pub(super) struct Drivers;

impl Strategy for Drivers {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        tree::fill(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount", "preventPodSchedulingIfMissing"] {
            tree::fill(spec, field, false);
        }
        tree::fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").is_none_or(tree::empty) {
            spec.insert("volumeLifecycleModes".into(), vec![Value::from("Persistent")].into());
        }
    }

    /// Only changes are counted: a new driver has no generation.
    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        if tree::body_differs(obj, old) {
            tree::bump_generation(obj, old);
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        for (field, reported) in [("attachRequired", "attachedRequired"), ("podInfoOnMount", "podInfoOnMount"), ("storageCapacity", "storageCapacity")] {
            if spec[field].is_null() {
                errors.push(Error::required(&path.child(reported), ""));
            }
        }
        if let Some(policy) = spec["fsGroupPolicy"].as_str().filter(|p| !matches!(*p, "File" | "None" | "ReadWriteOnceWithFSType")) {
            errors.push(rules::not_supported(&path.child("fsGroupPolicy"), policy, &["File", "None", "ReadWriteOnceWithFSType"]));
        }
        check_tokens(tree::list(spec, "tokenRequests"), &path.child("tokenRequests"), errors);
        for (_, mode) in checks::texts(spec, "volumeLifecycleModes").filter(|(_, m)| !matches!(*m, "Persistent" | "Ephemeral")) {
            errors.push(rules::not_supported(&path.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]));
        }
        if let Some(period) = spec["nodeAllocatableUpdatePeriodSeconds"].as_i64().filter(|p| *p < 10) {
            let place = path.child("nodeAllocatableUpdatePeriodSeconds");
            errors.push(Error::invalid(&place, period, "must be greater than or equal to 10 seconds"));
        }
        let secrets = &spec["serviceAccountTokenInSecrets"];
        if !secrets.is_null() && tree::list(spec, "tokenRequests").is_empty() {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.push(Error::invalid(&path.child("serviceAccountTokenInSecrets"), secrets.clone(), detail));
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let path = Path::root("spec");
        for (field, reported) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
            rules::immutable(&obj["spec"][field], &old["spec"][field], &path.child(reported), errors);
        }
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let (requests, shown) = (tree::list(&obj["spec"], "tokenRequests"), &obj["spec"]["serviceAccountTokenInSecrets"]);
        let same = old.is_some_and(|old| tree::list(&old["spec"], "tokenRequests") == requests);
        if same || requests.is_empty() || !shown.is_null() {
            return Vec::new();
        }
        vec![
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"
                .to_owned(),
        ]
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn check_tokens(requests: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, request) in requests.iter().enumerate() {
        let (place, audience) = (path.index(at), tree::text(request, "audience"));
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&place.child("audience"), audience));
            continue;
        }
        let place = place.child("expirationSeconds");
        match request["expirationSeconds"].as_i64() {
            Some(s) if s < TOKEN_MIN_S => errors.push(Error::invalid(&place, s, "may not specify a duration less than 10 minutes")),
            Some(s) if s > TOKEN_MAX_S => errors.push(Error::invalid(&place, s, "may not specify a duration larger than 2^32 seconds")),
            _ => {}
        }
    }
}

/// The strategy of what CSI drivers tell of a node.
pub(super) struct Nodes;

impl Strategy for Nodes {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (drivers, path) = (tree::list(&obj["spec"], "drivers"), Path::root("spec").child("drivers"));
        let mut seen = HashSet::new();
        for (at, driver) in drivers.iter().enumerate() {
            let (place, name, id) = (path.index(at), tree::text(driver, "name"), tree::text(driver, "nodeID"));
            rules::driver_name(name, &place.child("name"), errors);
            if id.is_empty() {
                errors.push(Error::required(&place.child("nodeID"), ""));
            }
            if id.len() > NODE_ID_MAX_BYTES {
                errors.push(Error::invalid(&place.child("nodeID"), id, format!("must be {NODE_ID_MAX_BYTES} characters or less")));
            }
            rules::not_negative(&driver["allocatable"]["count"], &place.child("allocatable").child("count"), errors);
            if !seen.insert(name) {
                errors.push(Error::duplicate(&place.child("name"), name));
            }
            let mut keys = HashSet::new();
            for (_, key) in checks::texts(driver, "topologyKeys") {
                if key.is_empty() {
                    errors.push(Error::required(&place, ""));
                }
                if !keys.insert(key) {
                    errors.push(Error::duplicate(&place, key));
                }
                rules::name(key, &place, names::qualified_name(key), errors);
            }
        }
    }

    /// A driver that is there stays as it is, but for how many volumes it can take, which is not shown either.
    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let path = Path::root("spec").child("drivers");
        let without_count = |driver: &Value| {
            let mut driver = driver.clone();
            if let Some(fields) = driver.as_object_mut() {
                fields.remove("allocatable");
            }
            driver
        };
        let mut now = HashMap::<_, Vec<Value>>::new();
        for driver in tree::list(&obj["spec"], "drivers") {
            now.entry(tree::text(driver, "name")).or_default().push(without_count(driver));
        }
        for had in tree::list(&old["spec"], "drivers") {
            for driver in now.get(tree::text(had, "name")).into_iter().flatten() {
                rules::immutable_part("storage.CSINodeDriver", driver, &without_count(had), &path, errors);
            }
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The strategy of the capacities that CSI drivers tell of.
pub(super) struct Capacities;

impl Strategy for Capacities {
    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        checks::selector(obj, "nodeTopology", &Path::empty(), errors);
        let class = tree::text(obj, "storageClassName");
        rules::name(class, &Path::root("storageClassName"), names::dns1123_subdomain(class), errors);
        rules::quantity_not_negative(&obj["capacity"], &Path::root("capacity"), errors);
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        for (field, form) in [("nodeTopology", "*metav1.LabelSelector"), ("storageClassName", "s")] {
            rules::immutable_part(form, &obj[field], &old[field], &Path::root(field), errors);
        }
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let (nodes, path) = (&obj["nodeTopology"], Path::root("nodeTopology"));
        let expressions = tree::list(nodes, "matchExpressions").iter().enumerate().filter_map(|(at, expression)| {
            let key = tree::text(expression, "key");
            Some(format!("{}: {key} is {}", path.child("matchExpressions").index(at).child("key"), old_node_label(key)?))
        });
        let labels = tree::entries(nodes, "matchLabels")
            .filter_map(|(label, _)| Some(format!("{}: {}", path.child("matchLabels").child(label), old_node_label(label)?)));
        expressions.chain(labels).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The strategy of volume attachments.
pub(super) struct Attachments;

impl Strategy for Attachments {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    /// Of a new one upstream looks at the name of who attaches it by what is declared of that, last.
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_attachment(&obj["spec"], &mut errors);
        check_attached(&obj["status"], &mut errors);
        device_claims::driver_declared(tree::text(&obj["spec"], "attacher"), &Path::root("spec").child("attacher"), &mut errors);
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        self.check_update(obj, old, &mut errors);
        errors
    }

    /// All of it is looked at again with a status.
    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        self.validate_update(obj, old)
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        rules::driver_name(tree::text(&obj["spec"], "attacher"), &Path::root("spec").child("attacher"), errors);
        check_attachment(&obj["spec"], errors);
        check_attached(&obj["status"], errors);
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        checks::fixed(&obj["spec"], &old["spec"], &Path::root("spec"), errors);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// What whoever attaches tells of it (`validateVolumeAttachmentStatus`).
fn check_attached(status: &Value, errors: &mut ErrorList) {
    let path = Path::root("status");
    let bytes: usize = tree::entries(status, "attachmentMetadata").map(|(name, value)| name.len() + value.as_str().unwrap_or_default().len()).sum();
    if bytes > ATTACHED_BYTES_MAX {
        errors.push(Error::too_long(&path.child("attachmentMetadata"), ATTACHED_BYTES_MAX));
    }
    for field in ["attachError", "detachError"] {
        let (error, place) = (&status[field], path.child(field));
        if tree::text(error, "message").len() > VOLUME_ERROR_BYTES_MAX {
            errors.push(Error::too_long(&place.child("message"), VOLUME_ERROR_BYTES_MAX));
        }
        if let Some(code) = error["errorCode"].as_i64().filter(|code| *code < 0) {
            errors.push(Error::invalid(&place.child("errorCode"), code, "must be between 0 and 2147483647, inclusive"));
        }
    }
}

fn check_attachment(spec: &Value, errors: &mut ErrorList) {
    let path = Path::root("spec");
    let (source, place) = (&spec["source"], path.child("source"));
    let (inline, named) = (&source["inlineVolumeSpec"], &source["persistentVolumeName"]);
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_null(), named.is_null()) {
        (true, true) => errors.push(Error::required(&place, one)),
        (false, false) => errors.push(Error::forbidden(&place, one)),
        (true, false) if named == "" => errors.push(Error::required(&place.child("persistentVolumeName"), "must specify non empty persistentVolumeName")),
        (true, false) => {}
        (false, true) => volume::check_volume(inline, None, &place.child("inlineVolumeSpec"), errors),
    }
    let node = tree::text(spec, "nodeName");
    rules::name(node, &path.child("nodeName"), names::dns1123_subdomain(node), errors);
    if let Some(name) = named.as_str() {
        rules::name(name, &place.child("persistentVolumeName"), names::dns1123_subdomain(name), errors);
    }
}
