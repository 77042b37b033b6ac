//! The expressions of admission: what policies and match conditions may use, and what is wrong with them (upstream's
//! `admission/plugin/cel`).
//!
//! Whoever stores a policy and whoever evaluates it compile by this one function, so that what was taken can be run. What is new
//! may use what every server of a cluster in upgrade knows; what is stored may use everything ([`Version`]).

/// Which variables there are beside `object`, `oldObject`, `request` and `namespaceObject`.
pub use kubecel::declared::admission::Optional as Declared;

use kubecel::{Env, Program, Type, Version};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// The name of the type of `variables`.
const VARIABLES: &str = "kubernetes.variables";

/// What an expression must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// A condition or a validation.
    Bool,
    /// A message.
    Text,
    /// The value of an audit annotation.
    TextOrNull,
    /// A list of `JSONPatch`.
    Patch,
    /// An `Object`.
    Configuration,
    /// A variable.
    Anything,
}

impl Gives {
    fn types(self) -> Vec<Type> {
        match self {
            Gives::Bool => vec![Type::Bool],
            Gives::Text => vec![Type::String],
            Gives::TextOrNull => vec![Type::String, Type::Null],
            Gives::Patch => vec![Type::list(Type::object("JSONPatch"))],
            Gives::Configuration => vec![Type::object("Object")],
            Gives::Anything => Vec::new(),
        }
    }

    fn check(self, output: &Type) -> Result<(), String> {
        let types = self.types();
        match types.as_slice() {
            [] => Ok(()),
            types if types.contains(output) => Ok(()),
            [one] => Err(format!("must evaluate to {one} but got {output}")),
            more => {
                let names: Vec<String> = more.iter().map(ToString::to_string).collect();
                Err(format!("must evaluate to one of [{}] but got {output}", names.join(" ")))
            }
        }
    }
}

/// The compiler of one policy's expressions: it knows the variables that were compiled before.
#[derive(Debug, Clone, Default)]
pub struct Compiler {
    /// None: the policy has no `variables`.
    variables: Option<BTreeMap<Arc<str>, Type>>,
}

impl Compiler {
    /// Of a policy with variables, or of conditions.
    pub fn new(composed: bool) -> Compiler {
        Compiler { variables: composed.then(BTreeMap::new) }
    }

    /// A program, or what is wrong with the text. `stored`: it was taken before.
    ///
    /// # Errors
    /// In the original's words.
    pub fn compile(&self, text: &str, declared: Declared, gives: Gives, stored: bool) -> Result<Program, String> {
        let mut env = environment(declared, stored);
        if let Some(variables) = &self.variables {
            env = env.with_variable("variables", Type::object(VARIABLES)).with_object(VARIABLES, variables.clone());
        }
        let program = env.compile(text).map_err(|issues| format!("compilation failed: {issues}"))?;
        gives.check(&program.output)?;
        Ok(program)
    }

    /// Compiles a variable, which those after it may use.
    ///
    /// # Errors
    /// As [`Self::compile`]; it is known all the same, as what may be anything.
    pub fn define(&mut self, name: &str, text: &str, declared: Declared, stored: bool) -> Result<Program, String> {
        let compiled = self.compile(text, declared, Gives::Anything, stored);
        let ty = compiled.as_ref().map_or(Type::Dyn, |program| plain(&program.output));
        self.variables.get_or_insert_default().insert(name.into(), ty);
        compiled
    }
}

/// A type as a field can have it: what is no simple value is anything.
fn plain(ty: &Type) -> Type {
    match ty {
        Type::Bool | Type::Bytes | Type::Double | Type::Duration | Type::Int | Type::Null | Type::String | Type::Timestamp | Type::Uint | Type::Any => {
            ty.clone()
        }
        Type::List(element) => Type::list(plain(element)),
        Type::Map(key, value) => Type::map(plain(key), plain(value)),
        _ => Type::Dyn,
    }
}

/// The environment of such expressions, made once.
fn environment(declared: Declared, stored: bool) -> Env {
    static MADE: [OnceLock<Env>; 16] = [const { OnceLock::new() }; 16];
    let make = || Env::admission(if stored { Version::STORED } else { Version::NEW }, declared);
    let at = usize::from(declared.params) | usize::from(declared.authorizer) << 1 | usize::from(declared.patches) << 2 | usize::from(stored) << 3;
    MADE.get(at).map_or_else(make, |place| place.get_or_init(make).clone())
}
