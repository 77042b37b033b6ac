//! A web server on each node, and what is known of it from outside.

use crate::{Cluster, IMAGE, http, process::Output, words};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Of each node its pod: name, address, and what must stay the same while nobody asks for anything else.
pub type Pods = BTreeMap<String, (String, String, Value)>;

/// One pod a node, and a Service with these fields beside its selector.
#[must_use]
pub fn manifest(service: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: web}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
        spec: {{containers: [{{name: web, image: '{IMAGE}', args: [web], readinessProbe: {{httpGet: {{port: 8080, path: /healthz}}, periodSeconds: 1}}}}]}}\n\
        ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, {service}}}\n"
    )
}

/// The pods that there are.
#[must_use]
pub fn pods(cluster: &Cluster) -> Pods {
    let list = cluster.json("get pods -l app=web");
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let facts = |p: &Value| {
        let container = &p["status"]["containerStatuses"][0];
        let same = json!([p["metadata"]["uid"], container["containerID"], container["restartCount"]]);
        (text(&p["spec"]["nodeName"]), (text(&p["metadata"]["name"]), text(&p["status"]["podIP"]), same))
    };
    list["items"].as_array().expect("pods").iter().map(facts).collect()
}

/// Tries, until each node's proxy and DNS know what the API told a moment before; who is not reached is not at the last.
const TRIES: usize = 4;

/// Each pod reaches every pod, and these others.
pub fn reach(cluster: &Cluster, pods: &Pods, others: &[String]) {
    reach_by(TRIES, cluster, pods, others);
}

/// The same where nothing was told for a while, and nobody is to have noticed what happened to others: not one request is lost.
pub fn still_reach(cluster: &Cluster, pods: &Pods, others: &[String]) {
    reach_by(1, cluster, pods, others);
}

fn reach_by(tries: usize, cluster: &Cluster, pods: &Pods, others: &[String]) {
    let own = pods.values().map(|(_, ip, _)| http::at(ip, 8080));
    let urls: Vec<String> = own.chain(others.iter().cloned()).map(|at| format!("--url=http://{at}/whoami")).collect();
    for (pod, ..) in pods.values() {
        let mut all = words("exec");
        all.extend([pod.as_str(), "--", "/knarr", "demo", "load", "--strict", "--quiet", "--rate=100", "--seconds=0.3", "--connections=new"]);
        all.extend(urls.iter().map(String::as_str));
        let reached = (1..tries).map(|_| cluster.try_kubectl(&all)).find(Output::ok);
        reached.unwrap_or_else(|| cluster.try_kubectl(&all)).assert_ok();
    }
}
