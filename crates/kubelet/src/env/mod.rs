//! The environment of a container: literal values, references, `$(VAR)` expansion and the variables of services.

pub mod downward;
pub mod expand;
pub mod services;

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Pod};

use crate::api::{ApiError, RefKind, RefObject, SharedApi};
use crate::util;
use downward::Facts;

/// Why the environment cannot be made; shown as `CreateContainerConfigError`.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct EnvError(pub String);

/// An ordered environment in which a later value replaces an earlier one of the same name.
#[derive(Default, Debug)]
struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
    bytes: usize,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) -> Result<(), EnvError> {
        self.bytes += name.len() + value.len();
        match self.values.insert(name.to_owned(), value) {
            Some(former) => self.bytes -= name.len() + former.len(),
            None => self.order.push(name.to_owned()),
        }
        if self.bytes > expand::BYTES_MAX {
            return Err(EnvError("argument list too long".to_owned()));
        }
        Ok(())
    }
}

/// The whole environment of a container, in order. `services` are the variables of services, weakest of all.
pub async fn build(
    api: &SharedApi,
    facts: &Facts<'_>,
    c: &Container,
    services: Vec<(String, String)>,
    volumes: &Path,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Environment::default();
    let weak: BTreeMap<String, String> = services.into_iter().collect();
    let ns = util::namespace(facts.pod);
    for from in c.env_from.iter().flatten() {
        add_from(&mut env, api, ns, from).await?;
    }
    for var in c.env.iter().flatten() {
        let value = match &var.value_from {
            None => {
                let lookup = |name: &str| env.values.get(name).or_else(|| weak.get(name)).cloned();
                Some(expand::expand(var.value.as_deref().unwrap_or_default(), lookup))
            }
            Some(_) => reference(api, facts, c, var, volumes).await?,
        };
        if let Some(value) = value {
            env.set(&var.name, value)?;
        }
    }
    let mut out: Vec<(String, String)> = weak.iter().filter(|(n, _)| !env.values.contains_key(*n)).map(|(n, v)| (n.clone(), v.clone())).collect();
    for name in env.order {
        if let Some(value) = env.values.remove(&name) {
            out.push((name, value));
        }
    }
    Ok(out)
}

async fn add_from(env: &mut Environment, api: &SharedApi, ns: &str, from: &EnvFromSource) -> Result<(), EnvError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
        (Some(r), _) => (RefKind::ConfigMap, &r.name, r.optional),
        (None, Some(r)) => (RefKind::Secret, &r.name, r.optional),
        (None, None) => return Ok(()),
    };
    let Some(object) = fetch(api, kind, ns, name, optional.unwrap_or(false)).await? else { return Ok(()) };
    match object {
        RefObject::ConfigMap(m) => {
            for (k, v) in m.data.iter().flatten() {
                env.set(&format!("{prefix}{k}"), v.clone())?;
            }
        }
        RefObject::Secret(s) => {
            for (k, v) in s.data.iter().flatten() {
                env.set(&format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())?;
            }
        }
    }
    Ok(())
}

/// A referenced object; none if it is optional and missing.
async fn fetch(api: &SharedApi, kind: RefKind, ns: &str, name: &str, optional: bool) -> Result<Option<RefObject>, EnvError> {
    match api.get_ref(kind, ns, name).await {
        Ok((Some(object), _)) => Ok(Some(object)),
        Ok((None, _)) | Err(ApiError::NotFound(_)) if optional => Ok(None),
        Ok((None, _)) | Err(ApiError::NotFound(_)) => {
            let resource = if kind == RefKind::ConfigMap { "configmap" } else { "secret" };
            Err(EnvError(format!("{resource} {name:?} not found")))
        }
        Err(e) => Err(EnvError(e.to_string())),
    }
}

async fn reference(api: &SharedApi, facts: &Facts<'_>, c: &Container, var: &EnvVar, volumes: &Path) -> Result<Option<String>, EnvError> {
    let ns = util::namespace(facts.pod);
    let Some(from) = &var.value_from else { return Ok(None) };
    if let Some(f) = &from.field_ref {
        return downward::field(facts, &f.field_path).map(Some).map_err(EnvError);
    }
    if let Some(r) = &from.resource_field_ref {
        let target = match r.container_name.as_deref().filter(|n| !n.is_empty()) {
            Some(name) => downward::container(facts.pod, name).ok_or_else(|| EnvError(format!("container {name} not found")))?,
            None => c,
        };
        return downward::resource(facts, target, &r.resource, r.divisor.as_ref()).map(Some).map_err(EnvError);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional.unwrap_or(false);
        let Some(RefObject::ConfigMap(m)) = fetch(api, RefKind::ConfigMap, ns, &r.name, optional).await? else { return Ok(None) };
        let value = m.data.as_ref().and_then(|d| d.get(&r.key)).cloned();
        return missing_key(value, optional, &r.key, "ConfigMap", ns, &r.name);
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional.unwrap_or(false);
        let Some(RefObject::Secret(s)) = fetch(api, RefKind::Secret, ns, &r.name, optional).await? else { return Ok(None) };
        let value = s.data.as_ref().and_then(|d| d.get(&r.key)).map(|v| String::from_utf8_lossy(&v.0).into_owned());
        return missing_key(value, optional, &r.key, "Secret", ns, &r.name);
    }
    if let Some(r) = &from.file_key_ref {
        let (pod, r, volumes) = (facts.pod.clone(), r.clone(), volumes.to_owned());
        return util::blocking(move || file_key(&pod, &r.volume_name, &r.path, &r.key, r.optional.unwrap_or(false), &volumes)).await;
    }
    Ok(None)
}

fn missing_key(value: Option<String>, optional: bool, key: &str, kind: &str, ns: &str, name: &str) -> Result<Option<String>, EnvError> {
    match value {
        None if !optional => Err(EnvError(format!("couldn't find key {key} in {kind} {ns}/{name}"))),
        other => Ok(other),
    }
}

/// A value from a `KEY=value` file of an emptyDir volume (KEP-3721).
fn file_key(pod: &Pod, volume: &str, path: &str, key: &str, optional: bool, volumes: &Path) -> Result<Option<String>, EnvError> {
    let base = crate::volumes::empty_dir_path(volumes, volume);
    let read = crate::volumes::subpath::open_beneath(&base, Path::new(path)).and_then(|f| {
        use std::io::Read;
        let mut text = String::new();
        f.take(64 * 1024).read_to_string(&mut text).map(|_| text)
    });
    let file = base.join(path).display().to_string();
    let unread = |error: &str| {
        tracing::warn!(pod = %util::describe(pod), file, error, "env file not read");
        // What stands in it is for the pod alone.
        EnvError("couldn't parse env file".into())
    };
    let text = match read {
        Ok(t) => t,
        Err(e) if optional && e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unread(&e.to_string())),
    };
    match value_of(&text, key).map_err(|e| unread(&e))? {
        value if !value.is_empty() => Ok(Some(value)),
        _ if optional => Ok(None),
        _ => Err(EnvError(format!("environment variable key {key:?} not found in file {file:?}"))),
    }
}

/// The value of a key in such a file, empty if it has none. The form is a strict part of a shell's (upstream's `ParseEnv`): `KEY='value'`, where
/// the value stands as it is written and may go over several lines, with comments after it and in lines of their own.
fn value_of(text: &str, key: &str) -> Result<String, String> {
    const BLANK: [char; 2] = [' ', '\t'];
    let wrong = |line: usize, what: &str| Err(format!("invalid environment variable format at line {line}: {what}"));
    let mut lines = text.lines().zip(1_usize..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start_matches(BLANK);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, rest)) = line.split_once('=') else { return wrong(number, "missing '='") };
        if name.is_empty() {
            return wrong(number, "empty variable name");
        }
        if name.ends_with(BLANK) {
            return wrong(number, "whitespace before '=' is not allowed");
        }
        if rest.starts_with(BLANK) {
            // To a shell that is an empty value.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(mut rest) = rest.strip_prefix('\'') else { return wrong(number, "value must be enclosed in single quotes") };
        let (mut value, mut last) = (String::new(), number);
        let after = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                value.push_str(end);
                break after.trim_start_matches(BLANK);
            }
            value.push_str(rest);
            value.push('\n');
            let Some(next) = lines.next() else { return wrong(number, "unclosed single quote") };
            (rest, last) = next;
        };
        if !after.is_empty() && !after.starts_with('#') {
            return wrong(last, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::value_of;

    #[test]
    fn files_of_variables_are_read_as_a_strict_shell_would() {
        let text = "# a comment\n\n  A='one' # of it\nB='two\nlines = \"$A\"'\nC= 'x'\nD=''\n";
        let of = |key: &str| value_of(text, key).unwrap();
        assert_eq!([of("A"), of("B"), of("C"), of("D"), of("E")], ["one", "two\nlines = \"$A\"", "", "", ""]);
        for (bad, why) in [
            ("A='1'\nB=2", "at line 2: value must be enclosed in single quotes"),
            ("A=\"1\"", "at line 1: value must be enclosed in single quotes"),
            ("A", "at line 1: missing '='"),
            ("='1'", "at line 1: empty variable name"),
            ("A ='1'", "at line 1: whitespace before '=' is not allowed"),
            ("A='1\n2", "at line 1: unclosed single quote"),
            ("A='1\n2'3", "at line 2: unexpected content after closing quote"),
        ] {
            assert!(value_of(bad, "Z").unwrap_err().ends_with(why), "{bad:?}");
        }
        assert_eq!(value_of("A='1'\nB=2", "A").as_deref(), Ok("1"), "what stands before is read");
    }
}
