//! Gives claims their devices before their pod is bound: the finalizer, the allocation and the reservation are written, and drivers that
//! must bind a device are waited for (KEP 5007). What was written is not taken back when the pod is not bound after all but for the
//! reservation: the next attempt uses it.

use std::sync::Arc;
use std::time::Duration;

use client::devices::{FINALIZER, allocation, is_reserved_for, results};
use client::{Client, DeleteParams, Error, EventType, Meta, Patch, PatchParams};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use serde_json::json;
use tokio::time::Instant;

use super::bind::Work;
use super::{Report, write};
use crate::plugins::dynamic_resources::{Grant, is_late, is_ready, must_be_bound};

/// How often a claim is written that meets other writers, and how long between (upstream `retry.DefaultRetry`).
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// Why a claim was not written.
struct Failure {
    message: String,
    is_conflict: bool,
}

/// Why a pod's devices were not bound by their drivers.
enum Unbound {
    /// A driver says that it cannot.
    Failed(String),
    /// It took too long.
    Late(String),
    /// There is nothing to be bound any more.
    Gone(String),
}

impl Unbound {
    /// How it is counted, and what is told.
    fn told(self) -> (&'static str, String) {
        match self {
            Self::Failed(why) => ("failure", why),
            Self::Late(why) => ("timeout", why),
            Self::Gone(why) => ("error", why),
        }
    }
}

impl Failure {
    fn of(what: &str, claim: &ResourceClaim, error: &Error) -> Self {
        Self { message: format!("{what} claim {}: {error}", claim.key()), is_conflict: error.is_conflict() }
    }

    fn final_one(message: String) -> Self {
        Self { message, is_conflict: false }
    }
}

impl Work {
    /// Writes what the claims are given.
    pub(super) async fn grant(&mut self) -> Result<(), String> {
        for grant in &mut self.grants {
            if is_reserved_for(&grant.claim, self.pod.uid()) {
                continue;
            }
            if grant.mappings.is_some() {
                let made = create(&self.client, &grant.claim).await;
                self.metrics.claims_made.count(&grant.claim, made.is_ok());
                let made = made?;
                let _ = self.reports.send(Report::Claimed(grant.claim.uid().to_owned(), made.uid().to_owned()));
                grant.claim = Arc::new(made);
            }
            let claim = write(&self.client, &self.pod, grant).await?;
            grant.is_written = true;
            let revision = super::bind::revision(&claim);
            // The scheduler may have ended: then nobody needs to know.
            let _ = self.reports.send(Report::Devices(claim.key(), claim.uid().to_owned(), revision));
            grant.claim = Arc::new(claim);
            if let Some(mappings) = &grant.mappings {
                let told = json!({"extendedResourceClaimStatus": {"resourceClaimName": grant.claim.name(), "requestMappings": mappings}});
                let (namespace, name) = (self.pod.namespace(), self.pod.name());
                let done = super::write::patch_status(&self.client, &self.pod, told, None).await;
                done.map_err(|error| format!("update pod {namespace}/{name} ExtendedResourceClaimStatus: {error}"))?;
            }
        }
        Ok(())
    }

    /// Waits until drivers have bound the devices, where they must.
    pub(super) async fn devices_bound(&mut self) -> Result<(), String> {
        if !self.grants.iter().any(|grant| must_be_bound(&grant.claim)) {
            return Ok(());
        }
        let text = format!("waiting for binding conditions for device on node {}", self.node.name());
        self.recorder.event(&client::object_reference(&*self.pod), EventType::Normal, write::PENDING, text);
        let (begun, late) = (Instant::now(), "device binding timeout: context deadline exceeded");
        let done = tokio::time::timeout(self.device_patience, self.all_bound()).await.unwrap_or_else(|_| Err(Unbound::Late(late.to_owned())));
        let (status, done) = match done.map_err(Unbound::told) {
            Ok(()) => ("success", Ok(())),
            Err((status, why)) => (status, Err(why)),
        };
        let given = self.grants.iter().flat_map(|grant| results(&grant.claim));
        let devices = given.map(|one| (one.driver.as_str(), one.binding_conditions.as_ref().is_some_and(|wanted| !wanted.is_empty())));
        self.metrics.devices_waited(&self.profile, devices, status, begun.elapsed());
        done
    }

    async fn all_bound(&mut self) -> Result<(), Unbound> {
        loop {
            let mut all = true;
            for grant in &mut self.grants {
                let (namespace, name) = (grant.claim.namespace(), grant.claim.name());
                let now = self.device_claims.get(namespace, name).filter(|now| now.uid() == grant.claim.uid());
                let now = now.ok_or_else(|| Unbound::Gone(format!("could not find ResourceClaim \"{namespace}/{name}\"")))?;
                let older = |a: &ResourceClaim, b: &ResourceClaim| super::bind::revision(a) < super::bind::revision(b);
                if !older(&now, &grant.claim) {
                    grant.claim = now;
                }
                if !is_ready(&grant.claim).map_err(Unbound::Failed)? {
                    if is_late(&grant.claim, self.device_patience) {
                        return Err(Unbound::Late(format!("device binding timeout: claim={}", grant.claim.name())));
                    }
                    all = false;
                }
            }
            if all {
                return Ok(());
            }
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes the pod's reservations back. Who has the claim else keeps it, and so does the claim its devices; one that was made for this placement
    /// goes.
    pub(super) async fn unreserve(&self) {
        for grant in &self.grants {
            let claim = &grant.claim;
            if grant.mappings.is_some() {
                // One that has no name was not made.
                if !claim.name().is_empty()
                    && let Err(error) = delete(&self.client, claim).await
                {
                    // The next attempt finds it, or the garbage collector when the pod is gone.
                    tracing::warn!(%error, claim = %claim.key(), "a claim for extended resources could not be deleted");
                }
                continue;
            }
            if allocation(claim).is_none() || !is_reserved_for(claim, self.pod.uid()) {
                continue;
            }
            let patch = json!({"metadata": {"uid": claim.uid()}, "status": {"reservedFor": [{"$patch": "delete", "uid": self.pod.uid()}]}});
            let api = self.client.namespaced::<ResourceClaim>(claim.namespace());
            if let Err(error) = api.patch_status(claim.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
                // The next attempt finds it reserved, or the controller takes it from a pod that is gone.
                tracing::warn!(%error, claim = %claim.key(), "a reservation could not be taken back");
            }
        }
    }
}

/// Makes a claim that is only in memory.
async fn create(client: &Client, claim: &ResourceClaim) -> Result<ResourceClaim, String> {
    let mut new = claim.clone();
    new.metadata.uid = None;
    let made = client.namespaced::<ResourceClaim>(claim.namespace()).create(&new).await;
    made.map_err(|error| format!("create claim for extended resources {}/: {error}", claim.namespace()))
}

/// Writes what a claim is given; the claim as it is then.
async fn write(client: &Client, pod: &Pod, grant: &Grant) -> Result<ResourceClaim, String> {
    let api = client.namespaced::<ResourceClaim>(grant.claim.namespace());
    let mut claim = (*grant.claim).clone();
    for _ in 1..TRIES {
        match write_once(client, pod, grant, claim).await {
            Err(failure) if failure.is_conflict => tokio::time::sleep(PAUSE).await,
            done => return done.map_err(|failure| failure.message),
        }
        claim = api.get(grant.claim.name()).await.map_err(|error| format!("get updated claim {} after conflict: {error}", grant.claim.key()))?;
    }
    write_once(client, pod, grant, claim).await.map_err(|failure| failure.message)
}

async fn write_once(client: &Client, pod: &Pod, grant: &Grant, mut claim: ResourceClaim) -> Result<ResourceClaim, Failure> {
    let api = client.namespaced::<ResourceClaim>(claim.namespace());
    let (key, name) = (claim.key(), claim.name().to_owned());
    if claim.is_deleting() || claim.uid() != grant.claim.uid() {
        return Err(Failure::final_one(format!("claim {key} got deleted in the meantime")));
    }
    if let Some(given) = &grant.allocation {
        if allocation(&claim).is_some() {
            return Err(Failure::final_one(format!("claim {key} got allocated elsewhere in the meantime")));
        }
        if !claim.has_finalizer(FINALIZER) {
            claim.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
            claim = api.replace(&name, &claim).await.map_err(|error| Failure::of("add finalizer to", &claim, &error))?;
        }
        claim.status.get_or_insert_default().allocation = Some(given.clone());
    }
    let status = claim.status.get_or_insert_default();
    let Some(allocation) = &mut status.allocation else {
        return Err(Failure::final_one(format!("claim {key} got deallocated elsewhere in the meantime")));
    };
    allocation.allocation_timestamp.get_or_insert_with(client::now);
    let consumer = ResourceClaimConsumerReference { resource: "pods".to_owned(), name: pod.name().to_owned(), uid: pod.uid().to_owned(), api_group: None };
    status.reserved_for.get_or_insert_default().push(consumer);
    let what = if grant.allocation.is_some() { "add allocation and reservation to" } else { "add reservation to" };
    api.replace_status(&name, &claim).await.map_err(|error| Failure::of(what, &claim, &error))
}

/// Gives back what a claim has (upstream's plug-in after filtering); one that was made for extended resources goes. Whether it is done, or
/// somebody else changed the claim: that is heard.
pub(super) async fn free(client: &Client, claim: &ResourceClaim, is_extended: bool) -> bool {
    let done = if is_extended { delete(client, claim).await } else { deallocate(client, claim).await };
    if let Err(error) = &done {
        tracing::warn!(%error, claim = %claim.key(), "a claim of no use could not be given back");
    }
    done.is_ok()
}

async fn deallocate(client: &Client, claim: &ResourceClaim) -> Result<(), Error> {
    let mut next = claim.clone();
    let status = next.status.get_or_insert_default();
    (status.allocation, status.devices, status.reserved_for) = (None, None, None);
    match client.namespaced::<ResourceClaim>(claim.namespace()).replace_status(claim.name(), &next).await {
        Err(error) if !error.is_conflict() && !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes a claim whose devices nobody uses.
async fn delete(client: &Client, claim: &ResourceClaim) -> Result<(), Error> {
    let (api, name) = (client.namespaced::<ResourceClaim>(claim.namespace()), claim.name());
    let gone = |done: Result<(), Error>| match done {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    };
    let mut claim = claim.clone();
    for tries in 1..=TRIES {
        if !claim.has_finalizer(FINALIZER) {
            break;
        }
        claim.metadata.finalizers.iter_mut().for_each(|all| all.retain(|finalizer| finalizer != FINALIZER));
        match api.replace(name, &claim).await {
            Err(error) if error.is_conflict() && tries < TRIES => {
                tokio::time::sleep(PAUSE).await;
                match api.get(name).await {
                    Err(error) => return gone(Err(error)),
                    Ok(now) if now.uid() != claim.uid() => return Ok(()),
                    Ok(now) => claim = now,
                }
            }
            Err(error) => return gone(Err(error)),
            Ok(_) => break,
        }
    }
    gone(api.delete(name, &DeleteParams::default().uid(claim.uid())).await)
}
