//! Which pods end when, and how long they have (upstream's `groupByPriority`): those of a lower priority first, each group for as long as it
//! was given.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::Handle;
use crate::settings::ShutdownPeriod;

/// Pods that end together.
pub(super) struct Group {
    pub(super) period: Duration,
    pub(super) pods: Vec<Arc<Handle>>,
}

/// Which group a priority belongs to: the last that begins at or below it, else the first.
fn index(periods: &[ShutdownPeriod], priority: i32) -> usize {
    periods.iter().rposition(|p| p.priority <= priority).unwrap_or(0)
}

/// The groups that have anybody, in their order. The periods are in the order of their priorities.
pub(super) fn groups(periods: &[ShutdownPeriod], pods: Vec<Arc<Handle>>) -> Vec<Group> {
    let mut groups: Vec<Group> = periods.iter().map(|p| Group { period: p.period(), pods: Vec::new() }).collect();
    for handle in pods {
        let priority = handle.pod().spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        if let Some(group) = groups.get_mut(index(periods, priority)) {
            group.pods.push(handle);
        }
    }
    groups.retain(|g| !g.pods.is_empty());
    groups
}

/// How long one pod of a group has: its own time, if that is not longer.
pub(super) fn grace(pod: &Pod, period: Duration) -> Duration {
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    own.map_or(period, |s| Duration::from_secs(u64::try_from(s).unwrap_or(0)).min(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_belongs_to_the_highest_group_that_it_reaches() {
        let periods = [(-100, 1), (0, 5), (1000, 10), (2_000_000_000, 20)].map(|(priority, seconds)| ShutdownPeriod { priority, seconds });
        let cases = [(i32::MIN, 0), (-101, 0), (-100, 0), (-1, 0), (0, 1), (999, 1), (1000, 2), (1_999_999_999, 2), (2_000_000_000, 3), (i32::MAX, 3)];
        for (priority, group) in cases {
            assert_eq!(index(&periods, priority), group, "{priority}");
        }
    }

    #[test]
    fn a_pod_has_no_more_than_its_own_time() {
        let of = |seconds: Option<i64>| {
            let mut pod = Pod { spec: Some(k8s_openapi::api::core::v1::PodSpec::default()), ..Pod::default() };
            pod.spec.as_mut().expect("a spec").termination_grace_period_seconds = seconds;
            grace(&pod, Duration::from_secs(20)).as_secs()
        };
        assert_eq!((of(None), of(Some(5)), of(Some(20)), of(Some(60)), of(Some(-1))), (20, 5, 20, 20, 0));
    }
}
