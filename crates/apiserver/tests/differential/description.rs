//! A description is a readable file that stands for many requests: what is set up first, an object that is right, and the
//! ways in which each case departs from it.
//!
//! ```yaml
//! about: what is compared, in a sentence
//! plugins: [AlwaysPullImages]             # of admission, on beside those that are by themselves
//! setup:                                  # must succeed, or be there already; not compared
//!   - {send: POST /api/v1/namespaces, body: {…}}
//!   - {until: GET /apis/example.com/v1/widgets}          # asked again until it succeeds
//!   - {until: POST /api/v1/namespaces?dryRun=All, body: {…}, status: 422}          # or until it is this
//! request: POST /apis/example.com/v1/widgets?dryRun=All  # of each case that names none
//! headers: {content-type: application/json}              # likewise
//! base: {…}                               # the body of each case that has none, changed by what the case says
//! bases: {other: {…}}                     # more of them, by name
//! cases:
//!   - {name: the right one}
//!   - {name: no names, remove: [/spec/names]}            # JSON pointers
//!   - {name: a scope, set: {/spec/scope: Galaxy}}        # what lies between is made
//!   - {name: scopes, each: {/spec/scope: ["", x, 1]}}    # a case for each; several pointers: each combination
//!   - {name: other, request: GET /version, as: alice, base: other, body: {…}, raw: "text", headers: {accept: …}}
//!   - {name: many, request: [GET /a, GET /b], query: [x=1, x=2], raw: [a, b], headers: {accept: [a, b]}}  # each combination
//!   - {name: bodies, bodies: [{…}, […]]}                 # a case for each
//!   - {name: a number as it is spelled, body: {a: "number:1.0"}}  # YAML has no floats without a fraction
//!   - {name: bytes, encode: protobuf}                    # the body is of a built-in kind
//!   - {name: a large answer, digest: 3}                  # what lies deeper than this is kept as a hash
//!   - {name: by what holds now, wait: {until: …}}        # a step of waiting before it, where a former case counts only after a while
//! cleanup: [DELETE /…]                    # not compared, may fail
//! ```

use serde_json::{Map, Value};
use std::{fs, path::Path};

/// A file of requests.
pub struct Description {
    #[allow(dead_code, reason = "who records starts the original with them")]
    pub plugins: Vec<String>,
    pub setup: Vec<Step>,
    pub cases: Vec<Case>,
    pub cleanup: Vec<String>,
}

/// What must have happened before the cases, or before one of them.
#[derive(Clone)]
pub enum Step {
    Send { request: String, body: Value },
    Until { request: String, body: Value, status: Option<u64> },
}

/// One request that is compared.
pub struct Case {
    pub name: String,
    /// Verb and path.
    pub request: String,
    /// Impersonated; the administrator otherwise.
    pub user: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How deep the answer is kept as it is.
    pub digest: Option<usize>,
    /// What is waited for before it is sent.
    pub wait: Option<Step>,
}

impl Description {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let told = |why: String| format!("{}: {why}", path.display());
        let file = machinery::yaml::decode(&text, None, machinery::json::Validation::Strict).map_err(|e| told(e.message))?.value;
        let known = ["about", "plugins", "setup", "request", "headers", "base", "bases", "cases", "cleanup"];
        if let Some(unknown) = file.as_object().into_iter().flatten().find(|(key, _)| !known.contains(&key.as_str())) {
            return Err(told(format!("unknown key {}", unknown.0)));
        }
        let setup = list(&file["setup"]).iter().map(step).collect::<Result<_, _>>().map_err(told)?;
        let mut cases = Vec::new();
        for case in list(&file["cases"]) {
            expand(&file, case, &mut cases).map_err(told)?;
        }
        let cleanup = list(&file["cleanup"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let plugins = list(&file["plugins"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self { plugins, setup, cases, cleanup })
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn step(step: &Value) -> Result<Step, String> {
    match (step["send"].as_str(), step["until"].as_str()) {
        (Some(request), None) => Ok(Step::Send { request: request.into(), body: step["body"].clone() }),
        (None, Some(request)) => Ok(Step::Until { request: request.into(), body: step["body"].clone(), status: step["status"].as_u64() }),
        _ => Err(format!("a step either sends or waits: {step}")),
    }
}

/// The keys of an entry.
const KEYS: [&str; 15] = ["name", "request", "query", "as", "headers", "base", "set", "remove", "each", "body", "bodies", "raw", "encode", "digest", "wait"];

/// The cases that one entry stands for.
fn expand(file: &Value, entry: &Value, cases: &mut Vec<Case>) -> Result<(), String> {
    if let Some(unknown) = entry.as_object().into_iter().flatten().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(format!("unknown key {} in {entry}", unknown.0));
    }
    let name = entry["name"].as_str().ok_or_else(|| format!("a case without a name: {entry}"))?;
    let requests = texts(if entry["request"].is_null() { &file["request"] } else { &entry["request"] });
    if requests.is_empty() {
        return Err(format!("{name}: no request"));
    }
    let mut drafts = widen(vec![(name.to_owned(), Draft::default())], &requests, |draft, request| draft.request.clone_from(request));
    drafts = widen(drafts, &texts(&entry["query"]), |draft, query| {
        draft.request.push(if draft.request.contains('?') { '&' } else { '?' });
        draft.request.push_str(query);
    });
    for (key, value) in [&file["headers"], &entry["headers"]].into_iter().filter_map(Value::as_object).flatten() {
        drafts = widen(drafts, &texts(value), |draft, value| {
            draft.headers.retain(|(known, _)| known != key);
            draft.headers.push((key.clone(), value.clone()));
        });
    }
    let bodies = bodies(file, entry)?;
    let wait = (!entry["wait"].is_null()).then(|| step(&entry["wait"])).transpose()?;
    let with_bodies =
        drafts.iter().flat_map(|(name, draft)| bodies.iter().map(move |(at, body)| (format!("{name}{at}"), Draft { body: body.clone(), ..draft.clone() })));
    for (name, draft) in with_bodies {
        if cases.iter().any(|c| c.name == name) {
            return Err(format!("two cases are called {name:?}"));
        }
        let body = if draft.request.starts_with("GET ") { Vec::new() } else { draft.body };
        let digest = entry["digest"].as_u64().map(|depth| depth as usize);
        cases.push(Case {
            name,
            request: draft.request,
            user: entry["as"].as_str().map(str::to_owned),
            headers: draft.headers,
            body,
            digest,
            wait: wait.clone(),
        });
    }
    Ok(())
}

/// A case while its parts are put together.
#[derive(Default, Clone)]
struct Draft {
    request: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A text, or each of several.
fn texts(value: &Value) -> Vec<String> {
    value.as_str().into_iter().chain(list(value).iter().filter_map(Value::as_str)).map(str::to_owned).collect()
}

/// Each of the drafts with each of the options, numbered if there are several.
fn widen(drafts: Vec<(String, Draft)>, options: &[String], with: impl Fn(&mut Draft, &String)) -> Vec<(String, Draft)> {
    if options.is_empty() {
        return drafts;
    }
    let mut all = Vec::new();
    for (name, draft) in drafts {
        for (at, option) in options.iter().enumerate() {
            let mut draft = draft.clone();
            with(&mut draft, option);
            all.push((if options.len() > 1 { format!("{name}, {}", at + 1) } else { name.clone() }, draft));
        }
    }
    all
}

/// The bodies that an entry sends, each with what its name ends with.
fn bodies(file: &Value, entry: &Value) -> Result<Vec<(String, Vec<u8>)>, String> {
    let raw = texts(&entry["raw"]);
    if !raw.is_empty() {
        let number = |at: usize| if raw.len() > 1 { format!(", {}", at + 1) } else { String::new() };
        return Ok(raw.iter().enumerate().map(|(at, text)| (number(at), text.clone().into_bytes())).collect());
    }
    let base = match entry["base"].as_str() {
        Some(base) => &file["bases"][base],
        None => &file["base"],
    };
    let mut bodies = match list(&entry["bodies"]) {
        [] => vec![(String::new(), if entry["body"].is_null() { base.clone() } else { entry["body"].clone() })],
        bodies => bodies.iter().enumerate().map(|(at, body)| (format!(", {}", at + 1), body.clone())).collect(),
    };
    for (_, body) in &mut bodies {
        for pointer in list(&entry["remove"]).iter().filter_map(Value::as_str) {
            remove(body, pointer);
        }
        for (pointer, value) in entry["set"].as_object().into_iter().flatten() {
            set(body, pointer, value.clone())?;
        }
    }
    for (pointer, values) in entry["each"].as_object().into_iter().flatten() {
        let mut more = Vec::new();
        for (name, body) in &bodies {
            for (at, value) in list(values).iter().enumerate() {
                let mut body = body.clone();
                set(&mut body, pointer, value.clone())?;
                more.push((format!("{name}, {}", at + 1), body));
            }
        }
        bodies = more;
    }
    bodies.into_iter().map(|(name, body)| Ok((name, encoded(&body, entry["encode"].as_str())?))).collect()
}

/// Numbers that the body is to spell so.
fn spelled(text: &str) -> String {
    let mut parts = text.split("\"number:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + &part.replacen('"', "", 1))
}

/// The body as it goes over the wire.
fn encoded(body: &Value, encoding: Option<&str>) -> Result<Vec<u8>, String> {
    match encoding {
        _ if body.is_null() => Ok(Vec::new()),
        None => Ok(spelled(&body.to_string()).into_bytes()),
        Some("protobuf") => {
            let text = |key: &str| body[key].as_str().unwrap_or_default();
            let gvk = machinery::gvk::Gvk::parse(text("apiVersion"), text("kind"));
            let ty = machinery::schema::builtin().kind(&gvk).ok_or_else(|| format!("{gvk:?} is no built-in kind"))?;
            Ok(machinery::proto::encode(ty, body))
        }
        Some(other) => Err(format!("{other} is no encoding")),
    }
}

/// The last part of a JSON pointer, and what holds it.
fn split(pointer: &str) -> (Vec<String>, String) {
    let mut parts: Vec<String> = pointer.split('/').skip(1).map(|p| p.replace("~1", "/").replace("~0", "~")).collect();
    let last = parts.pop().unwrap_or_default();
    (parts, last)
}

fn set(body: &mut Value, pointer: &str, value: Value) -> Result<(), String> {
    let (parents, last) = split(pointer);
    let mut at = body;
    for part in parents {
        at = match at {
            Value::Array(items) => part.parse::<usize>().ok().and_then(|n| items.get_mut(n)).ok_or_else(|| format!("{pointer}: no element {part}"))?,
            other => {
                if !other.is_object() {
                    *other = Value::Object(Map::new());
                }
                &mut other[part]
            }
        };
    }
    match at {
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => *last.parse::<usize>().ok().and_then(|n| items.get_mut(n)).ok_or_else(|| format!("{pointer}: no element {last}"))? = value,
        other => {
            if !other.is_object() {
                *other = Value::Object(Map::new());
            }
            other[last] = value;
        }
    }
    Ok(())
}

fn remove(body: &mut Value, pointer: &str) {
    let (parents, last) = split(pointer);
    let parent = parents.iter().map(|p| format!("/{}", p.replace('~', "~0").replace('/', "~1"))).collect::<String>();
    match body.pointer_mut(&parent) {
        Some(Value::Object(fields)) => {
            fields.remove(&last);
        }
        Some(Value::Array(items)) => {
            if let Some(at) = last.parse::<usize>().ok().filter(|at| *at < items.len()) {
                items.remove(at);
            }
        }
        _ => {}
    }
}
