//! ServiceAccount: every pod has an account, and unless it says otherwise, that account's token as files.

use super::{Plugin, World, creates, forbidden, is, items, mountable, push, text, unaskable};
use crate::{Operation, Write, meta, storage};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::{Value, quote::Quoted, status::Status};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Where the token is mounted.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Every pod's usual token lives this long (upstream's `WarnOnlyBoundTokenExpirationPeriod`).
const TOKEN_SECONDS: i64 = 60 * 60 + 7;
/// A pod's create waits this long for the default account of a namespace that was made a moment ago.
const DEFAULT_WAIT_MAX: Duration = Duration::from_secs(2);
const ACCOUNTS: (&str, &str, &str) = ("", "v1", "serviceaccounts");

/// Waits for the default account of a namespace: its controller may be one event behind the user. Upstream tries again
/// for about a second; here the wait ends with the very event.
pub(super) async fn wait_for_default(world: &World, namespace: &str, pod: &Value) {
    let name = account_name(pod);
    if name != "default" || world.read(ACCOUNTS, namespace, name).is_ok() || world.read(("", "v1", "namespaces"), "", namespace).is_err() {
        return;
    }
    let Some(row) = world.row(ACCOUNTS.0, ACCOUNTS.1, ACCOUNTS.2) else { return };
    let Ok(mut watch) = storage::watch(world.store(), &row, storage::revision(world.store()), storage::Scope::Bucket) else { return };
    let there = async {
        while world.read(ACCOUNTS, namespace, name).is_err() {
            if watch.next().await.is_err() {
                break;
            }
        }
    };
    // Without it the plug-in says what is missing.
    let _ = tokio::time::timeout(DEFAULT_WAIT_MAX, there).await;
}

fn account_name(pod: &Value) -> &str {
    let spec = &pod["spec"];
    [text(spec, "serviceAccountName"), text(spec, "serviceAccount"), "default"].into_iter().find(|n| !n.is_empty()).unwrap_or("default")
}

pub(super) struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if write.row.resource.group.is_empty() && write.row.resource.resource == "secrets" && write.subresource.is_empty() {
            fill_token_secret(world, write, object);
            return Ok(());
        }
        if !creates(write, "", "pods") {
            return Ok(());
        }
        if object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
            return mirror(write, object);
        }
        let name = account_name(object).to_owned();
        object["spec"]["serviceAccountName"] = json!(name);
        object["spec"]["serviceAccount"] = json!(name);
        let account = account(world, write, object, &name)?;
        let wanted = |v: &Value| v["automountServiceAccountToken"].as_bool();
        if wanted(&object["spec"]).or_else(|| wanted(&account)).unwrap_or(true) {
            mount(object);
        }
        if items(&object["spec"]["imagePullSecrets"]).is_empty() && !items(&account["imagePullSecrets"]).is_empty() {
            object["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        mountable::check(&account, object, true).map_err(|why| forbidden(write, object, why))
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let made = creates(write, "", "pods");
        let debugged = is(write, "", "pods") && write.operation == Operation::Update && write.subresource == "ephemeralcontainers";
        if !made && !debugged {
            return Ok(());
        }
        if made && object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
            return mirror(write, object);
        }
        let name = text(&object["spec"], "serviceAccountName");
        if name.is_empty() {
            let why = format!("no service account specified for pod {}/{}", write.namespace, text(&object["metadata"], "name"));
            return Err(forbidden(write, object, why));
        }
        let account = account(world, write, object, name)?;
        match mountable::check(&account, object, made) {
            Ok(()) => Ok(()),
            // Upstream's errors of what is added to a pod are none of the API's.
            Err(why) if debugged => Err(Status::new(500, "", why)),
            Err(why) => Err(forbidden(write, object, why)),
        }
    }
}

/// A pod's account, which must be there.
fn account(world: &World, write: &Write<'_>, pod: &Value, name: &str) -> Result<Arc<Value>, Status> {
    world.get(ACCOUNTS, write.namespace, name).ok_or_else(|| {
        let place = format!("{}/{name}", write.namespace);
        let why = unaskable(name).unwrap_or_else(|| format!("serviceaccount {} not found", Quoted(name)));
        forbidden(write, pod, format!("error looking up service account {place}: {why}"))
    })
}

/// A mirror pod shows what a node runs anyway; it may not use anything of the API.
fn mirror(write: &Write<'_>, object: &Value) -> Result<(), Status> {
    if !text(&object["spec"], "serviceAccountName").is_empty() {
        return Err(forbidden(write, object, "a mirror pod may not reference service accounts"));
    }
    if kinds::names_secrets(object) {
        return Err(forbidden(write, object, "a mirror pod may not reference secrets"));
    }
    for volume in items(&object["spec"]["volumes"]) {
        if items(&volume["projected"]["sources"]).iter().any(|s| s["serviceAccountToken"].is_object()) {
            return Err(forbidden(write, object, "a mirror pod may not use ServiceAccountToken volume projections"));
        }
    }
    Ok(())
}

fn mount(pod: &mut Value) {
    let spec = &mut pod["spec"];
    let own = items(&spec["volumes"]).iter().map(|v| text(v, "name")).find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let (name, new) = own.map_or_else(|| (meta::generate_name(VOLUME_PREFIX), true), |name| (name, false));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounted = items(&container["volumeMounts"]).iter().any(|m| text(m, "mountPath") == MOUNT_PATH);
            if !mounted {
                push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                used = true;
            }
        }
    }
    if used && new {
        push(spec, "volumes", token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// A Secret of type `kubernetes.io/service-account-token` gets its token at once. Upstream's controller manager does it
/// a moment later, with the same result.
fn fill_token_secret(world: &World, write: &Write<'_>, secret: &mut Value) {
    const NAME: &str = "kubernetes.io/service-account.name";
    const UID: &str = "kubernetes.io/service-account.uid";
    if text(secret, "type") != "kubernetes.io/service-account-token" || write.name.is_empty() {
        return;
    }
    let name = text(&secret["metadata"]["annotations"], NAME).to_owned();
    let Some(account) = world.get(ACCOUNTS, write.namespace, &name) else { return };
    let uid = text(&account["metadata"], "uid").to_owned();
    let stated = text(&secret["metadata"]["annotations"], UID);
    if !stated.is_empty() && stated != uid {
        return;
    }
    let identity = world.identity();
    if text(&secret["data"], "token").is_empty() {
        let Ok(token) = identity.tokens.issue_legacy(write.namespace, &name, &uid, write.name) else { return };
        secret["data"]["token"] = json!(STANDARD.encode(token));
    }
    for (key, value) in [("ca.crt", identity.authenticator.trust().client_ca_pem.as_str()), ("namespace", write.namespace)] {
        if text(&secret["data"], key).is_empty() && !value.is_empty() {
            secret["data"][key] = json!(STANDARD.encode(value));
        }
    }
    secret["metadata"]["annotations"][UID] = json!(uid);
}
