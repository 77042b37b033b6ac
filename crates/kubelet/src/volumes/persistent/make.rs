//! Bringing a driver's volume to a pod: staged once for all pods of the node, published for this one, given to its group.
//!
//! A task of its own does that, which ends whether or not anybody waits for it: what it leaves on the host must be known. It holds
//! the volume alone, so its calls come one after the other, and whoever takes the volume away comes after it. Which failures leave
//! something behind is upstream's rule ([`Failure::is_final`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ::volume::{Driver, Failure, Mode, Publish, Secrets, Stage, Volume};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::call::{Trouble, access, ends, rpc};
use super::place::{self, Data};
use super::policy::Policy;
use super::slot::{Slot, Step, Use};
use super::spec::{Csi, Spec, hashed};
use super::{Persistent, ownership};
use crate::api::{RefKind, RefObject};
use crate::cri::PodUid;
use crate::util;

/// A volume to be brought to a pod.
pub(super) struct Job {
    pub(super) pod: Arc<Pod>,
    pub(super) uid: PodUid,
    pub(super) spec: Spec,
    pub(super) csi: Csi,
    pub(super) policy: Policy,
    pub(super) slot: Arc<Slot>,
    /// What its attachment tells the driver.
    pub(super) attached: BTreeMap<String, String>,
    /// It is published already and is to be so again.
    pub(super) again: bool,
}

impl Job {
    /// A step failed: the Event's words.
    fn trouble(&self, step: &str, why: impl std::fmt::Display) -> Trouble {
        match (self.spec.block, step) {
            (false, step) => Trouble::mount(&format!("MountVolume.{step}"), &self.spec.name, why),
            (true, "MountDevice") => Trouble::map("MapVolume.SetUpDevice", &self.spec.name, why),
            (true, "SetUp") => Trouble::map("MapVolume.MapPodDevice", &self.spec.name, why),
            (true, step) => Trouble::map(&format!("MapVolume.{step}"), &self.spec.name, why),
        }
    }

    /// The group that the pod's files are to be of.
    fn group(&self) -> Option<u32> {
        super::super::fs_group(&self.pod)
    }

    /// The volume as its driver is told of it.
    fn volume(&self, driver: &dyn Driver, attributes: BTreeMap<String, String>) -> Volume {
        let can = driver.abilities();
        let mode = if self.spec.block {
            Mode::Block
        } else {
            Mode::Filesystem { fs_type: self.csi.fs_type.clone(), options: self.spec.options.clone(), group: self.group().filter(|_| can.mount_group) }
        };
        Volume { handle: self.csi.handle.clone(), attributes, attached: self.attached.clone(), mode, access: access(&self.spec.modes, can) }
    }

    fn change<T>(&self, what: impl FnOnce(&mut Use) -> T) -> Option<T> {
        self.slot.state.lock().pods.get_mut(&self.uid).map(what)
    }
}

impl Persistent {
    /// Does it, alone with the volume.
    pub(super) async fn make(self, job: Job) -> Result<PathBuf, Trouble> {
        let _busy = Arc::clone(&job.slot.busy).lock_owned().await;
        if !self.may_begin(&job)? {
            return Ok(self.target(&job));
        }
        let made = self.bring(&job).await;
        let mut state = job.slot.state.lock();
        match &made {
            Ok(_) => state.went_well(),
            Err(_) => state.failed(Instant::now()),
        }
        made
    }

    /// Whether there is anything to do; an error if it must not be done.
    fn may_begin(&self, job: &Job) -> Result<bool, Trouble> {
        let state = job.slot.state.lock();
        let Some(mine) = state.pods.get(&job.uid) else { return Err(job.trouble("SetUp", "the pod is to stop")) };
        if mine.published == Step::Done && !job.again {
            return Ok(false);
        }
        if job.spec.one_pod() && state.pods.iter().any(|(uid, other)| *uid != job.uid && other.published != Step::Nothing) {
            let why = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
            return Err(if job.spec.block { job.trouble("SetUpDevice", why) } else { job.trouble("SetUp", why) });
        }
        Ok(true)
    }

    fn target(&self, job: &Job) -> PathBuf {
        self.0.places.target(&job.uid.0, &job.spec.name, job.spec.block)
    }

    fn staging(&self, job: &Job) -> PathBuf {
        let places = &self.0.places;
        if job.spec.block { places.staged_device(&job.spec.name) } else { places.staged(&job.csi.driver, &job.csi.handle) }
    }

    async fn bring(&self, job: &Job) -> Result<PathBuf, Trouble> {
        let (key, what) = if job.csi.ephemeral {
            ("SetUp", "mounter.SetUpAt failed to get CSI client")
        } else {
            ("MountDevice", "attacher.MountDevice failed to create newCsiDriverClient")
        };
        let missing = || job.trouble(key, format!("kubernetes.io/csi: {what}: driver name {} not found in the list of registered CSI drivers", job.csi.driver));
        let driver = self.0.drivers.get(&job.csi.driver).ok_or_else(missing)?;
        let stages = driver.abilities().stage && !job.csi.ephemeral;
        let staged = stages.then(|| self.staging(job));
        if job.spec.block {
            self.note_device(job).await.map_err(|e| Trouble::map("MapVolume.NewBlockVolumeMapper initialization", &job.spec.name, e))?;
        }
        match &staged {
            Some(at) => self.stage(job, &*driver, at).await?,
            // What is written down of a device goes when nobody has it, whether or not its driver staged it.
            None if job.spec.block => job.slot.state.lock().staged = Step::Done,
            None => {}
        }
        let target = self.target(job);
        self.publish(job, &*driver, staged.as_ref(), &target).await?;
        if job.spec.block {
            self.show_device(job, &target).await?;
        } else if !job.again {
            self.give(job, &*driver, &target).await?;
        }
        if !job.again {
            self.grow_at_mount(job, &driver, &target, staged.as_deref()).await?;
        }
        job.change(|mine| (mine.published, mine.found) = (Step::Done, false));
        Ok(target)
    }

    /// Writes down whose a device is before anything is made of it.
    async fn note_device(&self, job: &Job) -> Result<(), String> {
        let dir = self.0.places.device_data(&job.spec.name);
        let data = self.data(job);
        let made = util::blocking(move || place::make(&dir).and_then(|()| place::save(&dir, &data))).await;
        let mut state = job.slot.state.lock();
        state.device = Some(job.spec.name.clone());
        drop(state);
        made.map_err(|e| format!("kubernetes.io/csi: csi.NewBlockVolumeMapper failed to save volume info data: {e}"))
    }

    /// What is written down of a pod's volume.
    fn data(&self, job: &Job) -> Data {
        let (csi, node) = (&job.csi, self.0.node_name.as_str());
        let attachment = hashed(&[&csi.handle, &csi.driver, node]);
        let mut data = Data::new([
            ("attachmentID", attachment.as_str()),
            ("driverName", &csi.driver),
            ("nodeName", node),
            ("specVolID", &job.spec.name),
            ("volumeHandle", &csi.handle),
        ]);
        if !job.spec.block {
            data.0.insert("volumeLifecycleMode".into(), if csi.ephemeral { "Ephemeral" } else { "Persistent" }.into());
        }
        data
    }

    async fn stage(&self, job: &Job, driver: &dyn Driver, at: &PathBuf) -> Result<(), Trouble> {
        let before = job.slot.state.lock().staged;
        if before == Step::Done {
            return Ok(());
        }
        let failed = |why: String| job.trouble("MountDevice", why);
        let secrets = self.secrets(job.csi.stage_secret.as_ref(), "NodeStageSecretRef").await.map_err(failed)?;
        let volume = job.volume(driver, job.csi.attributes.clone());
        // From here on something of it is on the host.
        job.slot.state.lock().staged = Step::Perhaps;
        let (dir, block) = (at.clone(), job.spec.block);
        let data = Data::new([("driverName", job.csi.driver.as_str()), ("volumeHandle", &job.csi.handle)]);
        let made = util::blocking(move || {
            place::make(&dir)?;
            match dir.parent().filter(|_| !block) {
                Some(parent) => place::save(parent, &data),
                None => Ok(()),
            }
        });
        made.await.map_err(|e| failed(format!("kubernetes.io/csi: attacher.MountDevice failed to create dir {:?}:  {e}", at.display().to_string())))?;
        match ends(driver.stage(Stage { volume: &volume, at, secrets: &secrets })).await {
            Ok(()) => {
                job.slot.state.lock().staged = Step::Done;
                Ok(())
            }
            Err(failure) => {
                if failure.is_final() && before == Step::Nothing {
                    self.clear_staged(job, at).await;
                }
                Err(failed(rpc(&failure)))
            }
        }
    }

    /// A driver says that it has staged nothing.
    async fn clear_staged(&self, job: &Job, at: &std::path::Path) {
        let (at, dirs) = (at.to_owned(), job.spec.block.then(|| self.0.places.device_dirs(&job.spec.name)));
        let cleared = util::blocking(move || match &dirs {
            Some(dirs) => place::clear_devices(dirs),
            None => place::clear(&at),
        });
        match cleared.await {
            Ok(()) => job.slot.state.lock().staged = Step::Nothing,
            Err(error) => tracing::warn!(volume = job.slot.key, %error, "the place of a volume that was not staged stays"),
        }
    }

    async fn publish(&self, job: &Job, driver: &dyn Driver, staged: Option<&PathBuf>, target: &PathBuf) -> Result<(), Trouble> {
        let failed = |why: String| job.trouble("SetUp", why);
        job.policy.supports(&job.csi).map_err(|e| failed(format!("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: {e}")))?;
        let mut secrets = self.secrets(job.csi.publish_secret.as_ref(), "NodePublishSecretRef").await.map_err(failed)?;
        let mut attributes = job.csi.attributes.clone();
        attributes.extend(job.policy.pod_info(&job.pod, &job.csi));
        if !job.spec.block {
            let tokens = job.policy.tokens(&self.0.api, &job.pod).await;
            let (tokens, secret) =
                tokens.map_err(|e| failed(format!("kubernetes.io/csi: mounter.SetUpAt failed to get service accoount token attributes: {e}")))?;
            if secret { secrets.0.extend(tokens) } else { attributes.extend(tokens) }
        }
        let volume = job.volume(driver, attributes);
        let first = job.change(|mine| {
            let first = mine.published == Step::Nothing && !mine.found;
            mine.published = mine.published.max(Step::Perhaps);
            first
        });
        let Some(first) = first else { return Err(failed("the pod is to stop".into())) };
        let (at, data, block, link) = (target.clone(), self.data(job), job.spec.block, self.0.places.device_link(&job.uid.0, &job.spec.name));
        let made = util::blocking(move || {
            let Some(parent) = at.parent() else { return Ok(()) };
            place::make(parent)?;
            if block { place::link(&link, &at) } else { place::save(parent, &data) }
        });
        made.await.map_err(|e| failed(format!("kubernetes.io/csi: mounter.SetUpAt failed to save volume info data: {e}")))?;
        let publish = Publish { volume: &volume, staged: staged.map(PathBuf::as_path), target, readonly: job.spec.readonly, secrets: &secrets };
        let Err(failure) = ends(driver.publish(publish)).await else { return Ok(()) };
        if failure.is_final() && first && !job.again {
            self.clear_published(job, target).await;
        }
        Err(failed(rpc(&failure)))
    }

    /// A driver says that it has published nothing.
    async fn clear_published(&self, job: &Job, target: &std::path::Path) {
        let (at, block, link) = (target.to_owned(), job.spec.block, self.0.places.device_link(&job.uid.0, &job.spec.name));
        match util::blocking(move || place::clear_published(&at, block.then_some(link.as_path()))).await {
            Ok(()) => drop(job.change(|mine| mine.published = Step::Nothing)),
            Err(error) => tracing::warn!(volume = job.slot.key, %error, "the place of a volume that was not published stays"),
        }
    }

    /// A device that is there is told of, as upstream does.
    async fn show_device(&self, job: &Job, target: &std::path::Path) -> Result<(), Trouble> {
        use std::os::unix::fs::FileTypeExt;
        let at = target.to_owned();
        let looked = self.0.looks.look(&job.uid.0, move || std::fs::metadata(&at).map(|m| m.file_type().is_block_device()).map_err(|e| e.to_string()));
        match looked.await {
            Ok(true) => {}
            Ok(false) => return Err(job.trouble("MapBlockVolume", format!("{} is not a block device", target.display()))),
            Err(e) => return Err(job.trouble("EvalHostSymlinks", e)),
        }
        let dirs = self.0.places.device_dirs(&job.spec.name);
        let link = self.0.places.device_link(&job.uid.0, &job.spec.name);
        let maps = [("globalMapPath", dirs[3].as_path()), ("volumeMapPath", link.parent().unwrap_or(&link))];
        for (what, at) in maps {
            let message = format!("MapVolume.MapPodDevice succeeded for volume {:?} {what} {:?}", job.spec.name, at.display().to_string());
            self.0.api.pod_event(&job.pod, None, crate::api::Severity::Normal, "SuccessfulMountVolume", &message);
        }
        Ok(())
    }

    /// Gives the volume's files to the pod's group, where its driver did not.
    async fn give(&self, job: &Job, driver: &dyn Driver, target: &std::path::Path) -> Result<(), Trouble> {
        let Some(group) = job.group() else { return Ok(()) };
        if driver.abilities().mount_group || !job.policy.gives_group(&job.spec, &job.csi) {
            return Ok(());
        }
        let Some(stop) = job.change(|mine| Arc::clone(&mine.stopping)) else { return Ok(()) };
        let wanted = ownership::Wanted { at: target.to_owned(), group, only_on_mismatch: ownership::only_on_mismatch(&job.pod), stop };
        let given = ownership::give(&self.0.api, &job.pod, wanted).await;
        given.map_err(|e| job.trouble("SetUp", format!("applyFSGroup failed for vol {}: {e}", job.csi.handle)))
    }

    /// A secret for a driver's call; none where none is named.
    pub(super) async fn secrets(&self, named: Option<&(String, String)>, what: &str) -> Result<Secrets, String> {
        let Some((namespace, name)) = named else { return Ok(Secrets::default()) };
        let failed = |e: String| {
            format!(
                "fetching {what} {namespace}/{name} failed: kubernetes.io/csi: failed to find the secret {name} in the namespace {namespace} with error: {e}"
            )
        };
        let (found, _) = self.0.api.get_ref(RefKind::Secret, namespace, name).await.map_err(|e| failed(e.to_string()))?;
        let Some(RefObject::Secret(secret)) = found else { return Err(failed(format!("secrets {name:?} not found"))) };
        let text = |(k, v): (&String, &k8s_openapi::ByteString)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned());
        Ok(Secrets(secret.data.iter().flatten().map(text).collect()))
    }
}

/// Whether a failure is of a driver that is not there.
pub(super) fn not_registered(driver: &str) -> Failure {
    Failure::new(::volume::Code::Unavailable, format!("driver name {driver} not found in the list of registered CSI drivers"))
}
