//! What `--image-credential-provider-config` says: the programs that give logins for images. Read and checked once, at the start, with the
//! original's words for what is wrong (`pkg/credentialprovider/plugin/config.go`).

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use machinery::Value;
use machinery::field::{Error, Path as Field};
use machinery::json::Validation;
use machinery::names::qualified_name;
use machinery::time::parse_go_duration;
use machinery::tree::text;
use machinery::yaml;
use serde::Deserialize;

use crate::util::words;

/// The group of the file.
const GROUP: &str = "kubelet.config.k8s.io";
/// The group of what is said to the programs.
pub const PROTOCOL: &str = "credentialprovider.kubelet.k8s.io";
/// How tokens' logins are kept, as the file says it.
const CACHE_TYPES: [&str; 2] = ["ServiceAccount", "Token"];

/// A program, checked.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub program: PathBuf,
    /// The images that it is asked about.
    pub match_images: Vec<String>,
    /// How long what it says is kept where it does not say so itself.
    pub default_cache: Duration,
    /// The version that it speaks, with the group.
    pub api_version: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables besides the kubelet's own.
    pub env: Vec<(String, String)>,
    /// What it is told of the pod's service account.
    pub tokens: Option<Tokens>,
}

/// What a program is told of the pod's service account (KEP-4412).
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The audience of the token.
    pub audience: String,
    /// What it says counts for the token alone, not for the account.
    pub by_token: bool,
    /// It is not asked about pods without one.
    pub required: bool,
    /// It is not asked where one of these annotations is missing.
    pub required_annotations: Vec<String>,
    /// Told as well.
    pub optional_annotations: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Written {
    name: Option<String>,
    match_images: Option<Vec<String>>,
    default_cache_duration: Option<String>,
    api_version: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct Variable {
    name: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    service_account_token_audience: Option<String>,
    cache_type: Option<String>,
    require_service_account: Option<bool>,
    required_service_account_annotation_keys: Option<Vec<String>>,
    optional_service_account_annotation_keys: Option<Vec<String>>,
}

/// The programs that a file, or the files of a directory, name, which lie in `programs`. Blocks on the disk.
///
/// # Errors
/// What is wrong.
pub fn read(config: &Path, programs: &Path) -> Result<Vec<Provider>, String> {
    fs::metadata(programs).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("plugin binary directory {} did not exist", programs.display()),
        _ => format!("error inspecting binary directory {}: stat {}: {}", programs.display(), programs.display(), words(&e)),
    })?;
    let mut all: Vec<Written> = Vec::new();
    for path in files(config)? {
        let shown = path.display();
        let bytes = fs::read(&path).map_err(|e| format!("unable to read file \"{shown}\": open {shown}: {}", words(&e)))?;
        for provider in decode(&bytes).map_err(|why| format!("error decoding config \"{shown}\": {why}"))? {
            let name = provider.name.as_deref().unwrap_or_default();
            if all.iter().any(|other| other.name.as_deref().unwrap_or_default() == name) {
                return Err(format!("duplicate provider name {name:?} found in configuration file(s)"));
            }
            all.push(provider);
        }
    }
    let errors = check(&all);
    match errors.as_slice() {
        [] => all.into_iter().map(|provider| checked(provider, programs)).collect(),
        [one] => Err(format!("failed to validate credential provider config: {one}")),
        many => Err(format!("failed to validate credential provider config: [{}]", many.join(", "))),
    }
}

/// The file, or those of the directory, in order.
fn files(config: &Path) -> Result<Vec<PathBuf>, String> {
    if config.as_os_str().is_empty() {
        return Err("credential provider config path is empty".into());
    }
    let shown = config.display();
    let meta = fs::metadata(config).map_err(|e| format!("unable to access path \"{shown}\": stat {shown}: {}", words(&e)))?;
    if !meta.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let unread = |e: io::Error| format!("unable to read directory \"{shown}\": open {shown}: {}", words(&e));
    let mut found = Vec::new();
    for entry in fs::read_dir(config).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        // As it stands there: what a link leads to does not count.
        let is_dir = entry.file_type().map_err(unread)?.is_dir();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !is_dir && [".json", ".yaml", ".yml"].iter().any(|end| name.ends_with(end)) {
            found.push(entry.path());
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(format!("no configuration files found in directory \"{shown}\""));
    }
    Ok(found)
}

/// The entries of one file. Fields that there are not are refused, as are fields that are there twice.
fn decode(bytes: &[u8]) -> Result<Vec<Written>, String> {
    let value = yaml::decode(bytes, None, Validation::Strict).map_err(|e| e.message)?.value;
    let (version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    for (name, said) in [("Kind", kind), ("apiVersion", version)] {
        if said.is_empty() {
            return Err(format!("Object '{name}' is missing in '{value}'"));
        }
    }
    let short = version.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/'));
    let (Some(short @ ("v1" | "v1beta1" | "v1alpha1")), "CredentialProviderConfig") = (short, kind) else {
        return Err(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"k8s.io/kubernetes/pkg/credentialprovider/plugin/plugin.go:69\""
        ));
    };
    let unknown = unknown_fields(&value, short == "v1");
    if !unknown.is_empty() {
        let unknown: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        return Err(format!("strict decoding error: {}", unknown.join(", ")));
    }
    let providers = value.get("providers").cloned().unwrap_or_default();
    serde_json::from_value::<Option<Vec<Written>>>(providers).map(Option::unwrap_or_default).map_err(|e| e.to_string())
}

/// Where the file says something that the original does not know. Only the newest version knows of tokens.
fn unknown_fields(value: &Value, is_v1: bool) -> Vec<String> {
    fn look(value: Option<&Value>, at: &str, known: &[&str], out: &mut Vec<String>) {
        let fields = value.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name);
        let dot = if at.is_empty() { "" } else { "." };
        out.extend(fields.filter(|name| !known.contains(&name.as_str())).map(|name| format!("{at}{dot}{name}")));
    }
    let mut out = Vec::new();
    look(Some(value), "", &["apiVersion", "kind", "providers"], &mut out);
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let known = ["name", "matchImages", "defaultCacheDuration", "apiVersion", "args", "env", "tokenAttributes"];
    let known = if is_v1 { known.as_slice() } else { known.split_last().map_or(&[][..], |(_, others)| others) };
    for (i, provider) in list(value, "providers").iter().enumerate() {
        let at = format!("providers[{i}]");
        look(Some(provider), &at, known, &mut out);
        for (j, variable) in list(provider, "env").iter().enumerate() {
            look(Some(variable), &format!("{at}.env[{j}]"), &["name", "value"], &mut out);
        }
        if is_v1 {
            let known = [
                "serviceAccountTokenAudience",
                "cacheType",
                "requireServiceAccount",
                "requiredServiceAccountAnnotationKeys",
                "optionalServiceAccountAnnotationKeys",
            ];
            look(provider.get("tokenAttributes"), &format!("{at}.tokenAttributes"), &known, &mut out);
        }
    }
    out
}

/// What is wrong with the entries (upstream's `validateCredentialProviderConfig`).
fn check(all: &[Written]) -> Vec<String> {
    let field = Field::new("providers");
    let mut errors = Vec::new();
    if all.is_empty() {
        errors.push(Error::required(&field, "at least 1 item in plugins is required"));
    }
    for provider in all {
        check_one(provider, &field, &mut errors);
    }
    // The same words twice are told once.
    let mut told = BTreeSet::new();
    errors.iter().map(ToString::to_string).filter(|error| told.insert(error.clone())).collect()
}

fn check_one(provider: &Written, field: &Field, errors: &mut Vec<Error>) {
    let name = provider.name.as_deref().unwrap_or_default();
    let named = field.child("name");
    for (is_bad, why) in [
        (name.contains('/'), "provider name cannot contain '/'"),
        (name.contains(' '), "provider name cannot contain spaces"),
        (name == ".", "provider name cannot be '.'"),
        (name == "..", "provider name cannot be '..'"),
    ] {
        if is_bad {
            errors.push(Error::invalid(&named, name, why));
        }
    }
    let version = provider.api_version.as_deref().unwrap_or_default();
    let versions = ["v1", "v1alpha1", "v1beta1"].map(|v| format!("{PROTOCOL}/{v}"));
    if version.is_empty() {
        errors.push(Error::required(&field.child("apiVersion"), ""));
    } else if !versions.iter().any(|known| known == version) {
        errors.push(Error::not_supported(&field.child("apiVersion"), version, &versions));
    }
    let images = provider.match_images.as_deref().unwrap_or_default();
    let matching = field.child("matchImages");
    if images.is_empty() {
        errors.push(Error::required(&matching, "at least 1 item in matchImages is required"));
    }
    for image in images {
        if let Some(why) = no_url(image) {
            errors.push(Error::invalid(&matching, image.as_str(), format!("match image is invalid: {why}")));
        }
    }
    let kept = field.child("defaultCacheDuration");
    match provider.default_cache_duration.as_deref().map(parse_go_duration) {
        None => errors.push(Error::required(&kept, "")),
        Some(Ok(0..)) => {}
        Some(Ok(nanos)) => {
            let shown = format!("-{}", machinery::time::go_duration(Duration::from_nanos(nanos.unsigned_abs())));
            errors.push(Error::invalid(&kept, shown, "must be greater than or equal to 0"));
        }
        // The original says so where it decodes the file.
        Some(Err(why)) => errors.push(Error::invalid_unshown(&kept, why)),
    }
    if let Some(attributes) = &provider.token_attributes {
        check_tokens(attributes, version, &field.child("tokenAttributes"), errors);
    }
}

fn check_tokens(said: &Attributes, version: &str, field: &Field, errors: &mut Vec<Error>) {
    if said.service_account_token_audience.as_deref().unwrap_or_default().is_empty() {
        errors.push(Error::required(&field.child("serviceAccountTokenAudience"), ""));
    }
    if said.require_service_account.is_none() {
        errors.push(Error::required(&field.child("requireServiceAccount"), ""));
    }
    let newest = format!("{PROTOCOL}/v1");
    if version != newest {
        errors.push(Error::forbidden(field, format!("tokenAttributes is only supported for {newest} API version")));
    }
    let required = said.required_service_account_annotation_keys.as_deref().unwrap_or_default();
    let optional = said.optional_service_account_annotation_keys.as_deref().unwrap_or_default();
    let required_field = field.child("requiredServiceAccountAnnotationKeys");
    if said.require_service_account == Some(false) && !required.is_empty() {
        errors.push(Error::forbidden(&required_field, "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set"));
    }
    for (field, keys) in [(required_field, required), (field.child("optionalServiceAccountAnnotationKeys"), optional)] {
        let mut seen = BTreeSet::new();
        for key in keys {
            errors.extend(qualified_name(&key.to_lowercase()).into_iter().map(|why| Error::invalid(&field, key.as_str(), why)));
            if !seen.insert(key) {
                errors.push(Error::duplicate(&field, key.as_str()));
            }
        }
    }
    let both: BTreeSet<&str> = required.iter().filter(|key| optional.contains(key)).map(String::as_str).collect();
    if !both.is_empty() {
        errors.push(Error::invalid(field, both.into_iter().collect::<Vec<_>>(), "annotation keys cannot be both required and optional"));
    }
    let kept = field.child("cacheType");
    match said.cache_type.as_deref().unwrap_or_default() {
        "" => {
            let values = CACHE_TYPES.join(", ");
            errors.push(Error::required(&kept, format!("cacheType is required to be set when tokenAttributes is specified. Supported values are: {values}")));
        }
        known if CACHE_TYPES.contains(&known) => {}
        other => errors.push(Error::not_supported(&kept, other, &CACHE_TYPES)),
    }
}

/// Why Go's `url.Parse` refuses a pattern behind `https://`.
fn no_url(pattern: &str) -> Option<String> {
    let url = format!("https://{pattern}");
    if url.chars().any(|c| c.is_ascii_control()) {
        return Some(format!("parse {url:?}: net/url: invalid control character in URL"));
    }
    let (host, path) = pattern.split_at(pattern.find(['/', '?', '#']).unwrap_or(pattern.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if host.rfind('[').is_some_and(|at| at > 0) {
        return Some(format!("parse {url:?}: invalid IP-literal"));
    }
    let is_allowed = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"".contains(c);
    if let Some(c) = host.chars().find(|c| !is_allowed(*c)) {
        return Some(match c {
            '%' => format!("parse {url:?}: invalid URL escape {:?}", host.get(host.find('%')?..)?.chars().take(3).collect::<String>()),
            c => format!("parse {url:?}: invalid character {:?} in host name", c.to_string()),
        });
    }
    let after = host.rfind(']').map_or(host, |at| host.split_at(at).1);
    if let Some(port) = after.rfind(':').map(|at| after.split_at(at).1)
        && !port.chars().skip(1).all(|c| c.is_ascii_digit())
    {
        return Some(format!("parse {url:?}: invalid port {port:?} after host"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let bad = path.match_indices('%').find(|(at, _)| !path.get(at + 1..at + 3).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())));
    bad.map(|(at, _)| format!("parse {url:?}: invalid URL escape {:?}", path.split_at(at).1.chars().take(3).collect::<String>()))
}

/// An entry in which nothing is wrong, and its program.
fn checked(said: Written, programs: &Path) -> Result<Provider, String> {
    let name = said.name.unwrap_or_default();
    let program = programs.join(&name);
    let shown = program.display();
    let inspected = |why: &str| format!("error inspecting binary executable {shown}: exec: \"{shown}\": {why}");
    match fs::metadata(&program) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(format!("plugin binary executable {shown} did not exist")),
        Err(e) => return Err(inspected(&format!("stat {shown}: {}", words(&e)))),
        Ok(meta) if meta.is_dir() => return Err(inspected("is a directory")),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => return Err(inspected("permission denied")),
        Ok(_) => {}
    }
    let tokens = said.token_attributes.map(|said| Tokens {
        audience: said.service_account_token_audience.unwrap_or_default(),
        by_token: said.cache_type.as_deref() == Some("Token"),
        required: said.require_service_account.unwrap_or_default(),
        required_annotations: said.required_service_account_annotation_keys.unwrap_or_default(),
        optional_annotations: said.optional_service_account_annotation_keys.unwrap_or_default(),
    });
    let nanos = said.default_cache_duration.as_deref().map(parse_go_duration).transpose()?.unwrap_or_default();
    let env = said.env.unwrap_or_default().into_iter().map(|v| (v.name.unwrap_or_default(), v.value.unwrap_or_default())).collect();
    Ok(Provider {
        name,
        program,
        match_images: said.match_images.unwrap_or_default(),
        default_cache: Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)),
        api_version: said.api_version.unwrap_or_default(),
        args: said.args.unwrap_or_default(),
        env,
        tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    const GOOD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: fake\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['*.reg.io:5000/team']\n  defaultCacheDuration: 1h\n";

    fn of(text: &str) -> Result<Vec<Provider>, String> {
        let dir = TempDir::new("providers-config");
        std::os::unix::fs::symlink("/bin/sh", dir.path().join("fake")).unwrap();
        fs::write(dir.path().join("plain"), "").unwrap();
        fs::write(dir.path().join("config"), text).unwrap();
        read(&dir.path().join("config"), dir.path()).map_err(|e| e.replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn what_a_file_says() {
        let text = format!(
            "{GOOD}  args: [a]\n  env: [{{name: NAME, value: V}}]\n  tokenAttributes: {{serviceAccountTokenAudience: me, cacheType: Token, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [a/B]}}\n"
        );
        let provider = of(&text).unwrap().remove(0);
        assert_eq!((provider.name.as_str(), provider.default_cache), ("fake", Duration::from_secs(3600)));
        assert_eq!((provider.args, provider.env), (vec!["a".to_owned()], vec![("NAME".to_owned(), "V".to_owned())]));
        let tokens = provider.tokens.unwrap();
        assert!(tokens.by_token && tokens.required && tokens.audience == "me" && tokens.required_annotations == ["a/B"]);
    }

    #[test]
    fn what_is_wrong_is_told_in_the_originals_words() {
        let refused = |from: &str, to: &str| of(&GOOD.replace(from, to)).unwrap_err();
        let invalid = "failed to validate credential provider config: ";
        assert_eq!(
            refused("defaultCacheDuration: 1h", "cache: 1h"),
            "error decoding config \"config\": strict decoding error: unknown field \"providers[0].cache\""
        );
        assert_eq!(refused("name: fake", "name: gone"), "plugin binary executable gone did not exist");
        assert_eq!(refused("name: fake", "name: plain"), "error inspecting binary executable plain: exec: \"plain\": permission denied");
        assert_eq!(refused("name: fake", "name: a/b"), format!("{invalid}providers.name: Invalid value: \"a/b\": provider name cannot contain '/'"));
        assert_eq!(
            refused("defaultCacheDuration: 1h", "defaultCacheDuration: -1m"),
            format!("{invalid}providers.defaultCacheDuration: Invalid value: \"-1m0s\": must be greater than or equal to 0")
        );
        assert_eq!(
            refused(":5000/team", ":x"),
            format!(
                "{invalid}providers.matchImages: Invalid value: \"*.reg.io:x\": match image is invalid: parse \"https://*.reg.io:x\": invalid port \":x\" after host"
            )
        );
        assert!(refused(":5000/team", "[0-9]").ends_with("match image is invalid: parse \"https://*.reg.io[0-9]\": invalid IP-literal"));
        assert_eq!(
            refused("credentialprovider.kubelet.k8s.io/v1", "v2"),
            format!(
                "{invalid}providers.apiVersion: Unsupported value: \"v2\": supported values: \"{PROTOCOL}/v1\", \"{PROTOCOL}/v1alpha1\", \"{PROTOCOL}/v1beta1\""
            )
        );
        let tokens = refused("  defaultCacheDuration: 1h", "  defaultCacheDuration: 1h\n  tokenAttributes: {requireServiceAccount: true}");
        assert_eq!(
            tokens,
            format!(
                "{invalid}[providers.tokenAttributes.serviceAccountTokenAudience: Required value, providers.tokenAttributes.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token]"
            )
        );
        assert_eq!(
            of("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n").unwrap_err(),
            format!("{invalid}providers: Required value: at least 1 item in plugins is required")
        );
        assert!(refused("kind: CredentialProviderConfig", "kind: Pod").contains("no kind \"Pod\" is registered"));
    }

    #[test]
    fn the_files_of_a_directory_are_one_list() {
        let dir = TempDir::new("providers-dir");
        let (config, programs) = (dir.path().join("c"), dir.path().join("p"));
        for path in [&config, &programs] {
            fs::create_dir(path).unwrap();
        }
        assert_eq!(read(&config, &dir.path().join("none")).unwrap_err(), format!("plugin binary directory {}/none did not exist", dir.path().display()));
        assert_eq!(read(Path::new(""), &programs).unwrap_err(), "credential provider config path is empty");
        assert_eq!(read(&config, &programs).unwrap_err(), format!("no configuration files found in directory \"{}\"", config.display()));
        for name in ["fake", "other"] {
            std::os::unix::fs::symlink("/bin/sh", programs.join(name)).unwrap();
        }
        fs::write(config.join("b.yaml"), GOOD).unwrap();
        fs::write(config.join("a.json"), GOOD.replace("fake", "other")).unwrap();
        fs::write(config.join("README"), "").unwrap();
        let names: Vec<String> = read(&config, &programs).unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["other", "fake"]);
        fs::write(config.join("c.yml"), GOOD).unwrap();
        assert_eq!(read(&config, &programs).unwrap_err(), "duplicate provider name \"fake\" found in configuration file(s)");
    }
}
