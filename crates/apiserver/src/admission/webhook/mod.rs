//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: others are asked about a write, over HTTPS (upstream's
//! `admission/plugin/webhook`).
//!
//! Which webhooks a write concerns is found in [`matching`], what they are told and what they may answer stands in [`review`], one
//! call of one of them in [`call`]. The mutating ones are asked one after the other, in the order of their configurations'
//! names, and again where the object has changed after them ([`super::again`]); the validating ones all at once.

mod call;
#[cfg(test)]
mod fuzz;
mod matching;
mod mutating;
mod plain;
mod review;
mod validating;

pub(super) use matching::{by_labels, in_namespace};
pub(super) use mutating::admit;
pub(super) use validating::validate;
