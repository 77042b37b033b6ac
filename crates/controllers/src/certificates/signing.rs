//! Approved requests for certificates are signed for the signers that the original's controller signs for: clients of the API
//! server, kubelets as such clients, kubelets as servers, and what was asked for before signers had names.
//!
//! The authority's key is not here: [`Signer`] stands for whoever holds it.
//!
//! What holds it: every change of a request is heard, and one that is approved and has neither certificate nor failure is signed,
//! now or after the next start. A certificate that was made and could not be written (a conflict, a store that refuses) is thrown
//! away and made again. What is once written is the API's to keep: certificates and conditions of a request do not go.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, Informer, Meta};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus};

use super::{KUBELET_CLIENT, KUBELET_SERVING, condition, is, kubelet_client, kubelet_serving};
use crate::meta::secs;
use crate::work::{Controller, Cx, Step};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Signs whatever is approved. Requests for it are refused since v1 of the API; what lies in the store from before is signed.
const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// The shortest that is asked for: certificates begin some minutes before now, so that clocks may differ.
const LIFE_MIN: Duration = Duration::from_secs(10 * 60);

/// By so much a certificate begins before now; the end of one that is no short one comes as much earlier (upstream's `Backdate` and `Short`).
const BACKDATED: Duration = Duration::from_secs(5 * 60);
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);

/// How long to wait with a request that could not be signed: the authority's trouble is no fault of the request's, which would
/// stay failed for ever.
const AGAIN: Duration = Duration::from_secs(60);

/// Makes a certificate (PEM) for a request (PEM), usages and a life. What is wrong with the request is the inner error, and that the
/// authority cannot sign now the outer one.
#[derive(Clone)]
pub struct Signer(Arc<Sign>);

type Signed = Result<Result<String, String>, String>;
type Sign = dyn Fn(&str, &[String], Duration) -> Signed + Send + Sync;

impl Signer {
    /// It may read files; it is called where that does no harm.
    pub fn new(sign: impl Fn(&str, &[String], Duration) -> Result<Result<String, String>, String> + Send + Sync + 'static) -> Self {
        Signer(Arc::new(sign))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

/// Runs the controller until the end; without a signer there is nothing to sign with.
pub(crate) async fn run(cx: Cx) {
    let Some(signer) = cx.config.signer.clone() else { return cx.shutdown.cancelled().await };
    let client = cx.client("certificate-controller");
    let controller = Arc::new(Signing { client, signer, life: cx.config.signing_life, requests: cx.informers.informer() });
    cx.setup(&controller)
        .on(&controller.requests, |_, queue, change| {
            let request = change.object();
            if waits(request) {
                queue.add(request.name().to_owned());
            }
        })
        .work(1)
        .await;
}

struct Signing {
    client: Client,
    signer: Signer,
    /// Of a certificate for which none is asked, and the longest.
    life: Duration,
    requests: Informer<CertificateSigningRequest>,
}

/// Whether a request is this signer's, approved, and neither signed nor given up.
fn waits(request: &CertificateSigningRequest) -> bool {
    let ours = [SIGNER, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&request.spec.signer_name.as_str());
    let open = request.status.as_ref().is_some_and(|s| s.certificate.is_none());
    ours && open && is(request, "Approved") && !is(request, "Denied") && !is(request, "Failed")
}

/// Whether the signer makes such certificates; else what is wrong with the request.
fn acceptable(request: &CertificateSigningRequest) -> Result<(), String> {
    match request.spec.signer_name.as_str() {
        KUBELET_CLIENT => kubelet_client(request).map(drop),
        KUBELET_SERVING => kubelet_serving(request).map(drop),
        LEGACY => Ok(()),
        _ => check(request.spec.usages.as_deref().unwrap_or_default()),
    }
}

/// Whether a client's certificate may be for these; else what is wrong with them.
fn check(usages: &[String]) -> Result<(), String> {
    let optional = |usage: &&String| matches!(usage.as_str(), "digital signature" | "key encipherment");
    match usages.iter().filter(|usage| !optional(usage)).find(|usage| *usage != "client auth") {
        Some(other) => Err(format!("invalid usage for client certificate: {other}")),
        None if usages.iter().any(|usage| usage == "client auth") => Ok(()),
        None => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

/// The life that is given for the one that is asked for.
fn life(asked_s: Option<i32>, longest: Duration) -> Duration {
    asked_s.map(secs).filter(|asked| *asked <= longest).map_or(longest, |asked| asked.max(LIFE_MIN))
}

/// How long from now a certificate of such a life is good.
fn left(life: Duration) -> Duration {
    if life < SHORT { life } else { life.saturating_sub(BACKDATED) }
}

impl Controller for Signing {
    const QUEUE: &'static str = "certificate";
    const BACKOFF: Backoff = super::BACKOFF;
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(request) = self.requests.get("", name).filter(|r| waits(r)) else { return Ok(None) };
        let mut changed = (*request).clone();
        let status = changed.status.get_or_insert_with(CertificateSigningRequestStatus::default);
        match acceptable(&request) {
            Ok(()) => match self.sign(&request).await {
                Ok(Ok(certificate)) => status.certificate = Some(ByteString(certificate.into_bytes())),
                Ok(Err(why)) => status.conditions.get_or_insert_default().push(condition("Failed", "SignerValidationFailure", why)),
                Err(error) => {
                    tracing::warn!(request = name, error, "a certificate could not be signed; it is tried again");
                    return Ok(Some(AGAIN));
                }
            },
            Err(why) => status.conditions.get_or_insert_default().push(condition("Failed", "SignerValidationFailure", why)),
        }
        match self.client.all::<CertificateSigningRequest>().replace_status(name, &changed).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

impl Signing {
    async fn sign(&self, request: &CertificateSigningRequest) -> Signed {
        let pem = match String::from_utf8(request.spec.request.0.clone()) {
            Ok(pem) => pem,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (signer, life) = (self.signer.clone(), life(request.spec.expiration_seconds, self.life));
        let usages = request.spec.usages.clone().unwrap_or_default();
        tokio::task::spawn_blocking(move || (signer.0)(&pem, &usages, left(life))).await.map_err(|error| error.to_string())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

    fn request(signer: &str, conditions: &[&str], certificate: bool) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        request.spec.signer_name = signer.to_owned();
        let condition = |kind: &&str| CertificateSigningRequestCondition { type_: (*kind).to_owned(), status: "True".to_owned(), ..Default::default() };
        request.status = Some(CertificateSigningRequestStatus {
            conditions: Some(conditions.iter().map(condition).collect()),
            certificate: certificate.then(|| ByteString(b"it".to_vec())),
        });
        request
    }

    #[test]
    fn only_what_is_approved_and_open_waits() {
        assert!(waits(&request(SIGNER, &["Approved"], false)));
        assert!(!waits(&request(SIGNER, &[], false)));
        assert!(!waits(&request(SIGNER, &["Approved"], true)));
        assert!(!waits(&request(SIGNER, &["Approved", "Failed"], false)));
        assert!(!waits(&request("example.com/signer", &["Approved"], false)));
        assert!([KUBELET_CLIENT, KUBELET_SERVING, LEGACY].iter().all(|signer| waits(&request(signer, &["Approved"], false))));
    }

    #[test]
    fn a_client_certificate_is_for_clients_alone() {
        let usages = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(check(&usages(&["client auth", "digital signature", "key encipherment"])), Ok(()));
        assert_eq!(check(&usages(&["client auth", "server auth"])), Err("invalid usage for client certificate: server auth".to_owned()));
        assert_eq!(check(&usages(&["digital signature"])), Err("missing required usage for client certificate: client auth".to_owned()));
    }

    #[test]
    fn a_kubelet_gets_a_kubelets_certificate_alone() {
        use super::super::tests::request;
        assert_eq!(acceptable(&request("system:node:a", "system:nodes", None)), Ok(()));
        assert_eq!(acceptable(&request("system:node:a", "system:masters", None)), Err("subject organization is not system:nodes".to_owned()));
        assert_eq!(acceptable(&super::super::tests::serving("system:node:a", &["a"])), Ok(()));
        let mut serving = request("system:node:a", "system:nodes", None);
        serving.spec.signer_name = KUBELET_SERVING.to_owned();
        assert_eq!(acceptable(&serving), Err("DNS or IP subjectAltName is required".to_owned()));
        serving.spec.signer_name = LEGACY.to_owned();
        assert_eq!(acceptable(&serving), Ok(()), "whatever it is for");
    }

    #[test]
    fn a_life_has_bounds() {
        let [minute, day] = [60, 24 * 60 * 60].map(Duration::from_secs);
        let lives = |longest| [None, Some(60), Some(3600), Some(i32::MAX)].map(|asked| life(asked, longest));
        assert_eq!(lives(day), [day, LIFE_MIN, secs(3600), day]);
        assert_eq!(lives(minute), [minute, LIFE_MIN, minute, minute], "as upstream: the least comes before the most");
        assert_eq!([secs(3600), SHORT, day].map(left), [secs(3600), SHORT - BACKDATED, day - BACKDATED]);
    }
}
