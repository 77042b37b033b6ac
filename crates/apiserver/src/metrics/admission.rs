//! What admission is told by: how long its steps take, what webhooks answer, and what policies make of writes (upstream's
//! `admission/metrics` and the `metrics` of `admission/plugin/policy`).
//!
//! Every write passes both steps and the plug-ins that ask, whether there is anybody to ask or not, so those are counted at fixed places;
//! what is counted by name is about those that somebody has registered, and takes far longer than a look-up.

use instruments::{Counter, Family, Histogram, Kind, Labelled, Registry};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

const STEPS: Family =
    Family::new("apiserver_admission_step_admission_duration_seconds", Kind::Histogram, "[STABLE] How long all of a step of admission took, in seconds.");
const PLUGINS: Family = Family::new(
    "apiserver_admission_controller_admission_duration_seconds",
    Kind::Histogram,
    "[STABLE] How long those plug-ins of admission took that ask others, in seconds.",
);
const WEBHOOKS: Family =
    Family::new("apiserver_admission_webhook_admission_duration_seconds", Kind::Histogram, "[STABLE] How long a webhook took, in seconds.");
const REQUESTS: Family = Family::new(
    "apiserver_admission_webhook_request_total",
    Kind::Counter,
    "[ALPHA] Questions to a webhook, by the code of its answer; 600 stands for all above.",
);
const REJECTIONS: Family = Family::new(
    "apiserver_admission_webhook_rejection_count",
    Kind::Counter,
    "[ALPHA] Writes that a webhook has ended, by whose fault it was and the code of its answer; 600 stands for all above.",
);
const FAIL_OPEN: Family =
    Family::new("apiserver_admission_webhook_fail_open_count", Kind::Counter, "[ALPHA] Failures of a webhook that its failure policy has ignored.");
const CONDITION_ERRORS: Family =
    Family::new("apiserver_admission_match_condition_evaluation_errors_total", Kind::Counter, "[ALPHA] Match conditions that could not be evaluated.");
const EXCLUSIONS: Family =
    Family::new("apiserver_admission_match_condition_exclusions_total", Kind::Counter, "[ALPHA] Writes that match conditions have kept from a webhook.");
const CONDITIONS: Family = Family::new(
    "apiserver_admission_match_condition_evaluation_seconds",
    Kind::Histogram,
    "[ALPHA] How long match conditions took that did not hold, in seconds.",
);
const CHECKS: Family = Family::new(
    "apiserver_validating_admission_policy_check_total",
    Kind::Counter,
    "[BETA] Validations of a policy that did not hold, by what was made of it.",
);
const CHECKED: Family = Family::new(
    "apiserver_validating_admission_policy_check_duration_seconds",
    Kind::Histogram,
    "[BETA] How long validations took that did not hold, in seconds.",
);
const MUTATIONS: Family = Family::new("apiserver_mutating_admission_policy_check_total", Kind::Counter, "[ALPHA] Mutations of a policy.");
const MUTATED: Family =
    Family::new("apiserver_mutating_admission_policy_check_duration_seconds", Kind::Histogram, "[ALPHA] How long mutations took, in seconds.");

static STEP_S: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
static WEBHOOK_S: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
static CONDITION_S: [f64; 7] = [0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25];
static CHECK_S: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

const OPERATIONS: [&str; 4] = ["CREATE", "UPDATE", "DELETE", "CONNECT"];
/// The plug-ins that ask others, each in one step alone.
const ASKING: [&str; 6] = [
    "NamespaceAutoProvision",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ImagePolicyWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];
/// Codes above it are told as it.
const CODE_MAX: u16 = 600;

/// A step of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Admit,
    Validate,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Admit => "admit",
            Step::Validate => "validate",
        }
    }

    /// Of webhooks the other step is named so.
    fn of_webhooks(self) -> &'static str {
        match self {
            Step::Admit => "admit",
            Step::Validate => "validating",
        }
    }
}

/// What came of a question to a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Allowed,
    /// It could not be asked; the code is what that would be answered with.
    Failed {
        code: u16,
        is_ignored: bool,
    },
    /// It said no.
    Rejected {
        code: u16,
    },
    /// The write cannot be, whatever it says.
    Broken,
}

/// Whose match conditions are looked at: `webhook` or `policy`, its name, and in which step by which operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) kind: &'static str,
    pub(crate) name: &'a str,
    pub(crate) step: Step,
    pub(crate) operation: &'static str,
}

impl<'a> Whose<'a> {
    /// As those are told whom conditions keep a write from.
    fn labels(self) -> [&'a str; 4] {
        [self.kind, self.name, self.operation, self.step.name()]
    }

    /// As their evaluation is told: by what upstream's matcher of webhooks calls the step.
    fn evaluated(self) -> [&'a str; 4] {
        let step = if self.kind == "webhook" { self.step.of_webhooks() } else { self.step.name() };
        [self.kind, self.name, self.operation, step]
    }
}

/// See the module's head.
pub(crate) struct Admission {
    registry: Registry,
    steps: Arc<Labelled<3, Histogram>>,
    /// By step, operation, and whether it was refused.
    known_steps: [OnceLock<Arc<Histogram>>; 16],
    plugins: Arc<Labelled<4, Histogram>>,
    /// By the plug-in, then by operation and whether it was refused.
    known_plugins: [[OnceLock<Arc<Histogram>>; 8]; ASKING.len()],
    webhooks: Arc<Labelled<4, Histogram>>,
    requests: Arc<Labelled<5, Counter>>,
    rejections: Arc<Labelled<5, Counter>>,
    fail_open: Arc<Labelled<2, Counter>>,
    condition_errors: Arc<Labelled<4, Counter>>,
    exclusions: Arc<Labelled<4, Counter>>,
    conditions: Arc<Labelled<4, Histogram>>,
    checks: Arc<Labelled<4, Counter>>,
    checked: Arc<Labelled<4, Histogram>>,
    mutations: Arc<Labelled<3, Counter>>,
    mutated: Arc<Labelled<3, Histogram>>,
}

impl Default for Admission {
    fn default() -> Self {
        const CONDITION: [&str; 4] = ["kind", "name", "operation", "type"];
        const CHECK: [&str; 4] = ["enforcement_action", "error_type", "policy", "policy_binding"];
        const MUTATION: [&str; 3] = ["error_type", "policy", "policy_binding"];
        let registry = Registry::default();
        let named = ["name", "operation", "rejected", "type"];
        Admission {
            steps: registry.histograms(&STEPS, ["operation", "rejected", "type"], &STEP_S),
            known_steps: Default::default(),
            plugins: registry.histograms(&PLUGINS, named, &STEP_S),
            known_plugins: Default::default(),
            webhooks: registry.histograms(&WEBHOOKS, named, &WEBHOOK_S),
            requests: registry.counters(&REQUESTS, ["code", "name", "operation", "rejected", "type"]),
            rejections: registry.counters(&REJECTIONS, ["error_type", "name", "operation", "rejection_code", "type"]),
            fail_open: registry.counters(&FAIL_OPEN, ["name", "type"]),
            condition_errors: registry.counters(&CONDITION_ERRORS, CONDITION),
            exclusions: registry.counters(&EXCLUSIONS, CONDITION),
            conditions: registry.histograms(&CONDITIONS, CONDITION, &CONDITION_S),
            checks: registry.counters(&CHECKS, CHECK),
            checked: registry.histograms(&CHECKED, CHECK, &CHECK_S),
            mutations: registry.counters(&MUTATIONS, MUTATION),
            mutated: registry.histograms(&MUTATED, MUTATION, &CHECK_S),
            registry,
        }
    }
}

impl Admission {
    /// All of a step is over.
    pub(crate) fn step(&self, step: Step, operation: &'static str, is_rejected: bool, took: Duration) {
        let at = place(operation) * 4 + usize::from(step == Step::Validate) * 2 + usize::from(is_rejected);
        let labels = || [operation, truth(is_rejected), step.name()];
        match self.known_steps.get(at) {
            Some(known) => known.get_or_init(|| self.steps.with(labels())).took(took),
            None => self.steps.with(labels()).took(took),
        }
    }

    /// A plug-in that asks others has asked them.
    pub(crate) fn plugin(&self, name: &str, step: Step, operation: &'static str, is_rejected: bool, took: Duration) {
        let plugin = ASKING.iter().position(|asking| *asking == name).and_then(|at| self.known_plugins.get(at));
        let known = plugin.and_then(|plugin| plugin.get(place(operation) * 2 + usize::from(is_rejected)));
        let of = || self.plugins.with([name, operation, truth(is_rejected), step.name()]);
        match known {
            Some(known) => known.get_or_init(of).took(took),
            None => of().took(took),
        }
    }

    /// A webhook was asked.
    pub(crate) fn webhook(&self, name: &str, step: Step, operation: &'static str, came: Asked, took: Duration) {
        let (code, fault) = match came {
            Asked::Allowed => (200, None),
            Asked::Failed { code, is_ignored } => (code, (!is_ignored).then_some("calling_webhook_error")),
            Asked::Rejected { code } => (code, Some("no_error")),
            Asked::Broken => (0, Some("apiserver_internal_error")),
        };
        let (code, step) = (code.min(CODE_MAX).to_string(), step.of_webhooks());
        if let Some(fault) = fault {
            self.rejections.with([fault, name, operation, &code, step]).inc();
        }
        let rejected = truth(fault.is_some());
        self.requests.with([&code, name, operation, rejected, step]).inc();
        self.webhooks.with([name, operation, rejected, step]).took(took);
        if matches!(came, Asked::Failed { is_ignored: true, .. }) {
            self.fail_open.with([name, step]).inc();
        }
    }

    /// A match condition could not be evaluated.
    pub(crate) fn condition_failed(&self, whose: Whose<'_>) {
        self.condition_errors.with(whose.evaluated()).inc();
    }

    /// Match conditions did not hold, or failed.
    pub(crate) fn conditions_took(&self, whose: Whose<'_>, took: Duration) {
        self.conditions.with(whose.evaluated()).took(took);
    }

    /// Match conditions have kept a write from somebody.
    pub(crate) fn excluded(&self, whose: Whose<'_>) {
        self.exclusions.with(whose.labels()).inc();
    }

    /// A validation of a policy did not hold; `action` is what its binding makes of that.
    pub(crate) fn check(&self, policy: &str, binding: &str, action: &'static str, error_type: &'static str, took: Duration) {
        let labels = [action, error_type, policy, binding];
        self.checks.with(labels).inc();
        self.checked.with(labels).took(took);
    }

    /// A mutation of a policy was made, or could not be: then it is told why.
    pub(crate) fn mutation(&self, policy: &str, binding: &str, failed: Option<&str>, took: Duration) {
        let labels = [failed.map_or("no_error", error_type), policy, binding];
        self.mutations.with(labels).inc();
        self.mutated.with(labels).took(took);
    }

    /// All of it, as text.
    pub(super) fn text(&self) -> String {
        self.registry.text()
    }
}

/// What kind of error a policy's message tells (upstream's `ErrorType`, by which a validation that simply does not hold is invalid too).
pub(crate) fn error_type(message: &str) -> &'static str {
    match message {
        _ if message.starts_with("compilation") => "compile_error",
        _ if message.starts_with("validation failed due to running out of cost budget") => "out_of_budget",
        _ => "invalid_error",
    }
}

fn place(operation: &str) -> usize {
    OPERATIONS.iter().position(|known| *known == operation).unwrap_or_default()
}

fn truth(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(30);

    fn told(admission: &Admission, lines: &[&str]) {
        let text = admission.text();
        for line in lines {
            assert!(text.lines().any(|own| own == *line), "{line} in\n{text}");
        }
    }

    #[test]
    fn each_step_is_told_by_what_is_done_and_whether_it_was_refused() {
        let admission = Admission::default();
        for operation in OPERATIONS {
            admission.step(Step::Admit, operation, false, TOOK);
        }
        admission.step(Step::Validate, "UPDATE", true, TOOK);
        admission.step(Step::Validate, "UPDATE", true, TOOK);
        for plugin in ["MutatingAdmissionWebhook", "MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "another"] {
            admission.plugin(plugin, Step::Admit, "CREATE", false, TOOK);
        }
        admission.plugin("MutatingAdmissionWebhook", Step::Admit, "UPDATE", true, TOOK);
        told(
            &admission,
            &[
                r#"apiserver_admission_step_admission_duration_seconds_bucket{operation="CREATE",rejected="false",type="admit",le="0.025"} 0"#,
                r#"apiserver_admission_step_admission_duration_seconds_bucket{operation="CONNECT",rejected="false",type="admit",le="0.1"} 1"#,
                r#"apiserver_admission_step_admission_duration_seconds_count{operation="UPDATE",rejected="true",type="validate"} 2"#,
                r#"apiserver_admission_controller_admission_duration_seconds_count{name="MutatingAdmissionWebhook",operation="CREATE",rejected="false",type="admit"} 2"#,
                r#"apiserver_admission_controller_admission_duration_seconds_count{name="MutatingAdmissionWebhook",operation="UPDATE",rejected="true",type="admit"} 1"#,
                r#"apiserver_admission_controller_admission_duration_seconds_count{name="MutatingAdmissionPolicy",operation="CREATE",rejected="false",type="admit"} 1"#,
                r#"apiserver_admission_controller_admission_duration_seconds_count{name="another",operation="CREATE",rejected="false",type="admit"} 1"#,
            ],
        );
        assert!(!admission.text().contains(r#"operation="DELETE",rejected="true""#), "what never happened is not told");
    }

    #[test]
    fn webhooks_are_told_by_what_came_of_asking() {
        let admission = Admission::default();
        let ask = |step, came| admission.webhook("w", step, "CREATE", came, TOOK);
        ask(Step::Admit, Asked::Allowed);
        ask(Step::Validate, Asked::Failed { code: 503, is_ignored: false });
        ask(Step::Validate, Asked::Failed { code: 503, is_ignored: true });
        ask(Step::Validate, Asked::Rejected { code: 900 });
        ask(Step::Admit, Asked::Broken);
        told(
            &admission,
            &[
                r#"apiserver_admission_webhook_request_total{code="200",name="w",operation="CREATE",rejected="false",type="admit"} 1"#,
                r#"apiserver_admission_webhook_request_total{code="503",name="w",operation="CREATE",rejected="false",type="validating"} 1"#,
                r#"apiserver_admission_webhook_request_total{code="600",name="w",operation="CREATE",rejected="true",type="validating"} 1"#,
                r#"apiserver_admission_webhook_rejection_count{error_type="calling_webhook_error",name="w",operation="CREATE",rejection_code="503",type="validating"} 1"#,
                r#"apiserver_admission_webhook_rejection_count{error_type="no_error",name="w",operation="CREATE",rejection_code="600",type="validating"} 1"#,
                r#"apiserver_admission_webhook_rejection_count{error_type="apiserver_internal_error",name="w",operation="CREATE",rejection_code="0",type="admit"} 1"#,
                r#"apiserver_admission_webhook_fail_open_count{name="w",type="validating"} 1"#,
                r#"apiserver_admission_webhook_admission_duration_seconds_count{name="w",operation="CREATE",rejected="true",type="validating"} 2"#,
            ],
        );
    }

    #[test]
    fn policies_are_told_by_their_bindings_and_errors() {
        let admission = Admission::default();
        let whose = Whose { kind: "policy", name: "p", step: Step::Validate, operation: "UPDATE" };
        admission.condition_failed(whose);
        admission.conditions_took(whose, TOOK);
        admission.excluded(Whose { kind: "webhook", ..whose });
        admission.condition_failed(Whose { kind: "webhook", ..whose });
        admission.conditions_took(Whose { kind: "webhook", step: Step::Admit, ..whose }, TOOK);
        admission.check("p", "b", "deny", error_type("no pods here"), TOOK);
        admission.mutation("m", "b", None, TOOK);
        admission.mutation("m", "b", Some("compilation failed: x"), TOOK);
        told(
            &admission,
            &[
                r#"apiserver_admission_match_condition_evaluation_errors_total{kind="policy",name="p",operation="UPDATE",type="validate"} 1"#,
                r#"apiserver_admission_match_condition_evaluation_seconds_count{kind="policy",name="p",operation="UPDATE",type="validate"} 1"#,
                r#"apiserver_admission_match_condition_exclusions_total{kind="webhook",name="p",operation="UPDATE",type="validate"} 1"#,
                r#"apiserver_admission_match_condition_evaluation_errors_total{kind="webhook",name="p",operation="UPDATE",type="validating"} 1"#,
                r#"apiserver_admission_match_condition_evaluation_seconds_count{kind="webhook",name="p",operation="UPDATE",type="admit"} 1"#,
                r#"apiserver_validating_admission_policy_check_total{enforcement_action="deny",error_type="invalid_error",policy="p",policy_binding="b"} 1"#,
                r#"apiserver_validating_admission_policy_check_duration_seconds_count{enforcement_action="deny",error_type="invalid_error",policy="p",policy_binding="b"} 1"#,
                r#"apiserver_validating_admission_policy_check_duration_seconds_bucket{enforcement_action="deny",error_type="invalid_error",policy="p",policy_binding="b",le="5e-07"} 0"#,
                r#"apiserver_mutating_admission_policy_check_total{error_type="no_error",policy="m",policy_binding="b"} 1"#,
                r#"apiserver_mutating_admission_policy_check_total{error_type="compile_error",policy="m",policy_binding="b"} 1"#,
            ],
        );
    }
}
