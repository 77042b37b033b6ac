//! The last words of a start: the address to open and three things to try.

use crate::{
    cluster::Plan,
    manifest::{self, Object},
};
use client::Client;
use machinery::Value;
use std::net::SocketAddr;

/// The Services of the manifests as they are now, with their ports.
pub async fn services(admin: &Client, objects: &[Object]) -> Vec<Value> {
    let mut found = Vec::new();
    for object in objects.iter().filter(|o| o.value["kind"] == "Service") {
        found.extend(manifest::read_now(admin, object).await);
    }
    found
}

/// The address to open and three things to try.
pub fn text(plan: &Plan, objects: &[Object], services: &[Value], detached: bool) -> String {
    let mut text = String::from("\n");
    let ports = services.iter().filter_map(|s| u16::try_from(s["spec"]["ports"][0]["nodePort"].as_u64()?).ok());
    for port in ports {
        text.push_str(&format!("Open http://{}/\n\n", SocketAddr::new(plan.node_ip(), port)));
    }
    let deployment = objects.iter().find(|o| o.value["kind"] == "Deployment");
    let context = format!("kubectl --context {}", plan.name);
    let tries = match deployment.map(|d| &d.value) {
        Some(deployment) => {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let namespace = deployment["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
            let name = text(&deployment["metadata"]["name"]);
            let container = &deployment["spec"]["template"]["spec"]["containers"][0];
            let image = text(&container["image"]);
            let next = if image.ends_with(":v1") {
                format!("set image deployment/{name} {}={}", text(&container["name"]), image.replace(":v1", ":v2"))
            } else {
                format!("rollout restart deployment/{name}")
            };
            [
                format!("{context} -n {namespace} get pods -o wide"),
                format!("{context} -n {namespace} {next} && {context} -n {namespace} rollout status deployment/{name}"),
                format!("{context} -n {namespace} logs -f deployment/{name}"),
            ]
        }
        None => {
            [format!("{context} get nodes -o wide"), format!("{context} get pods -A"), format!("{context} create deployment web --image knarr.local/shop:v1")]
        }
    };
    text.push_str("Try:\n");
    for line in tries {
        text.push_str(&format!("  {line}\n"));
    }
    let name = if plan.name == "knarr" { String::new() } else { format!(" --name {}", plan.name) };
    let end = if detached { "" } else { "Ctrl-C stops the cluster. " };
    text.push_str(&format!("\n{end}`knarr down{name}` removes it from this machine.\n"));
    text
}
