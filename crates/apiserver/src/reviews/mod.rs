//! Reviews: questions that are answered and not stored. Who is this (TokenReview, SelfSubjectReview), may they do that
//! (the access reviews), what may I do (SelfSubjectRulesReview); and `serviceaccounts/token`, whose answer is a token.
//!
//! The answers come from the same authenticator and authoriser that guard the path, so a review never says anything else
//! than what a request would meet.

mod node_tokens;
mod token;

pub(crate) use token::create as token;

use crate::read::{text, texts};
use crate::{
    Context, legacy_tokens, meta, own,
    registry::{check_kind, place},
    rows::Row,
    world::World,
};
use identity::{Attributes, Decision, User, node_of};
use machinery::{
    Value,
    field::{self, ErrorList, Path},
    fields::FieldSelector,
    labels::Selector,
    status::Status,
    time,
};
use serde_json::json;

/// Readies a review as every other new object: it is what its endpoint takes, has its place, and nothing that the server alone says.
pub(crate) fn settle(row: &Row, namespace: &str, value: &mut Value) -> Result<(), Status> {
    check_kind(row, value)?;
    own::wipe(value);
    meta::of(value).remove("creationTimestamp");
    place(row, namespace, value)
}

/// Answers a create of one of the review kinds, which is readied ([`settle`]).
#[allow(clippy::unused_async, reason = "token and authorisation webhooks will wait")]
pub(crate) async fn create(world: &World, cx: &Context, row: &Row, mut value: Value) -> Result<Value, Status> {
    let kind = row.resource.kind.kind.as_str();
    own::owners_once(&mut value, cx, false);
    let status = match kind {
        "TokenReview" => token_review(world, cx, &value).await?,
        "SelfSubjectReview" => {
            // Upstream answers an object of its own here too.
            value["metadata"] = json!({ "creationTimestamp": time::rfc3339(cx.now) });
            json!({ "userInfo": cx.user.to_value() })
        }
        "SelfSubjectRulesReview" => {
            let status = rules(world, cx, &value)?;
            // Upstream answers an object of its own.
            value["metadata"] = json!({});
            value["spec"] = json!({});
            status
        }
        "SelfSubjectAccessReview" => {
            check(kind, &value, false)?;
            access(world, &cx.user, &value["spec"])
        }
        "SubjectAccessReview" => {
            check(kind, &value, true)?;
            access(world, &user_of(&value["spec"]), &value["spec"])
        }
        "LocalSubjectAccessReview" => {
            check(kind, &value, true)?;
            local(cx, &value)?;
            access(world, &user_of(&value["spec"]), &value["spec"])
        }
        other => return Err(Status::internal(format!("{other} is no review"))),
    };
    value["status"] = status;
    Ok(value)
}

/// The user that a review asks about.
fn user_of(spec: &Value) -> User {
    let extra = spec["extra"].as_object().into_iter().flatten().map(|(key, list)| (key.to_lowercase(), texts(list)));
    User { name: text(spec, "user").into(), uid: text(spec, "uid").into(), groups: texts(&spec["groups"]), extra: extra.collect() }
}

/// What must be said in an access review (upstream's validation of authorization.k8s.io).
fn check(kind: &str, value: &Value, names_user: bool) -> Result<(), Status> {
    let spec = &value["spec"];
    let path = Path::root("spec");
    let mut errors = ErrorList::new();
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == other.is_object() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(field::Error::invalid(&path, Value::Null, detail).shown_as(shown(other)));
    }
    if names_user && text(spec, "user").is_empty() && texts(&spec["groups"]).is_empty() {
        errors.push(field::Error::invalid(&path.child("user"), "", "at least one of user or group must be specified"));
    }
    for (key, is_label) in [("fieldSelector", false), ("labelSelector", true)] {
        if resource[key].is_object() {
            selector(&resource[key], is_label, &Path::root("spec.resourceAttributes").child(key), &mut errors);
        }
    }
    let meta = value["metadata"].as_object().into_iter().flatten();
    let told: Vec<&String> = meta.filter(|(k, v)| k.as_str() != "managedFields" && !v.is_null()).map(|(k, _)| k).collect();
    let allowed = |k: &str| kind == "LocalSubjectAccessReview" && k == "namespace";
    if told.iter().any(|k| !allowed(k)) {
        let detail = if kind == "LocalSubjectAccessReview" { "must be empty except for namespace" } else { "must be empty" };
        let ty = machinery::schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        let shown = String::from_utf8_lossy(&machinery::json::encode_as(ty, &value["metadata"])).into_owned();
        errors.push(field::Error::invalid(&Path::root("metadata"), Value::Null, detail).shown_as(shown));
    }
    if kind == "LocalSubjectAccessReview" {
        let namespace = text(resource, "namespace");
        if resource.is_object() && namespace != text(&value["metadata"], "namespace") {
            errors.push(field::Error::invalid(&path.child("resourceAttributes").child("namespace"), namespace, "must match metadata.namespace"));
        }
        if other.is_object() {
            let error = field::Error::invalid(&path.child("nonResourceAttributes"), Value::Null, "disallowed on this kind of request");
            errors.push(error.shown_as(shown(other)));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("authorization.k8s.io", "", "", errors)) }
}

/// What is asked of no resource, as upstream's own type is written.
fn shown(other: &Value) -> String {
    let quoted = |key: &str| String::from_utf8_lossy(&machinery::json::encode(&text(other, key).into())).into_owned();
    if other.is_object() { format!("{{\"Path\":{},\"Verb\":{}}}", quoted("path"), quoted("verb")) } else { "null".to_owned() }
}

/// A selector among the attributes: as text, or as requirements, whose operators may be newer than this server.
fn selector(selector: &Value, is_label: bool, path: &Path, errors: &mut ErrorList) {
    let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() && !requirements.is_empty() {
        errors.push(field::Error::invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements"));
    }
    if raw.is_empty() && requirements.is_empty() {
        let detail = format!("when {} is specified, requirements or rawSelector is required", path.as_str());
        errors.push(field::Error::required(&path.child("requirements"), detail));
    }
    for (at, requirement) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(at);
        let (key, values) = (text(requirement, "key"), texts(&requirement["values"]));
        if !is_label && key.is_empty() {
            errors.push(field::Error::required(&path.child("key"), "must be specified"));
        }
        match text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(field::Error::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(field::Error::forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            _ => {}
        }
        if is_label {
            let wrong = machinery::names::qualified_name(key);
            errors.extend(wrong.into_iter().map(|why| field::Error::invalid(&path.child("key"), key, why)));
            for (at, value) in values.iter().enumerate() {
                let wrong = machinery::names::label_value(value);
                errors.extend(wrong.into_iter().map(|why| field::Error::invalid(&path.child("values").index(at), value.as_str(), why)));
            }
        }
    }
}

fn local(cx: &Context, value: &Value) -> Result<(), Status> {
    let namespace = cx.info.namespace.as_str();
    if namespace.is_empty() {
        return Err(Status::bad_request("namespace is required on this type: "));
    }
    if namespace != text(&value["metadata"], "namespace") {
        return Err(Status::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
    }
    Ok(())
}

/// `SubjectAccessReviewStatus`.
fn access(world: &World, user: &User, spec: &Value) -> Value {
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let is_resource = resource.is_object();
    let fields = read_fields(&resource["fieldSelector"]);
    let asked = Attributes {
        user,
        verb: if is_resource { text(resource, "verb") } else { text(other, "verb") },
        group: text(resource, "group"),
        version: [text(resource, "version"), "*"].into_iter().find(|v| !v.is_empty()).unwrap_or("*"),
        resource: text(resource, "resource"),
        subresource: text(resource, "subresource"),
        namespace: text(resource, "namespace"),
        name: text(resource, "name"),
        path: text(other, "path"),
        is_resource,
        fields: fields.as_ref(),
    };
    let (decision, reason) = world.identity().authorizer.authorize(&asked);
    let mut status = json!({ "allowed": decision == Decision::Allow });
    if decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    let ignored: Vec<String> = [("fieldSelector", false), ("labelSelector", true)]
        .into_iter()
        .filter_map(|(key, is_label)| {
            let how = unread(&resource[key], is_label)?;
            Some(format!("spec.resourceAttributes.{key} {how} due to parse error"))
        })
        .collect();
    if !ignored.is_empty() {
        status["evaluationError"] = ignored.join("; ").into();
    }
    status
}

/// The field selector that a review tells of, as far as it can be read.
fn read_fields(selector: &Value) -> Option<FieldSelector> {
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        return FieldSelector::parse(raw).ok();
    }
    let term = |told: &Value| {
        let operator = match text(told, "operator") {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        match texts(&told["values"]).as_slice() {
            [value] => Some(format!("{}{operator}{}", text(told, "key"), value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\="))),
            _ => None,
        }
    };
    let terms: Vec<String> = selector["requirements"].as_array()?.iter().filter_map(term).collect();
    FieldSelector::parse(&terms.join(",")).ok().filter(|_| !terms.is_empty())
}

/// How much of a selector nobody can read, if anything; what is read may decide ([`read_fields`]).
fn unread(selector: &Value, is_label: bool) -> Option<&'static str> {
    let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    if requirements.is_empty() {
        let raw = text(selector, "rawSelector");
        let unread = if is_label { Selector::parse(raw).is_err() } else { FieldSelector::parse(raw).is_err() };
        return (unread && !raw.is_empty()).then_some("ignored");
    }
    let is_read = |requirement: &&Value| match (text(requirement, "operator"), texts(&requirement["values"]).len()) {
        ("In" | "NotIn", values) => is_label || values == 1,
        ("Exists" | "DoesNotExist", _) => is_label,
        _ => false,
    };
    match requirements.iter().filter(is_read).count() {
        all if all == requirements.len() => None,
        0 => Some("ignored"),
        _ => Some("partially ignored"),
    }
}

/// `SubjectRulesReviewStatus` of the one who asks.
fn rules(world: &World, cx: &Context, value: &Value) -> Result<Value, Status> {
    let namespace = text(&value["spec"], "namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (rules, problems) = world.identity().authorizer.rbac().rules_of(&cx.user, namespace);
    let mut resource_rules = Vec::new();
    let mut other_rules = Vec::new();
    for rule in &rules {
        if !rule.resources.is_empty() {
            let mut out = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                out["resourceNames"] = json!(rule.names);
            }
            resource_rules.push(out);
        }
        if !rule.urls.is_empty() {
            other_rules.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
        }
    }
    let mut errors = problems;
    let is_node = node_of(&cx.user).is_some();
    if is_node {
        errors.insert(0, "node authorizer does not support user rule resolution".into());
    }
    let mut status = json!({"resourceRules": resource_rules, "nonResourceRules": other_rules, "incomplete": is_node});
    match errors.as_slice() {
        [] => {}
        [one] => status["evaluationError"] = json!(one),
        more => status["evaluationError"] = json!(format!("[{}]", more.join(", "))),
    }
    Ok(status)
}

/// `TokenReviewStatus`.
async fn token_review(world: &World, cx: &Context, value: &Value) -> Result<Value, Status> {
    let spec = &value["spec"];
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let shown = world.identity().authenticator.review(token, &texts(&spec["audiences"]), cx.now);
    legacy_tokens::note(world, &shown, cx.now).await;
    // What the body says of it stays where upstream writes nothing.
    let mut status = value["status"].as_object().cloned().unwrap_or_default();
    status.remove("authenticated");
    let mut tell = |field: &str, told: Value| status.insert(field.to_owned(), told);
    match shown {
        Ok(review) => {
            tell("authenticated", true.into());
            tell("user", review.user.to_value());
            tell("audiences", json!(review.audiences));
        }
        // What is no token of this kind at all, or somebody else's, is none that its authenticator would speak of.
        Err(identity::Error::Foreign(_)) => drop(tell("error", "invalid bearer token".into())),
        Err(error) => drop(tell("error", format!("[invalid bearer token, {error}]").into())),
    }
    status.entry("user").or_insert_with(|| json!({}));
    Ok(status.into())
}
