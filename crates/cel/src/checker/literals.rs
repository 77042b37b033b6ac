//! Constants, lists, maps and objects that the expression writes.

use super::Checker;
use super::unify::is_dyn;
use crate::ast::{Expr, Id, List, Literal, MapEntry, Reference, Struct};
use crate::messages;
use crate::types::Type;

/// The most parts of the type of a map; one with more is of anything. (The original sets no bound.)
const TYPE_PARTS_MAX: usize = 10_000;

/// The type of a constant.
pub(super) fn type_of(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

impl Checker<'_> {
    /// What an element gives to its list: what is in it, if it is an optional one.
    fn element(&mut self, expr: &Expr, optional: bool) -> Type {
        let ty = self.get(expr);
        if !optional {
            return ty;
        }
        if let Some(of) = ty.optional_of() {
            return of.clone();
        }
        if !is_dyn(&ty) {
            self.mismatch(expr.id, &Type::optional(ty.clone()), &ty);
        }
        ty
    }

    pub(super) fn list(&mut self, id: Id, list: &mut List) {
        let mut joined = None;
        for (at, element) in list.elements.iter_mut().enumerate() {
            self.check(element);
            let ty = self.element(element, list.optional.contains(&at));
            joined = Some(self.join(joined, ty));
        }
        let element = joined.unwrap_or_else(|| self.new_variable());
        self.set(id, Type::list(element));
    }

    pub(super) fn map(&mut self, id: Id, entries: &mut [MapEntry]) {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let ty = self.get(&entry.key);
            keys = Some(self.join(keys, ty));
            self.check(&mut entry.value);
            let ty = self.element(&entry.value, entry.optional);
            values = Some(self.join(values, ty));
        }
        let key = keys.unwrap_or_else(|| self.new_variable());
        let value = values.unwrap_or_else(|| self.new_variable());
        // Maps of maps by maps grow by doubling, in a loop within a loop without end.
        let ty = if key.parts(TYPE_PARTS_MAX) + value.parts(TYPE_PARTS_MAX) > TYPE_PARTS_MAX { Type::map(Type::Dyn, Type::Dyn) } else { Type::map(key, value) };
        self.set(id, ty);
    }

    pub(super) fn object(&mut self, id: Id, object: &mut Struct) {
        let name = object.name.strip_prefix('.').unwrap_or(&object.name).to_string();
        let Some(ty) = self.env.find_type(&name) else {
            self.set(id, Type::Error);
            return self.undeclared(id, &object.name.clone());
        };
        object.name = name.as_str().into();
        self.references.insert(id, Reference::Ident { name: object.name.clone(), value: None });
        let result = match ty {
            Type::Object(_) => ty,
            plain if messages::type_of(&name).is_some() => plain,
            other => {
                self.error(id, format!("'{}' is not a message type", other.runtime_name()));
                Type::Error
            }
        };
        self.set(id, result);
        for field in &mut object.fields {
            self.check(&mut field.value);
            let given = self.element(&field.value, field.optional);
            if self.env.is_untyped(&name, &field.name) {
                self.error(field.id, format!("expected type of field '{}' is '' but provided type is '{given}'", field.name));
                continue;
            }
            let wanted = self.field(field.id, &name, &field.name).unwrap_or(Type::Error);
            if !self.assignable(&wanted, &given) {
                let message = format!("expected type of field '{}' is '{wanted}' but provided type is '{given}'", field.name);
                self.error(field.id, message);
            }
        }
    }
}
