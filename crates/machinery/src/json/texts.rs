//! Free-form values (`runtime.RawExtension`) keep the text that they were sent in: the order of keys and the spelling of numbers.
//!
//! The original holds the bytes as they came, stores them so and sends them so in protobuf; in JSON it writes them without their
//! spaces, with what HTML reads escaped ([`Texts::compact`]). Here a value is a tree, which knows neither; so the texts travel beside it.
//! Whoever reads an object or a patch notes those that he found ([`Texts::read`], [`Texts::of_patch`]), and where the object is
//! written, a free-form value that equals one that was noted is written in its text. A patch is applied to JSON that was written,
//! so what it brings has lost its spaces. What is made from trees (strategic merge, apply, a merge into such a value) has no text and is sorted, as
//! in the original, which makes it from Go's maps. Four kinds have such values; nobody else pays for them.

#[cfg(test)]
mod tests;

use super::deep;
use crate::{
    Value,
    schema::{Type, TypeRef},
};
use std::collections::BTreeMap;

/// Levels times bytes of a value in a merge patch that is sorted by its text.
const SORTED_BYTES_MAX: usize = 64 << 20;
/// The kinds with free-form values.
const KINDS: [(&str, &str); 4] =
    [("apps", "ControllerRevision"), ("resource.k8s.io", "DeviceClass"), ("resource.k8s.io", "ResourceClaim"), ("resource.k8s.io", "ResourceClaimTemplate")];

/// Free-form values and their texts, those that count more before others.
#[derive(Debug, Clone, Default)]
pub struct Texts(Vec<(Value, Vec<u8>)>);

impl Texts {
    /// No texts.
    pub const NONE: &'static Texts = &Texts(Vec::new());

    /// Whether objects of a type have free-form values.
    pub fn are_kept(ty: TypeRef<'_>) -> bool {
        ty.gvk().is_some_and(|gvk| KINDS.contains(&(gvk.group.as_str(), gvk.kind.as_str())))
    }

    /// The texts in an object's JSON.
    pub fn read(ty: TypeRef<'_>, json: &[u8]) -> Texts {
        let mut texts = Texts::default();
        if Self::are_kept(ty) {
            texts.walk(ty, json);
        }
        texts
    }

    /// The texts of what was made from maps: sorted, as a tree is written.
    pub fn of_tree(ty: TypeRef<'_>, value: &Value) -> Texts {
        let mut texts = Texts::default();
        if Self::are_kept(ty) {
            texts.walk_tree(ty, value);
        }
        texts
    }

    /// The texts that a JSON patch of an object brings.
    pub fn of_patch(ty: TypeRef<'_>, patch: &[u8]) -> Texts {
        let mut texts = Texts::default();
        if !Self::are_kept(ty) {
            return texts;
        }
        for (_, operation) in deep::members(patch) {
            let (mut place, mut value) = (None, None);
            for (key, text) in deep::members(operation) {
                match key.as_deref() {
                    Some("path") => place = serde_json::from_slice::<String>(text).ok(),
                    Some("value") => value = Some(text),
                    _ => {}
                }
            }
            if let (Some(place), Some(value)) = (place, value)
                && let Some(ty) = type_at(ty, &place)
            {
                texts.walk(ty, value);
            }
        }
        texts.0.iter_mut().for_each(|(_, text)| *text = compact(text));
        texts
    }

    /// The texts that a merge patch of an object brings: upstream's library sorts what it puts in and leaves nulls out, but spells
    /// numbers as they were sent.
    pub fn of_merge(ty: TypeRef<'_>, patch: &[u8]) -> Texts {
        let mut texts = Texts::read(ty, patch);
        // Each level goes through all that is below it: a text that is long and deep at once is written as its tree is.
        texts.0.retain(|(value, text)| super::bounds::fits(value, SORTED_BYTES_MAX / text.len().max(1)));
        for (value, text) in &mut texts.0 {
            *text = compact(&sorted(text));
            *value = super::read(text).unwrap_or_default();
        }
        texts
    }

    /// JSON as it is written in JSON: without its spaces, and with what HTML would read escaped.
    #[must_use]
    pub fn compact(json: &[u8]) -> Vec<u8> {
        compact(json)
    }

    /// Whether that leaves it as it is.
    #[must_use]
    pub fn is_compact(json: &[u8]) -> bool {
        compact(json) == json
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds others, which count less.
    pub fn extend(&mut self, others: Texts) {
        self.0.extend(others.0);
    }

    /// The text that a value came in.
    pub fn of(&self, value: &Value) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == value).map(|(_, text)| text.as_slice())
    }

    /// Whether a value that both know is written otherwise by the others.
    pub fn respell(&self, others: &Texts) -> bool {
        self.0.iter().any(|(value, text)| self.of(value) == Some(text) && others.of(value).is_some_and(|other| other != text))
    }

    /// Adds a value by its text. What is no JSON is left to whoever decodes it.
    pub(crate) fn add(&mut self, json: &[u8]) {
        if let Ok(value) = super::read(json)
            && !value.is_null()
        {
            self.0.push((value, json.trim_ascii().to_vec()));
        }
    }

    fn walk_tree(&mut self, ty: TypeRef<'_>, value: &Value) {
        match (ty.get(), value) {
            (Type::RawExtension, value) => self.0.push((value.clone(), super::encode(value))),
            (Type::Object(object), Value::Object(map)) => {
                let known = |name: &String| object.fields.iter().find(|field| field.name == name.as_str());
                map.iter().filter_map(|(name, value)| Some((known(name)?, value))).for_each(|(field, value)| self.walk_tree(ty.to(field.ty), value));
            }
            (Type::List { elem, .. }, Value::Array(items)) => items.iter().for_each(|item| self.walk_tree(ty.to(*elem), item)),
            (Type::Map { elem, .. }, Value::Object(map)) => map.values().for_each(|value| self.walk_tree(ty.to(*elem), value)),
            _ => {}
        }
    }

    /// The type says where free-form values may stand, and how deep that is.
    fn walk(&mut self, ty: TypeRef<'_>, json: &[u8]) {
        match ty.get() {
            Type::RawExtension => self.add(json),
            Type::Object(object) => {
                for (key, text) in deep::members(json) {
                    let field = object.fields.iter().find(|field| Some(field.name.as_ref()) == key.as_deref());
                    if let Some(field) = field {
                        self.walk(ty.to(field.ty), text);
                    }
                }
            }
            Type::List { elem, .. } | Type::Map { elem, .. } => deep::members(json).into_iter().for_each(|(_, text)| self.walk(ty.to(*elem), text)),
            _ => {}
        }
    }
}

/// The type of what stands at a JSON pointer.
fn type_at<'t>(ty: TypeRef<'t>, pointer: &str) -> Option<TypeRef<'t>> {
    pointer.split('/').skip(1).try_fold(ty, |ty, part| match ty.get() {
        Type::Object(object) => object.fields.iter().find(|field| field.name == part).map(|field| ty.to(field.ty)),
        Type::List { elem, .. } | Type::Map { elem, .. } => Some(ty.to(*elem)),
        _ => None,
    })
}

/// Compact JSON with the members of its objects sorted and without those that are null.
fn sorted(json: &[u8]) -> Vec<u8> {
    let (open, close) = match json.first() {
        Some(b'{') => (b'{', b'}'),
        Some(b'[') => (b'[', b']'),
        _ => return json.to_vec(),
    };
    let (mut members, mut items) = (BTreeMap::new(), Vec::new());
    for (key, text) in deep::members(json) {
        let written = sorted(text);
        match key {
            Some(key) => drop(members.insert(key, written)),
            None => items.push(written),
        }
    }
    for (key, written) in members.into_iter().filter(|(_, written)| written != b"null") {
        let mut item = super::encode(&Value::String(key));
        item.push(b':');
        item.extend_from_slice(&written);
        items.push(item);
    }
    let mut out = vec![open];
    out.extend_from_slice(&items.join(&b','));
    out.push(close);
    out
}

/// JSON without its spaces, and with what HTML would read escaped, as Go writes what came from elsewhere.
pub(crate) fn compact(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = deep::after_string(json, at).min(json.len());
                escape(&json[at..end], &mut out);
                at = end;
                continue;
            }
            b' ' | b'\n' | b'\r' | b'\t' => {}
            other => out.push(*other),
        }
        at += 1;
    }
    out
}

fn escape(string: &[u8], out: &mut Vec<u8>) {
    let mut rest = string;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'<', _) => out.extend_from_slice(br"\u003c"),
            (b'>', _) => out.extend_from_slice(br"\u003e"),
            (b'&', _) => out.extend_from_slice(br"\u0026"),
            (0xe2, [0x80, last @ (0xa8 | 0xa9), after @ ..]) => {
                out.extend_from_slice(if *last == 0xa8 { br"\u2028" } else { br"\u2029" });
                rest = after;
            }
            (other, _) => out.push(*other),
        }
    }
}
