//! The expressions of admission: what policies and match conditions may use, and what is wrong with them (upstream's
//! `admission/plugin/cel`).
//!
//! Whoever stores a policy and whoever evaluates it compile by this one function, so that what was taken can be run. What is new
//! may use what every server of a cluster in upgrade knows; what is stored may use everything ([`Version`]).

/// Which variables there are beside `object`, `oldObject`, `request` and `namespaceObject`.
pub use kubecel::declared::admission::Optional as Declared;

/// A type that a schema declares.
pub use kubecel::declared::Declared as Typed;

use kubecel::{Env, Program, Type, Version, decl::ObjectType};
use machinery::Value;
use serde_json::json;
use std::sync::{Arc, OnceLock};

/// The name of the type of `variables`.
const VARIABLES: &str = "kubernetes.variables";
/// Of how many types that of a variable is made at most, and how many of them one within the other.
const PARTS_MAX: usize = 10_000;
const PARTS_DEPTH: usize = 64;

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
            [one] => Err(format!("must evaluate to {} but got {}", shown(one), shown(output))),
            more => {
                let names: Vec<String> = more.iter().map(shown).collect();
                Err(format!("must evaluate to one of [{}] but got {}", names.join(" "), shown(output)))
            }
        }
    }
}

/// The compiler of one policy's expressions: it knows the variables that were compiled before.
#[derive(Clone, Default)]
pub struct Compiler {
    /// The environment of all its expressions; none: that of their declarations.
    env: Option<Env>,
    /// None: the policy has no `variables`.
    variables: Option<Arc<ObjectType>>,
}

impl Compiler {
    /// Of a policy with variables, or of conditions.
    pub fn new(composed: bool) -> Compiler {
        Compiler { env: None, variables: composed.then(Arc::default) }
    }

    /// Of a policy about objects and parameters of these types: what it says of expressions is no more than advice.
    fn typed(declared: Declared, object: &Typed, params: Option<&Typed>) -> Compiler {
        let mut env = environment(declared, true).with_declared(&[object]);
        env = env.with_variable("object", object.cel_type()).with_variable("oldObject", object.cel_type());
        if let Some(params) = params {
            env = env.with_declared(&[params]).with_variable("params", params.cel_type());
        }
        Compiler { env: Some(env), variables: Some(Arc::default()) }
    }

    /// A program, or what is wrong with the text. `stored`: it was taken before.
    ///
    /// # Errors
    /// In the original's words.
    pub fn compile(&self, text: &str, declared: Declared, gives: Gives, stored: bool) -> Result<Program, String> {
        let mut env = self.env.clone().unwrap_or_else(|| environment(declared, stored));
        if let Some(variables) = &self.variables {
            env = env.with_variable("variables", Type::object(VARIABLES)).with_object(VARIABLES, Arc::clone(variables));
        }
        let program = env.compile(text).map_err(|issues| format!("compilation failed: {issues}"))?;
        gives.check(&program.output)?;
        program.instantiate().map_err(|error| format!("program instantiation failed: {error}"))?;
        Ok(program)
    }

    /// Compiles a variable, which those after it may use, and gives it to `take`.
    ///
    /// The program must not be kept: it has the variables before it, and as long as it is there, one more is a copy of them all.
    /// What does not compile is known all the same, as what may be anything.
    pub fn define<T>(&mut self, name: &str, text: &str, declared: Declared, stored: bool, take: impl FnOnce(Result<Program, String>) -> T) -> T {
        let compiled = self.compile(text, declared, Gives::Anything, stored);
        let ty = compiled.as_ref().map_or(Type::Dyn, |program| plain(&program.output));
        let taken = take(compiled);
        Arc::make_mut(self.variables.get_or_insert_default()).fields.insert(name.into(), ty);
        taken
    }
}

/// What the types of what a policy is about say of its validations: `ExpressionWarning`s (upstream's `TypeChecker`). Each of the
/// kinds is given with what it is called in warnings.
pub fn check_types(spec: &Value, kinds: &[(String, Typed)], params: Option<&Typed>) -> Vec<Value> {
    let declared = Declared { params: !spec["paramKind"].is_null(), authorizer: true, patches: false };
    let compilers: Vec<(&String, Compiler)> = kinds
        .iter()
        .map(|(name, object)| {
            let mut compiler = Compiler::typed(declared, object, params);
            for variable in spec["variables"].as_array().into_iter().flatten() {
                let text = |field: &str| variable[field].as_str().unwrap_or_default();
                // What is wrong with a variable is told where it is used.
                compiler.define(text("name"), text("expression"), declared, true, drop);
            }
            (name, compiler)
        })
        .collect();
    let mut warnings = Vec::new();
    for (at, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(expression) = validation[field].as_str().filter(|expression| !expression.is_empty()) else { continue };
            let wrong = compilers.iter().filter_map(|(name, compiler)| {
                let why = compiler.compile(expression, declared, Gives::Anything, true).err()?;
                Some(format!("{name}: {}\n", why.strip_prefix("compilation failed: ").unwrap_or(&why)))
            });
            let wrong: Vec<String> = wrong.collect();
            if !wrong.is_empty() {
                warnings.push(json!({"fieldRef": format!("spec.validations[{at}].{field}"), "warning": wrong.join("\n")}));
            }
        }
    }
    warnings
}

/// A type by the name that values give to it.
fn shown(ty: &Type) -> String {
    ty.described()
}

/// A type as a field can have it: what is no simple value is anything, and so are the innermost parts of one that is made of too many.
/// (The original shares the parts; each variable that is made of the one before could have a larger type.)
fn plain(ty: &Type) -> Type {
    bounded(ty, PARTS_DEPTH, &mut { PARTS_MAX })
}

fn bounded(ty: &Type, depth: usize, left: &mut usize) -> Type {
    let Some(rest) = left.checked_sub(1).filter(|_| depth > 0) else { return Type::Dyn };
    *left = rest;
    match ty {
        Type::Bool | Type::Bytes | Type::Double | Type::Duration | Type::Int | Type::Null | Type::String | Type::Timestamp | Type::Uint | Type::Any => {
            ty.clone()
        }
        Type::List(element) => Type::list(bounded(element, depth - 1, left)),
        Type::Map(key, value) => Type::map(bounded(key, depth - 1, left), bounded(value, depth - 1, left)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_advice() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}});
        let kinds = [("apps/v1, Kind=Deployment".to_owned(), Typed::of_schema(&schema, true).unwrap().named("Deployment"))];
        let spec = json!({
            "variables": [{"name": "wanted", "expression": "object.spec.replicas"}],
            "validations": [
                {"expression": "object.spec.replicas > 1 && variables.wanted > 1"},
                {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + variables.wanted"},
                {"expression": "object.spec.other == 1"},
            ],
        });
        let warnings = check_types(&spec, &kinds, None);
        let told: Vec<(&str, &str)> = warnings.iter().map(|w| (w["fieldRef"].as_str().unwrap(), w["warning"].as_str().unwrap())).collect();
        let expected = [
            (
                "spec.validations[1].expression",
                "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n",
            ),
            (
                "spec.validations[1].messageExpression",
                "apps/v1, Kind=Deployment: ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(string, int)'\n | 'got ' + variables.wanted\n | .......^\n",
            ),
            (
                "spec.validations[2].expression",
                "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'other'\n | object.spec.other == 1\n | ...........^\n",
            ),
        ];
        assert_eq!(told, expected);
    }

    /// Twenty thousand variables, each made of the one before: nothing is copied for each of them, and no type grows with them.
    #[test]
    fn variables_that_are_made_of_others_are_compiled_one_by_one() {
        let began = std::time::Instant::now();
        let mut compiler = Compiler::new(true);
        for at in 0..20_000 {
            let text = if at == 0 { "[1]".to_owned() } else { format!("[variables.a{}]", at - 1) };
            compiler.define(&format!("a{at}"), &text, Declared::default(), true, |program| program.map(drop)).expect("a program");
        }
        for at in 0..100 {
            let one = if at == 0 { "'a'".to_owned() } else { format!("variables.m{}", at - 1) };
            let text = format!("{{{one}: {one}}}");
            compiler.define(&format!("m{at}"), &text, Declared::default(), true, |_| ());
        }
        let program = compiler.compile("variables.a3[0][0][0][0] == 1 && variables.a19999.size() == 1", Declared::default(), Gives::Bool, true);
        assert_eq!(program.map(drop), Ok(()));
        let refused = compiler.compile("variables.a3[0][0][0][0] == 'a'", Declared::default(), Gives::Bool, true);
        assert!(refused.is_err_and(|why| why.contains("no matching overload")), "types are known as far as they are usual");
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }
}
