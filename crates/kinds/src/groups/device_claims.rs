//! What claims and classes say of devices: requests, selectors in CEL, constraints and configurations
//! (`pkg/apis/resource/validation`).

use crate::{rules, tree};
use kubecel::{Env, Type, Version, declared::devices::DeviceSizes};
use machinery::{
    Value, defaulting,
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
/// Effects of taints.
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const REFERENCE: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The names of a claim's requests, and of the alternatives of each.
pub(super) type Requests<'v> = BTreeMap<&'v str, HashSet<&'v str>>;

/// Those of a claim.
pub(super) fn named(devices: &Value) -> Requests<'_> {
    let of = |request| (tree::text(request, "name"), tree::list(request, "firstAvailable").iter().map(|own| tree::text(own, "name")).collect());
    tree::list(devices, "requests").iter().map(of).collect()
}

/// The items of a list, if it is short enough for them to be looked at; else that is told.
pub(super) fn counted<'v>(owner: &'v Value, list: &str, most: usize, path: &Path, errors: &mut ErrorList) -> &'v [Value] {
    let items = tree::list(owner, list);
    if items.len() <= most {
        return items;
    }
    errors.push(Error::too_many(&path.child(list), items.len(), most));
    &[]
}

/// The same where it is left to what is declared to tell it.
pub(super) fn within<'v>(owner: &'v Value, list: &str, most: usize) -> &'v [Value] {
    let items = tree::list(owner, list);
    if items.len() <= most { items } else { &[] }
}

/// Checks the spec of a claim, as one of this version of the API has it: first what upstream checks by hand, then what its types declare.
pub(super) fn check_claim(api_version: &str, spec: &Value, path: &Path, errors: &mut ErrorList) {
    check_claim_by_hand(spec, path, errors);
    check_claim_declared(api_version, spec, path, errors);
}

/// What the types declare of a claim.
pub(super) fn check_claim_declared(api_version: &str, spec: &Value, path: &Path, errors: &mut ErrorList) {
    check_declared(api_version, &spec["devices"], &path.child("devices"), errors);
}

/// What upstream checks of a claim by hand.
pub(super) fn check_claim_by_hand(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (devices, path) = (&spec["devices"], path.child("devices"));
    let named = named(devices);
    for (at, request) in within(devices, "requests", ITEMS_MAX).iter().enumerate() {
        check_entry(request, &path.child("requests").index(at), errors);
    }
    for (at, constraint) in within(devices, "constraints", ITEMS_MAX).iter().enumerate() {
        let place = path.child("constraints").index(at);
        references(constraint, &place, &named, errors);
        if constraint["matchAttribute"].is_null() && constraint["distinctAttribute"].is_null() {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(Error::required(&place, detail));
        }
    }
    for (at, own) in within(devices, "config", ITEMS_MAX).iter().enumerate() {
        let place = path.child("config").index(at);
        references(own, &place, &named, errors);
        config(own, &place, errors);
    }
}

/// The request itself where the version has no `exactly`.
fn is_flat(request: &Value) -> bool {
    request["exactly"].is_null() && !request["deviceClassName"].is_null()
}

fn check_entry(request: &Value, path: &Path, errors: &mut ErrorList) {
    name(request, path, errors);
    match (request["exactly"].is_null(), tree::list(request, "firstAvailable").is_empty()) {
        (true, true) if is_flat(request) => check_exactly(request, path, errors),
        (true, true) => errors.push(Error::required(path, "exactly one of `exactly` or `firstAvailable` is required")),
        (false, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(Error::invalid(path, Value::Null, detail));
        }
        (false, true) => check_exactly(&request["exactly"], &path.child("exactly"), errors),
        (true, false) => {
            for (at, own) in within(request, "firstAvailable", ALTERNATIVES_MAX).iter().enumerate() {
                let place = path.child("firstAvailable").index(at);
                name(own, &place, errors);
                check_request(own, &place, errors);
            }
        }
    }
}

fn check_exactly(request: &Value, path: &Path, errors: &mut ErrorList) {
    check_class_name(request, path, names::dns1123_subdomain, errors);
    check_request(request, path, errors);
}

fn name(owner: &Value, path: &Path, errors: &mut ErrorList) {
    let name = tree::text(owner, "name");
    rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
}

fn check_class_name(request: &Value, path: &Path, rule: impl Fn(&str) -> Vec<String>, errors: &mut ErrorList) {
    if rules::required(request, path, "deviceClassName", errors) {
        let class = tree::text(request, "deviceClassName");
        rules::name(class, &path.child("deviceClassName"), rule(class), errors);
    }
}

fn check_request(request: &Value, path: &Path, errors: &mut ErrorList) {
    selectors(request, path, errors);
    let count = request["count"].as_i64().unwrap_or(0);
    match tree::text(request, "allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(Error::invalid(&path.child("count"), count, detail));
        }
        "ExactCount" if count <= 0 => errors.push(Error::invalid(&path.child("count"), count, "must be greater than zero")),
        _ => {}
    }
    check_tolerations(request, path, errors);
}

/// The values of tolerations; the rest is declared.
pub(super) fn check_tolerations(owner: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, toleration) in tree::list(owner, "tolerations").iter().enumerate() {
        let (value, path) = (tree::text(toleration, "value"), path.child("tolerations").index(at).child("value"));
        match tree::text(toleration, "operator") {
            "Exists" if !value.is_empty() => errors.push(Error::invalid(&path, value, "must be empty for operator `Exists`")),
            "Equal" => rules::name(value, &path, names::label_value(value), errors),
            _ => {}
        }
    }
}

/// Key and value of a taint; its effect is declared.
pub(super) fn check_taint(taint: &Value, path: &Path, errors: &mut ErrorList) {
    let (key, value) = (tree::text(taint, "key"), tree::text(taint, "value"));
    rules::name(key, &path.child("key"), names::qualified_name(key), errors);
    rules::name(value, &path.child("value"), names::label_value(value), errors);
}

/// What the types declare of a taint.
pub(super) fn check_taint_declared(taint: &Value, path: &Path, errors: &mut ErrorList) {
    rules::one_of(&taint["effect"], &path.child("effect"), &EFFECTS, errors);
}

fn check_declared(api_version: &str, devices: &Value, path: &Path, errors: &mut ErrorList) {
    let (requests, place) = (counted(devices, "requests", ITEMS_MAX, path, errors), path.child("requests"));
    twice(api_version, "DeviceRequest", requests, |request| tree::text(request, "name").to_owned(), &place, errors);
    for (at, request) in requests.iter().enumerate() {
        let place = place.index(at);
        match is_flat(request) {
            true => check_request_declared(request, &place, errors),
            false => check_request_declared(&request["exactly"], &place.child("exactly"), errors),
        }
        let own = counted(request, "firstAvailable", ALTERNATIVES_MAX, &place, errors);
        let place = place.child("firstAvailable");
        twice(api_version, "DeviceSubRequest", own, |own| tree::text(own, "name").to_owned(), &place, errors);
        for (at, own) in own.iter().enumerate() {
            check_class_name(own, &place.index(at), |class| rules::in_bytes(names::dns1123_subdomain(class)), errors);
            check_request_declared(own, &place.index(at), errors);
        }
    }
    for (at, constraint) in counted(devices, "constraints", ITEMS_MAX, path, errors).iter().enumerate() {
        let place = path.child("constraints").index(at);
        check_references_declared(constraint, &place, errors);
        for field in ["matchAttribute", "distinctAttribute"] {
            if let Some(attribute) = constraint[field].as_str() {
                check_attribute(attribute, &place.child(field), errors);
            }
        }
    }
    for (at, own) in counted(devices, "config", ITEMS_MAX, path, errors).iter().enumerate() {
        let place = path.child("config").index(at);
        check_references_declared(own, &place, errors);
        check_driver_declared(own, &place, errors);
    }
}

fn check_request_declared(request: &Value, path: &Path, errors: &mut ErrorList) {
    counted(request, "selectors", ITEMS_MAX, path, errors);
    rules::supported(&request["allocationMode"], &path.child("allocationMode"), &["All", "ExactCount"], errors);
    check_tolerations_declared(request, path, errors);
}

/// What the types declare of tolerations.
pub(super) fn check_tolerations_declared(owner: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, toleration) in tree::list(owner, "tolerations").iter().enumerate() {
        let (key, path) = (tree::text(toleration, "key"), path.child("tolerations").index(at));
        if !key.is_empty() {
            rules::name(key, &path.child("key"), names::qualified_name(key), errors);
        }
        rules::one_of(&toleration["operator"], &path.child("operator"), &["Equal", "Exists"], errors);
        if !tree::empty(&toleration["effect"]) {
            rules::one_of(&toleration["effect"], &path.child("effect"), &EFFECTS, errors);
        }
    }
}

/// Items that are one by their key: they are shown whole, as their version writes them.
pub(super) fn twice(api_version: &str, kind: &str, items: &[Value], key: impl Fn(&Value) -> String, path: &Path, errors: &mut ErrorList) {
    let (mut seen, version) = (HashSet::new(), Gvk::parse(api_version, kind).version);
    for (at, item) in items.iter().enumerate().filter(|(_, item)| !seen.insert(key(item))) {
        let ty = schema::builtin().named(&format!("io.k8s.api.resource.{version}.{kind}"));
        let mut written = item.clone();
        if let Some(ty) = ty {
            defaulting::settle(ty, &mut written);
        }
        let shown = String::from_utf8_lossy(&json::encode_as(ty, &written)).into_owned();
        errors.push(Error::duplicate(&path.index(at), written).shown_as(shown));
    }
}

/// Which devices are wanted.
pub(super) fn selectors(owner: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, selector) in within(owner, "selectors", ITEMS_MAX).iter().enumerate() {
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
        return errors.push(Error::invalid(path, text, format!("must evaluate to bool or the unknown type, not {}", program.output.described())));
    }
    if let Err(why) = program.instantiate() {
        return errors.push(Error::internal(path, format!("program instantiation failed: {why}")));
    }
    if program.estimate(&DeviceSizes::default()).max > SELECTOR_COST_MAX {
        errors.push(Error::forbidden(path, "too complex, exceeds cost limit"));
    }
}

/// The requests that something is about.
pub(super) fn references(owner: &Value, path: &Path, named: &Requests<'_>, errors: &mut ErrorList) {
    for (at, text) in within(owner, "requests", ITEMS_MAX).iter().enumerate() {
        reference(text.as_str().unwrap_or_default(), named, &path.child("requests").index(at), errors);
    }
}

/// A request, or one of its alternatives.
pub(super) fn reference(text: &str, named: &Requests<'_>, path: &Path, errors: &mut ErrorList) {
    let parts: Vec<&str> = text.split('/').collect();
    for part in parts.iter().filter(|_| parts.len() <= 2) {
        rules::name(part, path, names::dns1123_label(part), errors);
    }
    let known = match parts[..] {
        [request] => named.contains_key(request),
        [request, alternative] => named.get(request).is_some_and(|own| own.contains(alternative)),
        _ => false,
    };
    if !known {
        errors.push(Error::invalid(path, text, REFERENCE));
    }
}

/// What the types declare of them.
pub(super) fn check_references_declared(owner: &Value, path: &Path, errors: &mut ErrorList) {
    let (mut seen, list) = (HashSet::new(), counted(owner, "requests", ITEMS_MAX, path, errors));
    let again = list.iter().enumerate().filter(|(_, text)| !seen.insert(text.as_str().unwrap_or_default()));
    errors.extend(again.map(|(at, text)| Error::duplicate(&path.child("requests").index(at), text.clone())));
}

/// The full name of an attribute: a domain, and an identifier of C.
fn check_attribute(attribute: &str, path: &Path, errors: &mut ErrorList) {
    match attribute.split('/').collect::<Vec<_>>()[..] {
        [own] => check_identifier(own, path, errors),
        [domain, own] => {
            if domain.is_empty() {
                errors.push(Error::invalid(path, "", "prefix must not be empty"));
            } else {
                if domain.len() > names::LABEL_MAX_BYTES {
                    errors.push(Error::too_long(path, names::LABEL_MAX_BYTES));
                }
                rules::name(domain, path, prefixed(domain), errors);
            }
            if own.is_empty() {
                errors.push(Error::invalid(path, "", "name must not be empty"));
            } else {
                check_identifier(own, path, errors);
            }
        }
        _ => {}
    }
    if !attribute.contains('/') {
        errors.push(rules::typed(Error::invalid(path, attribute, "a fully qualified name must be a domain and a name separated by a slash")));
    }
}

/// What is wrong with a domain.
fn prefixed(domain: &str) -> Vec<String> {
    names::dns1123_subdomain(domain).into_iter().map(|problem| format!("prefix: {problem}")).collect()
}

pub(super) fn check_identifier(text: &str, path: &Path, errors: &mut ErrorList) {
    if text.len() > NAME_BYTES_MAX {
        errors.push(Error::too_long(path, NAME_BYTES_MAX));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if text.is_empty() || text.as_bytes()[0].is_ascii_digit() || !text.bytes().all(legal) {
        let words = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
        errors.push(Error::invalid(path, text, names::regex_error(words, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])));
    }
}

/// What a driver is told: an object whose meaning is its own.
pub(super) fn config(owner: &Value, path: &Path, errors: &mut ErrorList) {
    let (opaque, place) = (&owner["opaque"], path.child("opaque"));
    match (opaque.is_null(), &opaque["parameters"]) {
        (true, _) => errors.push(Error::required(&place, "")),
        (false, Value::Null) => errors.push(Error::required(&place.child("parameters"), "")),
        (false, parameters) if json::encode(parameters).len() > TEXT_BYTES_MAX => errors.push(Error::too_long(&place.child("parameters"), TEXT_BYTES_MAX)),
        (false, Value::Object(_)) => {}
        (false, _) => errors.push(Error::invalid(&place.child("parameters"), "<value omitted>", "must be a valid JSON object")),
    }
}

/// Checks what a class says of devices and their drivers.
pub(super) fn check_class(spec: &Value, path: &Path, errors: &mut ErrorList) {
    selectors(spec, path, errors);
    for (at, own) in within(spec, "config", ITEMS_MAX).iter().enumerate() {
        config(own, &path.child("config").index(at), errors);
    }
    counted(spec, "selectors", ITEMS_MAX, path, errors);
    for (at, own) in counted(spec, "config", ITEMS_MAX, path, errors).iter().enumerate() {
        check_driver_declared(own, &path.child("config").index(at), errors);
    }
}

/// What the types declare of the driver of a configuration.
pub(super) fn check_driver_declared(config: &Value, path: &Path, errors: &mut ErrorList) {
    if config["opaque"].is_object() {
        driver_declared(tree::text(&config["opaque"], "driver"), &path.child("opaque").child("driver"), errors);
    }
}

/// What the types declare of a driver's name.
pub(super) fn driver_declared(driver: &str, path: &Path, errors: &mut ErrorList) {
    if driver.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let message = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
    let pattern = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
    for problem in rules::in_bytes(names::dns1123_subdomain(&driver.to_lowercase())) {
        let of_form = problem.starts_with("a lowercase ");
        errors.push(Error::invalid(path, driver, if of_form { names::regex_error(message, pattern, &["Example.com"]) } else { problem }));
    }
    if driver.chars().count() > names::LABEL_MAX_BYTES {
        errors.push(Error::too_many_characters(path, names::LABEL_MAX_BYTES));
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
