//! Programs of the node that give logins for images (`--image-credential-provider-config`, upstream's `pkg/credentialprovider/plugin`).
//!
//! A program is asked about the images that its patterns match, when an image is to be pulled or may only be for some; what it says is kept
//! as long as it says, for the image, its registry or all. One that is told of the pod's service account ([`config::Tokens`]) says it for
//! that account (or for that token) alone, and so is the image that came with it; the logins of the others are the node's, for all pods.
//!
//! So are those of a file in the kubelet's directory, which come before them (upstream's `NewDefaultDockerKeyring`).

mod exec;

pub mod config;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::keyring::{self, Keyring};
use super::pulled::{Login, Source};
use crate::api::SharedApi;
use crate::counts::Counts;
use crate::cri::{Credentials, PodUid};
use crate::util;
use crate::volumes::tokens::Tokens;
use config::Provider;
use exec::{Answer, Auth, Reach};

/// The programs, and what they said.
#[derive(Default)]
pub struct Providers {
    all: Vec<Arc<One>>,
    /// Where the node's own logins lie.
    dir: Option<PathBuf>,
    /// The tokens that pods' programs were told.
    tokens: Mutex<HashMap<PodUid, Arc<Tokens>>>,
}

struct One {
    provider: Provider,
    counts: Counts,
    said: Mutex<HashMap<(String, String), Said>>,
    /// What is being asked: who wants to know the same waits for it.
    asking: Mutex<HashMap<String, Waiting>>,
}

/// An answer that is on its way to who asked first.
type Waiting = watch::Receiver<Option<Result<Answer, String>>>;

struct Said {
    auth: Auth,
    until: Instant,
}

/// The service account that a program is told of.
struct Account {
    /// As images are to remember it.
    coordinates: String,
    token: String,
    annotations: BTreeMap<String, String>,
    /// What is kept for it, and for nobody else.
    key: String,
}

impl Providers {
    /// These, counted here.
    #[must_use]
    pub fn new(providers: &[Provider], counts: &Counts) -> Self {
        let one = |provider: &Provider| Arc::new(One { provider: provider.clone(), counts: counts.clone(), said: Mutex::default(), asking: Mutex::default() });
        Self { all: providers.iter().map(one).collect(), dir: None, tokens: Mutex::default() }
    }

    /// With the logins of a file in this directory.
    #[must_use]
    pub fn with_files_in(self, dir: &Path) -> Self {
        Self { dir: Some(dir.to_owned()), ..self }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        self.tokens.lock().remove(uid);
    }

    /// The logins of the node for a repository (`docker.io/library/nginx`) and a pod. A program that fails is as one that has none.
    pub async fn logins(&self, api: &SharedApi, pod: &Pod, repository: &str) -> Vec<Login> {
        let mut own = Keyring::default();
        for (place, credentials) in self.of_files().await {
            own.add(&place, Login { credentials, source: Source::Node });
        }
        let mut keyring = Keyring::default();
        for one in &self.all {
            match self.of(one, api, pod, repository).await {
                Ok((auth, source)) => {
                    for (place, (username, password)) in auth {
                        let credentials = Credentials { username, password, ..Credentials::default() };
                        keyring.add(&place, Login { credentials, source: source.clone() });
                    }
                }
                Err(error) => {
                    let pod = format!("{}/{}", util::namespace(pod), util::name(pod));
                    tracing::error!(provider = one.provider.name, image = repository, pod, error, "no credentials of a provider");
                }
            }
        }
        let mut logins = own.look_up(repository);
        logins.extend(keyring.look_up(repository));
        logins
    }

    /// What `config.json` says, or `.dockercfg` where there is no such file. The original also looks in its working directory and at its
    /// user's home; here these are of whoever has started the program, whose logins are not the node's.
    async fn of_files(&self) -> Vec<(String, Credentials)> {
        let Some(dir) = self.dir.clone() else { return Vec::new() };
        let read = move || {
            let of = |name: &str, key: &str| {
                let bytes = fs::read(dir.join(name)).ok()?;
                serde_json::from_slice::<serde_json::Value>(&bytes).ok()?;
                Some(super::logins(key, &bytes))
            };
            of("config.json", ".dockerconfigjson").or_else(|| of(".dockercfg", ".dockercfg")).unwrap_or_default()
        };
        util::blocking(read).await
    }

    async fn of(&self, one: &Arc<One>, api: &SharedApi, pod: &Pod, repository: &str) -> Result<(Auth, Source), String> {
        let nothing = (Auth::new(), Source::Node);
        if !one.provider.match_images.iter().any(|place| keyring::matches(place, repository)) {
            return Ok(nothing);
        }
        let name = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or_default();
        let account = match &one.provider.tokens {
            Some(wanted) if name.is_empty() && wanted.required => return Ok(nothing),
            Some(wanted) if !name.is_empty() => match self.account(wanted, api, pod, name).await? {
                Some(account) => Some(account),
                None => return Ok(nothing),
            },
            _ => None,
        };
        let source = account.as_ref().map_or(Source::Node, |account| Source::Account(account.coordinates.clone()));
        Ok((one.logins(repository, account).await?, source))
    }

    /// The pod's service account, as a program wants to know it; none where it lacks an annotation.
    async fn account(&self, wanted: &config::Tokens, api: &SharedApi, pod: &Pod, name: &str) -> Result<Option<Account>, String> {
        let namespace = util::namespace(pod);
        let account = api.get_service_account(namespace, name).await.map_err(|e| format!("failed to get service account: {e}"))?;
        let uid = account.metadata.uid.unwrap_or_default();
        let has = account.metadata.annotations.unwrap_or_default();
        if wanted.required_annotations.iter().any(|key| !has.contains_key(key)) {
            return Ok(None);
        }
        let told = wanted.required_annotations.iter().chain(&wanted.optional_annotations);
        let annotations: BTreeMap<String, String> = told.filter_map(|key| has.get_key_value(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let bound =
            BoundObjectReference { api_version: Some("v1".into()), kind: Some("Pod".into()), name: pod.metadata.name.clone(), uid: pod.metadata.uid.clone() };
        let spec =
            TokenRequestSpec { audiences: Some(vec![wanted.audience.clone()]), attestations: None, expiration_seconds: None, bound_object_ref: Some(bound) };
        let metadata = ObjectMeta { uid: Some(uid.clone()), ..ObjectMeta::default() };
        let request = TokenRequest { metadata, spec: Some(spec), ..TokenRequest::default() };
        let tokens = Arc::clone(self.tokens.lock().entry(PodUid(util::uid(pod).to_owned())).or_default());
        let token = tokens.get(api, namespace, name, &uid, &wanted.audience, request).await;
        let token = token.map_err(|e| format!("failed to get service account token: {e}"))?;
        let of_token = wanted.by_token.then(|| util::stable_hash(&token));
        let key = serde_json::json!([namespace, name, uid, annotations, of_token]).to_string();
        Ok(Some(Account { coordinates: format!("{namespace}/{name}/{uid}"), token, annotations, key }))
    }
}

impl One {
    /// What the program says of an image, now or before.
    async fn logins(self: &Arc<Self>, image: &str, account: Option<Account>) -> Result<Auth, String> {
        let key = account.as_ref().map(|a| a.key.clone()).unwrap_or_default();
        if let Some(auth) = self.known(image, &key) {
            return Ok(auth);
        }
        let by_token = self.provider.tokens.as_ref().is_some_and(|t| t.by_token);
        let token = account.as_ref().map(|a| a.token.clone());
        let answer = self.ask(image, account).await.map_err(|e| format!("failed to get credential from external registry credential provider: {e}"))?;
        // What is kept for an account may not be a token, which ends before.
        if !by_token && token.is_some_and(|token| !token.is_empty() && answer.auth.values().any(|(_, password)| *password == token)) {
            return Err("credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'".into());
        }
        let kept = answer.kept.unwrap_or(self.provider.default_cache);
        if !kept.is_zero() {
            let of = match answer.reach {
                Reach::Image => image,
                Reach::Registry => registry(image),
                Reach::Global => GLOBAL,
            };
            let now = Instant::now();
            let mut said = self.said.lock();
            said.retain(|_, said| now <= said.until);
            // What is said to be good for longer than the clock can tell is not kept.
            if let Some(until) = now.checked_add(kept) {
                said.insert((of.to_owned(), key), Said { auth: answer.auth.clone(), until });
            }
        }
        Ok(answer.auth)
    }

    fn known(&self, image: &str, account: &str) -> Option<Auth> {
        let (said, now) = (self.said.lock(), Instant::now());
        let of = |of: &str| said.get(&(of.to_owned(), account.to_owned())).filter(|said| now <= said.until).map(|said| said.auth.clone());
        of(image).or_else(|| of(registry(image))).or_else(|| of(GLOBAL))
    }

    /// Asks, once for all who want to know the same; also when nobody waits any more.
    async fn ask(self: &Arc<Self>, image: &str, account: Option<Account>) -> Result<Answer, String> {
        let (token, annotations) = account.map(|a| (a.token, a.annotations)).unzip();
        let annotations = annotations.unwrap_or_default();
        let key = serde_json::json!([image, token, annotations]).to_string();
        let mut answer = {
            let mut asking = self.asking.lock();
            let begin = || {
                let (sender, receiver) = watch::channel(None);
                let (one, image, key) = (Arc::clone(self), image.to_owned(), key.clone());
                tokio::spawn(async move {
                    let answer = exec::ask(&one.provider, &one.counts, &image, token.as_deref(), &annotations).await;
                    one.asking.lock().remove(&key);
                    sender.send_replace(Some(answer));
                });
                receiver
            };
            asking.entry(key.clone()).or_insert_with(begin).clone()
        };
        let told = answer.wait_for(Option::is_some).await.map_err(|e| e.to_string())?;
        told.clone().unwrap_or_else(|| Err("no answer".into()))
    }
}

/// Stands for all images; no image is called so.
const GLOBAL: &str = "<global>";

/// The registry of a repository.
fn registry(repository: &str) -> &str {
    repository.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use instruments::Registry;

    use super::*;
    use crate::testing::{FakeApi, TempDir};

    /// A program that writes down what it is told, and answers this.
    fn provider(dir: &Path, answer: &str) -> Provider {
        let script = format!("cat >> {0}/asked; echo \"$WHO $1\" >> {0}/who; cat <<'X'\n{answer}\nX", dir.display());
        std::fs::write(dir.join("script"), script).unwrap();
        Provider {
            name: "fake".into(),
            program: "/bin/sh".into(),
            match_images: vec!["*.io/team".into()],
            default_cache: Duration::from_secs(600),
            api_version: "credentialprovider.kubelet.k8s.io/v1".into(),
            args: vec![dir.join("script").display().to_string(), "arg".into()],
            env: vec![("WHO".into(), "me".into())],
            tokens: None,
        }
    }

    fn new(providers: &[Provider]) -> Providers {
        Providers::new(providers, &Counts::new(&Registry::default()))
    }

    fn answer(reach: &str, more: &str) -> String {
        format!(
            r#"{{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "{reach}"{more}, "auth": {{"reg.io": {{"username": "u", "password": "p"}}, "other.io": {{"username": "o", "password": "o"}}}}}}"#
        )
    }

    fn pod() -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"serviceAccountName": "a", "containers": []}}),
        )
        .unwrap()
    }

    fn asked(dir: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(dir.join("asked")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_program_is_asked_as_often_as_its_answer_says() {
        let api: SharedApi = Arc::new(FakeApi::default());
        for (reach, more, times) in [("Image", "", 2), ("Registry", "", 1), ("Global", "", 1), ("Registry", r#", "cacheDuration": "0s""#, 3)] {
            let dir = TempDir::new("providers");
            let providers = new(&[provider(dir.path(), &answer(reach, more))]);
            for image in ["reg.io/team/a", "reg.io/team/a", "reg.io/team/b"] {
                let logins = providers.logins(&api, &pod(), image).await;
                let users: Vec<&str> = logins.iter().map(|l| l.credentials.username.as_str()).collect();
                assert_eq!(users, ["u"], "{reach}");
                assert!(matches!(logins[0].source, Source::Node));
            }
            assert!(providers.logins(&api, &pod(), "reg.io/other").await.is_empty(), "no pattern of its");
            let asked = asked(dir.path());
            assert_eq!(asked.len(), times, "{reach}");
            let first =
                serde_json::json!({"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest", "image": "reg.io/team/a"});
            assert_eq!(asked[0], first);
            assert!(std::fs::read_to_string(dir.path().join("who")).unwrap().starts_with("me arg\n"));
        }
    }

    #[tokio::test]
    async fn the_nodes_own_logins_come_first() {
        let (api, dir): (SharedApi, _) = (Arc::new(FakeApi::default()), TempDir::new("providers-own"));
        let providers = new(&[provider(dir.path(), &answer("Image", ""))]).with_files_in(dir.path());
        let users = async || {
            let logins = providers.logins(&api, &pod(), "reg.io/team/a").await;
            logins.into_iter().map(|l| l.credentials.username).collect::<Vec<_>>()
        };
        let said = |user: &str| format!(r#"{{"reg.io": {{"username": "{user}", "password": "p"}}}}"#);
        fs::write(dir.path().join(".dockercfg"), said("old")).unwrap();
        assert_eq!(users().await, ["old", "u"]);
        fs::write(dir.path().join("config.json"), format!(r#"{{"auths": {}}}"#, said("own"))).unwrap();
        assert_eq!(users().await, ["own", "u"]);
        fs::write(dir.path().join("config.json"), "what?").unwrap();
        assert_eq!(users().await, ["old", "u"], "what cannot be read is not there");
    }

    #[tokio::test]
    async fn what_fails_is_no_login_and_is_asked_again() {
        let (api, dir): (SharedApi, _) = (Arc::new(FakeApi::default()), TempDir::new("providers-fail"));
        let registry = Registry::default();
        let counts = Counts::new(&registry);
        let providers = Providers::new(&[provider(dir.path(), "what?")], &counts);
        for _ in 0..2 {
            assert!(providers.logins(&api, &pod(), "reg.io/team/a").await.is_empty());
        }
        assert_eq!(asked(dir.path()).len(), 2);
        let failing = Provider { args: vec!["-c".into(), "echo why >&2; exit 3".into()], ..provider(dir.path(), "") };
        let error = exec::ask(&failing, &counts, "reg.io/team/a", None, &BTreeMap::new()).await.unwrap_err();
        assert_eq!(error, "error execing credential provider plugin fake for image reg.io/team/a: exit status 3: why\n");
        let text = registry.text();
        for line in [
            r#"kubelet_credential_provider_plugin_errors_total{plugin_name="fake"} 1"#,
            r#"kubelet_credential_provider_plugin_duration_count{plugin_name="fake"} 3"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[tokio::test]
    async fn who_wants_an_account_is_not_asked_without_one() {
        let (api, dir): (SharedApi, _) = (Arc::new(FakeApi::default()), TempDir::new("providers-account"));
        let tokens =
            config::Tokens { audience: "reg".into(), by_token: false, required: true, required_annotations: Vec::new(), optional_annotations: Vec::new() };
        let mut wanted = provider(dir.path(), &answer("Image", ""));
        wanted.tokens = Some(tokens);
        let mut alone = pod();
        alone.spec.as_mut().unwrap().service_account_name = None;
        // Nor about a pod whose account is not there.
        for pod in [&alone, &pod()] {
            assert!(new(&[wanted.clone()]).logins(&api, pod, "reg.io/team/a").await.is_empty());
        }
        assert!(asked(dir.path()).is_empty());
        wanted.tokens.as_mut().unwrap().required = false;
        assert_eq!(new(&[wanted]).logins(&api, &alone, "reg.io/team/a").await.len(), 1, "a static pod's, without a token");
    }

    #[tokio::test]
    async fn what_is_said_for_an_account_is_for_it_alone() {
        let dir = TempDir::new("providers-alone");
        let one = new(&[provider(dir.path(), &answer("Global", ""))]).all.remove(0);
        let of = |key: &str, token: &str| {
            let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
            Some(Account { coordinates: format!("n/{key}/u"), token: token.into(), annotations, key: key.into() })
        };
        for (key, token) in [("a", "t1"), ("a", "t2"), ("b", "t3")] {
            one.logins("reg.io/team/a", of(key, token)).await.unwrap();
        }
        let asked = asked(dir.path());
        let told: Vec<&str> = asked.iter().map(|request| request["serviceAccountToken"].as_str().unwrap()).collect();
        assert_eq!(told, ["t1", "t3"]);
        assert_eq!(asked[0]["serviceAccountAnnotations"], serde_json::json!({"k": "v"}));
        let error = one.logins("reg.io/team/a", of("c", "p")).await.unwrap_err();
        assert!(error.starts_with("credential provider plugin returned the service account token as the password"), "{error}");
    }
}
