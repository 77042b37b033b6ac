//! What differs between two objects, as sets of fields; and the set of all fields of one object.

use super::{
    set::{FieldSet, node},
    shape::{Said, Shape, element, field_type, shape},
};
use crate::{
    Map, Value,
    schema::{Field, Object, Type, TypeRef},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

/// The difference between an old and a new object.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Added or modified.
    pub(super) changed: FieldSet,
    /// Gone.
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Without what nobody owns and what the endpoint does not write.
    pub(super) fn without(mut self, exclude: &FieldSet) -> Self {
        for set in [&mut self.changed, &mut self.removed] {
            set.subtract(&super::UNOWNED);
            set.subtract_below(exclude);
        }
        self
    }
}

/// What differs at and below one node.
#[derive(Default)]
struct Delta {
    changed: Map<String, Value>,
    changed_self: bool,
    removed: Map<String, Value>,
    removed_self: bool,
}

/// Compares two objects of a type.
pub(super) fn compare(ty: TypeRef<'_>, old: &Value, new: &Value) -> Comparison {
    let delta = compare_node(Some(ty), None, Some(old), Some(new));
    Comparison { changed: FieldSet(delta.changed), removed: FieldSet(delta.removed) }
}

fn compare_node(ty: Option<TypeRef<'_>>, said: Said, old: Option<&Value>, new: Option<&Value>) -> Delta {
    let mut delta = Delta::default();
    let shape = shape(ty, said, [old, new]);
    let empty = |v: Option<&Value>| match v {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Null) | None => true,
        Some(_) => false,
    };
    let leaf = matches!(shape, Shape::Leaf) || empty(old) && empty(new);
    // Where no type is told a map may take the place of a text, or a text that of a map: the place itself is another then.
    let other_form = |one: &Value, other: &Value| one.is_object() && !other.is_object() && !other.is_null();
    let untyped = matches!(shape, Shape::Map(None) | Shape::Struct(_, Object { untyped: true, .. }));
    delta.changed_self = match (old, new) {
        (None, Some(_)) => true,
        (Some(old), Some(new)) if leaf => !is_equal(old, new),
        (Some(old), Some(new)) if untyped => other_form(old, new) || other_form(new, old),
        _ => false,
    };
    delta.removed_self = old.is_some() && new.is_none();
    if leaf {
        return delta;
    }
    match shape {
        Shape::Struct(..) | Shape::Map(_) => maps(shape, old.and_then(Value::as_object), new.and_then(Value::as_object), &mut delta),
        _ if old != new => lists(shape, old, new, &mut delta),
        _ => {}
    }
    delta
}

/// Whether two values are the same to upstream, which compares a float with whatever number by its value: `1.0` is no other than `1`.
fn is_equal(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Number(x), Value::Number(y)) if x.is_f64() != y.is_f64() => x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| is_equal(x, y)),
        (Value::Object(x), Value::Object(y)) => x.len() == y.len() && x.iter().zip(y).all(|((j, x), (k, y))| j == k && is_equal(x, y)),
        _ => old == new,
    }
}

impl Delta {
    /// Takes over the difference of a child.
    fn child(&mut self, name: impl FnOnce() -> String, child: Delta) {
        let (changed, removed) = (child.changed_self || !child.changed.is_empty(), child.removed_self || !child.removed.is_empty());
        if !changed && !removed {
            return;
        }
        let name = name();
        if removed {
            self.removed.insert(name.clone(), node(child.removed_self, child.removed));
        }
        if changed {
            self.changed.insert(name, node(child.changed_self, child.changed));
        }
    }
}

/// Both maps are sorted, so that one walk pairs their entries.
fn maps(shape: Shape<'_>, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, delta: &mut Delta) {
    let old_exists = old.is_some();
    let (mut old, mut new) = (old.into_iter().flatten().peekable(), new.into_iter().flatten().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        let (before, after) = match order {
            std::cmp::Ordering::Less => (old.next(), None),
            std::cmp::Ordering::Greater => (None, new.next()),
            std::cmp::Ordering::Equal => (old.next(), new.next()),
        };
        let Some((name, _)) = before.or(after) else { return };
        let (before, after) = (before.map(|e| e.1), after.map(|e| e.1));
        let child = match shape {
            Shape::Struct(ty, object) => {
                let field = object.field(name);
                let (child_ty, said) = field_type(ty, field);
                let before = before.or_else(|| field.filter(|_| old_exists).and_then(|f| always_written(ty, f)));
                compare_node(child_ty, said, before, after)
            }
            Shape::Map(elem) => compare_node(elem, None, before, after),
            _ => Delta::default(),
        };
        delta.child(|| format!("f:{name}"), child);
    }
}

/// What Go's object has in a field before any write: a struct is there and empty, other fields without `omitempty` are zero
/// or `null`. Setting such a field is no addition of the field itself, and leaving it at that is none at all.
fn always_written(ty: TypeRef<'_>, field: &Field) -> Option<&'static Value> {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    static TEXT: LazyLock<Value> = LazyLock::new(|| Value::String(String::new()));
    static ZERO: LazyLock<Value> = LazyLock::new(|| 0.into());
    if field.go.omit_zero {
        return None;
    }
    match ty.to(field.ty).get() {
        _ if field.go.pointer => (!field.go.omit_empty).then_some(&Value::Null),
        Type::Object(_) => Some(&EMPTY),
        Type::Time | Type::MicroTime => Some(&Value::Null),
        _ if field.go.omit_empty => None,
        Type::String => Some(&TEXT),
        Type::Bool => Some(&Value::Bool(false)),
        Type::Int32 | Type::Int64 => Some(&ZERO),
        _ => Some(&Value::Null),
    }
}

/// Elements of one name are compared one to one. Where there are several before or after, their name stands for all of them: several that are
/// others than before are a change; what becomes several goes and comes as such, and so does what is several no more.
fn lists(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>, delta: &mut Delta) {
    let items = |list: Option<&'_ Value>| -> Vec<String> { list.and_then(Value::as_array).into_iter().flatten().map(|item| element(shape, item)).collect() };
    let elem = match shape {
        Shape::Keyed(elem, _) => Some(elem),
        _ => None,
    };
    let mut named = BTreeMap::<String, (Vec<usize>, Vec<usize>)>::new();
    for (at, name) in items(old).into_iter().enumerate() {
        named.entry(name).or_default().0.push(at);
    }
    for (at, name) in items(new).into_iter().enumerate() {
        named.entry(name).or_default().1.push(at);
    }
    for (name, (before, after)) in named {
        let (one, other) = (first_of(old, &before), first_of(new, &after));
        let child = match (before.len(), after.len()) {
            (0 | 1, 0 | 1) => compare_item(elem, one, other),
            (2.., 2..) => Delta { changed_self: !all_of(old, &before).eq(all_of(new, &after)), ..Delta::default() },
            (2.., 0) => Delta { removed_self: true, ..Delta::default() },
            (2.., _) => Delta { removed_self: true, ..compare_item(elem, None, other) },
            (0, _) => Delta { changed_self: true, ..Delta::default() },
            _ => Delta { changed_self: true, ..compare_item(elem, one, None) },
        };
        delta.child(|| name, child);
    }
}

fn all_of<'v>(list: Option<&'v Value>, places: &'v [usize]) -> impl Iterator<Item = &'v Value> {
    list.into_iter().flat_map(move |list| places.iter().filter_map(move |at| list.get(*at)))
}

fn first_of<'v>(list: Option<&'v Value>, places: &[usize]) -> Option<&'v Value> {
    list?.get(*places.first()?)
}

fn compare_item(elem: Option<TypeRef<'_>>, old: Option<&Value>, new: Option<&Value>) -> Delta {
    match elem {
        Some(elem) => compare_node(Some(elem), None, old, new),
        None => Delta { changed_self: old.is_none(), removed_self: new.is_none(), ..Delta::default() },
    }
}

/// All fields of an object: leaves, nulls and empty maps, keys of maps, and every element of a list. An empty list that has
/// elements of its own is none.
pub(super) fn fields_of(ty: TypeRef<'_>, value: &Value) -> FieldSet {
    FieldSet(collect(Some(ty), None, value).1)
}

/// Whether the node is a leaf, and the members below it.
fn collect(ty: Option<TypeRef<'_>>, said: Said, value: &Value) -> (bool, Map<String, Value>) {
    let shape = shape(ty, said, [Some(value), None]);
    let mut out = Map::new();
    match (shape, value) {
        (Shape::Struct(..) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let (child, said, named) = match shape {
                    Shape::Struct(ty, object) => {
                        let field = object.field(name);
                        let (child, said) = field_type(ty, field);
                        (child, said, field.is_some())
                    }
                    Shape::Map(elem) => (elem, None, false),
                    _ => (None, None, false),
                };
                let (leaf, below) = collect(child, said, value);
                let nothing = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                let member = leaf || nothing || !named;
                if member || !below.is_empty() {
                    out.insert(format!("f:{name}"), node(member, below));
                }
            }
        }
        (Shape::Set, Value::Array(items)) => {
            for item in items {
                out.insert(element(shape, item), Value::Object(Map::new()));
            }
        }
        (Shape::Keyed(elem, _), Value::Array(items)) => {
            for item in items {
                let (_, below) = collect(Some(elem), None, item);
                out.insert(element(shape, item), node(true, below));
            }
        }
        // Null of something granular: whoever holds it decides.
        (Shape::Struct(..) | Shape::Map(_) | Shape::Set | Shape::Keyed(..), _) => {}
        (Shape::Leaf, _) => return (true, out),
    }
    (false, out)
}

/// The places of list elements by name; the first of duplicates.
pub(super) fn places(names: &[String]) -> HashMap<&str, usize> {
    names.iter().enumerate().rev().map(|(at, name)| (name.as_str(), at)).collect()
}
