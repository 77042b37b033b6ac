//! The authority by which the API server is trusted, as a ClusterTrustBundle of the signer `kubernetes.io/kube-apiserver-serving`
//! that pods may project (upstream `pkg/controller/certificates/clustertrustbundlepublisher`, KEP 3257).
//!
//! The bundle's name has a hash of the authority: another authority has another bundle, and what else there is of this signer
//! goes once the new one stands. What holds it: all bundles of the signer are listened to, so one that is changed or deleted is
//! put right at once, and a start looks whether there is none.

use std::fmt::Write;
use std::sync::Arc;

use client::{Client, DeleteParams, Informer, ListParams, Meta, WorkQueue};
use instruments::{Family, Kind};
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use sha2::{Digest, Sha256};

use crate::meta::new_meta;
use crate::synced::Synced;
use crate::work::{Controller, Cx, Step};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// Bytes of the hash that the name shows.
const HASH_BYTES: usize = 12;

const SYNCS: Family =
    Family::new("clustertrustbundle_publisher_sync_total", Kind::Counter, "[ALPHA] Number of syncs that occurred in cluster trust bundle publisher.");
const SYNC: Family =
    Family::new("clustertrustbundle_publisher_sync_duration_seconds", Kind::Histogram, "[ALPHA] The time it took to sync a cluster trust bundle.");

/// Runs the controller until the end; without an authority there is nothing to publish.
pub(crate) async fn run(cx: Cx) {
    if cx.config.root_ca.is_empty() {
        return cx.shutdown.cancelled().await;
    }
    let controller = Arc::new(Publisher {
        client: cx.client("kube-apiserver-serving-clustertrustbundle-publisher"),
        root_ca: cx.config.root_ca.clone(),
        bundles: cx.informers.informer_with(ListParams::fields(format!("spec.signerName={SIGNER}"))),
        synced: Synced::new(cx.metrics(), &SYNCS, &SYNC),
    });
    let queue = WorkQueue::default();
    queue.add(());
    cx.setup_with(queue, &controller).on(&controller.bundles, |_, queue, _| queue.add(())).work(1).await;
}

struct Publisher {
    client: Client,
    root_ca: String,
    bundles: Informer<ClusterTrustBundle>,
    synced: Synced,
}

/// The name of the bundle with these certificates.
fn bundle_name(pem: &str) -> String {
    let mut name = format!("{}:", SIGNER.replace('/', ":"));
    for byte in &Sha256::digest(pem)[..HASH_BYTES] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

impl Controller for Publisher {
    const QUEUE: &'static str = "ca_cert_publisher_cluster_trust_bundles";
    type Key = ();

    async fn reconcile(&self, (): &()) -> Step {
        self.synced.count(self.publish()).await
    }
}

impl Publisher {
    async fn publish(&self) -> Step {
        let name = bundle_name(&self.root_ca);
        let api = self.client.all::<ClusterTrustBundle>();
        let spec = ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: self.root_ca.clone() };
        match self.bundles.get("", &name) {
            None => api.create(&ClusterTrustBundle { metadata: new_meta("", &name), spec }).await.map(drop)?,
            Some(bundle) if bundle.spec.trust_bundle != self.root_ca => {
                let next = ClusterTrustBundle { metadata: bundle.metadata.clone(), spec };
                api.replace(&name, &next).await.map(drop)?;
            }
            Some(_) => {}
        }
        let mut failed = None;
        for other in self.bundles.list().iter().filter(|b| b.name() != name) {
            match api.delete(other.name(), &DeleteParams::default().uid(other.uid())).await {
                // The others go all the same.
                Err(error) if !error.is_not_found() => failed = Some(error),
                _ => {}
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, refusal};
    use serde_json::json;

    const PREFIX: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";

    fn bundle(name: &str, pem: &str) -> ClusterTrustBundle {
        let mut metadata = new_meta("", name);
        (metadata.uid, metadata.resource_version) = (Some(format!("uid-{name}")), Some("7".to_owned()));
        ClusterTrustBundle { metadata, spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: pem.to_owned() } }
    }

    /// What is written for these bundles, and whether the step failed.
    async fn written(bundles: &[ClusterTrustBundle], refused: Option<(&'static str, u16, &'static str)>) -> (Vec<String>, bool) {
        let fake = Fake::new(move |method, path: &str| match refused {
            Some((what, code, reason)) if format!("{method} {path}").ends_with(what) => refusal(code, reason),
            _ => (200, json!({"kind": "ClusterTrustBundle", "apiVersion": "certificates.k8s.io/v1", "metadata": {}, "spec": {"trustBundle": ""}})),
        });
        let synced = Synced::new(&instruments::Registry::default(), &SYNCS, &SYNC);
        let publisher = Publisher { client: fake.client(), root_ca: "PEM".to_owned(), bundles: Informer::fixed(bundles.to_vec()), synced };
        let failed = publisher.reconcile(&()).await.is_err();
        (fake.written(), failed)
    }

    #[test]
    fn the_name_tells_the_signer_and_the_authority() {
        // `printf PEM | sha256sum`
        assert_eq!(bundle_name("PEM"), "kubernetes.io:kube-apiserver-serving:384fb9a44fabe158be2757b9");
        assert_ne!(bundle_name("PEM"), bundle_name("PEM\n"));
    }

    #[tokio::test]
    async fn there_is_one_bundle_and_it_has_the_authority() {
        let name = bundle_name("PEM");
        assert_eq!(written(&[bundle(&name, "PEM")], None).await, (vec![], false));

        let (made, failed) = written(&[], None).await;
        assert!(!failed && made.len() == 1 && made[0].starts_with(&format!("POST {PREFIX} ")), "{made:?}");
        for part in [format!(r#""name":"{name}""#), format!(r#""signerName":"{SIGNER}""#), r#""trustBundle":"PEM""#.to_owned()] {
            assert!(made[0].contains(&part), "{part}: {made:?}");
        }
        let (put, failed) = written(&[bundle(&name, "another")], None).await;
        assert!(!failed && put.len() == 1 && put[0].starts_with(&format!("PUT {PREFIX}/")), "{put:?}");
        assert!(put[0].contains(r#""resourceVersion":"7""#) && put[0].contains(r#""trustBundle":"PEM""#), "{put:?}");
    }

    #[tokio::test]
    async fn others_of_the_signer_go_once_the_bundle_stands() {
        let others = [bundle("kubernetes.io:kube-apiserver-serving:a", "A"), bundle("kubernetes.io:kube-apiserver-serving:b", "B")];
        let (all, failed) = written(&others, None).await;
        assert!(!failed && all.len() == 3 && all[0].starts_with("POST"), "{all:?}");
        assert!(all[1..].iter().all(|w| w.starts_with(&format!("DELETE {PREFIX}/")) && w.contains(r#""uid":"uid-"#)), "{all:?}");

        let (all, failed) = written(&others, Some(("clustertrustbundles", 403, "Forbidden"))).await;
        assert!(failed && all.len() == 1, "nothing goes before: {all:?}");
        for (what, code, reason, fails) in [("a", 500, "InternalError", true), ("b", 500, "InternalError", true), ("a", 404, "NotFound", false)] {
            let (all, failed) = written(&others, Some((what, code, reason))).await;
            assert!(failed == fails && all.len() == 3, "{reason}: {all:?}");
        }
    }
}
