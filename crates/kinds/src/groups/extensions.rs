//! `apiextensions.k8s.io` and `apiregistration.k8s.io`: what adds to the API. Custom resource definitions, and services that
//! answer for whole groups.

use super::{checks, definition};
use crate::{Context, NameRule, Strategy, definitions, meta, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quote::Quoted,
    time,
};
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

const MUST_BE: &str = "must be spec.names.plural+\".\"+spec.group";
const APPROVAL: &str = "api-approved.kubernetes.io";

/// What a definition has to be called.
fn plural_and_group(spec: &Value) -> String {
    format!("{}.{}", tree::text(&spec["names"], "plural"), tree::text(spec, "group"))
}

/// The strategy of custom resource definitions.
pub(super) struct Definitions;

impl Strategy for Definitions {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        if let Some(names) = tree::present(spec, "names") {
            let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            tree::fill_text(names, "singular", &names::lower(&kind));
            if !kind.is_empty() {
                tree::fill_text(names, "listKind", &format!("{kind}List"));
            }
        }
        tree::fill(spec, "conversion", json!({"strategy": "None"}));
        // Upstream's own form has no place for a webhook of which nothing is said.
        if let Some(conversion) = tree::present(spec, "conversion")
            && conversion.get("webhook").is_some_and(|webhook| webhook["clientConfig"].is_null() && tree::empty(&webhook["conversionReviewVersions"]))
        {
            conversion.remove("webhook");
        }
        let config = tree::present(spec, "conversion").and_then(|c| tree::present(c, "webhook")).and_then(|w| tree::present(w, "clientConfig"));
        if let Some(service) = config.and_then(|c| tree::present(c, "service")) {
            tree::fill(service, "port", 443);
        }
        if tree::empty(&obj["status"]["storedVersions"]) {
            note_stored(obj);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        tree::set_meta(obj, "generation", 1.into());
        tidy(obj);
        note_stored(obj);
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        tidy(obj);
        if tree::body_differs(obj, old) {
            tree::bump_generation(obj, old);
        }
        note_stored(obj);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    /// What a name may be made from is what it has to be.
    fn own_name(&self, obj: &Value, name: &str, prefix: bool) -> Vec<String> {
        if !prefix {
            return Vec::new();
        }
        let mut problems = NameRule::Subdomain.check(name, true);
        if name != plural_and_group(&obj["spec"]) {
            problems.push(MUST_BE.to_owned());
        }
        problems
    }

    fn judges_metadata(&self) -> bool {
        true
    }

    fn judges_blanks(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = meta::created(obj, false, self);
        let (name, spec) = (tree::text(&obj["metadata"], "name"), &obj["spec"]);
        let place = Path::root("metadata").child("name");
        if !name.is_empty() {
            rules::name(name, &place, names::dns1123_subdomain(name), &mut errors);
        }
        if !name.is_empty() && name != plural_and_group(spec) {
            errors.push(Error::invalid(&place, name, MUST_BE));
        }
        definition::check_spec(spec, None, &mut errors);
        definition::check_names(&obj["status"]["acceptedNames"], &Path::root("status").child("acceptedNames"), &mut errors);
        check_stored(obj, &mut errors);
        check_approval(obj, None, &mut errors);
        check_kept(spec, &mut errors);
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = meta::changed(obj, old);
        let (spec, had, path) = (&obj["spec"], &old["spec"], Path::root("spec"));
        definition::check_spec(spec, Some(old), &mut errors);
        if definition::is_established(old) {
            rules::immutable(&spec["scope"], &had["scope"], &path.child("scope"), &mut errors);
            rules::immutable(&spec["names"]["kind"], &had["names"]["kind"], &path.child("names").child("kind"), &mut errors);
        }
        rules::immutable(&spec["group"], &had["group"], &path.child("group"), &mut errors);
        rules::immutable(&spec["names"]["plural"], &had["names"]["plural"], &path.child("names").child("plural"), &mut errors);
        definition::check_names(&obj["status"]["acceptedNames"], &Path::root("status").child("acceptedNames"), &mut errors);
        check_stored(obj, &mut errors);
        check_approval(obj, Some(old), &mut errors);
        if had["preserveUnknownFields"] != true {
            check_kept(spec, &mut errors);
        }
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

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let known = old.map(|old| definition::warnings(&old["spec"])).unwrap_or_default();
        definition::warnings(&obj["spec"]).into_iter().filter(|warning| !known.contains(warning)).collect()
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = meta::changed(obj, old);
        definition::check_names(&obj["status"]["acceptedNames"], &Path::root("status").child("acceptedNames"), &mut errors);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn any_finalizer(&self) -> bool {
        true
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

fn check_kept(spec: &Value, errors: &mut ErrorList) {
    if spec["preserveUnknownFields"] == true {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Error::invalid(&Path::root("spec").child("preserveUnknownFields"), true, detail));
    }
}

fn check_stored(obj: &Value, errors: &mut ErrorList) {
    let path = Path::root("status").child("storedVersions");
    let (stored, versions) = (tree::list(&obj["status"], "storedVersions"), tree::list(&obj["spec"], "versions"));
    if stored.is_empty() {
        errors.push(Error::invalid(&path, obj["status"]["storedVersions"].clone(), "must have at least one stored version"));
        return;
    }
    // Each is found once: a second version of the same name is not.
    let mut left: HashSet<&str> = checks::texts(&obj["status"], "storedVersions").map(|(_, name)| name).collect();
    let mut told = 0;
    for version in versions {
        // Who has that many is told of it elsewhere: each error holds the whole list.
        if !left.remove(tree::text(version, "name")) && version["storage"] == true && told < rules::LISTS_TOLD_MAX {
            told += 1;
            let detail = format!("must have the storage version {}", tree::text(version, "name"));
            errors.push(Error::invalid(&path, stored.to_vec(), detail));
        }
    }
    let served: HashSet<&str> = versions.iter().map(|version| tree::text(version, "name")).collect();
    // Each name is told once, by its last place.
    let last: HashMap<&str, usize> = checks::texts(&obj["status"], "storedVersions").map(|(at, name)| (name, at)).collect();
    for (at, name) in checks::texts(&obj["status"], "storedVersions").filter(|(at, name)| !served.contains(name) && last.get(name) == Some(at)) {
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage \
             migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        errors.push(Error::invalid(&path.index(at), name, detail));
    }
}

/// Defaults are stored without what their metadata has too much.
fn tidy(obj: &mut Value) {
    for version in obj.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema").filter(|schema| schema.is_object()) {
            definition::embedded::tidy_defaults(schema);
        }
    }
}

/// Groups of the community need a note of who agreed to them.
fn check_approval(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let group = tree::text(&obj["spec"], "group");
    let is_community = ["k8s.io", "kubernetes.io"].iter().any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let state = |obj: &Value| {
        let note = tree::text(&obj["metadata"]["annotations"], APPROVAL);
        match note {
            "" => 0,
            note if note.starts_with("unapproved") => 1,
            note if crate::definitions::is_link(note) => 2,
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

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    /// Fewer fields of metadata stay than its writers lose.
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
        NameRule::Own
    }

    fn own_name(&self, obj: &Value, name: &str, _prefix: bool) -> Vec<String> {
        let problems = names::path_segment(name);
        let required = format!("{}.{}", tree::text(&obj["spec"], "version"), tree::text(&obj["spec"], "group"));
        if problems.is_empty() && name != required {
            return vec![format!("must be `spec.version+\".\"+spec.group`: {}", Quoted(&required))];
        }
        problems
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        let (group, version) = (tree::text(spec, "group"), tree::text(spec, "version"));
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

    /// Its name says what it is of, still.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = meta::changed_and_created(obj, old, self);
        self.check(obj, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (at, condition) in tree::list(&obj["status"], "conditions").iter().enumerate() {
            let status = tree::text(condition, "status");
            if !matches!(status, "True" | "False" | "Unknown") {
                let place = Path::root("status").child("conditions").index(at).child("status");
                errors.push(rules::not_supported(&place, status, &["True", "False", "Unknown"]));
            }
        }
        errors
    }

    fn any_finalizer(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
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
