//! How a machine that trusts nobody yet finds out by which authority its cluster is known, as kubeadm does it (`discovery/token`):
//!
//! 1. `cluster-info` is read from whoever answers at the API server's address;
//! 2. it must be signed with the token, which only the cluster knows beside us;
//! 3. its authority must be the one whose hash the command says, so that nobody who has the token, too, can take the cluster's place;
//! 4. it is read again from a server that this authority vouches for, and must be the same.

use super::{
    cluster_info::{self, ClusterInfo, Signed},
    server::Server,
};
use crate::token::Token;
use anyhow::{Context as _, anyhow, bail};
use client::{Client, Credentials, Endpoint, HttpTransport};
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::pki_types::CertificateDer;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// A new token's signature comes a moment after the token, and a control plane that was just started makes `cluster-info` then.
const SIGNS: Duration = Duration::from_secs(10);
/// One that has changed is signed anew within this.
const SIGNS_ANEW: Duration = Duration::from_secs(2);
/// Between two looks whether it is there: who trusts nobody may watch nothing.
const LOOK: Duration = Duration::from_millis(250);

/// Whom to believe.
pub struct Trust<'a> {
    /// What the cluster signs with.
    pub token: &'a Token,
    /// Hashes of authorities, one of which is the cluster's; empty: whoever has signed is believed.
    pub hashes: &'a [String],
}

/// What the cluster says of itself, at the first of these servers that answers; which that is.
pub async fn discover(servers: &[Server], trust: &Trust<'_>) -> anyhow::Result<(ClusterInfo, usize)> {
    let mut unreached = Vec::new();
    for (at, server) in servers.iter().enumerate() {
        match one(server, trust).await {
            Err(error) if error.downcast_ref::<client::Error>().is_some_and(|e| matches!(e, client::Error::Transport(_))) => {
                unreached.push(format!("{server}: {error}"));
            }
            found => return found.map(|info| (info, at)).with_context(|| format!("joining by {server}")),
        }
    }
    bail!("no API server is reached: {}", unreached.join("; "))
}

async fn one(server: &Server, trust: &Trust<'_>) -> anyhow::Result<ClusterInfo> {
    let map = signed(&client(server, None)?, trust.token).await?;
    let content = cluster_info::content(&map)?;
    let info = ClusterInfo::read(content)?;
    let info = if trust.hashes.is_empty() { info } else { info.pinned(trust.hashes)? };
    let again = read(&client(server, Some(info.authorities()?))?).await.map_err(|error| match error {
        client::Error::Transport(why) => not_believed(server, &why),
        other => other.into(),
    })?;
    if again.as_ref().map(cluster_info::content).transpose()? != Some(content) {
        bail!("the API server says something else to those who trust it than to those who do not: somebody is between");
    }
    Ok(info)
}

/// Why a server's certificate is not taken.
fn not_believed(server: &Server, why: &str) -> anyhow::Error {
    if ["certificate not valid yet", "certificate expired"].iter().any(|told| why.contains(told)) {
        let now = machinery::time::rfc3339(SystemTime::now());
        return anyhow!("the certificate of the API server at {server} is not good at {now}, which is this machine's time: is its clock right? ({why})");
    }
    anyhow!(
        "the certificate of the API server is not for {server} (`knarr up --tls-san` puts further names and addresses into it), or is not of the cluster's authority ({why})"
    )
}

/// A client without an identity; without authorities of one that believes anybody.
fn client(server: &Server, authorities: Option<Vec<CertificateDer<'static>>>) -> anyhow::Result<Client> {
    let insecure = authorities.is_none();
    let endpoint =
        Endpoint { server: server.to_string(), authorities: authorities.unwrap_or_default(), server_name: None, insecure, credentials: Credentials::default() };
    Ok(Client::new(Arc::new(HttpTransport::new(endpoint)?)).user_agent("knarr-agent"))
}

async fn read(client: &Client) -> client::Result<Option<ConfigMap>> {
    client.namespaced::<ConfigMap>(cluster_info::NAMESPACE).get_opt(cluster_info::NAME).await
}

/// The ConfigMap, once it is signed with the token.
async fn signed(client: &Client, token: &Token) -> anyhow::Result<ConfigMap> {
    let (begun, mut answered) = (Instant::now(), false);
    loop {
        let map = match read(client).await {
            // Whoever made it has yet to let everybody read it.
            Err(error) if error.is_forbidden() => None,
            // A server keeps no connection of a stranger for long.
            Err(client::Error::Transport(_)) if answered && begun.elapsed() < SIGNS => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            answer => answer?,
        };
        answered = true;
        match map.as_ref().map(|map| cluster_info::signed(map, token)).transpose()? {
            Some(Signed::Yes) => return map.context("it is there"),
            // A content that was changed just now has the former one's signatures for a moment.
            Some(Signed::Otherwise) if begun.elapsed() < SIGNS_ANEW => {}
            Some(Signed::Otherwise) => {
                bail!("the secret of the token {} is another than the cluster's, or somebody else answers in the cluster's place", token.id)
            }
            None | Some(Signed::Unknown) if begun.elapsed() < SIGNS => {}
            None => return Err(nothing()),
            Some(Signed::Unknown) => {
                bail!(
                    "the cluster does not know the token {}, or its time is over: `knarr token create` on the control plane's machine makes another",
                    token.id
                )
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn nothing() -> anyhow::Error {
    anyhow!("the cluster tells nobody how to join it (ConfigMap kube-public/cluster-info): is it started with `knarr up --advertise-address`?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use http_body_util::{BodyExt as _, Full};
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    /// A server with this answer first, and that one from then on.
    fn server(first: Value, then: Value) -> Client {
        let answers = Mutex::new(vec![then, first]);
        let transport = move |_: http::Request<Bytes>| -> BoxFuture<'static, client::Result<http::Response<client::Body>>> {
            let mut answers = answers.lock();
            let answer = if answers.len() > 1 { answers.pop().unwrap() } else { answers[0].clone() };
            let code = answer["code"].as_u64().map_or(200, |code| code as u16);
            let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
            let answer = http::Response::builder().status(code).header("content-type", "application/json").body(body).unwrap();
            Box::pin(async move { Ok(answer) })
        };
        Client::new(Arc::new(transport))
    }

    fn map(signature: &str) -> Value {
        let mut data = json!({"kubeconfig": "c"});
        if !signature.is_empty() {
            data["jws-kubeconfig-abcdef"] = signature.into();
        }
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": data})
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_waited_for_a_little_and_refused_in_words() {
        use base64::Engine as _;
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let right = controllers::bootstrap_signer::signature(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode("c"), "abcdef", b"0123456789abcdef");
        let status = |code: u16, reason: &str| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
        for first in [map(""), map("e30..AA"), status(404, "NotFound"), status(403, "Forbidden")] {
            assert!(signed(&server(first, map(&right)), &token).await.is_ok(), "it comes a moment later");
        }
        let why = async |answer: Value| signed(&server(answer.clone(), answer), &token).await.unwrap_err().to_string();
        assert!(why(map("")).await.contains("does not know the token abcdef"));
        assert!(why(map("e30..AA")).await.contains("the secret of the token abcdef is another"));
        assert!(why(status(404, "NotFound")).await.contains("--advertise-address") && why(status(403, "Forbidden")).await.contains("--advertise-address"));
    }

    #[test]
    fn a_clock_that_is_wrong_is_asked_after() {
        use rustls::{CertificateError, pki_types::UnixTime};
        let server: Server = "192.0.2.1".parse().unwrap();
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let told = |error| not_believed(&server, &rustls::Error::InvalidCertificate(error).to_string()).to_string();
        assert!(told(CertificateError::NotValidYetContext { time: at(1), not_before: at(2) }).contains("is its clock right?"));
        assert!(told(CertificateError::ExpiredContext { time: at(2), not_after: at(1) }).contains("is its clock right?"));
        assert!(told(CertificateError::NotValidForName).contains("is not for https://192.0.2.1:6443"));
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_told_by_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let away = format!("https://{}", listener.local_addr().unwrap());
        drop(listener);
        let trust = Trust { token: &"abcdef.0123456789abcdef".parse().unwrap(), hashes: &[] };
        let why = discover(&[away.parse().unwrap()], &trust).await.unwrap_err().to_string();
        assert!(why.contains("no API server is reached") && why.contains(&away), "{why}");
    }
}
