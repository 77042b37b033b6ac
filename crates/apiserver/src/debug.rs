//! `/debug`: what those who look for a fault find at a server of upstream's, as far as it means something here.
//!
//! Of `pprof` there are the index and its refusals: Go's profiles are of a runtime that is not here, and none is made up. `flags/v` sets how
//! much is logged, by upstream's numbers; from [`REQUESTS`] on each request is. The dumps of priority and fairness say that nobody waits:
//! requests are let in without queues here, so the levels have none, and neither have they requests.
//!
//! Upstream's handlers of these look at no method, but that of the flag.

use crate::{ApiServer, Body, body, context::Context, reply};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use machinery::{quote::Quoted, status::Status, tree};
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU32, Ordering},
};

/// From this verbosity on upstream logs each request (`httplog`).
const REQUESTS: u32 = 3;
/// The least width of a column in the dumps.
const COLUMN_MIN: usize = 8;
const LEVELS: (&str, &str, &str) = ("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations");
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
/// By it Go's tools know a refusal of these pages.
const GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");

/// How much is logged.
#[derive(Debug, Default)]
pub(crate) struct Verbosity(AtomicU32);

impl Verbosity {
    /// Whether each request is logged.
    pub(crate) fn of_requests(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= REQUESTS
    }

    /// Sets it from text; why it is none otherwise.
    fn set(&self, text: &str) -> Result<String, String> {
        let told = |why: &str| format!("strconv.ParseUint: parsing {}: {why}", Quoted(text));
        // In Go a number without a sign has none.
        if text.starts_with('+') {
            return Err(told("invalid syntax"));
        }
        let wanted = text.parse::<u32>().map_err(|e| {
            let is_large = *e.kind() == std::num::IntErrorKind::PosOverflow;
            told(if is_large { "value out of range" } else { "invalid syntax" })
        })?;
        self.0.store(wanted, Ordering::Relaxed);
        Ok(format!("successfully set klog.logging.verbosity to {text}"))
    }
}

/// Answers a path below `/debug/`; `None` if there is nothing.
pub(crate) async fn answer(server: &ApiServer, cx: &Context, parts: &Parts, body: &mut Option<Body>) -> Result<Option<Response<Body>>, Status> {
    let Some(path) = cx.info.path.strip_prefix("/debug/") else { return Ok(None) };
    Ok(Some(match path {
        "pprof" => found("/debug/pprof/", &parts.method),
        "flags/v" if parts.method == Method::PUT => {
            let sent = body::read(body).await?;
            flag(server.verbosity().set(&String::from_utf8_lossy(&sent)))
        }
        "flags/v" => said(StatusCode::NOT_ACCEPTABLE, "text/plain", "unsupported http method\n", true),
        "flags" => said(StatusCode::OK, HTML, FLAGS, false),
        _ if path.starts_with("flags/") => said(StatusCode::OK, HTML, FLAGS, false),
        "api_priority_and_fairness/dump_priority_levels" => said(StatusCode::OK, TEXT, dump(&levels(server)), false),
        "api_priority_and_fairness/dump_queues" => said(StatusCode::OK, TEXT, dump(&[row(&QUEUES)]), false),
        "api_priority_and_fairness/dump_requests" => said(StatusCode::OK, TEXT, requests(parts.uri.query().unwrap_or_default()), false),
        _ => match path.strip_prefix("pprof/") {
            Some(profile) => pprof(profile),
            None => return Ok(None),
        },
    }))
}

/// The page of flags that can be set, of which there is one.
const FLAGS: &str = "<html>\n<head>\n<title>/debug/flags/</title>\n</head>\n<body>\n/debug/flags/<br>\n<br>\nflags:<br>\n<table>\n<tr>v<br>\n</table>\n<br>\nfull flags configurable<br>\n</body>\n</html>\n";
/// The page of profiles, of which there is none.
const PROFILES: &str = "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/<br>\n<p>This server keeps no profiles of Go's runtime.</p>\n<ul>\n<li><a href=\"symbol\">symbol</a></li>\n</ul>\n</body>\n</html>\n";

fn pprof(profile: &str) -> Response<Body> {
    let refused = |code: StatusCode, text: &str| {
        let mut response = said(code, TEXT, format!("{text}\n"), true);
        response.headers_mut().insert(GO_PPROF, HeaderValue::from_static("1"));
        response
    };
    match profile {
        "" => said(StatusCode::OK, HTML, PROFILES, true),
        // Of each address that it knows it tells the function, as in Go; it knows none.
        "symbol" => said(StatusCode::OK, TEXT, "num_symbols: 1\n", true),
        "profile" => refused(StatusCode::INTERNAL_SERVER_ERROR, "Could not enable CPU profiling: there is none in this server"),
        "trace" => refused(StatusCode::INTERNAL_SERVER_ERROR, "Could not enable tracing: there is none in this server"),
        _ => refused(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

fn flag(set: Result<String, String>) -> Response<Body> {
    match set {
        Ok(text) => said(StatusCode::OK, "text/plain", text + "\n", true),
        Err(why) => said(StatusCode::BAD_REQUEST, "text/plain", why + "\n", true),
    }
}

/// A redirection in the words of Go, which says something to those alone who only look.
fn found(location: &'static str, method: &Method) -> Response<Body> {
    let mut response = match *method {
        Method::GET | Method::HEAD => said(StatusCode::FOUND, HTML, format!("<a href=\"{location}\">Found</a>.\n\n"), false),
        _ => Response::new(body::empty()),
    };
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(location));
    response
}

fn said(code: StatusCode, media: &'static str, text: impl Into<bytes::Bytes>, is_sure: bool) -> Response<Body> {
    let mut response = reply::respond(code, media, text);
    if is_sure {
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

/// The columns of the dumps.
const LEVEL: [&str; 10] = [
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: [&str; 9] =
    ["PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR", "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum"];
const REQUEST: [&str; 10] = [
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAILS: [&str; 8] = ["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// The levels that there are; nobody waits in them.
fn levels(server: &ApiServer) -> Vec<Vec<String>> {
    let mut rows = vec![row(&LEVEL)];
    rows.extend(server.world().list(LEVELS, "").iter().map(|level| {
        let name = tree::text(&level["metadata"], "name");
        row(&[name, "0", "true", "false", "0", "0", "0", "0", "0", "0"])
    }));
    rows
}

/// The requests in queues, with what is told of each where that is asked for.
fn requests(query: &str) -> String {
    let details = crate::query::Query::parse(query);
    let asked = !details.text("includeRequestDetails").is_empty();
    let columns: Vec<&str> = REQUEST.iter().chain(DETAILS.iter().filter(|_| asked)).copied().collect();
    dump(&[row(&columns)])
}

/// Rows in columns, as Go's `tabwriter` sets them: each cell but the last with a comma, and a space at least behind it.
fn dump(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 2).max().unwrap_or_default().max(COLUMN_MIN);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let (last, others) = row.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
        for (cell, width) in others.iter().zip(widths.iter().copied()) {
            let _ = write!(out, "{:<width$}", format!("{cell},"));
        }
        out.push_str(last);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verbosity_is_a_number() {
        let verbosity = Verbosity::default();
        assert!(!verbosity.of_requests());
        assert_eq!(verbosity.set("4").unwrap(), "successfully set klog.logging.verbosity to 4");
        assert!(verbosity.of_requests());
        assert_eq!(verbosity.set("x").unwrap_err(), r#"strconv.ParseUint: parsing "x": invalid syntax"#);
        assert_eq!(verbosity.set("+1").unwrap_err(), r#"strconv.ParseUint: parsing "+1": invalid syntax"#);
        assert!(verbosity.of_requests(), "what is none changes nothing");
    }

    #[test]
    fn a_dump_stands_in_columns() {
        let rows = [row(&["PriorityLevelName", "IsIdle", "Last"]), row(&["exempt", "true", "0"])];
        assert_eq!(dump(&rows), "PriorityLevelName, IsIdle, Last\nexempt,            true,   0\n");
        assert!(requests("includeRequestDetails=1").ends_with("SubResource\n") && requests("").ends_with("StartTime\n"));
    }

    #[test]
    fn no_profile_is_made_up() {
        for (profile, code) in [("", 200), ("symbol", 200), ("heap", 404), ("cmdline", 404), ("profile", 500)] {
            assert_eq!(pprof(profile).status().as_u16(), code, "{profile}");
        }
        let redirected = found("/debug/pprof/", &Method::GET);
        assert_eq!((redirected.status().as_u16(), &redirected.headers()[header::LOCATION]), (302, &HeaderValue::from_static("/debug/pprof/")));
    }
}
