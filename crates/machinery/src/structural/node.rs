//! A schema compiled for validation: what is asked of each value is at hand, enumerations are hashed. Patterns are compiled when
//! a text is first asked to match them, each once for all schemas that have it ([`crate::regexp::shared`]).
//!
//! The tree follows the schema. A part that a nested schema (`anyOf` and the like) only narrows is a node like any other.

use super::formats::{self, Format};
use crate::{
    Value, numerals,
    regexp::{self, Regex},
};
use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

/// Schemas nest as deep as their JSON, which the decoder bounds; below this everything is good.
const DEPTH_LIMIT: usize = 128;
/// Enumerations of more texts than this are hashed.
const HASHED_FROM: usize = 8;

/// What a schema is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Values of objects: formats that are not known count for nothing, and a number or text has both types.
    Objects,
    /// Defaults in the schema itself: the original makes another validator for them.
    Defaults,
}

/// The types that a value may have, as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const INTEGER: Types = Types(1);
    pub(super) const NUMBER: Types = Types(2);
    const NAMES: [(&str, u8); 6] = [("integer", 1), ("number", 2), ("string", 4), ("boolean", 8), ("array", 16), ("object", 32)];

    pub(super) fn of(name: &str) -> Types {
        Types(Self::NAMES.iter().find(|(known, _)| *known == name).map_or(64, |(_, bit)| *bit))
    }

    pub(super) fn has(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// How the elements of a list are told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Listed {
    /// By their place.
    #[default]
    Atomic,
    /// By their value.
    Set,
    /// By the values of these fields.
    Map(Vec<Box<str>>),
}

/// What is asked of numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) multiple_of: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_maximum: bool,
    pub(super) minimum: Option<f64>,
    pub(super) exclusive_minimum: bool,
}

/// What is asked of texts.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) max_length: Option<i64>,
    pub(super) min_length: Option<i64>,
    pub(super) pattern: Option<Pattern>,
}

/// A pattern, compiled at its first use.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) text: Box<str>,
    compiled: OnceLock<Result<Arc<Regex>, String>>,
}

impl Pattern {
    pub(super) fn compiled(&self) -> &Result<Arc<Regex>, String> {
        self.compiled.get_or_init(|| regexp::shared(&self.text))
    }

    /// Whether compiling it may take longer than a moment: it is long, or repeats much.
    fn is_dear(&self) -> bool {
        self.text.len() > DEAR_FROM_BYTES || repeats(&self.text) > DEAR_FROM_REPEATS
    }
}

/// A pattern longer than this is dear.
const DEAR_FROM_BYTES: usize = 512;
/// A pattern whose parts are repeated more often than this in all is dear: what is repeated is compiled as often.
const DEAR_FROM_REPEATS: u64 = 1000;

/// What the counts of a pattern come to if each stands within the others.
fn repeats(pattern: &str) -> u64 {
    let counts = pattern.split('{').skip(1).filter_map(|rest| {
        let (counts, _) = rest.split_once('}')?;
        counts.rsplit(',').find_map(|count| count.parse::<u64>().ok())
    });
    counts.filter(|count| *count > 1).fold(1, u64::saturating_mul)
}

/// How many elements or entries there may be.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) max: Option<i64>,
    pub(super) min: Option<i64>,
}

/// What may stand there and nothing else.
#[derive(Debug)]
pub(super) struct Enumeration {
    pub(super) values: Vec<Value>,
    texts: HashSet<Box<str>>,
}

/// What stands for the keys that are no properties.
#[derive(Debug, Default)]
pub(super) enum Additional {
    /// Nothing is said of them.
    #[default]
    Unsaid,
    /// They are good, whatever they are.
    Any,
    /// There may be none.
    None,
    /// A schema.
    Schema(Box<Node>),
}

/// One place of a schema.
#[derive(Debug, Default)]
pub struct Node {
    pub(super) types: Types,
    pub(super) type_text: Box<str>,
    pub(super) nullable: bool,
    /// Named, and what it asks if it is known.
    pub(super) format: Option<(Box<str>, Option<Format>)>,
    pub(super) numbers: Option<Box<Numbers>>,
    pub(super) texts: Option<Box<Texts>>,
    pub(super) items_count: Count,
    pub(super) unique_items: bool,
    pub(super) entries_count: Count,
    pub(super) required: Vec<Box<str>>,
    pub(super) enumeration: Option<Box<Enumeration>>,
    pub(super) all_of: Vec<Node>,
    pub(super) any_of: Vec<Node>,
    pub(super) one_of: Vec<Node>,
    pub(super) not: Option<Box<Node>>,
    /// Sorted by name.
    pub(super) properties: Vec<(Box<str>, Node)>,
    pub(super) additional: Additional,
    pub(super) items: Option<Box<Node>>,
    pub(super) listed: Listed,
    pub(super) preserves: bool,
    pub(super) embedded: bool,
    /// Here or below is a set, a map of a list, or an embedded resource.
    pub(super) below: Below,
}

/// What there is to look for here and below.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Below {
    pub(super) lists: bool,
    pub(super) embedded: bool,
    /// Patterns that are dear to compile.
    pub(super) dear: bool,
}

impl Node {
    /// Compiles a schema.
    pub fn compile(schema: &Value, purpose: Purpose) -> Node {
        compile(schema, purpose, 0)
    }

    /// What a property is asked.
    pub fn property(&self, name: &str) -> Option<&Node> {
        self.properties.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok().and_then(|at| self.properties.get(at)).map(|(_, node)| node)
    }

    /// What the elements are asked.
    pub fn items(&self) -> Option<&Node> {
        self.items.as_deref()
    }

    /// What a field is asked, by its own name or with all others.
    pub(super) fn field(&self, name: &str) -> Option<&Node> {
        self.property(name).or(match &self.additional {
            Additional::Schema(node) => Some(node),
            _ => None,
        })
    }
}

impl Enumeration {
    /// Whether a value is one of them. Go converts between the types of numbers, and from whole numbers to characters.
    pub(super) fn has(&self, value: &Value) -> bool {
        match value {
            Value::String(text) if !self.texts.is_empty() => self.texts.contains(text.as_str()),
            Value::Null => false,
            value => self.values.iter().any(|known| equals(value, known)),
        }
    }
}

fn equals(value: &Value, known: &Value) -> bool {
    match (value, known) {
        (Value::Number(given), Value::Number(known)) => match (given.as_i64(), known.as_i64()) {
            (Some(given), Some(known)) => given == known,
            (None, Some(known)) => given.as_f64().is_some_and(|given| numerals::go_int(given) == known),
            _ => given.as_f64() == known.as_f64(),
        },
        (Value::Number(given), Value::String(known)) => given.as_i64().is_some_and(|code| {
            let character = u32::try_from(code).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            known.chars().eq([character])
        }),
        _ => value == known,
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

fn text<'v>(schema: &'v Value, name: &str) -> &'v str {
    schema[name].as_str().unwrap_or_default()
}

fn compile(schema: &Value, purpose: Purpose, depth: usize) -> Node {
    if depth > DEPTH_LIMIT {
        return Node::default();
    }
    let below = |schema: &Value| compile(schema, purpose, depth + 1);
    let list = |name: &str| schema[name].as_array().into_iter().flatten().map(below).collect::<Vec<_>>();
    let (types, type_text) = types(schema, purpose);
    let mut node = Node {
        types,
        type_text,
        nullable: flag(schema, "nullable"),
        format: format(schema, purpose),
        numbers: numbers(schema),
        texts: texts(schema),
        items_count: Count { max: schema["maxItems"].as_i64(), min: schema["minItems"].as_i64() },
        unique_items: flag(schema, "uniqueItems"),
        entries_count: Count { max: schema["maxProperties"].as_i64(), min: schema["minProperties"].as_i64() },
        required: names(schema, "required"),
        enumeration: enumeration(schema),
        all_of: list("allOf"),
        any_of: list("anyOf"),
        one_of: list("oneOf"),
        not: schema["not"].is_object().then(|| Box::new(below(&schema["not"]))),
        properties: schema["properties"].as_object().into_iter().flatten().map(|(name, schema)| (name.as_str().into(), below(schema))).collect(),
        additional: match &schema["additionalProperties"] {
            Value::Bool(true) => Additional::Any,
            Value::Bool(false) => Additional::None,
            schema if schema.is_object() => Additional::Schema(Box::new(below(schema))),
            _ => Additional::Unsaid,
        },
        items: schema["items"].is_object().then(|| Box::new(below(&schema["items"]))),
        listed: match text(schema, "x-kubernetes-list-type") {
            "set" => Listed::Set,
            "map" => Listed::Map(names(schema, "x-kubernetes-list-map-keys")),
            _ => Listed::Atomic,
        },
        preserves: flag(schema, "x-kubernetes-preserve-unknown-fields"),
        embedded: flag(schema, "x-kubernetes-embedded-resource"),
        below: Below::default(),
    };
    node.properties.sort_by(|(a, _), (b, _)| a.cmp(b));
    node.below = node.found();
    node
}

impl Node {
    /// The nodes of the structure, one level down.
    fn children(&self) -> impl Iterator<Item = &Node> {
        let additional = match &self.additional {
            Additional::Schema(node) => Some(node.as_ref()),
            _ => None,
        };
        self.properties.iter().map(|(_, node)| node).chain(additional).chain(self.items.as_deref())
    }

    fn found(&self) -> Below {
        let dear = self.pattern().is_some_and(Pattern::is_dear) || self.parts().any(|part| part.below.dear);
        let mut found = Below { lists: self.listed != Listed::Atomic, embedded: self.embedded, dear };
        for child in self.children() {
            found.lists |= child.below.lists;
            found.embedded |= child.below.embedded;
            found.dear |= child.below.dear;
        }
        found
    }

    fn pattern(&self) -> Option<&Pattern> {
        self.texts.as_ref()?.pattern.as_ref()
    }

    /// The nodes that judge the same value.
    fn parts(&self) -> impl Iterator<Item = &Node> {
        [&self.all_of, &self.any_of, &self.one_of].into_iter().flatten().chain(self.not.as_deref())
    }

    /// Whether a pattern that no text has been held against yet may take longer than a moment to compile.
    pub fn has_dear_pattern_ahead(&self) -> bool {
        let own = || self.pattern().is_some_and(|pattern| pattern.compiled.get().is_none() && pattern.is_dear());
        self.below.dear && (own() || self.parts().chain(self.children()).any(Node::has_dear_pattern_ahead))
    }
}

fn names(schema: &Value, key: &str) -> Vec<Box<str>> {
    schema[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

fn types(schema: &Value, purpose: Purpose) -> (Types, Box<str>) {
    if flag(schema, "x-kubernetes-int-or-string") && purpose == Purpose::Objects {
        return (Types(Types::of("integer").0 | Types::of("string").0), "integer,string".into());
    }
    match text(schema, "type") {
        "" => Default::default(),
        name => (Types::of(name), name.into()),
    }
}

fn format(schema: &Value, purpose: Purpose) -> Option<(Box<str>, Option<Format>)> {
    let format = text(schema, "format");
    let either = flag(schema, "x-kubernetes-int-or-string") && purpose == Purpose::Objects;
    let known = purpose == Purpose::Defaults || formats::is_recognized(format, if either { "" } else { text(schema, "type") });
    (!format.is_empty() && known).then(|| (format.into(), formats::find(format)))
}

fn numbers(schema: &Value) -> Option<Box<Numbers>> {
    let number = |name: &str| schema[name].as_f64();
    let found = Numbers {
        multiple_of: number("multipleOf"),
        maximum: number("maximum"),
        exclusive_maximum: flag(schema, "exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag(schema, "exclusiveMinimum"),
    };
    let any = found.multiple_of.is_some() || found.maximum.is_some() || found.minimum.is_some();
    any.then(|| Box::new(found))
}

fn texts(schema: &Value) -> Option<Box<Texts>> {
    let pattern = text(schema, "pattern");
    let found = Texts {
        max_length: schema["maxLength"].as_i64(),
        min_length: schema["minLength"].as_i64(),
        pattern: (!pattern.is_empty()).then(|| Pattern { text: pattern.into(), compiled: OnceLock::new() }),
    };
    let any = found.max_length.is_some() || found.min_length.is_some() || found.pattern.is_some();
    any.then(|| Box::new(found))
}

fn enumeration(schema: &Value) -> Option<Box<Enumeration>> {
    let values = schema["enum"].as_array().filter(|values| !values.is_empty())?.clone();
    let hashed = values.len() > HASHED_FROM;
    let texts = values.iter().filter(|_| hashed).filter_map(Value::as_str).map(Into::into).collect();
    Some(Box::new(Enumeration { values, texts }))
}
