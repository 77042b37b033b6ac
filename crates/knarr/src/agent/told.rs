//! By whom a node is told what it must know of its cluster ([`settings`]):
//!
//! 1. the ConfigMap `kube-system/knarr-node`, which knarr's control plane publishes, and any administrator of another cluster may
//!    ([`super::manifest`]);
//! 2. else what kubeadm keeps for its own `join` (ConfigMaps `kubeadm-config` and `kubelet-config`), which it lets every node read;
//! 3. else flags alone. They come before the others, too.
//!
//! Where it is not the first, the cluster is not made for nodes of knarr's. Then kube-proxy, DNS and the way between machines are pods of the
//! cluster's, as on its other nodes, and nothing is read but what the original's kubelet reads.

use super::settings::Data;
use crate::node_rights::{NAME, NAMESPACE};
use anyhow::Context as _;
use client::Client;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_yaml_ng::Value;

/// kubeadm's own configuration, and the kubelets' of its clusters: each is one text below one key.
const KUBEADM: (&str, &str) = ("kubeadm-config", "ClusterConfiguration");
const KUBELET: (&str, &str) = ("kubelet-config", "kubelet");
/// The Services' range where kubeadm was told none.
const KUBEADM_SERVICES: &str = "10.96.0.0/12";

/// What the cluster tells nodes of knarr's alone.
pub async fn of_knarr(client: &Client) -> client::Result<Option<Data>> {
    map(client, NAME).await
}

/// What the cluster tells; none: nothing.
pub async fn told(client: &Client) -> anyhow::Result<Option<Data>> {
    if let Some(data) = of_knarr(client).await? {
        return Ok(Some(data));
    }
    let text = async |(name, key): (&str, &str)| Ok::<_, client::Error>(map(client, name).await?.and_then(|mut data| data.remove(key)));
    let Some(cluster) = text(KUBEADM).await? else { return Ok(None) };
    kubeadm(&cluster, text(KUBELET).await?.as_deref()).map(Some)
}

/// What flags are put over where the cluster tells nothing.
pub fn nothing() -> Data {
    not_of_knarr("flags", [("clusterDNS", String::new()), ("serverTLSBootstrap", "false".to_owned())])
}

/// The data of a ConfigMap. One that a node may not read is not there for it.
async fn map(client: &Client, name: &str) -> client::Result<Option<Data>> {
    match client.namespaced::<ConfigMap>(NAMESPACE).get_opt(name).await {
        Err(error) if error.is_forbidden() => Ok(None),
        answer => Ok(answer?.map(|map| map.data.unwrap_or_default().into_iter().collect())),
    }
}

fn not_of_knarr<const N: usize>(from: &str, told: [(&str, String); N]) -> Data {
    let usual = [("from", from), ("podNetwork", "none"), ("disabled", "proxy,dns")];
    usual.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).chain(told.map(|(key, value)| (key.to_owned(), value))).collect()
}

/// What a ClusterConfiguration and a KubeletConfiguration say.
fn kubeadm(cluster: &str, kubelet: Option<&str>) -> anyhow::Result<Data> {
    let read = |(name, key): (&str, &str), text: &str| serde_yaml_ng::from_str::<Value>(text).with_context(|| format!("{key} in {NAMESPACE}/{name}"));
    let cluster = read(KUBEADM, cluster)?;
    let kubelet = kubelet.map(|text| read(KUBELET, text)).transpose()?.unwrap_or_default();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let networking = |key: &str| text(cluster.get("networking").and_then(|networking| networking.get(key)));
    let mut data = not_of_knarr(
        "kubeadm",
        [
            ("serviceCIDR", networking("serviceSubnet").unwrap_or_else(|| KUBEADM_SERVICES.to_owned())),
            ("serverTLSBootstrap", kubelet.get("serverTLSBootstrap").and_then(Value::as_bool).unwrap_or_default().to_string()),
        ],
    );
    let dns = kubelet.get("clusterDNS").and_then(Value::as_sequence).map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
    let told =
        [("clusterCIDR", networking("podSubnet")), ("clusterDNS", dns), ("clusterDomain", text(kubelet.get("clusterDomain")).or(networking("dnsDomain")))];
    data.extend(told.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::{super::settings::Settings, *};
    use crate::{cli::Component, cluster_flags::ClusterFlags};
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use network::mesh::Kind;
    use serde_json::json;
    use std::sync::Arc;

    const CLUSTER: &str = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n  dnsDomain: example.com\n  podSubnet: 10.244.0.0/16\n  serviceSubnet: 10.96.0.0/12\n";
    const KUBELETS: &str = "kind: KubeletConfiguration\nclusterDNS:\n- 10.96.0.53\nclusterDomain: example.com\nserverTLSBootstrap: true\n";

    /// An API server that has these ConfigMaps, each with one text, and lets nobody read others.
    fn server(maps: &'static [(&'static str, &'static str, &'static str)]) -> Client {
        Client::new(Arc::new(move |request: http::Request<Bytes>| -> futures_util::future::BoxFuture<'static, client::Result<http::Response<client::Body>>> {
            let asked = request.uri().path().to_owned();
            let found = maps.iter().find(|(name, ..)| asked.ends_with(&format!("/configmaps/{name}")));
            let (code, answer) = match found {
                Some((name, key, text)) => (200, json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {*key: text}})),
                None => (403, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403})),
            };
            let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
            let answer = http::Response::builder().status(code).header("content-type", "application/json").body(body).unwrap();
            Box::pin(async move { Ok(answer) })
        }))
    }

    #[tokio::test]
    async fn a_cluster_of_kubeadm_is_read_as_kubeadm_does_and_brings_its_own_parts() {
        let data = told(&server(&[("kubeadm-config", "ClusterConfiguration", CLUSTER), ("kubelet-config", "kubelet", KUBELETS)])).await.unwrap().unwrap();
        let settings = Settings::read(&data).unwrap();
        assert_eq!((settings.pods[0].to_string(), settings.services[0].to_string()), ("10.244.0.0/16".into(), "10.96.0.0/12".into()));
        assert_eq!((settings.dns, settings.domain), (vec!["10.96.0.53".parse().unwrap()], "example.com".to_owned()));
        assert_eq!((settings.kind, settings.disabled), (Kind::None, vec![Component::Proxy, Component::Dns]));
        assert!(settings.is_signed_for && !settings.reads_all);

        // What kubelets do by themselves, where nothing else is told.
        let data = told(&server(&[("kubeadm-config", "ClusterConfiguration", "networking: {podSubnet: 10.1.0.0/16}")])).await.unwrap().unwrap();
        let settings = Settings::read(&data).unwrap();
        assert_eq!((settings.dns, settings.domain.as_str()), (vec!["10.96.0.10".parse().unwrap()], "cluster.local"));
        assert!(!settings.is_signed_for);
        let data = told(&server(&[("kubeadm-config", "ClusterConfiguration", "{}")])).await.unwrap().unwrap();
        assert!(Settings::read(&data).unwrap_err().to_string().contains("clusterCIDR"), "a network without ranges of nodes");
        assert!(told(&server(&[("kubeadm-config", "ClusterConfiguration", "{")])).await.is_err());
    }

    #[tokio::test]
    async fn what_is_meant_for_nodes_of_knarr_comes_first_and_flags_say_what_nobody_does() {
        let both = server(&[("knarr-node", "clusterCIDR", "10.9.0.0/16"), ("kubeadm-config", "ClusterConfiguration", CLUSTER)]);
        assert_eq!(told(&both).await.unwrap().unwrap(), Data::from([("clusterCIDR".to_owned(), "10.9.0.0/16".to_owned())]));
        assert_eq!(told(&server(&[])).await.unwrap(), None);
        let range = |text: &str| vec![text.parse().unwrap()];
        let flags = ClusterFlags { cluster_cidr: range("10.1.0.0/16"), service_cidr: range("10.2.0.0/16"), ..ClusterFlags::default() };
        let settings = Settings::read(&flags.over(&nothing())).unwrap();
        assert!(settings.dns.is_empty() && !settings.is_signed_for && !settings.reads_all);
        assert!(Settings::read(&nothing()).is_err());
    }
}
