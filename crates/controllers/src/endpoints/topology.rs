//! Zones for the endpoints of Services that ask for it by annotation (`service.kubernetes.io/topology-mode: Auto`, KEP-2433): each zone
//! gets endpoints in proportion to its nodes' CPU, its own first. Where that would put more than a fifth too much on any endpoint
//! nobody gets any, and an Event says why.
//!
//! An endpoint keeps the zone that it was given as long as that zone does not have too many.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};
use machinery::quantity::Quantity;
use parking_lot::Mutex;

use super::facts::ZONE;
use crate::meta::{annotations, labels};
use crate::node::is_ready;

const ANNOTATION: &str = "service.kubernetes.io/topology-mode";
/// Its former name, which goes first.
const OLD_ANNOTATION: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes with these labels serve the cluster itself: their CPU does not count.
const NOT_COUNTED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// How much more than its part an endpoint may get, at most.
const OVERLOAD: f64 = 0.2;

/// By zone, each one's part of all CPU.
pub(super) type Shares = BTreeMap<String, f64>;
/// By zone, how many endpoints it has.
type Given = BTreeMap<String, usize>;

/// Whether a Service asks for it.
pub(super) fn is_auto(service: &Service) -> bool {
    let all = annotations(service);
    all.get(OLD_ANNOTATION).or_else(|| all.get(ANNOTATION)).is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// What of a node counts: whether it is ready, where it is, and its CPU.
pub(super) fn counted(node: &Node) -> (bool, Option<&String>, i64) {
    let cpu = node.status.as_ref().and_then(|s| s.allocatable.as_ref()?.get("cpu")).and_then(|q| q.0.parse::<Quantity>().ok());
    (is_ready(node), labels(node).get(ZONE).filter(|zone| !zone.is_empty()), cpu.map_or(0, Quantity::milli_value))
}

/// Each zone's part of all CPU; none: something is not known of a node, or there are not two zones.
pub(super) fn shares(nodes: &[Arc<Node>]) -> Option<Shares> {
    let mut by_zone: BTreeMap<&String, i64> = BTreeMap::new();
    for node in nodes.iter().filter(|n| NOT_COUNTED.iter().all(|label| !labels(&***n).contains_key(*label))) {
        match counted(node) {
            (false, ..) => {}
            (true, Some(zone), cpu) if cpu > 0 => *by_zone.entry(zone).or_default() += cpu,
            _ => return None,
        }
    }
    let all: i64 = by_zone.values().sum();
    (by_zone.len() >= 2).then(|| by_zone.into_iter().map(|(zone, cpu)| (zone.clone(), cpu as f64 / all as f64)).collect())
}

/// How many endpoints a zone is to have.
struct Part {
    least: usize,
    most: usize,
    wanted: f64,
}

fn parts(shares: Option<&Shares>, count: usize) -> Result<BTreeMap<&String, Part>, String> {
    let Some(shares) = shares else {
        return Err("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".to_owned());
    };
    let numbers = format!("({count} endpoints, {} zones)", shares.len());
    if shares.len() > count {
        return Err(format!("Insufficient number of endpoints {numbers}"));
    }
    let mut parts = BTreeMap::new();
    for (zone, share) in shares {
        let wanted = share * count as f64;
        // A share is at most 1: it is no more than there are endpoints.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let least = (wanted / (1.0 + OVERLOAD)).ceil() as usize;
        parts.insert(zone, Part { least, most: 0, wanted: wanted.max(least as f64) });
    }
    let least: usize = parts.values().map(|part| part.least).sum();
    let Some(free) = count.checked_sub(least) else {
        return Err(format!("Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {numbers}"));
    };
    parts.values_mut().for_each(|part| part.most = part.least + free);
    Ok(parts)
}

/// The zones that endpoints were given before, by their first address.
pub(super) fn former(slices: &[Arc<EndpointSlice>]) -> HashMap<String, String> {
    let all = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    all.filter_map(|e| Some((e.addresses.first()?.clone(), e.hints.as_ref()?.for_zones.as_ref()?.first()?.name.clone()))).collect()
}

/// Gives each endpoint that is ready a zone; what each zone has then.
///
/// # Errors
/// None can be given any: why.
fn give(shares: Option<&Shares>, endpoints: &mut [&mut Endpoint], former: &HashMap<String, String>) -> Result<Given, String> {
    let mut ready: Vec<&mut Endpoint> =
        endpoints.iter_mut().map(|e| &mut **e).filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)).collect();
    let parts = parts(shares, ready.len())?;
    let Some(own) = ready.iter().map(|e| e.zone.clone().filter(|z| !z.is_empty())).collect::<Option<Vec<String>>>() else {
        return Err("One or more endpoints do not have a zone specified".to_owned());
    };
    let mut given = Given::new();
    let kept = ready.iter().map(|e| e.addresses.first().and_then(|a| former.get(a))).map(|zone| {
        let zone = zone?;
        let has = given.entry(zone.clone()).or_default();
        (*has < parts.get(zone)?.most).then(|| {
            *has += 1;
            zone.clone()
        })
    });
    let kept: Vec<Option<String>> = kept.collect();
    let mut zones: Vec<String> = Vec::with_capacity(own.len());
    for (own, kept) in own.iter().zip(&kept) {
        if kept.is_none() {
            *given.entry(own.clone()).or_default() += 1;
        }
        zones.push(kept.as_ref().unwrap_or(own).clone());
    }
    given.retain(|_, has| *has > 0);
    let (mut giving, mut receiving) = moves(&parts, &given);
    for (zone, _) in zones.iter_mut().zip(&kept).filter(|(_, kept)| kept.is_none()) {
        let Some(left) = giving.get_mut(zone.as_str()).filter(|left| **left > 0) else { continue };
        let Some((to, needs)) = receiving.iter_mut().find(|(_, needs)| **needs > 0) else { break };
        *left -= 1;
        *needs -= 1;
        if let Some(has) = given.get_mut(zone.as_str()) {
            *has -= 1;
        }
        *given.entry(to.clone()).or_default() += 1;
        zone.clone_from(to);
    }
    for (endpoint, zone) in ready.iter_mut().zip(zones) {
        endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone }]), for_nodes: None });
    }
    Ok(given)
}

/// How many endpoints zones that have more than their part give, and how many the others get: whole ones, as long as it brings both
/// nearer to their parts.
fn moves(parts: &BTreeMap<&String, Part>, given: &Given) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut more, mut less) = (Vec::new(), Vec::new());
    for (zone, part) in parts {
        let by = given.get(*zone).copied().unwrap_or_default() as f64 - part.wanted;
        if by > 0.0 {
            more.push((*zone, by));
        } else if by < 0.0 {
            less.push((*zone, -by));
        }
    }
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    let most = |zones: &[(&String, f64)]| (0..zones.len()).max_by(|a, b| zones[*a].1.total_cmp(&zones[*b].1));
    while let (Some(from), Some(to)) = (most(&more), most(&less)) {
        let (gives, gets) = (more[from].1, less[to].1);
        if (gives < 1.0 && gets < 1.0) || gives < 0.5 || gets < 0.5 {
            break;
        }
        *giving.entry(more[from].0.clone()).or_default() += 1;
        *receiving.entry(less[to].0.clone()).or_default() += 1;
        more[from].1 -= 1.0;
        less[to].1 -= 1.0;
    }
    (giving, receiving)
}

/// Whether a zone has too few endpoints for what its part of the CPU is now.
fn is_overloaded(given: &Given, shares: Option<&Shares>) -> bool {
    let Some(shares) = shares else { return !given.is_empty() };
    let all: usize = given.values().sum();
    all > 0 && shares.iter().any(|(zone, share)| given.get(zone).is_none_or(|has| (*has as f64) < (all as f64 * share / (1.0 + OVERLOAD)).ceil()))
}

/// What was given to whom, by Service and family.
#[derive(Default)]
pub(super) struct Topology(Mutex<HashMap<ObjectKey, BTreeMap<String, Given>>>);

/// What is to be told of a Service: whether something is wrong, the reason, and the message.
pub(super) type Told = (bool, &'static str, String);

impl Topology {
    /// Gives the endpoints of one family their zones, or takes them away.
    pub(super) fn assign(
        &self,
        (key, family): (&ObjectKey, &str),
        shares: Option<&Shares>,
        endpoints: &mut [&mut Endpoint],
        former: &HashMap<String, String>,
    ) -> Option<Told> {
        let mut known = self.0.lock();
        match give(shares, endpoints, former) {
            Ok(given) => {
                let was_on = known.contains_key(key);
                known.entry(key.clone()).or_default().insert(family.to_owned(), given);
                (!was_on).then(|| (false, "TopologyAwareHintsEnabled", format!("Topology Aware Hints has been enabled, addressType: {family}")))
            }
            Err(why) => {
                endpoints.iter_mut().for_each(|e| e.hints = None);
                if let Some(families) = known.get_mut(key) {
                    families.remove(family);
                    if families.is_empty() {
                        known.remove(key);
                    }
                }
                Some((true, "TopologyAwareHintsDisabled", format!("{why}, addressType: {family}")))
            }
        }
    }

    /// A Service has these families alone.
    pub(super) fn only(&self, key: &ObjectKey, families: &[&str]) {
        let mut known = self.0.lock();
        if let Some(given) = known.get_mut(key) {
            given.retain(|family, _| families.contains(&family.as_str()));
            if given.is_empty() {
                known.remove(key);
            }
        }
    }

    /// A Service no longer asks for it: what is to be told of that.
    pub(super) fn off(&self, key: &ObjectKey) -> Vec<Told> {
        let families = self.0.lock().remove(key).unwrap_or_default();
        families.keys().map(|family| (true, "TopologyAwareHintsDisabled", format!("Topology Aware Hints has been disabled, addressType: {family}"))).collect()
    }

    /// The Services that have a zone with too few endpoints now. The nodes are asked for only where any Service has zones.
    pub(super) fn overloaded(&self, nodes: impl FnOnce() -> Vec<Arc<Node>>) -> Vec<ObjectKey> {
        let known = self.0.lock();
        if known.is_empty() {
            return Vec::new();
        }
        let shares = shares(&nodes());
        known.iter().filter(|(_, families)| families.values().any(|given| is_overloaded(given, shares.as_ref()))).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, zone: &str, cpu: &str) -> Arc<Node> {
        let status = json!({"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]});
        let value = json!({"metadata": {"name": name, "labels": {ZONE: zone}}, "status": status});
        Arc::new(client::typed(&value).unwrap())
    }

    fn endpoints(zones: &[&str]) -> Vec<Endpoint> {
        let one = |(n, zone): (usize, &&str)| Endpoint { addresses: vec![format!("10.0.0.{n}")], zone: Some((*zone).to_owned()), ..Endpoint::default() };
        zones.iter().enumerate().map(one).collect()
    }

    fn hints(all: &[Endpoint]) -> Vec<String> {
        all.iter().map(|e| e.hints.as_ref().and_then(|h| h.for_zones.as_ref()).map_or_else(String::new, |z| z[0].name.clone())).collect()
    }

    fn given(nodes: &[Arc<Node>], all: &mut [Endpoint], former: &HashMap<String, String>) -> Result<Given, String> {
        give(shares(nodes).as_ref(), &mut all.iter_mut().collect::<Vec<_>>(), former)
    }

    #[test]
    fn it_is_asked_for_by_annotation_and_the_old_one_goes_first() {
        let asked = |annotations: serde_json::Value| is_auto(&client::typed(&json!({"metadata": {"name": "s", "annotations": annotations}})).unwrap());
        assert!(asked(json!({ANNOTATION: "Auto"})) && asked(json!({ANNOTATION: "auto"})) && asked(json!({OLD_ANNOTATION: "Auto", ANNOTATION: "Disabled"})));
        assert!(!asked(json!({})) && !asked(json!({ANNOTATION: "Disabled"})) && !asked(json!({OLD_ANNOTATION: "Disabled", ANNOTATION: "Auto"})));
    }

    #[test]
    fn zones_get_endpoints_by_their_cpu_and_their_own_first() {
        let nodes = [node("1", "a", "2"), node("2", "b", "1"), node("3", "b", "1000m")];
        let mut all = endpoints(&["a", "a", "a", "b"]);
        let have = given(&nodes, &mut all, &HashMap::new()).unwrap();
        assert_eq!((have["a"], have["b"]), (2, 2));
        assert_eq!(hints(&all), ["b", "a", "a", "b"]);
        // Who has a zone keeps it; one more comes where there are too few.
        let former = all.iter().zip(hints(&all)).map(|(e, zone)| (e.addresses[0].clone(), zone)).collect();
        let mut more = endpoints(&["a", "a", "a", "b", "a", "a"]);
        given(&nodes, &mut more, &former).unwrap();
        assert_eq!(hints(&more), ["b", "a", "a", "b", "b", "a"]);
    }

    #[test]
    fn nobody_gets_any_where_that_would_overload_an_endpoint() {
        let two = [node("1", "a", "1"), node("2", "b", "1")];
        let none = HashMap::new();
        let why = |nodes: &[Arc<Node>], zones: &[&str]| given(nodes, &mut endpoints(zones), &none).unwrap_err();
        assert_eq!(why(&two, &["a"]), "Insufficient number of endpoints (1 endpoints, 2 zones)");
        assert_eq!(why(&two, &["a", ""]), "One or more endpoints do not have a zone specified");
        assert!(why(&two[..1], &["a", "a"]).starts_with("Insufficient Node information"));
        let three = [node("1", "a", "1"), node("2", "b", "1"), node("3", "c", "1")];
        assert_eq!(
            why(&three, &["a", "b", "c", "a"]),
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)"
        );
        let mut own = (*node("4", "", "1")).clone();
        own.metadata.labels = Some([(NOT_COUNTED[0].to_owned(), String::new())].into());
        let with_own = [two[0].clone(), two[1].clone(), Arc::new(own)];
        assert!(shares(&with_own).is_some(), "the cluster's own nodes do not count");
    }

    #[test]
    fn who_asks_for_it_is_told_and_looked_at_again_when_nodes_change() {
        let nodes = [node("1", "a", "1"), node("2", "b", "1")];
        let (topology, key) = (Topology::default(), ObjectKey::new("n", "s"));
        let mut all = endpoints(&["a", "b"]);
        let mut assign = |nodes: &[Arc<Node>]| {
            let mut list: Vec<&mut Endpoint> = all.iter_mut().collect();
            topology.assign((&key, "IPv4"), shares(nodes).as_ref(), &mut list, &HashMap::new()).map(|(_, reason, _)| reason)
        };
        assert_eq!(assign(&nodes), Some("TopologyAwareHintsEnabled"));
        assert_eq!(assign(&nodes), None, "it is on");
        assert!(topology.overloaded(|| nodes.to_vec()).is_empty());
        let moved = [node("1", "a", "1"), node("2", "c", "1")];
        assert_eq!(topology.overloaded(|| moved.to_vec()), std::slice::from_ref(&key));
        assert_eq!(topology.off(&key).len(), 1);
        assert!(topology.overloaded(|| moved.to_vec()).is_empty());
        assert_eq!(assign(&nodes), Some("TopologyAwareHintsEnabled"));
        topology.only(&key, &["IPv6"]);
        assert!(topology.overloaded(|| moved.to_vec()).is_empty(), "a family that it no longer has");
    }
}
