//! Pods.
//!
//! Source: `pkg/registry/core/pod/strategy.go`, `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation`. The pod spec's
//! defaults and checks are also those of every template (`spec.template`), see [`crate::template`].

mod annotations;
mod containers;
pub(crate) mod defaults;
mod env;
mod handlers;
mod image;
mod mounts;
mod observed;
mod os;
mod overlaps;
mod parts;
mod placement;
mod qos;
mod references;
pub(crate) mod remote;
mod security;
mod sources;
mod spec;
mod status;
#[cfg(test)]
mod tests;
mod update;
mod volumes;
mod warnings;
mod windows;

pub(crate) use annotations::{agree as annotations_agree, check as check_annotations};
pub(crate) use handlers::port;
pub(crate) use placement::{node_selector, tolerations};
pub use qos::qos_class;
pub use references::{api_references, names_secrets};
pub(crate) use security::Users;
pub(crate) use sources::{default_source as default_volume_source, host_path, nfs, no_backsteps};
pub(crate) use spec::check_spec;
pub use spec::dotted_sysctl;

use crate::{Context, Selectable, Strategy, tree};
use machinery::{
    Value,
    field::{ErrorList, Path},
    names, time,
};
use serde_json::json;

/// The strategy of pods.
#[derive(Debug, Clone, Copy)]
pub struct Pods;

impl Strategy for Pods {
    fn ends_gracefully(&self) -> bool {
        true
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = obj.as_object_mut().and_then(|o| tree::child(o, "spec")) {
            defaults::pod(spec);
        }
        if let Some(status) = obj.as_object_mut().and_then(|o| tree::present(o, "status")) {
            status::default(status);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        tree::set_meta(obj, "generation", 1.into());
        alias_service_account(obj);
        annotations::sync_app_armor(obj);
        let labels = obj["metadata"].get("labels").cloned().unwrap_or_default();
        if let Some(spec) = obj.as_object_mut().and_then(|o| o.get_mut("spec")) {
            defaults::pod_level_requests(spec);
            if let Some(fields) = spec.as_object_mut() {
                placement::merge_label_keys(fields, &labels);
            }
        }
        let mut status = json!({"phase": "Pending", "qosClass": qos_class(&obj["spec"])});
        if !tree::list(&obj["spec"], "schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": time::rfc3339(cx.now),
            }]);
        }
        if let Some(fields) = obj.as_object_mut() {
            fields.insert("status".into(), status);
        }
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        alias_service_account(obj);
        tree::keep(obj, old, "status");
        // A client that does not know of the pod's own resources does not clear them.
        if obj["spec"]["resources"].is_null()
            && let (Some(own), Some(spec)) = (old["spec"].get("resources"), tree::at(obj, &["spec"]))
        {
            spec.insert("resources".into(), own.clone());
        }
        if obj["spec"] != old["spec"] {
            tree::bump_generation(obj, old);
        }
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "spec");
        tree::set_meta(obj, "deletionTimestamp", old["metadata"]["deletionTimestamp"].clone());
        if let Some(metadata) = tree::at(obj, &["metadata"]) {
            // Owners are not changed by status; neither is a deletion asked for.
            for key in ["ownerReferences", "deletionTimestamp"] {
                match old["metadata"].get(key) {
                    Some(value) => metadata.insert(key.into(), value.clone()),
                    None => metadata.remove(key),
                };
            }
        }
        if let Some(status) = tree::at(obj, &["status"]) {
            status::preserve(status, &old["status"]);
        }
    }

    fn prepare_part(&self, _cx: &Context, part: &str, obj: &mut Value, old: &Value) {
        match part {
            // What a binding writes is made from the present pod.
            "binding" => return,
            "ephemeralcontainers" => tree::keep_all_but(obj, old, &["spec", "ephemeralContainers"]),
            "resize" => parts::prepare_resize(obj, old),
            _ => return tree::keep_all_but(obj, old, &["status"]),
        }
        if obj["spec"] != old["spec"] {
            tree::bump_generation(obj, old);
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        spec::check_pod(obj, Users::Pod, errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if obj["spec"] != old["spec"] || obj["metadata"]["annotations"] != old["metadata"]["annotations"] {
            spec::check_pod(obj, Users::ExistingPod, &mut errors);
        }
        update::check(obj, old, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        status::check(obj, old, &mut errors);
        errors
    }

    fn validate_part(&self, part: &str, obj: &Value, old: &Value) -> ErrorList {
        match part {
            "ephemeralcontainers" => parts::check_ephemeral(obj, old),
            "resize" => parts::check_resize(obj, old),
            _ => ErrorList::new(),
        }
    }

    fn field_alias(&self, field: &str) -> Option<&'static str> {
        (field == "spec.host").then_some("spec.nodeName")
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        let (spec, status) = (&obj["spec"], &obj["status"]);
        let text = |v: &Value, key: &str| tree::text(v, key).to_owned();
        let ip = tree::list(status, "podIPs").first().map(|ip| text(ip, "ip")).unwrap_or_default();
        vec![
            ("spec.nodeName".into(), text(spec, "nodeName")),
            // Known, and not told of any pod.
            ("status.podIPs".into(), String::new()),
            ("spec.restartPolicy".into(), text(spec, "restartPolicy")),
            ("spec.schedulerName".into(), text(spec, "schedulerName")),
            ("spec.serviceAccountName".into(), text(spec, "serviceAccountName")),
            ("spec.hostNetwork".into(), (spec["hostNetwork"] == true).to_string()),
            ("status.phase".into(), text(status, "phase")),
            ("status.podIP".into(), ip),
            ("status.nominatedNodeName".into(), text(status, "nominatedNodeName")),
        ]
    }

    fn preparing(&self, obj: &Value) -> Vec<String> {
        annotations::app_armor_warnings(obj)
    }

    /// Who limits nothing requests nothing.
    fn complete(&self, whole: &mut Value) {
        let Some(spec) = tree::at(whole, &["spec"]) else { return };
        for list in ["containers", "initContainers"] {
            for resources in tree::each(spec, list).filter_map(|container| tree::present(container, "resources")) {
                if resources.get("limits").is_some_and(Value::is_object) {
                    resources.entry("requests").or_insert_with(|| Value::Object(machinery::Map::new()));
                }
            }
        }
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        warnings::of_status(&obj["status"])
    }

    // Updates of pods come from programs, and often.
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let mut out = Vec::new();
        let problems = names::dns1123_label(tree::text(&obj["metadata"], "name"));
        if !problems.is_empty() {
            let listed = problems.join(" ");
            out.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{listed}]"
            ));
        }
        out.extend(warnings::of(obj, &Path::empty()));
        out
    }

    /// `printPod`'s conditions.
    fn row_completed(&self, obj: &Value) -> Option<(&'static str, &'static str)> {
        match tree::text(&obj["status"], "phase") {
            "Succeeded" => Some(("Succeeded", "The pod has completed successfully.")),
            "Failed" => Some(("Failed", "The pod failed.")),
            _ => None,
        }
    }

    /// `pkg/registry/core/pod/strategy.go`, CheckGracefulDelete.
    fn grace_period(&self, obj: &Value, requested: Option<i64>) -> i64 {
        let unscheduled = tree::text(&obj["spec"], "nodeName").is_empty();
        let over = matches!(tree::text(&obj["status"], "phase"), "Failed" | "Succeeded");
        if unscheduled || over {
            return 0;
        }
        match requested.unwrap_or_else(|| obj["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0)) {
            negative if negative < 0 => 1,
            seconds => seconds,
        }
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            "status" => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            _ => &[],
        }
    }
}

pub(crate) use warnings::{node_term as node_term_warnings, old_node_label};

/// The warnings of a template, at a path.
pub(crate) fn warnings_of_template(template: &Value, path: &Path) -> Vec<String> {
    warnings::of(template, path)
}

/// The deprecated `serviceAccount` says the same as `serviceAccountName`.
fn alias_service_account(obj: &mut Value) {
    if let Some(spec) = obj.as_object_mut().and_then(|o| tree::present(o, "spec")) {
        defaults::alias_service_account(spec);
    }
}
