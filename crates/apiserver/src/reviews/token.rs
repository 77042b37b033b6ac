//! `serviceaccounts/token` (TokenRequest): a token for an account, for a time and audiences, bound to a pod, node or secret.

use super::{text, texts};
use crate::{Context, world::World};
use identity::{Bound, TokenSpec, node_of};
use machinery::{
    Value,
    field::{self, Path},
    status::Status,
    time,
};
use serde_json::json;
use std::sync::Arc;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
/// How long a token lives that nobody gave a time.
const DEFAULT_SECONDS: i64 = 60 * 60;
const MIN_SECONDS: i64 = 10 * 60;
const MAX_SECONDS: i64 = 1 << 32;

/// Answers a POST of a TokenRequest.
#[allow(clippy::unused_async, reason = "external signers will wait")]
pub(crate) async fn create(world: &World, cx: &Context, namespace: &str, name: &str, mut request: Value) -> Result<Value, Status> {
    for (key, own, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
        let told = text(&request["metadata"], key);
        if !told.is_empty() && told != own {
            let detail = format!("must match the service account {what} if specified");
            let error = field::Error::invalid(&Path::root("metadata").child(key), told, detail);
            return Err(Status::invalid(GROUP, KIND, name, vec![error]));
        }
    }
    let account = world.read(("", "v1", "serviceaccounts"), namespace, name)?;
    let seconds = check_seconds(&mut request)?;
    if let Some(node) = node_of(&cx.user) {
        node_restriction(world, node, namespace, name, &request["spec"])?;
    }
    let tokens = &world.identity().tokens;
    let mut audiences = texts(&request["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences = tokens.audiences().to_vec();
    }
    let mut spec = TokenSpec {
        namespace: namespace.into(),
        account: name.into(),
        account_uid: text(&account["metadata"], "uid").into(),
        audiences,
        expiration_seconds: seconds,
        may_extend: true,
        ..TokenSpec::default()
    };
    bind(world, &request["spec"]["boundObjectRef"], &mut spec)?;
    let (token, end) = tokens.issue(&spec, cx.now).map_err(Status::internal)?;
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["kind"] = json!(KIND);
    request["metadata"]["name"] = json!(name);
    request["metadata"]["namespace"] = json!(namespace);
    request["metadata"]["creationTimestamp"] = json!(time::rfc3339(cx.now));
    request["spec"]["audiences"] = json!(spec.audiences);
    request["status"] = json!({"token": token, "expirationTimestamp": time::rfc3339(end)});
    Ok(request)
}

fn check_seconds(request: &mut Value) -> Result<i64, Status> {
    let seconds = match &request["spec"]["expirationSeconds"] {
        Value::Null => DEFAULT_SECONDS,
        told => told.as_i64().unwrap_or_default(),
    };
    request["spec"]["expirationSeconds"] = seconds.into();
    let path = Path::root("spec").child("expirationSeconds");
    let detail = match seconds {
        ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
        s if s > MAX_SECONDS => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(seconds),
    };
    Err(Status::invalid(GROUP, KIND, "", vec![field::Error::invalid(&path, seconds, detail)]))
}

/// Finds the object that the token is to die with.
fn bind(world: &World, reference: &Value, spec: &mut TokenSpec) -> Result<(), Status> {
    if !reference.is_object() {
        return Ok(());
    }
    let (api_version, kind, name) = (text(reference, "apiVersion"), text(reference, "kind"), text(reference, "name"));
    let bound = |object: &Value| Bound { name: name.to_owned(), uid: text(&object["metadata"], "uid").into() };
    let found = match (api_version, kind) {
        ("v1", "Pod") => {
            let pod = world.read(("", "v1", "pods"), &spec.namespace, name)?;
            if text(&pod["spec"], "serviceAccountName") != spec.account {
                let why = format!("cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.", spec.account);
                return Err(Status::bad_request(why));
            }
            let node = text(&pod["spec"], "nodeName");
            if !node.is_empty() {
                let uid = world.read(("", "v1", "nodes"), "", node).map(|n| text(&n["metadata"], "uid").to_owned());
                spec.node = Some(Bound { name: node.into(), uid: uid.unwrap_or_default() });
            }
            spec.pod.insert(bound(&pod)).clone()
        }
        ("v1", "Node") => spec.node.insert(bound(&*world.read(("", "v1", "nodes"), "", name)?)).clone(),
        ("v1", "Secret") => spec.secret.insert(bound(&*world.read(("", "v1", "secrets"), &spec.namespace, name)?)).clone(),
        _ => {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let gvk = format!("{group}/{version}, Kind={kind}");
            return Err(Status::bad_request(format!("cannot bind token to object of type {gvk}")));
        }
    };
    let uid = text(reference, "uid");
    if !uid.is_empty() && uid != found.uid {
        return Err(Status::conflict("", kind, name, &recreated(uid)));
    }
    Ok(())
}

fn recreated(uid: &str) -> String {
    format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated")
}

/// NodeRestriction for tokens: a kubelet gets those of its own pods only, for the audiences that they ask for.
fn node_restriction(world: &World, node: &str, namespace: &str, name: &str, spec: &Value) -> Result<(), Status> {
    let no = |why: &str| Err(Status::forbidden("", "serviceaccounts", name, why));
    let reference = &spec["boundObjectRef"];
    let (kind, pod_name, uid) = (text(reference, "kind"), text(reference, "name"), text(reference, "uid"));
    if text(reference, "apiVersion") != "v1" || kind != "Pod" || pod_name.is_empty() {
        return no("node requested token not bound to a pod");
    }
    if uid.is_empty() {
        return no("node requested token with a pod binding without a uid");
    }
    let pod: Arc<Value> = world.read(("", "v1", "pods"), namespace, pod_name)?;
    if text(&pod["metadata"], "uid") != uid {
        return no(&recreated(uid));
    }
    if text(&pod["spec"], "nodeName") != node {
        return no("node requested token bound to a pod scheduled on a different node");
    }
    let asked = texts(&spec["audiences"]);
    if asked.len() > 1 {
        return no("node may only request 0 or 1 audiences");
    }
    let audience = asked.first().map(String::as_str).unwrap_or_default();
    let own = world.identity().tokens.audiences();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources = volumes.flat_map(|v| v["projected"]["sources"].as_array().into_iter().flatten());
    let named = sources.any(|s| s["serviceAccountToken"].is_object() && text(&s["serviceAccountToken"], "audience") == audience);
    if audience.is_empty() || own.iter().any(|a| a == audience) || named || csi_audience(world, &pod, audience) {
        return Ok(());
    }
    no(&format!("audience {audience:?} not found in pod spec volume"))
}

/// Whether a CSI driver of the pod's volumes asks for tokens of that audience.
fn csi_audience(world: &World, pod: &Value, audience: &str) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let drivers = volumes.filter_map(|v| {
        let claim = text(&v["persistentVolumeClaim"], "claimName");
        if claim.is_empty() {
            return v["csi"]["driver"].as_str().map(str::to_owned);
        }
        let claim = world.read(("", "v1", "persistentvolumeclaims"), text(&pod["metadata"], "namespace"), claim).ok()?;
        let volume = world.read(("", "v1", "persistentvolumes"), "", text(&claim["spec"], "volumeName")).ok()?;
        volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
    });
    drivers.into_iter().any(|name| {
        let driver = world.read(("storage.k8s.io", "v1", "csidrivers"), "", &name);
        driver.is_ok_and(|d| d["spec"]["tokenRequests"].as_array().into_iter().flatten().any(|t| text(t, "audience") == audience))
    })
}
