//! StatefulSets and DaemonSets (`pkg/registry/apps`, `pkg/apis/apps/validation`).

use crate::{Context, NameRule, Strategy, claim, internal, pod, rules, template, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names, numerals,
};
use serde_json::json;
use std::{borrow::Cow, collections::HashSet};

/// The annotation in which daemon sets count the changes of their template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// The strategy of stateful sets.
#[derive(Debug, Clone, Copy)]
pub struct StatefulSets;

impl Strategy for StatefulSets {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        pod::defaults::template(spec);
        for claim in tree::each(spec, "volumeClaimTemplates") {
            // Claims in a set are written with their kind, whatever was said of it.
            claim.insert("kind".into(), "PersistentVolumeClaim".into());
            claim.insert("apiVersion".into(), "v1".into());
            if let Some(claim) = tree::child(claim, "spec") {
                claim::default_claim_spec(claim);
            }
            if let Some(status) = tree::child(claim, "status") {
                tree::fill_text(status, "phase", "Pending");
            }
        }
        tree::fill_text(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = tree::child(spec, "updateStrategy") {
            if strategy.get("type").is_none_or(tree::empty) {
                strategy.insert("type".into(), "RollingUpdate".into());
                tree::fill(strategy, "rollingUpdate", json!({}));
            }
            if strategy.get("type").is_some_and(|t| t == "RollingUpdate")
                && let Some(rolling) = tree::present(strategy, "rollingUpdate")
            {
                tree::fill(rolling, "partition", 0);
                tree::fill(rolling, "maxUnavailable", 1);
            }
        }
        if let Some(retention) = tree::child(spec, "persistentVolumeClaimRetentionPolicy") {
            tree::fill_text(retention, "whenDeleted", "Retain");
            tree::fill_text(retention, "whenScaled", "Retain");
        }
        tree::fill(spec, "replicas", 1);
        tree::fill(spec, "revisionHistoryLimit", 10);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_stateful(&obj["spec"], &Path::root("spec"), true, errors);
    }

    /// What never changes is not checked again: it may stem from an older server.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let (mut errors, path) = (ErrorList::new(), Path::root("spec"));
        check_stateful(&obj["spec"], &path, false, &mut errors);
        let fixed = [
            ("selector", "*metav1.LabelSelector"),
            ("volumeClaimTemplates", "[]core.PersistentVolumeClaim"),
            ("serviceName", "s"),
            ("podManagementPolicy", "*s"),
        ];
        for (field, form) in fixed {
            rules::immutable_part(form, &obj["spec"][field], &old["spec"][field], &path.child(field), &mut errors);
        }
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let (mut errors, path, status) = (ErrorList::new(), Path::root("status"), &obj["status"]);
        let counts = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration", "collisionCount"];
        rules::all_not_negative(status, &path, &counts, &mut errors);
        let number = |key: &str| status[key].as_i64().unwrap_or(0);
        for key in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
            if number(key) > number("replicas") {
                errors.push(Error::invalid(&path.child(key), number(key), "cannot be greater than status.replicas"));
            }
        }
        if number("availableReplicas") > number("readyReplicas") {
            let detail = "cannot be greater than status.readyReplicas";
            errors.push(Error::invalid(&path.child("availableReplicas"), number("availableReplicas"), detail));
        }
        rules::collisions(status, &old["status"], &mut errors);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = template::warnings(obj, old);
        for (at, claim) in tree::list(&obj["spec"], "volumeClaimTemplates").iter().enumerate() {
            let path = Path::root("spec").child("volumeClaimTemplates").index(at);
            claim::spec_warnings(&claim["spec"], &if old.is_some() { path.child("Spec") } else { path }, &mut out);
        }
        if obj["spec"]["revisionHistoryLimit"].as_i64().is_some_and(|n| n < 0) {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        out
    }

    /// The names of its pods, which are host names, begin with it.
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }
}

/// Checks a set; what never changes only when it is made (`new`).
fn check_stateful(spec: &Value, path: &Path, new: bool, errors: &mut ErrorList) {
    match tree::text(spec, "podManagementPolicy") {
        "" => errors.push(Error::required(&path.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(rules::typed(Error::invalid(&path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"))),
    }
    let (strategy, place) = (&spec["updateStrategy"], path.child("updateStrategy"));
    let (rolling, inner) = (&strategy["rollingUpdate"], place.child("rollingUpdate"));
    match tree::text(strategy, "type") {
        "" => errors.push(Error::required(&place, "")),
        "OnDelete" if !rolling.is_null() => {
            let shown = internal::text("apps.RollingUpdateStatefulSetStrategy", rolling);
            errors.push(Error::invalid(&inner, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'").shown_as(shown));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rules::not_negative(&rolling["partition"], &inner.child("partition"), errors);
            let (most, place) = (&rolling["maxUnavailable"], inner.child("maxUnavailable"));
            rules::int_or_percent(most, &place, false, errors);
            if rules::is_zero(most) {
                errors.push(rules::typed(Error::invalid(&place, most.clone(), "cannot be 0")));
            }
            rules::at_most_all(most, &place, errors);
        }
        _ => {
            let shown = internal::text("apps.StatefulSetUpdateStrategy", strategy);
            errors.push(Error::invalid(&place, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'").shown_as(shown));
        }
    }
    let (retention, place) = (&spec["persistentVolumeClaimRetentionPolicy"], path.child("persistentVolumeClaimRetentionPolicy"));
    for field in ["whenDeleted", "whenScaled"] {
        rules::supported(&retention[field], &place.child(field), &["Retain", "Delete"], errors);
    }
    let claims = tree::list(spec, "volumeClaimTemplates").iter().enumerate().filter(|_| new);
    for (at, claim) in claims {
        claim::check_claim_spec(&claim["spec"], &path.child("volumeClaimTemplates").index(at).child("spec"), errors);
    }
    rules::all_not_negative(spec, path, &["replicas", "minReadySeconds"], errors);
    rules::not_negative(&spec["ordinals"]["start"], &path.child("ordinals.start"), errors);
    let service = tree::text(spec, "serviceName");
    if new && !service.is_empty() {
        rules::name(service, &path.child("serviceName"), names::dns1123_label(service), errors);
    }
    if rules::workload_selector(spec, path, "statefulset", errors) {
        template::check(&effective_template(spec), path, false, "StatefulSet", errors);
    }
    template::runs_for_good(&spec["template"]["spec"], &path.child("template").child("spec"), "StatefulSet", errors);
}

/// The template as the set's pods will have it: their claims are volumes, and their names are the controller's business.
fn effective_template(spec: &Value) -> Cow<'_, Value> {
    let (inner, claims) = (&spec["template"]["spec"], tree::list(spec, "volumeClaimTemplates"));
    if claims.is_empty() && tree::empty(&inner["hostname"]) && tree::empty(&inner["subdomain"]) {
        return Cow::Borrowed(spec);
    }
    let mut template = spec["template"].clone();
    if let Some(fields) = tree::at(&mut template, &["spec"]) {
        fields.remove("hostname");
        fields.remove("subdomain");
        let name = |claim: &'_ Value| tree::text(&claim["metadata"], "name").to_owned();
        let mut claimed = HashSet::new();
        let once = claims.iter().map(name).filter(|name| claimed.insert(name.clone()));
        let mut volumes: Vec<Value> = once.map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
        let own = tree::list(inner, "volumes").iter().filter(|v| !claimed.contains(tree::text(v, "name")));
        volumes.extend(own.cloned());
        fields.insert("volumes".into(), volumes.into());
    }
    Cow::Owned(json!({ "template": template }))
}

/// The strategy of daemon sets.
#[derive(Debug, Clone, Copy)]
pub struct DaemonSets;

impl Strategy for DaemonSets {
    /// The count of templates is a number of the internal form.
    fn inconvertible(&self, obj: &Value) -> Option<String> {
        numerals::whole("ParseInt", obj["metadata"]["annotations"][TEMPLATE_GENERATION].as_str()?).err()
    }

    fn default(&self, obj: &mut Value) {
        // Upstream's conversion writes it into every object, so that who creates one owns it.
        let own = template_generation(obj);
        set_template_generation(obj, own);
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        pod::defaults::template(spec);
        if let Some(strategy) = tree::child(spec, "updateStrategy") {
            tree::fill_text(strategy, "type", "RollingUpdate");
            if strategy.get("type").is_some_and(|t| t == "RollingUpdate")
                && let Some(rolling) = tree::child(strategy, "rollingUpdate")
            {
                tree::fill(rolling, "maxUnavailable", 1);
                tree::fill(rolling, "maxSurge", 0);
            } else if let Some(rolling) = tree::present(strategy, "rollingUpdate") {
                // Upstream's internal form has both by value.
                tree::fill(rolling, "maxUnavailable", 0);
                tree::fill(rolling, "maxSurge", 0);
            }
        }
        tree::fill(spec, "revisionHistoryLimit", 10);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        tree::set_meta(obj, "generation", 1.into());
        let own = template_generation(obj).max(1);
        set_template_generation(obj, own);
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        let before = template_generation(old);
        if obj["spec"]["template"] != old["spec"]["template"] {
            set_template_generation(obj, before.saturating_add(1));
            tree::bump_generation(obj, old);
            return;
        }
        if before > 0 {
            set_template_generation(obj, before);
        }
        if tree::body_differs(obj, old) {
            tree::bump_generation(obj, old);
        }
    }

    /// The count is of the specification, though it is written as an annotation.
    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        set_template_generation(obj, template_generation(old));
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        rules::workload_selector(spec, &path, "daemonset", errors);
        template::check(spec, &path, true, "DaemonSet", errors);
        rules::not_negative(&spec["minReadySeconds"], &path.child("minReadySeconds"), errors);
        daemon_strategy(&spec["updateStrategy"], &path.child("updateStrategy"), errors);
        rules::not_negative(&spec["revisionHistoryLimit"], &path.child("revisionHistoryLimit"), errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable_part("*metav1.LabelSelector", &obj["spec"]["selector"], &old["spec"]["selector"], &Path::root("spec.selector"), &mut errors);
        self.check(obj, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let counts = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        rules::all_not_negative(&obj["status"], &Path::root("status"), &counts, &mut errors);
        rules::collisions(&obj["status"], &old["status"], &mut errors);
        errors
    }

    /// Those of its template, when that is another than it was.
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| template_generation(old) == template_generation(obj)) { Vec::new() } else { template::warnings(obj, None) }
    }
}

fn template_generation(obj: &Value) -> i64 {
    obj["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn set_template_generation(obj: &mut Value, generation: i64) {
    if let Some(annotations) = tree::at(obj, &["metadata", "annotations"]) {
        annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
    }
}

fn daemon_strategy(strategy: &Value, path: &Path, errors: &mut ErrorList) {
    let (rolling, place) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match tree::text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.push(Error::required(&place, "")),
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let sides = [(unavailable, place.child("maxUnavailable")), (surge, place.child("maxSurge"))];
            sides.iter().for_each(|(value, place)| rules::int_or_percent(value, place, false, errors));
            sides.iter().for_each(|(value, place)| rules::at_most_all(value, place, errors));
            match (rules::is_zero(unavailable), rules::is_zero(surge)) {
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.push(rules::typed(Error::invalid(&place.child("maxSurge"), surge.clone(), detail)));
                }
                (true, true) => errors.push(Error::required(&place.child("maxUnavailable"), "cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => {
            let shown = internal::text("apps.DaemonSetUpdateStrategy", strategy);
            errors.push(Error::not_supported(path, strategy.clone(), &["RollingUpdate", "OnDelete"]).shown_as(shown));
        }
    }
}
