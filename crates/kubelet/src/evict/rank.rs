//! Who goes first when a node is short of something, and what is told of it (upstream's `rank…Pressure` and `evictionMessage`).

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use machinery::quantity::{Format, Quantity};

use super::signals::{Observations, Signal, Threshold};
use crate::pod::Handle;
use crate::resources;
use crate::util;

/// What a pod takes of one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub sum: i64,
    /// By container, as far as messages tell of it.
    pub containers: Vec<(String, i64)>,
}

/// A pod that may go.
pub struct Candidate {
    /// The pod.
    pub handle: Arc<Handle>,
    /// None: it could not be found out.
    pub usage: Option<Usage>,
}

fn request(pod: &Pod, resource: &str) -> i64 {
    pod.spec.as_ref().and_then(|s| resources::pod_requests(s).get(resource).copied()).unwrap_or(0)
}

/// Puts first who goes first: of whom nothing is known, who takes more than it asked for, the lowest priority, who is furthest over. Of
/// process numbers nobody asks for any: the lowest priority, and of it who has most.
pub fn rank(candidates: &mut [Candidate], signal: Signal) {
    let resource = signal.resource();
    candidates.sort_by_cached_key(|c| {
        let pod = c.handle.pod();
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        let used = c.usage.as_ref().map(|u| u.sum);
        // Inodes are measured against the bytes that were asked for, as upstream has it.
        let asked = request(&pod, if resource == "inodes" { "ephemeral-storage" } else { resource });
        let over = used.is_none_or(|used| used > request(&pod, resource));
        let first = if resource == "pids" { (priority, used.is_some(), Reverse(true)) } else { (0, used.is_some(), Reverse(over)) };
        (first, priority, Reverse(used.unwrap_or(i64::MAX).saturating_sub(asked)))
    });
}

fn binary(amount: i64) -> String {
    Quantity::from_value(amount, Format::Binary).to_string()
}

/// What a container asked for, as it wrote it.
fn asked<'a>(spec: &'a Spec, resource: &str) -> Option<&'a str> {
    Some(spec.resources.as_ref()?.requests.as_ref()?.get(resource)?.0.as_str())
}

/// Why a pod goes.
#[must_use]
pub fn message(resource: &str, pod: &Pod, usage: Option<&Usage>, starved: &[Threshold], observed: &Observations) -> String {
    let mut out = format!("The node was low on resource: {resource}. ");
    if let Some((t, seen)) = starved.iter().filter(|t| t.signal.resource() == resource).find_map(|t| Some((t, observed.get(&t.signal)?))) {
        let available = Quantity::from_value(seen.available, t.signal.format());
        out += &format!("Threshold quantity: {}, available: {available}. ", t.below.of(seen.capacity));
    }
    let (Some(usage), Some(spec)) = (usage, pod.spec.as_ref()) else { return out };
    if resource == "memory"
        && let Some(q) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("memory"))
    {
        out += &format!("Pod {} was using {}, request is {}, has larger consumption of {resource}. ", util::name(pod), binary(usage.sum), q.0);
    }
    if !matches!(resource, "memory" | "ephemeral-storage") {
        return out;
    }
    for (name, used) in &usage.containers {
        let Some(spec) = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == *name) else { continue };
        let request = asked(spec, resource).unwrap_or("0");
        if *used > request.parse::<Quantity>().map_or(0, Quantity::value) {
            out += &format!("Container {name} was using {}, request is {request}, has larger consumption of {resource}. ", binary(*used));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::signals::{Amount, Observed};
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn candidate(name: &str, used: Option<i64>, asked: &str, priority: i32) -> Candidate {
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"memory": asked, "ephemeral-storage": asked}}}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": name, "name": name}, "spec": spec})).unwrap();
        Candidate { handle: Arc::new(Handle::new(Arc::new(pod))), usage: used.map(|sum| Usage { sum, containers: vec![("c".into(), sum)] }) }
    }

    fn order(signal: Signal, mut all: Vec<Candidate>) -> Vec<String> {
        rank(&mut all, signal);
        all.iter().map(|c| c.handle.uid.0.clone()).collect()
    }

    #[test]
    fn who_takes_more_than_he_asked_goes_first() {
        let all = || {
            vec![
                candidate("modest", Some(10), "20", 0),
                candidate("over", Some(30), "20", 0),
                candidate("unknown", None, "20", 5),
                candidate("far-over", Some(90), "20", 0),
                candidate("over-but-dear", Some(900), "0", 10),
            ]
        };
        let first = ["unknown", "far-over", "over", "over-but-dear", "modest"];
        assert_eq!(order(Signal::Memory, all()), first);
        assert_eq!(order(Signal::NodeFs, all()), first);
        assert_eq!(order(Signal::NodeFsInodes, all()), ["unknown", "far-over", "over", "modest", "over-but-dear"], "nobody asks for inodes");
        assert_eq!(order(Signal::Pids, all()), ["far-over", "over", "modest", "unknown", "over-but-dear"], "priority before all");
    }

    #[test]
    fn the_message_names_what_is_short_and_who_takes_it() {
        let starved = [Threshold { signal: Signal::Memory, below: Amount::Quantity("100Mi".parse().unwrap()), grace: Duration::ZERO, reclaim: None }];
        let observed = Observations::from([(Signal::Memory, Observed { available: 95_832 << 10, capacity: 1 << 32 })]);
        let of = |c: &Candidate, resource: &str| message(resource, &c.handle.pod(), c.usage.as_ref(), &starved, &observed);
        let over = candidate("p", Some(200 << 20), "128Mi", 0);
        let low = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 95832Ki. ";
        assert_eq!(of(&over, "memory"), format!("{low}Container c was using 200Mi, request is 128Mi, has larger consumption of memory. "));
        assert_eq!(of(&candidate("p", Some(1), "128Mi", 0), "memory"), low);
        assert_eq!(of(&candidate("p", None, "128Mi", 0), "memory"), low);
        assert_eq!(of(&over, "inodes"), "The node was low on resource: inodes. ");
        let mut whole = (*over.handle.pod()).clone();
        whole.spec.as_mut().unwrap().resources = serde_json::from_value(json!({"requests": {"memory": "150Mi"}})).unwrap();
        let told = message("memory", &whole, over.usage.as_ref(), &starved, &observed);
        assert!(told.starts_with(&format!("{low}Pod p was using 200Mi, request is 150Mi, has larger consumption of memory. Container c")), "{told}");
    }
}
