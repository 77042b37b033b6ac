//! What a CustomResourceDefinition says of itself: the conditions of its status, and what they follow from.
//!
//! Source: `apiextensions-apiserver/pkg/controller/{status,establish,nonstructuralschema,apiapproval}`, `pkg/apihelpers`.

use crate::{custom, groups::definition::structural, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    quote::Quoted,
    time,
};
use serde_json::{Map, json};
use std::{collections::HashSet, time::SystemTime};

/// Holds a definition until its instances are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Who agreed to an API of the community's groups.
pub const APPROVAL: &str = "api-approved.kubernetes.io";
/// Why a definition is not established whose webhook nobody could trust.
const UNTRUSTED: &str = "InvalidCABundle";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// Whether a note is a URL with a host, as Go's `url.ParseRequestURI` reads it.
pub(crate) fn is_link(note: &str) -> bool {
    let Some((scheme, rest)) = note.split_once("://") else { return false };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let of_a_host = |b: u8| !b.is_ascii() || b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&b);
    let of_a_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(of_a_scheme);
    named && !host.is_empty() && host.bytes().all(of_a_host) && !note.bytes().any(|b| b.is_ascii_control())
}

/// A condition without a time.
pub fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message})
}

/// Notes a condition; its time is that of the last change of its status.
pub fn set_condition(definition: &mut Value, condition: Value, now: SystemTime) {
    let Some(status) = tree::at(definition, &["status"]) else { return };
    if !status.get("conditions").is_some_and(Value::is_array) {
        status.insert("conditions".into(), Value::Array(Vec::new()));
    }
    let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    let at = list.iter().position(|c| c["type"] == condition["type"]);
    let mut next = condition;
    let kept = at.and_then(|at| list.get(at)).filter(|had| had["status"] == next["status"] && !tree::empty(&had["lastTransitionTime"]));
    next["lastTransitionTime"] = kept.map_or_else(|| time::rfc3339(now).into(), |had| had["lastTransitionTime"].clone());
    match at.and_then(|at| list.get_mut(at)) {
        Some(slot) => {
            // What else stands in it is not the server's to take away.
            for (key, value) in next.as_object().into_iter().flatten() {
                slot[key] = value.clone();
            }
        }
        None => list.push(next),
    }
}

/// Whether a condition of the status is `True`.
pub fn holds(definition: &Value, kind: &str) -> bool {
    find(definition, kind).is_some_and(|condition| condition["status"] == "True")
}

fn find<'v>(definition: &'v Value, kind: &str) -> Option<&'v Value> {
    tree::list(&definition["status"], "conditions").iter().find(|condition| condition["type"] == kind)
}

/// What is known of the structure of a definition's schemas.
#[derive(Debug, Clone, PartialEq)]
pub enum Structure {
    /// Nobody has looked yet: what is said of it stays.
    Unseen,
    /// What [`structure`] says of it.
    Seen(Option<Value>),
}

/// What the program has found out about a definition, by which its status is settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    /// What its schemas are.
    pub structure: Structure,
    /// Whether the webhook that converts, if there is one, names authorities that can be read, or none.
    pub trusts: bool,
}

/// The definition with what its names, its approval and its establishing make of its status. `others` are the names that the
/// other definitions of its group have. Its schemas are not looked at, so they may be left out.
pub fn settled<'v>(definition: &Value, others: impl Iterator<Item = &'v Value>, found: Findings, now: SystemTime) -> Value {
    let mut next = definition.clone();
    // Upstream's controllers race; the one that asks nobody, this, is mostly the first.
    settle_approval(&mut next, now);
    settle_names(&mut next, others, now);
    settle_establishing(&mut next, found.trusts, now);
    if let Structure::Seen(structure) = found.structure {
        settle_structure(&mut next, structure, now);
    }
    next
}

/// What its schemas make of a definition that an older server has let in: the condition that they are not structural; none if they
/// are.
pub fn structure(definition: &Value) -> Option<Value> {
    const KIND: &str = "NonStructuralSchema";
    let spec = &definition["spec"];
    let mut errors = ErrorList::new();
    if spec["preserveUnknownFields"] == true {
        errors.push(Error::invalid(&Path::root("spec").child("preserveUnknownFields"), true, "must be false"));
    }
    for (at, version) in tree::list(spec, "versions").iter().enumerate() {
        let Some(schema) = custom::schema_of(version) else { continue };
        if let Some(why) = structural::unfit(schema) {
            let message = format!("failed to check validation schema for version {}: {why}", tree::text(version, "name"));
            return Some(json!({"type": KIND, "status": "Unknown", "reason": "StructuralError", "message": message}));
        }
        errors.extend(structural::check(schema, &Path::root("spec").child("versions").index(at).child("schema").child("openAPIV3Schema")));
    }
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [] => None,
        [one] => Some(condition(KIND, true, "Violations", one)),
        many => Some(condition(KIND, true, "Violations", &format!("[{}]", many.join(", ")))),
    }
}

fn settle_structure(definition: &mut Value, structure: Option<Value>, now: SystemTime) {
    let before = find(definition, "NonStructuralSchema");
    match structure {
        None if before.is_some() => {
            let list = tree::at(definition, &["status"]).and_then(|status| status.get_mut("conditions")).and_then(Value::as_array_mut);
            list.into_iter().for_each(|list| list.retain(|condition| condition["type"] != "NonStructuralSchema"));
        }
        Some(next) if before.is_none_or(|before| ["status", "reason", "message"].iter().any(|key| before[*key] != next[*key])) => {
            set_condition(definition, next, now);
        }
        _ => {}
    }
}

fn settle_names<'v>(definition: &mut Value, others: impl Iterator<Item = &'v Value>, now: SystemTime) {
    let wanted = definition["spec"]["names"].clone();
    let had = definition["status"]["acceptedNames"].clone();
    if !same_names(&wanted, &had) {
        let (mut resources, mut kinds) = (HashSet::new(), HashSet::new());
        let own = had.clone();
        let others: Vec<&Value> = others.collect();
        for names in others.into_iter().chain([&own]) {
            resources.extend(["plural", "singular"].map(|key| tree::text(names, key)));
            resources.extend(tree::list(names, "shortNames").iter().filter_map(Value::as_str));
            kinds.extend(["kind", "listKind"].map(|key| tree::text(names, key)));
        }
        let (accepted, conflict) = accept(&wanted, &had, &resources, &kinds);
        let names = match conflict {
            Some((reason, message)) => condition("NamesAccepted", false, reason, &message),
            None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        };
        let accepting = names["status"] == "True";
        let before = find(definition, "NamesAccepted");
        let news = accepted != had || before.is_none_or(|before| ["status", "reason", "message"].iter().any(|key| before[*key] != names[*key]));
        if news {
            if let Some(status) = tree::at(definition, &["status"]) {
                status.insert("acceptedNames".into(), accepted);
            }
            set_condition(definition, names, now);
            if !accepting && find(definition, "Established").is_none() {
                set_condition(definition, condition("Established", false, "NotAccepted", "not all names are accepted"), now);
            }
        }
    }
}

/// Who has been established stays so; who has its names is, unless nobody could trust the webhook that converts its objects.
fn settle_establishing(definition: &mut Value, trusts: bool, now: SystemTime) {
    if !holds(definition, "NamesAccepted") || holds(definition, "Established") {
        return;
    }
    let next = match trusts {
        true => condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted"),
        false => condition("Established", false, UNTRUSTED, "The conversion webhook CABundle is invalid"),
    };
    set_condition(definition, next, now);
}

/// Whether a definition waits for authorities of its webhook that can be read: its names are its own and it is served, and nobody is told of it.
pub fn waits_for_trust(definition: &Value) -> bool {
    find(definition, "Established").is_some_and(|condition| condition["status"] != "True" && condition["reason"] == UNTRUSTED)
}

fn same_names(a: &Value, b: &Value) -> bool {
    let texts = ["plural", "singular", "kind", "listKind"].iter().all(|key| tree::text(a, key) == tree::text(b, key));
    texts && ["shortNames", "categories"].iter().all(|key| tree::list(a, key) == tree::list(b, key))
}

/// The names that are accepted, and the last conflict among those that are not.
fn accept(wanted: &Value, had: &Value, resources: &HashSet<&str>, kinds: &HashSet<&str>) -> (Value, Option<(&'static str, String)>) {
    let mut accepted = had.as_object().cloned().unwrap_or_default();
    let mut conflict = None;
    let taken = |name: &str, own: &str, used: &HashSet<&str>| (name != own && used.contains(name)).then(|| format!("{name:?} is already in use"));
    let mut one = |key: &str, reason: &'static str, used: &HashSet<&str>, accepted: &mut Map<String, Value>| match taken(
        tree::text(wanted, key),
        tree::text(had, key),
        used,
    ) {
        Some(message) => conflict = Some((reason, message)),
        None => drop(accepted.insert(key.to_owned(), tree::text(wanted, key).into())),
    };
    one("plural", "PluralConflict", resources, &mut accepted);
    one("singular", "SingularConflict", resources, &mut accepted);
    let (short, own) = (tree::list(wanted, "shortNames"), tree::list(had, "shortNames"));
    let mut short_conflict = None;
    if short != own {
        let mut told = HashSet::new();
        let theirs = short.iter().filter(|name| !own.contains(name)).filter_map(Value::as_str).filter(|name| told.insert(*name));
        let messages: Vec<String> = theirs.filter_map(|name| taken(name, "", resources)).collect();
        short_conflict = match messages.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(format!("[{}]", several.join(", "))),
        };
        match (short_conflict.is_some(), short.is_empty()) {
            (true, _) => {}
            (false, true) => drop(accepted.remove("shortNames")),
            (false, false) => drop(accepted.insert("shortNames".into(), short.to_vec().into())),
        }
    }
    let early = conflict.take();
    let mut conflict = short_conflict.map(|message| ("ShortNamesConflict", message)).or(early);
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        match taken(tree::text(wanted, key), tree::text(had, key), kinds) {
            Some(message) => conflict = Some((reason, message)),
            None => drop(accepted.insert(key.to_owned(), tree::text(wanted, key).into())),
        }
    }
    match tree::list(wanted, "categories") {
        [] => drop(accepted.remove("categories")),
        categories => drop(accepted.insert("categories".into(), categories.to_vec().into())),
    }
    (Value::Object(accepted), conflict)
}

/// Whether the community's rules say who may have a group.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn settle_approval(definition: &mut Value, now: SystemTime) {
    if !is_protected(tree::text(&definition["spec"], "group")) {
        return;
    }
    let note = tree::text(&definition["metadata"]["annotations"], APPROVAL).to_owned();
    let is_url = is_link(&note);
    let (holds, reason, message) = match note.as_str() {
        "" => (false, "MissingAnnotation", format!("protected groups must have approval annotation {APPROVAL:?}, {SEE}")),
        note if note.starts_with("unapproved") => (false, "UnapprovedAnnotation", format!("not approved: {}", Quoted(note))),
        note if is_url => (true, "ApprovedAnnotation", format!("approved in {note}")),
        _ => {
            let wanted = "with either a URL or a reason starting with \"unapproved\"";
            (false, "InvalidAnnotation", format!("protected groups must have approval annotation {APPROVAL:?} {wanted}, {SEE}"))
        }
    };
    let next = condition("KubernetesAPIApprovalPolicyConformant", holds, reason, &message);
    let before = find(definition, "KubernetesAPIApprovalPolicyConformant");
    if before.is_none_or(|before| ["status", "reason", "message"].iter().any(|key| before[*key] != next[*key])) {
        set_condition(definition, next, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_approval_of_a_group_is_told_first() {
        let spec = json!({"group": "a.k8s.io", "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}});
        let found = Findings { structure: Structure::Unseen, trusts: true };
        let made = settled(&json!({"metadata": {}, "spec": spec, "status": {}}), [].into_iter(), found.clone(), SystemTime::UNIX_EPOCH);
        let kinds: Vec<&str> = tree::list(&made["status"], "conditions").iter().map(|condition| tree::text(condition, "type")).collect();
        assert_eq!(kinds, ["KubernetesAPIApprovalPolicyConformant", "NamesAccepted", "Established"]);

        let note = json!({"annotations": {(APPROVAL): "unapproved\u{200b}"}});
        let made = settled(&json!({"metadata": note, "spec": spec, "status": {}}), [].into_iter(), found, SystemTime::UNIX_EPOCH);
        assert_eq!(made["status"]["conditions"][0]["message"], r#"not approved: "unapproved\u200b""#, "as Go quotes it");
    }

    #[test]
    fn a_short_name_that_is_taken_is_told_of_once() {
        let names = |short: Value| json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "AList", "shortNames": short});
        let other = json!({"plural": "bs", "singular": "b", "kind": "B", "listKind": "BList", "shortNames": ["x", "y"]});
        let spec = json!({"group": "a.b", "names": names(json!(["x", "y", "x"]))});
        let found = Findings { structure: Structure::Unseen, trusts: true };
        let made = settled(&json!({"metadata": {}, "spec": spec, "status": {}}), [&other].into_iter(), found, SystemTime::UNIX_EPOCH);
        let told = find(&made, "NamesAccepted").map(|told| (told["reason"].clone(), told["message"].clone()));
        assert_eq!(told, Some((json!("ShortNamesConflict"), json!(r#"["x" is already in use, "y" is already in use]"#))));
    }

    #[test]
    fn a_definition_waits_for_authorities_that_can_be_read_and_keeps_what_it_has_become() {
        let spec = json!({"group": "a.b", "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}});
        let settle =
            |definition: &Value, trusts: bool| settled(definition, [].into_iter(), Findings { structure: Structure::Unseen, trusts }, SystemTime::UNIX_EPOCH);
        let established = |definition: &Value| find(definition, "Established").map(|told| (told["status"].clone(), told["reason"].clone()));
        let waiting = settle(&json!({"metadata": {}, "spec": spec, "status": {}}), false);
        assert_eq!(established(&waiting), Some((json!("False"), json!("InvalidCABundle"))));
        assert!(waits_for_trust(&waiting) && holds(&waiting, "NamesAccepted"));
        assert_eq!(settle(&waiting, false), waiting, "what is said already is not said again");
        let made = settle(&waiting, true);
        assert_eq!(established(&made), Some((json!("True"), json!("InitialNamesAccepted"))));
        assert!(!waits_for_trust(&made) && settle(&made, false) == made);
    }

    #[test]
    fn schemas_that_are_not_structural_are_told_until_they_are() {
        let definition = |schema: Value| json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}, "status": {}});
        let at = "spec.versions[0].schema.openAPIV3Schema";
        let now = SystemTime::UNIX_EPOCH;
        let right = definition(json!({"type": "object", "properties": {"a": {"type": "string"}}}));
        assert_eq!(structure(&right), None);
        let told = structure(&definition(json!({"type": "object", "properties": {"a": {}}}))).expect("a violation");
        let message = format!("{at}.properties[a].type: Required value: must not be empty for specified object fields");
        assert_eq!(told, condition("NonStructuralSchema", true, "Violations", &message));
        let two = structure(&definition(json!({"properties": {"a": {}}}))).expect("violations");
        assert!(two["message"].as_str().is_some_and(|text| text.starts_with('[') && text.ends_with(']') && text.contains(", spec.")), "{two}");
        let unfit = structure(&definition(json!({"type": "object", "$ref": "#/x"}))).expect("no structure");
        assert_eq!((&unfit["status"], &unfit["reason"]), (&json!("Unknown"), &json!("StructuralError")));
        assert_eq!(unfit["message"], "failed to check validation schema for version v1: OpenAPIV3Schema '$ref' is not supported");

        let mut settled = right;
        settle_structure(&mut settled, Some(told.clone()), now);
        assert!(holds(&settled, "NonStructuralSchema"));
        let before = settled.clone();
        settle_structure(&mut settled, Some(told), SystemTime::now());
        assert_eq!(settled, before, "what is said already is not said again");
        settle_structure(&mut settled, None, now);
        assert_eq!(settled["status"]["conditions"], json!([]));
    }
}
