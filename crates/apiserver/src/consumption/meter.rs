//! When kubelets are asked: for as long as somebody wants to know, and not otherwise.
//!
//! metrics-server asks every kubelet each fifteen seconds whether anybody reads it or not. Here the first question of a client (or of
//! the autoscaler, which asks in each of its periods) begins the rounds: two of them a second apart, so that the first answer has
//! figures measured for it, then one each fifteen seconds, until nobody has asked for a minute. A cluster in which nobody asks pays nothing.
//!
//! One task asks; it ends under the lock under which it would be begun again. What a kubelet does not answer is
//! asked again in the next round, and until then nothing is said of its node, as the add-on does. One that hangs holds up neither the
//! others nor, but for the first two seconds, who waits for the first figures.

use super::{nodes, samples::Samples, scrape};
use crate::{offload, world::World};
use futures_util::stream::{self, StreamExt};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

/// Between two rounds (metrics-server's `--metric-resolution`).
pub(super) const EVERY: Duration = Duration::from_secs(15);
/// Between the first two.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// How long a kubelet may take (metrics-server's `--kubelet-request-timeout`), …
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// … and while somebody waits for the first figures.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Both first rounds, and what they need beside.
const FIRST_MAX: Duration = Duration::from_secs(6);
/// How long after the last question kubelets are asked: four of the autoscaler's periods.
const WANTED: Duration = Duration::from_secs(60);
/// Kubelets that are asked at once: nodes that do not answer hold the others' places for [`ANSWER_MAX`].
const SIDE_BY_SIDE: usize = 256;
/// Rounds after which there are figures.
const ENOUGH: u64 = 2;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Meter {
    samples: RwLock<Samples>,
    asked: Mutex<Asked>,
    /// Rounds of the present task.
    rounds: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Asked {
    last: Option<Instant>,
    /// Whether a task asks.
    runs: bool,
}

/// A task that asks. However it ends, another may begin.
struct Running {
    meter: Arc<Meter>,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let mut asked = self.meter.asked.lock();
            self.meter.end(&mut asked);
        }
    }
}

impl Meter {
    pub(crate) fn new() -> Arc<Meter> {
        Arc::new(Meter { samples: RwLock::default(), asked: Mutex::default(), rounds: watch::Sender::new(0) })
    }

    /// What is known now.
    pub(super) fn samples(&self) -> RwLockReadGuard<'_, Samples> {
        self.samples.read()
    }

    /// Waits until there are figures, if that is soon.
    pub(crate) async fn ready(self: &Arc<Self>, world: &World) {
        let mut rounds = self.rounds.subscribe();
        let begins = {
            let mut asked = self.asked.lock();
            asked.last = Some(Instant::now());
            !std::mem::replace(&mut asked.runs, true)
        };
        if begins {
            let (running, world) = (Running { meter: Arc::clone(self), ended: false }, world.clone());
            // Its task lives where the network is, and not where a large answer is made.
            offload::at_home(async move { drop(tokio::spawn(keep(running, world))) }).await;
        }
        // The meter lives as long as who asks it; and what comes too late is not waited for.
        let enough = async { drop(rounds.wait_for(|rounds| *rounds >= ENOUGH).await) };
        let _ = offload::resting(timeout(FIRST_MAX, enough)).await;
    }

    /// What is known is forgotten: figures of one question are none of another, much later one.
    fn end(&self, asked: &mut Asked) {
        asked.runs = false;
        *self.samples.write() = Samples::default();
        self.rounds.send_replace(0);
    }

    async fn round(&self, world: &World, within: Duration) {
        let nodes = nodes(world);
        self.samples.write().retain(&nodes);
        let ask = |node: String| async move {
            let answer = timeout(within, scrape::node(world, &node)).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
            (node, answer)
        };
        let mut answers = std::pin::pin!(stream::iter(nodes).map(ask).buffer_unordered(SIDE_BY_SIDE));
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(batch) => self.samples.write().store(&node, batch),
                Err(why) => {
                    tracing::debug!(node, why, "a kubelet does not say what is used");
                    self.samples.write().forget(&node);
                }
            }
        }
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}

/// Asks until nobody wants to know.
async fn keep(mut running: Running, world: World) {
    let (meter, ending) = (Arc::clone(&running.meter), world.ending().clone());
    loop {
        let first = *meter.rounds.borrow() < ENOUGH;
        let began = Instant::now();
        let (within, pause) = match first {
            true => (FIRST_ANSWER_MAX, FIRST_WINDOW),
            false => (ANSWER_MAX, EVERY),
        };
        let pause = if *meter.rounds.borrow() + 1 == ENOUGH { EVERY } else { pause };
        let work = async {
            meter.round(&world, within).await;
            sleep_until(began + pause).await;
        };
        tokio::select! {
            () = ending.cancelled() => return,
            () = work => {}
        }
        let mut asked = meter.asked.lock();
        if asked.last.is_none_or(|last| last.elapsed() > WANTED) {
            meter.end(&mut asked);
            running.ended = true;
            return;
        }
    }
}
