//! Sends what a description says to a server and writes down what it answers, without what differs from run to run.

use super::description::{Case, Description, Step};
use bytes::Bytes;
use client::Transport;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use regex_lite::Regex;
use serde_json::{Value, json};
use std::{
    borrow::Cow,
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

async fn prepare(server: &dyn Transport, step: &Step) -> Result<(), String> {
    match step {
        Step::Send { request, body } => {
            let response = send(server, request, &[("content-type".into(), "application/json".into())], body.to_string().into_bytes()).await?;
            let (status, body) = (response.status(), whole(response).await?);
            if status.is_success() || status == StatusCode::CONFLICT { Ok(()) } else { Err(format!("{request}: {status} {}", String::from_utf8_lossy(&body))) }
        }
        Step::Until { request, body, status } => {
            let begun = Instant::now();
            let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            loop {
                let response = send(server, request, &[("content-type".into(), "application/json".into())], body.clone()).await?;
                if status.map_or(response.status().is_success(), |status| u64::from(response.status().as_u16()) == status) {
                    return Ok(());
                }
                if begun.elapsed() > PATIENCE {
                    return Err(format!("{request}: still {} after {PATIENCE:?}", response.status()));
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
    let (warnings, kind) = (texts("warning"), texts("content-type"));
    let bytes = whole(response).await?;
    let mut body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
    normalise(&mut body);
    let mut answer = json!({"case": case.name, "status": status, "body": body});
    if !warnings.is_empty() {
        answer["warnings"] = warnings.into();
    }
    if kind != ["application/json"] {
        answer["type"] = kind.into();
    }
    Ok(answer)
}

/// Replaces what is another in each run: identities, revisions, times and ages, in fields and within texts.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "uid" | "resourceVersion" if value.is_string() => *value = "*".into(),
                    "cells" => value.as_array_mut().into_iter().flatten().for_each(without_age),
                    _ => normalise(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::String(text) => {
            static RUNS_OWN: LazyLock<Regex> = LazyLock::new(|| {
                let uid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
                let time = r"20(?:2[5-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z";
                let revision = r#"resourceVersion(?:: |\\?":\\?)"\d+\\?""#;
                Regex::new(&format!("{uid}|{time}|{revision}|X509SHA256=[0-9a-f]{{64}}|revision=\\d+")).expect("an expression")
            });
            if let Cow::Owned(other) = RUNS_OWN.replace_all(text, "*") {
                *text = other;
            }
        }
        _ => {}
    }
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
