//! What a DaemonSet's revisions are beside a StatefulSet's: its pods name them by a label of theirs, so each must have one; and pods of two
//! revisions that say the same are not to be replaced by each other (upstream `dedupCurHistories`). Two come about when one is adopted,
//! or when one was not heard of yet as it was made.

use std::sync::Arc;

use client::{Client, DeleteParams, Meta, Patch, PatchParams};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::history::{HASH_LABEL, History, Revision};

/// Gives each revision of a history its label.
pub(super) async fn label(client: &Client, history: &mut History) -> client::Result<()> {
    for revision in &mut history.all {
        if revision.label(HASH_LABEL).is_some() {
            continue;
        }
        let mut labelled = (**revision).clone();
        // Its name, since the hash may collide with that of another.
        labelled.metadata.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), revision.name().to_owned());
        *revision = Arc::new(client.namespaced::<ControllerRevision>(revision.namespace()).replace(revision.name(), &labelled).await?);
        if revision.name() == history.update.name() {
            history.update = revision.clone();
        }
    }
    Ok(())
}

/// Leaves one revision that says what the present template does: the pods of the others become its own. Upstream labels the pods of
/// older templates so, too, which are never replaced then.
pub(super) async fn unite(client: &Client, history: &mut History, pods: &mut [Arc<Pod>]) -> client::Result<()> {
    let update = history.update.clone();
    let hash = update.label(HASH_LABEL);
    let again: Vec<Revision> = history.all.iter().filter(|r| r.name() != update.name() && r.data.0 == update.data.0).cloned().collect();
    for revision in &again {
        let theirs = revision.label(HASH_LABEL);
        for pod in pods.iter_mut().filter(|pod| theirs != hash && pod.label(HASH_LABEL) == theirs) {
            let patch = Patch::Merge(json!({"metadata": {"labels": {HASH_LABEL: hash}}}));
            *pod = Arc::new(client.namespaced::<Pod>(pod.namespace()).patch(pod.name(), &patch, &PatchParams::default()).await?);
        }
        match client.namespaced::<ControllerRevision>(revision.namespace()).delete(revision.name(), &DeleteParams::default()).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => history.all.retain(|r| r.name() != revision.name()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use serde_json::Value;

    fn revision(name: &str, hash: Option<&str>, image: &str) -> Revision {
        let labels = hash.map(|hash| json!({HASH_LABEL: hash}));
        let data = json!({"spec": {"template": {"$patch": "replace", "spec": {"containers": [{"name": "c", "image": image}]}}}});
        let revision = json!({"metadata": {"name": name, "namespace": "n", "labels": labels}, "data": data, "revision": 1});
        Arc::new(serde_json::from_value(revision).expect("a revision"))
    }

    fn pod(name: &str, hash: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": {HASH_LABEL: hash}}})
    }

    #[tokio::test]
    async fn pods_of_a_revision_that_says_the_same_are_not_replaced() {
        let server = Fake::new(|method, _| (200, if method == "PATCH" { pod("one", "new") } else { json!({}) }));
        let (update, same, old) = (revision("new", Some("new"), "i:2"), revision("same", Some("same"), "i:2"), revision("old", Some("old"), "i:1"));
        let mut history = History { all: vec![old, same, update.clone()], update, collisions: 0 };
        let of = |name, hash| Arc::new(serde_json::from_value::<Pod>(pod(name, hash)).expect("a pod"));
        let mut pods = [of("one", "same"), of("two", "old"), of("three", "new")];
        unite(&server.client(), &mut history, &mut pods).await.expect("united");
        assert_eq!(pods.each_ref().map(|pod| pod.label(HASH_LABEL)), [Some("new"), Some("old"), Some("new")]);
        assert_eq!(history.all.iter().map(|r| r.name()).collect::<Vec<_>>(), ["old", "new"]);
        let written: Vec<String> = server.written().iter().map(|w| w.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(written, ["PATCH /api/v1/namespaces/n/pods/one", "DELETE /apis/apps/v1/namespaces/n/controllerrevisions/same"]);
    }

    #[tokio::test]
    async fn an_adopted_revision_gets_its_label() {
        let labelled = revision("mine", Some("mine"), "i:1");
        let answer = serde_json::to_value(&*labelled).expect("JSON");
        let server = Fake::new(move |_, _| (200, answer.clone()));
        let mine = revision("mine", None, "i:1");
        let mut history = History { all: vec![revision("old", Some("old"), "i:0"), mine.clone()], update: mine, collisions: 0 };
        label(&server.client(), &mut history).await.expect("labelled");
        assert_eq!(history.update.label(HASH_LABEL), Some("mine"));
        let written = server.written();
        assert!(matches!(&written[..], [only] if only.contains(r#""controller-revision-hash":"mine""#)), "{written:?}");
    }
}
