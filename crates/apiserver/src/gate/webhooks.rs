//! Webhook configurations, compiled.

use super::{
    policies::{self, Condition},
    rules::Rule,
};
use crate::hooks::{ClientConfig, Credentials, Target};
use machinery::{Value, labels::Selector};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// The time of a webhook that names none (the original's default).
const TIMEOUT_S: u64 = 10;
/// How long what was read from files is believed.
const FILES_LIFE: Duration = Duration::from_secs(60);

/// The versions of a review that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Review {
    V1,
    V1beta1,
}

/// One webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    /// Configuration, name and which of that name: what tells it from all others.
    pub(crate) uid: String,
    pub(crate) rules: Vec<Rule>,
    /// `matchPolicy: Equivalent`.
    pub(crate) equivalent: bool,
    /// `failurePolicy: Ignore`.
    pub(crate) ignore: bool,
    pub(crate) namespaces: Result<Selector, String>,
    pub(crate) objects: Result<Selector, String>,
    /// It may be asked about what is not stored; none if it does not say.
    pub(crate) dry_run: Option<bool>,
    pub(crate) timeout: Duration,
    /// The first version of a review that both know.
    pub(crate) review: Option<Review>,
    /// `reinvocationPolicy: IfNeeded`.
    pub(crate) reinvoked: bool,
    pub(crate) conditions: Vec<Condition>,
    /// Its conditions may take longer than a moment.
    pub(crate) heavy: bool,
    config: ClientConfig,
    credentials: Credentials,
    target: Mutex<Option<(Instant, Arc<Target>)>>,
}

impl Webhook {
    /// Where it is; found out when it is asked first, and again where tokens and certificates lie in files that are replaced. What
    /// is wrong is not kept: it may be right the next time.
    pub(crate) fn target(&self) -> Result<Arc<Target>, String> {
        let mut kept = self.target.lock();
        if let Some((since, target)) = &*kept
            && (!self.credentials.has_files() || since.elapsed() < FILES_LIFE)
        {
            return Ok(Arc::clone(target));
        }
        let target = Arc::new(Target::new(&self.config, &self.credentials)?);
        *kept = Some((Instant::now(), Arc::clone(&target)));
        Ok(target)
    }
}

/// The webhooks of a configuration, in its order.
pub(crate) fn compile(configuration: &Value, mutating: bool, credentials: &Credentials) -> Vec<Webhook> {
    let own = configuration["metadata"]["name"].as_str().unwrap_or_default();
    let mut names: HashMap<&str, usize> = HashMap::new();
    let hooks = configuration["webhooks"].as_array().into_iter().flatten();
    hooks
        .map(|hook| {
            let name = hook["name"].as_str().unwrap_or_default();
            let count = names.entry(name).or_default();
            let uid = format!("{own}/{name}/{count}");
            *count += 1;
            one(hook, name, uid, mutating, credentials)
        })
        .collect()
}

fn one(hook: &Value, name: &str, uid: String, mutating: bool, credentials: &Credentials) -> Webhook {
    let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selector = |field: &str| if hook[field].is_null() { Ok(Selector::nothing()) } else { Selector::from_label_selector(&hook[field]) };
    let conditions = policies::conditions(hook);
    Webhook {
        name: name.to_owned(),
        uid,
        rules: Rule::list(&hook["rules"]),
        equivalent: hook["matchPolicy"] == "Equivalent",
        ignore: hook["failurePolicy"] == "Ignore",
        namespaces: selector("namespaceSelector"),
        objects: selector("objectSelector"),
        dry_run: hook["sideEffects"].as_str().map(|effects| matches!(effects, "None" | "NoneOnDryRun")),
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_S)),
        review: { versions }.find_map(|version| match version {
            "v1" => Some(Review::V1),
            "v1beta1" => Some(Review::V1beta1),
            _ => None,
        }),
        reinvoked: mutating && hook["reinvocationPolicy"] == "IfNeeded",
        heavy: policies::are_heavy(conditions.iter().map(|condition| &condition.expression)),
        conditions,
        config: ClientConfig::of(&hook["clientConfig"]),
        credentials: credentials.clone(),
        target: Mutex::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn webhook(condition: &str, credentials: &Credentials) -> Webhook {
        let conditions = json!([{"name": "c", "expression": condition}]);
        let hook = json!({"name": "h", "clientConfig": {"url": "https://127.0.0.1/"}, "matchConditions": conditions});
        compile(&json!({"metadata": {"name": "w"}, "webhooks": [hook]}), true, credentials).remove(0)
    }

    #[test]
    fn conditions_that_may_take_long_are_told() {
        assert!(!webhook("true", &Credentials::default()).heavy);
        assert!(webhook("object.a.all(a, object.b.all(b, object.c.all(c, a == b && b == c)))", &Credentials::default()).heavy);
    }

    #[test]
    fn what_is_wrong_with_a_target_is_not_kept() {
        let folder = std::env::temp_dir().join(format!("knarr-webhook-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = "users:\n- name: '*'\n  user:\n    tokenFile: token\n";
        std::fs::write(folder.join("config"), config).expect("written");
        let credentials = Credentials::load(&folder.join("config")).expect("credentials");
        assert!(credentials.has_files() && !Credentials::default().has_files());
        let hook = webhook("true", &credentials);
        assert!(hook.target().is_err(), "there is no token yet");
        std::fs::write(folder.join("token"), "t").expect("written");
        let target = hook.target().expect("a token");
        assert!(Arc::ptr_eq(&target, &hook.target().expect("the same")));
        *hook.target.lock() = Instant::now().checked_sub(FILES_LIFE).map(|since| (since, Arc::clone(&target)));
        assert!(!Arc::ptr_eq(&target, &hook.target().expect("another")), "files are read again");
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
