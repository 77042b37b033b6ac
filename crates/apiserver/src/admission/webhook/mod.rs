//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: others are asked about a write, over HTTPS (upstream's
//! `admission/plugin/webhook`).
//!
//! Which webhooks a write concerns is found in [`matching`], what they are told and what they may answer stands in [`review`], one
//! call of one of them in [`call`]. The mutating ones are asked one after the other, in the order of their configurations'
//! names, and again where the object has changed after them ([`Again`]); the validating ones all at once.

mod call;
mod matching;
mod mutating;
mod review;
mod validating;

pub(super) use mutating::{Again, admit};
pub(super) use validating::validate;

use super::attributes::Attributes;

/// Reviews are questions about the very right to write: a webhook for them could lock everybody out (KEP-5793).
fn is_left_alone(asked: &Attributes<'_>) -> bool {
    const REVIEWS: [(&str, &str); 6] = [
        ("authentication.k8s.io", "selfsubjectreviews"),
        ("authentication.k8s.io", "tokenreviews"),
        ("authorization.k8s.io", "localsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authorization.k8s.io", "subjectaccessreviews"),
    ];
    let resource = &asked.write.row.resource;
    asked.is_exempt() || REVIEWS.iter().any(|(group, name)| resource.group == *group && resource.resource == *name)
}
