//! The further nodes of a cluster on this machine, kept as they are wished for (`cluster/nodes.rs`): those that are to be run, those
//! that run already are found again, those that have ended are started again, those that are to go are taken away.
//!
//! A node's process is another's child after a crash of this one, or nobody's. So it is known by the lock that it holds, which the
//! kernel tells, and watched by a handle (pidfd) that is taken before the lock is looked at again: what has its number afterwards is
//! never meant. One that was started by another program than this, or with other options, is ended and started anew; its pods stay.
//!
//! **What holds it.** A wish is heard of from the kernel (inotify), and all are looked at again once a minute, when the nodes' links are
//! put right, too; a start that fails is tried again, later and later; a removal that fails or was interrupted is gone on with.

use crate::{
    cluster::{Cluster, LOG, Plan, Work, nodes::Wish},
    signals::End,
    volumes, worker,
};
use anyhow::{Context as _, bail};
use client::{Client, DeleteParams, ListParams, Meta as _, Patch, PatchParams};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use network::{
    Mark,
    lane::{self, Member},
    worker::{Side, Worker},
};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    future::Future,
    io::ErrorKind,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::unix::pipe, sync::watch, task::JoinSet};

/// Between two looks at everything, for which there is no news.
const LOOK: Duration = Duration::from_secs(60);
/// Before a node that has ended is started again: the second time at once after the first is later.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Who has run for so long was well.
const WELL: Duration = Duration::from_secs(30);
/// For a node that is told to end and to leave its pods.
const PATIENCE: Duration = Duration::from_secs(15);
/// From the start of a node's process to its lock.
const LOCKS: Duration = Duration::from_secs(30);
/// Between two looks whether a started process has its lock; a lock cannot be awaited.
const LOCK_LOOK: Duration = Duration::from_millis(5);
/// How often a process is looked for that has just changed.
const LOOKS: usize = 3;
/// What keeps a volume as long as a claim is bound to it.
const PROTECTED: &str = "kubernetes.io/pv-protection";
/// This program, also after its file was replaced.
const PROGRAM: &str = "/proc/self/exe";

/// What a node is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    /// To end as the cluster does.
    End(End),
    /// To be taken away.
    Leave,
}

/// What all nodes have in common.
struct Common {
    cluster: Cluster,
    plan: Plan,
    /// Options of every node's process.
    options: Vec<OsString>,
    /// Whether they have DNS.
    has_dns: bool,
    admin: Client,
}

impl Common {
    /// A node and the others, as they reach each other.
    fn on_lane(&self, number: u32) -> anyhow::Result<(Member, Vec<Member>)> {
        let member = |number: u32| -> anyhow::Result<Member> {
            let ranges = self.plan.parts(number)?.iter().map(|part| part.pod_cidr).collect();
            Ok(Member { number, space: self.cluster.node(number).space(), ranges })
        };
        let others = self.cluster.wishes()?.into_iter().filter(|wish| wish.number != number && !wish.leaving);
        Ok((member(number)?, others.filter_map(|wish| member(wish.number).ok()).collect()))
    }
}

/// Keeps the nodes while it is not dropped.
pub struct Supervisor {
    order: watch::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
}

impl Supervisor {
    /// Begins to keep the nodes that are wished for.
    pub fn start(cluster: &Cluster, plan: &Plan, (options, has_dns): (Vec<OsString>, bool), admin: Client) -> Supervisor {
        let common = Arc::new(Common { cluster: cluster.clone(), plan: plan.clone(), options, has_dns, admin });
        let (order, orders) = watch::channel(Order::Run);
        Supervisor { order, task: tokio::spawn(oversee(common, orders)) }
    }

    /// Ends all nodes' processes; after an interrupt, their pods first. They are told at once, and waited for by who awaits this.
    pub fn end(self, how: End) -> impl Future<Output = ()> {
        self.order.send_replace(Order::End(how));
        async move { drop(self.task.await) }
    }
}

/// A node that is kept.
struct Kept {
    order: watch::Sender<Order>,
}

async fn oversee(common: Arc<Common>, mut orders: watch::Receiver<Order>) {
    let mut news = News::of(&common.cluster.data).inspect_err(|error| tracing::warn!("changes of nodes are seen once a minute: {error:#}")).ok();
    let mut kept: BTreeMap<u32, Kept> = BTreeMap::new();
    let mut tasks: JoinSet<u32> = JoinSet::new();
    loop {
        let order = *orders.borrow_and_update();
        if let Order::End(_) = order {
            for node in kept.values() {
                node.order.send_replace(order);
            }
            while tasks.join_next().await.is_some() {}
            return;
        }
        match common.cluster.wishes() {
            Ok(wishes) => wishes.into_iter().for_each(|wish| settle(&common, wish, &mut kept, &mut tasks)),
            Err(error) => tracing::warn!("the nodes stay as they are: {error:#}"),
        }
        tokio::select! {
            () = News::some(&mut news) => {}
            _ = orders.changed() => {}
            Some(ended) = tasks.join_next() => drop(ended.map(|number| kept.remove(&number))),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Begins to keep a node, or tells the one that is kept to go.
fn settle(common: &Arc<Common>, wish: Wish, kept: &mut BTreeMap<u32, Kept>, tasks: &mut JoinSet<u32>) {
    let order = if wish.leaving { Order::Leave } else { Order::Run };
    if let Some(node) = kept.get(&wish.number) {
        node.order.send_if_modified(|now| std::mem::replace(now, order) != order);
        return;
    }
    let (sender, orders) = watch::channel(order);
    kept.insert(wish.number, Kept { order: sender });
    let common = Arc::clone(common);
    tasks.spawn(async move {
        let number = wish.number;
        keep(&common, &wish, orders).await;
        number
    });
}

/// How a round of keeping a node has ended.
enum Round {
    /// There is nothing more to keep.
    Done,
    /// There is another order.
    Told,
    /// The process has ended by itself.
    Ended,
}

/// Keeps a node until it is told to end or to leave.
async fn keep(common: &Common, wish: &Wish, mut orders: watch::Receiver<Order>) {
    // Across orders: a child is waited for by who has it.
    let (mut pause, mut process) = (PAUSE_MIN, None);
    loop {
        let order = *orders.borrow_and_update();
        let begun = Instant::now();
        match (run(common, wish, order, &mut process, &mut orders).await, order) {
            (Ok(Round::Done), _) => return,
            (Ok(Round::Told), _) => continue,
            (Ok(Round::Ended), _) => tracing::warn!(node = wish.name, "a node's process has ended; it is started again, its pods run on"),
            (Err(error), Order::End(_)) => return tracing::warn!(node = wish.name, "a node's process is left: {error:#}"),
            (Err(error), _) => tracing::warn!(node = wish.name, "a node is not as it should be; trying again: {error:#}"),
        }
        if begun.elapsed() > WELL {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = orders.changed() => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Does what the order says, as long as it says so.
async fn run(common: &Common, wish: &Wish, order: Order, process: &mut Option<Process>, orders: &mut watch::Receiver<Order>) -> anyhow::Result<Round> {
    let home = common.cluster.node(wish.number);
    if process.is_none() {
        *process = if order == Order::Run { Some(start(common, wish, &home).await?) } else { Process::find(&home)? };
    }
    match order {
        Order::Run => {
            let Some(running) = process else { return Ok(Round::Ended) };
            loop {
                tokio::select! {
                    () = running.ended() => {
                        *process = None;
                        return Ok(Round::Ended);
                    }
                    _ = orders.changed() => return Ok(Round::Told),
                    () = tokio::time::sleep(LOOK) => if let Err(error) = join(common, wish.number, &home).await {
                        tracing::warn!(node = wish.name, "a node's link is not as it should be: {error:#}");
                    }
                }
            }
        }
        Order::End(how) => {
            if let Some(running) = process {
                running.end(how).await?;
            }
            Ok(Round::Done)
        }
        Order::Leave => {
            if let Some(running) = process {
                running.end(End::Terminate).await?;
                *process = None;
            }
            leave(common, wish).await?;
            Ok(Round::Done)
        }
    }
}

/// Takes away a node whose process has ended, and last of all the wish.
async fn leave(common: &Common, wish: &Wish) -> anyhow::Result<()> {
    let disk = volumes::directory(&common.cluster.node(wish.number).data);
    let gone = |outcome: client::Result<()>| match outcome {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    };
    let found = tokio::task::spawn_blocking(move || volume::disk::list(&disk)).await?;
    // Who asked for it was told before.
    let found = found.inspect_err(|error| tracing::warn!(node = wish.name, %error, "volumes go unread, and their PersistentVolumes stay"));
    // Nobody else could: what they stand for is on this node alone. A claim of one is told to be lost.
    for found in found.unwrap_or_default() {
        let (volumes, name) = (common.admin.all::<PersistentVolume>(), &found.meta.handle);
        // On one that is being deleted none may be added.
        let Some(there) = volumes.get_opt(name).await? else { continue };
        let stay: Vec<&str> = there.metadata.finalizers.iter().flatten().map(String::as_str).filter(|own| *own == PROTECTED).collect();
        let patch = Patch::Merge(json!({"metadata": {"finalizers": stay}}));
        gone(volumes.patch(name, &patch, &PatchParams::default()).await.map(drop))?;
        gone(volumes.delete(name, &DeleteParams::default()).await)?;
    }
    if let Ok((own, others)) = common.on_lane(wish.number) {
        // Else the others would send to nobody, and not to the host, which says that the node is gone.
        let forgotten = tokio::task::spawn_blocking(move || lane::forget(&own, &others)).await?;
        forgotten.unwrap_or_else(|error| tracing::debug!(node = wish.name, %error, "other nodes of this machine have routes to one that is gone"));
    }
    worker::discard(&common.cluster, wish.number, false).await?;
    network::dns::withdraw(&common.admin, &wish.name).await?;
    gone(common.admin.all::<Node>().delete(&wish.name, &DeleteParams::default()).await)?;
    // Nothing of them runs, as the collector of pods would find out in a minute.
    let of_node = ListParams::fields(format!("spec.nodeName={}", wish.name));
    for pod in common.admin.all::<Pod>().list(&of_node).await?.items() {
        let pods = common.admin.namespaced::<Pod>(pod.namespace());
        if let Err(error) = gone(pods.delete(pod.name(), &DeleteParams::now().uid(pod.uid())).await) {
            tracing::warn!(pod = pod.name(), %error, "left to the collector of pods");
        }
    }
    let (cluster, number) = (common.cluster.clone(), wish.number);
    let forget = move || {
        cluster.change_wishes(|wishes| {
            wishes.retain(|wish| wish.number != number);
            Ok(())
        })
    };
    tokio::task::spawn_blocking(forget).await?
}

/// Makes the node's network namespace and its link, or puts them right.
async fn join(common: &Common, number: u32, home: &Cluster) -> anyhow::Result<()> {
    let parts = common.plan.parts(number)?.into_iter().zip(common.plan.node_ips());
    let sides = parts.map(|(part, host)| Side { pod_cidr: part.pod_cidr, host }).collect();
    let worker = Worker { mark: Mark::new(&common.cluster.name), number, sides };
    let (space, (own, others)) = (home.space(), common.on_lane(number)?);
    let put = move || {
        network::worker::open(&worker, &space)?;
        if let Err(error) = lane::join(&worker.mark, &own, &others) {
            tracing::debug!(number, %error, "packets between this node and others of the machine go by the host");
        }
        anyhow::Ok(())
    };
    tokio::task::spawn_blocking(put).await?
}

/// The node's process: the one that runs, or a new one.
async fn start(common: &Common, wish: &Wish, home: &Cluster) -> anyhow::Result<Process> {
    let arguments = arguments(common, wish.number);
    home.make()?;
    join(common, wish.number, home).await?;
    if let Some(mut process) = Process::find(home)? {
        if process.is(&arguments) {
            tracing::info!(node = wish.name, pid = process.pid, "a node's process runs already");
            return Ok(process);
        }
        process.end(End::Terminate).await?;
    }
    if !common.has_dns
        && let Err(error) = network::dns::withdraw(&common.admin, &wish.name).await
    {
        tracing::warn!(node = wish.name, %error, "the cluster's DNS leads to this node, which has none any more");
    }
    let path = home.data.join(LOG);
    let log = File::options().create(true).append(true).mode(0o600).open(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(PROGRAM);
    command.arg0("knarr").args(&arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C is for the cluster's process, which tells the nodes.
    command.process_group(0);
    let child = command.spawn().context("this program cannot start itself")?;
    let mut process = Process::new(i32::try_from(child.id())?, Some(child))?;
    let begun = Instant::now();
    // Until it has its lock nobody else could find it.
    while home.running() != Some(process.pid) {
        tokio::select! {
            () = process.ended() => bail!("its process ended at once; {} tells why", path.display()),
            () = tokio::time::sleep(LOCK_LOOK) => {}
        }
        if begun.elapsed() > LOCKS {
            process.end(End::Terminate).await?;
            bail!("its process does not begin; {} may tell why", path.display());
        }
    }
    Ok(process)
}

/// What a node's process is told.
fn arguments(common: &Common, number: u32) -> Vec<OsString> {
    let own = ["node-process", "--name", &common.cluster.name, "--number"].map(OsString::from);
    let data = [OsString::from("--data-dir"), common.cluster.data.clone().into_os_string()];
    let ranges = common.plan.ranges().iter().flat_map(|range| [OsString::from("--range"), range.to_string().into()]).collect::<Vec<_>>();
    own.into_iter().chain([number.to_string().into()]).chain(data).chain(ranges).chain(common.options.iter().cloned()).collect()
}

/// A process that is watched.
struct Process {
    pid: i32,
    /// Readable when it has ended. (The kernel's handle is no pipe, and is waited for like one.)
    handle: pipe::Receiver,
    child: Option<Child>,
}

impl Process {
    fn new(pid: i32, child: Option<Child>) -> anyhow::Result<Process> {
        let number = Pid::from_raw(pid).context("a process has a number")?;
        let handle: OwnedFd = pidfd_open(number, PidfdFlags::empty()).with_context(|| format!("process {pid} cannot be watched"))?;
        Ok(Process { pid, handle: pipe::Receiver::from_owned_fd_unchecked(handle)?, child })
    }

    /// The one that runs a node, if one does.
    fn find(home: &Cluster) -> anyhow::Result<Option<Process>> {
        for _ in 0..LOOKS {
            let Some(pid) = home.running() else { return Ok(None) };
            let found = Process::new(pid, None);
            // It may have ended meanwhile, and its number be another's.
            if home.running() == Some(pid) {
                return found.map(Some);
            }
        }
        bail!("its process changes again and again")
    }

    /// Whether it is of this very program with these arguments.
    fn is(&self, arguments: &[OsString]) -> bool {
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        let own = PathBuf::from(format!("/proc/{}", self.pid));
        let line = std::fs::read(own.join("cmdline")).unwrap_or_default();
        let wanted: Vec<u8> = arguments.iter().flat_map(|a| a.as_bytes().iter().copied().chain([0])).collect();
        let said = line.iter().position(|b| *b == 0).and_then(|end| line.get(end + 1..));
        said == Some(wanted.as_slice()) && identity(&own.join("exe")).is_some_and(|theirs| Some(theirs) == identity(Path::new(PROGRAM)))
    }

    /// Waits for its end.
    async fn ended(&mut self) {
        // An error here would be one of the loop that waits, and no end.
        while self.handle.readable().await.is_err() {
            tokio::time::sleep(PAUSE_MAX).await;
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        match pidfd_send_signal(self.handle.as_fd(), signal) {
            Err(error) if error != rustix::io::Errno::SRCH => Err(error).with_context(|| format!("process {} cannot be ended", self.pid)),
            _ => Ok(()),
        }
    }

    /// Ends it; after an interrupt its pods take the time that they need, else it is killed when its own is over.
    async fn end(&mut self, how: End) -> anyhow::Result<()> {
        if how == End::Interrupt {
            self.signal(Signal::INT)?;
            self.ended().await;
            return Ok(());
        }
        for signal in [Signal::TERM, Signal::KILL] {
            self.signal(signal)?;
            if tokio::time::timeout(PATIENCE, self.ended()).await.is_ok() {
                return Ok(());
            }
        }
        bail!("process {} does not end", self.pid)
    }
}

/// Ends the processes of all nodes, whoever started them: for `down`, where no cluster's process does.
pub async fn end_all(cluster: &Cluster) -> anyhow::Result<()> {
    let ends = cluster.node_numbers().into_iter().map(|number| {
        let home = cluster.node(number);
        async move {
            let taken_away = home.running().is_some_and(|pid| home.work(pid) == Some(Work::Ends));
            match Process::find(&home)? {
                // By another `down`, which was waited for; this one is dying.
                Some(mut process) if taken_away => {
                    process.ended().await;
                    anyhow::Ok(())
                }
                Some(mut process) => process.end(End::Terminate).await,
                None => Ok(()),
            }
        }
    });
    futures_util::future::try_join_all(ends).await.map(drop)
}

/// News of changed wishes.
struct News(pipe::Receiver);

impl News {
    fn of(data: &Path) -> anyhow::Result<News> {
        let kernel = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        kernel.add_watch(data, AddWatchFlags::IN_MOVED_TO)?;
        Ok(News(pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(kernel))?))
    }

    /// Waits until a file has come into its place; what it was does not matter.
    async fn some(news: &mut Option<News>) {
        let Some(News(kernel)) = news else { return std::future::pending().await };
        loop {
            if kernel.readable().await.is_err() {
                return std::future::pending().await;
            }
            match kernel.try_read(&mut [0; 4096]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        // Whoever runs the tests may have told its children to ignore it.
        let mut child = Command::new("env").args(["--default-signal=INT", "sleep", "600"]).spawn().unwrap();
        // Until it is the other program it may ignore it still.
        while !std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().starts_with(b"sleep\0") {
            assert_eq!(child.try_wait().unwrap(), None, "it did not become another");
            std::thread::yield_now();
        }
        Process::new(i32::try_from(child.id()).unwrap(), Some(child)).unwrap()
    }

    #[tokio::test]
    async fn a_process_is_watched_and_ended() {
        let mut process = sleeper();
        assert!(!process.is(&["600".into()]), "the same words of another program");
        assert!(tokio::time::timeout(Duration::from_millis(20), process.ended()).await.is_err(), "it runs");
        process.end(End::Terminate).await.unwrap();
        process.ended().await;
        process.signal(Signal::TERM).unwrap();
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists(), "nothing of it is left");
        let mut process = sleeper();
        process.end(End::Interrupt).await.unwrap();
    }

    #[tokio::test]
    async fn a_wish_is_heard_of() {
        let folder = std::env::temp_dir().join(format!("knarr-wished-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let mut news = Some(News::of(&folder).unwrap());
        std::fs::write(folder.join("other"), "").unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), News::some(&mut news)).await.is_err(), "what is written there is none");
        std::fs::rename(folder.join("other"), folder.join("nodes.json")).unwrap();
        tokio::time::timeout(PATIENCE, News::some(&mut news)).await.expect("a file that came into its place is one");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
