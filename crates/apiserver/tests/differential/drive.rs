//! Sends what a description says to a server and writes down what it answers, without what differs from run to run.

use super::description::{Case, Description, Step};
use bytes::Bytes;
use client::Transport;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use regex_lite::Regex;
use serde_json::{Value, json};
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// How long a step may wait for what it waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// The answers to a description's cases, in their order.
pub async fn answers(server: &dyn Transport, description: &Description) -> Result<Vec<Value>, String> {
    let mut failed = Vec::new();
    for step in &description.setup {
        failed.extend(prepare(server, step).await.err());
    }
    if !failed.is_empty() {
        return Err(failed.join("\n"));
    }
    let mut answers = Vec::new();
    for case in &description.cases {
        if let Some(step) = &case.wait {
            prepare(server, step).await.map_err(|e| format!("{}: {e}", case.name))?;
        }
        answers.push(answer(server, case).await.map_err(|e| format!("{}: {e}", case.name))?);
    }
    for request in &description.cleanup {
        send(server, request, &[], Vec::new()).await?;
        gone(server, &request.replace("DELETE ", "GET ")).await?;
    }
    Ok(answers)
}

/// Waits for the end of what was deleted.
async fn gone(server: &dyn Transport, request: &str) -> Result<(), String> {
    let begun = Instant::now();
    while send(server, request, &[], Vec::new()).await?.status() != StatusCode::NOT_FOUND {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{request}: still there after {PATIENCE:?}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn is_established(definition: &[u8]) -> bool {
    let definition: Value = serde_json::from_slice(definition).unwrap_or_default();
    let conditions = definition["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True"))
}

async fn prepare(server: &dyn Transport, step: &Step) -> Result<(), String> {
    match step {
        Step::Send { request, body } => {
            let kind = if request.starts_with("PATCH ") { "application/merge-patch+json" } else { "application/json" };
            let response = send(server, request, &[("content-type".into(), kind.into())], body.to_string().into_bytes()).await?;
            let (status, body) = (response.status(), whole(response).await?);
            if status.is_success() || status == StatusCode::CONFLICT { Ok(()) } else { Err(format!("{request}: {status} {}", String::from_utf8_lossy(&body))) }
        }
        Step::Until { request, body, status } => {
            let begun = Instant::now();
            let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            loop {
                let response = send(server, request, &[("content-type".into(), "application/json".into())], body.clone()).await?;
                let code = response.status();
                // A definition is waited for until it says that it is established: it is served a moment before.
                let told = !request.contains("/customresourcedefinitions/") || is_established(&whole(response).await?);
                if told && status.map_or(code.is_success(), |status| u64::from(code.as_u16()) == status) {
                    return Ok(());
                }
                if begun.elapsed() > PATIENCE {
                    return Err(format!("{request}: still {code} after {PATIENCE:?}"));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(server: &dyn Transport, case: &Case) -> Result<Value, String> {
    let mut headers = case.headers.clone();
    if !case.body.is_empty() && !headers.iter().any(|(name, _)| name == "content-type") {
        headers.push(("content-type".into(), "application/json".into()));
    }
    if let Some(user) = &case.user {
        headers.push(("impersonate-user".into(), user.clone()));
    }
    let response = send(server, &case.request, &headers, case.body.clone()).await?;
    let status = response.status().as_u16();
    let texts = |name: &str| response.headers().get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect::<Vec<_>>();
    let (mut warnings, kind) = (texts("warning"), texts("content-type"));
    let mut others: Vec<_> = OTHER_HEADERS.iter().flat_map(|name| texts(name).into_iter().map(move |text| format!("{name}: {text}"))).collect();
    // A server without a connection has nobody to take the body away.
    let mut body = if case.request.starts_with("HEAD ") { "".into() } else { read(&whole(response).await?) };
    normalise(&mut body);
    if let Some(depth) = case.digest {
        if body["openapi"].is_string() || body["swagger"].is_string() {
            without_words(&mut body);
        }
        digest(&mut body, depth);
    }
    let mut answer = json!({"case": case.name, "status": status, "body": body});
    if !warnings.is_empty() {
        // Those of rules come in an order that is another each time.
        warnings.sort();
        answer["warnings"] = warnings.into();
    }
    if kind != ["application/json"] {
        answer["type"] = kind.into();
    }
    if !others.is_empty() {
        others.iter_mut().for_each(|text| *text = without_own(text));
        answer["headers"] = others.into();
    }
    Ok(answer)
}

/// Headers that are compared where they are, beside the content type and the warnings.
const OTHER_HEADERS: [&str; 4] = ["allow", "location", "retry-after", "www-authenticate"];

/// A body as a tree: of JSON, of a message, of a stream's documents; a text otherwise.
fn read(bytes: &[u8]) -> Value {
    if bytes.starts_with(machinery::proto::MAGIC) {
        return machinery::proto::decode(bytes).map_or_else(|e| json!({"unread": e.message}), |(gvk, object)| json!({"protobuf": gvk.kind, "object": object}));
    }
    if let Ok(tree) = serde_json::from_slice(bytes) {
        return tree;
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    let documents: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    documents.ok().filter(|documents| documents.len() > 1).map_or(Value::String(text), Value::Array)
}

/// Takes the descriptions out of a document: ours says some things in words of its own.
fn without_words(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "description" || !value.is_string());
            fields.values_mut().for_each(without_words);
        }
        Value::Array(items) => items.iter_mut().for_each(without_words),
        _ => {}
    }
}

/// Keeps a hash of what lies deeper.
fn digest(value: &mut Value, depth: usize) {
    match value {
        Value::Object(_) | Value::Array(_) if depth == 0 => *value = hash(&value.to_string()).into(),
        Value::Object(fields) => fields.values_mut().for_each(|value| digest(value, depth - 1)),
        Value::Array(items) => items.iter_mut().for_each(|value| digest(value, depth - 1)),
        _ => {}
    }
}

/// Enough of a hash to tell that something is another.
fn hash(text: &str) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(text.as_bytes()).iter().take(5).fold("#".to_owned(), |hash, byte| hash + &format!("{byte:02x}"))
}

/// Replaces what is another in each run: identities, revisions, times and ages, in fields and within texts.
fn normalise(value: &mut Value) {
    if value["kind"] == "SelfSubjectRulesReview" {
        // The bindings of roles are looked through in the order of a cache.
        for rules in ["resourceRules", "nonResourceRules"] {
            let rules = value.pointer_mut(&format!("/status/{rules}")).and_then(Value::as_array_mut);
            rules.into_iter().for_each(|rules| rules.sort_by_key(Value::to_string));
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "managedFields"
                    && let Some(entries) = value.as_array_mut()
                {
                    in_one_order(entries);
                }
                match name.as_str() {
                    "uid" | "resourceVersion" if value.is_string() => *value = "*".into(),
                    "continue" if value.as_str().is_some_and(|token| !token.is_empty()) => *value = "*".into(),
                    "cells" => value.as_array_mut().into_iter().flatten().for_each(|cell| {
                        normalise(cell);
                        without_age(cell);
                    }),
                    _ => normalise(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::String(text) => *text = without_own(text),
        _ => {}
    }
}

/// Owners are told by operation and second, those of one second by name (upstream's `sortEncodedManagedFields`). So whether two writes
/// fall into one second decides on their order: where it is as it must be, they are told without regard to time. Where it is not they
/// stay, and one more says so.
pub fn in_one_order(entries: &mut Vec<Value>) {
    let key = |entry: &Value, named: &[&str]| -> Vec<String> { named.iter().map(|part| entry[*part].as_str().unwrap_or_default().to_owned()).collect() };
    let ordered = entries.is_sorted_by_key(|entry| key(entry, &["operation", "time", "manager", "apiVersion", "subresource"]));
    if ordered {
        entries.sort_by_key(|entry| ["manager", "operation", "subresource", "apiVersion"].map(|part| entry[part].to_string()));
    } else {
        entries.push("not in upstream's order".into());
    }
}

/// A text without what is another in each run.
fn without_own(text: &str) -> String {
    static RUNS_OWN: LazyLock<Regex> = LazyLock::new(|| {
        let uid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
        let time = r"20(?:2[5-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z";
        let revision = r#"resourceVersion(?:: |\\?":\\?)"\d+\\?""#;
        Regex::new(&format!(
            "{uid}|{time}|{revision}|X509SHA256=[0-9a-f]{{64}}|10\\.77\\.0\\.1:6443|localhost:6443|revision=\\d+|in record \\(\\d+\\)|kube-api-access-[a-z0-9]{{5}}|\\b\\d+y\\d+d\\b"
        ))
        .expect("an expression")
    });
    RUNS_OWN.replace_all(text, "*").into_owned()
}

/// A cell that tells how long ago something was.
fn without_age(cell: &mut Value) {
    static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(?:\d+[smhdy])+$").expect("an expression"));
    if cell.as_str().is_some_and(|text| AGE.is_match(text)) {
        *cell = "*".into();
    }
}

async fn send(server: &dyn Transport, request: &str, headers: &[(String, String)], body: Vec<u8>) -> Result<Response<client::Body>, String> {
    let (verb, path) = request.split_once(' ').ok_or_else(|| format!("{request:?} is no verb and path"))?;
    let method: Method = verb.parse().map_err(|_| format!("{verb:?} is no verb"))?;
    let mut built = Request::builder().method(method).uri(path.replace(' ', "%20"));
    for (name, value) in headers {
        built = built.header(name, value);
    }
    let built = built.body(Bytes::from(body)).map_err(|e| format!("{request}: {e}"))?;
    server.send(built).await.map_err(|e| format!("{request}: {e}"))
}

async fn whole(response: Response<client::Body>) -> Result<Bytes, String> {
    response.into_body().collect().await.map(|body| body.to_bytes()).map_err(|e| e.to_string())
}
