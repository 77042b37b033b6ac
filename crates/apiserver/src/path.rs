//! What a request asks for, read from its method, path and query: upstream's `RequestInfo`.
//!
//! The forms, as upstream defines them (`/api/V` for the core group, `/apis/G/V` for the others):
//! `RESOURCE[/NAME[/SUBRESOURCE[/…]]]`, the same below `namespaces/NS/`, and both below the legacy `watch/`.
//! A namespace is itself a resource: `namespaces/NAME`, with `status` and `finalize` as its subresources.
//! Everything else is a non-resource path, whose verb is the method in small letters.

use crate::query::{self, Query};
use http::Method;
use machinery::{fields::FieldSelector, labels::Selector};
use std::borrow::Cow;

/// Subresources that lead to a kubelet or a workload: their answers last as long as both sides will.
pub(crate) const STREAMS: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The path names an API resource.
    pub is_resource: bool,
    /// The whole path, decoded.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or `proxy` of old; the method otherwise.
    pub verb: &'static str,
    /// `api` or `apis`.
    pub prefix: &'static str,
    /// Group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace; empty for all or none.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Name; for lists and watches the name that a field selector asks for, since it takes part in authorisation.
    pub name: String,
    /// What follows the subresource, still encoded and with its leading slash: the path below `proxy`.
    pub tail: String,
    /// A part between two slashes is empty: no route of upstream's leads there.
    pub is_odd: bool,
    /// It is said that there is a namespace, and not which: what is named is in none, where what has no name may be in any.
    pub is_blank: bool,
    /// A verb of old stands before the resource.
    pub is_of_old: bool,
    /// It ends behind a verb of old, so that nothing says what is meant: upstream answers it before it knows who asks.
    pub is_cut: bool,
    /// Of `list`, `watch` and `deletecollection`: which objects alone are asked for, since it takes part in authorisation.
    pub fields: Option<FieldSelector>,
}

/// Parts before the resource that say what is done with it, in paths of old.
const SPECIAL_VERBS: [&str; 2] = ["watch", "proxy"];
/// Subresources of a namespace; any other third part is a resource inside it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method, path and query. Never fails: what is not a resource is a non-resource path.
    pub fn parse(method: &Method, raw_path: &str, query: &Query<'_>) -> RequestInfo {
        let info = Self::parse_parts(method, raw_path, query);
        match info.holds_slash() {
            // Upstream splits the decoded path.
            true => Self::parse_parts(method, &raw_path.replace("%2F", "/").replace("%2f", "/"), query),
            false => info,
        }
    }

    /// Whether a part holds a slash that was written in another way.
    fn holds_slash(&self) -> bool {
        [&self.group, &self.version, &self.namespace, &self.resource, &self.name, &self.subresource].iter().any(|part| part.contains('/'))
    }

    fn parse_parts(method: &Method, raw_path: &str, query: &Query<'_>) -> RequestInfo {
        let mut info = RequestInfo { verb: method_verb(method), path: query::path_text(raw_path).into_owned(), ..Default::default() };
        // Slashes at both ends part nothing.
        let within = raw_path.trim_start_matches('/');
        let parts: Vec<Cow<'_, str>> = within.trim_end_matches('/').split('/').map(query::path_text).collect();
        // Where the resource stands, if there is one.
        let (prefix, at) = match parts.first().map(|part| &**part) {
            Some("api") => ("api", 2),
            Some("apis") => ("apis", 3),
            _ => return info,
        };
        info.is_odd = raw_path.starts_with("//");
        // No route leads there, not even to another server.
        info.prefix = if info.is_odd { "" } else { prefix };
        let part = |at: usize| parts.get(at).map(|part| part.clone().into_owned()).unwrap_or_default();
        if prefix == "apis" {
            info.group = part(1);
        }
        info.version = part(at - 1);
        if parts.len() <= at {
            return info;
        }
        info.is_odd |= info.version.is_empty() || prefix == "apis" && info.group.is_empty();
        let used = at + info.resource_part(method, &parts[at..], query);
        if !info.subresource.is_empty() {
            info.tail = behind(within, used).to_owned();
        }
        info
    }

    /// Reads the parts from the resource on; how many of them are before what follows the subresource.
    fn resource_part(&mut self, method: &Method, parts: &[Cow<'_, str>], query: &Query<'_>) -> usize {
        self.is_resource = true;
        self.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let special = SPECIAL_VERBS.into_iter().find(|verb| parts[0] == *verb);
        if special.is_some() && parts.len() < 2 {
            self.is_cut = true;
            return parts.len();
        }
        let mut rest = parts;
        self.is_of_old = special.is_some();
        if let Some(verb) = special {
            self.verb = verb;
            rest = &rest[1..];
        }
        let mut is_within = false;
        if rest[0] == "namespaces" && rest.len() > 1 {
            self.namespace = rest[1].clone().into_owned();
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&&*rest[2]) {
                // The namespace without a name is all of them.
                rest = &rest[2..];
                is_within = true;
                self.is_blank = self.namespace.is_empty();
            }
        }
        let part = |at: usize| rest.get(at).map(|part| part.clone().into_owned()).unwrap_or_default();
        self.resource = part(0);
        self.name = part(1);
        self.is_odd |= self.resource.is_empty() || self.name.is_empty() && rest.len() > 1;
        // There is no namespace within another.
        self.is_odd |= is_within && self.resource == "namespaces" && self.group.is_empty();
        if self.verb != "proxy" {
            self.subresource = part(2);
            self.is_odd |= self.subresource.is_empty() && rest.len() > 2;
        }
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if watch_wanted(query) { "watch" } else { "list" };
            self.name = query.get("fieldSelector").and_then(selected_name).filter(|_| are_readable(query)).unwrap_or_default();
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection";
        }
        if special.is_none() && matches!(self.verb, "list" | "watch" | "deletecollection") {
            // One that cannot be read limits nothing here; the request is refused for it later (upstream `NewRequestInfo`).
            self.fields = query.get("fieldSelector").filter(|text| !text.is_empty()).and_then(|text| FieldSelector::parse(text).ok());
        }
        parts.len() - rest.len() + 3
    }

    /// Whether the request may last: watches, streams and profiles have no deadline.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch" || STREAMS.contains(&self.subresource.as_str()) || !self.is_resource && self.path.starts_with("/debug/pprof/")
    }
}

/// `watch` is true for `true`, `1` and, as in upstream's conversion of booleans, an empty value.
fn watch_wanted(query: &Query<'_>) -> bool {
    query.get("watch").is_some_and(query::go_bool)
}

/// Whether a list's options can be read. Of those that cannot, upstream takes none but `watch`.
fn are_readable(query: &Query<'_>) -> bool {
    ["limit", "timeoutSeconds"].iter().all(|number| query.int(number).is_ok())
        && FieldSelector::parse(query.text("fieldSelector")).is_ok()
        && Selector::parse(query.text("labelSelector")).is_ok()
}

/// The name of `metadata.name=NAME` in a field selector.
fn selected_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty() && !value.contains('/')).then(|| value.to_owned())
    })
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        Method::TRACE => "trace",
        _ => "connect",
    }
}

/// What follows so many parts of a path, with its leading slash; a lone closing slash stays.
fn behind(path: &str, parts: usize) -> &str {
    let end = path.match_indices('/').nth(parts.saturating_sub(1)).map_or(path.len(), |(at, _)| at);
    &path[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    fn show(i: &RequestInfo) -> String {
        format!("{} g={} v={} ns={} {}/{}/{} {}", i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.tail)
    }

    #[test]
    fn the_forms_of_upstream() {
        let cases = [
            (Method::GET, "/api/v1/namespaces", "list g= v=v1 ns= namespaces// "),
            (Method::GET, "/api/v1/namespaces/other", "get g= v=v1 ns=other namespaces/other/ "),
            (Method::PUT, "/api/v1/namespaces/other/finalize", "update g= v=v1 ns=other namespaces/other/finalize "),
            (Method::GET, "/api/v1/namespaces/other/pods", "list g= v=v1 ns=other pods// "),
            (Method::GET, "/api/v1/namespaces/other/pods?watch=1", "watch g= v=v1 ns=other pods// "),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Da", "list g= v=v1 ns= pods/a/ "),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Da&limit=x", "list g= v=v1 ns= pods// "),
            (Method::HEAD, "/api/v1/namespaces/other/pods/foo", "get g= v=v1 ns=other pods/foo/ "),
            (Method::DELETE, "/api/v1/namespaces/other/pods", "deletecollection g= v=v1 ns=other pods// "),
            (Method::GET, "/api/v1/watch/namespaces/other/pods", "watch g= v=v1 ns=other pods// "),
            (Method::GET, "/apis/apps/v1/deployments/d/scale", "get g=apps v=v1 ns= deployments/d/scale "),
            (Method::GET, "/api/v1/namespaces/n/pods/p/proxy/a/b%20c/", "get g= v=v1 ns=n pods/p/proxy /a/b%20c/"),
            (Method::GET, "/api/v1/namespaces/n/services/p/proxy/", "get g= v=v1 ns=n services/p/proxy /"),
            (Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles/a%3Ab", "get g=rbac.authorization.k8s.io v=v1 ns= clusterroles/a:b/ "),
        ];
        for (method, uri, want) in cases {
            let got = info(method, uri);
            assert!(got.is_resource, "{uri}");
            assert_eq!(show(&got), want, "{uri}");
        }
    }

    #[test]
    fn parts_that_are_empty_are_odd_and_slashes_part_however_they_are_written() {
        assert_eq!(show(&info(Method::GET, "/api/v1/namespaces/n/pods/a%2Fb%252fc")), show(&info(Method::GET, "/api/v1/namespaces/n/pods/a/b%252fc")));
        assert_eq!(info(Method::GET, "/api/v1/namespaces/n/pods/a%2flog").subresource, "log");
        assert_eq!(show(&info(Method::GET, "/apis/apps%2Fv1/deployments")), show(&info(Method::GET, "/apis/apps/v1/deployments")));
        assert_eq!(info(Method::GET, "/apis/apps/v1%2Fdeployments").resource, "deployments");
        let within = ["/api/v1/namespaces/n/namespaces", "/api/v1/namespaces/n/namespaces/n", "/api/v1/namespaces/n/namespaces/n/status"];
        for uri in ["/api/v1/namespaces/n//pods/x", "/api/v1/namespaces/n/pods/a//log", "/api/v1/pods//x"].into_iter().chain(within) {
            let got = info(Method::GET, uri);
            assert!(got.is_resource && got.is_odd, "{uri}");
        }
        for uri in [
            "/api/v1/namespaces/n/pods/",
            "/api/v1/namespaces/n/pods/a/",
            "/api/v1/namespaces/n/pods/a/proxy//b",
            "/api/v1/namespaces/n/",
            "/api/v1/namespaces/namespaces",
        ] {
            assert!(!info(Method::GET, uri).is_odd, "{uri}");
        }
        assert_eq!(show(&info(Method::GET, "/api/v1/namespaces//pods")), "list g= v=v1 ns= pods// ");
        assert!(info(Method::GET, "/api/v1/namespaces//pods/p").is_blank && !info(Method::GET, "/api/v1/pods/p").is_blank);
        assert!(!info(Method::GET, "/api/v1/namespaces//pods").is_odd);
    }

    #[test]
    fn who_may_is_asked_about_empty_parts_as_if_they_were_said() {
        let cases = [
            (Method::PUT, "/apis/example.com//roads/a/status", "update g=example.com v= ns= roads/a/status "),
            (Method::DELETE, "/apis//example.com/v2/namespaces/n/roads", "delete g= v=example.com ns= v2/namespaces/n /roads"),
            (Method::POST, "//apis/example.com/v3/roads", "create g=example.com v=v3 ns= roads// "),
            (Method::GET, "/api/v1/namespaces/n//pods/x", "get g= v=v1 ns=n /pods/x "),
            (Method::GET, "/api/v1/namespaces//status", "list g= v=v1 ns= namespaces//status "),
            (Method::GET, "/api/v1/proxy/namespaces/n/pods/p/x", "proxy g= v=v1 ns=n pods/p/ "),
        ];
        for (method, uri, want) in cases {
            let got = info(method, uri);
            assert!(got.is_resource, "{uri}");
            assert_eq!(show(&got), want, "{uri}");
            assert_eq!(got.is_odd, !uri.contains("proxy"), "{uri}");
        }
        assert_eq!(info(Method::TRACE, "/apis").verb, "trace");
    }

    #[test]
    fn other_paths_are_no_resources() {
        for uri in ["/", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1", "/api/v1/", "/healthz", "/version"] {
            let got = info(Method::GET, uri);
            assert!(!got.is_resource, "{uri}");
            assert_eq!(got.verb, "get");
        }
        let lasts = |uri: &str| info(Method::GET, uri).is_long_running();
        assert!(lasts("/debug/pprof/heap") && !lasts("/debug/pprof") && !lasts("/debug/flags/v"), "profiles are taken over a time");
    }
}
