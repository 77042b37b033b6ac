//! Who asks, as whom, and whether they may: the stages of the path before anything is looked at.

use crate::{Context, PeerCertificate, aggregation::headers, legacy_tokens, path::RequestInfo, rows::Row, world::World};
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
    // The header is looked at first, whatever else is shown.
    let (token, spaced) = bearer(&parts.headers);
    let mut refused = false;
    if let Some(PeerCertificate(peer)) = extensions.get::<PeerCertificate>() {
        let owner = peer.owner(authenticator, now);
        if let Some(ends) = owner.ends {
            world.metrics().stages().certificate(ends, now);
        }
        let named = || headers::named(&parts.headers, &authenticator.trust().request_headers);
        // Who is both says who asks, if he says anybody.
        if let Some(user) = owner.is_front_proxy.then(named).flatten() {
            return Ok(Asking { user: Arc::new(user.proved()), warning: spaced });
        }
        if let Some(user) = &owner.user {
            return Ok(Asking { user: Arc::clone(user), warning: spaced });
        }
        // A certificate that nobody vouches for, or that names nobody, leaves the token its turn, but whoever shows nothing else is then
        // nobody whom anonymous rights are for.
        refused = owner.is_refused;
    }
    if let Some(token) = token.or(offered_token) {
        let shown = authenticator.bearer(token).await;
        legacy_tokens::note(world, &shown, now).await;
        let review = shown.map_err(|_| Status::unauthorized())?;
        let warning = review.used.is_some_and(|used| used.is_generated).then_some(legacy_tokens::GENERATED).or(spaced);
        return Ok(Asking { user: Arc::new(review.user), warning });
    }
    if refused { Err(Status::unauthorized()) } else { Ok(Asking { user: world.anonymous(), warning: spaced }) }
}

/// The token that the header shows; if it is none for a space before it, what its sender is told of that.
fn bearer(headers: &HeaderMap) -> (Option<&str>, Option<&'static str>) {
    let text = headers.get(header::AUTHORIZATION).and_then(|text| text.to_str().ok()).unwrap_or_default();
    let mut parts = text.trim().splitn(3, ' ');
    let scheme = parts.next().unwrap_or_default();
    match parts.next().filter(|_| scheme.eq_ignore_ascii_case("bearer")) {
        Some("") => (None, parts.next().map(|_| "the provided Authorization header contains extra space before the bearer token, and is ignored")),
        token => (token, None),
    }
}

/// `Ok` if somebody allows it; otherwise the reason that the authorisers give, which may be empty.
fn decide(world: &World, user: &Arc<User>, info: &RequestInfo, verb: &str) -> Result<(), String> {
    let attributes = Attributes {
        user,
        verb,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        is_resource: info.is_resource,
        fields: info.fields.as_ref(),
    };
    match world.identity().authorizer.authorize(&attributes) {
        (Decision::Allow, _) => Ok(()),
        (_, reason) => Err(reason),
    }
}

/// A write that turns out to make a new object (apply, and an update of a kind that allows it) needs the right to create it by the way
/// that it takes as well (upstream's `withAuthorization`).
pub(crate) fn authorize_create(world: &World, cx: &Context, row: &Row, (namespace, name, part): (&str, &str, &str)) -> Result<(), Status> {
    authorize(world, &cx.user, &RequestInfo { subresource: part.to_owned(), ..other(cx, row, ("create", namespace, name)) })
}

/// A stream that begins with GET needs the right to create it as well. Of a refusal only the authoriser's own reason is told, which may
/// be none (upstream's `ensureAuthorizedForVerb`).
pub(crate) fn authorize_stream(world: &World, cx: &Context) -> Result<(), Status> {
    let info = &cx.info;
    decide(world, &cx.user, info, "create").map_err(|reason| Status::forbidden(&info.group, &info.resource, &info.name, reason))
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
fn further(world: &World, cx: &Context, row: &Row, what: (&'static str, &str, &str)) -> Result<(), String> {
    decide(world, &cx.user, &other(cx, row, what), what.0)
}

/// A request that the one in hand stands for as well.
fn other(cx: &Context, row: &Row, (verb, namespace, name): (&'static str, &str, &str)) -> RequestInfo {
    let resource = &row.resource;
    RequestInfo {
        is_resource: true,
        verb,
        path: cx.info.path.clone(),
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.resource.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

/// 403 in upstream's words unless somebody allows it.
pub(crate) fn authorize(world: &World, user: &Arc<User>, info: &RequestInfo) -> Result<(), Status> {
    authorize_verb(world, user, info, info.verb)
}

/// As [`authorize`], of another verb than the request's.
pub(crate) fn authorize_verb(world: &World, user: &Arc<User>, info: &RequestInfo, verb: &str) -> Result<(), Status> {
    let Err(reason) = decide(world, user, info, verb) else { return Ok(()) };
    let mut message = if info.is_resource {
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            sub => format!("{}/{sub}", info.resource),
        };
        let scope = match info.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", Quoted(namespace)),
        };
        format!("User {} cannot {verb} resource {} in API group {} {scope}", Quoted(&user.name), Quoted(&resource), Quoted(&info.group))
    } else {
        format!("User {} cannot {verb} path {}", Quoted(&user.name), Quoted(&info.path))
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(&reason);
    }
    // A path that is no resource's is in no group.
    let group = if info.is_resource { info.group.as_str() } else { "" };
    Err(Status::forbidden(group, &info.resource, &info.name, &message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_behind_one_space() {
        let shown = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, http::HeaderValue::from_static(text))]);
            let (token, spaced) = bearer(&headers);
            (token.map(str::to_owned), spaced.is_some())
        };
        assert_eq!(shown("Bearer a"), (Some("a".to_owned()), false));
        assert_eq!(shown("bearer a b"), (Some("a".to_owned()), false));
        assert_eq!(shown("Bearer  a"), (None, true));
        for none in ["Bearer", "Bearer ", "Basic a", "a"] {
            assert_eq!(shown(none), (None, false), "{none}");
        }
    }
}
