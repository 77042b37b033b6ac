//! What objects count for in a namespace: the sums that LimitRanger and ResourceQuota compare, and which quotas count an
//! object (upstream's `component-helpers/resource` and `pkg/quota/v1/evaluator/core`). Admission charges by it, the quota
//! controller counts by it.

use crate::tree::text;
use machinery::{
    Value,
    extended::{self, is_native},
    quantity::Quantity,
    tree::items,
};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
};

/// Amounts by name of the resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a resource list; what is no quantity was refused by validation.
pub fn of(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), parse(amount)?))).collect()
}

/// A quantity, which may also be written as a number.
pub fn parse(amount: &Value) -> Option<Quantity> {
    match amount {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// Adds amounts to a sum.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(to: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let present = to.entry(name.clone()).or_insert(*amount);
        *present = (*present).max(*amount);
    }
}

/// `requests` or `limits` of a pod without its overhead: its containers and sidecars together, or what an init container needs
/// beside the sidecars before it, if that is more; a pod's own amounts go before its containers'.
pub fn of_containers(pod: &Value, which: &str) -> Amounts {
    let spec = &pod["spec"];
    let mut sum = Amounts::new();
    for container in items(&spec["containers"]) {
        add(&mut sum, &of(&container["resources"][which]));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in items(&spec["initContainers"]) {
        let mut own = of(&container["resources"][which]);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own.clone_from(&sidecars);
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut most, &own);
    }
    raise(&mut sum, &most);
    sum.extend(of(&spec["resources"][which]));
    sum
}

/// `requests` or `limits` of a whole pod, its overhead among them.
pub fn of_pod(pod: &Value, which: &str) -> Amounts {
    let mut sum = of_containers(pod, which);
    for (name, amount) in of(&pod["spec"]["overhead"]) {
        // Overhead does not limit what nobody has limited.
        match sum.get_mut(&name) {
            Some(present) => *present += amount,
            None if which == "requests" => {
                sum.insert(name, amount);
            }
            None => {}
        }
    }
    sum
}

/// What devices of a class are counted as, behind the class's name (upstream's `ResourceClaimsPerClass`).
pub const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// What claims of a class are counted as, behind the class's name.
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Whether an amount that a quota names is one that objects of a resource use (upstream's `MatchingResources`).
pub fn is_of(group: &str, resource: &str, name: &str) -> bool {
    let counted = name.strip_prefix("count/").map(|counted| counted.split_once('.').unwrap_or((counted, "")));
    if let Some((counted, of)) = counted {
        return counted == resource && of == group;
    }
    match (group, resource) {
        ("", "pods") => {
            let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
            let huge = name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-");
            let extended = |name: &str| !is_native(name) || name.starts_with(extended::BY_CLASS);
            name == "pods" || COMPUTE.contains(&plain) || huge || name.strip_prefix("requests.").is_some_and(extended)
        }
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            let plain = name.split_once(BY_CLASS).map_or(name, |(_, what)| what);
            matches!(plain, "persistentvolumeclaims" | "requests.storage")
        }
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => name == resource,
        ("resource.k8s.io", "resourceclaims") => is_of_devices(name),
        _ => false,
    }
}

/// Whether claims of devices may be charged for an amount: by a class, or by the resource for which its devices stand.
pub fn is_of_devices(name: &str) -> bool {
    name.ends_with(DEVICES) || name.strip_prefix("requests.").is_some_and(extended::may_be_devices)
}

/// Resources whose requests and limits are both counted.
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn one() -> Quantity {
    Quantity::from_value(1, machinery::quantity::Format::Decimal)
}

fn count(number: usize) -> Quantity {
    Quantity::from_value(i64::try_from(number).unwrap_or(i64::MAX), machinery::quantity::Format::Decimal)
}

/// What an object uses.
pub fn measure(group: &str, resource: &str, object: &Value) -> Amounts {
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let mut out = Amounts::from([(format!("count/{qualified}"), one())]);
    match (group, resource) {
        ("", "pods") => pod(object, &mut out),
        ("", "services") => service(object, &mut out),
        ("", "persistentvolumeclaims") => claim(object, &mut out),
        ("resource.k8s.io", "resourceclaims") => devices(object, &mut out),
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            out.insert(resource.to_owned(), one());
        }
        _ => {}
    }
    out
}

fn pod(pod: &Value, out: &mut Amounts) {
    // What is over uses nothing any more but its place among the objects.
    if matches!(text(&pod["status"], "phase"), "Failed" | "Succeeded") {
        return;
    }
    out.insert("pods".into(), one());
    compute(&of_pod(pod, "requests"), &of_pod(pod, "limits"), out);
}

/// The names under which requests and limits are counted.
pub fn compute(requests: &Amounts, limits: &Amounts, out: &mut Amounts) {
    for (name, amount) in requests {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            out.insert(name.clone(), *amount);
        }
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") || extended::may_be_devices(name) {
            out.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits.iter().filter(|(n, _)| COMPUTE.contains(&n.as_str())) {
        out.insert(format!("limits.{name}"), *amount);
    }
}

fn service(service: &Value, out: &mut Amounts) {
    let spec = &service["spec"];
    out.insert("services".into(), one());
    let ports = items(&spec["ports"]).len();
    match text(spec, "type") {
        "NodePort" => {
            out.insert("services.nodeports".into(), count(ports));
        }
        "LoadBalancer" => {
            let used = if spec["allocateLoadBalancerNodePorts"] == false {
                items(&spec["ports"]).iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0).count()
            } else {
                ports
            };
            out.insert("services.nodeports".into(), count(used));
            out.insert("services.loadbalancers".into(), one());
        }
        _ => {}
    }
}

fn claim(claim: &Value, out: &mut Amounts) {
    out.insert("persistentvolumeclaims".into(), one());
    let asked = parse(&claim["spec"]["resources"]["requests"]["storage"]).map(storage_of);
    // A volume that is being grown, or was, may be larger than what is asked for now.
    let allocated = parse(&claim["status"]["allocatedResources"]["storage"]).map(storage_of).filter(|_| asked.is_some());
    let asked = asked.max(allocated).unwrap_or_default();
    let class = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = class.unwrap_or_else(|| text(&claim["spec"], "storageClassName"));
    out.insert("requests.storage".into(), asked);
    if !class.is_empty() {
        out.insert(format!("{class}{BY_CLASS}persistentvolumeclaims"), one());
        out.insert(format!("{class}{BY_CLASS}requests.storage"), asked);
    }
}

/// The devices of each class that a claim may be given at most.
fn devices(claim: &Value, out: &mut Amounts) {
    // Upstream's `AllocationResultsMaxSize`: what asks for all devices may get so many.
    const MOST: usize = 32;
    let of = |request: &Value| {
        let number = match text(request, "allocationMode") {
            "All" => MOST,
            "ExactCount" => request["count"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
            _ => 0,
        };
        (format!("{}{DEVICES}", text(request, "deviceClassName")), count(number))
    };
    for request in items(&claim["spec"]["devices"]["requests"]) {
        let mut most = Amounts::new();
        match items(&request["firstAvailable"]) {
            [] => most.extend(Some(&request["exactly"]).filter(|exactly| exactly.is_object()).map(of)),
            // One of them is given, and of each class the largest counts.
            others => others.iter().map(of).for_each(|(name, number)| raise(&mut most, &Amounts::from([(name, number)]))),
        }
        add(out, &most);
    }
}

/// Charges a claim of devices for the resources, too, by which pods ask for them: the class's own, and the one that a class names. What the
/// pod has been charged for whose resources the claim was made is not charged again (upstream's `addExtendedResourceQuota`).
pub fn charge_extended(claim: &mut Amounts, named: impl Fn(&str) -> Option<String>, made_for: Option<&Value>) {
    let charged = made_for.map(|pod| measure("", "pods", pod)).unwrap_or_default();
    let mut more = Amounts::new();
    for (name, amount) in claim.iter() {
        let Some(class) = name.strip_suffix(DEVICES).filter(|class| !class.is_empty()) else { continue };
        more.insert(format!("requests.{}{class}", extended::BY_CLASS), *amount);
        if let Some(resource) = named(class) {
            more.insert(format!("requests.{resource}"), *amount);
        }
    }
    for (name, amount) in more {
        let rest = amount - charged.get(&name).copied().unwrap_or_default();
        if rest > Quantity::ZERO {
            claim.insert(name, rest);
        }
    }
}

/// The name and UID of the pod for whose resources a claim says that it was made.
pub fn made_for(claim: &Value) -> Option<(&str, &str)> {
    let meta = &claim["metadata"];
    let owner = items(&meta["ownerReferences"]).iter().find(|owner| owner["controller"] == true)?;
    let says = meta["annotations"]["resource.kubernetes.io/extended-resource-claim"] == "true";
    (says && text(owner, "kind") == "Pod" && text(owner, "apiVersion") == "v1").then(|| (text(owner, "name"), text(owner, "uid")))
}

/// Whether a pod is the one for which a claim says that it was made: it names this claim, or none yet, and then the first of them is it.
pub fn is_made_for(claim: &Value, pod: &Value, mut all: impl Iterator<Item = impl Borrow<Value>>) -> bool {
    let Some((_, uid)) = made_for(claim).filter(|(_, uid)| *uid == text(&pod["metadata"], "uid")) else { return false };
    let told = &pod["status"]["extendedResourceClaimStatus"];
    if told.is_object() {
        return text(told, "resourceClaimName") == text(&claim["metadata"], "name");
    }
    !all.any(|other| {
        let other: &Value = other.borrow();
        made_for(other).is_some_and(|(_, of)| of == uid) && age(other) < age(claim)
    })
}

/// The first of the claims that were made for each pod, by the pod's UID: among many claims it stands for all in [`is_made_for`].
pub fn first_made_for<'c>(all: impl Iterator<Item = &'c Value>) -> HashMap<&'c str, &'c Value> {
    let mut firsts: HashMap<&str, &Value> = HashMap::new();
    for claim in all {
        let Some((_, uid)) = made_for(claim) else { continue };
        let first = firsts.entry(uid).or_insert(claim);
        if age(claim) < age(first) {
            *first = claim;
        }
    }
    firsts
}

fn age(claim: &Value) -> (&str, &str) {
    (text(&claim["metadata"], "creationTimestamp"), text(&claim["metadata"], "name"))
}

/// Bytes are counted whole.
fn storage_of(amount: Quantity) -> Quantity {
    if amount.is_whole() { amount } else { Quantity::from_value(amount.value(), amount.format()) }
}

/// The classes of attributes that a claim wishes, has and is on the way to.
fn attribute_classes(claim: &Value) -> impl Iterator<Item = &str> {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    let all = [
        text(spec, "volumeAttributesClassName"),
        text(status, "currentVolumeAttributesClassName"),
        text(&status["modifyVolumeStatus"], "targetVolumeAttributesClassName"),
    ];
    all.into_iter().filter(|name| !name.is_empty())
}

/// Which objects a quota counts: one of its conditions.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'q> {
    /// `PriorityClass`, `BestEffort`, …
    pub name: &'q str,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: &'q str,
    /// What is in it, or not.
    pub values: &'q [Value],
}

impl<'q> Scope<'q> {
    /// A condition as a selector writes it.
    pub fn of(requirement: &'q Value) -> Self {
        Self { name: text(requirement, "scopeName"), operator: text(requirement, "operator"), values: items(&requirement["values"]) }
    }

    /// All conditions of a quota.
    pub fn all(quota: &'q Value) -> impl Iterator<Item = Self> {
        let spec = &quota["spec"];
        let plain = items(&spec["scopes"]).iter().filter_map(Value::as_str).map(|name| Self { name, operator: "Exists", values: &[] });
        plain.chain(items(&spec["scopeSelector"]["matchExpressions"]).iter().map(Self::of))
    }

    /// Whether an object is one of them.
    pub fn holds(&self, group: &str, resource: &str, object: &Value) -> bool {
        in_scope(self.name, self.operator, self.values, (group, resource), object)
    }
}

/// Whether a quota's scopes select an object.
pub fn selects(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    Scope::all(quota).all(|scope| scope.holds(group, resource, object))
}

fn in_scope(scope: &str, operator: &str, values: &[Value], of: (&str, &str), object: &Value) -> bool {
    let spec = &object["spec"];
    let listed = |text: &str| values.iter().any(|v| v == text);
    if of == ("", "persistentvolumeclaims") {
        let mut classes = attribute_classes(object).peekable();
        let selected = match classes.peek() {
            None => matches(operator, false, false),
            Some(_) => classes.any(|class| matches(operator, true, listed(class))),
        };
        return scope == "VolumeAttributesClass" && selected;
    }
    if of != ("", "pods") {
        return false;
    }
    match scope {
        "Terminating" => spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0),
        "NotTerminating" => spec["activeDeadlineSeconds"].as_i64().is_none_or(|s| s < 0),
        "BestEffort" => is_best_effort(object),
        "NotBestEffort" => !is_best_effort(object),
        "PriorityClass" => {
            let class = text(spec, "priorityClassName");
            matches(operator, !class.is_empty(), listed(class))
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

fn matches(operator: &str, there: bool, listed: bool) -> bool {
    match operator {
        "Exists" => there,
        "DoesNotExist" => !there,
        "In" => there && listed,
        "NotIn" => !listed,
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    match text(&pod["status"], "qosClass") {
        "" => crate::qos_class(&pod["spec"]) == "BestEffort",
        told => told == "BestEffort",
    }
}

fn crosses_namespaces(spec: &Value) -> bool {
    let crosses = |term: &Value| !items(&term["namespaces"]).is_empty() || term["namespaceSelector"].is_object();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        items(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
            || items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"]).iter().any(|t| crosses(&t["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_charged_for_what_its_volume_has() {
        let sum = |request: &str, allocated: Value| {
            let claim =
                json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": request}}}, "status": {"allocatedResources": allocated}});
            let mut out = Amounts::new();
            super::claim(&claim, &mut out);
            (out["requests.storage"].to_string(), out["gold.storageclass.storage.k8s.io/requests.storage"].to_string())
        };
        let both = |amount: &str| (amount.to_owned(), amount.to_owned());
        assert_eq!(sum("1Gi", json!({})), both("1Gi"));
        assert_eq!(sum("1Gi", json!({"storage": "3Gi"})), both("3Gi"), "a resize that failed");
        assert_eq!(sum("2Gi", json!({"storage": "1Gi"})), both("2Gi"));
        assert_eq!(sum("1500m", json!({})), both("2"));
    }

    #[test]
    fn a_claim_of_devices_is_charged_for_the_most_that_it_may_get() {
        let exactly = |class: &str, mode: &str, count: u32| json!({"deviceClassName": class, "allocationMode": mode, "count": count});
        let claim = json!({"spec": {"devices": {"requests": [
            {"exactly": exactly("gpu", "ExactCount", 2)},
            {"exactly": exactly("net", "All", 0)},
            {"firstAvailable": [exactly("gpu", "ExactCount", 3), exactly("gpu", "ExactCount", 1), exactly("net", "ExactCount", 1)]},
        ]}}});
        let used = measure("resource.k8s.io", "resourceclaims", &claim);
        let told: Vec<String> = used.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        let wanted = ["count/resourceclaims.resource.k8s.io=1", "gpu.deviceclass.resource.k8s.io/devices=5", "net.deviceclass.resource.k8s.io/devices=33"];
        assert_eq!(told, wanted);
        assert!(used.keys().all(|name| is_of("resource.k8s.io", "resourceclaims", name)));
    }

    #[test]
    fn a_claim_of_devices_is_charged_for_the_resources_by_which_pods_ask_for_them() {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        let meta = |name: &str| json!({"name": name, "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"}, "ownerReferences": [owner]});
        let requests = json!([{"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}}]);
        let claim = |name: &str| json!({"metadata": meta(name), "spec": {"devices": {"requests": requests}}});
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"resources": {"requests": {"example.com/gpu": "2"}}}]}});
        let charged = |made_for: Option<&Value>| {
            let mut used = measure("resource.k8s.io", "resourceclaims", &claim("a"));
            charge_extended(&mut used, |class| (class == "gpu").then(|| "example.com/gpu".to_owned()), made_for);
            assert!(used.keys().all(|name| is_of("resource.k8s.io", "resourceclaims", name)));
            ["requests.deviceclass.resource.kubernetes.io/gpu", "requests.example.com/gpu"].map(|name| used.get(name).map(ToString::to_string))
        };
        assert_eq!(charged(None), [Some("2".to_owned()), Some("2".to_owned())]);
        assert_eq!(charged(Some(&pod)), [Some("2".to_owned()), None], "the pod has been charged");
        let all = [claim("a"), claim("b")];
        assert!(is_made_for(&all[0], &pod, all.iter()) && !is_made_for(&all[1], &pod, all.iter()), "the first alone");
        assert!(!is_made_for(&all[0], &json!({"metadata": {"uid": "v"}}), all.iter()));
        assert_eq!(first_made_for(all.iter().rev())["u"]["metadata"]["name"], "a");
        let told = json!({"metadata": {"uid": "u"}, "status": {"extendedResourceClaimStatus": {"resourceClaimName": "b"}}});
        assert!(is_made_for(&all[1], &told, all.iter()) && !is_made_for(&all[0], &told, all.iter()));
    }

    #[test]
    fn amounts_belong_to_the_resource_that_uses_them() {
        for (group, resource, names) in [
            (
                "",
                "pods",
                &[
                    "pods",
                    "cpu",
                    "limits.memory",
                    "requests.ephemeral-storage",
                    "hugepages-2Mi",
                    "requests.a.b/c",
                    "requests.deviceclass.resource.kubernetes.io/gpu",
                    "count/pods",
                ][..],
            ),
            ("", "services", &["services.nodeports", "count/services"]),
            ("", "persistentvolumeclaims", &["requests.storage", "gold.storageclass.storage.k8s.io/requests.storage", "persistentvolumeclaims"]),
            ("apps", "deployments", &["count/deployments.apps"]),
        ] {
            assert!(names.iter().all(|name| is_of(group, resource, name)), "{resource}");
            assert!(!names.iter().any(|name| is_of("", "secrets", name)), "{resource}");
        }
        assert!(!is_of("", "pods", "requests.storage") && !is_of("", "pods", "a.b/c") && !is_of("", "deployments", "count/deployments.apps"));
    }

    #[test]
    fn a_quota_of_attributes_selects_claims_by_each_class_that_they_name() {
        let claim = json!({"spec": {"volumeAttributesClassName": "fast"}, "status": {"currentVolumeAttributesClassName": "slow",
            "modifyVolumeStatus": {"targetVolumeAttributesClassName": "fast"}}});
        let of = |claim: &Value, operator: &str, values: Value| {
            let quota =
                json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": operator, "values": values}]}}});
            selects(&quota, "", "persistentvolumeclaims", claim)
        };
        assert!(of(&claim, "In", json!(["slow"])) && of(&claim, "In", json!(["fast"])) && !of(&claim, "In", json!(["other"])));
        assert!(of(&claim, "Exists", json!([])) && of(&claim, "NotIn", json!(["slow"])) && !of(&claim, "NotIn", json!(["slow", "fast"])));
        let none = json!({"spec": {}});
        assert!(
            !of(&none, "In", json!(["slow"])) && !of(&none, "Exists", json!([])) && of(&none, "NotIn", json!(["slow"])) && of(&none, "DoesNotExist", json!([]))
        );
    }

    #[test]
    fn a_pod_is_charged_for_devices_that_it_asks_for_by_their_class() {
        let mut used = Amounts::new();
        compute(&of(&json!({"deviceclass.resource.kubernetes.io/gpu": "2", "mykubernetes.io/x": "1"})), &Amounts::new(), &mut used);
        assert_eq!(used.keys().collect::<Vec<_>>(), ["requests.deviceclass.resource.kubernetes.io/gpu"]);
    }

    #[test]
    fn a_pod_s_amounts_are_summed_as_upstream_sums_them() {
        let needs = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod = json!({"spec": {
            "containers": [{"resources": needs("100m")}, {"resources": needs("200m")}],
            "initContainers": [{"resources": needs("250m")}, {"restartPolicy": "Always", "resources": needs("50m")}, {"resources": needs("400m")}],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }});
        let sum = of_pod(&pod, "requests");
        assert_eq!(sum["cpu"].to_string(), "460m", "the last init container beside the sidecar, and the overhead");
        assert_eq!(sum["memory"].to_string(), "1Mi");
        assert!(of_pod(&pod, "limits").is_empty());
    }
}
