//! The machine goes down: pods end before it does, those of a lower priority first (KEP-2000, KEP-2712; upstream `nodeshutdown`).
//!
//! The node holds an inhibitor of logind's, so that the machine waits until it lets go. When logind tells that the machine is to go down,
//! the node says that it is not ready, lets nobody in, and ends its pods group by group, each within the time it was given, volumes
//! included; then it lets go. Should the machine stay after all, the node is ready again. A connection that breaks is made anew, a second
//! later at first; the lock stands meanwhile, since it is a handle and not the connection. Where there is no bus when the kubelet starts, that is
//! told once, and nothing is tried again, as the original's.
//!
//! Arrows: `mod` → `groups`, `record`; `logind` → `bus` → `wire`. The manager knows logind by its trait alone.

mod bus;
mod groups;
mod logind;
mod record;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;

pub use logind::purge;
pub use record::{Ending, Times};

use crate::api::Severity;
use crate::pod::manager::Pods;
use crate::pod::{Context, Eviction, Handle};
use groups::{Group, grace, groups};

/// Reason and message of pods that end so.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Of pods that are not let in.
pub const REFUSED_REASON: &str = "NodeShutdown";
/// Their message.
pub const REFUSED_MESSAGE: &str = "Pod was rejected as the node is shutting down.";
/// What the node says while it is so.
pub const NODE_MESSAGE: &str = "node is shutting down";
/// The reason of Events of the node.
const EVENT: &str = "Shutdown";
/// First and longest wait before a connection is made anew (upstream's `dbusReconnectPeriod`).
const RECONNECT_MIN: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// How often it is asked whether logind has taken up a longer limit, and how long the first wait is; each is twice the one before.
const RAISED_LOOKS: u32 = 5;
const RAISED_PAUSE: Duration = Duration::from_millis(100);

/// While it is held, the machine waits.
pub type Lock = Box<dyn Send + Sync>;

/// Why logind does not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// No answer came.
    #[error("no answer from the bus")]
    Timeout,
}

/// logind, as far as a node needs it.
#[async_trait]
pub trait Logind: Send {
    /// How long it lets a lock delay the machine's end.
    async fn delay(&mut self) -> Result<Duration, Error>;
    /// It waits as long as this: has that stand, whatever becomes of others who had asked for more.
    async fn hold(&mut self, delay: Duration) -> Result<(), Error>;
    /// Has it wait longer, some moments later.
    async fn raise(&mut self, delay: Duration) -> Result<(), Error>;
    /// A lock that delays the machine's end.
    async fn inhibit(&mut self) -> Result<Lock, Error>;
    /// Whether the machine is to go down, or to stay after all, when that is told.
    async fn turned(&mut self) -> Result<bool, Error>;
}

type Connected = BoxFuture<'static, Result<Box<dyn Logind>, Error>>;

/// How logind is reached.
#[derive(Clone)]
pub struct Source(Arc<dyn Fn(String) -> Connected + Send + Sync>);

impl Source {
    /// By this, which is told the mark of the cluster.
    pub fn new(connect: impl Fn(String) -> Connected + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::new(|mark| Box::pin(logind::connect(mark)))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Holds the machine's end until pods have ended, if the settings say so.
pub async fn keep(cx: Arc<Context>, pods: Pods, stop: CancellationToken) {
    if cx.config.settings.shutdown.is_empty() {
        return;
    }
    let kept = async {
        let mut lock = None;
        let mut logind = match begin(&cx, &mut lock).await {
            Ok(logind) => logind,
            Err(error) => return tracing::warn!(%error, "Failed to start node shutdown manager: pods do not delay the machine's end"),
        };
        loop {
            if let Err(error) = follow(&cx, &pods, &mut *logind, &mut lock).await {
                tracing::warn!(%error, "news of the machine's end are not heard; will be tried again");
            }
            let mut pause = RECONNECT_MIN;
            logind = loop {
                tokio::time::sleep(pause).await;
                match begin(&cx, &mut lock).await {
                    Ok(logind) => {
                        // Nobody gives a lock while the machine ends: the end was called off meanwhile, unheard.
                        if cx.ending.is_near() {
                            cx.ending.set(false);
                        }
                        break logind;
                    }
                    Err(error) => tracing::debug!(%error, "no news of the machine's end"),
                }
                pause = (pause * 2).min(RECONNECT_MAX);
            };
        }
    };
    tokio::select! {
        () = kept => {}
        () = stop.cancelled() => {}
    }
}

/// Connects, has logind wait as long as all groups have, and takes a lock in the place of a former one.
async fn begin(cx: &Context, lock: &mut Option<Lock>) -> Result<Box<dyn Logind>, Error> {
    let mut logind = cx.config.logind.0(cx.config.cgroup_root.clone()).await?;
    let asked = cx.config.settings.shutdown.iter().map(|p| p.period()).fold(Duration::ZERO, Duration::saturating_add);
    if logind.delay().await? < asked {
        logind.raise(asked).await?;
        let mut pause = RAISED_PAUSE;
        for look in 1..=RAISED_LOOKS {
            let now = logind.delay().await?;
            if now >= asked {
                break;
            }
            if look == RAISED_LOOKS {
                let (asked, now) = (machinery::time::go_duration(asked), machinery::time::go_duration(now));
                return Err(Error::Refused(format!(
                    "node shutdown manager was timed out after {RAISED_LOOKS} attempts waiting for logind InhibitDelayMaxSec to update to {asked} (ShutdownGracePeriod), current value is {now}"
                )));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    } else if let Err(error) = logind.hold(asked).await {
        tracing::warn!(%error, "should another cluster go, the machine may not wait as long as this node's pods have");
    }
    *lock = Some(logind.inhibit().await?);
    Ok(logind)
}

/// Does as logind tells, until it cannot be heard any more.
async fn follow(cx: &Arc<Context>, pods: &Pods, logind: &mut dyn Logind, lock: &mut Option<Lock>) -> Result<(), Error> {
    loop {
        let near = logind.turned().await?;
        let what = if near { "event" } else { "cancellation" };
        cx.api.node_event(Severity::Normal, EVENT, &format!("Shutdown manager detected shutdown {what}"));
        tracing::info!(near, "the machine's end was told");
        cx.ending.set(near);
        if near {
            let begun = cx.now();
            note(cx, (Some(begun), None)).await;
            end(cx, pods).await;
            note(cx, (Some(begun), Some(cx.now()))).await;
            *lock = None;
        } else {
            *lock = Some(logind.inhibit().await?);
        }
    }
}

async fn note(cx: &Arc<Context>, times: Times) {
    let cx = Arc::clone(cx);
    crate::util::blocking(move || cx.ending.note(times)).await;
}

/// Ends all pods, group after group.
async fn end(cx: &Context, pods: &Pods) {
    let active = pods.all().into_iter().filter(|h| !h.ended() && !h.is_emptied()).collect();
    for Group { period, pods } in groups(&cx.config.settings.shutdown, active) {
        for handle in &pods {
            let grace = grace(&handle.pod(), period);
            handle.evict(match handle.eviction() {
                // It says why it ends already; it may take no longer than the others.
                Some(former) => Eviction { grace: former.grace.min(grace), ..former },
                None => Eviction { reason: REASON.into(), message: MESSAGE.into(), condition: Some(MESSAGE.into()), grace, for_room: false },
            });
        }
        // A driver of volumes is in a later group, so that it can give them back.
        if tokio::time::timeout(period, join_all(pods.iter().map(|h| Handle::emptied(h)))).await.is_err() {
            tracing::warn!(seconds = period.as_secs(), "pods did not end in the time they were given");
        }
    }
}
