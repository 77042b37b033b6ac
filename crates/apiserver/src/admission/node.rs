//! NodeRestriction: a kubelet writes its own node and its own pods only, and asks for no more than is theirs ([`node_requests`]).
//! TaintNodesByCondition: a new node is not ready.

use super::{Plugin, World, attributes::named, creates, forbidden, items, node_requests, push, text};
use crate::{Operation, Write};
use identity::{node_may_label, node_of};
use machinery::{Value, status::Status};
use serde_json::json;
use std::net::IpAddr;

pub(super) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    // It looks at what was sent, before it is validated (upstream's `Admit`).
    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        check(world, write, object)
    }

    // Deletions and connections have no plug-in that would change something.
    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        match write.operation {
            Operation::Create | Operation::Update => Ok(()),
            Operation::Delete | Operation::Connect => check(world, write, object),
        }
    }
}

fn check(world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    let user = &write.cx.user;
    let Some(node) = node_of(user) else {
        // A node that says nothing of which one it is may write nothing.
        let is_none = user.name == "system:node:" && user.is_in("system:nodes");
        return if is_none { Err(forbidden(write, object, format!("could not determine node from user {:?}", user.name))) } else { Ok(()) };
    };
    match (write.row.resource.group.as_str(), write.row.resource.resource.as_str()) {
        ("", "pods") => pods(world, write, object, node),
        ("", "nodes") => nodes(world, write, object, node),
        ("", "persistentvolumeclaims") if write.subresource == "status" => node_requests::claim_status(write, object, node),
        ("", "persistentvolumeclaims") => Err(forbidden(write, object, "may only update PVC status")),
        ("certificates.k8s.io", "certificatesigningrequests") => node_requests::signing(write, object, node),
        ("certificates.k8s.io", "podcertificaterequests") => node_requests::pod_certificate(world, write, object, node),
        ("storage.k8s.io", "csinodes") => {
            let name = if write.name.is_empty() { text(&object["metadata"], "name") } else { write.name };
            if name == node { Ok(()) } else { Err(forbidden(write, object, "can only access CSINode with the same name as the requesting node")) }
        }
        ("resource.k8s.io", "resourceslices") => {
            let own = |v: &Value| v["spec"]["nodeName"] == node;
            // What else is done to one the Node authoriser judges, which knows whose it is.
            let (allowed, word) = match write.operation {
                Operation::Create => (own(object), "create"),
                Operation::Delete => (write.old.is_some_and(own), "delete"),
                Operation::Update | Operation::Connect => (true, ""),
            };
            if allowed { Ok(()) } else { Err(forbidden(write, object, format!("can only {word} ResourceSlice with the same NodeName as the requesting node"))) }
        }
        ("coordination.k8s.io", "leases") => {
            if write.namespace != "kube-node-lease" {
                return Err(forbidden(write, object, "can only access leases in the \"kube-node-lease\" system namespace"));
            }
            let name = if write.name.is_empty() { text(&object["metadata"], "name") } else { write.name };
            if name == node { Ok(()) } else { Err(forbidden(write, object, "can only access node lease with the same name as the requesting node")) }
        }
        _ => Ok(()),
    }
}

fn pods(world: &World, write: &Write<'_>, object: &Value, node: &str) -> Result<(), Status> {
    match (write.operation, write.subresource) {
        (Operation::Create, "") => {
            if !object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
                return Err(forbidden(
                    write,
                    object,
                    format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"),
                ));
            }
            if text(&object["spec"], "nodeName") != node {
                return Err(forbidden(write, object, format!("node {node:?} can only create pods with spec.nodeName set to itself")));
            }
            owner(object, node).map_err(|why| forbidden(write, object, why))?;
            let found = world.get(("", "v1", "nodes"), "", node).ok_or_else(|| Status::not_found("", "node", node))?;
            let (asked, uid) = (text(&object["metadata"]["ownerReferences"][0], "uid"), text(&found["metadata"], "uid"));
            if asked != uid {
                return Err(forbidden(write, object, format!("node {node} UID mismatch: expected {asked} got {uid}")));
            }
            references(object, node).map_err(|why| forbidden(write, object, why))
        }
        (Operation::Delete, "") => {
            let found = world.get(("", "v1", "pods"), write.namespace, write.name);
            if found.is_some_and(|pod| text(&pod["spec"], "nodeName") != node) {
                return Err(forbidden(write, object, format!("node {node:?} can only delete pods with spec.nodeName set to itself")));
            }
            Ok(())
        }
        (Operation::Update, "status") => {
            if write.old.is_some_and(|old| text(&old["spec"], "nodeName") != node) {
                return Err(forbidden(write, object, format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")));
            }
            if write.old.is_some_and(|old| old["metadata"]["labels"] != object["metadata"]["labels"]) {
                return Err(forbidden(write, object, format!("node {node:?} cannot update labels through pod status")));
            }
            match write.old.and_then(|old| claims_changed(&old["status"], &object["status"])) {
                Some(what) => Err(forbidden(write, object, format!("node {node:?} cannot update {what}"))),
                None => Ok(()),
            }
        }
        (Operation::Create, "eviction") => {
            let pod = world.get(("", "v1", "pods"), write.namespace, write.name);
            // Upstream's memory of pods calls them so.
            let pod = pod.ok_or_else(|| Status::not_found("", "pod", write.name))?;
            if text(&pod["spec"], "nodeName") == node {
                return Ok(());
            }
            Err(forbidden(write, object, format!("node {node} can only evict pods with spec.nodeName set to itself")))
        }
        (_, "") => {
            Err(forbidden(write, object, format!("unexpected operation {:?}, node {node:?} can only create and delete mirror pods", named(write.operation))))
        }
        (_, other) => Err(forbidden(write, object, format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))),
    }
}

/// What a pod's new status says otherwise of its claims of devices than the old one: they are the scheduler's and their controller's to tell, and
/// what a pod claims its node may read.
fn claims_changed(old: &Value, new: &Value) -> Option<&'static str> {
    const CLAIMS: [(&str, &str); 3] = [
        // The original's spelling.
        ("resourceClaimStatuses", "resource claim statues"),
        ("extendedResourceClaimStatus", "extended resource claim status"),
        ("nodeAllocatableResourceClaimStatuses", "node allocatable resource claim statuses"),
    ];
    let of = |status: &Value, field: &str| Some(status[field].clone()).filter(|told| !told.is_null() && told.as_array().is_none_or(|all| !all.is_empty()));
    CLAIMS.into_iter().find(|(field, _)| of(old, field) != of(new, field)).map(|(_, what)| what)
}

/// A mirror pod belongs to its node.
fn owner(pod: &Value, node: &str) -> Result<(), String> {
    let itself = format!("node {node:?} can only create pods with an owner reference set to itself");
    let owner = match items(&pod["metadata"]["ownerReferences"]) {
        [] => return Err(itself),
        [one] => one,
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if text(owner, "apiVersion") != "v1" || text(owner, "kind") != "Node" || text(owner, "name") != node {
        return Err(itself);
    }
    if owner["controller"] != true {
        return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    Ok(())
}

/// A mirror pod names no other object: what a node's pods name, the node may read.
fn references(pod: &Value, node: &str) -> Result<(), String> {
    match kinds::api_references(pod) {
        Err(why) => Err(format!("error checking mirror pod for API references: {why}")),
        Ok(Some(what)) => Err(format!("node {node:?} can not create pods that reference {what}")),
        Ok(None) => Ok(()),
    }
}

fn nodes(world: &World, write: &Write<'_>, object: &Value, node: &str) -> Result<(), Status> {
    let name = if write.name.is_empty() { text(&object["metadata"], "name") } else { write.name };
    if name != node {
        return Err(forbidden(write, object, format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let source = &object["spec"]["configSource"];
    if write.operation == Operation::Create && !source.is_null() {
        return Err(forbidden(write, object, format!("node {node:?} is not allowed to create pods with a non-nil configSource")));
    }
    if write.operation == Operation::Update && !source.is_null() && write.old.is_some_and(|old| old["spec"]["configSource"] != *source) {
        return Err(forbidden(write, object, format!("node {node:?} is not allowed to update configSource to a new non-nil configSource")));
    }
    // Also by its status, which leaves them as they are: it looks at what was sent.
    let taints = |old: &Value| write.operation == Operation::Update && items(&old["spec"]["taints"]) != items(&object["spec"]["taints"]);
    if write.old.is_some_and(taints) {
        return Err(forbidden(write, object, format!("node {node:?} is not allowed to modify taints")));
    }
    let owners =
        |old: &Value| write.operation == Operation::Update && items(&old["metadata"]["ownerReferences"]) != items(&object["metadata"]["ownerReferences"]);
    if write.old.is_some_and(owners) {
        return Err(forbidden(write, object, format!("node {node:?} is not allowed to modify ownerReferences")));
    }
    let labels = |v: &Value| v["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let old = write.old.map(labels).unwrap_or_default();
    let mut changed: Vec<String> = labels(object).into_iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(k, _)| k).collect();
    changed.extend(old.keys().filter(|k| object["metadata"]["labels"][k.as_str()].is_null()).cloned());
    changed.retain(|label| !node_may_label(label));
    changed.sort();
    changed.dedup();
    if write.operation != Operation::Delete && !changed.is_empty() {
        let labels = changed.join(", ");
        return Err(forbidden(
            write,
            object,
            match write.operation {
                Operation::Create => format!("node {node:?} is not allowed to set the following labels: {labels}"),
                _ => format!("is not allowed to modify labels: {labels}"),
            },
        ));
    }
    ranges(world, write, object, node)
}

/// A node that brings its range of pods along (as those of the control plane's machine do) takes nothing of another's by it; upstream
/// has no such rule. A range does not change any more once it is there, but one of the other family may come later.
fn ranges(world: &World, write: &Write<'_>, object: &Value, node: &str) -> Result<(), Status> {
    fn of(node: &Value) -> Vec<&str> {
        items(&node["spec"]["podCIDRs"]).iter().filter_map(Value::as_str).chain(node["spec"]["podCIDR"].as_str()).collect()
    }
    let mut wanted = of(object);
    if write.operation != Operation::Create {
        let had = write.old.map(of).unwrap_or_default();
        wanted.retain(|range| !had.contains(range));
    }
    if wanted.is_empty() || write.operation == Operation::Delete {
        return Ok(());
    }
    let pools = &world.config().node_ranges;
    if !pools.is_empty() && !wanted.iter().all(|own| pools.iter().any(|(pool, part)| is_part(own, pool, *part))) {
        return Err(forbidden(write, object, format!("node {node:?} is not allowed to have another range of pods than a part of the cluster's")));
    }
    for other in world.list(("", "v1", "nodes"), "") {
        let name = text(&other["metadata"], "name");
        if name != node && of(&other).iter().any(|theirs| wanted.iter().any(|own| overlap(own, theirs))) {
            return Err(forbidden(
                write,
                object,
                format!("node {node:?} is not allowed to have a range of pods that has addresses of that of the node {name:?}"),
            ));
        }
    }
    Ok(())
}

/// The address of a range as a number, the bits of its family, and those of its prefix.
fn parts(range: &str) -> Option<(u128, u32, u32)> {
    let (address, prefix) = range.split_once('/')?;
    let (number, bits) = match address.parse().ok()? {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    Some((number, bits, prefix.parse::<u32>().ok().filter(|prefix| *prefix <= bits)?))
}

/// Whether a range lies in a pool and is no larger than a node's part of it.
fn is_part(range: &str, pool: &str, part: u8) -> bool {
    parts(range).zip(parts(pool)).is_some_and(|((.., long), (.., short))| long >= u32::from(part).max(short) && overlap(range, pool))
}

/// Whether two ranges have addresses in common; what is no range is validated elsewhere.
fn overlap(one: &str, other: &str) -> bool {
    let (Some((one, bits, long)), Some((other, others, short))) = (parts(one), parts(other)) else { return false };
    let differs = (one ^ other).checked_shr(bits - long.min(short)).unwrap_or(0);
    bits == others && differs == 0
}

pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    // Until the node controller has seen that it is ready, nothing is put on it.
    fn mutate(&self, _world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        const KEY: &str = "node.kubernetes.io/not-ready";
        if creates(write, "", "nodes") && !items(&object["spec"]["taints"]).iter().any(|t| text(t, "key") == KEY && text(t, "effect") == "NoSchedule") {
            push(&mut object["spec"], "taints", json!({"key": KEY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{claims_changed, is_part, overlap};
    use serde_json::json;

    #[test]
    fn a_kubelet_says_nothing_of_its_pods_claims() {
        let old = json!({"phase": "Pending", "resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c"}]});
        let with = |field: &str, value: serde_json::Value| {
            let mut new = old.clone();
            (new["phase"], new[field]) = ("Running".into(), value);
            claims_changed(&old, &new)
        };
        assert_eq!(with("message", "m".into()), None);
        assert_eq!(with("nodeAllocatableResourceClaimStatuses", json!([])), None);
        assert_eq!(with("resourceClaimStatuses", json!([{"name": "gpu", "resourceClaimName": "another"}])), Some("resource claim statues"));
        assert_eq!(with("resourceClaimStatuses", json!(null)), Some("resource claim statues"));
        assert_eq!(with("extendedResourceClaimStatus", json!({"resourceClaimName": "c"})), Some("extended resource claim status"));
    }

    #[test]
    fn a_node_has_a_part_of_the_pool() {
        let is = |range: &str| is_part(range, "10.244.0.0/16", 24);
        assert!(is("10.244.7.0/24") && is("10.244.7.128/25"));
        for range in ["10.244.0.0/16", "10.244.128.0/17", "192.0.2.0/24", "10.0.0.0/8", "fd00::/64", "none", "::/0"] {
            assert!(!is(range), "{range}");
        }
    }

    #[test]
    fn ranges_of_one_family_may_overlap() {
        for (one, other) in
            [("10.244.1.0/24", "10.244.0.0/16"), ("10.244.1.0/24", "10.244.1.128/25"), ("0.0.0.0/0", "10.0.0.0/8"), ("fd00::/48", "fd00:0:0:7::/64")]
        {
            assert!(overlap(one, other) && overlap(other, one) && overlap(one, one), "{one} {other}");
        }
        for (one, other) in [("10.244.1.0/24", "10.244.2.0/24"), ("::/0", "0.0.0.0/0"), ("10.244.1.0/24", "none"), ("10.244.1.0/33", "10.244.1.0/24")] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }
}
