//! What a pod leaves on the host, and how it goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::Context;
use super::plan::latest;
use crate::api::{ApiError, Severity};
use crate::cri::{Container, CriError, PodUid, Sandbox, SandboxId, State, label};
use crate::status_writer::StatusWriter;
use crate::util;
use crate::volumes::{self, Layout};

/// What is not there any more is as good as removed.
fn gone(done: Result<(), CriError>) -> Result<(), String> {
    match done {
        Ok(()) | Err(CriError::NotFound(_)) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Removes an ended container, its termination message and, unless they are to stay, its logs.
pub async fn remove_run(cx: &Arc<Context>, c: &Container, logs: bool) -> Result<(), String> {
    gone(cx.runtime.remove_container(&c.id).await)?;
    let (log, message) = (c.log_path.clone(), c.labels.get(label::MESSAGE_HOST_PATH).map(PathBuf::from));
    let pods = cx.config.root_dir.join("pods");
    util::blocking(move || {
        // Another version of the label could name anything.
        if let Some(message) = message.filter(|m| m.starts_with(&pods)) {
            let _ = std::fs::remove_file(message);
        }
        if logs {
            remove_logs(&log);
        }
    })
    .await;
    Ok(())
}

/// Removes a log and what was rotated away from it.
fn remove_logs(log: &Path) {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else { return };
    let rotated = format!("{name}.");
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|n| n == name || n.starts_with(&rotated)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Stops what runs and removes all of these, in their order; answers the newest of each name. Their logs stay until the pod
/// goes, as upstream's.
pub async fn reset(cx: &Arc<Context>, pod: &Pod, order: Vec<Container>) -> Result<Vec<Container>, String> {
    let newest: Vec<Container> = order.iter().filter(|c| latest(&order, &c.name, None).is_some_and(|l| l.id == c.id)).cloned().collect();
    for c in order.iter().filter(|c| !c.sandbox.0.is_empty()) {
        if c.state == State::Running {
            let path = super::plan::find_spec(pod, &c.name).map(|(kind, _)| kind.field_path(&c.name));
            cx.api.pod_event(pod, path.as_deref(), Severity::Normal, "Killing", "killing");
            gone(cx.runtime.stop_container(&c.id, Duration::ZERO).await)?;
        }
        remove_run(cx, c, false).await?;
    }
    Ok(newest)
}

/// Removes sandboxes and the containers in them.
pub async fn remove_sandboxes(cx: &Arc<Context>, sandboxes: Vec<Sandbox>, runs: Vec<Container>, logs: bool) -> Result<(), String> {
    for c in runs {
        remove_run(cx, &c, logs).await?;
    }
    for s in sandboxes {
        cx.net.detach(&s.id).await.map_err(|e| e.to_string())?;
        gone(cx.runtime.stop_sandbox(&s.id).await)?;
        gone(cx.runtime.remove_sandbox(&s.id).await)?;
    }
    Ok(())
}

/// Stops the sandbox, and has a pod's devices taken back: nobody uses them any more, and nobody may have them before that.
pub async fn give_back(cx: &Arc<Context>, uid: &PodUid, sandbox: Option<SandboxId>) -> Result<(), String> {
    if let Some(id) = sandbox {
        cx.net.detach(&id).await.map_err(|e| e.to_string())?;
        gone(cx.runtime.stop_sandbox(&id).await)?;
    }
    cx.devices.unprepare(uid).await
}

/// Stops the sandbox and removes what the pod had on the host, except its logs.
pub async fn clean_host(cx: &Arc<Context>, pod: &Arc<Pod>, sandbox: Option<SandboxId>) -> Result<(), String> {
    if let Some(id) = sandbox {
        cx.net.detach(&id).await.map_err(|e| e.to_string())?;
        gone(cx.runtime.stop_sandbox(&id).await)?;
    }
    cx.watches.release(&PodUid(util::uid(pod).to_owned()));
    drop_volumes(cx, &PodUid(util::uid(pod).to_owned())).await?;
    let (c, p) = (Arc::clone(cx), Arc::clone(pod));
    let removed = util::blocking(move || {
        volumes::tear_down(&Layout::new(&c.config.root_dir, util::uid(&p)))?;
        c.cgroups.remove_pod(&p)?;
        c.balance(Some(&p));
        Ok::<_, std::io::Error>(())
    });
    removed.await.map_err(|e| e.to_string())
}

/// Takes away what drivers brought to a pod, devices among it, and what of the node was bound for it. Nothing else of the pod's directory may go before.
pub async fn drop_volumes(cx: &Arc<Context>, uid: &PodUid) -> Result<(), String> {
    // Most have given them back before they were told to have ended; not those that went while no kubelet ran.
    // A driver of devices that does not answer holds no volume; its error is told last, and keeps the pod's directory.
    let devices = if cx.devices.holds(uid) { cx.devices.unprepare(uid).await } else { Ok(()) };
    cx.persistent.tear_down(uid).await?;
    let (persistent, uid) = (cx.persistent.clone(), uid.0.clone());
    util::blocking(move || persistent.drop_local(&uid)).await.map_err(|e| format!("local volumes: {e}"))?;
    devices
}

/// Lets the API forget the pod, and removes containers, sandboxes and logs.
pub async fn forget(cx: &Arc<Context>, pod: &Pod, sandboxes: Vec<Sandbox>, runs: Vec<Container>, writer: &StatusWriter, deleted: bool) -> Result<(), String> {
    writer.flush().await;
    // All that others could miss (addresses, volumes, cgroup) is free already; what remains concerns this node alone.
    if !deleted {
        match cx.api.delete_pod(util::namespace(pod), util::name(pod), util::uid(pod)).await {
            Ok(()) => {}
            Err(e) if e.is_not_found() || matches!(e, ApiError::Conflict(_)) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    remove_sandboxes(cx, sandboxes, runs, false).await?;
    let dir = cx.config.pod_log_dir(util::namespace(pod), util::name(pod), util::uid(pod));
    util::blocking(move || runtime::tree::remove(&dir).map_err(|e| format!("logs: {e}"))).await?;
    cx.images.forget(&PodUid(util::uid(pod).to_owned()));
    Ok(())
}
