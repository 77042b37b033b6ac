//! What one step of a controller does to its pods: many at once, all of it expected before it is begun, so that the next step
//! does not do it again.

use std::borrow::Borrow;
use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::expectations::Expectations;
use crate::pods::{self, PodControl};

/// The creations and deletions of one step.
pub(crate) struct Burst<'a> {
    control: &'a PodControl,
    expectations: &'a Expectations,
    owner: &'a str,
    about: &'a ObjectReference,
    creations: usize,
    deletions: &'a [Arc<Pod>],
}

impl<'a> Burst<'a> {
    /// From now on so much is expected of the pods of the owner with this UID; both [`create`](Self::create) and [`delete`](Self::delete) are to
    /// follow for what is not none. Events are `about` the owner.
    pub(crate) fn new(
        control: &'a PodControl,
        expectations: &'a Expectations,
        (owner, about): (&'a str, &'a ObjectReference),
        creations: usize,
        deletions: &'a [Arc<Pod>],
    ) -> Self {
        expectations.expect(owner, creations, deletions.iter().map(|p| p.uid().to_owned()));
        Self { control, expectations, owner, about, creations, deletions }
    }

    /// Creates the pods, by their number; the first error. What cannot be made is not expected any more.
    pub(crate) async fn create<P: Borrow<Pod> + Send>(&self, pod: impl Fn(usize) -> P + Sync) -> client::Result<()> {
        self.create_each(pod, |_| {}).await
    }

    /// The same; each is told of, whether it was made.
    pub(crate) async fn create_each<P: Borrow<Pod> + Send>(&self, pod: impl Fn(usize) -> P + Sync, told: impl Fn(bool) + Sync) -> client::Result<()> {
        let (mut tried, pod, told) = (0, &pod, &told);
        let (_, result) = pods::slow_start(self.creations, |n| {
            tried += 1;
            async move {
                let made = self.control.create(pod(n).borrow(), self.about).await;
                told(made.is_ok());
                if made.is_err() {
                    self.expectations.created(self.owner);
                }
                made.map(drop)
            }
        })
        .await;
        for _ in tried..self.creations {
            self.expectations.created(self.owner);
        }
        match result {
            // Nothing can be created there any more, and nothing need be.
            Err(error) if error.is_namespace_terminating() => Ok(()),
            other => other,
        }
    }

    /// Deletes the pods, all at once; the first error, if it is not that a pod is gone already.
    pub(crate) async fn delete(&self) -> client::Result<()> {
        let deletions = self.deletions.iter().map(|pod| async move {
            let deleted = self.control.delete(pod, self.about).await;
            if deleted.is_err() {
                self.expectations.deleted(self.owner, pod.uid());
            }
            deleted
        });
        let results = futures_util::future::join_all(deletions).await;
        results.into_iter().find(|r| r.as_ref().is_err_and(|e| !e.is_not_found())).unwrap_or(Ok(()))
    }
}
