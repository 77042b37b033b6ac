//! What claims and classes say of devices: requests, selectors in CEL, constraints and configurations
//! (`pkg/apis/resource/validation`).

use crate::{rules, tree};
use kubecel::{Env, Type, Version, declared::DeclaredSizes, declared::devices};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    gvk::Gvk,
    json, names, schema,
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::OnceLock,
};

/// Requests, selectors, constraints and configurations of one owner at most (`DeviceRequestsMaxSize` and its like).
const ITEMS_MAX: usize = 32;
/// Alternatives of one request at most.
const ALTERNATIVES_MAX: usize = 8;
/// Bytes of a selector, or of what a driver is told.
const TEXT_BYTES_MAX: usize = 10 * 1024;
/// What evaluating a selector for one device may cost.
const SELECTOR_COST_MAX: u64 = 1_000_000;
/// Bytes of an attribute's name.
const NAME_BYTES_MAX: usize = 32;
const REFERENCE: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The names of a claim's requests, and of the alternatives of each.
type Requests<'v> = BTreeMap<&'v str, HashSet<&'v str>>;

/// Whether a list is short enough for its items to be looked at.
fn counted<'v>(owner: &'v Value, list: &str, most: usize, path: &Path, errors: &mut ErrorList) -> &'v [Value] {
    let items = tree::list(owner, list);
    if items.len() <= most {
        return items;
    }
    errors.push(Error::too_many(&path.child(list), items.len(), most));
    &[]
}

/// Checks the spec of a claim, as one of this version of the API has it.
pub(super) fn check_claim(api_version: &str, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (devices, outer) = (&spec["devices"], path.child("devices"));
    let named: Requests<'_> = tree::list(devices, "requests")
        .iter()
        .map(|request| (tree::text(request, "name"), tree::list(request, "firstAvailable").iter().map(|own| tree::text(own, "name")).collect()))
        .collect();
    let (requests, path) = (counted(devices, "requests", ITEMS_MAX, &outer, errors), outer.child("requests"));
    for (at, request) in requests.iter().enumerate() {
        check_entry(api_version, request, &path.index(at), errors);
    }
    twice(api_version, "DeviceRequest", requests, &path, errors);
    check_constraints(devices, &outer, &named, errors);
    configs(devices, &outer, Some(&named), errors);
    drivers(devices, &outer, errors);
}

fn check_entry(api_version: &str, request: &Value, path: &Path, errors: &mut ErrorList) {
    name(request, path, errors);
    let (exactly, flat) = (&request["exactly"], !request["deviceClassName"].is_null());
    match (exactly.is_null(), tree::list(request, "firstAvailable").is_empty()) {
        (true, true) if !flat => errors.push(Error::required(path, "exactly one of `exactly` or `firstAvailable` is required")),
        (false, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(Error::invalid(path, Value::Null, detail));
            // What is declared of each holds all the same.
            for (at, own) in tree::list(request, "firstAvailable").iter().enumerate() {
                check_declared(own, &path.child("firstAvailable").index(at), errors);
            }
        }
        (false, true) => check_request(exactly, &path.child("exactly"), errors),
        _ if flat => check_request(request, path, errors),
        _ => {
            let (list, place) = (counted(request, "firstAvailable", ALTERNATIVES_MAX, path, errors), path.child("firstAvailable"));
            for (at, own) in list.iter().enumerate() {
                name(own, &place.index(at), errors);
                check_request(own, &place.index(at), errors);
            }
            twice(api_version, "DeviceSubRequest", list, &place, errors);
        }
    }
}

fn name(owner: &Value, path: &Path, errors: &mut ErrorList) {
    if rules::required(owner, path, "name", errors) {
        let name = tree::text(owner, "name");
        rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
    }
}

/// Items of one name: they are shown whole, as their version writes them.
fn twice(api_version: &str, kind: &str, items: &[Value], path: &Path, errors: &mut ErrorList) {
    let (mut seen, version) = (HashSet::new(), Gvk::parse(api_version, kind).version);
    for (at, item) in items.iter().enumerate().filter(|(_, item)| !seen.insert(tree::text(item, "name"))) {
        let ty = schema::builtin().named(&format!("io.k8s.api.resource.{version}.{kind}"));
        let shown = String::from_utf8_lossy(&json::encode_as(ty, item)).into_owned();
        errors.push(Error::duplicate(&path.index(at), item.clone()).shown_as(shown));
    }
}

/// What upstream declares of a request.
fn check_declared(request: &Value, path: &Path, errors: &mut ErrorList) {
    check_class_name(request, path, errors);
    rules::supported(&request["allocationMode"], &path.child("allocationMode"), &["All", "ExactCount"], errors);
}

fn check_class_name(request: &Value, path: &Path, errors: &mut ErrorList) {
    if rules::required(request, path, "deviceClassName", errors) {
        let class = tree::text(request, "deviceClassName");
        rules::name(class, &path.child("deviceClassName"), names::dns1123_subdomain(class), errors);
    }
}

fn check_request(request: &Value, path: &Path, errors: &mut ErrorList) {
    check_class_name(request, path, errors);
    selectors(request, path, errors);
    let (mode, count) = (tree::text(request, "allocationMode"), request["count"].as_i64().unwrap_or(0));
    match mode {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(Error::invalid(&path.child("count"), count, detail));
        }
        "All" => {}
        "ExactCount" if count <= 0 => errors.push(Error::invalid(&path.child("count"), count, "must be greater than zero")),
        "ExactCount" => {}
        other => errors.push(Error::not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"])),
    }
    for (at, toleration) in tree::list(request, "tolerations").iter().enumerate() {
        check_toleration(toleration, &path.child("tolerations").index(at), errors);
    }
}

fn check_toleration(toleration: &Value, path: &Path, errors: &mut ErrorList) {
    let (key, value) = (tree::text(toleration, "key"), tree::text(toleration, "value"));
    if !key.is_empty() {
        rules::name(key, &path.child("key"), names::qualified_name(key), errors);
    }
    match tree::text(toleration, "operator") {
        "Exists" if !value.is_empty() => errors.push(Error::invalid(&path.child("value"), value, "must be empty for operator `Exists`")),
        "Equal" => rules::name(value, &path.child("value"), names::label_value(value), errors),
        _ => rules::one_of(&toleration["operator"], &path.child("operator"), &["Equal", "Exists"], errors),
    }
    if !tree::empty(&toleration["effect"]) {
        rules::one_of(&toleration["effect"], &path.child("effect"), &["NoExecute", "NoSchedule", "None"], errors);
    }
}

/// Which devices are wanted.
pub(super) fn selectors(owner: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, selector) in counted(owner, "selectors", ITEMS_MAX, path, errors).iter().enumerate() {
        let place = path.child("selectors").index(at).child("cel");
        if selector["cel"].is_null() {
            errors.push(Error::required(&place, ""));
        } else {
            expression(tree::text(&selector["cel"], "expression"), &place.child("expression"), errors);
        }
    }
}

fn expression(text: &str, path: &Path, errors: &mut ErrorList) {
    static ENV: OnceLock<Env> = OnceLock::new();
    if text.len() > TEXT_BYTES_MAX {
        return errors.push(Error::too_long(path, TEXT_BYTES_MAX));
    }
    let program = match ENV.get_or_init(|| Env::devices(Version::NEW)).compile(text) {
        Ok(program) => program,
        Err(issues) => return errors.push(Error::invalid(path, text, format!("compilation failed: {issues}"))),
    };
    if !matches!(program.output, Type::Bool | Type::Any) {
        return errors.push(Error::invalid(path, text, format!("must evaluate to bool or the unknown type, not {}", program.output)));
    }
    if let Err(why) = program.instantiate() {
        return errors.push(Error::internal(path, format!("program instantiation failed: {why}")));
    }
    if program.estimate(&DeclaredSizes(&devices::device())).max > SELECTOR_COST_MAX {
        errors.push(Error::forbidden(path, "too complex, exceeds cost limit"));
    }
}

/// Which requests must have the same of something, or must not.
fn check_constraints(devices: &Value, path: &Path, named: &Requests<'_>, errors: &mut ErrorList) {
    for (at, constraint) in counted(devices, "constraints", ITEMS_MAX, path, errors).iter().enumerate() {
        let place = path.child("constraints").index(at);
        references(constraint, &place, named, errors);
        let attribute = ["matchAttribute", "distinctAttribute"].into_iter().find_map(|field| Some((field, constraint[field].as_str()?)));
        match attribute {
            Some((field, attribute)) => check_attribute(attribute, &place.child(field), errors),
            None => {
                let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                errors.push(Error::required(&place, detail));
            }
        }
    }
}

/// The requests that something is about.
fn references(owner: &Value, path: &Path, named: &Requests<'_>, errors: &mut ErrorList) {
    let (list, path) = (counted(owner, "requests", ITEMS_MAX, path, errors), path.child("requests"));
    let texts = || list.iter().enumerate().map(|(at, text)| (path.index(at), text.as_str().unwrap_or_default()));
    for (place, text) in texts() {
        let parts: Vec<&str> = text.split('/').collect();
        for part in parts.iter().filter(|_| parts.len() <= 2) {
            rules::name(part, &place, names::dns1123_label(part), errors);
        }
        let known = match parts[..] {
            [request] => named.contains_key(request),
            [request, alternative] => named.get(request).is_some_and(|own| own.contains(alternative)),
            _ => false,
        };
        if !known {
            errors.push(Error::invalid(&place, text, REFERENCE));
        }
    }
    let mut seen = HashSet::new();
    errors.extend(texts().filter(|(_, text)| !seen.insert(*text)).map(|(place, text)| Error::duplicate(&place, text)));
}

/// The full name of an attribute: a domain, and an identifier of C.
fn check_attribute(attribute: &str, path: &Path, errors: &mut ErrorList) {
    match attribute.split('/').collect::<Vec<_>>()[..] {
        [own] => check_identifier(own, path, errors),
        [domain, own] => {
            if domain.is_empty() {
                errors.push(Error::invalid(path, "", "the domain must not be empty"));
            } else {
                rules::name(domain, path, prefixed(domain), errors);
            }
            if own.is_empty() {
                errors.push(Error::invalid(path, "", "the name must not be empty"));
            } else {
                check_identifier(own, path, errors);
            }
        }
        _ => {}
    }
    if !attribute.contains('/') {
        errors.push(Error::invalid(path, attribute, "a fully qualified name must be a domain and a name separated by a slash"));
    }
}

/// What is wrong with a domain.
fn prefixed(domain: &str) -> Vec<String> {
    names::dns1123_subdomain(domain).into_iter().map(|problem| format!("prefix: {problem}")).collect()
}

fn check_identifier(text: &str, path: &Path, errors: &mut ErrorList) {
    if text.len() > NAME_BYTES_MAX {
        errors.push(Error::too_long(path, NAME_BYTES_MAX));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if text.is_empty() || text.as_bytes()[0].is_ascii_digit() || !text.bytes().all(legal) {
        let words = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
        errors.push(Error::invalid(path, text, names::regex_error(words, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])));
    }
}

/// What drivers are told: objects whose meaning is their own. Those of a claim say for which of its requests.
pub(super) fn configs(owner: &Value, path: &Path, named: Option<&Requests<'_>>, errors: &mut ErrorList) {
    for (at, config) in counted(owner, "config", ITEMS_MAX, path, errors).iter().enumerate() {
        let place = path.child("config").index(at);
        if let Some(named) = named {
            references(config, &place, named, errors);
        }
        let (opaque, place) = (&config["opaque"], place.child("opaque"));
        match (opaque.is_null(), &opaque["parameters"]) {
            (true, _) => errors.push(Error::required(&place, "")),
            (false, Value::Null) => errors.push(Error::required(&place.child("parameters"), "")),
            (false, parameters) if json::encode(parameters).len() > TEXT_BYTES_MAX => errors.push(Error::too_long(&place.child("parameters"), TEXT_BYTES_MAX)),
            (false, Value::Object(_)) => {}
            (false, _) => errors.push(Error::invalid(&place.child("parameters"), "<value omitted>", "must be a valid JSON object")),
        }
    }
}

/// The drivers of configurations: a declared rule, and such rules are asked last.
pub(super) fn drivers(owner: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, config) in tree::list(owner, "config").iter().enumerate().filter(|(_, config)| config["opaque"].is_object()) {
        let (driver, place) = (tree::text(&config["opaque"], "driver"), path.child("config").index(at).child("opaque").child("driver"));
        if driver.is_empty() {
            errors.push(Error::required(&place, ""));
        } else if driver.len() > names::LABEL_MAX_BYTES {
            errors.push(Error::too_long(&place, names::LABEL_MAX_BYTES));
        } else if !names::dns1123_subdomain(&driver.to_lowercase()).is_empty() {
            let message = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
            let pattern = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
            errors.push(Error::invalid(&place, driver, names::regex_error(message, pattern, &["Example.com"])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(text: &str) -> Vec<String> {
        let mut errors = ErrorList::new();
        expression(text, &Path::root("e"), &mut errors);
        errors.iter().map(Error::body).collect()
    }

    #[test]
    fn selectors_are_compiled_for_a_device() {
        let right = [
            "device.driver == 'x'",
            "device.attributes['a'].b",
            "device.attributes['a'].b == 1",
            "device.capacity['a'].b.compareTo(quantity('1')) > 0",
            "cel.bind(own, device.attributes['a'], own.b && own.c)",
        ];
        for text in right {
            assert_eq!(told(text), [""; 0], "{text}");
        }
        assert_eq!(told("1"), [r#"Invalid value: "1": must evaluate to bool or the unknown type, not int"#]);
        assert!(told("device.zz")[0].contains("undefined field 'zz'"));
        assert_eq!(told("int('x') == 1"), ["Internal error: program instantiation failed: type conversion error from 'string' to 'int'"]);
        assert!(told("cel.bind(1, 2, true)")[0].contains("cel.bind() variable names must be simple identifiers"));
    }

    #[test]
    fn constraints_name_requests_and_attributes() {
        let claim = json!({"devices": {
            "requests": [{"name": "r", "firstAvailable": [{"name": "s", "deviceClassName": "c", "allocationMode": "All"}]}],
            "constraints": [{"requests": ["r", "r/s"], "matchAttribute": "a.b/c"}, {"requests": ["r/t", "r/t", "a/b/c"], "matchAttribute": "x"}],
        }});
        let mut errors = ErrorList::new();
        check_claim("resource.k8s.io/v1", &claim, &Path::root("spec"), &mut errors);
        let told: Vec<(&str, &str)> = errors.iter().map(|e| (e.path.as_str(), e.detail.as_str())).collect();
        let place = "spec.devices.constraints[1]";
        let at = |rest: &str| format!("{place}.{rest}");
        let expected = [
            (at("requests[0]"), REFERENCE),
            (at("requests[1]"), REFERENCE),
            (at("requests[2]"), REFERENCE),
            (at("requests[1]"), ""),
            (at("matchAttribute"), "a fully qualified name must be a domain and a name separated by a slash"),
        ];
        assert_eq!(told, expected.iter().map(|(at, why)| (at.as_str(), *why)).collect::<Vec<_>>());
    }
}
