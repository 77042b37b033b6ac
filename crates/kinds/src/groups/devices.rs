//! `resource.k8s.io`: classes of devices, claims to them, what drivers offer, and taints.

use super::checks;
use crate::{Context, Selectable, Strategy, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names, time,
};

/// Requests, selectors, constraints and configurations of one owner at most (`DeviceRequestsMaxSize` and its like).
const ITEMS_MAX: usize = 32;

/// The strategy of device classes.
pub(super) struct DeviceClasses;

impl Strategy for DeviceClasses {
    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        check_selectors(spec, &path, errors);
        check_configs(spec, &path, errors);
        check_drivers(spec, &path, errors);
        if let Some(name) = spec["extendedResourceName"].as_str() {
            check_extended_name(name, &path.child("extendedResourceName"), errors);
        }
    }
}

/// The name by which pods ask for a class's devices among their containers' resources.
fn check_extended_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let mut bad = |detail: String| errors.push(Error::invalid(path, name, detail));
    if !name.contains('/') {
        bad("a name must be a domain-prefixed path, such as 'example.com/my-prop'".into());
    } else if name.contains("kubernetes.io/") {
        bad("must not have \"kubernetes.io/\" domain".into());
    }
    if name.starts_with("requests.") {
        bad("must not have \"requests.\" prefix".into());
    }
    names::qualified_name(&format!("requests.{name}")).into_iter().for_each(bad);
}

/// What a driver is told: an object whose meaning is its own.
fn check_configs(owner: &Value, path: &Path, errors: &mut ErrorList) {
    check_count(owner, path, "config", errors);
    for (at, config) in tree::list(owner, "config").iter().enumerate() {
        let (opaque, place) = (&config["opaque"], path.child("config").index(at).child("opaque"));
        match (opaque.is_null(), &opaque["parameters"]) {
            (true, _) => errors.push(Error::required(&place, "")),
            (false, Value::Null) => errors.push(Error::required(&place.child("parameters"), "")),
            (false, Value::Object(_)) => {}
            (false, _) => errors.push(Error::invalid(&place.child("parameters"), "<value omitted>", "must be a valid JSON object")),
        }
    }
}

/// The drivers of configurations: a declared rule, and such rules are asked last.
fn check_drivers(owner: &Value, path: &Path, errors: &mut ErrorList) {
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

/// How many of a list there may be.
fn check_count(owner: &Value, path: &Path, list: &str, errors: &mut ErrorList) {
    let count = tree::list(owner, list).len();
    if count > ITEMS_MAX {
        errors.push(Error::too_many(&path.child(list), count, ITEMS_MAX));
    }
}

fn check_selectors(owner: &Value, path: &Path, errors: &mut ErrorList) {
    check_count(owner, path, "selectors", errors);
    for (at, selector) in tree::list(owner, "selectors").iter().enumerate() {
        let place = path.child("selectors").index(at).child("cel");
        if selector["cel"].is_null() {
            errors.push(Error::required(&place, ""));
        } else if tree::empty(&selector["cel"]["expression"]) {
            errors.push(Error::required(&place.child("expression"), ""));
        }
    }
}

/// What is left out of a claim's requests.
fn fill_requests(spec: &mut tree::Fields) {
    let Some(devices) = tree::present(spec, "devices") else { return };
    for request in tree::each(devices, "requests") {
        // The older versions have the fields of `exactly` in the request itself.
        if request.contains_key("deviceClassName") {
            fill_request(request);
        }
        if let Some(exactly) = tree::present(request, "exactly") {
            fill_request(exactly);
        }
        tree::each(request, "firstAvailable").for_each(fill_request);
    }
}

fn fill_request(request: &mut tree::Fields) {
    tree::fill_text(request, "allocationMode", "ExactCount");
    let counted = request.get("allocationMode").is_some_and(|m| m == "ExactCount");
    if counted && request.get("count").is_none_or(|c| c.as_i64().unwrap_or(0) == 0) {
        request.insert("count".into(), 1.into());
    }
    tree::each(request, "tolerations").for_each(|t| tree::fill_text(t, "operator", "Equal"));
}

fn check_claim(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (devices, outer) = (&spec["devices"], path.child("devices"));
    let (requests, path) = (tree::list(devices, "requests"), outer.child("requests"));
    check_count(devices, &outer, "requests", errors);
    for (at, request) in requests.iter().enumerate() {
        let (place, name) = (path.index(at), tree::text(request, "name"));
        if rules::required(request, &place, "name", errors) {
            rules::name(name, &place.child("name"), names::dns1123_label(name), errors);
        }
        if requests.iter().take(at).any(|r| r["name"] == name) {
            errors.push(Error::duplicate(&place.child("name"), name));
        }
        let (exactly, first, flat) = (&request["exactly"], tree::list(request, "firstAvailable"), !request["deviceClassName"].is_null());
        match (exactly.is_null(), first.is_empty()) {
            (true, true) if !flat => errors.push(Error::required(&place, "exactly one of `exactly` or `firstAvailable` is required")),
            (false, false) => {
                let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                errors.push(Error::invalid(&place, Value::Null, detail));
                // What is declared of each holds all the same.
                first.iter().enumerate().for_each(|(at, r)| check_declared(r, &place.child("firstAvailable").index(at), errors));
            }
            (false, true) => check_request(exactly, &place.child("exactly"), errors),
            _ if flat => check_request(request, &place, errors),
            _ => first.iter().enumerate().for_each(|(at, r)| check_request(r, &place.child("firstAvailable").index(at), errors)),
        }
    }
    check_constraints(devices, &outer, errors);
    check_configs(devices, &outer, errors);
    check_drivers(devices, &outer, errors);
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
    check_selectors(request, path, errors);
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
}

/// Which requests must have the same of something, or must not.
fn check_constraints(devices: &Value, path: &Path, errors: &mut ErrorList) {
    check_count(devices, path, "constraints", errors);
    for (at, constraint) in tree::list(devices, "constraints").iter().enumerate() {
        if constraint["matchAttribute"].is_null() && constraint["distinctAttribute"].is_null() {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(Error::required(&path.child("constraints").index(at), detail));
        }
    }
}

/// The strategy of claims.
pub(super) struct Claims;

impl Strategy for Claims {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            fill_requests(spec);
        }
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        tree::keep_all_but_managers(obj, old);
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_claim(&obj["spec"], &Path::root("spec"), errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(&obj["spec"], &old["spec"], &Path::root("spec"), &mut errors);
        self.check(obj, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let (mut errors, status, path) = (ErrorList::new(), &obj["status"], Path::root("status"));
        let (reserved, allocated) = (tree::list(status, "reservedFor"), !status["allocation"].is_null());
        if !reserved.is_empty() && !allocated {
            errors.push(Error::forbidden(&path.child("reservedFor"), "may not be specified when `allocated` is not set"));
        }
        if allocated && !old["status"]["allocation"].is_null() {
            rules::immutable(&status["allocation"], &old["status"]["allocation"], &path.child("allocation"), &mut errors);
        }
        for (at, user) in reserved.iter().enumerate() {
            for field in ["resource", "name", "uid"] {
                rules::required(user, &path.child("reservedFor").index(at), field, &mut errors);
            }
        }
        errors
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        checks::resets_with_metadata(subresource)
    }
}

/// The strategy of templates of claims: they never change.
pub(super) struct ClaimTemplates;

impl Strategy for ClaimTemplates {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec", "spec"]) {
            fill_requests(spec);
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_claim(&obj["spec"]["spec"], &Path::root("spec").child("spec"), errors);
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        rules::immutable(&obj["spec"], &old["spec"], &Path::root("spec"), errors);
    }
}

/// The strategy of what drivers offer.
pub(super) struct Slices;

impl Strategy for Slices {
    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        rules::driver_name(tree::text(spec, "driver"), &path.child("driver"), errors);
        let (pool, place) = (&spec["pool"], path.child("pool"));
        if rules::required(pool, &place, "name", errors) {
            for part in tree::text(pool, "name").split('/') {
                rules::name(part, &place.child("name"), names::dns1123_subdomain(part), errors);
            }
        }
        let count = pool["resourceSliceCount"].as_i64().unwrap_or(0);
        if count <= 0 {
            errors.push(Error::invalid(&place.child("resourceSliceCount"), count, "must be greater than zero"));
        }
        if let Some(generation) = pool["generation"].as_i64().filter(|g| *g < 0) {
            errors.push(Error::invalid(&place.child("generation"), generation, "must be greater than or equal to zero"));
        }
        if let Some(node) = spec["nodeName"].as_str() {
            rules::name(node, &path.child("nodeName"), names::dns1123_subdomain(node), errors);
        }
        let places = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
        let given: Vec<String> = places.iter().filter(|field| !spec[**field].is_null()).map(|field| format!("`{field}`")).collect();
        let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match given.len() {
            0 => errors.push(Error::required(&path, detail)),
            1 => {}
            _ => errors.push(Error::invalid(&path, format!("{{{}}}", given.join(", ")), format!("{detail}, but multiple fields are set"))),
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let (new, old, path) = (&obj["spec"], &old["spec"], Path::root("spec"));
        rules::immutable(&new["nodeName"], &old["nodeName"], &path.child("nodeName"), errors);
        rules::immutable(&new["driver"], &old["driver"], &path.child("driver"), errors);
        rules::immutable(&new["pool"]["name"], &old["pool"]["name"], &path.child("pool").child("name"), errors);
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        let spec = &obj["spec"];
        vec![
            ("spec.nodeName".into(), tree::text(spec, "nodeName").to_owned()),
            ("spec.driver".into(), tree::text(spec, "driver").to_owned()),
            ("spec.pool.name".into(), tree::text(&spec["pool"], "name").to_owned()),
        ]
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let driver = tree::text(&obj["spec"], "driver");
        match driver.to_lowercase() == driver {
            true => Vec::new(),
            false => vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")],
        }
    }
}

/// The strategy of taints of devices.
pub(super) struct TaintRules;

impl Strategy for TaintRules {
    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        tree::set_meta(obj, "generation", 1.into());
        if let Some(taint) = tree::at(obj, &["spec", "taint"]) {
            tree::fill(taint, "timeAdded", time::rfc3339(cx.now));
        }
    }

    fn prepare_update(&self, cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        let had = &old["spec"]["taint"];
        if let Some(taint) = obj.get_mut("spec").and_then(|spec| spec.get_mut("taint")).and_then(Value::as_object_mut) {
            // The time is that of the present effect, unless the writer says another.
            let kept = taint.get("timeAdded").is_none_or(|t| t.is_null() || *t == had["timeAdded"]);
            if kept && taint.get("effect") != Some(&had["effect"]) {
                taint.insert("timeAdded".into(), time::rfc3339(cx.now).into());
            } else if kept && had["timeAdded"].is_string() {
                taint.insert("timeAdded".into(), had["timeAdded"].clone());
            }
        }
        if tree::body_differs(obj, old) {
            tree::bump_generation(obj, old);
        }
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        tree::keep_all_but_managers(obj, old);
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (taint, path) = (&obj["spec"]["taint"], Path::root("spec").child("taint"));
        if rules::required(taint, &path, "key", errors) {
            let key = tree::text(taint, "key");
            rules::name(key, &path.child("key"), names::qualified_name(key), errors);
        }
        let value = tree::text(taint, "value");
        rules::name(value, &path.child("value"), names::label_value(value), errors);
        rules::one_of(&taint["effect"], &path.child("effect"), &["NoExecute", "NoSchedule", "None"], errors);
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        checks::resets_with_metadata(subresource)
    }
}
