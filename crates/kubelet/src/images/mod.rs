//! Images for containers: present or pulled, by policy, with credentials and growing waits; told in upstream's words.
//!
//! An image that was pulled with a login is only for pods that have that login, or whose own lets them pull it (upstream's
//! `KubeletEnsureSecretPulledImages`): what came how is in the image's own file ([`pulled`]). An image that was imported is for
//! everybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Secret};
use machinery::time::go_duration;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::api::{RefKind, RefObject, Severity, SharedApi};
use crate::cri::{Credentials, CriError, Image, PodUid, SharedRuntime};
use crate::pod::backoff::Backoff;
use crate::start_error::StartError;
use crate::util;
use keyring::Keyring;
use providers::Providers;
use pulled::{Login, Source};

pub mod collect;
pub mod keyring;
pub mod providers;
pub mod pulled;

/// Pulls at the same time; the rest wait their turn (a network and a disk are shared by all).
const MAX_PARALLEL_PULLS: usize = 4;

struct Failed {
    at: Instant,
    message: String,
}

/// Image pulls of this node.
pub struct Images {
    api: SharedApi,
    runtime: SharedRuntime,
    providers: Providers,
    backoff: Mutex<HashMap<(PodUid, String), (Backoff, Failed)>>,
    /// How long pods have waited for images.
    took: Mutex<HashMap<PodUid, Duration>>,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    permits: tokio::sync::Semaphore,
    records: collect::Records,
}

impl Images {
    /// The pulls of a kubelet, with the node's own programs for logins.
    #[must_use]
    pub fn new(api: SharedApi, runtime: SharedRuntime, providers: Providers) -> Self {
        let permits = tokio::sync::Semaphore::new(MAX_PARALLEL_PULLS);
        Self {
            api,
            runtime,
            providers,
            backoff: Mutex::default(),
            took: Mutex::default(),
            locks: Mutex::default(),
            permits,
            records: collect::Records::default(),
        }
    }

    /// When the pull of an image for a pod is tried again.
    #[must_use]
    pub fn retry_at(&self, uid: &PodUid, reference: &str, now: Instant) -> Option<Instant> {
        let held = self.backoff.lock();
        let (b, f) = held.get(&(uid.clone(), reference.to_owned()))?;
        b.waiting("", f.at, now).map(|w| w.until)
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        self.backoff.lock().retain(|(u, _), _| u != uid);
        self.took.lock().remove(uid);
        self.providers.forget(uid);
    }

    /// How long a pod has waited for images that were pulled for it.
    #[must_use]
    pub fn pulled_for(&self, uid: &PodUid) -> Duration {
        self.took.lock().get(uid).copied().unwrap_or_default()
    }

    /// The image of a container: the one on the node, or pulled. `path` names the container in Events; without one it is a volume's, whose containers
    /// are told by who asks.
    pub async fn ensure(&self, pod: &Pod, c: &Spec, path: Option<&str>) -> Result<Image, StartError> {
        let reference = c.image.as_deref().unwrap_or_default();
        let warn = |reason: &str, message: &str| self.api.pod_event(pod, path, Severity::Warning, reason, message);
        let fails = |reason: &str| {
            if path.is_some() {
                warn("Failed", &format!("Error: {reason}"));
            }
        };
        let normal = |reason: &str, message: &str| self.api.pod_event(pod, path, Severity::Normal, reason, message);
        if let Some(why) = flaw(reference) {
            let message = format!("Failed to apply default image tag {reference:?}: couldn't parse image name {reference:?}: {why}");
            warn("InspectFailed", &message);
            fails("InvalidImageName");
            return Err(StartError::new("InvalidImageName", message));
        }
        let policy = c.image_pull_policy.as_deref().unwrap_or(if tag(reference) == Some("latest") { "Always" } else { "IfNotPresent" });
        let present = self.present(reference).await;
        let logins = Lazy::default();
        let accessible = match (&present, policy) {
            (Some(image), "Never" | "IfNotPresent") => pulled::for_everybody(image) || pulled::opened_by(image, logins.get(self, pod, reference).await),
            _ => false,
        };
        match (policy, present) {
            ("Never", _) if !accessible => {
                let message = format!("Container image {reference:?} is not present with pull policy of Never");
                warn("ErrImageNeverPull", &message);
                fails("ErrImageNeverPull");
                return Err(StartError::new("ErrImageNeverPull", message));
            }
            ("Never" | "IfNotPresent", Some(image)) if accessible => {
                normal("Pulled", &present_already(reference));
                return Ok(image);
            }
            _ => {}
        }
        let key = (PodUid(util::uid(pod).to_owned()), reference.to_owned());
        if let Some(message) = self.still_waiting(&key, Instant::now()) {
            let text = format!("Back-off pulling image {reference:?}");
            normal("BackOff", &text);
            fails("ImagePullBackOff");
            return Err(StartError::new("ImagePullBackOff", format!("{text}: ErrImagePull: {message}")));
        }
        let begun = Instant::now();
        let pulled = self.pull(pod, reference, policy, &logins, normal).await;
        *self.took.lock().entry(key.0.clone()).or_default() += begun.elapsed();
        pulled
            .inspect(|_| {
                self.backoff.lock().remove(&key);
            })
            .map_err(|e| {
                let e = told(&e);
                let mut held = self.backoff.lock();
                let now = Instant::now();
                let slot = held.entry(key).or_insert_with(|| (Backoff::default(), Failed { at: now, message: String::new() }));
                slot.0.next("", now);
                slot.1 = Failed { at: now, message: e.clone() };
                warn("Failed", &format!("Failed to pull image {reference:?}: {e}"));
                fails("ErrImagePull");
                let missing = logins.missing();
                if !missing.is_empty() {
                    let text = format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", missing.join(", "));
                    self.api.pod_event(pod, None, Severity::Warning, "FailedToRetrieveImagePullSecret", &text);
                }
                StartError::new("ErrImagePull", e)
            })
    }

    fn still_waiting(&self, key: &(PodUid, String), now: Instant) -> Option<String> {
        let held = self.backoff.lock();
        let (b, f) = held.get(key)?;
        b.waiting("", f.at, now).map(|_| f.message.clone())
    }

    /// An image by its name, if it is on the node. The store's memory may have to be read from the disk.
    async fn present(&self, reference: &str) -> Option<Image> {
        let (runtime, reference) = (Arc::clone(&self.runtime), reference.to_owned());
        util::blocking(move || runtime.image(&reference)).await
    }

    async fn pull(&self, pod: &Pod, reference: &str, policy: &str, logins: &Lazy, normal: impl Fn(&str, &str)) -> Result<Image, CriError> {
        // Who is asked for logins may take his time: nobody else waits for that.
        let attempts = attempts(logins.get(self, pod, reference).await);
        normal("Pulling", &format!("Pulling image {reference:?}"));
        let asked = Instant::now();
        let lock = Arc::clone(self.locks.lock().entry(reference.to_owned()).or_default());
        let _forget = Forget { locks: &self.locks, reference };
        let _one = lock.lock().await;
        // Somebody else's pull may just have brought it.
        if policy == "IfNotPresent"
            && let Some(image) = self.present(reference).await
            && (pulled::for_everybody(&image) || pulled::opened_by(&image, logins.get(self, pod, reference).await))
        {
            normal("Pulled", &present_already(reference));
            return Ok(image);
        }
        let _permit = self.permits.acquire().await.map_err(|e| CriError::Other(e.to_string()))?;
        let begun = Instant::now();
        let mut errors = Vec::new();
        for login in attempts {
            match self.runtime.pull(reference, login.map(Login::told)).await {
                Ok(image) => {
                    normal(
                        "Pulled",
                        &format!(
                            "Successfully pulled image {reference:?} in {} ({} including waiting). Image size: {} bytes.",
                            took(begun.elapsed()),
                            took(asked.elapsed()),
                            image.size_bytes
                        ),
                    );
                    return Ok(image);
                }
                Err(e) => errors.push(e),
            }
        }
        Err(together(errors))
    }
}

/// Who has logins shows them, and goes nowhere without (upstream's `PullImage`).
fn attempts(logins: &[Login]) -> Vec<Option<&Login>> {
    if logins.is_empty() { vec![None] } else { logins.iter().map(Some).collect() }
}

/// Why none of the attempts came to anything: the same words once (upstream's `NewAggregate`).
fn together(mut errors: Vec<CriError>) -> CriError {
    let mut words: Vec<String> = Vec::new();
    for error in errors.iter().map(told) {
        if !words.contains(&error) {
            words.push(error);
        }
    }
    match errors.pop() {
        Some(only) if words.len() == 1 => only,
        _ => CriError::Other(format!("[{}]", words.join(", "))),
    }
}

/// Takes a reference's turn away when the last who waits for it is done.
struct Forget<'a> {
    locks: &'a Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    reference: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut locks = self.locks.lock();
        // One is the table's, one is its who drops this.
        if locks.get(self.reference).is_some_and(|l| Arc::strong_count(l) <= 2) {
            locks.remove(self.reference);
        }
    }
}

/// The pod's logins for an image, read at most once, and the Secrets that could not be had.
#[derive(Default)]
struct Lazy(tokio::sync::OnceCell<(Vec<Login>, Vec<String>)>);

impl Lazy {
    async fn get(&self, images: &Images, pod: &Pod, reference: &str) -> &[Login] {
        let read = || async {
            let repository = repository(reference);
            let (mut logins, missing) = credentials(&images.api, pod, &repository).await;
            // The pod's own come first.
            logins.extend(images.providers.logins(&images.api, pod, &repository).await);
            (logins, missing)
        };
        &self.0.get_or_init(read).await.0
    }

    fn missing(&self) -> &[String] {
        match self.0.get() {
            Some((_, missing)) => missing,
            None => &[],
        }
    }
}

/// Why a pull failed, as it comes from a runtime behind a socket: with its code, unless that says nothing.
fn told(e: &CriError) -> String {
    match e {
        CriError::NotFound(why) => format!("rpc error: code = NotFound desc = {why}"),
        e => e.to_string(),
    }
}

fn present_already(reference: &str) -> String {
    format!("Container image {reference:?} already present on machine and can be accessed by the pod")
}

/// As Go writes it, in whole milliseconds: `1m5.2s`.
fn took(d: Duration) -> String {
    go_duration(d - Duration::from_nanos(u64::from(d.subsec_nanos() % 1_000_000)))
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

/// Why a reference names no image, in the words of `ParseNormalizedNamed` (distribution/reference).
fn flaw(reference: &str) -> Option<String> {
    if reference.len() == 64 && reference.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Some(format!("invalid repository name ({reference}), cannot specify 64-byte hexadecimal strings"));
    }
    let (host, rest) = host(reference).unwrap_or(("docker.io", reference));
    let own = if matches!(host, "docker.io" | "index.docker.io") && !rest.contains('/') { "library/" } else { "" };
    let name = format!("{own}{}", rest.split(':').next().unwrap_or_default());
    if name.to_lowercase() != name {
        return Some(format!("invalid reference format: repository name ({name}) must be lowercase"));
    }
    (!valid(reference)).then(|| "invalid reference format".to_owned())
}

/// The grammar of image references (distribution/reference), as far as it tells a reference from something else.
fn valid(reference: &str) -> bool {
    let (name, tag, digest) = split(reference);
    let (host, path) = host(name).map_or((None, name), |(h, path)| (Some(h), path));
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

/// The registry's host and what follows it, in a name that begins with one: a word in capitals is no repository's.
fn host(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(h, _)| h.contains(['.', ':']) || *h == "localhost" || h.to_lowercase() != *h)
}

/// The repository of a reference, with its registry: `docker.io/library/nginx`.
fn repository(reference: &str) -> String {
    let name = split(reference).0;
    match host(name) {
        Some(("docker.io" | "index.docker.io", path)) if !path.contains('/') => format!("docker.io/library/{path}"),
        Some(("index.docker.io", path)) => format!("docker.io/{path}"),
        Some(_) => name.to_owned(),
        None if name.contains('/') => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// The logins for a repository from the pod's pull secrets, those of the longest path first whichever Secret has them, and the names of
/// those that could not be had. They are told only where the pull fails: that of an image for everybody does without.
async fn credentials(api: &SharedApi, pod: &Pod, repository: &str) -> (Vec<Login>, Vec<String>) {
    let (mut keyring, mut missing) = (Keyring::default(), Vec::new());
    let secrets = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_ref());
    // The API takes entries without a name, of old; they mean nothing.
    for s in secrets.into_iter().flatten().filter(|s| !s.name.is_empty()) {
        match api.get_ref(RefKind::Secret, util::namespace(pod), &s.name).await {
            Ok((Some(RefObject::Secret(secret)), _)) => {
                let of = format!("{}/{}/{}", util::namespace(pod), s.name, secret.metadata.uid.as_deref().unwrap_or_default());
                for (place, credentials) in logins_of(&secret) {
                    keyring.add(&place, Login { credentials, source: Source::Secret(of.clone()) });
                }
            }
            _ => missing.push(s.name.clone()),
        }
    }
    (keyring.look_up(repository), missing)
}

/// The logins in a pull secret. One of another type has none, whatever is in it.
fn logins_of(secret: &Secret) -> Vec<(String, Credentials)> {
    let key = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => ".dockerconfigjson",
        Some("kubernetes.io/dockercfg") => ".dockercfg",
        _ => return Vec::new(),
    };
    secret.data.as_ref().and_then(|data| data.get(key)).map(|data| logins(key, &data.0)).unwrap_or_default()
}

/// The logins in a `.dockerconfigjson` or `.dockercfg`, by the places that they are for.
fn logins(key: &str, data: &[u8]) -> Vec<(String, Credentials)> {
    let said = serde_json::from_slice::<Value>(data).ok();
    let auths = if key == ".dockerconfigjson" { said.and_then(|said| said.get("auths").cloned()) } else { said };
    let Some(Value::Object(auths)) = auths else { return Vec::new() };
    auths.iter().map(|(place, entry)| (place.clone(), login(entry))).collect()
}

/// How a user and his password are written as one, with or without what fills it up.
const AUTH: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true),
);

fn login(entry: &Value) -> Credentials {
    let text = |k: &str| entry.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut out = Credentials { username: text("username"), password: text("password"), identity_token: text("identitytoken"), ..Credentials::default() };
    let auth = AUTH.decode(text("auth").replace(['\r', '\n'], "")).ok().and_then(|b| String::from_utf8(b).ok());
    if let Some((user, password)) = auth.as_deref().and_then(|a| a.split_once(':')) {
        user.clone_into(&mut out.username);
        password.trim_end_matches('\0').clone_into(&mut out.password);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn references() {
        for good in ["nginx", "nginx:1.27", "registry.k8s.io/pause:3.10", "localhost:5000/a/b@sha256:0123456789abcdef0123456789abcdef", "a/b_c", "HOST/x:1"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", "Nginx", "a b", "nginx:", "a//b", "x/UPPER", "nginx@sha256:zz"] {
            assert!(!valid(bad), "{bad}");
        }
        let upper = |name: &str| Some(format!("invalid reference format: repository name ({name}) must be lowercase"));
        assert_eq!((flaw("UPPER:x:y"), flaw("a.io/b/C:1")), (upper("library/UPPER"), upper("b/C")));
        assert_eq!((flaw("nginx:"), flaw("nginx:1")), (Some("invalid reference format".to_owned()), None));
        assert_eq!(tag("nginx"), Some("latest"));
        assert_eq!(tag("localhost:5000/a"), Some("latest"));
        assert_eq!(tag("a:1"), Some("1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_missing_is_told_where_the_pull_fails() {
        let api = Arc::new(crate::testing::FakeApi::default());
        let images = Images::new(api.clone(), Arc::new(crate::testing::FakeRuntime::new(crate::testing::clock())), Providers::default());
        let pod = |image: &str| -> Pod {
            let spec = serde_json::json!({"imagePullSecrets": [{"name": "s"}, {"name": ""}, {"name": "t"}], "containers": [{"name": "c", "image": image}]});
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
        };
        let missing = pod("missing:1");
        images.ensure(&missing, &missing.spec.as_ref().unwrap().containers[0], Some("c")).await.unwrap_err();
        let events = api.events();
        let reasons: Vec<&str> = events.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(reasons, ["Pulling", "Failed", "Failed", "FailedToRetrieveImagePullSecret"]);
        assert_eq!(events[3].1, "Unable to retrieve some image pull secrets (s, t); attempting to pull the image may not succeed.");
    }

    #[test]
    fn who_has_logins_goes_nowhere_without_them_and_is_told_of_all_that_failed() {
        let login = Login { credentials: Credentials::default(), source: Source::Node };
        assert!(matches!(attempts(&[]).as_slice(), [None]));
        assert!(matches!(attempts(&[login.clone(), login]).as_slice(), [Some(_), Some(_)]));
        let refused = |why: &str| CriError::Other(why.into());
        assert_eq!(told(&together(vec![refused("a"), refused("a")])), "a");
        assert_eq!(told(&together(vec![refused("a"), CriError::NotFound("b".into())])), "[a, rpc error: code = NotFound desc = b]");
        assert!(matches!(together(vec![CriError::NotFound("b".into())]), CriError::NotFound(_)));
    }

    #[test]
    fn an_image_that_is_nowhere_is_told_with_its_code() {
        assert_eq!(told(&CriError::NotFound("x: not found".into())), "rpc error: code = NotFound desc = x: not found");
        assert_eq!(told(&CriError::Other("x: refused".into())), "x: refused");
    }

    #[test]
    fn how_long_a_pull_took_is_told_as_go_tells_it() {
        let of = |ms: u64| took(Duration::from_nanos(ms * 1_000_000 + 999_999));
        assert_eq!([of(0), of(234), of(1500), of(65_200)], ["0s", "234ms", "1.5s", "1m5.2s"]);
    }

    #[test]
    fn logins_match_the_registry_and_the_longest_path_first() {
        let json =
            br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "reg.io": {"username": "a", "password": "b"}, "reg.io/team": {"username": "t"}}}"#;
        let mut keyring = Keyring::default();
        logins(".dockerconfigjson", json).into_iter().for_each(|(place, login)| keyring.add(&place, login.username));
        let of = |reference: &str| keyring.look_up(&repository(reference));
        assert_eq!((of("nginx"), of("docker.io/a/b:1")), (vec!["u".to_owned()], vec!["u".to_owned()]));
        assert_eq!(of("reg.io/team/app:1"), ["t", "a"]);
        assert!(of("other.io/x").is_empty());
    }

    #[test]
    fn the_type_of_a_pull_secret_tells_what_of_it_counts() {
        let of = |kind: &str, key: &str, text: &str| {
            let data = ByteString(text.as_bytes().to_vec());
            let secret = Secret { type_: Some(kind.to_owned()), data: Some(BTreeMap::from([(key.to_owned(), data)])), ..Secret::default() };
            logins_of(&secret).into_iter().map(|(place, login)| (place, login.username, login.password)).collect::<Vec<_>>()
        };
        let (old, new) = (r#"{"reg.io": {"auth": "dTpwdw"}}"#, r#"{"auths": {"reg.io": {"auth": "dTpwdw=="}}}"#);
        let login = [("reg.io".to_owned(), "u".to_owned(), "pw".to_owned())];
        assert_eq!(of("kubernetes.io/dockerconfigjson", ".dockerconfigjson", new), login);
        assert_eq!(of("kubernetes.io/dockercfg", ".dockercfg", old), login, "also where its end is not filled up");
        for kind in ["Opaque", "kubernetes.io/dockercfg"] {
            assert!(of(kind, ".dockerconfigjson", new).is_empty(), "{kind}");
        }
        assert!(of("Opaque", ".dockercfg", old).is_empty());
    }

    #[test]
    fn repositories_are_told_with_their_registry() {
        for (reference, whole) in [
            ("nginx:1", "docker.io/library/nginx"),
            ("a/b", "docker.io/a/b"),
            ("HOST/x:1", "HOST/x"),
            ("localhost/a", "localhost/a"),
            ("index.docker.io/nginx", "docker.io/library/nginx"),
            ("reg.io:5000/a@sha256:0123456789abcdef0123456789abcdef", "reg.io:5000/a"),
        ] {
            assert_eq!(repository(reference), whole);
        }
    }
}
