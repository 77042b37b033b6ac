//! Bindings of policies: where a policy counts, with which parameters, and what follows from it.

use super::{
    super::{admission_limits, checks},
    check_match, check_mutable, fill_match, fill_rules,
};
use crate::{Strategy, rules, schema, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// The strategy of bindings of admission policies.
pub(in crate::groups) struct PolicyBindings {
    pub(in crate::groups) mutating: bool,
}

impl Strategy for PolicyBindings {
    fn default(&self, obj: &mut Value) {
        let Some(resources) = tree::at(obj, &["spec"]).and_then(|spec| tree::present(spec, "matchResources")) else { return };
        fill_match(resources);
        fill_rules(resources, "resourceRules");
        fill_rules(resources, "excludeResourceRules");
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        schema::check_enums(obj, &mut errors);
        admission_limits::check_name(obj, &mut errors);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        admission_limits::name_warnings(obj, old)
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        if rules::required(spec, &path, "policyName", errors) {
            let name = tree::text(spec, "policyName");
            rules::name(name, &path.child("policyName"), names::dns1123_subdomain(name), errors);
        }
        if !spec["paramRef"].is_null() {
            check_parameter(&spec["paramRef"], &path.child("paramRef"), errors);
        }
        if !spec["matchResources"].is_null() {
            check_match(&spec["matchResources"], &path.child("matchResources"), errors);
        }
        if self.mutating {
            check_mutable(&spec["matchResources"], &path.child("matchResources"), errors);
        } else {
            check_actions(spec, &path.child("validationActions"), errors);
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn any_finalizer(&self) -> bool {
        true
    }
}

fn check_parameter(parameter: &Value, path: &Path, errors: &mut ErrorList) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selected) = (tree::text(parameter, "name"), !parameter["selector"].is_null());
    if !name.is_empty() {
        rules::name(name, &path.child("name"), names::path_segment(name), errors);
        if selected {
            errors.push(Error::forbidden(&path.child("name"), EXCLUSIVE));
        }
    }
    checks::selector(parameter, "selector", path, errors);
    match (name.is_empty(), selected) {
        (false, true) => errors.push(Error::forbidden(&path.child("selector"), EXCLUSIVE)),
        (true, false) => errors.push(Error::required(path, "one of name or selector must be specified")),
        _ => {}
    }
    rules::one_of(&parameter["parameterNotFoundAction"], &path.child("parameterNotFoundAction"), &["Deny", "Allow"], errors);
}

fn check_actions(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let actions = tree::list(spec, "validationActions");
    let mut seen = HashSet::new();
    for (at, action) in checks::texts(spec, "validationActions") {
        if !matches!(action, "Audit" | "Deny" | "Warn") {
            errors.push(rules::not_supported(&path.index(at), action, &["Audit", "Deny", "Warn"]));
        }
        if !seen.insert(action) {
            errors.push(rules::typed(Error::duplicate(&path.index(at), action)));
        }
    }
    if actions.iter().any(|a| a == "Deny") && actions.iter().any(|a| a == "Warn") {
        let detail =
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(Error::invalid(path, actions.to_vec(), detail));
    }
    if actions.is_empty() {
        errors.push(Error::required(path, ""));
    }
}
