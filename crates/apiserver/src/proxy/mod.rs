//! What leads through the API server to a kubelet or a workload: logs, exec, attach, port-forward, and the HTTP proxies of
//! pods, services and nodes.
//!
//! The server understands as little as it can of what it carries: a request that asks for an upgrade becomes a tunnel of
//! bytes (SPDY or WebSocket, whichever the two ends speak), everything else one HTTP exchange whose body flows as it
//! comes. A kubelet is reached over TLS, with the server's client certificate, which nobody is shown whose own certificate is not
//! that node's; whatever else is reached is shown none.

mod dial;
mod forward;
mod html;
mod kubelet;
mod location;
mod log;
mod options;
mod probe;
mod sniff;
mod streams;
#[cfg(test)]
mod tests;
mod tunnel;

pub(crate) use forward::{drop_credentials, drop_hop_headers, switch};
pub(crate) use kubelet::of_kubelet;
pub(crate) use location::object_of;
pub(crate) use probe::health;
pub(crate) use sniff::named;

use crate::read::{items, text};
use crate::{Body, Context, admission, offload, query::Query, reply, websocket, world::World};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Uri};
use machinery::{Value, status::Status};
use std::sync::Arc;

const PODS: (&str, &str, &str) = ("", "v1", "pods");
const NODES: (&str, &str, &str) = ("", "v1", "nodes");

/// Answers a request for one of the subresources that lead elsewhere.
pub(crate) fn handle<'a>(world: &'a World, cx: &'a Arc<Context>, request: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    // A method that is not served is refused before its query is read, or anybody is asked about it.
    let connects = check_method(world, cx, request.method()).and_then(|()| options::of(world, cx, &Query::parse(request.uri().query().unwrap_or_default())));
    // What is asked is found out at once, so that nothing of it lives as long as a tunnel.
    let asked = ask(world, cx, &request);
    Box::pin(async move {
        let mut admitted = None;
        if let Some((row, options)) = connects? {
            let heavy = world.gate().is_heavy(&row.resource.resource, false).await;
            let (world, cx) = (world.clone(), Arc::clone(cx));
            let admit = Box::pin(async move { admission::connect(&world, &cx, &row, options).await });
            admitted = if heavy { offload::run(admit).await } else { admit.await }?;
        }
        let asked = match &admitted {
            Some(options) if cx.info.subresource != "proxy" => streams::find(world, cx, &Query::parse(&options::query(options)), &request),
            _ => asked,
        };
        let path = admitted.as_ref().map(options::path);
        match asked? {
            Asked::Nothing => Ok(reply::plain_not_found()),
            Asked::Empty => {
                let mut response = Response::new(crate::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            Asked::Log(what) => {
                let response = log::answer(&what).await?;
                let (mut parts, _) = request.into_parts();
                if websocket::wanted(&parts.headers) { websocket::log(&mut parts, response) } else { Ok(response) }
            }
            Asked::Stream(backend, uri) => streams::answer(&backend, uri, request).await,
            Asked::Forward(backend) => forward::answer(cx, &backend, path.as_deref(), request).await,
        }
    })
}

/// What a request wants, with the backend that has it.
enum Asked {
    /// A path that is not served.
    Nothing,
    /// The log of what has not begun.
    Empty,
    Log(log::Wanted),
    Stream(dial::Backend, Uri),
    Forward(dial::Backend),
}

/// 405 of a method that the subresource does not have.
fn check_method(world: &World, cx: &Context, method: &Method) -> Result<(), Status> {
    let info = &cx.info;
    let Some(row) = world.row(&info.group, &info.version, &info.resource) else { return Ok(()) };
    let Some(known) = row.resource.subresource(&info.subresource) else { return Err(Status::no_such_path()) };
    // OPTIONS has no verb of the API; upstream's proxies take it.
    let options = method == Method::OPTIONS && info.subresource == "proxy";
    if options || known.verbs.iter().any(|v| v == info.verb) { Ok(()) } else { Err(Status::method_not_allowed()) }
}

fn ask(world: &World, cx: &Context, request: &Request<Body>) -> Result<Asked, Status> {
    let info = &cx.info;
    if world.row(&info.group, &info.version, &info.resource).is_none() {
        return Ok(Asked::Nothing);
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "log") => log::find(world, cx, &query),
        ("pods", "exec" | "attach" | "portforward") => streams::find(world, cx, &query, request),
        ("pods" | "services" | "nodes", "proxy") => location::find(world, info).map(Asked::Forward),
        _ => Ok(Asked::Nothing),
    }
}

fn pod(world: &World, cx: &Context) -> Result<Arc<Value>, Status> {
    world.read(PODS, &cx.info.namespace, &cx.info.name)
}

/// An error of the way to a backend that upstream answers without a reason.
fn plain_error(message: String) -> Status {
    Status::new(500, "", message)
}
