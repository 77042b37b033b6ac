//! Whether one type may stand for another, and what that makes of the type parameters.

use std::collections::HashMap;

use crate::types::{Str, Type};

/// What type parameters stand for. What a failed attempt noted is taken back.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    found: HashMap<Str, Type>,
    /// What was noted, with what stood there before.
    trail: Vec<(Str, Option<Type>)>,
}

impl Mapping {
    fn find(&self, ty: &Type) -> Option<&Type> {
        match ty {
            Type::Param(name) => self.found.get(name),
            _ => None,
        }
    }

    fn add(&mut self, param: &Type, ty: Type) {
        let Type::Param(name) = param else { return };
        let before = self.found.insert(name.clone(), ty);
        self.trail.push((name.clone(), before));
    }

    /// Whether the second may be given where the first is wanted; what it needs of parameters is noted if so.
    pub(super) fn assignable(&mut self, wanted: &Type, given: &Type) -> bool {
        self.attempt(|mapping| mapping.fits(wanted, given))
    }

    /// The same for all types of two lists at once.
    pub(super) fn all_assignable(&mut self, wanted: &[Type], given: &[Type]) -> bool {
        self.attempt(|mapping| wanted.len() == given.len() && wanted.iter().zip(given).all(|(wanted, given)| mapping.fits(wanted, given)))
    }

    fn attempt(&mut self, try_it: impl FnOnce(&mut Mapping) -> bool) -> bool {
        self.trail.clear();
        let fits = try_it(self);
        if !fits {
            while let Some((name, before)) = self.trail.pop() {
                match before {
                    Some(ty) => self.found.insert(name, ty),
                    None => self.found.remove(&name),
                };
            }
        }
        fits
    }

    fn fits(&mut self, one: &Type, two: &Type) -> bool {
        if let Type::Param(_) = two {
            let (valid, known) = self.substitutes(one, two);
            if valid {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Param(_) = one {
            return self.substitutes(two, one).0;
        }
        match (one, two) {
            _ if is_dyn_or_error(one) || is_dyn_or_error(two) => true,
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (Type::List(one), Type::List(two)) => self.fits(one, two),
            (Type::Map(key, value), Type::Map(other_key, other_value)) => self.fits(key, other_key) && self.fits(value, other_value),
            (Type::Opaque(name, params), Type::Opaque(other, other_params)) => {
                name == other && params.len() == other_params.len() && params.iter().zip(&**other_params).all(|(one, two)| self.fits(one, two))
            }
            (Type::Type(_), Type::Type(_)) => true,
            (Type::Nullable(one), two) => self.fits(one, two),
            (one, Type::Nullable(two)) => self.fits(one, two),
            _ => one == two,
        }
    }

    /// Whether a type may stand for a parameter, and whether the parameter already stood for something.
    fn substitutes(&mut self, ty: &Type, param: &Type) -> (bool, bool) {
        if exact(ty, param) {
            return (true, true);
        }
        let Some(known) = self.find(param).cloned() else {
            let free = self.not_within(param, ty);
            if free {
                self.add(param, ty.clone());
            }
            return (free, false);
        };
        if exact(ty, &known) {
            return (true, true);
        }
        if !self.fits(ty, &known) {
            return (false, true);
        }
        let general = most_general(ty, &known).clone();
        if self.not_within(param, &general) {
            self.add(param, general);
        }
        (true, true)
    }

    /// Whether a parameter does not occur in a type.
    fn not_within(&self, param: &Type, ty: &Type) -> bool {
        if exact(param, ty) {
            return false;
        }
        match ty {
            Type::Param(_) => self.find(ty).is_none_or(|known| self.not_within(param, known)),
            _ => ty.parameters().into_iter().all(|inner| self.not_within(param, inner)),
        }
    }

    /// The type with its parameters replaced by what they stand for; those that stand for nothing stay, or become `dyn`.
    pub(super) fn substitute(&self, ty: &Type, to_dyn: bool) -> Type {
        if let Some(known) = self.find(ty) {
            return self.substitute(known, to_dyn);
        }
        match ty {
            Type::Param(_) if to_dyn => Type::Dyn,
            Type::Opaque(name, params) => Type::Opaque(name.clone(), params.iter().map(|param| self.substitute(param, to_dyn)).collect()),
            Type::List(element) => Type::list(self.substitute(element, to_dyn)),
            Type::Map(key, value) => Type::map(self.substitute(key, to_dyn), self.substitute(value, to_dyn)),
            Type::Type(Some(of)) => Type::type_of(self.substitute(of, to_dyn)),
            _ => ty.clone(),
        }
    }
}

/// A declared type with its parameters replaced by free ones.
pub(super) fn instantiate(ty: &Type, free: &[(Str, Type)]) -> Type {
    match ty {
        Type::Param(name) => free.iter().find(|(known, _)| known == name).map_or_else(|| ty.clone(), |(_, free)| free.clone()),
        Type::Opaque(name, params) if !params.is_empty() => Type::Opaque(name.clone(), params.iter().map(|param| instantiate(param, free)).collect()),
        Type::List(element) => Type::list(instantiate(element, free)),
        Type::Map(key, value) => Type::map(instantiate(key, free), instantiate(value, free)),
        Type::Type(Some(of)) => Type::type_of(instantiate(of, free)),
        _ => ty.clone(),
    }
}

/// The names of the parameters of a type.
pub(super) fn params_of(ty: &Type, into: &mut Vec<Str>) {
    if let Type::Param(name) = ty
        && !into.contains(name)
    {
        into.push(name.clone());
    }
    for inner in ty.parameters() {
        params_of(inner, into);
    }
}

pub(super) fn is_dyn(ty: &Type) -> bool {
    matches!(ty, Type::Dyn | Type::Any)
}

pub(super) fn is_dyn_or_error(ty: &Type) -> bool {
    is_dyn(ty) || *ty == Type::Error
}

/// Types whose values may be null.
fn nullable(ty: &Type) -> bool {
    matches!(ty, Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Duration | Type::Timestamp | Type::Nullable(_))
}

/// The same type; that one of them may also be null does not count.
pub(super) fn exact(one: &Type, two: &Type) -> bool {
    same(one, two, true)
}

/// The same type, whatever its parameters are called.
pub(crate) fn equivalent(one: &Type, two: &Type) -> bool {
    same(one, two, false)
}

fn same(one: &Type, two: &Type, names: bool) -> bool {
    match (one, two) {
        (Type::Nullable(one), two) => same(one, two, names),
        (one, Type::Nullable(two)) => same(one, two, names),
        (Type::Param(one), Type::Param(two)) => !names || one == two,
        (Type::List(one), Type::List(two)) => same(one, two, names),
        (Type::Map(key, value), Type::Map(other_key, other_value)) => same(key, other_key, names) && same(value, other_value, names),
        (Type::Opaque(name, params), Type::Opaque(other, others)) => {
            name == other && params.len() == others.len() && params.iter().zip(&**others).all(|(one, two)| same(one, two, names))
        }
        (Type::Type(Some(one)), Type::Type(Some(two))) => same(one, two, names),
        _ => one == two,
    }
}

/// The one of two types that says less.
pub(super) fn most_general<'a>(one: &'a Type, two: &'a Type) -> &'a Type {
    if no_more_specific(one, two) { one } else { two }
}

fn no_more_specific(one: &Type, two: &Type) -> bool {
    match (one, two) {
        (Type::Dyn | Type::Any | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Any | Type::Param(_)) => false,
        (Type::Opaque(name, params), Type::Opaque(other, others)) => {
            name == other && params.len() == others.len() && params.iter().zip(&**others).all(|(one, two)| no_more_specific(one, two))
        }
        (Type::List(one), Type::List(two)) => no_more_specific(one, two),
        (Type::Map(key, value), Type::Map(other_key, other_value)) => no_more_specific(key, other_key) && no_more_specific(value, other_value),
        (Type::Type(_), Type::Type(_)) => true,
        _ => exact(one, two),
    }
}
