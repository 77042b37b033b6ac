//! `/statusz` and `/flagz`: how long the server has run and of what version it is, and what it was told at its start.
//!
//! Both are text that is for people alone, and to who asks for it the kinds `Statusz` and `Flagz` of `config.k8s.io` (KEP-4827, KEP-4828;
//! beta and on by default since v1.36). Upstream's handlers of them look at no method. A flag is told by the original's name where there
//! is a setting here that means the same; a flag that means nothing here is not told, as its value would be a lie.

use crate::{
    Body, Config, discovery,
    negotiate::{self, Accept, Accepted, Page, PageEncoding},
    reply, respond,
    rows::Rows,
};
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use machinery::{time, zpages};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::SystemTime,
};

/// As the server names itself there.
const COMPONENT: &str = "apiserver";
/// Between a name and its value. Upstream draws one of four, so that nobody reads the text by a program.
const DELIMITER: &str = ": ";
/// What is listed at the root and is no page for who looks for a fault.
const NO_PAGES: [&str; 5] = ["apis", "api", "openid", "openapi", ".well-known"];
/// The version of both kinds that is on its way out.
const DEPRECATED: &str = "v1alpha1";

/// Answers one of the two paths; `None` if it is another.
pub(crate) fn answer(path: &str, rows: &Rows, config: &Config, started: SystemTime, accept: &Accept<'_>, accepted: Accepted) -> Option<Response<Body>> {
    let now = SystemTime::now();
    Some(match path {
        "/statusz" => page("statusz", "Statusz", accept, accepted, || status_text(rows, started, now), || status_fields(rows, started, now)),
        "/flagz" => page("flagz", "Flagz", accept, accepted, || flags_text(config), || flags_fields(config)),
        _ => return None,
    })
}

/// A page as it is asked for.
fn page(name: &str, kind: &str, accept: &Accept<'_>, accepted: Accepted, text: impl FnOnce() -> String, fields: impl FnOnce() -> String) -> Response<Body> {
    match accept.page(kind) {
        Page::Text => {
            let mut response = reply::respond(StatusCode::OK, negotiate::JSON, zpages::head(COMPONENT, name) + &text());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response
        }
        Page::Kind(encoding, version) => {
            let object = format!(r#"{{"kind":"{kind}","apiVersion":"config.k8s.io/{version}","metadata":{{"name":"{COMPONENT}"}},{}}}"#, fields());
            let (accepted, media) = encoding.of(accepted);
            let mut response = respond::from_json(StatusCode::OK, accepted, object.into_bytes());
            if let Ok(media) = HeaderValue::from_str(&format!("{media};g=config.k8s.io;v={version};as={kind}")) {
                response.headers_mut().insert(header::CONTENT_TYPE, media);
            }
            if version == DEPRECATED {
                let warning = format!(r#"299 - "This version of the {name} endpoint is deprecated. Please use a newer version.""#);
                response.headers_mut().extend(HeaderValue::from_str(&warning).ok().map(|warning| (header::WARNING, warning)));
            }
            response
        }
        Page::NotAcceptable(told) => {
            let status = negotiate::only(&[negotiate::JSON, negotiate::YAML, "text/plain"]);
            // What can be told in none of the forms that are asked for is told as it is.
            let raw = Accepted { raw: true, ..Accepted::default() };
            respond::status(&status, told.map_or(raw, |encoding| encoding.of(accepted).0))
        }
    }
}

impl PageEncoding {
    /// What is accepted, with this encoding; and the media type's name.
    fn of(self, accepted: Accepted) -> (Accepted, &'static str) {
        let media = if self.encoding == negotiate::Encoding::Yaml { negotiate::YAML } else { negotiate::JSON };
        (Accepted { encoding: self.encoding, pretty: accepted.pretty || self.pretty, ..Accepted::default() }, media)
    }
}

/// What is told of the running program.
struct Running {
    started: SystemTime,
    up_s: u64,
    go_version: String,
    binary_version: String,
    emulation_version: String,
    paths: BTreeSet<String>,
}

impl Running {
    fn now(rows: &Rows, started: SystemTime, now: SystemTime) -> Self {
        let version = machinery::resources::version();
        let text = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
        let listed = discovery::paths(rows);
        let firsts = listed.iter().filter_map(|path| path.split('/').nth(1));
        Running {
            started,
            up_s: now.duration_since(started).unwrap_or_default().as_secs(),
            go_version: text("goVersion"),
            binary_version: text("gitVersion").trim_start_matches('v').to_owned(),
            emulation_version: format!("{}.{}", text("emulationMajor"), text("emulationMinor")),
            paths: firsts.filter(|first| !first.is_empty() && !NO_PAGES.contains(first)).map(|first| format!("/{first}")).collect(),
        }
    }
}

fn status_text(rows: &Rows, started: SystemTime, now: SystemTime) -> String {
    let running = Running::now(rows, started, now);
    let began = Timestamp::try_from(running.started).unwrap_or_default().strftime("%a %b %e %H:%M:%S UTC %Y").to_string();
    let paths = running.paths.into_iter().collect::<Vec<_>>().join(" ");
    let lines = [
        ("Started", began),
        ("Up", zpages::up(running.up_s)),
        ("Go version", running.go_version),
        ("Binary version", running.binary_version),
        ("Emulation version", running.emulation_version),
        ("Paths", paths),
    ];
    let mut out = String::from("\n");
    for (name, value) in lines {
        // Before a value stands one more space than the delimiter has.
        let _ = writeln!(out, "{name}{DELIMITER} {value}");
    }
    out
}

fn status_fields(rows: &Rows, started: SystemTime, now: SystemTime) -> String {
    let running = Running::now(rows, started, now);
    format!(
        r#""startTime":{},"uptimeSeconds":{},"goVersion":{},"binaryVersion":{},"emulationVersion":{},"paths":{}"#,
        json!(time::rfc3339(running.started)),
        running.up_s,
        json!(running.go_version),
        json!(running.binary_version),
        json!(running.emulation_version),
        json!(running.paths),
    )
}

fn flags_text(config: &Config) -> String {
    let mut out = String::new();
    for (name, value) in flags(config) {
        let _ = writeln!(out, "{name}{DELIMITER}{value}");
    }
    out
}

fn flags_fields(config: &Config) -> String {
    format!(r#""flags":{}"#, json!(flags(config)))
}

/// The settings by the names that the original's flags have, as Go writes their values.
fn flags(config: &Config) -> BTreeMap<&'static str, String> {
    let duration = time::go_duration;
    let served: Vec<String> = config.runtime_config.iter().map(|(what, is_served)| format!("{what}={is_served}")).collect();
    let ranges: Vec<String> = config.service_cidrs.iter().map(|(network, prefix)| format!("{network}/{prefix}")).collect();
    let (first, last) = config.node_ports;
    BTreeMap::from([
        ("advertise-address", config.advertise_address.map_or_else(|| "<nil>".to_owned(), |address| address.to_string())),
        ("allow-privileged", "true".to_owned()),
        ("anonymous-auth", "true".to_owned()),
        ("authorization-mode", "[Node,RBAC]".to_owned()),
        ("event-ttl", duration(config.event_ttl)),
        ("min-request-timeout", config.watch_timeout_min.as_secs().to_string()),
        ("request-timeout", duration(config.request_timeout)),
        ("runtime-config", served.join(",")),
        ("secure-port", config.advertise_port.to_string()),
        ("service-cluster-ip-range", ranges.join(",")),
        ("service-node-port-range", format!("{first}-{last}")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http_body_util::BodyExt as _;
    use std::time::{Duration, UNIX_EPOCH};

    fn ask(path: &str, accepted: &str) -> (u16, String, String) {
        let headers: HeaderMap = [(header::ACCEPT, accepted.parse::<HeaderValue>().expect("a header"))].into_iter().filter(|_| !accepted.is_empty()).collect();
        let rows = Rows::builtin(|_| false);
        let response = answer(path, &rows, &Config::default(), UNIX_EPOCH, &Accept::read(&headers), Accepted::default()).expect("a page");
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let (code, media, warning) = (response.status().as_u16(), text(header::CONTENT_TYPE), text(header::WARNING));
        let collected = futures_util::FutureExt::now_or_never(response.into_body().collect()).expect("bytes at once").expect("a body");
        (code, media, warning + &String::from_utf8_lossy(&collected.to_bytes()))
    }

    #[test]
    fn pages_are_text_or_a_kind() {
        for accepted in ["", "*/*", "text/plain", "application/xml, text/*;q=0.1", "application/json;as=Statusz;v=v9;g=config.k8s.io, */*"] {
            let (code, media, text) = ask("/statusz", accepted);
            assert_eq!((code, media.as_str()), (200, "text/plain; charset=utf-8"), "{accepted}");
            assert!(text.starts_with("\napiserver statusz\nWarning: ") && text.contains("\nStarted:  Thu Jan  1 00:00:00 UTC 1970\n"), "{text}");
        }
        let (code, media, text) = ask("/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz");
        assert_eq!((code, media.as_str()), (200, "application/json;g=config.k8s.io;v=v1beta1;as=Flagz"));
        assert!(text.starts_with(r#"{"kind":"Flagz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"apiserver"},"flags":{"#), "{text}");
        assert!(text.contains(r#""request-timeout":"1m0s""#), "{text}");
        let (_, media, text) = ask("/statusz", "application/yaml;v=v1alpha1;g=config.k8s.io;as=Statusz");
        assert_eq!(media, "application/yaml;g=config.k8s.io;v=v1alpha1;as=Statusz");
        assert!(text.starts_with("299 - \"This version of the statusz endpoint is deprecated"), "{text}");
    }

    #[test]
    fn what_is_neither_is_refused_in_the_senders_language() {
        // (Long lines of YAML are folded.)
        let why = "only the following media types are";
        // What is told in none of the forms that are asked for is indented: a clause that asks for a kind asks for no error.
        for (accepted, media, is_indented) in [
            ("application/json", "application/json", false),
            ("application/json;v=v1beta1;g=config.k8s.io", "application/json", true),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Statusz", "application/json", true),
            ("application/yaml", "application/yaml", false),
            ("application/xml", "application/json", true),
        ] {
            let (code, told, text) = ask("/flagz", accepted);
            assert_eq!((code, told.as_str()), (406, media), "{accepted}");
            assert!(text.contains(why), "{text}");
            assert_eq!(text.contains("\n  \""), is_indented, "{accepted}: {text}");
        }
    }

    #[test]
    fn a_time_is_told_in_three_numbers() {
        let rows = Rows::builtin(|_| false);
        let text = status_text(&rows, UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(100 * 3600 + 61));
        assert!(text.contains("\nUp:  100 hr 01 min 01 sec\n"), "{text}");
    }
}
