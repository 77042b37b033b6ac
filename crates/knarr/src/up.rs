//! `knarr up`: a cluster on this machine, and manifests on it.

use crate::{
    cli::{Component, Up},
    cluster::{Cluster, Plan},
    detach, image, kubeconfig,
    manifest::{self, Object},
    preflight,
    progress::Steps,
    rollout,
    serve::{self, Running, Setup},
    signals::{self, End},
};
use machinery::Value;
use std::{net::Ipv4Addr, path::Path, time::Duration};

/// Runs until a signal.
pub async fn run(up: Up) -> anyhow::Result<()> {
    let steps = Steps::new();
    let detached = detach::is_child();
    log();
    // What can be refused is refused before anything is made.
    if up.disable.contains(&Component::Kubelet) {
        preflight::root()?
    } else {
        preflight::node()?
    }
    let objects = up.manifests.iter().map(|m| manifest::read(m)).collect::<Result<Vec<_>, _>>()?.concat();
    let kubeconfig = kubeconfig::path(up.which.kubeconfig.as_deref())?;
    let cluster = Cluster::find(&up.which.name, up.which.data_dir.as_deref())?;
    cluster.make_directories()?;
    let _lock = cluster.lock()?;
    let plan = cluster.plan(up.port)?;
    // When it is served a network stands already, and this start's port would be kept for the next.
    drop(preflight::listen(Ipv4Addr::LOCALHOST.into(), plan.port)?);
    cluster.keep(&plan)?;

    let setup = Setup { cluster: &cluster, plan: &plan, up: &up, node_name: host_name() };
    let mut running = serve::start(&setup, &steps).await?;
    let end = tokio::select! {
        told = signals::ended() => Ok(told?),
        error = ready(&setup, &mut running, &objects, &kubeconfig, &steps, detached) => Err(error),
    };
    match end {
        Ok(end) => {
            running.end(end, &steps).await;
            Ok(())
        }
        Err(error) => {
            running.end(End::Terminate, &steps).await;
            Err(error)
        }
    }
}

/// Does what is left to do when the cluster is there, and then waits for a failure.
async fn ready(setup: &Setup<'_>, running: &mut Running, objects: &[Object], kubeconfig: &Path, steps: &Steps, detached: bool) -> anyhow::Error {
    let outcome = async {
        if let Some(runtime) = &running.runtime {
            image::demo(runtime, steps).await?;
        }
        kubeconfig::merge(kubeconfig, &running.kubeconfig)?;
        steps.done(&format!("context {:?} written to {}", setup.cluster.name, kubeconfig.display()));
        if !objects.is_empty() {
            rollout::apply(&running.admin, objects, steps, Duration::from_secs(setup.up.timeout)).await?;
        }
        steps.say(&farewell(setup.plan, objects, &services(running, objects).await, detached));
        if detached { detach::started(&setup.cluster.data.join("knarr.log")) } else { Ok(()) }
    };
    match outcome.await {
        Ok(()) => running.failed().await,
        Err(error) => error,
    }
}

/// The Services of the manifests as they are now, with their ports.
async fn services(running: &Running, objects: &[Object]) -> Vec<Value> {
    let mut found = Vec::new();
    for object in objects.iter().filter(|o| o.value["kind"] == "Service") {
        found.extend(manifest::get(&running.admin, &object.path).await);
    }
    found
}

/// The address to open and three things to try.
fn farewell(plan: &Plan, objects: &[Object], services: &[Value], detached: bool) -> String {
    let mut text = String::from("\n");
    let ports = services.iter().filter_map(|s| s["spec"]["ports"][0]["nodePort"].as_u64());
    for port in ports {
        text.push_str(&format!("Open http://{}:{port}/\n\n", plan.node_ip()));
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

/// The host's name as a node's: lower case, first label kept whole.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// `KNARR_LOG` chooses what is logged, to standard error.
pub fn log() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_env("KNARR_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // The log's own errors go nowhere: on a full disk, telling them would fail too, and by a panic.
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).log_internal_errors(false);
    // Fails only if it was set before.
    let _ = log.try_init();
}
