//! The one-pass decoder: a serde seed for a value of a known type, and one for any JSON.
//!
//! A typed seed yields `None` for what is absent in the decoded object: `null`, and zero values that Go leaves out.
//!
//! Go reads on after a value of a wrong type, and tells the first of them when it has read all; what a type's own decoder
//! (`UnmarshalJSON`) refuses ends the reading at once, and is told instead of what was wrong before it.

use super::{blanks::Blanks, path::Node, scalar};
use crate::{
    Map, Value,
    quote::Quoted,
    schema::{Object, Type, TypeRef},
};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What one decoding collects.
pub(super) struct Context {
    strict: bool,
    limit: usize,
    problems: RefCell<Vec<String>>,
    /// A duplicate was met.
    repeats: Cell<bool>,
    failure: Cell<Option<String>>,
    /// The first value of a wrong type; what came after it has been read.
    wrong: RefCell<Option<String>>,
    blanks: RefCell<Blanks>,
    /// The last number that is no 64-bit integer, for errors that show it as it is spelled.
    float: Cell<Option<f64>>,
    /// Where a whole number is due: `-0` was met, which the parser gives as a float; and it is not taken.
    minus_zero: Cell<bool>,
    refuses_minus_zero: bool,
    /// The value was made from maps: upstream's converter of those reads it, not its decoder of JSON.
    from_maps: bool,
    /// It is read for what is wrong first, in the order of Go's fields, and for nothing else.
    by_fields: bool,
    /// It is read for what is wrong first, the metadata of a custom object by the names of its fields: upstream writes it anew from a map.
    by_names: bool,
    /// What is read is kept as it is.
    verbatim: bool,
    /// What nobody keeps was read past, for which the parser counts no levels.
    skipped: Cell<bool>,
}

impl Context {
    pub(super) fn new(strict: bool, limit: usize) -> Self {
        Self {
            strict,
            limit,
            problems: RefCell::new(Vec::new()),
            repeats: Cell::new(false),
            failure: Cell::new(None),
            wrong: RefCell::new(None),
            blanks: RefCell::default(),
            float: Cell::new(None),
            minus_zero: Cell::new(false),
            refuses_minus_zero: false,
            from_maps: false,
            by_fields: false,
            by_names: false,
            verbatim: false,
            skipped: Cell::new(false),
        }
    }

    /// For a value that was made from maps.
    pub(super) fn of_maps(self) -> Self {
        Self { from_maps: true, ..self }
    }

    /// To be told what upstream's converter, which goes by the fields of Go's types, meets first.
    pub(super) fn by_fields(self) -> Self {
        Self { by_fields: true, ..self }
    }

    /// To be told what is wrong first with a custom object's metadata.
    pub(super) fn by_names(self) -> Self {
        Self { by_names: true, ..self }
    }

    /// For what lies within a type that takes its bytes as they are: nobody looks for what is there twice.
    fn verbatim() -> Self {
        Self { verbatim: true, ..Self::new(false, 0) }
    }

    /// For a body whose zeros are no whole numbers.
    pub(super) fn refusing_minus_zero(self) -> Self {
        Self { refuses_minus_zero: true, ..self }
    }

    pub(super) fn has_minus_zero(&self) -> bool {
        self.minus_zero.get()
    }

    /// What was found already by other means.
    pub(super) fn knowing(self, problems: Vec<String>) -> Self {
        Self { problems: RefCell::new(problems), ..self }
    }

    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.take()
    }

    pub(super) fn take_problems(&self) -> Vec<String> {
        self.problems.take()
    }

    pub(super) fn take_blanks(&self) -> Blanks {
        self.blanks.take()
    }

    pub(super) fn last_float(&self) -> Option<f64> {
        self.float.get()
    }

    pub(super) fn repeats(&self) -> bool {
        self.repeats.get()
    }

    pub(super) fn has_skipped(&self) -> bool {
        self.skipped.get()
    }

    /// A field that is there twice.
    fn duplicate(&self, at: &Node<'_>, name: &str) {
        self.repeats.set(true);
        self.problem("duplicate", at, name);
    }

    fn fail<E: Error>(&self, message: String) -> E {
        self.failure.set(Some(message));
        E::custom("")
    }

    /// Notes a value of a wrong type, and reads on. Only the first is told.
    fn wrong(&self, message: impl FnOnce() -> String) -> Option<Value> {
        self.wrong.borrow_mut().get_or_insert_with(message);
        None
    }

    /// Reads what Go's type reads by a decoder of its own, which is never strict.
    fn loosely<T, E: Error>(&self, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let noted = self.problems.borrow().len();
        let value = self.apart(read);
        self.problems.borrow_mut().truncate(noted);
        value
    }

    /// Reads what has a decoder of its own: what is wrong in it ends all around it.
    fn apart<T, E: Error>(&self, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let around = self.wrong.take();
        let value = read()?;
        match self.wrong.replace(around) {
            Some(wrong) => Err(self.fail(wrong)),
            None => Ok(value),
        }
    }

    fn problem(&self, what: &str, at: &Node<'_>, name: &str) {
        self.note(|| format!("{what} field {}", Quoted(&if self.from_maps { at.converted_field(name) } else { at.strict_field(name) })));
    }

    /// A field that a custom object has and its schema does not know: upstream puts it between quotes as it is.
    fn pruned(&self, at: &Node<'_>, name: &str) {
        self.note(|| format!("unknown field \"{}\"", at.strict_field(name)));
    }

    fn note(&self, problem: impl FnOnce() -> String) {
        let mut problems = self.problems.borrow_mut();
        if !self.strict || problems.len() >= self.limit {
            return;
        }
        let problem = problem();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

/// Every whole number up to this one is a float.
const FLOAT_EXACT: u64 = 1 << 53;

/// Any JSON behind a pointer is none where it is null.
fn is_no_json(ty: TypeRef<'_>, value: &Value) -> bool {
    value.is_null() && matches!(ty.get(), Type::RawJson)
}

/// A whole number of a value without a type: what is too large for `int64` is a float.
fn go_number(n: u64) -> Value {
    if i64::try_from(n).is_ok() { n.into() } else { (n as f64).into() }
}

fn is_float_zero(number: &serde_json::Number) -> bool {
    number.is_f64() && number.as_f64() == Some(0.0)
}

/// A number as Go's converter makes it a whole one: it cuts what does not fit (as amd64 does), but no fraction.
fn converted(number: &serde_json::Number, narrow: bool) -> Option<i64> {
    let whole = match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(float)) if float.trunc() == float => crate::numerals::go_int(float),
        _ => return None,
    };
    Some(if narrow { i64::from(whole as i32) } else { whole })
}

/// A value of a known type.
pub(super) struct Seed<'a> {
    ty: TypeRef<'a>,
    at: &'a Node<'a>,
    cx: &'a Context,
    /// The struct that holds the value and the Go type of the value there; for errors.
    owner: &'a str,
    go_type: &'a str,
    /// Inside of metadata, which is typed in every kind.
    in_meta: bool,
}

impl<'a> Seed<'a> {
    /// Reads a whole value of a type.
    pub(super) fn read<'de, D: Deserializer<'de>>(ty: TypeRef<'a>, cx: &'a Context, from: D) -> Result<Option<Value>, D::Error> {
        let root = Seed { ty, at: &Node::ROOT, cx, owner: "", go_type: "", in_meta: false };
        cx.apart(|| root.deserialize(from))
    }

    /// Whether Go's type decodes itself, and so refuses at once what it cannot be.
    fn decodes_itself(&self) -> bool {
        let ty = self.ty.get();
        self.cx.from_maps || self.is_meta() || matches!(ty, Type::Quantity | Type::IntOrString | Type::Time | Type::MicroTime | Type::SchemaOrBool(_))
    }

    /// A JSON value of the wrong type.
    fn mismatch<E: Error>(&self, found: &str) -> Result<Option<Value>, E> {
        if self.decodes_itself() { Err(self.cx.fail(self.mismatched(found))) } else { Ok(self.cx.wrong(|| self.mismatched(found))) }
    }

    fn mismatched(&self, found: &str) -> String {
        match self.ty.get() {
            Type::Quantity => return crate::quantity::ParseError::Format.to_string(),
            Type::SchemaOrBool(_) if !self.cx.from_maps => return "boolean or JSON schema expected".to_owned(),
            _ => {}
        }
        if self.cx.from_maps
            && let Some(why) = scalar::unconverted(self.ty, self.go_type, found)
        {
            return why;
        }
        // What decodes itself is given the value as Go writes it; the decoder of texts does not tell which number it has met.
        let spelled = found.strip_prefix("number ").filter(|_| self.cx.from_maps).map(|number| match self.ty.get() {
            Type::IntOrString => format!("number {}", scalar::go_number(number)),
            _ => "number".to_owned(),
        });
        let found = spelled.as_deref().unwrap_or(found);
        // Its decoder leaves all but strings to that of a number.
        let go_type = if matches!(self.ty.get(), Type::IntOrString) {
            "int32".to_owned()
        } else if matches!(self.go_type, "" | "-" | "v1.Time" | "v1.MicroTime") {
            scalar::go_type(self.ty)
        } else {
            self.go_type.to_owned()
        };
        if self.is_meta() {
            return format!("json: cannot unmarshal {found} into Go value of type v1.ObjectMeta");
        }
        let place = if self.in_meta && self.ty.schema.is_lenient() {
            // The original decodes the metadata of a custom object by itself.
            let path = self.at.go();
            let path = path.split_once("metadata.").map_or(path.as_str(), |(_, inside)| inside);
            format!("Go struct field {}.{path} of type {go_type}", self.owner)
        } else if self.owner.is_empty() || self.cx.from_maps {
            format!("Go value of type {go_type}")
        } else {
            format!("Go struct field {}.{} of type {go_type}", self.owner, self.at.go())
        };
        format!("json: cannot unmarshal {found} into {place}")
    }

    /// Whether a wrong type is left to validation.
    fn is_lenient(&self) -> bool {
        self.ty.schema.is_lenient() && !self.in_meta && !self.is_meta()
    }

    /// Whether it is the metadata of a custom object.
    fn is_meta(&self) -> bool {
        self.ty.schema.is_lenient() && self.ty.object().is_some_and(|object| object.name == OBJECT_META)
    }

    /// Whether it is a resource within a custom object.
    fn is_embedded(&self, object: &Object) -> bool {
        let meta = |field: &crate::schema::Field| self.ty.to(field.ty).object().is_some_and(|object| object.name == OBJECT_META);
        self.is_lenient() && !self.at.is_root() && object.field("metadata").is_some_and(meta)
    }

    /// What a resource within a custom object says that it is, and its metadata: both are read for themselves (upstream's `Coerce`),
    /// and what they cannot be is told with the value.
    fn coerced<E: Error>(&self, seed: Seed<'_>, value: Value) -> Result<Value, E> {
        let at = seed.at;
        let told = |why: String| {
            let shown = match value.as_f64().filter(|_| value.is_f64()) {
                Some(float) => crate::numerals::float(float),
                None => String::from_utf8(super::encode(&value)).unwrap_or_default(),
            };
            self.cx.fail(format!("{}: Invalid value: {shown}: {why}", at.strict().trim_end_matches('.')))
        };
        if seed.ty.object().is_none() {
            return if value.is_string() { Ok(value) } else { Err(told("must be a string".to_owned())) };
        }
        let read: Result<Option<Value>, serde_json::Error> = self.cx.apart(|| seed.deserialize(value.clone()));
        read.map(Option::unwrap_or_default).map_err(|error| told(self.cx.take_failure().unwrap_or_else(|| error.to_string())))
    }

    /// What an element that is null becomes: Go's zero, or what it is.
    fn nothing(&self, elem: TypeRef<'_>) -> Value {
        if self.is_lenient() { Value::Null } else { scalar::zero(elem) }
    }

    /// A scalar of the wrong JSON type: an error, or left to validation.
    fn wrong<E: Error>(&self, found: &str, value: Value) -> Result<Option<Value>, E> {
        // What is neither a schema nor a list is an empty one to their decoders.
        if matches!(self.ty.get(), Type::SchemaOrArray(_) | Type::SchemaOrStrings(_)) {
            return Ok(Some(Value::Array(Vec::new())));
        }
        if self.is_lenient() { Ok(Some(value)) } else { self.mismatch(found) }
    }

    fn number<E: Error>(&self, number: serde_json::Number, shown: &dyn fmt::Display) -> Result<Option<Value>, E> {
        // What has no fraction is a whole number to who reads it before he knows its type, and has no sign then.
        if self.is_lenient() && !self.cx.refuses_minus_zero && is_float_zero(&number) && number.as_f64().is_some_and(f64::is_sign_negative) {
            self.cx.minus_zero.set(true);
            return self.number(0.into(), &0);
        }
        match self.ty.get() {
            Type::Int32 if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(Some(Value::Number(number))),
            Type::IntOrString if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(Some(Value::Number(number))),
            Type::Int64 if number.is_i64() => Ok(Some(Value::Number(number))),
            // The metadata of a custom object has been read, and written anew, before it is decoded.
            Type::Int64 if self.in_meta && self.ty.schema.is_lenient() && number.as_f64().and_then(crate::numerals::reread).is_some() => {
                Ok(number.as_f64().and_then(crate::numerals::reread).map(Value::from))
            }
            Type::Int32 | Type::Int64 if self.cx.from_maps && !self.is_lenient() => match converted(&number, matches!(self.ty.get(), Type::Int32)) {
                Some(whole) => Ok(Some(whole.into())),
                None => self.wrong(&format!("number {shown}"), Value::Number(number)),
            },
            Type::Int32 | Type::Int64 | Type::IntOrString if self.is_zero(&number) && !self.cx.refuses_minus_zero => {
                self.cx.minus_zero.set(true);
                Ok(Some(0.into()))
            }
            // What a float cannot hold is rounded, as Go reads it.
            Type::Double if !self.is_lenient() && number.as_i64().is_some_and(|n| n.unsigned_abs() > FLOAT_EXACT) => Ok(Some(number.as_f64().into())),
            Type::Double | Type::Any if self.is_zero(&number) && !(self.is_lenient() && self.cx.refuses_minus_zero) => {
                self.cx.minus_zero.set(self.cx.minus_zero.get() || self.is_lenient());
                Ok(Some(0.into()))
            }
            Type::Any if number.as_u64().is_some() => Ok(number.as_u64().map(go_number)),
            // Go has read it before anybody asked for its type.
            _ if self.is_lenient() && number.as_i64().is_none() && number.is_u64() => Ok(number.as_u64().map(go_number)),
            Type::Double | Type::Any | Type::RawJson | Type::RawExtension | Type::Fields => Ok(Some(Value::Number(number))),
            // What comes from maps is written by Go before an amount is read of it.
            Type::Quantity if self.cx.from_maps && !self.is_lenient() => self.text(&scalar::go_number(&shown.to_string())),
            Type::Quantity if !self.is_lenient() => self.text(&shown.to_string()),
            Type::Int32 | Type::Int64 | Type::IntOrString => self.wrong(&format!("number {shown}"), Value::Number(number)),
            // How it is written tells Go's kind of it, which is told of what comes from maps alone.
            _ if self.cx.from_maps => self.wrong(&format!("number {shown}"), Value::Number(number)),
            _ => self.wrong("number", Value::Number(number)),
        }
    }

    /// Whether a zero is a whole one: one without a sign is spelled as none, which matters where values keep the type that Go has read.
    fn is_zero(&self, number: &serde_json::Number) -> bool {
        is_float_zero(number) && (!self.is_lenient() || number.as_f64().is_some_and(f64::is_sign_negative))
    }

    fn text<E: Error>(&self, text: &str) -> Result<Option<Value>, E> {
        let value = match self.ty.get() {
            Type::String | Type::IntOrString | Type::Any | Type::RawJson | Type::RawExtension | Type::Fields => Ok(text.to_owned()),
            // In a custom object it stands for any text of a form.
            Type::Quantity if self.is_lenient() => Ok(text.to_owned()),
            Type::Quantity => scalar::quantity(text),
            Type::Time => scalar::time(text, false),
            Type::MicroTime => scalar::time(text, true),
            Type::Bytes => scalar::bytes(text),
            _ => return self.wrong("string", Value::String(text.to_owned())),
        };
        match value {
            Ok(text) => Ok(Some(Value::String(text))),
            Err(_) if self.is_lenient() => Ok(Some(Value::String(text.to_owned()))),
            // Base64 is read by the decoder of all, the others by their types' own.
            Err(message) if matches!(self.ty.get(), Type::Bytes) && !self.cx.from_maps => Ok(self.cx.wrong(|| message)),
            Err(message) if matches!(self.ty.get(), Type::Bytes) => Err(self.cx.fail(format!("error decoding from json: {message}"))),
            Err(message) => Err(self.cx.fail(message)),
        }
    }

    /// Whether a null stays where its type has none: of what is merged into a custom object validation refuses it, while the reader
    /// of a body leaves it out.
    fn keeps_null(&self, name: &str) -> bool {
        self.cx.from_maps && self.is_lenient() && !(self.at.is_root() && matches!(name, "apiVersion" | "kind" | "metadata"))
    }

    /// Whether nothing is written of a field with this value.
    fn is_left_out(&self, field: &crate::schema::Field, value: &Value) -> bool {
        // An empty list of owners is a wish: that there be none.
        let stays = || field.name == "managedFields" && value.is_array() && self.at.is_metadata();
        let nothing = self.is_lenient() && value.is_null() && !field.nullable;
        nothing || is_no_json(self.ty.to(field.ty), value) || self.ty.leaves_out(field, value) && !stays()
    }

    /// Reads the known fields in the order of Go's, or of their names, for what is wrong with them.
    fn by_fields<'de, A: MapAccess<'de>>(&self, object: &'a Object, mut map: A) -> Result<Option<Value>, A::Error> {
        let mut fields: Vec<(usize, Value)> = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed(object))? {
            match key {
                Key::Field(at) => fields.push((at, map.next_value()?)),
                Key::Unknown(_) => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        // The fields of a type are sorted by their names.
        fields.sort_by_key(|(at, _)| if self.cx.by_names { *at } else { usize::from(object.rank(*at)) });
        for (at, value) in fields {
            let field = &object.fields[at];
            let node = self.at.field(&field.name, self.ty);
            let in_meta = self.in_meta || object.name == OBJECT_META;
            let seed = Seed { ty: self.ty.to(field.ty), at: &node, cx: self.cx, owner: object.go_name(), go_type: &field.go_type, in_meta };
            let read: Result<Option<Value>, serde_json::Error> = seed.deserialize(value);
            read.map_err(A::Error::custom)?;
        }
        Ok(None)
    }

    fn object<'de, A: MapAccess<'de>>(&self, object: &'a Object, mut map: A) -> Result<Option<Value>, A::Error> {
        if self.cx.by_fields || self.cx.by_names && self.is_meta() {
            return self.by_fields(object, map);
        }
        let mut out = Map::new();
        // Bit n: field n was seen. No type has more than 128 fields; beyond that duplicates go unnoticed.
        let mut seen = 0u128;
        let mut strange: HashSet<String> = HashSet::new();
        while let Some(key) = map.next_key_seed(KeySeed(object))? {
            match key {
                Key::Field(at) => {
                    let field = &object.fields[at];
                    let bit = 1u128.checked_shl(u32::try_from(at).unwrap_or(128)).unwrap_or(0);
                    let again = seen & bit != 0;
                    if again {
                        self.cx.duplicate(self.at, &field.name);
                    }
                    seen |= bit;
                    let node = self.at.field(&field.name, self.ty);
                    let in_meta = self.in_meta || object.name == OBJECT_META;
                    let seed = Seed { ty: self.ty.to(field.ty), at: &node, cx: self.cx, owner: object.go_name(), go_type: &field.go_type, in_meta };
                    if matches!(field.name.as_ref(), "apiVersion" | "kind" | "metadata") && self.is_embedded(object) {
                        let value = map.next_value_seed(AnySeed { at: &node, cx: self.cx })?;
                        out.insert(field.name.clone().into_owned(), self.coerced(seed, value)?);
                        continue;
                    }
                    let mut value = map.next_value_seed(seed)?;
                    if again && !self.is_lenient() {
                        // Null is read into nothing but what may be none.
                        let is_fixed = !field.go.pointer && !matches!(self.ty.to(field.ty).get(), Type::Map { .. } | Type::List { .. } | Type::Bytes);
                        if value.is_none() && is_fixed {
                            continue;
                        }
                        value = value.map(|new| match out.remove(field.name.as_ref()) {
                            Some(old) => scalar::read_into(self.ty.to(field.ty), old, new),
                            None => new,
                        });
                    }
                    match value {
                        // Where it is no pointer, the time that is none is as good as no time.
                        Some(Value::String(text)) if !field.go.pointer && scalar::is_no_time(Some(self.ty.to(field.ty)), &text) => {
                            out.remove(field.name.as_ref());
                        }
                        Some(value) if !self.is_left_out(field, &value) => drop(out.insert(field.name.clone().into_owned(), value)),
                        Some(value) if !self.is_lenient() => {
                            self.cx.blanks.borrow_mut().note(&node, &value);
                            out.remove(field.name.as_ref());
                        }
                        None if self.keeps_null(&field.name) => drop(out.insert(field.name.clone().into_owned(), Value::Null)),
                        _ if field.nullable => drop(out.insert(field.name.clone().into_owned(), Value::Null)),
                        _ => drop(out.remove(field.name.as_ref())),
                    }
                }
                Key::Unknown(name) if object.preserve_unknown => {
                    let node = self.at.key(&name);
                    let value = map.next_value_seed(AnySeed { at: &node, cx: self.cx })?;
                    if out.contains_key(&name) {
                        self.cx.duplicate(self.at, &name);
                    }
                    out.insert(name, value);
                }
                // A custom object is read as a map before its type is known: what is there twice is told wherever it stands.
                Key::Unknown(name) if self.ty.schema.is_lenient() && self.cx.strict => {
                    let node = self.at.key(&name);
                    map.next_value_seed(AnySeed { at: &node, cx: self.cx })?;
                    if strange.contains(&name) {
                        self.cx.duplicate(self.at, &name);
                    } else {
                        self.cx.pruned(self.at, &name);
                        strange.insert(name);
                    }
                }
                Key::Unknown(name) => {
                    self.cx.problem("unknown", self.at, &name);
                    self.cx.skipped.set(true);
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Some(Value::Object(out)))
    }

    fn elements<'de, A: SeqAccess<'de>>(&self, elem: TypeRef<'a>, mut seq: A) -> Result<Option<Value>, A::Error> {
        let mut out = Vec::new();
        let go_type = self.go_type.strip_prefix("[]").unwrap_or("");
        loop {
            let node = self.at.index(out.len());
            let seed = Seed { ty: elem, at: &node, cx: self.cx, owner: self.owner, go_type, in_meta: self.in_meta };
            match seq.next_element_seed(seed)? {
                Some(value) => out.push(value.unwrap_or_else(|| self.nothing(elem))),
                None => return Ok(Some(Value::Array(out))),
            }
        }
    }

    /// Bytes that are listed one by one, which Go takes for what it writes in base64.
    fn bytes<'de, A: SeqAccess<'de>>(&self, mut seq: A) -> Result<Option<Value>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(item) = seq.next_element::<Value>()? {
            let byte = if item.is_null() { Some(0) } else { item.as_u64().and_then(|n| u8::try_from(n).ok()) };
            if byte.is_none() {
                let found = if item.is_number() { format!("number {item}") } else { crate::tree::json_type(&item).to_owned() };
                // The type that it is not is that of one.
                let why = || self.mismatched(&found).replacen("[]uint8", "uint8", 1);
                if self.cx.from_maps {
                    return Err(self.cx.fail("unrecognized type: uint8".to_owned()));
                }
                self.cx.wrong(why);
            }
            bytes.push(byte.unwrap_or_default());
        }
        Ok(Some(Value::String(scalar::in_base64(&bytes))))
    }

    fn map<'de, A: MapAccess<'de>>(&self, elem: TypeRef<'a>, nullable: bool, mut map: A) -> Result<Option<Value>, A::Error> {
        let mut out = Map::new();
        let go_type = self.go_type.split_once(']').map_or("", |p| p.1);
        while let Some(key) = map.next_key::<String>()? {
            let node = self.at.key(&key);
            let seed = Seed { ty: elem, at: &node, cx: self.cx, owner: self.owner, go_type, in_meta: self.in_meta };
            let value = match map.next_value_seed(seed)? {
                Some(value) => value,
                None if self.is_lenient() && (nullable || self.cx.from_maps) => Value::Null,
                None if self.is_lenient() => continue,
                None => scalar::zero(elem),
            };
            if out.contains_key(&key) {
                self.cx.duplicate(self.at, &key);
            }
            out.insert(key, value);
        }
        Ok(Some(Value::Object(out)))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<Self::Value, E> {
        match self.ty.get() {
            Type::Bool | Type::Any | Type::RawJson | Type::RawExtension | Type::Fields | Type::SchemaOrBool(_) => Ok(Some(Value::Bool(b))),
            _ => self.wrong("bool", Value::Bool(b)),
        }
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Self::Value, E> {
        self.number(n.into(), &n)
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Self::Value, E> {
        self.number(n.into(), &n)
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Self::Value, E> {
        if self.cx.wrong.borrow().is_none() {
            self.cx.float.set(Some(n));
        }
        match serde_json::Number::from_f64(n) {
            Some(number) => self.number(number, &format_args!("{n:?}")),
            None => self.mismatch("number"),
        }
    }

    /// A text with escapes in it. An amount is what stands between the quotes to its decoder, which knows of none.
    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if matches!(self.ty.get(), Type::Quantity) && !self.ty.schema.is_lenient() {
            return Err(self.cx.fail(crate::quantity::ParseError::Format.to_string()));
        }
        self.text(text)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        self.text(text)
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        match self.ty.get() {
            Type::String | Type::IntOrString | Type::Any => Ok(Some(Value::String(text))),
            _ => self.text(&text),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        match self.ty.get() {
            Type::Any | Type::RawJson => Ok(Some(Value::Null)),
            _ => Ok(None),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let elem = match self.ty.get() {
            Type::List { elem, .. } => self.ty.to(*elem),
            Type::SchemaOrArray(schema) => self.ty.to(*schema),
            Type::SchemaOrStrings(_) | Type::Any => return AnySeed { at: self.at, cx: self.cx }.visit_seq(seq).map(Some),
            Type::RawJson | Type::RawExtension | Type::Fields => return AnySeed { at: self.at, cx: &Context::verbatim() }.visit_seq(seq).map(Some),
            _ if self.is_lenient() => {
                // What keeps fields that it does not know keeps those of the elements that it should not have.
                let keeps = self.ty.object().is_some_and(|object| object.preserve_unknown);
                let strip = |value| if keeps { value } else { stripped(self.at, self.cx, value) };
                return AnySeed { at: self.at, cx: self.cx }.visit_seq(seq).map(|value| Some(strip(value)));
            }
            Type::Bytes => return self.bytes(seq),
            _ => {
                let wrong = self.mismatch("array")?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(wrong);
            }
        };
        match self.ty.get() {
            Type::SchemaOrArray(_) => self.cx.loosely(|| self.elements(elem, seq)),
            _ => self.elements(elem, seq),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        match self.ty.get() {
            Type::Object(object) => self.object(object, map),
            Type::Map { elem, nullable, .. } => self.map(self.ty.to(*elem), *nullable, map),
            Type::SchemaOrArray(schema) | Type::SchemaOrBool(schema) | Type::SchemaOrStrings(schema) => {
                self.cx.loosely(|| Seed { ty: self.ty.to(*schema), ..self }.visit_map(map))
            }
            Type::Any => AnySeed { at: self.at, cx: self.cx }.visit_map(map).map(Some),
            Type::RawJson | Type::RawExtension | Type::Fields => AnySeed { at: self.at, cx: &Context::verbatim() }.visit_map(map).map(Some),
            _ if self.is_lenient() => AnySeed { at: self.at, cx: self.cx }.visit_map(map).map(|value| Some(stripped(self.at, self.cx, value))),
            _ => {
                let wrong = self.mismatch("object")?;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(wrong)
            }
        }
    }
}

enum Key {
    Field(usize),
    Unknown(String),
}

/// Looks a key up in the object without copying it.
struct KeySeed<'a>(&'a Object);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        let found = self.0.fields.binary_search_by(|f| f.name.as_ref().cmp(name));
        Ok(found.map_or_else(|_| Key::Unknown(name.to_owned()), Key::Field))
    }
}

/// Any JSON; duplicate keys are reported, the last one wins.
pub(super) struct AnySeed<'a> {
    pub(super) at: &'a Node<'a>,
    pub(super) cx: &'a Context,
}

impl<'de> DeserializeSeed<'de> for AnySeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnySeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(if self.cx.verbatim { n.into() } else { go_number(n) })
    }

    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        // A zero has no sign when it has been written and read once.
        Ok(if n == 0.0 && !self.cx.verbatim { 0.into() } else { n.into() })
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let node = self.at.index(out.len());
            match seq.next_element_seed(AnySeed { at: &node, cx: self.cx })? {
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let node = self.at.key(&key);
            let value = map.next_value_seed(AnySeed { at: &node, cx: self.cx })?;
            if out.contains_key(&key) {
                self.cx.duplicate(self.at, &key);
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// JSON where a schema has no fields: objects lose theirs, which are unknown.
fn stripped(at: &Node<'_>, cx: &Context, value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().enumerate().map(|(place, item)| stripped(&at.index(place), cx, item)).collect(),
        Value::Object(fields) => {
            fields.keys().for_each(|name| cx.pruned(at, name));
            Value::Object(Map::new())
        }
        other => other,
    }
}
