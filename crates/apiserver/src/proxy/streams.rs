//! exec, attach and port-forward: an upgraded connection to the kubelet, carried as bytes.

use super::{Asked, dial::Backend, forward, kubelet, log, plain_error, pod, text};
use crate::{Body, Context, access, query::Query, websocket, world::World};
use http::{Method, Request, Response, Uri};
use machinery::{Value, status::Status};

/// Finds out what a request for `pods/NAME/{exec,attach,portforward}` wants.
pub(super) fn find(world: &World, cx: &Context, query: &Query<'_>, request: &Request<Body>) -> Result<Asked, Status> {
    // A WebSocket begins with GET, which must not make the right to look the right to run something.
    if request.method() == Method::GET {
        access::authorize_stream(world, cx)?;
    }
    let pod = pod(world, cx)?;
    let name = cx.info.name.as_str();
    let path = path(cx, &pod, query)?;
    let node = text(&pod["spec"], "nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let kubelet = kubelet::of_pod(world, node)?;
    if !websocket::upgrade_wanted(request.headers()) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let uri: Uri = path.parse().map_err(|_| Status::bad_request("the request is too long"))?;
    Ok(Asked::Stream(kubelet, uri))
}

/// Joins the client with the kubelet.
pub(super) async fn answer(backend: &Backend, uri: Uri, request: Request<Body>) -> Result<Response<Body>, Status> {
    let host = backend.address.to_string();
    forward::upgrade(backend, uri, Some(host), request).await.map_err(|e| plain_error(format!("error dialing backend: {e}")))
}

/// The kubelet's path and query for what is asked.
fn path(cx: &Context, pod: &Value, query: &Query<'_>) -> Result<String, Status> {
    let (namespace, name) = (cx.info.namespace.as_str(), cx.info.name.as_str());
    if cx.info.subresource == "portforward" {
        let ports: Vec<String> = query.all("ports").flat_map(|p| p.split(',')).map(|p| format!("port={}", forward::encode(p))).collect();
        let query = if ports.is_empty() { String::new() } else { format!("?{}", ports.join("&")) };
        return Ok(format!("/portForward/{namespace}/{name}{query}"));
    }
    let container = log::container(pod, query.text("container"))?;
    // Whoever says nothing about the streams wants to see what comes out.
    let silent = ["stdin", "stdout", "stderr"].iter().all(|s| query.get(s).is_none());
    let mut pairs: Vec<String> = query.all("command").map(|c| format!("command={}", forward::encode(c))).collect();
    for (asked, told) in [("stderr", "error"), ("stdin", "input"), ("stdout", "output"), ("tty", "tty")] {
        if query.flag(asked) || (silent && matches!(asked, "stdout" | "stderr")) {
            pairs.push(format!("{told}=1"));
        }
    }
    Ok(format!("/{}/{namespace}/{name}/{container}?{}", cx.info.subresource, pairs.join("&")))
}
