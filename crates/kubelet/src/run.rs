//! The start of a kubelet, in order, and its loop.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::SharedApi;
use crate::cgroups::Cgroups;
use crate::config::{Config, Error};
use crate::cri::{SharedNet, SharedRuntime};
use crate::images::Images;
use crate::pod::Context;
use crate::pod::manager::{Manager, Pods};
use crate::volumes::watches::Watches;
use crate::{evict, gc, logs, node, server, util, volumes};

/// Renewals of the lease between two looks at the disk for images that can go (5 minutes).
const IMAGE_GC_TICKS: u32 = 30;

/// What the API tells of this node's pods.
#[derive(Clone, Debug)]
pub enum PodChange {
    /// New or changed.
    Applied(Arc<Pod>),
    /// Gone.
    Removed(Arc<Pod>),
    /// All that exist now were told.
    Synced,
}

/// Runs a kubelet on the built-in runtime and network until `shutdown`. Containers go on running afterwards.
pub async fn run(
    config: Config,
    client: client::Client,
    informers: client::Informers,
    runtime: runtime::Runtime,
    network: network::pod::PodNetwork,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let changes = crate::real::pod_changes(&informers, &config.node_name, shutdown.clone());
    let api: SharedApi = Arc::new(crate::real::RealApi::new(client.user_agent("kubelet"), informers, &config.node_name));
    let runtime: SharedRuntime = Arc::new(crate::real::RealRuntime::new(runtime));
    run_with(config, api, runtime, Arc::new(crate::real::RealNet::new(network)), changes, shutdown).await
}

/// The same on any API, runtime and network.
pub async fn run_with(
    config: Config,
    api: SharedApi,
    runtime: SharedRuntime,
    net: SharedNet,
    mut changes: mpsc::UnboundedReceiver<PodChange>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    for dir in [config.root_dir.join("pods"), config.pod_logs_dir.clone()] {
        fs::create_dir_all(&dir).map_err(|source| Error::Directory { path: dir, source })?;
    }
    volumes::prepare_memory(&config.root_dir).map_err(|source| Error::Directory { path: config.root_dir.join("memory"), source })?;
    let live = runtime.sandboxes().into_iter().filter(|s| s.ready).map(|s| s.id).collect();
    if let Err(e) = net.adopt(&live).await {
        tracing::warn!(error = %e, "addresses of former pods not freed");
    }
    let pods = Pods::default();
    let (stale, beside) = (pods.clone(), pods.clone());
    let scheme = runtime.version().split("://").next().unwrap_or("knarr").to_owned();
    let cx = Arc::new(Context {
        watches: Watches::new(Arc::clone(&api), Arc::new(move |uid| stale.stale(uid))),
        images: Images::new(&config.root_dir),
        cgroups: Cgroups::new("/sys/fs/cgroup", &config.cgroup_root),
        machine: node::machine(&config),
        scheme,
        started: config.clock.now(),
        others: Box::new(move |uid| beside.others(uid)),
        node_labels: parking_lot::RwLock::new(node::labels(&config)),
        api,
        runtime: Arc::clone(&runtime),
        net,
        config,
    });
    let stop = shutdown.child_token();
    let _stop_all = stop.clone().drop_guard();
    let mut events = runtime.events();
    let served = server::spawn(Arc::clone(&cx), pods.clone(), stop.clone()).await?;
    let registered = spawn_node(&cx, pods.clone(), &stop);
    let mut manager = Manager::new(Arc::clone(&cx), pods.clone(), stop.clone());
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(PodChange::Applied(pod)) => manager.apply(pod).await,
                Some(PodChange::Removed(pod)) => manager.remove(&pod),
                Some(PodChange::Synced) => synced(&cx, &pods, &mut manager).await,
                None => break,
            },
            event = events.recv() => match event {
                Ok(e) => manager.runtime_event(&e),
                Err(broadcast::error::RecvError::Lagged(_)) => manager.wake_all(),
                Err(broadcast::error::RecvError::Closed) => break,
            },
            () = manager.reap() => {}
            () = shutdown.cancelled() => break,
        }
    }
    stop.cancel();
    manager.drain().await;
    drop(registered);
    if let Some(server) = served {
        let _ = server.await;
    }
    Ok(())
}

fn spawn_node(cx: &Arc<Context>, pods: Pods, stop: &CancellationToken) -> watch::Receiver<bool> {
    let (sender, registered) = watch::channel(false);
    let housekeeping = Arc::clone(cx);
    let mut ticks = 0_u32;
    let tick = move || {
        tokio::spawn(logs::rotate::rotate_all(Arc::clone(&housekeeping.runtime)));
        tokio::spawn(evict::check(Arc::clone(&housekeeping), pods.clone()));
        ticks += 1;
        if ticks.is_multiple_of(IMAGE_GC_TICKS) {
            tokio::spawn(gc::images(Arc::clone(&housekeeping)));
        }
    };
    tokio::spawn(node::run(Arc::clone(cx), stop.clone(), sender, tick));
    registered
}

/// All pods of this node are known now: what else is on the host belongs to nobody.
async fn synced(cx: &Arc<Context>, pods: &Pods, manager: &mut Manager) {
    manager.end_orphans().await;
    let known: HashSet<String> = pods.all().iter().map(|h| util::uid(&h.pod()).to_owned()).collect();
    let cx = Arc::clone(cx);
    tokio::task::spawn_blocking(move || gc::orphaned_dirs(&cx, &known));
}
