//! An informer's memory: objects by key, indices, listeners.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Delta;
use crate::object::{Object, ObjectKey};

type Values<K> = fn(&K) -> Vec<String>;

/// The objects that have a value, by that value.
struct Index<K> {
    values: Values<K>,
    keys: HashMap<String, BTreeSet<ObjectKey>>,
}

pub(super) struct Cache<K> {
    objects: BTreeMap<String, BTreeMap<String, Arc<K>>>,
    indices: HashMap<&'static str, Index<K>>,
    listeners: Vec<mpsc::UnboundedSender<Delta<K>>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), indices: HashMap::new(), listeners: Vec::new() }
    }
}

impl<K: Object> Cache<K> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.get(namespace)?.get(name).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        self.objects.values().flat_map(BTreeMap::values).cloned().collect()
    }

    pub(super) fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects.get(namespace).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    pub(super) fn add_index(&mut self, name: &'static str, values: Values<K>) {
        if self.indices.contains_key(name) {
            return;
        }
        let mut index = Index { values, keys: HashMap::new() };
        for object in self.objects.values().flat_map(BTreeMap::values) {
            index.insert(object);
        }
        self.indices.insert(name, index);
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let keys = self.indices.get(name).and_then(|i| i.keys.get(value));
        keys.into_iter().flatten().filter_map(|k| self.get(&k.namespace, &k.name)).collect()
    }

    pub(super) fn subscribe(&mut self) -> mpsc::UnboundedReceiver<Delta<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for object in self.list() {
            // The receiver is at hand: this cannot fail.
            let _ = sender.send(Delta::Added(object));
        }
        self.listeners.push(sender);
        receiver
    }

    /// Takes in an object's state. The same revision again is not a change.
    ///
    /// Who manages which field is left out: it is often the larger half of an object, nobody who reads from memory asks for
    /// it, and an update without it leaves it as it is.
    pub(super) fn upsert(&mut self, mut object: K) {
        object.meta_mut().managed_fields = None;
        let old = self.get(object.namespace(), object.name());
        if let Some(old) = &old
            && !old.resource_version().is_empty()
            && old.resource_version() == object.resource_version()
        {
            return;
        }
        let new = Arc::new(object);
        let names = self.objects.entry(new.namespace().to_owned()).or_default();
        names.insert(new.name().to_owned(), new.clone());
        for index in self.indices.values_mut() {
            index.update(old.as_deref(), &new);
        }
        match old {
            // A new object of the same name is a deletion and an addition, however fast it went.
            Some(old) if old.uid() != new.uid() => {
                self.tell(&Delta::Deleted(old));
                self.tell(&Delta::Added(new));
            }
            Some(old) => self.tell(&Delta::Updated { old, new }),
            None => self.tell(&Delta::Added(new)),
        }
    }

    /// Forgets an object; listeners get `last` if it is known, else the state in memory.
    pub(super) fn remove(&mut self, key: &ObjectKey, last: Option<K>) {
        let Some(names) = self.objects.get_mut(&key.namespace) else { return };
        let Some(old) = names.remove(&key.name) else { return };
        if names.is_empty() {
            self.objects.remove(&key.namespace);
        }
        for index in self.indices.values_mut() {
            index.remove(&old);
        }
        let last = last.map_or(old, Arc::new);
        self.tell(&Delta::Deleted(last));
    }

    /// Takes in a full list: what is not in it is gone.
    pub(super) fn replace(&mut self, objects: Vec<K>) {
        let present: BTreeSet<ObjectKey> = objects.iter().map(K::key).collect();
        let gone: Vec<ObjectKey> = self.list().iter().map(|o| o.key()).filter(|k| !present.contains(k)).collect();
        for key in gone {
            self.remove(&key, None);
        }
        for object in objects {
            self.upsert(object);
        }
    }

    fn tell(&mut self, delta: &Delta<K>) {
        self.listeners.retain(|l| l.send(delta.clone()).is_ok());
    }
}

impl<K: Object> Index<K> {
    /// Takes in an object's next state: most changes change no indexed value, and all readers wait meanwhile.
    fn update(&mut self, old: Option<&K>, new: &K) {
        match old {
            Some(old) if (self.values)(old) == (self.values)(new) => {}
            Some(old) => {
                self.remove(old);
                self.insert(new);
            }
            None => self.insert(new),
        }
    }

    fn insert(&mut self, object: &K) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(object.key());
        }
    }

    fn remove(&mut self, object: &K) {
        let key = object.key();
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}
