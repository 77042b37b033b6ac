//! Text to a tree: the grammar, macros expanded on the way.
//!
//! What is in the grammar is parsed here, in one pass and without a table. What is not is read again for the sake of its errors
//! ([`syntax`]): the original's parser is made by ANTLR, and so are its words. (The crate `cel` has a port of that parser; it
//! expects other tokens than the original's does, and tells errors that the original does not have.)
//!
//! Depth is bounded as in the original ([`DEPTH_MAX`]): by counting the rules that are open, and then the nodes one above the other.
//! The text's length is bounded too ([`SIZE_MAX`]). So all that walks a tree may do so by recursion.

mod grammar;
mod lexer;
mod literal;
mod syntax;

use crate::ast::{Call, Comprehension, Expr, Field, Id, Kind, List, MapEntry, Select, Struct};
use crate::issues::Issue;
use crate::macros::Macro;
use crate::source::Source;
use crate::types::Str;

/// The most characters of an expression.
pub const SIZE_MAX: usize = 100_000;
/// The most that rules and nodes may be nested.
pub const DEPTH_MAX: u32 = 250;

/// The most nodes that macros may make of an expression: some write their target twice, and so do those in it. (The original sets no
/// bound, and takes the memory.)
const NODES_MAX: Id = 200_000;

/// The tree of a text with the positions of its nodes, or what is wrong.
pub fn parse(text: &str, macros: &[Macro]) -> Result<(Expr, Source), Vec<Issue>> {
    let size = text.chars().count();
    if size > SIZE_MAX {
        return Err(vec![whole(format!("expression code point size exceeds limit: size: {size}, limit {SIZE_MAX}"))]);
    }
    let source = Source::new(text);
    let (tokens, unread) = match lexer::tokens(text) {
        Some(tokens) => (tokens, Vec::new()),
        None => {
            let read = syntax::tokens::read(text, &source);
            (read.tokens, read.errors)
        }
    };
    match grammar::Parser::new(&tokens, source, macros).parse() {
        Ok(Ok(parsed)) if unread.is_empty() => Ok(parsed),
        Ok(parsed) => Err(unread.into_iter().chain(parsed.err().unwrap_or_default()).collect()),
        Err((grammar::Halt::TooDeep, _)) => Err(vec![whole(format!("expression recursion limit exceeded: {DEPTH_MAX}"))]),
        // What was wrong before is told too.
        Err((grammar::Halt::Syntax, found)) => Err(syntax::errors(text).into_iter().chain(found).collect()),
    }
}

/// An error about the whole.
fn whole(message: String) -> Issue {
    Issue { id: 0, location: None, message }
}

/// What a macro makes new nodes with: each with an id of its own, all at the place of the call.
pub struct Expander<'a> {
    source: &'a mut Source,
    last: &'a mut Id,
    at: u32,
}

impl Expander<'_> {
    fn id(&mut self, at: u32) -> Id {
        *self.last += 1;
        self.source.positions.insert(*self.last, at);
        *self.last
    }

    /// A node.
    pub fn node(&mut self, kind: Kind) -> Expr {
        Expr { id: self.id(self.at), kind }
    }

    /// A call without a target.
    pub fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call(Call { function: function.into(), target: None, args }))
    }

    /// A call with a target.
    pub fn member(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call(Call { function: function.into(), target: Some(Box::new(target)), args }))
    }

    /// The same expression with ids of its own, at the same places; where there are too many nodes, nothing.
    pub fn copy(&mut self, expr: &Expr) -> Expr {
        if *self.last > NODES_MAX {
            return Expr { id: 0, kind: Kind::Unspecified };
        }
        let id = self.id(self.source.positions.get(&expr.id).copied().unwrap_or(self.at));
        let kind = match &expr.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
            Kind::Select(select) => Kind::Select(Select { operand: Box::new(self.copy(&select.operand)), ..select.clone() }),
            Kind::Call(call) => Kind::Call(Call {
                function: call.function.clone(),
                target: call.target.as_ref().map(|target| Box::new(self.copy(target))),
                args: call.args.iter().map(|arg| self.copy(arg)).collect(),
            }),
            Kind::List(list) => {
                Kind::List(List { elements: list.elements.iter().map(|element| self.copy(element)).collect(), optional: list.optional.clone() })
            }
            Kind::Map(entries) => Kind::Map(entries.iter().map(|entry| self.copy_entry(entry)).collect()),
            Kind::Struct(object) => {
                Kind::Struct(Struct { name: object.name.clone(), fields: object.fields.iter().map(|field| self.copy_field(field)).collect() })
            }
            Kind::Comprehension(inner) => Kind::Comprehension(Box::new(Comprehension {
                range: self.copy(&inner.range),
                iter_var: inner.iter_var.clone(),
                iter_var2: inner.iter_var2.clone(),
                accu_var: inner.accu_var.clone(),
                accu_init: self.copy(&inner.accu_init),
                condition: self.copy(&inner.condition),
                step: self.copy(&inner.step),
                result: self.copy(&inner.result),
            })),
        };
        Expr { id, kind }
    }

    fn copy_entry(&mut self, entry: &MapEntry) -> MapEntry {
        let id = self.id(self.at);
        MapEntry { id, key: self.copy(&entry.key), value: self.copy(&entry.value), optional: entry.optional }
    }

    fn copy_field(&mut self, field: &Field) -> Field {
        let id = self.id(self.at);
        Field { id, name: Str::clone(&field.name), value: self.copy(&field.value), optional: field.optional }
    }
}
