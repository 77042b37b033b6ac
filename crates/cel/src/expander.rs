//! What macros make their nodes with.

use crate::ast::{Call, Comprehension, Expr, Field, Id, Kind, List, MapEntry, Select, Struct};
use crate::source::Source;
use crate::types::Str;

/// The most nodes that macros may make of an expression: some write their target twice, and so do those in it. (The original sets no
/// bound, and takes the memory.)
pub(crate) const NODES_MAX: Id = 200_000;

/// What a macro makes new nodes with: each with an id of its own, all at the place of the call.
pub struct Expander<'a> {
    pub(crate) source: &'a mut Source,
    pub(crate) last: &'a mut Id,
    pub(crate) at: u32,
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
