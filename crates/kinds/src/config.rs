//! Configuration: ConfigMaps, Secrets and ServiceAccounts.

use crate::{Context, Selectable, Strategy, groups::key_pair, meta, rules, tree};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};

/// Most bytes of data in an object.
const BYTES_MAX: usize = 1024 * 1024;
const FIXED: &str = "field is immutable when `immutable` is set";

/// The strategy of config maps.
#[derive(Debug, Clone, Copy)]
pub struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let mut bytes = 0;
        for (key, value) in tree::entries(obj, "data") {
            let path = || Path::root("data").key(key);
            check_key(key, path, errors);
            if obj["binaryData"].get(key).is_some() {
                errors.push(Error::invalid(&path(), key, "duplicate of key present in binaryData"));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        for (key, value) in tree::entries(obj, "binaryData") {
            check_key(key, || Path::root("binaryData").key(key), errors);
            bytes += decoded_bytes(value);
        }
        if bytes > BYTES_MAX {
            errors.push(Error::too_long(&Path::root("[]"), BYTES_MAX));
        }
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        frozen(obj, old, &["data", "binaryData"], &mut errors);
        meta::prefix(obj, self, &mut errors);
        self.check(obj, &mut errors);
        errors
    }
}

fn check_key(key: &str, path: impl Fn() -> Path, errors: &mut ErrorList) {
    let problems = names::config_map_key(key);
    if !problems.is_empty() {
        rules::name(key, &path(), problems, errors);
    }
}

/// How many bytes a base64 text stands for.
fn decoded_bytes(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// What was declared immutable is and stays so.
fn frozen(obj: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    if old["immutable"] != true {
        return;
    }
    if obj["immutable"] != true {
        errors.push(Error::forbidden(&Path::root("immutable"), FIXED));
    }
    for field in fields {
        if obj[*field] != old[*field] && !(tree::empty(&obj[*field]) && tree::empty(&old[*field])) {
            errors.push(Error::forbidden(&Path::root(field), FIXED));
        }
    }
}

/// The strategy of secrets.
#[derive(Debug, Clone, Copy)]
pub struct Secrets;

impl Strategy for Secrets {
    fn default(&self, obj: &mut Value) {
        let Some(fields) = obj.as_object_mut() else { return };
        tree::fill_text(fields, "type", "Opaque");
        // Plain texts are for writing only; they win over data of the same key.
        let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
        if texts.is_empty() {
            return;
        }
        if let Some(data) = tree::child(fields, "data") {
            data.extend(texts.into_iter().map(|(key, text)| (key, STANDARD.encode(text.as_str().unwrap_or_default()).into())));
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let mut bytes = 0;
        for (key, value) in tree::entries(obj, "data") {
            check_key(key, || Path::root("data").key(key), errors);
            bytes += decoded_bytes(value);
        }
        if bytes > BYTES_MAX {
            errors.push(Error::too_long(&Path::root("data"), BYTES_MAX));
        }
        of_type(obj, errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::immutable(&obj["type"], &old["type"], &Path::root("type"), &mut errors);
        frozen(obj, old, &["data"], &mut errors);
        meta::prefix(obj, self, &mut errors);
        self.check(obj, &mut errors);
        errors
    }

    /// Whoever serves by a certificate has its key, and not another.
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        if tree::text(obj, "type") != "kubernetes.io/tls" {
            return Vec::new();
        }
        let read = |key: &str| String::from_utf8_lossy(&STANDARD.decode(tree::text(&obj["data"], key)).unwrap_or_default()).into_owned();
        key_pair::problem(&read("tls.crt"), &read("tls.key")).into_iter().collect()
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        vec![("type".into(), tree::text(obj, "type").to_owned())]
    }
}

fn of_type(obj: &Value, errors: &mut ErrorList) {
    let (data, path) = (&obj["data"], Path::root("data"));
    let mut demand = |keys: &[&str]| {
        for key in keys.iter().filter(|key| data.get(**key).is_none()) {
            errors.push(Error::required(&path.key(key), ""));
        }
    };
    match tree::text(obj, "type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if tree::empty(&obj["metadata"]["annotations"][key]) {
                errors.push(Error::required(&Path::root("metadata.annotations").key(key), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(data, ".dockercfg", &path, errors),
        "kubernetes.io/dockerconfigjson" => docker(data, ".dockerconfigjson", &path, errors),
        "kubernetes.io/basic-auth" if data.get("username").is_none() && data.get("password").is_none() => demand(&["username", "password"]),
        "kubernetes.io/ssh-auth" if tree::empty(&data["ssh-privatekey"]) => errors.push(Error::required(&path.key("ssh-privatekey"), "")),
        "kubernetes.io/tls" => demand(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

/// Credentials of registries are a JSON object.
fn docker(data: &Value, key: &str, path: &Path, errors: &mut ErrorList) {
    let Some(text) = data[key].as_str() else {
        errors.push(Error::required(&path.key(key), ""));
        return;
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    let problem = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", machinery::tree::json_type(&other)),
        Err(error) => machinery::json::syntax_error(&bytes).unwrap_or_else(|| error.to_string()),
    };
    errors.push(Error::invalid(&path.key(key), "<secret contents redacted>", problem));
}

/// The strategy of service accounts.
#[derive(Debug, Clone, Copy)]
pub struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        names_only(obj);
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, _old: &Value) {
        names_only(obj);
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let key = "kubernetes.io/enforce-mountable-secrets";
        let has = |v: &Value| !v["metadata"]["annotations"][key].is_null();
        if has(obj) && !old.is_some_and(has) {
            return vec![format!("metadata.annotations[{key}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets")];
        }
        Vec::new()
    }

    fn reset_fields(&self, _subresource: &str) -> &'static [&'static [&'static str]] {
        &[]
    }
}

/// Of the secrets that an account names only the name is kept.
fn names_only(obj: &mut Value) {
    if let Some(fields) = obj.as_object_mut() {
        tree::each(fields, "secrets").for_each(|secret| secret.retain(|key, _| key == "name"));
    }
}
