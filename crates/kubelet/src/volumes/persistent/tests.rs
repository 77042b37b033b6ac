//! Volumes of a driver in memory, whose mounts are real: from a pod's claim to the mount and back, over failures and restarts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::volume::{Abilities, Code, Driver, Drivers, Expand, Failure, Info, Publish, Stage, Stats, Usage};
use async_trait::async_trait;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::testing::{FakeApi, TempDir};

const NAME: &str = "fake.example";

/// A driver whose volumes are file systems in memory.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<String>>,
    told: watch::Sender<usize>,
    /// What the next calls of this name fail with.
    fails: Mutex<BTreeMap<&'static str, Vec<Failure>>>,
    /// Calls of this name never end.
    hangs: Mutex<Option<&'static str>>,
    no_expand: AtomicBool,
}

impl Fake {
    async fn call(&self, name: &'static str, text: String) -> Result<(), Failure> {
        self.calls.lock().push(format!("{name} {text}"));
        self.told.send_modify(|n| *n += 1);
        if *self.hangs.lock() == Some(name) {
            std::future::pending::<()>().await;
        }
        match self.fails.lock().get_mut(name).and_then(Vec::pop) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn fail(&self, name: &'static str, code: Code) {
        self.fails.lock().entry(name).or_default().push(Failure::new(code, "as asked"));
    }

    /// The calls since the last look, without what follows their names.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock()).into_iter().map(|c| c.split(' ').next().unwrap().to_owned()).collect()
    }

    async fn called(&self, name: &str) {
        let mut told = self.told.subscribe();
        while !self.calls.lock().iter().any(|c| c.starts_with(name)) {
            told.changed().await.unwrap();
        }
    }
}

fn internal(e: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, e.to_string())
}

#[async_trait]
impl Driver for Fake {
    fn abilities(&self) -> Abilities {
        Abilities { stage: true, stats: true, expand: !self.no_expand.load(Ordering::Relaxed), ..Abilities::default() }
    }
    async fn info(&self) -> Result<Info, Failure> {
        Ok(Info { node_id: "n".into(), ..Info::default() })
    }
    async fn stage(&self, s: Stage<'_>) -> Result<(), Failure> {
        self.call("stage", format!("{:?} {:?}", s.volume, s.secrets)).await?;
        if !super::mounts::is_mounted(s.at).unwrap() {
            mount(Some("tmpfs"), s.at, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).map_err(internal)?;
        }
        Ok(())
    }
    async fn unstage(&self, handle: &str, at: &Path) -> Result<(), Failure> {
        self.call("unstage", handle.to_owned()).await?;
        while umount2(at, MntFlags::empty()).is_ok() {}
        Ok(())
    }
    async fn publish(&self, p: Publish<'_>) -> Result<(), Failure> {
        self.call("publish", format!("{:?} {}", p.volume, p.readonly)).await?;
        fs::create_dir_all(p.target).map_err(internal)?;
        if !super::mounts::is_mounted(p.target).unwrap() {
            mount(p.staged, p.target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(internal)?;
        }
        Ok(())
    }
    async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Failure> {
        self.call("unpublish", handle.to_owned()).await?;
        while umount2(target, MntFlags::empty()).is_ok() {}
        let _ = fs::remove_dir(target);
        Ok(())
    }
    async fn expand(&self, e: Expand<'_>) -> Result<u64, Failure> {
        self.call("expand", e.bytes.to_string()).await?;
        Ok(e.bytes)
    }
    async fn stats(&self, _: &str, _: &Path, _: Option<&Path>) -> Result<Stats, Failure> {
        Ok(Stats { bytes: Some(Usage { total: 3, used: 1, available: 2 }), ..Stats::default() })
    }
}

/// A node with one driver and one volume, `pv`, of the claim `claim`.
struct World {
    dir: TempDir,
    api: Arc<FakeApi>,
    fake: Arc<Fake>,
    drivers: Drivers,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = super::mounts::unmount_below(self.dir.path());
    }
}

impl World {
    fn new(volume: Value) -> Self {
        let (api, fake, drivers) = (Arc::new(FakeApi::default()), Arc::new(Fake::default()), Drivers::default());
        drivers.add(NAME, fake.clone());
        let mut spec = json!({"csi": {"driver": NAME, "volumeHandle": "h", "fsType": "ext4"}, "claimRef": {"uid": "c"},
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        spec.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
        {
            let mut storage = api.storage.lock();
            let claim = json!({"metadata": {"name": "claim", "namespace": "n", "uid": "c", "resourceVersion": "1"}, "spec": {"volumeName": "pv",
                "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
            storage.claims.insert("claim".into(), serde_json::from_value(claim).unwrap());
            storage.volumes.insert("pv".into(), serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap());
        }
        let world = Self { dir: TempDir::new("persistent"), api, fake, drivers };
        world.driver(json!({"attachRequired": false, "fsGroupPolicy": "File"}));
        world
    }

    fn driver(&self, spec: Value) {
        let object = serde_json::from_value(json!({"metadata": {"name": NAME}, "spec": spec})).unwrap();
        self.api.storage.lock().drivers.insert(NAME.into(), object);
    }

    /// A process on this node's directory.
    fn start(&self) -> Persistent {
        let counts = crate::counts::Counts::new(&instruments::Registry::default());
        let made = Persistent::new(self.dir.path(), "n1", self.api.clone(), self.drivers.clone(), Looks::default(), counts, CancellationToken::new());
        made.adopt();
        made
    }

    fn target(&self, uid: &str) -> PathBuf {
        self.dir.path().join("pods").join(uid).join("volumes/kubernetes.io~csi/pv/mount")
    }

    fn staged(&self) -> PathBuf {
        Places::new(self.dir.path()).staged(NAME, "h")
    }
}

fn pod_with(uid: &str, volume: Value, security: Value) -> (Arc<Pod>, Volume) {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid}, "spec": {"nodeName": "n1", "securityContext": security,
        "volumes": [volume], "containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}))
        .unwrap();
    let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
    (Arc::new(pod), volume)
}

fn pod(uid: &str) -> (Arc<Pod>, Volume) {
    pod_with(uid, json!({"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}), json!({}))
}

async fn up(node: &Persistent, uid: &str) -> Result<Ready, Trouble> {
    let (pod, volume) = pod(uid);
    node.set_up(&pod, &volume, None).await
}

async fn down(node: &Persistent, uid: &str) -> Result<(), String> {
    node.tear_down(&PodUid(uid.into())).await
}

/// Waits until nothing of any volume is known.
async fn nothing(node: &Persistent) {
    let mut changes = node.changes();
    while !node.0.slots.all().is_empty() {
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_volume_is_staged_once_published_for_each_pod_and_goes_with_the_last() {
    let world = World::new(json!({}));
    let node = world.start();
    let ready = up(&node, "a").await.unwrap();
    assert_eq!((ready.path.clone(), ready.readonly), (world.target("a"), false));
    fs::write(ready.path.join("db"), "1").unwrap();
    assert_eq!(fs::read_to_string(up(&node, "b").await.unwrap().path.join("db")).unwrap(), "1");
    up(&node, "b").await.unwrap();
    assert_eq!(world.fake.calls(), ["stage", "publish", "publish"], "what is there is used");
    let data: BTreeMap<String, String> = serde_json::from_slice(&fs::read(world.target("a").parent().unwrap().join("vol_data.json")).unwrap()).unwrap();
    assert_eq!(
        (data["driverName"].as_str(), data["volumeHandle"].as_str(), data["specVolID"].as_str(), data["volumeLifecycleMode"].as_str()),
        (NAME, "h", "pv", "Persistent")
    );
    down(&node, "a").await.unwrap();
    assert!(!world.target("a").parent().unwrap().exists() && world.staged().exists());
    down(&node, "b").await.unwrap();
    nothing(&node).await;
    assert_eq!(world.fake.calls(), ["unpublish", "unpublish", "unstage"]);
    assert!(!world.staged().parent().unwrap().exists());
}

#[tokio::test]
async fn what_a_killed_process_left_is_found_used_by_pods_that_are_and_undone_for_those_that_are_not() {
    let world = World::new(json!({}));
    let before = world.start();
    fs::write(up(&before, "stays").await.unwrap().path.join("db"), "1").unwrap();
    up(&before, "goes").await.unwrap();
    drop(before);
    world.fake.calls();
    let node = world.start();
    assert_eq!(fs::read_to_string(up(&node, "stays").await.unwrap().path.join("db")).unwrap(), "1");
    // The second pod was deleted by force meanwhile.
    down(&node, "goes").await.unwrap();
    node.sweep().await;
    assert_eq!(world.fake.calls(), ["stage", "publish", "unpublish"]);
    assert!(world.target("stays").join("db").exists());
    drop(node);
    // The last one as well, while nobody ran; and a volume was staged and never published.
    let node = world.start();
    down(&node, "stays").await.unwrap();
    nothing(&node).await;
    up(&node, "x").await.unwrap();
    super::mounts::unmount_below(&world.dir.path().join("pods")).unwrap();
    fs::remove_dir_all(world.dir.path().join("pods")).unwrap();
    let node = world.start();
    node.sweep().await;
    nothing(&node).await;
    assert!(!world.staged().parent().unwrap().exists());
}

#[tokio::test]
async fn a_restart_without_the_driver_waits_for_it() {
    let world = World::new(json!({}));
    up(&world.start(), "a").await.unwrap();
    world.fake.calls();
    world.drivers.remove(NAME);
    let node = world.start();
    let refused = down(&node, "a").await.unwrap_err();
    assert!(refused.ends_with("driver name fake.example not found in the list of registered CSI drivers"), "{refused}");
    assert!(super::mounts::is_mounted(&world.target("a")).unwrap(), "nothing is unmounted behind its back");
    let trouble = up(&node, "b").await.unwrap_err();
    assert_eq!(
        trouble.message,
        "MountVolume.MountDevice failed for volume \"pv\" : kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name fake.example not found in the list of registered CSI drivers"
    );
    world.drivers.add(NAME, world.fake.clone());
    down(&node, "b").await.unwrap();
    down(&node, "a").await.unwrap();
    nothing(&node).await;
    assert_eq!(world.fake.calls(), ["unpublish", "unstage"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_in_upstreams_words_and_leave_what_they_may_have_left() {
    let world = World::new(json!({}));
    let node = world.start();
    world.fake.fail("stage", Code::InvalidArgument);
    assert_eq!(
        up(&node, "a").await.unwrap_err().message,
        "MountVolume.MountDevice failed for volume \"pv\" : rpc error: code = InvalidArgument desc = as asked"
    );
    assert!(!world.staged().exists(), "the driver says that it did nothing");
    world.fake.fail("stage", Code::Unavailable);
    up(&node, "a").await.unwrap_err();
    assert!(world.staged().parent().unwrap().join("vol_data.json").exists(), "nobody knows what it did");
    world.fake.fail("publish", Code::Internal);
    assert_eq!(up(&node, "a").await.unwrap_err().message, "MountVolume.SetUp failed for volume \"pv\" : rpc error: code = Internal desc = as asked");
    assert!(!world.target("a").parent().unwrap().exists());
    // A pod that has nothing of it is gone at once; what is staged is undone.
    down(&node, "a").await.unwrap();
    nothing(&node).await;
    assert_eq!(world.fake.calls(), ["stage", "stage", "stage", "publish", "unstage"]);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_holds_up_its_own_volume_and_for_two_minutes() {
    let world = World::new(json!({}));
    let node = world.start();
    *world.fake.hangs.lock() = Some("stage");
    let begun = tokio::time::Instant::now();
    let waiting = tokio::spawn({
        let node = node.clone();
        async move { up(&node, "a").await }
    });
    world.fake.called("stage").await;
    // The pod goes: nobody waits any more, and yet the driver is at it.
    waiting.abort();
    *world.fake.hangs.lock() = None;
    down(&node, "a").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(120), "what takes it away comes after the call");
    nothing(&node).await;
    assert_eq!(world.fake.calls(), ["stage", "unstage"], "it may have been staged, and was never published");
    assert!(!world.staged().parent().unwrap().exists());
}

#[tokio::test]
async fn a_volume_for_one_pod_is_for_one() {
    let world = World::new(json!({"accessModes": ["ReadWriteOncePod"]}));
    let node = world.start();
    up(&node, "a").await.unwrap();
    assert_eq!(
        up(&node, "b").await.unwrap_err().message,
        "MountVolume.SetUp failed for volume \"pv\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod"
    );
    down(&node, "a").await.unwrap();
    up(&node, "b").await.unwrap();
    down(&node, "b").await.unwrap();
    nothing(&node).await;
}

#[tokio::test]
async fn a_volume_that_is_attached_waits_for_the_cluster() {
    let world = World::new(json!({}));
    world.driver(json!({"attachRequired": true}));
    let node = world.start();
    let key = "kubernetes.io/csi/fake.example^h";
    let waiting = tokio::spawn({
        let node = node.clone();
        async move { up(&node, "a").await }
    });
    let mut changes = node.changes();
    while node.in_use().is_empty() {
        changes.changed().await.unwrap();
    }
    assert_eq!(node.in_use(), [key]);
    let name = spec::hashed(&["h", NAME, "n1"]);
    let attachment = json!({"metadata": {"name": name}, "spec": {"attacher": NAME, "nodeName": "n1", "source": {}}, "status": {"attached": true, "attachmentMetadata": {"lun": "7"}}});
    world.api.storage.lock().attachments.insert(name, serde_json::from_value(attachment).unwrap());
    world.api.attached.send_modify(|all| {
        all.insert(key.into());
    });
    assert!(!waiting.is_finished(), "the node's status does not say yet that it is in use");
    node.reported(&[key.into()]);
    waiting.await.unwrap().unwrap();
    assert!(world.fake.calls.lock().iter().all(|c| c.contains("\"lun\": \"7\"")), "{:?}", world.fake.calls.lock());
    // The look at it publishes nothing while it is not known what the attachment tells.
    world.driver(json!({"attachRequired": true, "requiresRepublish": true}));
    let (pod, volume) = pod("a");
    world.fake.calls();
    let attachments = std::mem::take(&mut world.api.storage.lock().attachments);
    assert!(node.look(&pod, &volume).await.unwrap_err().message.contains("has GET error for volume attachment"));
    assert!(world.fake.calls().is_empty());
    world.api.storage.lock().attachments = attachments;
    node.look(&pod, &volume).await.unwrap();
    assert_eq!(world.fake.calls.lock().len(), 1);
    assert!(world.fake.calls.lock()[0].contains("\"lun\": \"7\""));
    down(&node, "a").await.unwrap();
    nothing(&node).await;
    assert!(node.in_use().is_empty());
}

#[tokio::test]
async fn files_become_the_groups_and_nobody_follows_a_link() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let world = World::new(json!({}));
    let node = world.start();
    let outside = world.dir.path().join("outside");
    fs::write(&outside, "").unwrap();
    let at = up(&node, "first").await.unwrap().path;
    fs::create_dir(at.join("d")).unwrap();
    fs::write(at.join("d/f"), "").unwrap();
    // Whatever the umask of who runs the tests.
    for (name, mode) in [("d", 0o755), ("d/f", 0o644)] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink(&outside, at.join("d/link")).unwrap();
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "claim"}});
    let (second, named) = pod_with("second", volume, json!({"fsGroup": 4711}));
    let at = node.set_up(&second, &named, None).await.unwrap().path;
    let seen = |name: &str| fs::symlink_metadata(at.join(name)).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
    assert_eq!((seen("."), seen("d"), seen("d/f")), ((4711, 0o2775), (4711, 0o2775), (4711, 0o664)));
    assert_eq!((seen("d/link").0, fs::metadata(&outside).unwrap().gid()), (4711, 0));
    for uid in ["first", "second"] {
        down(&node, uid).await.unwrap();
    }
    nothing(&node).await;
}

#[tokio::test]
async fn an_inline_volume_lives_with_its_pod() {
    let world = World::new(json!({}));
    let inline = json!({"name": "data", "csi": {"driver": NAME, "volumeAttributes": {"size": "1"}, "readOnly": true}});
    let (pod, volume) = pod_with("a", inline, json!({}));
    let node = world.start();
    assert_eq!(
        node.set_up(&pod, &volume, None).await.unwrap_err().message,
        "MountVolume.SetUp failed for volume \"data\" : kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: volume mode \"Ephemeral\" not supported by driver fake.example (only supports [\"Persistent\"])"
    );
    world.driver(json!({"attachRequired": true, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"]}));
    // Without a staged one this driver has nothing to bind.
    world.fake.fail("publish", Code::NotFound);
    node.set_up(&pod, &volume, None).await.unwrap_err();
    let call = world.fake.calls.lock().last().unwrap().clone();
    let handle = spec::hashed(&["a", "data"]);
    for told in [&*handle, "\"csi.storage.k8s.io/ephemeral\": \"true\"", "\"csi.storage.k8s.io/pod.uid\": \"a\"", "\"size\": \"1\"", "true"] {
        assert!(call.contains(told), "{told} in {call}");
    }
    assert!(node.in_use().is_empty(), "it is never attached");
    down(&node, "a").await.unwrap();
    nothing(&node).await;
}

#[tokio::test]
async fn a_volume_grows_at_its_mount_and_in_use() {
    let world = World::new(json!({"capacity": {"storage": "2Gi"}}));
    let node = world.start();
    up(&node, "a").await.unwrap();
    assert!(world.fake.calls.lock().contains(&"expand 2147483648".to_owned()), "{:?}", world.fake.calls.lock());
    let holds = || serde_json::to_value(world.api.storage.lock().claims["claim"].status.as_ref().unwrap()).unwrap();
    assert_eq!(holds()["capacity"]["storage"], "2Gi");
    assert_eq!(world.api.events(), [("FileSystemResizeSuccessful".to_owned(), "MountVolume.NodeExpandVolume succeeded for volume \"pv\" n1".to_owned())]);
    world.fake.calls();
    // The cluster makes it larger, step by step.
    let grow = |size: &str, status: Value| {
        let mut storage = world.api.storage.lock();
        let pv = storage.volumes.get_mut("pv").unwrap();
        pv.spec.as_mut().unwrap().capacity.as_mut().unwrap().insert("storage".into(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.into()));
        let claim = storage.claims.get_mut("claim").unwrap();
        let mut tree = serde_json::to_value(&*claim).unwrap();
        tree["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        *claim = serde_json::from_value(tree).unwrap();
    };
    let (pod, volume) = pod("a");
    let pending = json!({"type": "FileSystemResizePending", "status": "True"});
    grow("3Gi", json!({"allocatedResources": {"storage": "3Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}, "conditions": [pending]}));
    node.look(&pod, &volume).await.unwrap();
    assert_eq!(world.fake.calls(), ["expand"]);
    let status = holds();
    let empty = |field: &str| status.get(field).is_none_or(|s| s == &json!({}) || s == &json!([]));
    assert_eq!((&status["capacity"]["storage"], empty("conditions"), empty("allocatedResourceStatuses")), (&json!("3Gi"), true, true));
    node.look(&pod, &volume).await.unwrap();
    assert!(world.fake.calls().is_empty(), "it is large enough");
    grow("4Gi", json!({"allocatedResources": {"storage": "4Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}}));
    world.fake.fail("expand", Code::OutOfRange);
    let told = node.look(&pod, &volume).await.unwrap_err();
    let why = "Expander.NodeExpand failed to expand the volume rpc error: code = OutOfRange desc = as asked";
    assert_eq!((told.reason, told.message), ("VolumeResizeFailed", format!("NodeExpandVolume.NodeExpandVolume failed for volume \"pv\" : {why}")));
    let status = holds();
    assert_eq!(status["allocatedResourceStatuses"]["storage"], "NodeResizeInfeasible");
    assert_eq!(
        (&status["conditions"][0]["type"], &status["conditions"][0]["message"]),
        (&json!("NodeResizeError"), &json!(format!("failed to expand pvc with {why}")))
    );
    world.fake.calls();
    node.look(&pod, &volume).await.unwrap();
    assert!(world.fake.calls().is_empty(), "what can never be is not tried again");
    down(&node, "a").await.unwrap();
    nothing(&node).await;
}

#[tokio::test]
async fn a_driver_that_asks_is_told_again_and_its_failure_takes_nothing_away() {
    let world = World::new(json!({}));
    world.driver(json!({"attachRequired": false, "requiresRepublish": true}));
    let node = world.start();
    let at = up(&node, "a").await.unwrap().path;
    fs::write(at.join("token"), "old").unwrap();
    let (pod, volume) = pod("a");
    world.fake.calls();
    world.fake.fail("publish", Code::Internal);
    node.look(&pod, &volume).await.unwrap_err();
    assert!(at.join("token").exists());
    assert_eq!(
        node.stats(&pod).await,
        [VolumeStats { name: "data".into(), claim: Some("claim".into()), bytes: Usage { total: 3, used: 1, available: 2 }, inodes: Usage::default() }]
    );
    down(&node, "a").await.unwrap();
    nothing(&node).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_phase_comes_after_its_pod_is_waited_for_a_moment() {
    let world = World::new(json!({}));
    let change = |api: &FakeApi, phase: &str, annotations: Value| {
        let mut storage = api.storage.lock();
        let claim = storage.claims.get_mut("claim").unwrap();
        claim.metadata.annotations = serde_json::from_value(annotations).unwrap();
        claim.status.as_mut().unwrap().phase = Some(phase.to_owned());
    };
    let api: SharedApi = world.api.clone();
    let (pod, volume) = pod("a");
    let completed = || json!({"pv.kubernetes.io/bind-completed": "yes"});
    let unbound = "error processing PVC n/claim: PVC is not bound";
    // Nobody has bound it, or it is lost: that is told at once. One that stays so is told in the end.
    for (phase, annotations, millis) in [("Pending", json!({}), 0), ("Lost", completed(), 0), ("Pending", completed(), 300)] {
        change(&world.api, phase, annotations);
        let begun = tokio::time::Instant::now();
        assert_eq!(spec::find(&api, &pod, &volume).await.unwrap_err(), unbound);
        assert_eq!(begun.elapsed().as_millis(), millis, "{phase}");
    }
    let late = world.api.clone();
    let binder = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        change(&late, "Bound", completed());
    });
    let begun = tokio::time::Instant::now();
    assert_eq!(spec::find(&api, &pod, &volume).await.unwrap().name, "pv");
    assert_eq!(begun.elapsed().as_millis(), 140);
    binder.await.unwrap();
}

#[tokio::test]
async fn a_volume_of_certain_nodes_waits_for_the_nodes_labels() {
    let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]);
    let world = World::new(json!({"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}));
    let node = world.start();
    let (pod, volume) = pod("a");
    let told = node.set_up(&pod, &volume, None).await.unwrap_err();
    assert_eq!((told.reason, &*told.message), ("FailedMount", "MountVolume.NodeAffinity check failed for volume \"pv\" : error getting node labels"));
    // Just after a start it is asked for; this one has no labels.
    world.api.peopled.store(true, std::sync::atomic::Ordering::Relaxed);
    let told = node.set_up(&pod, &volume, None).await.unwrap_err();
    assert!(told.message.ends_with("no matching NodeSelectorTerms"), "{}", told.message);
    let of = |zone: &str| -> Node { serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": zone}}})).unwrap() };
    let told = node.set_up(&pod, &volume, Some(&of("b"))).await.unwrap_err();
    assert!(told.message.ends_with("no matching NodeSelectorTerms"), "{}", told.message);
    assert!(world.fake.calls().is_empty());
    node.set_up(&pod, &volume, Some(&of("a"))).await.unwrap();
    down(&node, "a").await.unwrap();
    nothing(&node).await;
}

#[tokio::test]
async fn what_hangs_at_a_local_device_is_in_no_other_pods_way() {
    let world = World::new(json!({}));
    let outside = world.dir.path().join("disk");
    fs::create_dir(&outside).unwrap();
    {
        let mut storage = world.api.storage.lock();
        let spec = storage.volumes.get_mut("pv").unwrap().spec.as_mut().unwrap();
        spec.csi = None;
        spec.local = Some(serde_json::from_value(json!({"path": outside})).unwrap());
    }
    let node = world.start();
    let (held, hangs) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
    let stuck = node.clone();
    let holder = std::thread::spawn(move || {
        let lock = stuck.0.local.of("stuck");
        let _alone = lock.lock();
        held.0.send(()).unwrap();
        let _ = hangs.1.recv();
    });
    held.1.recv().unwrap();
    let (other, tokio) = (node.clone(), tokio::runtime::Handle::current());
    let done = std::thread::spawn(move || {
        let at = tokio.block_on(up(&other, "a")).unwrap().path;
        let shown = super::mounts::is_mounted(&at).unwrap();
        fs::create_dir_all(other.0.places.local_device("stuck")).unwrap();
        other.drop_local("a").unwrap();
        other.drop_local("none").unwrap();
        shown && !super::mounts::is_mounted(&at).unwrap()
    });
    let begun = std::time::Instant::now();
    while !done.is_finished() && begun.elapsed() < Duration::from_secs(60) {
        tokio::task::yield_now().await;
    }
    assert!(done.is_finished(), "it waits for the device");
    assert!(done.join().unwrap());
    drop(hangs.0);
    holder.join().unwrap();
    let stuck = node.0.places.local_device("stuck");
    node.drop_local("none").unwrap();
    assert!(!stuck.exists(), "it is looked after when nobody is at it");
}

#[tokio::test]
async fn figures_are_told_while_a_look_of_the_pod_hangs() {
    let world = World::new(json!({"csi": null}));
    let outside = world.dir.path().join("disk");
    fs::create_dir(&outside).unwrap();
    world.api.storage.lock().volumes.get_mut("pv").unwrap().spec.as_mut().unwrap().local = Some(serde_json::from_value(json!({"path": outside})).unwrap());
    let node = world.start();
    up(&node, "a").await.unwrap();
    let (begins, begun) = tokio::sync::oneshot::channel();
    let (release, hangs) = std::sync::mpsc::channel::<()>();
    let looks = node.0.looks.clone();
    let hung = tokio::spawn(async move {
        let look = move || {
            let _ = begins.send(());
            hangs.recv().map_err(|e| e.to_string())
        };
        looks.look("a", look).await
    });
    begun.await.unwrap();
    let (pod, _) = pod("a");
    let told = node.stats(&pod).await;
    assert_eq!((told.len(), told[0].name.as_str(), told[0].claim.as_deref()), (1, "data", Some("claim")));
    assert!(told[0].bytes.total > 0);
    release.send(()).unwrap();
    assert_eq!(hung.await.unwrap(), Ok(()));
    node.drop_local("a").unwrap();
}

/// The kernel grows file systems for none but those who have `CAP_SYS_RESOURCE`.
fn may_grow() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    u64::from_str_radix(rights, 16).unwrap() & (1 << SYS_RESOURCE) != 0
}

#[tokio::test]
async fn the_file_system_of_a_local_device_grows_to_its_end() {
    const MIB: u64 = 1 << 20;
    let world = World::new(json!({"csi": null}));
    let file = fs::File::options().read(true).write(true).create_new(true).open(world.dir.path().join("disk")).unwrap();
    file.set_len(64 * MIB).unwrap();
    let disk = ::runtime::block::Loop::attach(&file, ::runtime::block::Keep::Always, 512).unwrap();
    let device = world.dir.path().join("device");
    ::runtime::block::make_node(&device, disk.number()).unwrap();
    let change = |size: &str, status: Value| {
        let mut storage = world.api.storage.lock();
        let spec = storage.volumes.get_mut("pv").unwrap().spec.as_mut().unwrap();
        spec.local = Some(serde_json::from_value(json!({"path": device})).unwrap());
        spec.capacity.as_mut().unwrap().insert("storage".into(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.into()));
        let claim = storage.claims.get_mut("claim").unwrap();
        let mut tree = serde_json::to_value(&*claim).unwrap();
        tree["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        *claim = serde_json::from_value(tree).unwrap();
    };
    change("64Mi", json!({"capacity": {"storage": "64Mi"}}));
    let node = world.start();
    let at = up(&node, "a").await.unwrap().path;
    let bytes = || {
        let s = nix::sys::statvfs::statvfs(&at).unwrap();
        s.blocks() * s.fragment_size()
    };
    let before = bytes();
    file.set_len(128 * MIB).unwrap();
    disk.take_size().unwrap();
    let (pod, volume) = pod("a");
    node.look(&pod, &volume).await.unwrap();
    assert_eq!(bytes(), before, "nobody has asked for more");
    change("128Mi", json!({"allocatedResources": {"storage": "128Mi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}}));
    let grown = node.look(&pod, &volume).await;
    let status = serde_json::to_value(world.api.storage.lock().claims["claim"].status.as_ref().unwrap()).unwrap();
    if !may_grow() {
        // What the kernel refuses is told, and tried again.
        assert!(grown.unwrap_err().message.ends_with("the kubelet lacks CAP_SYS_RESOURCE, or the file system has errors"));
        assert_eq!((&status["conditions"][0]["type"], &status["capacity"]["storage"]), (&json!("NodeResizeError"), &json!("64Mi")));
        node.drop_local("a").unwrap();
        return disk.detach().unwrap();
    }
    grown.unwrap();
    assert!(bytes() > before + 48 * MIB, "{} after {before}", bytes());
    assert_eq!(status["capacity"]["storage"], "128Mi");
    assert_eq!(world.api.events(), [("FileSystemResizeSuccessful".to_owned(), "MountVolume.NodeExpandVolume succeeded for volume \"pv\" n1".to_owned())]);
    node.look(&pod, &volume).await.unwrap();
    node.drop_local("a").unwrap();
    // And of one that grew while no pod had it, at the next mount.
    file.set_len(192 * MIB).unwrap();
    disk.take_size().unwrap();
    change("192Mi", json!({"allocatedResources": {"storage": "192Mi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}}));
    let at = up(&node, "a").await.unwrap().path;
    let s = nix::sys::statvfs::statvfs(&at).unwrap();
    assert!(s.blocks() * s.fragment_size() > before + 96 * MIB);
    node.drop_local("a").unwrap();
    disk.detach().unwrap();
}

#[tokio::test]
async fn a_disk_that_is_not_reached_is_told_in_the_originals_words() {
    let disk = json!({"targetPortal": "10.0.0.1:3260", "iqn": "iqn.2001-04.example:d", "lun": 0});
    let why = "exec: \"iscsiadm\": executable file not found in $PATH";
    let world = World::new(json!({"csi": null, "iscsi": disk}));
    let node = world.start();
    let told = up(&node, "a").await.unwrap_err();
    assert_eq!((told.reason, told.message), ("FailedMount", format!("MountVolume.WaitForAttach failed for volume \"pv\" : {why}")));
    let (pod, volume) = pod_with("b", json!({"name": "data", "iscsi": disk}), json!({}));
    assert!(is_persistent(&volume));
    let told = node.set_up(&pod, &volume, None).await.unwrap_err();
    assert_eq!(told.message, format!("MountVolume.WaitForAttach failed for volume \"data\" : {why}"));
}
