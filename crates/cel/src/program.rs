//! From a text to a program: parsed, checked and validated in an environment.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ast::{Checked, Expr, Kind, Reference};
use crate::checker;
use crate::cost::{self, Cost, Sizes};
use crate::env::Env;
use crate::issues::Issues;
use crate::parser;
use crate::types::{Str, Type};
use crate::validate;

impl Env {
    /// A program, or what is wrong with the text.
    pub fn compile(&self, text: &str) -> Result<Program, Issues> {
        let issues = |errors| Issues::new(errors, text.into());
        let (expr, source) = parser::parse(text, &self.base.macros).map_err(issues)?;
        let checked = checker::check(self, expr, source).map_err(issues)?;
        let errors = validate::validate(&checked);
        if !errors.is_empty() {
            return Err(issues(errors));
        }
        let output = checked.type_of(checked.expr.id).clone();
        Ok(Program { output, checked: Arc::new(checked), env: self.clone() })
    }
}

/// An expression that was checked.
#[derive(Clone)]
pub struct Program {
    pub output: Type,
    pub checked: Arc<Checked>,
    /// The environment that it was checked in.
    pub env: Env,
}

impl Program {
    /// Whether it can be evaluated: types that are only declared have no value that a name could mean.
    pub fn instantiate(&self) -> Result<(), String> {
        match self.undefined_type(&self.checked.expr) {
            Some(name) => Err(format!("reference to undefined type: {name}")),
            // What is constant in it is computed now, or there is no program. Patterns are read for it, and compiled by who evaluates.
            None => crate::eval::Plan::sharing(self, &crate::regex::Patterns::none()).map(drop).map_err(|error| error.to_string()),
        }
    }

    fn undefined_type<'a>(&'a self, expr: &'a Expr) -> Option<&'a Str> {
        if let Some(name) = expr.ident()
            && matches!(self.checked.type_of(expr.id), Type::Type(_))
            && !self.env.variables.contains_key(name)
            && !self.env.provider.names.contains_key(name)
        {
            return Some(name);
        }
        let mut found = None;
        expr.each_child(&mut |child| found = found.or_else(|| self.undefined_type(child)));
        found
    }

    /// Whether it reads the variable of this name.
    pub fn uses(&self, variable: &str) -> bool {
        self.checked.references.values().any(|reference| matches!(reference, Reference::Ident { name, .. } if &**name == variable))
    }

    /// The fields of the variable of this name that it reads.
    pub fn fields_of(&self, variable: &str) -> BTreeSet<Str> {
        let mut found = BTreeSet::new();
        self.collect_fields(&self.checked.expr, variable, &mut found);
        found
    }

    fn collect_fields(&self, expr: &Expr, variable: &str, found: &mut BTreeSet<Str>) {
        if let Kind::Select(select) = &expr.kind
            && select.operand.ident().is_some_and(|name| &**name == variable)
        {
            found.insert(select.field.clone());
        }
        expr.each_child(&mut |child| self.collect_fields(child, variable, found));
    }

    /// How many nodes of it are above one another at most: about how deep evaluating it goes on the stack.
    pub fn height(&self) -> u32 {
        fn of(expr: &Expr) -> u32 {
            let mut below = 0;
            expr.each_child(&mut |child| below = below.max(of(child)));
            1 + below
        }
        of(&self.checked.expr)
    }

    /// What evaluating it may cost.
    pub fn estimate(&self, sizes: &dyn Sizes) -> Cost {
        cost::estimate(&self.env, &self.checked, sizes)
    }
}
