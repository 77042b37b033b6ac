//! Runs of containers that the API remembers and the runtime does not know: lost in a reboot, or removed.
//!
//! Planner and status must see them, or a pod that may run once would run twice. They are read once, from the status that a
//! former process wrote, and stand beside the runtime's containers until the runtime has a newer run of the name. As upstream
//! (`convertToAPIContainerStatuses`): what had ended keeps its end, and what ran has ended in an unknown way, with 137.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

use crate::cri::{Container, ContainerId, SandboxId, State};
use crate::util::system_time;

/// The reason of an end that nobody saw.
pub const UNKNOWN: &str = "ContainerStatusUnknown";
/// The reason of a run that was removed so that all begin anew.
pub const RESTARTING_ALL: &str = "RestartingAllContainers";
const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was deleted.  The container used to be Running";
/// The exit code of a run whose end nobody saw.
pub const UNKNOWN_CODE: i32 = 137;

/// Whether the end of this run was not seen.
#[must_use]
pub fn unseen(c: &Container) -> bool {
    c.reason == UNKNOWN || c.reason == RESTARTING_ALL
}

/// The runs that `status` tells of and of which `known` has none of that name.
#[must_use]
pub fn runs(status: &PodStatus, known: &[Container]) -> Vec<Container> {
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let missing = all.into_iter().flat_map(|l| l.iter().flatten()).filter(|s| !known.iter().any(|c| c.name == s.name));
    missing.filter_map(run).collect()
}

fn run(s: &ContainerStatus) -> Option<Container> {
    let state = s.state.clone().unwrap_or_default();
    let count = u32::try_from(s.restart_count).unwrap_or(0);
    let last = s.last_state.as_ref().and_then(|l| l.terminated.clone());
    let (attempt, end) = match (state.terminated, last) {
        (Some(end), _) => (count, end),
        (None, _) if state.running.is_some() => (count, unknown()),
        // It waits to run again: an end that nobody saw is counted as a restart already.
        (None, Some(end)) if matches!(end.reason.as_deref(), Some(UNKNOWN | RESTARTING_ALL)) => (count.saturating_sub(1), end),
        (None, Some(end)) => (count, end),
        (None, None) => return None,
    };
    let id = end.container_id.clone().or_else(|| s.container_id.clone()).unwrap_or_default();
    let id = id.split_once("://").map_or(id.as_str(), |(_, id)| id).to_owned();
    let started = end.started_at.as_ref().map(system_time);
    Some(Container {
        id: ContainerId(if id.is_empty() { format!("lost-{}-{attempt}", s.name) } else { id }),
        sandbox: SandboxId(String::new()),
        name: s.name.clone(),
        attempt,
        state: State::Exited,
        created: started.unwrap_or(std::time::SystemTime::UNIX_EPOCH),
        started,
        finished: end.finished_at.as_ref().map(system_time),
        exit_code: end.exit_code,
        oom_killed: false,
        reason: end.reason.unwrap_or_default(),
        message: end.message.unwrap_or_default(),
        image: s.image.clone(),
        image_id: s.image_id.clone(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: PathBuf::new(),
        user: None,
    })
}

fn unknown() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: UNKNOWN_CODE,
        reason: Some(UNKNOWN.into()),
        message: Some(UNKNOWN_MESSAGE.into()),
        ..ContainerStateTerminated::default()
    }
}

/// A run that was just removed so that all containers begin anew. How it ended by itself is told no more, as upstream.
#[must_use]
pub fn removed(c: &Container) -> Container {
    Container {
        sandbox: SandboxId(String::new()),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: PathBuf::new(),
        state: State::Exited,
        exit_code: UNKNOWN_CODE,
        reason: RESTARTING_ALL.into(),
        message: "The container is removed because RestartAllContainers in place".into(),
        ..c.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_ran_was_lost_and_what_had_ended_keeps_its_end() {
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [
            {"name": "ran", "image": "i", "imageID": "", "ready": true, "restartCount": 2, "containerID": "knarr://abc", "state": {"running": {}}},
            {"name": "done", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "containerID": "knarr://def",
             "state": {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "knarr://def"}}},
            {"name": "again", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "ContainerCreating"}},
             "lastState": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}},
            {"name": "loop", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}},
            {"name": "new", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}},
            {"name": "known", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}))
        .unwrap();
        let known = [crate::testing::container("known", 0, State::Running, 0)];
        let found: Vec<_> = runs(&status, &known).into_iter().map(|c| (c.name, c.attempt, c.exit_code, c.reason)).collect();
        let row = |n: &str, a, e, r: &str| (n.to_owned(), a, e, r.to_owned());
        assert_eq!(found, [row("ran", 2, 137, UNKNOWN), row("done", 0, 0, "Completed"), row("again", 2, 137, UNKNOWN), row("loop", 3, 1, "Error")]);
    }
}
