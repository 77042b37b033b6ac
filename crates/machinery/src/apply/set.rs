//! Sets of fields in the form in which managedFields hold them (`fieldsV1`), so that they need not be translated.
//!
//! A set is a tree of JSON objects. A key is a path element: `f:NAME` a field or map key, `k:{…}` a list element by its
//! keys, `v:…` a list element by its value, `i:N` by its place. An empty object is a member; a member that has members
//! below it carries the key `.`; a node without `.` only leads to members.

use super::shape::field_type;
use crate::{
    Map, Value,
    quote::Quoted,
    schema::{ListType, Type, TypeRef},
};

/// The key that makes an inner node a member.
const SELF: &str = ".";

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSet(pub(super) Map<String, Value>);

impl FieldSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A set of the fields at these paths, each a list of field names from the top.
    pub fn from_paths(paths: &[&[&str]]) -> Self {
        let mut set = Map::new();
        for path in paths {
            insert(&mut set, path);
        }
        Self(set)
    }

    /// The set in a `fieldsV1` value.
    pub fn from_value(value: &Value) -> Self {
        Self(value.as_object().cloned().unwrap_or_default())
    }

    /// The set in a `fieldsV1` value that a client may have written; `None` for what is none. Path elements of a kind that is
    /// not known are dropped, as upstream drops them.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let mut set = parse(value.as_object()?)?;
        // The whole is no member of itself.
        set.remove(SELF);
        Some(Self(set))
    }

    /// The set as a `fieldsV1` value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn union(&mut self, other: &Self) {
        union(&mut self.0, &other.0);
    }

    /// Takes the members of `other` away; what lies below them stays.
    pub(super) fn subtract(&mut self, other: &Self) {
        subtract(&mut self.0, &other.0);
    }

    /// Takes the members of `other` away with all that lies below them.
    pub(super) fn subtract_below(&mut self, other: &Self) {
        subtract_below(&mut self.0, &other.0);
    }

    /// The set without the members of `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        rest.subtract(other);
        rest
    }

    /// Whether every member is a member of `other`, too.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.without(other).is_empty()
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        Self(intersect(&self.0, &other.0))
    }

    /// The set with every struct field that leads to a member as a member, too: what an owner of `a.b` of a struct `a`
    /// holds on to.
    pub(super) fn with_named_fields(&self, ty: Option<TypeRef<'_>>) -> Self {
        Self(name_fields(&self.0, ty))
    }

    /// Of what the type has as a whole, who owns a part owns the whole (upstream's `ReconcileFieldSetWithSchema`).
    pub(super) fn own_wholes(&mut self, ty: TypeRef<'_>) {
        own_wholes(&mut self.0, ty);
    }

    /// Calls `each` with the path of every member, as upstream prints it: `.spec.containers[name="a"].image`.
    pub(super) fn for_each(&self, each: &mut impl FnMut(&str)) {
        walk(&self.0, &mut String::new(), each);
    }
}

/// A node of a set.
pub(super) fn node(member: bool, mut children: Map<String, Value>) -> Value {
    if member && !children.is_empty() {
        children.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
    Value::Object(children)
}

/// Whether a node is a member itself.
pub(super) fn is_member(node: &Map<String, Value>) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

fn parse(set: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut out = Map::new();
    for (key, value) in set {
        if key == SELF {
            out.insert(key.clone(), Value::Object(Map::new()));
            continue;
        }
        let (kind, rest) = key.split_at_checked(2).filter(|(kind, _)| kind.ends_with(':'))?;
        let known = match kind {
            "f:" => true,
            "k:" => serde_json::from_str::<Map<String, Value>>(rest).is_ok(),
            "v:" => serde_json::from_str::<Value>(rest).is_ok(),
            "i:" => rest.parse::<i64>().is_ok(),
            _ => continue,
        };
        let mut below = parse(value.as_object().filter(|_| known)?)?;
        // A member with nothing below it is written so, however it was sent.
        if below.keys().all(|key| key == SELF) {
            below.clear();
        }
        out.insert(key.clone(), Value::Object(below));
    }
    Some(out)
}

fn insert(set: &mut Map<String, Value>, path: &[&str]) {
    let [first, rest @ ..] = path else { return };
    let known = set.contains_key(&format!("f:{first}"));
    let Some(child) = set.entry(format!("f:{first}")).or_insert_with(|| Value::Object(Map::new())).as_object_mut() else { return };
    let was_member = known && is_member(child);
    insert(child, rest);
    if (was_member || rest.is_empty()) && !child.is_empty() {
        child.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
}

fn union(into: &mut Map<String, Value>, other: &Map<String, Value>) {
    for (key, value) in other {
        let Value::Object(theirs) = value else { continue };
        match into.get_mut(key) {
            Some(Value::Object(ours)) => {
                let member = is_member(ours) || is_member(theirs);
                union(ours, theirs);
                if member && !ours.is_empty() {
                    ours.insert(SELF.to_owned(), Value::Object(Map::new()));
                }
            }
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

fn subtract(from: &mut Map<String, Value>, other: &Map<String, Value>) {
    prune(from, other, |ours, theirs| {
        let member = is_member(ours) && !is_member(theirs);
        ours.remove(SELF);
        subtract(ours, theirs);
        member
    });
}

fn subtract_below(from: &mut Map<String, Value>, other: &Map<String, Value>) {
    prune(from, other, |ours, theirs| {
        if is_member(theirs) {
            ours.clear();
            return false;
        }
        let member = is_member(ours);
        ours.remove(SELF);
        subtract_below(ours, theirs);
        member
    });
}

/// Lets `cut` take what is in both away from the children of `from`; it answers whether the node stays a member. The smaller one is walked:
/// of many owners each may own little of what is changed.
fn prune(from: &mut Map<String, Value>, other: &Map<String, Value>, cut: impl Fn(&mut Map<String, Value>, &Map<String, Value>) -> bool) {
    let stays = |ours: &mut Value, theirs: &Value| {
        let (Value::Object(ours), Value::Object(theirs)) = (ours, theirs) else { return true };
        let member = cut(ours, theirs);
        if member && !ours.is_empty() {
            ours.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
        member || !ours.is_empty()
    };
    if from.len() <= other.len() {
        from.retain(|key, ours| key == SELF || other.get(key).is_none_or(|theirs| stays(ours, theirs)));
        return;
    }
    for (key, theirs) in other.iter().filter(|(k, _)| *k != SELF) {
        if from.get_mut(key).is_some_and(|ours| !stays(ours, theirs)) {
            from.remove(key);
        }
    }
}

fn intersect(a: &Map<String, Value>, b: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    for (key, x) in small.iter().filter(|(k, _)| *k != SELF) {
        if let (Value::Object(x), Some(Value::Object(y))) = (x, large.get(key)) {
            let children = intersect(x, y);
            let member = is_member(x) && is_member(y);
            if member || !children.is_empty() {
                out.insert(key.clone(), node(member, children));
            }
        }
    }
    out
}

fn name_fields(set: &Map<String, Value>, ty: Option<TypeRef<'_>>) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in set.iter().filter(|(k, _)| *k != SELF) {
        let Value::Object(child) = value else { continue };
        let name = key.strip_prefix("f:");
        let below = ty.and_then(|t| name.map_or_else(|| t.elem(), |n| t.child(n)));
        let named = name.is_some_and(|n| ty.is_some_and(|t| matches!(t.get(), Type::Object(o) if o.field(n).is_some())));
        out.insert(key.clone(), node(named || is_member(child), name_fields(child, below)));
    }
    out
}

fn own_wholes(set: &mut Map<String, Value>, ty: TypeRef<'_>) {
    for (key, child) in set.iter_mut().filter(|(key, _)| *key != SELF) {
        let (of_child, said) = match (ty.get(), key.strip_prefix("f:")) {
            (Type::Object(object), Some(name)) => field_type(ty, object.field(name)),
            _ => (ty.elem(), None),
        };
        let (Some(of_child), Value::Object(child)) = (of_child, child) else { continue };
        let whole = match of_child.get() {
            Type::Object(object) => said.unwrap_or(object.atomic),
            Type::Map { atomic, .. } => said.unwrap_or(*atomic),
            Type::List { list_type, .. } => *list_type == ListType::Atomic,
            _ => false,
        };
        if whole {
            child.clear();
        } else {
            own_wholes(child, of_child);
        }
    }
}

/// The members of a level come before what lies below them, as upstream lists them.
fn walk(set: &Map<String, Value>, path: &mut String, each: &mut impl FnMut(&str)) {
    let children = || set.iter().filter(|(k, _)| *k != SELF).filter_map(|(k, v)| v.as_object().map(|v| (k, v)));
    let before = path.len();
    for (key, _) in children().filter(|(_, child)| is_member(child)) {
        push_element(path, key);
        each(path);
        path.truncate(before);
    }
    for (key, child) in children() {
        push_element(path, key);
        walk(child, path, each);
        path.truncate(before);
    }
}

/// A path element as upstream prints it.
pub(super) fn push_element(path: &mut String, key: &str) {
    let (kind, rest) = key.split_once(':').unwrap_or(("f", key));
    match kind {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={}", shown(v))).collect();
            path.push_str(&format!("[{}]", keys.join(",")));
        }
        "v" => {
            let value: Option<Value> = serde_json::from_str(rest).ok();
            path.push_str(&format!("[={}]", value.as_ref().map_or_else(|| rest.to_owned(), shown)));
        }
        "i" => path.push_str(&format!("[{rest}]")),
        _ => {
            path.push('.');
            path.push_str(rest);
        }
    }
}

/// A value as paths show it (upstream's `value.ToString`).
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => Quoted(text).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => fields.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect(),
        Value::Number(number) if !number.is_i64() => number.as_f64().map(crate::numerals::float).unwrap_or_default(),
        other => other.to_string(),
    }
}
