//! What is asked of a definition of custom resources (`apiextensions-apiserver/pkg/apis/apiextensions/validation`).
//!
//! The original validates a form of its own in which what all versions have in common stands at the top of the spec, as older
//! definitions had it; the paths of errors and the values that they show say so. What an old definition has wrong already is not
//! asked of its change ([`Asked`]).

mod conversion;
mod defaults;
pub(crate) mod embedded;
mod parts;
mod schema;
mod shown;
pub(crate) mod structural;

pub(super) use parts::check_names;

use crate::{
    groups::{
        checks,
        definition_rules::{Options, Preexisting},
    },
    rules, tree,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quote::Quoted,
    regexp,
};
use std::collections::{HashMap, HashSet};

/// Bytes that the patterns of one definition may take compiled. Go's are compiled for each object again; here they stay.
const PATTERN_BYTES_MAX: usize = 64 << 20;

/// What is asked; less of the change of a definition that has it wrong already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    schemas: bool,
    structural: bool,
    known_types: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
    known_reviews: bool,
    certificates: bool,
}

impl Asked {
    /// All that is asked of a new definition: certificates may come later.
    pub(super) fn of_new() -> Self {
        Self {
            schemas: true,
            structural: true,
            known_types: true,
            pruned_defaults: true,
            atomic_sets: true,
            map_keys: true,
            known_reviews: true,
            certificates: false,
        }
    }

    /// What is asked of a definition that was this one.
    pub(super) fn of_change(old: &Value) -> Self {
        let spec = &old["spec"];
        let schemas: Vec<&Value> = tree::list(spec, "versions").iter().map(|v| &v["schema"]["openAPIV3Schema"]).collect();
        let has = |test: &dyn Fn(&Value) -> bool| schemas.iter().any(|schema| structural::any(schema, test));
        let conversion = &spec["conversion"];
        let reviews = tree::list(&conversion["webhook"], "conversionReviewVersions");
        Self {
            schemas: schemas.iter().all(|schema| !schema.is_null()),
            structural: !schemas.iter().any(|schema| !schema.is_null() && !structural::is_structural(schema)),
            known_types: !has(&|schema| schema::is_unknown_type(tree::text(schema, "type"))),
            pruned_defaults: !schemas.iter().any(|schema| defaults::has_unpruned(schema)),
            atomic_sets: !has(&schema::is_set_of_parts),
            map_keys: !has(&|schema| !schema::map_keys(schema, &Path::empty()).is_empty()),
            known_reviews: reviews.is_empty() || conversion::has_known_review(reviews),
            certificates: is_established(old) && conversion::has_good_certificates(conversion),
        }
    }
}

/// Whether a definition is served.
pub(super) fn is_established(definition: &Value) -> bool {
    tree::list(&definition["status"], "conditions").iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// What a definition was before the change.
struct Before<'v> {
    preexisting: Preexisting,
    versions: HashMap<&'v str, &'v Value>,
}

impl Before<'_> {
    /// How the rules of a version are looked at.
    fn options(&self, version: &Value) -> Options {
        let unchanged = self.versions.get(tree::text(version, "name")).is_some_and(|old| old["schema"] == version["schema"]);
        Options { preexisting: self.preexisting.clone(), schema_unchanged: unchanged }
    }
}

/// What versions have in common, and what they have each.
struct Versions<'v> {
    list: &'v [Value],
    /// There is a list, and be it empty.
    given: bool,
    schemas: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl<'v> Versions<'v> {
    fn of(spec: &'v Value) -> Self {
        let list = tree::list(spec, "versions");
        let agree =
            |key: &str| list.first().is_some_and(|first| list.iter().all(|v| v[key] == first[key] || (tree::empty(&v[key]) && tree::empty(&first[key]))));
        Self {
            list,
            given: spec["versions"].is_array(),
            schemas: agree("schema"),
            subresources: agree("subresources"),
            columns: agree("additionalPrinterColumns"),
            selectable: agree("selectableFields"),
        }
    }

    /// What stands at the top of the spec.
    fn shared(&self, is_shared: bool, key: &str) -> &'v Value {
        self.list.first().filter(|_| is_shared).map_or(&Value::Null, |first| &first[key])
    }

    /// Each schema, once where versions share it.
    fn schemas(&self) -> impl Iterator<Item = &'v Value> {
        let count = if self.schemas { 1 } else { self.list.len() };
        self.list.iter().take(count).map(|v| &v["schema"]["openAPIV3Schema"]).filter(|schema| !schema.is_null())
    }

    /// Whether a version's objects have a status of their own, as its schema's check understands it.
    fn has_status(&self, name: &Value) -> bool {
        let subresources = match self.subresources {
            true => self.shared(true, "subresources"),
            false => self.list.iter().find(|v| v["name"] == *name).map_or(&Value::Null, |v| &v["subresources"]),
        };
        !subresources["status"].is_null()
    }
}

/// What a definition's spec has wrong, that was the one in the `old` definition.
pub(super) fn check_spec(spec: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let path = Path::root("spec");
    let mut asked = old.map_or_else(Asked::of_new, Asked::of_change);
    let before = Before {
        preexisting: old.map(|old| Preexisting::of(&old["spec"])).unwrap_or_default(),
        versions: tree::by_text(old.map_or(&[][..], |old| tree::list(&old["spec"], "versions")), "name"),
    };
    let versions = Versions::of(spec);
    // First: what comes after it compiles them all.
    if old.is_none_or(|old| old["spec"]["versions"] != spec["versions"]) && !patterns_fit(&versions) {
        errors.push(Error::forbidden(&path.child("versions"), format!("the schemas' patterns must not take more than {PATTERN_BYTES_MAX} bytes compiled")));
        return;
    }
    check_group(spec, &path, errors);
    rules::one_of_plain(&spec["scope"], &path.child("scope"), &["Cluster", "Namespaced"], errors);
    let keeps_all = spec["preserveUnknownFields"] == true;
    asked.structural |= !keeps_all;
    require_schemas(&versions, asked, keeps_all, &path, errors);
    if versions.schemas().any(|schema| structural::any(schema, &|schema| !schema["default"].is_null())) {
        asked.structural = true;
        if keeps_all {
            errors.push(Error::invalid(&path.child("preserveUnknownFields"), true, "must be false in order to use defaults in the schema"));
        }
    }
    asked.structural |= versions.schemas().any(|schema| structural::any(schema, &schema::has_extensions));
    for (at, version) in versions.list.iter().enumerate() {
        check_version(&versions, version, asked, &before, &path.child("versions").index(at), errors);
    }
    check_storage(&versions, &path, errors);
    for field in ["plural", "singular", "kind", "listKind"] {
        rules::required(&spec["names"], &path.child("names"), field, errors);
    }
    check_names(&spec["names"], &path.child("names"), errors);
    check_shared(&versions, asked, &before, &path, errors);
    let conversion = &spec["conversion"];
    if keeps_all && !conversion.is_null() && conversion["strategy"] != "None" {
        let place = path.child("conversion").child("strategy");
        errors.push(Error::invalid(&place, tree::text(conversion, "strategy"), "must be None if spec.preserveUnknownFields is true"));
    }
    conversion::check(conversion, asked, &path.child("conversion"), errors);
}

/// Whether the patterns of all schemas can be held at the same time.
fn patterns_fit(versions: &Versions<'_>) -> bool {
    let (mut left, mut known) = (Some(PATTERN_BYTES_MAX), HashSet::new());
    for schema in versions.schemas() {
        schema::visit(schema, &mut |schema| {
            let pattern = tree::text(schema, "pattern");
            // All places that have the same one share it.
            if !pattern.is_empty() && left.is_some() && known.insert(pattern.to_owned()) {
                left = left.and_then(|left| left.checked_sub(regexp::size_at_most(pattern)));
            }
        });
    }
    left.is_some()
}

fn check_group(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (group, place) = (tree::text(spec, "group"), path.child("group"));
    let problems = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(Error::required(&place, ""));
    } else if !problems.is_empty() {
        checks::joined(group, &place, &problems, errors);
    } else if !group.contains('.') {
        errors.push(Error::invalid(&place, group, "should be a domain with at least one dot"));
    }
}

fn require_schemas(versions: &Versions<'_>, asked: Asked, keeps_all: bool, path: &Path, errors: &mut ErrorList) {
    for (at, version) in versions.list.iter().enumerate().filter(|(_, v)| v["schema"]["openAPIV3Schema"].is_null()) {
        let place = path.child("versions").index(at).child("schema").child("openAPIV3Schema");
        if asked.schemas {
            errors.push(Error::required(&place, ""));
        } else if !keeps_all && version["served"] == true {
            errors.push(Error::required(&place, "because otherwise all fields are pruned"));
        }
    }
}

/// What a version has for itself.
fn check_version(versions: &Versions<'_>, version: &Value, asked: Asked, before: &Before<'_>, path: &Path, errors: &mut ErrorList) {
    let name = tree::text(version, "name");
    checks::joined(name, &path.child("name"), &names::dns1035_label(name), errors);
    parts::check_deprecation(version, &path.child("deprecationWarning"), errors);
    if !versions.schemas {
        schema::check(&version["schema"], versions.has_status(&version["name"]), asked, &before.options(version), &path.child("schema"), errors);
    }
    if !versions.subresources {
        parts::check_scale(&version["subresources"]["scale"], &path.child("subresources"), errors);
    }
    if !versions.columns {
        parts::check_columns(tree::list(version, "additionalPrinterColumns"), &path.child("additionalPrinterColumns"), errors);
    }
    let fields = tree::list(version, "selectableFields");
    if !versions.selectable && !fields.is_empty() {
        let place = path.child("selectableFields");
        // A schema that all versions share stands elsewhere by then.
        if versions.schemas || version["schema"]["openAPIV3Schema"].is_null() {
            errors.push(Error::invalid(&place, "", "may only be set when `version.schema.openAPIV3Schema` is not included"));
        } else {
            parts::check_selectable(fields, &version["schema"]["openAPIV3Schema"], &place, errors);
        }
    }
}

fn check_storage(versions: &Versions<'_>, path: &Path, errors: &mut ErrorList) {
    let (list, place) = (versions.list, path.child("versions"));
    let mut bad = |detail: &str| errors.push(shown::invalid(&place, &shown::versions(versions), detail));
    let mut seen = HashSet::new();
    if !list.iter().all(|version| seen.insert(tree::text(version, "name"))) {
        bad("must contain unique version names");
    }
    if list.iter().filter(|v| v["storage"] == true).count() != 1 {
        bad("must have exactly one version marked as storage version");
    }
    let first = list.first().map_or("", |first| tree::text(first, "name"));
    if !first.is_empty() {
        checks::joined(first, &path.child("version"), &names::dns1035_label(first), errors);
    }
}

/// What all versions have in common.
fn check_shared(versions: &Versions<'_>, asked: Asked, before: &Before<'_>, path: &Path, errors: &mut ErrorList) {
    let any_status = versions.list.iter().any(|v| !v["subresources"]["status"].is_null());
    let schema = versions.shared(versions.schemas, "schema");
    let options = before.options(versions.list.first().unwrap_or(&Value::Null));
    schema::check(schema, any_status, asked, &options, &path.child("validation"), errors);
    parts::check_scale(&versions.shared(versions.subresources, "subresources")["scale"], &path.child("subresources"), errors);
    let list = |is_shared: bool, key: &str| versions.shared(is_shared, key).as_array().map_or(&[][..], Vec::as_slice);
    parts::check_columns(list(versions.columns, "additionalPrinterColumns"), &path.child("additionalPrinterColumns"), errors);
    let fields = list(versions.selectable, "selectableFields");
    if !fields.is_empty() {
        let place = path.child("selectableFields");
        if schema.is_null() {
            errors.push(Error::invalid(&place, "", "may only be set when validations.schema is included"));
        } else {
            parts::check_selectable(fields, &schema["openAPIV3Schema"], &place, errors);
        }
    }
}

/// What is told of a definition that is good: formats that mean nothing, and sets that are none for those who apply.
pub(super) fn warnings(spec: &Value) -> Vec<String> {
    let versions = Versions::of(spec);
    let (mut formats, mut sets) = (Vec::new(), Vec::new());
    for schema in versions.schemas() {
        schema::visit(schema, &mut |schema| {
            let format = tree::text(schema, "format");
            if !format.is_empty() && !machinery::structural::is_recognized(format, tree::text(schema, "type")) {
                formats.push(format!("unrecognized format {}", Quoted(format)));
            }
            let items = tree::text(&schema["items"], "type");
            if schema["x-kubernetes-list-type"] == "set" && matches!(items, "object" | "array") {
                sets.push(format!("x-kubernetes-list-type: set for items of type {items:?} is not supported by server-side apply or CEL validation rules"));
            }
        });
    }
    sets.sort();
    sets.dedup();
    formats.extend(sets);
    formats
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pattern_takes_its_bytes_once() {
        let fit = |pattern: &dyn Fn(usize) -> String| {
            let properties: machinery::Map<String, Value> =
                (0..5_000).map(|at| (format!("p{at}"), json!({"type": "string", "pattern": pattern(at)}))).collect();
            let schema = json!({"openAPIV3Schema": {"type": "object", "properties": properties}});
            patterns_fit(&Versions::of(&json!({"versions": [{"name": "v1", "schema": schema}]})))
        };
        assert!(fit(&|_| "^\\w[\\w.-]{0,62}$".to_owned()));
        assert!(fit(&|_| "\\pL{0,160}".to_owned()));
        assert!(!fit(&|at| format!("\\pL{{0,160}}{at}")));
    }
}
