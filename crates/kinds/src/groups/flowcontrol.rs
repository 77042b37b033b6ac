//! `flowcontrol.apiserver.k8s.io`: which requests belong together, and how many of them may be under way.

use super::checks;
use crate::{Strategy, internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::HashSet;

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// How many bits of a request's hash deal its hand of queues.
const HASH_BITS_MAX: u32 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// What the specs of the objects that nobody may change are; upstream makes them anew if they differ.
fn fixed(kind: &str, name: &str) -> Option<Value> {
    let everything = || json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let anywhere = || json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let groups = |names: &[&str]| -> Value {
        let subjects: Vec<Value> = names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect();
        json!([{"subjects": subjects, "resourceRules": everything(), "nonResourceRules": anywhere()}])
    };
    Some(match (kind, name) {
        ("FlowSchema", "exempt") => {
            json!({"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1, "rules": groups(&["system:masters"])})
        }
        ("FlowSchema", "catch-all") => json!({"priorityLevelConfiguration": {"name": "catch-all"}, "matchingPrecedence": 10000,
            "distinguisherMethod": {"type": "ByUser"}, "rules": groups(&["system:unauthenticated", "system:authenticated"])}),
        ("PriorityLevelConfiguration", "catch-all") => json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
            "lendablePercent": 0, "limitResponse": {"type": "Reject"}}}),
        _ => return None,
    })
}

fn check_fixed(obj: &Value, errors: &mut ErrorList) {
    let (kind, name, spec) = (tree::text(obj, "kind"), tree::text(&obj["metadata"], "name"), &obj["spec"]);
    let (differs, but) = match (kind, name) {
        // Only how little is held back by it is anybody's to say.
        ("PriorityLevelConfiguration", "exempt") => (spec["type"] != "Exempt" || !spec["limited"].is_null(), " except the 'spec.exempt' field"),
        _ => (fixed(kind, name).is_some_and(|fixed| fixed != *spec), ""),
    };
    if differs {
        let detail = format!("spec of '{name}'{but} must equal the fixed value");
        let shown = internal::text(&format!("flowcontrol.{kind}Spec"), spec);
        errors.push(Error::invalid(&Path::root("spec"), spec.clone(), detail).shown_as(shown));
    }
}

/// Conditions have a type, and each type once.
fn check_conditions(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::root("status").child("conditions");
    let mut seen = HashSet::new();
    for (at, condition) in tree::list(&obj["status"], "conditions").iter().enumerate() {
        let kind = tree::text(condition, "type");
        if !seen.insert(kind) {
            errors.push(rules::typed(Error::duplicate(&path.index(at).child("type"), kind)));
        }
        rules::required(condition, &path.index(at), "type", &mut errors);
    }
    errors
}

/// The strategy of both kinds, which differ in what is filled in and what is checked.
pub(super) struct FlowControl {
    default: fn(&mut Value),
    check: fn(&Value, &mut ErrorList),
}

/// Of flow schemas.
pub(super) const SCHEMAS: FlowControl = FlowControl { default: default_schema, check: check_schema };
/// Of priority levels.
pub(super) const LEVELS: FlowControl = FlowControl { default: default_level, check: check_level };

impl Strategy for FlowControl {
    fn default(&self, obj: &mut Value) {
        (self.default)(obj);
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Flow schemas are shown as they are tried.
    fn row_rank(&self) -> Option<fn(&Value) -> i64> {
        Some(|obj| obj["spec"]["matchingPrecedence"].as_i64().unwrap_or(0))
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        (self.check)(obj, errors);
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        check_conditions(obj)
    }
}

fn default_schema(obj: &mut Value) {
    let Some(spec) = tree::at(obj, &["spec"]) else { return };
    if spec.get("matchingPrecedence").is_none_or(|v| v.as_i64().unwrap_or(0) == 0) {
        spec.insert("matchingPrecedence".into(), 1000.into());
    }
}

fn check_schema(obj: &Value, errors: &mut ErrorList) {
    let (spec, path) = (&obj["spec"], Path::root("spec"));
    let (precedence, place) = (spec["matchingPrecedence"].as_i64().unwrap_or(0), path.child("matchingPrecedence"));
    let mut bad = |detail: String| errors.push(Error::invalid(&place, precedence, detail));
    if precedence <= 0 {
        bad("must be a positive value".into());
    }
    if precedence > PRECEDENCE_MAX {
        bad(format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && obj["metadata"]["name"] != "exempt" {
        bad("only the schema named 'exempt' may have matchingPrecedence 1".into());
    }
    let method = &spec["distinguisherMethod"];
    if !method.is_null() && !matches!(tree::text(method, "type"), "ByNamespace" | "ByUser") {
        let place = path.child("distinguisherMethod").child("type");
        // Upstream shows the whole method, in its internal form.
        let shown = json!({"Type": tree::text(method, "type")});
        errors.push(Error::not_supported(&place, shown, &["ByNamespace", "ByUser"]));
    }
    let (level, place) = (tree::text(&spec["priorityLevelConfiguration"], "name"), path.child("priorityLevelConfiguration").child("name"));
    match level {
        "" => errors.push(Error::required(&place, "must reference a priority level")),
        name => rules::name(name, &place, names::dns1123_subdomain(name), errors),
    }
    for (at, rule) in tree::list(spec, "rules").iter().enumerate() {
        check_rule(rule, &path.child("rules").index(at), errors);
    }
    check_fixed(obj, errors);
}

fn check_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let subjects = tree::list(rule, "subjects");
    if subjects.is_empty() {
        errors.push(Error::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (at, subject) in subjects.iter().enumerate() {
        check_subject(subject, &path.child("subjects").index(at), errors);
    }
    let (resources, others) = (tree::list(rule, "resourceRules"), tree::list(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        errors.push(Error::required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for (at, rule) in resources.iter().enumerate() {
        check_resources(rule, &path.child("resourceRules").index(at), errors);
    }
    for (at, rule) in others.iter().enumerate() {
        check_urls(rule, &path.child("nonResourceRules").index(at), errors);
    }
}

fn check_subject(subject: &Value, path: &Path, errors: &mut ErrorList) {
    let kind = tree::text(subject, "kind");
    let kinds = [("User", "user"), ("ServiceAccount", "serviceAccount"), ("Group", "group")];
    let Some((_, own)) = kinds.into_iter().find(|(name, _)| *name == kind) else {
        errors.push(rules::not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    let (value, place) = (&subject[own], path.child(own));
    if value.is_null() {
        errors.push(Error::required(&place, format!("{own} is required when subject kind is '{kind}'")));
    } else {
        let (name, namespace) = (tree::text(value, "name"), tree::text(value, "namespace"));
        if rules::required(value, &place, "name", errors) && own == "serviceAccount" && name != "*" {
            rules::name(name, &place.child("name"), names::dns1123_subdomain(name), errors);
        }
        if own == "serviceAccount" {
            match namespace {
                "" => errors.push(Error::required(&place.child("namespace"), "must specify namespace for service account")),
                namespace => rules::name(namespace, &place.child("namespace"), names::dns1123_label(namespace), errors),
            }
        }
    }
    for (name, field) in kinds.into_iter().filter(|(_, field)| *field != own && !subject[*field].is_null()) {
        errors.push(Error::forbidden(&path.child(field), format!("{field} is forbidden when subject kind is not '{name}'")));
    }
}

fn check_verbs(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let verbs = tree::list(rule, "verbs");
    if verbs.is_empty() {
        errors.push(Error::required(&path.child("verbs"), "verbs must contain at least one value"));
    } else if checks::has_wildcard(rule, "verbs") {
        checks::wildcard_alone(rule, "verbs", "verbs", path, errors);
    } else if checks::texts(rule, "verbs").any(|(_, verb)| !VERBS.contains(&verb)) {
        errors.push(Error::not_supported(&path.child("verbs"), verbs.to_vec(), &VERBS));
    }
}

fn check_resources(rule: &Value, path: &Path, errors: &mut ErrorList) {
    check_verbs(rule, path, errors);
    for (key, what) in [("apiGroups", "api group"), ("resources", "resource")] {
        if tree::list(rule, key).is_empty() {
            errors.push(Error::required(&path.child(key), format!("resource rules must supply at least one {what}")));
        }
        checks::wildcard_alone(rule, key, &format!("{what}s"), path, errors);
    }
    let place = path.child("namespaces");
    if tree::list(rule, "namespaces").is_empty() && rule["clusterScope"] != true {
        errors.push(Error::required(&place, "resource rules that are not cluster scoped must supply at least one namespace"));
    } else if checks::has_wildcard(rule, "namespaces") {
        checks::wildcard_alone(rule, "namespaces", "namespaces", path, errors);
    } else {
        for (at, namespace) in checks::texts(rule, "namespaces") {
            let problems = names::dns1123_label(namespace).into_iter().map(|m| format!("each member of this list must be '*' or a DNS-1123 label; {m}"));
            rules::name(namespace, &place.index(at), problems.collect(), errors);
        }
    }
}

fn check_urls(rule: &Value, path: &Path, errors: &mut ErrorList) {
    check_verbs(rule, path, errors);
    let place = path.child("nonResourceURLs");
    if tree::list(rule, "nonResourceURLs").is_empty() {
        errors.push(Error::required(&place, "nonResourceURLs must contain at least one value"));
    } else if checks::has_wildcard(rule, "nonResourceURLs") {
        checks::wildcard_alone(rule, "nonResourceURLs", "non-resource URLs", path, errors);
    } else {
        for (at, url) in checks::texts(rule, "nonResourceURLs") {
            let detail = if url.is_empty() {
                "must not be empty"
            } else if url == "/" {
                continue;
            } else if !url.starts_with('/') {
                "must start with slash"
            } else if url.contains(' ') {
                "must not contain white-space"
            } else if url.contains("//") {
                "must not contain double slash"
            } else if url.find('*').is_some_and(|star| star + 1 != url.len() || !url.ends_with("/*")) {
                "wildcard can only do suffix matching"
            } else {
                continue;
            };
            errors.push(Error::invalid(&place.index(at), url, detail));
        }
    }
}

fn default_level(obj: &mut Value) {
    let Some(spec) = tree::at(obj, &["spec"]) else { return };
    for (kind, shares) in [("limited", 30), ("exempt", 0)] {
        let Some(level) = tree::present(spec, kind) else { continue };
        tree::fill(level, "nominalConcurrencyShares", shares);
        tree::fill(level, "lendablePercent", 0);
        let Some(queuing) = tree::present(level, "limitResponse").and_then(|r| tree::present(r, "queuing")) else { continue };
        for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            if queuing.get(field).is_none_or(|v| v.as_i64().unwrap_or(0) == 0) {
                queuing.insert(field.into(), value.into());
            }
        }
    }
}

fn check_level(obj: &Value, errors: &mut ErrorList) {
    let (spec, path) = (&obj["spec"], Path::root("spec"));
    let (kind, place) = (tree::text(spec, "type"), path.child("type"));
    if (obj["metadata"]["name"] == "exempt") != (kind == "Exempt") {
        errors.push(Error::invalid(&place, kind, "must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
    match kind {
        "Exempt" => {
            check_shares(exempt, &path.child("exempt"), errors);
            check_percent(exempt, &path.child("exempt"), errors);
        }
        "Limited" if limited.is_object() => check_limited(limited, &path.child("limited"), errors),
        "Limited" | "" => {}
        other => errors.push(rules::not_supported(&place, other, &["Exempt", "Limited"])),
    }
    check_fixed(obj, errors);
    // What upstream declares it looks at last: first which part goes with the type, then the type.
    for (own, part, value) in [("Exempt", "exempt", exempt), ("Limited", "limited", limited)] {
        match (kind == own, value.is_null()) {
            (true, true) if own == "Limited" => errors.push(Error::required(&path.child(part), "")),
            (false, false) => errors.push(Error::forbidden(&path.child(part), "")),
            _ => {}
        }
    }
    if kind.is_empty() {
        errors.push(Error::required(&place, ""));
    }
    if limited.is_object() {
        let (response, place) = (&limited["limitResponse"], path.child("limited").child("limitResponse"));
        match (response["type"] == "Queue", response["queuing"].is_null()) {
            (true, true) => errors.push(Error::required(&place.child("queuing"), "")),
            (false, false) => errors.push(Error::forbidden(&place.child("queuing"), "")),
            _ => {}
        }
        rules::required(response, &place, "type", errors);
    }
}

fn check_shares(level: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(shares) = level["nominalConcurrencyShares"].as_i64().filter(|n| *n < 0) {
        errors.push(Error::invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer"));
    }
}

fn check_percent(level: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(percent) = level["lendablePercent"].as_i64().filter(|n| !(0..=100).contains(n)) {
        errors.push(Error::invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive"));
    }
}

fn check_limited(limited: &Value, path: &Path, errors: &mut ErrorList) {
    check_shares(limited, path, errors);
    let (response, place) = (&limited["limitResponse"], path.child("limitResponse"));
    let (queuing, queues) = (&response["queuing"], place.child("queuing"));
    match tree::text(response, "type") {
        "Queue" if queuing.is_object() => check_queuing(queuing, &queues, errors),
        "Reject" | "Queue" | "" => {}
        other => errors.push(rules::not_supported(&place.child("type"), other, &["Queue", "Reject"])),
    }
    check_percent(limited, path, errors);
    if let Some(percent) = limited["borrowingLimitPercent"].as_i64().filter(|n| *n < 0) {
        errors.push(Error::invalid(&path.child("borrowingLimitPercent"), percent, "if specified, must be a non-negative integer"));
    }
}

fn check_queuing(queuing: &Value, path: &Path, errors: &mut ErrorList) {
    let number = |key: &str| queuing[key].as_i64().unwrap_or(0);
    let mut bad = |key: &str, detail: String| errors.push(Error::invalid(&path.child(key), number(key), detail));
    let (queues, hand) = (number("queues"), number("handSize"));
    if number("queueLengthLimit") <= 0 {
        bad("queueLengthLimit", "must be positive".into());
    }
    if queues <= 0 {
        bad("queues", "must be positive".into());
    } else if queues > QUEUES_MAX {
        bad("queues", format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand <= 0 {
        bad("handSize", "must be positive".into());
    } else if hand > queues {
        bad("handSize", format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS_MAX {
        let detail = format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}");
        bad("handSize", detail);
    }
}

/// How many bits it takes to choose a hand out of a deck, card by card with every card put back.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    ((deck as f64).log2() * hand as f64).ceil() as u32
}
