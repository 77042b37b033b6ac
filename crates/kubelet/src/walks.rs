//! What pods take of the node's disk: writable layers, logs, and the volumes that the kubelet makes itself, each walked.
//!
//! How long a walk takes is the pod's choice: it may fill a volume with millions of names. So each pod is walked by a task of its own, one
//! at a time, whoever asks and however often; nobody waits for it longer than he says, and gets what was known last then, with the time that
//! it is of (as upstream's volume statistics, which it works out beside those who ask). So no pod's disk holds up another's eviction or the
//! answer about the node.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use runtime::DiskUsage;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::cri::{Container, PodUid};
use crate::pod::Context;
use crate::util;
use crate::volumes::{self, Layout};

/// Walks under way at the same time; tokio has 512 threads for what blocks, and the disk is one.
const WALKS_MAX: usize = 16;
/// A pod of which nobody has asked for so long is forgotten.
const UNASKED_MAX: Duration = Duration::from_secs(10 * 60);

/// What one pod took when it was walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// When that was.
    pub at: SystemTime,
    /// Its running containers: name, the writable layer, logs.
    pub containers: Vec<(String, DiskUsage, DiskUsage)>,
    /// Its volumes that the kubelet makes.
    pub volumes: Vec<Own>,
}

/// A volume that the kubelet makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its name in the pod.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether that is the node's disk.
    pub on_disk: bool,
    /// What is in it.
    pub used: DiskUsage,
}

/// The walks of this kubelet.
pub struct Walks {
    pods: Arc<Mutex<HashMap<PodUid, Place>>>,
    room: Arc<Semaphore>,
}

impl Default for Walks {
    fn default() -> Self {
        Walks { pods: Arc::default(), room: Arc::new(Semaphore::new(WALKS_MAX)) }
    }
}

/// When a walk ended, and what it found.
type Last = Option<(Instant, Arc<Walked>)>;

struct Place {
    last: watch::Sender<Last>,
    under_way: bool,
    asked: Instant,
}

impl Place {
    /// Whether nobody asks any more, nor waits for what was found meanwhile.
    fn is_over(&self, now: Instant) -> bool {
        let found = self.last.borrow().as_ref().map_or(self.asked, |(at, _)| *at);
        !self.under_way && now.duration_since(self.asked.max(found)) >= UNASKED_MAX
    }
}

/// Gives the pod's place back however its walk ends.
struct Turn {
    pods: Arc<Mutex<HashMap<PodUid, Place>>>,
    uid: PodUid,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(place) = self.pods.lock().get_mut(&self.uid) {
            place.under_way = false;
        }
    }
}

impl Walks {
    /// What a pod takes: found at most `young` ago, or until `until`; else what was known last, if anything was.
    pub async fn of(&self, cx: &Arc<Context>, pod: &Arc<Pod>, young: Duration, until: Instant) -> Option<Arc<Walked>> {
        let uid = PodUid(util::uid(pod).to_owned());
        let (cx, pod) = (Arc::clone(cx), Arc::clone(pod));
        self.found(uid, young, until, async move { walk(&cx, &pod).await }).await
    }

    async fn found(&self, uid: PodUid, young: Duration, until: Instant, walk: impl Future<Output = Walked> + Send + 'static) -> Option<Arc<Walked>> {
        let mut news = {
            let mut pods = self.pods.lock();
            let now = Instant::now();
            pods.retain(|_, place| !place.is_over(now));
            let place = pods.entry(uid.clone()).or_insert_with(|| Place { last: watch::Sender::new(None), under_way: false, asked: now });
            place.asked = now;
            if let Some((_, walked)) = place.last.borrow().as_ref().filter(|(at, _)| now.duration_since(*at) < young) {
                return Some(Arc::clone(walked));
            }
            let news = place.last.subscribe();
            if !std::mem::replace(&mut place.under_way, true) {
                // A task of its own: who asked may leave, and others wait for the same.
                tokio::spawn(self.turn(uid, place.last.clone(), walk));
            }
            news
        };
        let _ = timeout_at(until, news.changed()).await;
        let last = news.borrow();
        last.as_ref().map(|(_, walked)| Arc::clone(walked))
    }

    fn turn(&self, uid: PodUid, last: watch::Sender<Last>, walk: impl Future<Output = Walked> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let (turn, room) = (Turn { pods: Arc::clone(&self.pods), uid }, Arc::clone(&self.room));
        async move {
            let place = room.acquire_owned().await;
            let walked = walk.await;
            drop(place);
            // Who asks from here on begins another.
            drop(turn);
            last.send_replace(Some((Instant::now(), Arc::new(walked))));
        }
    }
}

/// The kubelet's own volumes of a pod, not yet walked.
fn own_volumes(pod: &Pod, layout: &Layout) -> Vec<Own> {
    let on_disk = |v: &Volume| match &v.empty_dir {
        Some(dir) => dir.medium.as_deref().is_none_or(str::is_empty),
        None => v.config_map.is_some() || v.downward_api.is_some(),
    };
    let own = |v: &Volume| Some(Own { name: v.name.clone(), path: volumes::own_path(layout, v)?, on_disk: on_disk(v), used: DiskUsage::default() });
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(own).collect()
}

/// What a volume takes. A file system of its own, as a volume in memory is, is entered by no walk; it tells by itself.
fn used(at: &std::path::Path) -> DiskUsage {
    match statvfs(at) {
        Ok(s) if volumes::is_mountpoint(at) => {
            DiskUsage { bytes: s.blocks().saturating_sub(s.blocks_free()) * s.fragment_size(), inodes: s.files().saturating_sub(s.files_free()) }
        }
        _ => runtime::tree::usage(at),
    }
}

async fn walk(cx: &Context, pod: &Pod) -> Walked {
    let mut layers: Vec<(Container, DiskUsage)> = Vec::new();
    for container in cx.runtime.pod_containers(&PodUid(util::uid(pod).to_owned())).into_iter().filter(Container::running) {
        let used = cx.runtime.disk_usage(&container.id).await.unwrap_or_default();
        layers.push((container, used));
    }
    let logs = cx.config.pod_log_dir(util::namespace(pod), util::name(pod), util::uid(pod));
    let mut volumes = own_volumes(pod, &Layout::new(&cx.config.root_dir, util::uid(pod)));
    let clock = cx.config.clock.clone();
    util::blocking(move || {
        let containers = layers.into_iter().map(|(container, layer)| {
            let logs = runtime::tree::usage(&logs.join(&container.name));
            (container.name, layer, logs)
        });
        let containers = containers.collect();
        for volume in &mut volumes {
            volume.used = used(&volume.path);
        }
        Walked { at: clock.now(), containers, volumes }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn walked(bytes: u64) -> Walked {
        Walked {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(bytes),
            containers: vec![("c".into(), DiskUsage { bytes, inodes: 1 }, DiskUsage::default())],
            volumes: Vec::new(),
        }
    }

    fn uid(name: &str) -> PodUid {
        PodUid(name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_that_takes_long_holds_up_nobody_and_the_last_figure_stands_meanwhile() {
        let (walks, begun) = (Walks::default(), Arc::new(AtomicUsize::new(0)));
        let young = Duration::from_secs(60);
        let wait = || Instant::now() + Duration::from_secs(5);
        let slow = |bytes: u64| {
            let begun = Arc::clone(&begun);
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(3600)).await;
                walked(bytes)
            }
        };
        // Many ask, and none waits longer than he said; there is one walk.
        let start = Instant::now();
        for asks in 1..=3 {
            assert_eq!(walks.found(uid("slow"), young, wait(), slow(1)).await, None);
            assert_eq!(start.elapsed().as_secs(), 5 * asks);
        }
        // Another pod's is known at once, and stands for a while.
        assert_eq!(walks.found(uid("quick"), young, wait(), async { walked(2) }).await.as_deref(), Some(&walked(2)));
        assert_eq!(walks.found(uid("quick"), young, wait(), async { walked(3) }).await.as_deref(), Some(&walked(2)));
        assert_eq!(walks.found(uid("quick"), Duration::ZERO, wait(), async { walked(3) }).await.as_deref(), Some(&walked(3)));
        assert_eq!((start.elapsed().as_secs(), begun.load(Ordering::Relaxed)), (15, 1));
        // When it has ended its figure is told, and goes on being told while the next walk takes its time.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(walks.found(uid("slow"), young, wait(), slow(4)).await.as_deref(), Some(&walked(1)));
        tokio::time::sleep(young).await;
        assert_eq!(walks.found(uid("slow"), young, wait(), slow(4)).await.as_deref(), Some(&walked(1)));
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(walks.found(uid("slow"), young, wait(), slow(5)).await.as_deref(), Some(&walked(4)));
        // One that panics is begun again.
        assert_eq!(walks.found(uid("bad"), young, wait(), async { panic!("a walk") }).await, None);
        assert_eq!(walks.found(uid("bad"), young, wait(), async { walked(6) }).await.as_deref(), Some(&walked(6)));
        // Who is not asked for is forgotten.
        tokio::time::sleep(UNASKED_MAX).await;
        assert!(walks.found(uid("quick"), young, wait(), async { walked(7) }).await.is_some());
        assert_eq!(walks.pods.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn walks_have_their_number_and_those_who_wait_get_their_turn() {
        let walks = Walks::default();
        let until = || Instant::now() + Duration::from_secs(1);
        for n in 0..WALKS_MAX {
            let long = async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                walked(1)
            };
            assert_eq!(walks.found(uid(&n.to_string()), Duration::ZERO, until(), long).await, None);
        }
        assert_eq!(walks.found(uid("last"), Duration::ZERO, until(), async { walked(2) }).await, None);
        let later = walks.found(uid("last"), Duration::ZERO, Instant::now() + Duration::from_secs(120), async { walked(3) }).await;
        assert_eq!(later.as_deref(), Some(&walked(2)));
    }

    #[test]
    fn volumes_are_walked_where_they_lie() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [], "volumes": [
            {"name": "scratch", "emptyDir": {}}, {"name": "fast", "emptyDir": {"medium": "Memory"}}, {"name": "c", "configMap": {"name": "x"}},
            {"name": "pages", "emptyDir": {"medium": "HugePages"}},
            {"name": "s", "secret": {"secretName": "x"}}, {"name": "host", "hostPath": {"path": "/"}}]}}))
        .unwrap();
        let dir = TempDir::new("usage");
        let own = own_volumes(&pod, &Layout::new(dir.path(), "u"));
        assert_eq!(
            own.iter().map(|v| (v.name.as_str(), v.on_disk)).collect::<Vec<_>>(),
            [("scratch", true), ("fast", false), ("c", true), ("pages", false), ("s", false)]
        );
        let at = &own[0].path;
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(at.join("f"), vec![1; 10_000]).unwrap();
        let used = used(at);
        assert!(used.bytes >= 10_000 && used.inodes == 1, "{used:?}");
    }
}
