//! How versions become each other.

use super::Asked;
use crate::{
    groups::{checks, x509},
    rules, tree,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// Whether one of the versions of reviews is known.
pub(super) fn has_known_review(versions: &[Value]) -> bool {
    versions.iter().any(|v| v == "v1" || v == "v1beta1")
}

/// Whether there are authorities, and they can be read.
pub(super) fn has_good_certificates(conversion: &Value) -> bool {
    let bundle = tree::text(&conversion["webhook"]["clientConfig"], "caBundle");
    bundle.is_empty() || has_certificate(bundle)
}

fn text_of(bundle: &str) -> String {
    String::from_utf8_lossy(&STANDARD.decode(bundle).unwrap_or_default()).into_owned()
}

/// Why there is no certificate in what has none.
fn without_certificate(bundle: &str) -> &'static str {
    if x509::blocks(&text_of(bundle)).is_empty() { "unable to parse bytes as PEM block" } else { "no valid certificate authority data seen" }
}

fn has_certificate(bundle: &str) -> bool {
    let text = text_of(bundle);
    text.split_once("-----BEGIN CERTIFICATE-----").is_some_and(|(_, rest)| rest.contains("-----END CERTIFICATE-----"))
}

pub(super) fn check(conversion: &Value, asked: Asked, path: &Path, errors: &mut ErrorList) {
    if conversion.is_null() {
        return;
    }
    rules::one_of(&conversion["strategy"], &path.child("strategy"), &["None", "Webhook"], errors);
    let (webhook, place) = (&conversion["webhook"], path.child("webhookClientConfig"));
    let (config, reviews) = (&webhook["clientConfig"], path.child("conversionReviewVersions"));
    if conversion["strategy"] != "Webhook" {
        if !config.is_null() {
            errors.push(Error::forbidden(&place, "should not be set when strategy is not set to Webhook"));
        }
        if !tree::empty(&webhook["conversionReviewVersions"]) {
            errors.push(Error::forbidden(&reviews, "should not be set when strategy is not set to Webhook"));
        }
        return;
    }
    if config.is_null() {
        errors.push(Error::required(&place, "required when strategy is set to Webhook"));
    } else {
        checks::client_config(config, &place, errors);
        let bundle = tree::text(config, "caBundle");
        if asked.certificates && !bundle.is_empty() && !has_certificate(bundle) {
            let detail = format!("unable to load root certificates: {}", without_certificate(bundle));
            errors.push(Error::invalid(&place.child("caBundle"), bundle, detail));
        }
    }
    check_reviews(webhook, asked, &reviews, errors);
}

fn check_reviews(webhook: &Value, asked: Asked, path: &Path, errors: &mut ErrorList) {
    let versions = tree::list(webhook, "conversionReviewVersions");
    if versions.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (at, version) in checks::texts(webhook, "conversionReviewVersions") {
        if !seen.insert(version) {
            errors.push(Error::invalid(&path.index(at), version, "duplicate version"));
        } else {
            rules::name(version, &path.index(at), names::dns1035_label(version), errors);
        }
    }
    if asked.known_reviews && !has_known_review(versions) {
        errors.push(Error::invalid(path, versions.to_vec(), "must include at least one of v1, v1beta1"));
    }
}
