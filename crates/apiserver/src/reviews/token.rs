//! `serviceaccounts/token` (TokenRequest): a token for an account, for a time and audiences, bound to a pod, node or secret.

use super::{node_tokens, text, texts};
use crate::{
    Operation, Write, admission,
    astray::check_segment,
    own,
    registry::{Call, WriteOptions, place, placed},
    respond::Answer,
    world::World,
};
use bytes::Bytes;
use http::StatusCode;
use identity::{Bound, TokenSpec, node_of};
use machinery::{
    Map, Value,
    apply::{self, FieldSet},
    field::{self, ErrorList, Path},
    gvk::Gvk,
    names, schema,
    status::Status,
    time,
};
use serde_json::json;

const GROUP: &str = "authentication.k8s.io";
const VERSION: &str = "authentication.k8s.io/v1";
const KIND: &str = "TokenRequest";
/// The kinds of webhooks' configurations, to which a token may be bound behind a feature gate that is off.
const HOOKS: [&str; 2] = ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"];
/// What such a token may attest.
const ATTESTED: &str = "admissionReviewAPIGroups";
/// How long a token lives that nobody gave a time.
const DEFAULT_SECONDS: i64 = 60 * 60;
const MIN_SECONDS: i64 = 10 * 60;
const MAX_SECONDS: i64 = 1 << 32;

/// Answers a POST of a TokenRequest: its fields have their owners, and admission sees it as it will be answered, before anything that it is
/// bound to is looked for.
pub(crate) async fn create(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let (world, cx, namespace, name) = (call.world, call.cx, call.namespace(), call.name());
    let ty = schema::builtin().kind(&Gvk::new(GROUP, "v1", KIND)).ok_or_else(|| Status::internal("the schema lacks TokenRequest"))?;
    let options = WriteOptions::of(call, "CreateOptions")?;
    let mut request = call.decode_as(body, ty, options.validation)?;
    place(call.row, namespace, &mut request)?;
    request["apiVersion"] = json!(VERSION);
    request["kind"] = json!(KIND);
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = DEFAULT_SECONDS.into();
    }
    own::owners_once(&mut request, cx, false);
    let now = time::rfc3339(cx.now);
    apply::track_update(ty, None, &mut request, &options.manager, VERSION, "token", &now, &FieldSet::default());
    clear(&mut request);
    if let Some(node) = node_of(&cx.user) {
        node_tokens::check(world, cx, node, (namespace, name), &request["spec"])?;
    }
    let write = Write {
        cx,
        row: call.row,
        operation: Operation::Create,
        subresource: "token",
        namespace,
        name,
        dry_run: options.dry_run,
        old: None,
        options: Some(&options),
    };
    admission::mutate(world, &write, &mut request).await?;
    let mut spec = issuable(call, &mut request)?;
    admission::validate(world, &write, &request).await?;
    bind(world, &request["spec"]["boundObjectRef"], &mut spec)?;
    let (token, end) = world.identity().tokens.issue(&spec, cx.now).map_err(Status::internal)?;
    request["status"] = json!({"token": token, "expirationTimestamp": time::rfc3339(end)});
    Ok(Answer::Other(StatusCode::CREATED, request))
}

/// What Go always writes of a request, and nothing of an answer.
fn clear(request: &mut Value) {
    if let Some(spec) = request["spec"].as_object_mut() {
        for field in ["audiences", "boundObjectRef"] {
            spec.entry(field).or_insert(Value::Null);
        }
    }
    request["status"] = json!({"token": "", "expirationTimestamp": null});
}

/// The token that is asked for, not yet bound; the request says all of it then, and of its account.
fn issuable(call: &Call<'_>, request: &mut Value) -> Result<TokenSpec, Status> {
    let (world, namespace, name) = (call.world, call.namespace(), call.name());
    for (key, own, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
        let told = text(&request["metadata"], key);
        if !told.is_empty() && told != own {
            let detail = format!("must match the service account {what} if specified");
            let error = field::Error::invalid(&Path::root("metadata").child(key), told, detail);
            return Err(Status::invalid(GROUP, KIND, name, vec![error]));
        }
    }
    placed(call.row, namespace, name)?;
    let account = world.read(("", "v1", "serviceaccounts"), namespace, name)?;
    let (uid, asked) = (text(&account["metadata"], "uid"), text(&request["metadata"], "uid"));
    if !asked.is_empty() && asked != uid {
        let why = format!("the UID in the token request ({asked}) does not match the UID of the service account ({uid})");
        return Err(Status::conflict(GROUP, KIND, name, &why));
    }
    let mut audiences = texts(&request["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences = world.identity().tokens.audiences().to_vec();
    }
    request["spec"]["audiences"] = json!(audiences);
    let now = time::rfc3339(call.cx.now);
    for (key, value) in [("name", name), ("namespace", namespace), ("uid", uid), ("creationTimestamp", now.as_str())] {
        request["metadata"][key] = json!(value);
    }
    clear(request);
    let errors = check(&request["spec"]);
    if !errors.is_empty() {
        return Err(Status::invalid(GROUP, KIND, "", errors));
    }
    Ok(TokenSpec {
        namespace: namespace.into(),
        account: name.into(),
        account_uid: uid.into(),
        audiences,
        expiration_seconds: request["spec"]["expirationSeconds"].as_i64().unwrap_or_default(),
        may_extend: true,
        ..TokenSpec::default()
    })
}

/// What is wrong with what is asked for (upstream's `ValidateTokenRequest`).
fn check(spec: &Value) -> ErrorList {
    let path = |field: &str| Path::root("spec").child(field);
    let mut errors = ErrorList::new();
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or_default();
    let detail = match seconds {
        ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
        s if s > MAX_SECONDS => "may not specify a duration larger than 2^32 seconds",
        _ => "",
    };
    if !detail.is_empty() {
        errors.push(field::Error::invalid(&path("expirationSeconds"), seconds, detail));
    }
    let (reference, attestations) = (&spec["boundObjectRef"], &spec["attestations"]);
    let count = attestations.as_object().map_or(0, Map::len);
    if !(text(reference, "apiVersion") == "admissionregistration.k8s.io/v1" && HOOKS.contains(&text(reference, "kind"))) {
        if count > 0 {
            let detail = "attestations may only be specified with a webhook bound object reference";
            return vec![field::Error::invalid(&path("attestations"), attestations.clone(), detail)];
        }
        return errors;
    }
    if texts(&spec["audiences"]).len() != 1 {
        errors.push(field::Error::invalid(&path("audiences"), spec["audiences"].clone(), "must be length 1 when bound to a webhook config"));
    }
    if count != 1 {
        let detail = "webhook bound requests require exactly one admissionReviewAPIGroups attestation";
        errors.push(field::Error::invalid(&path("attestations"), attestations.clone(), detail));
        return errors;
    }
    for (key, values) in attestations.as_object().into_iter().flatten() {
        let path = path("attestations").key(key);
        match texts(values).as_slice() {
            _ if key != ATTESTED => errors.push(field::Error::not_supported(&path, key.as_str(), &[ATTESTED])),
            [group] if group.is_empty() => errors.push(field::Error::invalid(&path.index(0), "", "may not be an empty string")),
            [group] if group == "*" => {}
            [group] => {
                let wrong = names::dns1123_subdomain(group).into_iter();
                errors.extend(wrong.map(|why| field::Error::invalid(&path.index(0), group.as_str(), format!("must specify a valid API Group: {why}"))));
            }
            _ => errors.push(field::Error::invalid(&path, values.clone(), "must specify a single value")),
        }
    }
    errors
}

/// Finds the object that the token is to die with.
fn bind(world: &World, reference: &Value, spec: &mut TokenSpec) -> Result<(), Status> {
    if !reference.is_object() {
        return Ok(());
    }
    let (api_version, kind, name) = (text(reference, "apiVersion"), text(reference, "kind"), text(reference, "name"));
    let bound = |object: &Value| Bound { name: name.to_owned(), uid: text(&object["metadata"], "uid").into() };
    // What is no version at all has no group either (upstream's `FromAPIVersionAndKind`).
    let (group, version) = match api_version.split_once('/') {
        Some((_, version)) if version.contains('/') => ("", ""),
        Some(parts) => parts,
        None => ("", api_version),
    };
    if group.is_empty() && matches!(kind, "Pod" | "Node" | "Secret") {
        nameable(name)?;
    }
    let found = match (group, kind) {
        ("", "Pod") => {
            let pod = world.read(("", "v1", "pods"), &spec.namespace, name)?;
            if text(&pod["spec"], "serviceAccountName") != spec.account {
                let why = format!("cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.", spec.account);
                return Err(Status::bad_request(why));
            }
            let node = text(&pod["spec"], "nodeName");
            if !node.is_empty() {
                let uid = world.read(("", "v1", "nodes"), "", node).map(|n| text(&n["metadata"], "uid").to_owned());
                spec.node = Some(Bound { name: node.into(), uid: uid.unwrap_or_default() });
            }
            spec.pod.insert(bound(&pod)).clone()
        }
        ("", "Node") => spec.node.insert(bound(&*world.read(("", "v1", "nodes"), "", name)?)).clone(),
        ("", "Secret") => spec.secret.insert(bound(&*world.read(("", "v1", "secrets"), &spec.namespace, name)?)).clone(),
        _ => {
            let hook = group == "admissionregistration.k8s.io" && version == "v1" && HOOKS.contains(&kind);
            let why = if hook { " (feature gate APIServerWebhookAuthenticationToken is disabled)" } else { "" };
            return Err(Status::bad_request(format!("cannot bind token to object of type {group}/{version}, Kind={kind}{why}")));
        }
    };
    let uid = text(reference, "uid");
    if !uid.is_empty() && uid != found.uid {
        return Err(Status::conflict("", kind, name, &recreated(uid)));
    }
    Ok(())
}

/// Whether there can be an object of this name: else nothing is looked up (upstream's `NamespaceKeyFunc`).
fn nameable(name: &str) -> Result<(), Status> {
    if name.is_empty() { Err(Status::bad_request("Name parameter required.")) } else { check_segment(name) }
}

/// That a reference is to another object of its name.
pub(super) fn recreated(uid: &str) -> String {
    format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_for_webhooks_attest_something() {
        let told = |spec: Value| check(&spec).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "name": "h"});
        let of = |attestations: Value| json!({"expirationSeconds": 600, "audiences": ["a"], "boundObjectRef": hook, "attestations": attestations});
        assert_eq!(told(json!({"expirationSeconds": 600, "audiences": ["a", "b"]})), "");
        assert_eq!(told(of(json!({ATTESTED: ["apps"]}))), "");
        let path = "spec.attestations[admissionReviewAPIGroups]";
        assert_eq!(told(of(json!({ATTESTED: [""]}))), format!("{path}[0]: Invalid value: \"\": may not be an empty string"));
        assert_eq!(
            told(of(Value::Null)),
            "spec.attestations: Invalid value: null: webhook bound requests require exactly one admissionReviewAPIGroups attestation"
        );
        assert_eq!(
            told(json!({"expirationSeconds": 1, "attestations": {"a": ["b"]}})),
            "spec.attestations: Invalid value: {\"a\":[\"b\"]}: attestations may only be specified with a webhook bound object reference"
        );
    }
}
