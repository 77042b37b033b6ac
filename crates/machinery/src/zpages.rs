//! What the pages of a program about itself have in common at all components (KEP-4827, KEP-4828): text that is for people alone, and to who
//! asks for it the kinds `Statusz` and `Flagz` of `config.k8s.io`.

use std::{collections::BTreeMap, fmt::Write as _, time::SystemTime};

use serde_json::{Value, json};

use crate::{resources, time::rfc3339};

/// The group of both kinds.
const GROUP: &str = "config.k8s.io";
/// Their versions; the last is on its way out.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];

/// What stands above the text of a page.
pub fn head(component: &str, page: &str) -> String {
    format!(
        "\n{component} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging \
         purposes only.\n"
    )
}

/// How long a program has run.
pub fn up(seconds: u64) -> String {
    format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// How a page is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text, for people.
    Text,
    /// The kind as JSON, in this version.
    Kind(&'static str),
}

impl Form {
    /// The first of what somebody accepts (the values of `Accept`, with commas between them) that there is of the page of this kind.
    pub fn wanted(accept: &str, kind: &str) -> Option<Self> {
        let read = |one: &str| {
            let mut parts = one.split(';').map(str::trim);
            match parts.next().unwrap_or_default() {
                "" | "*/*" | "text/*" | "text/plain" => Some(Self::Text),
                "application/json" => {
                    let all: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
                    let told = |name: &str| all.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
                    let is_kind = told("as") == Some(kind) && told("g") == Some(GROUP);
                    VERSIONS.into_iter().find(|version| is_kind && told("v") == Some(*version)).map(Self::Kind)
                }
                _ => None,
            }
        };
        accept.split(',').map(str::trim).find_map(read)
    }

    /// The media type of the answer.
    pub fn media(self, kind: &str) -> String {
        match self {
            Self::Text => "text/plain; charset=utf-8".to_owned(),
            Self::Kind(version) => format!("application/json;g={GROUP};v={version};as={kind}"),
        }
    }

    /// What the answer's header `Warning` says of a version that is on its way out.
    pub fn warning(self, kind: &str) -> Option<String> {
        let kind = kind.to_lowercase();
        let text = format!(r#"299 - "This version of the {kind} endpoint is deprecated. Please use a newer version.""#);
        (self == Self::Kind(VERSIONS[1])).then_some(text)
    }
}

/// `Statusz` as text and as fields: of a program of this version that began then (`began`: in words), with these paths.
pub fn status((started, began): (SystemTime, &str), now: SystemTime, binary: &str, paths: &[&str]) -> (String, Value) {
    let version = resources::version();
    let told = |name: &str| version[name].as_str().unwrap_or_default();
    let (go, binary) = (told("goVersion"), binary.trim_start_matches('v'));
    let emulation = format!("{}.{}", told("emulationMajor"), told("emulationMinor"));
    let up_s = now.duration_since(started).unwrap_or_default().as_secs();
    let text = format!(
        "\nStarted: {began}\nUp: {}\nGo version: {go}\nBinary version: {binary}\nEmulation version: {emulation}\nPaths: {}\n",
        up(up_s),
        paths.join(" ")
    );
    let fields = json!({
        "startTime": rfc3339(started), "uptimeSeconds": up_s, "goVersion": go, "binaryVersion": binary, "emulationVersion": emulation, "paths": paths,
    });
    (text, fields)
}

/// `Flagz` as text and as fields.
pub fn flags(flags: &BTreeMap<&'static str, String>) -> (String, Value) {
    let mut text = String::new();
    for (name, value) in flags {
        let _ = writeln!(text, "{name}={value}");
    }
    (text, json!({"flags": flags}))
}

/// The object of a page.
pub fn object(component: &str, kind: &str, version: &str, fields: Value) -> Value {
    let mut object = json!({"kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": component}});
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_text_or_a_kind() {
        for accept in ["", "*/*", "application/xml, text/plain", "application/json;as=Statusz;v=v9;g=config.k8s.io, */*"] {
            assert_eq!(Form::wanted(accept, "Statusz"), Some(Form::Text), "{accept}");
        }
        assert_eq!(Form::wanted("application/json", "Statusz"), None);
        assert_eq!(Form::wanted("application/json;v=v1beta1;g=config.k8s.io;as=Statusz", "Flagz"), None);
        let old = Form::wanted("application/json;v=v1alpha1;g=config.k8s.io;as=Flagz", "Flagz");
        assert_eq!(old, Some(Form::Kind("v1alpha1")));
        assert!(old.and_then(|form| form.warning("Flagz")).is_some_and(|text| text.contains("the flagz endpoint is deprecated")));
        assert_eq!(Form::Kind("v1beta1").warning("Flagz"), None);
        assert_eq!(Form::Kind("v1beta1").media("Flagz"), "application/json;g=config.k8s.io;v=v1beta1;as=Flagz");
    }
}
