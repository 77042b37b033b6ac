//! The start of a kubelet, in order, and its loop.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::api::{PodChange, SharedApi};
use crate::cgroups::Cgroups;
use crate::config::{Config, Error};
use crate::counted::Counted;
use crate::counts::Counts;
use crate::cri::{PodUid, RuntimeEvent, SharedNet, SharedRuntime};
use crate::devices::Devices;
use crate::images::providers::Providers;
use crate::images::{Images, collect};
use crate::machine::Machine;
use crate::pod::Context;
use crate::pod::manager::{Manager, Pods};
use crate::statics::mirrors::Mirrors;
use crate::statics::{is_mirror, of_the_api, source};
use crate::volumes::persistent::Persistent;
use crate::volumes::watches::Watches;
use crate::{evict, gc, graceful, logs, node, pod_resources, pods_api, reserve, server, util, volumes};

/// How often logs are looked at (upstream's `containerLogMonitorInterval`).
const LOOK: Duration = Duration::from_secs(10);
/// How often what belongs to nobody is looked for (upstream's collectors: a minute).
const ORPHANS: Duration = Duration::from_secs(60);
/// First wait before plugins are followed anew.
const REGISTRY_RETRY: Duration = Duration::from_secs(1);
/// How often images that can go are looked for.
const IMAGE_GC: Duration = Duration::from_secs(300);

/// Runs a kubelet on the built-in runtime and network until `shutdown`. Containers go on running afterwards.
pub async fn run(
    config: Config,
    client: client::Client,
    informers: client::Informers,
    runtime: runtime::Runtime,
    network: network::pod::PodNetwork,
    drivers: volume::Drivers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let changes = crate::real::pod_changes(&informers, &config.node_name, shutdown.clone());
    let server = config.api_service.map(|address| address.to_string()).unwrap_or_default();
    let client = client.user_agent("kubelet").counted(&client::RequestMetrics::new(&config.metrics, &server));
    let api: SharedApi = Arc::new(crate::real::RealApi::new(client, informers, &config.node_name));
    let runtime: SharedRuntime = Arc::new(crate::real::RealRuntime::new(runtime));
    let root = config.root_dir.clone();
    if let Err(error) = util::blocking(move || volumes::persistent::share(&root)).await {
        tracing::warn!(%error, "what drivers of volumes mount in their containers is not seen");
    }
    run_with(config, api, runtime, Arc::new(crate::real::RealNet::new(network)), drivers, changes, shutdown).await
}

/// The same on any API, runtime and network.
pub async fn run_with(
    config: Config,
    api: SharedApi,
    runtime: SharedRuntime,
    net: SharedNet,
    drivers: volume::Drivers,
    changes: mpsc::UnboundedReceiver<PodChange>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let stop = shutdown.child_token();
    let _stop_all = stop.clone().drop_guard();
    let pods = Pods::default();
    let cx = context(config, api, runtime, net, drivers, &pods, &stop).await?;
    reserve::check(&cx.config.settings, &cx.machine.capacity()).map_err(Error::Settings)?;
    let own = Arc::clone(&cx);
    util::blocking(move || reserve::limit_others(&own)).await.map_err(Error::Settings)?;
    let limiting = tokio::spawn(reserve::limit_pods(Arc::clone(&cx), stop.clone()));
    let events = cx.runtime.events();
    let keeper = Arc::new(node::csi::CsiNode::new(Arc::clone(&cx.api), &cx.config.node_name));
    let resources = pod_resources::listen(&cx.config.root_dir).map_err(|source| Error::Directory { path: cx.config.root_dir.join("pod-resources"), source })?;
    tokio::spawn(pod_resources::serve(resources, Arc::clone(&cx), pods.clone(), stop.clone()));
    let served = server::spawn(Arc::clone(&cx), pods.clone(), stop.clone()).await?;
    let (sender, registered) = watch::channel(false);
    tokio::spawn(node::run(Arc::clone(&cx), stop.clone(), sender));
    tokio::spawn(node::csi::run(Arc::clone(&keeper), cx.persistent.drivers().clone(), registered.clone(), stop.clone()));
    plugins(&cx, keeper, &stop);
    keep_house(&cx, &pods, &stop);
    tokio::spawn(graceful::keep(Arc::clone(&cx), pods.clone(), stop.clone()));
    let mut manager = Manager::new(Arc::clone(&cx), pods.clone(), stop.clone());
    let statics = cx.config.settings.static_pods.clone().map(|path| source::follow(path, &cx.config.node_name, stop.clone()));
    let mirrors = Arc::new(Mirrors::new(Arc::clone(&cx), pods.clone()));
    tokio::spawn(Arc::clone(&mirrors).keep(registered.clone(), cx.all_known.subscribe(), stop.clone()));
    lead(&cx, &pods, &mut manager, &mirrors, News { changes, events, statics }, &shutdown).await;
    stop.cancel();
    manager.drain().await;
    // Else it could make the pods' cgroup after it was removed.
    let _ = limiting.await;
    drop(registered);
    if let Some(server) = served {
        let _ = server.await;
    }
    Ok(())
}

/// Readies what must be there before there are pods, and takes over what a former process left: directories, addresses, images.
async fn prepare(config: &Config, runtime: &SharedRuntime, net: &SharedNet) -> Result<(), Error> {
    // Root's alone: below are Secrets, tokens and logs. Pods see what is bound into them, wherever it lies.
    for dir in [config.root_dir.clone(), config.root_dir.join("pods"), config.pod_logs_dir.clone()] {
        util::private_dir(&dir).map_err(|source| Error::Directory { path: dir, source })?;
    }
    volumes::prepare_memory(&config.root_dir).map_err(|source| Error::Directory { path: config.root_dir.join("memory"), source })?;
    let live = runtime.sandboxes().into_iter().filter(|s| s.ready).map(|s| s.id).collect();
    if let Err(e) = net.adopt(&live).await {
        tracing::warn!(error = %e, "addresses of former pods not freed");
    }
    let (root, store) = (config.root_dir.clone(), Arc::clone(runtime));
    if let Err(error) = util::blocking(move || crate::images::pulled::adopt(&root, &store)).await {
        tracing::warn!(%error, "images of a former version are for nobody without a login until the next start");
    }
    Ok(())
}

/// What all workers share, on a host that is ready for it.
async fn context(
    config: Config,
    api: SharedApi,
    runtime: SharedRuntime,
    net: SharedNet,
    drivers: volume::Drivers,
    pods: &Pods,
    stop: &CancellationToken,
) -> Result<Arc<Context>, Error> {
    let counts = Counts::new(&config.metrics);
    let runtime: SharedRuntime = Arc::new(Counted::new(runtime, counts.clone()));
    prepare(&config, &runtime, &net).await?;
    let looks = volumes::looks::Looks::default();
    let persistent = Persistent::new(&config.root_dir, &config.node_name, Arc::clone(&api), drivers, looks.clone(), counts.clone(), stop.clone());
    let devices = {
        let (root, node, api, stop, pods) = (config.root_dir.clone(), config.node_name.clone(), Arc::clone(&api), stop.clone(), pods.clone());
        let wake = move |uid: &PodUid| pods.get(uid).into_iter().for_each(|pod| pod.wake());
        let place = root.clone();
        let read = util::blocking(move || Devices::new(&root, &node, api, Arc::new(wake), stop)).await;
        read.map_err(|source| Error::Directory { path: place, source })?
    };
    let adopting = persistent.clone();
    util::blocking(move || adopting.adopt()).await;
    let (stale, beside) = (pods.clone(), pods.clone());
    let scheme = runtime.version().split("://").next().unwrap_or("knarr").to_owned();
    Ok(Arc::new(Context {
        watches: Watches::new(Arc::clone(&api), Arc::new(move |uid| stale.stale(uid))),
        images: Images::new(Arc::clone(&api), Arc::clone(&runtime), Providers::new(&config.settings.providers, &counts).with_files_in(&config.root_dir)),
        cgroups: Cgroups::new("/sys/fs/cgroup", &config.cgroup_root).counted(counts.clone()),
        machine: Machine::this(&config),
        scheme,
        started: config.clock.now(),
        others: Box::new(move |uid| beside.others(uid)),
        node: parking_lot::RwLock::default(),
        judging: parking_lot::Mutex::default(),
        all_known: watch::Sender::new(false),
        pressure: crate::shortage::Pressure::new(config.settings.eviction.transition),
        ending: graceful::Ending::new(&config.root_dir),
        probed: crate::probes::counts::Counts::default(),
        counts,
        pod_resources: pod_resources::Counts::default(),
        looks,
        persistent,
        devices,
        walks: crate::walks::Walks::default(),
        api,
        runtime,
        net,
        config,
    }))
}

/// What a kubelet is told.
struct News {
    /// By the API, of this node's pods.
    changes: mpsc::UnboundedReceiver<PodChange>,
    /// By the runtime.
    events: broadcast::Receiver<RuntimeEvent>,
    /// By the files of static pods, where there may be any.
    statics: Option<mpsc::UnboundedReceiver<Vec<Arc<Pod>>>>,
}

/// Leads the pods by what is told, until the kubelet is to stop or nobody tells anything any more.
async fn lead(cx: &Arc<Context>, pods: &Pods, manager: &mut Manager, mirrors: &Arc<Mirrors>, news: News, shutdown: &CancellationToken) {
    let News { mut changes, mut events, mut statics } = news;
    let (mut synced, mut read) = (false, statics.is_none());
    let mut sweep = tokio::time::interval_at(Instant::now() + util::jittered(ORPHANS), ORPHANS);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeping = None;
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(PodChange::Applied(pod)) if is_mirror(&pod) => mirrors.apply(pod),
                Some(PodChange::Applied(pod)) => manager.apply(of_the_api(pod)),
                Some(PodChange::Removed(pod)) if is_mirror(&pod) => mirrors.remove(&pod),
                Some(PodChange::Removed(pod)) => manager.remove(&of_the_api(pod)),
                Some(PodChange::Synced) => synced = true,
                None => return,
            },
            set = next_set(&mut statics) => {
                manager.set_statics(&set);
                mirrors.changed(manager.waiting_statics());
                read = true;
            }
            event = events.recv() => match event {
                Ok(e) => manager.runtime_event(&e),
                Err(broadcast::error::RecvError::Lagged(_)) => manager.wake_all(),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            _ = sweep.tick(), if *cx.all_known.borrow() => {
                manager.end_orphans();
                if sweeping.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                    let (cx, pods, held) = (Arc::clone(cx), pods.clone(), manager.held());
                    sweeping = Some(tokio::spawn(async move {
                        gc::orphaned_dirs(Arc::clone(&cx), pods, held).await;
                        cx.persistent.sweep().await;
                    }));
                }
            }
            () = manager.next() => mirrors.changed(manager.waiting_statics()),
            () = shutdown.cancelled() => return,
        }
        if synced && read && !*cx.all_known.borrow() {
            // All pods of this node are known now: what else is on the host belongs to nobody.
            cx.all_known.send_replace(true);
            manager.wake_all();
            sweep.reset_immediately();
        }
    }
}

/// What the files of static pods say when they say something else; pends where there are none.
async fn next_set(statics: &mut Option<mpsc::UnboundedReceiver<Vec<Arc<Pod>>>>) -> Vec<Arc<Pod>> {
    if let Some(sets) = statics
        && let Some(set) = sets.recv().await
    {
        return set;
    }
    std::future::pending().await
}

/// Follows the plugins that register at this kubelet.
fn plugins(cx: &Arc<Context>, keeper: Arc<node::csi::CsiNode>, stop: &CancellationToken) {
    let (root, drivers, devices, stop) = (cx.config.root_dir.clone(), cx.persistent.drivers().clone(), cx.devices.plugins(), stop.clone());
    tokio::spawn(async move {
        let mut pause = REGISTRY_RETRY;
        while let Err(error) = volume::Registry::new(&root, drivers.clone(), keeper.clone()).with_devices(devices.clone()).run(stop.clone()).await {
            tracing::warn!(%error, "plugins are not followed; will be tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(ORPHANS),
                () = stop.cancelled() => return,
            }
        }
    });
}

/// The duties of the node that are not a pod's.
fn keep_house(cx: &Arc<Context>, pods: &Pods, stop: &CancellationToken) {
    match pods_api::listen(&cx.config.root_dir) {
        Ok(listener) => drop(tokio::spawn(pods_api::serve(listener, Arc::clone(cx), pods.clone(), stop.clone()))),
        Err(error) => tracing::warn!(%error, "programs of the node are not told of its pods"),
    }
    let runtime = Arc::clone(&cx.runtime);
    let limits = cx.config.settings.logs;
    every(LOOK, stop, move || logs::rotate::rotate_all(Arc::clone(&runtime), limits));
    let (c, p, hurry) = (Arc::clone(cx), pods.clone(), Arc::new(Notify::new()));
    if cx.config.settings.eviction.by_kernel {
        tokio::spawn(evict::notify::tell(Arc::clone(cx), Arc::clone(&hurry), stop.clone()));
    }
    every_or(evict::LOOK, &hurry, stop, move || evict::check(Arc::clone(&c), p.clone()));
    let (c, p) = (Arc::clone(cx), pods.clone());
    every(IMAGE_GC, stop, move || collect::collect(Arc::clone(&c), p.clone()));
}

fn every<F: Future<Output = ()> + Send + 'static>(period: Duration, stop: &CancellationToken, work: impl FnMut() -> F + Send + 'static) {
    every_or(period, &Arc::default(), stop, work);
}

/// Does something again and again, also when there is a hurry, never twice at the same time, until the kubelet stops. What panics is done
/// again.
fn every_or<F: Future<Output = ()> + Send + 'static>(
    period: Duration,
    hurry: &Arc<Notify>,
    stop: &CancellationToken,
    mut work: impl FnMut() -> F + Send + 'static,
) {
    let (hurry, stop) = (Arc::clone(hurry), stop.clone());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = hurry.notified() => {}
                () = stop.cancelled() => return,
            }
            let mut done = tokio::spawn(work());
            tokio::select! {
                ended = &mut done => if let Err(e) = ended {
                    tracing::error!(error = %e, "a duty of the node failed");
                },
                () = stop.cancelled() => return done.abort(),
            }
        }
    });
}
