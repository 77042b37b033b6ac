//! Attributes: a value and what is selected from it, with presence tests and optional selection.
//!
//! The cost is that of the original's observers: one for each field or index that is looked up, whether it is there or not (an
//! optional one only if it is there), and one for the whole attribute, which whoever reads it adds.

use super::EvalError;
use super::node::{Attribute, Base, Qualifier, QualifierKey};
use super::run::{Machine, Slot};
use crate::value::{Json, Map, Value, double_to_int, shown};

impl<'p, 'v> Machine<'p, 'v> {
    /// The value of an attribute, without the cost of reading it.
    pub(super) fn resolve(&mut self, attribute: &'p Attribute) -> Result<Value<'v>, EvalError> {
        if let Some(json) = self.plain(attribute) {
            for _ in &attribute.qualifiers {
                self.charge(1)?;
            }
            return Ok(Value::json(json));
        }
        let value = match &attribute.base {
            Base::Variable(slot) => self.variable(*slot)?,
            Base::Local(slot, init) => self.local(*slot, *init)?,
            Base::Node(node) => self.eval(node)?,
            Base::Conditional(parts) => {
                let (condition, then, otherwise) = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.resolve(then)?,
                    Value::Bool(false) => self.resolve(otherwise)?,
                    _ => return Err(EvalError::no_such_overload()),
                }
            }
        };
        if attribute.qualifiers.is_empty() {
            return Ok(value);
        }
        self.qualified(value, attribute)
    }

    /// What fields lead to from a variable that is JSON without a schema, if all of them are there: most attributes of policies. It is found
    /// without a value for each step.
    fn plain(&self, attribute: &'p Attribute) -> Option<&'v Json> {
        let (Base::Variable(slot), [first, rest @ ..]) = (&attribute.base, attribute.qualifiers.as_slice()) else { return None };
        let Some(Value::Map(Map::Json(fields))) = self.variables.get(*slot)? else { return None };
        rest.iter().try_fold(fields.get(self.name(first)?)?, |json, qualifier| json.as_object()?.get(self.name(qualifier)?))
    }

    /// The name of a field that is neither optional nor only tried, if it is constant or a text that a comprehension goes through.
    fn name(&self, qualifier: &'p Qualifier) -> Option<&str> {
        if qualifier.optional || qualifier.test {
            return None;
        }
        match &qualifier.key {
            QualifierKey::Const(key) => key.as_str(),
            QualifierKey::Attribute(key) => self.held(key)?.as_str(),
        }
    }

    /// The value of a variable of a comprehension, where the attribute is that alone and it has one.
    pub(super) fn held(&self, attribute: &Attribute) -> Option<&Value<'v>> {
        match (&attribute.base, attribute.qualifiers.as_slice()) {
            (Base::Local(slot, _), []) => match self.locals.get(*slot)? {
                Slot::Set(Ok(value)) => Some(value),
                _ => None,
            },
            _ => None,
        }
    }

    fn qualified(&mut self, value: Value<'v>, attribute: &'p Attribute) -> Result<Value<'v>, EvalError> {
        // What is selected from an optional value is optional, too.
        let (mut value, mut optional) = match value {
            Value::Optional(None) => return Ok(Value::NONE),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        for qualifier in &attribute.qualifiers {
            optional |= qualifier.optional;
            let tried = optional || qualifier.test;
            let found = match &qualifier.key {
                QualifierKey::Const(key) => self.step(&value, attribute, key, tried),
                QualifierKey::Attribute(key) => match self.resolve(key).and_then(as_key) {
                    Ok(key) => self.step(&value, attribute, &key, tried),
                    Err(error) => Err(error),
                },
            };
            match &found {
                Err(error) if error.is_final() => return found.map(|_| Value::Null),
                Err(_) | Ok(None) if optional => {}
                _ => self.charge(1)?,
            }
            value = match found? {
                found if qualifier.test && !optional => Value::Bool(found.is_some()),
                Some(found) => found,
                None => return Ok(Value::NONE),
            };
        }
        Ok(if optional { Value::some(value) } else { value })
    }

    fn variable(&mut self, slot: usize) -> Result<Value<'v>, EvalError> {
        self.variables[slot].clone().ok_or_else(|| EvalError::of(format!("no such attribute(s): {}", self.plan.variables[slot])))
    }

    fn step(&mut self, value: &Value<'v>, of: &'p Attribute, key: &Value<'v>, tried: bool) -> Result<Option<Value<'v>>, EvalError> {
        let (Value::Lazy, Base::Variable(slot)) = (value, &of.base) else { return look_up(value, key, tried) };
        let name = key.as_str().ok_or_else(EvalError::no_such_overload)?;
        match self.activation.member(&self.plan.variables[*slot], name)? {
            None if !tried => Err(EvalError::of(format!("no such key: {name}"))),
            found => Ok(found),
        }
    }

    /// A variable of a comprehension. An accumulator gets its initial value when it is first read.
    fn local(&mut self, slot: usize, init: Option<usize>) -> Result<Value<'v>, EvalError> {
        match &self.locals[slot] {
            Slot::Set(value) => return value.clone(),
            Slot::Unset => {}
        }
        let plan = self.plan;
        let initial = match init {
            Some(init) => self.eval(&plan.inits[init]),
            None => Err(EvalError::of("no such attribute(s)")),
        };
        match &initial {
            Err(error) if error.is_final() => {}
            _ => self.locals[slot] = Slot::Set(initial.clone()),
        }
        initial
    }

    /// Reads an attribute with its cost.
    pub(super) fn read(&mut self, attribute: &'p Attribute) -> Result<Value<'v>, EvalError> {
        let value = self.resolve(attribute);
        if let Err(error) = &value
            && error.is_final()
        {
            return value;
        }
        if !attribute.is_free() {
            self.charge(1)?;
        }
        value
    }

    /// `has(…)`: no more than the cost of its steps.
    pub(super) fn test(&mut self, attribute: &'p Attribute) -> Result<Value<'v>, EvalError> {
        Ok(match self.resolve(attribute)? {
            Value::Optional(inner) => Value::Bool(inner.is_some()),
            other => other,
        })
    }
}

/// A value as a key or index.
fn as_key(value: Value<'_>) -> Result<Value<'_>, EvalError> {
    match value {
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_) => Ok(value),
        other => Err(EvalError::of(format!("invalid qualifier type: {}", super::go_type(&other)))),
    }
}

/// What lies at a key or index; where it is only tried, none is no error.
fn look_up<'v>(value: &Value<'v>, key: &Value<'v>, tried: bool) -> Result<Option<Value<'v>>, EvalError> {
    match value {
        Value::Map(map) => match map.find(key)? {
            None if !tried => Err(EvalError::of(format!("no such key: {}", shown(key)))),
            found => Ok(found),
        },
        Value::List(list) => {
            let index = index(key)?;
            match usize::try_from(index).ok().filter(|index| *index < list.len()) {
                Some(_) if list.is_viewed() && !matches!(key, Value::Int(_)) => Err(EvalError::of(format!("unsupported index: {}", shown(key)))),
                Some(index) => list.at(index).map(Some),
                None if tried => Ok(None),
                None => Err(EvalError::of(format!("index out of bounds: {}", shown(key)))),
            }
        }
        Value::Struct(object) => match key.as_str().and_then(|key| object.fields.get(key)) {
            None if !tried => Err(EvalError::of(format!("no such key: {}", shown(key)))),
            found => Ok(found.cloned()),
        },
        _ if tried => Ok(None),
        _ => Err(EvalError::of(format!("no such key: {}", shown(key)))),
    }
}

/// A number as an index.
fn index(key: &Value<'_>) -> Result<i64, EvalError> {
    let unsupported = || EvalError::of(format!("unsupported index value {} in list", shown(key)));
    match key {
        Value::Int(index) => Ok(*index),
        Value::Double(value) => double_to_int(*value).ok().filter(|int| *int as f64 == *value).ok_or_else(unsupported),
        Value::Uint(value) => i64::try_from(*value).map_err(|_| unsupported()),
        other => Err(EvalError::of(format!("unsupported index type '{}' in list", other.type_name()))),
    }
}

impl Qualifier {
    /// A constant one.
    pub(super) fn constant(key: Value<'static>, optional: bool) -> Qualifier {
        Qualifier { key: QualifierKey::Const(key), optional, test: false }
    }
}
