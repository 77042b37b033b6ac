//! Namespaces and nodes (`pkg/registry/core/{namespace,node}`).

use crate::{Context, NameRule, Selectable, Strategy, amounts, groups::checks, internal, meta, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quote::Quoted,
};
use serde_json::json;
use std::collections::HashSet;

/// The label that every namespace has, with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer that the namespace's controller takes away when the namespace is empty.
const KUBERNETES: &str = "kubernetes";

/// The strategy of namespaces.
#[derive(Debug, Clone, Copy)]
pub struct Namespaces;

impl Strategy for Namespaces {
    /// A namespace's own finalizers live in its spec; its controller empties them when it has emptied the namespace.
    fn lingers(&self, obj: &Value) -> bool {
        !tree::list(&obj["spec"], "finalizers").is_empty()
    }

    /// The standard that it asks for is held against the pods that are there.
    fn judges_at_length(&self) -> bool {
        true
    }

    fn begin_end(&self, obj: &mut Value) {
        obj["status"]["phase"] = "Terminating".into();
    }

    /// The endpoint of their own is `finalize`, which writes all but the status.
    fn prepare_part(&self, _cx: &Context, _part: &str, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "status" => &[&["spec"]],
            _ => &[&["status"]],
        }
    }

    fn validate_part(&self, _part: &str, obj: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (at, finalizer) in tree::list(&obj["spec"], "finalizers").iter().enumerate() {
            let path = Path::root("spec.finalizers").index(at);
            meta::finalizer(finalizer, &path, &path, &mut errors);
        }
        errors
    }

    fn default(&self, obj: &mut Value) {
        label(obj);
        if let Some(status) = tree::at(obj, &["status"]) {
            tree::fill_text(status, "phase", "Active");
        }
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        label(obj);
        if let Some(fields) = obj.as_object_mut() {
            fields.insert("status".into(), json!({"phase": "Active"}));
        }
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        match spec.get_mut("finalizers").and_then(Value::as_array_mut) {
            Some(list) if list.iter().any(|f| f == KUBERNETES) => {}
            Some(list) => list.push(KUBERNETES.into()),
            None => {
                spec.insert("finalizers".into(), json!([KUBERNETES]));
            }
        }
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        if let Some(spec) = tree::at(obj, &["spec"]) {
            match old["spec"].get("finalizers") {
                Some(list) => spec.insert("finalizers".into(), list.clone()),
                None => spec.remove("finalizers"),
            };
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        for finalizer in tree::list(&obj["spec"], "finalizers") {
            let path = Path::root("spec.finalizers");
            meta::finalizer(finalizer, &path, &path, errors);
        }
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let phase = tree::text(&obj["status"], "phase");
        let (expected, detail) = if obj["metadata"]["deletionTimestamp"].is_null() {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        } else {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        };
        if phase == expected { ErrorList::new() } else { vec![rules::typed(Error::invalid(&Path::root("status.Phase"), phase, detail))] }
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        vec![("status.phase".into(), tree::text(&obj["status"], "phase").to_owned())]
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }
}

fn label(obj: &mut Value) {
    let name = tree::text(&obj["metadata"], "name").to_owned();
    if name.is_empty() || obj["metadata"]["labels"][NAME_LABEL] == name.as_str() {
        return;
    }
    if let Some(labels) = tree::at(obj, &["metadata", "labels"]) {
        labels.insert(NAME_LABEL.into(), name.into());
    }
}

const POD_RANGE_FIXED: &str = "node updates may not change podCIDR except from \"\" to valid";

/// The strategy of nodes.
#[derive(Debug, Clone, Copy)]
pub struct Nodes;

impl Strategy for Nodes {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            // The single range and the list of ranges say the same.
            let single = spec.get("podCIDR").and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
            let first = spec.get("podCIDRs").and_then(|l| l[0].as_str()).map(str::to_owned);
            match (single, first) {
                (Some(single), first) if first.as_deref() != Some(single.as_str()) => {
                    spec.insert("podCIDRs".into(), json!([single]));
                }
                (None, Some(first)) => {
                    spec.insert("podCIDR".into(), first.into());
                }
                _ => {}
            }
        }
        let capacity = obj["status"]["capacity"].clone();
        if capacity.is_object()
            && let Some(status) = tree::at(obj, &["status"])
        {
            tree::fill(status, "allocatable", capacity);
        }
    }

    /// A new node may bring its status along: kubelets register themselves so.
    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        for (part, key) in [("spec", "configSource"), ("status", "config")] {
            if let Some(fields) = obj.as_object_mut().and_then(|o| tree::present(o, part)) {
                fields.remove(key);
            }
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        annotated(obj, errors);
        // Upstream's path.
        taints(tree::list(&obj["spec"], "taints"), &Path::root("metadata.taints"), errors);
        amounts_of(obj, errors);
        // Upstream's path, here too.
        if let Some(capacity) = obj["status"]["nodeInfo"]["swap"]["capacity"].as_i64().filter(|capacity| *capacity <= 0) {
            let swap = Path::root("metadata").child("nodeSwapStatus").child("capacity");
            errors.push(Error::invalid(&swap, capacity, "must be greater than zero"));
        }
        features(obj, errors);
        let ranges = tree::list(&obj["spec"], "podCIDRs");
        let path = Path::root("spec.podCIDRs");
        for (at, range) in ranges.iter().map(|r| r.as_str().unwrap_or_default()).enumerate() {
            checks::cidr(range, &path.index(at), errors);
        }
        let texts: Vec<&str> = ranges.iter().map(|r| r.as_str().unwrap_or_default()).collect();
        let unread = texts.iter().position(|range| checks::lenient_cidr(range).is_none()).filter(|_| ranges.len() > 1);
        if let Some(at) = unread {
            let why = format!("invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{at}]: <nil> (invalid CIDR address: {})", texts[at]);
            errors.push(Error::internal(&path, why));
        }
        let sixes = texts.iter().filter(|range| checks::family_of(range) == Some(true)).count();
        if unread.is_some() || ranges.len() > 2 || (ranges.len() == 2 && sixes != 1) {
            errors.push(Error::invalid(&path, obj["spec"]["podCIDRs"].clone(), "may specify no more than one CIDR for each IP family"));
        }
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(obj);
        changed(obj, old, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        annotated(obj, &mut errors);
        amounts_of(obj, &mut errors);
        features(obj, &mut errors);
        changed(obj, old, &mut errors);
        errors
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        vec![("spec.unschedulable".into(), (obj["spec"]["unschedulable"] == true).to_string())]
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if !obj["spec"]["configSource"].is_null() {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if !tree::empty(&obj["spec"]["externalID"]) {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        out
    }
}

const TAINTS: &str = "scheduler.alpha.kubernetes.io/taints";
const AVOIDED: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";

/// What a node of old said in annotations is JSON still, and right.
fn annotated(obj: &Value, errors: &mut ErrorList) {
    let (path, text) = (Path::root("metadata").child("annotations"), |name: &str| tree::text(&obj["metadata"]["annotations"], name));
    match rules::told(text(TAINTS), "[]core.Taint", Value::is_array) {
        Err(why) => errors.push(Error::invalid(&path, TAINTS, why)),
        Ok(all) => taints(all.as_array().map(Vec::as_slice).unwrap_or_default(), &path.child(TAINTS), errors),
    }
    match rules::told(text(AVOIDED), "v1.AvoidPods", Value::is_object) {
        Err(why) => errors.push(Error::invalid(&path.child("AvoidPods"), AVOIDED, why)),
        Ok(avoided) => {
            for (at, entry) in tree::list(&avoided, "preferAvoidPods").iter().enumerate() {
                let (place, controller) = (path.child(AVOIDED).index(at).child("PodSignature"), &entry["podSignature"]["podController"]);
                if controller.is_null() {
                    errors.push(Error::required(&place, ""));
                } else if controller["controller"] == false {
                    errors.push(Error::invalid(&place.child("PodController").child("Controller"), false, "must point to a controller"));
                }
            }
        }
    }
}

fn taints(all: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, taint) in all.iter().enumerate() {
        let path = path.index(at);
        let (key, value, effect) = (tree::text(taint, "key"), tree::text(taint, "value"), tree::text(taint, "effect"));
        rules::name(key, &path.child("key"), names::qualified_name(key), errors);
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.push(Error::invalid(&path.child("value"), value, problems.join(";")));
        }
        rules::one_of(&taint["effect"], &path.child("effect"), &["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
        if !seen.insert((key, effect)) {
            let mut error = Error::duplicate(&path, taint.clone()).shown_as(internal::text("core.Taint", taint));
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
    }
}

fn amounts_of(obj: &Value, errors: &mut ErrorList) {
    for list in ["capacity", "allocatable"] {
        for (name, value) in tree::entries(&obj["status"], list) {
            amounts::amount(name, value, &Path::root("status").child(list).child(name), errors);
        }
    }
}

/// What a node says that it can do: each once, in order, with a name like `MyFeature/mySubFeature`.
fn features(obj: &Value, errors: &mut ErrorList) {
    let path = Path::root("status.declaredFeatures");
    let all: Vec<&str> = tree::list(&obj["status"], "declaredFeatures").iter().map(|name| name.as_str().unwrap_or_default()).collect();
    for (at, name) in all.iter().copied().enumerate() {
        if name.len() > names::SUBDOMAIN_MAX_BYTES {
            let detail = format!("invalid feature name {}: must be no more than {} characters", Quoted(name), names::SUBDOMAIN_MAX_BYTES);
            errors.push(Error::invalid(&path.index(at), name, detail));
        } else if !is_feature(name) {
            let detail = format!(
                "invalid feature name {}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                Quoted(name)
            );
            errors.push(Error::invalid(&path.index(at), name, detail));
        }
        match all.get(at + 1) {
            Some(next) if *next == name => errors.push(Error::duplicate(&path.index(at + 1), *next)),
            Some(next) if *next < name => errors.push(Error::invalid(&path.index(at + 1), *next, "list must be sorted alphabetically")),
            _ => {}
        }
    }
}

fn is_feature(name: &str) -> bool {
    let is_part = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(is_part)
}

fn changed(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, address) in tree::list(&obj["status"], "addresses").iter().enumerate() {
        if !seen.insert((tree::text(address, "type"), tree::text(address, "address"))) {
            let shown = internal::text("core.NodeAddress", address);
            errors.push(Error::duplicate(&Path::root("status.addresses").index(at), address.clone()).shown_as(shown));
        }
    }
    let (new, old) = (&obj["spec"], &old["spec"]);
    let (ranges, had) = (tree::list(new, "podCIDRs"), tree::list(old, "podCIDRs"));
    // Unlike the original: a cluster of one family may become one of both, and its nodes with it.
    let family = |range: &Value| range.as_str().and_then(checks::family_of);
    let gains_a_family = match (had, ranges) {
        ([had], [first, second]) => first == had && family(second).is_some_and(|is_six| family(first) == Some(!is_six)),
        _ => false,
    };
    // Upstream tells it of each that is another, and of another number once.
    let others = match had.len() == ranges.len() {
        true => ranges.iter().zip(had).filter(|(new, had)| new != had).count(),
        false => usize::from(!had.is_empty() && !gains_a_family),
    };
    errors.extend((0..others).map(|_| Error::forbidden(&Path::root("spec.podCIDRs"), POD_RANGE_FIXED)));
    let (id, had) = (tree::text(new, "providerID"), tree::text(old, "providerID"));
    if !had.is_empty() && id != had {
        let detail = if id.is_empty() { "field cannot be cleared once set" } else { "field cannot be modified once set" };
        errors.push(Error::invalid(&Path::root("spec.providerID"), Value::Null, detail));
    }
    if tree::text(new, "externalID") != tree::text(old, "externalID") {
        errors.push(Error::forbidden(&Path::root("spec.externalID"), "may not be updated"));
    }
}
