//! Constant formats with lists that the expression writes: whether each clause has an argument that it can show.

use super::Validator;
use crate::ast::{Expr, Id, Kind, Literal};
use crate::library::format::clause;
use crate::types::Type;

/// What is wrong, at a node.
type Wrong = (Id, String);

impl Validator<'_> {
    pub(super) fn formats(&mut self, expr: &Expr) {
        if let Kind::Call(call) = &expr.kind
            && &*call.function == "format"
            && let Some(Literal::String(text)) = call.target.as_ref().and_then(|target| target.literal())
            && let [Expr { kind: Kind::List(list), .. }] = call.args.as_slice()
        {
            match self.clauses(expr.id, text, &list.elements) {
                Err((id, message)) => self.error(id, message),
                Ok(asked) if list.elements.len() > asked => {
                    let given = list.elements.len();
                    self.error(expr.id, format!("too many arguments supplied to string.format (expected {asked}, got {given})"));
                }
                Ok(_) => {}
            }
        }
        expr.each_child(&mut |child| self.formats(child));
    }

    /// How many arguments a format asks for.
    fn clauses(&self, id: Id, text: &str, args: &[Expr]) -> Result<usize, Wrong> {
        let (mut rest, mut asked) = (text, 0);
        while let Some(at) = rest.find('%') {
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                rest = after;
                continue;
            }
            if rest.is_empty() {
                return Err((id, "unexpected end of string".to_string()));
            }
            let arg = args.get(asked).ok_or_else(|| (id, format!("index {asked} out of range")))?;
            let (letter, _, after) = clause(rest).map_err(|error| (id, format!("could not parse formatting clause: {error}")))?;
            self.clause(letter, arg).map_err(|(id, error)| (id, format!("error during formatting: {error}")))?;
            rest = after;
            asked += 1;
        }
        Ok(asked)
    }

    /// Whether a clause can show an argument.
    fn clause(&self, letter: char, arg: &Expr) -> Result<(), Wrong> {
        let ty = self.checked.type_of(arg.id);
        let (fits, what) = match (letter, ty) {
            ('s', _) => return self.shown(arg),
            (_, Type::Dyn) => return Ok(()),
            ('d', ty) => (matches!(ty, Type::Int | Type::Uint), "decimal clause can only be used on integers"),
            ('f', ty) => (matches!(ty, Type::Double | Type::String), "fixed-point clause can only be used on doubles"),
            ('e', ty) => (matches!(ty, Type::Double | Type::String), "scientific clause can only be used on doubles"),
            ('b', ty) => (matches!(ty, Type::Int | Type::Uint | Type::Bool), "only integers and bools can be formatted as binary"),
            ('o', ty) => (matches!(ty, Type::Int | Type::Uint), "octal clause can only be used on integers"),
            (_, ty) => (matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes), "only integers, byte buffers, and strings can be formatted as hex"),
        };
        if fits { Ok(()) } else { Err((arg.id, format!("{what}, was given {}", ty.runtime_name()))) }
    }

    /// Whether `%s` can show an argument, and all in it that the expression writes.
    fn shown(&self, arg: &Expr) -> Result<(), Wrong> {
        let ty = self.checked.type_of(arg.id);
        if matches!(ty, Type::Object(_) | Type::Opaque(..) | Type::Any | Type::Param(_) | Type::Error) {
            let what = "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps";
            return Err((arg.id, format!("{what}, was given {}", ty.runtime_name())));
        }
        match &arg.kind {
            Kind::List(list) => list.elements.iter().try_for_each(|element| self.shown(element)),
            Kind::Map(entries) => entries.iter().try_for_each(|entry| self.shown(&entry.key).and_then(|()| self.shown(&entry.value))),
            _ => Ok(()),
        }
    }
}
