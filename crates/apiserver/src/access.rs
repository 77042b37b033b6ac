//! Who asks, as whom, and whether they may: the stages of the path before anything is looked at.

use crate::{Context, PeerCertificate, aggregation::headers, legacy_tokens, path::RequestInfo, query, rows::Row, server::Who, world::World};
use http::{HeaderMap, header, request::Parts};
use identity::{Attributes, Decision, User};
use machinery::{quote::Quoted, status::Status};
use std::{sync::Arc, time::SystemTime};

/// Who asks, and what he is to be told of how he shows it.
pub(crate) struct Asking {
    pub(crate) user: Arc<User>,
    pub(crate) warning: Option<&'static str>,
}

impl From<Arc<User>> for Asking {
    fn from(user: Arc<User>) -> Asking {
        Asking { user, warning: None }
    }
}

/// Who asks: a caller in this process, a certificate, a token, or nobody.
pub(crate) async fn authenticate(world: &World, parts: &Parts, offered_token: Option<&str>, now: SystemTime) -> Result<Asking, Status> {
    let extensions = &parts.extensions;
    if let Some(user) = extensions.get::<Arc<User>>() {
        return Ok(Arc::clone(user).into());
    }
    if let Some(user) = extensions.get::<User>() {
        return Ok(Arc::new(user.clone()).into());
    }
    let authenticator = &world.identity().authenticator;
    let mut ended = false;
    if let Some(PeerCertificate(peer)) = extensions.get::<PeerCertificate>() {
        // A certificate that names nobody leaves the token its turn; so does one that has ended since the handshake, and the
        // front proxy's where it names nobody, but whoever shows nothing else is then nobody whom anonymous rights are for.
        match peer.owner(authenticator) {
            Some(owner) if now <= owner.ends => match &owner.who {
                Who::User(user) => return Ok(Arc::clone(user).into()),
                Who::FrontProxy => match headers::named(&parts.headers) {
                    Some(user) => return Ok(Arc::new(proved(user)).into()),
                    None => ended = true,
                },
                Who::Nobody => ended = true,
            },
            Some(_) => ended = true,
            None => {}
        }
    }
    if let Some(token) = bearer(&parts.headers).or(offered_token) {
        let shown = authenticator.bearer(token).await;
        legacy_tokens::note(world, &shown, now).await;
        let review = shown.map_err(|_| Status::unauthorized())?;
        let warning = review.used.is_some_and(|used| used.is_generated).then_some(legacy_tokens::GENERATED);
        return Ok(Asking { user: Arc::new(review.user), warning });
    }
    if ended { Err(Status::unauthorized()) } else { Ok(world.anonymous().into()) }
}

/// A user of whom the front proxy has proof.
fn proved(mut user: User) -> User {
    if !user.groups.iter().any(|group| matches!(group.as_str(), "system:authenticated" | "system:unauthenticated")) {
        user.groups.push("system:authenticated".into());
    }
    user
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

/// The user that headers ask for without a name, as Go prints it.
fn told(headers: &HeaderMap) -> String {
    let strings = |values: &[&str]| format!("[]string{{{}}}", values.iter().map(|text| Quoted(text).to_string()).collect::<Vec<_>>().join(", "));
    let texts = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let groups = texts("impersonate-group");
    let groups = if groups.is_empty() { "[]string(nil)".to_owned() } else { strings(&groups) };
    let mut extra: Vec<String> = headers
        .keys()
        .filter_map(|name| Some((name, query::percent_decode(name.as_str().strip_prefix("impersonate-extra-")?).to_lowercase())))
        .map(|(name, key)| format!("{}:{}", Quoted(&key), strings(&texts(name.as_str()))))
        .collect();
    extra.sort();
    let extra = if extra.is_empty() { "map[string][]string(nil)".to_owned() } else { format!("map[string][]string{{{}}}", extra.join(", ")) };
    let uid = texts("impersonate-uid").first().copied().unwrap_or_default().to_owned();
    format!("&user.DefaultInfo{{Name:\"\", UID:{}, Groups:{groups}, Extra:{extra}}}", Quoted(&uid))
}

/// Acts as another user if the headers ask for it and the real one may (`impersonate` on users, groups, …).
pub(crate) fn impersonate(world: &World, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let name = headers.get("impersonate-user").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request(format!("requested {} without impersonating a user name", told(headers))));
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
        authorize(world, &user, &info)
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
            let extra = query::percent_decode(extra).to_lowercase();
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

/// `Ok` if somebody allows it; otherwise the reason that the authorisers give, which may be empty.
fn decide(world: &World, user: &Arc<User>, info: &RequestInfo) -> Result<(), String> {
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
    match world.identity().authorizer.authorize(&attributes) {
        (Decision::Allow, _) => Ok(()),
        (_, reason) => Err(reason),
    }
}

/// A write that turns out to make a new object (apply, and an update of a kind that allows it) needs the right to create it
/// as well (upstream's `withAuthorization`); 403 with the authorisers' reason alone, as there.
pub(crate) fn authorize_create(world: &World, cx: &Context, row: &Row, namespace: &str, name: &str) -> Result<(), Status> {
    further(world, cx, row, ("create", namespace, name)).map_err(|reason| Status::forbidden(&row.resource.group, &row.resource.resource, name, &reason))
}

/// A delete of what cannot be read needs a right of its own (upstream's `authorizeUnsafeDelete`).
pub(crate) fn authorize_unreadable(world: &World, cx: &Context, row: &Row, namespace: &str, name: &str) -> Result<(), Status> {
    let verb = "unsafe-delete-ignore-read-errors";
    further(world, cx, row, (verb, namespace, name)).map_err(|reason| {
        let why = format!("not permitted to do {verb:?}, reason: {reason}");
        Status::forbidden(&row.resource.group, &row.resource.resource, name, why)
    })
}

/// Whether the user may do with an object what the request does not say: a verb, in a namespace, to a name.
fn further(world: &World, cx: &Context, row: &Row, (verb, namespace, name): (&'static str, &str, &str)) -> Result<(), String> {
    let resource = &row.resource;
    let info = RequestInfo {
        is_resource: true,
        verb,
        path: cx.info.path.clone(),
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.resource.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    decide(world, &cx.user, &info)
}

/// 403 in upstream's words unless somebody allows it.
pub(crate) fn authorize(world: &World, user: &Arc<User>, info: &RequestInfo) -> Result<(), Status> {
    let Err(reason) = decide(world, user, info) else { return Ok(()) };
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
