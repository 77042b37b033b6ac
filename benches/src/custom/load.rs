//! Many requests at once over one connection, and what they cost the server.

use super::send;
use crate::{process, stats::Samples};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use client::Client;
use futures_util::{StreamExt as _, stream};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Requests under way at once.
const WORKERS: usize = 32;
/// How long a watch may take for its events.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request: verb, path, content type, body.
pub(super) type Asked = (Method, String, &'static str, String);

/// A server under load.
pub(super) struct Load {
    pub(super) client: Client,
    pub(super) pids: Vec<i32>,
}

/// One phase's figures.
pub(super) struct Figures {
    pub(super) name: &'static str,
    /// Microseconds of the server's CPU a request (an event, for watches).
    pub(super) cpu: f64,
    pub(super) per_second: f64,
    /// Milliseconds.
    pub(super) p99: f64,
}

impl Load {
    fn cpu(&self) -> Duration {
        self.pids.iter().map(|pid| process::cpu(*pid)).sum()
    }

    fn figures(&self, name: &'static str, samples: &Samples, cpu: Duration, wall: Duration) -> Figures {
        let count = samples.count();
        Figures { name, cpu: cpu.as_secs_f64() * 1e6 / count, per_second: count / wall.as_secs_f64(), p99: samples.at(0.99) }
    }

    /// Does something `count` times, as many at once as there are workers; a failure ends the run.
    async fn run<F: Future<Output = anyhow::Result<()>>>(&self, name: &'static str, count: u32, work: impl Fn(u32) -> F) -> anyhow::Result<Figures> {
        let (cpu, begun) = (self.cpu(), Instant::now());
        let done = stream::iter(0..count).map(|i| {
            let work = work(i);
            async move {
                let sent = Instant::now();
                work.await.with_context(|| format!("{name} {i}"))?;
                anyhow::Ok(sent.elapsed())
            }
        });
        let mut done = done.buffer_unordered(WORKERS);
        let mut samples = Samples::default();
        while let Some(took) = done.next().await {
            samples.add(took?);
        }
        Ok(self.figures(name, &samples, self.cpu() - cpu, begun.elapsed()))
    }

    /// Makes requests, as many at once as there are workers; one that is refused ends the run.
    pub(super) async fn each(&self, name: &'static str, count: u32, request: impl Fn(u32) -> Asked) -> anyhow::Result<Figures> {
        let one = |i| {
            let (method, path, kind, body) = request(i);
            async move { send(&self.client, method, &path, kind, body).await.map(drop) }
        };
        self.run(name, count, one).await
    }

    /// Reads objects and writes them back changed: a request here is both, as an update is.
    pub(super) async fn update(&self, name: &'static str, count: u32, path: impl Fn(u32) -> String) -> anyhow::Result<Figures> {
        let one = |i: u32| {
            let path = path(i);
            async move {
                let mut object = self.read(&path).await?;
                object["spec"]["number3"] = i.into();
                send(&self.client, Method::PUT, &path, "application/json", object.to_string()).await.map(drop)
            }
        };
        self.run(name, count, one).await
    }

    async fn read(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&send(&self.client, Method::GET, path, "", String::new()).await?)?)
    }

    /// `watchers` watches of one object's changes; each delivery is timed from the write that it tells of.
    pub(super) async fn watch(&self, path: &str, watchers: usize, changes: u32) -> anyhow::Result<Figures> {
        let object = format!("{path}/widget-0");
        let now = self.read(&object).await?;
        let revision = now["metadata"]["resourceVersion"].as_str().context("a resourceVersion")?;
        let uri = format!("{path}?watch=true&fieldSelector=metadata.name%3Dwidget-0&resourceVersion={revision}");
        let mut tasks = Vec::new();
        for _ in 0..watchers {
            let response = self.client.raw(Request::get(&uri).body(Bytes::new())?).await?;
            tasks.push(tokio::spawn(deliveries(response.into_body(), changes)));
        }
        let (cpu, begun) = (self.cpu(), Instant::now());
        let mut sent = Vec::new();
        for change in 0..changes {
            sent.push(Instant::now());
            let body = format!(r#"{{"spec":{{"number2":{change}}}}}"#);
            send(&self.client, Method::PATCH, &object, "application/merge-patch+json", body).await?;
        }
        let mut samples = Samples::default();
        for task in tasks {
            for (sent, came) in sent.iter().zip(task.await??) {
                samples.add(came.saturating_duration_since(*sent));
            }
        }
        Ok(self.figures("watch", &samples, self.cpu() - cpu, begun.elapsed()))
    }
}

/// When each of so many events came.
async fn deliveries(mut body: client::Body, count: u32) -> anyhow::Result<Vec<Instant>> {
    let mut came = Vec::new();
    let all = async {
        while came.len() < count as usize {
            let Some(frame) = body.frame().await else { bail!("the watch ended after {} events", came.len()) };
            let data = frame.map_err(|e| anyhow::anyhow!(e))?.into_data().unwrap_or_default();
            let now = Instant::now();
            came.extend(data.iter().filter(|b| **b == b'\n').map(|_| now));
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await??;
    Ok(came)
}
