//! Authorization checks (`kubernetes.authz`): whoever evaluates gives the variable `authorizer` as [`authorizer`] and answers the
//! checks; the one of a request's resource is [`request_resource`].

use std::sync::Arc;

use super::{costs, member};
use crate::cost::{CallEstimate, Cost, LIST_CREATE, Range, STRING_TRAVERSAL, STRUCT_CREATE, Size};
use crate::decl::Run;
use crate::decl::{Function, Library};
use crate::error::EvalError;
use crate::eval::standard::counted_plain;
use crate::types::Type;
use crate::value::{Opaque, Value};
use crate::version::Version;
use machinery::names;

/// The names of the types.
const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
const DECISION: &str = "kubernetes.authorization.Decision";

/// What a check costs: two of them and an expression has spent the most of its budget.
const CHECK_COST: u64 = 350_000;
/// The fewest characters of a requirement of a selector are two.
const REQUIREMENTS_PER_CHARACTER: f64 = 0.5;

/// Who answers checks.
pub trait Authorizer: Send + Sync {
    /// Whether it is allowed.
    fn authorize(&self, check: &Check) -> Verdict;
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Who would do it: the namespace and name of a service account; none is whoever sent the request.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    pub on: Target,
}

/// What it would be done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Path(String),
    Resource(Resource),
}

/// A resource; selectors are the texts that the expression gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// Who asks whom.
#[derive(Clone)]
struct Asker {
    authorizer: Arc<dyn Authorizer>,
    service_account: Option<(String, String)>,
}

/// The stages of a check, and its answer.
#[derive(Clone)]
enum Stage {
    Authorizer(Asker),
    Path(Asker, String),
    Group(Asker, String),
    Resource(Asker, Resource),
    Decision(Verdict),
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.type_name())
    }
}

impl Opaque for Stage {
    fn type_name(&self) -> &'static str {
        match self {
            Stage::Authorizer(_) => AUTHORIZER,
            Stage::Path(..) => PATH_CHECK,
            Stage::Group(..) => GROUP_CHECK,
            Stage::Resource(..) => RESOURCE_CHECK,
            Stage::Decision(_) => DECISION,
        }
    }

    /// The original compares none of them with anything.
    fn equals(&self, _other: &Value<'_>) -> Result<bool, EvalError> {
        Err(EvalError::no_such_overload())
    }
}

/// The value of the variable `authorizer`.
pub fn authorizer<'v>(authorizer: Arc<dyn Authorizer>) -> Value<'v> {
    Value::opaque(Stage::Authorizer(Asker { authorizer, service_account: None }))
}

/// The value of the variable `authorizer.requestResource`.
pub fn request_resource<'v>(authorizer: Arc<dyn Authorizer>, resource: Resource) -> Value<'v> {
    Value::opaque(Stage::Resource(Asker { authorizer, service_account: None }, resource))
}

/// The types of those variables.
pub fn types() -> (Type, Type) {
    (Type::object(AUTHORIZER), Type::object(RESOURCE_CHECK))
}

pub fn library() -> Library {
    let of = |name, row: &'static str, run: Run| Function { name, overloads: vec![member(row, run).costs(costs::nominal, costs::nominal_estimate)] };
    let check = |row: &'static str| member(row, check).costs(|_, _| CHECK_COST, |_| Some(CallEstimate::cost(Cost::fixed(CHECK_COST))));
    let mut library = Library::new("kubernetes.authz", Version(27));
    library.functions = vec![
        of("path", "authorizer_path kubernetes.authorization.Authorizer string -> kubernetes.authorization.PathCheck", |args| match stage(args)? {
            Stage::Authorizer(_) if text(args, 1)?.trim().is_empty() => Err(EvalError::of("path must not be empty")),
            Stage::Authorizer(asker) => Ok(Value::opaque(Stage::Path(asker.clone(), text(args, 1)?))),
            _ => Err(EvalError::no_such_overload()),
        }),
        of("group", "authorizer_group kubernetes.authorization.Authorizer string -> kubernetes.authorization.GroupCheck", |args| match stage(args)? {
            Stage::Authorizer(asker) => Ok(Value::opaque(Stage::Group(asker.clone(), text(args, 1)?))),
            _ => Err(EvalError::no_such_overload()),
        }),
        of(
            "serviceAccount",
            "authorizer_serviceaccount kubernetes.authorization.Authorizer string string -> kubernetes.authorization.Authorizer",
            service_account,
        ),
        of("resource", "groupcheck_resource kubernetes.authorization.GroupCheck string -> kubernetes.authorization.ResourceCheck", |args| match stage(args)? {
            Stage::Group(..) if text(args, 1)?.trim().is_empty() => Err(EvalError::of("resource must not be empty")),
            Stage::Group(asker, group) => {
                let resource = Resource { group: group.clone(), resource: text(args, 1)?, ..Resource::default() };
                Ok(Value::opaque(Stage::Resource(asker.clone(), resource)))
            }
            _ => Err(EvalError::no_such_overload()),
        }),
        of("subresource", "resourcecheck_subresource kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck", |args| {
            with(args, |resource, text| resource.subresource = text)
        }),
        of("namespace", "resourcecheck_namespace kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck", |args| {
            with(args, |resource, text| resource.namespace = text)
        }),
        of("name", "resourcecheck_name kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck", |args| {
            with(args, |resource, text| resource.name = text)
        }),
        Function {
            name: "check",
            overloads: vec![
                check("pathcheck_check kubernetes.authorization.PathCheck string -> kubernetes.authorization.Decision"),
                check("resourcecheck_check kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.Decision"),
            ],
        },
        of("errored", "decision_errored kubernetes.authorization.Decision -> bool", |args| Ok(Value::Bool(verdict(args)?.error.is_some()))),
        of("error", "decision_error kubernetes.authorization.Decision -> string", |args| Ok(Value::text(verdict(args)?.error.as_deref().unwrap_or_default()))),
        of("allowed", "decision_allowed kubernetes.authorization.Decision -> bool", |args| Ok(Value::Bool(verdict(args)?.allowed))),
        of("reason", "decision_reason kubernetes.authorization.Decision -> string", |args| Ok(Value::text(&*verdict(args)?.reason))),
    ];
    library
}

/// What came with selectors.
pub fn selectors() -> Library {
    let of = |name, row: &'static str, run: Run| Function {
        name,
        overloads: vec![member(row, run).costs(
            |args, _| selector_cost(Range::fixed(args.get(1).map_or(1, counted_plain))).max,
            |call| match call.args {
                [selector] => Some(CallEstimate::cost(selector_cost(call.size(selector)))),
                _ => None,
            },
        )],
    };
    let mut library = Library::new("kubernetes.authzSelectors", Version(31));
    library.functions = vec![
        of("fieldSelector", "authorizer_fieldselector kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck", |args| {
            with(args, |resource, text| resource.field_selector = text)
        }),
        of("labelSelector", "authorizer_labelselector kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck", |args| {
            with(args, |resource, text| resource.label_selector = text)
        }),
    ];
    library
}

/// Reading a selector, and making its requirements.
fn selector_cost(length: Size) -> Cost {
    let requirements = length.by_factor(REQUIREMENTS_PER_CHARACTER).by_factor((LIST_CREATE + STRUCT_CREATE) as f64);
    Cost::fixed(LIST_CREATE).plus(length.by_factor(STRING_TRAVERSAL)).plus(requirements)
}

fn stage<'a>(args: &'a [Value<'_>]) -> Result<&'a Stage, EvalError> {
    args.first().and_then(|arg| arg.as_opaque()).ok_or_else(EvalError::no_such_overload)
}

fn text(args: &[Value<'_>], at: usize) -> Result<String, EvalError> {
    args.get(at).and_then(Value::as_str).map(str::to_owned).ok_or_else(EvalError::no_such_overload)
}

fn verdict<'a>(args: &'a [Value<'_>]) -> Result<&'a Verdict, EvalError> {
    match stage(args)? {
        Stage::Decision(verdict) => Ok(verdict),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A check with one more thing said about its resource.
fn with<'v>(args: &[Value<'v>], set: fn(&mut Resource, String)) -> Result<Value<'v>, EvalError> {
    let Stage::Resource(asker, resource) = stage(args)? else { return Err(EvalError::no_such_overload()) };
    let mut resource = resource.clone();
    set(&mut resource, text(args, 1)?);
    Ok(Value::opaque(Stage::Resource(asker.clone(), resource)))
}

fn service_account<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let Stage::Authorizer(asker) = stage(args)? else { return Err(EvalError::no_such_overload()) };
    let (namespace, name) = (text(args, 1)?, text(args, 2)?);
    if !names::dns1123_subdomain(&name).is_empty() {
        return Err(EvalError::of("Invalid service account name"));
    }
    if !names::dns1123_label(&namespace).is_empty() {
        return Err(EvalError::of("Invalid service account namespace"));
    }
    Ok(Value::opaque(Stage::Authorizer(Asker { authorizer: asker.authorizer.clone(), service_account: Some((namespace, name)) })))
}

fn check<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let (asker, on) = match stage(args)? {
        Stage::Path(asker, path) => (asker, Target::Path(path.clone())),
        Stage::Resource(asker, resource) => (asker, Target::Resource(resource.clone())),
        _ => return Err(EvalError::no_such_overload()),
    };
    let check = Check { service_account: asker.service_account.clone(), verb: text(args, 1)?, on };
    Ok(Value::opaque(Stage::Decision(asker.authorizer.authorize(&check))))
}
