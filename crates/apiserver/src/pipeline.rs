//! The path of a request, one stage a line: parse, authenticate, impersonate, authorise, dispatch, answer.
//!
//! Every error of every stage is a [`Status`] and becomes a response in one place ([`handle`]). A panic costs its
//! request a 500 and nobody else anything.

use crate::{
    ApiServer, Body, Context, PeerCertificate, components, discovery, errors, health,
    negotiate::{self, Accepted},
    path::RequestInfo,
    proxy,
    query::Query,
    registry::{self, Call},
    respond::{self, Answer},
    reviews,
    rows::Row,
    subresources, table, websocket,
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use identity::{Attributes, Decision, User};
use machinery::{Value, status::Status};
use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Requests that are answered at the same time, watches and streams not counted. Upstream's limits (400 reading, 200
/// writing) protect its memory; a request here needs a small part of it.
const IN_FLIGHT_MAX: i64 = 2000;
/// Groups whose kinds are questions, answered and not stored.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];
/// Subresources that lead to a kubelet or a workload.
const STREAMS: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];
/// A client may ask for a shorter deadline than the server's, but for at least this much.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Answers a request, whatever it is.
pub(crate) async fn handle(server: &ApiServer, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let uri = request.uri().clone();
    let query = Query::parse(uri.query().unwrap_or_default());
    let info = RequestInfo::parse(request.method(), uri.path(), &query);
    let _ongoing = server.metrics().begin(&info);
    let row = if info.is_resource { server.row(&info.group, &info.version, &info.resource) } else { None };
    let (verb, subresource) = (info.verb, info.subresource.clone());
    let mut accepted = Accepted::default();
    let answered = AssertUnwindSafe(stages(server, request, &query, info, row.as_ref(), &mut accepted));
    let result = answered.catch_unwind().await.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        tracing::error!(path = %uri.path(), why, "a request panicked");
        Err(Status::internal(format!("This request caused apiserver to panic. Look in the logs for details: {why}")))
    });
    let response = result.unwrap_or_else(|status| respond::status(&status, accepted));
    server.metrics().end(row.as_ref(), verb, subresource, response.status().as_u16(), started.elapsed());
    response
}

/// The stages. `accepted` is told before anything can fail in the client's own language.
async fn stages(
    server: &ApiServer,
    request: Request<Body>,
    query: &Query<'_>,
    info: RequestInfo,
    row: Option<&Arc<Row>>,
    accepted: &mut Accepted,
) -> Result<Response<Body>, Status> {
    let now = SystemTime::now();
    let (mut parts, body) = request.into_parts();
    let offered_token = websocket::take_token(&mut parts.headers);
    *accepted = negotiate::accepted(&parts.headers, false).unwrap_or_default();
    let user = authenticate(server, &parts, offered_token.as_deref()).await?;
    let user = impersonate(server, user, &parts.headers)?;
    authorize(server, &user, &info)?;
    let lasts = info.is_long_running();
    if !lasts && server.metrics().in_flight() > IN_FLIGHT_MAX {
        return Err(Status::too_many_requests("Too many requests, please try again later.", 1));
    }
    let cx = Context::new(user, info, header_text(&parts.headers, header::USER_AGENT).to_owned(), now);
    let limit = deadline(server, query)?;
    if lasts {
        return dispatch(server, &cx, parts, body, query, row, accepted).await;
    }
    match tokio::time::timeout(limit, dispatch(server, &cx, parts, body, query, row, accepted)).await {
        Ok(result) => result,
        Err(_) => Err(Status::timeout("Timeout: request did not complete within the allotted timeout")),
    }
}

/// Who asks: a caller in this process, a certificate, a token, or nobody.
async fn authenticate(server: &ApiServer, parts: &Parts, offered_token: Option<&str>) -> Result<Arc<User>, Status> {
    let extensions = &parts.extensions;
    if let Some(user) = extensions.get::<Arc<User>>() {
        return Ok(Arc::clone(user));
    }
    if let Some(user) = extensions.get::<User>() {
        return Ok(Arc::new(user.clone()));
    }
    let authenticator = &server.identity().authenticator;
    if let Some(PeerCertificate(peer)) = extensions.get::<PeerCertificate>() {
        if let Some(user) = peer.user.get() {
            return Ok(Arc::clone(user));
        }
        // A certificate that names nobody leaves the token its turn.
        if let Ok(user) = authenticator.certificate(&peer.der) {
            return Ok(Arc::clone(peer.user.get_or_init(|| Arc::new(user))));
        }
    }
    if let Some(token) = bearer(&parts.headers).or(offered_token) {
        return authenticator.bearer(token).await.map(Arc::new).map_err(|_| Status::unauthorized());
    }
    Ok(server.anonymous())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Acts as another user if the headers ask for it and the real one may (`impersonate` on users, groups, …).
fn impersonate(server: &ApiServer, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let name = headers.get("impersonate-user").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Err(Status::internal("requested impersonation of groups, extra or uid without impersonating a user"));
    }
    let mut wanted = User { name: name.to_owned(), uid: String::new(), groups: Vec::new(), extra: Default::default() };
    let ask = |resource: &str, subresource: &str, namespace: &str, name: &str, group: &str| {
        let info = RequestInfo {
            is_resource: true,
            verb: "impersonate",
            group: group.to_owned(),
            version: "v1".into(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        authorize(server, &user, &info)
    };
    match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => {
            ask("serviceaccounts", "", namespace, account, "")?;
            // An account's groups are known; whoever names groups means those.
            if !headers.contains_key("impersonate-group") {
                wanted.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => ask("users", "", "", name, "")?,
    }
    for group in headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()) {
        ask("groups", "", "", group, "")?;
        wanted.groups.push(group.to_owned());
    }
    if let Some(uid) = headers.get("impersonate-uid").and_then(|v| v.to_str().ok()) {
        ask("uids", "", "", uid, "authentication.k8s.io")?;
        wanted.uid = uid.to_owned();
    }
    for (key, value) in headers {
        if let (Some(extra), Ok(value)) = (key.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            let extra = crate::query::percent_decode(extra).to_lowercase();
            ask("userextras", &extra, "", value, "authentication.k8s.io")?;
            wanted.extra.entry(extra).or_default().push(value.to_owned());
        }
    }
    let general = if name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !wanted.groups.iter().any(|g| matches!(g.as_str(), "system:authenticated" | "system:unauthenticated")) {
        wanted.groups.push(general.into());
    }
    Ok(Arc::new(wanted))
}

/// 403 in upstream's words unless somebody allows it.
pub(crate) fn authorize(server: &ApiServer, user: &Arc<User>, info: &RequestInfo) -> Result<(), Status> {
    let attributes = Attributes {
        user,
        verb: info.verb,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        is_resource: info.is_resource,
    };
    let (decision, reason) = server.identity().authorizer.authorize(&attributes);
    if decision == Decision::Allow {
        return Ok(());
    }
    let mut message = if info.is_resource {
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            sub => format!("{}/{sub}", info.resource),
        };
        let scope = match info.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("User {:?} cannot {} resource {resource:?} in API group {:?} {scope}", user.name, info.verb, info.group)
    } else {
        format!("User {:?} cannot {} path {:?}", user.name, info.verb, info.path)
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(&reason);
    }
    Err(Status::forbidden(&info.group, &info.resource, &info.name, &message))
}

/// The deadline: the server's, or a shorter one of `timeout=`.
fn deadline(server: &ApiServer, query: &Query<'_>) -> Result<Duration, Status> {
    let limit = server.config().request_timeout;
    match query.text("timeout") {
        "" => Ok(limit),
        text => match go_duration(text) {
            Some(wanted) if wanted.is_zero() => Ok(limit),
            Some(wanted) => Ok(wanted.clamp(TIMEOUT_MIN, limit)),
            None => Err(Status::bad_request(format!("invalid timeout specified in the request URL - time: invalid duration {text:?}"))),
        },
    }
}

/// A duration as Go writes it: `1m30s`, `500ms`, `1.5h`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit_s = match rest.get(..unit_len)? {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit_s;
        rest = rest.get(unit_len..)?;
    }
    Duration::try_from_secs_f64(total).ok()
}

async fn dispatch(
    server: &ApiServer,
    cx: &Context,
    mut parts: Parts,
    body: Body,
    query: &Query<'_>,
    row: Option<&Arc<Row>>,
    accepted: &mut Accepted,
) -> Result<Response<Body>, Status> {
    if !cx.info.is_resource {
        return other_path(server, cx, &parts.headers, query, *accepted);
    }
    let Some(row) = row else { return Ok(respond::plain_not_found()) };
    if STREAMS.contains(&cx.info.subresource.as_str()) {
        return proxy::handle(server, cx, Request::from_parts(parts, body)).await;
    }
    let reads = matches!(cx.info.verb, "get" | "list" | "watch") && matches!(cx.info.subresource.as_str(), "" | "status");
    // What is answered and not stored has neither rows nor metadata to show.
    let stored = cx.info.subresource.is_empty() && !REVIEWS.contains(&cx.info.group.as_str());
    *accepted = negotiate::accepted(&parts.headers, reads || stored)?;
    accepted.pretty |= pretty(query, &cx.user_agent);
    accepted.gzip = negotiate::takes_gzip(&parts.headers);
    if let Some(warning) = deprecated(&row.resource.kind) {
        cx.warn(warning);
    }
    let call = Call { server, cx, row, query, headers: &parts.headers, accepted: *accepted };
    let include = table::Include::of(query)?;
    let answer = resource(&call, body).await?;
    let head_only = parts.method == http::Method::HEAD;
    let mut response = respond::answer(row, cx, *accepted, include, answer);
    if cx.info.verb == "watch" && websocket::wanted(&parts.headers) {
        return websocket::watch(&mut parts, response);
    }
    respond::finish(&mut response, &parts.headers, cx.take_warnings());
    if head_only {
        *response.body_mut() = crate::empty();
    }
    Ok(response)
}

/// What the clients of a deprecated kind are told with every answer.
fn deprecated(kind: &machinery::gvk::Gvk) -> Option<&'static str> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}

/// Whether JSON is to be indented: as asked, or for people's own tools.
fn pretty(query: &Query<'_>, user_agent: &str) -> bool {
    let by_hand = ["curl", "Wget", "Mozilla/5.0"];
    query.flag_opt("pretty").unwrap_or_else(|| by_hand.iter().any(|agent| user_agent.starts_with(agent)))
}

/// The verbs of resources and their generic subresources.
async fn resource(call: &Call<'_>, body: Body) -> Result<Answer, Status> {
    let info = &call.cx.info;
    let verb = info.verb;
    if !info.subresource.is_empty() {
        return subresource(call, body).await;
    }
    if !call.row.resource.has_verb(verb) {
        return Err(errors::method_not_supported(call.row, verb));
    }
    match verb {
        "get" if is_component(call) => components::get(call).await,
        "list" if is_component(call) => components::list(call).await,
        "get" => registry::get(call),
        "list" => registry::list(call),
        "watch" => registry::watch(call),
        "create" if REVIEWS.contains(&info.group.as_str()) => {
            let bytes = registry::read_body(body).await?;
            let value = call.decode(&bytes, machinery::json::Validation::Ignore)?;
            let answer = reviews::create(call.server, call.cx, call.row, value).await?;
            Ok(Answer::Object(StatusCode::CREATED, answer))
        }
        "create" if info.resource == "bindings" && info.group.is_empty() => bind(call, body).await,
        "create" => registry::create(call, body).await,
        "update" => registry::update(call, "", body).await,
        "patch" => registry::patch::patch(call, "", body).await,
        "delete" => registry::delete(call, body).await,
        "deletecollection" => registry::delete_collection(call, body).await,
        other => Err(errors::method_not_supported(call.row, other)),
    }
}

/// Whether the kind is one whose objects are found out, not stored.
fn is_component(call: &Call<'_>) -> bool {
    call.row.resource.resource == "componentstatuses" && call.row.resource.group.is_empty()
}

async fn bind(call: &Call<'_>, body: Body) -> Result<Answer, Status> {
    let pods = call.server.row("", "v1", "pods").ok_or_else(|| errors::not_found(call.row, call.name()))?;
    subresources::bind(call, &pods, body).await
}

async fn subresource(call: &Call<'_>, body: Body) -> Result<Answer, Status> {
    let info = &call.cx.info;
    let Some(known) = call.row.resource.subresource(&info.subresource) else {
        return Ok(Answer::Whole(respond::plain_not_found()));
    };
    if !known.verbs.iter().any(|v| v == info.verb) {
        return Err(errors::method_not_supported(call.row, info.verb));
    }
    match (info.subresource.as_str(), info.verb) {
        ("scale", "get") => subresources::scale_get(call),
        ("scale", "update") => subresources::scale_update(call, body).await,
        ("scale", "patch") => subresources::scale_patch(call, body).await,
        ("binding", "create") => bind(call, body).await,
        ("eviction", "create") => subresources::evict(call, body).await,
        ("token", "create") => {
            let bytes = registry::read_body(body).await?;
            let request = machinery::gvk::Gvk { group: "authentication.k8s.io".into(), version: "v1".into(), kind: "TokenRequest".into() };
            let ty = machinery::schema::builtin().kind(&request).ok_or_else(|| Status::internal("the schema lacks TokenRequest"))?;
            let value = call.decode_as(&bytes, ty, machinery::json::Validation::Ignore)?;
            let answer = reviews::token(call.server, call.cx, call.namespace(), call.name(), value).await?;
            Ok(Answer::Other(StatusCode::CREATED, answer))
        }
        (part, verb) if subresources::PARTS.contains(&part) => match verb {
            "get" => registry::get(call),
            "update" => registry::update(call, part, body).await,
            "patch" => registry::patch::patch(call, part, body).await,
            other => Err(errors::method_not_supported(call.row, other)),
        },
        (_, other) => Err(errors::method_not_supported(call.row, other)),
    }
}

/// Everything that is no resource.
fn other_path(server: &ApiServer, cx: &Context, headers: &HeaderMap, query: &Query<'_>, accepted: Accepted) -> Result<Response<Body>, Status> {
    let info = &cx.info;
    if !matches!(info.verb, "get" | "head") {
        return Ok(respond::plain_not_found());
    }
    let path = info.path.as_str();
    if let Some(response) = health::answer(server, path, query) {
        return Ok(response);
    }
    let rows = server.rows();
    if let Some(found) = discovery::answer(&rows, path, headers, &server.address()) {
        return Ok(match found? {
            discovery::Found::Plain(value) => {
                let accepted = Accepted { pretty: pretty(query, &cx.user_agent), ..accepted };
                respond::encoded(StatusCode::OK, accepted, crate::storage::type_of(&value), &value)
            }
            discovery::Found::Whole(response) => response,
        });
    }
    let json = |value: &Value| Ok(respond::respond(StatusCode::OK, negotiate::JSON, serde_json::to_vec_pretty(value).unwrap_or_default()));
    match path {
        "/version" | "/version/" => json(&machinery::resources::version()),
        "/" => json(&serde_json::json!({ "paths": machinery::resources::roots().collect::<Vec<_>>() })),
        "/metrics" => {
            let mut response = respond::respond(StatusCode::OK, negotiate::JSON, server.render_metrics());
            let media = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            respond::finish(&mut response, headers, Vec::new());
            Ok(response)
        }
        "/.well-known/openid-configuration" => json(&server.identity().tokens.openid_configuration()),
        "/openid/v1/jwks" => {
            let mut response = json(&server.identity().tokens.jwks())?;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            Ok(response)
        }
        _ => Ok(crate::openapi::answer(server, path, headers).unwrap_or_else(respond::plain_not_found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        assert_eq!(go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(go_duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(go_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(go_duration("5"), None);
        assert_eq!(go_duration("-1s"), None);
    }
}
