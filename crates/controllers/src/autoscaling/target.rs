//! What an autoscaler scales: any kind with a `scale` subresource, found by discovery.

use std::sync::Arc;
use std::time::Duration;

use client::Client;
use k8s_openapi::api::autoscaling::v1::Scale;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::discovery::{self, Served};

/// What is served is asked anew after this (upstream resets its mapper every thirty seconds)…
const KEPT: Duration = Duration::from_secs(30);
/// … and after this if a kind is not found: a thousand autoscalers of one must not ask a thousand times.
const KEPT_UNKNOWN: Duration = Duration::from_secs(5);
/// A write that meets another's is tried so often in all, with so long between (upstream `retry.DefaultRetry`).
const TRIES: usize = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

type All = Arc<Vec<Arc<Served>>>;

/// Finds, reads and scales targets.
pub(crate) struct Targets {
    client: Client,
    known: Mutex<Option<(Instant, All)>>,
    /// One asks for all that wait.
    asking: tokio::sync::Mutex<()>,
}

impl Targets {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn known(&self, for_at_most: Duration) -> Option<All> {
        self.known.lock().as_ref().filter(|(at, _)| at.elapsed() < for_at_most).map(|(_, all)| all.clone())
    }

    async fn served(&self, for_at_most: Duration) -> Result<All, String> {
        if let Some(all) = self.known(for_at_most) {
            return Ok(all);
        }
        let _one = self.asking.lock().await;
        if let Some(all) = self.known(for_at_most) {
            return Ok(all);
        }
        let (all, _) = discovery::resources(&self.client).await.map_err(|e| e.to_string())?;
        let all: All = Arc::new(all.into_iter().map(Arc::new).collect());
        *self.known.lock() = Some((Instant::now(), all.clone()));
        Ok(all)
    }

    /// The resource of a kind, if there is one.
    pub(crate) async fn look_up(&self, group: &str, kind: &str) -> Result<Option<Arc<Served>>, String> {
        let of = |all: &All| all.iter().find(|s| s.group == group && s.kind == kind).cloned();
        if let Some(served) = of(&self.served(KEPT).await?) {
            return Ok(Some(served));
        }
        Ok(of(&self.served(KEPT_UNKNOWN).await?))
    }

    /// The resource of a kind.
    pub(super) async fn find(&self, group: &str, kind: &str) -> Result<Arc<Served>, String> {
        self.look_up(group, kind).await?.ok_or_else(|| format!("no matches for kind {kind:?} in group {group:?}"))
    }

    /// How many there are to be, and are.
    pub(crate) async fn scale(&self, served: &Served, namespace: &str, name: &str) -> client::Result<Scale> {
        self.client.at::<Scale>(served.path_in(namespace)).get_subresource(name, "scale").await
    }

    /// Makes it so many; what the server has then.
    pub(super) async fn rescale(&self, served: &Served, namespace: &str, name: &str, mut scale: Scale, replicas: i32) -> client::Result<Scale> {
        let api = self.client.at::<Scale>(served.path_in(namespace));
        let mut tries_left = TRIES;
        loop {
            tries_left -= 1;
            scale.spec.get_or_insert_default().replicas = Some(replicas);
            match api.replace_subresource(name, "scale", &scale).await {
                Err(error) if error.is_conflict() && tries_left > 0 => {
                    if let Ok(latest) = api.get_subresource(name, "scale").await {
                        scale = latest;
                    }
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                done => return done,
            }
        }
    }
}

/// The group that an API version names.
///
/// # Errors
/// Upstream's wording, for what is none.
pub(super) fn group_of(api_version: &str) -> Result<&str, String> {
    match api_version.matches('/').count() {
        0 => Ok(""),
        1 => Ok(api_version.split_once('/').map_or("", |(group, _)| group)),
        _ => Err(format!("unexpected GroupVersion string: {api_version}")),
    }
}
