//! Macros: calls that the parser replaces.

use crate::ast::Expr;
use crate::parser::Expander;

/// A macro by name, number of arguments and whether it has a target.
#[derive(Debug, Clone, Copy)]
pub struct Macro {
    pub name: &'static str,
    pub args: usize,
    pub receiver: bool,
    pub expand: Expand,
}

/// Replaces a call: `None` leaves the call as it is.
pub type Expand = fn(&mut Expander, target: Option<Expr>, args: Vec<Expr>) -> Result<Option<Expr>, MacroError>;

/// Why a macro cannot be expanded, at the node with the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacroError {
    pub id: crate::ast::Id,
    pub message: String,
}

/// The macros of the language itself.
pub fn standard() -> Vec<Macro> {
    Vec::new()
}
