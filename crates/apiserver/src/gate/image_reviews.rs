//! Whom ImagePolicyWebhook asks about images, and what it was told lately.

use crate::hooks::{Address, Credentials, Failure, Services};
use machinery::{Value, json};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

/// Answers that are remembered at most.
const KEPT_MAX: usize = 1024;
/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(30);
const TRIES: usize = 5;

/// The webhook of image policies, with what its settings say.
#[derive(Debug)]
pub(crate) struct ImageReviews {
    address: Address,
    /// How long a yes and a no are remembered.
    allow: Duration,
    deny: Duration,
    backoff: Duration,
    /// Whether an image is let in when nobody answers.
    pub(crate) is_open: bool,
    kept: Mutex<HashMap<Vec<u8>, (Instant, Verdict)>>,
}

/// What was answered: whether the images are fine, and why not.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
}

/// By the plug-in's settings, in the original's words if they are wrong.
pub(crate) fn of(settings: &Value) -> Result<ImageReviews, String> {
    if settings.is_null() {
        return Err("no config specified".into());
    }
    let own = &settings["imagePolicy"];
    let minutes = |number: u64| Duration::from_secs(number * 60);
    let second = Duration::from_secs(1);
    let backoff = duration(&own["retryBackoff"], Duration::from_millis(1), Duration::from_nanos(1)..minutes(5), Duration::from_millis(500))?;
    let allow = duration(&own["allowTTL"], second, second..minutes(30), minutes(5))?;
    let deny = duration(&own["denyTTL"], second, second..minutes(30), Duration::from_secs(30))?;
    let (at, credentials) = Credentials::with_cluster(Path::new(own["kubeConfigFile"].as_str().unwrap_or_default()))?;
    let address = Address::found(at, credentials)?;
    Ok(ImageReviews { address, allow, deny, backoff, is_open: own["defaultAllow"] == true, kept: Mutex::default() })
}

/// A number in a unit: 0 stands for what is usual, -1 for none.
fn duration(value: &Value, unit: Duration, bounds: std::ops::Range<Duration>, usual: Duration) -> Result<Duration, String> {
    let number = match value.as_i64().unwrap_or(0) {
        -1 => return Ok(Duration::ZERO),
        0 => return Ok(usual),
        number => number,
    };
    let found = u32::try_from(number).ok().map(|number| unit.saturating_mul(number));
    found.filter(|found| *found > bounds.start && *found <= bounds.end).ok_or_else(|| {
        let sign = if number < 0 { "-" } else { "" };
        let given = unit.saturating_mul(u32::try_from(number.unsigned_abs()).unwrap_or(u32::MAX));
        format!("valid value is between {} and {}, got {sign}{}", go(bounds.start), go(bounds.end), go(given))
    })
}

/// A time as Go writes it.
fn go(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) if rest == 0 && time.subsec_nanos() < 1_000_000 => format!("{}ns", time.subsec_nanos()),
        (0, 0) if rest == 0 => format!("{}ms", time.subsec_millis()),
        (0, 0) => format!("{}s", time.as_secs_f64()),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

impl ImageReviews {
    /// What is said of images: lately, or now.
    ///
    /// # Errors
    /// Nobody says anything.
    pub(crate) async fn ask(&self, services: &dyn Services, spec: &Value, left: Duration) -> Result<Verdict, String> {
        let key = json::encode(spec);
        let now = Instant::now();
        if let Some((_, verdict)) = self.kept.lock().get(&key).filter(|(until, _)| *until > now) {
            return Ok(verdict.clone());
        }
        let review = json!({"kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "metadata": {"creationTimestamp": null},
            "spec": spec, "status": {"allowed": false}});
        let answer = self.insist(services, json::encode(&review), now + left).await.map_err(|failure| failure.to_string())?;
        let value = json::read(&answer).map_err(|error| error.to_string())?;
        if value["kind"] != "ImageReview" || value["apiVersion"] != "imagepolicy.k8s.io/v1alpha1" {
            let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "no kind {:?} is registered for version {:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
                text("kind"),
                text("apiVersion")
            ));
        }
        let status = &value["status"];
        let verdict = Verdict { allowed: status["allowed"] == true, reason: status["reason"].as_str().unwrap_or_default().to_owned() };
        self.keep(key, &verdict);
        Ok(verdict)
    }

    /// Asks more than once if the other side has trouble of its own.
    async fn insist(&self, services: &dyn Services, body: Vec<u8>, until: Instant) -> Result<bytes::Bytes, Failure> {
        let body = bytes::Bytes::from(body);
        let mut wait = self.backoff;
        for _ in 1..TRIES {
            let left = until.saturating_duration_since(Instant::now());
            match self.post(services, body.clone(), left.min(CALL_MAX)).await {
                Err(failure) if is_passing(&failure) && wait < left => tokio::time::sleep(wait).await,
                other => return other,
            }
            wait = wait.mul_f64(1.5);
        }
        self.post(services, body, until.saturating_duration_since(Instant::now()).min(CALL_MAX)).await
    }

    async fn post(&self, services: &dyn Services, body: bytes::Bytes, within: Duration) -> Result<bytes::Bytes, Failure> {
        self.address.target().await.map_err(Failure::Transport)?.post(services, body, within).await
    }

    fn keep(&self, key: Vec<u8>, verdict: &Verdict) {
        let life = if verdict.allowed { self.allow } else { self.deny };
        if life.is_zero() {
            return;
        }
        let (mut kept, now) = (self.kept.lock(), Instant::now());
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (until, _)| *until > now);
            if kept.len() >= KEPT_MAX {
                // The one that would be forgotten next.
                let first = kept.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| key.clone());
                first.map(|key| kept.remove(&key));
            }
        }
        kept.insert(key, (now + life, verdict.clone()));
    }
}

/// Whether it may be different a moment later (upstream's `DefaultShouldRetry`).
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Transport(why) => why.ends_with("connection reset by peer"),
        Failure::Answer(status) => matches!(status.reason.as_str(), "InternalError" | "Timeout" | "TooManyRequests"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        let second = Duration::from_secs(1);
        let of = |value: i64| duration(&value.into(), second, second..Duration::from_secs(1800), Duration::from_secs(30));
        assert_eq!((of(0), of(-1), of(60)), (Ok(Duration::from_secs(30)), Ok(Duration::ZERO), Ok(Duration::from_secs(60))));
        assert_eq!(of(1).unwrap_err(), "valid value is between 1s and 30m0s, got 1s");
        assert_eq!(of(-5).unwrap_err(), "valid value is between 1s and 30m0s, got -5s");
        assert_eq!(super::of(&Value::Null).unwrap_err(), "no config specified");
    }
}
