//! What a body says that it is: upstream reads its apiVersion and kind first, decodes it as that, and only then makes it what
//! its endpoint takes. So an error of decoding is one of the kind that the body names, and the last one is that there is no way
//! from there to here.

use crate::hooks::words;
use machinery::{
    Value,
    gvk::Gvk,
    json::{self, Validation},
    past, proto,
    quote::Quoted,
    schema::{self, TypeRef},
    status::Status,
    yaml,
};

/// The kinds that upstream knows in every version of every group.
pub(crate) const UNVERSIONED: [&str; 5] = ["Status", "APIVersions", "APIGroupList", "APIGroup", "APIResourceList"];

/// The kind of a decoded body must be the one that is expected.
pub(crate) fn check(expected: &Gvk, value: &Value) -> Result<(), Status> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind == expected.kind && api_version == expected.api_version() {
        return Ok(());
    }
    // Evictions are read in the version in which they began.
    if kind == "Eviction" && expected.kind == "Eviction" && api_version == "policy/v1beta1" {
        return Ok(());
    }
    let given = Gvk::parse(api_version, kind);
    // Lists of anything are core's; what metadata is shown as is no kind that anybody sends.
    let is_list = (api_version, kind) == ("v1", "List") && schema::same_scheme(&expected.group, "");
    let is_known = given.group != "meta.k8s.io" && schema::known_beside(expected, &given).is_some() || is_list;
    if kind == expected.kind && is_one_group(&given, expected) && is_known || kind == expected.kind && past::is_read(kind, api_version) {
        let own = expected.api_version();
        return Err(Status::bad_request(format!("{OTHER_VERSION}({api_version}) does not match the expected API version ({own})")));
    }
    let package = package(&expected.group);
    let why = if UNVERSIONED.contains(&kind) {
        format!("converting (v1.{kind}) to ({package}.{}): unknown conversion", expected.kind)
    } else if is_known {
        format!("converting ({}.{kind}) to ({package}.{}): unknown conversion", given.version, expected.kind)
    } else {
        words::unregistered(kind, api_version)
    };
    Err(unhandled(&given, expected, &why))
}

/// Whether two versions of a kind are of one group, or of two whose objects of it are the same: Events are in two
/// (`pkg/apis/events` registers core's).
fn is_one_group(given: &Gvk, expected: &Gvk) -> bool {
    let has_events = |gvk: &Gvk| matches!(gvk.group.as_str(), "" | "events.k8s.io");
    given.group == expected.group || given.kind == "Event" && has_events(given) && has_events(expected)
}

/// Upstream's internal package of a group, which is named after its first part.
pub(crate) fn package(group: &str) -> &str {
    match group.split('.').next().unwrap_or_default() {
        "" | "events" => "core",
        first => first,
    }
}

fn unhandled(given: &Gvk, expected: &Gvk, why: &str) -> Status {
    Status::bad_request(format!("{} in version {} cannot be handled as a {}: {why}", given.kind, Quoted(&given.version), expected.kind))
}

/// What a body of another version of its kind is answered, before which is told what that version does not know of it.
const OTHER_VERSION: &str = "the API version in the data ";

/// The error of a body that cannot be decoded as what is expected: it may say that it is something else.
pub(crate) fn otherwise(expected: &Gvk, bytes: &[u8], status: Status, validation: Validation, tell: &dyn Fn(String)) -> Status {
    // What is no JSON says nothing, though YAML might make something of it.
    if status.message.contains("json parse error: invalid character") {
        return status;
    }
    let read = || json::read(bytes).ok().or_else(|| yaml::decode(bytes, None, Validation::Ignore).ok().map(|read| read.value));
    let Some(tree) = read().filter(Value::is_object) else { return status };
    if let Some(untold) = untold(expected, &tree, bytes) {
        return untold;
    }
    let text = |key: &str| tree[key].as_str().filter(|text| !text.is_empty());
    let api_version = text("apiVersion").map_or_else(|| expected.api_version(), str::to_owned);
    if api_version.matches('/').count() > 1 {
        return json::unrecognized(expected, &format!("unexpected GroupVersion string: {api_version}"), bytes);
    }
    let given = Gvk::parse(&api_version, text("kind").unwrap_or(&expected.kind));
    if given == *expected {
        return status;
    }
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let decode = |ty, validation| match is_json {
        true => json::decode(bytes, Some(ty), validation),
        false => yaml::decode(bytes, Some(ty), validation),
    };
    let ty = schema::known_beside(expected, &given);
    if let Some(Err(wrong)) = ty.map(|ty| decode(ty, Validation::Ignore)) {
        return unhandled(&given, expected, why(&wrong));
    }
    let mut named = tree;
    named["apiVersion"] = api_version.into();
    named["kind"] = given.kind.as_str().into();
    let Err(refused) = check(expected, &named) else { return status };
    let past = || schema::builtin().kind(expected).filter(|_| past::is_as_today(&given, &named));
    if refused.message.starts_with(OTHER_VERSION)
        && let Some(ty) = ty.or_else(past)
    {
        match decode(ty, validation) {
            Ok(decoded) => decoded.warnings.into_iter().for_each(tell),
            Err(wrong) => return unhandled(&given, expected, why(&wrong)),
        }
    }
    refused
}

/// Why a body cannot be handled as what it is.
fn why(refused: &Status) -> &str {
    let told = refused.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
    told.map_or("", |(_, why)| why)
}

/// The error of a custom body that says that it is something else: what it is shows in it. What it does not say is what is expected
/// (upstream's `gvkWithDefaults`).
pub(super) fn as_said(said: &Gvk, expected: &Gvk, refused: Status) -> Status {
    let or = |said: &str, expected: &str| if said.is_empty() { expected } else { said }.to_owned();
    let given = Gvk { group: said.group.clone(), version: or(&said.version, &expected.version), kind: or(&said.kind, &expected.kind) };
    match why(&refused) {
        "" => refused,
        why => unhandled(&given, expected, why),
    }
}

/// The error of a body that says what it is by something else than texts.
fn untold(expected: &Gvk, tree: &Value, bytes: &[u8]) -> Option<Status> {
    words::untold(tree).map(|why| json::unrecognized(expected, &why, bytes))
}

/// What was read of a custom object: before its type is looked at it must say what it is.
pub(crate) fn custom(expected: Option<&Gvk>, bytes: &[u8], read: Result<Value, Status>) -> Result<Value, Status> {
    let untold_by = |tree: &Value| expected.and_then(|expected| untold(expected, tree, bytes));
    let found = match &read {
        Ok(value) => untold_by(value).or_else(|| expected.filter(|_| has_null_version(value, bytes)).map(null_version)),
        Err(_) => json::read(bytes).ok().filter(Value::is_object).and_then(|tree| untold_by(&tree)),
    };
    found.map_or(read, Err)
}

/// Whether what has no apiVersion says so itself.
fn has_null_version(value: &Value, bytes: &[u8]) -> bool {
    value["apiVersion"].is_null() && json::read(bytes).is_ok_and(|tree| tree.get("apiVersion").is_some_and(Value::is_null))
}

fn null_version(expected: &Gvk) -> Status {
    let kind = &expected.kind;
    let why = ".apiVersion accessor error: <nil> is of the type <nil>, expected string";
    Status::bad_request(format!("{kind} in version \"\" cannot be handled as a {kind}: {why}"))
}

/// Decodes a message. An envelope that does not say what is in it holds what is expected; of a custom kind there is no message.
pub(crate) fn message(ty: TypeRef<'_>, bytes: &[u8]) -> Result<Value, Status> {
    let Some(expected) = ty.gvk() else { return proto::decode_raw(ty, bytes) };
    let why = match bytes.len() {
        0 => Some("empty data".to_owned()),
        4 if bytes == proto::MAGIC => Some("empty body".to_owned()),
        _ => None,
    };
    if let Some(why) = why {
        return Err(json::unrecognized(expected, &why, bytes));
    }
    let (api_version, kind, raw) = proto::open_envelope(bytes).map_err(|status| json::unrecognized(expected, &status.message, bytes))?;
    let own = expected.api_version();
    let given = Gvk::parse(if api_version.is_empty() { &own } else { &api_version }, if kind.is_empty() { &expected.kind } else { &kind });
    let named = |value: &mut Value| {
        value["apiVersion"] = given.api_version().into();
        value["kind"] = given.kind.as_str().into();
    };
    if ty.schema.is_lenient() {
        // Upstream reads it into an object that does not say its kind yet.
        return Err(unhandled(&given, expected, "Object 'Kind' is missing in 'object has no kind field '"));
    }
    let Some(ty) = schema::known_beside(expected, &given) else {
        let mut nothing = Value::Null;
        named(&mut nothing);
        return Err(check(expected, &nothing).err().unwrap_or_else(|| Status::bad_request("no kind is registered")));
    };
    let mut value = proto::decode_body(ty, raw).map_err(|status| unhandled(&given, expected, &status.message))?;
    named(&mut value);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_of_the_other_group_is_one_of_another_version() {
        let told = |at: &str, said: &str, kind: &str| {
            check(&Gvk::parse(at, kind), &json!({"apiVersion": said, "kind": kind})).err().map(|status| status.message).unwrap_or_default()
        };
        let otherwise = |said: &str, at: &str| format!("the API version in the data ({said}) does not match the expected API version ({at})");
        assert_eq!(told("events.k8s.io/v1", "v1", "Event"), otherwise("v1", "events.k8s.io/v1"));
        assert_eq!(told("v1", "events.k8s.io/v1", "Event"), otherwise("events.k8s.io/v1", "v1"));
        assert_eq!(told("v1", "v1", "Event"), "");
        assert!(told("v1", "apps/v1", "Event").ends_with("is registered for version \"apps/v1\" in scheme \"pkg/runtime/scheme.go:111\""));
    }
}
