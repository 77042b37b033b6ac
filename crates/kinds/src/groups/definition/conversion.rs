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

/// Why there is no certificate in what has none (`createErrorParsingCAData`).
fn without_certificate(bundle: &str) -> &'static str {
    let text = text_of(bundle);
    if x509::blocks(&text).is_empty() {
        "unable to parse bytes as PEM block"
    } else if certificates(&text).next().is_some() {
        "failed to parse certificate: x509: malformed certificate"
    } else {
        "no valid certificate authority data seen"
    }
}

/// Of each block that is to be a certificate: whether it is one.
fn certificates(text: &str) -> impl Iterator<Item = bool> {
    let blocks = x509::blocks(text).into_iter().filter(|block| block.kind == "CERTIFICATE" && !block.has_headers);
    blocks.map(|block| x509::is_authority(&block.bytes).is_some())
}

/// One certificate is enough.
fn has_certificate(bundle: &str) -> bool {
    certificates(&text_of(bundle)).any(|good| good)
}

pub(super) fn check(conversion: &Value, asked: Asked, path: &Path, errors: &mut ErrorList) {
    if conversion.is_null() {
        return;
    }
    rules::one_of_plain(&conversion["strategy"], &path.child("strategy"), &["None", "Webhook"], errors);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_a_certificate_says_why() {
        let told = |text: &str| {
            let bundle = STANDARD.encode(text);
            (has_certificate(&bundle), without_certificate(&bundle))
        };
        assert_eq!(told("x"), (false, "unable to parse bytes as PEM block"));
        assert_eq!(told("-----BEGIN KEY-----\neA==\n-----END KEY-----\n"), (false, "no valid certificate authority data seen"));
        let malformed = "-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n";
        assert_eq!(told(malformed), (false, "failed to parse certificate: x509: malformed certificate"));
    }
}
