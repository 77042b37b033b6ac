//! `resource.k8s.io`: classes of devices, claims to them, what drivers offer, and taints.

use super::{
    checks,
    device_claims::{check_claim, check_claim_by_hand, check_claim_declared, check_class, check_taint, check_taint_declared},
    device_slices, device_status,
};
use crate::{Context, Selectable, Strategy, internal, meta, pod, rules, tree, withheld};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quote::Quoted,
    time,
};
use std::{collections::HashSet, time::SystemTime};

/// The strategy of device classes.
pub(super) struct DeviceClasses;

impl Strategy for DeviceClasses {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        check_class(spec, &path, errors);
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
    fill_tolerations(request);
}

fn fill_tolerations(owner: &mut tree::Fields) {
    tree::each(owner, "tolerations").for_each(|t| tree::fill_text(t, "operator", "Equal"));
}

/// A device, or a share of one: driver, pool, name, share.
fn id_of(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|part| tree::text(device, part))
}

/// The devices that a claim has.
fn given(status: &Value) -> HashSet<[&str; 4]> {
    tree::list(&status["allocation"]["devices"], "results").iter().map(id_of).collect()
}

/// What drivers told of devices that a claim had and has no more goes with them (upstream's `dropDeallocatedStatusDevices`).
fn forget_given_back(claim: &mut Value, old: &Value) {
    let now = given(&claim["status"]);
    let gone: HashSet<[String; 4]> = given(old).difference(&now).map(|id| id.map(str::to_owned)).collect();
    let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut).filter(|_| !gone.is_empty()) else { return };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| !gone.contains(&id_of(device).map(str::to_owned)));
    if devices.is_empty() {
        status.remove("devices");
    }
}

/// The strategy of claims.
pub(super) struct Claims;

impl Strategy for Claims {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            fill_requests(spec);
        }
        let status = obj.as_object_mut().and_then(|fields| tree::present(fields, "status"));
        let devices = status.and_then(|status| tree::present(status, "allocation")).and_then(|allocation| tree::present(allocation, "devices"));
        if let Some(devices) = devices {
            tree::each(devices, "results").for_each(fill_tolerations);
        }
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        tree::keep_all_but_managers(obj, old);
        forget_given_back(obj, &old["status"]);
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_claim(tree::text(obj, "apiVersion"), &obj["spec"], &Path::root("spec"), errors);
    }

    /// What cannot change is not looked at again.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        checks::fixed(&obj["spec"], &old["spec"], &Path::root("spec"), &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        device_status::check(obj, old, &mut errors);
        errors
    }
}

/// The strategy of templates of claims: they never change.
pub(super) struct ClaimTemplates;

impl Strategy for ClaimTemplates {
    fn told_blanks(&self) -> &'static [&'static str] {
        &["spec.metadata.ownerReferences", "spec.metadata.finalizers", "spec.metadata.managedFields"]
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec", "spec"]) {
            fill_requests(spec);
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        meta::template(&obj["spec"]["metadata"], &Path::root("spec").child("metadata"), errors);
        check_claim(tree::text(obj, "apiVersion"), &obj["spec"]["spec"], &Path::root("spec").child("spec"), errors);
    }

    /// That it may not change is said between what is checked by hand and what is declared.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let (spec, path, mut errors) = (&obj["spec"], Path::root("spec"), ErrorList::new());
        meta::template(&spec["metadata"], &path.child("metadata"), &mut errors);
        check_claim_by_hand(&spec["spec"], &path.child("spec"), &mut errors);
        rules::immutable_part("resource.ResourceClaimTemplateSpec", spec, &old["spec"], &path, &mut errors);
        check_claim_declared(tree::text(obj, "apiVersion"), &spec["spec"], &path.child("spec"), &mut errors);
        errors
    }
}

/// Each taint says since when it is there (upstream `SetDefaults_DeviceTaint`).
fn date_taints(cx: &Context, obj: &mut Value) {
    let Some(spec) = tree::at(obj, &["spec"]) else { return };
    for device in tree::each(spec, "devices") {
        let fields = if device.contains_key("basic") { tree::present(device, "basic") } else { Some(device) };
        fields.into_iter().flat_map(|fields| tree::each(fields, "taints")).for_each(|taint| tree::fill(taint, "timeAdded", time::rfc3339(cx.now)));
    }
}

/// The strategy of what drivers offer.
pub(super) struct Slices;

impl Strategy for Slices {
    fn told_blanks(&self) -> &'static [&'static str] {
        &["spec.sharedCounters", "spec.devices"]
    }

    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        date_taints(cx, obj);
        withheld::take_unused(&WITHHELD, obj, None);
        tree::set_meta(obj, "generation", 1.into());
    }

    /// What is withheld counts as a change all the same.
    fn prepare_update(&self, cx: &Context, obj: &mut Value, old: &Value) {
        date_taints(cx, obj);
        if tree::without_blanks(obj, self.told_blanks())["spec"] != old["spec"] {
            tree::bump_generation(obj, old);
        }
        withheld::take_unused(&WITHHELD, obj, Some(old));
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        check_pool(spec, &path, errors);
        check_place(spec, &path, errors);
        device_slices::check(spec, None, &path, errors);
        device_slices::check_declared(spec, None, &path, errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let (new, old, path, mut errors) = (&obj["spec"], &old["spec"], Path::root("spec"), ErrorList::new());
        check_pool(new, &path, &mut errors);
        rules::immutable_part("s", &new["pool"]["name"], &old["pool"]["name"], &path.child("pool").child("name"), &mut errors);
        rules::immutable_part("s", &new["driver"], &old["driver"], &path.child("driver"), &mut errors);
        rules::immutable_part("*s", &new["nodeName"], &old["nodeName"], &path.child("nodeName"), &mut errors);
        check_place(new, &path, &mut errors);
        device_slices::check(new, Some(old), &path, &mut errors);
        device_slices::check_declared(new, Some(old), &path, &mut errors);
        errors
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
            false => vec![format!("spec.driver: driver names should be lowercase; {} contains uppercase characters", Quoted(driver))],
        }
    }
}

/// Fields of features that are off by default in v1.37.
const WITHHELD: [&[&str]; 7] = [
    &["spec", "devices", "*", "consumesCounters", "*", "compatibilityGroups"],
    &["spec", "devices", "*", "nodeAllocatableResources"],
    &["spec", "devices", "*", "attributes", "*", "bools|ints|strings|versions"],
    &["spec", "devices", "*", "basic", "nodeAllocatableResources"],
    &["spec", "devices", "*", "basic", "attributes", "*", "bools|ints|strings|versions"],
    &["spec", "partitionTypeAttribute"],
    &["spec", "skipNodeOperations"],
];

fn check_pool(spec: &Value, path: &Path, errors: &mut ErrorList) {
    rules::driver_name(tree::text(spec, "driver"), &path.child("driver"), errors);
    let (pool, place) = (&spec["pool"], path.child("pool"));
    pool_name(tree::text(pool, "name"), &place.child("name"), errors);
    let count = pool["resourceSliceCount"].as_i64().unwrap_or(0);
    if count <= 0 {
        errors.push(Error::invalid(&place.child("resourceSliceCount"), count, "must be greater than zero"));
    }
    if let Some(generation) = pool["generation"].as_i64().filter(|g| *g < 0) {
        errors.push(Error::invalid(&place.child("generation"), generation, "must be greater than or equal to zero"));
    }
}

/// The name of a pool: names of subdomains with slashes between.
pub(super) fn pool_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > names::SUBDOMAIN_MAX_BYTES {
        errors.push(Error::too_long(path, names::SUBDOMAIN_MAX_BYTES));
    }
    for part in name.split('/') {
        rules::name(part, path, names::dns1123_subdomain(part), errors);
    }
}

/// On which nodes the devices are: said in one way.
fn check_place(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut given = Vec::new();
    match spec["nodeName"].as_str() {
        Some("") => errors.push(Error::invalid(&path.child("nodeName"), "", "must be either unset or set to a non-empty string")),
        Some(node) => {
            given.push("`nodeName`");
            rules::name(node, &path.child("nodeName"), names::dns1123_subdomain(node), errors);
        }
        None => {}
    }
    let selector = &spec["nodeSelector"];
    if !selector.is_null() {
        given.push("`nodeSelector`");
        let place = path.child("nodeSelector");
        pod::node_selector(selector, &place, errors);
        if tree::list(selector, "nodeSelectorTerms").len() != 1 {
            let (terms, place) = (&selector["nodeSelectorTerms"], place.child("nodeSelectorTerms"));
            let shown = internal::text("[]core.NodeSelectorTerm", terms);
            errors.push(Error::invalid(&place, terms.clone(), "must have exactly one node selector term").shown_as(shown));
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match spec[field].as_bool() {
            Some(true) => given.push(shown),
            Some(false) => errors.push(Error::invalid(&path.child(field), false, "must be either unset or set to true")),
            None => {}
        }
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => errors.push(Error::required(path, detail)),
        1 => {}
        _ => errors.push(Error::invalid(path, format!("{{{}}}", given.join(", ")), format!("{detail}, but multiple fields are set"))),
    }
    if !spec["sharedCounters"].is_null() && !spec["devices"].is_null() {
        errors.push(Error::invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
}

/// Conditions of a rule at most.
const RULE_CONDITIONS_MAX: usize = 8;

/// The strategy of taints of devices.
pub(super) struct TaintRules;

impl Strategy for TaintRules {
    fn unconditional_through(&self, version: &str) -> bool {
        version != "v1"
    }

    fn default_times(&self, now: SystemTime, obj: &mut Value) {
        if let Some(taint) = tree::at(obj, &["spec", "taint"]) {
            tree::fill(taint, "timeAdded", time::rfc3339(now));
        }
    }

    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        tree::set_meta(obj, "generation", 1.into());
        self.default_times(cx.now, obj);
    }

    fn prepare_update(&self, cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        let had = &old["spec"]["taint"];
        if let Some(taint) = obj.get_mut("spec").and_then(|spec| spec.get_mut("taint")).and_then(Value::as_object_mut) {
            // The time is that of the present effect, unless the writer says another. Who says none has said the present one.
            if taint.get("timeAdded") == Some(&had["timeAdded"]) && taint.get("effect") != Some(&had["effect"]) {
                taint.insert("timeAdded".into(), time::rfc3339(cx.now).into());
            }
        }
        if tree::body_differs(obj, old) {
            tree::bump_generation(obj, old);
        }
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_rule(&obj["spec"], errors);
        check_taint_declared(&obj["spec"]["taint"], &Path::root("spec").child("taint"), errors);
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let (mut errors, path) = (ErrorList::new(), Path::root("status"));
        checks::conditions(&obj["status"], &path, &mut errors);
        let number = tree::list(&obj["status"], "conditions").len();
        if number > RULE_CONDITIONS_MAX {
            errors.push(Error::too_many(&path.child("conditions"), number, RULE_CONDITIONS_MAX));
        }
        errors
    }
}

/// What a rule says of devices and taints.
fn check_rule(spec: &Value, errors: &mut ErrorList) {
    let (selector, path) = (&spec["deviceSelector"], Path::root("spec").child("deviceSelector"));
    if let Some(driver) = selector["driver"].as_str() {
        rules::driver_name(driver, &path.child("driver"), errors);
    }
    if let Some(pool) = selector["pool"].as_str() {
        pool_name(pool, &path.child("pool"), errors);
    }
    if let Some(device) = selector["device"].as_str() {
        rules::name(device, &path.child("device"), names::dns1123_label(device), errors);
    }
    check_taint(&spec["taint"], &Path::root("spec").child("taint"), errors);
}
