//! `apiextensions.k8s.io` and `apiregistration.k8s.io`: what adds to the API. Custom resource definitions, and services that
//! answer for whole groups.
//!
//! What all versions of a definition have in common upstream checks at the top of the spec, where older definitions had it;
//! the paths of the errors say so.

use super::definition_rules::{self, Options, Preexisting};
use super::{checks, structural};
use crate::{Context, NameRule, Strategy, definitions, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names, time,
};
use serde_json::json;
use std::time::SystemTime;

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const WARNING_MAX_CHARS: usize = 256;

/// The strategy of custom resource definitions.
pub(super) struct Definitions;

impl Strategy for Definitions {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        if let Some(names) = tree::present(spec, "names") {
            let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            tree::fill_text(names, "singular", &kind.to_lowercase());
            if !kind.is_empty() {
                tree::fill_text(names, "listKind", &format!("{kind}List"));
            }
        }
        tree::fill(spec, "conversion", json!({"strategy": "None"}));
        let config = tree::present(spec, "conversion").and_then(|c| tree::present(c, "webhook")).and_then(|w| tree::present(w, "clientConfig"));
        if let Some(service) = config.and_then(|c| tree::present(c, "service")) {
            tree::fill(service, "port", 443);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        tree::set_meta(obj, "generation", 1.into());
        note_stored(obj);
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        if tree::body_differs(obj, old) {
            tree::bump_generation(obj, old);
        }
        note_stored(obj);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (name, spec) = (tree::text(&obj["metadata"], "name"), &obj["spec"]);
        let place = Path::root("metadata").child("name");
        rules::name(name, &place, names::dns1123_subdomain(name), &mut errors);
        if name != format!("{}.{}", tree::text(&spec["names"], "plural"), tree::text(spec, "group")) {
            errors.push(Error::invalid(&place, name, "must be spec.names.plural+\".\"+spec.group"));
        }
        check_spec(spec, None, &mut errors);
        check_names(&obj["status"]["acceptedNames"], &Path::root("status").child("acceptedNames"), &mut errors);
        check_stored(obj, &mut errors);
        check_approval(obj, None, &mut errors);
        if spec["preserveUnknownFields"] == true {
            let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.push(Error::invalid(&Path::root("spec").child("preserveUnknownFields"), true, detail));
        }
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, had, path) = (&obj["spec"], &old["spec"], Path::root("spec"));
        check_spec(spec, Some(had), &mut errors);
        let established = tree::list(&old["status"], "conditions").iter().any(|c| c["type"] == "Established" && c["status"] == "True");
        if established {
            rules::immutable(&spec["scope"], &had["scope"], &path.child("scope"), &mut errors);
            rules::immutable(&spec["names"]["kind"], &had["names"]["kind"], &path.child("names").child("kind"), &mut errors);
        }
        rules::immutable(&spec["group"], &had["group"], &path.child("group"), &mut errors);
        rules::immutable(&spec["names"]["plural"], &had["names"]["plural"], &path.child("names").child("plural"), &mut errors);
        check_stored(obj, &mut errors);
        check_approval(obj, Some(old), &mut errors);
        errors
    }

    /// All instances go before their definition: until they are gone the server's own finalizer holds it.
    fn mark_deleted(&self, obj: &Value, now: SystemTime) -> Option<Value> {
        let mut marked = obj.clone();
        tree::set_meta(&mut marked, "deletionTimestamp", time::rfc3339(now).into());
        let metadata = tree::at(&mut marked, &["metadata"])?;
        tree::fill(metadata, "finalizers", Vec::<Value>::new());
        let finalizers = metadata.get_mut("finalizers")?.as_array_mut()?;
        if !finalizers.iter().any(|name| name == definitions::FINALIZER) {
            finalizers.push(definitions::FINALIZER.into());
        }
        let terminating = definitions::condition(
            "Terminating",
            true,
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        );
        definitions::set_condition(&mut marked, terminating, now);
        Some(marked)
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_names(&obj["status"]["acceptedNames"], &Path::root("status").child("acceptedNames"), &mut errors);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The version that objects are stored in is among those that were ever stored.
fn note_stored(obj: &mut Value) {
    let storage = tree::list(&obj["spec"], "versions").iter().find(|v| v["storage"] == true);
    let Some(name) = storage.map(|v| v["name"].clone()) else { return };
    let Some(status) = tree::at(obj, &["status"]) else { return };
    match status.get_mut("storedVersions").and_then(Value::as_array_mut) {
        Some(list) if list.contains(&name) => {}
        Some(list) => list.push(name),
        None => {
            status.insert("storedVersions".into(), vec![name].into());
        }
    }
}

fn check_stored(obj: &Value, errors: &mut ErrorList) {
    let path = Path::root("status").child("storedVersions");
    let (stored, versions) = (tree::list(&obj["status"], "storedVersions"), tree::list(&obj["spec"], "versions"));
    if stored.is_empty() {
        errors.push(Error::invalid(&path, Value::Array(Vec::new()), "must have at least one stored version"));
        return;
    }
    for version in versions.iter().filter(|v| v["storage"] == true && !stored.contains(&v["name"])) {
        let detail = format!("must have the storage version {}", tree::text(version, "name"));
        errors.push(Error::invalid(&path, stored.to_vec(), detail));
    }
    for (at, name) in checks::texts(&obj["status"], "storedVersions").filter(|(_, name)| !versions.iter().any(|v| v["name"] == *name)) {
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage \
             migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        errors.push(Error::invalid(&path.index(at), name, detail));
    }
}

/// Groups of the community need a note of who agreed to them.
fn check_approval(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let group = tree::text(&obj["spec"], "group");
    let is_community = ["k8s.io", "kubernetes.io"].iter().any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let state = |obj: &Value| {
        let note = tree::text(&obj["metadata"]["annotations"], APPROVAL);
        let is_url = note.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/'));
        match note {
            "" => 0,
            note if note.starts_with("unapproved") => 1,
            _ if is_url => 2,
            _ => 3,
        }
    };
    if !is_community || old.is_some_and(|old| state(old) == state(obj)) {
        return;
    }
    let path = Path::root("metadata").child("annotations").key(APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state(obj) {
        0 => errors.push(Error::required(&path, format!("protected groups must have approval annotation {APPROVAL:?}, {see}"))),
        3 => {
            let detail =
                format!("protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", {see}");
            errors.push(Error::invalid(&path, obj["metadata"]["annotations"][APPROVAL].clone(), detail));
        }
        _ => {}
    }
}

fn check_spec(spec: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let path = Path::root("spec");
    let (group, place) = (tree::text(spec, "group"), path.child("group"));
    let problems = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(Error::required(&place, ""));
    } else if !problems.is_empty() {
        checks::joined(group, &place, &problems, errors);
    } else if !group.contains('.') {
        errors.push(Error::invalid(&place, group, "should be a domain with at least one dot"));
    }
    rules::one_of(&spec["scope"], &path.child("scope"), &["Cluster", "Namespaced"], errors);
    let (versions, place) = (tree::list(spec, "versions"), path.child("versions"));
    for (at, version) in versions.iter().enumerate() {
        if version["schema"]["openAPIV3Schema"].is_null() {
            errors.push(Error::required(&place.index(at).child("schema").child("openAPIV3Schema"), ""));
        }
    }
    for (at, version) in versions.iter().enumerate() {
        let name = tree::text(version, "name");
        checks::joined(name, &place.index(at).child("name"), &names::dns1035_label(name), errors);
        check_deprecation(version, &place.index(at).child("deprecationWarning"), errors);
    }
    let preexisting = old.map(Preexisting::of).unwrap_or_default();
    let was = old.map_or(&[][..], |old| tree::list(old, "versions"));
    let options = |version: &Value| {
        let same = |old: &&Value| old["name"] == version["name"] && old["schema"] == version["schema"];
        Options { preexisting: preexisting.clone(), schema_unchanged: was.iter().any(|old| same(&old)) }
    };
    check_parts(versions, false, &options, &path, errors);
    let bad = |detail: &str| Error::invalid(&place, versions.to_vec(), detail);
    if versions.iter().enumerate().any(|(at, v)| versions.iter().take(at).any(|w| w["name"] == v["name"])) {
        errors.push(bad("must contain unique version names"));
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        errors.push(bad("must have exactly one version marked as storage version"));
    }
    let names_path = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        rules::required(&spec["names"], &names_path, field, errors);
    }
    check_names(&spec["names"], &names_path, errors);
    check_parts(versions, true, &options, &path, errors);
    check_conversion(&spec["conversion"], &path.child("conversion"), errors);
}

/// Schemas, subresources and columns: those that all versions have in common (`shared`), at the top, or the others.
fn check_parts(versions: &[Value], shared: bool, options: &dyn Fn(&Value) -> Options, path: &Path, errors: &mut ErrorList) {
    let agree = |key: &str| versions.first().is_some_and(|first| versions.iter().all(|v| v[key] == first[key]));
    for key in ["schema", "subresources", "additionalPrinterColumns"].into_iter().filter(|key| agree(key) == shared) {
        let shown = if shared { versions.get(..1).unwrap_or_default() } else { versions };
        for (at, version) in shown.iter().enumerate() {
            let place = match (shared, key) {
                (true, "schema") => path.child("validation"),
                (true, key) => path.child(key),
                (false, key) => path.child("versions").index(at).child(key),
            };
            match key {
                "schema" => {
                    let has_status = !version["subresources"]["status"].is_null();
                    check_schema(&version["schema"]["openAPIV3Schema"], has_status, &options(version), &place.child("openAPIV3Schema"), errors);
                }
                "subresources" => check_scale(&version["subresources"]["scale"], &place, errors),
                _ => {
                    for (at, column) in tree::list(version, key).iter().enumerate() {
                        check_column(column, &place.index(at), errors);
                    }
                }
            }
        }
    }
}

/// A version's schema, and its rules where it is itself in order.
fn check_schema(schema: &Value, has_status: bool, options: &Options, path: &Path, errors: &mut ErrorList) {
    let before = errors.len();
    structural::check(schema, has_status, path, errors);
    let is_structural = errors.len() == before;
    definition_rules::check_form(schema, path, errors);
    if is_structural {
        let found = definition_rules::check(schema, path, &errors[before..], options);
        errors.extend(found);
    }
}

fn check_deprecation(version: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut bad = |detail: String| errors.push(Error::invalid(path, warning, detail));
    if version["deprecated"] != true {
        bad("can only be set for deprecated versions".into());
        return;
    }
    if warning.len() > WARNING_MAX_CHARS {
        bad("must be <= 256 characters long".into());
    }
    if warning.is_empty() {
        bad("must not be an empty string".into());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        bad(format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

fn check_names(given: &Value, path: &Path, errors: &mut ErrorList) {
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let value = tree::text(given, field);
        let problems = if mixed { names::dns1035_label(&value.to_lowercase()) } else { names::dns1035_label(value) };
        if !value.is_empty() && !problems.is_empty() {
            let prefix = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(Error::invalid(&path.child(field), value, format!("{prefix}{}", problems.join(","))));
        }
    }
    let lists = |key: &'static str, errors: &mut ErrorList| {
        for (at, name) in checks::texts(given, key) {
            checks::joined(name, &path.child(key).index(at), &names::dns1035_label(name), errors);
        }
    };
    lists("shortNames", errors);
    let kind = tree::text(given, "kind");
    if !kind.is_empty() && given["listKind"] == kind {
        errors.push(Error::invalid(&path.child("listKind"), kind, "kind and listKind may not be the same"));
    }
    lists("categories", errors);
}

fn check_json_path(text: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let simple = text.starts_with('.');
    if !simple {
        errors.push(Error::invalid(path, text, "must be a simple json path starting with ."));
    }
    simple
}

fn check_column(column: &Value, path: &Path, errors: &mut ErrorList) {
    rules::required(column, path, "name", errors);
    let (kind, format, place) = (tree::text(column, "type"), tree::text(column, "format"), path.child("type"));
    if kind.is_empty() {
        errors.push(Error::required(&place, format!("must be one of {COLUMN_TYPES}")));
    } else if !COLUMN_TYPES.split(',').any(|t| t == kind) {
        errors.push(Error::invalid(&place, kind, format!("must be one of {COLUMN_TYPES}")));
    }
    if !format.is_empty() && !COLUMN_FORMATS.split(',').any(|f| f == format) {
        errors.push(Error::invalid(&path.child("format"), format, format!("must be one of {COLUMN_FORMATS}")));
    }
    let (text, place) = (tree::text(column, "jsonPath"), path.child("JSONPath"));
    if text.is_empty() {
        errors.push(Error::required(&place, ""));
    } else {
        check_json_path(text, &place, errors);
    }
}

fn check_scale(scale: &Value, path: &Path, errors: &mut ErrorList) {
    if scale.is_null() {
        return;
    }
    let paths: [(&str, &[&str], &str); 3] = [
        ("specReplicasPath", &[".spec."], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ];
    for (field, roots, detail) in paths {
        let (text, place) = (tree::text(scale, field), path.child("scale").child(field));
        if text.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(Error::required(&place, ""));
            }
        } else if check_json_path(text, &place, errors) && !roots.iter().any(|root| text.starts_with(root)) {
            errors.push(Error::invalid(&place, text, detail));
        }
    }
}

fn check_conversion(conversion: &Value, path: &Path, errors: &mut ErrorList) {
    rules::one_of(&conversion["strategy"], &path.child("strategy"), &["None", "Webhook"], errors);
    let (webhook, place) = (&conversion["webhook"], path.child("webhookClientConfig"));
    if conversion["strategy"] != "Webhook" {
        if !webhook["clientConfig"].is_null() {
            errors.push(Error::forbidden(&place, "should not be set when strategy is not set to Webhook"));
        }
        if !tree::empty(&webhook["conversionReviewVersions"]) {
            errors.push(Error::forbidden(&path.child("conversionReviewVersions"), "should not be set when strategy is not set to Webhook"));
        }
        return;
    }
    if webhook["clientConfig"].is_null() {
        errors.push(Error::required(&place, "required when strategy is set to Webhook"));
    } else {
        checks::client_config(&webhook["clientConfig"], &place, errors);
    }
    let (versions, place) = (tree::list(webhook, "conversionReviewVersions"), path.child("conversionReviewVersions"));
    if versions.is_empty() {
        errors.push(Error::required(&place, ""));
        return;
    }
    for (at, version) in checks::texts(webhook, "conversionReviewVersions") {
        if versions.iter().take(at).any(|v| v == version) {
            errors.push(Error::invalid(&place.index(at), version, "duplicate version"));
        } else {
            rules::name(version, &place.index(at), names::dns1035_label(version), errors);
        }
    }
    if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.push(Error::invalid(&place, versions.to_vec(), "must include at least one of v1, v1beta1"));
    }
}

/// The strategy of API services.
pub(super) struct ApiServices;

impl Strategy for ApiServices {
    fn default(&self, obj: &mut Value) {
        if let Some(service) = tree::at(obj, &["spec"]).and_then(|spec| tree::present(spec, "service")) {
            tree::fill(service, "port", 443);
        }
    }

    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        if obj["spec"]["service"].is_null()
            && let Some(status) = tree::at(obj, &["status"])
        {
            let condition = json!({"type": "Available", "status": "True", "lastTransitionTime": time::rfc3339(cx.now),
                "reason": "Local", "message": "Local APIServices are always available"});
            status.insert("conditions".into(), vec![condition].into());
        }
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            let Some(metadata) = tree::at(obj, &["metadata"]) else { return };
            match &old["metadata"][field] {
                Value::Null => metadata.remove(field),
                value => metadata.insert(field.into(), value.clone()),
            };
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        let (group, version) = (tree::text(spec, "group"), tree::text(spec, "version"));
        let (name, required) = (tree::text(&obj["metadata"], "name"), format!("{version}.{group}"));
        if name != required && !name.contains(['/', '%']) {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
            errors.push(Error::invalid(&Path::root("metadata").child("name"), name, detail));
        }
        if group.is_empty() && version != "v1" {
            errors.push(Error::required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube"));
        }
        if !group.is_empty() {
            rules::name(group, &path.child("group"), names::dns1123_subdomain(group), errors);
        }
        rules::name(version, &path.child("version"), names::dns1035_label(version), errors);
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let number = spec[field].as_i64().unwrap_or(0);
            if !(1..=most).contains(&number) {
                errors.push(Error::invalid(&path.child(field), number, format!("must be positive and less than {most}")));
            }
        }
        check_service(spec, &path, errors);
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (at, condition) in tree::list(&obj["status"], "conditions").iter().enumerate() {
            let status = tree::text(condition, "status");
            if !matches!(status, "True" | "False" | "Unknown") {
                let place = Path::root("status").child("conditions").index(at).child("status");
                errors.push(Error::not_supported(&place, status, &["True", "False", "Unknown"]));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        checks::resets_with_metadata(subresource)
    }
}

fn check_service(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (service, bundle, blind) = (&spec["service"], tree::text(spec, "caBundle"), spec["insecureSkipTLSVerify"] == true);
    if service.is_null() {
        if !bundle.is_empty() {
            let bytes = bundle.trim_end_matches('=').len() * 3 / 4;
            errors.push(Error::invalid(&path.child("caBundle"), format!("{bytes} bytes"), "local APIServices may not have a caBundle"));
        }
        if blind {
            errors.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    }
    let place = path.child("service");
    for field in ["namespace", "name"] {
        rules::required(service, &place, field, errors);
    }
    let port = service["port"].as_i64().unwrap_or(443);
    let problems = names::port_number(port);
    if !problems.is_empty() {
        errors.push(Error::invalid(&place.child("port"), port, format!("port is not valid: {}", problems.join(", "))));
    }
    if blind && !bundle.is_empty() {
        errors.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"));
    }
}
