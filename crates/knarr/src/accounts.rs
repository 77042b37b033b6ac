//! Controllers that run alone act as their service accounts in `kube-system`, as they do beside the API server.
//!
//! The kubeconfig's identity (`system:kube-controller-manager`) may read everything and ask for tokens, and hardly
//! anything else: what a controller may do is its service account's role. So each account has a bearer token of its own,
//! got by TokenRequest (the account is made if it is not there) and replaced before it ends, as the original does with
//! `--use-service-account-credentials`. Requests of all accounts share one connection, which shows no client certificate:
//! a server that sees one does not look at the token.

use anyhow::Context as _;
use bytes::Bytes;
use client::{Body, Client, Credentials, Endpoint, Error, HttpTransport, Reports, Transport};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::ServiceAccount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

const NAMESPACE: &str = "kube-system";
/// Seconds for which a token is asked; a server may give another time.
const TOKEN_SECONDS: i64 = 3600;
/// A token is replaced when this part of its life, in percent, is over.
const USE_PERCENT: u32 = 80;

/// Makes clients of service accounts.
pub struct Accounts {
    issuer: Client,
    bare: Arc<HttpTransport>,
    reports: Reports,
}

impl Accounts {
    /// Tokens come from the server of this kubeconfig, asked for by its identity; what the server refuses is told in `reports`.
    pub fn new(kubeconfig: &Path, reports: Reports) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_kubeconfig(kubeconfig)?;
        let bare = HttpTransport::new(Endpoint { credentials: Credentials::default(), ..endpoint })?;
        Ok(Self { issuer: Client::from_kubeconfig(kubeconfig).context("the identity that asks for tokens")?, bare: Arc::new(bare), reports })
    }

    /// A client that acts as this account of `kube-system`.
    pub fn client(&self, name: &str) -> Client {
        let account = Account { name: name.to_owned(), issuer: self.issuer.clone().user_agent(name), bare: Arc::clone(&self.bare), token: Mutex::default() };
        Client::new(self.reports.over(AsAccount(Arc::new(account)))).user_agent(name)
    }
}

struct Token {
    value: HeaderValue,
    good_until: Instant,
}

struct Account {
    name: String,
    issuer: Client,
    bare: Arc<HttpTransport>,
    /// Locked while a token is asked for, so that many requests ask for one.
    token: Mutex<Option<Token>>,
}

struct AsAccount(Arc<Account>);

impl Transport for AsAccount {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        let account = Arc::clone(&self.0);
        Box::pin(async move { account.send(request).await })
    }
}

impl Account {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, Error> {
        let token = self.token().await?;
        let again = request.clone();
        let response = self.with(request, &token).await?;
        if response.status() != http::StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // The account was deleted and made anew, or the server has another key: the next token will tell.
        self.forget(&token).await;
        let token = self.token().await?;
        self.with(again, &token).await
    }

    async fn with(&self, mut request: Request<Bytes>, token: &HeaderValue) -> Result<Response<Body>, Error> {
        request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        self.bare.send(request).await
    }

    async fn forget(&self, refused: &HeaderValue) {
        self.token.lock().await.take_if(|kept| kept.value == refused);
    }

    async fn token(&self) -> Result<HeaderValue, Error> {
        let mut kept = self.token.lock().await;
        if let Some(token) = kept.as_ref().filter(|t| Instant::now() < t.good_until) {
            return Ok(token.value.clone());
        }
        let asked = Instant::now();
        let answer = match self.request().await {
            Err(error) if error.is_not_found() => {
                self.create().await?;
                self.request().await?
            }
            answer => answer?,
        };
        let (text, end) = answer
            .status
            .and_then(|s| s.token.zip(s.expiration_timestamp))
            .ok_or_else(|| Error::Decode(format!("the server's answer holds no token of {}", self.name)))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|e| Error::Decode(format!("a token: {e}")))?;
        value.set_sensitive(true);
        let life = end.0.as_second() - client::now().0.as_second();
        let life = Duration::from_secs(u64::try_from(life).unwrap_or(0)) * USE_PERCENT / 100;
        *kept = Some(Token { value: value.clone(), good_until: asked + life });
        Ok(value)
    }

    async fn request(&self) -> Result<TokenRequest, Error> {
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        self.issuer.namespaced::<ServiceAccount>(NAMESPACE).create_subresource(&self.name, "token", &request).await
    }

    async fn create(&self) -> Result<(), Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match self.issuer.namespaced(NAMESPACE).create(&account).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }
}
