//! The Service `kube-system/kube-dns`, by which pods find this server, and this node's EndpointSlice of it.
//!
//! The Service has no selector, since no pod serves it: the slice says the truth, the node's address and port. A Service of that
//! name with a selector is somebody else's name server and is left alone: the slice has no endpoint then, or half of all questions would
//! be answered here, by another configuration than the one that was meant.
//!
//! Both are compared with what they should be whenever somebody changes or deletes them, with a growing pause where somebody
//! does so again and again.

use std::net::IpAddr;
use std::time::Duration;

use client::{Api, Client, DeleteParams, Error, Informers, Meta, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Config, PORT};
use crate::nft::Family;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGED_BY: &str = "knarr-dns";
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Makes both and keeps them so; `made` is told of the first time.
pub(super) async fn keep(client: &Client, config: &Config, port: u16, informers: &Informers, made: impl FnOnce()) {
    let mut services = informers.informer::<Service>().subscribe();
    let mut slices = informers.informer::<EndpointSlice>().subscribe();
    let slice = slice_name(&config.node_name);
    let mut made = Some(made);
    let (mut pause, mut since) = (BACKOFF_MIN, Instant::now());
    loop {
        match ensure(client, config, port).await {
            Ok(()) => {
                if let Some(made) = made.take() {
                    made();
                }
                // Whoever has let them be for a while gets a quick answer again.
                if since.elapsed() > BACKOFF_MAX {
                    pause = BACKOFF_MIN;
                }
                let changed = async {
                    loop {
                        let ours = tokio::select! {
                            delta = services.recv() => delta.map(|d| is(&**d.object(), NAME)),
                            delta = slices.recv() => delta.map(|d| is(&**d.object(), &slice)),
                        };
                        match ours {
                            Some(true) => return,
                            Some(false) => {}
                            // The informers have ended, and with them the cluster's DNS.
                            None => std::future::pending().await,
                        }
                    }
                };
                changed.await;
                since = Instant::now();
            }
            // The namespace or the server itself may not be there yet.
            Err(error) => tracing::debug!(%error, "the Service of the name server cannot be made yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

fn is(object: &impl Meta, name: &str) -> bool {
    object.namespace() == NAMESPACE && object.name() == name
}

fn slice_name(node: &str) -> String {
    format!("{NAME}-{node}")
}

/// Whether this is the Service of the cluster's DNS and selects pods, which are somebody else's name server.
pub fn is_anothers(service: &Service) -> bool {
    is(service, NAME) && service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

/// Takes back where a node's DNS answers: it does not run any more, and the Service may lead to somebody else's now.
///
/// # Errors
/// The API refused it.
pub async fn withdraw(client: &Client, node: &str) -> Result<()> {
    let slices: Api<EndpointSlice> = client.namespaced(NAMESPACE);
    match slices.delete(&slice_name(node), &DeleteParams::default()).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    client::typed(&value).map_err(|e| Error::Decode(e.to_string()))
}

async fn ensure(client: &Client, config: &Config, port: u16) -> Result<()> {
    let services: Api<Service> = client.namespaced(NAMESPACE);
    let service = match services.get_opt(NAME).await? {
        Some(service) => service,
        None => match services.create(&typed(service(config.cluster_ip))?).await {
            Err(e) if e.is_already_exists() => services.get(NAME).await?,
            other => other?,
        },
    };
    if is_anothers(&service) {
        tracing::info!("{NAMESPACE}/{NAME} selects pods: another name server serves the cluster");
        return step_back(client, config).await;
    }
    let spec = service.spec.clone().unwrap_or_default();
    if spec.cluster_ip.as_deref() != Some(&config.cluster_ip.to_string()) {
        tracing::warn!(has = spec.cluster_ip, wanted = %config.cluster_ip, "{NAMESPACE}/{NAME} has another address than pods are told");
    }
    let slices: Api<EndpointSlice> = client.namespaced(NAMESPACE);
    let mut wanted: EndpointSlice = typed(slice(config, port, service.uid()))?;
    let name = wanted.name().to_owned();
    match slices.get_opt(&name).await? {
        None => match slices.create(&wanted).await {
            Err(e) if e.is_already_exists() => Err(e),
            other => other.map(drop),
        },
        Some(live) if live.endpoints == wanted.endpoints && live.ports == wanted.ports => Ok(()),
        Some(live) if live.address_type != wanted.address_type => Err(Error::Config(format!("EndpointSlice {name} is not of {}", wanted.address_type))),
        Some(live) => {
            wanted.metadata.resource_version = live.metadata.resource_version;
            slices.replace(&name, &wanted).await.map(drop)
        }
    }
}

/// Takes this node's endpoint out of its slice.
async fn step_back(client: &Client, config: &Config) -> Result<()> {
    let slices: Api<EndpointSlice> = client.namespaced(NAMESPACE);
    let name = slice_name(&config.node_name);
    match slices.get_opt(&name).await? {
        Some(mut live) if live.endpoints.as_ref().is_some_and(|all| !all.is_empty()) => {
            live.endpoints = Some(Vec::new());
            slices.replace(&name, &live).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// The Service as it is made where there is none.
pub fn service(cluster_ip: IpAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"k8s-app": NAME, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": cluster_ip.to_string(),
            "ports": [
                {"name": "dns", "port": PORT, "protocol": "UDP", "targetPort": PORT},
                {"name": "dns-tcp", "port": PORT, "protocol": "TCP", "targetPort": PORT},
            ],
        },
    })
}

fn slice(config: &Config, port: u16, owner: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(&config.node_name),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": MANAGED_BY, "k8s-app": NAME},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": NAME, "uid": owner, "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": Family::of(config.listen).name(),
        "endpoints": [{
            "addresses": [config.listen.to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": config.node_name,
            // Each node asks its own, as long as it has one.
            "hints": {"forNodes": [{"name": config.node_name}]},
        }],
        "ports": [
            {"name": "dns", "port": port, "protocol": "UDP"},
            {"name": "dns-tcp", "port": port, "protocol": "TCP"},
        ],
    })
}
