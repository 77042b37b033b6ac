//! Webhooks: whom they ask, about what, and how long they wait.

use super::{
    super::{admission_limits, checks},
    check_match_conditions, check_rule, fill_match, fill_rules, limited, texts,
};
use crate::{Context, Strategy, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The strategy of webhook configurations.
pub(in crate::groups) struct Webhooks {
    pub(in crate::groups) mutating: bool,
}

impl Strategy for Webhooks {
    fn default(&self, obj: &mut Value) {
        let Some(fields) = obj.as_object_mut() else { return };
        for hook in tree::each(fields, "webhooks") {
            fill_match(hook);
            tree::fill(hook, "failurePolicy", "Fail");
            tree::fill(hook, "timeoutSeconds", 10);
            if self.mutating {
                tree::fill(hook, "reinvocationPolicy", "Never");
            }
            fill_rules(hook, "rules");
            if let Some(service) = tree::present(hook, "clientConfig").and_then(|c| tree::present(c, "service")) {
                tree::fill(service, "port", 443);
            }
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Upstream compares what was sent with what came from the store, where nothing is empty (`reflect.DeepEqual`).
    fn prepare_update(&self, cx: &Context, obj: &mut Value, old: &Value) {
        if tree::body_differs(obj, old) || cx.blanks.is_below("webhooks") {
            tree::bump_generation(obj, old);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_webhooks(obj, None, &mut errors);
        admission_limits::check_name(obj, &mut errors);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = admission_limits::name_warnings(obj, old);
        out.extend(admission_limits::rule_warnings(obj));
        out
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_webhooks(obj, Some(old), &mut errors);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn any_finalizer(&self) -> bool {
        true
    }
}

/// The expressions that were stored before, without the space around them.
fn conditions_of(hooks: Option<&Value>) -> HashSet<&str> {
    let hooks = hooks.map_or(&[][..], |old| tree::list(old, "webhooks"));
    hooks.iter().flat_map(|hook| texts(hook, "matchConditions", "expression")).map(str::trim).collect()
}

fn check_webhooks(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let (hooks, stored) = (tree::list(obj, "webhooks"), conditions_of(old));
    // Conditions that were taken before are not looked at again while none of them changes.
    let same =
        old.is_some_and(|old| hooks.iter().map(|hook| &hook["matchConditions"]).eq(tree::list(old, "webhooks").iter().map(|hook| &hook["matchConditions"])));
    {
        let mut seen = HashSet::new();
        for (at, hook) in hooks.iter().enumerate() {
            let path = Path::root("webhooks").index(at);
            check_webhook(hook, &path, errors);
            if !same {
                check_match_conditions(hook, false, &stored, &path, errors);
            }
            check_review_versions(hook, &path.child("admissionReviewVersions"), errors);
            let name = tree::text(hook, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
    }
}

fn check_webhook(hook: &Value, path: &Path, errors: &mut ErrorList) {
    checks::domain(tree::text(hook, "name"), 3, &path.child("name"), errors);
    for (at, rule) in tree::list(hook, "rules").iter().enumerate() {
        check_rule(rule, &path.child("rules").index(at), errors);
    }
    limited(hook, "failurePolicy", &["Fail", "Ignore"], path, errors);
    limited(hook, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    if hook["sideEffects"].is_null() {
        errors.push(Error::required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"));
    }
    limited(hook, "sideEffects", &["None", "NoneOnDryRun"], path, errors);
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|s| !(1..=30).contains(s)) {
        errors.push(Error::invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds"));
    }
    checks::selector(hook, "namespaceSelector", path, errors);
    checks::selector(hook, "objectSelector", path, errors);
    limited(hook, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
    checks::client_config(&hook["clientConfig"], &path.child("clientConfig"), errors);
}

fn check_review_versions(hook: &Value, path: &Path, errors: &mut ErrorList) {
    let versions = tree::list(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.push(Error::required(path, "must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = HashSet::new();
    for (at, version) in checks::texts(hook, "admissionReviewVersions") {
        if !seen.insert(version) {
            errors.push(Error::invalid(&path.index(at), version, "duplicate version"));
        } else {
            rules::name(version, &path.index(at), names::dns1035_label(version), errors);
        }
    }
    if !versions.iter().any(|v| REVIEW_VERSIONS.iter().any(|known| v == known)) {
        errors.push(Error::invalid(path, versions.to_vec(), "must include at least one of v1, v1beta1"));
    }
}
