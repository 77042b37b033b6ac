//! Service account tokens of one pod: asked for once, kept, and renewed after 80 % of their life.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::TokenRequest;
use parking_lot::Mutex;

use crate::api::{ApiError, SharedApi};
use crate::util;

/// A token is renewed at this share of its life (upstream's `token_manager.go`), in hundredths.
const RENEW_AT_PERCENT: u32 = 80;
/// And at the latest at this age.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
struct Held {
    token: String,
    renew: SystemTime,
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
        {
            return Ok(h.token.clone());
        }
        match api.create_token(namespace, account, request).await {
            Ok(answer) => {
                let Some((token, expires)) = answer.status.and_then(|s| s.token.zip(s.expiration_timestamp)) else {
                    return Err(ApiError::Other("token request has no status".into()));
                };
                let life = util::system_time(&expires).duration_since(now).unwrap_or_default();
                let renew = now + (life * RENEW_AT_PERCENT / 100).min(MAX_AGE);
                self.held.lock().insert(key, Held { token: token.clone(), renew });
                Ok(token)
            }
            // The one held may still be good for a fifth of its life; it is asked for again with the next sync.
            Err(e) => held.map(|h| h.token).ok_or(e),
        }
    }

    /// When the next token must be renewed.
    #[must_use]
    pub fn next_renewal(&self) -> Option<SystemTime> {
        self.held.lock().values().map(|h| h.renew).min()
    }
}
