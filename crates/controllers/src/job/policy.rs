//! What a Job says about its failures and its success beyond counting (`podFailurePolicy`, `successPolicy`).

use client::Meta;
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::{self, Indexes};

/// What a failed pod means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One more failure.
    Count,
    /// The same, as a rule says.
    CountByRule,
    /// As if it had not been.
    Ignore,
    /// The job is over, for this reason.
    FailJob(String),
    /// The index is over.
    FailIndex,
}

/// The first rule that matches decides.
pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let rules = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref()).map(|p| p.rules.as_slice()).unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let Some(why) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {at}")),
            _ => Verdict::CountByRule,
        };
    }
    Verdict::Count
}

impl Verdict {
    /// The action of the rule that matched, if one did.
    pub(super) fn action(&self) -> Option<&'static str> {
        match self {
            Self::Count => None,
            Self::CountByRule => Some("Count"),
            Self::Ignore => Some("Ignore"),
            Self::FailJob(_) => Some("FailJob"),
            Self::FailIndex => Some("FailIndex"),
        }
    }
}

fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(wanted) = &rule.on_exit_codes {
        let status = pod.status.as_ref()?;
        let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        return all.filter_map(|c| exited(c, wanted)).next().map(|(name, code)| format!("Container {name} for pod {} failed with exit code {code}", pod.key()));
    }
    let wanted = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let mut has = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let found = has.find(|c| wanted.iter().any(|w| c.type_ == w.type_ && c.status == w.status.as_deref().unwrap_or("True")))?;
    Some(format!("Pod {} has condition {}", pod.key(), found.type_))
}

fn exited<'c>(container: &'c ContainerStatus, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'c str, i32)> {
    if wanted.container_name.as_ref().is_some_and(|n| *n != container.name) {
        return None;
    }
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = wanted.values.contains(&code);
    let holds = match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (holds && code != 0).then_some((container.name.as_str(), code))
}

/// The rule by which these succeeded indexes are enough.
pub(super) fn succeeded_by(job: &Job, succeeded: &Indexes) -> Option<usize> {
    let spec = job.spec.as_ref()?;
    let completions = u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0);
    let rules = &spec.success_policy.as_ref()?.rules;
    if succeeded.is_empty() {
        return None;
    }
    rules.iter().position(|rule| {
        let is_enough = |good: usize| rule.succeeded_count.is_some_and(|count| good >= usize::try_from(count).unwrap_or(usize::MAX));
        let Some(text) = &rule.succeeded_indexes else { return is_enough(succeeded.len()) };
        let (mut all, mut good) = (0, 0);
        for range in indexes::ranges(text, completions) {
            all += indexes::size(&range);
            good += succeeded.range(range).count();
        }
        // Indexes that the job does not have say nothing.
        all > 0 && (good == all || is_enough(good))
    })
}
