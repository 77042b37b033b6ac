//! Requests of kubelets for certificates as clients are approved where whoever asks has the right to them: `nodeclient` for any
//! node's (a bootstrap token's group), `selfnodeclient` for its own (nodes).
//!
//! Where nodes of other machines join ([`Machines`](crate::Machines)), a bootstrap token's bearer is denied the name of another node: of
//! one of the control plane's machine, and of one that is Ready, whose pods' secrets it could read otherwise. (With kubeadm the one who
//! joins looks by himself. A node that is not Ready may be the same machine, which has lost its certificate.)
//!
//! What holds it: every change of a request is heard, and one that is open is asked for, now or after the next start. A right that
//! is given later is no event here: a request that was recognised and not allowed is asked for again each minute (upstream: with a
//! growing pause, up to a quarter of an hour) until somebody decides or the cleaner takes it after a day.

use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, Informer, Meta};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus};
use k8s_openapi::api::core::v1::Node;

use super::{KUBELET_CLIENT, NODE, condition, is, is_issued, kubelet_client};
use crate::machines::Machines;
use crate::node::is_ready;
use crate::work::{Controller, Cx, Step};

/// After so long it is asked again whether a requester may.
const AGAIN: Duration = Duration::from_secs(60);

/// What is asked for, and what is told when it is allowed.
const SELF: (&str, &str) = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const ANY: (&str, &str) = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

/// The group of all who show a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let (requests, nodes) = (cx.informers.informer(), cx.informers.informer());
    let controller = Arc::new(Approving { client: cx.client("certificate-controller"), requests, nodes, machines: cx.config.machines.clone() });
    cx.setup(&controller)
        .reads(&controller.nodes)
        .on(&controller.requests, |_, queue, change| {
            if is_open(change.object()) {
                queue.add(change.object().name().to_owned());
            }
        })
        .work(1)
        .await;
}

struct Approving {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    machines: Option<Machines>,
}

/// Whether nobody has decided on a request that may be decided on here.
fn is_open(request: &CertificateSigningRequest) -> bool {
    request.spec.signer_name == KUBELET_CLIENT && !is_issued(request) && !is(request, "Approved") && !is(request, "Denied")
}

/// The rights, each of which is enough, with what is told.
fn rights(request: &CertificateSigningRequest) -> Vec<(&'static str, &'static str)> {
    match kubelet_client(request) {
        Ok(name) if request.spec.username.as_deref() == Some(&name) => vec![SELF, ANY],
        Ok(_) => vec![ANY],
        Err(_) => Vec::new(),
    }
}

impl Controller for Approving {
    const QUEUE: &'static str = "certificate";
    const BACKOFF: Backoff = super::BACKOFF;
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(request) = self.requests.get("", name).filter(|r| is_open(r)) else { return Ok(None) };
        let rights = rights(&request);
        for (right, message) in &rights {
            if self.may(&request, right).await? {
                return match self.taken(&request).await? {
                    Some(why) => self.decide(&request, "Denied", "NodeNameTaken", &why).await,
                    None => self.decide(&request, "Approved", "AutoApproved", message).await,
                };
            }
        }
        Ok((!rights.is_empty()).then_some(AGAIN))
    }
}

impl Approving {
    async fn decide(&self, request: &CertificateSigningRequest, kind: &str, reason: &str, message: &str) -> Step {
        let mut decided = request.clone();
        let status = decided.status.get_or_insert_with(CertificateSigningRequestStatus::default);
        status.conditions.get_or_insert_default().push(condition(kind, reason, message));
        match self.client.all::<CertificateSigningRequest>().replace_subresource(request.name(), "approval", &decided).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }

    /// Why somebody who joins by a token must not have the name that he asks for.
    async fn taken(&self, request: &CertificateSigningRequest) -> client::Result<Option<String>> {
        let joins = request.spec.groups.iter().flatten().any(|group| group == BOOTSTRAPPERS);
        let (true, Some(machines), Ok(user)) = (joins, &self.machines, kubelet_client(request)) else { return Ok(None) };
        let name = user.strip_prefix(NODE).unwrap_or_default();
        if machines.held().await?.nodes.contains_key(name) {
            return Ok(Some(format!("{name} is a node of the control plane's machine: join under another name")));
        }
        let node = self.nodes.get("", name).filter(|node| is_ready(node));
        Ok(node.map(|_| format!("a node {name} is there and Ready: delete it first if it is this machine, or join under another name")))
    }

    /// Whether the requester has the right.
    async fn may(&self, request: &CertificateSigningRequest, right: &str) -> client::Result<bool> {
        let spec = &request.spec;
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            version: Some("*".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(right.to_owned()),
            verb: Some("create".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.client.all::<SubjectAccessReview>().create(&review).await?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;
    use crate::fake::Fake;
    use serde_json::json;

    #[test]
    fn who_asks_for_itself_needs_the_smaller_right() {
        assert_eq!(rights(&request("system:node:a", "system:nodes", None)), [SELF, ANY]);
        let mut other = request("system:node:a", "system:nodes", None);
        other.spec.username = Some("system:bootstrap:abcdef".to_owned());
        assert_eq!(rights(&other), [ANY]);
        assert_eq!(rights(&request("system:node:a", "system:masters", None)), []);
        assert!(is_open(&other));
        other.spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned();
        assert!(!is_open(&other), "another signer's are for people");
    }

    #[tokio::test]
    async fn one_is_approved_by_the_right_that_it_has_and_else_asked_again() {
        for (allowed, again) in [(true, None), (false, Some(AGAIN))] {
            let fake = Fake::new(move |_, path: &str| match path.rsplit('/').next() {
                Some("subjectaccessreviews") => (201, json!({"spec": {}, "status": {"allowed": allowed}})),
                _ => (200, json!({"spec": {"request": "", "signerName": ""}})),
            });
            let requests = Informer::fixed([request("system:node:a", "system:nodes", None)]);
            let approving = Approving { client: fake.client(), requests, nodes: Informer::fixed([]), machines: None };
            assert_eq!(approving.reconcile(&"r".to_owned()).await.expect("a step"), again);
            let written = fake.written();
            assert!(written[0].contains(r#""subresource":"selfnodeclient""#), "{written:?}");
            let approval = written.iter().find(|w| w.starts_with("PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/r/approval"));
            assert_eq!(approval.is_some(), allowed, "{written:?}");
            assert!(approval.is_none_or(|a| a.contains(r#""reason":"AutoApproved""#)), "{written:?}");
            assert_eq!(written.len(), 2, "a right is enough; without the first the second is asked for: {written:?}");
        }
    }

    #[tokio::test]
    async fn who_joins_by_a_token_gets_no_other_nodes_name() {
        use crate::machines::tests::{machines, node};
        let asked = |name: &str, user: &str, group: &str| {
            let mut asked = request(&format!("system:node:{name}"), "system:nodes", None);
            (asked.spec.username, asked.spec.groups) = (Some(user.to_owned()), Some(vec![group.to_owned()]));
            asked
        };
        let joins = |name: &str| asked(name, "system:bootstrap:abcdef", BOOTSTRAPPERS);
        let made = "2026-01-01T00:00:00Z";
        let decided = async |request: CertificateSigningRequest, machines: Option<Machines>| {
            let fake = Fake::new(move |_, path: &str| match path.rsplit('/').next() {
                Some("subjectaccessreviews") => (201, json!({"spec": {}, "status": {"allowed": true}})),
                _ => (200, json!({"spec": {"request": "", "signerName": ""}})),
            });
            let nodes = [node("ready", made, &[], "", true), node("lost", made, &[], "", false)];
            let approving = Approving { client: fake.client(), requests: Informer::fixed([request]), nodes: Informer::fixed(nodes), machines };
            approving.reconcile(&"r".to_owned()).await.expect("a step");
            let written = fake.written().pop().unwrap_or_default();
            ["AutoApproved", "NodeNameTaken"].into_iter().find(|reason| written.contains(&format!(r#""reason":"{reason}""#)))
        };
        let here = || Some(machines(&[("host", "10.244.0.0/24")]));
        for (name, reason) in [("new", "AutoApproved"), ("lost", "AutoApproved"), ("ready", "NodeNameTaken"), ("host", "NodeNameTaken")] {
            assert_eq!(decided(joins(name), here()).await, Some(reason), "{name}");
        }
        assert_eq!(decided(joins("ready"), None).await, Some("AutoApproved"), "as the original, where no machines join");
        assert_eq!(decided(asked("ready", "system:node:ready", "system:nodes"), here()).await, Some("AutoApproved"), "a node renews its own");
    }
}
