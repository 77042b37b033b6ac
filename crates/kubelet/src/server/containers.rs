//! Finding the container a client means, and its logs.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Answer, Call, Server, streamed, text};
use crate::cri::{Container, State};
use crate::logs::read::{self, Options};
use crate::pod::Handle;
use crate::pod::plan::find_spec;

/// Blocks of a log under way to a client.
const LOG_QUEUE: usize = 8;

impl Server {
    /// The pod a path means; with a UID it must be that pod.
    pub(super) fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Arc<Handle>, Answer> {
        // The API knows a static pod by its mirror (upstream's `TranslatePodUID`).
        let is = |h: &Handle, uid: &str| h.uid.0 == uid || h.mirror().is_some_and(|m| crate::util::uid(&m) == uid);
        let found = self.pods.named(namespace, name).filter(|h| uid.is_none_or(|u| is(h, u)));
        found.ok_or_else(|| text(StatusCode::NOT_FOUND, "pod does not exist"))
    }

    /// The containers of that name, newest first.
    pub(super) fn containers(&self, handle: &Handle, name: &str) -> Vec<Container> {
        let mut all: Vec<Container> = self.cx.runtime.pod_containers(&handle.uid).into_iter().filter(|c| c.name == name).collect();
        all.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created)));
        all
    }

    /// The running container of that name.
    pub(super) fn running(&self, handle: &Handle, name: &str) -> Result<Container, Answer> {
        let found = self.containers(handle, name).into_iter().find(Container::running);
        found.ok_or_else(|| text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({name:?})")))
    }
}

fn options(call: &Call) -> Result<Options, String> {
    let number = |name: &str| match call.param(name).filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(v) => v.parse::<i64>().map(Some).map_err(|_| format!("unable to decode the request as v1.PodLogOptions: {name}: {v}")),
    };
    let tail = number("tailLines")?.map(|n| u64::try_from(n).unwrap_or(0));
    let limit = number("limitBytes")?.and_then(|n| u64::try_from(n).ok());
    let mut since = None;
    if let Some(s) = number("sinceSeconds")? {
        let now = crate::util::time(SystemTime::now()).0;
        since = Timestamp::from_second(now.as_second() - s).ok();
    }
    if let Some(t) = call.param("sinceTime").filter(|t| !t.is_empty()) {
        since = Some(t.parse().map_err(|e| format!("sinceTime: {e}"))?);
    }
    let stderr = match call.param("stream") {
        Some("Stdout") => Some(false),
        Some("Stderr") => Some(true),
        _ => None,
    };
    Ok(Options { follow: call.flag("follow"), tail, since, timestamps: call.flag("timestamps"), limit, stderr })
}

/// `GET /containerLogs/NAMESPACE/POD/CONTAINER`.
pub(super) async fn logs(server: &Server, call: Call) -> Answer {
    let [_, ns, pod, name] = call.parts.as_slice() else { return text(StatusCode::NOT_FOUND, "404 page not found\n") };
    let Ok(handle) = server.pod(ns, pod, None) else { return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist")) };
    if find_spec(&handle.pod(), name).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container {name:?} not found in pod {pod:?}"));
    }
    let options = match options(&call) {
        Ok(o) => o,
        Err(e) => return text(StatusCode::BAD_REQUEST, format!("{e}\n")),
    };
    let mut all = server.containers(&handle, name).into_iter().filter(|c| c.state != State::Created);
    let container = if call.flag("previous") { all.find(|c| c.state == State::Exited) } else { all.next() };
    // `previous` is the run before the present one; of an ended container that is the last but one only if it waits to start
    // again, which the newest run's end itself is then.
    let container = match (call.flag("previous"), container) {
        (true, Some(c)) if !restarted(&handle, name) => all_before(server, &handle, name, &c),
        (_, c) => c,
    };
    let Some(container) = container else {
        let message = if call.flag("previous") {
            format!("previous terminated container {name:?} in pod {pod:?} not found")
        } else {
            no_logs(handle.pod_with_status().status.as_ref(), pod, name)
        };
        return text(StatusCode::BAD_REQUEST, message);
    };
    if !container.log_path.exists() {
        return text(StatusCode::BAD_REQUEST, format!("unable to retrieve container logs for {}://{}", server.cx.scheme, container.id));
    }
    let (sender, receiver) = mpsc::channel(LOG_QUEUE);
    let runtime = Arc::clone(&server.cx.runtime);
    let sources = read::Sources { directories: server.logs.clone(), events: runtime.events() };
    let (uid, id) = (handle.uid.clone(), container.id.clone());
    let running = move || runtime.pod_containers(&uid).iter().any(|c| c.id == id && c.running());
    tokio::spawn(async move {
        if let Err(e) = read::send(container.log_path, options, (running, sources), sender).await {
            tracing::debug!(error = %e, "log not read to its end");
        }
    });
    streamed(receiver)
}

/// Whether a newer run than the last ended one exists or is waited for.
fn restarted(handle: &Handle, name: &str) -> bool {
    let pod = handle.pod_with_status();
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
    all.into_iter().filter(|s| s.name == name).any(|s| s.state.as_ref().is_some_and(|x| x.running.is_some() || x.waiting.is_some()))
}

fn all_before(server: &Server, handle: &Handle, name: &str, than: &Container) -> Option<Container> {
    server.containers(handle, name).into_iter().find(|c| c.state == State::Exited && c.attempt < than.attempt)
}

/// Why there are no logs of a container (upstream's `validateContainerLogStatus`).
fn no_logs(status: Option<&PodStatus>, pod: &str, name: &str) -> String {
    let because = |why: &str| format!("container {name:?} in pod {pod:?} {why}");
    let lists = status.into_iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses]);
    let Some(told) = lists.flat_map(|list| list.iter().flatten()).find(|s| s.name == name) else { return because("is not available") };
    if [&told.state, &told.last_state].into_iter().flatten().any(|s| s.terminated.is_some()) {
        return because("is terminated");
    }
    match told.state.as_ref().and_then(|s| s.waiting.as_ref()) {
        Some(waiting) => because(&format!(
            "is waiting to start: {}",
            match waiting.reason.as_deref().unwrap_or_default() {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                reason => reason,
            }
        )),
        None => because("is waiting to start - no logs yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_has_no_logs_is_told_why() {
        let why = |state: Value| {
            let one = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            let status: PodStatus = serde_json::from_value(json!({"ephemeralContainerStatuses": [one]})).unwrap();
            no_logs(Some(&status), "p", "c")
        };
        let waits = |reason: &str| why(json!({"waiting": {"reason": reason}}));
        assert_eq!(waits("ErrImagePull"), r#"container "c" in pod "p" is waiting to start: image can't be pulled"#);
        assert_eq!(waits("ImagePullBackOff"), r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#);
        assert_eq!(waits("CreateContainerConfigError"), r#"container "c" in pod "p" is waiting to start: CreateContainerConfigError"#);
        assert_eq!(why(json!({"terminated": {"exitCode": 137}})), r#"container "c" in pod "p" is terminated"#);
        assert_eq!(why(json!({"running": {}})), r#"container "c" in pod "p" is waiting to start - no logs yet"#);
        assert_eq!(no_logs(None, "p", "c"), r#"container "c" in pod "p" is not available"#);
    }
}
