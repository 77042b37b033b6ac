//! Objects in a map, for tests.

use crate::{Attributes, Objects, User};
use machinery::Value;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Default)]
pub(crate) struct Memory {
    map: Mutex<BTreeMap<String, Arc<Value>>>,
    version: Mutex<u64>,
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
        *self.version.lock() += 1;
    }

    pub(crate) fn remove(&self, key: &str) {
        self.map.lock().remove(key);
        *self.version.lock() += 1;
    }
}

impl Objects for Memory {
    fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.map.lock().get(key).cloned()
    }

    fn list(&self, prefix: &str) -> Vec<Arc<Value>> {
        self.map.lock().iter().filter(|(k, _)| k.starts_with(prefix)).map(|(_, v)| Arc::clone(v)).collect()
    }

    fn version(&self, _prefixes: &[&str]) -> u64 {
        *self.version.lock()
    }
}

pub(crate) fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() }
}

pub(crate) fn ask<'a>(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes { user, verb, group, version: "v1", resource, subresource, namespace, name, path: "", is_resource: true }
}
