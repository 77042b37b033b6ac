//! Every namespace has the cluster's authority in a ConfigMap `kube-root-ca.crt`, for the volumes of service-account tokens.
//!
//! What holds it: the ConfigMaps of that name are listened to, so one that is changed or deleted by anybody is put right at
//! once, and every change of a namespace looks at its own. A namespace that is still being made or is already ending answers
//! 404 or 403; of the first the informer tells again, the second has no use for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, Informer, ListParams, Meta};
use instruments::{Family, Kind};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};

use crate::meta::{annotations, annotations_mut, new_meta};
use crate::service_account::{heard_namespace, is_active};
use crate::synced::Synced;
use crate::work::{Controller, Cx, Step};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIBED: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

const SYNCS: Family = Family::new("root_ca_cert_publisher_sync_total", Kind::Counter, "[ALPHA] Number of namespace syncs happened in root ca cert publisher.");
const SYNC: Family =
    Family::new("root_ca_cert_publisher_sync_duration_seconds", Kind::Histogram, "[ALPHA] Number of namespace syncs happened in root ca cert publisher.");

/// Runs the controller until the end; without an authority there is nothing to publish.
pub(crate) async fn run(cx: Cx) {
    if cx.config.root_ca.is_empty() {
        return cx.shutdown.cancelled().await;
    }
    let controller = Arc::new(Publisher {
        client: cx.client("root-ca-cert-publisher"),
        root_ca: cx.config.root_ca.clone(),
        namespaces: cx.informers.informer(),
        maps: cx.informers.informer_with(ListParams::fields(format!("metadata.name={NAME}"))),
        synced: Synced::new(cx.metrics(), &SYNCS, &SYNC),
    });
    cx.setup(&controller)
        .on(&controller.namespaces, |_, queue, change| heard_namespace(queue, change))
        .on(&controller.maps, |_, queue, change| queue.add(change.object().namespace().to_owned()))
        .work(5)
        .await;
}

struct Publisher {
    client: Client,
    root_ca: String,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    synced: Synced,
}

impl Controller for Publisher {
    const QUEUE: &'static str = "root_ca_cert_publisher";
    type Key = String;

    async fn reconcile(&self, namespace: &String) -> Step {
        self.synced.count(self.publish(namespace)).await
    }
}

impl Publisher {
    async fn publish(&self, namespace: &str) -> Step {
        if !self.namespaces.get("", namespace).is_some_and(|ns| is_active(&ns)) {
            return Ok(None);
        }
        let data = BTreeMap::from([("ca.crt".to_owned(), self.root_ca.clone())]);
        let api = self.client.namespaced::<ConfigMap>(namespace);
        let existing = self.maps.get(namespace, NAME);
        let written = match &existing {
            // What it is described as may be somebody else's words.
            Some(map) if map.data.as_ref() == Some(&data) && annotations(&**map).get(DESCRIPTION).is_some_and(|d| !d.is_empty()) => return Ok(None),
            Some(map) => {
                let mut map = (**map).clone();
                map.data = Some(data);
                annotations_mut(&mut map).insert(DESCRIPTION.to_owned(), DESCRIBED.to_owned());
                api.replace(NAME, &map).await
            }
            None => {
                let mut map = ConfigMap { metadata: new_meta(namespace, NAME), data: Some(data), ..ConfigMap::default() };
                annotations_mut(&mut map).insert(DESCRIPTION.to_owned(), DESCRIBED.to_owned());
                api.create(&map).await
            }
        };
        match written {
            Err(error) if existing.is_none() && error.is_already_exists() => Ok(None),
            Err(error) if error.is_namespace_terminating() || error.is_not_found() => Ok(None),
            other => other.map(|_| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use serde_json::json;

    #[tokio::test]
    async fn the_authority_is_put_right_and_words_about_it_stay() {
        for (authority, described, writes) in [("it", DESCRIBED, 0), ("it", "mine", 0), ("it", "", 1), ("another", "mine", 1)] {
            let map = json!({"metadata": {"name": NAME, "namespace": "n", "annotations": {DESCRIPTION: described}}, "data": {"ca.crt": authority}});
            let told = map.clone();
            let server = Fake::new(move |_, _: &str| (200, told.clone()));
            let registry = instruments::Registry::default();
            let publisher = Publisher {
                client: server.client(),
                root_ca: "it".to_owned(),
                namespaces: Informer::fixed([Namespace { metadata: new_meta("", "n"), ..Namespace::default() }]),
                maps: Informer::fixed([client::typed::<ConfigMap>(&map).expect("a map")]),
                synced: Synced::new(&registry, &SYNCS, &SYNC),
            };
            publisher.reconcile(&"n".to_owned()).await.expect("a step");
            assert_eq!(server.written().len(), writes, "{authority} {described}");
        }
    }
}
