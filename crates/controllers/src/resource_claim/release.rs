//! What becomes of a claim when those who had it are gone: their reservations end, its devices are given back, and what was made for a
//! pod that is done is deleted.

use client::{DeleteParams, Meta, ObjectKey, devices};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};

use super::{Claims, is_done, owner};
use crate::work::Step;

impl Claims {
    /// Looks at a claim.
    pub(super) async fn release(&self, key: &ObjectKey) -> Step {
        let Some(claim) = self.claims.get_key(key) else { return Ok(None) };
        let reserved = claim.status.as_ref().and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
        let mut left = Vec::with_capacity(reserved.len());
        for consumer in reserved {
            if self.stays(&claim, consumer).await? {
                left.push(consumer.clone());
            }
        }
        let unused = left.is_empty();
        let held = claim.is_deleting() && claim.has_finalizer(devices::FINALIZER);
        if left.len() < reserved.len() || (unused && held) {
            self.shorten(&claim, left).await?;
        }
        if unused {
            self.delete_with_pod(&claim).await?;
        }
        Ok(None)
    }

    /// Whether a reservation is somebody's who still may need it.
    async fn stays(&self, claim: &ResourceClaim, consumer: &ResourceClaimConsumerReference) -> client::Result<bool> {
        if consumer.api_group.as_deref().is_some_and(|group| !group.is_empty()) || consumer.resource != "pods" {
            // Of others nothing is known.
            return Ok(true);
        }
        if self.gone.lock().uids.contains(&consumer.uid) {
            return Ok(false);
        }
        // The memory may be behind a scheduler that is quick, and have an older pod of this name or none.
        if let Some(pod) = self.pods.get(claim.namespace(), &consumer.name).filter(|pod| pod.uid() == consumer.uid) {
            return Ok(!is_done(&pod));
        }
        let live = self.client.namespaced::<Pod>(claim.namespace()).get_opt(&consumer.name).await?;
        Ok(live.is_some_and(|pod| pod.uid() == consumer.uid))
    }

    /// Writes who is left. Where nobody is, the devices are given back, so that the next one may get others.
    async fn shorten(&self, claim: &ResourceClaim, left: Vec<ResourceClaimConsumerReference>) -> client::Result<()> {
        let mut next = claim.clone();
        let status = next.status.get_or_insert_default();
        if left.is_empty() && claim.has_finalizer(devices::FINALIZER) {
            status.allocation = None;
        }
        status.reserved_for = Some(left).filter(|left| !left.is_empty());
        if next.status != claim.status {
            next = self.client.namespaced::<ResourceClaim>(claim.namespace()).replace_status(claim.name(), &next).await?;
        }
        match devices::allocation(&next) {
            None => self.let_go(next).await,
            Some(_) => Ok(()),
        }
    }

    /// Takes the finalizer away.
    async fn let_go(&self, mut claim: ResourceClaim) -> client::Result<()> {
        if !claim.has_finalizer(devices::FINALIZER) {
            return Ok(());
        }
        claim.metadata.finalizers.get_or_insert_default().retain(|f| f != devices::FINALIZER);
        let (namespace, name) = (claim.namespace().to_owned(), claim.name().to_owned());
        self.client.namespaced::<ResourceClaim>(&namespace).replace(&name, &claim).await.map(drop)
    }

    /// Deletes what was made for a pod that will not run any more. Of a pod that is not known the garbage collector will know.
    async fn delete_with_pod(&self, claim: &ResourceClaim) -> client::Result<()> {
        let Some((name, uid)) = owner(claim) else { return Ok(()) };
        let Some(pod) = self.pods.get(claim.namespace(), name) else { return Ok(()) };
        if claim.is_deleting() || (pod.uid() == uid && !is_done(&pod)) {
            return Ok(());
        }
        let api = self.client.namespaced::<ResourceClaim>(claim.namespace());
        match api.delete(claim.name(), &DeleteParams::default().uid(claim.uid())).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
