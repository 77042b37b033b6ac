//! Policies: what their expressions are, at which places they stand, and what they may give.

use super::{
    super::{admission_limits, checks},
    check_match, check_match_conditions, check_mutable, fill_match, fill_rules, limited, paths, texts, told,
};
use crate::{
    Strategy,
    expressions::{Compiler, Declared, Gives},
    internal, rules, tree,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

const AUDIT_ANNOTATIONS_MAX: usize = 20;
/// Bytes of the expression of an audit annotation.
const AUDIT_EXPRESSION_MAX: usize = 5 * 1024;

/// The strategy of admission policies.
pub(in crate::groups) struct Policies {
    pub(in crate::groups) mutating: bool,
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

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check_policy(obj, None, &mut errors);
        admission_limits::check_name(obj, &mut errors);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        admission_limits::name_warnings(obj, old)
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
            let (place, path) = (place.child("fieldRef"), tree::text(warning, "fieldRef").trim());
            if path.is_empty() {
                errors.push(Error::required(&place, ""));
            } else if let Some(why) = paths::problem(path) {
                errors.push(Error::invalid(&place, path, format!("invalid JSONPath: {why}")));
            }
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
            if self.mutating {
                check_mutable(constraints, &place, errors);
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
    let problems = names::dns1035_label(&names::lower(name));
    if name.is_empty() {
        errors.push(Error::required(&path.child("kind"), ""));
    } else if !problems.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.push(Error::invalid(&path.child("kind"), name, detail));
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
                errors.push(rules::not_supported(&place.child("patchType"), kind, &["ApplyConfiguration", "JSONPatch"]));
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
