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

/// What upstream says of options that cannot be read.
const UNREADABLE: &str = r#"{"message": "Unable to decode query."}"#;
/// And of those that can be read and mean nothing.
const INVALID: &str = r#"{"message": "Invalid request."}"#;
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

/// What a client wants of a log; 400 if that cannot be read, 422 if there is no such thing (upstream's `ValidatePodLogOptions`).
fn options<'c>(param: impl Fn(&str) -> Option<&'c str>, flag: impl Fn(&str) -> bool, now: Timestamp) -> Result<Options, (StatusCode, &'static str)> {
    let given = |name: &str| param(name).filter(|v| !v.is_empty());
    let read = |text: Option<&str>| text.map(str::parse::<i64>).transpose().map_err(|_| (StatusCode::BAD_REQUEST, UNREADABLE));
    // `tail` is from before there were `tailLines`, and goes before them.
    let tail = read(given("tail").or_else(|| given("tailLines")).filter(|_| given("tail") != Some("all")))?;
    let limit = read(given("limitBytes"))?;
    let seconds = read(given("sinceSeconds"))?;
    let time: Option<Timestamp> = given("sinceTime").map(str::parse).transpose().map_err(|_| (StatusCode::BAD_REQUEST, UNREADABLE))?;
    let stderr = match given("stream") {
        None | Some("All") => Ok(None),
        Some("Stdout") => Ok(Some(false)),
        Some("Stderr") => Ok(Some(true)),
        Some(_) => Err((StatusCode::UNPROCESSABLE_ENTITY, INVALID)),
    }?;
    let twice = (seconds.is_some() && time.is_some()) || (stderr.is_some() && tail.is_some());
    if twice || tail.is_some_and(|n| n < 0) || limit.is_some_and(|n| n < 1) || seconds.is_some_and(|n| n < 1) {
        return Err((StatusCode::UNPROCESSABLE_ENTITY, INVALID));
    }
    let whole = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    let ago = seconds.and_then(|s| Timestamp::from_second(now.as_second().saturating_sub(s)).ok());
    Ok(Options { follow: flag("follow"), tail: whole(tail), since: time.or(ago), timestamps: flag("timestamps"), limit: whole(limit), stderr })
}

/// `GET /containerLogs/NAMESPACE/POD/CONTAINER`.
pub(super) async fn logs(server: &Server, call: Call) -> Answer {
    let [_, ns, pod, name] = call.parts.as_slice() else { return text(StatusCode::NOT_FOUND, "404 page not found\n") };
    let options = match options(|name| call.param(name), |name| call.flag(name), crate::util::time(SystemTime::now()).0) {
        Ok(options) => options,
        Err((code, why)) => return text(code, why),
    };
    let Ok(handle) = server.pod(ns, pod, None) else { return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist")) };
    if find_spec(&handle.pod(), name).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container {name:?} not found in pod {pod:?}"));
    }
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
    fn options_that_mean_nothing_are_refused() {
        let now = Timestamp::from_second(1_000).unwrap();
        let of = |query: &[(&str, &'static str)]| options(|name| query.iter().find(|(n, _)| *n == name).map(|(_, v)| *v), |_| false, now);
        let code = |query: &[(&str, &'static str)]| of(query).err().map(|(code, _)| code.as_u16());
        for (name, value) in
            [("tailLines", "-1"), ("tail", "-3"), ("limitBytes", "0"), ("sinceSeconds", "0"), ("sinceSeconds", "-9223372036854775808"), ("stream", "x")]
        {
            assert_eq!(code(&[(name, value)]), Some(422), "{name}={value}");
        }
        assert_eq!(code(&[("sinceSeconds", "5"), ("sinceTime", "2026-01-01T00:00:00Z")]), Some(422));
        assert_eq!(code(&[("stream", "Stdout"), ("tailLines", "1")]), Some(422));
        assert_eq!([code(&[("tail", "x")]), code(&[("sinceTime", "x")])], [Some(400); 2]);
        let told = of(&[("tail", "all"), ("tailLines", "1"), ("sinceSeconds", "10")]).ok().unwrap();
        assert_eq!((told.tail, told.since), (None, Timestamp::from_second(990).ok()));
        assert_eq!(of(&[("tail", "2"), ("tailLines", "1")]).ok().and_then(|o| o.tail), Some(2));
    }

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
