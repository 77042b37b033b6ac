//! What the nodes of a tree mean: the type of each, the variable, type or overloads that each name and call stands for.
//!
//! Errors come in the order in which the tree is walked, and checking goes on behind each as if the part had any type. Names are
//! replaced in the tree by what they were resolved to (`a.b` may be one variable's name).

mod literals;
mod unify;

use std::collections::HashMap;

use crate::ast::{Call, Checked, Comprehension, Expr, Id, Kind, Literal, Reference, Select};
use crate::decl::Function;
use crate::env::Env;
use crate::issues::Issue;
use crate::operators as op;
use crate::source::Source;
use crate::types::{Str, Type};
use unify::{Mapping, exact, instantiate, is_dyn, is_dyn_or_error, most_general, params_of};

pub(crate) use unify::equivalent;

/// Of how many types those of all nodes may be made: nothing is shared between them.
const PARTS_MAX: usize = 4_000_000;

/// The checked tree, or what is wrong with it.
pub(crate) fn check(env: &Env, mut expr: Expr, source: Source) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        env,
        source: &source,
        errors: Vec::new(),
        mapping: Mapping::default(),
        free: 0,
        types: HashMap::new(),
        references: HashMap::new(),
        scopes: Vec::new(),
    };
    checker.check(&mut expr);
    let Checker { errors, mapping, mut types, references, .. } = checker;
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut left = PARTS_MAX;
    for ty in types.values_mut() {
        *ty = mapping.substitute(ty, true);
        left = left.saturating_sub(ty.parts(left));
        if left == 0 {
            return Err(vec![Issue { id: expr.id, location: source.location(expr.id), message: "the types of the expression are too large".to_owned() }]);
        }
    }
    Ok(Checked { expr, types, references, source })
}

struct Checker<'a> {
    env: &'a Env,
    source: &'a Source,
    errors: Vec<Issue>,
    mapping: Mapping,
    /// How many free type variables there were.
    free: usize,
    types: HashMap<Id, Type>,
    references: HashMap<Id, Reference>,
    /// The variables of the loops around, innermost last.
    scopes: Vec<(Str, Type)>,
}

/// What a name was found to be.
struct Found {
    name: Str,
    ty: Type,
    value: Option<Literal>,
}

impl Checker<'_> {
    fn error(&mut self, id: Id, message: String) {
        self.errors.push(Issue { id, location: self.source.location(id), message });
    }

    fn mismatch(&mut self, id: Id, wanted: &Type, found: &Type) {
        self.error(id, format!("expected type '{wanted}' but found '{found}'"));
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.error(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn set(&mut self, id: Id, ty: Type) {
        self.types.insert(id, ty);
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types.get(&expr.id).cloned().unwrap_or(Type::Error)
    }

    fn new_variable(&mut self) -> Type {
        self.free += 1;
        Type::Param(format!("_var{}", self.free - 1).into())
    }

    fn assignable(&mut self, wanted: &Type, given: &Type) -> bool {
        self.mapping.assignable(wanted, given)
    }

    fn check(&mut self, expr: &mut Expr) {
        let id = expr.id;
        match &mut expr.kind {
            Kind::Unspecified => self.error(id, "unexpected unspecified type: unspecifiedExpr".to_string()),
            Kind::Literal(literal) => {
                let ty = literals::type_of(literal);
                self.set(id, ty);
            }
            Kind::Ident(_) => self.ident(expr),
            Kind::Select(_) => self.select(expr),
            Kind::Call(_) => self.call(expr),
            Kind::List(list) => self.list(id, list),
            Kind::Map(entries) => self.map(id, entries),
            Kind::Struct(object) => self.object(id, object),
            Kind::Comprehension(inner) => self.comprehension(id, inner),
        }
    }

    /// The type of the innermost loop variable of this name.
    fn local(&self, name: &str) -> Option<&Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        self.scopes.iter().rev().find(|(known, _)| &**known == name).map(|(_, ty)| ty)
    }

    /// What a single name stands for.
    fn simple(&self, name: &str) -> Option<Found> {
        let local = self.local(name);
        if let Some(ty) = local
            && !name.starts_with('.')
        {
            return Some(Found { name: name.into(), ty: ty.clone(), value: None });
        }
        self.global(name.strip_prefix('.').unwrap_or(name), local.is_some())
    }

    /// What the parts of a qualified name stand for together.
    fn qualified(&self, parts: &[Str]) -> Option<Found> {
        if let [name] = parts {
            return self.simple(name);
        }
        let local = self.local(&parts[0]).is_some();
        if local && !parts[0].starts_with('.') {
            return None;
        }
        let name = parts.join(".");
        self.global(name.strip_prefix('.').unwrap_or(&name), local)
    }

    /// A variable, a constant or a type of the environment. Where a loop's variable has its name, it is written with a dot.
    fn global(&self, name: &str, hidden: bool) -> Option<Found> {
        let written = if hidden { format!(".{name}").into() } else { name.into() };
        let (ty, value) = self.env.find(name)?;
        Some(Found { name: written, ty, value })
    }

    fn resolve(&mut self, expr: &mut Expr, found: Found) {
        self.set(expr.id, found.ty);
        self.references.insert(expr.id, Reference::Ident { name: found.name.clone(), value: found.value });
        expr.kind = Kind::Ident(found.name);
    }

    fn ident(&mut self, expr: &mut Expr) {
        let Kind::Ident(name) = &expr.kind else { return };
        let name = name.clone();
        match self.simple(&name) {
            Some(found) => self.resolve(expr, found),
            None => {
                self.set(expr.id, Type::Error);
                self.undeclared(expr.id, &name);
            }
        }
    }

    fn select(&mut self, expr: &mut Expr) {
        if let Some(parts) = qualifiers(expr)
            && let Some(found) = self.qualified(&parts)
        {
            return self.resolve(expr, found);
        }
        let id = expr.id;
        let Kind::Select(Select { operand, field, test_only }) = &mut expr.kind else { return };
        let (field, test_only) = (field.clone(), *test_only);
        let mut ty = self.selected(id, operand, &field, false);
        if test_only {
            ty = Type::Bool;
        }
        let ty = self.mapping.substitute(&ty, false);
        self.set(id, ty);
    }

    /// The type of a field of the operand.
    fn selected(&mut self, id: Id, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand_type = self.mapping.substitute(&self.get(operand), false);
        let target = operand_type.optional_of().unwrap_or(&operand_type);
        let result = match target {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(name) => self.field(id, name, field).unwrap_or(Type::Error),
            Type::Param(_) => {
                self.assignable(&Type::Dyn, target);
                Type::Dyn
            }
            _ => {
                if !is_dyn_or_error(target) {
                    self.error(id, format!("type '{target}' does not support field selection"));
                }
                Type::Dyn
            }
        };
        if optional || operand_type.optional_of().is_some() { Type::optional(result) } else { result }
    }

    /// The type of an object's field.
    fn field(&mut self, id: Id, object: &str, field: &str) -> Option<Type> {
        if !self.env.has_object(object) {
            self.error(id, format!("unexpected failed resolution of '{object}'"));
            return None;
        }
        let found = self.env.field(object, field);
        if found.is_none() {
            self.error(id, format!("undefined field '{field}'"));
        }
        found
    }

    fn call(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let Kind::Call(call) = &mut expr.kind else { return };
        if &*call.function == op::OPT_SELECT {
            return self.optional_select(id, call);
        }
        for arg in &mut call.args {
            self.check(arg);
        }
        let env = self.env;
        let Some(target) = &mut call.target else {
            return match env.function(&call.function) {
                Some(function) => {
                    call.function = function.name.into();
                    self.overload(id, function, call);
                }
                None => self.no_function(id, &call.function.clone()),
            };
        };
        // `a.b.c()` is the function `a.b.c`, if there is one.
        if let Some(prefix) = qualified_name(target)
            && let Some(function) = env.function(&format!("{prefix}.{}", call.function))
        {
            *call = Call { function: function.name.into(), target: None, args: std::mem::take(&mut call.args) };
            return self.overload(id, function, call);
        }
        self.check(target);
        match env.function(&call.function) {
            Some(function) => self.overload(id, function, call),
            None => self.no_function(id, &call.function.clone()),
        }
    }

    fn no_function(&mut self, id: Id, name: &str) {
        self.set(id, Type::Error);
        self.undeclared(id, name);
    }

    fn optional_select(&mut self, id: Id, call: &mut Call) {
        if call.args.len() != 2 || call.target.is_some() {
            let member = if call.target.is_some() { " member call with" } else { "" };
            return self.error(id, format!("unsupported optional field selection: incorrect signature.{member} argument count: {}", call.args.len()));
        }
        let (operand, field) = call.args.split_at_mut(1);
        let Some(Literal::String(name)) = field[0].literal().cloned() else {
            return self.error(field[0].id, "unsupported optional field selection".to_string());
        };
        let ty = self.selected(id, &mut operand[0], &name, true);
        let ty = self.mapping.substitute(&ty, false);
        self.set(id, ty);
        self.references.insert(id, Reference::Overloads(vec!["select_optional_field".into()]));
    }

    /// The overloads that take the arguments, and what they give together.
    fn overload(&mut self, id: Id, function: &Function, call: &Call) {
        let args: Vec<&Expr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let given: Vec<Type> = args.iter().map(|arg| self.get(arg)).collect();
        if [op::LOGICAL_AND, op::LOGICAL_OR].contains(&function.name) && call.target.is_none() {
            return self.logic(id, function, &args, &given);
        }
        let (mut result, mut ids) = (None, Vec::new());
        for overload in function.overloads.iter().filter(|overload| overload.member == call.target.is_some()) {
            let mut names = Vec::new();
            params_of(&overload.result, &mut names);
            overload.params.iter().for_each(|param| params_of(param, &mut names));
            let free: Vec<(Str, Type)> = names.into_iter().map(|name| (name, self.new_variable())).collect();
            let wanted: Vec<Type> = overload.params.iter().map(|param| instantiate(param, &free)).collect();
            if !self.mapping.all_assignable(&given, &wanted) {
                continue;
            }
            ids.push(Str::from(overload.id));
            let gives = self.mapping.substitute(&instantiate(&overload.result, &free), false);
            result = Some(match result {
                None => gives,
                Some(known) if !is_dyn(&known) && !exact(&gives, &known) => Type::Dyn,
                Some(known) => known,
            });
        }
        match result {
            Some(ty) => {
                self.set(id, ty);
                self.references.insert(id, Reference::Overloads(ids));
            }
            None => self.no_overload(id, function.name, &given, call.target.is_some()),
        }
    }

    /// `&&` and `||`: each argument is told by itself.
    fn logic(&mut self, id: Id, function: &Function, args: &[&Expr], given: &[Type]) {
        let mut all = true;
        for (arg, ty) in args.iter().zip(given) {
            if !self.assignable(ty, &Type::Bool) {
                self.mismatch(arg.id, &Type::Bool, ty);
                all = false;
            }
        }
        self.set(id, if all { Type::Bool } else { Type::Error });
        if all {
            self.references.insert(id, Reference::Overloads(function.overloads.iter().map(|overload| overload.id.into()).collect()));
        }
    }

    fn no_overload(&mut self, id: Id, name: &str, given: &[Type], member: bool) {
        self.set(id, Type::Error);
        let given: Vec<String> = given.iter().map(|ty| self.mapping.substitute(ty, true).to_string()).collect();
        let (target, args) = if member { (format!("{}.", given[0]), &given[1..]) } else { (String::new(), &given[..]) };
        self.error(id, format!("found no matching overload for '{name}' applied to '{target}({})'", args.join(", ")));
    }

    fn comprehension(&mut self, id: Id, inner: &mut Comprehension) {
        self.check(&mut inner.range);
        self.check(&mut inner.accu_init);
        let range = self.mapping.substitute(&self.get(&inner.range), false);
        let accu = self.get(&inner.accu_init);
        self.scopes.push((inner.accu_var.clone(), accu.clone()));
        let two = inner.iter_var2.is_some();
        let (first, second) = match &range {
            Type::List(element) if two => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            _ => {
                let message = format!("expression of type '{range}' cannot be range of a comprehension (must be list, map, or dynamic)");
                self.error(inner.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((inner.iter_var.clone(), first));
        if let Some(name) = &inner.iter_var2 {
            self.scopes.push((name.clone(), second));
        }
        self.check(&mut inner.condition);
        self.assert(&inner.condition, &Type::Bool);
        self.check(&mut inner.step);
        self.assert(&inner.step, &accu);
        self.scopes.truncate(self.scopes.len() - if two { 2 } else { 1 });
        self.check(&mut inner.result);
        self.scopes.pop();
        let result = self.mapping.substitute(&self.get(&inner.result), false);
        self.set(id, result);
    }

    fn assert(&mut self, expr: &Expr, wanted: &Type) {
        let given = self.get(expr);
        if !self.assignable(wanted, &given) {
            self.mismatch(expr.id, wanted, &given);
        }
    }

    /// The type of a list's or map's elements so far and one more. (That they are of different types is an error only when all else
    /// is right: [`crate::validate`].)
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        match self.assignable(&previous, &current) {
            true => most_general(&previous, &current).clone(),
            false => Type::Dyn,
        }
    }
}

/// The parts of `a.b.c`, if it is nothing but names.
fn qualifiers(mut expr: &Expr) -> Option<Vec<Str>> {
    let mut parts = Vec::new();
    loop {
        match &expr.kind {
            Kind::Select(select) if !select.test_only => {
                parts.push(select.field.clone());
                expr = &select.operand;
            }
            Kind::Ident(name) => {
                parts.push(name.clone());
                parts.reverse();
                return Some(parts);
            }
            _ => return None,
        }
    }
}

/// The same as one name.
fn qualified_name(expr: &Expr) -> Option<String> {
    qualifiers(expr).map(|parts| parts.join("."))
}
