//! `admissionregistration.k8s.io`: webhooks, and policies with their bindings.
//!
//! Expressions are compiled here as where they are evaluated; one that was stored before may use what is no longer taken anew.

use super::checks;
use crate::{
    Context, Strategy,
    expressions::{Compiler, Declared, Gives},
    internal, rules, tree,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::HashSet;

const MATCH_CONDITIONS_MAX: usize = 64;
const AUDIT_ANNOTATIONS_MAX: usize = 20;
/// Bytes of the expression of an audit annotation.
const AUDIT_EXPRESSION_MAX: usize = 5 * 1024;
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// What is left out of a webhook or of a policy's match.
fn fill_match(fields: &mut tree::Fields) {
    tree::fill(fields, "matchPolicy", "Equivalent");
    tree::fill(fields, "namespaceSelector", json!({}));
    tree::fill(fields, "objectSelector", json!({}));
}

fn fill_rules(fields: &mut tree::Fields, key: &str) {
    tree::each(fields, key).for_each(|rule| tree::fill(rule, "scope", "*"));
}

/// The strategy of webhook configurations.
pub(super) struct Webhooks {
    pub(super) mutating: bool,
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
        errors
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

/// A value that is there is one of those allowed.
fn limited(owner: &Value, key: &str, allowed: &[&str], path: &Path, errors: &mut ErrorList) {
    if let Some(value) = owner[key].as_str().filter(|v| !allowed.contains(v)) {
        errors.push(Error::not_supported(&path.child(key), value, allowed));
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
        errors.push(Error::not_supported(&path.child("operations").index(at), operation, &OPERATIONS));
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

/// The strategy of admission policies.
pub(super) struct Policies {
    pub(super) mutating: bool,
}

impl Strategy for Policies {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        tree::fill(spec, "failurePolicy", "Fail");
        if let Some(constraints) = tree::present(spec, "matchConstraints") {
            fill_match(constraints);
            fill_rules(constraints, "resourceRules");
            fill_rules(constraints, "excludeResourceRules");
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        tree::keep_all_but_managers(obj, old);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check_policy(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check_policy(obj, Some(old), &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let (mut errors, path) = (ErrorList::new(), Path::root("status"));
        let warnings = tree::list(&obj["status"]["typeChecking"], "expressionWarnings");
        for (at, warning) in warnings.iter().enumerate() {
            let place = path.child("typeChecking").child("expressionWarnings").index(at);
            rules::required(warning, &place, "warning", &mut errors);
            rules::required(warning, &place, "fieldRef", &mut errors);
        }
        checks::conditions(&obj["status"], &path, &mut errors);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn any_finalizer(&self) -> bool {
        true
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        checks::resets_with_metadata(subresource)
    }
}

impl Policies {
    fn check_policy(&self, obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        let before = old.map_or(&Value::Null, |old| &old["spec"]);
        limited(spec, "failurePolicy", &["Fail", "Ignore"], &path, errors);
        if !spec["paramKind"].is_null() {
            check_kind(&spec["paramKind"], &path.child("paramKind"), errors);
        }
        let (constraints, place) = (&spec["matchConstraints"], path.child("matchConstraints"));
        if constraints.is_null() {
            errors.push(Error::required(&place, ""));
        } else {
            check_match(constraints, &place, errors);
            if tree::list(constraints, "resourceRules").is_empty() {
                errors.push(Error::required(&place.child("resourceRules"), ""));
            }
        }
        let params = !spec["paramKind"].is_null();
        if old.is_none() || spec["matchConditions"] != before["matchConditions"] {
            let stored = texts(before, "matchConditions", "expression").map(str::trim).collect();
            check_match_conditions(spec, params, &stored, &path, errors);
        }
        let variables = tree::list(spec, "variables");
        let mut policy = Policy::new(Compiler::new(self.mutating || !variables.is_empty()), params, before);
        for (at, variable) in variables.iter().enumerate() {
            policy.check_variable(variable, &path.child("variables").index(at), errors);
        }
        match self.mutating {
            true => check_mutations(spec, &policy, &path, errors),
            false => check_validations(spec, tree::text(&obj["metadata"], "name"), &policy, &path, errors),
        }
    }
}

/// The texts of a field of a list's items.
fn texts<'v>(owner: &'v Value, list: &str, field: &'static str) -> impl Iterator<Item = &'v str> + use<'v> {
    tree::list(owner, list).iter().map(move |item| tree::text(item, field))
}

/// A policy's expressions while they are checked.
struct Policy<'p> {
    compiler: Compiler,
    params: bool,
    /// What stood in the `spec` that was stored before, by list and field.
    before: HashSet<(&'static str, &'static str, &'p str)>,
}

impl<'p> Policy<'p> {
    /// Where texts are looked for that were taken before.
    const STORED: [(&'static str, &'static str); 3] =
        [("validations", "expression"), ("validations", "messageExpression"), ("auditAnnotations", "valueExpression")];

    fn new(compiler: Compiler, params: bool, before: &'p Value) -> Policy<'p> {
        let stored = Self::STORED.into_iter().flat_map(|(list, field)| texts(before, list, field).map(move |text| (list, field, text)));
        let applied = tree::list(before, "mutations").iter().map(|mutation| tree::text(&mutation["applyConfiguration"], "expression"));
        Policy { compiler, params, before: stored.chain(applied.map(|text| ("mutations", "applyConfiguration", text))).collect() }
    }

    fn declared(&self, authorizer: bool, patches: bool) -> Declared {
        Declared { params: self.params, authorizer, patches }
    }

    /// Whether a text stood in one of these fields before.
    fn was(&self, list: &'static str, field: &'static str, text: &str) -> bool {
        self.before.contains(&(list, field, text))
    }
}

fn check_kind(kind: &Value, path: &Path, errors: &mut ErrorList) {
    let (api, name) = (tree::text(kind, "apiVersion"), tree::text(kind, "kind"));
    let place = path.child("apiVersion");
    let (group, version) = api.split_once('/').unwrap_or(("", api));
    if api.is_empty() {
        errors.push(Error::required(&place, ""));
    } else if api.matches('/').count() > 1 {
        errors.push(Error::invalid(&place, api, format!("unexpected GroupVersion string: {api}")));
    } else {
        if !group.is_empty() {
            checks::joined(group, &place, &names::dns1123_subdomain(group), errors);
        }
        match version {
            "" => errors.push(Error::invalid(&place, api, "version must be specified")),
            version => checks::joined(version, &place, &names::dns1035_label(version), errors),
        }
    }
    let problems = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(Error::required(&path.child("kind"), ""));
    } else if !problems.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.push(Error::invalid(&path.child("kind"), name, detail));
    }
}

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

impl Policy<'_> {
    fn check_variable(&mut self, variable: &Value, path: &Path, errors: &mut ErrorList) {
        let name = tree::text(variable, "name");
        let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit());
        if name.trim().is_empty() {
            errors.push(Error::required(&path.child("name"), "name is not specified"));
        } else if !word || kubecel::declared::RESERVED.contains(&name) {
            errors.push(Error::invalid(&path.child("name"), name, "must be a valid CEL identifier"));
        }
        let expression = tree::text(variable, "expression");
        if expression.trim().is_empty() {
            errors.push(Error::required(&path.child("expression"), "expression is not specified"));
            return;
        }
        let (declared, stored) = (self.declared(true, false), self.was("validations", "expression", expression));
        self.compiler.define(name, expression, declared, stored, |compiled| told(compiled, expression, &path.child("expression"), errors));
    }
}

fn check_validations(spec: &Value, name: &str, policy: &Policy<'_>, path: &Path, errors: &mut ErrorList) {
    let (validations, audits) = (tree::list(spec, "validations"), tree::list(spec, "auditAnnotations"));
    if validations.is_empty() && audits.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            errors.push(Error::required(&path.child(field), "validations or auditAnnotations must contain at least one item"));
        }
        return;
    }
    for (at, validation) in validations.iter().enumerate() {
        let place = path.child("validations").index(at);
        let expression = tree::text(validation, "expression");
        if expression.trim().is_empty() {
            errors.push(Error::required(&place.child("expression"), "expression is not specified"));
        } else {
            let stored = policy.was("validations", "expression", expression);
            let compiled = policy.compiler.compile(expression, policy.declared(true, false), Gives::Bool, stored);
            told(compiled, expression, &place.child("expression"), errors);
        }
        let message = tree::text(validation, "messageExpression");
        if !message.trim().is_empty() {
            let stored = policy.was("validations", "messageExpression", message);
            let compiled = policy.compiler.compile(message, policy.declared(false, false), Gives::Text, stored);
            told(compiled, message, &place.child("messageExpression"), errors);
        }
        for field in ["messageExpression", "message"] {
            let text = tree::text(validation, field);
            if !text.is_empty() && text.trim().is_empty() {
                errors.push(Error::invalid(&place.child(field), text, "must be non-empty if specified"));
            } else if field == "message" && text.trim().contains(['\n', '\r']) {
                errors.push(Error::invalid(&place.child(field), text, "must not contain line breaks"));
            }
        }
        limited(validation, "reason", &["Forbidden", "Invalid", "RequestEntityTooLarge"], &place, errors);
    }
    let path = path.child("auditAnnotations");
    if audits.len() > AUDIT_ANNOTATIONS_MAX {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        let shown = internal::text("[]admissionregistration.AuditAnnotation", &spec["auditAnnotations"]);
        errors.push(Error::invalid(&path, audits.to_vec(), detail).shown_as(shown));
    }
    let mut seen = HashSet::new();
    for (at, audit) in audits.iter().enumerate() {
        let (place, key) = (path.index(at), tree::text(audit, "key"));
        if name.is_empty() {
            errors.push(Error::invalid(&place.child("key"), key, "requires metadata.name be non-empty"));
        } else {
            let whole = format!("{name}/{key}");
            rules::name(&whole, &place.child("key"), names::qualified_name(&whole), errors);
        }
        let (value, place_of_value) = (tree::text(audit, "valueExpression"), place.child("valueExpression"));
        if value.trim().is_empty() {
            errors.push(Error::required(&place_of_value, "valueExpression is not specified"));
        } else if value.trim().len() > AUDIT_EXPRESSION_MAX {
            errors.push(Error::required(&place_of_value, format!("must not exceed {AUDIT_EXPRESSION_MAX} bytes in length")));
        } else {
            let stored = policy.was("auditAnnotations", "valueExpression", value);
            let compiled = policy.compiler.compile(value.trim(), policy.declared(true, false), Gives::TextOrNull, stored);
            told(compiled, value, &place_of_value, errors);
        }
        if !seen.insert(key) {
            errors.push(Error::duplicate(&place.child("key"), key));
        }
    }
}

fn check_mutations(spec: &Value, policy: &Policy<'_>, path: &Path, errors: &mut ErrorList) {
    check_mutable(&spec["matchConstraints"], &path.child("matchConstraints"), errors);
    let mutations = tree::list(spec, "mutations");
    if mutations.is_empty() {
        errors.push(Error::required(&path.child("mutations"), "mutations must contain at least one item"));
    }
    for (at, mutation) in mutations.iter().enumerate() {
        let place = path.child("mutations").index(at);
        let kind = tree::text(mutation, "patchType");
        let (own, other) = match kind {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "" => {
                errors.push(Error::required(&place.child("patchType"), ""));
                continue;
            }
            kind => {
                errors.push(Error::not_supported(&place.child("patchType"), kind, &["ApplyConfiguration", "JSONPatch"]));
                continue;
            }
        };
        if mutation[own].is_null() {
            errors.push(Error::required(&place.child(own), format!("must be specified when patchType is {kind}")));
        } else if tree::text(&mutation[own], "expression").trim().is_empty() {
            errors.push(Error::required(&place.child(own).child("expression"), ""));
        } else {
            let expression = tree::text(&mutation[own], "expression").trim();
            let stored = policy.was("mutations", "applyConfiguration", expression);
            let gives = if kind == "JSONPatch" { Gives::Patch } else { Gives::Configuration };
            let compiled = policy.compiler.compile(expression, policy.declared(true, true), gives, stored);
            told(compiled, expression, &place.child(own).child("expression"), errors);
        }
        if !mutation[other].is_null() {
            let detail = format!("must not be specified when patchType is {kind}");
            errors.push(Error::invalid(&place.child(other), format!("{{{other}}}"), detail));
        }
    }
    rules::one_of(&spec["reinvocationPolicy"], &path.child("reinvocationPolicy"), &["IfNeeded", "Never"], errors);
}

/// What is deleted cannot be changed.
fn check_mutable(matching: &Value, path: &Path, errors: &mut ErrorList) {
    for operation in tree::list(matching, "resourceRules").iter().flat_map(|rule| tree::list(rule, "operations")) {
        rules::supported(operation, &path.child("resourceRules").child("operations"), &["*", "CONNECT", "CREATE", "UPDATE"], errors);
    }
}

/// The strategy of bindings of admission policies.
pub(super) struct PolicyBindings {
    pub(super) mutating: bool,
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
            errors.push(Error::not_supported(&path.index(at), action, &["Audit", "Deny", "Warn"]));
        }
        if !seen.insert(action) {
            errors.push(Error::duplicate(&path.index(at), action));
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
