//! The shop's page: who answers, what it was configured with, what the backend and the API server say.
//!
//! What others say is asked for at most every second and shown from memory meanwhile, so that a slow backend makes an
//! old page, not a slow one.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::fetch;
use super::me::{Answer, Me, env};

/// How old the backend's answer may be.
const BACKEND_AGE: Duration = Duration::from_secs(1);
/// How old the API server's answer may be.
const CLUSTER_AGE: Duration = Duration::from_secs(5);
/// How long the backend is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of a file that are shown.
const SHOWN_MAX: usize = 400;

pub struct Web {
    me: Me,
    backend_url: Option<String>,
    folders: Vec<String>,
    cluster: Arc<Cluster>,
    backend: Memory,
    pods: Memory,
}

impl Web {
    pub fn new(me: Me) -> Self {
        let folders = env("SHOP_FILES").unwrap_or_default().split(':').filter(|f| !f.is_empty()).map(str::to_owned).collect();
        let cluster = Arc::new(Cluster::new(&me.namespace));
        Self { me, backend_url: env("SHOP_BACKEND"), folders, cluster, backend: Memory::default(), pods: Memory::default() }
    }

    pub async fn page(&self, path: &str, headers: &HeaderMap) -> Option<Answer> {
        if path != "/" && path != "/json" {
            return None;
        }
        let facts = self.facts().await;
        let machine = path == "/json" || headers.get(header::ACCEPT).is_some_and(|a| a == "application/json");
        Some(if machine { (StatusCode::OK, "application/json", format!("{facts:#}\n")) } else { (StatusCode::OK, "text/html; charset=utf-8", html(&facts)) })
    }

    async fn facts(&self) -> Value {
        let url = self.backend_url.clone();
        let backend = self.backend.get(BACKEND_AGE, move || async move {
            let url = url.ok_or("SHOP_BACKEND is not set")?;
            let text = fetch::get(&url, PATIENCE).await?;
            serde_json::from_str::<Value>(&text).map_err(|e| e.to_string())
        });
        let cluster = self.cluster.clone();
        let pods = self.pods.get(CLUSTER_AGE, move || async move { cluster.pods().await.map(|p| json!(p)) });
        let (backend, pods) = tokio::join!(backend, pods);
        let me = &self.me;
        json!({
            "version": me.version, "pod": me.pod, "namespace": me.namespace, "node": me.node, "ip": me.ip,
            "environment": environment(std::env::vars()),
            "files": self.folders.iter().flat_map(|f| files(f)).collect::<serde_json::Map<_, _>>(),
            "backend": backend, "pods": pods,
        })
    }
}

/// Something that was asked for, and when.
#[derive(Default)]
struct Memory {
    state: Arc<Mutex<Remembered>>,
}

#[derive(Default)]
struct Remembered {
    at: Option<Instant>,
    value: Value,
    asking: bool,
}

impl Memory {
    /// What is remembered, asking anew beside if it is too old; the first time the answer is waited for.
    async fn get<F>(&self, age: Duration, ask: impl FnOnce() -> F) -> Value
    where
        F: Future<Output = Result<Value, String>> + Send + 'static,
    {
        let first = {
            let mut state = self.state.lock();
            if state.asking || state.at.is_some_and(|at| at.elapsed() < age) {
                return state.value.clone();
            }
            state.asking = true;
            state.at.is_none()
        };
        let (shared, work) = (self.state.clone(), ask());
        let task = tokio::spawn(async move {
            let value = work.await.unwrap_or_else(|error| json!({"error": error}));
            *shared.lock() = Remembered { at: Some(Instant::now()), value, asking: false };
        });
        if first {
            // It cannot fail: the work has no panic in it, and nobody aborts it.
            let _ = task.await;
        }
        self.state.lock().value.clone()
    }
}

/// The variables that the manifest sets, without those that are nobody's business.
fn environment(all: impl Iterator<Item = (String, String)>) -> Value {
    let mut ours: Vec<(String, String)> = all.filter(|(name, _)| name.starts_with("SHOP_")).collect();
    ours.sort();
    ours.into_iter()
        .map(|(name, value)| {
            let shown = masked(&name, &value);
            (name, shown.into())
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A secret's length instead of the secret.
fn masked(name: &str, value: &str) -> String {
    let name = name.to_ascii_uppercase();
    if ["SECRET", "PASSWORD", "TOKEN"].iter().any(|word| name.contains(word)) {
        return format!("({} bytes, kept to itself)", value.len());
    }
    value.chars().take(SHOWN_MAX).collect()
}

/// The files of a mounted volume.
fn files(folder: &str) -> Vec<(String, Value)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![(folder.to_owned(), "is not there".into())] };
    let mut out: Vec<(String, Value)> = entries
        .flatten()
        // `..data` and its like are the kubelet's own: how it changes all files at once.
        .filter(|e| !e.file_name().to_string_lossy().starts_with("..") && e.path().is_file())
        .map(|e| {
            let path = e.path().display().to_string();
            let text = std::fs::read(e.path()).map_or_else(|e| e.to_string(), |b| String::from_utf8_lossy(&b).into_owned());
            (path.clone(), masked(&path, &text).into())
        })
        .collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => escaped(text),
        Value::Array(list) if list.iter().all(Value::is_string) => list.iter().map(shown).collect::<Vec<_>>().join("<br>"),
        other => format!("<pre>{}</pre>", escaped(&format!("{other:#}"))),
    }
}

fn table(title: &str, rows: &Value) -> String {
    let rows: String = rows.as_object().into_iter().flatten().map(|(k, v)| format!("<tr><th>{}<td>{}", escaped(k), shown(v))).collect();
    format!("<h2>{title}</h2><table>{rows}</table>")
}

fn html(facts: &Value) -> String {
    let text = |key: &str| facts[key].as_str().map(escaped).unwrap_or_default();
    let version = text("version");
    let hue = if version == "v1" { 210 } else { 130 };
    let title = facts["environment"]["SHOP_TITLE"].as_str().map_or_else(|| "The shop".into(), escaped);
    let greeting = facts["environment"]["SHOP_GREETING"].as_str().map(escaped).unwrap_or_default();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title} {version}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222}}\
         header{{background:hsl({hue},55%,35%);color:#fff;padding:1rem 1.5rem;border-radius:.5rem}}h1{{margin:0}}\
         table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ddd}}\
         th{{width:38%;font-weight:500;overflow-wrap:anywhere}}pre{{margin:0;white-space:pre-wrap}}</style>\
         <header><h1>{title} <small>{version}</small></h1>{greeting}<br>answered by <b>{}</b> on {}</header>{}{}\
         <h2>The backend says</h2>{}<h2>The API server says</h2>{}</html>\n",
        text("pod"),
        text("node"),
        table("Environment, from the ConfigMap and the Secret", &facts["environment"]),
        table("Files, from the volumes", &facts["files"]),
        shown(&facts["backend"]),
        match facts["pods"].as_array() {
            Some(pods) => format!("<p>{} pods in the namespace {}:</p><p>{}</p>", pods.len(), text("namespace"), shown(&facts["pods"])),
            None => shown(&facts["pods"]),
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_texts_are_escaped() {
        let vars = [("SHOP_TITLE", "a<b"), ("SHOP_PASSWORD", "hunter2"), ("HOME", "/")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let environment = environment(vars.into_iter());
        assert_eq!(environment, json!({"SHOP_TITLE": "a<b", "SHOP_PASSWORD": "(7 bytes, kept to itself)"}));
        let page = html(&json!({"version": "v2", "environment": environment, "files": {}, "backend": {"error": "<x>"}, "pods": ["p"]}));
        assert!(page.contains("a&lt;b") && page.contains("&lt;x&gt;") && page.contains("1 pods") && !page.contains("hunter2"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_shown_while_it_is_asked_for_again() {
        let memory = Memory::default();
        let ask = |n: u32, takes: u64| {
            move || async move {
                tokio::time::sleep(Duration::from_secs(takes)).await;
                Ok(json!(n))
            }
        };
        let age = Duration::from_secs(1);
        assert_eq!(memory.get(age, ask(1, 1)).await, 1, "the first is waited for");
        assert_eq!(memory.get(age, ask(2, 1)).await, 1, "fresh");
        tokio::time::sleep(age).await;
        let began = Instant::now();
        assert_eq!(memory.get(age, ask(3, 60)).await, 1, "old, but at once");
        assert_eq!(began.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(memory.get(age, ask(4, 0)).await, 3);
    }
}
