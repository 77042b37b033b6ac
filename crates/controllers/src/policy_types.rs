//! What the types of objects say of the expressions of ValidatingAdmissionPolicies: warnings in their status.
//!
//! A policy is looked at when its generation is one that nobody has looked at, by the schemas that the server publishes then. What
//! holds it: a policy that changes while it is looked at has another generation and comes again; a status that somebody takes
//! away has no generation observed. As in the original nobody comes back because a kind appears or changes: the warnings tell of
//! the day they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::{Client, Informer, Patch, PatchParams};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kinds::expressions::{Typed, check_types};
use serde_json::{Map, Value, json};

use crate::work::{Controller, Cx, Step};

/// Kinds that one rule of a policy is checked for, as upstream's `maxTypesToCheck`.
const KINDS_MAX: usize = 10;
/// Groups in versions that the kinds of one policy are looked for in, as they are named and as they are found: each is a request.
const PLACES_MAX: usize = 100;
/// The owner of the status.
const MANAGER: &str = "validatingadmissionpolicy-status";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("validatingadmissionpolicy-status-controller");
    let controller = Arc::new(Types { client, policies: cx.informers.informer() });
    cx.setup(&controller)
        .on(&controller.policies, |_, queue, change| {
            let policy = change.object();
            if is_new(policy) {
                queue.add(policy.metadata.name.clone().unwrap_or_default());
            }
        })
        .work(1)
        .await;
}

fn is_new(policy: &ValidatingAdmissionPolicy) -> bool {
    let seen = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    policy.metadata.generation.unwrap_or(0) > seen
}

struct Types {
    client: Client,
    policies: Informer<ValidatingAdmissionPolicy>,
}

/// Group, version and kind.
type Gvk = (String, String, String);
/// Group and version.
type Place = (String, String);
/// What is served in each place.
type Lists = BTreeMap<Place, Value>;

impl Controller for Types {
    const QUEUE: &'static str = "validatingadmissionpolicy-status";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(policy) = self.policies.get("", name).filter(|policy| is_new(policy)) else { return Ok(None) };
        let spec = policy.spec.as_ref().and_then(|spec| serde_json::to_value(spec).ok()).unwrap_or_default();
        let warnings = self.check(&spec).await?;
        let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        let applied = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "status": {"observedGeneration": policy.metadata.generation, "typeChecking": checked},
        });
        let params = PatchParams { field_manager: MANAGER.to_owned(), force: true, ..PatchParams::default() };
        match self.client.all::<ValidatingAdmissionPolicy>().patch_status(name, &Patch::Apply(applied), &params).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

impl Types {
    async fn check(&self, spec: &Value) -> client::Result<Vec<Value>> {
        let mut kinds = Vec::new();
        for gvk in self.kinds(spec).await? {
            if let Some(ty) = self.typed(&gvk).await? {
                kinds.push((shown(&gvk), ty));
            }
        }
        let text = |field: &str| spec["paramKind"][field].as_str().unwrap_or_default();
        let params = match spec["paramKind"].is_null() {
            true => None,
            false => {
                let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
                self.typed(&(group.to_owned(), version.to_owned(), text("kind").to_owned())).await?
            }
        };
        let spec = spec.clone();
        // Every expression is compiled for every kind.
        apart(move || check_types(&spec, &kinds, params.as_ref())).await
    }

    /// The kinds that a policy names without wildcards.
    async fn kinds(&self, spec: &Value) -> client::Result<BTreeSet<Gvk>> {
        let groups = self.known("/apis").await?.unwrap_or_default();
        let places: Vec<Place> = rules(spec).iter().flat_map(|rule| &rule.pairs).flat_map(|(group, version)| places(&groups, group, version)).collect();
        let mut lists = Lists::new();
        for place in places {
            if lists.len() < PLACES_MAX && !lists.contains_key(&place) {
                let list = self.known(&root(&place.0, &place.1)).await?.unwrap_or_default();
                lists.insert(place, list);
            }
        }
        let spec = spec.clone();
        // Every place is looked through for every resource, of which a rule may name hundreds of thousands.
        apart(move || named(&rules(&spec), &groups, &lists)).await
    }

    /// The type of a kind by its published schema; none if there is none.
    async fn typed(&self, gvk: &Gvk) -> client::Result<Option<Typed>> {
        let (group, version, kind) = gvk;
        let Some(document) = self.known(&format!("/openapi/v3{}", root(group, version))).await? else { return Ok(None) };
        let schemas = document["components"]["schemas"].as_object();
        let own = json!({"group": group, "version": version, "kind": kind});
        let named = |schema: &Value| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.contains(&own));
        let Some(schemas) = schemas else { return Ok(None) };
        let Some(schema) = schemas.values().find(|schema| named(schema)) else { return Ok(None) };
        Ok(Typed::of_schema(&resolved(schemas, &mut Vec::new(), schema), true).map(|ty| ty.named(kind)))
    }

    /// A document that may not be there.
    async fn known(&self, uri: &str) -> client::Result<Option<Value>> {
        match self.client.get_json(uri).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What may take its time, as the size of a policy is its owner's choice: it is done where nobody waits for a thread.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> client::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| client::Error::Transport(format!("the types of a policy could not be checked: {error}")))
}

/// A rule without wildcards, in the order in which its kinds are looked for.
struct Rule<'a> {
    /// Each group in each version.
    pairs: Vec<(&'a str, &'a str)>,
    resources: Vec<&'a str>,
}

impl Rule<'_> {
    /// The kinds of its resources, one as often as it is named; no more than are checked.
    fn kinds(&self, groups: &Value, lists: &Lists) -> Vec<Gvk> {
        let mut kinds = Vec::new();
        for (group, version) in &self.pairs {
            let places = places(groups, group, version);
            for resource in &self.resources {
                let listed = places.iter().filter_map(|place| Some((place, kind_of(lists.get(place)?, resource)?)));
                let left = KINDS_MAX - kinds.len();
                kinds.extend(listed.take(left).map(|((group, version), kind)| (group.clone(), version.clone(), kind.to_owned())));
                if kinds.len() == KINDS_MAX {
                    return kinds;
                }
            }
        }
        kinds
    }
}

/// The rules of a policy that name what they mean; of their resources neither subresources nor patterns.
fn rules(spec: &Value) -> Vec<Rule<'_>> {
    let (mut rules, mut left) = (Vec::new(), PLACES_MAX);
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let texts = |field: &str| {
            let mut texts: Vec<&str> = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            texts.sort_unstable();
            texts
        };
        let (groups, versions, mut resources) = (texts("apiGroups"), texts("apiVersions"), texts("resources"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        resources.retain(|resource| !resource.contains(['*', '/']));
        let pairs: Vec<(&str, &str)> = groups.iter().flat_map(|group| versions.iter().map(move |version| (*group, *version))).take(left).collect();
        left -= pairs.len();
        rules.push(Rule { pairs, resources });
    }
    rules
}

/// Where a group's resources are served in a version. To the original's mapper no group is any group.
fn places(groups: &Value, group: &str, version: &str) -> Vec<Place> {
    let place = |group: &str| (group.to_owned(), version.to_owned());
    if !group.is_empty() {
        return vec![place(group)];
    }
    let has = |group: &&Value| group["versions"].as_array().into_iter().flatten().any(|served| served["version"] == version);
    let others = groups["groups"].as_array().into_iter().flatten().filter(has);
    std::iter::once(place("")).chain(others.map(|group| place(group["name"].as_str().unwrap_or_default()))).collect()
}

/// The kind of a resource in a list, by its name or its singular.
fn kind_of<'l>(list: &'l Value, resource: &str) -> Option<&'l str> {
    let resource = resource.to_lowercase();
    list["resources"].as_array()?.iter().find_map(|served| {
        let text = |field: &str| served[field].as_str().unwrap_or_default();
        let (name, singular, kind) = (text("name"), text("singularName"), served["kind"].as_str()?);
        let is_singular = if singular.is_empty() { kind.to_lowercase() == resource } else { singular == resource };
        (!name.contains('/') && (name == resource || is_singular)).then_some(kind)
    })
}

/// What the rules name; a rule that names as many as are checked is the last.
fn named(rules: &[Rule<'_>], groups: &Value, lists: &Lists) -> BTreeSet<Gvk> {
    let mut found = BTreeSet::new();
    for rule in rules {
        let kinds = rule.kinds(groups, lists);
        let is_last = kinds.len() == KINDS_MAX;
        found.extend(kinds);
        if is_last {
            break;
        }
    }
    found
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

fn shown((group, version, kind): &Gvk) -> String {
    format!("{group}/{version}, Kind={kind}")
}

/// The name of the schema that one refers to, by itself or wrapped with a description.
fn reference(schema: &Value) -> Option<&str> {
    let own = schema["$ref"].as_str();
    let name = own.or_else(|| schema["allOf"].as_array().into_iter().flatten().find_map(|part| part["$ref"].as_str()));
    name.and_then(|name| name.rsplit('/').next())
}

/// A schema with those that it refers to in their places. One that holds itself is an object of anything there; so the depth is
/// bounded by the number of schemas. `within` are those around it.
fn resolved<'s>(schemas: &'s Map<String, Value>, within: &mut Vec<&'s str>, schema: &'s Value) -> Value {
    let name = reference(schema);
    if let Some(name) = name {
        let (false, Some(other)) = (within.contains(&name), schemas.get(name)) else { return json!({"type": "object"}) };
        within.push(name);
        let out = resolved(schemas, within, other);
        within.pop();
        return out;
    }
    let mut out = schema.clone();
    if schema["format"] == "int-or-string" {
        out["x-kubernetes-int-or-string"] = true.into();
    }
    for (field, property) in schema["properties"].as_object().into_iter().flatten() {
        out["properties"][field.as_str()] = resolved(schemas, within, property);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            out[field] = resolved(schemas, within, &schema[field]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_no_group_means_any_and_each_rule_is_checked_for_so_many() {
        let served = |name: &str, kind: &str| json!({"name": name, "singularName": kind.to_lowercase(), "kind": kind});
        let core: Vec<Value> = ('a'..='l').map(|c| served(&format!("{c}s"), &c.to_uppercase().to_string())).chain([served("a/status", "A")]).collect();
        let lists = Lists::from([
            ((String::new(), "v1".to_owned()), json!({"resources": core})),
            (("b.io".to_owned(), "v1".to_owned()), json!({"resources": [served("bs", "B")]})),
        ]);
        let groups = json!({"groups": [{"name": "b.io", "versions": [{"version": "v1"}]}, {"name": "c.io", "versions": [{"version": "v2"}]}]});
        let found = |all: Value| {
            let spec = json!({"matchConstraints": {"resourceRules": all}});
            let found = named(&rules(&spec), &groups, &lists);
            found.iter().map(|(group, _, kind)| format!("{kind}{group}")).collect::<Vec<_>>().join(" ")
        };
        let rule = |groups: &[&str], resources: &[&str]| json!({"apiGroups": groups, "apiVersions": ["v1"], "resources": resources});
        assert_eq!(found(json!([rule(&[""], &["ls", "b", "a/status"])])), "B L Bb.io");
        assert_eq!(found(json!([rule(&["b.io"], &["bs"]), rule(&["*"], &["as"])])), "Bb.io");
        let many = ["ls", "ks", "js", "is", "hs", "gs", "fs", "es", "ds", "cs", "bs", "as"];
        assert_eq!(found(json!([rule(&[""], &many), rule(&[""], &["ls"])])), "A B C D E F G H I Bb.io", "and none of the next rule");
        assert_eq!(found(json!([rule(&[""], &many[..9]), rule(&[""], &["as", "bs"])])), "A B D E F G H I J K L Bb.io");
        let names: Vec<String> = (0..1000).map(|name| name.to_string()).collect();
        let spec = json!({"matchConstraints": {"resourceRules": [{"apiGroups": names, "apiVersions": names}, rule(&["b.io"], &["bs"])]}});
        assert_eq!(rules(&spec).iter().map(|rule| rule.pairs.len()).collect::<Vec<_>>(), [PLACES_MAX, 0]);
    }

    #[test]
    fn schemas_are_put_in_their_places_and_end() {
        let schemas = json!({
            "A": {"type": "object", "properties": {"b": {"allOf": [{"$ref": "#/components/schemas/B"}]}, "many": {"type": "array", "items": {"$ref": "#/components/schemas/A"}}}},
            "B": {"type": "object", "properties": {"port": {"format": "int-or-string"}}},
        });
        let schemas = schemas.as_object().unwrap();
        let whole = resolved(schemas, &mut vec!["A"], &schemas["A"]);
        assert_eq!(whole["properties"]["b"]["properties"]["port"]["x-kubernetes-int-or-string"], true);
        assert_eq!(whole["properties"]["many"]["items"], json!({"type": "object"}));
    }
}
