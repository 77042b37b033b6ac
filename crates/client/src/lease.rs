//! One of several: leadership by a Lease, as `client-go/tools/leaderelection` plays it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Client;
use crate::error::{Error, Result};
use crate::now_micro;
use crate::object::Meta;

/// Who holds a lease, and for how long.
#[derive(Clone, Debug)]
pub struct Config {
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// Who asks: unique among those who do.
    pub identity: String,
    /// A holder that has not renewed for this long has lost it.
    pub lease_duration: Duration,
    /// The holder gives up if it could not renew for this long; shorter than the lease.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
}

impl Config {
    /// Upstream's periods: 15, 10 and 2 seconds.
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Competes for a lease.
#[derive(Debug)]
pub struct LeaderElector {
    client: Client,
    config: Config,
    /// The lease's revision as last seen, and when by this process' own clock: others' clocks are not trusted.
    seen: Option<(String, Instant)>,
}

impl LeaderElector {
    /// Does not ask yet.
    #[must_use]
    pub fn new(client: Client, config: Config) -> Self {
        Self { client, config, seen: None }
    }

    /// Waits until this process leads. Leadership lasts until the returned token is cancelled: when it could not be
    /// renewed in time, or when `stop` is (the lease is given back then).
    pub async fn lead(mut self, stop: CancellationToken) -> Option<CancellationToken> {
        loop {
            match self.try_once().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, lease = self.config.name, "leader election"),
            }
            tokio::select! { () = stop.cancelled() => return None, () = tokio::time::sleep(self.config.retry_period) => {} }
        }
        let leading = stop.child_token();
        tokio::spawn({
            let leading = leading.clone();
            async move {
                self.renew(&leading).await;
                leading.cancel();
            }
        });
        Some(leading)
    }

    async fn renew(&mut self, leading: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = leading.cancelled() => return self.release().await,
                () = tokio::time::sleep(self.config.retry_period) => {}
            }
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_once()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(_)) if Instant::now() < deadline => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Takes or renews the lease; whether it is held now.
    async fn try_once(&mut self) -> Result<bool> {
        let api = self.client.namespaced::<Lease>(&self.config.namespace);
        let Some(mut lease) = api.get_opt(&self.config.name).await? else {
            let meta = ObjectMeta { name: Some(self.config.name.clone()), namespace: Some(self.config.namespace.clone()), ..ObjectMeta::default() };
            let spec = self.spec(0, true, None);
            return match api.create(&Lease { metadata: meta, spec: Some(spec) }).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let mine = holder == self.config.identity;
        if self.seen.as_ref().is_none_or(|(version, _)| version != lease.resource_version()) {
            self.seen = Some((lease.resource_version().to_owned(), Instant::now()));
        }
        let lasts = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        let stands = self.seen.as_ref().is_some_and(|(_, at)| at.elapsed() < lasts);
        if !mine && !holder.is_empty() && stands {
            return Ok(false);
        }
        let former = if mine { Some(spec.clone()) } else { None };
        lease.spec = Some(self.spec(spec.lease_transitions.unwrap_or(0), mine, former));
        match api.replace(&self.config.name, &lease).await {
            Ok(lease) => {
                self.seen = Some((lease.resource_version().to_owned(), Instant::now()));
                Ok(true)
            }
            Err(error) if error.is_conflict() => {
                if mine {
                    Err(Error::Transport("the lease changed while it was renewed".to_owned()))
                } else {
                    Ok(false)
                }
            }
            Err(error) => Err(error),
        }
    }

    fn spec(&self, transitions: i32, mine: bool, former: Option<LeaseSpec>) -> LeaseSpec {
        let now = now_micro();
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.lease_duration.as_secs()).ok(),
            acquire_time: former.and_then(|f| f.acquire_time).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the lease back, so that the next need not wait.
    async fn release(&mut self) {
        let api = self.client.namespaced::<Lease>(&self.config.namespace);
        let Ok(mut lease) = api.get(&self.config.name).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.config.identity)) else { return };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = api.replace(&self.config.name, &lease).await {
            tracing::debug!(%error, "lease not given back");
        }
    }
}
