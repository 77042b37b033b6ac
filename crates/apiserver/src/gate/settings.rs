//! `--enable-admission-plugins`, `--disable-admission-plugins` and `--admission-control-config-file`: as they are given
//! ([`AdmissionOptions`]) and checked ([`AdmissionSettings`]), with the original's refusals.

use super::{
    event_limits::{self, Limit},
    image_reviews::{self, ImageReviews},
    manifests::{self, Manifests, Plugin},
    order::{COUNT, ORDER, SECURE},
};
use crate::hooks::{Credentials, file_error, words};
use machinery::{Value, json::Validation};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

const GROUP: &str = "apiserver.config.k8s.io/";
/// The kinds of the settings of webhooks, and of policies.
const HOOK_KINDS: [(&str, &str); 2] =
    [("apiserver.config.k8s.io/v1", "WebhookAdmissionConfiguration"), ("apiserver.config.k8s.io/v1alpha1", "WebhookAdmission")];
const POLICY_KINDS: [(&str, &str); 2] =
    [("apiserver.config.k8s.io/v1", "MutatingAdmissionPolicyConfiguration"), ("apiserver.config.k8s.io/v1", "ValidatingAdmissionPolicyConfiguration")];

/// What the command line says of admission.
#[derive(Debug, Clone, Default)]
pub struct AdmissionOptions {
    /// Plug-ins beside those that are on by themselves.
    pub enable: Vec<String>,
    /// Plug-ins that are off.
    pub disable: Vec<String>,
    /// An `AdmissionConfiguration`.
    pub config_file: Option<PathBuf>,
}

/// Which plug-ins are on, and their settings.
#[derive(Debug, Clone)]
pub struct AdmissionSettings {
    on: [bool; COUNT],
    /// The settings of the plug-ins that have some, as they are written.
    configurations: BTreeMap<String, Value>,
    mutating: Credentials,
    validating: Credentials,
    /// PodNodeSelector: a selector for each namespace, and the cluster's.
    pub(crate) node_selectors: BTreeMap<String, String>,
    /// PodTolerationRestriction: those that pods have by themselves, and those that they may have.
    pub(crate) tolerations: (Vec<Value>, Vec<Value>),
    /// ImagePolicyWebhook: whom it asks.
    pub(crate) image_reviews: Option<Arc<ImageReviews>>,
    /// What files say of policies and webhooks.
    pub(crate) manifests: Vec<Manifests>,
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        let on = ORDER.map(|(name, on)| on || SECURE.contains(&name));
        AdmissionSettings {
            on,
            configurations: BTreeMap::new(),
            mutating: Credentials::default(),
            validating: Credentials::default(),
            node_selectors: BTreeMap::new(),
            tolerations: Default::default(),
            image_reviews: None,
            manifests: Vec::new(),
        }
    }
}

impl AdmissionOptions {
    /// Checks the options and reads the files that they name.
    ///
    /// # Errors
    /// Everything that is wrong, in the original's words.
    pub fn check(&self) -> Result<AdmissionSettings, Vec<String>> {
        let mut errors = Vec::new();
        let known = |name: &&String| ORDER.iter().any(|(known, _)| *known == name.as_str());
        errors.extend(self.enable.iter().filter(|name| !known(name)).map(|name| format!("enable-admission-plugins plugin {name:?} is unknown")));
        errors.extend(self.disable.iter().filter(|name| !known(name)).map(|name| format!("disable-admission-plugins plugin {name:?} is unknown")));
        let mut both: Vec<&str> = self.enable.iter().filter(|name| self.disable.contains(name)).map(String::as_str).collect();
        both.sort_unstable();
        both.dedup();
        if !both.is_empty() {
            errors.push(format!("[{}] in enable-admission-plugins and disable-admission-plugins overlapped", both.join(" ")));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut settings = AdmissionSettings::default();
        for (at, (name, _)) in ORDER.iter().enumerate() {
            let named = |list: &[String]| list.iter().any(|own| own == name);
            settings.on[at] = (settings.on[at] && !named(&self.disable)) || named(&self.enable);
        }
        if let Some(file) = &self.config_file {
            settings.configurations = read(file).map_err(|why| vec![format!("failed to read plugin config: {why}")])?;
        }
        settings.complete().map_err(|why| vec![why])?;
        Ok(settings)
    }
}

impl AdmissionSettings {
    /// Whether the plug-in at a place of the order is on.
    pub(crate) fn is_on(&self, at: usize) -> bool {
        self.on.get(at).copied().unwrap_or_default()
    }

    /// Who the server is at its webhooks.
    pub(crate) fn credentials(&self, mutating: bool) -> Credentials {
        if mutating { self.mutating.clone() } else { self.validating.clone() }
    }

    /// The settings of a plug-in, as they are written; null if it has none.
    pub(crate) fn of(&self, name: &str) -> &Value {
        self.configurations.get(name).unwrap_or(&Value::Null)
    }

    /// The buckets of EventRateLimit, which were checked before.
    pub(crate) fn event_limits(&self) -> Vec<Limit> {
        event_limits::of(self.of("EventRateLimit")).unwrap_or_default()
    }

    /// Reads what the settings of plug-ins say and name.
    fn complete(&mut self) -> Result<(), String> {
        self.plugins().map_err(|(name, why)| format!("couldn't init admission plugin {name:?}: {why}"))?;
        self.webhooks()?;
        self.manifests()
    }

    /// Reads the directories of manifests, once it is known that all of them are some.
    fn manifests(&mut self) -> Result<(), String> {
        let mut named = Vec::new();
        for plugin in [Plugin::MutatingPolicies, Plugin::MutatingWebhooks, Plugin::ValidatingPolicies, Plugin::ValidatingWebhooks] {
            let (name, own) = (plugin.name(), self.of(plugin.name()));
            if own.is_null() || !ORDER.iter().position(|(known, _)| *known == name).is_some_and(|at| self.is_on(at)) {
                continue;
            }
            let failed = |why: String| format!("couldn't init admission plugin {name:?}: {why}");
            if matches!(plugin, Plugin::MutatingPolicies | Plugin::ValidatingPolicies) {
                let wanted = format!("{name}Configuration");
                let kind = is_of(own, &POLICY_KINDS, &["staticManifestsDir"]).map_err(failed)?;
                if kind != wanted {
                    return Err(failed(format!("unexpected type: *policyconfig.{kind}")));
                }
            }
            let Some(directory) = own["staticManifestsDir"].as_str().filter(|directory| !directory.is_empty()) else { continue };
            manifests::check_directory(directory).map_err(failed)?;
            named.push((plugin, directory.to_owned()));
        }
        self.manifests = named.into_iter().map(|(plugin, directory)| Manifests::load(plugin, &directory)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn plugins(&mut self) -> Result<(), (&'static str, String)> {
        let on = |name: &str| ORDER.iter().position(|(known, _)| *known == name).is_some_and(|at| self.is_on(at));
        if on("EventRateLimit") {
            event_limits::of(self.of("EventRateLimit")).map_err(|why| ("EventRateLimit", why))?;
        }
        if on("ImagePolicyWebhook") {
            let reviews = image_reviews::of(self.of("ImagePolicyWebhook")).map_err(|why| ("ImagePolicyWebhook", why))?;
            self.image_reviews = Some(Arc::new(reviews));
        }
        let security = self.of("PodSecurity");
        if !security.is_null() {
            pod_security(security).map_err(|why| ("PodSecurity", why))?;
        }
        if let Some(own) = self.configurations.get("PodNodeSelector") {
            let pairs = own["podNodeSelectorPluginConfig"].as_object().into_iter().flatten();
            self.node_selectors = pairs.filter_map(|(name, selector)| Some((name.clone(), selector.as_str()?.to_owned()))).collect();
        }
        if let Some(own) = self.configurations.get("PodTolerationRestriction") {
            let list = |field: &str| own[field].as_array().cloned().unwrap_or_default();
            self.tolerations = (list("default"), list("whitelist"));
        }
        Ok(())
    }

    fn webhooks(&mut self) -> Result<(), String> {
        for (name, place) in [("MutatingAdmissionWebhook", true), ("ValidatingAdmissionWebhook", false)] {
            let Some(own) = self.configurations.get(name) else { continue };
            let failed = |why: String| format!("couldn't init admission plugin {name:?}: {why}");
            is_of(own, &HOOK_KINDS, &["kubeConfigFile", "staticManifestsDir"]).map_err(failed)?;
            let Some(file) = own["kubeConfigFile"].as_str().filter(|file| !file.is_empty()) else { continue };
            if !Path::new(file).is_absolute() {
                return Err(failed(format!("kubeConfigFile: Invalid value: {file:?}: must be an absolute file path")));
            }
            let credentials = Credentials::load(Path::new(file)).map_err(failed)?;
            *(if place { &mut self.mutating } else { &mut self.validating }) = credentials;
        }
        Ok(())
    }
}

/// The kind of a plug-in's settings, if it is one of these and has no other fields.
fn is_of<'v>(own: &'v Value, known: &[(&str, &str)], fields: &[&str]) -> Result<&'v str, String> {
    let (version, kind) = (own["apiVersion"].as_str().unwrap_or_default(), own["kind"].as_str().unwrap_or_default());
    for (what, said) in [("Kind", kind), ("apiVersion", version)] {
        if said.is_empty() {
            return Err(format!("Object '{what}' is missing in '{}'", String::from_utf8_lossy(&machinery::json::encode(own))));
        }
    }
    if !known.contains(&(version, kind)) {
        return Err(words::unregistered(kind, version));
    }
    let others =
        own.as_object().into_iter().flatten().filter(|(field, _)| !matches!(field.as_str(), "apiVersion" | "kind") && !fields.contains(&field.as_str()));
    let others: Vec<String> = others.map(|(field, _)| format!("unknown field {field:?}")).collect();
    if others.is_empty() { Ok(kind) } else { Err(format!("strict decoding error: {}", others.join(", "))) }
}

/// Whether the settings of PodSecurity are some.
fn pod_security(own: &Value) -> Result<(), String> {
    let (version, kind) = (own["apiVersion"].as_str().unwrap_or_default(), own["kind"].as_str().unwrap_or_default());
    if !version.starts_with("pod-security.admission.config.k8s.io/") || kind != "PodSecurityConfiguration" {
        return Err(words::unregistered(kind, version));
    }
    for mode in ["enforce", "audit", "warn"] {
        match own["defaults"][mode].as_str() {
            None | Some("privileged" | "baseline" | "restricted") => {}
            Some(other) => return Err(format!("defaults.{mode}: Invalid value: {other:?}: must be one of privileged, baseline, restricted")),
        }
    }
    Ok(())
}

/// The settings of the plug-ins that a file tells of, those in files of their own included.
fn read(file: &Path) -> Result<BTreeMap<String, Value>, String> {
    let text = std::fs::read(file)
        .map_err(|error| format!("unable to read admission control configuration from {:?} [{}]", file.display().to_string(), file_error(file, &error)))?;
    let value = yaml(&text)?;
    let (version, kind) = (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
    // The two settings that stood in this file before there was a configuration.
    if kind.is_empty() {
        for (part, name) in [("imagePolicy", "ImagePolicyWebhook"), ("podNodeSelectorPluginConfig", "PodNodeSelector")] {
            if !value[part].is_null() {
                return Ok(BTreeMap::from([(name.to_owned(), value)]));
            }
        }
        return Err(format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(&machinery::json::encode(&value))));
    }
    let served = version.strip_prefix(GROUP).is_some_and(|version| matches!(version, "v1" | "v1alpha1"));
    if !served || kind != "AdmissionConfiguration" {
        return Err(words::unregistered(kind, version));
    }
    let mut out = BTreeMap::new();
    for plugin in value["plugins"].as_array().into_iter().flatten() {
        let name = plugin["name"].as_str().unwrap_or_default();
        let own = match (&plugin["configuration"], plugin["path"].as_str().filter(|path| !path.is_empty())) {
            (own, _) if !own.is_null() => own.clone(),
            (_, Some(path)) => {
                let path = file.parent().unwrap_or(Path::new(".")).join(path);
                yaml(&std::fs::read(&path).map_err(|error| file_error(&path, &error))?)?
            }
            _ => continue,
        };
        // The first of a name counts.
        out.entry(name.to_owned()).or_insert(own);
    }
    Ok(out)
}

fn yaml(text: &[u8]) -> Result<Value, String> {
    machinery::yaml::decode(text, None, Validation::Ignore).map(|decoded| decoded.value).map_err(|status| status.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(enable: &[&str], disable: &[&str]) -> AdmissionOptions {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        AdmissionOptions { enable: owned(enable), disable: owned(disable), config_file: None }
    }

    fn is_on(settings: &AdmissionSettings, name: &str) -> bool {
        ORDER.iter().position(|(known, _)| *known == name).is_some_and(|at| settings.is_on(at))
    }

    #[test]
    fn names_are_checked_and_counted() {
        let refused = options(&["Nothing", "AlwaysDeny"], &["AlwaysDeny", "Neither"]).check().unwrap_err();
        let expected = [
            "enable-admission-plugins plugin \"Nothing\" is unknown",
            "disable-admission-plugins plugin \"Neither\" is unknown",
            "[AlwaysDeny] in enable-admission-plugins and disable-admission-plugins overlapped",
        ];
        assert_eq!(refused, expected);
        let settings = options(&["AlwaysPullImages"], &["LimitRanger"]).check().unwrap();
        assert!(is_on(&settings, "AlwaysPullImages") && !is_on(&settings, "LimitRanger"));
        assert!(is_on(&settings, "ResourceQuota") && !is_on(&settings, "AlwaysDeny") && is_on(&settings, "NodeRestriction"));
    }

    #[test]
    fn files_are_read_with_what_they_name() {
        let folder = std::env::temp_dir().join(format!("knarr-admission-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            AdmissionOptions { config_file: Some(folder.join(name)), ..AdmissionOptions::default() }
        };
        let own = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n";
        write("own.yaml", "a: b\n");
        let named = write("named.yaml", &format!("{own}- name: X\n  path: own.yaml\n- name: Z\n  configuration: {{c: d}}\n")).check().unwrap();
        assert_eq!((&named.configurations["X"]["a"], &named.configurations["Z"]["c"]), (&"b".into(), &"d".into()));
        let wrong = write("wrong.yaml", "apiVersion: v1\nkind: Pod\n").check().unwrap_err();
        assert_eq!(wrong, ["failed to read plugin config: no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\""]);
        let absent = AdmissionOptions { config_file: Some(folder.join("absent")), ..AdmissionOptions::default() }.check().unwrap_err();
        assert!(absent[0].contains("unable to read admission control configuration from"), "{absent:?}");
        let relative = write(
            "hook.yaml",
            &format!(
                "{own}- name: MutatingAdmissionWebhook\n  configuration: {{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: x}}\n"
            ),
        );
        assert_eq!(
            relative.check().unwrap_err(),
            ["couldn't init admission plugin \"MutatingAdmissionWebhook\": kubeConfigFile: Invalid value: \"x\": must be an absolute file path"]
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
