//! Pods.
//!
//! Source: `pkg/registry/core/pod/strategy.go`, `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation`. The pod spec's
//! defaults and checks are also those of every template (`spec.template`), see [`crate::template`].

mod containers;
pub(crate) mod defaults;
mod handlers;
mod placement;
mod qos;
mod row;
mod spec;
#[cfg(test)]
mod tests;
mod update;
mod volumes;

pub use qos::qos_class;
pub(crate) use placement::{node_selector, tolerations};
pub(crate) use spec::{Users, check_spec};
pub(crate) use volumes::host_path;

use crate::{
    Context, Strategy, rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    time,
};
use serde_json::json;
use std::time::SystemTime;

/// The strategy of pods.
#[derive(Debug, Clone, Copy)]
pub struct Pods;

impl Strategy for Pods {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = obj.as_object_mut().and_then(|o| tree::child(o, "spec")) {
            defaults::pod(spec);
        }
        default_status(obj);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        tree::set_meta(obj, "generation", 1.into());
        alias_service_account(obj);
        let mut status = json!({"phase": "Pending", "qosClass": qos_class(&obj["spec"])});
        if !tree::list(&obj["spec"], "schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": time::rfc3339(cx.now),
                "observedGeneration": 1,
            }]);
        }
        if let Some(fields) = obj.as_object_mut() {
            fields.insert("status".into(), status);
        }
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        alias_service_account(obj);
        tree::keep(obj, old, "status");
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
        let Some(status) = tree::at(obj, &["status"]) else { return };
        for key in ["qosClass", "resourceClaimStatuses", "extendedResourceClaimStatus"] {
            if status.get(key).is_none_or(tree::empty) && !tree::empty(&old["status"][key]) {
                status.insert(key.into(), old["status"][key].clone());
            }
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_spec(&obj["spec"], &Path::root("spec"), Users::Pod, errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        update::check(&obj["spec"], &old["spec"], &mut errors);
        if errors.is_empty() && obj["spec"] != old["spec"] {
            check_spec(&obj["spec"], &Path::root("spec"), Users::ExistingPod, &mut errors);
        }
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::root("status");
        update::check_container_states(&obj["status"], &old["status"], &old["spec"], &path, &mut errors);
        if !tree::empty(&old["status"]["qosClass"]) && obj["status"]["qosClass"] != old["status"]["qosClass"] {
            errors.push(Error::invalid(&path.child("qosClass"), obj["status"]["qosClass"].clone(), rules::IMMUTABLE));
        }
        errors
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (&obj["spec"], &obj["status"]);
        let text = |v: &Value, key: &str| tree::text(v, key).to_owned();
        let ip = match tree::text(status, "podIP") {
            "" => tree::list(status, "podIPs").first().map(|ip| text(ip, "ip")).unwrap_or_default(),
            ip => ip.to_owned(),
        };
        vec![
            ("spec.nodeName", text(spec, "nodeName")),
            ("spec.restartPolicy", text(spec, "restartPolicy")),
            ("spec.schedulerName", text(spec, "schedulerName")),
            ("spec.serviceAccountName", text(spec, "serviceAccountName")),
            ("spec.hostNetwork", (spec["hostNetwork"] == true).to_string()),
            ("status.phase", text(status, "phase")),
            ("status.podIP", ip),
            ("status.nominatedNodeName", text(status, "nominatedNodeName")),
        ]
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| old["spec"] == obj["spec"]) { Vec::new() } else { spec::warnings(&obj["spec"], &Path::root("spec")) }
    }

    fn row(&self, obj: &Value, now: SystemTime) -> Vec<Value> {
        row::cells(obj, now)
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

/// The warnings of a workload's pod spec.
pub(crate) fn warnings_of_template(spec: &Value) -> Vec<String> {
    spec::warnings(spec, &Path::root("spec.template.spec"))
}

/// The deprecated `serviceAccount` says the same as `serviceAccountName`.
fn alias_service_account(obj: &mut Value) {
    if let Some(spec) = obj.as_object_mut().and_then(|o| tree::present(o, "spec")) {
        defaults::alias_service_account(spec);
    }
}

/// The single address and the list of addresses say the same.
fn default_status(obj: &mut Value) {
    let Some(status) = obj.as_object_mut().and_then(|o| tree::present(o, "status")) else { return };
    for (one, many) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        same_address(status, one, many);
    }
}

fn same_address(status: &mut Fields, one: &str, many: &str) {
    let single = status.get(one).and_then(Value::as_str).filter(|ip| !ip.is_empty()).map(str::to_owned);
    let first = status.get(many).and_then(|l| l[0]["ip"].as_str()).map(str::to_owned);
    match (single, first) {
        (Some(ip), first) if first.as_deref() != Some(ip.as_str()) => {
            status.insert(many.into(), json!([{ "ip": ip }]));
        }
        (None, Some(ip)) => {
            status.insert(one.into(), ip.into());
        }
        _ => {}
    }
}
