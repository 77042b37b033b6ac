//! What an expression's value is as JSON, and what nothing can be made of.
//!
//! A value shares its parts, and is a tree when it is written out: a few lists of lists are millions. So that has a budget
//! ([`Room`]), of no more than an object may have.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kubecel::{Value as Cel, value as cel};
use machinery::{Map, Value};
use serde_json::json;

/// Bytes of what a mutation gives, as for a request's body.
const BYTES_MAX: usize = 3 << 20;
/// Of how many values it is made.
const NODES_MAX: usize = 300_000;

/// What a mutation's value may still take.
pub(super) struct Room {
    nodes: usize,
    bytes: usize,
}

/// There is none left.
pub(super) struct Full;

impl Default for Room {
    fn default() -> Self {
        Room { nodes: NODES_MAX, bytes: BYTES_MAX }
    }
}

impl Room {
    /// Takes a value with a text of so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Full> {
        self.nodes = self.nodes.checked_sub(1).ok_or(Full)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Full)?;
        Ok(())
    }
}

/// What is wrong with a value.
pub(super) enum Wrong {
    Text(String),
    Full,
}

impl From<String> for Wrong {
    fn from(why: String) -> Wrong {
        Wrong::Text(why)
    }
}

impl From<Full> for Wrong {
    fn from(_: Full) -> Wrong {
        Wrong::Full
    }
}

/// What upstream hands expressions in Go's own structs, maps and lists: of those nothing can be made for a patch, unlike of an object's parts.
#[derive(Clone, Copy, Default)]
pub(super) struct Typed<'a> {
    /// `request`, if an expression has read it.
    pub(super) request: Option<&'a Value>,
    pub(super) namespace: Option<&'a Value>,
}

impl Typed<'_> {
    /// From what into what there is no way, of the first such part of a value that [`plain`] has found small enough.
    pub(super) fn within(self, value: &Cel<'_>) -> Option<String> {
        if let Some(name) = self.name(value) {
            let is_struct = name.starts_with("v1.");
            return Some(if is_struct { format!("struct type {name} to *structpb.Value") } else { format!("'{name}' to '*structpb.Value'") });
        }
        match value {
            Cel::List(cel::List::Owned(elements, _)) => elements.iter().find_map(|element| self.within(element)),
            Cel::Map(map @ cel::Map::Owned(..)) => map.keys().iter().find_map(|key| self.within(&map.find(key).ok().flatten()?)),
            Cel::Optional(Some(value)) => self.within(value),
            _ => None,
        }
    }

    /// Go's type of it, or CEL's of what is a map or a list there, if it is a part of one of these.
    fn name(self, value: &Cel<'_>) -> Option<&'static str> {
        const MAP: &str = "map(dyn, dyn)";
        const LIST: &str = "list(dyn)";
        // What an expression has made itself is none, and may be of many values.
        if !matches!(value, Cel::Map(cel::Map::Json(_)) | Cel::List(cel::List::Json(_))) {
            return None;
        }
        let is = |part: &Value| match (value, part) {
            (Cel::Map(cel::Map::Json(fields)), Value::Object(own)) => std::ptr::eq(*fields, own),
            // All lists without elements are in one place.
            (Cel::List(cel::List::Json(items)), Value::Array(own)) => !own.is_empty() && std::ptr::eq(*items, own.as_slice()),
            _ => false,
        };
        if let Some(request) = self.request {
            let (user, extra) = (&request["userInfo"], &request["userInfo"]["extra"]);
            let parts = [
                (request, "v1.AdmissionRequest"),
                (&request["kind"], "v1.GroupVersionKind"),
                (&request["requestKind"], "v1.GroupVersionKind"),
                (&request["resource"], "v1.GroupVersionResource"),
                (&request["requestResource"], "v1.GroupVersionResource"),
                (user, "v1.UserInfo"),
                (&user["groups"], LIST),
                (extra, MAP),
            ];
            let found = parts.into_iter().find(|(part, _)| is(part)).map(|(_, name)| name);
            if found.is_some() {
                return found;
            }
            if extra.as_object().is_some_and(|extra| extra.values().any(is)) {
                return Some(LIST);
            }
        }
        let namespace = self.namespace?;
        let (meta, spec) = (&namespace["metadata"], &namespace["spec"]);
        let parts = [
            (namespace, "v1.Namespace"),
            (meta, "v1.ObjectMeta"),
            (&meta["labels"], MAP),
            (&meta["annotations"], MAP),
            (&meta["finalizers"], LIST),
            (&meta["ownerReferences"], LIST),
            (spec, "v1.NamespaceSpec"),
            (&spec["finalizers"], LIST),
            (&namespace["status"], "v1.NamespaceStatus"),
        ];
        parts.into_iter().find(|(part, _)| is(part)).map(|(_, name)| name)
    }
}

/// What is told of a value of a patch that is no JSON.
pub(super) fn unmade(why: &str) -> Wrong {
    Wrong::Text(format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {why}"))
}

/// A value as JSON.
pub(super) fn plain(value: &Cel<'_>, room: &mut Room) -> Result<Value, Wrong> {
    room.take(value.as_str().map_or(0, str::len))?;
    Ok(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => (*value).into(),
        Cel::Int(value) => (*value).into(),
        Cel::Uint(value) => (*value).into(),
        Cel::Double(value) if !value.is_finite() => {
            let shown = if value.is_nan() {
                "NaN"
            } else if *value > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            };
            let by = "json: error calling MarshalJSON for type *structpb.Value: proto: google.protobuf.Value.number_value";
            return Err(unmade(&format!("{by}: invalid {shown} value")));
        }
        Cel::Double(value) => json!(value),
        Cel::String(text) => (**text).into(),
        Cel::List(list) => {
            let one = |element: Result<Cel<'_>, kubecel::eval::EvalError>| plain(&element.map_err(|error| unmade(&error.message))?, room);
            list.iter().map(one).collect::<Result<Vec<Value>, Wrong>>()?.into()
        }
        Cel::Map(map) => {
            let mut out = Map::new();
            for key in map.keys() {
                let Some(name) = key.as_str().map(str::to_owned) else {
                    return Err(unmade(&format!("unsupported type conversion from '{}' to string", key.type_name())));
                };
                let value = map.find(&key).map_err(|error| unmade(&error.message))?.unwrap_or(Cel::Null);
                room.take(name.len())?;
                out.insert(name, plain(&value, room)?);
            }
            out.into()
        }
        Cel::Struct(object) => {
            let mut out = Map::new();
            for (name, value) in &object.fields {
                room.take(name.len())?;
                out.insert(name.to_string(), plain(value, room)?);
            }
            out.into()
        }
        Cel::Optional(Some(value)) => plain(value, room)?,
        Cel::Optional(None) => return Err(unmade("optional.none() dereference")),
        // As protobuf's JSON has them.
        Cel::Bytes(bytes) => {
            room.take(bytes.len())?;
            STANDARD.encode(&**bytes).into()
        }
        Cel::Timestamp(time) => time.utc().to_string().into(),
        Cel::Duration(nanos) => kubecel::gotext::seconds(*nanos).into(),
        Cel::Type(_) => return Err(unmade("type conversion not supported for 'type'")),
        // Go's own types of the libraries, by their last names.
        other => {
            let name = other.type_name().rsplit('.').next().unwrap_or_default();
            return Err(unmade(&format!("type conversion error from '{name}' to '*structpb.Value'")));
        }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kubecel::{
        Env, Version,
        declared::admission::Optional,
        eval::{Limits, Plan},
    };

    /// What an expression of a mutation gives.
    pub(in crate::admission::policy) fn given(text: &str) -> Cel<'static> {
        let env = Env::admission(Version::STORED, Optional { patches: true, ..Optional::default() });
        let program = env.compile(text).unwrap_or_else(|issues| panic!("{issues}"));
        // It lives as long as the test.
        let plan: &'static Plan = Box::leak(Box::new(Plan::new(&program).expect("a plan")));
        plan.run(&[], Limits::default()).value.expect("a value")
    }

    #[test]
    fn what_is_no_json_is_told_by_its_type() {
        let told = |value: &str| {
            let why = plain(&given(value), &mut Room::default()).map_err(|wrong| match wrong {
                Wrong::Text(why) => why.rsplit_once(": ").map(|(_, why)| why.to_owned()).unwrap_or_default(),
                Wrong::Full => "full".to_owned(),
            });
            why.expect_err("no value of JSON")
        };
        assert_eq!(told("{1: 'a'}"), "unsupported type conversion from 'int' to string");
        assert_eq!(told("optional.none()"), "optional.none() dereference");
        assert_eq!(told("[double('-Infinity')]"), "invalid -Inf value");
        assert_eq!(told("quantity('1Gi')"), "type conversion error from 'Quantity' to '*structpb.Value'");
    }

    #[test]
    fn nothing_is_made_of_the_request_and_the_namespace() {
        let request = json!({"userInfo": {"username": "a", "groups": ["b"], "extra": {"c": ["d"]}}});
        let namespace = json!({"metadata": {"labels": {"a": "b"}}});
        let typed = Typed { request: Some(&request), namespace: Some(&namespace) };
        let user = &request["userInfo"];
        let told = |part: &Value| typed.within(&Cel::list(vec![Cel::json(part)]));
        assert_eq!(told(&request).as_deref(), Some("struct type v1.AdmissionRequest to *structpb.Value"));
        assert_eq!(told(&user["groups"]).as_deref(), Some("'list(dyn)' to '*structpb.Value'"));
        assert_eq!(told(&user["extra"]["c"]).as_deref(), Some("'list(dyn)' to '*structpb.Value'"));
        assert_eq!(told(&namespace["metadata"]["labels"]).as_deref(), Some("'map(dyn, dyn)' to '*structpb.Value'"));
        assert_eq!(told(&user["username"]), None);
        assert_eq!(told(&request["userInfo"].clone()), None);
    }
}
