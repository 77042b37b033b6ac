//! Lists: of JSON, of JSON under a schema, and those that expressions make.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compare::{element_key, map_key};
use super::view::{ListKind, Node};
use super::{Json, Value, typed};
use crate::error::EvalError;
use crate::work;

/// How many lists may lie one behind the other before they are copied into one: an element is found by as many steps.
const HOPS_MAX: u32 = 64;

/// The depth of a list of these elements.
pub(super) fn depth_of(elements: &[Value<'_>]) -> u32 {
    1 + elements.iter().map(Value::depth).max().unwrap_or(0)
}

/// A list. Cheap to clone.
#[derive(Debug, Clone)]
pub enum List<'v> {
    Json(&'v [Json]),
    /// Under the schema of a list.
    Viewed {
        elements: &'v [Json],
        items: &'v Node,
        kind: &'v ListKind,
    },
    /// With its depth (`Value::depth`).
    Owned(Arc<Vec<Value<'v>>>, u32),
    /// One behind the other, as `+` puts them: neither is copied.
    Concat(Arc<Concat<'v>>),
    /// What `+` makes of a list of type set or map: it is still one.
    Kind {
        elements: Arc<Vec<Value<'v>>>,
        kind: &'v ListKind,
        depth: u32,
    },
}

/// Two lists, one behind the other.
#[derive(Debug)]
pub struct Concat<'v> {
    parts: (List<'v>, List<'v>),
    length: usize,
    /// See `Value::depth`.
    depth: u32,
    /// Of how many such pairs it is made, one within the other.
    hops: u32,
}

impl<'v> List<'v> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            List::Json(elements) | List::Viewed { elements, .. } => elements.len(),
            List::Owned(elements, _) | List::Kind { elements, .. } => elements.len(),
            List::Concat(concat) => concat.length,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How deep it is made of others; see `Value::depth`.
    pub(super) fn depth(&self) -> u32 {
        match self {
            List::Json(_) | List::Viewed { .. } => 0,
            List::Owned(_, depth) | List::Kind { depth, .. } => *depth,
            List::Concat(concat) => concat.depth,
        }
    }

    fn hops(&self) -> u32 {
        match self {
            List::Concat(concat) => concat.hops,
            _ => 0,
        }
    }

    /// The same elements in a list of their own.
    fn copied(&self) -> Result<List<'v>, EvalError> {
        work::take_kept(self.len() as u64)?;
        let elements: Vec<Value<'v>> = self.iter().collect::<Result<_, _>>()?;
        Ok(List::Owned(Arc::new(elements), self.depth()))
    }

    /// Whether it belongs to a schema.
    pub fn is_viewed(&self) -> bool {
        matches!(self, List::Viewed { .. } | List::Kind { .. })
    }

    /// The element at an index below the length; an error where the JSON is not as the schema says.
    pub fn at(&self, index: usize) -> Result<Value<'v>, EvalError> {
        match self {
            List::Json(elements) => Ok(elements.get(index).map_or(Value::Null, Value::json)),
            List::Viewed { elements, items, .. } => elements.get(index).map_or(Ok(Value::Null), |element| typed(element, items)),
            List::Concat(concat) => match index.checked_sub(concat.parts.0.len()) {
                Some(index) => concat.parts.1.at(index),
                None => concat.parts.0.at(index),
            },
            List::Owned(elements, _) | List::Kind { elements, .. } => Ok(elements.get(index).cloned().unwrap_or(Value::Null)),
        }
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'v>, EvalError>> + '_ {
        (0..self.len()).map(|index| self.at(index))
    }

    /// The type of a list of type set or map.
    pub fn kind(&self) -> Option<&'v ListKind> {
        match self {
            List::Viewed { kind, .. } | List::Kind { kind, .. } if **kind != ListKind::Atomic => Some(kind),
            _ => None,
        }
    }

    /// Whether an element is equal.
    pub fn contains(&self, value: &Value<'v>) -> Result<bool, EvalError> {
        let mut failed = None;
        work::take(self.len() as u64)?;
        for element in self.iter() {
            // The original asks the value where the list is a plain one, and the element where it is of a schema.
            let equal = match element {
                Err(error) if self.is_viewed() => Err(error),
                Err(_) => Ok(false),
                Ok(element) if self.is_viewed() => super::method_equal(&element, value),
                Ok(element) => match super::method_equal(value, &element) {
                    Err(error) if error.is_final() => return Err(error),
                    equal => Ok(equal.unwrap_or(false)),
                },
            };
            match equal {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// Both lists in one, by the list type of the first: a set takes what it has not, a map overwrites what has the same keys.
    pub fn concat(&self, other: &List<'v>) -> Result<List<'v>, EvalError> {
        match self.kind() {
            None if self.is_empty() && !self.is_viewed() => Ok(other.clone()),
            None if other.is_empty() && !self.is_viewed() => Ok(self.clone()),
            None => {
                // Neither is copied, so that a sum of a list with itself doubles for nothing.
                let length = self.len().checked_add(other.len()).ok_or_else(EvalError::cost_limit)?;
                let (depth, hops) = (1 + self.depth().max(other.depth()), 1 + self.hops().max(other.hops()));
                let both = List::Concat(Arc::new(Concat { parts: (self.clone(), other.clone()), length, depth, hops }));
                if hops <= HOPS_MAX { Ok(both) } else { both.copied() }
            }
            Some(kind) => {
                work::take((self.len() as u64).saturating_add(other.len() as u64))?;
                let mut elements: Vec<Value<'v>> = self.iter().collect::<Result<_, _>>()?;
                match kind {
                    ListKind::Map(keys) => {
                        let mut known: Vec<_> = elements.iter().map(|element| map_key(element, keys)).collect::<Result<_, _>>()?;
                        for element in other.iter() {
                            let element = element?;
                            let key = map_key(&element, keys)?;
                            // Of equal keys the last place counts, as in the original's index.
                            work::take(known.len() as u64)?;
                            match known.iter().rposition(|one| *one == key) {
                                Some(at) => elements[at] = element,
                                None => {
                                    known.push(key);
                                    elements.push(element);
                                }
                            }
                        }
                    }
                    _ => {
                        let mut known = elements.iter().map(element_key).collect::<Result<BTreeSet<_>, _>>()?;
                        for element in other.iter() {
                            let element = element?;
                            if known.insert(element_key(&element)?) {
                                elements.push(element);
                            }
                        }
                    }
                }
                Ok(List::Kind { depth: depth_of(&elements), elements: Arc::new(elements), kind })
            }
        }
    }
}
