//! One definition's webhook, and one review by it.

use super::answer::{self, Answered, Review, kind_of};
use crate::{
    hooks::{Address, ClientConfig, Credentials, Pools, Services},
    meta, offload,
};
use machinery::{Value, json};
use serde_json::json;
use std::time::Duration;

/// How long one call may take, as upstream's client of hooks waits.
const WITHIN: Duration = Duration::from_secs(30);

/// Who converts the objects of a definition.
#[derive(Debug)]
pub(crate) struct Webhook {
    address: Address,
    /// The first version of a review that both know.
    review: Option<Review>,
}

impl Webhook {
    /// From `spec.conversion` of a definition; `None` for the strategy that calls nobody.
    pub(crate) fn of(conversion: &Value) -> Option<Webhook> {
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
        Some(Webhook { address: Address::new(config, Credentials::default(), Pools::default()), review })
    }

    /// The objects in another version, by one review. All of them are in some version that it is not; `bytes` is about how many
    /// they have.
    ///
    /// # Errors
    /// No answer counts; in upstream's words.
    pub(super) async fn convert(&self, services: &dyn Services, to: &str, objects: Vec<Value>, bytes: usize) -> Answered {
        let review = self.review.ok_or("no supported conversion review versions")?;
        let about = objects.first().map(kind_of).unwrap_or_default();
        let failed = |why: String| format!("conversion webhook for {about} failed: {why}");
        let target = self.address.target().await.map_err(failed)?;
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
        let body = offload::resting(asked).await.map_err(|why| failed(timed_out(why.to_string())))?;
        offload::at_length(body.len(), move || answer::read(&body, review, &uid, &to, &objects)).await
    }
}

/// Upstream's client has a time of its own here, and says so.
fn timed_out(why: String) -> String {
    match why.strip_suffix("context deadline exceeded") {
        Some(before) if before.starts_with("Post ") => format!("{before}net/http: request canceled (Client.Timeout exceeded while awaiting headers)"),
        Some(_) => format!("{why} (Client.Timeout or context cancellation while reading body)"),
        None => why,
    }
}
