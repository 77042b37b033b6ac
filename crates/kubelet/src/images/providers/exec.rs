//! One program, asked once for the logins of an image (upstream's `execPlugin`): a request on its standard input, an answer on its standard
//! output, both JSON.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use machinery::time::parse_go_duration;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::Instant;

use super::config::{PROTOCOL, Provider};
use crate::counts::Counts;

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// For what else an answer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The image.
    Image,
    /// All images of its registry.
    Registry,
    /// All images.
    Global,
}

/// A user and his password, by the places that they are for.
pub type Auth = BTreeMap<String, (String, String)>;

/// What a program says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For what else it is good.
    pub reach: Reach,
    /// How long; none: as long as is usual.
    pub kept: Option<Duration>,
    /// The logins.
    pub auth: Auth,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Response {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    kind: String,
    cache_key_type: Option<String>,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    username: Option<String>,
    password: Option<String>,
}

/// Asks.
///
/// # Errors
/// Why there is no answer, which never tells what is in it.
pub async fn ask(provider: &Provider, counts: &Counts, image: &str, token: Option<&str>, annotations: &BTreeMap<String, String>) -> Result<Answer, String> {
    let mut request = json!({"kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": image});
    if let Some(token) = token {
        request["serviceAccountToken"] = token.into();
    }
    if !annotations.is_empty() {
        request["serviceAccountAnnotations"] = json!(annotations);
    }
    let begun = Instant::now();
    let said = run(provider, image, request).await;
    counts.provider(&provider.name, begun.elapsed(), said.is_ok());
    read(&said?, &provider.api_version)
}

/// What the program says to a request.
async fn run(provider: &Provider, image: &str, request: Value) -> Result<Vec<u8>, String> {
    let failed = |why: &str, said: &[u8]| {
        format!("error execing credential provider plugin {} for image {image}: {why}: {}", provider.name, String::from_utf8_lossy(said))
    };
    let mut command = Command::new(&provider.program);
    command.args(&provider.args).envs(provider.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| failed(&e.to_string(), b""))?;
    let stdin = child.stdin.take();
    let tell = async move {
        if let Some(mut stdin) = stdin {
            // One that does not read knows what it needs.
            let _ = stdin.write_all(format!("{request}\n").as_bytes()).await;
        }
    };
    let both = async { tokio::join!(tell, child.wait_with_output()).1 };
    let output: io::Result<std::process::Output> = tokio::time::timeout(PATIENCE, both).await.map_err(|_| failed("context deadline exceeded", b""))?;
    let output = output.map_err(|e| failed(&e.to_string(), b""))?;
    if !output.status.success() {
        return Err(failed(&ended(output.status), &output.stderr));
    }
    Ok(output.stdout)
}

/// As Go says how a process ended.
fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| format!("signal: {}", status.signal().unwrap_or_default()), |code| format!("exit status {code}"))
}

fn read(said: &[u8], version: &str) -> Result<Answer, String> {
    // Not why: the error could tell a password.
    let undecoded = || "error decoding credential provider plugin response from stdout".to_owned();
    let value: Value = serde_json::from_slice(said).map_err(|_| "error reading GVK from response: couldn't get version/kind; json parse error".to_owned())?;
    let actual = machinery::tree::text(&value, "apiVersion");
    if actual != version {
        return Err(format!("apiVersion from credential plugin response did not match expected apiVersion:{version}, actual apiVersion:{actual}"));
    }
    let response: Response = serde_json::from_value(value).map_err(|_| undecoded())?;
    if response.kind != "CredentialProviderResponse" || !version.starts_with(PROTOCOL) {
        return Err(undecoded());
    }
    let kept = response.cache_duration.as_deref().map(parse_go_duration).transpose().map_err(|_| undecoded())?;
    let reach = match response.cache_key_type.as_deref().unwrap_or_default() {
        "Image" => Reach::Image,
        "Registry" => Reach::Registry,
        "Global" => Reach::Global,
        other => return Err(format!("credential provider plugin did not return a valid cacheKeyType: {other}")),
    };
    let auth = response.auth.unwrap_or_default();
    let auth = auth.into_iter().map(|(place, login)| (place, (login.username.unwrap_or_default(), login.password.unwrap_or_default()))).collect();
    // What has ended before it began is not kept.
    let kept = kept.map(|nanos| Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)));
    Ok(Answer { reach, kept, auth })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_strictly_and_their_secrets_are_not_told() {
        let version = "credentialprovider.kubelet.k8s.io/v1";
        let of = |rest: Value| {
            let mut value = json!({"apiVersion": version, "kind": "CredentialProviderResponse", "cacheKeyType": "Registry", "auth": {"reg.io": {"username": "u", "password": "secret"}}});
            for (name, field) in rest.as_object().unwrap() {
                value[name] = field.clone();
            }
            read(value.to_string().as_bytes(), version)
        };
        let answer = of(json!({"cacheDuration": "1m30s"})).unwrap();
        assert_eq!((answer.reach, answer.kept), (Reach::Registry, Some(Duration::from_secs(90))));
        assert_eq!(answer.auth["reg.io"], ("u".to_owned(), "secret".to_owned()));
        assert_eq!(of(json!({"cacheKeyType": "All"})).unwrap_err(), "credential provider plugin did not return a valid cacheKeyType: All");
        let decoding = "error decoding credential provider plugin response from stdout";
        for wrong in [json!({"kind": "Pod"}), json!({"more": "secret"}), json!({"auth": {"reg.io": "secret"}}), json!({"cacheDuration": "soon"})] {
            assert_eq!(of(wrong).unwrap_err(), decoding);
        }
        assert!(of(json!({"apiVersion": "v1"})).unwrap_err().ends_with("actual apiVersion:v1"));
        assert!(read(b"secret", version).unwrap_err().starts_with("error reading GVK from response"));
    }
}
