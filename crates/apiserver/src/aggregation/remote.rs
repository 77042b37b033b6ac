//! One APIService that names a Service, compiled: what it serves, whether it is said to be there, and how its server is reached.
//!
//! A [`Backend`] holds what costs to make and what is worth keeping, TLS settings and idle connections, and stays the same for
//! as long as the object's specification does: a change of its status costs nothing. It is the same for no two objects, not
//! even for two that had the same name one after the other.

use super::connect::Backend;
use identity::pki::Credential;
use machinery::Value;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

/// The port of a Service that an APIService means if it names none.
const PORT: u16 = 443;
/// The one APIService of the group without a name; it stands for all of `/api`.
pub(crate) const LEGACY: &str = "v1.";

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    /// What its condition says.
    pub(crate) available: bool,
    pub(crate) backend: Arc<Backend>,
}

impl Remote {
    /// The path below which it serves everything.
    pub(crate) fn root(&self) -> String {
        if self.name == LEGACY { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) }
    }

    /// Whether two are of the same object in the same state, but for its status.
    pub(crate) fn is_same(&self, other: &Remote) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend)
    }
}

/// Makes remotes of objects, and remembers the backends that are still in use.
pub(crate) struct Compiler {
    shown: Option<Credential>,
    known: Mutex<HashMap<String, (Value, Weak<Backend>)>>,
}

impl Compiler {
    /// With what the server shows to those it speaks to.
    pub(crate) fn new(shown: Option<Credential>) -> Compiler {
        Compiler { shown, known: Mutex::default() }
    }

    /// The remote of an object; none if the object is served by this server itself.
    pub(crate) fn compile(&self, object: &Value) -> Option<Remote> {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        if !spec["service"].is_object() {
            return None;
        }
        let (name, uid) = (text(metadata, "name"), text(metadata, "uid"));
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        Some(Remote {
            backend: self.backend(&uid, spec),
            group: text(spec, "group"),
            version: text(spec, "version"),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or_default(),
            version_priority: spec["versionPriority"].as_i64().unwrap_or_default(),
            available: conditions.any(|condition| condition["type"] == "Available" && condition["status"] == "True"),
            name,
            uid,
        })
    }

    fn backend(&self, uid: &str, spec: &Value) -> Arc<Backend> {
        let mut known = self.known.lock();
        known.retain(|_, (_, backend)| backend.strong_count() > 0);
        if let Some((same, backend)) = known.get(uid)
            && same == spec
            && let Some(backend) = backend.upgrade()
        {
            return backend;
        }
        let service = &spec["service"];
        let text = |field: &str| service[field].as_str().unwrap_or_default();
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(PORT);
        let insecure = spec["insecureSkipTLSVerify"].as_bool().unwrap_or_default();
        let bundle = decoded(spec["caBundle"].as_str().unwrap_or_default());
        let backend = Arc::new(Backend::new(text("namespace"), text("name"), port, insecure, &bundle, self.shown.as_ref()));
        known.insert(uid.to_owned(), (spec.clone(), Arc::downgrade(&backend)));
        backend
    }
}

fn decoded(base64: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default()
}
