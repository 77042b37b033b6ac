//! `pods/log`: the log of a container, from the kubelet that runs it, as it comes.

use super::{
    Asked,
    dial::{self, Backend},
    forward, items, kubelet, plain_error, pod, text,
};
use crate::{Body, Context, query::Query, world::World};
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use machinery::{
    Value,
    field::{self, ErrorList, Path},
    quote::Quoted,
    status::Status,
};

/// How much of a kubelet's error text is read (upstream's `maxReadLength`).
const ERROR_TEXT_MAX: usize = 50_000;
/// The options that the kubelet is told as they are.
const FLAGS: [&str; 3] = ["follow", "previous", "timestamps"];
/// In the order in which they are judged.
const NUMBERS: [&str; 3] = ["tailLines", "limitBytes", "sinceSeconds"];

/// A log that is asked for.
pub(super) struct Wanted {
    pod: String,
    backend: Backend,
    /// Path and query of the kubelet.
    path: String,
}

/// Finds out which log a GET of `pods/NAME/log` wants.
pub(super) fn find(world: &World, cx: &Context, query: &Query<'_>) -> Result<Asked, Status> {
    let name = cx.info.name.as_str();
    let parameters = parameters(query, name)?;
    let pod = pod(world, cx)?;
    let container = container(&pod, query.text("container"))?;
    let node = text(&pod["spec"], "nodeName");
    if node.is_empty() {
        return Ok(Asked::Empty);
    }
    let backend = kubelet::of_pod(world, node)?;
    let path = format!("/containerLogs/{}/{name}/{container}", cx.info.namespace);
    let path = if parameters.is_empty() { path } else { format!("{path}?{parameters}") };
    Ok(Asked::Log(Wanted { pod: name.to_owned(), backend, path }))
}

/// Brings the log, as it comes.
pub(super) async fn answer(wanted: &Wanted) -> Result<Response<Body>, Status> {
    let Wanted { pod, backend, path } = wanted;
    let told = |error: String| plain_error(format!("Get \"https://{}{path}\": {error}", backend.address));
    let mut sender = dial::connect(backend).await.map_err(told)?;
    let request = Request::get(path).header(header::HOST, backend.address.to_string()).body(crate::empty()).map_err(|e| told(e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|e| told(e.to_string()))?;
    if !(200..=206).contains(&answer.status().as_u16()) {
        return Err(refused(answer, pod).await);
    }
    let mut response = Response::new(forward::boxed(answer.into_body()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The query for the kubelet, checked as upstream's `ValidatePodLogOptions` does.
fn parameters(query: &Query<'_>, name: &str) -> Result<String, Status> {
    let mut errors = ErrorList::new();
    let mut out: Vec<(&str, String)> = Vec::new();
    for flag in FLAGS {
        if query.flag(flag) {
            out.push((flag, "true".into()));
        }
    }
    let since = query.text("sinceTime");
    for key in NUMBERS {
        let Some(number) = query.int(key)? else { continue };
        let (least, detail) = if key == "tailLines" { (0, "must be greater than or equal to 0") } else { (1, "must be greater than 0") };
        if key == "sinceSeconds" && !since.is_empty() {
            errors.push(field::Error::forbidden(&Path::unnamed(), "at most one of `sinceTime` or `sinceSeconds` may be specified"));
        } else if number < least {
            errors.push(field::Error::invalid(&Path::root(key), number, detail));
        }
        out.push((key, number.to_string()));
    }
    if !since.is_empty() {
        machinery::time::parse(since).map_err(Status::bad_request)?;
        out.push(("sinceTime", since.to_owned()));
    }
    // Upstream's gate PodLogsQuerySplitStreams is off by default.
    if query.get("stream").is_some() {
        errors.push(field::Error::forbidden(&Path::root("stream"), "may not be specified"));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", name, errors));
    }
    out.sort();
    let pairs: Vec<String> = out.iter().map(|(k, v)| format!("{k}={}", forward::encode(v))).collect();
    Ok(pairs.join("&"))
}

/// The container that is meant: the one that is named, or the only one.
pub(super) fn container(pod: &Value, named: &str) -> Result<String, Status> {
    let name = text(&pod["metadata"], "name");
    let names = |list: &str| items(&pod["spec"][list]).iter().map(|c| text(c, "name")).collect::<Vec<_>>();
    let (own, init) = (names("containers"), names("initContainers"));
    if !named.is_empty() {
        let known = own.contains(&named) || init.contains(&named) || names("ephemeralContainers").contains(&named);
        return if known { Ok(named.to_owned()) } else { Err(Status::bad_request(format!("container {named} is not valid for pod {name}"))) };
    }
    match own.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => {
            let all: Vec<&str> = init.iter().chain(&own).copied().chain(names("ephemeralContainers")).collect();
            Err(Status::bad_request(format!("a container name must be specified for pod {name}, choose one of: [{}]", all.join(" "))))
        }
    }
}

/// A kubelet's refusal in the API's words.
async fn refused(answer: Response<Incoming>, name: &str) -> Status {
    let code = answer.status().as_u16();
    let body = forward::read(answer.into_body(), ERROR_TEXT_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body).into_owned();
    let about = |message: &str| format!("{message} ( pods/log {name})");
    match code {
        500 => Status::internal(text),
        400 => Status::bad_request(text),
        401 => Status::new(401, "Unauthorized", about("the server has asked for the client to provide credentials")),
        403 => Status::new(403, "Forbidden", about(&text)),
        404 => Status::new(404, "NotFound", about("the server could not find the requested resource")),
        405 => Status::new(405, "MethodNotAllowed", about("the server does not allow this method on the requested resource")),
        503 if text.is_empty() => Status::service_unavailable(about("the server is currently unable to handle the request")),
        503 => Status::service_unavailable(about(&text)),
        504 => Status::timeout(about("the server was unable to return a response in the time allotted, but may still be processing the request")),
        501.. => Status::new(code, "InternalError", about(&format!("an error on the server ({}) has prevented the request from succeeding", Quoted(&text)))),
        _ => Status::new(code, "", about(&format!("the server responded with the status code {code} but did not return more information"))),
    }
}
