//! Service account tokens of one pod: asked for once, kept, and renewed after 80 % of their life.
//!
//! When a renewal fails the token that is held stands until it expires, and is asked for again after a pause (upstream's token
//! manager waits for the next sync). Its life is told by the time of day; the wait for its renewal is not.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::TokenRequest;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::certificates::Certificates;
use crate::api::{ApiError, SharedApi};
use crate::util;

/// A token is renewed at this share of its life (upstream's `token_manager.go`), in hundredths.
const RENEW_AT_PERCENT: u32 = 80;
/// And at the latest at this age.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Wait before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Held {
    token: String,
    expires: SystemTime,
    /// When it is renewed, by the time of day and by the clock that nobody sets: whichever comes first.
    renew: SystemTime,
    renew_at: Instant,
}

/// What one pod is given to prove who it is.
#[derive(Default)]
pub struct Proofs {
    /// Its tokens.
    pub tokens: Tokens,
    /// Its certificates.
    pub certificates: Certificates,
}

impl Proofs {
    /// When the next of them must be renewed or looked for.
    #[must_use]
    pub fn next_renewal(&self) -> Option<Instant> {
        self.tokens.next_renewal().into_iter().chain(self.certificates.next_step()).min()
    }
}

/// The tokens of one pod, by volume and path.
#[derive(Default)]
pub struct Tokens {
    held: Mutex<HashMap<(String, String), Held>>,
}

impl Tokens {
    /// The token for a place in a volume: the one held, or a new one when it is time.
    pub async fn get(&self, api: &SharedApi, namespace: &str, account: &str, volume: &str, path: &str, request: TokenRequest) -> Result<String, ApiError> {
        let key = (volume.to_owned(), path.to_owned());
        let now = SystemTime::now();
        let held = self.held.lock().get(&key).cloned();
        if let Some(h) = &held
            && now < h.renew
            && Instant::now() < h.renew_at
        {
            return Ok(h.token.clone());
        }
        match api.create_token(namespace, account, request).await {
            Ok(answer) => {
                let Some((token, expires)) = answer.status.and_then(|s| s.token.zip(s.expiration_timestamp)) else {
                    return Err(ApiError::Other("token request has no status".into()));
                };
                let expires = util::system_time(&expires);
                let life = expires.duration_since(now).unwrap_or_default();
                let rest = (life.mul_f64(f64::from(RENEW_AT_PERCENT) / 100.0)).clamp(RETRY, MAX_AGE);
                let (renew, renew_at) = (now + rest, Instant::now() + rest);
                self.held.lock().insert(key, Held { token: token.clone(), expires, renew, renew_at });
                Ok(token)
            }
            // The one held may still be good for a fifth of its life.
            Err(e) => {
                if let Some(h) = self.held.lock().get_mut(&key) {
                    (h.renew, h.renew_at) = (now + RETRY, Instant::now() + RETRY);
                }
                held.filter(|h| now < h.expires).map(|h| h.token).ok_or(e)
            }
        }
    }

    /// When the next token must be renewed.
    #[must_use]
    pub fn next_renewal(&self) -> Option<Instant> {
        self.held.lock().values().map(|h| h.renew_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_fails_waits_and_the_token_stands_until_it_expires() {
        let (tokens, zero) = (Tokens::default(), Instant::now());
        let held = |left: i64| {
            let now = SystemTime::now();
            let expires = if left < 0 { now - Duration::from_secs(1) } else { now + Duration::from_secs(60) };
            Held { token: "old".into(), expires, renew: now, renew_at: zero }
        };
        let key = ("v".to_owned(), "token".to_owned());
        tokens.held.lock().insert(key.clone(), held(1));
        // The account is gone: the fake answers 404.
        let api: SharedApi = Arc::new(FakeApi::default());
        let ask = || tokens.get(&api, "n", "gone", "v", "token", TokenRequest::default());
        assert_eq!(ask().await.unwrap(), "old");
        assert_eq!(tokens.next_renewal(), Some(zero + RETRY), "the next try waits");
        tokens.held.lock().insert(key, held(-1));
        assert!(ask().await.unwrap_err().is_not_found(), "one that has expired is of no use");
    }
}
