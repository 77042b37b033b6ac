//! Requests for certificates go when nobody needs them any more: an hour after they were decided and done, a day after they
//! were made or approved and nothing came of it, when their certificate ends; those of pods a quarter of an hour after they were made.
//!
//! What holds it: each request names its time when it is heard, and all are heard again at a start and once a day. Upstream looks at
//! all of them each hour (each five minutes at those of pods), so here they go no later than there.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Informer, Meta, ObjectKey, PartialObject};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::is_issued;
use crate::meta::{between, created, plus};
use crate::work::{Controller, Cx, Step};

/// What was approved and signed, denied or failed is kept for so long.
const DONE: Duration = Duration::from_secs(60 * 60);
/// What nobody has decided, or nobody has signed.
const PENDING: Duration = Duration::from_secs(24 * 60 * 60);
/// A pod's request: a kubelet has its certificate by then, or asks again.
const OF_POD: Duration = Duration::from_secs(15 * 60);

const OF_PODS: &str = "/apis/certificates.k8s.io/v1/podcertificaterequests";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let controller = Arc::new(Cleaner { client: cx.client("certificate-controller"), requests: cx.informers.informer() });
    cx.setup(&controller).on(&controller.requests, |_, queue, change| queue.add(change.object().name().to_owned())).work(1).await;
}

/// Runs the controller of pods' requests until the end.
pub(crate) async fn of_pods(cx: Cx) {
    let controller = Arc::new(OfPods { client: cx.client("podcertificaterequestcleaner"), requests: cx.informers.metadata(OF_PODS) });
    cx.setup(&controller).on(&controller.requests, |_, queue, change| queue.add(change.object().key())).work(1).await;
}

struct Cleaner {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
}

struct OfPods {
    client: Client,
    requests: Informer<PartialObject>,
}

/// When a request is to go; never while it has a condition of somebody else's alone.
fn end(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions = request.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let issued = is_issued(request);
    let ends = conditions.clone().filter_map(|c| {
        let kept = match c.type_.as_str() {
            "Denied" | "Failed" => DONE,
            "Approved" if issued => DONE,
            "Approved" => PENDING,
            _ => return None,
        };
        Some(plus(c.last_update_time.as_ref()?.0, kept))
    });
    if conditions.clone().next().is_none() {
        return Some(plus(created(request), PENDING));
    }
    let approved = conditions.clone().any(|c| c.type_ == "Approved");
    ends.chain(expiry(request).filter(|_| approved)).min()
}

/// When the certificate ends that was made for a request.
fn expiry(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let chain = request.status.as_ref()?.certificate.as_ref()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&chain.0).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

impl Controller for Cleaner {
    const QUEUE: &'static str = "certificatesigningrequest-cleaner-controller";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some((request, end)) = self.requests.get("", name).and_then(|r| end(&r).map(|e| (r, e))) else { return Ok(None) };
        let left = between(client::timestamp(), end);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        match self.client.all::<CertificateSigningRequest>().delete(name, &DeleteParams::default().uid(request.uid())).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(None),
        }
    }
}

impl Controller for OfPods {
    const QUEUE: &'static str = "podcertificaterequest-cleaner-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(request) = self.requests.get_key(key) else { return Ok(None) };
        let left = between(client::timestamp(), plus(created(&*request), OF_POD));
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let path = format!("/apis/certificates.k8s.io/v1/namespaces/{}/podcertificaterequests", key.namespace);
        match self.client.at::<PartialObject>(path).delete(&key.name, &DeleteParams::default().uid(request.uid())).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{condition, tests::request};
    use super::*;
    use crate::fake::Fake;
    use crate::meta::seconds;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus;
    use serde_json::json;

    /// A request of so long ago, with a condition of so long ago.
    fn of(made: Duration, decided: Option<(&str, Duration)>, certificate: Option<&str>) -> CertificateSigningRequest {
        let ago = |by: Duration| Some(seconds(client::timestamp().checked_sub(by).expect("a time")));
        let mut request = request("system:node:a", "system:nodes", None);
        request.metadata.creation_timestamp = ago(made);
        request.status = Some(CertificateSigningRequestStatus {
            conditions: decided.map(|(kind, since)| {
                let mut condition = condition(kind, "r", "m");
                condition.last_update_time = ago(since);
                vec![condition]
            }),
            certificate: certificate.map(|c| ByteString(c.as_bytes().to_vec())),
        });
        request
    }

    async fn goes(request: CertificateSigningRequest) -> bool {
        let fake = Fake::new(|_, _: &str| (200, json!({"kind": "Status"})));
        let cleaner = Cleaner { client: fake.client(), requests: Informer::fixed([request]) };
        let again = cleaner.reconcile(&"r".to_owned()).await.expect("a step");
        let gone = fake.written().iter().any(|w| w.starts_with("DELETE /apis/certificates.k8s.io/v1/certificatesigningrequests/r "));
        assert!(!gone || again.is_none(), "what is gone is not waited for");
        gone
    }

    #[tokio::test]
    async fn each_goes_at_its_time_and_not_before() {
        const MINUTE: Duration = Duration::from_secs(60);
        for (kind, kept, certificate) in
            [("Denied", DONE, None), ("Failed", DONE, None), ("Approved", DONE, Some("no certificate that can be read")), ("Approved", PENDING, None)]
        {
            assert!(goes(of(PENDING * 2, Some((kind, kept + MINUTE)), certificate)).await, "{kind}");
            assert!(!goes(of(PENDING * 2, Some((kind, kept - MINUTE)), certificate)).await, "{kind}");
        }
        assert!(goes(of(PENDING + MINUTE, None, None)).await);
        assert!(!goes(of(PENDING - MINUTE, None, None)).await);
        assert!(!goes(of(PENDING * 2, Some(("Example", PENDING * 2)), None)).await, "what somebody else has noted is his");
    }

    #[tokio::test]
    async fn one_goes_with_its_certificate() {
        let certificate = |year| {
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate").pem()
        };
        let soon = Some(("Approved", Duration::from_secs(60)));
        assert!(goes(of(Duration::from_secs(60), soon, Some(&certificate(2001)))).await);
        assert!(!goes(of(Duration::from_secs(60), soon, Some(&certificate(3000)))).await);
    }
}
