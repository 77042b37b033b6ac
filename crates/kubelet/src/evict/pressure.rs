//! A node that runs short: images and, one at a time, pods make room.
//!
//! Thresholds are the flags' ([`super::signals`]); what they come to over time is a pure step ([`super::state`]). By default that of the
//! images' file system counts only where it is another than the node's: on one disk for all a pod would be evicted at 85 %, where image
//! collection only begins. Who names it means it. (Upstream removes ended containers as well before it evicts; here they are all that is known
//! of a pod's past runs, and stay.)

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::number;
use super::observe::observe;
use super::rank::{Candidate, Usage, message, rank};
use super::signals::{Observations, Signal, Threshold};
use super::state;
use super::take::{self, Parts, evict, evictable, measure, round};
use crate::api::Severity;
use crate::cri::{Container, Measure};
use crate::images::collect;
use crate::pod::manager::Pods;
use crate::pod::{Context, Handle};

/// What the node is short of.
pub struct Starved {
    /// What was observed.
    pub observed: Observations,
    /// The thresholds that are to be acted upon.
    pub thresholds: Vec<Threshold>,
    /// Whether images have a file system of their own.
    apart: bool,
}

/// Looks at the node, and remembers what it is short of.
pub async fn look(cx: &Arc<Context>) -> Starved {
    let (observed, apart) = observe(cx).await;
    let thresholds = cx.pressure.step(&cx.config.settings.eviction.thresholds, &observed);
    Starved { observed, thresholds, apart }
}

/// Makes room for the first of what is short, by images that nobody uses and else by one pod, which is answered.
pub async fn relieve(cx: &Arc<Context>, pods: &Pods, starved: &Starved) -> Option<Arc<Handle>> {
    let first = starved.thresholds.first()?;
    let (signal, resource) = (first.signal, first.signal.resource());
    cx.api.node_event(Severity::Warning, "EvictionThresholdMet", &format!("Attempting to reclaim {resource}"));
    // Where images lie apart they make no room for the rest.
    let of_images = matches!(signal, Signal::ImageFs | Signal::ImageFsInodes);
    if of_images || (!starved.apart && matches!(resource, "ephemeral-storage" | "inodes")) {
        collect::all_unused(cx, pods).await;
        let (observed, _) = observe(cx).await;
        if state::is_over(&cx.config.settings.eviction.thresholds, &observed) {
            return None;
        }
    }
    let mut candidates = candidates(cx, pods, signal, starved.apart).await;
    rank(&mut candidates, signal);
    let chosen = candidates.into_iter().next()?;
    let pod = chosen.handle.pod();
    let told = message(resource, &pod, chosen.usage.as_ref(), &starved.thresholds, &starved.observed);
    let grace = if first.is_hard() {
        take::GRACE
    } else {
        let asked = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(i64::MAX);
        let seconds = asked.min(cx.config.settings.eviction.max_pod_grace_s);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(take::GRACE)
    };
    evict(&chosen.handle, told.clone(), Some(told), grace);
    cx.pressure.evicted(signal.as_str());
    Some(chosen.handle)
}

/// The pods that may go, with what they take of what is short.
async fn candidates(cx: &Arc<Context>, pods: &Pods, signal: Signal, apart: bool) -> Vec<Candidate> {
    let may_go = |h: &Arc<Handle>| evictable(h) && !h.is_gone() && !h.is_evicted() && h.pod().metadata.deletion_timestamp.is_none();
    let handles: Vec<Arc<Handle>> = pods.all().into_iter().filter(may_go).collect();
    if matches!(signal.resource(), "memory" | "pids") {
        return measured(cx, handles, signal).await;
    }
    let parts = match (apart, signal) {
        (false, _) => Parts { layers: true, rest: true },
        (true, Signal::NodeFs | Signal::NodeFsInodes) => Parts { layers: false, rest: true },
        (true, _) => Parts { layers: true, rest: false },
    };
    let (until, inodes) = (round(), signal.resource() == "inodes");
    let looks = handles.into_iter().map(|handle| async move {
        let usage = disk(cx, &handle, parts, inodes, until).await;
        Candidate { handle, usage }
    });
    join_all(looks).await
}

async fn disk(cx: &Arc<Context>, handle: &Arc<Handle>, parts: Parts, inodes: bool, until: Instant) -> Option<Usage> {
    let taken = measure(cx, &handle.pod(), until).await?;
    let containers = taken.containers.iter().map(|c| (c.name.clone(), number(c.bytes()))).collect();
    Some(Usage { sum: number(taken.sum(parts, inodes)), containers })
}

/// Memory or process numbers of all, in one reading.
async fn measured(cx: &Arc<Context>, handles: Vec<Arc<Handle>>, signal: Signal) -> Vec<Candidate> {
    let mut wanted = Vec::new();
    let of: Vec<(Arc<Handle>, Vec<Container>)> = handles
        .into_iter()
        .map(|handle| {
            let running: Vec<Container> = cx.runtime.pod_containers(&handle.uid).into_iter().filter(Container::running).collect();
            wanted.extend(running.iter().map(|c| Measure::Container(c.id.clone())));
            (handle, running)
        })
        .collect();
    let mut readings = cx.runtime.readings(wanted, false).await.into_iter();
    of.into_iter()
        .map(|(handle, running)| {
            let mut usage = Usage::default();
            for container in running {
                let Some(reading) = readings.next().flatten() else { continue };
                let used = number(if signal == Signal::Pids { reading.stats.pids } else { reading.stats.memory_working_set_bytes });
                usage.sum = usage.sum.saturating_add(used);
                usage.containers.push((container.name, used));
            }
            Candidate { handle, usage: Some(usage) }
        })
        .collect()
}
