//! Small groups: priorities (`scheduling.k8s.io`), leases (`coordination.k8s.io`), runtime classes (`node.k8s.io`), migrations
//! of stored versions (`storagemigration.k8s.io`).

use super::{checks, migrations};
use crate::{Context, NameRule, Strategy, amounts, internal, pod, rules, schema, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::HashSet;

/// The highest priority that is not the system's own.
const PRIORITY_MAX: i64 = 1_000_000_000;
/// The classes that the system makes: names and values.
const SYSTEM_CLASSES: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// The strategy of priority classes.
pub(super) struct PriorityClasses;

impl Strategy for PriorityClasses {
    fn keeps(&self, name: &str) -> Option<&'static str> {
        let is_known = SYSTEM_CLASSES.iter().any(|(known, _)| *known == name);
        is_known.then_some("this is a system priority class and cannot be deleted")
    }

    fn default(&self, obj: &mut Value) {
        if let Some(fields) = obj.as_object_mut() {
            tree::fill(fields, "preemptionPolicy", "PreemptLowerPriority");
        }
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        // Only set here; changes do not count.
        tree::set_meta(obj, "generation", 1.into());
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (name, value) = (tree::text(&obj["metadata"], "name"), obj["value"].as_i64().unwrap_or(0));
        if name.starts_with("system-") {
            let problem = match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
                None => Some(format!("{name} is not a known system priority class")),
                Some((_, own)) if *own != value => Some(format!("value of {name} PriorityClass must be {own}")),
                Some(_) if obj["globalDefault"] == true => Some(format!("globalDefault of {name} PriorityClass must be false")),
                Some(_) => None,
            };
            if let Some(problem) = problem {
                let detail = format!("priority class names with 'system-' prefix are reserved for system use only. error: {problem}");
                errors.push(Error::forbidden(&Path::root("metadata").child("name"), detail));
            }
        } else if value > PRIORITY_MAX {
            let detail = format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}");
            errors.push(Error::forbidden(&Path::root("value"), detail));
        }
        if !obj["preemptionPolicy"].is_null() {
            rules::one_of(&obj["preemptionPolicy"], &Path::root("preemptionPolicy"), &["PreemptLowerPriority", "Never"], errors);
        }
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if obj["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
            errors.push(Error::forbidden(&Path::root("value"), "may not be changed in an update."));
        }
        rules::immutable_part("*s", &obj["preemptionPolicy"], &old["preemptionPolicy"], &Path::root("preemptionPolicy"), &mut errors);
        errors
    }
}

/// The strategy of leases. Every node and every component renews one all the time.
pub(super) struct Leases;

impl Strategy for Leases {
    fn any_finalizer(&self) -> bool {
        true
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        drop_coordination(obj, old);
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        drop_coordination(obj, &Value::Null);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = &obj["spec"];
        if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|n| *n <= 0) {
            errors.push(Error::invalid(&Path::root("spec").child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        if let Some(count) = spec["leaseTransitions"].as_i64().filter(|n| *n < 0) {
            errors.push(Error::invalid(&Path::root("spec").child("leaseTransitions"), count, rules::NEGATIVE));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Coordinated elections are off as upstream's are: their fields stay only where they are already.
fn drop_coordination(obj: &mut Value, old: &Value) {
    let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["strategy", "preferredHolder"] {
        if old["spec"][field].is_null() {
            spec.remove(field);
        }
    }
}

/// The strategy of candidates for a lease.
pub(super) struct LeaseCandidates;

impl Strategy for LeaseCandidates {
    fn any_finalizer_later(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let path = Path::root("spec");
        for field in ["leaseName", "binaryVersion", "strategy"] {
            rules::required(&obj["spec"], &path, field, errors);
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        rules::immutable(&obj["spec"]["leaseName"], &old["spec"]["leaseName"], &Path::root("spec").child("leaseName"), errors);
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The strategy of runtime classes.
pub(super) struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    fn any_finalizer(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        // Upstream checks an overhead as the limits of a container, and tells it so.
        let limits = json!({"limits": obj["overhead"]["podFixed"]});
        amounts::container(&limits, &HashSet::new(), &Path::root("overhead"), errors);
        let (scheduling, path) = (&obj["scheduling"], Path::root("scheduling"));
        rules::labels(&scheduling["nodeSelector"], &path.child("nodeSelector"), errors);
        pod::tolerations(scheduling, &path, errors);
        let mut seen = HashSet::new();
        for (at, toleration) in tree::list(scheduling, "tolerations").iter().enumerate() {
            if !seen.insert(["key", "operator", "value", "effect"].map(|field| tree::text(toleration, field))) {
                let shown = internal::text("core.Toleration", toleration);
                errors.push(Error::duplicate(&path.child("tolerations").index(at), toleration.clone()).shown_as(shown));
            }
        }
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let labels = tree::entries(&obj["scheduling"], "nodeSelector");
        labels.filter_map(|(label, _)| Some(format!("scheduling.nodeSelector: {}", pod::old_node_label(label)?))).collect()
    }

    /// Of a new one's handler upstream tells what its type declares, behind all else.
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        schema::check_enums(obj, &mut errors);
        check_handler(obj, |handler| rules::in_bytes(names::dns1123_label(handler)), &mut errors);
        errors
    }

    /// What is declared of a handler that may not change is no more than that.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_handler(obj, names::dns1123_label, &mut errors);
        self.check(obj, &mut errors);
        schema::check_enums(obj, &mut errors);
        checks::fixed(&obj["handler"], &old["handler"], &Path::root("handler"), &mut errors);
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn check_handler(obj: &Value, rule: impl Fn(&str) -> Vec<String>, errors: &mut ErrorList) {
    if rules::required(obj, &Path::empty(), "handler", errors) {
        let handler = tree::text(obj, "handler");
        rules::name(handler, &Path::root("handler"), rule(handler), errors);
    }
}

/// The strategy of migrations of stored versions.
pub(super) struct Migrations;

impl Strategy for Migrations {
    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (target, path) = (&obj["spec"]["resource"], Path::root("spec").child("resource"));
        let (resource, group) = (tree::text(target, "resource"), tree::text(target, "group"));
        if resource.is_empty() {
            errors.push(Error::required(&path.child("resource"), "resource is required to be set"));
        } else {
            checks::joined(resource, &path.child("resource"), &names::dns1035_label(resource), errors);
        }
        if !group.is_empty() {
            checks::joined(group, &path.child("group"), &names::dns1123_subdomain(group), errors);
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        rules::immutable_part("storagemigration.StorageVersionMigrationSpec", &obj["spec"], &old["spec"], &Path::root("spec"), errors);
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        migrations::check_status(&obj["status"], &old["status"])
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The strategy of review kinds: they are asked and answered, never stored, so that nothing is prepared here.
pub(super) struct Reviews;

impl Strategy for Reviews {
    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn prepare_create(&self, _cx: &Context, _obj: &mut Value) {}

    fn validate(&self, _obj: &Value) -> ErrorList {
        ErrorList::new()
    }
}

/// The strategy of kinds that are only stored: the status is the controllers', and all else is as it was written.
pub(super) struct Plain {
    /// Whether changes are counted.
    pub(super) generation: bool,
    /// Whether an update may leave the resourceVersion out.
    pub(super) unconditional: bool,
}

impl Strategy for Plain {
    fn has_generation(&self) -> bool {
        self.generation
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional
    }
}
