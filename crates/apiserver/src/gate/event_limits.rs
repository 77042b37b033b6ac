//! Buckets of tokens for Events, one for each key of a limit; those used last are remembered.

use machinery::Value;
use parking_lot::Mutex;
use std::{collections::HashMap, time::Instant};

/// Keys of a limit that are remembered, unless it says how many.
const KEYS: usize = 4096;

/// What a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

impl By {
    pub(crate) fn name(self) -> &'static str {
        match self {
            By::Server => "Server",
            By::Namespace => "Namespace",
            By::User => "User",
            By::SourceAndObject => "SourceAndObject",
        }
    }

    fn of(name: &str) -> Option<By> {
        [By::Server, By::Namespace, By::User, By::SourceAndObject].into_iter().find(|by| by.name() == name)
    }
}

/// One limit.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) by: By,
    rate: f64,
    burst: f64,
    keys: usize,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The limits of the plug-in's settings, in the original's words if they are wrong.
pub(crate) fn of(settings: &Value) -> Result<Vec<Limit>, String> {
    let mut out = Vec::new();
    for (at, limit) in settings["limits"].as_array().into_iter().flatten().enumerate() {
        let named = limit["type"].as_str().unwrap_or_default();
        let number = |field: &str| limit[field].as_i64().unwrap_or(0);
        let positive = |field: &str| match number(field) {
            value if value > 0 => Ok(value),
            value => Err(format!("limits[{at}].{field}: Invalid value: {value}: must be positive")),
        };
        let supported = "supported values: \"Server\", \"Namespace\", \"User\", \"SourceAndObject\"";
        let by = By::of(named).ok_or_else(|| format!("limits[{at}].type: Unsupported value: {named:?}: {supported}"))?;
        let (burst, rate) = (positive("burst")?, positive("qps")?);
        let keys = usize::try_from(number("cacheSize")).ok().filter(|size| *size > 0).unwrap_or(KEYS);
        out.push(Limit { by, rate: whole(rate), burst: whole(burst), keys, buckets: Mutex::default() });
    }
    if out.is_empty() {
        return Err("limits: Invalid value: []: must be nonempty".into());
    }
    Ok(out)
}

/// A number of tokens; what is larger than a counter of 32 bits is as good as no limit.
fn whole(number: i64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

impl Limit {
    /// Takes a token of a key's bucket; `false` if it is empty.
    pub(crate) fn take(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= self.keys && !buckets.contains_key(key) {
            // The one that was used longest ago has most likely filled up again.
            if let Some(oldest) = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(key, _)| key.clone()) {
                buckets.remove(&oldest);
            }
        }
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: self.burst, at: now });
        bucket.tokens = (bucket.tokens + now.saturating_duration_since(bucket.at).as_secs_f64() * self.rate).min(self.burst);
        bucket.at = now;
        let has = bucket.tokens >= 1.0;
        if has {
            bucket.tokens -= 1.0;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_bucket_empties_and_fills() {
        let limits = of(&json!({"limits": [{"type": "User", "qps": 1, "burst": 2}]})).unwrap();
        let (limit, now) = (&limits[0], Instant::now());
        assert_eq!([limit.take("a", now), limit.take("a", now), limit.take("a", now), limit.take("b", now)], [true, true, false, true]);
        assert!(limit.take("a", now + Duration::from_secs(1)) && !limit.take("a", now + Duration::from_secs(1)));
    }

    #[test]
    fn wrong_settings_are_refused() {
        assert_eq!(of(&json!({})).unwrap_err(), "limits: Invalid value: []: must be nonempty");
        let wrong = of(&json!({"limits": [{"type": "User", "qps": 0, "burst": 2}]})).unwrap_err();
        assert_eq!(wrong, "limits[0].qps: Invalid value: 0: must be positive");
    }
}
