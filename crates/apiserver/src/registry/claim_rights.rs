//! Who may write which part of a claim's status (KEP-4817, upstream's `DRAResourceClaimGranularStatusAuthorization`): beside the right to write
//! it at all, what a claim has and for whom it is reserved takes that to `resourceclaims/binding`, in the whole cluster; what a driver tells of
//! its devices takes that to `resourceclaims/driver` under the driver's name, with a verb for claims of the node that a service account is on
//! and one for those of any. Neither is served: both are names for rules alone.

use crate::{Context, access, path::RequestInfo, rows::Row, world::World};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    tree::{items, text},
};
use std::collections::BTreeSet;

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What of a change of a claim's status its author may not do.
pub(super) fn check(world: &World, row: &Row, cx: &Context, object: &Value, old: &Value) -> ErrorList {
    if row.resource.group != "resource.k8s.io" || row.resource.kind.kind != "ResourceClaim" {
        return ErrorList::new();
    }
    let (new, old, mut errors) = (&object["status"], &old["status"], ErrorList::new());
    let asked = |verb: &str, subresource: &str, namespace: &str, name: &str| {
        let resource = &row.resource;
        let info = RequestInfo {
            is_resource: true,
            path: cx.info.path.clone(),
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.resource.clone(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        access::authorize_verb(world, &cx.user, &info, verb).map_err(|status| status.message)
    };
    let verb = cx.info.verb;
    if ["allocation", "reservedFor"].iter().any(|part| !same(&new[part], &old[part]))
        && let Err(why) = asked(verb, "binding", "", "")
    {
        let needs = format!("changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {why}");
        errors.push(Error::forbidden(&Path::root("status.allocation"), needs));
    }
    // What is told of devices goes with the allocation.
    if new["allocation"].is_null() {
        return errors;
    }
    let mut verbs = vec![format!("arbitrary-node:{verb}")];
    if is_of(cx, node_of(&new["allocation"])) {
        verbs.insert(0, format!("associated-node:{verb}"));
    }
    for driver in changed(new, old) {
        let refused: Vec<String> = verbs.iter().map_while(|verb| asked(verb, "driver", &cx.info.namespace, driver).err()).collect();
        if refused.len() == verbs.len() {
            let (all, why) = (verbs.join(" "), &refused[0]);
            let needs = format!("changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{all}]\" permission: {why}");
            errors.push(Error::forbidden(&Path::root("status.devices"), needs));
        }
    }
    errors
}

/// Whether two parts say the same; nothing and an empty list do.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (items(a).is_empty() && items(b).is_empty() && !a.is_object() && !b.is_object())
}

/// The drivers of whose devices something else is told than before.
fn changed<'v>(new: &'v Value, old: &'v Value) -> BTreeSet<&'v str> {
    let key = |device: &'v Value| ["driver", "pool", "device", "shareID"].map(|part| text(device, part));
    let (new, old) = (items(&new["devices"]), items(&old["devices"]));
    let unlike = |all: &[Value], one: &Value| !all.iter().any(|other| other == one);
    let fresh = new.iter().filter(|one| unlike(old, one));
    let gone = old.iter().filter(|one| !new.iter().any(|other| key(other) == key(one)));
    fresh.chain(gone).map(|device| text(device, "driver")).collect()
}

/// The one node on which an allocation can be used; empty if it is not one.
fn node_of(allocation: &Value) -> &str {
    let [term] = items(&allocation["nodeSelector"]["nodeSelectorTerms"]) else { return "" };
    let ([], [field]) = (items(&term["matchExpressions"]), items(&term["matchFields"])) else { return "" };
    match items(&field["values"]) {
        [node] if field["key"] == "metadata.name" && field["operator"] == "In" => node.as_str().unwrap_or_default(),
        _ => "",
    }
}

/// Whether the author is a service account of a pod on this node.
fn is_of(cx: &Context, node: &str) -> bool {
    let named = cx.user.extra.get(NODE_NAME).map(Vec::as_slice).unwrap_or_default();
    !node.is_empty() && cx.user.name.starts_with("system:serviceaccount:") && named == [node]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_changes_is_known_by_its_driver() {
        let device = |driver: &str, name: &str, data: i64| json!({"driver": driver, "pool": "p", "device": name, "data": {"x": data}});
        let old = json!({"devices": [device("a", "1", 0), device("b", "1", 0), device("c", "1", 0)]});
        let new = json!({"devices": [device("a", "1", 0), device("b", "1", 1), device("d", "1", 0)]});
        assert_eq!(changed(&new, &old), ["b", "c", "d"].into());
        assert_eq!(changed(&old, &old), [].into());
        assert!(same(&Value::Null, &json!([])) && !same(&Value::Null, &json!([1])) && !same(&Value::Null, &json!({"devices": {}})));
    }

    #[test]
    fn an_allocation_is_of_one_node_or_of_none() {
        let term = |term: Value| json!({"nodeSelector": {"nodeSelectorTerms": [term]}});
        let named = |values: &[&str]| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": values}]});
        assert_eq!(node_of(&term(named(&["n"]))), "n");
        for other in [term(named(&["n", "m"])), term(json!({"matchExpressions": [{"key": "k", "operator": "Exists"}]})), json!({})] {
            assert_eq!(node_of(&other), "");
        }
    }
}
