//! Limit ranges and resource quotas (`pkg/apis/core/validation`).

use crate::{Strategy, amounts, internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quantity::Quantity,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The strategy of limit ranges.
#[derive(Debug, Clone, Copy)]
pub struct LimitRanges;

impl Strategy for LimitRanges {
    fn is_named(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        for limit in tree::each(spec, "limits").filter(|l| l.get("type").is_some_and(|t| t == "Container")) {
            // What is not said follows: limit from max, request from limit, else from min.
            for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
                let Some(Value::Object(source)) = limit.get(from).cloned() else { continue };
                if source.is_empty() {
                    continue;
                }
                if let Some(target) = tree::child(limit, to) {
                    source.into_iter().for_each(|(name, value)| tree::fill(target, &name, value));
                }
            }
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let mut seen = HashSet::new();
        for (at, limit) in tree::list(&obj["spec"], "limits").iter().enumerate() {
            let (path, kind) = (Path::root("spec.limits").index(at), tree::text(limit, "type"));
            check_type(kind, &path.child("type"), errors);
            if !seen.insert(kind) {
                errors.push(rules::typed(Error::duplicate(&path.child("type"), kind)));
            }
            check_names(limit, kind, &path, errors);
            check_order(limit, &path, errors);
        }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn reset_fields(&self, _subresource: &str) -> &'static [&'static [&'static str]] {
        &[]
    }
}

fn check_type(kind: &str, path: &Path, errors: &mut ErrorList) {
    let problems = names::qualified_name(kind);
    if problems.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        errors.push(rules::typed(Error::invalid(path, kind, "must be a standard limit type or fully qualified")));
    }
    errors.extend(problems.into_iter().map(|m| rules::typed(Error::invalid(path, kind, m))));
}

fn check_names(limit: &Value, kind: &str, path: &Path, errors: &mut ErrorList) {
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if kind == "Pod" && field.starts_with("default") {
            if !tree::empty(&limit[field]) {
                errors.push(Error::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        if field == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" && limit["min"]["storage"].is_null() && limit["max"]["storage"].is_null() {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(Error::required(&path.child("limits"), detail));
        }
        for (name, _) in tree::entries(limit, field) {
            let place = path.child(field).key(name);
            match kind {
                "Pod" | "Container" => amounts::of_container(name, &place, errors),
                _ => {
                    amounts::name(name, &place, errors);
                }
            }
        }
    }
}

fn check_order(limit: &Value, path: &Path, errors: &mut ErrorList) {
    let of = |field: &str| -> BTreeMap<&str, Quantity> { rules::quantities(&limit[field]) };
    let (max, min, ratio) = (of("max"), of("min"), of("maxLimitRequestRatio"));
    // Pods have no defaults; that they are given is said elsewhere.
    let (default, request) = if limit["type"] == "Pod" { Default::default() } else { (of("default"), of("defaultRequest")) };
    let keys: BTreeSet<&str> = [&max, &min, &default, &request, &ratio].iter().flat_map(|m| m.keys().copied()).collect();
    for key in keys {
        let mut above = |low: Option<&Quantity>, high: Option<&Quantity>, field: &str, shown: bool, words: (&str, &str)| {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let value = if shown { low } else { high };
                let detail = format!("{} {low} is greater than {} {high}", words.0, words.1);
                errors.push(Error::invalid(&path.child(field).key(key), value.to_string(), detail));
            }
        };
        let (max, min, default, request) = (max.get(key), min.get(key), default.get(key), request.get(key));
        above(min, max, "min", true, ("min value", "max value"));
        above(min, request, "defaultRequest", false, ("min value", "default request value"));
        above(request, max, "defaultRequest", true, ("default request value", "max value"));
        above(request, default, "defaultRequest", true, ("default request value", "default limit value"));
        above(min, default, "default", true, ("min value", "default value"));
        above(default, max, "default", false, ("default value", "max value"));
        if let Some(ratio) = ratio.get(key) {
            check_ratio(*ratio, min, max, &path.child("maxLimitRequestRatio").key(key), errors);
        }
        if let (Some(default), Some(request)) = (default, request)
            && default != request
            && !amounts::may_overcommit(key)
        {
            let detail = format!("default value {default} must equal to defaultRequest value {request} in {key}");
            errors.push(Error::invalid(&path.child("defaultRequest").key(key), request.to_string(), detail));
        }
    }
}

fn check_ratio(ratio: Quantity, min: Option<&Quantity>, max: Option<&Quantity>, path: &Path, errors: &mut ErrorList) {
    if ratio.as_f64() < 1.0 {
        errors.push(Error::invalid(path, ratio.to_string(), format!("ratio {ratio} is less than 1")));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let most = max.as_f64() / min.as_f64();
        if ratio.as_f64() > most {
            errors.push(Error::invalid(path, ratio.to_string(), format!("ratio {ratio} is greater than max/min = {most:.6}")));
        }
    }
}

const SCOPES: [&str; 7] =
    ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity", "VolumeAttributesClass"];
const EXISTS_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
    ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

/// The strategy of resource quotas.
#[derive(Debug, Clone, Copy)]
pub struct ResourceQuotas;

impl Strategy for ResourceQuotas {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        hard(spec, "hard", &path, errors);
        let scopes: Vec<&str> = tree::list(spec, "scopes").iter().filter_map(Value::as_str).collect();
        let place = path.child("scopes");
        for scope in &scopes {
            one_scope(scope, spec, &place, &place, &spec["scopes"], errors);
        }
        conflicting(&scopes, spec, &place, errors);
        scope_selector(spec, &path.child("scopeSelector").child("matchExpressions"), errors);
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let scopes = |v: &'_ Value| tree::list(&v["spec"], "scopes").iter().map(Value::to_string).collect::<BTreeSet<_>>();
        if scopes(obj) != scopes(old) {
            errors.push(Error::invalid(&Path::root("spec.scopes"), obj["spec"]["scopes"].clone(), rules::IMMUTABLE));
        }
    }

    /// Whoever makes one that lets more be asked for than be allowed.
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let hard = rules::quantities(&obj["spec"]["hard"]);
        let warning = |resource: &str| {
            let (prefixed, limit) = (format!("requests.{resource}"), format!("limits.{resource}"));
            let bare = !hard.contains_key(prefixed.as_str()) && matches!(resource, "cpu" | "memory");
            let request = if bare { resource } else { prefixed.as_str() };
            let (asked, allowed) = (hard.get(request)?, hard.get(limit.as_str())?);
            (asked > allowed).then(|| format!("ResourceQuota {request} ({asked}) should be less than {limit} ({allowed})"))
        };
        if old.is_some() { Vec::new() } else { ["cpu", "memory", "storage", "ephemeral-storage"].into_iter().filter_map(warning).collect() }
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["hard", "used"] {
            hard(&obj["status"], field, &Path::root("status"), &mut errors);
        }
        errors
    }
}

fn hard(owner: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    for (name, value) in tree::entries(owner, field) {
        let place = path.child(field).key(name);
        amounts::of_quota(name, &place, errors);
        amounts::amount(name, value, &place, errors);
    }
}

/// Whether quotas of a scope can count a resource at all.
fn fits(scope: &str, resource: &str) -> bool {
    let compute = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => resource == "pods" || compute.contains(&resource),
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn one_scope(scope: &str, spec: &Value, place: &Path, list: &Path, shown: &Value, errors: &mut ErrorList) {
    if !SCOPES.contains(&scope) {
        let value = if place == list { shown.clone() } else { scope.into() };
        errors.push(rules::typed(Error::invalid(place, value, "unsupported scope")));
    }
    let mut selector = None;
    for _ in tree::entries(spec, "hard").filter(|(name, _)| amounts::is_quota(name) && !fits(scope, name)) {
        // Scopes times resources may be many, and each error holds all scopes.
        if errors.len() >= rules::LISTS_TOLD_MAX {
            return;
        }
        let error = Error::invalid(list, shown.clone(), "unsupported scope applied to resource");
        errors.push(match shown {
            Value::Object(_) => error.shown_as(selector.get_or_insert_with(|| internal::text("core.ScopeSelector", shown)).clone()),
            _ => error,
        });
    }
}

fn conflicting(scopes: &[&str], spec: &Value, place: &Path, errors: &mut ErrorList) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.push(Error::invalid(place, spec["scopes"].clone(), "conflicting scopes"));
        }
    }
}

fn scope_selector(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut scopes = Vec::new();
    for term in tree::list(&spec["scopeSelector"], "matchExpressions") {
        let (scope, operator, values) = (tree::text(term, "scopeName"), tree::text(term, "operator"), tree::list(term, "values"));
        one_scope(scope, spec, &path.child("scopeName"), path, &spec["scopeSelector"], errors);
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope) && operator != "Exists" {
            errors.push(rules::typed(Error::invalid(&path.child("operator"), operator, EXISTS_ONLY)));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(Error::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(Error::invalid(&path.child("values"), values, detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(rules::typed(Error::invalid(&path.child("operator"), other, "not a valid selector operator"))),
        }
        scopes.push(scope);
    }
    conflicting(&scopes, spec, path, errors);
}
