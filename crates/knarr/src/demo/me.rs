//! Who this pod is, and what it is told by its environment.

use http::StatusCode;

/// An answer's code, media type and body.
pub type Answer = (StatusCode, &'static str, String);

/// Who this pod is, as the environment says.
#[derive(Clone, Debug)]
pub struct Me {
    pub version: String,
    pub pod: String,
    pub namespace: String,
    pub node: String,
    pub ip: String,
}

impl Me {
    pub fn from_env() -> Self {
        let own = |name: &str| std::fs::read_to_string("/etc/hostname").map_or_else(|_| name.to_owned(), |h| h.trim().to_owned());
        Self {
            version: env("SHOP_VERSION").unwrap_or_else(|| "v0".into()),
            pod: env("POD_NAME").or_else(|| env("HOSTNAME")).unwrap_or_else(|| own("unknown")),
            namespace: env("POD_NAMESPACE").unwrap_or_default(),
            node: env("NODE_NAME").unwrap_or_default(),
            ip: env("POD_IP").unwrap_or_default(),
        }
    }
}

/// A variable that is set to something.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The port to serve on.
pub fn port() -> u16 {
    env("PORT").and_then(|p| p.parse().ok()).unwrap_or(8080)
}
