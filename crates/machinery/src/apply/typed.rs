//! Whether a configuration fits the schema, before anything is merged: fields that there are, values of the right type,
//! elements of lists that can be told apart. Errors are worded as those of `structured-merge-diff`.

use super::{
    set::push_element,
    shape::{Shape, element, shape},
};
use crate::{
    Value,
    printed::{plain, syntax},
    schema::{ListType, Object, Type, TypeRef},
    tree::go_type,
};
use std::collections::HashSet;

/// The most errors that are told of one configuration.
const ERRORS_LIMIT: usize = 100;

/// What is wrong with a value of a type, as one text; `None` if nothing is.
/// `nulls`: null is a value like others, as expressions give it.
pub(super) fn errors(ty: TypeRef<'_>, value: &Value, nulls: bool) -> Option<String> {
    let mut check = Check { path: String::new(), errors: Vec::new(), nulls, twice: false };
    check.value(Some(ty), value);
    told(&check.errors)
}

/// What is wrong with an object that lies in the store, or was converted, as one text: there a list may have an element twice. None if
/// nothing is.
pub fn live_errors(ty: TypeRef<'_>, value: &Value) -> Option<String> {
    if fits(Some(ty), value) {
        return None;
    }
    let mut check = Check { path: String::new(), errors: Vec::new(), nulls: false, twice: true };
    check.value(Some(ty), value);
    told(&check.errors)
}

/// Whether an object may have fields that are not told of: it keeps them, or none is told of (`schemaconv` deduces them then, though what
/// is not kept is pruned).
fn takes_any(object: &Object) -> bool {
    object.preserve_unknown || object.fields.is_empty()
}

/// Whether nothing is wrong with an object of which no list is asked whether it has an element twice.
pub(super) fn fits(ty: Option<TypeRef<'_>>, value: &Value) -> bool {
    let Some(ty) = ty else { return true };
    match (ty.get(), value) {
        (_, Value::Null) => true,
        (Type::Object(_) | Type::Map { .. }, Value::Object(map)) => map.iter().all(|(name, value)| {
            let child = ty.child(name);
            (child.is_some() || ty.object().is_some_and(takes_any)) && fits(child, value)
        }),
        (Type::Object(object), _) if object.untyped => true,
        (Type::Object(_) | Type::Map { .. } | Type::Fields, _) => value.is_object(),
        (Type::List { elem, .. }, Value::Array(items)) => {
            let shape = shape(Some(ty), None, [None, None]);
            items.iter().all(|item| nameless(shape, item).is_none() && fits(Some(ty.to(*elem)), item))
        }
        (Type::List { .. }, _) => false,
        (Type::String | Type::Bytes, _) => value.is_string(),
        (Type::Int32 | Type::Int64 | Type::Double, _) => value.is_number(),
        (Type::Bool, _) => value.is_boolean(),
        (Type::Quantity | Type::Time | Type::MicroTime, _) => is_scalar(value),
        _ => true,
    }
}

fn is_scalar(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}

fn told(errors: &[String]) -> Option<String> {
    match errors {
        [] => None,
        [error] => Some(error.clone()),
        errors => Some(format!("errors:\n  {}", errors.join("\n  "))),
    }
}

struct Check {
    path: String,
    errors: Vec<String>,
    nulls: bool,
    /// An element of a list may be there twice.
    twice: bool,
}

impl Check {
    fn error(&mut self, message: &str) {
        if self.errors.len() < ERRORS_LIMIT {
            let separator = if self.path.is_empty() { "" } else { ": " };
            self.errors.push(format!("{}{separator}{message}", self.path));
        }
    }

    /// Runs `inner` with a path element added.
    fn below(&mut self, name: &str, inner: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        push_element(&mut self.path, name);
        inner(self);
        self.path.truncate(before);
    }

    fn value(&mut self, ty: Option<TypeRef<'_>>, value: &Value) {
        let Some(ty) = ty else { return };
        // Null is of every type.
        if value.is_null() {
            if self.nulls {
                self.null(ty);
            }
            return;
        }
        match (ty.get(), value) {
            (Type::Object(_) | Type::Map { .. }, Value::Object(map)) => {
                for (name, value) in map {
                    let child = ty.child(name);
                    let known = child.is_some() || ty.object().is_some_and(takes_any);
                    self.below(&format!("f:{name}"), |check| if known { check.value(child, value) } else { check.error("field not declared in schema") });
                    if !known {
                        return;
                    }
                }
            }
            (Type::Object(object), _) if object.untyped => {}
            (Type::Object(_) | Type::Map { .. } | Type::Fields, _) if !value.is_object() => {
                self.error(&format!("expected map, got &{{{}}}", plain(value)));
            }
            (Type::List { elem, list_type, .. }, Value::Array(items)) => self.list(ty, ty.to(*elem), list_type, items),
            (Type::List { .. }, _) => self.error(&format!("expected list, got &{{{}}}", plain(value))),
            (Type::String | Type::Bytes, _) if !value.is_string() => {
                self.error(&format!("expected string, got &value.valueUnstructured{{Value:{}}}", syntax(value)));
            }
            (Type::Int32 | Type::Int64 | Type::Double, _) if !value.is_number() => {
                self.error(&format!("expected numeric (int or float), got {}", go_type(value)));
            }
            (Type::Bool, _) if !value.is_boolean() => self.error(&format!("expected boolean, got &{{{}}}", plain(value))),
            // What is published without a type may be anything: a number or a text, and what is free in form.
            (Type::Quantity | Type::Time | Type::MicroTime, _) if !is_scalar(value) => {
                self.error(&format!("expected any scalar, got &{{{}}}", plain(value)));
            }
            _ => {}
        }
    }

    fn null(&mut self, ty: TypeRef<'_>) {
        match ty.get() {
            Type::Object(object) if object.untyped => {}
            Type::Object(_) | Type::Map { .. } | Type::RawExtension | Type::Fields => self.error("expected map, got &{NULL_VALUE}"),
            Type::List { .. } => self.error("expected list, got &{NULL_VALUE}"),
            Type::String | Type::Bytes => self.error("expected string, got &value.valueUnstructured{Value:0}"),
            Type::Int32 | Type::Int64 | Type::Double => self.error("expected numeric (int or float), got structpb.NullValue"),
            Type::Bool => self.error("expected boolean, got &{NULL_VALUE}"),
            _ => {}
        }
    }

    fn list(&mut self, ty: TypeRef<'_>, elem: TypeRef<'_>, list_type: &ListType, items: &[Value]) {
        let shape = shape(Some(ty), None, [None, None]);
        let mut seen = HashSet::new();
        for (at, item) in items.iter().enumerate() {
            if self.nulls && item.is_null() && matches!(shape, Shape::Set) {
                let before = self.path.len();
                self.path.push_str("[={{undefined}}]");
                self.null(elem);
                self.path.truncate(before);
                continue;
            }
            let name = match nameless(shape, item) {
                Some(why) => return self.error(&format!("element {at}: {why}")),
                None if *list_type == ListType::Atomic => format!("i:{at}"),
                None => element(shape, item),
            };
            if !self.twice && *list_type != ListType::Atomic && !seen.insert(name.clone()) {
                let mut shown = String::new();
                push_element(&mut shown, &name);
                self.error(&format!("duplicate entries for key {shown}"));
            }
            self.below(&name, |check| check.value(Some(elem), item));
        }
    }
}

/// Why an element of a list cannot have a name of its own.
fn nameless(shape: Shape<'_>, item: &Value) -> Option<String> {
    let why = match (shape, item) {
        (Shape::Keyed(..), Value::Null) => "associative list with keys may not have a null element",
        (Shape::Keyed(_, keys), Value::Object(_)) => {
            let keys: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
            let named = element(shape, item) != "k:{}";
            return (!named).then(|| {
                format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    keys.join(" ")
                )
            });
        }
        (Shape::Keyed(..), _) => "associative list with keys may not have non-map elements",
        (Shape::Set, Value::Object(_)) => "associative list without keys has an element that's a map type",
        (Shape::Set, Value::Array(_)) => "not supported: associative list with lists as elements",
        (Shape::Set, Value::Null) => "associative list without keys has an element that's an explicit null",
        _ => return None,
    };
    Some(why.to_owned())
}
