//! One definition's webhook, and one review by it.

use super::answer::{self, Answered, Fault, Read, Review, kind_of};
use crate::{
    hooks::{Address, ClientConfig, Credentials, Itself, Pools, Services, trust},
    meta,
    metrics::Conversions,
    offload,
};
use machinery::{Value, json};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long one call may take, as upstream's client of hooks waits.
const WITHIN: Duration = Duration::from_secs(30);

/// What upstream says where a definition's resources cannot be served at all.
pub(crate) const UNUSABLE: &str = "error resolving resource";

/// Who converts the objects of a definition.
#[derive(Debug)]
pub(crate) struct Webhook {
    address: Address,
    /// The first version of a review that both know.
    review: Option<Review>,
    /// Whether its bundle, if it has one, holds a certificate; the server believes itself.
    trusts: bool,
    /// Who answers where the server itself is named.
    itself: Itself,
    /// The newest revision when it was made.
    born: u64,
    definition: String,
    counts: Arc<Conversions>,
}

/// What a definition's webhook is made with.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// Who answers where the server itself is named.
    pub(crate) itself: &'a Itself,
    /// The newest revision.
    pub(crate) now: u64,
    /// Where it is counted what is converted.
    pub(crate) counts: &'a Arc<Conversions>,
}

impl Webhook {
    /// From `spec.conversion` of the definition of this name; `None` for the strategy that calls nobody.
    pub(crate) fn of(conversion: &Value, definition: &str, setting: Setting<'_>) -> Option<Webhook> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let mut config = ClientConfig::of(&webhook["clientConfig"]);
        if config.ca_bundle.iter().all(u8::is_ascii_whitespace) {
            config.ca_bundle.clear();
        }
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let review = { versions }.filter_map(Value::as_str).find_map(Review::named);
        let trusts = config.is_itself() || trust::is_usable(&config.ca_bundle);
        let address = Address::new(config, Credentials::default(), Pools::default());
        let Setting { itself, now: born, counts } = setting;
        Some(Webhook { address, review, trusts, itself: itself.clone(), born, definition: definition.to_owned(), counts: Arc::clone(counts) })
    }

    pub(super) fn born(&self) -> u64 {
        self.born
    }

    pub(super) fn itself(&self) -> &Itself {
        &self.itself
    }

    /// Whether anybody could be asked. Where nobody can, the definition's resources answer nothing, in whatever version: upstream
    /// makes the client when it makes what serves them, and a bundle that is no certificate is taken until a definition is established.
    pub(crate) fn is_usable(&self) -> bool {
        self.trusts
    }

    /// The objects in another version, by one review. All of them are in some version that it is not; `bytes` is about how many
    /// they have.
    ///
    /// # Errors
    /// No answer counts; in upstream's words.
    pub(super) async fn convert(&self, services: &dyn Services, to: &str, objects: Vec<Value>, bytes: usize) -> Answered {
        if !self.is_usable() {
            return Err(UNUSABLE.to_owned());
        }
        let review = self.review.ok_or("no supported conversion review versions")?;
        let about = objects.first().map(kind_of).unwrap_or_default();
        let failed = |why: String| format!("conversion webhook for {about} failed: {why}");
        let target = self.address.target().await.map_err(failed)?;
        let (begun, wanted) = (Instant::now(), version_of(to));
        let from = objects.first().and_then(|object| object["apiVersion"].as_str()).map(version_of).unwrap_or_default().to_owned();
        let (uid, to) = (meta::uuid(), to.to_owned());
        let (body, objects) = {
            let (uid, to) = (uid.clone(), to.clone());
            offload::at_length(bytes, move || {
                let mut request = json!({"kind": "ConversionReview", "apiVersion": review.api_version(), "request": {"uid": uid, "desiredAPIVersion": to}});
                request["request"]["objects"] = Value::Array(objects);
                let body = json::encode(&request);
                let objects = match request["request"]["objects"].take() {
                    Value::Array(objects) => objects,
                    _ => Vec::new(),
                };
                (body, objects)
            })
            .await
        };
        let asked = Box::pin(target.post(services, body.into(), WITHIN));
        let answered = match offload::resting(asked).await {
            Ok(body) => offload::at_length(body.len(), move || answer::read(&body, review, &uid, &to, &objects)).await,
            Err(why) => Err((Fault::Call, failed(timed_out(why.to_string())))),
        };
        self.counts.asked(&self.definition, (&from, wanted), failure(&answered), begun.elapsed());
        answered.map_err(|(_, why)| why)
    }
}

/// The version of an `apiVersion`.
fn version_of(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or_default()
}

/// As what sort of failure an answer is counted (upstream's `ConversionWebhookErrorType`).
fn failure(answered: &Read) -> Option<&'static str> {
    match answered {
        Ok(all) if all.iter().all(Result::is_ok) => None,
        Ok(_) => Some("conversion_webhook_invalid_converted_object_failure"),
        Err((Fault::Call, _)) => Some("conversion_webhook_call_failure"),
        Err((Fault::Malformed, _)) => Some("conversion_webhook_malformed_response_failure"),
        Err((Fault::Partial, _)) => Some("conversion_webhook_partial_response_failure"),
    }
}

/// Whether a definition's `spec.conversion` names authorities that can be read, or none at all. Upstream takes any when a definition
/// is made, blank ones too, which tools put there that fill them in later, and establishes it when they are some.
pub(crate) fn trusts(conversion: &Value) -> bool {
    trust::is_usable(&ClientConfig::of(&conversion["webhook"]["clientConfig"]).ca_bundle)
}

/// Upstream's client has a time of its own here, and says so.
fn timed_out(why: String) -> String {
    match why.strip_suffix("context deadline exceeded") {
        Some(before) if before.starts_with("Post ") => format!("{before}net/http: request canceled (Client.Timeout exceeded while awaiting headers)"),
        Some(_) => format!("{why} (Client.Timeout or context cancellation while reading body)"),
        None => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_a_certificate_cannot_be_used() {
        let of = |bundle: &str| {
            use base64::Engine as _;
            let bundle = base64::engine::general_purpose::STANDARD.encode(bundle);
            let config = json!({"url": "https://127.0.0.1:9443/convert", "caBundle": bundle});
            let conversion = json!({"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1"]}});
            let setting = Setting { itself: &Itself::default(), now: 0, counts: &Arc::default() };
            (trusts(&conversion), Webhook::of(&conversion, "as.g.io", setting).expect("a webhook").is_usable())
        };
        assert_eq!(of(""), (true, true), "the host's authorities count");
        assert_eq!(of(" \n"), (false, true), "they count, and the definition waits for others");
        assert_eq!(of("text"), (false, false));
        assert_eq!(of("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), (false, false), "PEM of something else");
        assert!(trusts(&json!({"strategy": "None"})) && trusts(&Value::Null));
    }
}
