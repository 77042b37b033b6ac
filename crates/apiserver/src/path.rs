//! What a request asks for, read from its method, path and query: upstream's `RequestInfo`.
//!
//! The forms, as upstream defines them (`/api/V` for the core group, `/apis/G/V` for the others):
//! `RESOURCE[/NAME[/SUBRESOURCE[/…]]]`, the same below `namespaces/NS/`, and both below the legacy `watch/`.
//! A namespace is itself a resource: `namespaces/NAME`, with `status` and `finalize` as its subresources.
//! Everything else is a non-resource path, whose verb is the method in small letters.

use crate::query::{self, Query};
use http::Method;
use machinery::fields::FieldSelector;
use std::borrow::Cow;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The path names an API resource.
    pub is_resource: bool,
    /// The whole path, decoded.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the method otherwise.
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
    /// Of `list`, `watch` and `deletecollection`: which objects alone are asked for, since it takes part in authorisation.
    pub fields: Option<FieldSelector>,
}

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
        let mut info = RequestInfo { verb: method_verb(method), path: query::percent_decode(raw_path).into_owned(), ..Default::default() };
        let mut rest = Parts { rest: raw_path.strip_prefix('/').unwrap_or(raw_path) };
        let prefix = rest.peek();
        match prefix {
            "api" => info.prefix = "api",
            "apis" => info.prefix = "apis",
            _ => return info,
        }
        rest.next();
        if info.prefix == "apis" {
            let Some(group) = rest.next() else { return info };
            info.group = group.into_owned();
        }
        let Some(version) = rest.next() else { return info };
        if rest.peek().is_empty() {
            info.version = version.into_owned();
            return info;
        }
        info.version = version.into_owned();
        info.resource_part(method, &mut rest, query);
        info
    }

    fn resource_part(&mut self, method: &Method, rest: &mut Parts<'_>, query: &Query<'_>) {
        self.is_resource = true;
        self.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let mut legacy_watch = false;
        if rest.peek() == "watch" {
            rest.next();
            legacy_watch = true;
            self.verb = "watch";
        }
        if rest.peek() == "namespaces" {
            rest.next();
            if let Some(namespace) = rest.next() {
                self.namespace = namespace.into_owned();
                let third = rest.peek();
                if third.is_empty() || NAMESPACE_SUBRESOURCES.contains(&third) {
                    self.resource = "namespaces".into();
                    self.name = self.namespace.clone();
                    self.subresource = rest.next().unwrap_or_default().into_owned();
                } else {
                    self.named(rest);
                }
            } else if rest.skip_empty() {
                // The namespace without a name is all of them.
                self.named(rest);
            } else {
                self.resource = "namespaces".into();
            }
        } else {
            self.named(rest);
        }
        if self.subresource.is_empty() && rest.rest.len() > 1 {
            self.is_odd = true;
            self.tail = rest.tail();
        }
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if watch_wanted(query) { "watch" } else { "list" };
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection";
        }
        if self.name.is_empty() && !legacy_watch && matches!(self.verb, "list" | "watch") {
            self.name = query.get("fieldSelector").and_then(selected_name).unwrap_or_default();
        }
        if matches!(self.verb, "list" | "watch" | "deletecollection") {
            // One that cannot be read limits nothing here; the request is refused for it later (upstream `NewRequestInfo`).
            self.fields = query.get("fieldSelector").filter(|text| !text.is_empty()).and_then(|text| FieldSelector::parse(text).ok());
        }
    }

    fn named(&mut self, rest: &mut Parts<'_>) {
        self.resource = rest.next().unwrap_or_default().into_owned();
        self.name = rest.next().unwrap_or_default().into_owned();
        self.subresource = rest.next().unwrap_or_default().into_owned();
        if !self.subresource.is_empty() {
            self.tail = rest.tail();
        }
    }

    /// Whether the request may last: watches and streams have no deadline.
    pub fn is_long_running(&self) -> bool {
        let streams = ["attach", "exec", "proxy", "log", "portforward"];
        self.verb == "watch" || streams.contains(&self.subresource.as_str())
    }
}

/// `watch` is true for `true`, `1` and, as in upstream's conversion of booleans, an empty value.
fn watch_wanted(query: &Query<'_>) -> bool {
    query.get("watch").is_some_and(query::go_bool)
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
        _ => "connect",
    }
}

/// The parts of a path between slashes.
struct Parts<'a> {
    rest: &'a str,
}

impl<'a> Parts<'a> {
    /// The next part without taking it; empty at the end.
    fn peek(&self) -> &'a str {
        self.rest.split('/').next().unwrap_or_default()
    }

    /// Takes the next part, decoded.
    fn next(&mut self) -> Option<Cow<'a, str>> {
        let part = self.peek();
        if part.is_empty() {
            return None;
        }
        self.rest = &self.rest[part.len()..];
        if self.rest.len() > 1 || part.is_empty() {
            self.rest = self.rest.strip_prefix('/').unwrap_or(self.rest);
        } else if self.rest == "/" {
            self.rest = "/";
        }
        Some(query::percent_decode(part))
    }

    /// Goes past an empty part, if there is one with something behind it.
    fn skip_empty(&mut self) -> bool {
        let behind = self.rest.strip_prefix('/').filter(|rest| !rest.is_empty() && !rest.starts_with('/'));
        behind.inspect(|rest| self.rest = rest).is_some()
    }

    /// What is left, with its leading slash; a lone closing slash stays.
    fn tail(&self) -> String {
        match self.rest {
            "" => String::new(),
            "/" => "/".into(),
            rest => format!("/{rest}"),
        }
    }
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
        for uri in ["/api/v1/namespaces/n//pods/x", "/api/v1/namespaces/n/pods/a//log", "/api/v1/pods//x"] {
            let got = info(Method::GET, uri);
            assert!(got.is_resource && got.is_odd, "{uri}");
        }
        for uri in ["/api/v1/namespaces/n/pods/", "/api/v1/namespaces/n/pods/a/", "/api/v1/namespaces/n/pods/a/proxy//b", "/api/v1/namespaces/n/"] {
            assert!(!info(Method::GET, uri).is_odd, "{uri}");
        }
        assert_eq!(show(&info(Method::GET, "/api/v1/namespaces//pods")), "list g= v=v1 ns= pods// ");
        assert!(!info(Method::GET, "//api/v1/pods").is_resource);
    }

    #[test]
    fn other_paths_are_no_resources() {
        for uri in ["/", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1", "/api/v1/", "/healthz", "/version"] {
            let got = info(Method::GET, uri);
            assert!(!got.is_resource, "{uri}");
            assert_eq!(got.verb, "get");
        }
    }
}
