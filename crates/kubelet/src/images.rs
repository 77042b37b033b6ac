//! Images for containers: present or pulled, by policy, with credentials and growing waits; told in upstream's words.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use parking_lot::Mutex;
use serde_json::Value;

use crate::api::{RefKind, RefObject, Severity};
use crate::cri::{Credentials, CriError, Image, PodUid};
use crate::pod::Context;
use crate::pod::backoff::Backoff;
use crate::pod::ops::StartError;
use crate::util;

/// Pulls at the same time; the rest wait their turn (a network and a disk are shared by all).
const MAX_PARALLEL_PULLS: usize = 4;

struct Failed {
    at: SystemTime,
    message: String,
}

/// Image pulls of this node.
pub struct Images {
    backoff: Mutex<HashMap<(PodUid, String), (Backoff, Failed)>>,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    permits: tokio::sync::Semaphore,
    /// IDs of the images that were pulled here, also by former processes: a line each in the file.
    pulled: Mutex<BTreeSet<String>>,
    record: PathBuf,
}

impl Images {
    /// The pulls of a kubelet with this directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let record = root.join("pulled-images");
        let pulled = fs::read_to_string(&record).unwrap_or_default().lines().map(str::to_owned).collect();
        Self {
            backoff: Mutex::default(),
            locks: Mutex::default(),
            permits: tokio::sync::Semaphore::new(MAX_PARALLEL_PULLS),
            pulled: Mutex::new(pulled),
            record,
        }
    }

    /// Whether an image came by a pull of this node.
    #[must_use]
    pub fn was_pulled(&self, id: &str) -> bool {
        self.pulled.lock().contains(id)
    }

    fn note(&self, id: &str) {
        if !self.pulled.lock().insert(id.to_owned()) {
            return;
        }
        let written = fs::OpenOptions::new().create(true).append(true).open(&self.record).and_then(|mut f| writeln!(f, "{id}"));
        if let Err(e) = written {
            tracing::debug!(error = %e, "pull not recorded: the image will not be collected");
        }
    }

    /// When the pull for a container is tried again.
    #[must_use]
    pub fn retry_at(&self, uid: &PodUid, container: &str, now: SystemTime) -> Option<SystemTime> {
        let held = self.backoff.lock();
        let (b, f) = held.get(&(uid.clone(), container.to_owned()))?;
        b.waiting("", f.at, now).map(|w| w.until)
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        self.backoff.lock().retain(|(u, _), _| u != uid);
    }

    /// The image of a container: the one on the node, or pulled. `path` names the container in Events.
    pub async fn ensure(&self, cx: &Context, pod: &Pod, c: &Spec, path: &str) -> Result<Image, StartError> {
        let reference = c.image.as_deref().unwrap_or_default();
        let warn = |reason: &str, message: &str| cx.api.pod_event(pod, Some(path), Severity::Warning, reason, message);
        let normal = |reason: &str, message: &str| cx.api.pod_event(pod, Some(path), Severity::Normal, reason, message);
        if !valid(reference) {
            let message = format!("Failed to apply default image tag {reference:?}: couldn't parse image name {reference:?}: invalid reference format");
            warn("InspectFailed", &message);
            warn("Failed", "Error: InvalidImageName");
            return Err(StartError::new("InvalidImageName", message));
        }
        let policy = c.image_pull_policy.as_deref().unwrap_or(if tag(reference) == Some("latest") { "Always" } else { "IfNotPresent" });
        let present = cx.runtime.image(reference);
        match (policy, present) {
            ("Never", None) => {
                let message = format!("Container image {reference:?} is not present with pull policy of Never");
                warn("ErrImageNeverPull", &message);
                warn("Failed", "Error: ErrImageNeverPull");
                return Err(StartError::new("ErrImageNeverPull", message));
            }
            ("Never" | "IfNotPresent", Some(image)) => {
                normal("Pulled", &format!("Container image {reference:?} already present on machine and can be accessed by the pod"));
                return Ok(image);
            }
            _ => {}
        }
        let key = (PodUid(util::uid(pod).to_owned()), c.name.clone());
        if let Some(message) = self.still_waiting(&key, cx.now()) {
            let text = format!("Back-off pulling image {reference:?}");
            normal("BackOff", &text);
            warn("Failed", "Error: ImagePullBackOff");
            return Err(StartError::new("ImagePullBackOff", format!("{text}: ErrImagePull: {message}")));
        }
        self.pull(cx, pod, reference, policy, normal)
            .await
            .inspect(|_| {
                self.backoff.lock().remove(&key);
            })
            .map_err(|e| {
                let mut held = self.backoff.lock();
                let now = cx.now();
                let slot = held.entry(key).or_insert_with(|| (Backoff::default(), Failed { at: now, message: String::new() }));
                slot.0.next("", now, now);
                slot.1 = Failed { at: now, message: e.to_string() };
                warn("Failed", &format!("Failed to pull image {reference:?}: {e}"));
                warn("Failed", "Error: ErrImagePull");
                StartError::new("ErrImagePull", e.to_string())
            })
    }

    fn still_waiting(&self, key: &(PodUid, String), now: SystemTime) -> Option<String> {
        let held = self.backoff.lock();
        let (b, f) = held.get(key)?;
        b.waiting("", f.at, now).map(|_| f.message.clone())
    }

    async fn pull(&self, cx: &Context, pod: &Pod, reference: &str, policy: &str, normal: impl Fn(&str, &str)) -> Result<Image, CriError> {
        normal("Pulling", &format!("Pulling image {reference:?}"));
        let asked = tokio::time::Instant::now();
        let lock = Arc::clone(self.locks.lock().entry(reference.to_owned()).or_default());
        let _one = lock.lock().await;
        // Somebody else's pull may just have brought it.
        if policy == "IfNotPresent"
            && let Some(image) = cx.runtime.image(reference)
        {
            return Ok(image);
        }
        let _permit = self.permits.acquire().await.map_err(|e| CriError::Other(e.to_string()))?;
        // An image that was there and was not pulled was imported, and stays what it is when a pull confirms it.
        let imported = cx.runtime.image(reference).is_some_and(|i| !self.was_pulled(&i.id));
        let begun = tokio::time::Instant::now();
        let mut last = None;
        let mut tries: Vec<Option<Credentials>> = credentials(cx, pod, reference).await.into_iter().map(Some).collect();
        tries.push(None);
        for login in tries {
            match cx.runtime.pull(reference, login).await {
                Ok(image) => {
                    if !imported {
                        self.note(&image.id);
                    }
                    normal(
                        "Pulled",
                        &format!(
                            "Successfully pulled image {reference:?} in {} ({} including waiting). Image size: {} bytes.",
                            seconds(begun.elapsed()),
                            seconds(asked.elapsed()),
                            image.size_bytes
                        ),
                    );
                    return Ok(image);
                }
                Err(e) => last = last.or(Some(e)),
            }
        }
        Err(last.unwrap_or_else(|| CriError::Other("image pull failed".into())))
    }
}

fn seconds(d: Duration) -> String {
    if d.as_secs() == 0 { format!("{}ms", d.as_millis()) } else { format!("{}.{:03}s", d.as_secs(), d.subsec_millis()) }
}

fn split(reference: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match reference.split_once('@') {
        Some((r, d)) => (r, Some(d)),
        None => (reference, None),
    };
    match rest.rfind(':').filter(|i| !rest[*i..].contains('/')) {
        Some(i) => (&rest[..i], Some(&rest[i + 1..]), digest),
        None => (rest, None, digest),
    }
}

fn tag(reference: &str) -> Option<&str> {
    match split(reference) {
        (_, Some(tag), _) => Some(tag),
        (_, None, Some(_)) => None,
        (_, None, None) => Some("latest"),
    }
}

/// The grammar of image references (distribution/reference), as far as it tells a reference from something else.
fn valid(reference: &str) -> bool {
    let (name, tag, digest) = split(reference);
    let (host, path) = match name.split_once('/') {
        Some((h, p)) if h.contains(['.', ':']) || h == "localhost" => (Some(h), p),
        _ => (None, name),
    };
    let component = |p: &str| {
        !p.is_empty()
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
            && p.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && p.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    name.len() <= 255
        && host.is_none_or(|h| !h.is_empty() && h.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']')))
        && path.split('/').all(component)
        && tag.is_none_or(|t| !t.is_empty() && t.len() <= 128 && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')))
        && digest.is_none_or(|d| d.split_once(':').is_some_and(|(a, h)| !a.is_empty() && h.len() >= 32 && h.bytes().all(|b| b.is_ascii_hexdigit())))
}

fn registry(reference: &str) -> &str {
    match split(reference).0.split_once('/') {
        Some((h, _)) if h.contains(['.', ':']) || h == "localhost" => h,
        _ => "docker.io",
    }
}

/// The logins for a registry from the pod's pull secrets, in order.
async fn credentials(cx: &Context, pod: &Pod, reference: &str) -> Vec<Credentials> {
    let mut out = Vec::new();
    let secrets = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_ref());
    for s in secrets.into_iter().flatten() {
        match cx.api.get_ref(RefKind::Secret, util::namespace(pod), &s.name).await {
            Ok((Some(RefObject::Secret(secret)), _)) => {
                let data: BTreeMap<&str, &[u8]> = secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
                out.extend(logins(&data, reference));
            }
            _ => cx.api.pod_event(
                pod,
                None,
                Severity::Warning,
                "FailedToRetrieveImagePullSecret",
                &format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", s.name),
            ),
        }
    }
    out
}

/// The logins for a reference in a `.dockerconfigjson` or `.dockercfg`.
fn logins(data: &BTreeMap<&str, &[u8]>, reference: &str) -> Vec<Credentials> {
    let parse = |key: &str| data.get(key).and_then(|b| serde_json::from_slice::<Value>(b).ok());
    let auths = parse(".dockerconfigjson").and_then(|v| v.get("auths").cloned()).or_else(|| parse(".dockercfg"));
    let Some(Value::Object(auths)) = auths else { return Vec::new() };
    let (host, name) = (registry(reference), split(reference).0);
    let mut found: Vec<(usize, Credentials)> = auths
        .iter()
        .filter_map(|(key, entry)| {
            let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            let (at, path) = bare.split_once('/').unwrap_or((bare, ""));
            let path = path.trim_start_matches("v1").trim_start_matches("v2").trim_matches('/');
            let same = at == host || (host == "docker.io" && matches!(at, "index.docker.io" | "registry-1.docker.io"));
            let below = path.is_empty() || name.split_once('/').is_some_and(|(_, p)| p == path || p.starts_with(&format!("{path}/")));
            (same && below).then(|| (bare.len(), login(entry)))
        })
        .collect();
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    found.into_iter().map(|(_, c)| c).collect()
}

fn login(entry: &Value) -> Credentials {
    let text = |k: &str| entry.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut out = Credentials { username: text("username"), password: text("password"), identity_token: text("identitytoken"), ..Credentials::default() };
    let auth = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok().and_then(|b| String::from_utf8(b).ok());
    if let Some((user, password)) = auth.as_deref().and_then(|a| a.split_once(':')) {
        user.clone_into(&mut out.username);
        password.trim_end_matches('\0').clone_into(&mut out.password);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for good in ["nginx", "nginx:1.27", "registry.k8s.io/pause:3.10", "localhost:5000/a/b@sha256:0123456789abcdef0123456789abcdef", "a/b_c"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", "Nginx", "a b", "nginx:", "a//b", "UPPER/x", "nginx@sha256:zz"] {
            assert!(!valid(bad), "{bad}");
        }
        assert_eq!(tag("nginx"), Some("latest"));
        assert_eq!(tag("localhost:5000/a"), Some("latest"));
        assert_eq!(tag("a:1"), Some("1"));
        assert_eq!(registry("nginx"), "docker.io");
        assert_eq!(registry("localhost:5000/a"), "localhost:5000");
    }

    #[test]
    fn logins_match_the_registry_and_the_longest_path_first() {
        let json =
            br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "reg.io": {"username": "a", "password": "b"}, "reg.io/team": {"username": "t"}}}"#;
        let data = BTreeMap::from([(".dockerconfigjson", json.as_slice())]);
        assert_eq!(logins(&data, "nginx")[0].username, "u");
        let both = logins(&data, "reg.io/team/app:1");
        assert_eq!(both.iter().map(|c| c.username.as_str()).collect::<Vec<_>>(), ["t", "a"]);
        assert!(logins(&data, "other.io/x").is_empty());
    }
}
