//! NodeRestriction for tokens: a kubelet gets those of its own pods only, for the audience that one of their volumes names or that it has
//! a right to ask for (upstream's `admitServiceAccount`, KEP-4935).

use super::{text, texts};
use crate::{Context, admission::joined, read::items, world::World};
use identity::Attributes;
use machinery::{Value, quote::Quoted, status::Status};
use std::sync::Arc;

/// A resource, and what one of its objects is called where none is found.
type Kind = ((&'static str, &'static str, &'static str), &'static str);

const CLAIMS: Kind = (("", "v1", "persistentvolumeclaims"), "persistentvolumeclaim");
const VOLUMES: Kind = (("", "v1", "persistentvolumes"), "persistentvolume");
const DRIVERS: Kind = (("storage.k8s.io", "v1", "csidrivers"), "csidriver.storage.k8s.io");

/// Refuses what a node may not have of the token of an account.
pub(super) fn check(world: &World, cx: &Context, node: &str, (namespace, name): (&str, &str), spec: &Value) -> Result<(), Status> {
    let no = |why: String| Err(Status::forbidden("", "serviceaccounts", name, why));
    let reference = &spec["boundObjectRef"];
    let (kind, pod_name, uid) = (text(reference, "kind"), text(reference, "name"), text(reference, "uid"));
    if text(reference, "apiVersion") != "v1" || kind != "Pod" || pod_name.is_empty() {
        return no("node requested token not bound to a pod".into());
    }
    if uid.is_empty() {
        return no("node requested token with a pod binding without a uid".into());
    }
    let pod = world.get(("", "v1", "pods"), namespace, pod_name).ok_or_else(|| Status::not_found("", "pod", pod_name))?;
    if text(&pod["metadata"], "uid") != uid {
        return no(super::token::recreated(uid));
    }
    if text(&pod["spec"], "nodeName") != node {
        return no("node requested token bound to a pod scheduled on a different node".into());
    }
    let asked = texts(&spec["audiences"]);
    if asked.len() > 1 {
        return no("node may only request 0 or 1 audiences".into());
    }
    let audience = asked.first().map(String::as_str).unwrap_or_default();
    match is_named(world, &pod, audience) {
        Err(why) => no(format!("error validating audience {}: {why}", Quoted(audience))),
        Ok(named) if named || may_ask(world, cx, audience, namespace, name) => Ok(()),
        Ok(_) => no(format!("{} is not authorized to request tokens for audience {}", cx.user.name, Quoted(audience))),
    }
}

/// Whether the node may ask for tokens for an audience, whatever the pods of the account name.
fn may_ask(world: &World, cx: &Context, audience: &str, namespace: &str, account: &str) -> bool {
    world.identity().authorizer.allows(&Attributes {
        user: &cx.user,
        verb: "request-serviceaccounts-token-audience",
        group: "",
        version: "v1",
        resource: audience,
        subresource: "",
        namespace,
        name: account,
        path: "",
        is_resource: true,
        fields: None,
    })
}

/// Whether a pod mounts a token for an audience, or a volume whose CSI driver asks for one.
fn is_named(world: &World, pod: &Value, audience: &str) -> Result<bool, String> {
    let volumes = items(&pod["spec"]["volumes"]);
    // Nothing is looked up where the pod itself names it.
    if volumes.iter().any(|volume| projects(volume, audience)) {
        return Ok(true);
    }
    let mut wrong = Vec::new();
    for volume in volumes {
        match driver(world, pod, volume).and_then(|driver| asks(world, &driver, audience)) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => wrong.push(why),
        }
    }
    if wrong.is_empty() { Ok(false) } else { Err(joined(&wrong)) }
}

/// Whether a volume has a token for an audience; one that names none is for the server's own.
fn projects(volume: &Value, audience: &str) -> bool {
    let tokens = items(&volume["projected"]["sources"]).iter().map(|source| &source["serviceAccountToken"]);
    { tokens }.any(|token| token.is_object() && text(token, "audience") == audience)
}

/// The CSI driver of a volume; empty if it has none.
fn driver(world: &World, pod: &Value, volume: &Value) -> Result<String, String> {
    let Some(claim) = claim(pod, volume) else { return Ok(text(&volume["csi"], "driver").to_owned()) };
    let claim = find(world, CLAIMS, text(&pod["metadata"], "namespace"), &claim)?;
    let volume = find(world, VOLUMES, "", text(&claim["spec"], "volumeName"))?;
    Ok(text(&volume["spec"]["csi"], "driver").to_owned())
}

/// The claim of a volume, if it has one: the pod's own, or one by its name.
fn claim(pod: &Value, volume: &Value) -> Option<String> {
    if volume["ephemeral"]["volumeClaimTemplate"].is_object() {
        return Some(format!("{}-{}", text(&pod["metadata"], "name"), text(volume, "name")));
    }
    volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
}

/// Whether a driver asks for tokens for an audience.
fn asks(world: &World, driver: &str, audience: &str) -> Result<bool, String> {
    if driver.is_empty() {
        return Ok(false);
    }
    let found = find(world, DRIVERS, "", driver)?;
    Ok(items(&found["spec"]["tokenRequests"]).iter().any(|request| text(request, "audience") == audience))
}

fn find(world: &World, (resource, called): Kind, namespace: &str, name: &str) -> Result<Arc<Value>, String> {
    world.get(resource, namespace, name).ok_or_else(|| format!("{called} {} not found", Quoted(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_is_for_the_audience_of_a_volume() {
        let of = |token: Value| json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}, {"serviceAccountToken": token}]}});
        assert!(projects(&of(json!({"path": "token"})), ""));
        assert!(projects(&of(json!({"path": "token", "audience": "vault"})), "vault"));
        assert!(!projects(&of(json!({"path": "token", "audience": "vault"})), ""));
        assert!(!projects(&json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}]}}), ""), "no token is none for the server");
    }

    #[test]
    fn a_claim_is_the_pod_s_or_by_its_name() {
        let pod = json!({"metadata": {"name": "web-0"}});
        let of = |volume: Value| claim(&pod, &volume);
        assert_eq!(of(json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}})).as_deref(), Some("web-0-v"));
        assert_eq!(of(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})).as_deref(), Some("c"));
        assert_eq!(of(json!({"name": "v", "csi": {"driver": "d"}})), None);
    }
}
