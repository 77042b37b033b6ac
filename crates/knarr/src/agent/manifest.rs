//! `knarr agent --print-manifest`: what a cluster whose control plane is not knarr's must have so that its nodes of knarr's have their own
//! service proxy and their own way to other nodes. Without it they join, too, and leave both to pods of the cluster's ([`super::told`]).

use super::settings::Settings;
use crate::{
    cli::{Agent, Component},
    node_rights::{NAME, NAMESPACE, RIGHTS},
};
use anyhow::Context as _;
use serde_json::json;

/// The manifest for this very command.
pub fn text(command: &Agent) -> anyhow::Result<String> {
    let usual = [("podNetwork", "none"), ("serverTLSBootstrap", "false")];
    let mut data = command.cluster.over(&usual.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    // The cluster's DNS is pods of its own: its Service has a selector.
    let disabled = if command.disable.contains(&Component::Proxy) { "proxy,dns" } else { "dns" };
    data.insert("disabled".to_owned(), disabled.to_owned());
    Settings::read(&data)
        .context("what it would say of the cluster (kube-controller-manager's --cluster-cidr and --service-cluster-ip-range have its ranges)")?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data});
    Ok(format!(
        "# For nodes of knarr's in a cluster with another control plane: `kubectl apply -f` this. They follow the ConfigMap; of clusterDNS and others see\n\
         # `knarr agent --help`.\n{RIGHTS}---\n{}",
        serde_yaml_ng::to_string(&map)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Cli, Command},
        manifest,
    };
    use clap::Parser as _;

    fn printed(words: &[&str]) -> anyhow::Result<String> {
        let Command::Agent(agent) = Cli::try_parse_from(["knarr", "agent", "--print-manifest"].iter().chain(words)).unwrap().command else { unreachable!() };
        text(&agent)
    }

    #[test]
    fn what_is_printed_is_what_nodes_read() {
        let text = printed(&["--cluster-cidr=10.244.0.0/16", "--service-cidr=10.96.0.0/12", "--pod-network=routes"]).unwrap();
        let map = manifest::parse(&text).unwrap().pop().unwrap().value;
        let data = serde_json::from_value(map["data"].clone()).unwrap();
        let settings = Settings::read(&data).unwrap();
        assert_eq!((settings.kind.to_string(), settings.disabled), ("routes".to_owned(), vec![Component::Dns]));
        assert!(settings.reads_all && !settings.is_signed_for);
        let why = format!("{:#}", printed(&["--cluster-cidr=10.244.0.0/16"]).unwrap_err());
        assert!(why.contains("serviceCIDR") && why.contains("--service-cidr"), "{why}");
    }
}
