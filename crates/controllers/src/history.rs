//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, each once (upstream `controller/history`).

use std::sync::Arc;

use client::{Client, DeleteParams, Informer, Meta, Object, Plural};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::claim::{claim, owner_reference};
use crate::hash::{fnv32a, safe_encode};
use crate::meta::{annotations, created, map, new_meta};

/// The label of pods, and of a DaemonSet's revisions, that names the revision.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// Bytes of an owner's name that fit before the hash.
const PREFIX_MAX: usize = 223;

pub(crate) type Revision = Arc<ControllerRevision>;

/// The revisions of an owner, the oldest first, and those of its present template; and how often names collided.
pub(crate) struct History {
    pub(crate) all: Vec<Revision>,
    pub(crate) update: Revision,
    pub(crate) collisions: i32,
}

/// What a history is of.
pub(crate) struct Owner<'o, O> {
    pub(crate) object: &'o O,
    pub(crate) template: &'o PodTemplateSpec,
    pub(crate) selector: machinery::labels::Selector,
    pub(crate) collisions: Option<i32>,
    /// The label that carries the hash.
    pub(crate) label: &'static str,
}

/// Claims the owner's revisions, and makes or renews that of the present template.
pub(crate) async fn keep<O>(client: &Client, revisions: &Informer<ControllerRevision>, owner: &Owner<'_, O>) -> client::Result<History>
where
    O: Object + Plural,
{
    let seen = revisions.list_namespace(owner.object.namespace());
    let mut all = claim::<O, ControllerRevision>(client, owner.object, &owner.selector, seen).await?;
    sort(&mut all);
    let next = all.last().map_or(0, |r| number(r)) + 1;
    let data = data(owner.template);
    let api = client.namespaced::<ControllerRevision>(owner.object.namespace());
    let mut collisions = owner.collisions.unwrap_or(0);
    let known = all.iter().rposition(|r| r.data.0 == data);
    if let Some(at) = known.or_else(|| all.last().filter(|r| tells(r, &data)).map(|_| all.len() - 1)) {
        let equal = all[at].clone();
        if at + 1 == all.len() {
            return Ok(History { all, update: equal, collisions });
        }
        // An older template is taken again: its revision becomes the newest.
        let mut renewed = (*equal).clone();
        renewed.revision = Some(next);
        let renewed = Arc::new(api.replace(equal.name(), &renewed).await?);
        all.remove(at);
        all.push(renewed.clone());
        return Ok(History { all, update: renewed, collisions });
    }
    loop {
        let made = new(owner, &data, next, collisions);
        let created = match api.create(&made).await {
            Ok(created) => created,
            Err(error) if error.is_already_exists() => {
                let existing = api.get(made.name()).await?;
                let is_anothers = existing.controller().is_some_and(|c| c.uid != owner.object.uid());
                if is_anothers || existing.data.0 != data {
                    collisions += 1;
                    continue;
                }
                existing
            }
            Err(error) => return Err(error),
        };
        let created = Arc::new(created);
        all.retain(|r| r.name() != created.name());
        all.push(created.clone());
        return Ok(History { all, update: created, collisions });
    }
}

/// Which revisions a limit counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Those that are not in use, as a StatefulSet's.
    Idle,
    /// All but the present one, as a DaemonSet's.
    Former,
}

/// Deletes what is beyond the limit and not in use, the oldest first. A negative limit, which a StatefulSet may have, is none.
pub(crate) async fn truncate(
    client: &Client,
    history: &History,
    limit: i32,
    counted: Limit,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> client::Result<()> {
    let former: Vec<_> = history.all.iter().filter(|r| r.name() != history.update.name()).collect();
    let idle: Vec<_> = former.iter().filter(|r| !in_use(r)).collect();
    let all = if counted == Limit::Idle { idle.len() } else { former.len() };
    let surplus = all.saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    for revision in idle.into_iter().take(surplus) {
        match client.namespaced::<ControllerRevision>(revision.namespace()).delete(revision.name(), &DeleteParams::default()).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

fn sort(all: &mut [Revision]) {
    all.sort_by(|a, b| number(a).cmp(&number(b)).then_with(|| created(&**a).cmp(&created(&**b))).then_with(|| a.name().cmp(b.name())));
}

/// The patch that sets an owner's template, which is what a revision holds.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// Whether a revision says the same in other words: one that another version wrote has nulls, or lacks what is empty (upstream
/// `setMatchesLatestExistingRevision`). Taken for another, it would replace all pods.
fn tells(revision: &ControllerRevision, wanted: &Value) -> bool {
    template(revision).is_some_and(|template| data(&template) == *wanted)
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    client::typed(&template).ok()
}

fn new<O: Object + Plural>(owner: &Owner<'_, O>, data: &Value, number: i64, collisions: i32) -> ControllerRevision {
    let text = serde_json::to_vec(data).unwrap_or_default();
    let salt = if collisions > 0 { collisions.to_string() } else { String::new() };
    // A StatefulSet and a DaemonSet of one name and template have revisions of names of their own.
    let hash = safe_encode(&fnv32a(text.iter().chain(O::KIND.as_bytes()).chain(salt.as_bytes())).to_string());
    let mut prefix = owner.object.name();
    if prefix.len() > PREFIX_MAX {
        prefix = &prefix[..PREFIX_MAX];
    }
    let mut metadata = new_meta(owner.object.namespace(), &format!("{prefix}-{hash}"));
    let mut labels = map(owner.template.metadata.as_ref().and_then(|m| m.labels.as_ref())).clone();
    labels.insert(owner.label.to_owned(), hash);
    metadata.labels = Some(labels);
    metadata.annotations = Some(annotations(owner.object).clone()).filter(|a| !a.is_empty());
    metadata.owner_references = Some(vec![owner_reference(owner.object)]);
    ControllerRevision { metadata, data: RawExtension(data.clone()), revision: Some(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, refusal};
    use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn owner<'o, O>(object: &'o O, template: &'o PodTemplateSpec) -> Owner<'o, O> {
        Owner { object, template, selector: machinery::labels::Selector::default(), collisions: None, label: HASH_LABEL }
    }

    #[tokio::test]
    async fn a_revision_of_another_owner_is_left_to_it() {
        let spec = json!({"metadata": {"name": "web", "namespace": "n", "uid": "mine"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "s", "template": {"metadata": {"labels": {"a": "b"}}}}});
        let daemons: DaemonSet = client::typed(&spec).expect("a DaemonSet");
        let template = PodTemplateSpec::default();
        let mine = owner(&daemons, &template);
        let theirs = new(&mine, &data(&template), 1, 0);
        let mut theirs = serde_json::to_value(&theirs).expect("JSON");
        theirs["metadata"]["ownerReferences"][0]["uid"] = "theirs".into();
        let taken = AtomicBool::new(true);
        let server = Fake::new(move |method, _| match method {
            "POST" if taken.swap(false, Ordering::Relaxed) => refusal(409, "AlreadyExists"),
            _ => (200, theirs.clone()),
        });
        let history = keep(&server.client(), &Informer::fixed([]), &mine).await.expect("a history");
        assert_eq!(history.collisions, 1);
        let names: Vec<String> = server.written().iter().filter_map(|w| Some(w.split_once("\"name\":\"web-")?.1.split('"').next()?.to_owned())).collect();
        assert!(names.len() == 2 && names[0] != names[1], "{names:?}");
        let replicas: StatefulSet = client::typed(&spec).expect("a StatefulSet");
        assert_ne!(new(&owner(&replicas, &template), &data(&template), 1, 0).name(), new(&mine, &data(&template), 1, 0).name());
    }
}
