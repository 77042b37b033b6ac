//! Adoption and release: which objects belong to a controller object, by its selector and their controller reference
//! (upstream `controller_ref_manager.go`).
//!
//! A child that refers to the owner is the owner's while the selector matches, and is released when it no longer does. A
//! matching child without a controller is adopted, unless one of the two is being deleted. Both patches carry the child's
//! UID, so that a later child of the same name is never changed by mistake.

use std::future::Future;
use std::sync::Arc;

use client::{Api, Client, Error, Object, ObjectKey, Patch, PatchParams, Plural};
use k8s_openapi::Resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use machinery::labels::Selector;
use machinery::status::Status;
use serde_json::{Value, json};

use crate::meta::labels;

/// The reference to a controller that its children carry.
pub(crate) fn owner_reference<K: Object + Resource>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Of these children those that belong to the owner, after adopting and releasing what must be.
pub(crate) async fn claim<O, C>(client: &Client, owner: &O, selector: &Selector, children: Vec<Arc<C>>) -> client::Result<Vec<Arc<C>>>
where
    O: Object + Resource,
    C: Object + Resource + Plural,
{
    claim_if(client, owner, selector, children, |_| true, || check_live(client, owner)).await
}

/// The same for owners whose children carry a finalizer: what is adopted gets it.
pub(crate) async fn claim_with_finalizer<O, C>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    children: Vec<Arc<C>>,
    finalizer: &str,
) -> client::Result<Vec<Arc<C>>>
where
    O: Object + Resource,
    C: Object + Resource + Plural,
{
    claim_all(client, owner, selector, children, |_| true, || check_live(client, owner), Some(finalizer)).await
}

/// The same with a further condition on children and another check before the first adoption.
pub(crate) async fn claim_if<O, C, F>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    children: Vec<Arc<C>>,
    also: impl Fn(&C) -> bool,
    may_adopt: impl Fn() -> F,
) -> client::Result<Vec<Arc<C>>>
where
    O: Object + Resource,
    C: Object + Resource + Plural,
    F: Future<Output = client::Result<()>>,
{
    claim_all(client, owner, selector, children, also, may_adopt, None).await
}

async fn claim_all<O, C, F>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    children: Vec<Arc<C>>,
    also: impl Fn(&C) -> bool,
    may_adopt: impl Fn() -> F,
    finalizer: Option<&str>,
) -> client::Result<Vec<Arc<C>>>
where
    O: Object + Resource,
    C: Object + Resource + Plural,
    F: Future<Output = client::Result<()>>,
{
    let api: Api<C> = client.namespaced(owner.namespace());
    let (mut claimed, mut checked, mut failed) = (Vec::with_capacity(children.len()), false, None);
    for child in children {
        let matches = selector.matches_map(labels(&*child)) && also(&child);
        let result = match child.controller() {
            Some(controller) if controller.uid != owner.uid() => continue,
            Some(_) if matches => {
                claimed.push(child);
                continue;
            }
            Some(_) if owner.is_deleting() => continue,
            Some(_) => release(&api, owner.uid(), &*child).await,
            None if owner.is_deleting() || child.is_deleting() || !matches => continue,
            None => {
                let allowed = if checked { Ok(()) } else { may_adopt().await };
                match allowed {
                    Err(error) => Err(error),
                    Ok(()) => {
                        checked = true;
                        let adopted = adopt(&api, owner, &*child, finalizer).await;
                        if let Ok(true) = adopted {
                            claimed.push(child);
                        }
                        adopted.map(drop)
                    }
                }
            }
        };
        failed = result.err().or(failed);
    }
    failed.map_or(Ok(claimed), Err)
}

/// The owner as the server has it now must be the one at hand and not being deleted (upstream `RecheckDeletionTimestamp`).
async fn check_live<O: Object + Resource>(client: &Client, owner: &O) -> client::Result<()> {
    let live: O = client.namespaced::<O>(owner.namespace()).get(owner.name()).await?;
    let why = if live.uid() != owner.uid() {
        format!("original {} {}/{} is gone: got uid {}, wanted {}", O::KIND, owner.namespace(), owner.name(), live.uid(), owner.uid())
    } else if live.is_deleting() {
        format!("{}/{} has just been deleted", owner.namespace(), owner.name())
    } else {
        return Ok(());
    };
    Err(Error::Api(Box::new(Status::internal(why))))
}

/// Whether the child is there to be adopted.
async fn adopt<O: Object + Resource, C: Object>(api: &Api<C>, owner: &O, child: &C, finalizer: Option<&str>) -> client::Result<bool> {
    let patch = adopt_patch(owner, child.uid(), finalizer);
    match api.patch(child.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// A strategic merge patch that gives a child its owner, and the finalizer if there is one.
fn adopt_patch<O: Object + Resource>(owner: &O, child_uid: &str, finalizer: Option<&str>) -> Value {
    let mut patch = json!({"metadata": {"ownerReferences": [owner_reference(owner)], "uid": child_uid}});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["finalizers"] = json!([finalizer]);
    }
    patch
}

async fn release<C: Object>(api: &Api<C>, owner_uid: &str, child: &C) -> client::Result<()> {
    match api.patch(child.name(), &Patch::Strategic(release_patch(owner_uid, child.uid())), &PatchParams::default()).await {
        Ok(_) => Ok(()),
        // Gone, or another of the same name: either way it is no longer the owner's.
        Err(error) if error.is_not_found() || error.is_invalid() => Ok(()),
        Err(error) => Err(error),
    }
}

/// A strategic merge patch that takes an owner from a child.
pub(crate) fn release_patch(owner_uid: &str, child_uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": child_uid}})
}

/// The key of the object's controller if it is of this kind.
pub(crate) fn controller_key<O: Resource>(child: &impl client::Meta) -> Option<(ObjectKey, String)> {
    let owner = child.controller().filter(|o| o.kind == O::KIND && group(&o.api_version) == O::GROUP)?;
    Some((ObjectKey::new(child.namespace(), &owner.name), owner.uid.clone()))
}

/// The group of an `apiVersion`.
pub(crate) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::Job;

    use super::*;

    #[test]
    fn what_is_adopted_gets_the_finalizer_of_its_kind() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "J"}})).unwrap_or_default();
        let patch = adopt_patch(&job, "P", Some("batch.kubernetes.io/job-tracking"));
        assert_eq!(patch["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
        assert_eq!((&patch["metadata"]["uid"], &patch["metadata"]["ownerReferences"][0]["uid"]), (&json!("P"), &json!("J")));
        assert!(adopt_patch(&job, "P", None)["metadata"].get("finalizers").is_none());
    }
}
