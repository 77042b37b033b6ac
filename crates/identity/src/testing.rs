//! Objects in a map, for tests.

use crate::{Attributes, Changes, Objects, Seen, User};
use machinery::Value;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

#[derive(Default)]
pub(crate) struct Memory {
    map: Mutex<BTreeMap<String, Arc<Value>>>,
    log: Mutex<Vec<Arc<str>>>,
    /// How many objects were given out as changes.
    pub(crate) given: AtomicUsize,
    /// How many objects on nodes were looked into.
    pub(crate) decoded: AtomicUsize,
}

impl Memory {
    pub(crate) fn of(objects: impl IntoIterator<Item = (&'static str, Value)>) -> Arc<Memory> {
        let memory = Memory::default();
        for (key, value) in objects {
            memory.put(key, value);
        }
        Arc::new(memory)
    }

    pub(crate) fn put(&self, key: &str, value: Value) {
        self.map.lock().insert(key.to_owned(), Arc::new(value));
        self.log.lock().push(key.into());
    }

    pub(crate) fn remove(&self, key: &str) {
        self.map.lock().remove(key);
        self.log.lock().push(key.into());
    }
}

impl Objects for Memory {
    fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.map.lock().get(key).cloned()
    }

    fn changes(&self, prefix: &str, since: Option<u64>) -> Changes {
        let log = self.log.lock();
        let map = self.map.lock();
        let objects: Vec<_> = match since {
            None => map.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.as_str().into(), Some(Arc::clone(v)))).collect(),
            Some(since) => log[since as usize..].iter().filter(|k| k.starts_with(prefix)).map(|k| (Arc::clone(k), map.get(&**k).cloned())).collect(),
        };
        self.given.fetch_add(objects.len(), Ordering::Relaxed);
        Changes { mark: log.len() as u64, whole: since.is_none(), objects }
    }

    fn on_node(&self, prefix: &str, node: &str, visit: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>) {
        // Taken out first: a visitor may ask for other objects.
        let found: Vec<(Arc<str>, Arc<Value>)> = {
            let map = self.map.lock();
            let on = map.iter().filter(|(k, v)| k.starts_with(prefix) && v["spec"]["nodeName"] == node);
            on.map(|(k, v)| (k.as_str().into(), Arc::clone(v))).collect()
        };
        for (key, value) in &found {
            let look = || {
                self.decoded.fetch_add(1, Ordering::Relaxed);
                Arc::clone(value)
            };
            let revision = Arc::as_ptr(value) as usize as u64;
            if visit(Seen { key, revision, value: &look }).is_break() {
                return;
            }
        }
    }

    fn version(&self, _prefixes: &[&str]) -> u64 {
        self.log.lock().len() as u64
    }
}

pub(crate) fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() }
}

pub(crate) fn ask<'a>(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes { user, verb, group, version: "v1", resource, subresource, namespace, name, path: "", is_resource: true, fields: None }
}
