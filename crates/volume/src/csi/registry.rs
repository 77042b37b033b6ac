//! Plugins register by a socket in a directory (the kubelet's `plugins_registry`): who is there is asked what it is, taken in, and told so;
//! whose socket goes is forgotten.
//!
//! The directory is the truth: whatever the kernel tells of it, all of it is looked at again, and compared with what is known. A socket that
//! took another's place under its name is another. Each is met by a task of its own, tried again after a pause (upstream's 500 ms to 2 min),
//! so one that hangs is in nobody's way.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::devices::{self, DevicePlugin, DevicePlugins};
use super::remote::{Remote, Root};
use super::wire::{Empty, PluginInfo, RegistrationStatus};
use crate::driver::{Driver, Failure, Info};
use crate::drivers::Drivers;

/// The type of plugins that bring volumes; those of [`devices::KIND`] bring devices.
const CSI: &str = "CSIPlugin";
/// For the first answer, and for taking note of how it ended (upstream's).
const INFO_MAX: Duration = Duration::from_secs(11);
const NOTIFY_MAX: Duration = Duration::from_secs(5);
/// First and longest wait before a socket is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(122);
/// Directories below directories, and sockets in all, that are looked at.
const DEPTH_MAX: usize = 8;
const SOCKETS_MAX: usize = 256;
/// What happens together is one look.
const SETTLE: Duration = Duration::from_millis(20);
/// After a directory could not be watched.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// Who is told of drivers that come and go: the cluster's knowledge of this node.
#[async_trait]
pub trait Installs: Send + Sync {
    /// A driver has come. It is not told that it is registered before this is done.
    async fn install(&self, driver: &str, info: &Info) -> Result<(), String>;
    /// A driver has gone.
    async fn uninstall(&self, driver: &str);
}

/// A socket, as long as it is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

struct Known {
    identity: Identity,
    /// Meets it, and tries again.
    task: JoinHandle<()>,
    /// What it registered.
    driver: Arc<Mutex<Option<Taken>>>,
}

/// What a socket has registered.
enum Taken {
    /// A driver of volumes, by its name.
    Volumes(String),
    /// A driver of devices: its name and socket.
    Devices(String, PathBuf),
}

/// The plugins of one directory.
pub struct Registry {
    dir: PathBuf,
    root: Root,
    drivers: Drivers,
    installs: Arc<dyn Installs>,
    /// Who takes drivers of devices; none: nobody.
    devices: Option<Arc<dyn DevicePlugins>>,
    /// Drivers by name, with the socket that registered each and the version that it speaks.
    registered: Arc<Mutex<HashMap<String, (PathBuf, Version)>>>,
}

impl Registry {
    /// Of a kubelet's directory.
    pub fn new(root: &Path, drivers: Drivers, installs: Arc<dyn Installs>) -> Self {
        Self { dir: root.join("plugins_registry"), root: Root(root.to_owned()), drivers, installs, devices: None, registered: Arc::default() }
    }

    /// The same, with somebody who takes drivers of devices.
    #[must_use]
    pub fn with_devices(mut self, devices: Arc<dyn DevicePlugins>) -> Self {
        self.devices = Some(devices);
        self
    }

    /// Follows the directory until `stop`. Drivers that are registered stay so.
    ///
    /// # Errors
    /// The directory cannot be made or watched.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let mut known: BTreeMap<PathBuf, Known> = BTreeMap::new();
        loop {
            // A new watch for each look: it is set before the look, so what comes in between is seen by one of them.
            let watch = match watch(&self.dir) {
                Ok(watch) => watch,
                Err(error) if known.is_empty() => return Err(error),
                // Whoever is registered stays known: who began anew would meet all a second time, and refuse them.
                Err(error) => {
                    tracing::warn!(%error, "plugins are not followed; will be tried again");
                    tokio::select! {
                        () = tokio::time::sleep(WATCH_AGAIN) => continue,
                        () = stop.cancelled() => break,
                    }
                }
            };
            self.compare(&mut known).await;
            tokio::select! {
                readable = watch.readable() => readable?,
                () = stop.cancelled() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(SETTLE) => {}
                () = stop.cancelled() => break,
            }
        }
        for one in known.into_values() {
            one.task.abort();
        }
        Ok(())
    }

    /// Meets who is new, forgets who is gone.
    async fn compare(&self, known: &mut BTreeMap<PathBuf, Known>) {
        let there = sockets(&self.dir);
        let gone: Vec<PathBuf> = known.iter().filter(|(path, k)| there.get(*path) != Some(&k.identity)).map(|(path, _)| path.clone()).collect();
        for path in gone {
            let Some(was) = known.remove(&path) else { continue };
            was.task.abort();
            // What it is just doing it does to its end, which is at its next pause: then it is known what it has registered.
            let _ = was.task.await;
            let driver = was.driver.lock().take();
            if let (Some(Taken::Devices(driver, endpoint)), Some(devices)) = (&driver, &self.devices) {
                tracing::info!(driver, socket = %path.display(), "a driver of devices has gone");
                devices.gone(driver, endpoint);
            }
            if let Some(Taken::Volumes(driver)) = driver {
                tracing::info!(driver, socket = %path.display(), "a driver of volumes has gone");
                if forget(&self.registered, &self.drivers, &path, &driver) {
                    self.installs.uninstall(&driver).await;
                }
            }
        }
        for (path, identity) in there {
            known.entry(path.clone()).or_insert_with(|| {
                let driver = Arc::new(Mutex::new(None));
                let meeting = Meeting {
                    socket: path,
                    root: self.root.clone(),
                    drivers: self.drivers.clone(),
                    installs: Arc::clone(&self.installs),
                    devices: self.devices.clone(),
                    registered: Arc::clone(&self.registered),
                    driver: Arc::clone(&driver),
                };
                Known { identity, task: tokio::spawn(meeting.run()), driver }
            });
        }
    }
}

/// Forgets a driver that a socket has registered; whether nobody has registered it again under its name meanwhile.
fn forget(registered: &Mutex<HashMap<String, (PathBuf, Version)>>, drivers: &Drivers, socket: &Path, driver: &str) -> bool {
    let mut all = registered.lock();
    if all.get(driver).is_some_and(|(by, _)| by == socket) {
        all.remove(driver);
        drivers.remove(driver);
    }
    !all.contains_key(driver)
}

/// One socket that is met.
struct Meeting {
    socket: PathBuf,
    root: Root,
    drivers: Drivers,
    installs: Arc<dyn Installs>,
    devices: Option<Arc<dyn DevicePlugins>>,
    registered: Arc<Mutex<HashMap<String, (PathBuf, Version)>>>,
    driver: Arc<Mutex<Option<Taken>>>,
}

impl Meeting {
    async fn run(self) {
        let mut pause = PAUSE_MIN;
        while let Err(error) = self.meet().await {
            tracing::warn!(socket = %self.socket.display(), error, "a plugin was not registered; will be tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn meet(&self) -> Result<(), String> {
        let (channel, at) = (Channel::new(&self.socket), self.socket.display().to_string());
        let info: PluginInfo = channel
            .call("pluginregistration.Registration/GetInfo", &Empty {}, INFO_MAX)
            .await
            .map_err(|e| format!("RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {at}, err: {e}"))?;
        if info.kind == devices::KIND
            && let Some(devices) = &self.devices
        {
            return self.meet_devices(&channel, &info, devices.as_ref()).await;
        }
        if info.kind != CSI {
            let why = format!("RegisterPlugin error -- no handler registered for plugin type: {} at socket {at}", info.kind);
            self.notify(&channel, Some(&why)).await?;
            return Err(why);
        }
        let endpoint = if info.endpoint.is_empty() { self.socket.clone() } else { self.root.real(Path::new(&info.endpoint)) };
        let version = match self.validate(&info, &endpoint) {
            Ok(version) => version,
            Err(why) => {
                self.notify(&channel, Some(&format!("RegisterPlugin error -- plugin validation failed with err: {why}"))).await?;
                return Err(why);
            }
        };
        if let Err(why) = self.take_in(&info.name, &endpoint, version).await {
            let why = format!("RegisterPlugin error -- plugin registration failed with err: {why}");
            self.notify(&channel, Some(&why)).await?;
            return Err(why);
        }
        if let Err(why) = self.notify(&channel, None).await {
            self.leave(&info.name).await;
            // At last: whoever ends this task in the middle undoes it.
            self.driver.lock().take();
            return Err(format!("RegisterPlugin error -- failed to send registration status at socket {at}, err: {why}"));
        }
        tracing::info!(driver = info.name, endpoint = %endpoint.display(), "a driver of volumes has come");
        Ok(())
    }

    /// Takes a driver of devices in.
    async fn meet_devices(&self, channel: &Channel, info: &PluginInfo, devices: &dyn DevicePlugins) -> Result<(), String> {
        let endpoint = if info.endpoint.is_empty() { self.socket.clone() } else { self.root.real(Path::new(&info.endpoint)) };
        let plugin = match DevicePlugin::offered(&info.name, &endpoint, &info.supported_versions) {
            Ok(plugin) if is_name(&info.name) => plugin,
            told => {
                let why = told.err().unwrap_or_else(|| format!("{:?} is none that a driver may have as its name", info.name));
                self.notify(channel, Some(&format!("RegisterPlugin error -- plugin validation failed with err: {why}"))).await?;
                return Err(why);
            }
        };
        if let Err(why) = devices.come(&info.name, plugin) {
            let why = format!("RegisterPlugin error -- plugin registration failed with err: {why}");
            self.notify(channel, Some(&why)).await?;
            return Err(why);
        }
        // Whoever ends this task in the middle undoes it.
        *self.driver.lock() = Some(Taken::Devices(info.name.clone(), endpoint.clone()));
        if let Err(why) = self.notify(channel, None).await {
            self.driver.lock().take();
            devices.gone(&info.name, &endpoint);
            return Err(format!("RegisterPlugin error -- failed to send registration status at socket {}, err: {why}", self.socket.display()));
        }
        tracing::info!(driver = info.name, endpoint = %endpoint.display(), "a driver of devices has come");
        Ok(())
    }

    async fn notify(&self, channel: &Channel, error: Option<&str>) -> Result<(), String> {
        let status = RegistrationStatus { plugin_registered: error.is_none(), error: error.unwrap_or_default().to_owned() };
        let told = channel.call::<_, Empty>("pluginregistration.Registration/NotifyRegistrationStatus", &status, NOTIFY_MAX).await;
        told.map(drop).map_err(|e| format!("{}: {e}", error.unwrap_or_default()))
    }

    fn validate(&self, info: &PluginInfo, endpoint: &Path) -> Result<Version, String> {
        let name = &info.name;
        let failed = |why: String| format!("validation failed for CSI Driver {name} at endpoint {}: {why}", endpoint.display());
        let of = |why: String| failed(format!("kubernetes.io/csi: ValidatePlugin for CSI driver {name:?} failed. {why}"));
        if !is_name(name) {
            return Err(of("The name is none that a driver may have".into()));
        }
        if info.supported_versions.is_empty() {
            return Err(of("Plugin returned an empty list for supported versions".into()));
        }
        let version = Version::highest(&info.supported_versions)
            .map_err(|e| of(format!("None of the versions specified {} are supported. err={e}", listed(&info.supported_versions))))?;
        let taken = |by: &str| of(format!("Another driver with the same name is already registered with a higher supported version: {by:?}"));
        match self.registered.lock().get(name) {
            Some((_, has)) if *has >= version => Err(taken(&has.text())),
            Some(_) => Ok(version),
            // What is built in is in nobody's place.
            None if self.drivers.get(name).is_some() => Err(taken("built in")),
            None => Ok(version),
        }
    }

    async fn take_in(&self, name: &str, endpoint: &Path, version: Version) -> Result<(), String> {
        let words = |e: Failure| e.message;
        let driver = Remote::meet(endpoint, &self.root).await.map_err(words)?;
        let info = driver.info().await.map_err(words)?;
        // Before it is done: whoever ends this task in the middle undoes it.
        *self.driver.lock() = Some(Taken::Volumes(name.to_owned()));
        // Nor does one of this name who goes from now on take it along.
        self.registered.lock().insert(name.to_owned(), (self.socket.clone(), version));
        if let Err(why) = self.installs.install(name, &info).await {
            // Half of it may be there.
            self.leave(name).await;
            self.driver.lock().take();
            return Err(why);
        }
        let all = self.registered.lock();
        if all.get(name).is_some_and(|(by, _)| *by == self.socket) {
            self.drivers.add(name, Arc::new(driver));
        }
        Ok(())
    }

    /// Undoes its registration, if nobody else has taken the name.
    async fn leave(&self, name: &str) {
        if forget(&self.registered, &self.drivers, &self.socket, name) {
            self.installs.uninstall(name).await;
        }
    }
}

/// Whether a driver may be called so: it becomes the name of a directory, and of the cluster's object.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63 && name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().last()) && !name.contains("..")
}

/// A list as Go's `%q` writes it.
fn listed(all: &[String]) -> String {
    format!("[{}]", all.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" "))
}

/// A version, by its numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Vec<u64>);

impl Version {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("could not parse {text:?} as version");
        let plain = text.strip_prefix('v').unwrap_or(text);
        let digits = plain.find(|c: char| !c.is_ascii_digit() && c != '.').map_or(plain, |end| &plain[..end]);
        let numbers: Vec<u64> = digits.split('.').map(|n| n.parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
        if numbers.len() < 2 { Err(bad()) } else { Ok(Self(numbers)) }
    }

    /// The highest that this kubelet speaks: 1.x (upstream's `HighestSupportedVersion`).
    fn highest(all: &[String]) -> Result<Self, String> {
        let mut error = "<nil>".to_owned();
        let parsed = all.iter().rev().filter_map(|v| Self::parse(v).map_err(|e| error = e).ok());
        let highest = parsed.filter(|v| v.0[0] <= 1).max();
        let highest = highest.ok_or_else(|| format!("could not find a highest supported version from versions ([{}]) reported: {error}", all.join(" ")))?;
        if highest.0[0] == 1 { Ok(highest) } else { Err(format!("highest supported version reported is {}, must be v1.x", highest.text())) }
    }

    fn text(&self) -> String {
        self.0.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
    }
}

/// The sockets in a directory and those below it; names that begin with a dot are left out, and no link is followed.
fn sockets(dir: &Path) -> BTreeMap<PathBuf, Identity> {
    let mut out = BTreeMap::new();
    for dir in directories(dir) {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            let Ok(meta) = entry.metadata() else { continue };
            if !hidden && meta.file_type().is_socket() && out.len() < SOCKETS_MAX {
                out.insert(entry.path(), Identity { device: meta.dev(), inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) });
            }
        }
    }
    out
}

/// The directory and those below it.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let mut out = vec![dir.to_owned()];
    let mut level = vec![dir.to_owned()];
    for _ in 0..DEPTH_MAX {
        let entries = level.iter().flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten());
        level = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()) && !e.file_name().to_string_lossy().starts_with('.')).map(|e| e.path()).collect();
        level.truncate(SOCKETS_MAX.saturating_sub(out.len()));
        out.extend(level.iter().cloned());
    }
    out
}

/// What becomes readable with the next news of the directories. (A pipe is what tokio can wait for without reading from it.)
fn watch(dir: &Path) -> io::Result<pipe::Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let news = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    // Somebody may have taken the directory itself.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for one in directories(dir) {
        let watched = inotify.add_watch(&one, news);
        if one == dir {
            watched?;
        }
    }
    pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_chosen_as_upstream_does() {
        let of = |all: &[&str]| Version::highest(&all.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>()).map(|v| v.text());
        assert_eq!(of(&["1.0.0", "1.12.0", "2.0.0"]), Ok("1.12.0".into()));
        assert_eq!(of(&["v1.3.0-rc1"]), Ok("1.3.0".into()));
        assert_eq!(of(&["0.3.0"]).unwrap_err(), "highest supported version reported is 0.3.0, must be v1.x");
        assert_eq!(of(&["x"]).unwrap_err(), "could not find a highest supported version from versions ([x]) reported: could not parse \"x\" as version");
    }

    #[test]
    fn a_name_is_one_of_a_directory() {
        assert!(is_name("csi.example.com") && is_name("a"));
        for bad in ["", "a/b", "..", "a..b", ".a", "a.", "-a", "ü", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
