//! Certificates of one pod (`podCertificate` projections): a key is made here, a PodCertificateRequest asks a signer for its
//! certificate, and both are shown together; renewed from the time that the signer says (upstream's `podcertificate` manager).
//!
//! Each look takes the next step; looks come with the pod's set-up, when a request of this pod changes ([`super::watches`]), when
//! the next step is due, and once a minute. A request that was denied or has failed is the end: the volume is an error from then on. One
//! that was deleted is missed after ten minutes, and asked anew. Nothing is kept over a restart of the kubelet: like upstream it asks for
//! new certificates then. A request whose maker is dropped while it makes it is nobody's: it goes with the pod.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Pod, PodCertificateProjection};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::anchors;
use super::keys::{self, Made};
use crate::api::{ApiError, Severity, SharedApi};
use crate::util;

/// A request that was made so long ago and is not there was deleted.
const ABANDON: Duration = Duration::from_secs(10 * 60);
/// Requests and renewals of many pods are spread over this.
const SPREAD: Duration = Duration::from_secs(5 * 60);
/// So long after the time of renewal the signer is late.
const OVERDUE: Duration = Duration::from_secs(10 * 60);
/// Wait before what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// A pod's set-up waits so long for the signer, who often answers at once; after that it is tried again when he has.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// A volume's name, and which of its sources.
type Place = (String, usize);

/// A key with its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// PKCS#8, PEM.
    pub key: String,
    /// The leaf first, PEM, with nothing around the blocks.
    pub chain: String,
}

/// What is shown.
struct Shown {
    bundle: Bundle,
    /// When the renewal begins, by the time of day and by the clock that nobody sets: whichever comes first.
    renew: SystemTime,
    renew_at: Instant,
    not_after: SystemTime,
    told_overdue: bool,
    told_expired: bool,
}

/// A request under way.
struct Asked {
    name: String,
    key: String,
    abandon_at: Instant,
}

/// Where one source stands.
#[derive(Default)]
struct State {
    shown: Option<Shown>,
    asked: Option<Asked>,
    /// The signer's last word, if it was no.
    refused: Option<String>,
    /// Nothing is asked before.
    not_before: Option<Instant>,
}

/// The certificates of one pod.
#[derive(Default)]
pub struct Certificates {
    states: Mutex<HashMap<Place, State>>,
    /// When the next step is due; beside the states, which a slow API may hold.
    next: parking_lot::Mutex<Option<Instant>>,
}

fn spread(around: Duration) -> Duration {
    around + util::jittered(SPREAD).saturating_sub(SPREAD / 2)
}

impl Certificates {
    /// The bundle of a source: the one held, renewed when it is time.
    ///
    /// # Errors
    /// There is none yet, or the signer refused.
    pub async fn get(&self, api: &SharedApi, pod: &Pod, place: Place, source: &PodCertificateProjection) -> Result<Bundle, String> {
        let mut states = self.states.lock().await;
        let state = states.entry(place).or_default();
        let outcome = state.step(api, pod, source).await;
        let bundle = state.bundle();
        // What is due and cannot be done, as long as the signer or the API does not answer, is due again after a while.
        *self.next.lock() = states.values().filter_map(State::next).min().map(|at| at.max(Instant::now() + RETRY));
        match (outcome, bundle) {
            // What is shown stands while its successor cannot be had.
            (_, Ok(Some(bundle))) => Ok(bundle),
            (_, Err(refused)) => Err(refused),
            (Err(error), Ok(None)) => Err(error),
            (Ok(()), Ok(None)) => Err("credential bundle is not issued yet".into()),
        }
    }

    /// When the next step is due.
    #[must_use]
    pub fn next_step(&self) -> Option<Instant> {
        *self.next.lock()
    }
}

impl State {
    fn bundle(&self) -> Result<Option<Bundle>, String> {
        match &self.refused {
            Some(refused) => Err(refused.clone()),
            None => Ok(self.shown.as_ref().map(|s| s.bundle.clone())),
        }
    }

    fn next(&self) -> Option<Instant> {
        if self.refused.is_some() {
            return None;
        }
        let due = match (&self.asked, &self.shown) {
            (Some(asked), _) => asked.abandon_at,
            (None, Some(shown)) => shown.renew_at,
            (None, None) => return self.not_before,
        };
        Some(self.not_before.map_or(due, |at| at.max(due)))
    }

    async fn step(&mut self, api: &SharedApi, pod: &Pod, source: &PodCertificateProjection) -> Result<(), String> {
        if self.refused.is_some() {
            return Ok(());
        }
        self.tell_age(api, pod);
        let due = self.shown.as_ref().is_none_or(|s| SystemTime::now() >= s.renew || Instant::now() >= s.renew_at);
        if self.asked.is_none() && due && self.not_before.is_none_or(|at| Instant::now() >= at) {
            let asked = ask(api, pod, source).await.inspect_err(|_| self.not_before = Some(Instant::now() + RETRY))?;
            (self.asked, self.not_before) = (Some(asked), None);
        }
        if self.asked.is_none() {
            return Ok(());
        }
        if self.shown.is_some() {
            return self.look(api, pod).await;
        }
        let end = Instant::now() + ANSWER_WAIT;
        let mut changes = api.certificate_request_changes();
        loop {
            self.look(api, pod).await?;
            let waits = self.asked.is_some() && Instant::now() < end;
            if !waits || !matches!(tokio::time::timeout_at(end, changes.next()).await, Ok(Some(_))) {
                return Ok(());
            }
        }
    }

    /// Looks what became of the request.
    async fn look(&mut self, api: &SharedApi, pod: &Pod) -> Result<(), String> {
        let Some(asked) = &self.asked else { return Ok(()) };
        let full = format!("{}/{}", util::namespace(pod), asked.name);
        let Some(request) = api.certificate_request(util::namespace(pod), &asked.name).await.map_err(|e| e.to_string())? else {
            // It may not have been heard of yet.
            if Instant::now() >= asked.abandon_at {
                self.asked = None;
                return Err(format!("PodCertificateRequest {full:?} appears to have been deleted"));
            }
            return Ok(());
        };
        let Some(status) = &request.status else { return Ok(()) };
        for condition in status.conditions.iter().flatten() {
            let (reason, message) = (&condition.reason, &condition.message);
            let refused = match condition.type_.as_str() {
                "Denied" => "was denied",
                "Failed" => "failed",
                "Issued" => {
                    let chain = anchors::clean_chain(status.certificate_chain.as_deref().unwrap_or_default())?;
                    let (now, at) = (SystemTime::now(), Instant::now());
                    let renew = status.begin_refresh_at.as_ref().map_or(now, util::system_time) + spread(Duration::ZERO);
                    // A clock that goes wrong, here or at the signer's, is not to make one request after the other.
                    let renew = renew.max(now + SPREAD);
                    let rest = renew.duration_since(now).unwrap_or_default();
                    let not_after = status.not_after.as_ref().map_or(now, util::system_time);
                    let bundle = Bundle { key: asked.key.clone(), chain };
                    self.shown = Some(Shown { bundle, renew, renew_at: at + rest, not_after, told_overdue: false, told_expired: false });
                    self.asked = None;
                    return Ok(());
                }
                _ => continue,
            };
            let told = format!("PodCertificateRequest {full} {refused}, reason={reason:?}, message={message:?}");
            api.pod_event(pod, None, Severity::Warning, &condition.type_, &told);
            let how = condition.type_.to_lowercase();
            self.refused = Some(format!("PodCertificateRequest was permanently {how}: reason={reason:?} message={message:?}"));
            self.asked = None;
            return Ok(());
        }
        Ok(())
    }

    /// Says once that what is shown should have been renewed, and once that it is of no use any more.
    fn tell_age(&mut self, api: &SharedApi, pod: &Pod) {
        let Some(shown) = &mut self.shown else { return };
        let now = SystemTime::now();
        if now > shown.renew + OVERDUE && !std::mem::replace(&mut shown.told_overdue, true) {
            api.pod_event(pod, None, Severity::Warning, "CertificateOverdueForRefresh", "PodCertificate refresh overdue");
        }
        if now > shown.not_after && !std::mem::replace(&mut shown.told_expired, true) {
            api.pod_event(pod, None, Severity::Warning, "CertificateExpired", "PodCertificate expired");
        }
    }
}

async fn ask(api: &SharedApi, pod: &Pod, source: &PodCertificateProjection) -> Result<Asked, String> {
    let spec = pod.spec.as_ref().ok_or("pod has no spec")?;
    let account_name = spec.service_account_name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let node_name = spec.node_name.clone().unwrap_or_default();
    let lost = |what: &'static str| move |e: ApiError| format!("while {what}: {e}");
    let account = api.get_service_account(util::namespace(pod), &account_name).await.map_err(lost("fetching service account"))?;
    let node = api.get_node(&node_name).await.map_err(lost("getting node object"))?.ok_or_else(|| format!("node {node_name:?} not found"))?;
    let Made { key, proof } = keys::make(&source.key_type).await?;
    let request = PodCertificateRequest {
        metadata: ObjectMeta {
            namespace: Some(util::namespace(pod).to_owned()),
            generate_name: Some("req-".into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Pod".into(),
                name: util::name(pod).to_owned(),
                uid: util::uid(pod).to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: PodCertificateRequestSpec {
            signer_name: source.signer_name.clone(),
            pod_name: util::name(pod).to_owned(),
            pod_uid: util::uid(pod).to_owned(),
            service_account_name: account_name,
            service_account_uid: account.metadata.uid.unwrap_or_default(),
            node_name,
            node_uid: node.metadata.uid.unwrap_or_default(),
            max_expiration_seconds: source.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(proof),
            unverified_user_annotations: source.user_annotations.clone().filter(|a: &BTreeMap<_, _>| !a.is_empty()),
        },
        status: None,
    };
    let made = api.create_certificate_request(util::namespace(pod), &request).await.map_err(lost("creating PodCertificateRequest"))?;
    Ok(Asked { name: made.metadata.name.unwrap_or_default(), key, abandon_at: Instant::now() + spread(ABANDON) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::json;
    use std::sync::Arc;

    const CHAIN: &str = "chatter\n-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"},
            "spec": {"nodeName": "node", "serviceAccountName": "runner", "containers": []}}))
        .unwrap()
    }

    fn source(kind: &str) -> PodCertificateProjection {
        serde_json::from_value(json!({"signerName": "e.com/s", "keyType": kind, "credentialBundlePath": "b", "maxExpirationSeconds": 3600,
            "userAnnotations": {"e.com/a": "1"}}))
        .unwrap()
    }

    fn status(kind: &str, renew: SystemTime, end: SystemTime) -> serde_json::Value {
        let text = |t: SystemTime| {
            let seconds = i64::try_from(t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
            k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap().to_string()
        };
        json!({"conditions": [{"type": kind, "status": "True", "reason": "Because", "message": "of \"it\"", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "certificateChain": CHAIN, "beginRefreshAt": text(renew), "notAfter": text(end)})
    }

    fn peopled() -> Arc<FakeApi> {
        let api = FakeApi::default();
        api.peopled.store(true, std::sync::atomic::Ordering::Relaxed);
        Arc::new(api)
    }

    /// A signer that answers the newest request.
    fn answer(api: &FakeApi, kind: &str, lives: Duration) {
        let now = SystemTime::now();
        api.requests.send_modify(|all| {
            let newest = Arc::make_mut(all.last_mut().unwrap());
            newest.status = Some(serde_json::from_value(status(kind, now + lives / 2, now + lives)).unwrap());
        });
    }

    async fn get(held: &Certificates, api: &Arc<FakeApi>) -> Result<Bundle, String> {
        let shared: SharedApi = api.clone();
        held.get(&shared, &pod(), ("v".into(), 0), &source("ECDSAP256")).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_waits_for_its_signer_and_shows_the_key_with_the_certificate() {
        let (held, api) = (Certificates::default(), peopled());
        assert_eq!(get(&held, &api).await.unwrap_err(), "credential bundle is not issued yet");
        let request = api.requests.borrow()[0].clone();
        assert_eq!(
            serde_json::to_value(&request.metadata).unwrap(),
            json!({"namespace": "n", "name": "req-0", "generateName": "req-", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]})
        );
        let mut spec = serde_json::to_value(&request.spec).unwrap();
        spec.as_object_mut().unwrap().remove("stubPKCS10Request");
        assert_eq!(
            spec,
            json!({"signerName": "e.com/s", "podName": "p", "podUID": "u", "serviceAccountName": "runner", "serviceAccountUID": "account-uid",
                "nodeName": "node", "nodeUID": "node-uid", "maxExpirationSeconds": 3600, "unverifiedUserAnnotations": {"e.com/a": "1"}})
        );
        answer(&api, "Issued", Duration::from_secs(3600));
        let bundle = get(&held, &api).await.unwrap();
        assert_eq!(bundle.chain, "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n", "nothing around the blocks");
        let key = rcgen::KeyPair::from_pem(&bundle.key).unwrap();
        let (_, proof) = x509_parser::prelude::FromDer::from_der(&request.spec.stub_pkc_s10_request.0)
            .map(|(rest, csr): (_, x509_parser::certification_request::X509CertificationRequest<'_>)| {
                (rest, csr.certification_request_info.subject_pki.raw.to_vec())
            })
            .unwrap();
        assert_eq!(proof, rcgen::PublicKeyData::subject_public_key_info(&key), "the request proves this very key");
        assert_eq!(get(&held, &api).await.unwrap(), bundle);
        assert_eq!(api.requests.borrow().len(), 1, "asked once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_renewed_at_its_time_and_the_old_one_stands_meanwhile() {
        let (held, api) = (Certificates::default(), peopled());
        get(&held, &api).await.unwrap_err();
        answer(&api, "Issued", Duration::from_secs(7200));
        let first = get(&held, &api).await.unwrap();
        let due = held.next_step().unwrap() - Instant::now();
        assert!((Duration::from_secs(3598)..Duration::from_secs(3601) + SPREAD).contains(&due), "{due:?}");
        tokio::time::advance(due).await;
        assert_eq!(get(&held, &api).await.unwrap(), first, "while the signer thinks");
        assert_eq!(api.requests.borrow().len(), 2);
        assert!(held.next_step().unwrap() > Instant::now(), "no look but for a reason");
        answer(&api, "Issued", Duration::from_secs(7200));
        assert_ne!(get(&held, &api).await.unwrap().key, first.key, "each certificate has a key of its own");
        assert!(api.reasons().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_signer_who_does_not_answer_is_not_asked_in_a_busy_loop() {
        let (held, api) = (Certificates::default(), peopled());
        get(&held, &api).await.unwrap_err();
        answer(&api, "Issued", Duration::from_secs(7200));
        let first = get(&held, &api).await.unwrap();
        tokio::time::advance(held.next_step().unwrap() - Instant::now()).await;
        assert_eq!(get(&held, &api).await.unwrap(), first, "the renewal is asked for");
        tokio::time::advance(ABANDON + SPREAD).await;
        for _ in 0..3 {
            assert_eq!(get(&held, &api).await.unwrap(), first);
            assert!(held.next_step().unwrap() >= Instant::now() + RETRY, "no step is due at once");
        }
        assert_eq!(api.requests.borrow().len(), 2, "the request stands");
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_of_renewal_that_has_passed_makes_no_loop_of_requests() {
        let (held, api) = (Certificates::default(), peopled());
        get(&held, &api).await.unwrap_err();
        let hour = Duration::from_secs(3600);
        api.requests.send_modify(|all| {
            let newest = Arc::make_mut(all.last_mut().unwrap());
            newest.status = Some(serde_json::from_value(status("Issued", SystemTime::now() - hour, SystemTime::now() + hour)).unwrap());
        });
        let first = get(&held, &api).await.unwrap();
        assert_eq!(get(&held, &api).await.unwrap(), first);
        assert_eq!(api.requests.borrow().len(), 1);
        let due = held.next_step().unwrap() - Instant::now();
        assert!(due + Duration::from_secs(1) >= SPREAD, "{due:?}");
        tokio::time::advance(due).await;
        get(&held, &api).await.unwrap();
        assert_eq!(api.requests.borrow().len(), 2, "then it is asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_the_end() {
        for (kind, told) in [("Denied", "was denied"), ("Failed", "failed")] {
            let (held, api) = (Certificates::default(), peopled());
            get(&held, &api).await.unwrap_err();
            answer(&api, kind, Duration::from_secs(3600));
            let refused = format!("PodCertificateRequest was permanently {}: reason=\"Because\" message=\"of \\\"it\\\"\"", kind.to_lowercase());
            assert_eq!(get(&held, &api).await.unwrap_err(), refused);
            assert_eq!(get(&held, &api).await.unwrap_err(), refused);
            let event = format!("PodCertificateRequest n/req-0 {told}, reason=\"Because\", message=\"of \\\"it\\\"\"");
            assert_eq!((api.events(), api.requests.borrow().len(), held.next_step()), (vec![(kind.to_owned(), event)], 1, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_deleted_is_missed_after_a_while_and_made_anew() {
        let (held, api) = (Certificates::default(), peopled());
        get(&held, &api).await.unwrap_err();
        api.requests.send_modify(Vec::clear);
        assert_eq!(get(&held, &api).await.unwrap_err(), "credential bundle is not issued yet");
        tokio::time::advance(ABANDON + SPREAD).await;
        assert_eq!(get(&held, &api).await.unwrap_err(), "PodCertificateRequest \"n/req-0\" appears to have been deleted");
        get(&held, &api).await.unwrap_err();
        assert_eq!(api.requests.borrow().len(), 1);
    }
}
