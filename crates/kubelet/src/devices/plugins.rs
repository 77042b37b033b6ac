//! The drivers of devices that have registered, and what becomes of their ResourceSlices when they go (upstream `dra/plugin`): a driver
//! that nobody reaches for [`PATIENCE`] offers nothing any more, so its slices of this node are deleted; and all of them when a kubelet
//! starts, since drivers publish theirs anew.
//!
//! A driver may have several sockets while it is being replaced: the last that is reached counts. Whether one is reached is known by a
//! connection that is held open. Those that tell how their devices are are heard as long as they are registered ([`super::health`]).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::volume::csi::{PreparedClaim, UnpreparedClaim};
use ::volume::{Code, DeviceClaim, DevicePlugin, DevicePlugins, Failure, PreparedDevice};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::metrics::Counts;
use crate::api::SharedApi;

/// Upstream `defaultWipingDelay`.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before a socket is tried again that nobody answers at, or that has ended a connection.
const RECONNECT: Duration = Duration::from_secs(1);
/// Before a driver that ceased to tell how its devices are is asked again.
const HEALTH_RETRY: Duration = Duration::from_secs(5);
/// First and longest pause before slices are deleted again that could not be.
const WIPE_MIN: Duration = Duration::from_secs(1);
const WIPE_MAX: Duration = Duration::from_secs(300);

/// Who hears that devices of a driver are otherwise than before: its name, and the pool and name of each.
pub(super) type News = Arc<dyn Fn(&str, &[(String, String)]) + Send + Sync>;

/// The drivers of this node.
pub struct Plugins {
    api: SharedApi,
    node: String,
    health: Arc<Health>,
    news: News,
    counts: Arc<Counts>,
    stop: CancellationToken,
    all: Mutex<HashMap<String, Known>>,
    this: Weak<Self>,
}

/// What is known of a driver.
#[derive(Default)]
struct Known {
    sockets: Vec<Socket>,
    /// Deletes its slices when its time is over.
    wiping: Option<AbortHandle>,
}

struct Socket {
    plugin: DevicePlugin,
    reached: Arc<AtomicBool>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A driver that is asked for something.
pub(super) struct Driver {
    name: String,
    plugin: DevicePlugin,
    counts: Arc<Counts>,
}

impl Driver {
    /// Has claims prepared; what containers get, by the claim's UID.
    ///
    /// # Errors
    /// It did not do so for all of them: why.
    pub(super) async fn prepare(&self, claims: &[DeviceClaim]) -> Result<BTreeMap<String, Vec<PreparedDevice>>, String> {
        let method = "NodePrepareResources";
        let all = self.counted(method, self.plugin.prepare(claims)).await?;
        checked(method, claims, all.into_iter().map(|(uid, PreparedClaim { devices, error })| (uid, error, devices)))
    }

    /// Has taken back what was prepared for claims.
    ///
    /// # Errors
    /// It did not do so for all of them: why.
    pub(super) async fn unprepare(&self, claims: &[DeviceClaim]) -> Result<(), String> {
        let method = "NodeUnprepareResources";
        let all = self.counted(method, self.plugin.unprepare(claims)).await?;
        checked(method, claims, all.into_iter().map(|(uid, UnpreparedClaim { error })| (uid, error, ()))).map(drop)
    }

    async fn counted<T>(&self, method: &str, call: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
        let begun = Instant::now();
        let answer = call.await;
        let code = answer.as_ref().err().map_or_else(|| "OK".to_owned(), |failure| failure.code.to_string());
        self.counts.call(&self.name, format!("/{}", self.plugin.method(method)), code, begun.elapsed());
        answer.map_err(|failure| format!("{method}: {}", failure.rpc()))
    }
}

/// An answer for each claim that was asked for, and for no other.
fn checked<T>(method: &str, claims: &[DeviceClaim], answers: impl Iterator<Item = (String, String, T)>) -> Result<BTreeMap<String, T>, String> {
    let mut found = BTreeMap::new();
    for (uid, error, answer) in answers {
        let Some(claim) = claims.iter().find(|claim| claim.uid == uid) else {
            return Err(format!("{method} returned result for unknown claim UID {uid}"));
        };
        if !error.is_empty() {
            return Err(format!("{method} failed for ResourceClaim {}: {error}", claim.name));
        }
        found.insert(uid, answer);
    }
    match claims.len() - found.len() {
        0 => Ok(found),
        left => Err(format!("{method} skipped {left} ResourceClaims")),
    }
}

impl Plugins {
    /// None yet; what a former process's drivers offered is deleted.
    pub(super) fn new(api: SharedApi, node: &str, health: Arc<Health>, news: News, counts: Arc<Counts>, stop: CancellationToken) -> Arc<Self> {
        let new = Arc::new_cyclic(|this| Self { api, node: node.to_owned(), health, news, counts, stop, all: Mutex::default(), this: this.clone() });
        new.spawn(Self::wipe(new.clone(), String::new()));
        new
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let stop = self.stop.clone();
        let work = async move {
            stop.run_until_cancelled(work).await;
        };
        tokio::spawn(work).abort_handle()
    }

    /// A driver: at the last socket that is reached, else at the last.
    pub(super) fn get(&self, driver: &str) -> Result<Driver, String> {
        let all = self.all.lock();
        let sockets = all.get(driver).map(|known| known.sockets.as_slice()).unwrap_or_default();
        let reached = sockets.iter().rev().find(|socket| socket.reached.load(Ordering::Relaxed));
        let socket = reached.or(sockets.last()).ok_or_else(|| format!("DRA driver {driver} is not registered"))?;
        Ok(Driver { name: driver.to_owned(), plugin: socket.plugin.clone(), counts: Arc::clone(&self.counts) })
    }

    /// Begins to wait for a driver that nobody reaches, or ceases to.
    fn look(&self, driver: &str) {
        let mut all = self.all.lock();
        let known = all.entry(driver.to_owned()).or_default();
        if known.sockets.iter().any(|socket| socket.reached.load(Ordering::Relaxed)) {
            if let Some(wiping) = known.wiping.take() {
                wiping.abort();
            }
            return;
        }
        let Some(this) = self.this.upgrade() else { return };
        if known.wiping.as_ref().is_none_or(AbortHandle::is_finished) {
            let driver = driver.to_owned();
            known.wiping = Some(self.spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                Self::wipe(this, driver).await;
            }));
        }
    }

    /// Deletes the slices of this node and a driver; of all drivers if it has no name.
    async fn wipe(this: Arc<Self>, driver: String) {
        let mut pause = WIPE_MIN;
        loop {
            let done = match this.api.get_node(&this.node).await {
                Ok(Some(_)) => this.api.delete_slices(&this.node, &driver).await.map_err(|error| error.to_string()),
                Ok(None) => Err("the node is not there yet".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let Err(error) = done else { return };
            tracing::debug!(error, driver, "the slices of a driver that is gone stay; will be tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(WIPE_MAX);
        }
    }

    async fn watch(this: Weak<Self>, driver: String, plugin: DevicePlugin, reached: Arc<AtomicBool>) {
        let tell = |is: bool| {
            if reached.swap(is, Ordering::Relaxed) != is
                && let Some(this) = this.upgrade()
            {
                this.look(&driver);
            }
        };
        loop {
            let _ = plugin.channel().hold(|| tell(true)).await;
            tell(false);
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Hears how a driver's devices are, as long as it can tell.
    async fn hear(this: Weak<Self>, driver: String, plugin: DevicePlugin) {
        loop {
            let each = |report| {
                let Some(this) = this.upgrade() else { return };
                let news = this.health.report(&driver, report);
                if !news.is_empty() {
                    (this.news)(&driver, &news);
                }
            };
            let ended = plugin.follow_health(each).await;
            let Some(this) = this.upgrade() else { return };
            this.health.forget(&driver);
            // One that offers the service and does not have it: it registers again when it does.
            if ended.is_err_and(|failure| failure.code == Code::Unimplemented) {
                return;
            }
            drop(this);
            tokio::time::sleep(HEALTH_RETRY).await;
        }
    }
}

impl DevicePlugins for Plugins {
    fn come(&self, driver: &str, plugin: DevicePlugin) -> Result<(), String> {
        let mut all = self.all.lock();
        let known = all.entry(driver.to_owned()).or_default();
        if known.sockets.iter().any(|socket| socket.plugin.endpoint() == plugin.endpoint()) {
            return Err(format!("endpoint {} already registered for DRA driver plugin {driver}", plugin.endpoint().display()));
        }
        let reached = Arc::new(AtomicBool::new(false));
        let mut tasks = vec![self.spawn(Self::watch(self.this.clone(), driver.to_owned(), plugin.clone(), Arc::clone(&reached)))];
        if plugin.tells_health() {
            tasks.push(self.spawn(Self::hear(self.this.clone(), driver.to_owned(), plugin.clone())));
        }
        known.sockets.push(Socket { plugin, reached, tasks });
        drop(all);
        self.look(driver);
        Ok(())
    }

    fn gone(&self, driver: &str, endpoint: &Path) {
        let mut all = self.all.lock();
        if let Some(known) = all.get_mut(driver) {
            known.sockets.retain(|socket| socket.plugin.endpoint() != endpoint);
            if known.sockets.is_empty() {
                self.health.forget(driver);
            }
        }
        drop(all);
        self.look(driver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_held_against_the_question() {
        let claim = |uid: &str| DeviceClaim { namespace: "n".to_owned(), uid: uid.to_owned(), name: format!("c-{uid}") };
        let told = |answers: &[(&str, &str)]| {
            let answers = answers.iter().map(|(uid, error)| ((*uid).to_owned(), (*error).to_owned(), ()));
            checked("M", &[claim("1"), claim("2")], answers).map(|found| found.len())
        };
        assert_eq!(told(&[("1", ""), ("2", "")]), Ok(2));
        assert_eq!(told(&[("1", "")]), Err("M skipped 1 ResourceClaims".to_owned()));
        assert_eq!(told(&[("3", "")]), Err("M returned result for unknown claim UID 3".to_owned()));
        assert_eq!(told(&[("2", "no")]), Err("M failed for ResourceClaim c-2: no".to_owned()));
    }
}
