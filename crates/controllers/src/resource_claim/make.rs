//! What a pod needs: its claims from templates, their names in its status, and the reservations of a pod that no scheduler placed.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::devices::{self, PodClaim, claim_of, pod_claims};
use client::{EventType, Meta, ObjectKey, Patch, PatchParams, object_reference};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use machinery::status::Status;
use serde_json::json;

use super::{BY_OWNER, Claims, is_done};
use crate::pods;
use crate::work::Step;

/// Who writes pods' statuses (upstream `fieldManager`).
const MANAGER: &str = "ResourceClaimController";
/// Bytes of a generated name before what the server adds.
const BASE_MAX: usize = 57;
/// Users that a claim may have (upstream `ResourceClaimReservedForMaxSize`).
pub(super) const USERS_MAX: usize = 256;

impl Claims {
    /// Gives a pod what it needs.
    pub(super) async fn provide(&self, key: &ObjectKey) -> Step {
        // What a pod that is done has is taken from it: given anew, it would be taken and given for ever.
        let Some(pod) = self.pods.get_key(key).filter(|pod| !pod.is_deleting() && !is_done(pod)) else { return Ok(None) };
        let mut made = BTreeMap::new();
        for claim in pod_claims(&pod) {
            match self.made_for(&pod, claim).await {
                Ok(Some(name)) => drop(made.insert(claim.name.clone(), name)),
                Ok(None) => {}
                Err(why) => {
                    let why = format!("PodResourceClaim {}: {why}", claim.name);
                    self.recorder.event(&object_reference(&*pod), EventType::Warning, "FailedResourceClaimCreation", why.clone());
                    return Err(Status::internal(format!("pod {key}, {why}")).into());
                }
            }
        }
        if !made.is_empty() {
            // What is left is done when the pod is heard to know its claims.
            return self.tell(&pod, made).await;
        }
        if !pods::node_name(&pod).is_empty() {
            self.reserve(&pod).await?;
        }
        Ok(None)
    }

    /// The claim that a pod did not know of, if there is or was to be one.
    async fn made_for(&self, pod: &Pod, claim: &PodResourceClaim) -> Result<Option<String>, String> {
        let Some(template) = &claim.resource_claim_template_name else { return Ok(None) };
        match claim_of(pod, claim) {
            Ok(None) => return Ok(None),
            Ok(Some(known)) if self.is_there(pod, known).await? => return Ok(None),
            // Somebody deleted it, or it never was made.
            _ => {}
        }
        if let Some(found) = self.find(pod, &claim.name) {
            return Ok(Some(found.name().to_owned()));
        }
        let Some(template) = self.templates.get(pod.namespace(), template) else {
            return Err(format!("resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"));
        };
        let api = self.client.namespaced::<ResourceClaim>(pod.namespace());
        let wanted = of_template(pod, &claim.name, &template);
        let made = api.create(&wanted).await;
        self.created.count(&wanted, made.is_ok());
        let made = made.map_err(|error| format!("create ResourceClaim : {error}"))?;
        let name = made.name().to_owned();
        // The memory may have been quicker than the answer.
        if self.claims.get_key(&made.key()).is_none() {
            self.made.lock().insert((pod.uid().to_owned(), claim.name.clone()), Arc::new(made));
        }
        Ok(Some(name))
    }

    async fn is_there(&self, pod: &Pod, claim: PodClaim<'_>) -> Result<bool, String> {
        let known = || self.made.lock().values().find(|made| made.name() == claim.name && made.namespace() == pod.namespace()).cloned();
        let found = match self.claims.get(pod.namespace(), claim.name).or_else(known) {
            Some(found) => Some(found),
            None => {
                let live = self.client.namespaced::<ResourceClaim>(pod.namespace()).get_opt(claim.name).await;
                live.map_err(|error| format!("checking claim existence: {error}"))?.map(Arc::new)
            }
        };
        Ok(found.is_some_and(|found| !claim.own || devices::made_for(pod, &found).is_ok()))
    }

    /// A claim that was made for a pod under this name.
    fn find(&self, pod: &Pod, name: &str) -> Option<Arc<ResourceClaim>> {
        let owned = self.claims.by_index(BY_OWNER, pod.uid()).into_iter();
        let made = self.made.lock().get(&(pod.uid().to_owned(), name.to_owned())).cloned();
        owned.filter(|claim| claim.namespace() == pod.namespace()).chain(made).find(|claim| claim.annotation(devices::POD_CLAIM) == Some(name))
    }

    /// Names claims in a pod's status, beside those that are there.
    async fn tell(&self, pod: &Pod, made: BTreeMap<String, String>) -> Step {
        let known = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
        let mut all: BTreeMap<String, String> = known.filter_map(|s| Some((s.name.clone(), s.resource_claim_name.clone()?))).collect();
        all.extend(made);
        let statuses: Vec<_> = all.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})).collect();
        let applied = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "status": {"resourceClaimStatuses": statuses},
        });
        let params = PatchParams { field_manager: MANAGER.to_owned(), force: true, ..PatchParams::default() };
        match self.client.namespaced::<Pod>(pod.namespace()).patch_status(pod.name(), &Patch::Apply(applied), &params).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }

    /// Reserves the allocated claims of a pod that somebody else than the scheduler has placed.
    async fn reserve(&self, pod: &Pod) -> client::Result<()> {
        for claim in pod_claims(pod) {
            let Ok(Some(named)) = claim_of(pod, claim) else { continue };
            let Some(claim) = self.claims.get(pod.namespace(), named.name) else { return Ok(()) };
            if named.own
                && let Err(why) = devices::made_for(pod, &claim)
            {
                return Err(Status::internal(why).into());
            }
            let users = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref()).map_or(0, Vec::len);
            // One that has all the users it may is looked at again when one of them goes, which changes it.
            if devices::allocation(&claim).is_none() || devices::is_reserved_for(&claim, pod.uid()) || users >= USERS_MAX {
                continue;
            }
            let mut next = (*claim).clone();
            let consumer =
                ResourceClaimConsumerReference { resource: "pods".to_owned(), name: pod.name().to_owned(), uid: pod.uid().to_owned(), api_group: None };
            next.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
            self.client.namespaced::<ResourceClaim>(pod.namespace()).replace_status(claim.name(), &next).await?;
        }
        Ok(())
    }
}

/// The claim that a pod gets from a template.
fn of_template(pod: &Pod, name: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let of_template = template.spec.as_ref();
    let meta = of_template.and_then(|spec| spec.metadata.as_ref());
    let mut annotations = meta.and_then(|m| m.annotations.clone()).unwrap_or_default();
    annotations.insert(devices::POD_CLAIM.to_owned(), name.to_owned());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    ResourceClaim {
        metadata: ObjectMeta {
            namespace: pod.metadata.namespace.clone(),
            generate_name: Some(base(pod.name(), name)),
            owner_references: Some(vec![owner]),
            annotations: Some(annotations),
            labels: meta.and_then(|m| m.labels.clone()),
            ..ObjectMeta::default()
        },
        spec: of_template.and_then(|spec| spec.spec.clone()),
        status: None,
    }
}

/// What a generated claim's name begins with. Where both names are long each loses its share.
pub(super) fn base(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= BASE_MAX {
        return whole;
    }
    // Names are ASCII.
    let part = |text: &str| text.get(..text.len() * BASE_MAX / whole.len()).unwrap_or(text).to_owned();
    let pod = part(pod);
    // The second share is measured against the same length, as the original does.
    format!("{pod}-{}", part(claim))
}
