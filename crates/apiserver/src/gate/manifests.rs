//! Manifest-based admission (`staticManifestsDir`): policies with their bindings, and webhooks, from the files of a directory. Nobody
//! changes them through the API, which keeps their names for them; they come before what is registered there, and they alone are asked
//! about what is.
//!
//! The files are read when the server starts, which does not where they are wrong, and looked at again every ten seconds (upstream watches
//! the directory): then what is wrong is told in the log, and what was read before stays (`admission/plugin/…/manifest`, with its words).

use crate::{
    admission::joined,
    hooks::{file_error, words},
    read::text,
};
use machinery::{
    Value, defaulting,
    field::{Error, Path as Field},
    gvk::Gvk,
    json::{self, Validation},
    schema::{self, TypeRef},
    status::Status,
    yaml,
};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::SystemTime,
};

const GROUP: &str = "admissionregistration.k8s.io";
const VERSION: &str = "admissionregistration.k8s.io/v1";
/// How the names of what is configured by files end, and no others (`StaticConfigSuffix`).
pub(super) const SUFFIX: &str = ".static.k8s.io";
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Which plug-in a directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plugin {
    ValidatingWebhooks,
    MutatingWebhooks,
    ValidatingPolicies,
    MutatingPolicies,
}

/// A kind of objects, and its resource.
type Kind = (&'static str, &'static str);

impl Plugin {
    /// What is configured; of policies also what binds them.
    fn kinds(self) -> (Kind, Option<Kind>) {
        match self {
            Plugin::ValidatingWebhooks => (("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"), None),
            Plugin::MutatingWebhooks => (("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"), None),
            Plugin::ValidatingPolicies => {
                (("ValidatingAdmissionPolicy", "validatingadmissionpolicies"), Some(("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")))
            }
            Plugin::MutatingPolicies => {
                (("MutatingAdmissionPolicy", "mutatingadmissionpolicies"), Some(("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")))
            }
        }
    }

    /// Upstream's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Plugin::ValidatingWebhooks => "ValidatingAdmissionWebhook",
            Plugin::MutatingWebhooks => "MutatingAdmissionWebhook",
            Plugin::ValidatingPolicies => "ValidatingAdmissionPolicy",
            Plugin::MutatingPolicies => "MutatingAdmissionPolicy",
        }
    }

    fn what(self) -> &'static str {
        if self.kinds().1.is_some() { "policy" } else { "webhook" }
    }
}

/// What the files of a directory say.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Policies, or configurations of webhooks, in the order of their names.
    pub(crate) owners: Vec<Value>,
    pub(crate) bindings: Vec<Value>,
    /// Of all that was read.
    pub(crate) digest: [u8; 32],
}

/// A directory of manifests, and what it said when the server started.
#[derive(Debug, Clone)]
pub(crate) struct Manifests {
    pub(crate) plugin: Plugin,
    directory: PathBuf,
    pub(crate) found: Arc<Found>,
    /// What has become of reading it: well, and not.
    outcomes: [Outcome; 2],
}

/// How often reading has ended so, and when it last did.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    count: u64,
    last: Option<SystemTime>,
}

impl Outcome {
    fn note(&mut self) {
        (self.count, self.last) = (self.count + 1, Some(SystemTime::now()));
    }
}

const OUTCOMES: [&str; 2] = ["success", "failure"];

impl Manifests {
    /// Reads a directory.
    pub(crate) fn load(plugin: Plugin, directory: &str) -> Result<Manifests, String> {
        let mut manifests = Manifests { plugin, directory: PathBuf::from(directory), found: Arc::default(), outcomes: Default::default() };
        let (name, what) = (plugin.name(), plugin.what());
        let failed = |why: String| format!("failed to initialize admission plugin {name:?}: failed to load static {what} manifests from {directory:?}: {why}");
        manifests.found = Files::of(&manifests.directory).and_then(|files| files.read(plugin)).map(Arc::new).map_err(failed)?;
        manifests.outcomes[0].note();
        Ok(manifests)
    }

    /// Reads the directory again, and whether it says something else now. Files that are as they were are not read as manifests again.
    ///
    /// # Errors
    /// It cannot be read; what it said last stays.
    pub(super) fn reread(&mut self) -> Result<bool, String> {
        let (plugin, known) = (self.plugin, self.found.digest);
        let read = Files::of(&self.directory).and_then(|files| if files.digest == known { Ok(None) } else { files.read(plugin).map(Some) });
        let found = read.inspect_err(|_| self.outcomes[1].note())?;
        let is_new = found.is_some();
        if let Some(found) = found {
            self.found = Arc::new(found);
            self.outcomes[0].note();
        }
        Ok(is_new)
    }
}

/// The files of a directory that may say something, each with its name.
struct Files {
    all: Vec<(String, Vec<u8>)>,
    digest: [u8; 32],
}

impl Files {
    fn of(directory: &Path) -> Result<Files, String> {
        let listed = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let listed = listed.map_err(|error| format!("failed to read manifest directory {:?}: {}", shown(directory), file_error(directory, &error)))?;
        let paths = listed.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir())).map(|entry| entry.path());
        let mut paths: Vec<PathBuf> = paths.filter(|path| is_manifest(path)).collect();
        paths.sort();
        let (mut all, mut digest) = (Vec::new(), Sha256::new());
        for path in &paths {
            let failed = |why: String| format!("failed to read file {:?}: {why}", shown(path));
            let kind = path.metadata().map_err(|error| failed(file_error(path, &error)))?.file_type();
            // It would be waited for without end, by all that is done from time to time.
            if kind.is_fifo() {
                return Err(failed("a pipe is no manifest".to_owned()));
            }
            let bytes = std::fs::read(path).map_err(|error| failed(file_error(path, &error)))?;
            if !bytes.is_empty() {
                digest.update(&bytes);
                digest.update([0_u8]);
                all.push((shown(path), bytes));
            }
        }
        Ok(Files { all, digest: digest.finalize().into() })
    }

    /// What they say, on a thread that holds what is deep.
    fn read(self, plugin: Plugin) -> Result<Found, String> {
        let work = move || Reader::new(plugin).read(&self);
        let thread = std::thread::Builder::new().stack_size(json::STACK_BYTES).spawn(work).map_err(|error| error.to_string())?;
        thread.join().unwrap_or_else(|_| Err("the manifests cannot be read".to_owned()))
    }
}

/// What is told of all of them at `/metrics`, in upstream's words; nothing where there are none.
pub(super) fn metrics(all: &[Manifests]) -> String {
    const OF: &str = "apiserver_manifest_admission_config_controller";
    let mut out = String::new();
    if all.is_empty() {
        return out;
    }
    let mut head = |name: &str, kind: &str, help: &str, lines: Vec<String>| {
        let _ = writeln!(out, "# HELP {OF}_{name} [ALPHA] {help}\n# TYPE {OF}_{name} {kind}");
        for line in lines {
            let _ = writeln!(out, "{OF}_{name}{line}");
        }
    };
    let outcomes = |value: &dyn Fn(&Outcome) -> Option<String>| {
        let of = |one: &Manifests| {
            let each = OUTCOMES.iter().zip(&one.outcomes);
            each.filter_map(|(status, outcome)| {
                Some(format!("{{apiserver_id_hash=\"\",plugin={:?},status={status:?}}} {}", one.plugin.name(), value(outcome)?))
            })
            .collect::<Vec<_>>()
        };
        all.iter().flat_map(of).collect::<Vec<_>>()
    };
    let last = outcomes(&|outcome| {
        let since = outcome.last?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64().to_string())
    });
    let help = "of admission manifest configuration split by status, plugin, and apiserver identity.";
    head("automatic_reload_last_timestamp_seconds", "gauge", &format!("Timestamp of the last automatic reload {help}"), last);
    let counts = outcomes(&|outcome| (outcome.count > 0).then(|| outcome.count.to_string()));
    head("automatic_reloads_total", "counter", &format!("Total number of automatic reloads {help}"), counts);
    let hash = |one: &Manifests| one.found.digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    let infos = all.iter().map(|one| format!("{{apiserver_id_hash=\"\",hash=\"{}\",plugin={:?}}} 1", hash(one), one.plugin.name())).collect();
    let help = "Information about the last applied admission manifest configuration with hash as label, split by plugin and apiserver identity.";
    head("last_config_info", "gauge", help, infos);
    out
}

/// What is wrong with the name of a directory.
pub(crate) fn check_directory(directory: &str) -> Result<(), String> {
    let invalid = |why: &str| Err(format!("staticManifestsDir: Invalid value: {directory:?}: {why}"));
    let path = Path::new(directory);
    if !path.is_absolute() {
        return invalid("must be an absolute file path");
    }
    match path.metadata() {
        Err(error) => invalid(&format!("unable to read: {}", file_error(path, &error).replacen("open", "stat", 1))),
        Ok(found) if !found.is_dir() => invalid("must be a directory"),
        Ok(_) => Ok(()),
    }
}

fn name_of(object: &Value) -> &str {
    text(&object["metadata"], "name")
}

/// Reads a directory.
struct Reader {
    plugin: Plugin,
    found: Found,
    /// Where each name stands, of owners and of bindings.
    seen: [HashMap<String, String>; 2],
}

impl Reader {
    fn new(plugin: Plugin) -> Self {
        Self { plugin, found: Found::default(), seen: Default::default() }
    }

    fn read(mut self, files: &Files) -> Result<Found, String> {
        for (file, bytes) in &files.all {
            for document in documents(&String::from_utf8_lossy(bytes)) {
                self.take(document.as_bytes(), file).map_err(|why| format!("error loading {file}: {why}"))?;
            }
        }
        self.check_references()?;
        let mut found = self.found;
        found.owners.sort_by(|one, other| name_of(one).cmp(name_of(other)));
        found.bindings.sort_by(|one, other| name_of(one).cmp(name_of(other)));
        found.digest = files.digest;
        Ok(found)
    }

    /// Takes a document: an object, or a list of some.
    fn take(&mut self, document: &[u8], file: &str) -> Result<(), String> {
        let read = decode(document)?;
        self.place(read, file)
    }

    fn place(&mut self, mut read: Read, file: &str) -> Result<(), String> {
        let (owner, binding) = self.plugin.kinds();
        for known in [Some(owner), binding].into_iter().flatten().filter(|_| read.version == VERSION) {
            if read.kind == known.0 {
                return self.accept(known, read.value, file);
            }
            if read.kind.strip_suffix("List") == Some(known.0) {
                for item in read.value["items"].take().as_array().into_iter().flatten() {
                    // Those of a list of one kind need not say it.
                    let item = typed(VERSION, known.0, &json::encode(item))?;
                    self.accept(known, item, file)?;
                }
                return Ok(());
            }
        }
        if (read.version.as_str(), read.kind.as_str()) != ("v1", "List") {
            let version = read.version.rsplit('/').next().unwrap_or_default();
            return Err(format!("unsupported resource type *{version}.{}", read.kind));
        }
        for item in read.value["items"].take().as_array().into_iter().flatten() {
            let item = decode(&json::encode(item)).map_err(|why| format!("failed to decode list item: {why}"))?;
            self.place(item, file)?;
        }
        Ok(())
    }

    /// Takes an object of a kind that belongs here.
    fn accept(&mut self, (kind, resource): Kind, mut object: Value, file: &str) -> Result<(), String> {
        let strategy = kinds::strategy(GROUP, resource);
        strategy.default(&mut object);
        let name = name_of(&object).to_owned();
        let mut errors = match name.as_str() {
            "" => vec![Error::required(&Field::root("metadata").child("name"), "name or generateName is required")],
            _ => kinds::validate_meta(&object, false, strategy),
        };
        // The API keeps these names from others.
        let mut judged = object.clone();
        if let Some(own) = name.strip_suffix(SUFFIX) {
            judged["metadata"]["name"] = own.into();
        }
        errors.extend(strategy.judge(&judged, &AtomicBool::new(false)).errors);
        if !errors.is_empty() {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(format!("{kind} {name:?}: {}", joined(&errors)));
        }
        let is_owner = self.plugin.kinds().0.0 == kind;
        self.check_name(&name, file, usize::from(!is_owner))?;
        match (is_owner, self.plugin.what()) {
            (false, _) => check_binding(&name, &object["spec"])?,
            (true, "policy") if !object["spec"]["paramKind"].is_null() => {
                return Err(format!("{kind} {name:?}: spec.paramKind is not supported for static manifests"));
            }
            (true, "policy") => {}
            _ => check_webhooks(&name, &object, file)?,
        }
        let list = if is_owner { &mut self.found.owners } else { &mut self.found.bindings };
        list.push(object);
        Ok(())
    }

    fn check_name(&mut self, name: &str, file: &str, place: usize) -> Result<(), String> {
        if name.is_empty() {
            return Err(format!("resource in file {file:?} must have a name"));
        }
        if !name.ends_with(SUFFIX) {
            return Err(format!("{name:?} in file {file:?} must have a name ending with {SUFFIX:?}"));
        }
        match self.seen[place].insert(name.to_owned(), file.to_owned()) {
            Some(before) => Err(format!("duplicate name {name:?} found in file {file:?} (previously seen in {before:?})")),
            None => Ok(()),
        }
    }

    fn check_references(&self) -> Result<(), String> {
        let known: HashSet<&str> = self.found.owners.iter().map(name_of).collect();
        for binding in &self.found.bindings {
            let policy = text(&binding["spec"], "policyName");
            if !known.contains(policy) {
                return Err(format!("binding {:?} references policy {policy:?} which does not exist in the manifest directory", name_of(binding)));
            }
        }
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A document as it is read: an object of a kind that is known, or a list.
struct Read {
    version: String,
    kind: String,
    value: Value,
}

/// Reads a document as upstream's strict decoder, in its words.
fn decode(document: &[u8]) -> Result<Read, String> {
    const CONVERTING: &str = "error converting YAML to JSON: ";
    let wrong = |status: Status| status.message.strip_prefix(CONVERTING).unwrap_or(&status.message).to_owned();
    let value = yaml::decode(document, None, Validation::Ignore).map_err(wrong)?.value;
    if !value.is_object() && !value.is_null() {
        return Err(words::no_object(&value));
    }
    let (version, kind) = (text(&value, "apiVersion").to_owned(), text(&value, "kind").to_owned());
    for (what, said) in [("Kind", &kind), ("apiVersion", &version)] {
        if said.is_empty() {
            return Err(format!("Object '{what}' is missing in '{}'", String::from_utf8_lossy(document).trim()));
        }
    }
    let one = kind.strip_suffix("List").unwrap_or(&kind);
    let is_ours = version.split_once('/').is_some_and(|(group, version)| group == GROUP && type_of(version, one).is_some());
    if is_ours && one == kind {
        let value = typed(&version, &kind, document)?;
        return Ok(Read { version, kind, value });
    }
    if is_ours || (version.as_str(), kind.as_str()) == ("v1", "List") {
        return Ok(Read { version, kind, value });
    }
    Err(words::unregistered(&kind, &version))
}

/// An object of a kind with nothing that is not its kind's, defaults and all.
fn typed(version: &str, kind: &str, document: &[u8]) -> Result<Value, String> {
    let short = version.rsplit('/').next().unwrap_or_default();
    let ty = type_of(short, kind).ok_or_else(|| format!("the schema lacks {kind}"))?;
    let before = format!("cannot be handled as a {kind}: ");
    let wrong = |status: Status| status.message.split_once(&before).map_or(status.message.clone(), |(_, why)| why.to_owned());
    let mut object = yaml::decode(document, Some(ty), Validation::Strict).map_err(wrong)?.value;
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), version.into());
        fields.insert("kind".to_owned(), kind.into());
    }
    defaulting::apply(ty, &mut object);
    Ok(object)
}

fn type_of(version: &str, kind: &str) -> Option<TypeRef<'static>> {
    schema::builtin().kind(&Gvk::new(GROUP, version, kind))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|own| own.to_str()).unwrap_or_default().to_ascii_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// The documents of a file that say something.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let is_end = line.strip_prefix("---").map(str::trim).is_some_and(|rest| rest.is_empty() || rest.starts_with('#'));
        if is_end {
            all.push(String::new());
        } else if let Some(own) = all.last_mut() {
            own.push_str(line);
        }
    }
    all.retain(|document| !document.trim().is_empty());
    all
}

fn check_binding(name: &str, spec: &Value) -> Result<(), String> {
    let policy = text(spec, "policyName");
    if policy.is_empty() {
        return Err(format!("binding {name:?} must reference a policy (spec.policyName)"));
    }
    if !policy.ends_with(SUFFIX) {
        return Err(format!("binding {name:?}: spec.policyName {policy:?} must end with {SUFFIX:?}"));
    }
    if spec["paramRef"].is_null() { Ok(()) } else { Err(format!("binding {name:?}: spec.paramRef is not supported for static manifests")) }
}

fn check_webhooks(name: &str, object: &Value, file: &str) -> Result<(), String> {
    for hook in object["webhooks"].as_array().into_iter().flatten() {
        let (own, config) = (text(hook, "name"), &hook["clientConfig"]);
        if !config["service"].is_null() {
            let why = "clientConfig.service is not supported for static manifests; use clientConfig.url instead";
            return Err(format!("webhook {own:?} in {name:?} (file {file:?}): {why}"));
        }
        if text(config, "url").is_empty() {
            return Err(format!("webhook {own:?} in {name:?} (file {file:?}): clientConfig.url is required for static manifests"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: a.static.k8s.io}\nspec:\n  \
                          matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]}\n  \
                          validations: [{expression: 'false'}]\n";
    const BINDING: &str = "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {name: b.static.k8s.io}\n\
                           spec: {policyName: a.static.k8s.io, validationActions: [Deny]}\n";

    #[test]
    fn directories_are_read_or_refused_in_the_originals_words() {
        let folder = std::env::temp_dir().join(format!("knarr-manifests-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let at = shown(&folder);
        let read = |text: &str| {
            std::fs::write(folder.join("one.yaml"), text).unwrap();
            Manifests::load(Plugin::ValidatingPolicies, &at)
        };
        std::fs::write(folder.join("none.txt"), "x: [").unwrap();
        let told = |text: &str| read(text).map(|_| ()).unwrap_err().replace(&at, "DIR");
        let both = read(&format!("{POLICY}---\n\n---  # the next\n{BINDING}")).unwrap().found;
        assert_eq!((name_of(&both.owners[0]), name_of(&both.bindings[0])), ("a.static.k8s.io", "b.static.k8s.io"));
        assert_eq!(both.owners[0]["spec"]["failurePolicy"], "Fail", "defaults are there");
        let mut known = read(POLICY).unwrap();
        assert_eq!(known.reread(), Ok(false), "nothing has changed");
        std::fs::write(folder.join("one.yaml"), "x: [").unwrap();
        assert!(known.reread().is_err() && name_of(&known.found.owners[0]) == "a.static.k8s.io", "what was good stays");
        let told_of = metrics(&[known]);
        for status in OUTCOMES {
            let line = format!("_automatic_reloads_total{{apiserver_id_hash=\"\",plugin=\"ValidatingAdmissionPolicy\",status=\"{status}\"}} 1\n");
            assert!(told_of.contains(&line), "{told_of}");
        }
        let start = "failed to initialize admission plugin \"ValidatingAdmissionPolicy\": failed to load static policy manifests from \"DIR\": ";
        let missing = "binding \"b.static.k8s.io\" references policy \"a.static.k8s.io\" which does not exist in the manifest directory";
        assert_eq!(told(BINDING), format!("{start}{missing}"));
        let one = format!("{start}error loading DIR/one.yaml: ");
        let twice = "duplicate name \"a.static.k8s.io\" found in file \"DIR/one.yaml\" (previously seen in \"DIR/one.yaml\")";
        assert_eq!(told(&format!("{POLICY}---\n{POLICY}")), format!("{one}{twice}"));
        let named = POLICY.replace("a.static.k8s.io", "a");
        assert_eq!(told(&named), format!("{one}\"a\" in file \"DIR/one.yaml\" must have a name ending with \".static.k8s.io\""));
        assert!(told(&POLICY.replace("'false'", "'1'")).contains("must evaluate to bool"), "expressions are compiled");
        assert!(told("apiVersion: v1\nkind: Pod\n").ends_with("no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\""));
        for (text, why) in [
            ("kind: X\n", "Object 'apiVersion' is missing in 'kind: X'"),
            ("# nothing\n", "Object 'Kind' is missing in '# nothing'"),
            (
                "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod}]\n",
                "failed to decode list item: no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\"",
            ),
            (POLICY.replace("validations:", "bogus: 1\n  validations:").as_str(), "strict decoding error: unknown field \"spec.bogus\""),
            (
                POLICY.replace("{name: a.static.k8s.io}", "{}").as_str(),
                "ValidatingAdmissionPolicy \"\": metadata.name: Required value: name or generateName is required",
            ),
        ] {
            assert_eq!(told(text), format!("{one}{why}"));
        }
        let list = BINDING.replace("Binding\n", "BindingList\n");
        assert!(read(&format!("{POLICY}---\n{list}")).unwrap().found.bindings.is_empty());
        assert!(std::process::Command::new("mkfifo").arg(folder.join("two.yaml")).status().unwrap().success());
        let pipe = "failed to read file \"DIR/two.yaml\": a pipe is no manifest";
        assert_eq!(told(POLICY), format!("{start}{pipe}"));
        assert_eq!(check_directory("x").unwrap_err(), "staticManifestsDir: Invalid value: \"x\": must be an absolute file path");
        assert_eq!(check_directory(&at), Ok(()));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
