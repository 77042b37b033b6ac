//! A server in this process, spoken to by whoever a test says.

use apiserver::{ApiServer, Config, Identity, full};
use http::{Method, Request};
use http_body_util::BodyExt;
use identity::{Trust, User};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long what is awaited may take before a test fails: a machine that is busy with others keeps it easily.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub api: ApiServer,
    pub store: store::Store,
}

/// Somebody with these groups.
pub fn user(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().copied().chain(["system:authenticated"]).map(str::to_owned).collect();
    User { name: name.into(), uid: String::new(), groups, extra: Default::default() }
}

pub fn admin() -> User {
    user("admin", &["system:masters"])
}

pub fn node(name: &str) -> User {
    user(&format!("system:node:{name}"), &["system:nodes"])
}

/// A code and a body.
pub struct Reply {
    pub code: u16,
    pub body: Value,
    /// The texts of its headers.
    pub warnings: Vec<String>,
    asked: String,
}

impl Reply {
    /// The body, if the code is this one.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}: {:#}", self.asked, self.body);
        self.body
    }

    /// The message, if the code is this one.
    #[track_caller]
    pub fn refused(self, code: u16) -> String {
        self.expect(code)["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Cluster {
    pub fn bare(config: Config, trust: Trust) -> Cluster {
        Cluster::over(store::Store::in_memory(&store::Options::default()).expect("a store"), config, trust)
    }

    /// As [`Cluster::start`], over a store of one's own.
    pub async fn start_over(store: store::Store) -> Cluster {
        Cluster::over(store, Config::default(), Trust::default()).begun().await
    }

    /// Over a store, with nothing done yet.
    pub fn over(store: store::Store, config: Config, trust: Trust) -> Cluster {
        let identity = Identity::new(&store, None, "https://kubernetes.default.svc", trust).expect("keys");
        Cluster { api: ApiServer::new(config, store.clone(), identity).expect("a server"), store }
    }

    /// With everything that a new cluster has, and the account that pods want.
    pub async fn start() -> Cluster {
        Cluster::with(Config { advertise_address: Some([192, 168, 7, 1].into()), ..Config::default() }, Trust::default()).await
    }

    pub async fn with(config: Config, trust: Trust) -> Cluster {
        Cluster::bare(config, trust).begun().await
    }

    async fn begun(self) -> Cluster {
        self.api.bootstrap().await.expect("bootstrap");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
        self
    }

    pub async fn call(&self, who: &User, method: Method, uri: &str, headers: &[(&str, &str)], body: Value) -> Reply {
        self.call_by(Some(who), method, uri, headers, body).await
    }

    /// As [`Cluster::call`], by whomever the headers tell.
    pub async fn call_by(&self, who: Option<&User>, method: Method, uri: &str, headers: &[(&str, &str)], body: Value) -> Reply {
        let asked = format!("{} {method} {uri}", who.map_or("?", |who| who.name.as_str()));
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(who) = who {
            request = request.extension(Arc::new(who.clone()));
        }
        let media = headers.iter().any(|(k, _)| *k == "content-type");
        for (name, value) in headers.iter().copied().chain((!media).then_some(("content-type", "application/json"))) {
            request = request.header(name, value.as_bytes());
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.api.handle(request.body(full(body)).expect("a request")).await;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()).collect();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Reply { code, body, warnings, asked }
    }

    pub async fn get(&self, uri: &str) -> Reply {
        self.call(&admin(), Method::GET, uri, &[], Value::Null).await
    }

    pub async fn post(&self, uri: &str, body: Value) -> Reply {
        self.call(&admin(), Method::POST, uri, &[], body).await
    }

    pub async fn post_as(&self, who: &User, uri: &str, body: Value) -> Reply {
        self.call(who, Method::POST, uri, &[], body).await
    }

    pub async fn patch_as(&self, who: &User, uri: &str, body: Value) -> Reply {
        self.call(who, Method::PATCH, uri, &[("content-type", "application/merge-patch+json")], body).await
    }

    pub async fn patch(&self, uri: &str, body: Value) -> Reply {
        self.patch_as(&admin(), uri, body).await
    }

    pub async fn delete(&self, uri: &str) -> Reply {
        self.call(&admin(), Method::DELETE, uri, &[], Value::Null).await
    }

    pub async fn namespace(&self, name: &str) {
        self.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await.expect(201);
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), account).await.expect(201);
    }
}

pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}})
}

/// A value of another kind with the same fields set, below `value`.
pub fn merged(mut value: Value, other: Value) -> Value {
    machinery::patch::merge(&mut value, &other);
    value
}
