//! An environment: what an expression may use.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use crate::ast::Literal;
use crate::decl::{Function, Library, ObjectType, Overload, Provider};
use crate::declared::{Declared, RESERVED, admission, devices};
use crate::library;
use crate::macros::{self, Macro};
use crate::messages;
use crate::types::{Str, Type};
use crate::version::Version;

/// What an expression may use. Cheap to clone and to extend.
#[derive(Clone, Default)]
pub struct Env {
    pub(crate) base: Arc<Base>,
    pub(crate) variables: BTreeMap<Str, Type>,
    pub(crate) provider: Arc<Provider>,
    /// What was declared beyond the libraries.
    pub(crate) declared: Arc<Provider>,
    /// Whether there are the types of patches.
    pub(crate) patches: bool,
}

/// What the libraries of a version declare.
#[derive(Default)]
pub struct Base {
    pub functions: HashMap<&'static str, Function>,
    /// Overloads by their ids, as the checker's references name them.
    pub overloads: HashMap<&'static str, Overload>,
    pub macros: Vec<Macro>,
    pub constants: HashMap<&'static str, (Type, Literal)>,
}

impl Env {
    /// The environment of these libraries.
    pub fn of(libraries: &[Library]) -> Env {
        let mut base = Base::default();
        let mut provider = Provider::default();
        for library in libraries {
            for function in &library.functions {
                let known = base.functions.entry(function.name).or_insert_with(|| Function { name: function.name, overloads: Vec::new() });
                known.overloads.extend(function.overloads.iter().cloned());
                base.overloads.extend(function.overloads.iter().map(|overload| (overload.id, overload.clone())));
            }
            base.macros.extend(&library.macros);
            provider.names.extend(library.types.iter().map(|(name, ty)| (Str::from(*name), ty.clone())));
            base.constants.extend(library.constants.iter().map(|(name, ty, value)| (*name, (ty.clone(), value.clone()))));
        }
        Env { base: Arc::new(base), variables: BTreeMap::new(), provider: Arc::new(provider), declared: Arc::default(), patches: false }
    }

    /// What expressions may use that are new in this version (or stored: [`Version::STORED`]).
    pub fn new(version: Version) -> Env {
        static NEW: OnceLock<Env> = OnceLock::new();
        static STORED: OnceLock<Env> = OnceLock::new();
        match version {
            Version::NEW => NEW.get_or_init(|| Env::made(version, Vec::new())).clone(),
            Version::STORED => STORED.get_or_init(|| Env::made(version, Vec::new())).clone(),
            _ => Env::made(version, Vec::new()),
        }
    }

    /// The libraries of a version, and more.
    fn made(version: Version, more: Vec<Library>) -> Env {
        let mut libraries = library::all();
        libraries.retain(|library| library.since <= version && library.until.is_none_or(|until| version < until));
        libraries.extend(more);
        Env::of(&libraries)
    }

    /// The same with a variable.
    pub fn with_variable(mut self, name: &str, ty: Type) -> Env {
        self.variables.insert(name.into(), ty);
        self
    }

    /// What policies, match conditions and webhooks may use. (The authorizer's variables need its library.)
    pub fn admission(version: Version, optional: admission::Optional) -> Env {
        let (request, namespace) = (admission::request(), admission::namespace());
        let base = if optional.patches { Env::made(version, vec![library::jsonpatch::library()]) } else { Env::new(version) };
        let mut env = base.with_declared(&[&request, &namespace]);
        env = env.with_variable("request", request.cel_type()).with_variable("namespaceObject", namespace.cel_type());
        env = env.with_variable("object", Type::Dyn).with_variable("oldObject", Type::Dyn);
        if optional.params {
            env = env.with_variable("params", Type::Dyn);
        }
        if optional.authorizer {
            env = env.with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"));
            env = env.with_variable("authorizer.requestResource", Type::object("kubernetes.authorization.ResourceCheck"));
        }
        env.patches = optional.patches;
        env
    }

    /// What selectors of devices may use: `device`, and `cel.bind`.
    pub fn devices(version: Version) -> Env {
        let bindings = Library { macros: macros::bindings(), ..Library::new("cel.lib.ext.cel.bindings", version) };
        let device = devices::device();
        Env::made(version, vec![bindings]).with_declared(&[&device]).with_variable("device", device.cel_type())
    }

    /// The same with an object's type that is known by its fields alone (`variables` of a policy).
    pub fn with_object(mut self, name: &str, object: Arc<ObjectType>) -> Env {
        Arc::make_mut(&mut self.declared).objects.insert(name.into(), object);
        self
    }

    /// The same with the objects of these types, and with the names that schemas have for types.
    pub fn with_declared(mut self, types: &[&Declared]) -> Env {
        let declared = Arc::make_mut(&mut self.declared);
        declared.names.insert("duration".into(), Type::Duration);
        declared.names.insert("timestamp".into(), Type::Timestamp);
        types.iter().for_each(|ty| ty.register(declared));
        self
    }

    /// What is known of types.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// What a full name stands for: a variable, a constant or a type.
    pub(crate) fn find(&self, name: &str) -> Option<(Type, Option<Literal>)> {
        if let Some(ty) = self.variables.get(name) {
            return Some((ty.clone(), None));
        }
        if let Some((ty, value)) = self.base.constants.get(name) {
            return Some((ty.clone(), Some(value.clone())));
        }
        self.find_type(name).map(|ty| (Type::type_of(ty), None))
    }

    /// The type that a name means.
    pub(crate) fn find_type(&self, name: &str) -> Option<Type> {
        let patch = if self.patches { admission::patch_type(name) } else { None };
        patch.or_else(|| [&self.provider, &self.declared].into_iter().find_map(|provider| provider.find_type(name))).or_else(|| messages::type_of(name))
    }

    /// Whether there is an object of this name, or a message.
    pub(crate) fn has_object(&self, name: &str) -> bool {
        messages::type_of(name).is_some() || matches!(self.find_type(name), Some(Type::Object(_)))
    }

    /// The type of an object's field. Fields that are called as words of the language are known by both names.
    pub(crate) fn field(&self, object: &str, field: &str) -> Option<Type> {
        if self.patches
            && let Some(ty) = admission::patch_field(object, field)
        {
            return Some(ty);
        }
        let find = |field: &str| [&self.declared, &self.provider].into_iter().find_map(|provider| provider.field(object, field).cloned());
        let found = find(field).or_else(|| RESERVED.contains(&field).then(|| find(&format!("__{field}__")))?);
        found.or_else(|| messages::field(object, field))
    }

    /// Whether the original knows the field of an object and no type of it: a patch has any field.
    pub(crate) fn is_untyped(&self, object: &str, field: &str) -> bool {
        self.patches && object == "JSONPatch" && admission::patch_field(object, field).is_none()
    }

    /// A function by its name, which may begin with a dot.
    pub(crate) fn function(&self, name: &str) -> Option<&Function> {
        self.base.functions.get(name.strip_prefix('.').unwrap_or(name))
    }

    /// The overload of this id.
    pub fn overload(&self, id: &str) -> Option<&Overload> {
        self.base.overloads.get(id)
    }
}
