//! Comprehensions: what `all`, `exists`, `map`, `filter` and their like become.

use super::node::Fold;
use super::run::{Machine, Slot};
use super::{EvalError, go_type};
use crate::value::{List, Map, Text, Value};
use crate::work;

impl<'p, 'v> Machine<'p, 'v> {
    pub(super) fn fold(&mut self, fold: &'p Fold) -> Result<Value<'v>, EvalError> {
        let range = self.eval(&fold.range)?;
        self.locals[fold.accumulator] = Slot::Unset;
        match &range {
            Value::List(list) => self.fold_list(fold, list)?,
            Value::Map(map) => self.fold_map(fold, map)?,
            other if fold.second.is_some() => return Err(EvalError::of(format!("unsupported comprehension range type: {}", go_type(other)))),
            other => return Err(EvalError::of(format!("got '{}', expected iterable type", go_type(other)))),
        }
        let result = self.eval(&fold.result);
        self.locals[fold.accumulator] = Slot::Unset;
        result
    }

    fn fold_list(&mut self, fold: &'p Fold, list: &List<'v>) -> Result<(), EvalError> {
        for (at, element) in list.iter().enumerate() {
            match fold.second {
                None => self.locals[fold.first] = Slot::Set(element),
                Some(second) => {
                    self.locals[fold.first] = Slot::Set(Ok(Value::Int(at as i64)));
                    self.locals[second] = Slot::Set(element);
                }
            }
            if !self.turn(fold)? {
                break;
            }
        }
        Ok(())
    }

    fn fold_map(&mut self, fold: &'p Fold, map: &Map<'v>) -> Result<(), EvalError> {
        if let (Map::Json(fields), None) = (map, fold.second) {
            for key in fields.keys() {
                self.locals[fold.first] = Slot::Set(Ok(Value::String(Text::Borrowed(key))));
                if !self.turn(fold)? {
                    break;
                }
            }
            return Ok(());
        }
        // All keys are there before the first turn, which may be the last.
        work::take(map.len() as u64)?;
        for key in map.keys() {
            if let Some(second) = fold.second {
                self.locals[second] = Slot::Set(map.find(&key).map(|found| found.unwrap_or(Value::Null)));
            }
            self.locals[fold.first] = Slot::Set(Ok(key));
            if !self.turn(fold)? {
                break;
            }
        }
        Ok(())
    }

    /// One turn; whether there may be another.
    fn turn(&mut self, fold: &'p Fold) -> Result<bool, EvalError> {
        // A condition that is no answer does not end it.
        match self.eval(&fold.condition) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(error) if error.is_final() => return Err(error),
            _ => {}
        }
        let accumulated = self.argument(&fold.step)?;
        self.locals[fold.accumulator] = Slot::Set(accumulated);
        self.check_stop()?;
        Ok(true)
    }
}
