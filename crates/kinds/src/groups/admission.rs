//! `admissionregistration.k8s.io`: webhooks, and policies with their bindings. Here is what they share: whom they are about, and on which
//! conditions.
//!
//! Expressions are compiled here as where they are evaluated; one that was stored before may use what is no longer taken anew.

mod bindings;
mod paths;
mod policies;
mod webhooks;

pub(super) use bindings::PolicyBindings;
pub(super) use policies::Policies;
pub(super) use webhooks::Webhooks;

use super::checks;
use crate::{
    expressions::{Compiler, Declared, Gives},
    rules, tree,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::HashSet;

const MATCH_CONDITIONS_MAX: usize = 64;

/// What is left out of a webhook or of a policy's match.
fn fill_match(fields: &mut tree::Fields) {
    tree::fill(fields, "matchPolicy", "Equivalent");
    tree::fill(fields, "namespaceSelector", json!({}));
    tree::fill(fields, "objectSelector", json!({}));
}

fn fill_rules(fields: &mut tree::Fields, key: &str) {
    tree::each(fields, key).for_each(|rule| tree::fill(rule, "scope", "*"));
}

/// A value that is there is one of those allowed.
fn limited(owner: &Value, key: &str, allowed: &[&str], path: &Path, errors: &mut ErrorList) {
    if let Some(value) = owner[key].as_str().filter(|v| !allowed.contains(v)) {
        errors.push(rules::not_supported(&path.child(key), value, allowed));
    }
}

/// The texts of a field of a list's items.
fn texts<'v>(owner: &'v Value, list: &str, field: &'static str) -> impl Iterator<Item = &'v str> + use<'v> {
    tree::list(owner, list).iter().map(move |item| tree::text(item, field))
}

/// A rule: operations on resources of groups and versions.
fn check_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let needed = |key: &str, errors: &mut ErrorList| {
        if tree::list(rule, key).is_empty() {
            errors.push(Error::required(&path.child(key), ""));
        }
    };
    needed("operations", errors);
    checks::wildcard_alone(rule, "operations", "operations", path, errors);
    for (at, operation) in checks::texts(rule, "operations").filter(|(_, o)| !OPERATIONS.contains(o)) {
        errors.push(rules::not_supported(&path.child("operations").index(at), operation, &OPERATIONS));
    }
    needed("apiGroups", errors);
    checks::wildcard_alone(rule, "apiGroups", "API groups", path, errors);
    needed("apiVersions", errors);
    checks::wildcard_alone(rule, "apiVersions", "API versions", path, errors);
    for (at, _) in checks::texts(rule, "apiVersions").filter(|(_, v)| v.is_empty()) {
        errors.push(Error::required(&path.child("apiVersions").index(at), ""));
    }
    needed("resources", errors);
    check_resources(rule, &path.child("resources"), errors);
    limited(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
}

fn check_resources(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let (mut whole, mut everywhere): (HashSet<&str>, HashSet<&str>) = Default::default();
    let mut plain_beside_star = false;
    for (at, resource) in checks::texts(rule, "resources") {
        if resource.is_empty() {
            errors.push(Error::required(&path.index(at), ""));
            continue;
        }
        let Some((name, part)) = resource.split_once('/') else {
            plain_beside_star = resource != "*";
            continue;
        };
        if whole.contains(name) {
            let detail = format!("if '{name}/*' is present, must not specify {resource}");
            errors.push(Error::invalid(&path.index(at), resource, detail));
        }
        if everywhere.contains(part) {
            let detail = format!("if '*/{part}' is present, must not specify {resource}");
            errors.push(Error::invalid(&path.index(at), resource, detail));
        }
        if part == "*" {
            whole.insert(name);
        }
        if name == "*" {
            everywhere.insert(part);
        }
    }
    let list = tree::list(rule, "resources");
    if list.len() > 1 && list.iter().any(|r| r == "*/*") {
        errors.push(Error::invalid(path, list.to_vec(), "if '*/*' is present, must not specify other resources"));
    }
    if plain_beside_star && checks::has_wildcard(rule, "resources") {
        errors.push(Error::invalid(path, list.to_vec(), "if '*' is present, must not specify other resources without subresources"));
    }
}

/// What compiling an expression gave, at its place.
fn told<T>(compiled: Result<T, String>, expression: &str, path: &Path, errors: &mut ErrorList) {
    if let Err(why) = compiled {
        errors.push(match why.starts_with("program instantiation failed") {
            true => Error::internal(path, why),
            false => Error::invalid(path, expression, why),
        });
    }
}

/// Conditions; `stored` are the texts that were taken before.
fn check_match_conditions(owner: &Value, params: bool, stored: &HashSet<&str>, path: &Path, errors: &mut ErrorList) {
    let declared = Declared { params, authorizer: true, patches: false };
    let (list, path) = (tree::list(owner, "matchConditions"), path.child("matchConditions"));
    if list.len() > MATCH_CONDITIONS_MAX {
        errors.push(Error::too_many(&path, list.len(), MATCH_CONDITIONS_MAX));
    }
    let mut seen = HashSet::new();
    for (at, condition) in list.iter().enumerate() {
        let (place, name) = (path.index(at), tree::text(condition, "name"));
        let expression = tree::text(condition, "expression").trim();
        if expression.is_empty() {
            errors.push(Error::required(&place.child("expression"), ""));
        } else {
            let compiled = Compiler::new(false).compile(expression, declared, Gives::Bool, stored.contains(expression));
            told(compiled, expression, &place.child("expression"), errors);
        }
        if name.is_empty() {
            errors.push(Error::required(&place.child("name"), ""));
            continue;
        }
        rules::name(name, &place.child("name"), names::qualified_name(name), errors);
        if !seen.insert(name) {
            errors.push(Error::duplicate(&place.child("name"), name));
        }
    }
}

/// Whom a policy or a binding is about.
fn check_match(constraints: &Value, path: &Path, errors: &mut ErrorList) {
    match &constraints["matchPolicy"] {
        Value::Null => errors.push(Error::required(&path.child("matchPolicy"), "")),
        policy => rules::supported(policy, &path.child("matchPolicy"), &["Equivalent", "Exact"], errors),
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if constraints[key].is_null() {
            errors.push(Error::required(&path.child(key), ""));
        }
        checks::selector(constraints, key, path, errors);
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (at, rule) in tree::list(constraints, key).iter().enumerate() {
            let place = path.child(key).index(at);
            let mut seen = HashSet::new();
            for (at, name) in checks::texts(rule, "resourceNames") {
                let place = place.child("resourceNames").index(at);
                rules::name(name, &place, names::path_segment(name), errors);
                if !seen.insert(name) {
                    errors.push(Error::duplicate(&place, name));
                }
            }
            check_rule(rule, &place, errors);
        }
    }
}

/// What is deleted cannot be changed.
fn check_mutable(matching: &Value, path: &Path, errors: &mut ErrorList) {
    for operation in tree::list(matching, "resourceRules").iter().flat_map(|rule| tree::list(rule, "operations")) {
        rules::supported(operation, &path.child("resourceRules").child("operations"), &["*", "CONNECT", "CREATE", "UPDATE"], errors);
    }
}
