//! What is looked at when the types are right: lists and maps of mixed types, constants that are no duration, time or pattern, and
//! what constant formats ask for.

mod formats;

use crate::ast::{Checked, Expr, Id, Kind, Literal};
use crate::checker::equivalent;
use crate::eval::standard;
use crate::issues::Issue;
use crate::types::Type;

/// The errors of a checked expression.
pub(crate) fn validate(checked: &Checked) -> Vec<Issue> {
    let mut validator = Validator { checked, errors: Vec::new() };
    validator.lists(&checked.expr);
    validator.maps(&checked.expr);
    for (function, is_valid) in [("duration", is_duration as fn(&Literal) -> bool), ("timestamp", is_timestamp), ("matches", is_pattern)] {
        validator.constants(&checked.expr, function, is_valid);
    }
    validator.formats(&checked.expr);
    validator.errors
}

fn is_duration(literal: &Literal) -> bool {
    standard::converts("duration", literal)
}

fn is_timestamp(literal: &Literal) -> bool {
    standard::converts("timestamp", literal)
}

fn is_pattern(literal: &Literal) -> bool {
    standard::converts("matches", literal)
}

/// Whether a call takes lists of anything.
fn takes_mixed(expr: &Expr) -> bool {
    matches!(&expr.kind, Kind::Call(call) if &*call.function == "format")
}

struct Validator<'a> {
    checked: &'a Checked,
    errors: Vec<Issue>,
}

impl<'a> Validator<'a> {
    fn error(&mut self, id: Id, message: String) {
        self.errors.push(Issue { id, location: self.checked.source.location(id), message });
    }

    /// The first argument of a function, where it is a constant.
    fn constants(&mut self, expr: &Expr, function: &str, is_valid: fn(&Literal) -> bool) {
        if let Kind::Call(call) = &expr.kind
            && &*call.function == function
            && let Some(argument) = call.args.first()
            && let Some(literal) = argument.literal()
            && !is_valid(literal)
        {
            self.error(argument.id, format!("invalid {function} argument"));
        }
        expr.each_child(&mut |child| self.constants(child, function, is_valid));
    }

    fn lists(&mut self, expr: &Expr) {
        if let Kind::List(list) = &expr.kind {
            let mut first: Option<&'a Type> = None;
            for (at, element) in list.elements.iter().enumerate() {
                let ty = self.held(element, list.optional.contains(&at));
                match first {
                    None => first = Some(ty),
                    Some(first) if !equivalent(first, ty) => {
                        self.mismatch(element.id, first, ty);
                        break;
                    }
                    Some(_) => {}
                }
            }
        }
        if !takes_mixed(expr) {
            expr.each_child(&mut |child| self.lists(child));
        }
    }

    fn maps(&mut self, expr: &Expr) {
        if let Kind::Map(entries) = &expr.kind {
            let mut first: Option<(&'a Type, &'a Type)> = None;
            for entry in entries {
                let (key, value) = (self.checked.type_of(entry.key.id), self.held(&entry.value, entry.optional));
                let (first_key, first_value) = *first.get_or_insert((key, value));
                if !equivalent(first_key, key) {
                    self.mismatch(entry.key.id, first_key, key);
                }
                if !equivalent(first_value, value) {
                    self.mismatch(entry.value.id, first_value, value);
                }
            }
        }
        if !takes_mixed(expr) {
            expr.each_child(&mut |child| self.maps(child));
        }
    }

    /// The type of an element; of an optional one what is in it.
    fn held(&self, element: &Expr, optional: bool) -> &'a Type {
        let ty = self.checked.type_of(element.id);
        if optional { ty.optional_of().unwrap_or(ty) } else { ty }
    }

    fn mismatch(&mut self, id: Id, wanted: &Type, found: &Type) {
        self.error(id, format!("expected type '{wanted}' but found '{found}'"));
    }
}
