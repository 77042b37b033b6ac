//! What the types of objects say of the expressions of ValidatingAdmissionPolicies: warnings in their status.
//!
//! A policy is looked at when its generation is one that nobody has looked at, by the schemas that the server publishes then. What
//! holds it: a policy that changes while it is looked at has another generation and comes again; a status that somebody takes
//! away has no generation observed. As in the original nobody comes back because a kind appears or changes: the warnings tell of
//! the day they were made.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::{Client, Informer, Patch, PatchParams};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kinds::expressions::{Typed, check_types};
use serde_json::{Map, Value, json};

use crate::work::{Controller, Cx, Step};

/// Kinds that one policy is checked for, as upstream's `maxTypesToCheck`.
const KINDS_MAX: usize = 10;
/// Groups in versions that the kinds of one policy are looked for in: each is a request.
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
        let checked = tokio::task::spawn_blocking(move || check_types(&spec, &kinds, params.as_ref())).await;
        checked.map_err(|error| client::Error::Transport(format!("the types of a policy could not be checked: {error}")))
    }

    /// The kinds that a policy names without wildcards.
    async fn kinds(&self, spec: &Value) -> client::Result<BTreeSet<Gvk>> {
        let (mut found, mut left) = (BTreeSet::new(), PLACES_MAX);
        for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
            let texts = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
            let (groups, versions, mut resources) = (texts("apiGroups"), texts("apiVersions"), texts("resources"));
            if groups.iter().chain(&versions).any(|text| text.contains('*')) {
                continue;
            }
            resources.retain(|resource| !resource.contains(['*', '/']));
            let pairs: Vec<(&str, &str)> = groups.iter().flat_map(|group| versions.iter().map(move |version| (*group, *version))).take(left).collect();
            left -= pairs.len();
            for (group, version) in pairs {
                let Some(list) = self.known(&root(group, version)).await? else { continue };
                for served in list["resources"].as_array().into_iter().flatten() {
                    if resources.iter().any(|resource| served["name"] == *resource) && found.len() < KINDS_MAX {
                        found.insert((group.to_owned(), version.to_owned(), served["kind"].as_str().unwrap_or_default().to_owned()));
                    }
                }
            }
        }
        Ok(found)
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
