//! The path of a request, one stage a line: parse, authenticate, impersonate, authorise, dispatch, answer.
//!
//! Every error of every stage is a [`Status`] and becomes a response in one place ([`handle`]). A panic costs its
//! request a 500 and nobody else anything.

use crate::{
    ApiServer, Body, Context, access,
    aggregation::{
        Answered,
        forward::{self, Passed},
    },
    astray,
    body::{self, Ahead, Holding, Measured},
    components, consumption, conversion, debug, discovery, errors,
    gate::{
        flows::{Flow, IN_FLIGHT_MAX},
        policies::SMALL_BYTES,
    },
    gzip, health,
    impersonation::impersonate,
    metrics::{self, Became, Counted},
    negotiate::{self, Accept, Accepted, Encoding, Form, Offered},
    offload::{self, Finish, GivenUp, Work},
    path::{RequestInfo, STREAMS},
    proxy,
    query::{self, Query},
    registry::{self, Call},
    reply::{self, Fate},
    respond::{self, Answer},
    reviews,
    rows::Row,
    storage, subresources, table, websocket,
    world::World,
    zpages,
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use identity::User;
use machinery::{Value, status::Status, time};
use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Groups whose kinds are questions, answered and not stored.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];
/// Within less than this nothing is answered, as the original's clock is read some times before it looks for anything.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Answers a request, whatever it is.
pub(crate) async fn handle(server: &ApiServer, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let uri = request.uri().clone();
    if !query::is_escaped_well(uri.path()) {
        return reply::plain_bad_request("");
    }
    let query = Query::parse(uri.query().unwrap_or_default());
    let info = RequestInfo::parse(request.method(), uri.path(), &query);
    if info.is_cut {
        body::drain(request.into_body());
        return reply::no_request_info(&uri);
    }
    let row = if info.is_resource { server.row(&info.group, &info.version, &info.resource) } else { None };
    let (verb, counted) = (info.verb, Counted::of(&info, row.as_ref(), &query, request.headers()));
    let metrics = server.world().metrics();
    let last = info.is_long_running().then(|| metrics.last(row.as_ref(), counted.clone()));
    let _ongoing = last.is_none().then(|| metrics.begin(&info));
    let (mut accepted, mut flow) = (Accepted::default(), None);
    let ahead = Ahead::of(&request);
    let (parts, body) = request.into_parts();
    // What nobody has read to its end when the answer is there is still here.
    let mut body = Some(body);
    let answered = AssertUnwindSafe(stages(server, parts, &mut body, &query, info, row.as_ref(), (&mut accepted, &mut flow)));
    let result = answered.catch_unwind().await.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        tracing::error!(path = %uri.path(), why, "a request panicked");
        Err(Status::internal(format!("This request caused apiserver to panic. Look in the logs for details: {why}")))
    });
    let mut response = result.unwrap_or_else(|status| respond::status(&status, accepted));
    // Whoever answers says otherwise, or this is what is said; a connection that speaks otherwise from here on is no answer to keep.
    if !reply::is_bare(&response) {
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        if reply::is_written(&response) {
            flow.take().into_iter().for_each(|flow: Flow| flow.tell(response.headers_mut()));
        }
    }
    // What was taken for executed is over with its answer, also if that is not told of it.
    drop(flow);
    if let Some(rest) = body {
        if body::ends_connection(&rest, ahead, response.status()) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        body::drain(rest);
    }
    if server.verbosity().of_requests() {
        // Whoever asks for it wants to see it, whatever else is shown.
        tracing::warn!(verb, uri = %uri, latency = ?started.elapsed(), resp = response.status().as_u16(), "HTTP");
    }
    let fate = response.extensions().get::<Fate>().copied();
    if fate != Some(Fate::Unheard) {
        let bytes = response.body().size_hint().exact().filter(|_| counted.is_read() && last.is_none());
        let (code, is_ended) = (response.status().as_u16(), fate == Some(Fate::Ended));
        let is_deprecated = row.as_ref().is_some_and(|row| deprecation(row).is_some());
        metrics.end(row.as_ref(), counted.clone(), Became { code, took: started.elapsed(), bytes, is_ended, is_deprecated });
    }
    match last {
        Some(last) => response.map(|body| Holding::new(body, last).boxed_unsync()),
        None => measured(server, row, counted, response),
    }
}

/// What is written as it is made is measured when it has been sent.
fn measured(server: &ApiServer, row: Option<Arc<Row>>, counted: Counted, response: Response<Body>) -> Response<Body> {
    if !counted.is_read() || response.body().size_hint().exact().is_some() {
        return response;
    }
    let (server, code) = (server.clone(), response.status().as_u16());
    response.map(|body| Measured::new(body, move |bytes| server.world().metrics().sized(row.as_ref(), counted, code, bytes)).boxed_unsync())
}

/// The stages. `accepted` is told before anything can fail in the client's own language, `flow` as soon as it is known who asks.
async fn stages(
    server: &ApiServer,
    mut parts: Parts,
    body: &mut Option<Body>,
    query: &Query<'_>,
    info: RequestInfo,
    row: Option<&Arc<Row>>,
    (accepted, flow): (&mut Accepted, &mut Option<Flow>),
) -> Result<Response<Body>, Status> {
    let now = SystemTime::now();
    let offered_token = websocket::take_token(&mut parts.headers);
    // The header is read once, whoever moves the rest of the request.
    let header = parts.headers.get(header::ACCEPT).cloned();
    let accept = Accept::of(header.as_ref());
    *accepted = accept.told();
    accepted.pretty |= pretty(query, header_text(&parts.headers, header::USER_AGENT));
    let lasts = info.is_long_running();
    let limit = if lasts { server.config().request_timeout } else { deadline(server, query)? };
    let (counts, begun) = (server.world().metrics().stages(), Instant::now());
    let asking = access::authenticate(server.world(), &parts, offered_token.as_deref(), now).await;
    counts.authenticated(asking.as_ref().ok().map(|asking| asking.user.name.as_str()), begun.elapsed());
    let asking = match asking {
        Ok(asking) => asking,
        Err(status) => return Ok(reply::fated(Fate::Unheard, respond::status(&status, *accepted))),
    };
    let user = impersonate(server.world(), asking.user, &info, &parts.headers);
    let is_full = !lasts && server.world().metrics().in_flight() + server.given_up().count() > IN_FLIGHT_MAX;
    // What lasts is of no flow, but for a watch, which begins like any other question.
    if let Ok(user) = &user
        && (!lasts && info.verb != "proxy" || info.verb == "watch")
    {
        *flow = server.world().gate().flows.of(user, &info, is_full);
    }
    // As upstream has it: behind whom he may be, and before what he may.
    if is_full && user.is_ok() {
        let status = Status::too_many_requests("Too many requests, please try again later.", 1);
        return Ok(reply::fated(Fate::Ended, respond::status(&status, *accepted)));
    }
    let allowed = |user: Arc<User>| {
        let begun = Instant::now();
        let allowed = access::authorize(server.world(), &user, &info);
        counts.authorized(allowed.is_ok(), begun.elapsed());
        allowed.map(|()| user)
    };
    let user = match user.and_then(allowed) {
        Ok(user) => user,
        Err(status) => return Ok(denied(&status, *accepted, asking.warning)),
    };
    let cx = Arc::new(Context::new(user, info, user_agent(&parts.headers), now).within(limit));
    asking.warning.into_iter().for_each(|warning| cx.warn(warning));
    let until = (!lasts).then(|| tokio::time::Instant::now() + limit);
    let work = async {
        match server.aggregation().of(&cx.info) {
            Some(remote) => Ok(forward::answer(server.world(), &remote, Passed::new(&cx, parts, until), body).await),
            None => dispatch(server, &cx, parts, body, query, row, (&accept, *accepted)).await,
        }
    };
    let result = match lasts {
        true => work.await,
        // What is over before it has begun is not begun.
        false if limit < TIMEOUT_MIN => return Ok(reply::timed_out()),
        false => match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => return Ok(reply::timed_out()),
        },
    };
    let mut response = result.unwrap_or_else(|status| respond::status(&status, *accepted));
    // A refusal carries the warnings that came before it; who answers without looking at them leaves them to be told here.
    if !reply::is_bare(&response) {
        reply::warn(&mut response, cx.take_warnings());
    }
    Ok(response)
}

/// Who may not do it, or be whom he says, is told with the header that keeps browsers from taking a name in it for a page.
fn denied(status: &Status, accepted: Accepted, warning: Option<&str>) -> Response<Body> {
    let mut response = respond::status(status, accepted);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply::warn(&mut response, warning.map(str::to_owned).into_iter().collect());
    reply::fated(Fate::Unheard, response)
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// What a client says that it is, in whatever letters: who writes is known by it.
fn user_agent(headers: &HeaderMap) -> String {
    String::from_utf8_lossy(headers.get(header::USER_AGENT).map_or(&[][..], |agent| agent.as_bytes())).into_owned()
}

/// The deadline: the server's, or a shorter one of `timeout=`.
fn deadline(server: &ApiServer, query: &Query<'_>) -> Result<Duration, Status> {
    let limit = server.config().request_timeout;
    match query.text("timeout") {
        "" => Ok(limit),
        text => match time::parse_go_duration(text) {
            // A time that is over is as good as none, as upstream has it.
            Ok(wanted) if wanted <= 0 => Ok(limit),
            Ok(wanted) => Ok(Duration::from_nanos(wanted.unsigned_abs()).min(limit)),
            Err(why) => Err(Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))),
        },
    }
}

async fn dispatch(
    server: &ApiServer,
    cx: &Arc<Context>,
    mut parts: Parts,
    body: &mut Option<Body>,
    query: &Query<'_>,
    row: Option<&Arc<Row>>,
    (accept, accepted): (&Accept<'_>, Accepted),
) -> Result<Response<Body>, Status> {
    if !cx.info.is_resource {
        if let Some(response) = debug::answer(server, cx, &parts, body).await? {
            return Ok(response);
        }
        return other_path(server, cx, parts, accepted).await;
    }
    if cx.info.is_odd {
        return astray::no_route(server, &cx.info, row);
    }
    let unserved = row.is_none_or(|row| row.custom.is_some() && !is_scoped(row, &cx.info));
    let Some(row) = row.filter(|_| !unserved) else { return astray::nowhere(server, &cx.info.path) };
    // Who cannot ask the definition's webhook serves nothing of it, in whatever version.
    if row.custom.as_ref().and_then(|custom| custom.family.webhook.as_ref()).is_some_and(|webhook| !webhook.is_usable()) {
        return Err(Status::internal(conversion::UNUSABLE));
    }
    // What follows a part is the part's own to read, or no path.
    let follows = cx.info.subresource != "proxy" && !cx.info.tail.trim_matches('/').is_empty();
    if row.custom.is_none() && (cx.info.verb == "proxy" || follows || !has_path(row, &cx.info)) {
        return Err(Status::no_such_path());
    }
    if row.custom.is_none() && STREAMS.contains(&cx.info.subresource.as_str()) {
        if parts.method == http::Method::HEAD && cx.info.subresource != "proxy" && row.resource.subresource(&cx.info.subresource).is_some() {
            return Err(Status::method_not_allowed());
        }
        if cx.info.subresource == "log" && parts.method == http::Method::GET {
            accept.produces(&[&["text/plain"][..], &negotiate::ALL].concat())?;
            accept.streamed()?;
        }
        registry::placed(row, &cx.info.namespace, proxy::object_of(&cx.info))?;
        return proxy::handle(server.world(), cx, Request::from_parts(parts, body::passed(body.take()))).await;
    }
    let reads = matches!(cx.info.verb, "get" | "list" | "watch");
    let forms = match cx.info.subresource.as_str() {
        "" => reads,
        "scale" => true,
        // Of definitions and of APIServices upstream's storage of the status makes no rows.
        "status" => !matches!(cx.info.group.as_str(), "apiextensions.k8s.io" | "apiregistration.k8s.io"),
        _ => false,
    };
    // What is answered and not stored has no rows to show.
    let stored = cx.info.subresource.is_empty() && !REVIEWS.contains(&cx.info.group.as_str());
    if row.custom.is_none() && !cx.info.subresource.is_empty() && row.resource.subresource(&cx.info.subresource).is_none() {
        return Err(Status::no_such_path());
    }
    // What tells of the server itself is to be had by HEAD, and custom resources, which upstream routes by themselves.
    let bodiless = parts.method == http::Method::HEAD;
    if row.custom.is_none() && (bodiless || cx.info.verb == "watch" && parts.method != http::Method::GET) {
        return Err(Status::method_not_allowed());
    }
    // Where no route leads nobody asks what is accepted, and nothing is told of the kind. A list is where a watch is asked for.
    let leads = row.custom.is_some() || cx.info.verb == "watch" && row.resource.has_verb("list") || is_served(row, &cx.info);
    if !leads {
        return Err(Status::method_not_allowed());
    }
    if let Some(warning) = deprecation(row) {
        cx.warn(warning);
    }
    check_route(row, &cx.info, &parts.headers)?;
    let streams = matches!(cx.info.verb, "list" | "watch");
    let mut served = accept.accepted(Offered { forms: forms || stored, metadata: true, streams, protobuf: row.has_messages() })?;
    served.pretty |= pretty(query, &cx.user_agent);
    served.gzip = negotiate::names_gzip(&parts.headers);
    astray::check_name(&cx.info)?;
    let socket = (cx.info.verb == "watch" && websocket::wanted(&parts.headers)).then(|| parts.headers.clone());
    let asked = Asked {
        world: server.world().clone(),
        given_up: server.given_up().clone(),
        cx: Arc::clone(cx),
        row: Arc::clone(row),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: std::mem::take(&mut parts.headers),
        accepted: served,
    };
    let response = if reads { asked.read().await? } else { asked.write(body).await? };
    if bodiless {
        return Ok(response.map(|_| crate::empty()));
    }
    if let Some(headers) = socket {
        parts.headers = headers;
        return websocket::watch(&mut parts, response);
    }
    Ok(response)
}

/// A request for a resource that has been let in, with everything that its answer needs: owned, so that it can be worked on
/// elsewhere and go on when its client is gone.
struct Asked {
    world: World,
    given_up: GivenUp,
    cx: Arc<Context>,
    row: Arc<Row>,
    query: String,
    headers: HeaderMap,
    accepted: Accepted,
}

impl Asked {
    async fn answer(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let query = Query::parse(&self.query);
        let call = Call { world: &self.world, cx: &self.cx, row: &self.row, query: &query, headers: &self.headers, accepted: self.accepted };
        let answer = resource(&call, body).await?;
        let tells = match (self.cx.info.verb, &answer) {
            ("get" | "list" | "deletecollection", _) => true,
            ("create" | "update" | "patch" | "delete", Answer::Stored(..) | Answer::Object(..)) => true,
            ("create" | "update" | "patch", Answer::Other(_, value)) => respond::has_metadata(value),
            _ => false,
        };
        if tells
            && matches!(self.accepted.form, Form::Partial(_))
            && let Err(status) = check_number(&self.row, &self.cx.info, self.accepted.many)
        {
            return Err(status);
        }
        let include = table::Include::of_form(self.accepted.form, &query)?;
        let mut response = respond::answer(&self.row, &self.cx, self.accepted, include, answer);
        reply::finish(&mut response, &self.headers, self.cx.take_warnings());
        Ok(response)
    }

    async fn read(self) -> Result<Response<Body>, Status> {
        let heavy = self.is_heavy(0);
        // Boxed at once: a future within others is moved with each of them.
        let work = Box::pin(async move { self.answer(&Bytes::new()).await });
        if heavy { offload::run(work).await } else { work.await }
    }

    /// Writes are finished once they have begun: what belongs to a commit is not cut from it because a client hangs up or
    /// its time is over. The body has been read before, so nobody holds a write up who sends slowly.
    async fn write(self, body: &mut Option<Body>) -> Result<Response<Body>, Status> {
        if !self.is_served() {
            return self.answer(&Bytes::new()).await;
        }
        match self.cx.info.verb {
            // The options of an update come before what it is written in.
            "create" => drop(negotiate::content(&self.headers)?),
            "patch" => drop(registry::patch::Kind::of(&self.headers, &self.row)?),
            _ => {}
        }
        let body = body::read(body).await?;
        let resource = &self.row.resource;
        let verb = if self.cx.info.verb == "deletecollection" { "delete" } else { self.cx.info.verb };
        self.world.metrics().stages().body(&resource.group, &resource.resource, verb, body.len());
        let heavy =
            self.is_heavy(body.len()) || self.row.strategy.judges_at_length() || self.world.gate().is_heavy(&resource.resource, self.is_small(&body)).await;
        let (given_up, cx) = (self.given_up.clone(), Arc::clone(&self.cx));
        let work = Box::pin(async move { self.answer(&body).await });
        let work: Work<_> = if heavy { Box::pin(offload::run(work)) } else { work };
        Finish::new(work, given_up, move || cx.give_up()).await
    }

    /// Whether the resource has the verb; if not, nothing needs to be read to say so.
    fn is_served(&self) -> bool {
        is_served(&self.row, &self.cx.info)
    }

    /// Whether the answer may take more than a moment: by the size of the body, of the object, or of the list.
    fn is_heavy(&self, body_bytes: usize) -> bool {
        let info = &self.cx.info;
        let as_it_lies = self.accepted.form == Form::Object && self.accepted.encoding == Encoding::Json && !self.accepted.pretty && !self.accepted.gzip;
        body_bytes >= offload::INLINE_BYTES_MAX
            || self.row.is_uncompiled()
            || match info.verb {
                "list" | "deletecollection" => self.list_is_heavy(),
                // One that goes on from a revision has no initial state to find; but before it is known of all objects that they can be read, each
                // is looked at.
                "watch" => {
                    let query = Query::parse(&self.query);
                    let initial = matches!(query.text("resourceVersion"), "" | "0") || query.flag("sendInitialEvents");
                    let is_settled = self.row.custom.as_ref().is_none_or(|custom| custom.family.is_settled());
                    (initial || !is_settled) && self.list_is_heavy()
                }
                "get" if as_it_lies && self.row.reader().is_none() => false,
                _ if info.name.is_empty() => false,
                _ => self.bytes_there() >= offload::INLINE_BYTES_MAX,
            }
    }

    /// Bytes of JSON of the object that the request names; 0 if there is none.
    fn bytes_there(&self) -> usize {
        let info = &self.cx.info;
        let namespace = if self.row.resource.namespaced { info.namespace.as_str() } else { "" };
        let entry = storage::get(self.world.store(), &self.row, &self.row.resource.key(namespace, &info.name));
        entry.map_or(0, |entry| entry.json.len())
    }

    /// Whether what is written, and what there is before it, is known to be small.
    fn is_small(&self, body: &[u8]) -> bool {
        let info = &self.cx.info;
        body.len() <= SMALL_BYTES
            && !may_grow(negotiate::media(&self.headers, header::CONTENT_TYPE).unwrap_or_default(), body)
            && match info.verb {
                "create" => info.subresource.is_empty(),
                "update" | "patch" | "delete" => self.bytes_there() <= SMALL_BYTES,
                _ => false,
            }
    }

    fn list_is_heavy(&self) -> bool {
        if storage::count(self.world.store(), &self.row) >= offload::INLINE_OBJECTS_MAX {
            return true;
        }
        let Some(snapshot) = storage::snapshot(self.world.store(), &self.row, None) else { return true };
        let bytes: usize = snapshot.range(&self.row.root_key, "").map(|entry| entry.json.len()).sum();
        bytes >= offload::INLINE_LIST_BYTES_MAX
    }
}

fn is_served(row: &Row, info: &RequestInfo) -> bool {
    match info.subresource.as_str() {
        "" => row.resource.has_verb(info.verb) && (row.custom.is_some() || is_placed(row, info)),
        name => row.resource.subresource(name).is_some_and(|known| known.verbs.iter().any(|v| v == info.verb)),
    }
}

/// What upstream looks at before it looks at what is accepted: of custom resources whether anything answers there, of patches of what type they are.
fn check_route(row: &Arc<Row>, info: &RequestInfo, headers: &HeaderMap) -> Result<(), Status> {
    let custom = row.custom.is_some();
    match row.resource.subresource(&info.subresource) {
        _ if !custom => {}
        None if !info.subresource.is_empty() => return Err(errors::not_found(row, &info.name)),
        Some(known) if !known.verbs.iter().any(|verb| verb == info.verb) => return Err(errors::unsupported(row, info.verb)),
        None if matches!(info.verb, "" | "proxy") => return Err(errors::unsupported(row, info.verb)),
        _ => {}
    }
    if info.verb == "patch" && is_served(row, info) {
        registry::patch::Kind::of(headers, row)?;
    }
    match custom && info.name.is_empty() && matches!(info.verb, "update" | "patch") {
        true => Err(Status::bad_request("name must be provided")),
        false => Ok(()),
    }
}

/// Whether what a body says may be much more than its bytes: a JSON patch copies what there is, an alias of YAML what stands before it.
fn may_grow(media: &str, body: &[u8]) -> bool {
    let media = media.to_ascii_lowercase();
    media == "application/json-patch+json" || media.ends_with("yaml") && body.contains(&b'*')
}

/// Metadata is asked for as that of one or of many, as the answer is.
fn check_number(row: &Row, info: &RequestInfo, asked_many: bool) -> Result<(), Status> {
    let many = matches!(info.verb, "list" | "deletecollection");
    let is_scale = info.subresource == "scale";
    let kind = if many { &row.list_kind } else { &row.resource.kind.kind };
    let go_type = match (row.custom.is_some(), many) {
        (true, _) if is_scale => "*v1.Scale".to_owned(),
        (false, _) if is_scale => "*autoscaling.Scale".to_owned(),
        (true, true) => "*unstructured.UnstructuredList".to_owned(),
        (true, false) => "*unstructured.Unstructured".to_owned(),
        (false, false) if info.subresource == "token" => "*authentication.TokenRequest".to_owned(),
        (false, _) => format!("*{}.{kind}", registry::package(&row.resource.group)),
    };
    let why = match (asked_many, many) {
        (false, true) => format!("you requested PartialObjectMetadata, but the requested object is a list ({go_type})"),
        (true, false) => format!("you requested PartialObjectMetadataList, but the requested object is not a list ({go_type})"),
        _ => return Ok(()),
    };
    // Of an object without a Go type upstream finds out too late that it is none.
    Err(if row.custom.is_some() && asked_many && !is_scale { Status::new(500, "", "content is not a list") } else { Status::new(406, "NotAcceptable", why) })
}

/// What the clients of what is going away are told with every answer.
fn deprecation(row: &Row) -> Option<&str> {
    let custom = row.custom.as_ref().and_then(|custom| custom.deprecation.as_deref());
    custom.or_else(|| deprecated(&row.resource.kind))
}

/// Of the server's own kinds.
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
    match query.text("pretty") {
        "" => by_hand.iter().any(|agent| user_agent.starts_with(agent)),
        said => matches!(said, "1" | "t" | "T" | "true" | "True" | "TRUE"),
    }
}

/// The verbs of resources and their generic subresources.
async fn resource(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let info = &call.cx.info;
    let verb = info.verb;
    if !info.subresource.is_empty() {
        return subresource(call, body).await;
    }
    let custom = call.row.custom.is_some();
    let is_nowhere = call.row.resource.namespaced && info.namespace.is_empty() && !info.is_blank;
    if !custom && is_nowhere && !info.name.is_empty() && !matches!(verb, "list" | "watch") {
        return Err(Status::no_such_path());
    }
    if verb == "watch" && !call.row.resource.has_verb(verb) && call.row.resource.has_verb("list") {
        // It is read as a list is, before anybody finds that there is no watch.
        registry::Selectors::of(call.query, call.row)?;
        return Err(errors::unsupported(call.row, verb));
    }
    if !call.row.resource.has_verb(verb) || !custom && !is_placed(call.row, info) {
        return Err(Status::method_not_allowed());
    }
    match verb {
        "get" if consumption::is_its(call.row) => consumption::get(call).await,
        "list" if consumption::is_its(call.row) => consumption::list(call).await,
        "get" if is_component(call) => components::get(call).await,
        "list" if is_component(call) => components::list(call).await,
        "get" => registry::get(call).await,
        "list" => registry::list(call).await,
        "watch" => registry::watch(call).await,
        "create" if REVIEWS.contains(&info.group.as_str()) => {
            let options = registry::WriteOptions::of(call, "CreateOptions")?;
            let mut value = call.decode(body, options.validation)?;
            let now = machinery::time::rfc3339(call.cx.now);
            let row = call.row;
            reviews::settle(row, call.namespace(), &mut value)?;
            let none = machinery::apply::FieldSet::default();
            machinery::apply::track_update(row.ty(), None, &mut value, &options.manager, &row.api_version, "", &now, &none);
            let answer = reviews::create(call.world, call.cx, call.row, value).await?;
            Ok(Answer::Object(StatusCode::CREATED, answer))
        }
        "create" if info.resource == "bindings" && info.group.is_empty() => bind(call, body).await,
        "create" => registry::create(call, body).await,
        "update" => registry::update(call, "", body).await,
        "patch" => registry::patch::patch(call, "", body).await,
        "delete" => registry::delete(call, body).await,
        "deletecollection" => registry::delete_collection(call, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Whether the kind is one whose objects are found out, not stored.
fn is_component(call: &Call<'_>) -> bool {
    call.row.resource.resource == "componentstatuses" && call.row.resource.group.is_empty()
}

/// Whether the path has a name where the verb wants one (what is made has none yet, what is changed has), and a namespace: of
/// all namespaces at once objects can be listed alone.
fn is_placed(row: &Row, info: &RequestInfo) -> bool {
    if row.resource.namespaced && info.namespace.is_empty() && !info.is_blank && !matches!(info.verb, "list" | "watch") {
        return false;
    }
    match info.verb {
        "create" => info.name.is_empty(),
        "update" | "patch" => !info.name.is_empty(),
        _ => true,
    }
}

/// Whether a path of a kind of the program's own leads to any verb: where none does, upstream has no such path.
fn has_path(row: &Row, info: &RequestInfo) -> bool {
    let resource = &row.resource;
    // The name of a list is that of its field selector; that of a watch of old stands in its path.
    let named = !info.name.is_empty() && (info.is_of_old || !matches!(info.verb, "list" | "watch"));
    let any = |verbs: &[&str]| verbs.iter().any(|verb| resource.has_verb(verb));
    match resource.namespaced {
        true if info.namespace.is_empty() && !info.is_blank => {
            let verb = if info.is_of_old { "watch" } else { "list" };
            !named && info.subresource.is_empty() && resource.has_verb(verb)
        }
        false if (!info.namespace.is_empty() || info.is_blank) && resource.resource != "namespaces" => false,
        _ if info.is_of_old && info.verb == "watch" && !resource.has_verb("watch") => false,
        // Of old an object was watched, and no part of it.
        _ if !info.subresource.is_empty() => !info.is_of_old || info.verb != "watch",
        _ if named => any(&["get", "update", "patch", "delete"]),
        _ => any(&["list", "create", "deletecollection"]),
    }
}

/// Whether a request for a custom resource has a namespace where its objects have one. Upstream passes what has not on to those
/// who might serve it, and nobody does.
fn is_scoped(row: &Row, info: &RequestInfo) -> bool {
    match row.resource.namespaced {
        true => !info.namespace.is_empty() || matches!(info.verb, "list" | "watch"),
        false => info.namespace.is_empty(),
    }
}

async fn bind(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let pods = call.world.row("", "v1", "pods").ok_or_else(|| errors::not_found(call.row, call.name()))?;
    subresources::bind(call, &pods, body).await
}

async fn subresource(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let info = &call.cx.info;
    let Some(known) = call.row.resource.subresource(&info.subresource) else {
        return Err(if call.row.custom.is_some() { errors::not_found(call.row, call.name()) } else { Status::no_such_path() });
    };
    if !known.verbs.iter().any(|v| v == info.verb) {
        return Err(if call.row.custom.is_some() { errors::unsupported(call.row, info.verb) } else { Status::method_not_allowed() });
    }
    if info.verb == "create" && call.namespace().is_empty() {
        registry::placed(call.row, "", call.name())?;
    }
    match (info.subresource.as_str(), info.verb) {
        ("scale", "get") => subresources::scale_get(call).await,
        ("scale", "update") => subresources::scale_update(call, body).await,
        ("scale", "patch") => subresources::scale_patch(call, body).await,
        ("binding", "create") => bind(call, body).await,
        ("eviction", "create") => subresources::evict(call, body).await,
        ("token", "create") => reviews::token(call, body).await,
        (part, verb) if subresources::PARTS.contains(&part) => match verb {
            "get" => registry::get(call).await,
            "update" => registry::update(call, part, body).await,
            "patch" => registry::patch::patch(call, part, body).await,
            _ => Err(Status::method_not_allowed()),
        },
        _ => Err(Status::method_not_allowed()),
    }
}

/// Everything that is no resource. Documents are made when they are asked for, some of them of the whole schema.
async fn other_path(server: &ApiServer, cx: &Arc<Context>, parts: Parts, accepted: Accepted) -> Result<Response<Body>, Status> {
    const MADE: [&str; 3] = ["/openapi/", "/api", "/metrics"];
    let parts = match described_elsewhere(server, cx, parts).await {
        Ok(response) => return Ok(response),
        Err(parts) => parts,
    };
    if !MADE.iter().any(|prefix| cx.info.path.starts_with(prefix)) {
        return document(server, cx, &parts, accepted);
    }
    let (server, cx) = (server.clone(), Arc::clone(cx));
    offload::call(move || document(&server, &cx, &parts, accepted)).await
}

/// An OpenAPI document with which another server has something to do; the request again if none has.
async fn described_elsewhere(server: &ApiServer, cx: &Arc<Context>, parts: Parts) -> Result<Response<Body>, Parts> {
    if !cx.info.path.starts_with("/openapi/") || !matches!(cx.info.verb, "get" | "head") || !server.aggregation().describes() {
        return Err(parts);
    }
    let (asked, path, headers) = (server.clone(), cx.info.path.clone(), parts.headers.clone());
    let answered = offload::call(move || asked.aggregation().described(&asked.rows(), &path, &headers)).await;
    match answered {
        None => Err(parts),
        Some(Answered::Here(response)) => Ok(response),
        Some(Answered::By(remote)) => Ok(forward::answer(server.world(), &remote, Passed::new(cx, parts, None), &mut None).await),
    }
}

fn document(server: &ApiServer, cx: &Context, parts: &Parts, accepted: Accepted) -> Result<Response<Body>, Status> {
    let (headers, query) = (&parts.headers, &Query::parse(parts.uri.query().unwrap_or_default()));
    let accept = &Accept::read(headers);
    let info = &cx.info;
    let path = info.path.as_str();
    // The original's handlers of these look at no method.
    if let Some(response) = health::answer(server, path, query) {
        return Ok(response);
    }
    let rows = server.rows();
    if let Some(response) = zpages::answer(path, &rows, server.config(), server.world().metrics().started(), accept, accepted) {
        return Ok(response);
    }
    if info.verb != "get" && discovery::is_routed(&rows, path) {
        return Err(Status::method_not_allowed());
    }
    let path = astray::without_slashes_behind(&rows, path);
    // What is below this path is one name, whatever it is.
    if path.contains("//") && !path.starts_with("/openapi/v3/") {
        return astray::nowhere(server, path);
    }
    if path != discovery::GROUPS_BESIDE
        && let Some(response) = server.aggregation().aggregated(&rows, path, headers, accept)
    {
        return Ok(response);
    }
    let elsewhere = server.aggregation().plain(&rows, path, accept).map(|value| discovery::plain(accept, value));
    if let Some(found) = elsewhere.or_else(|| discovery::answer(&rows, path, headers, accept, &server.world().address())) {
        return Ok(match found? {
            discovery::Found::Plain(value) => {
                let accepted = Accepted { pretty: pretty(query, &cx.user_agent), ..accepted };
                respond::said(accepted, crate::storage::type_of(&value), &value)
            }
            discovery::Found::Whole(response) => response,
        });
    }
    let info = machinery::schema::builtin().named("io.k8s.apimachinery.pkg.version.Info");
    let json_as = |ty, value: &Value| {
        let text = machinery::json::indented(&machinery::json::encode_as(ty, value));
        Ok(reply::respond(StatusCode::OK, negotiate::JSON, text))
    };
    let json = |value: &Value| json_as(None, value);
    match path {
        "/version" | "/version/" => {
            accept.produces(&[negotiate::JSON])?;
            json_as(info, &machinery::resources::version())
        }
        "/" | "/index.html" => {
            let all: BTreeSet<String> = discovery::paths(&rows).into_iter().chain(server.aggregation().paths()).collect();
            json(&serde_json::json!({ "paths": all }))
        }
        "/metrics" | "/metrics/slis" if cx.info.verb == "delete" => {
            server.world().metrics().reset();
            let mut response = reply::respond(StatusCode::OK, negotiate::JSON, "metrics reset\n");
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Ok(response)
        }
        "/metrics" | "/metrics/slis" => {
            let world = server.world();
            let text = if path == "/metrics" { world.render_metrics(server.given_up().count()) } else { world.metrics().checks() };
            let text = metrics::only(text, query);
            // Whoever scrapes has it packed, however little it is.
            let packed = negotiate::takes_gzip(headers).then(|| gzip::whole(text.as_bytes())).and_then(Result::ok);
            let is_packed = packed.is_some();
            let mut response = reply::respond(StatusCode::OK, negotiate::JSON, packed.unwrap_or_else(|| text.into_bytes()));
            let out = response.headers_mut();
            out.insert(header::CONTENT_TYPE, HeaderValue::from_static(metrics::media(headers)));
            // Who scrapes sees by it that counters have begun anew.
            let began = world.metrics().started().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            out.insert("process-start-time-unix", began.as_secs().into());
            if is_packed {
                out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            Ok(response)
        }
        "/.well-known/openid-configuration" | "/.well-known/openid-configuration/" => {
            accept.produces(&[negotiate::JSON])?;
            let text = machinery::json::encode(&server.identity().tokens.openid_configuration(&server.world().address()));
            Ok(kept_an_hour(reply::respond(StatusCode::OK, negotiate::JSON, text)))
        }
        "/openid/v1/jwks" | "/openid/v1/jwks/" => {
            accept.produces(&["application/jwk-set+json"])?;
            let mut response = json(&server.identity().tokens.jwks())?;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            Ok(kept_an_hour(response))
        }
        _ => match crate::openapi::answer(&rows, path, parts.uri.query().unwrap_or_default(), headers, accept) {
            Some(response) => Ok(response),
            None => astray::nowhere(server, path),
        },
    }
}

/// Whoever checks tokens may keep what he checks them by.
fn kept_an_hour(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

#[cfg(test)]
mod tests {
    use super::may_grow;

    #[test]
    fn few_bytes_may_say_much() {
        let copies = br#"[{"op": "copy", "from": "/data", "path": "/data/a"}]"#;
        assert!(may_grow("application/json-patch+json", copies) && may_grow("application/yaml", b"a: &a [x]\nb: [*a, *a]"));
        assert!(may_grow("application/apply-patch+yaml", b"a: &a [x]\nb: [*a, *a]"));
        for media in ["", "application/json", "application/merge-patch+json", "application/apply-patch+yaml", "application/yaml"] {
            assert!(!may_grow(media, b"{\"data\": {\"a\": \"b\"}}"), "{media}");
        }
        assert!(!may_grow("application/merge-patch+json", b"{\"data\": {\"a\": \"*\"}}"));
    }
}
