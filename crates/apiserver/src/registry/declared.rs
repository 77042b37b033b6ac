//! What a body says that it is: upstream reads its apiVersion and kind first, decodes it as that, and only then makes it what
//! its endpoint takes. So an error of decoding is one of the kind that the body names, and the last one is that there is no way
//! from there to here.

use machinery::{
    Value,
    gvk::Gvk,
    json::{self, Validation},
    proto,
    quote::Quoted,
    schema::{self, TypeRef},
    status::Status,
    tree::json_type,
    yaml,
};

/// Versions of kinds that upstream still reads and no longer serves.
const PAST: [(&str, &[&str]); 20] = [
    ("Deployment", &["apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"]),
    ("DaemonSet", &["apps/v1beta2", "extensions/v1beta1"]),
    ("ReplicaSet", &["apps/v1beta2", "extensions/v1beta1"]),
    ("StatefulSet", &["apps/v1beta1", "apps/v1beta2"]),
    ("ControllerRevision", &["apps/v1beta1", "apps/v1beta2"]),
    ("Scale", &["apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"]),
    ("Ingress", &["extensions/v1beta1", "networking.k8s.io/v1beta1"]),
    ("IngressClass", &["networking.k8s.io/v1beta1"]),
    ("NetworkPolicy", &["extensions/v1beta1"]),
    ("CronJob", &["batch/v1beta1"]),
    ("PodDisruptionBudget", &["policy/v1beta1"]),
    ("CustomResourceDefinition", &["apiextensions.k8s.io/v1beta1"]),
    ("APIService", &["apiregistration.k8s.io/v1beta1"]),
    ("ValidatingWebhookConfiguration", &["admissionregistration.k8s.io/v1beta1"]),
    ("MutatingWebhookConfiguration", &["admissionregistration.k8s.io/v1beta1"]),
    ("Role", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("RoleBinding", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("ClusterRole", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("ClusterRoleBinding", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("EndpointSlice", &["discovery.k8s.io/v1beta1"]),
];

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
    let is_past = || PAST.iter().any(|(past, versions)| *past == kind && versions.contains(&api_version));
    // Lists of anything are core's; what metadata is shown as is no kind that anybody sends.
    let is_known = given.group != "meta.k8s.io" && schema::builtin().kind(&given).is_some() || (api_version, kind) == ("v1", "List");
    if kind == expected.kind && given.group == expected.group && is_known || kind == expected.kind && is_past() {
        let own = expected.api_version();
        return Err(Status::bad_request(format!("the API version in the data ({api_version}) does not match the expected API version ({own})")));
    }
    let why = if is_known {
        let package = package(&expected.group);
        format!("converting ({}.{kind}) to ({package}.{}): unknown conversion", given.version, expected.kind)
    } else {
        format!("no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"", Quoted(kind), Quoted(api_version))
    };
    Err(unhandled(&given, expected, &why))
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

/// The error of a body that cannot be decoded as what is expected: it may say that it is something else.
pub(crate) fn otherwise(expected: &Gvk, bytes: &[u8], status: Status) -> Status {
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
    let wrong = schema::builtin().kind(&given).and_then(|ty| match is_json {
        true => json::decode(bytes, Some(ty), Validation::Ignore).err(),
        false => yaml::decode(bytes, Some(ty), Validation::Ignore).err(),
    });
    match wrong {
        Some(wrong) => {
            let why = wrong.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": ")).map_or("", |(_, why)| why);
            unhandled(&given, expected, why)
        }
        None => {
            let mut named = tree;
            named["apiVersion"] = api_version.into();
            named["kind"] = given.kind.into();
            check(expected, &named).err().unwrap_or(status)
        }
    }
}

/// The error of a body that says what it is by something else than texts.
fn untold(expected: &Gvk, tree: &Value, bytes: &[u8]) -> Option<Status> {
    ["apiVersion", "kind"].into_iter().find_map(|key| {
        let found = match &tree[key] {
            Value::Null | Value::String(_) => return None,
            other => json_type(other),
        };
        let why = format!("couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go struct field .{key} of type string");
        Some(json::unrecognized(expected, &why, bytes))
    })
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

/// Decodes a message. An envelope that does not say what is in it holds what is expected.
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
    let plain = |status: Status| status.message.strip_prefix("proto: ").map_or(status.message.clone(), str::to_owned);
    let (api_version, kind, raw) = proto::open_envelope(bytes).map_err(|status| json::unrecognized(expected, &plain(status), bytes))?;
    let own = expected.api_version();
    let given = Gvk::parse(if api_version.is_empty() { &own } else { &api_version }, if kind.is_empty() { &expected.kind } else { &kind });
    let named = |value: &mut Value| {
        value["apiVersion"] = given.api_version().into();
        value["kind"] = given.kind.as_str().into();
    };
    let Some(ty) = schema::builtin().kind(&given) else {
        let mut nothing = Value::Null;
        named(&mut nothing);
        return Err(check(expected, &nothing).err().unwrap_or_else(|| Status::bad_request("no kind is registered")));
    };
    let mut value = proto::decode_body(ty, raw).map_err(|status| unhandled(&given, expected, &plain(status)))?;
    named(&mut value);
    Ok(value)
}
