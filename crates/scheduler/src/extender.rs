//! Others who are asked over HTTP which nodes do, how good they are, who has to go, and who bind (upstream `HTTPExtender`).
//!
//! An extender is asked within a decision: nothing else is decided meanwhile, as in the original. Each request has a time, each
//! answer a length that is read at most.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Endpoint, HttpTransport, Meta, Transport};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use machinery::time::parse_go_duration;
use serde_json::{Value, json};

use crate::config::raw::RawExtender;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::preemption::Candidate;

/// What stands for all extenders where plugins are named.
pub const EXTENDER: &str = "Extender";
/// How long an answer may take, unless it is said (upstream `DefaultExtenderTimeout`).
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read: it may hold all nodes.
const ANSWER_MAX: usize = 64 << 20;
/// An extender's scores go to this (upstream `MaxExtenderPriority`), ours to a hundred.
const SCALE: i64 = crate::framework::SCORE_MAX / 10;

/// Somebody who is asked.
#[derive(Clone)]
pub struct Extender {
    url: String,
    path: String,
    transport: Arc<dyn Transport>,
    answer_time: Duration,
    verbs: Verbs,
    weight: i64,
    /// It knows the nodes by name.
    knows_nodes: bool,
    /// What fails without it fails not.
    pub ignorable: bool,
    managed: HashSet<String>,
}

#[derive(Clone, Default)]
struct Verbs {
    filter: String,
    prioritize: String,
    preempt: String,
    bind: String,
}

impl std::fmt::Debug for Extender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extender").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What an extender says of nodes.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Those that do.
    pub names: Vec<String>,
    /// Those that do not, and why; nobody's going helps.
    pub hopeless: BTreeMap<String, String>,
    /// Those that do not, and why.
    pub failed: BTreeMap<String, String>,
}

impl Extender {
    /// An extender of its configuration. Connects when it is asked.
    ///
    /// # Errors
    /// Its address or its certificates cannot be used.
    pub fn new(raw: &RawExtender) -> Result<Self, String> {
        let uri: http::Uri = raw.url_prefix.parse().map_err(|error| format!("extender {:?}: {error}", raw.url_prefix))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("extender {:?}: unsupported protocol scheme \"\"", raw.url_prefix));
        };
        let endpoint = endpoint(raw, &format!("{scheme}://{authority}")).map_err(|error| format!("extender {:?}: {error}", raw.url_prefix))?;
        let transport = HttpTransport::new(endpoint).map_err(|error| format!("extender {:?}: {error}", raw.url_prefix))?;
        Self::over(raw, uri.path(), Arc::new(transport))
    }

    /// An extender that is reached so.
    ///
    /// # Errors
    /// Its time is none.
    pub fn over(raw: &RawExtender, path: &str, transport: Arc<dyn Transport>) -> Result<Self, String> {
        let nanos = raw.http_timeout.as_deref().map_or(Ok(0), parse_go_duration)?;
        let verbs =
            Verbs { filter: raw.filter_verb.clone(), prioritize: raw.prioritize_verb.clone(), preempt: raw.preempt_verb.clone(), bind: raw.bind_verb.clone() };
        Ok(Self {
            url: raw.url_prefix.clone(),
            path: path.trim_end_matches('/').to_owned(),
            transport,
            answer_time: u64::try_from(nanos).ok().filter(|n| *n > 0).map_or(ANSWER_TIME, Duration::from_nanos),
            verbs,
            weight: raw.weight,
            knows_nodes: raw.node_cache_capable,
            ignorable: raw.ignorable,
            managed: raw.managed_resources.iter().map(|r| r.name.clone()).collect(),
        })
    }

    /// Whether it is asked about a pod: it looks after none in particular, or after something that the pod asks for.
    #[must_use]
    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        let spec = pod.spec();
        let lists = spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(|c| c.resources.as_ref());
        let mut names = lists.flat_map(|r| [&r.requests, &r.limits]).flatten().flat_map(|list| list.keys());
        self.managed.is_empty() || names.any(|name| self.managed.contains(name))
    }

    /// Whether it says which nodes do.
    #[must_use]
    pub fn filters(&self) -> bool {
        !self.verbs.filter.is_empty()
    }

    /// Whether it says how good nodes are.
    #[must_use]
    pub fn scores(&self) -> bool {
        !self.verbs.prioritize.is_empty()
    }

    /// Whether it has a say in who has to go.
    #[must_use]
    pub fn preempts(&self) -> bool {
        !self.verbs.preempt.is_empty()
    }

    /// Whether it binds.
    #[must_use]
    pub fn binds(&self) -> bool {
        !self.verbs.bind.is_empty()
    }

    /// Which of these nodes do.
    ///
    /// # Errors
    /// It cannot be asked, or says nonsense.
    pub async fn filter(&self, pod: &Pod, nodes: &[&NodeInfo]) -> Result<Verdicts, String> {
        let answer = self.ask(&self.verbs.filter, self.nodes(pod, nodes)).await?;
        let error = text(field(&answer, "Error"));
        if !error.is_empty() {
            return Err(error.to_owned());
        }
        let names: Vec<String> = match (field(&answer, "NodeNames"), field(field(&answer, "Nodes"), "items")) {
            (Value::Array(names), _) if self.knows_nodes => names.iter().map(|name| text(name).to_owned()).collect(),
            (_, Value::Array(nodes)) => nodes.iter().map(|node| text(&node["metadata"]["name"]).to_owned()).collect(),
            _ => Vec::new(),
        };
        if let Some(unknown) = names.iter().find(|name| nodes.iter().all(|n| n.name() != *name)) {
            return Err(format!("extender {:?} claims a filtered node {unknown:?} which is not found in the input node list", self.url));
        }
        Ok(Verdicts { names, hopeless: map(field(&answer, "FailedAndUnresolvableNodes")), failed: map(field(&answer, "FailedNodes")) })
    }

    /// What it adds to the scores of nodes.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn prioritize(&self, pod: &Pod, nodes: &[&NodeInfo]) -> Result<BTreeMap<String, i64>, String> {
        let answer = self.ask(&self.verbs.prioritize, self.nodes(pod, nodes)).await?;
        let score = |host: &Value| field(host, "Score").as_i64().unwrap_or_default().saturating_mul(self.weight).saturating_mul(SCALE);
        Ok(answer.as_array().into_iter().flatten().map(|host| (text(field(host, "Host")).to_owned(), score(host))).collect())
    }

    /// Which candidates for preemption it leaves, and with which victims.
    ///
    /// # Errors
    /// It cannot be asked, or names pods that are not there.
    pub async fn preempt(&self, pod: &Pod, candidates: &[Candidate], nodes: &[NodeInfo]) -> Result<Vec<Candidate>, String> {
        let victims: serde_json::Map<String, Value> = candidates
            .iter()
            .map(|c| {
                let pods = c.victims.iter().map(|v| if self.knows_nodes { json!({"UID": v.pod.uid()}) } else { json!(&*v.pod) });
                (c.node.clone(), json!({"Pods": pods.collect::<Vec<_>>(), "NumPDBViolations": c.violations}))
            })
            .collect();
        let (whole, named) = if self.knows_nodes { (Value::Null, victims.into()) } else { (victims.into(), Value::Null) };
        let answer = self.ask(&self.verbs.preempt, json!({"Pod": pod, "NodeNameToVictims": whole, "NodeNameToMetaVictims": named})).await?;
        let mut left = Vec::new();
        for (name, victims) in field(&answer, "NodeNameToMetaVictims").as_object().into_iter().flatten() {
            let node = nodes.iter().find(|n| n.name() == name).ok_or_else(|| format!("nodeinfo not found for node name {name:?}"))?;
            let find = |victim: &Value| {
                let uid = text(field(victim, "UID"));
                let found = node.pods.iter().find(|p| p.pod.uid() == uid).cloned();
                found.ok_or_else(|| {
                    format!("extender: {} claims to preempt pod (UID: &{{{uid}}}) on node: {name}, but the pod is not found on that node", self.url)
                })
            };
            let pods = field(victims, "Pods").as_array().into_iter().flatten().map(find).collect::<Result<Vec<_>, _>>()?;
            let violations = field(victims, "NumPDBViolations").as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
            if pods.is_empty() {
                if self.ignorable {
                    continue;
                }
                return Err(format!("expected at least one victim pod on node {name:?}"));
            }
            left.push(Candidate { node: name.clone(), victims: pods, violations });
        }
        Ok(left)
    }

    /// Binds a pod.
    ///
    /// # Errors
    /// It cannot be asked, or did not.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<(), String> {
        let request = json!({"PodName": pod.name(), "PodNamespace": pod.namespace(), "PodUID": pod.uid(), "Node": node});
        let answer = self.ask(&self.verbs.bind, request).await?;
        match text(field(&answer, "Error")) {
            "" => Ok(()),
            error => Err(error.to_owned()),
        }
    }

    fn nodes(&self, pod: &Pod, nodes: &[&NodeInfo]) -> Value {
        if self.knows_nodes {
            let names: Vec<&str> = nodes.iter().map(|n| n.name()).collect();
            return json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        }
        let items: Vec<&Node> = nodes.iter().map(|n| &*n.node).collect();
        json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null})
    }

    async fn ask(&self, verb: &str, body: Value) -> Result<Value, String> {
        let url = format!("{}/{verb}", self.url.trim_end_matches('/'));
        let request = http::Request::post(format!("{}/{verb}", self.path)).header("content-type", "application/json");
        let request = request.body(Bytes::from(body.to_string())).map_err(|error| format!("Post {url:?}: {error}"))?;
        let exchange = async {
            let response = self.transport.send(request).await.map_err(|error| format!("Post {url:?}: {error}"))?;
            if response.status() != http::StatusCode::OK {
                return Err(format!("failed {verb} with extender at URL {url}, code {}", response.status().as_u16()));
            }
            let (mut body, mut read) = (response.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| format!("Post {url:?}: {error}"))?;
                read.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
                if read.len() > ANSWER_MAX {
                    return Err(format!("Post {url:?}: the answer is too long"));
                }
            }
            machinery::json::read(&read).map_err(|error| error.to_string())
        };
        let late = |_| format!("Post {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
        tokio::time::timeout(self.answer_time, exchange).await.map_err(late)?
    }
}

/// How an extender's server is reached: by what a kubeconfig says of servers.
fn endpoint(raw: &RawExtender, server: &str) -> Result<Endpoint, String> {
    let tls = raw.tls_config.clone().unwrap_or_default();
    let has_authority = !tls.ca_file.is_empty() || !tls.ca_data.is_empty();
    let insecure = tls.insecure || (raw.enable_https && !has_authority);
    let (mut cluster, mut user) = (json!({"server": server}), json!({}));
    let put = |target: &mut Value, key: &str, text: &str| {
        if !text.is_empty() {
            target[key] = text.into();
        }
    };
    if insecure {
        cluster["insecure-skip-tls-verify"] = true.into();
    } else {
        put(&mut cluster, "certificate-authority", &tls.ca_file);
        put(&mut cluster, "certificate-authority-data", &tls.ca_data);
    }
    put(&mut cluster, "tls-server-name", &tls.server_name);
    put(&mut user, "client-certificate", &tls.cert_file);
    put(&mut user, "client-key", &tls.key_file);
    put(&mut user, "client-certificate-data", &tls.cert_data);
    put(&mut user, "client-key-data", &tls.key_data);
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "c", "user": user}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]});
    Endpoint::parse(&config.to_string(), std::path::Path::new(".")).map_err(|error| error.to_string())
}

/// A field, however it is capitalised: so Go reads JSON.
fn field<'v>(value: &'v Value, name: &str) -> &'v Value {
    let fields = value.as_object();
    let exact = fields.and_then(|f| f.get(name));
    exact.or_else(|| fields?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)).unwrap_or(&Value::Null)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn map(value: &Value) -> BTreeMap<String, String> {
    value.as_object().into_iter().flatten().map(|(name, why)| (name.clone(), text(why).to_owned())).collect()
}
