//! An operator, as small as a whole one can be: for each Stall (a custom kind, see `examples/operator.yaml`) there is a
//! Deployment and a Service, and the Stall's status says what became of them.
//!
//! Level-triggered: an event only says where to look; what is wanted is applied again and again, by server-side apply, and
//! is owned by the Stall, so it goes with it. A watch that ends begins anew with a list, which is what an event lost would
//! otherwise have been missed by.

use super::cluster::connect;
use client::{Client, Event, ListParams, Meta, PartialObject, Patch, PatchParams};
use futures_util::{StreamExt as _, stream::select};
use serde_json::{Value, json};
use std::time::Duration;

const STALLS: &str = "/apis/market.example.com/v1/stalls";
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
/// The label by which a Deployment's Stall is known.
const OF: &str = "market.example.com/stall";
const MANAGER: &str = "stall-operator";
/// Before what has failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until the process is ended.
pub async fn run() -> Result<(), String> {
    let client = connect().ok_or("this pod has no ServiceAccount token")?.user_agent(MANAGER);
    println!("watching stalls");
    loop {
        // The first thing after a list is the list itself: every Stall is looked at again.
        if let Err(error) = follow(&client).await {
            println!("{error}; beginning anew");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Brings every Stall to what it should be, then follows the changes until a watch ends.
async fn follow(client: &Client) -> Result<(), String> {
    let told = |error: client::Error| error.to_string();
    let (stalls, deployments) = (client.at::<PartialObject>(STALLS.into()), client.at::<PartialObject>(DEPLOYMENTS.into()));
    let list = stalls.list(&ListParams::default()).await.map_err(told)?;
    let owned = ListParams::labels(OF);
    let since = list.resource_version().to_owned();
    for stall in list.into_items() {
        reconcile(client, stall.namespace(), stall.name()).await.map_err(told)?;
    }
    let own = stalls.watch(&ListParams::default(), &since).await.map_err(told)?.map(|event| event.map(|e| changed(e, |o| Some(o.name().to_owned()))));
    let theirs = deployments.watch(&owned, "").await.map_err(told)?.map(|event| event.map(|e| changed(e, |o| o.label(OF).map(str::to_owned))));
    let mut events = select(own, theirs);
    while let Some(event) = events.next().await {
        if let Some((namespace, name)) = event.map_err(told)? {
            reconcile(client, &namespace, &name).await.map_err(told)?;
        }
    }
    Ok(())
}

/// Which Stall an event is about: namespace and name.
fn changed(event: Event<PartialObject>, stall: impl Fn(&PartialObject) -> Option<String>) -> Option<(String, String)> {
    match event {
        Event::Added(object) | Event::Modified(object) | Event::Deleted(object) => Some((object.namespace().to_owned(), stall(&object)?)),
        Event::Unread { .. } | Event::Bookmark { .. } => None,
    }
}

/// One Stall: what it stands for is applied, what became of it is written into its status.
async fn reconcile(client: &Client, namespace: &str, name: &str) -> client::Result<()> {
    let path = format!("/apis/market.example.com/v1/namespaces/{namespace}/stalls");
    let stall: Value = match client.get_json(&format!("{path}/{name}")).await {
        Err(error) if error.is_not_found() => return Ok(()),
        stall => stall?,
    };
    if !stall["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let apply = PatchParams { field_manager: MANAGER.into(), force: true, ..PatchParams::default() };
    let at = |collection: &str| client.at::<PartialObject>(collection.replace("NS", namespace));
    at("/api/v1/namespaces/NS/services").patch(name, &Patch::Apply(service(&stall)), &apply).await?;
    at("/apis/apps/v1/namespaces/NS/deployments").patch(name, &Patch::Apply(deployment(&stall)), &apply).await?;
    let made: Value = client.get_json(&format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}")).await?;
    let ready = made["status"]["readyReplicas"].as_i64().unwrap_or(0);
    let status = json!({
        "replicas": made["status"]["replicas"].as_i64().unwrap_or(0),
        "ready": ready,
        "selector": format!("{OF}={name}"),
        "url": format!("http://{name}.{namespace}"),
        "observedGeneration": stall["metadata"]["generation"],
    });
    if stall["status"] != status {
        println!("{namespace}/{name}: {ready} ready");
        let body = json!({"apiVersion": stall["apiVersion"], "kind": stall["kind"], "status": status});
        client.at::<PartialObject>(path).patch_status(name, &Patch::Apply(body), &apply).await?;
    }
    Ok(())
}

fn metadata(stall: &Value) -> Value {
    let own = &stall["metadata"];
    json!({
        "name": own["name"],
        "namespace": own["namespace"],
        "labels": {OF: own["name"]},
        "ownerReferences": [{
            "apiVersion": stall["apiVersion"], "kind": stall["kind"], "name": own["name"], "uid": own["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }],
    })
}

fn service(stall: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(stall),
        "spec": {"selector": {OF: stall["metadata"]["name"]}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

fn deployment(stall: &Value) -> Value {
    let (name, spec) = (&stall["metadata"]["name"], &stall["spec"]);
    let container = json!({
        "name": "web",
        "image": "knarr.local/shop:v1",
        "imagePullPolicy": "IfNotPresent",
        "args": ["web"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [{"name": "SHOP_TITLE", "value": spec["title"]}, {"name": "SHOP_GREETING", "value": spec["greeting"]}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
    });
    let pod = json!({
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(stall),
        "spec": {
            "replicas": spec["replicas"],
            "selector": {"matchLabels": {OF: name}},
            "template": {"metadata": {"labels": {OF: name}}, "spec": pod},
        },
    })
}
